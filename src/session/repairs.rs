//! Steps with calibration data: layer after layer in the order they run, each fitted to what the teacher gives there.
//!
//! Layers that share a weight are fitted together at the first of them: the moments of all are summed, each set of layers
//! with the same bias about its own means. What those further on read is what the student gives there before this weight
//! changes: in an unrolled recurrence, what the steps read while they had the old weight. Held-back samples judge the result
//! as they judge any fit.

use super::visit::{Run, Task, row};
use crate::analysis::linear::Linear;
use crate::calibrate::{Calibration, Look, Twins, Walk};
use crate::error::Result;
use crate::ir::{Graph, NodeId, Tensor, ValueId};
use crate::math::Layer;
use crate::math::fit::Fit;
use crate::passes::options;
use crate::passes::refit::refit;
use crate::passes::{Fitted, Retarget, Site, Survey, sharing};
use crate::report::Repair;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What layers of a student are fitted to, from step to step.
#[derive(Clone, Default)]
pub(super) struct Reference {
    /// The teacher, as cleaned as the student was before the first step that changes what it computes.
    graph: Option<Arc<Graph>>,
    twins: Twins,
    /// Whether the student computes something else by now.
    changed: bool,
}

impl Reference {
    /// Runs a pass over all its sites, and fits the layers behind the first change, unless the step is not to repair.
    pub fn visit_all(
        &mut self,
        run: &mut Run<'_, '_>,
        data: &Calibration<'_>,
        graph: &mut Graph,
        task: Task<'_>,
    ) -> Result<()> {
        self.graph.get_or_insert_with(|| Arc::new(graph.clone()));
        let pass = task.pass;
        if pass.only_repairs() && !self.changed {
            run.note(pass.name(), "nothing to do: nothing was lost before it", false);
            run.passed_by(graph, pass);
            return Ok(());
        }
        let mut work = Work::default();
        let survey = self.survey(run, data, graph, task, &mut work)?;
        let task = Task { survey: survey.as_ref(), ..task };
        task.reaches(graph, task.selected.max_loss()).inspect_err(|_| run.refused = true)?;
        let rows = run.rows.len();
        let cx = task.context(graph, None);
        let sites = pass.sites(&cx);
        let count = sites.len();
        let together = pass.rewrite_together(&cx, &sites);
        let sites = match together.map_err(|e| e.at(pass.name()))? {
            Some(mut together) => {
                let cuts = std::mem::take(&mut together.patch.cuts);
                self.changed |= run.apply(graph, pass, &sites, together)?;
                cuts.into_iter().for_each(|(v, axis, stay)| self.twins.cut(v, axis, &stay));
                Vec::new()
            }
            None => sites,
        };
        let mut at_layer: HashMap<NodeId, Site> = HashMap::new();
        for (i, site) in sites.into_iter().enumerate() {
            match layer_of(graph, &site).filter(|_| task.repairs) {
                Some(n) => drop(at_layer.insert(n, site)),
                None if site.lives(graph) => {
                    run.observer().site(i as u64, count as u64, &site.label(graph));
                    let cuts = run.visit(graph, task, site, None)?;
                    self.changed |= cuts.is_some();
                    cuts.into_iter().flatten().for_each(|(v, axis, stay)| self.twins.cut(v, axis, &stay));
                }
                None => {}
            }
        }
        let idle = !run.rows[rows..].iter().any(|r| r.done) && at_layer.values().all(|site| stays(graph, task, site));
        if task.repairs && idle {
            for n in options::layers(graph) {
                at_layer.remove(&n).map(|site| run.visit(graph, task, site, None)).transpose()?;
            }
            if task.survey.is_none_or(|survey| survey.is_empty()) {
                run.note(pass.name(), "nothing to do: no calibration data was looked at", false);
            }
        } else if task.repairs {
            self.fit_all(run, data, graph, task, at_layer, work)?;
        }
        run.passed_by(graph, pass);
        Ok(())
    }

    /// What the data says to the questions of a pass.
    fn survey(
        &self,
        run: &Run<'_, '_>,
        data: &Calibration<'_>,
        graph: &Graph,
        task: Task<'_>,
        work: &mut Work,
    ) -> Result<Option<Survey>> {
        let questions = task.pass.questions(&task.context(graph, None));
        let (Some(questions), Some(teacher)) = (questions, &self.graph) else { return Ok(None) };
        let mut survey = Survey::new();
        if questions.layers.is_empty() {
            return Ok(Some(survey));
        }
        let layers = options::layers(graph);
        let mut later: HashSet<NodeId> = layers.iter().copied().collect();
        let mut walk = Walk::new(data, teacher, graph, run.session.teacher)?;
        let asked = |n: &NodeId| questions.layers.contains(n);
        work.plan(data, graph, layers.iter().copied().filter(asked));
        if task.repairs {
            work.plan(data, graph, layers.iter().copied());
        }
        for n in layers {
            if asked(&n) && !survey.contains_key(&n) {
                work.start(run, graph, n);
                let family: Vec<NodeId> = sharing::family(graph, n).into_iter().filter(|n| later.contains(n)).collect();
                // Of layers that use a weight in other ways, each answers for itself.
                let linear = Linear::of_all(graph, &family).or_else(|_| Linear::of(graph, n));
                let seen = Seen::at(&mut walk, graph, n, &linear, &self.twins, &later)?;
                let answer = seen.tell(|fitted| (questions.note)(&fitted?))?;
                let others = linear.iter().flat_map(|l| &l.others).map(|l| l.node);
                survey.extend(others.chain([n]).map(|n| (n, answer.clone())));
            }
            later.remove(&n);
        }
        Ok(Some(survey))
    }

    /// Goes from layer to layer. Those in `at_layer` are sites of the pass; others are fitted as they are. Those that share a
    /// weight are fitted together, once, at the first.
    fn fit_all(
        &mut self,
        run: &mut Run<'_, '_>,
        data: &Calibration<'_>,
        graph: &mut Graph,
        task: Task<'_>,
        mut at_layer: HashMap<NodeId, Site>,
        mut work: Work,
    ) -> Result<()> {
        let Some(teacher) = self.graph.clone() else { return Ok(()) };
        let (teacher, others) = (&*teacher, task.pass.fits_others());
        let layers = options::layers(graph);
        let mut later: HashSet<NodeId> = layers.iter().copied().collect();
        let mut walk = Walk::new(data, teacher, graph, run.session.teacher)?;
        (work.all, work.layers) = (work.done, HashMap::new());
        let mut changed = self.changed;
        let looked_at = |n: &NodeId| {
            let rewritten = at_layer.get(n).is_some_and(|s| s.lives(graph) && !stays(graph, task, s));
            changed |= rewritten;
            (rewritten || others && changed) && !task.selected.skips(*n)
        };
        work.plan(data, graph, layers.iter().copied().filter(looked_at));
        let mut visited: HashSet<NodeId> = HashSet::new();
        for n in layers {
            if !graph.has_node(n) {
                later.remove(&n);
                continue;
            }
            work.start(run, graph, n);
            let site = at_layer.remove(&n).filter(|s| s.lives(graph));
            let rewritten = site.as_ref().is_some_and(|s| !stays(graph, task, s));
            let family = if visited.contains(&n) { Vec::new() } else { sharing::family(graph, n) };
            visited.extend(&family);
            let open = !family.is_empty() && !family.iter().any(|&n| task.selected.skips(n));
            if (rewritten || others && self.changed) && open {
                let linear = Linear::of_all(graph, &family);
                let seen = Seen::at(&mut walk, graph, n, &linear, &self.twins, &later)?;
                self.changed |= seen.tell(|fitted| {
                    if rewritten {
                        let site = site.unwrap_or(Site::Node(n));
                        let done = run.visit(graph, task, site, fitted.as_ref().ok().copied())?.is_some();
                        if let Some(row) = run.rows.last_mut() {
                            row.error = fitted.as_ref().ok().and_then(|fitted| repair(fitted, row.done));
                            match fitted {
                                Ok(fitted) if row.done => row.note.push_str(&scarce(&fitted)),
                                Err(why) if row.done => row.note.push_str(&format!("; not repaired: {why}")),
                                _ => {}
                            }
                        }
                        return Ok(done);
                    }
                    if let Some(site) = site {
                        run.visit(graph, task, site, None)?;
                    }
                    let mut row = row(graph, task.pass, &Site::Layer { node: n, rank: None });
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
                    row.note = match repaired {
                        Ok((patch, what)) => {
                            graph.apply(patch)?;
                            format!("refitted: {what}")
                        }
                        Err(why) => format!("not refitted: {why}"),
                    };
                    run.rows.push(row);
                    Ok(false)
                })??;
            } else if let Some(site) = site {
                run.visit(graph, task, site, None)?;
            }
            later.remove(&n);
        }
        Ok(())
    }

    /// After an exact step. It keeps every value, except the output of a layer that something was folded into: that has no
    /// counterpart in the teacher any more.
    pub fn after_exact(&mut self, before: &Graph, after: &Graph) {
        if self.graph.is_none() {
            return;
        }
        let constants = |graph: &Graph, n: NodeId| -> Vec<Tensor> {
            graph.node_inputs(n).into_iter().flatten().filter_map(|v| graph.value(v).constant().cloned()).collect()
        };
        for n in after.nodes().filter(|&n| before.has_node(n)) {
            let [was, now] = [constants(before, n), constants(after, n)];
            if !was.is_empty() && !now.is_empty() && was != now {
                self.twins.lost.extend(after.node_outputs(n).into_iter().flatten());
            }
        }
    }
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
    /// Adds layers to what is to be done.
    fn plan(&mut self, data: &Calibration<'_>, graph: &Graph, layers: impl Iterator<Item = NodeId>) {
        for n in layers {
            let work = Linear::of(graph, n).map_or(0, |linear| data.work(graph, &linear));
            self.layers.insert(n, work);
            self.all += work;
        }
    }

    fn start(&mut self, run: &Run<'_, '_>, graph: &Graph, n: NodeId) {
        run.observer().site(self.done, self.all, graph.label(n));
        self.done += self.layers.get(&n).copied().unwrap_or(0);
    }
}

/// What was seen of a layer, or why nothing was.
struct Seen<'w> {
    what: Result<(&'w Linear, Layer, Look<'w>), String>,
    place: String,
}

impl<'w> Seen<'w> {
    /// Looks at the layer of a node and sums up what it reads and should give.
    fn at(
        walk: &'w mut Walk<'_>,
        graph: &Graph,
        node: NodeId,
        linear: &'w Result<Linear, String>,
        twins: &'w Twins,
        later: &HashSet<NodeId>,
    ) -> Result<Seen<'w>> {
        let place = format!("calibrating \"{}\"", graph.label(node));
        let look = linear.as_ref().map_err(|why| Ok(why.clone()));
        let look = look.and_then(|linear| Ok((linear, walk.look(graph, linear, twins, later)?)));
        let what = match look.and_then(|(linear, look)| Ok((linear, look.moments()?, look))) {
            Ok(seen) => Ok(seen),
            Err(Ok(why)) => Err(why),
            Err(Err(e)) => return Err(e.at(place)),
        };
        Ok(Seen { what, place })
    }

    /// Tells it as passes hear it.
    fn tell<T>(&self, hear: impl FnOnce(Result<Fitted<'_>, String>) -> T) -> Result<T> {
        let (linear, layer, look) = match &self.what {
            Ok(seen) => seen,
            Err(why) => return Ok(hear(Err(why.clone()))),
        };
        let (failed, judged) = (RefCell::new(None), Cell::new(None));
        let retarget =
            |layer: &Layer, fit: &Fit| look.retarget(layer, fit).map_err(|e| *failed.borrow_mut() = e.err()).ok();
        let retarget: Retarget<'_> = &retarget;
        let retarget = look.is_bounded().then_some(retarget);
        let heard = hear(Ok(Fitted { linear, layer, retarget, judged: &judged }));
        match failed.into_inner() {
            Some(e) => Err(e.at(&self.place)),
            None => Ok(heard),
        }
    }
}

/// What came of a fit, for the report: none is kept at a site where nothing is `done`.
fn repair(fitted: &Fitted<'_>, done: bool) -> Option<Repair> {
    fitted.judged.get().map(|j| Repair { before: j.before, after: j.after, kept: j.kept && done })
}

/// A warning of a layer with more unknowns for each of its outputs than samples: the ridge decides what they do not.
fn scarce(fitted: &Fitted<'_>) -> String {
    let (samples, unknowns) = (fitted.layer.samples, fitted.linear.inputs);
    if samples >= unknowns {
        return String::new();
    }
    format!("; fitted to {samples} samples, fewer than its {unknowns} inputs: more calibration data would help")
}

/// The layer that a site is about, if it is about one that data can be looked at for.
fn layer_of(graph: &Graph, site: &Site) -> Option<NodeId> {
    match site {
        Site::Node(n) | Site::Layer { node: n, .. } => options::weight(graph, *n).map(|_| *n),
        Site::Codes { value, .. } => reader(graph, *value),
        Site::Value(_) | Site::Weight { .. } | Site::Channels { .. } => None,
    }
}

/// The layer that a weight is of, or the first of those that share it, where nothing else reads it.
fn reader(graph: &Graph, weight: ValueId) -> Option<NodeId> {
    let first = sharing::readers(graph, weight).first().copied()?;
    sharing::held(graph, weight).is_none().then(|| sharing::family(graph, first).first().copied())?
}

/// Whether a site stays as it is, whatever data says.
fn stays(graph: &Graph, task: Task<'_>, site: &Site) -> bool {
    task.selected.refuses(graph, site).is_some() || task.pass.stays(&task.context(graph, None), site).is_some()
}
