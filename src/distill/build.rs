//! From nodes to steps: what each value is, and which kernel computes it.

use super::tape::Kernel;
use super::{conv, layout, matmul, norm, pointwise, pool, real::Real, reduce, resize, softmax};
use crate::analysis::evaluate::Evaluator;
use crate::error::{Error, Result};
use crate::ir::op::binary::Kind;
use crate::ir::{DType, Graph, NodeId, Op, Source, Tensor, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A tensor of the tape. Several values of the graph are one slot if they have the same elements.
pub struct Slot<T> {
    pub len: usize,
    pub held: Held<T>,
    /// How many values it stands for.
    values: usize,
}

/// Where a slot's elements come from.
pub enum Held<T> {
    Fed { name: String, shape: Vec<usize> },
    Constant(Vec<T>),
    Parameter { value: ValueId, name: String, shape: Vec<usize>, values: Vec<T> },
    Made,
}

/// A kernel and the slots it reads and writes.
pub struct Draft<T> {
    pub kernel: Box<dyn Kernel<T>>,
    pub inputs: Vec<usize>,
    pub output: usize,
}

/// Makes the steps of a graph whose shapes are known.
pub struct Builder<'a, T> {
    graph: &'a Graph,
    order: Vec<NodeId>,
    evaluator: Evaluator<'a>,
    trainable: &'a BTreeSet<ValueId>,
    /// What depends on what is fed or trained.
    varying: HashSet<ValueId>,
    ends: HashSet<ValueId>,
    of: HashMap<ValueId, usize>,
    pub slots: Vec<Slot<T>>,
    pub steps: Vec<Draft<T>>,
    /// The node that no steps can be made for, if that is what failed.
    pub stuck: Option<NodeId>,
}

impl<'a, T: Real> Builder<'a, T> {
    pub fn new(graph: &'a Graph, trainable: &'a BTreeSet<ValueId>) -> Result<Self> {
        let order = graph.topological()?;
        let mut varying: HashSet<ValueId> = graph.runtime_inputs().chain(trainable.iter().copied()).collect();
        for &n in &order {
            if graph.node_inputs(n).into_iter().flatten().any(|v| varying.contains(&v)) {
                varying.extend(graph.node_outputs(n).into_iter().flatten());
            }
        }
        Ok(Builder {
            graph,
            order,
            evaluator: Evaluator::of(graph),
            trainable,
            varying,
            ends: HashSet::new(),
            of: HashMap::new(),
            slots: Vec::new(),
            steps: Vec::new(),
            stuck: None,
        })
    }

    /// Makes the steps that compute these values. Gives the slot, the name and the shape of each.
    pub fn build(&mut self, outputs: &[ValueId]) -> Result<Vec<(usize, String, Vec<usize>)>> {
        self.ends = outputs.iter().copied().collect();
        let needed = self.needed(outputs);
        for n in self.order.clone().into_iter().filter(|n| needed.contains(n)) {
            let (inputs, outputs) = (self.graph.node_inputs(n), self.graph.node_outputs(n));
            let graph = self.graph;
            let built = Site { b: self, node: n, inputs, outputs }.build();
            self.stuck = built.is_err().then_some(n);
            built.map_err(|why| {
                let (kind, label) = (graph.node(n).kind(), graph.label(n));
                Error::input(format!("cannot train through {kind} \"{label}\"")).because(why)
            })?;
        }
        let end = |&v: &ValueId| {
            let slot = self.read(v)?;
            Ok((slot, self.graph.value(v).name.clone(), self.dims(v)?))
        };
        let ends: Result<Vec<_>, String> = outputs.iter().map(end).collect();
        let ends = ends.map_err(|why| Error::input("cannot train towards an output").because(why))?;
        self.sweep(&ends);
        Ok(ends)
    }

    /// Drops the steps that no output depends on: those for outputs of nodes that nobody reads.
    fn sweep(&mut self, ends: &[(usize, String, Vec<usize>)]) {
        let mut live: HashSet<usize> = ends.iter().map(|e| e.0).collect();
        let mut kept = Vec::new();
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            if live.contains(&step.output) {
                live.extend(&step.inputs);
                kept.push(step);
            }
        }
        kept.reverse();
        self.steps = kept;
    }

    /// The nodes that something has to be computed for.
    fn needed(&mut self, outputs: &[ValueId]) -> HashSet<NodeId> {
        let (mut needed, mut open) = (HashSet::new(), outputs.to_vec());
        while let Some(v) = open.pop() {
            let Some((n, _)) = self.graph.producer(v) else { continue };
            if !needed.contains(&n) && self.content(v).is_none() {
                needed.insert(n);
                open.extend(self.graph.node_inputs(n).into_iter().flatten());
            }
        }
        needed
    }

    /// What a value holds, if neither what is fed nor what is trained can change it.
    fn content(&mut self, v: ValueId) -> Option<Tensor> {
        if let Some(known) = self.graph.value(v).known_ints() {
            return Some(known);
        }
        if self.varying.contains(&v) { None } else { self.evaluator.tensor(v) }
    }

    fn dims(&self, v: ValueId) -> Result<Vec<usize>, String> {
        let value = self.graph.value(v);
        let dims = value.dims().ok_or_else(|| format!("the shape of %{} is not known", value.name))?;
        let dims: Option<Vec<usize>> = dims.into_iter().map(|d| usize::try_from(d).ok()).collect();
        let len = dims.as_ref().and_then(|d| d.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
        // Memory is planned in elements of 8 bytes at most, and a kernel asks for a few buffers of such a length.
        match (dims, len) {
            (Some(dims), Some(1..=MAX_LEN)) => Ok(dims),
            (_, Some(0)) => Err(format!("%{} has no elements", value.name)),
            _ => Err(format!("%{} is too large", value.name)),
        }
    }

    /// The slot of a float tensor.
    fn read(&mut self, v: ValueId) -> Result<usize, String> {
        if let Some(&slot) = self.of.get(&v) {
            return Ok(slot);
        }
        let value = self.graph.value(v);
        let (name, shape) = (value.name.clone(), self.dims(v)?);
        let dtype = value.ty.as_ref().and_then(|t| t.dtype());
        if let Some(dtype) = dtype.filter(|d| !d.is_float()) {
            return Err(format!("%{name} is of type {dtype}"));
        }
        let len = shape.iter().product();
        let numbers = |t: &Tensor| t.iter_floats().map(|v| v.map(T::of).collect::<Vec<_>>()).unwrap_or_default();
        let held = match (&value.source, value.constant()) {
            (_, Some(t)) if self.trainable.contains(&v) => {
                Held::Parameter { value: v, name, shape, values: numbers(t) }
            }
            (Source::Input { .. }, None) => Held::Fed { name, shape },
            _ => match self.content(v).filter(|t| t.dtype().is_float()) {
                Some(t) => Held::Constant(numbers(&t)),
                None => return Err(format!("%{name} is not computed by anything that can be trained through")),
            },
        };
        let slot = self.slot(len, held);
        self.of.insert(v, slot);
        self.slots[slot].values += 1;
        Ok(slot)
    }

    fn slot(&mut self, len: usize, held: Held<T>) -> usize {
        self.slots.push(Slot { len, held, values: 0 });
        self.slots.len() - 1
    }
}

/// Elements of the largest tensor that is trained with.
const MAX_LEN: usize = 1 << 29;

/// A node that steps are made for.
pub struct Site<'s, 'a, T> {
    b: &'s mut Builder<'a, T>,
    node: NodeId,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
}

impl<T: Real> Site<'_, '_, T> {
    fn build(mut self) -> Result<(), String> {
        let graph = self.b.graph;
        let site = &mut self;
        if graph.node(site.node).inconsistent {
            return Err(
                "its inputs contradict its definition; a file that fixes a batch of one is to be exported with an open one"
                    .into(),
            );
        }
        match &graph.node(site.node).op {
            Op::Conv(op) => conv::build(site, op),
            Op::ConvTranspose(op) => conv::build_transpose(site, op),
            Op::Gemm(op) => matmul::gemm(site, op),
            Op::MatMul(_) => matmul::matmul(site),
            Op::BatchNorm(op) => norm::batch(site, op),
            Op::LayerNorm(op) => norm::layer(site, op),
            Op::Pool(op) => pool::build(site, op),
            Op::GlobalPool(op) => pool::global(site, op),
            Op::Reduce(op) => reduce::build(site, op),
            Op::Softmax(op) => softmax::build(site, op),
            Op::Resize(op) => resize::build(site, op),
            Op::Upsample(op) => resize::upsample(site, op),
            Op::Unary(op) => pointwise::unary(site, op),
            Op::Activation(op) => pointwise::activation(site, op),
            Op::Gelu(op) => pointwise::gelu(site, op),
            Op::Clip(op) => pointwise::clip(site, op),
            Op::Binary(op) => pointwise::binary(site, op),
            Op::Cast(_) | Op::CastLike(_) if !is_float(graph, site.outputs.first().copied().flatten()) => {
                Err("what it makes is not floating-point".into())
            }
            Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::Cast(_) | Op::CastLike(_) => {
                site.same()
            }
            // Whatever it asks for: a student learns as it will run.
            Op::Dropout(_) => site.same(),
            op => layout::build(site, op),
        }
    }

    pub fn graph(&self) -> &Graph {
        self.b.graph
    }

    /// The value at an input, if it is there.
    pub fn value(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    pub fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    pub fn n_outputs(&self) -> usize {
        self.outputs.len()
    }

    pub fn has(&self, slot: usize) -> bool {
        self.value(slot).is_some()
    }

    fn there(&self, slot: usize) -> Result<ValueId, String> {
        self.value(slot).ok_or_else(|| format!("it has no input {slot}"))
    }

    /// The shape of an input; no dim is 0.
    pub fn dims(&self, slot: usize) -> Result<Vec<usize>, String> {
        self.b.dims(self.there(slot)?)
    }

    /// The shape of an output; no dim is 0.
    pub fn out(&self, output: usize) -> Result<Vec<usize>, String> {
        self.b.dims(self.outputs.get(output).copied().flatten().ok_or("it has no output")?)
    }

    /// The slot of an input, a float tensor.
    pub fn read(&mut self, slot: usize) -> Result<usize, String> {
        let v = self.there(slot)?;
        self.b.read(v)
    }

    /// What an input holds, if neither what is fed nor what is trained can change it.
    pub fn content(&mut self, slot: usize) -> Option<Tensor> {
        let v = self.value(slot)?;
        self.b.content(v)
    }

    /// Whether an input is a constant that trains.
    pub fn trains(&self, slot: usize) -> bool {
        self.value(slot).is_some_and(|v| self.b.trainable.contains(&v))
    }

    /// A step, whose result is a new slot of `len` elements.
    pub fn push(&mut self, kernel: impl Kernel<T> + 'static, inputs: &[usize], len: usize) -> usize {
        let output = self.b.slot(len, Held::Made);
        self.b.steps.push(Draft { kernel: Box::new(kernel), inputs: inputs.to_vec(), output });
        output
    }

    /// Lets an output be a slot; outputs that do not get one must have no readers.
    pub fn bind(&mut self, output: usize, slot: usize) {
        if let Some(v) = self.outputs.get(output).copied().flatten() {
            self.b.of.insert(v, slot);
            self.b.slots[slot].values += 1;
        }
    }

    /// A step that computes output 0, the only one.
    pub fn emit(&mut self, kernel: impl Kernel<T> + 'static, inputs: &[usize]) -> Result<(), String> {
        self.alone()?;
        let len = self.out(0)?.iter().product();
        let slot = self.push(kernel, inputs, len);
        self.bind(0, slot);
        Ok(())
    }

    /// Fails if anybody reads another output than the first.
    pub fn alone(&self) -> Result<(), String> {
        let graph = self.b.graph;
        let read = |v: &&ValueId| graph.is_used(**v) || self.b.ends.contains(v);
        match self.outputs.iter().skip(1).flatten().find(read) {
            Some(&v) => Err(format!("its output %{} is read", graph.value(v).name)),
            None => Ok(()),
        }
    }

    /// Output 0 has the elements of input 0.
    pub fn same(&mut self) -> Result<(), String> {
        self.alone()?;
        let slot = self.read(0)?;
        if self.out(0)?.iter().product::<usize>() != self.b.slots[slot].len {
            return Err("its input and output differ in size".into());
        }
        self.bind(0, slot);
        Ok(())
    }

    /// Lets the step that makes input 0 clamp its result, if nobody else reads that.
    pub fn absorb(&mut self, low: T, high: T) -> Result<bool, String> {
        let (v, slot) = (self.there(0)?, self.read(0)?);
        let alone =
            self.b.slots[slot].values == 1 && self.b.graph.readers(v).take(2).count() == 1 && !self.b.ends.contains(&v);
        let step = self.b.steps.iter_mut().rev().find(|s| s.output == slot).filter(|_| alone);
        let taken = step.is_some_and(|step| step.kernel.clamp(low, high));
        if taken {
            self.bind(0, slot);
        }
        Ok(taken)
    }
}

/// The first node, if there is one, that stands in the way of training what computes `outputs` from inputs of these names
/// and shapes, and why it does.
///
/// # Errors
/// If something else does.
pub fn obstacle(
    graph: &Graph,
    inputs: &[(String, Vec<usize>)],
    outputs: &[ValueId],
) -> Result<Option<(NodeId, String)>> {
    let sized = graph.settled_at(inputs)?;
    let trainable = weights(&sized);
    let mut builder = Builder::<f32>::new(&sized, &trainable)?;
    match builder.build(outputs) {
        Ok(_) => Ok(None),
        Err(e) => match builder.stuck {
            Some(n) => Ok(Some((n, e.cause().unwrap_or_default().into()))),
            None => Err(e),
        },
    }
}

/// The constants that training usually changes: weights and biases of convolutions and matrix products, scales and
/// biases of normalization, slopes of `PRelu`; where they are computed from constants by moving elements or casting them
/// (codebooks, transposes, weights in half precision), those.
pub fn weights(graph: &Graph) -> BTreeSet<ValueId> {
    sources(graph).0
}

/// The [`weights`] of a graph, and the nodes that make others of constants in another way: those do not train.
pub fn sources(graph: &Graph) -> (BTreeSet<ValueId>, BTreeSet<NodeId>) {
    let (mut found, mut makers) = (BTreeSet::new(), BTreeSet::new());
    let order = graph.topological().unwrap_or_default();
    let fixed = graph.constant_nodes(&order, |_| false);
    for n in order {
        let slots: &[usize] = match &graph.node(n).op {
            Op::Conv(_) | Op::ConvTranspose(_) | Op::BatchNorm(_) | Op::LayerNorm(_) => &[1, 2],
            Op::Gemm(_) => &[0, 1, 2],
            Op::MatMul(_) => &[0, 1],
            Op::Binary(op) if op.0 == Kind::PRelu => &[1],
            Op::Binary(op) if op.0 == Kind::Add => {
                let product = |v| graph.producer(v).is_some_and(|(n, _)| matches!(graph.node(n).op, Op::MatMul(_)));
                let inputs = graph.node_inputs(n);
                match inputs.iter().flatten().position(|&v| product(v)) {
                    Some(0) => &[1],
                    Some(_) => &[0],
                    None => &[],
                }
            }
            _ => &[],
        };
        let mut open: Vec<ValueId> = slots.iter().filter_map(|&slot| graph.input(n, slot)).collect();
        while let Some(v) = open.pop() {
            match graph.value(v).constant() {
                Some(t) if t.dtype().is_float() => drop(found.insert(v)),
                Some(_) => {}
                None => {
                    let made = graph.producer(v).map(|p| p.0).filter(|n| fixed.contains(n));
                    match made {
                        Some(n) if moves(graph, n) => open.extend(graph.node_inputs(n).into_iter().flatten()),
                        Some(n) if is_float(graph, Some(v)) => drop(makers.insert(n)),
                        _ => {}
                    }
                }
            }
        }
    }
    (found, makers)
}

fn is_float(graph: &Graph, v: Option<ValueId>) -> bool {
    let dtype = v.and_then(|v| graph.value(v).ty.as_ref()?.dtype());
    dtype.is_some_and(DType::is_float)
}

/// Whether a node moves elements and changes none, or casts floats to floats.
fn moves(graph: &Graph, n: NodeId) -> bool {
    match &graph.node(n).op {
        Op::Unary(op) => op.0 == "Identity",
        Op::Cast(_) | Op::CastLike(_) => is_float(graph, graph.input(n, 0)) && is_float(graph, graph.output(n)),
        op => matches!(
            op,
            Op::Gather(_)
                | Op::Reshape(_)
                | Op::Expand(_)
                | Op::Transpose(_)
                | Op::Squeeze(_)
                | Op::Unsqueeze(_)
                | Op::Concat(_)
                | Op::Slice(_)
        ),
    }
}
