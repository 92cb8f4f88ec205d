//! Splits convolutions into a depthwise and a 1×1 convolution, as in MobileNet, by singular value decomposition.
//!
//! The k-tap filters of each input channel (or, pointwise first, of each output channel) are replaced by their `rank` best
//! base filters, so parameters and multiplications fall by about k/rank: 4.5 times for 3×3 at rank 2. A rank of as many terms
//! as there are taps would be exact, and larger. (Guo et al., Network Decoupling, BMVC 2018.)
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
use crate::math::Separable;
use crate::passes::options::{Selection, Share, one_of};
use crate::passes::split::{self, Half, NO_SVD, Weight, note};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use ndarray::{ArrayView3, ArrayView4};
use serde::Deserialize;
use std::num::NonZeroUsize;

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
        Ok(Verdict::of(self.split(cx.graph, n)))
    }
}

impl SeparateConvs {
    fn split(&self, graph: &Graph, n: NodeId) -> Result<(Patch, String), String> {
        let Op::Conv(conv) = &graph.node(n).op else { return Err("it is not a Conv".into()) };
        let weight = Weight::at(graph, n, 1)?;
        let kernel = conv.kernel(weight.tensor.shape()).ok_or("its weight does not divide into its groups")?;
        if kernel.inputs == 1 && kernel.groups > 1 {
            return Err("it is depthwise: it mixes no channels".into());
        }
        if kernel.taps() == 1 {
            return Err("it is 1×1: there is nothing spatial to split off".into());
        }
        let form = self.form(conv, &kernel, &weight).ok_or(NO_SVD)?;
        let (order, rank, full) = (form.order(), form.terms, form.separable.full());
        if let Some(why) = weight.refuses(rank, full, form.parameters_a_term()) {
            return Err(format!("{order}, {why}"));
        }
        let halves = form.halves(conv, &weight).ok_or(NO_SVD)?;
        let parameters = (weight.tensor.len(), form.parameters());
        let what = note(&format!("{order}, "), rank, full, form.separable.error(rank), parameters);
        Ok((split::patch(graph, n, 1, halves)?, what))
    }

    /// The form that the options ask for. `None` if the decomposition fails.
    fn form<'a>(&self, conv: &Conv, kernel: &'a Kernel, weight: &Weight<'_>) -> Option<Form<'a>> {
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
            // Pointwise first, the 1×1 would run at all positions, also those between the strides.
            Order::Auto if strided => return form(First::Depthwise),
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

    fn halves(&self, conv: &Conv, weight: &Weight<'_>) -> Option<[Half; 2]> {
        let (kernel, terms, channels) = (self.kernel, self.terms, self.channels());
        let Kernel { outputs, inputs, groups, .. } = *kernel;
        let shape = |to: usize, from: usize, size: &[usize]| [&[to, from], size].concat();
        let ones = vec![1; kernel.size.len()];
        let (filters, mixes) = (self.separable.filters(terms), self.separable.mixes(terms));
        let (spatial_weight, mixing_weight) = match self.first {
            First::Depthwise => {
                // By input channel and term to, for each output, the input channels of its group and their terms.
                let by_group = mixes.to_shape((groups, inputs, outputs / groups, terms)).ok()?;
                let by_output = by_group.view().permuted_axes([0, 2, 1, 3]);
                let mixing = weight.like(shape(outputs, inputs * terms, &ones), by_output.iter().copied());
                (weight.like(shape(channels * terms, 1, &kernel.size), filters), mixing)
            }
            First::Pointwise => {
                let by_term = mixes.view().permuted_axes([0, 2, 1]);
                let mixing = weight.like(shape(outputs * terms, inputs, &ones), by_term.iter().copied());
                (weight.like(shape(outputs, terms, &kernel.size), filters), mixing)
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
            let halves = Form { first, kernel: &kernel, separable, terms }.halves(conv, &weight).unwrap();
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
