//! A run from files to files: a model, a recipe and data in; a student, what is said of it, and a [`Report`] out.
//!
//! ```no_run
//! use tutee::job::{Job, Outputs};
//! use tutee::recipe::Recipe;
//! use tutee::session::Silent;
//!
//! # fn main() -> tutee::Result<()> {
//! let recipe = Recipe::load("small.toml".as_ref())?;
//! let job = Job { output: Outputs::to("student.onnx"), ..Job::new("teacher.onnx", recipe) };
//! let done = job.run(&Silent)?;
//! println!("{} bytes", done.report.student.bytes);
//! done.result()?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "exec")]
mod bench;
mod exits;
mod golden;
mod listener;
mod outputs;
pub mod places;
#[cfg(feature = "exec")]
mod reading;
#[cfg(feature = "exec")]
mod samples;
#[cfg(not(feature = "exec"))]
#[path = "job/no_samples.rs"]
mod samples;
mod threads;
mod watched;

#[cfg(feature = "exec")]
pub use bench::{Bench, CalibrationSplit};
pub use golden::Golden;
pub use listener::Listener;
pub use outputs::Outputs;
#[cfg(feature = "exec")]
pub use reading::{classes, judging, load, normalise, pictures, targets};
pub use threads::start as start_threads;

use crate::analysis::sizes::InputSizes;
use crate::compress::compress_planned;
use crate::error::{Error, Result};
use crate::ir::op::OPSETS;
use crate::ir::{Graph, Model};
use crate::onnx::{self, Loaded};
use crate::recipe::{Action, Recipe};
use crate::report::{self, Report, Run};
use crate::session::{Data, Outcome};
use outputs::Prepared;
use places::NamedFile;
use samples::Samples;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use watched::Watched;

/// What a run is to do.
#[derive(Debug, Default)]
pub struct Job {
    /// The model that the student is made from.
    pub model: PathBuf,
    /// The steps, and the data and targets that go with them.
    pub recipe: Recipe,
    /// What the student must reach, before what the recipe says.
    pub gates: Gates,
    /// Dims of inputs by name, where the model leaves them open: MACs are counted at these.
    pub sizes: Vec<(String, Vec<usize>)>,
    /// What the student is compared with, if that is not the model.
    pub reference: Option<PathBuf>,
    /// A folder that keeps what it takes to go on with a training, and has it from an interrupted one.
    pub checkpoint: Option<PathBuf>,
    /// Where things are written.
    pub output: Outputs,
    /// A folder for the text form of the model after every step.
    pub dump: Option<PathBuf>,
    /// Run only so many steps; all if not given.
    pub stop_after: Option<usize>,
    /// Threads to run on, at most one a core; all cores if not given. The first run of a process decides.
    pub threads: Option<usize>,
    /// The command that does the same, for the report and for advice.
    pub command: Option<String>,
    /// The search that the recipe is from.
    pub searched: Option<Searched>,
}

/// What a student must reach on test data, and how its outputs are judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    /// The share that may be lost: 0.01 is one point.
    pub max_drop: Option<f64>,
    /// The least share of equal answers, cosine, or share of the variance.
    pub min_agreement: Option<f64>,
    /// The largest error by the metric of an output.
    pub max_error: Option<f64>,
    /// `METRIC` for all outputs, or `OUTPUT=METRIC`, as `tutee check --metric` takes it.
    pub metrics: Vec<String>,
    /// What outputs are: `NAME=KIND`, as `tutee check --output` takes it.
    pub outputs: Vec<String>,
}

/// What a search says of the recipe that it found.
#[derive(Debug, Default)]
pub struct Searched {
    /// The student, if it is in memory still: else it is made again.
    pub outcome: Option<Outcome>,
    /// Targets that nothing reached.
    pub missed: Vec<String>,
    /// What was tried.
    pub report: report::Search,
    /// Files that it went by, besides the model and its data.
    pub read: Vec<PathBuf>,
}

/// A run that came to its end: everything is written.
#[derive(Debug)]
pub struct Finished {
    /// The account of it.
    pub report: Report,
    /// Files that the student was made from and checked on.
    pub sources: Vec<PathBuf>,
    /// Whether there was data that weights could be fitted to.
    pub fitted: bool,
    /// The shares that were asked for on test data, by name.
    pub asked: Vec<(&'static str, f64)>,
    /// Why the student could not be checked on test data.
    pub unchecked: Option<Error>,
}

impl Finished {
    /// The report, if the student is what was asked for.
    ///
    /// # Errors
    /// Of kind [`Target`](crate::error::Kind::Target), if a target was missed; if the student could not be checked, why.
    pub fn result(self) -> Result<Report> {
        self.unchecked.map_or_else(|| missed(&self.report.missed), Err)?;
        Ok(self.report)
    }
}

/// An error that names every target that was missed, if one was.
///
/// # Errors
/// Of kind [`Target`](crate::error::Kind::Target).
pub fn missed(targets: &[String]) -> Result<()> {
    match targets {
        [] => Ok(()),
        _ => Err(Error::target("the student missed its target").because(targets.join("; "))),
    }
}

/// Dims of inputs for a model that leaves them open, if any are given.
///
/// # Errors
/// If they do not fit the model.
pub fn input_sizes(graph: &Graph, given: &[(String, Vec<usize>)]) -> Result<Option<InputSizes>> {
    (!given.is_empty()).then(|| InputSizes::new(graph, given)).transpose()
}

/// What one run works with.
struct OpenJob<'a> {
    job: &'a Job,
    plan: Vec<(String, Action)>,
    teacher: Loaded,
    samples: Samples,
    /// What inputs are where MACs are counted.
    sizes: InputSizes,
    listener: &'a dyn Listener,
}

impl Job {
    /// Runs a recipe on a model. Where the student goes is yet to be said.
    pub fn new(model: impl Into<PathBuf>, recipe: Recipe) -> Job {
        Job { model: model.into(), recipe, ..Job::default() }
    }

    /// Reads everything, makes the student, checks it on test data if there is some, and puts all files in place together.
    ///
    /// # Errors
    /// If something cannot be read or written, does not fit, or would be written over what is read: then nothing is written.
    /// A missed target is none here, see [`Finished::result`].
    pub fn run(mut self, listener: &dyn Listener) -> Result<Finished> {
        let made = self.searched.as_mut().and_then(|searched| searched.outcome.take());
        let open = OpenJob::new(&self, listener)?;
        let watched = Watched::new(listener, self.dump.as_deref(), open.teacher.pages.clone());
        let (outcome, used) = open.student(made, &watched)?;
        let Outcome { mut student, mut report } = outcome;
        open.name_exit(&mut student, &mut report)?;
        open.samples.compared_with(&self, &open.sizes, &mut report)?;
        let sources = open.sources();
        let mut prepared = open.prepare(&student, &sources, &mut report)?;
        let unchecked = open.check(&prepared, &watched, &mut report);
        report.run = open.describe(&watched, used.fitted_to, &report);
        prepared.tell(&self.output, &report, &sources)?;
        let late = prepared.commit(&student, &self.output, listener)?;
        report.warnings.extend(late.inspect(|what| listener.warning(what)));
        let asked = open.samples.asked();
        Ok(Finished { report, sources, fitted: used.fitted, asked, unchecked })
    }

    /// A student that was made before, with the whole recipe in its report.
    fn with_recipe(&self, mut made: Outcome) -> Result<Outcome> {
        let steps = Recipe::parse(&made.report.recipe, "the recipe as run")?.steps;
        made.report.recipe = Recipe { steps, ..self.recipe.clone() }.moved_to(Path::new("")).to_toml()?;
        Ok(made)
    }
}

impl<'a> OpenJob<'a> {
    /// Reads what the job names, and finds out before the work what would prevent it.
    fn new(job: &'a Job, listener: &'a dyn Listener) -> Result<OpenJob<'a>> {
        threads::start(job.threads)?;
        let plan = job.recipe.plan()?;
        job.output.check()?;
        let teacher = onnx::load(&job.model)?;
        let samples = Samples::open(job, &plan, &teacher.model, listener)?;
        let given = input_sizes(&teacher.model.graph, &job.sizes)?.or_else(|| samples.sizes(&teacher.model));
        let data = Data { sizes: given.unwrap_or_default(), ..Data::default() };
        let sizes = data.sizes_for(&teacher.model);
        exits::check(&job.output, &plan, &teacher.model)?;
        let open = OpenJob { job, plan, teacher, samples, sizes: data.sizes, listener };
        job.output.check_places(&job.model, &open.read())?;
        listener.unwritten(true);
        open.samples.check(job, &open.teacher.model)?;
        Ok(OpenJob { sizes, ..open })
    }

    /// Files that are read, in the order of a make rule.
    fn read(&self) -> Vec<NamedFile<'_>> {
        let teacher = self.teacher.files.iter().map(|f| ("the teacher", f.as_path()));
        let recipe = self.job.recipe.path.iter().map(|p| ("the recipe", p.as_path()));
        let searched = self.job.searched.iter().flat_map(|s| &s.read).map(|p| ("the table of costs", p.as_path()));
        teacher.chain(recipe).chain(searched).chain(self.samples.files()).collect()
    }

    /// As [`OpenJob::read`], without what they are.
    fn sources(&self) -> Vec<PathBuf> {
        self.read().into_iter().map(|(_, path)| path.to_path_buf()).collect()
    }

    /// Makes the student, if it is not `made` already.
    fn student(&self, made: Option<Outcome>, watched: &Watched<'_>) -> Result<(Outcome, samples::Used)> {
        let (job, model) = (self.job, &self.teacher.model);
        let mut warnings = self.warnings()?;
        let fitting = self.samples.fitting(job, model)?;
        warnings.extend(fitting.warnings(&self.plan, job));
        warnings.iter().for_each(|what| self.listener.warning(what));
        let outcome = match made {
            Some(made) => job.with_recipe(made),
            None => {
                let data = fitting.data(self.sizes.clone());
                compress_planned(data, model, self.teacher.bytes, (&job.recipe, &self.plan), job.stop_after, watched)
            }
        };
        watched.ends();
        let mut outcome = outcome?;
        outcome.report.warnings.iter().for_each(|what| self.listener.warning(what));
        outcome.report.warnings.splice(..0, warnings);
        self.samples.ruined(&mut outcome.report);
        Ok((outcome, fitting.used()))
    }

    /// What is to be said of the model and the recipe.
    fn warnings(&self) -> Result<Vec<String>> {
        let mut warnings = self.teacher.warnings.clone();
        let opset = self.teacher.model.graph.opset;
        if !OPSETS.contains(&opset) {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            warnings.push(format!(
                "tutee reasons about operators of opsets {first} to {last}: of opset {opset} it carries them untouched"
            ));
        }
        warnings.extend(Recipe::advice(&self.plan));
        Ok(warnings)
    }

    /// Adds the output that says which exit was taken, if there is to be one.
    fn name_exit(&self, student: &mut Model, report: &mut Report) -> Result<()> {
        exits::name(&self.job.output, student, &self.sizes, report)
    }

    /// Writes the student, and its stages, beside their places.
    fn prepare(&self, student: &Model, sources: &[PathBuf], report: &mut Report) -> Result<Prepared> {
        let output = &self.job.output;
        let flat = if output.stages { exits::flat(student)? } else { None };
        if output.stages && flat.is_none() {
            let what = "no stages were written: the student has no exits";
            self.listener.warning(what);
            report.warnings.push(what.into());
        }
        let replaced = if output.is_in_place(&self.job.model) { self.teacher.files.len() } else { 0 };
        let mut prepared = output.prepare(student, flat.as_ref(), &sources[replaced..], self.listener)?;
        report.student.bytes = prepared.bytes()?.unwrap_or(report.student.bytes);
        if let Some(searched) = &self.job.searched {
            report.missed.clone_from(&searched.missed);
            report.search = Some(searched.report.clone());
        }
        report.missed.extend(prepared.missed());
        Ok(prepared)
    }

    /// Checks the written student on test data, if there is some. Gives why that could not be done: it is a student all the same.
    fn check(&self, prepared: &Prepared, watched: &Watched<'_>, report: &mut Report) -> Option<Error> {
        let written = prepared.student()?;
        let done = self.samples.test(self.job, written, watched, report);
        done.map_err(|e| e.calling(written, &self.job.output.student))
            .inspect_err(|e| report.warnings.push(format!("the student was not checked: {}", e.reason())))
            .err()
    }

    /// How the report came to be.
    fn describe(&self, watched: &Watched<'_>, fitted_to: Option<usize>, report: &Report) -> Run {
        let output = &self.job.output;
        Run {
            command: self.job.command.clone(),
            teacher: Some(self.job.model.display().to_string()),
            student: (!output.to_stdout()).then(|| output.student.display().to_string()),
            data: self.samples.uses(fitted_to, report),
            times: watched.times(),
        }
    }
}
