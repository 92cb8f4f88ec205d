//! Removes nodes whose results nothing reads, and initializers that no node uses.
//!
//! What the model's interface, a training section or a quantization annotation names stays.
//!
//! ```text
//! # run = [{ pass = "remove-unused" }]
//! model "unused" opset 17 {
//!   input %x : f32[N,4]
//!   const %w : f32[4]
//!
//!   %dead : f32[N,4] = Add(%x, %w)
//!   %y : f32[N,4] = Relu(%x)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "unused" opset 17 {
//!   input %x : f32[N,4]
//!
//!   %y : f32[N,4] = Relu(%x)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::Patch;
use crate::ir::value::Source;
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RemoveUnused {}

impl Pass for RemoveUnused {
    fn name(&self) -> &'static str {
        "remove-unused"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let nodes = g.nodes().flat_map(|n| {
            let outputs: Vec<_> = g.node_outputs(n).into_iter().flatten().collect();
            let unread = outputs.iter().all(|&v| g.is_unused(v));
            if unread { outputs.first().copied() } else { None }
        });
        let constants = g.values().filter(|&v| matches!(g.value(v).source, Source::Constant(..)) && g.is_unused(v));
        nodes.chain(constants).map(Site::Value).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Value(v) = site else { return Verdict::skip("it is not a value") };
        let mut patch = Patch::at_value(cx.graph, v);
        patch.drop_unused(v);
        Ok(Verdict::Patch(patch, "removed".into()))
    }
}
