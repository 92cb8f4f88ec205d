//! Copies of lines between planes with other strides.

use crate::autodiff::vectors::{LANES, widest};

/// Where lines of equal length lie: the first one, how far apart those of neighbouring planes and of neighbouring rows are,
/// and neighbouring elements.
#[derive(Clone, Copy)]
pub struct Lines {
    pub first: usize,
    pub apart: [usize; 2],
    pub step: usize,
}

impl Lines {
    fn end(&self, [planes, rows]: [usize; 2], len: usize) -> usize {
        self.first + (planes - 1) * self.apart[0] + (rows - 1) * self.apart[1] + (len - 1) * self.step + 1
    }

    /// Whether so many rows are one line.
    fn joined(&self, rows: usize, len: usize) -> bool {
        self.step == 1 && (rows == 1 || self.apart[1] == len)
    }
}

/// Copies lines of `len` elements, of so many planes and rows.
pub fn copy<T: Copy>(to: &mut [T], there: Lines, from: &[T], here: Lines, counts: [usize; 2], len: usize) {
    widest(
        #[inline(always)]
        |_| copy_wide(to, there, from, here, counts, len),
    );
}

/// Short lines by a few moves of fixed lengths that overlap.
#[inline(always)]
fn copy_wide<T: Copy>(to: &mut [T], there: Lines, from: &[T], here: Lines, [planes, rows]: [usize; 2], len: usize) {
    if planes == 0 || rows == 0 || len == 0 {
        return;
    }
    let joined = there.joined(rows, len) && here.joined(rows, len);
    let (rows, len) = if joined { (1, rows * len) } else { (rows, len) };
    let counts = [planes, rows];
    assert!(there.end(counts, len) <= to.len() && here.end(counts, len) <= from.len(), "lines beyond their slice");
    let starts = (0..planes)
        .flat_map(move |p| (0..rows).map(move |r| [there, here].map(|l| l.first + p * l.apart[0] + r * l.apart[1])));
    const TWO: usize = 2 * LANES;
    const THREE: usize = 3 * LANES;
    const FOUR: usize = 4 * LANES;
    const FIVE: usize = 5 * LANES;
    // SAFETY: the last line of either side ends inside of its slice, and no line is shorter than what is moved of it.
    unsafe {
        match ([there.step, here.step], len) {
            ([1, 1], 1) => starts.for_each(|at| moved::<1, 1, T>(to, from, at, len)),
            ([1, 1], 2..4) => starts.for_each(|at| moved::<2, 1, T>(to, from, at, len)),
            ([1, 1], 4..LANES) => starts.for_each(|at| moved::<4, 1, T>(to, from, at, len)),
            ([1, 1], LANES..TWO) => starts.for_each(|at| moved::<LANES, 1, T>(to, from, at, len)),
            ([1, 1], TWO..THREE) => starts.for_each(|at| moved::<LANES, 2, T>(to, from, at, len)),
            ([1, 1], THREE..FOUR) => starts.for_each(|at| moved::<LANES, 3, T>(to, from, at, len)),
            ([1, 1], FOUR..FIVE) => starts.for_each(|at| moved::<LANES, 4, T>(to, from, at, len)),
            ([1, 1], _) => starts.for_each(|[t, h]| to[t..t + len].copy_from_slice(&from[h..h + len])),
            ([1, 2], _) => starts.for_each(|at| strided(to, from, at, [1, 2], len)),
            (steps, _) => starts.for_each(|at| strided(to, from, at, steps, len)),
        }
    }
}

/// Moves `V` times `N` elements, and the last `N` of the line.
///
/// # Safety
/// `len` elements from where the line begins must lie inside either slice, and `N` `V` be no more than `len`.
#[inline(always)]
unsafe fn moved<const N: usize, const V: usize, T: Copy>(
    to: &mut [T],
    from: &[T],
    [there, here]: [usize; 2],
    len: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let (to, from) = (to.as_mut_ptr().add(there), from.as_ptr().add(here));
        for at in (0..V).map(|v| v * N).chain([len - N]) {
            to.add(at).cast::<[T; N]>().write_unaligned(from.add(at).cast::<[T; N]>().read_unaligned());
        }
    }
}

/// Moves elements so far apart, one by one.
///
/// # Safety
/// The line must lie inside either slice.
#[inline(always)]
unsafe fn strided<T: Copy>(to: &mut [T], from: &[T], at: [usize; 2], steps: [usize; 2], len: usize) {
    // SAFETY: the caller's.
    unsafe {
        let (to, from) = (to.as_mut_ptr().add(at[0]), from.as_ptr().add(at[1]));
        (0..len).for_each(|i| to.add(i * steps[0]).write(from.add(i * steps[1]).read()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_length() {
        let from: Vec<usize> = (1..2000).collect();
        for len in 0..50 {
            for (steps, counts) in [([1, 1], [2, 3]), ([1, 2], [3, 1]), ([3, 1], [1, 4]), ([1, 1], [2, 0])] {
                for gap in [0, 5] {
                    let lines = |first, step| Lines { first, apart: [(len * step + gap) * 4, len * step + gap], step };
                    let [there, here] = [lines(3, steps[0]), lines(1, steps[1])];
                    let (mut found, mut want) = (vec![0; 2000], vec![0; 2000]);
                    copy(&mut found, there, &from, here, counts, len);
                    for (plane, row) in (0..counts[0]).flat_map(|p| (0..counts[1]).map(move |r| (p, r))) {
                        for i in 0..len {
                            let at = |l: Lines| l.first + plane * l.apart[0] + row * l.apart[1] + i * l.step;
                            want[at(there)] = from[at(here)];
                        }
                    }
                    assert_eq!(found, want, "{len} {steps:?} {counts:?} {gap}");
                }
            }
        }
    }
}
