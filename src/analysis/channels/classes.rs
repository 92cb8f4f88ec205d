//! Union-find over labels. A class remembers why it must stay.

use std::sync::Arc;

/// One label for every position of an axis.
pub type Labels = Arc<[u32]>;

/// Labels beyond which no more are made, so that no model can make the analysis take memory without end.
const MAX_LABELS: usize = 1 << 27;

const FREE: u32 = u32::MAX;

/// Labels in classes; a class has the number of the first reason that froze it.
#[derive(Debug, Default)]
pub struct Classes {
    parent: Vec<u32>,
    frozen: Vec<u32>,
}

impl Classes {
    /// New labels, each a class of its own; `None` if there are too many already.
    pub fn fresh(&mut self, n: usize) -> Option<Labels> {
        let from = self.parent.len();
        let to = from.checked_add(n).filter(|&to| to <= MAX_LABELS)?;
        self.parent.extend(from as u32..to as u32);
        self.frozen.resize(to, FREE);
        Some((from as u32..to as u32).collect())
    }

    pub fn len(&self) -> usize {
        self.parent.len()
    }

    pub fn root(&self, mut x: u32) -> u32 {
        while self.parent[x as usize] != x {
            x = self.parent[x as usize];
        }
        x
    }

    fn find(&mut self, x: u32) -> u32 {
        let root = self.root(x);
        let mut at = x;
        while self.parent[at as usize] != root {
            at = std::mem::replace(&mut self.parent[at as usize], root);
        }
        root
    }

    /// The older label becomes the class's root: the outcome does not depend on the order of statements.
    pub fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        let (root, child) = (a.min(b) as usize, a.max(b) as usize);
        self.parent[child] = root as u32;
        self.frozen[root] = self.frozen[root].min(self.frozen[child]);
    }

    pub fn unite_all(&mut self, a: &Labels, b: &Labels) {
        if !Arc::ptr_eq(a, b) {
            a.iter().zip(b.iter()).for_each(|(&a, &b)| self.unite(a, b));
        }
    }

    pub fn freeze(&mut self, x: u32, reason: u32) {
        let root = self.find(x) as usize;
        self.frozen[root] = self.frozen[root].min(reason);
    }

    /// The reason why a label's class must stay, if it must.
    pub fn frozen(&self, x: u32) -> Option<u32> {
        Some(self.frozen[self.root(x) as usize]).filter(|&r| r != FREE)
    }

    /// Makes every label point at its root. A parent is never younger than its child, so one pass in order does.
    pub fn flatten(&mut self) {
        for x in 0..self.parent.len() {
            self.parent[x] = self.parent[self.parent[x] as usize];
        }
    }
}
