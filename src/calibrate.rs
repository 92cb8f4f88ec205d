//! Calibration: what a network's layers see on real data, student and teacher side by side.
//!
//! [`LayerwiseRun`] goes through a student once, layer by layer in the order they run. What a layer reads comes from the
//! student as it is by then, what it should give from the teacher, so that every layer also makes up for what was lost before
//! it. Values between layers wait on disk: memory holds the moments of one layer and a few samples, whatever their number.
//! What the teacher gives there ([`TeacherRun`]) is computed once, for all students and steps that are fitted to it.

mod kept_moments;
mod layer_samples;
mod lazy_executor;
mod part;
mod teacher;
#[cfg(test)]
mod tests;

pub use layer_samples::LayerSamples;
pub use teacher::{GradientMoments, TeacherRun};

use crate::analysis::linear::Linear;
use crate::analysis::sizes::InputSizes;
use crate::data::{Array, Dataset, Feed, InputSpec, Normalise, evenly};
use crate::error::{Error, Result};
use crate::exec::Network;
use crate::exits::observe::SampleFeed;
use crate::ir::{DType, Dim, Graph, Model, NodeId, Op, Type, ValueId};
use layer_samples::LayerReader;
use lazy_executor::LazyExecutor;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use teacher::sum_of;

/// Why there is nothing to see of a layer.
#[derive(Debug)]
pub enum Failure {
    /// It cannot be run or fitted, and that is why; everything else can go on.
    Unsupported(String),
    /// The same, where tract cannot run what is before it.
    NotRun(String),
    /// The same, where numbers on the calibration data are not finite: the data may be of another scale.
    NotFinite(&'static str),
    /// Something went wrong.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Error(e)
    }
}

/// Samples of calibration data that are used if nobody says how many.
pub const SAMPLES: usize = 512;
/// One chunk in so many is held back from fitting.
const HELD_BACK: usize = 10;
/// Elements of X and Y that are gathered before their products are summed, but no fewer than so many of their columns.
const GATHERED: usize = 1 << 21;
const COLUMNS: usize = 1024;
/// Steps that are tried from one position that is looked at to the next.
const STEPS: usize = 64;
/// Samples and positions that a fit is made from, for each column of W, and at least. A fit of n columns to r rows leaves about
/// n / r more error than the best there is, which is 2 % here. A layer of few columns gets more rows: they
/// are neighbouring positions of the same samples, and say less than as many samples would.
const ROWS_AN_INPUT: usize = 50;
const MIN_ROWS: usize = 50_000;
/// Rounds of new targets and a solution that a fit takes.
const ROUNDS: f64 = 9.0;
/// What it takes to gather a row of a group, and each of its numbers, in multiplications: measured.
const A_ROW: f64 = 3000.0;
const A_NUMBER: f64 = 20.0;
/// Columns of W beyond which second moments are not worth their memory.
const MAX_INPUTS: usize = 12_000;
/// A float input that goes beyond this is hardly what a network was trained on.
const NORMALISED: f64 = 30.0;
/// Range (max − min) below which data was probably scaled twice: pixels normalised and then multiplied by 1/255 span 0.01 to
/// 0.08.
const VARIED: f64 = 0.1;

/// Calibration data bound to a model.
pub struct Calibration<'a> {
    feed: Feed<'a>,
    /// Chunks of the feed that are used.
    picks: Vec<usize>,
    /// What is strange about the data, for people.
    pub warnings: Vec<String>,
}

impl<'a> Calibration<'a> {
    /// At most `samples` samples, but no fewer than ten batches of the model, evenly chosen, for the inputs of `model`.
    ///
    /// # Errors
    /// If the data does not fit the model, or is not finite.
    pub fn new(data: &'a Dataset, normalise: &Normalise, model: &Model, samples: usize) -> Result<Calibration<'a>> {
        Calibration::without(data, normalise, model, samples, &HashSet::new())
    }

    /// As [`Calibration::new`], of the samples that are not in `but`.
    ///
    /// # Errors
    /// As [`Calibration::new`].
    pub fn without(
        data: &'a Dataset,
        normalise: &Normalise,
        model: &Model,
        samples: usize,
        but: &HashSet<usize>,
    ) -> Result<Calibration<'a>> {
        let specs = specs(model)?;
        let feed = data.feed(&specs, normalise)?;
        let open: Vec<usize> =
            (0..feed.chunks()).filter(|&i| !feed.rows(i).iter().any(|row| but.contains(row))).collect();
        let picks = evenly(samples.div_ceil(feed.batch()).max(HELD_BACK), open.len());
        let picks: Vec<usize> = picks.map(|i| open[i]).collect();
        feed.hold(picks.iter().copied())?;
        let mut warnings = ranges(data, &feed, &picks, &specs, "calibration")?;
        if is_half(&model.graph) {
            warnings.push("the model has numbers of half precision: calibration computes in f32, and what is stored is rounded to the types of the file".into());
        }
        warnings.extend(feed.mixed().map(|what| what + ", unless --input-shape says otherwise"));
        let held = picks.len() / HELD_BACK;
        if held == 0 {
            return Err(Error::input("there is too little calibration data")
                .at(data.name())
                .because(format!("it has {} samples; a tenth is held back to judge repairs", feed.samples()))
                .help(format!("give at least {} samples", HELD_BACK * feed.batch())));
        }
        Ok(Calibration { feed, picks, warnings })
    }

    /// At most so many of all samples that there are, evenly chosen, for exits.
    ///
    /// # Errors
    /// As [`SampleFeed::new`].
    pub fn source(&self, samples: usize) -> Result<SampleFeed<'_>> {
        SampleFeed::new(&self.feed, evenly(samples, self.feed.chunks()).collect())
    }

    /// What the inputs are for one run of the model; of several shapes, those that most samples have.
    pub fn sizes(&self) -> InputSizes {
        InputSizes::known(self.feed.usual_shapes())
    }

    /// The samples that are used, by their index in the data.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.picks.iter().flat_map(|&i| self.feed.rows(i))
    }

    /// How many samples are used.
    pub fn samples(&self) -> usize {
        self.picks.iter().map(|&i| self.feed.rows(i).len()).sum()
    }

    /// About how many multiplications, or what takes as long, it takes to run a layer of student and teacher and to look at
    /// it, and if it is `fitted`, to fit it once this share of its inputs and outputs is left. `sized` has the sizes of its
    /// inputs.
    pub fn work(&self, sized: &Graph, layer: &Linear, fitted: Option<f64>) -> u64 {
        let share = fitted.unwrap_or(1.0);
        let (n, all, groups) = (share * layer.inputs as f64, layer.outputs as f64, layer.groups as f64);
        let m = share * all;
        let dims = sized.value(layer.y).ty.as_ref().and_then(Type::shape).map_or(&[][..], |s| &s.0);
        let outputs: f64 = dims.iter().skip(1).filter_map(Dim::known).map(|d| d as f64).product();
        let positions = (outputs / (all * groups)).max(1.0) * self.samples() as f64;
        let rows = positions.min((ROWS_AN_INPUT as f64 * n).max(MIN_ROWS as f64));
        // Moments once, and where outputs are bounded, new targets some rounds.
        let rounds = if fitted.is_some() && bounds(sized, layer.y).is_some() { ROUNDS } else { 1.0 };
        let seen = rows * (rounds * (A_ROW + A_NUMBER * n) + n * (n / 2.0 + rounds * m));
        let solved = if fitted.is_some() { 16.0 } else { 4.0 } * (n * n * n / 3.0 + 2.0 * n * n * m);
        (groups * (2.0 * positions * n * m + seen + solved)) as u64
    }

    /// How many chunks of samples there are.
    pub fn chunks(&self) -> usize {
        self.picks.len()
    }

    /// The samples of a chunk, an array an input.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn chunk(&self, i: usize) -> Result<Vec<Array>> {
        self.feed.chunk(self.picks[i])
    }

    /// For each chunk, what stands for the shapes of its inputs.
    fn kinds(&self) -> Vec<usize> {
        self.picks.iter().map(|&i| self.feed.kind(i)).collect()
    }
}

/// Whether a value of a graph, or of a body in it, is of half precision.
fn is_half(graph: &Graph) -> bool {
    let half = |ty: &Type| matches!(ty.dtype(), Some(DType::F16 | DType::BF16));
    graph.values().any(|v| graph.value(v).ty.as_ref().is_some_and(half))
        || graph.nodes().any(|n| graph.node(n).bodies().any(is_half))
}

/// What to warn of: what the feed says itself, and what chunks of it for these inputs show; `what` is what the data is for.
///
/// # Errors
/// If a number is not finite.
pub fn ranges(
    data: &Dataset,
    feed: &Feed<'_>,
    picks: &[usize],
    specs: &[InputSpec],
    what: &str,
) -> Result<Vec<String>> {
    let mut warnings = feed.warnings().to_vec();
    let mut ranges = vec![(f64::INFINITY, f64::NEG_INFINITY); specs.len()];
    let first = picks.first().map(|&i| feed.chunk(i)).transpose()?.unwrap_or_default();
    let mut same = picks.len() > 1;
    for &i in picks {
        let chunk = feed.chunk(i)?;
        same &= chunk.iter().zip(&first).all(|(a, b)| a.bytes() == b.bytes());
        for ((array, spec), range) in chunk.iter().zip(specs).zip(&mut ranges) {
            for v in array.to_f64() {
                if !v.is_finite() {
                    return Err(Error::input(format!("the {what} data for {spec} is not finite"))
                        .at(format!("sample {}", feed.rows(i)[0]))
                        .at(data.name())
                        .because(format!("it holds {v}")));
                }
                *range = (range.0.min(v), range.1.max(v));
            }
        }
    }
    let all_constant = ranges.iter().all(|(low, high)| low == high);
    if same && !all_constant {
        warnings
            .push(format!("{}: all samples are the same: what is fitted to them holds for nothing else", data.name()));
    }
    for ((spec, (low, high)), array) in specs.iter().zip(ranges).zip(&first) {
        if data.is_state(&spec.name) {
            continue;
        }
        let beyond = low.abs().max(high.abs()) > NORMALISED && spec.dtype.is_float();
        let narrow = high - low < VARIED && spec.dtype.is_float();
        if low == high {
            // A single number beside other inputs is a setting, such as the rate of samples.
            if array.shape().iter().product::<usize>() == 1 && !all_constant {
                continue;
            }
            warnings.push(format!("{}: every number for {spec} is {low}: nothing can be learned", data.name()));
        } else if narrow && !beyond {
            warnings.push(format!(
                "{}: {spec} gets numbers from {low} to {high} only: were they normalised already, and scaled again?",
                data.name()
            ));
        } else if beyond {
            warnings.push(format!(
                "{}: {spec} gets numbers from {low} to {high}: does the model expect them normalised (--scale 1/255 --mean --std)?",
                data.name()
            ));
        }
    }
    Ok(warnings)
}

/// The data with what the inputs that are fed back get for each sample when the model runs on all of them, in order.
///
/// # Errors
/// If the data does not fit the model, or it cannot be run.
pub fn with_states(data: Dataset, normalise: &Normalise, model: &Model) -> Result<Dataset> {
    match data.stream().is_none() {
        true => Ok(data),
        false => Ok(Network::of_model("the model", model)?.stream(&data, normalise, false)?.data),
    }
}

/// What the inputs of a model are for one run of it on data; of several shapes, those that most samples have.
///
/// # Errors
/// If the data does not fit the model.
pub fn sizes(data: &Dataset, normalise: &Normalise, model: &Model) -> Result<InputSizes> {
    Ok(InputSizes::known(data.feed(&specs(model)?, normalise)?.usual_shapes()))
}

/// How many samples the data has for a model.
///
/// # Errors
/// If the data does not fit the model.
pub fn available(data: &Dataset, normalise: &Normalise, model: &Model) -> Result<usize> {
    Ok(data.feed(&specs(model)?, normalise)?.samples())
}

fn specs(model: &Model) -> Result<Vec<InputSpec>> {
    model.graph.required_inputs().map(|v| spec(&model.graph, v)).collect()
}

/// What the data for an input of a graph must be.
///
/// # Errors
/// If it is nothing that data could be.
pub fn spec(graph: &Graph, v: ValueId) -> Result<InputSpec> {
    let value = graph.value(v);
    let refuse =
        |why: &str| Error::input(format!("input \"{}\" cannot be fed with data", value.name)).because(why.to_string());
    let ty = value.ty.as_ref().ok_or_else(|| refuse("the model does not say its type"))?;
    let dtype = ty.dtype().ok_or_else(|| refuse("it is no tensor"))?;
    let dtype = part::plain(dtype).ok_or_else(|| refuse("its type is no plain number"))?;
    let dims = ty.shape().map(|s| s.0.iter().map(|d| d.known().map(|n| n as usize)).collect());
    Ok(InputSpec { name: value.name.clone(), dtype, dims })
}

/// What became of the teacher's values in the student: those that the student has too mean the same, but for channels
/// that were removed.
#[derive(Debug, Default, Clone)]
pub struct TeacherMap {
    /// The positions of the teacher's value that the student's has, along an axis.
    pub kept: HashMap<(ValueId, usize), Vec<usize>>,
    /// Values that no longer mean what they did.
    pub lost: HashSet<ValueId>,
}

impl TeacherMap {
    /// Notes that of what a value had until now along an axis only `stay` is left.
    pub fn cut(&mut self, value: ValueId, axis: usize, stay: &[usize]) {
        let now = match self.kept.get(&(value, axis)) {
            Some(before) => stay.iter().filter_map(|&i| before.get(i).copied()).collect(),
            None => stay.to_vec(),
        };
        self.kept.insert((value, axis), now);
    }
}

/// Goes through the layers of a student in the order they run, with the teacher's values beside it.
pub struct LayerwiseRun<'a> {
    data: &'a Calibration<'a>,
    teacher: Arc<TeacherRun>,
    student: LazyExecutor,
    /// The student further on, for layers that share a weight.
    ahead: Option<LazyExecutor>,
}

impl<'a> LayerwiseRun<'a> {
    /// Starts at the inputs. `teacher` is that whose values the student shall have.
    ///
    /// # Errors
    /// If the data cannot be read, or there is no room for it in the folder for temporary files.
    pub fn new(data: &'a Calibration<'a>, teacher: Arc<TeacherRun>) -> Result<LayerwiseRun<'a>> {
        teacher.feed(data)?;
        Ok(LayerwiseRun { data, student: LazyExecutor::new(teacher.clone()), teacher, ahead: None })
    }

    /// Looks at a layer of the student: computes what it reads, and what the teacher gives in its place. `later` are layers
    /// that are still to come: what they make is not there yet.
    ///
    /// Layers that share a weight are looked at together, at the first of them. What the others read is what the student
    /// gives there as it is, before this weight and those further on change; it is computed again once they did.
    ///
    /// # Errors
    /// If the layer cannot be fitted, or something failed.
    pub fn look<'w>(
        &'w mut self,
        student: &Graph,
        layer: &'w Linear,
        map: &'w TeacherMap,
        later: &HashSet<NodeId>,
    ) -> Result<LayerSamples<'w>, Failure> {
        if layer.inputs > MAX_INPUTS {
            return Err(Failure::Unsupported(format!("{} inputs are too many to fit ({MAX_INPUTS})", layer.inputs)));
        }
        let mut sets: Vec<Vec<LayerReader<'w>>> = Vec::new();
        for set in layer.sets(student) {
            let reader = |layer: &'w Linear| {
                let residual = self.residual(student, layer, later);
                let y = residual.map_or(layer.y, |r| r.0);
                let teacher = &self.teacher.graph;
                if !teacher.has_value(y) || map.lost.contains(&y) || teacher.value(y).constant().is_some() {
                    return Err(Failure::Unsupported(format!("the teacher has no \"{}\"", student.value(y).name)));
                }
                let axis = layer.channel_axis(teacher.value(y).rank().unwrap_or(0));
                let kept = map.kept.get(&(y, axis)).map(Vec::as_slice);
                let (other, file) = (residual.map(|r| r.1), self.teacher.get(y)?);
                Ok(LayerReader { layer, teacher: y, y: file, axis, other, kept, bounds: bounds(student, y) })
            };
            sets.push(set.into_iter().map(reader).collect::<Result<_, _>>()?);
        }
        self.ahead = None;
        let side = match layer.others.is_empty() {
            true => &mut self.student,
            false => self.ahead.insert(self.student.clone()),
        };
        let readers = || sets.iter().flatten();
        let wanted: Vec<ValueId> = readers().flat_map(|r| std::iter::once(r.layer.x).chain(r.other)).collect();
        side.reach(student, &wanted)?;
        // What is seen of the teacher's own layers need not be summed up twice.
        let untouched = readers().all(|r| r.kept.is_none()) && wanted.iter().all(|&v| side.is_same(student, v));
        let place = |r: &LayerReader<'_>| (r.layer.clone(), r.teacher, r.axis, r.other);
        let places = || sets.iter().map(|set| set.iter().map(place).collect::<Vec<_>>()).collect::<Vec<_>>();
        let same = untouched.then(|| (format!("{:?}", places()), &self.teacher.moments));
        let chunks = self.data.chunks();
        let rows = |(reader, chunk): (&LayerReader<'_>, usize)| {
            let shape = reader.y.shape(chunk);
            let channels = shape.get(reader.axis).copied().unwrap_or(1).max(1);
            (shape.iter().product::<usize>() / channels).max(1)
        };
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        let places = readers().flat_map(|reader| (0..chunks).map(move |chunk| (reader, chunk)));
        places.map(rows).for_each(|rows| *counts.entry(rows).or_default() += 1);
        let all = counts.iter().map(|(rows, n)| rows * n).sum::<usize>();
        let step = (all / (ROWS_AN_INPUT * layer.inputs).max(MIN_ROWS)).max(1);
        // A step that divides the rows would see some columns of a picture only, and some taps of a transposed convolution. Where
        // samples differ in size, no step may be good for all, and half of what there is time for is looked at, or more.
        let most = if self.data.feed.kinds() > 1 { 2 * step } else { step + STEPS };
        let divided =
            |step: &usize| -> usize { counts.iter().filter(|(rows, _)| !coprime(*step, **rows)).map(|(_, n)| n).sum() };
        let step = (step..=most).min_by_key(divided).unwrap_or(step);
        Ok(LayerSamples { chunks, step, side, layer, sets, same, gathered: RefCell::default() })
    }

    /// Where a layer's result goes into a sum with something that is there already: the sum, and the other term. The sum
    /// can be repaired as a whole.
    fn residual(&self, student: &Graph, layer: &Linear, later: &HashSet<NodeId>) -> Option<(ValueId, ValueId)> {
        let (sum, other) = sum_of(student, layer.y)?;
        let blocked = |n: &NodeId| *n == layer.node || later.contains(n);
        (!self.student.cone(student, &[other]).iter().any(blocked)).then_some((sum, other))
    }
}

/// What a Relu or a Clip that alone reads a value leaves of it.
fn bounds(graph: &Graph, y: ValueId) -> Option<(f32, f32)> {
    let node = graph.sole_use(y)?.node();
    match &graph.node(node).op {
        Op::Unary(_) if graph.node(node).op_type == "Relu" => Some((0.0, f32::INFINITY)),
        Op::Clip(clip) => {
            // A bound that is computed is none that can be counted on.
            let bound = |slot, own: Option<f32>, none| match graph.input(node, slot) {
                Some(v) => graph.value(v).constant().and_then(|t| t.float_scalar()).map_or(none, |b| b as f32),
                None => own.unwrap_or(none),
            };
            Some((bound(1, clip.min, f32::NEG_INFINITY), bound(2, clip.max, f32::INFINITY)))
        }
        _ => None,
    }
}

fn coprime(mut a: usize, mut b: usize) -> bool {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}
