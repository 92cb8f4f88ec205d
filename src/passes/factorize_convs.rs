//! Splits a convolution into two smaller ones through fewer channels, by truncated singular value decomposition.
//!
//! `spatial` makes a k_h×1 convolution to r channels and a 1×k_w from them (Jaderberg et al., Speeding up Convolutional Neural
//! Networks with Low Rank Expansions, BMVC 2014): the kernel must have two axes. `channel` makes one of the whole kernel to r
//! channels and a 1×1 from them (Zhang et al., Accelerating Very Deep Convolutional Networks, 2015). What they make can be split
//! further by `separate-convs`. A rank that would not make the layer smaller is refused.
//!
//! | option | | default |
//! |---|---|---|
//! | `scheme` | `spatial` or `channel` | `spatial` |
//! | `rank` | r, the same for all layers | |
//! | `ratio` | instead of `rank`: the share of each weight's parameters to keep | 0.5 |
//! | `energy` | instead of `rank`: the smallest rank, layer by layer, that keeps this share of the squared weights | |
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
use crate::ir::{NodeId, Op, Patch};
use crate::math::Rank;
use crate::passes::options::{Selection, Share};
use crate::passes::split::{self, Half, Weight, factorize, rank_of};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use ndarray::{Array2, ArrayView2, ArrayView4, ShapeError};
use serde::Deserialize;
use std::num::NonZeroUsize;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct FactorizeConvs {
    scheme: Scheme,
    rank: Rank,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    scheme: Scheme,
    rank: Option<NonZeroUsize>,
    ratio: Option<Share>,
    energy: Option<Share>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scheme {
    #[default]
    Spatial,
    Channel,
}

/// L and R of W ≈ L R.
type Pair = (Array2<f32>, Array2<f32>);

impl TryFrom<Options> for FactorizeConvs {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        Ok(FactorizeConvs { scheme: o.scheme, rank: rank_of(o.rank, o.ratio, o.energy)? })
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

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        g.nodes().filter(|&n| matches!(g.node(n).op, Op::Conv(_))).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Node(n) = site else { return Verdict::skip("it is not a node") };
        Ok(Verdict::of(self.split(cx, n)))
    }
}

impl FactorizeConvs {
    fn split(&self, cx: &Context<'_>, n: NodeId) -> Result<(Patch, String), String> {
        let graph = cx.graph;
        let Op::Conv(conv) = &graph.node(n).op else { return Err("it is not a Conv".into()) };
        let weight = Weight::at(graph, n, 1)?;
        let kernel = conv.kernel(weight.tensor.shape()).ok_or("its weight does not divide into its groups")?;
        if kernel.groups > 1 {
            return Err("it is a convolution in groups".into());
        }
        if kernel.taps() == 1 {
            return Err("it is 1×1: `factorize-linear` splits it".into());
        }
        let whole = conv.grouped(&kernel, 1);
        let mut b = None;
        let fit = |factors: &mut Pair, what: &mut String, b: &mut Option<Vec<f64>>| {
            let Some(fitted) = &cx.fitted else { return Ok(()) };
            let plain = factors.0.dot(&factors.1).mapv(f64::from);
            if let Some((left, right, bias)) = split::fit_factors(graph, fitted, plain, factors.0.ncols(), what)? {
                *factors = (left.mapv(|v| v as f32), right.mapv(|v| v as f32));
                *b = Some(bias);
            }
            Ok::<_, String>(())
        };
        let (what, halves) = match (self.scheme, kernel.size.as_slice()) {
            (Scheme::Spatial, &[height, width]) => self.spatial(&whole, &kernel, [height, width], &weight)?,
            (Scheme::Spatial, _) => return Err("its kernel has not two axes: `scheme = \"channel\"` splits it".into()),
            (Scheme::Channel, _) => {
                let (mut factors, mut what) = self.channel(&kernel, &weight)?;
                fit(&mut factors, &mut what, &mut b)?;
                (what, channel_halves(whole, &kernel, &weight, factors))
            }
        };
        let bias = cx.fitted.as_ref().zip(b.as_deref()).map(|(fitted, b)| (fitted.linear, b));
        Ok((split::patch(graph, n, 1, halves, bias)?, what))
    }

    /// By the rank of the weight as a matrix C·k_h × M·k_w.
    fn spatial(
        &self,
        whole: &Conv,
        kernel: &Kernel,
        [height, width]: [usize; 2],
        weight: &Weight<'_>,
    ) -> Result<(String, [Half; 2]), String> {
        let Kernel { outputs, inputs, .. } = *kernel;
        let wrong = |e: ShapeError| e.to_string();
        let w = ArrayView4::from_shape((outputs, inputs, height, width), &weight.data).map_err(wrong)?;
        let w = w.permuted_axes([1, 2, 0, 3]);
        let w = w.to_shape((inputs * height, outputs * width)).map_err(wrong)?;
        let (factors, what) = factorize(self.rank, w.view(), weight)?;
        let rank = factors.left.ncols();
        let right = factors.right.to_shape((rank, outputs, width)).map_err(wrong)?;
        let v = weight.like([rank, inputs, height, 1], factors.left.t().iter().copied());
        let h = weight.like([outputs, rank, 1, width], right.view().permuted_axes([1, 0, 2]).iter().copied());
        let part = |axis| Op::from(Conv { window: whole.window.along(axis, 2), group: 1 });
        Ok((what, [Half { suffix: "v", op: part(0), weight: v }, Half { suffix: "h", op: part(1), weight: h }]))
    }

    /// By the rank of the weight as a matrix M × C·k….
    fn channel(&self, kernel: &Kernel, weight: &Weight<'_>) -> Result<(Pair, String), String> {
        let (outputs, inputs) = (kernel.outputs, kernel.inputs * kernel.taps());
        let w = ArrayView2::from_shape((outputs, inputs), &weight.data).map_err(|e| e.to_string())?;
        let (factors, what) = factorize(self.rank, w, weight)?;
        Ok(((factors.left, factors.right), what))
    }
}

/// A convolution to as many channels as there are terms, then a 1×1.
fn channel_halves(whole: Conv, kernel: &Kernel, weight: &Weight<'_>, (left, right): Pair) -> [Half; 2] {
    let Kernel { outputs, inputs, ref size, .. } = *kernel;
    let (rank, axes) = (left.ncols(), size.len());
    let down = weight.like([&[rank, inputs], size.as_slice()].concat(), right.iter().copied());
    let up = weight.like([&[outputs, rank], vec![1; axes].as_slice()].concat(), left.iter().copied());
    let pointwise = Conv::pointwise(axes, 1).into();
    [Half { suffix: "down", op: whole.into(), weight: down }, Half { suffix: "up", op: pointwise, weight: up }]
}
