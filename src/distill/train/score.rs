//! How a student does, epoch by epoch.

/// How a student does on what is held back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldBackScore {
    pub loss: f64,
    /// Share of samples for which the class is the label.
    pub accuracy: Option<f64>,
    /// Share of samples for which the class is the teachers'.
    pub agreement: Option<f64>,
}

impl HeldBackScore {
    /// Whether the loss is a number, and no larger.
    pub(super) fn is_within(&self, loss: f64) -> bool {
        self.loss.is_finite() && self.loss <= loss
    }

    /// With a teacher the lower loss is better, which says more of a few samples than their classes; else the higher
    /// accuracy, and of equals the lower loss.
    pub(super) fn better_than(&self, other: &HeldBackScore) -> bool {
        let key = |s: &HeldBackScore| s.accuracy.filter(|_| s.agreement.is_none()).unwrap_or(0.0);
        let order = key(self).total_cmp(&key(other)).then(other.loss.total_cmp(&self.loss));
        self.loss.is_finite() && (order.is_gt() || !other.loss.is_finite())
    }
}

/// Classes, one a position of each sample that is held back; none where there is no teacher, and where there are no labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    /// How many classes there are.
    pub classes: usize,
    pub student: Vec<usize>,
    /// Of several, what they say together.
    pub teacher: Vec<usize>,
    pub labels: Vec<usize>,
}

impl Answers {
    /// The share of samples on which the student answers this.
    pub(super) fn share_of(&self, truth: &[usize]) -> Option<f64> {
        let same = self.student.iter().zip(truth).filter(|(a, b)| a == b).count();
        (!truth.is_empty()).then(|| same as f64 / self.student.len() as f64)
    }
}

/// What happened in an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epoch {
    /// From 1 on; 0 is the student before training.
    pub number: usize,
    /// Mean over the steps; of epoch 0, that of what is held back.
    pub loss: f64,
    pub held_back: HeldBackScore,
    /// The loss was no number any more, or far above that of a student that knows nothing, or the student gave the same
    /// for every sample, so that training went back to the best one, at a lower rate.
    pub diverged: bool,
}
