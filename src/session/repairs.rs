//! Calibration as a source of moments for a step: its layers in the order they run, each fitted to what the teacher gives there.
//!
//! Layers that share a weight are fitted together at the first of them: the moments of all are summed, each set of layers
//! with the same bias about its own means. What those further on read is what the student gives there before this weight
//! changes: in an unrolled recurrence, what the steps read while they had the old weight. Held-back samples judge the result
//! as they judge any fit.

use super::unseen::Unseen;
use super::visit::{Cuts, MomentSource, StepRun, Task, row};
use super::{Session, gradients};
use crate::analysis::linear::Linear;
use crate::calibrate::{Calibration, Failure, LayerSamples, LayerwiseRun, TeacherMap, TeacherRun};
use crate::error::{Error, Result};
use crate::ir::{Graph, NodeId, Tensor};
use crate::math::LayerMoments;
use crate::math::fit::Fit;
use crate::math::output_metric::OutputMetric;
use crate::passes::options;
use crate::passes::refit::{current, refit};
use crate::passes::{Fitted, LayerAnswers, LayerMetric, Measure, Reason, Retarget, Site, Why, sharing};
use crate::report::FitResult;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

/// Teachers whose runs a session keeps: that it began with, cleaned or not, and those that students become by training.
const TEACHERS: usize = 2;

/// What layers of a student are fitted to, from step to step.
#[derive(Clone, Default)]
pub(super) struct Reference {
    /// The teacher, as cleaned as the student was before the first step that changes what it computes.
    teacher: Option<Arc<TeacherRun>>,
    map: TeacherMap,
    /// Whether the student computes something else by now.
    changed: bool,
}

impl Reference {
    /// After an exact step. It keeps every value, except the output of a layer that something was folded into: that has no
    /// counterpart in the teacher any more.
    pub fn after_exact(&mut self, before: &Graph, after: &Graph) {
        if self.teacher.is_none() {
            return;
        }
        let constants = |graph: &Graph, n: NodeId| -> Vec<Tensor> {
            graph.node_inputs(n).into_iter().flatten().filter_map(|v| graph.value(v).constant().cloned()).collect()
        };
        for n in after.nodes().filter(|&n| before.has_node(n)) {
            let [was, now] = [constants(before, n), constants(after, n)];
            if !was.is_empty() && !now.is_empty() && was != now {
                self.map.lost.extend(after.node_outputs(n).into_iter().flatten());
            }
        }
    }

    fn cut(&mut self, cuts: Cuts) {
        cuts.into_iter().for_each(|(v, axis, stay)| self.map.cut(v, axis, &stay));
    }
}

/// Calibration data as a source of moments, for one step.
pub(super) struct StepMoments<'s> {
    data: &'s Calibration<'s>,
    reference: &'s mut Reference,
    teacher: Arc<TeacherRun>,
    layerwise: Option<LayerwiseRun<'s>>,
    work: Work,
    /// Layers that are still to come, and those that had their turn with one that shares their weight.
    later: HashSet<NodeId>,
    visited: HashSet<NodeId>,
}

impl<'s> StepMoments<'s> {
    /// For a student whose layers are to give what those of the reference do: of itself, if there is none yet.
    pub fn new(
        session: &Session<'_>,
        data: &'s Calibration<'s>,
        reference: &'s mut Reference,
        student: &Graph,
    ) -> Result<StepMoments<'s>> {
        let teacher = match &reference.teacher {
            Some(teacher) => teacher.clone(),
            None => reference.teacher.insert(session.teacher_run(data, student)?).clone(),
        };
        let (later, visited) = (HashSet::new(), HashSet::new());
        Ok(StepMoments { data, reference, teacher, layerwise: None, work: Work::default(), later, visited })
    }

    /// What errors of a layer's outputs do to the teacher's answers, if the pass asks for that and it is known.
    fn metric(&self, task: Task<'_>, linear: &Result<Linear, String>) -> Result<OutputMetric> {
        let (true, Ok(linear)) = (task.pass.weighs_outputs(), linear) else { return Ok(OutputMetric::PLAIN) };
        let TeacherRun { graph, gradients: kept, .. } = &*self.teacher;
        let all = match kept.get() {
            Some(all) => all,
            None => {
                let found = gradients::moments(graph, self.data)?;
                kept.get_or_init(|| found)
            }
        };
        let own = gradients::of_layer(all, graph, linear, &self.reference.map);
        Ok(own.map_or(OutputMetric::PLAIN, |moment| OutputMetric::new(moment.view())))
    }

    /// Looks at the layer of a node and sums up what it reads and should give.
    fn observe<'w>(
        &'w mut self,
        graph: &Graph,
        node: NodeId,
        linear: &'w Result<Linear, String>,
        metric: OutputMetric,
    ) -> Result<ObservedLayer<'w>> {
        let place = format!("calibrating \"{}\"", graph.label(node));
        let layerwise = self.layerwise.as_mut().ok_or_else(|| Error::internal("the run has not begun"))?;
        let look = linear.as_ref().map_err(|why| Failure::Unsupported(why.clone()));
        let look =
            look.and_then(|linear| Ok((linear, layerwise.look(graph, linear, &self.reference.map, &self.later)?)));
        let (what, unseen) = match look.and_then(|(linear, look)| Ok((linear, look.moments()?, look))) {
            Ok(seen) => (Ok(seen), None),
            Err(Failure::Unsupported(why)) => (Err(why), None),
            Err(Failure::NotRun(why)) => (Err(why.clone()), Some(Unseen::NotRun(why))),
            Err(Failure::NotFinite(why)) => (Err(why.into()), Some(Unseen::NotFinite)),
            Err(Failure::Error(e)) => return Err(e.at(place)),
        };
        Ok(ObservedLayer { what, unseen, place, metric: LayerMetric::new(metric) })
    }

    /// Goes back to the inputs.
    fn begin(&mut self, graph: &Graph) -> Result<Vec<NodeId>> {
        let layers = options::layers(graph);
        self.later = layers.iter().copied().collect();
        self.layerwise = Some(LayerwiseRun::new(self.data, self.teacher.clone())?);
        Ok(layers)
    }
}

impl Session<'_> {
    /// The run of this graph on data: the one there is, or a new one. Of a few runs on the session's own data the last used are
    /// kept.
    fn teacher_run(&self, data: &Calibration<'_>, graph: &Graph) -> Result<Arc<TeacherRun>> {
        let new = || TeacherRun::new(data, graph.clone(), self.teacher).map(Arc::new);
        if !self.data.calibration.is_some_and(|own| std::ptr::eq(own, data)) {
            return new();
        }
        let mut runs = self.teacher_runs.lock().unwrap_or_else(PoisonError::into_inner);
        let run = match runs.iter().position(|run| run.is_of(graph)) {
            Some(at) => runs.remove(at),
            None => new()?,
        };
        runs.push(run.clone());
        let old = runs.len().saturating_sub(TEACHERS);
        runs.drain(..old);
        Ok(run)
    }
}

impl StepRun<'_, '_> {
    /// Runs a pass with calibration data.
    pub fn on_calibration_data(
        &mut self,
        reference: &mut Reference,
        data: &Calibration<'_>,
        graph: &mut Graph,
        task: Task<'_>,
    ) -> Result<()> {
        let mut fitting = StepMoments::new(self.session, data, reference, graph)?;
        if task.pass.only_repairs() && !fitting.reference.changed {
            self.note(task.pass.name(), "nothing to do: nothing was lost before it", false);
            self.passed_by(graph, task.pass, Vec::new());
            return Ok(());
        }
        self.visit_all(graph, task, Some(&mut fitting)).map(drop)
    }
}

impl MomentSource for StepMoments<'_> {
    fn survey(&mut self, run: &StepRun<'_, '_>, graph: &Graph, task: Task<'_>) -> Result<Option<LayerAnswers>> {
        let cx = task.context(graph, None);
        let queries = task.pass.queries(&cx);
        if queries.is_empty() {
            return Ok(None);
        }
        let mut told = LayerAnswers::new();
        if queries.iter().all(|query| query.layers.is_empty()) {
            return Ok(Some(told));
        }
        let layers = self.begin(graph)?;
        let asked = |n: &NodeId| queries.iter().any(|query| query.layers.contains(n));
        // What is to be fitted is planned first: layers are looked at first.
        if task.repairs {
            self.work.plan(self.data, graph, layers.iter().copied(), Some(task.pass.remains()));
        }
        self.work.plan(self.data, graph, layers.iter().copied().filter(asked), None);
        for n in layers {
            let open = queries.iter().filter(|q| q.layers.contains(&n) && !told.contains_key(&(n, q.measure)));
            let open: Vec<_> = open.collect();
            if !open.is_empty() {
                self.work.start(run, graph, n);
                let mut family = sharing::family(graph, n);
                family.retain(|n| self.later.contains(n));
                // Of layers that use a weight in other ways, each answers for itself.
                let linear = Linear::of_all(graph, &family).or_else(|_| Linear::of(graph, n));
                let metric = self.metric(task, &linear)?;
                let seen = self.observe(graph, n, &linear, metric)?;
                let others = linear.iter().flat_map(|l| &l.others).map(|l| l.node);
                let nodes: Vec<NodeId> = others.chain([n]).collect();
                let mut tell = |measure: Measure, answer: Result<Vec<f64>, String>| {
                    told.extend(nodes.iter().map(|&n| ((n, measure), answer.clone())));
                };
                for query in open {
                    tell(query.measure, seen.tell(|fitted| (query.note)(&fitted?))?);
                }
                if !seen.metric.outputs.is_plain() {
                    tell(Measure::Divergence, seen.tell(|fitted| divergence(graph, &fitted?))?);
                }
            }
            self.later.remove(&n);
        }
        Ok(Some(told))
    }

    fn changed(&mut self, cuts: Cuts) {
        self.reference.changed = true;
        self.reference.cut(cuts);
    }

    fn start(&mut self, graph: &Graph, task: Task<'_>, sites: &HashMap<NodeId, Site>) -> Result<()> {
        let layers = self.begin(graph)?;
        (self.work.all, self.work.layers) = (self.work.done, HashMap::new());
        let (others, mut changed) = (task.pass.fits_others(), self.reference.changed);
        let looked_at = |n: &NodeId| {
            let rewritten = sites.get(n).is_some_and(|s| s.lives(graph) && !task.stays(graph, s));
            changed |= rewritten;
            (rewritten || others && changed) && !task.selected.skips(*n)
        };
        self.work.plan(self.data, graph, layers.into_iter().filter(looked_at), Some(1.0));
        Ok(())
    }

    fn visit(
        &mut self,
        run: &mut StepRun<'_, '_>,
        graph: &mut Graph,
        task: Task<'_>,
        n: NodeId,
        site: Option<Site>,
    ) -> Result<()> {
        if !graph.has_node(n) {
            self.later.remove(&n);
            return Ok(());
        }
        self.work.start(run, graph, n);
        let rewritten = site.as_ref().is_some_and(|s| !task.stays(graph, s));
        let family = if self.visited.contains(&n) { Vec::new() } else { sharing::family(graph, n) };
        self.visited.extend(&family);
        let open = !family.is_empty() && !family.iter().any(|&n| task.selected.skips(n));
        let looks = rewritten || task.pass.fits_others() && self.reference.changed;
        match site {
            site if looks && open => {
                let linear = Linear::of_all(graph, &family);
                let metric = if rewritten { self.metric(task, &linear)? } else { OutputMetric::PLAIN };
                let seen = self.observe(graph, n, &linear, metric)?;
                if let Some(unseen) = &seen.unseen {
                    run.unseen.push((graph.label(n).to_string(), unseen.clone()));
                }
                match site {
                    Some(site) if rewritten => {
                        let changed = seen.tell(|fitted| rewrite(run, graph, task, site, fitted))??;
                        self.reference.changed |= changed;
                    }
                    site => seen.tell(|fitted| refit_layer(run, graph, task, n, site, fitted))??,
                }
            }
            Some(site) => drop(run.visit(graph, task, site, None)?),
            None => {}
        }
        self.later.remove(&n);
        Ok(())
    }
}

/// How far the model's answers would move if a layer gave its means alone.
fn divergence(graph: &Graph, fitted: &Fitted<'_>) -> Result<Vec<f64>, String> {
    let current = current(graph, fitted.linear)?;
    let parts = fitted.in_metric(&current.w).ok_or("its moments have no inverse")?;
    Ok(vec![parts.iter().map(|(c, _)| c.yy.sum()).sum()])
}

/// How far a step is.
#[derive(Default)]
struct Work {
    /// What each layer takes.
    layers: HashMap<NodeId, u64>,
    done: u64,
    all: u64,
}

impl Work {
    /// Adds layers to what is to be done: to be looked at, or to be `fitted` once this share of their inputs and outputs is
    /// left.
    fn plan(
        &mut self,
        data: &Calibration<'_>,
        graph: &Graph,
        layers: impl Iterator<Item = NodeId>,
        fitted: Option<f64>,
    ) {
        let sizes = data.sizes();
        let sized = sizes.at(graph);
        for n in layers {
            let work = Linear::of(graph, n).map_or(0, |linear| data.work(&sized, &linear, fitted));
            self.layers.insert(n, work);
            self.all += work;
        }
    }

    fn start(&mut self, run: &StepRun<'_, '_>, graph: &Graph, n: NodeId) {
        run.observer().site(self.done, self.all, graph.label(n));
        self.done += self.layers.get(&n).copied().unwrap_or(0);
    }
}

/// What was seen of a layer, or why nothing was.
struct ObservedLayer<'w> {
    what: Result<(&'w Linear, LayerMoments, LayerSamples<'w>), String>,
    unseen: Option<Unseen>,
    place: String,
    metric: LayerMetric,
}

impl ObservedLayer<'_> {
    /// Tells it as passes hear it.
    fn tell<T>(&self, hear: impl FnOnce(Result<Fitted<'_>, String>) -> T) -> Result<T> {
        let (linear, layer, look) = match &self.what {
            Ok(seen) => seen,
            Err(why) => return Ok(hear(Err(why.clone()))),
        };
        let (failed, judged) = (RefCell::new(None), Cell::new(None));
        let retarget = |layer: &LayerMoments, fit: &Fit| match look.retarget(layer, fit) {
            Ok(layer) => Some(layer),
            Err(Failure::Unsupported(_) | Failure::NotRun(_) | Failure::NotFinite(_)) => None,
            Err(Failure::Error(e)) => {
                *failed.borrow_mut() = Some(e);
                None
            }
        };
        let retarget: Retarget<'_> = &retarget;
        let retarget = look.is_bounded().then_some(retarget);
        let heard = hear(Ok(Fitted { linear, layer, retarget, metric: &self.metric, judged: &judged }));
        match failed.into_inner() {
            Some(e) => Err(e.at(&self.place)),
            None => Ok(heard),
        }
    }
}

/// Rewrites a layer with what data says of it; says whether that was done.
fn rewrite(
    run: &mut StepRun<'_, '_>,
    graph: &mut Graph,
    task: Task<'_>,
    site: Site,
    fitted: Result<Fitted<'_>, String>,
) -> Result<bool> {
    let done = run.visit(graph, task, site, fitted.as_ref().ok().copied())?.is_some();
    if let Some(row) = run.rows.last_mut() {
        row.error = fitted.as_ref().ok().and_then(|fitted| repair(fitted, row.done));
        match fitted {
            Ok(fitted) if row.done => row.note.push_str(&scarce(&fitted)),
            Err(why) if row.done => row.note.push_str(&format!("; not repaired: {why}")),
            _ => {}
        }
    }
    Ok(done)
}

/// Fits a layer as it is, with a row why it was not rewritten if it is a `site`.
fn refit_layer(
    run: &mut StepRun<'_, '_>,
    graph: &mut Graph,
    task: Task<'_>,
    node: NodeId,
    site: Option<Site>,
    fitted: Result<Fitted<'_>, String>,
) -> Result<()> {
    site.map(|site| run.visit(graph, task, site, None)).transpose()?;
    let mut row = row(graph, task.pass, &Site::Layer(node));
    let repaired = fitted.and_then(|fitted| {
        let repaired = refit(graph, &fitted);
        row.done = repaired.is_ok();
        row.error = repair(&fitted, row.done);
        let judged = fitted.judged.get().is_some();
        match repaired {
            Ok((patch, what)) => Ok((patch, what + &scarce(&fitted))),
            Err(why) if judged => Err(why + &scarce(&fitted)),
            Err(why) => Err(why),
        }
    });
    match repaired {
        Ok((patch, what)) => {
            graph.apply(patch)?;
            row.note = format!("refitted: {what}");
        }
        Err(why) => row.leave(Reason::new(Why::Settled, format!("not refitted: {why}"))),
    }
    run.rows.push(row);
    Ok(())
}

/// What came of a fit, for the report: none is kept at a site where nothing is `done`.
fn repair(fitted: &Fitted<'_>, done: bool) -> Option<FitResult> {
    fitted.judged.get().map(|j| FitResult { before: j.before, after: j.after, kept: j.kept && done })
}

/// A warning of a layer with more unknowns for each of its outputs than samples: the ridge decides what they do not.
fn scarce(fitted: &Fitted<'_>) -> String {
    let (samples, unknowns) = (fitted.layer.samples, fitted.linear.inputs);
    if samples >= unknowns {
        return String::new();
    }
    format!("; fitted to {samples} samples, fewer than its {unknowns} inputs: more calibration data would help")
}
