//! The driver: a session holds what does not change from run to run, a state is a student on its way, and each step takes a
//! state further.
//!
//! A [`Session`] is made once for a teacher and its data, and keeps what it computed of them. A [`State`] can be cloned at any
//! point, for little: students share the tensors that they have in common. Runs that begin with the same steps share these.
//!
//! ```no_run
//! # use tutee::{recipe::Step, session::Session};
//! # fn candidates(session: &Session<'_>) -> tutee::Result<()> {
//! let mut cleaned = session.start()?;
//! session.advance(&mut cleaned, &Step::parse("clean")?)?;
//! for step in ["cluster-weights:bits=4", "cluster-weights:bits=8"] {
//!     let mut student = cleaned.clone();
//!     session.advance(&mut student, &Step::parse(step)?)?;
//!     println!("{} bytes", session.finish(student)?.report.student.bytes);
//! }
//! # Ok(())
//! # }
//! ```

mod bodies;
#[cfg(feature = "exec")]
mod cascade;
#[cfg(feature = "exec")]
mod checkpoint;
#[cfg(feature = "exec")]
mod distill;
#[cfg(feature = "exec")]
mod early_exit;
mod forecast;
#[cfg(feature = "exec")]
mod frozen;
#[cfg(feature = "exec")]
mod gradients;
mod inputs;
mod measure;
mod observer;
mod provenance;
#[cfg(feature = "exec")]
mod repairs;
#[cfg(all(test, feature = "exec"))]
mod tests;
#[cfg(feature = "exec")]
mod training;
mod unseen;
mod visit;

pub use inputs::Data;
pub use measure::{measure, measure_at};
pub use observer::{Observer, Silent};
#[cfg(feature = "exec")]
pub use training::Training;

use crate::analysis::sizes::InputSizes;
use crate::analysis::weights;
#[cfg(feature = "exec")]
use crate::calibrate::{Calibration, TeacherRun};
use crate::error::{Error, Result};
use crate::ir::{Model, Type};
use crate::onnx;
use crate::passes::{Offers, Phase};
use crate::recipe::{Action, Recipe, Step};
use crate::report::{self, BeforeAfter, EpochPoint, ModelSize, Report, StepReport};
use measure::{nonzero, packed, same_interface};
#[cfg(feature = "exec")]
use repairs::Reference;
#[cfg(feature = "exec")]
use std::sync::{Arc, Mutex};
use visit::StepRun;

/// A teacher with its data. Runs of steps on it share what is computed of them.
pub struct Session<'a> {
    teacher: &'a Model,
    /// Bytes of the teacher's files.
    teacher_bytes: u64,
    data: Data<'a>,
    /// What inputs are where MACs are counted.
    sizes: InputSizes,
    observer: &'a dyn Observer,
    /// Runs of the teacher on the calibration data.
    #[cfg(feature = "exec")]
    teacher_runs: Mutex<Vec<Arc<TeacherRun>>>,
    /// What teachers said of the training data.
    #[cfg(feature = "exec")]
    answers: Mutex<Option<distill::KeptAnswers>>,
}

/// A student on its way, after some steps. Cloning takes time and memory for nodes and names, not for weights.
#[derive(Clone)]
pub struct State<'a> {
    student: Model,
    /// At the start, and now. The bytes of the former are those of the teacher's files,
    teacher: ModelSize,
    size: ModelSize,
    /// and these those of the student as it would be written.
    encoded: u64,
    /// Names and types of inputs and outputs.
    interface: Vec<(String, Option<Type>)>,
    /// The steps that were run, and an account of each.
    done: Vec<Step>,
    steps: Vec<StepReport>,
    /// How many steps there will be, as far as is known.
    planned: usize,
    /// Nodes and values that got another name at the start.
    renamed: usize,
    /// Whether the file says by now who made it.
    signed: bool,
    /// The step that encoded the weights, if one did.
    encoder: Option<String>,
    /// Targets that were missed, and in what way the student is of no use.
    missed: Vec<String>,
    ruined: Vec<String>,
    /// What whoever asked for the student should know, with all that ruined it.
    warnings: Vec<String>,
    /// What layers are fitted to.
    #[cfg(feature = "exec")]
    reference: Reference,
    /// Training data in place of calibration data, if there is no other.
    #[cfg(feature = "exec")]
    lent: Option<Arc<Calibration<'a>>>,
    /// What thresholds of exits are set by, and that no exit is taken as they are now.
    #[cfg(feature = "exec")]
    exits: Option<early_exit::Settings>,
    #[cfg(feature = "exec")]
    untaken: Option<String>,
    /// Steps before this one may be fitted to training data.
    lends: usize,
    #[cfg(not(feature = "exec"))]
    nothing: std::marker::PhantomData<&'a ()>,
}

/// A student and how it came to be.
#[derive(Debug)]
pub struct Outcome {
    /// The student.
    pub student: Model,
    /// What was done.
    pub report: Report,
}

/// The names of a site, the most telling first, and what a pass offers there, or why it does not.
pub type Offered = (Vec<String>, Result<Offers, String>);

/// What a step did besides its rows.
#[derive(Default)]
struct Effect {
    /// Of one that trains.
    curve: Vec<EpochPoint>,
    /// What was asked for and not reached.
    missed: Option<String>,
}

impl<'a> Session<'a> {
    /// `teacher_bytes` is what the teacher's files take, for the report.
    pub fn new(teacher: &'a Model, teacher_bytes: u64, data: Data<'a>, observer: &'a dyn Observer) -> Session<'a> {
        let sizes = data.sizes_for(teacher);
        Session {
            teacher,
            teacher_bytes,
            data,
            sizes,
            observer,
            #[cfg(feature = "exec")]
            teacher_runs: Mutex::default(),
            #[cfg(feature = "exec")]
            answers: Mutex::default(),
        }
    }

    /// The teacher.
    pub fn teacher(&self) -> &'a Model {
        self.teacher
    }

    /// What its inputs are where costs are counted.
    pub fn sizes(&self) -> &InputSizes {
        &self.sizes
    }

    /// A copy of the teacher, to be taken through steps that are not known yet: any may come.
    ///
    /// # Errors
    /// If the teacher's exits cannot be made out.
    pub fn start(&self) -> Result<State<'a>> {
        self.begin(true, true)
    }

    /// A copy of the teacher, to be taken through the first `stop_after` steps of a recipe (all, if `None`), which are
    /// checked as far as that is possible beforehand. Where all of them are exact, exits stay as the file has them; steps
    /// before the last that trains are fitted to training data if there is no calibration data.
    ///
    /// # Errors
    /// If the recipe cannot be run on such a model, with such data.
    pub fn start_for(&self, recipe: &Recipe, stop_after: Option<usize>) -> Result<State<'a>> {
        self.start_planned(recipe, &recipe.plan()?, stop_after)
    }

    /// As [`Session::start_for`], with the plan of the recipe.
    pub(crate) fn start_planned(
        &self,
        recipe: &Recipe,
        plan: &[(String, Action)],
        stop_after: Option<usize>,
    ) -> Result<State<'a>> {
        let actions: Vec<&Action> = plan.iter().map(|(_, action)| action).collect();
        let lends = actions.iter().rposition(|action| action.trains()).unwrap_or(0);
        #[cfg(feature = "exec")]
        let lent = self.data.lent(self.teacher, recipe, &actions, lends).map(Arc::new);
        #[cfg(feature = "exec")]
        let lends = if lent.is_some() { lends } else { 0 };
        for (i, (action, step)) in actions.iter().zip(&recipe.steps).enumerate() {
            self.data.suffices(action, step, i < lends)?;
        }
        if let Some(n) = stop_after.filter(|&n| n > actions.len()) {
            return Err(Error::input(format!("there is no step {n} to stop after"))
                .because(format!("the recipe has {}", actions.len()))
                .help("give a smaller number, or none to run all steps"));
        }
        let works = actions.iter().any(|action| !matches!(action, Action::Nothing));
        let state = self.begin(works, !actions.iter().all(|action| action.is_clean()))?;
        Ok(State {
            planned: actions.len().min(stop_after.unwrap_or(usize::MAX)),
            lends,
            #[cfg(feature = "exec")]
            lent,
            ..state
        })
    }

    /// Where something is done (`works`), names are made different; where weights change, exits are flat first: a pass must
    /// see each weight once, on the trunk, not inside `If` branches.
    fn begin(&self, works: bool, changes: bool) -> Result<State<'a>> {
        let mut student = self.teacher.clone();
        if changes {
            student.graph.flatten()?;
        }
        let renamed = if works { student.graph.separate_names() } else { 0 };
        let loaded = measure_at(&student, &self.sizes)?;
        let size = ModelSize { bytes: self.teacher_bytes, ..loaded };
        self.observer.model(0, "load", &student)?;
        Ok(State {
            interface: student.graph.interface(),
            student,
            teacher: size,
            size,
            encoded: loaded.bytes,
            done: Vec::new(),
            steps: Vec::new(),
            planned: 0,
            renamed,
            signed: false,
            encoder: None,
            missed: Vec::new(),
            warnings: Vec::new(),
            ruined: Vec::new(),
            #[cfg(feature = "exec")]
            reference: Reference::default(),
            #[cfg(feature = "exec")]
            lent: None,
            #[cfg(feature = "exec")]
            exits: None,
            #[cfg(feature = "exec")]
            untaken: None,
            lends: 0,
            #[cfg(not(feature = "exec"))]
            nothing: std::marker::PhantomData,
        })
    }

    /// Runs a step.
    ///
    /// # Errors
    /// If the step is none that can follow, or does not fit the model or the data; the state is of no use then. As an internal
    /// error, if a pass broke the graph.
    pub fn advance(&self, state: &mut State<'a>, step: &Step) -> Result<()> {
        self.run(state, step, &step.action()?)
    }

    /// As [`Session::advance`], with what the step does.
    pub(crate) fn run(&self, state: &mut State<'a>, step: &Step, action: &Action) -> Result<()> {
        let index = state.steps.len();
        step.follows(action, state.encoder.as_deref())?;
        self.data.suffices(action, step, index < state.lends)?;
        self.observer.step(index, state.planned.max(index + 1), &step.name);
        let mut run = StepRun::new(self);
        if index == 0 && state.renamed > 0 {
            let count = state.renamed;
            let what = if count == 1 { "1 node or value".into() } else { format!("{count} nodes and values") };
            run.note("load", &format!("{what} got another name: one before or around had theirs"), true);
        }
        let exact = action.is_exact();
        // What later steps compare with has the same nodes from here on.
        if index == 0 && matches!(action, Action::Clean { .. }) && state.student.graph.exits().is_empty() {
            run.inline_functions(&mut state.student)?;
            state.encoded = state.encoded.max(onnx::encoded_len(&state.student)?);
        }
        let before = exact.then(|| state.student.clone());
        let Effect { curve, missed } = run.step(state, step, action)?;
        state.missed.extend(missed.map(|what| format!("{}: {what}", step.place())));
        state.student.graph.infer_all()?;
        #[cfg(feature = "exec")]
        run.after_exits(state, step, action)?;
        if let Some(before) = before {
            let grown = onnx::encoded_len(&state.student)?.saturating_sub(state.encoded);
            if grown > 0 {
                state.student = before.clone();
                run.rows.clear();
                run.note(&step.name, &format!("left as it was: the file would be {grown} bytes larger"), false);
            }
            #[cfg(feature = "exec")]
            state.reference.after_exact(&before.graph, &state.student.graph);
        }
        let graph = &state.student.graph;
        // Where nothing is done, names stay as the teacher has them.
        if !matches!(action, Action::Nothing) {
            graph.verify().map_err(|e| e.at(format!("after {}", step.place())))?;
        }
        for learned in same_interface(&state.interface, graph, exact)? {
            run.note("infer", &learned, true);
        }
        state.interface = graph.interface();
        if !self.teacher.graph.has_unlisted() && state.student.raise_ir() {
            run.note("load", "raised from IR 3 to IR 4: weights are no longer listed among the model's inputs", true);
        }
        let mut done = step.clone();
        done.options.extend(std::mem::take(&mut run.resolved));
        state.done.push(done);
        // What nothing was done to is still its maker's.
        state.signed |= run.rows.iter().any(|r| r.done) || !curve.is_empty();
        if state.signed {
            onnx::sign(&mut state.student, &provenance::words(&state.done))?;
        }
        let after = measure_at(&state.student, &self.sizes)?;
        let mut zstd_bytes = None;
        if let Action::Pass(pass, selection) = action {
            // What was chosen without reaching the budget is no miss a second time.
            let aims = !selection.best_effort || pass.undecided().is_some();
            let what = pass.budget().filter(|_| aims).and_then(|b| b.missed(state.size.cost, after.cost));
            state.missed.extend(what.map(|what| format!("{}: {what}", step.place())));
            if pass.phase() == Phase::Encode {
                state.encoder = Some(step.name.clone());
            }
            if pass.pays_compressed() {
                zstd_bytes = packed(&state.student, &after)?;
            }
        }
        let StepRun { rows, mut ruined, unseen, .. } = run;
        state.warnings.extend(unseen::unfitted(step.place(), &unseen));
        state.warnings.extend_from_slice(&ruined);
        state.ruined.append(&mut ruined);
        state.steps.push(StepReport { name: step.name.clone(), before: state.size, after, zstd_bytes, rows, curve });
        (state.size, state.encoded) = (after, after.bytes);
        self.observer.model(index + 1, &step.name, &state.student)
    }

    /// What the pass of a step offers at each of its sites, by the names of the site, with what is lost as calibration data, if
    /// there is any, predicts it. The state stays as it is.
    ///
    /// # Errors
    /// If the step is no pass that chooses, or does not fit the model or the data.
    pub fn offers(&self, state: &State<'a>, step: &Step) -> Result<Vec<Offered>> {
        match step.action()? {
            Action::Pass(pass, selection) => StepRun::new(self).offers(&mut state.clone(), step, &*pass, &selection),
            _ => Err(Error::input("it is no pass that chooses").at(step.place())),
        }
    }

    /// The student with the report of its steps.
    ///
    /// # Errors
    /// Internal ones only.
    pub fn finish(&self, state: State<'a>) -> Result<Outcome> {
        #[cfg_attr(not(feature = "exec"), allow(unused_mut))]
        let State { student, teacher, size, steps, done, warnings, ruined, mut missed, .. } = state;
        #[cfg(feature = "exec")]
        missed.extend(state.untaken);
        let last = steps.last().and_then(|s| s.zstd_bytes);
        let sparse = steps.iter().any(|s| s.zstd_bytes.is_some());
        let nonzero = sparse.then(|| nonzero((self.teacher, &teacher), (&student, &size))).flatten();
        let layers = |model: &Model| weights::layers(&self.sizes.at(&model.graph));
        let zstd_bytes = if sparse {
            let student = last.map_or_else(|| packed(&student, &size), |bytes| Ok(Some(bytes)))?;
            packed(self.teacher, &teacher)?.zip(student)
        } else {
            None
        };
        let report = Report {
            version: report::VERSION,
            teacher,
            student: size,
            zstd_bytes: zstd_bytes.map(|(teacher, student)| BeforeAfter { teacher, student }),
            nonzero_weights: nonzero,
            layers: report::layers(layers(self.teacher), layers(&student), &steps),
            left_alone: report::left_alone(&steps),
            steps,
            warnings,
            ruined,
            missed,
            recipe: Recipe { steps: done, ..Recipe::default() }.to_toml()?,
            ..Report::default()
        };
        Ok(Outcome { student, report })
    }
}

impl State<'_> {
    /// The student as it is by now. Its exits are flat.
    pub fn student(&self) -> &Model {
        &self.student
    }

    /// What it costs by now.
    pub fn size(&self) -> ModelSize {
        self.size
    }

    /// The steps that were run, with what budgets chose as options by layer: these make the same student.
    pub fn resolved(&self) -> &[Step] {
        &self.done
    }

    /// Targets of its steps that were missed.
    pub fn missed(&self) -> &[String] {
        &self.missed
    }

    /// An account of every step that was run.
    pub fn steps(&self) -> &[StepReport] {
        &self.steps
    }

    /// How many steps of the recipe are to be run, of a state that was started for one.
    pub fn planned(&self) -> usize {
        self.planned
    }
}
