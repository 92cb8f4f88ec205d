//! What is left of a graph when units of channels go.

use crate::analysis::channels::{Channels, UnitPlaces};
use crate::analysis::cost::{Cost, batch_symbol, cost};
use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::infer::Infer;
use crate::ir::names::derived;
use crate::ir::op::Sizes;
use crate::ir::ties::{Axis, Change, Kept};
use crate::ir::{Dim, Patch, Ref, Shape, Tensor, op::pick};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// The axes that lose positions, each with those that stay, ascending.
pub struct Removal<'a> {
    graph: &'a Graph,
    kept: HashMap<(ValueId, usize), Arc<[usize]>>,
    /// Nodes that have sizes overwritten which they read at run time.
    overwritten: BTreeSet<NodeId>,
}

/// Why a removal cannot be written.
#[derive(Debug, Clone)]
pub struct Stuck {
    /// A value that would lose positions there.
    pub value: ValueId,
    pub why: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// New contents for an integer constant that some nodes read, by node and slot.
type Rewrites = BTreeMap<ValueId, Vec<(NodeId, usize, Tensor)>>;

impl<'a> Removal<'a> {
    /// Removes the positions of `units` wherever they are.
    pub fn of(graph: &'a Graph, channels: &Channels, units: &HashSet<u32>) -> Removal<'a> {
        let kept = channels.without(graph, units);
        let overwritten = channels.overwritten(|v, axis| kept.contains_key(&(v, axis)));
        Removal { graph, kept, overwritten }
    }

    /// Writes the removal into a patch: constants shrink, and attributes and shape constants follow.
    ///
    /// # Errors
    /// If a node or constant cannot follow.
    pub fn write(&self, patch: &mut Patch) -> Result<(), Stuck> {
        if let Some(value) = self.kept.iter().filter(|(_, stay)| stay.is_empty()).map(|((v, _), _)| *v).min() {
            return Err(Stuck { value, why: format!("nothing would be left of \"{}\"", self.graph.value(value).name) });
        }
        for value in self.graph.values() {
            let Some(tensor) = self.graph.value(value).constant() else { continue };
            let stay: Vec<_> = (0..tensor.rank()).map(|axis| self.kept.get(&(value, axis)).map(|k| &**k)).collect();
            if stay.iter().any(Option::is_some) {
                let why = || format!("\"{}\" cannot be cut", self.graph.value(value).name);
                patch.set_constant(value, take(tensor, &stay).ok_or_else(|| Stuck { value, why: why() })?);
            }
        }
        let mut rewrites = Rewrites::new();
        let mut inputs = BTreeMap::new();
        for n in self.graph.nodes() {
            self.write_node(n, patch, &mut rewrites, &mut inputs)?;
        }
        for (value, nodes) in rewrites {
            self.rewrite_constant(value, nodes, patch, &mut inputs);
        }
        inputs.into_iter().for_each(|(n, slots)| patch.set_inputs(n, &slots));
        patch.cuts.extend(self.kept.iter().map(|(&(v, axis), stay)| (v, axis, stay.to_vec())));
        patch.cuts.sort();
        Ok(())
    }

    /// What changes in one node; constants that it reads are collected, because others may read them too.
    fn write_node(
        &self,
        n: NodeId,
        patch: &mut Patch,
        rewrites: &mut Rewrites,
        new_inputs: &mut BTreeMap<NodeId, Vec<Option<Ref>>>,
    ) -> Result<(), Stuck> {
        let (inputs, outputs) = (self.graph.node_inputs(n), self.graph.node_outputs(n));
        let touched = |v: &ValueId| {
            let rank = self.graph.value(*v).rank().unwrap_or(0);
            (0..rank).any(|axis| self.kept.contains_key(&(*v, axis)))
        };
        let mut around = inputs.iter().chain(&outputs).flatten().copied();
        let all = self.overwritten.contains(&n);
        let Some(value) = around.find(|v| all || touched(v)) else { return Ok(()) };
        let Some(op) = self.graph.node(n).op.operator() else { return Ok(()) };
        let node = KeptAround { removal: self, cx: Infer::new(self.graph, n), inputs: &inputs, outputs: &outputs };
        let label = self.graph.label(n);
        let why = || format!("{} \"{label}\" cannot follow", op.op_type());
        for change in op.shrink(&node).ok_or_else(|| Stuck { value, why: why() })? {
            match change {
                Change::Op(op) => patch.set_op(n, op),
                Change::Constant(slot, tensor) => match inputs.get(slot).copied().flatten() {
                    Some(old) => rewrites.entry(old).or_default().push((n, slot, tensor)),
                    None => {
                        let new = patch.constant_named(derived(label, "sizes"), tensor);
                        self.set_input(n, slot, new, new_inputs);
                    }
                },
                Change::Inputs(count) => self.inputs(n, new_inputs).truncate(count),
                Change::Through(slot, op, tensors) => {
                    let made = tensors.into_iter().map(|t| Some(patch.constant_named(derived(label, "kept"), t)));
                    let mut through: Vec<Option<Ref>> = made.collect();
                    through.push(self.inputs(n, new_inputs).get(slot).copied().flatten());
                    let new = patch.node_named(&derived(label, "sizes"), op, &through);
                    self.set_input(n, slot, new, new_inputs);
                }
            }
        }
        Ok(())
    }

    /// A constant that everybody wants changed alike changes; else each new content gets one new constant.
    fn rewrite_constant(
        &self,
        value: ValueId,
        nodes: Vec<(NodeId, usize, Tensor)>,
        patch: &mut Patch,
        inputs: &mut BTreeMap<NodeId, Vec<Option<Ref>>>,
    ) {
        let old = self.graph.value(value);
        let alike = nodes.windows(2).all(|w| w[0].2 == w[1].2) && self.graph.uses(value).len() == nodes.len();
        let fits = |t: &Tensor| old.constant().is_some_and(|o| o.dtype() == t.dtype() && o.rank() == t.rank());
        if let Some((_, _, tensor)) = nodes.first().filter(|n| alike && !self.graph.is_held(value) && fits(&n.2)) {
            return patch.set_constant(value, tensor.clone());
        }
        let mut made: Vec<(Tensor, Ref)> = Vec::new();
        for (n, slot, tensor) in nodes {
            let known = made.iter().find(|m| m.0 == tensor).map(|m| m.1);
            let new = known.unwrap_or_else(|| {
                let new = patch.constant_named(old.name.clone(), tensor.clone());
                made.push((tensor, new));
                new
            });
            self.set_input(n, slot, new, inputs);
        }
    }

    /// The inputs that a node gets, to begin with those that it has.
    fn inputs<'m>(&self, n: NodeId, new: &'m mut BTreeMap<NodeId, Vec<Option<Ref>>>) -> &'m mut Vec<Option<Ref>> {
        new.entry(n).or_insert_with(|| self.graph.node_inputs(n).into_iter().map(|v| v.map(Ref::Old)).collect())
    }

    fn set_input(&self, n: NodeId, slot: usize, new: Ref, inputs: &mut BTreeMap<NodeId, Vec<Option<Ref>>>) {
        let slots = self.inputs(n, inputs);
        slots.resize(slots.len().max(slot + 1), None);
        slots[slot] = Some(new);
    }
}

/// The elements of a tensor at the positions that stay along every axis.
fn take(tensor: &Tensor, stay: &[Option<&[usize]>]) -> Option<Tensor> {
    let mut axes = pick::axes(tensor)?;
    for (axis, positions) in axes.iter_mut().zip(stay) {
        if let Some(positions) = positions {
            *axis = positions.iter().map(|&p| axis.get(p).copied()).collect::<Option<_>>()?;
        }
    }
    pick::pick(tensor, &axes, &[])
}

/// A removal as one node sees it.
struct KeptAround<'a> {
    removal: &'a Removal<'a>,
    cx: Infer<'a>,
    inputs: &'a [Option<ValueId>],
    outputs: &'a [Option<ValueId>],
}

impl Kept for KeptAround<'_> {
    fn input(&self, (slot, axis): Axis) -> Option<&[usize]> {
        let v = self.inputs.get(slot).copied().flatten()?;
        self.removal.kept.get(&(v, axis)).map(|k| &**k)
    }

    fn output(&self, (slot, axis): Axis) -> Option<&[usize]> {
        let v = self.outputs.get(slot).copied().flatten()?;
        self.removal.kept.get(&(v, axis)).map(|k| &**k)
    }

    fn cx(&self) -> &Infer<'_> {
        &self.cx
    }

    fn out_shape(&self, slot: usize) -> Option<&Shape> {
        self.removal.graph.value(self.outputs.get(slot).copied()??).ty.as_ref()?.shape()
    }
}

/// The parameters and MACs of a graph while positions of its axes go, kept up to date where they go.
pub struct RemovalTally<'a> {
    graph: &'a Graph,
    batch: Option<Dim>,
    cost: Cost,
    /// Positions that an axis has lost.
    lost: HashMap<(ValueId, usize), u64>,
}

impl<'a> RemovalTally<'a> {
    pub fn of(graph: &'a Graph) -> RemovalTally<'a> {
        RemovalTally { graph, batch: batch_symbol(graph), cost: cost(graph), lost: HashMap::new() }
    }

    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// The elements that are left of a constant.
    pub fn elements(&self, constant: ValueId) -> Option<u64> {
        self.dims(Some(constant))?.into_iter().try_fold(1u64, u64::checked_mul)
    }

    /// The multiply-accumulates that are left of a node.
    pub fn macs(&self, node: NodeId) -> Option<u64> {
        let Some(op) = self.graph.node(node).op.operator() else { return Some(0) };
        op.macs(&Sizes {
            inputs: self.graph.node_inputs(node).into_iter().map(|v| self.dims(v)).collect(),
            outputs: self.graph.node_outputs(node).into_iter().map(|v| self.dims(v)).collect(),
        })
    }

    /// Takes positions away, which must be there.
    pub fn remove(&mut self, places: &[UnitPlaces]) {
        let values: BTreeSet<ValueId> = places.iter().map(|p| p.value).collect();
        let around = |&v: &ValueId| {
            let readers = self.graph.uses(v).into_iter().map(Use::node);
            readers.chain(self.graph.producer(v).map(|p| p.0)).collect::<Vec<_>>()
        };
        let nodes: BTreeSet<NodeId> = values.iter().flat_map(around).collect();
        let before = self.local(&values, &nodes);
        for p in places {
            *self.lost.entry((p.value, p.axis)).or_insert(0) += p.positions as u64;
        }
        let after = self.local(&values, &nodes);
        let change = |total: u64, before: u64, after: u64| total.saturating_sub(before).saturating_add(after);
        self.cost.parameters = change(self.cost.parameters, before.parameters, after.parameters);
        let macs = self.cost.macs.zip(before.macs).zip(after.macs);
        self.cost.macs = macs.map(|((total, before), after)| change(total, before, after));
    }

    /// What these constants and nodes cost.
    fn local(&self, values: &BTreeSet<ValueId>, nodes: &BTreeSet<NodeId>) -> Cost {
        let constants = values.iter().filter(|&&v| self.graph.value(v).constant().is_some());
        let parameters = constants.filter_map(|&v| self.elements(v)).sum();
        let macs = nodes.iter().map(|&n| self.macs(n));
        Cost { parameters, macs: macs.into_iter().try_fold(0u64, |sum, m| sum.checked_add(m?)), stored: 0 }
    }

    fn dims(&self, value: Option<ValueId>) -> Option<Vec<u64>> {
        let v = value?;
        let dim = |(axis, d): (usize, &Dim)| {
            let size = d.of_one(self.batch.as_ref())?;
            Some(size.saturating_sub(self.lost.get(&(v, axis)).copied().unwrap_or(0)))
        };
        self.graph.value(v).ty.as_ref()?.shape()?.0.iter().enumerate().map(dim).collect()
    }
}
