//! The way back through a convolution: the gradient by what it reads is a pass, and that by its weights sums of products
//! of what the pass reads and what was read at its places.

use super::super::axis::Taps;
use super::{DirectConv, LINE, RowBlock, Start, aligned};
use crate::autodiff::real::{Grad, Real};
use crate::autodiff::simd::{PAIRS, VectorRows, dots, spans};
use crate::autodiff::vectors::LANES;
use rayon::prelude::*;

/// How far apart neighbours are among results and in what is read, and how many there are.
#[derive(Clone, Copy)]
struct Level {
    apart: [usize; 2],
    count: usize,
}

impl Level {
    /// This level and one inside of it, if that goes on where it ends.
    fn joined(self, inner: Level) -> Option<Level> {
        let follows = self.count == 1 || self.apart == inner.apart.map(|apart| apart * inner.count);
        follows.then_some(Level { apart: inner.apart, count: self.count * inner.count })
    }
}

impl DirectConv {
    /// Scratch memory of a piece of [`DirectConv::back`]: the sums of the weights, what is read, results.
    fn back_parts(&self) -> [usize; 3] {
        let [read, results] = self.parts();
        [(self.groups * self.outputs * self.channels * self.taps).next_multiple_of(LANES), read, results]
    }

    /// Scratch memory of [`DirectConv::back`].
    pub fn back_room(&self) -> usize {
        LINE + self.groups * self.packed() + self.pieces() * self.back_parts().iter().sum::<usize>()
    }

    /// dX += W dY and dW += x dYᵀ, those that are wanted, where x is what is at the places of dX.
    pub fn back<T: Real>(
        &self,
        dy: &[T],
        [x, w]: [&[T]; 2],
        dx: Option<Grad<'_, T>>,
        dw: Option<Grad<'_, T>>,
        scratch: &mut [T],
    ) {
        let ([per_dy, per_x], piece, parts) = (self.image(), self.piece(), self.back_parts());
        let (packed, scratch) = aligned(scratch).split_at_mut(self.groups * self.packed());
        if dx.is_some() {
            self.pack(w, packed);
        }
        let (packed, stride, by_weights) = (&*packed, parts.iter().sum(), dw.is_some());
        let scratch = &mut scratch[..self.pieces() * stride];
        let start = if dx.as_ref().is_some_and(|dx| dx.fresh) { Start::Zero } else { Start::There };
        let dx: Vec<Option<&mut [T]>> = match dx {
            Some(dx) => dx.to.chunks_mut(piece * per_x).map(Some).collect(),
            None => (0..self.pieces()).map(|_| None).collect(),
        };
        let ends = dy.par_chunks(piece * per_dy).zip(x.par_chunks(piece * per_x)).zip(dx);
        ends.zip(scratch.par_chunks_mut(stride)).for_each(|(((dy, x), mut dx), scratch)| {
            let (sums, rest) = scratch.split_at_mut(parts[0]);
            let (read, made) = rest.split_at_mut(parts[1]);
            sums.fill(T::ZERO);
            for (block, images) in self.blocks(dy.len() / per_dy) {
                let (seen, written) = (self.seen(block, &images), self.written(block, &images));
                for group in 0..self.groups {
                    self.load(dy, &seen, group, read);
                    if let Some(dx) = &mut dx {
                        self.multiply(block, read, &packed[group * self.packed()..][..self.packed()], made);
                        self.store(made, &written, group, dx, start);
                    }
                    if by_weights {
                        let (plane, first) = (self.planes()[1], group * self.outputs);
                        for (made, output) in made.chunks_exact_mut(self.spread).zip(first..first + self.outputs) {
                            written.gather(&x[output * plane..], made);
                        }
                        let per_group = w.len() / self.groups;
                        self.pairs(block, read, made, &mut sums[group * per_group..][..per_group]);
                    }
                }
            }
        });
        dw.into_iter().for_each(|dw| dw.add_partial(scratch, stride));
    }

    /// Adds the products of every output and channel by every tap.
    fn pairs<T: Real>(&self, block: &RowBlock, read: &[T], made: &[T], dw: &mut [T]) {
        let across = self.columns.len();
        for tap in 0..self.taps {
            let row = self.axes[0].run(tap / across, block.rows.clone());
            let Some(runs) = row.zip(self.columns[tap % across]) else { continue };
            self.pairs_of(tap, runs, block, read, made, dw);
        }
    }

    /// The same of one tap, for the rows and the columns whose places read by it.
    fn pairs_of<T: Real>(
        &self,
        tap: usize,
        (row, column): (Taps, Taps),
        block: &RowBlock,
        read: &[T],
        made: &[T],
        dw: &mut [T],
    ) {
        let lines = [self.axes[1].outputs, self.axes[1].elements];
        let place = (row.output - block.rows.start) * lines[0] + column.output;
        let element = (row.element - block.seen.start) * lines[1] + column.element;
        let apart = [0, 1].map(|end| row.steps[end] * lines[end] * self.width);
        let rows = Level { apart, count: row.count };
        let columns = Level { apart: column.steps.map(|step| step * self.width), count: column.count };
        let vectors = Level { apart: [LANES; 2], count: self.width / LANES };
        let one = Level { apart: [0; 2], count: 1 };
        let levels = match columns.joined(vectors) {
            Some(inner) => rows.joined(inner).map_or([one, rows, inner], |all| [one, one, all]),
            None => [vectors, rows, columns],
        };
        let counts = levels.map(|l| l.count);
        let [made_apart, read_apart] = [0, 1].map(|end| levels.map(|l| l.apart[end]));
        for output in (0..self.outputs).step_by(PAIRS[0]) {
            let start = |i: usize| (output + i).min(self.outputs - 1) * self.spread + place * self.width;
            let made = VectorRows { data: made, starts: std::array::from_fn(start), apart: made_apart };
            for (channel, width) in spans(self.channels, PAIRS[1]) {
                let start = |k: usize| (channel + k).min(self.channels - 1) * self.pitch + element * self.width;
                let read = VectorRows { data: read, starts: std::array::from_fn(start), apart: read_apart };
                let found = dots(&made, &read, width, counts);
                for (i, found) in found.iter().enumerate().take(self.outputs - output) {
                    for (k, &sum) in found.iter().enumerate().take(width) {
                        dw[(output + i) * self.weights[0] + (channel + k) * self.weights[1] + tap] += sum;
                    }
                }
            }
        }
    }
}
