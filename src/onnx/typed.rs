//! Tensors whose elements the file has in lists of numbers instead of raw bytes.

use super::external::Pages;
use super::proto::TensorProto;
use crate::ir::shape::DType;
use crate::ir::tensor::{Tensor, byte_len};
use crate::ir::varints;
use bytes::Bytes;

/// The tensor; `None` unless its list has exactly the elements that its type and shape ask for.
pub fn tensor(t: &TensorProto, dtype: DType, shape: Vec<usize>, pages: &Pages) -> Option<Tensor> {
    let list = joined(match dtype.0 {
        1 | 14 => &t.float_data,
        11 | 15 => &t.double_data,
        7 => &t.int64_data,
        12 | 13 => &t.uint64_data,
        _ => &t.int32_data,
    });
    let backing = pages.of(&list);
    let bytes = match dtype.0 {
        1 | 11 | 14 | 15 => return Some(Tensor::new(dtype, shape, list)?.with_typed(true).backed_by(backing)),
        21..=28 if dtype.bits()? < 8 => sub_byte(&list, dtype, byte_len(dtype, &shape)?)?,
        _ => return Tensor::from_list(dtype, shape, list, backing),
    };
    Some(Tensor::new(dtype, shape, bytes)?.with_typed(true))
}

/// A list is one block, but may be several.
fn joined(blocks: &[Bytes]) -> Bytes {
    match blocks {
        [block] => block.clone(),
        blocks => blocks.concat().into(),
    }
}

/// Elements of less than a byte: one number for each byte of them, or for each element where they go over its end.
fn sub_byte(list: &[u8], dtype: DType, need: usize) -> Option<Bytes> {
    let mut out = Vec::with_capacity(need.min(list.len()));
    if dtype.bits()? != 6 {
        varints::each(
            list,
            || (),
            |n, _| {
                out.push(n as u8);
                Some(())
            },
        )?;
        return Some(out.into());
    }
    let (mut bits, mut filled) = (0, 0);
    varints::each(
        list,
        || (),
        |n, _| {
            bits |= (n as u32 & 0x3f) << filled;
            filled += 6;
            while filled >= 8 {
                out.push(bits as u8);
                (bits, filled) = (bits >> 8, filled - 8);
            }
            Some(())
        },
    )?;
    if filled > 0 {
        out.push(bits as u8);
    }
    Some(out.into())
}
