//! Fields of a file that the schema does not define. Decoding skips them, so somebody has to say so.

use super::wire::{self, BLOCK, MAX_DEPTH};
use std::collections::BTreeMap;

/// The unknown fields of a ModelProto, each with how often it occurs: `NodeProto field 42 (3 times)`.
pub fn fields(model: &[u8]) -> Vec<String> {
    let mut found = BTreeMap::new();
    scan(model, "ModelProto", 0, &mut found);
    let times = |n| if n == 1 { "once".to_string() } else { format!("{n} times") };
    found.into_iter().map(|((message, field), n)| format!("{message} field {field} ({})", times(n))).collect()
}

/// Walks one message. `None` where it is not well-formed: a string that was taken for a message, at worst.
fn scan(
    mut bytes: &[u8],
    message: &'static str,
    depth: usize,
    found: &mut BTreeMap<(&'static str, u64), u64>,
) -> Option<()> {
    let known = wire::schema(message)?;
    while !bytes.is_empty() {
        let field = wire::field(&mut bytes)?;
        match known.iter().find(|f| f.0 == field.number) {
            None => *found.entry((message, field.number)).or_default() += 1,
            Some((_, inner)) if field.form == BLOCK && !inner.is_empty() && depth < MAX_DEPTH => {
                let _ = scan(field.content, inner, depth + 1, found);
            }
            Some(_) => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_message() {
        // ir_version = 8, field 99 = 1, graph { node { op_type "Add", field 42 "x" }, node { field 42 "" } }
        let node = [0x22, 3, b'A', b'd', b'd', 0xd2, 0x02, 1, b'x'];
        let mut graph = vec![0x0a, node.len() as u8];
        graph.extend(node);
        graph.extend([0x0a, 3, 0xd2, 0x02, 0]);
        let mut model = vec![0x08, 8, 0x98, 0x06, 1, 0x3a, graph.len() as u8];
        model.extend(graph);
        // A group of one field, and one more field after it.
        model.extend([0xa3, 0x06, 0x08, 1, 0xa4, 0x06, 0xa8, 0x06, 1]);
        let of_model = [99, 100, 101].map(|n| format!("ModelProto field {n} (once)"));
        assert_eq!(fields(&model)[..3], of_model);
        assert_eq!(fields(&model)[3..], ["NodeProto field 42 (2 times)"]);
        for end in 0..model.len() {
            fields(&model[..end]);
        }
    }
}
