//! The intermediate representation: a graph of typed operators and values, and the one editor of it, [`Patch`].

pub mod attr;
mod dim;
pub mod exits;
pub mod extract;
pub mod graph;
pub mod infer;
pub mod names;
mod net;
pub mod node;
// Fields are called as the attributes of ONNX, whose definitions say what they are.
#[allow(missing_docs)]
pub mod op;
pub mod patch;
pub mod random;
pub mod settle;
pub mod shape;
pub mod tensor;
pub mod text;
pub mod ties;
pub mod value;
pub mod varints;
pub mod verify;
mod visit;

pub use attr::{Attr, AttrValue};
pub use exits::Exit;
pub use graph::{Graph, NodeId, Use, ValueId};
pub use infer::Fact;
pub use node::Node;
pub use op::Op;
pub use patch::{Patch, Ref};
pub use shape::{DType, Dim, Shape, Type};
pub use tensor::Tensor;
pub use value::{Source, Value};

use bytes::Bytes;

/// What `load` gives and `save` takes: a graph and what surrounds it.
#[derive(Debug, Clone)]
pub struct Model {
    /// What it computes.
    pub graph: Graph,
    /// The version of the ONNX file format.
    pub ir_version: i64,
    /// Operator set imports: domain (`""` is ONNX itself) and version, in file order.
    pub opsets: Vec<(String, i64)>,
    /// Everything of the file that no pass reasons about (metadata, local functions, training info, …), encoded, in pieces.
    pub carried: Vec<Bytes>,
}

impl Model {
    /// Makes a model before IR 4 one of IR 4 if it has an initializer that is not listed among its inputs, as IR 3 asks:
    /// then none is listed any more. Says whether it did.
    pub fn raise_ir(&mut self) -> bool {
        let raise = self.ir_version < 4 && self.graph.has_unlisted();
        if raise {
            self.ir_version = 4;
            self.graph.unlist();
        }
        raise
    }
}
