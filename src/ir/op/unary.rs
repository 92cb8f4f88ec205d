//! Elementwise functions of one tensor, without attributes that change the numbers. (ONNX Operators, each by its name.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::shape::{DType, Type};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{self, Axis, Ties};

/// y = f(x), element by element.
#[derive(Debug, Clone, PartialEq)]
pub struct Unary(pub &'static str);

type RealFunction = fn(f64) -> f64;

/// Names this file knows, with the first opset that has them and the function on reals, where they have one.
const FUNCTIONS: &[(&str, i64, Option<RealFunction>)] = &[
    ("Identity", 1, Some(|x| x)),
    ("Relu", 1, Some(|x| if x < 0.0 { 0.0 } else { x })),
    ("Sigmoid", 1, Some(sigmoid)),
    ("Tanh", 1, Some(f64::tanh)),
    ("Neg", 1, Some(|x| -x)),
    ("Abs", 1, Some(f64::abs)),
    ("Exp", 1, Some(f64::exp)),
    ("Log", 1, Some(f64::ln)),
    ("Sqrt", 1, Some(f64::sqrt)),
    ("Reciprocal", 1, Some(|x| 1.0 / x)),
    ("Floor", 1, Some(f64::floor)),
    ("Ceil", 1, Some(f64::ceil)),
    ("Round", 11, Some(f64::round_ties_even)),
    (
        "Sign",
        9,
        Some(|x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }),
    ),
    ("Sin", 7, Some(f64::sin)),
    ("Cos", 7, Some(f64::cos)),
    ("Tan", 7, Some(f64::tan)),
    ("Asin", 7, Some(f64::asin)),
    ("Acos", 7, Some(f64::acos)),
    ("Atan", 7, Some(f64::atan)),
    ("Sinh", 9, Some(f64::sinh)),
    ("Cosh", 9, Some(f64::cosh)),
    ("Asinh", 9, Some(f64::asinh)),
    ("Acosh", 9, Some(f64::acosh)),
    ("Atanh", 9, Some(f64::atanh)),
    ("Erf", 9, Some(erf)),
    ("Softplus", 1, Some(softplus)),
    ("Softsign", 1, Some(|x| x / (1.0 + x.abs()))),
    ("HardSwish", 14, Some(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0))),
    ("Mish", 18, Some(|x| x * softplus(x).tanh())),
    ("IsNaN", 9, None),
    ("Not", 1, None),
    ("BitwiseNot", 18, None),
];

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + eˣ), without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The error function, to a few units in the last place: a series of positive terms. (Abramowitz and Stegun, 7.1.6.)
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (a, a, 1.0);
    while term > sum * (f64::EPSILON / 4.0) {
        odd += 2.0;
        term *= 2.0 * a * a / odd;
        sum += term;
    }
    (std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum).copysign(x)
}

impl Unary {
    pub const IDENTITY: Unary = Unary("Identity");
}

impl Operator for Unary {
    fn parse(op_type: &str, opset: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        FUNCTIONS.iter().find(|f| f.0 == op_type && f.1 <= opset).map(|f| Unary(f.0))
    }

    fn op_type(&self) -> &'static str {
        self.0
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        // None of them changes a whole number.
        let ints = if matches!(self.0, "Identity" | "Floor" | "Ceil" | "Round") { cx.content(0) } else { None };
        Ok(vec![match self.0 {
            "IsNaN" => Fact::tensor(Some(DType::BOOL), cx.shape(0).cloned()),
            _ => Fact { ty: cx.ty(0).cloned(), ints: None }.with_ints(ints),
        }])
    }

    fn passes_on(&self, _: &Infer<'_>) -> Option<usize> {
        (self.0 == "Identity").then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let (d, shape) = (x.dtype(), x.shape());
        let ints = |f: fn(i64) -> i64| Some(Tensor::from_ints(d, shape, x.ints()?.into_iter().map(f)));
        let y = match self.0 {
            "Identity" => x.clone(),
            "IsNaN" => Tensor::from_ints(DType::BOOL, shape, x.iter_floats()?.map(|v| v.is_nan() as i64)),
            "Not" if d == DType::BOOL => ints(|v| 1 - v)?,
            "BitwiseNot" if d.is_int() => ints(|v| !v)?,
            "Neg" if d.is_int() => ints(i64::wrapping_neg)?,
            "Abs" if d.is_int() => ints(i64::wrapping_abs)?,
            "Sign" if d.is_int() => ints(i64::signum)?,
            "Relu" if d.is_int() => ints(|v| v.max(0))?,
            name if d.is_float() => {
                let f = FUNCTIONS.iter().find(|f| f.0 == name)?.2?;
                Tensor::from_floats(d, shape, x.iter_floats()?.map(f))
            }
            _ => return None,
        };
        Some(vec![y])
    }

    fn moves(&self, _: &Infer<'_>, (_, position): Axis) -> Option<Vec<usize>> {
        Some(vec![position])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        ties::elementwise(t);
        true
    }
}

/// Whether a number is infinite, by sign. (ONNX Operators: IsInf, since 10, 20.)
#[derive(Debug, Clone, PartialEq)]
pub struct IsInf {
    pub negative: bool,
    pub positive: bool,
}

impl Operator for IsInf {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let negative = attrs.int_or("detect_negative", 1) != 0;
        let positive = attrs.int_or("detect_positive", 1) != 0;
        (opset >= 10).then_some(IsInf { negative, positive })
    }

    fn op_type(&self) -> &'static str {
        "IsInf"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let off = |name, on: bool| (!on).then(|| Attr::int(name, 0));
        [off("detect_negative", self.negative), off("detect_positive", self.positive)].into_iter().flatten().collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact { ty: Some(Type::Tensor(DType::BOOL, cx.shape(0).cloned())), ints: None }])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let hit = |v: f64| v.is_infinite() && if v < 0.0 { self.negative } else { self.positive };
        let y = x.iter_floats()?.map(|v| hit(v) as i64);
        Some(vec![Tensor::from_ints(DType::BOOL, x.shape(), y)])
    }
}

#[cfg(test)]
mod tests {
    use super::erf;
    use crate::ir::op::testing::{fold, ty};

    #[test]
    fn types() {
        assert_eq!(ty(13, "input %x : f16[N,2] %y : ? = Tan(%x)"), "f16[N,2]");
        assert_eq!(ty(13, "input %x : f16[N,2] %y : ? = IsNaN(%x)"), "bool[N,2]");
        assert_eq!(ty(13, "input %x : f32[*] %y : ? = IsInf(%x)"), "bool[*]");
        assert_eq!(ty(8, "input %x : f32[2] %y : ? = Erf(%x)"), "opaque");
        assert_eq!(ty(17, "input %x : i8[2] %y : ? = BitwiseNot(%x)"), "opaque");
    }

    #[test]
    fn values() {
        let run = |op: &str, ty: &str, x: &str| fold(20, &format!("const %x : {ty} = {{{x}}} %y : ? = {op}(%x)"));
        let reals = |op, x: f64| run(op, "f64[]", &format!("{x:?}")).unwrap().float_scalar().unwrap();
        let ints = |op, ty, x| run(op, ty, x).unwrap().ints().unwrap();
        assert!((reals("Softplus", -40.0) - 4.248354255291589e-18).abs() < 1e-30);
        assert_eq!(reals("Softplus", 800.0), 800.0);
        assert_eq!(reals("HardSwish", 1.5), 1.5 * 0.75);
        assert!((reals("Mish", 1.0) - 0.8650983882673103).abs() < 1e-15);
        assert_eq!(reals("Round", 2.5), 2.0);
        assert_eq!(ints("Sign", "i32[3]", "-7,0,9"), [-1, 0, 1]);
        assert_eq!(ints("Neg", "i8[2]", "-128,3"), [-128, -3]);
        assert_eq!(ints("BitwiseNot", "u8[2]", "0,254"), [255, 1]);
        assert_eq!(ints("IsNaN", "f32[2]", "NaN,1"), [1, 0]);
        assert_eq!(ints("IsInf<detect_negative=0>", "f32[3]", "inf,-inf,1"), [1, 0, 0]);
        assert!(run("Sqrt", "i32[1]", "4").is_none());
    }

    /// Against values to 16 digits. (Abramowitz and Stegun, table 7.1, and mpmath.)
    #[test]
    fn error_function() {
        let cases = [
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (2.0, 0.9953222650189527),
            (3.5, 0.9999992569016276),
            (1e-10, 1.1283791670955126e-10),
        ];
        for (x, want) in cases {
            assert!((erf(x) / want - 1.0).abs() < 1e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((erf(0.0), erf(f64::INFINITY), erf(f64::NEG_INFINITY)), (0.0, 1.0, -1.0));
        assert!(erf(f64::NAN).is_nan());
    }
}
