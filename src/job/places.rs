//! Where a run writes: never over what it reads, and no two things in one place.

use crate::error::{Error, Result};
use crate::files;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Files by what they are to the run.
pub type NamedFile<'a> = (&'static str, &'a Path);

/// Checks that no file of `written` is one of `read` or another of `written`, whatever it is called.
///
/// # Errors
/// If one is: names both.
pub fn check(written: &[NamedFile<'_>], read: &[NamedFile<'_>]) -> Result<()> {
    let mut taken: HashMap<Identity, &str> = HashMap::new();
    for (what, path) in read {
        taken.entry(Identity::of(path)).or_insert(what);
    }
    for (what, path) in written {
        if let Some(other) = taken.insert(Identity::of(path), what) {
            return Err(Error::input(format!("{what} would be written over {other}"))
                .at(path.display().to_string())
                .help("give it a name of its own"));
        }
    }
    Ok(())
}

/// Whether two paths lead to one file.
pub fn same(one: &Path, other: &Path) -> bool {
    Identity::of(one) == Identity::of(other)
}

/// What is the same for all ways to name a file, links of both kinds among them, as far as the file system tells.
#[derive(PartialEq, Eq, Hash)]
enum Identity {
    Inode((u64, u64)),
    Path(PathBuf),
}

impl Identity {
    fn of(path: &Path) -> Identity {
        if let Some(inode) = path.metadata().ok().and_then(|m| files::identity(&m)) {
            return Identity::Inode(inode);
        }
        let known = path.canonicalize().or_else(|_| {
            let folder = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
            Ok::<_, std::io::Error>(folder.canonicalize()?.join(path.file_name().unwrap_or_default()))
        });
        Identity::Path(known.unwrap_or_else(|_| path.to_path_buf()))
    }
}
