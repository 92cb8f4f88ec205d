//! Nodes and values in one bipartite graph: the only source of who defines and who uses what.

use crate::error::{Error, Result};
use crate::ir::exits::Exit;
use crate::ir::names::Taken;
use crate::ir::net::Net;
pub use crate::ir::net::{NodeId, Use, ValueId};
use crate::ir::node::Node;
use crate::ir::shape::Type;
use crate::ir::tensor::Tensor;
use crate::ir::value::{Form, Listing, Source, Value};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::OnceLock;

/// A map that hashes fast, and the same in every run. What it has is never listed: that order means nothing.
type FastMap<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// A dataflow graph: the model's, or the body of an `If`, `Loop` or `Scan`.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Its name in the file.
    pub name: String,
    /// Version of the ONNX operator set that the nodes are read by; 0 if the model imports none.
    pub opset: i64,
    /// What else the GraphProto says (doc string, sparse initializers, annotations), encoded, in pieces.
    pub carried: Vec<Bytes>,
    net: Net,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    /// The outputs again, to be asked about.
    ends: HashSet<ValueId>,
    captures: Vec<ValueId>,
    pub(in crate::ir) exits: Vec<Exit>,
    /// Name of an output that says which exit is taken, where files are to have one.
    pub exit_output: Option<String>,
    names: FastMap<String, ValueId>,
    /// The names in use in and around this graph, from when they are first asked for.
    pub(in crate::ir) taken: OnceLock<Taken>,
    created: u32,
    /// How many patches were applied.
    pub(in crate::ir) edits: u64,
}

impl Graph {
    /// A graph without nodes, whose operators are of this opset of ONNX.
    pub fn new(name: impl Into<String>, opset: i64) -> Graph {
        Graph {
            name: name.into(),
            opset,
            carried: Vec::new(),
            net: Net::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            ends: HashSet::new(),
            captures: Vec::new(),
            exits: Vec::new(),
            exit_output: None,
            names: FastMap::default(),
            taken: OnceLock::new(),
            created: 0,
            edits: 0,
        }
    }

    /// Makes room for so many nodes and values.
    pub(crate) fn reserve(&mut self, nodes: usize, values: usize) {
        self.net.reserve(nodes + values);
        self.names.reserve(values);
    }

    /// Inputs in the order of the file, the constants that IR 3 files list among them included.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Inputs that a caller must feed: those without a default value.
    pub fn required_inputs(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().copied().filter(|&v| matches!(self.value(v).source, Source::Input { default: None }))
    }

    /// Inputs that a caller may feed.
    pub fn runtime_inputs(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().copied().filter(|&v| self.value(v).constant().is_none())
    }

    /// Its outputs, in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Values of the enclosing graphs that this body reads, by the index of their [`Use::Capture`].
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    /// A node that is there.
    pub fn node(&self, id: NodeId) -> &Node {
        self.net.node(id)
    }

    /// A value that is there.
    pub fn value(&self, id: ValueId) -> &Value {
        self.net.value(id)
    }

    /// Edits what is known of a value or how it is written; never which value it is.
    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut Value {
        self.net.value_mut(id)
    }

    /// Notes how many bytes the file has a constant in, if in another form than this.
    pub(crate) fn set_packed(&mut self, id: ValueId, bytes: Option<usize>) {
        self.value_mut(id).packed = bytes;
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.net.node_mut(id)
    }

    /// Whether a node is there.
    pub fn has_node(&self, id: NodeId) -> bool {
        self.net.has_node(id)
    }

    /// Whether a value is there.
    pub fn has_value(&self, id: ValueId) -> bool {
        self.net.has_value(id)
    }

    /// How often the graph was edited.
    pub fn edits(&self) -> u64 {
        self.edits
    }

    /// Ids of values are below this.
    pub fn id_bound(&self) -> usize {
        self.net.bound()
    }

    /// The value of this name.
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// Live nodes in order of creation.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.net.nodes()
    }

    /// Live values in order of creation.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.net.values()
    }

    /// Inputs of a node by slot; an absent optional input is `None`.
    pub fn node_inputs(&self, id: NodeId) -> Vec<Option<ValueId>> {
        self.net.inputs(id).collect()
    }

    /// Outputs of a node by slot; an absent optional output is `None`.
    pub fn node_outputs(&self, id: NodeId) -> Vec<Option<ValueId>> {
        self.net.outputs(id).to_vec()
    }

    /// One input of a node, if it is there.
    pub fn input(&self, id: NodeId, slot: usize) -> Option<ValueId> {
        self.net.input(id, slot)
    }

    /// The first output of a node, if it is there.
    pub fn output(&self, id: NodeId) -> Option<ValueId> {
        self.net.outputs(id).first().copied().flatten()
    }

    /// The constant tensor at an input of a node.
    pub fn input_constant(&self, id: NodeId, slot: usize) -> Option<&Tensor> {
        self.value(self.input(id, slot)?).constant()
    }

    /// Values that the bodies of a node read from this graph: `(body, index, value)` in order.
    pub fn node_captures(&self, id: NodeId) -> Vec<(usize, usize, ValueId)> {
        self.net.captures(id).collect()
    }

    /// The node that computes a value, and which of its outputs the value is.
    pub fn producer(&self, id: ValueId) -> Option<(NodeId, usize)> {
        self.net.producer(id)
    }

    /// Every place that reads a value, in order of the file.
    pub fn uses(&self, id: ValueId) -> Vec<Use> {
        let mut uses = self.net.readers(id).to_vec();
        uses.sort_by_key(|&u| (self.node(u.node()).order, u));
        uses
    }

    /// The first place in the file that reads a value.
    pub fn first_use(&self, id: ValueId) -> Option<Use> {
        self.net.readers(id).iter().copied().min_by_key(|&u| (self.node(u.node()).order, u))
    }

    /// Every place that reads a value, in no particular order.
    pub fn places(&self, id: ValueId) -> &[Use] {
        self.net.readers(id)
    }

    /// The nodes that read a value, in no particular order, once for every place.
    pub fn readers(&self, id: ValueId) -> impl Iterator<Item = NodeId> + '_ {
        self.net.readers(id).iter().map(|u| u.node())
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
        match self.net.readers(id) {
            &[only] if !self.is_held(id) => Some(only),
            _ => None,
        }
    }

    /// Whether a value is an output.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.ends.contains(&id)
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
        self.net.outputs(id).iter().flatten().next().map_or("", |&v| &self.value(v).name)
    }

    /// Nodes such that every one comes after those it reads from; the order of the file wherever that leaves a choice.
    ///
    /// # Errors
    /// If the graph has a cycle; the error names a node on it.
    pub fn topological(&self) -> Result<Vec<NodeId>> {
        // By vertex: how many values that nodes compute it still waits for.
        let mut waiting = vec![0usize; self.net.bound()];
        let mut ready = BinaryHeap::new();
        for id in self.nodes() {
            match self.reads(id).filter(|&v| self.producer(v).is_some()).count() {
                0 => ready.push(Reverse((self.node(id).order, id))),
                n => waiting[id.index()] = n,
            }
        }
        let mut order = Vec::with_capacity(self.net.bound() / 2);
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for &value in self.net.outputs(id).iter().flatten() {
                for user in self.readers(value) {
                    let left = &mut waiting[user.index()];
                    *left -= 1;
                    if *left == 0 {
                        ready.push(Reverse((self.node(user).order, user)));
                    }
                }
            }
        }
        match self.nodes().filter(|n| waiting[n.index()] > 0).min_by_key(|&n| self.node(n).order) {
            None => Ok(order),
            Some(stuck) => {
                let on_cycle = self.on_cycle().unwrap_or(stuck);
                Err(Error::input("the graph has a cycle")
                    .at(format!("{} \"{}\"", self.node(on_cycle).kind(), self.label(on_cycle)))
                    .because("the node depends on its own output")
                    .help("a network must be acyclic; export it again"))
            }
        }
    }

    /// What a node and its bodies read, once for every place.
    pub(in crate::ir) fn reads(&self, id: NodeId) -> impl Iterator<Item = ValueId> + '_ {
        self.net.inputs(id).flatten().chain(self.net.captures(id).map(|c| c.2))
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

    /// Makes an initializer of a `Constant` node, or of an input that has a default value.
    pub(in crate::ir) fn make_initializer(&mut self, id: ValueId) {
        let value = self.value_mut(id);
        match &mut value.source {
            Source::Constant(_, form) => *form = Form::INITIALIZER,
            Source::Input { default } => {
                let Some((tensor, carried)) = default.take() else { return };
                value.ty = Some(tensor.ty());
                value.listing = Listing::default();
                value.source = Source::Constant(tensor, Form::Initializer { listed: false, carried });
                self.inputs.retain(|&v| v != id);
            }
            Source::Node | Source::Capture | Source::Carried => {}
        }
    }

    /// Type of every value that a caller feeds or reads, by name: what a student must keep.
    pub fn interface(&self) -> Vec<(String, Option<Type>)> {
        let ends = self.runtime_inputs().chain(self.outputs.iter().copied());
        ends.map(|v| (self.value(v).name.clone(), self.value(v).ty.as_ref().map(Type::as_written))).collect()
    }
}

/// Construction, for the decoder and the text parser.
impl Graph {
    /// # Errors
    /// If the graph has a value of that name.
    pub(crate) fn add_value(&mut self, value: Value) -> Result<ValueId> {
        match self.names.entry(value.name.clone()) {
            Entry::Vacant(free) => {
                if let Some(taken) = self.taken.get_mut() {
                    taken.count_value(&value, true);
                }
                let id = self.net.add_value(value);
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
        if let Some(taken) = self.taken.get_mut() {
            taken.count_node(&node, true);
        }
        self.net.add_node(node, inputs, outputs)
    }

    pub(crate) fn connect_capture(&mut self, node: NodeId, body: usize, index: usize, value: ValueId) {
        self.net.connect_capture(node, body, index, value);
    }
}

/// Editing, for [`crate::ir::Patch`] alone.
impl Graph {
    pub(in crate::ir) fn taken(&self) -> &Taken {
        self.taken.get_or_init(|| Taken::of(self))
    }

    /// A name that no value and no node in or around this graph has, made from the one that is wanted.
    pub(in crate::ir) fn fresh_name(&mut self, wanted: &str) -> String {
        let mut taken = self.taken.take().unwrap_or_else(|| Taken::of(self));
        let name = taken.fresh(wanted);
        self.taken = taken.into();
        name
    }

    /// Calls a value something that nothing else is called.
    pub(in crate::ir) fn rename_value(&mut self, id: ValueId, name: String) {
        let old = std::mem::replace(&mut self.value_mut(id).name, name.clone());
        if let Some(taken) = self.taken.get_mut() {
            taken.value(&old, false);
            taken.value(&name, true);
        }
        self.names.remove(&old);
        self.names.insert(name, id);
    }

    /// Calls a node something that no other node is called.
    pub(in crate::ir) fn rename_node(&mut self, id: NodeId, name: String) {
        let old = std::mem::replace(&mut self.node_mut(id).name, name.clone());
        if let Some(taken) = self.taken.get_mut() {
            taken.node(&old, false);
            taken.node(&name, true);
        }
    }

    pub(in crate::ir) fn set_inputs(&mut self, id: NodeId, inputs: &[Option<ValueId>]) {
        self.node_mut(id).arity.0 = inputs.len();
        self.net.set_inputs(id, inputs);
    }

    /// Lets every reader of `old` read `new`.
    pub(in crate::ir) fn redirect(&mut self, old: ValueId, new: ValueId) {
        self.net.redirect(old, new);
    }

    /// Lets the node that computes `from` compute `to` instead; `from` is left without a producer.
    pub(in crate::ir) fn move_producer(&mut self, from: ValueId, to: ValueId) {
        self.net.move_producer(from, to);
    }

    /// A value that was constant is the result of a node now: it is no longer among the inputs that IR 3 lists.
    pub(in crate::ir) fn computed(&mut self, value: ValueId) {
        self.unlist_input(value);
        self.value_mut(value).source = Source::Node;
    }

    /// Takes a value away from the node that computes it; the slot becomes an absent output.
    pub(in crate::ir) fn detach(&mut self, value: ValueId) {
        self.net.detach(value);
    }

    pub(in crate::ir) fn remove_node(&mut self, id: NodeId) {
        if let Some(mut taken) = self.taken.take() {
            taken.count_node(self.node(id), false);
            self.taken = taken.into();
        }
        self.net.remove_node(id);
    }

    pub(in crate::ir) fn remove_value(&mut self, id: ValueId) {
        let name = self.value(id).name.clone();
        self.names.remove(&name);
        if let Some(mut taken) = self.taken.take() {
            taken.count_value(self.value(id), false);
            self.taken = taken.into();
        }
        self.unlist_input(id);
        self.net.remove_value(id);
    }

    /// Takes a value off the list of inputs, if it is there.
    fn unlist_input(&mut self, id: ValueId) {
        let node = matches!(self.value(id).source, Source::Node | Source::Capture);
        let unlisted = matches!(
            self.value(id).source,
            Source::Constant(_, Form::Node { .. } | Form::Initializer { listed: false, .. })
        );
        if !node && !unlisted {
            self.inputs.retain(|&v| v != id);
        }
    }

    /// Drops a capture that nothing in this body reads any more, in the body and in the enclosing graph's numbering.
    pub(in crate::ir) fn remove_capture(&mut self, index: usize) {
        let id = self.captures.remove(index);
        self.remove_value(id);
    }

    pub(in crate::ir) fn remove_capture_edge(&mut self, node: NodeId, body: usize, index: usize) {
        self.net.remove_capture(node, body, index);
    }
}
