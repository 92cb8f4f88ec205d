//! What the tests of operators share.

use crate::ir::tensor::Tensor;
use crate::ir::text::parse;
use crate::ir::{Graph, ValueId};

/// The graph of a few lines of text IR.
pub fn graph(opset: i64, body: &str) -> Graph {
    parse::model(&format!("model t opset {opset} {{ {body} }}")).unwrap_or_else(|e| panic!("{body}: {e}")).graph
}

fn y(g: &Graph) -> ValueId {
    g.find_value("y").expect("a value %y")
}

/// The inferred type of `%y`; of an opaque node, "opaque".
pub fn ty(opset: i64, body: &str) -> String {
    let g = graph(opset, body);
    let known = g.producer(y(&g)).is_some_and(|(n, _)| g.node(n).op.operator().is_some());
    if !known {
        return "opaque".into();
    }
    g.value(y(&g)).ty.as_ref().map_or("?".into(), |t| t.to_string())
}

/// What is known of the content of `%y`, as the text form has dims.
pub fn ints(opset: i64, body: &str) -> Option<String> {
    let g = graph(opset, body);
    Some(crate::ir::Shape(g.value(y(&g)).ints.clone()?).to_string())
}

/// Evaluates the node of `%y`, whose inputs are constants; gives the output that is `%y`.
pub fn fold(opset: i64, body: &str) -> Option<Tensor> {
    let g = graph(opset, body);
    let (node, slot) = g.producer(y(&g)).expect("a node");
    let inputs: Vec<_> = g.node_inputs(node).into_iter().map(|v| g.value(v?).constant()).collect();
    g.node(node).op.operator()?.eval(&inputs)?.into_iter().nth(slot)
}
