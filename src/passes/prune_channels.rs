//! Removes whole channels and neurons, with everything that is coupled to them. What stands or falls together is worked
//! out for the whole graph (`tutee show --channels MODEL` prints it): residual sums, concatenations, depthwise and
//! grouped convolutions, flattening, attention heads and so on. Channels that reach an output of the model, an operator
//! that is not known or one that needs the axis whole stay, and the report names that operator. Every layer is in some
//! row: one whose weights are fed or made at run time, too. A hidden unit of an LSTM, GRU or RNN goes out of all gates, states and
//! directions.
//!
//! A unit is the least set of channels that can go; a group is the units that one layer, or several coupled ones, make.
//! Of every group the least important units go; no axis loses all of its channels: a unit that stays for that takes the
//! place of another, where one can go. Options:
//!
//! * `width-mult`: keep `int(units * width-mult)` of every group, at least 1. 0.5 if no target is given.
//! * `width`: other multipliers for some layers, a table by layer: `width = { "layer3.*" = 0.5 }` (`tutee explain tables`).
//!   Layers that none matches are left whole unless `width-mult` is given.
//! * `units`: instead, how many units stay: one number, or a table by layer. Where one layer makes several groups, `NAME#1`
//!   is the first of them, `NAME#2` the second.
//! * `params`, `macs`: instead, a share of the model's parameters or MACs to keep at most. Units go in the order of what the
//!   layers that read them lose, by `schur`, for each parameter or MAC that goes too; where that is not known of all groups, of
//!   their importance relative to the group's mean, evenly where they are worth the same. No layer loses more than
//!   `max-loss` of its output for it: as `schur` predicts it of each layer that reads the units, else as a share of the
//!   squared weights that make them. `tutee explain budgets` says what happens if that is not enough.
//! * `shares`: how widths are dealt out. `equal`: every group keeps its own share. `loss`: groups that can do without lose
//!   more, down to half of what equal shares would leave them, and the others less; the model has no more parameters and no
//!   more MACs than with equal shares. Unless set, `loss` where `schur` judges and one width is for all, else `equal`.
//! * `importance`: what makes a unit important; unless set, `schur` with calibration data, `l1` without. By its own weights:
//!   * `l1`, `l2`: the norm of the weights that make it. (Li et al. 2017, Pruning Filters for Efficient ConvNets.)
//!
//!   Or, which takes calibration data, what the unit is worth to the layers that read it, behind activations and poolings,
//!   summed over all of them:
//!   * `activation-energy`: the mean of its square.
//!   * `nonzero-share`: how often it is not zero. (1 − APoZ; Hu et al. 2016, Network Trimming.)
//!   * `fidelity`: how much of what a reader gives the unit alone could give, ⟨a, y⟩² / (|a|² |y|²) of its contribution a
//!     to the reader's output y. (ModHiFi, 2025.)
//!   * `schur`: the share of a reader's output that is lost for good, the weights of the other units made up for it, as
//!     units go one after the other, the least loss first. Of two channels that say the same, one is worth nothing.
//!     (Hassibi & Stork 1993, Optimal Brain Surgeon, by units.)
//! * `round-to`: round the number of units that stay down to a multiple of this, but to no less than once this; a group of
//!   fewer units stays whole.
//! * `skip-first`: a group is left alone if one of its producers is among the first layers: unless set, a tenth of all, at most
//!   three.
//!
//! Data is used for the importance also with `repair = "none"`. A group with a unit that no reader can be asked about (one
//! with too many inputs, say) goes by `l1`, and its row says why.
//!
//! The default is what wins here, on average and nearly everywhere: accuracy in percent on the first 5,000 images of
//! train.npz, that nothing was fitted to, with a share of the channels kept in every layer (`skip-first = 0`) and 512 images to fit to.
//!
//! | network | kept | `l1` | `l2` | `activation-energy` | `nonzero-share` | `fidelity` | `schur` |
//! |---|---|---|---|---|---|---|---|
//! | teacher_cnn, 86.40 | 0.75 | 78.94 | 79.26 | 80.66 | 79.92 | 79.78 | **81.46** |
//! | | 0.5 | 67.50 | 67.94 | 69.46 | 66.90 | 66.72 | **72.60** |
//! | resnet_small_bn, 90.50 | 0.75 | 89.64 | 89.90 | 89.94 | 89.42 | 89.66 | **90.04** |
//! | | 0.5 | 86.06 | 86.84 | 87.04 | 86.14 | 86.70 | **88.36** |
//! | lenet5, 99.66 | 0.5 | 99.42 | 99.42 | **99.48** | 99.04 | 99.22 | 99.42 |
//! | lenet300, 99.12 | 0.5 | 98.76 | 98.80 | 98.50 | 97.02 | 97.76 | **98.86** |
//!
//! These are with `shares = "equal"`. With `"loss"`, `schur` gives teacher_cnn 86.26 and 80.70, resnet_small_bn 90.02 and 88.28
//! (with 71,330 and 28,924 parameters, of 175,994), lenet5 99.42.
//!
//! With a target, layers that can do without lose more. `params = 0.25`, which is as many parameters as a width of 0.5
//! leaves, gives 86.58 for teacher_cnn on the last 5,000 images of train.npz, where the teacher has 86.36 (`params = 0.15` gives
//! 85.88, 0.1 gives 84.46), and 89.33 for resnet_small_bn on the last 3,000 of its train.npz, where the teacher has 90.70; 512
//! images to fit to, none of these.
//!
//! ```text
//! # run = [{ pass = "prune-channels", width-mult = 0.5, skip-first = 0 }]
//! model "chain" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w1 : f32[32,3,3,3] = seed(1)
//!   const %b1 : f32[32] = seed(2)
//!   const %w2 : f32[4,32,1,1] = seed(3)
//!
//!   %h : f32[N,32,8,8] = Conv<pads=[1,1,1,1]>(%x, %w1, %b1) @conv1
//!   %a : f32[N,32,8,8] = Relu(%h)
//!   %y : f32[N,4,8,8] = Conv(%a, %w2) @conv2
//!
//!   output %y
//! }
//! ---- expect ----
//! model "chain" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w1 : f32[16,3,3,3]
//!   const %b1 : f32[16]
//!   const %w2 : f32[4,16,1,1]
//!
//!   %h : f32[N,16,8,8] = Conv<pads=[1,1,1,1]>(%x, %w1, %b1) @conv1
//!   %a : f32[N,16,8,8] = Relu(%h)
//!   %y : f32[N,4,8,8] = Conv(%a, %w2) @conv2
//!
//!   output %y
//! }
//! ```

use crate::analysis::channels::{Channels, Group, UnitPlaces};
use crate::analysis::cost::Cost;
use crate::analysis::likely;
use crate::analysis::removal::{Removal, RemovalTally};
use crate::error::Result;
use crate::ir::{Graph, NodeId, Patch};
use crate::passes::budget::{Budget, CostPart, Reach, WHOLE};
use crate::passes::by_layer::{self, ByLayer};
use crate::passes::importance::{Importance, Scored, Scores, likely_losses};
use crate::passes::options::{OptionsError, Selection, Share, SkipFirst, one_of};
use crate::passes::{
    Choice, Context, Fidelity, JointVerdict, Offer, Offers, Pass, Phase, Reason, Resolved, SensitivityQuery, Site,
    SiteOutcome, Verdict, Why,
};
use plan::Removals;
use serde::Deserialize;
use std::collections::HashMap;
use std::num::NonZeroUsize;

mod plan;

/// The share of channels, parameters or MACs below which few networks survive without data.
const STRONG: f64 = 0.95;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneChannels {
    width_mult: Option<Share>,
    width: Option<ByLayer<Share>>,
    units: Option<ByLayer<NonZeroUsize>>,
    params: Option<Share>,
    macs: Option<Share>,
    shares: Option<Shares>,
    importance: Option<Importance>,
    round_to: Option<NonZeroUsize>,
}

/// Offers of a group, about.
const STEPS: usize = 20;

const NO_GROUP: &str = "it is no group of channels";

/// How the units that go are dealt out to the groups where widths are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Shares {
    /// Each loses its own share.
    Equal,
    /// Those lose more that can do without, down to half of their share; together they cost no more than with equal shares.
    Loss,
}

impl Pass for PruneChannels {
    fn name(&self) -> &'static str {
        "prune-channels"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { skip_first: SkipFirst::Tenth(3), ..Selection::default() }
    }

    fn check(&self) -> Result<(), String> {
        let widths = self.width.iter().flat_map(ByLayer::values).map(|&width| ("width", Some(width)));
        let single = [("width-mult", self.width_mult), ("params", self.params), ("macs", self.macs)];
        if let Some((key, _)) = single.into_iter().chain(widths).find(|s| s.1.is_some_and(|share| share.0 <= 0.0)) {
            return Err(format!("the {key} must be above 0: one channel always stays"));
        }
        let target = self.target()?.map(drop);
        // Beside a table of units a budget is no more than what is to be reached.
        let units = self.units.as_ref().filter(|units| target.is_none() || !units.is_table()).map(drop);
        let (width, shares) =
            (self.width.as_ref().map(drop), self.shares.filter(|shares| *shares == Shares::Loss).map(drop));
        for (key, given) in [("width-mult", self.width_mult.map(drop)), ("width", width), ("shares", shares)] {
            one_of([(key, given), ("a target", target)])
                .map_err(|_| format!("`{key}` and a target exclude each other"))?;
            one_of([(key, given), ("units", units)])?;
        }
        one_of([("units", units), ("a target", target)]).map_err(|_| "`units` and a target exclude each other")?;
        match &self.width {
            Some(ByLayer::All(_)) if self.width_mult.is_some() => {
                Err("`width-mult` and one `width` for all layers exclude each other".into())
            }
            _ => Ok(()),
        }
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        if self.width.is_none() && self.units.is_none() {
            return Ok(());
        }
        let groups = Channels::of(graph).map(|channels| names(graph, &channels.groups())).unwrap_or_default().concat();
        self.width.as_ref().map_or(Ok(()), |width| width.fits(graph, "width", &groups))?;
        self.units.as_ref().map_or(Ok(()), |units| units.fits(graph, "units", &groups))
    }

    fn weighs_outputs(&self) -> bool {
        self.importance.unwrap_or(Importance::WITH_DATA) == Importance::Schur
    }

    fn budget(&self) -> Option<Budget> {
        self.target().ok().flatten()
    }

    fn undecided(&self) -> Option<Budget> {
        self.budget().filter(|_| self.units.is_none())
    }

    fn decided(&self, chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        let units = chosen.iter().filter_map(|(name, choice)| match choice {
            Choice::Units(units) => Some((name.clone(), NonZeroUsize::new(*units)?)),
            _ => None,
        });
        Some(Box::new(PruneChannels { units: Some(ByLayer::filled(units, WHOLE)), ..self.clone() }))
    }

    fn resolve(&self, cx: &Context<'_>) -> Option<Resolved> {
        self.undecided()?;
        let channels = Channels::of(cx.graph).ok()?;
        let groups = channels.groups();
        let scored = self.scored(cx, &channels, &groups);
        let plan = Removals::new(cx, &channels, &groups, &scored, self.budget());
        let counts = self.counts(cx, &plan, &groups);
        let names = names(cx.graph, &groups);
        let cut = counts.iter().enumerate().filter(|&(i, &count)| count < plan.all(i));
        let chosen: Vec<_> =
            cut.filter_map(|(i, &count)| Some((names[i].first()?.clone(), Choice::Units(count)))).collect();
        Some(Resolved { pass: self.decided(&chosen)?, options: by_layer::options(&chosen) })
    }

    fn reach(&self, cx: &Context<'_>) -> Option<Reach> {
        let budget = self.undecided()?;
        let channels = Channels::of(cx.graph).ok()?;
        let groups = channels.groups();
        let scored = self.scored(cx, &channels, &groups);
        let plan = Removals::new(cx, &channels, &groups, &scored, self.budget());
        let turns = plan.turns(cx.max_loss, |_| 0);
        let counts = plan.after(&turns, turns.len(), |i, left, least| self.between(left, least, plan.all(i)));
        let tally = plan.without(&plan.gone(|i| counts[i]));
        let mut stays = HashMap::new();
        for (group, scored) in groups.iter().zip(&scored) {
            let (Err(why), Some(&first)) = (scored, group.producers.first()) else { continue };
            let weights = group.weights.iter().map(|w| CostPart::Constant(w.0));
            for part in weights.chain(group.producers.iter().map(|&n| CostPart::Node(n))) {
                stays.entry(part).or_insert_with(|| (cx.graph.label(first).to_string(), why.clone()));
            }
        }
        let left = |part, cost| match part {
            CostPart::Constant(v) => tally.elements(v).unwrap_or(cost),
            CostPart::Node(n) => tally.macs(n).unwrap_or(cost),
        };
        Reach::new(cx, budget, left, 0, &stays)
    }

    fn remains(&self) -> f64 {
        // Weights are as many as inputs times outputs.
        let of_budget = |share: Share| share.0.sqrt();
        let budget = self.params.or(self.macs).map(of_budget);
        let widths = if self.units.is_some() { 1.0 } else { self.width_mult.map_or(0.5, |width| width.0) };
        budget.unwrap_or(widths)
    }

    fn needs_data(&self) -> Option<String> {
        let importance = self.importance.filter(|i| i.needs_data())?;
        Some(format!("`importance` = \"{}\"", importance.name()))
    }

    fn is_strong(&self) -> bool {
        let shares = [self.width_mult, self.params, self.macs].into_iter().flatten();
        let widths = self.width.iter().flat_map(ByLayer::values).copied();
        // Nothing given is a half, and a number of units may be any share.
        shares.chain(widths).map(|s| s.0).min_by(f64::total_cmp).unwrap_or(0.0) < STRONG
    }

    fn asks(&self) -> bool {
        self.importance.unwrap_or(Importance::WITH_DATA).needs_data()
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        let importance = self.importance.unwrap_or(Importance::WITH_DATA);
        let Ok(channels) = Channels::of(cx.graph) else { return Vec::new() };
        let groups = channels.groups();
        let open: Vec<&Group> = groups.iter().filter(|g| refuses(cx, g).is_none()).collect();
        if importance.needs_data() { vec![importance.query(cx.graph, &channels, &open)] } else { Vec::new() }
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let Ok(channels) = Channels::of(cx.graph) else { return Vec::new() };
        let groups = channels.groups();
        let by_key: HashMap<Key<'_>, usize> = keys(&groups).zip(0..).collect();
        let scored = self.scored(cx, &channels, &groups);
        let plan = Removals::new(cx, &channels, &groups, &scored, self.budget());
        let at = |site: &Site| {
            let Site::Channels { producers, nth } = site else { return Err(NO_GROUP.into()) };
            let &i = by_key.get(&(producers.as_slice(), *nth)).ok_or(NO_GROUP)?;
            scored[i].as_ref().map_err(String::clone)?;
            let all = plan.all(i);
            let offer = |units: usize| {
                let (cost, loss) = plan.alone(i, units);
                Offer { choice: Choice::Units(units), cost, loss }
            };
            // Some twenty, finer where little is left.
            let least = (1..all).filter(|&units| all <= STEPS || units * STEPS / all != (units - 1) * STEPS / all);
            Ok(Offers { whole: plan.alone(i, all).0, list: least.map(offer).collect() })
        };
        sites.iter().map(at).collect()
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let Ok(channels) = Channels::of(cx.graph) else { return Vec::new() };
        keys(&channels.groups()).map(|(producers, nth)| Site::Channels { producers: producers.to_vec(), nth }).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Some(mut all) = self.rewrite_jointly(cx, &[site])? else {
            return Verdict::skip(NO_GROUP);
        };
        Ok(match all.outcomes.pop().map(|p| p.what) {
            Some(Ok(what)) => Verdict::Patch(all.patch, what),
            Some(Err(why)) => Verdict::Skip(why),
            None => return Verdict::skip(NO_GROUP),
        })
    }

    fn rewrite_jointly(&self, cx: &Context<'_>, sites: &[Site]) -> Result<Option<JointVerdict>> {
        let g = cx.graph;
        let channels = Channels::of(g)?;
        let groups = channels.groups();
        let by_key: HashMap<Key<'_>, usize> = keys(&groups).zip(0..).collect();
        let planned = self.plan(cx, &channels, &groups);
        let mut choices: Vec<Result<Removed<'_>, Reason>> = Vec::new();
        for site in sites {
            let Site::Channels { producers, nth } = site else { return Ok(None) };
            choices.push(match by_key.get(&(producers.as_slice(), *nth)) {
                None => Err(Reason::new(Why::Held, "its channels became coupled to others")),
                Some(&i) => match &planned[i] {
                    Err(why) => Err(refuses(cx, &groups[i]).unwrap_or_else(|| why.clone().into())),
                    Ok((gone, how)) => Removed::of(&groups[i], gone.clone(), how.clone()),
                },
            });
        }
        // A removal that some node cannot follow is one that no group at that node can be part of.
        let patch = loop {
            let gone = choices.iter().flatten().flat_map(|c| c.gone.iter().copied()).collect();
            let mut patch = Patch::at_graph(g);
            let Err(stuck) = Removal::of(g, &channels, &gone).write(&mut patch) else { break patch };
            let reach = channels.reach(g, choices.iter().map(|c| c.as_ref().map_or(&[][..], |c| &c.gone)));
            for (choice, places) in choices.iter_mut().zip(reach) {
                if places.iter().any(|p| p.value == stuck.value) {
                    *choice = Err(Reason::new(Why::Held, stuck.why.clone()));
                }
            }
        };
        let reach = channels.reach(g, choices.iter().map(|c| c.as_ref().map_or(&[][..], |c| &c.gone)));
        let losses = match cx.repairs || cx.sensitivity.is_some() {
            true => HashMap::new(),
            false => {
                let gone = choices.iter().flatten().flat_map(|c| c.gone.iter().copied()).collect();
                likely_losses(g, &channels, &gone)
            }
        };
        let sized = cx.sized();
        let mut tally = RemovalTally::of(&sized);
        let mut outcome = |(choice, places): (Result<Removed<'_>, Reason>, Vec<UnitPlaces>)| match choice {
            Err(why) => SiteOutcome { what: Err(why), cost: None },
            Ok(choice) => {
                let before = tally.cost();
                tally.remove(&places);
                let lost = choice.gone.iter().filter_map(|u| losses.get(u).copied()).max_by(f64::total_cmp);
                SiteOutcome { what: Ok(choice.note(g) + &likely::of_readers(lost)), cost: Some((before, tally.cost())) }
            }
        };
        let outcomes = choices.into_iter().zip(reach).map(&mut outcome).collect();
        Ok(Some(JointVerdict { patch, outcomes }))
    }
}

/// What a group is known by: its producers and, as these may make several along several axes, which of those it is.
type Key<'a> = (&'a [NodeId], usize);

fn keys(groups: &[Group]) -> impl Iterator<Item = Key<'_>> {
    let mut seen: HashMap<&[NodeId], usize> = HashMap::new();
    groups.iter().map(move |group| {
        let nth = seen.entry(&group.producers).or_default();
        *nth += 1;
        (group.producers.as_slice(), *nth - 1)
    })
}

/// The names that a table may call each group by, the most telling first: those of the layers that make it, and, of a layer that
/// makes several, with the number of the group.
fn names(graph: &Graph, groups: &[Group]) -> Vec<Vec<String>> {
    let mut made: HashMap<NodeId, usize> = HashMap::new();
    groups.iter().flat_map(|g| &g.producers).for_each(|&n| *made.entry(n).or_default() += 1);
    let mut seen: HashMap<NodeId, usize> = HashMap::new();
    let of = |group: &Group| {
        let (mut own, mut numbered, mut shared) = (Vec::new(), Vec::new(), Vec::new());
        for &n in &group.producers {
            let (label, nth) = (graph.label(n), seen.entry(n).or_default());
            *nth += 1;
            match made[&n] {
                1 => own.push(label.to_string()),
                _ => {
                    numbered.push(format!("{label}#{nth}"));
                    shared.push(label.to_string());
                }
            }
        }
        [own, numbered, shared].concat()
    };
    groups.iter().map(of).collect()
}

/// Why a group is left alone, if it is.
fn refuses(cx: &Context<'_>, group: &Group) -> Option<Reason> {
    let site = || Site::Channels { producers: group.producers.clone(), nth: 0 };
    let frozen = group.frozen.as_ref().map(|freeze| Reason::new(Why::Held, freeze.explain(cx.graph)));
    frozen.or_else(|| Some(Reason::new(Why::Recipe, cx.selected.refuses(cx.graph, &site())?)))
}

/// The importance of a group's units, or why the group is left alone.
fn score(cx: &Context<'_>, group: &Group, by: &mut Scores<'_>) -> Result<Scored, String> {
    refuses(cx, group).map_or_else(|| by.scores(group), |why| Err(why.text))
}

/// Units that go out of a group.
struct Removed<'a> {
    group: &'a Group,
    gone: Vec<u32>,
    /// How they were found.
    how: String,
}

impl<'a> Removed<'a> {
    fn of(group: &'a Group, gone: Vec<u32>, how: String) -> Result<Removed<'a>, Reason> {
        if gone.is_empty() {
            return Err(Reason::new(Why::Budget, format!("all {} units stay", group.units.len())));
        }
        Ok(Removed { group, gone, how })
    }

    fn note(&self, graph: &Graph) -> String {
        let all = self.group.units.len();
        let rest = self.group.rest.as_ref();
        let rest = rest.map_or(String::new(), |(n, why)| {
            let are = if *n == 1 { "is" } else { "are" };
            format!("; {n} more {are} frozen: {}", why.explain(graph))
        });
        format!("kept {} of {all} units{}{rest}", all - self.gone.len(), self.how)
    }
}

impl PruneChannels {
    fn target(&self) -> Result<Option<Budget>, String> {
        one_of(Budget::options(self.params, self.macs))
    }

    /// What the units of every group are worth, or why it is left alone.
    fn scored(&self, cx: &Context<'_>, channels: &Channels, groups: &[Group]) -> Vec<Result<Scored, String>> {
        let mut by = self.by(cx, channels);
        groups.iter().map(|g| score(cx, g, &mut by)).collect()
    }

    /// Which units of every group go, and how they were found; or why it is left alone.
    fn plan(&self, cx: &Context<'_>, channels: &Channels, groups: &[Group]) -> Vec<Result<(Vec<u32>, String), String>> {
        let scored = self.scored(cx, channels, groups);
        let plan = Removals::new(cx, channels, groups, &scored, self.budget());
        let counts = self.counts(cx, &plan, groups);
        let gone = plan.gone(|i| counts[i]);
        let of = |group: &Group| group.units.iter().copied().filter(|u| gone.contains(u)).collect();
        groups
            .iter()
            .zip(&scored)
            .map(|(group, s)| Ok((of(group), s.as_ref().map_err(String::clone)?.how.clone())))
            .collect()
    }

    /// How many units of every group stay.
    fn counts(&self, cx: &Context<'_>, plan: &Removals<'_>, groups: &[Group]) -> Vec<usize> {
        let names = names(cx.graph, groups);
        let all = |i: usize| plan.all(i);
        let each = |count: &dyn Fn(usize) -> usize| (0..groups.len()).map(count).collect::<Vec<_>>();
        if let Some(units) = &self.units {
            return each(&|i| units.at(cx.graph, "units", &names[i]).map_or(all(i), |units| units.get().min(all(i))));
        }
        let count = |i: usize, left, least| self.between(left, least, all(i));
        if let Some(budget) = self.budget() {
            let limit = budget.limit(cx);
            let fits = |cost: Cost| budget.of(cost).zip(limit).is_none_or(|(n, limit)| n <= limit);
            return plan.within(&plan.turns(cx.max_loss, |_| 0), fits, count);
        }
        let equal = each(&|i| {
            let units = groups[i].units.len();
            self.rounded((units as f64 * self.width_of(cx.graph, &names[i])) as usize, units)
        });
        if self.shares(cx) == Shares::Equal {
            return equal;
        }
        let most = plan.without(&plan.gone(|i| equal[i])).cost();
        let fits = |cost: Cost| {
            let macs = cost.macs.zip(most.macs).is_none_or(|(macs, most)| macs <= most);
            macs && cost.parameters <= most.parameters
        };
        let floor = |i: usize| if equal[i] == all(i) { all(i) } else { equal[i].div_ceil(2) };
        plan.within(&plan.turns(f64::INFINITY, floor), fits, count)
    }

    /// How widths are dealt out: losses compare where they are those of the layers that read the units.
    fn shares(&self, cx: &Context<'_>) -> Shares {
        let judged = cx.sensitivity.is_some() && self.importance.unwrap_or(Importance::WITH_DATA) == Importance::Schur;
        let by_layer = self.width.as_ref().is_some_and(ByLayer::is_table);
        let default = if judged && !by_layer { Shares::Loss } else { Shares::Equal };
        self.shares.unwrap_or(default)
    }

    /// What units are judged by.
    fn by<'a>(&self, cx: &Context<'a>, channels: &'a Channels) -> Scores<'a> {
        let default = if cx.sensitivity.is_some() { Importance::WITH_DATA } else { Importance::WITHOUT_DATA };
        Scores::of(cx.graph, channels, self.importance.unwrap_or(default), cx.sensitivity)
    }

    fn width_of(&self, graph: &Graph, names: &[String]) -> f64 {
        let rest = if self.width.is_none() { 0.5 } else { 1.0 };
        let named = self.width.as_ref().and_then(|width| width.at(graph, "width", names).ok());
        named.or(self.width_mult.as_ref()).map_or(rest, |width| width.0)
    }

    /// A multiple of `round-to`, at least one, at most all.
    fn rounded(&self, count: usize, all: usize) -> usize {
        let step = self.round_to.map_or(1, |r| r.get());
        (count / step * step).max(step).min(all)
    }

    /// As `rounded`, but no less than `least`.
    fn between(&self, count: usize, least: usize, all: usize) -> usize {
        let step = self.round_to.map_or(1, |r| r.get());
        self.rounded(count, all).max(least.next_multiple_of(step).min(all))
    }
}
