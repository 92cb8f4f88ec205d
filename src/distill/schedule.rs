//! How the learning rate goes over a run.

use std::f64::consts::PI;

/// A course of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    Constant,
    /// From the peak to nothing, along half a wave. (Loshchilov, Hutter 2017, without restarts.)
    Cosine,
    /// From 1/25 of the peak up to it in 3 tenths of the run, then down to 1/250000 of it, each along half a wave.
    /// (Smith, Topin 2018, with the numbers of PyTorch's `OneCycleLR`.)
    OneCycle,
}

impl Schedule {
    /// The rate of a step, counted from 0, of a run of so many.
    pub fn rate(self, step: usize, steps: usize, peak: f64) -> f64 {
        let wave = |from: f64, to: f64, share: f64| to + (from - to) * (1.0 + (PI * share.min(1.0)).cos()) / 2.0;
        match self {
            Schedule::Constant => peak,
            Schedule::Cosine => wave(peak, 0.0, step as f64 / steps.max(1) as f64),
            Schedule::OneCycle => {
                let start = peak / 25.0;
                let (top, last) = (0.3 * steps as f64 - 1.0, steps.saturating_sub(1) as f64);
                let at = step as f64;
                if at < top {
                    wave(start, peak, at / top)
                } else {
                    wave(peak, start / 1e4, (at - top.max(0.0)) / (last - top.max(0.0)).max(1.0))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn courses() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(Schedule::Constant.rate(7, 10, 0.5), 0.5);
        close(Schedule::Cosine.rate(0, 10, 0.5), 0.5);
        close(Schedule::Cosine.rate(5, 10, 0.5), 0.25);
        close(Schedule::OneCycle.rate(0, 100, 0.5), 0.02);
        close(Schedule::OneCycle.rate(29, 100, 0.5), 0.5);
        close(Schedule::OneCycle.rate(99, 100, 0.5), 2e-6);
        assert!((0..5).all(|i| Schedule::OneCycle.rate(i, 1, 1.0).is_finite()));
    }
}
