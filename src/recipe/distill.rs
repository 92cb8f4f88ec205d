//! Trains the student on what its teacher says of training data. (Hinton, Vinyals, Dean 2015, Distilling the Knowledge in
//! a Neural Network.)
//!
//! It takes `--train DATA`, or `train` under `[data]` in the recipe. The loss of a sample is α T² KL(teacher ‖
//! student), both softened by the temperature T, and, with labels, 1 − α times their cross-entropy. A network that ends
//! in a softmax along the last axis names a class at each position: the loss is the mean over all of them, without
//! labels. Of any other it is the squared difference between its outputs and the first teacher's, as a share of the
//! squares of the latter. A part of the data is held back: it judges the student after every epoch, and the best
//! student is what comes out; if no epoch is better than none, a warning says so. Ctrl-C ends the training, not the
//! run: the best student so far goes on. A loss that explodes, and a student that gives the same for every sample, send
//! training back to the best student, at a lower rate. A student that in the end still answers the same for every
//! sample, or is right no more often than whoever does while its teacher is not like that, is warned of, and misses a
//! target that was set.
//!
//! Without calibration data, the steps before it take some from the training data: 512 samples, or `calib-samples` under
//! `[data]`, evenly chosen from what is not held back. A row of each such step says so.
//!
//! | option | | default |
//! |---|---|---|
//! | `teachers` | model files, relative to the recipe; of several, the mean of their probabilities. None (`[]`): labels alone | the model that the recipe began with |
//! | `temperature` | T, from 0.01 to 1000 | 4 |
//! | `alpha` | α: the teachers' share in the loss | 0.9 |
//! | `labels` | whether to use the labels of the data | if there are any |
//! | `features` | whether the student's activations are to match the first teacher's, too, wherever both have a value of the same name and shape | `false` |
//! | `epochs`, `steps` or `minutes` | how long, one of them; by the clock, the same student comes out only of the same speed | 10 epochs |
//! | `batch` | samples of a step | 128 |
//! | `optimizer` | `adamw`, `sgd` (with Nesterov's momentum of 0.9), or `lamb`, whose rate is a share of each weight's length, for networks with weights of very different scales | `adamw` |
//! | `learning-rate` | its peak | found by a range test of 60 steps; with codebooks and `adamw` not more than takes a weight past 16 centroids |
//! | `schedule` | `one-cycle`, `cosine` or `constant` | `one-cycle` |
//! | `weight-decay` | of matrices and kernels | 0.01 |
//! | `augment` | `flip`, `crop:PIXELS`: images mirrored, and moved by up to so many pixels, at random | none |
//! | `reassign` | after `cluster-weights`: whether weights may change their codes, or only the values of the codebooks train | `true` |
//! | `batch-norm` | whether convolutions that have no BatchNormalization get one while training; `false` for small batches, whose statistics are off | `true` |
//! | `hold-back` | share of the data that judges | 10 % |
//! | `seed` | of the order of samples and of augmentation | 0 |
//!
//! What trains: weights and biases of convolutions and matrix products, scales and biases of BatchNormalization and
//! LayerNormalization, slopes of PRelu, and the codebooks behind them. Other constants stay. Before an operator that cannot
//! be trained through nothing trains; a row names it.
//!
//! What earlier steps made of the model stays: its shapes, the zeros of pruned weights, codes and codebooks; it is the only
//! step that may follow `cluster-weights`. After that every weight has a number behind it, which gradients move, and is
//! what the nearest centroid is, the mean of such numbers; with `reassign` = false codes stay, and centroids follow the
//! sums of the gradients of their weights. BatchNormalization trains with the statistics of batches. Convolutions that have
//! none get one while training, which at first changes nothing. Afterwards all are folded.

use super::{OneOrMore, Step};
use crate::distill::train::{Augment, Length, Options as Training};
use crate::distill::{Method, Schedule};
use crate::passes::options::{OptionsError, Share, one_of, read};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The stage `distill`.
#[derive(Debug, Clone)]
pub struct Distill {
    /// Models to learn from: `None` is the one that the recipe began with.
    pub teachers: Option<Vec<PathBuf>>,
    /// Whether to use labels; `None`: if there are any.
    pub labels: Option<bool>,
    /// Whether activations inside are matched, too.
    pub features: bool,
    /// Whether convolutions without BatchNormalization get one while training.
    pub batch_norm: bool,
    /// How it is trained.
    pub training: Training,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    teachers: Option<OneOrMore<PathBuf>>,
    temperature: f64,
    alpha: Share,
    labels: Option<bool>,
    features: bool,
    epochs: Option<NonZeroUsize>,
    steps: Option<NonZeroUsize>,
    minutes: Option<f64>,
    batch: NonZeroUsize,
    optimizer: OptimizerName,
    learning_rate: Option<f64>,
    schedule: ScheduleKind,
    weight_decay: f64,
    augment: OneOrMore<AugmentText>,
    reassign: bool,
    batch_norm: bool,
    hold_back: Share,
    seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            teachers: None,
            temperature: 4.0,
            alpha: Share(0.9),
            labels: None,
            features: false,
            epochs: None,
            steps: None,
            minutes: None,
            batch: NonZeroUsize::MIN.saturating_add(127),
            optimizer: OptimizerName::Adamw,
            learning_rate: None,
            schedule: ScheduleKind::OneCycle,
            weight_decay: 0.01,
            augment: OneOrMore(Vec::new()),
            reassign: true,
            batch_norm: true,
            hold_back: Share(0.1),
            seed: 0,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OptimizerName {
    Adamw,
    Lamb,
    Sgd,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ScheduleKind {
    OneCycle,
    Cosine,
    Constant,
}

#[derive(Debug)]
struct AugmentText(Augment);

impl<'de> Deserialize<'de> for AugmentText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<AugmentText, D::Error> {
        String::deserialize(d)?.parse().map(AugmentText).map_err(D::Error::custom)
    }
}

impl Distill {
    /// What recipes call it.
    pub const NAME: &str = "distill";

    /// Reads the options; paths are relative to `folder`.
    ///
    /// # Errors
    /// If an option is unknown or has a value it cannot have.
    pub(super) fn read(step: &Step, folder: &Path) -> Result<Distill, OptionsError> {
        let o: Options = read(step.options.clone())?;
        let wrong = |key: &str, want: &str| OptionsError {
            key: Some(key.into()),
            what: format!("`{key}` must be {want}"),
            help: None,
        };
        let lengths = [
            ("epochs", o.epochs.map(|n| Length::Epochs(n.get()))),
            ("steps", o.steps.map(|n| Length::Steps(n.get()))),
            ("minutes", o.minutes.map(Length::Minutes)),
        ];
        let length = one_of(lengths).map_err(|what| OptionsError { key: None, what, help: None })?;
        for (key, value) in [("minutes", o.minutes), ("learning-rate", o.learning_rate)] {
            if value.is_some_and(|v| !(v > 0.0 && v.is_finite())) {
                return Err(wrong(key, "a number above 0"));
            }
        }
        // Beyond, what is left of the logits are differences that single precision does not see.
        if !(0.01..=1000.0).contains(&o.temperature) {
            return Err(wrong("temperature", "from 0.01 to 1000"));
        }
        if !(o.weight_decay >= 0.0 && o.weight_decay.is_finite()) {
            return Err(wrong("weight-decay", "a number, 0 or more"));
        }
        if !(o.hold_back.0 > 0.0 && o.hold_back.0 < 1.0) {
            return Err(wrong("hold-back", "a share above 0 and below 1"));
        }
        let training = Training {
            length: length.unwrap_or(Length::Epochs(10)),
            batch: o.batch.get(),
            method: match o.optimizer {
                OptimizerName::Adamw => Method::ADAM_W,
                OptimizerName::Lamb => Method::LAMB,
                OptimizerName::Sgd => Method::SGD,
            },
            schedule: match o.schedule {
                ScheduleKind::OneCycle => Schedule::OneCycle,
                ScheduleKind::Cosine => Schedule::Cosine,
                ScheduleKind::Constant => Schedule::Constant,
            },
            rate: o.learning_rate,
            weight_decay: o.weight_decay,
            temperature: o.temperature,
            alpha: o.alpha.0,
            exits: Vec::new(),
            features: Vec::new(),
            frozen: Vec::new(),
            augment: o.augment.0.into_iter().map(|c| c.0).collect(),
            reassign: o.reassign,
            hold_back: o.hold_back.0,
            seed: o.seed,
        };
        let teachers = o.teachers.map(|t| t.0.iter().map(|path| folder.join(path)).collect());
        Ok(Distill { teachers, labels: o.labels, features: o.features, batch_norm: o.batch_norm, training })
    }

    /// The manual page: the doc comment that heads this file.
    pub fn manual() -> String {
        crate::passes::manual(include_str!("distill.rs"))
    }
}
