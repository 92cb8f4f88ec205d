//! Layers of teacher and student, side by side.

use super::{FitResult, StepReport};
use crate::analysis::weights::LayerCost;
use serde::Serialize;
use std::collections::HashMap;

/// A layer of the teacher with what it became, or one that the student has besides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerReport {
    /// The node.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// As in the teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<LayerCost>,
    /// As in the student: several where it was split, none where it is gone or was put into another.
    pub after: Vec<LayerCost>,
    /// What was done to it, step by step: the pass, and what it says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<(String, String)>,
    /// The last fit to calibration data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FitResult>,
}

impl LayerReport {
    /// Weights before and after.
    pub fn weights(&self) -> (u64, u64) {
        (self.before.as_ref().map_or(0, |l| l.weights), self.after.iter().map(|l| l.weights).sum())
    }

    /// Stored bytes before and after.
    pub fn bytes(&self) -> (u64, u64) {
        (self.before.as_ref().map_or(0, |l| l.bytes), self.after.iter().map(|l| l.bytes).sum())
    }

    /// Multiply-accumulates before and after; `None` if they depend on run-time dims.
    pub fn macs(&self) -> (Option<u64>, Option<u64>) {
        (self.before.as_ref().map_or(Some(0), |l| l.macs), self.after.iter().map(|l| l.macs).sum())
    }
}

/// The layers of two models: what the student's are made of is told by their names, which begin with those of the
/// teacher's. In the order of the teacher, then of the student.
pub fn layers(teacher: Vec<LayerCost>, student: Vec<LayerCost>, steps: &[StepReport]) -> Vec<LayerReport> {
    let empty = |name: &str, op: &str| LayerReport {
        name: name.into(),
        op: op.into(),
        before: None,
        after: Vec::new(),
        done: Vec::new(),
        error: None,
    };
    let mut all: Vec<LayerReport> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    for layer in teacher {
        by_name.entry(layer.name.clone()).or_insert(all.len());
        all.push(LayerReport { before: Some(layer.clone()), ..empty(&layer.name, &layer.op) });
    }
    for layer in student {
        let at = origin(&by_name, &layer.name);
        let at = at.unwrap_or_else(|| {
            by_name.insert(layer.name.clone(), all.len());
            all.push(empty(&layer.name, &layer.op));
            all.len() - 1
        });
        all[at].after.push(layer);
    }
    for row in steps.iter().flat_map(|s| &s.rows) {
        let own = [row.site.clone()];
        for name in if row.layers.is_empty() { &own[..] } else { &row.layers } {
            let Some(at) = origin(&by_name, name) else { continue };
            if row.done {
                all[at].done.push((row.pass.clone(), row.note.clone()));
            }
            all[at].error = row.error.or(all[at].error);
        }
    }
    all
}

/// The layer that a name is of: its own, or what it was made from.
fn origin(by_name: &HashMap<String, usize>, name: &str) -> Option<usize> {
    let ends = std::iter::once(name.len()).chain(name.rmatch_indices('.').map(|m| m.0));
    ends.filter(|&end| end > 0).find_map(|end| by_name.get(&name[..end]).copied())
}
