//! Operators that make numbers of a shape: Shape, Size. (ONNX Operators: Shape, since 1, 13, 15, 19, 21, 23, 24, 25;
//! Size, since 1, 13, 19, 21, 23, 24, 25.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::pick::input;
use crate::ir::op::reshape::product;
use crate::ir::shape::{DType, Dim, Shape as Dims};
use crate::ir::tensor::Tensor;
use crate::ir::ties::Ties;

/// The dims of the input from axis `start` to before `end`, bounds counted from the back if negative, and clamped.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shape {
    pub start: i64,
    /// `None` for all that follow.
    pub end: Option<i64>,
}

/// The number of elements of the input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Size;

impl Shape {
    /// The axes that are reported.
    pub fn axes(&self, rank: usize) -> std::ops::Range<usize> {
        let at = |v: i64| (if v < 0 { v.saturating_add(rank as i64) } else { v }).clamp(0, rank as i64) as usize;
        let (start, end) = (at(self.start), self.end.map_or(rank, at));
        start..end.max(start)
    }
}

impl Operator for Shape {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        if opset < 15 {
            return Some(Shape::default());
        }
        Some(Shape { start: attrs.int_or("start", 0), end: attrs.int("end") })
    }

    fn op_type(&self) -> &'static str {
        "Shape"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let start = (self.start != 0).then(|| Attr::int("start", self.start));
        self.end.map(|e| Attr::int("end", e)).into_iter().chain(start).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let dims = cx.shape(0).map(|x| x.0[self.axes(x.rank())].to_vec());
        let length = dims.as_ref().map_or(Dim::Unknown, |d| Dim::Known(d.len() as u64));
        Ok(vec![Fact::tensor(Some(DType::I64), Some(Dims(vec![length]))).with_ints(dims)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let shape = input(inputs, 0)?.shape();
        let dims: Vec<i64> = shape[self.axes(shape.len())].iter().map(|&d| d as i64).collect();
        Some(vec![Tensor::i64([dims.len()], &dims)])
    }

    /// Reading the size of an axis holds it, unless nobody looks at that number.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, |s| s.rank()) as i64;
        let bound = |b: i64| (if b < 0 { b + rank } else { b }).clamp(0, rank) as usize;
        let (start, end) = (bound(self.start), bound(self.end.unwrap_or(rank)));
        for axis in 0..rank as usize {
            if axis < start || axis >= end || t.is_unread((0, axis), (0, axis - start)) {
                t.ignore((0, axis));
            } else {
                t.freeze((0, axis), "reads their number at run time");
            }
        }
        true
    }
}

impl Operator for Size {
    fn parse(_: &str, _: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        Some(Size)
    }

    fn op_type(&self) -> &'static str {
        "Size"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let size = cx.shape(0).map(|x| vec![product(&x.0)]);
        Ok(vec![Fact::tensor(Some(DType::I64), Some(Dims::default())).with_ints(size)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        Some(vec![Tensor::scalar_i64(i64::try_from(input(inputs, 0)?.len()).ok()?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn dims_become_numbers() {
        let of = |opset, attrs: &str| ints(opset, &format!("input %x : f32[N,3,?,5] %y : ? = Shape{attrs}(%x)"));
        assert_eq!(of(13, "").unwrap(), "[N,3,?,5]");
        assert_eq!(of(15, "<end=-1, start=1>").unwrap(), "[3,?]");
        assert_eq!(of(15, "<start=-9>").unwrap(), "[N,3,?,5]");
        assert_eq!(ty(15, "input %x : f32[N,3] %y : ? = Shape<end=0, start=1>(%x)"), "i64[0]");
        assert_eq!(ty(15, "input %x : f32[*] %y : ? = Shape(%x)"), "i64[?]");
        assert_eq!(ints(13, "input %x : f32[1,N,1] %y : ? = Size(%x)").unwrap(), "[N]");
        assert_eq!(ints(13, "input %x : f32[2,3] %y : ? = Size(%x)").unwrap(), "[6]");
        assert_eq!(fold(13, "const %x : f32[2,0] %y : ? = Shape(%x)").unwrap(), Tensor::i64([2], &[2, 0]));
        assert_eq!((Shape { start: i64::MIN, end: Some(i64::MAX) }).axes(3), 0..3);
        assert_eq!((Shape { start: 2, end: Some(1) }).axes(3), 2..2);
    }
}
