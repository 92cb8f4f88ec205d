//! Einsum. (ONNX Operators: Einsum, since 12.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, broadcast};
use crate::ir::op::{Operator, Role, Sizes, WeightInput};
use crate::ir::shape::{Dim, Shape};
use crate::ir::ties::Ties;
use std::collections::BTreeMap;
use std::ops::Range;

/// A sum of products over the indices that an equation names, as numpy.einsum.
#[derive(Debug, Clone, PartialEq)]
pub struct Einsum {
    /// As the file has it.
    pub equation: String,
    terms: Vec<Term>,
    output: Term,
}

/// Indices before the ellipsis, and after it if there is one.
#[derive(Debug, Clone, PartialEq)]
struct Term(Vec<char>, Option<Vec<char>>);

type Subscripts = Vec<(char, usize)>;

impl Term {
    fn parse(text: &str) -> Option<Term> {
        let letters = |t: &str| t.chars().all(|c| c.is_ascii_alphabetic()).then(|| t.chars().collect::<Vec<_>>());
        Some(match text.split_once("...") {
            Some((before, after)) => Term(letters(before)?, Some(letters(after)?)),
            None => Term(letters(text)?, None),
        })
    }

    fn letters(&self) -> impl Iterator<Item = char> + '_ {
        self.0.iter().chain(self.1.iter().flatten()).copied()
    }

    /// The axis of a tensor of that rank that each index names, and the axes of the ellipsis.
    fn bind(&self, rank: usize) -> Option<(Subscripts, Range<usize>)> {
        let after = self.1.as_deref().unwrap_or_default();
        let ellipsis = self.0.len()..rank.checked_sub(after.len())?;
        let fits = if self.1.is_some() { ellipsis.start <= ellipsis.end } else { ellipsis.start == ellipsis.end };
        let axes = (0..self.0.len()).chain(ellipsis.end..rank);
        fits.then(|| (self.letters().zip(axes).collect(), ellipsis))
    }
}

impl Operator for Einsum {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let equation = attrs.str("equation").filter(|_| opset >= 12)?;
        let dense: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (inputs, output) = dense.split_once("->").map_or((dense.as_str(), None), |(i, o)| (i, Some(o)));
        let terms = inputs.split(',').map(Term::parse).collect::<Option<Vec<_>>>()?;
        let output = match output {
            Some(text) => Term::parse(text)?,
            None => {
                let mut count = BTreeMap::new();
                terms.iter().flat_map(Term::letters).for_each(|c| *count.entry(c).or_insert(0) += 1);
                let once = count.into_iter().filter(|e| e.1 == 1).map(|e| e.0).collect();
                if terms.iter().any(|t| t.1.is_some()) { Term(Vec::new(), Some(once)) } else { Term(once, None) }
            }
        };
        Some(Einsum { equation, terms, output })
    }

    fn op_type(&self) -> &'static str {
        "Einsum"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        vec![Attr::str("equation", &self.equation)]
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        if self.terms.len() != cx.n_inputs() {
            return Err(format!("the equation {:?} for {} inputs", self.equation, cx.n_inputs()));
        }
        let mut sizes: BTreeMap<char, Dim> = BTreeMap::new();
        let mut ellipsis = Shape::default();
        for (slot, term) in self.terms.iter().enumerate() {
            let Some(x) = cx.shape(slot) else { return Ok(vec![Fact::tensor(cx.dtype(0), None)]) };
            let wrong = || format!("the equation {:?} for an input {x}", self.equation);
            let (axes, rest) = term.bind(x.rank()).ok_or_else(wrong)?;
            for (letter, at) in axes {
                let one = |d: &Dim| Shape(vec![d.clone()]);
                let size = sizes.entry(letter).or_insert(Dim::Known(1));
                let both = broadcast(&one(size), &one(&x.0[at])).map_err(|_| wrong())?;
                *size = both.0.into_iter().next().unwrap_or(Dim::Unknown);
            }
            ellipsis = broadcast(&ellipsis, &Shape(x.0[rest].to_vec()))?;
        }
        let dim = |c: &char| sizes.get(c).cloned().ok_or_else(|| format!("the equation {:?}", self.equation));
        let mut y = self.output.0.iter().map(dim).collect::<Result<Vec<_>, _>>()?;
        if let Some(after) = &self.output.1 {
            y.extend(ellipsis.0);
            y.extend(after.iter().map(dim).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(y)))])
    }

    /// Of two factors, either: its first index that the output has and the other has not counts outputs.
    fn weights(&self, cx: &Infer<'_>) -> Vec<WeightInput> {
        let [left, right] = &self.terms[..] else { return Vec::new() };
        let factor = |(slot, own, other): (usize, &Term, &Term)| {
            let (axes, _) = own.bind(cx.shape(slot)?.rank())?;
            let has = |term: &Term, letter| term.letters().any(|l| l == letter);
            let find = |in_output, in_other| {
                let fits = |c: char| has(&self.output, c) == in_output && has(other, c) == in_other;
                axes.iter().find(|(letter, _)| fits(*letter)).map(|a| a.1)
            };
            let (outputs, inputs) = (find(true, false)?, find(false, true)?);
            Some(WeightInput { slot, role: Role::Einsum, outputs, inputs: Some(inputs), bias: None })
        };
        [(1, right, left), (0, left, right)].into_iter().filter_map(factor).collect()
    }

    /// Of a product of two tensors: the product of the sizes of all indices.
    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        if self.terms.len() < 2 {
            return Some(0);
        }
        let mut by_letter: BTreeMap<char, u64> = BTreeMap::new();
        let mut ellipsis: Vec<u64> = Vec::new();
        for (slot, term) in self.terms.iter().enumerate() {
            let x = sizes.input(slot)?;
            let (axes, rest) = term.bind(x.len())?;
            for (letter, at) in axes {
                let n = by_letter.entry(letter).or_insert(1);
                *n = (*n).max(x[at]);
            }
            let rest = &x[rest];
            ellipsis.splice(0..0, vec![1; rest.len().saturating_sub(ellipsis.len())]);
            let skip = ellipsis.len() - rest.len();
            ellipsis[skip..].iter_mut().zip(rest).for_each(|(e, &n)| *e = (*e).max(n));
        }
        by_letter.into_values().chain(ellipsis).try_fold(1u64, |n, d| n.checked_mul(d))
    }

    /// Of two factors, one of them a weight: an index that both have and the output has not is summed over, one of the weight
    /// alone makes channels, and the others pass.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = |s: Option<&Shape>| s.map_or(0, Shape::rank);
        let ranks = [rank(t.cx().shape(0)), rank(t.cx().shape(1)), rank(t.out_shape(0))];
        let [left, right] = &self.terms[..] else { return false };
        let bound = [left.bind(ranks[0]), right.bind(ranks[1]), self.output.bind(ranks[2])];
        let [Some((left, left_rest)), Some((right, right_rest)), Some((output, output_rest))] = bound else {
            return false;
        };
        let twice = |axes: &Subscripts| axes.iter().any(|(c, at)| axes.iter().any(|(d, other)| c == d && at != other));
        if [&left, &right, &output].into_iter().any(twice) {
            return false;
        }
        let find = |axes: &Subscripts, letter: char| axes.iter().find(|a| a.0 == letter).map(|a| a.1);
        let weight = [1, 0].into_iter().find(|&slot| t.is_weight(slot));
        let factors = [(0, &left, &right, left_rest), (1, &right, &left, right_rest)];
        for (slot, own, other, rest) in factors {
            for &(letter, axis) in own {
                match (find(other, letter), find(&output, letter), weight) {
                    (Some(_), Some(to), _) => t.pass((slot, axis), (0, to)),
                    (Some(summed), None, Some(weight)) if weight != slot => {
                        t.contract((slot, axis), (weight, summed), 1);
                    }
                    (None, Some(to), Some(weight)) if weight == slot => t.produce((slot, axis), (0, to), 1),
                    (None, Some(to), _) => t.pass((slot, axis), (0, to)),
                    _ => {}
                }
            }
            let lead = output_rest.len().saturating_sub(rest.len());
            for (i, axis) in rest.enumerate() {
                t.pass((slot, axis), (0, output_rest.start + lead + i));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::ty;

    #[test]
    fn shapes() {
        let y = |equation: &str, inputs: &str| {
            let ends = "input %a : f32[N,2,3] input %b : f32[3,4] input %c : f32[5,5]";
            ty(12, &format!("{ends} %y : ? = Einsum<equation=\"{equation}\">({inputs})"))
        };
        assert_eq!(y("bij, jk -> bik", "%a, %b"), "f32[N,2,4]");
        assert_eq!(y("...ij,jk->...ik", "%a, %b"), "f32[N,2,4]");
        assert_eq!(y("ij,jk", "%b, %c"), "?", "4 against 5");
        assert_eq!(y("ba", "%b"), "f32[4,3]");
        assert_eq!(y("ii", "%c"), "f32[]");
        assert_eq!(y("ii->i", "%c"), "f32[5]");
        assert_eq!(y("ij->k", "%c"), "?");
        assert_eq!(y("ijkl->i", "%c"), "?");
        assert_eq!(y("i1->i", "%c"), "opaque");
    }

    #[test]
    fn macs() {
        let equation = Attr::str("equation", "...ij,jk->...ik");
        let op = Einsum::parse("", 12, &mut AttrReader::new(&[equation])).unwrap();
        let inputs = vec![Some(vec![7, 2, 3]), Some(vec![3, 4])];
        assert_eq!(op.macs(&Sizes { inputs, outputs: Vec::new() }), Some(7 * 2 * 3 * 4));
    }
}
