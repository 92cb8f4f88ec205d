//! Which constants of a graph training changes.

use crate::analysis::readers::{moved, roles};
use crate::ir::op::Role;
use crate::ir::op::binary::BinaryKind;
use crate::ir::{DType, Graph, NodeId, Op, ValueId};
use std::collections::BTreeSet;

/// The constants that training usually changes: weights and biases of convolutions and matrix products, scales and
/// biases of normalization, slopes of `PRelu`; where they are computed from constants by moving elements or casting them
/// (codebooks, transposes, weights in half precision), those.
pub fn weights(graph: &Graph) -> BTreeSet<ValueId> {
    sources(graph).0
}

/// The [`weights`] of a graph, and the nodes that make others of constants in another way: those do not train.
pub fn sources(graph: &Graph) -> (BTreeSet<ValueId>, BTreeSet<NodeId>) {
    let (mut found, mut makers) = (BTreeSet::new(), BTreeSet::new());
    let order = graph.topological().unwrap_or_default();
    let fixed = graph.constant_nodes(&order, |_| false);
    for n in order {
        let slots: Vec<usize> = match &graph.node(n).op {
            Op::BatchNorm(_) | Op::LayerNorm(_) => vec![1, 2],
            Op::Binary(op) if op.0 == BinaryKind::PRelu => vec![1],
            Op::Binary(op) if op.0 == BinaryKind::Add => {
                let product = |v| graph.producer(v).is_some_and(|(n, _)| matches!(graph.node(n).op, Op::MatMul(_)));
                let inputs = graph.node_inputs(n);
                match inputs.iter().flatten().position(|&v| product(v)) {
                    Some(0) => vec![1],
                    Some(_) => vec![0],
                    None => Vec::new(),
                }
            }
            _ => {
                let layers = roles(graph, n).into_iter().filter(|w| w.role == Role::Layer);
                layers.flat_map(|w| std::iter::once(w.slot).chain(w.bias)).collect()
            }
        };
        let mut open: Vec<ValueId> = slots.iter().filter_map(|&slot| graph.input(n, slot)).collect();
        while let Some(v) = open.pop() {
            match graph.value(v).constant() {
                Some(t) if t.dtype().is_float() => drop(found.insert(v)),
                Some(_) => {}
                None => {
                    let made = graph.producer(v).map(|p| p.0).filter(|n| fixed.contains(n));
                    match made {
                        Some(n) if moves(graph, n) => open.extend(graph.node_inputs(n).into_iter().flatten()),
                        Some(n) if is_float(graph, Some(v)) => drop(makers.insert(n)),
                        _ => {}
                    }
                }
            }
        }
    }
    (found, makers)
}

pub(super) fn is_float(graph: &Graph, v: Option<ValueId>) -> bool {
    let dtype = v.and_then(|v| graph.value(v).ty.as_ref()?.dtype());
    dtype.is_some_and(DType::is_float)
}

/// Whether a node moves elements and changes none, or casts floats to floats.
fn moves(graph: &Graph, n: NodeId) -> bool {
    matches!(graph.node(n).op, Op::Gather(_)) || moved(graph, n) > 0
}
