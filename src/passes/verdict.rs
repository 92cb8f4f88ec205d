//! What a pass answers: a patch, or the reason why nothing is done.

use super::budget;
use crate::analysis::cost::Cost;
use crate::error::Result;
use crate::ir::Patch;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of reason it is that a site is left alone, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The recipe leaves it out: `skip`, `only`, `skip-first`, `skip-last`, `min-weights`.
    Recipe,
    /// The budget is met without it.
    Budget,
    /// It would get no smaller.
    NoGain,
    /// Something else holds it: another reader, an output of the model, channels that are coupled to frozen ones.
    Held,
    /// It is inside a body of control flow, or computes with integers.
    OutOfReach,
    /// Nothing is to be made good there.
    Settled,
    /// Its operator, type, shape or place is none that the pass takes, or the pass would not make it smaller.
    Form,
}

impl Why {
    /// In words, as a sentence goes on after "left alone".
    pub fn words(self) -> &'static str {
        match self {
            Why::Recipe => "by options",
            Why::Budget => "budget met without",
            Why::NoGain => "no gain",
            Why::Held => "held by something else",
            Why::OutOfReach => "in bodies, or integers",
            Why::Settled => "nothing to make good",
            Why::Form => "not of its kind",
        }
    }
}

/// Why a site is left alone, as it stands in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Its category.
    pub why: Why,
    /// In words, for the owner of the model.
    pub text: String,
}

impl Reason {
    /// A reason in words.
    pub fn new(why: Why, text: impl Into<String>) -> Reason {
        Reason { why, text: text.into() }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Reason {
        let why = if text == budget::WHOLE { Why::Budget } else { Why::Form };
        Reason { why, text }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Reason {
        text.to_string().into()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> String {
        reason.text
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The answer for one site.
#[derive(Debug)]
pub enum Verdict {
    /// What to do, and how it reads in the report.
    Patch(Patch, String),
    /// Why nothing is done.
    Skip(Reason),
}

impl Verdict {
    /// Leaves the site alone.
    pub fn skip(why: impl Into<Reason>) -> Result<Verdict> {
        Ok(Verdict::Skip(why.into()))
    }

    /// A patch with how it reads in the report, or why there is none.
    pub fn of<E: Into<Reason>>(outcome: std::result::Result<(Patch, String), E>) -> Verdict {
        match outcome {
            Ok((patch, what)) => Verdict::Patch(patch, what),
            Err(why) => Verdict::Skip(why.into()),
        }
    }
}

/// What becomes of all sites of a pass at once.
#[derive(Debug)]
pub struct JointVerdict {
    /// What to do, of all sites.
    pub patch: Patch,
    /// For each site, in order.
    pub outcomes: Vec<SiteOutcome>,
}

/// What becomes of one of several sites.
#[derive(Debug)]
pub struct SiteOutcome {
    /// How it reads in the report, or why nothing is done.
    pub what: std::result::Result<String, Reason>,
    /// The model's cost before and after, as if the sites changed one after the other.
    pub cost: Option<(Cost, Cost)>,
}
