//! The command line: one file a subcommand, each over the public API alone.

#[cfg(feature = "exec")]
mod cascade;
#[cfg(feature = "exec")]
mod check;
mod completions;
mod compress;
#[cfg(feature = "exec")]
mod data;
#[cfg(feature = "distill")]
mod distill;
mod explain;
mod job;
mod new;
mod passes;
mod places;
mod progress;
mod show;

use crate::error::{Error, Result};
use crate::onnx::Target;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compress trained ONNX networks: smaller, faster, and checked.
#[derive(Parser)]
#[command(
    name = "tutee",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done; 1 your input (model, recipe, data, arguments); 2 the student missed a target, or is not finite where
the teacher is; 3 a bug in tutee.

Examples:
  tutee compress teacher.onnx -o student.onnx
  tutee compress teacher.onnx -o student.onnx -p clean -p cluster-weights:bits=4,groups=16
  tutee check teacher.onnx student.onnx --data test.npz
  tutee show student.onnx
  tutee new student-net --classes 10 --input 3x32x32 -o student.onnx"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compress(compress::Args),
    #[cfg(feature = "distill")]
    Distill(distill::Args),
    #[cfg(feature = "exec")]
    Cascade(cascade::Args),
    #[cfg(feature = "exec")]
    Check(check::Args),
    Show(show::Args),
    Passes(passes::Args),
    Explain(explain::Args),
    New(new::Args),
    Completions(completions::Args),
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let asked = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = e.print();
            return ExitCode::from(if asked { 0 } else { 1 });
        }
    };
    let done = match cli.command {
        Command::Compress(args) => args.run(),
        #[cfg(feature = "distill")]
        Command::Distill(args) => args.run(),
        #[cfg(feature = "exec")]
        Command::Cascade(args) => args.run(),
        #[cfg(feature = "exec")]
        Command::Check(args) => args.run(),
        Command::Show(args) => args.run(),
        Command::Passes(args) => args.run(),
        Command::Explain(args) => args.run(),
        Command::New(args) => args.run(),
        Command::Completions(args) => args.run(),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            say(&e);
            ExitCode::from(e.exit_code())
        }
    }
}

/// Writes a line of talk to standard error. Whether anybody can read it does not matter to the work.
fn say(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a product to standard output. A reader that went away is no error.
fn print(text: &str) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|_| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(crate::error::io("write to", std::path::Path::new("standard output"), &e))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Where a model goes that is to be written to a file or, for `-`, to standard output.
fn target(output: PathBuf) -> Target {
    if output.as_os_str() == "-" { Target::Stdout } else { Target::File(output) }
}

/// Sizes the pool that everything parallel runs on.
fn set_threads(threads: Option<usize>) -> Result<()> {
    match threads {
        None => Ok(()),
        Some(0) => Err(Error::input("--threads 0 leaves nothing to run on").help("give 1 or more")),
        // Threads beyond the cores only cost memory.
        Some(n) => rayon::ThreadPoolBuilder::new()
            .num_threads(n.min(std::thread::available_parallelism().map_or(1, |c| c.get())))
            .build_global()
            .map_err(|e| Error::input(format!("cannot start {n} threads")).because(e.to_string())),
    }
}

/// Exit code 2 if a target was missed, with every one named.
fn targets(missed: &[String]) -> Result<ExitCode> {
    match missed {
        [] => Ok(ExitCode::SUCCESS),
        _ => Err(Error::target("the student missed its target").because(missed.join("; "))),
    }
}
