//! How important units of channels are: by the weights that make them, or by what calibration data says of the layers that
//! read them.

use crate::analysis::channels::{Channels, Group};
use crate::analysis::evaluate::Evaluator;
use crate::analysis::likely;
use crate::analysis::linear::Linear;
use crate::ir::{Graph, NodeId, Op, Tensor, ValueId};
use crate::math::worth;
use crate::passes::refit::current;
use crate::passes::{Fitted, LayerAnswers, Measure, SensitivityQuery};
use ndarray::s;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// What makes a unit important.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// The sum of the magnitudes of the weights that make it. (Li et al. 2017, Pruning Filters for Efficient ConvNets.)
    L1,
    /// The root of the sum of their squares.
    L2,
    /// The mean of its square where it is read.
    ActivationEnergy,
    /// How often it is not zero where it is read.
    NonzeroShare,
    /// How much of what its readers give it alone could give.
    Fidelity,
    /// What its readers lose for good when it goes.
    Schur,
}

impl Importance {
    pub const WITHOUT_DATA: Importance = Importance::L1;
    pub const WITH_DATA: Importance = Importance::Schur;

    /// As recipes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Importance::L1 => "l1",
            Importance::L2 => "l2",
            Importance::ActivationEnergy => "activation-energy",
            Importance::NonzeroShare => "nonzero-share",
            Importance::Fidelity => "fidelity",
            Importance::Schur => "schur",
        }
    }

    /// Whether it is about what flows through a unit, which only data shows.
    pub fn needs_data(self) -> bool {
        !matches!(self, Importance::L1 | Importance::L2)
    }

    /// Asks the layers that read units of these groups what the units are worth to them. The answer has a number for every
    /// position along the axis that carries the units; those of a unit add up.
    pub fn query<'a>(self, graph: &'a Graph, channels: &Channels, groups: &[&Group]) -> SensitivityQuery<'a> {
        let open: HashSet<u32> = groups.iter().flat_map(|g| g.units.iter().copied()).collect();
        let mut readers: HashMap<NodeId, Vec<u32>> = readers(graph, channels).into_iter().collect();
        readers.retain(|_, units| units.iter().any(|u| open.contains(u)));
        let layers = readers.keys().copied().collect();
        let note = move |fitted: &Fitted<'_>| {
            let units = readers.get(&fitted.linear.node).ok_or("it reads no channels")?;
            self.worth(graph, fitted, units, &open)
        };
        SensitivityQuery { measure: Measure::Saliency, layers, note: Box::new(note) }
    }

    /// What the units at the positions of a layer's input are worth to it, as far as they are `open`: the others stay.
    fn worth(self, graph: &Graph, fitted: &Fitted<'_>, units: &[u32], open: &HashSet<u32>) -> Result<Vec<f64>, String> {
        let (linear, layer) = (fitted.linear, fitted.layer);
        let channels = linear.inputs / linear.taps;
        if units.len() != linear.groups * channels {
            return Err("it sums over something else than channels".into());
        }
        let mut number: HashMap<u32, usize> = HashMap::new();
        let mut sizes: Vec<f64> = Vec::new();
        let mut columns: Vec<Vec<Vec<usize>>> = vec![Vec::new(); linear.groups];
        for (position, unit) in units.iter().enumerate().filter(|(_, u)| open.contains(u)) {
            let next = number.len();
            let u = *number.entry(*unit).or_insert(next);
            columns.iter_mut().for_each(|c| c.resize(c.len().max(u + 1), Vec::new()));
            sizes.resize(sizes.len().max(u + 1), 0.0);
            sizes[u] += 1.0;
            let first = position % channels * linear.taps;
            columns[position / channels][u].extend(first..first + linear.taps);
        }
        let fit = current(graph, linear)?;
        let worth = match self {
            Importance::NonzeroShare => worth::nonzero(layer, &columns),
            Importance::Fidelity => worth::fidelity(layer, &fit, &columns),
            Importance::Schur => {
                let parts = fitted.in_metric(&fit.w);
                parts.and_then(|parts| worth::removal(&parts, &columns)).ok_or("its moments have no inverse")?
            }
            Importance::ActivationEnergy | Importance::L1 | Importance::L2 => worth::energy(layer, &columns),
        };
        Ok(units.iter().map(|u| number.get(u).map_or(0.0, |&u| worth[u] / sizes[u])).collect())
    }
}

/// Layers that sum over channels, each with the units of what it reads, by position: recurrent ones read their own, too.
fn readers(graph: &Graph, channels: &Channels) -> Vec<(NodeId, Vec<u32>)> {
    let data = channels.contractions().iter().filter(|c| c.slot == 0 || matches!(graph.node(c.node).op, Op::Rnn(_)));
    data.filter_map(|c| Some((c.node, channels.units(graph.input(c.node, c.slot)?, c.axis)?))).collect()
}

/// What the readers of each of these units are likely to lose of their output when all of them go: the reader that loses
/// most. Where no data tells.
pub fn likely_losses(graph: &Graph, channels: &Channels, gone: &HashSet<u32>) -> HashMap<u32, f64> {
    let mut losses: HashMap<u32, f64> = HashMap::new();
    for (node, units) in readers(graph, channels) {
        let removed: Vec<usize> = (0..units.len()).filter(|&i| gone.contains(&units[i])).collect();
        let Ok(linear) = Linear::of(graph, node) else { continue };
        let channels = linear.inputs / linear.taps;
        if removed.is_empty() || units.len() != linear.groups * channels {
            continue;
        }
        let error = graph.value(linear.weight).constant().and_then(|weight| {
            let mut after = linear.matrices(weight)?;
            for i in &removed {
                let first = i % channels * linear.taps;
                after[i / channels].slice_mut(s![.., first..first + linear.taps]).fill(0.0);
            }
            likely::output_error(graph, &linear, &after)
        });
        for (i, error) in removed.into_iter().zip(error.into_iter().cycle()) {
            losses.entry(units[i]).and_modify(|most| *most = most.max(error)).or_insert(error);
        }
    }
    losses
}

/// Scores of the units of a graph.
pub struct Scores<'a> {
    channels: &'a Channels,
    importance: Importance,
    norms: Norms<'a>,
    /// What the readers of each unit said, for an importance that needs data.
    said: HashMap<u32, Vec<(NodeId, f64)>>,
    /// Why a reader of a unit said nothing.
    silent: HashMap<u32, String>,
}

/// Whose output is lost when a unit goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loser {
    /// A layer that reads it.
    Reader(NodeId),
    /// What makes it, known by the first unit of its group.
    Group(u32),
}

/// Scores of a group's units, and how they were found where that is worth a word.
pub struct Scored {
    pub scores: Vec<f64>,
    /// For every unit, who loses what share of its output with it, as it is predicted; those of several units add up.
    pub losses: Vec<Vec<(Loser, f64)>>,
    pub how: String,
}

impl<'a> Scores<'a> {
    pub fn of(graph: &'a Graph, channels: &'a Channels, importance: Importance, told: Option<&LayerAnswers>) -> Self {
        let norm = if importance == Importance::L2 { WeightNorm::L2 } else { WeightNorm::L1 };
        let mut said: HashMap<u32, Vec<(NodeId, f64)>> = HashMap::new();
        let mut silent = HashMap::new();
        let readers = if importance.needs_data() { readers(graph, channels) } else { Vec::new() };
        for (node, units) in readers {
            match told.and_then(|told| told.get(&(node, Measure::Saliency))) {
                Some(Ok(numbers)) => {
                    for (u, n) in units.into_iter().zip(numbers) {
                        let of_unit = said.entry(u).or_default();
                        match of_unit.last_mut().filter(|last| last.0 == node) {
                            Some(last) => last.1 += n,
                            None => of_unit.push((node, *n)),
                        }
                    }
                }
                other => {
                    let why = other.and_then(|a| a.as_ref().err()).map_or("no weights can be fitted for it", |w| w);
                    let why = format!("\"{}\" could not be asked: {why}", graph.label(node));
                    units.into_iter().for_each(|u| _ = silent.entry(u).or_insert_with(|| why.clone()));
                }
            }
        }
        Scores { channels, importance, norms: Norms::of(graph, norm), said, silent }
    }

    /// The scores of a group's units. Where data is wanted and no reader of some unit could be asked, by the weights.
    ///
    /// # Errors
    /// If a weight is not float, or made by what cannot be computed.
    pub fn scores(&mut self, group: &Group) -> Result<Scored, String> {
        let mut how = String::new();
        if self.importance.needs_data() {
            let said: Option<Vec<_>> = group.units.iter().map(|u| self.said.get(u)).collect();
            if let Some(said) = said {
                let scores: Vec<f64> = said.iter().map(|readers| readers.iter().map(|r| r.1).sum()).collect();
                let losses = match self.importance {
                    Importance::Schur => {
                        let readers = |r: &[(NodeId, f64)]| r.iter().map(|&(n, l)| (Loser::Reader(n), l)).collect();
                        let mut losses: Vec<Vec<_>> = said.iter().map(|r| readers(r.as_slice())).collect();
                        // A reader that could not be asked loses, too: by the weights, as where nobody could be.
                        if group.units.iter().any(|u| self.silent.contains_key(u)) {
                            let norms = self.norms.scores(self.channels, group)?;
                            let unasked = shares(group, &norms.iter().map(|s| s * s).collect::<Vec<_>>());
                            losses.iter_mut().zip(unasked).for_each(|(own, more)| own.extend(more));
                        }
                        losses
                    }
                    _ => shares(group, &scores),
                };
                return Ok(Scored { scores, losses, how: format!(", by {}", self.importance.name()) });
            }
            let why = group.units.iter().find_map(|u| self.silent.get(u)).map_or("nothing sums over them", |w| w);
            how = format!(", by l1: {why}");
        }
        let scores = self.norms.scores(self.channels, group)?;
        let losses = shares(group, &scores.iter().map(|s| s * s).collect::<Vec<_>>());
        Ok(Scored { scores, losses, how })
    }
}

/// The losses where nothing but the units of the group themselves is known: each unit's share of all their energy.
fn shares(group: &Group, energy: &[f64]) -> Vec<Vec<(Loser, f64)>> {
    let all: f64 = energy.iter().filter(|e| e.is_finite()).sum();
    let whose = Loser::Group(group.units.first().copied().unwrap_or(0));
    let share = |&e: &f64| vec![(whose, if e.is_finite() && all > 0.0 { e / all } else { 0.0 })];
    energy.iter().map(share).collect()
}

/// Norms of the weights along the axes that make channels, each computed once.
struct Norms<'a> {
    constants: Evaluator<'a>,
    graph: &'a Graph,
    norm: WeightNorm,
    sums: HashMap<(ValueId, usize), Result<Vec<f64>, String>>,
}

impl<'a> Norms<'a> {
    fn of(graph: &'a Graph, norm: WeightNorm) -> Norms<'a> {
        Norms { constants: Evaluator::of(graph), graph, norm, sums: HashMap::new() }
    }

    /// A norm of the weights that make each unit of a group.
    ///
    /// # Errors
    /// If a weight is not float, or made by what cannot be computed.
    fn scores(&mut self, channels: &Channels, group: &Group) -> Result<Vec<f64>, String> {
        let mut sums: HashMap<u32, f64> = group.units.iter().map(|&u| (u, 0.0)).collect();
        for &(weight, axis) in &group.weights {
            let units = channels.units(weight, axis).unwrap_or_default();
            for (unit, sum) in units.into_iter().zip(self.along(weight, axis)?) {
                sums.entry(unit).and_modify(|total| *total += sum);
            }
        }
        Ok(group.units.iter().map(|u| self.norm.finish(sums[u])).collect())
    }

    /// For every position of a weight's axis, the sum over the weights there.
    fn along(&mut self, weight: ValueId, axis: usize) -> Result<Vec<f64>, String> {
        if let Some(known) = self.sums.get(&(weight, axis)) {
            return known.clone();
        }
        let name = &self.graph.value(weight).name;
        let sums = match self.constants.tensor(weight) {
            None => Err(format!("its weight \"{name}\" is made by operators that tutee cannot compute")),
            Some(t) => self.norm.along(&t, axis).ok_or_else(|| format!("its weight \"{name}\" is {}", t.dtype())),
        };
        self.sums.insert((weight, axis), sums.clone());
        sums
    }
}

/// A norm of weights.
#[derive(Debug, Clone, Copy)]
enum WeightNorm {
    L1,
    L2,
}

impl WeightNorm {
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
            WeightNorm::L1 => w.abs(),
            WeightNorm::L2 => w * w,
        }
    }

    fn finish(self, sum: f64) -> f64 {
        match self {
            WeightNorm::L1 => sum,
            WeightNorm::L2 => sum.sqrt(),
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
        assert_eq!(WeightNorm::L1.along(&t, 0).unwrap(), [6.0, 15.0]);
        assert_eq!(WeightNorm::L1.along(&t, 1).unwrap(), [5.0, 7.0, 9.0]);
        assert_eq!(WeightNorm::L2.along(&t, 2).unwrap(), [91.0]);
        assert_eq!(WeightNorm::L2.along(&Tensor::f32([0, 3], &[]), 1).unwrap(), [0.0; 3]);
        assert_eq!(WeightNorm::L1.along(&Tensor::i64([2], &[1, 2]), 0), None);
        assert_eq!(relative(&[1.0, f64::NAN, 5.0]), [0.5, 0.0, 2.5]);
        assert_eq!(relative(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
