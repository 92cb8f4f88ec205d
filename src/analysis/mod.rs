//! Facts about graphs that passes and reports ask for. What an operator means is in `ir/op`; analyses only walk.

pub mod bytes;
pub mod channels;
pub mod classifier;
pub mod cost;
pub mod ending;
pub mod evaluate;
pub mod formula;
pub mod likely;
pub mod linear;
pub mod paths;
pub mod reach;
pub mod readers;
pub mod removal;
pub mod sizes;
pub mod weights;
