//! The inner loops of products, for the widest vectors that the processor has: plain arrays that the compiler makes vectors
//! of.

use super::real::Real;

/// Numbers side by side: what one instruction works on, and what sums are taken in.
pub const LANES: usize = 8;

/// Rows of a tile of a product, and the most vectors of columns.
pub const ROWS: usize = 4;
pub const WIDE: usize = 3;

/// Calls `f`, compiled for AVX2 and FMA if the processor has them. `f` is told whether a multiplication and an addition are
/// one instruction; it must be inlined, and leave its results in memory: sums that are read at once, by the number or by
/// the lane, are not kept in registers.
#[inline(always)]
pub fn widest<R>(f: impl FnOnce(bool) -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<R>(f: impl FnOnce(bool) -> R) -> R {
            f(true)
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what `wide` is compiled for.
            return unsafe { wide(f) };
        }
    }
    f(cfg!(target_arch = "aarch64"))
}

#[inline(always)]
fn multiply_add<T: Real>(fused: bool, a: T, b: T, c: T) -> T {
    if fused { a.mul_add(b, c) } else { a * b + c }
}

/// to[i `apart` + j] += Σ a[p][i] b[offsets[p] + j] over p, or = if it is `fresh`, for each row i and the columns j of so
/// many vectors.
pub fn tile<T: Real>(
    vectors: usize,
    a: &[[T; ROWS]],
    b: &[T],
    offsets: &[usize],
    to: &mut [T],
    apart: usize,
    fresh: bool,
) {
    match vectors {
        1 => widest(
            #[inline(always)]
            |fused| tile_of::<T, 1>(fused, a, b, offsets, to, apart, fresh),
        ),
        2 => widest(
            #[inline(always)]
            |fused| tile_of::<T, 2>(fused, a, b, offsets, to, apart, fresh),
        ),
        _ => widest(
            #[inline(always)]
            |fused| tile_of::<T, WIDE>(fused, a, b, offsets, to, apart, fresh),
        ),
    }
}

#[inline(always)]
fn tile_of<T: Real, const V: usize>(
    fused: bool,
    a: &[[T; ROWS]],
    b: &[T],
    offsets: &[usize],
    to: &mut [T],
    apart: usize,
    fresh: bool,
) {
    let mut sums = [[[T::ZERO; LANES]; V]; ROWS];
    for (a, &at) in a.iter().zip(offsets) {
        let b = b[at..at + LANES * V].as_chunks::<LANES>().0;
        for i in 0..ROWS {
            for v in 0..V {
                for l in 0..LANES {
                    sums[i][v][l] = multiply_add(fused, a[i], b[v][l], sums[i][v][l]);
                }
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (to, sums) in to[i * apart..].as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            match fresh {
                true => *to = sums,
                false => to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
            }
        }
    }
}

/// Rows of numbers: where each begins, and how far the stretches of each are apart.
pub struct Rows<'a, T, const N: usize> {
    pub data: &'a [T],
    pub starts: [usize; N],
    pub apart: usize,
}

impl<T: Copy, const N: usize> Rows<'_, T, N> {
    /// Whether so many stretches of such a length lie inside the slice.
    fn hold(&self, times: usize, len: usize) -> bool {
        let last = times.saturating_sub(1) * self.apart + len;
        self.starts.iter().all(|at| at + last <= self.data.len())
    }

    /// # Safety
    /// The vector at `at` of a stretch must lie inside the slice.
    #[inline(always)]
    unsafe fn vector(&self, row: usize, time: usize, at: usize) -> [T; LANES] {
        // SAFETY: the caller's.
        unsafe { self.data.as_ptr().add(self.starts[row] + time * self.apart + at).cast::<[T; LANES]>().read() }
    }
}

/// The lanes of sums of every row with every other row.
type Pairs<T> = [[[T; LANES]; WIDE]; ROWS];

/// Σ a[i][j] b[k][j] over j of every pair of rows i and k: over whole vectors, of `times` stretches of `len`.
pub fn dots<T: Real>(a: Rows<'_, T, ROWS>, b: Rows<'_, T, WIDE>, times: usize, len: usize) -> [[T; WIDE]; ROWS] {
    assert!(a.hold(times, len) && b.hold(times, len), "rows beyond their slice");
    let mut sums = [[[T::ZERO; LANES]; WIDE]; ROWS];
    let mut totals = [[T::ZERO; WIDE]; ROWS];
    widest(
        #[inline(always)]
        |fused| {
            dots_of(fused, &a, &b, times, len, &mut sums);
            let pairs = totals.as_flattened_mut().iter_mut().zip(sums.as_flattened());
            pairs.for_each(|(to, sums)| *to = total(sums));
        },
    );
    totals
}

#[inline(always)]
fn dots_of<T: Real>(
    fused: bool,
    a: &Rows<'_, T, ROWS>,
    b: &Rows<'_, T, WIDE>,
    times: usize,
    len: usize,
    to: &mut Pairs<T>,
) {
    let mut sums = [[[T::ZERO; LANES]; WIDE]; ROWS];
    for time in 0..times {
        for j in (0..len / LANES * LANES).step_by(LANES) {
            let (mut a_at, mut b_at) = ([[T::ZERO; LANES]; ROWS], [[T::ZERO; LANES]; WIDE]);
            // SAFETY: `dots` has asserted that the last vector of every row lies inside.
            unsafe {
                a_at.iter_mut().enumerate().for_each(|(i, to)| *to = a.vector(i, time, j));
                b_at.iter_mut().enumerate().for_each(|(k, to)| *to = b.vector(k, time, j));
            }
            for i in 0..ROWS {
                for k in 0..WIDE {
                    for l in 0..LANES {
                        sums[i][k][l] = multiply_add(fused, a_at[i][l], b_at[k][l], sums[i][k][l]);
                    }
                }
            }
        }
    }
    *to = sums;
}

/// The sum of lanes.
#[inline(always)]
pub fn total<T: Real>(l: &[T; LANES]) -> T {
    ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]))
}

/// Cuts `n` columns into tiles: where each begins, and its vectors. One vector alone would be slower, so four are twice two.
pub fn spans(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let (vectors, mut at) = (n.div_ceil(LANES), 0);
    std::iter::from_fn(move || {
        let take = match vectors - at {
            0 => return None,
            4 => 2,
            left => left.min(WIDE),
        };
        at += take;
        Some(((at - take) * LANES, take))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers<T: Real>(n: usize) -> Vec<T> {
        (0..n).map(|i| T::of((i * 37 % 23) as f64 - 11.0)).collect()
    }

    /// Whole numbers, so that every order of the sums gives the same.
    fn products<T: Real + std::fmt::Debug>(vectors: usize, depth: usize, fresh: bool) {
        let (a, b) = (numbers::<T>(depth * ROWS), numbers::<T>(400));
        let offsets: Vec<usize> = (0..depth).map(|p| p * 53 % 371).collect();
        let a = a.as_chunks::<ROWS>().0;
        let (apart, columns) = (30, vectors * LANES);
        let mut found = vec![T::ONE; ROWS * apart];
        tile(vectors, a, &b, &offsets, &mut found, apart, fresh);
        for (i, found) in found.chunks_exact(apart).enumerate() {
            for (j, &found) in found.iter().enumerate() {
                let terms = (0..depth).map(|p| a[p][i] * b[offsets[p] + j.min(columns)]);
                let first = if fresh && j < columns { T::ZERO } else { T::ONE };
                let want = if j < columns { terms.fold(first, |a, b| a + b) } else { first };
                assert_eq!(found, want, "{vectors} {depth} {i} {j}");
            }
        }
        let mut plain = vec![T::ONE; ROWS * apart];
        tile_of::<T, WIDE>(false, a, &b, &offsets, &mut plain, apart, fresh);
        for (plain, found) in plain.chunks_exact(apart).zip(found.chunks_exact(apart)) {
            assert_eq!(plain[..columns], found[..columns]);
        }
    }

    #[test]
    fn tiles_of_a_product() {
        for depth in [0, 1, 7] {
            for vectors in 1..=WIDE {
                for fresh in [false, true] {
                    products::<f32>(vectors, depth, fresh);
                    products::<f64>(vectors, depth, fresh);
                }
            }
        }
    }

    fn pairs<T: Real + std::fmt::Debug>(len: usize) {
        let x = numbers::<T>(300);
        let (a, b) = ([0, 20, 41, 60], [3, 33, 50]);
        let found = dots(Rows { data: &x, starts: a, apart: 50 }, Rows { data: &x, starts: b, apart: 43 }, 3, len);
        for (a, found) in a.iter().zip(found) {
            for (b, found) in b.iter().zip(found) {
                let terms = (0..3 * len).map(|j| [a + j / len * 50 + j % len, b + j / len * 43 + j % len]);
                assert_eq!(found, terms.fold(T::ZERO, |sum, [i, k]| sum + x[i] * x[k]), "{len} {a} {b}");
            }
        }
    }

    #[test]
    fn dots_of_pairs() {
        for len in [8, 40] {
            pairs::<f32>(len);
            pairs::<f64>(len);
        }
    }

    #[test]
    fn spans_cover_everything() {
        for n in 0..200 {
            let spans: Vec<_> = spans(n).collect();
            let mut end = 0;
            for &(at, vectors) in &spans {
                assert!(at == end && (1..=WIDE).contains(&vectors) && (vectors > 1 || n <= LANES));
                end = at + vectors * LANES;
            }
            assert_eq!(end, n.next_multiple_of(LANES));
        }
    }
}
