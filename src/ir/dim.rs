//! Dimensions, and what is known of products of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One dimension. Two that are equal are the same number at run time, but for two unknowns, which need not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A number.
    Known(u64),
    /// A name, the same wherever it is the same number.
    Sym(Arc<str>),
    /// A number that the file has no name for; this one is the same wherever inference can follow it.
    Open(u64),
    /// A product of such, and of a number.
    Product(Arc<DimProduct>),
    /// Nothing is known.
    Unknown,
}

/// A number times dims that are symbols or open: more than one factor, none of them 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DimProduct {
    by: u64,
    /// In order.
    of: Vec<Dim>,
}

/// Numbers of open dims, each for one of all graphs. They never reach a file or a terminal.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Dim {
    /// A dim with a name.
    pub fn sym(name: &str) -> Dim {
        Dim::Sym(name.into())
    }

    /// An open dim that equals no other.
    pub fn open() -> Dim {
        Dim::Open(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The number, if it is one.
    pub fn known(&self) -> Option<u64> {
        match self {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }

    /// Whether what equals it is the same number.
    pub fn is_same(&self) -> bool {
        *self != Dim::Unknown
    }

    /// Its factors: a number, and dims in order. `None` if nothing is known.
    fn factors(&self) -> Option<(u64, Vec<Dim>)> {
        match self {
            Dim::Known(n) => Some((*n, Vec::new())),
            Dim::Product(p) => Some((p.by, p.of.clone())),
            Dim::Unknown => None,
            one => Some((1, vec![one.clone()])),
        }
    }

    fn of_factors(by: u64, mut of: Vec<Dim>) -> Dim {
        match (by, of.len()) {
            (0, _) | (_, 0) => Dim::Known(by),
            (1, 1) => of.remove(0),
            _ => Dim::Product(Arc::new(DimProduct { by, of })),
        }
    }

    /// The product of two dims.
    pub fn times(&self, other: &Dim) -> Dim {
        let Some(((a, mut of), (b, more))) = self.factors().zip(other.factors()) else { return Dim::Unknown };
        of.extend(more);
        of.sort();
        a.checked_mul(b).map_or(Dim::Unknown, |by| Dim::of_factors(by, of))
    }

    /// The quotient of two dims, if all factors of the other are among its own. What is divided by is not 0.
    pub fn over(&self, other: &Dim) -> Dim {
        let Some(((a, mut of), (b, less))) = self.factors().zip(other.factors()) else { return Dim::Unknown };
        for d in &less {
            match of.binary_search(d) {
                Ok(at) => drop(of.remove(at)),
                Err(_) => return Dim::Unknown,
            }
        }
        if b > 0 && a % b == 0 { Dim::of_factors(a / b, of) } else { Dim::Unknown }
    }

    /// Whether it is a symbol that means something: exporters write `?` and `-1` for any dim that is open.
    pub fn is_named(&self) -> bool {
        matches!(self, Dim::Sym(name) if name.chars().any(char::is_alphabetic) && &**name != "None")
    }

    /// The number, if it is one where `batch` is 1.
    pub fn of_one(&self, batch: Option<&Dim>) -> Option<u64> {
        self.known().or_else(|| self.over(batch?).known())
    }

    /// As a file says it: one that has neither a number nor a name is not told from others.
    #[must_use]
    pub fn as_written(&self) -> Dim {
        match self {
            Dim::Known(_) | Dim::Sym(_) => self.clone(),
            Dim::Open(_) | Dim::Product(_) | Dim::Unknown => Dim::Unknown,
        }
    }

    /// Whether both can be the same number.
    pub fn agrees(&self, other: &Dim) -> bool {
        !matches!((self, other), (Dim::Known(a), Dim::Known(b)) if a != b)
    }

    /// This dim, or the other if this is not known, or no more than open where the other is a number.
    pub(super) fn or(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Unknown, _) | (Dim::Open(_) | Dim::Product(_), Dim::Known(_)) => other.clone(),
            _ => self.clone(),
        }
    }

    /// The more specific of two dims that agree; `self` wins ties.
    pub fn refine(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Known(_), _) => self.clone(),
            (_, Dim::Known(_)) | (Dim::Unknown, _) => other.clone(),
            (Dim::Open(_) | Dim::Product(_), Dim::Sym(_)) => other.clone(),
            _ => self.clone(),
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Sym(s) => write!(f, "{}", crate::ir::text::symbol(s)),
            Dim::Open(_) | Dim::Product(_) | Dim::Unknown => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_open_dims() {
        let (n, w, four) = (Dim::sym("N"), Dim::open(), Dim::Known(4));
        assert_ne!(w, Dim::open());
        let all = four.times(&w).times(&n);
        assert_eq!(all, n.times(&four.times(&w)));
        assert_eq!((all.over(&n).over(&w), all.over(&four)), (four.clone(), w.times(&n)));
        assert_eq!((all.over(&Dim::Known(3)), all.over(&Dim::open())), (Dim::Unknown, Dim::Unknown));
        assert_eq!((four.times(&Dim::Unknown), Dim::Known(0).times(&n)), (Dim::Unknown, Dim::Known(0)));
        assert_eq!((n.times(&four).of_one(Some(&n)), all.of_one(Some(&n)), w.of_one(None)), (Some(4), None, None));
        assert_eq!((Dim::Known(1).times(&w), all.to_string()), (w.clone(), "?".into()));
    }
}
