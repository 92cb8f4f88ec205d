//! Computes now what depends on nothing that is fed: nodes whose inputs are all constant, and the shape arithmetic
//! (Shape, Size and what is made of them) whose result is known from the dims alone.
//!
//! A node stays if its result would take more bytes in the file than it does: a weight that `ConstantOfShape` makes or
//! that is decoded from a codebook is not expanded. What no kernel of ours computes, and what is random, stays too.
//!
//! ```text
//! # run = [{ pass = "fold-constants" }]
//! model "shapes" opset 17 {
//!   input %x : f32[N,3,4]
//!   const %at : i64[2] = {1,2}
//!
//!   %s : i64[3] = Shape(%x)
//!   %hw : i64[2] = Gather(%s, %at)
//!   %y : f32[N,3,4] = Expand(%x, %hw)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "shapes" opset 17 {
//!   input %x : f32[N,3,4]
//!   const %hw : i64[2] = {3,4}
//!
//!   %y : f32[N,3,4] = Expand(%x, %hw)
//!
//!   output %y
//! }
//! ```

use crate::analysis::bytes;
use crate::error::Result;
use crate::ir::infer::Infer;
use crate::ir::names::derived;
use crate::ir::tensor::byte_len;
use crate::ir::{Dim, Graph, NodeId, Op, Patch, Tensor, Type, Use, Value, ValueId};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap, HashSet};

/// How many nodes may be computed to replace one.
const MAX_CONE: usize = 64;

/// Bytes above which nothing is computed, not even on the way to something smaller.
const MAX_BYTES: usize = 1 << 30;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FoldConstants {}

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let mut constant: HashSet<ValueId> = g.values().filter(|&v| g.value(v).constant().is_some()).collect();
        let mut sites = Vec::new();
        for n in g.topological().unwrap_or_default() {
            if fixed_target(g, n).is_some() {
                sites.push(Site::Node(n));
                continue;
            }
            let outputs = || g.node_outputs(n).into_iter().flatten();
            let inputs: Vec<ValueId> = g.node_inputs(n).into_iter().flatten().collect();
            let computable = computable(g, n);
            let from_constants = !inputs.is_empty() && inputs.iter().all(|v| constant.contains(v));
            if computable && from_constants {
                constant.extend(outputs());
                sites.push(Site::Node(n));
            } else if computable && outputs().any(|v| known_content(g.value(v)).is_some()) {
                constant.extend(outputs().filter(|&v| known_content(g.value(v)).is_some()));
                sites.push(Site::Node(n));
            }
        }
        sites
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Node(n) = site else { return Verdict::skip("it is not a node") };
        let g = cx.graph;
        if let Some((old, tensor)) = fixed_target(g, n) {
            let mut patch = Patch::at_node(g, n).revealing();
            let new = patch.constant("target", tensor);
            patch.replace(old, new);
            return Ok(Verdict::Patch(patch, "its target shape is known".into()));
        }
        let results = match results(g, n) {
            Ok(results) => results,
            Err(why) => return Verdict::skip(why),
        };
        if let Some(why) = contradicted(g, &results) {
            return Verdict::skip(why);
        }
        let mut patch = Patch::at_node(g, n).revealing();
        for (value, tensor) in results {
            let new = patch.constant_named(derived(&g.value(value).name, "folded"), tensor);
            patch.replace(value, new);
        }
        Ok(Verdict::Patch(patch, "computed".into()))
    }
}

/// What to put in the place of a node's outputs, or why it stays.
fn results(g: &Graph, n: NodeId) -> Result<Vec<(ValueId, Tensor)>, String> {
    let needed: Vec<ValueId> = g.node_outputs(n).into_iter().flatten().filter(|&v| !g.is_unused(v)).collect();
    if needed.is_empty() {
        return Err("nothing reads its results".into());
    }
    let known: Vec<_> = needed.iter().filter_map(|&v| Some((v, known_content(g.value(v))?))).collect();
    let cone = if !known.is_empty() && known.len() == needed.len() { None } else { Some(ConstantCone::behind(g, n)?) };
    let place = |v: ValueId, data: usize| {
        let node = if g.is_held(v) { bytes::CONSTANT_NODE } else { 0 };
        node + bytes::initializer_of(&g.value(v).name, g.value(v).rank().unwrap_or(0), data)
    };
    let room = bytes::freed_with_source(g, n, MAX_CONE);
    let fits = |size: usize| match size > room {
        true => Err(format!("its result takes about {size} bytes, what it replaces {room}")),
        false => Ok(()),
    };
    let mut least = 0;
    for &v in &needed {
        let value = g.value(v);
        let ty = value.ty.as_ref().and_then(|ty| Some((ty.dtype()?, type_bytes(ty)?)));
        let (dtype, data) = ty.ok_or_else(|| format!("the size of \"{}\" is not known", value.name))?;
        if let Some(why) = g.refuses_constant(v, dtype) {
            return Err(why);
        }
        if data > MAX_BYTES {
            return Err(format!("its result takes {data} bytes"));
        }
        // How many bytes small integers take shows only when they are there.
        let dims: Vec<usize> = value.dims().unwrap_or_default().into_iter().map(|d| d as usize).collect();
        let small = Tensor::small_ints(dtype, &dims);
        least += place(v, if small { data / dtype.bytes().unwrap_or(1) } else { data });
    }
    fits(least)?;
    let placed = match cone {
        None => known,
        Some(cone) => {
            let computed = cone.compute(g)?;
            needed.iter().filter_map(|v| Some((*v, computed.get(v)?.clone()))).collect()
        }
    };
    if placed.len() < needed.len() {
        return Err("no kernel computes all that is read of it".into());
    }
    fits(placed.iter().map(|(v, t)| place(*v, t.stored_len())).sum())?;
    Ok(placed)
}

/// What reads the results and could not, once it is told them: a branch that is never taken may be of no sense for the
/// shapes at hand, and whoever runs the model is to learn of it no sooner than from the file as it was.
fn contradicted(g: &Graph, results: &[(ValueId, Tensor)]) -> Option<String> {
    let mut readers = results.iter().flat_map(|&(v, _)| g.uses(v)).map(Use::node);
    readers.find_map(|n| {
        let rule = g.node(n).op.operator().filter(|_| !g.node(n).inconsistent)?;
        rule.infer(&Infer::new(g, n)).ok()?;
        let why = rule.infer(&Infer::new(g, n).assuming(results)).err()?;
        Some(format!("{} \"{}\" would be refused with what it computes: {why}", g.node(n).kind(), g.label(n)))
    })
}

/// A node and what computes its inputs from constants: what stays when it is too large may be part of something small.
struct ConstantCone {
    nodes: BTreeSet<NodeId>,
    /// The same nodes, each after those it reads from.
    order: Vec<NodeId>,
}

impl ConstantCone {
    fn behind(g: &Graph, root: NodeId) -> Result<ConstantCone, String> {
        let mut cone = ConstantCone { nodes: BTreeSet::new(), order: Vec::new() };
        let mut stack = vec![(root, false)];
        while let Some((n, expanded)) = stack.pop() {
            if expanded {
                cone.order.push(n);
                continue;
            }
            if !cone.nodes.insert(n) {
                continue;
            }
            if cone.nodes.len() > MAX_CONE {
                return Err(format!("more than {MAX_CONE} nodes would have to be computed at once"));
            }
            stack.push((n, true));
            for v in g.node_inputs(n).into_iter().flatten().filter(|&v| g.value(v).constant().is_none()) {
                match g.producer(v) {
                    Some((p, _)) if computable(g, p) => stack.push((p, false)),
                    _ => return Err(format!("it depends on \"{}\"", g.value(v).name)),
                }
            }
        }
        Ok(cone)
    }

    /// Every value that the cone computes.
    fn compute(&self, g: &Graph) -> Result<HashMap<ValueId, Tensor>, String> {
        let mut made: HashMap<ValueId, Tensor> = HashMap::new();
        for &n in &self.order {
            let tensor = |v| g.value(v).constant().or_else(|| made.get(&v));
            let inputs: Vec<_> = g.node_inputs(n).into_iter().map(|v| v.and_then(tensor)).collect();
            let outputs = g.node_outputs(n);
            let fits = |v: &ValueId| g.value(*v).ty.as_ref().and_then(type_bytes).is_some_and(|b| b <= MAX_BYTES);
            if !outputs.iter().flatten().filter(|&&v| !g.is_unused(v)).all(fits) {
                return Err("what it is made of is too large".into());
            }
            let kernel = g.node(n).op.operator().and_then(|o| o.eval(&inputs));
            let computed =
                kernel.ok_or_else(|| format!("no kernel computes {} \"{}\"", g.node(n).kind(), g.label(n)))?;
            for (v, t) in outputs.into_iter().zip(computed).filter_map(|(v, t)| Some((v?, t))) {
                if !g.value(v).ty.as_ref().is_none_or(|ty| ty.agrees(&t.ty())) {
                    return Err("the kernel and the shape rule disagree".into());
                }
                made.insert(v, t);
            }
        }
        Ok(made)
    }
}

fn computable(g: &Graph, n: NodeId) -> bool {
    let node = g.node(n);
    node.op.operator().is_some_and(|o| !o.is_random()) && !node.inconsistent && !node.has_bodies()
}

/// The target that Reshape can be told in the place of one that is computed, if all but one dim of its result is known, or is
/// the input's at the same place.
fn fixed_target(g: &Graph, n: NodeId) -> Option<(ValueId, Tensor)> {
    let node = g.node(n);
    let target = g.input(n, 1).filter(|&v| g.value(v).constant().is_none() && g.sole_use(v).is_some())?;
    let (source, _) = g.producer(target)?;
    let Op::Reshape(reshape) = &node.op else { return None };
    if node.inconsistent {
        return None;
    }
    let facts = node.op.operator()?.infer(&Infer::new(g, n)).ok()?;
    let shape = facts.first()?.ty.as_ref()?.shape()?;
    let input = g.value(g.input(n, 0)?).ty.as_ref().and_then(|ty| ty.shape());
    let several = shape.0.iter().filter(|d| d.known().is_none()).count() > 1;
    // A 0 stands for the dim that the input has at the same place.
    let kept = |i: usize, d: &Dim| {
        several && !reshape.allow_zero && *d != Dim::Unknown && input.and_then(|x| x.0.get(i)) == Some(d)
    };
    let number = |(i, d): (usize, &Dim)| match d {
        Dim::Known(0) => None,
        Dim::Known(n) => i64::try_from(*n).ok(),
        _ if kept(i, d) => Some(0),
        _ => Some(-1),
    };
    let dims: Vec<i64> = shape.0.iter().enumerate().map(number).collect::<Option<_>>()?;
    let open = dims.iter().filter(|&&d| d == -1).count();
    let tensor = Tensor::i64([dims.len()], &dims);
    let fits = bytes::initializer(&g.value(target).name, &tensor) <= bytes::freed_with_source(g, source, MAX_CONE);
    let same_type = g.value(target).ty.as_ref().is_none_or(|ty| ty.agrees(&tensor.ty()));
    (open <= 1 && fits && same_type).then_some((target, tensor))
}

/// The content of an integer value that is no constant and that shape inference knows completely.
fn known_content(value: &Value) -> Option<Tensor> {
    if value.constant().is_some() { None } else { value.known_ints() }
}

/// Bytes of a tensor of this type, if its dims are known.
fn type_bytes(ty: &Type) -> Option<usize> {
    let Type::Tensor(dtype, Some(shape)) = ty else { return None };
    let dims: Option<Vec<usize>> = shape.dims()?.into_iter().map(|d| usize::try_from(d).ok()).collect();
    byte_len(*dtype, &dims?)
}
