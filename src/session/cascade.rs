//! The stage `cascade`: a small network in front of the student.

use super::early_exit::{source, watched};
use super::visit::StepRun;
use super::{Effect, State};
use crate::error::{Error, Kind, Result};
use crate::exits::cascade::{self, cascade};
use crate::exits::heads::ExitGoal;
use crate::recipe::CascadeStage;

impl StepRun<'_, '_> {
    /// Puts the small network in front, if that saves anything.
    pub fn cascade(&mut self, state: &mut State<'_>, stage: &CascadeStage) -> Result<Effect> {
        let (data, student) = (&self.session.data, &mut state.student);
        let small = data.smalls.iter().find(|s| s.0 == stage.small).map(|s| &s.1);
        let small = small.ok_or_else(|| Error::internal(format!("{} was not loaded", stage.small.display())))?;
        let made = source(data, stage.samples).and_then(|source| {
            let labels = source.labels.is_some();
            let big = &*student;
            let made = watched(self.observer(), |progress| cascade(small, big, &source, stage.max_drop, progress))?;
            Ok((made, labels))
        });
        match made {
            Ok((made, labels)) => {
                self.note(&stage.small.display().to_string(), &told(&made, labels), true);
                self.warn_of_few(CascadeStage::NAME, ExitGoal::MaxDrop(stage.max_drop), made.samples);
                if made.course.shares[0] == 1.0 {
                    self.note(CascadeStage::NAME, "the small network answers everything: it would do alone", true);
                }
                *student = made.model;
                Ok(Effect::default())
            }
            // The two do not go together: that is an answer, not a fault of the recipe.
            Err(e) if e.kind() == Kind::Target => {
                self.note(CascadeStage::NAME, &e.advice(), false);
                Ok(Effect { missed: Some(e.advice()), ..Effect::default() })
            }
            Err(e) => Err(e),
        }
    }
}

fn told(made: &cascade::Cascade, labels: bool) -> String {
    let right = if labels { "right" } else { "as the big one's" };
    format!(
        "in front, {right} for {:.2} % by itself at {:.2} of the MACs; temperature {:.2}, calibration error {:.2} % → {:.2} %; answers above {:.4}, {:.1} %: mean MACs {:.2}, {right} for {:.2} % against {:.2} %, on {} samples",
        100.0 * made.right.0,
        made.macs.0 as f64 / made.macs.1 as f64,
        made.temperature,
        100.0 * made.error.0,
        100.0 * made.error.1,
        made.threshold,
        100.0 * made.course.shares[0],
        made.course.cost / made.macs.1 as f64,
        100.0 * made.course.right,
        100.0 * made.right.1,
        made.samples
    )
}
