//! Products of thin matrices in place of a matrix: W ≈ L R, by truncated singular value decomposition.

use ndarray::{Array2, ArrayView2};

use super::svd::{Svd, rank_for_energy, singular_values};

/// How many terms a factorization keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// This number.
    Terms(usize),
    /// As many as leave this share of the parameters.
    Ratio(f64),
    /// The fewest whose Σσ² is this share of the whole.
    Energy(f64),
}

impl Rank {
    /// The number of terms for `w` (m × n), between 1 and min(m, n). `None` if an entry is not finite.
    pub fn terms(self, w: ArrayView2<'_, f32>) -> Option<usize> {
        let (m, n) = w.dim();
        let terms = match self {
            Rank::Terms(terms) => terms,
            // r (m + n) = ratio · m n; a hair more, so that a ratio that names a whole number is not rounded below it.
            Rank::Ratio(ratio) => (ratio * m as f64 * n as f64 / (m + n).max(1) as f64 + 1e-9) as usize,
            Rank::Energy(share) => rank_for_energy(&singular_values(w)?, share),
        };
        Some(terms.min(m).min(n).max(1))
    }
}

/// W ≈ L R; both factors carry √σ.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// L, m × r.
    pub left: Array2<f32>,
    /// R, r × n.
    pub right: Array2<f32>,
    /// ‖W − L R‖ / ‖W‖ (Frobenius), the least that r terms can have (Eckart & Young, 1936); 0 for W = 0.
    pub error: f64,
}

/// The best factors of `w` (m × n) with `terms` terms. `None` if an entry is not finite.
pub fn factorize(w: ArrayView2<'_, f32>, terms: usize) -> Option<Factors> {
    let svd = Svd::leading(w, terms)?;
    let kept: f64 = svd.sigma.iter().map(|&s| f64::from(s).powi(2)).sum();
    let total: f64 = w.iter().map(|&x| f64::from(x).powi(2)).sum();
    let root = svd.sigma.mapv(f32::sqrt);
    Some(Factors {
        left: svd.u * &root,
        right: svd.vt * &root.insert_axis(ndarray::Axis(1)),
        error: relative(total - kept, total),
    })
}

/// The root of a lost share of the energy.
pub(super) fn relative(lost: f64, total: f64) -> f64 {
    if total > 0.0 { (lost / total).max(0.0).sqrt() } else { 0.0 }
}
