//! Operators that tract 0.23 computes otherwise than ONNX says, written with others that it has right. Where there are none,
//! the node is refused: what a network is compared with, or fitted to, must be what the file says.
//!
//! * `DequantizeLinear`: it, the QuantizeLinear behind it and what is between them become a table over the 256 integers,
//!   also where that is no function of one number, as a Softmax, or where the signs of the types differ.
//! * `Celu` and `Swish` leave `alpha` out.
//! * `LSTM`, `GRU` and `RNN` in reverse run forwards; other activations, and clipping, are left out.
//! * `SpaceToDepth` knows one order of depths.
//! * `LogSoftmax` takes the logarithm of shares that are 0 in f32, `ReduceLogSumExp` and `Softplus` that of exponentials
//!   that are infinite in it: both end where numbers are about 90 apart.
//! * `Gemm` adds nothing to f64.
//! * `Upsample` is missing; `Resize` of opset 10 takes the nearest place, not the one before.

mod logarithms;
mod recurrent;
mod upsample;

use logarithms::{log_softmax, log_sum_exp, softplus};
use recurrent::{backwards, has_default_cell};
use std::collections::{HashMap, HashSet};
use tract_onnx::data_resolver::MmapDataResolver;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{self, attribute_proto::AttributeType};
use tract_onnx::prelude::*;
use tract_onnx::tensor::load_tensor;
use upsample::upsample;

/// Constants of a graph.
pub struct Constants<'a> {
    all: HashSet<String>,
    /// Those of f64.
    doubles: HashSet<String>,
    /// The scales of an Upsample, by their name.
    scales: HashMap<String, Vec<f32>>,
    /// Those of one number, of the graphs around as well.
    singles: &'a HashSet<String>,
}

impl<'a> Constants<'a> {
    /// Of this graph; those that are one number are added to the others.
    pub fn of(graph: &pb::GraphProto, singles: &'a mut HashSet<String>) -> Constants<'a> {
        let stored = graph.initializer.iter().map(|t| (&t.name, t));
        let made = graph.node.iter().filter(|n| n.op_type == "Constant");
        let made = made.filter_map(|n| Some((n.output.first()?, n.attribute.iter().find_map(|a| a.t.as_ref())?)));
        let scaled = graph.node.iter().filter(|n| n.op_type == "Upsample");
        let scaled: HashSet<&String> = scaled.filter_map(|n| n.input.get(1)).collect();
        let (mut all, mut doubles, mut scales) = (HashSet::new(), HashSet::new(), HashMap::new());
        for (name, tensor) in stored.chain(made) {
            if tensor.data_type == DataType::Double as i32 {
                doubles.insert(name.clone());
            }
            if scaled.contains(name)
                && let Ok(values) = load_tensor(&MmapDataResolver, tensor, None)
                && let Ok(values) = values.try_as_plain_ram().and_then(|v| v.as_slice::<f32>())
            {
                scales.insert(name.clone(), values.to_vec());
            }
            if tensor.dims.iter().product::<i64>() == 1 {
                singles.insert(name.clone());
            }
            all.insert(name.clone());
        }
        Constants { all, doubles, scales, singles }
    }
}

/// Writes a node of this opset, or others that give the same under the same names.
///
/// # Errors
/// If tract has nothing that gives what the node should.
pub fn spell_out(
    mut node: pb::NodeProto,
    opset: i64,
    constants: &Constants<'_>,
    nodes: &mut Vec<pb::NodeProto>,
    fresh: &mut dyn FnMut() -> String,
) -> TractResult<()> {
    let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
    match node.op_type.as_str() {
        "DequantizeLinear" if standard && has_one_scale(&node, constants) => dequantize(&node, nodes, fresh),
        "Celu" | "Swish" if standard => match take_float(&mut node, "alpha").unwrap_or(1.0) {
            1.0 => nodes.push(node),
            alpha => scaled(node, alpha, nodes, fresh),
        },
        "Gemm" if standard && node.input.iter().any(|name| constants.doubles.contains(name)) => {
            add_apart(node, nodes, fresh);
        }
        "Upsample" if standard => upsample(node, constants, nodes, fresh),
        "Resize" if standard && opset == 10 => {
            let floor = pb::AttributeProto { s: b"floor".to_vec(), ..attribute("nearest_mode", AttributeType::String) };
            node.attribute.push(floor);
            nodes.push(node);
        }
        "LogSoftmax" if standard => log_softmax(node, opset, nodes, fresh),
        "ReduceLogSumExp" if standard => log_sum_exp(node, nodes, fresh),
        "Softplus" if standard => softplus(node, nodes, fresh),
        "LSTM" | "GRU" | "RNN" if standard => {
            has_default_cell(&node)?;
            match text(&node, "direction") {
                "reverse" => backwards(node, nodes, fresh),
                _ => nodes.push(node),
            }
        }
        "SpaceToDepth" if standard && !matches!(text(&node, "mode"), "" | "DCR") => {
            return Err(TractError::msg(format!(
                "{}: tract has no mode {} of SpaceToDepth",
                label(&node),
                text(&node, "mode")
            )));
        }
        _ => nodes.push(node),
    }
    Ok(())
}

fn label(node: &pb::NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name }
}

fn text<'a>(node: &'a pb::NodeProto, name: &str) -> &'a str {
    let value = node.attribute.iter().find(|a| a.name == name);
    value.and_then(|a| std::str::from_utf8(&a.s).ok()).unwrap_or_default()
}

fn take_float(node: &mut pb::NodeProto, name: &str) -> Option<f32> {
    let at = node.attribute.iter().position(|a| a.name == name)?;
    Some(node.attribute.swap_remove(at).f)
}

fn attribute(name: &str, r#type: AttributeType) -> pb::AttributeProto {
    pb::AttributeProto { name: name.into(), r#type: r#type as i32, ..Default::default() }
}

/// Adds a node with one output of this name, and gives the name.
fn push(
    nodes: &mut Vec<pb::NodeProto>,
    op_type: &str,
    attribute: Option<pb::AttributeProto>,
    input: Vec<String>,
    output: String,
) -> String {
    nodes.push(pb::NodeProto {
        op_type: op_type.into(),
        attribute: Vec::from_iter(attribute),
        input,
        output: vec![output.clone()],
        ..Default::default()
    });
    output
}

fn constant(nodes: &mut Vec<pb::NodeProto>, tensor: pb::TensorProto, output: String) -> String {
    let value = pb::AttributeProto { t: Some(tensor), ..attribute("value", AttributeType::Tensor) };
    push(nodes, "Constant", Some(value), Vec::new(), output)
}

fn integers(values: Vec<i64>) -> pb::TensorProto {
    let dims = vec![values.len() as i64];
    pb::TensorProto { data_type: DataType::Int64 as i32, dims, int64_data: values, ..Default::default() }
}

/// Whether it reads integers that are computed, with one scale for all.
fn has_one_scale(node: &pb::NodeProto, constants: &Constants<'_>) -> bool {
    let blocks = node.attribute.iter().any(|a| a.name == "block_size" && a.i != 0);
    let one_scale = node.input.get(1).is_some_and(|scale| constants.singles.contains(scale));
    !blocks && one_scale && node.input.first().is_some_and(|x| !x.is_empty() && !constants.all.contains(x))
}

/// (x − zero point) · scale.
fn dequantize(node: &pb::NodeProto, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String) {
    let integers = [node.input.first(), node.input.get(2)];
    let mut terms = Vec::new();
    for name in integers.into_iter().flatten().filter(|name| !name.is_empty()) {
        let to = pb::AttributeProto { i: DataType::Float as i64, ..attribute("to", AttributeType::Int) };
        terms.push(push(nodes, "Cast", Some(to), vec![name.clone()], fresh()));
    }
    let x = if terms.len() > 1 { push(nodes, "Sub", None, terms, fresh()) } else { terms.remove(0) };
    let output = node.output.first().cloned().unwrap_or_default();
    push(nodes, "Mul", None, vec![x, node.input.get(1).cloned().unwrap_or_default()], output);
}

/// A product of f64, and then what is added to it, where it is added as it is.
fn add_apart(mut node: pb::NodeProto, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String) {
    let as_it_is = node.attribute.iter().all(|a| a.name != "beta" || a.f == 1.0);
    let added = (as_it_is && node.input.len() == 3).then(|| node.input.remove(2)).filter(|name| !name.is_empty());
    let Some(added) = added else { return nodes.push(node) };
    let product = fresh();
    let output = std::mem::replace(&mut node.output, vec![product.clone()]).swap_remove(0);
    nodes.push(node);
    push(nodes, "Add", None, vec![product, added], output);
}

/// Celu(x; α) = α · Celu(x / α; 1), and Swish(x; α) = Swish(α x; 1) / α.
fn scaled(mut node: pb::NodeProto, alpha: f32, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String) {
    let [before, after] = if node.op_type == "Celu" { ["Div", "Mul"] } else { ["Mul", "Div"] };
    let number = pb::TensorProto { data_type: DataType::Float as i32, float_data: vec![alpha], ..Default::default() };
    let alpha = constant(nodes, number, fresh());
    let x = push(nodes, before, None, vec![node.input.swap_remove(0), alpha.clone()], fresh());
    let (y, inner) = (node.output.swap_remove(0), fresh());
    (node.input, node.output) = (vec![x], vec![inner.clone()]);
    nodes.push(node);
    push(nodes, after, None, vec![inner, alpha], y);
}
