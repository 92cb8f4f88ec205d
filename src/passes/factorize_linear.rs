//! Replaces the matrix of a Gemm, MatMul or 1×1 Conv by the product of two thin ones, by truncated singular value
//! decomposition.
//!
//! A weight of m × n becomes m × r and r × n; a bias stays with the second. A rank r of m·n/(m+n) or more would not make it
//! smaller and is refused.
//!
//! A weight that several layers share is split once, for all of them, and they share its factors; fitted, to what all of them
//! read and give. It stays if something else reads it, too.
//!
//! A table that Gather looks up rows of becomes a thin table and a matrix behind it, also for a head that multiplies by the same
//! table, transposed: both read the same two factors. What a recurrent layer makes of its inputs becomes a matrix before it. All of
//! these are split by their weights alone. What a recurrent layer feeds back to itself stays: its operator
//! takes it whole.
//!
//! With calibration data the two are fitted to what the layer gives there, not to its weight. The report then has the error
//! ‖Y − Y'‖ / ‖Y − ȳ‖ of the layer itself that its moments predict on the samples it was fitted to, and the error behind its
//! activation on held-back samples, before and after the fit.
//!
//! | option | | default |
//! |---|---|---|
//! | `rank` | r | |
//! | `ratio` | instead of `rank`: the share of each weight's parameters to keep | 0.5 |
//! | `energy` | instead of `rank`: the smallest rank, layer by layer, that keeps this share of the squared weights | |
//! | `params`, `macs` | instead of `rank`: the share of the model's parameters or MACs to keep at most; ranks are dealt out to the layers where they lose least, of which none loses more than `max-loss` of its output | |
//! | `min-weights` | smaller weights are left alone | 4096 |
//! | `min-side` | so are weights with fewer rows or columns: a classifier of ten classes has no rank to spare | 16 |
//!
//! `rank`, `ratio` and `energy` are one value for all layers or, as `rank = { "encoder.*" = 12, "fc" = 40 }`, a table by layer
//! (`tutee explain tables`).
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

mod others;

use crate::analysis::likely;
use crate::error::Result;
use crate::ir::op::conv::Conv;
use crate::ir::op::gemm::{Gemm, MatMul};
use crate::ir::{Graph, NodeId, Op, Patch};
use crate::math::Rank;
use crate::passes::budget::{self, Budget, SplitSite};
use crate::passes::by_layer::ByLayer;
use crate::passes::options::{OptionsError, Selection, Share};
use crate::passes::split::{self, Factor, RankOrBudget, SizeOptions, SplitReader, WeightMatrix, factorize};
use crate::passes::{
    Choice, Context, Fidelity, Fitted, Measure, Offers, Pass, Phase, SensitivityQuery, Site, Verdict, options, sharing,
};
use ndarray::{Array2, ArrayView2};
use others::Other;
use serde::Deserialize;
use std::num::NonZeroUsize;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct FactorizeLinear {
    size: RankOrBudget<Rank>,
    min_side: usize,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    rank: Option<ByLayer<NonZeroUsize>>,
    ratio: Option<ByLayer<Share>>,
    energy: Option<ByLayer<Share>>,
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

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        let tables: Vec<String> = others::values(graph).into_iter().map(|v| graph.value(v).name.clone()).collect();
        self.size.fits(graph, &tables)
    }

    fn weighs_outputs(&self) -> bool {
        true
    }

    fn budget(&self) -> Option<Budget> {
        self.size.budget()
    }

    fn undecided(&self) -> Option<Budget> {
        self.size.undecided()
    }

    fn decided(&self, chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        let rank = |(name, choice): &(String, Choice)| match choice {
            Choice::LowRank(rank) => Some((name.clone(), Rank::Terms(*rank))),
            _ => None,
        };
        let size = self.size.decided("rank", chosen.iter().filter_map(rank));
        Some(Box::new(FactorizeLinear { size, min_side: self.min_side }))
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        let (g, selected) = (cx.graph, cx.selected);
        let ours = |n: &NodeId| selected.refuses(g, &Site::Layer(*n)).is_none() && self.matrices(g, *n).is_ok();
        let layers = linear(g).into_iter().filter(ours).collect();
        let note = |fitted: &Fitted<'_>| split::low_rank_lost(g, fitted);
        vec![SensitivityQuery { measure: Measure::LowRank, layers, note: Box::new(note) }]
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let sized = cx.sized();
        sites.iter().map(|site| self.offers_at(cx, &sized, site)).collect()
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        if let Site::Weight(_) = site {
            let other = Other::at(cx.graph, site, self.min_side);
            return other
                .map_or_else(Some, |o| self.size.at(cx.graph, site).map_or_else(Some, |rank| o.no_gain(*rank)));
        }
        let matrices = match split::layer(site).and_then(|n| self.matrices(cx.graph, n)) {
            Ok(matrices) => matrices,
            Err(why) => return Some(why),
        };
        let Matrix { weight, rows, columns, .. } = matrices.first()?;
        match self.size.at(cx.graph, site) {
            Ok(rank) => split::no_gain(*rank, *rows, *columns, weight),
            Err(why) => Some(why),
        }
    }

    fn enters_bodies(&self) -> bool {
        self.size.budget().is_none()
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let others = others::values(cx.graph);
        let own = |&n: &NodeId| options::weight(cx.graph, n).is_none_or(|(_, v)| !others.contains(&v));
        let layers = linear(cx.graph).into_iter().filter(own).map(Site::Layer);
        layers.chain(others.iter().copied().map(Site::Weight)).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let g = cx.graph;
        Ok(Verdict::of(match site {
            Site::Weight(_) => Other::at(g, &site, self.min_side).and_then(|o| o.split(g, *self.size.at(g, &site)?)),
            _ => self.split(cx, &site),
        }))
    }
}

fn linear(g: &Graph) -> Vec<NodeId> {
    sharing::first(g, |n| match &g.node(n).op {
        Op::Gemm(_) | Op::MatMul(_) => true,
        Op::Conv(conv) => g.input(n, 1).is_some_and(|w| is_pointwise(conv, g.value(w).dims().as_deref())),
        _ => false,
    })
}

/// A layer whose weight can be split.
struct Matrix<'a> {
    node: NodeId,
    weight: WeightMatrix<'a>,
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
        let weight = WeightMatrix::at(graph, n, slot)?;
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

    fn offers_at(&self, cx: &Context<'_>, sized: &Graph, site: &Site) -> Result<Offers, String> {
        let graph = cx.graph;
        let refused = || cx.selected.refuses(graph, site).map_or(Ok(()), Err);
        if let Site::Weight(_) = site {
            let other = Other::at(graph, site, self.min_side)?;
            refused()?;
            return other.offers(sized, self.size.budget(), cx.max_loss.is_infinite());
        }
        let n = split::layer(site)?;
        let matrices = self.matrices(graph, n)?;
        let &Matrix { ref weight, rows, columns, .. } = matrices.first().ok_or("it is no layer")?;
        refused()?;
        let plain = || split::plain_lost(ArrayView2::from_shape((rows, columns), &weight.data).ok()?);
        let lost = budget::losses(cx, (n, Measure::LowRank), rows.min(columns), plain).ok_or(split::NO_SVD)?;
        let readers = matrices.iter().map(|m| (m.node, Some(1.0))).collect();
        let more = split::second_nodes(graph, matrices.iter().map(|m| m.node));
        let split = SplitSite { readers, weight: weight.tensor, a_term: rows + columns, indices: 0, more };
        Ok(split.offers(sized, &lost, Choice::LowRank))
    }

    fn split(&self, cx: &Context<'_>, site: &Site) -> Result<(Patch, String), String> {
        let (graph, n) = (cx.graph, split::layer(site)?);
        let matrices = self.matrices(graph, n)?;
        let &Matrix { ref weight, rows, columns, ones, sums_rows, .. } = matrices.first().ok_or("it is no layer")?;
        let rank = *self.size.at(graph, site)?;
        let w = ArrayView2::from_shape((rows, columns), &weight.data).map_err(|e| e.to_string())?;
        let (mut factors, mut what) = factorize(rank, w, weight)?;
        let mut bias = None;
        let plain = factors.left.dot(&factors.right).mapv(f64::from);
        let scale = if let Op::Gemm(gemm) = &graph.node(n).op { f64::from(gemm.alpha) } else { 1.0 };
        let plain = scale * if sums_rows { plain.reversed_axes() } else { plain };
        if let Some(fitted) = &cx.fitted {
            let find = split::low_rank(factors.left.ncols(), &fitted.metric.outputs);
            let (better, b) = split::fit(graph, fitted, plain, &mut what, find)?;
            bias = b;
            if let Some((left, right)) = better {
                let (left, right) = (left.mapv(|v| (v / scale) as f32), right.mapv(|v| v as f32));
                let pair = if sums_rows { (right.reversed_axes(), left.reversed_axes()) } else { (left, right) };
                (factors.left, factors.right) = pair;
            }
        } else {
            what.push_str(&likely::said_of(graph, n, &[plain]));
        }
        let tensor = |f: Array2<f32>| weight.like([f.shape(), &vec![1; ones]].concat(), f.iter().copied());
        let (left, right) = (tensor(factors.left), tensor(factors.right));
        let [down, up] = if sums_rows { [left, right] } else { [right, left] };
        let bias = cx.fitted.as_ref().zip(bias.as_deref()).map(|(fitted, b)| (fitted.linear, b));
        let factors = [Factor { suffix: "down", weight: down }, Factor { suffix: "up", weight: up }];
        let what = what + &sharing::note(matrices.len());
        let reader =
            |m: Matrix<'_>| SplitReader { node: m.node, slot: m.slot, ops: m.ops, turned: m.sums_rows != sums_rows };
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
