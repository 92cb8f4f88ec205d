//! The graph as petgraph sees it: nodes, with an edge wherever one reads what another computes. petgraph's algorithms run
//! on it.

use super::graph::{Graph, NodeId, ValueId};
use petgraph::Direction;
use petgraph::algo::toposort;
use petgraph::visit::{GraphBase, IntoNeighbors, IntoNeighborsDirected, IntoNodeIdentifiers, Visitable};
use std::collections::HashSet;
use std::vec;

impl GraphBase for Graph {
    type NodeId = NodeId;
    type EdgeId = ValueId;
}

impl IntoNodeIdentifiers for &Graph {
    type NodeIdentifiers = vec::IntoIter<NodeId>;

    fn node_identifiers(self) -> Self::NodeIdentifiers {
        self.nodes().collect::<Vec<_>>().into_iter()
    }
}

impl IntoNeighbors for &Graph {
    type Neighbors = vec::IntoIter<NodeId>;

    fn neighbors(self, node: NodeId) -> Self::Neighbors {
        self.neighbors_directed(node, Direction::Outgoing)
    }
}

impl IntoNeighborsDirected for &Graph {
    type NeighborsDirected = vec::IntoIter<NodeId>;

    fn neighbors_directed(self, node: NodeId, direction: Direction) -> Self::NeighborsDirected {
        let found: Vec<NodeId> = match direction {
            Direction::Outgoing => {
                self.node_outputs(node).into_iter().flatten().flat_map(|v| self.readers(v)).collect()
            }
            Direction::Incoming => self.reads(node).filter_map(|v| self.producer(v)).map(|p| p.0).collect(),
        };
        found.into_iter()
    }
}

impl Visitable for Graph {
    type Map = HashSet<NodeId>;

    fn visit_map(&self) -> Self::Map {
        HashSet::new()
    }

    fn reset_map(&self, map: &mut Self::Map) {
        map.clear();
    }
}

impl Graph {
    /// A node that depends on its own output, if there is one.
    pub(in crate::ir) fn on_cycle(&self) -> Option<NodeId> {
        toposort(self, None).err().map(|cycle| cycle.node_id())
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::text::parse;
    use petgraph::algo::{has_path_connecting, toposort};

    #[test]
    fn algorithms_of_petgraph_run_on_it() {
        let text = "model m opset 17 {
            input %x : f32[2]
            %a : f32[2] = Relu(%x) @a  %b : f32[2] = Add(%a, %a) @b  %c : f32[2] = Abs(%x) @c
            output %b output %c
        }";
        let graph = parse::model(text).unwrap().graph;
        let node = |name: &str| graph.nodes().find(|&n| graph.label(n) == name).unwrap();
        let order = toposort(&graph, None).unwrap();
        let place = |name: &str| order.iter().position(|&n| n == node(name)).unwrap();
        assert!(order.len() == 3 && place("a") < place("b"));
        assert!(has_path_connecting(&graph, node("a"), node("b"), None));
        assert!(!has_path_connecting(&graph, node("c"), node("b"), None));
        assert_eq!(graph.on_cycle(), None);
    }
}
