//! Splits convolutions into a depthwise and a 1×1 convolution, as in MobileNet, by singular value decomposition.
//!
//! The k-tap filters of each input channel (or, pointwise first, of each output channel) are replaced by their `rank` best
//! base filters, so parameters and multiplications fall by about k/rank: 4.5 times for 3×3 at rank 2. A rank of as many terms
//! as there are taps would be exact, and larger. (Guo et al., Network Decoupling, BMVC 2018.)
//!
//! A weight that several layers share is split once, for all of them, and they share its factors; fitted, to what all of them
//! read and give. It stays if something else reads it, too.
//!
//! With calibration data the two are fitted to what the layer gives there, not to its weight. The report then has the error
//! ‖Y − Y'‖ / ‖Y − ȳ‖ of the layer itself that its moments predict on the samples it was fitted to, and the error behind its
//! activation on held-back samples, before and after the fit.
//!
//! | option | | default |
//! |---|---|---|
//! | `rank` | base filters a channel | 2 |
//! | `energy` | instead of `rank`: the fewest, layer by layer, that keep this share of the squared weights | |
//! | `params`, `macs` | instead of `rank`: the share of the model's parameters or MACs to keep at most; ranks are dealt out to the layers where they lose least, of which none loses more than `max-loss` of its output | |
//! | `order` | `depthwise-first`, `pointwise-first`, or `auto`: where the stride is 1, pointwise first if that has the smaller weight error at about as many parameters, or with `energy` if it takes fewer; with a budget, depthwise first | `auto` |
//! | `style` | `mobilenet`: with BatchNormalization and ReLU6 between the two, and no activation after them where another layer follows, at rank 1; what that computes must be learned, so a `distill` step must follow | `plain` |
//! | `skip-first` | layers left alone: the first has few channels and is worth little | 1 |
//!
//! `rank`, `energy` and `order` are one value for all layers or, as `rank = { "layer1.*" = 2, "conv5" = 3 }`, a table by layer
//! (`tutee explain tables`).
//!
//! A convolution in groups is split inside its groups, a transposed one into a transposed depthwise and a 1×1. Depthwise and
//! 1×1 convolutions are left alone, and so is one that would not get smaller.
//!
//! ```text
//! # run = [{ pass = "separate-convs", rank = 1, order = "depthwise-first", skip-first = 0 }]
//! model "m" opset 17 {
//!   input %x : f32[N,8,16,16]
//!   const %w : f32[16,8,3,3] = seed(1)
//!   const %b : f32[16] = seed(2)
//!
//!   %y : f32[N,16,8,8] = Conv<pads=[1,1,1,1], strides=[2,2]>(%x, %w, %b) @conv
//!
//!   output %y
//! }
//! ---- expect ----
//! model "m" opset 17 {
//!   input %x : f32[N,8,16,16]
//!   const %b : f32[16]
//!   const %conv.dw.weight : f32[8,1,3,3]
//!   const %conv.pw.weight : f32[16,8,1,1]
//!
//!   %conv.dw : f32[N,8,8,8] = Conv<group=8, pads=[1,1,1,1], strides=[2,2]>(%x, %conv.dw.weight)
//!   %y : f32[N,16,8,8] = Conv(%conv.dw, %conv.pw.weight, %b) @conv.pw
//!
//!   output %y
//! }
//! ```

use crate::analysis::likely;
use crate::error::Result;
use crate::ir::{Graph, NodeId, Patch};
use crate::math::fit::{Fit, GroupMoments};
use crate::math::separate::fitted::Mixed;
use crate::math::{self, separate};
use crate::passes::budget::{self, Budget, SplitSite};
use crate::passes::by_layer::ByLayer;
use crate::passes::convolution::{self, ConvLayer};
use crate::passes::options::{OptionsError, Selection, Share, SkipFirst, not_zero};
use crate::passes::split::{self, NO_SVD, RankOrBudget, SplitReader, convs, note};
use crate::passes::{
    Choice, Context, Fidelity, Fitted, Measure, Offers, Order, Pass, Phase, SensitivityQuery, Site, Verdict, refit,
    sharing,
};
use form::{Separation, decompose};
use ndarray::{Array2, Array3, Axis};
use serde::Deserialize;
use std::num::NonZeroUsize;

mod form;
mod mobilenet;

/// Rounds in which every channel's filters are fitted to what the others leave over.
const SWEEPS: usize = 1;

/// The most base filters a channel that few networks survive without data.
const STRONG_RANK: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct SeparateConvs {
    size: RankOrBudget<TermCount>,
    order: ByLayer<WantedOrder>,
    style: Style,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    rank: Option<ByLayer<NonZeroUsize>>,
    energy: Option<ByLayer<Share>>,
    params: Option<Share>,
    macs: Option<Share>,
    order: Option<ByLayer<WantedOrder>>,
    style: Style,
}

/// How many terms are kept: so many, or as few as have this share of the energy.
#[derive(Debug, Clone, Copy)]
enum TermCount {
    Rank(usize),
    Energy(f64),
}

/// The order, or `auto` where the pass finds out which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WantedOrder {
    DepthwiseFirst,
    PointwiseFirst,
    Auto,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Style {
    #[default]
    Plain,
    Mobilenet,
}

impl TryFrom<Options> for SeparateConvs {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        not_zero(o.energy.iter().flat_map(ByLayer::values).map(|&share| ("energy", Some(share))))?;
        let rank = o.rank.map(|ranks| ranks.map(|r| TermCount::Rank(r.get())));
        let energy = o.energy.map(|shares| shares.map(|s| TermCount::Energy(s.0)));
        let order = o.order.unwrap_or(ByLayer::All(WantedOrder::Auto));
        if o.style == Style::Plain {
            let ranks = vec![("rank", rank), ("energy", energy)];
            return Ok(SeparateConvs {
                size: RankOrBudget::of(ranks, o.params, o.macs, TermCount::Rank(2))?,
                order,
                style: o.style,
            });
        }
        let ones = rank.iter().flat_map(ByLayer::values).all(|terms| matches!(terms, TermCount::Rank(1)));
        if !ones
            || energy.is_some()
            || o.params.or(o.macs).is_some()
            || order.values().any(|o| *o == WantedOrder::PointwiseFirst)
        {
            return Err("`style` = \"mobilenet\" is of rank 1, depthwise first".into());
        }
        let size = RankOrBudget::of(vec![("rank", rank)], None, None, TermCount::Rank(1))?;
        Ok(SeparateConvs { size, order: order.map(|_| WantedOrder::DepthwiseFirst), style: o.style })
    }
}

impl Pass for SeparateConvs {
    fn name(&self) -> &'static str {
        "separate-convs"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { skip_first: SkipFirst::Exactly(1), ..Selection::default() }
    }

    /// Those behind have nothing to be fitted to before it is trained.
    fn fits_others(&self) -> bool {
        self.style == Style::Plain
    }

    fn needs_training(&self) -> Option<&'static str> {
        (self.style == Style::Mobilenet).then_some("style")
    }

    fn is_strong(&self) -> bool {
        self.size.is_strong(|terms| match terms {
            TermCount::Rank(rank) => *rank <= STRONG_RANK,
            TermCount::Energy(kept) => *kept < split::STRONG_ENERGY,
        })
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        self.order.fits(graph, "order", &[])?;
        self.size.fits(graph, &[])
    }

    fn weighs_outputs(&self) -> bool {
        true
    }

    fn budget(&self) -> Option<Budget> {
        self.size.budget()
    }

    fn undecided(&self) -> Option<Budget> {
        self.size.undecided()
    }

    fn decided(&self, chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        let separable = chosen.iter().filter_map(|(name, choice)| match choice {
            Choice::Separable { order, terms } => Some((name.clone(), *order, *terms)),
            _ => None,
        });
        let wanted = |order| match order {
            Order::DepthwiseFirst => WantedOrder::DepthwiseFirst,
            Order::PointwiseFirst => WantedOrder::PointwiseFirst,
        };
        let orders = separable.clone().map(|(name, order, _)| (name, wanted(order)));
        let order = ByLayer::filled(orders, budget::WHOLE);
        let size = self.size.decided("rank", separable.map(|(name, _, terms)| (name, TermCount::Rank(terms))));
        Some(Box::new(SeparateConvs { size, order, style: self.style }))
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        let (g, selected) = (cx.graph, cx.selected);
        let ours = |n: &NodeId| {
            let site = Site::Layer(*n);
            let depthwise = self.wanted(g, &site).is_ok_and(|wanted| wanted != WantedOrder::PointwiseFirst);
            depthwise && selected.refuses(g, &site).is_none() && same_convs(g, *n).is_ok()
        };
        let layers = convs(g).into_iter().filter(ours).collect();
        vec![SensitivityQuery { measure: Measure::Separable, layers, note: Box::new(|fitted| lost(g, fitted)) }]
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let sized = cx.sized();
        sites.iter().map(|site| self.offers_at(cx, &sized, site)).collect()
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        let layers = split::layer(site).and_then(|n| same_convs(cx.graph, n));
        let wanted = layers.and(self.wanted(cx.graph, site)).and(self.size.at(cx.graph, site));
        wanted.err()
    }

    fn enters_bodies(&self) -> bool {
        self.size.budget().is_none() && self.style == Style::Plain
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        convs(cx.graph).into_iter().map(Site::Layer).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        Ok(Verdict::of(self.split(cx, &site)))
    }
}

/// A convolution that can be split, and those that share its weight.
fn same_convs(graph: &Graph, n: NodeId) -> Result<Vec<ConvLayer<'_>>, String> {
    convolution::family(graph, n, |ConvLayer { conv, kernel, .. }| {
        if kernel.inputs == 1 && kernel.groups > 1 {
            return Err("it is depthwise: it mixes no channels".into());
        }
        if kernel.taps() == 1 {
            return Err("it is 1×1: there is nothing spatial to split off".into());
        }
        if conv.is_transposed() && kernel.groups > 1 {
            return Err("it is a transposed convolution in groups".into());
        }
        Ok(())
    })
}

impl SeparateConvs {
    fn wanted(&self, graph: &Graph, site: &Site) -> Result<WantedOrder, String> {
        self.order.at(graph, "order", &site.names(graph)).copied()
    }

    fn split(&self, cx: &Context<'_>, site: &Site) -> Result<(Patch, String), String> {
        let (graph, n) = (cx.graph, split::layer(site)?);
        let layers = same_convs(graph, n)?;
        let ConvLayer { weight, .. } = layers.first().ok_or("it is no layer")?;
        let (wanted, terms) = (self.wanted(graph, site)?, *self.size.at(graph, site)?);
        let form = form(wanted, terms, &layers, cx.fitted.is_some()).ok_or(NO_SVD)?;
        let (order, rank, full) = (form.order(), form.terms, form.separable.full());
        if let Some(why) = weight.refuses(rank, full, form.parameters_a_term()) {
            return Err(format!("{order}, {why}"));
        }
        let (filters, mixes) = (form.separable.filters(rank), form.separable.mixes(rank));
        if self.style == Style::Mobilenet {
            if layers.len() > 1 {
                return Err("others share its weight: each would be normalised in its own way".into());
            }
            if layers[0].conv.is_transposed() {
                return Err("it is transposed: no block of MobileNet is".into());
            }
            let factors = form.factors(weight, filters.view(), mixes.view()).ok_or(NO_SVD)?;
            let (patch, told) = mobilenet::patch(graph, n, form.ops(layers[0].conv), factors)?;
            let (from, to) = (weight.tensor.len(), form.parameters());
            return Ok((patch, format!("normalised and clamped in between, {from} → {to} parameters{told}")));
        }
        let parameters = (weight.tensor.len(), form.parameters());
        let mut what = note(&format!("{order}, "), rank, full, form.separable.error(rank), parameters);
        let reader = |l: &ConvLayer<'_>| SplitReader { node: l.node, slot: 1, ops: form.ops(l.conv), turned: false };
        let readers = layers.iter().map(reader).collect();
        let Some(fitted) = cx.fitted.filter(|_| form.first == Order::DepthwiseFirst) else {
            if !cx.repairs {
                what.push_str(&likely::said_of(graph, n, &form.products()));
            }
            let factors = form.factors(weight, filters.view(), mixes.view()).ok_or(NO_SVD)?;
            let factors = form.laid(layers[0].conv, factors);
            return Ok((split::patch(graph, readers, factors, None)?, what + &sharing::note(layers.len())));
        };
        let (mixed, b) = fit(graph, &fitted, &form, &mut what)?;
        let (filters, mixes) = (mixed.filters.mapv(|v| v as f32), mixed.mixes.mapv(|v| v as f32));
        let factors = form.factors(weight, filters.view(), mixes.view()).ok_or(NO_SVD)?;
        let factors = form.laid(layers[0].conv, factors);
        let bias = Some((fitted.linear, b.as_slice()));
        Ok((split::patch(graph, readers, factors, bias)?, what + &sharing::note(layers.len())))
    }

    fn offers_at(&self, cx: &Context<'_>, sized: &Graph, site: &Site) -> Result<Offers, String> {
        let (graph, n) = (cx.graph, split::layer(site)?);
        let layers = same_convs(graph, n)?;
        if let Some(why) = cx.selected.refuses(graph, site) {
            return Err(why);
        }
        let form = form(self.wanted(graph, site)?, TermCount::Rank(1), &layers, true).ok_or(NO_SVD)?;
        let full = form.separable.full();
        let plain = || Some((0..=full).map(|t| form.separable.error(t).powi(2)).collect());
        let lost = match form.first {
            Order::DepthwiseFirst => budget::losses(cx, (n, Measure::Separable), full, plain),
            // Its filters cannot be found from the moments of the input.
            Order::PointwiseFirst => plain(),
        };
        let a_term = form.parameters_a_term();
        let filters = form.filter_parameters() as f64 / a_term as f64;
        let axes = layers[0].kernel.size.len();
        let positions = |n: NodeId| {
            let conv = layers[0].conv;
            Some(match form.first {
                Order::DepthwiseFirst => {
                    conv.applied(sized, n, axes).map(|(a, b)| filters * a + (1.0 - filters) * b)?
                }
                // The mixing runs at every position of the input.
                Order::PointwiseFirst if conv.is_transposed() => 1.0,
                Order::PointwiseFirst => budget::spread(sized, n, 2).map(|wide| filters + (1.0 - filters) * wide)?,
            })
        };
        let readers: Vec<_> = layers.iter().map(|l| (l.node, positions(l.node))).collect();
        let weight = layers.first().ok_or("it is no layer")?.weight.tensor;
        let choice = |terms| Choice::Separable { order: form.first, terms };
        let more = split::second_nodes(graph, readers.iter().map(|r| r.0));
        let split = SplitSite { readers, weight, a_term, indices: 0, more };
        Ok(split.offers(sized, &lost.ok_or(NO_SVD)?, choice))
    }
}

/// The form that the options ask for; `sees` says whether its filters are to be found from moments. `None` if the decomposition
/// fails.
fn form<'a>(wanted: WantedOrder, terms: TermCount, layers: &'a [ConvLayer<'_>], sees: bool) -> Option<Separation<'a>> {
    let ConvLayer { kernel, weight, .. } = layers.first()?;
    let form = |first| {
        let separable = decompose(first, kernel, &weight.data)?;
        let terms = match terms {
            TermCount::Rank(rank) => rank.min(separable.full()),
            TermCount::Energy(share) => separable.terms_for_energy(share),
        };
        Some(Separation { first, kernel, separable, terms })
    };
    let strided = layers.iter().any(|l| !l.conv.is_transposed() && l.conv.window().strides.iter().any(|&s| s > 1));
    match wanted {
        WantedOrder::PointwiseFirst => return form(Order::PointwiseFirst),
        WantedOrder::DepthwiseFirst => return form(Order::DepthwiseFirst),
        // Pointwise first, the 1×1 would run at all positions, also those between the strides.
        WantedOrder::Auto if strided || sees => return form(Order::DepthwiseFirst),
        WantedOrder::Auto => {}
    }
    let (depthwise, mut pointwise) = (form(Order::DepthwiseFirst)?, form(Order::PointwiseFirst)?);
    let better = match terms {
        TermCount::Energy(_) => pointwise.parameters() < depthwise.parameters(),
        TermCount::Rank(_) => {
            let (budget, a_term) = (depthwise.parameters(), pointwise.parameters_a_term());
            let nearest = (2 * budget + a_term) / (2 * a_term);
            pointwise.terms = nearest.min(pointwise.separable.full());
            pointwise.separable.error(pointwise.terms) < depthwise.separable.error(depthwise.terms)
        }
    };
    Some(if better { pointwise } else { depthwise })
}

/// The share of a convolution's output that is lost with so many terms a channel, from 0 on.
fn lost(graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let current = refit::current(graph, fitted.linear)?;
    budget::shares(fitted, &current.w, |c, w| separate::fitted::lost(c, w, fitted.linear.taps))
}

/// The filters and mixes that the data asks for, depthwise first, and the bias that goes with them; plain ones if those
/// are no better on what was held back. (Sequential repair toward the teacher's outputs, as in He et al. 2017, Channel
/// Pruning, for separable filters.)
fn fit(
    graph: &Graph,
    fitted: &Fitted<'_>,
    form: &Separation<'_>,
    what: &mut String,
) -> Result<(Mixed, Vec<f64>), String> {
    let linear = fitted.linear;
    let current = refit::current(graph, linear)?;
    let (taps, terms, channels) = (linear.taps, form.terms, linear.inputs / linear.taps);
    let by_group = |all: Array3<f32>| {
        all.mapv(f64::from).axis_chunks_iter(Axis(0), channels).map(|a| a.to_owned()).collect::<Vec<_>>()
    };
    let (filters, mixes) = (by_group(form.separable.filters(terms)), by_group(form.separable.mixes(terms)));
    let plain: Vec<Mixed> = filters.into_iter().zip(mixes).map(|(filters, mixes)| Mixed { filters, mixes }).collect();
    let products = |mixed: &[Mixed]| mixed.iter().map(Mixed::product).collect::<Vec<_>>();
    let before = Fit { w: products(&plain), b: current.b.clone() };
    let solve = |layer: &math::LayerMoments, from: Option<&Vec<Mixed>>| {
        let group = |(g, (p, w)): (usize, (&GroupMoments, &Array2<f64>))| {
            let (metric, from) = (&fitted.metric.outputs, from.map(|f| &f[g]));
            separate::fitted::fitted(metric, &p.fit, w.view(), taps, terms, SWEEPS, from)
        };
        let found = layer.parts.iter().zip(&current.w).enumerate().map(group).collect::<Option<Vec<Mixed>>>()?;
        layer.best_ridge(|lambda| {
            let parts = layer.parts.iter().zip(&found);
            let mixed: Vec<Mixed> =
                parts.map(|(p, m)| separate::fitted::mix(&p.fit, m, lambda)).collect::<Option<_>>()?;
            let fit = layer.with_bias(products(&mixed));
            Some((mixed, fit))
        })
    };
    let chosen = refit::settle(fitted, &before, solve);
    what.push_str(&chosen.predicted_note());
    let (b, mixed) = match chosen.repaired {
        Some((fit, mixed)) => (fit.b, mixed),
        None => (chosen.bias.unwrap_or(before.b), plain),
    };
    let join = |get: fn(&Mixed) -> &Array3<f64>| {
        let views: Vec<_> = mixed.iter().map(|m| get(m).view()).collect();
        ndarray::concatenate(Axis(0), &views).map_err(|e| e.to_string())
    };
    Ok((Mixed { filters: join(|m| &m.filters)?, mixes: join(|m| &m.mixes)? }, b))
}
