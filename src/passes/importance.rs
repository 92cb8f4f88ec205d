//! How important units of channels are.

use crate::analysis::channels::{Channels, Group};
use crate::analysis::evaluate::Evaluator;
use crate::ir::{Graph, Tensor, ValueId};
use serde::Deserialize;
use std::collections::HashMap;

/// What makes a unit important. (Li et al. 2017, Pruning Filters for Efficient ConvNets.)
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// The sum of the magnitudes of the weights that make it.
    #[default]
    L1,
    /// The root of the sum of their squares.
    L2,
}

/// Norms of the weights along the axes that make channels, each computed once.
pub struct Norms<'a> {
    constants: Evaluator<'a>,
    graph: &'a Graph,
    importance: Importance,
    sums: HashMap<(ValueId, usize), Result<Vec<f64>, String>>,
}

impl<'a> Norms<'a> {
    pub fn of(graph: &'a Graph, importance: Importance) -> Norms<'a> {
        Norms { constants: Evaluator::of(graph), graph, importance, sums: HashMap::new() }
    }

    /// The importance of a group's units: a norm of the weights that make them.
    ///
    /// # Errors
    /// If a weight is not float, or made by what cannot be computed.
    pub fn scores(&mut self, channels: &Channels, group: &Group) -> Result<Vec<f64>, String> {
        let mut sums: HashMap<u32, f64> = group.units.iter().map(|&u| (u, 0.0)).collect();
        for &(weight, axis) in &group.weights {
            let units = channels.units(weight, axis).unwrap_or_default();
            for (unit, sum) in units.into_iter().zip(self.along(weight, axis)?) {
                sums.entry(unit).and_modify(|total| *total += sum);
            }
        }
        Ok(group.units.iter().map(|u| self.importance.finish(sums[u])).collect())
    }

    /// For every position of a weight's axis, the sum over the weights there.
    fn along(&mut self, weight: ValueId, axis: usize) -> Result<Vec<f64>, String> {
        if let Some(known) = self.sums.get(&(weight, axis)) {
            return known.clone();
        }
        let name = &self.graph.value(weight).name;
        let sums = match self.constants.tensor(weight) {
            None => Err(format!("its weight \"{name}\" is made by operators that tutee cannot compute")),
            Some(t) => self.importance.along(&t, axis).ok_or_else(|| format!("its weight \"{name}\" is {}", t.dtype())),
        };
        self.sums.insert((weight, axis), sums.clone());
        sums
    }
}

impl Importance {
    fn along(self, t: &Tensor, axis: usize) -> Option<Vec<f64>> {
        let (values, n) = (t.floats()?, *t.shape().get(axis)?);
        let inner: usize = t.shape()[axis + 1..].iter().product();
        let mut sums = vec![0.0; n];
        for (i, run) in values.chunks(inner.max(1)).enumerate() {
            sums[i % n] += run.iter().map(|&w| self.of(w)).sum::<f64>();
        }
        Some(sums)
    }

    fn of(self, w: f64) -> f64 {
        match self {
            Importance::L1 => w.abs(),
            Importance::L2 => w * w,
        }
    }

    fn finish(self, sum: f64) -> f64 {
        match self {
            Importance::L1 => sum,
            Importance::L2 => sum.sqrt(),
        }
    }
}

/// Scores over their mean, so that groups compare; NaN counts as nothing.
pub fn relative(scores: &[f64]) -> Vec<f64> {
    let finite: Vec<f64> = scores.iter().map(|&s| if s.is_finite() { s } else { 0.0 }).collect();
    let mean = finite.iter().sum::<f64>() / finite.len().max(1) as f64;
    finite.iter().map(|s| if mean > 0.0 { s / mean } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_taken_across_the_other_axes() {
        let t = Tensor::f32([2, 3, 1], &[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]);
        assert_eq!(Importance::L1.along(&t, 0).unwrap(), [6.0, 15.0]);
        assert_eq!(Importance::L1.along(&t, 1).unwrap(), [5.0, 7.0, 9.0]);
        assert_eq!(Importance::L2.along(&t, 2).unwrap(), [91.0]);
        assert_eq!(Importance::L2.along(&Tensor::f32([0, 3], &[]), 1).unwrap(), [0.0; 3]);
        assert_eq!(Importance::L1.along(&Tensor::i64([2], &[1, 2]), 0), None);
        assert_eq!(relative(&[1.0, f64::NAN, 5.0]), [0.5, 0.0, 2.5]);
        assert_eq!(relative(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
