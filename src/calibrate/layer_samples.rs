//! What layers read and should give on the calibration data, a few samples at a time, and the moments of that.

use super::kept_moments::KeptMoments;
use super::lazy_executor::LazyExecutor;
use super::{COLUMNS, Failure, GATHERED, HELD_BACK};
use crate::analysis::linear::{Bias, Linear};
use crate::data::ActivationFile;
use crate::ir::ValueId;
use crate::math::fit::Fit;
use crate::math::moments::TargetMoments;
use crate::math::{self, LayerMoments, Moments};
use ndarray::ArrayView2;
use std::cell::RefCell;
use std::sync::Arc;

/// Numbers of gathered rows that stay in memory from targets to targets.
const KEPT: usize = 1 << 23;

/// A layer, or several that share a weight, with what they read and should give, for all samples.
pub struct LayerSamples<'w> {
    pub(super) chunks: usize,
    /// One position in so many is looked at.
    pub(super) step: usize,
    pub(super) side: &'w LazyExecutor,
    pub(super) layer: &'w Linear,
    /// Those of a set have the same bias.
    pub(super) sets: Vec<Vec<LayerReader<'w>>>,
    /// Where the moments are kept, and by what name, if the student is the teacher here.
    pub(super) same: Option<(String, &'w KeptMoments)>,
    /// The rows of each set, once they were gathered for other targets, if they take little memory.
    pub(super) gathered: RefCell<Vec<Option<GatheredSet>>>,
}

/// What was gathered of the layers of a set.
pub(super) struct GatheredSet {
    batches: Vec<GatheredBatch>,
    /// Sums over inputs, which are the same for all targets, by group.
    inputs: Vec<[TargetMoments; 2]>,
}

/// Rows of Xᵀ, of what the teacher gives and of the other term, of one reader and group, fitted (0) or held back (1).
struct GatheredBatch {
    reader: usize,
    group: usize,
    held: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    other: Vec<f32>,
}

/// A layer where it is.
pub(super) struct LayerReader<'w> {
    pub layer: &'w Linear,
    /// What the teacher gives; with another term of the student's, if that is a sum.
    pub teacher: ValueId,
    pub y: Arc<ActivationFile>,
    /// The axis of that which counts outputs.
    pub axis: usize,
    pub other: Option<ValueId>,
    pub kept: Option<&'w [usize]>,
    /// Outputs beyond these are all the same to what reads them.
    pub bounds: Option<(f32, f32)>,
}

/// Some samples, by group: rows of Xᵀ, of what the teacher gives and of the other term (empty if there is none).
struct GatheredRows {
    x: Vec<Vec<f32>>,
    y: Vec<Vec<f32>>,
    other: Vec<Vec<f32>>,
}

impl GatheredRows {
    fn new(groups: usize) -> GatheredRows {
        let none = || vec![Vec::new(); groups];
        GatheredRows { x: none(), y: none(), other: none() }
    }

    /// Numbers of inputs and wanted outputs.
    fn count(&self) -> usize {
        self.x.iter().chain(&self.y).map(Vec::len).sum()
    }
}

impl LayerSamples<'_> {
    /// Whether outputs are bounded by what reads them, so that [`LayerSamples::retarget`] has something to say.
    pub fn is_bounded(&self) -> bool {
        self.sets.iter().flatten().any(|r| r.bounds.is_some())
    }

    /// The moments of what the layer reads and should give.
    ///
    /// # Errors
    /// As [`LayerwiseRun::look`].
    pub fn moments(&self) -> Result<LayerMoments, Failure> {
        if let Some(kept) = self.same.as_ref().and_then(|(of, moments)| moments.get(of)) {
            return Ok(kept);
        }
        let layer = self.sum()?;
        self.same.iter().for_each(|(of, moments)| moments.keep(of, &layer));
        Ok(layer)
    }

    /// Sums up the moments.
    fn sum(&self) -> Result<LayerMoments, Failure> {
        let (n, m) = (self.layer.inputs, self.layer.outputs);
        let of_set = |set: &Vec<LayerReader<'_>>| {
            let mut sums: Vec<_> = (0..self.layer.groups).map(|_| [Moments::new(n, m), Moments::new(n, m)]).collect();
            for reader in set {
                self.each(reader, |group, held, x, y, other| {
                    y.iter_mut().zip(other).for_each(|(y, o)| *y -= o);
                    sums[group][held].add_rows(x, y)
                })?;
            }
            let intercept = set.iter().all(|r| r.layer.bias != Bias::None);
            LayerMoments::new(sums, intercept)
                .ok_or(Failure::NotFinite("what it sees on the calibration data is not finite"))
        };
        joined(self.sets.iter().map(of_set))
    }

    /// `layer` with the outputs nearest to those that `fit` gives that are as good as the teacher's: behind a ReLU, any
    /// negative number is as good as another. (After Zhang et al. 2016, Accelerating Very Deep Convolutional Networks,
    /// section 3.2: fitting to them in turn lowers the error behind the activation.)
    ///
    /// # Errors
    /// As [`LayerwiseRun::look`].
    pub fn retarget(&self, layer: &LayerMoments, fit: &Fit) -> Result<LayerMoments, Failure> {
        let (n, m) = (self.layer.inputs, self.layer.outputs);
        let weights: Vec<_> = fit.w.iter().map(|w| w.mapv(|v| v as f32)).collect();
        let mut gathered = self.gathered.borrow_mut();
        gathered.resize_with(self.sets.len(), || None);
        let of_set = |(number, (set, kept)): (usize, (&Vec<LayerReader<'_>>, &mut Option<GatheredSet>))| {
            let target = |reader: &LayerReader<'_>, group: usize, x: &[f32], y: &mut [f32], other: &[f32]| {
                let (low, high) = reader.bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
                let given = math::rows_times(transposed(x, n)?, weights[group].view())?;
                let mut b: Vec<f32> = layer.bias_of(fit, number, group).iter().map(|&b| b as f32).collect();
                b.resize(m, 0.0);
                let wanted = |y: &mut f32, given: f32, other: f32| {
                    let sum = given + other;
                    *y = match *y {
                        y if y <= low => sum.min(low),
                        y if y >= high => sum.max(high),
                        y => y,
                    } - other;
                };
                let given = given.chunks(m).flat_map(|row| row.iter().zip(&b).map(|(given, b)| given + b));
                match other.is_empty() {
                    true => y.iter_mut().zip(given).for_each(|(y, given)| wanted(y, given, 0.0)),
                    false => {
                        y.iter_mut().zip(given).zip(other).for_each(|((y, given), &other)| wanted(y, given, other))
                    }
                }
                Some(())
            };
            let sums = match kept {
                Some(kept) => kept.sums(set, target)?,
                None => {
                    let new = || [TargetMoments::new(n, m), TargetMoments::new(n, m)];
                    let mut sums: Vec<_> = (0..self.layer.groups).map(|_| new()).collect();
                    let mut batches = self.is_small().then(Vec::new);
                    for (at, reader) in set.iter().enumerate() {
                        self.each(reader, |group, held, x, y, other| {
                            let new = || GatheredBatch::new([at, group, held], [x, y, other]);
                            batches.iter_mut().for_each(|batches| batches.push(new()));
                            target(reader, group, x, y, other)?;
                            sums[group][held].add_rows(x, y)
                        })?;
                    }
                    let inputs = || sums.iter().map(|of| of.each_ref().map(TargetMoments::same_inputs)).collect();
                    *kept = batches.map(|batches| GatheredSet { batches, inputs: inputs() });
                    sums
                }
            };
            let wanted = layer.retarget(number, sums);
            wanted.ok_or(Failure::NotFinite("what it gives on the calibration data is not finite"))
        };
        joined(self.sets.iter().zip(gathered.iter_mut()).enumerate().map(of_set))
    }

    /// Whether rows of all sets may stay in memory.
    fn is_small(&self) -> bool {
        let rows = |r: &LayerReader<'_>| {
            let numbers: usize = (0..self.chunks).map(|i| r.y.shape(i).iter().product::<usize>()).sum();
            numbers / (self.layer.outputs * self.layer.groups * self.step).max(1)
        };
        let all: usize = self.sets.iter().flatten().map(rows).sum();
        all * self.layer.groups * (self.layer.inputs + 2 * self.layer.outputs) <= KEPT
    }

    /// Calls `add` with every group's samples of a reader, some at a time, fitted (0) and held back (1) apart: rows of Xᵀ, of
    /// what the teacher gives and of the other term.
    pub(super) fn each(
        &self,
        reader: &LayerReader<'_>,
        mut add: impl FnMut(usize, usize, &mut [f32], &mut [f32], &[f32]) -> Option<()>,
    ) -> Result<(), Failure> {
        let layer = reader.layer;
        let mut gathered = [0, 1].map(|_| GatheredRows::new(layer.groups));
        let (mut x, mut y, mut other) = (Vec::new(), Vec::new(), Vec::new());
        let files = (self.side.file(layer.x)?, reader.other.map(|v| self.side.file(v)).transpose()?);
        for i in 0..self.chunks {
            let held = usize::from(i % HELD_BACK == HELD_BACK - 1);
            files.0.read_f32(i, &mut x)?;
            reader.y.read_f32(i, &mut y)?;
            files.1.map_or(Ok(()), |file| file.read_f32(i, &mut other))?;
            // Positions that differ from sample to sample.
            let taken = |row: usize| (row + i).is_multiple_of(self.step);
            let rows = &mut gathered[held];
            let mut gather = || {
                layer.columns(&x, files.0.shape(i), &taken, &mut rows.x)?;
                layer.targets(&y, reader.y.shape(i), reader.kept, &taken, &mut rows.y)?;
                if let Some(file) = files.1 {
                    layer.targets(&other, file.shape(i), None, &taken, &mut rows.other)?;
                }
                let samples = |of: &[Vec<f32>], width: usize| {
                    let samples = of.first()?.len() / width;
                    of.iter().all(|rows| rows.len() == samples * width).then_some(samples)
                };
                let (x, y) = (samples(&rows.x, layer.inputs), samples(&rows.y, layer.outputs));
                let other = if reader.other.is_some() { samples(&rows.other, layer.outputs) } else { y };
                (x.is_some() && x == y && y == other).then_some(())
            };
            gather().ok_or_else(|| {
                Failure::Unsupported("what it reads and gives has not the shape of its weight".into())
            })?;
            let count: usize = gathered.iter().map(GatheredRows::count).sum();
            if count >= GATHERED.max(COLUMNS * (layer.inputs + layer.outputs)) || i + 1 == self.chunks {
                for (held, GatheredRows { x, y, other }) in gathered.iter_mut().enumerate() {
                    for (group, ((x, y), other)) in x.iter_mut().zip(y).zip(other).enumerate() {
                        if y.is_empty() {
                            continue;
                        }
                        add(group, held, x, y, other)
                            .ok_or_else(|| Failure::Unsupported("its samples do not add up".into()))?;
                        for rows in [x, y, other] {
                            rows.clear();
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl GatheredSet {
    /// The sums for the targets that `target` makes of what the teacher gives.
    fn sums(
        &self,
        set: &[LayerReader<'_>],
        target: impl Fn(&LayerReader<'_>, usize, &[f32], &mut [f32], &[f32]) -> Option<()>,
    ) -> Result<Vec<[TargetMoments; 2]>, Failure> {
        let mut sums = self.inputs.clone();
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for batch in &self.batches {
            x.clone_from(&batch.x);
            y.clone_from(&batch.y);
            target(&set[batch.reader], batch.group, &x, &mut y, &batch.other)
                .and_then(|()| sums[batch.group][batch.held].add_rows(&mut x, &mut y))
                .ok_or_else(|| Failure::Unsupported("its samples do not add up".into()))?;
        }
        Ok(sums)
    }
}

impl GatheredBatch {
    fn new([reader, group, held]: [usize; 3], [x, y, other]: [&[f32]; 3]) -> GatheredBatch {
        GatheredBatch { reader, group, held, x: x.to_vec(), y: y.to_vec(), other: other.to_vec() }
    }
}

/// The samples of all sets, each with biases of its own.
fn joined(sets: impl Iterator<Item = Result<LayerMoments, Failure>>) -> Result<LayerMoments, Failure> {
    let join = |all: LayerMoments, set: Result<LayerMoments, _>| Ok(all.join(set?));
    let mut sets = sets;
    let first = sets.next().unwrap_or_else(|| Err(Failure::Unsupported("no layer reads its weight".into())))?;
    sets.try_fold(first, join)
}

/// Rows of `width` as the columns of a matrix.
pub(super) fn transposed(rows: &[f32], width: usize) -> Option<ArrayView2<'_, f32>> {
    Some(ArrayView2::from_shape((rows.len() / width, width), rows).ok()?.reversed_axes())
}
