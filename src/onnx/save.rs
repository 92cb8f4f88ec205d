//! Writing models: streamed, atomic, with external data where one file cannot hold them.

use super::proto::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto};
use super::{encode, external, tensors};
use crate::error::{Error, Result, io};
use crate::files::{self, Atomic, DataFile};
use crate::ir::Model;
use bytes::BufMut;
use bytes::buf::UninitSlice;
use prost::Message;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Protobuf readers refuse messages of 2 GiB and more.
const MAX_FILE: usize = (1 << 31) - 1;
/// Smaller tensors stay in the model file.
const MIN_EXTERNAL: usize = 1024;
/// Where every external tensor begins at a multiple of: the page size, so that runtimes can map it.
const ALIGN: u64 = 4096;

/// How a model is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions {
    /// Write weights to `NAME.DIGEST.data` beside the model even if one file could hold all.
    pub external_data: bool,
}

/// Where a model is written.
#[derive(Debug, Clone)]
pub enum Target {
    /// To a file, which is in its place once it is complete.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

impl Target {
    /// Where a model goes that is to be written to a file or, for `-` and what the system calls so, to standard output.
    pub fn of(output: PathBuf) -> Target {
        let stdout = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].map(Path::new);
        if stdout.contains(&output.as_path()) { Target::Stdout } else { Target::File(output) }
    }

    /// Finds out before the work what would prevent writing after it.
    ///
    /// # Errors
    /// If a file cannot be written there.
    pub fn check(&self) -> Result<()> {
        match self {
            Target::File(path) => create(path).map(drop),
            Target::Stdout => Ok(()),
        }
    }
}

/// The model as one file in memory.
///
/// # Errors
/// Internal ones only.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>> {
    Ok(encode::model(model)?.encode_to_vec())
}

/// Writes a model, beside its place first and renamed when complete, and says which files it wrote and their bytes.
///
/// # Errors
/// If writing fails, or the model is too large for standard output. What stood at the target then stands there still.
pub fn save(model: &Model, target: &Target, options: SaveOptions) -> Result<Vec<(PathBuf, u64)>> {
    if let Target::File(path) = target {
        return files::commit(vec![prepare(model, path, options)?], || {});
    }
    let proto = encode::model(model)?;
    if proto.encoded_len() > MAX_FILE || options.external_data {
        return Err(Error::input("cannot write a model with external data to standard output")
            .because("the weights need a file of their own")
            .help("give a file name with -o"));
    }
    let out = Path::new("standard output");
    stream(&proto, &mut std::io::stdout().lock()).map_err(|e| io("write to", out, &e))?;
    Ok(Vec::new())
}

/// Writes a model beside its place, for [`files::commit`] to rename. Its data, if that is a file of its own, has its name
/// already, which says what is in it: the model alone decides whether the old data counts or the new. Data of a model that it
/// takes the place of goes when it does.
///
/// # Errors
/// If writing fails.
pub fn prepare(model: &Model, path: &Path, options: SaveOptions) -> Result<Atomic> {
    let mut proto = encode::model(model)?;
    let mut file = create(path)?;
    let data = match proto.encoded_len() > MAX_FILE || options.external_data {
        true => Some(externalize(&mut proto, path)?),
        false => None,
    };
    file.write(|w| stream(&proto, w))?;
    // Only now: if this process is killed, the model that is left behind says that the data is its own.
    if let Some(data) = data {
        file.needs(data.place()?);
    }
    file.replaces(external::data_of(path, path));
    Ok(file)
}

/// A new file for a model. Of a model that a killed run left behind, the data goes too. Where the name is a link, the model is
/// beside what it is to, and the data beside the link: whoever opens a model by a name looks for its data beside that name.
fn create(path: &Path) -> Result<Atomic> {
    for left in files::leftovers(&files::followed(path)?) {
        let mut data = external::data_of(left.path(), path);
        if !data.is_empty() {
            let stays = external::data_of(path, path);
            data.retain(|d| !stays.contains(d));
        }
        data.iter().for_each(|d| drop(std::fs::remove_file(d)));
    }
    Atomic::create(path)
}

/// Moves the data of every large tensor of the graph and of its bodies into a file of their own.
fn externalize(proto: &mut ModelProto, path: &Path) -> Result<files::Named> {
    let mut data = DataFile::create(path)?;
    let mut end = 0;
    let mut graphs = proto.graph.iter_mut();
    graphs.try_for_each(|g| tensors::in_graph(g, &mut |t| externalize_tensor(t, &mut end, &mut data)))?;
    let data = data.named()?;
    let name = data.path().file_name().unwrap_or_default().to_string_lossy();
    let mut graphs = proto.graph.iter_mut();
    graphs.try_for_each(|g| tensors::in_graph(g, &mut |t| locate(t, &name)))?;
    match proto.encoded_len() {
        n if n > MAX_FILE => Err(Error::input("the model is too large to be written").because(format!(
            "without its large tensors it still has {n} bytes, and no file may have more than {MAX_FILE}"
        ))),
        _ => Ok(data),
    }
}

fn externalize_tensor(t: &mut TensorProto, end: &mut u64, data: &mut DataFile) -> Result<()> {
    let Some(raw) = t.raw_data.take_if(|r| r.len() >= MIN_EXTERNAL) else { return Ok(()) };
    let offset = end.next_multiple_of(ALIGN);
    let padding = vec![0; (offset - *end) as usize];
    data.write(|w| w.write_all(&padding).and_then(|_| w.write_all(&raw)))?;
    *end = offset + raw.len() as u64;
    t.external_data = vec![entry("offset", offset.to_string()), entry("length", raw.len().to_string())];
    t.set_data_location(tensor_proto::DataLocation::External);
    Ok(())
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value) }
}

/// Says of a tensor whose data was moved in which file it is: that has its name when all are in it.
fn locate(t: &mut TensorProto, name: &str) -> Result<()> {
    if t.data_location() == tensor_proto::DataLocation::External {
        t.external_data.insert(0, entry("location", name.to_string()));
    }
    Ok(())
}

/// Encodes straight into a writer: the weights go from where they are to the file, through no buffer of their size.
pub(super) fn stream(proto: &ModelProto, out: &mut dyn Write) -> std::io::Result<()> {
    let mut sink = Sink { out, chunk: vec![0; 1 << 16], filled: 0, failed: None };
    proto.encode(&mut sink).map_err(std::io::Error::other)?;
    sink.flush();
    match sink.failed {
        Some(e) => Err(e),
        None => sink.out.flush(),
    }
}

/// A [`BufMut`] of unlimited room over a writer. The first failure is kept, and all later writes are dropped.
struct Sink<'a> {
    out: &'a mut dyn Write,
    chunk: Vec<u8>,
    filled: usize,
    failed: Option<std::io::Error>,
}

impl Sink<'_> {
    fn flush(&mut self) {
        let Sink { out, chunk, filled, failed } = self;
        if failed.is_none() {
            *failed = out.write_all(&chunk[..*filled]).err();
        }
        *filled = 0;
    }
}

// SAFETY: `chunk_mut` hands out initialized bytes of `chunk` beyond `filled`, and `advance_mut` checks that no more than
// those are taken.
unsafe impl BufMut for Sink<'_> {
    fn remaining_mut(&self) -> usize {
        usize::MAX
    }

    unsafe fn advance_mut(&mut self, n: usize) {
        assert!(n <= self.chunk.len() - self.filled, "advanced past the chunk");
        self.filled += n;
        if self.filled == self.chunk.len() {
            self.flush();
        }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::new(&mut self.chunk[self.filled..])
    }

    fn put<T: bytes::Buf>(&mut self, mut src: T)
    where
        Self: Sized,
    {
        while src.has_remaining() {
            let n = src.chunk().len();
            self.put_slice(src.chunk());
            src.advance(n);
        }
    }

    fn put_slice(&mut self, src: &[u8]) {
        if src.len() > self.chunk.len() - self.filled {
            self.flush();
        }
        if src.len() < self.chunk.len() {
            self.chunk[self.filled..self.filled + src.len()].copy_from_slice(src);
            self.filled += src.len();
        } else if self.failed.is_none() {
            self.failed = self.out.write_all(src).err();
        }
    }
}
