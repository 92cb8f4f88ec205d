//! Compression with calibration data: weights fitted layer by layer to what the teacher gives.
#![cfg(feature = "exec")]

mod common;

use common::{recipe, root};
use tutee::calibrate::{Calibration, with_states};
use tutee::check::check;
use tutee::compress::{Data, Outcome, Silent, compress_on};
use tutee::data::{Array, Dataset, Dtype, Normalise, SampleStream};
use tutee::exec::Network;
use tutee::ir::{Model, Source, random, text};
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
    let data = Data { calibration: Some(&data), ..Data::default() };
    compress_on(data, teacher, onnx::encoded_len(teacher)?, &recipe(steps), None, &Silent)
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
        let Outcome { student, report } = run(&teacher, &data, &Normalise::default(), 512, EVERYTHING).unwrap();
        let errors = report.steps.iter().flat_map(|s| &s.rows).filter_map(|r| r.error);
        assert!(errors.clone().count() > 0 && errors.clone().all(|e| e.after.is_finite()), "{what}: {report:?}");
        for v in student.graph.values() {
            if let Source::Constant(t, _) = &student.graph.value(v).source {
                assert!(t.floats().is_none_or(|f| f.iter().all(|v| v.is_finite())), "{what}");
            }
        }
    }
}

/// What the layer reads never changes: no weights can be fitted, but what is lost is a constant.
#[test]
fn biases_agree_where_nothing_can_be_fitted() {
    let low = vec!["-1000"; 40].join(",");
    let (teacher, data) = one_layer(
        &[40, 24],
        &format!(
            "  const %w1 : f32[24,40] = seed(1)
  const %low : f32[40] = {{{low}}}
  const %one : f32[] = {{1}}
  const %w2 : f32[40,60] = seed(2)
  const %b2 : f32[60] = seed(3)

  %h : f32[N,40] = Gemm(%x, %w1, %low)
  %a : f32[N,40] = Clip(%h, %one)
  %y : f32[N,60] = Gemm(%a, %w2, %b2)"
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    let off = |repair: &str| {
        let step = "pass = \"cluster-weights\", levels = 2, groups = 1, min-weights = 16, only = [\"y\"]";
        let student =
            run(&teacher, &data, &Normalise::default(), 512, &format!("[{{ {step}{repair} }}]")).unwrap().student;
        let files = ["teacher.onnx", "student.onnx"].map(|name| folder.path().join(name));
        for (model, file) in [&teacher, &student].into_iter().zip(&files) {
            onnx::save(model, &Target::File(file.clone()), SaveOptions::default()).unwrap();
        }
        check(&files[0], &files[1], &data, &Normalise::default(), &|_, _| {}).unwrap().outputs["y"].max_abs
    };
    let (with, without) = (off(""), off(", repair = \"none\""));
    assert!(with < 1e-5 && without > 0.1, "{with} {without}");
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
    assert!(said(&small(20, |i| (i % 256) as f32)).contains("does the model expect them normalised"));
    assert!(said(&small(20, |i| (i % 256) as f32 / 65025.0)).contains("normalised already, and scaled again"));
    let twice = |i: usize| ((i % 256) as f32 / 255.0 - 0.13) / 0.31 / 255.0 / 0.31;
    assert!(said(&small(20, twice)).contains("normalised already, and scaled again"));
    assert!(said(&small(20, |i| noise(i % 144))).contains("all samples are the same"));
    assert!(said(&small(9, noise)).contains("too little calibration data"));
    let other = Array::from_f32(vec![20, 3, 6, 6], &vec![0.0; 20 * 108]).unwrap();
    assert!(said(&Dataset::from_arrays("calib.npz", [("x".to_string(), other)])).contains("cannot feed"));
}

/// What layers give on such data is beyond single precision, though the data itself is not.
#[test]
fn data_on_which_the_teacher_is_not_finite_is_warned_of() {
    let teacher = text::parse::model(SMALL).unwrap();
    let warnings = |scale: f32| {
        let noise: Vec<f32> = random::noise(7).map(|v| v as f32 * scale).take(40 * 144).collect();
        let steps = "[{ pass = \"cluster-weights\", levels = 3, min-weights = 16 }]";
        run(&teacher, &small(40, |i| noise[i]), &Normalise::default(), 512, steps).unwrap().report.warnings
    };
    assert_eq!(warnings(1.0), Vec::<String>::new());
    let said = warnings(1e38);
    assert!(
        said.len() == 1 && said[0].contains("not finite") && said[0].contains("\"a\" and 2 other layers"),
        "{said:?}"
    );
}

/// One image is held back of these ten: its errors are told against the mean of the nine.
#[test]
fn rows_warn_of_fewer_samples_than_unknowns() {
    let teacher = text::parse::model(SMALL).unwrap();
    let noise: Vec<f32> = random::noise(7).map(|v| v as f32).take(40 * 144).collect();
    let rows = |samples| {
        let steps = "[{ pass = \"cluster-weights\", levels = 3, min-weights = 16 }]";
        let mut done = run(&teacher, &small(samples, |i| noise[i]), &Normalise::default(), 512, steps).unwrap();
        done.report.steps.remove(0).rows
    };
    let few = rows(10);
    let of = |site: &str| few.iter().find(|r| r.site == site).unwrap();
    assert!(of("w3").note.contains("fitted to 9 samples, fewer than its 16 inputs"), "{}", of("w3").note);
    assert!(!of("w1").note.contains("fewer than"), "{}", of("w1").note);
    assert!(of("w3").error.is_some_and(|e| e.before.is_finite() && e.after.is_finite()), "{:?}", of("w3"));
    assert!(rows(40).iter().all(|r| !r.note.contains("fewer than")));
}

/// Codes of layers that read what coarse codes gave, fitted to a few samples: with the least ridge of the feedback alone, the
/// error on other samples is 0.181.
#[test]
fn codes_fitted_to_a_few_samples_serve_others() {
    let errors = (1..=8).map(|seed| {
        let layers = "  const %v : f32[64,64] = seed(1)\n  const %w : f32[64,64] = seed(2)
            %h : ? = MatMul(%x, %v)\n  %r : ? = Relu(%h)\n  %y : f32[N,64] = MatMul(%r, %w)";
        let layers =
            layers.replace("seed(1)", &format!("seed({seed})")).replace("seed(2)", &format!("seed({})", seed + 20));
        let (teacher, few) = one_layer(&[40, 64], &layers);
        let steps = "[{ pass = \"cluster-weights\", levels = 4, groups = 1, min-weights = 16 }]";
        let student = run(&teacher, &few, &Normalise::default(), 512, steps).unwrap().student;
        let [teacher, student] =
            [&teacher, &student].map(|m| Network::from_bytes("m", &onnx::to_bytes(m).unwrap()).unwrap());
        let all = one_layer(&[200, 64], &layers).1;
        let bytes = all.array("x").unwrap().bytes();
        let others = bytes.chunks(64 * 4).skip(40).map(|row| {
            let x = [Array::new(Dtype::F32, vec![1, 64], row.to_vec()).unwrap()];
            [&teacher, &student].map(|m| m.run(&x).unwrap()[0].to_f64())
        });
        relative_error(&others.collect::<Vec<_>>(), 64, 1, true)
    });
    let mean = errors.sum::<f64>() / 8.0;
    assert!(mean < 0.177, "{mean}");
}

/// Noise for the input `x`.
fn noise(seed: u64, shape: &[usize]) -> Dataset {
    let values: Vec<f32> = random::noise(seed).map(|v| v as f32).take(shape.iter().product()).collect();
    Dataset::from_arrays("calib.npz", [("x".to_string(), Array::from_f32(shape.to_vec(), &values).unwrap())])
}

/// A layer that reads noise along a few directions more than along the others.
fn one_layer(input: &[usize], rest: &str) -> (Model, Dataset) {
    let text = format!("model \"one\" opset 17 {{\n  input %x : f32[N,{}]\n{rest}\n\n  output %y\n}}\n", {
        let dims: Vec<String> = input[1..].iter().map(usize::to_string).collect();
        dims.join(",")
    });
    let inner: usize = input[1..].iter().product();
    let noise: Vec<f32> = random::noise(3).map(|v| v as f32).take(input[0] * inner).collect();
    let strong = |i: usize| (0..6).map(|k| noise[i - i % inner + k] * noise[i % inner * 6 + k]).sum::<f32>();
    let values: Vec<f32> = (0..noise.len()).map(|i| 0.5 + strong(i) + 0.2 * noise[i]).collect();
    let x = Array::from_f32(input.to_vec(), &values).unwrap();
    (text::parse::model(&text).unwrap(), Dataset::from_arrays("calib.npz", [("x".to_string(), x)]))
}

/// ‖Y − Y'‖ / ‖Y − ȳ‖ of the answers Y and Y' to every sample: `outputs` times `inner` numbers, over and over.
fn relative_error(answers: &[[Vec<f64>; 2]], outputs: usize, inner: usize, centred: bool) -> f64 {
    let output = |i: usize| i / inner % outputs;
    let mut means = vec![0.0; outputs];
    let all = answers.iter().flat_map(|[y, _]| y.iter().enumerate());
    let each = (answers.len() * answers[0][0].len() / outputs) as f64;
    all.clone().for_each(|(i, y)| means[output(i)] += if centred { y / each } else { 0.0 });
    let square = all.map(|(i, y)| (y - means[output(i)]).powi(2)).sum::<f64>();
    let lost: f64 = answers.iter().flat_map(|[y, z]| y.iter().zip(z)).map(|(y, z)| (y - z).powi(2)).sum();
    (lost / square).sqrt()
}

#[test]
fn the_predicted_error_is_the_measured_one() {
    let gemm = "  const %w : f32[48,64] = seed(1)\n  const %b : f32[48] = seed(2)\n  %y : f32[N,48] = Gemm<transB=1>(%x, %w, %b)";
    let product = "  const %w : f32[64,48] = seed(1)\n  %y : f32[N,5,48] = MatMul(%x, %w)";
    let on_left = "  const %w : f32[48,64] = seed(1)\n  %y : f32[N,48,5] = MatMul(%w, %x)";
    let gemm_on_left =
        "  const %w : f32[64,48] = seed(1)\n  %y : f32[48,N] = Gemm<alpha=0.5, transA=1, transB=1>(%w, %x)";
    let conv =
        "  const %w : f32[16,8,3,3] = seed(1)\n  %y : f32[N,16,4,4] = Conv<strides=[2,2], pads=[1,1,1,1]>(%x, %w)";
    for (input, layer, step) in [
        (&[300, 64][..], gemm, "\"factorize-linear\", rank = 12, min-weights = 0"),
        // Fewer samples than unknowns: the ridge matters.
        (&[50, 64], gemm, "\"factorize-linear\", rank = 20, min-weights = 0"),
        (&[100, 5, 64], product, "\"factorize-linear\", rank = 12, min-weights = 0"),
        (&[100, 64, 5], on_left, "\"factorize-linear\", rank = 12, min-weights = 0"),
        (&[300, 64], gemm, "\"prune-inputs\", inputs = 40, min-weights = 0"),
        (&[100, 5, 64], product, "\"prune-inputs\", ratio = 0.6, min-weights = 0"),
        (&[300, 64], gemm_on_left, "\"factorize-linear\", rank = 12, min-weights = 0"),
        (&[60, 8, 8, 8], conv, "\"factorize-convs\", scheme = \"channel\", rank = 6, skip-first = 0"),
        (&[60, 8, 8, 8], conv, "\"factorize-convs\", rank = 8, skip-first = 0"),
        (&[60, 8, 8, 8], conv, "\"separate-convs\", rank = 2, skip-first = 0"),
    ] {
        let (teacher, data) = one_layer(input, layer);
        let done = run(&teacher, &data, &Normalise::default(), 512, &format!("[{{ pass = {step} }}]")).unwrap();
        let note = &done.report.steps[0].rows[0].note;
        let predicted = note.split_once("predicted error ").unwrap_or_else(|| panic!("{step}: {note}")).1;
        let predicted: f64 = predicted.split(' ').next().unwrap().parse().unwrap();
        let [teacher, student] =
            [&teacher, &done.student].map(|m| Network::from_bytes("m", &onnx::to_bytes(m).unwrap()).unwrap());
        let bytes = data.array("x").unwrap().bytes();
        let rows: Vec<Vec<u8>> = bytes.chunks(bytes.len() / input[0]).map(<[u8]>::to_vec).collect();
        // Every tenth sample is held back.
        let fitted = (0..input[0]).filter(|i| i % 10 != 9).map(|i| {
            let shape: Vec<usize> = [&[1], &input[1..]].concat();
            let x = [Array::new(Dtype::F32, shape, rows[i].clone()).unwrap()];
            [teacher.run(&x).unwrap()[0].to_f64(), student.run(&x).unwrap()[0].to_f64()]
        });
        let answers: Vec<[Vec<f64>; 2]> = fitted.collect();
        let (outputs, inner) = match layer {
            l if l.contains("Conv") => (16, 16),
            l if l == on_left => (48, 5),
            _ => (48, 1),
        };
        // A product has no bias that could make up for a mean.
        let measured = relative_error(&answers, outputs, inner, layer == gemm || layer == conv);
        assert!((measured - predicted / 100.0).abs() < 1e-3, "{step}: {measured} measured, {note}");
        assert!(measured > 0.02, "{step}: {measured} says nothing");
    }
}

/// What a shape is computed from is behind when the shape is used again: tract has to be told it all the same.
#[test]
fn shapes_outlive_what_they_are_of() {
    let body = "  const %w1 : f32[64,48] = seed(1)\n  const %c : f32[48] = seed(2)\n  const %w2 : f32[48,48] = seed(3)
  %h : f32[N,48] = MatMul(%x, %w1)\n  %s : i64[2] = Shape(%h)\n  %e : f32[N,48] = Expand(%c, %s)
  %a : f32[N,48] = Add(%h, %e)\n  %g : f32[N,48] = MatMul(%a, %w2)\n  %r : f32[?,?] = Reshape(%g, %s)
  %y : f32[N,48] = MatMul(%r, %w2)";
    let (teacher, data) = one_layer(&[60, 64], body);
    let steps = "[{ pass = \"factorize-linear\", rank = 12, min-weights = 0 }]";
    let done = run(&teacher, &data, &Normalise::default(), 512, steps).unwrap();
    assert!(done.report.steps[0].rows[0].error.is_some_and(|e| e.kept && e.after < e.before));
}

/// A budget is kept to, and dealt out by what the data says: not all layers get the same.
#[test]
fn budgets_are_kept() {
    let teacher = load("resnet_small_bn.onnx");
    let data = Dataset::load(&root().join("fixtures/fashion_calib.npz")).unwrap();
    let run = |step: &str| {
        let steps = format!("[{{ pass = \"clean\" }}, {{ pass = {step} }}]");
        run(&teacher, &data, &fashion(), 40, &steps).unwrap()
    };
    let codes = run("\"cluster-weights\", size = \"10%\"");
    let [before, after] = [codes.report.steps[0].after, codes.report.steps[1].after].map(|s| s.cost.stored);
    assert!(10 * after <= before && 11 * after > before, "{before} → {after}");
    let notes: Vec<&str> = codes.report.steps[1].rows.iter().map(|r| r.note.as_str()).collect();
    assert!(
        ["4 levels", "16 levels", "256 vectors of 2"].iter().all(|l| notes.iter().any(|n| n.starts_with(l))),
        "{notes:?}"
    );
    assert!(agreement(&codes.student) > 0.95);
    let missed = run("\"cluster-weights\", size = \"1%\", best-effort = true").report.missed;
    assert!(missed[0].contains("of the bytes of weights are left, not 1.0 %"), "{missed:?}");
    let ranks = run("\"separate-convs\", params = 0.4");
    let left = ranks.report.steps[1].after.cost.parameters as f64 / ranks.report.steps[0].after.cost.parameters as f64;
    assert!((0.38..=0.4).contains(&left) && ranks.report.missed.is_empty(), "{left}");
    assert!(agreement(&ranks.student) > 0.8);
}

/// Fitting gives a layer a bias of its own where it has none, or one that another layer reads, too: that is counted before.
#[test]
fn budgets_are_kept_where_layers_share_their_biases() {
    let text = "model \"shared\" opset 17 {
        input %x : f32[N,16,5,5]
        const %w : f32[16,16,3,3] = seed(1) const %v : f32[16,16,1,1] = seed(2) const %b : f32[16] = seed(3)
        %a : f32[N,16,5,5] = Conv<pads=[1,1,1,1]>(%x, %w, %b)
        %r : f32[N,16,5,5] = Relu(%a)
        %c : f32[N,16,5,5] = Conv<pads=[1,1,1,1]>(%r, %w, %b)
        %d : f32[N,16,5,5] = Conv(%c, %v, %b)
        %y : f32[N,16,5,5] = Conv(%d, %v)
        output %y
    }";
    let teacher = text::parse::model(text).unwrap();
    let data = noise(9, &[60, 16, 5, 5]);
    let mut own = 0;
    for share in [0.9, 0.8, 0.7] {
        let step = format!("[{{ pass = \"shrink\", params = {share}, skip-first = 0, max-loss = 1 }}]");
        let done = run(&teacher, &data, &Normalise::default(), 60, &step).unwrap();
        assert!(done.report.missed.is_empty(), "{share}: {:?}", done.report.missed);
        let graph = &done.student.graph;
        let vectors = graph.values().filter(|&v| graph.value(v).constant().is_some_and(|t| t.shape() == [16])).count();
        own = own.max(vectors);
    }
    assert!(own > 1, "no layer got a bias of its own");
}

/// Four neurons: the third is never above zero, whatever its weights say, and the fourth says what the second says.
const NEURONS: &str = r#"model "neurons" opset 17 {
  input %x : f32[N,2]
  const %w1 : f32[2,4] = {1.0,0.0,90.0,0.0,0.0,1.0,0.0,2.0}
  const %b1 : f32[4] = {0.1,0.3,-900.0,0.6}
  const %w2 : f32[4,2] = {1.0,0.5,1.0,-1.0,80.0,80.0,0.2,0.3}

  %h : f32[N,4] = Gemm(%x, %w1, %b1) @hidden
  %a : f32[N,4] = Relu(%h)
  %y : f32[N,2] = MatMul(%a, %w2)

  output %y
}"#;

fn neurons() -> (Model, Dataset) {
    let values: Vec<f32> = random::noise(5).map(|v| v as f32).take(400).collect();
    let x = Array::from_f32(vec![200, 2], &values).unwrap();
    (text::parse::model(NEURONS).unwrap(), Dataset::from_arrays("calib.npz", [("x".to_string(), x)]))
}

/// The biases of the neurons that an importance keeps: they tell which ones.
fn kept(options: &str) -> (Vec<f32>, String) {
    let (teacher, data) = neurons();
    let step = format!("[{{ pass = \"prune-channels\", skip-first = 0, repair = \"none\", {options} }}]");
    let done = run(&teacher, &data, &Normalise::default(), 512, &step).unwrap();
    let graph = &done.student.graph;
    let b1 = graph.values().find(|&v| graph.value(v).name == "b1").unwrap();
    let note = done.report.steps[0].rows[0].note.clone();
    (graph.value(b1).constant().unwrap().as_f32().unwrap().to_vec(), note)
}

#[test]
fn importances_by_data_see_what_weights_do_not() {
    for importance in ["activation-energy", "nonzero-share", "fidelity", "schur"] {
        let (biases, note) = kept(&format!("width-mult = 0.75, importance = \"{importance}\""));
        assert_eq!(biases, [0.1, 0.3, 0.6], "{importance}");
        assert_eq!(note, format!("kept 3 of 4 units, by {importance}"));
        let (biases, _) = kept(&format!("params = 0.8, importance = \"{importance}\""));
        assert_eq!(biases, [0.1, 0.3, 0.6], "{importance} with a target");
    }
    // The weights say that the dead one matters most.
    assert!(kept("width-mult = 0.25, importance = \"l1\"").0.contains(&-900.0));
    // Of two that say the same, one goes before what nothing else says.
    let (biases, _) = kept("width-mult = 0.5, importance = \"schur\"");
    assert!(biases[0] == 0.1 && biases.len() == 2 && biases[1] > 0.0, "{biases:?}");
    assert!(kept("width-mult = 0.5").1.contains("kept 2 of 4 units, by schur"));
}

/// Down, up by transposed convolutions, and the way around: what is lost before a transposed convolution it makes up for.
const UP_AND_DOWN: &str = r#"model "unet" opset 17 {
  input %x : f32[N,3,12,12]
  const %w1 : f32[12,3,3,3] = seed(1)
  const %w2 : f32[16,12,2,2] = seed(2)
  const %up.w : f32[16,12,2,2] = seed(3)
  const %b : f32[12] = seed(4)
  const %w3 : f32[6,24,3,3] = seed(5)
  const %last.w : f32[6,2,3,3] = seed(6)

  %c1 : f32[N,12,12,12] = Conv<pads=[1,1,1,1]>(%x, %w1)
  %a1 : f32[N,12,12,12] = Relu(%c1)
  %c2 : f32[N,16,6,6] = Conv<strides=[2,2]>(%a1, %w2)
  %a2 : f32[N,16,6,6] = Relu(%c2)
  %c3 : f32[N,12,12,12] = ConvTranspose<strides=[2,2]>(%a2, %up.w, %b) @up
  %a3 : f32[N,12,12,12] = Relu(%c3)
  %both : f32[N,24,12,12] = Concat<axis=1>(%a1, %a3)
  %c4 : f32[N,6,12,12] = Conv<pads=[1,1,1,1]>(%both, %w3)
  %a4 : f32[N,6,12,12] = Relu(%c4)
  %y : f32[N,2,24,24] = ConvTranspose<output_padding=[1,1], pads=[1,1,1,1], strides=[2,2]>(%a4, %last.w) @last

  output %y
}"#;

#[test]
fn transposed_convolutions_are_refitted() {
    let teacher = text::parse::model(UP_AND_DOWN).unwrap();
    let data = noise(7, &[60, 3, 12, 12]);
    for (step, layers) in [
        ("pass = \"prune-channels\", skip-first = 0, width-mult = 0.75", &["up", "last"][..]),
        ("pass = \"cluster-weights\", bits = 2, min-weights = 512", &["up.w"]),
    ] {
        let done = run(&teacher, &data, &Normalise::default(), 60, &format!("[{{ {step} }}]")).unwrap();
        for layer in layers {
            let mut rows = done.report.steps[0].rows.iter().filter(|r| r.site == *layer);
            let better = rows.any(|r| r.error.is_some_and(|e| e.kept && e.after < e.before));
            assert!(better, "{step}, {layer}: {:?}", done.report.steps[0].rows);
        }
    }
}

#[test]
fn a_group_that_nobody_can_be_asked_about_goes_by_its_weights() {
    let made = "%w3 : f32[4,2] = Neg(%w2)\n  %y : f32[N,2] = MatMul(%a, %w3) @made";
    let text = NEURONS.replace("%y : f32[N,2] = MatMul(%a, %w2)", made);
    let teacher = text::parse::model(&text).unwrap();
    let steps = "[{ pass = \"prune-channels\", skip-first = 0, width-mult = 0.75, importance = \"schur\" }]";
    let done = run(&teacher, &neurons().1, &Normalise::default(), 512, steps).unwrap();
    let note = &done.report.steps[0].rows[0].note;
    assert_eq!(note, "kept 3 of 4 units, by l1: \"made\" could not be asked: no weights can be fitted for it");
}

/// The model leaves the size of images open; the data says it, and the model stays open.
#[test]
fn data_says_what_macs_are_counted_at() {
    let text = "model \"open\" opset 17 {
        input %x : f32[N,8,H,W] const %w1 : f32[16,8,3,3] = seed(1) const %w2 : f32[4,16,1,1] = seed(2)
        %h : f32[N,16,?,?] = Conv(%x, %w1) @conv
        %r : f32[N,16,?,?] = Relu(%h)
        %y : f32[N,4,?,?] = Conv(%r, %w2) @head
        output %y
    }";
    let teacher = text::parse::model(text).unwrap();
    let data = noise(7, &[40, 8, 8, 8]);
    let step = "[{ pass = \"factorize-convs\", macs = \"70%\", skip-first = 0 }]";
    let done = run(&teacher, &data, &Normalise::default(), 40, step).unwrap();
    let [before, after] = [done.report.teacher, done.report.student].map(|size| size.cost.macs.unwrap());
    assert_eq!(before, 36 * (16 * 8 * 9 + 4 * 16));
    assert!(10 * after <= 7 * before && 10 * after > 6 * before, "{after} of {before}");
    assert_eq!(done.student.graph.interface(), teacher.graph.interface());
}

/// Data need not hold what the file has a default for. Such a weight is nobody's to change before it is bound.
#[test]
fn inputs_with_a_default_need_no_data() {
    let text = "model \"listed\" opset 17 {
        input %x : f32[N,8,6,6] const %w1 : f32[16,8,3,3] = seed(1) input %w2 : f32[64,16,1,1] = f32[64,16,1,1]seed(2)
        %h : f32[N,16,4,4] = Conv(%x, %w1) @conv
        %r : f32[N,16,4,4] = Relu(%h)
        %y : f32[N,64,4,4] = Conv(%r, %w2) @head
        output %y
    }";
    let teacher = text::parse::model(text).unwrap();
    let data = noise(7, &[40, 8, 6, 6]);
    let steps = |before: &str| format!("[{before}{{ pass = \"cluster-weights\", levels = 4, min-weights = 16 }}]");
    let done = |before: &str| run(&teacher, &data, &Normalise::default(), 40, &steps(before)).unwrap();
    let listed = done("");
    let changed = |done: &Outcome| done.report.steps.last().unwrap().rows.iter().filter(|row| row.done).count();
    assert_eq!(listed.student.graph.interface(), teacher.graph.interface());
    let bound = done("{ pass = \"bind-defaults\" }, ");
    assert_eq!(bound.student.graph.interface().len(), 2);
    assert_eq!((changed(&listed), changed(&bound)), (1, 2));
    let told = listed.report.steps[0].rows.iter().any(|row| row.site == "w2" && row.note.contains("bind-defaults"));
    assert!(told);
}

/// What the rest cannot make up for stays: with data, the bound is on what the layers that read the units lose.
#[test]
fn no_budget_takes_most_of_what_a_layer_reads() {
    let step = "pass = \"prune-channels\", skip-first = 0, params = 0.4";
    let (teacher, data) = neurons();
    let run = |more: &str| run(&teacher, &data, &Normalise::default(), 512, &format!("[{{ {step}{more} }}]"));
    let error = run(", max-loss = 0.01").err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("where no layer loses more than 0.01 of its output"), "{error}");
    let units = |more: &str| run(more).unwrap().report.steps[0].rows[0].note.clone();
    assert_eq!(units(", best-effort = true, max-loss = 0.01"), "kept 2 of 4 units, by schur");
    assert!(run(", max-loss = 1").is_ok_and(|done| done.report.missed.is_empty()));
}

#[test]
fn matching_statistics_brings_back_means_and_deviations() {
    let teacher = load("resnet_small_bn.onnx");
    let data = Dataset::load(&root().join("fixtures/fashion_calib.npz")).unwrap();
    let pruned =
        "{ pass = \"clean\" }, { pass = \"prune-channels\", width-mult = 0.75, skip-first = 0, repair = \"none\" }";
    let plain = run(&teacher, &data, &fashion(), 40, &format!("[{pruned}]")).unwrap();
    let steps = format!("[{pruned}, {{ pass = \"match-statistics\", skip-first = 1 }}]");
    let matched = run(&teacher, &data, &fashion(), 40, &steps).unwrap();
    let (before, after) = (agreement(&plain.student), agreement(&matched.student));
    assert!(after >= before + 0.2, "{before} → {after}");
    let rows = &matched.report.steps[2].rows;
    assert!(rows.iter().any(|r| r.done && r.error.is_some_and(|e| e.kept && e.after < e.before)));
    // What is not selected is not fitted either.
    assert!(rows.iter().all(|r| !r.note.contains("refitted")), "{rows:?}");
}

/// Student and teacher give the same mean and spread per output on samples that are like those that were fitted to.
#[test]
fn matched_outputs_have_the_teachers_moments() {
    let (teacher, _) = neurons();
    let noise: Vec<f32> = random::noise(5).map(|v| v as f32).take(40).collect();
    // Of every ten alike one is held back.
    let values: Vec<f32> = (0..400).map(|i| noise[i / 20 * 2 + i % 2]).collect();
    let x = Array::from_f32(vec![200, 2], &values).unwrap();
    let data = Dataset::from_arrays("calib.npz", [("x".to_string(), x)]);
    let steps = "[{ pass = \"prune-channels\", skip-first = 0, width-mult = 0.5, repair = \"none\", importance = \"l1\" }, \
        { pass = \"match-statistics\" }]";
    let done = run(&teacher, &data, &Normalise::default(), 512, steps).unwrap();
    let moments = |model: &Model| {
        let network = Network::from_bytes("m", &onnx::to_bytes(model).unwrap()).unwrap();
        let fitted = (0..200).filter(|i| i % 10 != 9).map(|i| {
            let x = Array::from_f32(vec![1, 2], &values[2 * i..2 * i + 2]).unwrap();
            network.run(&[x]).unwrap()[0].to_f64()
        });
        let answers: Vec<Vec<f64>> = fitted.collect();
        let n = answers.len() as f64;
        (0..2)
            .flat_map(|o| {
                [answers.iter().map(|a| a[o] / n).sum::<f64>(), answers.iter().map(|a| a[o] * a[o] / n).sum()]
            })
            .collect::<Vec<f64>>()
    };
    let (wanted, got) = (moments(&teacher), moments(&done.student));
    // The MatMul has no bias: of its outputs the second moments agree.
    for o in [1, 3] {
        assert!(
            (wanted[o] - got[o]).abs() < 1e-4 * wanted[o],
            "{wanted:?} and {got:?}: {:?}",
            done.report.steps[1].rows
        );
    }
}

/// A cell with a state.
const CELL: &str = "model \"cell\" opset 17 {
    input %x : f32[1,8] input %h : f32[1,12]
    const %wx : f32[8,12] = seed(1) const %r : f32[12,12] = seed(2) const %wy : f32[12,4] = seed(3)
    %a : ? = MatMul(%x, %wx) @of_x %b : ? = MatMul(%h, %r) @of_state %ab : ? = Add(%a, %b) %hn : ? = Tanh(%ab)
    %y : ? = MatMul(%hn, %wy) @last
    output %y output %hn
}";

#[test]
fn states_are_those_that_the_teacher_has_in_order() {
    let teacher = text::parse::model(CELL).unwrap();
    let x: Vec<f32> = random::noise(3).map(|v| v as f32).take(400 * 8).collect();
    let data = Dataset::from_arrays("stream", [("x".to_string(), Array::from_f32(vec![400, 8], &x).unwrap())]);
    let feedback = [("h".to_string(), "hn".to_string())].into();
    let data = data.in_streams(SampleStream::new(feedback, Some(100)).unwrap());
    // They are no raw numbers.
    let normalise = Normalise { scale: 2.0, ..Normalise::default() };
    let data = with_states(data, &normalise, &teacher).unwrap();
    let states = data.array("h").unwrap();
    assert_eq!(states.shape(), [400, 1, 12]);
    let network = Network::of_model("cell", &teacher).unwrap();
    let mut state = Array::from_f32(vec![1, 12], &[0.0; 12]).unwrap();
    for (i, x) in x[..100 * 8].chunks(8).enumerate() {
        assert_eq!(states.to_f32()[12 * i..12 * (i + 1)], state.to_f32(), "sample {i}");
        let x: Vec<f32> = x.iter().map(|v| 2.0 * v).collect();
        state = network.run(&[Array::from_f32(vec![1, 8], &x).unwrap(), state]).unwrap().remove(1);
    }
    assert!(states.to_f32()[1200..1212].iter().all(|&v| v == 0.0), "a new stream begins with zeros");
}
