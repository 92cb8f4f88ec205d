//! Gradients against central finite differences, in f64.

use super::{Mode, Tape};
use crate::ir::text::parse;
use crate::ir::{Graph, ValueId, random};
use std::collections::BTreeSet;

/// Checks the gradients of `%y` by every float constant of a few lines of text IR.
pub fn check(opset: i64, body: &str) {
    check_with(opset, body, Mode::Infer, &[]);
}

/// Checks the gradients by the constants of these names, all float ones if none is named.
pub fn check_with(opset: i64, body: &str, mode: Mode, names: &[&str]) {
    let graph =
        parse::model(&format!("model t opset {opset} {{ {body} }}")).unwrap_or_else(|e| panic!("{body}: {e}")).graph;
    let y = graph.find_value("y").expect("a value %y");
    let is_float = |v: &ValueId| graph.value(*v).constant().is_some_and(|t| t.dtype().is_float());
    let named =
        |v: &ValueId| names.is_empty() && !is_setting(&graph, *v) || names.contains(&graph.value(*v).name.as_str());
    let trainable: BTreeSet<ValueId> = graph.values().filter(|v| is_float(v) && named(v)).collect();
    let mut tape = Tape::<f64>::new(&graph, &[], &[y], &trainable).unwrap_or_else(|e| panic!("{body}: {e}"));
    assert_eq!(tape.parameters().len(), trainable.len(), "{body}");

    let by: Vec<f64> = random::noise(99).take(tape.output(0).len()).collect();
    let start = tape.state();
    let loss = |tape: &mut Tape<f64>| {
        tape.forward(mode);
        tape.output(0).iter().zip(&by).map(|(y, by)| y * by).sum::<f64>()
    };
    // Twice: what the first pass leaves behind must not count.
    for _ in 0..2 {
        loss(&mut tape);
        tape.backward(std::slice::from_ref(&by));
    }
    let found: Vec<Vec<f64>> = (0..trainable.len()).map(|p| tape.gradient(p).to_vec()).collect();
    for (p, found) in found.iter().enumerate() {
        let name = tape.parameters()[p].name.clone();
        let every = found.len().div_ceil(40);
        for i in (0..found.len()).step_by(every) {
            let step = 1e-6;
            let [up, down] = [step, -step].map(|step| {
                tape.restore(&start);
                tape.parameter_mut(p).0[i] += step;
                loss(&mut tape)
            });
            let want = (up - down) / (2.0 * step);
            let error = (found[i] - want).abs();
            assert!(error <= 2e-7 * (1.0 + want.abs() + up.abs()), "{body}\n%{name}[{i}]: {} for {want}", found[i]);
        }
    }
}

/// Limits and scales that an operator needs to be constant.
fn is_setting(graph: &Graph, v: ValueId) -> bool {
    graph
        .uses(v)
        .iter()
        .all(|u| matches!(graph.node(u.node()).op.operator().map_or("", |o| o.op_type()), "Clip" | "Resize" | "Pad"))
        && graph.value(v).name != "x"
}
