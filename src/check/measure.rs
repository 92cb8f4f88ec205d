//! Bytes and time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::data::evenly;
use crate::error::Result;
use crate::onnx;

/// Length of the files, and their length after zstd.
pub(super) fn bytes(files: &[PathBuf]) -> Result<(u64, u64)> {
    files.iter().try_fold((0, 0), |(plain, packed), file| {
        let (p, z) = onnx::packed_file_len(file)?;
        Ok((plain + p, packed + z))
    })
}

/// Milliseconds of many runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// The median, in milliseconds.
    pub median_ms: f64,
    /// The mean, in milliseconds.
    pub mean_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
}

impl Times {
    /// The times of one of so many samples that ran at once.
    pub(super) fn per(self, batch: usize) -> Times {
        let batch = batch as f64;
        Times { median_ms: self.median_ms / batch, mean_ms: self.mean_ms / batch, p95_ms: self.p95_ms / batch }
    }

    fn of(mut times: Vec<Duration>) -> Times {
        times.sort();
        let ms = |t: Option<&Duration>| t.map_or(0.0, |t| t.as_secs_f64() * 1e3);
        let total: Duration = times.iter().sum();
        Times {
            median_ms: ms(times.get(times.len() / 2)),
            mean_ms: ms(Some(&total)) / times.len().max(1) as f64,
            p95_ms: ms(times.get((times.len() * 95 / 100).min(times.len().saturating_sub(1)))),
        }
    }
}

/// Times of two runs, taken in turn (A B A B …) so that whatever else the machine does meets both alike.
///
/// `prepare(i)` makes both runs of one of `chunks` chunks, untimed. It takes at most `rounds` rounds, and fewer (three at
/// least) if they last longer than three seconds; one more round before warms up.
pub(super) fn interleaved<R: FnOnce() -> Result<()>>(
    chunks: usize,
    rounds: usize,
    prepare: impl Fn(usize) -> Result<[R; 2]>,
) -> Result<[Times; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    for (round, i) in std::iter::once(0).chain(evenly(rounds, chunks).cycle().take(rounds)).enumerate() {
        if round > 3 && start.elapsed() > Duration::from_secs(3) {
            break;
        }
        for (run, times) in prepare(i)?.into_iter().zip(&mut times) {
            let start = Instant::now();
            run()?;
            if round > 0 {
                times.push(start.elapsed());
            }
        }
    }
    Ok(times.map(Times::of))
}
