//! What one sample says about a teacher and a student.

use crate::data::Array;

/// Teacher and student on the class scores of one sample.
pub(super) struct SampleScores {
    pub classes: usize,
    /// The place of the label among the teacher's and the student's scores, from 0; the last place of all if a score is
    /// NaN.
    pub places: Option<[usize; 2]>,
    /// What the teacher and the student say; `None` if a score is NaN.
    pub best: [Option<usize>; 2],
    pub agree: bool,
    /// The teacher's row lies in 0..1 and sums to 1.
    pub probabilities: bool,
    /// KL(teacher ‖ student) in nats, the rows taken as logits and as probabilities; not finite if a row is not.
    pub kl_logits: f64,
    pub kl_probabilities: f64,
}

/// One sample's part of an output.
#[derive(Debug, Clone, Default)]
pub(super) struct SampleOutput {
    /// Without the axis of the batch.
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl SampleOutput {
    /// The numbers along an axis, for every position on the others in order; each number by itself for an axis that is not
    /// there.
    pub fn lines(&self, axis: usize) -> impl Iterator<Item = Vec<f64>> + '_ {
        let size = self.shape.get(axis).copied().unwrap_or(1).max(1);
        let inner = self.inner(axis);
        (0..self.values.len() / size).map(move |line| {
            let start = line / inner * inner * size + line % inner;
            (0..size).map(|i| self.values[start + i * inner]).collect()
        })
    }

    /// Elements from one place on an axis to the next.
    pub fn inner(&self, axis: usize) -> usize {
        self.shape.iter().skip(axis + 1).product::<usize>().max(1)
    }
}

/// The first `rows` samples of an output of a chunk of `batch`; `None` if its first axis is not the batch.
pub(super) fn split(output: &Array, batch: usize, rows: usize) -> Option<Vec<SampleOutput>> {
    let (shape, values) = (output.shape(), output.to_f64());
    if batch == 1 {
        let own = shape.strip_prefix(&[1]).unwrap_or(shape);
        return Some(vec![SampleOutput { shape: own.to_vec(), values }]);
    }
    if shape.first() != Some(&batch) {
        return None;
    }
    let len = values.len() / batch;
    let row = |i: usize| SampleOutput { shape: shape[1..].to_vec(), values: values[i * len..(i + 1) * len].to_vec() };
    Some((0..rows).map(row).collect())
}

impl SampleScores {
    pub(super) fn new(teacher: &SampleOutput, student: &SampleOutput, label: Option<usize>) -> Option<SampleScores> {
        let mut wide = teacher.shape.iter().filter(|&&d| d > 1);
        let (&classes, None) = (wide.next()?, wide.next()) else { return None };
        let (t, s) = (&teacher.values[..], &student.values[..]);
        let [best_t, best_s] = [argmax(t), argmax(s)];
        Some(SampleScores {
            classes,
            places: label.filter(|&label| label < classes).map(|label| [place(t, label), place(s, label)]),
            best: [best_t, best_s],
            agree: best_t.is_some() && best_t == best_s,
            probabilities: are_probabilities(t),
            kl_logits: divergence(t, s, false),
            kl_probabilities: divergence(t, s, true),
        })
    }
}

/// The first of the largest; `None` if a score is NaN.
pub(super) fn argmax(row: &[f64]) -> Option<usize> {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if v.is_nan() {
            return None;
        }
        if *v > row[best] {
            best = i;
        }
    }
    Some(best)
}

/// How many scores come before the label's: larger ones, and equal ones of lower index.
fn place(row: &[f64], label: usize) -> usize {
    if row.iter().any(|v| v.is_nan()) {
        return row.len();
    }
    let own = row[label];
    row.iter().enumerate().filter(|&(i, &v)| v > own || (v == own && i < label)).count()
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
    row.iter().map(|v| v - max - log_sum).collect()
}

/// Logarithms of shares of the sum. A share is at least 1e-12, so that one rounded to 0 costs much but not everything.
fn log_share(row: &[f64]) -> Vec<f64> {
    let floor = |v: f64| if v.is_nan() { v } else { v.max(1e-12) };
    let sum: f64 = row.iter().map(|&v| floor(v)).sum();
    row.iter().map(|&v| (floor(v) / sum).ln()).collect()
}

/// Whether scores are probabilities: from 0 to 1, with the sum 1.
pub(super) fn are_probabilities(row: &[f64]) -> bool {
    row.iter().all(|v| (0.0..=1.0).contains(v)) && (row.iter().sum::<f64>() - 1.0).abs() < 1e-3
}

/// KL(teacher ‖ student) in nats of two rows of probabilities or of logits; not finite if a row is not.
pub(super) fn divergence(teacher: &[f64], student: &[f64], probabilities: bool) -> f64 {
    match probabilities {
        true => kl(log_share(teacher), log_share(student)),
        false => kl(log_softmax(teacher), log_softmax(student)),
    }
}

fn kl(teacher: Vec<f64>, student: Vec<f64>) -> f64 {
    // A class that the teacher rules out (-inf) adds nothing.
    let terms = teacher.iter().zip(&student).filter(|(t, _)| **t != f64::NEG_INFINITY);
    terms.map(|(t, s)| t.exp() * (t - s)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shape: &[usize], values: &[f64]) -> SampleOutput {
        SampleOutput { shape: shape.to_vec(), values: values.to_vec() }
    }

    fn scores(teacher: &[f64], student: &[f64], label: usize) -> SampleScores {
        let shape = [1, teacher.len()];
        SampleScores::new(&row(&shape, teacher), &row(&shape, student), Some(label)).unwrap()
    }

    #[test]
    fn class_scores_are_one_wide_axis() {
        let is_scores = |shape: &[usize]| {
            let values = vec![0.0; shape.iter().product()];
            SampleScores::new(&row(shape, &values), &row(shape, &values), None).is_some()
        };
        assert!(is_scores(&[1, 10]) && is_scores(&[10]) && is_scores(&[1, 10, 1, 1]));
        assert!(!is_scores(&[1, 1]) && !is_scores(&[]) && !is_scores(&[1, 10, 2, 2]));
    }

    #[test]
    fn places_break_ties_by_index_and_nan_is_last() {
        let s = scores(&[1.0, 3.0, 3.0], &[2.0, 1.0, f64::NAN], 2);
        assert_eq!(s.places, Some([1, 3]));
        assert!(!s.agree);
        assert!(!s.kl_logits.is_finite() && !s.kl_probabilities.is_finite());
        assert!(scores(&[1.0, 3.0, 3.0], &[0.0, 9.0, 1.0], 0).agree);
    }

    #[test]
    fn divergence_of_logits_and_of_probabilities() {
        let (p, q) = ([0.75, 0.25], [0.5, 0.5]);
        let want = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        let as_logits = scores(&p.map(f64::ln), &q.map(f64::ln), 0);
        assert!((as_logits.kl_logits - want).abs() < 1e-12 && !as_logits.probabilities);
        let as_probabilities = scores(&p, &q, 0);
        assert!((as_probabilities.kl_probabilities - want).abs() < 1e-12 && as_probabilities.probabilities);
        let ruled_out = scores(&[0.0, f64::NEG_INFINITY], &[0.0, 0.0], 0);
        assert!((ruled_out.kl_logits - 2f64.ln()).abs() < 1e-12);
        assert!(scores(&[1.0, 0.0], &[1.0, 0.0], 0).kl_probabilities.abs() < 1e-9);
    }

    #[test]
    fn chunks_split_into_samples() {
        let array = Array::from_f32(vec![2, 2], &[1., 2., 3., 4.]).unwrap();
        let rows = split(&array, 2, 1).unwrap();
        assert_eq!((rows.len(), &rows[0].shape[..], &rows[0].values[..]), (1, &[2][..], &[1., 2.][..]));
        assert!(split(&array, 3, 3).is_none());
        assert_eq!(split(&array, 1, 1).unwrap()[0].shape, [2, 2]);
        let array = Array::from_f32(vec![1, 2, 2], &[1., 2., 3., 4.]).unwrap();
        assert_eq!(split(&array, 1, 1).unwrap()[0].shape, [2, 2]);
    }

    #[test]
    fn lines_run_along_an_axis() {
        let row = row(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
        assert_eq!(row.lines(0).collect::<Vec<_>>(), [[1., 4.], [2., 5.], [3., 6.]]);
        assert_eq!(row.lines(1).collect::<Vec<_>>(), [[1., 2., 3.], [4., 5., 6.]]);
        assert_eq!(row.lines(2).count(), 6);
    }
}
