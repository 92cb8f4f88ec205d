//! Out of memory is an error like any other, where the allocator is told so; `--max-memory` tells it earlier.

use super::messages;
use crate::{figures, files};
use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be in use, if there is a limit.
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
/// Bytes in use, counted once there is a limit. What was taken before and is given back makes it wrap: it is little.
static USED: AtomicU64 = AtomicU64::new(0);

/// The least limit: the command line itself takes about a tenth of it.
const LEAST: f64 = 10e6;

/// From now on no more than so many bytes may be in use on the heap. Files that are mapped do not count: the system takes their
/// memory back when it needs it.
pub fn limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// # Errors
/// If it is no number of bytes that anything can be done with.
pub fn parse(text: &str) -> Result<u64, String> {
    match figures::number(text) {
        Some(bytes) if bytes >= LEAST => Ok(bytes as u64),
        Some(_) => Err(format!("nothing can be done with {text}: give at least {}", figures::bytes(LEAST as u64))),
        None => Err(format!("\"{text}\" is no number of bytes: write 500MB or 2GiB")),
    }
}

/// Counts bytes that are to be taken; ends the process if there are too many.
fn take(size: usize) {
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit != u64::MAX {
        let used = USED.fetch_add(size as u64, Ordering::Relaxed);
        // Above a half of all numbers it has wrapped.
        if used <= u64::MAX / 2 && used.saturating_add(size as u64) > limit {
            end_at_limit(size, used, limit);
        }
    }
}

fn give_back(size: usize) {
    if LIMIT.load(Ordering::Relaxed) != u64::MAX {
        USED.fetch_sub(size as u64, Ordering::Relaxed);
    }
}

/// An allocator that ends the process with an error where another one has no memory left. (A system that promises more than it
/// has ends processes itself, without a word.)
pub struct OrEnd<A>(pub A);

// SAFETY: every call goes to an allocator that keeps the contract, with what the caller vouches for; what it gives is given on,
// but for null, with which the process ends.
unsafe impl<A: GlobalAlloc> GlobalAlloc for OrEnd<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller says.
        or_end(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: as the caller says.
        unsafe { self.0.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller says.
        or_end(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        give_back(layout.size());
        // SAFETY: as the caller says.
        or_end(unsafe { self.0.realloc(at, layout, size) }, size)
    }
}

fn or_end(at: *mut u8, size: usize) -> *mut u8 {
    if at.is_null() { end(size) } else { at }
}

#[cold]
fn end(size: usize) -> ! {
    let why = format_args!("{size} bytes more are not to be had");
    say("out of memory", why, "give the process more, or less to do: fewer --threads or samples")
}

#[cold]
fn end_at_limit(size: usize, used: u64, limit: u64) -> ! {
    // What is said takes a little itself.
    LIMIT.store(u64::MAX, Ordering::Relaxed);
    let why = format_args!("{used} bytes are in use, {size} more are wanted, and {limit} are allowed");
    let help = "allow more, or give it less to do: fewer --threads or samples";
    say("more memory is wanted than --max-memory allows", why, help)
}

/// Ends the process with an error. What it calls takes no memory of the heap.
fn say(what: &str, why: std::fmt::Arguments<'_>, help: &str) -> ! {
    let mut text = [0; 500];
    let mut rest = &mut text[..];
    let _ = match messages::is_json() {
        true => writeln!(
            rest,
            "{{\"type\":\"error\",\"kind\":\"input\",\"what\":\"{what}\",\"because\":\"{why}\",\"help\":\"{help}\",\
             \"exit_code\":1}}"
        ),
        false => writeln!(rest, "error: {what}\n  because  {why}\n  help     {help}"),
    };
    let left = rest.len();
    let _ = std::io::stderr().write_all(&text[..text.len() - left]);
    files::abandon_at_once();
    signal_hook::low_level::exit(1)
}
