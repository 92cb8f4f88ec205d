//! Makes the student that the program embeds.

fn main() -> tutee::Result<()> {
    tutee::build::Compiler::new("../../fixtures/lenet300.onnx").recipe("small.toml").compile()?;
    Ok(())
}
