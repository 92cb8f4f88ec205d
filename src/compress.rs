//! A recipe from end to end, in one call. [`Session`] runs step by step, and lets runs that begin alike share their work.

#[cfg(feature = "exec")]
pub use crate::session::Training;
pub use crate::session::{Data, Observer, Outcome, Silent, measure, measure_at};

use crate::error::Result;
use crate::ir::Model;
use crate::recipe::{Action, Recipe};
use crate::session::Session;
use std::path::Path;

/// Runs the first `stop_after` steps of a recipe (all, if `None`) on a copy of the teacher. `teacher_bytes` is what its
/// files take, for the report.
///
/// # Errors
/// If the recipe does not fit the model, or, as an internal error, if a pass broke the graph.
pub fn compress(
    teacher: &Model,
    teacher_bytes: u64,
    recipe: &Recipe,
    stop_after: Option<usize>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    compress_on(Data::default(), teacher, teacher_bytes, recipe, stop_after, observer)
}

/// As [`compress`], with data.
///
/// # Errors
/// As [`compress`], and if the data cannot be run through the model.
pub fn compress_on(
    data: Data<'_>,
    teacher: &Model,
    teacher_bytes: u64,
    recipe: &Recipe,
    stop_after: Option<usize>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let plan = recipe.plan()?;
    compress_planned(data, teacher, teacher_bytes, (recipe, &plan), stop_after, observer)
}

/// As [`compress_on`], with the plan of the recipe.
pub(crate) fn compress_planned(
    data: Data<'_>,
    teacher: &Model,
    teacher_bytes: u64,
    (recipe, plan): (&Recipe, &[(String, Action)]),
    stop_after: Option<usize>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let session = Session::new(teacher, teacher_bytes, data, observer);
    let mut state = session.start_planned(recipe, plan, stop_after)?;
    let steps = &recipe.steps[..state.planned()];
    let exact = plan[..steps.len()].iter().take_while(|(_, action)| action.is_exact()).count();
    for (i, (step, (_, action))) in steps.iter().zip(plan).enumerate() {
        if i == exact {
            session.forecast(&state, &steps[i..])?;
        }
        session.run(&mut state, step, action)?;
    }
    let resolved = Recipe { steps: state.resolved().to_vec(), ..recipe.clone() };
    let mut outcome = session.finish(state)?;
    outcome.report.recipe = resolved.moved_to(Path::new("")).to_toml()?;
    Ok(outcome)
}
