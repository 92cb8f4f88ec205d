//! A part of a graph, run on every chunk of the calibration data: from values on disk to values on disk.

use super::Failure;
use crate::data::{ActivationFile, Array, Dtype};
use crate::error::{Error, Result};
use crate::exec::Runner;
use crate::exec::plans::Plans;
use crate::ir::{DType, Dim, Graph, Model, NodeId, Shape, Tensor, Type, ValueId};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes that chunks that are run at a time may read and give: all of it is in memory until it is written.
const BATCH: usize = 1 << 23;
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

/// What surrounds the graphs that are run, and what the chunks are.
pub struct Executor {
    shell: Model,
    /// For each chunk, what stands for the shapes of the model's inputs.
    kinds: Vec<usize>,
}

/// The chunks that a part of a graph can be run on by one plan.
struct ChunkGroup {
    chunks: Vec<usize>,
    /// Values that are known when that is made.
    fixed: HashMap<ValueId, Tensor>,
}

impl Executor {
    /// `kinds` says for each chunk what stands for the shapes of the model's inputs.
    pub fn new(shell: &Model, kinds: Vec<usize>) -> Executor {
        let graph = Graph::new("", shell.graph.opset);
        let shell =
            Model { graph, ir_version: shell.ir_version, opsets: shell.opsets.clone(), carried: shell.carried.clone() };
        Executor { shell, kinds }
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
        let groups = self.groups(graph, &read)?;
        let make = |group: usize| self.plan(graph, order, &read, &groups[group], outputs);
        let jobs: Vec<(usize, usize)> =
            groups.iter().enumerate().flat_map(|(at, group)| group.chunks.iter().map(move |&i| (at, i))).collect();
        let mut made = outputs.iter().map(|_| ActivationFile::new()).collect::<Result<Vec<_>>>()?;
        let bytes = |arrays: &[Array]| arrays.iter().map(|a| a.bytes().len()).sum::<usize>();
        let mut plans = Plans::default();
        // The first one shows how many fit.
        let (mut left, mut many) = (&jobs[..], 1);
        while !left.is_empty() {
            let some = Plans::<Runner>::next(left, many, |job| job.0);
            left = &left[some.len()..];
            plans.reach(some, |job| job.0, make)?;
            let chunk = |&(group, i): &(usize, usize)| {
                let runner = plans.get(group).ok_or_else(|| Error::internal("a plan is missing"))?;
                let inputs = read.iter().filter(|(v, _)| !groups[group].fixed.contains_key(v));
                let given = inputs.map(|(_, file)| file.read(i)).collect::<Result<Vec<_>>>()?;
                let made = runner.run(&given)?;
                Ok((bytes(&given) + bytes(&made), made))
            };
            let results: Vec<Result<(usize, Vec<Array>)>> = some.par_iter().map(chunk).collect();
            let mut largest = 0;
            for (&(_, i), result) in some.iter().zip(results) {
                let (bytes, arrays) = result?;
                largest = largest.max(bytes);
                arrays.iter().zip(&mut made).try_for_each(|(array, file)| file.put(i, array))?;
            }
            many = (BATCH / largest.max(1)).clamp(1, MOST);
        }
        Ok(made.into_iter().map(Arc::new).collect())
    }

    /// Makes a part ready for the chunks of a group.
    fn plan(
        &self,
        graph: &Graph,
        order: &[NodeId],
        read: &[(ValueId, &ActivationFile)],
        group: &ChunkGroup,
        outputs: &[ValueId],
    ) -> Result<Runner, Failure> {
        let (mut types, mut shapes) = (Vec::new(), Vec::new());
        for &(v, file) in read.iter().filter(|(v, _)| !group.fixed.contains_key(v)) {
            let (Some(dtype), Some(&first)) = (file.dtype(), group.chunks.first()) else { continue };
            let shape = file.shape(first);
            let dims = shape.iter().map(|&d| Dim::Known(d as u64)).collect();
            types.push((v, Type::tensor(ours(dtype), Shape(dims))));
            shapes.push(shape.to_vec());
        }
        let part = graph.extract(order, &types, &group.fixed, outputs)?;
        let runner = Runner::of_graph("what is before it", part, &self.shell, &shapes);
        runner.map_err(|e| Failure::NotRun(e.reason()))
    }

    /// Divides the chunks by the shapes of what a part reads, and where it reads arithmetic of shapes, by that.
    fn groups(&self, graph: &Graph, read: &[(ValueId, &ActivationFile)]) -> Result<Vec<ChunkGroup>> {
        let is_given = |v: ValueId| graph.required_inputs().any(|input| input == v);
        let (mut constant, mut by_kind) = (HashMap::new(), Vec::new());
        for &(v, file) in read {
            let small = |i: usize| Tensor::small_ints(ours(file.dtype().unwrap_or(Dtype::F32)), file.shape(i));
            if !(0..self.kinds.len()).all(small) {
                continue;
            }
            let firsts = self.firsts(file)?;
            match firsts {
                Some(firsts) if firsts.windows(2).all(|pair| pair[0].1 == pair[1].1) => {
                    constant.extend(firsts.into_iter().next().map(|first| (v, first.1)));
                }
                Some(firsts) if !is_given(v) => by_kind.push((v, HashMap::from_iter(firsts))),
                _ => {}
            }
        }
        let (mut groups, mut places) = (Vec::new(), HashMap::new());
        for (i, &kind) in self.kinds.iter().enumerate() {
            let shapes: Vec<&[usize]> = read.iter().map(|(_, file)| file.shape(i)).collect();
            let place = *places.entry((shapes, if by_kind.is_empty() { 0 } else { kind })).or_insert_with(|| {
                let own = by_kind.iter().filter_map(|(v, of): &(_, HashMap<usize, Array>)| Some((*v, of.get(&kind)?)));
                let fixed = constant.iter().map(|(v, array)| (*v, array)).chain(own);
                let tensor = |array: &Array| {
                    Tensor::new(ours(array.dtype()), array.shape().to_vec(), array.bytes().to_vec().into())
                };
                let fixed = fixed.filter_map(|(v, array)| Some((v, tensor(array)?))).collect();
                groups.push(ChunkGroup { chunks: Vec::new(), fixed });
                groups.len() - 1
            });
            let group: &mut ChunkGroup = &mut groups[place];
            group.chunks.push(i);
        }
        Ok(groups)
    }

    /// A value for the first chunk of each kind, if it is the same for all chunks of a kind: then it is arithmetic of shapes,
    /// which tract must know when it plans.
    fn firsts(&self, file: &ActivationFile) -> Result<Option<Vec<(usize, Array)>>> {
        let mut firsts: Vec<(usize, Array)> = Vec::new();
        for (i, &kind) in self.kinds.iter().enumerate() {
            let array = file.read(i)?;
            match firsts.iter().find(|(known, _)| *known == kind) {
                None => firsts.push((kind, array)),
                Some((_, first)) if *first == array => {}
                Some(_) => return Ok(None),
            }
        }
        Ok(Some(firsts))
    }
}
