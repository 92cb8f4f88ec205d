//! Symmetric positive definite systems: repair by ridge regression, and whitening.
//!
//! Second moments of few or dependent samples are singular, so every ridge here is relative: λ = `lambda_rel` · mean of
//! the diagonal.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Mat, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use std::sync::Arc;

use super::dense::{array, finite, product, product_rows, view};

/// Columns of a matrix that are copied at a time.
const BLOCK: usize = 32;
/// Right-hand sides that one task solves.
const ROWS: usize = 64;
/// Tasks whose results are in memory at a time.
const BLOCKS: usize = 8;
/// A pivot below this share of its diagonal entry is rounding error: the matrix counts as singular.
const SINGULAR: f64 = 1e-13;

/// P = P₀ + (B − P₀ G)(G + λI)⁻¹: the weights of least ‖Y − PX‖² + λ‖P − P₀‖².
///
/// `g` = X Xᵀ (n × n, symmetric), `b` = Y Xᵀ (m × n), both centred or both not, `toward` = P₀ (m × n, default 0). Where
/// G + λI cannot be factorized λ grows tenfold until it can. If G is zero nothing was seen and the result is P₀. `None`
/// if shapes do not fit, an entry is not finite, `lambda_rel` is negative or NaN, or G is not a second moment (its
/// trace is negative, or λ = mean diagonal does not suffice).
pub fn ridge(g: &Array2<f64>, b: &Array2<f64>, toward: Option<&Array2<f64>>, lambda_rel: f64) -> Option<Array2<f64>> {
    solve_with(g, |lambda| factor(g.view(), lambda).map(Arc::new), b, toward, lambda_rel)
}

/// As [`ridge`], with what gives the factor of G + λI.
pub(super) fn solve_with(
    g: &Array2<f64>,
    factor: impl Fn(f64) -> Option<Arc<Mat<f64>>>,
    b: &Array2<f64>,
    toward: Option<&Array2<f64>>,
    lambda_rel: f64,
) -> Option<Array2<f64>> {
    let n = g.nrows();
    if g.ncols() != n || b.ncols() != n || !finite(g.view()) || !finite(b.view()) {
        return None;
    }
    if !lambda_rel.is_finite() || lambda_rel < 0.0 {
        return None;
    }
    let mut rest = b.as_standard_layout().into_owned();
    if let Some(prior) = toward {
        if prior.dim() != b.dim() || !finite(prior.view()) {
            return None;
        }
        rest -= &times(prior.view(), g.view());
    }
    if !finite(rest.view()) {
        return None;
    }
    if n == 0 || g.diag().iter().all(|&d| d == 0.0) {
        return Some(toward.cloned().unwrap_or_else(|| Array2::zeros(b.raw_dim())));
    }
    larger(lambda_rel).find_map(|lambda| {
        let mut step = solve(factor(lambda)?.as_ref().as_ref(), rest.clone())?;
        if let Some(prior) = toward {
            step += prior;
        }
        finite(step.view()).then_some(step)
    })
}

/// Ever larger λ, to be tried until one will do.
fn larger(first: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(first), |lambda| (*lambda < 1.0).then_some((lambda * 10.0).max(1e-12)))
}

/// What each of the inputs explains of Y beyond those before it: ‖Y − PX‖² + λ‖P‖² falls by that much with it. `g` and `b` as
/// for [`ridge`], λ grows as it does there. (The squares of the columns of B L⁻ᵀ with L Lᵀ = G + λI.)
pub fn explained(g: &Array2<f64>, b: Array2<f64>, lambda_rel: f64) -> Option<Vec<f64>> {
    if b.ncols() != g.nrows() || !finite(b.view()) {
        return None;
    }
    if g.diag().iter().all(|&d| d == 0.0) {
        return Some(vec![0.0; g.nrows()]);
    }
    let lower = larger(lambda_rel).find_map(|lambda| factor(g.view(), lambda))?;
    let whitened = by_rows(b.as_standard_layout().into_owned(), |rows| {
        solve_lower_triangular_in_place(lower.as_ref(), rows, Par::Seq);
    })?;
    finite(whitened.view()).then(|| whitened.columns().into_iter().map(|c| c.dot(&c)).collect())
}

/// The lower triangular L (zeros above) with L Lᵀ = G + λI, λ = `lambda_rel` · mean of the diagonal of `g` (n × n; only
/// its lower triangle is read). `None` if that is not positive definite to working precision, or not finite.
pub fn cholesky_lower(g: ArrayView2<'_, f64>, lambda_rel: f64) -> Option<Array2<f64>> {
    Some(array(factor(g, lambda_rel)?.as_ref()))
}

/// (G + λI)⁻¹ of `g` as for [`ridge`], on the diagonal and below; λ grows as it does there. Zeros if G is zero. `None` if there
/// is none.
pub(super) fn inverse(g: ArrayView2<'_, f64>, lambda_rel: f64) -> Option<Mat<f64>> {
    let n = g.nrows();
    if g.diag().iter().all(|&d| d == 0.0) {
        return Some(Mat::zeros(n, n));
    }
    let mut out = larger(lambda_rel).find_map(|lambda| factor(g, lambda))?;
    // The inverse is gathered above the diagonal of its factor, of which only the lower triangle is read: no other matrix is
    // needed.
    let starts: Vec<usize> = (0..n).step_by(ROWS).collect();
    let mut diagonal = vec![0.0; n];
    for some in starts.chunks(BLOCKS) {
        let solved: Vec<Mat<f64>> = some.par_iter().map(|&at| inverse_columns(out.as_ref(), at)).collect();
        for (&at, columns) in some.iter().zip(&solved) {
            for (j, column) in columns.col_iter().enumerate() {
                for (i, &v) in column.iter().enumerate().skip(j) {
                    let to = if i == j { &mut diagonal[at + i] } else { &mut out[(at + j, at + i)] };
                    *to = v;
                }
            }
        }
    }
    for j in 0..n {
        out[(j, j)] = diagonal[j];
        for i in j + 1..n {
            out[(i, j)] = out[(j, i)];
        }
    }
    let finite = out.col_iter().all(|column| column.iter().all(|v| v.is_finite()));
    finite.then_some(out)
}

/// Some columns of (L Lᵀ)⁻¹ from `at` on, without the rows above.
fn inverse_columns(lower: MatRef<'_, f64>, at: usize) -> Mat<f64> {
    let rest = lower.get(at.., at..);
    let mut columns = Mat::identity(rest.nrows(), ROWS.min(rest.nrows()));
    solve_lower_triangular_in_place(rest, columns.as_mut(), Par::Seq);
    solve_upper_triangular_in_place(rest.transpose(), columns.as_mut(), Par::Seq);
    columns
}

/// A root S of a second moment: S Sᵀ = C + λI (n × n). Errors of W measured by C are plain errors of W S.
#[derive(Debug, Clone)]
pub struct Whitening {
    root: Root,
}

#[derive(Debug, Clone)]
enum Root {
    /// S is the Cholesky factor, n × n.
    Lower(Arc<Mat<f64>>),
    /// S = Q √Λ over the eigenvalues that count (n × r), and its pseudo-inverse Λ^-½ Qᵀ (r × n).
    Eigen { root: Mat<f64>, inverse: Mat<f64> },
}

impl Whitening {
    /// Of `c` (n × n, symmetric) with λ = `lambda_rel` · mean diagonal. By Cholesky; where C + λI is singular to working
    /// precision, by its eigenvalues above 1e-12 of the largest. `None` if `c` is not square or not finite, or `lambda_rel`
    /// is negative or NaN.
    pub fn new(c: ArrayView2<'_, f64>, lambda_rel: f64) -> Option<Self> {
        if c.nrows() != c.ncols() || !finite(c) || !lambda_rel.is_finite() || lambda_rel < 0.0 {
            return None;
        }
        if let Some(lower) = factor(c, lambda_rel) {
            return Some(Whitening::lower(Arc::new(lower)));
        }
        let n = c.nrows();
        let matrix = shifted(n, lambda_rel, |i, j| c[(i, j)]);
        let mut values = faer::diag::Diag::zeros(n);
        let mut vectors = Mat::zeros(n, n);
        let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
        let mut memory = MemBuffer::new(scratch);
        let stack = MemStack::new(&mut memory);
        let parameters = Default::default();
        self_adjoint_evd(matrix.as_ref(), values.as_mut(), Some(vectors.as_mut()), Par::Seq, stack, parameters).ok()?;
        let values: Vec<f64> = values.column_vector().iter().copied().collect();
        let floor = 1e-12 * values.iter().fold(0.0, |a: f64, &b| a.max(b));
        let kept: Vec<usize> = (0..n).rev().filter(|&i| values[i] > floor).collect();
        let root = Mat::from_fn(n, kept.len(), |i, j| vectors[(i, kept[j])] * values[kept[j]].sqrt());
        let inverse = Mat::from_fn(kept.len(), n, |i, j| vectors[(j, kept[i])] / values[kept[i]].sqrt());
        Some(Whitening { root: Root::Eigen { root, inverse } })
    }

    /// Of C + λI = L Lᵀ.
    pub(super) fn lower(lower: Arc<Mat<f64>>) -> Self {
        Whitening { root: Root::Lower(lower) }
    }

    /// The number of columns of S: n, or fewer if C has no full rank.
    pub fn rank(&self) -> usize {
        match &self.root {
            Root::Lower(lower) => lower.ncols(),
            Root::Eigen { root, .. } => root.ncols(),
        }
    }

    /// W S (m × rank) of `w` (m × n). `None` if the shape does not fit.
    pub fn whiten(&self, w: ArrayView2<'_, f64>) -> Option<Array2<f64>> {
        let root = match &self.root {
            Root::Lower(lower) => lower.as_ref().as_ref(),
            Root::Eigen { root, .. } => root.as_ref(),
        };
        (w.ncols() == root.nrows())
            .then(|| Some(array(product(view(&w.as_standard_layout())?, root).as_ref())))
            .flatten()
    }

    /// V S⁻¹ (k × n) of `v` (k × rank); the pseudo-inverse where S has one only. Rows of `v` that are right singular
    /// vectors of W S become filters: v ← S⁻ᵀ v. `None` if the shape does not fit.
    pub fn unwhiten(&self, v: ArrayView2<'_, f64>) -> Option<Array2<f64>> {
        if v.ncols() != self.rank() {
            return None;
        }
        let v = v.as_standard_layout();
        match &self.root {
            Root::Eigen { inverse, .. } => Some(array(product(view(&v)?, inverse.as_ref()).as_ref())),
            Root::Lower(lower) => by_rows(v.into_owned(), |rows| {
                solve_upper_triangular_in_place(lower.transpose(), rows, Par::Seq);
            }),
        }
    }
}

/// A B (m × n) of `a` (m × k) and `b` (k × n), whose shapes must fit.
pub fn times(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    if let (Some(a), Some(b), Some(out)) = (view(&a), view(&b), out.as_slice_mut()) {
        product_rows(a, b, out);
    }
    out
}

/// (W X)ᵀ, row-major, of `x` (n × samples) and `w` (m × n): a row of m numbers for each sample. `None` if shapes do not fit.
pub fn rows_times(x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Option<Vec<f32>> {
    if x.nrows() != w.ncols() {
        return None;
    }
    let mut out = vec![0.0; x.ncols() * w.nrows()];
    let (x, w) = (x.reversed_axes(), w.as_standard_layout());
    let x = x.as_standard_layout();
    product_rows(view(&x)?, view(&w)?.transpose(), &mut out);
    Some(out)
}

/// The lower triangle of a matrix with the ridge on its diagonal, zeros above; `g` gives its entries.
fn shifted(n: usize, lambda_rel: f64, g: impl Fn(usize, usize) -> f64) -> Mat<f64> {
    let lambda = lambda_rel * (0..n).map(|i| g(i, i)).sum::<f64>() / n.max(1) as f64;
    let mut lower = Mat::zeros(n, n);
    // Some columns at a time: rows of `g` are read in one go then, and columns written.
    for first in (0..n).step_by(BLOCK) {
        for i in first..n {
            for j in first..(first + BLOCK).min(i + 1) {
                lower[(i, j)] = g(i, j);
            }
        }
    }
    (0..n).for_each(|i| lower[(i, i)] += lambda);
    lower
}

pub(super) fn factor(g: ArrayView2<'_, f64>, lambda_rel: f64) -> Option<Mat<f64>> {
    let n = g.nrows();
    (g.ncols() == n && finite(g)).then(|| factor_by(n, lambda_rel, |i, j| g[(i, j)]))?
}

/// The same of a matrix (n × n) whose entries on the diagonal and below `g` gives.
pub(super) fn factor_by(n: usize, lambda_rel: f64, g: impl Fn(usize, usize) -> f64) -> Option<Mat<f64>> {
    if !lambda_rel.is_finite() {
        return None;
    }
    let mut lower = shifted(n, lambda_rel, g);
    let diagonal: Vec<f64> = (0..n).map(|i| lower[(i, i)]).collect();
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default()));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(lower.as_mut(), Default::default(), Par::Seq, stack, Default::default()).ok()?;
    for (j, column) in lower.col_iter_mut().enumerate() {
        column.iter_mut().take(j).for_each(|x| *x = 0.0);
    }
    // Written so that NaN fails too: what is not finite in a row makes its diagonal so.
    let sound = |(i, &d): (usize, &f64)| lower[(i, i)] * lower[(i, i)] > SINGULAR * d;
    (diagonal.iter().enumerate().all(sound) && lower.diagonal().column_vector().iter().all(|v| v.is_finite()))
        .then_some(lower)
}

/// `rows` (m × n) times (L Lᵀ)⁻¹.
fn solve(lower: MatRef<'_, f64>, rows: Array2<f64>) -> Option<Array2<f64>> {
    by_rows(rows, |mut rows| {
        solve_lower_triangular_in_place(lower, rows.as_mut(), Par::Seq);
        solve_upper_triangular_in_place(lower.transpose(), rows, Par::Seq);
    })
}

/// Runs `solve` in parallel on blocks of rows, which it sees as the columns of an n × (block) matrix.
fn by_rows(mut rows: Array2<f64>, solve: impl Fn(MatMut<'_, f64>) + Sync) -> Option<Array2<f64>> {
    let n = rows.ncols();
    if n == 0 {
        return Some(rows);
    }
    rows.as_slice_mut()?.par_chunks_mut(ROWS * n).for_each(|block| {
        let count = block.len() / n;
        solve(MatMut::from_column_major_slice_mut(block, n, count));
    });
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;
    use ndarray::array;

    fn near(a: &Array2<f64>, b: &Array2<f64>, tolerance: f64) -> bool {
        a.dim() == b.dim() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= tolerance)
    }

    fn second_moment(n: usize, samples: usize) -> (Array2<f64>, Array2<f64>) {
        let x = noise(n, samples, 1);
        (x.dot(&x.t()), x)
    }

    #[test]
    fn least_squares_recovers_the_weights() {
        let (g, x) = second_moment(150, 400);
        let w = Array2::from_shape_fn((130, 150), |(i, j)| ((i * 13 + j * 7) % 11) as f64 - 5.0);
        let b = w.dot(&x).dot(&x.t());
        assert!(near(&ridge(&g, &b, None, 0.0).expect("solvable"), &w, 1e-6));
        let off = &w + 1.0;
        assert!(near(&ridge(&g, &b, Some(&off), 0.0).expect("solvable"), &w, 1e-6));
    }

    #[test]
    fn the_ridge_pulls_toward_the_prior() {
        let (g, b, prior) = (array![[2.0, 0.0], [0.0, 4.0]], array![[4.0, 4.0]], array![[1.0, 3.0]]);
        // λ = 1 · 3.
        let expected = array![[1.0 + (4.0 - 2.0) / 5.0, 3.0 + (4.0 - 12.0) / 7.0]];
        assert!(near(&ridge(&g, &b, Some(&prior), 1.0).expect("solvable"), &expected, 1e-14));
        assert!(near(&ridge(&g, &b, None, 1.0).expect("solvable"), &array![[4.0 / 5.0, 4.0 / 7.0]], 1e-14));
        assert!(near(&ridge(&g, &b, Some(&prior), 1e12).expect("solvable"), &prior, 1e-9));
    }

    #[test]
    fn singular_moments_get_a_larger_ridge() {
        let (g, b) = (array![[1.0, 1.0], [1.0, 1.0]], array![[2.0, 2.0]]);
        let p = ridge(&g, &b, None, 0.0).expect("some ridge works");
        assert!(near(&p, &array![[1.0, 1.0]], 1e-3));
        let zero = Array2::zeros((2, 2));
        assert_eq!(ridge(&zero, &Array2::zeros((1, 2)), Some(&b), 1e-4), Some(b.clone()));
        assert_eq!(ridge(&zero, &Array2::zeros((1, 2)), None, 0.0), Some(Array2::zeros((1, 2))));
        assert_eq!(ridge(&array![[-1.0]], &array![[1.0]], None, 0.1), None);
    }

    #[test]
    fn what_cannot_be_solved_is_none() {
        let (g, b) = (array![[1.0, 0.0], [0.0, 1.0]], array![[1.0, 2.0]]);
        assert_eq!(ridge(&g, &array![[1.0]], None, 0.0), None);
        assert_eq!(ridge(&b, &b, None, 0.0), None);
        assert_eq!(ridge(&g, &b, Some(&g), 0.0), None);
        assert_eq!(ridge(&g, &b, None, f64::NAN), None);
        assert_eq!(ridge(&g, &b, None, -1.0), None);
        assert_eq!(ridge(&g, &array![[1.0, f64::INFINITY]], None, 0.0), None);
        assert_eq!(ridge(&(&g * f64::NAN), &b, None, 0.0), None);
        assert_eq!(cholesky_lower((&g * f64::NAN).view(), 0.0), None);
        assert_eq!(cholesky_lower(array![[1.0, 2.0], [2.0, 1.0]].view(), 0.0), None);
        assert!(Whitening::new((&g * f64::NAN).view(), 0.0).is_none());
        assert!(Whitening::new(b.view(), 0.0).is_none());
    }

    #[test]
    fn cholesky_of_a_known_matrix() {
        let g = array![[4.0, 2.0], [2.0, 5.0]];
        assert!(near(&cholesky_lower(g.view(), 0.0).expect("definite"), &array![[2.0, 0.0], [1.0, 2.0]], 1e-14));
        let with_ridge = cholesky_lower(g.view(), 1.0).expect("definite");
        assert!(near(&with_ridge.dot(&with_ridge.t()), &array![[8.5, 2.0], [2.0, 9.5]], 1e-14));
    }

    #[test]
    fn whitening_of_full_and_of_lower_rank() {
        for samples in [40, 5] {
            let (c, x) = second_moment(9, samples);
            let root = Whitening::new(c.view(), 0.0).expect("finite");
            assert_eq!(root.rank(), samples.min(9));
            let w = Array2::from_shape_fn((70, 9), |(i, j)| ((i * 5 + j * 3) % 7) as f64 - 3.0);
            let white = root.whiten(w.view()).expect("fits");
            assert!(near(&white.dot(&white.t()), &w.dot(&c).dot(&w.t()), 1e-9));
            // On the data, going there and back changes nothing.
            let back = root.unwhiten(white.view()).expect("fits");
            assert!(near(&back.dot(&x), &w.dot(&x), 1e-7));
            assert!(root.whiten(Array2::zeros((2, 8)).view()).is_none());
            assert!(root.unwhiten(Array2::zeros((2, 10)).view()).is_none());
        }
        let nothing = Whitening::new(Array2::zeros((3, 3)).view(), 0.0).expect("finite");
        assert_eq!(nothing.rank(), 0);
        assert_eq!(nothing.unwhiten(Array2::zeros((2, 0)).view()), Some(Array2::zeros((2, 3))));
    }

    #[test]
    fn the_inverse_is_one_below_the_diagonal() {
        for n in [1, ROWS, ROWS * (BLOCKS + 1) + 7] {
            let x = noise(n, 2 * n, 1);
            let g = x.dot(&x.t());
            let lower = inverse(g.view(), 0.0).expect("definite");
            let whole = Array2::from_shape_fn((n, n), |(i, j)| lower[(i.max(j), i.min(j))]);
            assert!(near(&g.dot(&whole), &Array2::eye(n), 1e-8), "{n}");
        }
    }
}
