//! Operators that give the same elements another shape: Reshape, Flatten, Squeeze, Unsqueeze.
//! (ONNX Operators: Reshape, since 5, 13, 14, 19, 21, 23, 24, 25; the others likewise.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::expand::Where;
use crate::ir::op::pick::input;
use crate::ir::op::{Operator, keeps_shape};
use crate::ir::shape::{DType, Dim, Shape, Type};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Axis, Change, Kept, Ties};
use std::ops::Range;

/// The elements of input 0 in the shape that input 1 says: -1 is what is left, 0 is the dim of the input at that place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reshape {
    /// 0 means no elements.
    pub allow_zero: bool,
}

/// A matrix: the axes before `axis` become the rows, the others the columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Flatten {
    pub axis: i64,
}

/// Removes axes of size 1: those listed, else all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Squeeze {
    /// An attribute before opset 13; from then on `None`, and input 1 has them.
    pub axes: Option<Vec<i64>>,
}

/// Inserts axes of size 1, which are counted in the result.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Unsqueeze {
    /// An attribute before opset 13; from then on `None`, and input 1 has them.
    pub axes: Option<Vec<i64>>,
}

/// Product of dims, as far as one dim can say it.
pub fn product(dims: &[Dim]) -> Dim {
    quotient(dims.iter().collect(), Vec::new())
}

/// Product of `over` by product of `under`; the very same dim cancels, also one that is not known.
fn quotient<'a>(mut over: Vec<&'a Dim>, under: Vec<&'a Dim>) -> Dim {
    let mut by = Dim::Known(1);
    for u in under {
        match over.iter().position(|&o| std::ptr::eq(o, u) && u.known().is_none()) {
            Some(at) => drop(over.swap_remove(at)),
            None => by = by.times(u),
        }
    }
    if by == Dim::Known(1) && over.contains(&&Dim::Known(0)) {
        return Dim::Known(0);
    }
    over.into_iter().fold(Dim::Known(1), |all, d| all.times(d)).over(&by)
}

/// The shape that Reshape gives to a tensor of shape `from`, for the target `wanted`, in which -1 and numbers that are
/// not known are `Dim::Unknown`: if there is one such, it is whatever leaves the number of elements as it was.
///
/// # Errors
/// If no tensor of shape `from` has as many elements.
pub fn target(from: Option<&Shape>, wanted: &[Dim], allow_zero: bool) -> Result<Shape, String> {
    let copied = |i: usize| match from {
        Some(from) => from.0.get(i).map(Some).ok_or_else(|| format!("0 at {i} of the target has no dim in {from}")),
        None => Ok(None),
    };
    let unknown = Dim::Unknown;
    let mut dims = Vec::with_capacity(wanted.len());
    for (i, d) in wanted.iter().enumerate() {
        dims.push(if *d == Dim::Known(0) && !allow_zero { copied(i)?.unwrap_or(&unknown) } else { d });
    }
    let open: Vec<usize> = (0..wanted.len()).filter(|&i| wanted[i] == Dim::Unknown).collect();
    let mut shape = Shape(dims.iter().map(|&d| d.clone()).collect());
    let Some(from) = from else { return Ok(shape) };
    // Elements that a part of the dims asks for, and those there are, if they cannot go together.
    let undivided = |part: Option<u64>| part.zip(from.elements()).filter(|&(part, all)| part > 0 && all % part > 0);
    match open[..] {
        [] => {
            if let (Some(a), Some(b)) = (from.elements(), shape.elements())
                && a != b
            {
                return Err(format!("{a} elements of {from} do not fit into {shape}"));
            }
            let known = shape.0.iter().filter_map(Dim::known).try_fold(1u64, |n, d| n.checked_mul(d));
            if let Some((part, all)) = undivided(known) {
                return Err(format!("{all} elements of {from} do not divide by {part}"));
            }
        }
        [at] => {
            let rest: Vec<&Dim> = dims.iter().enumerate().filter(|&(i, _)| i != at).map(|(_, &d)| d).collect();
            if let Some((part, all)) = undivided(rest.iter().try_fold(1u64, |n, d| n.checked_mul(d.known()?))) {
                return Err(format!("{all} elements of {from} do not divide by {part}"));
            }
            shape.0[at] = quotient(from.0.iter().collect(), rest);
        }
        _ => {}
    }
    Ok(shape)
}

/// Splits a change of shape into the smallest runs of axes that hold the same elements on both sides: `[N,64,7,7]` to
/// `[N,3136]` is `0..1 → 0..1`, `1..4 → 1..2`. Around dims that are not known well enough to tell, what matches is taken off
/// at both ends: `[N,5,16]` to `[?,16]` is `0..2 → 0..1`, `2..3 → 1..2`. `None` if the elements are not as many.
pub fn runs(from: &Shape, to: &Shape) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let (from, to) = (&from.0[..], &to.0[..]);
    let (mut i, mut j) = (0, 0);
    let mut runs = Vec::new();
    while let Some((m, n)) = run(from[i..].iter(), to[j..].iter()) {
        runs.push((i..i + m, j..j + n));
        (i, j) = (i + m, j + n);
    }
    let (mut i_end, mut j_end) = (from.len(), to.len());
    let mut back = Vec::new();
    while let Some((m, n)) = run(from[i..i_end].iter().rev(), to[j..j_end].iter().rev()) {
        back.push((i_end - m..i_end, j_end - n..j_end));
        (i_end, j_end) = (i_end - m, j_end - n);
    }
    let count = |dims: &[Dim]| dims.iter().try_fold(1u64, |n, d| n.checked_mul(d.known()?));
    if let (Some(m), Some(n)) = (count(&from[i..i_end]), count(&to[j..j_end]))
        && m != n
    {
        return None;
    }
    if i < i_end || j < j_end {
        runs.push((i..i_end, j..j_end));
    }
    runs.extend(back.into_iter().rev());
    Some(runs)
}

/// How many dims at the beginning of two lists, at least one of each, have the same product: the fewest. `None` if that
/// cannot be told.
fn run<'a>(mut from: impl Iterator<Item = &'a Dim>, mut to: impl Iterator<Item = &'a Dim>) -> Option<(usize, usize)> {
    let (mut a, mut b) = (from.next()?.clone(), to.next()?.clone());
    let (mut i, mut j) = (1, 1);
    while a != b || a == Dim::Unknown {
        let less = match (a.known(), b.known()) {
            (Some(a), Some(b)) => a < b,
            _ => b.over(&a).is_same(),
        };
        if less {
            (a, i) = (a.times(from.next()?), i + 1);
        } else if a.known().is_some() && b.known().is_some() || a.over(&b).is_same() {
            (b, j) = (b.times(to.next()?), j + 1);
        } else {
            return None;
        }
    }
    Some((i, j))
}

/// Fact of a result that has the elements of input 0 in another shape.
fn view(cx: &Infer<'_>, shape: Option<Shape>) -> Vec<Fact> {
    let ints = shape.as_ref().and_then(|_| cx.content(0));
    vec![Fact::tensor(cx.dtype(0), shape).with_ints(ints)]
}

/// An element of what stays a vector or a number is where it was.
fn stays(cx: &Infer<'_>, op: &dyn Operator, slot: usize, position: usize) -> Option<Vec<usize>> {
    let flat = |shape: &Shape| shape.rank() <= 1;
    let to = op.infer(cx).ok()?.into_iter().next()?.ty;
    let fits = slot == 0 && cx.shape(0).is_some_and(flat) && to.as_ref().and_then(Type::shape).is_some_and(flat);
    fits.then(|| vec![position])
}

/// A shape of known rank alone, from a tensor of shape `[rank]`.
fn of_rank(list: Option<&Shape>) -> Option<usize> {
    let [Dim::Known(rank)] = list?.0[..] else { return None };
    usize::try_from(rank).ok().filter(|&r| r <= 64)
}

/// `list` counted from the front of `rank` axes.
///
/// # Errors
/// If one is out of range or there twice.
pub fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let mut out = Vec::with_capacity(list.len());
    for &a in list {
        let at = axis(a, rank)?;
        if out.contains(&at) {
            return Err(format!("axis {a} is listed twice"));
        }
        out.push(at);
    }
    Ok(out)
}

impl Operator for Reshape {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(Reshape { allow_zero: opset >= 14 && attrs.flag("allowzero") })
    }

    fn op_type(&self) -> &'static str {
        "Reshape"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if self.allow_zero { vec![Attr::int("allowzero", 1)] } else { Vec::new() }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        if let Some(bad) = cx.constant(1).and_then(Tensor::ints).filter(|t| !is_target(t)) {
            return Err(format!("{bad:?} is no target shape"));
        }
        let shape = match cx.ints(1) {
            Some(wanted) => Some(target(cx.shape(0), &wanted, self.allow_zero)?),
            None => of_rank(cx.shape(1)).map(|rank| Shape(vec![Dim::Unknown; rank])),
        };
        Ok(view(cx, shape))
    }

    fn moves(&self, cx: &Infer<'_>, (slot, position): Axis) -> Option<Vec<usize>> {
        stays(cx, self, slot, position)
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        keeps_shape(self, cx).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let wanted = input(inputs, 1)?.ints().filter(|t| is_target(t))?;
        let wanted: Vec<Dim> = wanted.iter().map(|&d| u64::try_from(d).map_or(Dim::Unknown, Dim::Known)).collect();
        let shape = target(x.ty().shape(), &wanted, self.allow_zero).ok()?.dims()?;
        Some(vec![x.reshaped(sizes(&shape)?)?])
    }

    /// Any number that becomes a dim which is known anyway.
    fn overwrites(&self, cx: &Infer<'_>, y: Option<&Shape>, (slot, position): Axis) -> bool {
        let known = y.and_then(|y| y.0.get(position)?.known());
        slot == 1 && (self.fixed_target(cx, y).is_some() || can_mask(cx.opset(), y)) && known.is_some()
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        if self.fixed_target(t.cx(), t.out_shape(0)).is_none() && !can_mask(t.cx().opset(), t.out_shape(0)) {
            let rank = t.cx().shape(0).map_or(0, Shape::rank);
            (0..rank).for_each(|axis| t.freeze((0, axis), "has a target shape that is computed at run time"));
        }
        t.reshape();
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let Some(old) = self.fixed_target(kept.cx(), kept.out_shape(0)) else { return masked(kept, 1) };
        let entry = |(axis, &n): (usize, &i64)| match kept.output((0, axis)) {
            Some(positions) if n >= 0 => Some(positions.len() as i64),
            None if n == 0 && kept.input((0, axis)).is_some() => {
                i64::try_from(kept.out_shape(0)?.0.get(axis)?.known()?).ok()
            }
            _ => Some(n),
        };
        let new: Vec<i64> = old.iter().enumerate().map(entry).collect::<Option<_>>()?;
        // What is computed at run time may read sizes that change.
        let stays = new == old && kept.cx().constant(1).is_some();
        Some(if stays { Vec::new() } else { vec![Change::Constant(1, Tensor::i64([new.len()], &new))] })
    }
}

/// Whether sizes of this shape that are computed at run time can be overwritten where they are known: `Where` does it.
pub fn can_mask(opset: i64, y: Option<&Shape>) -> bool {
    opset >= 9 && y.is_some_and(|y| !y.0.contains(&Dim::Known(0)))
}

/// Sizes of output 0 that are computed at an input, those that are known overwritten by what they come to.
pub fn masked(kept: &dyn Kept, slot: usize) -> Option<Vec<Change>> {
    let y = kept.out_shape(0).filter(|y| can_mask(kept.cx().opset(), Some(y)))?;
    let size = |(axis, d): (usize, &Dim)| match kept.output((0, axis)) {
        Some(positions) => Some(positions.len() as i64),
        None => i64::try_from(d.known()?).ok(),
    };
    let sizes: Vec<Option<i64>> = y.0.iter().enumerate().map(size).collect();
    let mask = Tensor::from_ints(DType::BOOL, [sizes.len()], sizes.iter().map(|n| n.is_some().into()));
    let sizes: Vec<i64> = sizes.into_iter().map(|n| n.unwrap_or(0)).collect();
    Some(vec![Change::Through(slot, Where.into(), vec![mask, Tensor::i64([sizes.len()], &sizes)])])
}

impl Reshape {
    /// The target, or a constant one that means the same where only what stays symbolic is computed at run time.
    fn fixed_target(&self, cx: &Infer<'_>, y: Option<&Shape>) -> Option<Vec<i64>> {
        if let Some(target) = cx.constant(1) {
            return target.ints();
        }
        let x = cx.shape(0)?;
        let entry = |(axis, d): (usize, &Dim)| match d {
            Dim::Known(0) => None,
            Dim::Known(n) => i64::try_from(*n).ok(),
            d if d.is_same() && !self.allow_zero && x.0.get(axis) == Some(d) => Some(0),
            _ => Some(-1),
        };
        y?.0.iter().enumerate().map(entry).collect::<Option<Vec<_>>>().filter(|t| is_target(t))
    }
}

fn is_target(dims: &[i64]) -> bool {
    dims.iter().all(|&d| d >= -1) && dims.iter().filter(|&&d| d == -1).count() <= 1
}

fn sizes(dims: &[u64]) -> Option<Vec<usize>> {
    dims.iter().map(|&d| usize::try_from(d).ok()).collect()
}

impl Flatten {
    fn shape(&self, x: &Shape) -> Result<Shape, String> {
        let at = if self.axis == x.rank() as i64 { x.rank() } else { axis(self.axis, x.rank())? };
        Ok(Shape(vec![product(&x.0[..at]), product(&x.0[at..])]))
    }
}

impl Operator for Flatten {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let axis = attrs.int_or("axis", 1);
        (axis >= 0 || opset >= 11).then_some(Flatten { axis })
    }

    fn op_type(&self) -> &'static str {
        "Flatten"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if self.axis == 1 { Vec::new() } else { vec![Attr::int("axis", self.axis)] }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let shape = cx.shape(0).map(|x| self.shape(x)).transpose()?;
        Ok(view(cx, Some(shape.unwrap_or(Shape(vec![Dim::Unknown; 2])))))
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        keeps_shape(self, cx).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let shape = self.shape(x.ty().shape()?).ok()?.dims()?;
        Some(vec![x.reshaped(sizes(&shape)?)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        t.reshape();
        true
    }
}

/// The axes of Squeeze or Unsqueeze: an attribute, or else input 1.
fn listed_axes(attribute: &Option<Vec<i64>>, cx: &Infer<'_>) -> Option<Vec<i64>> {
    attribute.clone().or_else(|| cx.known_ints(1))
}

fn axes_attr(axes: &Option<Vec<i64>>) -> Vec<Attr> {
    axes.iter().map(|a| Attr::ints("axes", a)).collect()
}

impl Squeeze {
    /// `axes` is `None` for all of size 1; gives `None` if it is not known which those are.
    fn shape(x: &Shape, listed: Option<&[i64]>) -> Result<Option<Shape>, String> {
        let gone: Vec<usize> = match listed {
            Some(list) => axes(list, x.rank())?,
            None if x.dims().is_none() => return Ok(None),
            None => (0..x.rank()).filter(|&i| x.0[i] == Dim::Known(1)).collect(),
        };
        if let Some(at) = gone.iter().find(|&&i| !x.0[i].agrees(&Dim::Known(1))) {
            return Err(format!("axis {at} of {x} is not of size 1"));
        }
        let kept = x.0.iter().enumerate().filter(|(i, _)| !gone.contains(i));
        Ok(Some(Shape(kept.map(|(_, d)| d.clone()).collect())))
    }

    /// The axes that go and those that stay, if that is known.
    fn sort(&self, cx: &Infer<'_>) -> Option<(Vec<usize>, Vec<usize>)> {
        let x = cx.shape(0)?;
        let gone = match listed_axes(&self.axes, cx) {
            Some(list) => axes(&list, x.rank()).ok()?,
            None if cx.has(1) || x.dims().is_none() => return None,
            None => (0..x.rank()).filter(|&a| x.0[a] == Dim::Known(1)).collect(),
        };
        let kept = (0..x.rank()).filter(|a| !gone.contains(a)).collect();
        Some((gone, kept))
    }
}

impl Operator for Squeeze {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(Squeeze { axes: if opset < 13 { attrs.ints("axes") } else { None } })
    }

    fn op_type(&self) -> &'static str {
        "Squeeze"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        axes_attr(&self.axes)
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let listed = listed_axes(&self.axes, cx);
        let shape = match (cx.shape(0), &listed, cx.has(1)) {
            (Some(x), None, true) => {
                let rank = of_rank(cx.shape(1)).and_then(|n| x.rank().checked_sub(n));
                rank.map(|r| Shape(vec![Dim::Unknown; r]))
            }
            (Some(x), _, _) => Squeeze::shape(x, listed.as_deref())?,
            (None, _, _) => None,
        };
        Ok(view(cx, shape))
    }

    fn moves(&self, cx: &Infer<'_>, (slot, position): Axis) -> Option<Vec<usize>> {
        stays(cx, self, slot, position)
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        keeps_shape(self, cx).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let listed = match (&self.axes, input(inputs, 1)) {
            (Some(axes), _) => Some(axes.clone()),
            (None, Some(t)) => Some(t.ints()?),
            (None, None) => None,
        };
        let shape = Squeeze::shape(x.ty().shape()?, listed.as_deref()).ok()??.dims()?;
        Some(vec![x.reshaped(sizes(&shape)?)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let Some((gone, kept)) = self.sort(t.cx()) else { return true };
        gone.iter().for_each(|&a| t.ignore((0, a)));
        kept.into_iter().enumerate().for_each(|(to, from)| t.pass((0, from), (0, to)));
        true
    }

    /// Where no axes are listed, one of which a single position stays would go too.
    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let (gone, stay) = self.sort(kept.cx())?;
        let single = |&a: &usize| kept.input((0, a)).is_some_and(|p| p.len() == 1);
        if listed_axes(&self.axes, kept.cx()).is_some() || !stay.iter().any(single) {
            return Some(Vec::new());
        }
        let axes: Vec<i64> = gone.into_iter().map(|a| a as i64).collect();
        Some(match kept.cx().opset() {
            ..13 => vec![Change::Op(Squeeze { axes: Some(axes) }.into())],
            _ => vec![Change::Constant(1, Tensor::i64([axes.len()], &axes))],
        })
    }
}

impl Unsqueeze {
    fn shape(x: &Shape, listed: &[i64]) -> Result<Shape, String> {
        let rank = x.rank() + listed.len();
        let new = axes(listed, rank)?;
        let mut old = x.0.iter();
        let dim = |i| if new.contains(&i) { Some(Dim::Known(1)) } else { old.next().cloned() };
        Ok(Shape((0..rank).filter_map(dim).collect()))
    }
}

impl Operator for Unsqueeze {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let axes = if opset < 13 { Some(attrs.ints("axes")?) } else { None };
        Some(Unsqueeze { axes })
    }

    fn op_type(&self) -> &'static str {
        "Unsqueeze"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        axes_attr(&self.axes)
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let shape = match (cx.shape(0), listed_axes(&self.axes, cx)) {
            (Some(x), Some(listed)) => Some(Unsqueeze::shape(x, &listed)?),
            (Some(x), None) => of_rank(cx.shape(1)).map(|n| Shape(vec![Dim::Unknown; x.rank() + n])),
            (None, _) => None,
        };
        Ok(view(cx, shape))
    }

    fn moves(&self, cx: &Infer<'_>, (slot, position): Axis) -> Option<Vec<usize>> {
        stays(cx, self, slot, position)
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        keeps_shape(self, cx).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let listed = self.axes.clone().or_else(|| input(inputs, 1)?.ints())?;
        let shape = Unsqueeze::shape(x.ty().shape()?, &listed).ok()?.dims()?;
        Some(vec![x.reshaped(sizes(&shape)?)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.out_shape(0).map_or(0, Shape::rank);
        let Some(Ok(new)) = listed_axes(&self.axes, t.cx()).map(|list| axes(&list, rank)) else { return true };
        let old = (0..rank).filter(|a| !new.contains(a));
        old.enumerate().for_each(|(from, to)| t.pass((0, from), (0, to)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::{fold, ty};

    #[test]
    fn reshape_keeps_the_batch_symbolic() {
        let to = |target: &str| {
            let n = target.matches(',').count() + 1;
            ty(17, &format!("input %x : f32[N,64,7,7] const %t : i64[{n}] = {{{target}}} %y : ? = Reshape(%x, %t)"))
        };
        assert_eq!(to("-1,3136"), "f32[N,3136]");
        assert_eq!(to("0,-1"), "f32[N,3136]");
        assert_eq!(to("0,0,49"), "f32[N,64,49]");
        assert_eq!(to("-1,64,7,7,1"), "f32[N,64,7,7,1]");
        assert_eq!(to("1,-1"), "f32[1,?]");
        assert_eq!(to("-1,6272"), "f32[?,6272]");
    }

    #[test]
    fn shape_gather_concat_reshape_keeps_the_batch() {
        let body = "input %x : f32[N,16,4,4] const %i : i64[] = {0} const %z : i64[1] = {0} const %m : i64[1] = {-1} \
            %s : ? = Shape(%x) %n : ? = Gather(%s, %i) %u : ? = Unsqueeze(%n, %z) %t : ? = Concat<axis=0>(%u, %m) \
            %y : ? = Reshape(%x, %t)";
        assert_eq!(ty(13, body), "f32[N,256]");
    }

    #[test]
    fn partial_knowledge() {
        assert_eq!(ty(17, "input %x : f32[*] input %t : i64[3] %y : ? = Reshape(%x, %t)"), "f32[?,?,?]");
        assert_eq!(ty(17, "input %x : f32[*] input %t : i64[?] %y : ? = Reshape(%x, %t)"), "f32[*]");
        let body = "input %x : f32[0,3] const %t : i64[2] = {3,0} %y : ? = Reshape<allowzero=1>(%x, %t)";
        assert_eq!(ty(17, body), "f32[3,0]");
        assert_eq!(ty(17, "input %x : f32[*] %y : ? = Flatten(%x)"), "f32[?,?]");
        assert_eq!(ty(17, "input %x : f32[N,3,?,5] %y : ? = Flatten<axis=-4>(%x)"), "f32[1,?]");
        assert_eq!(ty(17, "input %x : f32[N,1,2] %y : ? = Squeeze(%x)"), "f32[*]");
        assert_eq!(ty(11, "input %x : f32[N,1,2] %y : ? = Squeeze<axes=[-2]>(%x)"), "f32[N,2]");
        assert_eq!(ty(11, "input %x : f32[N,2] %y : ? = Unsqueeze<axes=[0,-1]>(%x)"), "f32[1,N,2,1]");
        assert_eq!(ty(13, "input %x : f32[N,2] input %a : i64[1] %y : ? = Unsqueeze(%x, %a)"), "f32[?,?,?]");
    }

    #[test]
    fn malformed_targets_contradict() {
        let known = |dims: &[i64]| -> Vec<Dim> {
            dims.iter().map(|&d| u64::try_from(d).map_or(Dim::Unknown, Dim::Known)).collect()
        };
        let from = Shape::known([2, 3]);
        let to = |dims: &[i64]| target(Some(&from), &known(dims), false);
        assert!(to(&[4, -1]).is_err());
        let of_a_batch = |n: u64| target(Some(&from), &[Dim::sym("N"), Dim::Known(n)], false);
        assert_eq!(of_a_batch(4), Err("6 elements of [2,3] do not divide by 4".into()));
        assert!(of_a_batch(3).is_ok());
        assert!(to(&[5]).is_err());
        assert!(to(&[2, 3, 0]).is_err());
        assert_eq!(to(&[0, -1]).unwrap().to_string(), "[2,3]");
        assert!(!is_target(&[-1, -1]) && !is_target(&[-2]));
    }

    #[test]
    fn views_are_computed() {
        let x = "const %x : f32[2,1,3] = {1,2,3,4,5,6}";
        let shape = |opset, rest: &str| fold(opset, &format!("{x} {rest}")).unwrap().shape().to_vec();
        assert_eq!(shape(17, "const %t : i64[2] = {0,-1} %y : ? = Reshape(%x, %t)"), [2, 3]);
        assert_eq!(shape(17, "%y : ? = Flatten<axis=3>(%x)"), [6, 1]);
        assert_eq!(shape(17, "%y : ? = Squeeze(%x)"), [2, 3]);
        assert_eq!(shape(17, "const %a : i64[2] = {0,-1} %y : ? = Unsqueeze(%x, %a)"), [1, 2, 1, 3, 1]);
    }

    #[test]
    fn runs_are_smallest() {
        let n = Dim::sym("N");
        let shape =
            |dims: &[u64]| Shape(std::iter::once(n.clone()).chain(dims.iter().map(|&d| Dim::Known(d))).collect());
        assert_eq!(runs(&shape(&[64, 7, 7]), &shape(&[3136])), Some(vec![(0..1, 0..1), (1..4, 1..2)]));
        let split = vec![(0..1, 0..1), (1..2, 1..3), (2..3, 3..4)];
        assert_eq!(runs(&shape(&[64, 5]), &shape(&[8, 8, 5])), Some(split));
        assert_eq!(runs(&shape(&[6, 1]), &shape(&[6])), Some(vec![(0..1, 0..1), (1..2, 1..2), (2..3, 2..2)]));
        assert_eq!(runs(&Shape::known([6]), &Shape::known([6, 2])), None);
        assert_eq!(runs(&shape(&[6]), &Shape::known([6, 2])), Some(vec![(0..2, 0..2)]));
        let unknown =
            |dims: &[u64]| Shape(std::iter::once(Dim::Unknown).chain(dims.iter().map(|&d| Dim::Known(d))).collect());
        assert_eq!(runs(&shape(&[5, 16]), &unknown(&[16])), Some(vec![(0..2, 0..1), (2..3, 1..2)]));
        assert_eq!(runs(&unknown(&[40]), &shape(&[5, 4, 10])), Some(vec![(0..1, 0..2), (1..2, 2..4)]));
        let space = Shape(vec![n.clone(), Dim::Known(8), Dim::sym("H"), Dim::sym("W")]);
        let flat = Shape(vec![n.clone(), Dim::Known(8), Dim::Unknown]);
        assert_eq!(runs(&space, &flat), Some(vec![(0..1, 0..1), (1..2, 1..2), (2..4, 2..3)]));
    }
}
