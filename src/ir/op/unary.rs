//! Elementwise functions of one tensor, without attributes.

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::shape::DType;
use crate::ir::tensor::Tensor;

/// y = f(x), element by element.
#[derive(Debug, Clone, PartialEq)]
pub struct Unary(pub &'static str);

/// Names this file knows, with the function on reals where we compute it.
const FUNCTIONS: &[(&str, Option<fn(f64) -> f64>)] = &[
    ("Identity", Some(|x| x)),
    ("Relu", Some(|x| if x < 0.0 { 0.0 } else { x })),
    ("Sigmoid", Some(|x| 1.0 / (1.0 + (-x).exp()))),
    ("Tanh", Some(f64::tanh)),
    ("Neg", Some(|x| -x)),
    ("Abs", Some(f64::abs)),
    ("Exp", Some(f64::exp)),
    ("Log", Some(f64::ln)),
    ("Sqrt", Some(f64::sqrt)),
    ("Reciprocal", Some(|x| 1.0 / x)),
    ("Floor", Some(f64::floor)),
    ("Ceil", Some(f64::ceil)),
    ("Round", Some(f64::round_ties_even)),
    (
        "Sign",
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
    ("Sin", Some(f64::sin)),
    ("Cos", Some(f64::cos)),
    ("Erf", None),
    ("Softplus", None),
    ("Softsign", None),
    ("HardSwish", None),
    ("Mish", None),
    ("Not", None),
];

impl Unary {
    pub const IDENTITY: Unary = Unary("Identity");
}

impl Operator for Unary {
    fn parse(op_type: &str, _: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        FUNCTIONS.iter().find(|f| f.0 == op_type).map(|f| Unary(f.0))
    }

    fn op_type(&self) -> &'static str {
        self.0
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let ints = if self.0 == "Identity" { cx.ints(0) } else { None };
        Ok(vec![Fact { ty: cx.ty(0).cloned(), ints: None }.with_ints(ints)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let shape = x.shape();
        let y = match (self.0, x.dtype()) {
            ("Identity", _) => x.clone(),
            ("Not", DType::BOOL) => Tensor::from_ints(DType::BOOL, shape, x.ints()?.into_iter().map(|v| 1 - v)),
            ("Neg", d) if d.is_int() => Tensor::from_ints(d, shape, x.ints()?.into_iter().map(i64::wrapping_neg)),
            ("Abs", d) if d.is_int() => Tensor::from_ints(d, shape, x.ints()?.into_iter().map(i64::wrapping_abs)),
            (name, d) if d.is_float() => {
                let f = FUNCTIONS.iter().find(|f| f.0 == name)?.1?;
                Tensor::from_floats(d, shape, x.floats()?.into_iter().map(f))
            }
            _ => return None,
        };
        Some(vec![y])
    }
}
