//! A part of a graph, run on every chunk of the calibration data: from values on disk to values on disk.

use super::Failure;
use super::activation_file::ActivationFile;
use crate::data::{Array, Dtype};
use crate::error::Result;
use crate::exec::Runner;
use crate::ir::{DType, Dim, Graph, Model, NodeId, Shape, Tensor, Type, ValueId};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// Values on disk, each for all chunks.
pub type Files = BTreeMap<ValueId, Arc<ActivationFile>>;

/// What surrounds the graphs that are run, and how many chunks there are.
pub struct Executor {
    shell: Model,
    pub chunks: usize,
}

impl Executor {
    pub fn new(shell: &Model, chunks: usize) -> Executor {
        let graph = Graph::new("", shell.graph.opset);
        let shell =
            Model { graph, ir_version: shell.ir_version, opsets: shell.opsets.clone(), carried: shell.carried.clone() };
        Executor { shell, chunks }
    }

    /// Runs the nodes of `order`, which read `files`, for every chunk; gives `outputs`.
    ///
    /// # Errors
    /// If tract has no way to run it, or something failed.
    pub fn run(
        &self,
        graph: &Graph,
        order: &[NodeId],
        files: &Files,
        outputs: &[ValueId],
    ) -> Result<Vec<Arc<ActivationFile>>, Failure> {
        let reads = |&n: &NodeId| {
            let captured = graph.node_captures(n).into_iter().map(|c| c.2);
            graph.node_inputs(n).into_iter().flatten().chain(captured).collect::<Vec<_>>()
        };
        let read: BTreeSet<ValueId> = order.iter().flat_map(reads).collect();
        let read: Vec<(ValueId, &ActivationFile)> = read.iter().filter_map(|v| Some((*v, &**files.get(v)?))).collect();
        let mut fixed = HashMap::new();
        for &(v, file) in &read {
            fixed.extend(self.fixed(file)?.map(|tensor| (v, tensor)));
        }
        let inputs: Vec<(ValueId, &ActivationFile)> =
            read.into_iter().filter(|(v, _)| !fixed.contains_key(v)).collect();
        let (mut types, mut shapes) = (Vec::new(), Vec::new());
        for (v, file) in &inputs {
            let Some((dtype, shape)) = file.first() else { continue };
            let dims = shape.iter().map(|&d| Dim::Known(d as u64)).collect();
            types.push((*v, Type::tensor(ours(dtype), Shape(dims))));
            shapes.push(shape.to_vec());
        }
        let part = graph.extract(order, &types, &fixed, outputs)?;
        let runner = Runner::of_graph("calibration.onnx", part, &self.shell, &shapes);
        let runner =
            runner.map_err(|e| Failure::Unsupported(format!("what is before it does not run: {}", e.reason())))?;
        let files: Vec<&ActivationFile> = inputs.into_iter().map(|input| input.1).collect();
        Ok(self.compute(&runner, &files, outputs.len())?)
    }

    /// The tensor, if a value is a small one of integers, the same for all chunks: arithmetic of shapes, which tract must know
    /// when it plans.
    fn fixed(&self, file: &ActivationFile) -> Result<Option<Tensor>> {
        let Some((dtype @ (Dtype::I64 | Dtype::I32), shape)) = file.first() else { return Ok(None) };
        if !Tensor::small_ints(ours(dtype), shape) {
            return Ok(None);
        }
        let first = file.read(0)?;
        for i in 1..self.chunks {
            let other = file.read(i)?;
            if (other.shape(), other.bytes()) != (first.shape(), first.bytes()) {
                return Ok(None);
            }
        }
        Ok(Tensor::new(ours(dtype), shape.to_vec(), first.bytes().to_vec().into()))
    }

    /// Runs a part for every chunk and keeps what it gives.
    fn compute(&self, runner: &Runner, inputs: &[&ActivationFile], outputs: usize) -> Result<Vec<Arc<ActivationFile>>> {
        let mut made = (0..outputs).map(|_| ActivationFile::new()).collect::<Result<Vec<_>>>()?;
        let bytes = |arrays: &[Array]| arrays.iter().map(|a| a.bytes().len()).sum::<usize>();
        // The first one shows how many fit.
        let (mut start, mut many) = (0, 1);
        while start < self.chunks {
            let chunk = |i: usize| {
                let given = inputs.iter().map(|file| file.read(i)).collect::<Result<Vec<_>>>()?;
                let made = runner.run(&given)?;
                Ok((bytes(&given) + bytes(&made), made))
            };
            let end = self.chunks.min(start + many);
            let results: Vec<Result<(usize, Vec<Array>)>> = (start..end).into_par_iter().map(chunk).collect();
            for result in results {
                let (bytes, arrays) = result?;
                many = (BATCH / bytes.max(1)).clamp(1, MOST);
                arrays.iter().zip(&mut made).try_for_each(|(array, file)| file.push(array))?;
            }
            start = end;
        }
        Ok(made.into_iter().map(Arc::new).collect())
    }
}
