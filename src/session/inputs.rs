//! What a recipe is given beside the model.

#[cfg(feature = "exec")]
use super::Training;
use crate::analysis::cost::cost;
use crate::analysis::sizes::InputSizes;
#[cfg(feature = "exec")]
use crate::calibrate;
#[cfg(feature = "exec")]
use crate::calibrate::Calibration;
use crate::error::{Error, Result};
use crate::ir::Model;
#[cfg(feature = "exec")]
use crate::recipe::Recipe;
use crate::recipe::{Action, Step};
#[cfg(feature = "exec")]
use std::path::PathBuf;

/// What a recipe may look at beside the model.
#[derive(Default)]
pub struct Data<'a> {
    /// What the model's inputs are where MACs are counted; if nothing is said, what calibration data says.
    pub sizes: InputSizes,
    /// With it, every step that changes what the network computes then fits the weights of the student to what the
    /// teacher gives on it, unless its `repair` is `"none"`, and may decide by it what to do.
    #[cfg(feature = "exec")]
    pub calibration: Option<&'a Calibration<'a>>,
    /// What the step `distill` trains with.
    #[cfg(feature = "exec")]
    pub training: Option<&'a Training<'a>>,
    /// Networks that the steps `cascade` name.
    #[cfg(feature = "exec")]
    pub smalls: &'a [(PathBuf, Model)],
    #[cfg(not(feature = "exec"))]
    #[doc(hidden)]
    pub nothing: std::marker::PhantomData<&'a ()>,
}

impl Data<'_> {
    /// The sizes at which a model's MACs are counted: none where the model itself says enough.
    pub fn sizes_for(&self, model: &Model) -> InputSizes {
        if cost(&model.graph).macs.is_some() {
            return InputSizes::default();
        }
        #[cfg(feature = "exec")]
        if let (true, Some(calibration)) = (self.sizes.is_empty(), self.calibration) {
            return calibration.sizes();
        }
        self.sizes.clone()
    }

    /// Whether it has what a step needs.
    ///
    /// `lent` says whether training data stands in for calibration data there.
    pub(super) fn suffices(&self, action: &Action, step: &Step, lent: bool) -> Result<()> {
        let lacks = |what: String, kind: &str, key: &str| {
            Err(Error::input(format!("{what} needs {kind} data"))
                .at(step.place())
                .help(format!("give --{key} DATA, or `{key}` under [data] in the recipe")))
        };
        #[cfg(feature = "exec")]
        let calibrates = self.calibration.is_some();
        #[cfg(not(feature = "exec"))]
        let calibrates = false;
        match action {
            Action::Pass(pass, _) if !calibrates && !lent => {
                pass.needs_data().map_or(Ok(()), |option| lacks(option, "calibration", "calib"))
            }
            #[cfg(feature = "exec")]
            Action::Distill(_) if self.training.is_none() => lacks("`distill`".into(), "training", "train"),
            #[cfg(feature = "exec")]
            Action::EarlyExit(_) | Action::Cascade(_) if !calibrates && self.training.is_none() => {
                lacks(format!("`{}`", step.name), "calibration or training", "calib")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(feature = "exec")]
impl<'a> Data<'a> {
    /// A part of the training data as calibration data, if there is no other and it suffices for that, and there is a step
    /// before step `last`, the last that trains, which it is of use to.
    pub(super) fn lent(
        &self,
        teacher: &Model,
        recipe: &Recipe,
        actions: &[&Action],
        last: usize,
    ) -> Option<Calibration<'a>> {
        let training = self.training.filter(|_| self.calibration.is_none())?;
        actions.get(..last)?.iter().find(|action| !action.is_exact() && matches!(action, Action::Pass(..)))?;
        let trainings = actions.iter().filter_map(|action| match action {
            Action::Distill(stage) => Some(&stage.training),
            _ => None,
        });
        let samples = recipe.data.calib_samples.unwrap_or(calibrate::SAMPLES);
        training.calibration(teacher, samples, &trainings.collect::<Vec<_>>()).ok()
    }
}
