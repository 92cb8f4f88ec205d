//! Progress on standard error: a bar on a terminal, a line a step otherwise, nothing with `-q`.

use crate::compress::Observer;
use crate::error::Result;
use crate::ir::{Model, text};
use crate::onnx::{Atomic, Pages};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Shows steps and sites, and dumps the IR after every step if asked to.
pub struct Progress {
    quiet: bool,
    bar: ProgressBar,
    dump: Option<PathBuf>,
    pages: Pages,
}

impl Progress {
    pub fn new(quiet: bool, dump: Option<PathBuf>) -> Progress {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {msg} (eta {eta})") {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress { quiet, bar, dump, pages: Pages::default() }
    }

    /// Keeps no more of the teacher in memory than one site has read: what is rewritten takes its place.
    pub fn releasing(self, pages: Pages) -> Progress {
        Progress { pages, ..self }
    }

    /// Samples run so far.
    #[cfg(feature = "exec")]
    pub fn samples(&self, done: usize, total: usize) {
        self.bar.set_prefix("checking");
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn step(&self, index: usize, count: usize, name: &str) {
        let title = format!("step {}/{count} {name}", index + 1);
        if !self.quiet && self.bar.is_hidden() {
            eprintln!("{title}");
        }
        self.bar.set_prefix(title);
        self.bar.reset();
    }

    fn site(&self, done: usize, count: usize, site: &str) {
        self.bar.set_length(count as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(site.to_string());
        self.pages.release();
    }

    fn model(&self, index: usize, name: &str, model: &Model) -> Result<()> {
        self.pages.release();
        let Some(folder) = &self.dump else { return Ok(()) };
        std::fs::create_dir_all(folder).map_err(|e| crate::error::io("make the folder", folder, &e))?;
        let mut file = Atomic::create(&folder.join(format!("{index:02}-{name}.ir")))?;
        file.write(|w| w.write_all(text::print::model(model).as_bytes()))?;
        file.commit().map(drop)
    }
}
