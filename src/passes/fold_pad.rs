//! Lets a Conv or AveragePool do the padding with zeros that a Pad before it does.
//!
//! ```text
//! # run = [{ pass = "fold-pad" }]
//! model "pad" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %pads : i64[8] = {0,0,0,0,0,0,1,1}
//!   const %w : f32[16,3,3,3] = seed(1)
//!
//!   %p : f32[N,3,9,9] = Pad(%x, %pads)
//!   %y : f32[N,16,4,4] = Conv<strides=[2,2]>(%p, %w)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "pad" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w : f32[16,3,3,3]
//!
//!   %y : f32[N,16,4,4] = Conv<pads=[0,0,1,1], strides=[2,2]>(%x, %w)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::infer::Infer;
use crate::ir::op::conv::{AutoPad, Conv, Window};
use crate::ir::op::pad::{Pad, PadMode};
use crate::ir::op::pool::{Pool, Pooling};
use crate::ir::{Graph, NodeId, Op, Patch, Ref, Use};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FoldPad {}

impl Pass for FoldPad {
    fn name(&self) -> &'static str {
        "fold-pad"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let order = cx.graph.topological().unwrap_or_default();
        order.into_iter().filter(|&n| reader(cx.graph, n).is_some()).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let (Site::Node(n), g) = (site, cx.graph) else { return Verdict::skip("it is not a node") };
        match fold(g, n) {
            Ok((patch, layer)) => Ok(Verdict::Patch(patch, format!("folded into \"{}\"", g.label(layer)))),
            Err(why) => Verdict::skip(why),
        }
    }
}

/// The Conv or AveragePool that alone reads what a Pad makes.
fn reader(g: &Graph, n: NodeId) -> Option<NodeId> {
    let Op::Pad(_) = g.node(n).op else { return None };
    let Some(Use::Input(layer, 0)) = g.sole_use(g.output(n)?) else { return None };
    let takes = match &g.node(layer).op {
        Op::Conv(_) => true,
        Op::Pool(p) => matches!(p.function, Pooling::Average { .. }),
        _ => false,
    };
    (takes && !g.node(n).inconsistent && !g.node(layer).inconsistent).then_some(layer)
}

fn fold(g: &Graph, n: NodeId) -> Result<(Patch, NodeId), String> {
    let (Op::Pad(pad), Some(layer), Some(x)) = (&g.node(n).op, reader(g, n), g.input(n, 0)) else {
        return Err("no layer is after it by now".into());
    };
    let pads = zeros_around(g, n, pad)?;
    let op: Op = match &g.node(layer).op {
        Op::Conv(c) => Conv { window: padded(&c.window, &pads)?, ..c.clone() }.into(),
        Op::Pool(p) => {
            if p.function != (Pooling::Average { count_include_pad: true }) && p.window.pads.iter().any(|&p| p != 0) {
                return Err("the pool pads with what it does not count".into());
            }
            let window = padded(&p.window, &pads)?;
            let axes = pads.len();
            let narrow = |i: usize| {
                let (b, e) = window.pad(i, axes);
                p.window.kernel.get(i).is_some_and(|&k| b < k && e < k)
            };
            if p.window.ceil || !(0..axes).all(narrow) {
                return Err("the pool would count other windows".into());
            }
            Pool { window, function: Pooling::Average { count_include_pad: true } }.into()
        }
        _ => return Err("no layer is after it by now".into()),
    };
    let mut inputs: Vec<Option<Ref>> = g.node_inputs(layer).into_iter().map(|v| v.map(Ref::from)).collect();
    inputs[0] = Some(x.into());
    let mut patch = Patch::at_node(g, n);
    patch.set_op(layer, op);
    patch.set_inputs(layer, &inputs);
    Ok((patch, layer))
}

/// How many zeros a Pad puts before and after each spatial axis.
fn zeros_around(g: &Graph, n: NodeId, pad: &Pad) -> Result<Vec<(i64, i64)>, String> {
    let zero = match g.input(n, 2) {
        Some(_) => g.input_constant(n, 2).and_then(|c| c.float_scalar()) == Some(0.0),
        None => pad.value == 0.0,
    };
    if pad.mode != PadMode::Constant || !zero {
        return Err("it does not pad with zeros".into());
    }
    let cx = Infer::new(g, n);
    let rank = cx.shape(0).map(|x| x.rank()).ok_or("the rank of its input is not known")?;
    let all: Option<Vec<_>> = pad.amounts(&cx, rank)?.into_iter().collect();
    let all = all.ok_or("how much it pads is not known")?;
    match all.split_at_checked(2) {
        Some(([(0, 0), (0, 0)], spatial)) if spatial.iter().all(|&(b, e)| b >= 0 && e >= 0) => Ok(spatial.to_vec()),
        _ => Err("it does not pad the spatial axes alone".into()),
    }
}

/// A window over an input without these zeros around it.
fn padded(window: &Window, zeros: &[(i64, i64)]) -> Result<Window, String> {
    let axes = zeros.len();
    if window.auto_pad != AutoPad::NotSet {
        return Err("the layer finds its padding from the size of its input".into());
    }
    window.check(axes)?;
    let sums = zeros.iter().enumerate().map(|(i, &(b, e))| {
        let (begin, end) = window.pad(i, axes);
        begin.checked_add(b).zip(end.checked_add(e))
    });
    let (begins, ends): (Vec<_>, Vec<_>) =
        sums.collect::<Option<Vec<_>>>().ok_or("the padding overflows")?.into_iter().unzip();
    Ok(Window { pads: [begins, ends].concat(), ..window.clone() })
}
