//! The words in which an operator says how channels run through it: which axes of its inputs and outputs carry the same
//! channels, which it sums over, and which it needs whole. What follows from that for a whole graph is
//! `analysis/channels.rs`.

use crate::ir::infer::Infer;
use crate::ir::shape::Shape;
use crate::ir::tensor::Tensor;
use std::ops::Range;

/// An axis of an input or output: slot, then axis counted from the front.
pub type Axis = (usize, usize);

/// Receives an operator's statements about one node. An input axis about which nothing is said stays whole.
pub trait Ties {
    /// The node's inputs.
    fn cx(&self) -> &Infer<'_>;

    /// The shape of an output, if its rank is known.
    fn out_shape(&self, slot: usize) -> Option<&Shape>;

    /// Whether the input is computed from constants alone, as weights are.
    fn is_weight(&self, slot: usize) -> bool;

    /// Whether nobody needs the size of an input axis that is at this position of an output: what reads it is overwritten
    /// where the axis shrinks.
    fn is_unread(&mut self, input: Axis, position: Axis) -> bool;

    /// Whether the input axis carries channels that could go.
    fn is_tracked(&self, input: Axis) -> bool;

    /// The output axis carries the channels of the input axis, one for one. Several inputs that pass to one output axis
    /// are tied to each other.
    fn pass(&mut self, input: Axis, output: Axis);

    /// The output axis carries channels of the input axis, the one at `from(i)` at `i`.
    fn select(&mut self, input: Axis, output: Axis, from: &dyn Fn(usize) -> usize);

    /// Axes of the first output carry channels of the input axis, row-major, the one at `from(i)` at `i`; without such axes
    /// the one at `from(0)` alone goes into the output.
    fn select_grid(&mut self, input: Axis, outputs: Range<usize>, from: &dyn Fn(usize) -> usize);

    /// The output axis carries the channels of the inputs' axes, one after the other.
    fn concat(&mut self, inputs: &[Axis], output: Axis);

    /// The weight axis, `times` over, makes the channels of the output axis: they can be chosen here.
    fn produce(&mut self, weight: Axis, output: Axis, times: usize);

    /// The weight axis has a part in making the channels that it carries by now.
    fn made_by(&mut self, weight: Axis);

    /// The node has weights, but makes no channels that could be told apart; `why` goes on where a sentence begins with the
    /// node.
    fn make_none(&mut self, why: &str);

    /// The output axis is made here from nothing but its size, which can be another.
    fn make(&mut self, output: Axis);

    /// Position `i` of `a` stands and falls with position `map(i)` of `b`.
    fn tie(&mut self, a: Axis, b: Axis, map: &dyn Fn(usize) -> usize);

    /// The operator sums the products of the data's and the weight's channels; in `groups` blocks of the data's axis
    /// that share the weight's axis.
    fn contract(&mut self, data: Axis, weight: Axis, groups: usize);

    /// The elements of the first input, in their order, in the shape of the first output.
    fn reshape(&mut self);

    /// The operator needs the input axis as it is; `why` goes on where a sentence begins with the node.
    fn freeze(&mut self, input: Axis, why: &str);

    /// The operator does the same along an axis whatever its size: nothing is tied, nothing is said against change.
    fn ignore(&mut self, input: Axis);
}

/// Why channels cannot be chosen by an input that should be a weight.
pub fn open_weight(cx: &Infer<'_>, slot: usize) -> String {
    let why = match cx.constant(slot) {
        _ if cx.is_overridable(slot) => {
            "has a weight that callers may override: the step `bind-defaults` makes it a constant"
        }
        _ if cx.is_sparse(slot) => "has a sparse initializer as its weight, which is carried as it is",
        None => "has a weight that is computed at run time",
        Some(_) => "has a weight that cannot be followed",
    };
    why.into()
}

/// Every axis of the inputs passes to the output axis that it broadcasts to. (ONNX Broadcasting.)
pub fn broadcast(ties: &mut dyn Ties, inputs: impl IntoIterator<Item = usize>) {
    let Some(rank) = ties.out_shape(0).map(Shape::rank) else { return };
    for slot in inputs {
        let Some(own) = ties.cx().shape(slot).map(Shape::rank).filter(|&r| r <= rank) else { continue };
        for axis in 0..own {
            ties.pass((slot, axis), (0, axis + rank - own));
        }
    }
}

/// Every axis of the first input passes to the same axis of the first output.
pub fn elementwise(ties: &mut dyn Ties) {
    broadcast(ties, [0]);
}

/// What removing channels changes in a node besides the sizes of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The operator's attributes.
    Op(crate::ir::Op),
    /// The constant at an input: a target shape, sizes, indices.
    Constant(usize, Tensor),
    /// The number of inputs: those that follow go.
    Inputs(usize),
    /// What feeds an input: an operator on these tensors and, after them, what fed it before.
    Through(usize, crate::ir::Op, Vec<Tensor>),
}

/// Which positions stay, for an operator to say what that changes in its node.
pub trait Kept {
    /// Positions of an input axis that stay, ascending; `None` if all do.
    fn input(&self, input: Axis) -> Option<&[usize]>;

    /// Positions of an output axis that stay, ascending; `None` if all do.
    fn output(&self, output: Axis) -> Option<&[usize]>;

    /// The node's inputs, before the removal.
    fn cx(&self) -> &Infer<'_>;

    /// The shape of an output, before the removal.
    fn out_shape(&self, slot: usize) -> Option<&Shape>;

    /// Positions of an output axis that stay, ascending, also if all do; `None` if its size is not known.
    fn stay(&self, (slot, axis): Axis) -> Option<Vec<usize>> {
        let all = || Some((0..usize::try_from(self.out_shape(slot)?.0.get(axis)?.known()?).ok()?).collect());
        self.output((slot, axis)).map(<[usize]>::to_vec).or_else(all)
    }
}
