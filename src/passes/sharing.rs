//! Weights that several layers share: one site, rewritten for all that read it or for none.

use crate::ir::{Graph, NodeId, Use, ValueId};
use crate::passes::options::{layers, weight};
use std::collections::HashSet;

/// The layers that have a constant as their weight, in the order of the file.
pub fn readers(graph: &Graph, value: ValueId) -> Vec<NodeId> {
    let reader = |u: Use| match u {
        Use::Input(n, slot) => (weight(graph, n) == Some((slot, value))).then_some(n),
        Use::Capture { .. } => None,
    };
    graph.uses(value).into_iter().filter_map(reader).collect()
}

/// The layers that share the weight of a layer, itself among them, in the order they run.
pub fn family(graph: &Graph, n: NodeId) -> Vec<NodeId> {
    let Some((_, value)) = weight(graph, n) else { return vec![n] };
    let mut readers = readers(graph, value);
    if readers.len() > 1 {
        let members: HashSet<NodeId> = readers.into_iter().collect();
        readers = graph.topological().unwrap_or_default().into_iter().filter(|n| members.contains(n)).collect();
    }
    readers
}

/// Of the nodes that `ours` takes, all but those that share their weight with one of them that runs before.
pub fn first(graph: &Graph, ours: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let mut seen = HashSet::new();
    let later = |n: &NodeId| weight(graph, *n).is_some_and(|(_, value)| !seen.insert(value));
    let later: HashSet<NodeId> = layers(graph).into_iter().filter(|&n| ours(n)).filter(later).collect();
    graph.nodes().filter(|&n| ours(n) && !later.contains(&n)).collect()
}

/// Why a weight stays whatever becomes of its layers: what else there is that reads it.
pub fn held(graph: &Graph, value: ValueId) -> Option<String> {
    if graph.is_held(value) {
        return Some("its weight is an output of the model, or named outside the graph".into());
    }
    Some(format!("{} reads its weight, too", other_reader(graph, value)?))
}

/// What reads a constant other than as the weight of a layer.
pub fn other_reader(graph: &Graph, value: ValueId) -> Option<String> {
    let is_layer = |u: &Use| matches!(*u, Use::Input(n, slot) if weight(graph, n) == Some((slot, value)));
    let other = graph.uses(value).into_iter().find(|u| !is_layer(u))?;
    let (kind, label) = (graph.node(other.node()).kind(), graph.label(other.node()));
    Some(match other {
        Use::Input(..) => format!("{kind} \"{label}\""),
        Use::Capture { .. } => format!("the body of {kind} \"{label}\""),
    })
}

/// What a pass knows of each of the layers that share the weight of one, if nothing else reads it.
///
/// # Errors
/// Why that one stays.
pub fn all<T>(graph: &Graph, n: NodeId, of: impl Fn(NodeId) -> Result<T, String>) -> Result<Vec<T>, String> {
    let first = of(n)?;
    if let Some(why) = weight(graph, n).and_then(|(_, value)| held(graph, value)) {
        return Err(why);
    }
    let others = family(graph, n).into_iter().filter(|&other| other != n);
    let place = |n: NodeId, why: String| format!("\"{}\" shares its weight: {why}", graph.label(n));
    std::iter::once(Ok(first)).chain(others.map(|n| of(n).map_err(|why| place(n, why)))).collect()
}

/// What a note says of a rewrite that serves several layers.
pub fn note(layers: usize) -> String {
    if layers > 1 { format!(", once for the {layers} layers that share it") } else { String::new() }
}
