//! Convolutions: columns of windows times the weight, by `gemm`. (ONNX Operators: Conv, ConvTranspose; Chellapilla et al.
//! 2006 for the columns.)

use super::build::Site;
use super::depthwise::Depthwise;
use super::real::{Grad, PIECES, Real, View, multiply, sums};
use super::sweep::Sweep;
use super::tape::{Backward, Keeps, Kernel, Mode, Scratch};
use crate::ir::op::conv::{AutoPad, Conv as ConvOp};
use crate::ir::op::conv_transpose::ConvTranspose;
use rayon::prelude::*;
use std::ops::Range;

/// Columns that a product should have at least: several images are taken together if one has fewer windows.
const FEW: usize = 64;

/// Elements of the columns that are made at a time, if that is a row of windows and not too few columns: they stay in the
/// cache until they are multiplied, and what `gemm` copies of them is no memory that the system has to map each time.
const CACHED: usize = 1 << 15;

pub fn build<T: Real>(site: &mut Site<'_, '_, T>, op: &ConvOp) -> Result<(), String> {
    let (x, w, y) = (site.dims(0)?, site.dims(1)?, site.out(0)?);
    let kernel = op.kernel(&w).ok_or("its weight does not fit its groups")?;
    let sweep = Sweep::new(&op.window, &x, &y, &kernel.size)?;
    let mut inputs = vec![site.read(0)?, site.read(1)?];
    if site.has(2) {
        inputs.push(site.read(2)?);
    }
    if kernel.inputs == 1 && kernel.groups > 1 {
        return site.emit(Depthwise::new(sweep, x[0], x[1], kernel.outputs), &inputs);
    }
    let conv = Conv::new(sweep, x[0], [kernel.groups * kernel.inputs, kernel.outputs], kernel.groups);
    site.emit(conv.mirrored(), &inputs)
}

/// The transpose of the convolution that has its input and output the other way round, with the same weight.
pub fn build_transpose<T: Real>(site: &mut Site<'_, '_, T>, op: &ConvTranspose) -> Result<(), String> {
    let (x, w, y) = (site.dims(0)?, site.dims(1)?, site.out(0)?);
    let groups = usize::try_from(op.group).map_err(|_| "its number of groups does not fit")?;
    let fits = w.len() > 2 && w[0] == x[1] && y[1] == w[1] * groups && x[1].is_multiple_of(groups);
    if !fits || op.window.auto_pad != AutoPad::NotSet || !op.output_shape.is_empty() {
        return Err("its padding follows from its output".into());
    }
    let sweep = Sweep::new(&op.window, &y, &x, &w[2..])?;
    let mut inputs = vec![site.read(0)?, site.read(1)?];
    if site.has(2) {
        inputs.push(site.read(2)?);
    }
    site.emit(Transposed(Conv::new(sweep, x[0], [y[1], x[1]], groups)), &inputs)
}

/// Y[N, M, …] = X[N, C, …] ∗ W[M, C/groups, k…] + B[M].
struct Conv {
    sweep: Sweep,
    images: usize,
    channels: usize,
    outputs: usize,
    groups: usize,
    /// Images of one piece of work.
    piece: usize,
    /// Images and rows of windows whose columns are made together.
    together: usize,
    rows: usize,
    /// The convolution from Y to X that gives the gradient by X, with the weight turned around; where windows are not
    /// next to each other, there is none.
    mirror: Option<Box<Conv>>,
}

/// Windows of some images: all of several, or some rows of one.
#[derive(Clone)]
struct Tile {
    images: Range<usize>,
    rows: Range<usize>,
}

impl Conv {
    fn new(sweep: Sweep, images: usize, [channels, outputs]: [usize; 2], groups: usize) -> Conv {
        let windows = sweep.windows();
        let piece = images.div_ceil(PIECES);
        let together = FEW.div_ceil(windows).min(piece);
        let direct = together == 1 && sweep.is_pointwise();
        let many = (CACHED / (channels / groups * sweep.taps()).max(1)).max(FEW);
        let rows = if direct || windows <= many { sweep.output[0] } else { many.div_ceil(sweep.output[1]) };
        Conv { sweep, images, channels, outputs, groups, piece, together, rows, mirror: None }
    }

    /// With a mirror, if there is one.
    fn mirrored(self) -> Conv {
        let s = &self.sweep;
        let reach = self.reach();
        let shifted = s.stride == [1, 1] && !self.direct();
        let fits = (0..2).all(|axis| s.pad[axis] <= reach[axis] && s.output[axis] <= s.input[axis] + s.pad[axis]);
        let mirror = (shifted && fits).then(|| {
            let turned = |pad: [usize; 2]| [0, 1].map(|axis| reach[axis].saturating_sub(pad[axis]));
            let (pad, pad_end) = (turned(s.pad), turned(s.pad_end));
            let sweep = Sweep { input: s.output, output: s.input, pad, pad_end, ..s.clone() };
            Box::new(Conv::new(sweep, self.images, [self.outputs, self.channels], self.groups))
        });
        Conv { mirror, ..self }
    }

    /// How far the last element of a window lies from the first.
    fn reach(&self) -> [usize; 2] {
        [0, 1].map(|axis| (self.sweep.kernel[axis] - 1) * self.sweep.dilation[axis])
    }

    /// The input is its own columns.
    fn direct(&self) -> bool {
        self.together == 1 && self.sweep.is_pointwise()
    }

    fn pieces(&self) -> usize {
        self.images.div_ceil(self.piece)
    }

    /// Rows of the columns of a group.
    fn depth(&self) -> usize {
        self.channels / self.groups * self.sweep.taps()
    }

    /// Output channels of a group.
    fn width(&self) -> usize {
        self.outputs / self.groups
    }

    fn weights(&self) -> usize {
        self.outputs * self.depth()
    }

    /// Elements of an image of the input and of the output.
    fn image(&self) -> [usize; 2] {
        [self.channels * self.sweep.plane(), self.outputs * self.sweep.windows()]
    }

    /// Scratch memory of a piece for columns, for outputs of several images side by side, and for a padded plane.
    fn room(&self) -> [usize; 3] {
        let columns = self.together * self.rows * self.sweep.output[1];
        // Never nothing, so that every piece has some of the memory.
        [
            if self.direct() { 1 } else { self.depth() * columns },
            if self.together > 1 { self.width() * columns } else { 0 },
            (self.rows + self.reach()[0]) * self.padded_row(),
        ]
    }

    /// Elements of a row of a padded plane, where windows are next to each other.
    fn padded_row(&self) -> usize {
        self.sweep.output[1] + self.reach()[1]
    }

    /// The tiles of a piece of so many images.
    fn tiles(&self, images: usize) -> impl Iterator<Item = Tile> + use<> {
        let (together, rows, all) = (self.together, self.rows, self.sweep.output[0]);
        (0..images).step_by(together).flat_map(move |i| {
            let images = i..images.min(i + together);
            (0..all).step_by(rows).map(move |r| Tile { images: images.clone(), rows: r..all.min(r + rows) })
        })
    }

    fn columns(&self, tile: &Tile) -> usize {
        tile.images.len() * tile.rows.len() * self.sweep.output[1]
    }

    /// Calls `f` with each stretch of a row of windows that has a row of the columns: its place there, how many windows
    /// lie left of the input, inside and right of it, and where in the images the first one inside lies.
    fn stretches(&self, tile: &Tile, group: usize, mut f: impl FnMut(usize, [usize; 3], usize)) {
        let (s, columns) = (&self.sweep, self.columns(tile));
        let [per_image, _] = self.image();
        let own = self.channels / self.groups;
        let mut row = 0;
        for channel in group * own..(group + 1) * own {
            for ky in 0..s.kernel[0] {
                let rows = s.inside(0, ky);
                for kx in 0..s.kernel[1] {
                    let inside = s.inside(1, kx);
                    let parts = [inside.start, inside.len(), s.output[1] - inside.end];
                    let first = if inside.is_empty() { 0 } else { s.at(1, inside.start, kx) };
                    let mut at = row * columns;
                    for image in tile.images.clone() {
                        for y in tile.rows.clone() {
                            if rows.contains(&y) && !inside.is_empty() {
                                let from = image * per_image + channel * s.plane() + s.at(0, y, ky) * s.input[1];
                                f(at, parts, from + first);
                            } else {
                                f(at, [s.output[1], 0, 0], 0);
                            }
                            at += s.output[1];
                        }
                    }
                    row += 1;
                }
            }
        }
    }

    /// Column by column the elements of a window, zeros outside of the input. `padded` is zero beside the rows.
    fn gather<T: Real>(&self, x: &[T], tile: &Tile, group: usize, columns: &mut [T], padded: &mut [T]) {
        let stride = self.sweep.stride[1];
        if self.sweep.stride == [1, 1] {
            return self.gather_shifted(x, tile, group, columns, padded);
        }
        self.stretches(tile, group, |at, [left, inside, right], from| {
            let to = &mut columns[at..at + left + inside + right];
            to[..left].fill(T::ZERO);
            to[left + inside..].fill(T::ZERO);
            if inside > 0 {
                to[left..left + inside].iter_mut().zip(x[from..].iter().step_by(stride)).for_each(|(to, &x)| *to = x);
            }
        });
    }

    /// Windows next to each other: every row of the columns is a padded plane, shifted.
    fn gather_shifted<T: Real>(&self, x: &[T], tile: &Tile, group: usize, columns: &mut [T], padded: &mut [T]) {
        let (s, [per_image, _], per_row) = (&self.sweep, self.image(), self.columns(tile));
        let (own, width, wide) = (self.channels / self.groups, s.output[1], self.padded_row());
        for (i, image) in tile.images.clone().enumerate() {
            for channel in 0..own {
                let plane = &x[image * per_image + (group * own + channel) * s.plane()..][..s.plane()];
                self.pad(plane, tile.rows.clone(), padded);
                for tap in 0..s.taps() {
                    let (ky, kx) = (tap / s.kernel[1], tap % s.kernel[1]);
                    let from = &padded[ky * s.dilation[0] * wide + kx * s.dilation[1]..];
                    let at = (channel * s.taps() + tap) * per_row + i * tile.rows.len() * width;
                    let to = &mut columns[at..at + tile.rows.len() * width];
                    to.chunks_exact_mut(width).zip(from.chunks(wide)).for_each(|(to, from)| copy(to, &from[..width]));
                }
            }
        }
    }

    /// What windows in these rows see of a plane.
    fn pad<T: Real>(&self, plane: &[T], rows: Range<usize>, padded: &mut [T]) {
        let (s, wide) = (&self.sweep, self.padded_row());
        let seen = rows.start..rows.end + self.reach()[0];
        for (y, to) in seen.zip(padded.chunks_exact_mut(wide)) {
            let to = &mut to[s.pad[1]..s.pad[1] + s.input[1]];
            match y.checked_sub(s.pad[0]).filter(|&y| y < s.input[0]) {
                Some(y) => to.copy_from_slice(&plane[y * s.input[1]..][..s.input[1]]),
                None => to.fill(T::ZERO),
            }
        }
    }

    /// The transpose of `gather`: adds to the elements.
    fn scatter<T: Real>(&self, columns: &[T], tile: &Tile, group: usize, x: &mut [T]) {
        let stride = self.sweep.stride[1];
        self.stretches(tile, group, |at, [left, inside, _], to| {
            let from = &columns[at + left..at + left + inside];
            if inside > 0 {
                x[to..].iter_mut().step_by(stride).zip(from).for_each(|(x, &v)| *x += v);
            }
        });
    }

    /// The columns of a tile: the input itself, or made in `room`.
    fn view<'a, T: Real>(
        &self,
        x: &'a [T],
        tile: &Tile,
        group: usize,
        room: &'a mut [T],
        padded: &mut [T],
    ) -> View<'a, T> {
        let (depth, columns) = (self.depth(), self.columns(tile));
        if self.direct() {
            return View::new(&x[tile.images.start * self.image()[0] + group * depth * columns..], depth, columns);
        }
        self.gather(x, tile, group, room, padded);
        View::new(room, depth, columns)
    }

    /// Where the outputs of a group lie that a tile of one image has.
    fn place(&self, tile: &Tile, group: usize) -> usize {
        let windows = self.sweep.windows();
        tile.images.start * self.image()[1] + group * self.width() * windows + tile.rows.start * self.sweep.output[1]
    }

    /// Calls `f` with the places of what an output channel of one image has in `y`, and side by side with other images.
    fn side_by_side(&self, tile: &Tile, group: usize, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let (windows, columns) = (self.sweep.windows(), self.columns(tile));
        for m in 0..self.width() {
            for (i, image) in tile.images.clone().enumerate() {
                let at = image * self.image()[1] + (group * self.width() + m) * windows;
                let beside = m * columns + i * windows;
                f(at..at + windows, beside..beside + windows);
            }
        }
    }

    /// The outputs of a tile as a matrix: as they lie, or gathered in `room`.
    fn outputs_of<'a, T: Real>(&self, y: &'a [T], tile: &Tile, group: usize, room: &'a mut [T]) -> View<'a, T> {
        if self.together == 1 {
            let (windows, columns) = (self.sweep.windows(), self.columns(tile));
            return View::strided(&y[self.place(tile, group)..], self.width(), columns, windows);
        }
        self.side_by_side(tile, group, |at, beside| room[beside].copy_from_slice(&y[at]));
        View::new(room, self.width(), self.columns(tile))
    }

    /// y = W columns(x), or y += it with `add`, for the images of a piece.
    fn apply<T: Real>(&self, x: &[T], w: &[T], y: &mut [T], room: [&mut [T]; 3], add: bool) {
        let [made, beside, padded] = room;
        padded.fill(T::ZERO);
        let (width, depth) = (self.width(), self.depth());
        for tile in self.tiles(x.len() / self.image()[0]) {
            for group in 0..self.groups {
                let w = View::new(&w[group * width * depth..], width, depth);
                let columns = self.view(x, &tile, group, made, padded);
                if self.together == 1 {
                    let at = self.place(&tile, group);
                    multiply(&mut y[at..], self.sweep.windows(), w, columns, add);
                } else {
                    multiply(beside, self.columns(&tile), w, columns, false);
                    self.side_by_side(&tile, group, |at, beside_at| {
                        let pairs = y[at].iter_mut().zip(&beside[beside_at]);
                        pairs.for_each(|(y, &v)| *y = if add { *y + v } else { v });
                    });
                }
            }
        }
    }

    /// x += columnsᵀ(Wᵀ y), for the images of a piece.
    fn apply_transpose<T: Real>(&self, y: &[T], w: &[T], x: &mut [T], room: [&mut [T]; 3]) {
        let [made, beside, _] = room;
        let (width, depth) = (self.width(), self.depth());
        for tile in self.tiles(y.len() / self.image()[1]) {
            for group in 0..self.groups {
                let w = View::new(&w[group * width * depth..], width, depth).t();
                let (y, columns) = (self.outputs_of(y, &tile, group, beside), self.columns(&tile));
                if self.direct() {
                    let at = tile.images.start * self.image()[0] + group * depth * columns;
                    multiply(&mut x[at..], columns, w, y, true);
                } else {
                    multiply(made, columns, w, y, false);
                    self.scatter(made, &tile, group, x);
                }
            }
        }
    }

    /// dW += y columns(x)ᵀ, for the images of a piece.
    fn add_weights<T: Real>(&self, x: &[T], y: &[T], dw: &mut [T], room: [&mut [T]; 3]) {
        let [made, beside, padded] = room;
        padded.fill(T::ZERO);
        let (width, depth) = (self.width(), self.depth());
        for tile in self.tiles(x.len() / self.image()[0]) {
            for group in 0..self.groups {
                let y = self.outputs_of(y, &tile, group, beside);
                let columns = self.view(x, &tile, group, made, padded);
                multiply(&mut dw[group * width * depth..], depth, y, columns.t(), true);
            }
        }
    }

    /// Scratch memory of a piece after its first `before` elements.
    fn split<'a, T>(&self, scratch: &'a mut [T], before: usize) -> (&'a mut [T], [&'a mut [T]; 3]) {
        let [made, beside, _] = self.room();
        let (before, room) = scratch.split_at_mut(before);
        let (made, room) = room.split_at_mut(made);
        let (beside, padded) = room.split_at_mut(beside);
        (before, [made, beside, padded])
    }

    fn scratch(&self) -> Scratch {
        let room = |conv: &Conv| conv.room().iter().sum::<usize>();
        let turned = self.mirror.as_ref().map_or(0, |m| self.weights() + self.pieces() * room(m));
        let backward = turned.max(self.pieces() * (room(self) + self.weights()));
        Scratch { forward: self.pieces() * room(self), backward }
    }

    /// The weight for the mirror: inputs and outputs swapped, windows turned around.
    fn turn<T: Real>(&self, w: &[T], to: &mut [T]) {
        let (inputs, outputs, taps) = (self.channels / self.groups, self.width(), self.sweep.taps());
        to.par_chunks_mut(outputs * taps).enumerate().for_each(|(channel, to)| {
            let (group, channel) = (channel / inputs, channel % inputs);
            for (m, to) in to.chunks_exact_mut(taps).enumerate() {
                let from = &w[((group * outputs + m) * inputs + channel) * taps..][..taps];
                to.iter_mut().zip(from.iter().rev()).for_each(|(to, &w)| *to = w);
            }
        });
    }

    /// [`Conv::apply`] to all images.
    fn apply_all<T: Real>(&self, x: &[T], w: &[T], y: &mut [T], scratch: &mut [T], add: bool) {
        let ([per_x, per_y], room) = (self.image(), self.room().iter().sum::<usize>());
        let ends = x.par_chunks(self.piece * per_x).zip(y.par_chunks_mut(self.piece * per_y));
        let work = ends.zip(scratch.par_chunks_mut(room));
        work.for_each(|((x, y), scratch)| self.apply(x, w, y, self.split(scratch, 0).1, add));
    }

    /// [`Conv::apply_transpose`] to all images.
    fn apply_transpose_all<T: Real>(&self, y: &[T], w: &[T], x: &mut [T], scratch: &mut [T]) {
        let ([per_x, per_y], room) = (self.image(), self.room().iter().sum::<usize>());
        let ends = x.par_chunks_mut(self.piece * per_x).zip(y.par_chunks(self.piece * per_y));
        let work = ends.zip(scratch.par_chunks_mut(room));
        work.for_each(|((x, y), scratch)| self.apply_transpose(y, w, x, self.split(scratch, 0).1));
    }

    /// [`Conv::add_weights`] of all images.
    fn weights_all<T: Real>(&self, x: &[T], y: &[T], dw: Grad<'_, T>, scratch: &mut [T]) {
        let ([per_x, per_y], weights) = (self.image(), self.weights());
        let stride = weights + self.room().iter().sum::<usize>();
        let ends = x.par_chunks(self.piece * per_x).zip(y.par_chunks(self.piece * per_y));
        let work = ends.zip(scratch.par_chunks_mut(stride));
        work.for_each(|((x, y), scratch)| {
            let (dw, room) = self.split(scratch, weights);
            dw.fill(T::ZERO);
            self.add_weights(x, y, dw, room);
        });
        dw.add_partial(scratch, stride);
    }
}

/// Copies a short run, of any length, by a few moves of fixed lengths that overlap.
fn copy<T: Copy>(to: &mut [T], from: &[T]) {
    fn by<const N: usize, T: Copy>(to: &mut [T], from: &[T]) {
        let n = to.len();
        to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0).for_each(|(to, from)| *to = *from);
        to[n - N..].copy_from_slice(&from[n - N..]);
    }
    match to.len() {
        8.. => by::<8, T>(to, from),
        4.. => by::<4, T>(to, from),
        2.. => by::<2, T>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// Fills every channel of an output with its bias, or with zeros.
pub fn start<T: Real>(y: &mut [T], bias: Option<&&[T]>, channels: usize, plane: usize) {
    let Some(bias) = bias else { return y.fill(T::ZERO) };
    y.par_chunks_mut(channels * plane).for_each(|image| {
        image.chunks_exact_mut(plane).zip(*bias).for_each(|(plane, &b)| plane.fill(b));
    });
}

/// Adds the sum of every channel: the gradient by a bias.
pub fn channel_sums<T: Real>(dy: &[T], db: Grad<'_, T>, plane: usize) {
    let channels = db.to.len();
    db.zeroed().par_iter_mut().enumerate().for_each(|(m, db)| {
        for image in dy.chunks_exact(channels * plane) {
            let values = &image[m * plane..(m + 1) * plane];
            *db += sums(values, values, |v, _| [v])[0];
        }
    });
}

impl<T: Real> Kernel<T> for Conv {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn scratch(&self) -> Scratch {
        Conv::scratch(self)
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], scratch: &mut [T], _: Mode) {
        let bias = x.get(2);
        if bias.is_some() {
            start(y, bias, self.outputs, self.sweep.windows());
        }
        self.apply_all(x[0], x[1], y, scratch, bias.is_some());
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let mut dx = dx.into_iter();
        if let Some(dx) = dx.next().flatten() {
            let room = |conv: &Conv| conv.pieces() * conv.room().iter().sum::<usize>();
            match &self.mirror {
                Some(mirror) => {
                    let (turned, scratch) = scratch.split_at_mut(self.weights());
                    self.turn(x[1], turned);
                    mirror.apply_all(dy, turned, dx.to, &mut scratch[..room(mirror)], !dx.fresh);
                }
                None => self.apply_transpose_all(dy, x[1], dx.zeroed(), &mut scratch[..room(self)]),
            }
        }
        if let Some(dw) = dx.next().flatten() {
            let stride = self.weights() + self.room().iter().sum::<usize>();
            self.weights_all(x[0], dy, dw, &mut scratch[..self.pieces() * stride]);
        }
        if let Some(db) = dx.next().flatten() {
            channel_sums(dy, db, self.sweep.windows());
        }
    }
}

/// X[N, C, …] to Y[N, M, …] by the transpose of a convolution from Y to X.
struct Transposed(Conv);

impl<T: Real> Kernel<T> for Transposed {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn scratch(&self) -> Scratch {
        self.0.scratch()
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], scratch: &mut [T], _: Mode) {
        start(y, x.get(2), self.0.channels, self.0.sweep.plane());
        self.0.apply_transpose_all(x[0], x[1], y, scratch);
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let mut dx = dx.into_iter();
        if let Some(dx) = dx.next().flatten() {
            let room = self.0.pieces() * self.0.room().iter().sum::<usize>();
            self.0.apply_all(dy, x[1], dx.to, &mut scratch[..room], !dx.fresh);
        }
        if let Some(dw) = dx.next().flatten() {
            self.0.weights_all(dy, x[0], dw, scratch);
        }
        if let Some(db) = dx.next().flatten() {
            channel_sums(dy, db, self.0.sweep.plane());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::distill::testing::check;

    /// X of shape `x`, W of shape `w`, a bias if asked for.
    fn conv(op: &str, x: &str, w: &str, bias: usize) {
        let b = if bias > 0 { (format!("const %b : f64[{bias}] = seed(3)"), ", %b") } else { (String::new(), "") };
        check(
            13,
            &format!(
                "const %x : f64[{x}] = seed(1) const %w : f64[{w}] = seed(2) {} %y : ? = {op}(%x, %w{})",
                b.0, b.1
            ),
        );
    }

    #[test]
    fn dense() {
        conv("Conv", "2,3,5,4", "4,3,3,2", 4);
        conv("Conv<pads=[1,0,2,1], strides=[2,1]>", "3,2,5,4", "3,2,3,3", 0);
        conv("Conv<auto_pad=\"SAME_UPPER\", dilations=[2,1], strides=[1,2]>", "1,2,6,5", "2,2,3,2", 2);
        conv("Conv<auto_pad=\"SAME_LOWER\", strides=[2,2]>", "9,1,6,5", "2,1,3,2", 2);
        conv("Conv<pads=[5,5,5,5]>", "1,1,2,2", "1,1,3,3", 1);
        conv("Conv<pads=[2,1], strides=[3]>", "2,2,9", "3,2,4", 3);
    }

    #[test]
    fn pointwise() {
        conv("Conv", "2,3,9,9", "4,3,1,1", 4);
        conv("Conv", "17,3,2,2", "4,3,1,1", 4);
        conv("Conv<group=2, strides=[2,2]>", "3,4,5,5", "6,2,1,1", 6);
    }

    #[test]
    fn grouped() {
        conv("Conv<group=2, pads=[1,1,1,1]>", "2,4,4,5", "6,2,3,3", 6);
        conv("Conv<group=3>", "10,6,2,2", "3,2,2,2", 3);
    }

    #[test]
    fn transposed() {
        conv("ConvTranspose", "2,3,3,4", "3,2,3,2", 2);
        conv("ConvTranspose<pads=[1,0,1,1], strides=[2,3]>", "2,3,3,3", "3,2,3,4", 0);
        conv("ConvTranspose<dilations=[2,1], group=2, output_padding=[1,0], strides=[2,1]>", "1,4,3,3", "4,3,2,2", 6);
        conv("ConvTranspose<strides=[2]>", "2,2,5", "2,3,3", 3);
    }

    #[test]
    fn rows_of_a_large_image() {
        conv("Conv<pads=[1,1,1,1]>", "1,1,40,41", "1,1,3,3", 1);
    }
}
