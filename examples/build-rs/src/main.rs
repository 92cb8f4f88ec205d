//! Reads a drawn digit with the network that is inside of the program.

use tract_onnx::prelude::*;

static STUDENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lenet300.onnx"));
static DIGIT: &str = include_str!("../digit.txt");

/// Mean and standard deviation of the pixels that the network was trained on.
const MEAN: f32 = 0.1307;
const STD: f32 = 0.3081;

fn main() -> TractResult<()> {
    // The types in the file are for any number of images.
    let network = tract_onnx::onnx()
        .with_ignore_value_info(true)
        .model_for_read(&mut &*STUDENT)?
        .with_input_fact(0, f32::fact([1, 1, 28, 28]).into())?
        .into_optimized()?
        .into_runnable()?;
    let pixels = DIGIT.chars().filter(|c| !c.is_whitespace()).map(|c| if c == '#' { 1.0 } else { 0.0 });
    let pixels: Vec<f32> = pixels.map(|p: f32| (p - MEAN) / STD).collect();
    let input = Tensor::from_shape(&[1, 1, 28, 28], &pixels)?;
    let output = network.run(tvec!(input.into()))?;
    let scores = output[0].to_plain_array_view::<f32>()?;
    let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |best| best.0);
    println!("{DIGIT}this is a {best}; the network has {} bytes", STUDENT.len());
    Ok(())
}
