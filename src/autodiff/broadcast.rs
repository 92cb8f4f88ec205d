//! Runs of a tensor together with the tensors that broadcast to it.

use super::real::Real;
use rayon::prelude::*;

/// Runs of a row-major tensor, and where in each of K others they lie: those stand still (`steps` 0) or go along (1).
#[derive(Debug, PartialEq)]
pub struct BroadcastRuns<const K: usize> {
    /// Size and strides of each axis but the last, outermost first; neighbours that can be are one axis.
    dims: Vec<(usize, [usize; K])>,
    /// Length of a run.
    pub run: usize,
    pub steps: [usize; K],
}

impl<const K: usize> BroadcastRuns<K> {
    /// Over a tensor of this shape, with others of shapes that broadcast to it; `None` if one does not. (ONNX
    /// Broadcasting.)
    pub fn new(shape: &[usize], others: [&[usize]; K]) -> Option<Self> {
        let mut strides = vec![[0; K]; shape.len()];
        for (k, other) in others.iter().enumerate() {
            let lead = shape.len().checked_sub(other.len())?;
            let mut stride = 1;
            for (axis, &n) in other.iter().enumerate().rev() {
                if n != 1 {
                    strides[lead + axis][k] = stride;
                    stride *= n;
                }
                if n != 1 && n != shape[lead + axis] {
                    return None;
                }
            }
        }
        let mut dims: Vec<(usize, [usize; K])> = Vec::new();
        for (&n, strides) in shape.iter().zip(strides).filter(|d| *d.0 != 1) {
            match dims.last_mut() {
                Some(last) if (0..K).all(|k| last.1[k] == strides[k] * n) => *last = (last.0 * n, strides),
                _ => dims.push((n, strides)),
            }
        }
        let (run, steps) = dims.pop().unwrap_or((1, [0; K]));
        Some(BroadcastRuns { dims, run, steps })
    }

    /// Calls `f` with the place of every run, in the tensor and in the others, in order.
    pub fn each(&self, f: impl FnMut(usize, [usize; K])) {
        BroadcastRuns::go(&self.dims, self.run, [0; K], f);
    }

    fn go(dims: &[(usize, [usize; K])], run: usize, start: [usize; K], mut f: impl FnMut(usize, [usize; K])) {
        let mut index = vec![0; dims.len()];
        let mut at = start;
        for i in 0..dims.iter().map(|d| d.0).product() {
            f(i * run, at);
            for (index, (n, strides)) in index.iter_mut().zip(dims).rev() {
                *index += 1;
                (0..K).for_each(|k| at[k] += strides[k]);
                if *index < *n {
                    break;
                }
                (0..K).for_each(|k| at[k] -= strides[k] * n);
                *index = 0;
            }
        }
    }

    /// Calls `f` with every run of `y`, which has the shape of the tensor, and where it lies in the others: on all
    /// threads, in no order.
    pub fn fill<T: Real>(&self, y: &mut [T], f: impl Fn(&mut [T], [usize; K]) + Sync) {
        let Some((outer, inner)) = self.dims.split_first() else { return f(y, [0; K]) };
        let block = y.len() / outer.0;
        y.par_chunks_mut(block).enumerate().for_each(|(i, y)| {
            let start = outer.1.map(|stride| stride * i);
            BroadcastRuns::go(inner, self.run, start, |at, others| f(&mut y[at..at + self.run], others));
        });
    }
}

/// `x[at..]` along a run: `n` elements, or the one it stands still on.
pub fn along<T>(x: &[T], at: usize, step: usize, n: usize) -> &[T] {
    &x[at..at + if step == 0 { 1 } else { n }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_joined() {
        let runs = BroadcastRuns::new(&[2, 3, 4, 5], [&[2, 3, 4, 5], &[3, 1, 1], &[]]).unwrap();
        assert_eq!(runs, BroadcastRuns { dims: vec![(2, [60, 0, 0]), (3, [20, 1, 0])], run: 20, steps: [1, 0, 0] });
        assert_eq!(BroadcastRuns::new(&[1, 1], [&[1]]).unwrap(), BroadcastRuns { dims: vec![], run: 1, steps: [0] });
        assert!(BroadcastRuns::new(&[2, 3], [&[2]]).is_none());
        assert!(BroadcastRuns::new(&[3], [&[1, 3]]).is_none());
    }

    #[test]
    fn both_walks_see_the_same() {
        let runs = BroadcastRuns::new(&[2, 3, 2], [&[2, 1, 2], &[3, 1]]).unwrap();
        let mut seen = Vec::new();
        runs.each(|at, others| seen.push((at, others)));
        assert_eq!(seen, [(0, [0, 0]), (2, [0, 1]), (4, [0, 2]), (6, [2, 0]), (8, [2, 1]), (10, [2, 2])]);
        let mut y = [0.0f64; 12];
        runs.fill(&mut y, |y, [a, b]| y.fill((10 * a + b) as f64));
        assert_eq!(y, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 20.0, 20.0, 21.0, 21.0, 22.0, 22.0]);
    }
}
