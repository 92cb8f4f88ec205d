//! How many values each weight gets where a budget decides.

use super::clustered::{Clustered, Cut, layouts};
use super::{ClusterWeights, NODES, open};
use crate::analysis::cost::Cost;
use crate::ir::{Graph, NodeId, Tensor, ValueId};
use crate::math::codes::{Layout, codes_per_byte};
use crate::passes::options::{self, weight};
use crate::passes::{Choice, Context, Fitted, Measure, Offer, Offers, SensitivityQuery, Site, sharing};
use std::collections::HashSet;

const NOT_FINITE: &str = "it holds numbers that are not finite";

/// The most levels for each number of codes that a byte holds.
const LEVELS: [usize; 6] = [2, 3, 4, 6, 16, 256];

/// Asks of every layer what share of its output's variance each number of levels loses.
pub fn query<'a>(pass: &'a ClusterWeights, cx: &Context<'a>) -> SensitivityQuery<'a> {
    let graph = cx.graph;
    let layers: HashSet<NodeId> = options::layers(graph)
        .into_iter()
        .filter(|&n| weight(graph, n).is_some_and(|w| open(graph, w.1).is_ok()))
        .collect();
    SensitivityQuery { measure: Measure::Levels, layers, note: Box::new(move |fitted| lost(pass, graph, fitted)) }
}

fn lost(pass: &ClusterWeights, graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let open = open(graph, fitted.linear.weight)?;
    let (tensor, cut) = (open.tensor, Cut::along(open.axis));
    let all: f64 = fitted.layer.parts.iter().map(|p| p.fit.yy.sum()).sum();
    if all <= 0.0 {
        return Err("what it gives does not vary".into());
    }
    let values = tensor.as_f32().ok_or("its weights are no numbers")?;
    let weights = super::fitted::importance(fitted.layer, fitted.linear, tensor.len());
    let scale = fitted.linear.scale().powi(2);
    let share = |levels: usize| {
        let new = Clustered::new(tensor, cut, levels, pass.groups(levels), Some(&weights))?;
        let each = values.iter().zip(new.weights()).zip(&weights);
        let lost: f64 = each.map(|((&w, rounded), &x)| f64::from(x) * (f64::from(w) - rounded).powi(2)).sum();
        Some(scale * lost / all)
    };
    LEVELS.into_iter().map(|levels| share(levels).ok_or(NOT_FINITE.into())).collect()
}

/// What may be done with a weight.
pub fn offers(pass: &ClusterWeights, cx: &Context<'_>, value: ValueId) -> Result<Offers, String> {
    let open = open(cx.graph, value)?;
    let tensor = open.tensor;
    if let Some(why) = cx.selected.refuses(cx.graph, &Site::Codes(value)) {
        return Err(why);
    }
    let only_layers = sharing::held(cx.graph, value).is_none();
    let layer = sharing::readers(cx.graph, value).first().copied().filter(|_| only_layers);
    let told = layer.and_then(|n| cx.measured(n, Measure::Levels));
    let parameters = tensor.len() as u64;
    let stored = |bytes: usize| Cost { parameters, macs: Some(0), stored: bytes as u64 };
    let whole = cx.graph.value(value).stored_len();
    let mut list = Vec::new();
    for (i, levels) in LEVELS.into_iter().enumerate() {
        let groups = pass.groups(levels);
        let cut = open.cut(levels, pass.encode).unwrap_or(Cut::along(open.axis));
        let bytes = bytes(tensor, cut, levels, groups).ok_or("its shape cannot be cut into parts")? + NODES;
        if bytes < whole {
            let plain = || Some(Clustered::new(tensor, cut, levels, groups, None)?.error(tensor));
            let loss = match told {
                Some(told) => told.get(i).copied(),
                None if cx.max_loss.is_infinite() => Some(0.0),
                None => plain(),
            };
            list.push(Offer { choice: Choice::Levels(levels), cost: stored(bytes), loss: loss.ok_or(NOT_FINITE)? });
        }
    }
    Ok(Offers { whole: stored(whole), list })
}

/// Bytes of codes and codebooks.
fn bytes(tensor: &Tensor, cut: Cut, levels: usize, groups: usize) -> Option<usize> {
    let width = tensor.byte_len().checked_div(tensor.len())?;
    let part = |l: Layout| l.padded() / codes_per_byte(levels) + l.groups * levels * width;
    Some(layouts(tensor, cut, levels, groups)?.into_iter().map(|(_, layout)| part(layout)).sum())
}
