//! Elementwise functions of two or more tensors, broadcast. (ONNX Operators, each by its name.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, MAX_EXACT, broadcast};
use crate::ir::op::{Operator, Role, WeightInput, kernel};
use crate::ir::shape::{DType, Dim};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{self, Axis, Ties};

/// y = f(a, b), element by element; `Min`, `Max`, `Sum` and `Mean` take one or more inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Binary(pub BinaryKind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryKind {
    Add,
    Sub,
    Mul,
    Div,
    /// The base's type is the result's.
    Pow,
    /// The sign of the divisor (`fmod = 0`).
    Mod,
    /// The sign of the dividend (`fmod = 1`).
    Fmod,
    Min,
    Max,
    Sum,
    Mean,
    /// x, slope.
    PRelu,
    And,
    Or,
    Xor,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    ShiftLeft,
    ShiftRight,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
}

use BinaryKind::*;

/// ONNX name and the first opset that has it as we know it, by kind.
const NAMES: &[(&str, i64, BinaryKind)] = &[
    ("Add", 7, Add),
    ("Sub", 7, Sub),
    ("Mul", 7, Mul),
    ("Div", 7, Div),
    ("Pow", 7, Pow),
    ("Mod", 10, Mod),
    ("Mod", 10, Fmod),
    ("Min", 6, Min),
    ("Max", 6, Max),
    ("Sum", 6, Sum),
    ("Mean", 6, Mean),
    ("PRelu", 7, PRelu),
    ("And", 7, And),
    ("Or", 7, Or),
    ("Xor", 7, Xor),
    ("Equal", 7, Equal),
    ("Less", 7, Less),
    ("LessOrEqual", 12, LessOrEqual),
    ("Greater", 7, Greater),
    ("GreaterOrEqual", 12, GreaterOrEqual),
    ("BitShift", 11, ShiftLeft),
    ("BitShift", 11, ShiftRight),
    ("BitwiseAnd", 18, BitwiseAnd),
    ("BitwiseOr", 18, BitwiseOr),
    ("BitwiseXor", 18, BitwiseXor),
];

impl BinaryKind {
    /// Whether the result is bool whatever the inputs are.
    pub fn compares(self) -> bool {
        matches!(self, Equal | Less | LessOrEqual | Greater | GreaterOrEqual)
    }

    fn variadic(self) -> bool {
        matches!(self, Min | Max | Sum | Mean)
    }

    /// On reals; `Mean` adds here and divides later.
    fn real(self) -> Option<fn(f64, f64) -> f64> {
        Some(match self {
            Add | Sum | Mean => |a, b| a + b,
            Sub => |a, b| a - b,
            Mul => |a, b| a * b,
            Div => |a, b| a / b,
            Pow => f64::powf,
            Fmod => |a, b| a % b,
            Min => |a, b| if b < a || b.is_nan() { b } else { a },
            Max => |a, b| if b > a || b.is_nan() { b } else { a },
            PRelu => |x, slope| if x < 0.0 { slope * x } else { x },
            _ => return None,
        })
    }

    /// On integers, before they wrap to the result's width; `None` where the result is not defined.
    fn integer(self, a: i64, b: i64) -> Option<i64> {
        Some(match self {
            Add | Sum => a.wrapping_add(b),
            Sub => a.wrapping_sub(b),
            Mul => a.wrapping_mul(b),
            Div => a.checked_div(b)?,
            Pow => a.checked_pow(u32::try_from(b).ok()?)?,
            Fmod => a.checked_rem(b)?,
            Mod => match a.checked_rem(b)? {
                r if r != 0 && (r < 0) != (b < 0) => r + b,
                r => r,
            },
            Min => a.min(b),
            Max => a.max(b),
            PRelu => {
                if a < 0 {
                    a.wrapping_mul(b)
                } else {
                    a
                }
            }
            And | BitwiseAnd => a & b,
            Or | BitwiseOr => a | b,
            Xor | BitwiseXor => a ^ b,
            ShiftLeft | ShiftRight if b < 0 => return None,
            ShiftLeft => u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0),
            ShiftRight => a >> b.min(63),
            _ => return None,
        })
    }

    fn holds<T: PartialOrd>(self, a: T, b: T) -> Option<bool> {
        Some(match self {
            Equal => a == b,
            Less => a < b,
            LessOrEqual => a <= b,
            Greater => a > b,
            GreaterOrEqual => a >= b,
            _ => return None,
        })
    }
}

impl Operator for Binary {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let kind = match op_type {
            "Mod" if attrs.flag("fmod") => Fmod,
            "BitShift" => match attrs.str("direction")?.as_str() {
                "LEFT" => ShiftLeft,
                "RIGHT" => ShiftRight,
                _ => return None,
            },
            _ => NAMES.iter().find(|n| n.0 == op_type)?.2,
        };
        NAMES.iter().any(|n| n.2 == kind && n.1 <= opset).then_some(Binary(kind))
    }

    fn op_type(&self) -> &'static str {
        NAMES.iter().find(|n| n.2 == self.0).map_or("", |n| n.0)
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        match self.0 {
            Fmod => vec![Attr::int("fmod", 1)],
            ShiftLeft => vec![Attr::str("direction", "LEFT")],
            ShiftRight => vec![Attr::str("direction", "RIGHT")],
            _ => Vec::new(),
        }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let dtype = if self.0.compares() { Some(DType::BOOL) } else { cx.dtype(0) };
        let mut shape = cx.shape(0).cloned();
        for slot in 1..cx.n_inputs() {
            shape = match (shape, cx.shape(slot)) {
                (Some(a), Some(b)) => Some(broadcast(&a, b)?),
                _ => None,
            };
        }
        if self.0 == PRelu {
            shape = cx.shape(0).cloned();
        }
        let ints = if shape.as_ref().is_some_and(|s| s.rank() <= 1) { self.shape_arithmetic(cx) } else { None };
        Ok(vec![Fact::tensor(dtype, shape).with_ints(ints)])
    }

    /// What is added is a weight if it is a matrix or more, no vector.
    fn weights(&self, cx: &Infer<'_>) -> Vec<WeightInput> {
        if self.0 != Add {
            return Vec::new();
        }
        let wide = |slot: usize| {
            let mut wide = cx.shape(slot)?.0.iter().enumerate().filter(|d| *d.1 != Dim::Known(1)).map(|d| d.0);
            wide.next().filter(|_| wide.next().is_some())
        };
        let constant = |slot: &usize| cx.constant(*slot).is_some_and(|t| t.dtype().is_float());
        let (weights, data): (Vec<usize>, Vec<usize>) = (0..cx.n_inputs()).partition(constant);
        if data.is_empty() {
            return Vec::new();
        }
        let added = |slot: usize| {
            let outputs = wide(slot)?;
            Some(WeightInput { slot, role: Role::Added, outputs, inputs: None, bias: None })
        };
        weights.into_iter().filter_map(added).collect()
    }

    /// One input alone, or a neutral number that does not make the shape larger.
    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        if cx.n_inputs() == 1 {
            return matches!(self.0, Min | Max | Sum | Mean).then_some(0);
        }
        let neutral = |slot| {
            let value = match (self.0, slot) {
                (Add | Sum, _) | (Sub, 1) => 0.0,
                (Mul, _) | (Div | Pow, 1) => 1.0,
                _ => return false,
            };
            let is = |v: f64| v == value;
            let all = |c: &Tensor| match c.iter_floats() {
                Some(mut values) => values.all(is),
                None => c.ints().is_some_and(|v| v.into_iter().all(|v| is(v as f64))),
            };
            cx.constant(slot).is_some_and(all)
        };
        let keeps = |slot| {
            let (Some(x), Some(c)) = (cx.shape(slot), cx.shape(1 - slot)) else { return false };
            c.rank() <= x.rank() && c.0.iter().rev().zip(x.0.iter().rev()).all(|(c, x)| *c == Dim::Known(1) || c == x)
        };
        [0, 1].into_iter().find(|&slot| cx.n_inputs() == 2 && neutral(1 - slot) && keeps(slot))
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let inputs: Vec<&Tensor> = inputs.iter().copied().collect::<Option<_>>()?;
        let (first, rest) = inputs.split_first()?;
        if !(rest.len() == 1 || self.0.variadic()) {
            return None;
        }
        let mut y = (*first).clone();
        for b in rest {
            y = self.pair(&y, b)?;
        }
        if self.0 == Mean {
            let n = inputs.len() as f64;
            let mean = Tensor::from_floats(y.dtype(), y.shape(), y.iter_floats()?.map(|v| v / n));
            y = mean;
        }
        Some(vec![y])
    }

    fn moves(&self, cx: &Infer<'_>, (slot, position): Axis) -> Option<Vec<usize>> {
        let len = |slot: usize| match &cx.shape(slot)?.0[..] {
            [] => Some(1),
            [n] => usize::try_from(n.known()?).ok(),
            _ => None,
        };
        let n = (0..cx.n_inputs()).map(len).try_fold(1, |n, len| Some(len?.max(n)))?;
        Some(if len(slot)? == 1 { (0..n).collect() } else { vec![position] })
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let inputs = t.cx().n_inputs();
        ties::broadcast(t, 0..inputs);
        true
    }
}

/// A number of a shape tensor, or what else is known of it.
type Number = Result<i64, Dim>;

impl Binary {
    fn pair(&self, a: &Tensor, b: &Tensor) -> Option<Tensor> {
        let kind = self.0;
        let d = if kind.compares() { DType::BOOL } else { a.dtype() };
        if a.dtype() != b.dtype() && kind != Pow {
            return None;
        }
        let shape = kernel::broadcast([a.shape(), b.shape()])?;
        kernel::fits(d, &shape)?;
        if a.dtype().is_float() {
            // One number after the other: each of the three may be most of the model.
            let pairs = kernel::spread(a, &shape)?.zip(kernel::spread(b, &shape)?);
            if kind.compares() {
                let held = pairs.map(|(p, q)| kind.holds(p, q).map(i64::from)).collect::<Option<Vec<_>>>()?;
                return Some(Tensor::from_ints(d, shape, held));
            }
            let f = kind.real()?;
            return Some(Tensor::from_floats(d, shape, pairs.map(|(p, q)| f(p, q))));
        }
        let logical = matches!(kind, And | Or | Xor);
        if !(a.dtype().is_int() && !logical || a.dtype() == DType::BOOL && (logical || kind == Equal)) {
            return None;
        }
        let (x, y) = (a.ints()?, b.ints()?);
        let (x, y) = ((&x[..], a.shape()), (&y[..], b.shape()));
        let f = |p: i64, q: i64| if kind.compares() { kind.holds(p, q).map(i64::from) } else { kind.integer(p, q) };
        let y = kernel::zip(x, y, &shape, f)?.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Tensor::from_ints(d, shape, y))
    }

    /// What is known of the content of a small integer result: numbers from numbers, symbols through x + 0 and the like.
    fn shape_arithmetic(&self, cx: &Infer<'_>) -> Option<Vec<Dim>> {
        let dtype = cx.dtype(0)?;
        let known = match self.0 {
            Add | Sub | Mul | Div | Mod | Min | Max | Equal => dtype.is_int(),
            _ => false,
        };
        // Sizes that become scales.
        let scales = matches!(self.0, Mul | Div) && matches!(dtype, DType::F32 | DType::F64);
        if !(known || scales) || cx.n_inputs() != 2 {
            return None;
        }
        let (a, b) = (cx.numbers(0)?, cx.numbers(1)?);
        let n = if a.len() == 1 { b.len() } else { a.len() };
        let at = |v: &[Number], i: usize| v.get(if v.len() == 1 { 0 } else { i }).cloned();
        (0..n).map(|i| Some(self.shape_number(at(&a, i)?, at(&b, i)?, scales))).collect()
    }

    fn shape_number(&self, a: Number, b: Number, scales: bool) -> Dim {
        let dim = |n: Number| n.map_or_else(|d| d, |n| u64::try_from(n).map_or(Dim::Unknown, Dim::Known));
        match (self.0, a, b) {
            (Mul, a, b) if scales => {
                let small = |d: &Dim| d.known().is_none_or(|n| n as f64 <= MAX_EXACT);
                Some(dim(a).times(&dim(b))).filter(small).unwrap_or(Dim::Unknown)
            }
            (Div, a, b) if scales => dim(a).over(&dim(b)),
            (kind, Ok(a), Ok(b)) => {
                let exact = match kind {
                    Add => a.checked_add(b),
                    Sub => a.checked_sub(b),
                    Mul => a.checked_mul(b),
                    Equal => Some(i64::from(a == b)),
                    _ => kind.integer(a, b),
                };
                exact.and_then(|n| u64::try_from(n).ok()).map_or(Dim::Unknown, Dim::Known)
            }
            (Mul, Ok(0), _) | (Mul, _, Ok(0)) => Dim::Known(0),
            (Add | Sub, Err(d), Ok(0)) | (Mul | Div, Err(d), Ok(1)) => d,
            (Add, Ok(0), Err(d)) | (Mul, Ok(1), Err(d)) => d,
            (Sub, Err(a), Err(b)) if a == b && a.is_same() => Dim::Known(0),
            (Min | Max, Err(a), Err(b)) if a == b => a,
            // No dim is negative.
            (Equal, Err(d), Ok(n)) | (Equal, Ok(n), Err(d)) if n < 0 && d.is_same() => Dim::Known(0),
            (Equal, Err(a), Err(b)) if a == b && a.is_same() => Dim::Known(1),
            (Mul, a, b) => dim(a).times(&dim(b)),
            (Div, a, b) => dim(a).over(&dim(b)),
            _ => Dim::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn types() {
        let y = |op: &str| ty(18, &format!("input %a : f32[N,1,3] input %b : f32[2,1] %y : ? = {op}(%a, %b)"));
        assert_eq!(y("Add"), "f32[N,2,3]");
        assert_eq!(y("Less"), "bool[N,2,3]");
        assert_eq!(y("Max"), "f32[N,2,3]");
        assert_eq!(y("BitShift"), "opaque");
        assert_eq!(ty(7, "input %a : f32[N,4] input %b : f32[4] %y : ? = PRelu(%a, %b)"), "f32[N,4]");
        assert_eq!(ty(7, "input %a : f32[N,4] input %b : f32[M,4] %y : ? = Mul(%a, %b)"), "f32[?,4]");
        assert_eq!(ty(7, "input %a : f32[*] input %b : f32[4] %y : ? = Mul(%a, %b)"), "f32[*]");
        assert_eq!(ty(12, "input %a : f32[2] input %b : i64[] %y : ? = Pow(%a, %b)"), "f32[2]");
        assert_eq!(
            ty(8, "input %a : f32[2] input %b : f32[1] input %c : f32[3,1] %y : ? = Sum(%a, %b, %c)"),
            "f32[3,2]"
        );
    }

    #[test]
    fn no_dim_is_negative() {
        let given = "input %x : f32[N,6] const %m : i64[2] = {-1,-1} const %o : i64[2] = {1,1} %s : ? = Shape(%x)";
        let chosen = "%e : ? = Equal(%s, %m) %y : ? = Where(%e, %o, %s)";
        assert_eq!(ints(13, &format!("{given} {chosen}")).unwrap(), "[N,6]");
    }

    #[test]
    fn shape_arithmetic() {
        let y = |op: &str, b: &str| {
            let body = "input %x : f32[N,6] %s : ? = Shape(%x)";
            ints(13, &format!("{body} const %b : i64[{}] = {{{b}}} %y : ? = {op}(%s, %b)", b.split(',').count()))
        };
        assert_eq!(y("Mul", "1,4").unwrap(), "[N,24]");
        assert_eq!(y("Mul", "2,4").unwrap(), "[?,24]");
        assert_eq!(y("Add", "0").unwrap(), "[N,6]");
        assert_eq!(y("Sub", "0,-3").unwrap(), "[N,9]");
        assert_eq!(y("Div", "1,4").unwrap(), "[N,1]");
        assert_eq!(y("Add", "1,-7"), None);
        assert_eq!(y("Div", "0,0"), None);
        assert_eq!(y("Min", "4").unwrap(), "[?,4]");
        assert_eq!(y("Mod", "4").unwrap(), "[?,2]");
        assert_eq!(y("Mul", "0,9223372036854775807").unwrap(), "[0,?]");
        assert_eq!(y("Add", "1,2,3"), None, "shapes that do not broadcast");
        let twice = |op| ints(13, &format!("input %x : f32[N,6] %s : ? = Shape(%x) %y : ? = {op}(%s, %s)")).unwrap();
        assert_eq!(twice("Sub"), "[0,0]");
        assert_eq!(twice("Max"), "[N,6]");
        assert_eq!(twice("Add"), "[?,12]");
    }

    fn run(op: &str, dtype: &str, a: &str, b: &str) -> Option<Vec<i64>> {
        let tensor = |name, v: &str| format!("const %{name} : {dtype}[{}] = {{{v}}}", v.split(',').count());
        fold(18, &format!("{} {} %y : ? = {op}(%a, %b)", tensor("a", a), tensor("b", b)))?.ints()
    }

    #[test]
    fn integers() {
        assert_eq!(run("Add", "i8", "127,-128", "1,-1").unwrap(), [-128, 127]);
        assert_eq!(run("Sub", "u32", "1,2", "2").unwrap(), [4294967295, 0]);
        assert_eq!(run("Div", "i32", "-7,7", "2,-2").unwrap(), [-3, -3]);
        assert_eq!(run("Mod", "i32", "-7,7", "3,-3").unwrap(), [2, -2]);
        assert_eq!(run("Mod<fmod=1>", "i32", "-7,7", "3,-3").unwrap(), [-1, 1]);
        assert_eq!(run("Pow", "i64", "-3,2", "3,62").unwrap(), [-27, 1 << 62]);
        assert_eq!(run("PRelu", "i32", "-3,4", "2").unwrap(), [-6, 4]);
        assert_eq!(run("BitShift<direction=\"LEFT\">", "u8", "3,129,1", "1,1,200").unwrap(), [6, 2, 0]);
        assert_eq!(run("BitShift<direction=\"RIGHT\">", "u16", "65535,8", "15,64").unwrap(), [1, 0]);
        assert_eq!(run("BitwiseXor", "i16", "-1", "255").unwrap(), [-256]);
        assert_eq!(run("GreaterOrEqual", "i64", "1,2,3", "2").unwrap(), [0, 1, 1]);
        assert_eq!(run("Xor", "bool", "0,1", "1").unwrap(), [1, 0]);
        assert_eq!(run("Div", "i64", "1", "0"), None);
        assert_eq!(run("Div", "i64", "-9223372036854775808", "-1"), None);
        assert_eq!(run("Pow", "i64", "2", "63"), None);
        assert_eq!(run("Mean", "i32", "1", "2"), None);
        assert_eq!(run("Add", "bool", "1", "1"), None);
    }

    #[test]
    fn reals() {
        let run = |op: &str| {
            let body = "const %a : f32[2,1] = {-5.5,3} const %b : f32[3] = {2,-2,0.5}";
            fold(18, &format!("{body} %y : ? = {op}(%a, %b)")).map(|t| (t.shape().to_vec(), t.floats().unwrap()))
        };
        assert_eq!(run("Add").unwrap(), (vec![2, 3], vec![-3.5, -7.5, -5.0, 5.0, 1.0, 3.5]));
        assert_eq!(run("Mod<fmod=1>").unwrap().1, [-1.5, -1.5, -0.0, 1.0, 1.0, 0.0]);
        assert_eq!(run("Mean").unwrap().1[0], -1.75);
        assert_eq!(run("PRelu").unwrap().1, [-11.0, 11.0, -2.75, 3.0, 3.0, 3.0]);
        assert!(run("Mod").is_none());
        let nan = fold(13, "const %a : f32[1] = {NaN} const %b : f32[1] = {1} %y : ? = Min(%a, %b)").unwrap();
        assert!(nan.float_scalar().unwrap().is_nan());
    }

    #[test]
    fn results_have_a_limit() {
        let body = "const %a : f32[65536,1] const %b : f32[65536] %y : ? = Add(%a, %b)";
        assert!(fold(13, body).is_none());
    }
}
