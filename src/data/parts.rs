//! Arrays that lie in several files: the samples of one follow those of another, and each file's may have a shape of their own.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::array::{Array, Dtype};
use super::member::Member;
use super::stored::{Access, RowShapes, RowSource, Stored};
use super::{Dataset, NUMPY, npy, portion};
use crate::error::{Error, Result, io};

/// Files that are open at a time: thousands may lie in a folder.
const OPEN: usize = 4;

/// Whether a file is one of arrays by its name.
pub(super) fn is_array(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["npy", "npz"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Adds the arrays that lie in these files, in this order, to what is known of their folder. `others` are entries that are
/// passed over.
pub(super) fn open_folder(data: Dataset, files: Vec<PathBuf>, others: &[PathBuf]) -> Result<Dataset> {
    Ok(open_files(data, files, others)?.0)
}

/// The same for files of class folders, each with its label: `y` is the label of each sample.
pub(super) fn open_classes(data: Dataset, files: Vec<(PathBuf, i64)>, others: &[PathBuf]) -> Result<Dataset> {
    let (paths, labels): (Vec<PathBuf>, Vec<i64>) = files.into_iter().unzip();
    let (mut data, counts) = open_files(data, paths, others)?;
    if data.arrays.iter().any(|(name, _)| name == "y") {
        return Err(Error::input(format!("the files in {} hold `y` and lie in class folders", data.name))
            .help("say what the labels are in one way only"));
    }
    let stored = |labels: Vec<i64>| {
        let bytes = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
        Array::new(Dtype::I64, vec![labels.len()], bytes).map(Stored::from)
    };
    let rows = labels.iter().zip(counts).flat_map(|(&label, n)| std::iter::repeat_n(label, n)).collect();
    let y = stored(rows)?.with_files(stored(labels)?);
    data.arrays.push(("y".into(), Ok(Arc::new(y))));
    Ok(data)
}

/// The arrays of files, and how many rows the first array has in each.
fn open_files(mut data: Dataset, files: Vec<PathBuf>, others: &[PathBuf]) -> Result<(Dataset, Vec<usize>)> {
    if let Some(first) = others.first() {
        let what = if others.len() == 1 { "1 entry that is" } else { "entries that are" };
        let warning = format!("{}: ignored {what} neither .npy nor .npz, {} first", data.name, first.display());
        data.warnings.push(warning);
    }
    let mut by_name: Vec<(String, Vec<DataPart>)> = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let found = open(file)?;
        let names: Vec<&String> = found.iter().map(|a| &a.0).collect();
        if i == 0 {
            by_name.extend(names.iter().map(|name| (name.to_string(), Vec::new())));
        }
        if let Some((lost, _)) = by_name.iter().find(|(name, _)| !names.contains(&name)) {
            let has = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            return Err(Error::input(format!("the files in {} do not hold the same arrays", data.name))
                .because(format!("{} has `{lost}`, and {} has {has}", files[0].display(), file.display()))
                .help("give every file the same arrays by name; an .npy holds `x`"));
        }
        for (name, array) in found {
            let Some((_, parts)) = by_name.iter_mut().find(|(known, _)| *known == name) else { continue };
            parts.push(DataPart::of(file, &name, array));
        }
    }
    data.files.extend(files);
    let rows = |part: &DataPart| part.form.as_ref().ok().and_then(|f| f.1.first().copied()).unwrap_or(1);
    let counts = by_name.first().map_or(Vec::new(), |(_, parts)| parts.iter().map(rows).collect());
    let join = |(name, parts): (String, Vec<DataPart>)| (name, joined(parts).map(Arc::new));
    data.arrays = by_name.into_iter().map(join).collect();
    Ok((data, counts))
}

/// The arrays of a file by name; an `.npy` holds `x`.
fn open(path: &Path) -> Result<Vec<(String, Result<Stored, String>)>> {
    let failed = |e: &std::io::Error| io("read", path, e);
    let mut file = File::open(path).map_err(|e| failed(&e))?;
    let len = file.metadata().map_err(|e| failed(&e))?.len();
    match npy::is_npz(&mut file).map_err(|e| failed(&e))? {
        Some(true) => npy::open_npz(path, file, len),
        Some(false) => Ok(vec![("x".into(), npy::open_npy(Member::all(file, len)))]),
        None => Err(Error::input(format!("cannot read {}", path.display()))
            .because("its first bytes are neither those of a zip archive nor NumPy's")
            .help(NUMPY)),
    }
}

/// An array in one of the files.
struct DataPart {
    place: PartPlace,
    /// Its type and shape, or why it is of no use.
    form: Result<(Dtype, Vec<usize>), String>,
    packed: bool,
}

enum PartPlace {
    File { path: PathBuf, name: String },
    Memory(Arc<Stored>),
}

impl DataPart {
    fn of(path: &Path, name: &str, array: Result<Stored, String>) -> DataPart {
        let packed = array.as_ref().is_ok_and(|a| a.access() == Access::InOrder && a.bytes() > portion::bytes());
        let form = array.map(|a| (a.dtype(), a.shape().to_vec()));
        let form = form.map_err(|why| format!("{}: {why}", path.display()));
        DataPart { place: PartPlace::File { path: path.to_path_buf(), name: name.to_string() }, form, packed }
    }

    fn open(&self) -> Result<Arc<Stored>, String> {
        let (path, name) = match &self.place {
            PartPlace::Memory(stored) => return Ok(stored.clone()),
            PartPlace::File { path, name } => (path, name),
        };
        let place = |why: String| format!("{}: {why}", path.display());
        let mut found = open(path).map_err(|e| e.reason())?;
        let at = found.iter().position(|(known, _)| known == name);
        let stored = at.map(|at| found.swap_remove(at).1).unwrap_or_else(|| Err("it is gone".into())).map_err(place)?;
        match self.form.as_ref().is_ok_and(|form| *form == (stored.dtype(), stored.shape().to_vec())) {
            true => Ok(Arc::new(stored)),
            false => Err(place("it has another shape by now".into())),
        }
    }
}

/// Arrays as one.
///
/// # Errors
/// Why they make none.
fn joined(parts: Vec<DataPart>) -> Result<Stored, String> {
    let forms: Vec<(Dtype, Vec<usize>)> = parts.iter().map(|p| p.form.clone()).collect::<Result<_, String>>()?;
    let (dtype, first) = forms.first().cloned().ok_or("there are no files")?;
    let name = |i: usize| match &parts[i].place {
        PartPlace::File { path, .. } => path.display().to_string(),
        PartPlace::Memory(_) => format!("part {i}"),
    };
    if let Some(i) = forms.iter().position(|f| f.0 != dtype) {
        return Err(format!("it is {dtype} in {} and {} in {}", name(0), forms[i].0, name(i)));
    }
    if let Some(i) = forms.iter().position(|f| f.1.len() != first.len()) {
        return Err(format!("it has {} axes in {} and {} in {}", first.len(), name(0), forms[i].1.len(), name(i)));
    }
    let large = parts.iter().any(|p| p.packed);
    let access = if large { Access::InOrder } else { Access::Slow };
    let parts = Arc::new(parts);
    let stored = |by_file: bool| {
        let rows = |shape: &Vec<usize>| if by_file { 1 } else { shape.first().copied().unwrap_or(1) };
        let row = |shape: &Vec<usize>| if by_file { shape.clone() } else { shape[1..].to_vec() };
        let mut starts = vec![0];
        forms.iter().for_each(|f| starts.push(starts[starts.len() - 1] + rows(&f.1)));
        let sizes = RowShapes::new(forms.iter().flat_map(|f| std::iter::repeat_n(row(&f.1), rows(&f.1))));
        let count = starts[starts.len() - 1];
        let rows = JoinedParts { parts: parts.clone(), starts, by_file, open: Mutex::default(), access };
        Stored::mixed(dtype, count, sizes, Box::new(rows))
    };
    // One number a file is one a sample.
    Ok(if first.is_empty() { stored(true) } else { stored(false).with_files(stored(true)) })
}

/// Arrays in memory as one.
///
/// # Errors
/// If they differ in type, or in how many axes they have.
pub(super) fn in_memory(arrays: Vec<Array>) -> Result<Stored, String> {
    let part = |array: Array| DataPart {
        form: Ok((array.dtype(), array.shape().to_vec())),
        place: PartPlace::Memory(Arc::new(array.into())),
        packed: false,
    };
    joined(arrays.into_iter().map(part).collect())
}

/// Rows of arrays that follow each other.
struct JoinedParts {
    parts: Arc<Vec<DataPart>>,
    /// The first row of each part, and how many rows there are.
    starts: Vec<usize>,
    by_file: bool,
    /// The last used at the end.
    open: Mutex<Vec<(usize, Arc<Stored>)>>,
    access: Access,
}

impl JoinedParts {
    fn part_of(&self, row: usize) -> usize {
        self.starts.partition_point(|&start| start <= row).saturating_sub(1)
    }

    fn part(&self, at: usize) -> Result<Arc<Stored>, String> {
        let opened = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let mut open = opened();
            open.iter().position(|p| p.0 == at).map(|i| open.remove(i).1)
        };
        let part = known.map_or_else(|| self.parts[at].open(), Ok)?;
        let mut open = opened();
        open.retain(|p| p.0 != at);
        open.push((at, part.clone()));
        let old = open.len().saturating_sub(OPEN);
        open.drain(..old);
        Ok(part)
    }
}

impl RowSource for JoinedParts {
    fn access(&self) -> Access {
        self.access
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<(), String> {
        for row in rows {
            let at = self.part_of(row);
            let part = self.part(at)?;
            match self.by_file {
                true => (0..part.rows()).try_for_each(|row| part.append(row, to))?,
                false => part.append(row - self.starts[at], to)?,
            }
        }
        Ok(())
    }

    fn file(&self, row: usize) -> Option<&Path> {
        match &self.parts.get(self.part_of(row))?.place {
            PartPlace::File { path, .. } => Some(path),
            PartPlace::Memory(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::npy::tests::npy;
    use super::*;
    use crate::data::{InputSpec, Normalise, Pictures};

    fn save(folder: &Path, name: &str, shape: &str, values: &[u8]) {
        std::fs::write(folder.join(name), npy("|u1", false, shape, values)).unwrap();
    }

    fn spec(dims: &[Option<usize>]) -> InputSpec {
        InputSpec { name: "in".into(), dtype: Dtype::F32, dims: Some(dims.to_vec()) }
    }

    fn open(folder: &Path) -> Dataset {
        Dataset::load_as(folder, &Pictures::default()).unwrap()
    }

    #[test]
    fn files_follow_each_other_each_with_its_own_shape() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "a.npy", "(2, 2)", &[1, 2, 3, 4]);
        save(dir.path(), "b.npy", "(1, 3)", &[5, 6, 7]);
        save(dir.path(), "c.npy", "(1, 2)", &[8, 9]);
        let data = open(dir.path());
        let feed = data.feed(&[spec(&[None, None])], &Normalise::default()).unwrap();
        let given: Vec<Vec<f64>> = (0..4).map(|i| feed.chunk(i).unwrap()[0].to_f64()).collect();
        assert_eq!(given, [vec![1., 2.], vec![3., 4.], vec![5., 6., 7.], vec![8., 9.]]);
        assert_eq!((feed.kinds(), feed.by_shape(0..4)), (2, vec![0, 1, 3, 2]));
        feed.hold(0..4).unwrap();
        assert_eq!(feed.chunk(2).unwrap()[0].to_f64(), [5., 6., 7.]);
        // A batch holds one shape, filled up with its last sample.
        let feed = data.feed(&[spec(&[Some(2), None])], &Normalise::default()).unwrap();
        let rows: Vec<Vec<usize>> = (0..feed.chunks()).map(|i| feed.rows(i)).collect();
        assert_eq!(rows, [vec![0, 1], vec![2], vec![3]]);
        assert_eq!(feed.chunk(1).unwrap()[0].to_f64(), [5., 6., 7., 5., 6., 7.]);
        let e = data.feed(&[spec(&[None, Some(2)])], &Normalise::default()).err().unwrap().to_string();
        assert!(e.contains("differ in shape") && e.contains("b.npy is [3], 3 of 4 are [2]"), "{e}");
    }

    #[test]
    fn class_folders_of_files_are_labels() {
        let dir = tempfile::tempdir().unwrap();
        for (class, name, shape, values) in [
            ("b", "1.npy", "(2, 1)", &[1, 2][..]),
            ("a", "1.npy", "(1, 1)", &[3]),
            ("a", "2.npy", "(3, 1)", &[4, 5, 6]),
        ] {
            std::fs::create_dir_all(dir.path().join(class)).unwrap();
            save(&dir.path().join(class), name, shape, values);
        }
        let data = open(dir.path());
        let feed = data.feed(&[spec(&[None, Some(1)])], &Normalise::default()).unwrap();
        assert_eq!(feed.labels().unwrap(), [0, 0, 0, 0, 1, 1]);
        // Each file is a sample.
        let feed = data.feed(&[spec(&[None, None, Some(1)])], &Normalise::default()).unwrap();
        assert_eq!((feed.samples(), feed.labels().unwrap()), (3, &[0, 0, 1][..]));
    }

    #[test]
    fn a_file_without_an_axis_of_samples_is_a_sample() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "1.npy", "(2, 1)", &[1, 2]);
        save(dir.path(), "2.npy", "(3, 1)", &[3, 4, 5]);
        let data = open(dir.path());
        let feed = data.feed(&[spec(&[None, None, Some(1)])], &Normalise::default()).unwrap();
        assert_eq!((feed.samples(), feed.shapes(1)), (2, vec![vec![1, 3, 1]]));
        assert_eq!(feed.chunk(1).unwrap()[0].to_f64(), [3., 4., 5.]);
    }

    #[test]
    fn files_that_do_not_go_together_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "a.npy", "(2, 2)", &[1, 2, 3, 4]);
        save(dir.path(), "b.npy", "(2,)", &[1, 2]);
        let e = open(dir.path()).array("x").unwrap_err().to_string();
        assert!(e.contains("it has 2 axes in") && e.contains("a.npy and 1 in"), "{e}");
        std::fs::write(dir.path().join("b.npy"), npy("<i2", false, "(1, 1)", &[0; 2])).unwrap();
        let e = open(dir.path()).array("x").unwrap_err().to_string();
        assert!(e.contains("it is u8 in") && e.contains("i16 in"), "{e}");
    }

    #[test]
    fn what_changes_in_between_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "a.npy", "(1, 2)", &[1, 2]);
        save(dir.path(), "b.npy", "(1, 3)", &[1, 2, 3]);
        let data = open(dir.path());
        let feed = data.feed(&[spec(&[None, None])], &Normalise::default()).unwrap();
        save(dir.path(), "b.npy", "(1, 4)", &[1, 2, 3, 4]);
        let e = feed.chunk(1).unwrap_err().to_string();
        assert!(e.contains("another shape by now"), "{e}");
    }

    #[test]
    fn arrays_in_memory_are_samples_too() {
        let part = |n: usize| Array::from_f32(vec![1, n], &vec![n as f32; n]).unwrap();
        let data = Dataset::from_parts("parts", [("x".to_string(), (1..4).map(part).collect())]);
        let feed = data.feed(&[spec(&[None, None])], &Normalise::default()).unwrap();
        assert_eq!((feed.kinds(), feed.chunk(2).unwrap()[0].to_f64()), (3, vec![3.; 3]));
    }
}
