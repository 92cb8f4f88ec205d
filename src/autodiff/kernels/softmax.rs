//! Softmax and LogSoftmax. (ONNX Operators, since 1, 11, 13.)

use crate::autodiff::kernel::{Backward, Keeps, Kernel, Mode};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::Real;
use crate::ir::infer::axis;
use crate::ir::op::softmax::{Softmax as Op, SoftmaxKind};
use rayon::prelude::*;
use std::iter::StepBy;
use std::ops::Range;

pub fn build<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Op) -> Result<(), String> {
    let x = node.dims(0)?;
    let log = match op.function {
        SoftmaxKind::Softmax => false,
        SoftmaxKind::LogSoftmax => true,
        SoftmaxKind::Hardmax => return Err("it has no slope that would teach anything".into()),
    };
    let at = if op.flatten && op.axis == x.len() as i64 { x.len() } else { axis(op.axis, x.len())? };
    let (len, inner) = match op.flatten {
        true => (x[at..].iter().product(), 1),
        false => (x[at], x[at + 1..].iter().product()),
    };
    let slot = node.read(0)?;
    node.emit(SoftmaxKernel { log, len, inner }, &[slot])
}

/// Over `len` elements, `inner` apart.
struct SoftmaxKernel {
    log: bool,
    len: usize,
    inner: usize,
}

impl SoftmaxKernel {
    /// The places of each sequence in a block of `len * inner` elements.
    fn lanes(&self) -> impl Iterator<Item = StepBy<Range<usize>>> + use<> {
        let (block, inner) = (self.len * self.inner, self.inner);
        (0..inner).map(move |first| (first..block).step_by(inner))
    }
}

impl<T: Real> Kernel<T> for SoftmaxKernel {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0, output: true }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        let block = self.len * self.inner;
        y.par_chunks_mut(block).zip(x[0].par_chunks(block)).for_each(|(y, x)| {
            for lane in self.lanes() {
                let max = lane.clone().map(|i| x[i]).fold(T::of(f64::NEG_INFINITY), |m, v| if v > m { v } else { m });
                let mut total = T::ZERO;
                for i in lane.clone() {
                    y[i] = (x[i] - max).exp();
                    total += y[i];
                }
                if self.log {
                    let shift = max + total.ln();
                    lane.for_each(|i| y[i] = x[i] - shift);
                } else {
                    lane.for_each(|i| y[i] = y[i] / total);
                }
            }
        });
    }

    /// dx = y (dy − Σ y dy), or dy − eʸ Σ dy of the logarithm.
    fn backward(&mut self, back: Backward<'_, T>) {
        let block = self.len * self.inner;
        for to in back.dx.into_iter().flatten() {
            let fresh = to.fresh;
            let ends = back.y.par_chunks(block).zip(back.dy.par_chunks(block));
            to.to.par_chunks_mut(block).zip(ends).for_each(|(to, (y, dy))| {
                for lane in self.lanes() {
                    let mut total = T::ZERO;
                    lane.clone().for_each(|i| total += if self.log { dy[i] } else { y[i] * dy[i] });
                    for i in lane {
                        let d = if self.log { dy[i] - y[i].exp() * total } else { y[i] * (dy[i] - total) };
                        to[i] = if fresh { d } else { to[i] + d };
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;

    #[test]
    fn along_axes() {
        for op in ["Softmax", "LogSoftmax"] {
            for axis in [0, 1, -1] {
                check(13, &format!("const %x : f64[2,3,4] = seed(1) %y : ? = {op}<axis={axis}>(%x)"));
            }
            check(11, &format!("const %x : f64[2,3,4] = seed(1) %y : ? = {op}<axis=1>(%x)"));
        }
    }
}
