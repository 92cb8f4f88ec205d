//! Unstructured pruning by magnitude: how many weights each of several tensors loses, and which.
//!
//! Numbers are gone through one after the other, as often as it takes, and counted by their bits: those of floats that are
//! not negative are in the order of the floats.

use rayon::slice::ParallelSliceMut;
use std::cmp::Ordering;

/// How the weights of different tensors compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// By |w|.
    Absolute,
    /// By w² / Σ v² over the weights v of the same tensor that are no smaller: what removing w, after all smaller ones,
    /// costs of the squared norm that is left. (Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning,
    /// "LAMP".) The largest weight of every tensor scores 1 and goes last.
    Remaining,
}

impl Scale {
    /// Gives `each` the scores of a tensor of `len` values, in any order. Memory holds the tensor once if scores depend on
    /// the order of the values, and else nothing.
    pub fn scores(self, len: usize, values: impl Iterator<Item = f32>, each: &mut dyn FnMut(f32)) {
        let sizes = values.map(f32::abs);
        if self == Scale::Absolute {
            return sizes.for_each(each);
        }
        let mut sorted = Vec::with_capacity(len);
        sorted.extend(sizes);
        sorted.par_sort_unstable_by(f32::total_cmp);
        let mut left = 0.0;
        for size in sorted.into_iter().rev() {
            let square = f64::from(size).powi(2);
            left += square;
            each(if left > 0.0 { (square / left) as f32 } else { 0.0 });
        }
    }
}

/// Numbers counted by 16 of their bits.
struct Histogram(Vec<usize>);

impl Histogram {
    fn new() -> Histogram {
        Histogram(vec![0; 1 << 16])
    }

    fn add(&mut self, bits: u32) {
        self.0[bits as usize & 0xffff] += 1;
    }

    /// Where the number is that has `rank` smaller ones, and how many are in lower places. `None` if there are not as many.
    fn find(&self, rank: usize) -> Option<(u32, usize)> {
        let mut below = 0;
        for (place, &count) in self.0.iter().enumerate() {
            if rank < below + count {
                return Some((place as u32, below));
            }
            below += count;
        }
        None
    }
}

/// How many of the `n` lowest scores of all tensors are in each; of equal ones those of the first tensors. `scores` gives
/// those of a tensor, which are not negative, one after the other, and is asked twice.
pub fn spread(tensors: usize, n: usize, scores: impl Fn(usize, &mut dyn FnMut(f32))) -> Vec<usize> {
    let mut high = Histogram::new();
    (0..tensors).for_each(|i| scores(i, &mut |score| high.add(score.to_bits() >> 16)));
    let all = high.0.iter().sum();
    let Some((bucket, below)) = n.min(all).checked_sub(1).and_then(|last| high.find(last)) else {
        return vec![0; tensors];
    };
    let mut low = Histogram::new();
    let mut tensor = |i: usize| {
        let (mut lower, mut inside) = (0, Histogram::new());
        scores(i, &mut |score| match (score.to_bits() >> 16).cmp(&bucket) {
            Ordering::Less => lower += 1,
            Ordering::Equal => inside.add(score.to_bits()),
            Ordering::Greater => {}
        });
        let inside: Vec<(u32, usize)> = (0..).zip(inside.0).filter(|&(_, count)| count > 0).collect();
        inside.iter().for_each(|&(place, count)| low.0[place as usize] += count);
        (lower, inside)
    };
    // Of each tensor, how many are below the bucket, and those in it by the rest of their bits.
    let tensors: Vec<(usize, Vec<(u32, usize)>)> = (0..tensors).map(&mut tensor).collect();
    let (limit, smaller) = low.find(n.min(all) - 1 - below).unwrap_or((0, 0));
    let mut rest = n.min(all) - below - smaller;
    let counts = tensors.into_iter().map(|(lower, inside)| {
        let sum = |of: Ordering| inside.iter().filter(|p| p.0.cmp(&limit) == of).map(|p| p.1).sum::<usize>();
        let equal = sum(Ordering::Equal).min(rest);
        rest -= equal;
        lower + sum(Ordering::Less) + equal
    });
    counts.collect()
}

/// The values of least magnitude: all below a limit, and the first so many of those that equal it.
#[derive(Debug, Clone, PartialEq)]
pub struct Least {
    limit: u32,
    equal: usize,
}

impl Least {
    /// The `n` of least magnitude among what `values` gives each time it is asked; all, if there are fewer.
    pub fn new<I: Iterator<Item = f32>>(n: usize, values: impl Fn() -> I) -> Least {
        let bits = || values().map(|v| v.abs().to_bits());
        let (mut high, mut low) = (Histogram::new(), Histogram::new());
        bits().for_each(|b| high.add(b >> 16));
        let n = n.min(high.0.iter().sum());
        let Some((bucket, below)) = n.checked_sub(1).and_then(|last| high.find(last)) else {
            return Least { limit: 0, equal: 0 };
        };
        bits().filter(|b| b >> 16 == bucket).for_each(|b| low.add(b));
        let (rest, smaller) = low.find(n - 1 - below).unwrap_or((0, 0));
        Least { limit: bucket << 16 | rest, equal: n - below - smaller }
    }

    /// Whether the next value is one of them. Values are asked for in their order, each once.
    pub fn takes(&mut self, value: f32) -> bool {
        match value.abs().to_bits().cmp(&self.limit) {
            Ordering::Less => true,
            Ordering::Equal if self.equal > 0 => {
                self.equal -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_values_go() {
        let values = [2.0, -1.0, 1.0, -0.0, 1.0, f32::NAN];
        let marks = |n| {
            let mut least = Least::new(n, || values.into_iter());
            values.map(|v| u8::from(least.takes(v)))
        };
        assert_eq!(marks(0), [0, 0, 0, 0, 0, 0]);
        assert_eq!(marks(1), [0, 0, 0, 1, 0, 0]);
        assert_eq!(marks(3), [0, 1, 1, 1, 0, 0]);
        assert_eq!(marks(5), [1, 1, 1, 1, 1, 0]);
        assert_eq!(marks(9), [1; 6]);
        assert_eq!(Least::new(3, std::iter::empty), Least { limit: 0, equal: 0 });
    }

    #[test]
    fn a_budget_is_spent_where_scores_are_lowest() {
        let scores = [vec![2.0, 1.0, 2.0], vec![], vec![3.0, 0.5, 2.0]];
        let counts = |n| spread(3, n, |i, each| scores[i].iter().for_each(|&s| each(s)));
        assert_eq!(counts(0), [0, 0, 0]);
        assert_eq!(counts(2), [1, 0, 1]);
        assert_eq!(counts(3), [2, 0, 1]);
        assert_eq!(counts(5), [3, 0, 2]);
        assert_eq!(counts(99), [3, 0, 3]);
        assert!(spread(0, 4, |_, _| {}).is_empty());
    }

    #[test]
    fn counting_by_bits_is_sorting() {
        let size = |v: &f64| ((v.abs() * 64.0).round() / 64.0 + 1.0) as f32;
        let tensors = (1..4).map(|seed| crate::math::testing::noise(1, 500, seed).iter().map(size).collect());
        let tensors: Vec<Vec<f32>> = tensors.collect();
        for n in [1, 7, 300, 750, 1499] {
            let mut all = tensors.concat();
            all.sort_by(f32::total_cmp);
            let (limit, mut rest) = (all[n - 1], n);
            rest -= all.iter().filter(|&&v| v < limit).count();
            let want = tensors.iter().map(|t| {
                let equal = t.iter().filter(|&&v| v == limit).count().min(rest);
                rest -= equal;
                equal + t.iter().filter(|&&v| v < limit).count()
            });
            let want: Vec<usize> = want.collect();
            assert_eq!(spread(3, n, |i, each| tensors[i].iter().for_each(|&s| each(s))), want);
        }
    }

    #[test]
    fn the_share_of_what_is_left_ignores_the_scale_of_a_tensor() {
        let scores = |values: &[f32], scale: Scale| {
            let mut scores = Vec::new();
            scale.scores(values.len(), values.iter().copied(), &mut |s| scores.push(s));
            scores.sort_by(f32::total_cmp);
            scores
        };
        let values = [0.0, -3.0, 4.0, 0.0];
        assert_eq!(scores(&values, Scale::Absolute), [0.0, 0.0, 3.0, 4.0]);
        let want = [0.0, 0.0, 9.0 / 25.0, 1.0];
        assert_eq!(scores(&values, Scale::Remaining), want);
        assert_eq!(scores(&values.map(|v| v * 1024.0), Scale::Remaining), want);
        assert_eq!(scores(&[0.0, 0.0], Scale::Remaining), [0.0, 0.0]);
    }
}
