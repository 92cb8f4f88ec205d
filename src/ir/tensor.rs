//! Constant tensors: element type, shape and shared little-endian bytes.

use crate::ir::shape::{DType, Shape, Type};
use crate::ir::varints;
use bytes::Bytes;
use half::{bf16, f16};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// Bytes that are read of a mapped file before its memory is given back.
const BLOCK: usize = 1 << 20;

/// Packed lists shorter than this are not kept: what they take as raw bytes does not matter.
const LONG: usize = 1 << 12;

/// A constant. Cloning shares the bytes, which may be a mapped file.
#[derive(Debug, Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Elements,
    /// Whether a file may have it in ONNX's typed fields, where integers take as many bytes as they need.
    typed: bool,
    /// The file that the bytes are mapped from, if they are.
    backing: Option<Arc<dyn Backing>>,
}

/// A mapped file: what was read of it need not stay in memory.
pub trait Backing: std::fmt::Debug + Send + Sync {
    /// Gives back the memory behind these bytes of the file; they are read again where they are needed again.
    fn release(&self, bytes: &[u8]);
}

/// Tensors are equal whatever their form in a file.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        let content = || match (&self.data, &other.data) {
            // Clones share their bytes: these need not be read to be the same.
            (Elements::Bytes(a), Elements::Bytes(b)) if (a.as_ptr(), a.len()) == (b.as_ptr(), b.len()) => true,
            // There is one way to pack numbers.
            (Elements::Packed(a), Elements::Packed(b)) => a.list == b.list,
            _ => self.bytes() == other.bytes() && self.as_strings() == other.as_strings(),
        };
        (self.dtype, &self.shape) == (other.dtype, &other.shape) && content()
    }
}

impl Eq for Tensor {}

#[derive(Debug, Clone)]
enum Elements {
    /// Row-major, little-endian; sub-byte types packed as in ONNX `raw_data`.
    Bytes(Bytes),
    Packed(Arc<Packed>),
    Strings(Arc<Vec<Bytes>>),
}

/// Integers that take fewer bytes as numbers of variable length than as raw ones. They stay in that form.
#[derive(Debug)]
struct Packed {
    list: Bytes,
    /// As raw bytes, once those are asked for.
    bytes: OnceLock<Bytes>,
}

impl Tensor {
    /// A tensor over `data`, row-major and little-endian; `None` unless its length is what type and shape ask for.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Option<Tensor> {
        let typed = Tensor::small_ints(dtype, &shape);
        (byte_len(dtype, &shape)? == data.len()).then_some(Tensor {
            dtype,
            shape,
            data: Elements::Bytes(data),
            typed,
            backing: None,
        })
    }

    /// A tensor whose elements are numbers of variable length in `list`, part of the file `backing`; `None` unless there is
    /// one number an element.
    pub fn from_list(
        dtype: DType,
        shape: Vec<usize>,
        list: Bytes,
        backing: Option<Arc<dyn Backing>>,
    ) -> Option<Tensor> {
        let width = dtype.bytes().filter(|&w| w <= 8)?;
        let read = || backing.iter().for_each(|file| file.release(&list));
        let (mut numbers, mut shortest) = (0, true);
        varints::each(&list, read, |n, bytes| {
            numbers += 1;
            shortest &= number(dtype, &n.to_le_bytes()[..width]).is_some_and(|n| varints::len(n) == bytes);
            Some(())
        })?;
        let need = byte_len(dtype, &shape).filter(|&need| numbers * width == need)?;
        if shortest && (LONG..need).contains(&list.len()) {
            let data = Elements::Packed(Arc::new(Packed { list, bytes: OnceLock::new() }));
            return Some(Tensor { dtype, shape, data, typed: true, backing });
        }
        Some(Tensor::new(dtype, shape, unpacked(&list, width, need, read))?.with_typed(true))
    }

    /// A string tensor; `None` unless there is one string an element.
    pub fn strings(shape: Vec<usize>, data: Vec<Bytes>) -> Option<Tensor> {
        (elements(&shape)? == data.len()).then(|| Tensor {
            dtype: DType::STRING,
            shape,
            data: Elements::Strings(Arc::new(data)),
            typed: true,
            backing: None,
        })
    }

    /// Whether a tensor is one of the short lists of dims, indices and pads that shape arithmetic makes: new ones may be
    /// written in typed fields. All readers know these types in that form.
    pub fn small_ints(dtype: DType, shape: &[usize]) -> bool {
        matches!(dtype, DType::I64 | DType::I32) && elements(shape).is_some_and(|n| n <= 64)
    }

    /// The same tensor, which a file may have, or is not to have, in ONNX's typed fields.
    pub fn with_typed(self, typed: bool) -> Tensor {
        Tensor { typed, ..self }
    }

    /// The same tensor, whose bytes are known to be mapped from this file.
    pub fn backed_by(self, backing: Option<Arc<dyn Backing>>) -> Tensor {
        Tensor { backing, ..self }
    }

    /// Whether its bytes are known to be mapped from a file.
    pub fn is_mapped(&self) -> bool {
        self.backing.is_some()
    }

    /// Whether a file may have it in a typed field.
    pub fn is_typed(&self) -> bool {
        self.typed
    }

    /// # Panics
    /// If `values` does not have one value an element of `shape`.
    pub fn f32(shape: impl Into<Vec<usize>>, values: &[f32]) -> Tensor {
        Tensor::from_floats(DType::F32, shape, values.iter().map(|&v| v as f64))
    }

    /// # Panics
    /// If `values` does not have one value an element of `shape`.
    pub fn i64(shape: impl Into<Vec<usize>>, values: &[i64]) -> Tensor {
        Tensor::from_ints(DType::I64, shape, values.iter().copied())
    }

    /// One i64, of rank 0.
    pub fn scalar_i64(value: i64) -> Tensor {
        Tensor::i64([], &[value])
    }

    /// Rounds each value to `dtype`, one of the float types.
    ///
    /// # Panics
    /// If `dtype` is no float type, or the number of values is not that of `shape`.
    pub fn from_floats(dtype: DType, shape: impl Into<Vec<usize>>, values: impl IntoIterator<Item = f64>) -> Tensor {
        let (shape, values) = (shape.into(), values.into_iter());
        let mut out = Vec::with_capacity(byte_len(dtype, &shape).unwrap_or(0));
        match dtype {
            DType::F32 => values.for_each(|v| out.extend_from_slice(&(v as f32).to_le_bytes())),
            DType::F64 => values.for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
            DType::F16 => values.for_each(|v| out.extend_from_slice(&f16::from_f64(v).to_le_bytes())),
            DType::BF16 => values.for_each(|v| out.extend_from_slice(&bf16::from_f64(v).to_le_bytes())),
            other => panic!("{other} is not a float type"),
        }
        Tensor::new(dtype, shape, out.into()).expect("one value an element")
    }

    /// Wraps each value to the width of `dtype`, an integer type or bool.
    ///
    /// # Panics
    /// If `dtype` is neither, or the number of values is not that of `shape`.
    pub fn from_ints(dtype: DType, shape: impl Into<Vec<usize>>, values: impl IntoIterator<Item = i64>) -> Tensor {
        let shape = shape.into();
        let width = dtype.bytes().filter(|_| dtype.is_int() || dtype == DType::BOOL).expect("an integer type");
        let mut out = Vec::with_capacity(byte_len(dtype, &shape).unwrap_or(0));
        for v in values {
            let v = if dtype == DType::BOOL { (v != 0) as i64 } else { v };
            out.extend_from_slice(&v.to_le_bytes()[..width]);
        }
        Tensor::new(dtype, shape, out.into()).expect("one value an element")
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its dims.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many dims it has.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the elements.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Elements::Bytes(b) => b.len(),
            Elements::Packed(_) => byte_len(self.dtype, &self.shape).unwrap_or(0),
            Elements::Strings(s) => s.iter().map(Bytes::len).sum(),
        }
    }

    /// The elements as a list of numbers of variable length, if a file has them so: if it may, and that is the shorter form.
    pub fn packed(&self) -> Option<Bytes> {
        if let Elements::Packed(packed) = &self.data {
            return Some(packed.list.clone());
        }
        let numbers = self.numbers().filter(|_| self.stored_len() < self.byte_len())?;
        let mut list = Vec::with_capacity(self.stored_len());
        numbers.for_each(|n| varints::put(&mut list, n));
        Some(list.into())
    }

    /// Bytes of the elements in a file.
    pub fn stored_len(&self) -> usize {
        let packed = match (&self.data, self.numbers()) {
            (Elements::Packed(packed), _) => packed.list.len(),
            (_, Some(numbers)) if self.typed => numbers.map(varints::len).sum(),
            _ => usize::MAX,
        };
        packed.min(self.byte_len())
    }

    fn numbers(&self) -> Option<impl Iterator<Item = u64> + '_> {
        let dtype = self.dtype;
        number(dtype, &[0; 8])?;
        let Elements::Bytes(bytes) = &self.data else { return None };
        Some(bytes.chunks_exact(dtype.bytes()?).map(move |b| number(dtype, b).unwrap_or(0)))
    }

    /// Its type as a value has it.
    pub fn ty(&self) -> Type {
        Type::tensor(self.dtype, Shape::from(self.shape.as_slice()))
    }

    /// The raw bytes; `None` for strings.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.data {
            Elements::Bytes(b) => Some(b),
            Elements::Packed(p) => {
                let raw = || unpacked(&p.list, self.dtype.bytes().unwrap_or(1), self.byte_len(), || self.release());
                Some(p.bytes.get_or_init(raw))
            }
            Elements::Strings(_) => None,
        }
    }

    /// The bytes in the form in which they are kept; `None` for strings.
    pub fn kept(&self) -> Option<&Bytes> {
        match &self.data {
            Elements::Packed(p) => Some(&p.list),
            _ => self.bytes(),
        }
    }

    /// Its elements, if they are strings.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Elements::Strings(s) => Some(s),
            _ => None,
        }
    }

    /// The same elements in another shape; `None` unless their number is the same.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Tensor> {
        (elements(&shape)? == self.len()).then(|| Tensor { shape, ..self.clone() })
    }

    /// The elements as f32, rounded from wider types; borrowed where the bytes allow it. `None` if not a float tensor.
    pub fn as_f32(&self) -> Option<Cow<'_, [f32]>> {
        let b = self.bytes()?;
        if self.dtype == DType::F32
            && cfg!(target_endian = "little")
            && let Ok(view) = bytemuck::try_cast_slice(b)
        {
            return Some(Cow::Borrowed(view));
        }
        Some(Cow::Owned(match self.dtype {
            DType::F32 => words(b).map(f32::from_le_bytes).collect(),
            DType::F64 => words(b).map(|w| f64::from_le_bytes(w) as f32).collect(),
            DType::F16 => words(b).map(|w| f16::from_le_bytes(w).to_f32()).collect(),
            DType::BF16 => words(b).map(|w| bf16::from_le_bytes(w).to_f32()).collect(),
            _ => return None,
        }))
    }

    /// The elements as f64. `None` if not a float tensor.
    pub fn floats(&self) -> Option<Vec<f64>> {
        Some(self.iter_floats()?.collect())
    }

    /// Gives back the memory behind bytes that are mapped from a file; they are read again where they are needed again.
    pub fn release(&self) {
        if let (Some(backing), Some(bytes)) = (&self.backing, self.kept()) {
            backing.release(bytes);
        }
    }

    /// The bytes in order, in blocks of whole elements; of a mapped file one block at a time stays in memory. `None` for
    /// types without whole bytes.
    pub fn blocks(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let width = self.dtype.bytes()?;
        Some(self.bytes()?.chunks(BLOCK / width * width).inspect(|_| self.release()))
    }

    /// Copies some of the bytes behind those in `out`, as sparing of memory. `None` if there are not as many.
    pub fn copy(&self, range: std::ops::Range<usize>, out: &mut Vec<u8>) -> Option<()> {
        for part in self.bytes()?.get(range)?.chunks(BLOCK) {
            if out.len() / BLOCK < (out.len() + part.len()) / BLOCK {
                self.release();
            }
            out.extend_from_slice(part);
        }
        Some(())
    }

    /// The elements as f64, one after the other. `None` if not a float tensor.
    pub fn iter_floats(&self) -> Option<impl Iterator<Item = f64> + '_> {
        let read: fn(&[u8]) -> f64 = match self.dtype {
            DType::F32 => |b| word(b).map_or(0.0, |w| f32::from_le_bytes(w).into()),
            DType::F64 => |b| word(b).map_or(0.0, f64::from_le_bytes),
            DType::F16 => |b| word(b).map_or(0.0, |w| f16::from_le_bytes(w).into()),
            DType::BF16 => |b| word(b).map_or(0.0, |w| bf16::from_le_bytes(w).into()),
            _ => return None,
        };
        let width = self.dtype.bytes()?;
        Some(self.blocks()?.flat_map(move |block| block.chunks_exact(width).map(read)))
    }

    /// The elements as i64 (bool as 0 and 1). `None` if not integers, or if a u64 does not fit.
    pub fn ints(&self) -> Option<Vec<i64>> {
        let b = self.bytes()?;
        Some(match self.dtype {
            DType::U8 => b.iter().map(|&v| v as i64).collect(),
            DType::BOOL => b.iter().map(|&v| (v != 0) as i64).collect(),
            DType::I8 => b.iter().map(|&v| v as i8 as i64).collect(),
            DType::U16 => words(b).map(|w| u16::from_le_bytes(w) as i64).collect(),
            DType::I16 => words(b).map(|w| i16::from_le_bytes(w) as i64).collect(),
            DType::U32 => words(b).map(|w| u32::from_le_bytes(w) as i64).collect(),
            DType::I32 => words(b).map(|w| i32::from_le_bytes(w) as i64).collect(),
            DType::I64 => words(b).map(i64::from_le_bytes).collect(),
            DType::U64 => {
                return words(b).map(|w| i64::try_from(u64::from_le_bytes(w)).ok()).collect();
            }
            _ => return None,
        })
    }

    /// The single element of a one-element float tensor.
    pub fn float_scalar(&self) -> Option<f64> {
        if self.len() != 1 { None } else { self.floats()?.first().copied() }
    }

    /// The single element of a one-element integer or bool tensor.
    pub fn int_scalar(&self) -> Option<i64> {
        if self.len() != 1 { None } else { self.ints()?.first().copied() }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|c| c.try_into().expect("chunks of N bytes"))
}

fn word<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// An element as ONNX's typed fields have it (`onnx.proto`, TensorProto): signed numbers of 64 bits, floats of 16 bits by
/// their bits. `None` for types of one byte and for wider floats.
fn number(dtype: DType, element: &[u8]) -> Option<u64> {
    let all = element.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    Some(match dtype {
        DType::I16 => all as i16 as u64,
        DType::U16 | DType::F16 | DType::BF16 => all & 0xffff,
        DType::I32 => all as i32 as u64,
        DType::U32 => all & 0xffff_ffff,
        DType::I64 | DType::U64 => all,
        _ => return None,
    })
}

/// The numbers of a list, each in `width` bytes.
fn unpacked(list: &[u8], width: usize, need: usize, read: impl Fn()) -> Bytes {
    let mut out = Vec::with_capacity(need);
    let _ = varints::each(list, read, |n, _| {
        out.extend_from_slice(&n.to_le_bytes()[..width]);
        Some(())
    });
    out.into()
}

/// Product of the dims; `None` on overflow.
pub fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Bytes of a row-major tensor; `None` on overflow and for types without a fixed width.
pub fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    let bits = (elements(shape)? as u128).checked_mul(dtype.bits()? as u128)?;
    usize::try_from(bits.div_ceil(8)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_form_is_stored() {
        let stored = |t: Tensor| (t.stored_len(), t.packed().map(|list| list.to_vec()));
        assert_eq!(stored(Tensor::i64([3], &[1, 127, 128])), (4, Some(vec![1, 127, 128, 1])));
        assert_eq!(stored(Tensor::i64([3], &[1, 127, 128]).with_typed(false)), (24, None));
        assert_eq!(stored(Tensor::i64([1], &[-1])), (8, None));
        assert_eq!(stored(Tensor::i64([2], &[-1, 0])), (11, Some([&[255; 9][..], &[1, 0]].concat())));
        assert_eq!(stored(Tensor::i64([1], &[i64::MAX])), (8, None));
        assert_eq!(stored(Tensor::from_ints(DType::I32, [2], [-1, 1])), (8, None));
        assert_eq!(stored(Tensor::from_ints(DType::U16, [2], [1, 2])), (4, None));
        assert_eq!(stored(Tensor::from_ints(DType::U16, [2], [1, 2]).with_typed(true)), (2, Some(vec![1, 2])));
        assert_eq!(stored(Tensor::f32([2], &[0.0, 0.0]).with_typed(true)), (8, None));
        assert_eq!(stored(Tensor::i64([0], &[])), (0, None));
    }

    #[test]
    fn what_was_read_of_a_file_leaves_memory() {
        #[derive(Debug, Default)]
        struct File(std::sync::atomic::AtomicUsize);
        impl Backing for File {
            fn release(&self, bytes: &[u8]) {
                assert_eq!(bytes.len(), 3 * BLOCK);
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let values: Vec<f32> = (0..3 * BLOCK / 4).map(|i| i as f32).collect();
        let file = Arc::new(File::default());
        let t = Tensor::f32([values.len()], &values).backed_by(Some(file.clone()));
        assert!(t.iter_floats().unwrap().eq(values.iter().map(|&v| f64::from(v))));
        let mut copy = Vec::new();
        t.copy(0..t.byte_len(), &mut copy).unwrap();
        assert_eq!(t.bytes().unwrap(), &copy);
        assert_eq!(file.0.load(std::sync::atomic::Ordering::Relaxed), 6);
        assert_eq!(t.copy(1..t.byte_len() + 1, &mut copy), None);
    }
}
