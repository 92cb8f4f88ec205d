//! Networks that name a class: where their logits are.

use crate::ir::infer::axis;
use crate::ir::op::softmax::{Function, Softmax};
use crate::ir::{Graph, Op, ValueId};

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
