//! Steps with calibration data: layer after layer in the order they run, each fitted to what the teacher gives there.

use super::{Run, row};
use crate::analysis::linear::Linear;
use crate::calibrate::{Calibration, Twins, Walk};
use crate::error::Result;
use crate::ir::{Graph, Model, NodeId, Tensor, ValueId};
use crate::math::Layer;
use crate::math::fit::Fit;
use crate::passes::options::{self, Selected};
use crate::passes::refit::refit;
use crate::passes::{Context, Fitted, Pass, Retarget, Site};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// What steps with calibration data know of the teacher, from step to step.
pub struct Repairs<'a> {
    data: &'a Calibration<'a>,
    shell: Model,
    /// The teacher, as cleaned as the student was before the first step that changes what it computes.
    teacher: Option<Graph>,
    twins: Twins,
    /// What every layer's constants were after the last step.
    constants: HashMap<NodeId, Vec<Tensor>>,
    /// Whether the student computes something else by now.
    changed: bool,
}

impl<'a> Repairs<'a> {
    pub fn new(data: &'a Calibration<'a>, teacher: &Model) -> Repairs<'a> {
        let shell = Model { graph: Graph::new("", teacher.graph.opset), ..teacher.clone() };
        Repairs { data, shell, teacher: None, twins: Twins::default(), constants: HashMap::new(), changed: false }
    }

    /// Runs a pass over all its sites, and fits the layers behind the first change.
    pub fn visit_all(
        &mut self,
        run: &mut Run<'_>,
        graph: &mut Graph,
        pass: &dyn Pass,
        selected: &Selected<'_>,
    ) -> Result<()> {
        let teacher = self.teacher.get_or_insert_with(|| graph.clone());
        let sites = pass.sites(&Context { graph, selected, fitted: None });
        let count = sites.len();
        let together = pass.rewrite_together(&Context { graph, selected, fitted: None }, &sites);
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
            match layer_of(graph, &site) {
                Some(n) => drop(at_layer.insert(n, site)),
                None if site.lives(graph) => {
                    run.observer.site(i, count, &site.label(graph));
                    let cuts = run.visit(graph, pass, site, selected, None)?;
                    self.changed |= cuts.is_some();
                    cuts.into_iter().flatten().for_each(|(v, axis, stay)| self.twins.cut(v, axis, &stay));
                }
                None => {}
            }
        }

        let layers = options::layers(graph);
        let mut later: HashSet<NodeId> = layers.iter().copied().collect();
        let mut walk = Walk::new(self.data, teacher, graph, &self.shell)?;
        let count = layers.len();
        for (i, n) in layers.into_iter().enumerate() {
            run.observer.site(i, count, graph.label(n));
            let site = at_layer.remove(&n).filter(|s| s.lives(graph));
            let refused = site.as_ref().is_some_and(|s| selected.refuses(graph, s).is_some());
            let rewritten = site.is_some() && !refused;
            if (rewritten || self.changed) && !selected.skips(n) {
                let linear = Linear::of(graph, n);
                let look = match &linear {
                    Ok(linear) => walk.look(graph, linear, &self.twins, &later),
                    Err(why) => Err(Ok(why.clone())),
                };
                let seen = look.and_then(|look| Ok((look.moments()?, look)));
                let failed = RefCell::new(None);
                let retarget = |layer: &Layer, fit: &Fit| match seen.as_ref().ok()?.1.retarget(layer, fit) {
                    Ok(layer) => Some(layer),
                    Err(e) => {
                        *failed.borrow_mut() = e.err();
                        None
                    }
                };
                let fitted = match (&linear, &seen) {
                    (Ok(linear), Ok((layer, look))) => {
                        let retarget: Retarget<'_> = &retarget;
                        Ok(Fitted { linear, layer, retarget: look.is_bounded().then_some(retarget) })
                    }
                    (_, Err(Ok(why))) | (Err(why), _) => Err(why.clone()),
                    (_, Err(Err(_))) => Err(String::new()),
                };
                if rewritten {
                    let site = site.unwrap_or(Site::Node(n));
                    self.changed |= run.visit(graph, pass, site, selected, fitted.as_ref().ok().copied())?.is_some();
                    if let (Err(why), Some(row)) = (&fitted, run.rows.last_mut().filter(|r| r.done)) {
                        row.note.push_str(&format!("; not repaired: {why}"));
                    }
                } else {
                    if let Some(site) = site {
                        run.visit(graph, pass, site, selected, None)?;
                    }
                    let mut row = row(graph, pass, &Site::Node(n));
                    let repaired = fitted.and_then(|fitted| refit(graph, &fitted));
                    row.done = repaired.is_ok();
                    row.note = match repaired {
                        Ok((patch, what)) => {
                            graph.apply(patch)?;
                            format!("refitted: {what}")
                        }
                        Err(why) => format!("not refitted: {why}"),
                    };
                    run.rows.push(row);
                }
                let failed = failed.into_inner();
                if let Some(e) = failed.or(seen.err().and_then(std::result::Result::err)) {
                    return Err(e.at(format!("calibrating \"{}\"", graph.label(n))));
                }
            } else if let Some(site) = site {
                run.visit(graph, pass, site, selected, None)?;
            }
            later.remove(&n);
        }
        run.unentered_bodies(graph, pass);
        Ok(())
    }

    /// After every step. An exact one leaves every value as it was, but where it puts one layer into another the result
    /// of that other becomes something else.
    pub fn after_step(&mut self, graph: &Graph, exact: bool) {
        let mut now = HashMap::new();
        for n in graph.nodes() {
            let constants: Vec<Tensor> =
                graph.node_inputs(n).into_iter().flatten().filter_map(|v| graph.value(v).constant().cloned()).collect();
            if constants.is_empty() {
                continue;
            }
            if exact && self.teacher.is_some() && self.constants.get(&n).is_some_and(|was| *was != constants) {
                self.twins.lost.extend(graph.node_outputs(n).into_iter().flatten());
            }
            now.insert(n, constants);
        }
        self.constants = now;
    }
}

/// The layer that a site is about, if it is about one that data can be looked at for.
fn layer_of(graph: &Graph, site: &Site) -> Option<NodeId> {
    match site {
        Site::Node(n) => options::weight(graph, *n).map(|_| *n),
        Site::Value(v) => reader(graph, *v),
        Site::Weight { .. } | Site::Channels { .. } => None,
    }
}

fn reader(graph: &Graph, weight: ValueId) -> Option<NodeId> {
    let n = graph.sole_use(weight)?.node();
    (options::weight(graph, n)?.1 == weight).then_some(n)
}
