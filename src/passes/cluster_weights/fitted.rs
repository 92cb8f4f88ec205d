//! Codebooks and codes that give what a layer should give on its data, not just what its weights were.

use super::clustered::Clustered;
use crate::analysis::linear::Linear;
use crate::ir::{DType, Graph, Tensor};
use crate::math::fit::Fit;
use crate::math::{LayerMoments, books, feedback::feedback, sparsity::pruned};
use crate::passes::{Fitted, refit};
use ndarray::Array2;

/// λ of the error feedback, as a share of the mean diagonal.
const RIDGE: f64 = 1e-2;

/// Clusters the weight of a layer. Centroids weigh each weight by the second moment of its input; codes are chosen input by
/// input, from the strongest, what one loses handed on to the next (GPTQ); then the centroids are solved by least squares on
/// the layer's output. Also gives the bias that goes with them, and how it went.
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
    let sparse = tensor.as_f32().is_some_and(|w| pruned(&w, tensor.shape(), refit::PRUNED));
    let solve = |layer: &LayerMoments, _: Option<&Clustered>| {
        // Weights that were pruned stay so: the others are not solved anew then.
        let target = if sparse { current.w.clone() } else { layer.ridge(&current)?.w };
        let wanted = linear.tensor(DType::F32, tensor.shape(), &target);
        let mut found = new(&wanted, &importance(layer, linear, tensor.len()))?;
        let (bases, levels) = (found.bases(), found.levels);
        let mut book = found.book();
        let mut codes = vec![0u8; tensor.len()];
        let scale = linear.scale();
        for ((part, w), places) in layer.parts.iter().zip(&target).zip(&places) {
            let round = |o: usize, i: usize, v: f64| {
                let base = bases[places[(o, i)] as usize] as usize;
                let kept = if sparse && w[(o, i)] == 0.0 { 0.0 } else { v / scale };
                book[base + nearest(&book[base..base + levels], kept)] * scale
            };
            part.fit.xx.forget();
            let rounded = feedback(w.view(), part.fit.xx.view(), RIDGE, &round)?;
            for (at, &v) in places.iter().zip(&rounded) {
                let base = bases[*at as usize] as usize;
                codes[*at as usize] = nearest(&book[base..base + levels], v / scale) as u8;
            }
        }
        let entries: Vec<Array2<u32>> =
            places.iter().map(|p| p.mapv(|at| bases[at as usize] + u32::from(codes[at as usize]))).collect();
        let scaled: Vec<f64> = book.iter().map(|b| b * scale).collect();
        let pinned = |e: usize| sparse && book[e] == 0.0;
        book = books::refit(layer, &entries, &scaled, pinned)?.into_iter().map(|b| b / scale).collect();
        found.set(&book, &codes, tensor.dtype());
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
