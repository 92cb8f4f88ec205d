//! How windows slide over planes: what convolutions and pooling share.

use crate::ir::op::conv::Window;
use std::ops::Range;

/// A window over planes of two axes; one axis is a plane of height 1. (ONNX Operators: Conv, attributes.)
#[derive(Debug, Clone, PartialEq)]
pub struct Window2d {
    /// Height and width of a plane, and so on below.
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Before the first row and the first column.
    pub pad: [usize; 2],
    /// After the last row and the last column, as declared; windows may reach further when their number is rounded up.
    pub pad_end: [usize; 2],
}

/// No window reaches, and no padding goes, further.
const FAR: usize = 1 << 12;

impl Window2d {
    /// Of tensors [N, C, …] of these shapes.
    ///
    /// # Errors
    /// If there are more than two spatial axes, or numbers that do not fit.
    pub fn new(window: &Window, x: &[usize], y: &[usize], kernel: &[usize]) -> Result<Window2d, String> {
        let axes = kernel.len();
        if !(1..=2).contains(&axes) || x.len() != axes + 2 || y.len() != axes + 2 {
            return Err(format!("its window has {axes} axes; 1 and 2 can be trained through"));
        }
        let mut planes = Window2d {
            input: [1; 2],
            output: [1; 2],
            kernel: [1; 2],
            stride: [1; 2],
            dilation: [1; 2],
            pad: [0; 2],
            pad_end: [0; 2],
        };
        let size = |n: i64| usize::try_from(n).map_err(|_| format!("{n} among its window's numbers"));
        for axis in 0..axes {
            let to = axis + 2 - axes;
            let (n, k, out) = (x[axis + 2], kernel[axis], y[axis + 2]);
            let (stride, dilation) = (size(window.stride(axis))?, size(window.dilation(axis))?);
            let (begin, end) = window.padding(axis, axes, n as i64, k as i64, out as i64);
            let (begin, end) = (size(begin)?, size(end)?);
            if (k - 1).saturating_mul(dilation).max(begin).max(end) > FAR {
                return Err(format!("its window or its padding is larger than {FAR}"));
            }
            planes.input[to] = n;
            planes.output[to] = out;
            planes.kernel[to] = k;
            planes.stride[to] = stride;
            planes.dilation[to] = dilation;
            planes.pad[to] = begin;
            planes.pad_end[to] = end;
        }
        Ok(planes)
    }

    /// Elements of an input plane.
    pub fn plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Elements of an output plane: windows.
    pub fn windows(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements of a window.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// The windows along an axis whose `tap`-th element lies inside the input.
    pub fn inside(&self, axis: usize, tap: usize) -> Range<usize> {
        let (at, pad, stride) = (tap * self.dilation[axis], self.pad[axis], self.stride[axis]);
        let first = pad.saturating_sub(at).div_ceil(stride);
        let end = match (self.input[axis] + pad).checked_sub(at + 1) {
            Some(last) => (last / stride + 1).min(self.output[axis]),
            None => 0,
        };
        first.min(end)..end
    }

    /// Where along an axis the `tap`-th element of a window lies that is inside.
    pub fn at(&self, axis: usize, window: usize, tap: usize) -> usize {
        window * self.stride[axis] + tap * self.dilation[axis] - self.pad[axis]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::conv::AutoPad;

    #[test]
    fn what_is_inside() {
        let window = Window { pads: vec![2, 1], strides: vec![2], dilations: vec![3], ..Window::default() };
        let s = Window2d::new(&window, &[1, 1, 10], &[1, 1, 4], &[3]).unwrap();
        assert_eq!((s.pad, s.pad_end, s.stride), ([0, 2], [0, 1], [1, 2]));
        for tap in 0..3 {
            let brute: Vec<usize> = (0..4).filter(|w| (2..12).contains(&(w * 2 + tap * 3))).collect();
            assert_eq!(s.inside(1, tap).collect::<Vec<_>>(), brute, "{tap}");
            assert!(brute.iter().all(|&w| s.at(1, w, tap) == w * 2 + tap * 3 - 2));
        }
        assert_eq!(s.inside(0, 0), 0..1);
        let far = Window { dilations: vec![99], pads: vec![0, 99], ..Window::default() };
        assert_eq!(Window2d::new(&far, &[1, 1, 3], &[1, 1, 3], &[2]).unwrap().inside(1, 1), 0..0);
    }

    #[test]
    fn same_padding() {
        let same = |auto_pad| Window { auto_pad, strides: vec![2, 2], ..Window::default() };
        let of = |w: &Window| Window2d::new(w, &[1, 1, 8, 7], &[1, 1, 4, 4], &[3, 3]).unwrap();
        assert_eq!(of(&same(AutoPad::SameUpper)).pad, [0, 1]);
        assert_eq!(of(&same(AutoPad::SameLower)).pad, [1, 1]);
        assert!(Window2d::new(&Window::default(), &[1, 1, 2, 2, 2], &[1, 1, 2, 2, 2], &[1, 1, 1]).is_err());
    }
}
