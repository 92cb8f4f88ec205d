//! Operators that repeat elements: Expand, Tile, Where.
//! (ONNX Operators: Expand, since 8, 13; Tile, since 6, 13; Where, since 9, 16.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, broadcast};
use crate::ir::op::pick::{self, broadcast_axes, input, pick, room};
use crate::ir::op::reshape::product;
use crate::ir::op::{Operator, keeps_shape};
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{self, Axis as TiedAxis, Change, Kept, Ties};

/// Input 0 broadcast together with a tensor of the shape that input 1 says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expand;

/// Input 0 repeated along each axis as often as input 1 says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tile;

impl Operator for Expand {
    fn parse(_: &str, opset: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 8).then_some(Expand)
    }

    fn op_type(&self) -> &'static str {
        "Expand"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let wanted = cx.ints(1).or_else(|| match cx.shape(1)?.0[..] {
            [Dim::Known(rank @ 0..=64)] => Some(vec![Dim::Unknown; rank as usize]),
            _ => None,
        });
        let shape = match (cx.shape(0), wanted) {
            (Some(x), Some(to)) => Some(broadcast(x, &Shape(to))?),
            _ => None,
        };
        let same = shape.as_ref().is_some_and(|s| s.rank() <= 1 && Some(s) == cx.shape(0));
        Ok(vec![Fact::tensor(cx.dtype(0), shape).with_ints(cx.ints(0).filter(|_| same))])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        keeps_shape(self, cx).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let to = input(inputs, 1)?.ints()?.into_iter().map(|d| u64::try_from(d).ok()).collect::<Option<Vec<_>>>()?;
        let shape = broadcast(x.ty().shape()?, &Shape::known(to)).ok()?;
        Some(vec![spread(x, &shape)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let Some((x, y)) = t.cx().shape(0).cloned().zip(t.out_shape(0).cloned()) else { return true };
        let Some(lead) = y.rank().checked_sub(x.rank()) else { return true };
        for (axis, _) in x.0.iter().enumerate().filter(|(a, n)| **n == y.0[a + lead]) {
            t.pass((0, axis), (0, axis + lead));
        }
        true
    }

    /// Any number along an axis that stays as it is, or becomes one that is known.
    fn overwrites(&self, cx: &Infer<'_>, y: Option<&Shape>, (slot, position): TiedAxis) -> bool {
        let whole = |mask: &Vec<Option<i64>>| mask.iter().all(Option::is_some);
        let mask = y.and_then(|y| Expand::mask(cx, y)).filter(|m| cx.opset() >= 9 || whole(m));
        slot == 1 && mask.is_some_and(|mask| mask.get(position).is_some_and(Option::is_some))
    }

    /// The target says the new sizes, or 1 for what stays as it is where it is computed at run time.
    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let (cx, y) = (kept.cx(), kept.out_shape(0)?);
        let Some(target) = cx.constant(1) else {
            let mut mask = Expand::mask(cx, y)?;
            let lead = y.rank().checked_sub(mask.len())?;
            for (i, n) in mask.iter_mut().enumerate().filter(|(_, n)| n.is_some_and(|n| n > 1)) {
                *n = kept.output((0, i + lead)).map_or(*n, |p| Some(p.len() as i64));
            }
            if let Some(target) = mask.iter().copied().collect::<Option<Vec<i64>>>() {
                return Some(vec![Change::Constant(1, Tensor::i64([target.len()], &target))]);
            }
            if cx.opset() < 9 {
                return None;
            }
            let known = mask.iter().map(|n| n.is_some().into());
            let sizes: Vec<i64> = mask.iter().map(|n| n.unwrap_or(1)).collect();
            let tensors = vec![Tensor::from_ints(DType::BOOL, [mask.len()], known), Tensor::i64([sizes.len()], &sizes)];
            return Some(vec![Change::Through(1, Where.into(), tensors)]);
        };
        let old = target.ints()?;
        let lead = y.rank().checked_sub(old.len())?;
        let size = |(i, &n): (usize, &i64)| match kept.output((0, i + lead)).filter(|_| n > 1) {
            Some(positions) => positions.len() as i64,
            None => n,
        };
        let new: Vec<i64> = old.iter().enumerate().map(size).collect();
        Some(if old == new { Vec::new() } else { vec![Change::Constant(1, Tensor::i64([new.len()], &new))] })
    }
}

impl Expand {
    /// What may stand in a target that is computed at run time, where that is known: 1 for what stays as it is.
    fn mask(cx: &Infer<'_>, y: &Shape) -> Option<Vec<Option<i64>>> {
        let x = cx.shape(0)?;
        let [Dim::Known(len)] = cx.shape(1)?.0[..] else { return None };
        let lead = y.rank().checked_sub(usize::try_from(len).ok()?)?;
        let own = y.rank().checked_sub(x.rank())?;
        let entry = |(axis, to): (usize, &Dim)| match axis.checked_sub(own).map(|a| &x.0[a]) {
            Some(from) if from == to && to.is_same() => Some(1),
            _ => i64::try_from(to.known()?).ok(),
        };
        Some(y.0.iter().enumerate().skip(lead).map(entry).collect())
    }
}

/// `x` broadcast to a shape.
fn spread(x: &Tensor, to: &Shape) -> Option<Tensor> {
    let to: Option<Vec<usize>> = to.dims()?.into_iter().map(|d| usize::try_from(d).ok()).collect();
    pick(x, &broadcast_axes(x, &to?)?, &[])
}

impl Operator for Tile {
    fn parse(_: &str, _: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        Some(Tile)
    }

    fn op_type(&self) -> &'static str {
        "Tile"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(x) = cx.shape(0) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        let Some(repeats) = cx.ints(1) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(vec![Dim::Unknown; x.rank()])))]);
        };
        if repeats.len() != x.rank() {
            return Err(format!("{} repeats for an input {x}", repeats.len()));
        }
        let times = |(d, r): (&Dim, &Dim)| product(&[d.clone(), r.clone()]);
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(x.0.iter().zip(&repeats).map(times).collect())))])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        cx.known_ints(1)?.iter().all(|&r| r == 1).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let repeats = input(inputs, 1)?.ints().filter(|r| r.len() == x.rank())?;
        let repeats = repeats.into_iter().map(|r| usize::try_from(r).ok()).collect::<Option<Vec<_>>>()?;
        let length = |(&n, &r): (&usize, &usize)| n.checked_mul(r);
        room(x.dtype(), &x.shape().iter().zip(&repeats).map(length).collect::<Option<Vec<_>>>()?)?;
        let axes: Vec<_> = pick::axes(x)?.into_iter().zip(repeats).map(|(axis, r)| axis.repeat(r)).collect();
        Some(vec![pick(x, &axes, &[])?])
    }

    /// Repeated channels go everywhere.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        let repeats = t.cx().ints(1).unwrap_or_default();
        for (axis, n) in t.cx().shape(0).cloned().unwrap_or_default().0.iter().enumerate() {
            match (repeats.get(axis), n.known().and_then(|n| usize::try_from(n).ok())) {
                (Some(Dim::Known(1)), _) => t.pass((0, axis), (0, axis)),
                (Some(Dim::Known(_)), Some(n)) => t.select((0, axis), (0, axis), &|i| i % n.max(1)),
                _ => t.freeze((0, axis), "repeats them a number of times that is not known"),
            }
        }
        true
    }
}

/// Elements of input 1 where input 0 is true, else of input 2.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Where;

impl Operator for Where {
    fn parse(_: &str, opset: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 9).then_some(Where)
    }

    fn op_type(&self) -> &'static str {
        "Where"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let shape = match (cx.shape(0), cx.shape(1), cx.shape(2)) {
            (Some(c), Some(x), Some(y)) => Some(broadcast(&broadcast(c, x)?, y)?),
            _ => None,
        };
        let length = match shape.as_ref().map(|s| &s.0[..]) {
            Some([]) => Some(1),
            Some([n]) => n.known(),
            _ => None,
        };
        let list = |slot| cx.ints(slot);
        let ints = match (length, list(0), list(1), list(2)) {
            (Some(n), Some(c), Some(x), Some(y)) if n <= 64 => {
                let at =
                    |list: &[Dim], i| list.get(if list.len() == 1 { 0 } else { i }).cloned().unwrap_or(Dim::Unknown);
                let pick = |i| match (at(&c, i), at(&x, i), at(&y, i)) {
                    (Dim::Known(0), _, y) => y,
                    (Dim::Known(_), x, _) => x,
                    (_, x, y) if x == y => x,
                    _ => Dim::Unknown,
                };
                Some((0..n as usize).map(pick).collect())
            }
            _ => None,
        };
        Ok(vec![Fact::tensor(cx.dtype(1).or(cx.dtype(2)), shape).with_ints(ints)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (c, x, y) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2)?);
        if x.dtype() != y.dtype() {
            return None;
        }
        let shape = broadcast(&broadcast(c.ty().shape()?, x.ty().shape()?).ok()?, y.ty().shape()?).ok()?;
        let (c, x, y) = (spread(c, &shape)?, spread(x, &shape)?, spread(y, &shape)?);
        let mut out = Vec::with_capacity(room(x.dtype(), x.shape())?);
        let width = x.dtype().bytes()?;
        let elements = x.bytes()?.chunks_exact(width).zip(y.bytes()?.chunks_exact(width));
        for (c, (x, y)) in c.ints()?.into_iter().zip(elements) {
            out.extend_from_slice(if c != 0 { x } else { y });
        }
        Some(vec![Tensor::new(x.dtype(), x.shape().to_vec(), out.into())?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        ties::broadcast(t, 0..3);
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn shapes_broadcast_and_multiply() {
        let expand = |to: &str| {
            let n = to.matches(',').count() + 1;
            ty(13, &format!("input %x : f32[N,1,3] const %t : i64[{n}] = {{{to}}} %y : ? = Expand(%x, %t)"))
        };
        assert_eq!(expand("4,1"), "f32[N,4,3]");
        assert_eq!(expand("2,1,1,1"), "f32[2,N,1,3]");
        assert_eq!(ty(13, "input %x : f32[N,1] input %t : i64[3] %y : ? = Expand(%x, %t)"), "f32[?,?,?]");
        assert_eq!(ty(7, "input %x : f32[N,1] input %t : i64[3] %y : ? = Expand(%x, %t)"), "opaque");
        let body = "input %x : f32[N,2] const %t : i64[2] = {1,3} %y : ? = Tile(%x, %t)";
        assert_eq!(ty(13, body), "f32[N,6]");
        assert_eq!(
            ty(13, "input %c : bool[N,1] input %x : f32[3] input %z : f32[] %y : ? = Where(%c, %x, %z)"),
            "f32[N,3]"
        );
        let body = "input %x : f32[N,2] const %c : bool[2] = {0,1} const %z : i64[] = {7} %s : ? = Shape(%x) \
            %y : ? = Where(%c, %z, %s)";
        assert_eq!(ints(13, body).unwrap(), "[N,7]");
    }

    #[test]
    fn repeats_are_computed() {
        let y = fold(13, "const %x : u8[2,1] = {1,2} const %t : i64[2] = {1,3} %y : ? = Expand(%x, %t)").unwrap();
        assert_eq!(y.ints().unwrap(), [1, 1, 1, 2, 2, 2]);
        let y = fold(13, "const %x : u8[2,1] = {1,2} const %t : i64[2] = {2,2} %y : ? = Tile(%x, %t)").unwrap();
        assert_eq!((y.shape(), y.ints().unwrap()), (&[4, 2][..], vec![1, 1, 2, 2, 1, 1, 2, 2]));
        let body =
            "const %c : bool[2,1] = {1,0} const %x : u8[2] = {1,2} const %z : u8[] = {9} %y : ? = Where(%c, %x, %z)";
        assert_eq!(fold(13, body).unwrap().ints().unwrap(), [1, 2, 9, 9]);
        let huge = "const %x : u8[1] = {1} const %t : i64[1] = {9223372036854775807}";
        assert_eq!(fold(13, &format!("{huge} %y : ? = Tile(%x, %t)")), None);
        assert_eq!(fold(13, &format!("{huge} %y : ? = Expand(%x, %t)")), None);
    }
}
