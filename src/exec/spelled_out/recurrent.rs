//! Recurrent layers.

use super::{constant, integers, label, push};
use tract_onnx::pb;
use tract_onnx::prelude::*;

/// A recurrent layer that reads from the end: forwards over what is turned around, as is what it gives.
pub fn backwards(mut node: pb::NodeProto, nodes: &mut Vec<pb::NodeProto>, fresh: &mut dyn FnMut() -> String) {
    node.attribute.retain(|a| a.name != "direction");
    let batch_first = node.attribute.iter().any(|a| a.name == "layout" && a.i == 1);
    let [last, beyond, time] =
        [-1, i64::MIN, i64::from(batch_first)].map(|v| constant(nodes, integers(vec![v]), fresh()));
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
pub fn has_default_cell(node: &pb::NodeProto) -> TractResult<()> {
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
