//! How a student is trained.

use super::Augment;
use crate::distill::{Method, Schedule};

/// How long a student is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    Epochs(usize),
    Steps(usize),
    /// The schedule goes by the clock: the same student comes out only of the same speed.
    Minutes(f64),
}

/// How a student is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub length: Length,
    /// Samples of a step.
    pub batch: usize,
    pub method: Method,
    pub schedule: Schedule,
    /// Peak of the learning rate; a range test finds one if there is none.
    pub rate: Option<f64>,
    pub weight_decay: f64,
    /// Of teacher and student, where the one is compared with the other.
    pub temperature: f64,
    /// Share of what the teachers say in the loss; labels have the rest.
    pub alpha: f64,
    /// Values, by name, that are logits too, and learn what the output learns: the heads of exits.
    pub exits: Vec<String>,
    /// Values, by name, that are to be what they are in the first teacher.
    pub features: Vec<String>,
    /// Constants, by name, that stay as they are.
    pub frozen: Vec<String>,
    pub augment: Vec<Augment>,
    /// Whether weights that are codes into codebooks may get other codes.
    pub reassign: bool,
    /// Share of the samples that is not trained with but judges the student.
    pub hold_back: f64,
    /// Of the order of samples, what is held back, and augmentation.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            length: Length::Epochs(10),
            batch: 128,
            method: Method::ADAM_W,
            schedule: Schedule::OneCycle,
            rate: None,
            weight_decay: 0.01,
            temperature: 4.0,
            alpha: 0.9,
            exits: Vec::new(),
            features: Vec::new(),
            frozen: Vec::new(),
            augment: Vec::new(),
            reassign: true,
            hold_back: 0.1,
            seed: 0,
        }
    }
}

impl Options {
    /// How many samples, of so many, are trained with at once.
    pub fn batch_of(&self, samples: usize) -> usize {
        let held = ((samples as f64 * self.hold_back) as usize).max(1);
        self.batch.min(samples.saturating_sub(held)).max(1)
    }
}
