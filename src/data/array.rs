//! Numbers as they come from files, go into networks and come out of them: a dtype, a shape and bytes.

use std::fmt;

use half::{bf16, f16};

use crate::error::{Error, Result};

/// The element types that a data file can hold and a network can be fed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE half precision.
    F16,
    /// The upper half of a single precision number.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 => 8,
        }
    }

    /// Whether elements are floating point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Bool => "bool",
            Dtype::U8 => "u8",
            Dtype::I8 => "i8",
            Dtype::U16 => "u16",
            Dtype::I16 => "i16",
            Dtype::U32 => "u32",
            Dtype::I32 => "i32",
            Dtype::U64 => "u64",
            Dtype::I64 => "i64",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
        })
    }
}

/// A dense tensor: elements in C order, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    /// Fails unless `bytes` holds exactly the elements that `shape` asks for.
    pub fn new(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Array> {
        match byte_len(dtype, &shape) {
            Some(want) if want == bytes.len() => Ok(Array { dtype, shape, bytes }),
            _ => Err(Error::input(format!(
                "{} bytes do not make an array {}",
                bytes.len(),
                describe(dtype, shape.iter().copied())
            ))),
        }
    }

    /// Fails if there is no memory for it.
    pub fn zeros(dtype: Dtype, shape: Vec<usize>) -> Result<Array> {
        let mut bytes = Vec::new();
        match byte_len(dtype, &shape).filter(|&n| bytes.try_reserve_exact(n).is_ok()) {
            Some(n) => bytes.resize(n, 0),
            None => {
                return Err(Error::input(format!("{} is larger than memory", describe(dtype, shape))));
            }
        }
        Array::new(dtype, shape, bytes)
    }

    /// Fails unless `values` has as many elements as `shape` asks for.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Array> {
        Array::new(Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its dims.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements in C order, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its elements as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        to_f64(self.dtype, &self.bytes)
    }

    /// Its elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => read(&self.bytes, f32::from_le_bytes),
            _ => self.to_f64().into_iter().map(|v| v as f32).collect(),
        }
    }

    /// The same numbers in another dtype.
    ///
    /// # Errors
    /// If one is no whole number, or out of range, where whole numbers are wanted.
    pub fn cast(&self, to: Dtype) -> Result<Array> {
        let bytes = match to.is_float() {
            true => from_f64(self.to_f64().into_iter(), to),
            false => to_int(self.dtype, &self.bytes).and_then(|v| from_int(&v, to)).map_err(Error::input)?,
        };
        Array::new(to, self.shape.clone(), bytes)
    }

    /// Bytes of the slice `i` of the first axis, of all of an array without axes. `i` must be in range.
    pub(super) fn row(&self, i: usize) -> &[u8] {
        let len = self.bytes.len() / self.shape.first().unwrap_or(&1);
        &self.bytes[i * len..(i + 1) * len]
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(self.dtype, self.shape.iter().copied()))
    }
}

/// `f32[1,28,28]`
pub(super) fn describe(dtype: Dtype, shape: impl IntoIterator<Item = usize>) -> String {
    format!("{dtype}{}", dims(shape))
}

/// `[1,28,28]`
pub(super) fn dims<D: ToString>(shape: impl IntoIterator<Item = D>) -> String {
    let dims: Vec<String> = shape.into_iter().map(|d| d.to_string()).collect();
    format!("[{}]", dims.join(","))
}

/// Bytes that `shape` asks for; `None` if that is more than memory can address.
pub(super) fn byte_len(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d))
}

fn read<const W: usize, T>(bytes: &[u8], f: impl Fn([u8; W]) -> T) -> Vec<T> {
    bytes.as_chunks::<W>().0.iter().map(|b| f(*b)).collect()
}

macro_rules! decode {
    ($dtype:expr, $bytes:expr, $to:ty) => {
        match $dtype {
            Dtype::Bool => read($bytes, |[b]| u8::from(b != 0) as $to),
            Dtype::U8 => read($bytes, |[b]| b as $to),
            Dtype::I8 => read($bytes, |b| i8::from_le_bytes(b) as $to),
            Dtype::U16 => read($bytes, |b| u16::from_le_bytes(b) as $to),
            Dtype::I16 => read($bytes, |b| i16::from_le_bytes(b) as $to),
            Dtype::U32 => read($bytes, |b| u32::from_le_bytes(b) as $to),
            Dtype::I32 => read($bytes, |b| i32::from_le_bytes(b) as $to),
            Dtype::U64 => read($bytes, |b| u64::from_le_bytes(b) as $to),
            Dtype::I64 => read($bytes, |b| i64::from_le_bytes(b) as $to),
            Dtype::F16 => read($bytes, |b| f16::from_le_bytes(b).to_f32() as $to),
            Dtype::Bf16 => read($bytes, |b| bf16::from_le_bytes(b).to_f32() as $to),
            Dtype::F32 => read($bytes, |b| f32::from_le_bytes(b) as $to),
            Dtype::F64 => read($bytes, |b| f64::from_le_bytes(b) as $to),
        }
    };
}

pub(super) fn to_f64(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    decode!(dtype, bytes, f64)
}

/// Elements as integers. Floats that are not integers are an error, which names the first such value.
pub(super) fn to_int(dtype: Dtype, bytes: &[u8]) -> Result<Vec<i128>, String> {
    if dtype.is_float() {
        // f64 holds any integer below 2^53 exactly; what is larger cannot be told from its neighbours.
        let whole = |v: f64| v.fract() == 0.0 && v.abs() <= (1u64 << 53) as f64;
        if let Some(v) = to_f64(dtype, bytes).into_iter().find(|&v| !whole(v)) {
            return Err(format!("{v} is not an integer"));
        }
    }
    Ok(decode!(dtype, bytes, i128))
}

/// Rounds to the nearest value of a float dtype.
pub(super) fn from_f64(values: impl Iterator<Item = f64>, to: Dtype) -> Vec<u8> {
    match to {
        Dtype::F16 => values.flat_map(|v| f16::from_f64(v).to_le_bytes()).collect(),
        Dtype::Bf16 => values.flat_map(|v| bf16::from_f64(v).to_le_bytes()).collect(),
        Dtype::F64 => values.flat_map(f64::to_le_bytes).collect(),
        _ => values.flat_map(|v| (v as f32).to_le_bytes()).collect(),
    }
}

/// Encodes integers in an integer dtype or bool (anything but zero is true). A value out of range is an error.
pub(super) fn from_int(values: &[i128], to: Dtype) -> Result<Vec<u8>, String> {
    macro_rules! encode {
        ($ty:ty) => {{
            let mut out = Vec::with_capacity(values.len() * size_of::<$ty>());
            for &v in values {
                let v = <$ty>::try_from(v).map_err(|_| format!("{v} is out of range of {to}"))?;
                out.extend_from_slice(&v.to_le_bytes());
            }
            out
        }};
    }
    Ok(match to {
        Dtype::Bool => values.iter().map(|&v| u8::from(v != 0)).collect(),
        Dtype::U8 => encode!(u8),
        Dtype::I8 => encode!(i8),
        Dtype::U16 => encode!(u16),
        Dtype::I16 => encode!(i16),
        Dtype::U32 => encode!(u32),
        Dtype::I32 => encode!(i32),
        Dtype::U64 => encode!(u64),
        Dtype::I64 => encode!(i64),
        Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64 => from_f64(values.iter().map(|&v| v as f64), to),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_survives_a_round_trip() {
        for dtype in [Dtype::U8, Dtype::I8, Dtype::U16, Dtype::I16, Dtype::U32, Dtype::I32, Dtype::U64, Dtype::I64] {
            let bytes = from_int(&[0, 1, 100], dtype).unwrap();
            assert_eq!(bytes.len(), 3 * dtype.size());
            assert_eq!(to_int(dtype, &bytes).unwrap(), [0, 1, 100]);
            assert_eq!(to_f64(dtype, &bytes), [0.0, 1.0, 100.0]);
        }
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64] {
            let bytes = from_f64([-0.5, 2.0].into_iter(), dtype);
            assert_eq!(to_f64(dtype, &bytes), [-0.5, 2.0]);
            assert!(to_int(dtype, &bytes).unwrap_err().contains("-0.5 is not an integer"));
        }
        assert_eq!(from_int(&[0, 7, -1], Dtype::Bool).unwrap(), [0, 1, 1]);
        assert_eq!(to_int(Dtype::U64, &u64::MAX.to_le_bytes()).unwrap(), [u64::MAX as i128]);
        assert_eq!(from_int(&[300], Dtype::U8).unwrap_err(), "300 is out of range of u8");
        assert!(to_int(Dtype::F32, &f32::NAN.to_le_bytes()).is_err());
    }

    #[test]
    fn bytes_must_fit_the_shape() {
        assert!(Array::new(Dtype::F32, vec![2, 2], vec![0; 16]).is_ok());
        assert!(Array::new(Dtype::F32, vec![2, 2], vec![0; 15]).is_err());
        assert!(Array::new(Dtype::F32, vec![usize::MAX, 2], vec![0; 16]).is_err());
        assert!(Array::new(Dtype::F32, vec![usize::MAX, 0, 5], vec![]).is_ok());
    }
}
