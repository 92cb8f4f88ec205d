//! What a job writes of networks with exits: the stages, and which exit was taken.

use super::Outputs;
use crate::analysis::sizes::InputSizes;
use crate::error::{Error, Result};
use crate::ir::Model;
use crate::recipe::Action;
use crate::report::Report;
use crate::session::measure_at;

/// Refuses what is asked of exits where there will be none.
pub(super) fn check(output: &Outputs, plan: &[(String, Action)], model: &Model) -> Result<()> {
    let option = match &output.exit_output {
        Some(_) => "--exit-output",
        None if output.stages => "--stages",
        None => return Ok(()),
    };
    let made = plan.iter().any(|(_, action)| action.makes_exits());
    if !made && model.graph.clone().flatten()? == 0 {
        return Err(Error::input(format!("{option} is for networks with exits"))
            .because("neither has the model any, nor does a step make them")
            .help("add a step `early-exit`, or leave the option away"));
    }
    if output.stages && output.to_stdout() {
        return Err(Error::input("stages cannot be written to standard output").help("give a file name with -o"));
    }
    match &output.exit_output {
        Some(name) if name.is_empty() || model.graph.all_names().contains(name) => {
            Err(named(name, "a value of the model has that name, or it is empty"))
        }
        _ => Ok(()),
    }
}

/// Adds the output that says which exit was taken, where a student has exits and is to have it.
pub(super) fn name(output: &Outputs, student: &mut Model, sizes: &InputSizes, report: &mut Report) -> Result<()> {
    let Some(name) = &output.exit_output else { return Ok(()) };
    if !has_exits(student)? {
        return Ok(());
    }
    if student.graph.all_names().contains(name) {
        return Err(named(name, "a value of the student has that name"));
    }
    student.graph.exit_output = Some(name.clone());
    report.student = measure_at(student, sizes)?;
    Ok(())
}

fn named(name: &str, why: &str) -> Error {
    let what = format!("the exit output cannot be called \"{name}\"");
    Error::input(what).because(why).help("give another --exit-output")
}

/// A model as it is without the `If` nodes of its exits, if it has exits.
pub(super) fn flat(model: &Model) -> Result<Option<Model>> {
    let mut flat = model.clone();
    Ok(has_exits(&mut flat)?.then_some(flat))
}

/// Whether a model has exits, which are taken out of the bodies of `If` nodes if they are there.
fn has_exits(model: &mut Model) -> Result<bool> {
    Ok(!model.graph.exits().is_empty() || model.graph.flatten()? > 0)
}
