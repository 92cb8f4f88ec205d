//! How far a student is from its teacher, channel by channel, against how much the teacher's answers vary.

/// A spread below this share of the size of the numbers is none.
pub(super) const STILL: f64 = 1e-4;
/// Of a channel of numbers from 0 to 1, the least spread that an error is a share of, besides the usual one of such channels,
/// which have one unit: a class that no sample shows has probabilities near 0, and a large share of nothing is no error.
const LEAST_OF_SHARES: f64 = 1e-3;
/// Of a channel that is always 0, the same as a share of the usual spread of the others.
const LEAST_OF_ZEROS: f64 = 1e-3;

/// Numbers at least so far from 0, where no others are beyond the second of these, are what masks fill in (-1e4, -1e9): they
/// are no part of how much an answer varies.
const FILLED: f64 = 9e3;
const UNFILLED: f64 = 1e3;

/// Sums over the numbers of one channel that are finite on both sides.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Channel {
    count: f64,
    teacher: ChannelMoments,
    student: ChannelMoments,
    /// Σ (student − teacher)²
    error: f64,
    low: f64,
    high: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct ChannelMoments {
    mean: f64,
    /// Σ (x − mean)²
    spread: f64,
}

impl ChannelMoments {
    /// With a number, the `count`-th.
    fn add(&mut self, x: f64, count: f64) {
        let off = x - self.mean;
        self.mean += off / count;
        self.spread += off * (x - self.mean);
    }

    /// Of this many numbers, with those of others.
    fn merge(&mut self, count: f64, other: &ChannelMoments, others: f64) {
        let off = other.mean - self.mean;
        self.mean += off * others / (count + others);
        self.spread += other.spread + off * off * count * others / (count + others);
    }
}

impl Channel {
    fn add(&mut self, t: f64, s: f64) {
        self.low = if self.count == 0.0 { t } else { self.low.min(t) };
        self.high = if self.count == 0.0 { t } else { self.high.max(t) };
        self.count += 1.0;
        self.teacher.add(t, self.count);
        self.student.add(s, self.count);
        self.error += (s - t) * (s - t);
    }

    fn merge(&mut self, other: &Channel) {
        if other.count == 0.0 {
            self.error += other.error;
            return;
        }
        if self.count == 0.0 {
            *self = Channel { error: self.error + other.error, ..*other };
            return;
        }
        self.teacher.merge(self.count, &other.teacher, other.count);
        self.student.merge(self.count, &other.student, other.count);
        self.error += other.error;
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.count += other.count;
    }

    /// Σ teacher²
    fn square(&self) -> f64 {
        self.teacher.spread + self.count * self.teacher.mean * self.teacher.mean
    }

    /// The teacher's mean square distance from its mean.
    fn variance(&self) -> f64 {
        self.teacher.spread / self.count.max(1.0)
    }

    /// Σ (student − the teacher's mean)²
    fn student_spread(&self) -> f64 {
        let off = self.student.mean - self.teacher.mean;
        self.student.spread + self.count * off * off
    }

    fn moves(&self) -> bool {
        self.teacher.spread > STILL * STILL * self.square()
    }

    /// Whether its numbers are from 0 to 1.
    fn shares(&self) -> bool {
        self.low >= 0.0 && self.high <= 1.0
    }

    /// Mean square error as a share of the variance; the variance is taken to be at least [`Channel::least`].
    fn lost(&self, of_shares: f64, of_zeros: f64) -> f64 {
        let own = if self.moves() { self.variance() } else { self.mean_square() };
        self.off(own.max(self.least(of_shares, of_zeros)))
    }

    /// Mean square error as a share of something.
    fn off(&self, against: f64) -> f64 {
        match self.error / self.count.max(1.0) {
            0.0 => 0.0,
            error => error / against,
        }
    }

    fn mean_square(&self) -> f64 {
        self.square() / self.count.max(1.0)
    }

    /// The least that an error is a share of: of a channel of numbers from 0 to 1 `of_shares`, of one that does not move
    /// `of_zeros`. Another one is measured by what is its own, however small.
    fn least(&self, of_shares: f64, of_zeros: f64) -> f64 {
        let of_shares = if self.shares() { of_shares } else { 0.0 };
        if self.moves() { of_shares } else { of_shares.max(of_zeros) }
    }
}

/// All channels of an output.
#[derive(Debug, Clone, Default)]
pub(super) struct ChannelTallies {
    all: Vec<Channel>,
    /// Without what masks filled in on both sides, if there are masks.
    unfilled: Vec<Channel>,
    /// Whether the teacher has numbers that may be filled in, and whether it has ones between these and the others.
    filled: bool,
    between: bool,
}

impl ChannelTallies {
    pub fn new(count: usize) -> ChannelTallies {
        ChannelTallies {
            all: vec![Channel::default(); count],
            unfilled: vec![Channel::default(); count],
            ..ChannelTallies::default()
        }
    }

    /// Adds a pair of finite numbers.
    pub fn add(&mut self, channel: usize, teacher: f64, student: f64) {
        let (Some(all), Some(unfilled)) = (self.all.get_mut(channel), self.unfilled.get_mut(channel)) else { return };
        all.add(teacher, student);
        match teacher.abs() {
            far if far < FILLED => {
                self.between |= far > UNFILLED;
                unfilled.add(teacher, student);
            }
            _ => {
                self.filled = true;
                if student.abs() < FILLED || teacher.signum() != student.signum() {
                    unfilled.error += (student - teacher).powi(2);
                }
            }
        }
    }

    pub fn merge(&mut self, other: &ChannelTallies) {
        for (mine, others) in [(&mut self.all, &other.all), (&mut self.unfilled, &other.unfilled)] {
            mine.resize(mine.len().max(others.len()), Channel::default());
            mine.iter_mut().zip(others).for_each(|(a, b)| a.merge(b));
        }
        self.filled |= other.filled;
        self.between |= other.between;
    }

    /// The channels that an answer is judged by.
    fn judged(&self) -> &[Channel] {
        let masked = self.filled && !self.between && self.unfilled.iter().any(|c| c.count > 0.0);
        if masked { &self.unfilled } else { &self.all }
    }

    fn sum(&self, of: impl Fn(&Channel) -> f64) -> f64 {
        self.judged().iter().map(of).sum()
    }

    /// Whether the teacher's numbers vary within channels.
    pub fn move_at_all(&self) -> bool {
        self.sum(|c| c.teacher.spread) > STILL * STILL * self.sum(Channel::square)
    }

    /// The channel that is farthest off, with its mean square error as a share of its variance.
    pub fn worst(&self) -> Option<(usize, f64)> {
        let (of_shares, of_zeros) = self.usual(Channel::variance, Channel::moves);
        self.farthest(|c| c.lost(of_shares, of_zeros))
    }

    /// Of what channels have, the least for those of numbers from 0 to 1, and for those that do not move: see
    /// [`Channel::least`].
    fn usual(&self, of: impl Fn(&Channel) -> f64, counts: impl Fn(&Channel) -> bool) -> (f64, f64) {
        let mut all: Vec<f64> = self.judged().iter().filter(|c| counts(c)).map(&of).collect();
        all.sort_by(f64::total_cmp);
        let of_zeros = all.get(all.len() / 2).map_or(0.0, |v| v * LEAST_OF_ZEROS * LEAST_OF_ZEROS);
        let shares: Vec<f64> = self.judged().iter().filter(|c| c.count > 0.0 && c.shares()).map(of).collect();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        (mean.max(LEAST_OF_SHARES * LEAST_OF_SHARES), of_zeros)
    }

    /// The first of the channels of which something is most.
    fn farthest(&self, of: impl Fn(&Channel) -> f64) -> Option<(usize, f64)> {
        let seen = self.judged().iter().enumerate().filter(|(_, c)| c.count > 0.0);
        seen.map(|(i, c)| (i, of(c))).reduce(|worst, next| if worst.1 >= next.1 { worst } else { next })
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The mean square error of all channels together, as a share of their variance. `None` if the teacher's numbers do not
    /// vary.
    pub fn lost(&self) -> Option<f64> {
        self.move_at_all().then(|| self.sum(|c| c.error) / self.sum(|c| c.teacher.spread))
    }

    /// ‖student − teacher‖² / ‖teacher‖²
    pub fn relative(&self) -> f64 {
        match self.sum(|c| c.error) {
            0.0 => 0.0,
            error => error / self.sum(Channel::square),
        }
    }

    /// The channel that is farthest off for its length, with ‖student − teacher‖² / ‖teacher‖² of it.
    pub fn worst_relative(&self) -> Option<(usize, f64)> {
        let (of_shares, of_zeros) = self.usual(Channel::mean_square, |c| c.square() > 0.0);
        self.farthest(|c| c.off(c.mean_square().max(c.least(of_shares, of_zeros))))
    }

    /// The cosine between both once the teacher's mean answer is taken from them. `None` if the teacher's numbers do not
    /// vary.
    pub fn cosine(&self) -> Option<f64> {
        let (teacher, student) = (self.sum(|c| c.teacher.spread), self.sum(Channel::student_spread));
        let dot = (teacher + student - self.sum(|c| c.error)) / 2.0;
        let cosine = if student > 0.0 { (dot / teacher.sqrt() / student.sqrt()).clamp(-1.0, 1.0) } else { 0.0 };
        self.move_at_all().then_some(cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(pairs: &[&[(f64, f64)]]) -> ChannelTallies {
        let mut all = ChannelTallies::new(pairs.len());
        for (c, pairs) in pairs.iter().enumerate() {
            pairs.iter().for_each(|&(t, s)| all.add(c, t, s));
        }
        all
    }

    #[test]
    fn coordinates_do_not_hide_scores() {
        let boxes: &[(f64, f64)] = &[(0.0, 0.0), (600.0, 600.0), (300.0, 300.0), (100.0, 100.0)];
        let gone: &[(f64, f64)] = &[(0.1, 0.0), (0.9, 0.0), (0.4, 0.0), (0.7, 0.0)];
        let (channel, lost) = channels(&[boxes, gone]).worst().unwrap();
        assert!(channel == 1 && lost > 1.0, "{channel} {lost}");
        assert!(channels(&[boxes, gone]).lost().unwrap() < 1e-4);
        let (channel, lost) = channels(&[boxes, gone]).worst_relative().unwrap();
        assert!(channel == 1 && (lost - 1.0).abs() < 1e-12, "{channel} {lost}");
        assert!(channels(&[boxes, gone]).relative() < 1e-4);
        let pixels = boxes.iter().map(|&(t, s)| (1000.0 * t, 1000.0 * s)).collect::<Vec<_>>();
        let small = gone.iter().map(|&(t, _)| (0.01 * t, -0.01 * t)).collect::<Vec<_>>();
        for all in [[&pixels, gone], [&pixels, &small], [boxes, &small]].map(|pair| channels(&pair)) {
            assert!(all.worst().unwrap().0 == 1 && all.worst().unwrap().1 > 1.0, "{:?}", all.worst());
            assert!(all.worst_relative().unwrap().1 > 0.99, "{:?}", all.worst_relative());
        }
        let still: &[(f64, f64)] = &[(0.0, 0.0), (0.0, 1e-9), (0.0, 0.0), (0.0, 0.0)];
        assert!(channels(&[boxes, still]).worst_relative().unwrap().1 < 1e-6);
    }

    #[test]
    fn what_masks_fill_in_hides_nothing() {
        let logits: &[(f64, f64)] = &[(0.5, -1.0), (-1.0, 2.0), (2.0, 0.3), (-1e4, -1e4), (-1e4 - 3.0, -1e4 + 2.0)];
        assert!(channels(&[logits]).worst().unwrap().1 > 0.5);
        // What the teacher masks and the student does not is an error.
        let unmasked: &[(f64, f64)] = &[(0.5, 0.5), (-1.0, -1.0), (-1e9, 3.0)];
        assert!(channels(&[unmasked]).worst().unwrap().1 > 1.0);
        // Large numbers without a gap are no masks.
        let large: &[(f64, f64)] = &[(-2e4, -2e4), (5e3, 5e3), (10.0, 11.0), (2e4, 2e4)];
        assert!(channels(&[large]).worst().unwrap().1 < 1e-6);
    }

    #[test]
    fn errors_of_what_is_not_there_are_small() {
        let seen: &[(f64, f64)] = &[(0.1, 0.1), (0.9, 0.9)];
        let unseen: &[(f64, f64)] = &[(1e-6, 2e-5), (3e-6, 1e-6)];
        assert!(channels(&[seen, unseen]).worst().unwrap().1 < 1e-5);
        let zeros: &[(f64, f64)] = &[(0.0, 0.0), (0.0, 1e-9)];
        let wide: &[(f64, f64)] = &[(-5.0, -5.0), (5.0, 5.0)];
        assert!(channels(&[wide, zeros]).worst().unwrap().1 < 1e-6);
        let wrong: &[(f64, f64)] = &[(0.0, 2.0), (0.0, -1.0)];
        assert!(channels(&[wide, wrong]).worst().unwrap().1 > 1.0);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let pairs = [(1.0, 1.5), (4.0, 3.0), (-2.0, 0.0), (8.0, 8.5), (0.5, 0.5)];
        let whole = channels(&[&pairs]);
        let mut parts = channels(&[&pairs[..2]]);
        parts.merge(&channels(&[&pairs[2..]]));
        assert!((whole.lost().unwrap() - parts.lost().unwrap()).abs() < 1e-12);
        assert!((whole.cosine().unwrap() - parts.cosine().unwrap()).abs() < 1e-12);
    }

    #[test]
    fn an_answer_that_is_always_the_same_is_like_no_other() {
        // The plain cosine of (10,9) with (10,11) and with (10,10) is above 0.99.
        let all = channels(&[&[(10.0, 10.0), (10.0, 10.0)], &[(9.0, 10.0), (11.0, 10.0)]]);
        assert_eq!(all.cosine(), Some(0.0));
    }
}
