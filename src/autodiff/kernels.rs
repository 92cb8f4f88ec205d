//! Kernels: what operators compute, forward and backward, one file an operator family.

pub mod conv;
mod depthwise;
pub mod layout;
pub mod matmul;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod reduce;
pub mod resize;
pub mod softmax;
