//! One of the two graphs that a walk goes through: which of its values are computed by now, for all samples.

use super::spool::Spool;
use crate::data::{Array, Dtype};
use crate::error::{Error, Result};
use crate::exec::Runner;
use crate::ir::{DType, Dim, Graph, Model, NodeId, Shape, Tensor, Type, ValueId};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Bytes that chunks that are run at a time may read and give: all of it is in memory until it is written.
const BATCH: usize = 1 << 25;
/// Chunks that are run at a time, at most.
const MOST: usize = 64;

/// `(ours, data's)`: types that both have.
const DTYPES: [(DType, Dtype); 13] = [
    (DType::BOOL, Dtype::Bool),
    (DType::U8, Dtype::U8),
    (DType::I8, Dtype::I8),
    (DType::U16, Dtype::U16),
    (DType::I16, Dtype::I16),
    (DType::U32, Dtype::U32),
    (DType::I32, Dtype::I32),
    (DType::U64, Dtype::U64),
    (DType::I64, Dtype::I64),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::Bf16),
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
];

fn ours(dtype: Dtype) -> DType {
    DTYPES.iter().find(|d| d.1 == dtype).map_or(DType::F32, |d| d.0)
}

/// The data's word for one of our types.
pub fn plain(dtype: DType) -> Option<Dtype> {
    DTYPES.iter().find(|d| d.0 == dtype).map(|d| d.1)
}

pub struct Side {
    name: &'static str,
    /// What surrounds the graph in its file.
    shell: Model,
    chunks: usize,
    /// Values that somebody still reads.
    live: BTreeMap<ValueId, Arc<Spool>>,
    /// Nodes that need not run any more.
    done: HashSet<NodeId>,
}

impl Side {
    /// At the inputs of the graph, in their order.
    pub fn new(
        name: &'static str,
        graph: &Graph,
        shell: &Model,
        chunks: usize,
        chunk: impl Fn(usize) -> Result<Vec<Array>>,
    ) -> Result<Side> {
        let inputs: Vec<ValueId> = graph.runtime_inputs().collect();
        let mut spools = inputs.iter().map(|_| Spool::new()).collect::<Result<Vec<_>>>()?;
        for i in 0..chunks {
            chunk(i)?.iter().zip(&mut spools).try_for_each(|(array, spool)| spool.push(array))?;
        }
        let empty = Graph::new("", graph.opset);
        let shell = Model { graph: empty, ..shell.clone() };
        Ok(Side {
            name,
            shell,
            chunks,
            live: inputs.into_iter().zip(spools.into_iter().map(Arc::new)).collect(),
            done: HashSet::new(),
        })
    }

    /// Another side at the same place, to look further on from there.
    pub fn fork(&self) -> Side {
        let (shell, live, done) = (self.shell.clone(), self.live.clone(), self.done.clone());
        Side { name: self.name, shell, chunks: self.chunks, live, done }
    }

    /// The value of a chunk, once it was reached.
    pub fn read(&self, value: ValueId, chunk: usize) -> Result<Array> {
        let spool = self.live.get(&value).ok_or_else(|| Error::internal("a value was not reached"))?;
        spool.read(chunk)
    }

    /// Nodes to run for these values, from what is live.
    pub fn cone(&self, graph: &Graph, values: &[ValueId]) -> BTreeSet<NodeId> {
        let mut cone = BTreeSet::new();
        let mut open: Vec<ValueId> = values.to_vec();
        while let Some(v) = open.pop() {
            if self.live.contains_key(&v) {
                continue;
            }
            let Some((node, _)) = graph.producer(v) else { continue };
            if cone.insert(node) {
                open.extend(graph.node_inputs(node).into_iter().flatten());
                open.extend(graph.node_captures(node).into_iter().map(|c| c.2));
            }
        }
        cone
    }

    /// Computes these values for every chunk, and whatever nodes further on will need of what is computed on the way.
    ///
    /// # Errors
    /// `Err(Ok(why))` if tract has no way to run it, `Err(Err(error))` if something failed.
    pub fn reach(&mut self, graph: &Graph, values: &[ValueId]) -> Result<(), Result<String, Error>> {
        let cone = self.cone(graph, values);
        if !cone.is_empty() {
            let order: Vec<NodeId> =
                graph.topological().map_err(Err)?.into_iter().filter(|n| cone.contains(n)).collect();
            // They are run anew wherever they are needed, so that tract can fold them.
            let fixed = graph.constant_nodes(&order, |v| self.live.contains_key(&v));
            let moving = |n: &NodeId| !fixed.contains(n);
            let later = |v: ValueId| graph.readers(v).any(|n| !cone.contains(&n) && !self.done.contains(&n));
            let made = order.iter().filter(|n| moving(n)).flat_map(|&n| graph.node_outputs(n)).flatten();
            let mut outputs: BTreeSet<ValueId> = made.filter(|&v| later(v)).collect();
            outputs.extend(values.iter().copied().filter(|v| !self.live.contains_key(v)));
            self.run(graph, &order, &outputs.into_iter().collect::<Vec<_>>())?;
            self.done.extend(order.iter().filter(|n| moving(n)));
        }
        let done = &self.done;
        let needed = |v: ValueId| values.contains(&v) || graph.readers(v).any(|n| !done.contains(&n));
        self.live.retain(|&v, _| graph.has_value(v) && needed(v));
        Ok(())
    }

    /// What a value is for every chunk, if it is such as the shapes of values are made of: tract has to know these before it
    /// runs.
    fn fixed(&self, value: ValueId) -> Result<Option<Tensor>> {
        let spool = &self.live[&value];
        let Some((dtype @ (Dtype::I64 | Dtype::I32), shape)) = spool.first() else { return Ok(None) };
        if !Tensor::small_ints(ours(dtype), shape) {
            return Ok(None);
        }
        let first = spool.read(0)?;
        for i in 1..self.chunks {
            let other = spool.read(i)?;
            if (other.shape(), other.bytes()) != (first.shape(), first.bytes()) {
                return Ok(None);
            }
        }
        Ok(Tensor::new(ours(dtype), shape.to_vec(), first.bytes().to_vec().into()))
    }

    fn run(&mut self, graph: &Graph, order: &[NodeId], outputs: &[ValueId]) -> Result<(), Result<String, Error>> {
        let reads = |&n: &NodeId| {
            let captured = graph.node_captures(n).into_iter().map(|c| c.2);
            graph.node_inputs(n).into_iter().flatten().chain(captured).collect::<Vec<_>>()
        };
        let read: BTreeSet<ValueId> = order.iter().flat_map(reads).collect();
        let read = || read.iter().copied().filter(|v| self.live.contains_key(v));
        let mut fixed = HashMap::new();
        for v in read() {
            fixed.extend(self.fixed(v).map_err(Err)?.map(|tensor| (v, tensor)));
        }
        let inputs: Vec<ValueId> = read().filter(|v| !fixed.contains_key(v)).collect();
        let (mut types, mut shapes) = (Vec::new(), Vec::new());
        for &v in &inputs {
            let Some((dtype, shape)) = self.live[&v].first() else { continue };
            let ours = ours(dtype);
            let dims = shape.iter().map(|&d| Dim::Known(d as u64)).collect();
            types.push((v, Type::tensor(ours, Shape(dims))));
            shapes.push(shape.to_vec());
        }
        let part = graph.extract(order, &types, &fixed, outputs).map_err(Err)?;
        let runner = Runner::of_graph(self.name, part, &self.shell, &shapes);
        let runner = runner.map_err(|e| Ok(format!("what is before it does not run: {}", e.reason())))?;
        self.compute(&runner, &inputs, outputs).map_err(Err)
    }

    /// Runs a part for every chunk and keeps what it gives.
    fn compute(&mut self, runner: &Runner, inputs: &[ValueId], outputs: &[ValueId]) -> Result<()> {
        let mut spools = outputs.iter().map(|_| Spool::new()).collect::<Result<Vec<_>>>()?;
        let bytes = |arrays: &[Array]| arrays.iter().map(|a| a.bytes().len()).sum::<usize>();
        // The first one shows how many fit.
        let (mut start, mut many) = (0, 1);
        while start < self.chunks {
            let chunk = |i: usize| {
                let given = inputs.iter().map(|v| self.live[v].read(i)).collect::<Result<Vec<_>>>()?;
                let made = runner.run(&given)?;
                Ok((bytes(&given) + bytes(&made), made))
            };
            let end = self.chunks.min(start + many);
            let results: Vec<Result<(usize, Vec<Array>)>> = (start..end).into_par_iter().map(chunk).collect();
            for result in results {
                let (bytes, arrays) = result?;
                many = (BATCH / bytes.max(1)).clamp(1, MOST);
                arrays.iter().zip(&mut spools).try_for_each(|(array, spool)| spool.push(array))?;
            }
            start = end;
        }
        self.live.extend(outputs.iter().copied().zip(spools.into_iter().map(Arc::new)));
        Ok(())
    }
}
