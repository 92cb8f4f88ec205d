//! Makes inputs that have a default value constants.
//!
//! A file may list weights among the model's inputs, so that a caller can feed others (PyTorch's `keep_initializers_as_inputs`,
//! exports of opset 8 and before). No pass changes what a caller may feed. Where nobody does, this step comes first. It is not a
//! part of `clean`, since afterwards nobody can.
//!
//! ```text
//! # run = [{ pass = "bind-defaults" }]
//! model "listed" opset 17 {
//!   input %x : f32[N,2]
//!   input %w : f32[2,2] = f32[2,2]{1.0, 2.0, 3.0, 4.0}
//!
//!   %y : f32[N,2] = MatMul(%x, %w)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "listed" opset 17 {
//!   input %x : f32[N,2]
//!   const %w : f32[2,2] = {1.0,2.0,3.0,4.0}
//!
//!   %y : f32[N,2] = MatMul(%x, %w)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::{Patch, Source};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BindDefaults {}

impl BindDefaults {
    pub const NAME: &str = "bind-defaults";
}

impl Pass for BindDefaults {
    fn name(&self) -> &'static str {
        BindDefaults::NAME
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let given = |v| matches!(g.value(v).source, Source::Input { default: Some(_) });
        g.inputs().iter().copied().filter(|&v| given(v)).map(Site::Value).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Value(v) = site else { return Verdict::skip("it is not a value") };
        if cx.graph.is_output(v) {
            return Verdict::skip("it is an output, too");
        }
        let mut patch = Patch::at_value(cx.graph, v);
        patch.make_initializer(v);
        Ok(Verdict::Patch(patch, "no longer an input".into()))
    }
}
