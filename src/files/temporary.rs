//! Temporary files: each beside its place, locked while somebody writes it, and gone when nobody does.

use super::content::digest;
use super::folder_of;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Names tried before it is given up to make a file.
const TRIES: usize = 16;

/// The files that go if this process ends now.
static LIVE: Mutex<Vec<Own>> = Mutex::new(Vec::new());

/// Held while several files get their names.
static WHOLE: Mutex<()> = Mutex::new(());

fn hold<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// While this is held, [`abandon`] waits.
pub fn uninterrupted() -> MutexGuard<'static, ()> {
    hold(&WHOLE)
}

#[cfg(test)]
pub fn is_uninterrupted() -> bool {
    WHOLE.try_lock().is_err()
}

/// Removes every file that is not in its place yet. Nothing more can be written by this process, which is to end.
pub fn abandon() {
    let (whole, live) = (hold(&WHOLE), hold(&LIVE));
    live.iter().for_each(Own::remove);
    std::mem::forget((whole, live));
}

/// As [`abandon`], as far as it can be done without waiting for anybody.
pub fn abandon_at_once() {
    if let (Ok(whole), Ok(live)) = (WHOLE.try_lock(), LIVE.try_lock()) {
        live.iter().for_each(Own::remove);
        std::mem::forget((whole, live));
    }
}

/// A name that this process gave to a file.
#[derive(Clone, PartialEq)]
pub struct Own {
    path: PathBuf,
    /// Device and inode, where there are such.
    file: Option<(u64, u64)>,
}

impl Own {
    pub fn new(path: PathBuf, file: &File) -> Own {
        Own { path, file: file.metadata().ok().and_then(|m| identity(&m)) }
    }

    /// Removes the file, if it is not another one by now.
    fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| identity(&m) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }

    pub fn list(self) {
        hold(&LIVE).push(self);
    }

    /// Takes it from the list; it stays where it is.
    pub fn keep(&self) {
        hold(&LIVE).retain(|own| own != self);
    }

    pub fn give_up(&self) {
        let mut live = hold(&LIVE);
        self.remove();
        live.retain(|own| own != self);
    }
}

/// What tells a file from all others, whatever it is called.
#[cfg(unix)]
pub fn identity(meta: &fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
pub fn identity(_: &fs::Metadata) -> Option<(u64, u64)> {
    None
}

/// A file beside a place.
pub struct Temporary {
    own: Own,
    pub file: File,
}

impl Temporary {
    /// An empty file, as private as what stands at the place.
    pub fn create(place: &Path) -> io::Result<Temporary> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
            options.mode(place.metadata().map_or(0o666, |old| old.permissions().mode() & 0o666));
        }
        Temporary::make(place, |at| options.open(at))
    }

    /// A second name of what stands at the place.
    pub fn link(place: &Path) -> io::Result<Temporary> {
        let link = |at: &Path| fs::hard_link(place, at).or_else(|_| fs::copy(place, at).map(drop));
        Temporary::make(place, |at| link(at).and_then(|_| File::open(at)))
    }

    fn make(place: &Path, mut make: impl FnMut(&Path) -> io::Result<File>) -> io::Result<Temporary> {
        let prefix = prefix(place);
        let mut live = hold(&LIVE);
        for _ in 0..TRIES {
            let mut code = None;
            let make = |at: &Path| make(at).inspect_err(|e| code = e.raw_os_error());
            let made = tempfile::Builder::new().prefix(&prefix).make_in(folder_of(place), make);
            // What tempfile says has the random name in it.
            let made = made.map_err(|e| code.map_or(e, io::Error::from_raw_os_error))?;
            let (file, path) = made.keep().map_err(|e| e.error)?;
            // Without locks nobody removes what others left.
            let free = !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock));
            // Somebody may have taken it for a leftover before it was locked.
            if free && path.exists() {
                let own = Own::new(path, &file);
                live.push(own.clone());
                return Ok(Temporary { own, file });
            }
            let _ = fs::remove_file(path);
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub fn path(&self) -> &Path {
        &self.own.path
    }

    /// Gives it the permissions of what stands at the place, and puts it on the disk.
    pub fn finish(&self, place: &Path) -> io::Result<()> {
        #[cfg(unix)]
        if let Ok(old) = place.metadata() {
            self.file.set_permissions(old.permissions())?;
        }
        #[cfg(not(unix))]
        let _ = place;
        self.file.sync_all()
    }

    pub fn rename(&self, place: &Path) -> io::Result<()> {
        fs::rename(&self.own.path, place)?;
        self.own.keep();
        Ok(())
    }
}

impl Temporary {
    /// Renames it to a place where it is not needed yet: if nothing stood there, it is removed unless it is kept.
    pub fn place(&self, place: &Path) -> io::Result<Option<Own>> {
        let own = (!place.exists()).then(|| Own::new(place.to_path_buf(), &self.file));
        own.iter().cloned().for_each(Own::list);
        let renamed = self.rename(place);
        if renamed.is_err() {
            own.iter().for_each(Own::keep);
        }
        renamed.map(|_| own)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.own.give_up();
    }
}

/// What temporary files of a place are called, but for a random end. The name of the place may be too long to repeat.
fn prefix(place: &Path) -> String {
    let name = place.file_name().unwrap_or_default().as_encoded_bytes();
    // What is in memory can be read.
    format!(".tutee-{:016x}-", digest(name).unwrap_or_default())
}

/// A temporary file of a process that is no more, locked.
pub struct Leftover {
    path: PathBuf,
    _locked: File,
}

impl Leftover {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if that can be done.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The temporary files of a place that nobody writes any more.
pub fn leftovers(place: &Path) -> Vec<Leftover> {
    let prefix = prefix(place);
    let Ok(entries) = folder_of(place).read_dir() else { return Vec::new() };
    let own = entries.flatten().filter(|e| e.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
    let files = own.filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
    let unlocked = files.filter_map(|e| {
        let file = File::open(e.path()).ok()?;
        file.try_lock().ok()?;
        Some(Leftover { path: e.path(), _locked: file })
    });
    unlocked.collect()
}
