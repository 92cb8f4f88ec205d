//! The laws that every pass keeps on every teacher among the fixtures, with its default options.
#![cfg(feature = "exec")]

mod common;

use common::{name, teachers};
use std::path::Path;
use tutee::compress::{Outcome, measure};
use tutee::data::{Array, Dtype};
use tutee::exec::Network;
use tutee::ir::{Model, text};
use tutee::onnx::{self, SaveOptions, Target};
use tutee::passes::{Fidelity, Pass, REGISTRY};

fn make(pass: &str) -> Box<dyn Pass> {
    tutee::passes::find(pass).unwrap().make(Default::default()).unwrap_or_else(|e| panic!("{pass}: {}", e.what))
}

fn run(model: &Model, pass: &str) -> Outcome {
    common::run(model, &format!("[{{ pass = \"{pass}\" }}]")).unwrap_or_else(|e| panic!("{pass}: {e}"))
}

fn save(model: &Model, path: &Path) {
    onnx::save(model, &Target::File(path.into()), SaveOptions::default()).unwrap();
}

/// The step named `clean`, and every pass by itself.
fn steps() -> Vec<&'static str> {
    REGISTRY.iter().map(|e| e.name).chain(["clean"]).collect()
}

fn each(law: impl Fn(&Path, &Model, &str) + Sync) {
    use rayon::prelude::*;
    let all = teachers();
    assert!(all.len() >= 8, "fixtures are missing");
    let cases: Vec<_> = all.iter().flat_map(|t| steps().into_iter().map(move |s| (t, s))).collect();
    cases.par_iter().for_each(|(path, step)| {
        let loaded = onnx::load(path).unwrap_or_else(|e| panic!("{e}"));
        law(path, &loaded.model, step);
    });
}

/// Reproducible inputs of the sizes that the fixtures were made for: one sample, open image sides 48 by 192.
fn inputs(network: &Network) -> Vec<Array> {
    let one = |(i, spec): (usize, &tutee::data::InputSpec)| {
        let open = [1, 3, 48, 192];
        let dims = spec.dims.clone().unwrap_or_default();
        let shape: Vec<usize> =
            dims.iter().enumerate().map(|(a, d)| d.unwrap_or(if a == 0 { 1 } else { open[a] })).collect();
        let shape = match (spec.name.as_str(), shape.len()) {
            ("state", _) => vec![2, 1, 128],
            ("input", 2) => vec![1, 576],
            _ => shape,
        };
        let n: usize = shape.iter().product();
        let noise: Vec<f64> = text::parse::noise(i as u64 + 1).take(n).collect();
        match spec.dtype {
            Dtype::F32 => Array::from_f32(shape, &noise.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap(),
            Dtype::I64 => Array::new(Dtype::I64, shape, 16000i64.to_le_bytes().repeat(n)).unwrap(),
            other => panic!("no inputs of type {other}"),
        }
    };
    network.inputs().iter().enumerate().map(one).collect()
}

fn answers(path: &Path) -> Vec<Array> {
    let network = Network::load(path).unwrap_or_else(|e| panic!("{e}"));
    let inputs = inputs(&network);
    let shapes: Vec<_> = inputs.iter().map(|i| i.shape().to_vec()).collect();
    network.runner(&shapes).and_then(|r| r.run(&inputs)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn interface_and_validity() {
    let folder = tempfile::tempdir().unwrap();
    each(|path, teacher, step| {
        let student = run(teacher, step).student;
        assert_eq!(teacher.graph.interface(), student.graph.interface(), "{step} on {}", name(path));
        student.graph.verify().unwrap();
        let file = folder.path().join(format!("{step}-{}", path.file_name().unwrap().to_string_lossy()));
        save(&student, &file);
        Network::load(&file).unwrap_or_else(|e| panic!("{step} on {}: {e}", name(path)));
    });
}

#[test]
fn same_bytes_whatever_the_threads() {
    let with = |threads: usize, f: &(dyn Fn() -> Vec<u8> + Sync)| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    };
    for path in teachers() {
        let teacher = onnx::load(&path).unwrap().model;
        for step in steps() {
            let bytes = || onnx::to_bytes(&run(&teacher, step).student).unwrap();
            assert!(with(1, &bytes) == with(2, &bytes), "{step} on {}", name(&path));
        }
    }
}

#[test]
fn exact_passes_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    each(|path, teacher, step| {
        if step != "clean" && make(step).fidelity() != Fidelity::Exact {
            return;
        }
        let file = folder.path().join(format!("{step}-{}", path.file_name().unwrap().to_string_lossy()));
        save(&run(teacher, step).student, &file);
        for (want, got) in answers(path).iter().zip(answers(&file)) {
            let (want, got) = (want.to_f64(), got.to_f64());
            let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
            let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(want.len() == got.len() && worst <= 1e-4 * scale, "{step} on {}: off by {worst}", name(path));
        }
    });
}

#[test]
fn exact_passes_find_nothing_twice_and_never_grow_the_file() {
    each(|path, teacher, step| {
        if step != "clean" && make(step).fidelity() != Fidelity::Exact {
            return;
        }
        let first = run(teacher, step);
        let again = run(&first.student, step);
        let done: Vec<_> = again.report.steps[0].rows.iter().filter(|r| r.done).collect();
        assert!(done.is_empty(), "{step} on {} again: {done:?}", name(path));
        let (before, after) = (path.metadata().unwrap().len(), onnx::encoded_len(&first.student).unwrap());
        assert!(step != "clean" || after <= before, "{step} on {}: {before} to {after} bytes", name(path));
    });
}

#[test]
fn the_report_is_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    each(|path, teacher, step| {
        let outcome = run(teacher, step);
        let file = folder.path().join(format!("{step}-{}", path.file_name().unwrap().to_string_lossy()));
        save(&outcome.student, &file);
        let written = onnx::load(&file).unwrap();
        let recount = measure(&written.model).unwrap();
        assert_eq!(outcome.report.student, recount, "{step} on {}", name(path));
        assert_eq!(recount.bytes, file.metadata().unwrap().len(), "{step} on {}", name(path));
    });
}

#[test]
fn text_and_file_read_back_as_they_were_written() {
    each(|path, teacher, step| {
        let student = run(teacher, step).student;
        let printed = text::print::model(&student);
        let parsed = text::parse::model(&printed).unwrap_or_else(|e| panic!("{step} on {}: {e}", name(path)));
        assert!(text::print::model(&parsed) == printed, "{step} on {}: text", name(path));
        let bytes = onnx::to_bytes(&student).unwrap();
        let decoded = onnx::decode(bytes.clone().into(), None).unwrap().model;
        assert!(onnx::to_bytes(&decoded).unwrap() == bytes, "{step} on {}: file", name(path));
    });
}
