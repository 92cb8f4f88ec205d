//! The operators we reason about: typed attributes, shape rule, cost and constant evaluation, one file an operator
//! family. Every other operator, version or domain is [`Op::Opaque`]: carried without loss, never touched.

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::shape::{Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::{Axis, Change, Kept, Ties};

/// Versions of the ONNX operator set in which we know what the operators mean.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

/// What is known about an operator. Everything that depends on an operator's definition is behind this trait.
pub trait Operator {
    /// Reads the attributes; `None` if they are not those of the operator's definition in this opset.
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self>
    where
        Self: Sized;

    /// The operator's ONNX name.
    fn op_type(&self) -> &'static str;

    /// The attributes that differ from ONNX's defaults, by name: what the text form shows.
    fn attrs(&self, opset: i64) -> Vec<Attr>;

    /// The attributes as a new node is written: those of `attrs`, and any that runtimes are known to want spelled out.
    fn file_attrs(&self, opset: i64) -> Vec<Attr> {
        self.attrs(opset)
    }

    /// What is known of the outputs, by slot, from what is known of the inputs.
    ///
    /// # Errors
    /// If the inputs contradict the operator's definition; says how.
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String>;

    /// Says how channels run through a node. `false`, for an operator that says nothing, keeps every axis whole.
    fn ties(&self, _ties: &mut dyn Ties) -> bool {
        false
    }

    /// What removing channels changes in a node besides the sizes of its tensors; `None` if it cannot follow.
    fn shrink(&self, _kept: &dyn Kept) -> Option<Vec<Change>> {
        Some(Vec::new())
    }

    /// Where in output 0 what is made of the element at a position of an input, a vector, comes out, if it has no effect on
    /// anything else.
    fn moves(&self, _cx: &Infer<'_>, _input: Axis) -> Option<Vec<usize>> {
        None
    }

    /// Whether the element at a position of an input may be any number when channels go: `shrink` overwrites it.
    fn overwrites(&self, _cx: &Infer<'_>, _y: Option<&Shape>, _input: Axis) -> bool {
        false
    }

    /// The input slot whose elements, in the same type and shape, output 0 has whatever is fed.
    fn passes_on(&self, _cx: &Infer<'_>) -> Option<usize> {
        None
    }

    /// Whether the outputs may depend on more than the inputs.
    fn is_random(&self) -> bool {
        false
    }

    /// The inputs that are weights where they are constant, in the order in which a layer's weight is looked for.
    fn weights(&self, _cx: &Infer<'_>) -> Vec<WeightInput> {
        Vec::new()
    }

    /// Multiply-accumulate operations for inputs and outputs of these dims. 0 for what does not multiply weights.
    fn macs(&self, _sizes: &Sizes) -> Option<u64> {
        Some(0)
    }

    /// Computes the outputs of constant inputs; `None` where no kernel covers the case.
    fn eval(&self, _inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        None
    }
}

/// An input that is a weight where it is constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightInput {
    pub slot: usize,
    pub role: Role,
    /// The axis that counts outputs (of a table: entries; of a transposed convolution: the outputs of one group).
    pub outputs: usize,
    /// The axis that is summed over (of a convolution: the inputs of one group). A table has none.
    pub inputs: Option<usize>,
    /// The input slot of what is added, one number an output.
    pub bias: Option<usize>,
}

/// What an operator does with a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The output is a sum of products of its elements and of what is fed.
    Layer,
    /// So is the state of a recurrent layer, step by step.
    Recurrent,
    /// The output is those of its entries that indices name.
    Table,
    /// The output is a sum of products over indices that an equation names.
    Einsum,
    /// The output is its elements and what is fed, added: a table of positions.
    Added,
}

/// Whether output 0 has the shape of input 0 for sure.
pub fn keeps_shape(op: &dyn Operator, cx: &Infer<'_>) -> bool {
    let y = op.infer(cx).ok().and_then(|facts| facts.into_iter().next());
    let shapes = y.as_ref().and_then(|y| y.ty.as_ref()?.shape()).zip(cx.shape(0));
    shapes.is_some_and(|(y, x)| y == x && !x.0.contains(&Dim::Unknown))
}

/// Dims of a node's inputs and outputs by slot, the batch symbol counted as 1; `None` where not known.
pub struct Sizes {
    pub inputs: Vec<Option<Vec<u64>>>,
    pub outputs: Vec<Option<Vec<u64>>>,
}

impl Sizes {
    pub fn input(&self, slot: usize) -> Option<&[u64]> {
        self.inputs.get(slot)?.as_deref()
    }

    pub fn output(&self, slot: usize) -> Option<&[u64]> {
        self.outputs.get(slot)?.as_deref()
    }
}

/// `Variant(type): ONNX names` makes the enum, the dispatch on names and the access to the trait.
macro_rules! operators {
    ($($file:ident::$variant:ident: $($name:literal)|+;)*) => {
        /// A node's operator.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Op {
            $($variant($file::$variant),)*
            Opaque,
        }

        impl Op {
            fn parse_known(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Op> {
                match op_type {
                    $($($name)|+ => <$file::$variant as Operator>::parse(op_type, opset, attrs).map(Op::$variant),)*
                    _ => None,
                }
            }

            /// The operator's knowledge; `None` for an opaque one.
            pub fn operator(&self) -> Option<&dyn Operator> {
                match self {
                    $(Op::$variant(o) => Some(o),)*
                    Op::Opaque => None,
                }
            }
        }

        $(impl From<$file::$variant> for Op {
            fn from(op: $file::$variant) -> Op {
                Op::$variant(op)
            }
        })*
    };
}

impl Op {
    /// Reads an ONNX-domain operator; opaque if this opset, operator or attribute list is not one we know.
    pub fn parse(op_type: &str, opset: i64, attrs: &[Attr]) -> Op {
        if !OPSETS.contains(&opset) {
            return Op::Opaque;
        }
        let mut reader = AttrReader::new(attrs);
        match Op::parse_known(op_type, opset, &mut reader) {
            Some(op) if reader.finish().is_some() => op,
            _ => Op::Opaque,
        }
    }
}

pub mod activation;
pub mod binary;
pub mod cast;
pub mod concat;
pub mod control;
pub mod conv;
pub mod conv_transpose;
pub mod dropout;
pub mod einsum;
pub mod expand;
pub mod extent;
pub mod fill;
pub mod gather;
pub mod gemm;
mod kernel;
pub mod norm;
pub mod pad;
pub mod pick;
pub mod pool;
pub mod quant;
pub mod reduce;
pub mod reshape;
pub mod resize;
pub mod rnn;
pub mod sample;
pub mod scatter;
pub mod select;
pub mod slice;
pub mod softmax;
pub mod transpose;
pub mod unary;

#[cfg(test)]
mod testing;

operators! {
    activation::Activation: "LeakyRelu" | "Elu" | "Selu" | "Celu" | "HardSigmoid" | "ThresholdedRelu" | "Shrink" | "Swish";
    activation::Clip: "Clip";
    activation::Gelu: "Gelu";
    binary::Binary: "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Min" | "Max" | "Sum" | "Mean" | "PRelu" | "And" | "Or"
        | "Xor" | "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "BitShift" | "BitwiseAnd"
        | "BitwiseOr" | "BitwiseXor";
    cast::Cast: "Cast";
    cast::CastLike: "CastLike";
    concat::Concat: "Concat";
    concat::Split: "Split";
    control::If: "If";
    control::Loop: "Loop";
    control::Scan: "Scan";
    conv::Conv: "Conv";
    conv_transpose::ConvTranspose: "ConvTranspose";
    dropout::Dropout: "Dropout";
    einsum::Einsum: "Einsum";
    expand::Expand: "Expand";
    expand::Tile: "Tile";
    expand::Where: "Where";
    extent::Shape: "Shape";
    extent::Size: "Size";
    fill::ConstantOfShape: "ConstantOfShape";
    fill::EyeLike: "EyeLike";
    fill::OneHot: "OneHot";
    fill::Range: "Range";
    gather::Compress: "Compress";
    gather::Gather: "Gather";
    gather::GatherElements: "GatherElements";
    gather::GatherNd: "GatherND";
    gemm::Gemm: "Gemm";
    gemm::MatMul: "MatMul";
    norm::BatchNorm: "BatchNormalization";
    norm::LayerNorm: "LayerNormalization" | "RMSNormalization";
    norm::Norm: "InstanceNormalization" | "GroupNormalization" | "LpNormalization" | "MeanVarianceNormalization" | "LRN";
    pad::Pad: "Pad";
    pool::GlobalPool: "GlobalMaxPool" | "GlobalAveragePool" | "GlobalLpPool";
    pool::Pool: "MaxPool" | "AveragePool" | "LpPool";
    quant::DequantizeLinear: "DequantizeLinear";
    quant::DynamicQuantizeLinear: "DynamicQuantizeLinear";
    quant::QConv: "QLinearConv" | "ConvInteger";
    quant::QMatMul: "QLinearMatMul" | "MatMulInteger";
    quant::QuantizeLinear: "QuantizeLinear";
    reduce::ArgExtreme: "ArgMax" | "ArgMin";
    reduce::Cumulate: "CumSum" | "CumProd";
    reduce::Reduce: "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp";
    reshape::Flatten: "Flatten";
    reshape::Reshape: "Reshape";
    reshape::Squeeze: "Squeeze";
    reshape::Unsqueeze: "Unsqueeze";
    resize::Resize: "Resize";
    resize::Upsample: "Upsample";
    rnn::Rnn: "RNN" | "GRU" | "LSTM";
    sample::GridSample: "GridSample";
    sample::RoiAlign: "RoiAlign";
    scatter::Scatter: "Scatter" | "ScatterElements" | "ScatterND";
    select::NonZero: "NonZero";
    select::ReverseSequence: "ReverseSequence";
    select::TopK: "TopK";
    select::Trilu: "Trilu";
    select::Unique: "Unique";
    slice::Slice: "Slice";
    softmax::Softmax: "Softmax" | "LogSoftmax" | "Hardmax";
    transpose::DepthSpace: "DepthToSpace" | "SpaceToDepth";
    transpose::Transpose: "Transpose";
    unary::IsInf: "IsInf";
    unary::Unary: "Identity" | "Relu" | "Sigmoid" | "Tanh" | "Neg" | "Abs" | "Exp" | "Log" | "Sqrt" | "Reciprocal"
        | "Floor" | "Ceil" | "Round" | "Sign" | "Sin" | "Cos" | "Tan" | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh"
        | "Asinh" | "Acosh" | "Atanh" | "Erf" | "Softplus" | "Softsign" | "HardSwish" | "Mish" | "IsNaN" | "Not"
        | "BitwiseNot";
}
