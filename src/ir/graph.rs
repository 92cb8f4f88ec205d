//! Nodes and values in one bipartite petgraph: the only source of who defines and who uses what.

use crate::error::{Error, Result};
use crate::ir::exits::Exit;
use crate::ir::node::Node;
use crate::ir::shape::Type;
use crate::ir::tensor::Tensor;
use crate::ir::value::{Form, Source, Value};
use bytes::Bytes;
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Names a node for as long as its graph lives: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex<u32>);

/// Names a value for as long as its graph lives: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(NodeIndex<u32>);

impl ValueId {
    /// Its place among the ids of its graph.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A map that hashes fast, and the same in every run. What it has is never listed: that order means nothing.
type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// One place that reads a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Input slot of a node.
    Input(NodeId, usize),
    /// The `index`-th capture of the `body`-th body of a node.
    Capture { node: NodeId, body: usize, index: usize },
}

impl Use {
    pub fn node(self) -> NodeId {
        match self {
            Use::Input(node, _) | Use::Capture { node, .. } => node,
        }
    }
}

/// Removal leaves `Removed` behind: petgraph would hand the index of a removed vertex to another one.
#[derive(Debug, Clone)]
enum Vertex {
    Node(Box<Node>),
    Value(Box<Value>),
    Removed,
}

/// What an edge between a node and a value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Input(u32),
    Output(u32),
    Capture { body: u32, index: u32 },
}

/// A dataflow graph: the model's, or the body of an `If`, `Loop` or `Scan`.
#[derive(Debug, Clone)]
pub struct Graph {
    pub name: String,
    /// Version of the ONNX operator set that the nodes are read by; 0 if the model imports none.
    pub opset: i64,
    /// What else the GraphProto says (doc string, sparse initializers, annotations), encoded, in pieces.
    pub carried: Vec<Bytes>,
    net: DiGraph<Vertex, Slot, u32>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    /// The outputs again, to be asked about.
    ends: HashSet<ValueId>,
    captures: Vec<ValueId>,
    pub(in crate::ir) exits: Vec<Exit>,
    /// Name of an output that says which exit is taken, where files are to have one.
    pub exit_output: Option<String>,
    names: Map<String, ValueId>,
    /// Names in use around this body, which new values must not take.
    pub(crate) reserved: HashSet<String>,
    created: u32,
}

impl Graph {
    pub fn new(name: impl Into<String>, opset: i64) -> Graph {
        Graph {
            name: name.into(),
            opset,
            carried: Vec::new(),
            net: DiGraph::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            ends: HashSet::new(),
            captures: Vec::new(),
            exits: Vec::new(),
            exit_output: None,
            names: Map::default(),
            reserved: HashSet::new(),
            created: 0,
        }
    }

    /// Makes room for so many nodes, values and edges between them.
    pub(crate) fn reserve(&mut self, nodes: usize, values: usize, edges: usize) {
        self.net.reserve_nodes(nodes + values);
        self.net.reserve_edges(edges);
        self.names.reserve(values);
    }

    /// Inputs in the order of the file, the constants that IR 3 files list among them included.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Inputs that a caller feeds.
    pub fn runtime_inputs(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().copied().filter(|&v| self.value(v).constant().is_none())
    }

    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Values of the enclosing graphs that this body reads, by the index of their [`Use::Capture`].
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    pub fn node(&self, id: NodeId) -> &Node {
        match &self.net[id.0] {
            Vertex::Node(n) => n,
            _ => panic!("{id:?} is not a live node"),
        }
    }

    pub fn value(&self, id: ValueId) -> &Value {
        match &self.net[id.0] {
            Vertex::Value(v) => v,
            _ => panic!("{id:?} is not a live value"),
        }
    }

    /// Edits what is known of a value or how it is written; never which value it is.
    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut Value {
        match &mut self.net[id.0] {
            Vertex::Value(v) => v,
            _ => panic!("{id:?} is not a live value"),
        }
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        match &mut self.net[id.0] {
            Vertex::Node(n) => n,
            _ => panic!("{id:?} is not a live node"),
        }
    }

    pub fn has_node(&self, id: NodeId) -> bool {
        matches!(self.net.node_weight(id.0), Some(Vertex::Node(_)))
    }

    pub fn has_value(&self, id: ValueId) -> bool {
        matches!(self.net.node_weight(id.0), Some(Vertex::Value(_)))
    }

    /// Ids of values are below this.
    pub fn id_bound(&self) -> usize {
        self.net.node_count()
    }

    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// Live nodes in order of creation.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.net.node_indices().map(NodeId).filter(|&n| self.has_node(n))
    }

    /// Live values in order of creation.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.net.node_indices().map(ValueId).filter(|&v| self.has_value(v))
    }

    /// Inputs of a node by slot; an absent optional input is `None`.
    pub fn node_inputs(&self, id: NodeId) -> Vec<Option<ValueId>> {
        let mut slots = vec![None; self.node(id).arity.0];
        for e in self.net.edges_directed(id.0, Incoming) {
            if let Slot::Input(i) = *e.weight() {
                slots[i as usize] = Some(ValueId(e.source()));
            }
        }
        slots
    }

    /// Outputs of a node by slot; an absent optional output is `None`.
    pub fn node_outputs(&self, id: NodeId) -> Vec<Option<ValueId>> {
        let mut slots = vec![None; self.node(id).arity.1];
        for e in self.net.edges_directed(id.0, Outgoing) {
            if let Slot::Output(i) = *e.weight() {
                slots[i as usize] = Some(ValueId(e.target()));
            }
        }
        slots
    }

    /// One input of a node, if it is there.
    pub fn input(&self, id: NodeId, slot: usize) -> Option<ValueId> {
        self.node_inputs(id).get(slot).copied().flatten()
    }

    /// The first output of a node, if it is there.
    pub fn output(&self, id: NodeId) -> Option<ValueId> {
        self.node_outputs(id).first().copied().flatten()
    }

    /// The constant tensor at an input of a node.
    pub fn input_constant(&self, id: NodeId, slot: usize) -> Option<&Tensor> {
        self.value(self.input(id, slot)?).constant()
    }

    /// Values that the bodies of a node read from this graph: `(body, index, value)` in order.
    pub fn node_captures(&self, id: NodeId) -> Vec<(usize, usize, ValueId)> {
        let mut found: Vec<_> = self
            .net
            .edges_directed(id.0, Incoming)
            .filter_map(|e| match *e.weight() {
                Slot::Capture { body, index } => Some((body as usize, index as usize, ValueId(e.source()))),
                _ => None,
            })
            .collect();
        found.sort();
        found
    }

    /// The node that computes a value, and which of its outputs the value is.
    pub fn producer(&self, id: ValueId) -> Option<(NodeId, usize)> {
        self.net.edges_directed(id.0, Incoming).find_map(|e| match *e.weight() {
            Slot::Output(i) => Some((NodeId(e.source()), i as usize)),
            _ => None,
        })
    }

    /// Every place that reads a value, in order of the file.
    pub fn uses(&self, id: ValueId) -> Vec<Use> {
        let mut uses: Vec<Use> = self
            .net
            .edges_directed(id.0, Outgoing)
            .map(|e| {
                let node = NodeId(e.target());
                match *e.weight() {
                    Slot::Capture { body, index } => Use::Capture { node, body: body as usize, index: index as usize },
                    Slot::Input(i) | Slot::Output(i) => Use::Input(node, i as usize),
                }
            })
            .collect();
        uses.sort_by_key(|&u| (self.node(u.node()).order, u));
        uses
    }

    /// The nodes that read a value, in no particular order, once for every place.
    pub fn readers(&self, id: ValueId) -> impl Iterator<Item = NodeId> + '_ {
        self.net.edges_directed(id.0, Outgoing).map(|e| NodeId(e.target()))
    }

    /// Whether a node or a body reads the value.
    pub fn is_used(&self, id: ValueId) -> bool {
        self.readers(id).next().is_some()
    }

    /// Whether nothing depends on the value: no reader, and nothing outside the graph's nodes.
    pub fn is_unused(&self, id: ValueId) -> bool {
        !self.is_used(id) && !self.is_held(id)
    }

    /// Whether something reads the value, and only nodes of which `inside` holds depend on it.
    pub fn is_read_only_within(&self, id: ValueId, inside: impl Fn(NodeId) -> bool) -> bool {
        self.is_used(id) && self.readers(id).all(inside) && !self.is_held(id)
    }

    /// The one place that depends on a value, if it is the only one.
    pub fn sole_use(&self, id: ValueId) -> Option<Use> {
        let only = self.readers(id).take(2).count() == 1 && !self.is_held(id);
        if only { self.uses(id).first().copied() } else { None }
    }

    /// Whether something outside the graph's nodes depends on the value: it is an output, or pinned.
    pub fn is_held(&self, id: ValueId) -> bool {
        self.ends.contains(&id) || self.value(id).pinned
    }

    /// The name a report, `skip` and `only` know a node by: its own, else that of its first output.
    pub fn label(&self, id: NodeId) -> &str {
        let node = self.node(id);
        if !node.name.is_empty() {
            return &node.name;
        }
        self.node_outputs(id).into_iter().flatten().next().map_or("", |v| &self.value(v).name)
    }

    /// Nodes such that every one comes after those it reads from; the order of the file wherever that leaves a choice.
    ///
    /// # Errors
    /// If the graph has a cycle; the error names a node on it.
    pub fn topological(&self) -> Result<Vec<NodeId>> {
        // By vertex: how many values that nodes compute it still waits for.
        let mut waiting = vec![0usize; self.net.node_count()];
        let mut ready = BinaryHeap::new();
        for id in self.nodes() {
            let needs =
                self.net.edges_directed(id.0, Incoming).filter(|e| self.producer(ValueId(e.source())).is_some());
            match needs.count() {
                0 => ready.push(Reverse((self.node(id).order, id))),
                n => waiting[id.0.index()] = n,
            }
        }
        let mut order = Vec::with_capacity(self.net.node_count() / 2);
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for value in self.net.edges_directed(id.0, Outgoing).map(|e| e.target()) {
                for e in self.net.edges_directed(value, Outgoing) {
                    let user = NodeId(e.target());
                    let left = &mut waiting[user.0.index()];
                    *left -= 1;
                    if *left == 0 {
                        ready.push(Reverse((self.node(user).order, user)));
                    }
                }
            }
        }
        match self.nodes().filter(|n| waiting[n.0.index()] > 0).min_by_key(|&n| self.node(n).order) {
            None => Ok(order),
            Some(stuck) => {
                let on_cycle = self.walk_up(stuck, |n| waiting[n.0.index()] > 0);
                Err(Error::input("the graph has a cycle")
                    .at(format!("{} \"{}\"", self.node(on_cycle).kind(), self.label(on_cycle)))
                    .because("the node depends on its own output")
                    .help("a network must be acyclic; export it again"))
            }
        }
    }

    /// From `from` to a producer of an input, and on, inside the set `among`, until a node comes up again: that one.
    fn walk_up(&self, from: NodeId, among: impl Fn(NodeId) -> bool) -> NodeId {
        let (mut at, mut seen) = (from, HashSet::new());
        while seen.insert(at) {
            let producers = self.net.edges_directed(at.0, Incoming).filter_map(|e| self.producer(ValueId(e.source())));
            match producers.map(|p| p.0).filter(|&n| among(n)).min() {
                Some(up) => at = up,
                None => break,
            }
        }
        at
    }

    /// A name that no value in or around this graph has: `wanted`, else `wanted_2`, `wanted_3`, …
    pub fn free_name(&self, wanted: &str) -> String {
        let taken = |name: &str| self.names.contains_key(name) || self.reserved.contains(name);
        if !taken(wanted) {
            return wanted.to_string();
        }
        (2..).map(|i| format!("{wanted}_{i}")).find(|n| !taken(n)).expect("some number is free")
    }

    /// Names of all values of this graph and of the bodies in it.
    pub fn all_names(&self) -> HashSet<String> {
        let mut names = HashSet::new();
        self.collect_names(&mut names);
        names
    }

    /// Nodes of this graph and of the bodies in it, counting `Constant` nodes as the file does.
    pub fn count_nodes(&self) -> u64 {
        let constant = |&v: &ValueId| matches!(self.value(v).source, Source::Constant(_, Form::Node { .. }));
        let bodies = self.nodes().map(|n| 1 + self.node(n).bodies().map(Graph::count_nodes).sum::<u64>());
        self.values().filter(constant).count() as u64 + bodies.sum::<u64>()
    }

    fn collect_names(&self, into: &mut HashSet<String>) {
        into.extend(self.names.keys().cloned());
        for id in self.nodes() {
            self.node(id).bodies().for_each(|b| b.collect_names(into));
        }
    }

    /// Whether an initializer is not listed among the inputs.
    pub fn has_unlisted(&self) -> bool {
        let unlisted = |v| matches!(self.value(v).source, Source::Constant(_, Form::Initializer { listed: false, .. }));
        self.values().any(unlisted)
    }

    /// Lists no initializer among the inputs any more.
    pub(in crate::ir) fn unlist(&mut self) {
        let fed: Vec<ValueId> = self.runtime_inputs().collect();
        for v in std::mem::replace(&mut self.inputs, fed) {
            if let Source::Constant(_, Form::Initializer { listed, .. }) = &mut self.value_mut(v).source {
                *listed = false;
            }
        }
    }

    /// Type of every value that a caller feeds or reads, by name: what a student must keep.
    pub fn interface(&self) -> Vec<(String, Option<Type>)> {
        let ends = self.runtime_inputs().chain(self.outputs.iter().copied());
        ends.map(|v| (self.value(v).name.clone(), self.value(v).ty.clone())).collect()
    }
}

/// Construction, for the decoder and the text parser.
impl Graph {
    /// # Errors
    /// If the graph has a value of that name.
    pub(crate) fn add_value(&mut self, value: Value) -> Result<ValueId> {
        match self.names.entry(value.name.clone()) {
            Entry::Vacant(free) => {
                let id = ValueId(self.net.add_node(Vertex::Value(Box::new(value))));
                free.insert(id);
                Ok(id)
            }
            Entry::Occupied(taken) => {
                let other = *taken.get();
                let first = match self.value(other).source {
                    Source::Node => "a node's result",
                    Source::Input { .. } => "an input of the graph",
                    Source::Constant(..) | Source::Carried => "a constant",
                    Source::Capture => "a value that was read before",
                };
                Err(Error::input(format!("the value \"{}\" is defined twice", value.name))
                    .because(format!("{first} has that name, and every value of an ONNX graph has one definition"))
                    .help("rename one of the two; some exporters need unique names switched on"))
            }
        }
    }

    pub(crate) fn add_input(&mut self, id: ValueId) {
        self.inputs.push(id);
    }

    pub(crate) fn add_output(&mut self, id: ValueId) {
        self.outputs.push(id);
        self.ends.insert(id);
    }

    /// Takes away an output; the value stays.
    pub(in crate::ir) fn remove_output(&mut self, index: usize) {
        let id = self.outputs.remove(index);
        if !self.outputs.contains(&id) {
            self.ends.remove(&id);
        }
    }

    /// Declares that this body reads `name` from around it.
    pub(crate) fn add_capture(&mut self, name: &str) -> Result<ValueId> {
        let id = self.add_value(Value::new(name, Source::Capture))?;
        self.captures.push(id);
        Ok(id)
    }

    pub(crate) fn add_node(
        &mut self,
        mut node: Node,
        at: u32,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
    ) -> NodeId {
        node.order = (at, self.created);
        node.arity = (inputs.len(), outputs.len());
        self.created += 1;
        let id = NodeId(self.net.add_node(Vertex::Node(Box::new(node))));
        for (i, v) in outputs.iter().enumerate() {
            if let Some(v) = v {
                self.net.add_edge(id.0, v.0, Slot::Output(i as u32));
            }
        }
        self.connect(id, inputs);
        id
    }

    fn connect(&mut self, id: NodeId, inputs: &[Option<ValueId>]) {
        for (i, v) in inputs.iter().enumerate() {
            if let Some(v) = v {
                self.net.add_edge(v.0, id.0, Slot::Input(i as u32));
            }
        }
    }

    pub(crate) fn connect_capture(&mut self, node: NodeId, body: usize, index: usize, value: ValueId) {
        self.net.add_edge(value.0, node.0, Slot::Capture { body: body as u32, index: index as u32 });
    }
}

/// Editing, for [`crate::ir::Patch`] alone.
impl Graph {
    pub(in crate::ir) fn set_inputs(&mut self, id: NodeId, inputs: &[Option<ValueId>]) {
        let old: Vec<_> = self
            .net
            .edges_directed(id.0, Incoming)
            .filter(|e| matches!(e.weight(), Slot::Input(_)))
            .map(|e| e.id())
            .collect();
        self.remove_edges(old);
        self.node_mut(id).arity.0 = inputs.len();
        self.connect(id, inputs);
    }

    /// Lets every reader of `old` read `new`.
    pub(in crate::ir) fn redirect(&mut self, old: ValueId, new: ValueId) {
        let edges: Vec<_> =
            self.net.edges_directed(old.0, Outgoing).map(|e| (e.id(), e.target(), *e.weight())).collect();
        for &(_, node, slot) in &edges {
            self.net.add_edge(new.0, node, slot);
        }
        self.remove_edges(edges.into_iter().map(|e| e.0).collect());
    }

    /// Lets the node that computes `from` compute `to` instead; `from` is left without a producer.
    pub(in crate::ir) fn move_producer(&mut self, from: ValueId, to: ValueId) {
        self.detach(to);
        let edge = self.net.edges_directed(from.0, Incoming).next().map(|e| (e.id(), e.source(), *e.weight()));
        if let Some((id, node, slot)) = edge {
            self.net.add_edge(node, to.0, slot);
            self.net.remove_edge(id);
        }
    }

    /// A value that was constant is the result of a node now: it is no longer among the inputs that IR 3 lists.
    pub(in crate::ir) fn computed(&mut self, value: ValueId) {
        self.value_mut(value).source = Source::Node;
        self.inputs.retain(|&v| v != value);
    }

    /// Takes a value away from the node that computes it; the slot becomes an absent output.
    pub(in crate::ir) fn detach(&mut self, value: ValueId) {
        let edges: Vec<_> = self.net.edges_directed(value.0, Incoming).map(|e| e.id()).collect();
        self.remove_edges(edges);
    }

    pub(in crate::ir) fn remove_node(&mut self, id: NodeId) {
        self.remove_vertex(id.0);
    }

    pub(in crate::ir) fn remove_value(&mut self, id: ValueId) {
        let name = self.value(id).name.clone();
        self.names.remove(&name);
        self.inputs.retain(|&v| v != id);
        self.remove_vertex(id.0);
    }

    /// Drops a capture that nothing in this body reads any more, in the body and in the enclosing graph's numbering.
    pub(in crate::ir) fn remove_capture(&mut self, index: usize) {
        let id = self.captures.remove(index);
        self.remove_value(id);
    }

    pub(in crate::ir) fn remove_capture_edge(&mut self, node: NodeId, body: usize, index: usize) {
        let mut edges = Vec::new();
        for e in self.net.edges_directed(node.0, Incoming) {
            if let Slot::Capture { body: b, index: i } = *e.weight()
                && b as usize == body
                && i as usize >= index
            {
                edges.push((e.id(), e.source(), i as usize));
            }
        }
        for &(_, value, i) in edges.iter().filter(|e| e.2 > index) {
            self.net.add_edge(value, node.0, Slot::Capture { body: body as u32, index: i as u32 - 1 });
        }
        self.remove_edges(edges.into_iter().map(|e| e.0).collect());
    }

    fn remove_vertex(&mut self, at: NodeIndex<u32>) {
        let edges: Vec<_> = self.net.edges(at).chain(self.net.edges_directed(at, Incoming)).map(|e| e.id()).collect();
        self.remove_edges(edges);
        self.net[at] = Vertex::Removed;
    }

    /// Removing an edge moves the last one into its place: from the highest index down, none of ours moves.
    fn remove_edges(&mut self, mut edges: Vec<petgraph::graph::EdgeIndex<u32>>) {
        edges.sort();
        for e in edges.into_iter().rev() {
            self.net.remove_edge(e);
        }
    }
}
