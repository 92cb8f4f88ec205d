//! `tutee passes`

use crate::error::Result;
use crate::passes::{Fidelity, Phase, REGISTRY};
#[cfg(feature = "exec")]
use crate::recipe::Distill;
use crate::recipe::{CLEAN, NONE};
#[cfg(feature = "exec")]
use crate::recipe::{Cascade, EarlyExit};
use std::process::ExitCode;

/// List the passes: when each may run, whether it is exact, and what it does
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["pass", "phase", "fidelity", "what it does"]);
        table.add_row([CLEAN, "clean", "exact", "All clean passes, until none finds anything."]);
        table.add_row([NONE, "", "exact", "Nothing: load and save."]);
        for entry in REGISTRY {
            let Ok(pass) = entry.make(toml::Table::new()) else { continue };
            let phase = match pass.phase() {
                Phase::Clean => "clean",
                Phase::Shrink => "shrink",
                Phase::Encode => "encode",
            };
            let fidelity = match pass.fidelity() {
                Fidelity::Exact => "exact",
                Fidelity::Approximate => "approximate",
            };
            table.add_row([entry.name, phase, fidelity, &entry.summary()]);
        }
        #[cfg(feature = "exec")]
        {
            let summary = crate::passes::summary(&Distill::manual());
            table.add_row([Distill::NAME, "stage", "approximate", &summary]);
        }
        #[cfg(feature = "exec")]
        for (name, manual) in [(EarlyExit::NAME, EarlyExit::manual()), (Cascade::NAME, Cascade::manual())] {
            table.add_row([name, "stage", "approximate", &crate::passes::summary(&manual)]);
        }
        let lines: String = table.to_string().lines().map(|l| format!("{}\n", l.trim())).collect();
        super::print(&lines)
    }
}
