//! Values: what flows along the edges of a graph.

use crate::ir::shape::{DType, Dim, Type};
use crate::ir::tensor::{Tensor, elements};
use bytes::Bytes;

/// A named value with its type, and with its content where that is constant.
#[derive(Debug, Clone)]
pub struct Value {
    /// Unique in its graph.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// What is known of the type, from the file and from inference.
    pub ty: Option<Type>,
    /// Content of a small integer tensor (at most rank 1) as far as it is known: what shape arithmetic runs on.
    pub ints: Option<Vec<Dim>>,
    /// Kept alive although nothing in the graph reads it (the file refers to it elsewhere).
    pub pinned: bool,
    /// How the file lists it.
    pub listing: Listing,
    /// Of a constant that the file has in another form: the bytes of that.
    pub packed: Option<usize>,
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Output of a node: the graph's edge says which.
    Node,
    /// Input of the graph; `default` is the initializer that a caller may override (IR 4 and later), and what else
    /// its TensorProto says, encoded.
    Input {
        /// What it is if the caller gives nothing.
        default: Option<(Tensor, Bytes)>,
    },
    /// A constant, and the form in which the file has it.
    Constant(Tensor, Form),
    /// Defined outside this body; the enclosing node's capture edge says which value it is.
    Capture,
    /// Defined by the file in a way we only carry (sparse initializers).
    Carried,
}

/// How a constant stands in the file.
#[derive(Debug, Clone)]
pub enum Form {
    /// An initializer. Before IR 4 it is `listed` among the graph inputs too. `carried` has what else its
    /// TensorProto says (doc string, metadata), encoded.
    Initializer {
        /// Whether it is among the inputs, too.
        listed: bool,
        /// The rest, encoded.
        carried: Bytes,
    },
    /// A `Constant` node: its name, its place in the file, and the rest of its NodeProto without the tensor, encoded.
    Node {
        /// The node's name.
        name: String,
        /// The rest, encoded.
        carried: Bytes,
        /// Its place among the nodes.
        order: u32,
    },
}

impl Form {
    /// An initializer as most are.
    pub const INITIALIZER: Form = Form::Initializer { listed: false, carried: Bytes::new() };
}

/// How a value stands in the file's lists of typed names (inputs, outputs, value_info).
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Its ValueInfoProto, encoded, if it has one.
    pub proto: Option<Bytes>,
    /// The `metadata_props` of that, encoded as a ValueInfoProto.
    pub metadata: Bytes,
    /// Its place in the list.
    pub at: u32,
    /// The type that `proto` spells: while `ty` still says the same, `proto` is written as it was.
    pub ty: Option<Type>,
    /// Its ValueInfoProtos among the outputs, encoded: all if it is an input, else those after the first.
    pub again: Vec<Bytes>,
}

impl Value {
    /// A value of which only that is known.
    pub fn new(name: impl Into<String>, source: Source) -> Value {
        let ty = if let Source::Constant(t, _) = &source { Some(t.ty()) } else { None };
        Value { name: name.into(), source, ty, ints: None, pinned: false, listing: Listing::default(), packed: None }
    }

    /// The tensor, if the value is a constant that no caller can override.
    pub fn constant(&self) -> Option<&Tensor> {
        match &self.source {
            Source::Constant(t, _) => Some(t),
            _ => None,
        }
    }

    /// The bytes that the file has of a constant: 0 for any other value.
    pub fn stored_len(&self) -> usize {
        self.constant().map_or(0, |t| self.packed.unwrap_or(t.byte_len()))
    }

    /// Dims as numbers, if the value is a tensor whose dims are all known.
    pub fn dims(&self) -> Option<Vec<u64>> {
        self.ty.as_ref()?.shape()?.dims()
    }

    /// Whether it is a tensor of floats, for all that is known of it.
    pub fn may_be_float(&self) -> bool {
        let dtype = self.ty.as_ref().and_then(Type::dtype);
        dtype.is_none_or(DType::is_float)
    }

    /// The integers that shape inference knows it to hold, if it knows all of them.
    pub fn known_ints(&self) -> Option<Tensor> {
        let (dtype, dims) = (self.ty.as_ref()?.dtype()?, self.dims()?);
        let dims: Vec<usize> = dims.into_iter().map(|d| usize::try_from(d).ok()).collect::<Option<_>>()?;
        let known = self.ints.as_ref()?.iter().map(|d| i64::try_from(d.known()?).ok());
        let known: Vec<i64> = known.collect::<Option<_>>()?;
        let fits = match dtype {
            DType::I64 => true,
            DType::I32 => known.iter().all(|&k| i32::try_from(k).is_ok()),
            _ => false,
        };
        (fits && elements(&dims)? == known.len()).then(|| Tensor::from_ints(dtype, dims, known))
    }

    /// How many dims it has, if that is known.
    pub fn rank(&self) -> Option<usize> {
        Some(self.ty.as_ref()?.shape()?.rank())
    }
}
