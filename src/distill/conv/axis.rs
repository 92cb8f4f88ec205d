//! One axis of a convolution: which elements the places of its result read.

use crate::distill::sweep::Sweep;
use std::collections::BTreeMap;
use std::ops::Range;

/// More classes than this, and padding is read instead.
const MAX_CLASSES: usize = 16;

/// For every place, the elements that it reads: by which tap, the first tap first, and which.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Elements, among zeros if padding is read.
    pub elements: usize,
    /// Those of them that are given.
    pub given: Range<usize>,
    pub places: Vec<Vec<[usize; 2]>>,
}

/// Places that read by the same taps, each tap as far from the first element that is read.
#[derive(Debug)]
pub struct Class {
    /// Taps, and how far.
    pub reads: Vec<[usize; 2]>,
    /// Places, and the first element that each reads.
    pub places: Vec<[usize; 2]>,
}

/// The places that read by one tap, and what they read: both evenly spaced.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub place: usize,
    pub element: usize,
    pub steps: [usize; 2],
    pub count: usize,
}

impl Axis {
    /// Windows, and what they see of the input.
    pub fn forward(s: &Sweep, axis: usize) -> Axis {
        let [stride, dilation, pad] = [s.stride[axis], s.dilation[axis], s.pad[axis]].map(|n| n as isize);
        let element = |o: isize, k: isize| Some(o * stride + k * dilation - pad);
        Axis::new(s.kernel[axis], s.output[axis], s.input[axis], element)
    }

    /// The way back: elements of the input, and the windows that see them.
    pub fn back(s: &Sweep, axis: usize) -> Axis {
        let [stride, dilation, pad] = [s.stride[axis], s.dilation[axis], s.pad[axis]].map(|n| n as isize);
        let window = |e: isize, k: isize| {
            let far = e + pad - k * dilation;
            (far.rem_euclid(stride) == 0).then(|| far.div_euclid(stride))
        };
        Axis::new(s.kernel[axis], s.input[axis], s.output[axis], window)
    }

    /// `element` tells what a place reads by a tap, which may be padding.
    fn new(taps: usize, places: usize, given: usize, element: impl Fn(isize, isize) -> Option<isize>) -> Axis {
        let all: Vec<Vec<(usize, isize)>> = (0..places as isize)
            .map(|place| (0..taps).filter_map(|tap| Some((tap, element(place, tap as isize)?))).collect())
            .collect();
        let axis = |from: isize, to: isize| {
            let inside = |&(tap, e): &(usize, isize)| (from..to).contains(&e).then(|| [tap, (e - from) as usize]);
            let places = all.iter().map(|reads| reads.iter().filter_map(inside).collect()).collect();
            Axis { elements: (to - from) as usize, given: -from as usize..-from as usize + given, places }
        };
        let seen = axis(0, given as isize);
        if seen.classes().len() <= MAX_CLASSES {
            return seen;
        }
        let read = || all.iter().flatten().map(|r| r.1);
        axis(read().min().unwrap_or(0).min(0), read().max().map_or(0, |last| last + 1).max(given as isize))
    }

    pub fn classes(&self) -> Vec<Class> {
        let mut classes: BTreeMap<Vec<[usize; 2]>, Vec<[usize; 2]>> = BTreeMap::new();
        for (place, reads) in self.places.iter().enumerate() {
            let first = reads.iter().map(|r| r[1]).min().unwrap_or(0);
            let key = reads.iter().map(|&[tap, element]| [tap, element - first]).collect();
            classes.entry(key).or_default().push([place, first]);
        }
        classes.into_iter().map(|(reads, places)| Class { reads, places }).collect()
    }

    /// From the first to the last element that some places read.
    pub fn seen(&self, places: Range<usize>) -> Range<usize> {
        let read = || self.places[places.clone()].iter().flatten().map(|r| r[1]);
        read().min().unwrap_or(0)..read().max().map_or(0, |last| last + 1)
    }

    /// Those of some places that read by a tap.
    pub fn run(&self, tap: usize, places: Range<usize>) -> Option<Run> {
        let of = |place: usize| {
            let reads = &self.places[place];
            Some([place, reads[reads.binary_search_by_key(&tap, |r| r[0]).ok()?][1]])
        };
        let mut found = places.filter_map(of);
        let ([place, element], second) = (found.next()?, found.next());
        let steps = second.map_or([1, 1], |second| [second[0] - place, second[1] - element]);
        Some(Run { place, element, steps, count: 1 + usize::from(second.is_some()) + found.count() })
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

    fn sorted(mut reads: Vec<[usize; 3]>) -> Vec<[usize; 3]> {
        reads.sort_unstable();
        reads
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
        ] {
            let s = sweep(input, kernel, stride, dilation, pad);
            let (there, back) = (Axis::forward(&s, 1), Axis::back(&s, 1));
            let given = |axis: &Axis, back: bool| {
                let reads = axis.places.iter().enumerate().flat_map(|(p, reads)| reads.iter().map(move |r| (p, r)));
                let inside = reads.filter(|(_, r)| axis.given.contains(&r[1]));
                let order = |(p, r): (usize, &[usize; 2])| {
                    let e = r[1] - axis.given.start;
                    if back { [e, r[0], p] } else { [p, r[0], e] }
                };
                sorted(inside.map(order).collect())
            };
            assert_eq!(given(&there, false), given(&back, true));
            assert!(there.classes().len() <= MAX_CLASSES && back.classes().len() <= MAX_CLASSES);
            for axis in [there, back] {
                let places = axis.places.iter().enumerate();
                let all = sorted(places.flat_map(|(p, reads)| reads.iter().map(move |r| [p, r[0], r[1]])).collect());
                let of_class = |class: Class| {
                    let Class { reads, places } = class;
                    places
                        .into_iter()
                        .flat_map(move |[p, first]| reads.clone().into_iter().map(move |r| [p, r[0], first + r[1]]))
                };
                assert_eq!(sorted(axis.classes().into_iter().flat_map(of_class).collect()), all);
                let middle = axis.places.len() / 2;
                let mut runs = Vec::new();
                for (tap, part) in
                    (0..kernel).flat_map(|k| [0..middle, middle..axis.places.len()].map(|part| (k, part)))
                {
                    let seen = axis.seen(part.clone());
                    let Some(run) = axis.run(tap, part) else { continue };
                    for i in 0..run.count {
                        let [place, element] = [run.place + i * run.steps[0], run.element + i * run.steps[1]];
                        assert!(seen.contains(&element));
                        runs.push([place, tap, element]);
                    }
                }
                assert_eq!(sorted(runs), all);
            }
        }
    }
}
