//! One node, as its operator talks about it.

use super::classes::Labels;
use super::fold::{Fold, coordinate};
use super::groups::{Produced, Tie, Tied};
use super::{Channels, Contraction, Freeze};
use crate::analysis::cost::node_macs;
use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::infer::Infer;
use crate::ir::op::reshape::runs;
use crate::ir::shape::Shape;
use crate::ir::tensor::elements;
use crate::ir::ties::{Axis, Ties, open_weight};
use std::collections::BTreeSet;
use std::ops::Range;

/// Positions of a reshaped axis beyond which it is not followed: room for the widest classifier after a flattening.
const MAX_GRID: usize = 1 << 24;

/// Places beyond which the way of a number through shape arithmetic is not followed.
const MAX_PLACES: usize = 64;

/// Axes that are folded, each with its size; one without a number is a part of what is open.
type FoldedAxes = Vec<(Option<usize>, usize)>;

pub struct LabelWalk<'a> {
    cx: Infer<'a>,
    graph: &'a Graph,
    node: NodeId,
    outputs: Vec<Option<ValueId>>,
    channels: &'a mut Channels,
    said: Vec<Axis>,
    /// Whether the node has a word in a group.
    grouped: bool,
}

impl<'a> LabelWalk<'a> {
    pub fn new(graph: &'a Graph, node: NodeId, channels: &'a mut Channels) -> LabelWalk<'a> {
        LabelWalk {
            cx: Infer::new(graph, node),
            graph,
            node,
            outputs: graph.node_outputs(node),
            channels,
            said: Vec::new(),
            grouped: false,
        }
    }

    pub fn is_computed_from_weights(&self) -> bool {
        let mut present = self.cx.inputs().iter().flatten().peekable();
        present.peek().is_some()
            && present.all(|v| self.channels.weights[v.index()])
            && !self.graph.node(self.node).has_bodies()
    }

    /// Sees to what the operator said nothing about: `why`, if not because it works across the axis.
    pub fn finish(&mut self, why: &str) {
        self.freeze_rest(why);
        if self.grouped || self.is_computed_from_weights() {
            return;
        }
        let node = self.graph.node(self.node);
        let multiplies = || node.op.operator().is_none() || node_macs(self.graph, self.node, None) != Some(0);
        if let Some(slot) = (0..self.cx.n_inputs()).find(|&slot| self.is_untold(slot)).filter(|_| multiplies()) {
            let vague = (0..self.cx.n_inputs()).find(|&i| self.cx.has(i) && self.cx.shape(i).is_none());
            let why = match (why, vague) {
                ("", Some(i)) => format!("reads \"{}\", of which not even the rank is known", self.name(i)),
                ("", None) => open_weight(&self.cx, slot),
                (why, _) => why.into(),
            };
            self.make_none(&why);
        }
    }

    /// Whether the input is a weight, as far as its shape shows, none of whose axes has labels.
    fn is_untold(&self, slot: usize) -> bool {
        let known = self.is_weight(slot) || self.cx.is_overridable(slot) || self.cx.is_sparse(slot);
        let Some(v) = self.in_value(slot).filter(|_| known) else { return false };
        let rank = self.graph.value(v).rank().unwrap_or(0);
        rank > 1 && (0..rank).all(|axis| self.channels.axes.labels(v, axis).is_none())
    }

    /// Freezes every input axis that the operator said nothing about.
    fn freeze_rest(&mut self, why: &str) {
        self.said.sort_unstable();
        for (slot, v) in self.cx.inputs().to_vec().into_iter().enumerate() {
            let Some(v) = v else { continue };
            for axis in 0..self.graph.value(v).rank().unwrap_or(0) {
                if self.said.binary_search(&(slot, axis)).is_ok() {
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
        self.cx.inputs().get(slot).copied().flatten()
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
        let whole = self.channels.axes.get(v, output.1).and_then(|known| known.whole);
        let refusal = match (self.size(Some(v), output.1), whole) {
            (size, _) if size != Some(labels.len()) => Some("has a result of unknown size along them".into()),
            (Some(1), _) => Some("leaves a single position of their axis".into()),
            (_, Some(met)) => Some(format!("combines them with \"{}\", which stays whole", self.graph.value(met).name)),
            _ => None,
        };
        if let Some(why) = refusal {
            let why = self.why(why);
            return self.channels.freeze_labels(&labels, why);
        }
        let Some(known) = self.channels.axes.get_mut(v, output.1) else { return };
        match &known.labels {
            None => known.labels = Some(labels),
            Some(met) if self.channels.classes.unite_all(met, &labels) => self.tied(vec![labels]),
            Some(_) => {}
        }
    }

    /// Notes that the node ties labels.
    fn tied(&mut self, lists: Vec<Labels>) {
        self.channels.ties.push(Tied { node: self.node, by: Tie::Node(self.node), lists });
    }

    /// Notes that a weight ties labels that it had before, if other nodes read it too.
    fn tied_by_weight(&mut self, slot: usize, labels: Labels) {
        if let Some(v) = self.in_value(slot).filter(|&v| self.graph.readers(v).nth(1).is_some()) {
            self.channels.ties.push(Tied { node: self.node, by: Tie::Weight(v), lists: vec![labels] });
        }
    }

    /// Freezes what is there of two axes that cannot be told position by position.
    fn freeze_both(&mut self, labels: [Option<Labels>; 2], why: String) {
        let why = self.why(why);
        labels.into_iter().flatten().for_each(|l| self.channels.freeze_labels(&l, why.clone()));
    }

    /// The labels at `from(0)`, `from(1)` and so on.
    fn chosen(&mut self, labels: &Labels, n: usize, from: &dyn Fn(usize) -> usize) -> Option<Labels> {
        let there = (0..n).all(|i| from(i) < labels.len());
        if there { self.channels.classes.list(n, (0..n).map(|i| labels[from(i)])) } else { None }
    }

    /// What is summed with what is not tracked: whose other side that is.
    fn untracked(&self, a: Option<&Labels>, slots: (usize, usize)) -> String {
        let whole = if a.is_none() { slots.0 } else { slots.1 };
        format!("combines them with \"{}\", which stays whole", self.name(whole))
    }

    /// Input axes `from` become output axes `to`, with the same number of elements.
    fn refold(&mut self, from: Range<usize>, to: Range<usize>) {
        let x = self.in_value(0);
        if from.clone().all(|a| self.in_labels((0, a)).is_none()) {
            return;
        }
        let sizes: Vec<Option<usize>> = from.clone().map(|a| self.size(x, a)).collect();
        let out_sizes: Vec<Option<usize>> = to.clone().map(|a| self.size(self.out_value(0), a)).collect();
        let all = |sizes: &[Option<usize>]| sizes.iter().copied().collect::<Option<Vec<usize>>>();
        if let (Some(sizes), Some(out_sizes)) = (all(&sizes), all(&out_sizes)) {
            let from = from.zip(sizes).map(|(a, n)| (Some(a), n)).collect();
            return self.fold(from, to.zip(out_sizes).map(|(a, n)| (Some(a), n)).collect());
        }
        // What is known at the beginning of both, or at the end, is folded with a rest that goes into what is open.
        let mut told = BTreeSet::new();
        for back in [false, true] {
            let [mut ours, mut theirs] = [(&from, &sizes), (&to, &out_sizes)].map(|(axes, sizes)| {
                let known = |(a, n): (usize, &Option<usize>)| Some((Some(a), (*n)?));
                let axes = axes.clone().zip(sizes);
                if back { axes.rev().map_while(known).collect() } else { axes.map_while(known).collect::<FoldedAxes>() }
            });
            let count = |factors: &FoldedAxes| elements(&factors.iter().map(|f| f.1).collect::<Vec<_>>()).unwrap_or(0);
            let (m, n) = (count(&ours), count(&theirs));
            let (few, many) = (m.min(n), m.max(n));
            let tracked = ours.iter().any(|f| f.0.is_some_and(|a| self.is_tracked((0, a))));
            if few < 2 || many % few > 0 || !tracked {
                continue;
            }
            told.extend(ours.iter().filter_map(|f| f.0));
            if m < n { &mut ours } else { &mut theirs }.push((None, many / few));
            if back {
                ours.reverse();
                theirs.reverse();
            }
            self.fold(ours, theirs);
        }
        for a in from.filter(|a| !told.contains(a)) {
            self.freeze((0, a), "cannot be followed along dims that are not known");
        }
    }

    /// Axes of the input become axes of the output, with the same number of elements.
    fn fold(&mut self, from: FoldedAxes, to: FoldedAxes) {
        let sizes: Vec<usize> = from.iter().map(|f| f.1).collect();
        let factors: Vec<Option<Labels>> = from.iter().map(|f| self.in_labels((0, f.0?))).collect();
        let grid = elements(&sizes).filter(|&n| n <= MAX_GRID);
        let carriers: Vec<usize> = (0..factors.len()).filter(|&i| factors[i].is_some()).collect();
        // One axis of labels over all positions, exact if one input axis carries channels, else a merge to settle later.
        let flat: Option<Labels> = grid.and_then(|n| match carriers.as_slice() {
            [i] => {
                let labels = factors[*i].as_ref()?;
                self.channels.classes.list(n, (0..n).map(|p| labels[coordinate(p, &sizes, *i)]))
            }
            _ => {
                let grid = self.channels.classes.fresh(n)?;
                self.channels.folds.push(Fold { node: self.node, grid: grid.clone(), factors, sizes });
                Some(grid)
            }
        });
        if flat.and_then(|flat| self.unfold(flat, to)).is_none() {
            from.iter().filter_map(|f| f.0).for_each(|a| self.freeze((0, a), "is too large to follow"));
        }
    }

    /// Output axes of these sizes carry the labels, row-major. `None` if that is too much to follow.
    fn unfold(&mut self, flat: Labels, to: FoldedAxes) -> Option<()> {
        let mut long = to.iter().filter(|f| f.1 > 1);
        if let (Some((Some(axis), _)), None) = (long.next(), long.next()) {
            self.set_output((0, *axis), flat);
            return Some(());
        }
        let part = |&(axis, m): &(Option<usize>, usize)| match axis {
            Some(_) if m > 1 => self.channels.classes.fresh(m).map(Some),
            _ => Some(None),
        };
        let factors: Vec<Option<Labels>> = to.iter().map(part).collect::<Option<_>>()?;
        for ((axis, _), labels) in to.iter().zip(&factors) {
            if let Some((axis, labels)) = axis.zip(labels.clone()) {
                self.set_output((0, axis), labels);
            }
        }
        let sizes = to.into_iter().map(|f| f.1).collect();
        self.channels.folds.push(Fold { node: self.node, grid: flat, factors, sizes });
        Some(())
    }
}

impl Ties for LabelWalk<'_> {
    fn cx(&self) -> &Infer<'_> {
        &self.cx
    }

    fn out_shape(&self, slot: usize) -> Option<&Shape> {
        self.shape_of(self.out_value(slot))
    }

    fn is_unread(&mut self, input: Axis, (output, position): Axis) -> bool {
        let (Some(x), Some(v)) = (self.in_value(input.0), self.out_value(output)) else { return true };
        let mut places = vec![(v, position)];
        let mut seen = BTreeSet::new();
        let mut overwritten = Vec::new();
        while let Some((v, position)) = places.pop() {
            if !seen.insert((v, position)) {
                continue;
            }
            if seen.len() > MAX_PLACES || self.graph.is_held(v) {
                return false;
            }
            for u in self.graph.uses(v) {
                let Use::Input(n, slot) = u else { return false };
                let (Some(op), cx) = (self.graph.node(n).op.operator(), Infer::new(self.graph, n)) else {
                    return false;
                };
                let Some(y) = self.graph.output(n) else { return false };
                if op.overwrites(&cx, self.shape_of(Some(y)), (slot, position)) {
                    overwritten.push(n);
                } else if let Some(next) = op.moves(&cx, (slot, position)) {
                    places.extend(next.into_iter().map(|p| (y, p)));
                } else {
                    return false;
                }
            }
        }
        if !overwritten.is_empty() {
            self.channels.overwritten.entry((x, input.1)).or_default().extend(overwritten);
        }
        true
    }

    fn is_weight(&self, slot: usize) -> bool {
        self.in_value(slot).is_some_and(|v| self.channels.weights[v.index()])
    }

    fn is_tracked(&self, input: Axis) -> bool {
        self.in_value(input.0).is_some_and(|v| self.channels.axes.labels(v, input.1).is_some())
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
                let Some(known) = self.channels.axes.get_mut(v, output.1) else { return };
                known.whole = Some(x);
                if let Some(met) = known.labels.clone() {
                    let why = self.why(format!("combines them with \"{}\", which stays whole", self.name(input.0)));
                    self.channels.freeze_labels(&met, why);
                }
            }
        }
    }

    fn select(&mut self, input: Axis, output: Axis, from: &dyn Fn(usize) -> usize) {
        let Some(labels) = self.in_labels(input) else { return };
        let count = self.size(self.out_value(output.0), output.1).filter(|&n| n <= MAX_GRID);
        match count.and_then(|n| self.chosen(&labels, n, from)) {
            Some(chosen) => self.set_output(output, chosen),
            None => self.freeze(input, "selects positions that cannot be followed"),
        }
    }

    fn select_grid(&mut self, input: Axis, outputs: Range<usize>, from: &dyn Fn(usize) -> usize) {
        let Some(labels) = self.in_labels(input) else { return };
        let sizes: Option<Vec<usize>> = outputs.clone().map(|a| self.size(self.out_value(0), a)).collect();
        let count = sizes.as_deref().and_then(elements).filter(|&n| n <= MAX_GRID);
        let done = count.and_then(|n| self.chosen(&labels, n, from)).zip(sizes).and_then(|(chosen, sizes)| {
            if sizes.iter().any(|&n| n > 1) {
                return self.unfold(chosen, outputs.clone().map(Some).zip(sizes).collect());
            }
            let why = self.why("takes one of them by its number");
            self.channels.freeze_labels(&chosen, why);
            Some(())
        });
        if done.is_none() {
            self.freeze(input, "selects positions that cannot be followed");
        }
    }

    fn concat(&mut self, inputs: &[Axis], output: Axis) {
        // What is a constant beside untracked data may be a weight elsewhere.
        if !inputs.iter().any(|&i| self.is_tracked(i)) && !inputs.iter().all(|i| self.is_weight(i.0)) {
            return inputs.iter().for_each(|&i| self.freeze(i, "joins them to a part that stays whole"));
        }
        let mut lists: Vec<Labels> = Vec::new();
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
            lists.push(labels);
        }
        let n = lists.iter().map(|l| l.len()).sum();
        match self.channels.classes.list(n, lists.iter().flat_map(|l| l.iter().copied())) {
            Some(all) => self.set_output(output, all),
            None => inputs.iter().for_each(|&i| self.freeze(i, "is too large to follow")),
        }
        self.tied(lists);
    }

    fn produce(&mut self, weight: Axis, output: Axis, times: usize) {
        let Some(v) = self.in_value(weight.0) else { return };
        let known = self.is_tracked(weight);
        let labels = match self.in_labels(weight) {
            Some(labels) => {
                let n = labels.len().saturating_mul(times);
                let all = match times {
                    1 => Some(labels.clone()),
                    _ => self.channels.classes.list(n, labels.iter().copied().cycle()),
                };
                match all {
                    Some(all) => self.set_output(output, all),
                    None => self.freeze(weight, "is too large to follow"),
                }
                if known {
                    self.tied_by_weight(weight.0, labels.clone());
                }
                labels
            }
            // Nothing to remove, and a reason to give.
            None => {
                let size = self.size(Some(v), weight.1).filter(|&n| n <= MAX_GRID);
                let Some(labels) = size.and_then(|n| self.channels.classes.fresh(n)) else {
                    return self.make_none("has a weight that cannot be followed");
                };
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
        self.grouped = true;
        let weight = Some((v, weight.1));
        self.channels.produced.push(Produced { node: self.node, weight, labels, whole: None });
    }

    fn made_by(&mut self, weight: Axis) {
        let labels = self.in_labels(weight);
        if let Some((labels, v)) = labels.zip(self.in_value(weight.0)) {
            self.grouped = true;
            let weight = Some((v, weight.1));
            self.channels.produced.push(Produced { node: self.node, weight, labels, whole: None });
        }
    }

    fn make_none(&mut self, why: &str) {
        self.grouped = true;
        let whole = Some(self.why(why));
        self.channels.produced.push(Produced { node: self.node, weight: None, labels: [].into(), whole });
    }

    fn make(&mut self, output: Axis) {
        let size = self.size(self.out_value(output.0), output.1).filter(|&n| n > 1);
        if let Some(labels) = size.and_then(|n| self.channels.classes.fresh(n)) {
            self.set_output(output, labels);
        }
    }

    fn tie(&mut self, a: Axis, b: Axis, map: &dyn Fn(usize) -> usize) {
        // A layer's own bias is no news.
        let parts = a.0 != b.0 && self.is_weight(a.0) && self.is_weight(b.0);
        let known = self.is_tracked(a);
        let (x, y) = (self.in_labels(a), self.in_labels(b));
        let mapped = x.as_ref().zip(y.as_ref()).map(|(x, y)| (0..x.len()).map(|i| y.get(map(i)).copied()).collect());
        match (x, mapped) {
            (Some(x), Some(Some(mapped))) => {
                let mapped: Vec<u32> = mapped;
                match self.channels.classes.unite_all(&x, &mapped) {
                    true if !parts => self.tied(vec![x]),
                    true if known => self.tied_by_weight(a.0, x),
                    _ => {}
                }
            }
            (x, _) => {
                let why = self.untracked(x.as_ref(), (a.0, b.0));
                self.freeze_both([x, y], why);
            }
        }
    }

    fn contract(&mut self, data: Axis, weight: Axis, groups: usize) {
        let known = self.is_tracked(weight);
        match (self.in_labels(data), self.in_labels(weight)) {
            (Some(x), Some(w)) if w.len().checked_mul(groups) == Some(x.len()) => {
                let all = x.iter().enumerate();
                let joined = all.fold(false, |joined, (i, &l)| self.channels.classes.unite(l, w[i % w.len()]) | joined);
                self.channels.contractions.push(Contraction { node: self.node, slot: data.0, axis: data.1 });
                match joined {
                    true if groups > 1 => self.tied(vec![x]),
                    true if known => self.tied_by_weight(weight.0, x),
                    _ => {}
                }
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
