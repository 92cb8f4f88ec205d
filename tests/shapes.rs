//! Shape inference against an independent one, value by value: tract's.
#![cfg(feature = "exec")]

mod common;

use common::{files, name};
use std::path::Path;
use tutee::exec::Network;
use tutee::ir::{DType, Dim, Type};
use tutee::onnx;

/// Where tract is wrong, or where the two may differ: beginnings of paths, and why.
const TRACT_DIFFERS: &[(&str, &str)] = &[
    ("fixtures/conformance/attention_", "tract gives ConstantOfShape without a value f64 instead of f32"),
    ("fixtures/conformance/causal_conv_with_state_silu_fp16", "the same"),
    ("fixtures/conformance/affine_grid_3d", "the same"),
];

/// Where tract knows what we do not: beginnings of paths, and why.
const TRACT_KNOWS_MORE: &[(&str, &str)] = &[
    ("fixtures/conformance/affine_grid_3d", "ranks behind an If whose branches differ in rank"),
    ("fixtures/conformance/attention_", "dims that an Expand gets from an integer division"),
    ("fixtures/conformance/layer_normalization_3d_axis_negative_3", "the length of a vector of computed length"),
    ("fixtures/onnx/external/", "an operator of another domain"),
    ("fixtures/onnx/functions", "a local function that overrides an operator"),
    ("fixtures/onnx/ir10_defaults", "an input that a caller may override"),
    ("fixtures/onnx/opset6", "operators before opset 7"),
    ("fixtures/onnx/opset99", "operators of an opset that is not defined yet"),
    ("fixtures/silero_vad_16k_op15", "ranks behind an If, of which tract takes the branch it can type"),
    ("fixtures/small/ifs", "an If with branches of different rank, of which tract takes one"),
];

fn excused(list: &[(&str, &str)], path: &Path) -> bool {
    list.iter().any(|(begin, _)| name(path).starts_with(begin))
}

/// What the two say of one value.
#[derive(PartialEq)]
enum Compared {
    Alike,
    TractKnowsMore,
    Contradiction,
}

fn compare(ours: Option<&Type>, dtype: &str, dims: Option<&Vec<String>>) -> Compared {
    let Some(Type::Tensor(d, shape)) = ours else { return Compared::TractKnowsMore };
    // tract is given half precision as f32.
    let d = if matches!(*d, DType::F16 | DType::BF16) { DType::F32 } else { *d };
    if d.to_string() != dtype {
        return Compared::Contradiction;
    }
    let Some(theirs) = dims else { return Compared::Alike };
    let Some(shape) = shape else { return Compared::TractKnowsMore };
    let pairs = || shape.0.iter().zip(theirs).filter_map(|(a, b)| Some((a, b.parse::<u64>().ok()?)));
    match () {
        _ if shape.rank() != theirs.len() || pairs().any(|(a, b)| !a.agrees(&Dim::Known(b))) => Compared::Contradiction,
        _ if pairs().any(|(a, _)| a.known().is_none()) => Compared::TractKnowsMore,
        _ => Compared::Alike,
    }
}

#[test]
fn everything_that_tract_knows_we_know() {
    let (mut wrong, mut values, mut models) = (Vec::new(), 0, 0);
    for path in files("fixtures", "onnx") {
        let (Ok(network), Ok(loaded)) = (Network::load(&path), onnx::load(&path)) else { continue };
        let graph = loaded.model.graph;
        let (theirs, _) = network.analyse(None).unwrap_or_else(|e| panic!("{e}"));
        models += 1;
        for (value, (dtype, dims)) in &theirs {
            let Some(id) = graph.find_value(value) else { continue };
            values += 1;
            let ours = graph.value(id).ty.as_ref();
            let excuse = match compare(ours, dtype, dims.as_ref()) {
                Compared::Alike => true,
                Compared::TractKnowsMore => excused(TRACT_KNOWS_MORE, &path),
                Compared::Contradiction => excused(TRACT_DIFFERS, &path),
            };
            if !excuse {
                let ours = ours.map_or("?".into(), Type::to_string);
                wrong.push(format!("{} %{value}: {ours}, and {dtype}{dims:?} in tract", name(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(models >= 180 && values >= 3000, "only {values} values of {models} models compared");
}
