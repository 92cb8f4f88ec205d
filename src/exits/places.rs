//! Where a network can be left: values through which everything passes that comes after.

use super::observe::KeptAxes;
use crate::analysis::cost::node_macs;
use crate::error::{Error, Result};
use crate::ir::{DType, Graph, NodeId, Op, Source, Use, ValueId};
use std::collections::{HashMap, HashSet};

/// A value that an exit's head can read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub node: NodeId,
    pub value: ValueId,
    pub pool: KeptAxes,
    /// Numbers that a head gets of it.
    pub features: usize,
    /// Multiply-accumulates up to here, for one sample.
    pub macs: u64,
}

/// A graph at the sizes of one sample, walked in the order it runs.
pub struct SizedWalk {
    graph: Graph,
    order: Vec<NodeId>,
    /// By value: the place in the order of the last node that reads it.
    last: HashMap<ValueId, usize>,
    /// Multiply-accumulates up to and with each node.
    macs: Vec<u64>,
}

impl SizedWalk {
    /// # Errors
    /// If the graph has a cycle, or its cost depends on dims that are known only at run time.
    pub fn new(graph: &Graph, shapes: &[Vec<usize>]) -> Result<SizedWalk> {
        let names = graph.required_inputs().map(|v| graph.value(v).name.clone());
        let graph = graph.at_sizes(&names.zip(shapes.iter().cloned()).collect::<Vec<_>>())?;
        let order = graph.topological()?;
        let mut last = HashMap::new();
        let mut macs = Vec::new();
        let mut total = 0u64;
        for (i, &n) in order.iter().enumerate() {
            let reads =
                graph.node_inputs(n).into_iter().flatten().chain(graph.node_captures(n).into_iter().map(|c| c.2));
            last.extend(reads.map(|v| (v, i)));
            let here = node_macs(&graph, n, None).ok_or_else(|| {
                Error::target("cannot tell what parts of the model cost")
                    .at(format!("{} \"{}\"", graph.node(n).kind(), graph.label(n)))
                    .because("its multiply-accumulates depend on dims that are known only at run time")
            })?;
            total = total.saturating_add(here);
            macs.push(total);
        }
        last.extend(graph.outputs().iter().map(|&v| (v, order.len())));
        Ok(SizedWalk { graph, order, last, macs })
    }

    /// Of the whole graph.
    pub fn macs(&self) -> u64 {
        self.macs.last().copied().unwrap_or(0)
    }

    /// All places, in the order they are reached; of several that cost the same, the last.
    pub fn places(&self) -> Vec<Place> {
        let fixed = self.graph.constant_nodes(&self.order, |_| false);
        // Values that are read further on, by when that ends.
        let mut live: HashSet<ValueId> = self.graph.required_inputs().collect();
        let mut places: Vec<Place> = Vec::new();
        for (i, &n) in self.order.iter().enumerate() {
            live.extend(self.graph.node_outputs(n).into_iter().flatten().filter(|_| !fixed.contains(&n)));
            live.retain(|v| self.last.get(v).is_some_and(|&last| last > i) && !self.is_shape(*v));
            let only = (live.len() == 1).then(|| live.iter().next().copied()).flatten();
            let Some(place) =
                only.filter(|&v| self.graph.producer(v).is_some_and(|p| p.0 == n)).and_then(|v| self.at(i, v))
            else {
                continue;
            };
            // Behind everything, and before anything, there is nothing to save.
            if place.macs == 0 || place.macs == self.macs() {
                continue;
            }
            match places.last_mut() {
                Some(before) if before.macs == place.macs => *before = place,
                _ => places.push(place),
            }
        }
        places
    }

    /// The place at the first output of a node of that name, or at the value of that name.
    ///
    /// # Errors
    /// If there is none, or it cannot be one.
    pub fn named(&self, name: &str) -> Result<Place> {
        let g = &self.graph;
        let node = g.nodes().find(|&n| g.label(n) == name).or_else(|| Some(g.producer(g.find_value(name)?)?.0));
        let node = node.ok_or_else(|| {
            let near = self.places().into_iter().map(|p| g.label(p.node).to_string()).collect::<Vec<_>>();
            let why = match g.find_value(name) {
                Some(_) => "it is an input or a constant, that no node makes",
                None => "no node or value has that name",
            };
            Error::input(format!("cannot exit after \"{name}\"")).because(why).help(format!(
                "the network can be left after {}",
                if near.is_empty() { "nothing".into() } else { near.join(", ") }
            ))
        })?;
        let refuse = |why: String| {
            Error::target(format!("cannot exit after {} \"{name}\"", g.node(node).kind()))
                .because(why)
                .help("leave `after` away: then a place is chosen")
        };
        let i = self.order.iter().position(|&n| n == node).unwrap_or(0);
        let value = g.output(node).ok_or_else(|| refuse("it has no output".into()))?;
        let fixed = self.graph.constant_nodes(&self.order, |_| false);
        let made = self.order[..=i].iter().filter(|n| !fixed.contains(n)).flat_map(|&n| g.node_outputs(n)).flatten();
        let crossing = g
            .required_inputs()
            .chain(made)
            .find(|&v| v != value && self.last.get(&v).is_some_and(|&last| last > i) && !self.is_shape(v));
        if let Some(v) = crossing {
            let reader = g.uses(v).into_iter().map(Use::node).find(|n| self.order[i + 1..].contains(n));
            let reader =
                reader.map_or("the model's output".into(), |n| format!("{} \"{}\"", g.node(n).kind(), g.label(n)));
            return Err(refuse(format!(
                "\"{}\" goes around it, to {reader}: a skip connection or a state",
                g.value(v).name
            )));
        }
        let place = self
            .at(i, value)
            .ok_or_else(|| refuse("its result is no float tensor of channels for one sample".into()))?;
        match place.macs == self.macs() {
            true => Err(refuse("nothing that costs anything comes after it".into())),
            false => Ok(place),
        }
    }

    fn at(&self, i: usize, value: ValueId) -> Option<Place> {
        let g = &self.graph;
        let (dims, v) = (g.value(value).dims()?, g.value(value));
        if v.ty.as_ref()?.dtype() != Some(DType::F32) {
            return None;
        }
        let (pool, features) = match (&dims[..], self.channels_first(value)) {
            (&[1, c], _) => (KeptAxes::Nothing, c),
            (&[1, c, ..], Some(true)) => (KeptAxes::Space, c),
            (&[1, _, c], Some(false)) => (KeptAxes::Sequence, c),
            _ => return None,
        };
        let features = usize::try_from(features).ok().filter(|&f| f > 0)?;
        Some(Place { node: self.order[i], value, pool, features, macs: self.macs[i] })
    }

    /// Whether axis 1 of a value has its channels, or the last, by what made it; `None` if that does not tell.
    fn channels_first(&self, value: ValueId) -> Option<bool> {
        let g = &self.graph;
        let mut at = value;
        for _ in 0..self.order.len() {
            let (n, _) = g.producer(at)?;
            match &g.node(n).op {
                Op::Conv(_) | Op::ConvTranspose(_) | Op::BatchNorm(_) | Op::Pool(_) | Op::GlobalPool(_) => {
                    return Some(true);
                }
                Op::MatMul(_) | Op::Gemm(_) | Op::LayerNorm(_) => return Some(false),
                Op::Unary(_)
                | Op::Activation(_)
                | Op::Clip(_)
                | Op::Gelu(_)
                | Op::Binary(_)
                | Op::Dropout(_)
                | Op::Concat(_)
                | Op::Pad(_)
                | Op::Norm(_)
                | Op::Cast(_)
                | Op::Resize(_) => {
                    let computed = |v: &ValueId| g.value(*v).constant().is_none();
                    at = g.node_inputs(n).into_iter().flatten().find(computed)?;
                }
                _ => return None,
            }
        }
        None
    }

    /// Sizes and the like are no part of what a network computes of its input.
    fn is_shape(&self, v: ValueId) -> bool {
        let value = self.graph.value(v);
        matches!(value.source, Source::Node) && value.ints.is_some()
    }
}
