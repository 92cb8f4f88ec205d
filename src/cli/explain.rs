//! `tutee explain PASS`

use crate::error::{Error, Result};
use crate::passes::options::suggest;
use crate::passes::{REGISTRY, find};
use std::process::ExitCode;

/// Print the manual page of a pass: what it does, its options, an example
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tutee explain cluster-weights")]
pub struct Args {
    pass: String,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        match find(&self.pass) {
            Some(entry) => super::print(&format!("{}\n\n{}", entry.name, entry.manual())),
            None => Err(Error::input(format!("unknown pass `{}`", self.pass))
                .help(suggest(&self.pass, REGISTRY.iter().map(|e| e.name)))),
        }
    }
}
