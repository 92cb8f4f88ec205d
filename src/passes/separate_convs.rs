//! Splits convolutions into a depthwise and a 1×1 convolution, as in MobileNet, by singular value decomposition.
//!
//! The k-tap filters of each input channel (or, pointwise first, of each output channel) are replaced by their `rank` best
//! base filters, so parameters and multiplications fall by about k/rank: 4.5 times for 3×3 at rank 2. A rank of as many terms
//! as there are taps would be exact, and larger. (Guo et al., Network Decoupling, BMVC 2018.)
//!
//! With calibration data the two are fitted to what the layer gives there, not to its weight. The report then has the error
//! ‖Y − Y'‖ / ‖Y − ȳ‖ of the layer itself that its moments predict on the samples it was fitted to, and the error behind its
//! activation on held-back samples, before and after the fit.
//!
//! | option | | default |
//! |---|---|---|
//! | `rank` | base filters a channel | 2 |
//! | `energy` | instead of `rank`: the fewest, layer by layer, that keep this share of the squared weights | |
//! | `order` | `depthwise-first`, `pointwise-first`, or `auto`: where the stride is 1, pointwise first if that has the smaller weight error at about as many parameters, or with `energy` if it takes fewer | `auto` |
//! | `skip-first` | layers left alone: the first has few channels and is worth little | 1 |
//!
//! A convolution in groups is split inside its groups. Depthwise and 1×1 convolutions are left alone, and so is one that would
//! not get smaller.
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

use crate::error::Result;
use crate::ir::op::conv::{Conv, Kernel};
use crate::ir::{Graph, NodeId, Op, Patch};
use crate::math::fit::Fit;
use crate::math::separate::fitted::Mixed;
use crate::math::{Layer, Separable, separate};
use crate::passes::options::{Selection, Share, one_of};
use crate::passes::split::{self, Half, NO_SVD, Weight, note};
use crate::passes::{Context, Fidelity, Fitted, Pass, Phase, Site, Verdict, refit};
use ndarray::{Array3, ArrayView3, ArrayView4, Axis};
use serde::Deserialize;
use std::num::NonZeroUsize;

/// Rounds in which every channel's filters are fitted to what the others leave over.
const SWEEPS: usize = 1;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct SeparateConvs {
    terms: Terms,
    order: Order,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    rank: Option<NonZeroUsize>,
    energy: Option<Share>,
    order: Order,
}

#[derive(Debug, Clone, Copy)]
enum Terms {
    Rank(usize),
    Energy(f64),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    DepthwiseFirst,
    PointwiseFirst,
    #[default]
    Auto,
}

impl TryFrom<Options> for SeparateConvs {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        if o.energy == Some(Share(0.0)) {
            return Err("`energy` = 0 would leave nothing".into());
        }
        let rank = ("rank", o.rank.map(|r| Terms::Rank(r.get())));
        let energy = ("energy", o.energy.map(|s| Terms::Energy(s.0)));
        Ok(SeparateConvs { terms: one_of([rank, energy])?.unwrap_or(Terms::Rank(2)), order: o.order })
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
        Selection { skip_first: 1, ..Selection::default() }
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        g.nodes().filter(|&n| matches!(g.node(n).op, Op::Conv(_))).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Node(n) = site else { return Verdict::skip("it is not a node") };
        Ok(Verdict::of(self.split(cx, n)))
    }
}

impl SeparateConvs {
    fn split(&self, cx: &Context<'_>, n: NodeId) -> Result<(Patch, String), String> {
        let graph = cx.graph;
        let Op::Conv(conv) = &graph.node(n).op else { return Err("it is not a Conv".into()) };
        let weight = Weight::at(graph, n, 1)?;
        let kernel = conv.kernel(weight.tensor.shape()).ok_or("its weight does not divide into its groups")?;
        if kernel.inputs == 1 && kernel.groups > 1 {
            return Err("it is depthwise: it mixes no channels".into());
        }
        if kernel.taps() == 1 {
            return Err("it is 1×1: there is nothing spatial to split off".into());
        }
        let form = self.form(conv, &kernel, &weight, cx.fitted.is_some()).ok_or(NO_SVD)?;
        let (order, rank, full) = (form.order(), form.terms, form.separable.full());
        if let Some(why) = weight.refuses(rank, full, form.parameters_a_term()) {
            return Err(format!("{order}, {why}"));
        }
        let (filters, mixes) = (form.separable.filters(rank), form.separable.mixes(rank));
        let parameters = (weight.tensor.len(), form.parameters());
        let mut what = note(&format!("{order}, "), rank, full, form.separable.error(rank), parameters);
        let Some(fitted) = cx.fitted.filter(|_| form.first == First::Depthwise) else {
            let halves = form.halves(conv, &weight, filters.view(), mixes.view()).ok_or(NO_SVD)?;
            return Ok((split::patch(graph, n, 1, halves, None)?, what));
        };
        let (mixed, b) = fit(graph, &fitted, &form, &mut what)?;
        let (filters, mixes) = (mixed.filters.mapv(|v| v as f32), mixed.mixes.mapv(|v| v as f32));
        let halves = form.halves(conv, &weight, filters.view(), mixes.view()).ok_or(NO_SVD)?;
        Ok((split::patch(graph, n, 1, halves, Some((fitted.linear, &b)))?, what))
    }

    /// The form that the options ask for. `None` if the decomposition fails.
    fn form<'a>(&self, conv: &Conv, kernel: &'a Kernel, weight: &Weight<'_>, data: bool) -> Option<Form<'a>> {
        let form = |first| {
            let separable = decompose(first, kernel, &weight.data)?;
            let terms = match self.terms {
                Terms::Rank(rank) => rank.min(separable.full()),
                Terms::Energy(share) => separable.terms_for_energy(share),
            };
            Some(Form { first, kernel, separable, terms })
        };
        let strided = conv.window.strides.iter().any(|&s| s > 1);
        match self.order {
            Order::PointwiseFirst => return form(First::Pointwise),
            Order::DepthwiseFirst => return form(First::Depthwise),
            // Pointwise first, the 1×1 would run at all positions, also those between the strides, and its filters cannot
            // be found from the moments of the input.
            Order::Auto if strided || data => return form(First::Depthwise),
            Order::Auto => {}
        }
        let (depthwise, mut pointwise) = (form(First::Depthwise)?, form(First::Pointwise)?);
        let better = match self.terms {
            Terms::Energy(_) => pointwise.parameters() < depthwise.parameters(),
            Terms::Rank(_) => {
                let (budget, a_term) = (depthwise.parameters(), pointwise.parameters_a_term());
                let nearest = (2 * budget + a_term) / (2 * a_term);
                pointwise.terms = nearest.min(pointwise.separable.full());
                pointwise.separable.error(pointwise.terms) < depthwise.separable.error(depthwise.terms)
            }
        };
        Some(if better { pointwise } else { depthwise })
    }
}

/// The filters and mixes that the data asks for, depthwise first, and the bias that goes with them; plain ones if those
/// are no better on what was held back. (Sequential repair toward the teacher's outputs, as in He et al. 2017, Channel
/// Pruning, for separable filters.)
fn fit(graph: &Graph, fitted: &Fitted<'_>, form: &Form<'_>, what: &mut String) -> Result<(Mixed, Vec<f64>), String> {
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
    let solve = |layer: &Layer, from: Option<&Vec<Mixed>>| {
        let groups = layer.parts.iter().zip(&current.w).enumerate();
        let found: Vec<Mixed> = groups
            .map(|(g, (p, w))| separate::fitted::fitted(p, w.view(), taps, terms, SWEEPS, from.map(|f| &f[g])))
            .collect::<Option<_>>()?;
        layer.best_ridge(|lambda| {
            let parts = layer.parts.iter().zip(&found);
            let mixed: Vec<Mixed> = parts.map(|(p, m)| separate::fitted::mix(p, m, lambda)).collect::<Option<_>>()?;
            let fit = layer.with_bias(products(&mixed));
            Some((mixed, fit))
        })
    };
    let chosen = refit::settle(fitted, &before, solve);
    what.push_str(&chosen.predicted_note());
    let (fit, mixed) = chosen.repaired.unwrap_or((before, plain));
    let join = |get: fn(&Mixed) -> &Array3<f64>| {
        let views: Vec<_> = mixed.iter().map(|m| get(m).view()).collect();
        ndarray::concatenate(Axis(0), &views).map_err(|e| e.to_string())
    };
    Ok((Mixed { filters: join(|m| &m.filters)?, mixes: join(|m| &m.mixes)? }, fit.b))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Depthwise,
    Pointwise,
}

/// One way to split a convolution.
struct Form<'a> {
    first: First,
    kernel: &'a Kernel,
    separable: Separable,
    terms: usize,
}

/// The weight by input channel (outputs of its group × taps) or by output channel (inputs of its group × taps).
fn decompose(first: First, kernel: &Kernel, weight: &[f32]) -> Option<Separable> {
    let Kernel { outputs, inputs, groups, .. } = *kernel;
    let (a_group, taps) = (outputs / groups, kernel.taps());
    match first {
        First::Depthwise => {
            let w = ArrayView4::from_shape((groups, a_group, inputs, taps), weight).ok()?.permuted_axes([0, 2, 1, 3]);
            Separable::new(w.to_shape((groups * inputs, a_group, taps)).ok()?.view())
        }
        First::Pointwise => Separable::new(ArrayView3::from_shape((outputs, inputs, taps), weight).ok()?),
    }
}

impl Form<'_> {
    fn order(&self) -> &'static str {
        match self.first {
            First::Depthwise => "depthwise first",
            First::Pointwise => "pointwise first",
        }
    }

    /// Channels that the depthwise convolution reads, or pointwise first, writes.
    fn channels(&self) -> usize {
        match self.first {
            First::Depthwise => self.kernel.groups * self.kernel.inputs,
            First::Pointwise => self.kernel.outputs,
        }
    }

    fn parameters_a_term(&self) -> usize {
        self.channels() * self.kernel.taps() + self.kernel.outputs * self.kernel.inputs
    }

    fn parameters(&self) -> usize {
        self.terms * self.parameters_a_term()
    }

    /// `filters` are channels × terms × taps, `mixes` channels × what they mix to or from × terms.
    fn halves(
        &self,
        conv: &Conv,
        weight: &Weight<'_>,
        filters: ArrayView3<'_, f32>,
        mixes: ArrayView3<'_, f32>,
    ) -> Option<[Half; 2]> {
        let (kernel, terms, channels) = (self.kernel, self.terms, self.channels());
        let Kernel { outputs, inputs, groups, .. } = *kernel;
        let shape = |to: usize, from: usize, size: &[usize]| [&[to, from], size].concat();
        let ones = vec![1; kernel.size.len()];
        let (spatial_weight, mixing_weight) = match self.first {
            First::Depthwise => {
                // By input channel and term to, for each output, the input channels of its group and their terms.
                let by_group = mixes.to_shape((groups, inputs, outputs / groups, terms)).ok()?;
                let by_output = by_group.view().permuted_axes([0, 2, 1, 3]);
                let mixing = weight.like(shape(outputs, inputs * terms, &ones), by_output.iter().copied());
                (weight.like(shape(channels * terms, 1, &kernel.size), filters.iter().copied()), mixing)
            }
            First::Pointwise => {
                let by_term = mixes.permuted_axes([0, 2, 1]);
                let mixing = weight.like(shape(outputs * terms, inputs, &ones), by_term.iter().copied());
                (weight.like(shape(outputs, terms, &kernel.size), filters.iter().copied()), mixing)
            }
        };
        let spatial = Half { suffix: "dw", op: conv.grouped(kernel, channels).into(), weight: spatial_weight };
        let mixing = Half { suffix: "pw", op: Conv::pointwise(ones.len(), groups).into(), weight: mixing_weight };
        Some(if self.first == First::Depthwise { [spatial, mixing] } else { [mixing, spatial] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    /// A rank that is exact never pays, so no graph shows it: the two weights are multiplied out here.
    #[test]
    fn all_terms_are_exact() {
        let text = "model \"m\" opset 17 {
            input %x : f32[1,6,8,8]
            const %w : f32[8,3,3,2] = seed(1)

            %y : f32[1,8,6,7] = Conv<group=2>(%x, %w) @conv

            output %y
        }";
        let graph = parse::model(text).unwrap().graph;
        let n = graph.nodes().next().unwrap();
        let Op::Conv(conv) = &graph.node(n).op else { panic!("a Conv") };
        let weight = Weight::at(&graph, n, 1).unwrap();
        let kernel = conv.kernel(weight.tensor.shape()).unwrap();
        for first in [First::Depthwise, First::Pointwise] {
            let separable = decompose(first, &kernel, &weight.data).unwrap();
            let terms = separable.full();
            let (filters, mixes) = (separable.filters(terms), separable.mixes(terms));
            let form = Form { first, kernel: &kernel, separable, terms };
            let halves = form.halves(conv, &weight, filters.view(), mixes.view()).unwrap();
            let [a, b] = halves.map(|h| h.weight.as_f32().unwrap().into_owned());
            for (at, w) in weight.data.iter().enumerate() {
                let (output, input, tap) = (at / 18, at / 6 % 3, at % 6);
                let channel = output / 4 * 3 + input;
                let product = |t: usize| match first {
                    First::Depthwise => a[(channel * terms + t) * 6 + tap] * b[(output * 3 + input) * terms + t],
                    First::Pointwise => a[(output * terms + t) * 3 + input] * b[(output * terms + t) * 6 + tap],
                };
                assert!(((0..terms).map(product).sum::<f32>() - w).abs() < 1e-5, "{first:?} at {at}");
            }
        }
    }
}
