//! Composes a recipe: says what a student must reach, and gets the student.
//!
//! `tutee compress teacher.onnx -o student.onnx --target-size 20x --calib DATA` looks for the most accurate student of that
//! size. `--max-drop 1%` instead looks for the smallest that loses no more; both together for one that does both (exit code 2
//! if none was found: the best compromise is written all the same). Without either it takes the knee of the front, where the
//! next bytes begin to cost more than those before. `--target-weights` and `--target-macs` bound what the network computes
//! with; all of these take `10x`, `40%` or a number (`250kB`, `5M`). `--target-latency 2x` (or `5ms`) bounds the time of one run in
//! tract on this machine, teacher and student in turn; with `--latency-table FILE` it is what a table of costs says, the same on
//! every machine: nanoseconds `node = 500` and `mac = 0.1`, and others for single operators under `[operator.Conv]`.
//!
//! Passes are composed: channels are pruned, what is left is split into thin layers or loses inputs that it can do without, and the weights that are left become
//! codes, of which the size that is asked for decides how many bits each layer gets. Biases and codebooks are stored in half
//! precision then, and names inside of the model are made short (`--techniques -strip-names` keeps them). How far each of
//! these goes is what is searched.
//!
//! With `--train DATA` the best students are trained on what the teacher says of that data: six candidates go without; then up
//! to three that differ in how pruning, splitting and bits share the size are trained for a little, the best two of them
//! twice as long, and so on, each time with some of their neighbours, with pruning in two steps, and with images that are
//! moved or mirrored. The weights are trained before they become codes, and the codes after that, with `distill`. The samples
//! that it holds back choose; without `--calib` they are the only ones that do, and students are fitted to others of the
//! same data. `--techniques -distill` leaves training out.
//!
//! A candidate is a recipe. The samples of `--calib` are divided: to some students are fitted (256 to 8,192, fewer of larger
//! networks, or `--calib-samples`; at most 70 % of all), by up to 2,000 others candidates are chosen. `--test` is only for the
//! last check, and chooses nothing.
//!
//! Within a stage the budget goes to the layers that lose least by it, as calibration data predicts it. What the model's output
//! loses by that is another matter: near the best plan, the losses of one layer after the other are counted twice or half as
//! much, and what that is good for is kept.
//!
//! What counts is the loss: KL(teacher ‖ student) of class scores, mean over the samples, and of other outputs the share of
//! their variance. It needs no labels, and it tells more of each sample than right or wrong does. What a stage costs follows a
//! power law of how far it goes; each candidate adds a measurement to these laws, the next is where they say the loss is
//! least. Candidates that begin alike share that work.
//!
//! The result depends on the model, the data, the goal and the number of candidates (`--candidates`), not on threads or
//! time (but for a latency that is measured); a run that ends by `--minutes` says how many it had, and is repeated with that number. (One that had six or fewer, and
//! so trained none: with `--techniques -distill`, too.) A training begins only if those before say that there is time for it. `--state FILE` keeps what was
//! measured, and the next run takes it up, for another goal too. `--save-recipe FILE` keeps the answer: `-r FILE` makes the
//! same bytes again. `--front DIR` writes all students of which none that is smaller loses less, each with its recipe, and a
//! table of them.

mod curve;
mod goal;
mod ladder;
mod latency;
mod maker;
mod plan;
mod predict;
mod refine;
mod round;
mod run;
pub mod sensitivity;
mod store;
mod trained;

pub use goal::{Amount, Goal, Limits};
pub use latency::{Clock, CostTable, timed};
use plan::{Plan, Unit};
pub use round::{CandidateTask, Walked};
pub use store::{Inputs, Store, Trial, Trials, differs};

use crate::check::{Judge, Score};
use crate::error::{Error, Result};
use crate::ir::{Graph, Model, NodeId, Tensor};
use crate::passes;
use crate::passes::options::weight;
use crate::recipe::Step;
use crate::report::ModelSize;
use crate::session::{Outcome, Session};
use maker::{Maker, Workshop};
use predict::Space;
use run::SearchRun;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Candidates if nobody says how many, and time allows.
pub const CANDIDATES: usize = 40;

/// Passes that split layers.
const SPLITTERS: [&str; 4] = ["factorize-convs", "factorize-linear", "separate-convs", "prune-inputs"];
/// All passes that a search composes.
pub const TECHNIQUES: [&str; 9] = [
    "prune-channels",
    SPLITTERS[0],
    SPLITTERS[1],
    SPLITTERS[2],
    SPLITTERS[3],
    "cluster-weights",
    plan::DISTILL,
    PACKS[0],
    PACKS[1],
];
/// Those that only make the file smaller.
const PACKS: [&str; 2] = [plan::STORE, "strip-names"];

/// What a search may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How many students are tried, at most.
    pub candidates: usize,
    /// Those of [`TECHNIQUES`] that may be used.
    pub techniques: Vec<String>,
    /// Options that every pass is given, as `skip=conv1,skip=fc`.
    pub common: String,
    /// Whether all students of the front are made.
    pub front: bool,
    /// What students may be trained with.
    pub training: Option<TrainingData>,
    /// How long students take, where that is asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clock: Option<Clock>,
}

/// What a search knows of the training data of its session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingData {
    pub samples: usize,
    /// What these are, for the keys of measurements.
    pub digest: String,
    /// Changes of samples that may be of use, as values of the option `augment` of `distill`: the first, the first two, ….
    pub augment: Vec<String>,
}

/// What happens while a search runs.
pub trait Watch {
    /// Before candidate `number` (from 1) of at most `of`; `best` is what there is so far.
    fn candidate(&self, _number: usize, _of: usize, _what: &str, _best: Option<&Candidate>) {}

    /// After a candidate.
    fn tried(&self, _candidate: &Candidate) {}

    /// Why it is to end now, if it is.
    fn ends(&self) -> Option<String> {
        None
    }

    /// The time that is left, if it is bounded.
    fn left(&self) -> Option<Duration> {
        None
    }
}

/// A complete student that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// What was done, in a few words.
    pub what: String,
    /// The steps that make it, in the form `PASS:key=value,…`.
    pub steps: Vec<String>,
    /// What it costs.
    pub size: ModelSize,
    /// How good it is on the samples that it is chosen by.
    pub score: Score,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The student that meets the limits best, or comes nearest.
    pub best: Candidate,
    /// The best student, where it was made in this run.
    pub outcome: Option<Outcome>,
    /// In the order they were tried.
    pub tried: Vec<Candidate>,
    /// Those of which none that is smaller loses less, the smallest first, if they are asked for.
    pub front: Vec<(Candidate, Model)>,
    /// Why no more were tried.
    pub why: String,
    /// What was asked for and not reached.
    pub missed: Vec<String>,
}

/// What a search knows of its teacher before its first candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    /// Bytes of names and nodes.
    own: u64,
    /// Layers, the largest weights first.
    layers: Vec<String>,
}

/// What is searched for, how, and in what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub limits: Limits,
    pub options: Options,
    pub basis: Basis,
}

impl Question {
    /// # Errors
    /// If the teacher cannot be cleaned, or cannot be as small as it is to be.
    pub fn new(session: &Session<'_>, mut limits: Limits, mut options: Options) -> Result<Question> {
        // What is not kept in files does not count.
        limits.teacher.cost.stored = 0;
        options.training = options.training.filter(|_| options.techniques.iter().any(|t| t == plan::DISTILL));
        let clean = |packs: Vec<&'static str>| {
            let mut state = session.start()?;
            for step in (Plan { packs, ..Plan::whole() }).steps(&options.common) {
                session.advance(&mut state, &Step::parse(&step)?)?;
            }
            Ok::<_, Error>(state)
        };
        let size = clean(options.packs())?.size();
        let own = size.bytes.saturating_sub(size.cost.stored);
        if let Some(bytes) = limits.size.filter(|&bytes| bytes <= own) {
            return Err(Error::input("--target-size is out of reach")
                .because(format!("names and nodes alone take {own} bytes, and at most {bytes} are asked for"))
                .help(format!("ask for at least {}", 2 * own)));
        }
        let basis = Basis { own, layers: layers(&clean(Vec::new())?.student().graph) };
        Ok(Question { limits, options, basis })
    }

    /// Looks for the student that meets the limits best.
    ///
    /// # Errors
    /// If a candidate cannot be made, or the time does not suffice for one.
    pub fn search<'a>(
        &self,
        session: &Session<'a>,
        judge: &Judge<'_>,
        store: Store,
        watch: &dyn Watch,
    ) -> Result<Found> {
        self.run(Some((session, judge)), store, watch).search()
    }

    /// Walks through the search with what was measured, without making any student: what is to be made next, at most so many,
    /// or what is found.
    ///
    /// # Errors
    /// As [`Question::search`].
    pub fn replay(&self, store: Store, most: usize) -> Result<Walked> {
        self.run(None, store, &UnwatchedSearch).replay(most)
    }

    /// Makes one candidate, and gives what was measured.
    ///
    /// # Errors
    /// If it cannot be made, or `watch` ended it.
    pub fn make(
        &self,
        session: &Session<'_>,
        judge: &Judge<'_>,
        inputs: Inputs,
        task: &CandidateTask,
        watch: &dyn Watch,
    ) -> Result<Trials> {
        self.run(Some((session, judge)), Store::of(inputs, Trials::new()), watch).make(task)
    }

    fn run<'s, 'a>(
        &'s self,
        workshop: Option<Workshop<'s, 'a>>,
        store: Store,
        watch: &'s dyn Watch,
    ) -> SearchRun<'s, 'a> {
        let Question { limits, options, basis } = self;
        let unit = if limits.macs.or(limits.latency).is_some() { Unit::Macs } else { Unit::Params };
        let share = |limit: Option<u64>, whole: u64| limit.map(|limit| limit as f64 / whole.max(1) as f64);
        let product = match unit {
            // Latency goes by MACs until it was measured.
            Unit::Macs => {
                let macs = share(limits.macs, limits.teacher.cost.macs.unwrap_or(0));
                let latency = share(limits.latency, limits.teacher.latency.unwrap_or(0));
                macs.into_iter().chain(latency).min_by(f64::total_cmp)
            }
            Unit::Params => share(limits.weights, limits.teacher.weights),
        };
        let splitter = options.splitter();
        let space = Space {
            prunes: options.may("prune-channels"),
            splits: splitter.is_some(),
            encodes: options.may("cluster-weights"),
            product,
            overhead: 2.0 * basis.own as f64,
            measured: false,
            least_bits: 0.0,
            weights: limits.teacher.cost.parameters as f64,
            least_split: 0.0,
        };
        let plan = Plan { unit, splitter: splitter.unwrap_or_default(), packs: options.packs(), ..Plan::whole() };
        let digest = options.training.as_ref().map(|t| t.digest.clone());
        let clock = options.clock.as_ref().zip(limits.teacher.latency);
        let maker = Maker::new(workshop, store, digest, clock, watch);
        SearchRun::new(maker, limits, options, watch, space, plan, basis.layers.clone())
    }
}

/// Nobody watches, and nothing ends it.
struct UnwatchedSearch;

impl Watch for UnwatchedSearch {}

impl Options {
    fn may(&self, pass: &str) -> bool {
        self.techniques.iter().any(|t| t == pass)
    }

    fn packs(&self) -> Vec<&'static str> {
        PACKS.into_iter().filter(|pack| self.may(pack)).collect()
    }

    /// The pass that splits layers: `shrink` where it may choose between several, each layer its own.
    fn splitter(&self) -> Option<String> {
        let open: Vec<&str> = SPLITTERS.into_iter().filter(|pass| self.may(pass)).collect();
        match open[..] {
            [] => None,
            [one] => Some(one.into()),
            [..] if open.len() == SPLITTERS.len() => Some("shrink".into()),
            [..] => Some(format!("shrink:techniques={}", open.join(",techniques="))),
        }
    }
}

/// Layers of a network, the largest weights first.
fn layers(graph: &Graph) -> Vec<String> {
    let len = |n: &NodeId| weight(graph, *n).and_then(|w| graph.value(w.1).constant()).map_or(0, Tensor::len);
    let mut layers = passes::options::layers(graph);
    layers.retain(|n| len(n) > 0);
    layers.sort_by_key(|n| std::cmp::Reverse(len(n)));
    layers.into_iter().map(|n| graph.label(n).to_string()).collect()
}

/// The manual page: the doc comment that heads this file.
pub fn manual() -> String {
    passes::manual(include_str!("search.rs"))
}
