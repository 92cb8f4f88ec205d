//! The `tutee` command.

fn main() -> std::process::ExitCode {
    tutee::cli::main()
}
