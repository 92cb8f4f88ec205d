//! Heads: small classifiers on values of a network, fitted without training, and the exits that pay.

use super::observe::{KeptAxes, SampleFeed, observe};
use super::places::{Place, SizedWalk};
use super::{asks, judge, reduce};
use crate::analysis::classifier;
use crate::analysis::paths::path_macs;
use crate::data::evenly;
use crate::error::{Error, Result};
use crate::ir::op::gemm::Gemm;
use crate::ir::op::pool::{GlobalPool, Pooling};
use crate::ir::op::reduce::Reduction;
use crate::ir::op::reshape::Flatten;
use crate::ir::op::softmax::{self, Softmax};
use crate::ir::{DType, Exit, Graph, Model, Patch, Ref, Tensor, ValueId};
use crate::math::logistic::{Head, calibration_error, logistic, softmax as probabilities, temperature};
use crate::math::thresholds::{ExitStatistics, ExitTrial};
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

/// Exits that a network can be given.
pub const MOST_EXITS: usize = 12;
/// Places that are probed, if the caller does not name any.
const PROBES: usize = MOST_EXITS;
/// Weight decay of heads.
const DECAY: f64 = 1e-3;
/// The part of the target of a labelled sample that is its label; the rest is what the teacher says.
const LABEL: f64 = 0.5;

/// Where the exits are to be.
#[derive(Debug, Clone, PartialEq)]
pub enum ExitPlaces {
    /// After these nodes or values.
    After(Vec<String>),
    /// So many at most, where they save most.
    Best(usize),
}

/// How sure is sure enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExitGoal {
    /// As sure as it takes to lose at most this share of right answers.
    MaxDrop(f64),
    /// A probability of more than this.
    Threshold(f64),
}

/// One exit that was chosen.
#[derive(Debug, Clone)]
pub struct ChosenExit {
    pub place: Place,
    /// Of features to logits, which are divided by the temperature already.
    pub head: Head,
    pub temperature: f64,
    /// Expected calibration error on held-back samples, before and after temperature scaling.
    pub error: (f64, f64),
    /// Share of all held-back samples that its answer is right for.
    pub right: f64,
    pub threshold: f32,
}

/// What was chosen, and what held-back samples say of it.
#[derive(Debug, Clone)]
pub struct ChosenExits {
    /// In the order they are reached; none if none pays.
    pub exits: Vec<ChosenExit>,
    pub course: ExitStatistics,
    /// Share that the whole network answers right: all, without labels.
    pub whole: f64,
    /// Multiply-accumulates of the network without exits.
    pub macs: u64,
    pub held_back: usize,
}

/// Logits of a classifier that exits can answer for.
///
/// # Errors
/// If the model is none.
pub fn logits(graph: &Graph) -> Result<(ValueId, bool)> {
    let refuse = |why: String| Err(Error::target("the model cannot have exits").because(why));
    let &[output] = graph.outputs() else {
        let names: Vec<_> = graph.outputs().iter().map(|&v| format!("\"{}\"", graph.value(v).name)).collect();
        return refuse(format!("it has {} outputs: {}; an exit answers for one", names.len(), names.join(", ")));
    };
    if !graph.exits().is_empty() {
        return Err(Error::input("the model has exits already")
            .because("they are asked one after the other, and their thresholds were set together")
            .help("begin with the model as it was before them"));
    }
    let value = graph.value(output);
    let dtype = value.ty.as_ref().and_then(|t| t.dtype());
    let classes = value.ty.as_ref().and_then(|t| t.shape()?.0.get(1)?.known());
    if value.rank() != Some(2) || dtype != Some(DType::F32) || classes.is_some_and(|c| c < 2) {
        let ty = value.ty.as_ref().map_or("of unknown type".into(), ToString::to_string);
        return refuse(format!("its output \"{}\" is {ty}, not float scores of classes [N,C]", value.name));
    }
    if let Some(n) = classifier::squashed(graph, output) {
        return refuse(format!(
            "its output \"{}\" is made by {} \"{}\": an answer of a head would mean something else than logits or a final Softmax",
            value.name,
            graph.node(n).kind(),
            graph.label(n)
        ));
    }
    let logits = classifier::logits(graph, output);
    Ok((logits, logits != output))
}

/// Fits a head at every place that comes into question to the teacher's logits, and chooses the exits and their thresholds
/// by samples that the heads were not fitted to. Labels are used where there are any; without, what the student says is right.
///
/// # Errors
/// If the model cannot have exits, or not there, or the data cannot be run through it.
pub fn choose(
    student: &Model,
    teacher: &Model,
    source: &SampleFeed<'_>,
    (wanted, goal, hold_back): (&ExitPlaces, ExitGoal, f64),
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<ChosenExits> {
    let (end, _) = logits(&student.graph)?;
    let (taught, _) = logits(&teacher.graph).map_err(|e| e.at("the teacher"))?;
    let walk = SizedWalk::new(&student.graph, &source.shapes())?;
    let (places, most) = candidates(&walk, wanted)?;
    let n = source.count();
    let held: Vec<usize> = evenly((n as f64 * hold_back).round() as usize, n).collect();
    let fitted: Vec<usize> = (0..n).filter(|i| held.binary_search(i).is_err()).collect();
    if held.is_empty() || fitted.is_empty() {
        return Err(Error::input("there is too little data to fit exits").because(format!(
            "of {n} samples {} are held back to choose by, and {} are left to fit to",
            held.len(),
            fitted.len()
        )));
    }
    let mut values: Vec<(ValueId, KeptAxes)> = places.iter().map(|p| (p.value, p.pool)).collect();
    values.push((end, KeptAxes::Nothing));
    let mut seen = observe(student, &values, source, &|done| progress(done, 2 * n))?;
    let told = observe(teacher, &[(taught, KeptAxes::Nothing)], source, &|done| progress(n + done, 2 * n))?;
    let wide = |a: Option<Array2<f32>>| a.unwrap_or_default().mapv(f64::from);
    let (own, told) = (wide(seen.pop()), wide(told.into_iter().next()));
    if own.dim() != told.dim() {
        return Err(Error::input("the model and its teacher differ in their classes"));
    }
    if own.ncols() < 2 {
        return Err(Error::target("the model cannot have exits").because("its output has one class"));
    }
    let targets = targets(told.view(), source.labels.as_deref())?;
    let pick = |a: &Array2<f64>, rows: &[usize]| a.select(Axis(0), rows);
    let (_, answers) = judge(pick(&own, &held).view(), 1.0);
    let truth: Vec<usize> = match &source.labels {
        Some(labels) => held.iter().map(|&i| labels[i]).collect(),
        None => answers.clone(),
    };
    let (logits, goals) = (pick(&told, &fitted), pick(&targets, &fitted));
    let tried: Vec<Option<HeadProbe>> = seen
        .par_iter()
        .map(|x| {
            let x = &x.mapv(f64::from);
            let mut head = logistic(pick(x, &fitted).view(), logits.view(), goals.view(), DECAY)?;
            let raw = head.logits(pick(x, &held).view());
            let temperature = fit_temperature(&raw, &truth);
            let rated = |t: f64| rate(&raw, t, &truth);
            let (before, ..) = rated(1.0);
            let (after, confidence, right) = rated(temperature);
            (head.weight, head.bias) = (head.weight / temperature, head.bias / temperature);
            Some(HeadProbe { head, temperature, error: (before, after), confidence, right })
        })
        .collect();
    let (places, probes): (Vec<Place>, Vec<HeadProbe>) =
        places.into_iter().zip(tried).filter_map(|(p, probe)| Some((p, probe?))).unzip();
    let whole: Vec<bool> = answers.iter().zip(&truth).map(|(a, b)| a == b).collect();
    let classes = own.ncols() as f64;
    let through = places.iter().map(|p| p.macs as f64).chain([walk.macs() as f64]);
    let trial = ExitTrial {
        confidence: probes.iter().map(|p| p.confidence.clone()).collect(),
        right: probes.iter().map(|p| p.right.clone()).chain([whole]).collect(),
        cost: through.collect(),
        asking: places.iter().map(|p| p.features as f64 * classes).collect(),
    };
    let chosen = matches!(goal, ExitGoal::Threshold(_)) && matches!(wanted, ExitPlaces::After(_));
    let (kept, trial, thresholds) = pay(trial, most, goal, chosen);
    let share = |right: &[bool]| right.iter().filter(|&&r| r).count() as f64 / held.len() as f64;
    let exits = kept.iter().zip(&thresholds).map(|(&e, &threshold)| {
        let HeadProbe { head, temperature, error, right, .. } = &probes[e];
        let right = share(right);
        ChosenExit { place: places[e], head: head.clone(), temperature: *temperature, error: *error, right, threshold }
    });
    Ok(ChosenExits {
        exits: exits.collect(),
        course: trial.course(&thresholds),
        whole: trial.right.last().map_or(0.0, |r| share(r)),
        macs: walk.macs(),
        held_back: held.len(),
    })
}

/// At most so many exits of a trial, with their thresholds: from all that pay, or all where the caller has `chosen` them, the
/// one that is missed least is left out until they are no more than that.
fn pay(trial: ExitTrial, most: usize, goal: ExitGoal, chosen: bool) -> (Vec<usize>, ExitTrial, Vec<f32>) {
    let thresholds = |trial: &ExitTrial| match goal {
        ExitGoal::MaxDrop(drop) => trial.thresholds(drop),
        ExitGoal::Threshold(t) => vec![t as f32; trial.confidence.len()],
    };
    let mut kept: Vec<usize> = (0..trial.confidence.len()).collect();
    loop {
        let now = trial.only(&kept);
        let at = thresholds(&now);
        let paying: Vec<usize> = (0..kept.len()).filter(|&i| at[i] < f32::INFINITY).collect();
        if paying.len() < kept.len() {
            kept = paying.into_iter().map(|i| kept[i]).collect();
            continue;
        }
        let without = (0..kept.len()).map(|i| {
            let rest: Vec<usize> = kept.iter().copied().filter(|&e| e != kept[i]).collect();
            let trial = trial.only(&rest);
            (trial.course(&thresholds(&trial)).cost, rest)
        });
        let best = without.min_by(|a, b| a.0.total_cmp(&b.0));
        // To ask costs, too: an exit may save less than that.
        let idle = |cost: f64| !chosen && cost <= now.course(&at).cost;
        match best {
            Some((cost, rest)) if kept.len() > most || idle(cost) => kept = rest,
            _ => return (kept, now, at),
        }
    }
}

/// Places to probe, in the order they are reached, and how many of them may become exits.
fn candidates(walk: &SizedWalk, wanted: &ExitPlaces) -> Result<(Vec<Place>, usize)> {
    match wanted {
        ExitPlaces::After(names) => {
            let mut places = names.iter().map(|name| walk.named(name)).collect::<Result<Vec<_>>>()?;
            places.sort_by_key(|p| p.macs);
            places.dedup();
            let count = places.len();
            Ok((places, count))
        }
        ExitPlaces::Best(most) => {
            let all = walk.places();
            if all.is_empty() {
                return Err(Error::target("the model cannot have exits").because(
                    "there is no place where everything passes through one float32 value with channels: skip connections or a state go around every one, or the values are of another kind",
                ));
            }
            Ok((evenly(PROBES, all.len()).map(|i| all[i]).collect(), *most))
        }
    }
}

/// What heads are fitted to: the teacher's probabilities, mixed with labels.
fn targets(told: ArrayView2<'_, f64>, labels: Option<&[usize]>) -> Result<Array2<f64>> {
    let mut targets = probabilities(told, 1.0);
    let Some(labels) = labels else { return Ok(targets) };
    targets *= 1.0 - LABEL;
    for (i, (mut row, &label)) in targets.rows_mut().into_iter().zip(labels).enumerate() {
        let classes = row.len();
        let share = row.get_mut(label).ok_or_else(|| {
            Error::input(format!("label {label} of sample {i} is not a class of the model"))
                .because(format!("it has {classes} classes"))
        })?;
        *share += LABEL;
    }
    Ok(targets)
}

/// Sets the thresholds of all exits anew, for a network that computes something else by now, and says what comes of them on
/// the held-back samples, and what of the whole network. `None` if that is not asked for, or some exit is not of our making.
///
/// # Errors
/// If the data cannot be run through the model.
pub fn reset(
    model: &mut Model,
    source: &SampleFeed<'_>,
    (drop, hold_back): (f64, f64),
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Option<(ExitStatistics, f64)>> {
    let g = &model.graph;
    let asked: Option<Vec<_>> =
        g.exits().iter().map(|&e| Some((g.threshold(e)?.0, g.threshold_value(e)?, e.answer))).collect();
    let (Some(asked), [output], Some(macs)) = (asked, g.outputs(), path_macs(&sized(g, source)?)) else {
        return Ok(None);
    };
    let mut values: Vec<(ValueId, KeptAxes)> = asked.iter().map(|a| (a.0, KeptAxes::Number)).collect();
    values.extend(asked.iter().map(|a| a.2).chain([*output]).map(|v| (v, KeptAxes::Nothing)));
    let n = source.count();
    let seen = observe(model, &values, source, &|done| progress(done, n))?;
    let held: Vec<usize> = evenly((n as f64 * hold_back).round().max(1.0) as usize, n).collect();
    let (sure, answers) = seen.split_at(asked.len());
    let classes: Vec<Vec<usize>> =
        answers.iter().map(|a| judge(a.select(Axis(0), &held).mapv(f64::from).view(), 1.0).1).collect();
    let own = classes.last().cloned().unwrap_or_default();
    let truth = source.labels.as_ref().map_or(own, |labels| held.iter().map(|&i| labels[i]).collect());
    let right = |c: &Vec<usize>| c.iter().zip(&truth).map(|(a, b)| a == b).collect::<Vec<_>>();
    let trial = ExitTrial {
        confidence: sure.iter().map(|s| held.iter().map(|&i| s[(i, 0)]).collect()).collect(),
        right: classes.iter().map(right).collect(),
        cost: macs.into_iter().map(|m| m as f64).collect(),
        asking: vec![0.0; asked.len()],
    };
    let thresholds = trial.thresholds(drop);
    let whole = trial.course(&vec![f32::INFINITY; thresholds.len()]).right;
    let course = trial.course(&thresholds);
    let mut patch = Patch::at_graph(&model.graph);
    for (threshold, (_, value, _)) in thresholds.into_iter().zip(&asked) {
        // No probability is greater than 1.
        patch.set_constant(*value, Tensor::f32([], &[threshold.min(1.0)]));
    }
    model.graph.apply(patch)?;
    Ok(Some((course, whole)))
}

fn sized(graph: &Graph, source: &SampleFeed<'_>) -> Result<Graph> {
    let names = graph.required_inputs().map(|v| graph.value(v).name.clone());
    graph.at_sizes(&names.zip(source.shapes()).collect::<Vec<_>>())
}

/// Puts the chosen exits into a graph.
///
/// # Errors
/// Internal ones only.
pub fn attach(graph: &mut Graph, choice: &ChosenExits) -> Result<()> {
    let (_, softmaxed) = logits(graph)?;
    for chosen in &choice.exits {
        let exit = attach_one(graph, chosen, softmaxed)?;
        graph.add_exit(exit);
    }
    Ok(())
}

fn attach_one(graph: &mut Graph, chosen: &ChosenExit, softmaxed: bool) -> Result<Exit> {
    let mut patch = Patch::at_node(graph, chosen.place.node);
    let Head { weight, bias } = &chosen.head;
    let mut x = Ref::from(chosen.place.value);
    match chosen.place.pool {
        KeptAxes::Nothing | KeptAxes::Number => {}
        KeptAxes::Space => {
            let pool = GlobalPool(Pooling::Average { count_include_pad: false });
            let pooled = patch.node("exit.pool", pool, &[Some(x)]);
            x = patch.node("exit.features", Flatten { axis: 1 }, &[Some(pooled)]);
        }
        KeptAxes::Sequence => {
            let (op, axes) = reduce(graph, Reduction::Mean, Some(1));
            let axes = axes.map(|axes| patch.constant("exit.steps", axes));
            x = patch.node("exit.pool", op, &[Some(x), axes][..1 + usize::from(axes.is_some())]);
        }
    }
    let floats = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
    let w = patch.constant(
        "exit.weight",
        Tensor::f32([weight.nrows(), weight.ncols()], &floats(weight.iter().copied().collect())),
    );
    let b = patch.constant("exit.bias", Tensor::f32([bias.len()], &floats(bias.to_vec())));
    let gemm = Gemm { trans_b: true, ..Gemm::default() };
    let mut answer = patch.node("exit.logits", gemm, &[Some(x), Some(w), Some(b)]);
    if softmaxed {
        let op = Softmax { function: softmax::SoftmaxKind::Softmax, axis: 1, flatten: graph.opset < 13 };
        answer = patch.node("exit.probabilities", op, &[Some(answer)]);
    }
    let sure = asks(graph, &mut patch, "exit", answer, softmaxed, 1.0, chosen.threshold);
    let applied = graph.apply(patch)?;
    Ok(Exit { answer: applied.value(answer), sure: applied.value(sure) })
}

/// The temperature of logits by what is right, from every other sample.
pub fn fit_temperature(logits: &Array2<f64>, truth: &[usize]) -> f64 {
    let half: Vec<usize> = (0..truth.len()).step_by(2).collect();
    let mut targets = Array2::zeros((half.len(), logits.ncols()));
    half.iter().zip(targets.rows_mut()).for_each(|(&i, mut row)| {
        if let Some(share) = row.get_mut(truth[i]) {
            *share = 1.0;
        }
    });
    temperature(logits.select(Axis(0), &half).view(), targets.view())
}

/// At a temperature: the calibration error over the samples that it was not fitted to, and of all samples the confidence and
/// whether the answer is right.
pub fn rate(logits: &Array2<f64>, temperature: f64, truth: &[usize]) -> (f64, Vec<f32>, Vec<bool>) {
    let (confidence, classes) = judge(logits.view(), temperature);
    let right: Vec<bool> = classes.iter().zip(truth).map(|(a, b)| a == b).collect();
    let other = || (1..truth.len()).step_by(2);
    let sure: Vec<f64> = other().map(|i| f64::from(confidence[i])).collect();
    let error = calibration_error(&sure, &other().map(|i| right[i]).collect::<Vec<_>>());
    (error, confidence, right)
}

struct HeadProbe {
    head: Head,
    temperature: f64,
    error: (f64, f64),
    confidence: Vec<f32>,
    right: Vec<bool>,
}
