//! Cascades: a small network answers what it is sure of, a big one the rest.

use super::observe::{KeptAxes, SampleFeed, observe};
use super::{asks, heads, judge};
use crate::analysis::classifier;
use crate::analysis::cost::cost;
use crate::error::{Error, Result};
use crate::ir::{DType, Exit, Graph, Model, NodeId, Patch, Source, Tensor, Value, ValueId};
use crate::math::thresholds::{ExitStatistics, ExitTrial};
use std::collections::{HashMap, HashSet};

/// Both networks in one, and what the data says of them.
#[derive(Debug)]
pub struct Cascade {
    pub model: Model,
    pub course: ExitStatistics,
    /// Share that each answers right: all of the big one's, without labels.
    pub right: (f64, f64),
    pub temperature: f64,
    /// Expected calibration error of the small one, before and after temperature scaling.
    pub error: (f64, f64),
    pub threshold: f32,
    /// Multiply-accumulates of each.
    pub macs: (u64, u64),
    pub samples: usize,
}

/// Puts `small` in front of `big`, with the threshold that saves most while at most `max_drop` (a share) of the samples is
/// answered wrong that `big` answers right, on balance. Without labels what `big` says is right.
///
/// # Errors
/// If they cannot stand in for each other, if the data cannot be run through them, or, as a missed target, if no threshold
/// saves anything.
pub fn cascade(
    small: &Model,
    big: &Model,
    source: &SampleFeed<'_>,
    max_drop: f64,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Cascade> {
    if small.graph.clone().flatten()? > 0 {
        return Err(Error::target("the small network has exits already")
            .because("they and the cascade would be asked one after the other, and their thresholds were set apart")
            .help("begin with the small network as it was before them"));
    }
    same_interface(&small.graph, &big.graph)?;
    if heads::logits(&small.graph)?.1 != heads::logits(&big.graph)?.1 {
        return Err(Error::target("the two networks cannot stand in for each other")
            .because("one gives probabilities, the other logits")
            .help("give networks that both end in a Softmax, or both do not"));
    }
    let n = source.count();
    let see = |model: &Model, before: usize| {
        let (end, _) = heads::logits(&model.graph)?;
        let seen = observe(model, &[(end, KeptAxes::Nothing)], source, &|done| progress(before + done, 2 * n))?;
        Ok::<_, Error>(seen.into_iter().next().unwrap_or_default().mapv(f64::from))
    };
    let (first, last) = (see(small, 0)?, see(big, n)?);
    if first.dim() != last.dim() {
        return Err(Error::target("the two networks cannot stand in for each other").because(format!(
            "the small one has {} classes, the big one {}",
            first.ncols(),
            last.ncols()
        )));
    }
    let (_, answers) = judge(last.view(), 1.0);
    let truth = source.labels.clone().unwrap_or_else(|| answers.clone());
    if let Some(i) = truth.iter().position(|&label| label >= first.ncols()) {
        return Err(Error::input(format!("label {} of sample {i} is not a class of the models", truth[i]))
            .because(format!("they have {} classes", first.ncols())));
    }
    let temperature = heads::fit_temperature(&first, &truth) as f32;
    let rated = |t: f64| heads::rate(&first, t, &truth);
    let (before, ..) = rated(1.0);
    let (after, confidence, right) = rated(f64::from(temperature));
    let macs = |model: &Model| {
        let names = model.graph.required_inputs().map(|v| model.graph.value(v).name.clone());
        let sized = model.graph.at_sizes(&names.zip(source.shapes()).collect::<Vec<_>>())?;
        cost(&sized).macs.ok_or_else(|| Error::target("cannot tell what the networks cost"))
    };
    let macs = (macs(small)?, macs(big)?);
    let whole: Vec<bool> = answers.iter().zip(&truth).map(|(a, b)| a == b).collect();
    let share = |right: &[bool]| right.iter().filter(|&&r| r).count() as f64 / n.max(1) as f64;
    let shares = (share(&right), share(&whole));
    let trial = ExitTrial {
        confidence: vec![confidence],
        right: vec![right, whole],
        cost: vec![macs.0 as f64, (macs.0 + macs.1) as f64],
        asking: vec![0.0],
    };
    let threshold = trial.thresholds(max_drop)[0];
    let course = trial.course(&[threshold]);
    if course.cost >= macs.1 as f64 {
        return Err(Error::target("the cascade saves nothing").because(format!(
            "at {:.2} points less than the big network's {:.2} %, the small one answers {:.1} % of {n} samples, and the mean cost is {:.2} of the big network's",
            100.0 * max_drop,
            100.0 * shares.1,
            100.0 * course.shares[0],
            course.cost / macs.1 as f64
        ))
        .help("allow a larger --max-drop, or give a smaller or better small network"));
    }
    let model = join(small, big, temperature, threshold)?;
    Ok(Cascade {
        model,
        course,
        right: shares,
        temperature: f64::from(temperature),
        error: (before, after),
        threshold,
        macs,
        samples: n,
    })
}

/// Whether one can take the place of the other.
fn same_interface(small: &Graph, big: &Graph) -> Result<()> {
    let told = |g: &Graph, v: ValueId| {
        let ty = g.value(v).ty.as_ref().map_or("?".into(), ToString::to_string);
        format!("\"{}\" {ty}", g.value(v).name)
    };
    let refuse = |what: &str, s: Vec<String>, b: Vec<String>| {
        Err(Error::target("the two networks cannot stand in for each other")
            .because(format!("their {what} differ: the small one has {}, the big one {}", s.join(", "), b.join(", ")))
            .help("give networks with the same inputs and outputs"))
    };
    for (what, s, b) in [
        ("inputs", small.runtime_inputs().collect::<Vec<_>>(), big.runtime_inputs().collect::<Vec<_>>()),
        ("outputs", small.outputs().to_vec(), big.outputs().to_vec()),
    ] {
        let same = |(&s, &b): (&ValueId, &ValueId)| {
            let (s, b) = (small.value(s), big.value(b));
            s.name == b.name && s.ty.as_ref().zip(b.ty.as_ref()).is_none_or(|(s, b)| alike(s, b))
        };
        if s.len() != b.len() || !s.iter().zip(&b).all(same) {
            let list = |g, vs: Vec<ValueId>| vs.into_iter().map(|v| told(g, v)).collect();
            return refuse(what, list(small, s), list(big, b));
        }
    }
    if small.opset != big.opset {
        return Err(Error::target("the two networks cannot be put into one file")
            .because(format!("the small one is of opset {}, the big one of opset {}", small.opset, big.opset))
            .help("export or convert one of them to the opset of the other"));
    }
    Ok(())
}

/// Whether the small network's type takes whatever the big one's does: dims agree but for their names, and none is fixed that
/// is open there.
fn alike(a: &crate::ir::Type, b: &crate::ir::Type) -> bool {
    let dims = |t: &crate::ir::Type| t.shape().map(|s| s.0.iter().map(|d| d.known()).collect::<Vec<_>>());
    let fits = |(a, b): (Vec<Option<u64>>, Vec<Option<u64>>)| {
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.is_none() || a == b)
    };
    a.dtype() == b.dtype() && dims(a).zip(dims(b)).is_none_or(fits)
}

/// One model of both, whose first exit is the small one's answer.
fn join(small: &Model, big: &Model, temperature: f32, threshold: f32) -> Result<Model> {
    let mut model = big.clone();
    for (domain, version) in &small.opsets {
        match model.opsets.iter().find(|o| o.0 == *domain) {
            None => model.opsets.push((domain.clone(), *version)),
            Some((_, other)) if other == version => {}
            Some((_, other)) => {
                return Err(Error::target("the two networks cannot be put into one file").because(format!(
                    "the small one has version {version} of the operators \"{domain}\", the big one {other}"
                )));
            }
        }
    }
    let g = &mut model.graph;
    let answer = copy(&small.graph, g)?;
    let (_, softmaxed) = heads::logits(&small.graph)?;
    let Some((node, _)) = g.producer(answer) else { return Err(Error::internal("an answer that nothing computes")) };
    let mut patch = Patch::at_node(g, node);
    // Probabilities take no temperature: the logits behind them would.
    let scores = match softmaxed && temperature != 1.0 {
        true => (classifier::logits(g, answer), false),
        false => (answer, softmaxed),
    };
    let sure = asks(g, &mut patch, "exit", scores.0.into(), scores.1, temperature, threshold);
    let sure = g.apply(patch)?.value(sure);
    g.add_exit(Exit { answer, sure });
    Ok(model)
}

/// Puts a graph's nodes into another that has the same inputs, and gives what its output became. Constants that the other
/// has too are shared.
fn copy(from: &Graph, to: &mut Graph) -> Result<ValueId> {
    type ConstantKey = (DType, Vec<usize>, bytes::Bytes);
    let key = |t: &Tensor| -> Option<ConstantKey> { Some((t.dtype(), t.shape().to_vec(), t.bytes()?.clone())) };
    let mut known: HashMap<ConstantKey, ValueId> = HashMap::new();
    for v in to.values().collect::<Vec<_>>() {
        if let Some(k) = to.value(v).constant().and_then(key) {
            known.entry(k).or_insert(v);
        }
    }
    let mut taken: HashSet<String> = to.all_names();
    taken.extend(from.all_names());
    let mut here: HashMap<ValueId, ValueId> = HashMap::new();
    for v in from.values() {
        let value = from.value(v);
        let shared = match &value.source {
            Source::Constant(tensor, _) => key(tensor).and_then(|k| known.get(&k).copied()),
            Source::Input { .. } => to.find_value(&value.name),
            _ => None,
        };
        let there = match shared {
            Some(there) => there,
            None => {
                let name = match to.is_free(&value.name) {
                    true => value.name.clone(),
                    false => (1..)
                        .map(|i| format!("small{}.{}", if i > 1 { i.to_string() } else { String::new() }, value.name))
                        .find(|name| taken.insert(name.clone()))
                        .unwrap_or_default(),
                };
                to.add_value(Value { name, pinned: false, listing: Default::default(), ..value.clone() })?
            }
        };
        here.insert(v, there);
    }
    for n in from.topological()? {
        let map = |slots: Vec<Option<ValueId>>| slots.into_iter().map(|v| v.map(|v| here[&v])).collect::<Vec<_>>();
        let (reads, makes) = (map(from.node_inputs(n)), map(from.node_outputs(n)));
        let mut node = from.node(n).clone();
        if to.free_node_name(&node.name) != node.name {
            node.name = to.free_node_name(&format!("small.{}", node.name));
        }
        let id: NodeId = to.add_node(node, 0, &reads, &makes);
        from.node_captures(n).into_iter().for_each(|(b, i, v)| to.connect_capture(id, b, i, here[&v]));
    }
    to.separate_names();
    to.infer_all()?;
    from.outputs().first().and_then(|v| here.get(v)).copied().ok_or_else(|| Error::internal("a network without output"))
}
