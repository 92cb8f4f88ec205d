//! Teacher and student run on the same samples; what they answer is handed to the criteria.

use super::compare::{SampleOutput, SampleScores, split};
use super::exits::ExitAnswers;
use super::judging::Criteria;
use super::measure::{self, Times};
use super::subject::{Probe, Ready, Subject};
use super::tally::Tally;
use crate::data::{Array, Dataset, Feed, InputSpec, evenly};
use crate::error::{Error, Result};
use crate::exec::plans::Plans;
use crate::exec::stream::StreamRun;
use crate::exec::{Network, Runner};
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounds that a latency is measured by, and of a student whose latency depends on the sample.
const ROUNDS: usize = 33;
const ROUNDS_OF_EXITS: usize = 400;
/// Chunks a thread whose answers are in memory at once.
const AT_ONCE: usize = 4;

/// Both models on the same chunks.
pub(super) struct ModelPair<'a> {
    pub teacher: &'a Network,
    pub student: &'a Subject,
    pub has_exits: bool,
    pub feed: Feed<'a>,
    /// Where states are fed back, what teacher and student answered, and the data with the student's own states.
    pub streams: Option<(&'a [StreamRun; 2], Feed<'a>)>,
    pub data: &'a Dataset,
    pub criteria: Criteria,
}

/// Both models, ready for inputs of some shapes.
pub(super) struct PairPlan {
    pub teacher: Runner,
    pub student: Ready,
    pub probe: Option<Probe>,
}

/// What is kept of one sample.
pub(super) struct Sample {
    /// Of the output that names classes.
    pub scores: Option<SampleScores>,
    /// Of a student with exits.
    pub told: Option<ExitAnswers>,
}

/// The inputs of a chunk.
///
/// # Errors
/// If the data does not fit, or holds a number that is not finite.
pub(super) fn finite(feed: &Feed<'_>, i: usize, specs: &[InputSpec], data: &Dataset) -> Result<Vec<Array>> {
    let inputs = feed.chunk(i)?;
    for (array, spec) in inputs.iter().zip(specs).filter(|(a, _)| a.dtype().is_float()) {
        if let Some(v) = array.to_f64().into_iter().find(|v| !v.is_finite()) {
            return Err(Error::input(format!("the data for {spec} is not finite"))
                .at(format!("sample {}", feed.rows(i)[0]))
                .at(data.name())
                .because(format!("it holds {v}"))
                .help("leave such samples out, or put numbers in their place"));
        }
    }
    Ok(inputs)
}

/// Answers to a chunk, by output and sample.
///
/// # Errors
/// If an output has no axis of samples.
pub(super) fn answers(
    outputs: &[Array],
    names: &[String],
    batch: usize,
    samples: usize,
) -> Result<Vec<Vec<SampleOutput>>> {
    let split = |(output, name): (_, &String)| {
        split(output, batch, samples).ok_or_else(|| {
            Error::input(format!("output `{name}` cannot be told apart by sample"))
                .because(format!("the model takes {batch} samples at once and its first axis is not {batch}"))
        })
    };
    outputs.iter().zip(names).map(split).collect()
}

impl ModelPair<'_> {
    /// Makes both ready for chunks of a kind. What is to be read of the data is held by then.
    ///
    /// # Errors
    /// If one cannot be run on them.
    pub fn plan(&self, kind: usize) -> Result<PairPlan> {
        let shapes = self.feed.shapes_of(kind);
        let teacher = self.teacher.runner(&shapes)?;
        let student = self.student.ready(&shapes, || self.feed.chunk(self.feed.example(kind)))?;
        let probe = match self.has_exits {
            true => Probe::of(self.student, &shapes)?.map(|probe| probe.planned(&student)),
            false => None,
        };
        Ok(PairPlan { teacher, student, probe })
    }

    /// Sums by output, and what is kept of each sample. `usual` is the plan for the most common kind of chunks.
    ///
    /// # Errors
    /// If a model cannot be run, or the data does not fit it.
    pub fn run(
        &self,
        usual: &Arc<PairPlan>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(Vec<Tally>, Vec<Sample>)> {
        let done = AtomicUsize::new(0);
        let total = self.feed.samples();
        let mut tallies = vec![Tally::default(); self.teacher.outputs().len()];
        let mut samples = Vec::with_capacity(total);
        let mut plans = Plans::default();
        plans.put(self.feed.usual(), usual.clone());
        let (kind, most) = (|&i: &usize| self.feed.kind(i), AT_ONCE * rayon::current_num_threads());
        // Shape by shape.
        for block in self.feed.blocks(&self.feed.by_shape(0..self.feed.chunks())) {
            self.feed.hold(block.iter().copied())?;
            let mut left = block;
            while !left.is_empty() {
                let some = Plans::<Arc<PairPlan>>::next(left, most, kind);
                left = &left[some.len()..];
                plans.reach(some, kind, |kind| self.plan(kind).map(Arc::new))?;
                let chunks = some.par_iter().map(|&i| {
                    let plan = plans.get(kind(&i)).ok_or_else(|| Error::internal("a plan is missing"))?;
                    let chunk = self.chunk(plan, i)?;
                    progress(done.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len(), total);
                    Ok(chunk)
                });
                // Gathered first, and summed in order: errors and sums do not depend on which thread was faster.
                let chunks: Vec<Result<Vec<_>>> = chunks.collect();
                for (&i, chunk) in some.iter().zip(chunks) {
                    for (row, (next, sample)) in self.feed.rows(i).into_iter().zip(chunk?) {
                        tallies.iter_mut().zip(&next).for_each(|(all, next)| all.merge(next));
                        samples.push((row, sample));
                    }
                }
            }
            self.feed.forget();
        }
        samples.sort_by_key(|(row, _)| *row);
        Ok((tallies, samples.into_iter().map(|s| s.1).collect()))
    }

    fn chunk(&self, plan: &PairPlan, i: usize) -> Result<Vec<(Vec<Tally>, Sample)>> {
        let inputs = finite(&self.feed, i, &self.criteria.inputs, self.data)?;
        let own = self.feed.rows(i);
        let rows = |outputs: &[Array]| answers(outputs, self.teacher.outputs(), self.feed.batch(), own.len());
        let (teacher, student, inputs) = match &self.streams {
            None => (plan.teacher.run(&inputs)?, plan.student.run(&inputs)?, inputs),
            Some(([teacher, student], own)) => (teacher.answers(i)?, student.answers(i)?, own.chunk(i)?),
        };
        let (mut teacher, mut student) = (rows(&teacher)?, rows(&student)?);
        let asked = plan.probe.as_ref().map_or(Ok(Vec::new()), |probe| probe.ask(&plan.student, &inputs))?;
        let asked = asked.into_iter().map(|(answer, sure)| Ok((rows(&[answer])?.swap_remove(0), sure)));
        let mut asked = asked.collect::<Result<Vec<_>>>()?;
        let mut samples = Vec::with_capacity(own.len());
        // From the last, so that rows can be taken off the end.
        for sample in own.into_iter().rev() {
            let take = |rows: &mut Vec<Vec<_>>| rows.iter_mut().filter_map(Vec::pop).collect::<Vec<SampleOutput>>();
            let (teacher, student) = (take(&mut teacher), take(&mut student));
            let label = self.feed.labels().map(|labels| labels[sample]);
            let scores = self.criteria.scores(&teacher, &student, label);
            let answers = asked.iter_mut().filter_map(|(rows, sure)| Some((rows.pop()?, *sure)));
            let answers: Vec<(SampleOutput, f32)> = answers.collect();
            let mut told = None;
            if let (Some(probe), Some(t), Some(s)) = (&plan.probe, teacher.first(), student.first()) {
                told = ExitAnswers::new(t, s, &answers, &probe.thresholds, label);
            }
            if let (Some(label), Some(scores), Some(output)) = (label, &scores, self.criteria.scored)
                && label >= scores.classes
            {
                let error = Error::input(format!("label {label} of sample {sample} is not a class of the model"))
                    .at(self.data.name())
                    .because(format!("output `{}` has {} classes", self.teacher.outputs()[output], scores.classes));
                // A folder of a class without pictures, perhaps.
                let strange = self.data.warnings().join("; ");
                return Err(if strange.is_empty() { error } else { error.help(strange) });
            }
            samples.push((self.criteria.compare(&teacher, &student), Sample { scores, told }));
        }
        samples.reverse();
        Ok(samples)
    }

    /// Milliseconds a sample of teacher and student, on samples of the most common shape.
    ///
    /// # Errors
    /// If one cannot be run.
    pub fn latency(&self, usual: &PairPlan) -> Result<[Times; 2]> {
        let rounds = if usual.probe.is_some() { ROUNDS_OF_EXITS } else { ROUNDS };
        let kind = self.feed.usual();
        let chunks: Vec<usize> = (0..self.feed.chunks()).filter(|&i| self.feed.kind(i) == kind).collect();
        self.feed.hold(evenly(rounds, chunks.len()).map(|i| chunks[i]))?;
        let times = measure::interleaved(chunks.len(), rounds, |i| {
            let inputs = self.feed.chunk(chunks[i])?;
            Ok([None, Some(&usual.student)].map(|student| {
                let inputs = inputs.clone();
                move || match student {
                    None => usual.teacher.run(&inputs).map(drop),
                    Some(student) => student.run(&inputs).map(drop),
                }
            }))
        })?;
        Ok(times.map(|t| t.per(self.feed.batch())))
    }
}
