//! One axis of a convolution: which elements its windows read, forward and on the way back.

use crate::distill::sweep::Sweep;
use std::ops::Range;

/// Window `o` reads elements `o stride + place − pad` of `input`, for each tap's place; its result goes to element
/// `start + o step`.
#[derive(Debug, Clone)]
pub struct Axis {
    pub input: usize,
    pub windows: usize,
    pub stride: usize,
    pub pad: isize,
    /// Elements of a window: which weight each has, and its place.
    pub taps: Vec<[usize; 2]>,
    pub start: usize,
    pub step: usize,
    /// Elements of what results go to.
    pub output: usize,
}

impl Axis {
    pub fn forward(s: &Sweep, axis: usize) -> Axis {
        Axis {
            input: s.input[axis],
            windows: s.output[axis],
            stride: s.stride[axis],
            pad: s.pad[axis] as isize,
            taps: (0..s.kernel[axis]).map(|k| [k, k * s.dilation[axis]]).collect(),
            start: 0,
            step: 1,
            output: s.output[axis],
        }
    }

    /// The axes of the transposed convolution: one for the elements of each residue by the stride, as these see the same
    /// taps. Element y is part of window o by tap k where y + pad = o stride + k dilation.
    pub fn back(s: &Sweep, axis: usize) -> Vec<Axis> {
        let (stride, pad, input) = (s.stride[axis], s.pad[axis], s.input[axis]);
        let residues = (0..stride.min(input)).map(|start| {
            let (phase, first) = ((start + pad) % stride, (start + pad) / stride);
            let places = (0..s.kernel[axis]).map(|k| [k, k * s.dilation[axis]]).filter(|t| t[1] % stride == phase);
            let taps: Vec<_> = places.map(|[k, place]| [k, place / stride]).collect();
            let last = taps.last().map_or(0, |t| t[1]);
            Axis {
                input: s.output[axis],
                windows: (input - start).div_ceil(stride),
                stride: 1,
                pad: last as isize - first as isize,
                taps: taps.into_iter().rev().map(|[k, back]| [k, last - back]).collect(),
                start,
                step: stride,
                output: input,
            }
        });
        residues.collect()
    }

    /// The places of taps by the stride, without repetition: elements of one phase lie side by side in a padded plane.
    pub fn phases(&self) -> Vec<usize> {
        let mut phases: Vec<usize> = self.taps.iter().map(|t| t[1] % self.stride).collect();
        phases.sort_unstable();
        phases.dedup();
        phases
    }

    /// How far the last element of a window lies from the first, in its phase.
    pub fn reach(&self) -> usize {
        self.taps.iter().map(|t| t[1] / self.stride).max().unwrap_or(0)
    }

    /// The places in a padded phase, among so many that are seen, that elements of the input have.
    pub fn inside(&self, phase: usize, seen: usize) -> Range<usize> {
        let stride = self.stride as isize;
        let place = |element: isize| {
            let ceil = -((phase as isize - self.pad - element).div_euclid(stride));
            (ceil.max(0) as usize).min(seen)
        };
        let end = place(self.input as isize);
        place(0).min(end)..end
    }

    /// The element that lies at a place of a padded phase.
    pub fn element(&self, phase: usize, place: usize) -> usize {
        ((place * self.stride + phase) as isize - self.pad) as usize
    }

    /// Elements from the start of one padded row to that of the next, where a row's padding on the right is the next
    /// row's on the left; and how far the last row's windows read on.
    pub fn row(&self) -> [usize; 2] {
        let seen = self.windows + self.reach();
        let inside: Vec<Range<usize>> = self.phases().iter().map(|&p| self.inside(p, seen)).collect();
        let shared = inside.iter().map(|r| r.start).min().unwrap_or(0);
        let end = inside.iter().map(|r| r.end).max().unwrap_or(0);
        let row = self.windows.max(end).max(seen - shared.min(seen));
        [row, seen.saturating_sub(row)]
    }

    /// Whether window `o` reads element `o stride` alone, and its result goes to element `o`.
    pub fn is_plain(&self) -> bool {
        self.taps.len() == 1 && self.reach() == 0 && self.step == 1 && self.output == self.windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(input: usize, kernel: usize, stride: usize, dilation: usize, pad: usize) -> Sweep {
        let output = (input + 2 * pad - (kernel - 1) * dilation - 1) / stride + 1;
        let pair = |n: usize| [1, n];
        Sweep {
            input: pair(input),
            output: pair(output),
            kernel: pair(kernel),
            stride: pair(stride),
            dilation: pair(dilation),
            pad: [0, pad],
            pad_end: [0, pad],
        }
    }

    /// Every (window, tap, element) that an axis reads, in the terms of the convolution forward.
    fn read(axis: &Axis, back: bool) -> Vec<[usize; 3]> {
        let mut found = Vec::new();
        for o in 0..axis.windows {
            for &[tap, place] in &axis.taps {
                let (phase, at) = (place % axis.stride, o + place / axis.stride);
                if axis.inside(phase, axis.windows + axis.reach()).contains(&at) {
                    let (element, to) = (axis.element(phase, at), axis.start + o * axis.step);
                    found.push(if back { [element, tap, to] } else { [to, tap, element] });
                }
            }
        }
        found
    }

    #[test]
    fn the_way_back_reads_what_forward_reads() {
        for (input, kernel, stride, dilation, pad) in [
            (7, 3, 1, 1, 1),
            (8, 3, 2, 1, 1),
            (5, 2, 3, 2, 4),
            (9, 1, 2, 1, 0),
            (4, 3, 3, 3, 5),
            (6, 4, 2, 1, 0),
            (2, 2, 5, 1, 3),
        ] {
            let s = sweep(input, kernel, stride, dilation, pad);
            let mut want = Vec::new();
            for o in 0..s.output[1] {
                for k in 0..kernel {
                    want.extend((o * stride + k * dilation).checked_sub(pad).filter(|&e| e < input).map(|e| [o, k, e]));
                }
            }
            let mut back: Vec<_> = Axis::back(&s, 1).iter().flat_map(|a| read(a, true)).collect();
            back.sort_unstable();
            want.sort_unstable();
            assert_eq!(read(&Axis::forward(&s, 1), false), want);
            assert_eq!(back, want);
        }
    }
}
