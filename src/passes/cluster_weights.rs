//! Clusters the weights of a layer into a few values and stores, for each weight, which of them it is.
//!
//! The values (`levels`, or `bits` for 2^bits of them) are optimal: exact k-means in one dimension. With `groups`, blocks
//! of output channels have codebooks of their own, which is what keeps accuracy at 4 bits and below; it is an upper bound,
//! lowered until a codebook costs at most 1/16 of its codes. Weights that are exactly zero in more than 1 % of the places
//! (a pruned layer) stay exactly zero.
//!
//! The file shrinks because weights become codes, several to a byte (2 at 7 to 16 levels, 3 at 5 and 6, 4 at 4, 5 at 3, 8
//! at 2), which standard operators turn into the weights again when a runtime loads the model: `digits` has the codes in
//! each byte, and so, with the codebook, the weights that each byte stands for. In memory and in speed nothing changes.
//! Large tensors are cut into parts of at most 2^20 weights, because tract folds no more at once. Cleaning the model
//! afterwards would undo it.
//!
//! Options: `levels` = 2 to 256 or `bits` = 1 to 8 (default 8); `groups` (default 16 up to 16 levels, 1 above);
//! `encode` = false rounds the weights and leaves them as they are; `min-weights` (default 512).
//!
//! ```text
//! # run = [{ pass = "cluster-weights", bits = 4, groups = 2 }]
//! model "tiny" opset 17 {
//!   input %x : f32[N,64]
//!   const %w : f32[64,64] = seed(1)
//!
//!   %y : f32[N,64] = Gemm<transB=1>(%x, %w)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "tiny" opset 17 {
//!   input %x : f32[N,64]
//!   const %w.codes : u8[2,1024]
//!   const %offsets.2x256 : i32[2,1] = {0,256}
//!   const %w.books : f32[2,16]
//!   const %digits16 : u8[256,2]
//!   const %shape.-1x2 : i64[2] = {-1,2}
//!   const %shape.64x64 : i64[2] = {64,64}
//!
//!   %w.index : i32[2,1024] = Cast<to=6>(%w.codes)
//!   %w.row : i32[2,1024] = Add(%w.index, %offsets.2x256)
//!   %digits16.index : i32[256,2] = Cast<to=6>(%digits16)
//!   %w.table : f32[2,256,2] = Gather<axis=1>(%w.books, %digits16.index)
//!   %w.rows : f32[512,2] = Reshape(%w.table, %shape.-1x2)
//!   %w.decoded : f32[2,1024,2] = Gather(%w.rows, %w.row)
//!   %w : f32[64,64] = Reshape(%w.decoded, %shape.64x64) @w.weights
//!   %y : f32[N,64] = Gemm<transB=1>(%x, %w)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::{DType, Graph, NodeId, Op, Patch, Tensor, Use};
use crate::math::codes::{self, Layout};
use crate::math::kmeans_1d;
use crate::passes::options::Selection;
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict, refit};
use decoder::Decoder;
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::HashSet;

mod decoder;
mod fitted;

/// tract folds a constant of at most so many bytes.
const FOLDABLE: usize = 4 << 20;
/// Bytes that the nodes which decode a tensor take, about.
const NODES: usize = 256;

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Options")]
pub struct ClusterWeights {
    levels: usize,
    groups: usize,
    encode: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    levels: Option<usize>,
    bits: Option<usize>,
    groups: Option<usize>,
    encode: Option<bool>,
}

impl TryFrom<Options> for ClusterWeights {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        let levels = match (o.levels, o.bits) {
            (Some(_), Some(_)) => return Err("give `levels` or `bits`, not both".into()),
            (Some(levels), None) if !(2..=256).contains(&levels) => return Err("`levels` must be 2 to 256".into()),
            (None, Some(bits)) if !(1..=8).contains(&bits) => return Err("`bits` must be 1 to 8".into()),
            (Some(levels), None) => levels,
            (None, bits) => 1 << bits.unwrap_or(8),
        };
        let groups = o.groups.unwrap_or(if levels > 16 { 1 } else { 16 });
        if groups == 0 {
            return Err("`groups` must be at least 1".into());
        }
        Ok(ClusterWeights { levels, groups, encode: o.encode.unwrap_or(true) })
    }
}

impl Pass for ClusterWeights {
    fn name(&self) -> &'static str {
        "cluster-weights"
    }

    fn phase(&self) -> Phase {
        Phase::Encode
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { min_weights: 512, ..Selection::default() }
    }

    fn pays_compressed(&self) -> bool {
        true
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let mut seen = HashSet::new();
        let nodes = g.topological().unwrap_or_default().into_iter();
        let weights = nodes.flat_map(|n| g.node_inputs(n).into_iter().enumerate().map(move |(slot, v)| (n, slot, v)));
        let weights = weights.filter_map(|(n, slot, v)| output_axis(g, n, slot).and(v));
        weights.filter(|&v| g.value(v).constant().is_some() && seen.insert(v)).map(Site::Value).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let (g, Site::Value(v)) = (cx.graph, site) else { return Verdict::skip("it is not a value") };
        let Some(tensor) = g.value(v).constant() else { return Verdict::skip("it is not constant") };
        if !tensor.dtype().is_float() {
            return Verdict::skip(format!("its type is {}, which is no float", tensor.dtype()));
        }
        if tensor.is_empty() {
            return Verdict::skip("it has no weights");
        }
        if g.is_held(v) {
            return Verdict::skip("it is an output of the model, or named outside the graph");
        }
        let mut axes = Vec::new();
        for u in g.uses(v) {
            match u {
                Use::Input(n, slot) if g.node(n).op != Op::Opaque => axes.extend(output_axis(g, n, slot)),
                _ => {
                    return Verdict::skip(format!(
                        "{} \"{}\" reads it too",
                        g.node(u.node()).kind(),
                        g.label(u.node())
                    ));
                }
            }
        }
        let axis = axes.first().copied().unwrap_or(0);
        let new =
            |tensor: &Tensor, weights: Option<&[f32]>| Clustered::new(tensor, axis, self.levels, self.groups, weights);
        let Some(mut clustered) = new(tensor, None) else {
            return Verdict::skip("it holds numbers that are not finite");
        };
        if clustered.bytes() + NODES >= tensor.byte_len() {
            return Verdict::skip("codes and codebooks would take no fewer bytes");
        }
        let mut patch = Patch::at_value(g, v);
        let mut note = String::new();
        if let Some(fitted) = cx.fitted.filter(|f| f.linear.weight == v) {
            let (found, bias, how) =
                match fitted::cluster(g, &fitted, tensor, clustered, |t, weights| new(t, Some(weights))) {
                    Ok(found) => found,
                    Err(why) => return Verdict::skip(why),
                };
            if let Some(Err(why)) = bias.map(|b| refit::set_bias(g, &mut patch, fitted.linear, &b)) {
                return Verdict::skip(why);
            }
            clustered = found;
            note = format!(", {how}");
        }
        if self.encode {
            let w = Decoder::new(g, &mut patch, &g.value(v).name).tensor(&clustered, tensor.shape());
            patch.replace(v, w);
        } else {
            patch.set_constant(v, clustered.tensor(tensor));
        }
        Ok(Verdict::Patch(patch, self.describe(&clustered, tensor) + &note))
    }
}

impl ClusterWeights {
    fn describe(&self, clustered: &Clustered, tensor: &Tensor) -> String {
        let mut notes = vec![format!("{} levels", clustered.levels)];
        let same_cost = codes::levels_at_same_cost(clustered.levels);
        if clustered.levels < self.levels {
            notes.push("no more distinct values".into());
        } else if same_cost > clustered.levels {
            notes.push(format!("{same_cost} would cost the same"));
        }
        let parts = clustered.parts.len();
        if parts > 1 {
            notes.push(format!("{parts} parts"));
        }
        let groups: usize = clustered.parts.iter().map(|p| p.layout.groups).sum();
        let codebooks = if groups == 1 { "1 codebook".into() } else { format!("{groups} codebooks") };
        let lowered = groups < self.groups.saturating_mul(parts);
        notes.push(if lowered { format!("{codebooks} (`groups` lowered)") } else { codebooks });
        let bits = 8.0 * clustered.bytes() as f64 / tensor.len() as f64;
        notes.push(format!("{bits:.2} bits a weight"));
        notes.push(format!("relative squared error {:.1e}", clustered.error(tensor)));
        notes.join(", ")
    }
}

/// The axis that counts the outputs of the node, if the input at that slot is weights of the kind we cluster.
fn output_axis(g: &Graph, n: NodeId, slot: usize) -> Option<usize> {
    let rank = g.value(g.input(n, slot)?).rank()?;
    match (&g.node(n).op, slot) {
        (Op::Conv(_), 1) => Some(0),
        (Op::ConvTranspose(_), 1) => Some(1),
        (Op::Gemm(gemm), 0) => Some(gemm.trans_a.into()),
        (Op::Gemm(gemm), 1) => Some((!gemm.trans_b).into()),
        (Op::MatMul(_), 0) => Some(rank.saturating_sub(2)),
        (Op::MatMul(_), 1) => rank.checked_sub(1),
        (Op::Rnn(_), 1 | 2) => Some(1),
        (Op::Gather(_), 0) if is_lookup(g, n) => Some(0),
        _ => None,
    }
}

/// Whether a Gather looks up rows of a float table by indices from run time: those of an encoded weight are constant.
fn is_lookup(g: &Graph, n: NodeId) -> bool {
    let float = g.input_constant(n, 0).is_some_and(|t| t.dtype().is_float());
    let mut index = g.input(n, 1);
    while let Some((producer, _)) = index.and_then(|v| g.producer(v)) {
        index = g.input(producer, 0);
    }
    float && index.is_some_and(|v| g.value(v).constant().is_none())
}

/// A tensor as codes and codebooks.
struct Clustered {
    levels: usize,
    parts: Vec<Part>,
}

/// Part of a tensor: some of its rows or, where one row is too large, a run of its weights.
struct Part {
    shape: Vec<usize>,
    layout: Layout,
    /// [groups, levels], in the tensor's type.
    books: Tensor,
    /// One a weight, padded as the layout asks for.
    codes: Vec<u8>,
}

impl Clustered {
    /// Centroids take each weight as often as `weights` says. `None` for no weights, and for ones that are not finite.
    fn new(tensor: &Tensor, axis: usize, levels: usize, groups: usize, weights: Option<&[f32]>) -> Option<Clustered> {
        let values = tensor.as_f32()?;
        let width = tensor.byte_len().checked_div(tensor.len())?;
        let pin_zero = values.iter().filter(|&&w| w == 0.0).count() > values.len() / 100;
        let per_byte = codes::codes_per_byte(levels);
        let (mut rest, mut rest_weights) = (&*values, weights);
        let mut jobs = Vec::new();
        let mut layouts = Vec::new();
        for shape in parts(tensor.shape(), FOLDABLE / width.max(4)) {
            let len: usize = shape.iter().product();
            let axis = axis.min(shape.len() - 1);
            let around = [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()];
            let affordable = len.div_ceil(per_byte) / (16 * levels * width);
            let layout = Layout::new(around, per_byte, groups.min(affordable));
            let (here, after) = rest.split_at(len);
            let (here_weights, after_weights) = rest_weights.map(|w| w.split_at(len)).unzip();
            jobs.extend((0..layout.groups).map(|group| (here, here_weights, layout, group)));
            layouts.push((shape, layout));
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
            return Clustered::new(tensor, axis, used, groups, weights);
        }
        let mut found = found.into_iter();
        let parts = layouts.into_iter().map(|(shape, layout)| {
            let (mut books, codes): (Vec<_>, Vec<_>) = found.by_ref().take(layout.groups).unzip();
            books.iter_mut().for_each(|b| b.resize(levels, 0.0));
            let books = Tensor::from_floats(tensor.dtype(), [layout.groups, levels], books.into_iter().flatten());
            Part { shape, layout, books, codes: layout.join(&codes) }
        });
        Some(Clustered { levels, parts: parts.collect() })
    }

    /// Bytes of codes and codebooks.
    fn bytes(&self) -> usize {
        let per_byte = codes::codes_per_byte(self.levels);
        self.parts.iter().map(|p| p.codes.len() / per_byte + p.books.byte_len()).sum()
    }

    /// The weights as they will be.
    fn weights(&self) -> impl Iterator<Item = f64> + '_ {
        let levels = self.levels;
        self.parts.iter().flat_map(move |p| {
            let (books, Layout { groups, run, len }) = (p.books.floats().unwrap_or_default(), p.layout);
            (0..len).map(move |i| books[i / run % groups * levels + p.codes[i] as usize])
        })
    }

    /// The tensor as it will be.
    fn tensor(&self, like: &Tensor) -> Tensor {
        Tensor::from_floats(like.dtype(), like.shape(), self.weights())
    }

    /// All codebooks, one after the other.
    fn book(&self) -> Vec<f64> {
        self.parts.iter().flat_map(|p| p.books.floats().unwrap_or_default()).collect()
    }

    /// For every weight, where in [`Clustered::book`] its codebook begins.
    fn bases(&self) -> Vec<u32> {
        let mut base = 0;
        let mut out = Vec::new();
        for Layout { groups, run, len } in self.parts.iter().map(|p| p.layout) {
            out.extend((0..len).map(|i| (base + i / run % groups * self.levels) as u32));
            base += groups * self.levels;
        }
        out
    }

    /// Gives the codebooks other numbers, and the weights other codes.
    fn set(&mut self, book: &[f64], codes: &[u8], dtype: DType) {
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
    fn error(&self, tensor: &Tensor) -> f64 {
        let values = tensor.as_f32().unwrap_or_default();
        let (mut error, mut all) = (0.0, 0.0);
        for (&w, rounded) in values.iter().zip(self.weights()) {
            error += (f64::from(w) - rounded).powi(2);
            all += f64::from(w).powi(2);
        }
        if all > 0.0 { error / all } else { 0.0 }
    }
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
