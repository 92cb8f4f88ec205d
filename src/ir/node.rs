//! Nodes: one operator applied to values.

use crate::ir::attr::{Attr, AttrValue};
use crate::ir::graph::Graph;
use crate::ir::op::Op;
use bytes::Bytes;

/// An operator instance. Its inputs and outputs are the graph's edges.
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique in its graph; may be empty.
    pub name: String,
    /// The operator's name.
    pub op_type: String,
    /// `""` is ONNX itself (the file may spell it `ai.onnx`; `carried` remembers).
    pub domain: String,
    /// As the file has them, or as the operator writes them; `op` is their reading.
    pub attrs: Vec<Attr>,
    /// The operator with its attributes.
    pub op: Op,
    /// What else the NodeProto says (doc string, overload), encoded.
    pub carried: Bytes,
    /// Its `metadata_props`, encoded as a NodeProto: what exporters note of where a node comes from.
    pub metadata: Bytes,
    /// Place in the file, then order of creation at that place: ties between nodes that could go in any order.
    pub(crate) order: (u32, u32),
    /// Number of input and output slots, absent optional ones included.
    pub(crate) arity: (usize, usize),
    /// Inference found the file itself to contradict the operator's definition here.
    pub(crate) inconsistent: bool,
}

impl Node {
    /// A node of an operator we reason about.
    pub fn new(name: impl Into<String>, op: Op, opset: i64) -> Node {
        let (op_type, attrs) = match op.operator() {
            Some(o) => (o.op_type().to_string(), o.file_attrs(opset)),
            None => (String::new(), Vec::new()),
        };
        Node {
            name: name.into(),
            op_type,
            domain: String::new(),
            attrs,
            op,
            carried: Bytes::new(),
            metadata: Bytes::new(),
            order: (0, 0),
            arity: (0, 0),
            inconsistent: false,
        }
    }

    /// The bodies of a control-flow node, in attribute order.
    pub fn bodies(&self) -> impl Iterator<Item = &Graph> {
        self.attrs.iter().flat_map(|a| match &a.value {
            AttrValue::Graph(g) => std::slice::from_ref(&**g),
            AttrValue::Graphs(gs) => gs.as_slice(),
            _ => &[],
        })
    }

    pub(crate) fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        self.attrs.iter_mut().flat_map(|a| match &mut a.value {
            AttrValue::Graph(g) => std::slice::from_mut(&mut **g),
            AttrValue::Graphs(gs) => gs.as_mut_slice(),
            _ => &mut [],
        })
    }

    /// Whether graphs are inside it, as in `If`, `Loop` and `Scan`.
    pub fn has_bodies(&self) -> bool {
        self.bodies().next().is_some()
    }

    /// The name people know the operator by: its type, with the domain where that is not ONNX.
    pub fn kind(&self) -> String {
        if self.domain.is_empty() { self.op_type.clone() } else { format!("{}.{}", self.domain, self.op_type) }
    }
}
