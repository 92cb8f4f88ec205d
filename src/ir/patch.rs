//! Patches: proposed edits. A pass only reads the graph and returns one; [`Graph::apply`] is the only editor.

use crate::error::{Error, Result};
use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::node::Node;
use crate::ir::op::Op;
use crate::ir::shape::DType;
use crate::ir::tensor::Tensor;
use crate::ir::value::{Form, Source, Value};
use std::collections::{BTreeSet, HashSet};

/// A value of the graph, or one that the patch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ref {
    Old(ValueId),
    New(usize),
}

impl From<ValueId> for Ref {
    fn from(id: ValueId) -> Ref {
        Ref::Old(id)
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Constant { name: String, tensor: Tensor },
    Node { node: Box<Node>, inputs: Vec<Option<Ref>>, outputs: Vec<Option<String>>, captures: Vec<(usize, usize, Ref)> },
    Replace { old: ValueId, new: Ref },
    SetConstant { value: ValueId, tensor: Tensor },
    SetOp { node: NodeId, op: Op },
    SetInputs { node: NodeId, inputs: Vec<Option<Ref>> },
    MakeInitializer { value: ValueId },
    Drop { value: ValueId },
}

/// Edits around one site, applied together. New names are the site's name with a suffix.
#[derive(Debug, Clone)]
pub struct Patch {
    site: String,
    at: u32,
    opset: i64,
    edits: Vec<Edit>,
    made: usize,
    reveals: bool,
    /// Axes of values that become shorter, each with the positions that stay.
    pub cuts: Vec<(ValueId, usize, Vec<usize>)>,
}

/// What applying a patch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Nodes that were made or whose inputs, operator or types changed, and that still live.
    pub touched: Vec<NodeId>,
    pub nodes_added: usize,
    pub nodes_removed: usize,
}

impl Patch {
    /// A patch around a node: what it makes stands where the node stood.
    pub fn at_node(graph: &Graph, node: NodeId) -> Patch {
        Patch::new(graph.label(node), graph.node(node).order.0, graph.opset)
    }

    /// A patch around a value: what it makes stands before its first reader.
    pub fn at_value(graph: &Graph, value: ValueId) -> Patch {
        let first = graph.uses(value).first().map_or(0, |u| graph.node(u.node()).order.0);
        Patch::new(&graph.value(value).name, first, graph.opset)
    }

    /// A patch all over a graph: what it makes stands first.
    pub fn at_graph(graph: &Graph) -> Patch {
        Patch::new(&graph.name, 0, graph.opset)
    }

    fn new(site: &str, at: u32, opset: i64) -> Patch {
        Patch { site: site.into(), at, opset, edits: Vec::new(), made: 0, reveals: false, cuts: Vec::new() }
    }

    fn name(&self, suffix: &str) -> String {
        if suffix.is_empty() { self.site.clone() } else { format!("{}.{suffix}", self.site) }
    }

    /// The same patch, known to state nothing but what the file says already, if less plainly: a node that contradicts
    /// it then contradicted itself before, and is marked as nodes are that do so when a file is read.
    pub fn revealing(self) -> Patch {
        Patch { reveals: true, ..self }
    }

    /// A new initializer.
    pub fn constant(&mut self, suffix: &str, tensor: Tensor) -> Ref {
        self.constant_named(self.name(suffix), tensor)
    }

    /// A new initializer whose name does not begin with the site's: for what several sites share, and for short names.
    pub fn constant_named(&mut self, name: impl Into<String>, tensor: Tensor) -> Ref {
        self.edits.push(Edit::Constant { name: name.into(), tensor });
        self.made += 1;
        Ref::New(self.made - 1)
    }

    /// A new node with one output.
    pub fn node(&mut self, suffix: &str, op: impl Into<Op>, inputs: &[Option<Ref>]) -> Ref {
        let name = self.name(suffix);
        self.node_named(&name, op, inputs)
    }

    /// A new node with one output and a name that does not begin with the site's.
    pub fn node_named(&mut self, name: &str, op: impl Into<Op>, inputs: &[Option<Ref>]) -> Ref {
        let node = Node::new(name, op.into(), self.opset);
        self.edits.push(Edit::Node {
            node: Box::new(node),
            inputs: inputs.to_vec(),
            outputs: vec![Some(name.into())],
            captures: Vec::new(),
        });
        self.made += 1;
        Ref::New(self.made - 1)
    }

    /// A copy of a node, of any operator, on other inputs, with these names for its outputs; `None` for an absent one.
    pub fn copy(
        &mut self,
        node: &Node,
        inputs: &[Option<Ref>],
        outputs: Vec<Option<String>>,
        captures: Vec<(usize, usize, Ref)>,
    ) -> Vec<Option<Ref>> {
        let mut next = self.made..;
        let refs = outputs.iter().map(|o| o.as_ref().and_then(|_| next.next()).map(Ref::New)).collect();
        self.made = next.start;
        self.edits.push(Edit::Node { node: Box::new(node.clone()), inputs: inputs.to_vec(), outputs, captures });
        refs
    }

    /// Everything that reads `old` reads `new`, which must have the same type; where `old` is an output of the model,
    /// `new` takes its name. What nothing reads any more is removed.
    pub fn replace(&mut self, old: ValueId, new: impl Into<Ref>) {
        self.edits.push(Edit::Replace { old, new: new.into() });
    }

    /// Gives a constant another content; only its dims may change, not its element type or rank.
    pub fn set_constant(&mut self, value: ValueId, tensor: Tensor) {
        self.edits.push(Edit::SetConstant { value, tensor });
    }

    /// Gives a node another operator on the same inputs.
    pub fn set_op(&mut self, node: NodeId, op: impl Into<Op>) {
        self.edits.push(Edit::SetOp { node, op: op.into() });
    }

    /// Gives a node other inputs.
    pub fn set_inputs(&mut self, node: NodeId, inputs: &[Option<Ref>]) {
        self.edits.push(Edit::SetInputs { node, inputs: inputs.to_vec() });
    }

    /// Turns a constant that the file has as a `Constant` node into an initializer.
    pub fn make_initializer(&mut self, value: ValueId) {
        self.edits.push(Edit::MakeInitializer { value });
    }

    /// Removes a value that nothing reads, and the node that computes it if nothing reads that node's other outputs.
    pub fn drop_unused(&mut self, value: ValueId) {
        self.edits.push(Edit::Drop { value });
    }

    /// The tensors that come into the graph.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.edits.iter_mut().filter_map(|edit| match edit {
            Edit::Constant { tensor, .. } | Edit::SetConstant { tensor, .. } => Some(tensor),
            _ => None,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }
}

impl Graph {
    /// Why `new` cannot stand in for `old`, if so: two names of the model's interface cannot become one value.
    pub fn refuses_replace(&self, old: ValueId, new: ValueId) -> Option<String> {
        let v = self.value(new);
        if let (Some(was), Some(is)) = (&self.value(old).ty, &v.ty)
            && !was.agrees(is)
        {
            return Some(format!("\"{}\" is declared {was}, and \"{}\" is {is}", self.value(old).name, v.name));
        }
        self.keeps_name(old, new)
    }

    /// Why a kept name cannot go over to another value.
    fn keeps_name(&self, old: ValueId, new: ValueId) -> Option<String> {
        if !self.is_held(old) {
            return None;
        }
        let v = self.value(new);
        match &v.source {
            Source::Node if self.is_held(new) => {
                Some(format!("\"{}\" and \"{}\" are both kept names", self.value(old).name, v.name))
            }
            Source::Node => None,
            Source::Constant(tensor, _) => self.refuses_constant(old, tensor.dtype()),
            _ => Some(format!("it passes the input \"{}\" on to the output \"{}\"", v.name, self.value(old).name)),
        }
    }

    /// Why a `Constant` node cannot give a kept name a tensor of this type: before opset 9 it has three. (Operators.md.)
    pub fn refuses_constant(&self, old: ValueId, dtype: DType) -> Option<String> {
        let holds = self.opset >= 9 || matches!(dtype, DType::F16 | DType::F32 | DType::F64);
        (self.is_held(old) && !holds).then(|| {
            format!(
                "\"{}\" is an output, and `Constant` of opset {} holds no {dtype}",
                self.value(old).name,
                self.opset
            )
        })
    }

    /// Applies a patch, removes what it left without a reader, infers the types of what it touched and verifies them.
    ///
    /// # Errors
    /// Internal ones: a patch that leaves the graph invalid is a bug in the pass that made it.
    pub fn apply(&mut self, patch: Patch) -> Result<Applied> {
        let mut run = Run {
            graph: self,
            made: Vec::new(),
            touched: BTreeSet::new(),
            suspects: Vec::new(),
            idle: Vec::new(),
            reveals: patch.reveals,
            done: Applied::default(),
        };
        for edit in patch.edits {
            run.edit(edit, patch.at).map_err(|e| e.at(format!("patch at \"{}\"", patch.site)))?;
        }
        run.sweep();
        let Run { touched, mut done, .. } = run;
        let live: Vec<_> = touched.into_iter().filter(|&n| self.has_node(n)).collect();
        done.touched =
            self.infer_from(&live, patch.reveals).map_err(|e| e.at(format!("patch at \"{}\"", patch.site)))?;
        self.verify_nodes(&done.touched).map_err(|e| e.at(format!("patch at \"{}\"", patch.site)))?;
        Ok(done)
    }
}

impl Graph {
    /// Lets `edit` work on every body of a node, with `taken` as the names that its new values must not have; then
    /// drops what the bodies no longer capture. Says whether any edit did something.
    pub(crate) fn edit_bodies(
        &mut self,
        node: NodeId,
        taken: &HashSet<String>,
        mut edit: impl FnMut(&mut Graph) -> Result<bool>,
    ) -> Result<bool> {
        let mut changed = false;
        let mut unused = Vec::new();
        for (b, body) in self.node_mut(node).bodies_mut().enumerate() {
            body.reserved = taken.clone();
            changed |= edit(body)?;
            body.reserved = HashSet::new();
            for index in (0..body.captures().len()).rev() {
                let v = body.captures()[index];
                if body.is_unused(v) {
                    body.remove_capture(index);
                    unused.push((b, index));
                }
            }
        }
        let mut suspects = Vec::new();
        for (body, index) in unused {
            suspects.extend(self.node_captures(node).into_iter().filter(|c| (c.0, c.1) == (body, index)).map(|c| c.2));
            self.remove_capture_edge(node, body, index);
        }
        let mut run = Run {
            graph: self,
            made: Vec::new(),
            touched: BTreeSet::new(),
            suspects,
            idle: Vec::new(),
            reveals: false,
            done: Applied::default(),
        };
        run.sweep();
        Ok(changed)
    }
}

struct Run<'g> {
    graph: &'g mut Graph,
    /// Where the values made so far ended up: a replacement moves a new value into the place of the old one.
    made: Vec<ValueId>,
    touched: BTreeSet<NodeId>,
    /// Values that may have lost their last reader.
    suspects: Vec<ValueId>,
    /// Nodes that may have: they stay until all edits are done, which may be about their other outputs.
    idle: Vec<NodeId>,
    reveals: bool,
    done: Applied,
}

impl Run<'_> {
    fn resolve(&self, r: Ref) -> ValueId {
        match r {
            Ref::Old(id) => id,
            Ref::New(i) => self.made[i],
        }
    }

    fn resolve_all(&self, refs: &[Option<Ref>]) -> Vec<Option<ValueId>> {
        refs.iter().map(|r| r.map(|r| self.resolve(r))).collect()
    }

    fn edit(&mut self, edit: Edit, at: u32) -> Result<()> {
        match edit {
            Edit::Constant { name, tensor } => {
                let name = self.graph.free_name(&name);
                let id = self.graph.add_value(Value::new(name, Source::Constant(tensor, Form::INITIALIZER)))?;
                self.made.push(id);
            }
            Edit::Node { node, inputs, outputs, captures } => {
                let inputs = self.resolve_all(&inputs);
                let mut node = *node;
                let mut slots = Vec::new();
                for name in outputs {
                    let Some(wanted) = name else {
                        slots.push(None);
                        continue;
                    };
                    let name = self.graph.free_name(&wanted);
                    // A node that is called what its output is called stays so.
                    if node.name == wanted {
                        node.name = name.clone();
                    }
                    slots.push(Some(self.graph.add_value(Value::new(name, Source::Node))?));
                }
                let id = self.graph.add_node(node, at, &inputs, &slots);
                for (body, index, r) in captures {
                    self.graph.connect_capture(id, body, index, self.resolve(r));
                }
                self.made.extend(slots.into_iter().flatten());
                self.graph.infer_from(&[id], self.reveals)?;
                self.touched.insert(id);
                self.done.nodes_added += 1;
            }
            Edit::Replace { old, new } => self.replace(old, self.resolve(new))?,
            Edit::SetConstant { value, tensor } => {
                let v = self.graph.value_mut(value);
                let ty = tensor.ty();
                let Source::Constant(t, _) = &mut v.source else {
                    return Err(Error::internal(format!("\"{}\" is no constant", v.name)));
                };
                if t.dtype() != tensor.dtype() || t.rank() != tensor.rank() {
                    return Err(Error::internal(format!("\"{}\" would become {ty} from {}", v.name, t.ty())));
                }
                *t = tensor;
                v.ty = Some(ty);
                self.touched.extend(self.graph.uses(value).into_iter().map(Use::node));
            }
            Edit::SetOp { node, op } => {
                let opset = self.graph.opset;
                let n = self.graph.node_mut(node);
                let fresh = Node::new(n.name.clone(), op, opset);
                (n.op_type, n.attrs, n.op) = (fresh.op_type, fresh.attrs, fresh.op);
                self.touched.insert(node);
            }
            Edit::SetInputs { node, inputs } => {
                self.suspects.extend(self.graph.node_inputs(node).into_iter().flatten());
                let inputs = self.resolve_all(&inputs);
                self.graph.set_inputs(node, &inputs);
                self.touched.insert(node);
            }
            Edit::MakeInitializer { value } => {
                if let Source::Constant(_, form) = &mut self.graph.value_mut(value).source {
                    *form = Form::INITIALIZER;
                }
            }
            Edit::Drop { value } => self.suspects.push(value),
        }
        Ok(())
    }

    fn replace(&mut self, old: ValueId, new: ValueId) -> Result<()> {
        let (o, n) = (self.graph.value(old), self.graph.value(new));
        // A patch that reveals what the file says may reveal that it contradicts itself.
        let refused = if self.reveals { self.graph.keeps_name(old, new) } else { self.graph.refuses_replace(old, new) };
        if let Some(why) = refused {
            return Err(Error::internal(format!("\"{}\" cannot be replaced", o.name)).because(why));
        }
        self.touched.extend(self.graph.uses(old).into_iter().map(Use::node));
        let producer = self.graph.producer(old);
        match n.source.clone() {
            Source::Constant(tensor, _) if self.graph.is_held(old) || self.made.contains(&new) => {
                let form = match self.graph.is_held(old) {
                    true => Form::Node {
                        carried: Default::default(),
                        order: producer.map_or(0, |p| self.graph.node(p.0).order.0),
                    },
                    false => Form::INITIALIZER,
                };
                self.graph.detach(old);
                let v = self.graph.value_mut(old);
                (v.ty, v.ints) = (Some(tensor.ty()), None);
                v.source = Source::Constant(tensor, form);
                if self.made.contains(&new) {
                    self.absorb(new, old);
                } else {
                    self.suspects.push(new);
                }
            }
            Source::Node if self.graph.is_held(old) || self.made.contains(&new) => {
                // What reads it may now see the type that the kept name was declared with.
                self.touched.extend(self.graph.uses(new).into_iter().map(Use::node));
                self.graph.redirect(new, old);
                self.graph.move_producer(new, old);
                self.graph.computed(old);
                if let Some((p, _)) = self.graph.producer(old) {
                    self.touched.insert(p);
                }
                self.absorb(new, old);
            }
            _ => {
                self.graph.redirect(old, new);
                self.suspects.push(old);
            }
        }
        if let Some((p, _)) = producer.filter(|p| self.graph.producer(old).map(|q| q.0) != Some(p.0)) {
            self.idle.push(p);
        }
        Ok(())
    }

    /// `new` has become `old`.
    fn absorb(&mut self, new: ValueId, old: ValueId) {
        self.graph.redirect(new, old);
        self.made.iter_mut().filter(|m| **m == new).for_each(|m| *m = old);
        self.graph.remove_value(new);
    }

    /// Removes a node if nothing reads any of its outputs.
    fn retire(&mut self, node: NodeId) {
        let unread = |v: &ValueId| self.graph.is_unused(*v);
        if !self.graph.has_node(node) || !self.graph.node_outputs(node).iter().flatten().all(unread) {
            return;
        }
        let outputs: Vec<_> = self.graph.node_outputs(node).into_iter().flatten().collect();
        self.suspects.extend(self.graph.node_inputs(node).into_iter().flatten());
        self.suspects.extend(self.graph.node_captures(node).into_iter().map(|c| c.2));
        self.graph.remove_node(node);
        outputs.into_iter().for_each(|v| self.graph.remove_value(v));
        self.done.nodes_removed += 1;
    }

    /// Removes suspects that nothing reads, and what they alone kept alive.
    fn sweep(&mut self) {
        std::mem::take(&mut self.idle).into_iter().for_each(|n| self.retire(n));
        while let Some(v) = self.suspects.pop() {
            if !self.graph.has_value(v) || !self.graph.is_unused(v) {
                continue;
            }
            match (&self.graph.value(v).source, self.graph.producer(v)) {
                (Source::Node, Some((p, _))) => self.retire(p),
                (Source::Node, None) | (Source::Constant(..), _) => self.graph.remove_value(v),
                _ => {}
            }
        }
    }
}
