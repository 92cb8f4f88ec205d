//! The score of students in memory: the teacher answers once, and nothing is written, packed or timed.

use super::compare::{SampleOutput, are_probabilities, divergence};
use super::judging::{Criteria, Judging};
use super::reading::OutputKind;
use super::run::{answers, finite};
use super::tally::{OutputRule, Tally};
use crate::data::{Array, Dataset, Feed, InputSpec, Normalise, evenly};
use crate::error::{Error, Result};
use crate::exec::plans::Plans;
use crate::exec::{Network, Runner};
use crate::ir::Model;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Samples that a model with an open batch is run on at once.
const BATCH: usize = 16;
/// Runs a thread whose answers are in memory at once.
const AT_ONCE: usize = 2;
/// How far the answers to a batch may be from those to its samples alone, as a share of the largest.
const SAME: f64 = 1e-3;

/// A teacher's answers to samples, which students are compared with.
pub struct Judge<'a> {
    feed: Feed<'a>,
    data: &'a Dataset,
    criteria: Criteria,
    outputs: Vec<String>,
    /// What is run at once, shape by shape.
    runs: Vec<BatchRun>,
    /// By sample in the order of the runs, by output.
    answers: Vec<Vec<SampleOutput>>,
    labels: Option<Vec<usize>>,
    /// By output, whether the teacher's scores are probabilities.
    probabilities: Vec<bool>,
}

/// Chunks of one shape that are run at once.
struct BatchRun {
    chunks: Vec<usize>,
    /// Chunks that the run takes: the last one is repeated.
    batch: usize,
    /// What stands for the shapes of its inputs.
    plan: usize,
    /// The first of its samples among all, and how many there are.
    first: usize,
    samples: usize,
}

/// How far a student is from its teacher on the samples of a [`Judge`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// How many samples were run.
    pub samples: usize,
    /// The mean over the outputs: of class scores KL(teacher ‖ student) in nats, mean over samples and positions; of other
    /// numbers the mean square error as a share of the variance. Infinite (in JSON `null`) if the student is not finite
    /// where the teacher is.
    #[serde(deserialize_with = "or_infinite")]
    pub loss: f64,
    /// What a student loses in the terms of `--max-drop`: points of top-1 accuracy with labels, else what the metric of the
    /// worst output says, a share from 0 to 1.
    pub drop: f64,
    /// Top-1 accuracy of teacher and student, where there are labels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accuracy: Option<[f64; 2]>,
    /// The share of samples on which both name the same class, where an output names one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agreement: Option<f64>,
    /// How many samples of a class (the label, or without labels what the teacher says) the student takes for another one:
    /// (class, what the student says, samples).
    pub confusion: Vec<(usize, usize, usize)>,
}

fn or_infinite<'de, D: serde::Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::INFINITY))
}

/// Sums over samples.
#[derive(Default)]
struct Sums {
    tallies: Vec<Tally>,
    /// By output, of the divergence, and how many positions that is.
    divergence: Vec<(f64, usize)>,
    samples: usize,
    right: [usize; 2],
    agree: usize,
    scored: usize,
    confusion: BTreeMap<(usize, usize), usize>,
}

impl<'a> Judge<'a> {
    /// Runs the teacher on some samples of the data, by index; of a model that takes several samples at once, on the chunks
    /// that these are in.
    ///
    /// # Errors
    /// If the teacher cannot be run or is not finite, or the data does not fit it.
    pub fn new(
        teacher: &Model,
        data: &'a Dataset,
        normalise: &Normalise,
        samples: &[usize],
        judging: &Judging,
    ) -> Result<Judge<'a>> {
        let network = Network::of_model("the teacher", teacher)?;
        judging.fits(network.outputs())?;
        let feed = data.feed(network.inputs(), normalise)?;
        let mut chunks: Vec<usize> = samples.iter().map(|&s| feed.chunk_of(s)).collect();
        chunks.dedup();
        let runner = network.runner(&feed.shapes_of(feed.usual()))?;
        let criteria = judging.criteria(&teacher.graph, &network, &runner, &feed, data)?;
        feed.hold(chunks.iter().copied())?;
        let most = batch(&network, &runner, &feed, &chunks, data)?;
        drop(runner);
        let runs = runs(&feed, chunks, most);
        let rows = runs.iter().flat_map(|run| &run.chunks).flat_map(|&i| feed.rows(i));
        let labels = feed.labels().map(|all| rows.map(|row| all[row]).collect());
        let mut judge = Judge {
            data,
            criteria,
            outputs: network.outputs().to_vec(),
            runs,
            answers: Vec::new(),
            labels,
            probabilities: Vec::new(),
            feed,
        };
        judge.answers = judge.walk(&network, &judge.runs.iter().collect::<Vec<_>>(), |_, rows| Ok(rows))?;
        let mut tallies = vec![Tally::default(); judge.outputs.len()];
        for rows in &judge.answers {
            tallies.iter_mut().zip(judge.criteria.compare(rows, rows)).for_each(|(all, next)| all.merge(&next));
        }
        for ((name, tally), judged) in judge.outputs.iter().zip(&tallies).zip(&judge.criteria.outputs) {
            tally.refuse(name, judged.is_some(), data)?;
        }
        judge.probabilities = judge.criteria.outputs.iter().enumerate().map(|(o, j)| judge.are_shares(o, j)).collect();
        Ok(judge)
    }

    /// Samples that students are scored on.
    pub fn samples(&self) -> usize {
        self.answers.len()
    }

    /// A number that says what the samples and their labels are, as the model reads them.
    ///
    /// # Errors
    /// If they cannot be read any more.
    pub fn digest(&self) -> Result<u64> {
        let mut sum = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |word: u64| {
            sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            sum ^= sum >> 32;
        };
        for run in &self.runs {
            for input in self.inputs(run)? {
                let (words, rest) = input.bytes().as_chunks::<8>();
                words.iter().for_each(|w| add(u64::from_le_bytes(*w)));
                add(rest.iter().fold(1, |word, &byte| word << 8 | u64::from(byte)));
            }
        }
        self.labels.iter().flatten().for_each(|&label| add(label as u64));
        Ok(sum)
    }

    /// Runs a student on all samples; the same bits for any number of threads.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn score(&self, student: &Model) -> Result<Score> {
        self.score_some(student, usize::MAX)
    }

    /// As [`Judge::score`], on about so many samples, evenly spread.
    ///
    /// # Errors
    /// If the student cannot be run.
    pub fn score_some(&self, student: &Model, samples: usize) -> Result<Score> {
        let network = Network::of_model("the student", student)?;
        let wanted = samples.saturating_mul(self.runs.len()).div_ceil(self.samples().max(1));
        let wanted = wanted.clamp(1, self.runs.len().max(1));
        let some: Vec<&BatchRun> = evenly(wanted, self.runs.len()).map(|i| &self.runs[i]).collect();
        let mut sums = Sums::default();
        self.walk(&network, &some, |sample, rows| self.add(&mut sums, sample, &rows))?;
        Ok(self.sum(&sums))
    }

    /// Runs some of the runs, many at a time, and hands the answers to each sample to `hear` in order.
    fn walk<T>(
        &self,
        network: &Network,
        runs: &[&BatchRun],
        mut hear: impl FnMut(usize, Vec<SampleOutput>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let (mut heard, mut plans, mut left) = (Vec::new(), Plans::default(), runs);
        let shapes = |plan: usize| {
            let run = self.runs.iter().find(|run| run.plan == plan).ok_or_else(|| Error::internal("no such plan"))?;
            Ok(self.shapes(run))
        };
        while !left.is_empty() {
            let some = Plans::<Runner>::next(left, AT_ONCE * rayon::current_num_threads(), |run| run.plan);
            left = &left[some.len()..];
            plans.reach(some, |run| run.plan, |plan| network.runner(&shapes(plan)?))?;
            let answers: Vec<Result<Vec<Vec<SampleOutput>>>> =
                some.par_iter().map(|run| self.run(&plans, run)).collect();
            for (run, rows) in some.iter().zip(answers) {
                for (i, rows) in rows?.into_iter().enumerate() {
                    heard.push(hear(run.first + i, rows)?);
                }
            }
        }
        Ok(heard)
    }

    /// The shapes of what a run takes.
    fn shapes(&self, run: &BatchRun) -> Vec<Vec<usize>> {
        stacked_shapes(&self.feed.shapes(run.chunks[0]), &self.criteria.inputs, run.batch)
    }

    fn inputs(&self, run: &BatchRun) -> Result<Vec<Array>> {
        stack(&self.feed, &run.chunks, &self.criteria.inputs, &self.shapes(run), self.data)
    }

    /// The answers to some chunks at once, by sample, by output.
    fn run(&self, plans: &Plans<Runner>, run: &BatchRun) -> Result<Vec<Vec<SampleOutput>>> {
        let runner = plans.get(run.plan).ok_or_else(|| Error::internal("a plan is missing"))?;
        let outputs = runner.run(&self.inputs(run)?)?;
        let mut by_output = answers(&outputs, &self.outputs, run.batch * self.feed.batch(), run.samples)?;
        let mut rows: Vec<Vec<SampleOutput>> =
            (0..run.samples).map(|_| by_output.iter_mut().filter_map(Vec::pop).collect()).collect();
        rows.reverse();
        Ok(rows)
    }

    fn are_shares(&self, output: usize, judged: &Option<OutputRule>) -> bool {
        let Some(judged) = judged.as_ref().filter(|j| is_classes(j)) else { return false };
        self.answers.iter().all(|rows| lines(judged, &rows[output]).iter().all(|line| are_probabilities(line)))
    }

    fn add(&self, sums: &mut Sums, sample: usize, student: &[SampleOutput]) -> Result<()> {
        let teacher = &self.answers[sample];
        let count = self.outputs.len();
        sums.tallies.resize(count, Tally::default());
        sums.divergence.resize(count, (0.0, 0));
        sums.samples += 1;
        let tallies = self.criteria.compare(teacher, student);
        sums.tallies.iter_mut().zip(&tallies).for_each(|(all, next)| all.merge(next));
        for (o, judged) in self.criteria.outputs.iter().enumerate() {
            let Some(judged) = judged.as_ref().filter(|j| is_classes(j)) else { continue };
            let (t, s) = (lines(judged, &teacher[o]), lines(judged, &student[o]));
            let same = t.len() == s.len() && t.iter().zip(&s).all(|(t, s)| t.len() == s.len());
            let kl = |(t, s): (&Vec<f64>, &Vec<f64>)| divergence(t, s, self.probabilities[o]);
            let all = if same { t.iter().zip(&s).map(kl).sum() } else { f64::INFINITY };
            sums.divergence[o] = (sums.divergence[o].0 + all, sums.divergence[o].1 + t.len());
        }
        let label = self.labels.as_ref().map(|labels| labels[sample]);
        let Some(scores) = self.criteria.scores(teacher, student, label) else { return Ok(()) };
        if let Some(label) = label.filter(|&label| label >= scores.classes) {
            return Err(Error::input(format!("a label is {label}, which is not a class of the model"))
                .at(self.data.name())
                .because(format!("the output that names a class has {} classes", scores.classes)));
        }
        sums.scored += 1;
        sums.agree += usize::from(scores.agree);
        for (right, place) in sums.right.iter_mut().zip(scores.places.unwrap_or([usize::MAX; 2])) {
            *right += usize::from(place == 0);
        }
        if let (Some(named), Some(said)) = (label.or(scores.best[0]), scores.best[1])
            && named != said
        {
            *sums.confusion.entry((named, said)).or_default() += 1;
        }
        Ok(())
    }

    fn sum(&self, sums: &Sums) -> Score {
        let share = |n: usize| n as f64 / sums.samples.max(1) as f64;
        let all = sums.scored == sums.samples;
        let accuracy = self.labels.as_ref().filter(|_| all).map(|_| sums.right.map(share));
        let (mut losses, mut worst) = (Vec::new(), f64::NEG_INFINITY);
        for (o, judged) in self.criteria.outputs.iter().enumerate() {
            let Some(judged) = judged else { continue };
            let (tally, (divergence, positions)) = (&sums.tallies[o], sums.divergence[o]);
            let strange = tally.student_non_finite + tally.other_infinities + tally.other_shapes > 0;
            let loss = if is_classes(judged) { divergence / positions.max(1) as f64 } else { tally.variance_lost() };
            losses.push(if strange || loss.is_nan() { f64::INFINITY } else { loss.max(0.0) });
            let by_label = accuracy.filter(|_| self.criteria.scored == Some(o)).map(|[t, s]| t - s);
            let lost = || tally.finish(Some(judged)).verdict.map_or(1.0, |v| v.lost);
            worst = worst.max(by_label.unwrap_or_else(lost));
        }
        Score {
            samples: sums.samples,
            loss: losses.iter().sum::<f64>() / losses.len().max(1) as f64,
            drop: if worst.is_finite() { worst } else { 1.0 },
            accuracy,
            agreement: (all && self.criteria.scored.is_some()).then(|| share(sums.agree)),
            confusion: sums.confusion.iter().map(|(&(class, said), &n)| (class, said, n)).collect(),
        }
    }
}

fn is_classes(judged: &OutputRule) -> bool {
    matches!(judged.reading.kind, OutputKind::Classes | OutputKind::Sequence)
}

/// Scores of classes, by position: of numbers that decide each by itself, those of both decisions.
fn lines(judged: &OutputRule, row: &SampleOutput) -> Vec<Vec<f64>> {
    match judged.reading.threshold {
        Some(0.0) => row.values.iter().map(|&v| vec![0.0, v]).collect(),
        Some(_) => row.values.iter().map(|&v| vec![1.0 - v, v]).collect(),
        None => row.lines(judged.reading.axis.unwrap_or(usize::MAX - 1)).collect(),
    }
}

/// Whether an input's first axis is that of the samples, and open.
fn is_open(spec: &InputSpec) -> bool {
    spec.dims.as_ref().is_some_and(|dims| dims.first() == Some(&None))
}

fn stacked_shapes(shapes: &[Vec<usize>], specs: &[InputSpec], batch: usize) -> Vec<Vec<usize>> {
    let stacked = |(shape, spec): (&Vec<usize>, &InputSpec)| {
        let mut shape = shape.clone();
        shape.iter_mut().take(usize::from(is_open(spec))).for_each(|n| *n *= batch);
        shape
    };
    shapes.iter().zip(specs).map(stacked).collect()
}

/// Divides chunks into runs of at most so many of the same shape. Of one shape all runs but the last are as long, which is
/// filled up; where there are several shapes, one that few samples have must not be filled up to many.
fn runs(feed: &Feed<'_>, chunks: Vec<usize>, most: usize) -> Vec<BatchRun> {
    let chunks = feed.by_shape(chunks);
    let (mut runs, mut first, mut plans) = (Vec::new(), 0, 0);
    for of_kind in chunks.chunk_by(|&a, &b| feed.kind(a) == feed.kind(b)) {
        let batch = match feed.kinds() {
            1 => most,
            _ => of_kind.len().div_ceil(of_kind.len().div_ceil(most)),
        };
        for chunks in of_kind.chunks(batch) {
            let samples = chunks.iter().map(|&i| feed.rows(i).len()).sum();
            runs.push(BatchRun { chunks: chunks.to_vec(), batch, plan: plans, first, samples });
            first += samples;
        }
        plans += 1;
    }
    runs
}

/// Chunks that a model can be run on at once: more than one where all its inputs leave that open, and a run of several says
/// of each sample what a run of that alone says. It is tried on the most common shape, that `one` is for.
fn batch(network: &Network, one: &Runner, feed: &Feed<'_>, chunks: &[usize], data: &Dataset) -> Result<usize> {
    let (specs, names) = (network.inputs(), network.outputs());
    let usual = feed.usual();
    let chunks: Vec<usize> = chunks.iter().copied().filter(|&i| feed.kind(i) == usual).collect();
    let batch = BATCH.min(chunks.len());
    let shapes = feed.shapes_of(usual);
    let single = |(spec, shape): (&InputSpec, &Vec<usize>)| is_open(spec) && shape.first() == Some(&1);
    if batch < 2 || !specs.iter().zip(&shapes).all(single) {
        return Ok(1);
    }
    let many = stacked_shapes(&shapes, specs, batch);
    let inputs = stack(feed, &chunks[..batch], specs, &many, data)?;
    let Ok(together) = network.runner(&many).and_then(|many| answers(&many.run(&inputs)?, names, batch, batch)) else {
        return Ok(1);
    };
    for (at, &chunk) in chunks[..batch].iter().enumerate() {
        let alone = answers(&one.run(&finite(feed, chunk, specs, data)?)?, names, 1, 1)?;
        for (alone, together) in alone.iter().zip(&together) {
            let (a, b) = (&alone[0], &together[at]);
            let largest = a.values.iter().fold(0.0f64, |most, v| most.max(v.abs()));
            let near = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= SAME * largest || a.is_nan() && b.is_nan();
            if a.shape != b.shape || !a.values.iter().zip(&b.values).all(near) {
                return Ok(1);
            }
        }
    }
    Ok(batch)
}

/// The inputs of some chunks as one; where they are fewer than the shapes ask for, the last one is repeated.
fn stack(
    feed: &Feed<'_>,
    chunks: &[usize],
    specs: &[InputSpec],
    shapes: &[Vec<usize>],
    data: &Dataset,
) -> Result<Vec<Array>> {
    let parts = chunks.iter().map(|&i| finite(feed, i, specs, data)).collect::<Result<Vec<_>>>()?;
    let Some(last) = parts.last() else { return Ok(Vec::new()) };
    let stacked = |(i, shape): (usize, &Vec<usize>)| {
        let (dtype, own) = (last[i].dtype(), last[i].bytes().len());
        let copies = (shape.iter().product::<usize>() * dtype.size()).checked_div(own).unwrap_or(1);
        let parts = parts.iter().chain(std::iter::repeat(last)).take(copies);
        Array::new(dtype, shape.clone(), parts.flat_map(|part| part[i].bytes()).copied().collect())
    };
    shapes.iter().enumerate().map(stacked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn model(text: &str) -> Model {
        text::parse::model(text).unwrap()
    }

    const LINEAR: &str = r#"model "m" opset 17 {
  input %x : f32[N,4]
  const %w : f32[3,4] = {1,0,0,0, 0,1,0,0, 0,0,1,0}

  %logits : f32[N,3] = Gemm<transB=1>(%x, %w)

  output %logits
}"#;

    fn data(samples: usize) -> Dataset {
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
        let x = Array::from_f32(vec![samples, 4], &(0..4 * samples).map(value).collect::<Vec<_>>()).unwrap();
        let y: Vec<u8> = (0..samples).flat_map(|i| ((i % 3) as i64).to_le_bytes()).collect();
        let y = Array::new(crate::data::Dtype::I64, vec![samples], y).unwrap();
        Dataset::from_arrays("d.npz", [("x".to_string(), x), ("y".to_string(), y)])
    }

    fn judge<'a>(teacher: &Model, data: &'a Dataset, samples: usize) -> Judge<'a> {
        let picks: Vec<usize> = (0..samples).collect();
        Judge::new(teacher, data, &Normalise::default(), &picks, &Judging::default()).unwrap()
    }

    #[test]
    fn a_copy_loses_nothing_and_another_network_something() {
        let data = data(37);
        let teacher = model(LINEAR);
        let judge = judge(&teacher, &data, 37);
        let same = judge.score(&teacher).unwrap();
        assert_eq!((same.samples, same.loss, same.drop, same.agreement), (37, 0.0, 0.0, Some(1.0)));
        let turned = model(&LINEAR.replace("{1,0,0,0, 0,1,0,0", "{0,1,0,0, 1,0,0,0"));
        let other = judge.score(&turned).unwrap();
        let wrong: usize = other.confusion.iter().map(|c| c.2).sum();
        let [_, student] = other.accuracy.unwrap();
        assert!(other.loss > 0.1 && other.agreement.unwrap() < 0.9);
        assert!((student - (1.0 - wrong as f64 / 37.0)).abs() < 1e-9);
    }

    #[test]
    fn a_batch_is_as_good_as_one_at_a_time() {
        let data = data(37);
        let (open, fixed) = (model(LINEAR), model(&LINEAR.replace("f32[N,", "f32[1,")));
        let turned = |m: &str| model(&m.replace("{1,0,0,0", "{0.5,0.5,0,0"));
        let (many, one) = (judge(&open, &data, 37), judge(&fixed, &data, 37));
        assert_eq!((many.runs[0].batch, one.runs[0].batch), (BATCH, 1));
        let (many, one) = (many.score(&turned(LINEAR)), one.score(&turned(&LINEAR.replace("f32[N,", "f32[1,"))));
        let (many, one) = (many.unwrap(), one.unwrap());
        assert!((many.loss - one.loss).abs() < 1e-6 && many.confusion == one.confusion);
    }

    #[test]
    fn numbers_are_judged_by_their_variance() {
        let named = LINEAR.replace("%logits", "%offsets");
        let unlabelled = Dataset::from_arrays("d.npz", [("x".to_string(), data(20).array("x").unwrap().clone())]);
        let judge = judge(&model(&named), &unlabelled, 20);
        let none = judge.score(&model(&named.replace("{1,0,0,0, 0,1,0,0, 0,0,1,0}", "{0,0,0,0, 0,0,0,0, 0,0,0,0}")));
        let none = none.unwrap();
        assert!(none.loss > 0.9 && none.accuracy.is_none() && none.agreement.is_none(), "{none:?}");
    }

    #[test]
    fn what_is_not_finite_is_infinitely_far_and_survives_json() {
        let data = data(20);
        let judge = judge(&model(LINEAR), &data, 20);
        let broken = judge.score(&model(&LINEAR.replace("{1,0", "{nan,0"))).unwrap();
        assert_eq!(broken.loss, f64::INFINITY);
        let again: Score = serde_json::from_str(&serde_json::to_string(&broken).unwrap()).unwrap();
        assert_eq!(again, broken);
    }
}
