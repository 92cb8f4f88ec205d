//! A compiler that takes a trained ONNX network and writes a smaller, faster one.

pub mod analysis;
pub mod architectures;
#[cfg(feature = "exec")]
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
pub mod distill;
pub mod error;
#[cfg(feature = "exec")]
pub mod exec;
#[cfg(feature = "exec")]
pub mod exits;
pub mod figures;
pub mod files;
pub mod ir;
pub mod job;
pub mod math;
pub mod onnx;
pub mod passes;
pub mod plain;
pub mod recipe;
pub mod report;
#[cfg(feature = "exec")]
pub mod search;
pub mod session;

pub use error::{Error, Result};
