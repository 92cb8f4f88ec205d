//! Turns `Constant` nodes into initializers, which take fewer bytes and are no step of execution.
//!
//! A constant that is an output of its graph stays a node.
//!
//! ```text
//! # run = [{ pass = "lift-constants" }]
//! model "output" opset 17 {
//!   input %x : f32[N,4]
//!   const node %c : f32[1] = {2.0}
//!   const node %d : f32[1] = {3.0}
//!
//!   %y : f32[N,4] = Mul(%x, %c)
//!
//!   output %y
//!   output %d
//! }
//! ---- expect ----
//! model "output" opset 17 {
//!   input %x : f32[N,4]
//!   const %c : f32[1] = {2.0}
//!   const node %d : f32[1] = {3.0}
//!
//!   %y : f32[N,4] = Mul(%x, %c)
//!
//!   output %y
//!   output %d
//! }
//! ```

use crate::error::Result;
use crate::ir::value::{Form, Source};
use crate::ir::{Patch, ValueId};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LiftConstants {}

impl Pass for LiftConstants {
    fn name(&self) -> &'static str {
        "lift-constants"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let node = |&v: &ValueId| matches!(g.value(v).source, Source::Constant(_, Form::Node { .. }));
        g.values().filter(node).filter(|&v| g.is_used(v)).map(Site::Value).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Value(v) = site else { return Verdict::skip("it is not a value") };
        let g = cx.graph;
        if g.is_held(v) {
            return Verdict::skip("it is an output of its graph");
        }
        let mut patch = Patch::at_value(g, v);
        patch.make_initializer(v);
        Ok(Verdict::Patch(patch, "lifted".into()))
    }
}
