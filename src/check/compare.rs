//! What one sample says about a teacher and a student.

use super::exits::Told;
use crate::data::Array;

/// One sample's part of the result: small, so that all are kept and summed in the order of the samples.
pub(super) struct Sample {
    pub outputs: Vec<Diff>,
    /// If the first output is a row of class scores.
    pub scores: Option<Scores>,
    /// Of a student with exits.
    pub told: Option<Told>,
}

/// Teacher and student on the class scores of one sample.
pub(super) struct Scores {
    pub classes: usize,
    /// The place of the label among the teacher's and the student's scores, from 0; the last place of all if a score is
    /// NaN.
    pub places: Option<[usize; 2]>,
    pub agree: bool,
    /// The teacher's row lies in 0..1 and sums to 1.
    pub probabilities: bool,
    /// KL(teacher ‖ student) in nats, the rows taken as logits and as probabilities; not finite if a row is not.
    pub kl_logits: f64,
    pub kl_probabilities: f64,
}

/// Teacher and student on one output of one sample. Elements that are not finite on either side are left out, unless
/// they are equal.
#[derive(Default)]
pub(super) struct Diff {
    pub max: f64,
    pub sum: f64,
    pub count: usize,
    pub dot: f64,
    pub teacher_square: f64,
    pub student_square: f64,
    pub teacher_finite: bool,
    /// Finite wherever the teacher is.
    pub student_finite: bool,
}

/// Compares the outputs of one sample; both lists have the same length and each pair the same number of elements.
pub(super) fn compare(teacher: &[Row], student: &[Row], label: Option<usize>) -> Sample {
    let outputs = teacher.iter().zip(student).map(|(t, s)| Diff::new(&t.values, &s.values)).collect();
    let scores = teacher.first().zip(student.first()).and_then(|(t, s)| Scores::new(t, s, label));
    Sample { outputs, scores, told: None }
}

/// One sample's part of an output.
pub(super) struct Row {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// The first `rows` samples of an output of a chunk of `batch`; `None` if its first axis is not the batch.
pub(super) fn split(output: &Array, batch: usize, rows: usize) -> Option<Vec<Row>> {
    let (shape, values) = (output.shape(), output.to_f64());
    if batch == 1 {
        return Some(vec![Row { shape: shape.to_vec(), values }]);
    }
    if shape.first() != Some(&batch) {
        return None;
    }
    let len = values.len() / batch;
    let row = |i: usize| Row { shape: shape[1..].to_vec(), values: values[i * len..(i + 1) * len].to_vec() };
    Some((0..rows).map(row).collect())
}

impl Diff {
    fn new(teacher: &[f64], student: &[f64]) -> Diff {
        let mut d = Diff { teacher_finite: true, student_finite: true, ..Diff::default() };
        for (&t, &s) in teacher.iter().zip(student) {
            d.teacher_finite &= t.is_finite();
            if t.is_finite() && s.is_finite() {
                let diff = (t - s).abs();
                d.max = d.max.max(diff);
                d.sum += diff;
                d.dot += t * s;
                d.teacher_square += t * t;
                d.student_square += s * s;
                d.count += 1;
            } else if t == s || (t.is_nan() && s.is_nan()) {
                d.count += 1;
            } else if t.is_finite() {
                d.student_finite = false;
            }
        }
        d
    }
}

impl Scores {
    pub(super) fn new(teacher: &Row, student: &Row, label: Option<usize>) -> Option<Scores> {
        let mut wide = teacher.shape.iter().filter(|&&d| d > 1);
        let (&classes, None) = (wide.next()?, wide.next()) else { return None };
        let (t, s) = (&teacher.values[..], &student.values[..]);
        let [best_t, best_s] = [argmax(t), argmax(s)];
        Some(Scores {
            classes,
            places: label.filter(|&label| label < classes).map(|label| [place(t, label), place(s, label)]),
            agree: best_t.is_some() && best_t == best_s,
            probabilities: t.iter().all(|v| (0.0..=1.0).contains(v)) && (t.iter().sum::<f64>() - 1.0).abs() < 1e-3,
            kl_logits: kl(log_softmax(t), log_softmax(s)),
            kl_probabilities: kl(log_share(t), log_share(s)),
        })
    }
}

/// The first of the largest; `None` if a score is NaN.
fn argmax(row: &[f64]) -> Option<usize> {
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

fn kl(teacher: Vec<f64>, student: Vec<f64>) -> f64 {
    // A class that the teacher rules out (-inf) adds nothing.
    let terms = teacher.iter().zip(&student).filter(|(t, _)| **t != f64::NEG_INFINITY);
    terms.map(|(t, s)| t.exp() * (t - s)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shape: &[usize], values: &[f64]) -> Row {
        Row { shape: shape.to_vec(), values: values.to_vec() }
    }

    fn scores(teacher: &[f64], student: &[f64], label: usize) -> Scores {
        let shape = [1, teacher.len()];
        Scores::new(&row(&shape, teacher), &row(&shape, student), Some(label)).unwrap()
    }

    #[test]
    fn class_scores_are_one_wide_axis() {
        let is_scores = |shape: &[usize]| {
            let values = vec![0.0; shape.iter().product()];
            Scores::new(&row(shape, &values), &row(shape, &values), None).is_some()
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
    fn differences_leave_out_what_is_not_finite() {
        let d = Diff::new(&[1.0, f64::INFINITY, 2.0, f64::NAN], &[1.5, f64::INFINITY, f64::NAN, 1.0]);
        assert_eq!((d.max, d.sum, d.count), (0.5, 0.5, 2));
        assert!(!d.teacher_finite && !d.student_finite);
    }

    #[test]
    fn chunks_split_into_samples() {
        let array = Array::from_f32(vec![2, 2], &[1., 2., 3., 4.]).unwrap();
        let rows = split(&array, 2, 1).unwrap();
        assert_eq!((rows.len(), &rows[0].shape[..], &rows[0].values[..]), (1, &[2][..], &[1., 2.][..]));
        assert!(split(&array, 3, 3).is_none());
        assert_eq!(split(&array, 1, 1).unwrap()[0].shape, [2, 2]);
    }
}
