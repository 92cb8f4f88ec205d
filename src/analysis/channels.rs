//! Coupled channels: which positions of which tensor axes stand or fall together.
//!
//! Every axis that may shrink carries one *label* a position. Labels begin at the axes of constants and follow the data
//! through the graph as operators say (`ir/ties.rs`): concatenation strings them together, flattening repeats them, a
//! slice takes some. Where two must be removed together they are united (union-find); where something needs the axis
//! whole they are frozen, with the node and the reason. What is left in one class is a *unit*: the least that can be
//! removed. Units that one weight makes form a *group*.
//!
//! A reshape that splits an axis of channels into several, or merges several, can keep only one of them free: heads of an
//! attention stay or go as blocks, a channel shuffle as residues. It is decided when all freezes are known.
//! (After Fang et al. 2023, DepGraph, with index maps instead of layer-wise dependencies.)

use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::infer::Infer;
use crate::ir::op::Op;
use crate::ir::op::reshape::runs;
use crate::ir::shape::Shape;
use crate::ir::tensor::{Tensor, elements};
use crate::ir::ties::{Axis, Ties};
use crate::ir::value::Source;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

type Labels = Arc<[u32]>;

/// Positions of a reshaped axis beyond which it is not followed: room for the widest classifier after a flattening.
const MAX_LABELS: usize = 1 << 24;

/// Why something stays whole: the node that needs it, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// The node; `None` for the model's interface.
    pub node: Option<NodeId>,
    pub why: String,
}

impl Freeze {
    /// In words, with the node named.
    pub fn explain(&self, graph: &Graph) -> String {
        match self.node {
            Some(n) => format!("{} \"{}\": {}", graph.node(n).kind(), graph.label(n), self.why),
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

/// Units that are made together.
#[derive(Debug, Clone)]
pub struct Group {
    /// Nodes whose weights make the channels, in graph order.
    pub producers: Vec<NodeId>,
    /// The weights that make the channels, each with the axis that does.
    pub weights: Vec<(ValueId, usize)>,
    /// The least sets of channels that can be removed, each by a number that [`Channels::unit`] gives; all that there
    /// are, if none can.
    pub units: Vec<u32>,
    /// Why no unit can be removed, if so.
    pub frozen: Option<Freeze>,
}

/// The channels of a graph.
#[derive(Debug)]
pub struct Channels {
    labels: HashMap<(ValueId, usize), Labels>,
    classes: Classes,
    freezes: Vec<Freeze>,
    /// Axes of constants that a node needs whole, before they have labels.
    locked: HashMap<(ValueId, usize), u32>,
    /// Axes of results into which an axis without labels goes.
    whole: HashSet<(ValueId, usize)>,
    produced: Vec<Produced>,
    contractions: Vec<Contraction>,
    folds: Vec<Fold>,
}

/// Channels that a node makes from an axis of a weight.
#[derive(Debug)]
struct Produced {
    node: NodeId,
    weight: (ValueId, usize),
    labels: Labels,
}

/// A reshape between one axis and several: `grid` has the labels of the one, row-major over `factors`.
#[derive(Debug)]
struct Fold {
    node: NodeId,
    grid: Labels,
    factors: Vec<Option<Labels>>,
    sizes: Vec<usize>,
}

/// Union-find over labels; a class remembers the first freeze that hit it.
#[derive(Debug, Default)]
struct Classes {
    parent: Vec<u32>,
    frozen: Vec<Option<u32>>,
}

impl Classes {
    fn fresh(&mut self, n: usize) -> Labels {
        let from = self.parent.len() as u32;
        self.parent.extend(from..from + n as u32);
        self.frozen.resize(self.parent.len(), None);
        (from..from + n as u32).collect()
    }

    fn root(&self, mut x: u32) -> u32 {
        while self.parent[x as usize] != x {
            x = self.parent[x as usize];
        }
        x
    }

    fn find(&mut self, x: u32) -> u32 {
        let root = self.root(x);
        let mut at = x;
        while self.parent[at as usize] != root {
            at = std::mem::replace(&mut self.parent[at as usize], root);
        }
        root
    }

    /// The older label becomes the class's root: the outcome does not depend on the order of statements.
    fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        let (root, child) = (a.min(b), a.max(b));
        self.parent[child as usize] = root;
        let frozen = match (self.frozen[root as usize], self.frozen[child as usize]) {
            (Some(x), Some(y)) => Some(x.min(y)),
            (x, y) => x.or(y),
        };
        self.frozen[root as usize] = frozen;
    }

    /// Makes every label point at its root. A parent is never younger than its child, so one pass in order does.
    fn flatten(&mut self) {
        for x in 0..self.parent.len() {
            self.parent[x] = self.parent[self.parent[x] as usize];
        }
    }

    fn freeze(&mut self, x: u32, reason: u32) {
        let root = self.find(x);
        self.frozen[root as usize].get_or_insert(reason);
    }
}

impl Channels {
    /// Follows the channels through a graph whose types are inferred.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn of(graph: &Graph) -> crate::Result<Channels> {
        let mut channels = Channels {
            labels: HashMap::new(),
            classes: Classes::default(),
            freezes: Vec::new(),
            locked: HashMap::new(),
            whole: HashSet::new(),
            produced: Vec::new(),
            contractions: Vec::new(),
            folds: Vec::new(),
        };
        let mut weights: HashSet<ValueId> = graph.values().filter(|&v| graph.value(v).constant().is_some()).collect();
        for node in graph.topological()? {
            channels.visit(graph, node, &mut weights);
        }
        let outputs: HashSet<ValueId> = graph.outputs().iter().copied().collect();
        for v in graph.values().filter(|&v| outputs.contains(&v) || graph.value(v).pinned) {
            let why = format!("\"{}\" is an output of the model", graph.value(v).name);
            channels.freeze_value(graph, v, Freeze { node: None, why });
        }
        channels.settle_folds();
        channels.classes.flatten();
        Ok(channels)
    }

    fn visit(&mut self, graph: &Graph, node: NodeId, weights: &mut HashSet<ValueId>) {
        let inputs = graph.node_inputs(node);
        let outputs = graph.node_outputs(node);
        let present: Vec<_> = inputs.iter().flatten().copied().collect();
        if !present.is_empty() && present.iter().all(|v| weights.contains(v)) && !graph.node(node).has_bodies() {
            weights.extend(outputs.iter().flatten());
        }
        for (_, _, v) in graph.node_captures(node) {
            self.freeze_value(graph, v, Freeze { node: Some(node), why: "a body of control flow reads it".into() });
        }
        let mut walk = Walk {
            cx: Infer::new(graph, node),
            graph,
            node,
            inputs,
            outputs,
            weights,
            channels: self,
            said: HashSet::new(),
        };
        let known = match graph.node(node).op.operator() {
            Some(op) if !graph.node(node).inconsistent => op.ties(&mut walk),
            _ => false,
        };
        walk.freeze_rest(known);
    }

    /// The unit at a position of a value's axis, if the axis carries channels.
    pub fn unit(&self, value: ValueId, axis: usize, position: usize) -> Option<u32> {
        Some(self.classes.root(*self.labels.get(&(value, axis))?.get(position)?))
    }

    /// Axes of a value that carry channels, with their units by position.
    pub fn axes(&self, value: ValueId, rank: usize) -> impl Iterator<Item = (usize, Vec<u32>)> + '_ {
        (0..rank).filter_map(move |a| Some((a, self.units(value, a)?)))
    }

    /// The units along an axis, by position.
    pub fn units(&self, value: ValueId, axis: usize) -> Option<Vec<u32>> {
        Some(self.labels.get(&(value, axis))?.iter().map(|&l| self.classes.root(l)).collect())
    }

    /// Why a unit cannot be removed, if so.
    pub fn frozen(&self, unit: u32) -> Option<&Freeze> {
        self.classes.frozen[self.classes.root(unit) as usize].map(|r| &self.freezes[r as usize])
    }

    /// Every place where channels are summed over.
    pub fn contractions(&self) -> &[Contraction] {
        &self.contractions
    }

    /// Groups of units, in the order of their first producers.
    pub fn groups(&self) -> Vec<Group> {
        // Producers that share a unit make one group: union-find over their numbers in `produced`.
        let mut sets = Classes::default();
        sets.fresh(self.produced.len());
        let mut owner: HashMap<u32, u32> = HashMap::new();
        for (i, made) in self.produced.iter().enumerate() {
            for &l in made.labels.iter() {
                let first = *owner.entry(self.classes.root(l)).or_insert(i as u32);
                sets.unite(first, i as u32);
            }
        }
        let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
        let (mut units, mut producers, mut weights) = (HashSet::new(), HashSet::new(), HashSet::new());
        for (i, made) in self.produced.iter().enumerate() {
            let group = groups.entry(sets.root(i as u32)).or_insert_with(|| Group {
                producers: Vec::new(),
                weights: Vec::new(),
                units: Vec::new(),
                frozen: None,
            });
            // One node's channels, and one weight's, may fall into several groups.
            if producers.insert((sets.root(i as u32), made.node)) {
                group.producers.push(made.node);
            }
            if weights.insert(made.weight) {
                group.weights.push(made.weight);
            }
            group.units.extend(made.labels.iter().map(|&l| self.classes.root(l)).filter(|&u| units.insert(u)));
        }
        let mut groups: Vec<Group> = groups.into_values().collect();
        for group in &mut groups {
            match group.units.iter().all(|&u| self.frozen(u).is_some()) {
                true => group.frozen = group.units.first().and_then(|&u| self.frozen(u)).cloned(),
                false => group.units.retain(|&u| self.frozen(u).is_none()),
            }
        }
        groups
    }

    /// Takes units out of `gone` until no axis of the graph loses all its positions: of every axis that would, the one of
    /// the highest `worth`, of equal ones the first.
    pub fn spare(&self, graph: &Graph, gone: &mut HashSet<u32>, worth: impl Fn(u32) -> f64) {
        for v in graph.values() {
            for (_, units) in self.axes(v, graph.value(v).rank().unwrap_or(0)) {
                if units.iter().all(|u| gone.contains(u)) {
                    let best = units.iter().rev().max_by(|&&a, &&b| worth(a).total_cmp(&worth(b)));
                    best.map(|u| gone.remove(u));
                }
            }
        }
    }

    /// For every group, the axes of constants that carry its units: what removing them cuts.
    pub fn reach(&self, graph: &Graph, groups: &[Group]) -> Vec<Vec<(ValueId, usize)>> {
        let mut owner = HashMap::new();
        for (i, group) in groups.iter().enumerate() {
            owner.extend(group.units.iter().map(|&u| (u, i)));
        }
        let mut out = vec![Vec::new(); groups.len()];
        for v in graph.values() {
            let Some(t) = graph.value(v).constant() else { continue };
            for (axis, units) in self.axes(v, t.rank()) {
                let found: BTreeSet<usize> = units.iter().filter_map(|u| owner.get(u).copied()).collect();
                found.into_iter().for_each(|i| out[i].push((v, axis)));
            }
        }
        out
    }

    fn reason(&mut self, freeze: Freeze) -> u32 {
        if self.freezes.last() != Some(&freeze) {
            self.freezes.push(freeze);
        }
        self.freezes.len() as u32 - 1
    }

    /// The labels of an axis; those of a constant are made when somebody first asks.
    fn labels(&mut self, graph: &Graph, value: ValueId, axis: usize) -> Option<Labels> {
        if let Some(l) = self.labels.get(&(value, axis)) {
            return Some(l.clone());
        }
        let Source::Constant(t, _) = &graph.value(value).source else { return None };
        let n = *t.shape().get(axis)?;
        if n < 2 {
            return None;
        }
        let labels = self.classes.fresh(n);
        if let Some(&reason) = self.locked.get(&(value, axis)) {
            labels.iter().for_each(|&l| self.classes.freeze(l, reason));
        }
        self.labels.insert((value, axis), labels.clone());
        Some(labels)
    }

    fn freeze_labels(&mut self, labels: &[u32], freeze: Freeze) {
        let reason = self.reason(freeze);
        labels.iter().for_each(|&l| self.classes.freeze(l, reason));
    }

    fn freeze_value(&mut self, graph: &Graph, value: ValueId, freeze: Freeze) {
        let rank = graph.value(value).rank().unwrap_or(0);
        let reason = self.reason(freeze);
        for axis in 0..rank {
            self.freeze_axis(value, axis, reason);
        }
    }

    fn freeze_axis(&mut self, value: ValueId, axis: usize, reason: u32) {
        match self.labels.get(&(value, axis)).cloned() {
            Some(labels) => labels.iter().for_each(|&l| self.classes.freeze(l, reason)),
            None => {
                self.locked.entry((value, axis)).or_insert(reason);
            }
        }
    }

    /// Ties two axes position by position; an axis without labels is one that stays whole.
    fn unite_axes(&mut self, a: Option<Labels>, b: Option<Labels>, node: NodeId, why: &str) {
        match (a, b) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                a.iter().zip(b.iter()).for_each(|(&x, &y)| self.classes.unite(x, y))
            }
            (a, b) => {
                for labels in [a, b].into_iter().flatten() {
                    self.freeze_labels(&labels, Freeze { node: Some(node), why: why.into() });
                }
            }
        }
    }

    /// Lets one factor of every fold carry the channels: the one that leaves most units; the others stay whole.
    fn settle_folds(&mut self) {
        for fold in std::mem::take(&mut self.folds) {
            let free =
                |labels: &Labels| labels.iter().all(|&l| self.classes.frozen[self.classes.root(l) as usize].is_none());
            let open = fold.factors.iter().enumerate().filter(|(_, f)| f.as_ref().is_some_and(free)).map(|(i, _)| i);
            let chosen = open.max_by_key(|&i| self.units_if(&fold, i));
            for (i, factor) in fold.factors.iter().enumerate() {
                if let Some(labels) = factor.as_ref().filter(|_| Some(i) != chosen) {
                    let why = "reshaping splits or merges the channels; another axis carries them".into();
                    self.freeze_labels(labels, Freeze { node: Some(fold.node), why });
                }
            }
            match chosen.and_then(|i| Some((i, fold.factors[i].clone()?))) {
                Some((i, labels)) => {
                    for (position, &l) in fold.grid.iter().enumerate() {
                        self.classes.unite(l, labels[coordinate(position, &fold.sizes, i)]);
                    }
                }
                None => {
                    let why = "reshaping splits the channels into axes that must stay whole".into();
                    self.freeze_labels(&fold.grid, Freeze { node: Some(fold.node), why });
                }
            }
        }
    }

    /// Classes of the grid if the factor `i` carried its channels.
    fn units_if(&self, fold: &Fold, i: usize) -> usize {
        let Some(labels) = &fold.factors[i] else { return 0 };
        let mut local = Classes::default();
        let mut number: HashMap<u32, u32> = HashMap::new();
        for (position, &l) in fold.grid.iter().enumerate() {
            let pair = [l, labels[coordinate(position, &fold.sizes, i)]].map(|l| {
                let root = self.classes.root(l);
                *number.entry(root).or_insert_with(|| local.fresh(1)[0])
            });
            local.unite(pair[0], pair[1]);
        }
        let roots: HashSet<u32> = number.values().map(|&n| local.root(n)).collect();
        roots.len()
    }
}

/// Coordinate along factor `i` of a row-major position.
fn coordinate(position: usize, sizes: &[usize], i: usize) -> usize {
    let inner: usize = sizes[i + 1..].iter().product();
    position / inner % sizes[i]
}

/// One node, as its operator talks about it.
struct Walk<'a> {
    cx: Infer<'a>,
    graph: &'a Graph,
    node: NodeId,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    weights: &'a HashSet<ValueId>,
    channels: &'a mut Channels,
    said: HashSet<Axis>,
}

impl Walk<'_> {
    fn in_value(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    fn out_value(&self, slot: usize) -> Option<ValueId> {
        self.outputs.get(slot).copied().flatten()
    }

    fn shape_of(&self, value: Option<ValueId>) -> Option<&Shape> {
        self.graph.value(value?).ty.as_ref()?.shape()
    }

    fn size(&self, value: Option<ValueId>, axis: usize) -> Option<usize> {
        self.shape_of(value)?.0.get(axis)?.known().map(|n| n as usize)
    }

    fn in_labels(&mut self, input: Axis) -> Option<Labels> {
        self.said.insert(input);
        self.channels.labels(self.graph, self.in_value(input.0)?, input.1)
    }

    fn set_output(&mut self, output: Axis, labels: Labels) {
        let Some(v) = self.out_value(output.0) else { return };
        if self.size(Some(v), output.1) != Some(labels.len()) {
            let why = "the size of the result along the channels is not known".into();
            return self.channels.freeze_labels(&labels, Freeze { node: Some(self.node), why });
        }
        if self.channels.whole.contains(&(v, output.1)) {
            return self.channels.unite_axes(
                Some(labels),
                None,
                self.node,
                "it is combined with an axis that stays whole",
            );
        }
        match self.channels.labels.get(&(v, output.1)).cloned() {
            None => {
                self.channels.labels.insert((v, output.1), labels);
            }
            some => self.channels.unite_axes(some, Some(labels), self.node, "two inputs differ in size"),
        }
    }

    /// Freezes every input axis that the operator said nothing about.
    fn freeze_rest(&mut self, known: bool) {
        let kind = self.graph.node(self.node).kind();
        let why = if self.graph.node(self.node).inconsistent {
            format!("the file contradicts the definition of {kind} here")
        } else if known {
            format!("{kind} needs the axis whole")
        } else {
            format!("it is not known what {kind} does to channels")
        };
        let reason = self.channels.reason(Freeze { node: Some(self.node), why });
        for slot in 0..self.inputs.len() {
            let Some(v) = self.in_value(slot) else { continue };
            for axis in 0..self.graph.value(v).rank().unwrap_or(0) {
                if !self.said.contains(&(slot, axis)) {
                    self.channels.freeze_axis(v, axis, reason);
                }
            }
        }
    }
}

impl Ties for Walk<'_> {
    fn cx(&self) -> &Infer<'_> {
        &self.cx
    }

    fn out_shape(&self, slot: usize) -> Option<&Shape> {
        self.shape_of(self.out_value(slot))
    }

    fn is_unread(&self, output: usize, position: usize) -> bool {
        let Some(v) = self.out_value(output) else { return true };
        let size = self.size(Some(v), 0).unwrap_or(0) as i64;
        let misses = |u: Use| match (u, u.node()) {
            (Use::Input(_, 0), n) if matches!(self.graph.node(n).op, Op::Gather(_)) => {
                let indices = self.graph.input_constant(n, 1).and_then(Tensor::ints);
                indices.is_some_and(|all| all.iter().all(|&i| (if i < 0 { i + size } else { i }) != position as i64))
            }
            _ => false,
        };
        !self.graph.is_held(v) && self.graph.uses(v).into_iter().all(misses)
    }

    fn is_weight(&self, slot: usize) -> bool {
        self.in_value(slot).is_some_and(|v| self.weights.contains(&v))
    }

    fn is_tracked(&self, input: Axis) -> bool {
        self.in_value(input.0).is_some_and(|v| self.channels.labels.contains_key(&(v, input.1)))
    }

    fn pass(&mut self, input: Axis, output: Axis) {
        let (n, m) = (self.size(self.in_value(input.0), input.1), self.size(self.out_value(output.0), output.1));
        if n == Some(1) && m != Some(1) {
            // One position cannot go: the axis would be empty.
            return self.freeze(input, "it is broadcast along the axis");
        }
        // A constant of this size joins whatever comes along the other inputs; nothing to join means nothing to track.
        match self.in_labels(input) {
            Some(labels) => self.set_output(output, labels),
            None => {
                let Some(v) = self.out_value(output.0) else { return };
                self.channels.whole.insert((v, output.1));
                let met = self.channels.labels.get(&(v, output.1)).cloned();
                self.channels.unite_axes(met, None, self.node, "it is combined with an axis that stays whole");
            }
        }
    }

    fn select(&mut self, input: Axis, output: Axis, positions: &[usize]) {
        let Some(labels) = self.in_labels(input) else { return };
        let chosen: Option<Labels> = positions.iter().map(|&p| labels.get(p).copied()).collect();
        match chosen {
            Some(chosen) => self.set_output(output, chosen),
            None => self.freeze(input, "it selects positions that are not there"),
        }
    }

    fn concat(&mut self, inputs: &[Axis], output: Axis) {
        if !inputs.iter().any(|&i| self.is_tracked(i)) {
            // What is a constant here may be a weight elsewhere.
            return inputs.iter().for_each(|&i| self.freeze(i, "a part of the concatenation stays whole"));
        }
        let mut all = Vec::new();
        for &i in inputs {
            match (self.in_labels(i), self.size(self.in_value(i.0), i.1)) {
                (Some(labels), _) => all.extend(labels.iter()),
                (None, Some(n)) => {
                    let whole = self.channels.classes.fresh(n);
                    let why = "a part of the concatenation stays whole".into();
                    self.channels.freeze_labels(&whole, Freeze { node: Some(self.node), why });
                    all.extend(whole.iter());
                }
                (None, None) => {}
            }
        }
        self.set_output(output, all.into());
    }

    fn produce(&mut self, weight: Axis, output: Axis) {
        if let Some(labels) = self.in_labels(weight) {
            if let Some(v) = self.in_value(weight.0) {
                let weight = (v, weight.1);
                self.channels.produced.push(Produced { node: self.node, weight, labels: labels.clone() });
            }
            self.set_output(output, labels);
        }
    }

    fn tie(&mut self, a: Axis, b: Axis, map: &dyn Fn(usize) -> usize) {
        let (x, y) = (self.in_labels(a), self.in_labels(b));
        let mapped = x.as_ref().zip(y.as_ref()).map(|(x, y)| (0..x.len()).map(|i| y.get(map(i)).copied()).collect());
        match (x, mapped) {
            (Some(x), Some(Some(mapped))) => self.channels.unite_axes(Some(x), Some(mapped), self.node, ""),
            (x, _) => {
                let why = "it is tied to an axis that stays whole";
                self.channels.unite_axes(x, None, self.node, why);
                self.channels.unite_axes(y, None, self.node, why);
            }
        }
    }

    fn contract(&mut self, data: Axis, weight: Axis, groups: usize) {
        let (x, w) = (self.in_labels(data), self.in_labels(weight));
        let why = "what it is multiplied with stays whole";
        match (x, w) {
            (Some(x), Some(w)) if groups > 0 && x.len() == w.len() * groups => {
                for (i, &l) in x.iter().enumerate() {
                    self.channels.classes.unite(l, w[i % w.len()]);
                }
                self.channels.contractions.push(Contraction { node: self.node, slot: data.0, axis: data.1 });
            }
            (x, w) => {
                self.channels.unite_axes(x, None, self.node, why);
                self.channels.unite_axes(w, None, self.node, why);
            }
        }
    }

    fn reshape(&mut self) {
        let Some(rank) = self.cx.shape(0).map(Shape::rank) else { return };
        let Some(runs) = self.cx.shape(0).zip(self.out_shape(0)).and_then(|(a, b)| runs(a, b)) else {
            (0..rank).for_each(|a| self.freeze((0, a), "the reshape cannot be followed along symbolic dims"));
            return;
        };
        (0..rank).for_each(|a| {
            self.said.insert((0, a));
        });
        for (from, to) in runs {
            self.refold(from, to);
        }
    }

    fn freeze(&mut self, input: Axis, why: &str) {
        self.said.insert(input);
        if let Some(v) = self.in_value(input.0) {
            let reason = self.channels.reason(Freeze { node: Some(self.node), why: why.into() });
            self.channels.freeze_axis(v, input.1, reason);
        }
    }

    fn ignore(&mut self, input: Axis) {
        self.said.insert(input);
    }
}

impl Walk<'_> {
    /// Input axes `from` become output axes `to`, with the same number of elements.
    fn refold(&mut self, from: std::ops::Range<usize>, to: std::ops::Range<usize>) {
        let x = self.in_value(0);
        let factors: Vec<Option<Labels>> = from.clone().map(|a| self.in_labels((0, a))).collect();
        if factors.iter().all(Option::is_none) {
            return;
        }
        let sizes: Option<Vec<usize>> = from.clone().map(|a| self.size(x, a)).collect();
        let out_sizes: Option<Vec<usize>> = to.clone().map(|a| self.size(self.out_value(0), a)).collect();
        let (Some(sizes), Some(out_sizes)) = (sizes, out_sizes) else {
            return from.for_each(|a| self.freeze((0, a), "the reshape cannot be followed along symbolic dims"));
        };
        let Some(n) = elements(&sizes).filter(|&n| n <= MAX_LABELS) else {
            return from.for_each(|a| self.freeze((0, a), "the reshape is too large to follow"));
        };
        let big = |sizes: &[usize]| sizes.iter().filter(|&&n| n > 1).count();
        let carriers: Vec<usize> = (0..factors.len()).filter(|&i| factors[i].is_some()).collect();
        // One axis of labels over all positions, exact if one input axis carries channels, else a merge to settle later.
        let flat: Labels = match carriers.as_slice() {
            [i] => {
                let labels = factors[*i].clone().unwrap_or_default();
                (0..n).map(|p| labels[coordinate(p, &sizes, *i)]).collect()
            }
            _ => {
                let grid = self.channels.classes.fresh(n);
                self.channels.folds.push(Fold { node: self.node, grid: grid.clone(), factors, sizes: sizes.clone() });
                grid
            }
        };
        if big(&out_sizes) <= 1 {
            if let Some(i) = out_sizes.iter().position(|&m| m > 1) {
                self.set_output((0, to.start + i), flat);
            }
            return;
        }
        let parts: Vec<Option<Labels>> =
            out_sizes.iter().map(|&m| (m > 1).then(|| self.channels.classes.fresh(m))).collect();
        for (i, labels) in parts.iter().enumerate() {
            if let Some(labels) = labels {
                self.set_output((0, to.start + i), labels.clone());
            }
        }
        self.channels.folds.push(Fold { node: self.node, grid: flat, factors: parts, sizes: out_sizes });
    }
}
