//! Weights that the file has in another form: in half precision behind a Cast, in 8 bits behind a DequantizeLinear. A step
//! that changes weights sees what they stand for, and afterwards they are stored as they were.

use crate::analysis::readers::{self, moved};
use crate::error::Result;
use crate::ir::infer::axis;
use crate::ir::names::derived;
use crate::ir::op::Role;
use crate::ir::op::cast::{Cast, convert};
use crate::ir::op::quant::{DequantizeLinear, Scales};
use crate::ir::{DType, Graph, NodeId, Op, Patch, Ref, Tensor, Use, ValueId};
use std::collections::HashSet;

/// A weight error that is none.
const ROUNDING: f64 = 1e-6;

/// Applies a patch.
pub type Put<'a> = &'a dyn Fn(&mut Graph, Patch) -> Result<()>;

/// How weights are stored while a step sees them plain.
pub struct Storage {
    weights: Vec<StoredTensor>,
    /// All constants that there were then.
    known: HashSet<ValueId>,
}

struct StoredTensor {
    /// A constant for the time of the step.
    value: ValueId,
    form: StorageForm,
    /// What the node is called that makes the weight of what is stored, and what is stored.
    node: String,
    name: String,
}

#[derive(Clone)]
enum StorageForm {
    /// Floats of this type behind a Cast.
    Half(DType),
    /// Integers behind a DequantizeLinear.
    Integers { dtype: DType, axis: usize, scale: Box<NamedTensor>, zero: Option<Box<NamedTensor>> },
}

#[derive(Clone)]
struct NamedTensor {
    name: String,
    tensor: Tensor,
}

impl Storage {
    /// Puts the weights that what is stored stands for in its place.
    ///
    /// # Errors
    /// Internal ones.
    pub fn unpack(graph: &mut Graph, put: Put<'_>) -> Result<Storage> {
        let mut found: Vec<StoredTensor> = Vec::new();
        // A weight that something reads as it is stored would be there twice.
        let mut shared_as_stored = HashSet::new();
        for n in graph.topological()? {
            // One of several that read a weight may have taken the others with it.
            let Some((y, form)) = graph.has_node(n).then(|| form(graph, n)).flatten() else { continue };
            let Some(x) = graph.input(n, 0).filter(|x| !shared_as_stored.contains(x)) else { continue };
            let Some(others) = twins(graph, n) else {
                shared_as_stored.insert(x);
                continue;
            };
            let inputs: Vec<_> = graph.node_inputs(n).into_iter().map(|v| graph.value(v?).constant()).collect();
            let plain = graph.node(n).op.operator().and_then(|op| op.eval(&inputs)?.into_iter().next());
            let Some(plain) = plain else { continue };
            let bytes = graph.input_constant(n, 0).map_or(0, Tensor::byte_len);
            let (node, name) = (graph.label(n).to_string(), graph.value(x).name.clone());
            let mut patch = Patch::at_node(graph, n);
            let new = patch.constant("plain", plain);
            others.into_iter().for_each(|other| patch.replace(other, y));
            patch.replace(y, new);
            put(graph, patch)?;
            graph.set_packed(y, Some(bytes));
            found.push(StoredTensor { value: y, form, node, name });
        }
        for stored in &mut found {
            while let Some((z, axis)) = next(graph, stored) {
                let Some((n, _)) = graph.producer(z) else { break };
                let inputs: Vec<_> = graph.node_inputs(n).into_iter().map(|v| graph.value(v?).constant()).collect();
                let plain = graph.node(n).op.operator().and_then(|op| op.eval(&inputs)?.into_iter().next());
                let Some(plain) = plain else { break };
                let bytes = graph.value(stored.value).packed.unwrap_or(0);
                let mut patch = Patch::at_node(graph, n);
                let new = patch.constant("plain", plain);
                patch.replace(z, new);
                put(graph, patch)?;
                graph.set_packed(z, Some(bytes));
                stored.value = z;
                if let StorageForm::Integers { axis: at, .. } = &mut stored.form {
                    *at = axis;
                }
            }
        }
        let known = graph.values().filter(|&v| graph.value(v).constant().is_some()).collect();
        Ok(Storage { weights: found, known })
    }

    /// Whether there is no such weight.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Stores weights as they were before the step, and new ones of layers as those whose place they took. Returns what
    /// became of weights that lost by it: their names, and how much.
    ///
    /// # Errors
    /// Internal ones.
    pub fn pack(self, graph: &mut Graph, put: Put<'_>) -> Result<Vec<(String, String)>> {
        let mut gone: Vec<StorageForm> = Vec::new();
        let mut told = Vec::new();
        for stored in self.weights {
            let plain = graph.has_value(stored.value) && graph.value(stored.value).constant().is_some();
            if !plain {
                gone.push(stored.form);
                continue;
            }
            told.extend(store(graph, &stored, put)?);
        }
        // Of forms of different width the one that loses less.
        let half = |f: &&StorageForm| matches!(f, StorageForm::Half(_));
        let Some(form) = gone.iter().find(half).or(gone.first()).cloned() else { return Ok(told) };
        let layers = readers::layers(graph);
        let mut seen = HashSet::new();
        for n in layers {
            let Some((slot, value)) = readers::weight(graph, n) else { continue };
            let float = graph.value(value).constant().is_some_and(|t| t.dtype() == DType::F32);
            if self.known.contains(&value) || !float || !seen.insert(value) {
                continue;
            }
            let outputs = readers::roles(graph, n).into_iter().find(|w| w.slot == slot).map_or(0, |w| w.outputs);
            let name = graph.value(value).name.clone();
            let form = match &form {
                StorageForm::Half(dtype) => StorageForm::Half(*dtype),
                StorageForm::Integers { dtype, .. } => {
                    let scale = NamedTensor { name: derived(&name, "scale"), tensor: Tensor::f32([0], &[]) };
                    StorageForm::Integers { dtype: *dtype, axis: outputs, scale: Box::new(scale), zero: None }
                }
            };
            let stored = StoredTensor { value, form, node: derived(&name, "plain"), name: derived(&name, "stored") };
            told.extend(store(graph, &stored, put)?);
        }
        Ok(told)
    }
}

/// What a node makes that only gives a weight another form, and which form that is.
fn form(graph: &Graph, n: NodeId) -> Option<(ValueId, StorageForm)> {
    let node = graph.node(n);
    let (x, y) = (graph.input_constant(n, 0)?, graph.output(n)?);
    if node.inconsistent || graph.value(y).ty.as_ref()?.dtype()? != DType::F32 {
        return None;
    }
    let form = match &node.op {
        Op::Cast(_) | Op::CastLike(_) if matches!(x.dtype(), DType::F16 | DType::BF16) => StorageForm::Half(x.dtype()),
        Op::DequantizeLinear(op) if matches!(x.dtype(), DType::I8 | DType::U8) && op.scales.block == 0 => {
            let named = |slot| {
                let v = graph.input(n, slot)?;
                Some(Box::new(NamedTensor {
                    name: graph.value(v).name.clone(),
                    tensor: graph.value(v).constant()?.clone(),
                }))
            };
            let scale = named(1)?;
            // A single scale is of no axis.
            let axis = if scale.tensor.len() == 1 { 0 } else { axis(op.scales.axis, x.rank()).ok()? };
            StorageForm::Integers { dtype: x.dtype(), axis, scale, zero: named(2) }
        }
        _ => return None,
    };
    let readers = readers::readers(graph, y).ok()?;
    (!readers.is_empty() && readers.iter().any(|r| r.role != Role::Einsum)).then_some((y, form))
}

/// What the other readers of a stored weight make of it, if they all make the same of it as a node does, and nothing else
/// needs what is stored.
fn twins(graph: &Graph, n: NodeId) -> Option<Vec<ValueId>> {
    let (op, inputs) = (&graph.node(n).op, graph.node_inputs(n));
    let x = graph.input(n, 0).filter(|&x| !graph.is_held(x))?;
    let twin = |u: Use| {
        let Use::Input(other, 0) = u else { return None };
        let alike = graph.node(other).op == *op && graph.node_inputs(other) == inputs && form(graph, other).is_some();
        graph.output(other).filter(|&y| alike && !graph.is_held(y))
    };
    graph.uses(x).into_iter().filter(|u| u.node() != n).map(twin).collect()
}

/// What the only reader of a stored weight makes of it, if that only moves its elements, and where its axis is then.
fn next(graph: &Graph, stored: &StoredTensor) -> Option<(ValueId, usize)> {
    let reader = graph.sole_use(stored.value)?.node();
    let z = graph.output(reader)?;
    let single = !matches!(graph.node(reader).op, Op::Concat(_) | Op::Slice(_) | Op::Expand(_));
    let fixed = graph.node_inputs(reader).into_iter().flatten().all(|v| graph.value(v).constant().is_some());
    if moved(graph, reader) != 1 || !single || !fixed {
        return None;
    }
    match &stored.form {
        StorageForm::Integers { axis, scale, .. } if scale.tensor.len() > 1 => {
            let axes = readers::carried_axes(graph, reader)?;
            Some((z, axes.iter().position(|a| *a == Some(*axis))?))
        }
        _ => Some((z, 0)),
    }
}

/// Stores a weight. Returns its name and what it lost, if it lost anything.
fn store(graph: &mut Graph, stored: &StoredTensor, put: Put<'_>) -> Result<Option<(String, String)>> {
    let Some(plain) = graph.value(stored.value).constant().cloned() else { return Ok(None) };
    let mut patch = Patch::at_value(graph, stored.value);
    let (new, lost) = match &stored.form {
        StorageForm::Half(dtype) => {
            let Some(half) = convert(&plain, *dtype).filter(is_finite) else { return Ok(None) };
            let lost = lost(&plain, &half.floats().unwrap_or_default());
            let half = patch.constant_named(&stored.name, half);
            (patch.node_named(&stored.node, Cast::new(plain.dtype()), &[Some(half)]), (lost, dtype.to_string()))
        }
        StorageForm::Integers { dtype, axis, scale, zero } => {
            let given = zero.as_ref().map(|z| &z.tensor);
            let old = IntegerGrid::of(&plain, *dtype, *axis, &scale.tensor, given);
            let exact = old.filter(|grid| lost(&plain, &grid.plain(&plain)) < ROUNDING);
            let by_channel = Some(*axis).filter(|&a| graph.opset >= 13 && a < plain.rank());
            let kept = exact.is_some();
            let Some(grid) = exact.or_else(|| IntegerGrid::new(&plain, *dtype, by_channel)) else { return Ok(None) };
            let lost = lost(&plain, &grid.plain(&plain));
            let [mut scales, mut zeros] = grid.tensors(*dtype);
            if kept {
                scales = scale.tensor.clone();
                zeros = given.cloned().unwrap_or(zeros);
            }
            let q = Tensor::from_ints(*dtype, plain.shape(), grid.integers(&plain));
            let q = patch.constant_named(&stored.name, q);
            let mut inputs = vec![Some(q), Some(shared(graph, &mut patch, &scale.name, scales))];
            if grid.zeros.iter().any(|&z| z != 0) || zero.is_some() {
                let name = zero.as_ref().map_or_else(|| derived(&stored.name, "zero"), |z| z.name.clone());
                inputs.push(Some(shared(graph, &mut patch, &name, zeros)));
            }
            let scales = Scales { axis: grid.axis.map_or(1, |a| a as i64), block: 0 };
            (patch.node_named(&stored.node, DequantizeLinear { scales, output: 0 }, &inputs), (lost, dtype.to_string()))
        }
    };
    patch.replace(stored.value, new);
    graph.set_packed(stored.value, None);
    let name = graph.value(stored.value).name.clone();
    put(graph, patch)?;
    let (lost, dtype) = lost;
    Ok((lost > ROUNDING).then(|| (name, format!("stored as {dtype} again, weight error {:.2} %", 100.0 * lost))))
}

/// A constant that may be there already.
fn shared(graph: &Graph, patch: &mut Patch, name: &str, tensor: Tensor) -> Ref {
    match graph.find_value(name).filter(|&v| graph.value(v).constant() == Some(&tensor)) {
        Some(v) => v.into(),
        None => patch.constant_named(name, tensor),
    }
}

fn is_finite(t: &Tensor) -> bool {
    t.iter_floats().is_some_and(|mut values| values.all(f64::is_finite))
}

/// ‖w − w'‖ / ‖w‖.
fn lost(plain: &Tensor, after: &[f64]) -> f64 {
    let (mut error, mut all) = (0.0, 0.0);
    for (w, now) in plain.iter_floats().into_iter().flatten().zip(after) {
        error += (w - now).powi(2);
        all += w.powi(2);
    }
    if all > 0.0 { (error / all).sqrt() } else { 0.0 }
}

/// Steps between the numbers that integers stand for.
struct IntegerGrid {
    /// `None` for one step for all.
    axis: Option<usize>,
    steps: Vec<f64>,
    zeros: Vec<i64>,
    low: i64,
    high: i64,
    /// Elements between two along the axis.
    stride: usize,
}

impl IntegerGrid {
    fn shell(plain: &Tensor, dtype: DType, axis: Option<usize>) -> IntegerGrid {
        let (low, high) = if dtype == DType::U8 { (0, 255) } else { (-128, 127) };
        let stride = axis.map_or(1, |a| plain.shape()[a + 1..].iter().product());
        IntegerGrid { axis, steps: Vec::new(), zeros: Vec::new(), low, high, stride }
    }

    /// That of these scales and zero points, if they fit the tensor.
    fn of(plain: &Tensor, dtype: DType, axis: usize, scale: &Tensor, zero: Option<&Tensor>) -> Option<IntegerGrid> {
        let steps = scale.floats()?;
        let axis = (steps.len() > 1).then_some(axis);
        let fits = axis.is_none_or(|a| plain.shape().get(a) == Some(&steps.len())) && !steps.is_empty();
        let zeros = zero.map_or(Some(vec![0; steps.len()]), Tensor::ints)?;
        (fits && zeros.len() == steps.len()).then(|| IntegerGrid {
            steps,
            zeros,
            ..IntegerGrid::shell(plain, dtype, axis)
        })
    }

    /// One about zero that reaches the largest number, of every channel along an axis or of all.
    fn new(plain: &Tensor, dtype: DType, axis: Option<usize>) -> Option<IntegerGrid> {
        let shell = IntegerGrid::shell(plain, dtype, axis);
        let count = axis.map_or(1, |a| plain.shape()[a]);
        let mut largest = vec![0.0f64; count];
        for (i, w) in plain.iter_floats()?.enumerate() {
            let c = shell.channel(i, count);
            largest[c] = largest[c].max(w.abs());
        }
        let steps = largest.into_iter().map(|l| if l > 0.0 { f64::from((l / 127.0) as f32) } else { 1.0 });
        let zero = if dtype == DType::U8 { 128 } else { 0 };
        let steps: Vec<f64> = steps.collect();
        steps.iter().all(|s| s.is_finite() && *s > 0.0).then(|| IntegerGrid {
            zeros: vec![zero; count],
            steps,
            ..shell
        })
    }

    fn channel(&self, i: usize, count: usize) -> usize {
        i / self.stride % count
    }

    fn integers<'a>(&'a self, plain: &'a Tensor) -> impl Iterator<Item = i64> + 'a {
        let values = plain.iter_floats().into_iter().flatten().enumerate();
        values.map(|(i, w)| {
            let c = self.channel(i, self.steps.len());
            ((w / self.steps[c]).round_ties_even() as i64 + self.zeros[c]).clamp(self.low, self.high)
        })
    }

    /// What the integers stand for.
    fn plain(&self, plain: &Tensor) -> Vec<f64> {
        let value = |(i, q): (usize, i64)| {
            let c = self.channel(i, self.steps.len());
            f64::from(((q - self.zeros[c]) as f64 * self.steps[c]) as f32)
        };
        self.integers(plain).enumerate().map(value).collect()
    }

    fn tensors(&self, dtype: DType) -> [Tensor; 2] {
        let shape: Vec<usize> = self.axis.map(|_| self.steps.len()).into_iter().collect();
        let scales = Tensor::from_floats(DType::F32, shape.clone(), self.steps.iter().copied());
        [scales, Tensor::from_ints(dtype, shape, self.zeros.iter().copied())]
    }
}
