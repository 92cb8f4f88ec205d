//! What a graph costs: parameters stored and multiply-accumulate operations done.

use crate::analysis::sizes::InputSizes;
use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::op::{Op, Sizes};
use crate::ir::patch::Applied;
use crate::ir::shape::Dim;
use crate::ir::tensor::Tensor;
use crate::ir::value::Source;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Cost of a model for one sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Elements of all constants, as they are stored and whatever they are for but the limits of Clip, which are attributes
    /// before opset 11. What the network computes with is counted by [`crate::analysis::weights`].
    pub parameters: u64,
    /// Multiply-accumulates of convolutions and matrix products, at batch 1. `None` if they depend on dims that are
    /// known only at run time.
    pub macs: Option<u64>,
    /// Bytes of all constants.
    #[serde(skip)]
    pub stored: u64,
}

/// Cost of a graph and the bodies in it. Of the branches of an `If` the dearest counts; other bodies count once.
pub fn cost(graph: &Graph) -> Cost {
    let batch = batch_symbol(graph);
    total(graph, batch.as_ref())
}

fn total(graph: &Graph, batch: Option<&Dim>) -> Cost {
    let mut sum = CostSum::default();
    graph.values().for_each(|v| sum.add(constant(graph, v)));
    graph.nodes().for_each(|n| sum.add(whole(graph, n, batch)));
    sum.cost()
}

/// Costs that can be taken away again.
#[derive(Debug, Default)]
struct CostSum {
    parameters: u64,
    macs: u128,
    /// Of so many nodes the MACs are known only at run time.
    open: usize,
    stored: u64,
}

impl CostSum {
    fn add(&mut self, cost: Cost) {
        self.parameters += cost.parameters;
        self.stored += cost.stored;
        self.macs += u128::from(cost.macs.unwrap_or(0));
        self.open += usize::from(cost.macs.is_none());
    }

    fn take(&mut self, cost: Cost) {
        self.parameters -= cost.parameters;
        self.stored -= cost.stored;
        self.macs -= u128::from(cost.macs.unwrap_or(0));
        self.open -= usize::from(cost.macs.is_none());
    }

    fn cost(&self) -> Cost {
        let macs = u64::try_from(self.macs).ok().filter(|_| self.open == 0);
        Cost { parameters: self.parameters, macs, stored: self.stored }
    }
}

/// What a value stores: nothing, if it is no constant.
pub fn constant(graph: &Graph, v: ValueId) -> Cost {
    let (parameters, stored) = match &graph.value(v).source {
        Source::Constant(t, _) | Source::Input { default: Some((t, _)) } => {
            let stored = graph.value(v).packed.unwrap_or(t.byte_len());
            (if is_limit(graph, v, t) { 0 } else { t.len() as u64 }, stored as u64)
        }
        _ => (0, 0),
    };
    Cost { parameters, macs: Some(0), stored }
}

fn is_limit(graph: &Graph, v: ValueId, t: &Tensor) -> bool {
    let limits = |u: &Use| matches!(*u, Use::Input(n, 1 | 2) if matches!(graph.node(n).op, Op::Clip(_)));
    t.len() == 1 && !graph.is_unused(v) && !graph.is_held(v) && graph.places(v).iter().all(limits)
}

/// A node with its bodies: what those store, and its multiply-accumulates or the dearest body's.
fn whole(graph: &Graph, id: NodeId, batch: Option<&Dim>) -> Cost {
    let mut cost = Cost { parameters: 0, macs: node_macs(graph, id, batch), stored: 0 };
    for body in graph.node(id).bodies() {
        let inner = total(body, batch);
        cost.parameters += inner.parameters;
        cost.stored += inner.stored;
        cost.macs = cost.macs.zip(inner.macs).map(|(a, b)| a.max(b));
    }
    cost
}

/// The cost of a graph that is edited bit by bit: what did not change is not looked at again.
#[derive(Debug)]
pub struct Costs<'a> {
    sizes: &'a InputSizes,
    nodes: HashMap<NodeId, Cost>,
    values: HashMap<ValueId, Cost>,
    sum: CostSum,
    /// Which edit of the graph this is the cost after.
    edit: Option<u64>,
}

impl<'a> Costs<'a> {
    /// Costs on inputs of these sizes.
    pub fn at(sizes: &'a InputSizes) -> Costs<'a> {
        Costs { sizes, nodes: HashMap::new(), values: HashMap::new(), sum: CostSum::default(), edit: None }
    }

    /// The cost by now; `last` is what the last edit did, if that is all since the last call.
    pub fn now(&mut self, graph: &Graph, last: Option<&Applied>) -> Cost {
        if self.edit == Some(graph.edits()) {
            return self.sum.cost();
        }
        let sized = self.sizes.at(graph);
        let batch = batch_symbol(&sized);
        let next = self.edit.map(|edit| edit + 1) == Some(graph.edits());
        match last.filter(|_| next) {
            Some(applied) => {
                applied.touched.iter().chain(&applied.gone).for_each(|&n| self.node(&sized, n, batch.as_ref()));
                applied.values.iter().for_each(|&v| self.value(graph, v));
            }
            None => {
                *self = Costs::at(self.sizes);
                graph.nodes().for_each(|n| self.node(&sized, n, batch.as_ref()));
                graph.values().for_each(|v| self.value(graph, v));
            }
        }
        self.edit = Some(graph.edits());
        self.sum.cost()
    }

    fn node(&mut self, graph: &Graph, n: NodeId, batch: Option<&Dim>) {
        let cost = graph.has_node(n).then(|| whole(graph, n, batch));
        let was = match cost {
            Some(cost) => self.nodes.insert(n, cost),
            None => self.nodes.remove(&n),
        };
        was.into_iter().for_each(|was| self.sum.take(was));
        cost.into_iter().for_each(|cost| self.sum.add(cost));
    }

    fn value(&mut self, graph: &Graph, v: ValueId) {
        let cost = graph.has_value(v).then(|| constant(graph, v));
        let was = match cost {
            Some(cost) => self.values.insert(v, cost),
            None => self.values.remove(&v),
        };
        was.into_iter().for_each(|was| self.sum.take(was));
        cost.into_iter().for_each(|cost| self.sum.add(cost));
    }
}

/// The dim that stands for the number of samples: the first of the first input, if it is not a number.
pub fn batch_symbol(graph: &Graph) -> Option<Dim> {
    let first = graph.runtime_inputs().next()?;
    let dim = graph.value(first).ty.as_ref()?.shape()?.0.first()?;
    dim.known().is_none().then(|| dim.clone())
}

/// Multiply-accumulates of one node, for one sample. An operator we do not reason about counts nothing.
pub fn node_macs(graph: &Graph, id: NodeId, batch: Option<&Dim>) -> Option<u64> {
    let Some(op) = graph.node(id).op.operator() else { return Some(0) };
    let dims = |v: Option<ValueId>| {
        let shape = graph.value(v?).ty.as_ref()?.shape()?;
        shape.0.iter().map(|d| d.of_one(batch)).collect()
    };
    op.macs(&Sizes {
        inputs: graph.node_inputs(id).into_iter().map(dims).collect(),
        outputs: graph.node_outputs(id).into_iter().map(dims).collect(),
    })
}
