//! An array where it lies, of which no more is read than is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rayon::prelude::*;

use super::array::{Array, Dtype, byte_len, describe, dims};
use super::portion;

/// Bytes of a larger one that are read in one go.
const RUN: usize = 1 << 24;

/// How an array lies in its file. A row is a slice of the first axis; an array without axes is one row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ArrayLayout {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub big_endian: bool,
    /// The first index runs fastest: rows are not contiguous.
    pub fortran: bool,
}

impl ArrayLayout {
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Bytes of all elements; `None` if that is more than memory can address.
    pub fn byte_len(&self) -> Option<usize> {
        byte_len(self.dtype, &self.shape)
    }

    pub fn row_len(&self) -> usize {
        self.byte_len().unwrap_or(0).checked_div(self.rows()).unwrap_or(0)
    }
}

impl fmt::Display for ArrayLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(self.dtype, self.shape.iter().copied()))
    }
}

/// The shapes of rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowShapes {
    /// Those that there are, each once, in the order they first come.
    pub shapes: Vec<Vec<usize>>,
    /// Which of them each row has; empty if all rows have the same.
    of: Vec<u32>,
}

impl RowShapes {
    /// Of rows with these shapes.
    pub fn new(rows: impl IntoIterator<Item = Vec<usize>>) -> RowShapes {
        let (mut places, mut shapes, mut of) = (HashMap::new(), Vec::new(), Vec::new());
        for shape in rows {
            let next = shapes.len() as u32;
            let place = *places.entry(shape).or_insert_with_key(|shape| {
                shapes.push(shape.clone());
                next
            });
            of.push(place);
        }
        of.truncate(if shapes.len() > 1 { of.len() } else { 0 });
        RowShapes { shapes, of }
    }

    /// The place of a row's shape among all shapes.
    pub fn of(&self, row: usize) -> usize {
        self.of.get(row).map_or(0, |&place| place as usize)
    }

    /// The shape that most rows have; of several, the one that comes first.
    pub fn usual(&self) -> usize {
        let mut counts = vec![0usize; self.shapes.len()];
        self.of.iter().for_each(|&place| counts[place as usize] += 1);
        (0..counts.len()).rev().max_by_key(|&place| counts[place]).unwrap_or(0)
    }

    /// How many rows have this shape; 0 if all have.
    pub fn count(&self, place: usize) -> usize {
        self.of.iter().filter(|&&of| of as usize == place).count()
    }
}

/// What it takes to read a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Next to nothing.
    Quick,
    /// Some work, for this row alone.
    Slow,
    /// All rows before it.
    InOrder,
}

/// Where rows come from.
pub(super) trait RowSource: Send + Sync {
    fn access(&self) -> Access;

    /// Appends the bytes of some rows, one after the other.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<(), String>;

    /// The file that has a row, if rows have files of their own.
    fn file(&self, _: usize) -> Option<&Path> {
        None
    }
}

/// An array that is in memory as far as it was asked for.
pub(super) struct Stored {
    /// Of all rows that have the same shape; else with the shape of the first.
    form: ArrayLayout,
    sizes: RowShapes,
    rows: Box<dyn RowSource>,
    at_once: usize,
    whole: OnceLock<Array>,
    held: Mutex<BTreeMap<usize, Vec<u8>>>,
    by_file: Option<Box<Stored>>,
}

impl Stored {
    pub fn new(form: ArrayLayout, rows: Box<dyn RowSource>) -> Stored {
        let sizes = RowShapes { shapes: vec![form.shape.get(1..).unwrap_or_default().to_vec()], of: Vec::new() };
        Stored {
            form,
            sizes,
            rows,
            at_once: portion::bytes(),
            whole: OnceLock::new(),
            held: Mutex::default(),
            by_file: None,
        }
    }

    /// Rows of these shapes, which all have as many axes.
    pub fn mixed(dtype: Dtype, count: usize, sizes: RowShapes, rows: Box<dyn RowSource>) -> Stored {
        let first = sizes.shapes.first().map_or(&[][..], Vec::as_slice);
        let shape = [&[count], first].concat();
        let form = ArrayLayout { dtype, shape, big_endian: false, fortran: false };
        Stored { sizes, ..Stored::new(form, rows) }
    }

    /// With what it is where each file is one row.
    pub fn with_files(self, by_file: Stored) -> Stored {
        Stored { by_file: Some(Box::new(by_file)), ..self }
    }

    /// What it is where each file is one row, if it lies in several.
    pub fn by_file(&self) -> Option<&Stored> {
        self.by_file.as_deref()
    }

    /// The shapes of rows.
    pub fn sizes(&self) -> &RowShapes {
        &self.sizes
    }

    /// The file that has a row, if rows have files of their own.
    pub fn file(&self, row: usize) -> Option<&Path> {
        self.rows.file(row)
    }

    /// Whether rows differ in their shapes.
    pub fn is_mixed(&self) -> bool {
        self.sizes.shapes.len() > 1
    }

    #[cfg(test)]
    pub fn with_at_once(self, at_once: usize) -> Stored {
        Stored { at_once, ..self }
    }

    pub fn dtype(&self) -> Dtype {
        self.form.dtype
    }

    pub fn access(&self) -> Access {
        self.rows.access()
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.form.rows()
    }

    /// Bytes of all rows of an array that is not mixed.
    pub fn bytes(&self) -> usize {
        self.form.byte_len().unwrap_or(usize::MAX)
    }

    /// Of all rows if they have the same shape; else with that of the first.
    pub fn shape(&self) -> &[usize] {
        &self.form.shape
    }

    /// Whether there is no row, or one without numbers.
    pub fn is_empty(&self) -> bool {
        self.form.shape.first() == Some(&0) || self.sizes.shapes.iter().any(|shape| shape.contains(&0))
    }

    /// Whether it is read as a whole, whatever is asked for.
    fn is_small(&self) -> bool {
        !self.is_mixed() && (self.form.fortran || self.form.byte_len().unwrap_or(usize::MAX) <= self.at_once)
    }

    /// Bytes that a row takes while it is held; 0 if none has to be.
    pub fn held_len(&self, row: usize) -> usize {
        match self.is_small() || self.rows.access() == Access::Quick || self.whole.get().is_some() {
            true => 0,
            false => self.row_len(row).unwrap_or(usize::MAX),
        }
    }

    fn row_len(&self, row: usize) -> Option<usize> {
        byte_len(self.form.dtype, &self.sizes.shapes[self.sizes.of(row)])
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<u8>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole array.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn whole(&self) -> Result<&Array, String> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        if self.is_mixed() {
            return Err("its samples differ in shape".into());
        }
        let mut held = self.held();
        if self.whole.get().is_none() {
            let mut bytes = self.room(self.form.byte_len())?;
            let run = (RUN / self.form.row_len().max(1)).max(1);
            for first in (0..self.form.rows()).step_by(run) {
                self.rows.read(first..self.form.rows().min(first + run), &mut bytes)?;
            }
            self.straighten(&mut bytes);
            if self.form.fortran {
                bytes = c_order(&bytes, &self.form.shape, self.form.dtype.size());
            }
            let array = Array::new(self.form.dtype, self.form.shape.clone(), bytes).map_err(|e| e.to_string())?;
            held.clear();
            let _ = self.whole.set(array);
        }
        self.whole.get().ok_or_else(|| "it was not read".into())
    }

    /// Reads at once what is small.
    pub fn settle(&self) -> Result<(), String> {
        if self.is_small() { self.whole().map(drop) } else { Ok(()) }
    }

    /// Keeps these rows in memory until [`Stored::forget`], unless they are as quick to read where they lie. The file is
    /// gone through once at most.
    pub fn hold(&self, rows: &BTreeSet<usize>) -> Result<(), String> {
        self.settle()?;
        let access = self.rows.access();
        if self.whole.get().is_some() || access == Access::Quick {
            return Ok(());
        }
        let missing: Vec<usize> = {
            let held = self.held();
            rows.iter().copied().filter(|row| !held.contains_key(row)).collect()
        };
        let read = |&row: &usize| Ok((row, self.row(row)?));
        let found: Vec<(usize, Vec<u8>)> = match access {
            Access::Slow => missing.par_iter().map(read).collect::<Result<_, String>>()?,
            _ => missing.iter().map(read).collect::<Result<_, String>>()?,
        };
        self.held().extend(found);
        Ok(())
    }

    /// Gives back the rows that were held.
    pub fn forget(&self) {
        self.held().clear();
    }

    /// Appends the bytes of a row, as elements in C order, little-endian.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn append(&self, row: usize, to: &mut Vec<u8>) -> Result<(), String> {
        if let Some(whole) = self.whole.get() {
            to.extend_from_slice(whole.row(row));
            return Ok(());
        }
        if let Some(held) = self.held().get(&row) {
            to.extend_from_slice(held);
            return Ok(());
        }
        match self.is_small() || self.rows.access() == Access::InOrder && !self.is_mixed() {
            true => to.extend_from_slice(self.whole()?.row(row)),
            false => to.extend(self.row(row)?),
        }
        Ok(())
    }

    fn row(&self, row: usize) -> Result<Vec<u8>, String> {
        let mut bytes = self.room(self.row_len(row))?;
        self.rows.read(row..row + 1, &mut bytes)?;
        self.straighten(&mut bytes);
        Ok(bytes)
    }

    fn room(&self, bytes: Option<usize>) -> Result<Vec<u8>, String> {
        let mut room = Vec::new();
        let there = bytes.is_some_and(|n| room.try_reserve_exact(n).is_ok());
        there.then_some(room).ok_or_else(|| format!("{self} is larger than memory"))
    }

    fn straighten(&self, bytes: &mut [u8]) {
        if self.form.big_endian {
            bytes.chunks_exact_mut(self.form.dtype.size()).for_each(<[u8]>::reverse);
        }
    }
}

impl From<Array> for Stored {
    fn from(array: Array) -> Stored {
        /// Of an array that is in memory, nothing is left to be read.
        struct Nowhere;
        impl RowSource for Nowhere {
            fn access(&self) -> Access {
                Access::Quick
            }
            fn read(&self, _: Range<usize>, _: &mut Vec<u8>) -> Result<(), String> {
                Err("it lies nowhere".into())
            }
        }
        let form =
            ArrayLayout { dtype: array.dtype(), shape: array.shape().to_vec(), big_endian: false, fortran: false };
        Stored { whole: OnceLock::from(array), ..Stored::new(form, Box::new(Nowhere)) }
    }
}

/// `u8[20,3,48,?]`, where rows differ along the last axis.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differs = |axis: usize, n: usize| axis > 0 && self.sizes.shapes.iter().any(|shape| shape[axis - 1] != n);
        let dim = |(axis, &n): (usize, &usize)| if differs(axis, n) { "?".into() } else { n.to_string() };
        write!(f, "{}{}", self.form.dtype, dims(self.form.shape.iter().enumerate().map(dim)))
    }
}

/// Reorders elements of `size` bytes from Fortran order (first index fastest) to C order.
fn c_order(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for &d in shape {
        strides.push(stride);
        stride *= d;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    while out.len() < bytes.len() {
        out.extend_from_slice(&bytes[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Two bytes a row, which says its number; counts the rows that were read.
    struct Counted(Access, Arc<AtomicUsize>);

    impl RowSource for Counted {
        fn access(&self) -> Access {
            self.0
        }
        fn read(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<(), String> {
            self.1.fetch_add(rows.len(), Ordering::Relaxed);
            rows.for_each(|row| to.extend([row as u8, 0]));
            Ok(())
        }
    }

    fn stored(access: Access) -> (Stored, impl Fn() -> usize) {
        let form = ArrayLayout { dtype: Dtype::U16, shape: vec![100], big_endian: false, fortran: false };
        let read = Arc::new(AtomicUsize::new(0));
        (Stored::new(form, Box::new(Counted(access, read.clone()))), move || read.load(Ordering::Relaxed))
    }

    fn rows(of: &Stored, rows: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        rows.iter().for_each(|&row| of.append(row, &mut bytes).unwrap());
        bytes
    }

    #[test]
    fn of_a_large_array_only_rows_are_read() {
        for access in [Access::Quick, Access::Slow, Access::InOrder] {
            let (large, read) = stored(access);
            let large = large.with_at_once(10);
            large.hold(&[50, 1].into()).unwrap();
            large.hold(&[1].into()).unwrap();
            assert_eq!(rows(&large, &[50, 1]), [50, 0, 1, 0]);
            assert_eq!(read(), 2, "{access:?}");
            large.forget();
            assert_eq!(rows(&large, &[7]), [7, 0]);
            assert_eq!(read(), if access == Access::InOrder { 102 } else { 3 }, "{access:?}");
            assert_eq!(large.whole().unwrap().to_f64()[99], 99.0);
        }
    }

    #[test]
    fn a_small_array_is_read_once() {
        let (small, read) = stored(Access::Quick);
        assert_eq!((rows(&small, &[3, 4]), read()), (vec![3, 0, 4, 0], 100));
        small.hold(&[5].into()).unwrap();
        assert_eq!((rows(&small, &[5]), read(), small.held_len(5)), (vec![5, 0], 100, 0));
    }
}
