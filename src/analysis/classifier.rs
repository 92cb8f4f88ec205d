//! Networks that name a class: where their logits are.

use crate::ir::infer::axis;
use crate::ir::op::Operator;
use crate::ir::op::softmax::{Softmax, SoftmaxKind};
use crate::ir::{Graph, NodeId, Op, ValueId};

/// The logits behind an output: what its final softmax takes, or itself.
pub fn logits(graph: &Graph, output: ValueId) -> ValueId {
    let flat = graph.value(renamed(graph, output)).rank() == Some(2);
    softmax_input(graph, output).filter(|_| flat).unwrap_or(output)
}

/// The input of the softmax along the last axis, or log-softmax, that gives an output.
pub fn softmax_input(graph: &Graph, output: ValueId) -> Option<ValueId> {
    let end = renamed(graph, output);
    let (n, _) = graph.producer(end)?;
    let rank = graph.value(end).rank()?;
    let last = |op: &Softmax| axis(op.axis, rank) == Ok(rank.saturating_sub(1)) && op.function != SoftmaxKind::Hardmax;
    match &graph.node(n).op {
        Op::Softmax(op) if last(op) => graph.input(n, 0),
        _ => None,
    }
}

/// What a value is another name of, through as many `Identity` nodes as there are.
fn renamed(graph: &Graph, mut value: ValueId) -> ValueId {
    while let Some((n, _)) = graph.producer(value)
        && matches!(&graph.node(n).op, Op::Unary(op) if op.op_type() == "Identity")
        && let Some(same) = graph.input(n, 0)
    {
        value = same;
    }
    value
}

/// The node that makes an output something else than logits, or than a Softmax of them at the very end.
pub fn squashed(graph: &Graph, output: ValueId) -> Option<NodeId> {
    let end = renamed(graph, output);
    let mut at = end;
    loop {
        let (n, _) = graph.producer(at)?;
        let last = at == end;
        match &graph.node(n).op {
            Op::Softmax(op) if last && op.function == SoftmaxKind::Softmax => return None,
            Op::Softmax(_) => return Some(n),
            Op::Unary(op) if !["Identity", "Neg"].contains(&op.op_type()) => return Some(n),
            Op::Activation(_) | Op::Clip(_) => return Some(n),
            Op::Unary(_) | Op::Cast(_) | Op::Dropout(_) | Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) => {
                at = graph.input(n, 0)?;
            }
            Op::Binary(_) => {
                let computed = |v: &ValueId| graph.value(*v).constant().is_none();
                let inputs: Vec<ValueId> = graph.node_inputs(n).into_iter().flatten().filter(computed).collect();
                let [only] = inputs[..] else { return None };
                at = only;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    #[test]
    fn another_name_for_probabilities() {
        let of = |tail: &str| {
            let text = format!("model m opset 17 {{ input %x : f32[N,3] {tail} output %y }}");
            let graph = text::parse::model(&text).unwrap().graph;
            let y = graph.outputs()[0];
            (graph.value(logits(&graph, y)).name.clone(), squashed(&graph, y).is_some())
        };
        let softmax = "%p : ? = Softmax<axis=1>(%x)";
        assert_eq!(of(&format!("{softmax} %y : ? = Identity(%p)")), ("x".into(), false));
        assert_eq!(of(&format!("{softmax} %y : ? = Neg(%p)")), ("y".into(), true));
        assert_eq!(of("%y : ? = Identity(%x)"), ("y".into(), false));
    }
}
