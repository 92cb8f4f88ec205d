//! The numbers that a network computes with, in whatever form they are stored.
//!
//! A weight is a value that depends on constants alone and is read by a node that depends on the inputs. Codes with a
//! codebook so count as the weights that they decode to; a table that is decoded behind its lookup counts as what it stands
//! for. Integers that say shapes, axes and indices are no weights.

use crate::analysis::cost::{batch_symbol, node_macs};
use crate::analysis::evaluate::Evaluator;
use crate::ir::op::{Op, Operator};
use crate::ir::value::Source;
use crate::ir::{DType, Graph, NodeId, Tensor, ValueId};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Nodes between a lookup of codes and the numbers that they stand for, at most.
const DECODER: usize = 8;

/// A tensor of weights.
#[derive(Debug, Clone)]
pub struct Weight {
    /// `None` if it is in a body.
    pub value: Option<ValueId>,
    /// The first node in graph order that reads it, or has a body that does.
    pub reader: NodeId,
    pub shape: Vec<u64>,
    /// Numbers that the network computes with.
    pub count: u64,
    /// Elements and bytes of the constants that it is made of. What several weights are made of is counted at the first.
    pub elements: u64,
    pub stored: u64,
}

/// All weights, in the order of their first readers; one that several nodes share is there once.
pub fn weights(graph: &Graph) -> Vec<Weight> {
    of_graph(graph, &HashSet::new()).0
}

/// How many numbers the network computes with.
pub fn count(graph: &Graph) -> u64 {
    weights(graph).iter().map(|w| w.count).sum()
}

/// How many of the weights are not zero. Those of bodies count as if none were. `None` if one cannot be computed.
pub fn count_nonzero(graph: &Graph) -> Option<u64> {
    let mut evaluator = Evaluator::of(graph);
    let mut nonzero = |w: &Weight| {
        let Some(value) = w.value else { return Some(w.count) };
        let tensor = evaluator.tensor(value)?;
        let Some(floats) = tensor.iter_floats().filter(|_| tensor.len() as u64 == w.count) else {
            return Some(w.count);
        };
        Some(floats.filter(|&x| x != 0.0).count() as u64)
    };
    weights(graph).iter().map(&mut nonzero).sum()
}

/// A node with weights of its own, or that multiplies and accumulates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerCost {
    pub name: String,
    pub op: String,
    /// Of its largest weight.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub shape: Vec<u64>,
    /// Numbers; a weight that several layers share is counted at the first.
    pub weights: u64,
    /// Elements and bytes of the constants that they are made of.
    pub parameters: u64,
    pub bytes: u64,
    /// For one sample. `None` if they depend on dims that are known only at run time.
    pub macs: Option<u64>,
}

/// The layers of a graph, in its order; those of bodies are summed up at the node that has them.
pub fn layers(graph: &Graph) -> Vec<LayerCost> {
    let mut found = weights(graph).into_iter().peekable();
    let batch = batch_symbol(graph);
    let mut layers = Vec::new();
    for n in ordered(graph) {
        let mut layer = LayerCost {
            name: graph.label(n).into(),
            op: graph.node(n).kind(),
            shape: Vec::new(),
            weights: 0,
            parameters: 0,
            bytes: 0,
            macs: node_macs(graph, n, batch.as_ref()),
        };
        let mut largest = 0;
        while let Some(w) = found.next_if(|w| w.reader == n) {
            layer.weights += w.count;
            layer.parameters += w.elements;
            layer.bytes += w.stored;
            if w.count > largest {
                (largest, layer.shape) = (w.count, w.shape);
            }
        }
        if layer.weights > 0 || layer.macs != Some(0) {
            layers.push(layer);
        }
    }
    layers
}

fn ordered(graph: &Graph) -> Vec<NodeId> {
    graph.topological().unwrap_or_else(|_| graph.nodes().collect())
}

/// The weights of a graph in which the values `given` from outside are constant, and which of those are weights.
fn of_graph(graph: &Graph, given: &HashSet<ValueId>) -> (Vec<Weight>, Vec<ValueId>) {
    let mut constant: HashSet<ValueId> = graph.values().filter(|&v| content(graph, v).is_some()).collect();
    constant.extend(given);
    let order = ordered(graph);
    let mut running = Vec::new();
    for n in order {
        let node = graph.node(n);
        let computes = node.op.operator().is_some_and(|op| !op.is_random()) && !node.has_bodies();
        let inputs: Vec<ValueId> = graph.node_inputs(n).into_iter().flatten().collect();
        if computes && !inputs.is_empty() && inputs.iter().all(|v| constant.contains(v)) {
            constant.extend(graph.node_outputs(n).into_iter().flatten());
        } else {
            running.push(n);
        }
    }
    let mut cone = ValueCone { graph, seen: HashSet::new() };
    let (mut found, mut passed_on) = (Vec::new(), Vec::new());
    // Constants that are counted, and those that only decode others.
    let mut done: HashSet<ValueId> = HashSet::new();
    for n in running {
        let inputs = graph.node_inputs(n).into_iter().enumerate().filter_map(|(slot, v)| Some((slot, v?)));
        let mut read: Vec<ValueId> =
            inputs.filter(|&(slot, v)| constant.contains(&v) && !is_setting(graph, n, slot, v)).map(|i| i.1).collect();
        for (i, body) in graph.node(n).bodies().enumerate() {
            let captures = graph.node_captures(n).into_iter().filter(|c| c.0 == i && constant.contains(&c.2));
            let captures: Vec<(ValueId, ValueId)> =
                captures.filter_map(|c| Some((*body.captures().get(c.1)?, c.2))).collect();
            let (inner, outer) = of_graph(body, &captures.iter().map(|c| c.0).collect());
            found.extend(inner.into_iter().map(|w| Weight { value: None, reader: n, ..w }));
            read.extend(captures.iter().filter(|c| outer.contains(&c.0)).map(|c| c.1));
        }
        for v in read {
            if !done.insert(origin(graph, v)) {
                continue;
            }
            if given.contains(&v) {
                passed_on.push(v);
                continue;
            }
            let shape = graph.value(v).dims().unwrap_or_default();
            let decoded = decoded_behind(graph, n, v, &constant);
            let (times, tables) = decoded.unwrap_or((1, Vec::new()));
            done.extend(&tables);
            let count = shape.iter().product::<u64>() * times;
            let (elements, stored) = cone.stored(std::iter::once(v).chain(tables).collect());
            found.push(Weight { value: Some(v), reader: n, shape, count, elements, stored });
        }
    }
    (found, passed_on)
}

/// What a value is another form of: the same numbers, moved.
fn origin(graph: &Graph, mut v: ValueId) -> ValueId {
    let size = |v: ValueId| Some(graph.value(v).dims()?.iter().product::<u64>());
    while let Some((n, _)) = graph.producer(v) {
        let moves = match &graph.node(n).op {
            Op::Transpose(_) | Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::Flatten(_) | Op::Cast(_) => {
                true
            }
            Op::Unary(op) => op.op_type() == "Identity",
            _ => false,
        };
        match graph.input(n, 0).filter(|&from| moves && size(from).is_some() && size(from) == size(v)) {
            Some(from) => v = from,
            None => break,
        }
    }
    v
}

/// What a value holds unless a caller says otherwise.
fn content(graph: &Graph, v: ValueId) -> Option<&Tensor> {
    match &graph.value(v).source {
        Source::Constant(t, _) | Source::Input { default: Some((t, _)) } => Some(t),
        _ => None,
    }
}

/// Whether a constant says how a node works rather than being a number it works on: a bound of Clip, or whole numbers of
/// one axis that are no weights of integer arithmetic.
fn is_setting(graph: &Graph, n: NodeId, slot: usize, v: ValueId) -> bool {
    let ty = graph.value(v).ty.as_ref();
    let rank = ty.and_then(|t| t.shape()).map_or(0, |s| s.rank());
    let dtype = ty.and_then(|t| t.dtype());
    match (&graph.node(n).op, dtype) {
        (Op::Clip(_), _) => matches!(slot, 1 | 2),
        (Op::QConv(_) | Op::QMatMul(_), _) => false,
        (_, Some(DType::STRING)) => true,
        (_, Some(DType::BOOL | DType::I32 | DType::I64 | DType::U32 | DType::U64)) => rank <= 1,
        _ => false,
    }
}

/// Where a node looks up codes and others behind it decode what it found: how many numbers a code stands for, and the
/// tables that the others read.
fn decoded_behind(
    graph: &Graph,
    n: NodeId,
    codes: ValueId,
    constant: &HashSet<ValueId>,
) -> Option<(u64, Vec<ValueId>)> {
    let whole = |v: ValueId| graph.value(v).ty.as_ref().and_then(|t| t.dtype()).is_some_and(|d| d.is_int());
    if !matches!(graph.node(n).op, Op::Gather(_)) || graph.input(n, 0) != Some(codes) || !whole(codes) {
        return None;
    }
    // The product of the dims that are numbers, and how many others there are.
    let size = |v: ValueId| {
        let dims = &graph.value(v).ty.as_ref()?.shape()?.0;
        let known = dims.iter().filter_map(|d| d.known());
        Some((known.clone().product::<u64>(), dims.len() - known.count()))
    };
    let (found, mut at) = (graph.output(n)?, graph.output(n)?);
    let mut tables = Vec::new();
    for _ in 0..DECODER {
        let reader = graph.sole_use(at)?.node();
        let (others, computed): (Vec<_>, Vec<_>) =
            graph.node_inputs(reader).into_iter().flatten().filter(|&v| v != at).partition(|v| constant.contains(v));
        if !computed.is_empty() {
            return None;
        }
        tables.extend(others);
        at = graph.output(reader)?;
        if graph.value(at).ty.as_ref().and_then(|t| t.dtype()).is_some_and(DType::is_float) {
            let ((from, open), (to, still)) = (size(found)?, size(at)?);
            let times = (open == still && from > 0 && to % from == 0).then_some(to / from)?;
            return Some((times, tables));
        }
    }
    None
}

/// What values are made of.
struct ValueCone<'a> {
    graph: &'a Graph,
    seen: HashSet<ValueId>,
}

impl ValueCone<'_> {
    /// Elements and bytes of the constants that values are made of and that were not counted before.
    fn stored(&mut self, values: Vec<ValueId>) -> (u64, u64) {
        let (mut open, mut elements, mut bytes) = (values, 0, 0);
        while let Some(v) = open.pop() {
            if !self.seen.insert(v) {
                continue;
            }
            match (content(self.graph, v), self.graph.producer(v)) {
                (Some(t), _) => {
                    elements += t.len() as u64;
                    bytes += t.byte_len() as u64;
                }
                (None, Some((n, _))) => open.extend(self.graph.node_inputs(n).into_iter().flatten()),
                (None, None) => {}
            }
        }
        (elements, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn graph(body: &str) -> Graph {
        text::parse::model(&format!("model \"m\" opset 17 {{\n{body}\n}}\n")).unwrap().graph
    }

    #[test]
    fn floats_count_and_shapes_do_not() {
        let g = graph(
            "  input %x : f32[N,8]\n  const %w : f32[8,4] = seed(1)\n  const %b : f32[4] = seed(2)\n  const %shape : i64[2] = {-1,4}\n
  %y : f32[N,4] = Gemm(%x, %w, %b) @fc\n  %z : f32[N,4] = Reshape(%y, %shape)\n  %s : f32[N,8] = Add(%x, %x)\n
  output %z",
        );
        assert_eq!(count(&g), 36);
        let layers = layers(&g);
        assert_eq!((layers.len(), layers[0].name.as_str(), layers[0].bytes), (1, "fc", 144));
        assert_eq!((layers[0].shape.as_slice(), layers[0].macs), ([8, 4].as_slice(), Some(32)));
    }

    #[test]
    fn codes_count_as_what_they_decode_to() {
        let g = graph(
            "  input %x : f32[N,8]\n  const %codes : u8[8,4]\n  const %books : f32[16] = seed(1)\n
  %i : i32[8,4] = Cast<to=6>(%codes)\n  %w : f32[8,4] = Gather<axis=0>(%books, %i)\n
  %y : f32[N,4] = MatMul(%x, %w) @a\n  %t : f32[4,8] = Transpose<perm=[1,0]>(%w)\n
  %z : f32[N,8] = MatMul(%y, %t) @b\n  output %z",
        );
        // Two uses of one table, of which one is moved: the weights are there once.
        let found = weights(&g);
        assert_eq!(found.iter().map(|w| (w.count, w.stored)).collect::<Vec<_>>(), [(32, 96)]);
    }

    #[test]
    fn a_table_decoded_behind_its_lookup_is_the_table_it_stands_for() {
        let g = graph(
            "  input %ids : i64[N]\n  const %codes : u8[100,8]\n  const %books : f32[256,2] = seed(1)\n
  %c : u8[N,8] = Gather<axis=0>(%codes, %ids) @lookup\n  %i : i32[N,8] = Cast<to=6>(%c)\n
  %y : f32[N,8,2] = Gather<axis=0>(%books, %i)\n  output %y",
        );
        let found = weights(&g);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].count, found[0].stored), (1600, 800 + 2048));
    }
}
