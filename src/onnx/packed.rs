//! How much of a model is left after general compression: what it takes in an archive, a package or on the wire.

use super::{encode, save};
use crate::error::{Error, Result, io};
use crate::ir::Model;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Level 9: on weights, dense, sparse or clustered, within 7 % of level 19 and about ten times as fast.
const ZSTD_LEVEL: i32 = 9;

/// zstd is given so many bytes at a time: where they are cut makes a difference of a few bytes.
const BLOCK: usize = 1 << 16;

/// Bytes of a file, and its bytes after zstd, streamed.
///
/// # Errors
/// If it cannot be read.
pub fn packed_file_len(path: &Path) -> Result<(u64, u64)> {
    let pack = || {
        let mut file = File::open(path)?;
        let mut packer = Packer::new()?;
        let bytes = io::copy(&mut file, &mut packer)?;
        Ok((bytes, packer.finish()?))
    };
    pack().map_err(|e| io("read", path, &e))
}

/// Bytes of a model, as one file, after zstd.
///
/// # Errors
/// Internal ones only.
pub fn packed_len(model: &Model) -> Result<u64> {
    let proto = encode::model(model)?;
    let pack = || {
        let mut packer = Packer::new()?;
        save::stream(&proto, &mut packer)?;
        packer.finish()
    };
    pack().map_err(|e| Error::internal(e.to_string()))
}

/// Compresses what is written, and counts what comes out.
struct Packer {
    encoder: zstd::Encoder<'static, Count>,
    block: Vec<u8>,
}

impl Packer {
    fn new() -> io::Result<Packer> {
        Ok(Packer { encoder: zstd::Encoder::new(Count(0), ZSTD_LEVEL)?, block: Vec::with_capacity(BLOCK) })
    }

    fn finish(mut self) -> io::Result<u64> {
        self.encoder.write_all(&self.block)?;
        Ok(self.encoder.finish()?.0)
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.encoder.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps nothing of what is written but its length.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
