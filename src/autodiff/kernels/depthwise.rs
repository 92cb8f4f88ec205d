//! Depthwise convolutions, channel by channel: along the padded planes of some images every tap of the window is one shifted
//! run.

use super::conv::channel_sums;
use crate::autodiff::kernel::{Backward, Keeps, Kernel, Mode, Scratch};
use crate::autodiff::real::{PIECES, Real, dot};
use crate::autodiff::simd::strided_copy::{Lines, copy};
use crate::autodiff::vectors::widest;
use crate::autodiff::window::Window2d;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of padded planes that are worked on together, if there is a choice: they stay in the first cache.
const TOGETHER: usize = 2048;

/// Y[N, M, …] = X[N, C, …] ∗ W[M, 1, k…] + B[M], channel `m` from channel `m / (M / C)`.
pub struct Depthwise {
    geometry: Window2d,
    images: usize,
    channels: usize,
    outputs: usize,
    /// Rows and columns of a plane with its padding.
    padded: [usize; 2],
    /// How far each tap lies behind the first in a padded plane.
    offsets: Vec<usize>,
}

impl Depthwise {
    pub fn new(geometry: Window2d, images: usize, channels: usize, outputs: usize) -> Depthwise {
        let reach = |axis: usize| {
            let windows = (geometry.output[axis] - 1) * geometry.stride[axis]
                + (geometry.kernel[axis] - 1) * geometry.dilation[axis];
            (windows + 1).max(geometry.pad[axis] + geometry.input[axis])
        };
        let padded = [reach(0), reach(1)];
        let tap = |i: usize| {
            let (y, x) = (i / geometry.kernel[1], i % geometry.kernel[1]);
            y * geometry.dilation[0] * padded[1] + x * geometry.dilation[1]
        };
        let offsets = (0..geometry.taps()).map(tap).collect();
        Depthwise { geometry, images, channels, outputs, padded, offsets }
    }

    fn piece(&self) -> usize {
        self.images.div_ceil(PIECES)
    }

    fn pieces(&self) -> usize {
        self.images.div_ceil(self.piece())
    }

    /// The images of a piece that are worked on together, range by range.
    fn ranges(&self, images: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let together = self.together();
        (0..images).step_by(together).map(move |i| i..images.min(i + together))
    }

    fn together(&self) -> usize {
        (TOGETHER / self.plane()).clamp(1, self.piece())
    }

    /// Elements of a padded plane.
    fn plane(&self) -> usize {
        self.padded[0] * self.padded[1]
    }

    /// From the first window's first element to the last one's, in a padded plane.
    fn run(&self) -> usize {
        let [rows, columns] = [0, 1].map(|axis| (self.geometry.output[axis] - 1) * self.geometry.stride[axis]);
        rows * self.padded[1] + columns + 1
    }

    /// The last tap's offset.
    fn reach(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Where the rows of a channel of some images lie in padded planes, and in the input.
    fn rows(&self, images: &Range<usize>, channel: usize) -> [Lines; 2] {
        let (s, row) = (&self.geometry, self.padded[1]);
        let first = (images.start * self.channels + channel) * s.plane();
        [
            Lines { first: s.pad[0] * row + s.pad[1], apart: [self.plane(), row], step: 1 },
            Lines { first, apart: [self.channels * s.plane(), s.input[1]], step: 1 },
        ]
    }

    /// Where the windows of an output of some images begin in padded planes, and where their results lie in the output.
    fn windows(&self, images: &Range<usize>, output: usize) -> [Lines; 2] {
        let s = &self.geometry;
        let first = (images.start * self.outputs + output) * s.windows();
        [
            Lines { first: 0, apart: [self.plane(), s.stride[0] * self.padded[1]], step: s.stride[1] },
            Lines { first, apart: [self.outputs * s.windows(), s.output[1]], step: 1 },
        ]
    }

    /// Copies the rows of a channel of some images to padded planes.
    fn pad<T: Real>(&self, x: &[T], images: &Range<usize>, channel: usize, padded: &mut [T]) {
        let [to, from] = self.rows(images, channel);
        copy(padded, to, x, from, [images.len(), self.geometry.input[0]], self.geometry.input[1]);
    }

    /// Copies each result of an output of some images to where its window begins.
    fn spread<T: Real>(&self, y: &[T], images: &Range<usize>, output: usize, padded: &mut [T]) {
        let [to, from] = self.windows(images, output);
        copy(padded, to, y, from, [images.len(), self.geometry.output[0]], self.geometry.output[1]);
    }

    /// The runs of padded planes on which windows begin: one of all, where rows are not skipped.
    fn runs(&self, images: usize) -> impl Iterator<Item = Range<usize>> {
        let (row, plane) = ((self.geometry.output[1] - 1) * self.geometry.stride[1] + 1, self.plane());
        let whole = (self.geometry.stride[0] == 1).then(|| 0..(images - 1) * plane + self.run());
        let step = self.geometry.stride[0] * self.padded[1];
        let starts = (0..images).flat_map(move |i| (0..self.geometry.output[0]).map(move |y| i * plane + y * step));
        let rows = starts.filter(move |_| self.geometry.stride[0] > 1).map(move |at| at..at + row);
        whole.into_iter().chain(rows)
    }

    /// Scratch memory of a piece: partial sums, padded planes, such with room for a shift either way, planes.
    fn room(&self) -> [usize; 4] {
        let planes = self.together() * self.plane();
        [self.outputs * self.geometry.taps(), planes, planes + 2 * self.reach(), planes]
    }

    fn split<'a, T: Real>(&self, scratch: &'a mut [T]) -> [&'a mut [T]; 4] {
        let [a, b, c, _] = self.room();
        let (partial, rest) = scratch.split_at_mut(a);
        let (padded, rest) = rest.split_at_mut(b);
        let (shifted, made) = rest.split_at_mut(c);
        padded.fill(T::ZERO);
        shifted.fill(T::ZERO);
        [partial, padded, shifted, made]
    }

    /// Elements of a piece of the input and of the output.
    fn per_piece(&self) -> [usize; 2] {
        let piece = self.piece();
        [piece * self.channels * self.geometry.plane(), piece * self.outputs * self.geometry.windows()]
    }
}

/// y[i] += Σ w[k] x[i + offsets[k]].
fn correlate<T: Real>(x: &[T], w: &[T], offsets: &[usize], y: &mut [T]) {
    widest(
        #[inline(always)]
        |_| correlate_on(x, w, offsets, y),
    );
}

#[inline(always)]
fn correlate_on<T: Real>(x: &[T], w: &[T], offsets: &[usize], y: &mut [T]) {
    let n = y.len();
    let from = |k: usize| &x[offsets[k]..][..n];
    if let &[a, b, c, d, e, f, g, h, i] = w {
        // A window of 3 × 3 in one go; another one tap by tap.
        let (xa, xb, xc) = (from(0), from(1), from(2));
        let (xd, xe, xf) = (from(3), from(4), from(5));
        let (xg, xh, xi) = (from(6), from(7), from(8));
        for j in 0..n {
            let top = a * xa[j] + b * xb[j] + c * xc[j];
            let middle = d * xd[j] + e * xe[j] + f * xf[j];
            y[j] += top + middle + (g * xg[j] + h * xh[j] + i * xi[j]);
        }
        return;
    }
    for (k, &w) in w.iter().enumerate() {
        y.iter_mut().zip(from(k)).for_each(|(y, &x)| *y += w * x);
    }
}

impl<T: Real> Kernel<T> for Depthwise {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn scratch(&self) -> Scratch {
        let room = self.pieces() * self.room().iter().sum::<usize>();
        Scratch { forward: room, backward: room }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], scratch: &mut [T], _: Mode) {
        let (s, room, multiplier) = (&self.geometry, self.room().iter().sum(), self.outputs / self.channels);
        let ([per_x, per_y], taps) = (self.per_piece(), s.taps());
        let (w, bias) = (x[1], x.get(2));
        let ends = x[0].par_chunks(per_x).zip(y.par_chunks_mut(per_y));
        ends.zip(scratch.par_chunks_mut(room)).for_each(|((x, y), scratch)| {
            let [_, padded, _, made] = self.split(scratch);
            for images in self.ranges(x.len() / (self.channels * s.plane())) {
                for m in 0..self.outputs {
                    if m % multiplier == 0 {
                        self.pad(x, &images, m / multiplier, padded);
                    }
                    made[..images.len() * self.plane()].fill(bias.map_or(T::ZERO, |b| b[m]));
                    for run in self.runs(images.len()) {
                        correlate(&padded[run.start..], &w[m * taps..][..taps], &self.offsets, &mut made[run]);
                    }
                    let [from, to] = self.windows(&images, m);
                    copy(y, to, made, from, [images.len(), s.output[0]], s.output[1]);
                }
            }
        });
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let (s, room, multiplier) = (&self.geometry, self.room().iter().sum(), self.outputs / self.channels);
        let ([per_x, per_y], taps, reach) = (self.per_piece(), s.taps(), self.reach());
        let mut dx = dx.into_iter();
        if let Some(dx) = dx.next().flatten() {
            let back: Vec<usize> = self.offsets.iter().map(|o| reach - o).collect();
            let (fresh, ends) = (dx.fresh, dx.to.par_chunks_mut(per_x).zip(dy.par_chunks(per_y)));
            ends.zip(scratch.par_chunks_mut(room)).for_each(|((dx, dy), scratch)| {
                let [_, _, shifted, made] = self.split(scratch);
                for images in self.ranges(dx.len() / (self.channels * s.plane())) {
                    let made = &mut made[..images.len() * self.plane()];
                    for m in 0..self.outputs {
                        let ([here, there], counts) = (self.rows(&images, m / multiplier), [images.len(), s.input[0]]);
                        match fresh && m % multiplier == 0 {
                            true => made.fill(T::ZERO),
                            false => copy(made, here, dx, there, counts, s.input[1]),
                        }
                        self.spread(dy, &images, m, &mut shifted[reach..]);
                        correlate(shifted, &x[1][m * taps..][..taps], &back, made);
                        copy(dx, there, made, here, counts, s.input[1]);
                    }
                }
            });
        }
        if let Some(dw) = dx.next().flatten() {
            let ends = x[0].par_chunks(per_x).zip(dy.par_chunks(per_y));
            ends.zip(scratch.par_chunks_mut(room)).for_each(|((x, dy), scratch)| {
                let [partial, padded, shifted, _] = self.split(scratch);
                partial.fill(T::ZERO);
                for images in self.ranges(x.len() / (self.channels * s.plane())) {
                    for m in 0..self.outputs {
                        if m % multiplier == 0 {
                            self.pad(x, &images, m / multiplier, padded);
                        }
                        self.spread(dy, &images, m, &mut shifted[reach..]);
                        for (dw, &offset) in partial[m * taps..][..taps].iter_mut().zip(&self.offsets) {
                            for run in self.runs(images.len()) {
                                let from = offset + run.start;
                                *dw += dot(&shifted[reach..][run.clone()], &padded[from..from + run.len()]);
                            }
                        }
                    }
                }
            });
            dw.add_partial(scratch, room);
        }
        if let Some(db) = dx.next().flatten() {
            channel_sums(dy, db, s.windows());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;

    fn depthwise(op: &str, x: &str, w: &str) {
        let m = w.split(',').next().unwrap();
        check(
            13,
            &format!(
                "const %x : f64[{x}] = seed(1) const %w : f64[{w}] = seed(2) const %b : f64[{m}] = seed(3)
             %y : ? = Conv<{op}>(%x, %w, %b)"
            ),
        );
    }

    #[test]
    fn three_by_three() {
        depthwise("group=3, pads=[1,1,1,1]", "2,3,5,4", "3,1,3,3");
        depthwise("group=2, pads=[1,1,1,1]", "9,2,2,2", "2,1,3,3");
        depthwise("group=2, pads=[1,1,1,1], strides=[2,2]", "2,2,6,5", "2,1,3,3");
    }

    #[test]
    fn other_windows() {
        depthwise("group=2, pads=[2,1,0,3], strides=[1,2]", "2,2,5,6", "2,1,4,2");
        depthwise("dilations=[2,3], group=2, pads=[2,3,2,3]", "1,2,5,6", "2,1,3,3");
        depthwise("group=2, strides=[3,2]", "1,2,8,8", "4,1,2,3");
        depthwise("group=3, pads=[2,2]", "2,3,7", "6,1,5");
        depthwise("group=2", "2,2,3,3", "2,1,1,1");
    }
}
