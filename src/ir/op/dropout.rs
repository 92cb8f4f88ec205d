//! Dropout. (ONNX Operators: Dropout, since 7, 10, 12, 13, 22.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::pick::input;
use crate::ir::shape::DType;
use crate::ir::tensor::Tensor;
use crate::ir::ties::Ties;

/// Zeroes random elements in training; the identity otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Dropout {
    /// An attribute before opset 12; from then on `None`, and input 1 has it. Means nothing outside training.
    pub ratio: Option<f32>,
    pub seed: Option<i64>,
}

impl Dropout {
    /// Whether output 0 is input 0 for sure: nothing can ask for training, or nothing would be dropped.
    pub fn is_identity(&self, cx: &Infer<'_>) -> bool {
        let is = |slot, value| cx.constant(slot).is_some_and(|t: &Tensor| value_of(t) == Some(value));
        self.ratio.is_some() || !cx.has(2) || is(2, 0.0) || is(1, 0.0)
    }
}

fn value_of(t: &Tensor) -> Option<f64> {
    t.float_scalar().or(t.int_scalar().map(|v| v as f64))
}

impl Operator for Dropout {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(if opset < 12 {
            Dropout { ratio: Some(attrs.float_or("ratio", 0.5)), seed: None }
        } else {
            Dropout { ratio: None, seed: attrs.int("seed") }
        })
    }

    fn op_type(&self) -> &'static str {
        "Dropout"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let ratio = self.ratio.filter(|&r| r != 0.5).map(|r| Attr::float("ratio", r));
        ratio.into_iter().chain(self.seed.map(|s| Attr::int("seed", s))).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let mask = if cx.opset() < 10 { cx.dtype(0) } else { Some(DType::BOOL) };
        let ints = cx.ints(0).filter(|_| self.is_identity(cx));
        Ok(vec![
            Fact::tensor(cx.dtype(0), cx.shape(0).cloned()).with_ints(ints),
            Fact::tensor(mask, cx.shape(0).cloned()),
        ])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        self.is_identity(cx).then_some(0)
    }

    fn is_random(&self) -> bool {
        true
    }

    /// Output 0 alone: nobody wants the mask of a dropout that drops nothing.
    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let trains = inputs.len() > 2 && input(inputs, 2).is_none_or(|t| value_of(t) != Some(0.0));
        (!trains).then(|| vec![x.clone()])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, |s| s.rank());
        for axis in 0..rank {
            t.pass((0, axis), (0, axis));
            t.pass((0, axis), (1, axis));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::Op;
    use crate::ir::op::testing::{graph, ty};

    #[test]
    fn masks_and_versions() {
        let mask = |opset, attrs: &str| ty(opset, &format!("input %x : f32[N,3] %z : ?, %y : ? = Dropout{attrs}(%x)"));
        assert_eq!(mask(7, "<ratio=0.1>"), "f32[N,3]");
        assert_eq!(mask(10, "<ratio=0.1>"), "bool[N,3]");
        assert_eq!(mask(12, "<seed=1>"), "bool[N,3]");
        assert_eq!(mask(12, "<ratio=0.1>"), "opaque");
    }

    #[test]
    fn identity_unless_it_may_train() {
        let is = |opset, rest: &str| {
            let g = graph(opset, &format!("input %x : f32[3] {rest}"));
            let id = g.nodes().next().unwrap();
            let Op::Dropout(d) = &g.node(id).op else { panic!("opaque") };
            d.is_identity(&Infer::new(&g, id))
        };
        assert!(is(7, "%y : ? = Dropout(%x)"));
        assert!(is(13, "%y : ? = Dropout(%x)"));
        assert!(is(13, "const %t : bool[] = {0} %y : ? = Dropout(%x, _, %t)"));
        assert!(!is(13, "const %t : bool[] = {1} %y : ? = Dropout(%x, _, %t)"));
        assert!(!is(13, "input %t : bool[] %y : ? = Dropout(%x, _, %t)"));
        assert!(is(13, "input %t : bool[] const %r : f32[] = {0} %y : ? = Dropout(%x, %r, %t)"));
    }
}
