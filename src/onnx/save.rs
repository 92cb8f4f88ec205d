//! Writing models: streamed, atomic, with external data where one file cannot hold them.

use super::proto::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto};
use super::{encode, tensors};
use crate::error::{Error, Result, io};
use crate::ir::Model;
use bytes::BufMut;
use bytes::buf::UninitSlice;
use prost::Message;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Protobuf readers refuse messages of 2 GiB and more.
const MAX_FILE: usize = (1 << 31) - 1;
/// Smaller tensors stay in the model file.
const MIN_EXTERNAL: usize = 1024;
/// Where every external tensor begins at a multiple of: the page size, so that runtimes can map it.
const ALIGN: u64 = 4096;

#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions {
    /// Write weights to `NAME.data` beside the model even if one file could hold all.
    pub external_data: bool,
}

/// Where a model is written.
#[derive(Debug, Clone)]
pub enum Target {
    File(PathBuf),
    Stdout,
}

impl Target {
    /// Finds out before the work what would prevent writing after it.
    ///
    /// # Errors
    /// If a file cannot be written there.
    pub fn check(&self) -> Result<()> {
        match self {
            Target::File(path) => Atomic::create(path).map(drop),
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
        return commit(prepare(model, path, options)?);
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

/// Writes a model's files beside their places, for [`commit`] to rename: its data, if that is a file of its own, then itself.
///
/// # Errors
/// If writing fails.
pub fn prepare(model: &Model, path: &Path, options: SaveOptions) -> Result<Vec<Atomic>> {
    let mut proto = encode::model(model)?;
    let mut files = Vec::new();
    if proto.encoded_len() > MAX_FILE || options.external_data {
        let mut data_path = path.as_os_str().to_owned();
        data_path.push(".data");
        let mut data = Atomic::create(Path::new(&data_path))?;
        externalize(&mut proto, &mut data)?;
        files.push(data);
    }
    let mut file = Atomic::create(path)?;
    file.write(|w| stream(&proto, w))?;
    files.push(file);
    Ok(files)
}

/// A file that appears under its name complete or not at all.
pub struct Atomic {
    path: PathBuf,
    /// `path`, or what it links to.
    real: PathBuf,
    file: NamedTempFile,
    written: u64,
}

impl Atomic {
    /// # Errors
    /// If the folder of `path` cannot be written to, or something other than a file stands there.
    pub fn create(path: &Path) -> Result<Atomic> {
        let cannot = |why: String| Error::input(format!("cannot write {}", path.display())).because(why);
        let real = match path.is_symlink() {
            true => path.canonicalize().map_err(|e| io("follow the link", path, &e))?,
            false => path.to_path_buf(),
        };
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
        // Its error has the random name of the temporary file in it: only the kind of it is worth repeating.
        let file = tempfile::Builder::new().prefix(".tutee-").tempfile_in(folder).map_err(|e| {
            cannot(format!("{}: {}", folder.display(), e.kind())).help("choose a folder that can be written to")
        })?;
        Ok(Atomic { path: path.to_path_buf(), real, file, written: 0 })
    }

    /// # Errors
    /// If writing fails.
    pub fn write<R>(&mut self, f: impl FnOnce(&mut File) -> std::io::Result<R>) -> Result<R> {
        let help = "what stood there is as it was: make room, or choose another place";
        f(self.file.as_file_mut()).map_err(|e| io("write", &self.path, &e).help(help))
    }

    /// Renames the file into place; gives its path and bytes.
    ///
    /// # Errors
    /// If the rename fails; the file that stood there then stands there still.
    pub fn commit(self) -> Result<(PathBuf, u64)> {
        let Atomic { path, real, file, .. } = self;
        let bytes = file.as_file().metadata().map_err(|e| io("write", &path, &e))?.len();
        set_permissions(&file, &real).map_err(|e| io("write", &path, &e))?;
        file.persist(&real).map_err(|e| io("write", &path, &e.error))?;
        Ok((path, bytes))
    }
}

/// Renames files into place in this order, all or none: what stood there is put back if a later one cannot follow. Gives
/// their paths and bytes.
///
/// # Errors
/// If a file cannot be renamed.
pub fn commit(files: Vec<Atomic>) -> Result<Vec<(PathBuf, u64)>> {
    let (mut done, mut before) = (Vec::new(), Vec::new());
    for (i, file) in files.iter().enumerate() {
        // The last one stands or falls by itself.
        let kept = if i + 1 < files.len() { keep(&file.real)? } else { None };
        before.push((file.real.clone(), kept));
    }
    for file in files {
        match file.commit() {
            Ok(written) => done.push(written),
            Err(e) => {
                for (real, kept) in before.into_iter().take(done.len()) {
                    match kept {
                        Some(kept) => {
                            kept.into_temp_path().persist(&real).map_err(|e| io("put back", &real, &e.error))?
                        }
                        None => drop(std::fs::remove_file(&real)),
                    }
                }
                return Err(e);
            }
        }
    }
    Ok(done)
}

/// A second name of a file, if there is one.
fn keep(real: &Path) -> Result<Option<NamedTempFile<()>>> {
    let link = |at: &Path| std::fs::hard_link(real, at).or_else(|_| std::fs::copy(real, at).map(drop));
    let make = || tempfile::Builder::new().prefix(".tutee-").make_in(folder_of(real), link);
    real.exists().then(make).transpose().map_err(|e| io("write", real, &e))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."))
}

/// Temporary files are private; the result has the permissions of the file it replaces, or those of any new file.
#[cfg(unix)]
fn set_permissions(file: &NamedTempFile, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = match path.metadata() {
        Ok(old) => old.permissions().mode(),
        Err(_) => {
            let any = PermissionsExt::from_mode(0o666);
            let probe = tempfile::Builder::new().permissions(any).tempfile_in(folder_of(path))?;
            probe.as_file().metadata()?.permissions().mode()
        }
    };
    file.as_file().set_permissions(PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn set_permissions(_: &NamedTempFile, _: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Moves the data of every large tensor of the graph and of its bodies into `data`.
fn externalize(proto: &mut ModelProto, data: &mut Atomic) -> Result<()> {
    let location = data.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    proto.graph.iter_mut().try_for_each(|g| tensors::in_graph(g, &mut |t| externalize_tensor(t, &location, data)))?;
    match proto.encoded_len() {
        n if n > MAX_FILE => Err(Error::input("the model is too large to be written").because(format!(
            "without its large tensors it still has {n} bytes, and no file may have more than {MAX_FILE}"
        ))),
        _ => Ok(()),
    }
}

fn externalize_tensor(t: &mut TensorProto, location: &str, data: &mut Atomic) -> Result<()> {
    let Some(raw) = t.raw_data.take_if(|r| r.len() >= MIN_EXTERNAL) else { return Ok(()) };
    let offset = data.written.next_multiple_of(ALIGN);
    let padding = vec![0; (offset - data.written) as usize];
    data.write(|w| w.write_all(&padding).and_then(|_| w.write_all(&raw)))?;
    data.written = offset + raw.len() as u64;
    let entry = |k: &str, v: String| StringStringEntryProto { key: Some(k.into()), value: Some(v) };
    t.external_data = vec![
        entry("location", location.to_string()),
        entry("offset", offset.to_string()),
        entry("length", raw.len().to_string()),
    ];
    t.set_data_location(tensor_proto::DataLocation::External);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_put_back_if_its_model_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let (model, data) = (folder.path().join("m.onnx"), folder.path().join("m.onnx.data"));
        for old in [None, Some("old")] {
            let (file, mut new) = (Atomic::create(&model).unwrap(), Atomic::create(&data).unwrap());
            new.write(|w| w.write_all(b"new")).unwrap();
            if let Some(old) = old {
                std::fs::write(&data, old).unwrap();
            }
            std::fs::create_dir(&model).unwrap();
            let error = commit(vec![new, file]).unwrap_err();
            assert!(error.to_string().contains("m.onnx"), "{error}");
            assert_eq!(std::fs::read_to_string(&data).ok().as_deref(), old);
            std::fs::remove_dir(&model).unwrap();
            assert_eq!(folder.path().read_dir().unwrap().count(), usize::from(old.is_some()));
        }
    }
}
