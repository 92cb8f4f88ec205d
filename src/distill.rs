//! Training a student: losses, optimizers, learning rates, codebooks that train, and the trainer that puts them together
//! over the engine of [`autodiff`](crate::autodiff).
//!
//! ```
//! use tutee::autodiff::{Mode, Tape, weights};
//! use tutee::distill::{Method, Optimizer, loss};
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

mod batch_norm;
mod codebooks;
pub mod loss;
mod optimizer;
mod schedule;
mod structure;
pub mod train;

pub use batch_norm::{insert_batch_norm, unshare_statistics};
pub use optimizer::{Method, Optimizer};
pub use schedule::Schedule;
pub use structure::write_back;
