//! Reductions over axes, positions of extremes, running sums. (ONNX Operators: Reduce…, since 1, 11, 13, 18; ArgMax and
//! ArgMin, since 1, 11, 12, 13; CumSum, since 11, 14; CumProd, since 26.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::{Operator, kernel};
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::Ties;

#[derive(Debug, Clone, PartialEq)]
pub struct Reduce {
    pub function: Reduction,
    /// The axes below opset 18 (13 for the sum), where given; later they are input 1. None given means all.
    pub axes: Option<Vec<i64>>,
    /// Reduced axes stay, with size 1.
    pub keepdims: bool,
    /// An empty list of axes, or none, reduces nothing instead of everything.
    pub noop_with_empty_axes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

use Reduction::*;

const NAMES: &[(&str, Reduction)] = &[
    ("ReduceSum", Sum),
    ("ReduceMean", Mean),
    ("ReduceMax", Max),
    ("ReduceMin", Min),
    ("ReduceProd", Prod),
    ("ReduceL1", L1),
    ("ReduceL2", L2),
    ("ReduceSumSquare", SumSquare),
    ("ReduceLogSum", LogSum),
    ("ReduceLogSumExp", LogSumExp),
];

impl Reduction {
    /// The first opset in which the axes are an input.
    pub fn axes_input_since(self) -> i64 {
        if self == Sum { 13 } else { 18 }
    }

    fn real(self, x: &[f64]) -> Option<f64> {
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(match self {
            Sum => x.iter().sum(),
            Mean if !x.is_empty() => x.iter().sum::<f64>() / x.len() as f64,
            Max if !x.is_empty() => max,
            Min if !x.is_empty() => x.iter().copied().fold(f64::INFINITY, f64::min),
            Prod => x.iter().product(),
            L1 => x.iter().map(|v| v.abs()).sum(),
            L2 => x.iter().map(|v| v * v).sum::<f64>().sqrt(),
            SumSquare => x.iter().map(|v| v * v).sum(),
            LogSum => x.iter().sum::<f64>().ln(),
            LogSumExp if max.is_finite() => max + x.iter().map(|v| (v - max).exp()).sum::<f64>().ln(),
            _ => return None,
        })
    }

    /// `None` also where the result, or a number on the way to it, does not fit into 64 bits.
    fn integer(self, x: &[i64]) -> Option<i64> {
        Some(match self {
            Sum => x.iter().try_fold(0i64, |s, &v| s.checked_add(v))?,
            Prod => x.iter().try_fold(1i64, |s, &v| s.checked_mul(v))?,
            L1 => x.iter().try_fold(0i64, |s, &v| s.checked_add(v.checked_abs()?))?,
            SumSquare => x.iter().try_fold(0i64, |s, &v| s.checked_add(v.checked_mul(v)?))?,
            Max => *x.iter().max()?,
            Min => *x.iter().min()?,
            _ => return None,
        })
    }
}

impl Reduce {
    /// Which axes of a tensor of that rank go. `given` is input 1, where that is present.
    pub fn reduced(&self, given: Option<&[i64]>, rank: usize) -> Result<Vec<bool>, String> {
        let axes = given.or(self.axes.as_deref()).unwrap_or_default();
        let mut reduced = vec![axes.is_empty() && !self.noop_with_empty_axes; rank];
        for &a in axes {
            reduced[axis(a, rank)?] = true;
        }
        Ok(reduced)
    }

    fn kept<D>(&self, dims: impl IntoIterator<Item = D>, reduced: &[bool], one: impl Fn() -> D) -> Vec<D> {
        let dim = |(d, &gone): (D, &bool)| if gone { self.keepdims.then(&one) } else { Some(d) };
        dims.into_iter().zip(reduced).filter_map(dim).collect()
    }
}

impl Operator for Reduce {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let function = NAMES.iter().find(|n| n.0 == op_type)?.1;
        let input = opset >= function.axes_input_since();
        Some(Reduce {
            function,
            axes: if input { None } else { attrs.ints("axes") },
            keepdims: attrs.int_or("keepdims", 1) != 0,
            noop_with_empty_axes: input && attrs.flag("noop_with_empty_axes"),
        })
    }

    fn op_type(&self) -> &'static str {
        NAMES.iter().find(|n| n.1 == self.function).map_or("", |n| n.0)
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let axes = self.axes.as_ref().map(|a| Attr::ints("axes", a));
        let keepdims = (!self.keepdims).then(|| Attr::int("keepdims", 0));
        let noop = self.noop_with_empty_axes.then(|| Attr::int("noop_with_empty_axes", 1));
        [axes, keepdims, noop].into_iter().flatten().collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(x) = cx.shape(0) else { return Ok(vec![Fact::tensor(cx.dtype(0), None)]) };
        let given = cx.known_ints(1);
        let y = if cx.has(1) && given.is_none() {
            self.keepdims.then(|| Shape(vec![Dim::Unknown; x.rank()]))
        } else {
            let reduced = self.reduced(given.as_deref(), x.rank())?;
            Some(Shape(self.kept(x.0.iter().cloned(), &reduced, || Dim::Known(1))))
        };
        Ok(vec![Fact::tensor(cx.dtype(0), y)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let given = match inputs.get(1).copied().flatten() {
            Some(t) => Some(t.ints()?),
            None => None,
        };
        let reduced = self.reduced(given.as_deref(), x.rank()).ok()?;
        if !reduced.contains(&true) && x.rank() > 0 {
            return matches!(self.function, Sum | Mean | Max | Min | Prod).then(|| vec![x.clone()]);
        }
        let shape = self.kept(x.shape().iter().copied(), &reduced, || 1);
        kernel::fits(x.dtype(), &shape)?;
        let y = if x.dtype().is_float() {
            let values = x.floats()?;
            if values.iter().any(|v| v.is_nan()) {
                return None;
            }
            let y = reduce(&values, x.shape(), &reduced, |g| self.function.real(g))?;
            Tensor::from_floats(x.dtype(), shape, y)
        } else if x.dtype().is_int() || x.dtype() == DType::BOOL && matches!(self.function, Max | Min) {
            let y = reduce(&x.ints()?, x.shape(), &reduced, |g| self.function.integer(g))?;
            // Runtimes do not agree on what comes out of an overflow.
            let tensor = Tensor::from_ints(x.dtype(), shape, y.iter().copied());
            return (tensor.ints()? == y).then(|| vec![tensor]);
        } else {
            return None;
        };
        Some(vec![y])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let given = if t.cx().has(1) { t.cx().known_ints(1) } else { None };
        let rank = t.cx().shape(0).map_or(0, Shape::rank);
        let known = given.is_some() || !t.cx().has(1);
        let Some(reduced) = self.reduced(given.as_deref(), rank).ok().filter(|_| known) else { return true };
        let mut to = 0;
        for (axis, &gone) in reduced.iter().enumerate() {
            if !gone {
                t.pass((0, axis), (0, to));
            }
            to += (!gone || self.keepdims) as usize;
        }
        true
    }
}

/// Each element of the result from the elements of `values` that come together in it.
fn reduce<T: Copy>(values: &[T], shape: &[usize], reduced: &[bool], f: impl Fn(&[T]) -> Option<T>) -> Option<Vec<T>> {
    let kept = (0..shape.len()).filter(|&i| !reduced[i]);
    let order: Vec<usize> = kept.clone().chain((0..shape.len()).filter(|&i| reduced[i])).collect();
    let sorted: Vec<T> = kernel::view(values, shape)?.permuted_axes(order).iter().copied().collect();
    let n: usize = kept.map(|i| shape[i]).product();
    let each = sorted.len().checked_div(n).unwrap_or(0);
    (0..n).map(|i| f(&sorted[i * each..(i + 1) * each])).collect()
}

/// Position of the largest or smallest element along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct ArgExtreme {
    pub max: bool,
    pub axis: i64,
    pub keepdims: bool,
    /// Of equals the last instead of the first (since 12).
    pub last: bool,
}

impl Operator for ArgExtreme {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(ArgExtreme {
            max: op_type == "ArgMax",
            axis: attrs.int_or("axis", 0),
            keepdims: attrs.int_or("keepdims", 1) != 0,
            last: opset >= 12 && attrs.flag("select_last_index"),
        })
    }

    fn op_type(&self) -> &'static str {
        if self.max { "ArgMax" } else { "ArgMin" }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let axis = (self.axis != 0).then(|| Attr::int("axis", self.axis));
        let keepdims = (!self.keepdims).then(|| Attr::int("keepdims", 0));
        let last = self.last.then(|| Attr::int("select_last_index", 1));
        [axis, keepdims, last].into_iter().flatten().collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(x) = cx.shape(0) else { return Ok(vec![Fact::tensor(Some(DType::I64), None)]) };
        let mut y = x.clone();
        let at = axis(self.axis, x.rank())?;
        if self.keepdims {
            y.0[at] = Dim::Known(1);
        } else {
            y.0.remove(at);
        }
        Ok(vec![Fact::tensor(Some(DType::I64), Some(y))])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let at = axis(self.axis, x.rank()).ok()?;
        let lanes = kernel::Sequences::new(x.shape(), at)?;
        let mut shape = x.shape().to_vec();
        if self.keepdims {
            shape[at] = 1;
        } else {
            shape.remove(at);
        }
        kernel::fits(DType::I64, &shape)?;
        let places =
            if x.dtype().is_float() { self.places(&lanes, &x.floats()?) } else { self.places(&lanes, &x.ints()?) };
        Some(vec![Tensor::from_ints(DType::I64, shape, places?)])
    }
}

impl ArgExtreme {
    /// `None` for an empty axis and where elements have no order.
    fn places<T: PartialOrd>(&self, lanes: &kernel::Sequences, x: &[T]) -> Option<Vec<i64>> {
        let place = |start: usize| {
            let mut best = 0;
            for (k, i) in lanes.lane(start).enumerate() {
                let against = x[i].partial_cmp(&x[start + best * lanes.stride])?;
                let better = if self.max { against.is_gt() } else { against.is_lt() };
                if better || self.last && against.is_eq() {
                    best = k;
                }
            }
            Some(best as i64)
        };
        if lanes.len == 0 { None } else { lanes.starts().map(place).collect() }
    }
}

/// Running sum or product along an axis (input 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Cumulate {
    pub product: bool,
    /// Element k has the sum of those before it, without its own.
    pub exclusive: bool,
    pub reverse: bool,
}

impl Operator for Cumulate {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let product = op_type == "CumProd";
        let op = Cumulate { product, exclusive: attrs.flag("exclusive"), reverse: attrs.flag("reverse") };
        (opset >= if product { 26 } else { 11 }).then_some(op)
    }

    fn op_type(&self) -> &'static str {
        if self.product { "CumProd" } else { "CumSum" }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let exclusive = self.exclusive.then(|| Attr::int("exclusive", 1));
        let reverse = self.reverse.then(|| Attr::int("reverse", 1));
        [exclusive, reverse].into_iter().flatten().collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        if let (Some(x), Some([a])) = (cx.shape(0), cx.known_ints(1).as_deref()) {
            axis(*a, x.rank())?;
        }
        Ok(vec![Fact { ty: cx.ty(0).cloned(), ints: None }])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let at = axis((*inputs.get(1)?)?.int_scalar()?, x.rank()).ok()?;
        let lanes = kernel::Sequences::new(x.shape(), at)?;
        let (d, shape) = (x.dtype(), x.shape());
        Some(vec![if d.is_float() {
            let mut y = x.floats()?;
            let (start, f): (f64, fn(f64, f64) -> f64) =
                if self.product { (1.0, |a, b| a * b) } else { (0.0, |a, b| a + b) };
            self.run(&lanes, &mut y, start, f);
            Tensor::from_floats(d, shape, y)
        } else if d.is_int() {
            let mut y = x.ints()?;
            let (start, f): (i64, fn(i64, i64) -> i64) =
                if self.product { (1, i64::wrapping_mul) } else { (0, i64::wrapping_add) };
            self.run(&lanes, &mut y, start, f);
            Tensor::from_ints(d, shape, y)
        } else {
            return None;
        }])
    }
}

impl Cumulate {
    fn run<T: Copy>(&self, lanes: &kernel::Sequences, y: &mut [T], zero: T, f: fn(T, T) -> T) {
        for start in lanes.starts() {
            let mut places: Vec<usize> = lanes.lane(start).collect();
            if self.reverse {
                places.reverse();
            }
            let mut total = zero;
            for i in places {
                let next = f(total, y[i]);
                y[i] = if self.exclusive { total } else { next };
                total = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ty};

    #[test]
    fn shapes() {
        let y = |opset, op: &str| ty(opset, &format!("input %x : f32[N,3,4] {op}"));
        assert_eq!(y(11, "%y : ? = ReduceMean<axes=[-1]>(%x)"), "f32[N,3,1]");
        assert_eq!(y(11, "%y : ? = ReduceMean<axes=[1,2], keepdims=0>(%x)"), "f32[N]");
        assert_eq!(y(11, "%y : ? = ReduceMean<keepdims=0>(%x)"), "f32[]");
        assert_eq!(y(11, "%y : ? = ReduceMean<axes=[3]>(%x)"), "?");
        assert_eq!(y(13, "%y : ? = ReduceSum<axes=[1]>(%x)"), "opaque");
        assert_eq!(y(18, "%y : ? = ReduceMean<axes=[1]>(%x)"), "opaque");
        assert_eq!(y(13, "const %a : i64[1] = {1} %y : ? = ReduceSum(%x, %a)"), "f32[N,1,4]");
        assert_eq!(y(13, "const %a : i64[0] %y : ? = ReduceSum<noop_with_empty_axes=1>(%x, %a)"), "f32[N,3,4]");
        assert_eq!(y(13, "input %a : i64[1] %y : ? = ReduceSum(%x, %a)"), "f32[?,?,?]");
        assert_eq!(y(13, "input %a : i64[1] %y : ? = ReduceSum<keepdims=0>(%x, %a)"), "f32[*]");
        assert_eq!(y(12, "%y : ? = ArgMax<axis=1, keepdims=0>(%x)"), "i64[N,4]");
        assert_eq!(y(11, "%y : ? = ArgMax<select_last_index=1>(%x)"), "opaque");
        assert_eq!(y(11, "const %a : i64[] = {1} %y : ? = CumSum(%x, %a)"), "f32[N,3,4]");
    }

    fn floats(op: &str) -> Vec<f64> {
        let body = "const %x : f32[2,3] = {1,2,3,-4,5,6}";
        fold(12, &format!("{body} %y : ? = {op}(%x)")).unwrap_or_else(|| panic!("{op}")).floats().unwrap()
    }

    #[test]
    fn reals() {
        assert_eq!(floats("ReduceSum<axes=[0]>"), [-3.0, 7.0, 9.0]);
        assert_eq!(floats("ReduceMean<axes=[1]>"), [2.0, (7.0f32 / 3.0) as f64]);
        assert_eq!(floats("ReduceMax"), [6.0]);
        assert_eq!(floats("ReduceMin<axes=[-1]>"), [1.0, -4.0]);
        assert_eq!(floats("ReduceProd<axes=[1]>"), [6.0, -120.0]);
        assert_eq!(floats("ReduceL1<axes=[1]>"), [6.0, 15.0]);
        assert_eq!(floats("ReduceSumSquare<axes=[1]>"), [14.0, 77.0]);
        assert_eq!(floats("ReduceL2<axes=[1]>")[0], 14f32.sqrt() as f64);
        assert_eq!(floats("ReduceLogSum<axes=[1]>")[0], 6f32.ln() as f64);
        let log_sum_exp = (1f64.exp() + 2f64.exp() + 3f64.exp()).ln() as f32;
        assert_eq!(floats("ReduceLogSumExp<axes=[1]>")[0], log_sum_exp as f64);
    }

    #[test]
    fn integers_and_empty_axes() {
        let ints = |body: &str| fold(18, body).map(|t| t.ints().unwrap());
        assert_eq!(ints("const %x : u8[3] = {200,10,1} %y : ? = ReduceSum(%x)").unwrap(), [211]);
        assert_eq!(ints("const %x : u8[3] = {200,100,1} %y : ? = ReduceSum(%x)"), None);
        assert_eq!(ints("const %x : i64[2] = {7,8} %y : ? = ReduceMean(%x)"), None);
        assert_eq!(ints("const %x : i64[0,2] const %a : i64[1] = {0} %y : ? = ReduceSum(%x, %a)").unwrap(), [0, 0]);
        assert_eq!(ints("const %x : i64[0,2] const %a : i64[1] = {0} %y : ? = ReduceMax(%x, %a)"), None);
        assert_eq!(ints("const %x : i64[2] = {7,8} %y : ? = ReduceSum<noop_with_empty_axes=1>(%x)").unwrap(), [7, 8]);
        assert_eq!(ints("const %x : i64[] = {7} %y : ? = ReduceProd(%x)").unwrap(), [7]);
    }

    #[test]
    fn places_and_running_sums() {
        let ints = |body: &str| {
            fold(13, &format!("const %x : i32[2,3] = {{1,3,3,4,4,0}} const %a : i64[] = {{1}} {body}")).unwrap().ints()
        };
        assert_eq!(ints("%y : ? = ArgMax<axis=1>(%x)").unwrap(), [1, 0]);
        assert_eq!(ints("%y : ? = ArgMax<axis=1, select_last_index=1>(%x)").unwrap(), [2, 1]);
        assert_eq!(ints("%y : ? = ArgMin<axis=0, keepdims=0>(%x)").unwrap(), [0, 0, 1]);
        assert_eq!(ints("%y : ? = CumSum(%x, %a)").unwrap(), [1, 4, 7, 4, 8, 8]);
        assert_eq!(ints("%y : ? = CumSum<exclusive=1, reverse=1>(%x, %a)").unwrap(), [6, 3, 0, 4, 0, 0]);
        assert!(fold(13, "const %x : f32[2] = {NaN,1} %y : ? = ArgMax(%x)").is_none());
    }
}
