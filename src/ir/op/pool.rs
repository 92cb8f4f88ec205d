//! Pooling. (ONNX Operators: MaxPool, since 1, 8, 10, 11, 12, 22; AveragePool, since 7, 10, 11, 19, 22; LpPool, since
//! 2, 11, 18, 22; GlobalMaxPool, GlobalAveragePool, since 1, 22; GlobalLpPool, since 2, 22.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::conv::Window;
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::ties::Ties;

/// Y[N, C, …]: one number for every window of X[N, C, …].
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub window: Window,
    pub function: Pooling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// A second output has the places of the maxima, counted along the last axis first if `column_major`.
    Max {
        column_major: bool,
    },
    Average {
        count_include_pad: bool,
    },
    /// (Σ |x|ᵖ)^(1/p)
    Lp {
        p: i64,
    },
}

impl Operator for Pool {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let mut window = Window::parse(attrs)?;
        window.ceil = attrs.flag("ceil_mode");
        let (function, ceil_since, dilations_since) = match op_type {
            "MaxPool" => (Pooling::Max { column_major: attrs.flag("storage_order") }, 10, 10),
            "AveragePool" => (Pooling::Average { count_include_pad: attrs.flag("count_include_pad") }, 10, 19),
            "LpPool" => (Pooling::Lp { p: attrs.int_or("p", 2) }, 18, 18),
            _ => return None,
        };
        let known = (!window.ceil || opset >= ceil_since)
            && (window.dilations.is_empty() || opset >= dilations_since)
            && !window.kernel.is_empty();
        known.then_some(Pool { window, function })
    }

    fn op_type(&self) -> &'static str {
        match self.function {
            Pooling::Max { .. } => "MaxPool",
            Pooling::Average { .. } => "AveragePool",
            Pooling::Lp { .. } => "LpPool",
        }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = self.window.attrs();
        out.push(Attr::ints("kernel_shape", &self.window.kernel));
        if self.window.ceil {
            out.push(Attr::int("ceil_mode", 1));
        }
        match self.function {
            Pooling::Max { column_major: true } => out.push(Attr::int("storage_order", 1)),
            Pooling::Average { count_include_pad: true } => out.push(Attr::int("count_include_pad", 1)),
            Pooling::Lp { p } if p != 2 => out.push(Attr::int("p", p)),
            _ => {}
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    /// Some runtimes fail without explicit strides.
    fn file_attrs(&self, opset: i64) -> Vec<Attr> {
        let mut out = self.attrs(opset);
        if !out.iter().any(|a| a.name == "strides") {
            out.push(Attr::ints("strides", &vec![1; self.window.kernel.len()]));
        }
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let kernel: Vec<_> = self.window.kernel.iter().map(|&k| Dim::Known(k as u64)).collect();
        let y = match cx.shape(0) {
            Some(x) => {
                let channels = x.0.get(1).cloned().ok_or_else(|| format!("input {x} has no channel axis"))?;
                Some(self.window.infer(x, channels, &kernel)?)
            }
            None => None,
        };
        Ok(vec![Fact::tensor(cx.dtype(0), y.clone()), Fact::tensor(Some(DType::I64), y)])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        t.pass((0, 0), (0, 0));
        t.pass((0, 1), (0, 1));
        if t.out_shape(1).is_some() {
            t.freeze((0, 1), "gives places that are counted across all channels");
        }
        true
    }
}

/// Y[N, C, 1, …]: one number for every channel of X[N, C, …].
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalPool(pub Pooling);

impl Operator for GlobalPool {
    fn parse(op_type: &str, _: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(GlobalPool(match op_type {
            "GlobalMaxPool" => Pooling::Max { column_major: false },
            "GlobalAveragePool" => Pooling::Average { count_include_pad: false },
            "GlobalLpPool" => Pooling::Lp { p: attrs.int_or("p", 2) },
            _ => return None,
        }))
    }

    fn op_type(&self) -> &'static str {
        match self.0 {
            Pooling::Max { .. } => "GlobalMaxPool",
            Pooling::Average { .. } => "GlobalAveragePool",
            Pooling::Lp { .. } => "GlobalLpPool",
        }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        match self.0 {
            Pooling::Lp { p } if p != 2 => vec![Attr::int("p", p)],
            _ => Vec::new(),
        }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(x) = cx.shape(0) else { return Ok(vec![Fact::tensor(cx.dtype(0), None)]) };
        let kept = x.0.get(..2).ok_or_else(|| format!("input {x} has no batch and channel axes"))?;
        let ones = std::iter::repeat_n(Dim::Known(1), x.rank() - 2);
        let y = Shape(kept.iter().cloned().chain(ones).collect());
        Ok(vec![Fact::tensor(cx.dtype(0), Some(y))])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        t.pass((0, 0), (0, 0));
        t.pass((0, 1), (0, 1));
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::ty;

    #[test]
    fn windows() {
        let y = |opset, op: &str| ty(opset, &format!("input %x : f32[N,3,7,H] %y : ?, %i : ? = {op}(%x)"));
        assert_eq!(y(12, "MaxPool<kernel_shape=[2,2], strides=[2,2]>"), "f32[N,3,3,?]");
        assert_eq!(y(12, "MaxPool<ceil_mode=1, kernel_shape=[2,2], strides=[2,2]>"), "f32[N,3,4,?]");
        assert_eq!(y(12, "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>"), "f32[N,3,7,H]");
        assert_eq!(y(12, "MaxPool<kernel_shape=[3,3], dilations=[2,2]>"), "f32[N,3,3,?]");
        assert_eq!(y(12, "MaxPool<auto_pad=\"SAME_UPPER\", kernel_shape=[3,3], strides=[2,1]>"), "f32[N,3,4,H]");
        assert_eq!(y(12, "LpPool<kernel_shape=[7,1], p=1>"), "f32[N,3,1,H]");
        assert_eq!(y(12, "MaxPool<kernel_shape=[3]>"), "?", "too few axes");
        assert_eq!(y(12, "MaxPool<kernel_shape=[9,1]>"), "?", "larger than the input");
        assert_eq!(y(9, "MaxPool<ceil_mode=1, kernel_shape=[2,2]>"), "opaque");
        assert_eq!(y(18, "AveragePool<dilations=[2,2], kernel_shape=[2,2]>"), "opaque");
        assert_eq!(y(19, "AveragePool<dilations=[2,2], kernel_shape=[2,2]>"), "f32[N,3,5,?]");
        assert_eq!(y(12, "MaxPool<strides=[2,2]>"), "opaque");
    }

    #[test]
    fn places_and_whole_channels() {
        let body = "input %x : f32[N,3,4] %m : ?, %y : ? = MaxPool<kernel_shape=[2]>(%x)";
        assert_eq!(ty(8, body), "i64[N,3,3]");
        assert_eq!(ty(8, "input %x : f16[N,C,?,4] %y : ? = GlobalAveragePool(%x)"), "f16[N,C,1,1]");
        assert_eq!(ty(8, "input %x : f16[N] %y : ? = GlobalMaxPool(%x)"), "?");
    }
}
