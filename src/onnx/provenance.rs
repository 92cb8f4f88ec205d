//! Who made a file and how, in the file: its producer, and two entries of its metadata.

use super::pieces;
use super::proto::{ModelProto, StringStringEntryProto};
use crate::error::{Error, Result};
use crate::ir::Model;

/// Name of the producer, and key of what was done.
const TUTEE: &str = "tutee";

/// Key of who produced the teacher.
const TEACHER: &str = "tutee.teacher";

/// Bytes of who that was, at most.
const LONGEST: usize = 40;

/// Names tutee as the producer of a model, and says what it did; the producer of the teacher goes to the metadata. What an
/// earlier run of tutee said of itself is replaced, and the first teacher's producer stays.
///
/// # Errors
/// Internal ones: carried bytes that do not decode.
pub fn sign(model: &mut Model, done: &str) -> Result<()> {
    let mut proto: ModelProto = pieces::decode(&model.carried)
        .map_err(|e| Error::internal(format!("what is carried of the model does not decode: {e}")))?;
    let first = proto.metadata_props.iter().find(|entry| entry.key() == TEACHER).map(|entry| entry.value().to_string());
    let teacher = match proto.producer_name() {
        TUTEE => first,
        name => Some(format!("{name} {}", proto.producer_version()).trim().to_string()),
    };
    proto.metadata_props.retain(|entry| ![TUTEE, TEACHER].contains(&entry.key()));
    proto.producer_name = Some(TUTEE.into());
    proto.producer_version = Some(env!("CARGO_PKG_VERSION").into());
    let mut say = |key: &str, value: String| {
        let (key, value) = (Some(key.to_string()), Some(value));
        proto.metadata_props.push(StringStringEntryProto { key, value });
    };
    say(TUTEE, done.to_string());
    if let Some(teacher) = teacher.filter(|t| !t.is_empty()) {
        say(TEACHER, cut(teacher.replace(char::is_control, " ")));
    }
    model.carried = pieces::encode(&proto);
    Ok(())
}

fn cut(text: String) -> String {
    if text.len() <= LONGEST {
        return text;
    }
    let end = (0..=LONGEST - '…'.len_utf8()).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    fn signed(model: &mut Model, done: &str) -> ModelProto {
        sign(model, done).unwrap();
        pieces::decode(&model.carried).unwrap()
    }

    fn entries(proto: &ModelProto) -> Vec<(&str, &str)> {
        proto.metadata_props.iter().map(|entry| (entry.key(), entry.value())).collect()
    }

    #[test]
    fn the_teacher_stays_known_and_what_was_done_is_replaced() {
        let mut model = parse::model("model \"m\" opset 17 {\n  input %x : f32[4]\n  output %x\n}\n").unwrap();
        let mut proto = ModelProto {
            producer_name: Some("pytorch".into()),
            producer_version: Some("2.1.0".into()),
            ..Default::default()
        };
        let own = StringStringEntryProto { key: Some("author".into()), value: Some("someone".into()) };
        proto.metadata_props.push(own);
        model.carried = pieces::encode(&proto);
        let first = signed(&mut model, "clean");
        assert_eq!((first.producer_name(), first.producer_version()), ("tutee", env!("CARGO_PKG_VERSION")));
        assert_eq!(entries(&first), [("author", "someone"), ("tutee", "clean"), ("tutee.teacher", "pytorch 2.1.0")]);
        let again = signed(&mut model, "prune-weights");
        assert_eq!(entries(&again)[1..], [("tutee", "prune-weights"), ("tutee.teacher", "pytorch 2.1.0")]);
    }

    #[test]
    fn it_takes_under_200_bytes() {
        let mut model = parse::model("model \"m\" opset 17 {\n  input %x : f32[4]\n  output %x\n}\n").unwrap();
        let proto = ModelProto { producer_name: Some("\u{1b}".to_string() + &"ä".repeat(3000)), ..Default::default() };
        model.carried = pieces::encode(&proto);
        sign(&mut model, &"x".repeat(80 + "; recipe 123456789012".len())).unwrap();
        let all = model.carried.concat();
        assert!(all.len() < 200 && !all.contains(&0x1b));
    }
}
