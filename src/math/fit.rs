//! Least-squares fits of a layer's weights to what it should give: the currency of closed-form repair.
//!
//! A layer computes Y ≈ W X + b. Everything that a rewrite needs to know of X and Y is in their second moments, so a fit,
//! and the error of any other W, costs no further look at the data. One part of the samples is for fitting; the other
//! is held back, to judge what was fitted.

mod stored;

use super::moments::{Centred, Moments, SecondMoment, TargetMoments};
use super::packed_moment::PackedMoment;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use std::sync::OnceLock;

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
pub struct GroupMoments {
    pub fit: Centred,
    pub held: Centred<PackedMoment>,
}

/// What calibration data says of a layer, or of all layers that share a weight: a part for each of its groups.
#[derive(Debug, Clone)]
pub struct LayerMoments {
    /// About the means of each set.
    pub parts: Vec<GroupMoments>,
    /// Samples that have a bias of their own: one set, unless layers share a weight and not their bias.
    sets: Vec<BiasGroup>,
    /// Columns of X that were fitted to.
    pub samples: usize,
    /// The λ that the first search found: other wanted outputs for the same inputs need no search of their own.
    lambda: OnceLock<f64>,
}

/// Samples that have the same bias.
#[derive(Debug, Clone)]
struct BiasGroup {
    /// How many are fitted to and held back.
    samples: [usize; 2],
    /// Whether they can have a bias.
    intercept: bool,
    /// For each group, the means of those that are fitted to and of those that are held back.
    means: Vec<[Mean; 2]>,
}

/// Means of inputs and of wanted outputs.
#[derive(Debug, Clone)]
struct Mean {
    x: Array1<f64>,
    y: Array1<f64>,
}

const FIT: usize = 0;
const HELD: usize = 1;

/// Weights, a matrix a group, with the bias of all groups, set after set.
#[derive(Debug, Clone)]
pub struct Fit {
    pub w: Vec<Array2<f64>>,
    pub b: Vec<f64>,
}

impl LayerMoments {
    /// Of the sums over fitted and held-back samples of every group. `None` if one is empty or not finite.
    pub fn new(parts: Vec<[Moments; 2]>, intercept: bool) -> Option<LayerMoments> {
        let samples = parts.first()?.each_ref().map(Moments::samples);
        let part = |[fit, held]: [Moments; 2]| {
            // The one that becomes smaller first.
            let held = held.centred(!intercept)?;
            Some(GroupMoments { fit: fit.centred(!intercept)?, held })
        };
        Some(LayerMoments::of_one_set(parts.into_iter().map(part).collect::<Option<_>>()?, samples, intercept))
    }

    fn of_one_set(parts: Vec<GroupMoments>, samples: [usize; 2], intercept: bool) -> LayerMoments {
        let mean = |x: &Array1<f64>, y: &Array1<f64>| Mean { x: x.clone(), y: y.clone() };
        let means = parts.iter().map(|p| [mean(&p.fit.x, &p.fit.y), mean(&p.held.x, &p.held.y)]).collect();
        let sets = vec![BiasGroup { samples, intercept, means }];
        LayerMoments { parts, sets, samples: samples[FIT], lambda: OnceLock::new() }
    }

    /// The samples of both, of as many groups and of the same shape, each with biases of its own.
    #[must_use]
    pub fn join(mut self, other: LayerMoments) -> LayerMoments {
        let share = |side| {
            let [mine, others] = [&self, &other].map(|l| l.sets.iter().map(|s| s.samples[side]).sum::<usize>() as f64);
            others / (mine + others)
        };
        let shares = [share(FIT), share(HELD)];
        for (part, other) in self.parts.iter_mut().zip(&other.parts) {
            part.fit.pool(&other.fit, shares[FIT]);
            part.held.pool(&other.held, shares[HELD]);
        }
        self.sets.extend(other.sets);
        self.samples += other.samples;
        self
    }

    /// ‖Y − W X − b‖ / ‖Y − ȳ‖ on the held-back samples, ȳ the mean of those that were fitted to.
    pub fn error(&self, fit: &Fit) -> f64 {
        self.error_on(fit, HELD)
    }

    /// The same on the samples that were fitted to.
    pub fn fitted_error(&self, fit: &Fit) -> f64 {
        self.error_on(fit, FIT)
    }

    fn error_on(&self, fit: &Fit, side: usize) -> f64 {
        let (lost, all) = self.lost_on(fit, side);
        relative(lost, all)
    }

    fn lost_on(&self, fit: &Fit, side: usize) -> (f64, f64) {
        let (mut lost, mut all) = (0.0, 0.0);
        for (group, (part, w)) in self.parts.iter().zip(&fit.w).enumerate() {
            let mut residual = if side == FIT { scatter(&part.fit, w.view()) } else { scatter(&part.held, w.view()) };
            for (set, share) in self.shares(side) {
                let off = self.off(fit, set, group, side);
                residual += &off.mapv(|d| share * (d * d));
            }
            lost += residual.sum();
            all += self.spread(group, side);
        }
        (lost, all)
    }

    /// Every set with its share of the samples.
    fn shares(&self, side: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let all: usize = self.sets.iter().map(|s| s.samples[side]).sum();
        self.sets.iter().enumerate().map(move |(i, s)| (i, s.samples[side] as f64 / all as f64))
    }

    /// ȳ − W x̄ − b of a set.
    fn off(&self, fit: &Fit, set: usize, group: usize, side: usize) -> Array1<f64> {
        let Mean { x, y } = &self.sets[set].means[group][side];
        y - &fit.w[group].dot(x) - ArrayView1::from(self.bias_of(fit, set, group))
    }

    /// The biases of a set in a group.
    pub fn bias_of<'f>(&self, fit: &'f Fit, set: usize, group: usize) -> &'f [f64] {
        let first = (set * self.parts.len() + group) * self.outputs();
        &fit.b[first..first + self.outputs()]
    }

    /// Σ ‖Y − ȳ‖² a sample of one of the two sides; where outputs do not vary, what rounding makes of them.
    fn spread(&self, group: usize, side: usize) -> f64 {
        let part = &self.parts[group];
        let yy = if side == FIT { &part.fit.yy } else { &part.held.yy };
        let (mut spread, mut square) = (yy.sum(), 0.0);
        for (set, share) in self.shares(side) {
            let means = &self.sets[set].means[group];
            spread += share * (&means[side].y - &means[FIT].y).mapv(|d| d * d).sum();
            square += share * means[side].y.dot(&means[side].y);
        }
        spread.max(ROUNDING * square)
    }

    /// The inputs of a set with other wanted outputs. `None` if they are not as many, or not finite.
    pub fn retarget(&self, set: usize, parts: Vec<[TargetMoments; 2]>) -> Option<LayerMoments> {
        let &BiasGroup { samples, intercept, .. } = self.sets.get(set)?;
        let part = |(old, [fit, held]): (&GroupMoments, [TargetMoments; 2])| {
            Some(GroupMoments { fit: fit.replace(&old.fit, !intercept)?, held: held.replace(&old.held, !intercept)? })
        };
        let parts = self.parts.iter().zip(parts).map(part).collect::<Option<_>>()?;
        Some(LayerMoments { lambda: self.lambda.clone(), ..LayerMoments::of_one_set(parts, samples, intercept) })
    }

    /// Outputs of a group.
    pub fn outputs(&self) -> usize {
        self.parts.first().map_or(1, |p| p.fit.y.len()).max(1)
    }

    /// The weights of least error, drawn to `prior` where the data does not say: ridge regression. `None` if a matrix has
    /// not the shape of its group, or nothing can be solved.
    pub fn ridge(&self, prior: &Fit) -> Option<Fit> {
        self.best_ridge(|lambda| {
            let solved = |(p, w): (&GroupMoments, &Array2<f64>)| p.fit.xx.ridge(&p.fit.yx, Some(w), lambda);
            let w = self.parts.iter().zip(&prior.w).map(solved).collect::<Option<Vec<_>>>()?;
            Some(((), self.with_bias(w)))
        })
        .map(|found| found.1)
    }

    /// The λ that [`LayerMoments::best_ridge`] found; the least one before that was asked for.
    pub fn lambda(&self) -> f64 {
        self.lambda.get().copied().unwrap_or(RIDGES[0])
    }

    /// The result of `solve` at the smallest λ from which a larger one does not generalize better.
    pub fn best_ridge<F>(&self, solve: impl Fn(f64) -> Option<(F, Fit)>) -> Option<(F, Fit)> {
        if let Some(found) = self.lambda.get().and_then(|&lambda| solve(lambda)) {
            return Some(found);
        }
        let mut best: Option<(f64, f64, (F, Fit))> = None;
        for lambda in RIDGES {
            let Some((form, fit)) = solve(lambda) else { continue };
            let error = self.error(&fit);
            let overfit = error > OVERFIT * self.fitted_error(&fit);
            match &best {
                Some((least, ..)) if *least <= error => break,
                _ => best = Some((error, lambda, (form, fit))),
            }
            if !overfit {
                break;
            }
        }
        let (_, lambda, found) = best?;
        self.lambda.get_or_init(|| lambda);
        Some(found)
    }

    /// The weights with the bias that makes means agree: b = ȳ − W x̄.
    pub fn with_bias(&self, w: Vec<Array2<f64>>) -> Fit {
        let of_set = |set: &BiasGroup| -> Vec<f64> {
            let biases =
                set.means.iter().zip(&w).flat_map(|(means, w)| (&means[FIT].y - &w.dot(&means[FIT].x)).to_vec());
            if set.intercept { biases.collect() } else { vec![0.0; self.outputs() * w.len()] }
        };
        Fit { b: self.sets.iter().flat_map(of_set).collect(), w }
    }

    /// The weights with a factor on every output that gives it the standard deviation that it should have, and the biases
    /// that make the means agree, on the samples that are fitted to.
    pub fn matched(&self, fit: &Fit) -> Fit {
        let scaled = |(part, w): (&GroupMoments, &Array2<f64>)| {
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
        for (group, (part, w)) in self.parts.iter().zip(&fit.w).enumerate() {
            for (set, share) in self.shares(HELD) {
                let means = self.off(fit, set, group, HELD);
                off += share * means.dot(&means);
            }
            let spreads = part.held.yy.mapv(f64::sqrt) - variances(&part.held, w.view()).mapv(f64::sqrt);
            off += spreads.dot(&spreads);
            all += self.spread(group, HELD);
        }
        relative(off, all)
    }

    /// Σ ‖Y − W X − b‖² a sample over the held-back samples, and Σ ‖Y − ȳ‖², ȳ as in [`Layer::error`].
    pub fn held_back(&self, fit: &Fit) -> (f64, f64) {
        self.lost_on(fit, HELD)
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
fn variances(c: &Centred<impl SecondMoment>, w: ArrayView2<'_, f64>) -> Array1<f64> {
    let seen = c.xx.times(w);
    Array1::from_shape_fn(w.nrows(), |o| seen.row(o).dot(&w.row(o)).max(0.0))
}

/// E (y − w x)² of every output, about the means.
pub fn scatter(c: &Centred<impl SecondMoment>, w: ArrayView2<'_, f64>) -> Array1<f64> {
    let seen = c.xx.times(w);
    Array1::from_shape_fn(w.nrows(), |o| {
        let (w, seen, yx) = (w.row(o), seen.row(o), c.yx.row(o));
        c.yy[o] + w.iter().zip(seen).zip(yx).map(|((w, s), yx)| w * (s - 2.0 * yx)).sum::<f64>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::testing::noise;

    /// Where outputs are noise, fits to a few samples ask for a large ridge; where there are enough, for the least.
    #[test]
    fn few_samples_ask_for_a_ridge() {
        let lambda = |samples: usize| {
            let moments = |seed: u64, samples: usize| {
                let mut moments = Moments::new(40, 3);
                let [x, y] = [noise(40, samples, seed), noise(3, samples, seed + 1)].map(|m| m.mapv(|v| v as f32));
                moments.add(x.view(), y.view()).expect("fits");
                moments
            };
            let layer = LayerMoments::new(vec![[moments(1, samples), moments(3, 500)]], true).expect("finite");
            layer.ridge(&Fit { w: vec![Array2::zeros((3, 40))], b: vec![0.0; 3] }).expect("solvable");
            layer.lambda()
        };
        assert!(lambda(30) == RIDGES[3] && lambda(20_000) == RIDGES[0], "{} {}", lambda(30), lambda(20_000));
    }

    /// Layers that share a weight get the weight that serves all, and each its own bias.
    #[test]
    fn sets_have_biases_of_their_own() {
        let w = noise(3, 5, 1);
        let layer = |seed: u64, samples: usize, b: f64| {
            let moments = |seed: u64| {
                let x = noise(5, samples, seed) + b;
                let mut moments = Moments::new(5, 3);
                let y = w.dot(&x) + b;
                moments.add(x.mapv(|v| v as f32).view(), y.mapv(|v| v as f32).view()).expect("fits");
                moments
            };
            LayerMoments::new(vec![[moments(seed), moments(seed + 1)]], true).expect("finite")
        };
        let all = layer(2, 40, 0.5).join(layer(4, 60, -2.0));
        let fit = all.ridge(&Fit { w: vec![Array2::zeros((3, 5))], b: vec![0.0; 6] }).expect("solvable");
        assert!((&fit.w[0] - &w).iter().all(|d| d.abs() < 1e-2), "{}", fit.w[0]);
        let right = Fit { w: vec![w.clone()], b: vec![0.5, 0.5, 0.5, -2.0, -2.0, -2.0] };
        assert!(all.with_bias(vec![w]).b.iter().zip(&right.b).all(|(a, b)| (a - b).abs() < 1e-5));
        assert!(all.error(&right) < 1e-3 && all.fitted_error(&right) < 1e-3 && all.samples == 100);
        let swapped = Fit { b: right.b.iter().rev().copied().collect(), ..right };
        assert!(all.error(&swapped) > 0.5);
    }
}
