//! Resize and Upsample, nearest and linear: axis by axis, each element a sum of a few along the axis. (ONNX Operators:
//! Resize, since 10, 11, 13, 18, 19; Upsample.)

use crate::autodiff::kernel::{Backward, Kernel, Mode};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::Real;
use crate::ir::Tensor;
use crate::ir::op::reshape::axes;
use crate::ir::op::resize::{Aspect, Resize, Upsample};
use rayon::prelude::*;

pub fn build<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Resize) -> Result<(), String> {
    let rank = node.dims(0)?.len();
    if op.antialias || op.exclude_outside || op.aspect != Aspect::Stretch {
        return Err("how it weighs its elements is not known here".into());
    }
    let slot = if node.graph().opset == 10 { 1 } else { 2 };
    let given = node.content(slot);
    if node.has(slot) && given.is_none() {
        return Err("its scales are computed from what is fed".into());
    }
    let given = given.filter(|t| !t.is_empty());
    let given = given.as_ref().and_then(Tensor::floats);
    let all: Vec<i64> = (0..rank as i64).collect();
    let at = axes(op.axes.as_deref().unwrap_or(&all), rank)?;
    let mut scales = vec![None; rank];
    if let Some(given) = given.filter(|g| g.len() == at.len()) {
        at.into_iter().zip(given).for_each(|(a, s)| scales[a] = Some(s));
    }
    sample(node, &op.mode, &op.coordinates, &op.nearest, &scales)
}

pub fn upsample<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Upsample) -> Result<(), String> {
    let rank = node.dims(0)?.len();
    let attribute = op.scales.as_ref().map(|s| s.iter().map(|&s| s.into()).collect::<Vec<f64>>());
    let scales = attribute.or_else(|| node.content(1)?.floats()).filter(|s| s.len() == rank);
    let scales: Vec<_> = scales.ok_or("its scales are computed from what is fed")?.into_iter().map(Some).collect();
    sample(node, &op.mode, "asymmetric", "floor", &scales)
}

/// Steps for each axis that is sampled anew; a scale that is not given follows from the sizes.
fn sample<T: Real>(
    node: &mut Lowering<'_, '_, T>,
    mode: &str,
    coordinates: &str,
    nearest: &str,
    scales: &[Option<f64>],
) -> Result<(), String> {
    let (mut shape, y) = (node.dims(0)?, node.out(0)?);
    let mut slot = node.read(0)?;
    for axis in 0..shape.len() {
        let (from, to) = (shape[axis], y[axis]);
        let scale = scales[axis].unwrap_or(to as f64 / from as f64);
        if from == to && scale == 1.0 {
            continue;
        }
        let taps: Vec<Vec<(usize, T)>> = (0..to)
            .map(|i| {
                let x = coordinate(coordinates, i as f64, scale, from as f64, to as f64)?;
                taps(mode, nearest, x, from)
            })
            .collect::<Result<_, String>>()?;
        shape[axis] = to;
        let inner = shape[axis + 1..].iter().product();
        slot = node.push(Along { from, inner, taps }, &[slot], shape.iter().product());
    }
    node.bind(0, slot);
    Ok(())
}

/// Where element `i` of `to` lies among `from` elements. (ONNX Operators: Resize, coordinate_transformation_mode.)
fn coordinate(mode: &str, i: f64, scale: f64, from: f64, to: f64) -> Result<f64, String> {
    let half = (i + 0.5) / scale - 0.5;
    Ok(match mode {
        "half_pixel" => half,
        "pytorch_half_pixel" => {
            if to > 1.0 {
                half
            } else {
                0.0
            }
        }
        "half_pixel_symmetric" => {
            let adjust = to / (scale * from);
            from / 2.0 * (1.0 - adjust) + half
        }
        "align_corners" => {
            if to > 1.0 {
                i * (from - 1.0) / (to - 1.0)
            } else {
                0.0
            }
        }
        "asymmetric" => i / scale,
        other => return Err(format!("its coordinates are {other}")),
    })
}

/// The elements that lie around a coordinate, weighted.
fn taps<T: Real>(mode: &str, nearest: &str, x: f64, from: usize) -> Result<Vec<(usize, T)>, String> {
    let place = |x: f64| x.clamp(0.0, (from - 1) as f64) as usize;
    match mode {
        "nearest" => {
            let x = match nearest {
                "round_prefer_floor" => (x - 0.5).ceil(),
                "round_prefer_ceil" => (x + 0.5).floor(),
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                other => return Err(format!("it rounds by {other}")),
            };
            Ok(vec![(place(x), T::ONE)])
        }
        "linear" => {
            let share = x - x.floor();
            Ok(vec![(place(x.floor()), T::of(1.0 - share)), (place(x.floor() + 1.0), T::of(share))])
        }
        other => Err(format!("its mode is {other}")),
    }
}

/// y[o, i, :] = Σ w x[o, j, :] over the taps (j, w) of i.
struct Along<T> {
    from: usize,
    inner: usize,
    taps: Vec<Vec<(usize, T)>>,
}

impl<T: Real> Along<T> {
    /// Calls `f` with each tap: where the elements of the output and of the input begin, in their blocks.
    fn each(&self, mut f: impl FnMut(usize, usize, T)) {
        for (i, taps) in self.taps.iter().enumerate() {
            taps.iter().for_each(|&(j, w)| f(i * self.inner, j * self.inner, w));
        }
    }
}

impl<T: Real> Kernel<T> for Along<T> {
    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        let n = self.inner;
        y.par_chunks_mut(self.taps.len() * n).zip(x[0].par_chunks(self.from * n)).for_each(|(y, x)| {
            y.fill(T::ZERO);
            self.each(|to, from, w| {
                y[to..to + n].iter_mut().zip(&x[from..from + n]).for_each(|(y, &x)| *y += w * x);
            });
        });
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let n = self.inner;
        for to in back.dx.into_iter().flatten() {
            let blocks = to.zeroed().par_chunks_mut(self.from * n).zip(back.dy.par_chunks(self.taps.len() * n));
            blocks.for_each(|(dx, dy)| {
                self.each(|from, to, w| {
                    dx[to..to + n].iter_mut().zip(&dy[from..from + n]).for_each(|(dx, &d)| *dx += w * d);
                });
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;

    #[test]
    fn sampled() {
        let x = "const %x : f64[2,1,3,4] = seed(1) const %s : f32[4] = {1,1,2,1.5} const %n : i64[4] = {2,1,5,2}";
        for mode in ["nearest", "linear"] {
            for how in ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"] {
                let op = format!("Resize<coordinate_transformation_mode=\"{how}\", mode=\"{mode}\">");
                check(13, &format!("{x} %y : ? = {op}(%x, _, %s)"));
                check(13, &format!("{x} %y : ? = {op}(%x, _, _, %n)"));
            }
        }
        check(10, "const %x : f64[1,1,2,3] = seed(1) const %s : f32[4] = {1,1,2,2} %y : ? = Resize(%x, %s)");
        check(7, "const %x : f64[1,1,2,3] = seed(1) %y : ? = Upsample<mode=\"linear\", scales=[1.0,1.0,2.0,3.0]>(%x)");
        let axes = "const %x : f64[1,1,2,3] = seed(1) const %n : i64[2] = {4,5}";
        check(18, &format!("{axes} %y : ? = Resize<axes=[2,3], mode=\"linear\">(%x, _, _, %n)"));
    }
}
