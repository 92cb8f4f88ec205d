//! The numbers that training computes with, their matrix products, and sums in a fixed order.

use super::vectors::{LANES, Vectors, columns, columns_f32, total, widest};
use rayon::prelude::*;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::ir::op::unary;

/// `f32` in production, `f64` where gradients are checked.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    const ZERO: Self;
    const ONE: Self;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tanh(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn erf(self) -> Self;
    /// self a + b, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    fn is_nan(self) -> bool;
    /// Row i of the result has number i of every row.
    fn transposed(vectors: Vectors, m: [[Self; LANES]; LANES]) -> [[Self; LANES]; LANES];

    fn abs(self) -> Self {
        if self < Self::ZERO { -self } else { self }
    }

    /// The nearest number in `low..=high`; `high` where they cross.
    fn within(self, low: Self, high: Self) -> Self {
        let x = if self < low { low } else { self };
        if x > high { high } else { x }
    }
}

macro_rules! real {
    ($type:ident, $erf:expr, $transposed:expr) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn of(x: f64) -> Self {
                x as $type
            }
            fn wide(self) -> f64 {
                self.into()
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn sin(self) -> Self {
                self.sin()
            }
            fn cos(self) -> Self {
                self.cos()
            }
            fn tanh(self) -> Self {
                self.tanh()
            }
            fn powf(self, exponent: Self) -> Self {
                self.powf(exponent)
            }
            fn erf(self) -> Self {
                $erf(self)
            }
            fn mul_add(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            fn is_nan(self) -> bool {
                self.is_nan()
            }
            #[inline(always)]
            fn transposed(vectors: Vectors, m: [[Self; LANES]; LANES]) -> [[Self; LANES]; LANES] {
                $transposed(vectors, m)
            }
        }
    };
}

real!(f32, erf, columns_f32);
real!(f64, unary::erf, |_, m| columns(m));

/// To 1.5e-7. (Abramowitz and Stegun, 7.1.26.)
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let polynomial = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let sum = polynomial.iter().fold(0.0f32, |sum, a| sum * t + a);
    (1.0 - sum * t * (-x * x).exp()).copysign(x)
}

/// Elements that one piece of elementwise work takes.
pub const PIECE: usize = 1 << 14;

/// Pieces that work on a batch is cut into, whatever the number of threads: partial sums are taken piece by piece.
pub const PIECES: usize = 8;

/// A matrix that lies in a slice: element (i, j) is `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl<'a, T> View<'a, T> {
    /// Row-major, without gaps.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert!(rows * columns <= data.len(), "a matrix beyond its slice");
        View { data, rows, columns, row: columns, column: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        View { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// Row-major, or the transpose of a row-major matrix: `rows` × `columns` in either case.
    pub fn maybe_t(data: &'a [T], rows: usize, columns: usize, transposed: bool) -> Self {
        if transposed { View::new(data, columns, rows).t() } else { View::new(data, rows, columns) }
    }
}

/// C = A B, or C + A B with `add`; C is row-major, without gaps.
pub fn multiply<T: Real>(c: &mut [T], a: View<'_, T>, b: View<'_, T>, add: bool) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(k == b.rows && m * n <= c.len(), "matrices that do not fit");
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: every index of the three matrices lies inside its slice: `View` and the assertion above hold them there.
    // C is borrowed mutably, so it does not overlap A or B. `Real` is f32 or f64, which `gemm` knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        )
    }
}

/// [`multiply`] on all threads, without gaps in C: blocks of rows, cut by the size of the matrix alone.
pub fn multiply_wide<T: Real>(c: &mut [T], a: View<'_, T>, b: View<'_, T>, add: bool) {
    let (m, n) = (a.rows, b.columns);
    let rows = m.div_ceil(16).max(32);
    if m <= rows || m * n * a.columns < 1 << 18 {
        return multiply(c, a, b, add);
    }
    c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
        let block = View { data: &a.data[i * rows * a.row..], rows: rows.min(m - i * rows), ..a };
        multiply(c, block, b, add);
    });
}

/// y[i] = f(x[i]) on all threads.
pub fn map<T: Real>(x: &[T], y: &mut [T], f: impl Fn(T) -> T + Sync + Send + Copy) {
    let pieces = y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE));
    pieces.for_each(move |(y, x)| {
        widest(
            #[inline(always)]
            move |_| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)),
        )
    });
}

/// Σ a[i] b[i], in eight sums side by side.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    sums(a, b, |a, b| [a * b])[0]
}

/// Σ f(a[i], b[i]) for each number that `f` gives, in eight sums side by side.
pub fn sums<T: Real, const N: usize>(a: &[T], b: &[T], f: impl Fn(T, T) -> [T; N]) -> [T; N] {
    sums_of(std::iter::once((a, b)), f)
}

/// [`sums`] over several pairs of slices: each pair by itself, then lane by lane.
pub fn sums_of<'a, T: Real, const N: usize>(
    pairs: impl Iterator<Item = (&'a [T], &'a [T])>,
    f: impl Fn(T, T) -> [T; N],
) -> [T; N] {
    let mut lanes = [[T::ZERO; LANES]; N];
    let to = &mut lanes;
    widest(
        #[inline(always)]
        move |_| {
            for (a, b) in pairs {
                add_lanes(a, b, &f, to);
            }
        },
    );
    lanes.map(|lanes| total(&lanes))
}

#[inline(always)]
fn add_lanes<T: Real, const N: usize>(a: &[T], b: &[T], f: impl Fn(T, T) -> [T; N], to: &mut [[T; LANES]; N]) {
    let mut lanes = [[T::ZERO; LANES]; N];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            let terms = f(a[i], b[i]);
            for n in 0..N {
                lanes[n][i] += terms[n];
            }
        }
    }
    for (to, lanes) in to.iter_mut().zip(lanes) {
        (0..LANES).for_each(|i| to[i] += lanes[i]);
    }
    // The rest goes to memory: lanes that are picked by number would not stay in registers.
    for (i, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        let terms = f(a, b);
        (0..N).for_each(|n| to[n][i] += terms[n]);
    }
}

/// Where a gradient goes: nothing was written there yet if it is `fresh`, else it is added to.
pub struct Grad<'a, T> {
    pub to: &'a mut [T],
    pub fresh: bool,
}

impl<'a, T: Real> Grad<'a, T> {
    /// The slice, to add to.
    pub fn zeroed(self) -> &'a mut [T] {
        if self.fresh {
            self.to.fill(T::ZERO);
        }
        self.to
    }

    /// Adds f(a[i], b[i]), on all threads.
    pub fn add(self, a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync + Send + Copy) {
        let fresh = self.fresh;
        let pieces = self.to.par_chunks_mut(PIECE).zip(a.par_chunks(PIECE)).zip(b.par_chunks(PIECE));
        pieces.for_each(move |((to, a), b)| {
            let terms = to.iter_mut().zip(a.iter().zip(b));
            widest(
                #[inline(always)]
                move |_| match fresh {
                    true => terms.for_each(|(to, (&a, &b))| *to = f(a, b)),
                    false => terms.for_each(|(to, (&a, &b))| *to += f(a, b)),
                },
            );
        });
    }

    /// Adds the sum of partial results that lie one after the other, the first first.
    pub fn add_partial(self, partial: &[T], stride: usize) {
        let (fresh, len) = (self.fresh, self.to.len());
        self.to.par_chunks_mut(PIECE).enumerate().for_each(|(i, to)| {
            let at = i * PIECE;
            if fresh {
                to.fill(T::ZERO);
            }
            for part in partial.chunks_exact(stride) {
                let part = &part[at..len.min(at + PIECE)];
                to.iter_mut().zip(part).for_each(|(to, &p)| *to += p);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_function() {
        for x in [-3.0f32, -0.5, 0.0, 1e-3, 0.7, 2.0, 9.0] {
            assert!((Real::erf(x) - Real::erf(f64::from(x)) as f32).abs() < 3e-7, "{x}");
        }
    }

    #[test]
    fn products_of_views() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        let mut c = [9.0f64; 5];
        multiply(&mut c, View::new(&a, 2, 3), View::maybe_t(&b, 3, 2, true), false);
        assert_eq!(c, [7.0, 10.0, 16.0, 22.0, 9.0]);
        multiply(&mut c, View::new(&a, 2, 3), View::new(&b, 3, 2), true);
        assert_eq!(c, [12.0, 21.0, 30.0, 45.0, 9.0]);
    }

    #[test]
    fn a_wide_product_is_the_same() {
        let a: Vec<f64> = (0..100 * 70).map(|i| (i % 13) as f64).collect();
        let b: Vec<f64> = (0..70 * 50).map(|i| (i % 7) as f64).collect();
        let (mut c, mut d) = (vec![1.0; 5000], vec![1.0; 5000]);
        for a in [View::new(&a, 100, 70), View::new(&a, 70, 100).t()] {
            multiply(&mut c, a, View::new(&b, 70, 50), true);
            multiply_wide(&mut d, a, View::new(&b, 70, 50), true);
            assert_eq!(c, d);
        }
    }

    #[test]
    fn sums_of_any_length() {
        for n in [0, 1, 7, 8, 21] {
            let a: Vec<f64> = (0..n).map(f64::from).collect();
            let want = a.iter().map(|a| a * a).sum::<f64>();
            assert_eq!((dot(&a, &a), sums(&a, &a, |a, _| [a, -a])[1]), (want, -a.iter().sum::<f64>()));
        }
    }
}
