//! Merges nodes that compute the same from the same inputs, and constants of the same content.
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
use crate::ir::{Graph, NodeId, Patch, Tensor, ValueId};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

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
        let g = cx.graph;
        let classes = constant_classes(g);
        let first = classes.iter().filter(|c| !is_by_channel(g, c[0])).map(|c| Site::Value(c[0]));
        // A value stands for all that will be merged into it.
        let mut stands: HashMap<ValueId, ValueId> = classes.iter().flat_map(|c| c.iter().map(|&v| (v, c[0]))).collect();
        let mut seen: HashMap<u64, Vec<Seen>> = HashMap::new();
        let mut nodes = Vec::new();
        for n in g.topological().unwrap_or_default() {
            if !comparable(g, n) {
                continue;
            }
            let inputs: Vec<_> =
                g.node_inputs(n).into_iter().map(|v| v.map(|v| stands.get(&v).copied().unwrap_or(v))).collect();
            let mut hasher = DefaultHasher::new();
            (&g.node(n).op_type, &inputs, format!("{:?}", g.node(n).op)).hash(&mut hasher);
            let class = seen.entry(hasher.finish()).or_default();
            match class.iter().find(|(m, theirs)| *theirs == inputs && equal(g, n, *m)) {
                // Nothing but the first of equal nodes can have names that others may take over.
                Some((m, _)) if both_held(g, n, *m) => {}
                Some((m, _)) => {
                    let pairs = g.node_outputs(n).into_iter().zip(g.node_outputs(*m));
                    stands.extend(pairs.filter_map(|(a, b)| a.zip(b)));
                    nodes.push(Site::Node(n));
                }
                None => class.push((n, inputs)),
            }
        }
        first.chain(nodes).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let g = cx.graph;
        match site {
            Site::Value(v) => {
                let Some(tensor) = g.value(v).constant() else { return Verdict::skip("it is no constant") };
                let equal = |&w: &ValueId| w != v && candidate(g, w) && g.value(w).constant() == Some(tensor);
                let others: Vec<ValueId> = g.values().filter(equal).collect();
                let mut patch = Patch::at_value(g, v).revealing();
                others.iter().for_each(|&w| patch.replace(w, v));
                match others.len() {
                    0 => Verdict::skip("no other constant has its content"),
                    1 => Ok(Verdict::Patch(patch, format!("stands for \"{}\" too", g.value(others[0]).name))),
                    n => Ok(Verdict::Patch(patch, format!("stands for {n} equal constants too"))),
                }
            }
            Site::Node(n) => {
                let Some(m) = twin(g, n) else {
                    return Verdict::skip("its inputs differ from those of any other node");
                };
                let pairs = g.node_outputs(n).into_iter().zip(g.node_outputs(m)).filter_map(|(a, b)| a.zip(b));
                let mut patch = Patch::at_node(g, n).revealing();
                for (old, new) in pairs {
                    if let Some(why) = g.refuses_replace(old, new) {
                        return Verdict::skip(why);
                    }
                    patch.replace(old, new);
                }
                Ok(Verdict::Patch(patch, format!("merged into \"{}\"", g.label(m))))
            }
            _ => Verdict::skip("it is neither a node nor a value"),
        }
    }
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

/// Whether the results of both have names that must stay.
fn both_held(g: &Graph, n: NodeId, m: NodeId) -> bool {
    let mut pairs = g.node_outputs(n).into_iter().zip(g.node_outputs(m)).filter_map(|(a, b)| a.zip(b));
    pairs.any(|(a, b)| g.is_held(a) && g.is_held(b))
}

/// Another node that does the same to the same inputs: it must be among the readers of each, but of vectors by channel.
fn twin(g: &Graph, n: NodeId) -> Option<NodeId> {
    let inputs = g.node_inputs(n);
    let shared = || inputs.iter().flatten().copied().filter(|&v| !is_by_channel(g, v));
    let read_at_most = |limit| shared().find(move |&v| g.readers(v).take(limit + 1).count() <= limit);
    shared().next()?;
    let least_read = (0..usize::BITS).find_map(|bits| read_at_most(1 << bits))?;
    let mut others = g.readers(least_read).filter(|&m| m != n && comparable(g, m));
    let same = |a: Option<ValueId>, b: Option<ValueId>| match (a, b) {
        (Some(a), Some(b)) if a != b => is_by_channel(g, a) && g.value(a).constant() == g.value(b).constant(),
        _ => a == b,
    };
    let reads_the_same = |m| {
        let theirs = g.node_inputs(m);
        theirs.len() == inputs.len() && inputs.iter().zip(theirs).all(|(&a, b)| same(a, b))
    };
    others.find(|&m| reads_the_same(m) && equal(g, n, m) && !both_held(g, n, m))
}
