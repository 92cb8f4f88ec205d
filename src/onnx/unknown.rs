//! Fields of a file that the schema does not define. Decoding skips them, so somebody has to say so.

use std::collections::BTreeMap;

include!(concat!(env!("OUT_DIR"), "/fields.rs"));

/// Messages nested more deeply than this are not looked into; decoding refuses them anyway.
const MAX_DEPTH: usize = 100;

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
    let known = FIELDS.iter().find(|m| m.0 == message)?.1;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let content = match key & 7 {
            0 => varint(&mut bytes).map(|_| &[][..])?,
            1 => take(&mut bytes, 8)?,
            2 => {
                let n = varint(&mut bytes)?;
                take(&mut bytes, n)?
            }
            5 => take(&mut bytes, 4)?,
            _ => return None,
        };
        match known.iter().find(|f| f.0 == key >> 3) {
            None => *found.entry((message, key >> 3)).or_default() += 1,
            Some((_, inner)) if key & 7 == 2 && depth < MAX_DEPTH => drop(scan(content, inner, depth + 1, found)),
            Some(_) => {}
        }
    }
    Some(())
}

fn take<'a>(bytes: &mut &'a [u8], n: u64) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(usize::try_from(n).ok()?)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
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
        assert_eq!(fields(&model), ["ModelProto field 99 (once)", "NodeProto field 42 (2 times)"]);
        for end in 0..model.len() {
            fields(&model[..end]);
        }
    }
}
