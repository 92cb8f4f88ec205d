//! Networks that are made from nothing: students that do not come from a teacher's graph.

pub mod student_net;

pub use student_net::StudentNet;
