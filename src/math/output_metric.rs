//! Outputs of a layer in the metric of the model's answers: an error counts by how far it moves those.

use super::moments::Centred;
use super::solve::Whitening;
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// λ of the metric, as a share of the mean diagonal of G.
const RIDGE: f64 = 1e-2;

/// A root M of ½ G, M Mᵀ = ½ G + λI: an error δ of the outputs moves the answers by ½ δᵀ G δ = ‖Mᵀ δ‖².
#[derive(Debug, Clone)]
pub struct OutputMetric(Whitening);

impl OutputMetric {
    /// Of G (outputs × outputs). `None` if it is not finite, or zero.
    pub fn new(g: ArrayView2<'_, f64>) -> Option<OutputMetric> {
        let root = Whitening::new(g.mapv(|v| 0.5 * v).view(), RIDGE)?;
        (root.rank() == g.nrows() && g.diag().sum() > 0.0).then_some(OutputMetric(root))
    }

    /// Mᵀ W of weights W (outputs × n). `None` if the shape does not fit.
    pub fn weigh(&self, w: ArrayView2<'_, f64>) -> Option<Array2<f64>> {
        Some(self.0.whiten(w.t())?.reversed_axes().as_standard_layout().into_owned())
    }

    /// M⁻ᵀ W (outputs × n): back from [`OutputMetric::weigh`].
    pub fn unweigh(&self, w: ArrayView2<'_, f64>) -> Option<Array2<f64>> {
        Some(self.0.unwhiten(w.t())?.reversed_axes().as_standard_layout().into_owned())
    }

    /// The moments of Mᵀ Y in place of those of Y, its variance unknown and said to be 0. `None` if the shape does not fit.
    pub fn targets(&self, c: &Centred) -> Option<Centred> {
        let y = self.weigh(c.y.view().insert_axis(Axis(1)))?.remove_axis(Axis(1));
        let (xx, yx, yy) = (c.xx.clone(), self.weigh(c.yx.view())?, Array1::zeros(c.yy.len()));
        Some(Centred { xx, yx, yy, x: c.x.clone(), y, nonzero: c.nonzero.clone() })
    }

    /// The moments of Mᵀ Y in place of those of Y; of its variance, what the inputs explain with λ = `lambda` · mean of the
    /// diagonal. `None` if the shape does not fit, or nothing can be solved.
    pub fn moments(&self, c: &Centred, lambda: f64) -> Option<Centred> {
        let targets = self.targets(c)?;
        let best = c.xx.ridge(&targets.yx, None, lambda)?;
        let yy = (&best * &targets.yx).sum_axis(Axis(1)).mapv(|v| v.max(0.0));
        Some(Centred { yy, ..targets })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Moments;
    use super::super::fit::scatter;
    use super::super::low_rank::Spectrum;
    use super::super::testing::noise;
    use super::*;

    /// tr ½ G E of the errors that a weight leaves.
    fn moved(g: &Array2<f64>, x: &Array2<f64>, error: &Array2<f64>) -> f64 {
        let y = error.dot(x);
        0.5 * (&g.dot(&y) * &y).sum() / x.ncols() as f64
    }

    #[test]
    fn factors_in_the_metric_move_answers_less() {
        let (x, w, root) = (noise(9, 400, 1), noise(7, 9, 2), noise(7, 3, 3));
        let x = &x - &x.mean_axis(Axis(1)).unwrap().insert_axis(Axis(1));
        let g = root.dot(&root.t());
        let mut moments = Moments::new(9, 7);
        moments.add(x.mapv(|v| v as f32).view(), w.dot(&x).mapv(|v| v as f32).view()).unwrap();
        let c = moments.centred(false).unwrap();
        let metric = OutputMetric::new(g.view()).unwrap();
        let weighed = metric.moments(&c, 1e-6).unwrap();
        let all = moved(&g, &x, &w);
        assert!((weighed.yy.sum() / all - 1.0).abs() < 0.05, "{} against {all}", weighed.yy.sum());
        assert!((scatter(&weighed, metric.weigh(w.view()).unwrap().view()).sum() / all).abs() < 1e-4);
        for terms in 1..4 {
            let plain = Spectrum::new(&c, w.view(), terms, 1e-6).unwrap().factors(terms);
            let prior = metric.weigh(w.view()).unwrap();
            let (left, right) = Spectrum::new(&weighed, prior.view(), terms, 1e-6).unwrap().factors(terms);
            let ours = metric.unweigh(left.view()).unwrap().dot(&right);
            let [plain, ours] = [plain.0.dot(&plain.1), ours].map(|product| moved(&g, &x, &(&w - &product)));
            assert!(ours < 0.8 * plain, "{terms}: {ours} against {plain}");
        }
    }

    #[test]
    fn nothing_to_say_is_no_metric() {
        assert!(OutputMetric::new(Array2::zeros((3, 3)).view()).is_none());
        assert!(OutputMetric::new(Array2::from_elem((3, 3), f64::NAN).view()).is_none());
    }
}
