//! What the windows of convolutions see of their input: im2col.

use super::GATHERED;
use crate::ir::op::conv::{Conv, KernelShape};
use crate::ir::op::conv_transpose::ConvTranspose;
use crate::ir::{Dim, Op};

/// For one spatial axis, the position of the input that each tap of each window meets; none where it meets padding or, in a
/// transposed convolution, nothing.
type TapPositions = Vec<Vec<Option<usize>>>;

/// A convolution or a transposed one: each position of its result is a sum over a window of its input.
#[derive(Debug, Clone)]
pub enum Windows {
    Conv(Conv, KernelShape),
    Transposed(ConvTranspose, KernelShape),
}

impl Windows {
    /// `None` for other operators, and if the weight's shape is none that this one has.
    pub fn of(op: &Op, weight: &[usize]) -> Option<Windows> {
        match op {
            Op::Conv(conv) => Some(Windows::Conv(conv.clone(), conv.kernel(weight)?)),
            Op::ConvTranspose(conv) => Some(Windows::Transposed(conv.clone(), conv.kernel(weight)?)),
            _ => None,
        }
    }

    pub fn kernel(&self) -> &KernelShape {
        let (Windows::Conv(_, kernel) | Windows::Transposed(_, kernel)) = self;
        kernel
    }

    /// Along one of `axes` axes, of `n` elements. `None` if no result has this size.
    fn axis(&self, axis: usize, axes: usize, n: usize) -> Option<TapPositions> {
        let k = self.kernel().size[axis];
        let (window, count, begin) = match self {
            Windows::Conv(conv, _) => {
                let count = conv.window.output(axis, axes, &Dim::Known(n as u64), k as u64).ok()?.known()?;
                let begin = conv.window.padding(axis, axes, n as i64, k as i64, count as i64).0;
                (&conv.window, count, begin)
            }
            Windows::Transposed(conv, _) => {
                let (begin, count) = conv.placed(axis, axes, n as u64, k as u64)?;
                (&conv.window, count, begin)
            }
        };
        let (stride, dilation) = (window.stride(axis), window.dilation(axis));
        let met = |at: i64, tap: i64| match self {
            Windows::Conv(..) => Some(at * stride + tap * dilation - begin),
            Windows::Transposed(..) => {
                let from = at + begin - tap * dilation;
                (from % stride == 0).then_some(from / stride)
            }
        };
        let inside = |i: i64| usize::try_from(i).ok().filter(|&i| i < n);
        let taps = |at: i64| (0..k as i64).map(|tap| met(at, tap).and_then(inside)).collect();
        Some((0..count as i64).map(taps).collect())
    }

    /// Rows of Xᵀ, one for each window that `taken` takes, of every group of channels, put behind those in its `out`;
    /// windows in row-major order of their positions. `None` if an input of this shape does not fit.
    pub fn columns(
        &self,
        x: &[f32],
        shape: &[usize],
        taken: &dyn Fn(usize) -> bool,
        out: &mut [Vec<f32>],
    ) -> Option<()> {
        let kernel = self.kernel();
        let [batch, channels, size @ ..] = shape else { return None };
        let axes = size.len();
        if axes != kernel.size.len() || *channels != kernel.inputs * kernel.groups || out.len() != kernel.groups {
            return None;
        }
        let area: usize = size.iter().product();
        let along: Vec<TapPositions> =
            size.iter().enumerate().map(|(axis, &n)| self.axis(axis, axes, n)).collect::<Option<_>>()?;
        let windows: usize = along.iter().map(Vec::len).product();
        let taps: usize = kernel.size.iter().product();
        let width = kernel.inputs * taps;
        if width == 0 {
            return None;
        }
        let rows: Vec<usize> = (0..batch * windows).filter(|&row| taken(row)).collect();
        let mut offsets = Vec::new();
        for rows in rows.chunks(GATHERED) {
            offsets.clear();
            rows.iter().for_each(|row| met(&along, size, row % windows, &mut offsets));
            for (group, out) in out.iter_mut().enumerate() {
                let start = out.len();
                out.resize(start + rows.len() * width, 0.0);
                for c in 0..kernel.inputs {
                    let to = out[start..].chunks_mut(width).map(|row| &mut row[c * taps..(c + 1) * taps]);
                    for ((row, offsets), to) in rows.iter().zip(offsets.chunks(taps)).zip(to) {
                        let plane = row / windows * channels + group * kernel.inputs + c;
                        let plane = x.get(plane * area..(plane + 1) * area)?;
                        for (to, &offset) in to.iter_mut().zip(offsets) {
                            *to = plane.get(offset).copied().unwrap_or(0.0);
                        }
                    }
                }
            }
        }
        Some(())
    }
}

/// Adds the offset in a channel of each tap of a window, beyond its end where a tap meets nothing.
fn met(along: &[TapPositions], size: &[usize], window: usize, offsets: &mut Vec<usize>) {
    let start = offsets.len();
    offsets.push(0);
    // From the last axis on, so that each tap of an axis is followed by all of the axes behind it.
    let (mut rest, mut step) = (window, 1);
    for (places, &n) in along.iter().zip(size).rev() {
        let taps = &places[rest % places.len()];
        rest /= places.len();
        let behind = offsets.split_off(start);
        for tap in taps {
            let at = |o: &usize| tap.map_or(usize::MAX, |p| o.saturating_add(p * step));
            offsets.extend(behind.iter().map(at));
        }
        step *= n;
    }
}
