//! One pass over the images of a convolution, without columns of windows: the lanes of a vector are images, so that every
//! place reads whole vectors, and only those that it sees.

mod weights;

use super::axis::{Axis, Run};
use crate::distill::lanes::{self, Stretch};
use crate::distill::real::{PIECES, Real};
use crate::distill::simd::{Columns, LANES, ROWS, Terms, WIDE, spans, tile};
use rayon::prelude::*;
use std::ops::Range;

/// Elements that are worked on together, if there is a choice: they stay in the second cache.
const TOGETHER: usize = 1 << 16;

/// Bytes of a line of the cache, and no fewer elements than it has.
const LINE: usize = 64;

/// Rows of places that are worked on together at least: what neighbouring ones both see is copied for each.
const MIN_ROWS: usize = 4;

/// Channels of each image to outputs, in groups.
pub struct Pass {
    images: usize,
    groups: usize,
    /// Channels and outputs of a group.
    channels: usize,
    outputs: usize,
    axes: [Axis; 2],
    /// Which places of a row read by each of its taps.
    columns: Vec<Option<Run>>,
    /// Taps of a window.
    taps: usize,
    /// How far the weights of neighbouring outputs and of neighbouring channels of a group lie apart.
    weights: [usize; 2],
    /// Images that are worked on together: some vectors.
    width: usize,
    /// Elements of what is read, and of results, from one channel to the next.
    pitch: usize,
    spread: usize,
    classes: Vec<Terms>,
    blocks: Vec<Block>,
}

/// Rows of places, what they see, and the vectors of their results, up to six at a time.
struct Block {
    rows: Range<usize>,
    seen: Range<usize>,
    tiles: Vec<Tile>,
}

/// Places of one class: where what each reads begins, and where its result goes.
struct Tile {
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

/// Room for `n` elements: an odd number of vectors, so that channels do not compete for the same places of the cache.
fn apart(n: usize) -> usize {
    (n.div_ceil(LANES) | 1) * LANES
}

/// Scratch memory from where a line of the cache begins: vectors across two lines would take twice as long.
fn aligned<T>(scratch: &mut [T]) -> &mut [T] {
    let skip = scratch.as_ptr().align_offset(LINE).min(LINE);
    &mut scratch[skip..]
}

impl Pass {
    /// `shape` is how many images, groups, channels and outputs of a group; `weights` how far the weights of neighbouring
    /// outputs and channels lie apart; `kernel` the taps of a window.
    ///
    /// # Errors
    /// If the images are too large.
    pub fn new(axes: [Axis; 2], shape: [usize; 4], weights: [usize; 2], kernel: [usize; 2]) -> Result<Pass, String> {
        let [images, groups, channels, outputs] = shape;
        let [elements, places] = [axes[1].elements, axes[1].places.len()];
        let rows = axes[0].places.len();
        // As many images as fit, then as many rows.
        let row = (LANES * (channels * elements + outputs * places)).max(1);
        let all = axes[0].elements.max(rows).max(1);
        let vectors = piece(images) / LANES;
        let together = (TOGETHER / (row * all)).clamp(1, vectors);
        let per_block = (TOGETHER / row).clamp(MIN_ROWS, rows.max(MIN_ROWS));
        let per_block = if together > 1 { all } else { rows.div_ceil(rows.div_ceil(per_block).max(1)) };
        let width = together * LANES;
        let ranges = (0..rows).step_by(per_block.max(1)).map(|r| r..rows.min(r + per_block));
        let ranges: Vec<_> = ranges.map(|r| (r.clone(), axes[0].seen(r))).collect();
        let most = |of: fn(&(Range<usize>, Range<usize>)) -> usize| ranges.iter().map(of).max().unwrap_or(0);
        // Places that read nothing begin somewhere, too.
        let pitch = apart(most(|r| r.1.len().max(1)) * elements * width);
        let spread = apart(most(|r| r.0.len()) * places * width);

        let [by_row, by_column] = [axes[0].classes(), axes[1].classes()];
        let pairs = || by_row.iter().flat_map(|y| by_column.iter().map(move |x| (y, x)));
        let terms = pairs().map(|(y, x)| {
            let reads = || y.reads.iter().flat_map(|y| x.reads.iter().map(move |x| [y, x]));
            Terms::new((0..channels).flat_map(|channel| {
                reads().map(move |[y, x]| {
                    let (far, tap) = ((y[1] * elements + x[1]) * width, y[0] * kernel[1] + x[0]);
                    [channel * pitch + far, channel * kernel[0] * kernel[1] + tap]
                })
            }))
        });
        let classes = terms.collect::<Result<_, _>>()?;
        let block = |(rows, seen): (Range<usize>, Range<usize>)| {
            let mut tiles = Vec::new();
            for (class, (y, x)) in pairs().enumerate() {
                let inside = y.places.iter().filter(|y| rows.contains(&y[0]));
                let found = inside.flat_map(|&[row, first]| {
                    let at = move |x: &[usize; 2]| {
                        let from = if y.reads.is_empty() { 0 } else { (first - seen.start) * elements + x[1] };
                        [from, (row - rows.start) * places + x[0]]
                    };
                    x.places.iter().map(at)
                });
                let found = found.flat_map(|at| (0..width).step_by(LANES).map(move |l| at.map(|at| at * width + l)));
                let found: Vec<[usize; 2]> = found.collect();
                for (at, len) in spans(found.len(), WIDE) {
                    let pick = |end: usize| std::array::from_fn(|i| if i < len { found[at + i][end] } else { 0 });
                    tiles.push(Tile { class, from: pick(0), to: pick(1), len });
                }
            }
            Block { rows, seen, tiles }
        };
        let blocks = ranges.into_iter().map(block).collect();
        let columns = (0..kernel[1]).map(|tap| axes[1].run(tap, 0..places)).collect();
        let taps = kernel[0] * kernel[1];
        Ok(Pass {
            images,
            groups,
            channels,
            outputs,
            axes,
            columns,
            taps,
            weights,
            width,
            pitch,
            spread,
            classes,
            blocks,
        })
    }

    fn pieces(&self) -> usize {
        self.images.div_ceil(piece(self.images))
    }

    /// Elements of an image, before and after.
    fn image(&self) -> [usize; 2] {
        let [y, x] = &self.axes;
        [
            self.groups * self.channels * y.given.len() * x.given.len(),
            self.groups * self.outputs * y.places.len() * x.places.len(),
        ]
    }

    /// Elements of packed weights of a group.
    fn packed(&self) -> usize {
        (self.outputs.next_multiple_of(ROWS) * self.channels * self.taps).next_multiple_of(LANES)
    }

    /// Elements of what is read and of the results of a block, of whole tiles of a product.
    fn parts(&self) -> [usize; 2] {
        [self.channels * self.pitch, self.outputs.next_multiple_of(ROWS) * self.spread]
    }

    /// Scratch memory of [`Pass::apply`].
    pub fn room(&self) -> usize {
        LINE + self.groups * self.packed() + self.pieces() * self.parts().iter().sum::<usize>()
    }

    /// Blocks of so many images, with the images of each.
    fn blocks(&self, images: usize) -> impl Iterator<Item = (&Block, Range<usize>)> {
        let some = (0..images).step_by(self.width).map(move |i| i..images.min(i + self.width));
        some.flat_map(|images| self.blocks.iter().map(move |block| (block, images.clone())))
    }

    /// What a block writes of an output.
    fn written(&self, block: &Block, images: &Range<usize>, output: usize) -> Stretch {
        let ([y, x], [_, apart]) = (&self.axes, self.image());
        let first = images.start * apart + (output * y.places.len() + block.rows.start) * x.places.len();
        Stretch { first, apart, images: images.len(), len: block.rows.len() * x.places.len() }
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
    fn load<T: Real>(&self, x: &[T], block: &Block, images: &Range<usize>, group: usize, read: &mut [T]) {
        let ([by_y, by_x], [apart, _]) = (&self.axes, self.image());
        let rows = block.seen.start.max(by_y.given.start)..block.seen.end.min(by_y.given.end).max(by_y.given.start);
        let line = by_x.given.len();
        for (channel, read) in read.chunks_exact_mut(self.pitch).enumerate() {
            let plane = images.start * apart + (group * self.channels + channel) * by_y.given.len() * line;
            let stretch = |row: usize, rows: usize| {
                let first = plane + (row - by_y.given.start) * line;
                Stretch { first, apart, images: images.len(), len: rows * line }
            };
            if by_x.elements == line && by_y.elements == by_y.given.len() {
                lanes::gather(x, stretch(rows.start, rows.len()), read, self.width);
                continue;
            }
            read.fill(T::ZERO);
            for row in rows.clone() {
                let to = (row - block.seen.start) * by_x.elements + by_x.given.start;
                lanes::gather(x, stretch(row, 1), &mut read[to * self.width..], self.width);
            }
        }
    }

    /// y = W x, from `start` on.
    pub fn apply<T: Real>(&self, x: &[T], w: &[T], y: &mut [T], start: Start<'_, T>, scratch: &mut [T]) {
        let ([per_x, per_y], piece) = (self.image(), piece(self.images));
        let (packed, scratch) = aligned(scratch).split_at_mut(self.groups * self.packed());
        self.pack(w, packed);
        let (packed, parts) = (&*packed, self.parts());
        let ends = x.par_chunks(piece * per_x).zip(y.par_chunks_mut(piece * per_y));
        ends.zip(scratch.par_chunks_mut(parts.iter().sum())).for_each(|((x, y), scratch)| {
            let (read, results) = scratch.split_at_mut(parts[0]);
            for (block, images) in self.blocks(x.len() / per_x) {
                for group in 0..self.groups {
                    self.load(x, block, &images, group, read);
                    self.multiply(block, read, &packed[group * self.packed()..][..self.packed()], results);
                    self.store(results, block, &images, group, y, start);
                }
            }
        });
    }

    /// The products of a block.
    fn multiply<T: Real>(&self, block: &Block, read: &[T], w: &[T], results: &mut [T]) {
        let depth = self.channels * self.taps;
        for Tile { class, from, to, len } in &block.tiles {
            let columns = Columns { from: &from[..*len], to: &to[..*len], apart: self.spread };
            for output in (0..self.outputs).step_by(ROWS) {
                let w = w[output * depth..][..ROWS * depth].as_chunks().0;
                tile(&self.classes[*class], w, read, &columns, &mut results[output * self.spread..]);
            }
        }
    }

    /// Copies the results of a block to images.
    fn store<T: Real>(
        &self,
        results: &[T],
        block: &Block,
        images: &Range<usize>,
        group: usize,
        y: &mut [T],
        start: Start<'_, T>,
    ) {
        for (output, results) in results.chunks_exact(self.spread).take(self.outputs).enumerate() {
            let output = group * self.outputs + output;
            let there = self.written(block, images, output);
            match start {
                Start::Zero => lanes::scatter(results, self.width, y, there, |_, new| new),
                Start::There => lanes::scatter(results, self.width, y, there, |old, new| old + new),
                Start::Bias(bias) => {
                    let bias = bias[output];
                    lanes::scatter(results, self.width, y, there, |_, new| new + bias);
                }
            }
        }
    }
}

/// Images of a piece of the work: whole vectors.
fn piece(images: usize) -> usize {
    images.div_ceil(PIECES).max(1).next_multiple_of(LANES)
}
