//! Lowering: from the nodes of a graph to steps. [`lower_node`] says which kernel computes what each operator defines.

use super::kernels::{conv, layout, matmul, norm, pointwise, pool, reduce, resize, softmax};
use super::program::{Lowered, Lowering, Program};
use super::real::Real;
use super::trainable::weights;
use crate::error::{Error, Result};
use crate::ir::{Graph, NodeId, Op, ValueId};
use std::collections::BTreeSet;

/// Why a graph could not be lowered, and the node that stands in the way, if it is one.
struct LoweringFailure {
    node: Option<NodeId>,
    error: Error,
}

/// The steps that compute `outputs` of a graph whose shapes are known.
///
/// # Errors
/// If a shape or an operator stands in the way; names the node.
pub fn lower<T: Real>(graph: &Graph, trainable: &BTreeSet<ValueId>, outputs: &[ValueId]) -> Result<Lowered<T>> {
    lower_or_name(graph, trainable, outputs).map_err(|failure| failure.error)
}

fn lower_or_name<T: Real>(
    graph: &Graph,
    trainable: &BTreeSet<ValueId>,
    outputs: &[ValueId],
) -> Result<Lowered<T>, LoweringFailure> {
    let other = |error| LoweringFailure { node: None, error };
    let mut program = Program::new(graph, trainable, outputs).map_err(other)?;
    for n in program.needed_nodes() {
        lower_node(&mut program.node(n)).map_err(|why| {
            let (kind, label) = (graph.node(n).kind(), graph.label(n));
            let error = Error::input(format!("cannot train through {kind} \"{label}\"")).because(why);
            LoweringFailure { node: Some(n), error }
        })?;
    }
    program.finish(outputs).map_err(|why| other(Error::input("cannot train towards an output").because(why)))
}

fn lower_node<T: Real>(node: &mut Lowering<'_, '_, T>) -> Result<(), String> {
    if node.is_inconsistent() {
        return Err(
            "its inputs contradict its definition; a file that fixes a batch of one is to be exported with an open one"
                .into(),
        );
    }
    match node.op() {
        Op::Conv(op) => conv::build(node, op),
        Op::ConvTranspose(op) => conv::build_transpose(node, op),
        Op::Gemm(op) => matmul::gemm(node, op),
        Op::MatMul(_) => matmul::matmul(node),
        Op::BatchNorm(op) => norm::batch(node, op),
        Op::LayerNorm(op) => norm::layer(node, op),
        Op::Pool(op) => pool::build(node, op),
        Op::GlobalPool(op) => pool::global(node, op),
        Op::Reduce(op) => reduce::build(node, op),
        Op::Softmax(op) => softmax::build(node, op),
        Op::Resize(op) => resize::build(node, op),
        Op::Upsample(op) => resize::upsample(node, op),
        Op::Unary(op) => pointwise::unary(node, op),
        Op::Activation(op) => pointwise::activation(node, op),
        Op::Gelu(op) => pointwise::gelu(node, op),
        Op::Clip(op) => pointwise::clip(node, op),
        Op::Binary(op) => pointwise::binary(node, op),
        Op::Cast(_) | Op::CastLike(_) if !node.makes_floats() => Err("what it makes is not floating-point".into()),
        Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::Cast(_) | Op::CastLike(_) => {
            node.same()
        }
        // Training runs Dropout as inference does, so that the student learns as it will run.
        Op::Dropout(_) => node.same(),
        op => layout::build(node, op),
    }
}

/// The first node, if there is one, that stands in the way of training what computes `outputs` from inputs of these names
/// and shapes, and why it does.
///
/// # Errors
/// If something else does.
pub fn obstacle(
    graph: &Graph,
    inputs: &[(String, Vec<usize>)],
    outputs: &[ValueId],
) -> Result<Option<(NodeId, String)>> {
    let sized = graph.settled_at(inputs)?;
    match lower_or_name::<f32>(&sized, &weights(&sized), outputs) {
        Ok(_) => Ok(None),
        Err(LoweringFailure { node: Some(n), error }) => Ok(Some((n, error.cause().unwrap_or_default().into()))),
        Err(LoweringFailure { node: None, error }) => Err(error),
    }
}
