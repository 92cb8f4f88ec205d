//! Codebooks of vectors: k-means in several dimensions, from a start that takes no seed.
//!
//! The start splits the cluster of most error in two across its principal axis until there are enough (Linde, Buzo, Gray 1980,
//! with the split of Wong 1982); Lloyd's iteration follows. Of many vectors it runs on an even choice of them.

use rayon::prelude::*;
use std::ops::Range;

/// The most rows.
const MOST: usize = 256;
/// Vectors that clusters are found from, at most.
const SAMPLE: usize = 1 << 14;
/// Lloyd's iterations on these.
const STEPS: usize = 10;
/// Steps towards the principal axis of a cluster.
const POWER: usize = 12;
/// Vectors that one task looks up.
const TASK: usize = 1 << 10;

/// Rows of a codebook, to find the nearest one of.
pub struct CodebookRows {
    count: usize,
    /// Number after number of all rows.
    columns: Vec<f32>,
}

impl CodebookRows {
    /// Of `count` rows that follow each other, 256 at most.
    pub fn new(rows: &[f32], count: usize) -> CodebookRows {
        let length = rows.len() / count.max(1);
        let columns = (0..length).flat_map(|j| (0..count).map(move |e| rows[e * length + j])).collect();
        CodebookRows { count, columns }
    }

    /// The first of the rows that are nearest to a vector, by the numbers that the vector has.
    pub fn nearest(&self, vector: impl Iterator<Item = f32>) -> usize {
        let mut distances = [0.0f32; MOST];
        let distances = &mut distances[..self.count];
        for (column, v) in self.columns.chunks(self.count.max(1)).zip(vector) {
            for (distance, c) in distances.iter_mut().zip(column) {
                let off = c - v;
                *distance += off * off;
            }
        }
        let least = distances.iter().fold(f32::INFINITY, |least, &d| if d < least { d } else { least });
        distances.iter().position(|&d| d == least).unwrap_or(0)
    }

    /// The nearest row for each of several vectors.
    pub fn codes(&self, vectors: &[f32], length: usize) -> Vec<u8> {
        let code = |vector: &[f32]| self.nearest(vector.iter().copied()) as u8;
        let of_task = |vectors: &[f32]| vectors.chunks(length).map(code).collect::<Vec<u8>>();
        vectors.par_chunks(TASK * length).map(of_task).collect::<Vec<_>>().concat()
    }
}

/// Clusters vectors of `length` numbers, one after the other, into at most `k` (256) such that Σ weight · ‖vector − row‖² is small:
/// the rows, one after the other, fewer than `k` if there are fewer different vectors. Weights are one a vector, all 1 without.
/// The result depends on nothing but the arguments. `None` if there are no vectors, or numbers are not finite.
pub fn kmeans(vectors: &[f32], weights: Option<&[f32]>, length: usize, k: usize) -> Option<Vec<f32>> {
    let count = vectors.len() / length.max(1);
    let finite = vectors.iter().chain(weights.unwrap_or_default()).all(|v| v.is_finite());
    if count == 0 || !(1..=MOST).contains(&k) || !finite || weights.is_some_and(|w| w.len() != count) {
        return None;
    }
    let chosen: Vec<usize> = match count > SAMPLE {
        true => (0..SAMPLE).map(|i| i * count / SAMPLE).collect(),
        false => (0..count).collect(),
    };
    let sample: Vec<f32> = chosen.iter().flat_map(|&i| &vectors[i * length..(i + 1) * length]).copied().collect();
    let weights: Vec<f64> = chosen.iter().map(|&i| weights.map_or(1.0, |w| f64::from(w[i]))).collect();
    let weights = if weights.iter().any(|w| *w > 0.0) { weights } else { vec![1.0; chosen.len()] };
    let mut rows = Splitting::of(&sample, &weights, length, k);
    for _ in 0..STEPS {
        let codes = CodebookRows::new(&rows, rows.len() / length).codes(&sample, length);
        let before = rows.clone();
        centre(&mut rows, &sample, &weights, &codes, length);
        if rows == before {
            break;
        }
    }
    Some(rows)
}

/// Moves every row to the mean of the vectors that have its code; a row without vectors stays.
fn centre(rows: &mut [f32], vectors: &[f32], weights: &[f64], codes: &[u8], length: usize) {
    let mut sums = vec![0.0f64; rows.len()];
    let mut shares = vec![0.0f64; rows.len() / length];
    for ((vector, weight), &code) in vectors.chunks(length).zip(weights).zip(codes) {
        let at = usize::from(code);
        shares[at] += weight;
        for (sum, v) in sums[at * length..].iter_mut().zip(vector) {
            *sum += weight * f64::from(*v);
        }
    }
    for ((row, sum), share) in rows.chunks_mut(length).zip(sums.chunks(length)).zip(shares) {
        if share > 0.0 {
            row.iter_mut().zip(sum).for_each(|(r, s)| *r = (s / share) as f32);
        }
    }
}

/// Clusters that are split in two one after the other.
struct Splitting<'a> {
    vectors: &'a [f32],
    weights: &'a [f64],
    length: usize,
    /// The vectors, cluster after cluster.
    order: Vec<usize>,
}

/// Vectors that belong together: their place in the order, their mean, and where they vary most.
struct Cluster {
    members: Range<usize>,
    mean: Vec<f64>,
    axis: Vec<f64>,
    /// Σ weight · ‖vector − mean‖²; 0 if it cannot be split.
    error: f64,
}

impl Splitting<'_> {
    /// The means of `k` clusters, or of fewer.
    fn of(vectors: &[f32], weights: &[f64], length: usize, k: usize) -> Vec<f32> {
        let count = weights.len();
        let mut all = Splitting { vectors, weights, length, order: (0..count).collect() };
        let mut clusters = vec![all.cluster(0..count)];
        while clusters.len() < k {
            let most = |best: usize, at: usize| if clusters[at].error > clusters[best].error { at } else { best };
            let at = (1..clusters.len()).fold(0, most);
            if clusters[at].error <= 0.0 {
                break;
            }
            match all.split(&clusters[at]) {
                Some([low, high]) => {
                    clusters[at] = low;
                    clusters.push(high);
                }
                None => clusters[at].error = 0.0,
            }
        }
        clusters.iter().flat_map(|c| c.mean.iter().map(|&v| v as f32)).collect()
    }

    fn vector(&self, at: usize) -> &[f32] {
        &self.vectors[at * self.length..(at + 1) * self.length]
    }

    fn cluster(&self, members: Range<usize>) -> Cluster {
        let d = self.length;
        let (mut mean, mut share) = (vec![0.0; d], 0.0);
        for &at in &self.order[members.clone()] {
            share += self.weights[at];
            mean.iter_mut().zip(self.vector(at)).for_each(|(sum, &v)| *sum += self.weights[at] * f64::from(v));
        }
        mean.iter_mut().for_each(|sum| *sum /= if share > 0.0 { share } else { 1.0 });
        let mut spread = vec![0.0; d * d];
        let mut off = vec![0.0; d];
        for &at in &self.order[members.clone()] {
            off.iter_mut().zip(self.vector(at)).zip(&mean).for_each(|((off, &v), mean)| *off = f64::from(v) - mean);
            for (row, a) in spread.chunks_mut(d).zip(&off) {
                row.iter_mut().zip(&off).for_each(|(sum, b)| *sum += self.weights[at] * a * b);
            }
        }
        let error = (0..d).map(|j| spread[j * d + j]).sum();
        let widest = (1..d).fold(0, |best, j| if spread[j * d + j] > spread[best * d + best] { j } else { best });
        let mut axis: Vec<f64> = (0..d).map(|j| f64::from(u8::from(j == widest))).collect();
        for _ in 0..POWER {
            let next: Vec<f64> =
                spread.chunks(d).map(|row| row.iter().zip(&axis).map(|(s, a)| s * a).sum::<f64>()).collect();
            let norm = next.iter().map(|v| v * v).sum::<f64>().sqrt();
            if norm <= 0.0 {
                break;
            }
            axis = next.into_iter().map(|v| v / norm).collect();
        }
        Cluster { members, mean, axis, error }
    }

    /// The two sides of the mean along the axis; `None` if all vectors are on one.
    fn split(&mut self, cluster: &Cluster) -> Option<[Cluster; 2]> {
        let side = |at: &usize| {
            let along = self.vector(*at).iter().zip(&cluster.mean).zip(&cluster.axis);
            along.map(|((&v, mean), axis)| (f64::from(v) - mean) * axis).sum::<f64>() > 0.0
        };
        let (high, low): (Vec<usize>, Vec<usize>) = self.order[cluster.members.clone()].iter().partition(|at| side(at));
        let (start, end, middle) = (cluster.members.start, cluster.members.end, cluster.members.start + low.len());
        if middle == start || middle == end {
            return None;
        }
        self.order[start..middle].copy_from_slice(&low);
        self.order[middle..end].copy_from_slice(&high);
        Some([self.cluster(start..middle), self.cluster(middle..end)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;

    fn lost(vectors: &[f32], weights: &[f32], rows: &[f32], length: usize) -> f64 {
        let table = CodebookRows::new(rows, rows.len() / length);
        let each = vectors.chunks(length).zip(weights).map(|(v, &w)| {
            let row = &rows[table.nearest(v.iter().copied()) * length..][..length];
            let off: f32 = v.iter().zip(row).map(|(v, r)| (v - r) * (v - r)).sum();
            f64::from(w * off)
        });
        each.sum()
    }

    fn vectors(count: usize, length: usize) -> Vec<f32> {
        // Sums of three numbers: more of them near 0, as in weights.
        let [a, b, c] = [1, 2, 3].map(|seed| noise(count, length, seed));
        (a + b + c).iter().map(|&v| v as f32).collect()
    }

    #[test]
    fn few_vectors_are_their_own_rows() {
        let vectors = [1.0, 2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 3.0];
        let rows = kmeans(&vectors, None, 2, 256).unwrap();
        assert_eq!(rows.len(), 6, "three different vectors");
        assert_eq!(lost(&vectors, &[1.0; 4], &rows, 2), 0.0);
        assert_eq!(kmeans(&[], None, 2, 4), None);
        assert_eq!(kmeans(&[1.0, f32::NAN], None, 2, 4), None);
    }

    #[test]
    fn pairs_lose_less_than_numbers_in_as_many_bits() {
        let vectors = vectors(20_000, 2);
        let ones = vec![1.0; 20_000];
        let pairs = lost(&vectors, &ones, &kmeans(&vectors, None, 2, 256).unwrap(), 2);
        let numbers = super::super::kmeans_1d(&vectors, None, 16, false).unwrap().sse;
        assert!(pairs < 0.9 * numbers, "{pairs} of {numbers}");
    }

    #[test]
    fn heavy_vectors_lose_less() {
        let vectors = vectors(5_000, 4);
        let weights: Vec<f32> = (0..5_000).map(|i| if i % 4 == 0 { 50.0 } else { 1.0 }).collect();
        let [with, without] = [Some(&weights[..]), None].map(|w| kmeans(&vectors, w, 4, 64).unwrap());
        let [with, without] = [with, without].map(|rows| lost(&vectors, &weights, &rows, 4));
        assert!(with < 0.9 * without, "{with} of {without}");
    }
}
