//! One axis of a convolution: which input elements each output reads.

use crate::autodiff::window::Window2d;
use std::collections::BTreeMap;
use std::ops::Range;

/// More classes than this, and padding is read instead.
const MAX_CLASSES: usize = 16;

/// Output p of a band reads, by tap t, input element (p·`stride` + t·`dilation` + `first`) / `input_stride`, where that is an
/// integer of `from` or more. Forward, `input_stride` is 1; for the gradient, `stride` is 1 and `input_stride` the
/// convolution's stride.
#[derive(Debug, Clone)]
pub struct TapAxis {
    /// Bands that all outputs are cut into: neighbouring ones, as many in each. The last bands may have outputs that there
    /// are none of.
    pub bands: usize,
    pub outputs: usize,
    /// Elements that a band reads: zeros where none are given.
    pub elements: usize,
    pub taps: usize,
    /// Outputs and given elements in all.
    pub whole: [usize; 2],
    from: isize,
    first: isize,
    dilation: isize,
    stride: usize,
    input_stride: usize,
    /// For each output until the pattern repeats, the taps that read for it, and the element each reads.
    phases: Vec<Vec<(usize, isize)>>,
}

/// Outputs that are read for by the same taps, each tap as far from the first element read.
#[derive(Debug)]
pub struct Class {
    /// Taps, and how far.
    pub reads: Vec<[usize; 2]>,
    /// Outputs in order, and the first element that each reads.
    pub outputs: Vec<[usize; 2]>,
}

/// The outputs that read by one tap, and what they read: both evenly spaced.
#[derive(Debug, Clone, Copy)]
pub struct Taps {
    pub output: usize,
    pub element: usize,
    pub steps: [usize; 2],
    pub count: usize,
}

impl TapAxis {
    /// Windows, and what they see of the input.
    pub fn forward(s: &Window2d, axis: usize) -> TapAxis {
        let first = -(s.pad[axis] as isize);
        let whole = [s.output[axis], s.input[axis]];
        TapAxis::new(s.kernel[axis], whole, first, s.dilation[axis] as isize, [s.stride[axis], 1])
    }

    /// The way back: elements of the input, and the windows that see them.
    pub fn back(s: &Window2d, axis: usize) -> TapAxis {
        let first = s.pad[axis] as isize;
        let whole = [s.input[axis], s.output[axis]];
        TapAxis::new(s.kernel[axis], whole, first, -(s.dilation[axis] as isize), [1, s.stride[axis]])
    }

    fn new(
        taps: usize,
        whole: [usize; 2],
        first: isize,
        dilation: isize,
        [stride, input_stride]: [usize; 2],
    ) -> TapAxis {
        let [outputs, elements] = whole;
        let (bands, from) = (1, 0);
        let phases = Vec::new();
        let mut axis =
            TapAxis { bands, outputs, elements, taps, whole, from, first, dilation, stride, input_stride, phases };
        let reads = |output| (0..taps).filter_map(|tap| Some((tap, axis.element(output, tap)?))).collect();
        axis.phases = (0..input_stride).map(reads).collect();
        if axis.alike().len() > MAX_CLASSES { axis.banded(1) } else { axis }
    }

    /// The same, in bands, which read zeros for padding.
    pub fn banded(&self, bands: usize) -> TapAxis {
        // Every band begins with the same phase.
        let outputs = match bands {
            1 => self.whole[0],
            _ => self.whole[0].div_ceil(bands).next_multiple_of(self.input_stride),
        };
        let read = || (0..self.input_stride.min(outputs)).flat_map(|output| &self.phases[output]).map(|r| r.1);
        // The last output of each phase lies so many repetitions further.
        let last = |phase: usize| ((outputs - 1 - phase) / self.input_stride * self.stride) as isize;
        let ends = (0..self.input_stride.min(outputs)).flat_map(|p| self.phases[p].iter().map(move |r| r.1 + last(p)));
        let (from, end) = (read().min().unwrap_or(0), ends.max().map_or(0, |last| last + 1));
        TapAxis { bands, outputs, elements: (end - from).max(0) as usize, from, ..self.clone() }
    }

    /// Whether input_stride output reads the element of its number.
    fn plain(&self) -> bool {
        (self.taps, self.first, self.stride, self.input_stride) == (1, 0, 1, 1) && self.whole[0] == self.whole[1]
    }

    /// Two axes that do the same, with the longer one as the first if one of them does nothing.
    pub fn ordered([rows, columns]: [TapAxis; 2]) -> [TapAxis; 2] {
        let of = |n| TapAxis::new(1, [n; 2], 0, 1, [1, 1]);
        match (rows.plain(), columns.plain()) {
            (true, true) => [of(rows.whole[0] * columns.whole[0]), of(1)],
            (true, _) if rows.whole[0] == 1 => [columns, rows],
            _ => [rows, columns],
        }
    }

    /// What a output reads by a tap, which may be padding.
    fn element(&self, output: usize, tap: usize) -> Option<isize> {
        let (at, input_stride) =
            ((output * self.stride) as isize + tap as isize * self.dilation + self.first, self.input_stride as isize);
        (at.rem_euclid(input_stride) == 0).then(|| at.div_euclid(input_stride))
    }

    /// What a output of a band reads: a phase, which of its taps, and how much further.
    fn reads(&self, output: usize) -> (usize, Range<usize>, isize) {
        let (phase, far) = (output % self.input_stride, (output / self.input_stride * self.stride) as isize);
        let inside = self.from..self.from + self.elements as isize;
        let taps = &self.phases[phase];
        let before = |end: isize| {
            taps.partition_point(|&(_, at)| if self.dilation > 0 { at + far < end } else { at + far >= end })
        };
        let [a, b] = [before(inside.start), before(inside.end)];
        (phase, a.min(b)..a.max(b), far)
    }

    /// Places by the taps that they read by: a phase, and which of its taps.
    fn alike(&self) -> BTreeMap<[usize; 3], Vec<[usize; 2]>> {
        let mut alike: BTreeMap<[usize; 3], Vec<[usize; 2]>> = BTreeMap::new();
        for output in 0..self.outputs {
            let (phase, taps, far) = self.reads(output);
            let first = self.first_of(phase, &taps).map_or(0, |first| first + far - self.from);
            let key = if taps.is_empty() { [0; 3] } else { [phase, taps.start, taps.end] };
            alike.entry(key).or_default().push([output, first as usize]);
        }
        alike
    }

    pub fn classes(&self) -> Vec<Class> {
        let class = |([phase, start, end], outputs): ([usize; 3], _)| {
            let taps = &self.phases[phase][start..end];
            let first = self.first_of(phase, &(start..end)).unwrap_or(0);
            Class { reads: taps.iter().map(|&(tap, at)| [tap, (at - first) as usize]).collect(), outputs }
        };
        self.alike().into_iter().map(class).collect()
    }

    /// The first element of some taps of a phase.
    fn first_of(&self, phase: usize, taps: &Range<usize>) -> Option<isize> {
        let taps = &self.phases[phase][taps.clone()];
        Some(taps.first()?.1.min(taps.last()?.1))
    }

    /// From the first to the last element that some outputs of a band read.
    pub fn seen(&self, outputs: Range<usize>) -> Range<usize> {
        let ends = outputs.filter_map(|output| {
            let (phase, taps, far) = self.reads(output);
            let taps = &self.phases[phase][taps];
            let [a, b] = [taps.first()?.1, taps.last()?.1].map(|at| (at + far - self.from) as usize);
            Some([a.min(b), a.max(b) + 1])
        });
        ends.reduce(|[a, b], [c, d]| [a.min(c), b.max(d)]).map_or(0..0, |[first, end]| first..end)
    }

    /// Those of some outputs of a band that read by a tap.
    pub fn run(&self, tap: usize, outputs: Range<usize>) -> Option<Taps> {
        let found =
            outputs.clone().take(self.input_stride).find_map(|output| Some((output, self.element(output, tap)?)));
        let (output, element) = found.map(|(output, element)| (output, element - self.from))?;
        let steps = [self.input_stride, self.stride];
        // How many repetitions later an element comes.
        let until = |at: isize| (at - element).max(0) as usize;
        let skip = until(0).div_ceil(self.stride);
        let end =
            until(self.elements as isize).div_ceil(self.stride).min((outputs.end - output).div_ceil(self.input_stride));
        (skip < end).then(|| Taps {
            output: output + skip * self.input_stride,
            element: (element + (skip * self.stride) as isize) as usize,
            steps,
            count: end - skip,
        })
    }

    /// Which of some elements of a band are given, and the first of those.
    pub fn present_inputs(&self, band: usize, elements: Range<usize>) -> (Range<usize>, usize) {
        let far = band * (self.outputs / self.input_stride * self.stride);
        inside(self.from + (far + elements.start) as isize, elements.len(), self.whole[1])
    }

    /// Which of some outputs of a band there are, and the first of those.
    pub fn present_outputs(&self, band: usize, outputs: Range<usize>) -> (Range<usize>, usize) {
        inside((band * self.outputs + outputs.start) as isize, outputs.len(), self.whole[0])
    }
}

/// Which of `len` numbers from `first` on are below `all`, and the first of those.
fn inside(first: isize, len: usize, all: usize) -> (Range<usize>, usize) {
    let at = |n: isize| (n - first).clamp(0, len as isize) as usize;
    let inside = at(0)..at(all as isize);
    let first = (first + inside.start as isize).max(0) as usize;
    (inside, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(input: usize, kernel: usize, stride: usize, dilation: usize, pad: usize) -> Window2d {
        let output = (input + 2 * pad - (kernel - 1) * dilation - 1) / stride + 1;
        let pair = |n: usize| [1, n];
        Window2d {
            input: pair(input),
            output: pair(output),
            kernel: pair(kernel),
            stride: pair(stride),
            dilation: pair(dilation),
            pad: [0, pad],
            pad_end: [0, pad],
        }
    }

    /// Every place, tap and element that is given, by the definition of a convolution.
    fn all(s: &Window2d, back: bool) -> Vec<[usize; 3]> {
        let windows = (0..s.output[1]).flat_map(|o| (0..s.kernel[1]).map(move |k| (o, k)));
        let element =
            |(o, k): (usize, usize)| Some([o, k, (o * s.stride[1] + k * s.dilation[1]).checked_sub(s.pad[1])?]);
        let inside = windows.filter_map(element).filter(|r| r[2] < s.input[1]);
        let mut all: Vec<_> = inside.map(|[o, k, e]| if back { [e, k, o] } else { [o, k, e] }).collect();
        all.sort_unstable();
        all
    }

    /// Those of a band's reads that are given, as the whole axis counts them.
    fn given(axis: &TapAxis, reads: impl Iterator<Item = [usize; 3]>) -> Vec<[usize; 3]> {
        let of_band = |[place, tap, element]: [usize; 3]| {
            (0..axis.bands).filter_map(move |band| {
                let (place, element) =
                    (axis.present_outputs(band, place..place + 1), axis.present_inputs(band, element..element + 1));
                (!place.0.is_empty() && !element.0.is_empty()).then_some([place.1, tap, element.1])
            })
        };
        let mut given: Vec<_> = reads.flat_map(of_band).collect();
        given.sort_unstable();
        given
    }

    #[test]
    fn classes_and_runs_hold_all_that_is_read() {
        for (input, kernel, stride, dilation, pad) in [
            (7, 3, 1, 1, 1),
            (8, 3, 2, 1, 1),
            (5, 2, 3, 2, 4),
            (9, 1, 2, 1, 0),
            (4, 3, 3, 3, 5),
            (6, 4, 2, 1, 0),
            (2, 2, 5, 1, 3),
            (40, 31, 1, 1, 15),
            (50, 21, 2, 2, 20),
            (25, 21, 2, 1, 10),
        ] {
            let s = geometry(input, kernel, stride, dilation, pad);
            for back in [false, true] {
                let whole = if back { TapAxis::back(&s, 1) } else { TapAxis::forward(&s, 1) };
                let banded = [1, 2, 4, 8].map(|bands| whole.banded(bands));
                assert!(banded[0].classes().len() <= stride);
                assert_eq!([whole.outputs, banded[0].outputs], [whole.whole[0]; 2]);
                for axis in std::iter::once(whole).chain(banded) {
                    assert!(axis.classes().len() <= MAX_CLASSES);
                    let of_class = |Class { reads, outputs }: Class| {
                        outputs
                            .into_iter()
                            .flat_map(move |[p, first]| reads.clone().into_iter().map(move |r| [p, r[0], first + r[1]]))
                    };
                    assert_eq!(given(&axis, axis.classes().into_iter().flat_map(of_class)), all(&s, back));
                    let middle = axis.outputs / 2;
                    let mut runs = Vec::new();
                    for (tap, part) in (0..kernel).flat_map(|k| [0..middle, middle..axis.outputs].map(|part| (k, part)))
                    {
                        let seen = axis.seen(part.clone());
                        let Some(run) = axis.run(tap, part.clone()) else { continue };
                        for i in 0..run.count {
                            let [place, element] = [run.output + i * run.steps[0], run.element + i * run.steps[1]];
                            assert!(part.contains(&place) && seen.contains(&element));
                            runs.push([place, tap, element]);
                        }
                    }
                    assert_eq!(given(&axis, runs.into_iter()), all(&s, back));
                }
            }
        }
    }

    #[test]
    fn axes_that_do_nothing() {
        let [plain, other] = [geometry(5, 1, 1, 1, 0), geometry(7, 3, 1, 1, 1)];
        let sizes = |axes: [TapAxis; 2]| axes.map(|axis| (axis.outputs, axis.taps));
        let of = |axis| TapAxis::forward(&plain, axis);
        assert_eq!(sizes(TapAxis::ordered([of(1), of(1)])), [(25, 1), (1, 1)]);
        assert_eq!(sizes(TapAxis::ordered([of(0), TapAxis::back(&other, 1)])), [(7, 3), (1, 1)]);
        assert_eq!(sizes(TapAxis::ordered([of(1), TapAxis::back(&other, 1)])), [(5, 1), (7, 3)]);
    }
}
