//! Removes nodes that pass an input on as it is, and joins neighbours that one node can do.
//!
//! Passed on: Identity, Dropout outside training, Cast to the same type, Reshape and its kin to the same shape, Transpose
//! that moves nothing, Pad by nothing, Slice of everything, Expand and Tile by one, Concat, Sum, Min, Max and Mean of one
//! input, adding 0, multiplying by 1. Joined: Transpose, Reshape and its kin, Cast (if the first loses nothing), Concat. LSTM,
//! GRU and RNN begin with zeros if nothing is fed: states of zeros that the graph makes for them go.
//!
//! ```text
//! # run = [{ pass = "remove-no-ops" }]
//! model "nothing" opset 17 {
//!   input %x : f32[N,4,5]
//!
//!   %a : f32[N,4,5] = Identity(%x)
//!   %b : f32[N,5,4] = Transpose<perm=[0,2,1]>(%a)
//!   %c : f32[5,N,4] = Transpose<perm=[1,0,2]>(%b)
//!   %y : f32[5,N,4] = Relu(%c)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "nothing" opset 17 {
//!   input %x : f32[N,4,5]
//!
//!   %c : f32[5,N,4] = Transpose<perm=[2,0,1]>(%x)
//!   %y : f32[5,N,4] = Relu(%c)
//!
//!   output %y
//! }
//! ```

use crate::analysis::bytes;
use crate::analysis::readers::moved;
use crate::error::Result;
use crate::ir::infer::axis;
use crate::ir::op::cast::{Cast, widens};
use crate::ir::op::concat::Concat;
use crate::ir::op::reshape::Reshape;
use crate::ir::op::transpose::Transpose;
use crate::ir::{DType, Dim, Graph, NodeId, Op, Patch, Ref, Shape, Tensor, Use, ValueId, infer::Infer};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

/// Input slots of the states that a recurrent layer begins with.
const STATE: usize = 5;
const CELL: usize = 6;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RemoveNoOps {}

impl Pass for RemoveNoOps {
    fn name(&self) -> &'static str {
        "remove-no-ops"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let order = cx.graph.topological().unwrap_or_default();
        order.into_iter().filter(|&n| plan(cx.graph, n).is_some()).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Node(n) = site else { return Verdict::skip("it is not a node") };
        match plan(cx.graph, n) {
            Some(NoOp::PassOn(from)) => pass_on(cx.graph, n, from),
            Some(NoOp::Join(patch)) => Ok(Verdict::Patch(patch, "joined with what comes before it".into())),
            Some(NoOp::Start(patch)) => Ok(Verdict::Patch(patch, "begins with zeros by itself".into())),
            None => Verdict::skip("it does something by now"),
        }
    }
}

enum NoOp {
    /// Output 0 is this value.
    PassOn(ValueId),
    Join(Patch),
    /// It needs no state to begin with.
    Start(Patch),
}

fn plan(g: &Graph, n: NodeId) -> Option<NoOp> {
    let node = g.node(n);
    let op = node.op.operator().filter(|_| !node.inconsistent)?;
    let others_unread = g.node_outputs(n).iter().skip(1).flatten().all(|&v| g.is_unused(v));
    if let Some(slot) = op.passes_on(&Infer::new(g, n)) {
        return g.input(n, slot).filter(|_| others_unread && g.output(n).is_some()).map(NoOp::PassOn);
    }
    match &node.op {
        Op::Transpose(t) => join_transposes(g, n, t),
        Op::Cast(c) => join_casts(g, n, c),
        Op::Concat(c) => join_concats(g, n, c),
        Op::Rnn(_) => start_from_zeros(g, n),
        op if is_view(op) => join_views(g, n),
        _ => None,
    }
}

fn pass_on(g: &Graph, n: NodeId, from: ValueId) -> Result<Verdict> {
    let Some(y) = g.output(n) else { return Verdict::skip("it has no output") };
    let types = g.value(y).ty.as_ref().zip(g.value(from).ty.as_ref());
    if types.is_some_and(|(a, b)| !a.agrees(b)) {
        return Verdict::skip("the file declares another type for its output than for its input");
    }
    if let Some(why) = g.refuses_replace(y, from) {
        return Verdict::skip(why);
    }
    if let Some(tensor) = g.value(from).constant().filter(|_| g.is_held(y)) {
        if !g.is_read_only_within(from, |m| m == n) {
            return Verdict::skip("a constant would be stored a second time under the output's name");
        }
        let node = bytes::CONSTANT_NODE + bytes::initializer(&g.value(y).name, tensor);
        if node > bytes::freed(g, n) {
            return Verdict::skip("a constant takes more bytes as an output than the node does");
        }
    }
    let mut patch = Patch::at_node(g, n).revealing();
    patch.replace(y, from);
    Ok(Verdict::Patch(patch, "removed: it passes its input on".into()))
}

fn start_from_zeros(g: &Graph, n: NodeId) -> Option<NoOp> {
    let mut inputs: Vec<Option<Ref>> = g.node_inputs(n).into_iter().map(|v| v.map(Ref::Old)).collect();
    let zero = |slot: &usize| g.input(n, *slot).is_some_and(|v| is_zero(g, v));
    let zeros: Vec<usize> = [STATE, CELL].into_iter().filter(zero).collect();
    zeros.iter().for_each(|&slot| inputs[slot] = None);
    let used = inputs.iter().rposition(Option::is_some)?;
    let mut patch = Patch::at_node(g, n).revealing();
    patch.set_inputs(n, &inputs[..=used]);
    (!zeros.is_empty()).then_some(NoOp::Start(patch))
}

/// Whether all elements of a value are 0 for sure.
fn is_zero(g: &Graph, v: ValueId) -> bool {
    let mut open = vec![v];
    while let Some(v) = open.pop() {
        let zeros = |t: &Tensor| t.iter_floats().is_some_and(|mut all| all.all(|x| x == 0.0));
        if let Some(tensor) = g.value(v).constant() {
            if !zeros(tensor) {
                return false;
            }
            continue;
        }
        let Some((p, _)) = g.producer(v).filter(|p| !g.node(p.0).inconsistent) else { return false };
        match (&g.node(p).op, moved(g, p)) {
            (Op::ConstantOfShape(op), _) if zeros(&op.value) => {}
            (_, 0) => return false,
            (_, all) => open.extend((0..all).filter_map(|slot| g.input(p, slot))),
        }
    }
    true
}

/// The node that computes an input of `n`, and whether `n` is its only reader.
fn before(g: &Graph, n: NodeId, slot: usize) -> Option<(NodeId, bool)> {
    let v = g.input(n, slot)?;
    let (p, out) = g.producer(v)?;
    (out == 0 && !g.node(p).inconsistent).then(|| (p, g.sole_use(v) == Some(Use::Input(n, slot))))
}

fn join_transposes(g: &Graph, n: NodeId, outer: &Transpose) -> Option<NoOp> {
    let (p, alone) = before(g, n, 0)?;
    let Op::Transpose(inner) = &g.node(p).op else { return None };
    let x = g.input(p, 0)?;
    let rank = g.value(x).rank().or(Some(inner.perm.len()).filter(|&l| l > 0))?;
    let (inner, outer) = (inner.order(rank).ok()?, outer.order(rank).ok()?);
    let perm: Vec<usize> = outer.into_iter().map(|a| inner[a]).collect();
    if perm.is_sorted() {
        return Some(NoOp::PassOn(x));
    }
    let mut patch = Patch::at_node(g, n).revealing();
    patch.set_op(n, Transpose { perm: perm.into_iter().map(|a| a as i64).collect() });
    patch.set_inputs(n, &[Some(x.into())]);
    alone.then_some(NoOp::Join(patch))
}

fn join_casts(g: &Graph, n: NodeId, outer: &Cast) -> Option<NoOp> {
    let (p, alone) = before(g, n, 0)?;
    let Op::Cast(inner) = &g.node(p).op else { return None };
    let x = g.input(p, 0)?;
    let from = g.value(x).ty.as_ref()?.dtype()?;
    // Text would show which type a number came by.
    if !widens(from, inner.to) || outer.to == DType::STRING {
        return None;
    }
    if outer.to == from {
        return Some(NoOp::PassOn(x));
    }
    let mut patch = Patch::at_node(g, n).revealing();
    patch.set_inputs(n, &[Some(x.into())]);
    alone.then_some(NoOp::Join(patch))
}

fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_))
}

fn join_views(g: &Graph, n: NodeId) -> Option<NoOp> {
    let (p, alone) = before(g, n, 0)?;
    if !is_view(&g.node(p).op) {
        return None;
    }
    let x = g.input(p, 0)?;
    let shape = |v| g.value(v).ty.as_ref().and_then(|t| t.shape());
    let to = shape(g.output(n)?);
    if to.is_some() && to == shape(x) && to.is_some_and(|t| !t.0.contains(&Dim::Unknown)) {
        return Some(NoOp::PassOn(x));
    }
    let mut patch = Patch::at_node(g, n).revealing();
    let target: Ref = match (&g.node(n).op, g.input_constant(n, 1).and_then(Tensor::ints)) {
        (Op::Reshape(_), Some(target)) if !target.contains(&0) => g.input(n, 1)?.into(),
        _ => {
            let target = target(to?)?;
            patch.set_op(n, Reshape { allow_zero: false });
            patch.constant("shape", Tensor::i64([target.len()], &target))
        }
    };
    patch.set_inputs(n, &[Some(x.into()), Some(target)]);
    alone.then_some(NoOp::Join(patch))
}

/// What Reshape must be told to give this shape: one dim may be open.
fn target(shape: &Shape) -> Option<Vec<i64>> {
    let open = shape.0.iter().filter(|d| d.known().is_none()).count();
    let number = |d: &Dim| match d {
        Dim::Known(0) => None,
        Dim::Known(n) => i64::try_from(*n).ok(),
        _ => Some(-1),
    };
    if open > 1 { None } else { shape.0.iter().map(number).collect() }
}

/// Takes the inputs of Concats along the same axis that only this one reads, however deep.
fn join_concats(g: &Graph, n: NodeId, outer: &Concat) -> Option<NoOp> {
    let along = |v: ValueId, c: &Concat| g.value(v).rank().and_then(|r| axis(c.axis, r).ok());
    let at = along(g.output(n)?, outer)?;
    let inner = |v: ValueId, reader: NodeId| {
        let (p, _) = g.producer(v)?;
        let Op::Concat(c) = &g.node(p).op else { return None };
        let joins = matches!(g.sole_use(v), Some(Use::Input(m, _)) if m == reader) && along(v, c) == Some(at);
        (joins && !g.node(p).inconsistent).then_some(p)
    };
    // An outer Concat takes this one too: leave the work to it, so that a long chain is walked once.
    let y = g.output(n)?;
    let outermost = match g.sole_use(y).map(|u| (u.node(), &g.node(u.node()).op)) {
        Some((m, Op::Concat(c))) => g.output(m).and_then(|v| along(v, c)) != Some(at),
        _ => true,
    };
    if !outermost {
        return None;
    }
    let mut inputs = Vec::new();
    let mut stack: Vec<(ValueId, NodeId)> =
        g.node_inputs(n).into_iter().rev().map(|v| Some((v?, n))).collect::<Option<_>>()?;
    let mut joined = false;
    while let Some((v, reader)) = stack.pop() {
        match inner(v, reader) {
            Some(p) => {
                joined = true;
                stack.extend(g.node_inputs(p).into_iter().rev().flatten().map(|v| (v, p)));
            }
            None => inputs.push(Some(Ref::from(v))),
        }
    }
    let mut patch = Patch::at_node(g, n).revealing();
    patch.set_inputs(n, &inputs);
    joined.then_some(NoOp::Join(patch))
}
