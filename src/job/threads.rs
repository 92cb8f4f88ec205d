//! The pool that everything parallel runs on.

use crate::error::{Error, Result};
use rayon::{ThreadBuilder, ThreadPoolBuilder};
use std::sync::Once;
use std::sync::mpsc::{Sender, channel};
use std::thread::available_parallelism;

static STARTED: Once = Once::new();

/// Starts the pool, the first time, with as many threads as are asked for, at most one a core, and as many as can be had: in the worst case
/// everything runs on this one.
///
/// # Errors
/// If none are asked for.
pub fn start(threads: Option<usize>) -> Result<()> {
    if threads == Some(0) {
        return Err(Error::input("--threads 0 leaves nothing to run on").help("give 1 or more"));
    }
    if STARTED.is_completed() {
        return Ok(());
    }
    STARTED.call_once(|| {});
    // Threads beyond the cores only cost memory.
    let cores = available_parallelism().map_or(1, |c| c.get());
    // A pool that could not start all of its threads is lost: it gets those that are there.
    let mut waiting: Vec<Sender<ThreadBuilder>> =
        (0..threads.map_or(cores, |n| n.min(cores))).map_while(wait).collect();
    let pool = match waiting.len() {
        0 => ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global(),
        n => ThreadPoolBuilder::new()
            .num_threads(n)
            .spawn_handler(|thread| {
                let gone = || std::io::Error::other("a thread has ended");
                waiting.pop().and_then(|w| w.send(thread).ok()).ok_or_else(gone)
            })
            .build_global(),
    };
    pool.map_err(|e| Error::internal(format!("the threads do not start: {e}")))
}

/// A thread that waits for what it is to run; it ends if that never comes.
fn wait(_: usize) -> Option<Sender<ThreadBuilder>> {
    let (send, receive) = channel::<ThreadBuilder>();
    let spawned = std::thread::Builder::new().spawn(move || receive.recv().map(ThreadBuilder::run));
    spawned.ok().map(|_| send)
}
