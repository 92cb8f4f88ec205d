//! Codebooks fitted to what a layer should give, with the codes as they are.

use super::fit::Layer;
use super::ridge;
use ndarray::{Array2, Axis};
use rayon::prelude::*;

/// λ, as a share of the mean diagonal.
const RIDGE: f64 = 1e-4;

/// The numbers of least error for all entries of all codebooks. `entries` has, a matrix for each group of the layer, the
/// entry in `books` that each weight is; an entry that `fixed` holds stays. (Least squares over tied weights: the normal
/// equations summed over the weights that share an entry.) `None` if shapes do not fit or nothing can be solved.
pub fn refit(layer: &Layer, entries: &[Array2<u32>], books: &[f64], fixed: impl Fn(usize) -> bool) -> Option<Vec<f64>> {
    let k = books.len();
    let mut gram = Array2::<f64>::zeros((k, k));
    let mut wanted = Array2::<f64>::zeros((1, k));
    for (part, entries) in layer.parts.iter().zip(entries) {
        let (xx, yx) = (&*part.fit.xx, &part.fit.yx);
        if entries.dim() != yx.dim() || entries.iter().any(|&e| e as usize >= k) {
            return None;
        }
        // A row's own sums first, over the entries that it uses; then they are added in order.
        let rows: Vec<_> = entries.axis_iter(Axis(0)).collect();
        let sums: Vec<(Vec<u32>, Array2<f64>)> = rows
            .into_par_iter()
            .map(|row| {
                let mut used: Vec<u32> = row.to_vec();
                used.sort_unstable();
                used.dedup();
                let place = |e: u32| used.binary_search(&e).unwrap_or(0);
                let places: Vec<usize> = row.iter().map(|&e| place(e)).collect();
                let mut by_entry = Array2::<f64>::zeros((used.len(), row.len()));
                for (i, &p) in places.iter().enumerate() {
                    by_entry.row_mut(p).scaled_add(1.0, &xx.row(i));
                }
                let mut own = Array2::<f64>::zeros((used.len(), used.len()));
                for (mut own, by_entry) in own.rows_mut().into_iter().zip(by_entry.rows()) {
                    by_entry.iter().zip(&places).for_each(|(v, &p)| own[p] += v);
                }
                (used, own)
            })
            .collect();
        for ((used, own), (row, yx)) in sums.iter().zip(entries.rows().into_iter().zip(yx.rows())) {
            for (a, &i) in used.iter().enumerate() {
                for (b, &j) in used.iter().enumerate() {
                    gram[(i as usize, j as usize)] += own[(a, b)];
                }
            }
            row.iter().zip(yx).for_each(|(&e, v)| wanted[(0, e as usize)] += v);
        }
    }
    // Fixed entries, and those that no weight uses, are taken out of the system.
    let free: Vec<usize> = (0..k).filter(|&e| !fixed(e) && gram[(e, e)] > 0.0).collect();
    let now = Array2::from_shape_fn((1, k), |(_, e)| books[e]);
    let held = Array2::from_shape_fn((1, k), |(_, e)| if free.binary_search(&e).is_ok() { 0.0 } else { books[e] });
    let rest = &wanted - &held.dot(&gram);
    let small = Array2::from_shape_fn((free.len(), free.len()), |(i, j)| gram[(free[i], free[j])]);
    let target = Array2::from_shape_fn((1, free.len()), |(_, j)| rest[(0, free[j])]);
    let prior = Array2::from_shape_fn((1, free.len()), |(_, j)| now[(0, free[j])]);
    let solved = ridge(&small, &target, Some(&prior), RIDGE)?;
    let mut out = books.to_vec();
    free.iter().zip(solved.iter()).for_each(|(&e, &v)| out[e] = v);
    Some(out)
}
