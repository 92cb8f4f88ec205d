//! The command line: one file a subcommand, each over the public API alone.

mod completions;
mod compress;
mod explain;
mod passes;
mod progress;
mod show;

use crate::error::Result;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Compress trained ONNX networks: smaller, faster, and checked.
#[derive(Parser)]
#[command(
    name = "tutee",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done; 1 your input (model, recipe, data, arguments); 2 the student missed a target; 3 a bug in tutee.

Examples:
  tutee compress teacher.onnx -o student.onnx
  tutee compress teacher.onnx -o student.onnx -p clean -p cluster-weights:bits=4,groups=16
  tutee show student.onnx"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compress(compress::Args),
    Show(show::Args),
    Passes(passes::Args),
    Explain(explain::Args),
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
        Command::Show(args) => args.run(),
        Command::Passes(args) => args.run(),
        Command::Explain(args) => args.run(),
        Command::Completions(args) => args.run(),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_code())
        }
    }
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
