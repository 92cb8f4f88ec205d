//! Thresholds of early exits, set together: least mean cost within a loss.

/// What held-back samples say of a network with exits.
#[derive(Debug, Clone)]
pub struct Trial {
    /// By exit, then by sample.
    pub confidence: Vec<Vec<f32>>,
    /// By exit and last of the whole network, then by sample: whether the answer is right.
    pub right: Vec<Vec<bool>>,
    /// By exit and last of the whole network: what it costs to be through there.
    pub cost: Vec<f64>,
}

/// What comes of thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// Share of the samples that leave at each exit, and last at the end.
    pub shares: Vec<f64>,
    /// Share that is answered right.
    pub right: f64,
    /// Mean cost.
    pub cost: f64,
}

/// Prices of a wrong answer that are tried, in parts of the cost of the whole network: from hardly any to prohibitive.
const PRICES: usize = 64;
const CHEAPEST: f64 = 1e-2;
const DEAREST: f64 = 1e4;
/// Rounds over the exits at one price.
const ROUNDS: usize = 8;

impl Trial {
    /// What comes of thresholds, by exit: a sample leaves at the first exit of which its confidence exceeds the threshold.
    pub fn course(&self, thresholds: &[f32]) -> Course {
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
        let cost = counts.iter().zip(&self.cost).map(|(&c, cost)| share(c) * cost).sum();
        Course { shares: counts.into_iter().map(share).collect(), right: share(right), cost }
    }

    /// The same trial of a network with only these exits.
    pub fn only(&self, exits: &[usize]) -> Trial {
        let pick = |of: &Vec<Vec<bool>>| exits.iter().map(|&e| of[e].clone()).chain(of.last().cloned()).collect();
        Trial {
            confidence: exits.iter().map(|&e| self.confidence[e].clone()).collect(),
            right: pick(&self.right),
            cost: exits.iter().map(|&e| self.cost[e]).chain(self.cost.last().copied()).collect(),
        }
    }

    /// The thresholds of least mean cost whose answers are right on at most `drop` fewer of the samples (a share) than the
    /// whole network's; infinite for an exit that does not pay. Exact for one exit at each of many prices of a wrong
    /// answer, and for several in turn until none moves: the best course found, not a proof that there is no better.
    pub fn thresholds(&self, drop: f64) -> Vec<f32> {
        // Shares are quotients of counts: a difference this small is rounding.
        const ROUNDING: f64 = 1e-9;
        let exits = self.confidence.len();
        let never = vec![f32::INFINITY; exits];
        let whole = self.course(&never);
        let mut best = (whole.cost, never.clone());
        for step in 0..PRICES {
            let price = CHEAPEST * (DEAREST / CHEAPEST).powf(step as f64 / (PRICES - 1) as f64) * whole.cost;
            let mut at = never.clone();
            for _ in 0..ROUNDS {
                let before = at.clone();
                for e in 0..exits {
                    at[e] = self.best_of(e, &at, price);
                }
                if at == before {
                    break;
                }
            }
            let course = self.course(&at);
            if course.right >= whole.right - drop - ROUNDING && course.cost < best.0 {
                best = (course.cost, at);
            }
        }
        best.1
    }

    /// The best threshold of one exit, with those of the others as they are.
    fn best_of(&self, exit: usize, others: &[f32], price: f64) -> f32 {
        let ends = self.cost.len();
        let leaves = |e: usize, i: usize| self.confidence[e][i] > others[e];
        let here = (0..self.right[exit].len()).filter(|&i| !(0..exit).any(|e| leaves(e, i)));
        // What a sample that gets here saves by leaving.
        let gain = |i: usize| {
            let later = (exit + 1..ends - 1).find(|&e| leaves(e, i)).unwrap_or(ends - 1);
            let wrong = |e: usize| price * f64::from(u8::from(!self.right[e][i]));
            self.cost[later] + wrong(later) - self.cost[exit] - wrong(exit)
        };
        let mut order: Vec<(f32, f64)> = here.map(|i| (self.confidence[exit][i], gain(i))).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut total, mut best) = (0.0, (0.0, f32::INFINITY));
        for (i, &(confidence, gain)) in order.iter().enumerate() {
            total += gain;
            let next = order.get(i + 1).map_or(confidence - (1.0 - confidence).max(1e-3), |n| n.0);
            // Equal confidences leave together.
            let between = confidence.midpoint(next);
            if total > best.0 && next <= between && between < confidence {
                best = (total, between);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        Trial {
            confidence: vec![vec![0.9, 0.8, 0.7, 0.6], vec![0.5, 0.6, 0.7, 0.8]],
            right: vec![vec![true, true, false, false], vec![true, true, true, false], vec![true; 4]],
            cost: vec![1.0, 2.0, 4.0],
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

    #[test]
    fn a_loss_buys_cost() {
        let t = trial();
        let course = t.course(&t.thresholds(0.25));
        assert!((course.right - 0.75).abs() < 1e-12);
        assert_eq!(course.cost, (1.0 + 1.0 + 2.0 + 2.0) / 4.0);
        assert_eq!(t.course(&t.thresholds(1.0)).cost, 1.0);
    }

    #[test]
    fn exits_that_are_never_right_do_not_pay() {
        let t = Trial { right: vec![vec![false; 4], vec![false; 4], vec![true; 4]], ..trial() };
        assert_eq!(t.thresholds(0.0), [f32::INFINITY; 2]);
    }

    #[test]
    fn equal_confidences_leave_together() {
        let t = Trial {
            confidence: vec![vec![0.5; 4]],
            right: vec![vec![true, true, true, false], vec![true; 4]],
            cost: vec![1.0, 4.0],
        };
        assert_eq!(t.thresholds(0.0), [f32::INFINITY]);
        let at = t.thresholds(0.25);
        assert_eq!(t.course(&at).shares, [1.0, 0.0]);
    }
}
