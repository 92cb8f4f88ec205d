//! Concat and Split. (ONNX Operators: Concat, since 4, 11, 13; Split, since 2, 11, 13, 18.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;
use crate::ir::op::pick::{self, input, pick, room};
use crate::ir::shape::{Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Axis, Change, Kept, Ties};

/// The inputs one after the other along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Concat {
    pub axis: i64,
}

/// Sum of two dims, as far as one dim can say it.
fn sum(a: Dim, b: Dim) -> Dim {
    match (a, b) {
        (Dim::Known(0), d) | (d, Dim::Known(0)) => d,
        (Dim::Known(a), Dim::Known(b)) => a.checked_add(b).map_or(Dim::Unknown, Dim::Known),
        _ => Dim::Unknown,
    }
}

impl Concat {
    fn shape<'a>(&self, inputs: impl Iterator<Item = Option<&'a Shape>> + Clone) -> Result<Option<Shape>, String> {
        let Some(first) = inputs.clone().flatten().next() else { return Ok(None) };
        let at = axis(self.axis, first.rank())?;
        let mut shape = first.clone();
        shape.0[at] = Dim::Known(0);
        for x in inputs {
            let length = match x {
                Some(x) if x.rank() != shape.rank() => {
                    return Err(format!("the inputs {first} and {x} differ in rank"));
                }
                Some(x) => {
                    for (i, (d, e)) in shape.0.iter_mut().zip(&x.0).enumerate().filter(|(i, _)| *i != at) {
                        if !d.agrees(e) {
                            return Err(format!("the inputs {first} and {x} differ at axis {i}"));
                        }
                        *d = d.refine(e);
                    }
                    x.0[at].clone()
                }
                None => Dim::Unknown,
            };
            shape.0[at] = sum(shape.0[at].clone(), length);
        }
        Ok(Some(shape))
    }

    /// What is known of the elements of vectors, one after the other.
    fn ints(cx: &Infer<'_>) -> Option<Vec<Dim>> {
        let mut out = Vec::new();
        for slot in 0..cx.n_inputs() {
            match (cx.ints(slot), &cx.shape(slot)?.0[..]) {
                (Some(ints), [_]) => out.extend(ints),
                (None, [Dim::Known(n @ 0..=64)]) => out.extend(vec![Dim::Unknown; *n as usize]),
                _ => return None,
            }
        }
        Some(out)
    }
}

impl Operator for Concat {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let axis = attrs.int("axis")?;
        (axis >= 0 || opset >= 11).then_some(Concat { axis })
    }

    fn op_type(&self) -> &'static str {
        "Concat"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        vec![Attr::int("axis", self.axis)]
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let dtype = (0..cx.n_inputs()).find_map(|i| cx.dtype(i));
        let shape = self.shape((0..cx.n_inputs()).map(|i| cx.shape(i)))?;
        Ok(vec![Fact::tensor(dtype, shape).with_ints(Concat::ints(cx))])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        (cx.n_inputs() == 1).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let inputs = inputs.iter().copied().collect::<Option<Vec<_>>>()?;
        let first = *inputs.first()?;
        if inputs.iter().any(|x| x.dtype() != first.dtype()) {
            return None;
        }
        let types: Vec<_> = inputs.iter().map(|t| t.ty()).collect();
        let shape = self.shape(types.iter().map(|t| t.shape())).ok()??.dims()?;
        let shape: Vec<usize> = shape.into_iter().map(|d| d as usize).collect();
        let at = axis(self.axis, first.rank()).ok()?;
        let mut out = Vec::with_capacity(room(first.dtype(), &shape)?);
        let rows: usize = shape[..at].iter().product();
        for row in 0..rows {
            for x in &inputs {
                let step = x.byte_len() / rows;
                x.copy(row * step..(row + 1) * step, &mut out)?;
            }
        }
        Some(vec![Tensor::new(first.dtype(), shape, out.into())?])
    }

    fn moves(&self, cx: &Infer<'_>, (slot, position): Axis) -> Option<Vec<usize>> {
        let before = (0..slot).map(|slot| match cx.shape(slot)?.0[..] {
            [Dim::Known(n)] => usize::try_from(n).ok(),
            _ => None,
        });
        Some(vec![before.sum::<Option<usize>>()?.checked_add(position)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let (inputs, rank) = (t.cx().n_inputs(), t.out_shape(0).map_or(0, |s| s.rank()));
        let Ok(at) = axis(self.axis, rank) else { return true };
        for a in 0..rank {
            if a == at {
                t.concat(&(0..inputs).map(|i| (i, a)).collect::<Vec<_>>(), (0, a));
            } else {
                (0..inputs).for_each(|i| t.pass((i, a), (0, a)));
            }
        }
        true
    }
}

/// The input cut into pieces along an axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Split {
    pub axis: i64,
    /// Size of each piece: an attribute before opset 13; from then on `None`, and input 1 has them, if anything.
    pub sizes: Option<Vec<i64>>,
    /// Number of pieces of equal size, but for the last; from opset 18 on.
    pub count: Option<i64>,
}

impl Split {
    /// Sizes of the pieces: those that are given, else `count` equal ones.
    ///
    /// # Errors
    /// If they do not make up the axis.
    pub fn pieces(length: &Dim, given: Option<&[i64]>, count: usize) -> Result<Vec<Dim>, String> {
        if let Some(given) = given {
            let sizes = given.iter().map(|&s| u64::try_from(s)).collect::<Result<Vec<_>, _>>();
            let total = sizes.as_ref().ok().and_then(|s| s.iter().try_fold(0u64, |n, &s| n.checked_add(s)));
            return match (sizes, total) {
                (Ok(sizes), Some(n)) if length.agrees(&Dim::Known(n)) => {
                    Ok(sizes.into_iter().map(Dim::Known).collect())
                }
                _ => Err(format!("the pieces {given:?} do not make up {length}")),
            };
        }
        Ok(match length.known() {
            Some(n) if count > 0 => {
                let size = n.div_ceil(count as u64);
                let from = |i: usize| (i as u64).saturating_mul(size).min(n);
                (0..count).map(|i| Dim::Known(from(i + 1) - from(i))).collect()
            }
            None if count == 1 => vec![length.clone()],
            _ => vec![Dim::Unknown; count],
        })
    }
}

impl Operator for Split {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let split = Split {
            axis: attrs.int_or("axis", 0),
            sizes: if opset < 13 { attrs.ints("split") } else { None },
            count: if opset < 18 { None } else { attrs.int("num_outputs") },
        };
        (split.count.is_none_or(|n| n > 0) && (split.axis >= 0 || opset >= 11)).then_some(split)
    }

    fn op_type(&self) -> &'static str {
        "Split"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = Vec::new();
        if self.axis != 0 {
            out.push(Attr::int("axis", self.axis));
        }
        out.extend(self.count.map(|n| Attr::int("num_outputs", n)));
        out.extend(self.sizes.iter().map(|s| Attr::ints("split", s)));
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let count = cx.n_outputs();
        if let Some(n) = self.count.filter(|&n| usize::try_from(n) != Ok(count)) {
            return Err(format!("num_outputs is {n} for {count} outputs"));
        }
        let Some(x) = cx.shape(0) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None); count]);
        };
        let at = axis(self.axis, x.rank())?;
        let given = self.sizes.clone().or_else(|| cx.known_ints(1));
        let pieces = match &given {
            None if cx.has(1) => vec![Dim::Unknown; count],
            _ => Split::pieces(&x.0[at], given.as_deref(), count)?,
        };
        if pieces.len() != count {
            return Err(format!("{} pieces for {count} outputs", pieces.len()));
        }
        let equal = given.is_none() && !cx.has(1) && cx.opset() < 18;
        if let Some(n) = x.0[at].known().filter(|n| equal && n % count.max(1) as u64 > 0) {
            return Err(format!("{n} does not divide into {count} equal pieces"));
        }
        let mut ints = cx.ints(0).filter(|_| x.rank() == 1).map(Vec::into_iter);
        let fact = |piece: Dim| {
            let mut shape = x.clone();
            shape.0[at] = piece.clone();
            let part = piece.known().and_then(|n| Some(ints.as_mut()?.by_ref().take(n as usize).collect()));
            Fact::tensor(cx.dtype(0), Some(shape)).with_ints(part)
        };
        Ok(pieces.into_iter().map(fact).collect())
    }

    /// Pieces of equal size only where their number is an attribute.
    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let at = axis(self.axis, x.rank()).ok()?;
        let given = match (&self.sizes, input(inputs, 1)) {
            (Some(sizes), _) => Some(sizes.clone()),
            (None, Some(t)) => Some(t.ints()?),
            (None, None) => None,
        };
        let count = match given {
            Some(_) => 0,
            None => usize::try_from(self.count?).ok().filter(|&n| n <= 1 << 16)?,
        };
        let mut axes = pick::axes(x)?;
        let mut rest = std::mem::take(&mut axes[at]).into_iter();
        let pieces = Split::pieces(&Dim::Known(x.shape()[at] as u64), given.as_deref(), count).ok()?;
        let piece = |size: Dim| {
            axes[at] = rest.by_ref().take(size.known()? as usize).collect();
            pick(x, &axes, &[])
        };
        pieces.into_iter().map(piece).collect()
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, |s| s.rank());
        let Ok(at) = axis(self.axis, rank) else { return true };
        if t.cx().has(1) && t.cx().constant(1).is_none() {
            t.freeze((0, at), "computes the sizes of its pieces at run time");
        }
        let mut from = 0usize;
        for output in 0..t.cx().n_outputs() {
            (0..rank).filter(|&a| a != at).for_each(|a| t.pass((0, a), (output, a)));
            let size = t.out_shape(output).and_then(|s| usize::try_from(s.0.get(at)?.known()?).ok());
            let Some(end) = size.and_then(|n| from.checked_add(n)) else {
                t.freeze((0, at), "makes pieces of unknown size");
                return true;
            };
            t.select((0, at), (output, at), &|i| from + i);
            from = end;
        }
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let at = axis(self.axis, kept.cx().shape(0)?.rank()).ok()?;
        if kept.input((0, at)).is_none() {
            return Some(Vec::new());
        }
        let count = kept.cx().n_outputs();
        let sizes: Option<Vec<i64>> = (0..count).map(|o| kept.stay((o, at)).map(|p| p.len() as i64)).collect();
        let sizes = sizes?;
        let equal = self.sizes.is_none() && !kept.cx().has(1) && sizes.iter().all(|&s| s == sizes[0]);
        Some(match kept.cx().opset() {
            _ if equal => Vec::new(),
            ..13 => vec![Change::Op(Split { sizes: Some(sizes), ..self.clone() }.into())],
            _ => vec![
                Change::Op(Split { count: None, ..self.clone() }.into()),
                Change::Constant(1, Tensor::i64([count], &sizes)),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn concat_adds_lengths() {
        assert_eq!(ty(13, "input %a : f32[N,3,?] input %b : f32[?,5,7] %y : ? = Concat<axis=1>(%a, %b)"), "f32[N,8,7]");
        assert_eq!(ty(13, "input %a : f32[N,3] input %b : f32[M,3] %y : ? = Concat<axis=-2>(%a, %b)"), "f32[?,3]");
        assert_eq!(ty(13, "input %a : f32[N,3] input %b : f32[*] %y : ? = Concat<axis=1>(%a, %b)"), "f32[N,?]");
        let body = "input %x : f32[N,3] input %i : i64[1] const %c : i64[2] = {4,-1} %s : ? = Shape(%x) \
            %y : ? = Concat<axis=0>(%s, %i, %c)";
        assert_eq!(ints(13, body).unwrap(), "[N,3,?,4,?]");
        let y = fold(13, "const %a : u8[2,1] = {1,2} const %b : u8[2,2] = {3,4,5,6} %y : ? = Concat<axis=1>(%a, %b)");
        assert_eq!(y.unwrap().ints().unwrap(), [1, 3, 4, 2, 5, 6]);
        let y = fold(13, "const %a : u8[0,1] = {} const %b : u8[0,2] = {} %y : ? = Concat<axis=1>(%a, %b)");
        assert_eq!(y.unwrap().shape(), [0, 3]);
    }

    #[test]
    fn split_cuts() {
        assert_eq!(ty(11, "input %x : f32[N,6] %a : ?, %y : ? = Split<axis=1, split=[2,4]>(%x)"), "f32[N,4]");
        assert_eq!(ty(13, "input %x : f32[N,6] %a : ?, %y : ? = Split<axis=1>(%x)"), "f32[N,3]");
        assert_eq!(ty(13, "input %x : f32[N,6] input %s : i64[2] %a : ?, %y : ? = Split<axis=1>(%x, %s)"), "f32[N,?]");
        let body = "input %x : f32[7] %a : ?, %b : ?, %c : ?, %y : ? = Split<num_outputs=4>(%x)";
        assert_eq!(ty(18, body), "f32[1]");
        let body = "const %x : i32[3,2] = {1,2,3,4,5,6} const %s : i64[2] = {1,2} %a : ?, %y : ? = Split(%x, %s)";
        assert_eq!(fold(13, body).unwrap().ints().unwrap(), [3, 4, 5, 6]);
        assert_eq!(ty(13, "input %x : f32[N,6] %y : ? = Split<split=[6]>(%x)"), "opaque");
        assert!(Split::pieces(&Dim::Known(3), Some(&[i64::MAX, i64::MAX, i64::MAX]), 3).is_err());
        assert!(Split::pieces(&Dim::Known(3), Some(&[-1, 4]), 2).is_err());
        assert_eq!(Split::pieces(&Dim::Known(3), None, 5).unwrap()[3], Dim::Known(0));
    }
}
