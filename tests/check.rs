//! Teacher against student on real images, and on small models for what real ones do not show.
#![cfg(feature = "exec")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tutee::check::{Check, check};
use tutee::data::{Array, Dataset, Dtype, Normalise};
use tutee::error::Result;

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
    assert!(!table.contains("top-1"), "{table}");
    assert!(result.misses(Some(0.0), Some(1.0)).is_empty());
}

#[test]
fn a_student_that_is_not_finite_is_told() {
    let data = scores(&[1.0, 3.0, 2.0, -1.0, 2.0, 1.0], Some(&[1, 1]));
    let result = compare("scores.onnx", "scores_log.onnx", &data).unwrap();
    assert_eq!((result.teacher.top1, result.student.top1), (Some(1.0), Some(0.5)));
    assert_eq!((result.agreement, result.outputs["scores"].student_non_finite), (Some(0.5), 1));
    assert!(result.to_string().contains("the student's output `scores` is NaN or infinite on 1 of 2 samples"));
    let misses = result.misses(None, None);
    assert!(misses.len() == 1 && misses[0].contains("NaN or infinite"), "{misses:?}");
    assert_eq!(result.misses(Some(0.4), Some(0.9)).len(), 3);
    assert_eq!(result.misses(Some(0.5), Some(0.5)).len(), 1);
    let json = serde_json::to_string(&result).unwrap();
    assert!(json.contains(r#""max_abs":null,"mean_abs":null,"cosine":null,"student_non_finite":1"#), "{json}");
    assert_eq!(json.matches("null").count(), 3, "{json}");
}

#[test]
fn a_drop_is_told_in_words() {
    let data = scores(&[0.5, 0.2, 0.1, 0.1, 0.2, 0.9], None);
    let result = compare("scores.onnx", "scores.onnx", &data).unwrap();
    assert!(result.teacher.top1.is_none() && result.misses(Some(0.0), None).is_empty());
    // Without labels the drop is the share of samples on which the two disagree.
    let mut worse = result;
    worse.agreement = Some(0.98);
    let misses = worse.misses(Some(0.01), Some(0.99));
    assert_eq!(misses[0], "teacher and student disagree on 2.00 % of the samples, more than 1.00 %");
    assert_eq!(misses[1], "teacher and student agree on 98.00 % of the samples, less than 99.00 %");
    assert!(worse.misses(Some(0.02), Some(0.98)).is_empty());
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
