//! Files that appear under their names complete or not at all, together where they belong together.

mod content;
mod temporary;

pub use content::{DataFile, Named, Placed, called_data_of, digest, is_called_data_of, is_data_of};
pub use temporary::{Leftover, abandon, abandon_at_once, identity, leftovers};

use crate::error::{Error, Result, io};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use temporary::Temporary;

/// A file that is written beside its place, and gets there with [`commit`]. If that does not happen, it goes.
pub struct Atomic {
    path: PathBuf,
    /// `path`, or what it links to.
    real: PathBuf,
    file: Temporary,
    needs: Vec<Placed>,
    replaces: Vec<PathBuf>,
}

/// Where a file of this name is: elsewhere, if the name is a link.
///
/// # Errors
/// If it is a link to nothing.
pub fn followed(path: &Path) -> Result<PathBuf> {
    match path.is_symlink() {
        true => path.canonicalize().map_err(|e| io("follow the link", path, &e)),
        false => Ok(path.to_path_buf()),
    }
}

impl Atomic {
    /// What a killed run to the same place left behind is removed.
    ///
    /// # Errors
    /// If the folder of `path` cannot be written to, or something other than a file stands there.
    pub fn create(path: &Path) -> Result<Atomic> {
        let cannot = |why: String| Error::input(format!("cannot write {}", path.display())).because(why);
        let real = followed(path)?;
        match real.metadata() {
            Ok(m) if m.is_dir() => return Err(cannot("it is a folder".into()).help("name a file in it")),
            Ok(m) if !m.is_file() => {
                return Err(
                    cannot("it is a device, pipe or socket".into()).help("name a file, or - for standard output")
                );
            }
            _ => {}
        }
        let folder = folder_of(&real);
        if !folder.is_dir() {
            return Err(
                cannot(format!("there is no folder {}", folder.display())).help("make it first, or choose another")
            );
        }
        leftovers(&real).into_iter().for_each(Leftover::remove);
        let file = Temporary::create(&real).map_err(|e| {
            let help = match e.kind() {
                std::io::ErrorKind::PermissionDenied => "choose a folder that can be written to",
                _ => "choose another folder, or free what the system is short of",
            };
            cannot(format!("{}: {e}", folder.display())).help(help)
        })?;
        Ok(Atomic { path: path.to_path_buf(), real, file, needs: Vec::new(), replaces: Vec::new() })
    }

    /// # Errors
    /// If writing fails.
    pub fn write<R>(&mut self, f: impl FnOnce(&mut File) -> std::io::Result<R>) -> Result<R> {
        f(&mut self.file.file).map_err(|e| self.cannot_write(&e))
    }

    fn cannot_write(&self, e: &std::io::Error) -> Error {
        io("write", &self.path, e).help("what stood there is as it was: make room, or choose another place")
    }

    /// Where it is to be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is for now.
    pub fn written(&self) -> &Path {
        self.file.path()
    }

    /// A file that it reads and that has its name already: it stays there only if this one comes to its place.
    pub fn needs(&mut self, placed: Placed) {
        self.needs.push(placed);
    }

    /// Files that nobody reads any more once this one is in its place: they go then.
    pub fn replaces(&mut self, old: Vec<PathBuf>) {
        self.replaces.extend(old);
    }

    /// Files that are to stay, whatever this one replaces.
    pub fn spare(&mut self, read: &[PathBuf]) {
        let read: BTreeSet<_> = read.iter().filter_map(|p| p.canonicalize().ok()).collect();
        self.replaces.retain(|old| old.canonicalize().is_ok_and(|old| !read.contains(&old)));
    }

    /// Bytes of the file and of what it needs.
    ///
    /// # Errors
    /// If the file system does not tell.
    pub fn bytes(&self) -> Result<u64> {
        let own = self.file.file.metadata().map_err(|e| io("write", &self.path, &e))?.len();
        Ok(own + self.needs.iter().map(Placed::bytes).sum::<u64>())
    }

    /// [`commit`] for one file.
    ///
    /// # Errors
    /// As there.
    pub fn commit(self) -> Result<()> {
        commit(vec![self], || {}).map(drop)
    }
}

/// Renames files into place in this order, all or none: what stood there is put back if a later one cannot follow. All are on
/// the disk before the first is renamed, so that a crash leaves old ones or new ones, each whole. `done` is called once they are
/// in place, before a signal that came meanwhile ends the process. Gives paths and bytes of these files and of those that they
/// need.
///
/// # Errors
/// If a file cannot be written to the disk or renamed.
pub fn commit(files: Vec<Atomic>, done: impl FnOnce()) -> Result<Vec<(PathBuf, u64)>> {
    let mut written = Vec::new();
    for file in &files {
        file.file.finish(&file.real).map_err(|e| file.cannot_write(&e))?;
        written.extend(file.needs.iter().map(|n| (n.path().to_path_buf(), n.bytes())));
        written.push((file.path.clone(), file.bytes()? - file.needs.iter().map(Placed::bytes).sum::<u64>()));
    }
    // The last one needs no way back. An old model whose data goes keeps a second name until it is gone: if this process is
    // killed between, the next run finds the data by it.
    let (mut kept, most) = (Vec::new(), files.len().saturating_sub(1));
    for (i, file) in files.iter().enumerate() {
        let is_kept = file.real.exists() && (i < most || !file.replaces.is_empty());
        let old = is_kept.then(|| Temporary::link(&file.real)).transpose();
        kept.push(old.map_err(|e| file.cannot_write(&e))?);
    }
    let folders: BTreeSet<PathBuf> = files.iter().map(|f| folder_of(&f.real).to_path_buf()).collect();
    let whole = temporary::uninterrupted();
    let mut placed: Vec<(PathBuf, Option<Temporary>)> = Vec::new();
    let (mut needs, mut replaces) = (Vec::new(), Vec::new());
    for (file, old) in files.into_iter().zip(kept) {
        if let Err(e) = file.file.rename(&file.real) {
            for (real, old) in placed {
                match old {
                    Some(old) => old.rename(&real).map_err(|e| io("put back", &real, &e))?,
                    None => drop(std::fs::remove_file(&real)),
                }
            }
            return Err(io("write", &file.path, &e));
        }
        placed.push((file.real, old));
        needs.extend(file.needs);
        replaces.extend(file.replaces);
    }
    done();
    let now: Vec<PathBuf> = needs.into_iter().map(Placed::keep).collect();
    // A folder that cannot be synced is no reason to fail: its files are.
    folders.iter().for_each(|f| drop(File::open(f).and_then(|f| f.sync_all())));
    replaces.iter().filter(|old| !now.contains(old)).for_each(|old| drop(std::fs::remove_file(old)));
    drop(placed);
    drop(whole);
    Ok(written)
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn written(path: &Path, text: &str) -> Atomic {
        let mut file = Atomic::create(path).unwrap();
        file.write(|w| w.write_all(text.as_bytes())).unwrap();
        file
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_replaced_is_put_back_if_a_later_file_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let (first, last) = (folder.path().join("first"), folder.path().join("last"));
        for old in [None, Some("old")] {
            let files = vec![written(&first, "new"), written(&last, "new")];
            if let Some(old) = old {
                std::fs::write(&first, old).unwrap();
            }
            std::fs::create_dir(&last).unwrap();
            let error = commit(files, || panic!("not all are in place")).unwrap_err();
            assert!(error.to_string().contains("last"), "{error}");
            assert_eq!(std::fs::read_to_string(&first).ok().as_deref(), old);
            std::fs::remove_dir(&last).unwrap();
            assert_eq!(names(folder.path()).len(), usize::from(old.is_some()));
        }
    }

    /// A signal waits for this lock, so that it finds noted what is in place.
    #[test]
    fn what_is_in_place_is_noted_before_a_signal_acts() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("m");
        let mut noted = false;
        let done = || {
            assert!(place.exists() && temporary::is_uninterrupted());
            noted = true;
        };
        commit(vec![written(&place, "new")], done).unwrap();
        assert!(noted);
    }

    /// A run that is killed before the old data is gone leaves what the next run finds it by.
    #[test]
    fn what_is_replaced_has_a_name_as_long_as_its_data() {
        let folder = tempfile::tempdir().unwrap();
        let (place, data) = (folder.path().join("m"), folder.path().join("data"));
        std::fs::write(&place, "old").unwrap();
        std::fs::write(&data, "weights").unwrap();
        let mut new = written(&place, "new");
        new.replaces(vec![data.clone()]);
        let done = || {
            let old = hidden(&folder);
            assert!(data.exists() && old == ["old"], "{old:?}");
        };
        commit(vec![new], done).unwrap();
        assert_eq!(names(folder.path()), ["m"]);
    }

    fn hidden(folder: &tempfile::TempDir) -> Vec<String> {
        let names = names(folder.path()).into_iter().filter(|name| name.starts_with('.'));
        names.map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap()).collect()
    }

    #[test]
    fn only_what_nobody_writes_to_the_same_place_any_more_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, other) = (folder.path().join("mine"), folder.path().join("other"));
        let running = written(&mine, "still written");
        let left = |of: &Path| {
            let name = written(of, "").written().file_name().unwrap().to_owned();
            std::fs::write(folder.path().join(&name), "half").unwrap();
            name.into_string().unwrap()
        };
        let (gone, stays) = (left(&mine), left(&other));
        std::fs::write(folder.path().join(".tutee-notes"), "").unwrap();
        written(&mine, "new").commit().unwrap();
        let now = names(folder.path());
        assert!(!now.contains(&gone) && now.contains(&stays) && now.contains(&".tutee-notes".into()), "{now:?}");
        assert!(running.written().exists());
        running.commit().unwrap();
        assert_eq!(std::fs::read_to_string(&mine).unwrap(), "still written");
    }

    #[test]
    fn a_file_stays_under_its_contents_name_only_with_what_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let with_data = |text: &str| {
            let mut model = written(&path, "model");
            let mut data = DataFile::create(&path).unwrap();
            data.write(|w| w.write_all(text.as_bytes())).unwrap();
            let placed = data.named().unwrap().place().unwrap();
            let name = placed.path().to_path_buf();
            model.needs(placed);
            (model, name)
        };
        let (model, first) = with_data("weights");
        assert!(first.exists() && is_data_of(&first, &path));
        drop(model);
        assert!(names(folder.path()).is_empty());

        with_data("weights").0.commit().unwrap();
        // The same again, given up: what was there before stays.
        drop(with_data("weights"));
        assert!(first.exists());

        let (mut model, second) = with_data("other weights");
        model.replaces(vec![first.clone()]);
        model.commit().unwrap();
        assert!(!first.exists() && second.exists());
        assert_eq!(names(folder.path()).len(), 2);
        std::fs::write(&second, "damaged").unwrap();
        assert!(!is_data_of(&second, &path));
    }
}
