//! Networks that name a class: where their logits are.

use crate::ir::infer::axis;
use crate::ir::op::Operator;
use crate::ir::op::softmax::{Function, Softmax};
use crate::ir::{Graph, NodeId, Op, ValueId};

/// The logits behind an output: what its final softmax takes, or itself.
pub fn logits(graph: &Graph, output: ValueId) -> ValueId {
    let last = |op: &Softmax, v: ValueId| {
        let rank = graph.value(v).rank().unwrap_or(0);
        rank == 2 && axis(op.axis, rank) == Ok(1) && op.function != Function::Hardmax
    };
    let Some((n, _)) = graph.producer(output) else { return output };
    match &graph.node(n).op {
        Op::Softmax(op) if last(op, output) => graph.input(n, 0).unwrap_or(output),
        _ => output,
    }
}

/// The node that makes an output something else than logits, or than a Softmax of them at the very end.
pub fn squashed(graph: &Graph, output: ValueId) -> Option<NodeId> {
    let mut at = output;
    loop {
        let (n, _) = graph.producer(at)?;
        let last = at == output;
        match &graph.node(n).op {
            Op::Softmax(op) if last && op.function == Function::Softmax => return None,
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
