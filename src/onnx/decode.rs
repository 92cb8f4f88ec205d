//! ONNX protobuf to IR. What the IR has no word for is kept encoded, beside what it belongs to.

use super::attribute::list_name;
use super::external::{self, ExternalData, Pages};
use super::proto::{self, TensorProto, TypeProto, ValueInfoProto};
use super::slices::{AttributeProto, GraphProto, ModelProto, NodeProto};
use super::{pieces, tensors, typed, unknown, wire};
use crate::error::{Error, Result};
use crate::ir::attr::{Attr, AttrValue};
use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::shape::{DType, Dim, Shape, Type};
use crate::ir::tensor::{Tensor, byte_len};
use crate::ir::value::{Form, Listing, Source, Value};
use crate::ir::{Model, Node, Op};
use bytes::Bytes;
use prost::Message;
use std::collections::HashSet;
use std::mem::take;
use std::path::{Path, PathBuf};

/// Bodies in bodies, at most: so many protobuf's own decoders read.
const MAX_DEPTH: usize = 32;

/// A model, and what was noticed while it was read.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// What is strange about it, for people.
    pub warnings: Vec<String>,
    /// Files read: the model, then its external data.
    pub files: Vec<PathBuf>,
    /// Bytes of those files.
    pub bytes: u64,
    /// What of those files is in memory.
    pub pages: Pages,
}

/// Reads a model. The file is mapped: weights stay in it.
///
/// # Errors
/// If the file cannot be read, is not an ONNX model, or contradicts itself.
pub fn load(path: &Path) -> Result<Loaded> {
    let mut pages = Pages::default();
    let bytes = external::map(path, &mut pages)?;
    let mut loaded = decode_with(bytes, Some(path), pages).map_err(|e| e.at(path.display().to_string()))?;
    loaded.files.insert(0, path.to_path_buf());
    Ok(loaded)
}

/// Decodes a model; `path` is where its external data lies beside.
///
/// # Errors
/// As [`load`].
pub fn decode(bytes: Bytes, path: Option<&Path>) -> Result<Loaded> {
    decode_with(bytes, path, Pages::default())
}

fn decode_with(bytes: Bytes, path: Option<&Path>, pages: Pages) -> Result<Loaded> {
    let length = bytes.len();
    if length == 0 {
        return Err(not_onnx("the file is empty".into()));
    }
    let mut proto: ModelProto = message(&bytes, "ModelProto")?;
    let mut warnings = Vec::new();
    let unknown = unknown::fields(&bytes);
    if !unknown.is_empty() {
        let (list, version) = (unknown.join(", "), super::PROTO_VERSION);
        warnings.push(format!("the file has fields that ONNX {version} does not define, which are dropped: {list}"));
    }
    let graph = take(&mut proto.graph);
    if graph.is_empty() {
        return Err(not_onnx("there is no graph in it".into()));
    }
    let opsets: Vec<_> = proto.opset_import.iter().map(|o| (domain(o.domain()).to_string(), o.version())).collect();
    let opset = opsets.iter().find(|o| o.0.is_empty()).map_or(0, |o| o.1);
    let ir_version = proto.ir_version();
    let functions = proto.functions.iter().map(|f| (domain(f.domain()).to_string(), f.name().to_string())).collect();
    let trains = !proto.training_info.is_empty();
    let mut data = ExternalData::beside(path, pages);
    proto.functions.iter_mut().try_for_each(|f| {
        let place = format!("function \"{}\"", f.name());
        tensors::in_function(f, &mut |t| data.inline(t)).map_err(|e| e.at(place))
    })?;
    let training = proto.training_info.iter_mut().flat_map(|t| t.initialization.iter_mut().chain(&mut t.algorithm));
    training.into_iter().try_for_each(|g| tensors::in_graph(g, &mut |t| data.inline(t)))?;
    let mut decoder = GraphDecoder {
        ir_version,
        opset,
        functions,
        data: &mut data,
        pin_all: trains,
        symbols: HashSet::new(),
        depth: 0,
    };
    let mut graph = decoder.graph(&graph)?;
    if let Some(&lost) = graph.captures().first() {
        return Err(undefined(&graph, lost));
    }
    for (node, why) in graph.infer_all()? {
        warnings.push(format!(
            "{} \"{}\" contradicts its definition: {why}",
            graph.node(node).kind(),
            graph.label(node)
        ));
    }
    let model = Model { graph, ir_version, opsets, carried: pieces::encode(&proto) };
    let bytes = length as u64 + data.paths.iter().filter_map(|p| p.metadata().ok()).map(|m| m.len()).sum::<u64>();
    Ok(Loaded { model, warnings, files: data.paths, bytes, pages: data.pages })
}

fn not_onnx(why: String) -> Error {
    Error::input("not an ONNX model").because(why).help("give a file that an ONNX exporter wrote (one ModelProto)")
}

/// Decodes a message of the file, whichever way its lists of numbers are written.
fn message<M: Message + Default>(bytes: &Bytes, name: &str) -> Result<M> {
    let packed = || M::decode(Bytes::from(wire::pack(bytes, name)?)).ok();
    M::decode(bytes.clone()).or_else(|e| packed().ok_or(e)).map_err(|e| {
        let why = e.to_string().replace("failed to decode Protobuf message: ", "");
        not_onnx(format!("it is cut off, or no protobuf at all: {why}"))
    })
}

/// A field that holds a message: what of it stands in several places is one message.
fn merged(fields: &[Bytes]) -> Bytes {
    match fields {
        [field] => field.clone(),
        fields => fields.concat().into(),
    }
}

/// The ONNX domain has two spellings.
pub(super) fn domain(d: &str) -> &str {
    if d == "ai.onnx" { "" } else { d }
}

fn undefined(graph: &Graph, value: ValueId) -> Error {
    let reader = graph.uses(value).first().map(|u| u.node());
    let place = reader.map_or("the graph's outputs".to_string(), |n| place(graph, n));
    Error::input(format!("the value \"{}\" is used but never defined", graph.value(value).name))
        .at(place)
        .because("it is no input, no initializer and no node's output")
        .help("the model is incomplete: export it again")
}

fn place(graph: &Graph, n: NodeId) -> String {
    format!("{} \"{}\"", graph.node(n).kind(), graph.label(n))
}

/// A node as errors name it: one without a name by its first output.
fn spelled(proto: &NodeProto, output: Option<&str>) -> String {
    let name = Some(proto.name()).filter(|n| !n.is_empty()).or(output);
    format!("{} \"{}\"", proto.op_type(), name.unwrap_or_default())
}

struct GraphDecoder<'a> {
    ir_version: i64,
    opset: i64,
    /// Local functions, which take precedence over operators of the same name.
    functions: Vec<(String, String)>,
    data: &'a mut ExternalData,
    /// Training info refers to values by name: all of them stay.
    pin_all: bool,
    /// Names that the file gives dims.
    symbols: HashSet<String>,
    /// Bodies around what is decoded.
    depth: usize,
}

impl GraphDecoder<'_> {
    /// Decodes a graph; names it does not define become captures, for whoever encloses it to resolve.
    fn graph(&mut self, fields: &[Bytes]) -> Result<Graph> {
        let mut proto: GraphProto = message(&merged(fields), "GraphProto")?;
        let mut graph = Graph::new(proto.name(), self.opset);
        let nodes = take(&mut proto.node);
        let inputs = take(&mut proto.input);
        let outputs = take(&mut proto.output);
        let infos = take(&mut proto.value_info);
        let initializers = take(&mut proto.initializer);

        let nodes = nodes.iter().map(|n| message::<NodeProto>(n, "NodeProto"));
        let mut nodes = nodes.collect::<Result<Vec<_>>>()?;
        let made: usize = nodes.iter().map(|n| n.output.len()).sum();
        graph.reserve(nodes.len(), initializers.len() + inputs.len() + made);
        for t in initializers {
            let mut t: TensorProto = message(&t, "TensorProto")?;
            let read = self.tensor(&mut t);
            let name = t.name.take().unwrap_or_default();
            let (tensor, carried) = read.map_err(|e| e.at(format!("initializer \"{name}\"")))?;
            let form = Form::Initializer { listed: false, carried };
            graph.add_value(Value::new(name, Source::Constant(tensor, form)))?;
        }
        for sparse in &mut proto.sparse_initializer {
            tensors::in_sparse(sparse, &mut |t| self.data.inline(t))?;
            let name = sparse.values.as_ref().map_or("", |v| v.name());
            let mut value = Value::new(name, Source::Carried);
            value.ty = sparse.values.as_ref().map(|v| Type::Tensor(DType(v.data_type()), dims(&sparse.dims)));
            graph.add_value(value)?;
        }
        self.symbols.extend(inputs.iter().chain(&outputs).chain(&infos).flat_map(symbols));
        for info in inputs {
            self.input(&mut graph, info)?;
        }
        let mut outs = Vec::with_capacity(nodes.len());
        for (at, node) in nodes.iter_mut().enumerate() {
            outs.push(self.declare(&mut graph, node, at as u32)?);
        }
        for (at, (node, outs)) in nodes.into_iter().zip(outs).enumerate() {
            if let Some(outs) = outs {
                self.node(&mut graph, node, &outs, at as u32)?;
            }
        }
        for info in outputs {
            let id = resolve(&mut graph, info.name())?;
            graph.add_output(id);
            if !list(&mut graph, id, &info, 0) {
                graph.value_mut(id).listing.again.push(info.encode_to_vec().into());
            }
        }
        for (at, info) in infos.into_iter().enumerate() {
            // What is listed already, or is not in this graph, has no use for it: the file keeps it all the same.
            if !graph.find_value(info.name()).is_some_and(|id| list(&mut graph, id, &info, at as u32)) {
                proto.value_info.push(info);
            }
        }
        for annotation in &proto.quantization_annotation {
            let named = annotation.quant_parameter_tensor_names.iter().map(|p| p.value());
            for name in named.chain([annotation.tensor_name()]) {
                if let Some(id) = graph.find_value(name) {
                    graph.value_mut(id).pinned = true;
                }
            }
        }
        if self.pin_all {
            for id in graph.values().collect::<Vec<_>>() {
                graph.value_mut(id).pinned = true;
            }
        }
        proto.name.take_if(|n| !n.is_empty());
        graph.carried = pieces::encode(&proto);
        Ok(graph)
    }

    fn input(&mut self, graph: &mut Graph, info: ValueInfoProto) -> Result<()> {
        let id = match graph.find_value(info.name()) {
            None => graph.add_value(Value::new(info.name(), Source::Input { default: None }))?,
            Some(id) => {
                let overridable = self.ir_version >= 4;
                let listed_twice = matches!(graph.value(id).source, Source::Carried) && graph.inputs().contains(&id);
                let value = graph.value_mut(id);
                match &mut value.source {
                    Source::Constant(t, Form::Initializer { carried, .. }) if overridable => {
                        value.source = Source::Input { default: Some((t.clone(), carried.clone())) };
                        value.ty = None;
                    }
                    Source::Constant(_, Form::Initializer { listed, .. }) if !*listed => *listed = true,
                    Source::Carried if !listed_twice => {}
                    _ => {
                        return Err(Error::input(format!("the graph input \"{}\" is defined twice", info.name()))
                            .because("every value of an ONNX graph has one definition")
                            .help("rename one of the two"));
                    }
                }
                id
            }
        };
        graph.add_input(id);
        list(graph, id, &info, 0);
        let value = graph.value_mut(id);
        if let Source::Input { default } = &value.source {
            value.ty = value.ty.take().or(default.as_ref().map(|(t, _)| t.ty()));
            // A dim that the file leaves open is the same number everywhere it reaches.
            let name = value.name.clone();
            if let Some(Type::Tensor(_, Some(shape))) = &mut value.ty {
                for (i, d) in shape.0.iter_mut().enumerate().filter(|(_, d)| **d == Dim::Unknown) {
                    let mut symbol = format!("{name}.{i}");
                    while self.symbols.contains(&symbol) {
                        symbol.push('_');
                    }
                    *d = Dim::Sym(symbol.into());
                }
            }
        }
        Ok(())
    }

    /// Defines a node's outputs, and says what they are; `None` for a `Constant` node, which is nothing but a constant value.
    fn declare(&mut self, graph: &mut Graph, proto: &mut NodeProto, at: u32) -> Result<Option<Vec<Option<ValueId>>>> {
        let constant =
            self.is_known(proto) && proto.op_type() == "Constant" && proto.input.is_empty() && proto.output.len() == 1;
        let first = proto.output.first().filter(|_| proto.name().is_empty()).cloned();
        let place = |proto: &NodeProto| spelled(proto, first.as_deref());
        let tensor = if constant { self.constant_node(proto).map_err(|e| e.at(place(proto)))? } else { None };
        if let Some(tensor) = tensor {
            let name = proto.output.first().cloned().unwrap_or_default();
            let place = place(proto);
            let called = proto.name.take_if(|n| !n.is_empty()).unwrap_or_default();
            let form = Form::Node { name: called, carried: proto.encode_to_vec().into(), order: at };
            let added = graph.add_value(Value::new(name, Source::Constant(tensor, form)));
            return added.map(|_| None).map_err(|e| e.at(place));
        }
        let outputs = take(&mut proto.output);
        let mut slots = Vec::with_capacity(outputs.len());
        for name in outputs {
            let added = match name.as_str() {
                "" => Ok(None),
                _ => graph.add_value(Value::new(name, Source::Node)).map(Some),
            };
            slots.push(added.map_err(|e| e.at(place(proto)))?);
        }
        Ok(Some(slots))
    }

    /// Whether the name of a node's operator has the meaning that ONNX gives it.
    fn is_known(&self, proto: &NodeProto) -> bool {
        domain(proto.domain()).is_empty() && !self.functions.iter().any(|f| f.0.is_empty() && f.1 == proto.op_type())
    }

    /// Adds a node whose outputs are declared.
    fn node(&mut self, graph: &mut Graph, mut proto: NodeProto, outputs: &[Option<ValueId>], at: u32) -> Result<()> {
        let known = self.is_known(&proto);
        let inputs = take(&mut proto.input);
        let attrs = take(&mut proto.attribute);
        let attrs = attrs.iter().map(|a| self.attribute(a)).collect::<Result<Vec<_>>>();
        let first = outputs.first().copied().flatten().map(|v| graph.value(v).name.as_str());
        let attrs = attrs.map_err(|e| e.at(spelled(&proto, first)))?;
        let op_type = proto.op_type.take().unwrap_or_default();
        let op = if known { Op::parse(&op_type, self.opset, &attrs) } else { Op::Opaque };
        let mut node = Node::new(proto.name.take().unwrap_or_default(), Op::Opaque, self.opset);
        node.domain = domain(proto.domain()).to_string();
        if proto.domain() != "ai.onnx" {
            proto.domain = None;
        }
        (node.op_type, node.attrs, node.op) = (op_type, attrs, op);
        let metadata = NodeProto { metadata_props: take(&mut proto.metadata_props), ..Default::default() };
        (node.carried, node.metadata) = (proto.encode_to_vec().into(), metadata.encode_to_vec().into());
        let mut slots = Vec::with_capacity(inputs.len());
        for name in &inputs {
            slots.push(if name.is_empty() { None } else { Some(resolve(graph, name)?) });
        }
        let names: Vec<Vec<String>> =
            node.bodies().map(|b| b.captures().iter().map(|&c| b.value(c).name.clone()).collect()).collect();
        let id = graph.add_node(node, at, &slots, outputs);
        for (body, names) in names.iter().enumerate() {
            for (index, name) in names.iter().enumerate() {
                let outer = resolve(graph, name)?;
                graph.connect_capture(id, body, index, outer);
            }
        }
        Ok(())
    }

    /// Takes the tensor out of a `Constant` node; `None` for the forms that are only carried (sparse).
    fn constant_node(&mut self, proto: &mut NodeProto) -> Result<Option<Tensor>> {
        let [attr] = proto.attribute.as_mut_slice() else { return Ok(None) };
        let encoded = attr;
        let mut attr: AttributeProto = message(encoded, "AttributeProto")?;
        use proto::attribute_proto::AttributeType as T;
        let kind = match attr.name() {
            "value" => T::Tensor,
            "value_int" => T::Int,
            "value_ints" => T::Ints,
            "value_float" => T::Float,
            "value_floats" => T::Floats,
            "value_string" => T::String,
            "value_strings" => T::Strings,
            _ => return Ok(None),
        };
        let typed = attr.r#type.is_none_or(|t| t == T::Undefined as i32 || t == kind as i32);
        if !typed || !is_plain(&attr, kind) || proto.output.iter().any(String::is_empty) {
            return Ok(None);
        }
        let (ints, floats, strings) = (take(&mut attr.ints), take(&mut attr.floats), take(&mut attr.strings));
        let tensor = match attr.name() {
            "value" => match attr.t.as_deref_mut() {
                Some(t) => {
                    let name = t.name.clone();
                    let tensor = self.tensor(&mut t.clone())?.0;
                    *t = TensorProto { name, ..rest_of(t) };
                    Some(tensor)
                }
                None => None,
            },
            "value_int" => Some(Tensor::scalar_i64(attr.i())),
            "value_ints" => Some(Tensor::i64([ints.len()], &ints).with_typed(true)),
            "value_float" => Some(Tensor::f32([], &[attr.f()])),
            "value_floats" => Some(Tensor::f32([floats.len()], &floats)),
            "value_string" => Tensor::strings(vec![], vec![attr.s.clone().unwrap_or_default()]),
            "value_strings" => Tensor::strings(vec![strings.len()], strings),
            _ => None,
        };
        if tensor.is_some() {
            *encoded = attr.encode_to_vec().into();
        }
        Ok(tensor)
    }

    fn attribute(&mut self, encoded: &Bytes) -> Result<Attr> {
        use proto::attribute_proto::AttributeType as T;
        if let Some(name) = list_name(encoded) {
            return Ok(Attr { name, value: AttrValue::Carried(encoded.clone()), doc: String::new() });
        }
        let proto: AttributeProto = message(encoded, "AttributeProto")?;
        let name = proto.name().to_string();
        let doc = proto.doc_string().to_string();
        let kind = match proto.r#type() {
            T::Undefined if proto.r#type.unwrap_or(0) == 0 => guess_kind(&proto),
            kind => kind,
        };
        let plain = is_plain(&proto, kind);
        if !plain && (!proto.g.is_empty() || !proto.graphs.is_empty()) {
            return Err(Error::input(format!("the attribute \"{name}\" has a graph, and something else"))
                .because("an ONNX attribute has one kind of value")
                .help("export the model again"));
        }
        let value = match kind {
            T::Graph if !proto.g.is_empty() => AttrValue::Graph(self.body(&proto.g)?.into()),
            T::Graphs => AttrValue::Graphs(proto.graphs.chunks(1).map(|g| self.body(g)).collect::<Result<_>>()?),
            T::Int if plain => AttrValue::Int(proto.i()),
            T::Float if plain => AttrValue::Float(proto.f()),
            T::String if plain => AttrValue::Str(proto.s.unwrap_or_default()),
            T::Ints if plain => AttrValue::Ints(proto.ints),
            T::Floats if plain => AttrValue::Floats(proto.floats),
            T::Strings if plain => AttrValue::Strs(proto.strings),
            T::Tensor if plain && proto.t.as_deref().is_some_and(nothing_but_data) => {
                let mut t = proto.t.unwrap_or_default();
                let inner = t.name().to_string();
                AttrValue::Tensor(self.tensor(&mut t)?.0.into(), inner)
            }
            _ => AttrValue::Carried(self.carry(encoded)?),
        };
        Ok(Attr { name, value, doc })
    }

    /// An attribute as it is, but for external data, which is in it now.
    fn carry(&mut self, encoded: &Bytes) -> Result<Bytes> {
        let mut proto: proto::AttributeProto = message(encoded, "AttributeProto")?;
        let as_written = proto.encoded_len() == encoded.len();
        let mut inside = true;
        tensors::in_attribute(&mut proto, &mut |t| {
            inside &= t.external_data.is_empty();
            self.data.inline(t)
        })?;
        Ok(if as_written && inside { encoded.clone() } else { proto.encode_to_vec().into() })
    }

    /// A graph inside of an attribute.
    fn body(&mut self, fields: &[Bytes]) -> Result<Graph> {
        if self.depth == MAX_DEPTH {
            return Err(not_onnx(format!("its graphs are nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let body = self.graph(fields);
        self.depth -= 1;
        body
    }

    /// A tensor, and what else its proto says, encoded.
    fn tensor(&mut self, t: &mut TensorProto) -> Result<(Tensor, Bytes)> {
        let dtype = DType(t.data_type());
        let bad = |why: String| Error::input("a tensor is not valid").because(why).help("export the model again");
        let shape: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape.ok_or_else(|| bad(format!("its dims {:?} are not all numbers from 0 up", t.dims)))?;
        if t.segment.is_some() {
            return Err(bad("it is stored in segments, which no runtime reads".into()));
        }
        let lists = [&t.float_data, &t.double_data, &t.int32_data, &t.int64_data, &t.uint64_data];
        let places = lists.iter().map(|l| l.is_empty()).chain([t.raw_data().is_empty(), t.string_data.is_empty()]);
        if places.filter(|empty| !empty).count() > 1 {
            return Err(bad("it has its data in more than one field".into()));
        }
        if dtype == DType::STRING {
            let n = t.string_data.len();
            let strings = take(&mut t.string_data);
            let tensor = Tensor::strings(shape, strings)
                .ok_or_else(|| bad(format!("dims {:?} do not go with {n} strings", t.dims)))?;
            return Ok((tensor, carried(t)));
        }
        let Some(need) = byte_len(dtype, &shape) else {
            return Err(bad(match dtype.bits() {
                None => format!("its element type {} is not one of ONNX {}", dtype.0, super::PROTO_VERSION),
                Some(_) => format!("its dims {:?} overflow", t.dims),
            }));
        };
        self.data.inline(t)?;
        let tensor = match t.raw_data.take_if(|raw| !raw.is_empty() || need == 0) {
            Some(raw) => {
                let backing = self.data.pages.of(&raw);
                Tensor::new(dtype, shape, raw).map(|t| t.with_typed(false).backed_by(backing))
            }
            None => typed::tensor(t, dtype, shape, &self.data.pages),
        };
        let tensor =
            tensor.ok_or_else(|| bad(format!("dims {:?} of {dtype} do not go with the data there is", t.dims)))?;
        Ok((tensor, carried(t)))
    }
}

/// Finds a value, or declares that the graph captures it.
fn resolve(graph: &mut Graph, name: &str) -> Result<ValueId> {
    match graph.find_value(name) {
        Some(id) => Ok(id),
        None => graph.add_capture(name),
    }
}

/// Remembers what the file says of a value, if it does so for the first time.
fn list(graph: &mut Graph, id: ValueId, info: &ValueInfoProto, at: u32) -> bool {
    let ty = info.r#type.as_ref().and_then(type_of);
    let value = graph.value_mut(id);
    if value.listing.proto.is_some() {
        return false;
    }
    if value.constant().is_none() && value.ty.is_none() {
        value.ty = ty.clone();
    }
    let mut info = info.clone();
    let metadata = ValueInfoProto { metadata_props: take(&mut info.metadata_props), ..Default::default() };
    let [proto, metadata] = [info, metadata].map(|m| m.encode_to_vec().into());
    value.listing = Listing { proto: Some(proto), metadata, at, ty, again: Vec::new() };
    true
}

/// [`rest_of`] a tensor, encoded.
fn carried(t: &mut TensorProto) -> Bytes {
    match t.doc_string.is_none() && t.metadata_props.is_empty() {
        true => Bytes::new(),
        false => rest_of(t).encode_to_vec().into(),
    }
}

/// What is left of a tensor besides type, dims, name and data.
fn rest_of(t: &mut TensorProto) -> TensorProto {
    let (doc_string, metadata_props) = (t.doc_string.take(), take(&mut t.metadata_props));
    TensorProto { doc_string, metadata_props, ..Default::default() }
}

/// Files before IR 2 leave the kind of an attribute to be seen from its fields.
fn guess_kind(p: &AttributeProto) -> proto::attribute_proto::AttributeType {
    use proto::attribute_proto::AttributeType as T;
    match () {
        _ if !p.g.is_empty() => T::Graph,
        _ if !p.graphs.is_empty() => T::Graphs,
        _ if p.f.is_some() => T::Float,
        _ if p.i.is_some() => T::Int,
        _ if p.s.is_some() => T::String,
        _ if p.t.is_some() => T::Tensor,
        _ if !p.ints.is_empty() => T::Ints,
        _ if !p.floats.is_empty() => T::Floats,
        _ if !p.strings.is_empty() => T::Strings,
        _ => T::Undefined,
    }
}

/// Whether an attribute has no value but one of this kind.
fn is_plain(p: &AttributeProto, kind: proto::attribute_proto::AttributeType) -> bool {
    use proto::attribute_proto::AttributeType as T;
    let fields = [
        (T::Float, p.f.is_some()),
        (T::Int, p.i.is_some()),
        (T::String, p.s.is_some()),
        (T::Tensor, p.t.is_some()),
        (T::Graph, !p.g.is_empty()),
        (T::TypeProto, p.tp.is_some()),
        (T::SparseTensor, p.sparse_tensor.is_some()),
        (T::Floats, !p.floats.is_empty()),
        (T::Ints, !p.ints.is_empty()),
        (T::Strings, !p.strings.is_empty()),
        (T::Tensors, !p.tensors.is_empty()),
        (T::Graphs, !p.graphs.is_empty()),
        (T::TypeProtos, !p.type_protos.is_empty()),
        (T::SparseTensors, !p.sparse_tensors.is_empty()),
    ];
    p.ref_attr_name().is_empty() && fields.into_iter().all(|(of, set)| !set || of == kind)
}

fn nothing_but_data(t: &TensorProto) -> bool {
    t.doc_string.is_none() && t.metadata_props.is_empty() && t.segment.is_none()
}

fn dims(dims: &[i64]) -> Option<Shape> {
    let dims = dims.iter().map(|&d| u64::try_from(d).ok().map(Dim::Known));
    Some(Shape(dims.collect::<Option<_>>()?))
}

fn type_of(proto: &TypeProto) -> Option<Type> {
    use proto::type_proto::Value as V;
    let inner = |t: &Option<Box<TypeProto>>| t.as_deref().and_then(type_of).map(Box::new);
    Some(match proto.value.as_ref()? {
        V::TensorType(t) => Type::Tensor(DType(t.elem_type()), t.shape.as_ref().map(shape_of)),
        V::SparseTensorType(t) => Type::Sparse(DType(t.elem_type()), t.shape.as_ref().map(shape_of)),
        V::SequenceType(s) => Type::Sequence(inner(&s.elem_type)),
        V::OptionalType(o) => Type::Optional(inner(&o.elem_type)),
        V::MapType(m) => Type::Map(DType(m.key_type()), inner(&m.value_type)),
        V::OpaqueType(_) => Type::Opaque,
    })
}

/// The names of a value's dims.
fn symbols(info: &ValueInfoProto) -> Vec<String> {
    let Some(Type::Tensor(_, Some(shape))) = info.r#type.as_ref().and_then(type_of) else { return Vec::new() };
    let name = |d: &Dim| if let Dim::Sym(s) = d { Some(s.to_string()) } else { None };
    shape.0.iter().filter_map(name).collect()
}

fn shape_of(proto: &proto::TensorShapeProto) -> Shape {
    use proto::tensor_shape_proto::dimension::Value as V;
    let dim = |d: &proto::tensor_shape_proto::Dimension| match &d.value {
        Some(V::DimValue(n)) => u64::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        Some(V::DimParam(s)) if !s.is_empty() => Dim::sym(s),
        _ => Dim::Unknown,
    };
    Shape(proto.dim.iter().map(dim).collect())
}
