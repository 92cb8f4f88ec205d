//! Networks with operators that cannot be trained through: what comes before is computed once, and the rest trains on that.

use crate::data::{Array, Dtype};
use crate::distill::train::{self, Samples};
use crate::distill::{obstacle, weights};
use crate::error::{Error, Result};
use crate::exec::{Network, Runner};
use crate::ir::{DType, Dim, Graph, Model, NodeId, Shape, Type, ValueId};
use crate::onnx;
use std::collections::{BTreeSet, HashMap};

/// The part of a network that can be trained.
pub struct Rest {
    pub graph: Graph,
    /// What stands in the way: an operator with its name.
    pub obstacles: Vec<String>,
    /// Name and shape of each input of a sample: those of the network, then what the rest reads of what comes before.
    inputs: Vec<(String, Vec<usize>)>,
    /// By sample and input, the latter.
    features: Vec<Vec<Vec<f32>>>,
}

impl Rest {
    /// `None` if the whole network can be trained through.
    ///
    /// # Errors
    /// If nothing is left to train, or what comes before cannot be run.
    pub fn of(model: &Model, samples: &dyn Samples, batch: usize) -> Result<Option<Rest>> {
        let graph = &model.graph;
        let shapes = |batch| Ok::<_, Error>(train::ends(graph, samples, batch, &[])?.shapes);
        // Whatever makes probabilities or a class of the logits is behind what is trained.
        let logits = train::ends(graph, samples, batch, &[])?.values;
        let outputs = if logits.is_empty() { graph.outputs() } else { &logits };
        let order = graph.topological()?;
        let (mut frozen, mut obstacles) = (BTreeSet::new(), Vec::new());
        loop {
            let (before, after): (Vec<NodeId>, Vec<NodeId>) = order.iter().partition(|n| frozen.contains(*n));
            let inputs: Vec<ValueId> = graph.runtime_inputs().collect();
            let mut types = typed(graph, &inputs, &shapes(batch)?);
            let crossing = crossing(graph, &before, &after, outputs);
            let runner = match &crossing[..] {
                [] => None,
                _ => Some(runner(model, &before, &typed(graph, &inputs, &shapes(1)?), &crossing)?),
            };
            let first = runner.as_ref().map(|(runner, dtypes)| run(runner, dtypes, samples, 0)).transpose()?;
            let mut fed = samples.inputs().to_vec();
            for (&v, array) in crossing.iter().zip(first.iter().flatten()) {
                let name = &graph.value(v).name;
                let Some((1, sample)) = array.shape().split_first() else {
                    return Err(Error::input("cannot train the student").because(format!(
                        "%{name}, which comes from what cannot be trained through, does not go sample by sample"
                    )));
                };
                let dims = [&[batch], sample].concat().into_iter().map(|d| Dim::Known(d as u64)).collect();
                let dtype = graph.value(v).ty.as_ref().and_then(Type::dtype).unwrap_or(DType::F32);
                types.push((v, Type::tensor(dtype, Shape(dims))));
                fed.push((name.clone(), sample.to_vec()));
            }
            let rest = graph.extract(&after, &types, &HashMap::new(), outputs)?;
            let sizes: Vec<(String, Vec<usize>)> =
                fed.iter().map(|(name, shape)| (name.clone(), [&[batch], &shape[..]].concat())).collect();
            match obstacle(&rest, &sizes, rest.outputs())? {
                None if obstacles.is_empty() => return Ok(None),
                None if weights(&rest).is_empty() => break,
                None => {
                    let all = |i| {
                        let arrays =
                            runner.as_ref().map(|(runner, dtypes)| run(runner, dtypes, samples, i)).transpose()?;
                        Ok(arrays.iter().flatten().map(Array::to_f32).collect())
                    };
                    let features = (0..samples.count()).map(all).collect::<Result<_>>()?;
                    return Ok(Some(Rest { graph: rest, obstacles, inputs: fed, features }));
                }
                Some(n) => {
                    let at = rest.nodes().position(|m| m == n).and_then(|at| after.get(at));
                    let &n = at.ok_or_else(|| Error::internal("an obstacle is in no part"))?;
                    obstacles.push(format!("{} \"{}\"", graph.node(n).kind(), graph.label(n)));
                    frozen.extend(upstream(graph, n));
                }
            }
        }
        Err(Error::input("nothing of the student can be trained")
            .because(format!("all its weights come before {}, through which training cannot go", obstacles.join(", "))))
    }

    /// The samples as the rest takes them.
    pub fn samples<'a>(&'a self, whole: &'a dyn Samples) -> impl Samples + 'a {
        Joined { rest: self, whole }
    }
}

struct Joined<'a> {
    rest: &'a Rest,
    whole: &'a dyn Samples,
}

impl Samples for Joined<'_> {
    fn inputs(&self) -> &[(String, Vec<usize>)] {
        &self.rest.inputs
    }

    fn count(&self) -> usize {
        self.whole.count()
    }

    fn labels(&self) -> Option<&[usize]> {
        self.whole.labels()
    }

    fn read(&self, sample: usize) -> Result<Vec<Vec<f32>>> {
        let mut inputs = self.whole.read(sample)?;
        inputs.extend(self.rest.features[sample].iter().cloned());
        Ok(inputs)
    }
}

/// Inputs of a graph with their types at these sizes.
fn typed(graph: &Graph, inputs: &[ValueId], shapes: &[(String, Vec<usize>)]) -> Vec<(ValueId, Type)> {
    let ty = |(&v, (_, dims)): (&ValueId, &(String, Vec<usize>))| {
        let dims = dims.iter().map(|&d| Dim::Known(d as u64)).collect();
        Some((v, Type::tensor(graph.value(v).ty.as_ref()?.dtype()?, Shape(dims))))
    };
    inputs.iter().zip(shapes).filter_map(ty).collect()
}

/// A node and all that it depends on.
fn upstream(graph: &Graph, n: NodeId) -> BTreeSet<NodeId> {
    let (mut found, mut open) = (BTreeSet::new(), vec![n]);
    while let Some(n) = open.pop() {
        if found.insert(n) {
            let captured = graph.node_captures(n).into_iter().map(|c| c.2);
            let reads = graph.node_inputs(n).into_iter().flatten().chain(captured);
            open.extend(reads.filter_map(|v| graph.producer(v)).map(|p| p.0));
        }
    }
    found
}

/// What is made before and read after, or an output.
fn crossing(graph: &Graph, before: &[NodeId], after: &[NodeId], outputs: &[ValueId]) -> Vec<ValueId> {
    let after: BTreeSet<NodeId> = after.iter().copied().collect();
    let made = before.iter().flat_map(|&n| graph.node_outputs(n)).flatten();
    made.filter(|&v| outputs.contains(&v) || graph.readers(v).any(|n| after.contains(&n))).collect()
}

/// Runs nodes on one sample.
fn runner(
    model: &Model,
    nodes: &[NodeId],
    inputs: &[(ValueId, Type)],
    ends: &[ValueId],
) -> Result<(Runner, Vec<Dtype>)> {
    let graph = &model.graph;
    let part = graph.extract(nodes, inputs, &HashMap::new(), ends)?;
    let shell = Model { graph: part, ir_version: model.ir_version.max(4), ..model.clone() };
    let network = Network::from_bytes("student", &onnx::to_bytes(&shell)?)?;
    let shapes: Vec<Vec<usize>> = inputs
        .iter()
        .map(|(_, ty)| {
            ty.shape().map_or(Vec::new(), |s| s.0.iter().filter_map(Dim::known).map(|d| d as usize).collect())
        })
        .collect();
    Ok((network.runner(&shapes)?, network.inputs().iter().map(|spec| spec.dtype).collect()))
}

fn run(runner: &Runner, dtypes: &[Dtype], samples: &dyn Samples, i: usize) -> Result<Vec<Array>> {
    let arrays = samples
        .read(i)?
        .into_iter()
        .zip(samples.inputs())
        .zip(dtypes)
        .map(|((x, (_, shape)), &dtype)| Array::from_f32([&[1], &shape[..]].concat(), &x)?.cast(dtype));
    runner.run(&arrays.collect::<Result<Vec<_>>>()?)
}
