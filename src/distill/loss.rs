//! What a student is told: losses of a batch of rows and their gradients by the logits.

use crate::autodiff::Real;

/// softmax(logits / temperature), row by row of `classes`.
///
/// # Panics
/// If `logits` are not whole rows.
pub fn soften<T: Real>(logits: &[T], classes: usize, temperature: f64) -> Vec<T> {
    assert!(logits.len().is_multiple_of(classes), "rows of {classes}");
    let by = T::of(1.0 / temperature);
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes) {
        let max = row.iter().copied().fold(row[0], |m, v| if v > m { v } else { m });
        let start = out.len();
        out.extend(row.iter().map(|&v| ((v - max) * by).exp()));
        let total = out[start..].iter().fold(T::ZERO, |t, &v| t + v);
        out[start..].iter_mut().for_each(|v| *v = *v / total);
    }
    out
}

/// Mean over the rows of T² KL(targets ‖ softmax(logits / T)), and its gradient T (softmax(logits / T) − targets) / rows.
/// T² keeps gradients at one scale whatever the temperature. (Hinton, Vinyals, Dean 2015.)
///
/// `targets` are a teacher's probabilities at that temperature; of several teachers, the mean of theirs.
///
/// # Panics
/// If `targets` is not of the length of `logits`.
pub fn divergence<T: Real>(logits: &[T], targets: &[T], classes: usize, temperature: f64) -> (f64, Vec<T>) {
    assert_eq!(logits.len(), targets.len(), "one target a logit");
    let rows = (logits.len() / classes) as f64;
    let mut gradient = soften(logits, classes, temperature);
    let mut loss = 0.0;
    let triples = logits.chunks_exact(classes).zip(targets.chunks_exact(classes));
    for ((z, q), p) in triples.zip(gradient.chunks_exact_mut(classes)) {
        // Logarithms from the logits: a probability may be too small for its own.
        let max = z.iter().copied().fold(z[0], |m, v| if v > m { v } else { m });
        let scaled = |v: T| (v - max).wide() / temperature;
        let total = z.iter().map(|&v| scaled(v).exp()).sum::<f64>().ln();
        for ((&z, &q), p) in z.iter().zip(q).zip(p) {
            if q > T::ZERO {
                loss += q.wide() * (q.wide().ln() - scaled(z) + total);
            }
            *p = (*p - q) * T::of(temperature / rows);
        }
    }
    (loss * temperature * temperature / rows, gradient)
}

/// Mean over the rows of −ln softmax(logits)[label], and its gradient by the logits.
///
/// # Panics
/// If there is not one label a row, below `classes`.
pub fn cross_entropy<T: Real>(logits: &[T], labels: &[usize], classes: usize) -> (f64, Vec<T>) {
    assert_eq!(logits.len(), labels.len() * classes, "one label a row");
    let mut targets = vec![T::ZERO; logits.len()];
    labels.iter().enumerate().for_each(|(row, &label)| targets[row * classes..][..classes][label] = T::ONE);
    divergence(logits, &targets, classes, 1.0)
}

/// α T² KL(targets ‖ softmax(logits / T)) + (1 − α) CE(labels), and its gradient. Without labels α is 1.
///
/// # Panics
/// As [`divergence`] and [`cross_entropy`].
pub fn distillation<T: Real>(
    logits: &[T],
    targets: &[T],
    labels: Option<&[usize]>,
    classes: usize,
    temperature: f64,
    alpha: f64,
) -> (f64, Vec<T>) {
    let (soft, mut gradient) = divergence(logits, targets, classes, temperature);
    let Some(labels) = labels else { return (soft, gradient) };
    let (hard, by) = cross_entropy(logits, labels, classes);
    let (a, b) = (T::of(alpha), T::of(1.0 - alpha));
    gradient.iter_mut().zip(by).for_each(|(g, h)| *g = a * *g + b * h);
    (alpha * soft + (1.0 - alpha) * hard, gradient)
}

/// Σ (y − target)² / Σ target², and its gradient by y: for activations that are to match, whatever their scale. Of targets
/// that are all zero, Σ y².
///
/// # Panics
/// If the lengths differ.
pub fn relative<T: Real>(y: &[T], target: &[T]) -> (f64, Vec<T>) {
    assert_eq!(y.len(), target.len(), "one target an element");
    let all = target.iter().map(|t| t.wide() * t.wide()).sum::<f64>();
    let all = if all > 0.0 { all } else { 1.0 };
    let difference = y.iter().zip(target).map(|(&y, &t)| y - t);
    let loss = difference.clone().map(|d| d.wide() * d.wide()).sum::<f64>() / all;
    (loss, difference.map(|d| d * T::of(2.0 / all)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(loss: impl Fn(&[f64]) -> (f64, Vec<f64>)) {
        let logits = [0.3, -1.2, 0.8, 2.0, 0.1, -0.4];
        let gradient = loss(&logits).1;
        for i in 0..6 {
            let at = |step: f64| {
                let mut moved = logits;
                moved[i] += step;
                loss(&moved).0
            };
            let want = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((gradient[i] - want).abs() < 1e-8, "{i}: {} for {want}", gradient[i]);
        }
    }

    #[test]
    fn gradients() {
        let targets = soften(&[1.0, 0.5, 0.0, -1.0, 0.0, 3.0], 3, 4.0);
        check(|l| divergence(l, &targets, 3, 4.0));
        check(|l| cross_entropy(l, &[2, 0], 3));
        check(|l| distillation(l, &targets, Some(&[1, 1]), 3, 2.0, 0.7));
        check(|l| distillation(l, &targets, None, 3, 2.0, 0.7));
        check(|l| relative(l, &targets));
    }

    #[test]
    fn values() {
        let even = [0.0f64; 4];
        assert!((cross_entropy(&even, &[3], 4).0 - 4f64.ln()).abs() < 1e-12);
        let (none, by) = divergence(&even, &[0.25; 4], 4, 3.0);
        assert!(none.abs() < 1e-12 && by == [0.0; 4]);
        assert_eq!(cross_entropy(&[1e4f32, -1e4], &[1], 2).0, 2e4, "certain and wrong");
        assert!(cross_entropy(&[f32::INFINITY, 0.0], &[1], 2).0.is_nan());
    }
}
