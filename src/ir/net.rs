//! Nodes, values and the edges between them. Both ends of an edge know each other's place, so that adding one and taking
//! one away takes the same time whatever else there is: a value may have a million readers, a node as many inputs.

use crate::ir::node::Node;
use crate::ir::value::Value;

/// Names a node for as long as its graph lives: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

/// Names a value for as long as its graph lives: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl NodeId {
    pub(in crate::ir) fn index(self) -> usize {
        self.0 as usize
    }
}

impl ValueId {
    /// Its place among the ids of its graph.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One place that reads a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Input slot of a node.
    Input(NodeId, usize),
    /// The `index`-th capture of the `body`-th body of a node.
    Capture {
        /// The node with the bodies.
        node: NodeId,
        /// Which of them, from 0.
        body: usize,
        /// Which of its captures, from 0.
        index: usize,
    },
}

impl Use {
    /// The node that reads.
    pub fn node(self) -> NodeId {
        match self {
            Use::Input(node, _) | Use::Capture { node, .. } => node,
        }
    }
}

/// What a node reads at one place, and where among the value's readers that is noted.
#[derive(Debug, Clone, Copy)]
struct Read {
    value: ValueId,
    at: usize,
}

#[derive(Debug, Clone)]
struct NodeVertex {
    node: Node,
    inputs: Vec<Option<Read>>,
    outputs: Vec<Option<ValueId>>,
    /// By body and index, in that order.
    captures: Vec<((usize, usize), Read)>,
}

#[derive(Debug, Clone)]
struct ValueVertex {
    value: Value,
    producer: Option<(NodeId, usize)>,
    readers: Vec<Use>,
}

/// What is removed leaves a hole: ids are never reused.
#[derive(Debug, Clone)]
enum Vertex {
    Node(Box<NodeVertex>),
    Value(Box<ValueVertex>),
    Removed,
}

#[derive(Debug, Clone, Default)]
pub(in crate::ir) struct Net {
    vertices: Vec<Vertex>,
}

impl Net {
    pub fn reserve(&mut self, vertices: usize) {
        self.vertices.reserve(vertices);
    }

    /// Ids are below this.
    pub fn bound(&self) -> usize {
        self.vertices.len()
    }

    fn at(&self, id: NodeId) -> &NodeVertex {
        match self.vertices.get(id.index()) {
            Some(Vertex::Node(n)) => n,
            _ => panic!("{id:?} is not a live node"),
        }
    }

    fn at_mut(&mut self, id: NodeId) -> &mut NodeVertex {
        match self.vertices.get_mut(id.index()) {
            Some(Vertex::Node(n)) => n,
            _ => panic!("{id:?} is not a live node"),
        }
    }

    fn of(&self, id: ValueId) -> &ValueVertex {
        match self.vertices.get(id.index()) {
            Some(Vertex::Value(v)) => v,
            _ => panic!("{id:?} is not a live value"),
        }
    }

    fn of_mut(&mut self, id: ValueId) -> &mut ValueVertex {
        match self.vertices.get_mut(id.index()) {
            Some(Vertex::Value(v)) => v,
            _ => panic!("{id:?} is not a live value"),
        }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.at(id).node
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.at_mut(id).node
    }

    pub fn value(&self, id: ValueId) -> &Value {
        &self.of(id).value
    }

    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.of_mut(id).value
    }

    pub fn has_node(&self, id: NodeId) -> bool {
        matches!(self.vertices.get(id.index()), Some(Vertex::Node(_)))
    }

    pub fn has_value(&self, id: ValueId) -> bool {
        matches!(self.vertices.get(id.index()), Some(Vertex::Value(_)))
    }

    /// Live nodes in order of creation.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let live = |(i, v): (usize, &Vertex)| matches!(v, Vertex::Node(_)).then_some(NodeId(i as u32));
        self.vertices.iter().enumerate().filter_map(live)
    }

    /// Live values in order of creation.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let live = |(i, v): (usize, &Vertex)| matches!(v, Vertex::Value(_)).then_some(ValueId(i as u32));
        self.vertices.iter().enumerate().filter_map(live)
    }

    pub fn inputs(&self, id: NodeId) -> impl Iterator<Item = Option<ValueId>> + '_ {
        self.at(id).inputs.iter().map(|r| r.map(|r| r.value))
    }

    pub fn input(&self, id: NodeId, slot: usize) -> Option<ValueId> {
        self.at(id).inputs.get(slot).copied().flatten().map(|r| r.value)
    }

    pub fn outputs(&self, id: NodeId) -> &[Option<ValueId>] {
        &self.at(id).outputs
    }

    /// What the bodies of a node read: `(body, index, value)` in order.
    pub fn captures(&self, id: NodeId) -> impl Iterator<Item = (usize, usize, ValueId)> + '_ {
        self.at(id).captures.iter().map(|&((body, index), r)| (body, index, r.value))
    }

    pub fn producer(&self, id: ValueId) -> Option<(NodeId, usize)> {
        self.of(id).producer
    }

    /// The places that read a value, in no particular order.
    pub fn readers(&self, id: ValueId) -> &[Use] {
        &self.of(id).readers
    }

    pub fn add_value(&mut self, value: Value) -> ValueId {
        self.vertices.push(Vertex::Value(Box::new(ValueVertex { value, producer: None, readers: Vec::new() })));
        ValueId(self.vertices.len() as u32 - 1)
    }

    pub fn add_node(&mut self, node: Node, inputs: &[Option<ValueId>], outputs: &[Option<ValueId>]) -> NodeId {
        let id = NodeId(self.vertices.len() as u32);
        let vertex = NodeVertex { node, inputs: Vec::new(), outputs: outputs.to_vec(), captures: Vec::new() };
        self.vertices.push(Vertex::Node(Box::new(vertex)));
        for (slot, v) in outputs.iter().enumerate() {
            if let Some(v) = v {
                self.of_mut(*v).producer = Some((id, slot));
            }
        }
        self.set_inputs(id, inputs);
        id
    }

    pub fn set_inputs(&mut self, id: NodeId, inputs: &[Option<ValueId>]) {
        for slot in 0..self.at(id).inputs.len() {
            if let Some(read) = self.at_mut(id).inputs[slot].take() {
                self.forget(read);
            }
        }
        let read = |(slot, v): (usize, &Option<ValueId>)| v.map(|v| self.note(v, Use::Input(id, slot)));
        let inputs = inputs.iter().enumerate().map(read).collect();
        self.at_mut(id).inputs = inputs;
    }

    pub fn connect_capture(&mut self, node: NodeId, body: usize, index: usize, value: ValueId) {
        let read = self.note(value, Use::Capture { node, body, index });
        let captures = &mut self.at_mut(node).captures;
        let place = captures.partition_point(|c| c.0 < (body, index));
        captures.insert(place, ((body, index), read));
    }

    /// Drops a capture of a node; those of the same body after it move up.
    pub fn remove_capture(&mut self, node: NodeId, body: usize, index: usize) {
        let captures = &self.at(node).captures;
        let from = captures.partition_point(|c| c.0 < (body, index));
        let to = captures.partition_point(|c| c.0 <= (body, usize::MAX));
        let mut moved = Vec::new();
        // One after the other: to take one away may move where another is noted.
        for place in (from..to).rev() {
            let ((_, i), read) = self.at_mut(node).captures.remove(place);
            self.forget(read);
            moved.push((i, read.value));
        }
        for (i, value) in moved.into_iter().rev().filter(|m| m.0 > index) {
            self.connect_capture(node, body, i - 1, value);
        }
    }

    /// Notes a reader of a value.
    fn note(&mut self, value: ValueId, reader: Use) -> Read {
        let readers = &mut self.of_mut(value).readers;
        readers.push(reader);
        Read { value, at: readers.len() - 1 }
    }

    /// Takes a reader of a value away; the last one gets its place.
    fn forget(&mut self, read: Read) {
        let readers = &mut self.of_mut(read.value).readers;
        readers.swap_remove(read.at);
        if let Some(&moved) = readers.get(read.at) {
            self.tell(moved, read);
        }
    }

    /// Tells a reader what it reads, and where that is noted.
    fn tell(&mut self, reader: Use, read: Read) {
        match reader {
            Use::Input(node, slot) => self.at_mut(node).inputs[slot] = Some(read),
            Use::Capture { node, body, index } => {
                let captures = &mut self.at_mut(node).captures;
                if let Ok(place) = captures.binary_search_by_key(&(body, index), |c| c.0) {
                    captures[place].1 = read;
                }
            }
        }
    }

    /// Lets every reader of `old` read `new`.
    pub fn redirect(&mut self, old: ValueId, new: ValueId) {
        for reader in std::mem::take(&mut self.of_mut(old).readers) {
            let read = self.note(new, reader);
            self.tell(reader, read);
        }
    }

    /// Lets the node that computes `from` compute `to` instead.
    pub fn move_producer(&mut self, from: ValueId, to: ValueId) {
        self.detach(to);
        if let Some((node, slot)) = self.of_mut(from).producer.take() {
            self.of_mut(to).producer = Some((node, slot));
            self.at_mut(node).outputs[slot] = Some(to);
        }
    }

    /// Takes a value away from the node that computes it; the slot becomes an absent output.
    pub fn detach(&mut self, value: ValueId) {
        if let Some((node, slot)) = self.of_mut(value).producer.take() {
            self.at_mut(node).outputs[slot] = None;
        }
    }

    pub fn remove_node(&mut self, id: NodeId) {
        self.set_inputs(id, &[]);
        while let Some((_, read)) = self.at_mut(id).captures.pop() {
            self.forget(read);
        }
        for v in std::mem::take(&mut self.at_mut(id).outputs).into_iter().flatten() {
            self.of_mut(v).producer = None;
        }
        self.vertices[id.index()] = Vertex::Removed;
    }

    pub fn remove_value(&mut self, id: ValueId) {
        self.detach(id);
        for reader in std::mem::take(&mut self.of_mut(id).readers) {
            match reader {
                Use::Input(node, slot) => self.at_mut(node).inputs[slot] = None,
                Use::Capture { node, body, index } => self.at_mut(node).captures.retain(|c| c.0 != (body, index)),
            }
        }
        self.vertices[id.index()] = Vertex::Removed;
    }
}
