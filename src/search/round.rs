//! Candidates that are made elsewhere. A search is walked through with what was measured so far; where it comes to a candidate
//! that was not, that is to be made, and so are those that it would come to next if this one were no better than what there is.

use super::ladder::Trainee;
use super::plan::{LossWeights, Plan};
use super::predict::Aim;
use super::run::SearchRun;
use super::store::Trials;
use super::{Candidate, Found};
use crate::check::Score;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A candidate that is to be made, with all that its making depends on beside the search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CandidateTask {
    /// What is to be done, in a few words.
    pub what: String,
    /// Bytes of a file of codes beside those of its constants, and whether they were measured.
    overhead: f64,
    measured: bool,
    of: Of,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Untrained { prune: u32, split: u32, bytes: Option<u64>, loss_weights: LossWeights },
    Trained(Trainee),
}

/// A candidate that was not made.
pub enum OpenCandidate {
    Untrained(Aim),
    Trained(Trainee),
}

/// Candidates that are made at the same time.
#[derive(Debug, Default)]
pub struct Round {
    most: usize,
    tasks: Vec<CandidateTask>,
}

/// What came of a walk.
#[derive(Debug)]
pub enum Walked {
    /// These are to be made first, the one that is needed before all others.
    Round(Vec<CandidateTask>),
    /// All was measured.
    Found(Box<Found>),
}

impl SearchRun<'_, '_> {
    /// Walks through the search with what was measured. A round has `most` candidates at most.
    ///
    /// # Errors
    /// As [`SearchRun::search`].
    pub fn replay(mut self, most: usize) -> Result<Walked> {
        self.round = Some(Round { most: most.max(1), tasks: Vec::new() });
        let why = self.walk()?;
        let tasks = self.round.take().unwrap_or_default().tasks;
        match tasks.is_empty() {
            true => Ok(Walked::Found(Box::new(self.found(why)?))),
            false => Ok(Walked::Round(tasks)),
        }
    }

    /// Makes a candidate, and gives what was measured.
    ///
    /// # Errors
    /// If it cannot be made, or was interrupted.
    pub fn make(mut self, task: &CandidateTask) -> Result<Trials> {
        (self.space.overhead, self.space.measured) = (task.overhead, task.measured);
        let done = match task.of.clone() {
            Of::Untrained { prune, split, bytes, loss_weights } => {
                self.attempt(Aim { prune, split, bytes, loss_weights, loss: 0.0 })?
            }
            Of::Trained(trainee) => self.train(trainee)?,
        };
        match done {
            true => Ok(self.maker.measured()),
            false => Err(Error::input("the job was interrupted").help("run it again: nothing of it is kept")),
        }
    }

    /// Adds a candidate to the round, and takes it to be no better than what there is. Says whether the round has room left:
    /// until the bytes are known that codes take beside constants, what is made depends on the first that has codes.
    pub(super) fn put_off(&mut self, plan: &Plan, open: OpenCandidate) -> bool {
        self.maker.missing = false;
        let (overhead, measured) = (self.space.overhead, self.space.measured);
        let Some(round) = &mut self.round else { return false };
        let of = match &open {
            OpenCandidate::Untrained(Aim { prune, split, bytes, loss_weights, .. }) => {
                Of::Untrained { prune: *prune, split: *split, bytes: *bytes, loss_weights: loss_weights.clone() }
            }
            OpenCandidate::Trained(trainee) => Of::Trained(trainee.clone()),
        };
        let what = plan.to_string();
        round.tasks.push(CandidateTask { what: what.clone(), overhead, measured, of });
        let room = (measured || !self.space.encodes) && round.tasks.len() < round.most;
        match open {
            OpenCandidate::Untrained(aim) => self.aims.push(aim),
            OpenCandidate::Trained(trainee) => self.trained.push((trainee, f64::INFINITY)),
        }
        let (accuracy, agreement, confusion) = Default::default();
        let score = Score { samples: 0, loss: f64::INFINITY, drop: 1.0, accuracy, agreement, confusion };
        self.tried.push(Candidate { what, steps: Vec::new(), size: self.limits.teacher, score });
        room
    }

    /// Whether what is to be trained is not known yet: the students that it goes by are being made.
    pub(super) fn waits_to_train(&self) -> bool {
        let waits = |task: &CandidateTask| matches!(task.of, Of::Untrained { .. });
        self.round.as_ref().is_some_and(|round| round.tasks.iter().any(waits))
    }
}
