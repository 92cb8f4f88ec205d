//! Convolutions, forward and on the way back. (ONNX Operators: Conv, ConvTranspose.)

mod axis;
mod direct;
#[cfg(test)]
mod naive;
mod pointwise;

use super::depthwise::Depthwise;
use crate::autodiff::kernel::{Backward, Keeps, Kernel, Mode, Scratch};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::{Grad, Real, sums_of};
use crate::autodiff::window::Window2d;
use crate::ir::op::conv::{AutoPad, Conv};
use crate::ir::op::conv_transpose::ConvTranspose;
use axis::TapAxis;
use direct::{DirectConv, Start};
use pointwise::Pointwise;
use rayon::prelude::*;

pub fn build<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Conv) -> Result<(), String> {
    let (x, w, y) = (node.dims(0)?, node.dims(1)?, node.out(0)?);
    let kernel = op.kernel(&w).ok_or("its weight does not fit its groups")?;
    let geometry = Window2d::new(&op.window, &x, &y, &kernel.size)?;
    let mut inputs = vec![node.read(0)?, node.read(1)?];
    if node.has(2) {
        inputs.push(node.read(2)?);
    }
    if kernel.inputs == 1 && kernel.groups > 1 {
        return node.emit(Depthwise::new(geometry, x[0], x[1], kernel.outputs), &inputs);
    }
    let channels = [kernel.inputs, kernel.outputs / kernel.groups];
    if kernel.groups == 1
        && let Some(pointwise) = Pointwise::new(&geometry, x[0], channels)
    {
        return node.emit(pointwise, &inputs);
    }
    node.emit(ConvKernel::new(&geometry, x[0], kernel.groups, channels, false)?, &inputs)
}

/// The transpose of the convolution that has its input and output the other way round, with the same weight.
pub fn build_transpose<T: Real>(node: &mut Lowering<'_, '_, T>, op: &ConvTranspose) -> Result<(), String> {
    let (x, w, y) = (node.dims(0)?, node.dims(1)?, node.out(0)?);
    let groups = usize::try_from(op.group).map_err(|_| "its number of groups does not fit")?;
    let fits = w.len() > 2 && w[0] == x[1] && y[1] == w[1] * groups && x[1].is_multiple_of(groups);
    if !fits || op.window.auto_pad != AutoPad::NotSet || !op.output_shape.is_empty() {
        return Err("its padding follows from its output".into());
    }
    let geometry = Window2d::new(&op.window, &y, &x, &w[2..])?;
    let mut inputs = vec![node.read(0)?, node.read(1)?];
    if node.has(2) {
        inputs.push(node.read(2)?);
    }
    node.emit(ConvKernel::new(&geometry, x[0], groups, [w[1], x[1] / groups], true)?, &inputs)
}

/// Y[N, M, …] = X[N, C, …] ∗ W[M, C/groups, k…] + B[M]; transposed, from Y to X, with a bias for X.
struct ConvKernel {
    forward: DirectConv,
    backward: DirectConv,
    /// Elements of a plane that has the bias.
    plane: usize,
}

impl ConvKernel {
    /// `channels` are those of X and of Y in a group.
    fn new(
        s: &Window2d,
        images: usize,
        groups: usize,
        [x, y]: [usize; 2],
        transposed: bool,
    ) -> Result<ConvKernel, String> {
        let axes = [0, 1].map(|axis| TapAxis::forward(s, axis));
        let turned = [0, 1].map(|axis| TapAxis::back(s, axis));
        let there = DirectConv::new(axes, [images, groups, x, y], [x * s.taps(), s.taps()])?;
        let back = DirectConv::new(turned, [images, groups, y, x], [s.taps(), x * s.taps()])?;
        let (forward, backward) = if transposed { (back, there) } else { (there, back) };
        Ok(ConvKernel { forward, backward, plane: if transposed { s.plane() } else { s.windows() } })
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

impl<T: Real> Kernel<T> for ConvKernel {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn scratch(&self) -> Scratch {
        Scratch { forward: self.forward.room(), backward: self.backward.back_room() }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], scratch: &mut [T], _: Mode) {
        let start = x.get(2).map_or(Start::Zero, |bias| Start::Bias(bias));
        self.forward.apply(x[0], x[1], y, start, scratch);
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let mut dx = dx.into_iter();
        let [by_x, by_weight, by_bias] = std::array::from_fn(|_| dx.next().flatten());
        if by_x.is_some() || by_weight.is_some() {
            self.backward.back(dy, [x[0], x[1]], by_x, by_weight, scratch);
        }
        by_bias.into_iter().for_each(|by| channel_sums(dy, by, self.plane));
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;

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
        conv("Conv", "10,3,8,8", "2,3,1,1", 2);
        conv("Conv", "2,3,70", "40,3,1", 0);
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

    /// What runs on a processor without AVX2. Other tests may meet the flag: their results hold on either path.
    #[test]
    fn without_avx2() {
        use crate::autodiff::vectors::PORTABLE;
        use std::sync::atomic::Ordering;
        PORTABLE.store(true, Ordering::Relaxed);
        dense();
        pointwise();
        grouped();
        transposed();
        rows_of_a_large_image();
        PORTABLE.store(false, Ordering::Relaxed);
    }
}
