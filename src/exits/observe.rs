//! What a network has at some of its values on samples, small enough to keep: images are averaged over space.

use crate::data::{Array, Feed};
use crate::error::{Error, Result};
use crate::exec::Runner;
use crate::exec::plans::Plans;
use crate::ir::{Model, ValueId};
use ndarray::Array2;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Samples of a feed that takes one at a time.
pub struct SampleFeed<'a> {
    feed: &'a Feed<'a>,
    picks: Vec<usize>,
    /// Of the picked samples, where the data has labels.
    pub labels: Option<Vec<usize>>,
}

impl<'a> SampleFeed<'a> {
    /// # Errors
    /// If the model takes several samples at once.
    pub fn new(feed: &'a Feed<'a>, picks: Vec<usize>) -> Result<SampleFeed<'a>> {
        if feed.batch() != 1 {
            return Err(Error::target("the model cannot have exits")
                .because(format!(
                    "its inputs are for {} samples at once, and an exit is taken by all or by none",
                    feed.batch()
                ))
                .help("export it with a batch of 1, or a symbolic one"));
        }
        feed.hold(picks.iter().copied())?;
        let labels = feed.labels().map(|labels| picks.iter().map(|&i| labels[i]).collect());
        Ok(SampleFeed { feed, picks, labels })
    }

    pub fn count(&self) -> usize {
        self.picks.len()
    }

    /// Shapes of one sample, by input; of several, those that most samples have.
    pub fn shapes(&self) -> Vec<Vec<usize>> {
        self.feed.shapes_of(self.feed.usual())
    }
}

/// Which axes of a value [`observe`] keeps besides that of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptAxes {
    /// [1, C, …] becomes C means.
    Space,
    /// [1, T, C] becomes C means.
    Sequence,
    /// All elements stay.
    Nothing,
    /// A scalar.
    Number,
}

impl KeptAxes {
    fn of(self, array: &Array) -> Option<Vec<f32>> {
        let (x, shape) = (array.to_f32(), array.shape());
        match (self, shape) {
            (KeptAxes::Space, [1, channels, ..]) => {
                let size = x.len() / channels.max(&1);
                let mean = |c: &[f32]| (c.iter().map(|&v| f64::from(v)).sum::<f64>() / size as f64) as f32;
                Some(x.chunks(size.max(1)).map(mean).collect())
            }
            (KeptAxes::Sequence, &[1, steps, channels]) => {
                let mut sums = vec![0.0; channels];
                x.chunks(channels.max(1))
                    .for_each(|row| sums.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v)));
                Some(sums.into_iter().map(|s: f64| (s / steps as f64) as f32).collect())
            }
            (KeptAxes::Nothing, [1, ..]) | (KeptAxes::Number, []) => Some(x),
            _ => None,
        }
    }
}

/// Runs a model on all samples, and gives a row a sample for each of the values. `progress` is told how many are done.
///
/// # Errors
/// If tract cannot run it, or a value is not finite.
pub fn observe(
    model: &Model,
    values: &[(ValueId, KeptAxes)],
    source: &SampleFeed<'_>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Array2<f32>>> {
    let graph = &model.graph;
    let ids: Vec<ValueId> = values.iter().map(|v| v.0).collect();
    let make = |kind: usize| {
        let shapes = source.feed.shapes_of(kind);
        Runner::of_graph("the model", graph.part(&ids, &shapes)?, model, &shapes)
    };
    let done = AtomicUsize::new(0);
    let run = |runner: &Runner, i: usize| {
        let outputs = runner.run(&source.feed.chunk(i)?)?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        let row = |(array, &(v, pool)): (&Array, &(ValueId, KeptAxes))| {
            let name = &graph.value(v).name;
            let row = pool.of(array).ok_or_else(|| Error::internal(format!("\"{name}\" is {array}")))?;
            match row.iter().all(|v| v.is_finite()) {
                true => Ok(row),
                false => Err(Error::input(format!("\"{name}\" is not finite")).at(format!("sample {i}"))),
            }
        };
        outputs.iter().zip(values).map(row).collect::<Result<Vec<Vec<f32>>>>()
    };
    let kind = |&place: &usize| source.feed.kind(source.picks[place]);
    let mut jobs: Vec<usize> = (0..source.count()).collect();
    jobs.sort_by_key(kind);
    let (mut rows, mut plans, mut left) = (vec![Vec::new(); jobs.len()], Plans::default(), &jobs[..]);
    while !left.is_empty() {
        let some = Plans::<Runner>::next(left, usize::MAX, kind);
        left = &left[some.len()..];
        plans.reach(some, kind, make)?;
        let runner = |place| plans.get(kind(place)).ok_or_else(|| Error::internal("a plan is missing"));
        let given: Vec<Result<Vec<Vec<f32>>>> =
            some.par_iter().map(|place| run(runner(place)?, source.picks[*place])).collect();
        for (&place, row) in some.iter().zip(given) {
            rows[place] = row?;
        }
    }
    let mut flat: Vec<Vec<f32>> = vec![Vec::new(); values.len()];
    for row in rows {
        row.into_iter().zip(&mut flat).for_each(|(row, all)| all.extend(row));
    }
    let matrix = |all: Vec<f32>| {
        let width = all.len() / source.count().max(1);
        Array2::from_shape_vec((source.count(), width), all).map_err(|e| Error::internal(e.to_string()))
    };
    flat.into_iter().map(matrix).collect()
}
