//! Local functions with a body, put in the place of the nodes that call them.

use super::attribute::Attribute;
use super::decode::{decode, domain};
use super::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use super::{encode, pieces};
use crate::error::{Error, Result};
use crate::ir::Model;
use prost::Message;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::take;

/// How many calls are replaced at most: functions that call each other twice have no end.
const CALLS: usize = 10_000;

/// Domain, name and overload.
type FunctionId = (String, String, String);

/// What became of the functions of a model.
pub struct Inlined {
    /// The model without them.
    pub model: Model,
    /// Calls that are replaced.
    pub calls: usize,
    /// Functions that stay, each with the reason.
    pub stay: Vec<(String, String)>,
}

/// The model with the bodies of its functions in the place of their calls; `None` if it has no functions.
///
/// # Errors
/// Internal ones only.
pub fn inline_functions(model: &Model) -> Result<Option<Inlined>> {
    let around: ModelProto = pieces::decode(&model.carried)
        .map_err(|e| Error::internal(format!("what is around the graph does not decode: {e}")))?;
    if around.functions.is_empty() {
        return Ok(None);
    }
    let mut proto = encode::model(model)?;
    let key = |f: &FunctionProto| (domain(f.domain()).to_string(), f.name().to_string(), f.overload().to_string());
    let mut inliner = Inliner {
        functions: proto.functions.iter().map(|f| (key(f), f.clone())).collect(),
        names: HashSet::new(),
        opsets: proto.opset_import.iter().map(|o| (domain(o.domain()).to_string(), o.version())).collect(),
        calls: 0,
        stay: BTreeSet::new(),
    };
    let known = inliner.opsets.len();
    if let Some(graph) = &mut proto.graph {
        inliner.note_names(graph);
        graph.node = inliner.nodes(take(&mut graph.node), &[]);
    }
    let stay: Vec<_> = inliner.stay.iter().cloned().collect();
    if stay.is_empty() {
        proto.functions.clear();
    }
    let new = inliner.opsets.split_off(known).into_iter();
    proto.opset_import.extend(new.map(|(d, v)| OperatorSetIdProto { domain: Some(d), version: Some(v) }));
    let model = decode(proto.encode_to_vec().into(), None)?.model;
    Ok(Some(Inlined { model, calls: inliner.calls, stay }))
}

struct Inliner {
    functions: HashMap<FunctionId, FunctionProto>,
    /// Names of values and nodes that are in use.
    names: HashSet<String>,
    opsets: Vec<(String, i64)>,
    calls: usize,
    stay: BTreeSet<(String, String)>,
}

impl Inliner {
    fn note_names(&mut self, graph: &GraphProto) {
        self.names.extend(graph.input.iter().chain(&graph.output).map(|v| v.name().to_string()));
        self.names.extend(graph.initializer.iter().map(|t| t.name().to_string()));
        for node in &graph.node {
            self.names.extend(node.output.iter().cloned().chain([node.name().to_string()]));
            for a in &node.attribute {
                if let Attribute::Decoded(a) = a {
                    a.g.iter().map(|g| &**g).chain(&a.graphs).for_each(|g| self.note_names(g));
                }
            }
        }
    }

    /// Nodes with what they call in their place; `callers` are the functions that they are of.
    fn nodes(&mut self, nodes: Vec<NodeProto>, callers: &[FunctionId]) -> Vec<NodeProto> {
        let mut out = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for g in node.attribute.iter_mut().flat_map(graphs) {
                g.node = self.nodes(take(&mut g.node), callers);
            }
            let key = (domain(node.domain()).to_string(), node.op_type().to_string(), node.overload().to_string());
            match self.functions.get(&key).cloned() {
                None => out.push(node),
                Some(function) => match self.refuses(&function, callers.contains(&key)) {
                    Some(why) => {
                        self.stay.insert((key.1, why));
                        out.push(node);
                    }
                    None => {
                        self.calls += 1;
                        let body = self.body(&node, function);
                        out.extend(self.nodes(body, &[callers, &[key]].concat()));
                    }
                },
            }
        }
        out
    }

    /// Why the calls of a function stay.
    fn refuses(&mut self, f: &FunctionProto, calls_itself: bool) -> Option<String> {
        if f.node.is_empty() && !f.output.is_empty() {
            return Some("it has no body".into());
        }
        if domain(f.domain()).is_empty() {
            return Some("it has the place of an operator of ONNX itself".into());
        }
        if calls_itself {
            return Some("it calls itself".into());
        }
        if self.calls >= CALLS {
            return Some(format!("more than {CALLS} calls would be replaced"));
        }
        for import in &f.opset_import {
            let (name, version) = (domain(import.domain()).to_string(), import.version());
            match self.opsets.iter().find(|o| o.0 == name) {
                Some(o) if o.1 != version => {
                    return Some(format!("it is written in opset {version}, the model in {}", o.1));
                }
                Some(_) => {}
                None => self.opsets.push((name, version)),
            }
        }
        None
    }

    fn fresh(&mut self, wanted: String) -> String {
        let mut name = wanted.clone();
        let mut next = 1;
        while !self.names.insert(name.clone()) {
            next += 1;
            name = format!("{wanted}_{next}");
        }
        name
    }

    /// The nodes of a function on what a call feeds it.
    fn body(&mut self, call: &NodeProto, f: FunctionProto) -> Vec<NodeProto> {
        let prefix = if call.name().is_empty() { f.name() } else { call.name() }.to_string();
        let decoded = |a: &Attribute| match a {
            Attribute::Decoded(a) => Some((**a).clone()),
            Attribute::Encoded(bytes) => AttributeProto::decode(bytes.clone()).ok(),
        };
        let given = call.attribute.iter().filter_map(decoded);
        let defaults = f.attribute_proto.iter().cloned();
        // What a call gives comes last.
        let attributes: HashMap<String, AttributeProto> =
            defaults.chain(given).map(|a| (a.name().to_string(), a)).collect();
        let mut values: HashMap<String, String> = HashMap::new();
        for (i, input) in f.input.iter().enumerate() {
            values.insert(input.clone(), call.input.get(i).cloned().unwrap_or_default());
        }
        let mut copies = Vec::new();
        for (name, given) in f.output.iter().zip(&call.output).filter(|(_, given)| !given.is_empty()) {
            if f.input.contains(name) || values.contains_key(name) {
                let from = values[name].clone();
                let copy = NodeProto {
                    input: vec![from],
                    output: vec![given.clone()],
                    op_type: Some("Identity".into()),
                    ..Default::default()
                };
                copies.push(copy);
            } else {
                values.insert(name.clone(), given.clone());
            }
        }
        let mut nodes = f.node;
        self.rename(&mut nodes, &prefix, &mut values, &attributes);
        nodes.extend(copies);
        nodes
    }

    /// Gives nodes of a function the names of a call, and values to the attributes that it names.
    fn rename(
        &mut self,
        nodes: &mut [NodeProto],
        prefix: &str,
        values: &mut HashMap<String, String>,
        attributes: &HashMap<String, AttributeProto>,
    ) {
        for node in nodes {
            for name in node.input.iter_mut().filter(|name| !name.is_empty()) {
                *name = values.get(name).cloned().unwrap_or_default();
            }
            for name in node.output.iter_mut().filter(|name| !name.is_empty()) {
                *name = self.named(name, prefix, values);
            }
            if !node.name().is_empty() {
                node.name = Some(self.fresh(format!("{prefix}/{}", node.name())));
            }
            let refers = |a: &Attribute| match a {
                Attribute::Decoded(a) if !a.ref_attr_name().is_empty() => {
                    let own = attributes.get(a.ref_attr_name())?.clone();
                    Some(AttributeProto { name: a.name.clone(), ref_attr_name: None, ..own }.into())
                }
                a => Some(a.clone()),
            };
            node.attribute = node.attribute.iter().filter_map(refers).collect();
            for graph in node.attribute.iter_mut().flat_map(graphs) {
                let mut inner = values.clone();
                for input in &mut graph.input {
                    input.name = Some(self.named(input.name(), prefix, &mut inner));
                }
                for tensor in &mut graph.initializer {
                    tensor.name = Some(self.named(tensor.name(), prefix, &mut inner));
                }
                self.rename(&mut graph.node, prefix, &mut inner, attributes);
                for output in &mut graph.output {
                    output.name = Some(inner.get(output.name()).cloned().unwrap_or_default());
                }
                graph.value_info.clear();
            }
        }
    }

    /// The name of a value that a function defines.
    fn named(&mut self, name: &str, prefix: &str, values: &mut HashMap<String, String>) -> String {
        if let Some(known) = values.get(name) {
            return known.clone();
        }
        let new = self.fresh(format!("{prefix}/{name}"));
        values.insert(name.to_string(), new.clone());
        new
    }
}

fn graphs(a: &mut Attribute) -> Vec<&mut GraphProto> {
    match a {
        Attribute::Decoded(a) => a.g.as_deref_mut().into_iter().chain(&mut a.graphs).collect(),
        Attribute::Encoded(_) => Vec::new(),
    }
}
