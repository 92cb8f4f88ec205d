//! ONNX files: the only room that knows protobuf.

mod aside;
mod attribute;
mod decode;
mod encode;
mod external;
mod inline;
mod packed;
mod pieces;
mod proto {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
mod provenance;
mod save;
mod slices {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/slices.rs"));
}
mod tensors;
mod typed;
mod unknown;
mod wire;

// The name that generated code knows `proto` by.
use proto as onnx;

/// Version of the onnx package that `proto/onnx.proto` comes from.
pub const PROTO_VERSION: &str = "1.23";

pub use aside::put_aside;
pub use decode::{Loaded, decode, load};
pub use encode::encoded_len;
pub use external::Pages;
pub use inline::{Inlined, inline_functions};
pub use packed::{packed_file_len, packed_len};
pub use provenance::sign;
pub use save::{SaveOptions, Target, prepare, save, to_bytes};
