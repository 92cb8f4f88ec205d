//! A second moment that is only multiplied with: its lower triangle in single precision, a quarter of the whole in `f64`.

use super::solve::times;
use ndarray::{Array2, ArrayView2, s};

/// Rows that are unpacked at a time.
const ROWS: usize = 256;

/// A symmetric second moment C (n × n).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PackedMoment {
    n: usize,
    /// The lower triangle, row after row.
    lower: Vec<f32>,
}

impl PackedMoment {
    /// Of the lower triangle of a matrix.
    pub fn of(matrix: &Array2<f64>) -> PackedMoment {
        let rows = matrix.rows().into_iter().enumerate();
        let lower = rows.flat_map(|(i, row)| row.into_iter().take(i + 1).map(|&v| v as f32)).collect();
        PackedMoment { n: matrix.nrows(), lower }
    }

    /// Of rows of the lower triangle, one after the other; `None` if they are not `n`.
    pub fn new(n: usize, lower: Vec<f32>) -> Option<PackedMoment> {
        (lower.len() == n * (n + 1) / 2).then_some(PackedMoment { n, lower })
    }

    /// Rows and columns.
    pub fn size(&self) -> usize {
        self.n
    }

    /// The lower triangle, row after row.
    pub fn lower(&self) -> &[f32] {
        &self.lower
    }

    /// Adds a share of how far another of the same size is from this one.
    pub fn pool(&mut self, other: &PackedMoment, share: f64) {
        for (mine, &others) in self.lower.iter_mut().zip(&other.lower) {
            let own = f64::from(*mine);
            *mine = (own + share * (f64::from(others) - own)) as f32;
        }
    }

    /// W C (m × n) of `w` (m × n).
    pub fn times(&self, w: ArrayView2<'_, f64>) -> Array2<f64> {
        let mut out = Array2::zeros((w.nrows(), self.n));
        for first in (0..self.n).step_by(ROWS) {
            let end = self.n.min(first + ROWS);
            let mut rows = Array2::<f64>::zeros((end - first, end));
            for i in first..end {
                let start = i * (i + 1) / 2;
                for (j, &v) in self.lower[start..=start + i].iter().enumerate() {
                    rows[(i - first, j)] = f64::from(v);
                    if j >= first {
                        rows[(j - first, i)] = f64::from(v);
                    }
                }
            }
            let mut below = out.slice_mut(s![.., ..end]);
            below += &times(w.slice(s![.., first..end]), rows.view());
            let mut beside = out.slice_mut(s![.., first..end]);
            beside += &times(w.slice(s![.., ..first]), rows.slice(s![.., ..first]).t());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;

    #[test]
    fn products_are_those_of_the_whole_matrix() {
        for n in [0, 1, 7, ROWS, 2 * ROWS + 3] {
            let x = noise(n, n + 4, 1);
            let c = x.dot(&x.t()) / (n + 4) as f64;
            let (packed, w) = (PackedMoment::of(&c), noise(3, n, 2));
            let (got, want) = (packed.times(w.view()), w.dot(&c));
            let scale = want.iter().fold(1.0f64, |most, v| most.max(v.abs()));
            assert!((&got - &want).iter().all(|d| d.abs() < 1e-6 * scale), "{n}");
            assert_eq!(PackedMoment::new(n, packed.lower().to_vec()), Some(packed));
        }
    }
}
