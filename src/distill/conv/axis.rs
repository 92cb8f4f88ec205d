//! One axis of a convolution: which elements the places of its result read.

use crate::distill::sweep::Sweep;
use std::collections::BTreeMap;
use std::ops::Range;

/// For every place, the elements that it reads: by which tap, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub elements: usize,
    pub places: Vec<Vec<[usize; 2]>>,
}

/// Places that read by the same taps, each tap as far from the first element that is read.
#[derive(Debug, Default)]
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
    /// Windows, and what they see of the input: padding is not read.
    pub fn forward(s: &Sweep, axis: usize) -> Axis {
        let element = |o: usize, k: usize| (o * s.stride[axis] + k * s.dilation[axis]).checked_sub(s.pad[axis]);
        let reads = |o: usize| {
            let taps = (0..s.kernel[axis]).filter_map(|k| Some([k, element(o, k).filter(|&e| e < s.input[axis])?]));
            taps.collect()
        };
        Axis { elements: s.input[axis], places: (0..s.output[axis]).map(reads).collect() }
    }

    /// The way back: elements, and the places that read them.
    pub fn turned(&self) -> Axis {
        let mut places = vec![Vec::new(); self.elements];
        for (place, reads) in self.places.iter().enumerate() {
            reads.iter().for_each(|&[tap, element]| places[element].push([tap, place]));
        }
        Axis { elements: self.places.len(), places }
    }

    pub fn classes(&self) -> Vec<Class> {
        let mut classes: BTreeMap<Vec<[usize; 2]>, Vec<[usize; 2]>> = BTreeMap::new();
        for (place, reads) in self.places.iter().enumerate() {
            let first = reads.iter().map(|r| r[1]).min().unwrap_or(0);
            let mut key: Vec<_> = reads.iter().map(|&[tap, element]| [tap, element - first]).collect();
            key.sort_unstable();
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
        let of = |place: usize| Some([place, self.places[place].iter().find(|r| r[0] == tap)?[1]]);
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
        ] {
            let there = Axis::forward(&sweep(input, kernel, stride, dilation, pad), 1);
            let back = there.turned();
            assert_eq!(back.turned(), there);
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
