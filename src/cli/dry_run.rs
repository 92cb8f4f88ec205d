//! `tutee compress --dry-run`: what a recipe would do, as far as that can be said without data and without the work.

use super::terminal::Stream;
use crate::analysis::sizes::InputSizes;
use crate::compress::{Silent, compress};
use crate::error::Result;
use crate::figures::{bytes, grouped};
use crate::ir::Graph;
use crate::onnx::Loaded;
use crate::passes::{Context, Pass, Phase, Site, options::Selection};
use crate::plain;
use crate::recipe::{Action, Recipe};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::process::ExitCode;

/// What is known of a step before it runs.
#[derive(Debug, Serialize)]
struct Planned {
    step: String,
    /// Places that it would look at.
    sites: usize,
    /// Those that the recipe leaves out, or that stay whatever data says.
    left_alone: usize,
    /// Elements of the weights at the others.
    weights: u64,
    note: String,
}

/// Says what the recipe would do to the model, and writes nothing.
///
/// Clean passes at the beginning are run, since that is exact and takes little; what comes after them is told for the model
/// as it is then.
pub fn run(loaded: &Loaded, recipe: &Recipe, sizes: &InputSizes, json: bool) -> Result<ExitCode> {
    let plan = recipe.plan()?;
    let exact = |action: &Action| match action {
        Action::Nothing | Action::Clean { .. } => true,
        Action::Pass(pass, _) => pass.phase() == Phase::Clean,
        #[cfg(feature = "exec")]
        _ => false,
    };
    let first = plan.iter().take_while(|(_, action)| exact(action)).count();
    let cleaned = compress(&loaded.model, loaded.bytes, recipe, Some(first), &Silent)?;
    let mut graph = cleaned.student.graph;
    graph.flatten()?;
    let mut steps = Vec::new();
    for (i, ((name, action), step)) in plan.iter().zip(&recipe.steps).enumerate() {
        steps.push(match action {
            _ if i < first => {
                let done = &cleaned.report.steps[i];
                let changes = done.rows.iter().filter(|r| r.done).count();
                let what = format!("{} → {} operators", grouped(done.before.nodes), grouped(done.after.nodes));
                Planned { step: name.clone(), sites: changes, left_alone: 0, weights: 0, note: what }
            }
            Action::Pass(pass, selection) => {
                let planned = planned(&graph, name, &**pass, selection, sizes);
                planned.map_err(|e| step.error(e))?
            }
            _ => {
                Planned { step: name.clone(), sites: 0, left_alone: 0, weights: 0, note: "a stage: takes data".into() }
            }
        });
    }
    if json {
        let json = serde_json::json!({
            "version": 1, "teacher": cleaned.report.teacher, "cleaned": cleaned.report.student, "steps": steps,
        });
        return super::print(&plain::json(&json)?);
    }
    let (t, s) = (&cleaned.report.teacher, &cleaned.report.student);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(Stream::Out.columns());
    table.set_header(["step", "sites", "left alone", "weights there", ""]);
    for step in &steps {
        let weights = if step.weights > 0 { grouped(step.weights) } else { String::new() };
        let left = if step.left_alone > 0 { grouped(step.left_alone as u64) } else { String::new() };
        table.add_row([
            plain::line(&step.step).into_owned(),
            grouped(step.sites as u64),
            left,
            weights,
            plain::line(&step.note).into_owned(),
        ]);
    }
    let mut out: String = table.to_string().lines().map(|l| format!("{}\n", l.trim())).collect();
    let sizes = format!("{}, {} weights", bytes(t.bytes), grouped(t.weights));
    let clean = if first > 0 { format!("; after the clean steps {}", bytes(s.bytes)) } else { String::new() };
    out.push_str(&format!("\nthe teacher has {sizes}{clean}\nnothing was written: leave --dry-run away to do it\n"));
    super::print(&out)
}

/// Sites of a pass, as the model is before the steps that change what it computes.
fn planned(
    graph: &Graph,
    name: &str,
    pass: &dyn Pass,
    selection: &Selection,
    sizes: &InputSizes,
) -> std::result::Result<Planned, crate::passes::options::OptionsError> {
    let selected = selection.resolve(graph)?;
    pass.fits(graph)?;
    let cx = Context {
        graph,
        selected: &selected,
        repairs: false,
        sizes,
        max_loss: f64::INFINITY,
        sensitivity: None,
        fitted: None,
    };
    let sites = pass.sites(&cx);
    let stays = |site: &&Site| selected.refuses(graph, site).is_some() || pass.stays(&cx, site).is_some();
    let (left, open): (Vec<&Site>, Vec<&Site>) = sites.iter().partition(stays);
    let budget = pass.budget().map(|b| format!("the budget is {} of the {}", share(b.share()), b.unit()));
    let note = match (budget, pass.needs_data()) {
        (_, Some(option)) => format!("{option} takes --calib DATA"),
        (Some(budget), None) => budget,
        (None, None) => String::new(),
    };
    let weights = open.iter().map(|site| site.weights(graph)).sum();
    Ok(Planned { step: name.into(), sites: open.len(), left_alone: left.len(), weights, note })
}

fn share(share: f64) -> String {
    format!("{} %", (share * 1e4).round() / 1e2)
}
