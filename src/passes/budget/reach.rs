//! How little a budget can leave of a model, and what holds the rest: told before any work is done.

use super::{Budget, biases};
use crate::analysis::cost::{batch_symbol, constant, node_macs};
use crate::error::Error;
use crate::ir::{Graph, NodeId, ValueId};
use crate::passes::Context;
use crate::plain;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Groups of what holds the rest that an error names.
const NAMED: usize = 5;

/// What of a model has a cost of its own: a constant has parameters and bytes, a node has MACs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CostPart {
    /// A constant, with parameters and bytes.
    Constant(ValueId),
    /// A node, with MACs.
    Node(NodeId),
}

/// How little a budget can leave of a model.
#[derive(Debug)]
pub struct Reach {
    budget: Budget,
    max_loss: f64,
    whole: u64,
    least: u64,
    /// What is left at the least of each part, and of bodies.
    rests: Vec<(CostPart, u64)>,
    inside: u64,
    /// Whether steps that have yet to run come before.
    behind: bool,
    /// What is left at the least: in what, and how much; the most first.
    held: Vec<(String, u64)>,
}

impl Reach {
    /// `left` is what is left at the least of a part that costs so much, `common` what they share then; `stays` has parts that
    /// cannot be, each with a name and the reason. `None` if costs are not known.
    pub fn new(
        cx: &Context<'_>,
        budget: Budget,
        left: impl Fn(CostPart, u64) -> u64,
        common: u64,
        stays: &HashMap<CostPart, (String, String)>,
    ) -> Option<Reach> {
        let sized = cx.sized();
        let whole = budget.of(cx.cost())?;
        let (mut held, mut inside, mut rests) = (Held::default(), whole, Vec::new());
        for (part, cost) in parts(&sized, budget)? {
            inside = inside.saturating_sub(cost);
            let rest = left(part, cost).min(cost);
            rests.push((part, rest));
            match stays.get(&part) {
                Some((name, why)) if rest == cost => held.add(rest, name, &format!(": {why}")),
                _ if rest < cost => held.add(rest, "", "what is left of the layers that can be cut"),
                _ => held.untouched(rest, &sized, part),
            }
        }
        held.add(inside, "", "bodies of control flow, which no budget enters");
        let kept = rests.iter().map(|r| r.1).sum::<u64>() + inside;
        // Where nothing can be cut, nothing is lost that is to be fitted.
        let added = if kept < whole { budget.of(biases(cx))? } else { 0 };
        held.add(added, "", "biases that fitting to data may add");
        held.add(common, "", "tables that codes share");
        let least = (kept + added + common).min(whole);
        Some(Reach { budget, max_loss: cx.max_loss, whole, least, rests, inside, behind: false, held: held.told() })
    }

    /// The same behind steps that have yet to run, as far as it is certain: whatever these leave of the rest, what `stays` is
    /// as it is now. They add no more than `added`.
    #[must_use]
    pub fn behind_others(self, stays: impl Fn(CostPart) -> bool, added: u64) -> Reach {
        let kept = self.rests.iter().filter(|(part, _)| stays(*part)).map(|r| r.1).sum::<u64>();
        Reach { least: kept + self.inside, whole: self.whole + added, behind: true, ..self }
    }

    /// The error that says so, if what `pass` is to leave is less than the least.
    pub fn refuses(&self, pass: &str) -> Option<Error> {
        if self.least <= self.budget.of_whole(self.whole) {
            return None;
        }
        let percent = |n: u64| 100.0 * n as f64 / self.whole.max(1) as f64;
        // Rounded up, so that it can be asked for.
        let least = (10.0 * percent(self.least)).ceil() / 10.0;
        let (wanted, unit, key) = (100.0 * self.budget.share(), self.budget.unit(), self.budget.key());
        let (bound, more) = match self.max_loss.is_finite() {
            true => (
                format!(" where no layer loses more than {} of its output", self.max_loss),
                ", or for a larger `max-loss`",
            ),
            false if self.behind => (", whatever the steps before it leave".into(), " or more"),
            false => (String::new(), " or more, as far as `max-loss` lets it"),
        };
        let mut named: Vec<String> = self
            .held
            .iter()
            .take(NAMED)
            .map(|(what, n)| format!("{:.1} % are in {}", percent(*n), plain::line(what)))
            .collect();
        let others: u64 = self.held.iter().skip(NAMED).map(|h| h.1).sum();
        if others > 0 {
            named.push(format!("{:.1} % elsewhere", percent(others)));
        }
        if self.least == self.whole {
            let when = if self.behind { &bound } else { "" };
            let what =
                format!("`{pass}` cannot leave {wanted:.1} % of the {unit}: there is nothing that it can cut{when}");
            let help = "choose another pass: `shrink` takes the best of several for each layer";
            return Some(Error::input(what).because(named.join("; ")).help(help));
        }
        let what = format!("`{pass}` cannot leave {wanted:.1} % of the {unit}: {least:.1} % is the least{bound}");
        Some(Error::input(what).because(named.join("; ")).help(format!(
            "ask for {key} = \"{least:.1}%\"{more}; with `best-effort = true`, or --best-effort, it goes as far as that"
        )))
    }
}

/// The parts of a graph with what each costs. `None` if that is not known.
fn parts(graph: &Graph, budget: Budget) -> Option<Vec<(CostPart, u64)>> {
    let batch = batch_symbol(graph);
    let nodes = graph.nodes().map(|n| Some((CostPart::Node(n), node_macs(graph, n, batch.as_ref())?)));
    let constants = graph.values().map(|v| (v, constant(graph, v))).filter(|(_, cost)| cost.stored > 0);
    match budget {
        Budget::Macs(_) => nodes.filter(|part| part.is_none_or(|p| p.1 > 0)).collect(),
        Budget::Params(_) | Budget::Size(_) => {
            constants.map(|(v, cost)| Some((CostPart::Constant(v), budget.of(cost)?))).collect()
        }
    }
}

/// What holds the rest, in groups of what is alike but for names and numbers.
#[derive(Default)]
struct Held {
    groups: Vec<HoldingGroup>,
    by_key: HashMap<String, usize>,
}

struct HoldingGroup {
    /// The first that has a name.
    name: String,
    /// How the sentence goes on behind the names.
    why: String,
    count: usize,
    cost: u64,
}

impl Held {
    fn add(&mut self, cost: u64, name: &str, why: &str) {
        if cost == 0 {
            return;
        }
        let next = self.groups.len();
        let at = *self.by_key.entry(alike(why)).or_insert(next);
        if at == next {
            self.groups.push(HoldingGroup { name: name.into(), why: why.into(), count: 0, cost: 0 });
        }
        self.groups[at].count += 1;
        self.groups[at].cost += cost;
    }

    /// A part that the pass is not about.
    fn untouched(&mut self, cost: u64, graph: &Graph, part: CostPart) {
        match part {
            CostPart::Node(n) => {
                self.add(cost, graph.label(n), &format!(" ({}), which it does not cut", graph.node(n).kind()));
            }
            CostPart::Constant(v) if graph.value(v).rank().unwrap_or(0) < 2 => {
                self.add(cost, "", "biases, scales and other vectors");
            }
            CostPart::Constant(v) => {
                let reader = graph.uses(v).first().map_or("nobody".into(), |u| graph.node(u.node()).kind());
                self.add(cost, &graph.value(v).name, &format!(", which {reader} reads and it does not cut"));
            }
        }
    }

    /// In words, the largest first.
    fn told(mut self) -> Vec<(String, u64)> {
        self.groups.sort_by_key(|group| Reverse(group.cost));
        let words = |g: HoldingGroup| {
            let name = if g.name.is_empty() { String::new() } else { format!("\"{}\"", g.name) };
            let more =
                if g.name.is_empty() || g.count == 1 { String::new() } else { format!(" and {} more", g.count - 1) };
            (format!("{name}{more}{}", g.why), g.cost)
        };
        self.groups.into_iter().map(words).collect()
    }
}

/// A reason without its numbers and names.
fn alike(why: &str) -> String {
    let outside = why.split('"').step_by(2).collect::<Vec<_>>().join("\"");
    outside.chars().filter(|c| !c.is_ascii_digit()).collect()
}
