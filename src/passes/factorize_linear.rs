//! Replaces the matrix of a Gemm, MatMul or 1×1 Conv by the product of two thin ones, by truncated singular value
//! decomposition.
//!
//! A weight of m × n becomes m × r and r × n; a bias stays with the second. A rank r of m·n/(m+n) or more would not make it
//! smaller and is refused.
//!
//! A weight that several layers share is split once, for all of them, and they share its factors; fitted, to what all of them
//! read and give. It stays if something else reads it, too, such as the Gather of a tied embedding.
//!
//! With calibration data the two are fitted to what the layer gives there, not to its weight. The report then has the error
//! ‖Y − Y'‖ / ‖Y − ȳ‖ of the layer itself that its moments predict on the samples it was fitted to, and the error behind its
//! activation on held-back samples, before and after the fit.
//!
//! | option | | default |
//! |---|---|---|
//! | `rank` | r, the same for all layers | |
//! | `ratio` | instead of `rank`: the share of each weight's parameters to keep | 0.5 |
//! | `energy` | instead of `rank`: the smallest rank, layer by layer, that keeps this share of the squared weights | |
//! | `params`, `macs` | instead of `rank`: the share of the model's parameters or MACs to keep at most; ranks are dealt out to the layers where they lose least, of which none loses more than `max-loss` of its output | |
//! | `min-weights` | smaller weights are left alone | 4096 |
//! | `min-side` | so are weights with fewer rows or columns: a classifier of ten classes has no rank to spare | 16 |
//!
//! ```text
//! # run = [{ pass = "factorize-linear", rank = 8 }]
//! model "m" opset 17 {
//!   input %x : f32[N,64]
//!   const %w : f32[128,64] = seed(1)
//!   const %b : f32[128] = seed(2)
//!
//!   %y : f32[N,128] = Gemm<transB=1>(%x, %w, %b) @fc
//!
//!   output %y
//! }
//! ---- expect ----
//! model "m" opset 17 {
//!   input %x : f32[N,64]
//!   const %b : f32[128]
//!   const %fc.down.weight : f32[8,64]
//!   const %fc.up.weight : f32[128,8]
//!
//!   %fc.down : f32[N,8] = Gemm<transB=1>(%x, %fc.down.weight)
//!   %y : f32[N,128] = Gemm<transB=1>(%fc.down, %fc.up.weight, %b) @fc.up
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::op::conv::Conv;
use crate::ir::op::gemm::{Gemm, MatMul};
use crate::ir::{Graph, NodeId, Op, Patch};
use crate::math::Rank;
use crate::passes::budget::{self, Budget, Offers, Reach};
use crate::passes::options::{Selection, Share};
use crate::passes::split::{self, Factor, Reader, Size, SizeOptions, Weight, factorize};
use crate::passes::{Context, Fidelity, Fitted, Pass, Phase, Questions, Site, Verdict, options, sharing};
use ndarray::{Array2, ArrayView2};
use serde::Deserialize;
use std::num::NonZeroUsize;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct FactorizeLinear {
    size: Size<Rank>,
    min_side: usize,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    rank: Option<NonZeroUsize>,
    ratio: Option<Share>,
    energy: Option<Share>,
    params: Option<Share>,
    macs: Option<Share>,
    min_side: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { rank: None, ratio: None, energy: None, params: None, macs: None, min_side: 16 }
    }
}

impl TryFrom<Options> for FactorizeLinear {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        let Options { rank, ratio, energy, params, macs, min_side } = o;
        Ok(FactorizeLinear { size: SizeOptions { rank, ratio, energy, params, macs }.size()?, min_side })
    }
}

impl Pass for FactorizeLinear {
    fn name(&self) -> &'static str {
        "factorize-linear"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { min_weights: 4096, ..Selection::default() }
    }

    fn is_strong(&self) -> bool {
        self.size.is_strong(split::is_strong)
    }

    fn budget(&self) -> Option<Budget> {
        self.size.budget()
    }

    fn reach(&self, cx: &Context<'_>) -> Option<Reach> {
        budget::reach(cx, self.size.budget()?, &self.offers(cx))
    }

    fn questions<'a>(&'a self, cx: &Context<'a>) -> Option<Questions<'a>> {
        let (g, selected) = (cx.graph, cx.selected);
        let ours = |n: &NodeId| selected.refuses(g, &site(*n)).is_none() && self.matrices(g, *n).is_ok();
        let note = |fitted: &Fitted<'_>| split::low_rank_lost(g, fitted);
        let layers = || linear(g).into_iter().filter(ours).collect();
        self.size.budget().map(|_| Questions { layers: layers(), note: Box::new(note) })
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        let Some((n, rank)) = self.size.at(site, Rank::Terms) else { return Some("it is not a layer".into()) };
        let matrices = match self.matrices(cx.graph, n) {
            Ok(matrices) => matrices,
            Err(why) => return Some(why),
        };
        let Some(rank) = rank else { return Some(budget::WHOLE.into()) };
        let Matrix { weight, rows, columns, .. } = matrices.first()?;
        split::no_gain(rank, *rows, *columns, weight)
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let Some(budget) = self.size.budget() else { return linear(g).into_iter().map(site).collect() };
        budget::sites(cx, budget, self.offers(cx))
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Some((n, rank)) = self.size.at(&site, Rank::Terms) else { return Verdict::skip("it is not a layer") };
        Ok(Verdict::of(self.split(cx, n, rank)))
    }
}

fn linear(g: &Graph) -> Vec<NodeId> {
    sharing::first(g, |n| match &g.node(n).op {
        Op::Gemm(_) | Op::MatMul(_) => true,
        Op::Conv(conv) => g.input(n, 1).is_some_and(|w| is_pointwise(conv, g.value(w).dims().as_deref())),
        _ => false,
    })
}

fn site(node: NodeId) -> Site {
    Site::Layer { node, rank: None }
}

/// A layer whose weight can be split.
struct Matrix<'a> {
    node: NodeId,
    weight: Weight<'a>,
    slot: usize,
    rows: usize,
    columns: usize,
    /// Axes of the weight beyond these two, all 1.
    ones: usize,
    ops: [Op; 2],
    /// The factor that holds the axis which is summed over meets the data first.
    sums_rows: bool,
}

impl FactorizeLinear {
    /// A layer and those that share its weight.
    fn matrices<'a>(&self, graph: &'a Graph, n: NodeId) -> Result<Vec<Matrix<'a>>, String> {
        sharing::all(graph, n, |n| self.matrix(graph, n))
    }

    fn matrix<'a>(&self, graph: &'a Graph, n: NodeId) -> Result<Matrix<'a>, String> {
        let (slot, _) = options::weight(graph, n).ok_or("it has no constant weight")?;
        let weight = Weight::at(graph, n, slot)?;
        let &[rows, columns, ref rest @ ..] = weight.tensor.shape() else {
            return Err("its weight is a vector".into());
        };
        let (ops, sums_rows) = match &graph.node(n).op {
            Op::Conv(conv) => {
                let kernel = conv.kernel(weight.tensor.shape()).ok_or("its weight does not divide into its groups")?;
                if kernel.groups > 1 {
                    return Err("it is a convolution in groups".into());
                }
                let ops = [conv.grouped(&kernel, 1).into(), Conv::pointwise(rest.len(), 1).into()];
                (ops, false)
            }
            _ if !rest.is_empty() => return Err("its weight is a batch of matrices".into()),
            Op::Gemm(gemm) => {
                let first = Gemm { alpha: 1.0, beta: 1.0, ..gemm.clone() };
                let (second, sums_rows) = match slot {
                    0 => (Gemm { trans_b: false, ..gemm.clone() }, gemm.trans_a),
                    _ => (Gemm { trans_a: false, ..gemm.clone() }, !gemm.trans_b),
                };
                ([first.into(), second.into()], sums_rows)
            }
            _ => ([MatMul.into(), MatMul.into()], slot == 1),
        };
        if rows.min(columns) < self.min_side {
            return Err(format!("its weight is {rows} × {columns}, narrower than `min-side` = {}", self.min_side));
        }
        let ones = rest.len();
        Ok(Matrix { node: n, weight, slot, rows, columns, ones, ops, sums_rows })
    }

    fn offers(&self, cx: &Context<'_>) -> Offers {
        let sized = cx.sized();
        linear(cx.graph).into_iter().map(|n| (n, self.ways(cx, &sized, n))).collect()
    }

    /// What a budget may do with a layer.
    fn ways(&self, cx: &Context<'_>, sized: &Graph, n: NodeId) -> Result<budget::Layer, String> {
        let graph = cx.graph;
        let matrices = self.matrices(graph, n)?;
        let &Matrix { ref weight, rows, columns, .. } = matrices.first().ok_or("it is no layer")?;
        if let Some(why) = cx.selected.refuses(graph, &site(n)) {
            return Err(why);
        }
        let plain = || split::plain_lost(ArrayView2::from_shape((rows, columns), &weight.data).ok()?);
        let lost = budget::losses(cx, n, rows.min(columns), plain).ok_or(split::NO_SVD)?;
        let readers: Vec<_> = matrices.iter().map(|m| (m.node, Some(1.0))).collect();
        Ok(budget::Layer::new(sized, n, &readers, weight.tensor.len(), rows + columns, &lost))
    }

    fn split(&self, cx: &Context<'_>, n: NodeId, rank: Option<Rank>) -> Result<(Patch, String), String> {
        let graph = cx.graph;
        let matrices = self.matrices(graph, n)?;
        let &Matrix { ref weight, rows, columns, ones, sums_rows, .. } = matrices.first().ok_or("it is no layer")?;
        let rank = rank.ok_or(budget::WHOLE)?;
        let w = ArrayView2::from_shape((rows, columns), &weight.data).map_err(|e| e.to_string())?;
        let (mut factors, mut what) = factorize(rank, w, weight)?;
        let mut bias = None;
        if let Some(fitted) = &cx.fitted {
            let plain = factors.left.dot(&factors.right).mapv(f64::from);
            let scale = if let Op::Gemm(gemm) = &graph.node(n).op { f64::from(gemm.alpha) } else { 1.0 };
            let plain = scale * if sums_rows { plain.reversed_axes() } else { plain };
            let find = split::low_rank(factors.left.ncols());
            let (better, b) = split::fit(graph, fitted, plain, &mut what, find)?;
            bias = b;
            if let Some((left, right)) = better {
                let (left, right) = (left.mapv(|v| (v / scale) as f32), right.mapv(|v| v as f32));
                let pair = if sums_rows { (right.reversed_axes(), left.reversed_axes()) } else { (left, right) };
                (factors.left, factors.right) = pair;
            }
        }
        let tensor = |f: Array2<f32>| weight.like([f.shape(), &vec![1; ones]].concat(), f.iter().copied());
        let (left, right) = (tensor(factors.left), tensor(factors.right));
        let [down, up] = if sums_rows { [left, right] } else { [right, left] };
        let bias = cx.fitted.as_ref().zip(bias.as_deref()).map(|(fitted, b)| (fitted.linear, b));
        let factors = [Factor { suffix: "down", weight: down }, Factor { suffix: "up", weight: up }];
        let what = what + &sharing::note(matrices.len());
        let reader =
            |m: Matrix<'_>| Reader { node: m.node, slot: m.slot, ops: m.ops, turned: m.sums_rows != sums_rows };
        let readers = matrices.into_iter().map(reader).collect();
        Ok((split::patch(graph, readers, factors, bias)?, what))
    }
}

fn is_pointwise(conv: &Conv, weight: Option<&[u64]>) -> bool {
    match weight {
        Some([_, _, size @ ..]) => size.iter().all(|&k| k == 1),
        _ => !conv.window.kernel.is_empty() && conv.window.kernel.iter().all(|&k| k == 1),
    }
}
