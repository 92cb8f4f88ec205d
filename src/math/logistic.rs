//! Multinomial logistic regression on soft targets, and the temperature of a classifier.

use super::dense::finite;
use super::solve::{ridge, times};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use std::collections::VecDeque;

/// Ridge of the closed-form start, relative to the mean second moment.
const START_RIDGE: f64 = 1e-2;
/// Pairs of steps and gradient changes that stand for the curvature.
const MEMORY: usize = 10;
const ROUNDS: usize = 100;
/// The gradient's norm at which the fit is done, relative to that at the start.
const CLOSE: f64 = 1e-4;
/// Share of the predicted fall that a step must reach. (Nocedal, Wright 2006, Numerical Optimization, (3.6a).)
const ARMIJO: f64 = 1e-4;
/// Bins of the calibration error. (Guo et al. 2017.)
const BINS: usize = 15;

/// logits = W x + b.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// classes × features
    pub weight: Array2<f64>,
    pub bias: Array1<f64>,
}

impl Head {
    /// Logits by sample of `x` (samples × features).
    pub fn logits(&self, x: ArrayView2<'_, f64>) -> Array2<f64> {
        times(x, self.weight.t()) + &self.bias
    }
}

/// The head of least mean cross-entropy with `targets` (samples × classes, rows that sum to 1), plus `decay` / 2 times the
/// squares of W on features of standard deviation 1. It starts from the ridge regression to `logits` (samples × classes)
/// and goes on by L-BFGS (Nocedal, Wright 2006, Algorithm 7.5). `None` if shapes do not fit or a number is not finite.
pub fn logistic(
    x: ArrayView2<'_, f64>,
    logits: ArrayView2<'_, f64>,
    targets: ArrayView2<'_, f64>,
    decay: f64,
) -> Option<Head> {
    let (n, d) = x.dim();
    let fits = n > 0 && logits.dim() == targets.dim() && logits.nrows() == n;
    if !fits || !finite(x) || !finite(logits) || !finite(targets) {
        return None;
    }
    let mean = x.mean_axis(Axis(0))?;
    let spread = x.std_axis(Axis(0), 0.0);
    let floor = spread.iter().copied().fold(0.0, f64::max) * 1e-6;
    let spread = spread.mapv(|s| if s > floor { s } else { f64::INFINITY });
    let x = (&x - &mean) / &spread;
    let shift = logits.mean_axis(Axis(0))?;
    let start = ridge(&times(x.t(), x.view()), &times((&logits - &shift).t(), x.view()), None, START_RIDGE)?;
    let mut at = Array2::zeros((targets.ncols(), d + 1));
    at.slice_mut(s![.., ..d]).assign(&start);
    at.column_mut(d).assign(&shift);
    let at = minimize(&Problem { x, targets, decay }, at)?;
    let weight = &at.slice(s![.., ..d]) / &spread;
    let bias = &at.column(d) - &weight.dot(&mean);
    (finite(weight.view()) && bias.iter().all(|b| b.is_finite())).then_some(Head { weight, bias })
}

struct Problem<'a> {
    x: Array2<f64>,
    targets: ArrayView2<'a, f64>,
    decay: f64,
}

impl Problem<'_> {
    /// The loss at W and b, side by side, and its gradient.
    fn at(&self, w: &Array2<f64>) -> (f64, Array2<f64>) {
        let (n, d) = self.x.dim();
        let weight = w.slice(s![.., ..d]);
        let mut logs = times(self.x.view(), weight.t()) + w.column(d);
        logs.rows_mut().into_iter().for_each(log_softmax);
        let loss = -(&logs * &self.targets).sum() / n as f64;
        let by = (logs.mapv(f64::exp) - self.targets) / n as f64;
        let mut gradient = Array2::zeros(w.raw_dim());
        gradient.slice_mut(s![.., ..d]).assign(&(times(by.t(), self.x.view()) + &weight * self.decay));
        gradient.column_mut(d).assign(&by.sum_axis(Axis(0)));
        (loss + self.decay / 2.0 * weight.mapv(|v| v * v).sum(), gradient)
    }
}

fn minimize(problem: &Problem<'_>, mut at: Array2<f64>) -> Option<Array2<f64>> {
    let dot = |a: &Array2<f64>, b: &Array2<f64>| (a * b).sum();
    let (mut loss, mut gradient) = problem.at(&at);
    let enough = dot(&gradient, &gradient).sqrt() * CLOSE;
    let mut past: VecDeque<(Array2<f64>, Array2<f64>, f64)> = VecDeque::new();
    for _ in 0..ROUNDS {
        let size = dot(&gradient, &gradient).sqrt();
        if size <= enough || size == 0.0 {
            break;
        }
        let mut step = -&gradient;
        let mut shares = Vec::new();
        for (s, y, rho) in past.iter().rev() {
            let share = rho * dot(s, &step);
            step.scaled_add(-share, y);
            shares.push(share);
        }
        match past.back() {
            Some((_, y, rho)) => step *= 1.0 / (rho * dot(y, y)),
            None => step *= 1.0 / size.max(1.0),
        }
        for ((s, y, rho), share) in past.iter().zip(shares.into_iter().rev()) {
            let share = share - rho * dot(y, &step);
            step.scaled_add(share, s);
        }
        let slope = dot(&step, &gradient);
        let (mut length, mut next) = (1.0, None);
        while next.is_none() && length > 1e-10 {
            let to = &at + &(&step * length);
            let (there, by) = problem.at(&to);
            match there <= loss + ARMIJO * length * slope {
                true => next = Some((to, there, by)),
                false => length /= 2.0,
            }
        }
        let Some((to, there, by)) = next else { break };
        let (s, y) = (&to - &at, &by - &gradient);
        let curvature = dot(&s, &y);
        if curvature > 1e-12 * dot(&y, &y) {
            past.push_back((s, y, 1.0 / curvature));
            if past.len() > MEMORY {
                past.pop_front();
            }
        }
        (at, loss, gradient) = (to, there, by);
    }
    loss.is_finite().then_some(at)
}

fn log_softmax(mut row: ndarray::ArrayViewMut1<'_, f64>) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = row.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
    row.mapv_inplace(|v| v - max - sum);
}

/// Probabilities of `logits` (samples × classes) at a temperature.
pub fn softmax(logits: ArrayView2<'_, f64>, temperature: f64) -> Array2<f64> {
    let mut p = logits.mapv(|v| v / temperature);
    p.rows_mut().into_iter().for_each(log_softmax);
    p.mapv_into(f64::exp)
}

/// The temperature at which `logits` have least cross-entropy with `targets`, between 1/20 and 20. (Guo et al. 2017, On
/// Calibration of Modern Neural Networks.)
pub fn temperature(logits: ArrayView2<'_, f64>, targets: ArrayView2<'_, f64>) -> f64 {
    let loss = |log: f64| {
        let mut p = logits.mapv(|v| v / log.exp());
        p.rows_mut().into_iter().for_each(log_softmax);
        -(&p * &targets).sum()
    };
    // Golden section: the cross-entropy is convex in 1/T, so it has one valley in log T.
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-(20f64.ln()), 20f64.ln());
    for _ in 0..40 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if loss(a) <= loss(b) { high = b } else { low = a }
    }
    ((low + high) / 2.0).exp()
}

/// Expected calibration error: by how much confidence and accuracy differ, on average over bins of confidence.
pub fn calibration_error(confidence: &[f64], right: &[bool]) -> f64 {
    let mut bins = [(0usize, 0.0, 0usize); BINS];
    for (&c, &r) in confidence.iter().zip(right) {
        let (count, sum, hits) = &mut bins[((c * BINS as f64) as usize).min(BINS - 1)];
        (*count, *sum, *hits) = (*count + 1, *sum + c, *hits + usize::from(r));
    }
    bins.iter().map(|&(_, sum, hits)| (sum - hits as f64).abs()).sum::<f64>() / confidence.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;
    use ndarray::array;

    fn problem() -> (Array2<f64>, Array2<f64>, Array2<f64>) {
        let x = noise(200, 3, 1) * array![1.0, 10.0, 0.1] + array![0.5, -3.0, 0.0];
        let truth = Head { weight: noise(4, 3, 2) * 2.0, bias: array![0.1, 0.2, -0.3, 0.0] };
        let logits = truth.logits(x.view());
        let targets = softmax(logits.view(), 1.0);
        (x, logits, targets)
    }

    #[test]
    fn soft_targets_of_a_head_give_that_head() {
        let (x, logits, targets) = problem();
        let head = logistic(x.view(), logits.view(), targets.view(), 0.0).unwrap();
        let found = softmax(head.logits(x.view()).view(), 1.0);
        assert!((&found - &targets).iter().all(|d| d.abs() < 2e-3));
    }

    #[test]
    fn no_small_change_lowers_the_loss() {
        let (x, logits, targets) = problem();
        let head = logistic(x.view(), logits.view(), targets.view(), 0.1).unwrap();
        let (mean, spread) = (x.mean_axis(Axis(0)).unwrap(), x.std_axis(Axis(0), 0.0));
        let mut at = Array2::zeros((4, 4));
        at.slice_mut(s![.., ..3]).assign(&(&head.weight * &spread));
        at.column_mut(3).assign(&(&head.bias + &head.weight.dot(&mean)));
        let problem = Problem { x: (&x - &mean) / &spread, targets: targets.view(), decay: 0.1 };
        let (best, gradient) = problem.at(&at);
        assert!(gradient.iter().all(|g| g.abs() < 1e-3));
        for i in 0..at.len() {
            for by in [-0.05, 0.05] {
                let mut near = at.clone();
                near.as_slice_mut().unwrap()[i] += by;
                assert!(problem.at(&near).0 > best);
            }
        }
    }

    #[test]
    fn features_that_never_change_do_no_harm() {
        let (mut x, logits, targets) = problem();
        x.column_mut(1).fill(7.0);
        let head = logistic(x.view(), logits.view(), targets.view(), 1e-3).unwrap();
        assert!(head.weight.column(1).iter().all(|&w| w == 0.0));
        x[(0, 0)] = f64::NAN;
        assert!(logistic(x.view(), logits.view(), targets.view(), 1e-3).is_none());
    }

    #[test]
    fn the_temperature_takes_back_a_factor() {
        let (_, logits, targets) = problem();
        let hot = &logits * 3.0;
        assert!((temperature(hot.view(), targets.view()) - 3.0).abs() < 1e-4);
    }

    #[test]
    fn the_calibration_error_is_the_gap() {
        assert!((calibration_error(&[0.9, 0.9, 0.9, 0.9], &[true, false, true, false]) - 0.4).abs() < 1e-12);
        assert_eq!(calibration_error(&[1.0, 1.0], &[true, true]), 0.0);
        assert_eq!(calibration_error(&[], &[]), 0.0);
    }
}
