//! Merges nodes that compute the same from the same inputs, and constants of the same content. A matrix that is stored a
//! second time as its transpose becomes a Transpose of the first.
//!
//! Only operators whose meaning is known are compared, and none that draws random numbers. Two outputs of the model
//! keep their two names, and so their two nodes. Vectors of a number for each channel (biases, scales, slopes) stay apart
//! unless the nodes that read them become one: sharing one saves a few bytes, and couples the channels of all its readers.
//!
//! ```text
//! # run = [{ pass = "merge-duplicates" }]
//! model "twice" opset 17 {
//!   input %x : f32[N,4]
//!   const %a : f32[1] = {2.0}
//!   const %b : f32[1] = {2.0}
//!
//!   %p : f32[N,4] = Add(%x, %a)
//!   %q : f32[N,4] = Add(%x, %b)
//!   %y : f32[N,4] = Mul(%p, %q)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "twice" opset 17 {
//!   input %x : f32[N,4]
//!   const %a : f32[1] = {2.0}
//!
//!   %p : f32[N,4] = Add(%x, %a)
//!   %y : f32[N,4] = Mul(%p, %p)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::names::derived;
use crate::ir::op::transpose::Transpose;
use crate::ir::{DType, Graph, NodeId, Patch, Tensor, ValueId};
use crate::passes::{Context, Fidelity, JointVerdict, Pass, Phase, Reason, Site, SiteOutcome, Verdict};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of a matrix from which on a node in its place is worth it.
const WORTH_A_NODE: usize = 4096;

/// A node, and the values that it reads once equal ones are merged.
type Seen = (NodeId, Vec<Option<ValueId>>);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MergeDuplicates {}

impl Pass for MergeDuplicates {
    fn name(&self) -> &'static str {
        "merge-duplicates"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    /// The first of every class of equal constants, and every node but the first of a class.
    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        merges(cx).into_iter().map(|m| m.site).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Some(merge) = merges(cx).into_iter().find(|m| m.site == site) else {
            return Verdict::skip("nothing else does the same");
        };
        let patch = patch(cx.graph, std::slice::from_ref(&merge));
        Ok(Verdict::of(merge.what.map(|what| (patch, what))))
    }

    /// All at once: a value with many readers is looked at once, not for every one of them.
    fn rewrite_jointly(&self, cx: &Context<'_>, _: &[Site]) -> Result<Option<JointVerdict>> {
        let merges = merges(cx);
        let patch = patch(cx.graph, &merges);
        let outcome = |m: Merge| SiteOutcome { what: m.what.map_err(Reason::from), cost: None };
        Ok(Some(JointVerdict { patch, outcomes: merges.into_iter().map(outcome).collect() }))
    }
}

/// What becomes of one site.
struct Merge {
    site: Site,
    /// Values, each with the one that stands for it.
    pairs: Vec<(ValueId, ValueId)>,
    /// Whether that is the transpose of what it stands for.
    turned: bool,
    what: Result<String, String>,
}

fn merges(cx: &Context<'_>) -> Vec<Merge> {
    let g = cx.graph;
    let allowed = |site: Site| cx.selected.refuses(g, &site).map_or(Ok(()), Err);
    let mut merges = Vec::new();
    // A value stands for all that are merged into it.
    let mut stands: HashMap<ValueId, ValueId> = HashMap::new();
    for class in constant_classes(g) {
        let (first, others) = (class[0], &class[1..]);
        stands.extend(others.iter().map(|&v| (v, first)));
        if is_by_channel(g, first) {
            continue;
        }
        let what = allowed(Site::Value(first)).map(|()| match others {
            [other] => format!("stands for \"{}\" too", g.value(*other).name),
            others => format!("stands for {} equal constants too", others.len()),
        });
        merges.push(Merge {
            site: Site::Value(first),
            pairs: others.iter().map(|&v| (v, first)).collect(),
            turned: false,
            what,
        });
    }
    let mut seen: HashMap<u64, Vec<Seen>> = HashMap::new();
    // Nodes whose results have names that must stay, or will have.
    let mut held: HashSet<NodeId> =
        g.nodes().filter(|&n| g.node_outputs(n).into_iter().flatten().any(|v| g.is_held(v))).collect();
    for n in g.topological().unwrap_or_default() {
        if !comparable(g, n) {
            continue;
        }
        let inputs: Vec<_> =
            g.node_inputs(n).into_iter().map(|v| v.map(|v| stands.get(&v).copied().unwrap_or(v))).collect();
        let mut hasher = DefaultHasher::new();
        (&g.node(n).op_type, &inputs, format!("{:?}", g.node(n).op)).hash(&mut hasher);
        let class = seen.entry(hasher.finish()).or_default();
        let Some(&(m, _)) = class.iter().find(|(m, theirs)| *theirs == inputs && equal(g, n, *m)) else {
            class.push((n, inputs));
            continue;
        };
        if held.contains(&n) && held.contains(&m) {
            continue;
        }
        let pairs: Vec<_> =
            g.node_outputs(n).into_iter().zip(g.node_outputs(m)).filter_map(|(a, b)| a.zip(b)).collect();
        let refused = pairs.iter().find_map(|&(old, new)| g.refuses_replace(old, new));
        let what = allowed(Site::Node(n)).and_then(|()| refused.map_or(Ok(()), Err));
        if what.is_ok() {
            stands.extend(pairs.iter().copied());
            if held.contains(&n) {
                held.insert(m);
            }
        }
        let what = what.map(|()| format!("merged into \"{}\"", g.label(m)));
        merges.push(Merge { site: Site::Node(n), pairs, turned: false, what });
    }
    for (first, other) in transposes(g, &stands) {
        let name = &g.value(first).name;
        let what = allowed(Site::Value(other)).map(|()| format!("stored once, with \"{name}\", whose transpose it is"));
        merges.push(Merge { site: Site::Value(other), pairs: vec![(other, first)], turned: true, what });
    }
    merges
}

/// Matrices each with an earlier one whose transpose they are, that are larger than a node.
fn transposes(g: &Graph, stands: &HashMap<ValueId, ValueId>) -> Vec<(ValueId, ValueId)> {
    let large = |t: &Tensor| t.dtype().is_float() && t.byte_len() >= WORTH_A_NODE;
    let matrix =
        |v: &ValueId| g.value(*v).constant().is_some_and(|t| matches!(*t.shape(), [a, b] if a.min(b) > 1) && large(t));
    let mut seen: HashMap<(DType, &[usize]), Vec<ValueId>> = HashMap::new();
    let mut found = Vec::new();
    for v in g.values().filter(matrix).filter(|v| candidate(g, *v) && !stands.contains_key(v)) {
        let Some(tensor) = g.value(v).constant() else { continue };
        let turned: Vec<usize> = tensor.shape().iter().rev().copied().collect();
        let others = seen.get(&(tensor.dtype(), &turned[..])).map_or(&[][..], |o| o);
        let is = |&&other: &&ValueId| g.value(other).constant().is_some_and(|t| is_transpose(t, tensor));
        match others.iter().find(is) {
            Some(&first) => found.push((first, v)),
            None => seen.entry((tensor.dtype(), tensor.shape())).or_default().push(v),
        }
    }
    found
}

/// Whether `b` is the transpose of `a`, which has its shape the other way round.
fn is_transpose(a: &Tensor, b: &Tensor) -> bool {
    let (Some(x), Some(y), &[rows, columns]) = (a.bytes(), b.bytes(), a.shape()) else { return false };
    let Some(width) = a.dtype().bytes() else { return false };
    let same = |i: usize, j: usize| {
        let (p, q) = ((i * columns + j) * width, (j * rows + i) * width);
        x[p..p + width] == y[q..q + width]
    };
    (0..rows).all(|i| (0..columns).all(|j| same(i, j)))
}

/// The patch of all merges that are done. A value whose own name must stay comes last: it takes the place of the one that
/// stands for it.
fn patch(g: &Graph, merges: &[Merge]) -> Patch {
    let mut patch = Patch::at_graph(g).revealing();
    for &(other, first) in merges.iter().filter(|m| m.what.is_ok() && m.turned).flat_map(|m| &m.pairs) {
        let name = derived(&g.value(other).name, "turned");
        let turned = patch.node_named(&name, Transpose { perm: vec![1, 0] }, &[Some(first.into())]);
        patch.replace(other, turned);
    }
    let pairs = merges.iter().filter(|m| m.what.is_ok() && !m.turned).flat_map(|m| &m.pairs);
    let (held, free): (Vec<_>, Vec<_>) = pairs.partition(|p| g.is_held(p.0));
    free.into_iter().chain(held).for_each(|&(old, new)| patch.replace(old, new));
    patch
}

/// Whether a value is a constant that another may stand in for.
fn candidate(g: &Graph, v: ValueId) -> bool {
    // The threshold of an exit may be set anew: it is nobody else's constant.
    let threshold = || g.exits().iter().any(|&exit| g.threshold_value(exit) == Some(v));
    g.value(v).constant().is_some() && !g.is_held(v) && !threshold()
}

/// Whether a value is a float constant that varies along one axis alone.
fn is_by_channel(g: &Graph, v: ValueId) -> bool {
    let vector = |t: &Tensor| t.dtype().is_float() && t.shape().iter().filter(|&&d| d > 1).count() == 1;
    g.value(v).constant().is_some_and(vector)
}

/// Constants of equal content, in order of creation: every class has at least two.
fn constant_classes(g: &Graph) -> Vec<Vec<ValueId>> {
    let mut by_hash: HashMap<u64, Vec<Vec<ValueId>>> = HashMap::new();
    let mut order = Vec::new();
    for v in g.values().filter(|&v| candidate(g, v)) {
        let Some(tensor) = g.value(v).constant() else { continue };
        let hash = sample(tensor);
        let classes = by_hash.entry(hash).or_default();
        match classes.iter_mut().position(|c| g.value(c[0]).constant() == Some(tensor)) {
            Some(i) => classes[i].push(v),
            None => {
                order.push((hash, classes.len()));
                classes.push(vec![v]);
            }
        }
    }
    let found = order.into_iter().map(|(hash, i)| std::mem::take(&mut by_hash.get_mut(&hash).expect("made above")[i]));
    found.filter(|c| c.len() > 1).collect()
}

/// A hash of a tensor's type and of parts of its content: weights that differ nearly always differ there.
fn sample(t: &Tensor) -> u64 {
    const PART: usize = 1024;
    let mut hasher = DefaultHasher::new();
    (t.dtype(), t.shape()).hash(&mut hasher);
    match (t.kept(), t.as_strings()) {
        (Some(b), _) if b.len() > 3 * PART => {
            let middle = b.len() / 2;
            (&b[..PART], &b[middle..middle + PART], &b[b.len() - PART..]).hash(&mut hasher);
        }
        (bytes, strings) => (bytes, strings).hash(&mut hasher),
    }
    hasher.finish()
}

/// Whether a node's results depend on its inputs alone, as far as is known.
fn comparable(g: &Graph, n: NodeId) -> bool {
    let node = g.node(n);
    node.op.operator().is_some_and(|o| !o.is_random())
        && !node.has_bodies()
        && g.node_inputs(n).iter().any(Option::is_some)
        && g.node_outputs(n).iter().any(Option::is_some)
}

/// Whether two nodes on the same inputs do the same.
fn equal(g: &Graph, n: NodeId, m: NodeId) -> bool {
    let (a, b) = (g.node(n), g.node(m));
    let slots = |n| g.node_outputs(n).iter().map(Option::is_some).collect::<Vec<_>>();
    a.op_type == b.op_type && a.op == b.op && slots(n) == slots(m)
}
