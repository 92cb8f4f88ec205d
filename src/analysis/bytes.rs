//! What the parts of a graph take in its file: how a rewrite knows that it does not make the file grow.

use crate::ir::attr::AttrValue;
use crate::ir::{Attr, Graph, Node, NodeId, Patch, Tensor, ValueId};
use std::collections::BTreeSet;

/// Bytes of an initializer: name, type, dims and data.
pub fn initializer(name: &str, tensor: &Tensor) -> usize {
    initializer_of(name, tensor.rank(), tensor.stored_len())
}

/// Bytes of the initializer that a constant is, or of what the file has in its place.
pub fn stored(graph: &Graph, value: ValueId) -> usize {
    let Some(tensor) = graph.value(value).constant() else { return 0 };
    let data = graph.value(value).packed.unwrap_or(tensor.stored_len());
    initializer_of(&graph.value(value).name, tensor.rank(), data)
}

/// What a constant takes more where it has to be a node: as an output of its graph.
pub const CONSTANT_NODE: usize = 32;

/// Bytes of an initializer with so much data.
pub fn initializer_of(name: &str, rank: usize, data: usize) -> usize {
    14 + name.len() + 2 * rank + data
}

/// Bytes that go when a node goes: its own, and those of the constants that it alone reads. Counted low.
pub fn freed(graph: &Graph, node: NodeId) -> usize {
    let constants: BTreeSet<ValueId> = graph.node_inputs(node).into_iter().flatten().collect();
    own(graph, node) + constants.into_iter().map(|v| freed_constant(graph, v, node)).sum::<usize>()
}

/// Bytes that go when a node goes, and with it the nodes and constants that work for it alone: up to `limit` nodes.
pub fn freed_with_source(graph: &Graph, root: NodeId, limit: usize) -> usize {
    let mut gone = BTreeSet::from([root]);
    let mut queue = vec![root];
    let mut constants = BTreeSet::new();
    let only_by = |v: ValueId, gone: &BTreeSet<NodeId>| graph.is_read_only_within(v, |reader| gone.contains(&reader));
    while let Some(n) = queue.pop() {
        for v in graph.node_inputs(n).into_iter().flatten() {
            let Some((p, _)) = graph.producer(v) else {
                constants.insert(v);
                continue;
            };
            let outputs = graph.node_outputs(p).into_iter().flatten();
            let goes = outputs.into_iter().all(|v| graph.is_unused(v) || only_by(v, &gone));
            if goes && gone.len() < limit && gone.insert(p) {
                queue.push(p);
            }
        }
    }
    let tensors = constants.into_iter().filter(|&v| only_by(v, &gone));
    let tensors = tensors.filter_map(|v| Some(initializer(&graph.value(v).name, graph.value(v).constant()?)));
    tensors.sum::<usize>() + gone.into_iter().map(|n| own(graph, n)).sum::<usize>()
}

/// Bytes of a node without its constants.
fn own(graph: &Graph, node: NodeId) -> usize {
    let n = graph.node(node);
    let values = graph.node_inputs(node).into_iter().chain(graph.node_outputs(node));
    of_node(n, values.map(|v| v.map_or(0, |v| graph.value(v).name.len())))
}

/// Bytes of the nodes and constants that a patch makes, names and all. Counted low where names are numbered.
pub fn added(graph: &Graph, patch: &Patch) -> usize {
    let nodes = patch.nodes(graph).into_iter().map(|(n, names)| of_node(n, names.into_iter().map(str::len)));
    nodes.sum::<usize>() + patch.constants().map(|(name, tensor)| initializer(name, tensor)).sum::<usize>()
}

/// As [`added`], of a patch whose float weights are stored afterwards as `weight` is: in half precision, as integers.
pub fn added_in_form_of(graph: &Graph, patch: &Patch, weight: ValueId) -> usize {
    let plain = graph.value(weight).constant().map_or(0, Tensor::byte_len).max(1);
    let stored = graph.value(weight).stored_len().min(plain);
    let weights = patch.constants().map(|(_, t)| t).filter(|t| t.rank() > 1 && t.dtype().is_float());
    let less: usize = weights.map(|t| t.byte_len() - t.byte_len() * stored / plain).sum();
    added(graph, patch).saturating_sub(less)
}

/// Bytes of a node that reads and gives values with names of these lengths.
fn of_node(n: &Node, names: impl Iterator<Item = usize>) -> usize {
    let names: usize = names.map(|len| 2 + len).sum();
    6 + n.name.len() + n.op_type.len() + names + n.attrs.iter().map(attribute).sum::<usize>()
}

/// Bytes of a constant that nothing but `reader` reads; 0 for any other value.
pub fn freed_constant(graph: &Graph, value: ValueId, reader: NodeId) -> usize {
    let Some(tensor) = graph.value(value).constant() else { return 0 };
    if graph.is_read_only_within(value, |n| n == reader) { initializer(&graph.value(value).name, tensor) } else { 0 }
}

fn attribute(a: &Attr) -> usize {
    let content = match &a.value {
        AttrValue::Int(_) => 2,
        AttrValue::Float(_) => 5,
        AttrValue::Str(s) => 2 + s.len(),
        AttrValue::Ints(v) => 2 * v.len(),
        AttrValue::Floats(v) => 5 * v.len(),
        AttrValue::Strs(v) => v.iter().map(|s| 2 + s.len()).sum(),
        AttrValue::Tensor(t, name) => initializer(name, t),
        AttrValue::Graph(_) | AttrValue::Graphs(_) => 0,
        AttrValue::Carried(b) => b.len(),
    };
    7 + a.name.len() + content
}
