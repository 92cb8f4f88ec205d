//! The content of values that the graph computes from constants alone.

use crate::ir::graph::{Graph, ValueId};
use crate::ir::tensor::Tensor;
use std::collections::HashMap;

/// Computes values from constants, each node at most once.
pub struct Evaluator<'a> {
    graph: &'a Graph,
    made: HashMap<ValueId, Option<Tensor>>,
}

impl<'a> Evaluator<'a> {
    pub fn of(graph: &'a Graph) -> Evaluator<'a> {
        Evaluator { graph, made: HashMap::new() }
    }

    /// The content of a value; `None` if it depends on more than constants or on what no kernel computes.
    pub fn tensor(&mut self, value: ValueId) -> Option<Tensor> {
        // Not recursive: models may nest deeper than a stack.
        let mut open = vec![value];
        while let Some(&v) = open.last() {
            if self.known(v).is_some() {
                open.pop();
                continue;
            }
            let inputs = self.graph.producer(v).map_or(Vec::new(), |(n, _)| self.graph.node_inputs(n));
            let missing: Vec<ValueId> = inputs.into_iter().flatten().filter(|&i| self.known(i).is_none()).collect();
            if missing.is_empty() {
                let tensor = self.compute(v);
                self.made.insert(v, tensor);
            }
            open.extend(missing);
        }
        self.known(value)?.cloned()
    }

    /// Outer `None` if it was not looked at yet, inner if it cannot be computed.
    fn known(&self, value: ValueId) -> Option<Option<&Tensor>> {
        match self.graph.value(value).constant() {
            Some(t) => Some(Some(t)),
            None => self.made.get(&value).map(Option::as_ref),
        }
    }

    fn compute(&self, value: ValueId) -> Option<Tensor> {
        let (n, slot) = self.graph.producer(value)?;
        let node = self.graph.node(n);
        let op = node.op.operator().filter(|op| !op.is_random() && !node.inconsistent && !node.has_bodies())?;
        let inputs = self.graph.node_inputs(n).into_iter();
        let inputs: Option<Vec<_>> = inputs.map(|v| v.map_or(Some(None), |v| self.known(v)?.map(Some))).collect();
        op.eval(&inputs?)?.into_iter().nth(slot)
    }
}
