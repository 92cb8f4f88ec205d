//! Bytes in a file: all of it, or a member of a zip archive.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::CrcReader;
use flate2::read::DeflateDecoder;

use super::stored::{Access, ArrayLayout, RowSource};

/// Deflate makes no more of a byte.
const MOST: u64 = 1032;
/// Bytes up to which a member is read in order, which checks it.
const CHECKED: u64 = 1 << 26;

/// A stretch of a file, packed or as it is.
#[derive(Clone)]
pub(super) struct Member {
    file: Arc<Mutex<File>>,
    at: u64,
    /// Bytes in the file,
    stored: u64,
    /// and unpacked.
    pub len: u64,
    deflated: bool,
    /// Of the unpacked bytes.
    crc: Option<u32>,
}

impl Member {
    /// All of a file.
    pub fn all(file: File, len: u64) -> Member {
        Member { file: Arc::new(Mutex::new(file)), at: 0, stored: len, len, deflated: false, crc: None }
    }

    /// A stretch of the file behind `self`, as an archive describes it.
    ///
    /// # Errors
    /// If the file does not have as many bytes, or they cannot make as many.
    pub fn part(&self, at: u64, stored: u64, len: u64, deflated: bool, crc: u32) -> Result<Member, String> {
        let most = if deflated { stored.saturating_mul(MOST) } else { stored };
        if at.checked_add(stored).is_none_or(|end| end > self.at + self.stored) || len > most {
            return Err(format!("it ends early or is damaged: {stored} bytes at {at} cannot hold {len}"));
        }
        Ok(Member { file: self.file.clone(), at, stored, len, deflated, crc: Some(crc) })
    }

    /// Its bytes from the first on.
    pub fn open(&self) -> Box<dyn Read + Send> {
        let plain = BufReader::with_capacity(1 << 16, Stretch { of: self.clone(), done: 0 });
        if self.deflated { Box::new(DeflateDecoder::new(plain)) } else { Box::new(plain) }
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of an array behind so many bytes.
    pub fn rows(self, skip: u64, form: &ArrayLayout) -> Box<dyn RowSource> {
        let row = form.row_len() as u64;
        match self.deflated || (self.crc.is_some() && self.len <= CHECKED) {
            true => Box::new(InOrder { member: self, skip, row, open: Mutex::new(None) }),
            false => Box::new(AtPlace { member: self, skip, row }),
        }
    }
}

/// Reads what a member has in the file.
struct Stretch {
    of: Member,
    done: u64,
}

impl Read for Stretch {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let room = to.len().min(usize::try_from(self.of.stored - self.done).unwrap_or(usize::MAX));
        let mut file = self.of.file();
        file.seek(SeekFrom::Start(self.of.at + self.done))?;
        let read = file.read(&mut to[..room])?;
        drop(file);
        self.done += read as u64;
        Ok(read)
    }
}

fn damaged(e: io::Error) -> String {
    format!("it ends early or is damaged ({e})")
}

/// Rows that lie in the file as they are.
struct AtPlace {
    member: Member,
    skip: u64,
    row: u64,
}

impl RowSource for AtPlace {
    fn access(&self) -> Access {
        Access::Quick
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<(), String> {
        let (start, len) = (to.len(), rows.len() as u64 * self.row);
        to.resize(start + len as usize, 0);
        let mut file = self.member.file();
        let at = self.member.at + self.skip + rows.start as u64 * self.row;
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut to[start..])).map_err(damaged)
    }
}

/// Rows that are reached through all before them. Whoever asks for later ones goes on where the last asked stopped.
struct InOrder {
    member: Member,
    skip: u64,
    row: u64,
    open: Mutex<Option<Cursor>>,
}

/// A member, and how many of its bytes are read.
struct Cursor {
    reader: CrcReader<Box<dyn Read + Send>>,
    done: u64,
}

impl RowSource for InOrder {
    fn access(&self) -> Access {
        Access::InOrder
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<(), String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.skip + rows.start as u64 * self.row;
        let there = open.take().filter(|cursor| cursor.done <= at);
        let Cursor { mut reader, done } =
            there.unwrap_or_else(|| Cursor { reader: CrcReader::new(self.member.open()), done: 0 });
        let want = rows.len() as u64 * self.row;
        let passed = io::copy(&mut reader.by_ref().take(at - done), &mut io::sink()).map_err(damaged)?;
        let read = reader.by_ref().take(want).read_to_end(to).map_err(damaged)? as u64;
        if done + passed + read < at + want {
            return Err(format!("it ends early or is damaged: it has {} bytes", done + passed + read));
        }
        let end = at + want;
        if end == self.member.len {
            let more = io::copy(&mut reader.by_ref().take(1), &mut io::sink()).map_err(damaged)?;
            if more > 0 || self.member.crc.is_some_and(|crc| crc != reader.crc().sum()) {
                return Err("it is damaged: its checksum is another".into());
            }
        } else {
            *open = Some(Cursor { reader, done: end });
        }
        Ok(())
    }
}
