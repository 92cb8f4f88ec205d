//! A compiler that takes a trained ONNX network and writes a smaller, faster one.

pub mod error;

pub use error::{Error, Result};
