//! Operators that take elements by index: Gather, GatherElements, GatherND, Compress.
//! (ONNX Operators: Gather, since 1, 11, 13; GatherElements, since 11, 13; GatherND, since 11, 12, 13; Compress, since 9,
//! 11, 28.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::pick::{self, AxisOffsets, input, pick, place, strides};
use crate::ir::op::{Operator, Role, WeightInput};
use crate::ir::shape::{Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Change, Kept, Ties};

/// Slices of input 0 at the indices that input 1 lists, along an axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gather {
    pub axis: i64,
}

/// `axis`, where it is not 0.
pub fn axis_attr(axis: i64) -> Vec<Attr> {
    if axis == 0 { Vec::new() } else { vec![Attr::int("axis", axis)] }
}

impl Operator for Gather {
    fn parse(_: &str, _: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(Gather { axis: attrs.int_or("axis", 0) })
    }

    fn op_type(&self) -> &'static str {
        "Gather"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        axis_attr(self.axis)
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(x), Some(indices)) = (cx.shape(0), cx.shape(1)) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        let at = axis(self.axis, x.rank())?;
        let dims = x.0[..at].iter().chain(&indices.0).chain(&x.0[at + 1..]).cloned().collect();
        let ints = match (cx.ints(0), cx.known_ints(1)) {
            (Some(from), Some(indices)) if x.rank() == 1 => {
                indices.iter().map(|&i| from.get(place(i, from.len())?).cloned()).collect()
            }
            _ => None,
        };
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(dims))).with_ints(ints.filter(|_| indices.rank() <= 1))])
    }

    fn weights(&self, cx: &Infer<'_>) -> Vec<WeightInput> {
        let at = cx.shape(0).and_then(|x| axis(self.axis, x.rank()).ok());
        let table = |outputs| WeightInput { slot: 0, role: Role::Table, outputs, inputs: None, bias: None };
        at.map(table).into_iter().collect()
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (x, indices) = (input(inputs, 0)?, input(inputs, 1)?);
        let at = axis(self.axis, x.rank()).ok()?;
        let mut axes = pick::axes(x)?;
        let taken = indices.ints()?.into_iter().map(|i| Some(axes[at][place(i, x.shape()[at])?]));
        axes[at] = taken.collect::<Option<AxisOffsets>>()?;
        let shape = [&x.shape()[..at], indices.shape(), &x.shape()[at + 1..]].concat();
        Some(vec![pick(x, &axes, &[])?.reshaped(shape)?])
    }

    fn moves(&self, cx: &Infer<'_>, (slot, position): (usize, usize)) -> Option<Vec<usize>> {
        let [Dim::Known(n)] = cx.shape(0).filter(|_| slot == 0)?.0[..] else { return None };
        let (n, indices) = (usize::try_from(n).ok()?, cx.constant(1)?);
        let places = indices.ints()?.into_iter().enumerate().filter(|&(_, i)| place(i, n) == Some(position));
        let places: Vec<usize> = places.map(|p| p.0).collect();
        (indices.rank() <= 1 || places.is_empty()).then_some(places)
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let (Some(rank), Some(indices)) = (t.cx().shape(0).map(Shape::rank), t.cx().shape(1).map(Shape::rank)) else {
            return true;
        };
        let Ok(at) = axis(self.axis, rank) else { return true };
        let table = t.is_weight(0) && !t.is_weight(1);
        for a in (0..rank).filter(|&a| a != at) {
            let to = if a < at { a } else { a + indices - 1 };
            if table { t.produce((0, a), (0, to), 1) } else { t.pass((0, a), (0, to)) }
        }
        let chosen = t.cx().constant(1).and_then(Tensor::ints);
        if t.is_weight(0) && chosen.is_some() && indices > 1 {
            // A codebook: what it makes is laid out as the indices are.
            (0..indices).for_each(|i| t.pass((1, i), (0, at + i)));
            return true;
        }
        let n = t.cx().shape(0).and_then(|x| x.0[at].known()).unwrap_or(0) as usize;
        let chosen = chosen.and_then(|c| c.into_iter().map(|i| place(i, n)).collect::<Option<Vec<_>>>());
        if let Some(positions) = chosen {
            let from = |i: usize| positions.get(i).copied().unwrap_or(usize::MAX);
            if indices == 1 {
                t.select((0, at), (0, at), &from)
            } else {
                t.select_grid((0, at), at..at + indices, &from)
            }
        }
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let x = kept.cx().shape(0)?;
        let at = axis(self.axis, x.rank()).ok()?;
        let Some(before) = kept.input((0, at)) else { return Some(Vec::new()) };
        let n = usize::try_from(x.0[at].known()?).ok()?;
        let indices = kept.cx().constant(1)?;
        let mut axes = pick::axes(indices)?;
        for (i, axis) in axes.iter_mut().enumerate() {
            *axis = kept.stay((0, at + i))?.into_iter().map(|p| axis.get(p).copied()).collect::<Option<_>>()?;
        }
        let left = pick(indices, &axes, &[])?;
        let new = left.ints()?.into_iter().map(|i| before.binary_search(&place(i, n)?).ok().map(|p| p as i64));
        let new: Vec<i64> = new.collect::<Option<_>>()?;
        Some(vec![Change::Constant(1, Tensor::from_ints(indices.dtype(), left.shape(), new))])
    }
}

/// The element at each place of input 1 is that of input 0 at the same place, but for `axis`, where the index says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GatherElements {
    pub axis: i64,
}

impl Operator for GatherElements {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 11).then(|| GatherElements { axis: attrs.int_or("axis", 0) })
    }

    fn op_type(&self) -> &'static str {
        "GatherElements"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        axis_attr(self.axis)
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(1).cloned())])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (x, indices) = (input(inputs, 0)?, input(inputs, 1)?);
        if x.rank() != indices.rank() {
            return None;
        }
        let at = axis(self.axis, x.rank()).ok()?;
        let (own, from) = (strides(indices.shape()), strides(x.shape()));
        let offset = |(i, index): (usize, i64)| {
            let along = |a: usize| {
                let p = if a == at { place(index, x.shape()[a])? } else { i / own[a] % indices.shape()[a] };
                (p < x.shape()[a]).then(|| p * from[a])
            };
            (0..x.rank()).map(along).sum::<Option<usize>>().map(Some)
        };
        let offsets = indices.ints()?.into_iter().enumerate().map(offset).collect::<Option<AxisOffsets>>()?;
        Some(vec![pick(x, &[offsets], &[])?.reshaped(indices.shape().to_vec())?])
    }
}

/// Slices of input 0 at the index tuples along the last axis of input 1, the first `batch_dims` axes in step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GatherNd {
    pub batch_dims: i64,
}

impl Operator for GatherNd {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let batch_dims = if opset < 12 { 0 } else { attrs.int_or("batch_dims", 0) };
        (opset >= 11 && batch_dims >= 0).then_some(GatherNd { batch_dims })
    }

    fn op_type(&self) -> &'static str {
        "GatherND"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if self.batch_dims == 0 { Vec::new() } else { vec![Attr::int("batch_dims", self.batch_dims)] }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(x), Some(indices)) = (cx.shape(0), cx.shape(1)) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        let Some((last, lead)) = indices.0.split_last() else { return Err("the indices are a scalar".into()) };
        let Some(tuple) = last.known() else { return Ok(vec![Fact::tensor(cx.dtype(0), None)]) };
        let taken = (self.batch_dims as u64).checked_add(tuple).and_then(|n| usize::try_from(n).ok());
        let rest = taken.and_then(|n| x.0.get(n..)).ok_or(format!("tuples of {tuple} on an input {x}"))?;
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape([lead, rest].concat())))])
    }
}

/// Slices of input 0 along an axis (or elements, without one) where input 1 is true.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compress {
    pub axis: Option<i64>,
}

impl Operator for Compress {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 9).then(|| Compress { axis: attrs.int("axis") })
    }

    fn op_type(&self) -> &'static str {
        "Compress"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        self.axis.map(|a| Attr::int("axis", a)).into_iter().collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let count = match cx.constant(1).and_then(Tensor::ints) {
            Some(kept) => Dim::Known(kept.into_iter().filter(|&k| k != 0).count() as u64),
            None => Dim::Unknown,
        };
        let shape = match (self.axis, cx.shape(0)) {
            (None, _) => Some(Shape(vec![count])),
            (Some(a), Some(x)) => {
                let mut y = x.clone();
                y.0[axis(a, x.rank())?] = count;
                Some(y)
            }
            (Some(_), None) => None,
        };
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (x, kept) = (input(inputs, 0)?, input(inputs, 1)?.ints()?);
        let (x, at) = match self.axis {
            Some(a) => (x.clone(), axis(a, x.rank()).ok()?),
            None => (x.reshaped(vec![x.len()])?, 0),
        };
        let mut axes = pick::axes(&x)?;
        let places = kept.iter().enumerate().filter(|k| *k.1 != 0);
        axes[at] = places.map(|(i, _)| axes[at].get(i).copied()).collect::<Option<AxisOffsets>>()?;
        Some(vec![pick(&x, &axes, &[])?])
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn shapes() {
        assert_eq!(
            ty(13, "input %x : f32[N,8,3] input %i : i64[M,2] %y : ? = Gather<axis=-2>(%x, %i)"),
            "f32[N,M,2,3]"
        );
        assert_eq!(ty(13, "input %x : f32[N,8] const %i : i64[] = {0} %y : ? = Gather<axis=1>(%x, %i)"), "f32[N]");
        assert_eq!(
            ty(13, "input %x : f32[2,3,4] input %i : i64[2,1] %y : ? = GatherND<batch_dims=1>(%x, %i)"),
            "f32[2,4]"
        );
        assert_eq!(
            ty(11, "input %x : f32[N,3] const %k : bool[3] = {1,0,1} %y : ? = Compress<axis=1>(%x, %k)"),
            "f32[N,2]"
        );
        assert_eq!(ty(10, "input %x : f32[3] input %i : i64[2] %y : ? = GatherElements(%x, %i)"), "opaque");
        let body = "input %x : f32[N,3,5] const %i : i64[2] = {-1,0} %s : ? = Shape(%x) %y : ? = Gather(%s, %i)";
        assert_eq!(ints(13, body).unwrap(), "[5,N]");
    }

    #[test]
    fn elements_are_taken() {
        let x = "const %x : u8[2,3] = {1,2,3,4,5,6}";
        let of = |rest: &str| fold(13, &format!("{x} {rest}")).map(|t| t.ints().unwrap());
        assert_eq!(of("const %i : i64[2] = {-1,0} %y : ? = Gather<axis=1>(%x, %i)").unwrap(), [3, 1, 6, 4]);
        assert_eq!(of("const %i : i32[1,2] = {-1,0} %y : ? = GatherElements(%x, %i)").unwrap(), [4, 2]);
        assert_eq!(of("const %k : bool[5] = {0,1,0,0,1} %y : ? = Compress(%x, %k)").unwrap(), [2, 5]);
        assert_eq!(of("const %i : i64[1] = {2} %y : ? = Gather(%x, %i)"), None);
        assert_eq!(of("const %i : i64[1] = {-9223372036854775808} %y : ? = Gather(%x, %i)"), None);
        assert_eq!(of("const %i : i64[3,1] = {0,0,0} %y : ? = GatherElements<axis=1>(%x, %i)"), None);
    }
}
