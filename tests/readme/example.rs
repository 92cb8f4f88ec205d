use tutee::{
    compress::{Silent, compress},
    onnx,
    recipe::Recipe,
};

fn main() -> tutee::Result<()> {
    let teacher = onnx::load("fixtures/resnet_small_bn.onnx".as_ref())?;
    let recipe = Recipe { steps: Recipe::default_steps(), ..Recipe::default() };
    let outcome = compress(&teacher.model, teacher.bytes, &recipe, None, &Silent)?;
    let target = onnx::Target::File(std::env::temp_dir().join("student.onnx"));
    onnx::save(&outcome.student, &target, onnx::SaveOptions::default())?;
    println!("{}", outcome.report.text());
    Ok(())
}
