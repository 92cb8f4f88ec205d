//! Puts a small network in front of the model: it answers what it is sure of, the model the rest.
//!
//! It takes `--train DATA` or `--calib DATA`, and sets the threshold on the small network's largest probability, after
//! temperature scaling (Guo et al. 2017, On Calibration of Modern Neural Networks), to the one that saves most while at
//! most `max-drop` of the samples are lost, with the margin that `early-exit` has: right answers with labels, answers of the
//! model without. Both networks have the same inputs, outputs and opset; constants that both have are stored once. If no
//! threshold saves anything, the model stays as it is, and the exit code is 2. `tutee cascade` does this alone.
//!
//! | option | | default |
//! |---|---|---|
//! | `small` | the small network's file, relative to the recipe | |
//! | `max-drop` | share of right answers that may be lost | 0.5 % |
//! | `samples` | how many samples to use, evenly chosen | 8192 |
//!
//! In the file the model is in the else branch of an `If`; see `early-exit` for what that means, and for `--stages`.

use super::Step;
use crate::passes::options::{OptionsError, Share, read};
use serde::Deserialize;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The stage `cascade`.
#[derive(Debug, Clone)]
pub struct CascadeStage {
    /// The model that is asked first.
    pub small: PathBuf,
    /// Share of the samples that may be lost.
    pub max_drop: f64,
    /// Samples that the threshold is set by, at most.
    pub samples: usize,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    small: Option<PathBuf>,
    max_drop: Share,
    samples: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Options {
        Options { small: None, max_drop: Share(0.005), samples: NonZeroUsize::MIN.saturating_add(8191) }
    }
}

impl CascadeStage {
    /// What recipes call it.
    pub const NAME: &str = "cascade";

    /// Reads the options; paths are relative to `folder`.
    ///
    /// # Errors
    /// If an option is unknown or has a value it cannot have, or there is no small network.
    pub(super) fn read(step: &Step, folder: &Path) -> Result<CascadeStage, OptionsError> {
        let o: Options = read(step.options.clone())?;
        let small = o.small.ok_or_else(|| OptionsError {
            key: None,
            what: "`cascade` needs a small network".into(),
            help: Some("give `small`, the path of its file".into()),
        })?;
        Ok(CascadeStage { small: folder.join(small), max_drop: o.max_drop.0, samples: o.samples.get() })
    }

    /// The manual page: the doc comment that heads this file.
    pub fn manual() -> String {
        crate::passes::manual(include_str!("cascade.rs"))
    }
}
