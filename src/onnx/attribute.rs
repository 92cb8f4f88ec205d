//! Attributes of the nodes of a file: a long list of numbers or strings is passed on as it is written.

use super::proto::AttributeProto;
use super::wire::{self, BLOCK, FIXED32, Field, VARINT};
use crate::ir::varints;
use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

/// Shorter ones are decoded.
const LONG: usize = 1 << 12;

#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Decoded(Box<AttributeProto>),
    Encoded(Bytes),
}

/// Whether a field of an AttributeProto is well-formed, and what a list has: `name`, `doc_string`, `ref_attr_name`, `type`,
/// `floats`, `ints` or `strings`.
fn is_of_lists(field: &Field<'_>) -> bool {
    match (field.number, field.form) {
        (1 | 13 | 21, BLOCK) => str::from_utf8(field.content).is_ok(),
        (20, VARINT) | (7, FIXED32) | (8, VARINT) | (9, BLOCK) => true,
        (7, BLOCK) => field.content.len().is_multiple_of(4),
        (8, BLOCK) => varints::each(field.content, || (), |_, _| Some(())).is_some(),
        _ => false,
    }
}

/// The name of an attribute that is long, and has nothing but lists in it.
pub fn list_name(encoded: &[u8]) -> Option<String> {
    let (mut rest, mut name) = (Some(encoded).filter(|e| e.len() >= LONG)?, None);
    while !rest.is_empty() {
        let field = wire::field(&mut rest).filter(is_of_lists)?;
        if field.number == 1 {
            name = String::from_utf8(field.content.to_vec()).ok();
        }
    }
    name
}

impl Attribute {
    /// # Errors
    /// If it is no AttributeProto.
    pub fn of(encoded: &Bytes) -> Result<Attribute, DecodeError> {
        match list_name(encoded) {
            Some(_) => Ok(Attribute::Encoded(encoded.clone())),
            None => AttributeProto::decode(encoded.clone()).map(Attribute::from),
        }
    }
}

impl From<AttributeProto> for Attribute {
    fn from(decoded: AttributeProto) -> Attribute {
        Attribute::Decoded(decoded.into())
    }
}

impl Default for Attribute {
    fn default() -> Attribute {
        AttributeProto::default().into()
    }
}

impl Message for Attribute {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Attribute::Decoded(a) => a.encode_raw(buf),
            Attribute::Encoded(bytes) => buf.put(bytes.clone()),
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if let Attribute::Encoded(bytes) = self {
            *self = AttributeProto::decode(bytes.clone())?.into();
        }
        match self {
            Attribute::Decoded(a) => a.merge_field(tag, wire_type, buf, ctx),
            Attribute::Encoded(_) => Ok(()),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Attribute::Decoded(a) => a.encoded_len(),
            Attribute::Encoded(bytes) => bytes.len(),
        }
    }

    fn clear(&mut self) {
        *self = Attribute::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::pieces;
    use crate::onnx::proto::NodeProto;

    #[test]
    fn long_lists_are_shared() {
        let list = AttributeProto { name: Some("nodes".into()), ints: vec![3; LONG], ..Default::default() };
        let encoded = Bytes::from(list.encode_to_vec());
        assert_eq!(list_name(&encoded).as_deref(), Some("nodes"));
        assert_eq!(list_name(&encoded[..encoded.len() - 1]), None);
        // The name, then a list that is cut off, of numbers and of floats.
        for (list, len) in [(0x42, 5000u16), (0x3a, 4999)] {
            let head = [0x0a, 1, b'a', list, len as u8 | 0x80, (len >> 7) as u8];
            let mut bad = [&head[..], &vec![1; usize::from(len)]].concat();
            bad.splice(bad.len() - 1.., [0x80]);
            assert_eq!(list_name(&bad), None);
        }
        let [kept, decoded] = [Attribute::of(&encoded).unwrap(), list.into()];
        let node = |a: &Attribute| NodeProto { attribute: vec![a.clone()], ..Default::default() };
        let pieces = pieces::encode(&node(&kept));
        assert!(pieces.iter().any(|p| p.as_ptr() == encoded.as_ptr()));
        assert_eq!(pieces.concat(), node(&decoded).encode_to_vec());
        assert_eq!(node(&kept).encoded_len(), node(&decoded).encoded_len());
    }

    #[test]
    fn others_are_decoded() {
        let short = AttributeProto { name: Some("pads".into()), ints: vec![1; 4], ..Default::default() };
        let tensor = AttributeProto { t: Some(Box::default()), s: Some(vec![7; LONG].into()), ..short.clone() };
        for a in [short, tensor] {
            assert_eq!(Attribute::of(&a.encode_to_vec().into()), Ok(a.into()));
        }
    }
}
