//! Shape arithmetic of a graph whose inputs have known sizes: what depends on dims alone is a constant then.

use crate::error::Result;
use crate::ir::graph::{Graph, NodeId, Use, ValueId};
use crate::ir::names::derived;
use crate::ir::patch::Patch;
use crate::ir::shape::DType;
use crate::ir::tensor::{Tensor, elements};
use std::collections::HashSet;

/// Elements of the largest result that is computed.
const MAX_LEN: usize = 1 << 16;

impl Graph {
    /// The same graph with inputs of these dims, by name, and constants in the place of shape arithmetic: of integers and
    /// truth values that come from dims and constants, and of what is made of them. Nodes that stay keep their ids.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn settled_at(&self, inputs: &[(String, Vec<usize>)]) -> Result<Graph> {
        let mut graph = self.at_sizes(inputs)?;
        let mut settled = HashSet::new();
        for n in graph.topological()? {
            if !graph.has_node(n) {
                continue;
            }
            let (mut patch, mut uses) = (Patch::at_node(&graph, n).revealing(), Vec::new());
            for (v, tensor) in graph.settles(n, &settled) {
                let new = patch.constant_named(derived(&graph.value(v).name, "settled"), tensor);
                patch.replace(v, new);
                uses.extend(graph.uses(v));
            }
            if !patch.is_empty() {
                graph.apply(patch)?;
                settled.extend(uses.into_iter().filter_map(|u| match u {
                    Use::Input(reader, slot) if graph.has_node(reader) => graph.input(reader, slot),
                    _ => None,
                }));
            }
        }
        Ok(graph)
    }

    /// The same graph with inputs of these dims, by name, and all types that its [settled](Self::settled_at) form has.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn typed_at(&self, inputs: &[(String, Vec<usize>)]) -> Result<Graph> {
        let (mut typed, settled) = (self.at_sizes(inputs)?, self.settled_at(inputs)?);
        for v in typed.values().filter(|&v| settled.has_value(v)).collect::<Vec<_>>() {
            typed.value_mut(v).ty.clone_from(&settled.value(v).ty);
        }
        Ok(typed)
    }

    /// The outputs of a node that are constants for the sizes at hand, and which.
    fn settles(&self, n: NodeId, settled: &HashSet<ValueId>) -> Vec<(ValueId, Tensor)> {
        let node = self.node(n);
        let Some(operator) = node.op.operator().filter(|op| !op.is_random()) else { return Vec::new() };
        if node.inconsistent || node.has_bodies() {
            return Vec::new();
        }
        // Sizes are no bytes; codes of weights are, and whoever trains them looks for what decodes them.
        if self.input_constant(n, 0).is_some_and(|t| t.dtype() == DType::U8) {
            return Vec::new();
        }
        let outputs: Vec<ValueId> = self.node_outputs(n).into_iter().flatten().collect();
        let free = |v: &ValueId| self.is_used(*v) && !self.is_held(*v) && self.len_of(*v).is_some_and(|n| n <= MAX_LEN);
        if !outputs.iter().all(|v| self.is_unused(*v) || free(v)) {
            return Vec::new();
        }
        let known: Option<Vec<_>> =
            outputs.iter().filter(|v| free(v)).map(|&v| Some((v, self.value(v).known_ints()?))).collect();
        if let Some(known) = known.filter(|known| !known.is_empty()) {
            return known;
        }
        let inputs = self.node_inputs(n);
        // Floats that do not come from dims may be weights, but for numbers that go with one that does.
        let floats: Vec<ValueId> = inputs.iter().flatten().copied().filter(|&v| self.value(v).may_be_float()).collect();
        let from_dims = floats.iter().any(|v| settled.contains(v));
        let number = |v: &ValueId| settled.contains(v) || self.len_of(*v).is_some_and(|n| n <= 1);
        let arithmetic = floats.is_empty() || (from_dims && floats.iter().all(number));
        let constant = |v: ValueId| self.value(v).constant().map(Some);
        let content: Option<Vec<_>> = inputs.iter().map(|v| v.map_or(Some(None), constant)).collect();
        let content = content.filter(|c| !c.is_empty() && arithmetic);
        let Some(results) = content.and_then(|c| operator.eval(&c)) else { return Vec::new() };
        let results = self.node_outputs(n).into_iter().zip(results).filter_map(|(v, t)| Some((v?, t)));
        results.filter(|(v, _)| free(v)).collect()
    }

    fn len_of(&self, v: ValueId) -> Option<usize> {
        let dims: Option<Vec<usize>> = self.value(v).dims()?.into_iter().map(|d| usize::try_from(d).ok()).collect();
        elements(&dims?)
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::text::parse;

    #[test]
    fn what_depends_on_dims_is_constant() {
        let text = "model m opset 17 {
            input %x : f32[N,6] const %zero : i64[] = {0} const %rest : i64[1] = {-1} const %axis : i64[1] = {0}
            const %w : f32[6,8] = seed(1) const %v : f32[8,3] = seed(2) const %k : f32[1] = {3}
            %h : ? = MatMul(%x, %w)
            %s : ? = Shape(%h)
            %n : ? = Gather(%s, %zero)
            %u : ? = Unsqueeze(%n, %axis)
            %t : ? = Concat<axis=0>(%u, %rest)
            %r : ? = Reshape(%h, %t)
            %f : ? = Cast<to=1>(%n)
            %q : ? = Sqrt(%f)
            %d : ? = Div(%r, %q)
            const %last : i64[1] = {1}
            %l : ? = Expand(%k, %u)
            %c : ? = Unsqueeze(%l, %last)
            %p : ? = Mul(%d, %c)
            %y : f32[N,3] = MatMul(%p, %v)
            output %y
        }";
        let graph = parse::model(text).unwrap().graph;
        let settled = graph.settled_at(&[("x".into(), vec![4, 6])]).unwrap();
        let mut kinds: Vec<String> = settled.nodes().map(|n| settled.node(n).kind()).collect();
        kinds.sort_unstable();
        // What may be a weight stays what it is computed from.
        assert_eq!(kinds, ["Div", "Expand", "MatMul", "MatMul", "Mul", "Reshape", "Unsqueeze"]);
        let divisor = settled.nodes().find(|&n| settled.node(n).kind() == "Div").unwrap();
        assert_eq!(settled.input_constant(divisor, 1).unwrap().floats().unwrap(), [2.0]);
        assert_eq!(settled.value(settled.outputs()[0]).ty.as_ref().unwrap().to_string(), "f32[4,3]");
    }
}
