//! What the passes share that put two layers, with factors of the weight, in the place of one.

use crate::analysis::linear::{Bias, Linear};
use crate::ir::names::derived;
use crate::ir::{Dim, Graph, NodeId, Op, Patch, Ref, Tensor, ValueId};
use crate::math::fit::{Fit, GroupMoments};
use crate::math::low_rank::Spectrum;
use crate::math::output_metric::OutputMetric;
use crate::math::svd::singular_values;
use crate::math::{self, Factors, LayerMoments, Rank};
use crate::passes::budget::{self, Budget};
use crate::passes::by_layer::ByLayer;
use crate::passes::options::{OptionsError, Share, not_zero, one_of};
use crate::passes::{Fitted, Site, refit, sharing};
use ndarray::{Array2, ArrayView2};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroUsize;

/// The reason where the numerical library gives up.
pub const NO_SVD: &str = "its weight has no singular value decomposition";

/// Bytes of a node, about, without its names.
const NODE: usize = 64;

/// The convolutions of a graph, transposed ones too, of those that share a weight the first.
pub fn convs(g: &Graph) -> Vec<NodeId> {
    sharing::first(g, |n| matches!(g.node(n).op, Op::Conv(_) | Op::ConvTranspose(_)))
}

/// A weight that can be computed with.
pub struct WeightMatrix<'a> {
    pub tensor: &'a Tensor,
    /// Its elements, row-major.
    pub data: Cow<'a, [f32]>,
}

impl<'a> WeightMatrix<'a> {
    /// The weight at an input slot of a node.
    ///
    /// # Errors
    /// Why it cannot be computed with.
    pub fn at(graph: &'a Graph, node: NodeId, slot: usize) -> Result<WeightMatrix<'a>, String> {
        let value = graph.input(node, slot).ok_or("it has no weight")?;
        let tensor = graph.value(value).constant().ok_or("its weight is not constant")?;
        let reads = graph.input(node, usize::from(slot == 0)).and_then(|x| graph.value(x).ty.as_ref()?.shape());
        if tensor.is_empty() {
            return Err("its weight has no elements".into());
        }
        if reads.is_some_and(|x| x.0.contains(&Dim::Known(0))) {
            return Err("what it reads has no elements".into());
        }
        let data = tensor.as_f32().ok_or_else(|| format!("its weight is {}, not float", tensor.dtype()))?;
        if !data.iter().all(|x| x.is_finite()) {
            return Err("its weight is not finite".into());
        }
        Ok(WeightMatrix { tensor, data })
    }

    /// Why factors of this rank, each term of which takes `a_term` parameters, are no gain, if they are not.
    pub fn refuses(&self, rank: usize, full: usize, a_term: usize) -> Option<String> {
        let old = self.tensor.len();
        let new = rank.saturating_mul(a_term);
        (new >= old).then(|| {
            let even = old.div_ceil(a_term.max(1));
            format!("rank {rank} of {full} takes {new} parameters, no fewer than the {old} of the weight; break-even is rank {even}")
        })
    }

    /// A tensor of the weight's dtype.
    pub fn like(&self, shape: impl Into<Vec<usize>>, values: impl IntoIterator<Item = f32>) -> Tensor {
        Tensor::from_floats(self.tensor.dtype(), shape, values.into_iter().map(f64::from))
    }
}

/// How a factorization reads in a report.
pub fn note(how: &str, rank: usize, full: usize, error: f64, parameters: (usize, usize)) -> String {
    let (before, after) = parameters;
    format!("{how}rank {rank} of {full}, weight error {:.1} %, {before} → {after} parameters", 100.0 * error)
}

/// How many terms a factorization keeps, in words of the pass's own, or the budget that decides it layer by layer.
#[derive(Debug, Clone)]
pub struct RankOrBudget<R> {
    /// With the option that says it; `None` as long as the budget has not decided it.
    rank: Option<(&'static str, ByLayer<R>)>,
    budget: Option<Budget>,
}

/// The options that say how many terms to keep, of which one may be given; half the parameters if none is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SizeOptions {
    pub rank: Option<ByLayer<NonZeroUsize>>,
    pub ratio: Option<ByLayer<Share>>,
    pub energy: Option<ByLayer<Share>>,
    pub params: Option<Share>,
    pub macs: Option<Share>,
}

impl SizeOptions {
    /// # Errors
    /// If more than one is given, or one that leaves nothing.
    pub fn size(self) -> Result<RankOrBudget<Rank>, String> {
        let SizeOptions { rank, ratio, energy, params, macs } = self;
        let rank = ("rank", rank.map(|r| r.map(|r| Rank::Terms(r.get()))));
        let shares = [("ratio", ratio, Rank::Ratio as fn(f64) -> Rank), ("energy", energy, Rank::Energy)];
        let mut ranks = vec![rank];
        for (key, shares, rank) in shares {
            not_zero(shares.iter().flat_map(ByLayer::values).map(|&share| (key, Some(share))))?;
            ranks.push((key, shares.map(|shares| shares.map(|share| rank(share.0)))));
        }
        RankOrBudget::of(ranks, params, macs, Rank::Ratio(0.5))
    }
}

impl<R> RankOrBudget<R> {
    /// Of `ranks` by option, of which one may be given, or, if that is no table, instead one of the budgets; `default` if
    /// nothing is.
    ///
    /// # Errors
    /// If more than one is given, or a budget that leaves nothing.
    pub fn of(
        ranks: Vec<(&'static str, Option<ByLayer<R>>)>,
        params: Option<Share>,
        macs: Option<Share>,
        default: R,
    ) -> Result<RankOrBudget<R>, String> {
        not_zero([("params", params), ("macs", macs)])?;
        let budgets = Budget::options(params, macs);
        let is_table = ranks.iter().any(|r| r.1.as_ref().is_some_and(ByLayer::is_table));
        if !is_table {
            let given = ranks.iter().map(|(key, rank)| (*key, rank.as_ref().map(drop)));
            one_of(given.chain(budgets.map(|(key, budget)| (key, budget.map(drop)))))?;
        }
        let ranks = ranks.into_iter().map(|(key, rank)| (key, rank.map(|rank| (key, rank))));
        let (rank, budget) = (one_of(ranks)?, one_of(budgets)?);
        let rank = if budget.is_some() { rank } else { Some(rank.unwrap_or(("rank", ByLayer::All(default)))) };
        Ok(RankOrBudget { rank, budget })
    }

    /// Of ranks that a budget has decided, as option `key` says them.
    pub fn decided(&self, key: &'static str, ranks: impl IntoIterator<Item = (String, R)>) -> RankOrBudget<R> {
        RankOrBudget { rank: Some((key, ByLayer::filled(ranks, budget::WHOLE))), budget: self.budget }
    }

    /// Whether little is left, where `strong` says so of a rank.
    pub fn is_strong(&self, strong: impl Fn(&R) -> bool) -> bool {
        match &self.rank {
            Some((_, rank)) => rank.values().any(strong),
            None => self.budget.is_some_and(|budget| budget.share() < STRONG_SHARE),
        }
    }

    pub fn budget(&self) -> Option<Budget> {
        self.budget
    }

    /// The budget, as long as it has not decided anything.
    pub fn undecided(&self) -> Option<Budget> {
        self.budget.filter(|_| self.rank.is_none())
    }

    /// Whether a table names nodes that are there, or one of `more`.
    ///
    /// # Errors
    /// If it does not.
    pub fn fits(&self, graph: &Graph, more: &[String]) -> Result<(), OptionsError> {
        self.rank.as_ref().map_or(Ok(()), |(key, rank)| rank.fits(graph, key, more))
    }

    /// The rank that the layer at a site is to get.
    ///
    /// # Errors
    /// Why it stays whole.
    pub fn at(&self, graph: &Graph, site: &Site) -> Result<&R, String> {
        let (key, rank) = self.rank.as_ref().ok_or(budget::WHOLE)?;
        rank.at(graph, key, &site.names(graph))
    }
}

/// The node at a site of a pass over layers.
///
/// # Errors
/// If it is none.
pub fn layer(site: &Site) -> Result<NodeId, String> {
    if let Site::Layer(node) = site { Ok(*node) } else { Err("it is not a layer".into()) }
}

/// Below this share of the squared weights, and of the parameters, few networks survive without data.
pub const STRONG_ENERGY: f64 = 0.99;
pub const STRONG_SHARE: f64 = 0.9;

/// Whether a rank leaves so little; a number of terms may be any share.
pub fn is_strong(rank: &Rank) -> bool {
    match *rank {
        Rank::Terms(_) => true,
        Rank::Ratio(kept) => kept < STRONG_SHARE,
        Rank::Energy(kept) => kept < STRONG_ENERGY,
    }
}

/// Σ_{i>t} σ_i² / Σ σ_i² of the weight, seen as the matrix `w`, for every t from 0.
pub fn plain_lost(w: ArrayView2<'_, f32>) -> Option<Vec<f64>> {
    let squares: Vec<f64> = singular_values(w)?.iter().map(|s| s * s).collect();
    let all: f64 = squares.iter().sum();
    let lost = |t: usize| if all > 0.0 { squares[t..].iter().sum::<f64>() / all } else { 0.0 };
    Some((0..=squares.len()).map(lost).collect())
}

/// The share of a layer's output that is lost with the best factors of t terms, for every t from 0.
///
/// # Errors
/// If the data does not say.
pub fn low_rank_lost(graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let current = refit::current(graph, fitted.linear)?;
    budget::shares(fitted, &current.w, |c, w| {
        let terms = w.nrows().min(w.ncols());
        let spectrum = Spectrum::new(c, w, terms, budget::RIDGE)?;
        Some((0..=terms).map(|t| spectrum.lost(t)).collect())
    })
}

/// Why factors of a weight of m × n are no gain, as far as its singular values are not needed to say.
pub fn no_gain(rank: Rank, m: usize, n: usize, weight: &WeightMatrix<'_>) -> Option<String> {
    let terms = match rank {
        Rank::Energy(_) => return None,
        fixed => fixed.terms(ArrayView2::from_shape((m, n), &weight.data).ok()?)?,
    };
    weight.refuses(terms, m.min(n), m + n)
}

/// Two factors in place of the whole weight, seen as the matrix `w`, and how that reads in a report.
///
/// # Errors
/// Why they are no gain, or cannot be found.
pub fn factorize(rank: Rank, w: ArrayView2<'_, f32>, weight: &WeightMatrix<'_>) -> Result<(Factors, String), String> {
    let (m, n) = w.dim();
    let terms = rank.terms(w).ok_or(NO_SVD)?;
    if let Some(why) = weight.refuses(terms, m.min(n), m + n) {
        return Err(why);
    }
    let factors = math::factorize(w, terms).ok_or(NO_SVD)?;
    let what = note("", terms, m.min(n), factors.error, (w.len(), terms * (m + n)));
    Ok((factors, what))
}

/// The form of weights that calibration data asks for, none if it is no better than the plain weight `before` (outputs ×
/// inputs) on what was held back, and the bias that goes with what is taken, none if it stays. `find` gives, for a part
/// with the weight that is given up and a relative λ, a form and the weight that it stands for. Adds to `what` how it went.
///
/// # Errors
/// If the layer cannot be computed with.
pub fn fit<F>(
    graph: &Graph,
    fitted: &Fitted<'_>,
    before: Array2<f64>,
    what: &mut String,
    find: impl Fn(&GroupMoments, ArrayView2<'_, f64>, f64) -> Option<(F, Array2<f64>)>,
) -> Result<(Option<F>, Option<Vec<f64>>), String> {
    let current = refit::current(graph, fitted.linear)?;
    let before = Fit { w: vec![before], b: current.b.clone() };
    let solve = |layer: &LayerMoments, _: Option<&F>| {
        layer.best_ridge(|lambda| {
            let (form, w) = find(layer.parts.first()?, current.w.first()?.view(), lambda)?;
            Some((form, layer.with_bias(vec![w])))
        })
    };
    let chosen = refit::settle(fitted, &before, solve);
    what.push_str(&chosen.predicted_note());
    Ok(match chosen.repaired {
        Some((fit, form)) => (Some(form), Some(fit.b)),
        None => (None, chosen.bias),
    })
}

/// L and R of W ≈ L R.
pub type Pair = (Array2<f64>, Array2<f64>);

/// The best factors of so many terms, for [`fit`], in a metric of the outputs.
pub fn low_rank(
    terms: usize,
    metric: &OutputMetric,
) -> impl Fn(&GroupMoments, ArrayView2<'_, f64>, f64) -> Option<(Pair, Array2<f64>)> {
    move |part, prior, lambda| {
        let (c, prior) = (metric.targets(&part.fit)?, metric.weigh(prior)?);
        let (left, right) = Spectrum::new(&c, prior.view(), terms, lambda)?.factors(metric, terms)?;
        let w = left.dot(&right);
        Some(((left, right), w))
    }
}

/// A layer that is split.
pub struct SplitReader {
    pub node: NodeId,
    /// The input slot of its weight.
    pub slot: usize,
    /// The operators that take its place, in the order they run.
    pub ops: [Op; 2],
    /// Whether the second factor meets the data first.
    pub turned: bool,
}

/// Bytes, about, of the second nodes of all layers but the first that share a weight.
pub fn second_nodes(graph: &Graph, readers: impl Iterator<Item = NodeId>) -> usize {
    readers.skip(1).map(|n| NODE + 4 * graph.label(n).len()).sum()
}

/// Numbers that every term brings besides its weights: of a weight that the file has as integers, a scale and a zero point.
pub fn scales(graph: &Graph, weight: ValueId) -> usize {
    let value = graph.value(weight);
    let integers = value.packed.is_some() && value.packed == value.constant().map(Tensor::len);
    if integers { 2 } else { 0 }
}

/// One of two factors: the suffix of its name and the weight.
pub struct Factor {
    pub suffix: &'static str,
    pub weight: Tensor,
}

/// Puts two layers in the place of each Conv, Gemm or MatMul that shares a weight. The first of the two reads what the layer
/// read, the second has its bias, or of `bias` what a fit says. All of them read the same two factors.
///
/// # Errors
/// If a malformed node lacks its input or output, or so many nodes take more bytes than the factors save.
pub fn patch(
    graph: &Graph,
    readers: Vec<SplitReader>,
    factors: [Factor; 2],
    bias: Option<(&Linear, &[f64])>,
) -> Result<Patch, String> {
    let first = readers.first().ok_or("it has no layers")?;
    let mut patch = Patch::at_node(graph, first.node);
    let (whole, parts) =
        (graph.input(first.node, first.slot), factors.iter().map(|f| f.weight.byte_len()).sum::<usize>());
    let whole = whole.and_then(|v| graph.value(v).constant()).map_or(0, Tensor::byte_len);
    let more = second_nodes(graph, readers.iter().map(|r| r.node));
    if readers.len() > 1 && parts + more >= whole {
        return Err(format!(
            "two factors take {parts} bytes and a second node in {} places {more} more, no fewer than the {whole} of the weight",
            readers.len()
        ));
    }
    let own = |linear: &&&Linear| matches!(linear.bias, Bias::At { node, .. } if node == linear.node);
    let mut biases: HashMap<NodeId, Ref> = HashMap::new();
    for (set, b) in bias.map_or(Vec::new(), |(linear, b)| refit::by_set(graph, linear, b)) {
        let bias = if set.iter().all(|l| own(&l)) {
            Some(patch.constant("bias", refit::finite(set[0].bias_tensor(graph, b).ok_or("its bias has no type")?)?))
        } else {
            refit::set_bias_of(graph, &mut patch, &set, b)?
        };
        biases.extend(set.iter().filter(own).filter_map(|l| Some((l.node, bias?))));
    }
    // Before opset 11 Gemm has to have its third input.
    let is_gemm = readers.iter().any(|r| matches!(r.ops[0], Op::Gemm(_)));
    let suffixes = factors.each_ref().map(|f| f.suffix);
    let [down, up] = factors;
    let dtype = down.weight.dtype();
    let down = patch.constant(&format!("{}.weight", down.suffix), down.weight);
    let zero = (is_gemm && graph.opset < 11)
        .then(|| patch.constant(&format!("{}.bias", suffixes[0]), Tensor::from_floats(dtype, [1], [0.0])));
    let weights = [down, patch.constant(&format!("{}.weight", up.suffix), up.weight)];
    for SplitReader { node, slot, ops, turned } in readers {
        let mut data = Ref::Old(graph.input(node, 1 - slot).ok_or("it has no input")?);
        let bias = biases.get(&node).copied().or(graph.input(node, 2).map(Ref::Old));
        for (i, op) in ops.into_iter().enumerate() {
            let last = i == 1;
            let weight = weights[if turned { 1 - i } else { i }];
            let third = if last { bias } else { zero.filter(|_| matches!(op, Op::Gemm(_))) };
            let pair = if slot == 1 { [data, weight] } else { [weight, data] };
            let inputs: Vec<_> = pair.into_iter().chain(third).map(Some).collect();
            data = patch.node_named(&derived(graph.label(node), suffixes[i]), op, &inputs);
        }
        patch.replace(graph.output(node).ok_or("it has no output")?, data);
    }
    Ok(patch)
}
