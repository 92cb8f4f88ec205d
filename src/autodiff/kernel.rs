//! What the tape asks of an operation: forward, backward, and what memory it needs for both.

use super::real::{Grad, Real};
use crate::ir::ValueId;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Normalizes by the statistics of the batch, where the normalization trains, and updates the running ones.
    Train,
    /// Computes what the graph says.
    Infer,
}

/// What a kernel's backward reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Inputs, by bit: only some of the first 64 can be kept.
    pub inputs: u64,
    pub output: bool,
}

impl Keeps {
    /// Whether the backward reads input `index`.
    pub fn input(self, index: usize) -> bool {
        index < 64 && self.inputs & (1 << index) != 0
    }
}

/// Scratch memory that a kernel asks for, in elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scratch {
    pub forward: usize,
    pub backward: usize,
}

/// The way back through a kernel.
pub struct Backward<'a, T> {
    /// Inputs; those that it does not keep are empty.
    pub x: &'a [&'a [T]],
    /// The output; empty if it does not keep it.
    pub y: &'a [T],
    /// Gradient by the output.
    pub dy: &'a [T],
    /// Where the gradient by each input goes, if anybody wants it.
    pub dx: Vec<Option<Grad<'a, T>>>,
    pub scratch: &'a mut [T],
}

/// One operation with one output. It knows the shapes of what it is given.
pub trait Kernel<T: Real>: Send {
    fn keeps(&self) -> Keeps {
        Keeps::default()
    }

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], scratch: &mut [T], mode: Mode);

    fn backward(&mut self, back: Backward<'_, T>);

    /// Takes min(max(·, low), high) of its output upon itself, if it can.
    fn clamp(&mut self, _low: T, _high: T) -> bool {
        false
    }

    /// Running statistics that forward updates: the constants they come from and go to, and what they are now.
    fn statistics(&mut self) -> Vec<(ValueId, &mut Vec<T>)> {
        Vec::new()
    }
}
