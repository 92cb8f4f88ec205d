//! Where: the places of a graph that passes look at.

use super::{options, sharing};
use crate::ir::{Graph, NodeId, ValueId};

/// Producers of a group that a report names.
const MAX_NAMES: usize = 8;

/// Layers that share a weight that a report names.
const MAX_SHARING: usize = 2;

/// A place that a pass looks at. What it does there is a [`Choice`], or follows from its options.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Site {
    /// A node.
    Node(NodeId),
    /// A value, such as a constant.
    Value(ValueId),
    /// A constant weight, wherever it is read.
    Weight(ValueId),
    /// A constant weight that a layer is fitted for.
    Codes(ValueId),
    /// A layer, the first of those that share its weight.
    Layer(NodeId),
    /// Coupled channels: the nodes that make them.
    Channels {
        /// In graph order.
        producers: Vec<NodeId>,
        /// Which of the groups that these make.
        nth: usize,
    },
}

impl Site {
    /// Whether the site is still there after other patches.
    pub fn lives(&self, graph: &Graph) -> bool {
        match self {
            Site::Node(n) | Site::Layer(n) => graph.has_node(*n),
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => graph.has_value(*v),
            Site::Channels { producers, .. } => producers.iter().all(|&n| graph.has_node(n)),
        }
    }

    /// The nodes that `skip`, `only`, `skip-first` and `skip-last` are about.
    pub fn nodes(&self, graph: &Graph) -> Vec<NodeId> {
        match self {
            Site::Node(n) => vec![*n],
            Site::Layer(node) => match options::weight(graph, *node) {
                Some((_, value)) => sharing::readers(graph, value),
                None => vec![*node],
            },
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => graph.readers(*v).collect(),
            Site::Channels { producers, .. } => producers.clone(),
        }
    }

    /// The names that options by layer may call it by, the most telling first.
    pub fn names(&self, graph: &Graph) -> Vec<String> {
        let own = match self {
            Site::Node(n) | Site::Layer(n) => Some(graph.label(*n)),
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => Some(graph.value(*v).name.as_str()),
            Site::Channels { .. } => None,
        };
        let nodes = self.nodes(graph);
        own.into_iter().chain(nodes.iter().map(|&n| graph.label(n))).map(str::to_string).collect()
    }

    /// The constants that the site is about.
    pub fn constants(&self, graph: &Graph) -> Vec<ValueId> {
        match self {
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => vec![*v],
            Site::Node(n) | Site::Layer(n) => options::weight(graph, *n).map(|w| w.1).into_iter().collect(),
            Site::Channels { producers, .. } => {
                producers.iter().flat_map(|&n| graph.node_inputs(n)).flatten().collect()
            }
        }
    }

    /// The constant that the site is, if it is one.
    pub fn weight(&self) -> Option<ValueId> {
        match self {
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => Some(*v),
            Site::Node(_) | Site::Layer(_) | Site::Channels { .. } => None,
        }
    }

    /// Whether the file contradicts the operator's definition at a node of the site, if the site is one of nodes.
    pub fn contradicts(&self, graph: &Graph) -> bool {
        self.node().is_some() && self.nodes(graph).into_iter().any(|n| graph.node(n).inconsistent)
    }

    /// The node that the site is, if it is one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Site::Node(n) | Site::Layer(n) => Some(*n),
            Site::Value(_) | Site::Weight(_) | Site::Codes(_) | Site::Channels { .. } => None,
        }
    }

    /// Elements of the weights at the site, as they are stored.
    pub fn weights(&self, graph: &Graph) -> u64 {
        let mut values: Vec<ValueId> = match self {
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => vec![*v],
            Site::Node(_) | Site::Layer { .. } | Site::Channels { .. } => {
                self.nodes(graph).into_iter().filter_map(|n| Some(options::weight(graph, n)?.1)).collect()
            }
        };
        values.sort();
        values.dedup();
        values.into_iter().filter_map(|v| graph.value(v).constant()).map(|t| t.len() as u64).sum()
    }

    /// The name of the site in reports.
    pub fn label(&self, graph: &Graph) -> String {
        match self {
            Site::Node(n) => graph.label(*n).to_string(),
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => graph.value(*v).name.clone(),
            Site::Layer(_) => labels(graph, &self.nodes(graph), MAX_SHARING),
            Site::Channels { producers, .. } => labels(graph, producers, MAX_NAMES),
        }
    }
}

/// The names of several nodes.
fn labels(graph: &Graph, nodes: &[NodeId], most: usize) -> String {
    let names: Vec<_> = nodes.iter().take(most).map(|&n| graph.label(n)).collect();
    let more = nodes.len() - names.len();
    names.join(" + ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}
