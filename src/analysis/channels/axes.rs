//! What is known of every axis of every value, side by side: looked up without hashing, listed in order.

use super::classes::Labels;
use crate::ir::graph::{Graph, ValueId};

/// What is known of an axis.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// A label for every position, if it carries channels.
    pub labels: Option<Labels>,
    /// The number of the reason why it stays whole, of an axis of a constant that has no labels yet.
    pub locked: Option<u32>,
    /// The value whose axis without labels goes into it.
    pub whole: Option<ValueId>,
}

#[derive(Debug)]
pub struct Axes {
    /// By value: its first axis, and behind it that of the next.
    first: Vec<usize>,
    known: Vec<Known>,
}

impl Axes {
    pub fn of(graph: &Graph) -> Axes {
        let mut first = vec![0; graph.id_bound() + 1];
        for v in graph.values() {
            first[v.index() + 1] = graph.value(v).rank().unwrap_or(0);
        }
        (1..first.len()).for_each(|i| first[i] += first[i - 1]);
        let known = vec![Known::default(); first.last().copied().unwrap_or(0)];
        Axes { first, known }
    }

    fn place(&self, value: ValueId, axis: usize) -> Option<usize> {
        let (from, to) = (self.first.get(value.index())?, self.first.get(value.index() + 1)?);
        from.checked_add(axis).filter(|at| at < to)
    }

    /// `None` if the value has no such axis.
    pub fn get(&self, value: ValueId, axis: usize) -> Option<&Known> {
        self.known.get(self.place(value, axis)?)
    }

    pub fn get_mut(&mut self, value: ValueId, axis: usize) -> Option<&mut Known> {
        let at = self.place(value, axis)?;
        self.known.get_mut(at)
    }

    pub fn labels(&self, value: ValueId, axis: usize) -> Option<&Labels> {
        self.get(value, axis)?.labels.as_ref()
    }
}
