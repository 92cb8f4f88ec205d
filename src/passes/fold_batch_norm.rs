//! Folds BatchNormalization into the Conv, ConvTranspose, Gemm or BatchNormalization before it.
//!
//! With s = scale / √(var + ε) the layer's weight becomes s · W and its bias s · (B − mean) + bias. It must be constant
//! and used by this layer alone, and nothing else may read what the layer computes.
//!
//! ```text
//! # run = [{ pass = "fold-batch-norm" }]
//! model "bn" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w : f32[16,3,3,3] = seed(1)
//!   const %scale : f32[16] = seed(2)
//!   const %bias : f32[16] = seed(3)
//!   const %mean : f32[16] = seed(4)
//!   const %var : f32[16] = seed(1)
//!
//!   %c : f32[N,16,6,6] = Conv(%x, %w)
//!   %y : f32[N,16,6,6] = BatchNormalization<epsilon=5.0>(%c, %scale, %bias, %mean, %var)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "bn" opset 17 {
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
use crate::ir::op::norm::BatchNorm;
use crate::ir::{Graph, NodeId, Op, Patch};
use crate::passes::absorb::{Affine, into_producer, slots};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FoldBatchNorm {}

impl Pass for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batch-norm"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let order = cx.graph.topological().unwrap_or_default();
        order.into_iter().filter(|&n| matches!(cx.graph.node(n).op, Op::BatchNorm(_))).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let (Site::Node(n), g) = (site, cx.graph) else { return Verdict::skip("it is not a node") };
        match fold(g, n) {
            Ok((patch, layer)) => Ok(Verdict::Patch(patch, format!("folded into \"{}\"", g.label(layer)))),
            Err(why) => Verdict::skip(why),
        }
    }
}

fn fold(g: &Graph, n: NodeId) -> Result<(Patch, NodeId), String> {
    let Op::BatchNorm(bn) = &g.node(n).op else { return Err("it is no BatchNormalization".into()) };
    let (Some(x), Some(y)) = (g.input(n, 0), g.output(n)) else { return Err("it has no input or no output".into()) };
    let Some((layer, 0)) = g.producer(x) else { return Err("its input comes from no layer".into()) };
    if slots(&g.node(layer).op).is_none() {
        return Err(format!("its input comes from {}, which has no weight to fold it into", g.node(layer).kind()));
    }
    let affine = affine(g, n, bn)?;
    if g.sole_use(x).is_none() {
        return Err(format!("what \"{}\" computes is used elsewhere too", g.label(layer)));
    }
    let mut patch = Patch::at_node(g, n);
    into_producer(g, &mut patch, layer, &affine, bytes::freed(g, n))?;
    patch.replace(y, x);
    Ok((patch, layer))
}

/// What the node does to each channel.
fn affine(g: &Graph, n: NodeId, bn: &BatchNorm) -> Result<Affine, String> {
    let batch = g.node_outputs(n).into_iter().skip(1).any(|v| v.is_some());
    if bn.training || batch {
        return Err("it takes its statistics from the batch".into());
    }
    if !bn.spatial || g.node(n).inconsistent {
        return Err("it has not one statistic a channel".into());
    }
    let list = |slot: usize, what: &str| {
        let tensor = g.input_constant(n, slot).ok_or_else(|| format!("its {what} is not constant"))?;
        tensor.floats().ok_or_else(|| format!("its {what} is not of a float type"))
    };
    let (scale, bias, mean, var) = (list(1, "scale")?, list(2, "bias")?, list(3, "mean")?, list(4, "variance")?);
    if [&bias, &mean, &var].iter().any(|l| l.len() != scale.len()) {
        return Err("its inputs differ in length".into());
    }
    let scale: Vec<f64> = scale.iter().zip(&var).map(|(s, v)| s / (v + bn.epsilon as f64).sqrt()).collect();
    let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    Ok(Affine { scale, shift })
}
