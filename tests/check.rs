//! Teacher against student on real images, and on small models for what real ones do not show.
#![cfg(feature = "exec")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tutee::check::{Check, Judging, Metric, OutputKind, Targets, check, check_as};
use tutee::data::{Array, Dataset, Dtype, Normalise, SampleStream};
use tutee::error::Result;
use tutee::exec::Network;
use tutee::ir::{random, text};
use tutee::onnx;

const RESNET: &str = "fixtures/resnet_small_bn.onnx";

fn fashion() -> Normalise {
    Normalise { scale: 1.0 / 255.0, mean: vec![0.2860], std: vec![0.3530] }
}

fn small(name: &str) -> PathBuf {
    Path::new("fixtures/small").join(name)
}

fn compare(teacher: &str, student: &str, data: &Dataset) -> Result<Check> {
    check(&small(teacher), &small(student), data, &Normalise::default(), &|_, _| {})
}

fn scores(x: &[f32], y: Option<&[u8]>) -> Dataset {
    let x = Array::from_f32(vec![x.len() / 3, 3], x).unwrap();
    let y = y.map(|y| ("y".to_owned(), Array::new(Dtype::U8, vec![y.len()], y.to_vec()).unwrap()));
    Dataset::from_arrays("scores.npz", [("x".to_owned(), x)].into_iter().chain(y))
}

fn targets(max_drop: Option<f64>, min_agreement: Option<f64>) -> Targets {
    Targets { max_drop, min_agreement, max_error: None }
}

/// A model in the text form, and a student of other weights, as files.
struct Models(tempfile::TempDir);

impl Models {
    fn new(text: &str, student: impl Fn(&str) -> String) -> Models {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("teacher.onnx", text.to_string()), ("student.onnx", student(text))] {
            let model = text::parse::model(&text).unwrap();
            std::fs::write(folder.path().join(name), onnx::to_bytes(&model).unwrap()).unwrap();
        }
        Models(folder)
    }

    fn check(&self, data: &Dataset, judging: &Judging) -> Result<Check> {
        let [teacher, student] = ["teacher.onnx", "student.onnx"].map(|name| self.0.path().join(name));
        check_as(&teacher, &student, data, &Normalise::default(), judging, &|_, _| {})
    }
}

fn other_weights(text: &str) -> String {
    text.replace("seed(2)", "seed(3)")
}

/// Samples of numbers that look random, under `x`.
fn noise(n: usize, shape: &[usize]) -> Dataset {
    let shape: Vec<usize> = std::iter::once(n).chain(shape.iter().copied()).collect();
    let values: Vec<f32> = random::noise(7).take(shape.iter().product()).map(|v| v as f32).collect();
    Dataset::from_arrays("noise", [("x".to_owned(), Array::from_f32(shape, &values).unwrap())])
}

#[test]
fn a_copy_of_a_mask_says_nothing_of_an_encoder() {
    let encoder = "model \"encoder\" opset 17 {
        input %ids : i64[N,6]
        input %mask : i64[N,6]
        const %table : f32[50,16] = seed(1)
        const %w : f32[16,16] = seed(2)
        const %axes : i64[1] = {2}
        %copy : f32[N,6] = Cast<to=1>(%mask)
        %e : f32[N,6,16] = Gather<axis=0>(%table, %ids)
        %m : f32[N,6,1] = Unsqueeze(%copy, %axes)
        %em : f32[N,6,16] = Mul(%e, %m)
        %h : f32[N,6,16] = MatMul(%em, %w)
        %t : f32[N,6,16] = Tanh(%h)
        %sentence : f32[N,16] = ReduceMean<axes=[1], keepdims=0>(%t)
        output %copy
        output %sentence
    }";
    let ints = |of: &dyn Fn(usize) -> u8| Array::new(Dtype::U8, vec![8, 6], (0..48).map(of).collect()).unwrap();
    let data = Dataset::from_arrays(
        "ids",
        [
            ("ids".to_owned(), ints(&|i| (i * 7 % 50) as u8)),
            ("mask".to_owned(), ints(&|i| u8::from(i % 6 < 3 + i / 16))),
        ],
    );
    let same = Models::new(encoder, str::to_owned).check(&data, &Judging::default()).unwrap();
    assert!(same.misses(&targets(Some(0.0), Some(1.0))).is_empty(), "{same}");
    assert!(same.outputs["copy"].verdict.is_none() && same.agreement.is_none());
    assert!(same.to_string().contains("`copy`: not judged"), "{same}");
    let destroyed = Models::new(encoder, other_weights).check(&data, &Judging::default()).unwrap();
    let verdict = destroyed.outputs["sentence"].verdict.as_ref().unwrap();
    assert_eq!((verdict.kind, verdict.metric), (OutputKind::Embedding, Metric::Cosine));
    let misses = destroyed.misses(&targets(Some(0.01), Some(0.99)));
    assert!(misses.len() == 2 && misses[0].contains("`sentence`: the cosine is"), "{misses:?}");
}

/// A network of one layer and what comes behind it.
fn network(shape: &str, layer: &str) -> String {
    format!(
        "model \"m\" opset 17 {{
            input %x : f32[N,{shape}]
            const %w : f32[4,4] = seed(2)
            const %half : f32[] = {{0.5}}
            {layer}
            output %y
        }}"
    )
}

#[test]
fn every_kind_of_output_has_a_gate() {
    let linear = |shape: &str| format!("%h : f32[N,{shape}] = MatMul(%x, %w)\n");
    let behind = |shape: &str, node: &str| network(shape, &format!("{}{node}", linear(shape)));
    for (model, shape, kind, metric) in [
        (behind("4", "%y : f32[N,4] = Softmax<axis=1>(%h)"), &[4][..], OutputKind::Classes, Metric::Top1),
        (network("4", "%y : f32[N,4] = MatMul(%x, %w)"), &[4], OutputKind::Classes, Metric::Top1),
        (behind("9,4", "%y : f32[N,9,4] = LogSoftmax<axis=2>(%h)"), &[9, 4], OutputKind::Sequence, Metric::Sequence),
        (behind("3,5,4", "%y : f32[N,3,5,4] = Softmax<axis=3>(%h)"), &[3, 5, 4], OutputKind::Classes, Metric::Top1),
        (behind("4", "%y : f32[N,4] = Tanh(%h)"), &[4], OutputKind::Embedding, Metric::Cosine),
        (behind("4", "%y : f32[N,4] = Sigmoid(%h)"), &[4], OutputKind::Value, Metric::Rmse),
        (behind("9,4", "%y : f32[N,9,4] = Sigmoid(%h)"), &[9, 4], OutputKind::Map, Metric::Rmse),
        (behind("4", "%y : i64[N,1] = ArgMax<axis=1>(%h)"), &[4], OutputKind::Value, Metric::Equal),
        (
            behind("4", "%s : f32[N,1] = ReduceSum(%h, %last)\n%y : f32[N,1] = Sigmoid(%s)")
                .replace("const %half", "const %last : i64[1] = {1}\nconst %half"),
            &[4],
            OutputKind::Classes,
            Metric::Top1,
        ),
    ] {
        let data = noise(24, shape);
        let same = Models::new(&model, str::to_owned).check(&data, &Judging::default()).unwrap();
        let verdict = same.outputs["y"].verdict.as_ref().unwrap();
        assert_eq!((verdict.kind, verdict.metric), (kind, metric), "{model}: {}", verdict.why);
        let strict = Targets { max_drop: Some(0.0), min_agreement: Some(1.0), max_error: Some(0.0) };
        assert!(same.misses(&strict).is_empty(), "{model}: {:?}", same.misses(&strict));
        let destroyed = Models::new(&model, other_weights).check(&data, &Judging::default()).unwrap();
        let loose = Targets { max_drop: Some(0.1), min_agreement: Some(0.9), max_error: Some(0.1) };
        let misses = destroyed.misses(&loose);
        let gates = misses.iter().filter(|miss| !miss.contains("of no use")).count();
        assert_eq!(gates, 3, "{model}: {destroyed}");
    }
}

#[test]
fn pooled_scores_of_classes_are_told_from_features() {
    let model = |width: usize, name: &str| {
        format!(
            "model \"m\" opset 17 {{
                input %x : f32[N,4,5,5]
                const %w : f32[{width},4,1,1] = seed(2)
                %c : ? = Conv(%x, %w)
                %r : ? = Relu(%c)
                %p : ? = GlobalAveragePool(%r)
                %{name} : f32[N,{width}] = Flatten(%p)
                output %{name}
            }}"
        )
    };
    let kind = |width: usize, name: &str, data: &Dataset| {
        let check = Models::new(&model(width, name), str::to_owned).check(data, &Judging::default()).unwrap();
        let verdict = check.outputs[name].verdict.as_ref().unwrap();
        assert!(verdict.why.contains("comes last") || verdict.why.contains("labels"), "{}", verdict.why);
        (verdict.kind, verdict.metric)
    };
    let data = noise(24, &[4, 5, 5]);
    assert_eq!(kind(10, "pool10", &data), (OutputKind::Classes, Metric::Top1));
    assert_eq!(kind(32, "y", &data), (OutputKind::Embedding, Metric::Cosine));
    let x: Vec<f32> = random::noise(7).take(24 * 100).map(|v| v as f32).collect();
    let y = Array::new(Dtype::U8, vec![24], (0..24).collect()).unwrap();
    let x = Array::from_f32(vec![24, 4, 5, 5], &x).unwrap();
    let labelled = Dataset::from_arrays("labelled", [("x".to_owned(), x), ("y".to_owned(), y)]);
    assert_eq!(kind(32, "pool", &labelled), (OutputKind::Classes, Metric::Top1));
}

#[test]
fn a_student_that_knows_nothing_is_said_to_be_of_no_use() {
    let model = network("4", "%y : f32[N,4] = MatMul(%x, %w)");
    let zero = |text: &str| text.replace("seed(2)", &format!("{{{}}}", ["0"; 16].join(",")));
    let result = Models::new(&model, zero).check(&noise(60, &[4]), &Judging::default()).unwrap();
    assert!(result.warnings.iter().any(|w| w.contains("of no use: all 60 answers")), "{:?}", result.warnings);
    let misses = result.misses(&targets(Some(1.0), None));
    assert!(misses.len() == 1 && misses[0].contains("of no use"), "{misses:?}");
    let same = Models::new(&model, str::to_owned).check(&noise(60, &[4]), &Judging::default()).unwrap();
    assert_eq!(same.ruined, None);
}

#[test]
fn the_user_has_the_last_word_on_what_an_output_is() {
    let model = network("9,4", "%y : f32[N,9,4] = MatMul(%x, %w)");
    let models = Models::new(&model, other_weights);
    let mut judging = Judging::default();
    judging.output("y=sequence").unwrap();
    judging.metric("cosine").unwrap();
    let verdict = models.check(&noise(9, &[9, 4]), &judging).unwrap().outputs["y"].verdict.clone().unwrap();
    assert_eq!((verdict.kind, verdict.metric, &*verdict.why), (OutputKind::Sequence, Metric::Cosine, "as you said"));
    assert!(judging.output("y=picture").unwrap_err().to_string().contains("NAME=classes|sequence"));
    assert!(judging.metric("y=best").unwrap_err().to_string().contains("top-1|sequence"));
    judging.output("z=map").unwrap();
    let e = models.check(&noise(9, &[9, 4]), &judging).unwrap_err().to_string();
    assert!(e.contains("no output `z`") && e.contains("`y`"), "{e}");
}

#[test]
fn data_that_moves_nothing_lets_no_student_pass() {
    let model = network("4", "%y : f32[N,4] = MatMul(%x, %w)");
    let x = Array::from_f32(vec![3, 4], &[0.5; 12]).unwrap();
    let data = Dataset::from_arrays("same", [("x".to_owned(), x)]);
    let result = Models::new(&model, str::to_owned).check(&data, &Judging::default()).unwrap();
    assert!(result.warnings[0].contains("to agree with it shows nothing"), "{:?}", result.warnings);
    let misses = result.misses(&targets(Some(0.01), None));
    assert!(misses.len() == 1 && misses[0].contains("cannot be told"), "{misses:?}");
    assert!(result.misses(&Targets::default()).is_empty());
}

#[test]
fn what_is_not_finite_is_refused() {
    let model = network("4", "%y : f32[N,4] = MatMul(%x, %w)");
    let models = Models::new(&model, str::to_owned);
    for hole in [f32::NAN, f32::INFINITY] {
        let x = Array::from_f32(vec![2, 4], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, hole]).unwrap();
        let data = Dataset::from_arrays("holes", [("x".to_owned(), x)]);
        let e = models.check(&data, &Judging::default()).unwrap_err().to_string();
        assert!(e.contains("f32[?,4] is not finite") && e.contains("sample 1, holes"), "{e}");
    }
    let roots = network("4", "%h : f32[N,4] = MatMul(%x, %w)\n%y : f32[N,4] = Log(%h)");
    let e = Models::new(&roots, str::to_owned).check(&noise(4, &[4]), &Judging::default()).unwrap_err().to_string();
    assert!(e.contains("the teacher's output `y` is not finite") && e.contains("of 4 samples"), "{e}");
    let huge = network("4", "%h : f32[N,4] = MatMul(%x, %w)\n%y : f32[N,4] = Div(%h, %zero)")
        .replace("const %half", "const %zero : f32[] = {0}\nconst %half");
    let e = Models::new(&huge, str::to_owned).check(&noise(4, &[4]), &Judging::default()).unwrap_err().to_string();
    assert!(e.contains("infinite everywhere"), "{e}");
}

#[test]
fn accuracy_is_onnx_runtimes_and_any_number_of_threads_says_the_same() {
    let data = Dataset::load(Path::new("fixtures/fashion_test.npz")).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let last = AtomicUsize::new(0);
        let progress = |done, total| {
            assert_eq!(total, 300);
            last.fetch_max(done, Ordering::Relaxed);
        };
        let result = pool.install(|| check(RESNET.as_ref(), RESNET.as_ref(), &data, &fashion(), &progress));
        assert_eq!(last.into_inner(), 300);
        result.unwrap()
    };
    let mut json = [1, 2].map(|threads| serde_json::to_value(run(threads)).unwrap());
    for json in &mut json {
        for side in ["teacher", "student"] {
            let latency = json[side].as_object_mut().unwrap().remove("latency_ms").unwrap();
            assert!(latency.as_f64().unwrap() > 0.0);
        }
    }
    let [one, two] = json;
    assert_eq!(one, two);
    assert_eq!((one["version"].as_u64(), one["samples"].as_u64()), (Some(1), Some(300)));
    assert_eq!(one["teacher"]["top1"], 268.0 / 300.0);
    assert_eq!(one["teacher"]["top5"], 1.0);
    assert_eq!(
        (&one["teacher"]["parameters"], &one["teacher"]["macs"]),
        (&Value::from(175_994), &Value::from(20_183_936))
    );
    assert_eq!(one["student"]["bytes"], std::fs::metadata(RESNET).unwrap().len());
    assert_eq!((&one["agreement"], &one["kl"]), (&Value::from(1.0), &Value::from(0.0)));
    assert_eq!(one["outputs"]["logits"]["max_abs"], 0.0);
}

#[test]
fn the_table_is_for_people() {
    let data = Dataset::load(Path::new("fixtures/fashion_calib.npz")).unwrap();
    let result = check(RESNET.as_ref(), RESNET.as_ref(), &data, &fashion(), &|_, _| {}).unwrap();
    let table = result.to_string();
    assert!(table.contains("175,994") && table.contains("agreement  100.00 %") && table.contains("logits"), "{table}");
    assert!(!table.contains("\ntop-1"), "{table}");
    assert!(result.misses(&targets(Some(0.0), Some(1.0))).is_empty());
}

#[test]
fn a_student_that_is_not_finite_is_told() {
    let data = scores(&[1.0, 3.0, 2.0, 2.0, -1.0, 1.0], Some(&[1, 0]));
    let result = compare("scores.onnx", "scores_log.onnx", &data).unwrap();
    assert_eq!((result.teacher.top1, result.student.top1), (Some(1.0), Some(0.5)));
    assert_eq!((result.agreement, result.outputs["scores"].student_non_finite), (Some(0.5), 1));
    assert!(result.to_string().contains("the student's output `scores` is NaN or infinite on 1 of 2 samples"));
    let misses = result.misses(&Targets::default());
    assert!(misses.len() == 1 && misses[0].contains("NaN or infinite"), "{misses:?}");
    assert_eq!(result.misses(&targets(Some(0.4), Some(0.9))).len(), 3);
    assert_eq!(result.misses(&targets(Some(0.5), Some(0.5))).len(), 1);
    let json = serde_json::to_string(&result).unwrap();
    assert!(json.contains(r#""max_abs":null,"mean_abs":null,"cosine":null,"student_non_finite":1"#), "{json}");
    assert_eq!(json.matches("null").count(), 3, "{json}");
}

#[test]
fn a_drop_is_told_in_words() {
    let data = scores(&[0.5, 0.2, 0.1, 0.1, 0.2, 0.9], None);
    let mut result = compare("scores.onnx", "scores.onnx", &data).unwrap();
    assert!(result.teacher.top1.is_none() && result.misses(&targets(Some(0.0), None)).is_empty());
    // Without labels the drop is the share of samples on which the two disagree.
    let verdict = result.outputs.get_mut("scores").and_then(|o| o.verdict.as_mut()).unwrap();
    (verdict.error, verdict.lost) = (0.02, 0.02);
    let misses = result.misses(&targets(Some(0.01), Some(0.99)));
    assert_eq!(misses[0], "output `scores`: teacher and student disagree on 2.00 % of the samples, more than 1.00 %");
    assert_eq!(misses[1], "output `scores`: teacher and student agree on 98.00 % of the samples, less than 99.00 %");
    assert!(result.misses(&targets(Some(0.02), Some(0.98))).is_empty());
    (result.teacher.top1, result.student.top1) = (Some(0.9), Some(0.88));
    let misses = result.misses(&targets(Some(0.01), None));
    assert_eq!(misses[0], "top-1 accuracy fell from 90.00 % to 88.00 %, by more than 1.00 %");
}

#[test]
fn probabilities_are_not_softmaxed_again() {
    let network = "two_inputs.onnx";
    let a = Array::from_f32(vec![2, 3], &[1.0, 2.0, 3.0, 0.0, 0.0, 9.0]).unwrap();
    let ids = Array::new(Dtype::U8, vec![2, 3], vec![0; 6]).unwrap();
    let data = Dataset::from_arrays("d", [("a".to_owned(), a), ("ids".to_owned(), ids)]);
    let result = compare(network, network, &data).unwrap();
    assert_eq!((result.kl, result.agreement), (Some(0.0), Some(1.0)));
    assert_eq!(result.outputs.keys().collect::<Vec<_>>(), ["p", "total"]);
}

#[test]
fn a_fixed_batch_is_split_into_samples() {
    let x: Vec<f32> = (0..18).map(|v| v as f32).collect();
    let result = compare("batch4.onnx", "batch4.onnx", &scores(&x, Some(&[1, 1, 1, 1, 1, 0]))).unwrap();
    assert_eq!((result.samples, result.teacher.top1), (6, Some(5.0 / 6.0)));
    assert_eq!(result.teacher.top5, None);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let data = || scores(&[1.0; 6], None);
    let e = compare("scores.onnx", "batch4.onnx", &data()).unwrap_err().to_string();
    assert!(e.contains("differ in their outputs"), "{e}");
    let e = compare("scores.onnx", "two_inputs.onnx", &data()).unwrap_err().to_string();
    assert!(e.contains("differ in their inputs") && e.contains("`ids` i64"), "{e}");
    let e = compare("scores.onnx", "scores.onnx", &scores(&[1.0; 6], Some(&[0, 3]))).unwrap_err().to_string();
    assert!(e.contains("label 3 of sample 1 is not a class"), "{e}");
}

/// A gated cell. That its state has six numbers shows only in what it gives.
const CELL: &str = "model \"cell\" opset 17 {
    input %x : f32[1,4] input %h : f32[N,M]
    const %wz : f32[4,6] = seed(1) const %wn : f32[4,6] = seed(2) const %one : f32[] = {1.0}
    const %wy : f32[6,3] = seed(5)
    %a : ? = MatMul(%x, %wz) %ab : ? = Add(%a, %h) %z : ? = Sigmoid(%ab)
    %c : ? = MatMul(%x, %wn) %n : ? = Tanh(%c) %k : ? = Sub(%one, %z)
    %old : ? = Mul(%z, %h) %new : ? = Mul(%k, %n) %hn : ? = Add(%old, %new)
    %y : ? = MatMul(%hn, %wy)
    output %y output %hn
}";

fn cell_stream(length: Option<usize>) -> Dataset {
    let feedback = BTreeMap::from([("h".to_string(), "hn".to_string())]);
    noise(30, &[4]).in_streams(SampleStream::new(feedback, length).unwrap())
}

/// What a cell answers to samples one after the other.
fn cell_answers(file: &Path, data: &Dataset, length: usize) -> Vec<f64> {
    let network = Network::load(file).unwrap();
    let x = data.array("x").unwrap().to_f32();
    let zeros = || Array::from_f32(vec![1, 6], &[0.0; 6]).unwrap();
    let (mut state, mut answers) = (zeros(), Vec::new());
    for (i, x) in x.chunks(4).enumerate() {
        if i % length == 0 {
            state = zeros();
        }
        let given = network.run(&[Array::from_f32(vec![1, 4], x).unwrap(), state]).unwrap();
        answers.extend(given[0].to_f64());
        state = given[1].clone();
    }
    answers
}

#[test]
fn teacher_and_student_go_on_from_their_own_states() {
    let models = Models::new(CELL, other_weights);
    let files = ["teacher.onnx", "student.onnx"].map(|name| models.0.path().join(name));
    let far = |length: Option<usize>| {
        let data = cell_stream(length);
        let [t, s] = files.each_ref().map(|file| cell_answers(file, &data, length.unwrap_or(30)));
        let wanted = t.iter().zip(&s).map(|(t, s)| (t - s).abs()).fold(0.0, f64::max);
        let given = models.check(&data, &Judging::default()).unwrap().outputs["y"].max_abs;
        assert!((given - wanted).abs() < 1e-5 && wanted > 0.1, "{given} for {wanted}");
        given
    };
    assert_ne!(far(None), far(Some(5)));
}

#[test]
fn what_cannot_be_fed_back_is_refused() {
    let models = Models::new(CELL, other_weights);
    let refused = |data: Dataset, feedback: [&str; 2]| {
        let feedback = BTreeMap::from([feedback.map(String::from).into()]);
        let data = data.in_streams(SampleStream::new(feedback, None).unwrap());
        models.check(&data, &Judging::default()).unwrap_err().to_string()
    };
    let both = || {
        let state = Array::from_f32(vec![30, 1, 6], &[0.0; 180]).unwrap();
        let x = noise(30, &[4]).array("x").unwrap().clone();
        Dataset::from_arrays("both", [("x".to_string(), x), ("h".to_string(), state)])
    };
    for (data, feedback, why) in [
        (noise(30, &[4]), ["g", "hn"], "no such input, it has `x`, `h`"),
        (noise(30, &[4]), ["h", "g"], "no such output, it has `y`, `hn`"),
        (both(), ["h", "hn"], "the data holds `h`, too"),
    ] {
        let e = refused(data, feedback);
        assert!(e.contains(why), "{e}");
    }
    let other =
        CELL.replace("%h : f32[N,M]", "%h : f32[1,6]").replace("output %hn", "%last : ? = Neg(%y) output %last");
    let models = Models::new(&other, other_weights);
    let feedback = BTreeMap::from([("h".to_string(), "last".to_string())]);
    let data = noise(30, &[4]).in_streams(SampleStream::new(feedback, None).unwrap());
    let e = models.check(&data, &Judging::default()).unwrap_err().to_string();
    assert!(e.contains("for f32[1,6] it gives f32[1,3]"), "{e}");
}
