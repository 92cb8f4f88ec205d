//! Codebooks fitted to what a layer should give, with the codes as they are.

use super::fit::LayerMoments;
use super::ridge;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

/// λ, as a share of the mean diagonal.
const RIDGE: f64 = 1e-4;
/// Outputs that one task sums up for, and columns of the moments that it does so for at a time: as many as stay in cache.
const ROWS: usize = 16;
const COLUMNS: usize = 64;
/// Outputs whose sums are in memory at a time.
const HELD: usize = 256;

/// The numbers of least error for all entries of all codebooks. `entries` has, a matrix for each group of the layer, the
/// entry in `books` that each weight is; an entry that `fixed` holds stays. (Least squares over tied weights: the normal
/// equations summed over the weights that share an entry.) `None` if shapes do not fit or nothing can be solved.
///
/// Where entries are numbers of vectors of `length`, the weights of a row of W all have the same place in theirs: what has
/// another place is in other equations.
pub fn refit(
    layer: &LayerMoments,
    entries: &[Array2<u32>],
    books: &[f64],
    length: usize,
    fixed: impl Fn(usize) -> bool,
) -> Option<Vec<f64>> {
    let mut out = books.to_vec();
    for place in 0..length {
        let mut parts = Vec::new();
        for (part, entries) in layer.parts.iter().zip(entries) {
            let (xx, yx): (&Array2<f64>, &Array2<f64>) = (&part.fit.xx, &part.fit.yx);
            if entries.dim() != yx.dim() || entries.iter().any(|&e| e as usize >= books.len()) {
                return None;
            }
            let here = |row: &usize| entries.row(*row).first().is_some_and(|&e| e as usize % length == place);
            let rows: Vec<usize> = (0..entries.nrows()).filter(here).collect();
            let own = entries.select(Axis(0), &rows);
            if own.iter().any(|&e| e as usize % length != place) {
                return None;
            }
            parts.push((xx, yx.select(Axis(0), &rows), own.mapv(|e| e / length as u32)));
        }
        let now: Vec<f64> = books.iter().copied().skip(place).step_by(length).collect();
        let solved = solve(&parts, &now, |e| fixed(e * length + place))?;
        out.iter_mut().skip(place).step_by(length).zip(solved).for_each(|(out, v)| *out = v);
    }
    Some(out)
}

/// [`refit`] of numbers: of the parts of a layer, second moments of inputs, moments of inputs and outputs, and entries.
fn solve(
    parts: &[(&Array2<f64>, Array2<f64>, Array2<u32>)],
    books: &[f64],
    fixed: impl Fn(usize) -> bool,
) -> Option<Vec<f64>> {
    let k = books.len();
    let mut gram = Array2::<f64>::zeros((k, k));
    let mut wanted = Array2::<f64>::zeros((1, k));
    for (xx, yx, entries) in parts {
        // A row's own sums first, over the entries that it uses; then they are added in order.
        for held in entries.axis_chunks_iter(Axis(0), HELD) {
            let blocks: Vec<_> = held.axis_chunks_iter(Axis(0), ROWS).collect();
            let sums: Vec<Vec<EntrySums>> = blocks.into_par_iter().map(|block| EntrySums::sums(xx, block)).collect();
            for EntrySums { used, own, .. } in sums.iter().flatten() {
                for (a, &i) in used.iter().enumerate() {
                    for (b, &j) in used.iter().enumerate() {
                        gram[(i as usize, j as usize)] += own[(a, b)];
                    }
                }
            }
        }
        for (row, yx) in entries.rows().into_iter().zip(yx.rows()) {
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

/// What a row of W, an output, adds to the normal equations.
struct EntrySums {
    /// The entries that it uses, and which of them each of its weights is.
    used: Vec<u32>,
    places: Vec<usize>,
    /// Σ C_ij over the weights i of one entry and j of another.
    own: Array2<f64>,
}

impl EntrySums {
    /// Of rows of entries.
    fn sums(xx: &Array2<f64>, entries: ArrayView2<'_, u32>) -> Vec<EntrySums> {
        let mut rows: Vec<EntrySums> = entries.rows().into_iter().map(EntrySums::new).collect();
        for first in (0..xx.ncols()).step_by(COLUMNS) {
            let tile = xx.slice(s![first.., first..xx.ncols().min(first + COLUMNS)]);
            rows.iter_mut().for_each(|row| row.add(tile, first));
        }
        rows.iter_mut().for_each(|row| row.own = &row.own + &row.own.t());
        rows
    }

    fn new(entries: ArrayView1<'_, u32>) -> EntrySums {
        let mut used: Vec<u32> = entries.to_vec();
        used.sort_unstable();
        used.dedup();
        let places = entries.iter().map(|e| used.binary_search(e).unwrap_or(0)).collect();
        EntrySums { own: Array2::zeros((used.len(), used.len())), used, places }
    }

    /// Adds the columns of the moments from `first` on, from the diagonal down: half of what is symmetric, of the square at
    /// the diagonal each number.
    fn add(&mut self, tile: ArrayView2<'_, f64>, first: usize) {
        let width = tile.ncols();
        let mut by_entry = vec![0.0; self.used.len() * width];
        for (i, (row, &p)) in tile.rows().into_iter().zip(&self.places[first..]).enumerate() {
            let (share, sums) = (if i < width { 0.5 } else { 1.0 }, &mut by_entry[p * width..(p + 1) * width]);
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += share * v);
        }
        for (mut own, by_entry) in self.own.rows_mut().into_iter().zip(by_entry.chunks(width)) {
            by_entry.iter().zip(&self.places[first..]).for_each(|(v, &p)| own[p] += v);
        }
    }
}
