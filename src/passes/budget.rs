//! Budgets: a share of the model's parameters (`params`), MACs (`macs`) or bytes of weights (`size`) to keep at most. The pass
//! finds out for each layer how far to go, so that the layers together lose least.
//!
//! What a layer loses is predicted as a share of its output's variance: from calibration data, or else from the weights alone.
//! No layer loses more than `max-loss` (0.5 unless set), however much the budget asks for.
//!
//! A budget that cannot be reached is an error (exit code 1), and nothing is written. If all that the pass can cut is not
//! enough, that is told before any data is run; if only `max-loss` stands in the way, once the losses are known. The error
//! says what the least is, and what holds the rest: layers that are skipped or frozen, what the pass does not cut, and what
//! is left of what it does cut.
//!
//! With `best-effort = true` in the step, or `--best-effort` for all steps, it goes as far as it can instead. The student is
//! written, and the exit code is 2, as always where a model is written that misses its target: so it is, too, where a layer
//! turned out not to split as it was planned.
//!
//! MACs depend on the sizes of the inputs. Where the model leaves these open, calibration or test data says them, or
//! `--input-shape NAME=1x3x48x192`. The student's own dims stay open.

use crate::analysis::cost::{Cost, batch_symbol, node_macs};
use crate::analysis::linear::Linear;
use crate::ir::{Graph, NodeId, ValueId};
use crate::math;
use crate::math::knapsack::{self, choose};
use crate::passes::options::{Share, weight};
use crate::passes::{Context, Site, sharing};
pub use reach::{Part, Reach};
use std::collections::HashMap;
use std::hash::Hash;

mod reach;

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

    /// The option that it is.
    pub fn key(self) -> &'static str {
        match self {
            Budget::Params(_) => "params",
            Budget::Macs(_) => "macs",
            Budget::Size(_) => "size",
        }
    }

    /// What it counts, in words.
    pub fn unit(self) -> &'static str {
        match self {
            Budget::Params(_) => "parameters",
            Budget::Macs(_) => "MACs",
            Budget::Size(_) => "bytes of weights",
        }
    }

    /// The cost that is limited; `None` if it depends on run-time dims.
    pub fn of(self, cost: Cost) -> Option<u64> {
        match self {
            Budget::Params(_) => Some(cost.parameters),
            Budget::Macs(_) => cost.macs,
            Budget::Size(_) => Some(cost.stored),
        }
    }

    pub fn share(self) -> f64 {
        match self {
            Budget::Params(s) | Budget::Macs(s) | Budget::Size(s) => s.0,
        }
    }

    /// How much of `whole` may be left.
    fn of_whole(self, whole: u64) -> u64 {
        (self.share() * whole as f64 + 1e-9) as u64
    }

    /// How much may be left by what the pass does itself: of its share, what repair may add is taken off. `None` if the
    /// costs are not known.
    pub fn limit(self, cx: &Context<'_>) -> Option<u64> {
        Some(self.of_whole(self.of(cx.cost())?).saturating_sub(self.of(biases(cx))?))
    }

    /// How far from the target a model is that had the cost `before`, if it is.
    pub fn missed(self, before: Cost, after: Cost) -> Option<String> {
        let what = self.unit();
        let Some((whole, left)) = self.of(before).zip(self.of(after)) else {
            return Some(format!("the model's {what} depend on run-time dims, so no share of them can be aimed at"));
        };
        let share = 100.0 * left as f64 / whole.max(1) as f64;
        let wanted = 100.0 * self.share();
        (share > wanted).then(|| format!("{share:.1} % of the {what} are left, not {wanted:.1} %"))
    }
}

/// The manual page: the doc comment that heads this file.
pub fn manual() -> String {
    crate::passes::manual(include_str!("budget.rs"))
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

/// The share of a layer's output that is lost with so many terms, from 0 to `full` or more: as data said, or else as
/// `plain` does. Where any loss will do, nothing is computed.
pub fn losses(
    cx: &Context<'_>,
    node: NodeId,
    full: usize,
    plain: impl FnOnce() -> Option<Vec<f64>>,
) -> Option<Vec<f64>> {
    match cx.surveyed(node) {
        Some(told) => Some(told.to_vec()),
        None if cx.max_loss.is_infinite() => Some(vec![0.0; full + 1]),
        None => plain(),
    }
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
    /// often as the layer's own (1, unless a part of it runs before a stride; `None` if that is not known). `graph` has the sizes
    /// of its inputs.
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

/// The layers, or weights, that a pass is about: what a budget may do with each, or why it stays as it is.
pub type Offers<K = NodeId> = Vec<(K, Result<Layer<K>, String>)>;

impl<K> Layer<K> {
    /// What may be done with it where none may lose more than `max_loss`.
    fn within(&self, max_loss: f64) -> impl Iterator<Item = &Way> {
        self.ways.iter().filter(move |w| w.loss <= max_loss)
    }
}

/// The sites of a pass that gives each layer a rank, such that a budget is kept at the least loss: the sum of the shares
/// that the layers lose.
pub fn sites(cx: &Context<'_>, budget: Budget, offers: Offers) -> Vec<Site> {
    let ranks = plan(cx, budget, &offers).unwrap_or_default();
    offers.into_iter().map(|(node, _)| Site::Layer { node, rank: ranks.get(&node).copied() }).collect()
}

/// The ranks that keep a budget at the least loss; of what stays as it is there is none. If the budget cannot be kept, the
/// smallest that there are. `None` if the costs are not known.
pub fn plan<K: Copy + Eq + Hash>(cx: &Context<'_>, budget: Budget, offers: &Offers<K>) -> Option<HashMap<K, usize>> {
    let layers: Vec<&Layer<K>> = offers.iter().filter_map(|o| o.1.as_ref().ok()).collect();
    let whole = budget.of(cx.cost())?;
    let own: u64 = layers.iter().map(|l| budget.of(l.whole)).sum::<Option<u64>>()?;
    let others = whole.saturating_sub(own);
    let places: Vec<Vec<knapsack::Way>> = layers
        .iter()
        .map(|l| {
            let whole = knapsack::Way { cost: budget.of(l.whole)?, loss: 0.0 };
            let smaller = l.within(cx.max_loss);
            let smaller = smaller.map(|w| Some(knapsack::Way { cost: budget.of(w.cost)?, loss: w.loss }));
            std::iter::once(Some(whole)).chain(smaller).collect()
        })
        .collect::<Option<_>>()?;
    let chosen = choose(&places, budget.limit(cx)?.saturating_sub(others));
    let rank = |(layer, way): (&&Layer<K>, usize)| {
        Some((layer.place, layer.within(cx.max_loss).nth(way.checked_sub(1)?)?.rank))
    };
    Some(layers.iter().zip(chosen).filter_map(rank).collect())
}

/// How little a budget can leave of a model whose layers these are. `None` if the costs are not known.
pub fn reach<K: Copy + Place>(cx: &Context<'_>, budget: Budget, offers: &Offers<K>) -> Option<Reach> {
    // Of each part, the share that is left at the least.
    let (mut left, mut stays) = (HashMap::new(), HashMap::new());
    for (place, offer) in offers {
        let why = match offer {
            Ok(layer) => {
                let whole = budget.of(layer.whole)?;
                let costs = layer.within(cx.max_loss).map(|w| budget.of(w.cost));
                let least = costs.collect::<Option<Vec<u64>>>()?.into_iter().min().unwrap_or(whole);
                left.extend(place.parts(cx.graph, budget).into_iter().map(|part| (part, (least, whole))));
                if layer.ways.is_empty() { "nothing makes it smaller" } else { "any cut loses more than that" }
            }
            Err(why) => why,
        };
        let named = (place.name(cx.graph), why.to_string());
        stays.extend(place.parts(cx.graph, budget).into_iter().map(|part| (part, named.clone())));
    }
    let share = |cost: u64, (least, whole): (u64, u64)| {
        let exact = u128::from(cost) * u128::from(least) / u128::from(whole.max(1));
        u64::try_from(exact).unwrap_or(cost)
    };
    Reach::new(cx, budget, |part, cost| left.get(&part).map_or(cost, |&of| share(cost, of)), &stays)
}

/// What an offer is about.
pub trait Place {
    /// What of the model's cost it is.
    fn parts(&self, graph: &Graph, budget: Budget) -> Vec<Part>;

    fn name(&self, graph: &Graph) -> String;
}

impl Place for NodeId {
    fn parts(&self, graph: &Graph, budget: Budget) -> Vec<Part> {
        match budget {
            Budget::Macs(_) => sharing::family(graph, *self).into_iter().map(Part::Node).collect(),
            Budget::Params(_) | Budget::Size(_) => {
                weight(graph, *self).map(|w| Part::Constant(w.1)).into_iter().collect()
            }
        }
    }

    fn name(&self, graph: &Graph) -> String {
        graph.label(*self).to_string()
    }
}

impl Place for ValueId {
    fn parts(&self, _: &Graph, _: Budget) -> Vec<Part> {
        vec![Part::Constant(*self)]
    }

    fn name(&self, graph: &Graph) -> String {
        graph.value(*self).name.clone()
    }
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
