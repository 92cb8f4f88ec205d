//! Codes and codebooks of a tensor.

use crate::ir::{DType, Tensor};
use crate::math::codes::{self, Layout};
use crate::math::kmeans_1d;
use crate::math::sparsity::pruned;
use crate::math::vectors::{self, CodebookRows};
use crate::passes::refit::PRUNED;
use rayon::prelude::*;

/// tract folds a constant of at most so many bytes.
const FOLDABLE: usize = 4 << 20;

/// Codebooks of numbers up to the first, that are of the size of the second in the mean or larger, may be of half precision.
const MOST_HALF: f64 = 6e4;
const LEAST_HALF: f64 = 1e-3;

/// How a tensor is cut into what has codebooks of its own.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Codebooks are for blocks along this axis, and vectors lie along it.
    pub axis: usize,
    /// The most bytes of a part.
    pub limit: usize,
}

impl Cut {
    /// Into parts that are folded.
    pub fn along(axis: usize) -> Cut {
        Cut { axis, limit: FOLDABLE }
    }
}

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// Rows of a codebook.
    pub levels: usize,
    /// Numbers of a row: as many neighbours along the axis have one code.
    pub length: usize,
    /// Codebooks, at most.
    pub groups: usize,
}

/// A tensor as codes and codebooks.
pub struct Clustered {
    pub levels: usize,
    /// Numbers of a row of a codebook.
    pub length: usize,
    pub parts: Vec<CodedPart>,
}

/// Part of a tensor: some of its rows or, where one row is too large, a run of its weights.
pub struct CodedPart {
    pub shape: Vec<usize>,
    pub vectors: VectorLayout,
    /// Which codebook each vector uses.
    pub layout: Layout,
    /// [groups, levels · length].
    pub books: Tensor,
    /// One a vector, padded as the layout asks for.
    pub codes: Vec<u8>,
}

/// How vectors lie in a tensor: along an axis, the last one of a line perhaps beyond its end.
#[derive(Debug, Clone, Copy)]
pub struct VectorLayout {
    /// Elements before, along and behind the axis.
    pub around: [usize; 3],
    pub length: usize,
}

impl VectorLayout {
    /// Vectors before, along and behind the axis.
    pub fn counts(&self) -> [usize; 3] {
        let [outer, dim, inner] = self.around;
        [outer, dim.div_ceil(self.length), inner]
    }

    /// Elements of the tensor.
    fn len(&self) -> usize {
        self.around.iter().product()
    }

    /// Which vector an element is in, and its place there.
    fn place(&self, element: usize) -> (usize, usize) {
        if self.length == 1 {
            return (element, 0);
        }
        let ([_, dim, inner], [_, count, _]) = (self.around, self.counts());
        let (before, along, behind) = (element / inner / dim, element / inner % dim, element % inner);
        ((before * count + along / self.length) * inner + behind, along % self.length)
    }

    /// The numbers of all vectors, one vector after the other; 0 beyond the end of a line.
    fn gather(&self, elements: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.counts().iter().product::<usize>() * self.length];
        for (element, &v) in elements.iter().enumerate() {
            let (vector, place) = self.place(element);
            out[vector * self.length + place] = v;
        }
        out
    }
}

/// The numbers of a part and what each weighs, vector after vector.
struct WeightedValues {
    values: Vec<f32>,
    weights: Option<Vec<f32>>,
    layout: Layout,
}

impl Clustered {
    /// Centroids take each weight as often as `weights` says. `None` for no weights, and for ones that are not finite.
    pub fn new(tensor: &Tensor, cut: Cut, coding: Coding, weights: Option<&[f32]>) -> Option<Clustered> {
        let Coding { levels, length, .. } = coding;
        let values = tensor.as_f32()?;
        let pin_zero = pruned(&values, tensor.shape(), PRUNED);
        let mut clustered = Clustered::blank(tensor, cut, coding)?;
        let (mut rest, mut rest_weights) = (&*values, weights);
        let mut parts = Vec::new();
        for part in &clustered.parts {
            let (here, after) = rest.split_at(part.vectors.len());
            let (here_weights, after_weights) = rest_weights.map(|w| w.split_at(here.len())).unzip();
            let gathered = |of: &[f32]| part.vectors.gather(of);
            parts.push(WeightedValues {
                values: gathered(here),
                weights: here_weights.map(gathered),
                layout: part.layout,
            });
            (rest, rest_weights) = (after, after_weights);
        }
        let jobs: Vec<_> = parts.iter().flat_map(|p| (0..p.layout.groups).map(move |group| (p, group))).collect();
        let cluster = |&(WeightedValues { values, weights, layout }, group): &(&WeightedValues, usize)| {
            let numbers = |of: &[f32]| -> Vec<f32> {
                let runs = of.chunks((layout.run * length).max(1));
                runs.skip(group).step_by(layout.groups.max(1)).flatten().copied().collect()
            };
            let (values, weights) = (numbers(values), weights.as_deref().map(numbers));
            if length == 1 {
                let found = kmeans_1d(&values, weights.as_deref(), levels, pin_zero)?;
                return Some((found.centroids, found.codes.into_iter().map(|c| c as u8).collect()));
            }
            let of_vector = |w: &[f32]| w.iter().sum::<f32>() / length as f32;
            let weights: Option<Vec<f32>> = weights.map(|w| w.chunks(length).map(of_vector).collect());
            let rows = vectors::kmeans(&values, weights.as_deref(), length, levels)?;
            let codes: Vec<u8> = CodebookRows::new(&rows, rows.len() / length).codes(&values, length);
            Some((rows.into_iter().map(f64::from).collect::<Vec<f64>>(), codes))
        };
        let found: Vec<_> = jobs.par_iter().map(cluster).collect::<Option<_>>()?;
        let used = found.iter().map(|f| f.0.len() / length).max()?.max(2);
        if used < levels {
            return Clustered::new(tensor, cut, Coding { levels: used, ..coding }, weights);
        }
        let mut found = found.into_iter();
        for part in &mut clustered.parts {
            let (mut books, codes): (Vec<_>, Vec<_>) = found.by_ref().take(part.layout.groups).unzip();
            books.iter_mut().for_each(|b| b.resize(levels * length, 0.0));
            part.books = Tensor::from_floats(part.books.dtype(), part.books.shape(), books.into_iter().flatten());
            part.codes = part.layout.join(&codes);
        }
        Some(clustered)
    }

    /// Of a tensor with so many levels, all codes and centroids 0: as large as it would be.
    pub fn blank(tensor: &Tensor, cut: Cut, coding: Coding) -> Option<Clustered> {
        let Coding { levels, length, groups } = coding;
        let width = tensor.byte_len().checked_div(tensor.len())?;
        let dtype = book_type(tensor, length);
        let (per_byte, a_book) = (codes::codes_per_byte(levels), levels * length * dtype.bytes()?);
        let part = |shape: Vec<usize>| {
            let axis = cut.axis.min(shape.len() - 1);
            let around = [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()];
            let vectors = VectorLayout { around, length };
            let counts = vectors.counts();
            let affordable = counts.iter().product::<usize>().div_ceil(per_byte) / (16 * a_book);
            let layout = Layout::new(counts, per_byte, groups.min(affordable));
            let zeros = std::iter::repeat_n(0.0, layout.groups * levels * length);
            let books = Tensor::from_floats(dtype, [layout.groups, levels * length], zeros);
            CodedPart { shape, vectors, layout, books, codes: vec![0; layout.padded()] }
        };
        let parts = parts(tensor.shape(), cut.limit / width.max(4)).into_iter().map(part).collect();
        Some(Clustered { levels, length, parts })
    }

    /// Whether every row of a matrix has bytes of its own, and the same codebooks for the same of them.
    pub fn is_by_row(&self) -> bool {
        let [CodedPart { shape, vectors, layout, .. }] = &self.parts[..] else { return false };
        let (&[rows, columns], per_byte) = (&shape[..], codes::codes_per_byte(self.levels)) else { return false };
        let of_a_row = columns / self.length;
        let aligned = layout.groups == 1 || layout.groups * layout.run == of_a_row;
        let whole = vectors.around[2] == 1 && columns.is_multiple_of(self.length);
        rows > 0 && aligned && whole && of_a_row.is_multiple_of(per_byte)
    }

    /// Bytes of codes and codebooks.
    pub fn bytes(&self) -> usize {
        let per_byte = codes::codes_per_byte(self.levels);
        self.parts.iter().map(|p| p.codes.len() / per_byte + p.books.byte_len()).sum()
    }

    /// The weights as they will be.
    pub fn weights(&self) -> impl Iterator<Item = f64> + '_ {
        self.parts.iter().flat_map(move |p| {
            let (books, Layout { groups, run, .. }) = (p.books.floats().unwrap_or_default(), p.layout);
            (0..p.vectors.len()).map(move |i| {
                let (vector, place) = p.vectors.place(i);
                books[(vector / run % groups * self.levels + p.codes[vector] as usize) * self.length + place]
            })
        })
    }

    /// The tensor as it will be.
    pub fn tensor(&self, like: &Tensor) -> Tensor {
        Tensor::from_floats(like.dtype(), like.shape(), self.weights())
    }

    /// All codebooks, one after the other.
    pub fn book(&self) -> Vec<f64> {
        self.parts.iter().flat_map(|p| p.books.floats().unwrap_or_default()).collect()
    }

    /// For every weight, which code it has, and where in [`Clustered::book`] the number is that code 0 gives it.
    pub fn places(&self) -> (Vec<u32>, Vec<u32>) {
        let (mut first, mut base) = (0, 0);
        let (mut codes, mut bases) = (Vec::new(), Vec::new());
        for CodedPart { vectors, layout: Layout { groups, run, len }, .. } in &self.parts {
            for i in 0..vectors.len() {
                let (vector, place) = vectors.place(i);
                codes.push((first + vector) as u32);
                bases.push((base + vector / run % groups * self.levels * self.length + place) as u32);
            }
            first += len;
            base += groups * self.levels * self.length;
        }
        (codes, bases)
    }

    /// Gives the codebooks other numbers, and the vectors other codes.
    pub fn set(&mut self, book: &[f64], codes: &[u8]) {
        let (mut book, mut codes) = (book, codes);
        for part in &mut self.parts {
            let (mine, rest) = book.split_at(part.books.len());
            part.books = Tensor::from_floats(part.books.dtype(), part.books.shape(), mine.iter().copied());
            let (own, after) = codes.split_at(part.layout.len);
            part.codes[..own.len()].copy_from_slice(own);
            (book, codes) = (rest, after);
        }
    }

    /// Σ (w − w')² / Σ w².
    pub fn error(&self, tensor: &Tensor) -> f64 {
        let values = tensor.as_f32().unwrap_or_default();
        let (mut error, mut all) = (0.0, 0.0);
        for (&w, rounded) in values.iter().zip(self.weights()) {
            error += (f64::from(w) - rounded).powi(2);
            all += f64::from(w).powi(2);
        }
        if all > 0.0 { error / all } else { 0.0 }
    }
}

/// The type of a tensor's codebooks: vectors in half precision, where that loses next to nothing.
fn book_type(tensor: &Tensor, length: usize) -> DType {
    let squares = || tensor.iter_floats().into_iter().flatten().map(|v| v * v);
    let rounds_well = || squares().sum::<f64>() >= squares().count() as f64 * LEAST_HALF * LEAST_HALF;
    let half = length > 1 && tensor.dtype() == DType::F32 && squares().all(|s| s <= MOST_HALF * MOST_HALF);
    if half && rounds_well() { DType::F16 } else { tensor.dtype() }
}

/// Shapes of the parts, of at most `limit` weights each, whose rows one after the other make up the tensor; of vectors,
/// where a row is larger than that.
fn parts(shape: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let len: usize = shape.iter().product();
    let (rows, rest) = shape.split_first().map_or((1, shape), |(&rows, rest)| (rows, rest));
    let row: usize = rest.iter().product();
    let (rows, rest) = if row > limit { (len, &[][..]) } else { (rows, rest) };
    let most = limit / rest.iter().product::<usize>().max(1);
    let size = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
    let starts = (0..rows).step_by(size);
    starts.map(|at| [&[size.min(rows - at)], rest].concat()).collect()
}
