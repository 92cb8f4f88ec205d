//! Lets easy inputs leave early: a small head after a block answers where it is sure, and the rest does not run.
//!
//! It takes `--train DATA` or `--calib DATA`, of which a part is held back. Heads (global average pool, then linear) are
//! fitted to the rest without training: by ridge regression to the teacher's logits, then by multinomial logistic regression
//! on its probabilities, which count half where the data has labels. Temperature scaling (Guo et al. 2017, On Calibration of
//! Modern Neural Networks) goes by one half of what is held back; the calibration error of the other half, before and after,
//! is in the report. The thresholds of all exits are then set together, for the smallest mean multiply-accumulates found at
//! which the held-back samples lose no more than allowed: right answers with labels, answers of the whole network without. A
//! loss that is seen of few samples may be luck: 1.645 of its standard deviations are left free. None seen of n samples may
//! still be 3 / n of all (Hanley, Lippman-Hand 1983, If nothing goes wrong, is everything all right?): where that is more
//! than allowed, the report says so. Samples that the network itself was trained on lose less than others will, and so do, with `--calib` alone, those
//! that other steps of the recipe repair layers by: give `--train` too. (Teerapittayanon, McDanel, Kung 2016, BranchyNet.)
//!
//! | option | | default |
//! |---|---|---|
//! | `exits` | how many at most: of a dozen places that everything passes through, those that save most | 2 |
//! | `after` | instead: the nodes or values after which to exit | |
//! | `max-drop` | share of right answers that may be lost. If no exit saves anything at that, the model stays as it is, and the exit code is 2 | 0.5 % |
//! | `threshold` | instead: the probability that the answer of an exit must exceed | |
//! | `hold-back` | share of the data that thresholds are set by | 20 % |
//! | `samples` | how many samples to use, evenly chosen | 8192 |
//!
//! In the file an exit is an `If`, whose else branch has the rest of the network; in a batch it is taken only when every
//! sample agrees, so run it at batch 1. `--stages` writes one file a stage beside it, for runtimes that plan an `If` anew
//! at every call; stages that the manifest of an earlier run lists, and
//! that the student no longer has, are removed. `--exit-output NAME` adds an output that says which exit was taken. Steps that follow work on heads
//! and trunk as on any network, and `distill` trains the heads with it; after each, thresholds are set anew for `max-drop`: if
//! no exit is taken in the end, the target is missed.

use super::{OneOrMore, Step};
use crate::exits::heads::{ExitGoal, ExitPlaces, MOST_EXITS};
use crate::passes::options::{OptionsError, Share, one_of, read};
use serde::Deserialize;
use std::num::NonZeroUsize;

/// The stage `early-exit`.
#[derive(Debug, Clone)]
pub struct EarlyExit {
    /// Where exits are put.
    pub places: ExitPlaces,
    /// What thresholds are set for.
    pub goal: ExitGoal,
    /// Share of the samples that thresholds are set by, and heads learn nothing from.
    pub hold_back: f64,
    /// Samples that are used, at most.
    pub samples: usize,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    exits: Option<NonZeroUsize>,
    after: Option<OneOrMore<String>>,
    max_drop: Option<Share>,
    threshold: Option<Share>,
    hold_back: Share,
    samples: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            exits: None,
            after: None,
            max_drop: None,
            threshold: None,
            hold_back: Share(0.2),
            samples: NonZeroUsize::MIN.saturating_add(8191),
        }
    }
}

/// Right answers that may be lost, if nobody says how many.
const MAX_DROP: f64 = 0.005;
/// Exits at most, if nobody says how many or where.
const EXITS: usize = 2;

impl EarlyExit {
    /// What recipes call it.
    pub const NAME: &str = "early-exit";

    /// # Errors
    /// If an option is unknown or has a value it cannot have.
    pub(super) fn read(step: &Step) -> Result<EarlyExit, OptionsError> {
        let o: Options = read(step.options.clone())?;
        let excluded = |what| OptionsError { key: None, what, help: None };
        let wrong = |key: &str, what: &str| OptionsError {
            key: Some(key.into()),
            what: format!("`{key}` must be {what}"),
            help: None,
        };
        let after = o.after.map(|names| names.0);
        if after.as_ref().is_some_and(|names| names.is_empty() || names.len() > MOST_EXITS) {
            return Err(wrong("after", &format!("the name of a node or value, or up to {MOST_EXITS} of them")));
        }
        if !(o.hold_back.0 > 0.0 && o.hold_back.0 < 1.0) {
            return Err(wrong("hold-back", "a share above 0 and below 1"));
        }
        let places = [("after", after.map(ExitPlaces::After)), ("exits", o.exits.map(|n| ExitPlaces::Best(n.get())))];
        let goals = [
            ("max-drop", o.max_drop.map(|s| ExitGoal::MaxDrop(s.0))),
            ("threshold", o.threshold.map(|s| ExitGoal::Threshold(s.0))),
        ];
        Ok(EarlyExit {
            places: one_of(places).map_err(excluded)?.unwrap_or(ExitPlaces::Best(EXITS)),
            goal: one_of(goals).map_err(excluded)?.unwrap_or(ExitGoal::MaxDrop(MAX_DROP)),
            hold_back: o.hold_back.0,
            samples: o.samples.get(),
        })
    }

    /// The manual page: the doc comment that heads this file.
    pub fn manual() -> String {
        crate::passes::manual(include_str!("early_exit.rs"))
    }
}
