//! Between ndarray and faer, and the faer calls that the other files share.
//!
//! faer's own threads are never used: how it cuts up work is its business, and the result must not depend on it.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::matmul::matmul;
use faer::linalg::{householder, qr};
use faer::traits::RealField;
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, CowArray, Ix2};
use rayon::prelude::*;

/// `f32` or `f64`.
pub trait Float: RealField + Copy + Send + Sync + 'static {
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Float for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Columns of a product, or rows, that one task computes.
const COLUMNS: usize = 128;

pub(super) fn finite<T: Float>(a: ArrayView2<'_, T>) -> bool {
    a.iter().all(|x| x.wide().is_finite())
}

/// A faer view of a row-major array.
pub(super) fn view<'a, T: Float>(a: &'a CowArray<'_, T, Ix2>) -> Option<MatRef<'a, T>> {
    Some(MatRef::from_row_major_slice(a.as_slice()?, a.nrows(), a.ncols()))
}

pub(super) fn array<T: Float>(a: MatRef<'_, T>) -> Array2<T> {
    Array2::from_shape_fn((a.nrows(), a.ncols()), |(i, j)| a[(i, j)])
}

/// `a · b`, by blocks of columns in parallel.
pub(super) fn product<T: Float>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> Mat<T> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    out.par_col_chunks_mut(COLUMNS).zip(b.par_col_chunks(COLUMNS)).for_each(|(out, b)| {
        matmul(out, Accum::Replace, a, b, T::of(1.0), Par::Seq);
    });
    out
}

/// `a · b`, row-major, into `out`, by blocks of rows in parallel.
pub(super) fn product_rows<T: Float>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T]) {
    let (rows, columns) = (COLUMNS.min(a.nrows().max(1)), b.ncols());
    out.par_chunks_mut((rows * columns).max(1)).enumerate().for_each(|(block, out)| {
        let count = out.len() / columns;
        let a = a.subrows(block * rows, count);
        let out = MatMut::from_row_major_slice_mut(out, count, columns);
        matmul(out, Accum::Replace, a, b, T::of(1.0), Par::Seq);
    });
}

/// Q (m × r) with orthonormal columns and upper triangular R (r × n), r = min(m, n), with Q R = `a`.
pub(super) fn qr<T: Float>(mut a: Mat<T>) -> (Mat<T>, Mat<T>) {
    use qr::no_pivoting::factor;
    let (m, n) = a.shape();
    let size = m.min(n);
    let block = factor::recommended_block_size::<T>(m, n);
    let mut coefficients = Mat::zeros(block, size);
    let scratch = factor::qr_in_place_scratch::<T>(m, n, block, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    factor::qr_in_place(a.as_mut(), coefficients.as_mut(), Par::Seq, stack, Default::default());
    let mut q = Mat::identity(m, size);
    let scratch = householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<T>(m, block, size);
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        a.get(.., ..size),
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    let r = Mat::from_fn(size, n, |i, j| if i <= j { a[(i, j)] } else { T::of(0.0) });
    (q, r)
}
