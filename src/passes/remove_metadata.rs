//! Removes what exporters note of nodes and values (`metadata_props`): stack traces and names of modules, which are up to
//! a quarter of a file.
//!
//! The model's own metadata stays. With `clean:keep-metadata=true` all of it does.
//!
//! ```text
//! # run = [{ pass = "remove-metadata" }]
//! model "plain" opset 17 {
//!   input %x : f32[N,4]
//!
//!   %y : f32[N,4] = Relu(%x)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "plain" opset 17 {
//!   input %x : f32[N,4]
//!
//!   %y : f32[N,4] = Relu(%x)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::{Graph, NodeId, Patch, ValueId};
use crate::passes::{Context, Fidelity, JointVerdict, Pass, Phase, Site, SiteOutcome, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RemoveMetadata {}

impl RemoveMetadata {
    pub const NAME: &str = "remove-metadata";
}

impl Pass for RemoveMetadata {
    fn name(&self) -> &'static str {
        RemoveMetadata::NAME
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    /// The first node or value that has some stands for all.
    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let (nodes, values) = noted(cx.graph);
        let first = nodes.first().map(|&n| Site::Node(n)).or(values.first().map(|&v| Site::Value(v)));
        first.into_iter().collect()
    }

    fn rewrite(&self, cx: &Context<'_>, _: Site) -> Result<Verdict> {
        let (patch, what) = forget(cx.graph);
        Ok(Verdict::Patch(patch, what))
    }

    fn rewrite_jointly(&self, cx: &Context<'_>, _: &[Site]) -> Result<Option<JointVerdict>> {
        let (patch, what) = forget(cx.graph);
        Ok(Some(JointVerdict { patch, outcomes: vec![SiteOutcome { what: Ok(what), cost: None }] }))
    }
}

fn noted(g: &Graph) -> (Vec<NodeId>, Vec<ValueId>) {
    let nodes = g.nodes().filter(|&n| !g.node(n).metadata.is_empty());
    let values = g.values().filter(|&v| !g.value(v).listing.metadata.is_empty());
    (nodes.collect(), values.collect())
}

fn forget(g: &Graph) -> (Patch, String) {
    let (nodes, values) = noted(g);
    let mut patch = Patch::at_graph(g);
    let of_nodes: usize = nodes.iter().map(|&n| g.node(n).metadata.len()).sum();
    let of_values: usize = values.iter().map(|&v| g.value(v).listing.metadata.len()).sum();
    nodes.iter().for_each(|&n| patch.forget_node(n));
    values.iter().for_each(|&v| patch.forget_value(v));
    let (bytes, nodes, values) = (of_nodes + of_values, nodes.len(), values.len());
    (patch, format!("removed the metadata of {nodes} nodes and {values} values, {bytes} bytes"))
}
