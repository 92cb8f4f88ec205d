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
