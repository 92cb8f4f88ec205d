//! Operators that tract 0.23 computes otherwise than ONNX says, written with others that it has right. Where there are none,
//! the node is refused: what a network is compared with, or fitted to, must be what the file says.
//!
//! * `DequantizeLinear`: it, the QuantizeLinear behind it and what is between them become a table over the 256 integers,
//!   also where that is no function of one number, as a Softmax, or where the signs of the types differ.
//! * `Celu` and `Swish` leave `alpha` out.
//! * `LSTM`, `GRU` and `RNN` in reverse run forwards; other activations, and clipping, are left out.
//! * `SpaceToDepth` knows one order of depths.

use std::collections::HashSet;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{self, attribute_proto::AttributeType};
use tract_onnx::prelude::*;

/// Constants of a graph.
pub struct Constants<'a> {
    all: HashSet<String>,
    /// Those of one number, of the graphs around as well.
    singles: &'a HashSet<String>,
}

impl<'a> Constants<'a> {
    /// Of this graph; those that are one number are added to the others.
    pub fn of(graph: &pb::GraphProto, singles: &'a mut HashSet<String>) -> Constants<'a> {
        let stored = graph.initializer.iter().map(|t| (&t.name, t));
        let made = graph.node.iter().filter(|n| n.op_type == "Constant");
        let made = made.filter_map(|n| Some((n.output.first()?, n.attribute.iter().find_map(|a| a.t.as_ref())?)));
        let mut all = HashSet::new();
        for (name, tensor) in stored.chain(made) {
            if tensor.dims.iter().product::<i64>() == 1 {
                singles.insert(name.clone());
            }
            all.insert(name.clone());
        }
        Constants { all, singles }
    }
}

/// Writes a node, or others that give the same under the same names.
///
/// # Errors
/// If tract has nothing that gives what the node should.
pub fn spell_out(
    mut node: pb::NodeProto,
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

/// A recurrent layer that reads from the end: forwards over what is turned around, as is what it gives.
fn backwards(mut node: pb::NodeProto, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String) {
    node.attribute.retain(|a| a.name != "direction");
    let batch_first = node.attribute.iter().any(|a| a.name == "layout" && a.i == 1);
    let list = |v: i64| pb::TensorProto {
        data_type: DataType::Int64 as i32,
        dims: vec![1],
        int64_data: vec![v],
        ..Default::default()
    };
    let [last, beyond, time] = [-1, i64::MIN, i64::from(batch_first)].map(|v| constant(nodes, list(v), fresh()));
    let turn = |nodes: &mut Vec<pb::NodeProto>, from: String, to: String| {
        push(nodes, "Slice", None, vec![from, last.clone(), beyond.clone(), time.clone(), last.clone()], to)
    };
    let forwards = fresh();
    let x = node.input.first_mut().map(|x| std::mem::replace(x, forwards.clone())).unwrap_or_default();
    turn(nodes, x, forwards);
    let y = node.output.first_mut().filter(|y| !y.is_empty());
    let y = y.map(|y| (std::mem::replace(y, fresh()), y.clone()));
    nodes.push(node);
    if let Some((y, turned)) = y {
        turn(nodes, turned, y);
    }
}

/// Fails if a recurrent layer has other activations than by default, or limits what goes into them.
fn has_default_cell(node: &pb::NodeProto) -> TractResult<()> {
    let default: &[&str] = match node.op_type.as_str() {
        "LSTM" => &["sigmoid", "tanh", "tanh"],
        "GRU" => &["sigmoid", "tanh"],
        _ => &["tanh"],
    };
    for a in &node.attribute {
        let names: Vec<String> = a.strings.iter().map(|s| String::from_utf8_lossy(s).to_lowercase()).collect();
        let same = match a.name.as_str() {
            "activations" => names.iter().zip(default.iter().cycle()).all(|(name, default)| name == default),
            "clip" => false,
            "input_forget" => a.i == 0,
            _ => true,
        };
        if !same {
            let what = default.join(", ");
            let why = format!("{}: tract has {} with {what} only, and without clipping", label(node), node.op_type);
            return Err(TractError::msg(why));
        }
    }
    Ok(())
}
