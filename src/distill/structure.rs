//! What training leaves as it is: weights that are zero because they were pruned, and all of a network that is not in the
//! part that trained.

use crate::autodiff::Tape;
use crate::error::Result;
use crate::ir::{Graph, Op, Patch, ValueId};
use crate::math::sparsity::pruned;

/// By parameter of a tape: which elements stay zero, if any do.
pub struct SparsityMask(Vec<Option<Vec<bool>>>);

impl SparsityMask {
    /// SparsityMask of codebooks and of matrices and kernels: training hardly ever gives an exact zero, pruning does. One that is
    /// nothing but zeros has yet to be trained.
    pub fn of(graph: &Graph, tape: &Tape<f32>) -> SparsityMask {
        let masks = tape.parameters().iter().enumerate().map(|(i, parameter)| {
            let values = tape.parameter(i);
            let matrix = parameter.shape.len() > 1 && values.iter().any(|&v| v != 0.0);
            let zeros = pruned(values, &parameter.shape, 0.0);
            let stay = zeros && (matrix || is_book(graph, parameter.value));
            stay.then(|| values.iter().map(|&v| v == 0.0).collect())
        });
        SparsityMask(masks.collect())
    }

    /// How many parameters keep zeros.
    pub fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// Takes the gradients by what stays zero away: no optimizer moves a zero then.
    pub fn hold(&self, tape: &mut Tape<f32>) {
        for (i, mask) in self.0.iter().enumerate() {
            let Some(mask) = mask else { continue };
            let gradient = tape.gradient_mut(i);
            gradient.iter_mut().zip(mask).filter(|g| *g.1).for_each(|(g, _)| *g = 0.0);
        }
    }
}

/// Whether a constant is a codebook: what reads it looks values up in it.
pub fn is_book(graph: &Graph, value: ValueId) -> bool {
    let mut readers = graph.readers(value).peekable();
    readers.peek().is_some()
        && readers.all(|n| matches!(graph.node(n).op, Op::Gather(_)) && graph.input(n, 0) == Some(value))
}

/// Gives the constants of a network what those of the same names are in a part of it.
///
/// # Errors
/// Internal ones.
pub fn write_back(part: &Graph, graph: &mut Graph) -> Result<()> {
    let mut patch = Patch::at_graph(graph);
    for v in part.values() {
        let value = part.value(v);
        if let (Some(new), Some(own)) = (value.constant(), graph.find_value(&value.name))
            && graph.value(own).constant().is_some_and(|old| old != new)
        {
            patch.set_constant(own, new.clone());
        }
    }
    graph.apply(patch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::{Mode, weights};
    use crate::distill::{Method, Optimizer};
    use crate::ir::text::parse;

    #[test]
    fn zeros_stay() {
        let text = "model m opset 17 {
            input %x : f32[2,3]
            const %w : f32[3,2] = {1,0,0,2,3,4} const %b : f32[2] const %book : f32[2] = {0,1}
            const %i : i32[2,2] = {0,1,1,0} const %new : f32[2,2]
            %v : f32[2,2] = Gather(%book, %i)
            %h : f32[2,2] = Gemm(%x, %w, %b)
            %a : f32[2,2] = MatMul(%h, %v)
            %c : f32[2,2] = MatMul(%h, %new)
            %y : f32[2,2] = Add(%a, %c)
            output %y
        }";
        let graph = parse::model(text).unwrap().graph;
        for method in [Method::SGD, Method::ADAM_W] {
            let mut tape = Tape::<f32>::new(&graph, &[], graph.outputs(), &weights(&graph)).unwrap();
            let zeros = SparsityMask::of(&graph, &tape);
            assert_eq!(zeros.count(), 2);
            let mut optimizer = Optimizer::new(method, 0.1);
            tape.input_mut(0).copy_from_slice(&[1.0, 2.0, 3.0, -1.0, 0.5, 1.0]);
            for _ in 0..3 {
                tape.forward(Mode::Train);
                tape.backward(&[vec![1.0, -1.0, 0.5, 2.0]]);
                zeros.hold(&mut tape);
                optimizer.step(&mut tape, 0.1);
            }
            let of = |name: &str| {
                let at = tape.parameters().iter().position(|p| p.name == name).unwrap();
                tape.parameter(at).iter().map(|&v| v == 0.0).collect::<Vec<_>>()
            };
            assert_eq!(of("w"), [false, true, true, false, false, false]);
            assert_eq!(of("book"), [true, false]);
            assert_eq!(of("b"), [false, false], "a bias may leave zero");
            assert_eq!(of("new"), [false; 4], "so may a matrix of zeros alone");
        }
    }
}
