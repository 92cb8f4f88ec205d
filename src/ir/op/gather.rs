//! Operators that take elements by index: Gather, GatherElements, GatherND, Compress.
//! (ONNX Operators: Gather, since 1, 11, 13; GatherElements, since 11, 13; GatherND, since 11, 12, 13; Compress, since 9,
//! 11, 28.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;
use crate::ir::op::pick::{self, Axis, input, pick};
use crate::ir::shape::Shape;
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Change, Kept, Ties};

/// Slices of input 0 at the indices that input 1 lists, along an axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gather {
    pub axis: i64,
}

/// A place on an axis of `n`, counted from its end if negative.
fn place(index: i64, n: usize) -> Option<usize> {
    let from_front = if index < 0 { index.checked_add(i64::try_from(n).ok()?)? } else { index };
    usize::try_from(from_front).ok().filter(|&i| i < n)
}

fn axis_attr(axis: i64) -> Vec<Attr> {
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

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (x, indices) = (input(inputs, 0)?, input(inputs, 1)?);
        let at = axis(self.axis, x.rank()).ok()?;
        let mut axes = pick::axes(x)?;
        let taken = indices.ints()?.into_iter().map(|i| Some(axes[at][place(i, x.shape()[at])?]));
        axes[at] = taken.collect::<Option<Axis>>()?;
        let shape = [&x.shape()[..at], indices.shape(), &x.shape()[at + 1..]].concat();
        Some(vec![pick(x, &axes, &[])?.reshaped(shape)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let (Some(rank), Some(indices)) = (t.cx().shape(0).map(Shape::rank), t.cx().shape(1).map(Shape::rank)) else {
            return true;
        };
        let Ok(at) = axis(self.axis, rank) else { return true };
        let table = t.is_weight(0) && !t.is_weight(1);
        for a in (0..rank).filter(|&a| a != at) {
            let to = if a < at { a } else { a + indices - 1 };
            if table { t.produce((0, a), (0, to)) } else { t.pass((0, a), (0, to)) }
        }
        let n = t.cx().shape(0).and_then(|x| x.0[at].known()).unwrap_or(0) as usize;
        let chosen = t.cx().constant(1).filter(|c| c.rank() == 1).and_then(Tensor::ints);
        let chosen = chosen.and_then(|c| c.into_iter().map(|i| place(i, n)).collect::<Option<Vec<_>>>());
        if let Some(positions) = chosen {
            t.select((0, at), (0, at), &positions);
        }
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let x = kept.cx().shape(0)?;
        let at = axis(self.axis, x.rank()).ok()?;
        let (Some(before), Some(after)) = (kept.input((0, at)), kept.output((0, at))) else { return Some(Vec::new()) };
        let n = x.0[at].known()? as usize;
        let indices = kept.cx().constant(1)?;
        let old = indices.ints()?;
        let new = after.iter().map(|&i| before.binary_search(&place(*old.get(i)?, n)?).ok().map(|p| p as i64));
        let new: Vec<i64> = new.collect::<Option<_>>()?;
        Some(vec![Change::Constant(1, Tensor::from_ints(indices.dtype(), [new.len()], new))])
    }
}
