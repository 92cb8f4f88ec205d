//! Generates, from `proto/onnx.proto` and in Rust alone (no system `protoc`), the protobuf types and a table of the
//! fields that the schema defines.

use std::fmt::Write;

/// `FieldDescriptorProto.Type.TYPE_BYTES`
const BYTES: i32 = 12;

/// `FieldDescriptorProto.Label.LABEL_REPEATED`
const REPEATED: i32 = 3;

/// Messages, and which of their messages stay encoded when they are decoded.
const SLICES: [(&str, &[&str]); 4] = [
    ("ModelProto", &["graph"]),
    ("GraphProto", &["node", "initializer"]),
    ("NodeProto", &["attribute"]),
    ("AttributeProto", &["g", "graphs"]),
];

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
    // The messages of which a file has many, or that hold many: read, they are slices of it until their turn comes.
    let mut slices = descriptors.file[0].clone();
    (slices.package, slices.source_code_info) = (Some("slices".into()), None);
    let kept = slices.message_type.into_iter().filter_map(|message| {
        let (_, sliced) = SLICES.iter().find(|s| s.0 == message.name())?;
        Some((message, *sliced))
    });
    let kept = kept.map(|(mut message, sliced)| {
        message.enum_type.clear();
        for field in message.field.iter_mut().filter(|f| sliced.contains(&f.name())) {
            (field.r#type, field.type_name, field.label) = (Some(BYTES), None, Some(REPEATED));
        }
        message
    });
    slices.message_type = kept.collect();
    descriptors.file.push(slices);
    // The attributes of a node are a type of our own.
    let file = &mut descriptors.file[0];
    let mut own = file.message_type.iter().find(|m| m.name() == "AttributeProto").cloned().expect("it defines them");
    own.name = Some("Attribute".into());
    file.message_type.push(own);
    for field in file.message_type.iter_mut().filter(|m| m.name() == "NodeProto").flat_map(|m| &mut m.field) {
        if field.name() == "attribute" {
            field.type_name = Some(".onnx.Attribute".into());
        }
    }
    // An attribute has one of these at most, and a node many attributes.
    let mut config = prost_build::Config::new();
    config.bytes(["."]).extern_path(".onnx.Attribute", "super::attribute::Attribute");
    for field in ["onnx.AttributeProto.g", "AttributeProto.t", "AttributeProto.sparse_tensor", "AttributeProto.tp"] {
        config.boxed(field);
    }
    config.compile_fds(descriptors)?;
    Ok(())
}
