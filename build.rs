//! Generates, from `proto/onnx.proto` and in Rust alone (no system `protoc`), the protobuf types and a table of the
//! fields that the schema defines.

use std::fmt::Write;

/// `FieldDescriptorProto.Type.TYPE_BYTES`
const BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    let mut descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;

    // Every message with its fields: number and, where the field is a message itself, the name of that.
    let mut messages: Vec<_> =
        descriptors.file.iter().flat_map(|f| &f.message_type).map(|m| (m.name().to_string(), m)).collect();
    let mut fields = String::from("pub const FIELDS: &[(&str, &[(u64, &str)])] = &[\n");
    while let Some((name, message)) = messages.pop() {
        messages.extend(message.nested_type.iter().map(|m| (format!("{name}.{}", m.name()), m)));
        let listed = message.field.iter().map(|f| (f.number(), f.type_name().trim_start_matches(".onnx.")));
        writeln!(fields, "({name:?}, &{:?}),", listed.collect::<Vec<_>>())?;
    }
    fields.push_str("];\n");
    std::fs::write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("fields.rs"), fields)?;

    // A packed list is one block on the wire: as bytes it is shared with the file.
    let messages = descriptors.file.iter_mut().flat_map(|f| &mut f.message_type);
    for field in messages.filter(|m| m.name() == "TensorProto").flat_map(|m| &mut m.field) {
        if ["float_data", "double_data", "int32_data", "int64_data", "uint64_data"].contains(&field.name()) {
            field.r#type = Some(BYTES);
            field.options = None;
        }
    }
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
