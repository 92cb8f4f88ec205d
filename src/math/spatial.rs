//! Convolutions with k_h×k_w taps as k_h×1 filters V and 1×k_w filters H behind them: W[m, c, a, b] ≈ Σ_t H[m, t, b] V[t, c, a].
//! (Jaderberg et al., Speeding up Convolutional Neural Networks with Low Rank Expansions, BMVC 2014.)

use super::banks::{self, Bank};
use super::low_rank::balance;
use super::moments::Centred;
use super::output_metric::OutputMetric;
use super::solve::{Whitening, times};
use super::svd::Svd;
use ndarray::{Array2, ArrayView2, Slice, s};

/// The two layers of filters.
#[derive(Debug, Clone)]
pub struct Spatial {
    /// V: terms × (channels · k_h).
    pub down: Array2<f64>,
    /// H: outputs × (k_w · terms).
    pub across: Array2<f64>,
}

impl Spatial {
    /// The best V of `terms` terms for Y ≈ W X + b, and an H to begin with; terms come in the order of their worth.
    ///
    /// The least-squares weights, drawn to `prior` (outputs × channels · k_h · k_w, `width` = k_w) by λ = `lambda` · mean of
    /// the diagonal, are truncated in the metric of the moments of what V reads, the mean over the k_w places where it reads
    /// it, and in this one of its outputs. `None` if something has no solution.
    pub fn fitted(
        metric: &OutputMetric,
        c: &Centred,
        prior: ArrayView2<'_, f64>,
        width: usize,
        terms: usize,
        lambda: f64,
    ) -> Option<Spatial> {
        let best = c.xx.ridge(&c.yx, Some(&prior.to_owned()), lambda)?;
        let best = metric.weigh(best.view())?;
        let (outputs, rows) = (best.nrows(), best.ncols().checked_div(width)?);
        let mut stacked = Array2::zeros((width * outputs, rows));
        let mut moment = Array2::<f64>::zeros((rows, rows));
        for b in 0..width {
            stacked.slice_mut(s![b * outputs..(b + 1) * outputs, ..]).assign(&best.slice(s![.., b..;width]));
            moment.scaled_add(1.0 / width as f64, &c.xx.slice(s![b..;width, b..;width]));
        }
        let root = Whitening::new(moment.view(), lambda)?;
        let svd = Svd::leading(root.whiten(stacked.view())?.view(), terms)?;
        let mut down = root.unwhiten(svd.vt.view())?;
        let terms = svd.sigma.len();
        if terms == 0 {
            return None;
        }
        let mut across = Array2::zeros((outputs, width * terms));
        for b in 0..width {
            let u = metric.unweigh(svd.u.slice(s![b * outputs..(b + 1) * outputs, ..]))?;
            across.slice_mut(s![.., b * terms..(b + 1) * terms]).assign(&u);
        }
        for (t, filter) in down.rows_mut().into_iter().enumerate() {
            balance(svd.sigma[t], across.slice_mut(s![.., t..;terms]), filter);
        }
        Some(Spatial { down, across })
    }

    /// H solved for what V gives, toward the one there is.
    pub fn mix(self, c: &Centred, lambda: f64) -> Option<Spatial> {
        let across = banks::mix(c, &self.banks(), &self.across, lambda)?;
        Some(Spatial { across, ..self })
    }

    /// What is lost of E ‖Y − ȳ‖² with the first t terms and the best H for them, for every t from 0.
    pub fn lost(&self, c: &Centred, lambda: f64) -> Option<Vec<f64>> {
        let (terms, width) = (self.down.nrows(), self.width());
        let order: Vec<usize> = (0..terms).flat_map(|t| (0..width).map(move |b| b * terms + t)).collect();
        let lost = banks::lost(c, &self.banks(), &order, lambda)?;
        Some(lost.into_iter().step_by(width).collect())
    }

    /// W: outputs × (channels · k_h · k_w).
    pub fn product(&self) -> Array2<f64> {
        let (terms, width) = (self.down.nrows(), self.width());
        let mut w = Array2::zeros((self.across.nrows(), self.down.ncols() * width));
        for b in 0..width {
            let across = self.across.slice(s![.., b * terms..(b + 1) * terms]);
            w.slice_mut(s![.., b..;width]).assign(&times(across, self.down.view()));
        }
        w
    }

    fn width(&self) -> usize {
        self.across.ncols().checked_div(self.down.nrows()).unwrap_or(1).max(1)
    }

    /// V at each of the k_w places.
    fn banks(&self) -> Vec<Bank<'_>> {
        let width = self.width() as isize;
        (0..width).map(|b| Bank { inputs: Slice::new(b, None, width), filters: self.down.view() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Moments;
    use super::super::fit::scatter;
    use super::super::testing::noise;
    use super::*;

    #[test]
    fn every_term_lowers_the_error_and_all_of_them_are_exact() {
        let (channels, height, width, outputs) = (3, 2, 3, 5);
        let inputs = channels * height * width;
        let x = noise(inputs, inputs, 7).dot(&noise(inputs, 500, 1));
        let w = noise(outputs, inputs, 2);
        let mut moments = Moments::new(inputs, outputs);
        moments.add(x.mapv(|v| v as f32).view(), w.dot(&x).mapv(|v| v as f32).view()).unwrap();
        let fit = moments.centred(false).unwrap();
        let full = channels * height;
        let error = |w: &Array2<f64>| scatter(&fit, w.view()).sum() / fit.yy.sum();
        let all = Spatial::fitted(&OutputMetric::PLAIN, &fit, w.view(), width, full, 0.0).unwrap();
        let lost = all.lost(&fit, 0.0).unwrap();
        assert_eq!(lost.len(), full + 1);
        let mut last = f64::INFINITY;
        for (terms, &lost) in lost.iter().enumerate().skip(1) {
            let found = Spatial::fitted(&OutputMetric::PLAIN, &fit, w.view(), width, terms, 0.0).unwrap();
            let plain = error(&found.product());
            let found = found.mix(&fit, 0.0).unwrap();
            assert_eq!((found.down.dim(), found.across.dim()), ((terms, 6), (outputs, width * terms)));
            let mixed = error(&found.product());
            assert!(mixed <= plain + 1e-9 && mixed < last, "{terms}: {plain}, {mixed} after {last}");
            assert!((lost / fit.yy.sum() - mixed).abs() < 1e-6, "{terms}: {lost} not {mixed}");
            last = mixed;
        }
        assert!(last < 1e-6, "{last}");
    }
}
