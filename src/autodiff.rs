//! Reverse-mode differentiation of a graph: the engine that training runs on. It knows no data, no losses, no recipes.
//!
//! A [`Tape`] is a graph in topological order for inputs of fixed shapes. [`Tape::forward`] computes the outputs and
//! keeps what the way back needs; [`Tape::backward`] takes the gradient of a loss by each output and leaves that by each
//! trained constant. All buffers are planned when the tape is made, share memory where their lives do not overlap, and
//! are used again at every step. What shapes decide (the targets of `Reshape`, the bounds of `Slice`) and what constants
//! alone decide is settled then, too. Matrix products go through `gemm`, convolutions through kernels of our own; work is
//! cut by sizes alone, never by the number of threads, so that the bytes of a result do not depend on it.
//!
//! `lower` turns nodes into a `program` of steps, one `kernel` each; `tape` gives the program its memory and runs it. A
//! kernel family is one file in `kernels`, forward and backward side by side; every backward is checked against central
//! finite differences in f64. Gradients are taken by constants of the caller's choice. They go no further down than the
//! first of those, so whatever is before it may be anything that has a forward here.
//!
//! ```
//! use tutee::autodiff::{Mode, Tape, weights};
//!
//! let text = "model m opset 17 {
//!   input %x : f32[2,2]
//!   const %w : f32[2,1] = {3, 4}
//!   %y : f32[2,1] = MatMul(%x, %w)
//!   output %y
//! }";
//! let graph = tutee::ir::text::parse::model(text)?.graph;
//! let mut tape = Tape::<f32>::new(&graph, &[], graph.outputs(), &weights(&graph))?;
//! tape.input_mut(0).copy_from_slice(&[1.0, 0.0, 1.0, 1.0]);
//! tape.forward(Mode::Train);
//! assert_eq!(tape.output(0), [3.0, 7.0]);
//! // The gradient of y[0] + 10 y[1] by w.
//! tape.backward(&[vec![1.0, 10.0]]);
//! assert_eq!(tape.gradient(0), [11.0, 10.0]);
//! # Ok::<(), tutee::Error>(())
//! ```

mod broadcast;
#[cfg(test)]
mod gradients;
mod kernel;
mod kernels;
mod lower;
mod memory;
mod program;
mod real;
mod simd;
mod tape;
#[cfg(test)]
mod testing;
mod trainable;
mod vectors;
mod window;

pub use kernel::Mode;
pub use lower::obstacle;
pub use real::{PIECE, Real};
pub use tape::{Parameter, Tape, Variables};
pub use trainable::{sources, weights};
