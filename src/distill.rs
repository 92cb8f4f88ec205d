//! Training: a reverse mode of our own over the IR.
//!
//! A [`Tape`] is a graph in topological order for inputs of fixed shapes. [`Tape::forward`] computes the outputs and
//! keeps what the way back needs; [`Tape::backward`] takes the gradient of a loss by each output and leaves that by each
//! trained constant. All buffers are planned when the tape is made, share memory where their lives do not overlap, and
//! are used again at every step. What shapes decide (the targets of `Reshape`, the bounds of `Slice`) and what constants
//! alone decide is settled then, too. Matrix products go through `gemm`, convolutions through kernels of our own; work is
//! cut by sizes alone, never by the number of threads, so that the bytes of a result do not depend on it.
//!
//! An operator family is one file, forward and backward side by side; every backward is checked against central finite
//! differences in f64. Gradients are taken by constants of the caller's choice. They go no further down than the first
//! of those, so whatever is before it may be anything that has a forward here.
//!
//! ```
//! use std::collections::BTreeSet;
//! use tutee::distill::{Method, Mode, Optimizer, Tape, loss, weights};
//!
//! let text = "model m opset 17 {
//!   input %x : f32[N,2]
//!   const %w : f32[2,3] = seed(1)
//!   %y : f32[N,3] = MatMul(%x, %w)
//!   output %y
//! }";
//! let graph = tutee::ir::text::parse::model(text)?.graph;
//! let mut tape = Tape::<f32>::new(&graph, &[("x".into(), vec![4, 2])], graph.outputs(), &weights(&graph))?;
//! let mut optimizer = Optimizer::new(Method::SGD, 0.0);
//! tape.input_mut(0).copy_from_slice(&[0.0, 1.0, 1.0, 0.0, 1.0, 1.0, -1.0, 0.0]);
//! let mut losses = Vec::new();
//! for _ in 0..20 {
//!     tape.forward(Mode::Train);
//!     let (loss, gradient) = loss::cross_entropy(tape.output(0), &[2, 0, 1, 1], 3);
//!     tape.backward(&[gradient]);
//!     optimizer.step(&mut tape, 0.5);
//!     losses.push(loss);
//! }
//! assert!(losses[19] < 0.5 * losses[0]);
//! # Ok::<(), tutee::Error>(())
//! ```

mod build;
mod codebooks;
mod conv;
mod depthwise;
#[cfg(test)]
mod gradients;
mod lanes;
mod layout;
mod lines;
pub mod loss;
mod matmul;
mod norm;
mod normalise;
mod optimizer;
mod plan;
mod pointwise;
mod pool;
mod real;
mod reduce;
mod resize;
mod schedule;
mod simd;
mod softmax;
mod structure;
mod sweep;
mod tape;
#[cfg(test)]
mod testing;
pub mod train;
mod walk;

pub use build::{obstacle, weights};
pub use normalise::{normalise, separate};
pub use optimizer::{Method, Optimizer};
pub use real::Real;
pub use schedule::Schedule;
pub use structure::write_back;
pub use tape::{Mode, Parameter, State, Tape};
