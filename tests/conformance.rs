//! Cases of ONNX's own backend test suite keep their meaning (`fixtures/README.md` says where they come from).
#![cfg(feature = "exec")]

mod common;

use common::{files, name};
use std::path::Path;
use tutee::data::{Array, Dataset};
use tutee::exec::Network;
use tutee::ir::{Model, text};
use tutee::onnx;

/// As the suite compares, which allows for other kernels than the reference's.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;

#[test]
fn every_model_survives() {
    let models = files("fixtures/conformance", "onnx");
    let (count, mut run) = (models.len(), 0);
    for path in models {
        let here = name(&path);
        let student = |steps: &str| {
            let teacher = onnx::load(&path).unwrap_or_else(|e| panic!("{here}: {e}")).model;
            (common::run(&teacher, steps).unwrap_or_else(|e| panic!("{here}: {e}")).student, teacher)
        };
        let (none, teacher) = student(r#"[{ pass = "none" }]"#);
        assert!(onnx::to_bytes(&none).unwrap() == onnx::to_bytes(&teacher).unwrap(), "{here} is changed by `none`");

        let (clean, _) = student(r#"[{ pass = "clean" }]"#);
        clean.graph.verify().unwrap_or_else(|e| panic!("{here}: {e}"));
        let bytes = onnx::to_bytes(&clean).unwrap();
        let again = onnx::decode(bytes.into(), None).unwrap_or_else(|e| panic!("{here}: {e}")).model;
        assert_eq!(text::print::model(&again), text::print::model(&clean), "{here}");

        // tract cannot run them all: those it can run as they are, it must run as well afterwards.
        let data = Dataset::load(&path.with_extension("npz")).unwrap();
        if judge(&path, &data).is_ok() {
            run += 1;
            for (step, student) in [("none", none), ("clean", clean)] {
                let folder = tempfile::tempdir().unwrap();
                let file = write(&student, folder.path());
                judge(&file, &data).unwrap_or_else(|e| panic!("{here} after `{step}`: {e}"));
            }
        }
    }
    println!("{run} of {count} run in tract");
    assert!(count >= 60 && run >= 60, "only {run} of {count} ran");
}

fn write(model: &Model, folder: &Path) -> std::path::PathBuf {
    let file = folder.join("student.onnx");
    onnx::save(model, &onnx::Target::File(file.clone()), onnx::SaveOptions::default()).unwrap();
    file
}

/// Runs a model on a case's inputs and compares with its outputs.
fn judge(model: &Path, case: &Dataset) -> Result<(), String> {
    let network = Network::load(model).map_err(|e| e.to_string())?;
    let array = |name: String| case.array(&name).cloned().map_err(|e| e.to_string());
    let inputs = (0..network.inputs().len()).map(|i| array(format!("in{i}"))).collect::<Result<Vec<_>, _>>()?;
    let shapes: Vec<_> = inputs.iter().map(|a| a.shape().to_vec()).collect();
    let outputs = network.runner(&shapes).and_then(|r| r.run(&inputs)).map_err(|e| e.to_string())?;
    outputs.iter().enumerate().try_for_each(|(i, got)| same(&array(format!("out{i}"))?, got))
}

fn same(want: &Array, got: &Array) -> Result<(), String> {
    if (want.dtype(), want.shape()) != (got.dtype(), got.shape()) {
        return Err(format!("{} {:?} for {} {:?}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    let near =
        |(w, g): (&f64, &f64)| w == g || (w.is_nan() && g.is_nan()) || (w - g).abs() <= ABSOLUTE + RELATIVE * w.abs();
    let (want, got) = (want.to_f64(), got.to_f64());
    if want.iter().zip(&got).all(near) { Ok(()) } else { Err(format!("{got:?} for {want:?}")) }
}
