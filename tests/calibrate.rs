//! Compression with calibration data: weights fitted layer by layer to what the teacher gives.
#![cfg(feature = "exec")]

mod common;

use common::{recipe, root};
use tutee::calibrate::Calibration;
use tutee::check::check;
use tutee::compress::{Outcome, Silent, compress_on};
use tutee::data::{Array, Dataset, Normalise};
use tutee::ir::{Model, Source, text};
use tutee::onnx::{self, SaveOptions, Target};

const FASHION: Normalise = Normalise { scale: 1.0 / 255.0, mean: Vec::new(), std: Vec::new() };

fn fashion() -> Normalise {
    Normalise { mean: vec![0.2860], std: vec![0.3530], ..FASHION }
}

fn load(name: &str) -> Model {
    onnx::load(&root().join("fixtures").join(name)).unwrap().model
}

fn run(teacher: &Model, data: &Dataset, normalise: &Normalise, samples: usize, steps: &str) -> tutee::Result<Outcome> {
    let data = Calibration::new(data, normalise, teacher, samples)?;
    compress_on(&data, teacher, onnx::encoded_len(teacher)?, &recipe(steps), None, &Silent)
}

/// How often a student of the residual network says what its teacher says, on images that nothing was fitted to.
fn agreement(student: &Model) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("student.onnx");
    onnx::save(student, &Target::File(file.clone()), SaveOptions::default()).unwrap();
    let test = Dataset::load(&root().join("fixtures/fashion_test.npz")).unwrap();
    let teacher = root().join("fixtures/resnet_small_bn.onnx");
    check(&teacher, &file, &test, &fashion(), &|_, _| {}).unwrap().agreement.unwrap()
}

#[test]
fn repair_brings_back_what_a_step_lost() {
    let teacher = load("resnet_small_bn.onnx");
    let data = Dataset::load(&root().join("fixtures/fashion_calib.npz")).unwrap();
    // With the least agreement that repair reaches; without it every one of these is far below.
    for (step, least, lost) in [
        ("pass = \"prune-channels\", width-mult = 0.5, skip-first = 0", 0.70, 0.3),
        ("pass = \"separate-convs\", rank = 2", 0.75, 0.1),
        ("pass = \"prune-weights\", sparsity = 0.8", 0.80, 0.05),
        ("pass = \"cluster-weights\", levels = 3", 0.85, 0.03),
    ] {
        let steps = |repair| format!("[{{ pass = \"clean\" }}, {{ {step}, repair = \"{repair}\" }}]");
        let repaired = agreement(&run(&teacher, &data, &fashion(), 40, &steps("full")).unwrap().student);
        let plain = agreement(&run(&teacher, &data, &fashion(), 40, &steps("none")).unwrap().student);
        assert!(repaired >= least && repaired >= plain + lost, "{step}: {plain} without repair, {repaired} with it");
    }
}

#[test]
fn steps_repair_toward_the_teacher_and_the_bytes_repeat() {
    let teacher = load("resnet_small_bn.onnx");
    let data = Dataset::load(&root().join("fixtures/fashion_calib.npz")).unwrap();
    let steps = "[{ pass = \"clean\" }, { pass = \"prune-channels\", width-mult = 0.75, skip-first = 0 }, \
        { pass = \"separate-convs\", rank = 3 }, { pass = \"clean\" }, { pass = \"cluster-weights\", bits = 4 }]";
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let outcome = run(&teacher, &data, &fashion(), 20, steps).unwrap();
            assert!(
                outcome.report.steps.iter().flat_map(|s| &s.rows).any(|r| r.note.contains("refitted: output error"))
            );
            assert_eq!(outcome.student.graph.interface(), teacher.graph.interface());
            onnx::to_bytes(&outcome.student).unwrap()
        })
    };
    assert_eq!(bytes(1), bytes(2));
}

const SMALL: &str = r#"model "small" opset 17 {
  input %x : f32[N,4,6,6]
  const %w1 : f32[16,4,3,3] = seed(1)
  const %b1 : f32[16] = seed(2)
  const %w2 : f32[16,16,3,3] = seed(3)
  const %w3 : f32[16,10] = seed(4)
  const %b3 : f32[10] = seed(5)

  %a : f32[N,16,6,6] = Conv<pads=[1,1,1,1]>(%x, %w1, %b1)
  %b : f32[N,16,6,6] = Relu(%a)
  %c : f32[N,16,6,6] = Conv<pads=[1,1,1,1]>(%b, %w2)
  %d : f32[N,16,6,6] = Add(%c, %b)
  %e : f32[N,16,6,6] = Relu(%d)
  %f : f32[N,16,1,1] = GlobalAveragePool(%e)
  %g : f32[N,16] = Flatten(%f)
  %h : f32[N,10] = MatMul(%g, %w3)
  %y : f32[N,10] = Add(%h, %b3)

  output %y
}"#;

fn small(samples: usize, value: impl Fn(usize) -> f32) -> Dataset {
    let values: Vec<f32> = (0..samples * 144).map(value).collect();
    let x = Array::from_f32(vec![samples, 4, 6, 6], &values).unwrap();
    Dataset::from_arrays("calib.npz", [("x".to_string(), x)])
}

const EVERYTHING: &str = "[{ pass = \"prune-channels\", width-mult = 0.5, skip-first = 0 }, \
    { pass = \"separate-convs\", rank = 2, skip-first = 0 }, \
    { pass = \"cluster-weights\", bits = 3, min-weights = 16 }]";

#[test]
fn data_that_says_nothing_leaves_finite_weights() {
    let teacher = text::parse::model(SMALL).unwrap();
    let tiny = |i: usize| if i == 0 { 1e-30 } else { 0.0 };
    for (what, data) in [("equal", small(20, |_| 0.5)), ("zero", small(20, |_| 0.0)), ("tiny", small(20, tiny))] {
        let student = run(&teacher, &data, &Normalise::default(), 512, EVERYTHING).unwrap().student;
        for v in student.graph.values() {
            if let Source::Constant(t, _) = &student.graph.value(v).source {
                assert!(t.floats().is_none_or(|f| f.iter().all(|v| v.is_finite())), "{what}");
            }
        }
    }
}

#[test]
fn bad_data_is_refused_or_warned_of() {
    let teacher = text::parse::model(SMALL).unwrap();
    let said = |data: &Dataset| match Calibration::new(data, &Normalise::default(), &teacher, 512) {
        Ok(calibration) => calibration.warnings.join("\n"),
        Err(e) => e.to_string(),
    };
    let noise = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
    assert_eq!(said(&small(20, noise)), "");
    assert!(said(&small(20, |i| if i == 999 { f32::NAN } else { 0.1 })).contains("is not finite"));
    assert!(said(&small(20, |_| 0.5)).contains("nothing can be learned"));
    assert!(said(&small(20, |i| (i % 256) as f32)).contains("normalised"));
    assert!(said(&small(9, noise)).contains("too little calibration data"));
    let other = Array::from_f32(vec![20, 3, 6, 6], &vec![0.0; 20 * 108]).unwrap();
    assert!(said(&Dataset::from_arrays("calib.npz", [("x".to_string(), other)])).contains("cannot feed"));
}
