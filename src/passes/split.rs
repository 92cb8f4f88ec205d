//! What the passes share that put two layers, with factors of the weight, in the place of one.

use crate::analysis::linear::{Bias, Linear};
use crate::ir::{Dim, Graph, NodeId, Op, Patch, Ref, Tensor};
use crate::math::fit::{Fit, Part};
use crate::math::low_rank::Spectrum;
use crate::math::svd::singular_values;
use crate::math::{self, Factors, Layer, Rank};
use crate::passes::budget::{self, Budget};
use crate::passes::options::{Share, not_zero, one_of};
use crate::passes::{Fitted, Site, refit};
use ndarray::{Array2, ArrayView2};
use serde::Deserialize;
use std::borrow::Cow;
use std::num::NonZeroUsize;

/// The reason where the numerical library gives up.
pub const NO_SVD: &str = "its weight has no singular value decomposition";

/// The convolutions of a graph.
pub fn convs(g: &Graph) -> impl Iterator<Item = NodeId> + '_ {
    g.nodes().filter(|&n| matches!(g.node(n).op, Op::Conv(_)))
}

/// A weight that can be computed with.
pub struct Weight<'a> {
    pub tensor: &'a Tensor,
    /// Its elements, row-major.
    pub data: Cow<'a, [f32]>,
    /// Places that read it.
    readers: usize,
}

impl<'a> Weight<'a> {
    /// The weight at an input slot of a node.
    ///
    /// # Errors
    /// Why it cannot be computed with.
    pub fn at(graph: &'a Graph, node: NodeId, slot: usize) -> Result<Weight<'a>, String> {
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
        Ok(Weight { tensor, data, readers: graph.uses(value).len() })
    }

    /// Why factors of this rank, each term of which takes `a_term` parameters, are no gain, if they are not.
    pub fn refuses(&self, rank: usize, full: usize, a_term: usize) -> Option<String> {
        let old = self.tensor.len();
        let a_term = a_term.saturating_mul(self.readers);
        let new = rank.saturating_mul(a_term);
        let shared = if self.readers > 1 { format!(" in {} nodes that share it", self.readers) } else { String::new() };
        (new >= old).then(|| {
            let even = old.div_ceil(a_term.max(1));
            format!("rank {rank} of {full} takes {new} parameters{shared}, no fewer than the {old} of the weight; break-even is rank {even}")
        })
    }

    /// Whether other places read it, too.
    pub fn is_shared(&self) -> bool {
        self.readers > 1
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

/// How many terms a factorization keeps, in words of the pass's own, or what decides it layer by layer.
#[derive(Debug, Clone, Copy)]
pub enum Size<R> {
    Rank(R),
    Within(Budget),
}

/// The options that say how many terms to keep, of which one may be given; half the parameters if none is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SizeOptions {
    pub rank: Option<NonZeroUsize>,
    pub ratio: Option<Share>,
    pub energy: Option<Share>,
    pub params: Option<Share>,
    pub macs: Option<Share>,
}

impl SizeOptions {
    /// # Errors
    /// If more than one is given, or one that leaves nothing.
    pub fn size(self) -> Result<Size<Rank>, String> {
        let SizeOptions { rank, ratio, energy, params, macs } = self;
        not_zero([("ratio", ratio), ("energy", energy), ("params", params), ("macs", macs)])?;
        let rank = ("rank", rank.map(|r| Size::Rank(Rank::Terms(r.get()))));
        let ratio = ("ratio", ratio.map(|s| Size::Rank(Rank::Ratio(s.0))));
        let energy = ("energy", energy.map(|s| Size::Rank(Rank::Energy(s.0))));
        let budgets = Budget::options(params, macs).map(|(key, b)| (key, b.map(Size::Within)));
        Ok(one_of([rank, ratio, energy].into_iter().chain(budgets))?.unwrap_or(Size::Rank(Rank::Ratio(0.5))))
    }
}

impl<R> Size<R> {
    pub fn budget(&self) -> Option<Budget> {
        if let Size::Within(budget) = self { Some(*budget) } else { None }
    }

    /// The node at a site, and the rank that it is to get: none leaves it whole. `terms` says a number of terms in the pass's
    /// words.
    pub fn at(&self, site: &Site, terms: impl Fn(usize) -> R) -> Option<(NodeId, Option<R>)>
    where
        R: Copy,
    {
        match (site, self) {
            (Site::Node(n), Size::Rank(rank)) => Some((*n, Some(*rank))),
            (Site::Layer { node, rank }, _) => Some((*node, rank.map(terms))),
            _ => None,
        }
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
    let lost = fitted.layer.parts.iter().zip(&current.w).map(|(part, w)| {
        let terms = w.nrows().min(w.ncols());
        let spectrum = Spectrum::new(part, w.view(), terms, budget::RIDGE)?;
        Some((0..=terms).map(|t| spectrum.lost(t)).collect())
    });
    budget::shares(fitted.layer, lost)
}

/// Two factors in place of the whole weight, seen as the matrix `w`, and how that reads in a report.
///
/// # Errors
/// Why they are no gain, or cannot be found.
pub fn factorize(rank: Rank, w: ArrayView2<'_, f32>, weight: &Weight<'_>) -> Result<(Factors, String), String> {
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
    find: impl Fn(&Part, ArrayView2<'_, f64>, f64) -> Option<(F, Array2<f64>)>,
) -> Result<(Option<F>, Option<Vec<f64>>), String> {
    let current = refit::current(graph, fitted.linear)?;
    let before = Fit { w: vec![before], b: current.b.clone() };
    let solve = |layer: &Layer, _: Option<&F>| {
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

/// The best factors of so many terms, for [`fit`].
pub fn low_rank(terms: usize) -> impl Fn(&Part, ArrayView2<'_, f64>, f64) -> Option<(Pair, Array2<f64>)> {
    move |part, prior, lambda| {
        let (left, right) = Spectrum::new(part, prior, terms, lambda)?.factors(terms);
        let w = left.dot(&right);
        Some(((left, right), w))
    }
}

/// One of the two layers: the suffix of its name, its operator and its weight.
pub struct Half {
    pub suffix: &'static str,
    pub op: Op,
    pub weight: Tensor,
}

/// Puts two layers in the place of a Conv, Gemm or MatMul whose weight is at `slot`. The first reads what it read, the
/// second has its bias, or `bias` instead.
///
/// # Errors
/// If a malformed node lacks its input or output.
pub fn patch(
    graph: &Graph,
    n: NodeId,
    slot: usize,
    halves: [Half; 2],
    bias: Option<(&Linear, &[f64])>,
) -> Result<Patch, String> {
    let mut patch = Patch::at_node(graph, n);
    let mut data = Ref::Old(graph.input(n, 1 - slot).ok_or("it has no input")?);
    let own = bias.filter(|(linear, _)| matches!(linear.bias, Bias::At { node, .. } if node == n));
    if let (Some((linear, b)), None) = (bias, own) {
        refit::set_bias(graph, &mut patch, linear, b)?;
    }
    let bias = match own {
        Some((linear, b)) => {
            let bias = refit::finite(linear.bias_tensor(graph, b).ok_or("its bias has no type")?)?;
            Some(patch.constant("bias", bias))
        }
        None => graph.input(n, 2).map(Ref::Old),
    };
    for (i, half) in halves.into_iter().enumerate() {
        let last = i == 1;
        // Before opset 11 Gemm has to have its third input.
        let zero = matches!(half.op, Op::Gemm(_)) && graph.opset < 11 && !last;
        let zero = zero.then(|| Tensor::from_floats(half.weight.dtype(), [1], [0.0]));
        let weight = patch.constant(&format!("{}.weight", half.suffix), half.weight);
        let zero = zero.map(|zero| patch.constant(&format!("{}.bias", half.suffix), zero));
        let factors = if slot == 1 { [data, weight] } else { [weight, data] };
        let inputs: Vec<_> = factors.into_iter().chain(if last { bias } else { zero }).map(Some).collect();
        data = patch.node(half.suffix, half.op, &inputs);
    }
    patch.replace(graph.output(n).ok_or("it has no output")?, data);
    Ok(patch)
}
