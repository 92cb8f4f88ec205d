//! Resize and its forerunner Upsample. (ONNX Operators: Resize, since 10, 11, 13, 18, 19; Upsample, since 7, 9, to
//! opset 9.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::expand::Where;
use crate::ir::op::reshape::axes;
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Axis, Change, Kept, Ties};

/// The input sampled at another resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Resize {
    /// "nearest", "linear" or "cubic".
    pub mode: String,
    /// How a coordinate of the result becomes one of the input; "asymmetric" is all there was before opset 11.
    pub coordinates: String,
    /// How a coordinate is rounded by "nearest"; "floor" is all there was before opset 11.
    pub nearest: String,
    pub cubic_coefficient: f32,
    pub exclude_outside: bool,
    pub extrapolation: f32,
    /// Since opset 18.
    pub antialias: bool,
    /// The axes that roi, scales and sizes are for; `None` for all. Since opset 18.
    pub axes: Option<Vec<i64>>,
    pub aspect: Aspect,
}

/// What sizes mean when they would change the ratio of the axes. Since opset 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aspect {
    /// They are the sizes of the result.
    #[default]
    Stretch,
    /// The ratio stays; no axis becomes larger than its size.
    NotLarger,
    /// The ratio stays; no axis becomes smaller than its size.
    NotSmaller,
}

const ASPECTS: [(Aspect, &str); 3] =
    [(Aspect::Stretch, "stretch"), (Aspect::NotLarger, "not_larger"), (Aspect::NotSmaller, "not_smaller")];

/// An axis times a scale, if that is known, rounded down, in f32 as runtimes compute it.
fn scaled(n: &Dim, scale: Option<f64>) -> Dim {
    let Some(scale) = scale else { return Dim::Unknown };
    match n {
        _ if scale == 1.0 => n.clone(),
        Dim::Known(n) if scale > 0.0 => {
            let size = (*n as f32 * scale as f32).floor();
            if size < 1e15 { Dim::Known(size as u64) } else { Dim::Unknown }
        }
        _ => Dim::Unknown,
    }
}

/// Scales at an input, as far as they are known: of those that are computed at run time, whole numbers.
fn scales_at(cx: &Infer<'_>, slot: usize) -> Option<Vec<Option<f64>>> {
    let scales = match cx.constant(slot) {
        Some(t) => t.floats()?.into_iter().map(Some).collect(),
        None => cx.ints(slot)?.into_iter().map(|d| d.known().map(|n| n as f64)).collect(),
    };
    Some(scales).filter(|s: &Vec<_>| !s.is_empty())
}

/// Scales that are computed at an input, with 1 for what keeps its size, of which there may be less.
fn unscaled(kept: &dyn Kept, slot: usize) -> Option<Vec<Change>> {
    let cx = kept.cx();
    let stays: Vec<bool> = scales_at(cx, slot).unwrap_or_default().iter().map(|s| *s == Some(1.0)).collect();
    if cx.constant(slot).is_some() || !stays.contains(&true) {
        return Some(Vec::new());
    }
    let mask = Tensor::from_ints(DType::BOOL, [stays.len()], stays.iter().map(|&s| s.into()));
    Some(vec![Change::Through(slot, Where.into(), vec![mask, Tensor::from_floats(DType::F32, [1], [1.0])])])
}

fn rank_only(cx: &Infer<'_>) -> Vec<Fact> {
    let shape = cx.shape(0).map(|x| Shape(vec![Dim::Unknown; x.rank()]));
    vec![Fact::tensor(cx.dtype(0), shape)]
}

impl Resize {
    /// The slot of the scales.
    fn slot(cx: &Infer<'_>) -> usize {
        if cx.opset() == 10 { 1 } else { 2 }
    }

    fn scales(cx: &Infer<'_>) -> Option<Vec<Option<f64>>> {
        scales_at(cx, Resize::slot(cx))
    }

    /// The axes that scales or sizes are for, in their order, each with whether it surely stays as it is. `None` if that
    /// is not known.
    fn plan(&self, cx: &Infer<'_>) -> Option<Vec<(usize, bool)>> {
        let x = cx.shape(0)?;
        let all: Vec<i64> = (0..x.rank() as i64).collect();
        let at = axes(self.axes.as_deref().unwrap_or(&all), x.rank()).ok()?;
        let stays: Vec<bool> = match (Resize::scales(cx), cx.ints(3).filter(|s| !s.is_empty())) {
            _ if self.coordinates == "tf_crop_and_resize" || self.aspect != Aspect::Stretch => vec![false; at.len()],
            (Some(scales), _) => scales.into_iter().map(|s| s == Some(1.0)).collect(),
            (None, Some(sizes)) => at.iter().zip(sizes).map(|(&a, n)| n.is_same() && n == x.0[a]).collect(),
            (None, None) => vec![false; at.len()],
        };
        (stays.len() == at.len()).then(|| at.into_iter().zip(stays).collect())
    }

    /// The axes of sizes that keep the ratio of the axes.
    fn keep_aspect(&self, x: &Shape, at: &[usize], sizes: &mut [Dim]) {
        if self.aspect == Aspect::Stretch {
            return;
        }
        let known = at.iter().zip(&*sizes).map(|(&a, s)| Some((x.0[a].known()?, s.known()?)));
        let scales = known.map(|p| p.filter(|p| p.0 > 0).map(|(n, s)| s as f32 / n as f32)).collect::<Option<Vec<_>>>();
        let pick = if self.aspect == Aspect::NotLarger { f32::min } else { f32::max };
        let scale = scales.and_then(|s| s.into_iter().reduce(pick));
        for (size, &a) in sizes.iter_mut().zip(at) {
            let rounded = scale.zip(x.0[a].known()).map(|(s, n)| (s * n as f32 + 0.5).floor());
            *size = rounded.filter(|&r| r < 1e15).map_or(Dim::Unknown, |r| Dim::Known(r as u64));
        }
    }
}

impl Operator for Resize {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        if opset < 10 {
            return None;
        }
        let mut word = |name, since, default: &str, before: &str| {
            if opset < since { before.to_string() } else { attrs.str(name).unwrap_or(default.into()) }
        };
        let mode = word("mode", 10, "nearest", "");
        let coordinates = word("coordinate_transformation_mode", 11, "half_pixel", "asymmetric");
        let nearest = word("nearest_mode", 11, "round_prefer_floor", "floor");
        let aspect = word("keep_aspect_ratio_policy", 18, "stretch", "stretch");
        Some(Resize {
            mode,
            coordinates,
            nearest,
            cubic_coefficient: if opset < 11 { -0.75 } else { attrs.float_or("cubic_coeff_a", -0.75) },
            exclude_outside: opset >= 11 && attrs.flag("exclude_outside"),
            extrapolation: if opset < 11 { 0.0 } else { attrs.float_or("extrapolation_value", 0.0) },
            antialias: opset >= 18 && attrs.flag("antialias"),
            axes: if opset < 18 { None } else { attrs.ints("axes") },
            aspect: ASPECTS.iter().find(|a| a.1 == aspect)?.0,
        })
    }

    fn op_type(&self) -> &'static str {
        "Resize"
    }

    fn attrs(&self, opset: i64) -> Vec<Attr> {
        let mut out = Vec::new();
        if self.antialias {
            out.push(Attr::int("antialias", 1));
        }
        out.extend(self.axes.iter().map(|a| Attr::ints("axes", a)));
        if opset >= 11 && self.coordinates != "half_pixel" {
            out.push(Attr::str("coordinate_transformation_mode", &self.coordinates));
        }
        if self.cubic_coefficient != -0.75 {
            out.push(Attr::float("cubic_coeff_a", self.cubic_coefficient));
        }
        if self.exclude_outside {
            out.push(Attr::int("exclude_outside", 1));
        }
        if self.extrapolation != 0.0 {
            out.push(Attr::float("extrapolation_value", self.extrapolation));
        }
        let aspect = ASPECTS.iter().find(|a| a.0 == self.aspect && a.0 != Aspect::Stretch);
        out.extend(aspect.map(|a| Attr::str("keep_aspect_ratio_policy", a.1)));
        if self.mode != "nearest" {
            out.push(Attr::str("mode", &self.mode));
        }
        if opset >= 11 && self.nearest != "round_prefer_floor" {
            out.push(Attr::str("nearest_mode", &self.nearest));
        }
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(x) = cx.shape(0) else { return Ok(rank_only(cx)) };
        let all: Vec<i64> = (0..x.rank() as i64).collect();
        let at = axes(self.axes.as_deref().unwrap_or(&all), x.rank())?;
        let new: Vec<Dim> = match (Resize::scales(cx), cx.ints(3).filter(|s| !s.is_empty())) {
            (None, Some(mut sizes)) => {
                if sizes.len() == at.len() {
                    self.keep_aspect(x, &at, &mut sizes);
                }
                sizes
            }
            (Some(scales), _) if self.coordinates != "tf_crop_and_resize" => {
                if scales.len() != at.len() {
                    return Err(format!("{} scales for {} axes", scales.len(), at.len()));
                }
                at.iter().zip(scales).map(|(&a, s)| scaled(&x.0[a], s)).collect()
            }
            _ => return Ok(rank_only(cx)),
        };
        if new.len() != at.len() {
            return Err(format!("{} sizes for {} axes", new.len(), at.len()));
        }
        let mut y = x.clone();
        for (a, d) in at.into_iter().zip(new) {
            y.0[a] = d;
        }
        Ok(vec![Fact::tensor(cx.dtype(0), Some(y))])
    }

    /// What is not sampled anew passes.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        let Some((x, plan)) = t.cx().shape(0).cloned().zip(self.plan(t.cx())) else { return true };
        let resized: Vec<usize> = plan.iter().filter(|(_, stays)| !stays).map(|(a, _)| *a).collect();
        (0..x.rank()).filter(|a| !resized.contains(a)).for_each(|a| t.pass((0, a), (0, a)));
        true
    }

    /// Sizes and scales along what stays as it is.
    fn overwrites(&self, cx: &Infer<'_>, _: Option<&Shape>, (slot, position): Axis) -> bool {
        let stays = self.plan(cx).and_then(|plan| Some(plan.get(position)?.1)).unwrap_or(false);
        cx.opset() >= 10 && stays && (slot == 3 || slot == Resize::slot(cx))
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let cx = kept.cx();
        if !cx.has(3) {
            return unscaled(kept, Resize::slot(cx));
        }
        let (x, plan) = (cx.shape(0)?, self.plan(cx)?);
        let Some(old) = cx.constant(3) else {
            let size = |(a, stays): (usize, bool)| match kept.output((0, a)) {
                Some(positions) => Some(positions.len() as i64),
                None => x.0[a].known().filter(|_| stays).and_then(|n| i64::try_from(n).ok()),
            };
            let sizes: Vec<Option<i64>> = plan.into_iter().map(size).collect();
            let mask = Tensor::from_ints(DType::BOOL, [sizes.len()], sizes.iter().map(|n| n.is_some().into()));
            let sizes: Vec<i64> = sizes.into_iter().map(|n| n.unwrap_or(0)).collect();
            return Some(vec![Change::Through(3, Where.into(), vec![mask, Tensor::i64([sizes.len()], &sizes)])]);
        };
        let old = old.ints()?;
        let size = |((a, _), n): ((usize, bool), &i64)| kept.output((0, a)).map_or(*n, |p| p.len() as i64);
        let new: Vec<i64> = plan.into_iter().zip(&old).map(size).collect();
        Some(if new == old { Vec::new() } else { vec![Change::Constant(3, Tensor::i64([new.len()], &new))] })
    }
}

/// The input sampled at a higher resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Upsample {
    /// "nearest" or "linear".
    pub mode: String,
    /// Of every axis: an attribute before opset 9; from then on `None`, and input 1 has them.
    pub scales: Option<Vec<f32>>,
}

impl Operator for Upsample {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let mode = attrs.str("mode").unwrap_or("nearest".into());
        let scales = if opset < 9 { Some(attrs.floats("scales")?) } else { None };
        (opset < 10).then_some(Upsample { mode, scales })
    }

    fn op_type(&self) -> &'static str {
        "Upsample"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mode = (self.mode != "nearest").then(|| Attr::str("mode", &self.mode));
        mode.into_iter().chain(self.scales.iter().map(|s| Attr::floats("scales", s))).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(x), Some(scales)) = (cx.shape(0), self.factors(cx)) else { return Ok(rank_only(cx)) };
        if scales.len() != x.rank() {
            return Err(format!("{} scales for an input {x}", scales.len()));
        }
        let y = x.0.iter().zip(scales).map(|(n, s)| scaled(n, s)).collect();
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(y)))])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let scales = self.factors(t.cx()).unwrap_or_default();
        for (axis, _) in scales.into_iter().enumerate().filter(|s| s.1 == Some(1.0)) {
            t.pass((0, axis), (0, axis));
        }
        true
    }

    fn overwrites(&self, cx: &Infer<'_>, _: Option<&Shape>, (slot, position): Axis) -> bool {
        slot == 1 && self.factors(cx).is_some_and(|s| s.get(position) == Some(&Some(1.0)))
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        if self.scales.is_some() { Some(Vec::new()) } else { unscaled(kept, 1) }
    }
}

impl Upsample {
    /// The scale of every axis, as far as it is known.
    fn factors(&self, cx: &Infer<'_>) -> Option<Vec<Option<f64>>> {
        let listed = self.scales.as_ref().map(|s| s.iter().map(|&s| Some(s.into())).collect());
        listed.or_else(|| scales_at(cx, 1))
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::ty;

    #[test]
    fn sizes_and_scales() {
        let x = "input %x : f32[N,3,5,7]";
        let scales = "const %s : f32[4] = {1,1,2,0.5}";
        assert_eq!(ty(10, &format!("{x} {scales} %y : ? = Resize(%x, %s)")), "f32[N,3,10,3]");
        assert_eq!(ty(11, &format!("{x} {scales} %y : ? = Resize<mode=\"linear\">(%x, _, %s)")), "f32[N,3,10,3]");
        let crop = "Resize<coordinate_transformation_mode=\"tf_crop_and_resize\">";
        assert_eq!(ty(11, &format!("{x} {scales} %y : ? = {crop}(%x, _, %s)")), "f32[?,?,?,?]");
        let sizes = format!("{x} const %s : i64[2] = {{10,7}} %y : ? =");
        assert_eq!(ty(18, &format!("{sizes} Resize<axes=[2,-1]>(%x, _, _, %s)")), "f32[N,3,10,7]");
        let aspect =
            |p: &str| ty(18, &format!("{sizes} Resize<axes=[2,3], keep_aspect_ratio_policy=\"{p}\">(%x, _, _, %s)"));
        assert_eq!(aspect("not_larger"), "f32[N,3,5,7]");
        assert_eq!(aspect("not_smaller"), "f32[N,3,10,14]");
        assert_eq!(ty(7, &format!("{x} %y : ? = Upsample<scales=[1.0,1.0,2.0,2.0]>(%x)")), "f32[N,3,10,14]");
        assert_eq!(ty(9, &format!("{x} {scales} %y : ? = Upsample(%x, %s)")), "f32[N,3,10,3]");
        assert_eq!(ty(10, &format!("{x} {scales} %y : ? = Upsample(%x, %s)")), "opaque");
    }
}
