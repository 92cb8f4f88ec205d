//! The student on the calibration data: which of its values are computed by now, for all chunks.

use super::Failure;
use super::part::Files;
use super::teacher::TeacherRun;
use crate::data::ActivationFile;
use crate::error::{Error, Result};
use crate::ir::{Graph, NodeId, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Computes values of a graph that changes ahead of them. What is computed as in the teacher is taken from there.
#[derive(Clone)]
pub struct LazyExecutor {
    teacher: Arc<TeacherRun>,
    /// Values that somebody still reads.
    live: Files,
    /// Nodes that need not run any more.
    done: HashSet<NodeId>,
    /// Whether values are what the teacher has there, as far as that was asked.
    same: HashMap<ValueId, bool>,
}

impl LazyExecutor {
    /// At the inputs.
    pub fn new(teacher: Arc<TeacherRun>) -> LazyExecutor {
        LazyExecutor { teacher, live: Files::new(), done: HashSet::new(), same: HashMap::new() }
    }

    /// A value for all chunks, once it was reached.
    pub fn file(&self, value: ValueId) -> Result<&ActivationFile> {
        self.live.get(&value).map(|file| &**file).ok_or_else(|| Error::internal("a value was not reached"))
    }

    /// Nodes to run for these values, from what is live.
    pub fn cone(&self, graph: &Graph, values: &[ValueId]) -> BTreeSet<NodeId> {
        let mut cone = BTreeSet::new();
        let mut open: Vec<ValueId> = values.to_vec();
        while let Some(v) = open.pop() {
            if self.live.contains_key(&v) {
                continue;
            }
            let Some((node, _)) = graph.producer(v) else { continue };
            if cone.insert(node) {
                open.extend(graph.node_inputs(node).into_iter().flatten());
                open.extend(graph.node_captures(node).into_iter().map(|c| c.2));
            }
        }
        cone
    }

    /// Computes these values for every chunk, and whatever nodes further on will need of what is computed on the way.
    ///
    /// # Errors
    /// If tract has no way to run it, or something failed.
    pub fn reach(&mut self, graph: &Graph, values: &[ValueId]) -> Result<(), Failure> {
        let (mut seen, mut open): (HashSet<ValueId>, Vec<ValueId>) = (HashSet::new(), values.to_vec());
        while let Some(v) = open.pop() {
            if self.live.contains_key(&v) || !seen.insert(v) {
                continue;
            }
            if self.teacher.has(v) && self.is_same(graph, v) {
                self.live.insert(v, self.teacher.get(v)?);
            } else if let Some((node, _)) = graph.producer(v) {
                open.extend(graph.node_inputs(node).into_iter().flatten());
                open.extend(graph.node_captures(node).into_iter().map(|c| c.2));
            }
        }
        let cone = self.cone(graph, values);
        if !cone.is_empty() {
            let order: Vec<NodeId> = graph.topological()?.into_iter().filter(|n| cone.contains(n)).collect();
            // They are run anew wherever they are needed, so that tract can fold them.
            let fixed = graph.constant_nodes(&order, |v| self.live.contains_key(&v));
            let moving = |n: &NodeId| !fixed.contains(n);
            let later = |v: ValueId| graph.readers(v).any(|n| !cone.contains(&n) && !self.done.contains(&n));
            let made = order.iter().filter(|n| moving(n)).flat_map(|&n| graph.node_outputs(n)).flatten();
            let mut outputs: BTreeSet<ValueId> = made.filter(|&v| later(v)).collect();
            outputs.extend(values.iter().copied().filter(|v| !self.live.contains_key(v)));
            let outputs: Vec<ValueId> = outputs.into_iter().collect();
            let files = self.teacher.executor().run(graph, &order, &self.live, &outputs)?;
            self.live.extend(outputs.into_iter().zip(files));
            self.done.extend(order.iter().filter(|n| moving(n)));
        }
        let done = &self.done;
        let needed = |v: ValueId| values.contains(&v) || graph.readers(v).any(|n| !done.contains(&n));
        self.live.retain(|&v, _| graph.has_value(v) && needed(v));
        Ok(())
    }

    /// Whether a value is computed as in the teacher, from the inputs on. What was found stays true: what is before a value is
    /// not rewritten any more once that is asked for.
    pub fn is_same(&mut self, graph: &Graph, value: ValueId) -> bool {
        let mut open = vec![value];
        while let Some(&v) = open.last() {
            if self.same.contains_key(&v) {
                open.pop();
                continue;
            }
            let before = made_alike(graph, &self.teacher.graph, v);
            let unknown = before.iter().flatten().find(|u| !self.same.contains_key(u));
            match unknown {
                Some(&u) => open.push(u),
                None => {
                    let same = before.is_some_and(|all| all.iter().all(|u| self.same[u]));
                    self.same.insert(v, same);
                    open.pop();
                }
            }
        }
        self.same[&value]
    }
}

/// Whether two graphs are the same, down to their constants and ids.
pub fn alike(a: &Graph, b: &Graph) -> bool {
    let sizes = |g: &Graph| (g.nodes().count(), g.values().count());
    sizes(a) == sizes(b) && a.outputs() == b.outputs() && a.values().all(|v| made_alike(a, b, v).is_some())
}

/// What two graphs make a value from, if both make it by the same operator from the same values and constants. What has bodies
/// counts as different.
fn made_alike(a: &Graph, b: &Graph, v: ValueId) -> Option<Vec<ValueId>> {
    if !b.has_value(v) {
        return None;
    }
    match (a.value(v).constant(), b.value(v).constant()) {
        (Some(x), Some(y)) => return (x == y).then(Vec::new),
        (None, None) => {}
        _ => return None,
    }
    let (Some((n, i)), Some((m, j))) = (a.producer(v), b.producer(v)) else {
        return (a.producer(v).is_none() && b.producer(v).is_none()).then(Vec::new);
    };
    let (x, y) = (a.node(n), b.node(m));
    let kind = |node: &crate::ir::Node| (node.op_type.clone(), node.domain.clone());
    let alike = (n, i) == (m, j) && kind(x) == kind(y) && x.op == y.op && !x.has_bodies() && !y.has_bodies();
    let (from, other) = (a.node_inputs(n), b.node_inputs(m));
    (alike && from == other).then(|| from.into_iter().flatten().collect())
}
