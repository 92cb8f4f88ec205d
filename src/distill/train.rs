//! Training a classifier from end to end: batches, augmentation, what is held back, the best student, divergence.

use super::loss;
use super::optimizer::{Method, Optimizer};
use super::schedule::Schedule;
use super::tape::{Mode, Tape};
use super::weights;
use crate::error::{Error, Result};
use crate::ir::infer::axis;
use crate::ir::op::softmax::Function;
use crate::ir::text::parse::noise;
use crate::ir::{Graph, Op, ValueId};
use std::collections::BTreeSet;
use std::str::FromStr;

/// What a student learns from: inputs one after the other, each of `shape`.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    pub x: &'a [f32],
    pub shape: &'a [usize],
    /// The class of each.
    pub labels: Option<&'a [usize]>,
}

impl Samples<'_> {
    /// Elements of a sample.
    fn size(&self) -> usize {
        self.shape.iter().product()
    }

    fn count(&self) -> usize {
        self.x.len() / self.size().max(1)
    }
}

/// Gives the logits of a batch.
pub type Teacher<'a> = Box<dyn FnMut(&[f32]) -> Result<Vec<f32>> + 'a>;

/// How samples are changed before each use, at random. Images are [channels, height, width].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augment {
    /// Left becomes right in every other image.
    Flip,
    /// Images move by up to so many pixels along each axis, with zeros where nothing was.
    Crop(u16),
}

impl FromStr for Augment {
    type Err = String;

    /// `flip` or `crop:4`.
    fn from_str(text: &str) -> Result<Augment, String> {
        match text.split_once(':') {
            None if text == "flip" => Ok(Augment::Flip),
            Some(("crop", n)) => n.parse().map(Augment::Crop).map_err(|_| format!("`{n}` is no number of pixels")),
            _ => Err(format!("`{text}` is none of `flip` and `crop:PIXELS`")),
        }
    }
}

/// How a student is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    pub method: Method,
    pub schedule: Schedule,
    /// Peak of the learning rate.
    pub rate: f64,
    pub weight_decay: f64,
    /// Of teacher and student, where the one is compared with the other.
    pub temperature: f64,
    /// Share of what the teachers say in the loss; labels have the rest.
    pub alpha: f64,
    pub augment: Vec<Augment>,
    /// Share of the samples that is not trained with but judges the student.
    pub hold_back: f64,
    /// Of the order of samples, what is held back, and augmentation.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            epochs: 10,
            batch: 128,
            method: Method::ADAM_W,
            schedule: Schedule::OneCycle,
            rate: 2e-3,
            weight_decay: 0.01,
            temperature: 4.0,
            alpha: 0.9,
            augment: Vec::new(),
            hold_back: 0.1,
            seed: 0,
        }
    }
}

/// How a student does on what is held back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    pub loss: f64,
    /// Share of samples for which the class is the label.
    pub accuracy: Option<f64>,
    /// Share of samples for which the class is the teachers'.
    pub agreement: Option<f64>,
}

impl Score {
    /// Whether the loss is a number, and no larger.
    fn is_within(&self, loss: f64) -> bool {
        self.loss.is_finite() && self.loss <= loss
    }

    /// Higher accuracy, or without labels agreement, is better; of equals a lower loss.
    fn better_than(&self, other: &Score) -> bool {
        let key = |s: &Score| s.accuracy.or(s.agreement).unwrap_or(0.0);
        let order = key(self).total_cmp(&key(other)).then(other.loss.total_cmp(&self.loss));
        self.loss.is_finite() && (order.is_gt() || !other.loss.is_finite())
    }
}

/// What happened in an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epoch {
    /// From 1 on; 0 is the student before training.
    pub number: usize,
    /// Mean over the steps; of epoch 0, that of what is held back.
    pub loss: f64,
    pub held_back: Score,
    /// The loss was no number any more, or far above that of a student that knows nothing, so that training went back
    /// to the best student, at a lower rate.
    pub diverged: bool,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub epochs: Vec<Epoch>,
    /// Which of them the student is from.
    pub best: usize,
}

/// Somebody who follows the training and may end it.
pub trait Watch {
    /// After every step, with how many there were and will be. `false` ends the training; the best student is kept.
    fn step(&mut self, _done: usize, _steps: usize) -> bool {
        true
    }

    fn epoch(&mut self, _epoch: &Epoch) {}
}

/// Nobody.
pub struct Unwatched;

impl Watch for Unwatched {}

/// A rate is lowered by this factor when training diverges,
const LOWER: f64 = 0.3;
/// so often at most.
const RESTARTS: usize = 4;
/// It does when the loss is so many times that of a student that gives every class the same probability.
const FAR: f64 = 3.0;

/// The logits behind an output: what its final softmax takes, or itself.
pub fn logits(graph: &Graph, output: ValueId) -> ValueId {
    let last = |op: &crate::ir::op::softmax::Softmax, v: ValueId| {
        let rank = graph.value(v).rank().unwrap_or(0);
        rank == 2 && axis(op.axis, rank) == Ok(1) && op.function != Function::Hardmax
    };
    let Some((n, _)) = graph.producer(output) else { return output };
    match &graph.node(n).op {
        Op::Softmax(op) if last(op, output) => graph.input(n, 0).unwrap_or(output),
        _ => output,
    }
}

/// A tape from the only input to the logits of the only output, for batches of samples of this shape.
fn classifier(graph: &Graph, shape: &[usize], batch: usize, trainable: &BTreeSet<ValueId>) -> Result<Tape<f32>> {
    let inputs: Vec<ValueId> = graph.runtime_inputs().collect();
    let (&[input], &[output]) = (&inputs[..], graph.outputs()) else {
        return Err(Error::input("only networks of one input and one output are trained as classifiers"));
    };
    let whole = [&[batch], shape].concat();
    let tape = Tape::new(graph, &[(graph.value(input).name.clone(), whole)], &[logits(graph, output)], trainable)?;
    let end = tape.outputs().next().map(|o| o.1.to_vec());
    match end.as_deref() {
        Some(&[rows, _]) if rows == batch => Ok(tape),
        other => Err(Error::input("the network is no classifier")
            .because(format!("its output for {batch} samples is of shape {:?}", other.unwrap_or_default()))),
    }
}

/// A network as a teacher of batches of samples of this shape.
///
/// # Errors
/// If it is no classifier, or has an operator that the tape does not know.
pub fn teacher(graph: &Graph, shape: &[usize], batch: usize) -> Result<Teacher<'static>> {
    let mut tape = classifier(graph, shape, batch, &BTreeSet::new())?;
    Ok(Box::new(move |x| {
        tape.input_mut(0).copy_from_slice(x);
        tape.forward(Mode::Infer);
        Ok(tape.output(0).to_vec())
    }))
}

/// Trains the weights of a classifier on what teachers say, on labels, or on both, and leaves the best student in it.
///
/// # Errors
/// If there is nothing to learn from or nothing that trains, if the graph cannot be trained through, or if a teacher
/// fails.
pub fn train(
    graph: &mut Graph,
    samples: &Samples<'_>,
    teachers: &mut [Teacher<'_>],
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let mut run = Run::new(graph, samples, teachers, options)?;
    let outcome = run.train(watch)?;
    run.tape.store(graph)?;
    Ok(outcome)
}

struct Run<'a, 't> {
    tape: Tape<f32>,
    samples: &'a Samples<'a>,
    teachers: &'a mut [Teacher<'t>],
    options: &'a Options,
    classes: usize,
    batch: usize,
    trained: Vec<usize>,
    held_back: Vec<usize>,
    /// The teachers' probabilities at the temperature for samples as they are, where they were asked for.
    known: Vec<Option<Vec<f32>>>,
}

impl<'a, 't> Run<'a, 't> {
    fn new(
        graph: &Graph,
        samples: &'a Samples<'a>,
        teachers: &'a mut [Teacher<'t>],
        options: &'a Options,
    ) -> Result<Self> {
        let refuse = |why: &str| Err(Error::input("cannot train the student").because(why));
        let n = samples.count();
        if teachers.is_empty() && samples.labels.is_none() {
            return refuse("there are neither labels nor a teacher to learn from");
        }
        if samples.size() == 0 || samples.x.len() != n * samples.size() || samples.labels.is_some_and(|l| l.len() != n)
        {
            return refuse("the samples are not as many as their labels, or not of their shape");
        }
        if samples.shape.len() != 3 && !options.augment.is_empty() {
            return refuse("only images, of three axes, can be flipped and cropped");
        }
        if options.batch == 0 || !(0.0..1.0).contains(&options.hold_back) || options.temperature <= 0.0 {
            return refuse("a batch must have samples, a share must be below 1, and a temperature above 0");
        }
        let mut order: Vec<usize> = (0..n).collect();
        shuffle(&mut order, options.seed);
        let held = ((n as f64 * options.hold_back) as usize).max(1);
        if n <= held {
            return refuse("there are too few samples to hold one back");
        }
        let trained = order.split_off(held);
        let batch = options.batch.min(trained.len());
        let tape = classifier(graph, samples.shape, batch, &weights(graph))?;
        if tape.parameters().is_empty() {
            return refuse("no constant of it trains: its weights are no initializers");
        }
        let classes = tape.output(0).len() / batch;
        if samples.labels.is_some_and(|l| l.iter().any(|&l| l >= classes)) {
            return refuse("a label is beyond its classes");
        }
        Ok(Run { tape, samples, teachers, options, classes, batch, trained, held_back: order, known: vec![None; n] })
    }

    fn train(&mut self, watch: &mut dyn Watch) -> Result<Outcome> {
        let &Options { epochs, schedule, rate, .. } = self.options;
        let new = || Optimizer::new(self.options.method, self.options.weight_decay);
        let (mut optimizer, per_epoch) = (new(), self.trained.len() / self.batch);
        let steps = epochs * per_epoch;
        let start = self.judge()?;
        let mut reports = vec![Epoch { number: 0, loss: start.loss, held_back: start, diverged: false }];
        watch.epoch(&reports[0]);
        let (mut best, mut at, mut peak, mut restarts, mut done) = (self.tape.state(), 0, rate, 0, 0);
        for number in 1..=epochs {
            let mut random = noise(self.options.seed ^ (number as u64) << 32);
            let mut order = self.trained.clone();
            shuffle_by(&mut order, &mut random);
            let (mut total, mut taken, mut goes_on) = (0.0, 0, true);
            for batch in order.chunks_exact(self.batch) {
                let loss = self.step(batch, &mut random)?;
                total += loss;
                taken += 1;
                if !loss.is_finite() {
                    break;
                }
                optimizer.step(&mut self.tape, schedule.rate(done, steps, peak));
                done += 1;
                goes_on = watch.step(done, steps);
                if !goes_on {
                    break;
                }
            }
            done = if goes_on { number * per_epoch } else { done };
            let held_back = self.judge()?;
            let loss = total / taken.max(1) as f64;
            let diverged = !loss.is_finite() || !held_back.is_within(FAR * self.ignorance().max(start.loss));
            reports.push(Epoch { number, loss, held_back, diverged });
            watch.epoch(&reports[number]);
            if diverged {
                self.tape.restore(&best);
                (optimizer, peak, restarts) = (new(), peak * LOWER, restarts + 1);
            } else if held_back.better_than(&reports[at].held_back) {
                (best, at) = (self.tape.state(), number);
            }
            if !goes_on || restarts == RESTARTS {
                break;
            }
        }
        self.tape.restore(&best);
        Ok(Outcome { epochs: reports, best: at })
    }

    /// A bound on the loss of a student that gives every class the same probability.
    fn ignorance(&self) -> f64 {
        let &Options { temperature, alpha, .. } = self.options;
        let share = match (self.teachers.is_empty(), self.samples.labels) {
            (true, _) => 0.0,
            (false, Some(_)) => alpha,
            (false, None) => 1.0,
        };
        (share * temperature * temperature + 1.0 - share) * (self.classes as f64).ln()
    }

    /// Forward and backward of a batch; gives its loss.
    fn step(&mut self, batch: &[usize], random: &mut impl Iterator<Item = f64>) -> Result<f64> {
        let size = self.samples.size();
        for (row, &sample) in batch.iter().enumerate() {
            let x = &self.samples.x[sample * size..][..size];
            let to = &mut self.tape.input_mut(0)[row * size..][..size];
            augment(x, to, self.samples.shape, &self.options.augment, random);
        }
        let targets = self.targets(batch, self.options.augment.is_empty())?;
        self.tape.forward(Mode::Train);
        let (loss, by) = self.loss(self.tape.output(0), batch, targets.as_deref());
        if loss.is_finite() {
            self.tape.backward(&[by]);
        }
        Ok(loss)
    }

    /// The loss of logits of these samples, and its gradient.
    fn loss(&self, y: &[f32], samples: &[usize], targets: Option<&[f32]>) -> (f64, Vec<f32>) {
        let (&Options { temperature, alpha, .. }, k) = (self.options, self.classes);
        let labels = self.samples.labels.map(|l| samples.iter().map(|&i| l[i]).collect::<Vec<_>>());
        match (targets, labels) {
            (Some(targets), labels) => loss::distillation(y, targets, labels.as_deref(), k, temperature, alpha),
            (None, Some(labels)) => loss::cross_entropy(y, &labels, k),
            (None, None) => (0.0, vec![0.0; y.len()]),
        }
    }

    /// Mean of the teachers' probabilities for what the tape is fed with; remembered, if it is the samples as they are.
    fn targets(&mut self, batch: &[usize], as_they_are: bool) -> Result<Option<Vec<f32>>> {
        if self.teachers.is_empty() {
            return Ok(None);
        }
        let known = batch.iter().map(|&i| self.known[i].as_ref()).collect::<Option<Vec<_>>>();
        if let Some(known) = known.filter(|_| as_they_are) {
            return Ok(Some(known.into_iter().flatten().copied().collect()));
        }
        let share = 1.0 / self.teachers.len() as f32;
        let mut mean = vec![0.0; batch.len() * self.classes];
        for teacher in self.teachers.iter_mut() {
            let logits = teacher(self.tape.input_mut(0))?;
            if logits.len() != mean.len() {
                return Err(Error::input("teacher and student differ in their classes").because(format!(
                    "the teacher gives {} numbers a sample and the student {}",
                    logits.len() / batch.len(),
                    self.classes
                )));
            }
            let soft = loss::soften(&logits, self.classes, self.options.temperature);
            mean.iter_mut().zip(soft).for_each(|(m, p)| *m += share * p);
        }
        if as_they_are {
            let rows = batch.iter().zip(mean.chunks_exact(self.classes));
            rows.for_each(|(&i, row)| self.known[i] = Some(row.to_vec()));
        }
        Ok(Some(mean))
    }

    /// The student on what is held back.
    fn judge(&mut self) -> Result<Score> {
        let (size, k) = (self.samples.size(), self.classes);
        let (mut total, mut right, mut agreed) = (0.0, 0, 0);
        for chunk in self.held_back.clone().chunks(self.batch) {
            // The last batch is filled up with its last sample, whose copies do not count.
            let batch: Vec<usize> = (0..self.batch).map(|i| chunk[i.min(chunk.len() - 1)]).collect();
            for (row, &sample) in batch.iter().enumerate() {
                let x = &self.samples.x[sample * size..][..size];
                self.tape.input_mut(0)[row * size..][..size].copy_from_slice(x);
            }
            let targets = self.targets(&batch, true)?;
            self.tape.forward(Mode::Infer);
            let y = self.tape.output(0);
            let class = |row: &[f32]| (0..k).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap_or(0);
            for (row, &sample) in chunk.iter().enumerate() {
                let at = row * k..(row + 1) * k;
                let own = class(&y[at.clone()]);
                right += self.samples.labels.is_some_and(|l| l[sample] == own) as usize;
                agreed += targets.as_ref().is_some_and(|t| class(&t[at]) == own) as usize;
            }
            let rows = chunk.len() * k;
            total += self.loss(&y[..rows], chunk, targets.as_ref().map(|t| &t[..rows])).0 * chunk.len() as f64;
        }
        let n = self.held_back.len() as f64;
        Ok(Score {
            loss: total / n,
            accuracy: self.samples.labels.map(|_| right as f64 / n),
            agreement: (!self.teachers.is_empty()).then(|| agreed as f64 / n),
        })
    }
}

fn shuffle(order: &mut [usize], seed: u64) {
    shuffle_by(order, &mut noise(seed));
}

/// Every order is as likely. (Fisher, Yates 1938.)
fn shuffle_by(order: &mut [usize], random: &mut impl Iterator<Item = f64>) {
    for i in (1..order.len()).rev() {
        order.swap(i, below(i + 1, random));
    }
}

/// A random number below `n`.
fn below(n: usize, random: &mut impl Iterator<Item = f64>) -> usize {
    let share = (random.next().unwrap_or(0.0) + 1.0) / 2.0;
    ((share * n as f64) as usize).min(n - 1)
}

/// Writes a sample, changed at random, to `to`.
fn augment(x: &[f32], to: &mut [f32], shape: &[usize], how: &[Augment], random: &mut impl Iterator<Item = f64>) {
    let (mut flip, mut by) = (false, [0isize; 2]);
    for how in how {
        match *how {
            Augment::Flip => flip = below(2, random) == 1,
            Augment::Crop(n) => by = [(); 2].map(|_| below(2 * usize::from(n) + 1, random) as isize - n as isize),
        }
    }
    let &[_, height, width] = shape else { return to.copy_from_slice(x) };
    for (to, x) in to.chunks_exact_mut(height * width).zip(x.chunks_exact(height * width)) {
        for (row, to) in to.chunks_exact_mut(width).enumerate() {
            let from = row.checked_add_signed(by[0]).filter(|&r| r < height);
            for (column, to) in to.iter_mut().enumerate() {
                let column = if flip { width - 1 - column } else { column };
                let column = column.checked_add_signed(by[1]).filter(|&c| c < width);
                *to = from.zip(column).map_or(0.0, |(r, c)| x[r * width + c]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    #[test]
    fn images_move() {
        let x: Vec<f32> = (1..=8).map(|v| v as f32).collect();
        let of = |how: &[Augment], random: &[f64]| {
            let mut to = vec![9.0; 8];
            augment(&x, &mut to, &[2, 2, 2], how, &mut random.iter().copied());
            to
        };
        assert_eq!(of(&[], &[]), x);
        assert_eq!(of(&[Augment::Flip], &[0.5]), [2.0, 1.0, 4.0, 3.0, 6.0, 5.0, 8.0, 7.0]);
        assert_eq!(of(&[Augment::Flip], &[-0.5]), x);
        // One row down, no column aside.
        assert_eq!(of(&[Augment::Crop(1)], &[-0.9, 0.0]), [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
        assert_eq!("crop:4".parse(), Ok(Augment::Crop(4)));
        assert!("turn".parse::<Augment>().unwrap_err().contains("`turn`"));
    }

    #[test]
    fn orders_are_shuffled() {
        let mut order: Vec<usize> = (0..50).collect();
        shuffle(&mut order, 3);
        let mut sorted = order.clone();
        sorted.sort();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_ne!(sorted, order);
    }

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
        Options { epochs: 30, batch: 32, rate: 0.05, hold_back: 0.2, ..Options::default() }
    }

    #[test]
    fn labels_and_a_teacher_are_learned() {
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let samples = Samples { x: &x, shape: &[2], labels: Some(&labels) };
        let outcome = train(&mut graph, &samples, &mut [], &options(), &mut Unwatched).unwrap();
        let best = outcome.epochs[outcome.best].held_back;
        assert!(best.accuracy.unwrap() > 0.9 && best.agreement.is_none(), "{best:?}");
        assert!(outcome.epochs.iter().all(|e| !e.held_back.better_than(&best)));

        // What was learned is what is left in the graph: as a teacher it has the same score.
        let mut student = parse::model(&TEXT.replace("seed(1)", "seed(5)")).unwrap().graph;
        let samples = Samples { labels: None, ..samples };
        let mut teachers = [teacher(&graph, &[2], 32).unwrap()];
        let outcome = train(&mut student, &samples, &mut teachers, &options(), &mut Unwatched).unwrap();
        let best = outcome.epochs[outcome.best].held_back;
        assert!(best.agreement.unwrap() > 0.9 && best.accuracy.is_none(), "{best:?}");
    }

    #[test]
    fn divergence_leaves_the_best_student() {
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let samples = Samples { x: &x, shape: &[2], labels: Some(&labels) };
        let wild = Options { rate: 1e38, method: Method::SGD, schedule: Schedule::Constant, ..options() };
        let outcome = train(&mut graph, &samples, &mut [], &wild, &mut Unwatched).unwrap();
        assert!(outcome.epochs.iter().filter(|e| e.diverged).count() == RESTARTS, "{:?}", outcome.epochs);
        assert!(outcome.epochs[outcome.best].held_back.loss.is_finite());
        let weights = graph.value(graph.find_value("w").unwrap()).constant().unwrap().floats().unwrap();
        assert!(weights.iter().all(|w| w.is_finite()));
    }

    #[test]
    fn a_watcher_ends_it() {
        struct Five;
        impl Watch for Five {
            fn step(&mut self, done: usize, _: usize) -> bool {
                done < 5
            }
        }
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let samples = Samples { x: &x, shape: &[2], labels: Some(&labels) };
        let outcome = train(&mut graph, &samples, &mut [], &options(), &mut Five).unwrap();
        assert_eq!(outcome.epochs.len(), 2);
    }

    #[test]
    fn what_cannot_be_learned() {
        let (x, labels) = points();
        let mut graph = parse::model(TEXT).unwrap().graph;
        let mut refused = |samples: &Samples<'_>, options: &Options| {
            train(&mut graph, samples, &mut [], options, &mut Unwatched).unwrap_err().to_string()
        };
        let samples = Samples { x: &x, shape: &[2], labels: Some(&labels) };
        assert!(refused(&Samples { labels: None, ..samples }, &options()).contains("neither labels nor a teacher"));
        assert!(refused(&Samples { labels: Some(&labels[1..]), ..samples }, &options()).contains("as many"));
        assert!(refused(&Samples { labels: Some(&[2; 400]), ..samples }, &options()).contains("beyond"));
        assert!(refused(&samples, &Options { augment: vec![Augment::Flip], ..options() }).contains("images"));
        assert!(refused(&samples, &Options { hold_back: 1.0, ..options() }).contains("share"));
        assert!(refused(&Samples { x: &x[..2], shape: &[2], labels: Some(&[0]) }, &options()).contains("too few"));
    }
}
