//! Sets the least important weights to zero, one by one, wherever in a tensor they are.
//!
//! The layers stay as large and as fast as they were, and so does the file: zeros pay once `cluster-weights` follows, which
//! keeps them exactly zero where they are more than 1 % of a tensor, and the file is compressed. The report has the bytes
//! after zstd.
//!
//! Weights of Conv, ConvTranspose, Gemm and MatMul are pruned; zeros that are there already count.
//!
//! * `sparsity`: the share of the weights that is zero afterwards (default 0.5).
//! * `scope`: `global` (default) is that share of all weights of the selected layers together, so that layers which can
//!   do without lose more; `tensor` is that share of each.
//! * `importance`: how weights of different tensors compare; inside a tensor it is always the order of |w|. `l1`: by |w|
//!   itself. `l2` (default): by w² as a share of the tensor's squared norm without all smaller weights, which holds up
//!   better at high sparsity and where layers differ in scale. (Lee et al. 2021, LAMP.)
//! * `min-weights` is 512 unless set, as it is for `cluster-weights`.
//!
//! ```text
//! # run = [{ pass = "prune-weights", sparsity = 0.75, min-weights = 0 }]
//! model "tiny" opset 17 {
//!   input %x : f32[N,4]
//!   const %w1 : f32[4,2] = {0.5,-0.1,0.2,0.9,-0.3,0.05,0.7,-0.8}
//!   const %w2 : f32[2,4] = {5.0,-1.0,2.0,9.0,-3.0,0.5,7.0,-8.0}
//!
//!   %h : f32[N,2] = MatMul(%x, %w1)
//!   %y : f32[N,4] = MatMul(%h, %w2)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "tiny" opset 17 {
//!   input %x : f32[N,4]
//!   const %w1 : f32[4,2] = {0.0,0.0,0.0,0.9,0.0,0.0,0.0,-0.8}
//!   const %w2 : f32[2,4] = {0.0,0.0,0.0,9.0,0.0,0.0,0.0,-8.0}
//!
//!   %h : f32[N,2] = MatMul(%x, %w1)
//!   %y : f32[N,4] = MatMul(%h, %w2)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::{Graph, Op, Patch, Tensor, Use, ValueId};
use crate::math::magnitude::{self, Least, Scale};
use crate::passes::options::{Selection, Share, weight};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneWeights {
    sparsity: Share,
    scope: Scope,
    importance: Importance,
}

/// The share of zeros above which few networks survive without data.
const STRONG: f64 = 0.5;

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scope {
    Global,
    Tensor,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Importance {
    L1,
    L2,
}

impl Default for PruneWeights {
    fn default() -> Self {
        PruneWeights { sparsity: Share(0.5), scope: Scope::Global, importance: Importance::L2 }
    }
}

impl Pass for PruneWeights {
    fn name(&self) -> &'static str {
        "prune-weights"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { min_weights: 512, ..Selection::default() }
    }

    fn pays_compressed(&self) -> bool {
        true
    }

    fn is_strong(&self) -> bool {
        self.sparsity.0 > STRONG
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let mut seen = HashSet::new();
        let mut sites: Vec<Site> = Vec::new();
        for n in g.topological().unwrap_or_default() {
            match (is_layer(&g.node(n).op), weight(g, n)) {
                (true, Some((_, value))) if seen.insert(value) => sites.push(Site::Weight { value, zeros: 0 }),
                (true, None) => sites.push(Site::Node(n)),
                _ => {}
            }
        }
        self.plan(cx, &mut sites);
        sites
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Weight { value, zeros } = site else { return Verdict::skip("its weight is not constant") };
        Ok(Verdict::of(prune(cx.graph, value, zeros)))
    }
}

impl PruneWeights {
    /// How many weights of each site are to be zero.
    fn plan(&self, cx: &Context<'_>, sites: &mut [Site]) {
        let open = |site: &Site| match site {
            Site::Weight { value, .. } if cx.selected.refuses(cx.graph, site).is_none() => {
                weights(cx.graph, *value).ok()
            }
            _ => None,
        };
        let share = |n: usize| (self.sparsity.0 * n as f64).round() as usize;
        let tensors: Vec<Option<&Tensor>> = sites.iter().map(open).collect();
        let len = |t: &Option<&Tensor>| t.map_or(0, Tensor::len);
        let counts = match self.scope {
            Scope::Tensor => tensors.iter().map(|t| share(len(t))).collect(),
            Scope::Global => {
                let scale = match self.importance {
                    Importance::L1 => Scale::Absolute,
                    Importance::L2 => Scale::Remaining,
                };
                magnitude::spread(tensors.len(), share(tensors.iter().map(len).sum()), |i, each| {
                    if let Some(tensor) = tensors[i] {
                        scale.scores(tensor.len(), elements(tensor), each);
                    }
                })
            }
        };
        for (site, count) in sites.iter_mut().zip(counts) {
            if let Site::Weight { zeros, .. } = site {
                *zeros = count;
            }
        }
    }
}

fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm(_) | Op::MatMul(_))
}

/// A weight that can be pruned.
///
/// # Errors
/// Why it cannot be.
fn weights(graph: &Graph, value: ValueId) -> Result<&Tensor, String> {
    let tensor = graph.value(value).constant().ok_or("it is not constant")?;
    if !tensor.dtype().is_float() {
        return Err(format!("its type is {}, which is no float", tensor.dtype()));
    }
    if tensor.is_empty() {
        return Err("it has no weights".into());
    }
    if graph.is_held(value) {
        return Err("it is an output of the model, or named outside the graph".into());
    }
    let foreign = |u: &Use| match *u {
        Use::Input(n, _) => weight(graph, n).map(|w| w.1) != Some(value),
        Use::Capture { .. } => true,
    };
    if let Some(u) = graph.uses(value).into_iter().find(foreign) {
        return Err(format!("{} \"{}\" reads it too", graph.node(u.node()).kind(), graph.label(u.node())));
    }
    if !elements(tensor).all(f32::is_finite) {
        return Err("it holds numbers that are not finite".into());
    }
    Ok(tensor)
}

/// The elements of a float tensor, of which only a few are in memory at a time if they are in a mapped file.
fn elements(tensor: &Tensor) -> impl Iterator<Item = f32> + '_ {
    tensor.iter_floats().into_iter().flatten().map(|w| w as f32)
}

/// Sets the `zeros` smallest weights to zero.
fn prune(graph: &Graph, value: ValueId, zeros: usize) -> Result<(Patch, String), String> {
    let tensor = weights(graph, value)?;
    let (all, before) = (tensor.len(), elements(tensor).filter(|&w| w == 0.0).count());
    if zeros == 0 {
        return Err("none of its weights is among those to go".into());
    }
    if zeros <= before {
        return Err(format!("{before} of its {all} weights are zero already"));
    }
    let mut gone = Least::new(zeros, || elements(tensor));
    let kept = tensor.iter_floats().into_iter().flatten();
    let kept = kept.map(|w| if gone.takes(w as f32) { 0.0 } else { w });
    let mut patch = Patch::at_value(graph, value);
    patch.set_constant(value, Tensor::from_floats(tensor.dtype(), tensor.shape(), kept));
    let share = 100.0 * zeros as f64 / all as f64;
    Ok((patch, format!("{before} → {zeros} of {all} weights zero, {share:.1} %")))
}
