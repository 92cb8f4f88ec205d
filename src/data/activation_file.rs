//! Arrays on disk: a value that networks make, for every sample or chunk of the data.

use super::array::{Array, Dtype};
use super::stored::{Access, ArrayLayout, RowSource, Stored};
use crate::error::{Error, Result, io};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

/// Arrays by number, in the order they were written. The file has no name, and goes when this is dropped.
pub struct ActivationFile {
    file: Mutex<File>,
    arrays: Vec<Option<ActivationEntry>>,
    end: u64,
}

struct ActivationEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    at: u64,
    len: usize,
}

impl ActivationFile {
    /// # Errors
    /// If no temporary file can be made.
    pub fn new() -> Result<ActivationFile> {
        let file = tempfile::tempfile().map_err(|e| failed("make", &e))?;
        Ok(ActivationFile { file: Mutex::new(file), arrays: Vec::new(), end: 0 })
    }

    /// Adds an array with the next number.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push(&mut self, array: &Array) -> Result<()> {
        self.put(self.arrays.len(), array)
    }

    /// Adds array `i`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&mut self, i: usize, array: &Array) -> Result<()> {
        let file = self.file.get_mut().unwrap_or_else(|e| e.into_inner());
        file.write_all(array.bytes()).map_err(|e| failed("write", &e))?;
        self.arrays.resize_with(self.arrays.len().max(i + 1), || None);
        let (dtype, shape, len) = (array.dtype(), array.shape().to_vec(), array.bytes().len());
        self.arrays[i] = Some(ActivationEntry { dtype, shape, at: self.end, len });
        self.end += len as u64;
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// The type of the first array.
    pub fn dtype(&self) -> Option<Dtype> {
        self.arrays.first()?.as_ref().map(|entry| entry.dtype)
    }

    /// The shape of array `i`.
    pub fn shape(&self, i: usize) -> &[usize] {
        self.arrays.get(i).and_then(Option::as_ref).map_or(&[], |entry| &entry.shape)
    }

    /// Array `i`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, i: usize) -> Result<Array> {
        let entry = self.entry(i)?;
        let mut bytes = vec![0; entry.len];
        self.fill(entry, &mut bytes)?;
        Array::new(entry.dtype, entry.shape.clone(), bytes)
    }

    /// The numbers of array `i` in place of what is in `to`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_f32(&self, i: usize, to: &mut Vec<f32>) -> Result<()> {
        let entry = self.entry(i)?;
        if entry.dtype != Dtype::F32 || cfg!(target_endian = "big") {
            *to = self.read(i)?.to_f32();
            return Ok(());
        }
        to.resize(entry.len / size_of::<f32>(), 0.0);
        self.fill(entry, bytemuck::cast_slice_mut(to))
    }

    fn entry(&self, i: usize) -> Result<&ActivationEntry> {
        let entry = self.arrays.get(i).and_then(Option::as_ref);
        entry.ok_or_else(|| Error::internal("an activation was not written"))
    }

    fn fill(&self, entry: &ActivationEntry, bytes: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        let read = file.seek(SeekFrom::Start(entry.at)).and_then(|_| file.read_exact(bytes));
        read.map_err(|e| failed("read", &e))
    }
}

/// Arrays of one shape as one.
impl From<ActivationFile> for Stored {
    fn from(file: ActivationFile) -> Stored {
        let shape = [&[file.arrays.len()], file.shape(0)].concat();
        let dtype = file.dtype().unwrap_or(Dtype::F32);
        Stored::new(ArrayLayout { dtype, shape, big_endian: false, fortran: false }, Box::new(file))
    }
}

impl RowSource for ActivationFile {
    fn access(&self) -> Access {
        Access::Quick
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<(), String> {
        for row in rows {
            to.extend(self.read(row).map_err(|e| e.reason())?.bytes());
        }
        Ok(())
    }
}

fn failed(doing: &str, e: &std::io::Error) -> crate::Error {
    io(&format!("{doing} a temporary file"), Path::new(&std::env::temp_dir()), e)
        .help("a few activations of every sample are kept there; TMPDIR names another folder")
}
