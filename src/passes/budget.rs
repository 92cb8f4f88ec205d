//! Budgets: what the passes share that find out for each layer how far to go, so that the model as a whole keeps a share of
//! its parameters, its MACs or the bytes of its weights.

use crate::analysis::cost::{Cost, batch_symbol, cost, node_macs};
use crate::analysis::linear::Linear;
use crate::ir::{Graph, NodeId, ValueId};
use crate::math;
use crate::math::knapsack::{self, choose};
use crate::passes::options::{Share, weight};
use crate::passes::{Context, Site, sharing};
use std::collections::HashMap;
use std::hash::Hash;

/// What of a model may be left.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    Params(Share),
    Macs(Share),
    /// Of the bytes of all constants.
    Size(Share),
}

impl Budget {
    /// The options `params` and `macs`.
    pub fn options(params: Option<Share>, macs: Option<Share>) -> [(&'static str, Option<Budget>); 2] {
        [("params", params.map(Budget::Params)), ("macs", macs.map(Budget::Macs))]
    }

    /// The cost that is limited; `None` if it depends on run-time dims.
    pub fn of(self, cost: Cost) -> Option<u64> {
        match self {
            Budget::Params(_) => Some(cost.parameters),
            Budget::Macs(_) => cost.macs,
            Budget::Size(_) => Some(cost.stored),
        }
    }

    fn share(self) -> f64 {
        match self {
            Budget::Params(s) | Budget::Macs(s) | Budget::Size(s) => s.0,
        }
    }

    /// How much may be left by what the pass does itself: of its share, what repair may add is taken off. `None` if the
    /// costs are not known.
    pub fn limit(self, cx: &Context<'_>) -> Option<u64> {
        let all = (self.share() * self.of(cost(cx.graph))? as f64 + 1e-9) as u64;
        Some(all.saturating_sub(self.of(biases(cx))?))
    }

    /// How far from the target a model is that had the cost `before`, if it is.
    pub fn missed(self, before: Cost, after: Cost) -> Option<String> {
        let what = match self {
            Budget::Params(_) => "parameters",
            Budget::Macs(_) => "MACs",
            Budget::Size(_) => "bytes of weights",
        };
        let Some((whole, left)) = self.of(before).zip(self.of(after)) else {
            return Some(format!("the model's {what} depend on run-time dims, so no share of them can be aimed at"));
        };
        let share = 100.0 * left as f64 / whole.max(1) as f64;
        let wanted = 100.0 * self.share();
        (share > wanted).then(|| format!("{share:.1} % of the {what} are left, not {wanted:.1} %"))
    }
}

/// Why a layer stays as it is where a budget decides.
pub const WHOLE: &str = "the budget leaves it as it is";

/// λ where losses are predicted, as a share of the mean diagonal.
pub const RIDGE: f64 = 1e-4;

/// How many more positions a node reads than it makes, on the axes from `first` on.
pub fn spread(graph: &Graph, node: NodeId, first: usize) -> Option<f64> {
    let area = |v: Option<ValueId>| {
        let dims = &graph.value(v?).ty.as_ref()?.shape()?.0;
        dims.iter().skip(first).try_fold(1u64, |area, d| area.checked_mul(d.known()?))
    };
    let (wide, narrow) = (area(graph.input(node, 0))?, area(graph.output(node))?);
    (narrow > 0).then(|| wide as f64 / narrow as f64)
}

/// What is lost of E ‖Y − ȳ‖² in each group of a layer, as shares of the whole.
///
/// # Errors
/// If that is not known.
pub fn shares(layer: &math::Layer, lost: impl IntoIterator<Item = Option<Vec<f64>>>) -> Result<Vec<f64>, String> {
    let lost: Vec<Vec<f64>> = lost.into_iter().collect::<Option<_>>().ok_or("its moments have no decomposition")?;
    let all: f64 = layer.parts.iter().map(|p| p.fit.yy.sum()).sum();
    let terms = lost.iter().map(Vec::len).max().unwrap_or(0);
    let share = |t: usize| lost.iter().filter_map(|group| group.get(t).or(group.last())).sum::<f64>() / all;
    if all > 0.0 { Ok((0..terms).map(share).collect()) } else { Err("what it gives does not vary".into()) }
}

/// A layer, or a weight, that can be made smaller.
pub struct Layer<K = NodeId> {
    pub place: K,
    /// Of its weight, as it is.
    pub whole: Cost,
    pub ways: Vec<Way>,
}

/// A layer of a rank, or a weight of so many values.
pub struct Way {
    pub rank: usize,
    pub cost: Cost,
    /// Share of the layer's output that is lost: ‖Y − Y'‖² / ‖Y − ȳ‖² as far as it is known.
    pub loss: f64,
}

impl Layer {
    /// The ranks from 1 on that take fewer parameters than the layer as it is, with what `lost` says of each, from 0 on. A
    /// term takes `a_term` parameters, each of which is applied, at each of the layers that share the weight, so many times as
    /// often as the layer's own (1, unless a part of it runs before a stride; `None` if that is not known).
    pub fn new(
        graph: &Graph,
        place: NodeId,
        readers: &[(NodeId, Option<f64>)],
        weights: usize,
        a_term: usize,
        lost: &[f64],
    ) -> Layer {
        let batch = batch_symbol(graph);
        let macs = |node| Some(node_macs(graph, node, batch.as_ref())? as f64 / weights.max(1) as f64);
        let before: Option<f64> = readers.iter().map(|r| macs(r.0)).sum();
        let after: Option<f64> = readers.iter().map(|r| Some(macs(r.0)? * r.1?)).sum();
        let cost = |parameters: usize, macs: Option<f64>| Cost {
            parameters: parameters as u64,
            macs: macs.map(|macs| (macs * parameters as f64).ceil() as u64),
            stored: 0,
        };
        let (least, whole) = (lost.last().copied().unwrap_or(0.0), cost(weights, before));
        let ranks = lost.iter().enumerate().skip(1).take_while(|(rank, _)| rank * a_term < weights);
        let way = |(rank, lost): (usize, &f64)| Way { rank, cost: cost(rank * a_term, after), loss: lost - least };
        Layer { place, whole, ways: ranks.map(way).collect() }
    }
}

/// The sites of a pass that gives each of `layers` a rank, such that a budget is kept at the least loss: the sum of the
/// shares that the layers lose. Others of `nodes` stay as they are.
pub fn sites(cx: &Context<'_>, budget: Budget, nodes: Vec<NodeId>, layers: &[Layer]) -> Vec<Site> {
    let ranks = plan(cx, budget, layers).unwrap_or_default();
    nodes.into_iter().map(|node| Site::Layer { node, rank: ranks.get(&node).copied() }).collect()
}

/// The ranks of `layers` that keep a budget at the least loss; of those that stay as they are there is none. `None` if the
/// costs are not known.
pub fn plan<K: Copy + Eq + Hash>(cx: &Context<'_>, budget: Budget, layers: &[Layer<K>]) -> Option<HashMap<K, usize>> {
    let whole = budget.of(cost(cx.graph))?;
    let own: u64 = layers.iter().map(|l| budget.of(l.whole)).sum::<Option<u64>>()?;
    let others = whole.saturating_sub(own);
    let places: Vec<Vec<knapsack::Way>> = layers
        .iter()
        .map(|l| {
            let whole = knapsack::Way { cost: budget.of(l.whole)?, loss: 0.0 };
            let smaller = l.ways.iter().map(|w| Some(knapsack::Way { cost: budget.of(w.cost)?, loss: w.loss }));
            std::iter::once(Some(whole)).chain(smaller).collect()
        })
        .collect::<Option<_>>()?;
    let chosen = choose(&places, budget.limit(cx)?.saturating_sub(others));
    let rank = |(layer, way): (&Layer<K>, usize)| Some((layer.place, layer.ways.get(way.checked_sub(1)?)?.rank));
    Some(layers.iter().zip(chosen).filter_map(rank).collect())
}

/// What repair may add: biases, in layers that have none.
fn biases(cx: &Context<'_>) -> Cost {
    let g = cx.graph;
    let all = sharing::first(g, |n| weight(g, n).is_some());
    let without = all.into_iter().filter(|&n| cx.repairs && g.input(n, 2).is_none());
    let outputs = without.filter_map(|n| Linear::of(g, n).ok()).map(|l| l.groups * l.outputs);
    let parameters = outputs.sum::<usize>() as u64;
    Cost { parameters, macs: Some(0), stored: 4 * parameters }
}
