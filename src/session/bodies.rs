//! Bodies of control flow: passes that change weights one by one change those in bodies too, where no data is looked at.

use super::visit::{AS_DECLARED, StepRun, Task, told};
use crate::analysis::cost::Costs;
use crate::analysis::readers;
use crate::error::{Error, Result};
use crate::ir::value::Form;
use crate::ir::{Graph, NodeId, Op, Patch, Source, Tensor, Use, ValueId};
use crate::passes::options::Selection;
use crate::passes::{Pass, Phase, Reason, Why};

/// A constant of a graph that one body alone reads.
struct CapturedWeight {
    name: String,
    tensor: Tensor,
    node: NodeId,
    body: usize,
    index: usize,
}

impl StepRun<'_, '_> {
    /// Runs a pass that changes the function over the bodies of a graph.
    pub fn change_bodies(&mut self, graph: &mut Graph, pass: &dyn Pass, selection: &Selection) -> Result<()> {
        for n in with_bodies(graph) {
            let place = place(graph, n);
            graph.edit_bodies(n, |body| {
                let before = self.rows.len();
                self.costs = Costs::at(&AS_DECLARED);
                match selection.within(body) {
                    Some(selection) => {
                        self.sink(body, pass, &selection)?;
                        let selected = selection.resolve(body).map_err(|e| Error::internal(e.what))?;
                        self.visit_all(body, Task::without_data(pass, &selected), None)?;
                        let told = self.rows[before..].iter_mut();
                        told.for_each(|row| row.note = format!("{place}, without data: {}", row.note));
                        self.change_bodies(body, pass, &selection)?;
                    }
                    None => {
                        for t in readers::tensors(body, selection.min_weights) {
                            let mut row = told(pass.name(), t.name, false, String::new());
                            row.leave(Reason::new(Why::Recipe, format!("it is {place}: `only` names nothing there")));
                            self.rows.push(row);
                        }
                    }
                }
                Ok(self.rows[before..].iter().any(|row| row.done))
            })?;
        }
        self.costs = Costs::at(&self.session.sizes);
        Ok(())
    }

    /// Puts matrices that one body alone reads into that body, where they are weights of its layers. Codes stay outside: a
    /// body may run more than once.
    pub fn sink(&mut self, graph: &mut Graph, pass: &dyn Pass, selection: &Selection) -> Result<()> {
        if pass.phase() != Phase::Shrink || !selection.only.is_empty() {
            return Ok(());
        }
        for v in graph.values().collect::<Vec<_>>() {
            let Some(weight) = captured_weight(graph, v, selection.min_weights) else { continue };
            let mut at = 0;
            let mut sunk = false;
            graph.edit_bodies(weight.node, |body| {
                let here = at == weight.body;
                at += 1;
                let Some(&inner) = body.captures().get(weight.index).filter(|_| here) else { return Ok(false) };
                let mut patch = Patch::at_graph(body);
                let new = patch.constant_named(weight.name.clone(), weight.tensor.clone());
                for n in body.readers(inner).collect::<Vec<_>>() {
                    let inputs = body.node_inputs(n).into_iter();
                    let inputs: Vec<_> =
                        inputs.map(|v| if v == Some(inner) { Some(new) } else { v.map(Into::into) }).collect();
                    patch.set_inputs(n, &inputs);
                }
                body.apply(patch)?;
                sunk = true;
                Ok(true)
            })?;
            if sunk {
                let what =
                    format!("moved {}, which alone reads it", place(graph, weight.node).replacen("in ", "into ", 1));
                self.rows.push(told(pass.name(), weight.name, true, what));
            }
        }
        Ok(())
    }
}

fn with_bodies(graph: &Graph) -> Vec<NodeId> {
    graph.nodes().filter(|&n| graph.node(n).has_bodies() && graph.node(n).op != Op::Opaque).collect()
}

fn place(graph: &Graph, n: NodeId) -> String {
    format!("in the body of {} \"{}\"", graph.node(n).kind(), graph.label(n))
}

/// A matrix of floats that nothing but one body reads, and only at nodes of its own.
fn captured_weight(graph: &Graph, v: ValueId, least: usize) -> Option<CapturedWeight> {
    if !graph.has_value(v) {
        return None;
    }
    let value = graph.value(v);
    let Source::Constant(tensor, Form::Initializer { listed: false, .. }) = &value.source else { return None };
    let [Use::Capture { node, body, index }] = graph.uses(v)[..] else { return None };
    let large = tensor.dtype().is_float() && tensor.rank() > 1 && tensor.len() >= least.max(1);
    if !large || graph.is_held(v) || graph.node(node).op == Op::Opaque {
        return None;
    }
    let inner = graph.node(node).bodies().nth(body)?;
    let own = |u: &Use| matches!(u, Use::Input(..));
    let captured = *inner.captures().get(index)?;
    let plain = !inner.is_held(captured) && inner.uses(captured).iter().all(own);
    plain.then(|| CapturedWeight { name: value.name.clone(), tensor: tensor.clone(), node, body, index })
}
