//! The tape: steps in order, the memory they share, forward and backward.

use super::kernel::{Backward, Keeps, Kernel, Mode};
use super::lower::lower;
use super::memory::{self, Lifetime};
use super::program::{Lowered, ProgramOutput, SlotSource};
use super::real::{Grad, Real};
use crate::error::{Error, Result};
use crate::ir::{Graph, Patch, Tensor, ValueId};
use std::collections::BTreeSet;

/// A buffer: a block of memory, and how much of it.
#[derive(Debug, Clone, Copy)]
struct BufferRange {
    block: usize,
    len: usize,
}

impl BufferRange {
    fn of<T>(self, memory: &[Vec<T>]) -> &[T] {
        &memory[self.block][..self.len]
    }
}

struct TapeStep<T> {
    kernel: Box<dyn Kernel<T>>,
    inputs: Vec<BufferRange>,
    output: BufferRange,
    scratch: BufferRange,
    back: Option<Back>,
}

/// What the way back through a step writes.
struct Back {
    keeps: Keeps,
    output: BufferRange,
    /// Where each input's gradient goes, and whether it is the first to go there.
    inputs: Vec<Option<(BufferRange, bool)>>,
    /// Gradients of an input that is read twice, to be added to those of the first.
    sums: Vec<(BufferRange, BufferRange)>,
    scratch: BufferRange,
}

/// A constant that trains.
#[derive(Debug, Clone)]
pub struct Parameter {
    pub value: ValueId,
    pub name: String,
    pub shape: Vec<usize>,
    data: BufferRange,
    gradient: BufferRange,
}

impl Parameter {
    /// Whether weight decay applies: to matrices and kernels; not to biases and the scales of normalization.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }
}

struct Port {
    name: String,
    shape: Vec<usize>,
    data: BufferRange,
}

struct Output {
    port: Port,
    /// Where its gradient goes, and whether it is the first to go there; `None` if nothing before it trains.
    gradient: Option<(BufferRange, bool)>,
}

/// The numbers that training changes: parameters, then running statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct Variables<T>(pub Vec<Vec<T>>);

/// A graph made ready for training with inputs of fixed shapes. See the [module](super).
pub struct Tape<T> {
    steps: Vec<TapeStep<T>>,
    memory: Vec<Vec<T>>,
    inputs: Vec<Port>,
    outputs: Vec<Output>,
    parameters: Vec<Parameter>,
}

impl<T: Real> Tape<T> {
    /// Makes the tape of what computes `outputs`, values of the graph, from inputs of these names and shapes.
    /// Constants among `trainable` that the outputs depend on become the parameters, in the order they are read in.
    ///
    /// # Errors
    /// If shapes or an operator stand in the way; names the node.
    pub fn new(
        graph: &Graph,
        inputs: &[(String, Vec<usize>)],
        outputs: &[ValueId],
        trainable: &BTreeSet<ValueId>,
    ) -> Result<Tape<T>> {
        let sized = graph.settled_at(inputs)?;
        Ok(Tape::plan(lower(&sized, trainable, outputs)?))
    }

    /// Gives every buffer of a program its memory.
    fn plan(program: Lowered<T>) -> Tape<T> {
        let Lowered { slots, steps, ends } = program;
        let (n, empty) = (steps.len(), BufferRange { block: 0, len: 0 });
        let back_at = |step: usize| 2 * n - 1 - step;
        let mut trains: Vec<bool> = slots.iter().map(|s| matches!(s.source, SlotSource::Parameter { .. })).collect();
        for step in &steps {
            trains[step.output] = step.inputs.iter().any(|&s| trains[s]);
        }

        // Blocks that stay: block 0 is empty, then what is fed, constant or trained.
        let mut memory: Vec<Vec<T>> = vec![Vec::new()];
        let mut stay = |data: Vec<T>| {
            memory.push(data);
            BufferRange { block: memory.len() - 1, len: memory[memory.len() - 1].len() }
        };
        let (mut inputs, mut parameters) = (Vec::new(), Vec::new());
        let (mut data, mut gradient) = (vec![None; slots.len()], vec![None; slots.len()]);
        let lens: Vec<usize> = slots.iter().map(|s| s.len).collect();
        for (i, slot) in slots.into_iter().enumerate() {
            match slot.source {
                SlotSource::Computed => {}
                SlotSource::Constant(values) => data[i] = Some(stay(values)),
                SlotSource::Input { name, shape } => {
                    let place = stay(vec![T::ZERO; slot.len]);
                    data[i] = Some(place);
                    inputs.push(Port { name, shape, data: place });
                }
                SlotSource::Parameter { value, name, shape, values } => {
                    let (own, by) = (stay(values), stay(vec![T::ZERO; slot.len]));
                    (data[i], gradient[i]) = (Some(own), Some(by));
                    parameters.push(Parameter { value, name, shape, data: own, gradient: by });
                }
            }
        }

        // Buffers that come and go.
        let mut lives: Vec<Lifetime> = Vec::new();
        let mut live = |len, from, to| {
            lives.push(Lifetime { len, from, to });
            lives.len() - 1
        };
        let mut until = vec![0; lens.len()];
        let mut needed = vec![usize::MAX; lens.len()];
        for (i, step) in steps.iter().enumerate() {
            let keeps = if trains[step.output] { step.kernel.keeps() } else { Keeps::default() };
            for (k, &s) in step.inputs.iter().enumerate() {
                let kept = keeps.input(k);
                until[s] = until[s].max(if kept { back_at(i) } else { i });
                needed[s] = needed[s].min(back_at(i));
            }
            until[step.output] = until[step.output].max(if keeps.output { back_at(i) } else { i });
        }
        for end in &ends {
            until[end.slot] = 2 * n;
            needed[end.slot] = n;
        }
        let (mut value_life, mut gradient_life) = (vec![None; lens.len()], vec![None; lens.len()]);
        let mut scratch_life = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let s = step.output;
            value_life[s] = Some(live(lens[s], i, until[s]));
            let wants = step.kernel.scratch();
            let forward = live(wants.forward, i, i);
            let backward = trains[s].then(|| {
                gradient_life[s] = Some(live(lens[s], needed[s], back_at(i)));
                live(wants.backward, back_at(i), back_at(i))
            });
            scratch_life.push((forward, backward));
        }
        // The second and later gradients of an input that a step reads more than once.
        let again: Vec<Vec<Option<usize>>> = steps
            .iter()
            .enumerate()
            .map(|(i, step)| {
                let repeated = |k: usize| trains[step.inputs[k]] && step.inputs[..k].contains(&step.inputs[k]);
                let mut temporary = |k: usize| repeated(k).then(|| live(lens[step.inputs[k]], back_at(i), back_at(i)));
                (0..step.inputs.len()).map(&mut temporary).collect()
            })
            .collect();

        let (place, blocks) = memory::share(&lives);
        let first = memory.len();
        memory.extend(blocks.into_iter().map(|len| vec![T::ZERO; len]));
        let buffer_of = |life: usize| match lives[life].len {
            0 => empty,
            len => BufferRange { block: first + place[life], len },
        };
        for s in 0..lens.len() {
            data[s] = data[s].or(value_life[s].map(buffer_of));
            gradient[s] = gradient[s].or(gradient_life[s].map(buffer_of));
        }

        let mut written = vec![false; lens.len()];
        let mut first_to = |s: usize| !std::mem::replace(&mut written[s], true);
        let outputs = ends.into_iter().map(|ProgramOutput { slot, name, shape }| Output {
            port: Port { name, shape, data: data[slot].unwrap_or(empty) },
            gradient: gradient[slot].map(|g| (g, first_to(slot))),
        });
        let outputs: Vec<Output> = outputs.collect();
        let mut planned: Vec<TapeStep<T>> = Vec::with_capacity(n);
        for (i, step) in steps.into_iter().enumerate().rev() {
            let back = scratch_life[i].1.map(|scratch| {
                let mut sums = Vec::new();
                let goes = |(k, &s): (usize, &usize)| {
                    let main = gradient[s].filter(|_| trains[s])?;
                    Some(match again[i][k] {
                        Some(life) => {
                            sums.push((buffer_of(life), main));
                            (buffer_of(life), true)
                        }
                        None => (main, first_to(s)),
                    })
                };
                let inputs = step.inputs.iter().enumerate().map(goes).collect();
                let output = gradient[step.output].unwrap_or(empty);
                Back { keeps: step.kernel.keeps(), output, inputs, sums, scratch: buffer_of(scratch) }
            });
            planned.push(TapeStep {
                inputs: step.inputs.iter().map(|&s| data[s].unwrap_or(empty)).collect(),
                output: data[step.output].unwrap_or(empty),
                scratch: buffer_of(scratch_life[i].0),
                kernel: step.kernel,
                back,
            });
        }
        planned.reverse();
        Tape { steps: planned, memory, inputs, outputs, parameters }
    }

    /// Names of the inputs, in the order they are read in, with their shapes.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &[usize])> {
        self.inputs.iter().map(|p| (p.name.as_str(), p.shape.as_slice()))
    }

    /// The elements of an input, to be filled before a forward pass.
    pub fn input_mut(&mut self, index: usize) -> &mut [T] {
        let BufferRange { block, len } = self.inputs[index].data;
        &mut self.memory[block][..len]
    }

    /// Names and shapes of the outputs, in the order they were asked for.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (&str, &[usize])> {
        self.outputs.iter().map(|o| (o.port.name.as_str(), o.port.shape.as_slice()))
    }

    /// The elements of an output after the last forward pass, until the next.
    pub fn output(&self, index: usize) -> &[T] {
        self.outputs[index].port.data.of(&self.memory)
    }

    /// Computes the outputs from the inputs.
    pub fn forward(&mut self, mode: Mode) {
        for step in &mut self.steps {
            let mut y = std::mem::take(&mut self.memory[step.output.block]);
            let mut scratch = std::mem::take(&mut self.memory[step.scratch.block]);
            let x: Vec<&[T]> = step.inputs.iter().map(|p| p.of(&self.memory)).collect();
            step.kernel.forward(&x, &mut y[..step.output.len], &mut scratch[..step.scratch.len], mode);
            self.memory[step.output.block] = y;
            self.memory[step.scratch.block] = scratch;
        }
    }

    /// Computes the gradients of a loss by the parameters from those by each output, after a forward pass.
    ///
    /// # Panics
    /// If there is not one gradient an output, of its length.
    pub fn backward(&mut self, by: &[Vec<T>]) {
        assert_eq!(by.len(), self.outputs.len(), "one gradient an output");
        for (output, by) in self.outputs.iter().zip(by) {
            assert_eq!(by.len(), output.port.data.len, "a gradient of the length of {}", output.port.name);
            let Some((place, fresh)) = output.gradient else { continue };
            let to = &mut self.memory[place.block][..place.len];
            Grad { to, fresh }.add(by, by, |by, _| by);
        }
        for step in self.steps.iter_mut().rev() {
            let Some(back) = &step.back else { continue };
            let mut taken: Vec<Option<Vec<T>>> =
                back.inputs.iter().map(|g| g.map(|(p, _)| std::mem::take(&mut self.memory[p.block]))).collect();
            let mut scratch = std::mem::take(&mut self.memory[back.scratch.block]);
            let kept = |(k, p): (usize, &BufferRange)| {
                if back.keeps.input(k) { p.of(&self.memory) } else { &[] }
            };
            let x: Vec<&[T]> = step.inputs.iter().enumerate().map(kept).collect();
            let dx = taken.iter_mut().zip(&back.inputs).map(|(taken, place)| {
                let ((place, fresh), taken) = (*place).zip(taken.as_mut())?;
                Some(Grad { to: &mut taken[..place.len], fresh })
            });
            step.kernel.backward(Backward {
                x: &x,
                y: if back.keeps.output { step.output.of(&self.memory) } else { &[] },
                dy: back.output.of(&self.memory),
                dx: dx.collect(),
                scratch: &mut scratch[..back.scratch.len],
            });
            self.memory[back.scratch.block] = scratch;
            for (taken, place) in taken.into_iter().zip(&back.inputs) {
                taken.zip(*place).into_iter().for_each(|(t, (p, _))| self.memory[p.block] = t);
            }
            for &(from, to) in &back.sums {
                let mut sum = std::mem::take(&mut self.memory[to.block]);
                let from = from.of(&self.memory);
                Grad { to: &mut sum[..to.len], fresh: false }.add(from, from, |from, _| from);
                self.memory[to.block] = sum;
            }
        }
    }

    /// What trains.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The elements of a parameter.
    pub fn parameter(&self, index: usize) -> &[T] {
        self.parameters[index].data.of(&self.memory)
    }

    /// The gradient by a parameter after the last backward pass.
    pub fn gradient(&self, index: usize) -> &[T] {
        self.parameters[index].gradient.of(&self.memory)
    }

    /// The gradient by a parameter, to change.
    pub fn gradient_mut(&mut self, index: usize) -> &mut [T] {
        let BufferRange { block, len } = self.parameters[index].gradient;
        &mut self.memory[block][..len]
    }

    /// The elements of a parameter, to change, and its gradient.
    pub fn parameter_mut(&mut self, index: usize) -> (&mut [T], &[T]) {
        // A parameter's gradient has the block after its data.
        let (data, gradient) = (self.parameters[index].data, self.parameters[index].gradient);
        let (before, after) = self.memory.split_at_mut(gradient.block);
        (&mut before[data.block][..data.len], &after[0][..gradient.len])
    }

    /// A copy of what training changes.
    pub fn state(&mut self) -> Variables<T> {
        let statistics = self.steps.iter_mut().flat_map(|s| s.kernel.statistics());
        let statistics: Vec<Vec<T>> = statistics.map(|s| s.1.clone()).collect();
        let parameters = self.parameters.iter().map(|p| p.data.of(&self.memory).to_vec());
        Variables(parameters.chain(statistics).collect())
    }

    /// Goes back to a state of this tape, or of another one of the same graph for other sizes of inputs.
    ///
    /// # Panics
    /// If it is of a tape with other parameters.
    pub fn restore(&mut self, state: &Variables<T>) {
        let statistics = self.steps.iter_mut().flat_map(|s| s.kernel.statistics()).map(|s| s.1);
        let (parameters, rest) = state.0.split_at(self.parameters.len());
        statistics.zip(rest).for_each(|(now, then)| now.copy_from_slice(then));
        for (parameter, then) in self.parameters.iter().zip(parameters) {
            self.memory[parameter.data.block].copy_from_slice(then);
        }
    }

    /// Writes parameters and running statistics into the graph's constants, rounded to their types.
    ///
    /// # Errors
    /// If the graph is not the one that the tape was made of.
    pub fn store(&mut self, graph: &mut Graph) -> Result<()> {
        let mut found: Vec<(ValueId, Vec<f64>)> = Vec::new();
        for parameter in &self.parameters {
            let data = parameter.data.of(&self.memory);
            found.push((parameter.value, data.iter().map(|v| v.wide()).collect()));
        }
        for (value, data) in self.steps.iter_mut().flat_map(|s| s.kernel.statistics()) {
            found.push((value, data.iter().map(|v| v.wide()).collect()));
        }
        let mut patch = Patch::at_graph(graph);
        for (value, data) in found {
            let old = graph.has_value(value).then(|| graph.value(value).constant()).flatten();
            let old = old.filter(|old| old.len() == data.len() && old.dtype().is_float());
            let old = old.ok_or_else(|| Error::internal("trained numbers have no constant to go to"))?;
            patch.set_constant(value, Tensor::from_floats(old.dtype(), old.shape(), data));
        }
        graph.apply(patch).map(drop)
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.memory.iter().map(|block| block.len() * size_of::<T>()).sum()
    }
}
