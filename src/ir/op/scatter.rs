//! Operators that write into a copy of input 0: ScatterElements, its old name Scatter, ScatterND.
//! (ONNX Operators: Scatter, since 9; ScatterElements and ScatterND, since 11, 13, 16, 18.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;

/// Input 0 with the elements (or, for ScatterND, slices) of input 2 at the indices of input 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter {
    pub kind: ScatterKind,
    /// 0 for ScatterND.
    pub axis: i64,
    /// What becomes of the old element: `None` if it is replaced. Since opset 16.
    pub reduction: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScatterKind {
    /// Scatter, to opset 10.
    Old,
    Elements,
    Nd,
}

impl Operator for Scatter {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let kind = match op_type {
            "Scatter" if (9..11).contains(&opset) => ScatterKind::Old,
            "ScatterElements" if opset >= 11 => ScatterKind::Elements,
            "ScatterND" if opset >= 11 => ScatterKind::Nd,
            _ => return None,
        };
        let reductions: &[&str] = if opset < 18 { &["add", "mul"] } else { &["add", "mul", "max", "min"] };
        let reduction = if opset < 16 { None } else { attrs.str("reduction").filter(|r| r != "none") };
        if reduction.as_deref().is_some_and(|r| !reductions.contains(&r)) {
            return None;
        }
        let axis = if kind == ScatterKind::Nd { 0 } else { attrs.int_or("axis", 0) };
        Some(Scatter { kind, axis, reduction })
    }

    fn op_type(&self) -> &'static str {
        match self.kind {
            ScatterKind::Old => "Scatter",
            ScatterKind::Elements => "ScatterElements",
            ScatterKind::Nd => "ScatterND",
        }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let axis = (self.axis != 0).then(|| Attr::int("axis", self.axis));
        axis.into_iter().chain(self.reduction.iter().map(|r| Attr::str("reduction", r))).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        if let Some(x) = cx.shape(0) {
            axis(self.axis, x.rank())?;
        }
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).cloned())])
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::ty;

    #[test]
    fn keeps_the_shape() {
        let body = "input %x : f32[N,3] input %i : i64[2,2] input %u : f32[2,2] %y : ? =";
        let of = |opset, node: &str| ty(opset, &format!("{body} {node}(%x, %i, %u)"));
        assert_eq!(of(10, "Scatter<axis=1>"), "f32[N,3]");
        assert_eq!(of(11, "Scatter<axis=1>"), "opaque");
        assert_eq!(of(16, "ScatterElements<axis=-1, reduction=\"add\">"), "f32[N,3]");
        assert_eq!(of(16, "ScatterND<reduction=\"max\">"), "opaque");
        assert_eq!(of(18, "ScatterND<reduction=\"max\">"), "f32[N,3]");
    }
}
