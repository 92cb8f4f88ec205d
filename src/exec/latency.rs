//! How long networks take for one run.

use super::{Network, Runner};
use crate::data::{Array, InputSpec};
use crate::error::{Error, Result};
use crate::ir::Model;
use std::time::{Duration, Instant};

/// Runs before it counts, and runs that count: at most, and at least if they take long.
const WARM: usize = 2;
const RUNS: usize = 15;
const FEWEST: usize = 3;
const LONG: Duration = Duration::from_secs(2);

/// The median in nanoseconds of some runs of each of several models, in turn, so that they compare where a machine changes
/// its pace. Inputs are zeros; `shape` says of an input what it is, if that is known, and dims that nobody knows are 1.
///
/// # Errors
/// If a model cannot be run, or an input has no shape.
pub fn latencies(models: &[&Model], shape: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<Vec<u64>> {
    let mut all = models.iter().map(|model| Timed::new(model, shape)).collect::<Result<Vec<_>>>()?;
    in_turn(&mut all)
}

/// A network that is ready to run.
struct Timed {
    runner: Runner,
    inputs: Vec<Array>,
    times: Vec<Duration>,
}

impl Timed {
    fn new(model: &Model, known: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<Timed> {
        let network = Network::of_model("the model", model)?;
        let shape = |spec: &InputSpec| {
            let open = || spec.dims.as_ref().map(|dims| dims.iter().map(|d| d.unwrap_or(1)).collect());
            known(&spec.name).or_else(open).ok_or_else(|| {
                Error::input(format!("{spec} has no shape, and latency is that of one run"))
                    .help("say it with --input-shape NAME=1x3x224x224")
            })
        };
        let shapes = network.inputs().iter().map(shape).collect::<Result<Vec<_>>>()?;
        let zeros = |(spec, shape): (&InputSpec, &Vec<usize>)| Array::zeros(spec.dtype, shape.clone());
        let inputs = network.inputs().iter().zip(&shapes).map(zeros).collect::<Result<_>>()?;
        Ok(Timed { runner: network.runner(&shapes)?, inputs, times: Vec::new() })
    }
}

fn in_turn(all: &mut [Timed]) -> Result<Vec<u64>> {
    let began = Instant::now();
    for run in 0..WARM + RUNS {
        for timed in &mut *all {
            let start = Instant::now();
            timed.runner.run(&timed.inputs)?;
            timed.times.push(start.elapsed());
        }
        if run + 1 >= FEWEST && began.elapsed() > LONG {
            break;
        }
    }
    let median = |timed: &mut Timed| {
        let first = WARM.min(timed.times.len() - 1);
        let times = &mut timed.times[first..];
        times.sort();
        times[times.len() / 2].as_nanos() as u64
    };
    Ok(all.iter_mut().map(median).collect())
}
