//! Transposes [lane][element] to [element][lane], and back: a lane is an image, or a band of one; an element is a pixel of one
//! channel.

use crate::autodiff::real::Real;
use crate::autodiff::vectors::{LANES, Vectors, widest};
use std::ops::Range;

/// Which elements of a stretch a lane has.
pub struct Lane {
    has: Range<usize>,
    /// Where the stretch would begin if the lane had all of it, counted around zero.
    start: usize,
}

impl Lane {
    /// `has` are the elements of the stretch that there are; the first of them lies at `first`.
    pub fn new(has: Range<usize>, first: usize) -> Lane {
        Lane { start: first.wrapping_sub(has.start), has }
    }

    #[inline(always)]
    fn at(&self, number: usize) -> usize {
        self.start.wrapping_add(number)
    }

    /// Those of eight numbers from one on that it has, counted from that one.
    #[inline(always)]
    fn part(&self, at: usize) -> Range<usize> {
        let [start, end] = [self.has.start, self.has.end].map(|n| n.clamp(at, at + LANES) - at);
        start..end
    }
}

/// Lanes of a stretch, whole vectors of them.
pub struct Lanes {
    lanes: Vec<Lane>,
    len: usize,
}

/// Eight lanes, and some numbers of the stretch, eight at most.
struct Block<'a> {
    first: usize,
    lanes: &'a [Lane; LANES],
    numbers: Range<usize>,
    /// Whether every lane has all of them.
    whole: bool,
}

impl Block<'_> {
    /// Calls `f` for every number that a lane has: with where it is among those of the block side by side, and where it lies.
    #[inline(always)]
    fn each(&self, width: usize, mut f: impl FnMut(usize, usize)) {
        for number in self.numbers.clone() {
            for (i, lane) in self.lanes.iter().enumerate() {
                if self.whole || lane.has.contains(&number) {
                    f(number * width + self.first + i, lane.at(number));
                }
            }
        }
    }
}

impl Lanes {
    pub fn new(len: usize, lanes: impl Iterator<Item = Lane>) -> Lanes {
        Lanes { lanes: lanes.collect(), len }
    }

    #[inline(always)]
    fn blocks(&self, mut f: impl FnMut(Block<'_>)) {
        for (group, lanes) in self.lanes.as_chunks::<LANES>().0.iter().enumerate() {
            let start = lanes.iter().map(|lane| lane.has.start).max().unwrap_or(0);
            let end = lanes.iter().map(|lane| lane.has.end).min().unwrap_or(0);
            for at in (0..self.len).step_by(LANES) {
                let numbers = at..self.len.min(at + LANES);
                let whole = start <= at && numbers.end <= end;
                f(Block { first: group * LANES, lanes, numbers, whole });
            }
        }
    }

    /// Number after number of the stretch, those of all lanes side by side; zeros where a lane has none.
    pub fn gather<T: Real>(&self, from: &[T], to: &mut [T]) {
        widest(
            #[inline(always)]
            |vectors| self.gather_wide(vectors, from, to),
        );
    }

    #[inline(always)]
    fn gather_wide<T: Real>(&self, vectors: Vectors, from: &[T], to: &mut [T]) {
        let width = self.lanes.len();
        self.blocks(
            #[inline(always)]
            |block| {
                let at = block.numbers.start;
                if block.numbers.len() == LANES {
                    let mut rows = [[T::ZERO; LANES]; LANES];
                    for (row, lane) in rows.iter_mut().zip(block.lanes) {
                        if block.whole || lane.part(at).len() == LANES {
                            row.copy_from_slice(&from[lane.at(at)..][..LANES]);
                        } else {
                            lane.part(at).for_each(|i| row[i] = from[lane.at(at + i)]);
                        }
                    }
                    for (j, row) in T::transposed(vectors, rows).iter().enumerate() {
                        to[(at + j) * width + block.first..][..LANES].copy_from_slice(row);
                    }
                    return;
                }
                if !block.whole {
                    let rows = block.numbers.clone().map(|number| number * width + block.first);
                    rows.for_each(|at| to[at..at + LANES].fill(T::ZERO));
                }
                block.each(width, |side, lies| to[side] = from[lies]);
            },
        );
    }

    /// The way back: every number that a lane has is set to what `f` makes of it and of the one that it gets.
    pub fn scatter<T: Real>(&self, from: &[T], to: &mut [T], f: impl Fn(T, T) -> T) {
        widest(
            #[inline(always)]
            |vectors| self.scatter_wide(vectors, from, to, f),
        );
    }

    #[inline(always)]
    fn scatter_wide<T: Real>(&self, vectors: Vectors, from: &[T], to: &mut [T], f: impl Fn(T, T) -> T) {
        let width = self.lanes.len();
        self.blocks(
            #[inline(always)]
            |block| {
                let at = block.numbers.start;
                if block.numbers.len() == LANES {
                    let mut rows = [[T::ZERO; LANES]; LANES];
                    for (j, row) in rows.iter_mut().enumerate() {
                        row.copy_from_slice(&from[(at + j) * width + block.first..][..LANES]);
                    }
                    for (row, lane) in T::transposed(vectors, rows).iter().zip(block.lanes) {
                        if block.whole || lane.part(at).len() == LANES {
                            let to = &mut to[lane.at(at)..][..LANES];
                            to.iter_mut().zip(row).for_each(|(to, &new)| *to = f(*to, new));
                        } else {
                            lane.part(at).for_each(|i| to[lane.at(at + i)] = f(to[lane.at(at + i)], row[i]));
                        }
                    }
                    return;
                }
                block.each(width, |side, lies| to[lies] = f(to[lies], from[side]));
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let from: Vec<f32> = (1..1000).map(|i| i as f32).collect();
        for (width, len) in [(8, 16), (8, 21), (16, 9), (16, 17), (8, 10), (8, 3)] {
            for part in [0..len, 1..len - 1, 2..2, 0..3, len - 2..len] {
                // Every third lane has a part of the stretch only.
                let has = |lane: usize| if lane % 3 == 1 { part.clone() } else { 0..len };
                let first = |lane: usize| 5 + lane * 40;
                let lanes = Lanes::new(len, (0..width).map(|lane| Lane::new(has(lane), first(lane))));
                let mut found = vec![-1.0f32; len * width];
                lanes.gather(&from, &mut found);
                let mut want = vec![0.5; from.len()];
                for (at, &found) in found.iter().enumerate() {
                    let (number, lane) = (at / width, at % width);
                    let inside = has(lane).contains(&number).then(|| first(lane) + number - has(lane).start);
                    assert_eq!(found, inside.map_or(0.0, |i| from[i]));
                    inside.into_iter().for_each(|i| want[i] += from[i]);
                }
                let mut back = vec![0.5; from.len()];
                lanes.scatter(&found, &mut back, |old, new| old + new);
                assert_eq!(back, want);
            }
        }
    }
}
