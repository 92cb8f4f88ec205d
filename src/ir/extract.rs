//! A part of a graph as a graph of its own: what it takes to run just that part.

use crate::error::Result;
use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::shape::{Dim, Shape, Type};
use crate::ir::tensor::Tensor;
use crate::ir::value::{Form, Source, Value};
use std::collections::{HashMap, HashSet};

impl Graph {
    /// The part of the graph that gives these values, for inputs of these shapes.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn part(&self, values: &[ValueId], shapes: &[Vec<usize>]) -> Result<Graph> {
        let needed = self.behind(values);
        let order: Vec<NodeId> = self.topological()?.into_iter().filter(|n| needed.contains(n)).collect();
        self.extract(&order, &self.fed(shapes), &HashMap::new(), values)
    }

    /// The nodes that these values come from.
    pub fn behind(&self, values: &[ValueId]) -> HashSet<NodeId> {
        let mut found: HashSet<NodeId> = HashSet::new();
        let mut open = values.to_vec();
        while let Some(v) = open.pop() {
            let Some((n, _)) = self.producer(v) else { continue };
            if found.insert(n) {
                open.extend(self.node_inputs(n).into_iter().flatten());
                open.extend(self.node_captures(n).into_iter().map(|c| c.2));
            }
        }
        found
    }

    /// Of nodes in topological order, those that compute from constants alone; `fed` values are none, whatever makes them.
    pub fn constant_nodes(&self, order: &[NodeId], fed: impl Fn(ValueId) -> bool) -> HashSet<NodeId> {
        let mut found: HashSet<NodeId> = HashSet::new();
        for &n in order {
            let constant = |v: ValueId| {
                let made = self.producer(v).is_some_and(|p| found.contains(&p.0));
                !fed(v) && (made || self.value(v).constant().is_some())
            };
            let captured = self.node_captures(n).into_iter().map(|c| c.2);
            if self.node_inputs(n).into_iter().flatten().chain(captured).all(constant) {
                found.insert(n);
            }
        }
        found
    }

    /// The inputs that a caller must feed, with their types at these shapes.
    pub fn fed(&self, shapes: &[Vec<usize>]) -> Vec<(ValueId, Type)> {
        let inputs = self.required_inputs().zip(shapes).filter_map(|(v, dims)| {
            let dims = dims.iter().map(|&d| Dim::Known(d as u64)).collect();
            Some((v, Type::tensor(self.value(v).ty.as_ref()?.dtype()?, Shape(dims))))
        });
        inputs.collect()
    }

    /// The graph of `nodes`, in this order, that reads `inputs`, of these types, and gives `outputs`; `fixed` are values that
    /// are constants in it. Values keep their names. Everything else that the nodes read must be constant.
    ///
    /// # Errors
    /// Internal ones: a node that comes before what it reads.
    pub fn extract(
        &self,
        nodes: &[NodeId],
        inputs: &[(ValueId, Type)],
        fixed: &HashMap<ValueId, Tensor>,
        outputs: &[ValueId],
    ) -> Result<Graph> {
        let mut part = Graph::new(self.name.clone(), self.opset);
        let mut placed: HashMap<ValueId, ValueId> = HashMap::new();
        for (v, ty) in inputs {
            let mut value = Value::new(self.value(*v).name.clone(), Source::Input { default: None });
            value.ty = Some(ty.clone());
            let new = part.add_value(value)?;
            part.add_input(new);
            placed.insert(*v, new);
        }
        for (at, &n) in nodes.iter().enumerate() {
            let mut place = |part: &mut Graph, v: ValueId| -> Result<ValueId> {
                if let Some(&there) = placed.get(&v) {
                    return Ok(there);
                }
                let value = self.value(v);
                let source = match &value.source {
                    _ if fixed.contains_key(&v) => Source::Constant(fixed[&v].clone(), Form::INITIALIZER),
                    Source::Constant(tensor, _) => Source::Constant(tensor.clone(), Form::INITIALIZER),
                    Source::Input { default: Some((tensor, _)) } => Source::Constant(tensor.clone(), Form::INITIALIZER),
                    _ => Source::Node,
                };
                let mut copy = Value::new(value.name.clone(), source);
                copy.ty = copy.constant().map(Tensor::ty);
                let new = part.add_value(copy)?;
                placed.insert(v, new);
                Ok(new)
            };
            let mut slots = |part: &mut Graph, slots: Vec<Option<ValueId>>| -> Result<Vec<Option<ValueId>>> {
                slots.into_iter().map(|v| v.map(|v| place(part, v)).transpose()).collect()
            };
            let reads = slots(&mut part, self.node_inputs(n))?;
            let makes = slots(&mut part, self.node_outputs(n))?;
            let captures = self.node_captures(n);
            let captured = slots(&mut part, captures.iter().map(|c| Some(c.2)).collect())?;
            let id = part.add_node(self.node(n).clone(), at as u32, &reads, &makes);
            for ((body, index, _), v) in captures.into_iter().zip(captured) {
                v.into_iter().for_each(|v| part.connect_capture(id, body, index, v));
            }
        }
        outputs.iter().filter_map(|v| placed.get(v)).for_each(|&v| part.add_output(v));
        Ok(part)
    }
}
