//! Second moments of activations: the sums that closed-form repair and whitening are solved from.
//!
//! Products of `f32` blocks are added up in `f64`. Each tile of the result is one task that walks the samples in order, so
//! the sums do not depend on the number of threads.

use super::factored::Factored;
use super::packed_moment::PackedMoment;
use super::solve::times;
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};
use ndarray::{Array1, Array2, ArrayView2, s};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows and columns of a tile.
const TILE: usize = 256;
/// Samples multiplied in `f32` before their sum goes to `f64`.
const SAMPLES: usize = 1024;
/// Numbers of rows that are summed side by side, at least if they are short.
const LONG: usize = 256;

/// X Xᵀ (n × n, symmetric) of `x` (n × samples).
pub fn gram(x: ArrayView2<'_, f32>) -> Array2<f64> {
    let (n, mut sum) = (x.nrows(), Array2::zeros((x.nrows(), x.nrows())));
    let x = rows(x);
    add(&mut sum, [columns(&x, n), columns(&x, n)], true);
    mirror(&mut sum);
    sum
}

/// Y Xᵀ (m × n) of `y` (m × samples) and `x` (n × samples); `None` if the numbers of samples differ.
pub fn cross(y: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) -> Option<Array2<f64>> {
    if y.ncols() != x.ncols() {
        return None;
    }
    let mut sum = Array2::zeros((y.nrows(), x.nrows()));
    add(&mut sum, [columns(&rows(y), y.nrows()), columns(&rows(x), x.nrows())], false);
    Some(sum)
}

/// Running sums over batches of inputs X (n × samples) and wanted outputs Y (m × samples) of a layer: of what differs from
/// the means of the first batch, so that large means cost no digits.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Lower triangle of Σ x xᵀ.
    xx: Array2<f64>,
    /// Samples at which x is not zero.
    nonzero: Array1<f64>,
    to: TargetMoments,
}

/// Running sums over other wanted outputs for inputs whose own moments are known.
#[derive(Debug, Clone)]
pub struct TargetMoments {
    samples: usize,
    /// Of x and y, what was subtracted.
    about: [Option<Vec<f32>>; 2],
    /// Whether the sums over x are there already.
    x_known: bool,
    yx: Array2<f64>,
    yy: Array1<f64>,
    x: Array1<f64>,
    y: Array1<f64>,
}

/// A second moment, n × n, symmetric.
pub trait SecondMoment: Default + Clone {
    /// Of a matrix whose lower triangle is filled.
    fn of_lower(matrix: Array2<f64>) -> Self;
    /// W C (m × n) of `w` (m × n).
    fn times(&self, w: ArrayView2<'_, f64>) -> Array2<f64>;
    /// Adds a share of how far another is from this one.
    fn pool(&mut self, other: &Self, share: f64);
}

/// For systems to be solved with.
impl SecondMoment for Factored {
    fn of_lower(mut matrix: Array2<f64>) -> Self {
        mirror(&mut matrix);
        matrix.into()
    }

    fn times(&self, w: ArrayView2<'_, f64>) -> Array2<f64> {
        times(w, self.view())
    }

    fn pool(&mut self, other: &Self, share: f64) {
        let mut matrix = Array2::from(std::mem::take(self));
        matrix.zip_mut_with(other, |mine, others| *mine += share * (others - *mine));
        *self = matrix.into();
    }
}

/// For errors to be told with.
impl SecondMoment for PackedMoment {
    fn of_lower(matrix: Array2<f64>) -> Self {
        PackedMoment::of(&matrix)
    }

    fn times(&self, w: ArrayView2<'_, f64>) -> Array2<f64> {
        self.times(w)
    }

    fn pool(&mut self, other: &Self, share: f64) {
        self.pool(other, share);
    }
}

/// Means and second moments about them, per sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Centred<S = Factored> {
    /// C_xx.
    pub xx: Arc<S>,
    /// C_yx, m × n.
    pub yx: Array2<f64>,
    /// The diagonal of C_yy, m.
    pub yy: Array1<f64>,
    /// x̄, n.
    pub x: Array1<f64>,
    /// ȳ, m.
    pub y: Array1<f64>,
    /// The share of samples at which x is not zero, n.
    pub nonzero: Array1<f64>,
}

impl Moments {
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Moments {
            xx: Array2::zeros((inputs, inputs)),
            nonzero: Array1::zeros(inputs),
            to: TargetMoments::new(inputs, outputs),
        }
    }

    /// Adds a batch; `None` (and nothing added) if a shape does not fit. Batches in the same order give the same sums.
    pub fn add(&mut self, x: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>) -> Option<()> {
        let fits = (x.nrows(), y.nrows()) == (self.to.x.len(), self.to.y.len());
        fits.then(|| self.add_rows(&mut rows(x), &mut rows(y)))?
    }

    /// As [`Moments::add`], of Xᵀ and Yᵀ, row after row; what was subtracted is gone from them then.
    pub fn add_rows(&mut self, x: &mut [f32], y: &mut [f32]) -> Option<()> {
        let n = self.nonzero.len();
        if !self.to.fit(x, y) {
            return None;
        }
        self.nonzero += &nonzero(x, n);
        self.to.add_rows(x, y)?;
        add(&mut self.xx, [columns(x, n), columns(x, n)], true);
        Some(())
    }

    pub fn samples(&self) -> usize {
        self.to.samples
    }

    /// The moments about the means, or `about_zero`; means of 0 then. `None` before the first sample, or when a sum is
    /// not finite.
    pub fn centred<S: SecondMoment>(self, about_zero: bool) -> Option<Centred<S>> {
        let Means { samples, off: [x, _], means: [mean, _] } = self.to.means()?;
        let mut xx = self.xx;
        centre(&mut xx, samples, [&x, &x], about_zero.then_some([&mean, &mean]));
        let finite = xx.iter().all(|v| v.is_finite());
        let nonzero = self.nonzero / samples;
        finite.then(|| self.to.finish(Arc::new(S::of_lower(xx)), nonzero, about_zero))?
    }
}

impl<S: SecondMoment> Centred<S> {
    /// Adds others, about means of their own, that are this share of all samples. Products that are the same ones stay.
    pub fn pool(&mut self, other: &Centred<S>, share: f64) {
        let mix = |mine: &mut f64, others: &f64| *mine += share * (others - *mine);
        if !Arc::ptr_eq(&self.xx, &other.xx) {
            Arc::make_mut(&mut self.xx).pool(&other.xx, share);
            self.nonzero.zip_mut_with(&other.nonzero, mix);
        }
        self.yx.zip_mut_with(&other.yx, mix);
        self.yy.zip_mut_with(&other.yy, mix);
        self.x.zip_mut_with(&other.x, mix);
        self.y.zip_mut_with(&other.y, mix);
    }
}

/// Means of x and y, and how far they are from what was subtracted.
struct Means {
    samples: f64,
    off: [Array1<f64>; 2],
    means: [Array1<f64>; 2],
}

impl TargetMoments {
    pub fn new(inputs: usize, outputs: usize) -> Self {
        TargetMoments {
            samples: 0,
            about: [None, None],
            x_known: false,
            yx: Array2::zeros((outputs, inputs)),
            yy: Array1::zeros(outputs),
            x: Array1::zeros(inputs),
            y: Array1::zeros(outputs),
        }
    }

    /// Sums over the same inputs, in the same batches, for other outputs: none of these were added yet.
    pub fn same_inputs(&self) -> TargetMoments {
        let about = [self.about[0].clone(), None];
        let x_known = about[0].is_some();
        TargetMoments { about, x_known, x: self.x.clone(), ..TargetMoments::new(self.x.len(), self.y.len()) }
    }

    /// As [`Moments::add`].
    pub fn add(&mut self, x: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>) -> Option<()> {
        let fits = (x.nrows(), y.nrows()) == (self.x.len(), self.y.len());
        fits.then(|| self.add_rows(&mut rows(x), &mut rows(y)))?
    }

    /// As [`Moments::add_rows`].
    pub fn add_rows(&mut self, x: &mut [f32], y: &mut [f32]) -> Option<()> {
        if !self.fit(x, y) {
            return None;
        }
        let (n, m) = (self.x.len(), self.y.len());
        let [ax, ay] = &mut self.about;
        let (ax, ay) = (ax.get_or_insert_with(|| means(x, n)), ay.get_or_insert_with(|| means(y, m)));
        for (rows, about, sums, known) in [(&mut *x, ax, &mut self.x, self.x_known), (&mut *y, ay, &mut self.y, false)]
        {
            let about: Vec<f32> = std::iter::repeat_n(&**about, side_by_side(about.len())).flatten().copied().collect();
            if known {
                let subtract = |(v, about): (&mut f32, &f32)| *v -= about;
                rows.chunks_mut(about.len().max(1)).for_each(|rows| rows.iter_mut().zip(&about).for_each(subtract));
                continue;
            }
            each_sample(sums, rows, |long, rows| {
                for ((sum, v), &about) in long.iter_mut().zip(rows).zip(&about) {
                    *sum += f64::from(*v) - f64::from(about);
                    *v -= about;
                }
            });
        }
        add(&mut self.yx, [columns(y, m), columns(x, n)], false);
        each_sample(&mut self.yy, y, |long, rows| {
            long.iter_mut().zip(rows).for_each(|(sum, &mut v)| *sum += f64::from(v) * f64::from(v));
        });
        self.samples += x.len() / n.max(1);
        Some(())
    }

    /// Whether these are as many rows of both.
    fn fit(&self, x: &[f32], y: &[f32]) -> bool {
        let (n, m) = (self.x.len().max(1), self.y.len().max(1));
        x.len().is_multiple_of(n) && y.len().is_multiple_of(m) && x.len() / n == y.len() / m
    }

    /// The moments with these outputs in place of the old. `None` if there are not as many samples, or not finite ones.
    pub fn replace<S: SecondMoment>(self, old: &Centred<S>, about_zero: bool) -> Option<Centred<S>> {
        self.finish(old.xx.clone(), old.nonzero.clone(), about_zero)
    }

    fn means(&self) -> Option<Means> {
        let ([Some(ax), Some(ay)], true) = (&self.about, self.samples > 0) else { return None };
        let samples = self.samples as f64;
        let (about, off) = ([ax, ay], [&self.x / samples, &self.y / samples]);
        let means = [0, 1].map(|i| Array1::from_iter(off[i].iter().zip(about[i]).map(|(off, &a)| off + f64::from(a))));
        Some(Means { samples, off, means })
    }

    fn finish<S>(self, xx: Arc<S>, nonzero: Array1<f64>, about_zero: bool) -> Option<Centred<S>> {
        let Means { samples, off: [x, y], means: [mut x_mean, mut y_mean] } = self.means()?;
        let (mut yx, mut yy) = (self.yx, self.yy);
        centre(&mut yx, samples, [&y, &x], about_zero.then_some([&y_mean, &x_mean]));
        for (i, v) in yy.iter_mut().enumerate() {
            *v = (*v / samples - y[i] * y[i]).max(0.0) + if about_zero { y_mean[i] * y_mean[i] } else { 0.0 };
        }
        if about_zero {
            x_mean.fill(0.0);
            y_mean.fill(0.0);
        }
        let finite = yx.iter().chain(&yy).all(|v| v.is_finite());
        finite.then_some(Centred { xx, yx, yy, x: x_mean, y: y_mean, nonzero })
    }
}

/// A matrix with a column a sample as rows of samples.
fn rows(x: ArrayView2<'_, f32>) -> Vec<f32> {
    x.reversed_axes().iter().copied().collect()
}

/// Rows of `n` numbers a sample as a matrix with a column a sample.
fn columns(rows: &[f32], n: usize) -> MatRef<'_, f32> {
    MatRef::from_column_major_slice(rows, n, rows.len().checked_div(n).unwrap_or(0))
}

/// Rows of so many numbers that are summed side by side: short ones would leave SIMD lanes empty.
fn side_by_side(n: usize) -> usize {
    (LONG / n.max(1)).max(1)
}

/// Adds something of every sample to sums: `add` gets sums and rows side by side, as many of both or fewer rows.
fn each_sample(sums: &mut Array1<f64>, rows: &mut [f32], add: impl Fn(&mut [f64], &mut [f32])) {
    let n = sums.len();
    let mut long = vec![0.0; n * side_by_side(n)];
    rows.chunks_mut(long.len().max(1)).for_each(|rows| add(&mut long, rows));
    for row in long.chunks(n.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
    }
}

/// At how many samples each number is not zero.
fn nonzero(rows: &[f32], n: usize) -> Array1<f64> {
    let mut long = vec![0u32; n * side_by_side(n)];
    for rows in rows.chunks(long.len().max(1)) {
        long.iter_mut().zip(rows).for_each(|(count, &v)| *count += u32::from(v != 0.0));
    }
    let mut counts = Array1::zeros(n);
    for row in long.chunks(n.max(1)) {
        counts.iter_mut().zip(row).for_each(|(sum, &count)| *sum += f64::from(count));
    }
    counts
}

/// The mean of every input.
fn means(rows: &mut [f32], n: usize) -> Vec<f32> {
    let mut sums = Array1::<f64>::zeros(n);
    each_sample(&mut sums, rows, |long, rows| {
        long.iter_mut().zip(rows).for_each(|(sum, &mut v)| *sum += f64::from(v));
    });
    let samples = rows.len().checked_div(n).unwrap_or(0).max(1) as f64;
    sums.iter().map(|sum| (sum / samples) as f32).collect()
}

/// A sum of products a sample, about the means of what was multiplied, `off` from zero; or about zero with `means` added
/// again.
fn centre(sum: &mut Array2<f64>, samples: f64, off: [&Array1<f64>; 2], means: Option<[&Array1<f64>; 2]>) {
    for (i, mut row) in sum.rows_mut().into_iter().enumerate() {
        for (j, v) in row.iter_mut().enumerate() {
            *v = *v / samples - off[0][i] * off[1][j] + means.map_or(0.0, |m| m[0][i] * m[1][j]);
        }
    }
}

/// `sum` += A Bᵀ, of A and B with a column a sample; only the lower triangle if `lower`.
fn add(sum: &mut Array2<f64>, [a, b]: [MatRef<'_, f32>; 2], lower: bool) {
    let tiles: Vec<(usize, usize)> = (0..a.nrows())
        .step_by(TILE)
        .flat_map(|i| (0..b.nrows()).step_by(TILE).map(move |j| (i, j)))
        .filter(|&(i, j)| !lower || j <= i)
        .collect();
    // A row of tiles at a time bounds what is held besides the sum itself.
    for row in tiles.chunk_by(|a, b| a.0 == b.0) {
        let done: Vec<Mat<f64>> = row.par_iter().map(|&(i, j)| tile([a, b], i, j, lower && i == j)).collect();
        for (&(i, j), tile) in row.iter().zip(done) {
            for (r, column) in tile.col_iter().enumerate() {
                let to = sum.slice_mut(s![i + r, j..j + column.nrows()]);
                to.into_iter().zip(column.iter()).for_each(|(sum, value)| *sum += value);
            }
        }
    }
}

/// A tile of B Aᵀ: faer has columns where the sum has rows.
fn tile([a, b]: [MatRef<'_, f32>; 2], i: usize, j: usize, diagonal: bool) -> Mat<f64> {
    let (rows, columns) = (TILE.min(b.nrows() - j), TILE.min(a.nrows() - i));
    let mut sum = Mat::<f64>::zeros(rows, columns);
    let mut part = Mat::<f32>::zeros(rows, columns);
    for start in (0..a.ncols()).step_by(SAMPLES) {
        let samples = SAMPLES.min(a.ncols() - start);
        let left = b.submatrix(j, start, rows, samples);
        let right = a.submatrix(i, start, columns, samples).transpose();
        if diagonal {
            let (upper, all) = (BlockStructure::TriangularUpper, BlockStructure::Rectangular);
            triangular::matmul(part.as_mut(), upper, Accum::Replace, left, all, right, all, 1.0, Par::Seq);
        } else {
            matmul(part.as_mut(), Accum::Replace, left, right, 1.0, Par::Seq);
        }
        for (sum, part) in sum.col_iter_mut().zip(part.col_iter()) {
            sum.iter_mut().zip(part.iter()).for_each(|(sum, &part)| *sum += f64::from(part));
        }
    }
    sum
}

/// Rows and columns of a square that is copied at a time.
const BLOCK: usize = 32;

/// Copies the lower triangle to the upper one.
fn mirror(square: &mut Array2<f64>) {
    let n = square.nrows();
    for (i0, j0) in (0..n).step_by(BLOCK).flat_map(|i| (0..=i).step_by(BLOCK).map(move |j| (i, j))) {
        for i in i0..n.min(i0 + BLOCK) {
            for j in j0..i.min(j0 + BLOCK) {
                square[(j, i)] = square[(i, j)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(rows: usize, samples: usize, step: usize) -> Array2<f32> {
        Array2::from_shape_fn((rows, samples), |(i, j)| ((i * 31 + j * step + i * j) % 19) as f32 / 8.0 - 1.0)
    }

    /// The values are multiples of 1/8, so every sum here is exact.
    fn exact(y: &Array2<f32>, x: &Array2<f32>) -> Array2<f64> {
        y.mapv(f64::from).dot(&x.mapv(f64::from).t())
    }

    #[test]
    fn sums_over_tiles_and_blocks() {
        for (rows, samples) in [(3, 5), (300, 1100), (1, 0), (0, 3)] {
            let (x, y) = (data(rows, samples, 7), data(270, samples, 11));
            assert_eq!(gram(x.view()), exact(&x, &x));
            assert_eq!(cross(y.view(), x.view()), Some(exact(&y, &x)));
            assert_eq!(gram(x.t().as_standard_layout().t()), exact(&x, &x));
        }
        assert_eq!(cross(data(2, 3, 1).view(), data(2, 4, 1).view()), None);
    }

    #[test]
    fn threads_change_nothing() {
        let x = data(600, 1500, 7).mapv(|v| v.sin());
        let with = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().map(|p| p.install(|| gram(x.view())))
        };
        assert_eq!(with(1).expect("threads"), with(3).expect("threads"));
    }

    #[test]
    fn moments_are_those_of_all_batches() {
        let (x, y) = (data(4, 30, 7), data(3, 30, 5));
        let mut moments = Moments::new(4, 3);
        assert!(moments.clone().centred::<Factored>(false).is_none());
        for (from, to) in [(0, 11), (11, 30)] {
            assert_eq!(moments.add(x.slice(s![.., from..to]), y.slice(s![.., from..to])), Some(()));
        }
        assert_eq!(moments.add(x.slice(s![..3, ..]), y.view()), None);
        assert_eq!(moments.samples(), 30);
        let got = moments.clone().centred::<Factored>(false).expect("finite");
        let centre = |a: &Array2<f32>| {
            let a = a.mapv(f64::from);
            let mean = a.sum_axis(ndarray::Axis(1)) / 30.0;
            (&a - &mean.clone().insert_axis(ndarray::Axis(1)), mean)
        };
        let ((xc, xm), (yc, ym)) = (centre(&x), centre(&y));
        let near = |a: &Array2<f64>, b: Array2<f64>| a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&got.xx, xc.dot(&xc.t()) / 30.0) && near(&got.yx, yc.dot(&xc.t()) / 30.0));
        assert!(got.yy.iter().zip(yc.dot(&yc.t()).diag()).all(|(a, b)| (a - b / 30.0).abs() < 1e-6));
        let nonzero = x.rows().into_iter().map(|row| row.iter().filter(|&&v| v != 0.0).count() as f64 / 30.0);
        assert_eq!(got.nonzero.to_vec(), nonzero.collect::<Vec<_>>());
        assert!((&got.x - &xm).iter().chain(&(&got.y - &ym)).all(|d| d.abs() < 1e-12));

        moments.add(Array2::from_elem((4, 1), f32::NAN).view(), y.slice(s![.., ..1]));
        assert!(moments.centred::<Factored>(false).is_none());
    }

    #[test]
    fn large_means_cost_no_digits() {
        let moments = |far: f32| {
            let (x, y) = (data(4, 300, 7) + far, data(3, 300, 5) - far);
            let (mut moments, mut to) = (Moments::new(4, 3), TargetMoments::new(4, 3));
            moments.add(x.view(), y.view()).expect("fits");
            to.add(x.view(), y.view()).expect("fits");
            let about = |zero| moments.clone().centred::<Factored>(zero).expect("finite");
            let again = to.replace(&about(false), false).expect("finite");
            assert_eq!(again, about(false));
            [about(false), about(true)]
        };
        let ([near, _], [far, zero]) = (moments(0.0), moments(1e5));
        let same = |a: &Array2<f64>, b: &Array2<f64>| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(same(&near.xx, &far.xx) && same(&near.yx, &far.yx));
        assert!(near.yy.iter().zip(&far.yy).all(|(a, b)| (a - b).abs() < 1e-5));
        // About zero: with the means, and none to tell.
        let back = |i: usize, j: usize| zero.xx[(i, j)] - far.x[i] * far.x[j];
        let back = Array2::from_shape_fn((4, 4), |(i, j)| back(i, j));
        assert!(back.iter().zip(near.xx.iter()).all(|(a, b)| (a - b).abs() < 1e-4) && zero.x.sum() == 0.0);
    }
}
