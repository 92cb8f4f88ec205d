//! Convolutions, forward and on the way back. (ONNX Operators: Conv, ConvTranspose.)

mod axis;
#[cfg(test)]
mod naive;
mod pass;

use super::build::Site;
use super::depthwise::Depthwise;
use super::real::{Grad, Real, sums_of};
use super::sweep::Sweep;
use super::tape::{Backward, Keeps, Kernel, Mode, Scratch};
use crate::ir::op::conv::{AutoPad, Conv as ConvOp};
use crate::ir::op::conv_transpose::ConvTranspose;
use axis::Axis;
use pass::{Pass, Start};
use rayon::prelude::*;

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
    let channels = [kernel.inputs, kernel.outputs / kernel.groups];
    site.emit(Conv::new(&sweep, x[0], kernel.groups, channels, false), &inputs)
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
    site.emit(Conv::new(&sweep, x[0], groups, [w[1], x[1] / groups], true), &inputs)
}

/// Y[N, M, …] = X[N, C, …] ∗ W[M, C/groups, k…] + B[M]; transposed, from Y to X, with a bias for X.
struct Conv {
    there: Pass,
    /// The transpose: a pass for every residue of places in X by the stride.
    back: Vec<Pass>,
    transposed: bool,
    /// Elements of a plane that has the bias.
    plane: usize,
}

impl Conv {
    /// `channels` are those of X and of Y in a group.
    fn new(sweep: &Sweep, images: usize, groups: usize, [x, y]: [usize; 2], transposed: bool) -> Conv {
        let (taps, kernel) = (sweep.taps(), sweep.kernel[1]);
        let axes = [0, 1].map(|axis| Axis::forward(sweep, axis));
        let there = Pass::new(axes, [images, groups, x, y], [x * taps, taps], kernel);
        let [rows, columns] = [0, 1].map(|axis| Axis::back(sweep, axis));
        let residues = rows.iter().flat_map(|y| columns.iter().map(|x| [y.clone(), x.clone()]));
        let back = residues.map(|axes| Pass::new(axes, [images, groups, y, x], [taps, x * taps], kernel)).collect();
        Conv { there, back, transposed, plane: if transposed { sweep.plane() } else { sweep.windows() } }
    }

    /// From Y to X.
    fn apply_back<T: Real>(&self, y: &[T], w: &[T], x: &mut [T], start: Start<'_, T>, scratch: &mut [T]) {
        self.back.iter().for_each(|pass| pass.apply(y, w, x, start, scratch));
    }
}

/// Adds the sum of every channel: the gradient by a bias.
pub fn channel_sums<T: Real>(dy: &[T], db: Grad<'_, T>, plane: usize) {
    let channels = db.to.len();
    db.zeroed().par_iter_mut().enumerate().for_each(|(m, db)| {
        let planes = dy.chunks_exact(channels * plane).map(|image| &image[m * plane..(m + 1) * plane]);
        *db += sums_of(planes.map(|values| (values, values)), |v, _| [v])[0];
    });
}

impl<T: Real> Kernel<T> for Conv {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn scratch(&self) -> Scratch {
        let back = self.back.iter().map(Pass::room).max().unwrap_or(0);
        let (forward, gradient) = if self.transposed { (back, self.there.room()) } else { (self.there.room(), back) };
        Scratch { forward, backward: gradient.max(self.there.weights_room()) }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], scratch: &mut [T], _: Mode) {
        let start = x.get(2).map_or(Start::Zero, |bias| Start::Bias(bias));
        match self.transposed {
            false => self.there.apply(x[0], x[1], y, start, scratch),
            true => self.apply_back(x[0], x[1], y, start, scratch),
        }
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let mut dx = dx.into_iter();
        if let Some(dx) = dx.next().flatten() {
            let start = if dx.fresh { Start::Zero } else { Start::There };
            match self.transposed {
                false => self.apply_back(dy, x[1], dx.to, start, scratch),
                true => self.there.apply(dy, x[1], dx.to, start, scratch),
            }
        }
        if let Some(dw) = dx.next().flatten() {
            let (x, y) = if self.transposed { (dy, x[0]) } else { (x[0], dy) };
            self.there.weights(x, y, dw, scratch);
        }
        if let Some(db) = dx.next().flatten() {
            channel_sums(dy, db, self.plane);
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
