//! The numerics that passes rest on: ndarray in, ndarray out. Knows no graph.
//!
//! Nothing here panics on numbers: what cannot be computed (non-finite input, shapes that do not fit) is `None`. Results
//! do not depend on the number of threads: work is cut into pieces of fixed size, and sums are taken in a fixed order.

pub mod kmeans;

pub use kmeans::{Clustering, kmeans_1d};
