//! Bytes and time.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::data::evenly;
use crate::error::{self, Result};

/// Level 9: on weights, dense, sparse or clustered, within 7 % of level 19 and about ten times as fast.
const ZSTD_LEVEL: i32 = 9;

/// Length of the files, and their length after zstd, streamed.
pub(super) fn bytes(files: &[PathBuf]) -> Result<(u64, u64)> {
    let (mut plain, mut packed) = (0, 0);
    for path in files {
        let compress = || {
            let file = File::open(path)?;
            let mut count = Count(0);
            zstd::stream::copy_encode(&file, &mut count, ZSTD_LEVEL)?;
            Ok((file.metadata()?.len(), count.0))
        };
        let (len, zstd) = compress().map_err(|e| error::io("read", path, &e))?;
        plain += len;
        packed += zstd;
    }
    Ok((plain, packed))
}

/// Counts what is written and keeps nothing.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
