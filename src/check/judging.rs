//! What each output is and how it is judged: as the user says, else as graph and answers show.

use super::compare::{SampleOutput, SampleScores};
use super::reading::{Facts, OutputKind, Reading};
use super::run::{answers, finite};
use super::tally::{OutputRule, Tally, usual_metric};
use super::verdict::Metric;
use crate::analysis::ending::{Ending, ending};
use crate::analysis::reach::weighted_outputs;
use crate::data::{Dataset, Feed, InputSpec, evenly};
use crate::error::{Error, Result};
use crate::exec::{Network, Runner};
use crate::ir::Graph;

/// Samples of the teacher's answers that show what its outputs are.
const LOOKED_AT: usize = 32;
/// Kinds of shapes among them.
const KINDS: usize = 4;
/// Coordinates of a box.
const BOX: usize = 4;

/// What the user says of outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judging {
    /// What outputs are, by name.
    pub kinds: Vec<(String, OutputKind)>,
    /// What outputs are judged by; without a name, all of them.
    pub metrics: Vec<(Option<String>, Metric)>,
}

impl Judging {
    /// Adds what `NAME=KIND` says.
    ///
    /// # Errors
    /// If it does not read so.
    pub fn output(&mut self, text: &str) -> Result<()> {
        let pair = text.rsplit_once('=').and_then(|(name, kind)| Some((name.to_string(), OutputKind::parse(kind)?)));
        self.kinds.push(pair.ok_or_else(|| unknown(text, &format!("NAME={}", OutputKind::WORDS)))?);
        Ok(())
    }

    /// Adds what `METRIC` or `NAME=METRIC` says.
    ///
    /// # Errors
    /// If it does not read so.
    pub fn metric(&mut self, text: &str) -> Result<()> {
        let (name, word) = text.rsplit_once('=').map_or((None, text), |(name, word)| (Some(name.to_string()), word));
        let metric =
            Metric::parse(word).ok_or_else(|| unknown(text, &format!("{}, or OUTPUT=METRIC", Metric::WORDS)))?;
        self.metrics.push((name, metric));
        Ok(())
    }

    /// # Errors
    /// If it names an output that is not among these.
    pub(super) fn fits(&self, outputs: &[String]) -> Result<()> {
        let named = self.kinds.iter().map(|k| &k.0).chain(self.metrics.iter().filter_map(|m| m.0.as_ref()));
        match named.into_iter().find(|name| !outputs.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Error::input(format!("the model has no output `{name}`"))
                .help(format!("its outputs are `{}`", outputs.join("`, `")))),
        }
    }

    /// What every output of the teacher, whose graph this is, is: found out on a few samples. `usual` runs those of the most
    /// common shape.
    ///
    /// # Errors
    /// If the teacher cannot be run, or a metric does not fit what an output is.
    pub(super) fn criteria(
        &self,
        graph: &Graph,
        teacher: &Network,
        usual: &Runner,
        feed: &Feed<'_>,
        data: &Dataset,
    ) -> Result<Criteria> {
        let (inputs, names) = (teacher.inputs(), teacher.outputs());
        let place = |name: &String| graph.outputs().iter().position(|&v| graph.value(v).name == *name);
        let weighted = weighted_outputs(graph);
        let mut reached: Vec<bool> =
            names.iter().map(|n| place(n).is_none_or(|i| weighted.get(i) == Some(&true))).collect();
        // A network without weights has nothing that could be lost, and all outputs say the same of it.
        if !reached.contains(&true) {
            reached.fill(true);
        }

        let mut rows: Vec<Vec<SampleOutput>> = vec![Vec::new(); names.len()];
        let (mut ranks, mut integers) = (vec![0; names.len()], vec![false; names.len()]);
        let looked_at = looked_at(feed);
        feed.hold(looked_at.iter().copied())?;
        let mut other: Option<(usize, Runner)> = None;
        for i in looked_at {
            let kind = feed.kind(i);
            if kind != feed.usual() && other.as_ref().is_none_or(|(known, _)| *known != kind) {
                other = Some((kind, teacher.runner(&feed.shapes(i))?));
            }
            let runner = other.as_ref().filter(|(known, _)| *known == kind).map_or(usual, |(_, runner)| runner);
            let outputs = runner.run(&finite(feed, i, inputs, data)?)?;
            for (o, output) in outputs.iter().enumerate() {
                (ranks[o], integers[o]) = (output.shape().len(), !output.dtype().is_float());
            }
            let answers = answers(&outputs, names, feed.batch(), feed.rows(i).len())?;
            rows.iter_mut().zip(answers).for_each(|(all, more)| all.extend(more));
        }
        // The largest answer shows all axes that have several places.
        for rows in &mut rows {
            let len = |at: &usize| rows[*at].values.len();
            let largest = (0..rows.len()).rev().max_by_key(len);
            largest.into_iter().for_each(|at| rows.swap(0, at));
        }
        let labels = feed.labels().and_then(|l| l.iter().copied().max());
        let boxes: Vec<&[usize]> = rows.iter().filter_map(|r| Some(&*r.first()?.shape)).collect();
        let mut outputs = Vec::new();
        for (o, name) in names.iter().enumerate() {
            let end = place(name).map_or(Ending::default(), |i| ending(graph, i));
            let shape = rows[o].first().map_or(&[][..], |r| &r.shape);
            let facts = Facts {
                name,
                ending: &end,
                rows: &rows[o],
                batch_axes: ranks[o] - shape.len(),
                labels,
                beside_boxes: boxes.iter().enumerate().any(|(b, other)| b != o && are_boxes(other, shape)),
            };
            let given = self.kinds.iter().rev().find(|k| k.0 == *name).map(|k| k.1);
            let own = |m: &&(Option<String>, Metric)| m.0.as_ref() == Some(name);
            let metric = self.metrics.iter().rev().find(own).or(self.metrics.iter().rev().find(|m| m.0.is_none()));
            let metric = metric.map(|m| m.1);
            if !reached[o] && given.is_none() {
                outputs.push(None);
                continue;
            }
            let mut reading = match given {
                Some(kind) => Reading::given(kind, &facts),
                None if integers[o] => Reading::whole_numbers(),
                None => Reading::infer(&facts),
            };
            reading.guessed &= metric.is_none();
            let metric = metric.unwrap_or(usual_metric(reading.kind, integers[o]));
            let first = rows[o].first().cloned().unwrap_or_default();
            let alone = reading.axis.and_then(|a| first.shape.get(a)).is_none_or(|&n| n < 2);
            if matches!(metric, Metric::Top1 | Metric::Sequence) && alone && reading.threshold.is_none() {
                return Err(Error::input(format!("output `{name}` cannot be judged by {metric}"))
                    .because("it has one number a position, not one a class")
                    .help(format!(
                        "leave --metric away for it, or say what it is: --output '{name}={}'",
                        OutputKind::WORDS
                    )));
            }
            outputs.push(Some(OutputRule { reading, metric, first }));
        }
        let scored = outputs.iter().position(|j| j.as_ref().is_some_and(|j| ClassScores::of(j, labels).is_some()));
        Ok(Criteria { outputs, scored, labels, inputs: inputs.to_vec() })
    }
}

/// Chunks whose answers show what outputs are, kind by kind; of a few kinds only, for each of which a plan is made.
fn looked_at(feed: &Feed<'_>) -> Vec<usize> {
    let evenly: Vec<usize> = evenly(LOOKED_AT.div_ceil(feed.batch()), feed.chunks()).collect();
    let mut kinds = vec![feed.usual()];
    evenly.iter().map(|&i| feed.kind(i)).for_each(|kind| {
        if !kinds.contains(&kind) && kinds.len() < KINDS {
            kinds.push(kind);
        }
    });
    feed.by_shape(evenly.into_iter().filter(|&i| kinds.contains(&feed.kind(i))))
}

fn unknown(text: &str, form: &str) -> Error {
    Error::input(format!("\"{text}\" does not say how to judge an output")).help(format!("write {form}"))
}

/// Whether an output has four numbers for each position of another.
fn are_boxes(boxes: &[usize], scores: &[usize]) -> bool {
    let (mut a, mut b) = (boxes.to_vec(), scores.to_vec());
    a.retain(|&n| n > 1);
    b.retain(|&n| n > 1);
    let at = a.iter().position(|&n| n == BOX);
    a.len() == 2 && b.len() == 2 && at.is_some_and(|at| b.contains(&a[1 - at]))
}

/// How every output is judged. It knows no files and runs nothing: answers come in, sums go out.
pub(super) struct Criteria {
    /// `None` for an output that is not judged.
    pub outputs: Vec<Option<OutputRule>>,
    /// The output that names a class for each sample.
    pub scored: Option<usize>,
    labels: Option<usize>,
    pub inputs: Vec<InputSpec>,
}

/// How a class is read from an answer.
enum ClassScores {
    /// A score a class.
    SampleOutput,
    /// One number: a decision above this.
    Above(f64),
}

impl ClassScores {
    /// `None` for an output that names no class for the sample as a whole; `labels` is the largest label.
    fn of(judged: &OutputRule, labels: Option<usize>) -> Option<ClassScores> {
        let wide = judged.first.shape.iter().filter(|&&n| n > 1).count();
        match (judged.reading.kind, judged.reading.threshold, wide) {
            (OutputKind::Classes, None, 1) if judged.metric != Metric::Equal => Some(ClassScores::SampleOutput),
            (OutputKind::Classes, Some(at), 0) if labels.is_none_or(|l| l < 2) => Some(ClassScores::Above(at)),
            _ => None,
        }
    }

    fn row(&self, answer: &SampleOutput) -> SampleOutput {
        let v = answer.values.first().copied().unwrap_or(f64::NAN);
        match self {
            ClassScores::SampleOutput => answer.clone(),
            ClassScores::Above(at) if *at == 0.0 => SampleOutput { shape: vec![2], values: vec![0.0, v] },
            ClassScores::Above(_) => SampleOutput { shape: vec![2], values: vec![1.0 - v, v] },
        }
    }
}

impl Criteria {
    /// Teacher and student on one sample, by output.
    pub fn compare(&self, teacher: &[SampleOutput], student: &[SampleOutput]) -> Vec<Tally> {
        let pairs = teacher.iter().zip(student).zip(&self.outputs);
        pairs.map(|((t, s), judged)| Tally::of(judged.as_ref(), t, s)).collect()
    }

    /// Both on the class scores of one sample.
    pub fn scores(
        &self,
        teacher: &[SampleOutput],
        student: &[SampleOutput],
        label: Option<usize>,
    ) -> Option<SampleScores> {
        let o = self.scored?;
        let scored = ClassScores::of(self.outputs[o].as_ref()?, self.labels)?;
        let (t, s) = (scored.row(teacher.get(o)?), scored.row(student.get(o)?));
        if t.values.len() != s.values.len() { None } else { SampleScores::new(&t, &s, label) }
    }
}
