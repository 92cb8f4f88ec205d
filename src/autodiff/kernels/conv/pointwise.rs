//! Pointwise convolutions of large planes: a matrix product an image.

use super::channel_sums;
use crate::autodiff::kernel::{Backward, Keeps, Kernel, Mode, Scratch};
use crate::autodiff::real::{Grad, PIECES, Real, View, multiply, multiply_wide};
use crate::autodiff::window::Window2d;
use rayon::prelude::*;

/// Elements of a plane from which on products of single images are fast.
const LARGE: usize = 64;

/// Y[N, M, …] = W[M, C] X[N, C, …] + B[M].
pub struct Pointwise {
    images: usize,
    channels: usize,
    outputs: usize,
    plane: usize,
}

impl Pointwise {
    /// If windows of a dense convolution of so many channels and outputs see one element each, and planes are large.
    pub fn new(s: &Window2d, images: usize, [channels, outputs]: [usize; 2]) -> Option<Pointwise> {
        let pointwise = s.taps() == 1 && s.input == s.output && s.stride == [1; 2] && s.pad == [0; 2];
        let plane = s.plane();
        (pointwise && plane >= LARGE).then_some(Pointwise { images, channels, outputs, plane })
    }

    /// Images whose gradients by the weights are summed together.
    fn piece(&self) -> usize {
        self.images.div_ceil(PIECES).max(1)
    }

    fn pieces(&self) -> usize {
        self.images.div_ceil(self.piece())
    }

    /// C = A B or C + A B, on all threads by itself if there are few images.
    fn multiply<T: Real>(&self, c: &mut [T], a: View<'_, T>, b: View<'_, T>, add: bool) {
        if self.images < PIECES { multiply_wide(c, a, b, add) } else { multiply(c, a, b, add) }
    }

    fn weight<'a, T: Real>(&self, w: &'a [T]) -> View<'a, T> {
        View::new(w, self.outputs, self.channels)
    }
}

impl<T: Real> Kernel<T> for Pointwise {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn scratch(&self) -> Scratch {
        Scratch { forward: 0, backward: self.pieces() * self.outputs * self.channels }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        let (w, bias) = (self.weight(x[1]), x.get(2));
        let images = y.par_chunks_mut(self.outputs * self.plane).zip(x[0].par_chunks(self.channels * self.plane));
        images.for_each(|(y, x)| {
            if let Some(bias) = bias {
                y.chunks_exact_mut(self.plane).zip(*bias).for_each(|(y, &bias)| y.fill(bias));
            }
            self.multiply(y, w, View::new(x, self.channels, self.plane), bias.is_some());
        });
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let mut dx = dx.into_iter();
        let [by_x, by_weight, by_bias] = std::array::from_fn(|_| dx.next().flatten());
        let [per_x, per_y] = [self.channels, self.outputs].map(|n| n * self.plane);
        if let Some(Grad { to, fresh }) = by_x {
            let w = self.weight(x[1]).t();
            let images = to.par_chunks_mut(per_x).zip(dy.par_chunks(per_y));
            images.for_each(|(dx, dy)| self.multiply(dx, w, View::new(dy, self.outputs, self.plane), !fresh));
        }
        if let Some(dw) = by_weight {
            let len = self.outputs * self.channels;
            let scratch = &mut scratch[..self.pieces() * len];
            let ends = x[0].par_chunks(self.piece() * per_x).zip(dy.par_chunks(self.piece() * per_y));
            scratch.par_chunks_mut(len).zip(ends).for_each(|(sums, (x, dy))| {
                for (i, (x, dy)) in x.chunks_exact(per_x).zip(dy.chunks_exact(per_y)).enumerate() {
                    let (x, dy) = (View::new(x, self.channels, self.plane), View::new(dy, self.outputs, self.plane));
                    multiply(sums, dy, x.t(), i > 0);
                }
            });
            dw.add_partial(scratch, len);
        }
        by_bias.into_iter().for_each(|by| channel_sums(dy, by, self.plane));
    }
}
