//! How many values each weight gets where a budget decides.

use super::clustered::{Clustered, Coding, Cut};
use super::decoder::Decoder;
use super::fitted;
use super::{ClusterWeights, NODES, Open, digits, open};
use crate::analysis::bytes;
use crate::analysis::cost::Cost;
use crate::ir::{Graph, NodeId, Patch, ValueId};
use crate::passes::options::{self, weight};
use crate::passes::{Choice, Context, Fitted, Measure, Offer, Offers, SensitivityQuery, Site, sharing};
use std::collections::HashSet;

const NOT_FINITE: &str = "it holds numbers that are not finite";

/// Levels, and numbers that a code stands for: the most levels for each number of codes that a byte holds, and vectors.
const CODINGS: [(usize, usize); 11] =
    [(2, 1), (3, 1), (4, 1), (6, 1), (16, 1), (256, 1), (256, 2), (256, 3), (256, 4), (256, 6), (256, 8)];

/// Asks of every layer what share of its output's variance each number of levels loses.
pub fn query<'a>(pass: &'a ClusterWeights, cx: &Context<'a>) -> SensitivityQuery<'a> {
    let graph = cx.graph;
    let layers: HashSet<NodeId> = options::layers(graph)
        .into_iter()
        .filter(|&n| weight(graph, n).is_some_and(|w| open(graph, w.1).is_ok()))
        .collect();
    SensitivityQuery { measure: Measure::Codings, layers, note: Box::new(move |fitted| lost(pass, graph, fitted)) }
}

fn lost(pass: &ClusterWeights, graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let open = open(graph, fitted.linear.weight)?;
    let (tensor, cut) = (open.tensor, Cut::along(open.axis));
    let all: f64 = fitted.layer.parts.iter().map(|p| p.fit.yy.sum()).sum();
    if all <= 0.0 {
        return Err("what it gives does not vary".into());
    }
    let values = tensor.as_f32().ok_or("its weights are no numbers")?;
    let weights = fitted::importance(fitted.layer, fitted.linear, tensor.len());
    let scale = fitted.linear.scale().powi(2);
    let places = fitted.linear.places();
    let lines_up = |coding| Clustered::blank(tensor, cut, coding).is_some_and(|c| fitted::lines_up(&places, &c));
    let share = |(levels, length): (usize, usize)| {
        let coding = pass.with(levels, length);
        if length > 1 && (open.answers || open.takes(coding).is_err() || !lines_up(coding)) {
            return Some(f64::INFINITY);
        }
        let new = Clustered::new(tensor, cut, coding, Some(&weights))?;
        let each = values.iter().zip(new.weights()).zip(&weights);
        let lost: f64 = each.map(|((&w, rounded), &x)| f64::from(x) * (f64::from(w) - rounded).powi(2)).sum();
        Some(scale * lost / all)
    };
    CODINGS.into_iter().map(|coding| share(coding).ok_or(NOT_FINITE.into())).collect()
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
    let told = layer.and_then(|n| cx.measured(n, Measure::Codings));
    let parameters = tensor.len() as u64;
    let stored = |bytes: usize| Cost { parameters, macs: Some(0), stored: bytes as u64 };
    let whole = cx.graph.value(value).stored_len();
    let mut list = Vec::new();
    for (i, (levels, length)) in CODINGS.into_iter().enumerate() {
        let coding = pass.with(levels, length);
        let vectors = length > 1 && (open.answers || open.takes(coding).is_err());
        if vectors || told.is_some_and(|t| t.get(i) == Some(&f64::INFINITY)) {
            continue;
        }
        let cut = open.cut(coding, pass.encode).unwrap_or(Cut::along(open.axis));
        let blank = Clustered::blank(tensor, cut, coding).ok_or("its shape cannot be cut into parts")?;
        if let Some(bytes) = encoded(cx.graph, value, &open, &blank, coding, pass.encode) {
            let plain = || Some(Clustered::new(tensor, cut, coding, None)?.error(tensor));
            let loss = match told {
                Some(told) => told.get(i).copied(),
                None if cx.max_loss.is_infinite() => Some(0.0),
                None => plain(),
            };
            let choice = if length == 1 { Choice::Levels(levels) } else { Choice::Vectors { levels, length } };
            list.push(Offer { choice, cost: stored(bytes), loss: loss.ok_or(NOT_FINITE)? });
        }
    }
    Ok(Offers { whole: stored(whole), list })
}

/// Bytes of the constants that encode a weight, but for the table of digits. `None` if they, and the nodes that decode them, take
/// no fewer than it does.
fn encoded(
    graph: &Graph,
    value: ValueId,
    open: &Open<'_>,
    blank: &Clustered,
    coding: Coding,
    encode: bool,
) -> Option<usize> {
    let (v, digits) = (graph.value(value), digits(graph, blank.levels));
    let mut patch = Patch::at_value(graph, value);
    let mut decoder = Decoder::new(graph, &mut patch, &v.name, open.tensor.dtype());
    match open.cut(coding, encode).filter(|_| blank.is_by_row()) {
        Some(_) => drop(decoder.rows(blank, &open.lookups)),
        None => drop(decoder.tensor(blank, open.tensor.shape())),
    }
    let saves = blank.bytes() + digits + NODES < v.stored_len();
    let saves = saves && bytes::added(graph, &patch) < bytes::stored(graph, value);
    saves.then(|| patch.constants().map(|(_, t)| t.byte_len()).sum::<usize>().saturating_sub(digits))
}
