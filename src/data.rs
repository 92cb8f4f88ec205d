//! Data sets: the samples and labels that a model is measured and calibrated with.
//!
//! A [`Dataset`] is what a file holds, in the dtypes it holds; a [`Feed`] is the same bound to the inputs of one model,
//! cast and normalised sample by sample.

mod activation_file;
mod array;
mod classes;
mod feed;
mod images;
mod member;
mod normalise;
mod npy;
mod parts;
mod pictures;
mod portion;
mod stored;
mod stream;
mod thumbnail;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use activation_file::ActivationFile;
pub use array::{Array, Dtype};
pub use feed::{Feed, InputSpec};
pub use normalise::{Normalise, parse_scale};
pub use pictures::{Color, PictureSize, Pictures};
pub use portion::limit_memory;
pub use stream::SampleStream;
pub use thumbnail::thumbnail;

use crate::error::{Error, Result, io, reading};
use member::Member;
use stored::Stored;

const FORMS: &str = "give a .npz with `x` and optionally `y`, a .npy, or a folder of pictures or of such files";
const NUMPY: &str = "write arrays of numbers, with numpy.save or numpy.savez";

/// Arrays by name, where a file or a folder holds them; what they hold is read as far as it is asked for. A clone shares them.
#[derive(Clone)]
pub struct Dataset {
    name: String,
    arrays: Vec<(String, Result<Arc<Stored>, String>)>,
    stream: SampleStream,
    /// Those of the arrays that are fed back.
    states: Vec<String>,
    classes: Vec<String>,
    /// Whether `x` is pictures,
    pictures: bool,
    /// and that not all of them have the same channels.
    mixed: Option<String>,
    warnings: Vec<String>,
    files: Vec<PathBuf>,
}

impl Dataset {
    /// Opens an `.npz`, an `.npy` (its array is `x`), or a folder of pictures or of such files.
    ///
    /// What an array is good for shows only when a model asks for it, see [`Dataset::feed`]; here a file fails that is
    /// none of the three or is damaged as a whole.
    pub fn load(path: &Path) -> Result<Dataset> {
        Dataset::load_as(path, &Pictures::default())
    }

    /// As [`Dataset::load`]; a folder is read as `pictures` says.
    pub fn load_as(path: &Path, pictures: &Pictures) -> Result<Dataset> {
        let name = path.display().to_string();
        reading(&name, || Dataset::read(path, name.clone(), pictures))
    }

    fn read(path: &Path, name: String, pictures: &Pictures) -> Result<Dataset> {
        let meta = path.metadata().map_err(|e| io("read", path, &e).help(FORMS))?;
        if meta.is_dir() {
            let mut data = images::open_folder(path, pictures)?;
            data.warnings.extend((!data.pictures).then(|| unused(&data.name, pictures)).flatten());
            return Ok(data);
        }
        let not_data = |why: &str| Error::input(format!("{name} is not a data set")).because(why).help(FORMS);
        if !meta.is_file() {
            return Err(not_data("it is neither a file nor a folder"));
        }
        let mut file = File::open(path).map_err(|e| io("read", path, &e))?;
        let arrays = match npy::is_npz(&mut file).map_err(|e| io("read", path, &e))? {
            Some(true) => {
                let members = npy::open_npz(path, file, meta.len())?;
                members.into_iter().map(|(name, array)| (name, array.map(Arc::new))).collect()
            }
            Some(false) => {
                let array = npy::open_npy(Member::all(file, meta.len()));
                vec![(
                    "x".into(),
                    Ok(Arc::new(
                        array.map_err(|why| Error::input(format!("cannot read {name}")).because(why).help(NUMPY))?,
                    )),
                )]
            }
            None => return Err(not_data("its first bytes are neither those of a zip archive nor NumPy's")),
        };
        let warnings = Vec::from_iter(unused(&name, pictures));
        Ok(Dataset { arrays, warnings, files: vec![path.to_path_buf()], ..Dataset::empty(name) })
    }

    fn empty(name: String) -> Dataset {
        let (arrays, states, classes, warnings, files) = Default::default();
        Dataset {
            name,
            arrays,
            stream: SampleStream::default(),
            states,
            classes,
            pictures: false,
            mixed: None,
            warnings,
            files,
        }
    }

    /// A data set made in memory; `name` stands for the file in messages.
    pub fn from_arrays(name: impl Into<String>, arrays: impl IntoIterator<Item = (String, Array)>) -> Dataset {
        let arrays = arrays.into_iter().map(|(name, array)| (name, Ok(kept(array)))).collect();
        Dataset { arrays, ..Dataset::empty(name.into()) }
    }

    /// A data set made in memory of parts: the samples of an array follow those of the one before, and each array's may have a
    /// shape of their own.
    pub fn from_parts(name: impl Into<String>, parts: impl IntoIterator<Item = (String, Vec<Array>)>) -> Dataset {
        let arrays = parts.into_iter().map(|(name, parts)| (name, parts::in_memory(parts).map(Arc::new))).collect();
        Dataset { arrays, ..Dataset::empty(name.into()) }
    }

    /// The classes of a folder of pictures with a sub-folder for each, in the order of their labels.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The files and folders that it was read from.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Where it came from, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Things the user should know that are no errors.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The whole array of that name, read into memory; an error, with what there is, if it is missing, not numeric or
    /// damaged.
    pub fn array(&self, name: &str) -> Result<&Array> {
        self.stored(name)?.whole().map_err(|why| self.unreadable(name, why))
    }

    fn unreadable(&self, array: &str, why: String) -> Error {
        Error::input(format!("cannot read the array `{array}`")).at(&self.name).because(why)
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        match self.arrays.iter().find(|(n, _)| n == name) {
            Some((_, Ok(array))) => Ok(array),
            Some((_, Err(why))) => Err(self.unreadable(name, why.clone()).help(NUMPY)),
            None => {
                let held = self.arrays.iter().map(|(name, array)| match array {
                    Ok(array) => format!("`{name}` {array}"),
                    Err(_) => format!("`{name}`"),
                });
                let held: Vec<String> = held.collect();
                let held = if held.is_empty() { "no array".into() } else { held.join(", ") };
                Err(Error::input(format!("no array `{name}` in the data"))
                    .at(&self.name)
                    .because(format!("it holds {held}")))
            }
        }
    }
}

/// What to warn of where what is said of pictures is for none.
fn unused(name: &str, pictures: &Pictures) -> Option<String> {
    let said = *pictures != Pictures::default();
    said.then(|| format!("{name}: it is no folder of pictures, and was read without {pictures}"))
}

/// An array that is in memory.
fn kept(array: Array) -> Arc<Stored> {
    Arc::new(array.into())
}

/// `n` indices out of `0..len`, evenly spaced from the first on, ascending; all of them if there are no more than `n`.
pub fn evenly(n: usize, len: usize) -> impl ExactSizeIterator<Item = usize> + Clone {
    let n = n.min(len);
    (0..n).map(move |i| (i as u128 * len as u128 / n as u128) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_even_and_never_out_of_range() {
        assert_eq!(evenly(3, 10).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(evenly(5, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(evenly(0, 3).len() + evenly(3, 0).len(), 0);
        assert_eq!(evenly(2, usize::MAX).last(), Some(usize::MAX / 2));
    }

    #[test]
    fn a_file_that_is_no_data_set_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let load = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Dataset::load(&path)
        };
        let refused = |bytes: &[u8]| load(bytes).err().unwrap().to_string();
        assert!(Dataset::load(&dir.path().join("none.npz")).is_err());
        assert!(refused(b"").contains("is not a data set"));
        assert!(refused(b"a text file").contains("is not a data set"));
        assert!(refused(b"PK\x03\x04 but no zip").contains("cannot read"));
        assert!(refused(&npy::tests::npy("<f4", false, "(3,)", &[])).contains("takes 12 bytes"));
        let scalar = load(&npy::tests::npy("<f4", false, "(1,)", &[0; 4])).unwrap();
        assert_eq!(scalar.array("x").unwrap().shape(), [1]);
        let e = scalar.array("z").unwrap_err().to_string();
        assert!(e.contains("no array `z`") && e.contains("`x` f32[1]"), "{e}");
    }
}
