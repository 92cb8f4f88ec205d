//! Operators that make a tensor from numbers: ConstantOfShape, Range, EyeLike, OneHot.
//! (ONNX Operators: ConstantOfShape, since 9, 20, 21, 23, 24, 25; Range, since 11, 27; EyeLike, since 9, 22; OneHot,
//! since 9, 11, 28.)

use crate::ir::attr::{Attr, AttrReader, AttrValue};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;
use crate::ir::op::cast::convert;
use crate::ir::op::pick::{input, place, room};
use crate::ir::op::reshape::{can_mask, masked};
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Axis, Change, Kept, Ties};

/// A tensor of the shape that input 0 says, every element of it `value`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConstantOfShape {
    /// One element.
    pub value: Tensor,
}

impl Default for ConstantOfShape {
    fn default() -> Self {
        ConstantOfShape { value: Tensor::f32([1], &[0.0]) }
    }
}

impl Operator for ConstantOfShape {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        if opset < 9 {
            return None;
        }
        let Some(value) = attrs.tensor("value") else { return Some(ConstantOfShape::default()) };
        (value.len() == 1).then(|| ConstantOfShape { value: value.clone() })
    }

    fn op_type(&self) -> &'static str {
        "ConstantOfShape"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if *self == ConstantOfShape::default() {
            return Vec::new();
        }
        vec![Attr::new("value", AttrValue::Tensor(self.value.clone().into(), String::new()))]
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        if cx.constant(0).and_then(Tensor::ints).is_some_and(|t| t.iter().any(|&d| d < 0)) {
            return Err("a negative dim".into());
        }
        let shape = cx.ints(0).or_else(|| match cx.shape(0)?.0[..] {
            [Dim::Known(rank @ 0..=64)] => Some(vec![Dim::Unknown; rank as usize]),
            _ => None,
        });
        let length = match shape.as_deref() {
            Some([]) => Some(1),
            Some([n]) => n.known().filter(|&n| n <= 64),
            _ => None,
        };
        let number = self.value.int_scalar().and_then(|v| u64::try_from(v).ok());
        let ints = length.zip(number).map(|(n, v)| vec![Dim::Known(v); n as usize]);
        Ok(vec![Fact::tensor(Some(self.value.dtype()), shape.map(Shape)).with_ints(ints)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let shape = input(inputs, 0)?.ints()?.into_iter().map(|d| usize::try_from(d).ok());
        let shape = shape.collect::<Option<Vec<_>>>()?;
        let size = room(self.value.dtype(), &shape)?;
        let one = self.value.bytes()?;
        let data = one.repeat(size / one.len());
        Some(vec![Tensor::new(self.value.dtype(), shape, data.into())?])
    }

    fn overwrites(&self, cx: &Infer<'_>, y: Option<&Shape>, (_, position): Axis) -> bool {
        can_mask(cx.opset(), y) && y.is_some_and(|y| y.0.get(position).is_some_and(|d| d.known().is_some()))
    }

    /// Weights that the graph makes itself, or states to begin with, of which some dims are known only at run time.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        (0..t.out_shape(0).map_or(0, Shape::rank)).for_each(|axis| t.make((0, axis)));
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let Some(old) = kept.cx().constant(0) else {
            return masked(kept, 0);
        };
        let old = old.ints()?;
        let size = |(axis, n): (usize, &i64)| kept.output((0, axis)).map_or(*n, |p| p.len() as i64);
        let new: Vec<i64> = old.iter().enumerate().map(size).collect();
        Some(vec![Change::Constant(0, Tensor::i64([new.len()], &new))])
    }
}

/// start, start + delta, … to before limit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Range {
    /// Since opset 27: the type that 16-bit floats are computed in; `None` for the default.
    pub stash: Option<i64>,
}

impl Operator for Range {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let stash = if opset < 27 { None } else { attrs.int("stash_type").filter(|&t| t != 1) };
        (opset >= 11).then_some(Range { stash })
    }

    fn op_type(&self) -> &'static str {
        "Range"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        self.stash.map(|t| Attr::int("stash_type", t)).into_iter().collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let dtype = (0..3).find_map(|i| cx.dtype(i));
        let number = |slot| cx.numbers(slot).and_then(|n| <[_; 1]>::try_from(n).ok()).map(|[n]| n);
        let (length, ints) = match (number(0), number(1), number(2)) {
            (Some(Ok(start)), Some(Ok(limit)), Some(Ok(delta))) => {
                let n = steps(start, limit, delta).ok_or("a step of 0")?;
                let at = |i: i128| u64::try_from(start as i128 + i * delta as i128).map_or(Dim::Unknown, Dim::Known);
                (Dim::Known(n), (n <= 64).then(|| (0..n as i128).map(at).collect()))
            }
            (Some(Ok(0)), Some(Err(limit)), Some(Ok(1))) => (limit, None),
            _ => match (0..3)
                .map(|i| cx.constant(i).and_then(Tensor::float_scalar))
                .collect::<Option<Vec<_>>>()
                .as_deref()
            {
                Some(&[start, limit, delta]) => {
                    (float_steps(start, limit, delta).map_or(Dim::Unknown, Dim::Known), None)
                }
                _ => (Dim::Unknown, None),
            },
        };
        Ok(vec![Fact::tensor(dtype, Some(Shape(vec![length]))).with_ints(ints)])
    }

    /// Integers, and f32 and f64 computed as `start + i * delta` in their own type.
    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (start, limit, delta) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2)?);
        let dtype = start.dtype();
        let length = |n: u64| usize::try_from(n).ok().filter(|&n| room(dtype, &[n]).is_some());
        if let (Some(s), Some(l), Some(d)) = (start.int_scalar(), limit.int_scalar(), delta.int_scalar()) {
            let n = length(steps(s, l, d)?)?;
            let at = |i| s.wrapping_add(d.wrapping_mul(i));
            return dtype.is_int().then(|| vec![Tensor::from_ints(dtype, [n], (0..n as i64).map(at))]);
        }
        let (s, l, d) = (start.float_scalar()?, limit.float_scalar()?, delta.float_scalar()?);
        let n = length(float_steps(s, l, d)?)?;
        let at: Box<dyn Fn(usize) -> f64> = match dtype {
            DType::F64 => Box::new(|i| s + i as f64 * d),
            DType::F32 => Box::new(|i| (s as f32 + i as f32 * d as f32) as f64),
            _ => return None,
        };
        Some(vec![Tensor::from_floats(dtype, [n], (0..n).map(at))])
    }
}

/// Number of elements of a range; `None` for a step of 0.
fn steps(start: i64, limit: i64, delta: i64) -> Option<u64> {
    let (room, delta) = (limit as i128 - start as i128, delta as i128);
    let n = (room * delta.signum()).max(0) as u128;
    (delta != 0).then(|| n.div_ceil(delta.unsigned_abs()) as u64)
}

fn float_steps(start: f64, limit: f64, delta: f64) -> Option<u64> {
    let n = ((limit - start) / delta).ceil().max(0.0);
    (n < 1e15 && delta != 0.0).then_some(n as u64)
}

/// Ones on the k-th diagonal of a matrix as large as the input, zeros elsewhere.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EyeLike {
    /// `None` for the type of the input.
    pub dtype: Option<DType>,
    pub k: i64,
}

impl Operator for EyeLike {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let dtype = match attrs.int("dtype") {
            Some(d) => Some(DType(i32::try_from(d).ok()?)),
            None => None,
        };
        (opset >= 9).then(|| EyeLike { dtype, k: attrs.int_or("k", 0) })
    }

    fn op_type(&self) -> &'static str {
        "EyeLike"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let k = (self.k != 0).then(|| Attr::int("k", self.k));
        self.dtype.map(|d| Attr::int("dtype", d.0.into())).into_iter().chain(k).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact::tensor(self.dtype.or(cx.dtype(0)), cx.shape(0).cloned())])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let [rows, columns] = *x.shape() else { return None };
        let dtype = self.dtype.unwrap_or(x.dtype());
        room(DType::I64, x.shape())?;
        let at = |i: usize| ((i % columns) as i128 == (i / columns) as i128 + self.k as i128) as i64;
        let eye = Tensor::from_ints(DType::I64, [rows, columns], (0..rows * columns).map(at));
        Some(vec![convert(&eye, dtype)?])
    }
}

/// A new axis of `depth` (input 1) elements, of which that at the index (input 0) is "on" and the others are "off"
/// (input 2: off, on).
#[derive(Debug, Clone, PartialEq)]
pub struct OneHot {
    /// Place of the new axis in the result.
    pub axis: i64,
}

impl Operator for OneHot {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 9).then(|| OneHot { axis: attrs.int_or("axis", -1) })
    }

    fn op_type(&self) -> &'static str {
        "OneHot"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if self.axis == -1 { Vec::new() } else { vec![Attr::int("axis", self.axis)] }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(indices) = cx.shape(0) else {
            return Ok(vec![Fact::tensor(cx.dtype(2), None)]);
        };
        let depth = match cx.constant(1) {
            Some(t) => depth(t).map_or(Dim::Unknown, |n| Dim::Known(n as u64)),
            None => cx.ints(1).and_then(|n| n.into_iter().next()).unwrap_or(Dim::Unknown),
        };
        let mut dims = indices.0.clone();
        dims.insert(axis(self.axis, dims.len() + 1)?, depth);
        Ok(vec![Fact::tensor(cx.dtype(2), Some(Shape(dims)))])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (indices, values) = (input(inputs, 0)?, input(inputs, 2).filter(|v| v.len() == 2)?);
        let depth = depth(input(inputs, 1)?)?;
        let at = axis(self.axis, indices.rank() + 1).ok()?;
        let mut shape = indices.shape().to_vec();
        shape.insert(at, depth);
        let mut out = Vec::with_capacity(room(values.dtype(), &shape)?);
        let (off, on) = values.bytes()?.split_at(values.dtype().bytes()?);
        let places: Vec<_> = whole(indices)?.into_iter().map(|i| place(i, depth)).collect();
        for row in places.chunks(indices.shape()[at..].iter().product::<usize>().max(1)) {
            for d in 0..depth {
                row.iter().for_each(|&p| out.extend_from_slice(if p == Some(d) { on } else { off }));
            }
        }
        Some(vec![Tensor::new(values.dtype(), shape, out.into())?])
    }
}

/// Integers of any numeric type; floats lose their fraction.
fn whole(t: &Tensor) -> Option<Vec<i64>> {
    convert(t, DType::I64)?.ints()
}

fn depth(t: &Tensor) -> Option<usize> {
    match whole(t)?[..] {
        [n] => usize::try_from(n).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn constant_of_shape() {
        let body = "input %x : f32[N,3] %s : ? = Shape(%x) %y : ? = ConstantOfShape<value=i32[1]{7}>(%s)";
        assert_eq!(ty(13, body), "i32[N,3]");
        assert_eq!(ty(13, "input %s : i64[2] %y : ? = ConstantOfShape(%s)"), "f32[?,?]");
        assert_eq!(ty(13, "const %s : i64[0] = {} %y : ? = ConstantOfShape(%s)"), "f32[]");
        assert_eq!(ty(8, "const %s : i64[0] = {} %y : ? = ConstantOfShape(%s)"), "opaque");
        let body = "const %s : i64[1] = {3} %y : ? = ConstantOfShape<value=i64[1]{2}>(%s)";
        assert_eq!(ints(13, body).unwrap(), "[2,2,2]");
        assert_eq!(fold(13, body).unwrap(), Tensor::i64([3], &[2, 2, 2]));
        for dims in ["-1", "9223372036854775807"] {
            assert_eq!(fold(13, &format!("const %s : i64[1] = {{{dims}}} %y : ? = ConstantOfShape(%s)")), None);
        }
    }

    #[test]
    fn ranges() {
        let range = |ty: &str, s: &str, l: &str, d: &str| {
            format!(
                "const %s : {ty}[] = {{{s}}} const %l : {ty}[] = {{{l}}} const %d : {ty}[] = {{{d}}} %y : ? = Range(%s, %l, %d)"
            )
        };
        assert_eq!(ty(11, &range("i64", "10", "4", "-3")), "i64[2]");
        assert_eq!(fold(11, &range("i32", "10", "4", "-3")).unwrap().ints().unwrap(), [10, 7]);
        assert_eq!(ints(11, &range("i64", "1", "7", "2")).unwrap(), "[1,3,5]");
        assert_eq!(fold(11, &range("f32", "1", "2.1", "0.5")).unwrap().floats().unwrap(), [1.0, 1.5, 2.0]);
        assert_eq!(ty(11, &range("f32", "1", "2.1", "0.5")), "f32[3]");
        assert_eq!(steps(i64::MIN, i64::MAX, 1), Some(u64::MAX));
        assert_eq!(fold(11, &range("i64", "0", "9223372036854775807", "1")), None);
        assert_eq!(fold(11, &range("f32", "0", "inf", "1")), None);
        assert_eq!(fold(11, &range("i64", "0", "4", "0")), None);
        let body = "input %x : f32[N] const %z : i64[] = {0} const %o : i64[] = {1} %n : ? = Size(%x) \
            %y : ? = Range(%z, %n, %o)";
        assert_eq!(ty(13, body), "i64[N]");
    }

    #[test]
    fn eyes_and_one_hots() {
        let y = fold(9, "const %x : f32[2,3] %y : ? = EyeLike<dtype=6, k=1>(%x)").unwrap();
        assert_eq!((y.dtype(), y.ints().unwrap()), (DType::I32, vec![0, 1, 0, 0, 0, 1]));
        let body = "const %i : i64[2] = {-1,0} const %d : i64[] = {3} const %v : u8[2] = {4,5}";
        let y = fold(11, &format!("{body} %y : ? = OneHot<axis=0>(%i, %d, %v)")).unwrap();
        assert_eq!((y.shape(), y.ints().unwrap()), (&[3, 2][..], vec![4, 5, 4, 4, 5, 4]));
        assert_eq!(ty(11, &format!("{body} input %n : i64[N] %y : ? = OneHot(%n, %d, %v)")), "u8[N,3]");
    }
}
