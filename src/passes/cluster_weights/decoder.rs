//! The nodes that turn codes into weights, in operators that every opset has.

use super::clustered::{Clustered, CodedPart};
use crate::ir::names::short;
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::op::cast::Cast;
use crate::ir::op::concat::Concat;
use crate::ir::op::gather::Gather;
use crate::ir::op::reshape::Reshape;
use crate::ir::op::slice::{Bounds, Slice};
use crate::ir::op::transpose::Transpose;
use crate::ir::{DType, Graph, NodeId, Op, Patch, Ref, Tensor, ValueId};
use crate::math::codes::{self, Layout};
use std::collections::BTreeMap;

/// How the table of digits of codes of so many levels is called.
pub fn digits_name(levels: usize) -> String {
    format!("digits{levels}")
}

pub struct Decoder<'a> {
    graph: &'a Graph,
    patch: &'a mut Patch,
    /// Of the tensor.
    dtype: DType,
    /// What the names of new values begin with.
    tag: String,
    /// What several tensors, or parts of this one, read.
    shared: BTreeMap<String, Ref>,
}

impl<'a> Decoder<'a> {
    /// For the tensor of that name and type.
    pub fn new(graph: &'a Graph, patch: &'a mut Patch, name: &str, dtype: DType) -> Self {
        Decoder { graph, patch, dtype, tag: tag(graph, name), shared: BTreeMap::new() }
    }

    /// The weights, in this shape.
    pub fn tensor(&mut self, clustered: &Clustered, shape: &[usize]) -> Ref {
        let (tag, whole) = (self.tag.clone(), dims(shape));
        if let [part] = clustered.parts.as_slice() {
            return self.part(&tag, part, clustered, whole);
        }
        let rows = |shape: &[usize]| [&[-1], &dims(shape)[1..]].concat();
        let parts = clustered.parts.iter().enumerate();
        let parts: Vec<_> =
            parts.map(|(i, p)| self.part(&format!("{tag}.{i}"), p, clustered, rows(&p.shape))).collect();
        let joined = self.node(&format!("{tag}.parts"), Concat { axis: 0 }, &parts);
        let flat = clustered.parts.iter().any(|p| p.shape.len() != shape.len());
        if flat { self.reshape(&format!("{tag}.weights"), joined, whole) } else { joined }
    }

    /// For each node that looks up rows of a matrix whose bytes are its rows' own, what it gives, and the same decoded from
    /// the codes of these rows.
    pub fn rows(&mut self, clustered: &Clustered, lookups: &[NodeId]) -> Vec<(ValueId, Ref)> {
        let (Some(part), tag, levels) = (clustered.parts.first(), self.tag.clone(), clustered.levels) else {
            return Vec::new();
        };
        let (m, groups) = (codes::codes_per_byte(levels), part.layout.groups);
        let (rows, columns) = (part.shape[0], part.shape[1]);
        let of_a_row = columns / clustered.length / m;
        let bytes = codes::pack(&part.codes, levels);
        let stored = Tensor::new(DType::U8, vec![rows, of_a_row], bytes.into()).expect("one byte for m codes");
        let stored = self.patch.constant_named(format!("{tag}.codes"), stored);
        let offsets = (groups > 1).then(|| {
            let step = if m == 1 { levels } else { 256 };
            let of_byte = |b: usize| (b * m / part.layout.run * step) as i64;
            let offsets = Tensor::from_ints(DType::I32, [of_a_row], (0..of_a_row).map(of_byte));
            self.patch.constant_named(format!("{tag}.offsets"), offsets)
        });
        let table = self.table(&tag, part, clustered);
        let lookup = |&n: &NodeId| {
            let (ids, y) = (self.graph.input(n, 1)?, self.graph.output(n)?);
            let own = &self.graph.node(n).name;
            let name = if own.is_empty() { format!("{tag}.looked-up") } else { own.clone() };
            let bytes = self.node(&format!("{tag}.bytes"), Gather { axis: 0 }, &[stored, ids.into()]);
            let mut index = self.node(&format!("{tag}.index"), Cast::new(DType::I32), &[bytes]);
            if let Some(offsets) = offsets {
                index = self.node(&format!("{tag}.row"), Binary(BinaryKind::Add), &[index, offsets]);
            }
            if m == 1 && clustered.length == 1 {
                return Some((y, self.node(&name, Gather { axis: 0 }, &[table, index])));
            }
            let decoded = self.node(&format!("{tag}.decoded"), Gather { axis: 0 }, &[table, index]);
            let mut shape = vec![0; self.graph.value(ids).rank()?];
            shape.push(columns as i64);
            Some((y, self.reshape(&name, decoded, shape)))
        };
        lookups.iter().filter_map(lookup).collect()
    }

    fn part(&mut self, tag: &str, part: &CodedPart, clustered: &Clustered, target: Vec<i64>) -> Ref {
        let (levels, length) = (clustered.levels, clustered.length);
        let (m, Layout { groups, run, len }) = (codes::codes_per_byte(levels), part.layout);
        let counts = part.vectors.counts();
        // One codebook and one code a byte: the codes can have the shape of the weights.
        let plain = m == 1 && groups == 1;
        let shape = match part.layout.periods() {
            _ if plain && length == 1 => part.shape.clone(),
            _ if plain => counts.to_vec(),
            _ if groups == 1 => vec![run / m],
            1 => vec![groups, run / m],
            periods => vec![periods, groups, run / m],
        };
        let bytes = codes::pack(&part.codes, levels);
        let stored = Tensor::new(DType::U8, shape, bytes.into()).expect("one byte for m codes");
        let stored = self.patch.constant_named(format!("{tag}.codes"), stored);
        let mut index = self.node(&format!("{tag}.index"), Cast::new(DType::I32), &[stored]);
        if groups > 1 {
            let step = if m == 1 { levels } else { 256 };
            let offsets = Tensor::from_ints(DType::I32, [groups, 1], (0..groups).map(|g| (g * step) as i64));
            let offsets = self.constant(format!("offsets.{groups}x{step}"), offsets);
            index = self.node(&format!("{tag}.row"), Binary(BinaryKind::Add), &[index, offsets]);
        }
        let table = self.table(tag, part, clustered);
        let mut w = self.node(&format!("{tag}.decoded"), Gather { axis: 0 }, &[table, index]);
        if part.codes.len() > len {
            w = self.reshape(&format!("{tag}.padded"), w, vec![-1]);
            w = self.cut(&format!("{tag}.cut"), w, 0, len * length);
        }
        if length > 1 {
            w = self.in_place(tag, w, part, plain);
        }
        if plain && length == 1 { w } else { self.reshape(&format!("{tag}.weights"), w, target) }
    }

    /// Vectors, one after the other or as they are `counted`, as the tensor that they are along an axis of.
    fn in_place(&mut self, tag: &str, mut w: Ref, part: &CodedPart, counted: bool) -> Ref {
        let ([_, dim, inner], [outer, count, _], length) =
            (part.vectors.around, part.vectors.counts(), part.vectors.length);
        let lines = [outer, count * length, inner];
        if inner > 1 {
            if !counted {
                w = self.reshape(&format!("{tag}.vectors"), w, dims(&[outer, count, inner, length]));
            }
            w = self.node(&format!("{tag}.lines"), Transpose { perm: vec![0, 1, 3, 2] }, &[w]);
        }
        if count * length > dim {
            w = self.reshape(&format!("{tag}.long"), w, dims(&lines));
            w = self.cut(&format!("{tag}.short"), w, 1, dim);
        }
        w
    }

    /// [groups · 256, m · length], the weights that each byte stands for; with one number a byte [groups · levels].
    fn table(&mut self, tag: &str, part: &CodedPart, clustered: &Clustered) -> Ref {
        let (levels, length) = (clustered.levels, clustered.length);
        let (m, groups) = (codes::codes_per_byte(levels), part.layout.groups);
        let one = m == 1 || groups == 1;
        let mut shape = if one { vec![groups * levels] } else { vec![groups, levels] };
        let axis = shape.len() as i64 - 1;
        shape.extend((length > 1).then_some(length));
        let books = part.books.reshaped(shape).expect("as many elements");
        let dtype = books.dtype();
        let mut books = self.patch.constant_named(format!("{tag}.books"), books);
        if dtype != self.dtype {
            books = self.node(&format!("{tag}.plain"), Cast::new(self.dtype), &[books]);
        }
        if m == 1 {
            return books;
        }
        let digits = self.digits(levels);
        let table = self.node(&format!("{tag}.table"), Gather { axis }, &[books, digits]);
        if groups == 1 { table } else { self.reshape(&format!("{tag}.rows"), table, vec![-1, (m * length) as i64]) }
    }

    /// The digits of every byte as indices into a codebook: one table a model.
    fn digits(&mut self, levels: usize) -> Ref {
        let name = digits_name(levels);
        let table = Tensor::new(DType::U8, vec![256, codes::codes_per_byte(levels)], codes::digits(levels).into());
        let table = self.constant(name.clone(), table.expect("m digits a byte"));
        let name = format!("{name}.index");
        if let Some(&made) = self.shared.get(&name) {
            return made;
        }
        let is_cast = |&v: &ValueId| {
            let producer = self.graph.producer(v).map(|p| p.0);
            producer.is_some_and(|n| self.graph.input(n, 0).map(Ref::Old) == Some(table))
        };
        let made = match self.graph.find_value(&name).filter(is_cast) {
            Some(v) => v.into(),
            None => self.node(&name, Cast::new(DType::I32), &[table]),
        };
        self.shared.insert(name, made);
        made
    }

    fn reshape(&mut self, name: &str, of: Ref, shape: Vec<i64>) -> Ref {
        let dims: Vec<_> = shape.iter().map(i64::to_string).collect();
        let target = self.constant(format!("shape.{}", dims.join("x")), Tensor::i64([shape.len()], &shape));
        self.node(name, Reshape::default(), &[of, target])
    }

    /// The first `len` along an axis.
    fn cut(&mut self, name: &str, of: Ref, axis: i64, len: usize) -> Ref {
        let len = len as i64;
        if self.graph.opset < 10 {
            let bounds = Bounds { starts: vec![0], ends: vec![len], axes: (axis > 0).then(|| vec![axis]) };
            return self.node(name, Slice { bounds: Some(bounds) }, &[of]);
        }
        let at = [0, len, axis].into_iter().take(if axis > 0 { 3 } else { 2 });
        let at = at.map(|at| self.constant(format!("at.{at}"), Tensor::i64([1], &[at])));
        let inputs: Vec<Ref> = std::iter::once(of).chain(at).collect();
        self.node(name, Slice::default(), &inputs)
    }

    fn node(&mut self, name: &str, op: impl Into<Op>, inputs: &[Ref]) -> Ref {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.patch.node_named(name, op, &inputs)
    }

    /// A constant that the model has once, whoever reads it.
    fn constant(&mut self, name: String, tensor: Tensor) -> Ref {
        if let Some(&made) = self.shared.get(&name) {
            return made;
        }
        let names = std::iter::once(name.clone()).chain((2..).map(|i| format!("{name}_{i}")));
        let mut taken = names.take_while(|n| !self.graph.is_free(n)).filter_map(|n| self.graph.find_value(&n));
        let made = match taken.find(|&v| self.graph.value(v).constant() == Some(&tensor)) {
            Some(v) => v.into(),
            None => self.patch.constant_named(name.clone(), tensor),
        };
        self.shared.insert(name, made);
        made
    }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&d| d as i64).collect()
}

/// Words that names of weights are full of, each with the letter that stands for it. In small models names are most of
/// what the encoding adds.
const WORDS: [(&str, &str); 12] = [
    ("attention", "a"),
    ("bias", "b"),
    ("conv", "c"),
    ("decoder", "d"),
    ("encoder", "e"),
    ("features", "f"),
    ("hidden", "h"),
    ("kernel", "k"),
    ("layer", "l"),
    ("module", "m"),
    ("output", "o"),
    ("weight", "w"),
];

/// What the names of a tensor's codes and codebooks begin with: `l1.0.c2.w` for `layer1.0.conv2.weight`, the name itself
/// where something begins so already.
fn tag(graph: &Graph, name: &str) -> String {
    let word = |word: &str| {
        let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let short = WORDS.iter().find(|w| w.0 == letters).map_or(letters, |w| w.1);
        format!("{short}{}", &word[letters.len()..])
    };
    let mut tag = String::new();
    for part in name.split_inclusive(|c: char| !c.is_alphanumeric()) {
        let own = part.trim_end_matches(|c: char| !c.is_alphanumeric());
        tag.push_str(&word(own));
        tag.push_str(&part[own.len()..]);
    }
    let tag = short(&tag);
    let free = ["codes", "0.codes"].iter().all(|part| graph.is_free(&format!("{tag}.{part}")));
    if free { tag } else { short(name) }
}
