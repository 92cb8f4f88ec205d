//! The passes that put two layers in the place of one, by numbers: a weight of the rank that is kept comes out exact,
//! whatever the layer's attributes. A plain evaluator of Conv, Gemm and MatMul judges.

mod common;

use common::run;
use ndarray::{ArrayD, Axis, Dimension, IxDyn};
use tutee::ir::op::conv::{AutoPad, Conv};
use tutee::ir::op::gemm::Gemm;
use tutee::ir::random::noise;
use tutee::ir::text::parse::model;
use tutee::ir::{Model, Op, Patch, Tensor};

/// Runs a graph of one input and one output.
fn evaluate(model: &Model, x: &ArrayD<f64>) -> ArrayD<f64> {
    let g = &model.graph;
    let mut known: Vec<(_, ArrayD<f64>)> = vec![(g.inputs()[0], x.clone())];
    for v in g.values() {
        if let Some(t) = g.value(v).constant() {
            known.push((v, ArrayD::from_shape_vec(t.shape(), t.floats().unwrap()).unwrap()));
        }
    }
    for n in g.topological().unwrap() {
        let input = |slot| g.input(n, slot).map(|v| &known.iter().find(|k| k.0 == v).unwrap().1);
        let (a, b, c) = (input(0).unwrap(), input(1).unwrap(), input(2));
        let y = match &g.node(n).op {
            Op::Conv(op) => conv(op, a, b, c),
            Op::Gemm(op) => gemm(op, a, b, c),
            Op::MatMul(_) => matmul(a, b),
            _ => panic!("an operator that no test has"),
        };
        known.push((g.output(n).unwrap(), y));
    }
    known.into_iter().find(|k| k.0 == g.outputs()[0]).unwrap().1
}

fn conv(op: &Conv, x: &ArrayD<f64>, w: &ArrayD<f64>, bias: Option<&ArrayD<f64>>) -> ArrayD<f64> {
    let axes = x.ndim() - 2;
    let mut begins = vec![0; axes];
    let mut dims = vec![x.shape()[0], w.shape()[0]];
    for (axis, first) in begins.iter_mut().enumerate() {
        let (n, k) = (x.shape()[axis + 2] as i64, w.shape()[axis + 2] as i64);
        let (stride, reach) = (op.window.stride(axis), (k - 1) * op.window.dilation(axis) + 1);
        let (begin, end) = match op.window.auto_pad {
            AutoPad::NotSet => op.window.pad(axis, axes),
            AutoPad::Valid => (0, 0),
            same => {
                let all = (((n + stride - 1) / stride - 1) * stride + reach - n).max(0);
                let less = all / 2;
                if same == AutoPad::SameUpper { (less, all - less) } else { (all - less, less) }
            }
        };
        *first = begin;
        dims.push(((n + begin + end - reach) / stride + 1) as usize);
    }
    let a_group = w.shape()[0] / op.group as usize;
    ArrayD::from_shape_fn(dims, |at| {
        let taps = w.index_axis(Axis(0), at[1]);
        let products = taps.indexed_iter().map(|(tap, weight)| {
            let mut from = vec![at[0], at[1] / a_group * w.shape()[1] + tap[0]];
            for axis in 0..axes {
                let (step, offset) = (op.window.stride(axis), op.window.dilation(axis) * tap[axis + 1] as i64);
                match usize::try_from(at[axis + 2] as i64 * step + offset - begins[axis]) {
                    Ok(i) if i < x.shape()[axis + 2] => from.push(i),
                    _ => return 0.0,
                }
            }
            weight * x[IxDyn(&from)]
        });
        products.sum::<f64>() + bias.map_or(0.0, |b| b[at[1]])
    })
}

fn gemm(op: &Gemm, a: &ArrayD<f64>, b: &ArrayD<f64>, c: Option<&ArrayD<f64>>) -> ArrayD<f64> {
    let turn = |m: &ArrayD<f64>, yes: bool| if yes { m.t().to_owned() } else { m.clone() };
    let y = matmul(&turn(a, op.trans_a), &turn(b, op.trans_b)) * f64::from(op.alpha);
    match c {
        Some(c) => y + c * f64::from(op.beta),
        None => y,
    }
}

/// One of the factors is a matrix or both are; the other may have any number of axes.
fn matmul(a: &ArrayD<f64>, b: &ArrayD<f64>) -> ArrayD<f64> {
    let (rows, inner) = a.shape().split_at(a.ndim() - 1);
    let at = b.ndim().saturating_sub(2);
    let mut dims = if a.ndim() >= b.ndim() { rows.to_vec() } else { b.shape()[..at].to_vec() };
    if a.ndim() < b.ndim() {
        dims.extend(rows);
    }
    if b.ndim() > 1 {
        dims.push(b.shape()[b.ndim() - 1]);
    }
    ArrayD::from_shape_fn(dims, |i| {
        let i = i.slice().to_vec();
        let (outer, column) = if b.ndim() > 1 { i.split_at(i.len() - 1) } else { (&i[..], &[][..]) };
        let left = |k: usize| a[IxDyn(&[&outer[outer.len() - rows.len()..], &[k]].concat())];
        let right = |k: usize| b[IxDyn(&[&outer[..at], &[k][..b.ndim().min(1)], column].concat())];
        (0..inner[0]).map(|k| left(k) * right(k)).sum()
    })
}

fn array(shape: &[usize], seed: u64) -> ArrayD<f64> {
    ArrayD::from_shape_vec(shape, noise(seed).take(shape.iter().product()).collect()).unwrap()
}

/// A model of one layer: input `%x`, weight `%w`, bias `%b`.
fn layer(input: &[usize], weight: &ArrayD<f64>, bias: &str, opset: i64, node: &str) -> Model {
    let text = format!(
        "model \"m\" opset {opset} {{\n  input %x : f32{input:?}\n  const %w : f32{:?}\n  {bias}\n\n  %y : f32[{}] = {node}\n\n  output %y\n}}\n",
        weight.shape(),
        vec!["?"; input.len()].join(",")
    );
    let mut model = model(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let w = model.graph.find_value("w").unwrap();
    let mut patch = Patch::at_value(&model.graph, w);
    patch.set_constant(w, Tensor::f32(weight.shape(), &weight.iter().map(|&v| v as f32).collect::<Vec<_>>()));
    model.graph.apply(patch).unwrap();
    model
}

/// Runs a step that must put two layers in the place of the one, with the same result.
fn stays_exact(teacher: &Model, step: &str) {
    let done = run(teacher, step).unwrap();
    let row = &done.report.steps[0].rows[0];
    assert!(row.done, "{step}: {}", row.note);
    assert_eq!(done.report.student.nodes, 2, "{step}");
    assert!(done.report.student.cost.parameters < done.report.teacher.cost.parameters, "{step}");
    let dims = teacher.graph.value(teacher.graph.inputs()[0]).dims().unwrap();
    let x = array(&dims.iter().map(|&d| d as usize).collect::<Vec<_>>(), 9);
    let (want, got) = (evaluate(teacher, &x), evaluate(&done.student, &x));
    assert_eq!(want.shape(), got.shape(), "{step}");
    let size = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let off = want.iter().zip(&got).fold(0.0, |a: f64, (x, y)| a.max((x - y).abs()));
    assert!(off <= 1e-5 * size, "{step}: off by {off} of {size}");
}

/// Input and weight of convolutions, with attributes.
const CONVS: &[(&[usize], &[usize], &str)] = &[
    (&[2, 8, 7, 9], &[12, 8, 3, 3], ""),
    (&[2, 8, 7, 9], &[12, 8, 3, 3], "pads=[0,1,2,3]"),
    (&[2, 8, 7, 9], &[12, 8, 3, 2], "kernel_shape=[3,2], pads=[1,0,1,0], strides=[2,3]"),
    (&[1, 8, 11, 12], &[12, 8, 3, 3], "dilations=[2,3], pads=[2,3,2,3]"),
    (&[1, 8, 8, 9], &[12, 8, 3, 4], "auto_pad=\"SAME_UPPER\", strides=[2,2]"),
    (&[1, 8, 8, 9], &[12, 8, 4, 3], "auto_pad=\"SAME_LOWER\", strides=[3,1]"),
    (&[1, 8, 8, 9], &[12, 8, 4, 3], "auto_pad=\"SAME_UPPER\", dilations=[2,2]"),
    (&[1, 8, 8, 9], &[12, 8, 3, 3], "auto_pad=\"VALID\", strides=[1,2]"),
    (&[1, 16, 7, 9], &[24, 8, 3, 3], "group=2, pads=[1,1,1,1], strides=[2,1]"),
    (&[2, 8, 15], &[12, 8, 5], "pads=[2,1], strides=[2]"),
    (&[2, 16, 15], &[24, 8, 7], "dilations=[2], group=2, pads=[6,6]"),
    (&[1, 8, 4, 5, 6], &[12, 8, 2, 3, 2], "pads=[1,1,0,1,1,1], strides=[1,2,1]"),
];

/// Entry of a tensor of noise that knows no shape.
fn entry(seed: u64, at: &[usize]) -> f64 {
    let place = at.iter().fold(seed, |s, &i| s.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(i as u64 + 1));
    noise(place).next().unwrap()
}

fn conv_layer(input: &[usize], weight: &ArrayD<f64>, attrs: &str) -> Model {
    let bias = format!("const %b : f32[{}] = seed(3)", weight.shape()[0]);
    let attrs = if attrs.is_empty() { String::new() } else { format!("<{attrs}>") };
    layer(input, weight, &bias, 17, &format!("Conv{attrs}(%x, %w, %b)"))
}

#[test]
fn separated_convolutions_are_exact_at_their_rank() {
    for (input, shape, attrs) in CONVS {
        let a_group = shape[0] * shape[1] / input[1];
        for (order, rank) in
            [("depthwise-first", 1), ("depthwise-first", 2), ("pointwise-first", 1), ("pointwise-first", 2)]
        {
            let weight = ArrayD::from_shape_fn(*shape, |i| {
                let i = i.slice().to_vec();
                let channel = if order == "depthwise-first" { i[0] / a_group * shape[1] + i[1] } else { i[0] };
                let term = |t| entry(1, &[i[0], i[1], t]) * entry(2, &[&[channel, t], &i[2..]].concat());
                (0..rank).map(term).sum()
            });
            let teacher = conv_layer(input, &weight, attrs);
            stays_exact(
                &teacher,
                &format!("[{{ pass = \"separate-convs\", skip-first = 0, rank = {rank}, order = \"{order}\" }}]"),
            );
        }
    }
}

#[test]
fn factorized_convolutions_are_exact_at_their_rank() {
    for (input, shape, attrs) in CONVS.iter().filter(|c| c.0[1] == c.1[1]) {
        for scheme in ["spatial", "channel"] {
            if scheme == "spatial" && shape.len() != 4 {
                continue;
            }
            let weight = ArrayD::from_shape_fn(*shape, |i| {
                let i = i.slice().to_vec();
                let halves = match scheme {
                    "spatial" => ([i[0], i[3]].to_vec(), [i[1], i[2]].to_vec()),
                    _ => (vec![i[0]], i[1..].to_vec()),
                };
                (0..3).map(|t| entry(t, &halves.0) * entry(7 + t, &halves.1)).sum()
            });
            let teacher = conv_layer(input, &weight, attrs);
            let step = format!("[{{ pass = \"factorize-convs\", skip-first = 0, rank = 3, scheme = \"{scheme}\" }}]");
            stays_exact(&teacher, &step);
        }
    }
}

/// A matrix of rank 3.
fn low_rank(shape: &[usize]) -> ArrayD<f64> {
    ArrayD::from_shape_fn(shape, |i| (0..3).map(|t| entry(t, &[i[0]]) * entry(5 + t, &[i[1]])).sum())
}

const LINEAR: &str = "[{ pass = \"factorize-linear\", min-weights = 0, min-side = 0, rank = 3 }]";

#[test]
fn factorized_matrix_products_are_exact_at_their_rank() {
    for (input, shape, node) in [
        (&[5, 12][..], &[12, 16][..], "MatMul(%x, %w)"),
        (&[2, 3, 5, 12], &[12, 16], "MatMul(%x, %w)"),
        (&[12], &[12, 16], "MatMul(%x, %w)"),
        (&[12, 5], &[16, 12], "MatMul(%w, %x)"),
        (&[2, 3, 12, 5], &[16, 12], "MatMul(%w, %x)"),
        (&[12], &[16, 12], "MatMul(%w, %x)"),
    ] {
        stays_exact(&layer(input, &low_rank(shape), "", 17, node), LINEAR);
    }
}

#[test]
fn factorized_gemms_are_exact_at_their_rank() {
    for bits in 0..16 {
        let (trans_a, trans_b, left, biased) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, bits & 8 > 0);
        // A' is 5 × 12, or 16 × 12 if it is the weight; B' is 12 × 16, or 12 × 5 if it is not.
        let turned = |shape: [usize; 2], yes| if yes { [shape[1], shape[0]] } else { shape };
        let a = turned(if left { [16, 12] } else { [5, 12] }, trans_a);
        let b = turned(if left { [12, 5] } else { [12, 16] }, trans_b);
        let (input, weight, order) = if left { (b, a, "%w, %x") } else { (a, b, "%x, %w") };
        let columns = if left { 5 } else { 16 };
        for opset in [9, 17] {
            let (bias, order) = match biased || opset < 11 {
                true => (format!("const %b : f32[{columns}] = seed(3)"), format!("{order}, %b")),
                false => (String::new(), order.to_string()),
            };
            let flags = format!("transA={}, transB={}", trans_a as i64, trans_b as i64);
            let node = format!("Gemm<alpha=0.5, beta=3.0, {flags}>({order})");
            stays_exact(&layer(&input, &low_rank(&weight), &bias, opset, &node), LINEAR);
        }
    }
}

#[test]
fn factorized_pointwise_convolutions_are_exact_at_their_rank() {
    for attrs in ["", "pads=[1,2,0,1], strides=[2,3]", "auto_pad=\"SAME_UPPER\", strides=[2,2]", "dilations=[3,2]"] {
        let weight = low_rank(&[16, 12]).into_shape_with_order(IxDyn(&[16, 12, 1, 1])).unwrap();
        stays_exact(&conv_layer(&[2, 12, 5, 6], &weight, attrs), LINEAR);
    }
}

#[test]
fn one_way_of_naming_the_rank_at_a_time() {
    let x = layer(&[5, 12], &low_rank(&[12, 16]), "", 17, "MatMul(%x, %w)");
    for pass in ["factorize-linear", "factorize-convs", "separate-convs"] {
        let done = run(&x, &format!("[{{ pass = \"{pass}\", rank = 3, energy = 0.5 }}]"));
        let error = done.expect_err("an error").to_string();
        assert!(error.contains("`rank` and `energy` exclude each other"), "{error}");
        let done = run(&x, &format!("[{{ pass = \"{pass}\", params = 0.5, macs = 0.5 }}]"));
        let error = done.expect_err("an error").to_string();
        assert!(error.contains("`params` and `macs` exclude each other"), "{error}");
    }
}

/// However little a budget asks for, no layer is left with less than half of what it gave.
#[test]
fn no_budget_takes_most_of_a_layer() {
    let product = layer(&[5, 64], &array(&[64, 80], 4), "", 17, "MatMul(%x, %w)");
    let conv = conv_layer(&[2, 16, 6, 6], &array(&[32, 16, 3, 3], 3), "pads=[1,1,1,1]");
    for (pass, model) in [("separate-convs", &conv), ("factorize-convs", &conv), ("factorize-linear", &product)] {
        let step = format!("pass = \"{pass}\", params = 0.01, skip-first = 0");
        let error = run(model, &format!("[{{ {step} }}]")).unwrap_err().to_string();
        assert!(error.contains("is the least"), "{error}");
        // What it proposes is accepted.
        let least = error.split("ask for params = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let done = run(model, &format!("[{{ {} }}]", step.replace("0.01", &format!("\"{least}\"")))).unwrap();
        assert!(done.report.missed.is_empty(), "{least}: {:?}", done.report.missed);
        let done = run(model, &format!("[{{ {step}, best-effort = true }}]")).unwrap();
        assert!(done.report.missed[0].contains("are left, not 1.0 %"), "{:?}", done.report.missed);
        let note = &done.report.steps[0].rows[0].note;
        let error = note.split("weight error ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let error = error.parse::<f64>().unwrap() / 100.0;
        // The noise has no good rank: the bound is what decides.
        assert!((0.45..=0.5).contains(&error.powi(2)), "{pass}: {note}");
    }
}

#[test]
fn a_budget_is_kept_refused_or_missed() {
    let conv = conv_layer(&[2, 16, 6, 6], &array(&[32, 16, 3, 3], 3), "pads=[1,1,1,1]");
    let product = layer(&[5, 64], &array(&[64, 80], 4), "", 17, "MatMul(%x, %w)");
    for (pass, model) in [("separate-convs", &conv), ("factorize-convs", &conv), ("factorize-linear", &product)] {
        for key in ["params", "macs"] {
            for (share, reached) in [(0.9, true), (0.4, true), (0.001, false)] {
                let step = |more: &str| {
                    format!("[{{ pass = \"{pass}\", {key} = {share}, skip-first = 0, max-loss = 1{more} }}]")
                };
                let refused = run(model, &step("")).err().map(|e| e.to_string());
                assert_eq!(refused.is_none(), reached, "{refused:?}");
                assert!(refused.is_none_or(|e| e.contains("is the least") && e.contains("best-effort")));
                let step = step(", best-effort = true");
                let report = run(model, &step).unwrap().report;
                let cost = |size: tutee::report::ModelSize| match key {
                    "params" => size.cost.parameters,
                    _ => size.cost.macs.unwrap(),
                };
                let (before, after) = (cost(report.teacher) as f64, cost(report.student) as f64);
                assert_eq!(after <= share * before, reached, "{step}: {after} of {before}");
                assert_eq!(report.missed.is_empty(), reached, "{step}: {:?}", report.missed);
                assert!(after < before, "{step}");
            }
        }
    }
}
