//! Slice. (ONNX Operators: Slice, since 1, 10, 11, 13.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::gather::Gather;
use crate::ir::op::pick::{self, input, pick};
use crate::ir::op::reshape::axes;
use crate::ir::shape::{Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Axis, Change, Kept, Ties};

/// Every `step`-th element from `start` to before `end`, along some axes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Slice {
    /// Attributes before opset 10; from then on `None`, and inputs 1 to 4 have starts, ends, axes and steps.
    pub bounds: Option<Bounds>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    pub starts: Vec<i64>,
    pub ends: Vec<i64>,
    /// `None` for the first ones.
    pub axes: Option<Vec<i64>>,
}

/// From this end on, exporters mean "to the last element".
const LAST: i64 = i32::MAX as i64;

/// First element and number of elements of `start..end` by `step` on an axis of `n`, negative bounds counted from its
/// end and all bounds clamped to it. `None` for a step of 0, and where readings differ: from the largest end backwards
/// there is nothing by the definition, and everything down to the first element in ONNX Runtime.
pub fn range(n: u64, start: i64, end: i64, step: i64) -> Option<(u64, u64)> {
    let (n, step) = (n as i128, step as i128);
    let bound = |v: i64, low: i128, high: i128| {
        let v = v as i128;
        (if v < 0 { v + n } else { v }).clamp(low, high)
    };
    let (first, room) = match step {
        0 => return None,
        _ if n == 0 => return Some((0, 0)),
        ..0 if end == i64::MAX || end == LAST => return None,
        1.. => {
            let first = bound(start, 0, n);
            (first, bound(end, 0, n) - first)
        }
        _ => {
            let first = bound(start, 0, n - 1);
            (first, first - bound(end, -1, n - 1))
        }
    };
    let count = if room > 0 { (room - 1) / step.abs() + 1 } else { 0 };
    Some((first as u64, count as u64))
}

/// How one axis is cut, as far as it is known.
struct AxisSlice {
    axis: usize,
    start: Result<i64, Dim>,
    end: Result<i64, Dim>,
    step: Option<i64>,
}

impl AxisSlice {
    /// The places on an axis of `n` that stay, in their new order, if they are known: the first, how many, how far apart.
    fn places(&self, n: &Dim) -> Option<(usize, usize, i64)> {
        let (Ok(start), Ok(end), Some(step)) = (&self.start, &self.end, self.step) else { return None };
        let (first, count) = range(n.known()?, *start, *end, step)?;
        Some((usize::try_from(first).ok()?, usize::try_from(count).ok()?, step))
    }

    fn length(&self, n: &Dim) -> Result<Dim, String> {
        if self.step == Some(0) {
            return Err(format!("a step of 0 along axis {}", self.axis));
        }
        let (n, whole) = match (n, &self.start, &self.end, self.step) {
            (Dim::Known(0), ..) => return Ok(Dim::Known(0)),
            (n, Ok(0), Ok(LAST..), Some(1)) => (n, true),
            (n, Ok(-1 | LAST..), Ok(end), Some(-1)) if *end <= -LAST => (n, true),
            (n, Ok(0), Err(end), Some(1)) if n == end && *n != Dim::Unknown => (n, true),
            (n, ..) => (n, false),
        };
        Ok(match (n.known(), &self.start, &self.end, self.step) {
            _ if whole => n.clone(),
            (Some(n), Ok(s), Ok(e), Some(k)) => range(n, *s, *e, k).map_or(Dim::Unknown, |r| Dim::Known(r.1)),
            _ => Dim::Unknown,
        })
    }
}

impl Slice {
    /// `Ok(None)` if it is not known which axes are cut.
    fn cuts(&self, cx: &Infer<'_>, rank: usize) -> Result<Option<Vec<AxisSlice>>, String> {
        let known = |list: &[i64]| list.iter().copied().map(Ok).collect::<Vec<_>>();
        let numbers = |slot| cx.numbers(slot);
        let length = |slot| match cx.shape(slot).map(|s| &s.0[..]) {
            Some([Dim::Known(n)]) => usize::try_from(*n).ok().filter(|&n| n <= rank),
            _ => None,
        };
        let (starts, ends, listed) = match &self.bounds {
            Some(b) => (Some(known(&b.starts)), Some(known(&b.ends)), b.axes.clone()),
            None => (numbers(1), numbers(2), if cx.has(3) { cx.known_ints(3) } else { None }),
        };
        let open = self.bounds.is_none() && cx.has(3) && listed.is_none();
        let count = listed.as_ref().map(Vec::len).or(starts.as_ref().map(Vec::len)).or_else(|| length(1));
        let Some(count) = count.filter(|_| !open) else { return Ok(None) };
        let steps = if cx.has(4) { numbers(4) } else { Some(vec![Ok(1); count]) };
        let lists = [&starts, &ends, &steps];
        if lists.iter().any(|l| l.as_ref().is_some_and(|l| l.len() != count)) {
            return Err("starts, ends, axes and steps differ in length".into());
        }
        let listed = listed.unwrap_or_else(|| (0..count as i64).collect());
        let at = |list: &Option<Vec<Result<i64, Dim>>>, i: usize| match list {
            Some(list) => list[i].clone(),
            None => Err(Dim::Unknown),
        };
        let cut = |(i, axis)| AxisSlice { axis, start: at(&starts, i), end: at(&ends, i), step: at(&steps, i).ok() };
        Ok(Some(axes(&listed, rank)?.into_iter().enumerate().map(cut).collect()))
    }
}

impl Operator for Slice {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        if opset >= 10 {
            return Some(Slice { bounds: None });
        }
        let (starts, ends) = (attrs.ints("starts")?, attrs.ints("ends")?);
        Some(Slice { bounds: Some(Bounds { starts, ends, axes: attrs.ints("axes") }) })
    }

    fn op_type(&self) -> &'static str {
        "Slice"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let Some(b) = &self.bounds else { return Vec::new() };
        let axes = b.axes.as_ref().map(|a| Attr::ints("axes", a));
        axes.into_iter().chain([Attr::ints("ends", &b.ends), Attr::ints("starts", &b.starts)]).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(x) = cx.shape(0) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        let Some(cuts) = self.cuts(cx, x.rank())? else {
            return Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(vec![Dim::Unknown; x.rank()])))]);
        };
        let mut y = x.clone();
        for cut in &cuts {
            y.0[cut.axis] = cut.length(&x.0[cut.axis])?;
        }
        let ints = match (cx.ints(0), &cuts[..]) {
            (Some(ints), [AxisSlice { start: Ok(s), end: Ok(e), step: Some(k), .. }]) => {
                range(ints.len() as u64, *s, *e, *k)
                    .map(|(first, count)| places(first, count, *k).filter_map(|i| ints.get(i).cloned()).collect())
            }
            _ => cx.moved(self),
        };
        Ok(vec![Fact::tensor(cx.dtype(0), Some(y)).with_ints(ints)])
    }

    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        let x = cx.shape(0)?;
        let whole = |c: &AxisSlice| {
            let to_the_end = match (&c.end, &x.0[c.axis]) {
                (Ok(LAST..), _) => true,
                (Ok(end), Dim::Known(n)) => u64::try_from(*end).is_ok_and(|end| end >= *n),
                (Err(end), n) => end == n && *n != Dim::Unknown,
                _ => false,
            };
            c.start == Ok(0) && c.step == Some(1) && to_the_end
        };
        self.cuts(cx, x.rank()).ok()??.iter().all(whole).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let list = |slot| input(inputs, slot).map(Tensor::ints);
        let (starts, ends, listed) = match &self.bounds {
            Some(b) => (b.starts.clone(), b.ends.clone(), b.axes.clone()),
            None => (list(1)??, list(2)??, list(3).map_or(Some(None), |l| l.map(Some))?),
        };
        let steps = list(4).unwrap_or_else(|| Some(vec![1; starts.len()]))?;
        let listed = axes(&listed.unwrap_or_else(|| (0..starts.len() as i64).collect()), x.rank()).ok()?;
        if [&ends, &steps].iter().any(|l| l.len() != starts.len()) || listed.len() != starts.len() {
            return None;
        }
        let mut axes = pick::axes(x)?;
        for (i, at) in listed.into_iter().enumerate() {
            let (first, count) = range(x.shape()[at] as u64, starts[i], ends[i], steps[i])?;
            axes[at] = places(first, count, steps[i]).map(|p| axes[at].get(p).copied().flatten()).collect();
        }
        Some(vec![pick(x, &axes, &[])?])
    }

    fn moves(&self, cx: &Infer<'_>, (slot, position): Axis) -> Option<Vec<usize>> {
        let [Dim::Known(n)] = cx.shape(0).filter(|_| slot == 0)?.0[..] else { return None };
        let cuts = self.cuts(cx, 1).ok()??;
        let [AxisSlice { start: Ok(start), end: Ok(end), step: Some(step), .. }] = &cuts[..] else { return None };
        let (first, count) = range(n.min(i32::MAX as u64), *start, *end, *step)?;
        Some(places(first, count, *step).enumerate().filter(|p| p.1 == position).map(|p| p.0).collect())
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let Some(x) = t.cx().shape(0).cloned() else { return true };
        let Ok(Some(cuts)) = self.cuts(t.cx(), x.rank()) else { return true };
        for (a, n) in x.0.iter().enumerate() {
            let cut = cuts.iter().find(|c| c.axis == a);
            match (cut, cut.and_then(|c| c.places(n))) {
                (None, _) => t.pass((0, a), (0, a)),
                (Some(_), Some((first, _, step))) if step == 1 || cuts.len() == 1 => {
                    t.select((0, a), (0, a), &|i| place(first, step, i));
                }
                (Some(_), Some(_)) => t.freeze((0, a), "skips or reverses them, and cuts another axis too"),
                (Some(_), None) => t.freeze((0, a), "cuts them at bounds that are not known"),
            }
        }
        true
    }

    /// Bounds that hold the kept positions of every axis that lost some. Where those are no longer equally far apart, a
    /// Gather of them.
    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let x = kept.cx().shape(0)?;
        let cuts = self.cuts(kept.cx(), x.rank()).ok()??;
        let (mut starts, mut ends, mut steps, mut changed) = (Vec::new(), Vec::new(), Vec::new(), false);
        for cut in &cuts {
            let (mut start, mut end, mut step) = (cut.start.clone().ok()?, cut.end.clone().ok()?, cut.step?);
            if let Some(before) = kept.input((0, cut.axis)) {
                let (first, _, old) = cut.places(&x.0[cut.axis])?;
                let now = |i: &usize| before.binary_search(&place(first, old, *i)).ok().map(|p| p as i64);
                let now: Vec<i64> = kept.stay((0, cut.axis))?.iter().map(now).collect::<Option<_>>()?;
                match bounds(&now, before.len(), old) {
                    Some(even) => (start, end, step) = even,
                    None if cuts.len() == 1 && self.bounds.is_none() => {
                        let indices = Change::Constant(1, Tensor::i64([now.len()], &now));
                        let gather = Gather { axis: cut.axis as i64 };
                        return Some(vec![Change::Op(gather.into()), indices, Change::Inputs(2)]);
                    }
                    None => return None,
                }
                changed = true;
            }
            starts.push(start);
            ends.push(end);
            steps.push(step);
        }
        Some(match &self.bounds {
            _ if !changed => Vec::new(),
            Some(b) => vec![Change::Op(Slice { bounds: Some(Bounds { starts, ends, axes: b.axes.clone() }) }.into())],
            None => {
                let like = |slot: usize, list: Vec<i64>| {
                    let dtype = kept.cx().dtype(slot)?;
                    Some(Change::Constant(slot, Tensor::from_ints(dtype, [list.len()], list)))
                };
                let same = cuts.iter().map(|c| c.step).eq(steps.iter().copied().map(Some));
                let steps = if same { None } else { Some(like(4, steps)?) };
                [like(1, starts)?, like(2, ends)?].into_iter().chain(steps).collect()
            }
        })
    }
}

/// Start, end and step that take these places of an axis of `n`, if they are equally far apart; the old step where there
/// are too few to say.
fn bounds(places: &[i64], n: usize, step: i64) -> Option<(i64, i64, i64)> {
    let (Some(&first), Some(&last)) = (places.first(), places.last()) else { return Some((0, 0, step)) };
    let step = places.get(1).map_or(step, |second| second - first);
    let even = places.windows(2).all(|w| w[1] - w[0] == step);
    let end = if step > 0 { last + 1 } else { last - 1 };
    // Before the first place, counted from the end: -1 is the last.
    even.then_some((first, if end < 0 { -1 - n as i64 } else { end }, step))
}

/// The `i`-th place from `first` on, `step` apart.
fn place(first: usize, step: i64, i: usize) -> usize {
    (first as i128 + i as i128 * step as i128) as usize
}

/// `count` places from `first` on, `step` apart.
fn places(first: u64, count: u64, step: i64) -> impl Iterator<Item = usize> {
    (0..count as usize).map(move |i| place(first as usize, step, i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::{fold, ints, ty};

    #[test]
    fn ranges_clamp() {
        assert_eq!(range(10, 2, 7, 2), Some((2, 3)));
        assert_eq!(range(10, -3, i64::MAX, 1), Some((7, 3)));
        assert_eq!(range(10, 9, i64::MIN, -3), Some((9, 4)));
        assert_eq!(range(10, 20, 0, -1), Some((9, 9)));
        assert_eq!(range(10, 7, 2, 1), Some((7, 0)));
        assert_eq!(range(0, i64::MIN, i64::MAX, i64::MIN), Some((0, 0)));
        assert_eq!(range(3, i64::MAX, i64::MIN, i64::MIN), Some((2, 1)));
        assert_eq!(range(3, 0, 1, 0), None);
        assert_eq!([LAST, i64::MAX].map(|end| range(5, 4, end, -1)), [None; 2]);
        assert_eq!([LAST - 1, i64::MAX - 1].map(|end| range(5, 4, end, -1)), [Some((4, 0)); 2]);
        assert_eq!([-LAST, i64::MIN].map(|end| range(5, 4, end, -1)), [Some((4, 5)); 2]);
    }

    #[test]
    fn places_have_bounds_if_they_are_even() {
        assert_eq!(bounds(&[2, 3, 4], 6, 1), Some((2, 5, 1)));
        assert_eq!(bounds(&[1, 4], 6, 2), Some((1, 5, 3)));
        assert_eq!(bounds(&[4, 2, 0], 5, -2), Some((4, -6, -2)));
        assert_eq!(bounds(&[0], 5, -1), Some((0, -6, -1)));
        assert_eq!(bounds(&[3], 5, 2), Some((3, 4, 2)));
        assert_eq!(bounds(&[], 5, 1), Some((0, 0, 1)));
        assert_eq!(bounds(&[0, 1, 3], 5, 2), None);
        for (places, n) in [(vec![4, 2, 0], 5), (vec![1, 4], 6), (vec![0], 3)] {
            let (start, end, step) = bounds(&places, n, -1).unwrap();
            let (first, count) = range(n as u64, start, end, step).unwrap();
            assert!(super::places(first, count, step).eq(places.iter().map(|&p| p as usize)), "{places:?}");
        }
    }

    #[test]
    fn what_is_not_cut_stays_symbolic() {
        let y = |rest: &str| ty(13, &format!("input %x : f32[N,8,?] {rest}"));
        let ends = |e: i64| {
            y(&format!("const %s : i64[2] = {{0,0}} const %e : i64[2] = {{{e},3}} %y : ? = Slice(%x, %s, %e)"))
        };
        assert_eq!(ends(i64::MAX), "f32[N,3,?]");
        assert_eq!(ends(5), "f32[?,3,?]");
        let body = "const %s : i64[1] = {0} input %e : i64[1] const %a : i64[1] = {1} %y : ? = Slice(%x, %s, %e, %a)";
        assert_eq!(y(body), "f32[N,?,?]");
        assert_eq!(y("input %s : i64[2] input %e : i64[2] %y : ? = Slice(%x, %s, %e)"), "f32[?,?,?]");
        assert_eq!(ty(9, "input %x : f32[N,8] %y : ? = Slice<axes=[1], ends=[-1], starts=[0]>(%x)"), "f32[N,7]");
        assert_eq!(ty(10, "input %x : f32[N,8] %y : ? = Slice<axes=[1], ends=[-1], starts=[0]>(%x)"), "opaque");
    }

    #[test]
    fn numbers_of_shapes_are_cut() {
        let body = "input %x : f32[N,8,4,?] const %s : i64[1] = {-1} const %e : i64[1] = {-5} const %a : i64[1] = {0} \
            %h : ? = Shape(%x) %y : ? = Slice(%h, %s, %e, %a, %s)";
        assert_eq!(ints(13, body).unwrap(), "[?,4,8,N]");
    }

    #[test]
    fn slices_are_computed() {
        let body = "const %x : i32[2,3] = {1,2,3,4,5,6} const %s : i64[1] = {2} const %e : i64[1] = {-9} \
            const %a : i64[1] = {1} const %k : i64[1] = {-2} %y : ? = Slice(%x, %s, %e, %a, %k)";
        assert_eq!(fold(13, body).unwrap(), Tensor::from_ints(crate::ir::DType::I32, [2, 2], [3, 1, 6, 4]));
    }
}
