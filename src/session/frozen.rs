//! Networks with operators that cannot be trained through: what comes before is computed once and kept on disk, and the rest
//! trains on that.

use crate::autodiff::{obstacle, weights};
use crate::data::{ActivationFile, Array};
use crate::distill::train::{self, Ends, Samples};
use crate::error::{Error, Result};
use crate::exec::Runner;
use crate::ir::{DType, Dim, Graph, Model, NodeId, Shape, Type, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The part of a network that can be trained.
pub struct TrainableSuffix {
    pub graph: Graph,
    /// What stands in the way, an operator with its name, and why.
    pub obstacles: Vec<(String, String)>,
    /// Constants of the rest, by name, that what comes before reads, too.
    pub frozen_names: Vec<String>,
    /// Name and shape of each input of a sample: those of the network, then what the rest reads of what comes before.
    inputs: Vec<(String, Vec<usize>)>,
    /// The latter, of all samples.
    features: Vec<ActivationFile>,
}

impl TrainableSuffix {
    /// `None` if the whole network can be trained through.
    ///
    /// # Errors
    /// If nothing is left to train, or what comes before cannot be run.
    pub fn of(model: &Model, samples: &dyn Samples, batch: usize) -> Result<Option<TrainableSuffix>> {
        let Ends { shapes, values, .. } = train::ends(&model.graph, samples, batch, &[])?;
        let graph = &model.graph.settled_at(&shapes)?;
        let shapes: Vec<Vec<usize>> = shapes.into_iter().map(|s| s.1).collect();
        let of_one: Vec<Vec<usize>> = shapes.iter().map(|shape| [&[1], &shape[1..]].concat()).collect();
        // Whatever makes probabilities or a class of the logits is behind what is trained.
        let floats = graph.outputs().iter().copied().filter(|&v| graph.value(v).may_be_float()).collect();
        let outputs: &[ValueId] = &if values.is_empty() { floats } else { values };
        let order = graph.topological()?;
        let mut frozen = Frozen { graph, nodes: HashSet::new(), ends: HashSet::new(), obstacles: Vec::new() };
        loop {
            let [before, after] = frozen.parts(&order);
            let mut types = graph.fed(&shapes);
            let crossing = crossing(graph, &before, &after, outputs);
            let runner = match &crossing[..] {
                [] => None,
                _ => Some(runner(model, &of_one, &crossing).map_err(|e| {
                    let way = named(&frozen.obstacles);
                    Error::input("cannot train the student").because(format!(
                        "training cannot go through {way}, and it cannot be run alone: {}",
                        e.reason()
                    ))
                })?),
            };
            let first = runner.as_ref().map(|runner| run(runner, samples, 0)).transpose()?;
            let mut fed = samples.inputs().to_vec();
            let by_sample = |v: ValueId, array: &Array| {
                let rows = graph.value(v).dims().and_then(|dims| dims.first().copied());
                array.shape().first() == Some(&1) && rows.is_none_or(|rows| rows == batch as u64)
            };
            let mixed = crossing.iter().zip(first.iter().flatten()).filter(|&(&v, array)| !by_sample(v, array));
            let mixed: Vec<ValueId> = mixed.map(|(&v, _)| v).collect();
            if !mixed.is_empty() {
                let readers: BTreeSet<NodeId> = mixed.iter().flat_map(|&v| graph.readers(v)).collect();
                let readers: Vec<NodeId> = after.into_iter().filter(|n| readers.contains(n)).collect();
                if readers.is_empty() {
                    break;
                }
                for n in readers {
                    frozen.add(n, "what it reads of what is frozen does not go sample by sample".into());
                }
                continue;
            }
            for (&v, array) in crossing.iter().zip(first.iter().flatten()) {
                let (name, sample) = (&graph.value(v).name, &array.shape()[1..]);
                let dims = [&[batch], sample].concat().into_iter().map(|d| Dim::Known(d as u64)).collect();
                let dtype = graph.value(v).ty.as_ref().and_then(Type::dtype).unwrap_or(DType::F32);
                types.push((v, Type::tensor(dtype, Shape(dims))));
                fed.push((name.clone(), sample.to_vec()));
            }
            let rest = graph.extract(&after, &types, &HashMap::new(), outputs)?;
            let sizes: Vec<(String, Vec<usize>)> =
                fed.iter().map(|(name, shape)| (name.clone(), [&[batch], &shape[..]].concat())).collect();
            match obstacle(&rest, &sizes, rest.outputs())? {
                None if frozen.obstacles.is_empty() => return Ok(None),
                None => {
                    let [read, also] = [&before, &after].map(|nodes| constants(graph, nodes));
                    let mut frozen_names: Vec<String> =
                        read.intersection(&also).map(|&v| graph.value(v).name.clone()).collect();
                    let weights = weights(&rest);
                    // What shape arithmetic has made has no place in the file.
                    let of_file =
                        |name: &str| model.graph.find_value(name).and_then(|v| model.graph.value(v).constant());
                    let made = weights.iter().map(|&v| &rest.value(v).name).filter(|name| of_file(name).is_none());
                    frozen_names.extend(made.cloned());
                    if weights.iter().all(|&v| frozen_names.contains(&rest.value(v).name)) {
                        break;
                    }
                    let mut features = crossing.iter().map(|_| ActivationFile::new()).collect::<Result<Vec<_>>>()?;
                    for i in 0..samples.count() {
                        let arrays = runner.as_ref().map(|runner| run(runner, samples, i)).transpose()?;
                        arrays.iter().flatten().zip(&mut features).try_for_each(|(array, file)| file.push(array))?;
                    }
                    return Ok(Some(TrainableSuffix {
                        graph: rest,
                        obstacles: frozen.obstacles,
                        frozen_names,
                        inputs: fed,
                        features,
                    }));
                }
                Some((n, why)) => {
                    let at = rest.nodes().position(|m| m == n).and_then(|at| after.get(at));
                    let &n = at.ok_or_else(|| Error::internal("an obstacle is in no part"))?;
                    frozen.add(n, why);
                }
            }
        }
        Err(Error::input("nothing of the student can be trained").because(format!(
            "all its weights come before {}, through which training cannot go",
            named(&frozen.obstacles)
        )))
    }

    /// What stands in the way, and why.
    pub fn in_the_way(&self) -> String {
        named(&self.obstacles)
    }

    /// The samples as the rest takes them.
    pub fn samples<'a>(&'a self, whole: &'a dyn Samples) -> impl Samples + 'a {
        Joined { rest: self, whole }
    }
}

/// The nodes that are not trained through, and what stands in the way.
struct Frozen<'g> {
    graph: &'g Graph,
    nodes: HashSet<NodeId>,
    /// Those that stand in the way themselves.
    ends: HashSet<NodeId>,
    obstacles: Vec<(String, String)>,
}

impl Frozen<'_> {
    /// The nodes that are frozen, and the others with what computes from constants for them, which may be in both.
    fn parts(&self, order: &[NodeId]) -> [Vec<NodeId>; 2] {
        let (before, after): (Vec<NodeId>, Vec<NodeId>) = order.iter().partition(|n| self.nodes.contains(*n));
        let fixed = self.graph.constant_nodes(order, |_| false);
        let is_fixed = |v: &ValueId| self.graph.producer(*v).is_some_and(|p| fixed.contains(&p.0));
        let made: Vec<ValueId> = after.iter().flat_map(|&n| read(self.graph, n)).filter(is_fixed).collect();
        let needed = self.graph.behind(&made);
        let shared = |n: &NodeId| needed.contains(n) && !self.ends.contains(n);
        let is_after = |n: &&NodeId| !self.nodes.contains(*n) || shared(n);
        [before, order.iter().filter(is_after).copied().collect()]
    }

    /// A node, and all that comes before it.
    fn add(&mut self, n: NodeId, why: String) {
        let graph = self.graph;
        self.obstacles.push((format!("{} \"{}\"", graph.node(n).kind(), graph.label(n)), why));
        let made: Vec<ValueId> = graph.node_outputs(n).into_iter().flatten().collect();
        self.nodes.extend(graph.behind(&made));
        self.ends.insert(n);
    }
}

/// `Celu "a" (the operator is unknown), …`
fn named(obstacles: &[(String, String)]) -> String {
    obstacles.iter().map(|(what, why)| format!("{what} ({why})")).collect::<Vec<_>>().join(", ")
}

struct Joined<'a> {
    rest: &'a TrainableSuffix,
    whole: &'a dyn Samples,
}

impl Samples for Joined<'_> {
    fn inputs(&self) -> &[(String, Vec<usize>)] {
        &self.rest.inputs
    }

    fn own(&self) -> usize {
        self.whole.inputs().len()
    }

    fn count(&self) -> usize {
        self.whole.count()
    }

    fn labels(&self) -> Option<&[usize]> {
        self.whole.labels()
    }

    fn read(&self, sample: usize) -> Result<Vec<Vec<f32>>> {
        let mut inputs = self.whole.read(sample)?;
        for file in &self.rest.features {
            inputs.push(file.read(sample)?.to_f32());
        }
        Ok(inputs)
    }
}

/// What a node reads, in its bodies, too.
fn read(graph: &Graph, n: NodeId) -> Vec<ValueId> {
    let captured = graph.node_captures(n).into_iter().map(|c| c.2);
    graph.node_inputs(n).into_iter().flatten().chain(captured).collect()
}

/// The constants that nodes read, and what is in them.
fn constants(graph: &Graph, nodes: &[NodeId]) -> BTreeSet<ValueId> {
    nodes.iter().flat_map(|&n| read(graph, n)).filter(|&v| graph.value(v).constant().is_some()).collect()
}

/// What is made before, and not after, and read after, or an output.
fn crossing(graph: &Graph, before: &[NodeId], after: &[NodeId], outputs: &[ValueId]) -> Vec<ValueId> {
    let after: BTreeSet<NodeId> = after.iter().copied().collect();
    let made = before.iter().filter(|n| !after.contains(n)).flat_map(|&n| graph.node_outputs(n)).flatten();
    made.filter(|&v| outputs.contains(&v) || graph.readers(v).any(|n| after.contains(&n))).collect()
}

/// Runs what gives these values, for inputs of these shapes.
fn runner(model: &Model, shapes: &[Vec<usize>], ends: &[ValueId]) -> Result<Runner> {
    Runner::of_graph("student", model.graph.part(ends, shapes)?, model, shapes)
}

fn run(runner: &Runner, samples: &dyn Samples, i: usize) -> Result<Vec<Array>> {
    let arrays = samples
        .read(i)?
        .into_iter()
        .zip(samples.inputs())
        .zip(runner.inputs())
        .map(|((x, (_, shape)), spec)| Array::from_f32([&[1], &shape[..]].concat(), &x)?.cast(spec.dtype));
    runner.run(&arrays.collect::<Result<Vec<_>>>()?)
}
