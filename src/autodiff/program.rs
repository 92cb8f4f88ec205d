//! The program of a tape, before memory is planned: slots, and the steps that compute them.

use super::kernel::Kernel;
use super::real::Real;
use super::trainable::is_float;
use crate::analysis::evaluate::Evaluator;
use crate::ir::{Graph, NodeId, Op, Source, Tensor, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A tensor of the tape. Several values of the graph are one slot if they have the same elements.
pub struct Slot<T> {
    pub len: usize,
    pub source: SlotSource<T>,
    /// How many values it stands for.
    values: usize,
}

/// Where a slot's elements come from.
pub enum SlotSource<T> {
    Input { name: String, shape: Vec<usize> },
    Constant(Vec<T>),
    Parameter { value: ValueId, name: String, shape: Vec<usize>, values: Vec<T> },
    Computed,
}

/// A kernel and the slots it reads and writes.
pub struct PlannedStep<T> {
    pub kernel: Box<dyn Kernel<T>>,
    pub inputs: Vec<usize>,
    pub output: usize,
}

/// A graph of known shapes on its way to steps, lowered node by node.
pub struct Program<'a, T> {
    graph: &'a Graph,
    order: Vec<NodeId>,
    evaluator: Evaluator<'a>,
    trainable: &'a BTreeSet<ValueId>,
    /// What depends on what is fed or trained.
    varying: HashSet<ValueId>,
    ends: HashSet<ValueId>,
    of: HashMap<ValueId, usize>,
    slots: Vec<Slot<T>>,
    steps: Vec<PlannedStep<T>>,
}

/// A program that is complete: slots, steps in order, and where the outputs are.
pub struct Lowered<T> {
    pub slots: Vec<Slot<T>>,
    pub steps: Vec<PlannedStep<T>>,
    pub ends: Vec<ProgramOutput>,
}

/// An output of a program.
pub struct ProgramOutput {
    pub slot: usize,
    pub name: String,
    pub shape: Vec<usize>,
}

impl<'a, T: Real> Program<'a, T> {
    /// Of `graph`, whose shapes are known, towards `outputs`.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn new(graph: &'a Graph, trainable: &'a BTreeSet<ValueId>, outputs: &[ValueId]) -> crate::error::Result<Self> {
        let order = graph.topological()?;
        let mut varying: HashSet<ValueId> = graph.required_inputs().chain(trainable.iter().copied()).collect();
        for &n in &order {
            if graph.node_inputs(n).into_iter().flatten().any(|v| varying.contains(&v)) {
                varying.extend(graph.node_outputs(n).into_iter().flatten());
            }
        }
        Ok(Program {
            graph,
            order,
            evaluator: Evaluator::of(graph),
            trainable,
            varying,
            ends: outputs.iter().copied().collect(),
            of: HashMap::new(),
            slots: Vec::new(),
            steps: Vec::new(),
        })
    }

    /// The nodes that need steps, in the order they run.
    pub fn needed_nodes(&mut self) -> Vec<NodeId> {
        let ends: Vec<ValueId> = self.ends.iter().copied().collect();
        let needed = self.needed(&ends);
        self.order.iter().copied().filter(|n| needed.contains(n)).collect()
    }

    /// The lowering of one node.
    pub fn node(&mut self, node: NodeId) -> Lowering<'_, 'a, T> {
        let (inputs, outputs) = (self.graph.node_inputs(node), self.graph.node_outputs(node));
        Lowering { program: self, node, inputs, outputs }
    }

    /// The program that computes `outputs`, once every node that they need is lowered.
    ///
    /// # Errors
    /// If an output is not computed by any step; says why.
    pub fn finish(mut self, outputs: &[ValueId]) -> Result<Lowered<T>, String> {
        let end = |&v: &ValueId| {
            Ok(ProgramOutput { slot: self.read(v)?, name: self.graph.value(v).name.clone(), shape: self.dims(v)? })
        };
        let ends: Vec<ProgramOutput> = outputs.iter().map(end).collect::<Result<_, String>>()?;
        self.drop_unused_steps(&ends);
        Ok(Lowered { slots: self.slots, steps: self.steps, ends })
    }

    /// Drops the steps that no output depends on: those for outputs of nodes that nobody reads.
    fn drop_unused_steps(&mut self, ends: &[ProgramOutput]) {
        let mut live: HashSet<usize> = ends.iter().map(|e| e.slot).collect();
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
        let source = match (&value.source, value.constant()) {
            (_, Some(t)) if self.trainable.contains(&v) => {
                SlotSource::Parameter { value: v, name, shape, values: numbers(t) }
            }
            (Source::Input { default: None }, _) => SlotSource::Input { name, shape },
            (Source::Input { default: Some((t, _)) }, _) => SlotSource::Constant(numbers(t)),
            _ => match self.content(v).filter(|t| t.dtype().is_float()) {
                Some(t) => SlotSource::Constant(numbers(&t)),
                None => return Err(format!("%{name} is not computed by anything that can be trained through")),
            },
        };
        let slot = self.slot(len, source);
        self.of.insert(v, slot);
        self.slots[slot].values += 1;
        Ok(slot)
    }

    fn slot(&mut self, len: usize, source: SlotSource<T>) -> usize {
        self.slots.push(Slot { len, source, values: 0 });
        self.slots.len() - 1
    }
}

/// Elements of the largest tensor that is trained with.
const MAX_LEN: usize = 1 << 29;

/// One node on its way to steps: what kernels see of the graph.
pub struct Lowering<'s, 'a, T> {
    program: &'s mut Program<'a, T>,
    node: NodeId,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
}

impl<'a, T: Real> Lowering<'_, 'a, T> {
    pub fn graph(&self) -> &'a Graph {
        self.program.graph
    }

    /// The operator of the node.
    pub fn op(&self) -> &'a Op {
        &self.program.graph.node(self.node).op
    }

    /// Whether the file contradicts the operator's definition here.
    pub fn is_inconsistent(&self) -> bool {
        self.program.graph.node(self.node).inconsistent
    }

    /// Whether output 0 is floating-point.
    pub fn makes_floats(&self) -> bool {
        is_float(self.program.graph, self.outputs.first().copied().flatten())
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
        self.program.dims(self.there(slot)?)
    }

    /// The shape of an output; no dim is 0.
    pub fn out(&self, output: usize) -> Result<Vec<usize>, String> {
        self.program.dims(self.outputs.get(output).copied().flatten().ok_or("it has no output")?)
    }

    /// The slot of an input, a float tensor.
    pub fn read(&mut self, slot: usize) -> Result<usize, String> {
        let v = self.there(slot)?;
        self.program.read(v)
    }

    /// What an input holds, if neither what is fed nor what is trained can change it.
    pub fn content(&mut self, slot: usize) -> Option<Tensor> {
        let v = self.value(slot)?;
        self.program.content(v)
    }

    /// Whether an input is a constant that trains.
    pub fn trains(&self, slot: usize) -> bool {
        self.value(slot).is_some_and(|v| self.program.trainable.contains(&v))
    }

    /// A step, whose result is a new slot of `len` elements.
    pub fn push(&mut self, kernel: impl Kernel<T> + 'static, inputs: &[usize], len: usize) -> usize {
        let output = self.program.slot(len, SlotSource::Computed);
        self.program.steps.push(PlannedStep { kernel: Box::new(kernel), inputs: inputs.to_vec(), output });
        output
    }

    /// Lets an output be a slot; outputs that do not get one must have no readers.
    pub fn bind(&mut self, output: usize, slot: usize) {
        if let Some(v) = self.outputs.get(output).copied().flatten() {
            self.program.of.insert(v, slot);
            self.program.slots[slot].values += 1;
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
        let graph = self.program.graph;
        let read = |v: &&ValueId| graph.is_used(**v) || self.program.ends.contains(v);
        match self.outputs.iter().skip(1).flatten().find(read) {
            Some(&v) => Err(format!("its output %{} is read", graph.value(v).name)),
            None => Ok(()),
        }
    }

    /// Output 0 has the elements of input 0.
    pub fn same(&mut self) -> Result<(), String> {
        self.alone()?;
        let slot = self.read(0)?;
        if self.out(0)?.iter().product::<usize>() != self.program.slots[slot].len {
            return Err("its input and output differ in size".into());
        }
        self.bind(0, slot);
        Ok(())
    }

    /// Lets the step that computes input 0 clamp its result, if nobody else reads that.
    pub fn fuse_clamp(&mut self, low: T, high: T) -> Result<bool, String> {
        let (v, slot) = (self.there(0)?, self.read(0)?);
        let alone = self.program.slots[slot].values == 1
            && self.program.graph.readers(v).take(2).count() == 1
            && !self.program.ends.contains(&v);
        let step = self.program.steps.iter_mut().rev().find(|s| s.output == slot).filter(|_| alone);
        let taken = step.is_some_and(|step| step.kernel.clamp(low, high));
        if taken {
            self.bind(0, slot);
        }
        Ok(taken)
    }
}
