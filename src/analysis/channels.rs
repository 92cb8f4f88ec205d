//! Coupled channels: which positions of which tensor axes stand or fall together.
//!
//! Every axis that may shrink carries one *label* a position. Labels begin at the axes of constants and follow the data
//! through the graph as operators say (`ir/ties.rs`): concatenation strings them together, flattening repeats them, a
//! slice takes some. Where two must be removed together they are united (`classes.rs`); where something needs the axis
//! whole they are frozen, with the node and the reason. What is left in one class is a *unit*: the least that can be
//! removed. Units that one weight makes form a *group*.
//!
//! A reshape that splits an axis of channels into several, or merges several, can keep only one of them free (`fold.rs`).
//! It is decided when all freezes are known.
//! (After Fang et al. 2023, DepGraph, with index maps instead of layer-wise dependencies.)

mod axes;
mod classes;
mod fold;
mod groups;
mod walk;

use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::value::Source;
use axes::Axes;
use classes::{Classes, Labels, MAX_BYTES};
use fold::Fold;
use foldhash::fast::FixedState;
pub use groups::{Group, Tie};
use groups::{Produced, Tied};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use walk::LabelWalk;

/// Lists of labels up to so long are counted anew for every axis that has them.
const SHORT: usize = 64;

/// Why something stays whole: the node that needs it, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// The node; `None` for the model's interface.
    pub node: Option<NodeId>,
    /// How the sentence goes on that begins with the node; a whole sentence where there is none.
    pub why: String,
}

impl Freeze {
    /// In words, with the node named.
    pub fn explain(&self, graph: &Graph) -> String {
        match self.node {
            Some(n) => format!("{} \"{}\" {}", graph.node(n).kind(), graph.label(n), self.why),
            None => self.why.clone(),
        }
    }
}

/// A place where channels are summed over: a mask here silences removed channels for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contraction {
    pub node: NodeId,
    pub slot: usize,
    pub axis: usize,
}

/// Where some units are: at how many positions of which axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitPlaces {
    pub value: ValueId,
    pub axis: usize,
    pub positions: usize,
}

/// The channels of a graph.
#[derive(Debug)]
pub struct Channels {
    axes: Axes,
    /// By value: whether it is computed from constants alone.
    weights: Vec<bool>,
    classes: Classes,
    freezes: Vec<Freeze>,
    produced: Vec<Produced>,
    ties: Vec<Tied>,
    contractions: Vec<Contraction>,
    folds: Vec<Fold>,
    /// Nodes at which the size of an axis that is read at run time is overwritten where the axis shrinks.
    overwritten: BTreeMap<(ValueId, usize), BTreeSet<NodeId>>,
}

impl Channels {
    /// Follows the channels through a graph whose types are inferred.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn of(graph: &Graph) -> crate::Result<Channels> {
        Channels::within(graph, MAX_BYTES)
    }

    /// As `of`; axes beyond `room` bytes of labels stay whole.
    fn within(graph: &Graph, room: usize) -> crate::Result<Channels> {
        let mut channels = Channels {
            axes: Axes::of(graph),
            weights: vec![false; graph.id_bound()],
            classes: Classes::within(room),
            freezes: Vec::new(),
            produced: Vec::new(),
            ties: Vec::new(),
            contractions: Vec::new(),
            folds: Vec::new(),
            overwritten: BTreeMap::new(),
        };
        for v in graph.values() {
            channels.weights[v.index()] = graph.value(v).constant().is_some();
        }
        for node in graph.topological()? {
            channels.visit(graph, node);
        }
        for &v in graph.outputs() {
            let why = format!("\"{}\" is an output of the model", graph.value(v).name);
            channels.freeze_value(graph, v, Freeze { node: None, why });
        }
        for v in graph.values().filter(|&v| graph.value(v).pinned) {
            let ends = graph.exits().iter().any(|exit| exit.answer == v || exit.sure == v);
            let what = if ends { "is what an exit goes by" } else { "is named elsewhere in the file" };
            let why = format!("\"{}\" {what}", graph.value(v).name);
            channels.freeze_value(graph, v, Freeze { node: None, why });
        }
        channels.settle_folds(graph);
        channels.classes.flatten();
        Ok(channels)
    }

    fn visit(&mut self, graph: &Graph, node: NodeId) {
        for (_, _, v) in graph.node_captures(node) {
            let why = format!("reads \"{}\" in a body", graph.value(v).name);
            self.freeze_value(graph, v, Freeze { node: Some(node), why });
        }
        let mut walk = LabelWalk::new(graph, node, self);
        let rest = match graph.node(node).op.operator() {
            _ if graph.node(node).inconsistent => "contradicts the operator's definition",
            None => "is an operator that tutee does not know: it may need every channel",
            Some(op) if !op.ties(&mut walk) => "may need every channel: no rule says how channels run through it",
            Some(_) => "",
        };
        walk.finish(rest);
        if walk.is_computed_from_weights() {
            graph.node_outputs(node).into_iter().flatten().for_each(|v| self.weights[v.index()] = true);
        }
    }

    /// The unit at a position of a value's axis, if the axis carries channels.
    pub fn unit(&self, value: ValueId, axis: usize, position: usize) -> Option<u32> {
        Some(self.classes.root(*self.axes.labels(value, axis)?.get(position)?))
    }

    /// Axes of a value that carry channels, with their units by position.
    pub fn axes(&self, value: ValueId, rank: usize) -> impl Iterator<Item = (usize, Vec<u32>)> + '_ {
        (0..rank).filter_map(move |a| Some((a, self.units(value, a)?)))
    }

    /// The units along an axis, by position.
    pub fn units(&self, value: ValueId, axis: usize) -> Option<Vec<u32>> {
        Some(self.axes.labels(value, axis)?.iter().map(|&l| self.classes.root(l)).collect())
    }

    /// Why a unit cannot be removed, if so.
    pub fn frozen(&self, unit: u32) -> Option<&Freeze> {
        self.classes.frozen(unit).map(|r| &self.freezes[r as usize])
    }

    /// Every place where channels are summed over.
    pub fn contractions(&self) -> &[Contraction] {
        &self.contractions
    }

    /// Every axis that carries channels, once, with its labels.
    fn labelled<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = (ValueId, usize, &'a Labels)> {
        let axes = |v| (0..graph.value(v).rank().unwrap_or(0)).map(move |axis| (v, axis));
        graph.values().flat_map(axes).filter_map(|(v, axis)| Some((v, axis, self.axes.labels(v, axis)?)))
    }

    /// Takes units out of `gone` until no axis of the graph loses all its positions: of every axis that would, the one of
    /// the highest `worth`, of equal ones the first.
    pub fn spare(&self, graph: &Graph, gone: &mut HashSet<u32>, worth: impl Fn(u32) -> f64) {
        let mut seen = HashSet::new();
        for (_, _, labels) in self.labelled(graph).filter(|l| seen.insert(l.2.as_ptr())) {
            let units = || labels.iter().map(|&l| self.classes.root(l));
            if units().all(|u| gone.contains(&u)) {
                let best = units().rev().max_by(|&a, &b| worth(a).total_cmp(&worth(b)));
                best.map(|u| gone.remove(&u));
            }
        }
    }

    /// For every axis that loses some of these units, which positions of it stay.
    pub(super) fn without(&self, graph: &Graph, gone: &HashSet<u32>) -> HashMap<(ValueId, usize), Arc<[usize]>> {
        // Axes that share their labels share the answer.
        let mut answers = HashMap::new();
        let stay = |labels: &Labels| -> Option<Arc<[usize]>> {
            let stays = |p: &usize| !gone.contains(&self.classes.root(labels[*p]));
            let stay: Arc<[usize]> = (0..labels.len()).filter(stays).collect();
            (stay.len() < labels.len()).then_some(stay)
        };
        let axes = self.labelled(graph).filter_map(|(v, axis, labels)| {
            Some(((v, axis), answers.entry(labels.as_ptr()).or_insert_with(|| stay(labels)).clone()?))
        });
        axes.collect()
    }

    /// Nodes that read the size of an axis which shrinks, and need it overwritten.
    pub(super) fn overwritten(&self, shrinks: impl Fn(ValueId, usize) -> bool) -> BTreeSet<NodeId> {
        let read = self.overwritten.iter().filter(|((v, axis), _)| shrinks(*v, *axis));
        read.flat_map(|(_, nodes)| nodes.iter().copied()).collect()
    }

    /// For every set of units, the axes that carry some of them, in the order of the graph's values.
    pub fn reach<'a>(&self, graph: &Graph, sets: impl IntoIterator<Item = &'a [u32]>) -> Vec<Vec<UnitPlaces>> {
        let mut owner = vec![usize::MAX; self.classes.len()];
        let mut out = Vec::new();
        for (i, set) in sets.into_iter().enumerate() {
            set.iter().for_each(|&u| owner[u as usize] = i);
            out.push(Vec::new());
        }
        // Long lists are counted once, however many axes share them.
        let mut counts: HashMap<*const u32, Vec<(usize, usize)>, FixedState> = HashMap::default();
        let mut found = Vec::new();
        for (value, axis, labels) in self.labelled(graph) {
            let long = labels.len() > SHORT;
            match if long { counts.get(&labels.as_ptr()) } else { None } {
                Some(known) => found.clone_from(known),
                None => self.count(labels, &owner, &mut found),
            }
            if long {
                counts.entry(labels.as_ptr()).or_insert_with(|| found.clone());
            }
            for &(i, positions) in &found {
                out[i].push(UnitPlaces { value, axis, positions });
            }
        }
        out
    }

    /// How many of the labels each owner of units has, in the order of owners.
    fn count(&self, labels: &Labels, owner: &[usize], found: &mut Vec<(usize, usize)>) {
        found.clear();
        let owners = labels.iter().map(|&l| owner[self.classes.root(l) as usize]);
        found.extend(owners.filter(|&o| o != usize::MAX).map(|o| (o, 1)));
        found.sort_unstable();
        found.dedup_by(|next, first| {
            let same = next.0 == first.0;
            first.1 += if same { next.1 } else { 0 };
            same
        });
    }

    fn reason(&mut self, freeze: Freeze) -> u32 {
        if self.freezes.last() != Some(&freeze) {
            self.freezes.push(freeze);
        }
        self.freezes.len() as u32 - 1
    }

    /// The labels of an axis; those of a constant are made when somebody first asks.
    fn labels(&mut self, graph: &Graph, value: ValueId, axis: usize) -> Option<Labels> {
        let known = self.axes.get_mut(value, axis)?;
        if known.labels.is_some() {
            return known.labels.clone();
        }
        let Source::Constant(t, _) = &graph.value(value).source else { return None };
        // A single position cannot go.
        let n = t.shape().get(axis).copied().filter(|&n| n > 1)?;
        let labels = self.classes.fresh(n)?;
        if let Some(reason) = known.locked {
            labels.iter().for_each(|&l| self.classes.freeze(l, reason));
        }
        known.labels = Some(labels.clone());
        Some(labels)
    }

    fn freeze_labels(&mut self, labels: &[u32], freeze: Freeze) {
        let reason = self.reason(freeze);
        labels.iter().for_each(|&l| self.classes.freeze(l, reason));
    }

    fn freeze_value(&mut self, graph: &Graph, value: ValueId, freeze: Freeze) {
        for axis in 0..graph.value(value).rank().unwrap_or(0) {
            self.freeze_axis(graph, value, axis, || freeze.clone());
        }
    }

    /// Freezes an axis, also where it has no labels yet: that can only be a constant's.
    fn freeze_axis(&mut self, graph: &Graph, value: ValueId, axis: usize, freeze: impl FnOnce() -> Freeze) {
        let Some(known) = self.axes.get(value, axis) else { return };
        if let Some(labels) = known.labels.clone() {
            self.freeze_labels(&labels, freeze());
        } else if graph.value(value).constant().is_some() && known.locked.is_none() {
            let reason = self.reason(freeze());
            if let Some(known) = self.axes.get_mut(value, axis) {
                known.locked = Some(reason);
            }
        }
    }

    /// Lets one factor of every fold carry the channels; the others stay whole.
    fn settle_folds(&mut self, graph: &Graph) {
        for fold in std::mem::take(&mut self.folds) {
            let node = Some(fold.node);
            let chosen = fold.choose(&self.classes);
            for (i, factor) in fold.factors.iter().enumerate() {
                if let Some(labels) = factor.as_ref().filter(|_| chosen.as_ref().is_none_or(|c| c.0 != i)) {
                    let why = "splits or merges them, and another axis than theirs can shrink".into();
                    self.freeze_labels(labels, Freeze { node, why });
                }
            }
            match chosen {
                Some((i, labels)) => {
                    fold.tie(&mut self.classes, i, &labels);
                    self.ties.push(Tied { node: fold.node, by: Tie::Node(fold.node), lists: vec![fold.grid] });
                }
                None => {
                    let whole = fold.factors.iter().flatten().flat_map(|f| f.iter()).find_map(|&l| self.frozen(l));
                    let because = whole.map_or(String::new(), |f| format!(": {}", f.explain(graph)));
                    let why = format!("splits or merges them between axes that stay whole{because}");
                    self.freeze_labels(&fold.grid, Freeze { node, why });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    /// A file of some lines can ask for lists of labels without end: 256 at each Flatten here.
    #[test]
    fn what_takes_too_much_stays_whole() {
        let flat = |i: usize| format!("%f{i} : f32[N,256] = Flatten(%a) @flat{i} output %f{i}\n");
        let text = format!(
            "model \"flat\" opset 17 {{ input %x : f32[N,3,8,8] const %w : f32[4,3,1,1]\n\
             %a : f32[N,4,8,8] = Conv(%x, %w)\n{}}}",
            (0..8).map(flat).collect::<String>()
        );
        let model = text::parse::model(&text).unwrap();
        let why = |room: usize| {
            let groups = Channels::within(&model.graph, room).unwrap().groups();
            groups[0].frozen.as_ref().unwrap().explain(&model.graph)
        };
        assert_eq!(why(MAX_BYTES), "\"f0\" is an output of the model");
        assert_eq!(why(5000), "Flatten \"flat4\" is too large to follow");
    }
}
