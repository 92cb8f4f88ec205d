//! The laws that every pass keeps on every teacher among the fixtures, with its default options.
#![cfg(feature = "exec")]

mod common;

use common::{name, running, teachers};
use std::path::Path;
use tutee::compress::{Outcome, measure};
use tutee::data::Array;
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

fn answers(path: &Path) -> Vec<Array> {
    Network::load(path).and_then(|n| running::answers(&n, 1)).unwrap_or_else(|e| panic!("{e}"))
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

/// What a removed Identity gave was declared with a shape: all that read the same value see it at once.
#[test]
fn a_declared_shape_reaches_all_readers() {
    let text = "model m opset 17, my 1 {
        input %x : f32[1,4,6]
        %v : ? = my.Mystery(%x)
        %y : f32[1,4,6] = Identity(%v)
        %r : ? = Relu(%v)
        %s : ? = Shape(%r)
        %z : f32[3] = Cast<to=1>(%s)
        output %y
        output %z
    }";
    let model = text::parse::model(text).unwrap();
    let first = run(&model, "clean").student;
    let again = run(&first, "clean").student;
    assert_eq!(text::print::model(&first), text::print::model(&again));
    assert!(!text::print::model(&first).contains("Shape("), "{}", text::print::model(&first));
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
