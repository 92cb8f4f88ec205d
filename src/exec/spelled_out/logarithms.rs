//! Logarithms of sums of exponentials that stay finite.

use super::{attribute, constant, integers, push};
use tract_onnx::pb::{self, attribute_proto::AttributeType};

/// x − max x + log of the largest share, along an axis; before opset 13 along it and all behind it.
pub fn log_softmax(
    mut node: pb::NodeProto,
    opset: i64,
    nodes: &mut Vec<pb::NodeProto>,
    fresh: &mut dyn FnMut() -> String,
) {
    let (given, output) = (node.input.swap_remove(0), node.output.swap_remove(0));
    let integer = |name: &str, i: i64| pb::AttributeProto { i, ..attribute(name, AttributeType::Int) };
    let axis = node.attribute.iter().find(|a| a.name == "axis").map(|a| a.i);
    let coerced = opset < 13;
    let (x, axis) = if coerced {
        let flat = push(nodes, "Flatten", Some(integer("axis", axis.unwrap_or(1))), vec![given.clone()], fresh());
        (flat, 1)
    } else {
        (given.clone(), axis.unwrap_or(-1))
    };
    let largest = |of: &String, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String| {
        let (mut list, mut input) = (None, vec![of.clone()]);
        if opset < 18 {
            list = Some(pb::AttributeProto { ints: vec![axis], ..attribute("axes", AttributeType::Ints) });
        } else {
            input.push(constant(nodes, integers(vec![axis]), fresh()));
        }
        push(nodes, "ReduceMax", list, input, fresh())
    };
    let shares = push(nodes, "LogSoftmax", Some(integer("axis", axis)), vec![x.clone()], fresh());
    let (most, share) = (largest(&x, nodes, fresh), largest(&shares, nodes, fresh));
    let below = push(nodes, "Sub", None, vec![x, most], fresh());
    let y = if coerced { fresh() } else { output.clone() };
    push(nodes, "Add", None, vec![below, share], y.clone());
    if coerced {
        let shape = push(nodes, "Shape", None, vec![given], fresh());
        push(nodes, "Reshape", None, vec![y, shape], output);
    }
}

/// max x + log Σ exp(x − max x).
pub fn log_sum_exp(mut node: pb::NodeProto, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String) {
    let (y, sum) = (node.output.swap_remove(0), fresh());
    let largest = pb::NodeProto { op_type: "ReduceMax".into(), ..node.clone() };
    let [kept, most] = [fresh(), fresh()];
    let mut alongside = pb::NodeProto { output: vec![kept.clone()], ..largest.clone() };
    alongside.attribute.retain(|a| a.name != "keepdims");
    nodes.push(alongside);
    nodes.push(pb::NodeProto { output: vec![most.clone()], ..largest });
    node.input[0] = push(nodes, "Sub", None, vec![node.input[0].clone(), kept], fresh());
    node.output = vec![sum.clone()];
    nodes.push(node);
    push(nodes, "Add", None, vec![most, sum], y);
}

/// max(x, 0) + Softplus(−|x|).
pub fn softplus(mut node: pb::NodeProto, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String) {
    let (x, y, small) = (node.input.swap_remove(0), node.output.swap_remove(0), fresh());
    let positive = push(nodes, "Relu", None, vec![x.clone()], fresh());
    let size = push(nodes, "Abs", None, vec![x], fresh());
    let negative = push(nodes, "Neg", None, vec![size], fresh());
    (node.input, node.output) = (vec![negative], vec![small.clone()]);
    nodes.push(node);
    push(nodes, "Add", None, vec![positive, small], y);
}
