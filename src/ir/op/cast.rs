//! Cast and CastLike. (ONNX Operators: Cast, since 6, 9, 13, 19, 21, 23, 24, 25, 28; CastLike, since 15, 19, 21, 23, 24,
//! 25.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, MAX_EXACT};
use crate::ir::op::Operator;
use crate::ir::op::pick::{input, room};
use crate::ir::shape::{DType, Dim};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{self, Axis, Ties};

/// The elements in another type.
#[derive(Debug, Clone, PartialEq)]
pub struct Cast {
    pub to: DType,
    pub rounding: Rounding,
}

/// The elements of input 0 in the type of input 1.
#[derive(Debug, Clone, PartialEq)]
pub struct CastLike {
    pub rounding: Rounding,
}

/// How numbers become 8-bit floats; means nothing for any other type.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounding {
    /// Since opset 19.
    pub saturate: bool,
    /// Since opset 24; `None` for the default.
    pub mode: Option<String>,
}

impl Default for Rounding {
    fn default() -> Self {
        Rounding { saturate: true, mode: None }
    }
}

impl Rounding {
    fn parse(opset: i64, attrs: &mut AttrReader<'_>) -> Rounding {
        Rounding {
            saturate: opset < 19 || attrs.int_or("saturate", 1) != 0,
            mode: if opset < 24 { None } else { attrs.str("round_mode").filter(|m| m != "up") },
        }
    }

    fn attrs(&self) -> Vec<Attr> {
        let saturate = (!self.saturate).then(|| Attr::int("saturate", 0));
        self.mode.iter().map(|m| Attr::str("round_mode", m)).chain(saturate).collect()
    }
}

impl Cast {
    pub fn new(to: DType) -> Cast {
        Cast { to, rounding: Rounding::default() }
    }

    /// Whole numbers that the new type holds too.
    fn ints(&self, ints: Option<Vec<Dim>>) -> Option<Vec<Dim>> {
        let max = match self.to {
            DType::I64 => i64::MAX as u64,
            DType::I32 => i32::MAX as u64,
            DType::F32 | DType::F64 => MAX_EXACT as u64,
            _ => return None,
        };
        let fits = |d: Dim| if d.known().is_some_and(|n| n > max) { Dim::Unknown } else { d };
        Some(ints?.into_iter().map(fits).collect())
    }
}

/// Whether every number of one type is one of the other.
pub fn widens(from: DType, to: DType) -> bool {
    let unsigned = |d| matches!(d, DType::BOOL | DType::U8 | DType::U16 | DType::U32 | DType::U64);
    let whole = |d: DType| d.is_int() || d == DType::BOOL;
    // Integers below this many bits, and their sign, are numbers of the float type.
    let digits = |d| match d {
        DType::BF16 => 8,
        DType::F16 => 11,
        DType::F32 => 24,
        DType::F64 => 53,
        _ => 0,
    };
    let bits = |d: DType| if d == DType::BOOL { 1 } else { d.bits().unwrap_or(0) };
    match (whole(from), whole(to)) {
        (true, true) if unsigned(from) == unsigned(to) => bits(from) <= bits(to),
        (true, true) => unsigned(from) && bits(from) < bits(to),
        (true, false) => to.is_float() && bits(from) <= digits(to),
        (false, true) => false,
        (false, false) => {
            let into: &[DType] = match from {
                DType::F16 | DType::BF16 => &[DType::F32, DType::F64],
                DType::F32 => &[DType::F64],
                _ => &[],
            };
            from == to && from.is_float() || into.contains(&to)
        }
    }
}

/// Integers up to this size are exact in f64, so that rounding them further rounds once.
const EXACT: u64 = 1 << 53;

/// The elements in another type, where ONNX defines the result: integers wrap, floats lose their fraction. `None` for a
/// type that we do not compute with, and for floats beyond the range of an integer type.
pub fn convert(x: &Tensor, to: DType) -> Option<Tensor> {
    let from = x.dtype();
    let shape = x.shape();
    room(to, shape)?;
    let whole = |d: DType| d.is_int() || d == DType::BOOL;
    if from == to {
        return Some(x.clone());
    }
    if whole(from) {
        let ints = x.ints()?;
        return match to {
            _ if whole(to) => Some(Tensor::from_ints(to, shape, ints)),
            _ if to.is_float() && ints.iter().all(|v| v.unsigned_abs() <= EXACT) => {
                Some(Tensor::from_floats(to, shape, ints.into_iter().map(|v| v as f64)))
            }
            _ => None,
        };
    }
    let floats = x.iter_floats()?;
    if to.is_float() {
        return Some(Tensor::from_floats(to, shape, floats));
    }
    if to == DType::BOOL {
        return Some(Tensor::from_ints(to, shape, floats.map(|v| (v != 0.0) as i64)));
    }
    let bits = to.bits().filter(|_| to.is_int())? as i32;
    let unsigned = matches!(to, DType::U8 | DType::U16 | DType::U32 | DType::U64);
    let (low, high) =
        if unsigned { (0.0, 2f64.powi(bits.min(63))) } else { (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1)) };
    let number = |v: f64| (v.trunc() >= low && v.trunc() < high).then_some(v as i64);
    Some(Tensor::from_ints(to, shape, floats.map(number).collect::<Option<Vec<_>>>()?))
}

impl Operator for Cast {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let to = DType(i32::try_from(attrs.int("to")?).ok().filter(|&t| t > 0)?);
        Some(Cast { to, rounding: Rounding::parse(opset, attrs) })
    }

    fn op_type(&self) -> &'static str {
        "Cast"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = self.rounding.attrs();
        out.push(Attr::int("to", self.to.0.into()));
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact::tensor(Some(self.to), cx.shape(0).cloned()).with_ints(self.ints(cx.content(0)))])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        (cx.dtype(0)? == self.to).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        Some(vec![convert(input(inputs, 0)?, self.to)?])
    }

    fn moves(&self, _: &Infer<'_>, (_, position): Axis) -> Option<Vec<usize>> {
        Some(vec![position])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        ties::elementwise(t);
        true
    }
}

impl Operator for CastLike {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 15).then(|| CastLike { rounding: Rounding::parse(opset, attrs) })
    }

    fn op_type(&self) -> &'static str {
        "CastLike"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        self.rounding.attrs()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let ints = cx.dtype(1).and_then(|to| Cast::new(to).ints(cx.ints(0)));
        Ok(vec![Fact::tensor(cx.dtype(1), cx.shape(0).cloned()).with_ints(ints)])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        (cx.dtype(0)? == cx.dtype(1)?).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        Some(vec![convert(input(inputs, 0)?, input(inputs, 1)?.dtype())?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn casts_convert() {
        let to = |x: &str, to: DType| fold(13, &format!("const %x : {x} %y : ? = Cast<to={}>(%x)", to.0));
        let ints = |x: &str, d| to(x, d).unwrap().ints().unwrap();
        assert_eq!(ints("f32[3] = {-1.9,1.5,0}", DType::I64), [-1, 1, 0]);
        assert_eq!(ints("i64[2] = {200,-1}", DType::I8), [-56, -1]);
        assert_eq!(ints("f32[3] = {NaN,0.5,0}", DType::BOOL), [1, 1, 0]);
        assert_eq!(ints("f32[2] = {-0.5,255.5}", DType::U8), [0, 255]);
        assert_eq!(to("i64[2] = {-3,7}", DType::F16).unwrap().floats().unwrap(), [-3.0, 7.0]);
        for (x, d) in [("f32[1] = {NaN}", DType::I32), ("f32[1] = {256}", DType::U8), ("f32[1] = {1e30}", DType::U64)] {
            assert_eq!(to(x, d), None, "{x}");
        }
        assert_eq!(to("i64[1] = {9007199254740993}", DType::F32), None, "would round twice");
        assert_eq!(to("f32[1] = {1}", DType::STRING), None);
    }

    #[test]
    fn versions_and_knowledge() {
        assert_eq!(ty(18, "input %x : f32[N,3] %y : ? = Cast<saturate=0, to=17>(%x)"), "opaque");
        assert_eq!(ty(19, "input %x : f32[N,3] %y : ? = Cast<saturate=0, to=17>(%x)"), "f8e4m3fn[N,3]");
        assert_eq!(ty(15, "input %x : f32[N,3] input %l : i8[1] %y : ? = CastLike(%x, %l)"), "i8[N,3]");
        assert_eq!(ints(13, "input %x : f32[N,3] %s : ? = Shape(%x) %y : ? = Cast<to=6>(%s)").unwrap(), "[N,3]");
    }
}
