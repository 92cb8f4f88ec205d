//! Separable filters: each k-tap slice of a convolution's weight as a few filters and how they are mixed. (Guo et al.,
//! "Network Decoupling: From Regular to Depthwise Separable Convolutions", BMVC 2018.)

pub mod fitted;

use ndarray::{Array3, ArrayView2, ArrayView3, Axis};
use rayon::prelude::*;

use super::low_rank::relative;
use super::svd::Svd;

/// The slices M (n × taps) of a weight, each as Σ_t σ_t u_t v_tᵀ with terms of falling σ.
#[derive(Debug, Clone, PartialEq)]
pub struct Separable {
    slices: Vec<Svd<f32>>,
    /// Σσ_t² over the slices, a number a term.
    energy: Vec<f64>,
}

impl Separable {
    /// Of `w` (slices × n × taps). `None` if an entry is not finite.
    pub fn new(w: ArrayView3<'_, f32>) -> Option<Separable> {
        let slices: Vec<ArrayView2<'_, f32>> = w.outer_iter().collect();
        let slices: Vec<Svd<f32>> = slices.into_par_iter().map(Svd::thin).collect::<Option<_>>()?;
        let full = w.len_of(Axis(1)).min(w.len_of(Axis(2)));
        let term = |t: usize| slices.iter().map(|s| f64::from(s.sigma[t]).powi(2)).sum();
        let energy = (0..full).map(term).collect();
        Some(Separable { slices, energy })
    }

    /// The number of terms that is exact: min(n, taps).
    pub fn full(&self) -> usize {
        self.energy.len()
    }

    /// The fewest terms, the same number in every slice, whose energy is at least `share` of the whole; at least 1.
    pub fn terms_for_energy(&self, share: f64) -> usize {
        let enough = |&t: &usize| self.lost(t) <= (1.0 - share) * self.lost(0);
        (1..self.full()).find(enough).unwrap_or(self.full())
    }

    /// ‖W − W'‖ / ‖W‖ (Frobenius) of the weight W' that `terms` terms a slice make; 0 for W = 0.
    pub fn error(&self, terms: usize) -> f64 {
        relative(self.lost(terms), self.lost(0))
    }

    /// √σ_t v_t: slices × terms × taps.
    pub fn filters(&self, terms: usize) -> Array3<f32> {
        let taps = self.slices.first().map_or(0, |s| s.vt.ncols());
        let at = |(i, t, k): (usize, usize, usize)| self.slices[i].sigma[t].sqrt() * self.slices[i].vt[(t, k)];
        Array3::from_shape_fn((self.slices.len(), terms.min(self.full()), taps), at)
    }

    /// √σ_t u_t: slices × n × terms.
    pub fn mixes(&self, terms: usize) -> Array3<f32> {
        let n = self.slices.first().map_or(0, |s| s.u.nrows());
        let at = |(i, j, t): (usize, usize, usize)| self.slices[i].sigma[t].sqrt() * self.slices[i].u[(j, t)];
        Array3::from_shape_fn((self.slices.len(), n, terms.min(self.full())), at)
    }

    fn lost(&self, terms: usize) -> f64 {
        self.energy.iter().skip(terms).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;
    use ndarray::array;

    fn weight(slices: usize, n: usize, taps: usize) -> Array3<f32> {
        let rows = noise(slices * n, taps, 1);
        Array3::from_shape_fn((slices, n, taps), |(i, j, k)| rows[(i * n + j, k)] as f32)
    }

    /// ‖W − W'‖ / ‖W‖.
    fn measured(w: &Array3<f32>, separable: &Separable, terms: usize) -> f64 {
        let (filters, mixes) = (separable.filters(terms), separable.mixes(terms));
        let slices = w.outer_iter().zip(mixes.outer_iter()).zip(filters.outer_iter());
        let square = |x: f32| f64::from(x).powi(2);
        let lost: f64 = slices.map(|((w, u), v)| (&w - &u.dot(&v)).mapv(square).sum()).sum();
        (lost / w.mapv(square).sum()).sqrt()
    }

    #[test]
    fn the_error_is_what_the_terms_leave_out() {
        for w in [weight(5, 8, 9), weight(3, 4, 25)] {
            let separable = Separable::new(w.view()).unwrap();
            for terms in 1..separable.full() {
                let (measured, predicted) = (measured(&w, &separable, terms), separable.error(terms));
                assert!((measured - predicted).abs() < 1e-5, "{terms}: {measured} against {predicted}");
            }
            assert!(measured(&w, &separable, separable.full()) < 1e-5);
        }
    }

    #[test]
    fn the_fewest_terms_for_an_energy() {
        // Energies 16 + 1, 4 + 1 and 1 of 23.
        let w = array![
            [[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0f32]],
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
        ];
        let separable = Separable::new(w.view()).unwrap();
        let terms = [0.0, 0.73, 0.75, 0.95, 0.96, 1.0].map(|share| separable.terms_for_energy(share));
        assert_eq!(terms, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn degenerate_weights() {
        assert_eq!(Separable::new(array![[[f32::NAN]]].view()), None);
        let zero = Separable::new(Array3::zeros((2, 3, 4)).view()).unwrap();
        assert_eq!((zero.terms_for_energy(0.9), zero.error(1)), (1, 0.0));
    }
}
