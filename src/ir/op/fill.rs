//! Operators that make a tensor from numbers: ConstantOfShape, Range, EyeLike, OneHot.
//! (ONNX Operators: ConstantOfShape, since 9, 20, 21, 23, 24, 25; Range, since 11, 27; EyeLike, since 9, 22; OneHot,
//! since 9, 11, 28.)

use crate::ir::attr::{Attr, AttrReader, AttrValue};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::pick::{input, room};
use crate::ir::shape::{Dim, Shape};
use crate::ir::tensor::Tensor;

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
        vec![Attr::new("value", AttrValue::Tensor(self.value.clone(), String::new()))]
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
}
