//! Codes and codebooks of a tensor.

use crate::ir::{DType, Tensor};
use crate::math::codes::{self, Layout};
use crate::math::kmeans_1d;
use crate::math::sparsity::pruned;
use crate::passes::refit::PRUNED;
use rayon::prelude::*;

/// tract folds a constant of at most so many bytes.
const FOLDABLE: usize = 4 << 20;

/// How a tensor is cut into what has codebooks of its own.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Codebooks are for blocks along this axis.
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

/// A tensor as codes and codebooks.
pub struct Clustered {
    pub levels: usize,
    pub parts: Vec<CodedPart>,
}

/// Part of a tensor: some of its rows or, where one row is too large, a run of its weights.
pub struct CodedPart {
    pub shape: Vec<usize>,
    pub layout: Layout,
    /// [groups, levels], in the tensor's type.
    pub books: Tensor,
    /// One a weight, padded as the layout asks for.
    pub codes: Vec<u8>,
}

impl Clustered {
    /// Centroids take each weight as often as `weights` says. `None` for no weights, and for ones that are not finite.
    pub fn new(tensor: &Tensor, cut: Cut, levels: usize, groups: usize, weights: Option<&[f32]>) -> Option<Clustered> {
        let values = tensor.as_f32()?;
        let pin_zero = pruned(&values, tensor.shape(), PRUNED);
        let (mut rest, mut rest_weights) = (&*values, weights);
        let mut jobs = Vec::new();
        let layouts = layouts(tensor, cut, levels, groups)?;
        for (_, layout) in &layouts {
            let (here, after) = rest.split_at(layout.len);
            let (here_weights, after_weights) = rest_weights.map(|w| w.split_at(layout.len)).unzip();
            jobs.extend((0..layout.groups).map(|group| (here, here_weights, *layout, group)));
            (rest, rest_weights) = (after, after_weights);
        }
        let cluster = |&(values, weights, layout, group): &(&[f32], Option<&[f32]>, Layout, usize)| {
            let weights = weights.map(|w| layout.group(w, group));
            let found = kmeans_1d(&layout.group(values, group), weights.as_deref(), levels, pin_zero)?;
            Some((found.centroids, found.codes.into_iter().map(|c| c as u8).collect::<Vec<u8>>()))
        };
        let found: Vec<_> = jobs.par_iter().map(cluster).collect::<Option<_>>()?;
        let used = found.iter().map(|f| f.0.len()).max()?.max(2);
        if used < levels {
            return Clustered::new(tensor, cut, used, groups, weights);
        }
        let mut found = found.into_iter();
        let parts = layouts.into_iter().map(|(shape, layout)| {
            let (mut books, codes): (Vec<_>, Vec<_>) = found.by_ref().take(layout.groups).unzip();
            books.iter_mut().for_each(|b| b.resize(levels, 0.0));
            let books = Tensor::from_floats(tensor.dtype(), [layout.groups, levels], books.into_iter().flatten());
            CodedPart { shape, layout, books, codes: layout.join(&codes) }
        });
        Some(Clustered { levels, parts: parts.collect() })
    }

    /// Of a tensor with so many levels, all codes and centroids 0: as large as it would be.
    pub fn blank(tensor: &Tensor, cut: Cut, levels: usize, groups: usize) -> Option<Clustered> {
        let parts = layouts(tensor, cut, levels, groups)?.into_iter().map(|(shape, layout)| {
            let zeros = std::iter::repeat_n(0.0, layout.groups * levels);
            let books = Tensor::from_floats(tensor.dtype(), [layout.groups, levels], zeros);
            CodedPart { shape, layout, books, codes: vec![0; layout.padded()] }
        });
        Some(Clustered { levels, parts: parts.collect() })
    }

    /// Whether every row of a matrix has bytes of its own, and the same codebooks for the same of them.
    pub fn is_by_row(&self) -> bool {
        let [CodedPart { shape, layout, .. }] = &self.parts[..] else { return false };
        let (&[rows, columns], per_byte) = (&shape[..], codes::codes_per_byte(self.levels)) else { return false };
        let aligned = layout.groups == 1 || layout.groups * layout.run == columns;
        rows > 0 && aligned && columns.is_multiple_of(per_byte)
    }

    /// Bytes of codes and codebooks.
    pub fn bytes(&self) -> usize {
        let per_byte = codes::codes_per_byte(self.levels);
        self.parts.iter().map(|p| p.codes.len() / per_byte + p.books.byte_len()).sum()
    }

    /// The weights as they will be.
    pub fn weights(&self) -> impl Iterator<Item = f64> + '_ {
        let levels = self.levels;
        self.parts.iter().flat_map(move |p| {
            let (books, Layout { groups, run, len }) = (p.books.floats().unwrap_or_default(), p.layout);
            (0..len).map(move |i| books[i / run % groups * levels + p.codes[i] as usize])
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

    /// For every weight, where in [`Clustered::book`] its codebook begins.
    pub fn bases(&self) -> Vec<u32> {
        let mut base = 0;
        let mut out = Vec::new();
        for Layout { groups, run, len } in self.parts.iter().map(|p| p.layout) {
            out.extend((0..len).map(|i| (base + i / run % groups * self.levels) as u32));
            base += groups * self.levels;
        }
        out
    }

    /// Gives the codebooks other numbers, and the weights other codes.
    pub fn set(&mut self, book: &[f64], codes: &[u8], dtype: DType) {
        let (mut book, mut codes) = (book, codes);
        for part in &mut self.parts {
            let (mine, rest) = book.split_at(part.layout.groups * self.levels);
            part.books = Tensor::from_floats(dtype, [part.layout.groups, self.levels], mine.iter().copied());
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

/// The parts of a tensor: their shapes, and which codebook each weight of them uses.
pub fn layouts(tensor: &Tensor, cut: Cut, levels: usize, groups: usize) -> Option<Vec<(Vec<usize>, Layout)>> {
    let width = tensor.byte_len().checked_div(tensor.len())?;
    let per_byte = codes::codes_per_byte(levels);
    let layout = |shape: Vec<usize>| {
        let axis = cut.axis.min(shape.len() - 1);
        let around = [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()];
        let affordable = shape.iter().product::<usize>().div_ceil(per_byte) / (16 * levels * width);
        let layout = Layout::new(around, per_byte, groups.min(affordable));
        (shape, layout)
    };
    Some(parts(tensor.shape(), cut.limit / width.max(4)).into_iter().map(layout).collect())
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
