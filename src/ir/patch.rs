//! Patches: proposed edits. A pass only reads the graph and returns one; [`Graph::apply`] is the only editor.

use crate::error::{Error, Result};
use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::names::{Taken, derived};
use crate::ir::node::Node;
use crate::ir::op::Op;
use crate::ir::shape::DType;
use crate::ir::tensor::Tensor;
use crate::ir::value::{Form, Source, Value};
use std::collections::BTreeSet;

/// Floats that an operator may read a shape from, at most: one for each dim.
const FEW_NUMBERS: usize = 64;

/// A value of the graph, or one that the patch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ref {
    /// One that the graph has.
    Old(ValueId),
    /// One that the patch makes, by its number there.
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
    ForgetNode { node: NodeId },
    ForgetValue { value: ValueId },
    Rename { nodes: Vec<(NodeId, String)>, values: Vec<(ValueId, String)> },
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
    /// A node that goes, and whose bodies leave their names to what is made.
    empties: Option<NodeId>,
    /// Axes of values that become shorter, each with the positions that stay.
    pub cuts: Vec<(ValueId, usize, Vec<usize>)>,
}

/// What applying a patch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Nodes that were made or whose inputs, operator or types changed, and that still live.
    pub touched: Vec<NodeId>,
    /// Nodes that it removed.
    pub gone: Vec<NodeId>,
    /// Values that it made, removed, or gave other content or readers; some of them may be as they were.
    pub values: Vec<ValueId>,
    /// What became of the values that the patch made, in order.
    made: Vec<ValueId>,
    /// How many nodes it made.
    pub nodes_added: usize,
    /// How many nodes it removed.
    pub nodes_removed: usize,
}

impl Applied {
    /// The value of the graph that a reference in the patch stands for.
    pub fn value(&self, r: Ref) -> ValueId {
        match r {
            Ref::Old(id) => id,
            Ref::New(i) => self.made[i],
        }
    }
}

impl Patch {
    /// A patch around a node: what it makes stands where the node stood.
    pub fn at_node(graph: &Graph, node: NodeId) -> Patch {
        Patch::new(graph.label(node), graph.node(node).order.0, graph.opset)
    }

    /// A patch around a value: what it makes stands before its first reader.
    pub fn at_value(graph: &Graph, value: ValueId) -> Patch {
        let first = graph.first_use(value).map_or(0, |u| graph.node(u.node()).order.0);
        Patch::new(&graph.value(value).name, first, graph.opset)
    }

    /// A patch all over a graph: what it makes stands first.
    pub fn at_graph(graph: &Graph) -> Patch {
        Patch::new(&graph.name, 0, graph.opset)
    }

    fn new(site: &str, at: u32, opset: i64) -> Patch {
        Patch {
            site: site.into(),
            at,
            opset,
            edits: Vec::new(),
            made: 0,
            reveals: false,
            empties: None,
            cuts: Vec::new(),
        }
    }

    /// The same patch, which takes what it makes out of a body of this node, names and all; the node goes.
    pub fn emptying(self, node: NodeId) -> Patch {
        Patch { empties: Some(node), ..self }
    }

    fn name(&self, suffix: &str) -> String {
        derived(&self.site, suffix)
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

    /// Turns a `Constant` node, or an input that has a default value, into an initializer that no caller can override.
    pub fn make_initializer(&mut self, value: ValueId) {
        self.edits.push(Edit::MakeInitializer { value });
    }

    /// Removes a value that nothing reads, and the node that computes it if nothing reads that node's other outputs.
    pub fn drop_unused(&mut self, value: ValueId) {
        self.edits.push(Edit::Drop { value });
    }

    /// Drops the metadata of a node.
    pub fn forget_node(&mut self, node: NodeId) {
        self.edits.push(Edit::ForgetNode { node });
    }

    /// Drops the metadata of a value.
    pub fn forget_value(&mut self, value: ValueId) {
        self.edits.push(Edit::ForgetValue { value });
    }

    /// Gives nodes and values other names, all at once: one may get the name that another had.
    pub fn rename(&mut self, nodes: Vec<(NodeId, String)>, values: Vec<(ValueId, String)>) {
        self.edits.push(Edit::Rename { nodes, values });
    }

    /// The tensors that come into the graph.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.edits.iter_mut().filter_map(|edit| match edit {
            Edit::Constant { tensor, .. } | Edit::SetConstant { tensor, .. } => Some(tensor),
            _ => None,
        })
    }

    /// The constants that it makes.
    pub fn constants(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.edits.iter().filter_map(|edit| match edit {
            Edit::Constant { name, tensor } => Some((name.as_str(), tensor)),
            _ => None,
        })
    }

    /// The nodes that it makes, each with the names of what it reads and gives; absent ones are empty.
    pub fn nodes<'a>(&'a self, graph: &'a Graph) -> Vec<(&'a Node, Vec<&'a str>)> {
        let mut made: Vec<&str> = Vec::new();
        let mut nodes = Vec::new();
        for edit in &self.edits {
            match edit {
                Edit::Constant { name, .. } => made.push(name),
                Edit::Node { node, inputs, outputs, .. } => {
                    let read = inputs.iter().map(|r| match r {
                        Some(Ref::Old(v)) => graph.value(*v).name.as_str(),
                        Some(Ref::New(i)) => made[*i],
                        None => "",
                    });
                    let names = read.chain(outputs.iter().map(|o| o.as_deref().unwrap_or_default())).collect();
                    nodes.push((&**node, names));
                    made.extend(outputs.iter().filter_map(|o| o.as_deref()));
                }
                _ => {}
            }
        }
        nodes
    }

    /// Whether it would change nothing.
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
        let site = patch.site;
        let located = |e: Error| e.at(format!("patch at \"{site}\""));
        self.edits += 1;
        self.count_bodies(patch.empties, false);
        let mut run = PatchRun::of(self, patch.reveals);
        for edit in patch.edits {
            run.edit(edit, patch.at).map_err(located)?;
        }
        run.graph.count_bodies(patch.empties, true);
        run.sweep();
        run.claim_names();
        let PatchRun { touched, mut done, made, .. } = run;
        done.values.extend(&made);
        done.made = made;
        let live: Vec<_> = touched.into_iter().filter(|&n| self.has_node(n)).collect();
        done.touched = self.infer_from(&live, patch.reveals).map_err(located)?;
        self.verify_nodes(&done.touched).map_err(located)?;
        Ok(done)
    }
}

impl Graph {
    /// Adds the names in the bodies of a node to those in use, or takes them away.
    fn count_bodies(&mut self, node: Option<NodeId>, add: bool) {
        let Some(node) = node else { return };
        let mut taken = self.taken.take().unwrap_or_else(|| Taken::of(self));
        taken.count_bodies(self.node(node), add);
        self.taken = taken.into();
    }

    /// Lets `edit` work on every body of a node, which sees what names are in use around it; then drops what the bodies
    /// no longer capture. Says whether any edit did something.
    pub(crate) fn edit_bodies(
        &mut self,
        node: NodeId,
        mut edit: impl FnMut(&mut Graph) -> Result<bool>,
    ) -> Result<bool> {
        let mut changed = false;
        let mut unused = Vec::new();
        let mut taken = self.taken.take().unwrap_or_else(|| Taken::of(self));
        for (b, body) in self.node_mut(node).bodies_mut().enumerate() {
            body.taken = taken.into();
            changed |= edit(body)?;
            for index in (0..body.captures().len()).rev() {
                let v = body.captures()[index];
                if body.is_unused(v) {
                    body.remove_capture(index);
                    unused.push((b, index));
                }
            }
            taken = body.taken.take().unwrap_or_default();
        }
        self.taken = taken.into();
        let mut suspects = Vec::new();
        for (body, index) in unused {
            suspects.extend(self.node_captures(node).into_iter().filter(|c| (c.0, c.1) == (body, index)).map(|c| c.2));
            self.remove_capture_edge(node, body, index);
        }
        let mut run = PatchRun { suspects, ..PatchRun::of(self, false) };
        run.sweep();
        Ok(changed)
    }
}

struct PatchRun<'g> {
    graph: &'g mut Graph,
    /// Where the values made so far ended up: a replacement moves a new value into the place of the old one.
    made: Vec<ValueId>,
    touched: BTreeSet<NodeId>,
    /// Values that may have lost their last reader.
    suspects: Vec<ValueId>,
    /// Nodes that may have: they stay until all edits are done, which may be about their other outputs.
    idle: Vec<NodeId>,
    /// What was made under another name than the one that was wanted, because a node had that: the node, the value.
    renamed: Vec<(String, Option<NodeId>, ValueId)>,
    reveals: bool,
    done: Applied,
}

impl<'g> PatchRun<'g> {
    fn of(graph: &'g mut Graph, reveals: bool) -> PatchRun<'g> {
        PatchRun {
            graph,
            made: Vec::new(),
            touched: BTreeSet::new(),
            suspects: Vec::new(),
            idle: Vec::new(),
            renamed: Vec::new(),
            reveals,
            done: Applied::default(),
        }
    }

    /// A free name, and whether it is not the one that is wanted for no other reason than that a node has that.
    fn name(&mut self, wanted: &str) -> (String, bool) {
        let waits = !self.graph.taken().has_value(wanted);
        let name = self.graph.fresh_name(wanted);
        let waits = waits && name != wanted;
        (name, waits)
    }

    /// Gives what was made the names that were wanted for it, where the nodes that had them are gone.
    fn claim_names(&mut self) {
        for (wanted, node, value) in std::mem::take(&mut self.renamed) {
            let node = node.filter(|&n| self.graph.has_node(n));
            if !self.graph.is_free(&wanted) {
                continue;
            }
            if let Some(n) = node {
                self.graph.rename_node(n, wanted.clone());
            }
            // A value that took the place of another has its name.
            if self.graph.has_value(value) {
                self.graph.rename_value(value, wanted);
            }
        }
    }

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
                let (free, waits) = self.name(&name);
                let id = self.graph.add_value(Value::new(free, Source::Constant(tensor, Form::INITIALIZER)))?;
                self.renamed.extend(waits.then_some((name, None, id)));
                self.made.push(id);
            }
            Edit::Node { node, inputs, outputs, captures } => {
                let inputs = self.resolve_all(&inputs);
                self.done.values.extend(inputs.iter().flatten());
                let mut node = *node;
                // A node that is called what an output is called stays so.
                let mut follows = None;
                let (mut slots, mut waiting) = (Vec::new(), Vec::new());
                for wanted in outputs {
                    let Some(wanted) = wanted else {
                        slots.push(None);
                        continue;
                    };
                    let (name, waits) = self.name(&wanted);
                    let follows_this = follows.is_none() && node.name == wanted;
                    if follows_this {
                        follows = Some(name.clone());
                    }
                    let id = self.graph.add_value(Value::new(name, Source::Node))?;
                    waiting.extend(waits.then_some((wanted, follows_this, id)));
                    slots.push(Some(id));
                }
                node.name = follows.unwrap_or_else(|| self.graph.free_node_name(&node.name));
                let id = self.graph.add_node(node, at, &inputs, &slots);
                let own = |follows: bool| follows.then_some(id);
                self.renamed.extend(waiting.into_iter().map(|(wanted, f, value)| (wanted, own(f), value)));
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
                self.done.values.push(value);
                let v = self.graph.value_mut(value);
                let ty = tensor.ty();
                let Source::Constant(t, _) = &mut v.source else {
                    return Err(Error::internal(format!("\"{}\" is no constant", v.name)));
                };
                if t.dtype() != tensor.dtype() || t.rank() != tensor.rank() {
                    return Err(Error::internal(format!("\"{}\" would become {ty} from {}", v.name, t.ty())));
                }
                let (was, is) = (t.len().max(1), tensor.len());
                *t = tensor;
                v.ty = Some(ty);
                v.packed = v.packed.map(|bytes| bytes * is / was);
                self.touched.extend(self.graph.readers(value));
            }
            Edit::SetOp { node, op } => {
                self.done.values.extend(self.graph.node_inputs(node).into_iter().flatten());
                let opset = self.graph.opset;
                let n = self.graph.node_mut(node);
                let fresh = Node::new(n.name.clone(), op, opset);
                (n.op_type, n.attrs, n.op) = (fresh.op_type, fresh.attrs, fresh.op);
                self.touched.insert(node);
            }
            Edit::SetInputs { node, inputs } => {
                self.suspects.extend(self.graph.node_inputs(node).into_iter().flatten());
                let inputs = self.resolve_all(&inputs);
                self.done.values.extend(inputs.iter().flatten());
                self.graph.set_inputs(node, &inputs);
                self.touched.insert(node);
            }
            Edit::MakeInitializer { value } => {
                self.graph.make_initializer(value);
            }
            Edit::Drop { value } => self.suspects.push(value),
            Edit::ForgetNode { node } => self.graph.node_mut(node).metadata = Default::default(),
            Edit::ForgetValue { value } => self.graph.value_mut(value).listing.metadata = Default::default(),
            Edit::Rename { nodes, values } => {
                // Names that no file has make room for the new ones.
                for (i, (v, _)) in values.iter().enumerate() {
                    self.graph.rename_value(*v, format!("\0{i}"));
                }
                for (v, name) in values {
                    self.graph.rename_value(v, name);
                }
                nodes.into_iter().for_each(|(n, name)| self.graph.rename_node(n, name));
            }
        }
        Ok(())
    }

    fn replace(&mut self, old: ValueId, new: ValueId) -> Result<()> {
        self.done.values.extend([old, new]);
        let (o, n) = (self.graph.value(old), self.graph.value(new));
        // A patch that reveals what the file says may reveal that it contradicts itself.
        let refused = if self.reveals { self.graph.keeps_name(old, new) } else { self.graph.refuses_replace(old, new) };
        if let Some(why) = refused {
            return Err(Error::internal(format!("\"{}\" cannot be replaced", o.name)).because(why));
        }
        // What reads the same as before computes the same type: a node with many inputs is not looked at for each of them.
        // Types follow from numbers only where these are few, such as the scales of a Resize.
        let tells = |v: &Value| v.constant().is_some_and(|t| !t.dtype().is_float() || t.len() <= FEW_NUMBERS);
        let alike = !tells(o) && !tells(n) && o.ty == n.ty && o.ints == n.ints;
        if !alike {
            self.touched.extend(self.graph.readers(old));
        }
        let producer = self.graph.producer(old);
        match n.source.clone() {
            Source::Constant(tensor, _) if self.graph.is_held(old) || self.made.contains(&new) => {
                let form = match self.graph.is_held(old) {
                    true => Form::Node {
                        name: String::new(),
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
                if !alike {
                    self.touched.extend(self.graph.readers(new));
                }
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
        self.done.gone.push(node);
        self.done.nodes_removed += 1;
    }

    /// Removes suspects that nothing reads, and what they alone kept alive.
    fn sweep(&mut self) {
        std::mem::take(&mut self.idle).into_iter().for_each(|n| self.retire(n));
        while let Some(v) = self.suspects.pop() {
            self.done.values.push(v);
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
