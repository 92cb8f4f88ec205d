//! The stage `distill`: a student goes in with what earlier steps made of it, and comes out trained.

use super::checkpoint::{Checkpoint, Fingerprint};
use super::frozen::TrainableSuffix;
use super::repairs::Reference;
use super::training::teacher;
use super::visit::StepRun;
use super::{Effect, Observer, State};
use crate::analysis::classifier::logits;
use crate::distill;
use crate::distill::train::{
    self, Ends, Epoch, Options, Samples, Teacher, TeacherAnswers, TrainingOutcome, TrainingState, TrainingWatch,
};
use crate::error::{Error, Result};
use crate::ir::{Graph, NodeId, ValueId};
use crate::math::chance;
use crate::onnx;
use crate::passes::{self, options};
use crate::recipe::Distill;
use crate::report::EpochPoint;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The pass that takes the normalization away again.
const FOLD: &str = "fold-batch-norm";

impl StepRun<'_, '_> {
    /// Trains the student. What it computes then is what later steps are to keep.
    pub fn distill(&mut self, state: &mut State<'_>, stage: &Distill) -> Result<Effect> {
        let session = self.session;
        let training = session.data.training.ok_or_else(|| Error::internal("no training data"))?;
        let (index, student) = (state.steps.len(), &mut state.student);
        if stage.labels == Some(true) && training.labels().is_none() {
            return Err(Error::input("the training data has no labels").help("leave `labels` away, or set it to false"));
        }
        distill::unshare_statistics(&mut student.graph)?;
        let samples = training.samples(stage.labels != Some(false));
        let mut options = stage.training.clone();
        let batch = options.batch_of(samples.count());
        let own = [(String::from("the teacher"), session.teacher)];
        let models = match &stage.teachers {
            None => own.to_vec(),
            Some(paths) => paths
                .iter()
                .map(|path| Ok((path.display().to_string(), training.teacher(path)?)))
                .collect::<Result<_>>()?,
        };
        let ends = train::ends(&student.graph, &samples, batch, &[])?;
        if stage.labels == Some(true) && ends.logits.is_none_or(|logits| logits.positions > 1) {
            return Err(Error::input("labels do not say what the network is to give")
                .because(
                    "a label is the class of a sample, and it gives something else than one list of classes a sample",
                )
                .help("leave `labels` away: it learns from its teacher"));
        }
        if stage.features || ends.logits.is_none() {
            let of = models.first().ok_or_else(|| Error::input("there is no teacher to match values with"))?;
            options.features = common(&student.graph, &ends, &of.1.graph, &samples, stage.features)?;
        }
        let checkpoint = match &training.checkpoints {
            Some(folder) => {
                let mut print = Fingerprint::default();
                print.add(format!("{:?}", (stage, index)).as_bytes());
                print.add(&onnx::to_bytes(student)?);
                for (_, model) in &models {
                    print.add(&onnx::to_bytes(model)?);
                }
                print.samples(&samples)?;
                Some(Checkpoint::new(folder, index, print)?)
            }
            None => None,
        };
        let rest = TrainableSuffix::of(student, &samples, batch)?;
        if let (Some(rest), false) = (&rest, options.augment.is_empty()) {
            return Err(Error::input("the samples cannot be augmented").because(format!(
                "what comes before {} is computed once: training cannot go through it",
                rest.in_the_way()
            )));
        }
        let joined = rest.as_ref().map(|rest| rest.samples(&samples));
        let samples: &dyn Samples = joined.as_ref().map_or(&samples, |j| j);
        let mut part = rest.as_ref().map(|rest| rest.graph.clone());
        if let Some(part) = &part {
            options.features.retain(|name| part.find_value(name).is_some_and(|v| part.producer(v).is_some()));
        }
        let g = &student.graph;
        let heads = g.exits().iter().map(|exit| g.value(logits(g, exit.answer)).name.clone());
        let computed = |name: &String| {
            let part = part.as_ref().unwrap_or(g);
            part.find_value(name).is_some_and(|v| part.producer(v).is_some())
        };
        options.exits = heads.filter(computed).collect();
        options.frozen = rest.as_ref().map_or_else(Vec::new, |rest| rest.frozen_names.clone());
        let graph = part.as_mut().unwrap_or(&mut student.graph);
        // Of a network that is trained in part, weights are written back by name: nothing can be inserted into the part.
        let inserts = stage.batch_norm && rest.is_none();
        let normalised = if inserts { distill::insert_batch_norm(graph, samples, batch)? } else { 0 };
        let mut teachers: Vec<Teacher<'_>> = models
            .iter()
            .map(|(name, m)| teacher(name, m, samples, batch, &options.features))
            .collect::<Result<_>>()?;
        let observer = self.observer();
        // What the teachers say depends on these, and on nothing that earlier steps do.
        let asked = (stage.teachers.clone(), batch, options.temperature, options.hold_back, options.seed);
        let answers = rest.is_none().then(|| (format!("{asked:?}"), &session.answers));
        let checkpoint = checkpoint.as_ref();
        let mut follower = Follower { observer, checkpoint, answers, epoch: 0, since: None, samples: 0 };
        observer.training(true);
        let outcome = train::train(graph, samples, &mut teachers, &options, &mut follower);
        observer.training(false);
        let outcome = outcome?;
        if let Some(part) = part {
            distill::write_back(&part, &mut student.graph)?;
        }
        let fold = passes::find(FOLD).and_then(|e| e.make(toml::Table::new()).ok());
        self.clean(&mut student.graph, &fold.iter().map(|pass| &**pass).collect::<Vec<_>>(), None)?;

        self.account(&outcome, &options);
        if outcome.best == 0 && outcome.epochs.len() > 1 && self.ruined.is_empty() {
            state.warnings.push(format!(
                "`{}` changed nothing: no epoch did better on what is held back than the student did before it",
                Distill::NAME
            ));
        }
        for (obstacle, why) in rest.iter().flat_map(|rest| &rest.obstacles) {
            let what =
                format!("{obstacle} cannot be trained through ({why}): it and what comes before stayed as they were");
            self.note(Distill::NAME, &what, false);
        }
        let is_float =
            |name: &&str| student.graph.find_value(name).is_some_and(|v| student.graph.value(v).may_be_float());
        let stayed: Vec<&str> = options.frozen.iter().map(String::as_str).filter(is_float).collect();
        if !stayed.is_empty() {
            let what = format!("what comes before reads them too, so these stayed: {}", stayed.join(", "));
            self.note(Distill::NAME, &what, false);
        }
        if normalised > 0 {
            let were = if normalised == 1 { "convolution was" } else { "convolutions were" };
            self.note(Distill::NAME, &format!("{normalised} {were} normalised while training"), true);
        }
        let finite = |v: f64| v.is_finite().then_some(v);
        let point = |e: &Epoch| EpochPoint {
            epoch: e.number,
            loss: finite(e.loss),
            held_back: finite(e.held_back.loss),
            accuracy: e.held_back.accuracy,
            agreement: e.held_back.agreement,
        };
        state.reference = Reference::default();
        let missed = outcome.ended.as_ref().map(|place| format!("interrupted {place}"));
        Ok(Effect { curve: outcome.epochs.iter().map(point).collect(), missed })
    }

    /// Rows of what came out.
    fn account(&mut self, outcome: &TrainingOutcome, options: &Options) {
        let &TrainingOutcome { ref epochs, best, rate, trained, zeros, ref makers, ref answers, ref ended } = outcome;
        let (last, best) = (epochs.len() - 1, &epochs[best]);
        let found = if options.rate.is_none() { ", found by a range test" } else { "" };
        let told = shares(best).map(|t| format!(", {t}")).unwrap_or_default();
        let what = format!(
            "{trained} constants trained, peak learning rate {rate:.1e}{found}; best on what is held back after epoch {} of {last}: loss {:.4}{told}",
            best.number, best.held_back.loss
        );
        self.note(Distill::NAME, &what, true);
        let given = |list| Some(list).filter(|list: &&Vec<usize>| !list.is_empty()).map(Vec::as_slice);
        let ruined =
            answers.as_ref().and_then(|a| chance::ruined(a.classes, &a.student, given(&a.teacher), given(&a.labels)));
        if let Some(why) = ruined {
            self.note(Distill::NAME, &format!("on what is held back, {why}"), false);
            self.ruined
                .push(format!("the student is of no use after `{}`: on what is held back, {why}", Distill::NAME));
        }
        if let Some(place) = ended {
            self.note(Distill::NAME, &format!("interrupted {place}: the best student so far went on"), true);
        }
        if zeros > 0 {
            self.note(Distill::NAME, &format!("{zeros} of the constants kept their zeros"), true);
        }
        if !makers.is_empty() {
            let what = format!("weights that are computed from constants did not train: by {}", makers.join(", "));
            self.note(Distill::NAME, &what, false);
        }
        if !options.features.is_empty() {
            self.note(Distill::NAME, &format!("matched what is read at {}", options.features.join(", ")), true);
        }
    }
}

/// `agreement 81.2 %, accuracy 79.0 %`
fn shares(epoch: &Epoch) -> Option<String> {
    let shares = [("agreement", epoch.held_back.agreement), ("accuracy", epoch.held_back.accuracy)];
    let told = shares.into_iter().filter_map(|(what, share)| Some(format!("{what} {:.2} %", 100.0 * share?)));
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// Names of what the layers of the student read, if `inside`, and of the outputs of a network that is no classifier, where
/// the teacher has them, too, in the same shape. The student ends in `ends`.
fn common(student: &Graph, ends: &Ends, teacher: &Graph, samples: &dyn Samples, inside: bool) -> Result<Vec<String>> {
    let batch = ends.shapes.first().map_or(1, |(_, shape)| shape[0]);
    let sized =
        [student.settled_at(&ends.shapes)?, teacher.settled_at(&train::ends(teacher, samples, batch, &[])?.shapes)?];
    let computed = |g: &Graph, v: ValueId| g.producer(v).is_some() && g.value(v).constant().is_none();
    let layers: Vec<NodeId> =
        student.topological()?.into_iter().filter(|&n| options::weight(student, n).is_some()).collect();
    let reads = |n: &NodeId| {
        let weight = options::weight(student, *n).map(|w| w.0);
        (0..2).find(|&slot| Some(slot) != weight).and_then(|slot| student.input(*n, slot))
    };
    let floats = student.outputs().iter().copied().filter(|&v| student.value(v).may_be_float());
    let outputs = floats.filter(|_| ends.logits.is_none());
    let learned = learned(student)?;
    let mut found: Vec<String> = Vec::new();
    for v in layers.iter().filter(|_| inside).filter_map(reads).chain(outputs).filter(|v| learned.contains(v)) {
        let name = &student.value(v).name;
        let dims = |g: &Graph| g.find_value(name).filter(|&v| computed(g, v)).and_then(|v| g.value(v).dims());
        let [own, theirs] = [&sized[0], &sized[1]].map(dims);
        if own.is_some() && own == theirs && !found.contains(name) {
            found.push(name.clone());
        }
    }
    if found.is_empty() {
        let why = match inside {
            true => {
                "no layer of the student reads a value of another layer that the teacher has by the same name and in the same shape"
            }
            false => {
                "no output of the student is one that weights reach and the teacher gives by the same name and in the same shape"
            }
        };
        return Err(Error::input("there is nothing to match").because(why));
    }
    Ok(found)
}

/// The values that depend on inputs and on what trains.
fn learned(graph: &Graph) -> Result<HashSet<ValueId>> {
    let order = graph.topological()?;
    let behind = |start: HashSet<ValueId>| {
        order.iter().fold(start, |mut found, &n| {
            if graph.node_inputs(n).into_iter().flatten().any(|v| found.contains(&v)) {
                found.extend(graph.node_outputs(n).into_iter().flatten());
            }
            found
        })
    };
    let trained = behind(crate::autodiff::weights(graph).into_iter().collect());
    Ok(behind(graph.required_inputs().collect()).intersection(&trained).copied().collect())
}

/// What teachers said of training data, and what that depends on.
pub type KeptAnswers = (String, TeacherAnswers);

/// What progress is counted in.
const PARTS: f64 = 1e6;

/// Tells the observer, and writes checkpoints.
struct Follower<'a> {
    observer: &'a dyn Observer,
    checkpoint: Option<&'a Checkpoint>,
    /// The place for what teachers say, and what that depends on.
    answers: Option<(String, &'a Mutex<Option<KeptAnswers>>)>,
    epoch: usize,
    /// When the first step was done, and the samples of those after it.
    since: Option<Instant>,
    samples: usize,
}

impl Follower<'_> {
    /// `, 812 samples/s`, once that is known.
    fn pace(&self) -> String {
        let seconds = self.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        if self.samples == 0 { String::new() } else { format!(", {:.0} samples/s", self.samples as f64 / seconds) }
    }
}

impl TrainingWatch for Follower<'_> {
    fn resume(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.checkpoint.map_or(Ok(()), |c| c.read(take))
    }

    fn known(&mut self) -> Option<TeacherAnswers> {
        let (asked, place) = self.answers.as_ref()?;
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        place.take_if(|answers| answers.0 == *asked).map(|answers| answers.1)
    }

    fn asked(&mut self, known: TeacherAnswers) {
        if let Some((asked, place)) = &self.answers {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked.clone(), known));
        }
    }

    fn prepare(&mut self, what: &str, share: f64) -> bool {
        self.observer.site((share * PARTS) as u64, PARTS as u64, what);
        self.observer.goes_on()
    }

    fn step(&mut self, share: f64, samples: usize) -> bool {
        match self.since {
            None => self.since = Some(Instant::now()),
            Some(_) => self.samples += samples,
        }
        let what = format!("epoch {}{}", self.epoch + 1, self.pace());
        self.observer.site((share.min(1.0) * PARTS) as u64, PARTS as u64, &what);
        self.observer.goes_on()
    }

    fn epoch(&mut self, epoch: &Epoch) {
        let &Epoch { number, loss, held_back, diverged } = epoch;
        self.epoch = number;
        let told = shares(epoch).map(|t| format!(", {t}")).unwrap_or_default();
        let back = if diverged { ": back to the best student, at a lower rate" } else { "" };
        let news =
            format!("epoch {number}: loss {loss:.4}, held back {:.4}{told}{}{back}", held_back.loss, self.pace());
        self.observer.line(&news);
    }

    fn keep(&mut self, course: &TrainingState) -> Result<()> {
        self.checkpoint.map_or(Ok(()), |c| c.write(course))
    }
}
