//! A compiler that takes a trained ONNX network and writes a smaller, faster one.
//!
//! [`job`] is a whole run, from files to files; [`build`] is one for build scripts. [`compress`] runs a [`recipe`] on a model in
//! memory, [`session`] step by step.
//!
//! What is in `analysis`, `autodiff`, `distill`, `exits` and `math` serves the rest of the crate and is open to tests and
//! benchmarks alone: it need not be documented item by item.

#[allow(missing_docs)]
pub mod analysis;
pub mod architectures;
#[cfg(feature = "exec")]
#[allow(missing_docs)]
pub mod autodiff;
pub mod build;
#[cfg(feature = "exec")]
pub mod calibrate;
#[cfg(feature = "exec")]
pub mod check;
pub mod cli;
pub mod compress;
pub mod data;
#[cfg(feature = "exec")]
#[allow(missing_docs)]
pub mod distill;
pub mod error;
#[cfg(feature = "exec")]
pub mod exec;
#[cfg(feature = "exec")]
#[allow(missing_docs)]
pub mod exits;
pub mod figures;
pub mod files;
pub mod ir;
pub mod job;
#[allow(missing_docs)]
pub mod math;
pub mod onnx;
pub mod passes;
pub mod plain;
pub mod recipe;
pub mod report;
#[cfg(feature = "exec")]
pub mod rounds;
#[cfg(feature = "exec")]
#[allow(missing_docs)]
pub mod search;
pub mod session;

pub use error::{Error, Result};
