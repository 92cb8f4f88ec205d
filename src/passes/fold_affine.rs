//! Folds Add, Sub, Mul and Div by a constant, single or one number a channel, into the layer before or after.
//!
//! Before it: Conv, ConvTranspose, Gemm, BatchNormalization. After it: Conv, ConvTranspose, Gemm, MatMul; an addition only
//! where no zero padding comes between. Nothing else may read the value in between, and the layer's weight must be
//! constant and its own.
//!
//! ```text
//! # run = [{ pass = "fold-affine" }]
//! model "affine" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w : f32[16,3,3,3] = seed(1)
//!   const %s : f32[16,1,1] = seed(2)
//!   const %t : f32[1,16,1,1] = seed(3)
//!
//!   %c : f32[N,16,6,6] = Conv(%x, %w)
//!   %m : f32[N,16,6,6] = Mul(%c, %s)
//!   %y : f32[N,16,6,6] = Sub(%t, %m)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "affine" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w : f32[16,3,3,3]
//!   const %c.bias : f32[16]
//!
//!   %y : f32[N,16,6,6] = Conv(%x, %w, %c.bias) @c
//!
//!   output %y
//! }
//! ```

use crate::analysis::bytes;
use crate::error::Result;
use crate::ir::{Graph, NodeId, Op, Patch, Ref, Use, ValueId};
use crate::passes::absorb::{CHANNELS, ChannelStep, into_consumer, into_producer, operand, slots, step};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FoldAffine {}

impl Pass for FoldAffine {
    fn name(&self) -> &'static str {
        "fold-affine"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let order = g.topological().unwrap_or_default();
        let matches = |&n: &NodeId| after_layer(g, n).is_some() || before_layer(g, n).is_some();
        order.into_iter().filter(matches).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let (Site::Node(n), g) = (site, cx.graph) else { return Verdict::skip("it is not a node") };
        let Some(y) = g.output(n) else { return Verdict::skip("it has no output") };
        let room = bytes::freed(g, n);
        let mut why = None;
        for (place, before) in [(after_layer(g, n), false), (before_layer(g, n), true)] {
            let Some((layer, x, step)) = place else { continue };
            let mut patch = Patch::at_node(g, n);
            let shared = !before && g.sole_use(x).is_none();
            let folded = match before {
                _ if shared => Err(format!("what \"{}\" computes is used elsewhere too", g.label(layer))),
                false => into_producer(g, &mut patch, layer, &step.affine, room),
                true => into_consumer(g, &mut patch, layer, &step.affine, room),
            };
            match folded {
                Ok(()) => {
                    patch.replace(y, Ref::from(x));
                    return Ok(Verdict::Patch(patch, format!("folded into \"{}\"", g.label(layer))));
                }
                Err(e) => why = why.or(Some(e)),
            }
        }
        Verdict::skip(why.unwrap_or_else(|| "no layer is beside it by now".into()))
    }
}

/// The layer whose output this node changes by channel, that output, and the change.
fn after_layer(g: &Graph, n: NodeId) -> Option<(NodeId, ValueId, ChannelStep)> {
    let x = g.input(n, operand(g, n)?)?;
    let (layer, out) = g.producer(x)?;
    slots(&g.node(layer).op).filter(|_| out == 0)?;
    let step = step(g, n, |rank| (rank > CHANNELS).then_some(CHANNELS))?;
    Some((layer, x, step))
}

/// The layer that alone reads what this node makes of a value by channel, that value, and the change.
fn before_layer(g: &Graph, n: NodeId) -> Option<(NodeId, ValueId, ChannelStep)> {
    let Some(Use::Input(layer, 0)) = g.sole_use(g.output(n)?) else { return None };
    g.input_constant(layer, 1)?;
    let last = match g.node(layer).op {
        Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm(_) => false,
        Op::MatMul(_) => true,
        _ => return None,
    };
    let step = step(g, n, |rank| if last { rank.checked_sub(1) } else { (rank > CHANNELS).then_some(CHANNELS) })?;
    Some((layer, g.input(n, step.slot)?, step))
}
