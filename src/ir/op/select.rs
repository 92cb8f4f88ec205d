//! Operators that find or order elements: NonZero, TopK, Unique, Trilu, ReverseSequence.
//! (ONNX Operators: NonZero, since 9, 13; TopK, since 1, 10, 11, 24; Unique, since 11, 28; Trilu, since 14;
//! ReverseSequence, since 10, 28.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;
use crate::ir::op::pick::{input, room, strides};
use crate::ir::op::reshape::product;
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::tensor::Tensor;

/// The indices of the elements that are not zero: one row an axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NonZero;

impl Operator for NonZero {
    fn parse(_: &str, opset: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 9).then_some(NonZero)
    }

    fn op_type(&self) -> &'static str {
        "NonZero"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        // Runtimes differ on scalars.
        let rank = cx.shape(0).map(Shape::rank).filter(|&r| r > 0);
        let rows = rank.map_or(Dim::Unknown, |r| Dim::Known(r as u64));
        Ok(vec![Fact::tensor(Some(DType::I64), Some(Shape(vec![rows, Dim::Unknown])))])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0).filter(|x| x.rank() > 0)?;
        let nonzero: Vec<bool> = match x.floats() {
            Some(v) => v.into_iter().map(|v| v != 0.0).collect(),
            None => x.ints()?.into_iter().map(|v| v != 0).collect(),
        };
        let places: Vec<usize> = (0..nonzero.len()).filter(|&i| nonzero[i]).collect();
        let shape = [x.rank(), places.len()];
        room(DType::I64, &shape)?;
        let rows = x.shape().iter().zip(strides(x.shape()));
        let indices = rows.flat_map(|(&n, s)| places.iter().map(move |&p| (p / s % n) as i64));
        Some(vec![Tensor::from_ints(DType::I64, shape, indices)])
    }
}

/// The largest (or smallest) elements along an axis, and their indices.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    pub axis: i64,
    /// How many: an attribute before opset 10; from then on `None`, and input 1 has it.
    pub k: Option<i64>,
    pub largest: bool,
    pub sorted: bool,
}

impl Operator for TopK {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let axis = attrs.int_or("axis", -1);
        let k = if opset < 10 { Some(attrs.int("k").filter(|&k| k >= 0)?) } else { None };
        let mut flag = |name| opset < 11 || attrs.int_or(name, 1) != 0;
        Some(TopK { axis, k, largest: flag("largest"), sorted: flag("sorted") })
    }

    fn op_type(&self) -> &'static str {
        "TopK"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = Vec::new();
        if self.axis != -1 {
            out.push(Attr::int("axis", self.axis));
        }
        out.extend(self.k.map(|k| Attr::int("k", k)));
        if !self.largest {
            out.push(Attr::int("largest", 0));
        }
        if !self.sorted {
            out.push(Attr::int("sorted", 0));
        }
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let k = match self.k {
            Some(k) => Dim::Known(k as u64),
            None => cx.ints(1).and_then(|k| k.into_iter().next()).unwrap_or(Dim::Unknown),
        };
        let shape = match cx.shape(0) {
            Some(x) => {
                let mut y = x.clone();
                y.0[axis(self.axis, x.rank())?] = k;
                Some(y)
            }
            None => None,
        };
        Ok(vec![Fact::tensor(cx.dtype(0), shape.clone()), Fact::tensor(Some(DType::I64), shape)])
    }
}

/// The different elements of the input, or slices along an axis; where they first are; which one each was; how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Unique {
    pub axis: Option<i64>,
    pub sorted: bool,
}

impl Operator for Unique {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 11).then(|| Unique { axis: attrs.int("axis"), sorted: attrs.int_or("sorted", 1) != 0 })
    }

    fn op_type(&self) -> &'static str {
        "Unique"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let sorted = (!self.sorted).then(|| Attr::int("sorted", 0));
        self.axis.map(|a| Attr::int("axis", a)).into_iter().chain(sorted).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let vector = |length| Fact::tensor(Some(DType::I64), Some(Shape(vec![length])));
        let elements = cx.shape(0).map_or(Dim::Unknown, |x| product(&x.0));
        let (shape, inverse) = match (self.axis, cx.shape(0)) {
            (None, _) => (Some(Shape(vec![Dim::Unknown])), elements),
            (Some(a), Some(x)) => {
                let at = axis(a, x.rank())?;
                let mut y = x.clone();
                y.0[at] = Dim::Unknown;
                (Some(y), x.0[at].clone())
            }
            (Some(_), None) => (None, Dim::Unknown),
        };
        let count = || vector(Dim::Unknown);
        Ok(vec![Fact::tensor(cx.dtype(0), shape), count(), vector(inverse), count()])
    }
}

/// Matrices with the elements below (or above) the k-th diagonal zeroed.
#[derive(Debug, Clone, PartialEq)]
pub struct Trilu {
    pub upper: bool,
}

impl Operator for Trilu {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 14).then(|| Trilu { upper: attrs.int_or("upper", 1) != 0 })
    }

    fn op_type(&self) -> &'static str {
        "Trilu"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if self.upper { Vec::new() } else { vec![Attr::int("upper", 0)] }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).cloned())])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let k = match input(inputs, 1) {
            Some(k) => k.int_scalar()?,
            None => 0,
        };
        let [.., rows, columns] = *x.shape() else { return None };
        room(x.dtype(), x.shape())?;
        let mut out = x.bytes()?.to_vec();
        for (i, element) in out.chunks_exact_mut(x.dtype().bytes()?).enumerate() {
            let diagonal = (i % columns) as i128 - (i / columns % rows) as i128;
            if (self.upper && diagonal < k as i128) || (!self.upper && diagonal > k as i128) {
                element.fill(0);
            }
        }
        Some(vec![Tensor::new(x.dtype(), x.shape().to_vec(), out.into())?])
    }
}

/// The first elements of each sequence in reverse order; input 1 says how many.
#[derive(Debug, Clone, PartialEq)]
pub struct ReverseSequence {
    pub batch_axis: i64,
    pub time_axis: i64,
}

impl Operator for ReverseSequence {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let (batch_axis, time_axis) = (attrs.int_or("batch_axis", 1), attrs.int_or("time_axis", 0));
        (opset >= 10).then_some(ReverseSequence { batch_axis, time_axis })
    }

    fn op_type(&self) -> &'static str {
        "ReverseSequence"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let batch = (self.batch_axis != 1).then(|| Attr::int("batch_axis", self.batch_axis));
        let time = (self.time_axis != 0).then(|| Attr::int("time_axis", self.time_axis));
        batch.into_iter().chain(time).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).cloned())])
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::{fold, ty};

    #[test]
    fn shapes() {
        assert_eq!(ty(9, "input %x : f32[N,3] %y : ? = NonZero(%x)"), "i64[2,?]");
        assert_eq!(ty(9, "input %x : f32[*] %y : ? = NonZero(%x)"), "i64[?,?]");
        assert_eq!(ty(9, "input %x : f32[N,9] %v : ?, %y : ? = TopK<k=5>(%x)"), "i64[N,5]");
        let k = "const %k : i64[1] = {5}";
        assert_eq!(ty(11, &format!("{k} input %x : f32[N,9] %y : ? = TopK<axis=0, largest=0>(%x, %k)")), "f32[5,9]");
        assert_eq!(ty(11, "input %x : f32[N,9] %a : ?, %b : ?, %y : ? = Unique<axis=0>(%x)"), "i64[N]");
        assert_eq!(ty(11, "input %x : f32[2,9] %a : ?, %b : ?, %y : ? = Unique(%x)"), "i64[18]");
        assert_eq!(ty(13, "input %x : f32[2,9] %y : ? = Trilu(%x)"), "opaque");
    }

    #[test]
    fn elements_are_found() {
        let x = "const %x : i32[2,2] = {1,0,3,4}";
        let of = |rest: &str| fold(14, &format!("{x} {rest}")).unwrap().ints().unwrap();
        assert_eq!(of("%y : ? = NonZero(%x)"), [0, 1, 1, 0, 0, 1]);
        assert_eq!(of("%y : ? = Trilu(%x)"), [1, 0, 0, 4]);
        assert_eq!(of("const %k : i64[] = {-1} %y : ? = Trilu<upper=0>(%x, %k)"), [0, 0, 3, 0]);
    }
}
