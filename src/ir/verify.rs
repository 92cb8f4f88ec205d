//! Invariants of a graph, checked after every patch and every step, in release builds too:
//!
//! * every input slot of a node holds a live value, every output slot one that this node alone computes;
//! * a value that nodes compute has a producer, any other value has none;
//! * names of nodes are unique in a graph, those of values in it and around it; outputs exist; the graph is acyclic;
//! * a constant's type is its tensor's.

use crate::error::{Error, Result};
use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::names::is_local;
use crate::ir::op::Op;
use crate::ir::value::Source;
use std::collections::HashSet;

impl Graph {
    /// Checks the invariants everywhere.
    ///
    /// # Errors
    /// An internal error that lists every defect.
    pub fn verify(&self) -> Result<()> {
        self.verify_within(&mut HashSet::new())
    }

    /// As [`Graph::verify`], for a graph that sees values of these names around it.
    fn verify_within<'g>(&'g self, around: &mut HashSet<&'g str>) -> Result<()> {
        let mut defects = Vec::new();
        let mut names = HashSet::new();
        for v in self.values() {
            self.check_value(v, &mut defects);
            let name = self.value(v).name.as_str();
            if !names.insert(name) || self.find_value(name) != Some(v) {
                defects.push(format!("the name \"{name}\" is not unique"));
            }
            if is_local(self, v) && around.contains(name) {
                defects.push(format!("the name \"{name}\" hides a value around the body"));
            }
        }
        for &v in self.inputs().iter().chain(self.outputs()) {
            if !self.has_value(v) {
                defects.push("an input or output of the graph is gone".into());
            }
        }
        let mut nodes = HashSet::new();
        let mut enclosing = Vec::new();
        for n in self.nodes() {
            self.check_node(n, &mut defects);
            let node = self.node(n);
            if !node.name.is_empty() && !nodes.insert(node.name.as_str()) {
                defects.push(format!("two nodes are called \"{}\"", node.name));
            }
            enclosing.extend(node.has_bodies().then_some(node));
        }
        finish(defects)?;
        if !enclosing.is_empty() {
            names.retain(|&name| around.insert(name));
            for node in enclosing {
                // Bodies of operators that we do not know have the names that these look for.
                let mut nothing = HashSet::new();
                let seen = if node.op == Op::Opaque { &mut nothing } else { &mut *around };
                node.bodies().try_for_each(|body| body.verify_within(seen))?;
            }
            for name in names {
                around.remove(name);
            }
        }
        self.topological().map(drop)
    }

    /// Checks the invariants at some nodes and the values around them.
    pub(in crate::ir) fn verify_nodes(&self, nodes: &[NodeId]) -> Result<()> {
        let mut defects = Vec::new();
        for &n in nodes {
            self.check_node(n, &mut defects);
            for v in self.node_inputs(n).into_iter().chain(self.node_outputs(n)).flatten() {
                self.check_value(v, &mut defects);
            }
        }
        finish(defects)
    }

    fn check_node(&self, n: NodeId, defects: &mut Vec<String>) {
        let label = || format!("{} \"{}\"", self.node(n).kind(), self.label(n));
        for (slot, v) in self.node_outputs(n).into_iter().enumerate() {
            if v.is_some_and(|v| self.producer(v) != Some((n, slot))) {
                defects.push(format!("output {slot} of {} is computed elsewhere too", label()));
            }
        }
        let name = self.node(n).name.as_str();
        // Names in bodies count among those in use, too: only what may be a defect is looked for.
        if self.nodes_called(name) > 1 && self.nodes().filter(|&n| self.node(n).name == name).count() > 1 {
            defects.push(format!("two nodes are called \"{name}\""));
        }
        let captures = self.node_captures(n);
        for (b, body) in self.node(n).bodies().enumerate() {
            let have = captures.iter().filter(|c| c.0 == b).map(|c| c.1);
            if !have.eq(0..body.captures().len()) {
                defects.push(format!("captures of body {b} of {} are not all connected", label()));
            }
        }
    }

    fn check_value(&self, v: ValueId, defects: &mut Vec<String>) {
        let value = self.value(v);
        match (&value.source, self.producer(v)) {
            (Source::Node, None) => defects.push(format!("\"{}\" is computed by nothing", value.name)),
            (Source::Node, Some(_)) | (_, None) => {}
            (_, Some((n, _))) => {
                defects.push(format!("\"{}\" is computed by \"{}\" but is no result", value.name, self.label(n)));
            }
        }
        if let Some(t) = value.constant()
            && value.ty.as_ref() != Some(&t.ty())
        {
            defects.push(format!("\"{}\" is not of its tensor's type {}", value.name, t.ty()));
        }
    }
}

fn finish(defects: Vec<String>) -> Result<()> {
    if defects.is_empty() {
        return Ok(());
    }
    Err(Error::internal("the graph is not valid").because(defects.join("; ")))
}
