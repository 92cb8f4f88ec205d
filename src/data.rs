//! Data sets: the samples and labels that a model is measured and calibrated with.
//!
//! A [`Dataset`] is what a file holds, in the dtypes it holds; a [`Feed`] is the same bound to the inputs of one model,
//! cast and normalised sample by sample.

mod array;
mod feed;
mod images;
mod normalise;
mod npy;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use array::{Array, Dtype};
pub use feed::{Feed, InputSpec};
pub use normalise::{Normalise, parse_scale};

use crate::error::{Error, Result, io};

const FORMS: &str = "give a .npz with `x` and optionally `y`, a .npy, or a folder of pictures";
const NUMPY: &str = "write arrays of numbers, with numpy.save or numpy.savez";

/// Arrays by name, as a file holds them.
pub struct Dataset {
    name: String,
    arrays: Vec<(String, Result<Array, String>)>,
    warnings: Vec<String>,
    files: Vec<PathBuf>,
}

impl Dataset {
    /// Reads an `.npz`, an `.npy` (its array is `x`) or a folder of pictures.
    ///
    /// What an array is good for shows only when a model asks for it, see [`Dataset::feed`]; here a file fails that is
    /// none of the three or is damaged as a whole.
    pub fn load(path: &Path) -> Result<Dataset> {
        let name = path.display().to_string();
        let mut warnings = Vec::new();
        let meta = path.metadata().map_err(|e| io("read", path, &e).help(FORMS))?;
        if meta.is_dir() {
            let mut files = vec![path.to_path_buf()];
            let (x, y) = images::read_folder(path, &mut warnings, &mut files)?;
            let mut arrays = vec![("x".into(), Ok(x))];
            arrays.extend(y.map(|y| ("y".into(), Ok(y))));
            return Ok(Dataset { name, arrays, warnings, files });
        }
        let not_data = |why: &str| Error::input(format!("{name} is not a data set")).because(why).help(FORMS);
        if !meta.is_file() {
            return Err(not_data("it is neither a file nor a folder"));
        }
        let mut file = File::open(path).map_err(|e| io("read", path, &e))?;
        let arrays = match npy::is_npz(&mut file).map_err(|e| io("read", path, &e))? {
            Some(true) => npy::read_npz(path, file)?,
            Some(false) => {
                let array = npy::read_npy(&mut file);
                vec![(
                    "x".into(),
                    Ok(array.map_err(|why| Error::input(format!("cannot read {name}")).because(why).help(NUMPY))?),
                )]
            }
            None => return Err(not_data("its first bytes are neither those of a zip archive nor NumPy's")),
        };
        Ok(Dataset { name, arrays, warnings, files: vec![path.to_path_buf()] })
    }

    /// A data set made in memory; `name` stands for the file in messages.
    pub fn from_arrays(name: impl Into<String>, arrays: impl IntoIterator<Item = (String, Array)>) -> Dataset {
        let arrays = arrays.into_iter().map(|(name, array)| (name, Ok(array))).collect();
        Dataset { name: name.into(), arrays, warnings: Vec::new(), files: Vec::new() }
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

    /// The array of that name; an error, with what there is, if it is missing or not numeric.
    pub fn array(&self, name: &str) -> Result<&Array> {
        match self.arrays.iter().find(|(n, _)| n == name) {
            Some((_, Ok(array))) => Ok(array),
            Some((_, Err(why))) => {
                Err(Error::input(format!("cannot read the array `{name}`")).at(&self.name).because(why).help(NUMPY))
            }
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
