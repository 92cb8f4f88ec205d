//! Samples of different shapes: pictures and sequences for networks that leave sides and lengths open.
#![cfg(feature = "exec")]

mod common;

use common::recipe;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tutee::calibrate::Calibration;
use tutee::check::{Check, Judge, Judging, OutputKind, check};
use tutee::compress::{Data, Outcome, Silent, compress_on};
use tutee::data::{Array, Dataset, Normalise};
use tutee::ir::{Model, random, text};
use tutee::onnx;
use tutee::session::Training;

/// Scores of classes for pictures of any size: what makes the vector of a picture is written as exporters do, by its shape.
const PICTURES: &str = r#"model "pictures" opset 17 {
  input %x : f32[N,3,H,W]
  const %w1 : f32[12,3,3,3] = seed(1)
  const %b1 : f32[12] = seed(5)
  const %w2 : f32[16,12,3,3] = seed(2)
  const %w3 : f32[10,16] = seed(3)
  const %zero : i64[] = {0}
  const %rest : i64[1] = {-1}
  const %axis : i64[1] = {0}

  %a : f32[N,12,H,W] = Conv<pads=[1,1,1,1]>(%x, %w1, %b1) @conv1
  %b : f32[N,12,H,W] = Relu(%a)
  %c : f32[N,16,?,?] = Conv<pads=[1,1,1,1], strides=[2,2]>(%b, %w2) @conv2
  %d : f32[N,16,?,?] = Relu(%c)
  %e : f32[N,16,1,1] = GlobalAveragePool(%d)
  %s : i64[4] = Shape(%e)
  %n : i64[] = Gather<axis=0>(%s, %zero)
  %m : i64[1] = Unsqueeze(%n, %axis)
  %t : i64[2] = Concat<axis=0>(%m, %rest)
  %f : f32[N,?] = Reshape(%e, %t)
  %logits : f32[N,10] = Gemm<transB=1>(%f, %w3) @fc

  output %logits
}"#;

/// Scores at every step of a text line: the height is fixed and the width open.
const LINES: &str = r#"model "lines" opset 17 {
  input %x : f32[N,1,8,W]
  const %w1 : f32[16,1,3,3] = seed(1)
  const %w2 : f32[24,16,8,1] = seed(2)
  const %w3 : f32[24,7] = seed(3)
  const %shape : i64[3] = {0,24,-1}

  %a : f32[N,16,8,W] = Conv<pads=[1,1,1,1]>(%x, %w1) @conv1
  %b : f32[N,16,8,W] = Relu(%a)
  %c : f32[N,24,1,W] = Conv(%b, %w2) @conv2
  %d : f32[N,24,W] = Reshape(%c, %shape)
  %e : f32[N,W,24] = Transpose<perm=[0,2,1]>(%d)
  %h : f32[N,W,24] = Relu(%e)
  %f : f32[N,W,7] = MatMul(%h, %w3) @head
  %y : f32[N,W,7] = Softmax<axis=2>(%f)

  output %y
}"#;

/// Every step is a step nearer to losing something.
const STEPS: &str = "[{ pass = \"clean\" }, { pass = \"prune-channels\", width-mult = 0.75, skip-first = 0 }, \
    { pass = \"factorize-linear\", rank = 4 }, { pass = \"cluster-weights\", bits = 3, min-weights = 16 }]";

fn model(text: &str) -> Model {
    text::parse::model(text).unwrap()
}

/// Noise of these shapes, one sample each.
fn samples(shapes: impl IntoIterator<Item = Vec<usize>>) -> Vec<Array> {
    let noise = |(i, shape): (usize, Vec<usize>)| {
        let values: Vec<f32> =
            random::noise(i as u64 + 1).take(shape.iter().product()).map(|v| v as f32 + (i % 5) as f32 / 5.0).collect();
        Array::from_f32(shape, &values).unwrap()
    };
    shapes.into_iter().enumerate().map(noise).collect()
}

/// So many pictures of four sizes in turn.
fn pictures(count: usize) -> Vec<Array> {
    samples((0..count).map(|i| vec![1, 3, 6 + 2 * (i % 2), 5 + i % 4]))
}

fn lines(count: usize) -> Vec<Array> {
    samples((0..count).map(|i| vec![1, 1, 8, 6 + i % 9]))
}

fn data(parts: Vec<Array>) -> Dataset {
    Dataset::from_parts("parts", [("x".to_string(), parts)])
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(teacher: &str, student: &str) -> Files {
        let folder = Files(tempfile::tempdir().unwrap());
        for (name, text) in [("teacher.onnx", teacher), ("student.onnx", student)] {
            std::fs::write(folder.path(name), onnx::to_bytes(&model(text)).unwrap()).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn check(&self, data: &Dataset) -> Check {
        let [teacher, student] = ["teacher.onnx", "student.onnx"].map(|name| self.path(name));
        check(&teacher, &student, data, &Normalise::default(), &|_, _| {}).unwrap()
    }

    /// Writes samples as files of a folder, a file each.
    fn save(&self, folder: &str, samples: &[Array]) {
        std::fs::create_dir(self.path(folder)).unwrap();
        for (i, sample) in samples.iter().enumerate() {
            let dims: Vec<String> = sample.shape().iter().map(usize::to_string).collect();
            let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims.join(", "));
            header.extend(std::iter::repeat_n(' ', 63 - (header.len() + 10) % 64));
            header.push('\n');
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((header.len() as u16).to_le_bytes());
            bytes.extend(header.as_bytes());
            bytes.extend(sample.bytes());
            std::fs::write(self.path(folder).join(format!("{i:04}.npy")), bytes).unwrap();
        }
    }

    fn tutee(&self, args: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        command.args(args.split_whitespace()).current_dir(self.0.path()).output().unwrap()
    }

    fn stdout(&self, args: &str) -> String {
        let out = self.tutee(args);
        assert!(out.status.success(), "tutee {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

fn threads<T: Send>(count: usize, run: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run)
}

/// What sums over samples are made of does not depend on how they are grouped.
#[test]
fn a_check_says_what_checks_of_each_size_say() {
    for (net, all, kind) in [(PICTURES, pictures(30), OutputKind::Classes), (LINES, lines(30), OutputKind::Sequence)] {
        let files = Files::new(net, &net.replace("seed(3)", "seed(4)"));
        let whole = files.check(&data(all.clone()));
        let mut shapes: Vec<Vec<usize>> = all.iter().map(|a| a.shape().to_vec()).collect();
        shapes.sort();
        shapes.dedup();
        let parts = shapes.iter().map(|shape| all.iter().filter(|a| a.shape() == shape).cloned().collect());
        let parts: Vec<Check> = parts.map(|of_shape| files.check(&data(of_shape))).collect();
        let (name, of) = whole.outputs.iter().next().unwrap();
        assert_eq!(of.verdict.as_ref().unwrap().kind, kind);
        assert_eq!((whole.samples, parts.len()), (30, if kind == OutputKind::Classes { 4 } else { 9 }));
        let max = parts.iter().map(|p| p.outputs[name].max_abs).fold(0.0, f64::max);
        assert_eq!(of.max_abs, max);
        let mean = |of: &dyn Fn(&Check) -> f64| parts.iter().map(|p| of(p) * p.samples as f64).sum::<f64>() / 30.0;
        if kind == OutputKind::Classes {
            assert!((whole.agreement.unwrap() - mean(&|p| p.agreement.unwrap())).abs() < 1e-9);
            assert!((of.mean_abs - mean(&|p| p.outputs[name].mean_abs)).abs() < 1e-9);
        }
        let told =
            whole.remarks.iter().filter(|w| w.contains("different shapes: MACs and times are those of [1,")).count();
        assert_eq!(told, 1, "{:?}", whole.remarks);
    }
}

#[test]
fn labels_stay_with_their_samples() {
    let files = Files::new(PICTURES, PICTURES);
    let all = pictures(24);
    let judge = |labels: &[u8]| {
        let y = Array::new(tutee::data::Dtype::U8, vec![24], labels.to_vec()).unwrap();
        let parts = [("x".to_string(), all.clone()), ("y".to_string(), vec![y])];
        files.check(&Dataset::from_parts("labelled", parts))
    };
    // What it says is found by asking for each class.
    let mut right = vec![0u8; 24];
    for (i, picture) in all.iter().enumerate() {
        let network = tutee::exec::Network::load(&files.path("teacher.onnx")).unwrap();
        let scores = network.run(std::slice::from_ref(picture)).unwrap()[0].to_f64();
        right[i] = (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap() as u8;
    }
    assert_eq!(judge(&right).teacher.top1, Some(1.0));
    let mut turned = right.clone();
    turned.rotate_left(1);
    let hits = right.iter().zip(&turned).filter(|(a, b)| a == b).count();
    assert!((judge(&turned).teacher.top1.unwrap() - hits as f64 / 24.0).abs() < 1e-9);
}

fn compressed(net: &str, data: &Dataset, steps: &str) -> Outcome {
    let teacher = model(net);
    let calibration = Calibration::new(data, &Normalise::default(), &teacher, 512).unwrap();
    let data = Data { calibration: Some(&calibration), ..Data::default() };
    compress_on(data, &teacher, onnx::encoded_len(&teacher).unwrap(), &recipe(steps), None, &Silent).unwrap()
}

#[test]
fn calibration_repairs_on_all_sizes_and_the_bytes_repeat() {
    for (net, all) in [(PICTURES, pictures(120)), (LINES, lines(120))] {
        let data = data(all);
        let bytes = |count| threads(count, || onnx::to_bytes(&compressed(net, &data, STEPS).student).unwrap());
        let repaired = bytes(1);
        assert!(repaired == bytes(3), "the threads show");
        let plain = STEPS.replace(" }", ", repair = \"none\" }").replace("\"clean\", repair = \"none\"", "\"clean\"");
        let plain = onnx::to_bytes(&compressed(net, &data, &plain).student).unwrap();
        let files = Files::new(net, net);
        let error = |student: &[u8]| {
            std::fs::write(files.path("student.onnx"), student).unwrap();
            let check = files.check(&data);
            check.outputs.values().next().unwrap().mean_abs
        };
        let (with, without) = (error(&repaired), error(&plain));
        assert!(with < 0.8 * without, "{with} with repair, {without} without");
    }
}

/// Samples of one shape are the same data whether they lie in one array or in several files.
#[test]
fn parts_of_one_shape_are_one_array() {
    let all = samples((0..40).map(|_| vec![1, 3, 6, 5]));
    let bytes: Vec<f32> = all.iter().flat_map(Array::to_f32).collect();
    let whole = Array::from_f32(vec![40, 3, 6, 5], &bytes).unwrap();
    let whole = Dataset::from_arrays("whole", [("x".to_string(), whole)]);
    let student = |data| onnx::to_bytes(&compressed(PICTURES, data, STEPS).student).unwrap();
    assert!(student(&whole) == student(&data(all)));
}

#[test]
fn a_judge_scores_students_on_all_sizes() {
    for (net, all) in [(PICTURES, pictures(40)), (LINES, lines(40))] {
        let data = data(all);
        let (teacher, other) = (model(net), model(&net.replace("seed(3)", "seed(4)")));
        let picks: Vec<usize> = (0..40).collect();
        let judge =
            |picks: &[usize]| Judge::new(&teacher, &data, &Normalise::default(), picks, &Judging::default()).unwrap();
        let whole = judge(&picks);
        let same = whole.score(&teacher).unwrap();
        assert_eq!((same.samples, same.drop), (40, 0.0));
        assert!(same.loss < 1e-9, "{}", same.loss);
        let score = |count| threads(count, || whole.score(&other).unwrap());
        assert_eq!(score(1), score(3));
        let files = Files::new(net, &net.replace("seed(3)", "seed(4)"));
        let checked = files.check(&data).outputs.into_values().next().unwrap().verdict.unwrap();
        let scored = score(1);
        assert!((scored.drop - checked.lost).abs() < 1e-6, "{} and {}", scored.drop, checked.lost);
        assert!(whole.score_some(&other, 10).unwrap().samples < 40);
    }
}

#[test]
fn training_asks_for_one_shape() {
    let data = data(pictures(20));
    let e = Training::new(&data, &Normalise::default(), &model(PICTURES)).err().unwrap().to_string();
    assert!(e.contains("training needs samples of one shape"), "{e}");
    assert!(e.contains("sample 1 is `x` [1,3,8,6], 5 of 20 are `x` [1,3,6,5]"), "{e}");
}

#[test]
fn a_folder_of_arrays_goes_through_every_command() {
    let files = Files::new(LINES, LINES);
    files.save("lines", &lines(60));
    let compress =
        "compress teacher.onnx -o made.onnx -p cluster-weights:bits=4,min-weights=16 --calib lines --test lines";
    files.stdout(compress);
    assert!(files.stdout("check teacher.onnx made.onnx --data lines").contains("60"));
    files.stdout("sensitivity teacher.onnx --calib lines");
    let out = files.tutee("compress teacher.onnx -o made.onnx -p none --calib lines");
    let told = String::from_utf8(out.stderr).unwrap();
    assert!(told.contains("samples have 9 different shapes: MACs and times are those of [1,1,8,6]"), "{told}");
}

#[test]
fn pictures_of_many_sizes_are_read_from_a_folder() {
    let files = Files::new(PICTURES, PICTURES);
    std::fs::create_dir(files.path("pictures")).unwrap();
    for i in 0..30u32 {
        let picture = image::RgbImage::from_fn(5 + i % 4, 6 + 2 * (i % 2), |x, y| {
            image::Rgb([(40 * x + i) as u8, (30 * y) as u8, (x * y * i) as u8])
        });
        picture.save(files.path("pictures").join(format!("{i:02}.png"))).unwrap();
    }
    let data = Dataset::load(Path::new(&files.path("pictures"))).unwrap();
    let check = files.check(&data);
    assert_eq!((check.samples, check.agreement), (30, Some(1.0)));
    files.stdout(
        "compress teacher.onnx -o made.onnx -p cluster-weights:bits=4,min-weights=16 --calib pictures --scale 1/255",
    );
    // A network that fixes its sides names the picture that it cannot take.
    let fixed = PICTURES.replace("f32[N,3,H,W]", "f32[N,3,6,5]").replace("f32[N,12,H,W]", "f32[N,12,6,5]");
    std::fs::write(files.path("fixed.onnx"), onnx::to_bytes(&model(&fixed)).unwrap()).unwrap();
    let out = files.tutee("check fixed.onnx fixed.onnx --data pictures");
    let told = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && told.contains("01.png is 8x6 (height x width), 8 of 30 are 6x5"), "{told}");
    assert!(files.tutee("check fixed.onnx fixed.onnx --data pictures --resize 6x5").status.success());
}
