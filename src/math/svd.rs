//! Singular value decompositions, full and truncated.
//!
//! Vectors are made unique by their sign: the entry of largest magnitude in each left vector (the first of equals) is
//! positive. Small matrices are decomposed in `f64` whatever their type, so that thousands of k²-column ones are exact.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Mat, MatRef, Par};
use ndarray::{Array1, Array2, ArrayView2, CowArray, Ix2, s};

use super::dense::{self, Float, product, qr, view};

/// Up to this many rows or columns an `f32` matrix is decomposed in `f64`.
const SMALL: usize = 64;
/// From this many rows and columns on a low rank is found by random sketching.
const LARGE: usize = 1024;
/// Sketched iterations stop when one of them lowers the squared error by less than this share …
const GAIN: f64 = 1e-3;
/// … or after this many.
const MAX_STEPS: usize = 12;

/// A ≈ U · diag(σ) · Vᵀ with r terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Svd<T> {
    /// m × r, orthonormal columns.
    pub u: Array2<T>,
    /// r values, descending, not negative.
    pub sigma: Array1<T>,
    /// r × n, orthonormal rows.
    pub vt: Array2<T>,
}

impl<T: Float> Svd<T> {
    /// The thin decomposition of `a` (m × n), r = min(m, n). `None` if an entry or the result is not finite, or in the
    /// rare case that the iteration does not converge. O(m n min(m, n)): 0.4 s at 1024², 28 s at 4096².
    pub fn thin(a: ArrayView2<'_, T>) -> Option<Self> {
        if a.nrows().min(a.ncols()) <= SMALL {
            let wide = CowArray::from(a.as_standard_layout().mapv(|x| x.wide()));
            return Some(decompose(view(&wide)?)?.finish());
        }
        Some(decompose(view(&a.as_standard_layout())?)?.finish())
    }

    /// The `rank` leading terms. Exact where that is affordable; a rank of at most a quarter of a large matrix is found by
    /// a randomized subspace iteration with a fixed sketch (Halko, Martinsson & Tropp, "Finding structure with
    /// randomness", 2011), iterated until the error ‖A − UσVᵀ‖ settles to within about 0.05 % of the least possible.
    /// `None` as for [`Svd::thin`].
    pub fn leading(a: ArrayView2<'_, T>, rank: usize) -> Option<Self> {
        let least = a.nrows().min(a.ncols());
        if least <= LARGE || rank > least / 4 {
            return Some(Self::thin(a)?.truncate(rank));
        }
        let a = a.as_standard_layout();
        Some(sketched(view(&a)?, rank)?.finish().truncate(rank))
    }

    /// Keeps the first `rank` terms, or all if there are fewer.
    pub fn truncate(self, rank: usize) -> Self {
        let rank = rank.min(self.sigma.len());
        Svd {
            u: self.u.slice(s![.., ..rank]).to_owned(),
            sigma: self.sigma.slice(s![..rank]).to_owned(),
            vt: self.vt.slice(s![..rank, ..]).to_owned(),
        }
    }
}

/// All singular values of `a`, descending, without the vectors: a fraction of the time. `None` as for [`Svd::thin`].
pub fn singular_values<T: Float>(a: ArrayView2<'_, T>) -> Option<Array1<f64>> {
    let a: CowArray<'_, T, Ix2> = a.as_standard_layout();
    let mut sigma = Diag::zeros(a.nrows().min(a.ncols()));
    run(view(&a)?, &mut sigma, None)?;
    Some(sigma.column_vector().iter().map(|x| x.wide().max(0.0)).collect())
}

/// The smallest rank whose Σσ² is at least `share` of the whole; `sigma` descending. At least 1 where there is any energy
/// to keep, 0 for `share` ≤ 0, all for `share` ≥ 1 or NaN (zeros at the end are never needed).
pub fn rank_for_energy<'a, T: Float>(sigma: impl IntoIterator<Item = &'a T>, share: f64) -> usize {
    let squares: Vec<f64> = sigma.into_iter().map(|x| x.wide() * x.wide()).collect();
    let total: f64 = squares.iter().sum();
    if share <= 0.0 {
        return 0;
    }
    // Summed from the end, where share = 1 must find exactly the zeros.
    let mut dropped = 0.0;
    for (rank, square) in squares.iter().enumerate().rev() {
        dropped += square;
        if dropped > 0.0 && (share.is_nan() || dropped > (1.0 - share) * total) {
            return rank + 1;
        }
    }
    0
}

struct Raw<T> {
    u: Mat<T>,
    sigma: Diag<T>,
    v: Mat<T>,
}

impl<T: Float> Raw<T> {
    /// Fixes the signs and converts.
    fn finish<S: Float>(mut self) -> Svd<S> {
        for (u, v) in self.u.col_iter_mut().zip(self.v.col_iter_mut()) {
            let largest = u.as_ref().iter().fold(0.0f64, |a, x| if x.wide().abs() > a.abs() { x.wide() } else { a });
            if largest < 0.0 {
                u.iter_mut().for_each(|x| *x = -*x);
                v.iter_mut().for_each(|x| *x = -*x);
            }
        }
        let convert = |a: MatRef<'_, T>| dense::array(a).mapv(|x| S::of(x.wide()));
        Svd {
            u: convert(self.u.as_ref()),
            sigma: self.sigma.column_vector().iter().map(|x| S::of(x.wide().max(0.0))).collect(),
            vt: convert(self.v.transpose()),
        }
    }
}

/// `None` also where finite entries overflow on the way.
fn run<T: Float>(a: MatRef<'_, T>, sigma: &mut Diag<T>, vectors: Option<(&mut Mat<T>, &mut Mat<T>)>) -> Option<()> {
    if a.nrows() == 0 || a.ncols() == 0 {
        return Some(());
    }
    if !a.col_iter().all(|column| column.iter().all(|x| x.wide().is_finite())) {
        return None;
    }
    let which = if vectors.is_some() { ComputeSvdVectors::Thin } else { ComputeSvdVectors::No };
    let scratch = svd_scratch::<T>(a.nrows(), a.ncols(), which, which, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let (u, v) = vectors.map(|(u, v)| (u.as_mut(), v.as_mut())).unzip();
    svd(a, sigma.as_mut(), u, v, Par::Seq, stack, Default::default()).ok()?;
    sigma.column_vector().iter().all(|x| x.wide().is_finite()).then_some(())
}

fn decompose<T: Float>(a: MatRef<'_, T>) -> Option<Raw<T>> {
    let size = a.nrows().min(a.ncols());
    let mut raw = Raw { u: Mat::zeros(a.nrows(), size), sigma: Diag::zeros(size), v: Mat::zeros(a.ncols(), size) };
    run(a, &mut raw.sigma, Some((&mut raw.u, &mut raw.v)))?;
    Some(raw)
}

/// At least `rank` leading terms. With Q an orthonormal basis of A's approximate range and Q_b R = AᵀQ, the terms are those
/// of Rᵀ between Q and Q_b; the next Q spans A Q_b.
fn sketched<T: Float>(a: MatRef<'_, T>, rank: usize) -> Option<Raw<T>> {
    let width = (rank + (rank / 4).max(32)).min(a.nrows()).min(a.ncols());
    let total: f64 = (0..a.ncols()).map(|j| a.col(j).iter().map(|x| x.wide() * x.wide()).sum::<f64>()).sum();
    let (mut q, _) = qr(product(a, signs(a.ncols(), width).as_ref()));
    let mut error = total;
    for step in 1.. {
        let (basis, r) = qr(product(a.transpose(), q.as_ref()));
        let mut sigma = Diag::zeros(width);
        run(r.as_ref(), &mut sigma, None)?;
        let kept: f64 = sigma.column_vector().iter().take(rank).map(|x| x.wide() * x.wide()).sum();
        let last = error;
        error = (total - kept).max(0.0);
        if step == MAX_STEPS || last - error <= GAIN * error || error <= 1e-12 * total {
            let inner = decompose(r.transpose())?;
            return Some(Raw {
                u: product(q.as_ref(), inner.u.as_ref()),
                sigma: inner.sigma,
                v: product(basis.as_ref(), inner.v.as_ref()),
            });
        }
        q = qr(product(a, basis.as_ref())).0;
    }
    None
}

/// A matrix of ±1 from a counter (SplitMix64): as good a sketch as a Gaussian one, and the same on every machine.
fn signs<T: Float>(rows: usize, columns: usize) -> Mat<T> {
    Mat::from_fn(rows, columns, |i, j| {
        let mut x = ((j * rows + i) as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        T::of(if (x ^ (x >> 31)) & 1 == 0 { 1.0 } else { -1.0 })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise as random;
    use super::*;
    use ndarray::array;

    fn rebuilt<T: Float + ndarray::LinalgScalar>(svd: &Svd<T>) -> Array2<f64> {
        (&svd.u * &svd.sigma).dot(&svd.vt).mapv(|x| x.wide())
    }

    fn norm(a: &Array2<f64>) -> f64 {
        a.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    #[test]
    fn thin_rebuilds_and_is_orthonormal() {
        for (m, n) in [(16, 9), (9, 16), (1, 5), (100, 70), (200, 3)] {
            let a = random(m, n, 1);
            let svd = Svd::thin(a.view()).expect("finite");
            assert!(norm(&(rebuilt(&svd) - &a)) < 1e-12 * norm(&a));
            let eye = Array2::<f64>::eye(m.min(n));
            assert!(norm(&(svd.u.t().dot(&svd.u) - &eye)) < 1e-12);
            assert!(norm(&(svd.vt.dot(&svd.vt.t()) - &eye)) < 1e-12);
            assert!(svd.sigma.windows(2).into_iter().all(|w| w[0] >= w[1]));
            let narrow = Svd::thin(a.mapv(|x| x as f32).view()).expect("finite");
            assert!(norm(&(rebuilt(&narrow) - &a)) < 1e-5 * norm(&a));
            let alone = singular_values(a.view()).expect("finite");
            assert!((&alone - &svd.sigma).iter().all(|d| d.abs() < 1e-12 * svd.sigma[0]));
        }
    }

    #[test]
    fn any_layout_gives_the_same() {
        let a = random(12, 7, 2);
        let svd = Svd::thin(a.view()).expect("finite");
        let column_major = a.t().as_standard_layout().into_owned();
        assert_eq!(svd, Svd::thin(column_major.t()).expect("finite"));
        let wide = Svd::thin(a.slice(s![..;2, ..]).reversed_axes()).expect("finite");
        assert!(norm(&(rebuilt(&wide) - a.slice(s![..;2, ..]).t())) < 1e-12);
    }

    #[test]
    fn known_values_and_signs() {
        let svd = Svd::thin(array![[0.0f64, -3.0], [2.0, 0.0]].view()).expect("finite");
        assert!((svd.sigma[0] - 3.0).abs() < 1e-15 && (svd.sigma[1] - 2.0).abs() < 1e-15);
        assert!((svd.u[(0, 0)] - 1.0).abs() < 1e-15 && (svd.vt[(0, 1)] + 1.0).abs() < 1e-15);
        assert!((svd.u[(1, 1)] - 1.0).abs() < 1e-15 && (svd.vt[(1, 0)] - 1.0).abs() < 1e-15);
    }

    #[test]
    fn degenerate_input() {
        assert_eq!(Svd::thin(Array2::<f32>::zeros((0, 4)).view()).expect("empty").vt.dim(), (0, 4));
        let zero = Svd::thin(Array2::<f64>::zeros((4, 3)).view()).expect("finite");
        assert!(zero.sigma.iter().all(|&x| x == 0.0));
        for huge in [1e30f32, f32::MAX] {
            let svd = Svd::thin(Array2::from_elem((70, 80), huge).view());
            assert!(svd.is_none_or(|svd| svd.sigma.iter().chain(&svd.u).chain(&svd.vt).all(|x| x.is_finite())));
        }
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(Svd::thin(array![[1.0, bad]].view()).is_none());
            assert!(Svd::leading(array![[1.0, bad]].view(), 1).is_none());
            assert!(singular_values(array![[1.0, bad]].view()).is_none());
        }
        assert_eq!(Svd::leading(random(5, 4, 3).view(), 9).expect("finite").sigma.len(), 4);
    }

    #[test]
    fn sketched_terms_are_near_the_best() {
        // Columns that decay slowly: the hard case for a sketch.
        let mut a = random(300, 240, 4);
        for (j, mut column) in a.columns_mut().into_iter().enumerate() {
            column /= ((j + 1) as f64).sqrt();
        }
        let (rank, best) = (24, Svd::thin(a.view()).expect("finite"));
        let optimum = best.sigma.iter().skip(rank).map(|x| x * x).sum::<f64>().sqrt();
        let view = a.as_standard_layout();
        let raw = sketched(dense::view(&view).expect("row-major"), rank).expect("converges");
        let got = raw.finish::<f64>().truncate(rank);
        assert!(norm(&(rebuilt(&got) - &a)) <= optimum * 1.001);
        let narrow = a.mapv(|x| x as f32);
        let view = narrow.view().into();
        let raw = sketched(dense::view::<f32>(&view).expect("row-major"), rank).expect("converges");
        assert!(norm(&(rebuilt(&raw.finish::<f32>().truncate(rank)) - &a)) <= optimum * 1.001);
    }

    #[test]
    fn rank_for_a_share_of_the_energy() {
        let sigma = [2.0f64, 1.0, 1.0, 0.0];
        let rank = |share| rank_for_energy(&sigma, share);
        assert_eq!([rank(0.0), rank(0.5), rank(4.0 / 6.0), rank(0.7), rank(1.0), rank(2.0)], [0, 1, 1, 2, 3, 3]);
        assert_eq!(rank(f64::NAN), 3);
        assert_eq!(rank_for_energy::<f64>(&[], 0.9), 0);
        assert_eq!(rank_for_energy(&[0.0f32; 3], 0.9), 0);
    }
}
