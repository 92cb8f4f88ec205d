//! One pass over the images of a convolution, without columns of windows: along padded planes, every tap of all windows is
//! one shifted run.

mod weights;

use super::axis::Axis;
use crate::distill::lines::{Lines, copy};
use crate::distill::real::{PIECES, Real};
use crate::distill::simd::{LANES, ROWS, WIDE, spans, tile};
use rayon::prelude::*;
use std::ops::Range;

/// Windows of a channel that are worked on together, if there is a choice: what they read stays in the second cache.
const TOGETHER: usize = 1024;

/// The same, where images are apart in memory.
const APART: usize = 512;

/// Channels of each image to outputs, in groups.
pub struct Pass {
    axes: [Axis; 2],
    images: usize,
    groups: usize,
    /// Channels and outputs of a group.
    channels: usize,
    outputs: usize,
    /// Which weight each tap has.
    taps: Vec<usize>,
    /// How far the weights of neighbouring outputs and of neighbouring channels of a group lie apart.
    weights: [usize; 2],
    phases: Vec<[usize; 2]>,
    /// Elements of a row of a padded plane, of a plane of one phase, of those of all images of a channel.
    row: usize,
    plane: usize,
    pitch: usize,
    /// Elements of the results of an image, where rows end as in padded planes, and of those of all images of a channel.
    run: usize,
    spread: usize,
    /// No window reads more than one element: the runs of rows, and of images, are one.
    plain: bool,
    /// Images and rows of windows of a tile.
    together: usize,
    rows: usize,
    /// Where a tap of the first window reads, for each channel and tap.
    offsets: Vec<usize>,
}

/// Windows of some images: all of several, or some rows of one.
struct Windows {
    images: Range<usize>,
    rows: Range<usize>,
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

impl Pass {
    /// `shape` is how many images, groups, channels and outputs of a group; `weights` how far the weights of neighbouring
    /// outputs and channels lie apart; `kernel` how many taps a row of windows has.
    pub fn new(axes: [Axis; 2], shape: [usize; 4], weights: [usize; 2], kernel: usize) -> Pass {
        let [images, groups, channels, outputs] = shape;
        let [y, x] = &axes;
        let pairs = |a: &[usize], b: &[usize]| -> Vec<[usize; 2]> {
            a.iter().flat_map(|&a| b.iter().map(move |&b| [a, b])).collect()
        };
        let phases = pairs(&y.phases(), &x.phases());
        let phases = if phases.is_empty() { vec![[0, 0]] } else { phases };
        let plain = y.is_plain() && x.is_plain();
        let [row, beyond] = x.row();
        let windows = y.windows * x.windows;
        let piece = images.div_ceil(PIECES);
        let together = (if plain { TOGETHER } else { APART } / windows).clamp(1, piece);
        let rows = if together > 1 { y.windows } else { (TOGETHER / row).clamp(1, y.windows) };
        let run = if plain { rows * row } else { ((rows - 1) * row + x.windows).next_multiple_of(LANES) };
        let plane = ((rows + y.reach()) * row + beyond).max(run);
        let pitch = apart(together * phases.len() * plane);
        let taps: Vec<usize> = y.taps.iter().flat_map(|a| x.taps.iter().map(move |b| a[0] * kernel + b[0])).collect();
        let mut offsets = Vec::with_capacity(channels * taps.len());
        for channel in 0..channels {
            for [_, v] in &y.taps {
                for [_, u] in &x.taps {
                    let phase = phases.iter().position(|p| *p == [v % y.stride, u % x.stride]).unwrap_or(0);
                    offsets.push(channel * pitch + phase * plane + v / y.stride * row + u / x.stride);
                }
            }
        }
        let spread = apart(together * run);
        Pass {
            axes,
            images,
            groups,
            channels,
            outputs,
            taps,
            weights,
            phases,
            row,
            plane,
            pitch,
            run,
            spread,
            plain,
            together,
            rows,
            offsets,
        }
    }

    fn piece(&self) -> usize {
        self.images.div_ceil(PIECES)
    }

    fn pieces(&self) -> usize {
        self.images.div_ceil(self.piece())
    }

    /// Elements of an image, before and after.
    fn image(&self) -> [usize; 2] {
        let [y, x] = &self.axes;
        [self.groups * self.channels * y.input * x.input, self.groups * self.outputs * y.output * x.output]
    }

    /// Elements of packed weights of a group.
    fn packed(&self) -> usize {
        self.outputs.next_multiple_of(ROWS) * self.offsets.len()
    }

    /// Elements of the padded planes of a tile, with as much behind as a tile of a product may read.
    fn padded(&self) -> usize {
        self.channels.max(1) * self.pitch + LANES * WIDE
    }

    /// Elements of the results of a tile, as runs have them, of whole tiles of a product.
    fn results(&self) -> usize {
        self.outputs.next_multiple_of(ROWS) * self.spread
    }

    /// Scratch memory of [`Pass::apply`].
    pub fn room(&self) -> usize {
        self.groups * self.packed() + self.pieces() * (self.padded() + self.results())
    }

    /// The tiles of so many images.
    fn tiles(&self, images: usize) -> impl Iterator<Item = Windows> + use<> {
        let (together, rows, all) = (self.together, self.rows, self.axes[0].windows);
        (0..images).step_by(together).flat_map(move |i| {
            let images = i..images.min(i + together);
            (0..all).step_by(rows).map(move |r| Windows { images: images.clone(), rows: r..all.min(r + rows) })
        })
    }

    /// How many runs a tile has, one an image or one of all, and how long each is.
    fn runs(&self, tile: &Windows) -> (usize, usize) {
        let (images, rows) = (tile.images.len(), tile.rows.len());
        match self.plain {
            true => (1, if images > 1 { images * self.run } else { rows * self.row }),
            false => (images, (rows - 1) * self.row + self.axes[1].windows),
        }
    }

    /// Where the results of a tile for an output of a group lie, as runs have them and in images, and how long lines are.
    /// What lies between lines of runs is nobody's.
    fn lines(&self, tile: &Windows, group: usize, output: usize) -> [Lines; 2] {
        let ([y, x], [_, per_image]) = (&self.axes, self.image());
        let plane = tile.images.start * per_image + (group * self.outputs + output) * y.output * x.output;
        let first = plane + (y.start + tile.rows.start * y.step) * x.output + x.start;
        [
            Lines { first: output * self.spread, apart: [self.run, self.row], step: 1 },
            Lines { first, apart: [per_image, y.step * x.output], step: x.step },
        ]
    }

    /// Copies results of a tile from images to where runs have them.
    fn gather<T: Real>(&self, y: &[T], tile: &Windows, group: usize, results: &mut [T]) {
        let counts = [tile.images.len(), tile.rows.len()];
        for output in 0..self.outputs {
            let [here, there] = self.lines(tile, group, output);
            copy(results, here, y, there, counts, self.axes[1].windows);
        }
    }

    /// Copies results of a tile from where runs have them to images.
    fn scatter<T: Real>(&self, results: &[T], tile: &Windows, group: usize, y: &mut [T]) {
        let counts = [tile.images.len(), tile.rows.len()];
        for output in 0..self.outputs {
            let [here, there] = self.lines(tile, group, output);
            copy(y, there, results, here, counts, self.axes[1].windows);
        }
    }

    /// Writes what the windows of a tile see of a group's channels. What is never written must be zero.
    fn pad<T: Real>(&self, x: &[T], tile: &Windows, group: usize, padded: &mut [T]) {
        let [by_y, by_x] = &self.axes;
        let (plane, [per_image, _]) = (by_y.input * by_x.input, self.image());
        let (start, rows) = (tile.rows.start, tile.rows.len() + by_y.reach());
        for (i, &[y, x_phase]) in self.phases.iter().enumerate() {
            let inside = by_y.inside(y, start + rows);
            let inside = inside.start.max(start).min(start + rows)..inside.end.max(start);
            let columns = by_x.inside(x_phase, by_x.windows + by_x.reach());
            if self.rows < by_y.windows {
                let planes = (0..self.channels).flat_map(|c| (0..tile.images.len()).map(move |image| (c, image)));
                for (channel, image) in planes {
                    let at = channel * self.pitch + (image * self.phases.len() + i) * self.plane;
                    let padded = &mut padded[at..][..rows * self.row];
                    padded[..(inside.start - start) * self.row].fill(T::ZERO);
                    padded[(inside.end - start) * self.row..].fill(T::ZERO);
                }
            }
            if columns.is_empty() || inside.is_empty() {
                continue;
            }
            let from = by_y.element(y, inside.start) * by_x.input + by_x.element(x_phase, columns.start);
            for channel in 0..self.channels {
                let at = (group * self.channels + channel) * plane + from;
                let from = Lines {
                    first: tile.images.start * per_image + at,
                    apart: [per_image, by_y.stride * by_x.input],
                    step: by_x.stride,
                };
                let to = Lines {
                    first: channel * self.pitch + i * self.plane + (inside.start - start) * self.row + columns.start,
                    apart: [self.phases.len() * self.plane, self.row],
                    step: 1,
                };
                let counts = [tile.images.len(), inside.len()];
                copy(padded, to, x, from, counts, columns.len());
            }
        }
    }

    /// Weights in the order they are read in: of four outputs side by side.
    fn pack<T: Real>(&self, w: &[T], packed: &mut [T]) {
        let (depth, per_group) = (self.offsets.len(), self.packed());
        let of_group = w.len() / self.groups;
        for (group, packed) in packed.chunks_exact_mut(per_group.max(1)).enumerate() {
            let w = &w[group * of_group..];
            packed.par_chunks_mut(depth * ROWS).enumerate().for_each(|(i, packed)| {
                for (at, to) in packed.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                    let (channel, tap) = (at / self.taps.len(), self.taps[at % self.taps.len()]);
                    for (row, to) in to.iter_mut().enumerate() {
                        let output = (i * ROWS + row).min(self.outputs - 1);
                        *to = w[output * self.weights[0] + channel * self.weights[1] + tap];
                    }
                }
            });
        }
    }

    /// y = W x, from `start` on.
    pub fn apply<T: Real>(&self, x: &[T], w: &[T], y: &mut [T], start: Start<'_, T>, scratch: &mut [T]) {
        if self.taps.is_empty() && matches!(start, Start::There) {
            return;
        }
        let ([per_x, per_y], piece) = (self.image(), self.piece());
        let (packed, scratch) = scratch.split_at_mut(self.groups * self.packed());
        self.pack(w, packed);
        let (packed, ends) = (&*packed, x.par_chunks(piece * per_x).zip(y.par_chunks_mut(piece * per_y)));
        ends.zip(scratch.par_chunks_mut(self.padded() + self.results())).for_each(|((x, y), scratch)| {
            let (padded, results) = scratch.split_at_mut(self.padded());
            padded.fill(T::ZERO);
            for tile in self.tiles(x.len() / per_x) {
                for group in 0..self.groups {
                    self.pad(x, &tile, group, padded);
                    match start {
                        Start::Zero => {}
                        Start::Bias(bias) => {
                            let bias = &bias[group * self.outputs..];
                            results.chunks_exact_mut(self.spread).zip(bias).for_each(|(to, &b)| to.fill(b));
                        }
                        Start::There => self.gather(y, &tile, group, results),
                    }
                    let w = packed[group * self.packed()..][..self.packed()].as_chunks().0;
                    self.multiply(padded, w, results, &tile, matches!(start, Start::Zero));
                    self.scatter(results, &tile, group, y);
                }
            }
        });
    }

    /// Adds the products of a tile to its results, or writes them if these are `fresh`.
    fn multiply<T: Real>(&self, padded: &[T], w: &[[T; ROWS]], results: &mut [T], tile: &Windows, fresh: bool) {
        let depth = self.offsets.len();
        let (runs, run) = self.runs(tile);
        for image in 0..runs {
            for (at, vectors) in spans(run) {
                let x = &padded[image * self.phases.len() * self.plane + at..];
                for output in (0..self.outputs).step_by(ROWS) {
                    let w = &w[output / ROWS * depth..][..depth];
                    let to = &mut results[output * self.spread + image * self.run + at..];
                    self::tile(vectors, w, x, &self.offsets, to, self.spread, fresh);
                }
            }
        }
    }
}
