//! The gradient by the weights of a pass that goes forward: sums of products along runs.

use super::{Pass, Windows};
use crate::distill::real::{Grad, Real};
use crate::distill::simd::{LANES, ROWS, Rows, WIDE, dots};
use rayon::prelude::*;

impl Pass {
    /// Elements of the weights, all groups.
    fn elements(&self) -> usize {
        self.groups * self.outputs * self.offsets.len()
    }

    /// Scratch memory of a piece of [`Pass::weights`]: a partial sum, padded planes, results where runs have them.
    fn weights_parts(&self) -> [usize; 3] {
        [self.elements(), self.padded(), self.results()]
    }

    pub fn weights_room(&self) -> usize {
        self.pieces() * self.weights_parts().iter().sum::<usize>()
    }

    /// dW += y xᵀ.
    pub fn weights<T: Real>(&self, x: &[T], y: &[T], dw: Grad<'_, T>, scratch: &mut [T]) {
        let ([per_x, per_y], piece, parts) = (self.image(), self.piece(), self.weights_parts());
        let stride = parts.iter().sum();
        let scratch = &mut scratch[..self.weights_room()];
        let ends = x.par_chunks(piece * per_x).zip(y.par_chunks(piece * per_y));
        ends.zip(scratch.par_chunks_mut(stride)).for_each(|((x, y), scratch)| {
            scratch.fill(T::ZERO);
            let (dw, rest) = scratch.split_at_mut(parts[0]);
            let (padded, spread) = rest.split_at_mut(parts[1]);
            for tile in self.tiles(x.len() / per_x) {
                for group in 0..self.groups {
                    self.pad(x, &tile, group, padded);
                    self.gather(y, &tile, group, spread);
                    self.close(&tile, spread);
                    self.pairs(padded, spread, &mut dw[group * self.elements() / self.groups..], &tile);
                }
            }
        });
        dw.add_partial(scratch, stride);
    }

    /// Zeros behind the runs of a tile, to whole vectors.
    fn close<T: Real>(&self, tile: &Windows, results: &mut [T]) {
        let (runs, run) = self.runs(tile);
        for results in results.chunks_exact_mut(self.spread) {
            for image in 0..runs {
                results[image * self.run..][run..run.next_multiple_of(LANES)].fill(T::ZERO);
            }
        }
    }

    /// Adds the products of every output and tap, four by three.
    fn pairs<T: Real>(&self, padded: &[T], spread: &[T], dw: &mut [T], tile: &Windows) {
        let (depth, (runs, run)) = (self.offsets.len(), self.runs(tile));
        for output in (0..self.outputs).step_by(ROWS) {
            for tap in (0..depth).step_by(WIDE) {
                let y = |i: usize| (output + i).min(self.outputs - 1) * self.spread;
                let y = Rows { data: spread, starts: [y(0), y(1), y(2), y(3)], apart: self.run };
                let x = |k: usize| self.offsets[(tap + k).min(depth - 1)];
                let x = Rows { data: padded, starts: [x(0), x(1), x(2)], apart: self.phases.len() * self.plane };
                let found = dots(y, x, runs, run.next_multiple_of(LANES));
                for (i, found) in found.iter().enumerate().take(self.outputs - output) {
                    let dw = dw[(output + i) * depth..][..depth][tap..].iter_mut();
                    dw.zip(found).for_each(|(dw, &v)| *dw += v);
                }
            }
        }
    }
}
