//! Which outputs depend on weights.

use crate::ir::{Graph, NodeId, Op, Source, ValueId};
use std::collections::HashSet;

/// For each output, whether weights reach it: constants of at least two elements, by the data of nodes. What only gives
/// shapes, axes and indices is none.
pub fn weighted_outputs(graph: &Graph) -> Vec<bool> {
    graph.outputs().iter().map(|&v| walk(graph, &[v]).0).collect()
}

/// Whether weights reach one of these values within a graph, and the values from outside that do.
fn walk(graph: &Graph, starts: &[ValueId]) -> (bool, Vec<ValueId>) {
    let order = graph.topological().unwrap_or_default();
    let constant = graph.constant_nodes(&order, |_| false);
    let (mut open, mut outside) = (starts.to_vec(), Vec::new());
    let mut seen: HashSet<ValueId> = HashSet::new();
    while let Some(v) = open.pop() {
        if !seen.insert(v) {
            continue;
        }
        if graph.captures().contains(&v) {
            outside.push(v);
        }
        if holds_weights(graph, v, &constant) {
            return (true, outside);
        }
        let Some((n, slot)) = graph.producer(v) else { continue };
        for (i, input) in graph.node_inputs(n).into_iter().enumerate() {
            let Some(input) = input else { continue };
            match use_of(&graph.node(n).op, i) {
                InputUse::Data => open.push(input),
                // Places may be computed by a network; a list of them is no weight.
                InputUse::Index if graph.producer(input).is_some_and(|p| !constant.contains(&p.0)) => open.push(input),
                InputUse::Index | InputUse::Shape => {}
            }
        }
        for (i, body) in graph.node(n).bodies().enumerate() {
            let whole = !matches!(graph.node(n).op, Op::If(_));
            let ends = if whole { body.outputs() } else { body.outputs().get(slot..=slot).unwrap_or_default() };
            let (weights, reached) = walk(body, ends);
            if weights {
                return (true, outside);
            }
            let captured = graph.node_captures(n).into_iter().filter(|c| c.0 == i);
            open.extend(captured.filter(|c| body.captures().get(c.1).is_none_or(|v| reached.contains(v))).map(|c| c.2));
        }
    }
    (false, outside)
}

fn holds_weights(graph: &Graph, v: ValueId, constant: &HashSet<NodeId>) -> bool {
    let value = graph.value(v);
    let given = !matches!(value.source, Source::Input { default: None } | Source::Capture);
    let fixed = match graph.producer(v) {
        Some((n, _)) => constant.contains(&n),
        None => given,
    };
    fixed && value.dims().is_none_or(|dims| dims.iter().product::<u64>() > 1)
}

/// What a node makes of an input.
enum InputUse {
    Data,
    /// Places in other data.
    Index,
    /// Shapes, axes, counts.
    Shape,
}

fn use_of(op: &Op, slot: usize) -> InputUse {
    match (op, slot) {
        (Op::Shape(_) | Op::Size(_) | Op::ConstantOfShape(_) | Op::EyeLike(_), _) => InputUse::Shape,
        (Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_) | Op::Compress(_) | Op::Scatter(_), 1) => {
            InputUse::Index
        }
        (Op::Pad(_), 2) | (Op::OneHot(_), 2) => InputUse::Data,
        (
            Op::Reshape(_)
            | Op::Expand(_)
            | Op::Tile(_)
            | Op::Slice(_)
            | Op::Pad(_)
            | Op::OneHot(_)
            | Op::Resize(_)
            | Op::Upsample(_)
            | Op::Squeeze(_)
            | Op::Unsqueeze(_)
            | Op::Reduce(_)
            | Op::Cumulate(_)
            | Op::TopK(_)
            | Op::Split(_)
            | Op::Trilu(_)
            | Op::Dropout(_)
            | Op::ReverseSequence(_),
            1..,
        ) => InputUse::Shape,
        _ => InputUse::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    fn graph(body: &str) -> Graph {
        parse::model(&format!("model \"m\" opset 17 {{\n{body}\n}}")).unwrap().graph
    }

    #[test]
    fn a_copy_of_a_mask_is_reached_by_no_weight() {
        let g = graph(
            "input %x : f32[N,4]
             input %mask : i64[N,4]
             const %w : f32[4,3] = seed(1)
             const %one : f32[] = {1}
             const %axes : i64[2] = {1,2}
             %f : f32[N,4] = Cast<to=1>(%mask)
             %inverse : f32[N,4] = Sub(%one, %f)
             %wide : f32[N,1,1,4] = Unsqueeze(%inverse, %axes)
             %y : f32[N,3] = MatMul(%x, %w)
             %shape : i64[2] = Shape(%y)
             %ones : f32[N,3] = ConstantOfShape(%shape)
             output %wide
             output %y
             output %ones",
        );
        assert_eq!(weighted_outputs(&g), [false, true, false]);
    }

    #[test]
    fn a_table_is_a_weight_and_a_list_of_places_is_none() {
        let g = graph(
            "input %ids : i64[N]
             input %x : f32[N,8]
             const %table : f32[9,8] = seed(1)
             const %places : i64[2] = {3,1}
             %e : f32[N,8] = Gather<axis=0>(%table, %ids)
             %p : f32[N,2] = Gather<axis=1>(%x, %places)
             output %e
             output %p",
        );
        assert_eq!(weighted_outputs(&g), [true, false]);
    }
}
