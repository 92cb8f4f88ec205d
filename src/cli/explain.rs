//! `tutee explain SUBJECT`

use super::words::{self, TOPICS};
use crate::error::{Error, Result};
use crate::passes::options::suggest;
use crate::passes::{self, budget, by_layer, find};
#[cfg(feature = "exec")]
use crate::recipe::Distill;
use crate::recipe::{CLEAN, NONE, names};
#[cfg(feature = "exec")]
use crate::recipe::{CascadeStage, EarlyExit};
use std::process::ExitCode;

/// The page on what the budgets of passes have in common.
const BUDGETS: &str = "budgets";
/// The page on options that take values by layer.
const TABLES: &str = "tables";

/// The page on how a recipe is looked for.
const SEARCH: &str = "search";

/// Print the manual page of a pass or a subject: what it does, its options, an example
#[derive(clap::Args)]
#[command(after_help = "Subjects: quantize, prune, low-rank, data, targets, budgets, recipe, search, jobs.

Examples:
  tutee explain cluster-weights
  tutee explain targets")]
pub struct Args {
    /// A pass, a stage, or a subject
    #[arg(value_name = "SUBJECT")]
    pass: String,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let clean = passes::clean();
        let all = clean.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
        match find(&self.pass) {
            None if self.pass == CLEAN => super::print(&format!(
                "{CLEAN}\n\nAll Clean passes but `bind-defaults`, round after round until none finds anything. With `keep-metadata` = true, what exporters note of nodes and values stays.\n\nThey are: {all}.\n"
            )),
            None if self.pass == NONE => {
                super::print(&format!("{NONE}\n\nDoes nothing: the model is loaded and saved.\n"))
            }
            #[cfg(feature = "exec")]
            None if self.pass == SEARCH => super::print(&format!("{SEARCH}\n\n{}", crate::search::manual())),
            None if self.pass == BUDGETS => super::print(&format!("{BUDGETS}\n\n{}", budget::manual())),
            None if self.pass == TABLES => super::print(&format!("{TABLES}\n\n{}", by_layer::manual())),
            #[cfg(feature = "exec")]
            None if self.pass == Distill::NAME => super::print(&format!("{}\n\n{}", Distill::NAME, Distill::manual())),
            #[cfg(feature = "exec")]
            None if self.pass == EarlyExit::NAME => {
                super::print(&format!("{}\n\n{}", EarlyExit::NAME, EarlyExit::manual()))
            }
            #[cfg(feature = "exec")]
            None if self.pass == CascadeStage::NAME => {
                super::print(&format!("{}\n\n{}", CascadeStage::NAME, CascadeStage::manual()))
            }
            Some(entry) => super::print(&format!("{}\n\n{}", entry.name, entry.manual())),
            None => match words::topic(&self.pass) {
                Some(topic) => super::print(topic.page),
                None => {
                    let subjects = TOPICS.iter().map(|t| t.name).chain([BUDGETS, TABLES, SEARCH]);
                    Err(Error::input(format!("unknown pass `{}`", self.pass))
                        .help(suggest(&self.pass, names().chain(subjects))))
                }
            },
        }
    }
}
