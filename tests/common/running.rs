//! Running models on reproducible input.

use tutee::Result;
use tutee::data::{Array, Dtype, InputSpec};
use tutee::exec::Network;
use tutee::ir::random;

/// Reproducible inputs of the sizes that the fixtures were made for: open image sides 48 by 192.
pub fn inputs(network: &Network, batch: usize) -> Vec<Array> {
    inputs_at(network, [batch, 3, 48, 192])
}

/// Reproducible inputs of these sizes where they are open.
pub fn inputs_at(network: &Network, open: [usize; 4]) -> Vec<Array> {
    let one = |(i, spec): (usize, &InputSpec)| {
        let dims = spec.dims.clone().unwrap_or_default();
        let shape: Vec<usize> = dims.iter().enumerate().map(|(a, d)| d.unwrap_or(open[a])).collect();
        let shape = match (spec.name.as_str(), shape.len()) {
            ("state", _) => vec![2, 1, 128],
            ("input", 2) => vec![1, 576],
            _ => shape,
        };
        let n: usize = shape.iter().product();
        let noise: Vec<f64> = random::noise(i as u64 + 1).take(n).collect();
        match spec.dtype {
            Dtype::F32 => Array::from_f32(shape, &noise.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap(),
            Dtype::I64 => {
                let number = |i: usize| if spec.name == "sr" { 16000i64 } else { i as i64 % 7 };
                Array::new(Dtype::I64, shape, (0..n).flat_map(|i| number(i).to_le_bytes()).collect()).unwrap()
            }
            other => panic!("no inputs of type {other}"),
        }
    };
    network.inputs().iter().enumerate().map(one).collect()
}

/// The outputs on those inputs, of an optimized plan.
pub fn answers(network: &Network, batch: usize) -> Result<Vec<Array>> {
    answers_at(network, [batch, 3, 48, 192])
}

/// The outputs on inputs of these sizes where they are open, of an optimized plan.
pub fn answers_at(network: &Network, open: [usize; 4]) -> Result<Vec<Array>> {
    let inputs = inputs_at(network, open);
    let shapes: Vec<_> = inputs.iter().map(|i| i.shape().to_vec()).collect();
    network.runner(&shapes)?.run(&inputs)
}
