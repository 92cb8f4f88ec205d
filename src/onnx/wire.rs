//! Protobuf on the wire, read by the schema's table of fields instead of into types.

use crate::ir::varints;

include!(concat!(env!("OUT_DIR"), "/fields.rs"));

/// Messages nested more deeply than this are not looked into; decoding refuses them anyway.
pub const MAX_DEPTH: usize = 100;

/// Ways to write a field: a number of variable length, and one of four bytes.
pub const VARINT: u64 = 0;
pub const FIXED32: u64 = 5;

/// A group, which nothing writes any more: its fields, up to one of the same number that ends it.
const GROUP: u64 = 3;
const GROUP_END: u64 = 4;

/// How a field that holds bytes, a string, a message or a packed list is written.
pub const BLOCK: u64 = 2;

/// One field of a message.
pub struct Field<'a> {
    pub number: u64,
    /// Its wire type.
    pub form: u64,
    /// What follows the key; without the length of a block.
    pub content: &'a [u8],
    /// Key and all.
    pub whole: &'a [u8],
}

/// Takes the next field; `None` if the bytes do not begin with one.
pub fn field<'a>(bytes: &mut &'a [u8]) -> Option<Field<'a>> {
    field_within(bytes, 0)
}

/// Takes the next field, in so many groups.
fn field_within<'a>(bytes: &mut &'a [u8], groups: usize) -> Option<Field<'a>> {
    let all = *bytes;
    let key = varint(bytes)?;
    let content = match key & 7 {
        GROUP if groups < MAX_DEPTH => {
            let from = *bytes;
            while field_within(bytes, groups + 1)?.form != GROUP_END {}
            &from[..from.len() - bytes.len()]
        }
        GROUP_END if groups > 0 => &bytes[..0],
        VARINT => {
            let from = *bytes;
            varint(bytes)?;
            &from[..from.len() - bytes.len()]
        }
        1 => take(bytes, 8)?,
        BLOCK => {
            let n = varint(bytes)?;
            take(bytes, n)?
        }
        FIXED32 => take(bytes, 4)?,
        _ => return None,
    };
    Some(Field { number: key >> 3, form: key & 7, content, whole: &all[..all.len() - bytes.len()] })
}

/// The fields that the schema gives a message: number and, where the field is a message itself, the name of that.
pub fn schema(message: &str) -> Option<&'static [(u64, &'static str)]> {
    Some(FIELDS.iter().find(|m| m.0 == message)?.1)
}

/// `float_data`, `int32_data`, `int64_data`, `double_data` and `uint64_data` of a TensorProto.
const LISTS: [u64; 5] = [4, 5, 7, 10, 11];

/// A message whose lists of numbers in tensors are all in blocks, as [`super::proto`] has them: protobuf allows to write
/// the numbers one by one, each a field of its own. `None` if it is not well-formed.
pub fn pack(bytes: &[u8], message: &str) -> Option<Vec<u8>> {
    pack_message(bytes, message, 0)
}

fn pack_message(mut bytes: &[u8], message: &str, depth: usize) -> Option<Vec<u8>> {
    let known = schema(message)?;
    let mut out = Vec::new();
    // Numbers that stand one after the other in the same list, and the list.
    let (mut list, mut numbers) = (0, Vec::new());
    while !bytes.is_empty() {
        let field = field(&mut bytes)?;
        let single = message == "TensorProto" && LISTS.contains(&field.number) && field.form != BLOCK;
        let goes_on = single && field.number == list;
        if !goes_on && !numbers.is_empty() {
            put_block(&mut out, list, &std::mem::take(&mut numbers));
        }
        let inner = known.iter().find(|f| f.0 == field.number).map_or("", |f| f.1);
        if single {
            list = field.number;
            numbers.extend_from_slice(field.content);
        } else if field.form == BLOCK && depth < MAX_DEPTH && schema(inner).is_some() {
            let packed = pack_message(field.content, inner, depth + 1)?;
            put_block(&mut out, field.number, &packed);
        } else {
            out.extend_from_slice(field.whole);
        }
    }
    if !numbers.is_empty() {
        put_block(&mut out, list, &numbers);
    }
    Some(out)
}

fn put_block(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    varints::put(out, number << 3 | BLOCK);
    varints::put(out, content.len() as u64);
    out.extend_from_slice(content);
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
