//! What a graph costs: parameters stored and multiply-accumulate operations done.

use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::op::{Op, Sizes};
use crate::ir::shape::Dim;
use crate::ir::tensor::Tensor;
use crate::ir::value::Source;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Cost of a model for one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Elements of all constants, whatever they are for but the limits of Clip, which are attributes before opset 11.
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
    sum(graph, |id| whole(graph, id, batch))
}

/// What a graph stores itself, and what `node` says of each of its nodes.
fn sum(graph: &Graph, mut node: impl FnMut(NodeId) -> Cost) -> Cost {
    let mut cost = Cost { parameters: 0, macs: Some(0), stored: 0 };
    for v in graph.values() {
        if let Source::Constant(t, _) | Source::Input { default: Some((t, _)) } = &graph.value(v).source {
            cost.parameters += if is_limit(graph, v, t) { 0 } else { t.len() as u64 };
            cost.stored += t.byte_len() as u64;
        }
    }
    for id in graph.nodes() {
        let here = node(id);
        cost.parameters += here.parameters;
        cost.stored += here.stored;
        cost.macs = cost.macs.zip(here.macs).and_then(|(a, b)| a.checked_add(b));
    }
    cost
}

fn is_limit(graph: &Graph, v: ValueId, t: &Tensor) -> bool {
    let limits = |u: Use| matches!(u, Use::Input(n, 1 | 2) if matches!(graph.node(n).op, Op::Clip(_)));
    t.len() == 1 && !graph.is_unused(v) && !graph.is_held(v) && graph.uses(v).into_iter().all(limits)
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

/// The cost of a graph that is edited bit by bit: nodes that did not change are not looked at again.
#[derive(Debug, Default)]
pub struct Costs {
    nodes: HashMap<NodeId, Cost>,
}

impl Costs {
    /// The cost by now; `touched` are the nodes that changed since the last call.
    pub fn now(&mut self, graph: &Graph, touched: &[NodeId]) -> Cost {
        let batch = batch_symbol(graph);
        for n in touched {
            self.nodes.remove(n);
        }
        sum(graph, |id| *self.nodes.entry(id).or_insert_with(|| whole(graph, id, batch.as_ref())))
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
        shape.0.iter().map(|d| if Some(d) == batch { Some(1) } else { d.known() }).collect()
    };
    op.macs(&Sizes {
        inputs: graph.node_inputs(id).into_iter().map(dims).collect(),
        outputs: graph.node_outputs(id).into_iter().map(dims).collect(),
    })
}
