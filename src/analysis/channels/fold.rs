//! Reshapes between one axis of channels and several, of which only one can be free: heads of an attention stay or go as
//! blocks, a channel shuffle as residues.

use super::classes::{Classes, Labels, MAX_BYTES};
use crate::ir::graph::NodeId;
use std::collections::HashMap;

/// `grid` has the labels of the one axis, row-major over `sizes`; a factor without labels stays whole.
#[derive(Debug)]
pub struct Fold {
    pub node: NodeId,
    pub grid: Labels,
    pub factors: Vec<Option<Labels>>,
    pub sizes: Vec<usize>,
}

impl Fold {
    /// The free factor that leaves most units, the last of equal ones, if there is a free one.
    pub fn choose(&self, classes: &Classes) -> Option<(usize, Labels)> {
        let free = |labels: &Labels| labels.iter().all(|&l| classes.frozen(l).is_none());
        let open = self.factors.iter().enumerate().filter_map(|(i, f)| Some((i, f.clone().filter(free)?)));
        open.max_by_key(|(i, labels)| self.units(classes, *i, labels))
    }

    /// Classes of the grid if the factor `i` carried its channels.
    fn units(&self, classes: &Classes, i: usize, labels: &Labels) -> usize {
        let mut number: HashMap<u32, u32> = HashMap::new();
        let mut pairs = Vec::with_capacity(self.grid.len());
        for (position, &l) in self.grid.iter().enumerate() {
            let pair = [l, labels[coordinate(position, &self.sizes, i)]].map(|l| {
                let next = number.len() as u32;
                *number.entry(classes.root(l)).or_insert(next)
            });
            pairs.push(pair);
        }
        let mut local = Classes::within(MAX_BYTES);
        let Some(all) = local.fresh(number.len()) else { return 0 };
        pairs.into_iter().for_each(|[a, b]| _ = local.unite(a, b));
        all.iter().filter(|&&l| local.root(l) == l).count()
    }

    /// Makes factor `i` carry the channels of the grid.
    pub fn tie(&self, classes: &mut Classes, i: usize, labels: &Labels) {
        for (position, &l) in self.grid.iter().enumerate() {
            classes.unite(l, labels[coordinate(position, &self.sizes, i)]);
        }
    }
}

/// Coordinate along factor `i` of a row-major position.
pub fn coordinate(position: usize, sizes: &[usize], i: usize) -> usize {
    let inner: usize = sizes[i + 1..].iter().product();
    position / inner % sizes[i]
}
