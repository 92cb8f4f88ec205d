//! What is done to a file before tract sees it, so that tract runs more of what ONNX allows, and faster.
//!
//! Nodes get names of their own. Absent inputs and outputs at the end of a node are left off, and other absent outputs
//! get names, since tract counts both. Zeros that no type is said of are of f32: tract takes them for f64.
//!
//! Half precision is widened to f32, for which tract has kernels that are many times faster: weights, types of values,
//! casts, and whatever else makes numbers of a type.
//!
//! What tract would compute otherwise than ONNX says is spelled out in operators that it has right, or refused.

use super::spelled_out::{Constants, spell_out};
use crate::data::Dtype;
use half::{bf16, f16};
use std::collections::HashSet;
use tract_onnx::data_resolver::MmapDataResolver;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{self, type_proto};
use tract_onnx::prelude::*;
use tract_onnx::tensor::load_tensor;

/// Operators of which tract has all outputs, or as many as are written: none may be left off.
const COUNTED: [&str; 6] = ["If", "Loop", "Scan", "Split", "TopK", "DynamicQuantizeLinear"];

/// What values are called that the file has no name for, with a number.
const UNNAMED: &str = "unnamed value ";

/// Attributes that name the type of what a node makes, or computes with.
const TYPES: [&str; 6] = ["to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"];

/// Makes a graph of this opset, and the bodies in it, what tract can read, and says whether it had numbers of half
/// precision. `dir` is where files of external data are.
///
/// # Errors
/// If a tensor of half precision has not the data that it should have.
pub fn prepare(graph: &mut pb::GraphProto, opset: i64, dir: Option<&str>) -> TractResult<bool> {
    let mut file = Preparation { opset, dir, taken: HashSet::new(), next: 0, widened: false, singles: HashSet::new() };
    file.collect(graph);
    file.prepare(graph)?;
    Ok(file.widened)
}

/// The type of half precision that a value has in the file, if it has one.
pub fn declared(info: &pb::ValueInfoProto) -> Option<Dtype> {
    let type_proto::Value::TensorType(ty) = info.r#type.as_ref()?.value.as_ref()?;
    half_type(ty.elem_type)
}

/// The type of half precision that ONNX has under this number.
fn half_type(number: i32) -> Option<Dtype> {
    match DataType::try_from(number).ok()? {
        DataType::Float16 => Some(Dtype::F16),
        DataType::Bfloat16 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// Names that nothing but nodes which cast to f32 read.
fn only_cast(graph: &pb::GraphProto) -> HashSet<String> {
    let to_float = |node: &pb::NodeProto| {
        let to = node.attribute.iter().find(|a| a.name == "to").map(|a| a.i);
        node.op_type == "Cast" && to == Some(i64::from(DataType::Float as i32))
    };
    let read = |cast: bool| graph.node.iter().filter(move |n| to_float(n) == cast).flat_map(|n| &n.input).cloned();
    let others: HashSet<String> = read(false).chain(graph.output.iter().map(|o| o.name.clone())).collect();
    read(true).filter(|name| !others.contains(name)).collect()
}

/// A file on its way to tract.
struct Preparation<'a> {
    opset: i64,
    dir: Option<&'a str>,
    /// Names of the file that look like those that are given to outputs.
    taken: HashSet<String>,
    next: usize,
    widened: bool,
    /// Constants of one number.
    singles: HashSet<String>,
}

impl Preparation<'_> {
    fn prepare(&mut self, graph: &mut pb::GraphProto) -> TractResult<()> {
        copy_passed_on(graph);
        for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            if let Some(type_proto::Value::TensorType(ty)) = info.r#type.as_mut().and_then(|ty| ty.value.as_mut()) {
                self.widen_type(&mut ty.elem_type);
            }
        }
        let stored: HashSet<String> = only_cast(graph);
        for tensor in &mut graph.initializer {
            let before = self.widened;
            self.widen(tensor)?;
            // What is stored in half precision and read as f32 is computed as the file says.
            self.widened = before || self.widened && !stored.contains(&tensor.name);
        }
        self.spell_out(graph)?;
        name_apart(graph);
        for node in &mut graph.node {
            self.drop_absent(node);
            type_zeros(node);
            for attribute in &mut node.attribute {
                if TYPES.contains(&attribute.name.as_str())
                    && let Ok(mut number) = i32::try_from(attribute.i)
                {
                    self.widen_type(&mut number);
                    attribute.i = number.into();
                }
                attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(|tensor| self.widen(tensor))?;
                let mut bodies = attribute.g.iter_mut().chain(&mut attribute.graphs);
                bodies.try_for_each(|body| self.prepare(body))?;
            }
        }
        Ok(())
    }

    fn widen_type(&mut self, number: &mut i32) {
        if half_type(*number).is_some() {
            *number = DataType::Float as i32;
            self.widened = true;
        }
    }

    /// A tensor of half precision as one of f32, with its data in it.
    fn widen(&mut self, tensor: &mut pb::TensorProto) -> TractResult<()> {
        let Some(dtype) = half_type(tensor.data_type) else { return Ok(()) };
        // What counts is the bits, wherever they are.
        tensor.data_type = DataType::Uint16 as i32;
        let bits = load_tensor(&MmapDataResolver, tensor, self.dir)?;
        let wide = |bits: &u16| match dtype {
            Dtype::Bf16 => bf16::from_bits(*bits).to_f32(),
            _ => f16::from_bits(*bits).to_f32(),
        };
        tensor.data_type = DataType::Float as i32;
        self.widened = true;
        tensor.data_location = Some(DataLocation::Default as i32);
        tensor.external_data = Vec::new();
        (tensor.raw_data, tensor.int32_data) = (Vec::new(), Vec::new());
        tensor.float_data = bits.try_as_plain_ram()?.as_slice::<u16>()?.iter().map(wide).collect();
        Ok(())
    }

    fn drop_absent(&mut self, node: &mut pb::NodeProto) {
        let shorten =
            |list: &mut Vec<String>| list.truncate(list.iter().rposition(|n| !n.is_empty()).map_or(0, |i| i + 1));
        shorten(&mut node.input);
        if !COUNTED.contains(&node.op_type.as_str()) {
            shorten(&mut node.output);
        }
        node.output.iter_mut().filter(|name| name.is_empty()).for_each(|name| *name = self.fresh());
    }

    /// Takes names that look like ours.
    fn collect(&mut self, graph: &pb::GraphProto) {
        let infos = graph.input.iter().map(|i| &i.name).chain(graph.initializer.iter().map(|t| &t.name));
        let made = graph.node.iter().flat_map(|n| n.output.iter().chain([&n.name]));
        self.taken.extend(infos.chain(made).filter(|name| name.starts_with(UNNAMED)).cloned());
        let attributes = graph.node.iter().flat_map(|n| &n.attribute);
        attributes.flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|body| self.collect(body));
    }

    fn spell_out(&mut self, graph: &mut pb::GraphProto) -> TractResult<()> {
        let mut singles = std::mem::take(&mut self.singles);
        let constants = Constants::of(graph, &mut singles);
        for node in std::mem::take(&mut graph.node) {
            let mut nodes = Vec::new();
            spell_out(node, self.opset, &constants, &mut nodes, &mut || self.fresh())?;
            graph.node.extend(nodes);
        }
        self.singles = singles;
        Ok(())
    }

    fn fresh(&mut self) -> String {
        loop {
            let name = format!("{UNNAMED}{}", self.next);
            self.next += 1;
            if !self.taken.contains(&name) {
                return name;
            }
        }
    }
}

/// Says what a fill without a value fills with.
fn type_zeros(node: &mut pb::NodeProto) {
    if node.op_type == "ConstantOfShape" && node.attribute.iter().all(|a| a.name != "value") {
        let zero = pb::TensorProto {
            dims: vec![1],
            data_type: DataType::Float as i32,
            float_data: vec![0.0],
            ..Default::default()
        };
        let r#type = pb::attribute_proto::AttributeType::Tensor as i32;
        let value = pb::AttributeProto { name: "value".into(), r#type, t: Some(zero), ..Default::default() };
        node.attribute.push(value);
    }
}

/// Gives nodes names of their own, which inputs and constants do not have either: in tract all of these are nodes.
fn name_apart(graph: &mut pb::GraphProto) {
    let values = graph.input.iter().map(|i| &i.name).chain(graph.initializer.iter().map(|t| &t.name));
    let mut taken: HashSet<String> = values.cloned().collect();
    for (i, node) in graph.node.iter_mut().enumerate() {
        if node.name.is_empty() {
            node.name = node.output.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
        }
        let wanted = node.name.clone();
        if taken.contains(&wanted) {
            node.name = format!("{wanted} ({i})");
        }
        while !taken.insert(node.name.clone()) {
            node.name.push('_');
        }
    }
}

/// Has outputs that no node of the graph makes be copies: of inputs, since tract has one type for both and takes it from the
/// output, and in bodies of values from around them.
fn copy_passed_on(graph: &mut pb::GraphProto) {
    let constants =
        graph.initializer.iter().map(|t| &t.name).filter(|name| !graph.input.iter().any(|i| i.name == **name));
    let made: HashSet<String> = graph.node.iter().flat_map(|n| &n.output).chain(constants).cloned().collect();
    for (i, output) in graph.output.iter_mut().enumerate() {
        if !made.contains(&output.name) {
            let copy = format!("{} as output {i}", output.name);
            graph.node.push(pb::NodeProto {
                op_type: "Identity".into(),
                input: vec![std::mem::replace(&mut output.name, copy.clone())],
                output: vec![copy],
                ..Default::default()
            });
        }
    }
}
