//! Least-squares fits of a layer's weights to what it should give: the currency of closed-form repair.
//!
//! A layer computes Y ≈ W X + b. Everything that a rewrite needs to know of X and Y is in their second moments, so a fit,
//! and the error of any other W, costs no further look at the data. One part of the samples is for fitting; the other
//! is held back, to judge what was fitted.

use super::moments::{Centred, Moments, Retarget};
use super::{ridge, solve};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// λ of the ridge, as a share of the mean of the diagonal; where that fits much better than it generalizes, ten times as
/// much, and so on.
const RIDGES: [f64; 4] = [1e-4, 1e-3, 1e-2, 1e-1];
/// Held-back error over fitted error above which a larger λ is tried.
const OVERFIT: f64 = 1.1;
/// Variance of an output that does not vary, as a share of its square: 0 but for the rounding of what it is computed from.
const ROUNDING: f64 = 1e-6;
/// A factor on an output beyond this, or below its inverse, comes of data that says nothing.
const MAX_FACTOR: f64 = 1e3;

/// The moments of one layer, or of one group of a convolution in groups.
#[derive(Debug, Clone)]
pub struct Part {
    pub fit: Centred,
    pub held: Centred,
}

/// What calibration data says of a layer: a part for each of its groups.
#[derive(Debug, Clone)]
pub struct Layer {
    pub parts: Vec<Part>,
    /// Whether the layer can have a bias.
    intercept: bool,
    /// Columns of X that were fitted to.
    pub samples: usize,
}

/// Weights, a matrix a group, with the bias of all groups.
#[derive(Debug, Clone)]
pub struct Fit {
    pub w: Vec<Array2<f64>>,
    pub b: Vec<f64>,
}

impl Layer {
    /// Of the sums over fitted and held-back samples of every group. `None` if one is empty or not finite.
    pub fn new(parts: Vec<[Moments; 2]>, intercept: bool) -> Option<Layer> {
        let samples = parts.first()?[0].samples();
        let part =
            |[fit, held]: [Moments; 2]| Some(Part { fit: fit.centred(!intercept)?, held: held.centred(!intercept)? });
        Some(Layer { parts: parts.into_iter().map(part).collect::<Option<_>>()?, intercept, samples })
    }

    /// ‖Y − W X − b‖ / ‖Y − ȳ‖ on the held-back samples, ȳ the mean of those that were fitted to.
    pub fn error(&self, fit: &Fit) -> f64 {
        self.error_on(fit, |p| &p.held)
    }

    /// The same on the samples that were fitted to.
    pub fn fitted_error(&self, fit: &Fit) -> f64 {
        self.error_on(fit, |p| &p.fit)
    }

    fn error_on(&self, fit: &Fit, side: impl Fn(&Part) -> &Centred) -> f64 {
        let (lost, all) = self.lost_on(fit, side);
        relative(lost, all)
    }

    fn lost_on(&self, fit: &Fit, side: impl Fn(&Part) -> &Centred) -> (f64, f64) {
        let (mut lost, mut all) = (0.0, 0.0);
        for ((part, w), b) in self.parts.iter().zip(&fit.w).zip(fit.b.chunks(self.outputs())) {
            let c = side(part);
            lost += residual(c, w.view(), ArrayView1::from(b)).sum();
            all += part.spread(c);
        }
        (lost, all)
    }

    /// The same inputs with other wanted outputs. `None` if they are not as many, or not finite.
    pub fn retarget(&self, parts: Vec<[Retarget; 2]>) -> Option<Layer> {
        let part = |(old, [fit, held]): (&Part, [Retarget; 2])| {
            Some(Part { fit: fit.replace(&old.fit, !self.intercept)?, held: held.replace(&old.held, !self.intercept)? })
        };
        let parts = self.parts.iter().zip(parts).map(part).collect::<Option<_>>()?;
        Some(Layer { parts, ..*self })
    }

    /// Outputs of a group.
    pub fn outputs(&self) -> usize {
        self.parts.first().map_or(1, |p| p.fit.y.len()).max(1)
    }

    /// The weights of least error, drawn to `prior` where the data does not say: ridge regression. `None` if a matrix has
    /// not the shape of its group, or nothing can be solved.
    pub fn ridge(&self, prior: &Fit) -> Option<Fit> {
        self.best_ridge(|lambda| {
            let solved = |(p, w): (&Part, &Array2<f64>)| ridge(&p.fit.xx, &p.fit.yx, Some(w), lambda);
            let w = self.parts.iter().zip(&prior.w).map(solved).collect::<Option<Vec<_>>>()?;
            Some(((), self.with_bias(w)))
        })
        .map(|found| found.1)
    }

    /// The result of `solve` at the smallest λ from which a larger one does not generalize better.
    pub fn best_ridge<F>(&self, solve: impl Fn(f64) -> Option<(F, Fit)>) -> Option<(F, Fit)> {
        let mut best: Option<(f64, (F, Fit))> = None;
        for lambda in RIDGES {
            let Some((form, fit)) = solve(lambda) else { continue };
            let error = self.error(&fit);
            let overfit = error > OVERFIT * self.fitted_error(&fit);
            match &best {
                Some((least, _)) if *least <= error => break,
                _ => best = Some((error, (form, fit))),
            }
            if !overfit {
                break;
            }
        }
        best.map(|b| b.1)
    }

    /// The weights with the bias that makes means agree: b = ȳ − W x̄.
    pub fn with_bias(&self, w: Vec<Array2<f64>>) -> Fit {
        let biases = self.parts.iter().zip(&w).flat_map(|(p, w)| (&p.fit.y - &w.dot(&p.fit.x)).to_vec());
        Fit { b: if self.intercept { biases.collect() } else { vec![0.0; self.outputs() * w.len()] }, w }
    }

    /// The weights with a factor on every output that gives it the standard deviation that it should have, and the biases
    /// that make the means agree, on the samples that are fitted to.
    pub fn matched(&self, fit: &Fit) -> Fit {
        let scaled = |(part, w): (&Part, &Array2<f64>)| {
            let has = variances(&part.fit, w.view());
            let factors = part.fit.yy.iter().zip(has).map(|(wanted, has)| (wanted / has).sqrt());
            let sound = factors.map(|g| if (1.0 / MAX_FACTOR..=MAX_FACTOR).contains(&g) { g } else { 1.0 });
            w * &Array1::from_iter(sound).insert_axis(Axis(1))
        };
        self.with_bias(self.parts.iter().zip(&fit.w).map(scaled).collect())
    }

    /// How far means and standard deviations of the outputs are from what they should be on the held-back samples: the root
    /// of the sum of squares, as a share of ‖Y − ȳ‖.
    pub fn mismatch(&self, fit: &Fit) -> f64 {
        let (mut off, mut all) = (0.0, 0.0);
        for ((part, w), b) in self.parts.iter().zip(&fit.w).zip(fit.b.chunks(self.outputs())) {
            let means = &part.held.y - &w.dot(&part.held.x) - ArrayView1::from(b);
            let spreads = part.held.yy.mapv(f64::sqrt) - variances(&part.held, w.view()).mapv(f64::sqrt);
            off += means.dot(&means) + spreads.dot(&spreads);
            all += part.spread(&part.held);
        }
        relative(off, all)
    }

    /// Σ ‖Y − W X − b‖² a sample over the held-back samples, and Σ ‖Y − ȳ‖², ȳ as in [`Layer::error`].
    pub fn held_back(&self, fit: &Fit) -> (f64, f64) {
        self.lost_on(fit, |p| &p.held)
    }
}

impl Part {
    /// Σ ‖Y − ȳ‖² a sample of one of the two sides; where outputs do not vary, what rounding makes of them.
    fn spread(&self, side: &Centred) -> f64 {
        let spread = side.yy.sum() + (&side.y - &self.fit.y).mapv(|d| d * d).sum();
        spread.max(ROUNDING * side.y.dot(&side.y))
    }
}

/// The root of a lost share.
pub fn relative(lost: f64, all: f64) -> f64 {
    if all > 0.0 {
        (lost / all).max(0.0).sqrt()
    } else if lost > 0.0 {
        f64::INFINITY
    } else {
        0.0
    }
}

impl Fit {
    pub fn is_finite(&self) -> bool {
        self.w.iter().flatten().chain(&self.b).all(|v| v.is_finite())
    }
}

/// The variance of every output of W X.
fn variances(c: &Centred, w: ArrayView2<'_, f64>) -> Array1<f64> {
    let seen = solve::times(w, c.xx.view());
    Array1::from_shape_fn(w.nrows(), |o| seen.row(o).dot(&w.row(o)).max(0.0))
}

/// E (y − w x − b)² of every output.
pub fn residual(c: &Centred, w: ArrayView2<'_, f64>, b: ArrayView1<'_, f64>) -> Array1<f64> {
    let seen = solve::times(w, c.xx.view());
    let shift = &c.y - &w.dot(&c.x) - b;
    Array1::from_shape_fn(w.nrows(), |o| {
        let (w, seen, yx) = (w.row(o), seen.row(o), c.yx.row(o));
        c.yy[o] + w.iter().zip(seen).zip(yx).map(|((w, s), yx)| w * (s - 2.0 * yx)).sum::<f64>() + shift[o].powi(2)
    })
}
