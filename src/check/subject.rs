//! A student as it runs: one file, or the stages of a network with exits.

use crate::analysis::cost::cost;
use crate::analysis::paths::path_macs;
use crate::data::{Array, InputSpec};
use crate::error::{Error, Result};
use crate::exec::{Network, Runner};
use crate::exits::staged::{Manifest, Stage};
use crate::ir::{Model, ValueId};
use crate::onnx;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What `check` runs, not yet bound to shapes.
pub enum Subject {
    File(Box<Network>),
    Staged { path: PathBuf, manifest: Manifest, networks: Vec<Network> },
}

impl Subject {
    /// Reads a model, or, if the path ends in `.json`, the stages that a manifest lists.
    ///
    /// # Errors
    /// If a file cannot be read, or a manifest names what its files do not have.
    pub fn load(path: &Path) -> Result<Subject> {
        if path.extension().is_none_or(|e| e != "json") {
            return Ok(Subject::File(Box::new(Network::load(path)?)));
        }
        let manifest = Manifest::load(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let networks: Vec<Network> =
            manifest.stages.iter().map(|s| Network::load(&folder.join(&s.file))).collect::<Result<_>>()?;
        let mut known = manifest.inputs.clone();
        for (stage, network) in manifest.stages.iter().zip(&networks) {
            let inputs = network.inputs().iter().map(|i| &i.name);
            let lost = inputs.clone().find(|name| !stage.inputs.contains(name) || !known.contains(name));
            let ends = [Some(&stage.answer), stage.confidence.as_ref()].into_iter().flatten().chain(&stage.passes_on);
            let lost = lost.or_else(|| ends.clone().find(|name| !network.outputs().contains(name)));
            if let Some(name) = lost {
                let why = format!("the manifest and the files differ about \"{name}\"");
                return Err(broken(path, &stage.file, why));
            }
            known.extend(network.outputs().iter().cloned());
        }
        if let Some(last) = manifest.stages.last().filter(|s| s.answer != manifest.output) {
            let why = format!("the last answer is \"{}\", and the output \"{}\"", last.answer, manifest.output);
            return Err(broken(path, &last.file, why));
        }
        Ok(Subject::Staged { path: path.to_owned(), manifest, networks })
    }

    pub fn path(&self) -> &Path {
        match self {
            Subject::File(network) => network.path(),
            Subject::Staged { path, .. } => path,
        }
    }

    /// Inputs that must be given, by name, and what is asked of them; nothing of an input that no stage reads.
    pub fn inputs(&self) -> Vec<(String, Option<InputSpec>)> {
        match self {
            Subject::File(network) => network.inputs().iter().map(|i| (i.name.clone(), Some(i.clone()))).collect(),
            Subject::Staged { manifest, networks, .. } => {
                let spec = |name: &String| networks.iter().flat_map(|n| n.inputs()).find(|i| i.name == *name).cloned();
                manifest.inputs.iter().map(|name| (name.clone(), spec(name))).collect()
            }
        }
    }

    pub fn outputs(&self) -> Vec<String> {
        match self {
            Subject::File(network) => network.outputs().to_vec(),
            Subject::Staged { manifest, .. } => vec![manifest.output.clone()],
        }
    }

    /// As [`Network::widened`].
    pub fn widened(&self) -> Option<String> {
        match self {
            Subject::File(network) => network.widened(),
            Subject::Staged { networks, .. } => networks.iter().find_map(Network::widened),
        }
    }

    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Subject::File(network) => network.files().to_vec(),
            Subject::Staged { networks, .. } => networks.iter().flat_map(|n| n.files().to_vec()).collect(),
        }
    }

    /// Plans it for inputs of these shapes. A chain is run once on `example`, which shows the shapes between stages.
    ///
    /// # Errors
    /// If tract cannot run it.
    pub fn ready(&self, shapes: &[Vec<usize>], example: impl Fn() -> Result<Vec<Array>>) -> Result<Ready> {
        let (path, manifest, networks) = match self {
            Subject::File(network) => return Ok(Ready::File(network.runner(shapes)?)),
            Subject::Staged { path, manifest, networks } => (path, manifest, networks),
        };
        let mut known: HashMap<String, Array> = manifest.inputs.iter().cloned().zip(example()?).collect();
        let mut stages = Vec::new();
        for (stage, network) in manifest.stages.iter().zip(networks) {
            let inputs: Vec<String> = network.inputs().iter().map(|i| i.name.clone()).collect();
            let shapes: Vec<Vec<usize>> = inputs.iter().map(|name| known[name].shape().to_vec()).collect();
            let runner = network.runner(&shapes)?;
            let sizes: Vec<(String, Vec<usize>)> = inputs.iter().cloned().zip(shapes).collect();
            let macs = cost(&onnx::load(network.path())?.model.graph.at_sizes(&sizes)?).macs;
            let given: Vec<Array> = inputs.iter().map(|name| known[name].clone()).collect();
            known.extend(runner.outputs().to_vec().into_iter().zip(runner.run(&given)?));
            let confidence =
                stage.confidence.as_ref().filter(|name| known[*name].shape().iter().product::<usize>() != 1);
            if let Some(name) = confidence {
                let why =
                    format!("the confidence \"{name}\" has the shape {:?}, and is to be a number", known[name].shape());
                return Err(broken(path, &stage.file, why));
            }
            stages.push(Link { stage: stage.clone(), inputs, runner, macs });
        }
        Ok(Ready::Staged { inputs: manifest.inputs.clone(), stages })
    }
}

fn broken(manifest: &Path, place: &str, why: String) -> Error {
    Error::input(format!("the stages of {} do not chain", manifest.display()))
        .at(place)
        .because(why)
        .help("write the stages again with `--stages`")
}

/// A subject that can be run, from any thread.
pub enum Ready {
    File(Runner),
    Staged { inputs: Vec<String>, stages: Vec<Link> },
}

/// One stage.
pub struct Link {
    stage: Stage,
    inputs: Vec<String>,
    runner: Runner,
    /// Multiply-accumulates of a sample.
    macs: Option<u64>,
}

impl Ready {
    /// Runs once; a chain goes as far as it takes to be sure.
    ///
    /// # Errors
    /// If tract cannot run it.
    pub fn run(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        match self {
            Ready::File(runner) => runner.run(inputs),
            Ready::Staged { .. } => {
                let mut answers = self.chain(inputs, true)?;
                Ok(answers.pop().into_iter().map(|a| a.0).collect())
            }
        }
    }

    /// The answer of every stage with its confidence; with `stop` only of those that are run until one is sure.
    fn chain(&self, inputs: &[Array], stop: bool) -> Result<Vec<(Array, f32)>> {
        let Ready::Staged { inputs: names, stages } = self else { return Ok(Vec::new()) };
        let mut known: HashMap<&str, Array> = names.iter().map(String::as_str).zip(inputs.iter().cloned()).collect();
        let mut answers = Vec::new();
        for Link { stage, inputs, runner, .. } in stages {
            let given: Vec<Array> = inputs.iter().filter_map(|name| known.get(name.as_str()).cloned()).collect();
            known.extend(runner.outputs().iter().map(String::as_str).zip(runner.run(&given)?));
            let missing = || Error::internal("a stage without its answer");
            let answer = known.get(stage.answer.as_str()).cloned().ok_or_else(missing)?;
            let confidence = match &stage.confidence {
                Some(name) => known.get(name.as_str()).and_then(|c| c.to_f32().first().copied()).ok_or_else(missing)?,
                None => f32::INFINITY,
            };
            answers.push((answer, confidence));
            if stop && stage.threshold.is_none_or(|t| confidence > t) {
                break;
            }
        }
        Ok(answers)
    }
}

/// What a network with exits says at every one of them, whether it would leave there or not.
pub struct Probe {
    run: Asked,
    pub thresholds: Vec<f32>,
    /// Names of the answers, by exit.
    pub names: Vec<String>,
    /// Multiply-accumulates of a sample by where it leaves, and last of one that goes to the end.
    pub macs: Option<Vec<u64>>,
}

enum Asked {
    /// The file with its exits taken apart: answers, then confidences, then the output.
    Flat(Runner),
    /// Its own stages.
    Stages,
}

impl Probe {
    /// `None` for a network without exits.
    ///
    /// # Errors
    /// If it cannot be read or run.
    pub fn of(subject: &Subject, shapes: &[Vec<usize>]) -> Result<Option<Probe>> {
        match subject {
            Subject::File(network) => {
                let mut model = onnx::load(network.path())?.model;
                if model.graph.flatten()? == 0 {
                    return Ok(None);
                }
                flat(model, network, shapes).map(Some)
            }
            Subject::Staged { manifest, networks, .. } => {
                let early = &manifest.stages[..networks.len() - 1];
                Ok(Some(Probe {
                    run: Asked::Stages,
                    thresholds: early.iter().filter_map(|s| s.threshold).collect(),
                    names: early.iter().map(|s| s.answer.clone()).collect(),
                    macs: None,
                }))
            }
        }
    }

    /// With what stages cost that are planned by now.
    pub fn planned(mut self, ready: &Ready) -> Probe {
        if let Ready::Staged { stages, .. } = ready {
            let add = |all: &mut u64, link: &Link| {
                *all = all.checked_add(link.macs?)?;
                Some(*all)
            };
            let through: Vec<u64> = stages.iter().scan(0, add).collect();
            self.macs = Some(through).filter(|t| t.len() == stages.len());
        }
        self
    }

    /// By exit and last of the whole network: the answer and its confidence, infinite for the last.
    ///
    /// # Errors
    /// If tract cannot run it.
    pub fn ask(&self, ready: &Ready, inputs: &[Array]) -> Result<Vec<(Array, f32)>> {
        match &self.run {
            Asked::Stages => ready.chain(inputs, false),
            Asked::Flat(runner) => {
                let outputs = runner.run(inputs)?;
                let exits = self.thresholds.len();
                let sure = |i: usize| outputs.get(exits + i).and_then(|c| c.to_f32().first().copied());
                let early = (0..exits).filter_map(|i| Some((outputs.get(i)?.clone(), sure(i)?)));
                Ok(early.chain(outputs.last().map(|o| (o.clone(), f32::INFINITY))).collect())
            }
        }
    }
}

fn flat(model: Model, network: &Network, shapes: &[Vec<usize>]) -> Result<Probe> {
    let names: Vec<(String, Vec<usize>)> =
        network.inputs().iter().map(|i| i.name.clone()).zip(shapes.iter().cloned()).collect();
    let g = &model.graph;
    let macs = path_macs(&g.at_sizes(&names)?);
    let asked: Vec<(ValueId, f32)> = g.exits().iter().filter_map(|&e| g.threshold(e)).collect();
    let answers: Vec<ValueId> = g.exits().iter().map(|e| e.answer).collect();
    let labels = answers.iter().map(|&v| g.value(v).name.clone()).collect();
    let ends: Vec<ValueId> =
        answers.into_iter().chain(asked.iter().map(|a| a.0)).chain(g.outputs().iter().copied()).collect();
    let thresholds = asked.into_iter().map(|a| a.1).collect();
    let part = g.part(&ends, shapes)?;
    let runner = Runner::of_graph(&network.path().display().to_string(), part, &model, shapes)?;
    Ok(Probe { run: Asked::Flat(runner), thresholds, names: labels, macs })
}
