//! The kernel of the operators that only move elements: whatever their type is, they are copied as bytes.

use crate::ir::shape::DType;
use crate::ir::tensor::{Tensor, byte_len};

/// No kernel makes a result of this many bytes or more.
pub const MAX_BYTES: usize = 1 << 31;

/// No kernel goes along an axis of more elements.
const MAX_AXIS: usize = 1 << 28;

/// Where the elements along one axis of a result lie in the source: offsets in elements, which add up over the axes.
/// `None` is an element that the source does not have.
pub type AxisOffsets = Vec<Option<usize>>;

/// A constant input of a kernel.
pub fn input<'a>(inputs: &[Option<&'a Tensor>], slot: usize) -> Option<&'a Tensor> {
    inputs.get(slot).copied().flatten()
}

/// Bytes of a result, if kernels may make it: whatever is listed by element or by axis stays small too.
pub fn room(dtype: DType, shape: &[usize]) -> Option<usize> {
    dtype.bytes()?;
    let full: Vec<usize> = shape.iter().map(|&d| d.max(1)).collect();
    let small = byte_len(dtype, &full)? < MAX_BYTES && full.iter().all(|&d| d <= MAX_AXIS);
    byte_len(dtype, shape).filter(|_| small)
}

/// `n` elements that lie `stride` apart, from the source's first on.
pub fn along(n: usize, stride: usize) -> AxisOffsets {
    (0..n).map(|i| Some(i * stride)).collect()
}

/// Distance in elements between neighbours along each axis of a row-major tensor.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// A place on an axis of `n`, counted from its end if negative.
pub fn place(index: i64, n: usize) -> Option<usize> {
    let from_front = if index < 0 { index.checked_add(i64::try_from(n).ok()?)? } else { index };
    usize::try_from(from_front).ok().filter(|&i| i < n)
}

/// The axes of a tensor as they are: picking them copies it.
pub fn axes(x: &Tensor) -> Option<Vec<AxisOffsets>> {
    room(x.dtype(), x.shape())?;
    Some(x.shape().iter().zip(strides(x.shape())).map(|(&n, s)| along(n, s)).collect())
}

/// The axes of `x` repeated where they are 1, so that it has shape `to`. ONNX Broadcasting, unidirectional.
pub fn broadcast_axes(x: &Tensor, to: &[usize]) -> Option<Vec<AxisOffsets>> {
    room(x.dtype(), to)?;
    let own = axes(x)?;
    let lead = to.len().checked_sub(own.len())?;
    let mut out: Vec<AxisOffsets> = to[..lead].iter().map(|&n| along(n, 0)).collect();
    for (axis, &n) in own.into_iter().zip(&to[lead..]) {
        out.push(match axis.len() {
            len if len == n => axis,
            1 => along(n, 0),
            _ => return None,
        });
    }
    Some(out)
}

/// The tensor whose element at (i, j, …) is that of `x` at offset `axes[0][i] + axes[1][j] + …`, or else `fill`, the
/// bytes of one element. `None` if the type has no whole bytes, the result is too large or an offset out of range.
pub fn pick(x: &Tensor, axes: &[AxisOffsets], fill: &[u8]) -> Option<Tensor> {
    let shape: Vec<usize> = axes.iter().map(Vec::len).collect();
    let width = x.dtype().bytes()?;
    let size = room(x.dtype(), &shape)?;
    if size == 0 {
        return Tensor::new(x.dtype(), shape, Default::default());
    }
    let mut out = Vec::with_capacity(size);
    // Trailing axes that lie as in a row-major tensor are copied as one block.
    let (mut outer, mut block) = (axes, 1usize);
    while let Some((last, rest)) = outer.split_last() {
        if !last.iter().enumerate().all(|(i, &o)| o == i.checked_mul(block)) {
            break;
        }
        (outer, block) = (rest, block * last.len());
    }
    let whole = along(1, 0);
    let (inner, lead) = outer.split_last().unwrap_or((&whole, &[]));
    let mut index = vec![0usize; lead.len()];
    while out.len() < size {
        let base = lead.iter().zip(&index).try_fold(0usize, |sum, (axis, &i)| sum.checked_add(axis[i]?));
        for offset in inner {
            match base.zip(*offset) {
                Some((b, o)) => {
                    let from = b.checked_add(o)?.checked_mul(width)?;
                    x.copy(from..from.checked_add(block * width)?, &mut out)?;
                }
                None if fill.len() == width => out.extend(fill.repeat(block)),
                None => return None,
            }
        }
        for (i, axis) in index.iter_mut().zip(lead).rev() {
            *i += 1;
            if *i < axis.len() {
                break;
            }
            *i = 0;
        }
    }
    Tensor::new(x.dtype(), shape, out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_blocks_fills_and_refuses() {
        let x = Tensor::i64([2, 3], &[1, 2, 3, 4, 5, 6]);
        let all = axes(&x).unwrap();
        assert_eq!(pick(&x, &all, &[]).unwrap(), x);
        let turned = pick(&x, &[all[1].clone(), all[0].clone()], &[]).unwrap();
        assert_eq!(turned, Tensor::i64([3, 2], &[1, 4, 2, 5, 3, 6]));
        let padded = pick(&x, &[vec![Some(3)], vec![None, Some(0), Some(2)]], &9i64.to_le_bytes()).unwrap();
        assert_eq!(padded, Tensor::i64([1, 3], &[9, 4, 6]));
        assert_eq!(pick(&x, &[vec![None]], &[]), None, "no fill");
        assert_eq!(pick(&x, &[vec![Some(6)]], &[]), None, "out of range");
        assert_eq!(pick(&x, &[vec![], vec![None]], &[]).unwrap().shape(), [0, 1]);
        assert_eq!(broadcast_axes(&x, &[1 << 40, 2, 3]), None, "too large");
    }
}
