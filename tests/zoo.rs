//! Small networks of many families: what share of the weights each pass reaches, and that the students run.
//!
//! `BLESS=1 cargo test --test zoo` rewrites the shares in `zoo/shares.txt`.
#![cfg(feature = "exec")]

mod common;

use common::{difference, root, running, zoo};
use rayon::prelude::*;
use std::fmt::Write;
use tutee::data::Array;
use tutee::exec::Network;
use tutee::ir::{Graph, Model, Tensor};
use tutee::onnx::{self, SaveOptions, Target};

/// What is tried after `clean`; nothing is too small.
const STEPS: [&str; 9] = [
    "pass = \"separate-convs\", rank = 2, skip-first = 0, min-weights = 1",
    "pass = \"factorize-convs\", ratio = 0.5, skip-first = 0, min-weights = 1",
    "pass = \"factorize-linear\", ratio = 0.5, min-weights = 1, min-side = 4",
    "pass = \"prune-inputs\", ratio = 0.5, min-weights = 1",
    "pass = \"prune-channels\", width-mult = 0.5, skip-first = 0",
    "pass = \"prune-rows\", keep-rows = [0, 1, 2, 3, 4, 5, 6, 7], missing = 2",
    "pass = \"prune-weights\", sparsity = 0.5, min-weights = 1",
    "pass = \"cluster-weights\", bits = 4, min-weights = 1",
    "pass = \"store-weights\", min-weights = 1",
];

/// Constant tensors of floats, or of the integers that stand for some, in a graph and its bodies.
fn tensors(graph: &Graph) -> Vec<Tensor> {
    let own = graph.values().filter(|&v| graph.is_used(v)).filter_map(|v| graph.value(v).constant());
    let own = own.filter(|t| t.len() > 64 && (t.dtype().is_float() || t.dtype().bits() == Some(8))).cloned();
    own.chain(graph.nodes().flat_map(|n| graph.node(n).bodies()).flat_map(tensors)).collect()
}

/// The share of the elements in tensors that are others in the student.
fn reached(teacher: &Model, student: &Model) -> f64 {
    let left = tensors(&student.graph);
    let (mut all, mut stay) = (0, 0);
    for t in tensors(&teacher.graph) {
        all += t.len();
        stay += if left.contains(&t) { t.len() } else { 0 };
    }
    100.0 * (all - stay) as f64 / all.max(1) as f64
}

fn answers(model: &Model) -> Result<Vec<Array>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::save(model, &Target::File(path.clone()), SaveOptions::default()).map_err(|e| e.to_string())?;
    Network::load(&path).and_then(|n| running::answers(&n, 1)).map_err(|e| e.to_string())
}

#[test]
fn what_passes_reach() {
    let of = |(name, teacher): &(String, Model)| {
        let mut text = format!("{name}\n");
        let want = answers(teacher).unwrap_or_else(|e| panic!("{name}: {e}"));
        let clean = common::run(teacher, "[{ pass = \"clean\" }]").unwrap_or_else(|e| panic!("{name}: {e}")).student;
        for step in STEPS {
            let done = common::run(teacher, &format!("[{{ pass = \"clean\" }}, {{ {step} }}]"));
            let student = done.unwrap_or_else(|e| panic!("{name}, {step}: {e}")).student;
            let got = answers(&student).unwrap_or_else(|e| panic!("{name}, {step}: {e}"));
            let shapes = |all: &[Array]| all.iter().map(|a| a.shape().to_vec()).collect::<Vec<_>>();
            assert_eq!(shapes(&want), shapes(&got), "{name}, {step}");
            assert!(got.iter().flat_map(Array::to_f64).all(f64::is_finite), "{name}, {step}");
            let pass = step.split('"').nth(1).unwrap();
            writeln!(text, "  {pass:<17}{:>4.0} %", reached(&clean, &student)).unwrap();
        }
        text
    };
    let got = zoo().par_iter().map(of).collect::<Vec<_>>().join("\n");
    let path = root().join("tests/zoo/shares.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == got, "{}", difference(&want, &got));
}
