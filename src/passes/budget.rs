//! Budgets: a share of the model's parameters (`params`), MACs (`macs`) or bytes of weights (`size`) to keep at most. The pass
//! finds out for each layer how far to go, so that the layers together lose least.
//!
//! What a layer loses is predicted as a share of its output's variance: from calibration data, or else from the weights alone.
//! Of a classifier, calibration data also says how errors of a layer's output move the answers (second moments of gradients, as
//! in K-FAC): such errors are what factors, inputs and channels are chosen by, and a layer counts by how far the answers would
//! move without it.
//! No layer loses more than `max-loss` (0.5 unless set), however much the budget asks for. Rows say errors as the root of such
//! a share, without that metric: half of the variance is an error of 71 %, and a layer that moves the answers little has more.
//!
//! A budget that cannot be reached is an error (exit code 1), and nothing is written. If all that the pass can cut is not
//! enough, that is told before any data is run; if only `max-loss` stands in the way, once the losses are known. The error
//! says what the least is, and what holds the rest: layers that are skipped or frozen, what the pass does not cut, and what
//! is left of what it does cut.
//!
//! Of a later step, a budget that is out of reach whatever the steps before it leave is refused before the first of them
//! calibrates; anything else that stands in its way is told when the step begins.
//!
//! With `best-effort = true` in the step, or `--best-effort` for all steps, it goes as far as it can instead. The student is
//! written, and the exit code is 2, as always where a model is written that misses its target: so it is, too, where a layer
//! turned out not to split as it was planned.
//!
//! MACs depend on the sizes of the inputs. Where the model leaves these open, calibration or test data says them, or
//! `--input-shape NAME=1x3x48x192`. The student's own dims stay open.
//!
//! The report has the recipe with what the budget chose as a table by layer, such as `rank = { "fc1" = 40 }`, and
//! `--save-recipe FILE` writes it: running that gives the same student. Beside such a table the budget is only what the
//! step is to reach: if it does not, the exit code is 2, unless the step has `best-effort = true`.

use crate::analysis::cost::{Cost, batch_symbol, node_macs};
use crate::analysis::ending;
use crate::analysis::linear::Linear;
use crate::ir::{Graph, NodeId, Tensor, ValueId};
use crate::math::knapsack;
use crate::math::moments::Centred;
use crate::passes::options::{Share, weight};
use crate::passes::{Choice, Context, Fitted, Measure, Offer, Offers, Site, cluster_weights, refit, sharing, split};
use ndarray::{Array2, ArrayView2};
pub use reach::{CostPart, Reach};
use std::collections::{BTreeSet, HashMap};

mod reach;

/// What of a model may be left.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// A share of the parameters.
    Params(Share),
    /// A share of the multiply-accumulates.
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

    /// The share that may stay.
    pub fn share(self) -> f64 {
        match self {
            Budget::Params(s) | Budget::Macs(s) | Budget::Size(s) => s.0,
        }
    }

    /// What such choices share, of which a graph may have some.
    fn shared(self, graph: &Graph, choices: impl Iterator<Item = Choice>) -> u64 {
        let Budget::Size(_) = self else { return 0 };
        let levels = choices.filter_map(|choice| match choice {
            Choice::Levels(levels) | Choice::Vectors { levels, .. } => Some(levels),
            _ => None,
        });
        levels
            .collect::<BTreeSet<usize>>()
            .into_iter()
            .map(|levels| cluster_weights::digits(graph, levels) as u64)
            .sum()
    }

    /// How much of `whole` may be left.
    fn of_whole(self, whole: u64) -> u64 {
        (self.share() * whole as f64 + 1e-9) as u64
    }

    /// How much may be left by what the pass does itself: of its share, what repair may add is taken off, unless all may
    /// stay. `None` if the costs are not known.
    pub fn limit(self, cx: &Context<'_>) -> Option<u64> {
        let whole = self.of(cx.cost())?;
        let left = self.of_whole(whole);
        Some(if left < whole { left.saturating_sub(self.of(biases(cx))?) } else { left })
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

/// How many times the losses of a layer that gives outputs of the model count where codes are dealt out.
const ANSWERS: f64 = 32.0;

/// Why a layer stays as it is where a budget decides.
pub const WHOLE: &str = "the budget leaves it as it is";

/// How often a budget is dealt out anew.
const CHOICES: usize = 8;

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

/// What a layer with these weights loses, as a share of E ‖Y − ȳ‖², with so many terms, from 0 on: `lost` says it of a group. In
/// the metric of the model's answers, where that is known.
///
/// # Errors
/// If that is not known.
pub fn shares(
    fitted: &Fitted<'_>,
    weights: &[Array2<f64>],
    lost: impl Fn(&Centred, ArrayView2<'_, f64>) -> Option<Vec<f64>>,
) -> Result<Vec<f64>, String> {
    let no = "its moments have no decomposition";
    let groups = fitted.in_metric(weights).ok_or(no)?;
    let all: f64 = groups.iter().map(|(c, _)| c.yy.sum()).sum();
    let lost: Vec<Vec<f64>> = groups.iter().map(|(c, w)| lost(c, w.view())).collect::<Option<_>>().ok_or(no)?;
    let terms = lost.iter().map(Vec::len).max().unwrap_or(0);
    let share = |t: usize| lost.iter().filter_map(|group| group.get(t).or(group.last())).sum::<f64>() / all;
    if all > 0.0 { Ok((0..terms).map(share).collect()) } else { Err("what it gives does not vary".into()) }
}

/// The share of a layer's output that is lost with so many terms, from 0 to `full` or more: as data said, or else as
/// `plain` does. Where any loss will do, nothing is computed.
pub fn losses(
    cx: &Context<'_>,
    (node, measure): (NodeId, Measure),
    full: usize,
    plain: impl FnOnce() -> Option<Vec<f64>>,
) -> Option<Vec<f64>> {
    match cx.measured(node, measure) {
        Some(told) => Some(told.to_vec()),
        None if cx.max_loss.is_infinite() => Some(vec![0.0; full + 1]),
        None => plain(),
    }
}

/// A layer that can be split, with those that share its weight.
pub struct SplitSite<'a> {
    /// Each with how often the parameters of the two that take its place are applied, as often as its own being 1: more where
    /// a part of them runs before a stride. `None` if that is not known.
    pub readers: Vec<(NodeId, Option<f64>)>,
    /// The weight.
    pub weight: &'a Tensor,
    /// Parameters of a term.
    pub a_term: usize,
    /// Indices that each term adds to these.
    pub indices: usize,
    /// Bytes that its patch adds to the file besides the weights and indices.
    pub more: usize,
}

impl SplitSite<'_> {
    /// Offers of the ranks from 1 on that take fewer parameters than the layer as it is, with what `lost` says of each, from 0
    /// on. `graph` has the sizes of its inputs.
    pub fn offers(&self, graph: &Graph, lost: &[f64], choice: impl Fn(usize) -> Choice) -> Offers {
        let (weights, batch) = (self.weight.len(), batch_symbol(graph));
        let macs = |node| Some(node_macs(graph, node, batch.as_ref())? as f64 / weights.max(1) as f64);
        let before: Option<f64> = self.readers.iter().map(|r| macs(r.0)).sum();
        let after: Option<f64> = self.readers.iter().map(|r| Some(macs(r.0)? * r.1?)).sum();
        let value = self.readers.first().and_then(|r| weight(graph, r.0)).map(|(_, v)| v);
        let stored = value.map_or(self.weight.byte_len(), |v| graph.value(v).stored_len());
        let added = self.indices + value.map_or(0, |v| split::scales(graph, v));
        let cost = |parameters: usize, indices: usize, macs: Option<f64>| Cost {
            parameters: (parameters + indices) as u64,
            macs: macs.map(|macs| (macs * parameters as f64).ceil() as u64),
            stored: ((parameters * stored).div_ceil(weights.max(1)) + indices * size_of::<i32>()) as u64,
        };
        let least = lost.last().copied().unwrap_or(0.0);
        let whole = cost(weights, 0, before);
        let offer = |(rank, lost): (usize, &f64)| Offer {
            choice: choice(rank),
            cost: cost(rank * self.a_term, rank * added, after),
            loss: lost - least,
        };
        let smaller = |offer: &Offer| {
            offer.cost.parameters < whole.parameters && offer.cost.stored + (self.more as u64) < whole.stored
        };
        Offers { whole, list: lost.iter().enumerate().skip(1).map(offer).take_while(smaller).collect() }
    }
}

/// How many times the losses at each site count: as the recipe weighs them, or by what they do to the model's answers, if that is
/// known of all. Otherwise once; where codes are dealt out, layers that give the model's outputs count more: no layer is behind
/// them that could do with less.
fn counts(cx: &Context<'_>, budget: Budget, sites: &[&Site]) -> Vec<f64> {
    let g = cx.graph;
    if cx.selected.weighs() {
        return sites.iter().map(|site| cx.selected.sensitivity(g, &site.names(g))).collect();
    }
    let layers: Option<Vec<NodeId>> = sites.iter().map(|site| site.nodes(g).first().copied()).collect();
    if let Some(known) = layers.and_then(|layers| cx.divergences(&layers)) {
        return known;
    }
    let codes = matches!(budget, Budget::Size(_));
    let answers = |site: &&Site| codes && site.nodes(g).into_iter().any(|n| ending::answers(g, n));
    sites.iter().map(|site| if answers(site) { ANSWERS } else { 1.0 }).collect()
}

/// What is offered at each of several sites.
type All<'a> = &'a [Result<Offers, String>];

/// The choices that keep a budget at the least loss, the sum of the shares that the layers lose, each with the name of its site;
/// of what stays as it is there is none. If the budget cannot be kept, the smallest that there are. `None` if the costs are not
/// known.
pub fn choose(cx: &Context<'_>, budget: Budget, sites: &[Site], offers: All<'_>) -> Option<Vec<(String, Choice)>> {
    let open: Vec<(&Site, &Offers)> =
        sites.iter().zip(offers).filter_map(|(s, o)| Some((s, o.as_ref().ok()?))).collect();
    let whole = budget.of(cx.cost())?;
    let own: u64 = open.iter().map(|(_, offers)| budget.of(offers.whole)).sum::<Option<u64>>()?;
    let others = whole.saturating_sub(own);
    let item = |cost: Cost, loss: f64| Some(knapsack::Item { cost: budget.of(cost)?, loss });
    let counts = counts(cx, budget, &open.iter().map(|o| o.0).collect::<Vec<_>>());
    let places: Vec<Vec<knapsack::Item>> = open
        .iter()
        .zip(counts)
        .map(|((_, offers), counts)| {
            let smaller = offers.within(cx.max_loss).map(|offer| item(offer.cost, counts * offer.loss));
            std::iter::once(item(offers.whole, 0.0)).chain(smaller).collect()
        })
        .collect::<Option<_>>()?;
    let limit = budget.limit(cx)?.saturating_sub(others);
    let offer = |((_, offers), at): (&(&Site, &Offers), &usize)| {
        offers.within(cx.max_loss).nth(at.checked_sub(1)?).map(|offer| offer.choice)
    };
    // What choices share is known once they are made: they are made again with what is left then.
    let (mut chosen, mut common) = (Vec::new(), 0);
    for _ in 0..=CHOICES {
        chosen = knapsack::choose(&places, limit.saturating_sub(common));
        let taken = budget.shared(cx.graph, open.iter().zip(&chosen).filter_map(offer));
        let cost: u64 = places.iter().zip(&chosen).map(|(place, &at)| place[at].cost).sum();
        if taken <= common || cost + taken <= limit {
            break;
        }
        common = taken;
    }
    let named = |at: (&(&Site, &Offers), &usize)| Some((at.0.0.names(cx.graph).into_iter().next()?, offer(at)?));
    Some(open.iter().zip(&chosen).filter_map(named).collect())
}

/// How little a budget can leave of a model at whose sites this is offered. `None` if the costs are not known.
pub fn reach(cx: &Context<'_>, budget: Budget, sites: &[Site], offers: All<'_>) -> Option<Reach> {
    // Of each part, the share that is left at the least.
    let (mut left, mut stays, mut smallest) = (HashMap::new(), HashMap::new(), Vec::new());
    for (site, offers) in sites.iter().zip(offers) {
        let parts = parts(site, cx.graph, budget);
        let why = match offers {
            Ok(offers) => {
                let whole = budget.of(offers.whole)?;
                let costs = offers.within(cx.max_loss).map(|offer| Some((budget.of(offer.cost)?, offer.choice)));
                let least = costs.collect::<Option<Vec<_>>>()?.into_iter().min_by_key(|cost| cost.0);
                smallest.extend(least.map(|least| least.1));
                let least = least.map_or(whole, |least| least.0);
                left.extend(parts.iter().map(|&part| (part, (least, whole))));
                if offers.list.is_empty() { "nothing makes it smaller" } else { "any cut loses more than that" }
            }
            Err(why) => why,
        };
        let named = (site.names(cx.graph).into_iter().next().unwrap_or_default(), why.to_string());
        stays.extend(parts.into_iter().map(|part| (part, named.clone())));
    }
    let share = |cost: u64, (least, whole): (u64, u64)| {
        let exact = u128::from(cost) * u128::from(least) / u128::from(whole.max(1));
        u64::try_from(exact).unwrap_or(cost)
    };
    let common = budget.shared(cx.graph, smallest.into_iter());
    Reach::new(cx, budget, |part, cost| left.get(&part).map_or(cost, |&of| share(cost, of)), common, &stays)
}

/// What of the model's cost a site is.
fn parts(site: &Site, graph: &Graph, budget: Budget) -> Vec<CostPart> {
    match (site, budget) {
        (Site::Layer(node), Budget::Macs(_)) => sharing::family(graph, *node).into_iter().map(CostPart::Node).collect(),
        (Site::Layer(node), _) => weight(graph, *node).map(|w| CostPart::Constant(w.1)).into_iter().collect(),
        (Site::Codes(v) | Site::Weight(v) | Site::Value(v), _) => vec![CostPart::Constant(*v)],
        (Site::Node(_) | Site::Channels { .. }, _) => Vec::new(),
    }
}

/// What repair may add: biases, where a layer has none of its own.
fn biases(cx: &Context<'_>) -> Cost {
    let g = cx.graph;
    let layers = sharing::first(g, |n| cx.repairs && weight(g, n).is_some());
    let fitted = layers.into_iter().filter_map(|n| Linear::of_all(g, &sharing::readers(g, weight(g, n)?.1)).ok());
    let parameters = fitted.map(|linear| refit::bias_growth(g, &linear)).sum::<usize>() as u64;
    Cost { parameters, macs: Some(0), stored: 4 * parameters }
}
