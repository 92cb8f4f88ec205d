//! One step: a pass goes over its sites, each of which gets a patch or a reason, and a row.

#[cfg(feature = "exec")]
use super::repairs::StepMoments;
use super::unseen::Unseen;
use super::{Effect, Observer, Offered, Session, State};
use crate::analysis::cost::{Cost, Costs};
use crate::analysis::readers::{self, Unmentioned};
use crate::analysis::sizes::InputSizes;
use crate::error::{Error, Result};
use crate::ir::patch::Applied;
use crate::ir::{Graph, Model, NodeId, Op, Patch, Tensor, ValueId};
use crate::onnx::{self, Inlined};
use crate::passes::options::{self, Selected, Selection};
use crate::passes::storage::Storage;
use crate::passes::{
    self, Context, Fidelity, Fitted, JointVerdict, LayerAnswers, Pass, Phase, Reason, Site, Verdict, Why, sharing,
};
use crate::recipe::{Action, Step};
use crate::report::Row;
use std::collections::{HashMap, HashSet};

/// Rounds of cleaning after which passes that still find something must be undoing each other.
const MAX_ROUNDS: usize = 50;

/// Of models of more bytes, new tensors wait on disk until they are written.
const LARGE: u64 = 1 << 27;

/// A pass with what it goes by.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub pass: &'a dyn Pass,
    pub selected: &'a Selected<'a>,
    /// Whether it is to be fitted to calibration data.
    pub repairs: bool,
    pub sensitivity: Option<&'a LayerAnswers>,
    /// What the model's inputs are where costs are counted.
    pub sizes: &'a InputSizes,
    /// Where the step is written.
    pub place: &'a str,
}

pub(super) static AS_DECLARED: InputSizes = InputSizes::AS_DECLARED;

impl<'a> Task<'a> {
    /// Of a pass that changes no costs, or is only asked for its sites.
    pub fn without_data(pass: &'a dyn Pass, selected: &'a Selected<'a>) -> Task<'a> {
        Task { pass, selected, repairs: false, sensitivity: None, sizes: &AS_DECLARED, place: "" }
    }

    pub fn context<'c>(&'c self, graph: &'c Graph, fitted: Option<Fitted<'c>>) -> Context<'c> {
        let Task { selected, repairs, sensitivity, sizes, .. } = *self;
        Context { graph, selected, repairs, sizes, max_loss: selected.max_loss(), sensitivity, fitted }
    }

    /// Whether a site stays as it is, whatever data says.
    pub fn stays(&self, graph: &Graph, site: &Site) -> bool {
        self.selected.refuses(graph, site).is_some() || self.pass.stays(&self.context(graph, None), site).is_some()
    }

    fn cost(&self, graph: &Graph) -> Cost {
        self.context(graph, None).cost()
    }

    /// Refuses a budget that cannot be reached where no layer loses more than `max_loss` of its output, unless the step
    /// is to go as far as it can.
    pub fn reaches(&self, graph: &Graph, max_loss: f64) -> Result<()> {
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
pub(super) type Cuts = Vec<(ValueId, usize, Vec<usize>)>;

/// Where what layers see comes from, and what they are fitted to.
pub(super) trait MomentSource {
    /// The answers to what a pass asks, if it asks anything.
    fn survey(&mut self, run: &StepRun<'_, '_>, graph: &Graph, task: Task<'_>) -> Result<Option<LayerAnswers>>;

    /// Hears what a patch shortened.
    fn changed(&mut self, cuts: Cuts);

    /// Before the layers have their turns; those among them that are sites are given.
    fn start(&mut self, graph: &Graph, task: Task<'_>, sites: &HashMap<NodeId, Site>) -> Result<()>;

    /// The turn of a layer: it is rewritten, if it is a site, or fitted as it is, if what it reads has changed.
    fn visit(
        &mut self,
        run: &mut StepRun<'_, '_>,
        graph: &mut Graph,
        task: Task<'_>,
        layer: NodeId,
        site: Option<Site>,
    ) -> Result<()>;
}

/// A step while it runs.
pub(super) struct StepRun<'s, 'a> {
    pub session: &'s Session<'a>,
    pub rows: Vec<Row>,
    pub costs: Costs<'s>,
    /// In what way the student is of no use by now.
    pub ruined: Vec<String>,
    /// Layers that could not be fitted to the calibration data, and why.
    pub unseen: Vec<(String, Unseen)>,
    /// Whether a budget turned out to be out of reach.
    #[cfg_attr(not(feature = "exec"), allow(dead_code))]
    pub refused: bool,
    /// What the step's options lack to say what a budget chose.
    pub resolved: toml::Table,
}

impl<'s, 'a> StepRun<'s, 'a> {
    pub fn new(session: &'s Session<'a>) -> StepRun<'s, 'a> {
        let costs = Costs::at(&session.sizes);
        StepRun {
            session,
            rows: Vec::new(),
            costs,
            ruined: Vec::new(),
            unseen: Vec::new(),
            refused: false,
            resolved: toml::Table::new(),
        }
    }

    pub fn observer(&self) -> &'a dyn Observer {
        self.session.observer
    }

    /// Runs a step over the student of a state.
    pub fn step(&mut self, state: &mut State<'a>, step: &Step, action: &Action) -> Result<Effect> {
        #[cfg(feature = "exec")]
        let at_step = |e: Error| e.at(step.place());
        match action {
            Action::Nothing => Ok(Effect::default()),
            Action::Clean { keep_metadata } => {
                let all = passes::clean();
                let left_out = |pass: &dyn Pass| *keep_metadata && pass.name() == passes::REMOVE_METADATA;
                let all: Vec<_> = all.iter().map(|pass| &**pass).filter(|pass| !left_out(*pass)).collect();
                self.clean(&mut state.student.graph, &all, None)?;
                Ok(Effect::default())
            }
            Action::Pass(pass, selection) => {
                self.pass(state, step, &**pass, selection)?;
                Ok(Effect::default())
            }
            #[cfg(feature = "exec")]
            Action::Distill(stage) => self.distill(state, stage).map_err(at_step),
            #[cfg(feature = "exec")]
            Action::EarlyExit(stage) => self.early_exit(state, stage).map_err(at_step),
            #[cfg(feature = "exec")]
            Action::Cascade(stage) => self.cascade(state, stage).map_err(at_step),
        }
    }

    /// Runs a pass over the student of a state, with calibration data if there is any.
    fn pass(&mut self, state: &mut State<'a>, step: &Step, pass: &dyn Pass, selection: &Selection) -> Result<()> {
        let located = |e| step.error(e);
        if pass.phase() == Phase::Clean {
            selection.resolve(&state.student.graph).map_err(located)?;
            return self.clean(&mut state.student.graph, &[pass], Some(selection));
        }
        if pass.fidelity() == Fidelity::Exact {
            let graph = &mut state.student.graph;
            let selected = &selection.resolve(graph).map_err(located)?;
            return self.visit_without_data(graph, Task::without_data(pass, selected));
        }
        let put = |graph: &mut Graph, patch| self.put(graph, patch).map(drop);
        let storage = Storage::unpack(&mut state.student.graph, &put)?;
        if pass.enters_bodies() {
            self.sink(&mut state.student.graph, pass, selection)?;
        }
        self.change(state, step, pass, selection)?;
        if pass.enters_bodies() {
            self.change_bodies(&mut state.student.graph, pass, selection)?;
        }
        let put = |graph: &mut Graph, patch| self.put(graph, patch).map(drop);
        let lost = storage.pack(&mut state.student.graph, &put)?;
        let row = |(name, what)| told(pass.name(), name, true, what);
        self.rows.extend(lost.into_iter().map(row));
        Ok(())
    }

    /// Runs a pass that changes the function over the student of a state, of whose weights all are plain.
    fn change(&mut self, state: &mut State<'a>, step: &Step, pass: &dyn Pass, selection: &Selection) -> Result<()> {
        let located = |e| step.error(e);
        let graph = &mut state.student.graph;
        let selected = &selection.resolve(graph).map_err(located)?;
        pass.fits(graph).map_err(located)?;
        let task =
            Task { pass, selected, repairs: false, sensitivity: None, sizes: &self.session.sizes, place: step.place() };
        #[cfg(feature = "exec")]
        let sees = self.session.data.calibration.is_some() || state.lent.is_some() && state.steps.len() < state.lends;
        #[cfg(not(feature = "exec"))]
        let sees = false;
        // What layers lose is known at once where no data is to say it: then the least is one that will do.
        let loses = |e: Error| if sees { Err(e) } else { task.reaches(graph, selected.max_loss()).and(Err(e)) };
        task.reaches(graph, f64::INFINITY).or_else(loses)?;
        #[cfg(feature = "exec")]
        {
            let task = Task { repairs: selected.repairs(), ..task };
            if let Some(data) = self.session.data.calibration {
                return self.on_calibration_data(&mut state.reference, data, graph, task);
            }
            if let Some(data) = state.lent.clone().filter(|_| state.steps.len() < state.lends) {
                if !self.on_training_data(&mut state.reference, &data, graph, task)? {
                    state.lent = None;
                }
                return Ok(());
            }
        }
        self.visit_without_data(graph, task)
    }

    /// What a pass offers at its sites, with calibration data if there is any. The student is as it was after that, but for how
    /// its weights are stored.
    pub fn offers(
        &mut self,
        state: &mut State<'a>,
        step: &Step,
        pass: &dyn Pass,
        selection: &Selection,
    ) -> Result<Vec<Offered>> {
        let located = |e| step.error(e);
        let put = |graph: &mut Graph, patch| self.put(graph, patch).map(drop);
        Storage::unpack(&mut state.student.graph, &put)?;
        let graph = &state.student.graph;
        let selected = &selection.resolve(graph).map_err(located)?;
        let sizes = &self.session.sizes;
        let task = Task { pass, selected, repairs: false, sensitivity: None, sizes, place: step.place() };
        #[cfg(feature = "exec")]
        let told = match self.session.data.calibration {
            Some(data) => {
                StepMoments::new(self.session, data, &mut state.reference, graph)?.survey(self, graph, task)?
            }
            None => None,
        };
        #[cfg(not(feature = "exec"))]
        let told: Option<LayerAnswers> = None;
        let task = Task { sensitivity: told.as_ref(), ..task };
        let cx = task.context(graph, None);
        let sites = pass.sites(&cx);
        Ok(sites.iter().map(|site| site.names(graph)).zip(pass.offers(&cx, &sites)).collect())
    }

    /// Runs passes over a graph and the bodies in it, round after round, until a whole round changes nothing.
    pub fn clean(&mut self, graph: &mut Graph, passes: &[&dyn Pass], selection: Option<&Selection>) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            let mut changed = self.clean_bodies(graph, passes)?;
            // Refusals of an earlier round may be out of date.
            self.rows.retain(|r| r.done);
            for &pass in passes {
                let rule = selection.cloned().unwrap_or_default();
                // A name that was there when the step began may be cleaned away by now.
                let fallback = Selection::default();
                let selected =
                    rule.resolve(graph).or_else(|_| fallback.resolve(graph)).map_err(|e| Error::internal(e.what))?;
                let task = Task::without_data(pass, &selected);
                changed |= self.visit_all(graph, task, None)?;
            }
            if !changed {
                return Ok(());
            }
        }
        Err(Error::internal(format!("cleaning does not end after {MAX_ROUNDS} rounds")))
    }

    fn clean_bodies(&mut self, graph: &mut Graph, passes: &[&dyn Pass]) -> Result<bool> {
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
    pub fn visit_without_data(&mut self, graph: &mut Graph, task: Task<'_>) -> Result<()> {
        let task = Task { repairs: false, sensitivity: None, ..task };
        let before = task.pass.budget().map(|budget| (budget, graph.clone()));
        self.visit_all(graph, task, None)?;
        match before {
            Some((budget, before)) if budget.missed(task.cost(&before), task.cost(graph)).is_some() => {
                task.reaches(&before, task.selected.max_loss())
            }
            _ => Ok(()),
        }
    }

    /// Visits every site of a pass once, each against the graph as the earlier ones left it. With moments, sites that are
    /// layers come last, in the order they run, and the layers behind a change are fitted in their turn.
    pub fn visit_all(
        &mut self,
        graph: &mut Graph,
        task: Task<'_>,
        mut moments: Option<&mut dyn MomentSource>,
    ) -> Result<bool> {
        let before = self.rows.len();
        let asked = moments.as_mut().filter(|_| task.pass.asks());
        let told = asked.map_or(Ok(None), |moments| moments.survey(self, graph, task))?;
        let task = Task { sensitivity: told.as_ref(), ..task };
        if moments.is_some() {
            task.reaches(graph, task.selected.max_loss()).inspect_err(|_| self.refused = true)?;
        }
        let resolved = task.pass.resolve(&task.context(graph, None));
        let pass = resolved.as_ref().map_or(task.pass, |resolved| &*resolved.pass);
        self.resolved.extend(resolved.iter().flat_map(|resolved| resolved.options.clone()));
        let task = Task { pass, ..task };
        let cx = task.context(graph, None);
        let mut sites = pass.sites(&cx);
        let rest = rest(graph, task, &sites);
        let joint = match sites.is_empty() {
            true => None,
            false => pass.rewrite_jointly(&cx, &sites).map_err(|e| e.at(pass.name()))?,
        };
        if let Some(mut joint) = joint {
            let cuts = std::mem::take(&mut joint.patch.cuts);
            if self.apply(graph, pass, &sites, joint)? {
                moments.as_mut().into_iter().for_each(|moments| moments.changed(cuts.clone()));
            }
            sites.clear();
        }
        let count = sites.len();
        let mut at_layer: HashMap<NodeId, Site> = HashMap::new();
        let mut first = Vec::new();
        for (i, site) in sites.into_iter().enumerate().filter(|(_, site)| site.lives(graph)) {
            match layer_of(graph, &site).filter(|_| moments.is_some() && task.repairs) {
                Some(n) => drop(at_layer.insert(n, site)),
                None => first.push((i, site)),
            }
        }
        let followed = moments.is_some() && task.repairs;
        for (i, site) in first {
            if site.lives(graph) {
                // Before layers that are fitted, these take no time worth telling.
                if !followed {
                    self.observer().site(i as u64, count as u64, &site.label(graph));
                }
                let apart = site.weight().filter(|_| followed).and_then(|v| sharing::other_reader(graph, v));
                let cuts = self.visit(graph, task, site, None)?;
                if let (Some(reader), Some(row)) = (apart, self.rows.last_mut().filter(|row| row.done)) {
                    row.note.push_str(&format!("; not fitted: {reader} reads it"));
                }
                moments.as_mut().zip(cuts).into_iter().for_each(|(moments, cuts)| moments.changed(cuts));
            }
        }
        if let Some(moments) = moments.filter(|_| task.repairs) {
            let changed = self.rows[before..].iter().any(|r| r.done);
            let idle = !changed && at_layer.values().all(|site| task.stays(graph, site));
            if !idle {
                moments.start(graph, task, &at_layer)?;
            }
            for n in options::layers(graph) {
                let site = at_layer.remove(&n).filter(|site| site.lives(graph));
                match site {
                    site if !idle => moments.visit(self, graph, task, n, site)?,
                    Some(site) => drop(self.visit(graph, task, site, None)?),
                    None => {}
                }
            }
            if idle && task.sensitivity.is_none_or(|told| told.is_empty()) {
                self.note(pass.name(), "nothing to do: no calibration data was looked at", false);
            }
        }
        if pass.phase() != Phase::Clean {
            self.passed_by(graph, pass, rest);
        }
        Ok(self.rows[before..].iter().any(|r| r.done))
    }

    /// Does what a pass wants done at all its sites at once; says whether that is anything.
    fn apply(&mut self, graph: &mut Graph, pass: &dyn Pass, sites: &[Site], all: JointVerdict) -> Result<bool> {
        let before = self.rows.len();
        for (site, outcome) in sites.iter().zip(all.outcomes) {
            let mut row = row(graph, pass, site);
            match outcome.what {
                Ok(what) => (row.done, row.note) = (true, what),
                Err(why) => row.leave(why),
            }
            row.cost = outcome.cost;
            self.rows.push(row);
        }
        self.put(graph, all.patch).map_err(|e| e.at(pass.name()))?;
        Ok(self.rows[before..].iter().any(|r| r.done))
    }

    /// Applies a patch to a graph; of a large model, what is new waits on disk.
    pub fn put(&self, graph: &mut Graph, mut patch: Patch) -> Result<Applied> {
        if self.session.teacher_bytes > LARGE {
            patch.tensors_mut().for_each(|t| *t = onnx::put_aside(std::mem::replace(t, Tensor::f32([0], &[]))));
        }
        graph.apply(patch)
    }

    /// What a patch shortened, if there was one.
    pub fn visit(
        &mut self,
        graph: &mut Graph,
        task: Task<'_>,
        site: Site,
        fitted: Option<Fitted<'_>>,
    ) -> Result<Option<Cuts>> {
        let (pass, selected) = (task.pass, task.selected);
        let mut row = row(graph, pass, &site);
        let verdict = match selected.refuses(graph, &site) {
            Some(why) => Verdict::skip(Reason::new(Why::Recipe, why))?,
            None if pass.phase() != Phase::Clean && site.contradicts(graph) => {
                Verdict::skip("the file contradicts the operator's definition here")?
            }
            None => pass
                .rewrite(&task.context(graph, fitted), site)
                .map_err(|e| e.at(format!("{} at \"{}\"", pass.name(), row.site)))?,
        };
        let done = match verdict {
            Verdict::Skip(why) => {
                row.leave(why);
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

    /// Says what a pass that changes the function passed by: what computes with integers, and the constants that it has no
    /// site for.
    pub fn passed_by(&mut self, graph: &Graph, pass: &dyn Pass, rest: Vec<Unmentioned>) {
        for n in graph.nodes().filter(|&n| matches!(graph.node(n).op, Op::QConv(_) | Op::QMatMul(_))) {
            let mut row = row(graph, pass, &Site::Node(n));
            let why = "it computes with integers: passes that change weights take floats";
            row.leave(Reason::new(Why::OutOfReach, why));
            self.rows.push(row);
        }
        for Unmentioned { value, name, why } in rest {
            let mut row = told(pass.name(), name, false, String::new());
            row.leave(Reason::new(if value.is_some() { Why::Form } else { Why::OutOfReach }, why));
            self.rows.push(row);
        }
    }

    /// Puts local functions where they are called.
    pub fn inline_functions(&mut self, student: &mut Model) -> Result<()> {
        let Some(Inlined { model, calls, stay }) = onnx::inline_functions(student)? else { return Ok(()) };
        if calls > 0 {
            *student = model;
            let what = if calls == 1 { "1 call".into() } else { format!("{calls} calls") };
            self.note("clean", &format!("{what} of local functions replaced by what they do"), true);
        }
        let stays = |(name, why)| told("clean", name, false, format!("a function: {why}"));
        self.rows.extend(stay.into_iter().map(stays));
        Ok(())
    }

    pub fn note(&mut self, pass: &str, what: &str, done: bool) {
        self.rows.push(Row { pass: pass.into(), site: "model".into(), done, note: what.into(), ..Row::default() });
    }
}

/// The constants of a graph that a pass which changes the function has no site for, before it changes any.
fn rest(graph: &Graph, task: Task<'_>, sites: &[Site]) -> Vec<Unmentioned> {
    if task.pass.fidelity() == Fidelity::Exact || task.pass.only_repairs() {
        return Vec::new();
    }
    let mentioned: HashSet<ValueId> = sites.iter().flat_map(|site| site.constants(graph)).collect();
    let tensors = readers::tensors(graph, task.selected.least()).into_iter();
    let passed_by = |t: &Unmentioned| t.value.map_or(!task.pass.enters_bodies(), |v| !mentioned.contains(&v));
    tensors.filter(passed_by).collect()
}

/// A row of a pass that tells of no site.
pub(super) fn told(pass: &str, site: String, done: bool, note: String) -> Row {
    Row { pass: pass.into(), site, done, note, ..Row::default() }
}

pub(super) fn row(graph: &Graph, pass: &dyn Pass, site: &Site) -> Row {
    let site_label = site.label(graph);
    let layers: Vec<String> = match pass.phase() {
        Phase::Clean => Vec::new(),
        Phase::Shrink | Phase::Encode => site.nodes(graph).into_iter().map(|n| graph.label(n).into()).collect(),
    };
    Row {
        pass: pass.name().into(),
        op: site.node().map_or_else(String::new, |n| graph.node(n).kind()),
        weights: site.weights(graph),
        layers: if layers == [site_label.as_str()] { Vec::new() } else { layers },
        site: site_label,
        ..Row::default()
    }
}

/// The layer that a site is about, if it is about one that data can be looked at for.
fn layer_of(graph: &Graph, site: &Site) -> Option<NodeId> {
    match site {
        Site::Node(n) | Site::Layer(n) => options::weight(graph, *n).map(|_| *n),
        Site::Codes(value) => reader(graph, *value),
        Site::Value(_) | Site::Weight(_) | Site::Channels { .. } => None,
    }
}

/// The layer that a weight is of, or the first of those that share it, where nothing else reads it.
fn reader(graph: &Graph, weight: ValueId) -> Option<NodeId> {
    let first = sharing::readers(graph, weight).first().copied()?;
    sharing::held(graph, weight).is_none().then(|| sharing::family(graph, first).first().copied())?
}
