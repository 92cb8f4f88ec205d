//! Pad. (ONNX Operators: Pad, since 2, 11, 13, 18, 19, 21, 23, 24, 25.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::pick::{self, AxisOffsets, input, pick, room};
use crate::ir::op::reshape::axes;
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::Ties;

/// Elements added before and after each axis; negative numbers take away.
#[derive(Debug, Clone, PartialEq)]
pub struct Pad {
    pub mode: PadMode,
    /// Begin of every axis, then end of every axis: an attribute before opset 11; from then on `None`, and input 1 has
    /// them (for the axes that input 3 lists, if it is there).
    pub pads: Option<Vec<i64>>,
    /// What is added in `PadMode::Constant`: an attribute before opset 11; from then on 0, and input 2 may have another.
    pub value: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PadMode {
    #[default]
    Constant,
    Reflect,
    Edge,
    /// Since opset 19.
    Wrap,
}

const MODES: [(PadMode, &str); 4] =
    [(PadMode::Constant, "constant"), (PadMode::Reflect, "reflect"), (PadMode::Edge, "edge"), (PadMode::Wrap, "wrap")];

/// Padding before and after each of `rank` axes, from the list of `axes` begins and ends.
fn by_axis<T: Clone>(pads: &[T], listed: Option<&[i64]>, rank: usize, none: T) -> Result<Vec<(T, T)>, String> {
    let all: Vec<i64> = (0..rank as i64).collect();
    let at = axes(listed.unwrap_or(&all), rank)?;
    if pads.len() != 2 * at.len() {
        return Err(format!("{} pads for {} axes", pads.len(), at.len()));
    }
    let mut out = vec![(none.clone(), none); rank];
    for (i, &a) in at.iter().enumerate() {
        out[a] = (pads[i].clone(), pads[at.len() + i].clone());
    }
    Ok(out)
}

impl Pad {
    /// Padding before and after each axis of input 0, where both are known.
    ///
    /// # Errors
    /// If the lists do not fit the input.
    pub fn amounts(&self, cx: &Infer<'_>, rank: usize) -> Result<Vec<Option<(i64, i64)>>, String> {
        let pads: Option<Vec<Option<i64>>> = match &self.pads {
            Some(pads) => Some(pads.iter().copied().map(Some).collect()),
            None => cx.numbers(1).map(|pads| pads.into_iter().map(Result::ok).collect()),
        };
        let listed = cx.known_ints(3);
        let Some(pads) = pads.filter(|_| listed.is_some() || !cx.has(3)) else { return Ok(vec![None; rank]) };
        let both = by_axis(&pads, listed.as_deref(), rank, Some(0))?;
        Ok(both.into_iter().map(|(begin, end)| begin.zip(end)).collect())
    }
}

impl Operator for Pad {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let mode = attrs.str("mode");
        let mode = MODES.iter().find(|m| m.1 == mode.as_deref().unwrap_or("constant"))?.0;
        if mode == PadMode::Wrap && opset < 19 {
            return None;
        }
        if opset >= 11 {
            return Some(Pad { mode, pads: None, value: 0.0 });
        }
        Some(Pad { mode, pads: Some(attrs.ints("pads")?), value: attrs.float_or("value", 0.0) })
    }

    fn op_type(&self) -> &'static str {
        "Pad"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let name = MODES.iter().find(|m| m.0 == self.mode && m.0 != PadMode::Constant).map(|m| Attr::str("mode", m.1));
        let value = (self.value != 0.0).then(|| Attr::float("value", self.value));
        name.into_iter().chain(self.pads.iter().map(|p| Attr::ints("pads", p))).chain(value).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(x) = cx.shape(0) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        let length = |(n, amount): (&Dim, Option<(i64, i64)>)| {
            let Some((begin, end)) = amount else { return Ok(Dim::Unknown) };
            let sum = begin.checked_add(end).ok_or("the padding does not fit into 64 bits")?;
            match n.known() {
                Some(n) => n.checked_add_signed(sum).map(Dim::Known).ok_or(format!("{n} padded by {begin} and {end}")),
                None => Ok(if sum == 0 { n.clone() } else { Dim::Unknown }),
            }
        };
        let y = x.0.iter().zip(self.amounts(cx, x.rank())?).map(length).collect::<Result<_, _>>()?;
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(y)))])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        let amounts = self.amounts(cx, cx.shape(0)?.rank()).ok()?;
        amounts.iter().all(|a| *a == Some((0, 0))).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let pads = self.pads.clone().or_else(|| input(inputs, 1)?.ints())?;
        let listed = match input(inputs, 3) {
            Some(t) => Some(t.ints()?),
            None => None,
        };
        let amounts = by_axis(&pads, listed.as_deref(), x.rank(), 0).ok()?;
        let fill = match input(inputs, 2) {
            Some(t) if t.dtype() == x.dtype() && t.len() == 1 => t.clone(),
            Some(_) => return None,
            None => number(x.dtype(), self.value)?,
        };
        let length = |(&n, &(b, e)): (&usize, &(i64, i64))| {
            usize::try_from(i64::try_from(n).ok()?.checked_add(b)?.checked_add(e)?).ok()
        };
        room(x.dtype(), &x.shape().iter().zip(&amounts).map(length).collect::<Option<Vec<_>>>()?)?;
        let padded = pick::axes(x)?.into_iter().zip(amounts).map(|(axis, (b, e))| self.pad(axis, b, e));
        Some(vec![pick(x, &padded.collect::<Option<Vec<_>>>()?, fill.bytes()?)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, Shape::rank);
        for (axis, amount) in self.amounts(t.cx(), rank).unwrap_or_default().into_iter().enumerate() {
            if amount == Some((0, 0)) {
                t.pass((0, axis), (0, axis));
            }
        }
        true
    }
}

impl Pad {
    fn pad(&self, axis: AxisOffsets, begin: i64, end: i64) -> Option<AxisOffsets> {
        let n = i64::try_from(axis.len()).ok()?;
        let (from, to) = (begin.checked_neg()?, n.checked_add(end)?);
        let inner = |i: i64| usize::try_from(i).ok().and_then(|i| axis.get(i).copied());
        if from == 0 && to == n {
            return Some(axis);
        }
        // What is cropped on one side and repeated on the other differs by runtime.
        let simple = begin >= 0 && end >= 0;
        let at = |i: i64| match self.mode {
            _ if begin <= 0 && end <= 0 => inner(i),
            PadMode::Constant => Some(inner(i).flatten()),
            PadMode::Edge if simple => inner(i.clamp(0, n.checked_sub(1)?.max(0))),
            PadMode::Reflect if simple && begin < n && end < n => {
                inner(if i < 0 { -i } else { i.min(2 * (n - 1) - i) })
            }
            PadMode::Wrap if simple => inner(i.rem_euclid(n.max(1))),
            _ => None,
        };
        (from..to).map(at).collect()
    }
}

/// One element of the value.
fn number(dtype: DType, value: f32) -> Option<Tensor> {
    if dtype.is_float() {
        return Some(Tensor::from_floats(dtype, [], [value as f64]));
    }
    Tensor::new(dtype, Vec::new(), vec![0; dtype.bytes()?].into()).filter(|_| value == 0.0)
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ty};

    #[test]
    fn lengths() {
        let pads = |p: &str| ty(11, &format!("input %x : f32[N,3,5] const %p : i64[6] = {{{p}}} %y : ? = Pad(%x, %p)"));
        assert_eq!(pads("0,1,2,0,1,-3"), "f32[N,5,4]");
        assert_eq!(pads("-1,0,0,1,0,0"), "f32[N,3,5]");
        assert_eq!(pads("1,0,0,0,0,0"), "f32[?,3,5]");
        assert_eq!(ty(10, "input %x : f32[N,3] %y : ? = Pad<pads=[0,1,0,1]>(%x)"), "f32[N,5]");
        assert_eq!(ty(11, "input %x : f32[N,3] %y : ? = Pad<pads=[0,1,0,1]>(%x)"), "opaque");
        assert_eq!(ty(11, "input %x : f32[N,3] input %p : i64[4] %y : ? = Pad(%x, %p)"), "f32[?,?]");
        let body = "input %x : f32[N,3] const %p : i64[2] = {1,1} const %a : i64[1] = {-1} %y : ? = Pad(%x, %p, _, %a)";
        assert_eq!(ty(18, body), "f32[N,5]");
    }

    #[test]
    fn modes() {
        let pad = |mode: &str, p: &str| {
            let body = "const %x : i16[4] = {1,2,3,4}";
            fold(19, &format!("{body} const %p : i64[2] = {{{p}}} %y : ? = Pad<mode=\"{mode}\">(%x, %p)"))
                .map(|t| t.ints().unwrap())
        };
        assert_eq!(pad("constant", "2,-1").unwrap(), [0, 0, 1, 2, 3]);
        assert_eq!(pad("edge", "2,1").unwrap(), [1, 1, 1, 2, 3, 4, 4]);
        assert_eq!(pad("reflect", "2,1").unwrap(), [3, 2, 1, 2, 3, 4, 3]);
        assert_eq!(pad("wrap", "2,1").unwrap(), [3, 4, 1, 2, 3, 4, 1]);
        assert_eq!(pad("edge", "5,6").unwrap(), [1, 1, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4]);
        assert_eq!(pad("wrap", "6,5").unwrap(), [3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]);
        assert_eq!(pad("reflect", "4,0"), None);
        assert_eq!(pad("edge", "-1,2"), None);
        for mode in ["constant", "edge", "reflect", "wrap"] {
            assert_eq!(pad(mode, "-1,-2").unwrap(), [2], "{mode}");
        }
        assert_eq!(pad("constant", "9223372036854775807,9223372036854775807"), None);
        assert_eq!(pad("constant", "-9223372036854775808,0"), None);
    }
}
