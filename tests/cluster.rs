//! `cluster-weights`: the codes mean the rounded weights, tract folds them into one constant, and the file is as small as
//! it can be.
#![cfg(feature = "exec")]

mod common;

use common::root;
use std::path::Path;
use tutee::data::Array;
use tutee::exec::{Network, Runner};
use tutee::ir::{DType, Model, Patch, Source, Tensor, random, text};
use tutee::onnx::{self, SaveOptions, Target};

/// Convolutions and products of every layout: groups along the first and the last axis, rows that are no whole number of
/// bytes, a weight read twice, a constant on the left.
fn layers(opset: i64) -> Model {
    let text = format!(
        r#"model "layers" opset {opset} {{
  input %x : f32[1,7,9,9]
  const %odd : f32[17,7,3,3] = seed(1)
  const %even : f32[16,17,3,3] = seed(2)
  const %up : f32[16,12,2,2] = seed(3)
  const %left : f32[50,14] = seed(4)
  const %right : f32[14,60] = seed(5)
  const %twice : f32[60,60] = seed(6)

  %a : f32[1,17,7,7] = Conv(%x, %odd)
  %b : f32[1,16,7,7] = Conv<pads=[1,1,1,1]>(%a, %even)
  %c : f32[1,12,14,14] = ConvTranspose<strides=[2,2]>(%b, %up)
  %d : f32[1,12,50,14] = MatMul(%left, %c)
  %e : f32[1,12,50,60] = MatMul(%d, %right)
  %f : f32[1,12,50,60] = MatMul(%e, %twice)
  %y : f32[1,12,50,60] = MatMul(%f, %twice)

  output %y
}}"#
    );
    text::parse::model(&text).unwrap()
}

fn clustered(model: &Model, options: &str) -> Model {
    common::run(model, &format!("[{{ pass = \"cluster-weights\", {options} }}]")).unwrap().student
}

/// Weights of two values take a table of digits, however many levels were allowed.
#[test]
fn a_table_that_costs_more_than_it_saves() {
    let of = |channels: usize| {
        let values = ["1", "-1", "-1"].repeat(8 * channels * 3).join(",");
        let text = format!(
            "model \"two\" opset 17 {{
                input %x : f16[1,{channels},9,9] const %w : f16[8,{channels},3,3] = {{{values}}}
                %y : f16[1,8,7,7] = Conv(%x, %w)
                output %y
            }}"
        );
        let model = text::parse::model(&text).unwrap();
        [&model, &clustered(&model, "levels = 256")].map(|m| onnx::to_bytes(m).unwrap().len())
    };
    let [before, after] = of(8);
    assert_eq!(before, after);
    let [before, after] = of(64);
    assert!(after < before / 2, "{before} {after}");
}

fn runner(model: &Model, file: &Path, shape: &[usize]) -> Runner {
    onnx::save(model, &Target::File(file.into()), SaveOptions::default()).unwrap();
    Network::load(file).and_then(|n| n.runner(&[shape.to_vec()])).unwrap_or_else(|e| panic!("{e}"))
}

fn answer(model: &Model, file: &Path, shape: &[usize]) -> Vec<f64> {
    let noise = random::noise(9).map(|v| v as f32).take(shape.iter().product()).collect::<Vec<_>>();
    runner(model, file, shape).run(&[Array::from_f32(shape.to_vec(), &noise).unwrap()]).unwrap()[0].to_f64()
}

#[test]
fn codes_mean_the_rounded_weights() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layers.onnx");
    for (opset, levels) in [7, 9, 13].into_iter().zip([[2, 5, 17, 256], [3, 6, 8, 16], [4, 7, 16, 100]]) {
        for (levels, groups) in levels.into_iter().zip([1, 3, 5, 16]) {
            let options = format!("levels = {levels}, groups = {groups}, min-weights = 1");
            let (teacher, shape) = (layers(opset), [1, 7, 9, 9]);
            let student = clustered(&teacher, &options);
            assert!(student.graph.count_nodes() > teacher.graph.count_nodes() + 6);
            let rounded = clustered(&teacher, &format!("{options}, encode = false"));
            assert_eq!(rounded.graph.count_nodes(), teacher.graph.count_nodes());
            let (want, got) = (answer(&rounded, &file, &shape), answer(&student, &file, &shape));
            let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(scale > 1.0 && worst <= 1e-6 * scale, "opset {opset}, {options}: off by {worst} of {scale}");
        }
    }
}

#[test]
fn a_large_weight_is_one_constant_in_tract() {
    let folder = tempfile::tempdir().unwrap();
    let model = r#"model "large" opset 13 {
  input %x : f32[1,512,4,4]
  const %w : f32[512,512,3,3] = seed(1)

  %y : f32[1,512,4,4] = Conv<pads=[1,1,1,1]>(%x, %w)

  output %y
}"#;
    let (model, weights) = (text::parse::model(model).unwrap(), 512 * 512 * 9);
    for (options, codes) in
        [("levels = 16, groups = 16", weights / 2), ("levels = 6", weights / 3), ("levels = 64", weights)]
    {
        let (file, student) = (folder.path().join("large.onnx"), clustered(&model, options));
        let ops = runner(&student, &file, &[1, 512, 4, 4]).plan_ops();
        assert!(!ops.iter().any(|op| ["Gather", "Cast", "Add", "Concat"].iter().any(|o| op.contains(o))), "{ops:?}");
        assert_eq!(ops.iter().filter(|op| op.starts_with("Const")).count(), 1, "{ops:?}");
        let bytes = file.metadata().unwrap().len() as usize;
        assert!((codes..codes + 6_000).contains(&bytes), "{options}: {bytes} bytes for {codes} of codes");
    }
}

/// Bytes that a clustered model cannot do without: its constants.
fn content(model: &Model) -> usize {
    let constant = |v| match &model.graph.value(v).source {
        Source::Constant(t, _) => t.byte_len(),
        _ => 0,
    };
    model.graph.values().map(constant).sum()
}

#[test]
fn four_bits_are_four_bits() {
    let limits = [("lenet300", 141_000), ("lenet5", 227_000), ("resnet_small_bn", 124_000)];
    for (name, limit) in limits {
        let teacher = onnx::load(&root().join(format!("fixtures/{name}.onnx"))).unwrap().model;
        let steps = "[{ pass = \"clean\" }, { pass = \"cluster-weights\", bits = 4, groups = 16 }]";
        let student = common::run(&teacher, steps).unwrap().student;
        let bytes = onnx::encoded_len(&student).unwrap() as usize;
        assert!(bytes <= limit, "{name}: {bytes} bytes");
        assert!(bytes as f64 <= 1.03 * content(&student) as f64 + 16384.0, "{name}: {bytes} bytes");
    }
}

#[test]
fn zeros_of_a_pruned_weight_stay_zero() {
    let text = r#"model "pruned" opset 13 {
  input %x : f16[1,64]
  const %w : f16[64,64] = seed(1)

  %y : f16[1,64] = MatMul(%x, %w)

  output %y
}"#;
    let mut model = text::parse::model(text).unwrap();
    let w = model.graph.find_value("w").unwrap();
    let weights = |model: &Model| model.graph.value(w).constant().unwrap().clone();
    let pruned: Vec<f64> =
        weights(&model).floats().unwrap().into_iter().map(|w| if w > 0.0 && w < 0.2 { 0.0 } else { w }).collect();
    let mut patch = Patch::at_value(&model.graph, w);
    patch.set_constant(w, Tensor::from_floats(DType::F16, [64, 64], pruned.iter().copied()));
    model.graph.apply(patch).unwrap();
    let rounded = weights(&clustered(&model, "levels = 4, groups = 2, encode = false"));
    let kept = rounded.floats().unwrap().into_iter().zip(&pruned).filter(|(new, old)| *new == 0.0 && **old == 0.0);
    assert_eq!(rounded.dtype(), DType::F16);
    assert_eq!(kept.count(), pruned.iter().filter(|w| **w == 0.0).count());
}

#[test]
fn pruning_and_codebooks_compose() {
    let text = r#"model "pruned" opset 13 {
  input %x : f32[96,96]
  const %w : f32[96,120] = seed(1)

  %y : f32[96,120] = MatMul(%x, %w)

  output %y
}"#;
    let model = text::parse::model(text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pruned.onnx");
    let w = model.graph.find_value("w").unwrap();
    let values = |m: &Model| m.graph.value(w).constant().unwrap().floats().unwrap();
    let identity: Vec<f32> = (0..96 * 96).map(|i| if i % 97 == 0 { 1.0 } else { 0.0 }).collect();
    let identity = Array::from_f32(vec![96, 96], &identity).unwrap();
    for (sparsity, levels, groups) in
        [(0.05, 16, 16), (0.3, 2, 4), (0.5, 3, 1), (0.8, 4, 7), (0.9, 6, 3), (0.97, 256, 1)]
    {
        let prune = format!(r#"{{ pass = "prune-weights", sparsity = {sparsity} }}"#);
        let cluster = format!(r#"{{ pass = "cluster-weights", levels = {levels}, groups = {groups} }}"#);
        let pruned = values(&common::run(&model, &format!("[{prune}]")).unwrap().student);
        let zero = pruned.iter().filter(|w| **w == 0.0).count();
        assert_eq!(zero, (sparsity * 96.0 * 120.0_f64).round() as usize);
        let done = common::run(&model, &format!("[{prune}, {cluster}]")).unwrap();
        assert!(done.student.graph.count_nodes() > 1, "{levels} levels: not encoded");
        // One weight and 95 zeros are summed: what comes out is the weights as tract decodes them.
        let decoded = runner(&done.student, &file, &[96, 96]).run(std::slice::from_ref(&identity)).unwrap()[0].to_f64();
        let kept = decoded.iter().zip(&pruned).filter(|(new, old)| **new == 0.0 && **old == 0.0).count();
        assert_eq!(kept, zero, "{sparsity}, {levels} levels, {groups} groups");

        let packed = done.report.zstd_bytes.unwrap();
        assert_eq!(packed.student, onnx::packed_file_len(&file).unwrap().1);
        assert_eq!(packed.teacher, onnx::packed_len(&model).unwrap());
        assert_eq!(done.report.steps[1].zstd_bytes, Some(packed.student));
        let pruned = done.report.steps[0].zstd_bytes.unwrap();
        assert!(pruned < packed.teacher && packed.student < packed.teacher, "{pruned}, {packed:?}");
    }
}
