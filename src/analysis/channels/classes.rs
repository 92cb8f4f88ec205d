//! Union-find over labels. A class remembers why it must stay.

use std::sync::Arc;

/// One label for every position of an axis.
pub type Labels = Arc<[u32]>;

/// Bytes of labels and lists of them beyond which no more are made: no small file can make the analysis take memory without
/// end.
pub const MAX_BYTES: usize = 1 << 28;

/// What a position of a list takes, and a label.
const LISTED: usize = size_of::<u32>();
const LABEL: usize = 2 * size_of::<u32>();

const FREE: u32 = u32::MAX;

/// Labels in classes; a class has the number of the first reason that froze it.
#[derive(Debug)]
pub struct Classes {
    parent: Vec<u32>,
    frozen: Vec<u32>,
    /// Bytes that may still be taken.
    room: usize,
}

impl Classes {
    pub fn within(room: usize) -> Classes {
        Classes { parent: Vec::new(), frozen: Vec::new(), room }
    }

    /// New labels, each a class of its own; `None` if there are too many already.
    pub fn fresh(&mut self, n: usize) -> Option<Labels> {
        let from = self.parent.len();
        self.take(n, LABEL + LISTED)?;
        self.parent.extend(from as u32..(from + n) as u32);
        self.frozen.resize(from + n, FREE);
        Some((from as u32..(from + n) as u32).collect())
    }

    /// A list of `n` labels that there are; `None` if there are too many lists already.
    pub fn list(&mut self, n: usize, labels: impl Iterator<Item = u32>) -> Option<Labels> {
        self.take(n, LISTED)?;
        Some(labels.take(n).collect())
    }

    fn take(&mut self, n: usize, bytes: usize) -> Option<()> {
        self.room = self.room.checked_sub(n.checked_mul(bytes)?)?;
        Some(())
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

    /// Makes one class of two, and says whether they were two. The older label becomes the root: the outcome does not depend
    /// on the order of statements.
    pub fn unite(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        let (root, child) = (a.min(b) as usize, a.max(b) as usize);
        self.parent[child] = root as u32;
        self.frozen[root] = self.frozen[root].min(self.frozen[child]);
        root != child
    }

    /// Unites labels position by position, and says whether that made a difference.
    pub fn unite_all(&mut self, a: &[u32], b: &[u32]) -> bool {
        !std::ptr::eq(a, b) && a.iter().zip(b).fold(false, |joined, (&a, &b)| self.unite(a, b) | joined)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_lists_of_them_take_room() {
        let mut classes = Classes::within(10 * (LABEL + LISTED));
        let nine = classes.fresh(9).unwrap();
        assert!(classes.fresh(2).is_none());
        assert_eq!(&*classes.list(3, nine.iter().rev().copied()).unwrap(), [8, 7, 6]);
        assert!(classes.list(1, nine.iter().copied()).is_none());
        assert!(classes.fresh(usize::MAX).is_none());
        assert!(classes.unite(3, 1) && !classes.unite(1, 3));
        assert!(classes.unite_all(&[0, 1], &[0, 2]) && !classes.unite_all(&[3, 5], &[2, 5]));
        classes.freeze(2, 7);
        assert_eq!((classes.frozen(3), classes.frozen(0)), (Some(7), None));
    }
}
