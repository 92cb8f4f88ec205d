//! Splits a convolution into two smaller ones through fewer channels, by truncated singular value decomposition.
//!
//! `spatial` makes a k_h×1 convolution to r channels and a 1×k_w from them (Jaderberg et al., Speeding up Convolutional Neural
//! Networks with Low Rank Expansions, BMVC 2014): the kernel must have two axes. `channel` makes one of the whole kernel to r
//! channels and a 1×1 from them (Zhang et al., Accelerating Very Deep Convolutional Networks, 2015). What they make can be split
//! further by `separate-convs`. A rank that would not make the layer smaller is refused.
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
//! | `scheme` | `spatial` or `channel` | `spatial` |
//! | `rank` | r, the same for all layers | |
//! | `ratio` | instead of `rank`: the share of each weight's parameters to keep | 0.5 |
//! | `energy` | instead of `rank`: the smallest rank, layer by layer, that keeps this share of the squared weights | |
//! | `params`, `macs` | instead of `rank`: the share of the model's parameters or MACs to keep at most; ranks are dealt out to the layers where they lose least, of which none loses more than `max-loss` of its output | |
//! | `skip-first` | layers left alone: the first has few channels and is worth little | 1 |
//!
//! Convolutions in groups and 1×1 convolutions (`factorize-linear` splits those) are left alone.
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

use crate::error::Result;
use crate::ir::op::conv::{Conv, Kernel};
use crate::ir::{Graph, NodeId, Op, Patch};
use crate::math::fit::Part;
use crate::math::spatial::Spatial;
use crate::math::{Factors, Rank};
use crate::passes::budget::{self, Budget, Offers, Reach};
use crate::passes::options::{Selection, Share};
use crate::passes::split::{self, Factor, Reader, Size, SizeOptions, Weight, convs, factorize};
use crate::passes::{Context, Fidelity, Fitted, Pass, Phase, Questions, Site, Verdict, refit, sharing};
use ndarray::{Array2, Array4, ArrayView2, ArrayView3};
use serde::Deserialize;
use std::num::NonZeroUsize;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct FactorizeConvs {
    scheme: Scheme,
    size: Size<Rank>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    scheme: Scheme,
    rank: Option<NonZeroUsize>,
    ratio: Option<Share>,
    energy: Option<Share>,
    params: Option<Share>,
    macs: Option<Share>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scheme {
    #[default]
    Spatial,
    Channel,
}

/// How it reads in the report, the two factors, and the bias if it is another.
type Found = (String, [Factor; 2], Option<Vec<f64>>);

impl TryFrom<Options> for FactorizeConvs {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        let Options { scheme, rank, ratio, energy, params, macs } = o;
        Ok(FactorizeConvs { scheme, size: SizeOptions { rank, ratio, energy, params, macs }.size()? })
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
        Selection { skip_first: 1, ..Selection::default() }
    }

    fn is_strong(&self) -> bool {
        self.size.is_strong(split::is_strong)
    }

    fn budget(&self) -> Option<Budget> {
        self.size.budget()
    }

    fn reach(&self, cx: &Context<'_>) -> Option<Reach> {
        budget::reach(cx, self.size.budget()?, &self.offers(cx))
    }

    fn questions<'a>(&'a self, cx: &Context<'a>) -> Option<Questions<'a>> {
        let (g, selected) = (cx.graph, cx.selected);
        let ours = |n: &NodeId| selected.refuses(g, &site(*n)).is_none() && self.convs(g, *n).is_ok();
        let note = |fitted: &Fitted<'_>| match self.scheme {
            Scheme::Channel => split::low_rank_lost(g, fitted),
            Scheme::Spatial => spatial_lost(g, fitted),
        };
        let layers = || convs(g).into_iter().filter(ours).collect();
        self.size.budget().map(|_| Questions { layers: layers(), note: Box::new(note) })
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        let Some((n, rank)) = self.size.at(site, Rank::Terms) else { return Some("it is not a layer".into()) };
        let layers = match self.convs(cx.graph, n) {
            Ok(layers) => layers,
            Err(why) => return Some(why),
        };
        let Some(rank) = rank else { return Some(budget::WHOLE.into()) };
        let (_, weight, kernel) = layers.first()?;
        let (m, n) = match self.scheme {
            Scheme::Channel => (kernel.outputs, kernel.inputs * kernel.taps()),
            Scheme::Spatial => {
                let width = kernel.outputs * kernel.size.last().copied().unwrap_or(1);
                (weight.tensor.len() / width.max(1), width)
            }
        };
        split::no_gain(rank, m, n, weight)
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let Some(budget) = self.size.budget() else { return convs(g).into_iter().map(site).collect() };
        budget::sites(cx, budget, self.offers(cx))
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Some((n, rank)) = self.size.at(&site, Rank::Terms) else { return Verdict::skip("it is not a layer") };
        Ok(Verdict::of(self.split(cx, n, rank)))
    }
}

fn site(node: NodeId) -> Site {
    Site::Layer { node, rank: None }
}

impl FactorizeConvs {
    /// A convolution and those that share its weight.
    fn convs<'g>(&self, graph: &'g Graph, n: NodeId) -> Result<Vec<(NodeId, Weight<'g>, Kernel)>, String> {
        sharing::all(graph, n, |n| self.conv(graph, n).map(|(_, weight, kernel)| (n, weight, kernel)))
    }

    /// A convolution that can be split.
    fn conv<'g>(&self, graph: &'g Graph, n: NodeId) -> Result<(&'g Conv, Weight<'g>, Kernel), String> {
        let Op::Conv(conv) = &graph.node(n).op else { return Err("it is not a Conv".into()) };
        let weight = Weight::at(graph, n, 1)?;
        let kernel = conv.kernel(weight.tensor.shape()).ok_or("its weight does not divide into its groups")?;
        if kernel.groups > 1 {
            return Err("it is a convolution in groups".into());
        }
        if kernel.taps() == 1 {
            return Err("it is 1×1: `factorize-linear` splits it".into());
        }
        if self.scheme == Scheme::Spatial && kernel.size.len() != 2 {
            return Err("its kernel has not two axes: `scheme = \"channel\"` splits it".into());
        }
        Ok((conv, weight, kernel))
    }

    fn split(&self, cx: &Context<'_>, n: NodeId, rank: Option<Rank>) -> Result<(Patch, String), String> {
        let layers = self.convs(cx.graph, n)?;
        let (_, weight, kernel) = layers.first().ok_or("it is no layer")?;
        let rank = rank.ok_or(budget::WHOLE)?;
        let (what, factors, b) = match self.scheme {
            Scheme::Spatial => spatial(cx, rank, kernel, weight)?,
            Scheme::Channel => channel(cx, rank, kernel, weight)?,
        };
        let bias = cx.fitted.as_ref().zip(b.as_deref()).map(|(fitted, b)| (fitted.linear, b));
        let what = what + &sharing::note(layers.len());
        let reader = |(node, ..): &(NodeId, _, _)| {
            let (conv, _, kernel) = self.conv(cx.graph, *node)?;
            Ok(Reader { node: *node, slot: 1, ops: self.ops(conv, &kernel), turned: false })
        };
        let readers = layers.iter().map(reader).collect::<Result<_, String>>()?;
        Ok((split::patch(cx.graph, readers, factors, bias)?, what))
    }

    /// The two that take the place of a convolution.
    fn ops(&self, conv: &Conv, kernel: &Kernel) -> [Op; 2] {
        let whole = conv.grouped(kernel, 1);
        let part = |axis| Op::from(Conv { window: whole.window.along(axis, 2), group: 1 });
        match self.scheme {
            Scheme::Spatial => [part(0), part(1)],
            Scheme::Channel => [whole.into(), Conv::pointwise(kernel.size.len(), 1).into()],
        }
    }

    fn offers(&self, cx: &Context<'_>) -> Offers {
        let sized = cx.sized();
        convs(cx.graph).into_iter().map(|n| (n, self.ways(cx, &sized, n))).collect()
    }

    /// What a budget may do with a convolution.
    fn ways(&self, cx: &Context<'_>, sized: &Graph, n: NodeId) -> Result<budget::Layer, String> {
        let graph = cx.graph;
        let layers = self.convs(graph, n)?;
        let (_, weight, kernel) = layers.first().ok_or("it is no layer")?;
        if let Some(why) = cx.selected.refuses(graph, &site(n)) {
            return Err(why);
        }
        let w = match self.scheme {
            Scheme::Spatial => tall(kernel, weight)?,
            Scheme::Channel => flat(kernel, weight)?.to_owned(),
        };
        // Of the spatial two, the first has the input's width.
        let first = w.nrows() as f64 / (w.nrows() + w.ncols()) as f64;
        let positions = |n: NodeId| match self.scheme {
            Scheme::Spatial => budget::spread(sized, n, 3).map(|wide| first * wide + 1.0 - first),
            Scheme::Channel => Some(1.0),
        };
        let full = w.nrows().min(w.ncols());
        let lost = budget::losses(cx, n, full, || split::plain_lost(w.view())).ok_or(split::NO_SVD)?;
        let readers: Vec<_> = layers.iter().map(|l| (l.0, positions(l.0))).collect();
        Ok(budget::Layer::new(sized, n, &readers, weight.tensor.len(), w.nrows() + w.ncols(), &lost))
    }
}

/// The weight as a matrix C·k_h × k_w·M.
fn tall(kernel: &Kernel, weight: &Weight<'_>) -> Result<Array2<f32>, String> {
    let (outputs, width) = (kernel.outputs, kernel.size.last().copied().unwrap_or(1));
    let rows = weight.tensor.len() / (outputs * width).max(1);
    // Input channel and height are one axis as the weight lies.
    let w = ArrayView3::from_shape((outputs, rows, width), &weight.data).map_err(|e| e.to_string())?;
    let w = w.permuted_axes([1, 2, 0]);
    Ok(w.to_shape((rows, width * outputs)).map_err(|e| e.to_string())?.into_owned())
}

/// The weight as a matrix M × C·k….
fn flat<'a>(kernel: &Kernel, weight: &'a Weight<'_>) -> Result<ArrayView2<'a, f32>, String> {
    let shape = (kernel.outputs, kernel.inputs * kernel.taps());
    ArrayView2::from_shape(shape, &weight.data).map_err(|e| e.to_string())
}

/// The share of a convolution's output that is lost with so many terms, from 0 on.
fn spatial_lost(graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let current = refit::current(graph, fitted.linear)?;
    let width = graph.value(fitted.linear.weight).constant().and_then(|t| t.shape().last().copied()).unwrap_or(1);
    let lost = fitted.layer.parts.iter().zip(&current.w).map(|(part, w)| {
        let most = (w.ncols() / width.max(1)).min(w.nrows() * width);
        Spatial::fitted(part, w.view(), width, most, budget::RIDGE)?.lost(part, budget::RIDGE)
    });
    budget::shares(fitted.layer, lost)
}

/// By the rank of the weight as a matrix C·k_h × k_w·M.
fn spatial(cx: &Context<'_>, rank: Rank, kernel: &Kernel, weight: &Weight<'_>) -> Result<Found, String> {
    let w = tall(kernel, weight)?;
    let (outputs, rows, width) = (kernel.outputs, w.nrows(), w.ncols() / kernel.outputs);
    let (factors, mut what) = factorize(rank, w.view(), weight)?;
    let terms = factors.left.ncols();
    let across = |(m, z): (usize, usize)| f64::from(factors.right[(z % terms, z / terms * outputs + m)]);
    let across = Array2::from_shape_fn((outputs, width * terms), across);
    let mut found = Spatial { down: factors.left.t().mapv(f64::from), across };
    let mut bias = None;
    if let Some(fitted) = &cx.fitted {
        let find = |part: &Part, prior: ArrayView2<'_, f64>, lambda| {
            let found = Spatial::fitted(part, prior, width, terms, lambda)?.mix(part, lambda)?;
            let w = found.product();
            Some((found, w))
        };
        let (better, b) = split::fit(cx.graph, fitted, found.product(), &mut what, find)?;
        (found, bias) = (better.unwrap_or(found), b);
    }
    let terms = found.down.nrows();
    let down = weight.like([terms, kernel.inputs, rows / kernel.inputs, 1], found.down.iter().map(|&v| v as f32));
    let across = Array4::from_shape_fn((outputs, terms, 1, width), |(m, t, _, b)| found.across[(m, b * terms + t)]);
    let across = weight.like(across.shape(), across.iter().map(|&v| v as f32));
    Ok((what, [Factor { suffix: "v", weight: down }, Factor { suffix: "h", weight: across }], bias))
}

/// By the rank of the weight as a matrix M × C·k…: a convolution to as many channels as there are terms, then a 1×1.
fn channel(cx: &Context<'_>, rank: Rank, kernel: &Kernel, weight: &Weight<'_>) -> Result<Found, String> {
    let Kernel { outputs, inputs, ref size, .. } = *kernel;
    let (Factors { mut left, mut right, .. }, mut what) = factorize(rank, flat(kernel, weight)?, weight)?;
    let (terms, axes) = (left.ncols(), size.len());
    let mut bias = None;
    if let Some(fitted) = &cx.fitted {
        let plain = left.dot(&right).mapv(f64::from);
        let find = split::low_rank(terms);
        let (better, b) = split::fit(cx.graph, fitted, plain, &mut what, find)?;
        bias = b;
        if let Some(better) = better {
            (left, right) = (better.0.mapv(|v| v as f32), better.1.mapv(|v| v as f32));
        }
    }
    let down = weight.like([&[terms, inputs], size.as_slice()].concat(), right.iter().copied());
    let up = weight.like([&[outputs, terms], vec![1; axes].as_slice()].concat(), left.iter().copied());
    Ok((what, [Factor { suffix: "down", weight: down }, Factor { suffix: "up", weight: up }], bias))
}
