//! Quantization. (ONNX Operators: QuantizeLinear and DequantizeLinear, since 10, 13, 19, 21, 23, 24, 25;
//! DynamicQuantizeLinear, since 11; QLinearConv, ConvInteger, MatMulInteger, since 10; QLinearMatMul, since 10, 21.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::conv::{Conv, product};
use crate::ir::op::gemm::matmul;
use crate::ir::op::{Operator, Sizes, kernel};
use crate::ir::shape::{DType, Shape};
use crate::ir::tensor::Tensor;

/// y = saturate(round(x / scale) + zero point): inputs x, scale, zero point (0 if absent).
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeLinear {
    pub scales: Scales,
    /// Numbers beyond the range of a float8 type go to its end (since 19).
    pub saturate: bool,
    /// Type of y where no zero point gives it, by its number; 0 if not given (since 21).
    pub output: i64,
    /// Type that x / scale is computed in, by its number; 0 for that of the scale (since 23).
    pub precision: i64,
}

/// What part of x has a scale of its own: all of it if there is one scale, a slice of `axis` if the scales are a
/// vector, `block` elements along `axis` if that is not 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Scales {
    pub axis: i64,
    pub block: i64,
}

impl Scales {
    fn parse(opset: i64, attrs: &mut AttrReader<'_>) -> Scales {
        Scales {
            axis: if opset >= 13 { attrs.int_or("axis", 1) } else { 1 },
            block: if opset >= 21 { attrs.int_or("block_size", 0) } else { 0 },
        }
    }

    fn attrs(&self) -> impl Iterator<Item = Attr> + use<> {
        let axis = (self.axis != 1).then(|| Attr::int("axis", self.axis));
        let block = (self.block != 0).then(|| Attr::int("block_size", self.block));
        axis.into_iter().chain(block)
    }

    /// The shape in which the scales (or zero points) broadcast over x; `None` where they are blocks.
    fn spread(&self, scales: &Tensor, rank: usize) -> Option<Vec<usize>> {
        if scales.len() == 1 {
            return Some(Vec::new());
        }
        let at = crate::ir::infer::axis(self.axis, rank).ok()?;
        let mut shape = vec![1; rank];
        shape[at] = scales.len();
        (self.block == 0 && scales.rank() == 1).then_some(shape)
    }
}

/// A zero point for every scale.
fn zero_points(given: Option<&Tensor>, scales: &Tensor) -> Option<Vec<i64>> {
    match given {
        Some(t) if t.len() == scales.len() => t.ints(),
        Some(_) => None,
        None => Some(vec![0; scales.len()]),
    }
}

fn dtype(number: i64) -> Option<DType> {
    i32::try_from(number).ok().filter(|&n| n != 0).map(DType)
}

impl Operator for QuantizeLinear {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let op = QuantizeLinear {
            scales: Scales::parse(opset, attrs),
            saturate: opset < 19 || attrs.int_or("saturate", 1) != 0,
            output: if opset >= 21 { attrs.int_or("output_dtype", 0) } else { 0 },
            precision: if opset >= 23 { attrs.int_or("precision", 0) } else { 0 },
        };
        (opset >= 10).then_some(op)
    }

    fn op_type(&self) -> &'static str {
        "QuantizeLinear"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let number = |name, v: i64| (v != 0).then(|| Attr::int(name, v));
        let saturate = (!self.saturate).then(|| Attr::int("saturate", 0));
        let own = [number("output_dtype", self.output), number("precision", self.precision), saturate];
        self.scales.attrs().chain(own.into_iter().flatten()).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let given = if cx.has(2) { cx.dtype(2) } else { dtype(self.output).or(Some(DType::U8)) };
        Ok(vec![Fact::tensor(given, cx.shape(0).cloned())])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (x, scale) = ((*inputs.first()?)?, (*inputs.get(1)?)?);
        let zero = inputs.get(2).copied().flatten();
        let d = zero.map(Tensor::dtype).or(dtype(self.output)).unwrap_or(DType::U8);
        let (low, high) = match d {
            DType::U8 => (0.0, 255.0),
            DType::I8 => (-128.0, 127.0),
            DType::U16 => (0.0, 65535.0),
            DType::I16 => (-32768.0, 32767.0),
            _ => return None,
        };
        if [x, scale].iter().any(|t| t.dtype() != DType::F32) || !matches!(self.precision, 0 | 1) {
            return None;
        }
        let spread = self.scales.spread(scale, x.rank())?;
        let (steps, zeros) = (scale.as_f32()?, zero_points(zero, scale)?);
        let steps: Vec<_> = steps.iter().copied().zip(zeros).collect();
        let y = kernel::zip((&x.as_f32()?, x.shape()), (&steps, &spread), x.shape(), |v, (s, z)| {
            let q = (v / s).round_ties_even() + z as f32;
            (!q.is_nan()).then_some(q.clamp(low, high) as i64)
        })?;
        Some(vec![Tensor::from_ints(d, x.shape(), y.into_iter().collect::<Option<Vec<_>>>()?)])
    }
}

/// y = (x − zero point) · scale: inputs x, scale, zero point (0 if absent).
#[derive(Debug, Clone, PartialEq)]
pub struct DequantizeLinear {
    pub scales: Scales,
    /// Type of y, by its number; 0 for that of the scale (since 23).
    pub output: i64,
}

impl Operator for DequantizeLinear {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let output = if opset >= 23 { attrs.int_or("output_dtype", 0) } else { 0 };
        (opset >= 10).then_some(DequantizeLinear { scales: Scales::parse(opset, attrs), output })
    }

    fn op_type(&self) -> &'static str {
        "DequantizeLinear"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let output = (self.output != 0).then(|| Attr::int("output_dtype", self.output));
        self.scales.attrs().chain(output).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact::tensor(dtype(self.output).or(cx.dtype(1)), cx.shape(0).cloned())])
    }

    /// For types of up to 16 bits, and for the 32 of biases, in f32.
    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let (x, scale) = ((*inputs.first()?)?, (*inputs.get(1)?)?);
        let known = matches!(x.dtype(), DType::U8 | DType::I8 | DType::U16 | DType::I16 | DType::I32);
        if !known || scale.dtype() != DType::F32 || !matches!(self.output, 0 | 1) {
            return None;
        }
        let spread = self.scales.spread(scale, x.rank())?;
        let zeros = zero_points(inputs.get(2).copied().flatten(), scale)?;
        let steps: Vec<_> = scale.floats()?.into_iter().zip(zeros).collect();
        kernel::fits(DType::F32, x.shape())?;
        let y = kernel::zip((&x.ints()?, x.shape()), (&steps, &spread), x.shape(), |v, (s, z)| {
            f64::from((v - z) as f32 * s as f32)
        })?;
        Some(vec![Tensor::from_floats(DType::F32, x.shape(), y)])
    }
}

/// x to u8 y, scale and zero point, from the range of x.
#[derive(Debug, Clone, PartialEq)]
pub struct DynamicQuantizeLinear;

impl Operator for DynamicQuantizeLinear {
    fn parse(_: &str, opset: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 11).then_some(DynamicQuantizeLinear)
    }

    fn op_type(&self) -> &'static str {
        "DynamicQuantizeLinear"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let scalar = |d| Fact::tensor(Some(d), Some(Shape::default()));
        Ok(vec![Fact::tensor(Some(DType::U8), cx.shape(0).cloned()), scalar(DType::F32), scalar(DType::U8)])
    }
}

/// Where an operator has its factors, and the zero point that gives the type of its result.
struct Slots {
    factors: [usize; 2],
    zero: Option<usize>,
}

/// QLinear…: x, its scale and zero point, w, its scale and zero point, scale and zero point of y, …
const LINEAR: Slots = Slots { factors: [0, 3], zero: Some(7) };
/// …Integer: x, w, zero point of x, zero point of w; the result is i32.
const INTEGER: Slots = Slots { factors: [0, 1], zero: None };

impl Slots {
    fn infer(
        &self,
        cx: &Infer<'_>,
        shape: impl Fn(&Shape, &Shape) -> Result<Shape, String>,
    ) -> Result<Vec<Fact>, String> {
        let [a, b] = self.factors.map(|slot| cx.shape(slot));
        let y = a.zip(b).map(|(a, b)| shape(a, b)).transpose()?;
        Ok(vec![Fact::tensor(self.zero.map_or(Some(DType::I32), |slot| cx.dtype(slot)), y)])
    }
}

/// QLinearConv, or ConvInteger if `integer`.
#[derive(Debug, Clone, PartialEq)]
pub struct QConv {
    pub conv: Conv,
    pub integer: bool,
}

impl QConv {
    fn slots(&self) -> Slots {
        if self.integer { INTEGER } else { LINEAR }
    }
}

impl Operator for QConv {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let conv = Conv::parse(op_type, opset, attrs)?;
        (opset >= 10).then_some(QConv { conv, integer: op_type == "ConvInteger" })
    }

    fn op_type(&self) -> &'static str {
        if self.integer { "ConvInteger" } else { "QLinearConv" }
    }

    fn attrs(&self, opset: i64) -> Vec<Attr> {
        self.conv.attrs(opset)
    }

    fn file_attrs(&self, opset: i64) -> Vec<Attr> {
        self.conv.file_attrs(opset)
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        self.slots().infer(cx, |x, w| self.conv.output(x, w))
    }

    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        product(sizes.output(0)?)?.checked_mul(product(sizes.input(self.slots().factors[1])?.get(1..)?)?)
    }
}

/// QLinearMatMul, or MatMulInteger if `integer`.
#[derive(Debug, Clone, PartialEq)]
pub struct QMatMul {
    pub integer: bool,
}

impl Operator for QMatMul {
    fn parse(op_type: &str, opset: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 10).then_some(QMatMul { integer: op_type == "MatMulInteger" })
    }

    fn op_type(&self) -> &'static str {
        if self.integer { "MatMulInteger" } else { "QLinearMatMul" }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        if self.integer { INTEGER } else { LINEAR }.infer(cx, matmul)
    }

    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        product(sizes.output(0)?)?.checked_mul(*sizes.input(0)?.last()?)
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ty};

    #[test]
    fn types() {
        let x = "input %x : f32[N,3] input %s : f32[] input %z : i8[]";
        let y = |opset, node: &str| ty(opset, &format!("{x} {node}"));
        assert_eq!(y(10, "%y : ? = QuantizeLinear(%x, %s)"), "u8[N,3]");
        assert_eq!(y(10, "%y : ? = QuantizeLinear(%x, %s, %z)"), "i8[N,3]");
        assert_eq!(y(21, "%y : ? = QuantizeLinear<output_dtype=5>(%x, %s)"), "i16[N,3]");
        assert_eq!(y(13, "%y : ? = QuantizeLinear<output_dtype=5>(%x, %s)"), "opaque");
        assert_eq!(y(10, "%q : ? = QuantizeLinear(%x, %s) %y : ? = DequantizeLinear(%q, %s)"), "f32[N,3]");
        assert_eq!(y(11, "%q : ?, %y : ?, %p : ? = DynamicQuantizeLinear(%x)"), "f32[]");
        let conv = "input %x : u8[N,2,5] input %s : f32[] input %z : u8[] const %w : i8[4,2,3] const %v : i8[] = {0}";
        let linear = format!("{conv} %y : ? = QLinearConv(%x, %s, %z, %w, %s, %v, %s, %z)");
        assert_eq!(ty(10, &linear), "u8[N,4,3]");
        assert_eq!(ty(10, &format!("{conv} %y : ? = ConvInteger<pads=[1,1]>(%x, %w, %z)")), "i32[N,4,5]");
        let matrix = "input %a : u8[N,2] input %s : f32[] input %z : u8[] const %b : i8[2,7] const %v : i8[] = {0}";
        assert_eq!(ty(10, &format!("{matrix} %y : ? = QLinearMatMul(%a, %s, %z, %b, %s, %v, %s, %v)")), "i8[N,7]");
        assert_eq!(ty(10, &format!("{matrix} %y : ? = MatMulInteger(%a, %b)")), "i32[N,7]");
    }

    #[test]
    fn by_tensor_and_by_axis() {
        let x = "const %x : f32[2,2] = {-1,0.75,1.25,900} const %s : f32[] = {0.5} const %z : u8[] = {10}";
        let q = fold(10, &format!("{x} %y : ? = QuantizeLinear(%x, %s, %z)")).unwrap();
        assert_eq!(q.ints().unwrap(), [8, 12, 12, 255]);
        let x = "const %x : i8[2,2] = {-1,2,3,4} const %s : f32[2] = {0.5,10} const %z : i8[2] = {1,0}";
        let by = |axis| fold(13, &format!("{x} %y : ? = DequantizeLinear<axis={axis}>(%x, %s, %z)")).unwrap().floats();
        assert_eq!(by(0).unwrap(), [-1.0, 0.5, 30.0, 40.0]);
        assert_eq!(by(-1).unwrap(), [-1.0, 20.0, 1.0, 40.0]);
        let bias =
            "const %x : i32[2] = {-70000,3} const %s : f32[2] = {0.5,2} %y : ? = DequantizeLinear<axis=0>(%x, %s)";
        assert_eq!(fold(13, bias).unwrap().floats().unwrap(), [-35000.0, 6.0]);
        let wrong = "const %x : i8[2,2] = {-1,2,3,4} const %s : f32[3] = {1,1,1} %y : ? = DequantizeLinear(%x, %s)";
        assert!(fold(13, wrong).is_none());
    }
}
