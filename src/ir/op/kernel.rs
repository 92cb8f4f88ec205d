//! What the constant kernels share: broadcasting, walking along an axis.

use crate::ir::op::pick::room;
use crate::ir::shape::DType;
use crate::ir::tensor::{Tensor, elements};
use ndarray::{ArrayViewD, IxDyn};

/// `Some` if a result of this type and shape may be computed.
pub fn fits(dtype: DType, shape: &[usize]) -> Option<()> {
    room(dtype, shape).map(drop)
}

/// Shape of the elementwise combination of tensors. ONNX Broadcasting, multidirectional.
pub fn broadcast<'a>(shapes: impl IntoIterator<Item = &'a [usize]>) -> Option<Vec<usize>> {
    let mut out: Vec<usize> = Vec::new();
    for shape in shapes {
        if shape.len() > out.len() {
            out.splice(0..0, vec![1; shape.len() - out.len()]);
        }
        let skip = out.len() - shape.len();
        for (o, &d) in out[skip..].iter_mut().zip(shape) {
            match (*o, d) {
                (_, 1) => {}
                (1, _) => *o = d,
                (a, b) if a == b => {}
                _ => return None,
            }
        }
    }
    Some(out)
}

/// The elements as an array.
pub fn view<'a, T>(values: &'a [T], shape: &[usize]) -> Option<ArrayViewD<'a, T>> {
    ArrayViewD::from_shape(IxDyn(shape), values).ok()
}

/// f(a, b), both broadcast to `shape`, row-major.
pub fn zip<A: Copy, B: Copy, R>(
    (a, a_shape): (&[A], &[usize]),
    (b, b_shape): (&[B], &[usize]),
    shape: &[usize],
    mut f: impl FnMut(A, B) -> R,
) -> Option<Vec<R>> {
    let (a, b) = (view(a, a_shape)?, view(b, b_shape)?);
    let (a, b) = (a.broadcast(IxDyn(shape))?, b.broadcast(IxDyn(shape))?);
    Some(a.iter().zip(b.iter()).map(|(&x, &y)| f(x, y)).collect())
}

/// The elements of a numeric tensor as f64: exact for all types but 64-bit integers, which are refused above 2⁵³.
pub fn reals(t: &Tensor) -> Option<Vec<f64>> {
    match t.floats() {
        Some(v) => Some(v),
        None => t.ints()?.into_iter().map(|v| (v.unsigned_abs() <= 1 << 53).then_some(v as f64)).collect(),
    }
}

/// The same, one after the other, broadcast to `shape`.
pub fn spread<'t>(t: &'t Tensor, shape: &[usize]) -> Option<Box<dyn Iterator<Item = f64> + 't>> {
    if t.shape() == shape && t.dtype().is_float() {
        return Some(Box::new(t.iter_floats()?));
    }
    let values = reals(t)?;
    let strides: Vec<usize> =
        view(&values, t.shape())?.broadcast(IxDyn(shape))?.strides().iter().map(|&s| s.unsigned_abs()).collect();
    let (count, shape) = (elements(shape)?, shape.to_vec());
    let (mut index, mut at) = (vec![0; shape.len()], 0);
    Some(Box::new((0..count).map(move |_| {
        let value = values[at];
        for (axis, i) in index.iter_mut().enumerate().rev() {
            (*i, at) = (*i + 1, at + strides[axis]);
            if *i < shape[axis] {
                break;
            }
            at -= *i * strides[axis];
            *i = 0;
        }
        value
    })))
}

/// Sequences along an axis of a row-major tensor: `len` elements, `stride` apart, one sequence a start; none if they
/// would be empty, however many.
pub struct Sequences {
    pub len: usize,
    pub stride: usize,
    outer: usize,
}

impl Sequences {
    /// Along `axis`, below the rank.
    pub fn new(shape: &[usize], axis: usize) -> Option<Sequences> {
        let len = *shape.get(axis)?;
        let (outer, stride) = (elements(shape.get(..axis)?)?, elements(shape.get(axis + 1..)?)?);
        Some(Sequences { len, stride, outer: if len == 0 || stride == 0 { 0 } else { outer } })
    }

    /// Index of the first element of every sequence.
    pub fn starts(&self) -> impl Iterator<Item = usize> + use<> {
        let (len, stride) = (self.len, self.stride);
        (0..self.outer).flat_map(move |o| (0..stride).map(move |i| o * len * stride + i))
    }

    /// Indices of the sequence that begins at `start`.
    pub fn lane(&self, start: usize) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let stride = self.stride;
        (0..self.len).map(move |k| start + k * stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_by_broadcasting() {
        let all = |t: &Tensor, shape: &[usize]| spread(t, shape).map(Iterator::collect::<Vec<_>>);
        let row = Tensor::f32([3], &[1.0, 2.0, 3.0]);
        assert_eq!(all(&row, &[3]).unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(all(&row, &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        let column = Tensor::i64([2, 1], &[4, 5]);
        assert_eq!(all(&column, &[2, 3]).unwrap(), [4.0, 4.0, 4.0, 5.0, 5.0, 5.0]);
        assert_eq!(all(&Tensor::scalar_i64(7), &[1, 2]).unwrap(), [7.0, 7.0]);
        assert_eq!(all(&column, &[0, 3]), None, "2 is not 1");
        assert!(all(&row, &[0, 3]).unwrap().is_empty());
        assert_eq!(all(&Tensor::scalar_i64((1 << 53) + 1), &[]), None);
    }

    #[test]
    fn lanes_of_nothing_take_no_time() {
        for (shape, axis) in [([1 << 40, 3, 0], 1), ([1 << 40, 0, 3], 1), ([0, 3, 1 << 40], 1)] {
            assert_eq!(Sequences::new(&shape, axis).unwrap().starts().count(), 0, "{shape:?}");
        }
        assert!(Sequences::new(&[0, 1 << 40, 1 << 40], 0).is_none(), "a stride beyond 64 bits");
        assert_eq!(Sequences::new(&[2, 3, 2], 1).unwrap().starts().collect::<Vec<_>>(), [0, 1, 6, 7]);
    }
}
