//! Splits a convolution into two smaller ones through fewer channels, by truncated singular value decomposition.
//!
//! `spatial` makes a k_h×1 convolution to r channels and a 1×k_w from them (Jaderberg et al., Speeding up Convolutional Neural
//! Networks with Low Rank Expansions, BMVC 2014). `channel` makes one of the whole kernel to r channels and a 1×1 from them (Zhang
//! et al., Accelerating Very Deep Convolutional Networks, 2015); in one dimension, or three, it is what there is. What they make
//! can be split further by `separate-convs`. A rank that would not make the layer smaller is refused.
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
//! | `scheme` | `spatial` or `channel`; with a budget also `auto`: for each layer what loses less | `spatial` |
//! | `rank` | r | |
//! | `ratio` | instead of `rank`: the share of each weight's parameters to keep | 0.5 |
//! | `energy` | instead of `rank`: the smallest rank, layer by layer, that keeps this share of the squared weights | |
//! | `params`, `macs` | instead of `rank`: the share of the model's parameters or MACs to keep at most; ranks are dealt out to the layers where they lose least, of which none loses more than `max-loss` of its output | |
//! | `skip-first` | layers left alone: the first has few channels and is worth little | 1 |
//!
//! `scheme`, `rank`, `ratio` and `energy` are one value for all layers or, as `rank = { "layer1.*" = 12, "conv5" = 40 }`, a table
//! by layer (`tutee explain tables`).
//!
//! A transposed convolution is split into a transposed one of k_h×1 and one of 1×k_w, or into one to r channels and a 1×1
//! convolution. Convolutions in groups and 1×1 convolutions (`factorize-linear` splits those) are left alone.
//!
//! ```text
//! # run = [{ pass = "factorize-convs", rank = 4, skip-first = 0 }]
//! model "m" opset 17 {
//!   input %x : f32[N,8,16,16]
//!   const %w : f32[16,8,3,3] = seed(1)
//!   const %b : f32[16] = seed(2)
//!
//!   %y : f32[N,16,8,16] = Conv<pads=[1,1,1,1], strides=[2,1]>(%x, %w, %b) @conv
//!
//!   output %y
//! }
//! ---- expect ----
//! model "m" opset 17 {
//!   input %x : f32[N,8,16,16]
//!   const %b : f32[16]
//!   const %conv.v.weight : f32[4,8,3,1]
//!   const %conv.h.weight : f32[16,4,1,3]
//!
//!   %conv.v : f32[N,4,8,16] = Conv<pads=[1,0,1,0], strides=[2,1]>(%x, %conv.v.weight)
//!   %y : f32[N,16,8,16] = Conv<pads=[0,1,0,1]>(%conv.v, %conv.h.weight, %b) @conv.h
//!
//!   output %y
//! }
//! ```

use crate::analysis::likely;
use crate::error::Result;
use crate::ir::op::conv::{Conv, KernelShape};
use crate::ir::{Graph, NodeId, Op, Patch};
use crate::math::fit::GroupMoments;
use crate::math::output_metric::OutputMetric;
use crate::math::spatial::Spatial;
use crate::math::{Factors, Rank};
use crate::passes::budget::{self, Budget, SplitSite};
use crate::passes::by_layer::ByLayer;
use crate::passes::convolution::{self, ConvLayer, Convolution};
use crate::passes::options::{OptionsError, Selection, Share, SkipFirst};
use crate::passes::split::{self, Factor, RankOrBudget, SizeOptions, SplitReader, WeightMatrix, convs, factorize};
use crate::passes::{
    Choice, Context, Fidelity, Fitted, Measure, Offers, Pass, Phase, Scheme, SensitivityQuery, Site, Verdict, refit,
    sharing,
};
use ndarray::{Array2, Array4, ArrayView2, ArrayView3};
use serde::Deserialize;
use std::num::NonZeroUsize;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct FactorizeConvs {
    scheme: ByLayer<Wanted>,
    size: RankOrBudget<Rank>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    scheme: Option<ByLayer<Wanted>>,
    rank: Option<ByLayer<NonZeroUsize>>,
    ratio: Option<ByLayer<Share>>,
    energy: Option<ByLayer<Share>>,
    params: Option<Share>,
    macs: Option<Share>,
}

/// The scheme, or `auto` where a budget is to find out which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wanted {
    Spatial,
    Channel,
    Auto,
}

impl Wanted {
    fn schemes(self) -> &'static [Scheme] {
        match self {
            Wanted::Spatial => &[Scheme::Spatial],
            Wanted::Channel => &[Scheme::Channel],
            Wanted::Auto => &Scheme::ALL,
        }
    }
}

/// How it reads in the report, the two factors, and the bias if it is another.
type FoundFactors = (String, [Factor; 2], Option<Vec<f64>>);

impl TryFrom<Options> for FactorizeConvs {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        let Options { scheme, rank, ratio, energy, params, macs } = o;
        let size = SizeOptions { rank, ratio, energy, params, macs }.size()?;
        let scheme = scheme.unwrap_or(ByLayer::All(Wanted::Spatial));
        if size.undecided().is_none() && scheme.values().any(|&s| s == Wanted::Auto) {
            return Err("`scheme` = \"auto\" needs a budget, `params` or `macs`".into());
        }
        Ok(FactorizeConvs { scheme, size })
    }
}

impl Pass for FactorizeConvs {
    fn name(&self) -> &'static str {
        "factorize-convs"
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

    fn is_strong(&self) -> bool {
        self.size.is_strong(split::is_strong)
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        self.scheme.fits(graph, "scheme", &[])?;
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
        let factored = chosen.iter().filter_map(|(name, choice)| match choice {
            Choice::Factored { scheme, rank } => Some((name.clone(), *scheme, *rank)),
            _ => None,
        });
        let wanted = |scheme| if scheme == Scheme::Spatial { Wanted::Spatial } else { Wanted::Channel };
        let schemes = factored.clone().map(|(name, scheme, _)| (name, wanted(scheme)));
        let scheme = ByLayer::filled(schemes, budget::WHOLE);
        let size = self.size.decided("rank", factored.map(|(name, _, rank)| (name, Rank::Terms(rank))));
        Some(Box::new(FactorizeConvs { scheme, size }))
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        let (g, selected) = (cx.graph, cx.selected);
        let query = |&scheme: &Scheme| {
            let ours = |n: &NodeId| {
                let site = Site::Layer(*n);
                let wanted = self.schemes(g, &site).is_ok_and(|all| all.contains(&scheme));
                wanted && selected.refuses(g, &site).is_none() && same_convs(g, *n).is_ok()
            };
            let layers = convs(g).into_iter().filter(ours).collect();
            let note = move |fitted: &Fitted<'_>| match scheme {
                Scheme::Channel => split::low_rank_lost(g, fitted),
                Scheme::Spatial => spatial_lost(g, fitted),
            };
            SensitivityQuery { measure: measure(scheme), layers, note: Box::new(note) }
        };
        Scheme::ALL.iter().map(query).collect()
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let sized = cx.sized();
        let at = |site: &Site| {
            let schemes = self.schemes(cx.graph, site)?;
            let mut offers = schemes.iter().map(|&scheme| offers_at(cx, &sized, site, scheme));
            let first = offers.next().ok_or("it has no scheme")?;
            offers.fold(first, |all, more| match (all, more) {
                (Ok(mut all), Ok(more)) => {
                    all.list.extend(more.list);
                    Ok(all)
                }
                (all, more) => all.or(more),
            })
        };
        sites.iter().map(at).collect()
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        let (rank, scheme) = match self.at(cx.graph, site) {
            Ok(at) => at,
            Err(why) => return Some(why),
        };
        let layers = match split::layer(site).and_then(|n| same_convs(cx.graph, n)) {
            Ok(layers) => layers,
            Err(why) => return Some(why),
        };
        let ConvLayer { conv, weight, kernel, .. } = layers.first()?;
        if let Some(why) = scheme_refused(scheme, *conv) {
            return Some(why);
        }
        let (m, n) = match scheme {
            Scheme::Channel => (kernel.outputs, kernel.inputs * kernel.taps()),
            Scheme::Spatial => {
                let width = kernel.outputs * kernel.size.last().copied().unwrap_or(1);
                (weight.tensor.len() / width.max(1), width)
            }
        };
        split::no_gain(rank, m, n, weight)
    }

    fn enters_bodies(&self) -> bool {
        self.size.budget().is_none()
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        convs(cx.graph).into_iter().map(Site::Layer).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        Ok(Verdict::of(self.split(cx, &site)))
    }
}

fn measure(scheme: Scheme) -> Measure {
    match scheme {
        Scheme::Channel => Measure::LowRank,
        Scheme::Spatial => Measure::Spatial,
    }
}

/// A convolution that can be split, and those that share its weight.
fn same_convs(graph: &Graph, n: NodeId) -> Result<Vec<ConvLayer<'_>>, String> {
    convolution::family(graph, n, |ConvLayer { conv, kernel, .. }| match (kernel.groups, kernel.taps()) {
        (2.., _) => Err("it is a convolution in groups".into()),
        (_, 1) if conv.is_transposed() => Err("it is 1×1: there is nothing but channels to split".into()),
        (_, 1) => Err("it is 1×1: `factorize-linear` splits it".into()),
        _ => Ok(()),
    })
}

/// The two that take the place of a convolution.
fn ops(scheme: Scheme, conv: Convolution<'_>, kernel: &KernelShape) -> [Op; 2] {
    match scheme {
        Scheme::Spatial => [conv.along(kernel, 0), conv.along(kernel, 1)],
        Scheme::Channel => [conv.grouped(kernel, 1), Conv::pointwise(kernel.size.len(), 1).into()],
    }
}

/// Why a convolution cannot be split by a scheme, if so.
fn scheme_refused(scheme: Scheme, conv: Convolution<'_>) -> Option<String> {
    if scheme == Scheme::Spatial { conv.joins_axes().map(String::from) } else { None }
}

fn offers_at(cx: &Context<'_>, sized: &Graph, site: &Site, scheme: Scheme) -> Result<Offers, String> {
    let (graph, n) = (cx.graph, split::layer(site)?);
    let layers = same_convs(graph, n)?;
    let ConvLayer { conv, weight, kernel, .. } = layers.first().ok_or("it is no layer")?;
    if let Some(why) = cx.selected.refuses(graph, site).or(scheme_refused(scheme, *conv)) {
        return Err(why);
    }
    let w = match scheme {
        Scheme::Spatial => tall(kernel, weight)?,
        Scheme::Channel => flat(kernel, weight)?.to_owned(),
    };
    // Of the spatial two, the first takes the height, of the others both axes; the second what is left.
    let (first, axes) = match scheme {
        Scheme::Spatial => (w.nrows(), 1),
        Scheme::Channel => (w.ncols(), kernel.size.len()),
    };
    let first = first as f64 / (w.nrows() + w.ncols()) as f64;
    let positions = |n: NodeId| conv.applied(sized, n, axes).map(|(a, b)| first * a + (1.0 - first) * b);
    let full = w.nrows().min(w.ncols());
    let plain = || split::plain_lost(w.view());
    let lost = budget::losses(cx, (n, measure(scheme)), full, plain).ok_or(split::NO_SVD)?;
    let readers: Vec<_> = layers.iter().map(|l| (l.node, positions(l.node))).collect();
    let more = split::second_nodes(graph, readers.iter().map(|r| r.0));
    let split = SplitSite { readers, weight: weight.tensor, a_term: w.nrows() + w.ncols(), indices: 0, more };
    Ok(split.offers(sized, &lost, |rank| Choice::Factored { scheme, rank }))
}

impl FactorizeConvs {
    /// The schemes that a layer may be split by: one whose kernel has not two axes by that of channels alone.
    fn schemes(&self, graph: &Graph, site: &Site) -> Result<&'static [Scheme], String> {
        let schemes = self.scheme.at(graph, "scheme", &site.names(graph))?.schemes();
        let rank = split::layer(site).ok().and_then(|n| graph.value(graph.input(n, 1)?).rank());
        Ok(if rank.is_some_and(|rank| rank != 4) { &[Scheme::Channel] } else { schemes })
    }

    /// How the layer at a site is to be split.
    fn at(&self, graph: &Graph, site: &Site) -> Result<(Rank, Scheme), String> {
        let rank = *self.size.at(graph, site)?;
        Ok((rank, *self.schemes(graph, site)?.first().ok_or("it has no scheme")?))
    }

    fn split(&self, cx: &Context<'_>, site: &Site) -> Result<(Patch, String), String> {
        let n = split::layer(site)?;
        // What stands in the way of any scheme is worth more words than what nobody asked for.
        let layers = same_convs(cx.graph, n)?;
        let (rank, scheme) = self.at(cx.graph, site)?;
        let &ConvLayer { conv, ref weight, ref kernel, .. } = layers.first().ok_or("it is no layer")?;
        let (what, [first, second], b) = match scheme {
            Scheme::Spatial => spatial(cx, n, rank, kernel, weight)?,
            Scheme::Channel => channel(cx, n, rank, kernel, weight)?,
        };
        let laid = |factor: Factor| Factor { weight: conv.laid(factor.weight, 1), ..factor };
        let factors = match scheme {
            Scheme::Spatial => [laid(first), laid(second)],
            Scheme::Channel => [laid(first), second],
        };
        let bias = cx.fitted.as_ref().zip(b.as_deref()).map(|(fitted, b)| (fitted.linear, b));
        let what = what + &sharing::note(layers.len());
        let reader = |&ConvLayer { node, conv, ref kernel, .. }: &ConvLayer<'_>| {
            if let Some(why) = scheme_refused(scheme, conv) {
                return Err(why);
            }
            Ok(SplitReader { node, slot: 1, ops: ops(scheme, conv, kernel), turned: false })
        };
        let readers = layers.iter().map(reader).collect::<Result<_, String>>()?;
        Ok((split::patch(cx.graph, readers, factors, bias)?, what))
    }
}

/// The weight as a matrix C·k_h × k_w·M.
fn tall(kernel: &KernelShape, weight: &WeightMatrix<'_>) -> Result<Array2<f32>, String> {
    let (outputs, width) = (kernel.outputs, kernel.size.last().copied().unwrap_or(1));
    let rows = weight.tensor.len() / (outputs * width).max(1);
    // Input channel and height are one axis as the weight lies.
    let w = ArrayView3::from_shape((outputs, rows, width), &weight.data).map_err(|e| e.to_string())?;
    let w = w.permuted_axes([1, 2, 0]);
    Ok(w.to_shape((rows, width * outputs)).map_err(|e| e.to_string())?.into_owned())
}

/// The weight as a matrix M × C·k….
fn flat<'a>(kernel: &KernelShape, weight: &'a WeightMatrix<'_>) -> Result<ArrayView2<'a, f32>, String> {
    let shape = (kernel.outputs, kernel.inputs * kernel.taps());
    ArrayView2::from_shape(shape, &weight.data).map_err(|e| e.to_string())
}

/// The share of a convolution's output that is lost with so many terms, from 0 on.
fn spatial_lost(graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let current = refit::current(graph, fitted.linear)?;
    let width = graph.value(fitted.linear.weight).constant().and_then(|t| t.shape().last().copied()).unwrap_or(1);
    budget::shares(fitted, &current.w, |c, w| {
        let most = (w.ncols() / width.max(1)).min(w.nrows() * width);
        Spatial::fitted(&OutputMetric::PLAIN, c, w, width, most, budget::RIDGE)?.lost(c, budget::RIDGE)
    })
}

/// By the rank of the weight as a matrix C·k_h × k_w·M.
fn spatial(
    cx: &Context<'_>,
    n: NodeId,
    rank: Rank,
    kernel: &KernelShape,
    weight: &WeightMatrix<'_>,
) -> Result<FoundFactors, String> {
    let w = tall(kernel, weight)?;
    let (outputs, rows, width) = (kernel.outputs, w.nrows(), w.ncols() / kernel.outputs);
    let (factors, mut what) = factorize(rank, w.view(), weight)?;
    let terms = factors.left.ncols();
    let across = |(m, z): (usize, usize)| f64::from(factors.right[(z % terms, z / terms * outputs + m)]);
    let across = Array2::from_shape_fn((outputs, width * terms), across);
    let mut found = Spatial { down: factors.left.t().mapv(f64::from), across };
    let mut bias = None;
    if let Some(fitted) = &cx.fitted {
        let find = |part: &GroupMoments, prior: ArrayView2<'_, f64>, lambda| {
            let found = Spatial::fitted(&fitted.metric.outputs, &part.fit, prior, width, terms, lambda)?;
            let found = found.mix(&part.fit, lambda)?;
            let w = found.product();
            Some((found, w))
        };
        let (better, b) = split::fit(cx.graph, fitted, found.product(), &mut what, find)?;
        (found, bias) = (better.unwrap_or(found), b);
    } else {
        what.push_str(&likely::said_of(cx.graph, n, &[found.product()]));
    }
    let terms = found.down.nrows();
    let down = weight.like([terms, kernel.inputs, rows / kernel.inputs, 1], found.down.iter().map(|&v| v as f32));
    let across = Array4::from_shape_fn((outputs, terms, 1, width), |(m, t, _, b)| found.across[(m, b * terms + t)]);
    let across = weight.like(across.shape(), across.iter().map(|&v| v as f32));
    Ok((what, [Factor { suffix: "v", weight: down }, Factor { suffix: "h", weight: across }], bias))
}

/// By the rank of the weight as a matrix M × C·k…: a convolution to as many channels as there are terms, then a 1×1.
fn channel(
    cx: &Context<'_>,
    n: NodeId,
    rank: Rank,
    kernel: &KernelShape,
    weight: &WeightMatrix<'_>,
) -> Result<FoundFactors, String> {
    let KernelShape { outputs, inputs, ref size, .. } = *kernel;
    let (Factors { mut left, mut right, .. }, mut what) = factorize(rank, flat(kernel, weight)?, weight)?;
    let (terms, axes) = (left.ncols(), size.len());
    let mut bias = None;
    let plain = left.dot(&right).mapv(f64::from);
    if let Some(fitted) = &cx.fitted {
        let find = split::low_rank(terms, &fitted.metric.outputs);
        let (better, b) = split::fit(cx.graph, fitted, plain, &mut what, find)?;
        bias = b;
        if let Some(better) = better {
            (left, right) = (better.0.mapv(|v| v as f32), better.1.mapv(|v| v as f32));
        }
    } else {
        what.push_str(&likely::said_of(cx.graph, n, &[plain]));
    }
    let down = weight.like([&[terms, inputs], size.as_slice()].concat(), right.iter().copied());
    let up = weight.like([&[outputs, terms], vec![1; axes].as_slice()].concat(), left.iter().copied());
    Ok((what, [Factor { suffix: "down", weight: down }, Factor { suffix: "up", weight: up }], bias))
}
