//! A student's structure under version control: a text file that changes with the structure, and not with the weights.

use super::Listener;
use crate::error::{Result, read_text};
use crate::files::Atomic;
use crate::ir::Model;
use crate::ir::text::print;
use similar::TextDiff;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Lines around a change, and lines of a difference that are printed.
const AROUND: usize = 2;
const SHOWN: usize = 60;

/// The structure that a student is to have.
#[derive(Debug, Clone, Default)]
pub struct Golden {
    /// The file that says it, as `tutee show --structure` prints it; none if the structure may be any.
    pub file: Option<PathBuf>,
    /// Write the structure to that file instead.
    pub bless: bool,
}

/// What came of the comparison.
pub(super) enum Compared {
    Same,
    /// The target that was missed, in words.
    Differs(String),
    /// The file that is to be put in its place.
    Blessed(Atomic),
}

impl Golden {
    /// The file that is read, if there is one.
    pub(super) fn read(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| !self.bless)
    }

    /// The file that is written, if there is one.
    pub(super) fn written(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| self.bless)
    }

    /// Finds out before the work whether there is a file to compare with.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn check(&self) -> Result<()> {
        self.read().map_or(Ok(()), |path| self.golden(path).map(drop))
    }

    fn golden(&self, path: &Path) -> Result<String> {
        read_text("read the structure in", path).map_err(|e| e.help("--bless writes it for the first time"))
    }

    /// Compares the structure, and says how it differs.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub(super) fn compare(&self, student: &Model, listener: &dyn Listener) -> Result<Compared> {
        let Some(path) = &self.file else { return Ok(Compared::Same) };
        let mut student = student.clone();
        student.graph.flatten()?;
        let now = print::structure(&student);
        if self.bless {
            let mut file = Atomic::create(path)?;
            file.write(|w| w.write_all(now.as_bytes()))?;
            return Ok(Compared::Blessed(file));
        }
        let was = self.golden(path)?;
        if was == now {
            return Ok(Compared::Same);
        }
        let place = path.display().to_string();
        listener.difference(&difference(&was, &now, &place));
        Ok(Compared::Differs(format!("the structure is not that of {place} (--bless takes the new one)")))
    }
}

/// The lines that differ, with some around them.
fn difference(was: &str, now: &str, place: &str) -> String {
    let diff = TextDiff::from_lines(was, now);
    let text = diff.unified_diff().context_radius(AROUND).header(place, "the student").to_string();
    let more = text.lines().count().saturating_sub(SHOWN);
    let shown: Vec<&str> = text.lines().take(SHOWN).collect();
    let rest = if more > 0 { format!("\n… and {more} more lines") } else { String::new() };
    shown.join("\n") + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_difference_is_cut() {
        let lines = |n: usize| (0..n).map(|i| format!("{i}\n")).collect::<String>();
        let text = difference(&lines(0), &lines(100), "a");
        assert!(text.starts_with("--- a\n+++ the student\n") && text.ends_with("\n… and 43 more lines"), "{text}");
    }
}
