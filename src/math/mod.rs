//! The numerics that passes rest on: ndarray in, ndarray out. Knows no graph.
//!
//! Nothing here panics on numbers: what cannot be computed (non-finite input, shapes that do not fit) is `None`. Results
//! do not depend on the number of threads: work is cut into pieces of fixed size, and sums are taken in a fixed order.

pub mod banks;
pub mod books;
pub mod chance;
pub mod codes;
mod dense;
pub mod factored;
pub mod feedback;
pub mod fit;
pub mod kmeans;
pub mod knapsack;
pub mod logistic;
pub mod low_rank;
pub mod magnitude;
pub mod moments;
pub mod output_metric;
pub mod packed_moment;
pub mod separate;
pub mod solve;
pub mod sparsity;
pub mod spatial;
pub mod svd;
#[cfg(test)]
mod testing;
pub mod thresholds;
pub mod vectors;
pub mod worth;

pub use fit::{Fit, LayerMoments};
pub use kmeans::{Clustering, kmeans_1d};
pub use low_rank::{Factors, Rank, factorize};
pub use moments::{Moments, cross, gram};
pub use separate::Separable;
pub use solve::{Whitening, cholesky_lower, ridge, rows_times};
pub use svd::{Svd, rank_for_energy};
