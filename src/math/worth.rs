//! What the inputs of a layer are worth to it, units of them at a time: what is lost when a unit goes.
//!
//! A unit is a set of columns of W in every part of the layer: `units[part][unit]` are its columns there.

use super::fit::{Fit, GroupMoments, LayerMoments};
use super::moments::Centred;
use super::solve::{cholesky_lower, inverse};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use ndarray::{Array2, ArrayView2, CowArray, Ix2};
use rayon::prelude::*;

/// λ of the refit that makes up for a unit, as a share of the mean diagonal.
const RIDGE: f64 = 1e-4;

/// Columns that one task changes.
const COLUMNS: usize = 128;

/// What is gone is let go of when it is more than one in so many columns.
const SPARE: usize = 4;

/// Columns of W by part and unit.
pub type Units = [Vec<Vec<usize>>];

/// E x² of every unit, the mean of its columns.
pub fn energy(layer: &LayerMoments, units: &Units) -> Vec<f64> {
    means(layer, units, |p, i| p.fit.xx[(i, i)] + p.fit.x[i].powi(2))
}

/// How often x is not zero, the mean of a unit's columns. (Hu et al. 2016, Network Trimming: 1 − APoZ.)
pub fn nonzero(layer: &LayerMoments, units: &Units) -> Vec<f64> {
    means(layer, units, |p, i| p.fit.nonzero[i])
}

fn means(layer: &LayerMoments, units: &Units, of: impl Fn(&GroupMoments, usize) -> f64) -> Vec<f64> {
    let count = units.first().map_or(0, Vec::len);
    let one = |u: usize| {
        let columns = || layer.parts.iter().zip(units).flat_map(|(p, units)| units[u].iter().map(move |&i| (p, i)));
        columns().map(|(p, i)| of(p, i)).sum::<f64>() / columns().count().max(1) as f64
    };
    (0..count).map(one).collect()
}

/// ⟨a, y⟩² / (|a|² |y|²) of what every unit adds to the outputs, a, and the wanted outputs, y, about their means: how much
/// of y a alone could give. (ModHiFi 2025.)
pub fn fidelity(layer: &LayerMoments, fit: &Fit, units: &Units) -> Vec<f64> {
    let all: f64 = layer.parts.iter().map(|p| p.fit.yy.sum()).sum();
    let count = units.first().map_or(0, Vec::len);
    let one = |u: usize| {
        let (mut along, mut own) = (0.0, 0.0);
        for ((p, w), units) in layer.parts.iter().zip(&fit.w).zip(units) {
            for &i in &units[u] {
                along += w.column(i).dot(&p.fit.yx.column(i));
                own += units[u].iter().map(|&j| w.column(i).dot(&w.column(j)) * p.fit.xx[(i, j)]).sum::<f64>();
            }
        }
        if own > 0.0 && all > 0.0 { along * along / (own * all) } else { 0.0 }
    };
    (0..count).map(one).collect()
}

/// The share of the outputs' variance that is lost when a unit goes and the weights of the others make up for it, as units
/// go one after the other, the least loss first. `None` if the moments have no inverse.
/// (Hassibi & Stork 1993, Optimal Brain Surgeon, by blocks: tr W_c ((G⁻¹)_cc)⁻¹ W_cᵀ.)
pub fn removal(parts: &[(&Centred, CowArray<'_, f64, Ix2>)], units: &Units) -> Option<Vec<f64>> {
    let states = parts.iter().zip(units).map(|((c, w), units)| PrunedPart::new(c, w.view(), units));
    let mut states: Vec<PrunedPart<'_>> = states.collect::<Option<_>>()?;
    let all: f64 = parts.iter().map(|(c, _)| c.yy.sum()).sum();
    let count = units.first().map_or(0, Vec::len);
    let mut scores = vec![0.0; count];
    let mut left: Vec<usize> = (0..count).collect();
    let mut so_far = 0.0f64;
    while !left.is_empty() {
        let losses: Vec<f64> = left.par_iter().map(|&u| states.iter().map(|s| s.loss(u)).sum()).collect();
        let least = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |l| l.0);
        let u = left.remove(least);
        // What goes later is worth no less.
        so_far = so_far.max(losses[least]);
        scores[u] = if all > 0.0 { so_far / all } else { 0.0 };
        states.iter_mut().for_each(|s| s.remove(u));
    }
    Some(scores)
}

/// A part of a layer from which some units are gone.
struct PrunedPart<'a> {
    units: &'a [Vec<usize>],
    /// The columns of the part that are here, and where each of the part's is among them.
    here: Vec<usize>,
    places: Vec<usize>,
    /// Columns that are here and gone.
    gone: Vec<bool>,
    /// Of C_xx + λI, the inverse over what is left; what is gone is not looked at any more. Right on the diagonal and below.
    inverse: Mat<f64>,
    /// The weights that make up for what is gone.
    w: Mat<f64>,
    lambda: f64,
}

impl<'a> PrunedPart<'a> {
    fn new(c: &Centred, w: ArrayView2<'_, f64>, units: &'a [Vec<usize>]) -> Option<PrunedPart<'a>> {
        let n = w.ncols();
        let inverse = inverse(c.xx.view(), RIDGE)?;
        let lambda = RIDGE * c.xx.diag().sum() / n.max(1) as f64;
        let w = Mat::from_fn(w.nrows(), n, |i, j| w[(i, j)]);
        Some(PrunedPart {
            units,
            here: (0..n).collect(),
            places: (0..n).collect(),
            gone: vec![false; n],
            inverse,
            w,
            lambda,
        })
    }

    fn columns(&self, unit: usize) -> Vec<usize> {
        self.units[unit].iter().map(|&c| self.places[c]).collect()
    }

    fn inverse(&self, i: usize, j: usize) -> f64 {
        self.inverse[(i.max(j), i.min(j))]
    }

    /// The lower factor of (G⁻¹)_cc.
    fn factor(&self, columns: &[usize]) -> Option<Array2<f64>> {
        let at = |(i, j): (usize, usize)| self.inverse(columns[i], columns[j]);
        cholesky_lower(Array2::from_shape_fn((columns.len(), columns.len()), at).view(), 0.0)
    }

    /// tr W_c (((G + λI)⁻¹_cc)⁻¹ − λI) W_cᵀ: λ is no loss.
    fn loss(&self, unit: usize) -> f64 {
        let columns = self.columns(unit);
        let Some(lower) = self.factor(&columns) else { return 0.0 };
        let m = self.w.nrows();
        let mut solved = vec![0.0; columns.len() * m];
        let mut lost = 0.0;
        for (i, &c) in columns.iter().enumerate() {
            let (before, rest) = solved.split_at_mut(i * m);
            let own = &mut rest[..m];
            own.iter_mut().zip(self.w.col(c).iter()).for_each(|(own, w)| *own = *w);
            lost -= self.lambda * own.iter().map(|w| w * w).sum::<f64>();
            for (j, before) in before.chunks(m.max(1)).enumerate() {
                let factor = lower[(i, j)];
                own.iter_mut().zip(before).for_each(|(own, before)| *own -= factor * before);
            }
            own.iter_mut().for_each(|own| *own /= lower[(i, i)]);
            lost += own.iter().map(|v| v * v).sum::<f64>();
        }
        lost.max(0.0)
    }

    /// W ← W − W_c ((G⁻¹)_cc)⁻¹ (G⁻¹)_c·, and G⁻¹ likewise.
    fn remove(&mut self, unit: usize) {
        let columns = self.columns(unit);
        let Some(lower) = self.factor(&columns) else { return };
        let (n, b) = (self.inverse.nrows(), columns.len());
        // R = L⁻¹ (G⁻¹)_c·, so that Rᵀ R is what the inverse loses.
        let mut r = Mat::from_fn(b, n, |i, j| self.inverse(columns[i], j));
        let mut v = Mat::from_fn(b, self.w.nrows(), |i, o| self.w[(o, columns[i])]);
        for solved in [&mut r, &mut v] {
            for j in 0..solved.ncols() {
                for i in 0..b {
                    let rest: f64 = (0..i).map(|k| lower[(i, k)] * solved[(k, j)]).sum();
                    solved[(i, j)] = (solved[(i, j)] - rest) / lower[(i, i)];
                }
            }
        }
        let blocks = |mat: &mut Mat<f64>, left: &Mat<f64>, lower: bool| {
            mat.par_col_chunks_mut(COLUMNS).zip(r.par_col_chunks(COLUMNS)).enumerate().for_each(|(i, (mat, r))| {
                let from = if lower { i * COLUMNS } else { 0 };
                let left = left.get(.., from..).transpose();
                matmul(mat.get_mut(from.., ..), Accum::Add, left, r, -1.0, Par::Seq);
            });
        };
        blocks(&mut self.inverse, &r, true);
        blocks(&mut self.w, &v, false);
        columns.into_iter().for_each(|c| self.gone[c] = true);
        if self.gone.iter().filter(|&&gone| gone).count() * SPARE > n {
            self.compact();
        }
    }

    /// Lets go of what is gone.
    fn compact(&mut self) {
        let stay: Vec<usize> = (0..self.here.len()).filter(|&c| !self.gone[c]).collect();
        self.inverse =
            Mat::from_fn(stay.len(), stay.len(), |i, j| if i < j { 0.0 } else { self.inverse[(stay[i], stay[j])] });
        self.w = Mat::from_fn(self.w.nrows(), stay.len(), |i, j| self.w[(i, stay[j])]);
        self.here = stay.iter().map(|&c| self.here[c]).collect();
        self.here.iter().enumerate().for_each(|(place, &c)| self.places[c] = place);
        self.gone = vec![false; stay.len()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::testing::noise;
    use crate::math::{Moments, ridge};

    /// Inputs of which 2 is always 0, 3 is twice 1, and the others are on their own; the layer gives Σ w x.
    fn layer(w: &Array2<f64>) -> LayerMoments {
        let mut x = noise(5, 400, 1).mapv(|v| v as f32);
        x.row_mut(2).fill(0.0);
        x.row_mut(4).iter_mut().for_each(|v| *v = v.max(0.0));
        let twice = &x.row(1) * 2.0;
        x.row_mut(3).assign(&twice);
        let mut moments = [Moments::new(5, w.nrows()), Moments::new(5, w.nrows())];
        let y = w.mapv(|v| v as f32).dot(&x);
        moments.iter_mut().for_each(|m| m.add(x.view(), y.view()).expect("fits"));
        LayerMoments::new(vec![moments], true).expect("finite")
    }

    fn parts<'a>(layer: &'a LayerMoments, fit: &'a Fit) -> Vec<(&'a Centred, CowArray<'a, f64, Ix2>)> {
        layer.parts.iter().map(|p| &p.fit).zip(fit.w.iter().map(|w| w.view().into())).collect()
    }

    fn single(n: usize) -> Vec<Vec<Vec<usize>>> {
        vec![(0..n).map(|i| vec![i]).collect()]
    }

    #[test]
    fn what_is_always_zero_is_worth_nothing() {
        let w = Array2::from_shape_fn((3, 5), |(o, i)| (o + 2 * i) as f64 - 3.5);
        let (layer, fit) = (layer(&w), Fit { w: vec![w], b: vec![0.0; 3] });
        let units = single(5);
        assert_eq!((energy(&layer, &units)[2], nonzero(&layer, &units)[2]), (0.0, 0.0));
        assert_eq!(nonzero(&layer, &units)[0], 1.0);
        assert!((nonzero(&layer, &units)[4] - 0.5).abs() < 0.1);
        assert!((energy(&layer, &units)[3] - 4.0 * energy(&layer, &units)[1]).abs() < 1e-6);
        assert_eq!(fidelity(&layer, &fit, &units)[2], 0.0);
        assert!(removal(&parts(&layer, &fit), &units).expect("solvable")[2] < 1e-12);
    }

    #[test]
    fn fidelity_is_what_one_input_could_give() {
        let w = ndarray::array![[1.0, 0.0, 7.0, 0.0, 0.0]];
        let (layer, fit) = (layer(&w), Fit { w: vec![w], b: vec![0.0] });
        let found = fidelity(&layer, &fit, &single(5));
        assert!((found[0] - 1.0).abs() < 1e-6 && found[1..].iter().all(|&f| f == 0.0), "{found:?}");
        let both = vec![vec![vec![0, 2], vec![1, 3, 4]]];
        assert!((fidelity(&layer, &fit, &both)[0] - 1.0).abs() < 1e-6);
    }

    /// One of two inputs that say the same goes for nothing; without both, half of the output is lost for good.
    #[test]
    fn one_of_two_alike_is_worth_nothing() {
        let w = ndarray::array![[1.0, 1.0, 3.0, 1.0, 1.0], [-1.0, 2.0, 1.0, 0.5, 1.0]];
        let (layer, fit) = (layer(&w), Fit { w: vec![w], b: vec![0.0; 2] });
        let scores = removal(&parts(&layer, &fit), &single(5)).expect("solvable");
        let mut alike = [scores[1], scores[3]];
        alike.sort_by(f64::total_cmp);
        assert!(alike[0] < 1e-3 && alike[1] > 0.05, "{scores:?}");
    }

    /// The loss of a unit is the error of the best fit without it.
    #[test]
    fn removal_costs_what_the_rest_cannot_make_up_for() {
        let w = Array2::from_shape_fn((4, 5), |(o, i)| ((o * 5 + i * 3) % 7) as f64 - 3.0);
        let layer = layer(&w);
        let fit = Fit { w: vec![w.clone()], b: vec![0.0; 4] };
        let units = vec![vec![vec![0, 4], vec![1, 2, 3]]];
        let scores = removal(&parts(&layer, &fit), &units).expect("solvable");
        let c = &layer.parts[0].fit;
        let without = |columns: &[usize]| {
            let keep: Vec<usize> = (0..5).filter(|i| !columns.contains(i)).collect();
            let xx = Array2::from_shape_fn((keep.len(), keep.len()), |(i, j)| c.xx[(keep[i], keep[j])]);
            let yx = Array2::from_shape_fn((4, keep.len()), |(o, j)| c.yx[(o, keep[j])]);
            let best = ridge(&xx, &yx, None, 0.0).expect("solvable");
            1.0 - (&best * &yx).sum() / c.yy.sum()
        };
        let least = without(&[0, 4]).min(without(&[1, 2, 3]));
        assert!((scores.iter().copied().fold(1.0, f64::min) - least).abs() < 1e-3, "{scores:?}, not {least}");
        // Without both nothing is left.
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{scores:?}");
    }
}
