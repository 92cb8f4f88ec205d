//! Removes inputs that a Gemm or MatMul can do without: a Gather before it picks those that stay.
//!
//! Behind a Flatten, or on the input of the model, a layer reads positions that hardly matter, such as the margin of a picture.
//! `prune-channels` takes no such position out by itself: it removes what makes a channel, for all who read it.
//!
//! An input that stays costs one weight an output, and one or two bytes for its index. With calibration data those go that the
//! layer loses least by when the weights of the others make up for them, one after the other, and what stays is fitted to what
//! the layer gives there; a constant input costs nothing, its share moves into the bias. (Hassibi & Stork 1993, Optimal Brain
//! Surgeon; inputs that go first are the route of Louizos et al. 2017, Bayesian Compression for Deep Learning.) Without data
//! those go that have the smallest weights.
//!
//! | option | | default |
//! |---|---|---|
//! | `inputs` | how many to keep | |
//! | `ratio` | instead of `inputs`: the share of each layer's inputs to keep | 0.5 |
//! | `params`, `macs` | instead of `inputs`: the share of the model's parameters or MACs to keep at most; dealt out to the layers where they lose least, of which none loses more than `max-loss` of its output | |
//! | `min-weights` | smaller weights are left alone | 1024 |
//!
//! `inputs` and `ratio` are one value for all layers or, as `inputs = { "fc1" = 280 }`, a table by layer
//! (`tutee explain tables`). A layer that shares its weight with another stays.
//!
//! ```text
//! # run = [{ pass = "prune-inputs", inputs = 4 }]
//! model "m" opset 17 {
//!   input %x : f32[N,8]
//!   const %w : f32[256,8] = seed(1)
//!   const %b : f32[256] = seed(2)
//!
//!   %y : f32[N,256] = Gemm<transB=1>(%x, %w, %b) @fc
//!
//!   output %y
//! }
//! ---- expect ----
//! model "m" opset 17 {
//!   input %x : f32[N,8]
//!   const %b : f32[256]
//!   const %w.inputs : i32[4] = {0,2,3,7}
//!   const %w.kept : f32[256,4]
//!
//!   %fc.picked : f32[N,4] = Gather<axis=1>(%x, %w.inputs)
//!   %y : f32[N,256] = Gemm<transB=1>(%fc.picked, %w.kept, %b) @fc
//!
//!   output %y
//! }
//! ```

use crate::analysis::linear::{Bias, Linear};
use crate::analysis::{bytes, likely};
use crate::error::Result;
use crate::ir::names::derived;
use crate::ir::op::gather::Gather;
use crate::ir::{DType, Graph, NodeId, Op, Patch, Ref, Tensor};
use crate::math::fit::GroupMoments;
use crate::math::{ridge, worth};
use crate::passes::budget::{self, Budget, SplitSite};
use crate::passes::by_layer::ByLayer;
use crate::passes::options::{OptionsError, Selection, Share, not_zero};
use crate::passes::refit::{self, current};
use crate::passes::split::{self, RankOrBudget};
use crate::passes::{
    Choice, Context, Fidelity, Fitted, Measure, Offers, Pass, Phase, SensitivityQuery, Site, Verdict, sharing,
};
use ndarray::{Array2, ArrayView2, Axis};
use serde::Deserialize;
use std::num::NonZeroUsize;

/// The option that says how many inputs stay.
const INPUTS: &str = "inputs";

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct PruneInputs {
    size: RankOrBudget<InputCount>,
}

/// How many inputs of a layer stay.
#[derive(Debug, Clone, Copy)]
enum InputCount {
    Count(usize),
    Ratio(f64),
}

impl InputCount {
    fn of(self, inputs: usize) -> usize {
        match self {
            InputCount::Count(count) => count,
            InputCount::Ratio(share) => ((share * inputs as f64).round() as usize).max(1),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    inputs: Option<ByLayer<NonZeroUsize>>,
    ratio: Option<ByLayer<Share>>,
    params: Option<Share>,
    macs: Option<Share>,
}

impl TryFrom<Options> for PruneInputs {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        let Options { inputs, ratio, params, macs } = o;
        not_zero(ratio.iter().flat_map(ByLayer::values).map(|&share| ("ratio", Some(share))))?;
        let inputs = inputs.map(|inputs| inputs.map(|n| InputCount::Count(n.get())));
        let ratio = ratio.map(|ratio| ratio.map(|share| InputCount::Ratio(share.0)));
        let size = RankOrBudget::of(vec![(INPUTS, inputs), ("ratio", ratio)], params, macs, InputCount::Ratio(0.5))?;
        Ok(PruneInputs { size })
    }
}

impl Pass for PruneInputs {
    fn name(&self) -> &'static str {
        "prune-inputs"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { min_weights: 1024, ..Selection::default() }
    }

    fn is_strong(&self) -> bool {
        self.size.is_strong(|kept| !matches!(kept, InputCount::Ratio(share) if *share >= split::STRONG_SHARE))
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        self.size.fits(graph, &[])
    }

    fn budget(&self) -> Option<Budget> {
        self.size.budget()
    }

    fn undecided(&self) -> Option<Budget> {
        self.size.undecided()
    }

    fn decided(&self, chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        let kept = |(name, choice): &(String, Choice)| match choice {
            Choice::Inputs(count) => Some((name.clone(), InputCount::Count(*count))),
            _ => None,
        };
        Some(Box::new(PruneInputs { size: self.size.decided(INPUTS, chosen.iter().filter_map(kept)) }))
    }

    fn weighs_outputs(&self) -> bool {
        true
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        let (g, selected) = (cx.graph, cx.selected);
        let ours = |n: &NodeId| selected.refuses(g, &Site::Layer(*n)).is_none() && layer(g, *n).is_ok();
        let layers = places(g).into_iter().filter(ours).collect();
        let note = |fitted: &Fitted<'_>| Ok(lost(removal(g, fitted)?));
        vec![SensitivityQuery { measure: Measure::Inputs, layers, note: Box::new(note) }]
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let sized = cx.sized();
        sites.iter().map(|site| offers_at(cx, &sized, site)).collect()
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        let all = |layer: Linear| {
            let kept = self.size.at(cx.graph, site)?.of(layer.inputs);
            if kept < layer.inputs { Ok(()) } else { Err(format!("it has {} inputs, and keeps them", layer.inputs)) }
        };
        split::layer(site).and_then(|n| layer(cx.graph, n)).and_then(all).err()
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        places(cx.graph).into_iter().map(Site::Layer).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        if let Some(why) = self.stays(cx, &site) {
            return Verdict::skip(why);
        }
        Ok(Verdict::of(self.prune(cx, &site)))
    }
}

fn places(g: &Graph) -> Vec<NodeId> {
    sharing::first(g, |n| matches!(g.node(n).op, Op::Gemm(_) | Op::MatMul(_)))
}

/// A layer that sums over the last axis of what it reads, with a weight of its own.
///
/// # Errors
/// Why a node is none.
fn layer(graph: &Graph, n: NodeId) -> Result<Linear, String> {
    let layer = Linear::of(graph, n)?;
    let turned = matches!(&graph.node(n).op, Op::Gemm(gemm) if gemm.trans_a);
    if layer.slot == 0 || turned {
        return Err("it does not sum over the last axis of what it reads".into());
    }
    if let Some(why) = sharing::held(graph, layer.weight) {
        return Err(why);
    }
    match sharing::family(graph, n).into_iter().find(|&other| other != n) {
        Some(other) => Err(format!("\"{}\" shares its weight", graph.label(other))),
        None => Ok(layer),
    }
}

/// What goes with each input, as a share of the output's variance, the others making up for it.
///
/// # Errors
/// If the data does not say.
fn removal(graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let single = vec![(0..fitted.linear.inputs).map(|i| vec![i]).collect()];
    let current = current(graph, fitted.linear)?;
    let parts = fitted.in_metric(&current.w);
    parts.and_then(|parts| worth::removal(&parts, &single)).ok_or_else(|| "its moments have no inverse".into())
}

/// The share of the squared weights at each input.
fn energy(w: ArrayView2<'_, f64>) -> Vec<f64> {
    let all: f64 = w.iter().map(|w| w * w).sum();
    let share = |column: ndarray::ArrayView1<'_, f64>| column.dot(&column) / if all > 0.0 { all } else { 1.0 };
    w.axis_iter(Axis(1)).map(share).collect()
}

/// What is lost with so many inputs kept, from 0 on.
fn lost(mut scores: Vec<f64>) -> Vec<f64> {
    scores.sort_by(f64::total_cmp);
    let mut lost = vec![0.0];
    for score in scores {
        lost.push(lost.last().map_or(0.0, |sum| sum + score));
    }
    lost.reverse();
    lost
}

/// The inputs with the highest scores, in their order.
fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut inputs: Vec<usize> = (0..scores.len()).collect();
    inputs.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    inputs.truncate(count);
    inputs.sort_unstable();
    inputs
}

fn offers_at(cx: &Context<'_>, sized: &Graph, site: &Site) -> Result<Offers, String> {
    let graph = cx.graph;
    let n = split::layer(site)?;
    let layer = layer(graph, n)?;
    cx.selected.refuses(graph, site).map_or(Ok(()), Err)?;
    let weight = graph.value(layer.weight).constant().ok_or("its weight is not constant")?;
    let plain = || Some(lost(energy(layer.matrices(weight)?.first()?.view())));
    let lost = budget::losses(cx, (n, Measure::Inputs), layer.inputs, plain).ok_or("its weight cannot be read")?;
    // Beside the weights that stay: what a patch for one input takes without its weights and its index.
    let one = patch(graph, &layer.with_inputs(1), &[0], Array2::zeros((layer.outputs, 1)), None)?;
    let data = one.constants().map(|(_, t)| t.byte_len()).sum::<usize>();
    let more = bytes::added(graph, &one).saturating_sub(data);
    let split = SplitSite { readers: vec![(n, Some(1.0))], weight, a_term: layer.outputs, indices: 1, more };
    Ok(split.offers(sized, &lost, Choice::Inputs))
}

impl PruneInputs {
    fn prune(&self, cx: &Context<'_>, site: &Site) -> Result<(Patch, String), String> {
        let (graph, n) = (cx.graph, split::layer(site)?);
        let layer = layer(graph, n)?;
        let count = self.size.at(graph, site)?.of(layer.inputs);
        let whole = current(graph, &layer)?.w.into_iter().next().ok_or("it has no weight")?;
        let scores = match &cx.fitted {
            Some(fitted) => removal(graph, fitted)?,
            None => energy(whole.view()),
        };
        let inputs = best(&scores, count);
        let (before, after) = (whole.len(), layer.outputs * count);
        let mut what = format!("kept {count} of {} inputs, {before} → {after} parameters", layer.inputs);
        let (mut kept, mut bias) = (whole.select(Axis(1), &inputs), None);
        let plain = spread(&kept, &inputs, layer.inputs);
        if let Some(fitted) = &cx.fitted {
            let find = |part: &GroupMoments, prior: ArrayView2<'_, f64>, lambda: f64| {
                let columns = |of: ArrayView2<'_, f64>| of.select(Axis(1), &inputs);
                let g = columns(part.fit.xx.select(Axis(0), &inputs).view());
                let w = ridge(&g, &columns(part.fit.yx.view()), Some(&columns(prior)), lambda)?;
                Some((w.clone(), spread(&w, &inputs, layer.inputs)))
            };
            let (better, b) = split::fit(graph, fitted, plain, &mut what, find)?;
            (kept, bias) = (better.unwrap_or(kept), b);
        } else {
            what.push_str(&likely::said_of(graph, n, &[plain]));
        }
        let patch = patch(graph, &layer.with_inputs(count), &inputs, kept, bias.as_deref())?;
        Ok((patch, what))
    }
}

/// The matrix that has these columns at the places of `inputs`, and zeros elsewhere.
fn spread(w: &Array2<f64>, inputs: &[usize], all: usize) -> Array2<f64> {
    let mut whole = Array2::zeros((w.nrows(), all));
    inputs.iter().zip(w.columns()).for_each(|(&i, column)| whole.column_mut(i).assign(&column));
    whole
}

/// Lets a layer read `inputs` only, with the weight `w` for them, and a bias, if it is to have another. `layer` has as many
/// inputs as are kept.
///
/// # Errors
/// If that is no smaller, or has no place.
fn patch(graph: &Graph, layer: &Linear, inputs: &[usize], w: Array2<f64>, b: Option<&[f64]>) -> Result<Patch, String> {
    let (n, x) = (layer.node, layer.x);
    let tensor = graph.value(layer.weight).constant().ok_or("its weight is not constant")?;
    let by_output = matches!(&graph.node(n).op, Op::Gemm(gemm) if gemm.trans_b);
    let shape = if by_output { [layer.outputs, layer.inputs] } else { [layer.inputs, layer.outputs] };
    let weight = refit::finite(layer.tensor(tensor.dtype(), &shape, &[w]))?;
    let mut patch = Patch::at_node(graph, n);
    let (name, label) = (&graph.value(layer.weight).name, graph.label(n));
    // As numbers of one or two bytes.
    let index = Tensor::from_ints(DType::I32, [inputs.len()], inputs.iter().map(|&i| i as i64)).with_typed(true);
    let index = patch.constant_named(derived(name, "inputs"), index);
    let axis = graph.value(x).rank().map_or(-1, |rank| rank as i64 - 1);
    let picked = patch.node_named(&derived(label, "picked"), Gather { axis }, &[Some(Ref::Old(x)), Some(index)]);
    let weight = patch.constant_named(derived(name, "kept"), weight);
    let own = matches!(layer.bias, Bias::At { node, .. } if node == n);
    let mut third = graph.input(n, 2).map(Ref::Old);
    match b {
        Some(b) if own => {
            let tensor = layer.bias_tensor(graph, b).ok_or("its bias has no type")?;
            third = Some(patch.constant("bias", refit::finite(tensor)?));
        }
        Some(b) => refit::set_bias(graph, &mut patch, layer, b)?,
        None => {}
    }
    if bytes::added_in_form_of(graph, &patch, layer.weight) >= bytes::stored(graph, layer.weight) {
        return Err("with the indices of what it reads it would be no smaller".into());
    }
    let read: Vec<_> = [picked, weight].into_iter().chain(third).map(Some).collect();
    let y = patch.node_named(label, graph.node(n).op.clone(), &read);
    patch.replace(graph.output(n).ok_or("it has no output")?, y);
    Ok(patch)
}
