//! What is left of a graph when units of channels go.

use crate::analysis::channels::Channels;
use crate::analysis::cost::{Cost, batch_symbol};
use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::infer::Infer;
use crate::ir::op::Sizes;
use crate::ir::ties::{Axis, Change, Kept};
use crate::ir::{Patch, Ref, Shape, Tensor, op::pick};
use std::collections::{HashMap, HashSet};

/// The axes that lose positions, each with those that stay, ascending.
pub struct Removal<'a> {
    graph: &'a Graph,
    kept: HashMap<(ValueId, usize), Vec<usize>>,
}

impl<'a> Removal<'a> {
    /// Removes the positions of `units` wherever they are.
    pub fn of(graph: &'a Graph, channels: &Channels, units: &HashSet<u32>) -> Removal<'a> {
        let mut kept = HashMap::new();
        for v in graph.values() {
            for (axis, at) in channels.axes(v, graph.value(v).rank().unwrap_or(0)) {
                let stay: Vec<usize> = (0..at.len()).filter(|&i| !units.contains(&at[i])).collect();
                if stay.len() < at.len() {
                    kept.insert((v, axis), stay);
                }
            }
        }
        Removal { graph, kept }
    }

    /// Cost of the graph after the removal.
    pub fn cost(&self) -> Cost {
        let batch = batch_symbol(self.graph);
        let dims = |v: Option<ValueId>| -> Option<Vec<u64>> {
            let v = v?;
            let shape = self.graph.value(v).ty.as_ref()?.shape()?;
            let dim = |(axis, d): (usize, &crate::ir::Dim)| match self.kept.get(&(v, axis)) {
                Some(stay) => Some(stay.len() as u64),
                None if Some(d) == batch.as_ref() => Some(1),
                None => d.known(),
            };
            shape.0.iter().enumerate().map(dim).collect()
        };
        let constants = self.graph.values().filter(|&v| self.graph.value(v).constant().is_some());
        let parameters = constants.filter_map(|v| Some(dims(Some(v))?.iter().product::<u64>())).sum();
        let macs = |n: NodeId| match self.graph.node(n).op.operator() {
            Some(op) => op.macs(&Sizes {
                inputs: self.graph.node_inputs(n).into_iter().map(dims).collect(),
                outputs: self.graph.node_outputs(n).into_iter().map(dims).collect(),
            }),
            None => Some(0),
        };
        Cost { parameters, macs: self.graph.nodes().try_fold(0u64, |sum, n| sum.checked_add(macs(n)?)) }
    }

    /// Writes the removal into a patch: constants shrink, and attributes and shape constants follow.
    ///
    /// # Errors
    /// If a node cannot follow: says which.
    pub fn write(&self, patch: &mut Patch) -> Result<(), String> {
        let empty = self.kept.iter().filter(|(_, stay)| stay.is_empty()).map(|((v, _), _)| *v).min();
        if let Some(v) = empty {
            return Err(format!("nothing would be left of \"{}\"", self.graph.value(v).name));
        }
        for v in self.graph.values() {
            let Some(tensor) = self.graph.value(v).constant() else { continue };
            let stay: Vec<_> = (0..tensor.rank()).map(|axis| self.kept.get(&(v, axis)).map(Vec::as_slice)).collect();
            if stay.iter().any(Option::is_some) {
                let cut =
                    take(tensor, &stay).ok_or_else(|| format!("\"{}\" cannot be cut", self.graph.value(v).name))?;
                patch.set_constant(v, cut);
            }
        }
        for n in self.graph.nodes() {
            self.write_node(n, patch)?;
        }
        Ok(())
    }

    fn write_node(&self, n: NodeId, patch: &mut Patch) -> Result<(), String> {
        let (inputs, outputs) = (self.graph.node_inputs(n), self.graph.node_outputs(n));
        let touched = |v: &ValueId| {
            let rank = self.graph.value(*v).rank().unwrap_or(0);
            (0..rank).any(|axis| self.kept.contains_key(&(*v, axis)))
        };
        if !inputs.iter().chain(&outputs).flatten().any(touched) {
            return Ok(());
        }
        let Some(op) = self.graph.node(n).op.operator() else { return Ok(()) };
        let node = KeptAround { removal: self, cx: Infer::new(self.graph, n), inputs: &inputs, outputs: &outputs };
        let label = self.graph.label(n);
        let changes = op.shrink(&node).ok_or_else(|| format!("{} \"{label}\" cannot follow", op.op_type()))?;
        let mut slots: Vec<Option<Ref>> = inputs.iter().map(|v| v.map(Ref::Old)).collect();
        for change in changes {
            match change {
                Change::Op(op) => patch.set_op(n, op),
                Change::Constant(slot, tensor) => {
                    let name = match inputs.get(slot).copied().flatten() {
                        Some(v) => self.graph.value(v).name.clone(),
                        None => format!("{label}.sizes"),
                    };
                    let new = patch.constant_named(name, tensor);
                    slots.resize(slots.len().max(slot + 1), None);
                    slots[slot] = Some(new);
                }
            }
        }
        if slots.iter().any(|s| matches!(s, Some(Ref::New(_)))) {
            patch.set_inputs(n, &slots);
        }
        Ok(())
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
        self.removal.kept.get(&(v, axis)).map(Vec::as_slice)
    }

    fn output(&self, (slot, axis): Axis) -> Option<&[usize]> {
        let v = self.outputs.get(slot).copied().flatten()?;
        self.removal.kept.get(&(v, axis)).map(Vec::as_slice)
    }

    fn cx(&self) -> &Infer<'_> {
        &self.cx
    }

    fn out_shape(&self, slot: usize) -> Option<&Shape> {
        self.removal.graph.value(self.outputs.get(slot).copied()??).ty.as_ref()?.shape()
    }
}
