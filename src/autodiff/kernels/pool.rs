//! Pooling. (ONNX Operators: MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool.)

use super::pointwise::{Function, Map};
use super::reduce::sum;
use crate::autodiff::kernel::{Backward, Kernel, Mode, Scratch};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::{PIECES, Real};
use crate::autodiff::simd::strided_copy::{Lines, copy};
use crate::autodiff::vectors::widest;
use crate::autodiff::window::Window2d;
use crate::ir::op::conv::Window;
use crate::ir::op::pool::{GlobalPool, Pool, Pooling};
use rayon::prelude::*;

pub fn build<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Pool) -> Result<(), String> {
    let (x, y) = (node.dims(0)?, node.out(0)?);
    let kernel: Option<Vec<usize>> = op.window.kernel.iter().map(|&k| usize::try_from(k).ok()).collect();
    let geometry = Window2d::new(&op.window, &x, &y, &kernel.ok_or("its window does not fit")?)?;
    let slot = node.read(0)?;
    match op.function {
        Pooling::Max { .. } => node.emit(MaxPool::new(geometry, y.iter().product()), &[slot]),
        Pooling::Average { count_include_pad } => node.emit(AveragePool { geometry, count_include_pad }, &[slot]),
        Pooling::Lp { .. } => Err("its slope is not known here".into()),
    }
}

pub fn global<T: Real>(node: &mut Lowering<'_, '_, T>, op: &GlobalPool) -> Result<(), String> {
    let (x, y) = (node.dims(0)?, node.out(0)?);
    let (slot, n) = (node.read(0)?, y.iter().product::<usize>());
    match op.0 {
        Pooling::Max { .. } => {
            let geometry = Window2d::new(&Window::default(), &x, &y, &x[2..])?;
            node.emit(MaxPool::new(geometry, n), &[slot])
        }
        Pooling::Average { .. } => {
            let total = sum(node, slot, &x, &y)?;
            node.emit(Map(Function::scale(n as f64 / x.iter().product::<usize>() as f64)), &[total])
        }
        Pooling::Lp { .. } => Err("its slope is not known here".into()),
    }
}

/// The largest element of each window; the gradient goes to the first such.
struct MaxPool {
    geometry: Window2d,
    /// Where in its plane, or before it, each window begins: to wrap around with.
    starts: Vec<u32>,
    /// Where in its plane each output's element lies.
    places: Vec<u32>,
}

/// Windows that are worked on together, if there is a choice.
const TOGETHER: usize = 1024;

impl MaxPool {
    fn new(geometry: Window2d, outputs: usize) -> MaxPool {
        let start = |axis: usize, window: usize| (window * geometry.stride[axis]).wrapping_sub(geometry.pad[axis]);
        let starts = (0..geometry.windows()).map(|w| [w / geometry.output[1], w % geometry.output[1]]);
        let starts = starts.map(|[y, x]| start(0, y).wrapping_mul(geometry.input[1]).wrapping_add(start(1, x)) as u32);
        MaxPool { starts: starts.collect(), geometry, places: vec![0; outputs] }
    }

    /// Planes that are worked on together.
    fn together(&self) -> usize {
        (TOGETHER / self.geometry.windows()).max(1)
    }

    /// The largest elements of some planes, and their places; `seen` has room for what one tap of all windows sees.
    fn of_planes<T: Real>(&self, x: &[T], y: &mut [T], places: &mut [u32], seen: &mut [T]) {
        let (s, starts, none) = (&self.geometry, &self.starts, T::of(f64::NEG_INFINITY));
        let (plane, windows) = (s.plane(), s.windows());
        let seen = &mut seen[..y.len()];
        y.fill(none);
        for tap in (0..s.kernel[0]).flat_map(|y| (0..s.kernel[1]).map(move |x| [y, x])) {
            let [rows, columns] = [0, 1].map(|axis| s.inside(axis, tap[axis]));
            if rows.is_empty() || columns.is_empty() {
                continue;
            }
            if rows.len() * columns.len() < windows {
                seen.fill(none);
            }
            let to = Lines { first: rows.start * s.output[1] + columns.start, apart: [windows, s.output[1]], step: 1 };
            let from = Lines {
                first: s.at(0, rows.start, tap[0]) * s.input[1] + s.at(1, columns.start, tap[1]),
                apart: [plane, s.stride[0] * s.input[1]],
                step: s.stride[1],
            };
            copy(seen, to, x, from, [y.len() / windows, rows.len()], columns.len());
            let beyond = tap[0] * s.dilation[0] * s.input[1] + tap[1] * s.dilation[1];
            let planes = y.chunks_exact_mut(windows).zip(places.chunks_exact_mut(windows));
            let planes = planes.zip(seen.chunks_exact(windows));
            widest(
                #[inline(always)]
                move |_| planes.for_each(|((y, places), seen)| larger(y, places, seen, starts, beyond as u32)),
            );
        }
    }
}

impl<T: Real> Kernel<T> for MaxPool {
    fn scratch(&self) -> Scratch {
        Scratch { forward: PIECES * self.together() * self.geometry.windows(), backward: 0 }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], scratch: &mut [T], _: Mode) {
        let (plane, windows, together) = (self.geometry.plane(), self.geometry.windows(), self.together());
        let piece = (y.len() / windows).div_ceil(PIECES);
        let mut places = std::mem::take(&mut self.places);
        let ends = y.par_chunks_mut(piece * windows).zip(places.par_chunks_mut(piece * windows));
        let ends = ends.zip(x[0].par_chunks(piece * plane)).zip(scratch.par_chunks_mut(together * windows));
        ends.for_each(|(((y, places), x), seen)| {
            let parts = y.chunks_mut(together * windows).zip(places.chunks_mut(together * windows));
            parts.zip(x.chunks(together * plane)).for_each(|((y, places), x)| self.of_planes(x, y, places, seen));
        });
        self.places = places;
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let s = &self.geometry;
        for to in back.dx.into_iter().flatten() {
            let fresh = to.fresh;
            let ends = back.dy.par_chunks(s.windows()).zip(self.places.par_chunks(s.windows()));
            to.to.par_chunks_mut(s.plane()).zip(ends).for_each(|(to, (dy, places))| {
                if fresh {
                    to.fill(T::ZERO);
                }
                dy.iter().zip(places).for_each(|(&d, &place)| to[place as usize] += d);
            });
        }
    }
}

/// Takes what is larger in `x` than in `y`, and its place: the window's start and how far `beyond` it lies. NaN wins, and
/// stays. Not a branch for each, which would go either way as often, but vectors, and places by a mask.
#[inline(always)]
fn larger<T: Real>(y: &mut [T], places: &mut [u32], x: &[T], starts: &[u32], beyond: u32) {
    for ((y, place), (&x, start)) in y.iter_mut().zip(places).zip(x.iter().zip(starts)) {
        let wins = (x > *y) | x.is_nan();
        let mask = u32::from(wins).wrapping_neg();
        *place = (*place & !mask) | (start.wrapping_add(beyond) & mask);
        *y = if wins { x } else { *y };
    }
}

/// The mean of each window: of its elements inside the input, or inside the padded input.
struct AveragePool {
    geometry: Window2d,
    count_include_pad: bool,
}

impl AveragePool {
    /// Elements that each window counts, along an axis.
    fn counts(&self, axis: usize) -> Vec<usize> {
        let s = &self.geometry;
        let mut counts = vec![0; s.output[axis]];
        let end = s.pad[axis] + s.input[axis] + s.pad_end[axis];
        for tap in 0..s.kernel[axis] {
            if self.count_include_pad {
                let reach = |&w: &usize| w * s.stride[axis] + tap * s.dilation[axis] < end;
                (0..s.output[axis]).filter(reach).for_each(|w| counts[w] += 1);
            } else {
                s.inside(axis, tap).for_each(|w| counts[w] += 1);
            }
        }
        counts
    }

    /// Calls `f` with each element of a window that lies inside: places of output and input, in their planes.
    fn pairs(&self, mut f: impl FnMut(usize, usize)) {
        let s = &self.geometry;
        for ky in 0..s.kernel[0] {
            for y in s.inside(0, ky) {
                for kx in 0..s.kernel[1] {
                    for x in s.inside(1, kx) {
                        f(y * s.output[1] + x, s.at(0, y, ky) * s.input[1] + s.at(1, x, kx));
                    }
                }
            }
        }
    }

    /// One by the count of each window.
    fn shares<T: Real>(&self) -> Vec<T> {
        let (rows, columns) = (self.counts(0), self.counts(1));
        let share = |r: &usize, c: &usize| T::of(1.0 / (r * c).max(1) as f64);
        rows.iter().flat_map(|r| columns.iter().map(move |c| share(r, c))).collect()
    }
}

impl<T: Real> Kernel<T> for AveragePool {
    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        let (s, shares) = (&self.geometry, self.shares::<T>());
        y.par_chunks_mut(s.windows()).zip(x[0].par_chunks(s.plane())).for_each(|(y, x)| {
            y.fill(T::ZERO);
            self.pairs(|to, from| y[to] += x[from]);
            y.iter_mut().zip(&shares).for_each(|(y, &share)| *y *= share);
        });
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let (s, shares) = (&self.geometry, self.shares::<T>());
        for to in back.dx.into_iter().flatten() {
            let fresh = to.fresh;
            to.to.par_chunks_mut(s.plane()).zip(back.dy.par_chunks(s.windows())).for_each(|(to, dy)| {
                if fresh {
                    to.fill(T::ZERO);
                }
                self.pairs(|from, at| to[at] += dy[from] * shares[from]);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;
    use crate::autodiff::{Mode, Tape, weights};
    use crate::ir::text::parse;

    #[test]
    fn a_number_that_is_none_stays() {
        let text = "model m opset 17 {
            input %x : f32[1,1,3,3] const %w : f32[1] = {1}
            %z : f32[1,1,3,3] = Mul(%x, %w)
            %y : f32[1,1,2,2] = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(%z)
            output %y
        }";
        let graph = parse::model(text).unwrap().graph;
        let mut tape = Tape::<f32>::new(&graph, &[], graph.outputs(), &weights(&graph)).unwrap();
        tape.input_mut(0).copy_from_slice(&[1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN]);
        tape.forward(Mode::Train);
        assert_eq!(tape.output(0)[..3], [1.0, 2.0, 0.0]);
        assert!(tape.output(0)[3].is_nan());
        tape.backward(&[vec![1.0; 4]]);
    }

    #[test]
    fn windows() {
        let windows = [
            ("kernel_shape=[2,2], strides=[2,2]", "2,3,4,5"),
            ("kernel_shape=[3,2], pads=[1,0,2,1], strides=[2,1]", "1,2,5,4"),
            ("ceil_mode=1, kernel_shape=[3,3], strides=[2,2]", "1,2,6,6"),
            ("ceil_mode=1, kernel_shape=[2,2], pads=[0,0,1,1], strides=[2,2]", "1,2,4,5"),
            ("auto_pad=\"SAME_UPPER\", kernel_shape=[3,3], strides=[2,2]", "1,1,6,5"),
            ("kernel_shape=[3], strides=[2]", "2,2,7"),
        ];
        for (window, x) in windows {
            for op in ["MaxPool", "AveragePool", "AveragePool<count_include_pad=1"] {
                let joined = if op.contains('<') { format!("{op}, {window}>") } else { format!("{op}<{window}>") };
                check(19, &format!("const %x : f64[{x}] = seed(1) %y : ? = {joined}(%x)"));
            }
        }
        let dilated = "dilations=[2,1], kernel_shape=[2,2]";
        check(12, &format!("const %x : f64[2,2,5,5] = seed(1) %y : ? = MaxPool<{dilated}>(%x)"));
    }

    #[test]
    fn whole_planes() {
        for op in ["GlobalAveragePool", "GlobalMaxPool"] {
            check(13, &format!("const %x : f64[2,3,4,5] = seed(1) %y : ? = {op}(%x)"));
            check(13, &format!("const %x : f64[2,3,7] = seed(1) %y : ? = {op}(%x)"));
        }
    }
}
