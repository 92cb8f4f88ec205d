//! Weights that are codes into codebooks, trained with their codes: every weight has a number of its own behind it, which
//! gradients move, and the network computes with the centroid next to that number. (Bengio, Léonard, Courville 2013, for
//! gradients that pass through the rounding; Lloyd 1982 for the centroids: each is the mean of the numbers next to it.)

mod find;

use super::optimizer::Optimizer;
use crate::analysis::evaluate::Evaluator;
use crate::autodiff::{Tape, Variables};
use crate::error::Result;
use crate::ir::{DType, Graph, Patch, Tensor, ValueId};
use crate::math::vectors::CodebookRows;
use find::coded;
use half::f16;
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
    /// Numbers that a code stands for.
    length: usize,
    groups: usize,
    /// Code i is for codebook i / run mod groups.
    run: usize,
    /// Whether codebooks are stored in half precision.
    half: bool,
    /// For each weight, which of the decoded numbers it is, if that is another.
    order: Option<Vec<u32>>,
    /// Which parameter of the tape has what the weights are.
    parameter: usize,
    /// The numbers behind what is decoded.
    behind: Vec<f32>,
    /// Codebook after codebook; single numbers rising. Which code each centroid has.
    centroids: Vec<f32>,
    code_of: Vec<u8>,
    /// Of each codebook, where it has vectors.
    rows: Vec<CodebookRows>,
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
            coded.spread(&coded.behind, tape.parameter_mut(coded.parameter).0);
        }
        optimizer.step(tape, rate);
        for coded in &mut self.0 {
            let weights = tape.parameter_mut(coded.parameter).0;
            match &coded.order {
                Some(order) => order.iter().zip(&*weights).for_each(|(&at, &w)| coded.behind[at as usize] = w),
                None => coded.behind.copy_from_slice(weights),
            }
            coded.settle();
            coded.spread(&coded.rounded(), weights);
        }
    }

    /// How far apart neighbouring centroids are, in the middle over all weights; `None` without codebooks.
    pub fn gap(&self) -> Option<f64> {
        let mut gaps: Vec<(f64, usize)> = Vec::new();
        for coded in &self.0 {
            let books = coded.centroids.chunks(coded.levels * coded.length);
            let each = coded.behind.len() / books.len().max(1);
            gaps.extend(books.flat_map(|book| coded.gaps(book)).map(|gap| (gap, each)));
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
            coded.look_up();
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
    /// With these codebooks, each of `levels` rows in the order of their codes.
    fn with_book(mut self, book: &[f32]) -> Coded {
        for book in book.chunks(self.levels * self.length) {
            let mut rising: Vec<usize> = (0..self.levels).collect();
            if self.length == 1 {
                rising.sort_by(|&a, &b| book[a].total_cmp(&book[b]));
            }
            self.centroids.extend(rising.iter().flat_map(|code| &book[code * self.length..][..self.length]));
            self.code_of.extend(rising.into_iter().map(|code| code as u8));
        }
        self.look_up();
        self
    }

    /// After centroids have changed.
    fn look_up(&mut self) {
        let of_book = |book: &[f32]| CodebookRows::new(book, self.levels);
        let books = self.centroids.chunks(self.levels * self.length);
        self.rows = if self.length == 1 { Vec::new() } else { books.map(of_book).collect() };
    }

    /// Puts decoded numbers where they are as weights.
    fn spread(&self, decoded: &[f32], weights: &mut [f32]) {
        match &self.order {
            Some(order) => weights.iter_mut().zip(order).for_each(|(w, &at)| *w = decoded[at as usize]),
            None => weights.copy_from_slice(decoded),
        }
    }

    /// How far each centroid of a codebook is from the next one, by number.
    fn gaps(&self, book: &[f32]) -> Vec<f64> {
        if self.length == 1 {
            return book.windows(2).map(|two| f64::from(two[1] - two[0])).collect();
        }
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let rows: Vec<&[f32]> = book.chunks(self.length).collect();
        let nearest = |(i, row): (usize, &&[f32])| {
            let others = rows.iter().enumerate().filter(|other| other.0 != i).map(|other| apart(row, other.1));
            (others.fold(f64::INFINITY, f64::min) / self.length as f64).sqrt()
        };
        rows.iter().enumerate().map(nearest).filter(|gap| gap.is_finite()).collect()
    }

    /// The place among the centroids of that which is next to each vector, or number, of what is behind.
    fn nearest(&self) -> Vec<usize> {
        let vectors = self.behind.chunks(self.length).enumerate();
        vectors.map(|(i, vector)| self.next(i / self.run % self.groups, vector)).collect()
    }

    fn next(&self, group: usize, vector: &[f32]) -> usize {
        let base = group * self.levels;
        if let Some(rows) = self.rows.get(group) {
            return base + rows.nearest(vector.iter().copied());
        }
        let (book, x) = (&self.centroids[base..base + self.levels], vector[0]);
        let above = book.partition_point(|&c| c < x).min(self.levels - 1);
        let below = above.saturating_sub(1);
        base + if x - book[below] <= book[above] - x { below } else { above }
    }

    /// Moves every centroid to the mean of what is next to it. One that is zero stays, for pruned weights.
    fn settle(&mut self) {
        let mut sums = vec![0.0f64; self.centroids.len()];
        let mut counts = vec![0usize; self.centroids.len() / self.length];
        for (vector, at) in self.behind.chunks(self.length).zip(self.nearest()) {
            counts[at] += 1;
            sums[at * self.length..].iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let half = self.half;
        let rows = self.centroids.chunks_mut(self.length).zip(sums.chunks(self.length)).zip(counts);
        for ((row, sums), count) in rows.filter(|(_, count)| *count > 0) {
            if row.iter().any(|c| *c != 0.0) {
                row.iter_mut().zip(sums).for_each(|(c, sum)| *c = stored((sum / count as f64) as f32, half));
            }
        }
        self.look_up();
    }

    /// What is decoded.
    fn rounded(&self) -> Vec<f32> {
        let rows = self.nearest().into_iter().flat_map(|at| &self.centroids[at * self.length..][..self.length]);
        rows.copied().take(self.behind.len()).collect()
    }

    /// The codes of the weights, several to a byte.
    fn bytes(&self) -> Vec<f64> {
        let bytes: HashMap<&[u8], u8> = (0..=u8::MAX).rev().map(|b| (self.codes_in(b), b)).collect();
        let mut codes: Vec<u8> = self.nearest().into_iter().map(|at| self.code_of[at]).collect();
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
        for (at, (row, &code)) in self.centroids.chunks(self.length).zip(&self.code_of).enumerate() {
            let place = at / self.levels * self.levels + usize::from(code);
            book[place * self.length..].iter_mut().zip(row).for_each(|(to, &c)| *to = f64::from(c));
        }
        book
    }
}

/// A number as it is stored.
fn stored(x: f32, half: bool) -> f32 {
    if half { f16::from_f32(x).to_f32() } else { x }
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

    /// Three outputs in vectors of two, one number too many, turned into place as for a convolution.
    #[test]
    fn vectors_follow_the_numbers_behind_them() {
        let text = "model m opset 17 {
            input %x : f32[2,2]
            const %codes : u8[1,2,2] = {0,1,2,1} const %books : f16[3,2] = {1,2,-1,0.5,0.25,-2}
            const %lines : i64[3] = {1,4,2} const %start : i64[1] = {0} const %end : i64[1] = {3} const %axis : i64[1] = {1}
            const %shape : i64[2] = {3,2}
            %index : ? = Cast<to=6>(%codes)
            %plain : ? = Cast<to=1>(%books)
            %decoded : ? = Gather(%plain, %index)
            %turned : ? = Transpose<perm=[0,1,3,2]>(%decoded)
            %long : ? = Reshape(%turned, %lines)
            %short : ? = Slice(%long, %start, %end, %axis)
            %w : ? = Reshape(%short, %shape)
            %y : f32[2,3] = Gemm<transB=1>(%x, %w)
            output %y
        }";
        let mut graph = parse::model(text).unwrap().graph;
        assert_eq!(decoded(&graph), [1.0, -1.0, 2.0, 0.5, 0.25, -1.0]);
        let (before, constants) = (decoded(&graph), graph.clone());
        let mut freed = free(&graph, &[]).unwrap();
        let mut tape = Tape::new(&freed.graph, &[], freed.graph.outputs(), &weights(&freed.graph)).unwrap();
        let mut codebooks = freed.codebooks(&tape);
        assert_eq!((codebooks.0.len(), tape.parameter(0)), (1, &before[..]));
        assert!(codebooks.gap().unwrap() > 1.0);
        let mut optimizer = Optimizer::new(Method::SGD, 0.0);
        tape.input_mut(0).copy_from_slice(&[1.0, -2.0, 0.5, 3.0]);
        for _ in 0..5 {
            tape.forward(Mode::Train);
            tape.backward(&[vec![1.0, 0.5, -1.0, 2.0, -0.5, 0.25]]);
            codebooks.step(&mut optimizer, &mut tape, 0.2);
            codebooks.store(&mut graph).unwrap();
            assert_eq!(decoded(&graph), tape.parameter(0), "what was trained is what is stored");
        }
        assert_ne!(decoded(&graph), before);
        let codes = |graph: &Graph| graph.value(graph.find_value("codes").unwrap()).constant().cloned();
        assert_ne!(codes(&graph), codes(&constants));
    }
}
