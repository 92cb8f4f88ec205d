//! Bytes and time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

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

/// Median milliseconds of two runs, taken in turn (A B A B …) so that whatever else the machine does meets both alike.
///
/// `prepare(i)` makes both runs of one of `chunks` chunks, untimed. It takes at most 33 rounds, and fewer (three at
/// least) if they last longer than three seconds; one more round before warms up.
pub(super) fn interleaved<R: FnOnce() -> Result<()>>(
    chunks: usize,
    prepare: impl Fn(usize) -> Result<[R; 2]>,
) -> Result<[f64; 2]> {
    const ROUNDS: usize = 33;
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    for (round, i) in std::iter::once(0).chain(evenly(ROUNDS, chunks).cycle().take(ROUNDS)).enumerate() {
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
    Ok(times.map(|mut times| {
        times.sort();
        times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    }))
}
