//! Teacher and student run on the same samples; what they answer is handed to the criteria.

use super::compare::{Row, Scores, split};
use super::exits::Told;
use super::judging::Criteria;
use super::measure::{self, Times};
use super::subject::{Probe, Ready};
use super::tally::Tally;
use crate::data::{Array, Dataset, Feed, InputSpec, evenly};
use crate::error::{Error, Result};
use crate::exec::Runner;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounds that a latency is measured by, and of a student whose latency depends on the sample.
const ROUNDS: usize = 33;
const ROUNDS_OF_EXITS: usize = 400;
/// Chunks a thread whose answers are in memory at once.
const AT_ONCE: usize = 4;

/// Both models on the same chunks.
pub(super) struct Pair<'a> {
    pub teacher: Runner,
    pub student: Ready,
    pub probe: Option<Probe>,
    pub feed: Feed<'a>,
    /// The same with the student's own states, where states are fed back.
    pub student_feed: Option<Feed<'a>>,
    pub data: &'a Dataset,
    pub criteria: Criteria,
}

/// What is kept of one sample.
pub(super) struct Sample {
    /// Of the output that names classes.
    pub scores: Option<Scores>,
    /// Of a student with exits.
    pub told: Option<Told>,
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
                .at(format!("sample {}", feed.rows(i).start))
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
pub(super) fn answers(outputs: &[Array], names: &[String], batch: usize, samples: usize) -> Result<Vec<Vec<Row>>> {
    let split = |(output, name): (_, &String)| {
        split(output, batch, samples).ok_or_else(|| {
            Error::input(format!("output `{name}` cannot be told apart by sample"))
                .because(format!("the model takes {batch} samples at once and its first axis is not {batch}"))
        })
    };
    outputs.iter().zip(names).map(split).collect()
}

impl Pair<'_> {
    /// Sums by output, and what is kept of each sample.
    ///
    /// # Errors
    /// If a model cannot be run, or the data does not fit it.
    pub fn run(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<(Vec<Tally>, Vec<Sample>)> {
        let done = AtomicUsize::new(0);
        let total = self.feed.samples();
        let mut tallies = vec![Tally::default(); self.teacher.outputs().len()];
        let mut samples = Vec::with_capacity(total);
        for block in self.feed.blocks() {
            self.feed.hold(block.clone())?;
            let block: Vec<usize> = block.collect();
            for some in block.chunks(AT_ONCE * rayon::current_num_threads()) {
                let chunks = some.par_iter().map(|&i| {
                    let chunk = self.chunk(i)?;
                    progress(done.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len(), total);
                    Ok(chunk)
                });
                // Gathered first, and summed in order: errors and sums do not depend on which thread was faster.
                let chunks: Vec<Result<Vec<_>>> = chunks.collect();
                for (next, sample) in chunks.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
                    tallies.iter_mut().zip(&next).for_each(|(all, next)| all.merge(next));
                    samples.push(sample);
                }
            }
            self.feed.forget();
        }
        Ok((tallies, samples))
    }

    fn chunk(&self, i: usize) -> Result<Vec<(Vec<Tally>, Sample)>> {
        let inputs = finite(&self.feed, i, &self.criteria.inputs, self.data)?;
        let range = self.feed.rows(i);
        let rows = |outputs: &[Array]| answers(outputs, self.teacher.outputs(), self.feed.batch(), range.len());
        let teacher = self.teacher.run(&inputs)?;
        let inputs = self.student_feed.as_ref().map_or(Ok(inputs), |own| own.chunk(i))?;
        let (mut teacher, mut student) = (rows(&teacher)?, rows(&self.student.run(&inputs)?)?);
        let asked = self.probe.as_ref().map_or(Ok(Vec::new()), |probe| probe.ask(&self.student, &inputs))?;
        let asked = asked.into_iter().map(|(answer, sure)| Ok((rows(&[answer])?.swap_remove(0), sure)));
        let mut asked = asked.collect::<Result<Vec<_>>>()?;
        let mut samples = Vec::with_capacity(range.len());
        // From the last, so that rows can be taken off the end.
        for sample in range.rev() {
            let take = |rows: &mut Vec<Vec<_>>| rows.iter_mut().filter_map(Vec::pop).collect::<Vec<Row>>();
            let (teacher, student) = (take(&mut teacher), take(&mut student));
            let label = self.feed.labels().map(|labels| labels[sample]);
            let scores = self.criteria.scores(&teacher, &student, label);
            let answers = asked.iter_mut().filter_map(|(rows, sure)| Some((rows.pop()?, *sure)));
            let answers: Vec<(Row, f32)> = answers.collect();
            let mut told = None;
            if let (Some(probe), Some(t), Some(s)) = (&self.probe, teacher.first(), student.first()) {
                told = Told::new(t, s, &answers, &probe.thresholds, label);
            }
            if let (Some(label), Some(scores), Some(output)) = (label, &scores, self.criteria.scored)
                && label >= scores.classes
            {
                return Err(Error::input(format!("label {label} of sample {sample} is not a class of the model"))
                    .at(self.data.name())
                    .because(format!("output `{}` has {} classes", self.teacher.outputs()[output], scores.classes)));
            }
            samples.push((self.criteria.compare(&teacher, &student), Sample { scores, told }));
        }
        samples.reverse();
        Ok(samples)
    }

    /// Milliseconds a sample of teacher and student.
    ///
    /// # Errors
    /// If one cannot be run.
    pub fn latency(&self) -> Result<[Times; 2]> {
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
