//! What the passes share that fit weights to calibration data: how a fit becomes a patch.

use crate::analysis::linear::{Bias, Linear};
use crate::ir::{Graph, NodeId, Patch, Ref, Tensor, ValueId};
use crate::math::LayerMoments;
use crate::math::feedback::feedback;
use crate::math::fit::{Fit, GroupMoments, relative};
use crate::math::sparsity::pruned;
use crate::passes::{Fitted, Judged, sharing};
use ndarray::Array2;

/// Relative output error below which there is nothing to repair: rounding, to within the moments' precision.
const LOST: f64 = 1e-3;

/// Share of zeros from which on a weight that was pruned keeps them when it is fitted.
pub const PRUNED: f64 = 0.01;

/// λ of the error feedback, as a share of the mean diagonal.
const MASK_RIDGE: f64 = 1e-2;
/// Times that a layer is fitted, at most, to what its activation makes of it.
const ROUNDS: usize = 8;
/// Share of the error that a round must take away for another to follow.
const WORTH: f64 = 0.01;

/// The weights and biases that a layer has.
///
/// # Errors
/// If they cannot be computed with.
pub fn current(graph: &Graph, linear: &Linear) -> Result<Fit, String> {
    let tensor = graph.value(linear.weight).constant().ok_or("its weight is not constant")?;
    let w = linear.matrices(tensor).ok_or("its weight has not the layer's shape")?;
    let b = linear.biases(graph).ok_or("its bias has not one number an output")?;
    let fit = Fit { w, b };
    if fit.is_finite() { Ok(fit) } else { Err("its weight is not finite".into()) }
}

/// Lets a layer that no pass rewrites give what its teacher gives, as near as its own weights can.
///
/// # Errors
/// Why it stays as it is.
pub fn refit(graph: &Graph, fitted: &Fitted<'_>) -> Result<(Patch, String), String> {
    let linear = fitted.linear;
    let before = current(graph, linear)?;
    if fitted.layer.error(&before) < LOST {
        return Err("nothing was lost before it".into());
    }
    let tensor = graph.value(linear.weight).constant();
    let sparse = tensor.and_then(|t| Some(pruned(&t.as_f32()?, t.shape(), PRUNED))).unwrap_or_default();
    let solve = |layer: &LayerMoments, from: Option<&Fit>| {
        let mut fit = layer.ridge(from.unwrap_or(&before))?;
        if sparse {
            fit = layer.with_bias(masked(layer, &fit, &before)?);
        }
        Some((fit.clone(), fit))
    };
    let chosen = settle(fitted, &before, solve);
    let note = chosen.note();
    let fit = match (chosen.repaired, chosen.bias) {
        (Some((fit, _)), _) => fit,
        (None, Some(b)) => Fit { b, ..before },
        (None, None) => return Err(note),
    };
    Ok((write(graph, linear, &fit)?, note))
}

/// Gives a layer these weights and biases.
///
/// # Errors
/// If something else reads its weight, or they are not finite in its type.
pub fn write(graph: &Graph, linear: &Linear, fit: &Fit) -> Result<Patch, String> {
    let mut patch = Patch::at_node(graph, linear.node);
    let tensor = graph.value(linear.weight).constant().ok_or("its weight is not constant")?;
    let weight = finite(linear.tensor(tensor.dtype(), tensor.shape(), &fit.w))?;
    if let Some(why) = sharing::held(graph, linear.weight) {
        return Err(why);
    }
    if sharing::readers(graph, linear.weight).len() > linear.all().count() {
        return Err("its weight is shared with another layer".into());
    }
    patch.set_constant(linear.weight, weight);
    set_bias(graph, &mut patch, linear, &fit.b)?;
    Ok(patch)
}

/// The weights of a fit with zeros where `like` has them: what a zero loses is made up for by the weights that stay.
fn masked(layer: &LayerMoments, fit: &Fit, like: &Fit) -> Option<Vec<Array2<f64>>> {
    let matrices = layer.parts.iter().zip(&fit.w).zip(&like.w);
    let mask = |((part, w), like): ((&GroupMoments, &Array2<f64>), &Array2<f64>)| {
        let keep = |o: usize, i: usize, v: f64| if like[(o, i)] == 0.0 { 0.0 } else { v };
        part.fit.xx.forget();
        feedback(w.view(), part.fit.xx.view(), MASK_RIDGE, &keep)
    };
    matrices.map(mask).collect()
}

/// Fits a layer by `solve`, which also gets what it found last, and again to what the activation behind the layer makes of
/// what was found, as long as that lowers the error behind the activation on what is held back. What `solve` gives is a
/// form of weights and the plain weights that it stands for.
pub fn settle<F>(
    fitted: &Fitted<'_>,
    before: &Fit,
    solve: impl Fn(&LayerMoments, Option<&F>) -> Option<(F, Fit)>,
) -> Chosen<F> {
    let all = fitted.layer.held_back(before).1;
    // The layer with the outputs nearest to the fit's that are as good as the teacher's, and how far they are.
    let judge = |layer: &LayerMoments, fit: &Fit| -> Option<(Option<LayerMoments>, f64)> {
        if !fit.is_finite() {
            return None;
        }
        match fitted.retarget {
            Some(retarget) => {
                let layer = retarget(layer, fit)?;
                let lost = layer.held_back(fit).0;
                Some((Some(layer), lost))
            }
            None => Some((None, layer.held_back(fit).0)),
        }
    };
    let old = judge(fitted.layer, before).map_or(f64::INFINITY, |j| j.1);
    let mut chosen =
        Chosen { repaired: None, bias: None, predicted: None, before: relative(old, all), after: f64::INFINITY };
    let mut least = old;
    let mut layer = fitted.layer.clone();
    for _ in 0..ROUNDS {
        let last = chosen.repaired.as_ref().map(|r| &r.1);
        let Some((form, fit)) = solve(&layer, last) else { break };
        chosen.predicted = chosen.predicted.or_else(|| Some(layer.fitted_error(&fit)));
        let Some((next, lost)) = judge(&layer, &fit) else { break };
        chosen.after = chosen.after.min(relative(lost, all));
        let better = lost < least;
        if better {
            chosen.repaired = Some((fit, form));
        }
        let worth = lost < (1.0 - WORTH) * least;
        least = least.min(lost);
        let (Some(next), true) = (next, worth) else { break };
        layer = next;
    }
    // Where nothing better was found, as behind inputs that never change, the means at least can agree.
    if chosen.repaired.is_none() {
        let corrected = fitted.layer.with_bias(before.w.clone());
        let lost = judge(fitted.layer, &corrected).map_or(f64::INFINITY, |j| j.1);
        if lost < least {
            (chosen.bias, chosen.after) = (Some(corrected.b), relative(lost, all));
        }
    }
    let (before, after) = (chosen.before, chosen.after);
    let kept = chosen.repaired.is_some() || chosen.bias.is_some();
    if after.is_finite() {
        fitted.judged.set(Some(Judged { before, after, kept }));
    }
    chosen
}

/// What became of a repair.
#[derive(Debug, Clone)]
pub struct Chosen<F> {
    /// The weights, and the form they were found in, if they are better on held-back samples than those before.
    pub repaired: Option<(Fit, F)>,
    /// If there are none: biases that make the weights before better on held-back samples.
    pub bias: Option<Vec<f64>>,
    /// ‖Y − Y'‖ / ‖Y − ȳ‖ of the first fit on the samples it was fitted to: of the layer itself, no activation behind it.
    pub predicted: Option<f64>,
    /// Relative errors behind the activation, on held-back samples.
    pub before: f64,
    /// As `before`, with what was chosen.
    pub after: f64,
}

impl<F> Chosen<F> {
    /// What a repair that is kept was expected to leave over, and how it went.
    pub fn predicted_note(&self) -> String {
        let predicted = self.predicted.filter(|_| self.repaired.is_some());
        let predicted = predicted.map(|e| format!(", predicted error {:.2} %", 100.0 * e));
        predicted.unwrap_or_default() + ", " + &self.note()
    }

    /// In words.
    pub fn note(&self) -> String {
        let percent = |e: f64| if e.is_finite() { format!("{:.2} %", 100.0 * e) } else { "without bound".into() };
        let (before, after) = (percent(self.before), percent(self.after));
        match self.repaired {
            Some(_) => format!("output error {before} → {after}"),
            None if self.bias.is_some() => format!("output error {before} → {after} by the bias alone"),
            None if self.after.is_finite() => {
                format!("output error {before}; the repair gave {after} and was rolled back")
            }
            None => format!("output error {before}; no repair could be solved"),
        }
    }
}

/// Gives a layer, and those that share its weight, these biases, set after set.
///
/// # Errors
/// If they have no place, or are not finite in the layer's type.
pub fn set_bias(graph: &Graph, patch: &mut Patch, linear: &Linear, b: &[f64]) -> Result<(), String> {
    by_set(graph, linear, b).into_iter().try_for_each(|(set, b)| set_bias_of(graph, patch, &set, b).map(drop))
}

/// The layers that keep one bias, with those of these biases that are theirs.
pub fn by_set<'a>(graph: &Graph, linear: &'a Linear, b: &'a [f64]) -> Vec<(Vec<&'a Linear>, &'a [f64])> {
    let sets = linear.sets(graph);
    let outputs = (b.len() / sets.len().max(1)).max(1);
    sets.into_iter().zip(b.chunks(outputs)).collect()
}

/// Gives layers one bias: the value that it is, none if they can have none.
///
/// # Errors
/// As [`set_bias`].
pub fn set_bias_of(graph: &Graph, patch: &mut Patch, set: &[&Linear], b: &[f64]) -> Result<Option<Ref>, String> {
    let places = bias_places(set);
    if places.is_empty() {
        return Ok(None);
    }
    let bias = finite(set[0].bias_tensor(graph, b).ok_or("its bias has no type")?)?;
    if let Some(v) = replaceable_bias(graph, &places).filter(|&v| graph.value(v).rank() == Some(bias.rank())) {
        patch.set_constant(v, bias);
        return Ok(Some(Ref::Old(v)));
    }
    let new = patch.constant("bias", bias);
    for (node, slot, _) in places {
        let mut inputs: Vec<_> = graph.node_inputs(node).into_iter().map(|v| v.map(Ref::Old)).collect();
        inputs.resize(inputs.len().max(slot + 1), None);
        inputs[slot] = Some(new);
        patch.set_inputs(node, &inputs);
    }
    Ok(Some(new))
}

/// How many numbers more than now the biases of a layer, and of those that share its weight, may be once it is fitted.
pub fn bias_growth(graph: &Graph, linear: &Linear) -> usize {
    let outputs = linear.groups * linear.outputs;
    let growth = |set: Vec<&Linear>| {
        let places = bias_places(&set);
        let old = replaceable_bias(graph, &places).and_then(|v| graph.value(v).constant()).map_or(0, Tensor::len);
        if places.is_empty() { 0 } else { outputs.saturating_sub(old) }
    };
    linear.sets(graph).into_iter().map(growth).sum()
}

/// Where a layer can have a bias: node, input slot, and the bias that is there.
type BiasPlace = (NodeId, usize, Option<ValueId>);

fn bias_places(set: &[&Linear]) -> Vec<BiasPlace> {
    let place = |layer: &&Linear| match layer.bias {
        Bias::At { node, slot, value, .. } => Some((node, slot, value)),
        Bias::None => None,
    };
    set.iter().filter_map(place).collect()
}

/// The one bias at all these places, if nothing else reads it.
fn replaceable_bias(graph: &Graph, places: &[BiasPlace]) -> Option<ValueId> {
    let bias = places.first()?.2?;
    let everywhere = places.iter().all(|place| place.2 == Some(bias));
    (everywhere && graph.uses(bias).len() == places.len() && !graph.is_held(bias)).then_some(bias)
}

/// The tensor, if all its numbers are finite in its type: no other is ever written.
///
/// # Errors
/// If they are not.
pub fn finite(tensor: Tensor) -> Result<Tensor, String> {
    let sound = tensor.floats().is_some_and(|values| values.iter().all(|v| v.is_finite()));
    if sound { Ok(tensor) } else { Err(format!("its fitted weights do not fit into {}", tensor.dtype())) }
}
