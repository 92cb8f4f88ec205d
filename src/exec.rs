//! Running a network: the one place that knows tract.
//!
//! It reads the *file*, not our graph, so what it says of an emitted model is said by an independent judge. Networks of
//! half precision (f16, bf16) are computed in f32, and what goes in and comes out has the types of the file.

mod latency;
pub mod plans;
mod prepare;
mod spelled_out;
pub mod stream;

pub use latency::latencies;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tract_onnx::Onnx;
use tract_onnx::model::ParseResult;
use tract_onnx::ops::logic::If;
use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::infer::{DimFact, Factoid};
use tract_onnx::tract_hir::internal::DimLike;

use crate::data::{Array, Dataset, Dtype, InputSpec, Normalise};
use crate::error::{Error, Result, quietly};
use crate::ir::{Graph, Model};
use crate::onnx;
use stream::StreamRun;

/// A model file as tract understands it, not yet bound to shapes.
pub struct Network {
    path: PathBuf,
    parsed: ParseResult,
    inputs: Vec<InputSpec>,
    outputs: Vec<String>,
    /// For each output the type of half precision that it has in the file, if it has one.
    rounded_to: Vec<Option<Dtype>>,
    files: Vec<PathBuf>,
    /// Whether the file has numbers of half precision.
    widened: bool,
}

/// What tract infers of the values of a model, by name: the dtype, and the dims unless the rank is unknown. A dim is a
/// number, an expression in symbols (`N`, `2*N`) or `?`. Values of which nothing is known are left out.
pub type ValueTypes = BTreeMap<String, (String, Option<Vec<String>>)>;

impl Network {
    /// Reads a model. Fails if tract cannot parse it or has no such dtype (sub-byte and float8 tensors, sparse initializers).
    pub fn load(path: &Path) -> Result<Network> {
        Network::parse(path, |onnx| onnx.proto_model_for_path(path))
    }

    /// Reads a model from memory; `name` is what errors call it. Fails as [`Network::load`].
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Network> {
        Network::parse(Path::new(name), |onnx| onnx.proto_model_for_read(&mut &*bytes))
    }

    /// A model of ours as tract reads it; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn of_model(name: &str, model: &Model) -> Result<Network> {
        Network::from_bytes(name, &onnx::to_bytes(&*model.nested()?)?)
    }

    fn parse(path: &Path, read: impl FnOnce(&Onnx) -> TractResult<pb::ModelProto>) -> Result<Network> {
        // Declared shapes of inner values may carry a symbolic batch that contradicts the batch the plan is made for.
        let onnx = tract_onnx::onnx().with_ignore_value_info(true);
        let dir = path.parent().and_then(Path::to_str);
        let mut files = vec![path.to_owned()];
        let (outputs, rounded_to, narrow, widened, parsed) = guarded(|| {
            let mut proto = read(&onnx)?;
            let standard = proto.opset_import.iter().find(|o| matches!(o.domain.as_str(), "" | "ai.onnx"));
            let opset = standard.map_or(0, |o| o.version);
            let graph = proto.graph.get_or_insert_default();
            external_files(graph, path.parent().unwrap_or(Path::new("")), &mut files);
            let outputs: Vec<String> = graph.output.iter().map(|o| o.name.clone()).collect();
            let rounded_to: Vec<_> = graph.output.iter().map(prepare::declared).collect();
            let narrow = graph.input.iter().filter_map(|i| Some((i.name.clone(), prepare::declared(i)?)));
            let narrow: HashMap<String, Dtype> = narrow.collect();
            let widened = prepare::prepare(graph, opset, dir)?;
            Ok((outputs, rounded_to, narrow, widened, Onnx::parse(&onnx, &proto, dir)?))
        })
        .map_err(|e| failed(path, "read", e))?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            let why = format!("nothing in the graph that tract can read makes the value `{name}`");
            return Err(Error::input(format!("tract cannot read {}", path.display())).because(why));
        }
        let inputs = parsed.model.inputs.iter().map(|&outlet| input_spec(&parsed.model, outlet));
        let inputs = inputs.collect::<Result<Vec<_>, _>>().map_err(|e| failed(path, "run", e))?;
        let inputs = inputs.into_iter().map(|spec| match narrow.get(&spec.name) {
            Some(&dtype) => InputSpec { dtype, ..spec },
            None => spec,
        });
        Ok(Network { path: path.to_owned(), inputs: inputs.collect(), parsed, outputs, rounded_to, files, widened })
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Inputs that must be given, in the model's order; initializers are not among them.
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// Names of the outputs, in the model's order.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// A warning of a network of half precision: it is computed in f32, and only its outputs are rounded.
    pub fn widened(&self) -> Option<String> {
        let what = "it has numbers of half precision: it is computed in f32 here, and only its outputs are rounded";
        self.widened.then(|| format!("{}: {what}", self.path.display()))
    }

    /// The model's file and those of its external data.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Plans the model for inputs of exactly these shapes, one an input. Concrete shapes make tract two to six times
    /// faster than symbolic ones.
    pub fn runner(&self, shapes: &[Vec<usize>]) -> Result<Runner> {
        self.plan(shapes, true)
    }

    /// Runs once, as the file has it: optimizing a plan takes longer than a small model's run.
    pub fn run(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let shapes: Vec<_> = inputs.iter().map(|array| array.shape().to_vec()).collect();
        self.plan(&shapes, false)?.run(inputs)
    }

    /// Runs on all samples in order and feeds back what is to be fed back; what it gives is kept if `answers`.
    ///
    /// # Errors
    /// As [`stream::run_stream`].
    pub fn stream(&self, data: &Dataset, normalise: &Normalise, answers: bool) -> Result<StreamRun> {
        stream::run_stream(data, normalise, (&self.inputs, &self.outputs), answers, |first| {
            let shapes: Vec<_> = first.iter().map(|array| array.shape().to_vec()).collect();
            let runner = self.runner(&shapes)?;
            Ok(Box::new(move |inputs| runner.run(inputs)))
        })
    }

    fn plan(&self, shapes: &[Vec<usize>], optimize: bool) -> Result<Runner> {
        let mut model = self.shaped(shapes)?;
        let plan = guarded(|| analysed(&mut model, false)).and_then(|()| {
            guarded(|| {
                inline_ifs(&mut model)?;
                if optimize { model.into_optimized()?.into_runnable() } else { model.into_typed()?.into_runnable() }
            })
        });
        let plan = plan.map_err(|e| failed(&self.path, "run", e))?;
        Ok(Runner {
            path: self.path.clone(),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            rounded_to: self.rounded_to.clone(),
            plan,
        })
    }

    /// Infers shapes and dtypes of all values, as far as tract gets, from the inputs as the model declares them or from
    /// the given shapes. The second part is what stopped it, if anything did.
    pub fn analyse(&self, shapes: Option<&[Vec<usize>]>) -> Result<(ValueTypes, Option<Error>)> {
        let mut model = shapes.map_or_else(|| Ok(self.parsed.model.clone()), |shapes| self.shaped(shapes))?;
        let stopped = guarded(|| analysed(&mut model, true)).err().map(|e| failed(&self.path, "analyse", e));
        let values = self.parsed.outlets_by_name.iter().filter_map(|(name, &outlet)| {
            let fact = model.outlet_fact(outlet).ok()?;
            let dtype = fact.datum_type.concretize()?;
            let dtype = dtype_of(dtype).map_or_else(|| format!("{dtype:?}").to_lowercase(), |d| d.to_string());
            let dims = fact.shape.dims().map(|d| d.concretize().map_or("?".into(), |d| d.to_string())).collect();
            Some((name.clone(), (dtype, (!fact.shape.is_open()).then_some(dims))))
        });
        Ok((values.collect(), stopped))
    }

    /// The model with inputs of these shapes.
    fn shaped(&self, shapes: &[Vec<usize>]) -> Result<InferenceModel> {
        let refuse = |why: String| Error::input(format!("tract cannot run {}", self.path.display())).because(why);
        if shapes.len() != self.inputs.len() {
            return Err(refuse(format!("it has {} inputs and {} are given", self.inputs.len(), shapes.len())));
        }
        let mut model = self.parsed.model.clone();
        for (i, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            let fits = |dims: &Vec<Option<usize>>| {
                dims.len() == shape.len()
                    && dims.iter().zip(shape).all(|(want, has)| want.is_none_or(|want| want == *has))
            };
            if shape.contains(&0) || !input.dims.as_ref().is_none_or(fits) {
                return Err(refuse(format!("{input} is given the shape {shape:?}")));
            }
            let fact = InferenceFact::dt_shape(datum_type(input.dtype), shape);
            model.set_input_fact(i, fact).map_err(|e| failed(&self.path, "run", e))?;
        }
        Ok(model)
    }
}

/// A model ready to run on inputs of fixed shapes; shared freely between threads. It keeps no state from run to run.
pub struct Runner {
    path: PathBuf,
    inputs: Vec<InputSpec>,
    outputs: Vec<String>,
    rounded_to: Vec<Option<Dtype>>,
    plan: Arc<TypedRunnableModel>,
}

impl Runner {
    /// A graph of ours, or a part of one, ready to run on inputs of these shapes; `shell` is what surrounds it in its file,
    /// and `name` is what errors call it.
    ///
    /// # Errors
    /// If tract cannot run it.
    pub fn of_graph(name: &str, graph: Graph, shell: &Model, shapes: &[Vec<usize>]) -> Result<Runner> {
        let shell = Model { graph, ir_version: shell.ir_version.max(4), ..shell.clone() };
        let bytes = onnx::to_bytes(&shell)?;
        drop(shell);
        Network::from_bytes(name, &bytes)?.runner(shapes)
    }

    /// What [`Runner::run`] takes.
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// Names of the outputs, in the order of what [`Runner::run`] gives.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Runs once. The arrays must have the dtypes and shapes that the plan was made for.
    pub fn run(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        guarded(|| {
            let inputs = inputs.iter().map(|array| Ok(to_tract(array)?.into_tvalue())).collect::<TractResult<_>>()?;
            let given = self.plan.run(inputs)?;
            given.iter().zip(&self.rounded_to).map(|(tensor, &to)| from_tract(tensor, to)).collect()
        })
        .map_err(|e| failed(&self.path, "run", e))
    }

    /// The operators of the optimized plan in the order they run, by tract's names; a constant comes with its type, as
    /// `Const f32[20,1,5,5]`, or just `Const` if it is packed for a matrix product.
    pub fn plan_ops(&self) -> Vec<String> {
        let model = self.plan.model();
        let order = model.eval_order().unwrap_or_else(|_| (0..model.nodes().len()).collect());
        let ops = order.into_iter().map(|id| {
            let node = model.node(id);
            match node.op_as::<Const>().map(|constant| from_tract(constant.val(), None)) {
                Some(Ok(array)) => format!("Const {array}"),
                _ => node.op().name().into_owned(),
            }
        });
        ops.collect()
    }
}

/// Puts the branch that an `If` takes in its place, where its condition is already known. tract itself does so only after
/// it has refused branches of different shapes, and two `If` nodes in one graph: exporters write both behind tests of a
/// shape.
fn inline_ifs(model: &mut InferenceModel) -> TractResult<()> {
    // Nodes are added at the end, so that an `If` inside a branch has its turn too.
    let mut id = 0;
    while id < model.nodes().len() {
        let node = model.node(id).clone();
        id += 1;
        let (Some(op), Some(&condition)) = (node.op_as::<If>(), node.inputs.first()) else { continue };
        let Some(condition) = model.outlet_fact(condition)?.value.concretize() else { continue };

        // The values that a body captures are its inputs; the node takes those of both, sorted, after the condition.
        let captures = |body: &InferenceModel| body.inputs.iter().map(|o| body.node(o.node).name.clone()).collect();
        let (then_names, else_names): (Vec<String>, Vec<String>) = (captures(&op.then_body), captures(&op.else_body));
        let all: BTreeSet<&String> = then_names.iter().chain(&else_names).collect();
        let captured: HashMap<&String, OutletId> = all.into_iter().zip(node.inputs[1..].iter().copied()).collect();
        let (body, names) = match condition.cast_to_scalar::<bool>()? {
            true => (&op.then_body, &then_names),
            false => (&op.else_body, &else_names),
        };

        let mut placed: HashMap<OutletId, OutletId> = HashMap::new();
        for (source, name) in body.inputs.iter().zip(names) {
            placed.insert(*source, captured[name]);
        }
        for inner in body.eval_order()? {
            let inner = body.node(inner);
            if placed.contains_key(&OutletId::new(inner.id, 0)) {
                continue;
            }
            let facts = inner.outputs.iter().map(|output| output.fact.clone()).collect();
            let new = model.add_node(format!("{}.{}", node.name, inner.name), inner.op.clone(), facts)?;
            for (slot, input) in inner.inputs.iter().enumerate() {
                model.add_edge(placed[input], InletId::new(new, slot))?;
            }
            for slot in 0..inner.outputs.len() {
                placed.insert(OutletId::new(inner.id, slot), OutletId::new(new, slot));
            }
        }
        for (slot, (output, result)) in node.outputs.iter().zip(&body.outputs).enumerate() {
            let new = placed[result];
            for &inlet in &output.successors {
                model.add_edge(new, inlet)?;
            }
            let old = OutletId::new(node.id, slot);
            model.outputs.iter_mut().filter(|o| **o == old).for_each(|o| *o = new);
        }
    }
    Ok(())
}

/// Files that tensors of the graph and of its subgraphs lie in, each once, as far as they name a relative path.
fn external_files(graph: &pb::GraphProto, dir: &Path, files: &mut Vec<PathBuf>) {
    let attributes = || graph.node.iter().flat_map(|node| &node.attribute);
    let tensors = attributes().flat_map(|a| a.t.iter().chain(&a.tensors));
    for entry in graph.initializer.iter().chain(tensors).flat_map(|t| &t.external_data) {
        let file = dir.join(&entry.value);
        if entry.key == "location" && !files.contains(&file) {
            files.push(file);
        }
    }
    for body in attributes().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        external_files(body, dir, files);
    }
}

fn input_spec(model: &InferenceModel, outlet: OutletId) -> TractResult<InputSpec> {
    let fact = model.outlet_fact(outlet)?;
    let name = model.node(outlet.node).name.clone();
    let Some(dtype) = fact.datum_type.concretize().and_then(dtype_of) else {
        return Err(TractError::msg(format!("input `{name}` is of a type that tensors of numbers cannot feed")));
    };
    let dim = |d: &DimFact| d.concretize()?.to_usize().ok();
    let dims = (!fact.shape.is_open()).then(|| fact.shape.dims().map(dim).collect());
    Ok(InputSpec { name, dtype, dims })
}

fn to_tract(array: &Array) -> TractResult<Tensor> {
    let wide = match array.dtype() {
        Dtype::F16 | Dtype::Bf16 => Some(array.cast(Dtype::F32).map_err(|e| TractError::msg(e.reason()))?),
        _ => None,
    };
    let mut tensor = Tensor::zero_dt(datum_type(array.dtype()), array.shape())?;
    tensor.try_as_plain_ram_mut()?.as_bytes_mut().copy_from_slice(wide.as_ref().unwrap_or(array).bytes());
    Ok(tensor)
}

/// A value, in the type `rounded_to`, if there is one.
fn from_tract(tensor: &Tensor, rounded_to: Option<Dtype>) -> TractResult<Array> {
    let unknown = || TractError::msg(format!("a value is of type {:?}, which is no plain number", tensor.datum_type()));
    let dtype = dtype_of(tensor.datum_type()).ok_or_else(unknown)?;
    let plain = tensor.cast_to_dt(datum_type(dtype))?;
    let bytes = plain.try_as_plain_ram()?.as_bytes().to_vec();
    let array = Array::new(dtype, tensor.shape().to_vec(), bytes);
    let array = array.and_then(|array| rounded_to.map_or(Ok(array.clone()), |to| array.cast(to)));
    array.map_err(|e| TractError::msg(e.to_string()))
}

/// The type that tract computes with where the file has this one.
fn datum_type(dtype: Dtype) -> DatumType {
    match dtype {
        Dtype::Bool => DatumType::Bool,
        Dtype::U8 => DatumType::U8,
        Dtype::I8 => DatumType::I8,
        Dtype::U16 => DatumType::U16,
        Dtype::I16 => DatumType::I16,
        Dtype::U32 => DatumType::U32,
        Dtype::I32 => DatumType::I32,
        Dtype::U64 => DatumType::U64,
        Dtype::I64 => DatumType::I64,
        Dtype::F16 | Dtype::Bf16 | Dtype::F32 => DatumType::F32,
        Dtype::F64 => DatumType::F64,
    }
}

/// The ONNX dtype behind tract's: its dimensions are ONNX's int64.
fn dtype_of(datum_type: DatumType) -> Option<Dtype> {
    Some(match datum_type {
        DatumType::Bool => Dtype::Bool,
        DatumType::U8 => Dtype::U8,
        DatumType::I8 => Dtype::I8,
        DatumType::U16 => Dtype::U16,
        DatumType::I16 => Dtype::I16,
        DatumType::U32 => Dtype::U32,
        DatumType::I32 => Dtype::I32,
        DatumType::U64 => Dtype::U64,
        DatumType::I64 | DatumType::TDim => Dtype::I64,
        DatumType::F16 | DatumType::F32 => Dtype::F32,
        DatumType::F64 => Dtype::F64,
        _ => return None,
    })
}

/// What is said where tract panics.
const BUG: &str = "tract breaks off here, by a bug of its own or because the model contradicts itself";

/// Runs a piece of tract, a panic of which becomes an error and is not printed.
fn guarded<T>(f: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    quietly(f).unwrap_or_else(|_| Err(TractError::msg(BUG)))
}

/// Infers all types and shapes. Where tract panics the error names the node at which it does.
fn analysed(model: &mut InferenceModel, obstinate: bool) -> TractResult<()> {
    if let Ok(done) = quietly(|| model.analyse(obstinate).map(drop)) {
        return done;
    }
    let infers = |n: usize| -> TractResult<()> {
        let node = model.node(n);
        let (inputs, outputs) = model.node_facts(n)?;
        let observed = node.op.observe_outlets(model, node)?;
        let observed = observed.iter().map(|&o| model.outlet_fact(o)).collect::<TractResult<_>>()?;
        node.op.clone().infer(inputs, outputs, observed).map(drop)
    };
    let order = guarded(|| model.eval_order()).unwrap_or_default();
    let culprit = order.into_iter().find(|&n| quietly(|| infers(n)).is_err());
    let bug = TractError::msg(BUG);
    Err(match culprit {
        Some(n) => bug.context(format!("Failed analyse for node {}", model.node(n))),
        None => bug,
    })
}

/// tract's error in our shape: its causes in one line each, the node pulled out if it names one.
fn failed(path: &Path, doing: &str, e: TractError) -> Error {
    const LONGEST: usize = 200;
    let causes: Vec<String> = e.chain().map(|cause| cause.to_string()).collect();
    // A node is written `#12 "conv1" Conv`.
    let node = causes.iter().rev().find_map(|cause| {
        let (_, rest) = cause.split_once('#')?;
        let (number, rest) = rest.split_once(" \"")?;
        number.parse::<usize>().ok()?;
        rest.split_once('"').map(|(name, _)| name.to_owned())
    });
    let short = causes.iter().map(|cause| {
        let line = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    });
    let because = short.collect::<Vec<_>>().join("\n           ");
    let error = Error::input(format!("tract cannot {doing} {}", path.display())).because(because);
    match node {
        Some(node) => error.at(format!("node \"{node}\"")),
        None => error,
    }
}
