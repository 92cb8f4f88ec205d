//! The learning rate, found by a short range test. (Smith 2017: Cyclical Learning Rates for Training Neural Networks.)

/// Steps of the test.
pub const STEPS: usize = 60;
/// What the rate grows by over the test.
const SPAN: f64 = 1e4;
/// Weight of the losses before in their running mean.
const SMOOTH: f64 = 0.85;
/// A mean loss of so many times the lowest is one that a rate drove up, and no chance of batches.
const RISEN: f64 = 1.25;
/// The test ends at so many times the lowest.
const ENOUGH: f64 = 2.5;
/// The peak of a run is below the rate that drives the loss up by this factor.
const BELOW: f64 = 5.0;

/// Collects the losses of steps whose rates grow.
pub struct RateRange {
    last: f64,
    mean: f64,
    lowest: f64,
    /// The last step before which the mean had not risen.
    edge: usize,
    done: usize,
}

impl RateRange {
    /// Up to a rate of `last`.
    pub fn new(last: f64) -> RateRange {
        RateRange { last, mean: 0.0, lowest: f64::INFINITY, edge: 0, done: 0 }
    }

    fn at(&self, step: usize) -> f64 {
        self.last * SPAN.powf(step as f64 / (STEPS - 1) as f64 - 1.0)
    }

    /// The rate of the next step, if there is to be one.
    pub fn next(&self) -> Option<f64> {
        let goes_on = self.done == 0 || self.mean() <= ENOUGH * self.lowest;
        (self.done < STEPS && goes_on).then(|| self.at(self.done))
    }

    /// Steps that were taken.
    pub fn steps(&self) -> usize {
        self.done
    }

    fn mean(&self) -> f64 {
        self.mean / (1.0 - SMOOTH.powi(self.done as i32))
    }

    /// Notes the loss before that step.
    pub fn note(&mut self, loss: f64) {
        self.mean = SMOOTH * self.mean + (1.0 - SMOOTH) * loss;
        self.done += 1;
        self.lowest = self.lowest.min(self.mean());
        if self.mean() <= RISEN * self.lowest {
            self.edge = self.done - 1;
        }
    }

    /// The rate to train with at the most.
    pub fn peak(&self) -> f64 {
        self.at(self.edge) / BELOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ½ a x², along gradients that are off by as much to either side in turn, as those of batches are: rates above 2 / a
    /// drive it up.
    fn peak(a: f64) -> f64 {
        let (mut range, mut x, mut off) = (RateRange::new(10.0), 1.0f64, 0.3);
        while let Some(rate) = range.next() {
            range.note(0.5 * a * x * x + 0.1);
            x -= rate * a * (x + off);
            off = -off;
        }
        range.peak()
    }

    #[test]
    fn steep_valleys_take_low_rates() {
        for a in [2.0, 20.0, 200.0] {
            let share = peak(a) * a;
            assert!((0.1..0.6).contains(&share), "{share} of the best rate at {a}");
        }
    }

    #[test]
    fn losses_that_are_no_numbers_end_it() {
        let mut range = RateRange::new(1.0);
        range.note(1.0);
        assert!(range.next().is_some());
        range.note(f64::NAN);
        assert!(range.next().is_none() && range.peak() > 0.0);
    }
}
