//! External tensor data: files beside the model, mapped. (ONNX: docs/ExternalData.md.)

use super::proto::tensor_proto::DataLocation;
use super::proto::{ModelProto, TensorProto};
use super::tensors;
use crate::error::{Error, Result, io};
use crate::files;
use crate::ir::shape::DType;
use crate::ir::tensor::{Backing, byte_len};
use bytes::Bytes;
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The files that a model is mapped from.
#[derive(Debug, Clone, Default)]
pub struct Pages(Vec<Arc<Mmap>>);

impl Pages {
    /// Gives back the memory that holds what was read of the files so far: it is read again where it is needed again.
    pub fn release(&self) {
        self.0.iter().for_each(|map| map.release(map));
    }

    /// The file that bytes are mapped from, if one of these is it.
    pub fn of(&self, bytes: &[u8]) -> Option<Arc<dyn Backing>> {
        let map = self.0.iter().find(|map| place(map, bytes).is_some())?;
        Some(map.clone())
    }
}

/// Where in a map bytes are.
fn place(map: &Mmap, bytes: &[u8]) -> Option<usize> {
    let at = (bytes.as_ptr() as usize).checked_sub(map.as_ptr() as usize)?;
    (at + bytes.len() <= map.len()).then_some(at)
}

impl Backing for Mmap {
    fn release(&self, bytes: &[u8]) {
        #[cfg(unix)]
        if let Some(at) = place(self, bytes).filter(|_| !bytes.is_empty()) {
            // SAFETY: the map is of a file, shared, and never written to: its pages come back with the same content.
            // Where the system does not do it, the memory stays in use.
            let _ = unsafe { self.unchecked_advise_range(UncheckedAdvice::DontNeed, at, bytes.len()) };
        }
    }
}

/// Bytes that keep their file mapped.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps files once and hands out ranges of them.
pub struct ExternalData {
    folder: Option<PathBuf>,
    files: HashMap<String, Bytes>,
    /// Every file that was read, for dependency lists.
    pub paths: Vec<PathBuf>,
    pub pages: Pages,
}

impl ExternalData {
    /// Files are looked for in the folder of the model; a model that is no file has none. They come to those in `pages`.
    pub fn beside(model: Option<&Path>, pages: Pages) -> ExternalData {
        let folder = model.map(|m| match m.parent() {
            Some(p) if p != Path::new("") => p.to_path_buf(),
            _ => PathBuf::from("."),
        });
        ExternalData { folder, files: HashMap::new(), paths: Vec::new(), pages }
    }

    /// Gives a tensor that lies in another file its bytes; any other only has to have as many as it needs.
    ///
    /// # Errors
    /// As [`ExternalData::read`], and if the tensor does not say properly where its bytes are.
    pub fn inline(&mut self, t: &mut TensorProto) -> Result<()> {
        if t.data_location() != DataLocation::External {
            return fits(t);
        }
        let bad = |why: String| {
            Error::input(format!("the tensor \"{}\" does not say where its data is", t.name()))
                .because(why)
                .help("export the model again, or save it in one file")
        };
        let entry = |key: &str| t.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(v) => v.trim().parse::<u64>().map(Some).map_err(|_| bad(format!("its {key} \"{v}\" is no number"))),
        };
        let location = entry("location").ok_or_else(|| bad("it is external but names no file".into()))?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        t.raw_data = Some(self.read(location, offset, length.or(needed(t).map(|n| n as u64)))?);
        t.external_data.clear();
        t.data_location = None;
        fits(t)
    }

    /// `length` bytes from `offset` of the file `location`; to its end if no length is given.
    ///
    /// # Errors
    /// If the location leaves the model's folder in any way, is no regular file, or is shorter than that.
    fn read(&mut self, location: &str, offset: u64, length: Option<u64>) -> Result<Bytes> {
        let file = match self.files.get(location) {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes = self.open(location)?;
                self.files.insert(location.to_string(), bytes.clone());
                bytes
            }
        };
        let wanted = length.unwrap_or((file.len() as u64).saturating_sub(offset));
        match offset.checked_add(wanted).filter(|&end| end <= file.len() as u64) {
            Some(end) => Ok(file.slice(offset as usize..end as usize)),
            None => Err(Error::input("external data is out of range")
                .at(location)
                .because(format!("{wanted} bytes from {offset} are wanted, the file has {}", file.len()))
                .help("the file is cut off or belongs to another model: copy it again")),
        }
    }

    fn open(&mut self, location: &str) -> Result<Bytes> {
        let refuse = |why: &str| {
            Error::input("external data is read only from files in the model's folder")
                .at(location)
                .because(why)
                .help("put the data file beside the model, and a relative path to it into the model")
        };
        let Some(folder) = &self.folder else {
            return Err(refuse("the model does not come from a file"));
        };
        let relative = Path::new(location);
        if location.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err(refuse("its path is absolute, empty or has \"..\" in it"));
        }
        let path = folder.join(relative);
        let real = path.canonicalize().map_err(|e| {
            io("read external data", relative, &e)
                .help("the model's weights are in that file: copy it beside the model")
        })?;
        let home = folder.canonicalize().map_err(|e| io("read the folder", folder, &e))?;
        if !real.starts_with(&home) {
            return Err(refuse("a symbolic link leads out of the folder"));
        }
        let meta = real.metadata().map_err(|e| io("read external data", relative, &e))?;
        if !meta.is_file() {
            return Err(refuse("it is not a regular file"));
        }
        if links(&meta) > 1 {
            return Err(refuse("it is a hard link, which may lead to any file of the machine"));
        }
        self.paths.push(path.clone());
        map(&real, &mut self.pages)
    }
}

/// What a tensor of these dims takes, raw; `None` if that is not known.
fn needed(t: &TensorProto) -> Option<usize> {
    let dims: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    byte_len(DType(t.data_type()), &dims?)
}

/// Raw data has the length that its type and dims ask for.
fn fits(t: &TensorProto) -> Result<()> {
    match (&t.raw_data, needed(t)) {
        (Some(raw), Some(need)) if !raw.is_empty() && raw.len() != need => {
            let (dims, dtype) = (&t.dims, DType(t.data_type()));
            Err(Error::input("a tensor is not valid")
                .because(format!("dims {dims:?} of {dtype} need {need} bytes, there are {}", raw.len()))
                .help("export the model again"))
        }
        _ => Ok(()),
    }
}

/// The data beside `place` that a model file, which is there or is to be, names and that was written for it.
pub fn data_of(model: &Path, place: &Path) -> Vec<PathBuf> {
    let mut called = files::called_data_of(place);
    // A model is read only where there is something to find.
    if called.is_empty() {
        return called;
    }
    let Some(mut proto) = map(model, &mut Pages::default()).ok().and_then(|bytes| ModelProto::decode(bytes).ok())
    else {
        return Vec::new();
    };
    let mut named = HashSet::new();
    let graph = proto.graph.as_mut();
    let walked = graph.map_or(Ok(()), |g| {
        tensors::in_graph(g, &mut |t| {
            named.extend(t.external_data.iter().filter(|e| e.key() == "location").map(|e| e.value().to_string()));
            Ok(())
        })
    });
    called.retain(|path| path.file_name().is_some_and(|name| named.contains(&*name.to_string_lossy())));
    called.retain(|path| walked.is_ok() && files::is_data_of(path, place));
    called
}

#[cfg(unix)]
fn links(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(meta)
}

#[cfg(not(unix))]
fn links(_: &std::fs::Metadata) -> u64 {
    1
}

/// The bytes of a file, mapped: pages are read when they are touched and never copied.
pub fn map(path: &Path, pages: &mut Pages) -> Result<Bytes> {
    // Before it is opened: opening a pipe waits for somebody to write into it.
    let meta = path.metadata().map_err(|e| io("read", path, &e).help("name an .onnx file that is there"))?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "it is a folder" } else { "it is not a regular file" };
        return Err(Error::input(format!("cannot read {}", path.display())).because(what).help("name an .onnx file"));
    }
    if meta.len() == 0 {
        return Ok(Bytes::new());
    }
    let file = File::open(path).map_err(|e| io("open", path, &e))?;
    let (bytes, map) = mapped(&file).map_err(|e| io("map", path, &e))?;
    pages.0.push(map);
    Ok(bytes)
}

/// All bytes of a file, and the map they lie in.
pub fn mapped(file: &File) -> std::io::Result<(Bytes, Arc<Mmap>)> {
    // SAFETY: as with every mapped file, somebody who truncates it while we run makes reading fail (SIGBUS). Our own
    // writers never write in place: they rename a new file over the old one, which keeps the mapped one alive.
    let map = Arc::new(unsafe { Mmap::map(file) }?);
    Ok((Bytes::from_owner(Mapped(map.clone())), map))
}
