//! Direct convolution, without im2col. A SIMD lane is an image, or a band of its rows when the batch is small: inputs are
//! interleaved lane by lane, so that each tap is one vector load, and only what an output sees is read.

mod plan;
mod weights;

use super::axis::{TapAxis, Taps};
use crate::autodiff::real::Real;
use crate::autodiff::simd::interleave::{Lane, Lanes};
use crate::autodiff::simd::{Columns, ProductTerms, ROWS, WIDE, tile};
use crate::autodiff::vectors::LANES;
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of a line of the cache, and no fewer elements than it has.
const LINE: usize = 64;

/// A convolution of images of known shape: channels to output channels, in groups.
pub struct DirectConv {
    images: usize,
    groups: usize,
    /// Channels and outputs of a group.
    channels: usize,
    outputs: usize,
    axes: [TapAxis; 2],
    /// Which places of a row read by each of its taps.
    columns: Vec<Option<Taps>>,
    /// Taps of a window.
    taps: usize,
    /// How far the weights of neighbouring outputs and of neighbouring channels of a group lie apart.
    weights: [usize; 2],
    /// Bands of images that are worked on together: some vectors.
    width: usize,
    /// Elements of what is read, and of results, from one channel to the next.
    pitch: usize,
    spread: usize,
    /// What places of every class read.
    classes: Vec<ProductTerms>,
    blocks: Vec<RowBlock>,
}

/// Rows of places, what they see, and the vectors of their results, up to six at a time.
struct RowBlock {
    rows: Range<usize>,
    seen: Range<usize>,
    tiles: Vec<PlaceTile>,
}

/// Places of one class: where what each reads begins, and where its result goes.
struct PlaceTile {
    class: usize,
    from: [usize; WIDE],
    to: [usize; WIDE],
    len: usize,
}

/// What results are added to.
#[derive(Clone, Copy)]
pub enum Start<'a, T> {
    Zero,
    Bias(&'a [T]),
    There,
}

/// Scratch memory from where a line of the cache begins: vectors across two lines would take twice as long.
fn aligned<T>(scratch: &mut [T]) -> &mut [T] {
    let skip = scratch.as_ptr().align_offset(LINE).min(LINE);
    &mut scratch[skip..]
}

impl DirectConv {
    /// Images of a piece of the work.
    fn piece(&self) -> usize {
        plan::piece(self.images, self.axes[0].bands)
    }

    fn pieces(&self) -> usize {
        self.images.div_ceil(self.piece())
    }

    /// Elements of a channel of an image, before and after.
    fn planes(&self) -> [usize; 2] {
        let [[outputs, channels], columns] = self.axes.each_ref().map(|axis| axis.whole);
        [channels * columns[1], outputs * columns[0]]
    }

    /// Elements of an image, before and after.
    fn image(&self) -> [usize; 2] {
        let [before, after] = self.planes();
        [self.groups * self.channels * before, self.groups * self.outputs * after]
    }

    /// Elements of packed weights of a group.
    fn packed(&self) -> usize {
        (self.outputs.next_multiple_of(ROWS) * self.channels * self.taps).next_multiple_of(LANES)
    }

    /// Elements of what is read and of the results of a block, of whole tiles of a product.
    fn parts(&self) -> [usize; 2] {
        [self.channels * self.pitch, self.outputs.next_multiple_of(ROWS) * self.spread]
    }

    /// Scratch memory of [`DirectConv::apply`].
    pub fn room(&self) -> usize {
        LINE + self.groups * self.packed() + self.pieces() * self.parts().iter().sum::<usize>()
    }

    /// Blocks of so many images, with the images of each.
    fn blocks(&self, images: usize) -> impl Iterator<Item = (&RowBlock, Range<usize>)> {
        let some = (0..images).step_by(self.width / self.axes[0].bands);
        let some = some.map(move |i| i..images.min(i + self.width / self.axes[0].bands));
        some.flat_map(|images| self.blocks.iter().map(move |block| (block, images.clone())))
    }

    /// Lanes of some images' bands. `part` tells which lines of a band there are, and the first one; `apart` is from one
    /// image to the next, `line` the stretch of a line that is wanted and how long lines are.
    fn lanes(
        &self,
        images: &Range<usize>,
        lines: usize,
        part: impl Fn(usize) -> (Range<usize>, usize),
        apart: usize,
        (line, len): (Range<usize>, usize),
    ) -> Lanes {
        let bands = self.axes[0].bands;
        let lane = |lane: usize| {
            let (has, first) = if lane / bands < images.len() { part(lane % bands) } else { (0..0, 0) };
            let first = (images.start + lane / bands) * apart + first * len + line.start;
            Lane::new(has.start * line.len()..has.end * line.len(), first)
        };
        Lanes::new(lines * line.len(), (0..self.width).map(lane))
    }

    /// What a block writes of an output of each image.
    fn written(&self, block: &RowBlock, images: &Range<usize>) -> Lanes {
        let ([y, x], rows) = (&self.axes, &block.rows);
        self.lanes(
            images,
            rows.len(),
            |band| y.present_outputs(band, rows.clone()),
            self.image()[1],
            (0..x.outputs, x.outputs),
        )
    }

    /// Whether padding is read between lines.
    fn gaps(&self) -> bool {
        let x = &self.axes[1];
        x.present_inputs(0, 0..x.elements).0.len() < x.elements
    }

    /// What a block reads of a channel of each image, and where to: line by line if there is padding between lines.
    fn seen(&self, block: &RowBlock, images: &Range<usize>) -> Vec<(usize, Lanes)> {
        let ([y, x], [apart, _]) = (&self.axes, self.image());
        let ((inside, first), len) = (x.present_inputs(0, 0..x.elements), x.whole[1]);
        let line = first..first + inside.len();
        let of = |rows: Range<usize>| {
            let to = (rows.start - block.seen.start) * x.elements + inside.start;
            (
                to,
                self.lanes(images, rows.len(), |band| y.present_inputs(band, rows.clone()), apart, (line.clone(), len)),
            )
        };
        let step = if !self.gaps() && len == x.elements { block.seen.len().max(1) } else { 1 };
        block.seen.clone().step_by(step).map(|row| of(row..row + step)).collect()
    }

    /// Weights in the order they are read in: of two outputs side by side.
    fn pack<T: Real>(&self, w: &[T], packed: &mut [T]) {
        let (depth, per_group, of_group) = (self.channels * self.taps, self.packed(), w.len() / self.groups);
        for (group, packed) in packed.chunks_exact_mut(per_group.max(1)).enumerate() {
            let w = &w[group * of_group..];
            packed.par_chunks_mut(depth * ROWS).take(self.outputs.div_ceil(ROWS)).enumerate().for_each(
                |(i, packed)| {
                    for (at, to) in packed.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                        let (channel, tap) = (at / self.taps, at % self.taps);
                        for (row, to) in to.iter_mut().enumerate() {
                            let output = (i * ROWS + row).min(self.outputs - 1);
                            *to = w[output * self.weights[0] + channel * self.weights[1] + tap];
                        }
                    }
                },
            );
        }
    }

    /// Copies what a block reads of a group's channels; and zeros for padding, if any is read.
    fn load<T: Real>(&self, x: &[T], seen: &[(usize, Lanes)], group: usize, read: &mut [T]) {
        let plane = self.planes()[0];
        let first = group * self.channels;
        for (read, channel) in read.chunks_exact_mut(self.pitch).zip(first..first + self.channels) {
            if self.gaps() {
                read.fill(T::ZERO);
            }
            for (to, lanes) in seen {
                lanes.gather(&x[channel * plane..], &mut read[to * self.width..]);
            }
        }
    }

    /// y = W x, from `start` on.
    pub fn apply<T: Real>(&self, x: &[T], w: &[T], y: &mut [T], start: Start<'_, T>, scratch: &mut [T]) {
        let ([per_x, per_y], piece) = (self.image(), self.piece());
        let (packed, scratch) = aligned(scratch).split_at_mut(self.groups * self.packed());
        self.pack(w, packed);
        let (packed, parts) = (&*packed, self.parts());
        let ends = x.par_chunks(piece * per_x).zip(y.par_chunks_mut(piece * per_y));
        ends.zip(scratch.par_chunks_mut(parts.iter().sum())).for_each(|((x, y), scratch)| {
            let (read, results) = scratch.split_at_mut(parts[0]);
            for (block, images) in self.blocks(x.len() / per_x) {
                let (seen, written) = (self.seen(block, &images), self.written(block, &images));
                for group in 0..self.groups {
                    self.load(x, &seen, group, read);
                    self.multiply(block, read, &packed[group * self.packed()..][..self.packed()], results);
                    self.store(results, &written, group, y, start);
                }
            }
        });
    }

    /// The products of a block.
    fn multiply<T: Real>(&self, block: &RowBlock, read: &[T], w: &[T], results: &mut [T]) {
        let depth = self.channels * self.taps;
        for PlaceTile { class, from, to, len } in &block.tiles {
            let columns = Columns { from: &from[..*len], to: &to[..*len], apart: self.spread };
            for output in (0..self.outputs).step_by(ROWS) {
                let w = w[output * depth..][..ROWS * depth].as_chunks().0;
                tile(&self.classes[*class], w, read, &columns, &mut results[output * self.spread..]);
            }
        }
    }

    /// Copies the results of a block to images.
    fn store<T: Real>(&self, results: &[T], written: &Lanes, group: usize, y: &mut [T], start: Start<'_, T>) {
        let (plane, first) = (self.planes()[1], group * self.outputs);
        for (results, output) in results.chunks_exact(self.spread).zip(first..first + self.outputs) {
            let y = &mut y[output * plane..];
            match start {
                Start::Zero => written.scatter(results, y, |_, new| new),
                Start::There => written.scatter(results, y, |old, new| old + new),
                Start::Bias(bias) => written.scatter(results, y, |_, new| new + bias[output]),
            }
        }
    }
}
