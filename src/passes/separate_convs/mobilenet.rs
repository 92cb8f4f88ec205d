//! The form with an activation between the two halves and none after them, which only training makes good use of.

use crate::analysis::cost::node_macs;
use crate::ir::op::activation::Clip;
use crate::ir::op::binary::BinaryKind;
use crate::ir::op::norm::BatchNorm;
use crate::ir::{Graph, NodeId, Op, Patch, Ref, Tensor, ValueId};
use crate::passes::absorb;
use crate::passes::split::Factor;
use std::collections::HashSet;

/// Depthwise → BatchNormalization → ReLU6 → pointwise in the place of a convolution and the activations behind it; and what
/// is to be told of those.
///
/// # Errors
/// If a malformed node lacks its input or output.
pub fn patch(
    graph: &Graph,
    n: NodeId,
    [dw, pw]: [Op; 2],
    [depthwise, pointwise]: [Factor; 2],
) -> Result<(Patch, String), String> {
    let mut patch = Patch::at_node(graph, n);
    let x = Ref::Old(graph.input(n, 0).ok_or("it has no input")?);
    let y = graph.output(n).ok_or("it has no output")?;
    let (dtype, channels) = (depthwise.weight.dtype(), depthwise.weight.shape().first().copied().unwrap_or(0));
    let weight = patch.constant("dw.weight", depthwise.weight);
    let mut data = patch.node("dw", dw, &[Some(x), Some(weight)]);
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
    data = patch.node("pw", pw, &inputs);
    patch.replace(y, data);
    let found = activations(graph, y);
    let mut told = if found.is_empty() { "; no activation behind it was found".to_string() } else { String::new() };
    for (before, after) in found {
        let last = graph.producer(after).map_or("", |p| graph.label(p.0));
        if is_answer(graph, after) {
            told +=
                &format!("; the activation that ends in \"{last}\" stayed, as no layer is between it and an output");
            break;
        }
        told += &format!("; the activation that ends in \"{last}\" was taken away");
        patch.replace(after, if before == y { data } else { Ref::Old(before) });
    }
    Ok((patch, told))
}

/// What each activation behind a convolution takes and gives, whatever normalizes, pools or moves what is between them.
fn activations(graph: &Graph, mut y: ValueId) -> Vec<(ValueId, ValueId)> {
    let mut found = Vec::new();
    loop {
        if let Some(after) = activation(graph, y) {
            found.push((y, after));
            y = after;
        }
        let readers: Vec<NodeId> = readers(graph, y).collect();
        match readers[..] {
            [n] if hands_on(graph, n, y) => match graph.output(n) {
                Some(after) => y = after,
                None => return found,
            },
            _ => return found,
        }
    }
}

/// The nodes that read the elements of a value.
fn readers(graph: &Graph, v: ValueId) -> impl Iterator<Item = NodeId> + '_ {
    graph.readers(v).filter(|&n| !matches!(graph.node(n).op, Op::Shape(_)))
}

/// Whether what a node gives is `y` but for normalization, pooling and places.
fn hands_on(graph: &Graph, n: NodeId, y: ValueId) -> bool {
    match &graph.node(n).op {
        Op::Binary(_) => absorb::step(graph, n, |_| Some(absorb::CHANNELS)).is_some(),
        Op::Unary(op) => op.0 == "Identity",
        Op::BatchNorm(_)
        | Op::LayerNorm(_)
        | Op::Norm(_)
        | Op::Pool(_)
        | Op::GlobalPool(_)
        | Op::Dropout(_)
        | Op::Pad(_)
        | Op::Resize(_)
        | Op::DepthSpace(_)
        | Op::Reshape(_)
        | Op::Flatten(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_)
        | Op::Transpose(_) => graph.input(n, 0) == Some(y),
        _ => false,
    }
}

/// The result of the function, number by number, that all readers of a value are a part of, however many nodes it takes:
/// the largest such part of the graph of which one value is read elsewhere. `None` if it is none or only adds and multiplies.
fn activation(graph: &Graph, y: ValueId) -> Option<ValueId> {
    let (mut made, mut nodes) = (vec![y], Vec::new());
    let (mut bent, mut found) = (false, None);
    let joins = |n: NodeId, made: &[ValueId]| {
        let number = |slot, v| {
            let constant = graph.value(v).constant();
            let slope = slot == 1 && matches!(&graph.node(n).op, Op::Binary(op) if op.0 == BinaryKind::PRelu);
            constant.is_some_and(|t| t.len() == 1 || slope)
        };
        let mut inputs = graph.node_inputs(n).into_iter().enumerate();
        let same = graph.output(n).is_some_and(|v| graph.value(v).ty == graph.value(y).ty);
        same && inputs.all(|(slot, v)| v.is_none_or(|v| made.contains(&v) || number(slot, v)))
    };
    loop {
        let mut next = made.iter().flat_map(|&v| readers(graph, v)).filter(|n| !nodes.contains(n));
        let Some((n, bends)) = next.find_map(|n| Some((n, bends(&graph.node(n).op)?)).filter(|_| joins(n, &made)))
        else {
            return found;
        };
        nodes.push(n);
        made.push(graph.output(n)?);
        bent |= bends;
        let is_open = |v: &&ValueId| graph.is_held(**v) || readers(graph, **v).any(|n| !nodes.contains(&n));
        match made.iter().filter(is_open).collect::<Vec<_>>()[..] {
            [&after] if bent && after != y => found = Some(after),
            _ => {}
        }
    }
}

/// Whether an activation may be made of an operator, and if so, whether it does more than add and multiply.
fn bends(op: &Op) -> Option<bool> {
    match op {
        Op::Clip(_) | Op::Activation(_) | Op::Gelu(_) => Some(true),
        Op::Unary(op) if op.0 == "Identity" => Some(false),
        Op::Unary(op) => ACTIVATIONS.contains(&op.0).then_some(true),
        Op::Binary(op) => match op.0 {
            BinaryKind::PRelu | BinaryKind::Max | BinaryKind::Min => Some(true),
            BinaryKind::Add
            | BinaryKind::Sub
            | BinaryKind::Mul
            | BinaryKind::Div
            | BinaryKind::Pow
            | BinaryKind::Sum => Some(false),
            _ => None,
        },
        _ => None,
    }
}

const ACTIVATIONS: [&str; 8] = ["Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Mish", "Erf"];

/// Whether a value is an output, or one comes of it by no other layer: then it has a meaning that nothing else would learn.
fn is_answer(graph: &Graph, v: ValueId) -> bool {
    let (mut open, mut seen) = (vec![v], HashSet::new());
    while let Some(v) = open.pop() {
        if graph.is_held(v) {
            return true;
        }
        let next = graph.readers(v).filter(|&n| node_macs(graph, n, None) == Some(0) && seen.insert(n));
        open.extend(next.flat_map(|n| graph.node_outputs(n)).flatten());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    /// What is found behind `%c`, and whether it is an answer.
    fn found(behind: &str) -> Vec<(String, String, bool)> {
        let text = format!(
            "model m opset 17 {{
                input %x : f32[N,4,8,8]
                const %w : f32[4,4,3,3] = seed(1) const %v : f32[3,4] = seed(2)
                const %zero : f32[] = {{0}} const %half : f32[] = {{0.5}} const %one : f32[1] = {{1}}
                const %three : f32[] = {{3}} const %root : f32[] = {{1.414}} const %s : f32[4,1,1] = seed(3)
                %c : ? = Conv(%x, %w)
                {behind}
                output %y
            }}"
        );
        let graph = parse::model(&text).unwrap_or_else(|e| panic!("{behind}: {e}")).graph;
        let name = |v: ValueId| graph.value(v).name.clone();
        let found = activations(&graph, graph.find_value("c").unwrap());
        found.into_iter().map(|(from, to)| (name(from), name(to), is_answer(&graph, to))).collect()
    }

    const LAYER: &str = "%g : ? = GlobalAveragePool(%e) %f : ? = Flatten(%g) %y : ? = Gemm<transB=1>(%f, %v)";

    #[test]
    fn activations_of_any_form() {
        for form in [
            "%e : ? = Relu(%c)",
            "%e : ? = Max(%zero, %c)",
            "%a : ? = Max(%c, %zero) %e : ? = Min(%a, %three)",
            "%a : ? = Relu(%c) %e : ? = Relu(%a)",
            "%e : ? = PRelu(%c, %s)",
            "%a : ? = Sigmoid(%c) %e : ? = Mul(%a, %c)",
            "%a : ? = HardSigmoid(%c) %e : ? = Mul(%c, %a)",
            "%a : ? = Add(%c, %three) %b : ? = Clip(%a, %zero, %three) %d : ? = Mul(%c, %b) %e : ? = Div(%d, %three)",
            "%a : ? = Softplus(%c) %b : ? = Tanh(%a) %e : ? = Mul(%c, %b)",
            "%a : ? = Div(%c, %root) %b : ? = Erf(%a) %d : ? = Add(%b, %one) %m : ? = Mul(%c, %d) %e : ? = Mul(%m, %half)",
            "%h : ? = Mul(%c, %half) %a : ? = Div(%c, %root) %b : ? = Erf(%a) %d : ? = Add(%one, %b) %e : ? = Mul(%h, %d)",
            "%p : ? = Pow(%c, %three) %q : ? = Mul(%p, %half) %r : ? = Add(%c, %q) %t : ? = Tanh(%r) %d : ? = Add(%t, %one)
             %h : ? = Mul(%c, %half) %e : ? = Mul(%h, %d)",
        ] {
            assert_eq!(found(&format!("{form} {LAYER}")), [("c".into(), "e".into(), false)], "{form}");
        }
    }

    #[test]
    fn what_is_between() {
        for between in [
            "Dropout(%c)",
            "MaxPool<kernel_shape=[2,2]>(%c)",
            "Identity(%c)",
            "Mul(%s, %c)",
            "InstanceNormalization(%c, %u, %u)",
            "Pad(%c, %p)",
            "BatchNormalization(%c, %u, %u, %u, %u)",
        ] {
            let all = found(&format!(
                "const %u : f32[4] = seed(4) const %p : i64[8] = {{0,0,1,1,0,0,1,1}}
                %b : ? = {between} %e : ? = Tanh(%b) {LAYER}"
            ));
            let from = if between.starts_with("Identity") { "c" } else { "b" };
            assert_eq!(all, [(from.into(), "e".into(), false)], "{between}");
        }
        let pooled = format!("%a : ? = Relu(%c) %b : ? = MaxPool<kernel_shape=[2,2]>(%a) %e : ? = Relu(%b) {LAYER}");
        assert_eq!(found(&pooled), [("c".into(), "a".into(), false), ("b".into(), "e".into(), false)]);
    }

    #[test]
    fn what_is_no_activation_or_an_answer() {
        for form in [
            "%e : ? = Mul(%c, %half)",
            "%e : ? = Softmax<axis=1>(%c)",
            "%e : ? = Exp(%c)",
            "%e : ? = Add(%c, %x2)",
            "%a : ? = Relu(%c) %e : ? = Concat<axis=1>(%a, %c) %y2 : ? = Conv(%c, %w)",
        ] {
            let other =
                "const %k : f32[4,4,1,1] = seed(5) %x1 : ? = Conv<pads=[-1,-1,-1,-1]>(%x, %k) %x2 : ? = Relu(%x1)";
            let ends = "%y : ? = Conv(%e, %w9)";
            let w = if form.contains("Concat") { "8" } else { "4" };
            let all = found(&format!("const %w9 : f32[3,{w},1,1] = seed(6) {other} {form} {ends}"));
            assert_eq!(all, [], "{form}");
        }
        // Nobody reads the activation, or its shape alone.
        for dead in ["%d : ? = Relu(%c)", "%a : ? = Relu(%c) %d : ? = Shape(%a)"] {
            assert_eq!(found(&format!("{dead} %e : ? = Sum(%c, %s) {LAYER}")), [], "{dead}");
        }
        let answers = |behind: &str| found(behind).into_iter().map(|f| f.2).collect::<Vec<_>>();
        assert_eq!(answers("%y : ? = Sigmoid(%c)"), [true]);
        assert_eq!(answers("%e : ? = Relu(%c) %g : ? = GlobalAveragePool(%e) %y : ? = Flatten(%g)"), [true]);
        assert_eq!(answers(&format!("%e : ? = Relu(%c) {LAYER} %z : ? = Identity(%e) output %z")), [true]);
        assert_eq!(answers(&format!("%e : ? = Relu(%c) {LAYER} output %c")), [false; 0]);
    }
}
