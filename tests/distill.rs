//! Training: what the tape computes, its gradients, and that a student learns.
#![cfg(feature = "exec")]

mod common;

use common::{files, name, root, running};
use std::collections::BTreeSet;
use tutee::autodiff::{Mode, Tape, weights};
use tutee::data::{Array, Dataset, Normalise};
use tutee::distill::{Method, Optimizer, Schedule, loss};
use tutee::exec::Network;
use tutee::ir::{Graph, text};
use tutee::onnx;

fn load(path: &str) -> Graph {
    onnx::load(&root().join(path)).unwrap().model.graph
}

fn feed(tape: &mut Tape<f32>, arrays: &[(String, Array)]) {
    let names: Vec<String> = tape.inputs().map(|i| i.0.to_owned()).collect();
    for (i, name) in names.iter().enumerate() {
        let array = &arrays.iter().find(|a| a.0 == *name).unwrap().1;
        tape.input_mut(i).copy_from_slice(&array.to_f32());
    }
}

#[test]
fn forward_is_what_tract_computes() {
    let models = [
        "lenet300",
        "lenet5",
        "resnet_small",
        "resnet_small_bn",
        "ppocr_cls",
        "light_resnet50",
        "light_densenet121",
        "light_shufflenet",
    ];
    for model in models {
        let path = root().join(format!("fixtures/{model}.onnx"));
        let network = Network::load(&path).unwrap();
        let batch = if model.starts_with("light") { 1 } else { 3 };
        let arrays = running::inputs(&network, batch);
        let want = running::answers(&network, batch).unwrap();
        let named: Vec<_> = network.inputs().iter().map(|i| i.name.clone()).zip(arrays).collect();
        let shapes: Vec<_> = named.iter().map(|(n, a)| (n.clone(), a.shape().to_vec())).collect();
        let graph = load(&format!("fixtures/{model}.onnx"));
        let mut tape = Tape::<f32>::new(&graph, &shapes, graph.outputs(), &weights(&graph)).unwrap();
        feed(&mut tape, &named);
        tape.forward(Mode::Infer);
        for (i, want) in want.iter().enumerate() {
            let want = want.to_f32();
            let scale = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            let far = tape.output(i).iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far <= 1e-4 * scale, "{model}: {far}");
        }
    }
}

/// The cases of ONNX's own test suite that the tape can be made for.
#[test]
fn forward_is_what_the_standard_says() {
    let mut run = 0;
    for path in files("fixtures/conformance", "onnx") {
        let graph = onnx::load(&path).unwrap().model.graph;
        let case = Dataset::load(&path.with_extension("npz")).unwrap();
        let inputs = graph
            .runtime_inputs()
            .enumerate()
            .map(|(i, v)| Some((graph.value(v).name.clone(), case.array(&format!("in{i}")).ok()?.clone())));
        let Some(arrays) = inputs.collect::<Option<Vec<_>>>() else { continue };
        let shapes: Vec<_> = arrays.iter().map(|(n, a)| (n.clone(), a.shape().to_vec())).collect();
        let Ok(mut tape) = Tape::<f32>::new(&graph, &shapes, graph.outputs(), &BTreeSet::new()) else { continue };
        feed(&mut tape, &arrays);
        tape.forward(Mode::Infer);
        for i in 0..graph.outputs().len() {
            let want = case.array(&format!("out{i}")).unwrap().to_f32();
            assert_eq!(want.len(), tape.output(i).len(), "{}", name(&path));
            for (got, want) in tape.output(i).iter().zip(want) {
                let near = (got - want).abs() <= 1e-5 + 1e-3 * want.abs() || *got == want || want.is_nan();
                assert!(near, "{}: {got} for {want}", name(&path));
            }
        }
        run += 1;
    }
    println!("{run} cases ran");
    assert!(run >= 30, "only {run} cases ran");
}

/// `fixtures/distill/make.py` took the gradients without any backward code.
#[test]
fn gradients_of_a_network() {
    let graph = load("fixtures/distill/net.onnx");
    let case = Dataset::load(&root().join("fixtures/distill/net.npz")).unwrap();
    let read = |name: &str| case.array(name).unwrap().to_f64();
    let shapes = [("x".to_string(), vec![4, 2, 6, 6])];
    let mut tape = Tape::<f64>::new(&graph, &shapes, graph.outputs(), &weights(&graph)).unwrap();
    tape.input_mut(0).copy_from_slice(&read("x"));
    tape.forward(Mode::Train);
    let labels: Vec<usize> = read("y").iter().map(|&y| y as usize).collect();
    let (value, by) = loss::distillation(tape.output(0), &read("soft"), Some(&labels), 3, 3.0, 0.75);
    tape.backward(&[by]);
    let near = |got: f64, want: f64, what: &str| {
        assert!((got - want).abs() <= 1e-6 * (1.0 + want.abs()), "{what}: {got} for {want}");
    };
    near(value, read("loss")[0], "loss");
    assert_eq!(tape.parameters().len(), 12);
    for i in 0..12 {
        let name = &tape.parameters()[i].name;
        let want = read(&format!("by.{name}"));
        assert_eq!(want.len(), tape.gradient(i).len());
        tape.gradient(i).iter().zip(want).for_each(|(&got, want)| near(got, want, name));
    }
}

#[test]
fn weights_are_found_behind_what_moves_them() {
    let text = "model m opset 17 {
        input %x : f32[2,3]
        const %book : f32[4] = seed(1) const %i : i32[2,4] = {0,1,2,3,3,2,1,0}
        const %flat : i64[1] = {-1} const %from : i64[1] = {0} const %to : i64[1] = {6} const %shape : i64[2] = {3,2}
        %decoded : ? = Gather(%book, %i)
        %padded : ? = Reshape(%decoded, %flat)
        %cut : ? = Slice(%padded, %from, %to)
        %w : ? = Reshape(%cut, %shape)
        %y : ? = MatMul(%x, %w)
        output %y
    }";
    let graph = text::parse::model(text).unwrap().graph;
    let names: Vec<&str> = weights(&graph).into_iter().map(|v| graph.value(v).name.as_str()).collect();
    assert_eq!(names, ["book"]);
    let mut tape = Tape::<f64>::new(&graph, &[], graph.outputs(), &weights(&graph)).unwrap();
    tape.input_mut(0).copy_from_slice(&[1.0; 6]);
    tape.forward(Mode::Train);
    tape.backward(&[vec![1.0; 4]]);
    // Each centroid has the sum over its members, in two rows: 0 and 1 one time, 2 and 3 two times.
    assert_eq!(tape.gradient(0), [2.0, 2.0, 4.0, 4.0]);
}

#[test]
fn what_cannot_be_trained_through_is_named() {
    let tape = |body: &str, shapes: &[(String, Vec<usize>)]| {
        let graph = text::parse::model(&format!("model m opset 17 {{ {body} output %y }}")).unwrap().graph;
        Tape::<f32>::new(&graph, shapes, graph.outputs(), &weights(&graph)).err().map(|e| e.to_string())
    };
    let refused = |body: &str| tape(body, &[]).unwrap_or_else(|| panic!("{body}"));
    let e =
        refused("input %x : f32[2,3] const %w : f32[3,3] = seed(1) %m : ? = MatMul(%x, %w) %y : ? = Floor(%m) @cut");
    assert!(e.contains("cannot train through Floor \"cut\""), "{e}");
    let e = refused("input %x : f32[N,3] %y : ? = Relu(%x)");
    assert!(e.contains("the shape of %x is not known"), "{e}");
    assert!(tape("input %x : f32[N,3] %y : ? = Relu(%x)", &[("x".into(), vec![2, 3])]).is_none());
    assert!(refused("input %x : f32[0,3] %y : ? = Relu(%x)").contains("has no elements"));
    assert!(
        refused("input %x : f32[2,2,2,2] %y : ?, %i : ? = MaxPool<kernel_shape=[2,2]>(%x) output %i")
            .contains("is read")
    );
    let e = refused("input %x : f32[2,3,4,4] const %w : f32[2,4,1,1] %y : f32[2,2,4,4] = Conv(%x, %w)");
    assert!(e.contains("contradict"), "{e}");
    let e = refused("input %x : f32[1,1,4,4] %y : ? = MaxPool<kernel_shape=[9999,1], pads=[9998,0,0,0]>(%x)");
    assert!(e.contains("larger than 4096"), "{e}");
    assert!(refused("input %x : i64[2] %y : ? = Identity(%x)").contains("is of type i64"));
}

/// A small convolutional network over images of Fashion-MNIST.
const STUDENT: &str = "model student opset 17 {
    input %x : f32[N,1,28,28]
    const %w1 : f32[8,1,3,3] = seed(1) const %b1 : f32[8]
    const %s1 : f32[8] = {1,1,1,1,1,1,1,1} const %o1 : f32[8] const %m1 : f32[8] const %v1 : f32[8] = {1,1,1,1,1,1,1,1}
    const %w2 : f32[8,1,3,3] = seed(2) const %w3 : f32[16,8,1,1] = seed(3) const %b3 : f32[16]
    const %w4 : f32[10,16] = seed(4) const %b4 : f32[10]
    const %low : f32[] = {0} const %high : f32[] = {6}
    %c1 : ? = Conv<pads=[1,1,1,1], strides=[2,2]>(%x, %w1, %b1)
    %n1 : ? = BatchNormalization(%c1, %s1, %o1, %m1, %v1)
    %a1 : ? = Clip(%n1, %low, %high)
    %p1 : ? = MaxPool<kernel_shape=[2,2], strides=[2,2]>(%a1)
    %c2 : ? = Conv<group=8, pads=[1,1,1,1]>(%p1, %w2)
    %a2 : ? = LeakyRelu(%c2)
    %c3 : ? = Conv(%a2, %w3, %b3)
    %g : ? = GlobalAveragePool(%c3)
    %f : ? = Flatten(%g)
    %y : f32[N,10] = Gemm<transB=1>(%f, %w4, %b4)
    output %y
}";

/// The loss of every step, and the constants afterwards, encoded.
fn train(steps: usize) -> (Vec<f64>, Vec<u8>) {
    let mut model = text::parse::model(STUDENT).unwrap();
    let data = Dataset::load(&root().join("fixtures/fashion_test.npz")).unwrap();
    let (x, y) = (data.array("x").unwrap().to_f32(), data.array("y").unwrap().to_f64());
    let (batch, pixels) = (50, 784);
    let shapes = [("x".to_string(), vec![batch, 1, 28, 28])];
    let mut tape = Tape::<f32>::new(&model.graph, &shapes, model.graph.outputs(), &weights(&model.graph)).unwrap();
    let mut optimizer = Optimizer::new(Method::ADAM_W, 0.01);
    let mut losses = Vec::new();
    for step in 0..steps {
        let first = step * batch % 300;
        let images = x[first * pixels..(first + batch) * pixels].iter().map(|v| (v / 255.0 - 0.286) / 0.353);
        tape.input_mut(0).iter_mut().zip(images).for_each(|(to, v)| *to = v);
        let labels: Vec<usize> = y[first..first + batch].iter().map(|&y| y as usize).collect();
        tape.forward(Mode::Train);
        let (loss, by) = loss::cross_entropy(tape.output(0), &labels, 10);
        losses.push(loss);
        tape.backward(&[by]);
        optimizer.step(&mut tape, Schedule::OneCycle.rate(step, steps, 0.02));
    }
    tape.store(&mut model.graph).unwrap();
    (losses, onnx::to_bytes(&model).unwrap())
}

#[test]
fn a_student_learns() {
    let (losses, bytes) = train(90);
    let (early, late) = (losses[..6].iter().sum::<f64>() / 6.0, losses[84..].iter().sum::<f64>() / 6.0);
    assert!(late < 0.65 * early, "{early} to {late}: {losses:?}");

    // What was stored is what was trained: tract agrees with the student's last forward pass.
    let network = Network::from_bytes("student", &bytes).unwrap();
    let data = Dataset::load(&root().join("fixtures/fashion_test.npz")).unwrap();
    let normalise = Normalise { scale: 1.0 / 255.0, mean: vec![0.286], std: vec![0.353] };
    let feed = data.feed(network.inputs(), &normalise).unwrap();
    let (runner, labels) = (network.runner(&feed.shapes(0)).unwrap(), feed.labels().unwrap().to_vec());
    let right = (0..300).filter(|&i| {
        let logits = runner.run(&feed.chunk(i).unwrap()).unwrap()[0].to_f32();
        (0..10).max_by(|&a, &b| logits[a].total_cmp(&logits[b])) == Some(labels[i])
    });
    let right = right.count();
    assert!(right >= 120, "{right} of 300 right");
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let run = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| train(4));
    let (one, two) = (run(1), run(2));
    assert_eq!(one.0, two.0);
    assert!(one.1 == two.1, "other weights with two threads");
}

#[test]
fn memory_is_shared() {
    let graph = load("fixtures/resnet_small_bn.onnx");
    let name = graph.runtime_inputs().map(|v| graph.value(v).name.clone()).next().unwrap();
    let shapes = [(name, vec![16, 1, 28, 28])];
    let bytes = |trainable| Tape::<f32>::new(&graph, &shapes, graph.outputs(), trainable).unwrap().bytes();
    let (trained, fixed) = (bytes(&weights(&graph)), bytes(&BTreeSet::new()));
    assert!(fixed * 3 < trained, "{fixed} bytes without a way back, {trained} with one");
}
