//! Where a run writes: never over what it reads, and no two things in one place.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Files by what they are to the run.
pub type Named<'a> = (&'static str, &'a Path);

/// Checks that no file of `written` is one of `read` or another of `written`.
///
/// # Errors
/// If one is: names both.
pub fn check(written: &[Named<'_>], read: &[Named<'_>]) -> Result<()> {
    for (i, (what, path)) in written.iter().enumerate() {
        let here = identity(path);
        let same = |(_, other): &&Named<'_>| identity(other) == here;
        if let Some((other, _)) = read.iter().chain(&written[..i]).find(same) {
            return Err(Error::input(format!("{what} would be written over {other}"))
                .at(path.display().to_string())
                .help("give it a name of its own"));
        }
    }
    Ok(())
}

/// One path for all ways to write it, as far as the file system tells.
fn identity(path: &Path) -> PathBuf {
    let known = path.canonicalize().or_else(|_| {
        let folder = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        Ok::<_, std::io::Error>(folder.canonicalize()?.join(path.file_name().unwrap_or_default()))
    });
    known.unwrap_or_else(|_| path.to_path_buf())
}
