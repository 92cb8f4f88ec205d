//! Which units of which groups go.

use crate::analysis::channels::{Channels, Group};
use crate::analysis::cost::Cost;
use crate::analysis::removal::RemovalTally;
use crate::ir::{Graph, NodeId};
use crate::passes::Context;
use crate::passes::budget::Budget;
use crate::passes::importance::{Loser, Scored, relative};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Groups with the scores of their units; a group without scores stays whole.
pub struct Removals<'a> {
    graph: &'a Graph,
    sized: Cow<'a, Graph>,
    channels: &'a Channels,
    groups: &'a [Group],
    scored: &'a [Result<Scored, String>],
    /// The scores, by group, over their mean.
    scores: Vec<Vec<f64>>,
    /// The same, as they compare between groups.
    turns: Vec<Vec<f64>>,
}

impl<'a> Removals<'a> {
    /// With a budget, groups compare by what their units cost the output for what they save of it, where all were judged by
    /// layers that read them; else by the scores over their mean.
    pub fn new(
        cx: &Context<'a>,
        channels: &'a Channels,
        groups: &'a [Group],
        scored: &'a [Result<Scored, String>],
        budget: Option<Budget>,
    ) -> Removals<'a> {
        let relative = |s: &Result<Scored, String>| s.as_ref().map_or(Vec::new(), |s| relative(&s.scores));
        let scores: Vec<Vec<f64>> = scored.iter().map(relative).collect();
        let turns = scores.clone();
        let mut plan = Removals { graph: cx.graph, sized: cx.sized(), channels, groups, scored, scores, turns };
        if let Some(turns) = budget.and_then(|budget| plan.prices(cx, budget)) {
            plan.turns = turns;
        }
        plan
    }

    /// For every unit, what the output loses for each parameter (or MAC, or byte) that is saved without it. `None` if that is
    /// not known.
    fn prices(&self, cx: &Context<'a>, budget: Budget) -> Option<Vec<Vec<f64>>> {
        let whole = budget.of(self.without(&HashSet::new()).cost())?;
        let losers = self.scored.iter().flatten().flat_map(|s| s.losses.iter().flatten());
        let readers = losers.filter_map(|loser| if let Loser::Reader(n) = loser.0 { Some(n) } else { None });
        let readers: Vec<NodeId> = readers.collect::<BTreeSet<_>>().into_iter().collect();
        let counts = cx.divergences(&readers).unwrap_or_else(|| {
            readers.iter().map(|&n| cx.selected.sensitivity(cx.graph, &[cx.graph.label(n)])).collect()
        });
        let counts: HashMap<NodeId, f64> = readers.into_iter().zip(counts).collect();
        let price = |(i, scored): (usize, &Result<Scored, String>)| {
            let Ok(scored) = scored else { return Some(Vec::new()) };
            let one: HashSet<u32> = self.groups[i].units.first().copied().into_iter().collect();
            let saved = whole.saturating_sub(budget.of(self.without(&one).cost())?).max(1) as f64;
            let lost = |losses: &Vec<(Loser, f64)>| {
                let each = losses.iter().map(|&(who, loss)| match who {
                    Loser::Reader(n) => Some(counts.get(&n)? * loss),
                    Loser::Group(_) => None,
                });
                Some(each.sum::<Option<f64>>()? / saved)
            };
            scored.losses.iter().map(lost).collect()
        };
        self.scored.iter().enumerate().map(price).collect()
    }

    /// Units of a group, if it has scores.
    pub fn all(&self, group: usize) -> usize {
        self.scores[group].len()
    }

    /// The units that go if the best `count` of every group stay and no axis loses all of its channels.
    pub fn gone(&self, count: impl Fn(usize) -> usize) -> HashSet<u32> {
        let mut gone = HashSet::new();
        let mut worth = HashMap::new();
        for (i, (group, scores)) in self.groups.iter().zip(&self.scores).enumerate().filter(|(_, g)| !g.1.is_empty()) {
            let order = order(scores);
            gone.extend(order.iter().take(scores.len() - count(i).min(scores.len())).map(|&u| group.units[u]));
            worth.extend(group.units.iter().copied().zip(scores.iter().copied()));
        }
        // A part of a concatenation or a split may lose every channel while its group keeps some.
        let worth = |u: u32| worth.get(&u).copied().unwrap_or(0.0);
        let chosen = gone.clone();
        self.channels.spare(self.graph, &mut gone, worth);
        if gone.len() == chosen.len() {
            return gone;
        }
        // What stays for that takes the place of others, where those can go.
        let spared: HashSet<u32> = chosen.difference(&gone).copied().collect();
        for group in self.groups {
            let back = group.units.iter().filter(|u| spared.contains(u)).count();
            let stays = |u: &u32| !gone.contains(u) && !spared.contains(u);
            let mut others: Vec<u32> = group.units.iter().copied().filter(stays).collect();
            others.sort_by(|&a, &b| worth(a).total_cmp(&worth(b)).then(b.cmp(&a)));
            gone.extend(others.into_iter().take(back));
        }
        self.channels.spare(self.graph, &mut gone, worth);
        gone
    }

    /// The groups in the order in which they lose units, one a turn, lowest scores first; groups of equal scores shrink
    /// evenly. A group has no more turns once one would cost somebody more than `max_loss` of its output, or would leave
    /// fewer than `floor` units.
    pub fn turns(&self, max_loss: f64, floor: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut turns: Vec<(f64, f64, usize, usize)> = Vec::new();
        for (i, scores) in self.scores.iter().enumerate() {
            let share = |rank: usize| (rank + 1) as f64 / scores.len() as f64;
            // No unit has its turn before those of its group that are worth less.
            let mut most = f64::NEG_INFINITY;
            for (rank, u) in order(scores).into_iter().enumerate() {
                most = most.max(self.turns[i][u]);
                turns.push((most, share(rank), i, u));
            }
        }
        turns.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        let mut left: Vec<usize> = self.scores.iter().map(Vec::len).collect();
        let mut ended = vec![false; left.len()];
        let mut lost: HashMap<Loser, f64> = HashMap::new();
        let mut takes = |&(_, _, i, unit): &(f64, f64, usize, usize)| {
            let losses = self.scored[i].as_ref().map_or(&[][..], |s| &s.losses[unit]);
            let far = losses.iter().any(|(who, loss)| lost.get(who).unwrap_or(&0.0) + loss > max_loss);
            ended[i] |= far || left[i] <= floor(i);
            if !ended[i] {
                left[i] -= 1;
                losses.iter().for_each(|&(who, loss)| *lost.entry(who).or_default() += loss);
            }
            !ended[i]
        };
        turns.retain(|turn| takes(turn));
        turns.into_iter().map(|turn| turn.2).collect()
    }

    /// How many units of every group stay after the first `taken` turns; `count` is how many a group keeps that may keep so many,
    /// and no fewer than it would after the last.
    pub fn after(&self, turns: &[usize], taken: usize, count: impl Fn(usize, usize, usize) -> usize) -> Vec<usize> {
        let mut left: Vec<usize> = self.scores.iter().map(Vec::len).collect();
        turns[..taken].iter().for_each(|&i| left[i] -= 1);
        let mut least = left.clone();
        turns[taken..].iter().for_each(|&i| least[i] -= 1);
        (0..left.len()).map(|i| count(i, left[i], least[i])).collect()
    }

    /// What is left of the graph without these units.
    pub fn without(&self, gone: &HashSet<u32>) -> RemovalTally<'_> {
        let mut tally = RemovalTally::of(&self.sized);
        let units: Vec<u32> = gone.iter().copied().collect();
        self.channels.reach(self.graph, [units.as_slice()]).iter().for_each(|r| tally.remove(r));
        tally
    }

    /// How many units of every group stay after the fewest turns that leave what fits.
    pub fn within(
        &self,
        turns: &[usize],
        fits: impl Fn(Cost) -> bool,
        count: impl Fn(usize, usize, usize) -> usize,
    ) -> Vec<usize> {
        let (mut low, mut high) = (0, turns.len());
        while low < high {
            let middle = (low + high) / 2;
            let counts = self.after(turns, middle, &count);
            let fits = fits(self.without(&self.gone(|i| counts[i])).cost());
            if fits { high = middle } else { low = middle + 1 }
        }
        self.after(turns, low, &count)
    }

    /// What the model costs if only this group loses units, all but the best `units`, and the most that somebody loses of its
    /// output by that.
    pub fn alone(&self, group: usize, units: usize) -> (Cost, f64) {
        let gone: Vec<usize> = order(&self.scores[group]).into_iter().take(self.all(group) - units).collect();
        let mut lost: HashMap<Loser, f64> = HashMap::new();
        for (who, loss) in gone.iter().flat_map(|&u| self.scored[group].iter().flat_map(move |s| &s.losses[u])) {
            *lost.entry(*who).or_default() += loss;
        }
        let cost = self.without(&gone.iter().map(|&u| self.groups[group].units[u]).collect()).cost();
        (cost, lost.into_values().fold(0.0, f64::max))
    }
}

/// Units by their scores, the lowest first; of equal ones the last.
fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
    order
}
