//! What a pass may look at: the student, what the recipe selects, and what calibration data says of its layers.

use super::budget::RIDGE;
use super::choice::{LayerAnswers, Measure};
use super::options::Selected;
use crate::analysis::cost::{Cost, cost};
use crate::analysis::linear::Linear;
use crate::analysis::sizes::InputSizes;
use crate::ir::{Graph, NodeId};
use crate::math::LayerMoments;
use crate::math::fit::Fit;
use crate::math::moments::Centred;
use crate::math::output_metric::OutputMetric;
use ndarray::{Array2, CowArray, Ix2};
use std::borrow::Cow;
use std::cell::{Cell, OnceCell};

/// What a pass may look at.
pub struct Context<'a> {
    /// The student as it is.
    pub graph: &'a Graph,
    /// What the recipe selects, for passes that weigh sites against each other; the driver sees to single sites.
    pub selected: &'a Selected<'a>,
    /// Whether weights are fitted to calibration data in this step.
    pub repairs: bool,
    /// What the model's inputs are where costs are counted.
    pub sizes: &'a InputSizes,
    /// The share of a layer's output that a budget may cost it at most.
    pub max_loss: f64,
    /// What calibration data said to the pass's queries, if there is any and the pass has some.
    pub sensitivity: Option<&'a LayerAnswers>,
    /// What calibration data says of the layer at the site, if there is any.
    pub fitted: Option<Fitted<'a>>,
}

impl<'a> Context<'a> {
    /// The graph for counting costs: it has the ids of `graph`, and the sizes of its inputs.
    pub fn sized(&self) -> Cow<'a, Graph> {
        self.sizes.at(self.graph)
    }

    /// What the model costs as it is.
    pub fn cost(&self) -> Cost {
        cost(&self.sized())
    }

    /// How far the model's answers would move if each of these layers gave its means alone: by that their losses compare. `None`
    /// if it is not known of all, or the recipe weighs layers itself.
    pub fn divergences(&self, layers: &[NodeId]) -> Option<Vec<f64>> {
        let of = |&layer: &NodeId| self.measured(layer, Measure::Divergence)?.first().copied();
        if self.selected.weighs() { None } else { layers.iter().map(of).collect() }
    }

    /// What calibration data said of a layer.
    pub fn measured(&self, node: NodeId, measure: Measure) -> Option<&'a [f64]> {
        self.sensitivity?.get(&(node, measure))?.as_deref().ok()
    }
}

/// Gives a layer other outputs to aim at, after those that a fit gives.
pub type Retarget<'a> = &'a dyn Fn(&LayerMoments, &Fit) -> Option<LayerMoments>;

/// A layer with the moments of what it reads and what its teacher gives there.
#[derive(Clone, Copy)]
pub struct Fitted<'a> {
    /// The layer in the student.
    pub linear: &'a Linear,
    /// Its moments on calibration data.
    pub layer: &'a LayerMoments,
    /// The layer with the outputs nearest to a fit's that are as good as the teacher's to what reads them; absent where only
    /// the teacher's own will do.
    pub retarget: Option<Retarget<'a>>,
    /// What errors of its outputs do to the model's answers; plain where that is not known.
    pub metric: &'a LayerMetric,
    /// Where it is noted what a repair did to the layer's error, for the report.
    pub judged: &'a Cell<Option<Judged>>,
}

/// The metric of a layer's outputs.
pub struct LayerMetric {
    /// What errors of them do to the model's answers.
    pub outputs: OutputMetric,
    /// The moments in it, once they were asked for, if it is not plain.
    moments: OnceCell<Option<Vec<Centred>>>,
}

impl LayerMetric {
    /// With what errors of the outputs do.
    pub fn new(outputs: OutputMetric) -> LayerMetric {
        LayerMetric { outputs, moments: OnceCell::new() }
    }
}

/// Moments of a group that are fitted to, and its weights, in a metric.
pub type WeighedGroup<'m, 'w> = (&'m Centred, CowArray<'w, f64, Ix2>);

impl<'a> Fitted<'a> {
    /// The moments that are fitted to, and these weights, in the metric of the outputs. `None` if something has no solution.
    pub fn in_metric<'w>(&self, weights: &'w [Array2<f64>]) -> Option<Vec<WeighedGroup<'a, 'w>>> {
        let LayerMetric { outputs, moments } = self.metric;
        let plain = || self.layer.parts.iter().map(|part| &part.fit);
        let moments: Vec<&Centred> = match outputs.is_plain() {
            true => plain().collect(),
            false => {
                let weighed = |c| Some(outputs.moments(c, RIDGE)?.into_owned());
                moments.get_or_init(|| plain().map(weighed).collect()).as_ref()?.iter().collect()
            }
        };
        moments.into_iter().zip(weights).map(|(c, w)| Some((c, outputs.weigh(w.view())?))).collect()
    }
}

/// What a repair did to a layer: relative output errors on held-back samples, and whether it was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The error without it.
    pub before: f64,
    /// The error with it.
    pub after: f64,
    /// Whether the fitted weights stay.
    pub kept: bool,
}
