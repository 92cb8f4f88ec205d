//! Running models in tract: what a batch is, what types come and go, and what happens when tract cannot.
#![cfg(feature = "exec")]

use std::path::{Path, PathBuf};

use tutee::data::{Array, Dataset, Dtype, InputSpec, Normalise};
use tutee::exec::Network;

fn small(name: &str) -> PathBuf {
    Path::new("fixtures/small").join(name)
}

fn f32s(shape: &[usize], values: &[f32]) -> Array {
    Array::from_f32(shape.to_vec(), values).unwrap()
}

#[test]
fn the_interface_is_read_from_the_file() {
    let network = Network::load(&small("two_inputs.onnx")).unwrap();
    let spec = |name: &str, dtype| InputSpec { name: name.into(), dtype, dims: Some(vec![None, Some(3)]) };
    assert_eq!(network.inputs(), [spec("a", Dtype::F32), spec("ids", Dtype::I64)]);
    assert_eq!(network.outputs(), ["p", "total"]);
    assert_eq!(network.files(), [small("two_inputs.onnx")]);
    let batch4 = Network::load(&small("batch4.onnx")).unwrap();
    assert_eq!(batch4.inputs()[0].dims, Some(vec![Some(4), Some(3)]));
}

#[test]
fn several_inputs_of_several_types() {
    let network = Network::load(&small("two_inputs.onnx")).unwrap();
    let ids = Array::new(Dtype::U8, vec![2, 3], vec![0, 0, 0, 1, 2, 3]).unwrap();
    let a = f32s(&[2, 3], &[0.0; 6]);
    let data = Dataset::from_arrays("d", [("a".to_owned(), a), ("ids".to_owned(), ids)]);
    let feed = data.feed(network.inputs(), &Normalise::default()).unwrap();
    let out = network.runner(&feed.shapes(0)).unwrap().run(&feed.chunk(1).unwrap()).unwrap();
    assert_eq!((out[0].shape(), out[1].shape()), (&[1, 3][..], &[][..]));
    assert!((out[0].to_f64().iter().sum::<f64>() - 1.0).abs() < 1e-6);
    assert_eq!(out[1].to_f64(), [6.0]);
}

#[test]
fn a_fixed_batch_runs_in_chunks() {
    let network = Network::load(&small("batch4.onnx")).unwrap();
    let x: Vec<f32> = (0..18).map(|v| v as f32).collect();
    let data = Dataset::from_arrays("d", [("x".to_owned(), f32s(&[6, 3], &x))]);
    let feed = data.feed(network.inputs(), &Normalise::default()).unwrap();
    let runner = network.runner(&feed.shapes(0)).unwrap();
    let out = runner.run(&feed.chunk(1).unwrap()).unwrap()[0].to_f64();
    // Samples 4 and 5, then sample 5 again to fill up.
    assert_eq!(out[..4], [82.0, 121.0, 100.0, 148.0]);
    assert_eq!(out[2..4], out[6..]);
}

#[test]
fn if_nodes_whose_condition_the_shapes_decide() {
    let network = Network::load(&small("ifs.onnx")).unwrap();
    let out = network.runner(&[vec![1, 3]]).unwrap().run(&[f32s(&[1, 3], &[1.0, 2.0, 3.0])]).unwrap();
    assert_eq!(out, [f32s(&[1, 3], &[3.0, 6.0, 9.0])]);
}

#[test]
fn an_input_may_be_an_output() {
    let text = "model m opset 17 {
        input %x : f32[N,2]
        %y : f32[N,2] = Neg(%x)
        output %x
        output %y
        output %x
    }";
    let bytes = tutee::onnx::to_bytes(&tutee::ir::text::parse::model(text).unwrap()).unwrap();
    let network = Network::from_bytes("passed", &bytes).unwrap();
    assert_eq!(network.outputs(), ["x", "y", "x"]);
    let x = f32s(&[1, 2], &[1.0, 2.0]);
    let out = network.runner(&[vec![1, 2]]).unwrap().run(std::slice::from_ref(&x)).unwrap();
    assert_eq!(out, [x.clone(), f32s(&[1, 2], &[-1.0, -2.0]), x]);
}

/// A model of text as tract has it.
fn network(text: &str) -> Network {
    Network::from_bytes("text", &tutee::onnx::to_bytes(&tutee::ir::text::parse::model(text).unwrap()).unwrap()).unwrap()
}

fn outputs(network: &Network, inputs: &[Array]) -> Vec<Array> {
    let shapes: Vec<_> = inputs.iter().map(|x| x.shape().to_vec()).collect();
    network.runner(&shapes).unwrap().run(inputs).unwrap()
}

#[test]
fn what_is_absent_at_the_end_of_a_node_is_as_if_it_were_not_written() {
    let text = "model m opset 17 {
        input %x : f32[1,2,4]
        const %w : f32[2,2,1] = {1.0,0.0,0.0,2.0}
        const %s : f32[4] = {1.0,1.0,1.0,1.0}
        const %two : i64[1] = {2}
        const %yes : bool[] = {1}
        %c : f32[1,2,4] = Conv(%x, %w, _)
        %d : f32[1,2,4], _ = Dropout(%c, _, _)
        %n : f32[1,2,4], _, _ = LayerNormalization(%d, %s, _)
        %h : f32[1,1,4], _ = Split<axis=1>(%d)
        _, %i : i64[1,2,2] = TopK(%d, %two)
        %y : f32[1,2,4], _ = If(%yes) {
            then_branch \"t\" {
                %a : f32[1,2,4] = Clip(%c, _, _)
                %b : f32[1,2,4] = Conv(%a, %w, _)
                output %b
                output %a
            }
            else_branch \"e\" {
                output %c
                output %c
            }
        }
        output %n
        output %h
        output %i
        output %y
    }";
    let x = f32s(&[1, 2, 4], &[0.0, 1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 0.0]);
    let out = outputs(&network(text), &[x]);
    assert!((out[0].to_f64()[3] - 1.3416).abs() < 1e-3);
    assert_eq!(out[1], f32s(&[1, 1, 4], &[0.0, 1.0, 2.0, 3.0]));
    assert_eq!(out[2].to_f64(), [3.0, 2.0, 0.0, 1.0]);
    assert_eq!(out[3], f32s(&[1, 2, 4], &[0.0, 1.0, 2.0, 3.0, 12.0, 8.0, 4.0, 0.0]));
}

#[test]
fn half_precision_is_computed_in_f32_and_rounded_at_the_end() {
    for (half, number, dtype) in [("f16", "10", Dtype::F16), ("bf16", "16", Dtype::Bf16)] {
        let text = "model m opset 17 {
            input %x : HALF[N,2]
            input %f : f32[N,2]
            const %w : HALF[2,2] = {0.5,-0.25,0.25,-1.0}
            const %yes : bool[] = {1}
            %p : HALF[N,2] = MatMul(%x, %w)
            %g : HALF[N,2] = Cast<to=NUMBER>(%f)
            %s : i64[2] = Shape(%p)
            %o : HALF[N,2] = ConstantOfShape<value=HALF[1]{2.0}>(%s)
            %q : HALF[N,2] = If(%yes) {
                then_branch \"t\" {
                    const %k : HALF[1] = {3.0}
                    %a : HALF[N,2] = Mul(%g, %k)
                    output %a
                }
                else_branch \"e\" {
                    output %g
                }
            }
            %r : HALF[N,2] = Sum(%p, %q, %o)
            %y : f32[N,2] = Cast<to=1>(%r)
            output %p
            output %y
        }"
        .replace("HALF", half)
        .replace("NUMBER", number);
        let network = network(&text);
        assert_eq!([network.inputs()[0].dtype, network.inputs()[1].dtype], [dtype, Dtype::F32]);
        assert!(network.widened().is_some());
        let x = f32s(&[1, 2], &[1.0, 0.1]).cast(dtype).unwrap();
        let out = outputs(&network, &[x.clone(), f32s(&[1, 2], &[0.3, 1.0])]);
        let p = f32s(&[1, 2], &[0.5 + 0.25 * x.to_f32()[1], -0.25 - x.to_f32()[1]]);
        assert_eq!(out[0], p.cast(dtype).unwrap());
        // What is between is not rounded.
        let y = [p.to_f32()[0] + 0.3 * 3.0 + 2.0, p.to_f32()[1] + 3.0 + 2.0];
        assert!(out[1].to_f32().iter().zip(y).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {y:?}", out[1].to_f32());
    }
    assert!(network("model m opset 17 { input %x : f32[1]  %y : f32[1] = Neg(%x)  output %y }").widened().is_none());
}

/// Between quantized values, tract would make a table of what it takes for a function of one number.
#[test]
fn what_is_between_integers_is_what_the_file_says() {
    let between = [
        "Softmax(%d)",
        "Relu(%d)",
        "Erf(%d)",
        "LogSoftmax<axis=1>(%d)",
        "Transpose<perm=[0,2,1]>(%d)",
        "CumSum(%d, %axis)",
        "LayerNormalization<axis=-1>(%d, %scales)",
    ];
    let x: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
    for op in between {
        for [from, to] in [["u8", "u8"], ["i8", "i8"], ["u8", "i8"], ["i8", "u8"]] {
            let text = format!(
                "model m opset 17 {{
                    input %x : f32[2,3,4]
                    const %s : f32[] = {{0.03125}} const %t : f32[1] = {{0.0625}}
                    const %a : {from}[] = {{7}} const %b : {to}[] = {{9}}
                    const %axis : i64[] = {{2}} const %scales : f32[4] = {{1,2,1,2}}
                    %p : ? = QuantizeLinear(%x, %s, %a)
                    %d : ? = DequantizeLinear(%p, %s, %a)
                    %f : ? = {op}
                    %q : ? = QuantizeLinear(%f, %t, %b)
                    %y : ? = DequantizeLinear(%q, %t, %b)
                    output %y
                }}"
            );
            let (network, x) = (network(&text), f32s(&[2, 3, 4], &x));
            let plain = network.run(std::slice::from_ref(&x)).unwrap()[0].to_f64();
            let optimized = outputs(&network, &[x])[0].to_f64();
            let off = plain.iter().zip(&optimized).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 0.07, "{op} from {from} to {to}: {plain:?} and {optimized:?}");
            assert!(plain.iter().any(|v| v.abs() > 0.2), "{op} gives something: {plain:?}");
        }
    }
}

#[test]
fn recurrent_layers_that_read_from_the_end() {
    for (kind, gates, outputs_of_it) in [("LSTM", 4, ", _"), ("GRU", 3, ""), ("RNN", 1, "")] {
        let text = format!(
            "model m opset 17 {{
                input %x : f32[5,2,3]
                const %w : f32[1,{g},3] = seed(1) const %r : f32[1,{g},4] = seed(2) const %b : f32[1,{two}] = seed(3)
                %ww : ? = Concat<axis=0>(%w, %w)
                %rr : ? = Concat<axis=0>(%r, %r)
                %bb : ? = Concat<axis=0>(%b, %b)
                %y : ?, %h : ?{outputs_of_it} = {kind}<direction=\"reverse\", hidden_size=4>(%x, %w, %r, %b)
                %yy : ?, %hh : ?{outputs_of_it} = {kind}<direction=\"bidirectional\", hidden_size=4>(%x, %ww, %rr, %bb)
                output %y
                output %h
                output %yy
                output %hh
            }}",
            g = 4 * gates,
            two = 8 * gates
        );
        let x: Vec<f32> = (0..30).map(|i| (i as f32 * 0.7).sin()).collect();
        let out: Vec<Vec<f64>> = outputs(&network(&text), &[f32s(&[5, 2, 3], &x)]).iter().map(Array::to_f64).collect();
        // [time, direction, batch × hidden] and [direction, batch × hidden].
        let second: Vec<f64> = out[2].chunks(16).flat_map(|both| both[8..].to_vec()).collect();
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near(&out[0], &second) && out[0].len() == second.len(), "{kind}");
        assert!(near(&out[1], &out[3][8..]) && out[1].iter().any(|v| v.abs() > 0.05), "{kind}");
    }
}

#[test]
fn what_tract_has_no_word_for_is_refused() {
    let cell = |attributes: &str| {
        let text = format!(
            "model m opset 17 {{
                input %x : f32[5,2,3]
                const %w : f32[1,16,3] = seed(1) const %r : f32[1,16,4] = seed(2)
                %y : ? = LSTM<hidden_size=4{attributes}>(%x, %w, %r) @cell
                output %y
            }}"
        );
        let bytes = tutee::onnx::to_bytes(&tutee::ir::text::parse::model(&text).unwrap()).unwrap();
        Network::from_bytes("text", &bytes).map(drop).map_err(|e| e.to_string())
    };
    assert!(cell(r#", activations=["Sigmoid","Tanh","Tanh"]"#).is_ok());
    for attributes in [r#", activations=["HardSigmoid","Tanh","Tanh"]"#, ", clip=1.5", ", input_forget=1"] {
        let why = cell(attributes).unwrap_err();
        assert!(why.contains("cell") && why.contains("sigmoid, tanh, tanh"), "{why}");
    }
}

#[test]
fn activations_with_a_factor() {
    let text = "model m opset 24 {
        input %x : f32[1,5]
        %c : ? = Celu<alpha=2.0>(%x)
        %s : ? = Swish<alpha=0.5>(%x)
        output %c
        output %s
    }";
    let x = [-3.0f64, -0.5, 0.0, 0.5, 3.0];
    let out = outputs(&network(text), &[f32s(&[1, 5], &x.map(|v| v as f32))]);
    let want =
        [x.map(|x| x.max(0.0) + (2.0 * ((x / 2.0).exp() - 1.0)).min(0.0)), x.map(|x| x / (1.0 + (-x / 2.0).exp()))];
    for (out, want) in out.iter().zip(want) {
        assert!(out.to_f64().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-4), "{out:?} for {want:?}");
    }
}

#[test]
fn logarithms_of_exponentials_are_finite_wherever_their_numbers_lie() {
    let x: [[f64; 3]; 2] = [[300.0, 0.0, -200.0], [-400.0, -401.0, 95.0]];
    let sum = |line: &[f64]| {
        let most = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + line.iter().map(|v| (v - most).exp()).sum::<f64>().ln()
    };
    let all = x.concat();
    let apart: Vec<f64> = x.iter().flat_map(|line| line.iter().map(|v| v - sum(line))).collect();
    let together: Vec<f64> = all.iter().map(|v| v - sum(&all)).collect();
    let soft: Vec<f64> = all.iter().map(|v| v.max(0.0) + (-v.abs()).exp().ln_1p()).collect();
    let sums: Vec<f64> = x.iter().map(|line| sum(line)).collect();
    for opset in [9, 12, 13, 17, 18, 24] {
        let axes = if opset < 18 { ("<axes=[-1], keepdims=0>", "") } else { ("<keepdims=0>", ", %axis") };
        let text = format!(
            "model m opset {opset} {{
                input %x : f32[1,2,3]
                const %axis : i64[1] = {{-1}}
                %last : ? = LogSoftmax<axis=2>(%x)
                %default : ? = LogSoftmax(%x)
                %soft : ? = Softplus(%x)
                %kept : ? = ReduceLogSumExp{}(%x{})
                %all : ? = ReduceLogSumExp<keepdims=0>(%x)
                output %last
                output %default
                output %soft
                output %kept
                output %all
            }}",
            axes.0, axes.1
        );
        let numbers: Vec<f32> = all.iter().map(|&v| v as f32).collect();
        let out = outputs(&network(&text), &[f32s(&[1, 2, 3], &numbers)]);
        let default = if opset < 13 { &together } else { &apart };
        for (out, want) in out.iter().zip([&apart, default, &soft, &sums, &vec![sum(&all)]]) {
            let near = |(a, b): (f64, &f64)| (a - b).abs() < 1e-3;
            assert!(out.to_f64().into_iter().zip(want).all(near), "opset {opset}: {out:?} for {want:?}");
        }
    }
}

#[test]
fn numbers_that_are_repeated_lie_side_by_side() {
    let repeated = |opset: usize, node: &str| {
        let text = format!(
            "model m opset {opset} {{
                input %x : f32[1,1,1,2]
                const %scales : f32[4] = {{1.0,1.0,2.0,3.0}}
                %y : ? = {node}
                output %y
            }}"
        );
        outputs(&network(&text), &[f32s(&[1, 1, 1, 2], &[5.0, 7.0])])
    };
    let want = [f32s(&[1, 1, 2, 6], &[[5.0, 5.0, 5.0, 7.0, 7.0, 7.0]; 2].concat())];
    assert_eq!(repeated(7, "Upsample<scales=[1.0,1.0,2.0,3.0]>(%x)"), want);
    assert_eq!(repeated(9, "Upsample<mode=\"nearest\">(%x, %scales)"), want);
    assert_eq!(repeated(10, "Resize<mode=\"nearest\">(%x, %scales)"), want);
}

#[test]
fn double_precision_with_an_addend() {
    let text = "model m opset 13 {
        input %x : f64[1,2]
        const %w : f64[2,2] = {1.0,2.0,3.0,4.0}
        const %b : f64[2] = {0.5,-0.5}
        %y : ? = Gemm<transB=1>(%x, %w, %b)
        %z : ? = Relu(%y)
        output %z
    }";
    let x = Array::new(Dtype::F64, vec![1, 2], [1.0f64, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect()).unwrap();
    assert_eq!(outputs(&network(text), &[x])[0].to_f64(), [0.0, 0.0]);
    let x = Array::new(Dtype::F64, vec![1, 2], [1.0f64, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect()).unwrap();
    assert_eq!(outputs(&network(text), &[x])[0].to_f64(), [3.5, 6.5]);
}

#[test]
fn zeros_without_a_type_are_of_f32() {
    let text = "model m opset 17 {
        input %x : f32[N,2]
        %s : i64[2] = Shape(%x)
        %z : f32[N,2] = ConstantOfShape(%s)
        output %z
    }";
    assert_eq!(outputs(&network(text), &[f32s(&[1, 2], &[1.0, 2.0])]), [f32s(&[1, 2], &[0.0, 0.0])]);
}

#[test]
fn a_clustered_weight_is_one_constant_of_the_plan() {
    let network = Network::load(&small("codebook.onnx")).unwrap();
    let ops = network.runner(&[vec![1, 2, 5, 5]]).unwrap().plan_ops();
    assert!(!ops.iter().any(|op| op.contains("Gather") || op.contains("Cast")), "{ops:?}");
    assert_eq!(ops.iter().filter(|op| op.starts_with("Const")).count(), 1, "{ops:?}");
}

#[test]
fn shapes_are_inferred_by_value_name() {
    let network = Network::load(&small("codebook.onnx")).unwrap();
    let (values, stopped) = network.analyse(None).unwrap();
    assert!(stopped.is_none());
    let dims = |dims: &[&str]| Some(dims.iter().map(|d| d.to_string()).collect());
    assert_eq!(values["y"], ("f32".into(), dims(&["N", "3", "4", "4"])));
    assert_eq!(values["i"], ("i64".into(), dims(&["3", "2", "2", "2"])));
    assert_eq!(values["codebook"], ("f32".into(), dims(&["4"])));
    let (values, _) = network.analyse(Some(&[vec![1, 2, 5, 5]])).unwrap();
    assert_eq!(values["y"], ("f32".into(), dims(&["1", "3", "4", "4"])));
}

#[test]
fn what_tract_cannot_do_is_an_error_not_a_panic() {
    let refused = |file: &str| {
        let run = || Network::load(&small(file))?.runner(&[vec![1, 2]]);
        let e = run().err().unwrap_or_else(|| panic!("{file} runs"));
        assert_eq!(e.exit_code(), 1);
        e.to_string()
    };
    assert!(refused("none.onnx").contains("tract cannot read"));
    assert!(refused("make.py").contains("tract cannot read"));
    assert!(refused("uint4.onnx").to_lowercase().contains("uint4"));
    assert!(refused("unknown_op.onnx").contains("node \"mystery\""), "{}", refused("unknown_op.onnx"));
    let panicked = refused("panic.onnx");
    assert!(panicked.contains("tract breaks off here") && !panicked.contains("FIX"), "{panicked}");
}

#[test]
fn inputs_must_fit_the_plan() {
    let network = Network::load(&small("scores.onnx")).unwrap();
    assert!(network.runner(&[]).err().unwrap().to_string().contains("1 inputs and 0 are given"));
    assert!(network.runner(&[vec![0, 3]]).err().unwrap().to_string().contains("is given the shape [0, 3]"));
    assert!(network.runner(&[vec![1, 4]]).is_err());
    let runner = network.runner(&[vec![1, 3]]).unwrap();
    assert!(runner.run(&[f32s(&[1, 4], &[0.0; 4])]).is_err());
    assert!(runner.run(&[]).is_err());
}
