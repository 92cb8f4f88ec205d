//! Upsample: every number along an axis several times.

use super::{Constants, attribute, constant, integers, push, text};
use tract_onnx::pb::{self, attribute_proto::AttributeType};

/// Adds an axis behind each that grows, repeats along it, and joins the two. Others than whole numbers of times, and
/// interpolation, are left as they are.
pub fn upsample(
    node: pb::NodeProto,
    constants: &Constants<'_>,
    nodes: &mut Vec<pb::NodeProto>,
    fresh: &mut dyn FnMut() -> String,
) {
    let own = node.attribute.iter().find(|a| a.name == "scales").map(|a| a.floats.clone());
    let scales = own.or_else(|| constants.scales.get(node.input.get(1)?).cloned()).unwrap_or_default();
    let whole = |scale: &f32| *scale >= 1.0 && scale.fract() == 0.0 && *scale < 65_536.0;
    let nearest = matches!(text(&node, "mode"), "" | "nearest");
    if !nearest || scales.is_empty() || !scales.iter().all(whole) {
        return nodes.push(node);
    }
    let (x, y) = (node.input[0].clone(), node.output[0].clone());
    let times: Vec<i64> = scales.iter().map(|&scale| scale as i64).collect();
    let (mut added, mut apart) = (Vec::new(), Vec::new());
    for &n in &times {
        apart.push(1);
        if n > 1 {
            added.push(apart.len() as i64);
            apart.push(n);
        }
    }
    if added.is_empty() {
        push(nodes, "Identity", None, vec![x], y);
        return;
    }
    let added = pb::AttributeProto { ints: added, ..attribute("axes", AttributeType::Ints) };
    let [apart, times] = [apart, times].map(|list| constant(nodes, integers(list), fresh()));
    let shape = push(nodes, "Shape", None, vec![x.clone()], fresh());
    let shape = push(nodes, "Mul", None, vec![shape, times], fresh());
    let x = push(nodes, "Unsqueeze", Some(added), vec![x], fresh());
    let x = push(nodes, "Expand", None, vec![x, apart], fresh());
    push(nodes, "Reshape", None, vec![x, shape], y);
}
