//! Puts the nodes of the branch that is always taken in the place of an `If` with a constant condition.
//!
//! ```text
//! # run = [{ pass = "inline-ifs" }]
//! model "always" opset 17 {
//!   input %x : f32[N,4]
//!   const %yes : bool[] = {1}
//!
//!   %y : f32[N,4] = If(%yes) @if {
//!     then_branch "then" {
//!
//!       %a : f32[N,4] = Relu(%x)
//!
//!       output %a
//!     }
//!     else_branch "else" {
//!
//!       %b : f32[N,4] = Neg(%x)
//!
//!       output %b
//!     }
//!   }
//!
//!   output %y
//! }
//! ---- expect ----
//! model "always" opset 17 {
//!   input %x : f32[N,4]
//!
//!   %y : f32[N,4] = Relu(%x) @a
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::attr::AttrValue;
use crate::ir::names::derived;
use crate::ir::op::control::If;
use crate::ir::op::reshape::Reshape;
use crate::ir::op::unary::Unary;
use crate::ir::{Graph, NodeId, Op, Patch, Ref, Source, Tensor, Use, ValueId};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct InlineIfs {}

impl Pass for InlineIfs {
    fn name(&self) -> &'static str {
        "inline-ifs"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        g.nodes().filter(|&n| g.node(n).op == Op::If(If) && g.input_constant(n, 0).is_some()).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Node(n) = site else { return Verdict::skip("it is not a node") };
        let g = cx.graph;
        if g.node_outputs(n).into_iter().flatten().all(|v| g.is_unused(v)) {
            return Verdict::skip("nothing reads its results");
        }
        if g.node(n).inconsistent {
            return Verdict::skip("its branches contradict each other");
        }
        let Some(condition) = g.input_constant(n, 0).and_then(|c| c.int_scalar()) else {
            return Verdict::skip("its condition is not one number");
        };
        let taken = if condition != 0 { "then_branch" } else { "else_branch" };
        let bodies = g.node(n).attrs.iter().filter_map(|a| match &a.value {
            AttrValue::Graph(body) => Some((&a.name, &**body)),
            _ => None,
        });
        let Some((b, (_, body))) = bodies.enumerate().find(|(_, (name, _))| *name == taken) else {
            return Verdict::skip(format!("it has no {taken}"));
        };
        if body.values().any(|v| matches!(body.value(v).source, Source::Carried) || body.value(v).pinned) {
            return Verdict::skip(format!("the {taken} has sparse or annotated values"));
        }
        if let Some(why) = mismatch(g, n, body) {
            return Verdict::skip(format!("the {taken} {why}"));
        }
        match inline(g, n, b, body)? {
            Some(patch) => Ok(Verdict::Patch(patch, format!("the {taken} is always taken"))),
            None => Verdict::skip(format!("the {taken} reads what is not defined")),
        }
    }
}

/// What a branch lacks to stand in for the node.
fn mismatch(g: &Graph, n: NodeId, body: &Graph) -> Option<String> {
    g.node_outputs(n).into_iter().enumerate().find_map(|(i, old)| {
        let old = g.value(old?);
        let inner = body.outputs().get(i).map(|&v| &body.value(v).ty);
        match (inner, &old.ty) {
            (None, _) => Some(format!("has no result for \"{}\"", old.name)),
            (Some(Some(is)), Some(was)) if !was.agrees(is) => {
                Some(format!("gives {is} for \"{}\", which is declared {was}", old.name))
            }
            _ => None,
        }
    })
}

/// The patch that puts the `b`-th body of a node in its place; `None` if the body has inputs, which no branch has.
fn inline(g: &Graph, n: NodeId, b: usize, body: &Graph) -> Result<Option<Patch>> {
    if !body.inputs().is_empty() {
        return Ok(None);
    }
    let mut patch = Patch::at_node(g, n).revealing().emptying(n);
    let mut here: HashMap<ValueId, Ref> = HashMap::new();
    for (_, index, outer) in g.node_captures(n).into_iter().filter(|c| c.0 == b) {
        here.insert(body.captures()[index], outer.into());
    }
    for v in body.values() {
        if let Some(tensor) = body.value(v).constant() {
            here.insert(v, patch.constant_named(&body.value(v).name, tensor.clone()));
        }
    }
    for inner in body.topological()? {
        let inputs: Vec<_> = body.node_inputs(inner).into_iter().map(|v| v.map(|v| here[&v])).collect();
        let captures = body.node_captures(inner).into_iter().map(|(b, i, v)| (b, i, here[&v])).collect();
        let slots = body.node_outputs(inner);
        let outputs = slots.iter().map(|v| v.map(|v| body.value(v).name.clone())).collect();
        let made = patch.copy(body.node(inner), &inputs, outputs, captures);
        here.extend(slots.into_iter().zip(made).filter_map(|(v, r)| v.zip(r)));
    }
    let results = g.node_outputs(n).into_iter().zip(body.outputs());
    for (old, inner) in results.filter_map(|(old, inner)| Some((old?, inner))) {
        // One value may be several results, or one that a kept name already stands for: each gets a name of its own.
        let shared = body.outputs().iter().filter(|&v| v == inner).count() > 1;
        let passed_on = matches!(body.value(*inner).source, Source::Capture);
        let refused = |t: &Tensor| g.refuses_constant(old, t.dtype()).is_some();
        let mut new = here[inner];
        if g.is_held(old) && (shared || passed_on || body.value(*inner).constant().is_some_and(refused)) {
            new = patch.node_named(&g.value(old).name, Unary::IDENTITY, &[Some(new)]);
        }
        if body.value(*inner).rank() == Some(1) {
            keep_scalars(g, &mut patch, old);
        }
        patch.replace(old, new);
    }
    Ok(Some(patch))
}

/// Range wants scalars, but runtimes take a vector of one number as long as they cannot see its rank, which an `If`
/// hides from them: a Reshape says what they did.
fn keep_scalars(g: &Graph, patch: &mut Patch, vector: ValueId) {
    let ranges: BTreeSet<NodeId> =
        g.uses(vector).into_iter().map(Use::node).filter(|&n| g.node(n).kind() == "Range").collect();
    if ranges.is_empty() {
        return;
    }
    let name = &g.value(vector).name;
    let shape = patch.constant_named(derived(name, "scalar.shape"), Tensor::i64([0], &[]));
    let inputs = [Some(vector.into()), Some(shape)];
    let scalar = patch.node_named(&derived(name, "scalar"), Reshape { allow_zero: false }, &inputs);
    for n in ranges {
        let read = |v| if v == vector { scalar } else { Ref::from(v) };
        let inputs: Vec<_> = g.node_inputs(n).into_iter().map(|v| v.map(read)).collect();
        patch.set_inputs(n, &inputs);
    }
}
