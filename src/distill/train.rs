//! Training a student from end to end: batches, augmentation, what is held back, the best student, divergence.

mod network;
mod options;
mod range;
mod samples;
mod score;
mod state;

pub use network::{Ends, LogitLayout, Teacher, ends, teacher};
pub use options::{Length, Options};
pub use samples::{Augment, Memory, Samples, divide};
pub use score::{Answers, Epoch, HeldBackScore};
pub use state::TrainingState;

pub(super) use network::TrainingNetwork;
pub(super) use samples::Batch;

use super::codebooks::{self, Codebooks, Freed};
use super::loss;
use super::optimizer::{Method, Optimizer};
use super::structure::{SparsityMask, write_back};
use crate::autodiff::sources;
use crate::autodiff::{Mode, Variables};
use crate::error::{Error, Result};
use crate::ir::Graph;
use crate::ir::random::noise;
use range::RateRange;
use std::time::Instant;

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingOutcome {
    pub epochs: Vec<Epoch>,
    /// Which of them the student is from.
    pub best: usize,
    /// Peak of the learning rate at the end.
    pub rate: f64,
    /// Constants that trained, and how many of them have zeros that stayed.
    pub trained: usize,
    pub zeros: usize,
    /// Nodes that make weights of constants in a way that is not trained through.
    pub makers: Vec<String>,
    /// Of a classifier.
    pub answers: Option<Answers>,
    /// Where the watcher ended it, if that was before its end: `in epoch 3 of 10`.
    pub ended: Option<String>,
}

/// By sample, the teachers' probabilities at the temperature, as far as they were asked.
pub type TeacherAnswers = Vec<Option<Vec<f32>>>;

/// Somebody who follows the training, may end it, and may keep what it takes to go on with it.
pub trait TrainingWatch {
    /// Before it begins: gives `take` the bytes of the [`TrainingState`] to go on with, if there is one, of the same student,
    /// samples, teachers and options.
    ///
    /// # Errors
    /// Whatever prevents it from being read or taken; it ends the training, as do those of [`TrainingWatch::keep`].
    fn resume(&mut self, _take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }

    /// While the training is prepared: what for, and the share of that which is behind. `false` ends the preparation.
    fn prepare(&mut self, _what: &str, _share: f64) -> bool {
        true
    }

    /// After a step with so many samples, with the share of the training that is behind. `false` ends it; the best student
    /// is kept.
    fn step(&mut self, _share: f64, _samples: usize) -> bool {
        true
    }

    fn epoch(&mut self, _epoch: &Epoch) {}

    /// What the teachers said of the same samples in a training before, if [`TrainingWatch::asked`] was told.
    fn known(&mut self) -> Option<TeacherAnswers> {
        None
    }

    /// After a training before which they were asked about all samples.
    fn asked(&mut self, _known: TeacherAnswers) {}

    /// After every epoch that was not cut short.
    ///
    /// # Errors
    /// Whatever prevents it from being written.
    fn keep(&mut self, _course: &TrainingState) -> Result<()> {
        Ok(())
    }
}

/// Nobody.
pub struct Unwatched;

impl TrainingWatch for Unwatched {}

/// A rate is lowered by this factor when training diverges,
const LOWER: f64 = 0.3;
/// so often at most.
const RESTARTS: usize = 4;
/// It does when the loss is so many times that of a student that gives every class the same probability.
const FAR: f64 = 3.0;
/// A training by the clock is counted in parts of it.
const PARTS: usize = 1_000_000;
/// A weight behind a code moves at most so many times from one centroid to the next in a training at its peak rate: if it
/// does so more often, codes change to and fro, and what they were chosen for is lost.
const GAPS: f64 = 16.0;
/// Of the random numbers for the range test.
const RANGE_SEED: u64 = 0x7261_6e67_6500_0000;

/// Trains the weights of a network on what teachers say, on labels, or on both, and leaves the best student in it.
///
/// # Errors
/// If there is nothing to learn from or nothing that trains, if the graph cannot be trained through, or if a teacher or
/// the watcher fails.
pub fn train(
    graph: &mut Graph,
    samples: &dyn Samples,
    teachers: &mut [Teacher<'_>],
    options: &Options,
    watch: &mut dyn TrainingWatch,
) -> Result<TrainingOutcome> {
    let mut freed = if options.reassign { codebooks::free(graph, &options.frozen)? } else { Freed::nothing(graph) };
    let mut run = TrainingRun::new(&mut freed, samples, teachers, options)?;
    let course = run.train(watch)?;
    run.restore(&course.kept);
    run.judge()?;
    if run.asked {
        watch.asked(std::mem::take(&mut run.known));
    }
    run.student.tape.store(&mut freed.graph)?;
    write_back(&freed.graph, graph)?;
    run.codebooks.store(graph)?;
    let (trained, zeros) = (run.student.tape.parameters().len(), run.zeros.count());
    let TrainingState { epochs, best, peak: rate, .. } = course;
    Ok(TrainingOutcome {
        epochs,
        best,
        rate,
        trained,
        zeros,
        makers: run.makers,
        answers: run.answers,
        ended: run.ended,
    })
}

/// What the teachers say of a batch.
struct BatchTargets {
    /// Mean of their probabilities, at the temperature.
    soft: Option<Vec<f32>>,
    features: Vec<Vec<f32>>,
}

struct TrainingRun<'a, 't> {
    student: TrainingNetwork,
    codebooks: Codebooks,
    zeros: SparsityMask,
    makers: Vec<String>,
    samples: &'a dyn Samples,
    teachers: &'a mut [Teacher<'t>],
    options: &'a Options,
    labels: Option<&'a [usize]>,
    batch: usize,
    trained: Vec<usize>,
    held_back: Vec<usize>,
    x: Batch,
    /// Of samples as they are, where probabilities were asked for and nothing else is.
    known: TeacherAnswers,
    /// Whether the teachers were asked about all samples beforehand.
    asked: bool,
    /// Whether the samples that are held back differ,
    differ: bool,
    /// and the student gave the same for all of them when it was last judged.
    dead: bool,
    /// What was answered then.
    answers: Option<Answers>,
    ended: Option<String>,
    since: Instant,
}

impl<'a, 't> TrainingRun<'a, 't> {
    fn new(
        freed: &mut Freed,
        samples: &'a dyn Samples,
        teachers: &'a mut [Teacher<'t>],
        options: &'a Options,
    ) -> Result<Self> {
        let refuse = |why: &str| Err(Error::input("cannot train the student").because(why));
        let (n, labels) = (samples.count(), samples.labels());
        if teachers.is_empty() && !options.features.is_empty() {
            return refuse("there is no teacher to take features from");
        }
        if labels.is_some_and(|l| l.len() != n) {
            return refuse("the samples are not as many as their labels");
        }
        let image = matches!(samples.inputs(), [(_, shape)] if shape.len() == 3);
        if !image && !options.augment.is_empty() {
            return refuse("only images, of three axes, can be flipped and cropped");
        }
        if options.batch == 0 || !(0.0..1.0).contains(&options.hold_back) || options.temperature <= 0.0 {
            return refuse("a batch must have samples, a share must be below 1, and a temperature above 0");
        }
        let Some([trained, held_back]) = samples::divide(n, options.hold_back, options.seed) else {
            return refuse("there are too few samples to hold one back");
        };
        let batch = options.batch_of(n);
        let graph = &freed.graph;
        let values = [&options.exits[..], &options.features[..]].concat();
        let settled = graph.settled_at(&ends(graph, samples, batch, &[])?.shapes)?;
        let (found, makers) = sources(&settled);
        // What shape arithmetic has made, where the graph computes, has no place in the file to be written back to.
        let (trainable, made): (Vec<_>, Vec<_>) = found.into_iter().partition(|&v| graph.value(v).constant().is_some());
        let makers = makers.into_iter().chain(made.into_iter().filter_map(|v| graph.producer(v).map(|p| p.0)));
        let makers = makers.map(|n| format!("{} \"{}\"", graph.node(n).kind(), graph.label(n))).collect();
        let trainable = trainable.into_iter().filter(|&v| !options.frozen.contains(&graph.value(v).name)).collect();
        let student = TrainingNetwork::new(graph, samples, batch, &values, &trainable)?;
        let single = student.logits.filter(|logits| logits.positions == 1).map(|logits| logits.classes);
        if single.is_none() && !options.exits.is_empty() {
            return refuse("only a classifier has exits");
        }
        if student.tape.parameters().is_empty() {
            return refuse("no constant of it trains: its weights are no initializers");
        }
        // A label is the class of a sample, and of no position.
        let labels = labels.filter(|_| single.is_some());
        if teachers.is_empty() && labels.is_none() {
            return refuse("there are neither labels that it could take nor a teacher to learn from")
                .map_err(|e: Error| e.help("leave `teachers` away, or give data with the class of each sample"));
        }
        if let (Some(classes), Some(labels)) = (single, labels)
            && let Some(label) = labels.iter().find(|&&l| l >= classes)
        {
            return refuse(&format!("there is a label {label}, and it has {classes} classes"));
        }
        let zeros = SparsityMask::of(graph, &student.tape);
        let (first, mut differ) = (samples.read(held_back[0])?, false);
        for &sample in &held_back {
            differ = differ || samples.read(sample)? != first;
        }
        Ok(TrainingRun {
            codebooks: freed.codebooks(&student.tape),
            student,
            zeros,
            makers,
            samples,
            teachers,
            options,
            labels,
            batch,
            trained,
            held_back,
            x: Batch::new(samples, batch),
            differ,
            known: vec![None; n],
            asked: false,
            dead: false,
            answers: None,
            ended: None,
            since: Instant::now(),
        })
    }

    fn optimizer(&self) -> Optimizer<f32> {
        Optimizer::new(self.options.method, self.options.weight_decay)
    }

    fn state(&mut self) -> Variables<f32> {
        self.codebooks.state(&mut self.student.tape)
    }

    fn restore(&mut self, state: &Variables<f32>) {
        self.codebooks.restore(&mut self.student.tape, state);
    }

    /// Where the watcher left off, or the beginning.
    fn begin(&mut self, watch: &mut dyn TrainingWatch) -> Result<TrainingState> {
        let state = self.state();
        let &Options { method, weight_decay, .. } = self.options;
        let mut course = None;
        watch.resume(&mut |bytes| {
            course = TrainingState::of_bytes(bytes, method, weight_decay).filter(|course| course.fits(&state));
            course.is_some().then_some(()).ok_or_else(TrainingState::damaged)
        })?;
        self.ask(watch)?;
        if let Some(course) = course {
            self.restore(&course.now);
            return Ok(course);
        }
        let start = self.judge()?;
        if !start.loss.is_finite() {
            let mut weights = self.student.tape.parameters().iter().zip(&state.0);
            let why = match weights.find(|(_, w)| w.iter().any(|v| !v.is_finite())) {
                Some((weight, _)) => format!("its weight \"{}\" has numbers that are not finite", weight.name),
                None => "before it is trained, its loss on samples that are held back is not finite".into(),
            };
            return Err(Error::input("cannot train the student").because(why));
        }
        let first = Epoch { number: 0, loss: start.loss, held_back: start, diverged: false };
        watch.epoch(&first);
        Ok(TrainingState {
            epochs: vec![first],
            best: 0,
            peak: self.options.rate.map_or_else(|| self.range_test(watch), Ok)?,
            done: 0,
            restarts: 0,
            seconds: 0.0,
            now: state.clone(),
            kept: state,
            optimizer: self.optimizer(),
        })
    }

    /// Asks the teachers about all samples in one order, if they are to be asked about them as they are: the place in a
    /// batch can change the last bits of what is said, and a training that is gone on with has other batches first.
    fn ask(&mut self, watch: &mut dyn TrainingWatch) -> Result<()> {
        let options = self.options;
        let all = match options.length {
            Length::Epochs(n) => n > 0,
            Length::Steps(n) => n >= self.per_epoch(),
            Length::Minutes(_) => false,
        };
        if !all || self.teachers.is_empty() || !options.augment.is_empty() || !options.features.is_empty() {
            return Ok(());
        }
        if let Some(known) = watch.known() {
            (self.known, self.asked) = (known, true);
            return Ok(());
        }
        for (i, chunk) in self.trained.clone().chunks(self.batch).enumerate() {
            let share = (i * self.batch) as f64 / self.trained.len() as f64;
            if !watch.prepare("asking the teachers", share) {
                return Ok(());
            }
            let batch = self.filled(chunk);
            self.x.fill(self.samples, &batch, &[], &mut std::iter::empty())?;
            self.targets(&batch, true)?;
        }
        self.asked = true;
        Ok(())
    }

    /// A batch of what may be too few samples: the last one fills it up.
    fn filled(&self, samples: &[usize]) -> Vec<usize> {
        (0..self.batch).map(|i| samples[i.min(samples.len() - 1)]).collect()
    }

    /// Steps that are done, and all there are to be, or by the clock, parts of the time.
    fn position(&self, course: &TrainingState) -> (usize, usize) {
        match self.options.length {
            Length::Epochs(n) => (course.done, n * self.per_epoch()),
            Length::Steps(n) => (course.done, n),
            Length::Minutes(minutes) => {
                let share = (course.seconds + self.since.elapsed().as_secs_f64()) / (60.0 * minutes);
                ((share * PARTS as f64) as usize, PARTS)
            }
        }
    }

    /// How far it is, in the words of its length.
    fn place(&self, course: &TrainingState) -> String {
        let (done, all) = self.position(course);
        match self.options.length {
            Length::Epochs(n) => format!("in epoch {} of {n}", done.div_ceil(self.per_epoch()).max(1)),
            Length::Steps(n) => format!("after {done} of {n} steps"),
            Length::Minutes(n) => format!("after {:.1} of {n} minutes", n * done as f64 / all as f64),
        }
    }

    fn per_epoch(&self) -> usize {
        self.trained.len() / self.batch
    }

    fn train(&mut self, watch: &mut dyn TrainingWatch) -> Result<TrainingState> {
        let mut course = self.begin(watch)?;
        let start = course.epochs[0].loss;
        let over = |run: &Self, course: &TrainingState| {
            let (done, all) = run.position(course);
            done >= all || course.restarts == RESTARTS
        };
        while !over(self, &course) {
            let number = course.epochs.len();
            let mut random = noise(self.options.seed ^ (number as u64) << 32);
            let mut order = self.trained.clone();
            samples::shuffle(&mut order, &mut random);
            let (mut total, mut taken, mut goes_on, before) = (0.0, 0, true, course.done);
            for batch in order.chunks_exact(self.batch) {
                let loss = self.step(batch, &mut random)?;
                total += loss;
                taken += 1;
                if !loss.is_finite() {
                    break;
                }
                let (done, all) = self.position(&course);
                let rate = self.options.schedule.rate(done.min(all), all, course.peak);
                self.codebooks.step(&mut course.optimizer, &mut self.student.tape, rate);
                course.done += 1;
                let (done, all) = self.position(&course);
                goes_on = watch.step(done as f64 / all as f64, batch.len());
                if !goes_on || done >= all {
                    break;
                }
            }
            let held_back = self.judge()?;
            let loss = total / taken.max(1) as f64;
            let far = !loss.is_finite() || !held_back.is_within(FAR * self.ignorance().max(start));
            let diverged = far || self.dead;
            let epoch = Epoch { number, loss, held_back, diverged };
            watch.epoch(&epoch);
            if diverged {
                self.restore(&course.kept);
                (course.optimizer, course.peak) = (self.optimizer(), course.peak * LOWER);
                (course.restarts, course.done) = (course.restarts + 1, before + self.per_epoch());
            } else if held_back.better_than(&course.epochs[course.best].held_back) {
                (course.kept, course.best) = (self.state(), number);
            }
            course.epochs.push(epoch);
            if !goes_on {
                self.ended = (!over(self, &course)).then(|| self.place(&course));
                break;
            }
            course.now = self.state();
            course.seconds += std::mem::replace(&mut self.since, Instant::now()).elapsed().as_secs_f64();
            watch.keep(&course)?;
        }
        Ok(course)
    }

    /// A peak for the learning rate: steps whose rates grow, and back to where they began.
    fn range_test(&mut self, watch: &mut dyn TrainingWatch) -> Result<f64> {
        let (start, since, mut optimizer) = (self.state(), Instant::now(), self.optimizer());
        let mut random = noise(self.options.seed ^ RANGE_SEED);
        let mut order = self.trained.clone();
        samples::shuffle(&mut order, &mut random);
        let mut range = RateRange::new(match self.options.method {
            Method::AdamW { .. } | Method::Lamb { .. } => 0.1,
            Method::Sgd { .. } => 10.0,
        });
        let (batch, mut at) = (self.batch, 0);
        while let Some(rate) = range.next() {
            if !watch.prepare("finding a learning rate", range.steps() as f64 / range::STEPS as f64) {
                break;
            }
            at = if at + batch > order.len() { 0 } else { at };
            range.note(self.step(&order[at..at + batch], &mut random)?);
            self.codebooks.step(&mut optimizer, &mut self.student.tape, rate);
            at += batch;
        }
        self.restore(&start);
        let all = match self.options.length {
            Length::Epochs(n) => (n * self.per_epoch()) as f64,
            Length::Steps(n) => n as f64,
            Length::Minutes(minutes) => 60.0 * minutes * range.steps() as f64 / since.elapsed().as_secs_f64(),
        };
        // A step of AdamW is about as long as its rate.
        let calm = match (self.options.method, self.codebooks.gap()) {
            (Method::AdamW { .. }, Some(gap)) => GAPS * gap / all.max(1.0),
            _ => f64::INFINITY,
        };
        Ok(range.peak().min(calm))
    }

    /// A bound on the loss of a student that gives every class the same probability, and no features.
    fn ignorance(&self) -> f64 {
        let &Options { temperature, alpha, .. } = self.options;
        let share = match (self.teachers.is_empty(), self.labels) {
            (true, _) => 0.0,
            (false, Some(_)) => alpha,
            (false, None) => 1.0,
        };
        let classes = self.student.logits.map_or(1, |logits| logits.classes) as f64;
        let features = f64::from(u8::from(!self.options.features.is_empty()));
        (share * temperature * temperature + 1.0 - share) * classes.ln() + features
    }

    /// Forward and backward of a batch; gives its loss.
    fn step(&mut self, batch: &[usize], random: &mut impl Iterator<Item = f64>) -> Result<f64> {
        let options = self.options;
        self.x.fill(self.samples, batch, &options.augment, random)?;
        let targets = self.targets(batch, options.augment.is_empty())?;
        self.student.forward(&self.x, Mode::Train);
        let (loss, by) = self.loss(&self.student.outputs(), batch, &targets);
        if loss.is_finite() {
            self.student.tape.backward(&by);
            self.zeros.hold(&mut self.student.tape);
        }
        Ok(loss)
    }

    /// The loss of what the student gives for these samples, and its gradient by each output.
    fn loss(&self, outputs: &[&[f32]], samples: &[usize], targets: &BatchTargets) -> (f64, Vec<Vec<f32>>) {
        let &Options { temperature, alpha, .. } = self.options;
        let (mut total, mut by) = (0.0, Vec::new());
        let heads = self.student.logits.map_or(0, |_| 1 + self.options.exits.len());
        let (answers, features) = outputs.split_at(heads);
        for (&y, k) in answers.iter().zip(self.student.logits.iter().map(|logits| logits.classes).cycle()) {
            let labels = self.labels.map(|l| samples.iter().map(|&i| l[i]).collect::<Vec<_>>());
            let (loss, mut gradient) = match (&targets.soft, labels) {
                (Some(soft), labels) => loss::distillation(y, soft, labels.as_deref(), k, temperature, alpha),
                (None, Some(labels)) => loss::cross_entropy(y, &labels, k),
                (None, None) => (0.0, vec![0.0; y.len()]),
            };
            gradient.iter_mut().for_each(|g| *g /= heads as f32);
            total += loss / heads as f64;
            by.push(gradient);
        }
        let share = 1.0 / targets.features.len().max(1) as f64;
        for (y, target) in features.iter().zip(&targets.features) {
            let (loss, mut gradient) = loss::relative(y, target);
            gradient.iter_mut().for_each(|g| *g *= share as f32);
            total += share * loss;
            by.push(gradient);
        }
        (total, by)
    }

    /// What the teachers say of the batch; probabilities are remembered, if it is the samples as they are.
    fn targets(&mut self, batch: &[usize], as_they_are: bool) -> Result<BatchTargets> {
        let (layout, features) = (self.student.logits, self.options.features.len());
        let mut targets = BatchTargets { soft: None, features: Vec::new() };
        if self.teachers.is_empty() {
            return Ok(targets);
        }
        let remembers = as_they_are && features == 0;
        let known = batch.iter().map(|&i| self.known[i].as_ref()).collect::<Option<Vec<_>>>();
        if let Some(known) = known.filter(|_| remembers) {
            targets.soft = Some(known.into_iter().flatten().copied().collect());
            return Ok(targets);
        }
        let share = 1.0 / self.teachers.len() as f32;
        for (i, teacher) in self.teachers.iter_mut().enumerate() {
            let mut said = teacher(&self.x)?.into_iter();
            if let Some(layout) = layout {
                let logits = said.next().unwrap_or_default();
                if logits.len() != batch.len() * layout.per_sample() {
                    return Err(Error::input("teacher and student differ in their classes").because(format!(
                        "the teacher gives {} numbers a sample and the student {}",
                        logits.len() / batch.len(),
                        layout.per_sample(),
                    )));
                }
                let soft =
                    loss::soften(&logits, layout.classes, self.options.temperature).into_iter().map(|p| share * p);
                match &mut targets.soft {
                    Some(sum) => sum.iter_mut().zip(soft).for_each(|(s, p)| *s += p),
                    None => targets.soft = Some(soft.collect()),
                }
            }
            if i == 0 {
                targets.features = said.collect();
            }
        }
        let sized = self.student.outputs().into_iter().rev().zip(targets.features.iter().rev());
        if targets.features.len() != features || sized.into_iter().any(|(y, t)| y.len() != t.len()) {
            return Err(Error::input("teacher and student differ in the shapes of what is to match"));
        }
        if let (Some(layout), Some(soft), true) = (layout, &targets.soft, remembers) {
            let rows = batch.iter().zip(soft.chunks_exact(layout.per_sample()));
            rows.for_each(|(&i, row)| self.known[i] = Some(row.to_vec()));
        }
        Ok(targets)
    }

    /// The student on what is held back.
    fn judge(&mut self) -> Result<HeldBackScore> {
        let mut total = 0.0;
        let classes = self.student.logits.map_or(0, |logits| logits.classes);
        let mut answers = Answers { classes, ..Answers::default() };
        let (mut first, mut same) = (Vec::new(), self.differ);
        for chunk in self.held_back.clone().chunks(self.batch) {
            // The copies of the last sample do not count.
            let batch = self.filled(chunk);
            self.x.fill(self.samples, &batch, &[], &mut std::iter::empty())?;
            let mut targets = self.targets(&batch, true)?;
            self.student.forward(&self.x, Mode::Infer);
            let rows = |len: usize| len / self.batch * chunk.len();
            let outputs = self.student.outputs();
            for (i, y) in outputs.iter().enumerate() {
                let row = y.len() / self.batch;
                if first.len() == i {
                    first.push(y[..row].to_vec());
                }
                same &= y.chunks_exact(row).all(|y| y == first[i]);
            }
            if let (Some(LogitLayout { classes: k, positions }), Some(y)) = (self.student.logits, outputs.first()) {
                let class = |row: &[f32]| (0..k).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
                for row in 0..chunk.len() * positions {
                    let at = row * k..(row + 1) * k;
                    answers.student.extend(class(&y[at.clone()]));
                    answers.teacher.extend(targets.soft.as_ref().and_then(|t| class(&t[at])));
                }
                answers.labels.extend(self.labels.iter().flat_map(|l| chunk.iter().map(|&sample| l[sample])));
            }
            targets.soft.iter_mut().chain(&mut targets.features).for_each(|t| t.truncate(rows(t.len())));
            let outputs: Vec<&[f32]> = outputs.iter().map(|y| &y[..rows(y.len())]).collect();
            total += self.loss(&outputs, chunk, &targets).0 * chunk.len() as f64;
        }
        self.dead = same;
        let [accuracy, agreement] = [&answers.labels, &answers.teacher].map(|truth| answers.share_of(truth));
        self.answers = Some(answers).filter(|a| a.classes > 0);
        Ok(HeldBackScore { loss: total / self.held_back.len() as f64, accuracy, agreement })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::Schedule;
    use crate::ir::text::parse;

    const TEXT: &str = "model m opset 17 {
        input %x : f32[N,2]
        const %w : f32[8,2] = seed(1) const %b : f32[8] const %v : f32[2,8] = seed(2) const %c : f32[2]
        %h : ? = Gemm<transB=1>(%x, %w, %b)
        %a : ? = Tanh(%h)
        %l : ? = Gemm<transB=1>(%a, %v, %c)
        %y : f32[N,2] = Softmax(%l)
        output %y
    }";

    /// Points, and on which side of a curve each lies.
    fn points() -> (Vec<f32>, Vec<usize>) {
        let x: Vec<f32> = noise(7).take(800).map(|v| v as f32 * 2.0).collect();
        let labels = x.chunks(2).map(|p| (p[0] * p[0] > p[1] + 0.5) as usize).collect();
        (x, labels)
    }

    fn options() -> Options {
        Options { length: Length::Epochs(30), batch: 32, rate: Some(0.05), hold_back: 0.2, ..Options::default() }
    }

    #[test]
    fn labels_and_a_teacher_are_learned() {
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let samples = Memory::new(&x, &[2], Some(&labels));
        let outcome = train(&mut graph, &samples, &mut [], &options(), &mut Unwatched).unwrap();
        let best = outcome.epochs[outcome.best].held_back;
        assert!(best.accuracy.unwrap() > 0.9 && best.agreement.is_none(), "{best:?}");
        assert!(outcome.epochs.iter().all(|e| !e.held_back.better_than(&best)));

        // What was learned is what is left in the graph: as a teacher it has the same score.
        let mut student = parse::model(&TEXT.replace("seed(1)", "seed(5)")).unwrap().graph;
        let samples = Memory::new(&x, &[2], None);
        let mut teachers = [teacher(&graph, &samples, 32, &[]).unwrap()];
        let outcome = train(&mut student, &samples, &mut teachers, &options(), &mut Unwatched).unwrap();
        let best = outcome.epochs[outcome.best].held_back;
        assert!(best.agreement.unwrap() > 0.9 && best.accuracy.is_none(), "{best:?}");
    }

    #[test]
    fn divergence_leaves_the_best_student() {
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let samples = Memory::new(&x, &[2], Some(&labels));
        let wild = Options { rate: Some(1e38), method: Method::SGD, schedule: Schedule::Constant, ..options() };
        let outcome = train(&mut graph, &samples, &mut [], &wild, &mut Unwatched).unwrap();
        assert!(outcome.epochs.iter().filter(|e| e.diverged).count() == RESTARTS, "{:?}", outcome.epochs);
        assert!(outcome.epochs[outcome.best].held_back.loss.is_finite());
        let weights = graph.value(graph.find_value("w").unwrap()).constant().unwrap().floats().unwrap();
        assert!(weights.iter().all(|w| w.is_finite()));
    }

    #[test]
    fn a_dead_student_goes_back() {
        let (x, labels) = points();
        let mut graph = parse::model(&TEXT.replace("Tanh", "Relu")).unwrap().graph;
        let samples = Memory::new(&x, &[2], Some(&labels));
        // Steps of 10: after a few of them no unit is above 0 for any sample any more.
        let wild = Options { rate: Some(10.0), schedule: Schedule::Constant, weight_decay: 0.0, ..options() };
        let outcome = train(&mut graph, &samples, &mut [], &wild, &mut Unwatched).unwrap();
        assert!(outcome.epochs.iter().any(|e| e.diverged && e.loss.is_finite()), "{:?}", outcome.epochs);
        assert!(outcome.rate < 10.0 && outcome.epochs[outcome.best].held_back.accuracy > Some(0.8), "{outcome:?}");
    }

    #[test]
    fn a_watcher_ends_it() {
        struct Five(usize);
        impl TrainingWatch for Five {
            fn step(&mut self, _: f64, _: usize) -> bool {
                self.0 += 1;
                self.0 < 5
            }
        }
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let samples = Memory::new(&x, &[2], Some(&labels));
        let outcome = train(&mut graph, &samples, &mut [], &options(), &mut Five(0)).unwrap();
        assert_eq!(outcome.epochs.len(), 2);
    }

    /// Keeps the course after the second epoch, or goes on with one.
    #[derive(Default)]
    struct Keeper {
        begins: Option<Vec<u8>>,
        kept: Vec<u8>,
    }

    impl TrainingWatch for Keeper {
        fn resume(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
            self.begins.take().map_or(Ok(()), |course| take(&course))
        }

        fn keep(&mut self, course: &TrainingState) -> Result<()> {
            if course.epochs.len() == 3 {
                self.kept = course.to_bytes();
            }
            Ok(())
        }
    }

    #[test]
    fn an_interrupted_training_ends_as_another() {
        let (x, _) = points();
        let text =
            TEXT.replace("f32[8,2]", "f32[120,2]").replace("f32[8]", "f32[120]").replace("f32[2,8]", "f32[2,120]");
        let text = text.replace(
            "%a : ? = Tanh(%h)",
            "const %m : f32[120,120] = seed(3) %t : ? = Gemm<transB=1>(%h, %m, %b) %a : ? = Tanh(%t)",
        );
        let samples = Memory::new(&x, &[2], None);
        let told = parse::model(&text).unwrap().graph;
        // Products of matrices of one row more than a block has.
        let options = Options { length: Length::Epochs(4), batch: 33, rate: None, ..options() };
        let end = |watch: &mut Keeper| {
            let mut student = parse::model(&text.replace("seed(1)", "seed(5)")).unwrap().graph;
            let mut teachers = [teacher(&told, &samples, 33, &[]).unwrap()];
            train(&mut student, &samples, &mut teachers, &options, watch).unwrap();
            student.value(student.find_value("m").unwrap()).constant().unwrap().floats().unwrap()
        };
        let mut whole = Keeper::default();
        let want = end(&mut whole);
        assert_eq!(end(&mut Keeper { begins: Some(whole.kept), ..Keeper::default() }), want);
    }

    #[test]
    fn what_cannot_be_learned() {
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let mut refused = |samples: &dyn Samples, options: &Options| {
            train(&mut graph, samples, &mut [], options, &mut Unwatched).unwrap_err().to_string()
        };
        let samples = Memory::new(&x, &[2], Some(&labels));
        assert!(refused(&Memory::new(&x, &[2], None), &options()).contains("neither labels that"));
        assert!(refused(&Memory::new(&x, &[2], Some(&labels[1..])), &options()).contains("as many"));
        assert!(refused(&Memory::new(&x, &[2], Some(&[2; 400])), &options()).contains("a label 2"));
        assert!(refused(&samples, &Options { augment: vec![Augment::Flip], ..options() }).contains("images"));
        assert!(refused(&samples, &Options { hold_back: 1.0, ..options() }).contains("share"));
        assert!(refused(&Memory::new(&x[..2], &[2], Some(&[0])), &options()).contains("too few"));
    }
}
