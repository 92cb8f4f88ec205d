//! Sets the least important weights to zero, one by one, wherever in a tensor they are.
//!
//! The layers stay as large and as fast as they were, and so does the file: zeros pay once `cluster-weights` follows, which
//! keeps them exactly zero where they are more than 1 % of a tensor, and the file is compressed. The report has the bytes
//! after zstd.
//!
//! Weights of Conv, ConvTranspose, Gemm and MatMul are pruned; zeros that are there already count.
//!
//! * `sparsity`: the share of the weights that is zero afterwards (default 0.5). As `sparsity = { "conv*" = 0.5, "fc" = 0.9 }` a
//!   table of the share of each tensor, by layer or weight (`tutee explain tables`).
//! * `scope`: `global` (default) is that share of all weights of the selected layers together, so that layers which can
//!   do without lose more; `tensor` is that share of each.
//! * `importance`: how weights of different tensors compare; inside a tensor it is always the order of |w|. `l1`: by |w|
//!   itself. `l2` (default): by w² as a share of the tensor's squared norm without all smaller weights, which holds up
//!   better at high sparsity and where layers differ in scale. (Lee et al. 2021, LAMP.)
//! * `min-weights` is 512 unless set, as it is for `cluster-weights`.
//!
//! ```text
//! # run = [{ pass = "prune-weights", sparsity = 0.75, min-weights = 0 }]
//! model "tiny" opset 17 {
//!   input %x : f32[N,4]
//!   const %w1 : f32[4,2] = {0.5,-0.1,0.2,0.9,-0.3,0.05,0.7,-0.8}
//!   const %w2 : f32[2,4] = {5.0,-1.0,2.0,9.0,-3.0,0.5,7.0,-8.0}
//!
//!   %h : f32[N,2] = MatMul(%x, %w1)
//!   %y : f32[N,4] = MatMul(%h, %w2)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "tiny" opset 17 {
//!   input %x : f32[N,4]
//!   const %w1 : f32[4,2] = {0.0,0.0,0.0,0.9,0.0,0.0,0.0,-0.8}
//!   const %w2 : f32[2,4] = {0.0,0.0,0.0,9.0,0.0,0.0,0.0,-8.0}
//!
//!   %h : f32[N,2] = MatMul(%x, %w1)
//!   %y : f32[N,4] = MatMul(%h, %w2)
//!
//!   output %y
//! }
//! ```

use crate::analysis::cost::Cost;
use crate::analysis::likely;
use crate::error::Result;
use crate::ir::{DType, Graph, NodeId, Op, Patch, Tensor, Use, ValueId};
use crate::math::magnitude::{self, Least, Scale};
use crate::math::moments::SecondMoment;
use crate::passes::by_layer::ByLayer;
use crate::passes::options::{OptionsError, Selection, Share, layers, weight};
use crate::passes::{
    Choice, Context, Fidelity, Fitted, Measure, Offer, Offers, Pass, Phase, Resolved, SensitivityQuery, Site, Verdict,
    sharing,
};
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneWeights {
    sparsity: ByLayer<Share>,
    scope: Scope,
    importance: WeightImportance,
}

/// Shares of zeros that are offered.
const OFFERED: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

const NONE: &str = "none of its weights is among those to go";

/// The share of zeros above which few networks survive without data.
const STRONG: f64 = 0.5;

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scope {
    Global,
    Tensor,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WeightImportance {
    L1,
    L2,
}

impl Default for PruneWeights {
    fn default() -> Self {
        PruneWeights { sparsity: ByLayer::All(Share(0.5)), scope: Scope::Global, importance: WeightImportance::L2 }
    }
}

impl Pass for PruneWeights {
    fn name(&self) -> &'static str {
        "prune-weights"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { min_weights: 512, ..Selection::default() }
    }

    fn pays_compressed(&self) -> bool {
        true
    }

    fn is_strong(&self) -> bool {
        self.sparsity.values().any(|share| share.0 > STRONG)
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        let weights = places(graph).into_iter().filter_map(|site| match site {
            Site::Weight(value) => Some(graph.value(value).name.clone()),
            _ => None,
        });
        self.sparsity.fits(graph, "sparsity", &weights.collect::<Vec<_>>())
    }

    fn decided(&self, chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        let shares = chosen.iter().filter_map(|(name, choice)| match choice {
            Choice::Sparsity(share) => Some((name.clone(), Share(*share))),
            _ => None,
        });
        let sparsity = ByLayer::filled(shares, NONE);
        Some(Box::new(PruneWeights { sparsity, ..self.clone() }))
    }

    /// One share of all weights together becomes a share of each.
    fn resolve(&self, cx: &Context<'_>) -> Option<Resolved> {
        let (ByLayer::All(share), Scope::Global) = (&self.sparsity, self.scope) else { return None };
        let given = |site: Site| match site {
            Site::Weight(value) => Some((value, open(cx, value).ok()?)),
            _ => None,
        };
        let tensors: Vec<(ValueId, &Tensor)> = places(cx.graph).into_iter().filter_map(given).collect();
        let scale = match self.importance {
            WeightImportance::L1 => Scale::Absolute,
            WeightImportance::L2 => Scale::Remaining,
        };
        let zeros = (share.0 * tensors.iter().map(|t| t.1.len()).sum::<usize>() as f64).round() as usize;
        let counts = magnitude::spread(tensors.len(), zeros, |i, each| {
            scale.scores(tensors[i].1.len(), elements(tensors[i].1), each);
        });
        let choice = |((value, tensor), zeros): (&(ValueId, &Tensor), usize)| {
            (cx.graph.value(*value).name.clone(), Choice::Sparsity(zeros as f64 / tensor.len() as f64))
        };
        let chosen: Vec<_> = tensors.iter().zip(counts).map(choice).collect();
        Some(Resolved { pass: self.decided(&chosen)?, options: toml::Table::new() })
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        let graph = cx.graph;
        let ours = |&n: &NodeId| is_layer(&graph.node(n).op) && weight(graph, n).is_some_and(|w| open(cx, w.1).is_ok());
        let layers = layers(graph).into_iter().filter(ours).collect();
        vec![SensitivityQuery { measure: Measure::Sparsity, layers, note: Box::new(|fitted| lost(graph, fitted)) }]
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let at = |site: &Site| match site {
            Site::Weight(value) => offers_at(cx, *value),
            _ => Err("its weight is not constant".into()),
        };
        sites.iter().map(at).collect()
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        places(cx.graph)
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Weight(value) = site else { return Verdict::skip("its weight is not constant") };
        Ok(Verdict::of(self.prune(cx.graph, value, cx.repairs)))
    }
}

/// Layers, by their weights where these are constant.
fn places(g: &Graph) -> Vec<Site> {
    let mut seen = HashSet::new();
    let mut sites = Vec::new();
    for n in g.topological().unwrap_or_default() {
        match (is_layer(&g.node(n).op), weight(g, n)) {
            (true, Some((_, value))) if seen.insert(value) => sites.push(Site::Weight(value)),
            (true, None) => sites.push(Site::Node(n)),
            _ => {}
        }
    }
    sites
}

fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm(_) | Op::MatMul(_))
}

/// A weight that can be pruned.
///
/// # Errors
/// Why it cannot be.
fn weights(graph: &Graph, value: ValueId) -> Result<&Tensor, String> {
    let tensor = graph.value(value).constant().ok_or("it is not constant")?;
    if !tensor.dtype().is_float() {
        return Err(format!("its type is {}, which is no float", tensor.dtype()));
    }
    if tensor.is_empty() {
        return Err("it has no weights".into());
    }
    if graph.is_held(value) {
        return Err("it is an output of the model, or named outside the graph".into());
    }
    let foreign = |u: &Use| match *u {
        Use::Input(n, _) => weight(graph, n).map(|w| w.1) != Some(value),
        Use::Capture { .. } => true,
    };
    if let Some(u) = graph.uses(value).into_iter().find(foreign) {
        return Err(format!("{} \"{}\" reads it too", graph.node(u.node()).kind(), graph.label(u.node())));
    }
    if !elements(tensor).all(f32::is_finite) {
        return Err("it holds numbers that are not finite".into());
    }
    Ok(tensor)
}

/// A weight that can be pruned and is selected.
///
/// # Errors
/// Why it is not.
fn open<'g>(cx: &Context<'g>, value: ValueId) -> Result<&'g Tensor, String> {
    let tensor = weights(cx.graph, value)?;
    cx.selected.refuses(cx.graph, &Site::Weight(value)).map_or(Ok(tensor), Err)
}

/// What each share of zeros loses. They take as many bytes and multiplications as other numbers: what is saved shows once the
/// file is compressed.
fn offers_at(cx: &Context<'_>, value: ValueId) -> Result<Offers, String> {
    let (graph, tensor) = (cx.graph, open(cx, value)?);
    let told = sharing::readers(graph, value).into_iter().find_map(|n| cx.measured(n, Measure::Sparsity));
    let all: f64 = elements(tensor).map(|w| f64::from(w).powi(2)).sum();
    let plain = |share: f64| -> f64 {
        let mut gone = Least::new(count(share, tensor), || elements(tensor));
        let lost = elements(tensor).filter(|&w| gone.takes(w)).map(|w| f64::from(w).powi(2)).sum::<f64>();
        lost / if all > 0.0 { all } else { 1.0 }
    };
    let whole = Cost { parameters: tensor.len() as u64, macs: Some(0), stored: graph.value(value).stored_len() as u64 };
    let offer = |(i, share): (usize, f64)| {
        let loss = told.and_then(|told| told.get(i).copied()).unwrap_or_else(|| plain(share));
        Offer { choice: Choice::Sparsity(share), cost: whole, loss }
    };
    Ok(Offers { whole, list: OFFERED.into_iter().enumerate().map(offer).collect() })
}

/// The share of the variance of a layer's output that is lost with each share of zeros, the other weights as they are.
fn lost(graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let (linear, layer) = (fitted.linear, fitted.layer);
    let tensor = weights(graph, linear.weight)?;
    let all: f64 = layer.parts.iter().map(|p| p.fit.yy.sum()).sum();
    if all <= 0.0 {
        return Err("what it gives does not vary".into());
    }
    let share = |share: f64| {
        let mut gone = Least::new(count(share, tensor), || elements(tensor));
        let gone = elements(tensor).map(|w| if gone.takes(w) { f64::from(w) } else { 0.0 });
        let gone = linear.matrices(&Tensor::from_floats(DType::F64, tensor.shape(), gone))?;
        let lost = layer.parts.iter().zip(&gone).map(|(p, w)| (p.fit.xx.times(w.view()) * w).sum());
        Some(lost.sum::<f64>() / all)
    };
    OFFERED.into_iter().map(|s| share(s).ok_or_else(|| "its weight has not the layer's shape".into())).collect()
}

/// How many weights go.
fn count(share: f64, tensor: &Tensor) -> usize {
    (share * tensor.len() as f64).round() as usize
}

/// The elements of a float tensor, of which only a few are in memory at a time if they are in a mapped file.
fn elements(tensor: &Tensor) -> impl Iterator<Item = f32> + '_ {
    tensor.iter_floats().into_iter().flatten().map(|w| w as f32)
}

impl PruneWeights {
    /// Sets the smallest weights to zero. Without repairs by data, the row guesses what that does to the layer.
    fn prune(&self, graph: &Graph, value: ValueId, repairs: bool) -> Result<(Patch, String), String> {
        let tensor = weights(graph, value)?;
        let share = self.sparsity.at(graph, "sparsity", &Site::Weight(value).names(graph))?;
        let zeros = count(share.0, tensor);
        let (all, before) = (tensor.len(), elements(tensor).filter(|&w| w == 0.0).count());
        if zeros == 0 {
            return Err(NONE.into());
        }
        if zeros <= before {
            return Err(format!("{before} of its {all} weights are zero already"));
        }
        let mut gone = Least::new(zeros, || elements(tensor));
        let kept = tensor.iter_floats().into_iter().flatten();
        let kept = kept.map(|w| if gone.takes(w as f32) { 0.0 } else { w });
        let mut patch = Patch::at_value(graph, value);
        let pruned = Tensor::from_floats(tensor.dtype(), tensor.shape(), kept);
        let share = 100.0 * zeros as f64 / all as f64;
        let likely = if repairs { String::new() } else { likely::said(graph, value, &pruned) };
        patch.set_constant(value, pruned);
        Ok((patch, format!("{before} → {zeros} of {all} weights zero, {share:.1} %{likely}")))
    }
}
