//! Element types, shapes and value types.

pub use crate::ir::dim::Dim;
use std::fmt;

/// Element type of a tensor, by its number in ONNX `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DType(pub i32);

/// `(number, text name, bits per element)`; strings have no fixed width.
const DTYPES: &[(i32, &str, u64)] = &[
    (1, "f32", 32),
    (2, "u8", 8),
    (3, "i8", 8),
    (4, "u16", 16),
    (5, "i16", 16),
    (6, "i32", 32),
    (7, "i64", 64),
    (8, "str", 0),
    (9, "bool", 8),
    (10, "f16", 16),
    (11, "f64", 64),
    (12, "u32", 32),
    (13, "u64", 64),
    (14, "c64", 64),
    (15, "c128", 128),
    (16, "bf16", 16),
    (17, "f8e4m3fn", 8),
    (18, "f8e4m3fnuz", 8),
    (19, "f8e5m2", 8),
    (20, "f8e5m2fnuz", 8),
    (21, "u4", 4),
    (22, "i4", 4),
    (23, "f4e2m1", 4),
    (24, "f8e8m0", 8),
    (25, "u2", 2),
    (26, "i2", 2),
    (27, "f6e2m3", 6),
    (28, "f6e3m2", 6),
];

impl DType {
    /// IEEE single precision.
    pub const F32: DType = DType(1);
    /// Unsigned, 8 bits.
    pub const U8: DType = DType(2);
    /// Signed, 8 bits.
    pub const I8: DType = DType(3);
    /// Unsigned, 16 bits.
    pub const U16: DType = DType(4);
    /// Signed, 16 bits.
    pub const I16: DType = DType(5);
    /// Signed, 32 bits.
    pub const I32: DType = DType(6);
    /// Signed, 64 bits.
    pub const I64: DType = DType(7);
    /// Bytes of any number.
    pub const STRING: DType = DType(8);
    /// True or false.
    pub const BOOL: DType = DType(9);
    /// IEEE half precision.
    pub const F16: DType = DType(10);
    /// IEEE double precision.
    pub const F64: DType = DType(11);
    /// Unsigned, 32 bits.
    pub const U32: DType = DType(12);
    /// Unsigned, 64 bits.
    pub const U64: DType = DType(13);
    /// The upper half of a single precision number.
    pub const BF16: DType = DType(16);

    /// Width of one element; `None` for strings and for types this version does not know.
    pub fn bits(self) -> Option<u64> {
        DTYPES.iter().find(|d| d.0 == self.0).map(|d| d.2).filter(|&b| b > 0)
    }

    /// Whole bytes of one element; `None` for sub-byte types too.
    pub fn bytes(self) -> Option<usize> {
        self.bits().filter(|b| b % 8 == 0).map(|b| (b / 8) as usize)
    }

    /// The floating-point types that the numeric kernels read and write.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::F64 | DType::BF16)
    }

    /// Whether elements are integers.
    pub fn is_int(self) -> bool {
        matches!(self.0, 2..=7 | 12 | 13)
    }

    /// The type that the text form calls so.
    pub fn parse(name: &str) -> Option<DType> {
        match DTYPES.iter().find(|d| d.1 == name) {
            Some(d) => Some(DType(d.0)),
            None => name.strip_prefix("dtype").and_then(|n| n.parse().ok()).map(DType),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DTYPES.iter().find(|d| d.0 == self.0) {
            Some(d) => f.write_str(d.1),
            None => write!(f, "dtype{}", self.0),
        }
    }
}

/// Dimensions, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of numbers.
    pub fn known(dims: impl IntoIterator<Item = u64>) -> Shape {
        Shape(dims.into_iter().map(Dim::Known).collect())
    }

    /// How many dims there are.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The dims as numbers, if all are known.
    pub fn dims(&self) -> Option<Vec<u64>> {
        self.0.iter().map(Dim::known).collect()
    }

    /// Number of elements, if every dim is known and the product fits.
    pub fn elements(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |n, d| n.checked_mul(d.known()?))
    }

    /// Gives what is not known numbers of their own.
    pub fn open(&mut self) {
        self.0.iter_mut().filter(|d| **d == Dim::Unknown).for_each(|d| *d = Dim::open());
    }

    /// Whether both can be shapes of one value.
    pub fn agrees(&self, other: &Shape) -> bool {
        self.rank() == other.rank() && self.0.iter().zip(&other.0).all(|(a, b)| a.agrees(b))
    }

    /// Dim by dim, what is known here, else what `other` knows; of the same rank.
    pub fn or(&self, other: &Shape) -> Shape {
        Shape(self.0.iter().zip(&other.0).map(|(a, b)| a.or(b)).collect())
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape::known(dims.iter().map(|&d| d as u64))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

/// The type of a value. A tensor of unknown rank has no shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// A tensor; without a shape, its rank is not known.
    Tensor(DType, Option<Shape>),
    /// A sparse tensor.
    Sparse(DType, Option<Shape>),
    /// A sequence of values of one type.
    Sequence(Option<Box<Type>>),
    /// A value that may be missing.
    Optional(Option<Box<Type>>),
    /// A map from keys of an element type to values.
    Map(DType, Option<Box<Type>>),
    /// A type from another domain, carried.
    Opaque,
}

impl Type {
    /// A tensor of known rank.
    pub fn tensor(dtype: DType, shape: Shape) -> Type {
        Type::Tensor(dtype, Some(shape))
    }

    /// As a file says it ([`Dim::as_written`]).
    #[must_use]
    pub fn as_written(&self) -> Type {
        let shape = |s: &Option<Shape>| s.as_ref().map(|s| Shape(s.0.iter().map(Dim::as_written).collect()));
        let inner = |ty: &Option<Box<Type>>| ty.as_ref().map(|ty| Box::new(ty.as_written()));
        match self {
            Type::Tensor(dtype, s) => Type::Tensor(*dtype, shape(s)),
            Type::Sparse(dtype, s) => Type::Sparse(*dtype, shape(s)),
            Type::Sequence(ty) => Type::Sequence(inner(ty)),
            Type::Optional(ty) => Type::Optional(inner(ty)),
            Type::Map(key, ty) => Type::Map(*key, inner(ty)),
            Type::Opaque => Type::Opaque,
        }
    }

    /// The type of a tensor's elements.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Type::Tensor(d, _) => Some(*d),
            _ => None,
        }
    }

    /// The shape of a tensor, if its rank is known.
    pub fn shape(&self) -> Option<&Shape> {
        match self {
            Type::Tensor(_, s) => s.as_ref(),
            _ => None,
        }
    }

    /// Whether one value can have both types.
    pub fn agrees(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Tensor(a, s), Type::Tensor(b, t)) => {
                a == b && s.as_ref().zip(t.as_ref()).is_none_or(|(s, t)| s.agrees(t))
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// This type, and of another that agrees what this does not say.
    pub fn or(&self, other: &Type) -> Type {
        match (self, other) {
            (Type::Tensor(d, Some(s)), Type::Tensor(_, Some(t))) => Type::Tensor(*d, Some(s.or(t))),
            (Type::Tensor(_, None), Type::Tensor(_, Some(_))) => other.clone(),
            _ => self.clone(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = |f: &mut fmt::Formatter<'_>, t: &Option<Box<Type>>| match t {
            Some(t) => write!(f, "{t})"),
            None => f.write_str("?)"),
        };
        match self {
            Type::Tensor(d, Some(s)) => write!(f, "{d}{s}"),
            Type::Tensor(d, None) => write!(f, "{d}[*]"),
            Type::Sparse(d, Some(s)) => write!(f, "sparse {d}{s}"),
            Type::Sparse(d, None) => write!(f, "sparse {d}[*]"),
            Type::Sequence(t) => f.write_str("sequence(").and_then(|_| inner(f, t)),
            Type::Optional(t) => f.write_str("optional(").and_then(|_| inner(f, t)),
            Type::Map(k, t) => write!(f, "map({k}, ").and_then(|_| inner(f, t)),
            Type::Opaque => f.write_str("opaque"),
        }
    }
}
