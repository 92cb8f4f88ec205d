//! The form with an activation between the two halves and none after them, which only training makes good use of.

use crate::ir::op::activation::Clip;
use crate::ir::op::binary::Kind;
use crate::ir::op::norm::BatchNorm;
use crate::ir::{Graph, NodeId, Op, Patch, Ref, Tensor, Use, ValueId};
use crate::passes::split::Half;

/// Depthwise → BatchNormalization → ReLU6 → pointwise in the place of a convolution and the activation behind it.
///
/// # Errors
/// If a malformed node lacks its input or output.
pub fn patch(graph: &Graph, n: NodeId, [depthwise, pointwise]: [Half; 2]) -> Result<Patch, String> {
    let mut patch = Patch::at_node(graph, n);
    let x = Ref::Old(graph.input(n, 0).ok_or("it has no input")?);
    let y = graph.output(n).ok_or("it has no output")?;
    let (dtype, channels) = (depthwise.weight.dtype(), depthwise.weight.shape().first().copied().unwrap_or(0));
    let weight = patch.constant("dw.weight", depthwise.weight);
    let mut data = patch.node("dw", depthwise.op, &[Some(x), Some(weight)]);
    let mut inputs = vec![Some(data)];
    for (part, value) in [("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)] {
        let values = Tensor::from_floats(dtype, [channels], vec![value; channels]);
        inputs.push(Some(patch.constant(&format!("bn.{part}"), values)));
    }
    let norm = BatchNorm { epsilon: 1e-5, momentum: 0.9, training: false, spatial: true };
    data = patch.node("bn", norm, &inputs);
    data = if graph.opset < 11 {
        patch.node("relu6", Clip { min: Some(0.0), max: Some(6.0) }, &[Some(data)])
    } else {
        let [low, high] = [("relu6.min", 0.0), ("relu6.max", 6.0)]
            .map(|(name, limit)| Some(patch.constant(name, Tensor::from_floats(dtype, [], [limit]))));
        patch.node("relu6", Clip::default(), &[Some(data), low, high])
    };
    let weight = patch.constant("pw.weight", pointwise.weight);
    let bias = graph.input(n, 2).map(Ref::Old);
    let inputs: Vec<_> =
        [Some(data), Some(weight), bias].into_iter().take(if bias.is_some() { 3 } else { 2 }).collect();
    data = patch.node("pw", pointwise.op, &inputs);
    match activation(graph, y) {
        Some((before, after)) if before == y => patch.replace(after, data),
        Some((before, after)) => {
            patch.replace(y, data);
            patch.replace(after, before);
        }
        None => patch.replace(y, data),
    }
    Ok(patch)
}

/// What the activation behind a convolution takes and gives, with normalization and pooling before it or not, if nothing
/// else reads what is between them.
fn activation(graph: &Graph, mut y: ValueId) -> Option<(ValueId, ValueId)> {
    loop {
        let Some(next) = graph.sole_use(y).map(Use::node) else { return swish(graph, y) };
        let after = graph.output(next)?;
        let acts = match &graph.node(next).op {
            Op::BatchNorm(_) | Op::Pool(_) => {
                y = after;
                continue;
            }
            Op::Clip(_) | Op::Activation(_) | Op::Gelu(_) => true,
            Op::Unary(op) => ACTIVATIONS.contains(&op.0),
            Op::Binary(op) => op.0 == Kind::PRelu && graph.input(next, 0) == Some(y),
            _ => false,
        };
        return acts.then_some((y, after));
    }
}

const ACTIVATIONS: [&str; 7] = ["Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Mish"];

/// y · sigmoid(y), hard or not, as two nodes.
fn swish(graph: &Graph, y: ValueId) -> Option<(ValueId, ValueId)> {
    let readers: Vec<NodeId> = graph.readers(y).collect();
    let product =
        readers.iter().copied().find(|&n| matches!(&graph.node(n).op, Op::Binary(op) if op.0 == Kind::Mul))?;
    let gate = readers.iter().copied().find(|&n| n != product)?;
    let gates = matches!(graph.node(gate).kind().as_str(), "Sigmoid" | "HardSigmoid") && !graph.is_held(y);
    let inputs: Vec<ValueId> = graph.node_inputs(product).into_iter().flatten().collect();
    let made = graph.output(gate)?;
    let alone = readers.len() == 2 && graph.sole_use(made).is_some() && inputs.len() == 2;
    (gates && alone && inputs.contains(&made)).then_some((y, graph.output(product)?))
}
