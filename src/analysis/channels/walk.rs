//! One node, as its operator talks about it.

use super::classes::Labels;
use super::fold::{Fold, coordinate};
use super::{Channels, Contraction, Freeze, Produced};
use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::infer::Infer;
use crate::ir::op::reshape::runs;
use crate::ir::shape::Shape;
use crate::ir::tensor::elements;
use crate::ir::ties::{Axis, Ties};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

/// Positions of a reshaped axis beyond which it is not followed: room for the widest classifier after a flattening.
const MAX_GRID: usize = 1 << 24;

/// Places beyond which the way of a number through shape arithmetic is not followed.
const MAX_PLACES: usize = 64;

pub struct Walk<'a> {
    cx: Infer<'a>,
    graph: &'a Graph,
    node: NodeId,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    weights: &'a HashSet<ValueId>,
    channels: &'a mut Channels,
    said: Vec<Axis>,
}

impl<'a> Walk<'a> {
    pub fn new(graph: &'a Graph, node: NodeId, weights: &'a HashSet<ValueId>, channels: &'a mut Channels) -> Walk<'a> {
        Walk {
            cx: Infer::new(graph, node),
            graph,
            node,
            inputs: graph.node_inputs(node),
            outputs: graph.node_outputs(node),
            weights,
            channels,
            said: Vec::new(),
        }
    }

    pub fn is_computed_from_weights(&self) -> bool {
        let mut present = self.inputs.iter().flatten().peekable();
        present.peek().is_some()
            && present.all(|v| self.weights.contains(v))
            && !self.graph.node(self.node).has_bodies()
    }

    /// Freezes every input axis that the operator said nothing about. Why, if not because it works across the axis.
    pub fn freeze_rest(&mut self, why: &str) {
        for (slot, v) in self.inputs.clone().into_iter().enumerate() {
            let Some(v) = v else { continue };
            for axis in 0..self.graph.value(v).rank().unwrap_or(0) {
                if self.said.contains(&(slot, axis)) {
                    continue;
                }
                let freeze = || Freeze {
                    node: Some(self.node),
                    why: match why {
                        "" => format!("works across axis {axis} of \"{}\"", self.graph.value(v).name),
                        why => why.into(),
                    },
                };
                self.channels.freeze_axis(self.graph, v, axis, freeze);
            }
        }
    }

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
        usize::try_from(self.shape_of(value)?.0.get(axis)?.known()?).ok()
    }

    fn rank(&self) -> usize {
        self.cx.shape(0).map_or(0, Shape::rank)
    }

    fn in_labels(&mut self, input: Axis) -> Option<Labels> {
        self.said.push(input);
        self.channels.labels(self.graph, self.in_value(input.0)?, input.1)
    }

    fn why(&self, why: impl Into<String>) -> Freeze {
        Freeze { node: Some(self.node), why: why.into() }
    }

    /// How an input is called.
    fn name(&self, slot: usize) -> &str {
        self.in_value(slot).map_or("", |v| &self.graph.value(v).name)
    }

    fn set_output(&mut self, output: Axis, labels: Labels) {
        let Some(v) = self.out_value(output.0) else { return };
        let refusal = match (self.size(Some(v), output.1), self.channels.whole.get(&(v, output.1))) {
            (size, _) if size != Some(labels.len()) => Some("has a result of unknown size along them".into()),
            (Some(1), _) => Some("leaves a single position of their axis".into()),
            (_, Some(&met)) => {
                Some(format!("combines them with \"{}\", which stays whole", self.graph.value(met).name))
            }
            _ => None,
        };
        if let Some(why) = refusal {
            let why = self.why(why);
            return self.channels.freeze_labels(&labels, why);
        }
        match self.channels.labels.get(&(v, output.1)).cloned() {
            Some(met) => self.channels.classes.unite_all(&met, &labels),
            None => drop(self.channels.labels.insert((v, output.1), labels)),
        }
    }

    /// Freezes what is there of two axes that cannot be told position by position.
    fn freeze_both(&mut self, labels: [Option<Labels>; 2], why: String) {
        let why = self.why(why);
        labels.into_iter().flatten().for_each(|l| self.channels.freeze_labels(&l, why.clone()));
    }

    /// What is summed with what is not tracked: whose other side that is.
    fn untracked(&self, a: Option<&Labels>, slots: (usize, usize)) -> String {
        let whole = if a.is_none() { slots.0 } else { slots.1 };
        format!("combines them with \"{}\", which stays whole", self.name(whole))
    }

    /// Input axes `from` become output axes `to`, with the same number of elements.
    fn refold(&mut self, from: Range<usize>, to: Range<usize>) {
        let x = self.in_value(0);
        let factors: Vec<Option<Labels>> = from.clone().map(|a| self.in_labels((0, a))).collect();
        if factors.iter().all(Option::is_none) {
            return;
        }
        let sizes: Option<Vec<usize>> = from.clone().map(|a| self.size(x, a)).collect();
        let out_sizes: Option<Vec<usize>> = to.clone().map(|a| self.size(self.out_value(0), a)).collect();
        let (Some(sizes), Some(out_sizes)) = (sizes, out_sizes) else {
            return from.for_each(|a| self.freeze((0, a), "cannot be followed along dims that are not known"));
        };
        let grid = elements(&sizes).filter(|&n| n <= MAX_GRID);
        let carriers: Vec<usize> = (0..factors.len()).filter(|&i| factors[i].is_some()).collect();
        // One axis of labels over all positions, exact if one input axis carries channels, else a merge to settle later.
        let flat: Option<Labels> = grid.and_then(|n| match carriers.as_slice() {
            [i] => {
                let labels = factors[*i].as_ref()?;
                Some((0..n).map(|p| labels[coordinate(p, &sizes, *i)]).collect())
            }
            _ => {
                let grid = self.channels.classes.fresh(n)?;
                let factors = factors.clone();
                self.channels.folds.push(Fold { node: self.node, grid: grid.clone(), factors, sizes: sizes.clone() });
                Some(grid)
            }
        });
        let long: Vec<usize> = (0..out_sizes.len()).filter(|&i| out_sizes[i] > 1).collect();
        let parts: Option<Vec<Option<Labels>>> = match long.len() {
            0 | 1 => Some(Vec::new()),
            _ => {
                let part = |&m: &usize| if m > 1 { self.channels.classes.fresh(m).map(Some) } else { Some(None) };
                out_sizes.iter().map(part).collect()
            }
        };
        let (Some(flat), Some(parts)) = (flat, parts) else {
            return from.for_each(|a| self.freeze((0, a), "is too large to follow"));
        };
        if let [i] = long[..] {
            return self.set_output((0, to.start + i), flat);
        }
        for (i, labels) in parts.iter().enumerate() {
            if let Some(labels) = labels {
                self.set_output((0, to.start + i), labels.clone());
            }
        }
        self.channels.folds.push(Fold { node: self.node, grid: flat, factors: parts, sizes: out_sizes });
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
        let mut places = vec![(v, position)];
        let mut seen = BTreeSet::new();
        while let Some((v, position)) = places.pop() {
            if !seen.insert((v, position)) {
                continue;
            }
            if seen.len() > MAX_PLACES || self.graph.is_held(v) {
                return false;
            }
            for u in self.graph.uses(v) {
                let Use::Input(n, 0) = u else { return false };
                let op = self.graph.node(n).op.operator();
                let next = op.and_then(|op| op.moves(&Infer::new(self.graph, n), position));
                let (Some(next), Some(y)) = (next, self.graph.output(n)) else { return false };
                places.extend(next.into_iter().map(|p| (y, p)));
            }
        }
        true
    }

    fn is_weight(&self, slot: usize) -> bool {
        self.in_value(slot).is_some_and(|v| self.weights.contains(&v))
    }

    fn is_tracked(&self, input: Axis) -> bool {
        self.in_value(input.0).is_some_and(|v| self.channels.labels.contains_key(&(v, input.1)))
    }

    fn pass(&mut self, input: Axis, output: Axis) {
        if self.size(self.in_value(input.0), input.1) == Some(1) {
            // One position cannot go, and goes with whatever it is broadcast to.
            return self.ignore(input);
        }
        // A constant of this size joins whatever comes along the other inputs; nothing to join means nothing to track.
        match self.in_labels(input) {
            Some(labels) => self.set_output(output, labels),
            None => {
                let (Some(v), Some(x)) = (self.out_value(output.0), self.in_value(input.0)) else { return };
                self.channels.whole.insert((v, output.1), x);
                if let Some(met) = self.channels.labels.get(&(v, output.1)).cloned() {
                    let why = self.why(format!("combines them with \"{}\", which stays whole", self.name(input.0)));
                    self.channels.freeze_labels(&met, why);
                }
            }
        }
    }

    fn select(&mut self, input: Axis, output: Axis, from: &dyn Fn(usize) -> usize) {
        let Some(labels) = self.in_labels(input) else { return };
        let count = self.size(self.out_value(output.0), output.1).filter(|&n| n <= MAX_GRID);
        let chosen = count.and_then(|n| (0..n).map(|i| labels.get(from(i)).copied()).collect());
        match chosen {
            Some(chosen) => self.set_output(output, chosen),
            None => self.freeze(input, "selects positions that cannot be followed"),
        }
    }

    fn concat(&mut self, inputs: &[Axis], output: Axis) {
        // What is a constant beside untracked data may be a weight elsewhere.
        if !inputs.iter().any(|&i| self.is_tracked(i)) && !inputs.iter().all(|i| self.is_weight(i.0)) {
            return inputs.iter().for_each(|&i| self.freeze(i, "joins them to a part that stays whole"));
        }
        let mut all = Vec::new();
        for &i in inputs {
            let labels = match (self.in_labels(i), self.size(self.in_value(i.0), i.1)) {
                (Some(labels), _) => labels,
                (None, Some(n)) => {
                    let Some(whole) = self.channels.classes.fresh(n) else { break };
                    let why = self.why(format!("joins \"{}\", which stays whole", self.name(i.0)));
                    self.channels.freeze_labels(&whole, why);
                    whole
                }
                (None, None) => break,
            };
            all.extend(labels.iter());
        }
        self.set_output(output, all.into());
    }

    fn produce(&mut self, weight: Axis, output: Axis, times: usize) {
        let Some(v) = self.in_value(weight.0) else { return };
        let labels = match self.in_labels(weight) {
            Some(labels) => {
                self.set_output(output, labels.repeat(times).into());
                labels
            }
            // Nothing to remove, and a reason to give.
            None => {
                let size = self.size(Some(v), weight.1).filter(|&n| n <= MAX_GRID);
                let Some(labels) = size.and_then(|n| self.channels.classes.fresh(n)) else { return };
                let why = match (labels.len(), self.graph.producer(v)) {
                    (0 | 1, _) => "makes a single channel".into(),
                    (_, Some((n, _))) => {
                        let n = format!("{} \"{}\"", self.graph.node(n).kind(), self.graph.label(n));
                        format!("has a weight that comes out of {n}, through which it cannot be followed")
                    }
                    (_, None) => "has a weight that cannot be followed".into(),
                };
                let why = self.why(why);
                self.channels.freeze_labels(&labels, why);
                labels
            }
        };
        self.channels.produced.push(Produced { node: self.node, weight: (v, weight.1), labels });
    }

    fn make(&mut self, output: Axis) {
        let size = self.size(self.out_value(output.0), output.1).filter(|&n| n > 1);
        if let Some(labels) = size.and_then(|n| self.channels.classes.fresh(n)) {
            self.set_output(output, labels);
        }
    }

    fn tie(&mut self, a: Axis, b: Axis, map: &dyn Fn(usize) -> usize) {
        let (x, y) = (self.in_labels(a), self.in_labels(b));
        let mapped = x.as_ref().zip(y.as_ref()).map(|(x, y)| (0..x.len()).map(|i| y.get(map(i)).copied()).collect());
        match (x, mapped) {
            (Some(x), Some(Some(mapped))) => self.channels.classes.unite_all(&x, &mapped),
            (x, _) => {
                let why = self.untracked(x.as_ref(), (a.0, b.0));
                self.freeze_both([x, y], why);
            }
        }
    }

    fn contract(&mut self, data: Axis, weight: Axis, groups: usize) {
        match (self.in_labels(data), self.in_labels(weight)) {
            (Some(x), Some(w)) if w.len().checked_mul(groups) == Some(x.len()) => {
                x.iter().enumerate().for_each(|(i, &l)| self.channels.classes.unite(l, w[i % w.len()]));
                self.channels.contractions.push(Contraction { node: self.node, slot: data.0, axis: data.1 });
            }
            (x, w) => {
                let why = self.untracked(x.as_ref(), (data.0, weight.0));
                self.freeze_both([x, w], why);
            }
        }
    }

    fn reshape(&mut self) {
        let all = 0..self.rank();
        match self.cx.shape(0).zip(self.out_shape(0)).and_then(|(a, b)| runs(a, b)) {
            Some(runs) => {
                self.said.extend(all.map(|a| (0, a)));
                runs.into_iter().for_each(|(from, to)| self.refold(from, to));
            }
            None => all.for_each(|a| self.freeze((0, a), "cannot be followed along dims that are not known")),
        }
    }

    fn freeze(&mut self, input: Axis, why: &str) {
        self.said.push(input);
        if let Some(v) = self.in_value(input.0) {
            let freeze = self.why(why);
            self.channels.freeze_axis(self.graph, v, input.1, || freeze);
        }
    }

    fn ignore(&mut self, input: Axis) {
        self.said.push(input);
    }
}
