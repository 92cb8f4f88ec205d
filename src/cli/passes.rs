//! `tutee passes`

use super::terminal::Stream;
use crate::error::Result;
use crate::passes::{Fidelity, Phase, REGISTRY};
#[cfg(feature = "exec")]
use crate::recipe::Distill;
use crate::recipe::{CLEAN, NONE};
#[cfg(feature = "exec")]
use crate::recipe::{CascadeStage, EarlyExit};
use std::process::ExitCode;

/// List the passes: when each may run, whether it is exact, and what it does
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let mut rows: Vec<[String; 4]> = Vec::new();
        let mut add = |row: [&str; 4]| rows.push(row.map(str::to_string));
        add([CLEAN, "clean", "exact", "All clean passes but bind-defaults, until none finds anything."]);
        add([NONE, "", "exact", "Nothing: load and save."]);
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
            add([entry.name, phase, fidelity, &entry.summary()]);
        }
        #[cfg(feature = "exec")]
        {
            let summary = crate::passes::summary(&Distill::manual());
            add([Distill::NAME, "stage", "approximate", &summary]);
        }
        #[cfg(feature = "exec")]
        for (name, manual) in [(EarlyExit::NAME, EarlyExit::manual()), (CascadeStage::NAME, CascadeStage::manual())] {
            add([name, "stage", "approximate", &crate::passes::summary(&manual)]);
        }
        if self.json {
            let passes = rows.iter().map(|[name, phase, fidelity, summary]| {
                serde_json::json!({ "name": name, "phase": phase, "fidelity": fidelity, "summary": summary })
            });
            let json = serde_json::json!({ "version": 1, "passes": passes.collect::<Vec<_>>() });
            return super::print(&format!("{json:#}\n"));
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        table.set_width(Stream::Out.columns());
        table.set_header(["pass", "phase", "fidelity", "what it does"]);
        rows.into_iter().for_each(|row| {
            table.add_row(row);
        });
        table.column_iter_mut().take(1).for_each(|c| {
            c.set_padding((0, 1));
        });
        let lines: String = table.to_string().lines().map(|l| format!("{}\n", l.trim_end())).collect();
        super::print(&lines)
    }
}
