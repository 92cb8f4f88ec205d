//! Clusters the weights of a layer into a few values and stores, for each weight, which of them it is.
//!
//! The values (`levels`, or `bits` for 2^bits of them) are optimal: exact k-means in one dimension. With `groups`, blocks
//! of output channels have codebooks of their own, which is what keeps accuracy at 4 bits and below; it is an upper bound,
//! lowered until a codebook costs at most 1/16 of its codes. Weights that are exactly zero in more than 1 % of the places,
//! and far more often than any other number (a pruned layer), stay exactly zero.
//!
//! The file shrinks because weights become codes, several to a byte (2 at 7 to 16 levels, 3 at 5 and 6, 4 at 4, 5 at 3, 8
//! at 2), which standard operators turn into the weights again when a runtime loads the model: `digits` has the codes in
//! each byte, and so, with the codebook, the weights that each byte stands for. In memory and in speed nothing changes.
//! With `vector` = 2 to 16 a code stands for as many neighbouring outputs of one input, a row of a learned table: at 256 rows
//! 8 / `vector` bits a weight. At as many bits a layer's output is off by less than with single weights: a fifth less, or half. Tables
//! are stored in half precision. A weight of fewer than eight times as many numbers as the table has, or more than a tenth of
//! which is zero, has codes for single weights, of 16 levels. `bits` = 4, 2 or 1, without
//! `groups`, takes vectors of 2, 4 or 8 for large weights, and `size` where they pay; not for layers that give the model's
//! outputs, of which one may matter more than all its neighbours.
//!
//! Large tensors are cut into parts of at most 2^20 weights, because tract folds no more at once. Cleaning the model
//! afterwards would undo it.
//!
//! A table that Gather looks up rows of is decoded row by row as they are looked up, with codebooks for blocks of columns:
//! what no index names is never decoded. Weights outside of `If`, `Loop` and `Scan` that their bodies read are encoded too.
//! Weights behind a Cast or a DequantizeLinear (8-bit integers) are encoded as what they stand for.
//!
//! With `size` = "12%" each weight gets the levels (2, 3, 4, 6, 16, 256, or none: the numbers just below which a byte holds
//! one code more), or the vectors (of 2, 3, 4, 6 or 8), that keep that share of the bytes of all constants at the least
//! predicted loss: of its output's variance, where calibration data tells, else of its own square; no layer loses more than
//! `max-loss` of that.
//!
//! Options: `levels` = 2 to 256 or `bits` = 1 to 8 (default 8) or `size`; `vector` (1 for `levels`); `groups` (default 16 up to 16
//! levels, 1 above, and for vectors); `encode` = false rounds the weights and leaves them as they are; `min-weights` (default
//! 512). `levels`, `bits` and `vector` are one number for all weights or, as `bits = { "conv*" = 4, "fc.weight" = 2 }`, a
//! table by layer or weight (`tutee explain tables`).
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

use crate::analysis::bytes;
use crate::analysis::ending;
use crate::analysis::likely;
use crate::analysis::linear::Linear;
use crate::analysis::readers;
use crate::error::Result;
use crate::ir::op::Role;
use crate::ir::{Graph, NodeId, Op, Patch, Tensor, ValueId};
use crate::math::codes;
use crate::math::sparsity::pruned;
use crate::passes::budget::{self, Budget, Reach};
use crate::passes::by_layer::ByLayer;
use crate::passes::options::{OptionsError, Selection, Share, not_zero, one_of};
use crate::passes::{
    Choice, Context, Fidelity, Offers, Pass, Phase, Reason, SensitivityQuery, Site, Verdict, Why, refit,
};
use clustered::{Clustered, Coding, Cut};
use decoder::{Decoder, digits_name};
use serde::Deserialize;

mod clustered;
mod decoder;
mod fitted;
mod sizes;

/// Bytes that the nodes which decode a tensor take, about, with their names.
const NODES: usize = 512;

/// The most levels, and the largest share of bytes, that few networks survive without data.
const STRONG: usize = 16;
const STRONG_SIZE: f64 = 0.15;

/// The most numbers that a code stands for, how many times as many weights as numbers in a table it pays for, and the share of
/// zeros from which they count as pruned: vectors do not keep zeros.
const MOST_NUMBERS: usize = 16;
const TABLES: usize = 8;
const ZEROS: f64 = 0.1;

const NO_FEWER: &str = "codes and codebooks would take no fewer bytes";

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Options")]
pub struct ClusterWeights {
    /// How many values a codebook has, with the option that says it; `None` as long as `size` has not decided it.
    levels: Option<(&'static str, ByLayer<usize>)>,
    /// Numbers that a code stands for; one where a table does not name a weight. Without, `bits` has vectors where they pay.
    vector: Option<ByLayer<usize>>,
    /// The share of the bytes to keep.
    size: Option<Share>,
    groups: Option<usize>,
    encode: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    levels: Option<ByLayer<usize>>,
    bits: Option<ByLayer<usize>>,
    vector: Option<ByLayer<usize>>,
    size: Option<Share>,
    groups: Option<usize>,
    encode: Option<bool>,
}

impl TryFrom<Options> for ClusterWeights {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        let allowed = |given: &Option<ByLayer<usize>>, range: std::ops::RangeInclusive<usize>, what: &str| {
            let fits = given.iter().flat_map(ByLayer::values).all(|n| range.contains(n));
            if fits { Ok(()) } else { Err(format!("{what} must be {} to {}", range.start(), range.end())) }
        };
        allowed(&o.levels, 2..=256, "`levels`")?;
        allowed(&o.bits, 1..=8, "`bits`")?;
        allowed(&o.vector, 1..=MOST_NUMBERS, "`vector`")?;
        not_zero([("size", o.size)])?;
        if o.groups == Some(0) {
            return Err("`groups` must be at least 1".into());
        }
        let bits = o.bits.map(|bits| bits.map(|b| 1 << b));
        let is_table = o.levels.iter().chain(&bits).any(ByLayer::is_table);
        let given = [("levels", o.levels), ("bits", bits)].map(|(key, n)| (key, n.map(|n| (key, Some(n)))));
        let size = ("size", o.size.filter(|_| !is_table).map(|_| ("size", None)));
        let (key, levels) = one_of(given.into_iter().chain([size]))?.unwrap_or(("levels", Some(ByLayer::All(256))));
        let levels = levels.map(|levels| (key, levels));
        if levels.is_none() && o.vector.is_some() {
            return Err("`vector` goes with `levels` or `bits`: `size` finds out itself where vectors lose less".into());
        }
        Ok(ClusterWeights {
            levels,
            vector: o.vector,
            size: o.size,
            groups: o.groups,
            encode: o.encode.unwrap_or(true),
        })
    }
}

impl Pass for ClusterWeights {
    fn name(&self) -> &'static str {
        "cluster-weights"
    }

    fn advice(&self) -> Option<String> {
        let (Some(("bits", ByLayer::All(levels))), None) = (&self.levels, &self.vector) else { return None };
        let levels = *levels;
        let (codes, most) = (codes::codes_per_byte(levels), codes::levels_at_same_cost(levels));
        let fewer = (2..levels).rev().find(|&k| codes::codes_per_byte(k) > codes).filter(|_| most > levels)?;
        Some(format!(
            "{levels} levels take as many bytes as {most}, {codes} codes to a byte; `levels={fewer}` packs {}, and saves",
            codes::codes_per_byte(fewer)
        ))
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

    fn is_strong(&self) -> bool {
        match &self.levels {
            Some((_, levels)) => {
                let vectors = self.vector.iter().flat_map(ByLayer::values).any(|&length| length > 1);
                vectors || levels.values().any(|&levels| levels <= STRONG)
            }
            None => self.size.is_some_and(|size| size.0 <= STRONG_SIZE),
        }
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        let names: Vec<String> = readers::constants(graph).into_iter().map(|v| graph.value(v).name.clone()).collect();
        self.vector.as_ref().map_or(Ok(()), |vector| vector.fits(graph, "vector", &names))?;
        self.levels.as_ref().map_or(Ok(()), |(key, levels)| levels.fits(graph, key, &names))
    }

    /// Weights that are rounded and not encoded take as many bytes as before.
    fn budget(&self) -> Option<Budget> {
        self.size.filter(|_| self.encode).map(Budget::Size)
    }

    fn undecided(&self) -> Option<Budget> {
        self.size.filter(|_| self.levels.is_none()).map(Budget::Size)
    }

    fn decided(&self, chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        let codings = chosen.iter().filter_map(|(name, choice)| match *choice {
            Choice::Levels(levels) => Some((name, levels, 1)),
            Choice::Vectors { levels, length } => Some((name, levels, length)),
            _ => None,
        });
        let vectors = codings.clone().filter(|c| c.2 > 1).map(|(name, _, length)| (name.clone(), length));
        let vector = Some(ByLayer::filled(vectors, budget::WHOLE));
        let levels = codings.map(|(name, levels, _)| (name.clone(), levels));
        let levels = Some(("levels", ByLayer::filled(levels, budget::WHOLE)));
        Some(Box::new(ClusterWeights { levels, vector, ..self.clone() }))
    }

    /// Rounded weights save nothing: there is no least.
    fn reach(&self, cx: &Context<'_>) -> Option<Reach> {
        let budget = self.undecided().filter(|_| self.encode)?;
        let sites = self.sites(cx);
        budget::reach(cx, budget, &sites, &self.offers(cx, &sites))
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        vec![sizes::query(self, cx)]
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let at = |site: &Site| match site {
            Site::Codes(value) => sizes::offers(self, cx, *value),
            _ => Err("it is no weight".into()),
        };
        sites.iter().map(at).collect()
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        let Site::Codes(value) = site else { return Some("it is no weight".into()) };
        match open(cx.graph, *value) {
            Ok(open) => self.coding(cx.graph, site, &open).err(),
            Err(why) => Some(why.into()),
        }
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        readers::constants(cx.graph).into_iter().map(Site::Codes).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let (g, Site::Codes(v)) = (cx.graph, &site) else { return Verdict::skip("it is no weight") };
        let v = *v;
        let open = match open(g, v) {
            Ok(open) => open,
            Err(why) => return Verdict::skip(why),
        };
        let (coding, instead) = match self.coding(g, &site, &open) {
            Ok(found) => found,
            Err(why) => return Verdict::skip(why),
        };
        let tensor = open.tensor;
        let by_row = open.cut(coding, self.encode);
        let whole = Cut::along(open.axis);
        let cluster = |cut: Cut| Clustered::new(tensor, cut, coding, None);
        let found = cluster(by_row.unwrap_or(whole));
        // Of fewer values than asked for a byte may hold codes of two rows.
        let by_row = by_row.filter(|_| found.as_ref().is_some_and(Clustered::is_by_row));
        let found = if by_row.is_some() || open.lookups.is_empty() { found } else { cluster(whole) };
        let Some(mut clustered) = found else { return Verdict::skip("it holds numbers that are not finite") };
        let cut = by_row.unwrap_or(whole);
        let new = |t: &Tensor, weights: &[f32]| Clustered::new(t, cut, coding, Some(weights));
        let saves = |c: &Clustered| c.bytes() + digits(g, c.levels) + NODES < g.value(v).stored_len();
        if !saves(&clustered) {
            return Verdict::skip(Reason::new(Why::NoGain, NO_FEWER));
        }
        let mut patch = Patch::at_value(g, v);
        let mut note = None;
        if let Some(fitted) = cx.fitted.filter(|f| f.linear.weight == v) {
            let (found, bias, how) = match fitted::cluster(g, &fitted, tensor, clustered, new) {
                Ok(found) => found,
                Err(why) => return Verdict::skip(why),
            };
            if let Some(Err(why)) = bias.map(|b| refit::set_bias(g, &mut patch, fitted.linear, &b)) {
                return Verdict::skip(why);
            }
            if !saves(&found) {
                return Verdict::skip(Reason::new(Why::NoGain, NO_FEWER));
            }
            clustered = found;
            note = Some(format!(", {how}"));
        }
        let rounded = clustered.tensor(tensor);
        let note = note.unwrap_or_else(|| likely::said(g, v, &rounded));
        if self.encode {
            let mut decoder = Decoder::new(g, &mut patch, &g.value(v).name, tensor.dtype());
            let decoded = match by_row {
                Some(_) => decoder.rows(&clustered, &open.lookups),
                None => vec![(v, decoder.tensor(&clustered, tensor.shape()))],
            };
            if bytes::added(g, &patch) >= bytes::stored(g, v) {
                return Verdict::skip(Reason::new(Why::NoGain, NO_FEWER));
            }
            decoded.into_iter().for_each(|(old, new)| patch.replace(old, new));
        } else {
            patch.set_constant(v, rounded);
        }
        let instead = instead.map_or_else(String::new, |why| format!("; no vectors: {why}"));
        Ok(Verdict::Patch(patch, describe(coding, &clustered, tensor) + &note + &instead))
    }
}

impl ClusterWeights {
    /// What the codes of a weight stand for, and why not for vectors where these were asked for.
    fn coding(&self, graph: &Graph, site: &Site, open: &Open<'_>) -> Result<(Coding, Option<String>), String> {
        let (key, levels) = self.levels.as_ref().ok_or(budget::WHOLE)?;
        let names = site.names(graph);
        let levels = *levels.at(graph, key, &names)?;
        let (vectors, scalars) = match &self.vector {
            Some(lengths) => match lengths.at(graph, "vector", &names) {
                Ok(&length) if length > 1 => (self.with(levels, length), self.with(levels.min(STRONG), 1)),
                _ => return Ok((self.with(levels, 1), None)),
            },
            None => match (*key, levels) {
                ("bits", 2 | 4 | 16) if self.groups.is_none() && open.profits(codes::codes_per_byte(levels)) => {
                    (self.with(256, codes::codes_per_byte(levels)), self.with(levels, 1))
                }
                _ => return Ok((self.with(levels, 1), None)),
            },
        };
        Ok(match open.takes(vectors) {
            Ok(()) => (vectors, None),
            Err(why) => (scalars, self.vector.is_some().then_some(why)),
        })
    }

    /// Codes for so many rows of so many numbers.
    fn with(&self, levels: usize, length: usize) -> Coding {
        let groups = self.groups.unwrap_or(if levels > 16 || length > 1 { 1 } else { 16 });
        Coding { levels, length, groups }
    }
}

/// A weight that can be encoded.
struct Open<'g> {
    tensor: &'g Tensor,
    /// Counts the outputs of what reads it.
    axis: usize,
    /// Of each group of what reads it, along the axis.
    outputs: usize,
    groups: usize,
    /// Whether what reads it gives an output of the model.
    answers: bool,
    /// What reads it, if all that does looks up rows of a matrix.
    lookups: Vec<NodeId>,
}

impl Open<'_> {
    /// How it is cut if rows are decoded once they are looked up: codebooks are for blocks of columns then.
    fn cut(&self, coding: Coding, encode: bool) -> Option<Cut> {
        let a_byte = codes::codes_per_byte(coding.levels) * coding.length;
        let aligned = self.tensor.shape().last()?.is_multiple_of(a_byte);
        (encode && aligned && !self.lookups.is_empty()).then_some(Cut { axis: 1, limit: usize::MAX })
    }

    /// Whether vectors of so many numbers surely lose less: a table of 256 takes no more than an eighth of the bytes of their
    /// codes, and no output of the model matters more than its neighbours.
    fn profits(&self, length: usize) -> bool {
        !self.answers && self.tensor.len() >= 16 * 256 * length * length
    }

    /// Whether its weights can have such codes, and are so many that the table is small beside them.
    ///
    /// # Errors
    /// If that is not so: why.
    fn takes(&self, coding: Coding) -> Result<(), String> {
        let (length, outputs, weights) = (coding.length, self.outputs, self.tensor.len());
        let zeros = || self.tensor.as_f32().is_some_and(|w| pruned(&w, self.tensor.shape(), ZEROS));
        if length == 1 {
            return Ok(());
        }
        if outputs < length {
            return Err(format!("it has {outputs} outputs, fewer than a vector has numbers"));
        }
        if self.groups > 1 && !outputs.is_multiple_of(length) {
            return Err(format!("the {outputs} outputs of a group do not come in vectors of {length}"));
        }
        if weights < TABLES * coding.levels * length {
            return Err(format!(
                "its {weights} weights are few beside a table of {} vectors of {length}",
                coding.levels
            ));
        }
        if zeros() { Err("it was pruned, and vectors would not keep its zeros".into()) } else { Ok(()) }
    }
}

/// A weight that can be encoded, or why it cannot.
fn open(g: &Graph, v: ValueId) -> Result<Open<'_>, Reason> {
    let tensor = g.value(v).constant().ok_or("it is not constant")?;
    if !tensor.dtype().is_float() {
        return Err(format!("its type is {}, which is no float", tensor.dtype()).into());
    }
    if tensor.is_empty() {
        return Err("it has no weights".into());
    }
    let readers = readers::readers(g, v).map_err(|why| Reason::new(Why::Held, why))?;
    let axis = readers.iter().find_map(|r| r.outputs).unwrap_or(0);
    let by_row = |n: NodeId| {
        let rank = g.input(n, 1).and_then(|ids| g.value(ids).rank());
        let plain = matches!(&g.node(n).op, Op::Gather(op) if op.axis == 0) && !g.node(n).inconsistent;
        plain && rank.is_some() && g.output(n).is_some()
    };
    let rows =
        tensor.rank() == 2 && readers.iter().all(|r| r.role == Role::Table && r.direct) && g.readers(v).all(by_row);
    let lookups = if rows { g.uses(v).into_iter().map(|u| u.node()).collect() } else { Vec::new() };
    let along = tensor.shape().get(axis).copied().unwrap_or(0);
    let groups = g.readers(v).filter_map(|n| Linear::of(g, n).ok()).map(|l| (l.groups, l.outputs)).find(|l| l.0 > 1);
    let (groups, outputs) = groups.unwrap_or((1, along));
    let answers = g.readers(v).any(|n| ending::answers(g, n));
    Ok(Open { tensor, axis, outputs, groups, answers, lookups })
}

/// Bytes of the table of digits that the first weight of so many levels brings.
pub fn digits(graph: &Graph, levels: usize) -> usize {
    match codes::codes_per_byte(levels) {
        m if m > 1 && graph.find_value(&digits_name(levels)).is_none() => 256 * m,
        _ => 0,
    }
}

fn describe(wanted: Coding, clustered: &Clustered, tensor: &Tensor) -> String {
    let (levels, length) = (clustered.levels, clustered.length);
    let mut notes = vec![match length {
        1 => format!("{levels} levels"),
        _ => format!("{levels} vectors of {length}"),
    }];
    let same_cost = codes::levels_at_same_cost(levels);
    if levels < wanted.levels {
        notes.push(if length == 1 { "no more distinct values" } else { "no more distinct vectors" }.into());
    } else if same_cost > levels {
        notes.push(format!("{same_cost} would cost the same"));
    }
    let parts = clustered.parts.len();
    if parts > 1 {
        notes.push(format!("{parts} parts"));
    }
    let groups: usize = clustered.parts.iter().map(|p| p.layout.groups).sum();
    let codebooks = if groups == 1 { "1 codebook".into() } else { format!("{groups} codebooks") };
    let lowered = groups < wanted.groups.saturating_mul(parts);
    notes.push(if lowered { format!("{codebooks} (`groups` lowered)") } else { codebooks });
    let bits = 8.0 * clustered.bytes() as f64 / tensor.len() as f64;
    notes.push(format!("{bits:.2} bits a weight"));
    notes.push(format!("weight error {:.2} %", 100.0 * clustered.error(tensor).sqrt()));
    notes.join(", ")
}
