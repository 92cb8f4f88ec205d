//! Which constants of a graph are weights, and what reads them: a node itself, one behind nodes that move elements and
//! change none, or a node of a body.

use crate::ir::infer::Infer;
use crate::ir::op::{Role, WeightInput};
use crate::ir::{DType, Graph, NodeId, Op, Source, Tensor, Use, ValueId};
use std::collections::HashSet;

/// Conv, ConvTranspose, Gemm and MatMul nodes with a constant weight, in graph order.
pub fn layers(graph: &Graph) -> Vec<NodeId> {
    let order = graph.topological().unwrap_or_default();
    order.into_iter().filter(|&n| weight(graph, n).is_some()).collect()
}

/// The constant weight of a Conv, ConvTranspose, Gemm or MatMul and its input slot.
pub fn weight(graph: &Graph, n: NodeId) -> Option<(usize, ValueId)> {
    let constant = |v: &ValueId| graph.value(*v).constant().is_some();
    let layers = roles(graph, n).into_iter().filter(|w| w.role == Role::Layer);
    layers.map(|w| w.slot).find_map(|slot| graph.input(n, slot).filter(constant).map(|v| (slot, v)))
}

/// The inputs of a node that are weights where they are constant.
pub fn roles(graph: &Graph, n: NodeId) -> Vec<WeightInput> {
    graph.node(n).op.operator().map_or(Vec::new(), |op| op.weights(&Infer::new(graph, n)))
}

/// Where a weight is read.
#[derive(Debug, Clone)]
pub struct Reader {
    pub role: Role,
    /// The axis of the constant that counts outputs, where the nodes between keep it.
    pub outputs: Option<usize>,
    /// Whether the node is one of the graph and reads the constant itself.
    pub direct: bool,
}

/// The constants that are weights, in the order in which nodes read them.
pub fn constants(graph: &Graph) -> Vec<ValueId> {
    let order = graph.topological().unwrap_or_default();
    let lookups = Lookups::of(graph, &order);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for n in order {
        let read = roles(graph, n).into_iter().filter(|w| w.role != Role::Table || lookups.is_one(n));
        let read = read.filter_map(|w| graph.input(n, w.slot)).flat_map(|v| sources(graph, v));
        let captured = graph.node_captures(n).into_iter().map(|c| c.2);
        let captured = captured.filter(|&v| readers(graph, v).is_ok_and(|r| !r.is_empty()));
        found.extend(read.chain(captured).filter(|&v| graph.value(v).constant().is_some() && seen.insert(v)));
    }
    found
}

/// The constants whose elements a value has.
fn sources(graph: &Graph, v: ValueId) -> Vec<ValueId> {
    let (mut found, mut open) = (Vec::new(), vec![v]);
    while let Some(v) = open.pop() {
        match graph.producer(v).map(|p| p.0) {
            None => found.push(v),
            Some(n) => open.extend((0..moved(graph, n)).rev().filter_map(|slot| graph.input(n, slot))),
        }
    }
    found
}

/// How many inputs of a node, from the first, its output has the elements of, each in another place or another float type at
/// most.
pub fn moved(graph: &Graph, n: NodeId) -> usize {
    let float = |v: Option<ValueId>| v.is_some_and(|v| is_float(graph, v));
    match &graph.node(n).op {
        Op::Unary(op) if op.0 == "Identity" => 1,
        Op::Cast(_) | Op::CastLike(_) if float(graph.input(n, 0)) && float(graph.output(n)) => 1,
        Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) => 1,
        Op::Transpose(_) | Op::Expand(_) | Op::Slice(_) => 1,
        Op::Concat(_) => graph.node_inputs(n).len(),
        _ => 0,
    }
}

fn is_float(graph: &Graph, v: ValueId) -> bool {
    graph.value(v).ty.as_ref().and_then(|ty| ty.dtype()).is_some_and(DType::is_float)
}

/// Whatever reads a constant, if it reads all of it as weights.
///
/// # Errors
/// What reads it otherwise.
pub fn readers(graph: &Graph, v: ValueId) -> Result<Vec<Reader>, String> {
    let axes = (0..graph.value(v).rank().unwrap_or(0)).map(Some).collect();
    let mut found = Vec::new();
    follow(graph, v, axes, true, &mut found)?;
    Ok(found)
}

/// `axes`: which axis of the constant each axis of `v` is.
fn follow(
    graph: &Graph,
    v: ValueId,
    axes: Vec<Option<usize>>,
    direct: bool,
    found: &mut Vec<Reader>,
) -> Result<(), String> {
    if graph.is_held(v) {
        return Err("it is an output of the model, or named outside the graph".into());
    }
    for u in graph.uses(v) {
        let n = u.node();
        match u {
            Use::Capture { body, index, .. } => {
                let body = graph.node(n).bodies().nth(body).ok_or("its body is missing")?;
                let inside = *body.captures().get(index).ok_or("its body is missing")?;
                follow(body, inside, axes.clone(), false, found)?;
            }
            Use::Input(_, slot) => {
                if let Some(w) = roles(graph, n).into_iter().find(|w| w.slot == slot) {
                    let outputs = axes.get(w.outputs).copied().flatten();
                    found.push(Reader { role: w.role, outputs, direct });
                } else if let Some(y) = graph.output(n).filter(|_| slot < moved(graph, n)) {
                    follow(graph, y, carried(graph, n, v, y, &axes), false, found)?;
                } else {
                    return Err(format!("{} \"{}\" reads it too", graph.node(n).kind(), graph.label(n)));
                }
            }
        }
    }
    Ok(())
}

/// Which axis of input 0 each axis of the output of a node is that moves its elements.
pub fn carried_axes(graph: &Graph, n: NodeId) -> Option<Vec<Option<usize>>> {
    let (x, y) = (graph.input(n, 0)?, graph.output(n)?);
    let axes: Vec<_> = (0..graph.value(x).rank()?).map(Some).collect();
    Some(carried(graph, n, x, y, &axes))
}

/// Which axis of the constant each axis of the output `y` of a node is, which moves elements of `x`.
fn carried(graph: &Graph, n: NodeId, x: ValueId, y: ValueId, axes: &[Option<usize>]) -> Vec<Option<usize>> {
    let rank = graph.value(y).rank().unwrap_or(0);
    if let Op::Transpose(t) = &graph.node(n).op {
        return t.order(axes.len()).map_or(vec![None; rank], |order| order.iter().map(|&a| axes[a]).collect());
    }
    let (Some(from), Some(to)) = (graph.value(x).dims(), graph.value(y).dims()) else { return vec![None; rank] };
    let before = |dims: &[u64], axis: usize| dims[..axis].iter().product::<u64>();
    let same = |at: usize| (0..from.len()).find(|&a| from[a] == to[at] && before(&from, a) == before(&to, at));
    (0..rank).map(|at| same(at).and_then(|a| axes[a])).collect()
}

/// Which Gathers of a graph look up entries by what is fed: codes of an encoded weight are constant.
struct Lookups<'a> {
    graph: &'a Graph,
    fixed: HashSet<NodeId>,
}

impl<'a> Lookups<'a> {
    fn of(graph: &'a Graph, order: &[NodeId]) -> Lookups<'a> {
        Lookups { graph, fixed: graph.constant_nodes(order, |_| false) }
    }

    fn is_one(&self, n: NodeId) -> bool {
        let g = self.graph;
        let Some(mut index) = g.input(n, 1) else { return false };
        let is_constant = |v: ValueId| g.value(v).constant().is_some();
        if is_constant(index) || g.producer(index).is_some_and(|p| self.fixed.contains(&p.0)) {
            return false;
        }
        // The codes of rows that were looked up.
        while let Some((p, _)) = g.producer(index) {
            let Some(next) = g.input(p, 0) else { break };
            index = next;
        }
        g.value(index).constant().is_none_or(|t| t.dtype() != DType::U8)
    }
}

/// A float tensor of the file that a pass says nothing about, and why.
#[derive(Debug, Clone)]
pub struct Unmentioned {
    /// `None` for a tensor of a body.
    pub value: Option<ValueId>,
    pub name: String,
    pub why: String,
}

/// All float tensors of the file of at least `least` elements that nodes of a graph and of the bodies in it read, and what
/// each is where it is no weight of a layer: why most passes pass it by.
pub fn tensors(graph: &Graph, least: usize) -> Vec<Unmentioned> {
    let large = |t: &Tensor| t.dtype().is_float() && t.len() >= least;
    let mut found = Vec::new();
    for v in graph.values().filter(|&v| graph.is_used(v)) {
        let value = graph.value(v);
        let why = match &value.source {
            Source::Constant(tensor, _) if large(tensor) => what_reads(graph, v),
            Source::Input { default: Some((tensor, _)) } if large(tensor) => {
                "callers may override it: the step `bind-defaults` makes it a constant".into()
            }
            _ => continue,
        };
        found.push(Unmentioned { value: Some(v), name: value.name.clone(), why });
    }
    for n in graph.nodes() {
        for body in graph.node(n).bodies() {
            let place = format!("it is inside the body of {} \"{}\"", graph.node(n).kind(), graph.label(n));
            let why = format!("{place}, which the pass does not enter");
            let inner = tensors(body, least).into_iter();
            found.extend(inner.map(|t| Unmentioned { value: None, why: why.clone(), ..t }));
        }
    }
    found
}

/// Whether constants alone say what a Gather takes.
fn is_fixed(graph: &Graph, n: NodeId) -> bool {
    let order = graph.topological().unwrap_or_default();
    !Lookups::of(graph, &order).is_one(n)
}

/// What reads a constant, in words that say why it is no weight of a layer that a pass changes.
fn what_reads(graph: &Graph, v: ValueId) -> String {
    let Some(u) = graph.first_use(v) else { return "nothing reads it".into() };
    let n = u.node();
    let (kind, label) = (graph.node(n).kind(), graph.label(n));
    let vector = graph.value(v).dims().is_some_and(|dims| dims.iter().filter(|&&d| d > 1).count() < 2);
    let role = match u {
        Use::Input(_, slot) => roles(graph, n).into_iter().find(|w| w.slot == slot).map(|w| w.role),
        Use::Capture { .. } => return format!("a body of {kind} \"{label}\" reads it: the pass changes layers alone"),
    };
    match role {
        _ if graph.node(n).op == Op::Opaque => format!("{kind} \"{label}\" reads it, an operator that is not known"),
        Some(Role::Table) if is_fixed(graph, n) => {
            format!("{kind} \"{label}\" reads it by constant indices, as a codebook")
        }
        Some(Role::Table) => {
            format!("{kind} \"{label}\" looks up its entries: the pass takes no tables, or none that others read, too")
        }
        Some(Role::Recurrent) => {
            format!("it is a weight of {kind} \"{label}\", a recurrent layer: the pass changes none")
        }
        Some(Role::Einsum) => format!("{kind} \"{label}\" reads it, and the pass takes no equations"),
        Some(Role::Layer) => {
            format!("it is a weight of {kind} \"{label}\", a layer of another kind than the pass changes")
        }
        None if vector => format!("{kind} \"{label}\" reads it, a vector and no weight"),
        None if moved(graph, n) > 0 => {
            format!("{kind} \"{label}\" reads it: the pass takes weights that layers read themselves")
        }
        Some(Role::Added) | None => format!("{kind} \"{label}\" reads it, and not as a weight"),
    }
}
