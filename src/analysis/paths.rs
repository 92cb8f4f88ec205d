//! What the ways through a network with exits cost.

use crate::analysis::cost::{batch_symbol, node_macs};
use crate::ir::Graph;

/// Multiply-accumulates for one sample that leaves at each exit, and last for one that goes to the end. `None` if they
/// depend on dims that are known only at run time, or the graph has a cycle.
pub fn path_macs(graph: &Graph) -> Option<Vec<u64>> {
    let (batch, levels) = (batch_symbol(graph), graph.levels().ok()?);
    let mut macs = vec![0u64; graph.exits().len() + 1];
    for (n, level) in levels {
        let here = node_macs(graph, n, batch.as_ref())?;
        macs[level] = macs[level].checked_add(here)?;
    }
    for i in 1..macs.len() {
        macs[i] = macs[i].checked_add(macs[i - 1])?;
    }
    Some(macs)
}
