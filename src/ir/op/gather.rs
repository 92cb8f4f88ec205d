//! Operators that take elements by index: Gather, GatherElements, GatherND, Compress.
//! (ONNX Operators: Gather, since 1, 11, 13; GatherElements, since 11, 13; GatherND, since 11, 12, 13; Compress, since 9,
//! 11, 28.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;
use crate::ir::op::pick::{self, Axis, input, pick};
use crate::ir::shape::Shape;
use crate::ir::tensor::Tensor;

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
}
