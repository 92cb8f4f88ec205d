//! Filters, and how the outputs of a layer are mixed from what they give: Y ≈ P D X + b.

use super::moments::Centred;
use super::solve::{explained, ridge, times};
use ndarray::{Array2, ArrayView2, Axis, Slice, s};

/// Some rows of D: filters that read some of the inputs.
#[derive(Debug, Clone, Copy)]
pub struct Bank<'a> {
    pub inputs: Slice,
    /// Filters × those inputs.
    pub filters: ArrayView2<'a, f64>,
}

/// P (outputs × filters of all banks) of least error, drawn to `prior`: P = P₀ + (C_yz − P₀ C_zz)(C_zz + λI)⁻¹ with Z = D X,
/// λ = `lambda` · mean of the diagonal. `None` if that has no solution.
pub fn mix(c: &Centred, banks: &[Bank<'_>], prior: &Array2<f64>, lambda: f64) -> Option<Array2<f64>> {
    let (zz, yz) = behind(c, banks);
    ridge(&zz, &yz, Some(prior), lambda)
}

/// E ‖Y − P Z − b‖² with the best P for the first k filters of `order`, for every k from 0; the ridge's own term is in it.
/// `None` if a matrix has no factors.
pub fn lost(c: &Centred, banks: &[Bank<'_>], order: &[usize], lambda: f64) -> Option<Vec<f64>> {
    let (zz, yz) = behind(c, banks);
    let zz = zz.select(Axis(0), order).select(Axis(1), order);
    let all = c.yy.sum();
    let gains = explained(&zz, yz.select(Axis(1), order), lambda)?;
    let sums = gains.iter().scan(all, |left, gain| {
        *left -= gain;
        Some(left.max(0.0))
    });
    Some(std::iter::once(all).chain(sums).collect())
}

/// C_zz = D C_xx Dᵀ and C_yz = C_yx Dᵀ.
fn behind(c: &Centred, banks: &[Bank<'_>]) -> (Array2<f64>, Array2<f64>) {
    let count = banks.iter().map(|b| b.filters.nrows()).sum();
    let mut xz = Array2::zeros((c.xx.nrows(), count));
    let mut yz = Array2::zeros((c.yx.nrows(), count));
    let mut zz = Array2::zeros((count, count));
    let starts = banks.iter().scan(0, |at, b| {
        *at += b.filters.nrows();
        Some(*at - b.filters.nrows())
    });
    let places: Vec<(usize, &Bank<'_>)> = starts.zip(banks).collect();
    for &(at, Bank { inputs, filters }) in &places {
        let to = s![.., at..at + filters.nrows()];
        xz.slice_mut(to).assign(&times(c.xx.slice_axis(Axis(1), *inputs), filters.t()));
        yz.slice_mut(to).assign(&times(c.yx.slice_axis(Axis(1), *inputs), filters.t()));
    }
    for (at, Bank { inputs, filters }) in places {
        let rows = times(*filters, xz.slice_axis(Axis(0), *inputs));
        zz.slice_mut(s![at..at + filters.nrows(), ..]).assign(&rows);
    }
    (zz, yz)
}

#[cfg(test)]
mod tests {
    use super::super::Moments;
    use super::super::testing::noise;
    use super::*;

    /// Every other input goes to one bank, the rest to two more: the filters in one matrix say what is right.
    #[test]
    fn filters_in_banks_are_rows_of_one_matrix() {
        let (x, y) = (noise(8, 300, 1), noise(3, 300, 2));
        let y = &y + &noise(3, 8, 3).dot(&x);
        let mut moments = Moments::new(8, 3);
        moments.add(x.mapv(|v| v as f32).view(), y.mapv(|v| v as f32).view()).unwrap();
        let fit = moments.centred(false).unwrap();
        let (even, low, high) = (noise(2, 4, 4), noise(1, 4, 5), noise(2, 3, 6));
        let banks = [
            Bank { inputs: Slice::new(0, None, 2), filters: even.view() },
            Bank { inputs: Slice::from(0..4), filters: low.view() },
            Bank { inputs: Slice::from(5..8), filters: high.view() },
        ];
        let mut d = Array2::zeros((5, 8));
        d.slice_mut(s![..2, ..;2]).assign(&even);
        d.slice_mut(s![2..3, ..4]).assign(&low);
        d.slice_mut(s![3.., 5..]).assign(&high);
        let p = mix(&fit, &banks, &Array2::zeros((3, 5)), 0.0).unwrap();
        let whole = [Bank { inputs: Slice::from(..), filters: d.view() }];
        let same = mix(&fit, &whole, &Array2::zeros((3, 5)), 0.0).unwrap();
        assert!((&p - &same).iter().all(|v| v.abs() < 1e-9));
        // What the first filters leave over is what a fit of them alone leaves over.
        let order = [3, 0, 4, 2, 1];
        let lost = lost(&fit, &banks, &order, 0.0).unwrap();
        for k in 0..=order.len() {
            let d = d.select(Axis(0), &order[..k]);
            let some = [Bank { inputs: Slice::from(..), filters: d.view() }];
            let w = mix(&fit, &some, &Array2::zeros((3, k)), 0.0).unwrap().dot(&d);
            let left = super::super::fit::scatter(&fit, w.view()).sum();
            assert!((lost[k] - left).abs() < 1e-9 * lost[0], "{k}: {} against {left}", lost[k]);
        }
    }

    #[test]
    fn nothing_seen_explains_nothing() {
        let mut moments = Moments::new(2, 1);
        moments.add(Array2::zeros((2, 2)).view(), ndarray::array![[2.0, -2.0]].view()).unwrap();
        let fit = moments.centred(false).unwrap();
        let filters = noise(2, 2, 1);
        let banks = [Bank { inputs: Slice::from(..), filters: filters.view() }];
        assert_eq!(lost(&fit, &banks, &[1, 0], 1e-4), Some(vec![4.0; 3]));
    }
}
