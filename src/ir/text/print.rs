//! Printing a graph: one value a line, its type where it is defined, in topological order; no ids, no weights.

use crate::ir::attr::{Attr, AttrValue};
use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::shape::DType;
use crate::ir::tensor::Tensor;
use crate::ir::text::{name, quote, symbol};
use crate::ir::value::{Form, Source};
use crate::ir::{Model, Node, Op};
use std::collections::HashMap;
use std::fmt::Write;

/// Tensors up to this size are printed with their content,
const INLINE: usize = 8;
/// integer vectors up to this one: types depend on them.
const INLINE_INTS: usize = 64;

/// Which numbers of constants are printed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Numbers {
    All,
    Integers,
}

/// The text form of a model's graph.
pub fn model(m: &Model) -> String {
    print(m, Numbers::All)
}

/// As [`model`], without the numbers of float constants: two models that differ in these alone have the same structure.
pub fn structure(m: &Model) -> String {
    print(m, Numbers::Integers)
}

fn print(m: &Model, numbers: Numbers) -> String {
    let opset = |(d, v): &(String, i64)| if d.is_empty() { v.to_string() } else { format!("{} {v}", symbol(d)) };
    let mut opsets: Vec<_> = m.opsets.iter().map(opset).collect();
    if opsets.is_empty() {
        opsets.push("0".into());
    }
    let mut out = format!("model {} opset {} {{\n", quote(m.graph.name.as_bytes()), opsets.join(", "));
    body(&m.graph, &HashMap::new(), numbers, 1, &mut out);
    out.push_str("}\n");
    out
}

fn body(g: &Graph, outer: &HashMap<String, String>, numbers: Numbers, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    let printed = |v: ValueId| {
        let own = &g.value(v).name;
        format!("%{}", name(if let Source::Capture = g.value(v).source { outer.get(own).unwrap_or(own) } else { own }))
    };
    let ty = |v: ValueId| g.value(v).ty.as_ref().map_or("?".to_string(), |t| t.to_string());
    for v in g.runtime_inputs() {
        let default = match &g.value(v).source {
            Source::Input { default: Some((t, _)) } => format!(" = {}{}", t.ty(), content(t).unwrap_or_default()),
            Source::Carried => " = carried".into(),
            _ => String::new(),
        };
        let _ = writeln!(out, "{pad}input {} : {}{default}", printed(v), ty(v));
    }
    for v in g.values() {
        match &g.value(v).source {
            Source::Constant(t, form) => {
                let shown = numbers == Numbers::All || t.floats().is_none();
                let content = content(t).filter(|_| shown).map_or(String::new(), |c| format!(" = {c}"));
                let form = if let Form::Node { .. } = form { "node " } else { "" };
                let _ = writeln!(out, "{pad}const {form}{} : {}{content}", printed(v), ty(v));
            }
            Source::Carried if !g.inputs().contains(&v) => {
                let _ = writeln!(out, "{pad}carried {} : {}", printed(v), ty(v));
            }
            _ => {}
        }
    }
    out.push('\n');
    let order = g.topological().unwrap_or_else(|_| g.nodes().collect());
    for id in order {
        let results: Vec<_> = g
            .node_outputs(id)
            .into_iter()
            .map(|v| v.map_or("_".into(), |v| format!("{} : {}", printed(v), ty(v))))
            .collect();
        let inputs: Vec<_> = g.node_inputs(id).into_iter().map(|v| v.map_or("_".into(), printed)).collect();
        let n = g.node(id);
        let results = if results.is_empty() { String::new() } else { results.join(", ") + " " };
        let _ = write!(out, "{pad}{results}= {}{}({})", kind(n, g.opset), attrs(n, g.opset), inputs.join(", "));
        let first = g.node_outputs(id).into_iter().flatten().next();
        if !n.name.is_empty() && first.is_none_or(|v| n.name != g.value(v).name) {
            let _ = write!(out, " @{}", name(&n.name));
        }
        bodies(g, id, numbers, depth, &printed, out);
        out.push('\n');
    }
    out.push('\n');
    for &v in g.outputs() {
        let _ = writeln!(out, "{pad}output {}", printed(v));
    }
    for exit in g.exits() {
        let _ = writeln!(out, "{pad}exit {} when {}", printed(exit.answer), printed(exit.sure));
    }
    if let Some(number) = &g.exit_output {
        let _ = writeln!(out, "{pad}exit-output {}", name(number));
    }
}

fn bodies(
    g: &Graph,
    id: NodeId,
    numbers: Numbers,
    depth: usize,
    printed: &impl Fn(ValueId) -> String,
    out: &mut String,
) {
    let n = g.node(id);
    if !n.has_bodies() {
        return;
    }
    let pad = "  ".repeat(depth + 1);
    let names = n.attrs.iter().flat_map(|a| match &a.value {
        AttrValue::Graph(_) => vec![a.name.clone()],
        AttrValue::Graphs(gs) => vec![a.name.clone(); gs.len()],
        _ => Vec::new(),
    });
    out.push_str(" {\n");
    for (b, (body, attr)) in n.bodies().zip(names).enumerate() {
        let outer = g.node_captures(id).into_iter().filter(|c| c.0 == b);
        let outer =
            outer.map(|(_, i, v)| (body.value(body.captures()[i]).name.clone(), unsigil(&printed(v)))).collect();
        let _ = writeln!(out, "{pad}{} {} {{", name(&attr), quote(body.name.as_bytes()));
        self::body(body, &outer, numbers, depth + 2, out);
        let _ = writeln!(out, "{pad}}}");
    }
    let _ = write!(out, "{}}}", "  ".repeat(depth));
}

/// The name behind a printed one; bodies print it again.
fn unsigil(printed: &str) -> String {
    let bare = printed.strip_prefix('%').unwrap_or(printed);
    crate::ir::text::parse::unquote(bare).unwrap_or_else(|| bare.to_string())
}

/// Domain and operator. Quotes show where the domain ends, and that an operator is not ONNX's in spite of its name.
fn kind(n: &Node, opset: i64) -> String {
    let bare = [&n.domain, &n.op_type].iter().all(|s| name(s) == **s || s.is_empty()) && !n.op_type.contains('.');
    let overridden =
        || n.domain.is_empty() && n.op == Op::Opaque && Op::parse(&n.op_type, opset, &n.attrs) != Op::Opaque;
    match (bare && !n.op_type.is_empty() && !overridden(), n.domain.is_empty()) {
        (true, _) => n.kind(),
        (false, true) => quote(n.op_type.as_bytes()),
        (false, false) => format!("{}.{}", quote(n.domain.as_bytes()), quote(n.op_type.as_bytes())),
    }
}

fn attrs(n: &Node, opset: i64) -> String {
    let shown = match n.op.operator() {
        Some(o) => o.attrs(opset),
        None => n.attrs.clone(),
    };
    let shown: Vec<_> = shown.iter().filter_map(attr).collect();
    if shown.is_empty() { String::new() } else { format!("<{}>", shown.join(", ")) }
}

fn attr(a: &Attr) -> Option<String> {
    let list = |kind: &str, items: Vec<String>| {
        if items.is_empty() { format!("{kind}[]") } else { format!("[{}]", items.join(",")) }
    };
    let value = match &a.value {
        AttrValue::Int(v) => v.to_string(),
        AttrValue::Float(v) => float(*v as f64, DType::F32),
        AttrValue::Str(v) => quote(v),
        AttrValue::Ints(v) => list("ints", v.iter().map(i64::to_string).collect()),
        AttrValue::Floats(v) => list("floats", v.iter().map(|&v| float(v as f64, DType::F32)).collect()),
        AttrValue::Strs(v) => list("strs", v.iter().map(|s| quote(s)).collect()),
        AttrValue::Tensor(t, _) => format!("{}{}", t.ty(), content(t).unwrap_or_default()),
        AttrValue::Carried(b) => {
            format!("carried\"{}\"", b.iter().map(|b| format!("{b:02x}")).collect::<String>())
        }
        AttrValue::Graph(_) | AttrValue::Graphs(_) => return None,
    };
    Some(format!("{}={value}", name(&a.name)))
}

/// The elements of a small tensor.
fn content(t: &Tensor) -> Option<String> {
    if t.len() > if t.rank() <= 1 && t.dtype().is_int() { INLINE_INTS } else { INLINE } {
        return None;
    }
    let items: Vec<String> = if let Some(v) = t.ints() {
        v.iter().map(i64::to_string).collect()
    } else if let Some(v) = t.floats() {
        v.iter().map(|&v| float(v, t.dtype())).collect()
    } else if let Some(v) = t.as_strings() {
        v.iter().map(|s| quote(s)).collect()
    } else {
        return None;
    };
    Some(format!("{{{}}}", items.join(",")))
}

/// The shortest text that reads back as the same number; with a point or an exponent, so that it is seen to be a float.
fn float(v: f64, dtype: DType) -> String {
    let text = if dtype == DType::F64 { format!("{v:?}") } else { format!("{:?}", v as f32) };
    if text == "-NaN" { "NaN".into() } else { text }
}
