//! Softmax, LogSoftmax and Hardmax. (ONNX Operators, since 1, 11, 13.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::{Operator, kernel};
use crate::ir::tensor::{Tensor, elements};
use crate::ir::ties::Ties;

#[derive(Debug, Clone, PartialEq)]
pub struct Softmax {
    pub function: SoftmaxKind,
    pub axis: i64,
    /// Below opset 13: not along `axis` alone, but over it and all axes after it together.
    pub flatten: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoftmaxKind {
    Softmax,
    LogSoftmax,
    /// 1 at the first maximum, 0 elsewhere.
    Hardmax,
}

impl Operator for Softmax {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let function = match op_type {
            "Softmax" => SoftmaxKind::Softmax,
            "LogSoftmax" => SoftmaxKind::LogSoftmax,
            "Hardmax" => SoftmaxKind::Hardmax,
            _ => return None,
        };
        let flatten = opset < 13;
        Some(Softmax { function, axis: attrs.int_or("axis", if flatten { 1 } else { -1 }), flatten })
    }

    fn op_type(&self) -> &'static str {
        match self.function {
            SoftmaxKind::Softmax => "Softmax",
            SoftmaxKind::LogSoftmax => "LogSoftmax",
            SoftmaxKind::Hardmax => "Hardmax",
        }
    }

    fn attrs(&self, opset: i64) -> Vec<Attr> {
        let default = if opset < 13 { 1 } else { -1 };
        if self.axis == default { Vec::new() } else { vec![Attr::int("axis", self.axis)] }
    }

    /// Spelled out: what runtimes take for the default differs.
    fn file_attrs(&self, _: i64) -> Vec<Attr> {
        vec![Attr::int("axis", self.axis)]
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        if let Some(x) = cx.shape(0) {
            let all = self.flatten && self.axis == x.rank() as i64;
            if !all {
                axis(self.axis, x.rank())?;
            }
        }
        Ok(vec![Fact { ty: cx.ty(0).cloned(), ints: None }])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let at = axis(self.axis, x.rank()).ok()?;
        let lanes = if self.flatten {
            let (rows, columns) = x.shape().split_at(at);
            kernel::Sequences::new(&[elements(rows)?, elements(columns)?], 1)?
        } else {
            kernel::Sequences::new(x.shape(), at)?
        };
        let mut y = x.floats()?;
        if y.iter().any(|v| v.is_nan()) {
            return None;
        }
        for start in lanes.starts() {
            let max = lanes.lane(start).map(|i| y[i]).fold(f64::NEG_INFINITY, f64::max);
            let first = lanes.lane(start).find(|&i| y[i] == max);
            let total: f64 = lanes.lane(start).map(|i| (y[i] - max).exp()).sum();
            for i in lanes.lane(start) {
                y[i] = match self.function {
                    SoftmaxKind::Softmax => (y[i] - max).exp() / total,
                    SoftmaxKind::LogSoftmax => y[i] - max - total.ln(),
                    SoftmaxKind::Hardmax => f64::from(Some(i) == first),
                };
            }
        }
        Some(vec![Tensor::from_floats(x.dtype(), x.shape(), y)])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, |s| s.rank());
        let over = axis(self.axis, rank).unwrap_or(rank);
        for a in (0..rank).filter(|&a| if self.flatten { a < over } else { a != over }) {
            t.pass((0, a), (0, a));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ty};

    fn run(opset: i64, op: &str) -> Vec<f64> {
        let body = "const %x : f32[2,1,2] = {0,0,1,1}";
        fold(opset, &format!("{body} %y : ? = {op}(%x)")).unwrap().floats().unwrap()
    }

    #[test]
    fn the_default_axis_depends_on_the_opset() {
        assert_eq!(run(12, "Softmax"), [0.5; 4]);
        assert_eq!(run(13, "Softmax"), [0.5; 4]);
        assert_eq!(run(13, "Softmax<axis=1>"), [1.0; 4]);
        assert_eq!(run(12, "Softmax<axis=1>"), [0.5; 4]);
        assert_eq!(run(13, "Hardmax<axis=0>"), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(run(12, "Hardmax<axis=0>"), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(run(13, "LogSoftmax"), [-std::f32::consts::LN_2 as f64; 4]);
    }

    #[test]
    fn types() {
        assert_eq!(ty(13, "input %x : f32[N,10] %y : ? = Softmax(%x)"), "f32[N,10]");
        assert_eq!(ty(13, "input %x : f32[N,10] %y : ? = Softmax<axis=2>(%x)"), "?");
        assert_eq!(ty(12, "input %x : f32[N,10] %y : ? = Softmax<axis=2>(%x)"), "f32[N,10]");
    }
}
