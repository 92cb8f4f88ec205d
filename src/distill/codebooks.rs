//! Weights that are codes into codebooks, trained with their codes: every weight has a number of its own behind it, which
//! gradients move, and the network computes with the centroid next to that number. (Bengio, Léonard, Courville 2013, for
//! gradients that pass through the rounding; Lloyd 1982 for the centroids: each is the mean of the numbers next to it.)

use super::optimizer::Optimizer;
use crate::analysis::evaluate::Evaluator;
use crate::autodiff::{Tape, Variables};
use crate::error::Result;
use crate::ir::op::binary::Kind;
use crate::ir::{DType, Graph, NodeId, Op, Patch, Tensor, Use, ValueId};
use std::collections::HashMap;

/// All weights of a graph that are codes into codebooks of their own.
#[derive(Default)]
pub struct Codebooks(Vec<Coded>);

/// Weights that one lookup decodes.
struct Coded {
    codes: ValueId,
    books: ValueId,
    /// The codes in each byte, `per_byte` of them.
    digits: Vec<u8>,
    per_byte: usize,
    levels: usize,
    groups: usize,
    /// Weight i has codebook i / run mod groups.
    run: usize,
    /// Which parameter of the tape has what the weights are.
    parameter: usize,
    /// The numbers behind the weights.
    behind: Vec<f32>,
    /// Codebook after codebook, each rising, and which code each centroid has.
    centroids: Vec<f32>,
    order: Vec<u8>,
}

/// A graph whose codebooks are out of the way: the weights are constants, which train.
pub struct Freed {
    pub graph: Graph,
    /// What was decoded, and the constant in its place.
    sites: Vec<(Coded, ValueId)>,
}

/// Puts the weights that codes and codebooks stand for in the place of what decodes them, where these, by name, need not
/// stay as they are.
///
/// # Errors
/// Internal ones.
pub fn free(graph: &Graph, frozen: &[String]) -> Result<Freed> {
    let mut evaluator = Evaluator::of(graph);
    let (mut freed, mut sites) = (graph.clone(), Vec::new());
    for n in graph.topological()? {
        let Some((coded, end)) = coded(graph, n, &mut evaluator) else { continue };
        if [coded.codes, coded.books].iter().any(|&v| frozen.contains(&graph.value(v).name)) {
            continue;
        }
        let Some(weights) = evaluator.tensor(end).filter(|_| !graph.is_held(end)) else { continue };
        let mut patch = Patch::at_value(&freed, end);
        let weights = patch.constant("free", weights);
        // The constant takes the place of the value.
        patch.replace(end, weights);
        freed.apply(patch)?;
        sites.push((coded, end));
    }
    Ok(Freed { graph: freed, sites })
}

/// What a lookup decodes, if it is one, and the last value in which the weights lie as they do there.
fn coded(graph: &Graph, n: NodeId, evaluator: &mut Evaluator<'_>) -> Option<(Coded, ValueId)> {
    if !matches!(&graph.node(n).op, Op::Gather(op) if op.axis == 0) {
        return None;
    }
    let (codes, groups) = codes(graph, graph.input(n, 1)?)?;
    let (books, digits) = table(graph, graph.input(n, 0)?)?;
    let own = |v: ValueId| graph.sole_use(v).and(graph.value(v).constant());
    let (bytes, book) = (own(codes)?.shape().to_vec(), own(books)?.as_f32()?.into_owned());
    let (per_byte, levels) = (digits.len() / 256, book.len().checked_div(groups)?);
    let run = per_byte * if groups > 1 { *bytes.last()? } else { bytes.iter().product() };
    let inside = per_byte == 1 || digits.iter().all(|&d| usize::from(d) < levels);
    if run == 0 || levels == 0 || book.len() != groups * levels || !inside {
        return None;
    }
    let end = end(graph, graph.output(n)?);
    // Codebooks by the digits of bytes are looked up themselves, and are no weights.
    let looked_up = |u: Use| matches!(u, Use::Input(n, 0) if matches!(graph.node(n).op, Op::Gather(_)));
    if graph.uses(end).into_iter().any(looked_up) {
        return None;
    }
    let behind = evaluator.tensor(end)?.as_f32()?.into_owned();
    let (mut centroids, mut order) = (Vec::new(), Vec::new());
    for book in book.chunks(levels) {
        let mut rising: Vec<usize> = (0..levels).collect();
        rising.sort_by(|&a, &b| book[a].total_cmp(&book[b]));
        centroids.extend(rising.iter().map(|&code| book[code]));
        order.extend(rising.into_iter().map(|code| code as u8));
    }
    let coded = Coded { codes, books, digits, per_byte, levels, groups, run, parameter: 0, behind, centroids, order };
    Some((coded, end))
}

fn made_by(graph: &Graph, v: ValueId, is: impl Fn(&Op) -> bool) -> Option<NodeId> {
    graph.producer(v).map(|p| p.0).filter(|&n| is(&graph.node(n).op))
}

/// The bytes that a value is a cast of.
fn bytes(graph: &Graph, v: ValueId) -> Option<ValueId> {
    let cast = made_by(graph, v, |op| matches!(op, Op::Cast(_)))?;
    graph.input(cast, 0).filter(|&v| graph.value(v).constant().is_some_and(|t| t.dtype() == DType::U8))
}

/// The codes that an index is made of, and of how many groups they are.
fn codes(graph: &Graph, index: ValueId) -> Option<(ValueId, usize)> {
    let Some(add) = made_by(graph, index, |op| matches!(op, Op::Binary(op) if op.0 == Kind::Add)) else {
        return Some((bytes(graph, index)?, 1));
    };
    Some((bytes(graph, graph.input(add, 0)?)?, graph.input_constant(add, 1)?.len()))
}

/// The codebooks that a table is made of, and the codes that each byte stands for there.
fn table(graph: &Graph, mut table: ValueId) -> Option<(ValueId, Vec<u8>)> {
    if let Some(reshape) = made_by(graph, table, |op| matches!(op, Op::Reshape(_))) {
        table = graph.input(reshape, 0)?;
    }
    let Some(gather) = made_by(graph, table, |op| matches!(op, Op::Gather(_))) else {
        return Some((table, (0..=u8::MAX).collect()));
    };
    let digits = graph.value(bytes(graph, graph.input(gather, 1)?)?).constant()?.ints()?;
    let digits = digits.into_iter().map(u8::try_from).collect::<Result<Vec<u8>, _>>().ok()?;
    Some((graph.input(gather, 0)?, digits)).filter(|(_, d)| !d.is_empty() && d.len().is_multiple_of(256))
}

/// From a value on through what only shapes it, or cuts off its end.
fn end(graph: &Graph, mut v: ValueId) -> ValueId {
    while let Some(Use::Input(n, 0)) = graph.sole_use(v) {
        let from_zero = |t: &Tensor| t.ints().is_some_and(|t| t.iter().all(|&start| start == 0));
        let goes_on = match &graph.node(n).op {
            Op::Reshape(_) => true,
            Op::Slice(op) => {
                let starts = match &op.bounds {
                    Some(bounds) => bounds.starts.iter().all(|&s| s == 0),
                    None => graph.input_constant(n, 1).is_some_and(from_zero) && graph.input(n, 4).is_none(),
                };
                starts && graph.value(v).rank() == Some(1)
            }
            _ => false,
        };
        match graph.output(n).filter(|_| goes_on) {
            Some(y) if !graph.is_held(y) => v = y,
            _ => break,
        }
    }
    v
}

impl Freed {
    /// A graph that keeps its codebooks.
    pub fn nothing(graph: &Graph) -> Freed {
        Freed { graph: graph.clone(), sites: Vec::new() }
    }

    /// The codebooks, whose weights are parameters of the graph's tape.
    pub fn codebooks(&mut self, tape: &Tape<f32>) -> Codebooks {
        let found = std::mem::take(&mut self.sites).into_iter().filter_map(|(coded, weights)| {
            let parameter = tape.parameters().iter().position(|p| p.value == weights)?;
            Some(Coded { parameter, ..coded })
        });
        Codebooks(found.collect())
    }
}

impl Codebooks {
    /// A step of the optimizer, and the weights that follow from it.
    pub fn step(&mut self, optimizer: &mut Optimizer<f32>, tape: &mut Tape<f32>, rate: f64) {
        for coded in &self.0 {
            tape.parameter_mut(coded.parameter).0.copy_from_slice(&coded.behind);
        }
        optimizer.step(tape, rate);
        for coded in &mut self.0 {
            let weights = tape.parameter_mut(coded.parameter).0;
            coded.behind.copy_from_slice(weights);
            coded.settle();
            coded.round(weights);
        }
    }

    /// How far apart neighbouring centroids are, in the middle over all weights; `None` without codebooks.
    pub fn gap(&self) -> Option<f64> {
        let mut gaps: Vec<(f64, usize)> = Vec::new();
        for coded in &self.0 {
            let books = coded.centroids.chunks(coded.levels);
            let each = coded.behind.len() / books.len().max(1);
            gaps.extend(books.flat_map(|book| book.windows(2).map(move |two| (f64::from(two[1] - two[0]), each))));
        }
        gaps.retain(|gap| gap.0 > 0.0);
        gaps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let half = gaps.iter().map(|gap| gap.1).sum::<usize>().div_ceil(2);
        let mut weights = 0;
        gaps.iter()
            .find(|gap| {
                weights += gap.1;
                weights >= half
            })
            .map(|gap| gap.0)
    }

    /// What training changes beside what the tape has.
    pub fn state(&self, tape: &mut Tape<f32>) -> Variables<f32> {
        let mut state = tape.state();
        state.0.extend(self.0.iter().flat_map(|c| [c.behind.clone(), c.centroids.clone()]));
        state
    }

    /// Goes back to a state.
    pub fn restore(&mut self, tape: &mut Tape<f32>, state: &Variables<f32>) {
        tape.restore(state);
        let own = &state.0[state.0.len() - 2 * self.0.len()..];
        for (coded, own) in self.0.iter_mut().zip(own.chunks(2)) {
            coded.behind.copy_from_slice(&own[0]);
            coded.centroids.copy_from_slice(&own[1]);
        }
    }

    /// Writes codes and codebooks into the graph that they are from.
    ///
    /// # Errors
    /// Internal ones.
    pub fn store(&self, graph: &mut Graph) -> Result<()> {
        let mut patch = Patch::at_graph(graph);
        for coded in &self.0 {
            for (value, numbers) in [(coded.codes, coded.bytes()), (coded.books, coded.book())] {
                let Some(old) = graph.value(value).constant() else { continue };
                let new = match old.dtype() {
                    DType::U8 => Tensor::from_ints(DType::U8, old.shape(), numbers.iter().map(|&b| b as i64)),
                    float => Tensor::from_floats(float, old.shape(), numbers),
                };
                patch.set_constant(value, new);
            }
        }
        graph.apply(patch).map(drop)
    }
}

impl Coded {
    /// Calls `f` with each run of weights, and where its codebook begins.
    fn runs<'a, T>(&self, of: impl Iterator<Item = T> + 'a, mut f: impl FnMut(usize, T)) {
        of.enumerate().for_each(|(i, run)| f(i % self.groups * self.levels, run));
    }

    /// The place among the centroids of that which is next to a number.
    fn next(&self, base: usize, x: f32) -> usize {
        let book = &self.centroids[base..base + self.levels];
        let above = book.partition_point(|&c| c < x).min(self.levels - 1);
        let below = above.saturating_sub(1);
        base + if x - book[below] <= book[above] - x { below } else { above }
    }

    /// Moves every centroid to the mean of what is next to it. One that is zero stays, for pruned weights.
    fn settle(&mut self) {
        let mut sums = vec![(0.0f64, 0usize); self.centroids.len()];
        self.runs(self.behind.chunks(self.run), |base, run| {
            for &x in run {
                let (sum, count) = &mut sums[self.next(base, x)];
                (*sum, *count) = (*sum + f64::from(x), *count + 1);
            }
        });
        for (centroid, (sum, count)) in self.centroids.iter_mut().zip(sums) {
            if count > 0 && *centroid != 0.0 {
                *centroid = (sum / count as f64) as f32;
            }
        }
    }

    fn round(&self, weights: &mut [f32]) {
        self.runs(weights.chunks_mut(self.run).zip(self.behind.chunks(self.run)), |base, (weights, run)| {
            weights.iter_mut().zip(run).for_each(|(w, &x)| *w = self.centroids[self.next(base, x)]);
        });
    }

    /// The codes of the weights, several to a byte.
    fn bytes(&self) -> Vec<f64> {
        let bytes: HashMap<&[u8], u8> = (0..=u8::MAX).rev().map(|b| (self.codes_in(b), b)).collect();
        let mut codes: Vec<u8> = Vec::new();
        self.runs(self.behind.chunks(self.run), |base, run| {
            codes.extend(run.iter().map(|&x| self.order[self.next(base, x)]));
        });
        // What fills up the last period is code 0.
        codes.resize(codes.len().next_multiple_of(self.groups * self.run), 0);
        codes.chunks(self.per_byte).map(|codes| f64::from(bytes.get(codes).copied().unwrap_or(0))).collect()
    }

    fn codes_in(&self, byte: u8) -> &[u8] {
        &self.digits[usize::from(byte) * self.per_byte..][..self.per_byte]
    }

    /// The centroids by code.
    fn book(&self) -> Vec<f64> {
        let mut book = vec![0.0; self.centroids.len()];
        for (at, (&c, &code)) in self.centroids.iter().zip(&self.order).enumerate() {
            book[at / self.levels * self.levels + usize::from(code)] = f64::from(c);
        }
        book
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::{Mode, weights};
    use crate::distill::Method;
    use crate::ir::text::parse;

    /// 11 weights, three codes to a byte, in two groups, as `cluster-weights` writes them; 12 codes, one of them too many.
    fn graph() -> Graph {
        let digits: Vec<String> =
            (0..256).flat_map(|b| [b % 6, b / 6 % 6, b / 36 % 6]).map(|d| d.to_string()).collect();
        let text = format!(
            "model m opset 17 {{
                input %x : f32[2,11]
                const %codes : u8[2,2] = {{5,100,215,11}} const %offsets : i32[2,1] = {{0,256}}
                const %books : f32[2,6] = {{0.5,-1,2,0,1,-3,-0.1,0.1,0.2,0.3,-0.2,-0.3}} const %digits : u8[256,3] = {{{}}}
                const %three : i64[2] = {{-1,3}} const %flat : i64[1] = {{-1}} const %shape : i64[2] = {{11,1}}
                const %start : i64[1] = {{0}} const %end : i64[1] = {{11}}
                %index : ? = Cast<to=6>(%codes)
                %row : ? = Add(%index, %offsets)
                %of : ? = Cast<to=6>(%digits)
                %table : ? = Gather<axis=1>(%books, %of)
                %rows : ? = Reshape(%table, %three)
                %decoded : ? = Gather(%rows, %row)
                %padded : ? = Reshape(%decoded, %flat)
                %cut : ? = Slice(%padded, %start, %end)
                %w : ? = Reshape(%cut, %shape)
                %y : f32[2,1] = MatMul(%x, %w)
                output %y
            }}",
            digits.join(",")
        );
        parse::model(&text).unwrap().graph
    }

    fn decoded(graph: &Graph) -> Vec<f32> {
        let w = graph.find_value("w").unwrap();
        Evaluator::of(graph).tensor(w).unwrap().as_f32().unwrap().into_owned()
    }

    #[test]
    fn codes_follow_the_numbers_behind_them() {
        let mut graph = graph();
        let (before, constants) = (decoded(&graph), graph.clone());
        let mut freed = free(&graph, &[]).unwrap();
        let mut tape = Tape::new(&freed.graph, &[], freed.graph.outputs(), &weights(&freed.graph)).unwrap();
        let mut codebooks = freed.codebooks(&tape);
        assert_eq!((codebooks.0.len(), tape.parameters().len()), (1, 1));
        assert_eq!(tape.parameter(0), before);
        // Between centroids: 0.1 four times, 0.2, 0.5 twice, 1 twice, 2.
        assert!((codebooks.gap().unwrap() - 0.2).abs() < 1e-6);
        codebooks.store(&mut graph).unwrap();
        for v in graph.values() {
            assert_eq!(graph.value(v).constant(), constants.value(v).constant(), "{}", graph.value(v).name);
        }

        let start = codebooks.state(&mut tape);
        let mut optimizer = Optimizer::new(Method::SGD, 0.0);
        let slope: Vec<f32> = (0..22).map(|i| (i % 5) as f32 - 2.0).collect();
        tape.input_mut(0).copy_from_slice(&slope);
        for _ in 0..3 {
            tape.forward(Mode::Train);
            tape.backward(&[vec![1.0, 0.5]]);
            codebooks.step(&mut optimizer, &mut tape, 0.1);
            codebooks.store(&mut graph).unwrap();
            assert_eq!(decoded(&graph), tape.parameter(0), "what was trained is what is stored");
        }
        let constant = |graph: &Graph, name| graph.value(graph.find_value(name).unwrap()).constant().unwrap().clone();
        assert_ne!(constant(&graph, "codes"), constant(&constants, "codes"));
        let book = constant(&graph, "books").floats().unwrap();
        assert!(book[3] == 0.0 && book != constant(&constants, "books").floats().unwrap(), "{book:?}");

        codebooks.restore(&mut tape, &start);
        codebooks.store(&mut graph).unwrap();
        assert_eq!(decoded(&graph), before);
    }
}
