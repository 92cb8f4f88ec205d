//! Removes whole channels and neurons, with everything that is coupled to them. What stands or falls together is worked
//! out for the whole graph (`tutee show --channels MODEL` prints it): residual sums, concatenations, depthwise and
//! grouped convolutions, flattening, attention heads and so on. Channels that reach an output of the model, an operator
//! that is not known or one that needs the axis whole stay, and the report names that operator.
//!
//! A unit is the least set of channels that can go; a group is the units that one layer, or several coupled ones, make.
//! Of every group the least important units go. Options:
//!
//! * `width-mult`: keep `int(units * width-mult)` of every group, at least 1. 0.5 if no target is given.
//! * `width`: other multipliers for some layers, by globs over node names: `width = { "layer3.*" = 0.5 }`.
//! * `params`, `macs`: instead, a share of the model's parameters or MACs to keep; one threshold on the importance,
//!   relative to the group's mean, finds which units go.
//! * `importance`: `l1` or `l2` norm of the weights that make a unit. (Li et al. 2017, Pruning Filters for Efficient
//!   ConvNets.)
//! * `round-to`: round the number of units that stay to a multiple of this.
//! * `skip-first` is 3 unless set: a group is left alone if one of its producers is among the first three layers.
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

use crate::analysis::channels::{Channels, Group};
use crate::analysis::removal::Removal;
use crate::error::Result;
use crate::ir::{Graph, Patch};
use crate::passes::options::{Selection, Share};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use wildmatch::WildMatch;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneChannels {
    width_mult: Option<Share>,
    width: BTreeMap<String, Share>,
    params: Option<Share>,
    macs: Option<Share>,
    importance: Importance,
    round_to: Option<std::num::NonZeroUsize>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Importance {
    #[default]
    L1,
    L2,
}

/// Steps of bisection for a target: the threshold is found to one part in 2⁴⁰ of its range.
const BISECTIONS: usize = 40;

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
        let targets = [self.params.is_some(), self.macs.is_some(), self.width_mult.is_some() || !self.width.is_empty()];
        if targets.iter().filter(|&&t| t).count() > 1 {
            return Err("`width-mult` (with `width`), `params` and `macs` exclude each other".into());
        }
        Ok(())
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let Ok(channels) = Channels::of(cx.graph) else { return Vec::new() };
        let groups = channels.groups();
        let keep = self.plan(cx, &channels, &groups);
        let site = |(g, keep): (Group, _)| Site::Channels { producers: g.producers, keep };
        groups.into_iter().zip(keep).map(site).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Channels { producers, keep } = site else { return Verdict::skip("it is no group of channels") };
        let g = cx.graph;
        let channels = Channels::of(g)?;
        let Some(group) = channels.groups().into_iter().find(|group| group.producers == producers) else {
            return Verdict::skip("its channels became coupled to others");
        };
        if let Some(freeze) = &group.frozen {
            return Verdict::skip(freeze.explain(g));
        }
        let all = group.units.len();
        let Some(keep) = keep.filter(|k| k.len() < all) else {
            return Verdict::skip(format!("all {all} units stay"));
        };
        let stay: HashSet<usize> = keep.iter().copied().collect();
        let gone = group.units.iter().enumerate().filter(|(i, _)| !stay.contains(i)).map(|(_, &u)| u).collect();
        let mut patch = Patch::at_node(g, producers[0]);
        match Removal::of(g, &channels, &gone).write(&mut patch) {
            Ok(()) => Ok(Verdict::Patch(patch, format!("kept {} of {all} units", keep.len()))),
            Err(why) => Verdict::skip(why),
        }
    }
}

impl PruneChannels {
    /// Which units of every group stay; `None` for groups that stay whole.
    fn plan(&self, cx: &Context<'_>, channels: &Channels, groups: &[Group]) -> Vec<Option<Vec<usize>>> {
        let open = |g: &&Group| {
            let site = Site::Channels { producers: g.producers.clone(), keep: None };
            g.frozen.is_none() && cx.selected.refuses(cx.graph, &site).is_none()
        };
        let scores: Vec<Option<Vec<f64>>> =
            groups.iter().map(|g| open(&g).then(|| self.scores(cx.graph, channels, g))).collect();
        let counts: Vec<usize> = match (self.params, self.macs) {
            (None, None) => {
                let width = |g: &Group| self.width_of(cx.graph, g);
                groups.iter().map(|g| (g.units.len() as f64 * width(g)) as usize).collect()
            }
            (target, macs) => {
                let share = target.or(macs).map_or(1.0, |s| s.0);
                self.counts_for(cx.graph, channels, groups, &scores, share, macs.is_some())
            }
        };
        let keep = |(scores, count): (Option<Vec<f64>>, usize)| scores.map(|s| best(&s, self.rounded(count, s.len())));
        let mut keep: Vec<Option<Vec<usize>>> = scores.iter().cloned().zip(counts).map(keep).collect();
        // A concatenation's or a split's part may lose every channel while its group keeps some.
        let mut gone = HashSet::new();
        let mut worth = HashMap::new();
        for ((group, scores), keep) in groups.iter().zip(&scores).zip(&keep) {
            let (Some(scores), Some(keep)) = (scores, keep) else { continue };
            gone.extend(group.units.iter().copied());
            keep.iter().for_each(|&i| {
                gone.remove(&group.units[i]);
            });
            worth.extend(group.units.iter().copied().zip(relative(scores)));
        }
        channels.spare(cx.graph, &mut gone, |u| worth.get(&u).copied().unwrap_or(0.0));
        for (group, keep) in groups.iter().zip(keep.iter_mut()) {
            if let Some(keep) = keep {
                *keep = (0..group.units.len()).filter(|&i| !gone.contains(&group.units[i])).collect();
            }
        }
        keep
    }

    fn width_of(&self, graph: &Graph, group: &Group) -> f64 {
        let named = |glob: &str| group.producers.iter().any(|&n| WildMatch::new(glob).matches(graph.label(n)));
        let special = self.width.iter().find(|(glob, _)| named(glob)).map(|(_, w)| w.0);
        let rest = if self.width.is_empty() { 0.5 } else { 1.0 };
        special.unwrap_or(self.width_mult.map_or(rest, |w| w.0))
    }

    /// At least 1, at most all, and a multiple of `round-to` where there are as many.
    fn rounded(&self, count: usize, all: usize) -> usize {
        let step = self.round_to.map_or(1, |r| r.get());
        (count / step * step).max(step).max(1).min(all)
    }

    /// How many units of every group stay so that the model keeps at most `share` of its cost: those whose importance,
    /// relative to their group's mean, exceeds one threshold.
    fn counts_for(
        &self,
        graph: &Graph,
        channels: &Channels,
        groups: &[Group],
        scores: &[Option<Vec<f64>>],
        share: f64,
        macs: bool,
    ) -> Vec<usize> {
        let relative: Vec<Vec<f64>> = scores.iter().map(|s| s.as_deref().map_or(Vec::new(), relative)).collect();
        let counts = |threshold: f64| -> Vec<usize> {
            let above = |s: &Vec<f64>| self.rounded(s.iter().filter(|&&x| x > threshold).count(), s.len());
            relative.iter().map(above).collect()
        };
        let cost = |counts: &[usize]| {
            let gone = groups.iter().zip(scores).zip(counts).flat_map(|((g, s), &n)| {
                let stay: HashSet<usize> = s.as_ref().map_or(HashSet::new(), |s| best(s, n).into_iter().collect());
                let all = if s.is_some() { g.units.as_slice() } else { &[] };
                all.iter().enumerate().filter(move |(i, _)| !stay.contains(i)).map(|(_, &u)| u).collect::<Vec<_>>()
            });
            let cost = Removal::of(graph, channels, &gone.collect()).cost();
            if macs { cost.macs.unwrap_or(u64::MAX) } else { cost.parameters }
        };
        let limit = share * cost(&groups.iter().map(|g| g.units.len()).collect::<Vec<_>>()) as f64;
        let (mut low, mut high) = (-1.0, relative.iter().flatten().copied().fold(0.0, f64::max));
        for _ in 0..BISECTIONS {
            let middle = (low + high) / 2.0;
            if cost(&counts(middle)) as f64 > limit { low = middle } else { high = middle }
        }
        counts(high)
    }

    /// Importance of every unit: a norm of the weights that make it.
    fn scores(&self, graph: &Graph, channels: &Channels, group: &Group) -> Vec<f64> {
        let mut sums: HashMap<u32, f64> = group.units.iter().map(|&u| (u, 0.0)).collect();
        for (weight, axis) in group.weights.iter().copied() {
            let (Some(t), Some(units)) = (graph.value(weight).constant(), channels.units(weight, axis)) else {
                continue;
            };
            let Some(values) = t.floats() else { continue };
            let inner: usize = t.shape()[axis + 1..].iter().product();
            for (i, run) in values.chunks(inner.max(1)).enumerate() {
                let sum: f64 = run.iter().map(|&w| self.importance.of(w)).sum();
                if let Some(total) = sums.get_mut(&units[i % units.len()]) {
                    *total += sum;
                }
            }
        }
        group.units.iter().map(|u| self.importance.finish(sums[u])).collect()
    }
}

impl Importance {
    fn of(self, w: f64) -> f64 {
        match self {
            Importance::L1 => w.abs(),
            Importance::L2 => w * w,
        }
    }

    fn finish(self, sum: f64) -> f64 {
        match self {
            Importance::L1 => sum,
            Importance::L2 => sum.sqrt(),
        }
    }
}

/// Scores over their mean, so that groups compare; NaN counts as nothing.
fn relative(scores: &[f64]) -> Vec<f64> {
    let finite: Vec<f64> = scores.iter().map(|&s| if s.is_finite() { s } else { 0.0 }).collect();
    let mean = finite.iter().sum::<f64>() / finite.len().max(1) as f64;
    finite.iter().map(|s| if mean > 0.0 { s / mean } else { 0.0 }).collect()
}

/// Indices of the `n` largest scores, ascending; of equal ones the first.
fn best(scores: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(n);
    order.sort();
    order
}
