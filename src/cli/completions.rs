//! `tutee completions SHELL`

use crate::error::Result;
use clap::CommandFactory;
use std::process::ExitCode;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tutee completions bash > /etc/bash_completion.d/tutee")]
pub struct Args {
    shell: clap_complete::Shell,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "tutee", &mut script);
        super::print(&String::from_utf8_lossy(&script))
    }
}
