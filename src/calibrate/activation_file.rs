//! Activations on disk: a value for every chunk of the data.

use crate::data::{Array, Dtype};
use crate::error::{Result, io};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;

/// Arrays in the order they were written. The file has no name, and goes when this is dropped.
pub struct ActivationFile {
    file: Mutex<File>,
    arrays: Vec<(Dtype, Vec<usize>, u64, usize)>,
    end: u64,
}

impl ActivationFile {
    /// # Errors
    /// If no temporary file can be made.
    pub fn new() -> Result<ActivationFile> {
        let file = tempfile::tempfile().map_err(|e| failed("make", &e))?;
        Ok(ActivationFile { file: Mutex::new(file), arrays: Vec::new(), end: 0 })
    }

    /// Adds an array at the end.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push(&mut self, array: &Array) -> Result<()> {
        let file = self.file.get_mut().unwrap_or_else(|e| e.into_inner());
        file.write_all(array.bytes()).map_err(|e| failed("write", &e))?;
        self.arrays.push((array.dtype(), array.shape().to_vec(), self.end, array.bytes().len()));
        self.end += array.bytes().len() as u64;
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// The type of the first array: all have the same, but for a last chunk.
    pub fn first(&self) -> Option<(Dtype, &[usize])> {
        self.arrays.first().map(|a| (a.0, a.1.as_slice()))
    }

    /// Array `i`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, i: usize) -> Result<Array> {
        let (dtype, shape, at, len) = &self.arrays[i];
        let mut bytes = vec![0; *len];
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        let read = file.seek(SeekFrom::Start(*at)).and_then(|_| file.read_exact(&mut bytes));
        drop(file);
        read.map_err(|e| failed("read", &e))?;
        Array::new(*dtype, shape.clone(), bytes)
    }
}

fn failed(doing: &str, e: &std::io::Error) -> crate::Error {
    io(&format!("{doing} a temporary file"), Path::new(&std::env::temp_dir()), e)
        .help("calibration keeps a few activations of every sample there; TMPDIR names another folder")
}
