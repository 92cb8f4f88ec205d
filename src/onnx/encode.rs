//! IR to ONNX protobuf. Weights stay shared: only small things are copied.

use super::attribute::Attribute;
use super::pieces;
use super::proto::{self, AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto};
use crate::error::{Error, Result};
use crate::ir::attr::{Attr, AttrValue};
use crate::ir::graph::{Graph, ValueId};
use crate::ir::shape::{DType, Dim, Shape, Type};
use crate::ir::tensor::Tensor;
use crate::ir::value::{Form, Source};
use crate::ir::{Model, NodeId};
use bytes::Bytes;
use prost::{DecodeError, Message};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Bytes of the model as one file.
///
/// # Errors
/// As [`model`].
pub fn encoded_len(m: &Model) -> Result<u64> {
    Ok(model(m)?.encoded_len() as u64)
}

/// The model's protobuf form.
///
/// # Errors
/// Internal ones only: a graph that was never verified, or carried bytes that do not decode.
pub fn model(m: &Model) -> Result<ModelProto> {
    let m = &*m.nested()?;
    let mut out: ModelProto = in_pieces(&m.carried)?;
    let graph = self::graph(&m.graph, &HashMap::new())?;
    out.ir_version = Some(m.ir_version);
    for (domain, version) in &m.opsets {
        if !out.opset_import.iter().any(|o| super::decode::domain(o.domain()) == domain) {
            out.opset_import.push(proto::OperatorSetIdProto { domain: Some(domain.clone()), version: Some(*version) });
        }
    }
    out.graph = Some(graph);
    Ok(out)
}

fn in_pieces<M: Message + Default>(pieces: &[Bytes]) -> Result<M> {
    pieces::decode(pieces).map_err(undecodable)
}

fn undecodable(e: DecodeError) -> Error {
    Error::internal(format!("carried bytes do not decode: {e}"))
}

fn carried<M: Message + Default>(bytes: &Bytes) -> Result<M> {
    in_pieces(std::slice::from_ref(bytes))
}

/// Names of the enclosing graphs' values, by the name a body knows them by.
type Outer = HashMap<String, String>;

fn graph(g: &Graph, outer: &Outer) -> Result<GraphProto> {
    let mut out: GraphProto = in_pieces(&g.carried)?;
    if !g.name.is_empty() {
        out.name = Some(g.name.clone());
    }
    let name = |v: ValueId| {
        let own = &g.value(v).name;
        match g.value(v).source {
            Source::Capture => outer.get(own).unwrap_or(own).clone(),
            _ => own.clone(),
        }
    };
    let inputs: HashSet<ValueId> = g.inputs().iter().copied().collect();
    let (mut constants, mut listed) = (BTreeMap::new(), Vec::new());
    for v in g.values() {
        let value = g.value(v);
        match &value.source {
            Source::Constant(t, Form::Initializer { carried: rest, .. }) => {
                out.initializer.push(tensor(t, &value.name, carried(rest)?));
            }
            Source::Input { default: Some((t, rest)) } => out.initializer.push(tensor(t, &value.name, carried(rest)?)),
            Source::Constant(t, Form::Node { name, carried: rest, order }) => {
                let mut node = constant_node(t, &value.name, carried(rest)?);
                node.name = node.name.or_else(|| Some(name.clone()).filter(|n| !n.is_empty()));
                constants.insert((*order, v), node);
            }
            _ => {}
        }
        let end = inputs.contains(&v) || g.is_output(v);
        if !end && value.listing.proto.is_some() {
            listed.extend(info(g, v, &value.name, false)?.map(|i| (value.listing.at, i)));
        }
    }
    listed.sort_by_key(|l| l.0);
    out.value_info.extend(listed.into_iter().map(|l| l.1));
    for id in g.topological()? {
        while let Some(first) = constants.first_entry().filter(|c| c.key().0 <= g.node(id).order.0) {
            out.node.push(first.remove());
        }
        // In a file that was not sorted, and in one that was edited, some it reads stand further down.
        let captured = g.node_captures(id).into_iter().map(|c| c.2);
        for v in g.node_inputs(id).into_iter().flatten().chain(captured) {
            if let Source::Constant(_, Form::Node { order, .. }) = &g.value(v).source {
                out.node.extend(constants.remove(&(*order, v)));
            }
        }
        out.node.push(node(g, id, &name)?);
    }
    out.node.extend(constants.into_values());
    for &v in g.inputs() {
        let fed = g.value(v).constant().is_none();
        out.input.extend(info(g, v, &name(v), fed || g.is_output(v))?);
    }
    let mut listed: HashMap<ValueId, usize> = g.inputs().iter().map(|&v| (v, 1)).collect();
    for &v in g.outputs() {
        let times = listed.entry(v).or_default();
        match times.checked_sub(1).and_then(|again| g.value(v).listing.again.get(again)) {
            Some(bytes) => out.output.push(ValueInfoProto { name: Some(name(v)), ..carried(bytes)? }),
            None => out.output.extend(info(g, v, &name(v), true)?),
        }
        *times += 1;
    }
    Ok(out)
}

fn node(g: &Graph, id: NodeId, name: &impl Fn(ValueId) -> String) -> Result<NodeProto> {
    let n = g.node(id);
    let mut out: NodeProto = carried(&n.carried)?;
    out.metadata_props = carried::<NodeProto>(&n.metadata)?.metadata_props;
    let slots = |vs: Vec<Option<ValueId>>| vs.into_iter().map(|v| v.map(name).unwrap_or_default()).collect::<Vec<_>>();
    out.input = slots(g.node_inputs(id));
    out.output = slots(g.node_outputs(id));
    out.op_type = Some(n.op_type.clone());
    if !n.name.is_empty() {
        out.name = Some(n.name.clone());
    }
    if out.domain.is_none() && !n.domain.is_empty() {
        out.domain = Some(n.domain.clone());
    }
    let mut captures: Vec<Outer> = Vec::new();
    for (b, body) in n.bodies().enumerate() {
        captures.push(HashMap::new());
        for (_, i, v) in g.node_captures(id).into_iter().filter(|c| c.0 == b) {
            captures[b].insert(body.value(body.captures()[i]).name.clone(), name(v));
        }
    }
    let mut captures = captures.iter();
    out.attribute = n.attrs.iter().map(|a| attribute(a, &mut captures)).collect::<Result<_>>()?;
    Ok(out)
}

fn attribute<'a>(a: &Attr, outers: &mut impl Iterator<Item = &'a Outer>) -> Result<Attribute> {
    use proto::attribute_proto::AttributeType as T;
    let mut out = AttributeProto { name: Some(a.name.clone()), ..Default::default() };
    if !a.doc.is_empty() {
        out.doc_string = Some(a.doc.clone());
    }
    let mut body = |g: &Graph| graph(g, outers.next().ok_or_else(|| Error::internal("a body without captures"))?);
    let kind = match &a.value {
        AttrValue::Int(v) => {
            out.i = Some(*v);
            T::Int
        }
        AttrValue::Float(v) => {
            out.f = Some(*v);
            T::Float
        }
        AttrValue::Str(v) => {
            out.s = Some(v.clone());
            T::String
        }
        AttrValue::Ints(v) => {
            out.ints = v.clone();
            T::Ints
        }
        AttrValue::Floats(v) => {
            out.floats = v.clone();
            T::Floats
        }
        AttrValue::Strs(v) => {
            out.strings = v.clone();
            T::Strings
        }
        AttrValue::Tensor(t, name) => {
            out.t = Some(tensor(t, name, TensorProto::default()).into());
            T::Tensor
        }
        AttrValue::Graph(g) => {
            out.g = Some(body(g)?.into());
            T::Graph
        }
        AttrValue::Graphs(gs) => {
            out.graphs = gs.iter().map(body).collect::<Result<_>>()?;
            T::Graphs
        }
        AttrValue::Carried(bytes) => return Attribute::of(bytes).map_err(undecodable),
    };
    out.set_type(kind);
    Ok(out.into())
}

fn tensor(t: &Tensor, name: &str, mut out: TensorProto) -> TensorProto {
    out.dims = t.shape().iter().map(|&d| d as i64).collect();
    out.data_type = Some(t.dtype().0);
    if !name.is_empty() {
        out.name = Some(name.to_string());
    }
    match (t.packed(), t.kept(), t.as_strings()) {
        (Some(list), ..) => match t.dtype() {
            DType::I64 => out.int64_data = vec![list],
            DType::U32 | DType::U64 => out.uint64_data = vec![list],
            _ => out.int32_data = vec![list],
        },
        (_, Some(b), _) if b.is_empty() && t.is_typed() => {}
        (_, Some(b), _) => out.raw_data = Some(b.clone()),
        (.., Some(s)) => out.string_data = s.to_vec(),
        _ => {}
    }
    out
}

/// A `Constant` node, in the form the file had it where the tensor still fits that.
fn constant_node(t: &Tensor, output: &str, mut out: NodeProto) -> NodeProto {
    use proto::attribute_proto::AttributeType as T;
    out.op_type = Some("Constant".into());
    out.output = vec![output.to_string()];
    let mut a = match out.attribute.pop() {
        Some(Attribute::Decoded(a)) => *a,
        _ => AttributeProto::default(),
    };
    let rest = a.t.take().unwrap_or_default();
    let (ints, floats) = (|| t.ints().unwrap_or_default(), || t.as_f32().unwrap_or_default().into_owned());
    let strings = || t.as_strings().unwrap_or_default().to_vec();
    let kind = match (a.name(), t.dtype(), t.rank()) {
        ("value_int", DType::I64, 0) => {
            a.i = t.int_scalar();
            T::Int
        }
        ("value_float", DType::F32, 0) => {
            a.f = floats().first().copied();
            T::Float
        }
        ("value_string", DType::STRING, 0) => {
            a.s = strings().first().cloned();
            T::String
        }
        ("value_ints", DType::I64, 1) => {
            a.ints = ints();
            T::Ints
        }
        ("value_floats", DType::F32, 1) => {
            a.floats = floats();
            T::Floats
        }
        ("value_strings", DType::STRING, 1) => {
            a.strings = strings();
            T::Strings
        }
        _ => {
            let name = rest.name().to_string();
            a = AttributeProto { name: Some("value".into()), doc_string: a.doc_string, ..Default::default() };
            a.t = Some(tensor(t, &name, *rest).into());
            T::Tensor
        }
    };
    a.set_type(kind);
    out.attribute = vec![a.into()];
    out
}

/// The typed name of a value: as the file spelled it where its type is still that, else from the type. An `end`, which a
/// caller feeds or reads, keeps the type that it was declared with; other values have the type they have now, constants that
/// are listed as inputs among them.
fn info(g: &Graph, v: ValueId, name: &str, end: bool) -> Result<Option<ValueInfoProto>> {
    let value = g.value(v);
    let mut out: ValueInfoProto = match &value.listing.proto {
        Some(bytes) => carried(bytes)?,
        None => ValueInfoProto::default(),
    };
    out.metadata_props = carried::<ValueInfoProto>(&value.listing.metadata)?.metadata_props;
    out.name = Some(name.to_string());
    let stale = match (&value.listing.ty, &value.ty) {
        (Some(was), Some(is)) => !was.agrees(is),
        (None, Some(_)) => value.listing.proto.is_none(),
        _ => false,
    };
    if stale && (!end || value.listing.ty.is_none()) {
        out.r#type = value.ty.as_ref().and_then(type_proto);
        if out.r#type.is_none() && !end {
            return Ok(None);
        }
    }
    Ok(Some(out))
}

fn type_proto(ty: &Type) -> Option<TypeProto> {
    use proto::type_proto::{Tensor, Value};
    let Type::Tensor(dtype, shape) = ty else { return None };
    let tensor = Tensor { elem_type: Some(dtype.0), shape: shape.as_ref().map(shape_proto) };
    Some(TypeProto { value: Some(Value::TensorType(tensor)), denotation: None })
}

fn shape_proto(shape: &Shape) -> proto::TensorShapeProto {
    use proto::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |d: &Dim| Dimension {
        value: match d {
            Dim::Known(n) => Some(Value::DimValue(*n as i64)),
            Dim::Sym(s) => Some(Value::DimParam(s.to_string())),
            Dim::Open(_) | Dim::Product(_) | Dim::Unknown => None,
        },
        denotation: None,
    };
    proto::TensorShapeProto { dim: shape.0.iter().map(dim).collect() }
}
