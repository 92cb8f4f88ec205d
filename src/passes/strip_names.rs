//! Gives values inside of the model the shortest names there are, and takes those of nodes away.
//!
//! Names are a third of a small student: each is written where a value is made and wherever it is read. Inputs, outputs,
//! sparse initializers and what bodies of control flow are made of keep theirs. The last step of a recipe: layers cannot be
//! named after it.
//!
//! ```text
//! # run = [{ pass = "strip-names" }]
//! model "long" opset 17 {
//!   input %pixels : f32[N,8]
//!   const %encoder.layer1.weight : f32[8,8] = seed(1)
//!
//!   %encoder.layer1.output : f32[N,8] = MatMul(%pixels, %encoder.layer1.weight) @encoder.layer1
//!   %scores : f32[N,8] = Relu(%encoder.layer1.output) @encoder.activation
//!
//!   output %scores
//! }
//! ---- expect ----
//! model "long" opset 17 {
//!   input %pixels : f32[N,8]
//!   const %a : f32[8,8]
//!
//!   %b : f32[N,8] = MatMul(%pixels, %a)
//!   %scores : f32[N,8] = Relu(%b)
//!
//!   output %scores
//! }
//! ```

use crate::error::Result;
use crate::ir::{Graph, NodeId, Patch, Source, Use, ValueId};
use crate::passes::{Context, Fidelity, JointVerdict, Pass, Phase, Site, SiteOutcome, Verdict};
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StripNames {}

impl Pass for StripNames {
    fn name(&self) -> &'static str {
        "strip-names"
    }

    /// It may follow what encodes, and nothing that needs names may follow it.
    fn phase(&self) -> Phase {
        Phase::Encode
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    /// The first value that gets another name stands for all, or the first node.
    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let names = Names::of(cx.graph);
        let value = names.values.first().map(|v| Site::Value(v.0));
        value.or(names.nodes.first().map(|n| Site::Node(n.0))).into_iter().collect()
    }

    fn rewrite(&self, cx: &Context<'_>, _: Site) -> Result<Verdict> {
        let (patch, what) = Names::of(cx.graph).patch(cx.graph);
        Ok(Verdict::Patch(patch, what))
    }

    fn rewrite_jointly(&self, cx: &Context<'_>, _: &[Site]) -> Result<Option<JointVerdict>> {
        let (patch, what) = Names::of(cx.graph).patch(cx.graph);
        Ok(Some(JointVerdict { patch, outcomes: vec![SiteOutcome { what: Ok(what), cost: None }] }))
    }
}

/// What is to be called otherwise.
#[derive(Default)]
struct Names {
    nodes: Vec<(NodeId, String)>,
    values: Vec<(ValueId, String)>,
    /// Bytes that the old names take more than the new ones.
    saved: usize,
}

impl Names {
    /// Nothing, if names are as short as they can be.
    fn of(g: &Graph) -> Names {
        let captured = |v: ValueId| g.uses(v).iter().any(|u| matches!(u, Use::Capture { .. }));
        let named = |v: ValueId| matches!(g.value(v).source, Source::Input { .. } | Source::Carried);
        let held = |v: ValueId| g.is_held(v) || captured(v) || named(v);
        let (kept, open): (Vec<ValueId>, Vec<ValueId>) = g.values().partition(|&v| held(v));
        let mut taken: HashSet<String> =
            g.nodes().flat_map(|n| g.node(n).bodies()).flat_map(Graph::all_names).collect();
        taken.extend(kept.iter().map(|&v| g.value(v).name.clone()));
        let mut fresh = (0..).map(short).filter(|name| !taken.contains(name));
        let mut names = Names::default();
        for v in open {
            let Some(name) = fresh.next() else { break };
            let old = &g.value(v).name;
            names.saved += (1 + g.uses(v).len()) * old.len().saturating_sub(name.len());
            names.values.push((v, name));
        }
        for n in g.nodes().filter(|&n| !g.node(n).name.is_empty()) {
            names.saved += g.node(n).name.len();
            names.nodes.push((n, String::new()));
        }
        if names.saved == 0 { Names::default() } else { names }
    }

    fn patch(self, g: &Graph) -> (Patch, String) {
        let mut patch = Patch::at_graph(g);
        let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let (values, nodes) = (count(self.values.len(), "value"), count(self.nodes.len(), "node"));
        let what = format!("short names for {values}, none for {nodes}: {} bytes less", self.saved);
        patch.rename(self.nodes, self.values);
        (patch, what)
    }
}

/// The names a to z, then aa to zz, and so on.
fn short(mut i: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(b'a' + (i % 26) as u8);
        if i < 26 {
            break;
        }
        i = i / 26 - 1;
    }
    letters.reverse();
    letters.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_come_in_order_and_once() {
        let names: Vec<String> = (0..800).map(short).collect();
        assert_eq!([&names[0], &names[25], &names[26], &names[701], &names[702]], ["a", "z", "aa", "zz", "aaa"]);
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 800);
    }
}
