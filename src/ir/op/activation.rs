//! Activation functions with parameters, and Clip. (ONNX Operators, each by its name.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::unary::{erf, sigmoid};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{self, Ties};

/// y = f(x; a, b), element by element.
#[derive(Debug, Clone, PartialEq)]
pub struct Activation {
    pub function: &'static str,
    /// In the order of the definition below; a parameter that the function does not have is 0.
    pub params: [f32; 2],
}

struct Definition {
    name: &'static str,
    since: i64,
    /// Name and default of each parameter.
    params: &'static [(&'static str, f32)],
    f: fn(f64, f64, f64) -> f64,
}

const FUNCTIONS: &[Definition] = &[
    Definition {
        name: "LeakyRelu",
        since: 1,
        params: &[("alpha", 0.01)],
        f: |x, alpha, _| if x < 0.0 { alpha * x } else { x },
    },
    Definition {
        name: "Elu",
        since: 1,
        params: &[("alpha", 1.0)],
        f: |x, alpha, _| if x < 0.0 { alpha * x.exp_m1() } else { x },
    },
    Definition {
        name: "Selu",
        since: 1,
        params: &[("alpha", 1.673_263_2), ("gamma", 1.050_701)],
        f: |x, alpha, gamma| gamma * if x <= 0.0 { alpha * x.exp_m1() } else { x },
    },
    Definition {
        name: "Celu",
        since: 12,
        params: &[("alpha", 1.0)],
        f: |x, alpha, _| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0),
    },
    Definition {
        name: "HardSigmoid",
        since: 1,
        params: &[("alpha", 0.2), ("beta", 0.5)],
        f: |x, alpha, beta| (alpha * x + beta).clamp(0.0, 1.0),
    },
    Definition {
        name: "ThresholdedRelu",
        since: 10,
        params: &[("alpha", 1.0)],
        f: |x, alpha, _| if x > alpha { x } else { 0.0 },
    },
    Definition {
        name: "Shrink",
        since: 9,
        params: &[("lambd", 0.5), ("bias", 0.0)],
        f: |x, lambd, bias| {
            if x < -lambd {
                x + bias
            } else if x > lambd {
                x - bias
            } else {
                0.0
            }
        },
    },
    Definition { name: "Swish", since: 24, params: &[("alpha", 1.0)], f: |x, alpha, _| x * sigmoid(alpha * x) },
];

impl Activation {
    fn definition(&self) -> Option<&'static Definition> {
        FUNCTIONS.iter().find(|d| d.name == self.function)
    }
}

impl Operator for Activation {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let d = FUNCTIONS.iter().find(|d| d.name == op_type && d.since <= opset)?;
        let mut params = [0.0; 2];
        for (value, (name, default)) in params.iter_mut().zip(d.params) {
            *value = attrs.float_or(name, *default);
        }
        Some(Activation { function: d.name, params })
    }

    fn op_type(&self) -> &'static str {
        self.function
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let known = self.definition().map_or(&[][..], |d| d.params);
        let mut out: Vec<_> = known
            .iter()
            .zip(self.params)
            .filter(|((_, default), value)| value != default)
            .map(|((name, _), value)| Attr::float(name, value))
            .collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact { ty: cx.ty(0).cloned(), ints: None }])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let (f, [a, b]) = (self.definition()?.f, self.params.map(f64::from));
        let y = x.iter_floats()?.map(|v| f(v, a, b));
        Some(vec![Tensor::from_floats(x.dtype(), x.shape(), y)])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        ties::elementwise(t);
        true
    }
}

/// x Φ(x), exactly or by the tanh formula. (ONNX Operators: Gelu, since 20.)
#[derive(Debug, Clone, PartialEq)]
pub struct Gelu {
    /// `approximate = "tanh"`.
    pub tanh: bool,
}

impl Operator for Gelu {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let tanh = match attrs.str("approximate").as_deref() {
            None | Some("none") => false,
            Some("tanh") => true,
            Some(_) => return None,
        };
        (opset >= 20).then_some(Gelu { tanh })
    }

    fn op_type(&self) -> &'static str {
        "Gelu"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if self.tanh { vec![Attr::str("approximate", "tanh")] } else { Vec::new() }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact { ty: cx.ty(0).cloned(), ints: None }])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let f = |v: f64| {
            let inner = if self.tanh {
                (std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 * (v + 0.044715 * v.powi(3))).tanh()
            } else {
                erf(v * std::f64::consts::FRAC_1_SQRT_2)
            };
            0.5 * v * (1.0 + inner)
        };
        Some(vec![Tensor::from_floats(x.dtype(), x.shape(), x.iter_floats()?.map(f))])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        ties::elementwise(t);
        true
    }
}

/// min(max(x, low), high). (ONNX Operators: Clip, since 6, 11, 12, 13.)
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Clip {
    /// The limits below opset 11; later they are inputs 1 and 2.
    pub min: Option<f32>,
    pub max: Option<f32>,
}

impl Operator for Clip {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        if opset >= 11 {
            return Some(Clip::default());
        }
        Some(Clip { min: attrs.float("min"), max: attrs.float("max") })
    }

    fn op_type(&self) -> &'static str {
        "Clip"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let max = self.max.map(|v| Attr::float("max", v));
        let min = self.min.map(|v| Attr::float("min", v));
        max.into_iter().chain(min).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact { ty: cx.ty(0).cloned(), ints: None }])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        (self.min.is_none() && self.max.is_none() && !cx.has(1) && !cx.has(2)).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = (*inputs.first()?)?;
        let limit = |slot: usize| inputs.get(slot).copied().flatten();
        if x.dtype().is_float() {
            let read = |slot, attr: Option<f32>| match limit(slot) {
                Some(t) => t.float_scalar().map(Some),
                None => Some(attr.map(f64::from)),
            };
            let (low, high) = (read(1, self.min)?, read(2, self.max)?);
            // A limit that is not given is, by the definition, the last finite number: runtimes do not agree on that.
            if x.iter_floats()?.chain(low).chain(high).any(f64::is_infinite) {
                return None;
            }
            let clip = clip(low, high);
            return Some(vec![Tensor::from_floats(x.dtype(), x.shape(), x.iter_floats()?.map(clip))]);
        }
        if !x.dtype().is_int() || self.min.is_some() || self.max.is_some() {
            return None;
        }
        let read = |slot| match limit(slot) {
            Some(t) => t.int_scalar().map(Some),
            None => Some(None),
        };
        let clip = clip(read(1)?, read(2)?);
        Some(vec![Tensor::from_ints(x.dtype(), x.shape(), x.ints()?.into_iter().map(clip))])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        ties::elementwise(t);
        true
    }
}

/// NaN stays NaN; where the limits cross, the upper one wins.
fn clip<T: PartialOrd + Copy>(low: Option<T>, high: Option<T>) -> impl Fn(T) -> T {
    move |x| {
        let x = low.filter(|&l| x < l).unwrap_or(x);
        high.filter(|&h| x > h).unwrap_or(x)
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ty};

    fn floats(opset: i64, body: &str) -> Vec<f64> {
        fold(opset, body).unwrap_or_else(|| panic!("{body}")).floats().unwrap()
    }

    #[test]
    fn functions() {
        let run = |op: &str| floats(24, &format!("const %x : f64[3] = {{-2.0,0.25,3.0}} %y : ? = {op}(%x)"));
        assert_eq!(run("LeakyRelu<alpha=0.5>"), [-1.0, 0.25, 3.0]);
        assert_eq!(run("HardSigmoid<alpha=0.5, beta=0.25>"), [0.0, 0.375, 1.0]);
        assert_eq!(run("ThresholdedRelu<alpha=0.25>"), [0.0, 0.0, 3.0]);
        assert_eq!(run("Shrink<lambd=1.0, bias=0.5>"), [-1.5, 0.0, 2.5]);
        let close = |a: Vec<f64>, b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(run("Elu"), [-0.8646647, 0.25, 3.0]));
        assert!(close(run("Celu<alpha=2.0>"), [-1.2642411, 0.25, 3.0]));
        assert!(close(run("Selu"), [-1.5201665, 0.2626753, 3.1521031]));
        assert!(close(run("Swish<alpha=2.0>"), [-0.0359724, 0.1556148, 2.9925821]));
        assert!(close(run("Gelu"), [-0.0455003, 0.1496766, 2.9959503]));
        assert!(close(run("Gelu<approximate=\"tanh\">"), [-0.0454023, 0.1496750, 2.9963627]));
    }

    #[test]
    fn limits() {
        let x = "const %x : f32[4] = {-9,1,9,NaN}";
        let below_11 = floats(10, &format!("{x} %y : ? = Clip<max=6.0, min=0.0>(%x)"));
        assert_eq!(below_11[..3], [0.0, 1.0, 6.0]);
        assert!(below_11[3].is_nan());
        let upper = floats(11, &format!("{x} const %h : f32[] = {{6}} %y : ? = Clip(%x, _, %h)"));
        assert_eq!(upper[..3], [-9.0, 1.0, 6.0]);
        let ints = "const %x : i8[2] = {-9,9} const %l : i8[] = {3} const %h : i8[] = {1} %y : ? = Clip(%x, %l, %h)";
        assert_eq!(fold(12, ints).unwrap().ints().unwrap(), [1, 1]);
        assert_eq!(ty(11, "input %x : f32[N] %y : ? = Clip<max=6.0>(%x)"), "opaque");
        assert_eq!(ty(10, "input %x : f32[N] %y : ? = Clip<max=6.0>(%x)"), "f32[N]");
    }
}
