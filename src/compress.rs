//! The driver: runs a recipe's steps over a model, site by site, and accounts for every one.

#[cfg(feature = "exec")]
mod cascade;
#[cfg(feature = "distill")]
mod checkpoint;
#[cfg(feature = "distill")]
mod distill;
#[cfg(feature = "exec")]
mod early_exit;
#[cfg(feature = "distill")]
mod frozen;
mod inputs;
mod provenance;
#[cfg(feature = "exec")]
mod repairs;
#[cfg(feature = "distill")]
mod training;

pub use inputs::Data;
#[cfg(feature = "distill")]
pub use training::Training;

#[cfg(feature = "exec")]
use repairs::Repairs;
/// Without the means to run a model there is nothing to fit to.
#[cfg(not(feature = "exec"))]
type Repairs<'a> = std::marker::PhantomData<&'a ()>;

use crate::analysis::cost::{Cost, Costs, cost};
use crate::analysis::sizes::InputSizes;
use crate::error::{Error, Result};
use crate::ir::patch::Applied;
use crate::ir::{Graph, Model, NodeId, Op, Patch, Tensor, Type};
use crate::onnx;
use crate::passes::options::{Selected, Selection};
use crate::passes::{self, Context, Fitted, Pass, Phase, Site, Survey, Together, Verdict};
use crate::recipe::{Action, Recipe};
use crate::report::{self, Packed, Report, Row, Size, StepReport};

/// Rounds of cleaning after which passes that still find something must be undoing each other.
const MAX_ROUNDS: usize = 50;

/// Models of more bytes are not compressed for the report: at this size it takes some ten seconds.
const LARGEST_PACKED: u64 = 1 << 28;

/// Of models of more bytes, new tensors wait on disk until they are written.
const LARGE: u64 = 1 << 27;

/// What happens while a recipe runs, for whoever wants to show it.
pub trait Observer {
    /// Before step `index` (from 0) of `count`.
    fn step(&self, _index: usize, _count: usize, _name: &str) {}

    /// At a site of the running step, of whose work `done` of `all` is behind.
    fn site(&self, _done: u64, _all: u64, _site: &str) {}

    /// News of a step that takes long, such as the end of an epoch.
    fn line(&self, _news: &str) {}

    /// Before (`true`) and after something that may end early and has something to show for it then.
    fn training(&self, _begins: bool) {}

    /// Whether that should go on.
    fn goes_on(&self) -> bool {
        true
    }

    /// After a step; `index` counts from 1, and 0 is the model as loaded.
    ///
    /// # Errors
    /// Whatever the observer could not do; it ends the run.
    fn model(&self, _index: usize, _name: &str, _model: &Model) -> Result<()> {
        Ok(())
    }
}

/// Observes nothing.
pub struct Silent;

impl Observer for Silent {}

/// A student and how it came to be.
#[derive(Debug)]
pub struct Outcome {
    pub student: Model,
    pub report: Report,
}

/// Runs the first `stop_after` steps of a recipe (all, if `None`) on a copy of the teacher. `teacher_bytes` is what its
/// files take, for the report.
///
/// # Errors
/// If the recipe does not fit the model, or, as an internal error, if a pass broke the graph.
pub fn compress(
    teacher: &Model,
    teacher_bytes: u64,
    recipe: &Recipe,
    stop_after: Option<usize>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    run(teacher, teacher_bytes, recipe, stop_after, observer, Data::default())
}

/// As [`compress`], with data.
///
/// # Errors
/// As [`compress`], and if the data cannot be run through the model.
pub fn compress_on(
    data: Data<'_>,
    teacher: &Model,
    teacher_bytes: u64,
    recipe: &Recipe,
    stop_after: Option<usize>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    run(teacher, teacher_bytes, recipe, stop_after, observer, data)
}

fn run(
    teacher: &Model,
    teacher_bytes: u64,
    recipe: &Recipe,
    stop_after: Option<usize>,
    observer: &dyn Observer,
    data: Data<'_>,
) -> Result<Outcome> {
    let plan = recipe.plan()?;
    // Steps before this one may be fitted to training data.
    let trained = plan.iter().rposition(|(_, action)| action.trains()).unwrap_or(0);
    #[cfg(feature = "distill")]
    let borrowed = data.borrowed(teacher, recipe, &plan, trained);
    #[cfg(all(feature = "exec", not(feature = "distill")))]
    let borrowed: Option<crate::calibrate::Calibration<'_>> = None;
    #[cfg(not(feature = "exec"))]
    let borrowed: Option<()> = None;
    for (i, ((_, action), step)) in plan.iter().zip(&recipe.steps).enumerate() {
        data.suffices(action, step, borrowed.is_some() && i < trained)?;
    }
    #[cfg(feature = "exec")]
    let mut repairs = data.calibration.or(borrowed.as_ref()).map(|data| Repairs::new(data, teacher));
    #[cfg(not(feature = "exec"))]
    let mut repairs: Option<Repairs<'_>> = None;
    if let Some(n) = stop_after.filter(|&n| n > plan.len()) {
        return Err(Error::input(format!("there is no step {n} to stop after"))
            .because(format!("the recipe has {}", plan.len()))
            .help("give a smaller number, or none to run all steps"));
    }
    let mut student = teacher.clone();
    // What changes weights is to see them where they are used, not in the branches of exits.
    if !plan.iter().all(|(_, action)| matches!(action, Action::Nothing | Action::Clean)) {
        student.graph.flatten()?;
    }
    // What does nothing leaves names as they are, too.
    let works = !plan.iter().all(|(_, action)| matches!(action, Action::Nothing));
    let renamed = if works { student.graph.separate_names() } else { 0 };
    let mut interface = student.graph.interface();
    let mut steps: Vec<StepReport> = Vec::new();
    let (mut missed, mut ruined) = (Vec::new(), Vec::new());
    #[cfg(feature = "exec")]
    let (mut exits, mut untaken): (Option<early_exit::Settings>, Option<String>) = (None, None);
    let sizes = data.sizes_for(&student);
    let loaded = measure_at(&student, &sizes)?;
    let mut encoded = loaded.bytes;
    let teacher_size = Size { bytes: teacher_bytes, ..loaded };
    let mut size = teacher_size;
    let count = plan.len().min(stop_after.unwrap_or(usize::MAX));
    let done = provenance::words(&recipe.steps[..count]);
    let mut signed = false;
    observer.model(0, "load", &student)?;
    for (i, ((name, action), step)) in plan.into_iter().zip(&recipe.steps).take(count).enumerate() {
        observer.step(i, count, &name);
        let mut run = Run {
            rows: Vec::new(),
            costs: Costs::at(&sizes),
            observer,
            large: teacher_bytes > LARGE,
            ruined: Vec::new(),
            refused: false,
        };
        let packs = matches!(&action, Action::Pass(pass, _) if pass.pays_compressed());
        let exact = match &action {
            Action::Nothing | Action::Clean => true,
            Action::Pass(pass, _) => pass.phase() == Phase::Clean,
            #[cfg(feature = "distill")]
            Action::Distill(_) => false,
            #[cfg(feature = "exec")]
            Action::EarlyExit(_) | Action::Cascade(_) => false,
        };
        if i == 0 && renamed > 0 {
            let what = if renamed == 1 { "1 node or value".into() } else { format!("{renamed} nodes and values") };
            run.note("load", &format!("{what} got another name: one before or around had theirs"), true);
        }
        #[cfg_attr(not(feature = "distill"), allow(unused_mut))]
        let mut curve = Vec::new();
        let before = exact.then(|| student.clone());
        match &action {
            Action::Nothing => {}
            #[cfg(feature = "distill")]
            Action::Distill(stage) => {
                let training = data.training.ok_or_else(|| Error::internal("no training data"))?;
                let trained = run.distill(&mut student, teacher, training, stage, i);
                let (points, ended) = trained.map_err(|e| e.at(step.place()))?;
                curve = points;
                missed.extend(ended.map(|what| format!("{}: {what}", step.place())));
                repairs.iter_mut().for_each(Repairs::begin_anew);
            }
            #[cfg(feature = "exec")]
            Action::EarlyExit(stage) => {
                let fell_short = run.early_exit(&mut student, teacher, &data, stage).map_err(|e| e.at(step.place()))?;
                missed.extend(fell_short.map(|why| format!("{}: {why}", step.place())));
            }
            #[cfg(feature = "exec")]
            Action::Cascade(stage) => {
                let fell_short = run.cascade(&mut student, &data, stage).map_err(|e| e.at(step.place()))?;
                missed.extend(fell_short.map(|why| format!("{}: {why}", step.place())));
            }
            Action::Clean => run.clean(&mut student.graph, &passes::clean(), None)?,
            Action::Pass(pass, selection) => {
                let located = |e| step.error(e);
                if pass.phase() == Phase::Clean {
                    selection.resolve(&student.graph).map_err(located)?;
                    run.clean(&mut student.graph, std::slice::from_ref(pass), Some(selection))?;
                } else {
                    let selected = selection.resolve(&student.graph).map_err(located)?;
                    pass.fits(&student.graph).map_err(located)?;
                    #[cfg(feature = "exec")]
                    let fits = (data.calibration.is_some() || repairs.is_some() && i < trained) && selected.repairs();
                    #[cfg(not(feature = "exec"))]
                    let fits = false;
                    let (selected, place) = (&selected, step.place());
                    let task = Task { pass: &**pass, selected, repairs: fits, survey: None, sizes: &sizes, place };
                    task.reaches(&student.graph, f64::INFINITY)?;
                    match repairs.as_mut() {
                        #[cfg(feature = "exec")]
                        Some(repairs) if data.calibration.is_some() => {
                            repairs.visit_all(&mut run, &mut student.graph, task)?;
                        }
                        #[cfg(feature = "distill")]
                        Some(own) if i < trained => {
                            if !run.on_training_data(own, &mut student.graph, task)? {
                                repairs = None;
                            }
                        }
                        _ => run.visit_without_data(&mut student.graph, task)?,
                    }
                }
            }
        }
        student.graph.infer_all()?;
        #[cfg(feature = "exec")]
        match early_exit::Settings::of(&action) {
            Some(settings) => exits = Some(settings),
            None if exact || student.graph.exits().is_empty() || matches!(action, Action::EarlyExit(_)) => {}
            None => match &exits {
                Some(settings) => {
                    let why = run.reset_exits(&mut student, &data, settings, &action).map_err(|e| e.at(step.place()))?;
                    untaken = why.map(|why| format!("{}: {why}", step.place()));
                }
                None => run.note(
                    "exits",
                    "their thresholds stay as they are, for what the model computed before: no step of this recipe sets them for a `max-drop`",
                    false,
                ),
            },
        }
        if let Some(before) = before {
            let grown = onnx::encoded_len(&student)?.saturating_sub(encoded);
            if grown > 0 {
                student = before;
                run.rows.clear();
                run.note(&name, &format!("left as it was: the file would be {grown} bytes larger"), false);
            }
        }
        #[cfg(feature = "exec")]
        if let Some(repairs) = &mut repairs {
            repairs.after_step(&student.graph, exact);
        }
        student.graph.verify().map_err(|e| e.at(format!("after {}", step.place())))?;
        for learned in same_interface(&interface, &student.graph, exact)? {
            run.note("infer", &learned, true);
        }
        interface = student.graph.interface();
        if !teacher.graph.has_unlisted() && student.raise_ir() {
            run.note("load", "raised from IR 3 to IR 4: weights are no longer listed among the model's inputs", true);
        }
        // What nothing was done to is still its maker's.
        if !signed && (run.rows.iter().any(|r| r.done) || !curve.is_empty()) {
            onnx::sign(&mut student, &done)?;
            signed = true;
        }
        let after = measure_at(&student, &sizes)?;
        if let Action::Pass(pass, _) = &action {
            let what = pass.budget().and_then(|b| b.missed(size.cost, after.cost));
            missed.extend(what.map(|what| format!("{}: {what}", step.place())));
        }
        let zstd_bytes = packs.then(|| packed(&student, &after)).transpose()?.flatten();
        ruined.append(&mut run.ruined);
        steps.push(StepReport { name: name.clone(), before: size, after, zstd_bytes, rows: run.rows, curve });
        (size, encoded) = (after, after.bytes);
        observer.model(i + 1, &name, &student)?;
    }
    #[cfg(feature = "exec")]
    missed.extend(untaken);
    let last = steps.last().and_then(|s| s.zstd_bytes);
    let zstd_bytes = if steps.iter().any(|s| s.zstd_bytes.is_some()) {
        let student = last.map_or_else(|| packed(&student, &size), |bytes| Ok(Some(bytes)))?;
        packed(teacher, &teacher_size)?.zip(student)
    } else {
        None
    };
    let report = Report {
        version: report::VERSION,
        teacher: teacher_size,
        student: size,
        zstd_bytes: zstd_bytes.map(|(teacher, student)| Packed { teacher, student }),
        steps,
        warnings: ruined.clone(),
        ruined,
        missed,
        check: None,
    };
    Ok(Outcome { student, report })
}

/// Nodes, cost and bytes of a model as it would be written.
///
/// # Errors
/// Internal ones only.
pub fn measure(model: &Model) -> Result<Size> {
    measure_at(model, &AS_DECLARED)
}

/// As [`measure`], with MACs for inputs of these sizes.
///
/// # Errors
/// Internal ones only.
pub fn measure_at(model: &Model, sizes: &InputSizes) -> Result<Size> {
    let model = &*model.nested()?;
    let cost = cost(&sizes.at(&model.graph));
    Ok(Size { nodes: model.graph.count_nodes(), cost, bytes: onnx::encoded_len(model)? })
}

/// Bytes after zstd of a model that is not too large to wait for them.
fn packed(model: &Model, size: &Size) -> Result<Option<u64>> {
    (size.bytes <= LARGEST_PACKED).then(|| onnx::packed_len(model)).transpose()
}

/// The names and types of inputs and outputs, in order, are the contract with whoever runs the model. What is known of
/// them may turn out to be other than declared while nothing but `exact` changes are made: then the teacher's file
/// contradicts itself, and what was learned is returned.
fn same_interface(before: &[(String, Option<Type>)], graph: &Graph, exact: bool) -> Result<Vec<String>> {
    let after = graph.interface();
    let mut learned = Vec::new();
    let mut same = before.len() == after.len();
    for ((name, was), (now, is)) in before.iter().zip(&after) {
        same &= name == now;
        if let (Some(was), Some(is)) = (was, is)
            && !was.agrees(is)
        {
            same &= exact;
            learned.push(format!("\"{name}\" is declared {was} but is {is}: the declaration is kept"));
        }
    }
    if same { Ok(learned) } else { Err(Error::internal("the model's inputs or outputs changed")) }
}

/// A pass with what it goes by.
#[derive(Clone, Copy)]
struct Task<'a> {
    pass: &'a dyn Pass,
    selected: &'a Selected<'a>,
    /// Whether it is to be fitted to calibration data.
    repairs: bool,
    survey: Option<&'a Survey>,
    /// What the model's inputs are where costs are counted.
    sizes: &'a InputSizes,
    /// Where the step is written.
    place: &'a str,
}

static AS_DECLARED: InputSizes = InputSizes::AS_DECLARED;

impl<'a> Task<'a> {
    /// Of a pass that changes no costs, or is only asked for its sites.
    fn without_data(pass: &'a dyn Pass, selected: &'a Selected<'a>) -> Task<'a> {
        Task { pass, selected, repairs: false, survey: None, sizes: &AS_DECLARED, place: "" }
    }

    fn context<'c>(&'c self, graph: &'c Graph, fitted: Option<Fitted<'c>>) -> Context<'c> {
        let Task { selected, repairs, survey, sizes, .. } = *self;
        Context { graph, selected, repairs, sizes, max_loss: selected.max_loss(), survey, fitted }
    }

    fn cost(&self, graph: &Graph) -> Cost {
        self.context(graph, None).cost()
    }

    /// Refuses a budget that cannot be reached where no layer loses more than `max_loss` of its output, unless the step
    /// is to go as far as it can.
    fn reaches(&self, graph: &Graph, max_loss: f64) -> Result<()> {
        let Some(budget) = self.pass.budget() else { return Ok(()) };
        let cx = Context { max_loss, ..self.context(graph, None) };
        if budget.of(cx.cost()).is_none() {
            let what = format!("the model's {} depend on dims that are known only at run time", budget.unit());
            let error = Error::input(what).at(self.place);
            let why = format!("`{}` is a share of them", budget.key());
            return Err(match self.sizes.is_empty() {
                true => error
                    .because(why)
                    .help("say what its inputs are: --input-shape NAME=1x3x224x224, or data (--calib, --test)"),
                false => error.because(format!("{why}, and not even the sizes of its inputs tell them")),
            });
        }
        if self.selected.best_effort() {
            return Ok(());
        }
        let refused = self.pass.reach(&cx).and_then(|reach| reach.refuses(self.pass.name()));
        refused.map_or(Ok(()), |e| Err(e.at(self.place)))
    }
}

/// Axes of values that became shorter, each with the positions that stayed.
type Cuts = Vec<(crate::ir::ValueId, usize, Vec<usize>)>;

struct Run<'a> {
    rows: Vec<Row>,
    costs: Costs<'a>,
    observer: &'a dyn Observer,
    /// Whether the model is too large to have all its new tensors in memory.
    large: bool,
    /// In what way the student is of no use by now.
    ruined: Vec<String>,
    /// Whether a budget turned out to be out of reach.
    #[cfg_attr(not(feature = "distill"), allow(dead_code))]
    refused: bool,
}

impl Run<'_> {
    /// Runs passes over a graph and the bodies in it, round after round, until a whole round changes nothing.
    fn clean(&mut self, graph: &mut Graph, passes: &[Box<dyn Pass>], selection: Option<&Selection>) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            let mut changed = self.clean_bodies(graph, passes)?;
            // Refusals of an earlier round may be out of date.
            self.rows.retain(|r| r.done);
            for pass in passes {
                let rule = selection.cloned().unwrap_or_default();
                // A name that was there when the step began may be cleaned away by now.
                let fallback = Selection::default();
                let selected =
                    rule.resolve(graph).or_else(|_| fallback.resolve(graph)).map_err(|e| Error::internal(e.what))?;
                let task = Task::without_data(&**pass, &selected);
                changed |= self.visit_all(graph, task)?;
            }
            if !changed {
                return Ok(());
            }
        }
        Err(Error::internal(format!("cleaning does not end after {MAX_ROUNDS} rounds")))
    }

    fn clean_bodies(&mut self, graph: &mut Graph, passes: &[Box<dyn Pass>]) -> Result<bool> {
        let with_bodies: Vec<NodeId> = graph.nodes().filter(|&n| graph.node(n).has_bodies()).collect();
        if with_bodies.is_empty() {
            return Ok(false);
        }
        let mut changed = false;
        for n in with_bodies {
            changed |= graph.edit_bodies(n, |body| {
                let before = self.rows.iter().filter(|r| r.done).count();
                self.clean(body, passes, None)?;
                Ok(self.rows.iter().filter(|r| r.done).count() > before)
            })?;
        }
        Ok(changed)
    }

    /// Visits every site of a pass without data, and refuses a budget that is missed because it cannot be reached.
    fn visit_without_data(&mut self, graph: &mut Graph, task: Task<'_>) -> Result<()> {
        let task = Task { repairs: false, survey: None, ..task };
        let before = task.pass.budget().map(|budget| (budget, graph.clone()));
        self.visit_all(graph, task)?;
        match before {
            Some((budget, before)) if budget.missed(task.cost(&before), task.cost(graph)).is_some() => {
                task.reaches(&before, task.selected.max_loss())
            }
            _ => Ok(()),
        }
    }

    /// Visits every site of a pass once, each against the graph as the earlier ones left it.
    fn visit_all(&mut self, graph: &mut Graph, task: Task<'_>) -> Result<bool> {
        let pass = task.pass;
        let cx = task.context(graph, None);
        let sites = pass.sites(&cx);
        let count = sites.len();
        let together = match sites.is_empty() {
            true => None,
            false => pass.rewrite_together(&cx, &sites).map_err(|e| e.at(pass.name()))?,
        };
        let mut changed = false;
        let sites = match together {
            Some(together) => {
                changed = self.apply(graph, pass, &sites, together)?;
                Vec::new()
            }
            None => sites,
        };
        for (i, site) in sites.into_iter().enumerate().filter(|s| s.1.lives(graph)).collect::<Vec<_>>() {
            if site.lives(graph) {
                self.observer.site(i as u64, count as u64, &site.label(graph));
                changed |= self.visit(graph, task, site, None)?.is_some();
            }
        }
        if pass.phase() != Phase::Clean {
            self.passed_by(graph, pass);
        }
        Ok(changed)
    }

    fn apply(&mut self, graph: &mut Graph, pass: &dyn Pass, sites: &[Site], all: Together) -> Result<bool> {
        let before = self.rows.len();
        for (site, part) in sites.iter().zip(all.parts) {
            let mut row = row(graph, pass, site);
            (row.done, row.note) = part.what.map_or_else(|why| (false, why.to_string()), |what| (true, what));
            row.cost = part.cost;
            self.rows.push(row);
        }
        self.put(graph, all.patch).map_err(|e| e.at(pass.name()))?;
        Ok(self.rows[before..].iter().any(|r| r.done))
    }

    /// Applies a patch to a graph; of a large model, what is new waits on disk.
    fn put(&self, graph: &mut Graph, mut patch: Patch) -> Result<Applied> {
        if self.large {
            patch.tensors_mut().for_each(|t| *t = onnx::put_aside(std::mem::replace(t, Tensor::f32([0], &[]))));
        }
        graph.apply(patch)
    }

    /// What a patch shortened, if there was one.
    fn visit(
        &mut self,
        graph: &mut Graph,
        task: Task<'_>,
        site: Site,
        fitted: Option<Fitted<'_>>,
    ) -> Result<Option<Cuts>> {
        let (pass, selected) = (task.pass, task.selected);
        let mut row = row(graph, pass, &site);
        let verdict = match selected.refuses(graph, &site) {
            Some(why) => Verdict::skip(why)?,
            None if pass.phase() != Phase::Clean && site.contradicts(graph) => {
                Verdict::skip("the file contradicts the operator's definition here")?
            }
            None => pass
                .rewrite(&task.context(graph, fitted), site)
                .map_err(|e| e.at(format!("{} at \"{}\"", pass.name(), row.site)))?,
        };
        let done = match verdict {
            Verdict::Skip(why) => {
                row.note = why.to_string();
                None
            }
            Verdict::Patch(mut patch, what) => {
                let cuts = std::mem::take(&mut patch.cuts);
                let before = (pass.phase() != Phase::Clean).then(|| self.costs.now(graph, None));
                let applied =
                    self.put(graph, patch).map_err(|e| e.at(format!("{} at \"{}\"", pass.name(), row.site)))?;
                row.note = what;
                row.cost = before.map(|b| (b, self.costs.now(graph, Some(&applied))));
                Some(cuts)
            }
        };
        row.done = done.is_some();
        self.rows.push(row);
        Ok(done)
    }

    /// Passes that change the function work on the main graph and on floats alone, and say what they passed by.
    fn passed_by(&mut self, graph: &Graph, pass: &dyn Pass) {
        for n in graph.nodes() {
            if matches!(graph.node(n).op, Op::QConv(_) | Op::QMatMul(_)) {
                let note = "it computes with integers: passes that change weights take floats".into();
                self.rows.push(Row { note, ..row(graph, pass, &Site::Node(n)) });
            }
            let all = Selection::default();
            let count = |body: &Graph| match all.resolve(body) {
                Ok(selected) => pass.sites(&Task::without_data(pass, &selected).context(body, None)).len(),
                Err(_) => 0,
            };
            let sites: usize = graph.node(n).bodies().map(count).sum();
            if sites > 0 {
                let mut row = row(graph, pass, &Site::Node(n));
                let what = if sites == 1 { "1 site is".into() } else { format!("{sites} sites are") };
                row.note = format!("{what} inside its bodies: only clean passes enter bodies of control flow");
                self.rows.push(row);
            }
        }
    }

    fn note(&mut self, pass: &str, what: &str, done: bool) {
        self.rows.push(Row {
            pass: pass.into(),
            site: "model".into(),
            op: String::new(),
            done,
            note: what.into(),
            cost: None,
            error: None,
        });
    }
}

fn row(graph: &Graph, pass: &dyn Pass, site: &Site) -> Row {
    let op = site.node().map_or_else(String::new, |n| graph.node(n).kind());
    Row {
        pass: pass.name().into(),
        site: site.label(graph),
        op,
        done: false,
        note: String::new(),
        cost: None,
        error: None,
    }
}
