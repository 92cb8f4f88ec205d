//! The teacher on the calibration data: what it gives around its layers, each value computed once and kept on disk.
//!
//! The graph is cut into segments at what layers read and make. A segment is run as a whole, whatever asks for one of its
//! values and whatever was run before it, so that a value is the same to the last bit for all who ask. Beyond a limit, what
//! the segments ahead do not read is given up, and computed again when somebody asks.

use super::kept_moments::KeptMoments;
use super::lazy_executor::alike;
use super::part::{Executor, Files};
use super::{Calibration, Failure};
use crate::analysis::linear::Linear;
use crate::data::ActivationFile;
use crate::error::{Error, Result};
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::{Graph, Model, NodeId, Op, ValueId};
use ndarray::Array2;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of values that are kept.
const LIMIT: u64 = 1 << 30;

/// A teacher with what it gives on calibration data.
pub struct TeacherRun {
    /// The teacher, as it computes.
    pub graph: Graph,
    executor: Executor,
    segments: Vec<Segment>,
    /// Which segment makes a value.
    makers: HashMap<ValueId, usize>,
    kept: Mutex<KeptValues>,
    pub(super) moments: KeptMoments,
    /// What errors of its layers' outputs do to its answers, once somebody asked for that.
    pub gradients: OnceLock<GradientMoments>,
}

/// E g gᵀ (outputs × outputs) of the gradients g of answers by what a layer gives, by that value.
pub type GradientMoments = HashMap<ValueId, Array2<f64>>;

/// Nodes that are run together.
#[derive(Default)]
struct Segment {
    /// In the order they run.
    nodes: Vec<NodeId>,
    reads: Vec<ValueId>,
    makes: Vec<ValueId>,
}

/// What is on disk.
struct KeptValues {
    files: Files,
    bytes: u64,
    /// Fewer than [`LIMIT`] once the disk was full.
    limit: u64,
    /// Why segments do not run.
    failed: BTreeMap<usize, String>,
}

impl TeacherRun {
    /// Of this graph; `shell` is what surrounds it. Nothing is run or read yet.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn new(data: &Calibration<'_>, graph: Graph, shell: &Model) -> Result<TeacherRun> {
        let (segments, makers) = segments(&graph)?;
        let kept = KeptValues { files: Files::new(), bytes: 0, limit: LIMIT, failed: BTreeMap::new() };
        let executor = Executor::new(shell, data.kinds());
        let (moments, gradients) = (KeptMoments::default(), OnceLock::new());
        Ok(TeacherRun { graph, executor, segments, makers, kept: Mutex::new(kept), moments, gradients })
    }

    /// Whether it is a run of this graph.
    pub fn is_of(&self, graph: &Graph) -> bool {
        alike(&self.graph, graph)
    }

    /// Reads the data, unless that was done before.
    ///
    /// # Errors
    /// If it cannot be read, or there is no room for it in the folder for temporary files.
    pub(super) fn feed(&self, data: &Calibration<'_>) -> Result<()> {
        let mut kept = self.kept();
        if kept.files.is_empty() {
            let inputs: Vec<ValueId> = self.graph.required_inputs().collect();
            let mut files = inputs.iter().map(|_| ActivationFile::new()).collect::<Result<Vec<_>>>()?;
            for i in 0..data.chunks() {
                data.chunk(i)?.iter().zip(&mut files).try_for_each(|(array, file)| file.push(array))?;
            }
            kept.bytes = files.iter().map(ActivationFile::bytes).sum();
            kept.files = inputs.into_iter().zip(files.into_iter().map(Arc::new)).collect();
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, KeptValues> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Whether a value is an input, or an end of a segment.
    pub(super) fn has(&self, value: ValueId) -> bool {
        self.makers.contains_key(&value) || self.graph.required_inputs().any(|v| v == value)
    }

    /// A value for all chunks.
    ///
    /// # Errors
    /// If tract has no way to compute it, or something failed.
    pub(super) fn get(&self, value: ValueId) -> Result<Arc<ActivationFile>, Failure> {
        let mut kept = self.kept();
        if let Some(file) = kept.files.get(&value) {
            return Ok(file.clone());
        }
        let (mut missing, mut open) = (BTreeSet::new(), Vec::new());
        let own = match self.makers.get(&value) {
            Some(&at) => {
                missing.insert(at);
                open.push(at);
                None
            }
            None => {
                let place = places(&self.graph)?;
                let mut own = Segment { makes: vec![value], ..Segment::default() };
                own.fill(&self.graph, &place, value, |v, _| self.has(v));
                Some(own)
            }
        };
        let lacks =
            |kept: &KeptValues, v: &ValueId| (!kept.files.contains_key(v)).then(|| self.makers.get(v).copied())?;
        let mut reach = |kept: &KeptValues, reads: &[ValueId], open: &mut Vec<usize>| {
            for at in reads.iter().filter_map(|v| lacks(kept, v)) {
                if missing.insert(at) {
                    open.push(at);
                }
            }
        };
        own.iter().for_each(|own| reach(&kept, &own.reads, &mut open));
        while let Some(at) = open.pop() {
            reach(&kept, &self.segments[at].reads, &mut open);
        }
        for at in missing {
            self.run(&mut kept, at)?;
        }
        match own {
            Some(own) => {
                let made = self.executor.run(&self.graph, &own.nodes, &kept.files, &own.makes)?;
                made.into_iter().next().ok_or_else(|| Error::internal("a segment makes nothing").into())
            }
            None => kept.files.get(&value).cloned().ok_or_else(|| Error::internal("a segment lost its value").into()),
        }
    }

    /// Runs a segment, everything that it reads being there.
    fn run(&self, kept: &mut KeptValues, at: usize) -> Result<(), Failure> {
        if let Some(why) = kept.failed.get(&at) {
            return Err(Failure::NotRun(why.clone()));
        }
        let segment = &self.segments[at];
        let run = |kept: &KeptValues| self.executor.run(&self.graph, &segment.nodes, &kept.files, &segment.makes);
        let made = match run(kept) {
            // The disk may be full: then less is kept from now on.
            Err(Failure::Error(_)) if self.give_up(kept, at, 0) > 0 => {
                kept.limit = kept.bytes;
                run(kept)
            }
            made => made,
        };
        let made = made.inspect_err(|e| {
            if let Failure::NotRun(why) = e {
                kept.failed.insert(at, why.clone());
            }
        })?;
        for (&v, file) in segment.makes.iter().zip(made) {
            kept.bytes += file.bytes();
            if let Some(old) = kept.files.insert(v, file) {
                kept.bytes -= old.bytes();
            }
        }
        let limit = kept.limit;
        self.give_up(kept, at + 1, limit);
        Ok(())
    }

    /// Drops values that no segment from `at` on reads, the first ones first, until no more than `limit` bytes are left; says
    /// how many bytes went.
    fn give_up(&self, kept: &mut KeptValues, at: usize, limit: u64) -> u64 {
        let before = kept.bytes;
        if before > limit {
            let read: HashSet<ValueId> = self.segments[at..].iter().flat_map(|s| s.reads.iter().copied()).collect();
            let last = self.segments.get(at.wrapping_sub(1)).map_or(&[][..], |s| &s.makes);
            for v in self.segments.iter().flat_map(|s| &s.makes).filter(|v| !read.contains(v) && !last.contains(v)) {
                if kept.bytes <= limit {
                    break;
                }
                kept.bytes -= kept.files.remove(v).map_or(0, |file| file.bytes());
            }
        }
        before - kept.bytes
    }
}

impl Segment {
    /// Adds what it takes to make a value, back to where `stops` says, which is told of a value and of the node that makes it.
    fn fill(
        &mut self,
        graph: &Graph,
        place: &HashMap<NodeId, usize>,
        value: ValueId,
        mut stops: impl FnMut(ValueId, Option<NodeId>) -> bool,
    ) {
        let (mut nodes, mut reads) = (BTreeSet::new(), BTreeSet::new());
        let mut open = vec![value];
        let mut seen = HashSet::new();
        while let Some(v) = open.pop() {
            if !seen.insert(v) {
                continue;
            }
            let maker = graph.producer(v).map(|p| p.0);
            if stops(v, maker) {
                reads.insert(v);
            } else if let Some(n) = maker
                && nodes.insert((place.get(&n).copied().unwrap_or(0), n))
            {
                open.extend(graph.node_inputs(n).into_iter().flatten());
                open.extend(graph.node_captures(n).into_iter().map(|c| c.2));
            }
        }
        self.nodes = nodes.into_iter().map(|(_, n)| n).collect();
        self.reads = reads.into_iter().collect();
    }
}

/// Where in the order nodes run.
fn places(graph: &Graph) -> Result<HashMap<NodeId, usize>> {
    Ok(graph.topological()?.into_iter().enumerate().map(|(i, n)| (n, i)).collect())
}

/// Cuts a graph at what its layers read and make, and at what several segments would compute.
fn segments(graph: &Graph) -> Result<(Vec<Segment>, HashMap<ValueId, usize>)> {
    let place = places(graph)?;
    let order = graph.topological()?;
    let fixed = graph.constant_nodes(&order, |_| false);
    let moves = |v: &ValueId| graph.producer(*v).is_some_and(|(n, _)| !fixed.contains(&n));
    let layers = order.iter().filter_map(|&n| Linear::of(graph, n).ok());
    let ends = layers.flat_map(|layer| [Some(layer.x), Some(layer.y), sum_of(graph, layer.y).map(|s| s.0)]);
    let at = |v: ValueId| graph.producer(v).and_then(|(n, _)| place.get(&n).copied());
    let ends: BTreeSet<(Option<usize>, ValueId)> = ends.flatten().filter(moves).map(|v| (at(v), v)).collect();
    let inputs: HashSet<ValueId> = graph.required_inputs().collect();
    let (mut segments, mut makers): (Vec<Segment>, HashMap<ValueId, usize>) = Default::default();
    let mut owners: HashMap<NodeId, usize> = HashMap::new();
    for (_, end) in ends {
        let (mut segment, own) = (Segment::default(), segments.len());
        segment.fill(graph, &place, end, |v, maker| {
            if inputs.contains(&v) || makers.contains_key(&v) {
                return true;
            }
            // What another segment computes on its way is another end of that, but for arithmetic of shapes.
            let owner = maker.filter(|n| !fixed.contains(n)).and_then(|n| owners.get(&n));
            let Some(&owner) = owner.filter(|_| graph.value(v).may_be_float()) else { return false };
            segments[owner].makes.push(v);
            makers.insert(v, owner);
            true
        });
        if let Entry::Vacant(maker) = makers.entry(end) {
            for &n in &segment.nodes {
                owners.entry(n).or_insert(own);
            }
            segment.makes.push(end);
            maker.insert(own);
            segments.push(segment);
        }
    }
    Ok((segments, makers))
}

/// Where a value goes, with no other reader, into a sum with something of the same shape: the sum, and the other term.
pub(super) fn sum_of(graph: &Graph, y: ValueId) -> Option<(ValueId, ValueId)> {
    let node = graph.sole_use(y)?.node();
    let sum = graph.output(node)?;
    let is_sum = matches!(graph.node(node).op, Op::Binary(Binary(BinaryKind::Add | BinaryKind::Sum)));
    let terms: Vec<ValueId> = graph.node_inputs(node).into_iter().flatten().collect();
    let &[a, b] = terms.as_slice() else { return None };
    let other = if a == y { b } else { a };
    let same_shape = graph.value(other).ty.as_ref()?.agrees(graph.value(y).ty.as_ref()?);
    let computed = graph.value(other).constant().is_none();
    (is_sum && other != y && computed && same_shape && !graph.is_held(y)).then_some((sum, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Array, Dataset, Normalise};
    use crate::ir::random;
    use crate::ir::text::parse;

    /// Two branches from one layer, added up, and a layer behind.
    const NET: &str = "model \"net\" opset 17 {
        input %x : f32[N,3,5,5]
        const %w1 : f32[4,3,3,3] = seed(1) const %w2 : f32[4,4,3,3] = seed(2) const %w3 : f32[4,4,1,1] = seed(3)
        %a : ? = Conv<pads=[1,1,1,1]>(%x, %w1)
        %s : ? = Sigmoid(%a)
        %b : ? = Conv<pads=[1,1,1,1]>(%s, %w2)
        %t : ? = Tanh(%s)
        %sum : ? = Add(%b, %t)
        %y : ? = Conv(%sum, %w3)
        output %y
    }";

    fn values(run: &TeacherRun, names: &[&str]) -> Vec<Vec<f32>> {
        let value = |name: &&str| run.get(run.graph.find_value(name).unwrap()).unwrap();
        names.iter().map(|name| (0..2).flat_map(|i| value(name).read(i).unwrap().to_f32()).collect()).collect()
    }

    #[test]
    fn values_are_the_same_whoever_asks_and_whatever_was_given_up() {
        let model = parse::model(NET).unwrap();
        let x: Vec<f32> = random::noise(5).map(|v| v as f32).take(20 * 75).collect();
        let data = Dataset::from_arrays("noise", vec![("x".into(), Array::from_f32(vec![20, 3, 5, 5], &x).unwrap())]);
        let data = Calibration::new(&data, &Normalise::default(), &model, 20).unwrap();
        let run = |limit: u64| {
            let run = TeacherRun::new(&data, model.graph.clone(), &model).unwrap();
            run.feed(&data).unwrap();
            run.kept().limit = limit;
            run
        };
        let all = ["a", "s", "b", "sum", "y", "t"];
        let (kept, given_up, backwards) = (run(LIMIT), run(0), run(0));
        let want = values(&kept, &all);
        assert_eq!(values(&given_up, &all), want);
        let reversed: Vec<&str> = all.iter().rev().copied().collect();
        let got = values(&backwards, &reversed);
        assert!(got.iter().rev().eq(&want));
        let on_disk = |run: &TeacherRun| run.kept().files.len();
        assert!(on_disk(&kept) >= 6 && on_disk(&given_up) < 4, "{} and {}", on_disk(&kept), on_disk(&given_up));
        let ends = kept.segments.iter().map(|s| s.makes.len()).sum::<usize>();
        assert_eq!(kept.segments.iter().map(|s| s.nodes.len()).sum::<usize>(), 6, "no node is in two segments");
        assert_eq!(ends, kept.makers.len());
    }
}
