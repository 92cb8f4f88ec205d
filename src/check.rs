//! What compression cost: teacher and student, as files, run side by side on the same samples.

mod channels;
mod classes;
mod compare;
mod exits;
mod judge;
mod judging;
mod measure;
mod reading;
mod run;
mod subject;
mod table;
mod tally;
mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::analysis::cost::{Cost, cost};
use crate::analysis::weights;
use crate::data::{Array, Dataset, InputSpec, Normalise};
use crate::error::{Error, Result};
use crate::exec::Network;
use crate::exec::stream::{RunFn, run_stream};
use crate::figures::percent;
use crate::math::chance;
use crate::onnx;
pub use classes::{Picture, WorseClass};
use compare::SampleScores;
use exits::ExitAnswers;
pub use exits::{ExitUse, Exits, Point};
pub use judge::{Judge, Score};
pub use judging::Judging;
pub use measure::Times;
pub use reading::OutputKind;
use run::{ModelPair, PairPlan, finite};
use subject::{Probe, Subject};
pub use verdict::{Metric, OutputVerdict, Targets};

/// The result; as JSON it is the published form, version 1. Shares are 0 to 1; what could not be computed is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Of the JSON form.
    pub version: u32,
    /// How many samples were run.
    pub samples: usize,
    /// The teacher by itself.
    pub teacher: CheckedModel,
    /// The student by itself.
    pub student: CheckedModel,
    /// The output that names a class for each sample: the first one that is class scores [N,C] or a single decision. The
    /// accuracies, `agreement` and `kl` are of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scored: Option<String>,
    /// The share of samples on which both name the same class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Mean KL(teacher ‖ student) of the class probabilities, in nats, over the samples where it is finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The classes on which the student is worse than its teacher, the worst first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub worse_classes: Vec<WorseClass>,
    /// How far each output is off, by its name.
    pub outputs: BTreeMap<String, OutputDiff>,
    /// Of a student with exits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exits: Option<Exits>,
    /// In what way the student is of no use, if it is: every target is then missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ruined: Option<String>,
    /// Things the user should know of the data and of how it is read, which are no doubt of the student.
    #[serde(skip)]
    pub remarks: Vec<String>,
    /// Things the user should know of the student that are no errors.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// One of the two models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckedModel {
    /// Share of the samples whose label is the class with the highest score, if there are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// With more than five classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
    /// What the network consists of.
    #[serde(flatten)]
    pub counts: Counts,
    /// Of the file and its external data.
    pub bytes: u64,
    /// The same bytes after zstd at level 9.
    pub zstd_bytes: u64,
    /// One sample on one thread: the median of interleaved runs.
    pub latency_ms: f64,
}

/// What is known of a model without running it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Numbers that the network computes with: of codes those that they stand for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<u64>,
    /// Elements of constants as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Multiply-accumulates for one sample, if all sizes are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<u64>,
}

impl Counts {
    /// Counts a network for one sample (or one batch, if the model fixes that) of inputs of these shapes. Of stages, all
    /// count.
    fn at(subject: &Subject, shapes: &[Vec<usize>]) -> Result<Counts> {
        let (manifest, networks) = match subject {
            Subject::File(network) => return Counts::of(network, shapes),
            Subject::Staged { manifest, networks, .. } => (manifest, networks),
        };
        let models = networks.iter().map(|n| onnx::load(n.path())).collect::<Result<Vec<_>>>()?;
        let parameters = models.iter().map(|m| cost(&m.model.graph).parameters).sum();
        Ok(Counts {
            weights: Some(models.iter().map(|m| weights::count(&m.model.graph)).sum()),
            parameters: Some(parameters),
            macs: manifest.stages.iter().try_fold(0u64, |all, s| all.checked_add(s.macs?)),
        })
    }

    /// Counts a single file.
    fn of(network: &Network, shapes: &[Vec<usize>]) -> Result<Counts> {
        let model = onnx::load(network.path())?.model;
        let inputs: Vec<_> = network.inputs().iter().map(|i| i.name.clone()).zip(shapes.iter().cloned()).collect();
        let Cost { parameters, macs, .. } = cost(&model.graph.at_sizes(&inputs)?);
        Ok(Counts { weights: Some(weights::count(&model.graph)), parameters: Some(parameters), macs })
    }
}

/// How far one output of the student is from the teacher's, over the elements of all samples that are finite in both. A
/// student that is not finite where its teacher is is infinitely far, in JSON `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OutputDiff {
    /// The largest absolute difference.
    pub max_abs: f64,
    /// The mean absolute difference.
    pub mean_abs: f64,
    /// Of all samples' outputs as one vector.
    pub cosine: f64,
    /// Samples on which the teacher's output is NaN or infinite somewhere.
    #[serde(skip_serializing_if = "is_zero")]
    pub teacher_non_finite: usize,
    /// Samples on which the student's is where the teacher's is not.
    #[serde(skip_serializing_if = "is_zero")]
    pub student_non_finite: usize,
    /// Samples on which the teacher's output is infinite or NaN somewhere and the student's is not the same there.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_infinities: usize,
    /// Numbers that are infinite in both, and left out.
    #[serde(skip_serializing_if = "is_zero_numbers")]
    pub left_out: u64,
    /// Samples on which the two differ in the shape of the output.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_shapes: usize,
    /// What is said of it. Absent where no weight reaches the output, as where it is a copy of an input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<OutputVerdict>,
}

fn is_zero_numbers(n: &u64) -> bool {
    *n == 0
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Runs both files on all samples and compares, see [`check_as`]; what outputs are is found out.
///
/// # Errors
/// As [`check_as`].
pub fn check(
    teacher: &Path,
    student: &Path,
    data: &Dataset,
    normalise: &Normalise,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Check> {
    check_as(teacher, student, data, normalise, &Judging::default(), progress)
}

/// Runs both files on all samples and compares. `judging` says what outputs are, as far as the user did. `progress` is told
/// (samples done, samples in all) from any thread.
///
/// Samples run in parallel on the current rayon pool; all figures but the latencies are the same bits for any number of
/// threads.
///
/// # Errors
/// If a file cannot be run, if the interfaces differ, if the data does not fit, or if it or what the teacher makes of it is
/// not finite.
pub fn check_as(
    teacher: &Path,
    student: &Path,
    data: &Dataset,
    normalise: &Normalise,
    judging: &Judging,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Check> {
    let (teacher, student) = (Network::load(teacher)?, Subject::load(student)?);
    judging.fits(teacher.outputs())?;
    let plan = |first: &[Array]| {
        let shapes: Vec<_> = first.iter().map(|array| array.shape().to_vec()).collect();
        let ready = student.ready(&shapes, || Ok(first.to_vec()))?;
        Ok::<RunFn<'_>, Error>(Box::new(move |inputs| ready.run(inputs)))
    };
    // A stream is run once, in order; what was answered is read from then on.
    let streams = match data.stream().is_none() {
        true => None,
        false => {
            data.fed_back(teacher.inputs(), teacher.outputs())?;
            same_interface(&teacher, &student, true)?;
            let outputs = student.outputs();
            let ends = (teacher.inputs(), &outputs[..]);
            let (teacher, student) =
                rayon::join(|| teacher.stream(data, normalise, true), || run_stream(data, normalise, ends, true, plan));
            Some([teacher?, student?])
        }
    };
    let data = streams.as_ref().map_or(data, |[teacher, _]| &teacher.data);
    let feed = data.feed(teacher.inputs(), normalise)?;
    let shapes = feed.shapes_of(feed.usual());
    let probe = Probe::of(&student, &shapes)?;
    same_interface(&teacher, &student, probe.is_some())?;
    let example = feed.example(feed.usual());
    feed.hold([example])?;
    let runner = teacher.runner(&shapes)?;
    let graph = onnx::load(teacher.path())?.model.graph;
    let criteria = judging.criteria(&graph, &teacher, &runner, &feed, data)?;
    drop(graph);
    let ready = student.ready(&shapes, || feed.chunk(example))?;
    let own = streams.as_ref().map(|[_, student]| student.data.feed(teacher.inputs(), normalise)).transpose()?;
    let probe = probe.map(|p| p.planned(&ready));
    let mut remarks = feed.warnings().to_vec();
    remarks.extend(teacher.widened().or_else(|| student.widened()));
    remarks.extend(feed.mixed());
    let mut warnings = Vec::new();
    let usual = Arc::new(PairPlan { teacher: runner, student: ready, probe });
    let streams = streams.as_ref().zip(own);
    let has_exits = usual.probe.is_some();
    let pair = ModelPair { teacher: &teacher, student: &student, has_exits, feed, streams, data, criteria };

    let latency = pair.latency(&usual)?;
    let (tallies, samples) = pair.run(&usual, progress)?;
    let names = pair.teacher.outputs();
    for ((name, tally), judged) in names.iter().zip(&tallies).zip(&pair.criteria.outputs) {
        tally.refuse(name, judged.is_some(), data)?;
    }
    let outputs: BTreeMap<String, OutputDiff> = names
        .iter()
        .zip(&tallies)
        .zip(&pair.criteria.outputs)
        .map(|((n, t), j)| (n.clone(), t.finish(j.as_ref())))
        .collect();
    let labelled = pair.feed.labels().is_some();
    let scores: Option<Vec<&SampleScores>> = samples.iter().map(|s| s.scores.as_ref()).collect();
    if labelled && scores.is_none() {
        remarks.push("the labels are of no use: no output is class scores [N,C]".into());
    }
    let width = scores.as_ref().and_then(|rows| rows.first()).map_or(0, |row| row.classes);
    let top = |model: usize, k: usize| {
        let rows = scores.as_ref().filter(|_| labelled)?;
        share(rows, |row| row.places.is_some_and(|places| places[model] < k))
    };
    let side = |model: usize, counts: Counts, files: &[PathBuf]| {
        let (bytes, zstd_bytes) = measure::bytes(files)?;
        Ok(CheckedModel {
            top1: top(model, 1),
            top5: top(model, 5).filter(|_| width > 5),
            counts,
            bytes,
            zstd_bytes,
            latency_ms: latency[model].median_ms,
        })
    };
    let (teacher_side, student_side) = rayon::join(
        || side(0, Counts::of(&teacher, &shapes)?, teacher.files()),
        || side(1, Counts::at(&student, &shapes)?, &student.files()),
    );
    let told: Option<Vec<&ExitAnswers>> = samples.iter().map(|s| s.told.as_ref()).collect();
    let exits = usual.probe.as_ref().zip(told).map(|(probe, told)| exits::sum(&told, probe, labelled, latency));
    let strange = samples.iter().filter(|s| s.told.as_ref().is_some_and(|t| !t.same)).count();
    if strange > 0 {
        warnings.push(format!(
            "on {strange} of {} samples the student does not answer what the exit says that it should take: a confidence at its threshold, or a file whose exits do not do what they say",
            samples.len()
        ));
    }
    let ruined = scores.as_ref().and_then(|rows| ruined(rows, width, pair.feed.labels()));
    let mut worse_classes = scores.as_ref().map_or(Vec::new(), |rows| classes::worse(rows, pair.feed.labels()));
    classes::illustrate(&mut worse_classes, data, &pair.feed)?;
    let mut result = Check {
        version: 1,
        samples: samples.len(),
        teacher: teacher_side?,
        student: student_side?,
        scored: scores.as_ref().and(pair.criteria.scored).map(|i| names[i].clone()),
        agreement: scores.as_ref().and_then(|rows| share(rows, |row| row.agree)),
        kl: scores.as_ref().and_then(|rows| mean_kl(rows)),
        worse_classes,
        outputs,
        exits,
        ruined: ruined.map(|why| format!("the student is of no use: {why}")),
        remarks,
        warnings,
    };
    let strange = result.doubts();
    result.warnings.extend(result.ruined.iter().cloned().chain(strange));
    Ok(result)
}

/// Finds out, before there is a student, what about the teacher and the data would prevent the check.
///
/// # Errors
/// If the teacher cannot be read by tract, has no output that `judging` names, or if the data does not fit its inputs or is
/// not finite.
pub fn check_data(teacher: &Path, data: &Dataset, normalise: &Normalise, judging: &Judging) -> Result<()> {
    let teacher = Network::load(teacher)?;
    judging.fits(teacher.outputs())?;
    let fed_back = data.fed_back(teacher.inputs(), teacher.outputs())?;
    let given = teacher.inputs().iter().zip(&fed_back).filter(|(_, output)| output.is_none());
    let given: Vec<InputSpec> = given.map(|(spec, _)| spec.clone()).collect();
    let feed = data.feed(&given, normalise)?;
    let all: Vec<usize> = (0..feed.chunks()).collect();
    feed.blocks(&all).into_iter().try_for_each(|block| {
        feed.hold(block.iter().copied())?;
        block.iter().try_for_each(|&i| finite(&feed, i, &given, data).map(drop))?;
        feed.forget();
        Ok(())
    })
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

/// What shows in the classes that both name that the student knows nothing any more.
fn ruined(rows: &[&SampleScores], classes: usize, labels: Option<&[usize]>) -> Option<String> {
    // A score that is NaN names no class.
    let named = |side: usize| rows.iter().map(|row| row.best[side].unwrap_or(classes)).collect::<Vec<_>>();
    chance::ruined(classes, &named(1), Some(&named(0)), labels)
}

fn share(rows: &[&SampleScores], is: impl Fn(&SampleScores) -> bool) -> Option<f64> {
    (!rows.is_empty()).then(|| rows.iter().filter(|row| is(row)).count() as f64 / rows.len() as f64)
}

fn mean_kl(rows: &[&SampleScores]) -> Option<f64> {
    let probabilities = rows.iter().all(|row| row.probabilities);
    let kl = rows.iter().map(|row| if probabilities { row.kl_probabilities } else { row.kl_logits });
    let (sum, n) = kl.filter(|kl| kl.is_finite()).fold((0.0, 0), |(sum, n), kl| (sum + kl, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}
