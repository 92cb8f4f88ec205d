//! The inner loops of products, as plain arrays that the compiler turns into vectors.

pub mod interleave;
pub mod strided_copy;

use super::real::Real;
use super::vectors::{LANES, Vectors, total, widest};

/// Rows of a tile of a product, and the most columns: their sums fill the registers but for four.
pub const ROWS: usize = 2;
pub const WIDE: usize = 6;

/// Rows on either side of sums of pairs.
pub const PAIRS: [usize; 2] = [4, 3];

#[inline(always)]
fn multiply_add<T: Real>(vectors: Vectors, a: T, b: T, c: T) -> T {
    if vectors.fused() { a.mul_add(b, c) } else { a * b + c }
}

/// Where the terms of a product lie: a vector, from where a column begins, and which numbers go with it, one a row.
pub struct ProductTerms {
    list: Vec<[u32; 2]>,
    /// Beyond the last vector, and beyond the last numbers.
    ends: [usize; 2],
}

impl ProductTerms {
    /// # Errors
    /// If a place does not fit into 32 bits.
    pub fn new(terms: impl Iterator<Item = [usize; 2]>) -> Result<ProductTerms, String> {
        let (mut list, mut ends) = (Vec::new(), [0, 0]);
        for [vector, numbers] in terms {
            let places = [vector, numbers].map(u32::try_from);
            let [Ok(v), Ok(n)] = places else { return Err("its images are too large".into()) };
            ends = [ends[0].max(vector + LANES), ends[1].max(numbers + 1)];
            list.push([v, n]);
        }
        Ok(ProductTerms { list, ends })
    }
}

/// Columns of a product, a vector each: where the terms of each begin, where its sums go, and how far apart the sums of
/// neighbouring rows are.
pub struct Columns<'a> {
    pub from: &'a [usize],
    pub to: &'a [usize],
    pub apart: usize,
}

/// to[i `apart` + column] = Σ a[numbers][i] b[column + vector] over all terms, for each row i and up to six columns.
pub fn tile<T: Real>(terms: &ProductTerms, a: &[[T; ROWS]], b: &[T], columns: &Columns<'_>, to: &mut [T]) {
    let inside = |&from: &usize| from.checked_add(terms.ends[0]).is_some_and(|end| end <= b.len());
    assert!(columns.from.iter().all(inside) && terms.ends[1] <= a.len(), "terms beyond their slices");
    match columns.from.len() {
        1 => tile_of::<T, 1>(terms, a, b, columns, to),
        2 => tile_of::<T, 2>(terms, a, b, columns, to),
        3 => tile_of::<T, 3>(terms, a, b, columns, to),
        4 => tile_of::<T, 4>(terms, a, b, columns, to),
        5 => tile_of::<T, 5>(terms, a, b, columns, to),
        _ => tile_of::<T, WIDE>(terms, a, b, columns, to),
    }
}

fn tile_of<T: Real, const V: usize>(
    terms: &ProductTerms,
    a: &[[T; ROWS]],
    b: &[T],
    columns: &Columns<'_>,
    to: &mut [T],
) {
    widest(
        #[inline(always)]
        |vectors| tile_wide::<T, V>(vectors, terms, a, b, columns, to),
    );
}

#[inline(always)]
fn tile_wide<T: Real, const V: usize>(
    vectors: Vectors,
    terms: &ProductTerms,
    a: &[[T; ROWS]],
    b: &[T],
    columns: &Columns<'_>,
    to: &mut [T],
) {
    let mut sums = [[[T::ZERO; LANES]; V]; ROWS];
    let from: [usize; V] = std::array::from_fn(|v| columns.from[v]);
    for &[vector, numbers] in &terms.list {
        // SAFETY: `tile` has asserted that the last numbers, and the last vector of the last column, lie inside.
        let a = unsafe { a.get_unchecked(numbers as usize) };
        for v in 0..V {
            // SAFETY: as above.
            let b = unsafe { b.as_ptr().add(from[v] + vector as usize).cast::<[T; LANES]>().read() };
            for i in 0..ROWS {
                for l in 0..LANES {
                    sums[i][v][l] = multiply_add(vectors, a[i], b[l], sums[i][v][l]);
                }
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, sums) in sums.into_iter().enumerate() {
            to[i * columns.apart + columns.to[v]..][..LANES].copy_from_slice(&sums);
        }
    }
}

/// Rows of vectors: where each begins, and how far apart neighbouring vectors are, on three levels.
pub struct VectorRows<'a, T, const N: usize> {
    pub data: &'a [T],
    pub starts: [usize; N],
    pub apart: [usize; 3],
}

impl<T: Copy, const N: usize> VectorRows<'_, T, N> {
    /// Whether so many vectors lie inside the slice.
    fn hold(&self, counts: [usize; 3]) -> bool {
        let far = counts.iter().zip(self.apart).map(|(n, apart)| n.saturating_sub(1).saturating_mul(apart));
        let end = far.fold(LANES, usize::saturating_add);
        self.starts.iter().all(|&at| end.saturating_add(at) <= self.data.len())
    }

    /// # Safety
    /// The vectors must lie inside the slice.
    #[inline(always)]
    unsafe fn vectors<const K: usize>(&self, at: [usize; 3]) -> [[T; LANES]; K] {
        let at = at[0] * self.apart[0] + at[1] * self.apart[1] + at[2] * self.apart[2];
        // SAFETY: the caller's.
        std::array::from_fn(|row| unsafe { self.data.as_ptr().add(self.starts[row] + at).cast::<[T; LANES]>().read() })
    }
}

/// The lanes of sums of every row with every other row.
type LaneSums<T> = [[[T; LANES]; PAIRS[1]]; PAIRS[0]];

/// Σ a[i][j] b[k][j] over j, so many vectors on three levels, of every row i and each of the first `width` rows k.
pub fn dots<T: Real>(
    a: &VectorRows<'_, T, { PAIRS[0] }>,
    b: &VectorRows<'_, T, { PAIRS[1] }>,
    width: usize,
    counts: [usize; 3],
) -> [[T; PAIRS[1]]; PAIRS[0]] {
    assert!(a.hold(counts) && b.hold(counts), "rows beyond their slice");
    let mut sums = [[[T::ZERO; LANES]; PAIRS[1]]; PAIRS[0]];
    let mut totals = [[T::ZERO; PAIRS[1]]; PAIRS[0]];
    widest(
        #[inline(always)]
        |vectors| {
            match width {
                1 => dots_of::<T, 1>(vectors, a, b, counts, &mut sums),
                2 => dots_of::<T, 2>(vectors, a, b, counts, &mut sums),
                _ => dots_of::<T, { PAIRS[1] }>(vectors, a, b, counts, &mut sums),
            }
            let pairs = totals.as_flattened_mut().iter_mut().zip(sums.as_flattened());
            pairs.for_each(|(to, sums)| *to = total(sums));
        },
    );
    totals
}

#[inline(always)]
fn dots_of<T: Real, const K: usize>(
    vectors: Vectors,
    a: &VectorRows<'_, T, { PAIRS[0] }>,
    b: &VectorRows<'_, T, { PAIRS[1] }>,
    counts: [usize; 3],
    to: &mut LaneSums<T>,
) {
    let mut sums = [[[T::ZERO; LANES]; K]; PAIRS[0]];
    for group in 0..counts[0] {
        for row in 0..counts[1] {
            for j in 0..counts[2] {
                // SAFETY: `dots` has asserted that the last vector of every row lies inside.
                let (a, b) = unsafe { (a.vectors::<{ PAIRS[0] }>([group, row, j]), b.vectors::<K>([group, row, j])) };
                for i in 0..PAIRS[0] {
                    for k in 0..K {
                        for l in 0..LANES {
                            sums[i][k][l] = multiply_add(vectors, a[i][l], b[k][l], sums[i][k][l]);
                        }
                    }
                }
            }
        }
    }
    for (to, sums) in to.iter_mut().zip(sums) {
        to[..K].copy_from_slice(&sums);
    }
}

/// Cuts `n` into spans of at most `most`, as even as can be: where each begins, and how long it is.
pub fn spans(n: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = n.div_ceil(most);
    (0..count).map(move |i| (i * n / count, (i + 1) * n / count - i * n / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers<T: Real>(n: usize) -> Vec<T> {
        (0..n).map(|i| T::of((i * 37 % 23) as f64 - 11.0)).collect()
    }

    /// Whole numbers, so that every order of the sums gives the same.
    fn products<T: Real + std::fmt::Debug>(width: usize, depth: usize) {
        let (a, b) = (numbers::<T>(depth * ROWS), numbers::<T>(400));
        let list: Vec<[usize; 2]> = (0..depth).map(|p| [p * 53 % 331, depth - 1 - p]).collect();
        let terms = ProductTerms::new(list.iter().copied()).unwrap();
        let a = a.as_chunks::<ROWS>().0;
        let columns = Columns { from: &[9, 0, 61, 4, 7, 8][..width], to: &[16, 3, 30, 40, 50, 60][..width], apart: 70 };
        let mut want = vec![T::ONE; ROWS * columns.apart];
        for (i, lane) in (0..ROWS).flat_map(|i| (0..LANES).map(move |l| (i, l))) {
            for (from, to) in columns.from.iter().zip(columns.to) {
                let sum = list.iter().map(|&[v, numbers]| a[numbers][i] * b[from + v + lane]);
                want[i * columns.apart + to + lane] = sum.fold(T::ZERO, |a, b| a + b);
            }
        }
        let mut found = vec![T::ONE; ROWS * columns.apart];
        tile(&terms, a, &b, &columns, &mut found);
        assert_eq!(found, want, "{width} {depth}");
    }

    #[test]
    fn tiles_of_a_product() {
        for depth in [0, 1, 7] {
            for width in 1..=WIDE {
                products::<f32>(width, depth);
                products::<f64>(width, depth);
            }
        }
        assert!(ProductTerms::new([[0, 1 << 32]].into_iter()).is_err());
    }

    fn pairs<T: Real + std::fmt::Debug>(width: usize, counts: [usize; 3]) {
        let x = numbers::<T>(400);
        let a = VectorRows { data: &x, starts: [0, 20, 41, 60], apart: [8, 50, 16] };
        let b = VectorRows { data: &x, starts: [3, 33, 50], apart: [11, 43, 8] };
        let found = dots(&a, &b, width, counts);
        let [groups, rows, columns] = counts;
        let at = (0..groups).flat_map(|g| (0..rows).flat_map(move |r| (0..columns).map(move |c| [g, r, c])));
        let places: Vec<[usize; 2]> = at
            .flat_map(|at| {
                let far = [a.apart, b.apart].map(|apart| at.iter().zip(apart).map(|(n, a)| n * a).sum::<usize>());
                (0..LANES).map(move |lane| far.map(|far| far + lane))
            })
            .collect();
        for (i, found) in a.starts.iter().zip(found) {
            for (k, found) in b.starts.iter().zip(found).take(width) {
                let terms = places.iter().map(|[a, b]| x[i + a] * x[k + b]);
                assert_eq!(found, terms.fold(T::ZERO, |a, b| a + b), "{counts:?}");
            }
        }
    }

    #[test]
    fn dots_of_pairs() {
        for counts in [[1, 1, 1], [2, 3, 4], [1, 4, 0]] {
            for width in 1..=PAIRS[1] {
                pairs::<f32>(width, counts);
                pairs::<f64>(width, counts);
            }
        }
    }

    #[test]
    fn spans_cover_everything() {
        for (n, most) in (0..50).flat_map(|n| [(n, 3), (n, WIDE)]) {
            let mut end = 0;
            for (at, len) in spans(n, most) {
                assert!(at == end && len <= most && len >= (most / 2).min(n));
                end = at + len;
            }
            assert_eq!(end, n);
        }
    }
}
