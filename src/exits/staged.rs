//! A network with exits as several files: one a stage, and a manifest that says how they chain.

use super::heads::MOST_EXITS;
use crate::analysis::cost::cost;
use crate::error::{Error, Result, io, read_text};
use crate::files::Atomic;
use crate::ir::{Graph, Model, NodeId, Shape, Type, ValueId};
use crate::onnx::{self, SaveOptions};
use crate::plain;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version of the manifest's form.
const VERSION: u32 = 1;

/// `NAME.stages.json`: run the stages in order until one is sure of its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    /// Of the whole network; a stage need not read them.
    pub inputs: Vec<String>,
    /// The name that the network's answer has.
    pub output: String,
    pub stages: Vec<Stage>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Beside the manifest.
    pub file: String,
    /// What it reads: inputs of the network, and outputs of earlier stages by the same name.
    pub inputs: Vec<String>,
    /// The output that answers; the last stage always does.
    pub answer: String,
    /// A number, the output that says how sure the answer is: it holds if that is greater than `threshold`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub confidence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threshold: Option<f32>,
    /// Outputs that later stages read.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub passes_on: Vec<String>,
    /// Multiply-accumulates of this stage for one sample, where they are known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub macs: Option<u64>,
}

impl Manifest {
    /// # Errors
    /// If the file cannot be read or is no manifest.
    pub fn load(path: &Path) -> Result<Manifest> {
        let text = read_text("read", path)?;
        let refuse = |why: String| {
            Error::input(format!("{} is no manifest of stages", path.display()))
                .because(why)
                .help("give the .stages.json that `--stages` wrote")
        };
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
        if manifest.version != VERSION {
            return Err(refuse(format!("its version is {}, and {VERSION} is known", manifest.version)));
        }
        let Some((last, early)) = manifest.stages.split_last() else { return Err(refuse("it has no stages".into())) };
        let asked = |s: &Stage| s.confidence.is_some() && s.threshold.is_some_and(f32::is_finite);
        if last.confidence.is_some() || !early.iter().all(asked) {
            return Err(refuse("every stage but the last has a confidence and a threshold".into()));
        }
        let local =
            |s: &Stage| Path::new(&s.file).components().count() == 1 && Path::new(&s.file).file_name().is_some();
        match manifest.stages.iter().find(|s| !local(s)) {
            Some(stage) => Err(refuse(format!("its file \"{}\" does not lie beside it", stage.file))),
            None => Ok(manifest),
        }
    }
}

/// The stages of a network with exits, without the names of their files.
///
/// # Errors
/// Internal ones only.
pub fn stages(model: &Model) -> Result<Vec<(Model, Stage)>> {
    let g = &model.graph;
    let (levels, order) = (g.levels()?, g.topological()?);
    let &[output] = g.outputs() else { return Err(Error::internal("exits answer for one output")) };
    let questions: HashSet<NodeId> = g.exits().iter().filter_map(|e| Some(g.producer(e.sure)?.0)).collect();
    let level = |n: NodeId| levels.get(&n).copied().unwrap_or(0);
    let mut out = Vec::new();
    for stage in 0..=g.exits().len() {
        let nodes: Vec<NodeId> =
            order.iter().copied().filter(|n| level(*n) == stage && !questions.contains(n)).collect();
        let mut inputs: Vec<ValueId> = Vec::new();
        let mut passed: Vec<ValueId> = Vec::new();
        for &n in &nodes {
            let captured = g.node_captures(n).into_iter().map(|c| c.2);
            for v in g.node_inputs(n).into_iter().flatten().chain(captured) {
                let own = g.producer(v).is_some_and(|(from, _)| level(from) == stage);
                if !own && g.value(v).constant().is_none() && !inputs.contains(&v) {
                    inputs.push(v);
                }
            }
            let later = |v: &ValueId| g.readers(*v).any(|r| level(r) > stage);
            passed.extend(g.node_outputs(n).into_iter().flatten().filter(later));
        }
        let exit = g.exits().get(stage);
        let answer = exit.map_or(output, |e| e.answer);
        let asked =
            exit.map(|&e| g.threshold(e).ok_or_else(|| Error::internal("an exit without a threshold"))).transpose()?;
        let mut ends = vec![answer];
        ends.extend(asked.map(|a| a.0));
        ends.extend(passed.iter().copied().filter(|v| !ends.contains(v)).collect::<Vec<_>>());
        let names = |vs: &[ValueId]| vs.iter().map(|&v| g.value(v).name.clone()).collect::<Vec<_>>();
        let part = extract(g, &nodes, &inputs, &ends)?;
        let macs = cost(&part).macs;
        let entry = Stage {
            file: String::new(),
            inputs: names(&inputs),
            answer: g.value(answer).name.clone(),
            confidence: asked.map(|a| g.value(a.0).name.clone()),
            threshold: asked.map(|a| a.1),
            passes_on: names(&passed),
            macs,
        };
        out.push((Model { graph: part, ir_version: model.ir_version.max(4), ..model.clone() }, entry));
    }
    Ok(out)
}

/// Part of a graph, with the types that its ends have in the whole.
fn extract(g: &Graph, nodes: &[NodeId], inputs: &[ValueId], ends: &[ValueId]) -> Result<Graph> {
    let ty =
        |v: ValueId| g.value(v).ty.clone().or_else(|| Some(Type::tensor(crate::ir::DType::F32, Shape(Vec::new()))));
    let typed: Vec<(ValueId, Type)> = inputs.iter().filter_map(|&v| Some((v, ty(v)?))).collect();
    let mut part = g.extract(nodes, &typed, &HashMap::new(), ends)?;
    part.infer_all()?;
    Ok(part)
}

/// Writes `NAME.stage0.onnx`, … and `NAME.stages.json` beside their places, next to the model's own, for
/// [`crate::files::commit`] to rename. The manifest comes last.
///
/// # Errors
/// If writing fails.
pub fn prepare(model: &Model, beside: &Path) -> Result<Vec<Atomic>> {
    let mut files = Vec::new();
    let mut entries: Vec<Stage> = Vec::new();
    let stages = stages(model)?;
    if stages.len() > MOST_EXITS + 1 {
        return Err(Error::input(format!("the student has {} exits, too many for stages", stages.len() - 1))
            .because(format!("there can be {MOST_EXITS}"))
            .help("write it without --stages"));
    }
    for (i, (stage, mut entry)) in stages.into_iter().enumerate() {
        let path = file(beside, &format!("stage{i}.onnx"));
        entry.file = path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        files.push(onnx::prepare(&stage, &path, SaveOptions::default())?);
        entries.push(entry);
    }
    let g = &model.graph;
    let name = |v: ValueId| g.value(v).name.clone();
    let manifest = Manifest {
        version: VERSION,
        inputs: g.required_inputs().map(name).collect(),
        output: g.outputs().first().map_or(String::new(), |&v| name(v)),
        stages: entries,
    };
    let text = plain::json(&manifest)?;
    let mut out = Atomic::create(&file(beside, "stages.json"))?;
    out.write(|w| w.write_all(text.as_bytes()))?;
    files.push(out);
    Ok(files)
}

/// The files of an earlier run: the manifest that lies there, if it is one, and what it lists.
pub fn earlier(beside: &Path) -> Vec<PathBuf> {
    let own = files(beside);
    let Some(Ok(manifest)) = own.last().filter(|path| path.exists()).map(|path| Manifest::load(path)) else {
        return Vec::new();
    };
    let listed = |path: &PathBuf| manifest.stages.iter().any(|s| path.file_name().is_some_and(|n| *n == *s.file));
    own.iter().filter(|path| listed(path) || own.last() == Some(*path)).cloned().collect()
}

/// Removes files, but for those that are written now.
///
/// # Errors
/// If one cannot be removed.
pub fn remove(earlier: Vec<PathBuf>, written: &[(PathBuf, u64)]) -> Result<()> {
    let mut stale = earlier.into_iter().filter(|f| f.exists() && !written.iter().any(|w| w.0 == *f));
    stale.try_for_each(|f| std::fs::remove_file(&f).map_err(|e| io("remove", &f, &e)))
}

/// Every file that [`prepare`] may write: the manifest, and as many stages as there are exits at most.
pub fn files(beside: &Path) -> Vec<PathBuf> {
    let stages = (0..=MOST_EXITS).map(|i| file(beside, &format!("stage{i}.onnx")));
    stages.chain([file(beside, "stages.json")]).collect()
}

/// `NAME.onnx` as `NAME.SUFFIX`.
fn file(beside: &Path, suffix: &str) -> PathBuf {
    let name = beside.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    beside.with_file_name(format!("{}.{suffix}", name.strip_suffix(".onnx").unwrap_or(&name)))
}
