//! Two models side by side, by structure and size: nothing is run.

use super::text::wrap;
use super::{LayerReport, ModelSize, layers};
use crate::analysis::weights;
use crate::figures::{bytes, count, grouped, ratio};
use crate::ir::Graph;
use crate::plain;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// What differs between two models; as JSON it is version 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Of the JSON form.
    pub version: u32,
    /// What the first model costs.
    pub before: ModelSize,
    /// What the second model costs.
    pub after: ModelSize,
    /// Inputs and outputs that are not the same in name, type or place, in words.
    pub interface: Vec<String>,
    /// Operators of which there are not equally many.
    pub operators: Vec<Operators>,
    /// Layers side by side.
    pub layers: Vec<LayerReport>,
}

/// How many nodes of an operator there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operators {
    /// The operator.
    pub op: String,
    /// How many nodes of it the first model has.
    pub before: usize,
    /// How many nodes of it the second model has.
    pub after: usize,
}

impl Diff {
    /// Compares two graphs with the sizes of their models.
    pub fn new((before, a): (ModelSize, &Graph), (after, b): (ModelSize, &Graph)) -> Diff {
        let mut operators: BTreeMap<String, [usize; 2]> = BTreeMap::new();
        for (i, graph) in [a, b].into_iter().enumerate() {
            graph.nodes().for_each(|n| operators.entry(graph.node(n).kind()).or_default()[i] += 1);
        }
        let operators = operators.into_iter().map(|(op, [before, after])| Operators { op, before, after });
        Diff {
            version: 1,
            before,
            after,
            interface: interface(a, b),
            operators: operators.filter(|o| o.before != o.after).collect(),
            layers: layers(weights::layers(a), weights::layers(b), &[]),
        }
    }

    /// As text, in lines of at most `width` columns.
    pub fn text(&self, width: u16) -> String {
        let mut out = sizes(&self.before, &self.after);
        match self.interface.is_empty() {
            true => out.push_str("\ninputs and outputs are the same\n"),
            false => out.push('\n'),
        }
        self.interface.iter().for_each(|what| wrap(&mut out, &plain::line(what), Some(width), "  "));
        if !self.operators.is_empty() {
            let rows = self.operators.iter().map(|o| [o.op.clone(), o.before.to_string(), o.after.to_string()]);
            out.extend(["\n", &table(&["operator", "before", "after"], rows, width)]);
        }
        let same = |l: &&LayerReport| l.before.as_ref().is_some_and(|b| l.after == [b.clone()]);
        let equal = self.layers.iter().filter(same).count();
        let rows = self.layers.iter().filter(|l| !same(l)).map(|l| {
            let both = |a: u64, b: u64| if a == b { grouped(a) } else { format!("{} → {}", grouped(a), grouped(b)) };
            let ((w, v), (p, q)) = (l.weights(), l.bytes());
            let macs = match l.macs() {
                (Some(a), Some(b)) => both(a, b),
                _ => "run-time dims".into(),
            };
            let now: Vec<&str> = l.after.iter().map(|a| a.op.as_str()).collect();
            let op = match (&l.before, now.as_slice()) {
                (None, _) => format!("new {}", l.op),
                (_, []) => format!("{}, gone", l.op),
                (_, [one]) if *one == l.op => l.op.clone(),
                (_, several) => format!("{} → {}", l.op, several.join(" + ")),
            };
            [l.name.clone(), op, both(w, v), both(p, q), macs]
        });
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            out.push_str(&format!("\nall {equal} layers are the same in form and size\n"));
        } else {
            out.extend(["\n", &table(&["layer", "operator", "weights", "bytes", "MACs"], rows.into_iter(), width)]);
            if equal > 0 {
                out.push_str(&format!("{} the same\n", count(equal, "other layer")));
            }
        }
        out
    }
}

/// Sizes before and after, with their ratios.
fn sizes(a: &ModelSize, b: &ModelSize) -> String {
    let by = |a: u64, b: u64| ratio(a as f64, b as f64).unwrap_or_default();
    let mut rows = vec![
        ["file".into(), bytes(a.bytes), bytes(b.bytes), by(a.bytes, b.bytes)],
        ["weights".into(), grouped(a.weights), grouped(b.weights), by(a.weights, b.weights)],
    ];
    rows.extend(a.cost.macs.zip(b.cost.macs).map(|(a, b)| ["MACs".into(), grouped(a), grouped(b), by(a, b)]));
    rows.push(["operators".into(), grouped(a.nodes), grouped(b.nodes), String::new()]);
    table(&["", "before", "after", ""], rows.into_iter(), u16::MAX)
}

pub(super) fn table<const N: usize>(head: &[&str; N], rows: impl Iterator<Item = [String; N]>, width: u16) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if width < u16::MAX {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    table.set_header(head.to_vec());
    for row in rows {
        table.add_row(row.map(|cell| plain::line(&cell).into_owned()));
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding(if i == 0 { (0, 1) } else { (1, 1) });
        if i > 0 && N - i <= 3 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string().lines().map(|l| format!("{}\n", l.trim_end())).collect()
}

fn interface(a: &Graph, b: &Graph) -> Vec<String> {
    let (before, after) = (a.interface(), b.interface());
    let told = |end: &(String, Option<crate::ir::Type>)| match &end.1 {
        Some(ty) => format!("\"{}\" {ty}", end.0),
        None => format!("\"{}\"", end.0),
    };
    let mut differences = Vec::new();
    for i in 0..before.len().max(after.len()) {
        match (before.get(i), after.get(i)) {
            (Some(a), Some(b)) if a != b => differences.push(format!("{} is now {}", told(a), told(b))),
            (Some(a), None) => differences.push(format!("{} is gone", told(a))),
            (None, Some(b)) => differences.push(format!("{} is new", told(b))),
            _ => {}
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::cost::cost;
    use crate::ir::text;

    #[test]
    fn layers_that_differ_are_listed_and_others_counted() {
        let model = |hidden: u64, output: &str| {
            let body = format!(
                "input %x : f32[N,8] const %w : f32[8,{hidden}] = seed(1) const %v : f32[4,4] = seed(2)
                 %h : f32[N,{hidden}] = MatMul(%x, %w) @a %s : f32[N,4] = Mystery(%h) @mystery
                 %{output} : f32[N,4] = MatMul(%s, %v) @b output %{output}"
            );
            text::parse::model(&format!("model \"m\" opset 17 {{ {body} }}")).unwrap().graph
        };
        let (a, b) = (model(16, "y"), model(2, "z"));
        let size =
            |g: &Graph| ModelSize { nodes: 3, weights: weights::count(g), cost: cost(g), bytes: 1000, latency: None };
        let diff = Diff::new((size(&a), &a), (size(&b), &b));
        let text = diff.text(80);
        assert!(text.contains("128 → 16") && text.contains("1 other layer the same"), "{text}");
        assert!(text.contains("\"y\" f32[N,4] is now \"z\" f32[N,4]"), "{text}");
        assert_eq!(diff.operators, []);
        assert!(text.lines().all(|l| l.chars().count() <= 80));
        let same = Diff::new((size(&a), &a), (size(&a), &a)).text(80);
        assert!(same.contains("all 2 layers are the same in form and size"), "{same}");
    }

    #[test]
    fn open_dims_of_two_files_are_no_difference() {
        let open = || {
            let body = "input %x : f32[N,?,8] %y : f32[N,?,8] = Relu(%x) output %y";
            text::parse::model(&format!("model \"m\" opset 17 {{ {body} }}")).unwrap().graph
        };
        assert!(interface(&open(), &open()).is_empty());
    }
}
