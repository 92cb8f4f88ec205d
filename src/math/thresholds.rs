//! Thresholds of early exits, set together: least mean cost within a loss.

/// What held-back samples say of a network with exits.
#[derive(Debug, Clone)]
pub struct ExitTrial {
    /// By exit, then by sample.
    pub confidence: Vec<Vec<f32>>,
    /// By exit and last of the whole network, then by sample: whether the answer is right.
    pub right: Vec<Vec<bool>>,
    /// By exit and last of the whole network: what it costs to get there.
    pub cost: Vec<f64>,
    /// By exit: what it costs to ask it, for whoever gets there or further.
    pub asking: Vec<f64>,
}

/// What comes of thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitStatistics {
    /// Share of the samples that leave at each exit, and last at the end.
    pub shares: Vec<f64>,
    /// Share that is answered right.
    pub right: f64,
    /// Mean cost.
    pub cost: f64,
}

/// Prices of a wrong answer that are tried, in parts of the cost of the whole network: from hardly any to prohibitive.
const PRICES: usize = 32;
const CHEAPEST: f64 = 1e-2;
const DEAREST: f64 = 1e4;
/// The loss that is seen of a few samples may be luck: so many of its standard deviations are left free, which one time in
/// twenty are too few.
const MARGIN: f64 = 1.645;
/// Rounds over the exits at one price.
const ROUNDS: usize = 8;

impl ExitTrial {
    /// What comes of thresholds, by exit: a sample leaves at the first exit of which its confidence exceeds the threshold.
    pub fn course(&self, thresholds: &[f32]) -> ExitStatistics {
        let ends = self.cost.len();
        let n = self.right[ends - 1].len();
        let mut counts = vec![0usize; ends];
        let mut right = 0;
        for i in 0..n {
            let end = (0..ends - 1).find(|&e| self.confidence[e][i] > thresholds[e]).unwrap_or(ends - 1);
            counts[end] += 1;
            right += usize::from(self.right[end][i]);
        }
        let share = |count: usize| count as f64 / n.max(1) as f64;
        let cost = counts.iter().enumerate().map(|(e, &c)| share(c) * self.through(e)).sum();
        ExitStatistics { shares: counts.into_iter().map(share).collect(), right: share(right), cost }
    }

    /// What it costs to be through at an exit, or at the end.
    fn through(&self, end: usize) -> f64 {
        self.cost[end] + self.asking.iter().take(end + 1).sum::<f64>()
    }

    /// The same trial of a network with only these exits.
    pub fn only(&self, exits: &[usize]) -> ExitTrial {
        let pick = |of: &Vec<Vec<bool>>| exits.iter().map(|&e| of[e].clone()).chain(of.last().cloned()).collect();
        ExitTrial {
            confidence: exits.iter().map(|&e| self.confidence[e].clone()).collect(),
            right: pick(&self.right),
            cost: exits.iter().map(|&e| self.cost[e]).chain(self.cost.last().copied()).collect(),
            asking: exits.iter().map(|&e| self.asking[e]).collect(),
        }
    }

    /// The thresholds of least mean cost whose answers are right on at most `drop` fewer (a share) than the whole network's,
    /// of samples like these, with a margin for their being few; infinite for an exit that does not pay. Of one exit they are
    /// the best there are. Of several, the best at many prices of a wrong answer, each exit in turn until none moves, and
    /// then with what is left of the loss spent.
    pub fn thresholds(&self, drop: f64) -> Vec<f32> {
        let never = vec![f32::INFINITY; self.confidence.len()];
        let whole = self.course(&never);
        let allowed = drop * self.right[never.len()].len() as f64;
        let orders: Vec<Vec<usize>> = self.confidence.iter().map(|c| descending(c)).collect();
        let mut best = (whole.cost, never.clone());
        for step in 0..=PRICES {
            let price = CHEAPEST * (DEAREST / CHEAPEST).powf(step as f64 / PRICES as f64) * whole.cost;
            let mut at = never.clone();
            self.settle(&mut at, &orders, price);
            let (lost, moved) = self.damage(&at);
            if !bearable(lost, moved, allowed) {
                continue;
            }
            self.spend(&mut at, &orders, allowed);
            let cost = self.course(&at).cost;
            if cost < best.0 {
                best = (cost, at);
            }
        }
        best.1
    }

    /// Sets one threshold after the other to the best at a price of a wrong answer, until none moves.
    fn settle(&self, at: &mut [f32], orders: &[Vec<usize>], price: f64) {
        for _ in 0..ROUNDS {
            let before = at.to_vec();
            for e in 0..at.len() {
                let cuts = self.cuts(e, &orders[e], at);
                at[e] = most(&cuts, |c| Some(c.saved - price * c.lost)).threshold;
            }
            if *at == before[..] {
                break;
            }
        }
    }

    /// Right answers lost, on balance, and samples whose answer became right or wrong.
    fn damage(&self, at: &[f32]) -> (f64, f64) {
        let last = self.cost.len() - 1;
        let ends = |i: usize| (0..last).find(|&e| self.confidence[e][i] > at[e]).unwrap_or(last);
        let all = (0..self.right[last].len()).map(|i| self.change(ends(i), last, i));
        all.fold((0.0, 0.0), |(lost, moved), (l, m)| (lost + l, moved + m))
    }

    /// What becomes of the answer to a sample that leaves at one end instead of another: right ones lost, and whether the
    /// difference from the whole network's is one.
    fn change(&self, end: usize, instead: usize, i: usize) -> (f64, f64) {
        let right = |e: usize| f64::from(u8::from(self.right[e][i]));
        let whole = right(self.cost.len() - 1);
        (right(instead) - right(end), (whole - right(end)).abs() - (whole - right(instead)).abs())
    }

    /// Sets the one threshold that saves most of what is left of the loss, and again, until none saves more.
    fn spend(&self, at: &mut [f32], orders: &[Vec<usize>], allowed: f64) {
        for _ in 0..ROUNDS * at.len() {
            let (lost, moved) = self.damage(at);
            let moves = (0..at.len()).filter_map(|e| {
                let cuts = self.cuts(e, &orders[e], at);
                let now = cuts.iter().rfind(|c| c.threshold >= at[e]).copied().unwrap_or(cuts[0]);
                let next = most(&cuts, |c| {
                    bearable(lost + c.lost - now.lost, moved + c.moved - now.moved, allowed).then_some(c.saved)
                });
                (next.saved > now.saved).then_some((next.saved - now.saved, e, next.threshold))
            });
            let Some((_, e, threshold)) = moves.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) else { break };
            at[e] = threshold;
        }
    }

    /// Every threshold that one exit can have, from the highest, with those of the others as they are.
    fn cuts(&self, exit: usize, order: &[usize], others: &[f32]) -> Vec<ThresholdCut> {
        let ends = self.cost.len();
        let leaves = |e: usize, i: usize| self.confidence[e][i] > others[e];
        let here = order.iter().copied().filter(|&i| !(0..exit).any(|e| leaves(e, i)));
        let here = here.map(|i| {
            let later = (exit + 1..ends - 1).find(|&e| leaves(e, i)).unwrap_or(ends - 1);
            (self.confidence[exit][i], self.through(later) - self.through(exit), self.change(exit, later, i))
        });
        let here: Vec<(f32, f64, (f64, f64))> = here.collect();
        let mut cut = ThresholdCut { threshold: f32::INFINITY, saved: 0.0, lost: 0.0, moved: 0.0 };
        let mut cuts = vec![cut];
        for (i, &(confidence, saved, (lost, moved))) in here.iter().enumerate() {
            (cut.saved, cut.lost, cut.moved) = (cut.saved + saved, cut.lost + lost, cut.moved + moved);
            let least = (confidence - (1.0 - confidence).max(1e-3)).max(0.0);
            let next = here.get(i + 1).map_or(least, |n| n.0);
            cut.threshold = confidence.midpoint(next);
            // Equal confidences leave together.
            if next <= cut.threshold && cut.threshold < confidence {
                cuts.push(cut);
            }
        }
        cuts
    }
}

/// A threshold of one exit, and what comes of it: cost saved and right answers lost, summed over the samples.
#[derive(Debug, Clone, Copy)]
struct ThresholdCut {
    threshold: f32,
    saved: f64,
    lost: f64,
    moved: f64,
}

/// Whether a loss of right answers, by that many answers that became right or wrong, is one that more samples would bear out
/// to be within what is allowed.
fn bearable(lost: f64, moved: f64, allowed: f64) -> bool {
    lost + MARGIN * moved.max(0.0).sqrt() <= allowed + 1e-6
}

/// Samples from the most confident to the least.
fn descending(confidence: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..confidence.len()).collect();
    order.sort_by(|&a, &b| confidence[b].total_cmp(&confidence[a]).then(a.cmp(&b)));
    order
}

/// The first cut of which a figure is greatest; the highest threshold if there is none.
fn most(cuts: &[ThresholdCut], figure: impl Fn(&ThresholdCut) -> Option<f64>) -> ThresholdCut {
    let mut best = (f64::NEG_INFINITY, cuts[0]);
    for cut in cuts {
        if let Some(figure) = figure(cut).filter(|f| *f > best.0) {
            best = (figure, *cut);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> ExitTrial {
        ExitTrial {
            confidence: vec![vec![0.9, 0.8, 0.7, 0.6], vec![0.5, 0.6, 0.7, 0.8]],
            right: vec![vec![true, true, false, false], vec![true, true, true, false], vec![true; 4]],
            cost: vec![1.0, 2.0, 4.0],
            asking: vec![0.0; 2],
        }
    }

    #[test]
    fn no_loss_lets_out_what_is_right() {
        let t = trial();
        let at = t.thresholds(0.0);
        let course = t.course(&at);
        assert_eq!(course.right, 1.0);
        // The first two leave at once; the third only after the fourth, which is wrong there.
        assert_eq!(course.shares, [0.5, 0.0, 0.5]);
        assert!(at[0] > 0.7 && at[0] < 0.8 && at[1] == f32::INFINITY);
    }

    /// One answer that becomes wrong is a loss of 1, with a margin of 1.645.
    #[test]
    fn a_loss_buys_cost() {
        let t = trial();
        assert_eq!(t.course(&t.thresholds(0.6)).right, 1.0);
        let course = t.course(&t.thresholds(0.67));
        assert!((course.right - 0.75).abs() < 1e-12);
        assert_eq!(course.cost, (1.0 + 1.0 + 2.0 + 2.0) / 4.0);
        assert_eq!(t.course(&t.thresholds(2.0)).cost, 1.0);
        let dear = ExitTrial { asking: vec![0.0, 3.0], ..trial() };
        assert_eq!(dear.course(&dear.thresholds(0.67)).shares[1], 0.0);
    }

    #[test]
    fn exits_that_are_never_right_do_not_pay() {
        let t = ExitTrial { right: vec![vec![false; 4], vec![false; 4], vec![true; 4]], ..trial() };
        assert_eq!(t.thresholds(0.0), [f32::INFINITY; 2]);
    }

    #[test]
    fn equal_confidences_leave_together() {
        let t = ExitTrial {
            confidence: vec![vec![0.5; 4]],
            right: vec![vec![true, true, true, false], vec![true; 4]],
            cost: vec![1.0, 4.0],
            asking: vec![0.0],
        };
        assert_eq!(t.thresholds(0.0), [f32::INFINITY]);
        let at = t.thresholds(0.67);
        assert_eq!(t.course(&at).shares, [1.0, 0.0]);
    }
}
