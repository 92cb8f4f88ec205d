//! Budgets of later steps that are out of reach whatever the steps before them do: told before any of them calibrates.
//!
//! A budget is a share of what the model has when its step begins. What no step before it touches is then as it is now, and
//! the rest is no larger than now: so the share of what can be neither cut before nor by the step itself is at least what it
//! is now. Anything else cannot be known before: what layers lose, and what earlier steps leave of layers that they cut.

use super::{Session, State};
use crate::analysis::channels::Channels;
use crate::analysis::cost::constant;
use crate::analysis::linear::Linear;
use crate::error::{Error, Result};
use crate::ir::{Graph, NodeId, ValueId};
use crate::passes::budget::{Budget, CostPart};
use crate::passes::options::{self, Selection, SkipFirst};
use crate::passes::storage::Storage;
use crate::passes::{Context, Pass, Phase, Site};
use crate::recipe::{Action, Step};
use std::collections::HashSet;

/// Passes with budgets whose least of what others leave alone does not depend on what these do to the rest.
const LOCAL: [&str; 6] =
    ["factorize-linear", "factorize-convs", "separate-convs", "prune-inputs", "cluster-weights", PRUNE_CHANNELS];
/// Passes that change what their sites name, and nothing else's size.
const AT_SITES: [&str; 7] = [
    "factorize-linear",
    "factorize-convs",
    "separate-convs",
    "prune-inputs",
    "prune-weights",
    "match-statistics",
    "cluster-weights",
];
const PRUNE_CHANNELS: &str = "prune-channels";
const SPLITTERS: [&str; 2] = ["factorize-convs", "separate-convs"];
/// Codes take no more than this share of the bytes of a weight where they are fewest.
const FEWEST_CODES: u64 = 4;

/// What steps may make smaller.
#[derive(Default)]
struct Touched {
    values: HashSet<ValueId>,
    nodes: HashSet<NodeId>,
    /// Whether convolutions become two, of which one may run at more positions: MACs may grow.
    split: bool,
}

impl Session<'_> {
    /// Refuses a budget of a later step that is certain to be out of reach; `steps` are those that are still to run.
    ///
    /// # Errors
    /// If there is such a step.
    pub(crate) fn forecast(&self, state: &State<'_>, steps: &[Step]) -> Result<()> {
        let mut graph = state.student.graph.clone();
        Storage::unpack(&mut graph, &|graph, patch| graph.apply(patch).map(drop))?;
        let mut touched = Touched::default();
        for (i, step) in steps.iter().enumerate() {
            let action = step.action()?;
            let Action::Pass(pass, selection) = &action else {
                // Training changes no size; exits, a network in front, and what only removes, do.
                if step.name == "distill" {
                    continue;
                }
                return Ok(());
            };
            if pass.phase() == Phase::Clean {
                return Ok(());
            }
            if i > 0 && LOCAL.contains(&pass.name()) {
                let refused = self.refused(&graph, &**pass, selection, &touched);
                refused.map_or(Ok(()), |e| Err(e.at(step.place())))?;
            }
            match touches(&graph, &**pass) {
                Some(more) => {
                    touched.values.extend(more.values);
                    touched.nodes.extend(more.nodes);
                    touched.split |= SPLITTERS.contains(&pass.name());
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Why a budget is out of reach, if it is, behind steps that touch no more than this.
    fn refused(&self, graph: &Graph, pass: &dyn Pass, selection: &Selection, touched: &Touched) -> Option<Error> {
        let budget = pass.budget()?;
        // Which layers are the first and the last may change.
        let selection = Selection { skip_first: SkipFirst::Exactly(0), skip_last: 0, ..selection.clone() };
        let selected = &selection.resolve(graph).ok().filter(|selected| !selected.best_effort())?;
        pass.fits(graph).ok()?;
        let (sizes, max_loss) = (&self.sizes, f64::INFINITY);
        let cx = Context { graph, selected, repairs: false, sizes, max_loss, sensitivity: None, fitted: None };
        if matches!(budget, Budget::Size(_)) && in_easy_reach(&cx, pass, budget) {
            return None;
        }
        let reach = pass.reach(&cx)?;
        let stays = |part| match part {
            CostPart::Constant(v) => !touched.values.contains(&v),
            CostPart::Node(n) => !touched.nodes.contains(&n),
        };
        let added = match budget {
            Budget::Params(_) => biases(graph),
            Budget::Size(_) => size_of::<f32>() as u64 * biases(graph),
            Budget::Macs(_) if touched.split => return None,
            Budget::Macs(_) => 0,
        };
        reach.behind_others(stays, added).refuses(pass.name())
    }
}

/// Whether codes alone come to a budget of bytes, whatever they lose: then nobody need find out what else could be done.
fn in_easy_reach(cx: &Context<'_>, pass: &dyn Pass, budget: Budget) -> bool {
    let graph = cx.graph;
    let coded: HashSet<ValueId> = pass.sites(cx).iter().flat_map(|site| site.constants(graph)).collect();
    let (mut whole, mut least) = (0, 0);
    for v in graph.values() {
        let bytes = constant(graph, v).stored;
        whole += bytes;
        least += if coded.contains(&v) { bytes / FEWEST_CODES } else { bytes };
    }
    least as f64 <= budget.share() * whole as f64
}

/// What a step may make smaller, or nothing if that is not known.
fn touches(graph: &Graph, pass: &dyn Pass) -> Option<Touched> {
    if pass.name() == PRUNE_CHANNELS {
        let channels = Channels::of(graph).ok()?;
        let groups = channels.groups();
        let open = groups.iter().filter(|group| group.frozen.is_none()).map(|group| &*group.units);
        let values: HashSet<ValueId> =
            channels.reach(graph, open).into_iter().flatten().map(|place| place.value).collect();
        let made = values.iter().filter_map(|&v| graph.producer(v)).map(|p| p.0);
        let nodes = values.iter().flat_map(|&v| graph.readers(v)).chain(made).collect();
        return Some(Touched { values, nodes, split: false });
    }
    if !AT_SITES.contains(&pass.name()) {
        return None;
    }
    let selection = Selection { min_weights: 0, ..Selection::default() };
    let selected = &selection.resolve(graph).ok()?;
    let sizes = &crate::analysis::sizes::InputSizes::AS_DECLARED;
    let cx =
        Context { graph, selected, repairs: false, sizes, max_loss: f64::INFINITY, sensitivity: None, fitted: None };
    let mut sites = pass.sites(&cx);
    sites.retain(|site| pass.stays(&cx, site).is_none());
    let read =
        |site: &Site| site.nodes(graph).into_iter().flat_map(|n| graph.node_inputs(n)).flatten().collect::<Vec<_>>();
    let values = sites.iter().flat_map(|site| [site.constants(graph), read(site)].concat()).collect();
    Some(Touched { values, nodes: sites.iter().flat_map(|site| site.nodes(graph)).collect(), split: false })
}

/// Parameters that fitting may add: a bias to every layer, and to the two that may take its place.
fn biases(graph: &Graph) -> u64 {
    let layers = options::layers(graph).into_iter().filter_map(|n| Linear::of(graph, n).ok());
    layers.map(|l| 2 * (l.groups * (l.outputs + l.inputs)) as u64).sum()
}
