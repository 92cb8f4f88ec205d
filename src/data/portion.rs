//! How much of data is in memory at a time, where not all of it has to be.

use std::sync::atomic::{AtomicUsize, Ordering};

const USUAL: usize = 1 << 26;
/// Less makes reading slow.
const LEAST: usize = 1 << 20;

static PORTION: AtomicUsize = AtomicUsize::new(USUAL);

/// Bytes: arrays that are larger are read by rows, and samples that are gone through are held so many at a time. What is computed
/// does not depend on it.
pub(super) fn bytes() -> usize {
    PORTION.load(Ordering::Relaxed)
}

/// From now on, portions leave most of so much memory to others.
pub fn limit_memory(memory: u64) {
    let part = usize::try_from(memory / 16).unwrap_or(usize::MAX);
    PORTION.store(part.clamp(LEAST, USUAL), Ordering::Relaxed);
}
