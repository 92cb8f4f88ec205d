//! Vectors of eight numbers: which instructions the processor has, and what works on whole vectors.

use std::ops::Add;

/// Numbers side by side: what one instruction works on, and what sums are taken in.
pub const LANES: usize = 8;

/// What the processor has, as [`widest`] has found out: nobody else makes one.
#[derive(Clone, Copy)]
pub struct Vectors {
    /// Whether a multiplication and an addition are one instruction; on x86, whether there is AVX2.
    fused: bool,
}

impl Vectors {
    /// Whether a multiplication and an addition are one instruction.
    #[inline(always)]
    pub fn fused(self) -> bool {
        self.fused
    }
}

/// Tests set this to run what a processor without AVX2 runs.
#[cfg(test)]
pub static PORTABLE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    #[cfg(test)]
    if PORTABLE.load(std::sync::atomic::Ordering::Relaxed) {
        return false;
    }
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Calls `f`, compiled for AVX2 and FMA if the processor has them. `f` must be `#[inline(always)]` and write its results to
/// memory: LLVM spills an array of accumulators that is indexed by a variable.
#[inline(always)]
pub fn widest<R>(f: impl FnOnce(Vectors) -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<R>(f: impl FnOnce(Vectors) -> R) -> R {
            f(Vectors { fused: true })
        }
        if has_avx2() {
            // SAFETY: the processor has what `wide` is compiled for.
            return unsafe { wide(f) };
        }
    }
    f(Vectors { fused: cfg!(target_arch = "aarch64") })
}

/// Row i of the result has number i of every row.
#[inline(always)]
pub fn columns<T: Copy>(m: [[T; LANES]; LANES]) -> [[T; LANES]; LANES] {
    std::array::from_fn(|i| m.map(|row| row[i]))
}

/// [`columns`] of f32, in vectors.
#[inline(always)]
pub fn columns_f32(vectors: Vectors, m: [[f32; LANES]; LANES]) -> [[f32; LANES]; LANES] {
    #[cfg(target_arch = "x86_64")]
    if vectors.fused {
        // SAFETY: on x86, `widest` has found AVX2.
        return unsafe { exchanged(m) };
    }
    columns(m)
}

/// Three steps of exchanging: in fours, in pairs, halves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
fn exchanged(m: [[f32; LANES]; LANES]) -> [[f32; LANES]; LANES] {
    use std::arch::x86_64::*;
    let fours = |a, b| [_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)];
    let pairs = |a, b| [_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b)];
    let halves = |a, b| [_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)];
    // SAFETY: each row has the eight numbers that are read.
    let r = m.each_ref().map(|row| unsafe { _mm256_loadu_ps(row.as_ptr()) });
    let ([a, b], [c, d]) = (fours(r[0], r[1]), fours(r[2], r[3]));
    let ([e, f], [g, h]) = (fours(r[4], r[5]), fours(r[6], r[7]));
    let ([a, b], [c, d]) = (pairs(a, c), pairs(b, d));
    let ([e, f], [g, h]) = (pairs(e, g), pairs(f, h));
    let ([a, e], [b, f], [c, g], [d, h]) = (halves(a, e), halves(b, f), halves(c, g), halves(d, h));
    [a, b, c, d, e, f, g, h].map(|row| {
        let mut to = [0.0; LANES];
        // SAFETY: there is room for the eight numbers that are written.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), row) };
        to
    })
}

/// The sum of lanes.
#[inline(always)]
pub fn total<T: Copy + Add<Output = T>>(l: &[T; LANES]) -> T {
    ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let m: [[f32; LANES]; LANES] = std::array::from_fn(|i| std::array::from_fn(|j| (i * LANES + j) as f32));
        let mut found = m;
        widest(
            #[inline(always)]
            |vectors| found = columns_f32(vectors, m),
        );
        assert_eq!(found, columns(m));
        assert_eq!((found[3][5], found[7][0]), (m[5][3], m[0][7]));
    }
}
