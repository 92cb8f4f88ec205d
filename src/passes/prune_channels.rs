//! Removes whole channels and neurons, with everything that is coupled to them. What stands or falls together is worked
//! out for the whole graph (`tutee show --channels MODEL` prints it): residual sums, concatenations, depthwise and
//! grouped convolutions, flattening, attention heads and so on. Channels that reach an output of the model, an operator
//! that is not known or one that needs the axis whole stay, and the report names that operator. Every layer is in some
//! row: one whose weights are fed or made at run time, too, and one that has a state (of an LSTM only the inputs go).
//!
//! A unit is the least set of channels that can go; a group is the units that one layer, or several coupled ones, make.
//! Of every group the least important units go; no axis loses all of its channels: a unit that stays for that takes the
//! place of another, where one can go. Options:
//!
//! * `width-mult`: keep `int(units * width-mult)` of every group, at least 1. 0.5 if no target is given.
//! * `width`: other multipliers for some layers, by globs over node names: `width = { "layer3.*" = 0.5 }`. Of several
//!   globs that match a group's layers the longest counts. Layers that none matches are left whole unless `width-mult`
//!   is given.
//! * `params`, `macs`: instead, a share of the model's parameters or MACs to keep at most; one threshold on the importance,
//!   relative to the group's mean, finds which units go, evenly where they are worth the same. No layer loses more than
//!   `max-loss` of its output for it: as `schur` predicts it of each layer that reads the units, else as a share of the
//!   squared weights that make them. `tutee explain budgets` says what happens if that is not enough.
//! * `shares`: how widths are dealt out. `equal` (default): every group keeps its own share. `loss`: groups that can do
//!   without lose more, down to half of what equal shares would leave them, and the others less; the model has no more
//!   parameters and no more MACs than with equal shares.
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
//! * `skip-first` is 3 unless set: a group is left alone if one of its producers is among the first three layers.
//!
//! Data is used for the importance also with `repair = "none"`. A group with a unit that no reader can be asked about (one
//! with too many inputs, say, or a ConvTranspose) goes by `l1`, and its row says why.
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
//! With a target, layers that can do without lose more. `params = 0.25`, which is as many parameters as a width of 0.5
//! leaves, gives 85.82 for teacher_cnn and 89.18 for resnet_small_bn there.
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

use crate::analysis::channels::{Channels, Group, Reach};
use crate::analysis::cost::Cost;
use crate::analysis::removal::{Removal, Tally};
use crate::error::Result;
use crate::ir::{Graph, NodeId, Patch};
use crate::passes::budget::{Budget, Part as Held, Reach as Least};
use crate::passes::importance::{Importance, Scored, Scores};
use crate::passes::options::{OptionsError, Selection, Share, matching, one_of};
use crate::passes::{Context, Fidelity, Part, Pass, Phase, Questions, Reason, Site, Together, Verdict};
use plan::Plan;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use wildmatch::WildMatch;

mod plan;

/// The share of channels, parameters or MACs below which few networks survive without data.
const STRONG: f64 = 0.95;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneChannels {
    width_mult: Option<Share>,
    width: BTreeMap<String, Share>,
    params: Option<Share>,
    macs: Option<Share>,
    shares: Shares,
    importance: Option<Importance>,
    round_to: Option<std::num::NonZeroUsize>,
}

/// How the units that go are dealt out to the groups where widths are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Shares {
    /// Each loses its own share.
    #[default]
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
        Selection { skip_first: 3, ..Selection::default() }
    }

    fn check(&self) -> Result<(), String> {
        let widths = self.width.iter().map(|(glob, w)| (format!("width of \"{glob}\""), *w));
        let single = [("width-mult", self.width_mult), ("params", self.params), ("macs", self.macs)];
        let mut shares = single.into_iter().filter_map(|(key, share)| Some((key.to_string(), share?))).chain(widths);
        if let Some((key, _)) = shares.find(|s| s.1.0 <= 0.0) {
            return Err(format!("the {key} must be above 0: one channel always stays"));
        }
        let budget = self.target()?;
        match (budget, self.width.is_empty()) {
            (Some(_), _) if self.width_mult.is_some() => Err("`width-mult` and a target exclude each other".into()),
            (Some(_), false) => Err("`width` and a target exclude each other".into()),
            (Some(_), _) if self.shares != Shares::Equal => Err("`shares` and a target exclude each other".into()),
            _ => Ok(()),
        }
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        matching(graph, "width", self.width.keys()).map(drop)
    }

    fn budget(&self) -> Option<Budget> {
        self.target().ok().flatten()
    }

    fn reach(&self, cx: &Context<'_>) -> Option<Least> {
        let channels = Channels::of(cx.graph).ok()?;
        let groups = channels.groups();
        let scored = self.scored(cx, &channels, &groups);
        let plan = Plan::new(cx, &channels, &groups, &scored);
        let turns = plan.turns(cx.max_loss, |_| 0);
        let tally =
            plan.without(&plan.after(&turns, turns.len(), |i, left, least| self.between(left, least, plan.all(i))));
        let mut stays = HashMap::new();
        for (group, scored) in groups.iter().zip(&scored) {
            let (Err(why), Some(&first)) = (scored, group.producers.first()) else { continue };
            let weights = group.weights.iter().map(|w| Held::Constant(w.0));
            for part in weights.chain(group.producers.iter().map(|&n| Held::Node(n))) {
                stays.entry(part).or_insert_with(|| (cx.graph.label(first).to_string(), why.clone()));
            }
        }
        let left = |part, cost| match part {
            Held::Constant(v) => tally.elements(v).unwrap_or(cost),
            Held::Node(n) => tally.macs(n).unwrap_or(cost),
        };
        Least::new(cx, self.budget()?, left, &stays)
    }

    fn needs_data(&self) -> Option<String> {
        let importance = self.importance.filter(|i| i.needs_data())?;
        Some(format!("`importance` = \"{}\"", importance.name()))
    }

    fn is_strong(&self) -> bool {
        let shares =
            [self.width_mult, self.params, self.macs].into_iter().flatten().chain(self.width.values().copied());
        // Nothing given is a half.
        shares.map(|s| s.0).min_by(f64::total_cmp).unwrap_or(0.0) < STRONG
    }

    fn questions<'a>(&'a self, cx: &Context<'a>) -> Option<Questions<'a>> {
        let importance = self.importance.unwrap_or(Importance::WITH_DATA);
        let channels = Channels::of(cx.graph).ok()?;
        let groups = channels.groups();
        let open: Vec<&Group> = groups.iter().filter(|g| refuses(cx, g).is_none()).collect();
        importance.needs_data().then(|| importance.questions(cx.graph, &channels, &open))
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let Ok(channels) = Channels::of(cx.graph) else { return Vec::new() };
        let groups = channels.groups();
        let keep = self.plan(cx, &channels, &groups);
        let site = |((producers, nth), keep): (Key<'_>, Result<Vec<usize>, _>)| Site::Channels {
            producers: producers.to_vec(),
            nth,
            keep: keep.ok(),
        };
        keys(&groups).zip(keep).map(site).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Some(mut all) = self.rewrite_together(cx, &[site])? else {
            return Verdict::skip("it is no group of channels");
        };
        Ok(match all.parts.pop().map(|p| p.what) {
            Some(Ok(what)) => Verdict::Patch(all.patch, what),
            Some(Err(why)) => Verdict::Skip(why),
            None => return Verdict::skip("it is no group of channels"),
        })
    }

    fn rewrite_together(&self, cx: &Context<'_>, sites: &[Site]) -> Result<Option<Together>> {
        let g = cx.graph;
        let channels = Channels::of(g)?;
        let groups = channels.groups();
        let by_key: HashMap<Key<'_>, &Group> = keys(&groups).zip(&groups).collect();
        let mut scores = self.by(cx, &channels);
        let mut choices: Vec<Result<Choice<'_>, String>> = Vec::new();
        for site in sites {
            let Site::Channels { producers, nth, keep } = site else { return Ok(None) };
            let group = by_key.get(&(producers.as_slice(), *nth)).copied();
            choices.push(match (group, keep) {
                (None, _) => Err("its channels became coupled to others".into()),
                (Some(group), keep) => match score(cx, group, &mut scores) {
                    Err(why) => Err(why),
                    Ok(scored) => Choice::of(group, keep.as_deref(), scored.how),
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
                    *choice = Err(stuck.why.clone());
                }
            }
        };
        let reach = channels.reach(g, choices.iter().map(|c| c.as_ref().map_or(&[][..], |c| &c.gone)));
        let sized = cx.sized();
        let mut tally = Tally::of(&sized);
        let mut part = |(choice, places): (Result<Choice<'_>, String>, Vec<Reach>)| match choice {
            Err(why) => Part { what: Err(Reason(why)), cost: None },
            Ok(choice) => {
                let before = tally.cost();
                tally.remove(&places);
                Part { what: Ok(choice.note(g)), cost: Some((before, tally.cost())) }
            }
        };
        let parts = choices.into_iter().zip(reach).map(&mut part).collect();
        Ok(Some(Together { patch, parts }))
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

/// Why a group is left alone, if it is.
fn refuses(cx: &Context<'_>, group: &Group) -> Option<String> {
    let site = || Site::Channels { producers: group.producers.clone(), nth: 0, keep: None };
    let frozen = group.frozen.as_ref().map(|freeze| freeze.explain(cx.graph));
    frozen.or_else(|| cx.selected.refuses(cx.graph, &site()))
}

/// The importance of a group's units, or why the group is left alone.
fn score(cx: &Context<'_>, group: &Group, by: &mut Scores<'_>) -> Result<Scored, String> {
    refuses(cx, group).map_or_else(|| by.scores(group), Err)
}

/// Units that go out of a group.
struct Choice<'a> {
    group: &'a Group,
    gone: Vec<u32>,
    /// How they were found.
    how: String,
}

impl<'a> Choice<'a> {
    fn of(group: &'a Group, keep: Option<&[usize]>, how: String) -> Result<Choice<'a>, String> {
        let all = group.units.len();
        let stay: HashSet<usize> = keep.map_or((0..all).collect(), |k| k.iter().copied().collect());
        if stay.iter().any(|&i| i >= all) {
            return Err("its channels became coupled to others".into());
        }
        if stay.len() == all {
            return Err(format!("all {all} units stay"));
        }
        let gone = (0..all).filter(|i| !stay.contains(i)).map(|i| group.units[i]).collect();
        Ok(Choice { group, gone, how })
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

    /// Which units of every group stay, or why it is left alone.
    fn plan(&self, cx: &Context<'_>, channels: &Channels, groups: &[Group]) -> Vec<Result<Vec<usize>, String>> {
        let scored = self.scored(cx, channels, groups);
        let plan = Plan::new(cx, channels, groups, &scored);
        let count = |i: usize, left, least| self.between(left, least, plan.all(i));
        let gone = match self.budget() {
            None => {
                let equal = |i: usize| {
                    let all = groups[i].units.len();
                    self.rounded((all as f64 * self.width_of(cx.graph, &groups[i])) as usize, all)
                };
                let gone = plan.gone(equal);
                if self.shares == Shares::Equal {
                    gone
                } else {
                    let most = plan.without(&gone).cost();
                    let fits = |cost: Cost| {
                        let macs = cost.macs.zip(most.macs).is_none_or(|(macs, most)| macs <= most);
                        macs && cost.parameters <= most.parameters
                    };
                    let floor = |i: usize| if equal(i) == plan.all(i) { plan.all(i) } else { equal(i).div_ceil(2) };
                    plan.within(&plan.turns(f64::INFINITY, floor), fits, count)
                }
            }
            Some(budget) => {
                let limit = budget.limit(cx);
                let fits = |cost: Cost| budget.of(cost).zip(limit).is_none_or(|(n, limit)| n <= limit);
                plan.within(&plan.turns(cx.max_loss, |_| 0), fits, count)
            }
        };
        let keep = |group: &Group| (0..group.units.len()).filter(|&i| !gone.contains(&group.units[i])).collect();
        groups.iter().zip(scored).map(|(group, scored)| scored.map(|_| keep(group))).collect()
    }

    /// What units are judged by.
    fn by<'a>(&self, cx: &Context<'a>, channels: &'a Channels) -> Scores<'a> {
        let default = if cx.survey.is_some() { Importance::WITH_DATA } else { Importance::WITHOUT_DATA };
        Scores::of(cx.graph, channels, self.importance.unwrap_or(default), cx.survey)
    }

    fn width_of(&self, graph: &Graph, group: &Group) -> f64 {
        let named = |glob: &str| group.producers.iter().any(|&n| WildMatch::new(glob).matches(graph.label(n)));
        let special = self.width.iter().filter(|(glob, _)| named(glob)).max_by_key(|(glob, _)| glob.len());
        let rest = if self.width.is_empty() { 0.5 } else { 1.0 };
        special.map_or(self.width_mult.map_or(rest, |w| w.0), |(_, w)| w.0)
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
