//! The `tutee` command.

use tutee::cli::OrEnd;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: OrEnd<mimalloc::MiMalloc> = OrEnd(mimalloc::MiMalloc);

#[cfg(not(feature = "mimalloc"))]
#[global_allocator]
static ALLOCATOR: OrEnd<std::alloc::System> = OrEnd(std::alloc::System);

fn main() -> std::process::ExitCode {
    tutee::cli::main()
}
