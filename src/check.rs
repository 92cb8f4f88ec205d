//! What compression cost: teacher and student, as files, run side by side on the same samples.

mod compare;
mod exits;
mod measure;
mod subject;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::analysis::cost::{Cost, cost};
use crate::data::{Array, Dataset, Feed, InputSpec, Normalise, evenly};
use crate::error::{Error, Result};
use crate::exec::{Network, Runner};
use crate::onnx;
use compare::{Diff, Row, Sample, Scores, compare, split};
use exits::Told;
pub use exits::{End, Exits, Point};
pub use measure::Times;
use subject::{Probe, Ready, Subject};

/// The result; as JSON it is the published form, version 1. Shares are 0 to 1; what could not be computed is left out.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub version: u32,
    pub samples: usize,
    pub teacher: Side,
    pub student: Side,
    /// The share of samples on which both name the same class, if the first output is class scores [N,C].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Mean KL(teacher ‖ student) of the class probabilities, in nats, over the samples where it is finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    pub outputs: BTreeMap<String, OutputDiff>,
    /// Of a student with exits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exits: Option<Exits>,
    /// Things the user should know that are no errors.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// One of the two models.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// With more than five classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
    #[serde(flatten)]
    pub counts: Counts,
    /// Of the file and its external data.
    pub bytes: u64,
    /// The same bytes after zstd at level 9.
    pub zstd_bytes: u64,
    /// One sample on one thread: the median of interleaved runs.
    pub latency_ms: f64,
}

/// Rounds that a latency is measured by, and of a student whose latency depends on the sample.
const ROUNDS: usize = 33;
const ROUNDS_OF_EXITS: usize = 400;

/// What is known of a model without running it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<u64>,
}

impl Counts {
    /// Counts a network for one sample (or one batch, if the model fixes that) of inputs of these shapes. Of stages, all
    /// count.
    fn at(subject: &Subject, shapes: &[Vec<usize>]) -> Result<Counts> {
        let network = match subject {
            Subject::File(network) => network,
            Subject::Staged { manifest, networks, .. } => {
                let models = networks.iter().map(|n| onnx::load(n.path())).collect::<Result<Vec<_>>>()?;
                let parameters = models.iter().map(|m| cost(&m.model.graph).parameters).sum();
                return Ok(Counts {
                    parameters: Some(parameters),
                    macs: manifest.stages.iter().try_fold(0u64, |all, s| all.checked_add(s.macs?)),
                });
            }
        };
        let model = onnx::load(network.path())?.model;
        let inputs: Vec<_> = network.inputs().iter().map(|i| i.name.clone()).zip(shapes.iter().cloned()).collect();
        let Cost { parameters, macs, .. } = cost(&model.graph.at_sizes(&inputs)?);
        Ok(Counts { parameters: Some(parameters), macs })
    }
}

/// How far one output of the student is from the teacher's, over the elements of all samples that are finite in both. A
/// student that is not finite where its teacher is is infinitely far, in JSON `null`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OutputDiff {
    pub max_abs: f64,
    pub mean_abs: f64,
    /// Of all samples' outputs as one vector.
    pub cosine: f64,
    /// Samples on which the teacher's output is NaN or infinite somewhere.
    #[serde(skip_serializing_if = "is_zero")]
    pub teacher_non_finite: usize,
    /// Samples on which the student's is where the teacher's is not.
    #[serde(skip_serializing_if = "is_zero")]
    pub student_non_finite: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Runs both files on all samples and compares. `progress` is told (samples done, samples in all) from any thread.
///
/// Samples run in parallel on the current rayon pool; all figures but the latencies are the same bits for any number of
/// threads. Fails if a file cannot be run, if the interfaces differ, or if the data does not fit.
pub fn check(
    teacher: &Path,
    student: &Path,
    data: &Dataset,
    normalise: &Normalise,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Check> {
    let (teacher, student) = (Network::load(teacher)?, Subject::load(student)?);
    let feed = data.feed(teacher.inputs(), normalise)?;
    let shapes = feed.shapes();
    let probe = Probe::of(&student, &shapes)?;
    same_interface(&teacher, &student, probe.is_some())?;
    feed.hold([0])?;
    let ready = student.ready(&shapes, || feed.chunk(0))?;
    let probe = probe.map(|p| p.planned(&ready));
    let pair = Pair { teacher: teacher.runner(&shapes)?, student: ready, probe, feed, data };

    let latency = pair.latency()?;
    let samples = pair.run(progress)?;
    let mut warnings = pair.feed.warnings().to_vec();
    let labelled = pair.feed.labels().is_some();
    let scores: Option<Vec<&Scores>> = samples.iter().map(|s| s.scores.as_ref()).collect();
    if labelled && scores.is_none() {
        let output = &pair.teacher.outputs()[0];
        warnings.push(format!("the labels are of no use: output `{output}` is not class scores [N,C]"));
    }
    let classes = scores.as_ref().and_then(|rows| rows.first()).map_or(0, |row| row.classes);
    let top = |model: usize, k: usize| {
        let rows = scores.as_ref().filter(|_| labelled)?;
        share(rows, |row| row.places.is_some_and(|places| places[model] < k))
    };
    let side = |model: usize, subject: &Subject| {
        let counts = Counts::at(subject, &shapes)?;
        let (bytes, zstd_bytes) = measure::bytes(&subject.files())?;
        Ok(Side {
            top1: top(model, 1),
            top5: top(model, 5).filter(|_| classes > 5),
            counts,
            bytes,
            zstd_bytes,
            latency_ms: latency[model].median_ms,
        })
    };
    let teacher = Subject::File(Box::new(teacher));
    let (teacher_side, student_side) = rayon::join(|| side(0, &teacher), || side(1, &student));
    let told: Option<Vec<&Told>> = samples.iter().map(|s| s.told.as_ref()).collect();
    let exits = pair.probe.as_ref().zip(told).map(|(probe, told)| exits::sum(&told, probe, labelled, latency));
    let strange = samples.iter().filter(|s| s.told.as_ref().is_some_and(|t| !t.same)).count();
    if strange > 0 {
        warnings.push(format!(
            "on {strange} of {} samples the student does not answer what the exit says that it should take: a confidence at its threshold, or a file whose exits do not do what they say",
            samples.len()
        ));
    }

    let names = pair.teacher.outputs().iter();
    let outputs = names.enumerate().map(|(i, name)| (name.clone(), total(samples.iter().map(|s| &s.outputs[i]))));
    Ok(Check {
        version: 1,
        samples: samples.len(),
        teacher: teacher_side?,
        student: student_side?,
        agreement: scores.as_ref().and_then(|rows| share(rows, |row| row.agree)),
        kl: scores.as_ref().and_then(|rows| mean_kl(rows)),
        outputs: outputs.collect(),
        exits,
        warnings,
    })
}

/// Finds out, before there is a student, what about the teacher and the data would prevent the check.
///
/// # Errors
/// If the teacher cannot be read by tract or the data does not fit its inputs.
pub fn check_data(teacher: &Path, data: &Dataset, normalise: &Normalise) -> Result<()> {
    let teacher = Network::load(teacher)?;
    let feed = data.feed(teacher.inputs(), normalise)?;
    feed.hold([0])?;
    feed.chunk(0).map(drop)
}

/// Both models on the same chunks.
struct Pair<'a> {
    teacher: Runner,
    student: Ready,
    probe: Option<Probe>,
    feed: Feed<'a>,
    data: &'a Dataset,
}

impl Pair<'_> {
    fn run(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Vec<Sample>> {
        let done = AtomicUsize::new(0);
        let total = self.feed.samples();
        let mut all = Vec::new();
        for block in self.feed.blocks() {
            self.feed.hold(block.clone())?;
            let chunks = block.into_par_iter().map(|i| {
                let samples = self.chunk(i)?;
                progress(done.fetch_add(samples.len(), Ordering::Relaxed) + samples.len(), total);
                Ok(samples)
            });
            // Gathered first, so that of several errors always the same one is told.
            let chunks: Vec<Result<Vec<Sample>>> = chunks.collect();
            all.extend(chunks.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten());
            self.feed.forget();
        }
        Ok(all)
    }

    fn chunk(&self, i: usize) -> Result<Vec<Sample>> {
        let inputs = self.feed.chunk(i)?;
        let range = self.feed.rows(i);
        let rows = |outputs: Vec<Array>| {
            let split = |(output, name): (_, &String)| {
                split(output, self.feed.batch(), range.len()).ok_or_else(|| {
                    let batch = self.feed.batch();
                    Error::input(format!("output `{name}` cannot be told apart by sample"))
                        .because(format!("the model takes {batch} samples at once and its first axis is not {batch}"))
                })
            };
            outputs.iter().zip(self.teacher.outputs()).map(split).collect::<Result<Vec<_>>>()
        };
        let (mut teacher, mut student) = (rows(self.teacher.run(&inputs)?)?, rows(self.student.run(&inputs)?)?);
        let asked = self.probe.as_ref().map_or(Ok(Vec::new()), |probe| probe.ask(&self.student, &inputs))?;
        let asked = asked.into_iter().map(|(answer, sure)| Ok((rows(vec![answer])?.swap_remove(0), sure)));
        let mut asked = asked.collect::<Result<Vec<_>>>()?;
        let mut samples = Vec::with_capacity(range.len());
        // From the last, so that rows can be taken off the end.
        for sample in range.rev() {
            let take = |rows: &mut Vec<Vec<_>>| rows.iter_mut().filter_map(Vec::pop).collect::<Vec<compare::Row>>();
            let (teacher, student) = (take(&mut teacher), take(&mut student));
            for ((t, s), name) in teacher.iter().zip(&student).zip(self.teacher.outputs()) {
                if t.values.len() != s.values.len() {
                    return Err(Error::input(format!("teacher and student differ in the shape of output `{name}`"))
                        .at(format!("sample {sample}"))
                        .because(format!("the teacher gives {:?} and the student {:?}", t.shape, s.shape)));
                }
            }
            let label = self.feed.labels().map(|labels| labels[sample]);
            let mut compared = compare(&teacher, &student, label);
            let answers = asked.iter_mut().filter_map(|(rows, sure)| Some((rows.pop()?, *sure)));
            let answers: Vec<(Row, f32)> = answers.collect();
            if let (Some(probe), Some(t), Some(s)) = (&self.probe, teacher.first(), student.first()) {
                compared.told = Told::new(t, s, &answers, &probe.thresholds, label);
            }
            if let (Some(label), Some(scores)) = (label, &compared.scores)
                && label >= scores.classes
            {
                return Err(Error::input(format!("label {label} of sample {sample} is not a class of the model"))
                    .at(self.data.name())
                    .because(format!("output `{}` has {} classes", self.teacher.outputs()[0], scores.classes)));
            }
            samples.push(compared);
        }
        samples.reverse();
        Ok(samples)
    }

    /// Milliseconds a sample of teacher and student.
    fn latency(&self) -> Result<[Times; 2]> {
        let rounds = if self.probe.is_some() { ROUNDS_OF_EXITS } else { ROUNDS };
        self.feed.hold(evenly(rounds, self.feed.chunks()))?;
        let times = measure::interleaved(self.feed.chunks(), rounds, |i| {
            let inputs = self.feed.chunk(i)?;
            Ok([None, Some(&self.student)].map(|student| {
                let inputs = inputs.clone();
                move || match student {
                    None => self.teacher.run(&inputs).map(drop),
                    Some(student) => student.run(&inputs).map(drop),
                }
            }))
        })?;
        Ok(times.map(|t| t.per(self.feed.batch())))
    }
}

fn same_interface(teacher: &Network, student: &Subject, exits: bool) -> Result<()> {
    let input = |i: &InputSpec| format!("`{}` {}", i.name, i.dtype);
    let taken = |(i, (name, spec)): (usize, (String, Option<InputSpec>))| {
        // What nothing reads may be anything.
        let same = teacher.inputs().get(i).filter(|t| t.name == name);
        spec.as_ref().or(same).map_or(format!("`{name}`"), input)
    };
    let outputs = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    let mut given = student.outputs();
    // A network with exits may say besides which one it took.
    given.truncate(if exits { teacher.outputs().len() } else { given.len() });
    let pairs: [(&str, Vec<String>, Vec<String>); 2] = [
        (
            "inputs",
            teacher.inputs().iter().map(input).collect(),
            student.inputs().into_iter().enumerate().map(taken).collect(),
        ),
        ("outputs", outputs(teacher.outputs()), outputs(&given)),
    ];
    for (kind, t, s) in pairs {
        if t != s {
            return Err(Error::input(format!("teacher and student differ in their {kind}"))
                .at(student.path().display().to_string())
                .because(format!("the teacher has {}; the student has {}", t.join(", "), s.join(", "))));
        }
    }
    if teacher.outputs().is_empty() {
        return Err(Error::input(format!("{} has no outputs", teacher.path().display())));
    }
    Ok(())
}

fn share(rows: &[&Scores], is: impl Fn(&Scores) -> bool) -> Option<f64> {
    (!rows.is_empty()).then(|| rows.iter().filter(|row| is(row)).count() as f64 / rows.len() as f64)
}

fn mean_kl(rows: &[&Scores]) -> Option<f64> {
    let probabilities = rows.iter().all(|row| row.probabilities);
    let kl = rows.iter().map(|row| if probabilities { row.kl_probabilities } else { row.kl_logits });
    let (sum, n) = kl.filter(|kl| kl.is_finite()).fold((0.0, 0), |(sum, n), kl| (sum + kl, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

fn total<'a>(diffs: impl Iterator<Item = &'a Diff>) -> OutputDiff {
    let mut all = Diff::default();
    let mut out = OutputDiff::default();
    for d in diffs {
        all.max = all.max.max(d.max);
        all.sum += d.sum;
        all.count += d.count;
        all.dot += d.dot;
        all.teacher_square += d.teacher_square;
        all.student_square += d.student_square;
        out.teacher_non_finite += usize::from(!d.teacher_finite);
        out.student_non_finite += usize::from(!d.student_finite);
    }
    if out.student_non_finite > 0 {
        return OutputDiff { max_abs: f64::INFINITY, mean_abs: f64::INFINITY, cosine: f64::NAN, ..out };
    }
    out.max_abs = all.max;
    out.mean_abs = all.sum / all.count.max(1) as f64;
    // Two zero vectors are alike; a zero vector is like no other.
    out.cosine = match (all.teacher_square.sqrt(), all.student_square.sqrt()) {
        (0.0, 0.0) => 1.0,
        (t, s) if t == 0.0 || s == 0.0 => 0.0,
        (t, s) => (all.dot / t / s).clamp(-1.0, 1.0),
    };
    out
}

impl Check {
    /// The targets that the student missed, each in words; none if it met them all.
    ///
    /// `max_drop` bounds the loss of top-1 accuracy, or of agreement if there are no labels. A student that is not finite
    /// where its teacher is has missed in any case.
    pub fn misses(&self, max_drop: Option<f64>, min_agreement: Option<f64>) -> Vec<String> {
        // Shares are quotients of counts: a difference this small is rounding.
        const EPSILON: f64 = 1e-9;
        let mut misses = Vec::new();
        for (name, diff) in &self.outputs {
            if diff.student_non_finite > 0 {
                let (n, of) = (diff.student_non_finite, self.samples);
                misses.push(format!("the student's output `{name}` is NaN or infinite on {n} of {of} samples"));
            }
        }
        if let Some(allowed) = max_drop {
            match (self.teacher.top1.zip(self.student.top1), self.agreement) {
                (Some((teacher, student)), _) if teacher - student > allowed + EPSILON => misses.push(format!(
                    "top-1 accuracy fell from {} to {}, by more than {}",
                    percent(teacher),
                    percent(student),
                    percent(allowed)
                )),
                (None, Some(agreement)) if 1.0 - agreement > allowed + EPSILON => misses.push(format!(
                    "teacher and student disagree on {} of the samples, more than {}",
                    percent(1.0 - agreement),
                    percent(allowed)
                )),
                (None, None) => {
                    misses.push("the accuracy cannot be told: the first output is not class scores [N,C]".into())
                }
                _ => {}
            }
        }
        if let Some(least) = min_agreement {
            match self.agreement {
                Some(agreement) if agreement + EPSILON < least => misses.push(format!(
                    "teacher and student agree on {} of the samples, less than {}",
                    percent(agreement),
                    percent(least)
                )),
                None => misses.push("agreement cannot be told: the first output is not class scores [N,C]".into()),
                _ => {}
            }
        }
        misses
    }
}

fn percent(share: f64) -> String {
    // Shares are quotients of counts; 99.525 % must not be rounded down because a double falls short of it.
    format!("{:.2} %", share * 100.0 + 1e-9)
}
