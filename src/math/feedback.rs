//! Rounding with error feedback: what is lost at one input of a layer is made up for at the inputs not yet rounded.
//! (Frantar et al. 2022, GPTQ; with zero as the rounding, Frantar & Alistarh 2023, SparseGPT; in the form of Chee et al. 2023,
//! QuIP, which needs no inverse.)

use super::solve::factor_by;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// Rows that one task rounds.
const ROWS: usize = 8;

/// Rounds W (m × n) column by column so that W X changes little, X with the second moments `xx` (n × n): columns of large
/// moments first, while there are many to make up for what they lose. `round` is given row, column and the number to round.
/// λ = `lambda` · mean of the diagonal. `None` if the moments have no inverse.
pub fn feedback(
    w: ArrayView2<'_, f64>,
    xx: ArrayView2<'_, f64>,
    lambda: f64,
    round: &(dyn Fn(usize, usize, f64) -> f64 + Sync),
) -> Option<Array2<f64>> {
    feedback_of_vectors(w, xx, lambda, 1, &|row, column, v| v[0] = round(row, column, v[0]))
}

/// As [`feedback`], where the numbers of `length` rows at a column are rounded together: `round` is given the first of the
/// rows, the column and the numbers, of the last rows perhaps fewer.
pub fn feedback_of_vectors(
    w: ArrayView2<'_, f64>,
    xx: ArrayView2<'_, f64>,
    lambda: f64,
    length: usize,
    round: &(dyn Fn(usize, usize, &mut [f64]) + Sync),
) -> Option<Array2<f64>> {
    let n = w.ncols();
    // From the last, which has the largest moment, to the first.
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| xx[(a, a)].total_cmp(&xx[(b, b)]).then(b.cmp(&a)));
    // With L Lᵀ = H an error D of W costs ‖D L‖². Column i of D L is made of the errors at i and at those that are rounded
    // before it; i is rounded such that it comes near to zero.
    let mut lower = factor_by(n, lambda, |i, j| xx[(order[i], order[j])])?;
    // Its rows are wanted one after the other: they become columns.
    for j in 0..n {
        for i in 0..j {
            lower[(i, j)] = lower[(j, i)];
        }
    }
    let lower = lower.as_ref();
    let mut out = Array2::from_shape_fn(w.dim(), |(o, i)| w[(o, order[i])]);
    let rows = out.as_slice_mut()?;
    let a_task = ROWS.next_multiple_of(length.max(1));
    rows.par_chunks_mut(a_task * n.max(1)).enumerate().for_each(|(task, rows)| {
        let (mut lost, mut rounded) = (vec![0.0; rows.len()], vec![0.0; rows.len() / n]);
        for i in (0..n).rev() {
            let Some(l) = lower.col(i).try_as_col_major().map(|l| &l.as_slice()[..=i]) else { continue };
            let wanted = rows.chunks(n).zip(lost.chunks(n)).map(|(row, lost)| row[i] + lost[i] / l[i]);
            rounded.iter_mut().zip(wanted).for_each(|(to, wanted)| *to = wanted);
            for (v, vector) in rounded.chunks_mut(length).enumerate() {
                round(task * a_task + v * length, order[i], vector);
            }
            for ((row, lost), &rounded) in rows.chunks_mut(n).zip(lost.chunks_mut(n)).zip(&rounded) {
                let error = row[i] - rounded;
                row[i] = rounded;
                if error != 0.0 {
                    lost[..i].iter_mut().zip(l).for_each(|(lost, l)| *lost += error * l);
                }
            }
        }
    });
    let mut back = Array2::zeros(w.dim());
    order.iter().zip(out.columns()).for_each(|(&i, column)| back.column_mut(i).assign(&column));
    back.iter().all(|v: &f64| v.is_finite()).then_some(back)
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;

    #[test]
    fn correlated_inputs_share_the_error() {
        let x = noise(1, 400, 1) + 0.3 * noise(20, 400, 2);
        let w = noise(17, 20, 3);
        let xx = x.dot(&x.t());
        let round = |_: usize, _: usize, v: f64| (v * 2.0).round() / 2.0;
        let lost = |q: &Array2<f64>| (&w - q).dot(&x).mapv(|e| e * e).sum();
        let plain = lost(&w.mapv(|v| round(0, 0, v)));
        let fed = feedback(w.view(), xx.view(), 1e-6, &round).unwrap();
        assert!(fed.iter().all(|v| (v * 2.0).fract() == 0.0));
        assert!(lost(&fed) < 0.3 * plain, "{} of {plain}", lost(&fed));
        let same = feedback(w.view(), xx.view(), 1e-6, &|_, _, v| v).unwrap();
        assert_eq!(same, w);
        assert!(feedback(w.view(), (&xx * f64::NAN).view(), 1e-6, &round).is_none());
    }
}
