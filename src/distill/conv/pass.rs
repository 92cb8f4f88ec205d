//! One pass over the images of a convolution, without columns of windows: along padded planes, every tap of all windows is
//! one shifted run.

mod weights;

use super::axis::Axis;
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

/// A stretch of a run, and where in an output channel its results go.
#[derive(Clone, Copy, Default)]
struct Stretch {
    from: usize,
    len: usize,
    to: usize,
}

/// What results are added to.
#[derive(Clone, Copy)]
pub enum Start<'a, T> {
    Zero,
    Bias(&'a [T]),
    There,
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
        // Odd numbers of vectors, so that channels do not compete for the same places of the cache.
        let apart = |n: usize| (n.div_ceil(LANES) | 1) * LANES;
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
        self.outputs.div_ceil(ROWS) * ROWS * self.offsets.len()
    }

    /// Elements of the padded planes of a tile, with as much behind as a tile of a product may read.
    fn padded(&self) -> usize {
        self.channels.max(1) * self.pitch + LANES * WIDE
    }

    /// Scratch memory of [`Pass::apply`].
    pub fn room(&self) -> usize {
        self.groups * self.packed() + self.pieces() * self.padded()
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

    /// The stretches of results between two places of a run. What lies between stretches is nobody's.
    fn stretches(&self, tile: &Windows, image: usize, at: Range<usize>, mut put: impl FnMut(Stretch)) {
        let [y, x] = &self.axes;
        let [_, per_image] = self.image();
        let first = (tile.images.start + image) * per_image;
        let (pitch, width) = if self.plain { (self.run, self.run) } else { (self.row, x.windows) };
        for line in at.start / pitch..at.end.div_ceil(pitch) {
            let (from, end) = (at.start.max(line * pitch), at.end.min(line * pitch + width));
            if from < end {
                let to = if self.plain {
                    first + line * per_image + tile.rows.start * x.output
                } else {
                    first + (y.start + (tile.rows.start + line) * y.step) * x.output + x.start
                };
                let to = to + (from - line * pitch) * x.step;
                put(Stretch { from: from - at.start, len: end - from, to });
            }
        }
    }

    /// Writes what the windows of a tile see of a group's channels. What is never written must be zero.
    fn pad<T: Real>(&self, x: &[T], tile: &Windows, group: usize, padded: &mut [T]) {
        let [by_y, by_x] = &self.axes;
        let (plane, [per_image, _]) = (by_y.input * by_x.input, self.image());
        let rows = tile.rows.len() + by_y.reach();
        for (i, &[y, x_phase]) in self.phases.iter().enumerate() {
            let inside = by_y.inside(y, tile.rows.start + rows);
            let columns = by_x.inside(x_phase, by_x.windows + by_x.reach());
            if columns.is_empty() {
                continue;
            }
            let left = by_x.element(x_phase, columns.start);
            let pairs = (0..self.channels).flat_map(|channel| tile.images.clone().map(move |image| (channel, image)));
            for (channel, image) in pairs {
                let from = &x[image * per_image + (group * self.channels + channel) * plane..][..plane];
                let at = (image - tile.images.start) * self.phases.len() + i;
                let padded = &mut padded[channel * self.pitch + at * self.plane..];
                for row in 0..rows {
                    let to = &mut padded[row * self.row..][columns.clone()];
                    if !inside.contains(&(tile.rows.start + row)) {
                        to.fill(T::ZERO);
                        continue;
                    }
                    let at = by_y.element(y, tile.rows.start + row) * by_x.input + left;
                    match by_x.stride {
                        1 => copy(to, &from[at..at + columns.len()]),
                        stride => to.iter_mut().zip(from[at..].iter().step_by(stride)).for_each(|(to, &v)| *to = v),
                    }
                }
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
        ends.zip(scratch.par_chunks_mut(self.padded())).for_each(|((x, y), padded)| {
            padded.fill(T::ZERO);
            for tile in self.tiles(x.len() / per_x) {
                for group in 0..self.groups {
                    self.pad(x, &tile, group, padded);
                    let w = packed[group * self.packed()..][..self.packed()].as_chunks().0;
                    self.multiply(padded, w, y, &tile, group, start);
                }
            }
        });
    }

    fn multiply<T: Real>(
        &self,
        padded: &[T],
        w: &[[T; ROWS]],
        y: &mut [T],
        tile: &Windows,
        group: usize,
        start: Start<'_, T>,
    ) {
        let (depth, per_output) = (self.offsets.len(), self.axes[0].output * self.axes[1].output);
        let mut stretches = [Stretch::default(); LANES * WIDE];
        let mut found = [[T::ZERO; LANES * WIDE]; ROWS];
        let (runs, run) = self.runs(tile);
        for image in 0..runs {
            for (at, vectors) in spans(run) {
                let mut count = 0;
                self.stretches(tile, image, at..run.min(at + vectors * LANES), |stretch| {
                    stretches[count] = stretch;
                    count += 1;
                });
                let x = &padded[image * self.phases.len() * self.plane + at..];
                for output in (0..self.outputs).step_by(ROWS) {
                    let w = &w[output / ROWS * depth..][..depth];
                    let first = group * self.outputs + output;
                    let rows = ROWS.min(self.outputs - output);
                    self::tile(vectors, w, x, &self.offsets, &mut found);
                    for (row, found) in (first..first + rows).zip(&mut found) {
                        if let Start::Bias(bias) = start {
                            found.iter_mut().for_each(|v| *v += bias[row]);
                        }
                        let (y, add) = (&mut y[row * per_output..], matches!(start, Start::There));
                        put(found, y, self.axes[1].step, &stretches[..count], add);
                    }
                }
            }
        }
    }
}

/// Writes a row of a tile, stretch by stretch, `step` apart, or adds it.
fn put<T: Real>(found: &[T], y: &mut [T], step: usize, stretches: &[Stretch], add: bool) {
    for s in stretches {
        let found = &found[s.from..s.from + s.len];
        match (step, add) {
            (1, false) => copy(&mut y[s.to..s.to + s.len], found),
            (1, true) => y[s.to..s.to + s.len].iter_mut().zip(found).for_each(|(y, &v)| *y += v),
            (_, false) => y[s.to..].iter_mut().step_by(step).zip(found).for_each(|(y, &v)| *y = v),
            (_, true) => y[s.to..].iter_mut().step_by(step).zip(found).for_each(|(y, &v)| *y += v),
        }
    }
}

/// Copies a short run, of any length, by a few moves of fixed lengths that overlap.
fn copy<T: Copy>(to: &mut [T], from: &[T]) {
    fn by<const N: usize, T: Copy>(to: &mut [T], from: &[T]) {
        to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0).for_each(|(to, from)| *to = *from);
        if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
            *to = *from;
        }
    }
    match to.len() {
        8.. => by::<8, T>(to, from),
        4.. => by::<4, T>(to, from),
        2.. => by::<2, T>(to, from),
        _ => to.copy_from_slice(from),
    }
}
