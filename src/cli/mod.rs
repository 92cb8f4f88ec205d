//! The command line: one file a subcommand, each over the public API alone.

#[cfg(feature = "exec")]
mod cascade;
#[cfg(feature = "exec")]
mod check;
mod completions;
mod compress;
#[cfg(feature = "exec")]
mod data;
mod diff;
#[cfg(feature = "exec")]
mod distill;
mod dry_run;
mod explain;
#[cfg(feature = "exec")]
mod gates;
mod job;
mod man;
mod memory;
mod messages;
mod new;
mod output;
mod passes;
mod progress;
#[cfg(feature = "exec")]
mod rounds;
#[cfg(feature = "exec")]
mod samples;
#[cfg(not(feature = "exec"))]
#[path = "no_samples.rs"]
mod samples;
#[cfg(feature = "exec")]
mod search;
#[cfg(feature = "exec")]
mod sensitivity;
mod show;
mod signals;
mod sizes;
mod summary;
mod terminal;
mod words;
mod wrap;

pub use memory::OrEnd;
use messages::{say, warn};

use crate::error::{Error, Result};
use crate::job::Job;
use crate::plain;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use terminal::Stream;

/// Compress trained ONNX networks: smaller, faster, and checked.
#[derive(Parser)]
#[command(
    name = "tutee",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done; 1 your input (model, recipe, data, arguments), or no memory or room on the disk; 2 the student missed a
target, is not finite where the teacher is, or was interrupted in training; 3 a bug in tutee. A signal ends a run with
nothing written: 130 after Ctrl-C, 143 after SIGTERM.

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
    /// How progress, warnings and errors are written to standard error: as text, or one JSON object a line
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value = "text", hide_possible_values = true)]
    message_format: messages::Format,
    /// Memory that may be in use, such as 2GB: where more is needed the run ends with an error. Files that are mapped
    /// do not count
    #[arg(long, global = true, value_name = "SIZE", value_parser = memory::parse)]
    max_memory: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    Compress(Box<compress::Args>),
    #[cfg(feature = "exec")]
    Distill(distill::Args),
    #[cfg(feature = "exec")]
    Cascade(cascade::Args),
    #[cfg(feature = "exec")]
    Check(check::Args),
    #[cfg(feature = "exec")]
    Search(rounds::Args),
    #[cfg(feature = "exec")]
    Sensitivity(Box<sensitivity::Args>),
    Show(show::Args),
    Diff(diff::Args),
    Passes(passes::Args),
    Explain(explain::Args),
    New(new::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Command::Compress(args) => args.run(),
            #[cfg(feature = "exec")]
            Command::Distill(args) => args.run(),
            #[cfg(feature = "exec")]
            Command::Cascade(args) => args.run(),
            #[cfg(feature = "exec")]
            Command::Check(args) => args.run(),
            #[cfg(feature = "exec")]
            Command::Search(args) => args.run(),
            #[cfg(feature = "exec")]
            Command::Sensitivity(args) => args.run(),
            Command::Show(args) => args.run(),
            Command::Diff(args) => args.run(),
            Command::Passes(args) => args.run(),
            Command::Explain(args) => args.run(),
            Command::New(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
        }
    }
}

/// The job that arguments of `tutee compress` ask for, after a search for its recipe if they ask for that.
///
/// # Errors
/// If they make no sense, or the search fails.
pub(crate) fn compress_job(arguments: &[OsString]) -> Result<Job> {
    let cli = Cli::try_parse_from(arguments).map_err(|e| misused(&e.to_string()))?;
    match cli.command {
        Command::Compress(args) => args.job(),
        _ => Err(Error::internal("arguments of another command")),
    }
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            if let Some(tried) = tried(&e) {
                messages::choose(messages::chosen(std::env::args_os()));
                messages::error(&tried);
                return ExitCode::from(tried.exit_code());
            }
            let asked = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let text = e.to_string();
            if !asked && messages::chosen(std::env::args_os()) == messages::Format::Json {
                messages::choose(messages::Format::Json);
                messages::error(&misused(&text));
                return ExitCode::from(1);
            }
            let _ = match plain::lines(&text) {
                Cow::Borrowed(_) => e.print(),
                // What was typed is quoted, whatever it was.
                Cow::Owned(text) => write!(std::io::stderr(), "{text}"),
            };
            return ExitCode::from(if asked { 0 } else { 1 });
        }
    };
    messages::choose(cli.message_format);
    if let Some(limit) = cli.max_memory {
        memory::limit(limit);
        crate::data::limit_memory(limit);
    }
    signals::watch();
    let run = || cli.command.run();
    let panicked = |message| Err(Error::internal(message).because("RUST_BACKTRACE=1 shows where"));
    let done = crate::error::process(run).unwrap_or_else(panicked);
    match done {
        Ok(code) => code,
        Err(e) => {
            messages::error(&e);
            ExitCode::from(e.exit_code())
        }
    }
}

/// What clap says of arguments that make no sense: its first paragraph is what, the others are how it would.
fn misused(text: &str) -> Error {
    let (what, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let lines = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::input(lines(what.trim_start_matches("error: "))).help(lines(rest))
}

/// The answer to an option or a command that there is not, but whose word is one that people try.
fn tried(e: &clap::Error) -> Option<Error> {
    let (kind, what) = match e.kind() {
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, "option"),
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, "command"),
        _ => return None,
    };
    let Some(ContextValue::String(word)) = e.get(kind) else { return None };
    let topic = words::topic(word)?;
    Some(Error::input(format!("there is no {what} `{word}`")).help(topic.advice))
}

/// The command that this process was called with, as a shell reads it.
fn again() -> String {
    let words = std::env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy()));
    ["tutee".into()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,.:/%@".contains(c);
    match word.chars().all(plain) && !word.is_empty() {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Writes a product to standard output. A reader that went away is no error.
fn print(text: &str) -> Result<ExitCode> {
    write(&plain::lines(text))
}

/// As [`print`], of text that ends a run and has lines about targets.
fn tell(text: &str) -> Result<ExitCode> {
    write(&Stream::Out.toned(&plain::lines(text)))
}

fn write(text: &str) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|_| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(crate::error::io("write to", Path::new("standard output"), &e))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
