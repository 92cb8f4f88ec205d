//! Out of memory is an error like any other, where the allocator is told so.

use crate::files;
use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;

/// An allocator that ends the process with an error where another one has no memory left. (A system that promises more than it
/// has ends processes itself, without a word.)
pub struct OrEnd<A>(pub A);

// SAFETY: every call goes to an allocator that keeps the contract, with what the caller vouches for; what it gives is given on,
// but for null, with which the process ends.
unsafe impl<A: GlobalAlloc> GlobalAlloc for OrEnd<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says.
        or_end(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { self.0.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says.
        or_end(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller says.
        or_end(unsafe { self.0.realloc(at, layout, size) }, size)
    }
}

fn or_end(at: *mut u8, size: usize) -> *mut u8 {
    if at.is_null() { end(size) } else { at }
}

/// What it calls takes no memory of the heap.
#[cold]
fn end(size: usize) -> ! {
    let mut text = [0; 200];
    let mut rest = &mut text[..];
    let _ = write!(
        rest,
        "error: out of memory\n  because  {size} bytes more are not to be had\n  help     \
         give the process more, or less to do: fewer --threads or samples\n"
    );
    let left = rest.len();
    let _ = std::io::stderr().write_all(&text[..text.len() - left]);
    files::abandon_at_once();
    signal_hook::low_level::exit(1)
}
