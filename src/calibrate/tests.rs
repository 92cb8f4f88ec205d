use super::layer_samples::transposed;
use super::*;
use crate::ir::{random, text};
use crate::math;

/// Compares what tract gives for the only layer of a network with its weights times what calibration says that it reads.
fn assert_reads_what_it_sums(text: &str) {
    let model = text::parse::model(text).unwrap();
    let graph = &model.graph;
    let x = graph.required_inputs().next().unwrap();
    let dims = graph.value(x).dims().unwrap();
    let shape: Vec<usize> = std::iter::once(40).chain(dims[1..].iter().map(|&d| d as usize)).collect();
    let noise: Vec<f32> = random::noise(5).map(|v| v as f32).take(shape.iter().product()).collect();
    let data = Dataset::from_arrays("calib.npz", [("x".to_string(), Array::from_f32(shape, &noise).unwrap())]);
    let data = Calibration::new(&data, &Normalise::default(), &model, 40).unwrap();
    let teacher = TeacherRun::new(&data, graph.clone(), &model).unwrap();
    let mut walk = LayerwiseRun::new(&data, Arc::new(teacher)).unwrap();
    let linear = Linear::of(graph, graph.nodes().next().unwrap()).unwrap();
    let tensor = graph.value(linear.weight).constant().unwrap();
    let (w, b) = (linear.matrices(tensor).unwrap(), linear.biases(graph).unwrap());
    assert_eq!(&linear.tensor(tensor.dtype(), tensor.shape(), &w), tensor, "{text}");
    let (map, later) = (TeacherMap::default(), HashSet::new());
    let look = walk.look(graph, &linear, &map, &later).unwrap();
    let mut seen = 0;
    look.each(&look.sets[0][0], |group, _, x, y, _| {
        let given = math::rows_times(transposed(x, linear.inputs)?, w[group].mapv(|v| v as f32).view())?;
        assert_eq!(given.len(), y.len());
        for (i, (given, y)) in given.iter().zip(&*y).enumerate() {
            let given = f64::from(*given) + b[group * linear.outputs + i % linear.outputs];
            assert!((given - f64::from(*y)).abs() < 1e-4, "group {group}, output {i}: {given} for {y}: {text}");
        }
        seen += y.len();
        Some(())
    })
    .unwrap();
    assert!(seen > 0, "{text}");
}

#[test]
fn columns_times_weights_are_what_a_layer_gives() {
    for (x, w, op) in [
        ("4,7", "4,3,3", "ConvTranspose"),
        ("4,7", "4,3,4", "ConvTranspose<group=2, strides=[2], pads=[1,1]>"),
        ("3,5,6", "3,2,3,2", "ConvTranspose<strides=[2,3], pads=[1,0,1,1]>"),
        ("4,5,4", "4,2,3,3", "ConvTranspose<group=2, dilations=[2,1], strides=[2,2], output_padding=[1,0]>"),
        ("4,5,4", "4,1,2,2", "ConvTranspose<group=4, strides=[2,2]>"),
        ("4,5,4", "4,2,3,3", "ConvTranspose<auto_pad=\"SAME_UPPER\", strides=[2,2]>"),
        ("4,5,4", "4,2,3,3", "ConvTranspose<auto_pad=\"SAME_LOWER\", strides=[2,2]>"),
        ("2,3,4,3", "2,2,2,3,2", "ConvTranspose<strides=[2,1,2], pads=[0,1,0,1,1,0]>"),
        ("4,7,6", "6,2,3,3", "Conv<group=2, strides=[2,1], pads=[1,0,1,1]>"),
    ] {
        let groups = if op.contains("group=") { op.split("group=").nth(1).unwrap()[..1].parse().unwrap() } else { 1 };
        let sizes: Vec<usize> = w.split(',').map(|n| n.parse().unwrap()).collect();
        let outputs = if op.starts_with("Conv<") { sizes[0] } else { sizes[1] * groups };
        assert_reads_what_it_sums(&format!(
            "model \"one\" opset 17 {{
                input %x : f32[1,{x}] const %w : f32[{w}] = seed(1) const %b : f32[{outputs}] = seed(2)
                %y : ? = {op}(%x, %w, %b)
                output %y
            }}"
        ));
    }
}

#[test]
fn a_step_sees_every_column() {
    assert!(coprime(3, 64) && coprime(1, 0) && !coprime(4, 64) && !coprime(9, 12));
}
