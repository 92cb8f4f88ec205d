//! Every tensor that a protobuf message holds, wherever it is nested.

use super::attribute::Attribute;
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto};
use crate::error::Result;

/// What visits tensors; its first error ends the walk.
pub type Visit<'a> = &'a mut dyn FnMut(&mut TensorProto) -> Result<()>;

pub fn in_graph(g: &mut GraphProto, visit: Visit<'_>) -> Result<()> {
    g.initializer.iter_mut().try_for_each(&mut *visit)?;
    g.sparse_initializer.iter_mut().try_for_each(|s| in_sparse(s, visit))?;
    in_nodes(&mut g.node, visit)
}

pub fn in_function(f: &mut FunctionProto, visit: Visit<'_>) -> Result<()> {
    f.attribute_proto.iter_mut().try_for_each(|a| in_attribute(a, visit))?;
    in_nodes(&mut f.node, visit)
}

pub fn in_attribute(a: &mut AttributeProto, visit: Visit<'_>) -> Result<()> {
    a.t.as_deref_mut().into_iter().chain(&mut a.tensors).try_for_each(&mut *visit)?;
    let sparse = a.sparse_tensor.as_deref_mut().into_iter().chain(&mut a.sparse_tensors);
    sparse.into_iter().try_for_each(|s| in_sparse(s, visit))?;
    a.g.as_deref_mut().into_iter().chain(&mut a.graphs).try_for_each(|g| in_graph(g, visit))
}

pub fn in_sparse(s: &mut SparseTensorProto, visit: Visit<'_>) -> Result<()> {
    s.values.iter_mut().chain(&mut s.indices).try_for_each(visit)
}

fn in_nodes(nodes: &mut [NodeProto], visit: Visit<'_>) -> Result<()> {
    nodes.iter_mut().flat_map(|n| &mut n.attribute).try_for_each(|a| match a {
        Attribute::Decoded(a) => in_attribute(a, visit),
        Attribute::Encoded(_) => Ok(()),
    })
}
