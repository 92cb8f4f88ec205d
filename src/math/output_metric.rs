//! Outputs of a layer in the metric of the model's answers: an error counts by how far it moves those.

use super::moments::Centred;
use super::solve::Whitening;
use ndarray::{Array1, Array2, ArrayView2, Axis, CowArray, Ix2};
use std::borrow::Cow;

/// λ of the metric, as a share of the mean diagonal of G.
const RIDGE: f64 = 1e-2;

/// A root M of ½ G, M Mᵀ = ½ G + λI: an error δ of the outputs moves the answers by ½ δᵀ G δ = ‖Mᵀ δ‖². Or M = I, where G is not
/// known: the plain metric.
#[derive(Debug, Clone)]
pub struct OutputMetric(Option<Whitening>);

impl OutputMetric {
    /// M = I.
    pub const PLAIN: OutputMetric = OutputMetric(None);

    /// Of G (outputs × outputs): plain, if that is not finite, or zero.
    pub fn new(g: ArrayView2<'_, f64>) -> OutputMetric {
        let root = Whitening::new(g.mapv(|v| 0.5 * v).view(), RIDGE);
        OutputMetric(root.filter(|root| root.rank() == g.nrows() && g.diag().sum() > 0.0))
    }

    pub fn is_plain(&self) -> bool {
        self.0.is_none()
    }

    /// Mᵀ W of weights W (outputs × n). `None` if the shape does not fit.
    pub fn weigh<'w>(&self, w: ArrayView2<'w, f64>) -> Option<CowArray<'w, f64, Ix2>> {
        match &self.0 {
            Some(root) => Some(turned(root.whiten(w.t())?).into()),
            None => Some(w.into()),
        }
    }

    /// M⁻ᵀ W (outputs × n): back from [`OutputMetric::weigh`].
    pub fn unweigh<'w>(&self, w: ArrayView2<'w, f64>) -> Option<CowArray<'w, f64, Ix2>> {
        match &self.0 {
            Some(root) => Some(turned(root.unwhiten(w.t())?).into()),
            None => Some(w.into()),
        }
    }

    /// The moments of Mᵀ Y in place of those of Y; if the metric is not plain, the variance of Mᵀ Y is not known, and said to
    /// be 0. `None` if the shape does not fit.
    pub fn targets<'c>(&self, c: &'c Centred) -> Option<Cow<'c, Centred>> {
        if self.is_plain() {
            return Some(Cow::Borrowed(c));
        }
        let y = self.weigh(c.y.view().insert_axis(Axis(1)))?.into_owned().remove_axis(Axis(1));
        let (xx, yx, yy) = (c.xx.clone(), self.weigh(c.yx.view())?.into_owned(), Array1::zeros(c.yy.len()));
        Some(Cow::Owned(Centred { xx, yx, yy, x: c.x.clone(), y, nonzero: c.nonzero.clone() }))
    }

    /// The same with the variance of Mᵀ Y: if the metric is not plain, as much as the inputs explain of it, with λ = `lambda` ·
    /// mean of the diagonal. `None` if the shape does not fit, or nothing can be solved.
    pub fn moments<'c>(&self, c: &'c Centred, lambda: f64) -> Option<Cow<'c, Centred>> {
        let mut targets = self.targets(c)?;
        if let Cow::Owned(weighed) = &mut targets {
            let best = c.xx.ridge(&weighed.yx, None, lambda)?;
            weighed.yy = (&best * &weighed.yx).sum_axis(Axis(1)).mapv(|v| v.max(0.0));
        }
        Some(targets)
    }
}

fn turned(a: Array2<f64>) -> Array2<f64> {
    a.reversed_axes().as_standard_layout().into_owned()
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
        let metric = OutputMetric::new(g.view());
        let weighed = metric.moments(&c, 1e-6).unwrap();
        let all = moved(&g, &x, &w);
        assert!((weighed.yy.sum() / all - 1.0).abs() < 0.05, "{} against {all}", weighed.yy.sum());
        assert!((scatter(&weighed, metric.weigh(w.view()).unwrap().view()).sum() / all).abs() < 1e-4);
        for terms in 1..4 {
            let [plain, ours] = [(&OutputMetric::PLAIN, &c), (&metric, &*weighed)].map(|(metric, c)| {
                let spectrum = Spectrum::new(c, metric.weigh(w.view()).unwrap().view(), terms, 1e-6).unwrap();
                let (left, right) = spectrum.factors(metric, terms).unwrap();
                moved(&g, &x, &(&w - &left.dot(&right)))
            });
            assert!(ours < 0.8 * plain, "{terms}: {ours} against {plain}");
        }
    }

    #[test]
    fn what_says_nothing_is_plain() {
        assert!(OutputMetric::new(Array2::zeros((3, 3)).view()).is_plain());
        assert!(OutputMetric::new(Array2::from_elem((3, 3), f64::NAN).view()).is_plain());
    }
}
