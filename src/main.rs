//! The `tutee` command.

use tutee::cli::OrEnd;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: OrEnd<mimalloc::MiMalloc> = OrEnd(mimalloc::MiMalloc);

#[cfg(not(feature = "mimalloc"))]
#[global_allocator]
static ALLOCATOR: OrEnd<std::alloc::System> = OrEnd(std::alloc::System);

/// Makes the allocator give memory back after 1 ms, not 10. Calibration frees and takes much in short turns: its peak is lower so.
#[cfg(feature = "mimalloc")]
fn give_memory_back_early() {
    /// `mi_option_purge_delay` of mimalloc.h, which the bindings do not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: it must not be called by two threads at once, and there is one. What the environment sets takes precedence.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 1) };
}

fn main() -> std::process::ExitCode {
    #[cfg(feature = "mimalloc")]
    give_memory_back_early();
    tutee::cli::main()
}
