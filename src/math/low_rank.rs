//! Products of thin matrices in place of a matrix: W ≈ L R, by truncated singular value decomposition.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut, ArrayViewMut1, Dimension, s};

use super::moments::Centred;
use super::output_metric::OutputMetric;
use super::solve::times;
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

/// The weights of least error for Y ≈ W X + b, term by term: the least-squares weights W*, drawn to P₀, decomposed in the
/// metric of the inputs' moments, W* S = Σ σ_t u_t v_tᵀ with S Sᵀ = C_xx + λI. (Chen et al. 2021, DRONE; Wang et al. 2024,
/// SVD-LLM.)
#[derive(Debug, Clone)]
pub struct Spectrum {
    u: Array2<f64>,
    sigma: Array1<f64>,
    /// v_tᵀ S⁻¹.
    right: Array2<f64>,
    /// What each term takes off the error.
    gains: Vec<f64>,
    /// E ‖Y − ȳ‖².
    all: f64,
}

impl Spectrum {
    /// The `most` leading terms, with `prior` as P₀ and λ = `lambda` · mean of the diagonal. `None` if something has no
    /// solution.
    pub fn new(c: &Centred, prior: ArrayView2<'_, f64>, most: usize, lambda: f64) -> Option<Spectrum> {
        let best = c.xx.ridge(&c.yx, Some(&prior.to_owned()), lambda)?;
        let root = c.xx.whitening(lambda)?;
        let Svd { u, sigma, vt } = Svd::leading(root.whiten(best.view())?.view(), most)?;
        let right = root.unwhiten(vt.view())?;
        if sigma.is_empty() {
            return None;
        }
        // W* (C_xx + λI) = C_yx + λ P₀, so W' = Σ u_t a_tᵀ, a_t = σ_t v_tᵀ S⁻¹, has the error
        // tr C_yy − 2 tr W' C_xy + tr W' C_xx W'ᵀ = tr C_yy − Σ (σ_t² + λ ‖a_t‖² − 2 λ u_tᵀ P₀ a_t).
        let lambda = lambda * c.xx.diag().sum() / c.xx.nrows().max(1) as f64;
        let prior = times(u.t(), prior);
        let gain = |t: usize| {
            let right = right.row(t);
            let square: f64 = sigma[t] * sigma[t];
            square + lambda * (square * right.dot(&right) - 2.0 * sigma[t] * prior.row(t).dot(&right))
        };
        let gains = (0..sigma.len()).map(gain).collect();
        Some(Spectrum { u, sigma, right, gains, all: c.yy.sum() })
    }

    /// E ‖Y − W' X − b‖² of the W' that `terms` terms make, ridge and all.
    pub fn lost(&self, terms: usize) -> f64 {
        (self.all - self.gains.iter().take(terms).sum::<f64>()).max(0.0)
    }

    /// W' = L R with `terms` terms, both factors at one scale, term by term: L is m × r, R is r × n. Of outputs that were weighed
    /// by this metric, back in the plain one. `None` if that has another shape.
    pub fn factors(&self, metric: &OutputMetric, terms: usize) -> Option<(Array2<f64>, Array2<f64>)> {
        let terms = terms.min(self.sigma.len());
        let mut left = metric.unweigh(self.u.slice(s![.., ..terms]))?.into_owned();
        let mut right = self.right.slice(s![..terms, ..]).to_owned();
        for (t, (mut mix, mut filter)) in left.columns_mut().into_iter().zip(right.rows_mut()).enumerate() {
            balance(self.sigma[t], mix.view_mut(), filter.view_mut());
        }
        Some((left, right))
    }
}

/// Brings a term σ u aᵀ to one scale: what a filter `a` gives, and the `u` that it is mixed by, get the root of its norm each. A
/// filter that is nothing stays so.
pub(super) fn balance<D: Dimension>(sigma: f64, mut mix: ArrayViewMut<'_, f64, D>, mut filter: ArrayViewMut1<'_, f64>) {
    let [of_mix, of_filter] = [mix.iter().map(|v| v * v).sum::<f64>().sqrt(), filter.dot(&filter).sqrt()];
    let scale = if of_filter > 0.0 { (sigma * of_mix / of_filter).sqrt() } else { 0.0 };
    filter *= scale;
    mix *= if scale > 0.0 { sigma / scale } else { 0.0 };
}

/// The root of a lost share of the energy.
pub(super) fn relative(lost: f64, total: f64) -> f64 {
    if total > 0.0 { (lost / total).max(0.0).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::Moments;
    use super::super::fit::scatter;
    use super::super::testing::noise;
    use super::*;
    use ndarray::{ArrayView1, array};

    fn matrix(m: usize, n: usize) -> Array2<f32> {
        noise(m, n, 1).mapv(|v| v as f32)
    }

    fn norm(a: &Array2<f32>) -> f64 {
        ArrayView1::from(a.as_slice().unwrap()).mapv(f64::from).mapv(|x| x * x).sum().sqrt()
    }

    #[test]
    fn the_error_is_what_the_factors_leave_out() {
        let w = matrix(20, 30);
        for terms in [1, 7, 19] {
            let f = factorize(w.view(), terms).unwrap();
            let measured = norm(&(&w - &f.left.dot(&f.right))) / norm(&w);
            assert!((measured - f.error).abs() < 1e-5, "{terms}: {measured} against {}", f.error);
        }
        let f = factorize(w.view(), 20).unwrap();
        assert!(norm(&(&w - &f.left.dot(&f.right))) < 1e-5 * norm(&w));
    }

    /// The closed form against the error of the factors themselves, with moments that need the ridge and without.
    #[test]
    fn the_predicted_error_is_the_error() {
        for (samples, lambda) in [(400, 1e-4), (400, 0.0), (12, 1e-2)] {
            let x = matrix(20, samples);
            let prior = matrix(15, 20).mapv(f64::from);
            let y = matrix(15, 21).slice(ndarray::s![.., 1..]).dot(&x).mapv(|v| v.max(0.0) + 0.3);
            let mut moments = Moments::new(20, 15);
            moments.add(x.view(), y.view()).unwrap();
            let fit = moments.centred(false).unwrap();
            let spectrum = Spectrum::new(&fit, prior.view(), 15, lambda).unwrap();
            for terms in [0, 1, 7, 15] {
                let (left, right) = spectrum.factors(&OutputMetric::PLAIN, terms).unwrap();
                let w = left.dot(&right);
                let error = scatter(&fit, w.view()).sum();
                let predicted = spectrum.lost(terms);
                assert!((error - predicted).abs() < 1e-9 * spectrum.lost(0), "{terms}: {error}, {predicted}");
            }
        }
    }

    #[test]
    fn ranks() {
        let w = matrix(20, 30);
        // 20 · 30 / 50 = 12 would leave all.
        assert_eq!(Rank::Ratio(0.5).terms(w.view()), Some(6));
        assert_eq!(Rank::Ratio(1.0).terms(w.view()), Some(12));
        assert_eq!(Rank::Ratio(0.0).terms(w.view()), Some(1));
        assert_eq!(Rank::Terms(usize::MAX).terms(w.view()), Some(20));
        // Energies 16, 4 and 1.
        let w = array![[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0f32]];
        let terms = |share| Rank::Energy(share).terms(w.view()).unwrap();
        assert_eq!([terms(0.0), terms(0.7), terms(0.8), terms(0.96), terms(1.0)], [1, 1, 2, 3, 3]);
    }

    #[test]
    fn what_has_no_decomposition() {
        assert_eq!(Rank::Energy(0.5).terms(array![[1.0, f32::NAN]].view()), None);
        assert_eq!(factorize(array![[1.0, f32::INFINITY]].view(), 1), None);
        let zero = factorize(Array2::zeros((3, 4)).view(), 2).unwrap();
        assert_eq!((zero.left.dot(&zero.right), zero.error), (Array2::zeros((3, 4)), 0.0));
    }
}
