//! Codebooks and codes that give what a layer should give on its data, not just what its weights were.

use super::clustered::Clustered;
use crate::analysis::linear::Linear;
use crate::ir::{DType, Graph, Tensor};
use crate::math::feedback::feedback_of_vectors;
use crate::math::fit::Fit;
use crate::math::sparsity::pruned;
use crate::math::vectors::CodebookRows;
use crate::math::{LayerMoments, books};
use crate::passes::{Fitted, refit};
use ndarray::{Array2, Axis};

/// The least λ of the error feedback, as a share of the mean diagonal.
const RIDGE: f64 = 1e-2;

/// Times that codes are chosen and rows of vectors solved: what they start from is far from the end.
const ROUNDS: usize = 2;

/// Clusters the weight of a layer. Centroids weigh each weight by the second moment of its input; codes are chosen input by
/// input, from the strongest, what one loses handed on to the next (GPTQ; of vectors, van Baalen et al. 2024, GPTVQ); then the
/// centroids are solved by least squares on the layer's output. Also gives the bias that goes with them, and how it went.
///
/// # Errors
/// If the layer cannot be computed with.
pub fn cluster(
    graph: &Graph,
    fitted: &Fitted<'_>,
    tensor: &Tensor,
    plain: Clustered,
    new: impl Fn(&Tensor, &[f32]) -> Option<Clustered>,
) -> Result<(Clustered, Option<Vec<f64>>, String), String> {
    let linear = fitted.linear;
    let current = refit::current(graph, linear)?;
    let matrices = |c: &Clustered| linear.matrices(&c.tensor(tensor));
    let before = Fit { w: matrices(&plain).ok_or("its weight has not the layer's shape")?, b: current.b.clone() };
    let places = linear.places();
    if !lines_up(&places, &plain) {
        return Err(format!("its {} outputs do not come in vectors of {}", linear.outputs, plain.length));
    }
    let sparse = plain.length == 1 && tensor.as_f32().is_some_and(|w| pruned(&w, tensor.shape(), refit::PRUNED));
    let solve = |layer: &LayerMoments, _: Option<&Clustered>| {
        // Weights that were pruned stay so: the others are not solved anew then.
        let target = if sparse { current.w.clone() } else { layer.ridge(&current)?.w };
        let wanted = linear.tensor(DType::F32, tensor.shape(), &target);
        let mut found = new(&wanted, &importance(layer, linear, tensor.len()))?;
        let (scale, length) = (linear.scale(), found.length);
        // Feedback along directions that a few samples show by chance serves these alone.
        let lambda = RIDGE.max(layer.lambda());
        let (vectors, bases) = found.places();
        for _ in 0..if length == 1 { 1 } else { ROUNDS } {
            let books = Books::of(&found);
            let mut codes = vec![0u8; vectors.iter().max().map_or(0, |&last| last as usize + 1)];
            for ((part, w), places) in layer.parts.iter().zip(&target).zip(&places) {
                let base = |o: usize, i: usize| bases[places[(o, i)] as usize] as usize;
                let round = |o: usize, i: usize, vector: &mut [f64]| {
                    for (at, v) in vector.iter_mut().enumerate() {
                        *v = if sparse && w[(o + at, i)] == 0.0 { 0.0 } else { *v / scale };
                    }
                    let row = books.row(base(o, i), books.nearest(base(o, i), vector));
                    vector.iter_mut().zip(row).for_each(|(v, c)| *v = c * scale);
                };
                part.fit.xx.forget();
                let rounded = feedback_of_vectors(w.view(), part.fit.xx.view(), lambda, length, &round)?;
                for (v, rows) in rounded.axis_chunks_iter(Axis(0), length).enumerate() {
                    for (i, vector) in rows.columns().into_iter().enumerate() {
                        let (o, vector): (usize, Vec<f64>) = (v * length, vector.iter().map(|v| v / scale).collect());
                        let at = vectors[places[(o, i)] as usize] as usize;
                        codes[at] = books.nearest(base(o, i), &vector) as u8;
                    }
                }
            }
            let entry = |at: u32| bases[at as usize] + length as u32 * u32::from(codes[vectors[at as usize] as usize]);
            let entries: Vec<Array2<u32>> = places.iter().map(|p| p.mapv(entry)).collect();
            let scaled: Vec<f64> = books.numbers.iter().map(|b| b * scale).collect();
            let pinned = |e: usize| sparse && books.numbers[e] == 0.0;
            let book = books::refit(layer, &entries, &scaled, length, pinned)?;
            found.set(&book.into_iter().map(|b| b / scale).collect::<Vec<_>>(), &codes);
        }
        let fit = layer.with_bias(matrices(&found)?);
        Some((found, fit))
    };
    let chosen = refit::settle(&Fitted { retarget: None, ..*fitted }, &before, solve);
    let note = chosen.note();
    Ok(match chosen.repaired {
        Some((fit, found)) => (found, Some(fit.b), note),
        None => (plain, chosen.bias, note),
    })
}

/// Whether the numbers of a vector are weights of outputs that follow each other, of the same input.
pub fn lines_up(places: &[Array2<u32>], clustered: &Clustered) -> bool {
    let (length, (vectors, bases)) = (clustered.length, clustered.places());
    let whole = |p: &Array2<u32>| places.len() == 1 || p.nrows().is_multiple_of(length);
    let in_order = |p: &Array2<u32>| {
        p.indexed_iter().all(|((o, i), &at)| {
            let first = p[(o - o % length, i)] as usize;
            vectors[at as usize] == vectors[first] && bases[at as usize] as usize % length == o % length
        })
    };
    length == 1 || places.iter().all(|p| whole(p) && in_order(p))
}

/// The rows of all codebooks.
struct Books {
    numbers: Vec<f64>,
    levels: usize,
    length: usize,
    /// Those of each codebook, where they are vectors.
    rows: Vec<CodebookRows>,
}

impl Books {
    fn of(clustered: &Clustered) -> Books {
        let (numbers, levels, length) = (clustered.book(), clustered.levels, clustered.length);
        let single: Vec<f32> = numbers.iter().map(|&v| v as f32).collect();
        let rows = if length == 1 {
            Vec::new()
        } else {
            single.chunks(levels * length).map(|c| CodebookRows::new(c, levels)).collect()
        };
        Books { numbers, levels, length, rows }
    }

    /// A row of the codebook that begins at `base`.
    fn row(&self, base: usize, code: usize) -> &[f64] {
        &self.numbers[base + code * self.length..][..self.length]
    }

    /// The code of the nearest row of the codebook that begins at `base`.
    fn nearest(&self, base: usize, vector: &[f64]) -> usize {
        match self.rows.get(base / (self.levels * self.length)) {
            Some(rows) => rows.nearest(vector.iter().map(|&v| v as f32)),
            None => nearest(&self.numbers[base..base + self.levels], vector[0]),
        }
    }
}

/// E[x²] of the input that each weight meets.
pub fn importance(layer: &LayerMoments, linear: &Linear, len: usize) -> Vec<f32> {
    let mut out = vec![0.0f32; len];
    for (part, places) in layer.parts.iter().zip(linear.places()) {
        for ((_, i), at) in places.indexed_iter() {
            let (c, mean) = (part.fit.xx[(i, i)], part.fit.x[i]);
            out[*at as usize] = (c + mean * mean) as f32;
        }
    }
    out
}

fn nearest(book: &[f64], v: f64) -> usize {
    let mut best = 0;
    for (i, b) in book.iter().enumerate() {
        if (b - v).abs() < (book[best] - v).abs() {
            best = i;
        }
    }
    best
}
