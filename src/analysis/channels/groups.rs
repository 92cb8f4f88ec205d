//! Groups of units: what makes them, what ties them, whether they can go.

use super::classes::{Classes, Labels, MAX_BYTES};
use super::{Channels, Freeze};
use crate::ir::graph::{Graph, NodeId, ValueId};
use foldhash::fast::FixedState;
use std::collections::{BTreeMap, HashSet};

/// Units that are made together.
#[derive(Debug, Clone)]
pub struct Group {
    /// Nodes whose weights make the channels, in graph order.
    pub producers: Vec<NodeId>,
    /// The weights that make the channels, each with the axis that does.
    pub weights: Vec<(ValueId, usize)>,
    /// The least sets of channels that can be removed, each by a number that [`Channels::unit`] gives; all that there
    /// are, if none can. None for a layer whose channels cannot be told apart.
    pub units: Vec<u32>,
    /// Why no unit can be removed, if so.
    pub frozen: Option<Freeze>,
    /// How many other units the same weights make that cannot be removed, and why the first of them cannot.
    pub rest: Option<(usize, Freeze)>,
}

type FastSet<T> = HashSet<T, FixedState>;

/// What makes channels stand or fall together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tie {
    /// A node at which they meet.
    Node(NodeId),
    /// A weight that several nodes read.
    Weight(ValueId),
}

/// Channels that a node makes from an axis of a weight, or a node of which no such axis is known.
#[derive(Debug)]
pub(super) struct Produced {
    pub node: NodeId,
    pub weight: Option<(ValueId, usize)>,
    pub labels: Labels,
    /// Why there are no labels, if so.
    pub whole: Option<Freeze>,
}

/// A tie between those labels of a list that meet in it, or of several lists between those that meet across two of them.
#[derive(Debug)]
pub(super) struct Tied {
    pub node: NodeId,
    pub by: Tie,
    pub lists: Vec<Labels>,
}

impl Channels {
    /// Groups of units, in the order of their first producers.
    pub fn groups(&self) -> Vec<Group> {
        // Producers that share a unit make one group: union-find over their numbers in `produced`.
        let mut sets = Classes::within(MAX_BYTES);
        sets.fresh(self.produced.len());
        let mut owner = vec![u32::MAX; self.classes.len()];
        for (i, made) in self.produced.iter().enumerate() {
            for &l in made.labels.iter() {
                let first = &mut owner[self.classes.root(l) as usize];
                match *first {
                    u32::MAX => *first = i as u32,
                    first => _ = sets.unite(first, i as u32),
                }
            }
        }
        let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
        let mut producers: FastSet<(u32, NodeId)> = FastSet::default();
        let mut weights: FastSet<(u32, (ValueId, usize))> = FastSet::default();
        // A unit is in one group.
        let mut told = vec![false; self.classes.len()];
        for (i, made) in self.produced.iter().enumerate() {
            let set = sets.root(i as u32);
            let group = groups.entry(set).or_insert_with(|| Group {
                producers: Vec::new(),
                weights: Vec::new(),
                units: Vec::new(),
                frozen: made.whole.clone(),
                rest: None,
            });
            // One node's channels, and one weight's, may fall into several groups.
            if producers.insert((set, made.node)) {
                group.producers.push(made.node);
            }
            group.weights.extend(made.weight.filter(|&w| weights.insert((set, w))));
            let units = made.labels.iter().map(|&l| self.classes.root(l));
            group.units.extend(units.filter(|&u| !std::mem::replace(&mut told[u as usize], true)));
        }
        let mut groups: Vec<Group> = groups.into_values().collect();
        for group in groups.iter_mut().filter(|g| g.frozen.is_none()) {
            let (free, rest): (Vec<_>, Vec<_>) = group.units.iter().partition(|&&u| self.frozen(u).is_none());
            let why = rest.first().and_then(|&u| self.frozen(u)).cloned();
            match free.len() {
                0 => group.frozen = why,
                1 if rest.is_empty() => {
                    let why = "makes channels that could only go all together".into();
                    group.frozen = Some(Freeze { node: group.producers.first().copied(), why });
                }
                _ => (group.units, group.rest) = (free, why.map(|why| (rest.len(), why))),
            }
        }
        groups
    }

    /// For every group what ties its units, or makes one unit of several channels, in the order of the file.
    pub fn ties(&self, graph: &Graph, groups: &[Group]) -> Vec<Vec<Tie>> {
        let mut owner = vec![usize::MAX; self.classes.len()];
        for (i, group) in groups.iter().enumerate() {
            group.units.iter().for_each(|&u| owner[u as usize] = i);
        }
        let mut ties: Vec<&Tied> = self.ties.iter().collect();
        ties.sort_by_key(|t| graph.node(t.node).order);
        let mut out = vec![Vec::new(); groups.len()];
        let mut told: FastSet<(usize, Tie)> = FastSet::default();
        let mut here: Vec<usize> = Vec::new();
        for tied in ties {
            // The groups in each list, once a list.
            let mut met: Vec<usize> = Vec::new();
            for list in &tied.lists {
                let owners = list.iter().map(|&l| owner[self.classes.root(l) as usize]);
                here.clear();
                here.extend(owners.filter(|&o| o != usize::MAX));
                here.sort_unstable();
                here.dedup();
                met.append(&mut here);
            }
            met.sort();
            for group in met.chunk_by(|a, b| a == b).filter(|g| g.len() >= tied.lists.len().min(2)) {
                if told.insert((group[0], tied.by)) {
                    out[group[0]].push(tied.by);
                }
            }
        }
        out
    }
}
