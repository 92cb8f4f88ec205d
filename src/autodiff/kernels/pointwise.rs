//! Elementwise functions: of one tensor, and of two that broadcast. (ONNX Operators, each by its name.)

use crate::autodiff::broadcast::{BroadcastRuns, along};
use crate::autodiff::kernel::{Backward, Keeps, Kernel, Mode};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::{Grad, Real, map, sums};
use crate::ir::op::activation::{Activation, Clip, Gelu};
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::op::unary::Unary;
use crate::ir::tensor::Tensor;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

pub fn unary<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Unary) -> Result<(), String> {
    let function = match op.0 {
        "Identity" => return node.same(),
        "Relu" => return clamp(node, Some(0.0), None),
        "Sigmoid" => Function::Sigmoid,
        "Tanh" => Function::Tanh,
        "Neg" => Function::scale(-1.0),
        "Abs" => Function::Abs,
        "Exp" => Function::Exp,
        "Log" => Function::Log,
        "Sqrt" => Function::Sqrt,
        "Reciprocal" => Function::Reciprocal,
        "Sin" => Function::Sin,
        "Cos" => Function::Cos,
        "Erf" => Function::Erf,
        "Softplus" => Function::Softplus,
        "Softsign" => Function::Softsign,
        "HardSwish" => Function::HardSwish,
        "Mish" => Function::Mish,
        name => return Err(format!("{name} has no slope that would teach anything")),
    };
    emit(node, function)
}

pub fn activation<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Activation) -> Result<(), String> {
    let [a, b] = op.params.map(|p| T::of(p.into()));
    let function = match op.function {
        "LeakyRelu" => Function::Leaky(a),
        "Elu" => Function::Elu(a, T::ONE),
        "Selu" => Function::Elu(a, b),
        "HardSigmoid" => Function::HardSigmoid(a, b),
        "Swish" => Function::Swish(a),
        name => return Err(format!("the slope of {name} is not known here")),
    };
    emit(node, function)
}

pub fn gelu<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Gelu) -> Result<(), String> {
    emit(node, if op.tanh { Function::GeluTanh } else { Function::Gelu })
}

pub fn clip<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Clip) -> Result<(), String> {
    let mut limit = |slot: usize, attribute: Option<f32>| match node.has(slot) {
        true => {
            let limit = node.content(slot).as_ref().and_then(Tensor::float_scalar);
            limit.map(Some).ok_or("its limits are computed from what is fed")
        }
        false => Ok(attribute.map(f64::from)),
    };
    let (low, high) = (limit(1, op.min)?, limit(2, op.max)?);
    clamp(node, low, high)
}

/// Clamps, in the step before if that can.
fn clamp<T: Real>(node: &mut Lowering<'_, '_, T>, low: Option<f64>, high: Option<f64>) -> Result<(), String> {
    let (low, high) = (T::of(low.unwrap_or(f64::NEG_INFINITY)), T::of(high.unwrap_or(f64::INFINITY)));
    if node.fuse_clamp(low, high)? { Ok(()) } else { emit(node, Function::Clamp(low, high)) }
}

fn emit<T: Real>(node: &mut Lowering<'_, '_, T>, function: Function<T>) -> Result<(), String> {
    let x = node.read(0)?;
    node.emit(Map(function), &[x])
}

pub fn binary<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Binary) -> Result<(), String> {
    let y = node.out(0)?;
    let len = y.iter().product();
    let kind = match op.0 {
        BinaryKind::Sum | BinaryKind::Mean => BinaryKind::Add,
        kind @ (BinaryKind::Add
        | BinaryKind::Sub
        | BinaryKind::Mul
        | BinaryKind::Div
        | BinaryKind::Pow
        | BinaryKind::Min
        | BinaryKind::Max
        | BinaryKind::PRelu) => kind,
        _ => return Err("it has no slope that would teach anything".into()),
    };
    if let (BinaryKind::Pow, Some(p)) = (kind, node.content(1).as_ref().and_then(exponent)) {
        return emit(node, Function::Power(T::of(p)));
    }
    let (mut slot, mut shape) = (node.read(0)?, node.dims(0)?);
    let n = node.n_inputs();
    for i in 1..n {
        let (b, other) = (node.read(i)?, node.dims(i)?);
        let whole = if i + 1 == n { y.clone() } else { join(&shape, &other) };
        slot = pair(node, kind, [(slot, &shape), (b, &other)], &whole)?;
        shape = whole;
    }
    if op.0 == BinaryKind::Mean {
        slot = node.push(Map(Function::scale(1.0 / n as f64)), &[slot], len);
    }
    if n == 1 && op.0 != BinaryKind::Mean {
        return node.same();
    }
    node.bind(0, slot);
    Ok(())
}

/// A number, of any type, that all elements are raised to.
fn exponent(t: &Tensor) -> Option<f64> {
    t.float_scalar().or(t.int_scalar().map(|i| i as f64))
}

/// The shape that two broadcast to, if they do.
fn join(a: &[usize], b: &[usize]) -> Vec<usize> {
    let at = |s: &[usize], i: usize| s.len().checked_sub(i + 1).map_or(1, |at| s[at]);
    (0..a.len().max(b.len())).rev().map(|i| if at(a, i) == 1 { at(b, i) } else { at(a, i) }).collect()
}

/// A step for a + b, each with its shape, of shape `y`.
pub fn add<T: Real>(
    node: &mut Lowering<'_, '_, T>,
    inputs: [(usize, &[usize]); 2],
    y: &[usize],
) -> Result<usize, String> {
    pair(node, BinaryKind::Add, inputs, y)
}

fn pair<T: Real>(
    node: &mut Lowering<'_, '_, T>,
    kind: BinaryKind,
    [a, b]: [(usize, &[usize]); 2],
    y: &[usize],
) -> Result<usize, String> {
    let runs = BroadcastRuns::new(y, [a.1, b.1]).ok_or("its inputs do not broadcast to its output")?;
    let len = y.iter().product();
    let whole = [a.1, b.1].iter().all(|s| s.iter().product::<usize>() == len);
    Ok(node.push(PairKernel { kind, runs, whole, limits: None }, &[a.0, b.0], len))
}

/// A function of one number; a slope is from the result where `keeps_output`, else from the argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function<T> {
    /// min(max(x, low), high)
    Clamp(T, T),
    /// x where positive, α x where not.
    Leaky(T),
    /// γ x where positive, γ α (eˣ − 1) where not.
    Elu(T, T),
    Sigmoid,
    /// clamp(α x + β, 0, 1)
    HardSigmoid(T, T),
    /// x clamp(x/6 + 1/2, 0, 1)
    HardSwish,
    /// x σ(α x)
    Swish(T),
    /// x tanh(softplus(x))
    Mish,
    Tanh,
    Erf,
    Gelu,
    GeluTanh,
    Softplus,
    Softsign,
    Abs,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Sin,
    Cos,
    /// xᵖ
    Power(T),
    /// a x
    Scale(T),
}

use Function::*;

fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// ln(1 + eˣ), without overflow.
fn softplus<T: Real>(x: T) -> T {
    let above = if x > T::ZERO { x } else { T::ZERO };
    above + (T::ONE + (-x.abs()).exp()).ln()
}

/// Argument of the tanh in the tanh formula of Gelu, and its slope. (ONNX Operators: Gelu.)
fn inner<T: Real>(x: T) -> [T; 2] {
    let (a, c) = (T::of(FRAC_2_SQRT_PI * FRAC_1_SQRT_2), T::of(0.044715));
    [a * (x + c * x * x * x), a * (T::ONE + T::of(3.0) * c * x * x)]
}

impl<T: Real> Function<T> {
    pub fn scale(factor: f64) -> Function<T> {
        Scale(T::of(factor))
    }

    fn keeps_output(self) -> bool {
        matches!(self, Clamp(..) | Sigmoid | Tanh | Exp | Sqrt | Reciprocal)
    }

    fn apply(self, x: &[T], y: &mut [T]) {
        let (zero, one, half) = (T::ZERO, T::ONE, T::of(0.5));
        match self {
            Clamp(low, high) => map(x, y, move |x| x.within(low, high)),
            Leaky(a) => map(x, y, move |x| if x < zero { a * x } else { x }),
            Elu(a, g) => map(x, y, move |x| g * if x < zero { a * (x.exp() - one) } else { x }),
            Sigmoid => map(x, y, sigmoid),
            HardSigmoid(a, b) => map(x, y, move |x| (a * x + b).within(zero, one)),
            HardSwish => map(x, y, move |x| x * (x / T::of(6.0) + half).within(zero, one)),
            Swish(a) => map(x, y, move |x| x * sigmoid(a * x)),
            Mish => map(x, y, move |x| x * softplus(x).tanh()),
            Tanh => map(x, y, T::tanh),
            Erf => map(x, y, T::erf),
            Gelu => map(x, y, move |x| half * x * (one + (x * T::of(FRAC_1_SQRT_2)).erf())),
            GeluTanh => map(x, y, move |x| half * x * (one + inner(x)[0].tanh())),
            Softplus => map(x, y, softplus),
            Softsign => map(x, y, move |x| x / (one + x.abs())),
            Abs => map(x, y, T::abs),
            Exp => map(x, y, T::exp),
            Log => map(x, y, T::ln),
            Sqrt => map(x, y, T::sqrt),
            Reciprocal => map(x, y, move |x| one / x),
            Sin => map(x, y, T::sin),
            Cos => map(x, y, T::cos),
            Power(p) if p == T::of(2.0) => map(x, y, move |x| x * x),
            Power(p) => map(x, y, move |x| x.powf(p)),
            Scale(a) => map(x, y, move |x| a * x),
        }
    }

    /// Adds dy f'(·), where `v` is the result where `keeps_output`, else the argument.
    fn back(self, v: &[T], dy: &[T], to: Grad<'_, T>) {
        let (zero, one, half) = (T::ZERO, T::ONE, T::of(0.5));
        let bell = T::of(FRAC_2_SQRT_PI);
        match self {
            Clamp(low, high) => to.add(v, dy, move |y, d| if (y > low) & (y < high) { d } else { zero }),
            Leaky(a) => to.add(v, dy, move |x, d| if x < zero { a * d } else { d }),
            Elu(a, g) => to.add(v, dy, move |x, d| d * g * if x < zero { a * x.exp() } else { one }),
            Sigmoid => to.add(v, dy, move |y, d| d * y * (one - y)),
            HardSigmoid(a, b) => to.add(v, dy, move |x, d| {
                let y = a * x + b;
                if y > zero && y < one { a * d } else { zero }
            }),
            HardSwish => to.add(v, dy, move |x, d| {
                let three = T::of(3.0);
                if x <= -three {
                    zero
                } else if x < three {
                    d * (x / three + half)
                } else {
                    d
                }
            }),
            Swish(a) => to.add(v, dy, move |x, d| {
                let s = sigmoid(a * x);
                d * (s + a * x * s * (one - s))
            }),
            Mish => to.add(v, dy, move |x, d| {
                let t = softplus(x).tanh();
                d * (t + x * (one - t * t) * sigmoid(x))
            }),
            Tanh => to.add(v, dy, move |y, d| d * (one - y * y)),
            Erf => to.add(v, dy, move |x, d| d * bell * (-x * x).exp()),
            Gelu => to.add(v, dy, move |x, d| {
                let z = x * T::of(FRAC_1_SQRT_2);
                let density = half * bell * T::of(FRAC_1_SQRT_2) * (-z * z).exp();
                d * (half * (one + z.erf()) + x * density)
            }),
            GeluTanh => to.add(v, dy, move |x, d| {
                let [u, slope] = inner(x);
                let t = u.tanh();
                d * half * (one + t + x * (one - t * t) * slope)
            }),
            Softplus => to.add(v, dy, move |x, d| d * sigmoid(x)),
            Softsign => to.add(v, dy, move |x, d| {
                let n = one + x.abs();
                d / (n * n)
            }),
            Abs => to.add(v, dy, move |x, d| if x < zero { -d } else { d }),
            Exp => to.add(v, dy, move |y, d| d * y),
            Log => to.add(v, dy, move |x, d| d / x),
            Sqrt => to.add(v, dy, move |y, d| half * d / y),
            Reciprocal => to.add(v, dy, move |y, d| -d * y * y),
            Sin => to.add(v, dy, move |x, d| d * x.cos()),
            Cos => to.add(v, dy, move |x, d| -d * x.sin()),
            Power(p) => to.add(v, dy, move |x, d| d * p * x.powf(p - one)),
            Scale(a) => to.add(dy, dy, move |_, d| a * d),
        }
    }
}

/// y = f(x), element by element.
pub struct Map<T>(pub Function<T>);

impl<T: Real> Kernel<T> for Map<T> {
    fn keeps(&self) -> Keeps {
        let output = self.0.keeps_output();
        Keeps { inputs: !(output || matches!(self.0, Scale(_))) as u64, output }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        self.0.apply(x[0], y);
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let kept = if self.0.keeps_output() { back.y } else { back.x[0] };
        let dx = back.dx.into_iter().next().flatten();
        dx.into_iter().for_each(|dx| self.0.back(kept, back.dy, dx));
    }
}

/// y = f(a, b), both broadcast to y; a sum of two as large as it is clamped if there are `limits`.
struct PairKernel<T> {
    kind: BinaryKind,
    runs: BroadcastRuns<2>,
    /// Neither is smaller than y.
    whole: bool,
    limits: Option<[T; 2]>,
}

impl<T: Real> PairKernel<T> {
    fn apply(&self, x: &[&[T]], y: &mut [T], f: impl Fn(T, T) -> T + Copy + Send + Sync) {
        let [a, b] = [x[0], x[1]];
        if self.whole {
            return Grad { to: y, fresh: true }.add(a, b, f);
        }
        let steps = self.runs.steps;
        self.runs.fill(y, |y, at| {
            let (a, b) = (along(a, at[0], steps[0], y.len()), along(b, at[1], steps[1], y.len()));
            match (a, b) {
                (&[a], &[b]) => y.fill(f(a, b)),
                (&[a], b) => y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a, b)),
                (a, &[b]) => y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b)),
                (a, b) => y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b)),
            }
        });
    }

    /// Adds f(a, b, dy) to the gradient of slot `k`: the sum of it over what that is repeated along.
    fn back(&self, k: usize, x: &[&[T]], dy: &[T], to: Grad<'_, T>, f: impl Fn(T, T, T) -> T + Sync) {
        let (steps, run, fresh) = (self.runs.steps, self.runs.run, to.fresh);
        let factors = |at: [usize; 2]| [0, 1].map(|k| along(x[k], at[k], steps[k], run));
        let pick = |x: &[T], i: usize| if x.len() == 1 { x[0] } else { x[i] };
        if to.to.len() == dy.len() {
            return self.runs.fill(to.to, |to, at| {
                let ([a, b], dy) = (factors(at), &dy[at[k]..][..run]);
                for (i, (to, &d)) in to.iter_mut().zip(dy).enumerate() {
                    let term = f(pick(a, i), pick(b, i), d);
                    *to = if fresh { term } else { *to + term };
                }
            });
        }
        let to = to.zeroed();
        self.runs.each(|from, at| {
            let ([a, b], dy) = (factors(at), &dy[from..from + run]);
            for (i, &d) in dy.iter().enumerate() {
                to[at[k] + i * steps[k]] += f(pick(a, i), pick(b, i), d);
            }
        });
    }

    /// Adds ± dy to the gradient of slot `k`: the sum of it over what that is repeated along.
    fn linear(&self, k: usize, dy: &[T], to: Grad<'_, T>, sign: T) {
        if to.to.len() == dy.len() {
            return to.add(dy, dy, |d, _| sign * d);
        }
        let (to, step) = (to.zeroed(), self.runs.steps[k]);
        self.runs.each(|from, at| {
            let dy = &dy[from..from + self.runs.run];
            if step == 0 {
                to[at[k]] += sign * sums(dy, dy, |d, _| [d])[0];
            } else {
                to[at[k]..].iter_mut().zip(dy).for_each(|(to, &d)| *to += sign * d);
            }
        });
    }
}

/// d/db of aᵇ; 0 where that is not a number.
fn by_exponent<T: Real>(a: T, b: T) -> T {
    if a > T::ZERO { a.powf(b) * a.ln() } else { T::ZERO }
}

impl<T: Real> Kernel<T> for PairKernel<T> {
    fn keeps(&self) -> Keeps {
        let linear = matches!(self.kind, BinaryKind::Add | BinaryKind::Sub);
        Keeps { inputs: if linear { 0 } else { 0b11 }, output: self.limits.is_some() }
    }

    fn clamp(&mut self, low: T, high: T) -> bool {
        let can = self.kind == BinaryKind::Add && self.whole && self.limits.is_none();
        self.limits = if can { Some([low, high]) } else { self.limits };
        can
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        match self.kind {
            BinaryKind::Sub => self.apply(x, y, |a, b| a - b),
            BinaryKind::Mul => self.apply(x, y, |a, b| a * b),
            BinaryKind::Div => self.apply(x, y, |a, b| a / b),
            BinaryKind::Pow => self.apply(x, y, T::powf),
            BinaryKind::Min => self.apply(x, y, |a, b| if b < a { b } else { a }),
            BinaryKind::Max => self.apply(x, y, |a, b| if b > a { b } else { a }),
            BinaryKind::PRelu => self.apply(x, y, |a, b| if a < T::ZERO { a * b } else { a }),
            _ => match self.limits {
                Some([low, high]) => self.apply(x, y, |a, b| (a + b).within(low, high)),
                None => self.apply(x, y, |a, b| a + b),
            },
        }
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, y, dy, dx, .. } = back;
        let zero = T::ZERO;
        for (k, to) in dx.into_iter().enumerate().filter_map(|(k, to)| Some((k, to?))) {
            if let Some([low, high]) = self.limits {
                Function::Clamp(low, high).back(y, dy, to);
                continue;
            }
            match (self.kind, k) {
                (BinaryKind::Add | BinaryKind::Sub, _) => {
                    let sign = if self.kind == BinaryKind::Sub && k == 1 { -T::ONE } else { T::ONE };
                    self.linear(k, dy, to, sign);
                }
                (BinaryKind::Mul, 0) => self.back(k, x, dy, to, |_, b, d| d * b),
                (BinaryKind::Mul, _) => self.back(k, x, dy, to, |a, _, d| d * a),
                (BinaryKind::Div, 0) => self.back(k, x, dy, to, |_, b, d| d / b),
                (BinaryKind::Div, _) => self.back(k, x, dy, to, |a, b, d| -d * a / (b * b)),
                (BinaryKind::Pow, 0) => self.back(k, x, dy, to, |a, b, d| d * b * a.powf(b - T::ONE)),
                (BinaryKind::Pow, _) => self.back(k, x, dy, to, |a, b, d| d * by_exponent(a, b)),
                (BinaryKind::Min, 0) => self.back(k, x, dy, to, |a, b, d| if b < a { zero } else { d }),
                (BinaryKind::Min, _) => self.back(k, x, dy, to, |a, b, d| if b < a { d } else { zero }),
                (BinaryKind::Max, 0) => self.back(k, x, dy, to, |a, b, d| if b > a { zero } else { d }),
                (BinaryKind::Max, _) => self.back(k, x, dy, to, |a, b, d| if b > a { d } else { zero }),
                (_, 0) => self.back(k, x, dy, to, |a, b, d| if a < zero { d * b } else { d }),
                (..) => self.back(k, x, dy, to, |a, _, d| if a < zero { d * a } else { zero }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;

    #[test]
    fn functions() {
        let one = |op: &str| check(24, &format!("const %x : f64[2,9] = seed(4) %y : ? = {op}(%x)"));
        for op in [
            "Relu",
            "LeakyRelu<alpha=0.3>",
            "Elu<alpha=0.5>",
            "Selu",
            "Sigmoid",
            "HardSigmoid<alpha=0.7, beta=0.4>",
            "HardSwish",
            "Swish<alpha=1.5>",
            "Mish",
            "Tanh",
            "Erf",
            "Gelu",
            "Gelu<approximate=\"tanh\">",
            "Softplus",
            "Softsign",
            "Abs",
            "Exp",
            "Neg",
            "Reciprocal",
            "Sin",
            "Cos",
            "Identity",
        ] {
            one(op);
        }
    }

    #[test]
    fn functions_beyond_one() {
        let wide = "const %x : f64[2,9] = seed(4) const %s : f64[] = {5} %z : ? = Mul(%x, %s)";
        for op in ["HardSwish", "Swish", "Mish", "Gelu", "Softplus", "Erf"] {
            check(24, &format!("{wide} %y : ? = {op}(%z)"));
        }
        let positive = "const %x : f64[2,9] = seed(4) const %s : f64[] = {1.5} %z : ? = Add(%x, %s)";
        for op in ["Sqrt", "Log"] {
            check(24, &format!("{positive} %y : ? = {op}(%z)"));
        }
        let limits = "const %low : f64[] = {-0.25} const %high : f64[] = {0.5}";
        check(24, &format!("const %x : f64[2,9] = seed(4) {limits} %y : ? = Clip(%x, %low, %high)"));
        check(10, "const %x : f64[2,9] = seed(4) %y : ? = Clip<max=0.5, min=-0.25>(%x)");
    }

    #[test]
    fn pairs() {
        let shapes =
            [("2,3,4", "2,3,4"), ("2,3,4", "3,1"), ("3,1", "2,3,4"), ("2,1,4", "5,1"), ("", "3"), ("2,3", "1")];
        for (a, b) in shapes {
            let inputs = format!("const %a : f64[{a}] = seed(1) const %b : f64[{b}] = seed(2)");
            for op in ["Add", "Sub", "Mul", "Min", "Max", "Sum", "Mean"] {
                check(13, &format!("{inputs} %y : ? = {op}(%a, %b)"));
            }
            let positive = format!("{inputs} const %s : f64[] = {{2}} %p : ? = Add(%a, %s) %q : ? = Add(%b, %s)");
            check(13, &format!("{positive} %y : ? = Div(%a, %q)"));
            check(13, &format!("{positive} %y : ? = Pow(%p, %b)"));
        }
    }

    #[test]
    fn a_clamped_sum() {
        let inputs = "const %a : f64[3,4] = seed(1) const %b : f64[3,4] = seed(2) const %c : f64[4] = seed(3)
                      const %l : f64[] = {-0.5} const %h : f64[] = {0.7}";
        for clamped in ["Relu(%z)", "Clip(%z, %l, %h)", "Clip(%r, %l, %h) %r : ? = Relu(%z)"] {
            let (last, first) =
                clamped.split_once(" %r").map_or((clamped, String::new()), |(l, f)| (l, format!("%r{f}")));
            for (sum, with) in
                [("Add(%a, %b)", "%z"), ("Add(%a, %c)", "%z"), ("Sub(%a, %b)", "%z"), ("Add(%a, %b)", "%a")]
            {
                check(13, &format!("{inputs} %z : ? = {sum} {first} %q : ? = {last} %y : ? = Mul(%q, {with})"));
            }
            check(13, &format!("{inputs} %z : ? = Add(%a, %b) {first} %q : ? = {last} %y : ? = Mul(%q, %c)"));
        }
    }

    #[test]
    fn more() {
        for slope in ["3,1", "4", "2,3,4"] {
            check(
                13,
                &format!("const %x : f64[2,3,4] = seed(1) const %s : f64[{slope}] = seed(2) %y : ? = PRelu(%x, %s)"),
            );
        }
        let three = "const %a : f64[4] = seed(1) const %b : f64[3,1] = seed(2) const %c : f64[2,1,1] = seed(3)";
        for op in ["Sum", "Mean", "Max"] {
            check(13, &format!("{three} %y : ? = {op}(%a, %b, %c)"));
        }
        check(13, "const %x : f64[5] = seed(1) const %p : i64[] = {2} %y : ? = Pow(%x, %p)");
        check(13, "const %x : f64[5] = seed(1) const %p : i64[] = {3} %y : ? = Pow(%x, %p)");
        check(13, "const %x : f64[5] = seed(1) %y : ? = Mul(%x, %x)");
        check(13, "const %x : f64[5] = seed(1) %y : ? = Mean(%x)");
    }
}
