//! Teacher and student on one output, summed over samples.

use super::OutputDiff;
use super::channels::{ChannelTallies, STILL};
use super::compare::{SampleOutput, argmax};
use super::reading::{OutputKind, Reading};
use super::verdict::{Metric, OutputVerdict};
use crate::data::Dataset;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// From this share of answers that are one and the same, agreement alone shows too little: a student that always gives it
/// would pass.
const ONE_SIDED: f64 = 0.9;

/// From this share of lost variance, numbers that may be no scores of classes count as lost, though they name the same ones.
const DESTROYED: f64 = 0.5;

/// How an output is judged.
#[derive(Debug, Clone)]
pub(super) struct OutputRule {
    pub reading: Reading,
    pub metric: Metric,
    /// The teacher's answer to the first sample: whether others differ from it.
    pub first: SampleOutput,
}

/// Sums over the samples of one output. Numbers that are not finite are left out.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    samples: usize,
    /// Pairs of numbers that count: finite ones, and equal ones.
    pairs: u64,
    /// Pairs that are equal and not finite.
    equal_strange: u64,
    pub teacher_non_finite: usize,
    pub student_non_finite: usize,
    /// Samples on which the teacher's answer holds NaN, or nothing that is finite.
    pub teacher_broken: usize,
    /// Samples on which the teacher's answer is infinite somewhere and the student's is not the same there.
    pub other_infinities: usize,
    /// Samples on which the two differ in their shape, and the shapes on the first of these.
    pub other_shapes: usize,
    shapes: Option<[Vec<usize>; 2]>,
    pub max: f64,
    sum: f64,
    dot: f64,
    teacher_square: f64,
    student_square: f64,
    /// Σ ‖teacher − the teacher's first answer‖²
    from_first: f64,
    channels: ChannelTallies,
    /// Positions, vectors or decisions, and those on which both name the same class.
    positions: u64,
    same_class: u64,
    /// How often the teacher, and the student, names each class or gives each whole number.
    named: BTreeMap<i64, u64>,
    student_named: BTreeMap<i64, u64>,
    same_sequence: u64,
    /// How often the teacher gives each sequence, by its hash.
    sequences: BTreeMap<u64, u64>,
    /// Sum over vectors.
    cosine: f64,
    equal: u64,
}

impl Tally {
    /// Of one sample. An output that is not judged has no `judged`.
    pub fn of(judged: Option<&OutputRule>, t: &SampleOutput, s: &SampleOutput) -> Tally {
        let mut tally = Tally { samples: 1, ..Tally::default() };
        if t.shape != s.shape && t.values.len() != s.values.len() {
            tally.other_shapes = 1;
            tally.shapes = Some([t.shape.clone(), s.shape.clone()]);
            tally.miss(judged, t);
            return tally;
        }
        tally.compare(t, s);
        if let Some(judged) = judged {
            tally.judge(judged, t, s);
        }
        tally
    }

    fn compare(&mut self, t: &SampleOutput, s: &SampleOutput) {
        let (mut teacher_finite, mut student_finite, mut others) = (true, true, false);
        let mut broken = !t.values.is_empty();
        for (&t, &s) in t.values.iter().zip(&s.values) {
            teacher_finite &= t.is_finite();
            broken &= !t.is_finite();
            if t.is_finite() && s.is_finite() {
                let off = (t - s).abs();
                self.max = self.max.max(off);
                self.sum += off;
                self.dot += t * s;
                self.teacher_square += t * t;
                self.student_square += s * s;
                self.pairs += 1;
            } else if t == s || (t.is_nan() && s.is_nan()) {
                self.pairs += 1;
                self.equal_strange += 1;
            } else if t.is_finite() {
                student_finite = false;
            } else {
                others = true;
            }
        }
        self.teacher_non_finite = usize::from(!teacher_finite);
        self.student_non_finite = usize::from(!student_finite);
        self.teacher_broken = usize::from(broken || t.values.iter().any(|v| v.is_nan()));
        self.other_infinities = usize::from(others);
    }

    fn judge(&mut self, judged: &OutputRule, t: &SampleOutput, s: &SampleOutput) {
        let OutputRule { reading, metric, first } = judged;
        let size = reading.axis.and_then(|a| t.shape.get(a)).copied().unwrap_or(1).max(1);
        let axis = reading.axis.unwrap_or(usize::MAX - 1);
        let inner = t.inner(axis);
        self.channels = ChannelTallies::new(size);
        for (i, (&t, &s)) in t.values.iter().zip(&s.values).enumerate() {
            if t.is_finite() && s.is_finite() {
                self.channels.add(i / inner % size, t, s);
            }
        }
        self.move_from(first, t);
        match metric {
            Metric::Top1 | Metric::Sequence => {
                let [t, s] = [t, s].map(|row| names(reading, axis, row));
                self.positions = t.len() as u64;
                for (t, s) in t.iter().zip(&s) {
                    self.same_class += u64::from(t.is_some() && t == s);
                    t.iter().for_each(|&c| *self.named.entry(c as i64).or_default() += 1);
                    s.iter().for_each(|&c| *self.student_named.entry(c as i64).or_default() += 1);
                }
                let [told, heard] = [collapse(&t), collapse(&s)];
                self.same_sequence = u64::from(s.iter().all(Option::is_some) && told == heard);
                self.sequences.insert(hash(&told), 1);
            }
            Metric::Cosine => {
                for (t, s) in t.lines(axis).zip(s.lines(axis)) {
                    self.positions += 1;
                    self.cosine += cosine(&t, &s);
                }
            }
            Metric::Equal => {
                self.positions = t.values.len() as u64;
                self.equal = t.values.iter().zip(&s.values).filter(|(t, s)| t == s).count() as u64;
                t.values.iter().for_each(|&v| *self.named.entry(v as i64).or_default() += 1);
            }
            Metric::Rmse | Metric::L2 => {}
        }
    }

    /// A sample that the student does not answer in the teacher's shape: it is right nowhere.
    fn miss(&mut self, judged: Option<&OutputRule>, t: &SampleOutput) {
        if let Some(judged) = judged {
            let nothing = SampleOutput { shape: t.shape.clone(), values: vec![0.0; t.values.len()] };
            self.judge(judged, t, &nothing);
            (self.same_class, self.same_sequence, self.cosine, self.equal) = (0, 0, 0.0, 0);
            self.positions = self.positions.max(1);
        }
    }

    fn move_from(&mut self, first: &SampleOutput, t: &SampleOutput) {
        self.from_first = match first.values.len() == t.values.len() {
            true => first.values.iter().zip(&t.values).filter(|(a, b)| a != b).map(|(a, b)| (a - b) * (a - b)).sum(),
            false => f64::INFINITY,
        };
        if self.from_first.is_nan() {
            self.from_first = 0.0;
        }
    }

    /// With the next samples.
    pub fn merge(&mut self, next: &Tally) {
        self.samples += next.samples;
        self.pairs += next.pairs;
        self.equal_strange += next.equal_strange;
        self.teacher_non_finite += next.teacher_non_finite;
        self.student_non_finite += next.student_non_finite;
        self.teacher_broken += next.teacher_broken;
        self.other_infinities += next.other_infinities;
        self.other_shapes += next.other_shapes;
        self.shapes = self.shapes.take().or_else(|| next.shapes.clone());
        self.max = self.max.max(next.max);
        self.sum += next.sum;
        self.dot += next.dot;
        self.teacher_square += next.teacher_square;
        self.student_square += next.student_square;
        self.from_first += next.from_first;
        self.channels.merge(&next.channels);
        self.positions += next.positions;
        self.same_class += next.same_class;
        self.same_sequence += next.same_sequence;
        self.cosine += next.cosine;
        self.equal += next.equal;
        for (all, more) in [(&mut self.named, &next.named), (&mut self.student_named, &next.student_named)] {
            more.iter().for_each(|(&class, n)| *all.entry(class).or_default() += n);
        }
        next.sequences.iter().for_each(|(&told, n)| *self.sequences.entry(told).or_default() += n);
    }

    /// # Errors
    /// If there is nothing to compare: the teacher's answers are not finite, or never of the student's shape.
    pub fn refuse(&self, name: &str, judged: bool, data: &Dataset) -> Result<()> {
        let of = self.samples;
        if let Some([teacher, student]) = self.shapes.as_ref().filter(|_| self.other_shapes == of) {
            return Err(Error::input(format!("teacher and student differ in the shape of output `{name}`"))
                .because(format!("for a sample, the teacher gives {teacher:?} and the student {student:?}")));
        }
        match self.teacher_broken {
            n if n > 0 && judged => Err(Error::input(format!("the teacher's output `{name}` is not finite"))
                .at(data.name())
                .because(format!("on {n} of {of} samples it is NaN, or infinite everywhere"))
                .help("check the teacher, and how the data is normalised")),
            _ => Ok(()),
        }
    }

    /// How far the student's numbers are from the teacher's, and what follows of how the output is judged.
    pub fn finish(&self, judged: Option<&OutputRule>) -> OutputDiff {
        let mut out = OutputDiff {
            teacher_non_finite: self.teacher_non_finite,
            student_non_finite: self.student_non_finite,
            left_out: self.equal_strange,
            other_infinities: self.other_infinities,
            other_shapes: self.other_shapes,
            verdict: judged.map(|j| self.verdict(j)),
            ..OutputDiff::default()
        };
        if self.student_non_finite + self.other_infinities > 0 {
            return OutputDiff { max_abs: f64::INFINITY, mean_abs: f64::INFINITY, cosine: f64::NAN, ..out };
        }
        out.max_abs = self.max;
        out.mean_abs = self.sum / self.pairs.max(1) as f64;
        // Two zero vectors are alike; a zero vector is like no other.
        out.cosine = match (self.teacher_square.sqrt(), self.student_square.sqrt()) {
            _ if self.pairs > 0 && self.pairs == self.equal_strange => f64::NAN,
            (0.0, 0.0) => 1.0,
            (t, s) if t == 0.0 || s == 0.0 => 0.0,
            (t, s) => (self.dot / t / s).clamp(-1.0, 1.0),
        };
        out
    }

    /// The mean square error of all numbers, as a share of the variance of the teacher's; of its square if it does not vary.
    pub fn variance_lost(&self) -> f64 {
        self.channels.lost().unwrap_or_else(|| self.channels.relative())
    }

    /// Whether the teacher's answer depends on the sample.
    fn moves(&self) -> bool {
        match self.samples {
            0 | 1 => self.positions > 1 && self.channels.move_at_all(),
            _ => self.from_first > STILL * STILL * self.teacher_square,
        }
    }

    fn verdict(&self, judged: &OutputRule) -> OutputVerdict {
        let share = |n: u64, of: u64| n as f64 / of.max(1) as f64;
        let most = |counts: &BTreeMap<_, u64>, of| share(counts.values().copied().max().unwrap_or(0), of);
        let (error, lost, channel) = match judged.metric {
            Metric::Top1 => (1.0 - share(self.same_class, self.positions), None, None),
            // Where positions have a class each, sequences that are equal but for repeats show too little.
            Metric::Sequence => {
                let sequences = share(self.same_sequence, self.samples as u64);
                (1.0 - sequences.min(share(self.same_class, self.positions)), None, None)
            }
            Metric::Equal => (1.0 - share(self.equal, self.positions), None, None),
            Metric::Cosine => {
                let mean = self.cosine / self.positions.max(1) as f64;
                (1.0 - self.channels.cosine().map_or(mean, |about_mean| mean.min(about_mean)), None, None)
            }
            // The numbers of a vector are no channels.
            Metric::L2 if judged.reading.kind == OutputKind::Embedding => {
                (self.channels.relative().sqrt(), Some(self.channels.relative()), None)
            }
            Metric::L2 | Metric::Rmse => {
                let l2 = judged.metric == Metric::L2;
                let worst = if l2 { self.channels.worst_relative() } else { self.channels.worst() };
                let (channel, lost) = worst.unwrap_or((0, 0.0));
                (lost.sqrt(), Some(lost), Some(channel).filter(|_| self.channels.count() > 1))
            }
        };
        // What cannot be computed is lost.
        let error = if error.is_nan() { f64::INFINITY } else { error };
        let lost = lost.filter(|lost| !lost.is_nan()).unwrap_or(error);
        let usual = match judged.metric {
            Metric::Top1 | Metric::Equal => most(&self.named, self.positions),
            Metric::Sequence => self.sequences.values().copied().max().map_or(0.0, |n| share(n, self.samples as u64)),
            _ => 0.0,
        };
        let one_sided = usual >= ONE_SIDED;
        let rare_lost = match judged.metric {
            // Whole numbers have no scores behind them: of those that are not the usual one, how many are lost.
            Metric::Equal => Some(error / (1.0 - usual)).filter(|lost| lost.is_finite()),
            _ => self.channels.lost(),
        };
        let guess_lost =
            rare_lost.filter(|&lost| judged.reading.guessed && judged.metric == Metric::Top1 && lost > DESTROYED);
        let constant = self.student_named.len() == 1 && self.named.len() > 1;
        OutputVerdict {
            kind: judged.reading.kind,
            why: judged.reading.why.clone(),
            metric: judged.metric,
            error,
            lost: lost.clamp(0.0, 1.0),
            channel,
            moves: self.moves(),
            by_position: judged.metric == Metric::Top1 && self.positions > self.samples as u64,
            usual: one_sided.then_some(usual),
            rare_lost: rare_lost.filter(|_| one_sided).map(|lost| lost.min(1.0)),
            guess_lost: guess_lost.map(|lost| lost.min(1.0)),
            always: self.student_named.keys().next().copied().filter(|_| constant),
        }
    }
}

/// The class that each position names; `None` where a score is NaN.
fn names(reading: &Reading, axis: usize, row: &SampleOutput) -> Vec<Option<usize>> {
    match reading.threshold {
        Some(threshold) => row.values.iter().map(|v| (!v.is_nan()).then_some(usize::from(*v > threshold))).collect(),
        None => row.lines(axis).map(|line| argmax(&line)).collect(),
    }
}

/// A sequence as CTC reads it: without repeats, and then without class 0, the blank.
fn collapse(names: &[Option<usize>]) -> Vec<Option<usize>> {
    let mut told = names.to_vec();
    told.dedup();
    told.retain(|&name| name != Some(0));
    told
}

fn hash(told: &[Option<usize>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    told.hash(&mut hasher);
    hasher.finish()
}

/// 1 for two zero vectors, 0 for one.
fn cosine(t: &[f64], s: &[f64]) -> f64 {
    let finite = || t.iter().zip(s).filter(|(t, s)| t.is_finite() && s.is_finite());
    let dot: f64 = finite().map(|(t, s)| t * s).sum();
    let (t, s) = (finite().map(|p| p.0 * p.0).sum::<f64>(), finite().map(|p| p.1 * p.1).sum::<f64>());
    match (t, s) {
        (0.0, 0.0) => 1.0,
        _ if t == 0.0 || s == 0.0 => 0.0,
        _ => (dot / t.sqrt() / s.sqrt()).clamp(-1.0, 1.0),
    }
}

/// The metric that goes with what an output is.
pub(super) fn usual_metric(kind: OutputKind, integers: bool) -> Metric {
    match kind {
        _ if integers => Metric::Equal,
        OutputKind::Classes => Metric::Top1,
        OutputKind::Sequence => Metric::Sequence,
        OutputKind::Embedding => Metric::Cosine,
        OutputKind::Map | OutputKind::Value => Metric::Rmse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shape: &[usize], values: &[f64]) -> SampleOutput {
        SampleOutput { shape: shape.to_vec(), values: values.to_vec() }
    }

    /// Judges answers of one shape, a slice a sample.
    fn judge(kind: OutputKind, axis: Option<usize>, shape: &[usize], pairs: &[(&[f64], &[f64])]) -> OutputVerdict {
        let reading =
            Reading { kind, axis, threshold: axis.is_none().then_some(0.5), why: String::new(), guessed: false };
        let first = row(shape, pairs[0].0);
        let judged = OutputRule { reading, metric: usual_metric(kind, false), first };
        let mut all = Tally::default();
        for (t, s) in pairs {
            all.merge(&Tally::of(Some(&judged), &row(shape, t), &row(shape, s)));
        }
        all.finish(Some(&judged)).verdict.unwrap()
    }

    #[test]
    fn sequences_are_equal_after_repeats_and_blanks_are_taken_out() {
        let (a, b, blank) = ([0., 1., 0.], [0., 0., 1.], [1., 0., 0.]);
        let told = [a, a, blank, b].concat();
        let slower = [blank, a, blank, b].concat();
        let other = [a, blank, a, b].concat();
        let v = judge(OutputKind::Sequence, Some(1), &[4, 3], &[(&told, &slower), (&told, &other)]);
        assert_eq!(v.error, 0.5);
    }

    #[test]
    fn classes_of_positions_count_where_sequences_are_equal() {
        let (other, own) = ([1., 0.], [0., 1.]);
        let (first, last) = ([own, other, other].concat(), [other, other, own].concat());
        let v = judge(OutputKind::Sequence, Some(1), &[3, 2], &[(&first, &last)]);
        assert!((v.error - 2.0 / 3.0).abs() < 1e-12, "{v:?}");
    }

    #[test]
    fn a_student_that_always_says_the_usual_does_not_pass_by_it() {
        let (no, yes): (&[f64], &[f64]) = (&[0.1], &[0.9]);
        let mut pairs = vec![(no, no); 99];
        pairs.push((yes, no));
        let v = judge(OutputKind::Classes, None, &[], &pairs);
        assert!((v.error - 0.01).abs() < 1e-12 && v.moves);
        assert!(v.usual == Some(0.99) && v.rare_lost > Some(0.9) && v.always == Some(0), "{v:?}");
    }

    #[test]
    fn numbers_that_seem_to_be_classes_are_judged_as_numbers_where_most_of_them_is_lost() {
        let judge = |guessed, scale: f64| {
            let reading =
                Reading { kind: OutputKind::Classes, axis: Some(0), threshold: None, why: String::new(), guessed };
            let rows = [[1.0, -2.0], [-1.5, 0.5], [0.2, 3.0]].map(|values| row(&[2], &values));
            let judged = OutputRule { reading, metric: Metric::Top1, first: rows[0].clone() };
            let mut all = Tally::default();
            for t in &rows {
                let s = SampleOutput { values: t.values.iter().map(|v| v * scale).collect(), ..t.clone() };
                all.merge(&Tally::of(Some(&judged), t, &s));
            }
            let v = all.finish(Some(&judged)).verdict.unwrap();
            assert_eq!((v.error, v.lost), (0.0, 0.0));
            v.guess_lost
        };
        assert!(judge(true, 0.1) > Some(0.7) && judge(true, 0.8).is_none() && judge(false, 0.1).is_none());
    }

    #[test]
    fn positions_have_a_class_each() {
        let picture = [1., 0., 0., 1., 0., 1., 1., 0.];
        let student = [1., 0., 0., 0., 0., 1., 1., 1.];
        let v = judge(OutputKind::Classes, Some(0), &[2, 2, 2], &[(&picture, &student)]);
        assert!(v.error == 0.25 && v.by_position);
    }

    #[test]
    fn data_that_shows_nothing_is_told() {
        let (x, y): (&[f64], &[f64]) = (&[1.0, 2.0], &[1.0, 2.0 + 1e-7]);
        assert!(!judge(OutputKind::Value, Some(0), &[2], &[(x, x), (y, y)]).moves);
        assert!(judge(OutputKind::Value, Some(0), &[2], &[(x, x), (&[2.0, 1.0], x)]).moves);
        assert!(!judge(OutputKind::Embedding, Some(0), &[2], &[(x, x)]).moves);
    }

    #[test]
    fn infinities_are_left_out_where_both_have_them_and_told_where_not() {
        let (hole, low) = (f64::INFINITY, f64::NEG_INFINITY);
        let tally = |t: &[f64], s: &[f64]| Tally::of(None, &row(&[t.len()], t), &row(&[t.len()], s)).finish(None);
        let d = tally(&[1.0, hole, 2.0, low], &[1.5, hole, 2.0, low]);
        assert_eq!((d.max_abs, d.left_out, d.other_infinities, d.student_non_finite), (0.5, 2, 0, 0));
        let d = tally(&[1.0, hole], &[1.0, 3.0]);
        assert!(d.other_infinities == 1 && d.max_abs.is_infinite());
        assert_eq!(tally(&[1.0, 2.0], &[1.0, f64::NAN]).student_non_finite, 1);
        let d = tally(&[hole, hole], &[hole, hole]);
        assert!(d.cosine.is_nan() && d.max_abs == 0.0);
    }

    #[test]
    fn another_shape_is_right_nowhere() {
        let reading =
            Reading { kind: OutputKind::Value, axis: None, threshold: None, why: String::new(), guessed: false };
        let first = row(&[3], &[1., 2., 3.]);
        let judged = OutputRule { reading, metric: Metric::Equal, first };
        let tally = Tally::of(Some(&judged), &row(&[3], &[1., 2., 3.]), &row(&[2], &[1., 2.]));
        let diff = tally.finish(Some(&judged));
        assert_eq!((diff.other_shapes, diff.verdict.unwrap().error), (1, 1.0));
    }
}
