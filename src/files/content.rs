//! Files that are called by what is in them: another content is another file, and none is ever overwritten with another.

use super::folder_of;
use super::temporary::{Own, Temporary};
use crate::error::{Result, io};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// Digits of a digest in a name.
const DIGITS: usize = 16;

/// The data of the file that is to stand at a place, while it is written: nobody knows its name yet.
pub struct DataFile {
    place: PathBuf,
    file: Temporary,
}

impl DataFile {
    /// # Errors
    /// If the folder of the place cannot be written to.
    pub fn create(place: &Path) -> Result<DataFile> {
        let file = Temporary::create(place).map_err(|e| cannot_write(place, &e))?;
        Ok(DataFile { place: place.to_path_buf(), file })
    }

    /// # Errors
    /// If writing fails.
    pub fn write<R>(&mut self, f: impl FnOnce(&mut File) -> std::io::Result<R>) -> Result<R> {
        f(&mut self.file.file).map_err(|e| cannot_write(&self.place, &e))
    }

    /// # Errors
    /// If what was written cannot be read again.
    pub fn named(mut self) -> Result<Named> {
        let read = self.write(|file| {
            file.rewind()?;
            Ok((digest(&*file)?, file.metadata()?.len()))
        });
        let (digest, bytes) = read?;
        Ok(Named { path: name(&self.place, digest), bytes, data: self })
    }
}

fn cannot_write(place: &Path, e: &std::io::Error) -> crate::Error {
    io("write the data of", place, e).help("what stood there is as it was: make room, or choose another place")
}

/// Data that is complete and knows its name, and is still elsewhere.
pub struct Named {
    path: PathBuf,
    bytes: u64,
    data: DataFile,
}

impl Named {
    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// If it cannot be written to the disk or renamed.
    pub fn place(self) -> Result<Placed> {
        let Named { path, bytes, data } = self;
        let placed = data.file.finish(&path).and_then(|_| data.file.place(&path));
        let own = placed.map_err(|e| cannot_write(&data.place, &e))?;
        Ok(Placed { path, bytes, own })
    }
}

/// Data under its name, which it keeps with [`Placed::keep`]. Otherwise it goes, if it was not there before.
pub struct Placed {
    path: PathBuf,
    bytes: u64,
    own: Option<Own>,
}

impl Placed {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps it, and gives where it is.
    pub fn keep(mut self) -> PathBuf {
        self.own.take().iter().for_each(Own::keep);
        std::mem::take(&mut self.path)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.own.take().iter().for_each(Own::give_up);
    }
}

/// `PLACE.DIGEST.data`
fn name(place: &Path, digest: u64) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(format!(".{digest:0DIGITS$x}.data"));
    name.into()
}

/// Whether a file is called as data of a place is.
pub fn is_called_data_of(path: &Path, place: &Path) -> bool {
    let called = |p: &Path| p.file_name().map(OsString::from).unwrap_or_default().into_encoded_bytes();
    let (of, place) = (called(path), called(place));
    let digest = of.strip_prefix(&place[..]).and_then(|rest| rest.strip_prefix(b"."));
    let digest = digest.and_then(|rest| rest.strip_suffix(b".data"));
    digest.is_some_and(|d| d.len() == DIGITS && d.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')))
}

/// Whether a file is data of a place, and whole: its name says what is in it.
pub fn is_data_of(path: &Path, place: &Path) -> bool {
    is_called_data_of(path, place)
        && path.symlink_metadata().is_ok_and(|m| m.is_file())
        && File::open(path).and_then(digest).is_ok_and(|d| name(place, d).file_name() == path.file_name())
}

/// The files that are called as data of a place is.
pub fn called_data_of(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder_of(place).read_dir() else { return Vec::new() };
    let beside = entries.flatten().map(|e| place.with_file_name(e.file_name()));
    beside.filter(|path| is_called_data_of(path, place)).collect()
}

/// A number that says what a file holds. Words of 8 bytes change it one after another, each in a way that can be undone: no
/// change to one word alone leaves it as it was.
pub fn digest(mut file: impl Read) -> std::io::Result<u64> {
    let mut chunk = vec![0; 1 << 16];
    let (mut sum, mut length) = (0xcbf2_9ce4_8422_2325u64, 0u64);
    let mut add = |word: u64| {
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 32;
    };
    loop {
        let mut filled = 0;
        while filled < chunk.len() {
            match file.read(&mut chunk[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        let (words, rest) = chunk[..filled].as_chunks::<8>();
        words.iter().for_each(|w| add(u64::from_le_bytes(*w)));
        length += filled as u64;
        if filled < chunk.len() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            add(u64::from_le_bytes(last));
            add(length);
            return Ok(sum);
        }
    }
}
