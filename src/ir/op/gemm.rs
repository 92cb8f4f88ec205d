//! Gemm and MatMul. (ONNX Operators: Gemm, since 7, 9, 11, 13; MatMul, since 1, 9, 13.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, broadcast};
use crate::ir::op::conv::product;
use crate::ir::op::{Operator, Role, Sizes, WeightInput};
use crate::ir::shape::Shape;
use crate::ir::ties::Ties;

/// Y[M, N] = alpha · A' B' + beta · C, where A' is A[M, K] or the transpose of A[K, M], B' likewise.
#[derive(Debug, Clone, PartialEq)]
pub struct Gemm {
    pub alpha: f32,
    pub beta: f32,
    pub trans_a: bool,
    pub trans_b: bool,
}

impl Default for Gemm {
    fn default() -> Self {
        Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false }
    }
}

impl Operator for Gemm {
    fn parse(_: &str, _: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(Gemm {
            alpha: attrs.float_or("alpha", 1.0),
            beta: attrs.float_or("beta", 1.0),
            trans_a: attrs.flag("transA"),
            trans_b: attrs.flag("transB"),
        })
    }

    fn op_type(&self) -> &'static str {
        "Gemm"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = Vec::new();
        if self.alpha != 1.0 {
            out.push(Attr::float("alpha", self.alpha));
        }
        if self.beta != 1.0 {
            out.push(Attr::float("beta", self.beta));
        }
        if self.trans_a {
            out.push(Attr::int("transA", 1));
        }
        if self.trans_b {
            out.push(Attr::int("transB", 1));
        }
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(a), Some(b)) = (cx.shape(0), cx.shape(1)) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        if a.rank() != 2 || b.rank() != 2 {
            return Err(format!("the factors {a} and {b} must be matrices"));
        }
        let (m, k) = if self.trans_a { (&a.0[1], &a.0[0]) } else { (&a.0[0], &a.0[1]) };
        let (l, n) = if self.trans_b { (&b.0[1], &b.0[0]) } else { (&b.0[0], &b.0[1]) };
        if !k.agrees(l) {
            return Err(format!("the factors {a} and {b} do not fit: {k} against {l}"));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(vec![m.clone(), n.clone()])))])
    }

    fn weights(&self, _: &Infer<'_>) -> Vec<WeightInput> {
        let [on_right, on_left] = [self.trans_b, !self.trans_a].map(usize::from);
        let layer = |slot, inputs: usize, bias| WeightInput {
            slot,
            role: Role::Layer,
            outputs: 1 - inputs,
            inputs: Some(inputs),
            bias,
        };
        vec![layer(1, on_right, Some(2)), layer(0, on_left, None)]
    }

    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        let a = sizes.input(0)?;
        let k = if self.trans_a { a.first()? } else { a.get(1)? };
        product(sizes.output(0)?)?.checked_mul(*k)
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let (k_a, m) = if self.trans_a { (0, 1) } else { (1, 0) };
        let (k_b, n) = if self.trans_b { (1, 0) } else { (0, 1) };
        match (t.is_weight(0), t.is_weight(1)) {
            (_, true) => {
                t.contract((0, k_a), (1, k_b), 1);
                t.pass((0, m), (0, 0));
                t.produce((1, n), (0, 1), 1);
            }
            (true, false) => {
                t.contract((1, k_b), (0, k_a), 1);
                t.pass((1, n), (0, 1));
                t.produce((0, m), (0, 0), 1);
            }
            (false, false) => {
                t.pass((0, m), (0, 0));
                t.pass((1, n), (0, 1));
            }
        }
        // C broadcasts to [M, N].
        let c: Vec<_> = t.cx().shape(2).map_or(Vec::new(), |c| c.0.clone());
        for (axis, size) in c.iter().enumerate() {
            let side = if axis + 1 == c.len() { (1, n) } else { (0, m) };
            if size.known() != Some(1) {
                t.tie((2, axis), side, &|i| i);
            }
        }
        true
    }
}

/// Y[…, M, N] = A[…, M, K] B[…, K, N], as numpy.matmul.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MatMul;

impl Operator for MatMul {
    fn parse(_: &str, _: i64, _: &mut AttrReader<'_>) -> Option<Self> {
        Some(MatMul)
    }

    fn op_type(&self) -> &'static str {
        "MatMul"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(a), Some(b)) = (cx.shape(0), cx.shape(1)) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        Ok(vec![Fact::tensor(cx.dtype(0), Some(matmul(a, b)?))])
    }

    fn weights(&self, cx: &Infer<'_>) -> Vec<WeightInput> {
        // A vector has one output.
        let layer = |(slot, outputs, inputs)| {
            let rank = cx.shape(slot).map(Shape::rank).filter(|&rank| rank > 0)?;
            let [outputs, inputs] = [outputs, inputs].map(|from_end: usize| rank.saturating_sub(from_end));
            Some(WeightInput { slot, role: Role::Layer, outputs, inputs: Some(inputs), bias: None })
        };
        [(1, 1, 2), (0, 2, 1)].into_iter().filter_map(layer).collect()
    }

    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        product(sizes.output(0)?)?.checked_mul(*sizes.input(0)?.last()?)
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let ranks = [t.cx().shape(0), t.cx().shape(1), t.out_shape(0)].map(|s| s.map_or(0, Shape::rank));
        let [a, b, y] = ranks;
        // A vector on the left has no rows, one on the right no columns; the product's other axes are the stack's.
        let (rows, columns) = (a.checked_sub(2), (b > 1).then(|| b - 1));
        let stack = y.checked_sub(usize::from(rows.is_some()) + usize::from(columns.is_some()));
        let Some(stack) = stack.filter(|n| a > 0 && b > 0 && n + 2 >= a.max(b)) else { return true };
        let pass_stack = |t: &mut dyn Ties, slot: usize, rank: usize| {
            (0..rank.saturating_sub(2)).for_each(|i| t.pass((slot, i), (0, i + stack + 2 - rank)));
        };
        let (left, right) = ((0, a - 1, rows, stack), (1, b.saturating_sub(2), columns, y.saturating_sub(1)));
        let (data, weight) = match (t.is_weight(0), t.is_weight(1)) {
            (_, true) => (left, right),
            (true, false) => (right, left),
            (false, false) => {
                // Products of activations: attention. Its heads are a batch axis here, and go as blocks; without such an
                // axis what queries and keys are made of goes from both.
                if a == b && a > 1 {
                    let heads = (0..a - 2).any(|axis| t.is_tracked((0, axis)) || t.is_tracked((1, axis)));
                    pass_stack(t, 0, a);
                    pass_stack(t, 1, b);
                    if heads {
                        t.freeze((0, a - 2), "multiplies heads, which only go whole");
                        t.freeze((1, b - 1), "multiplies heads, which only go whole");
                    } else {
                        t.contract((0, a - 1), (1, b - 2), 1);
                        t.pass((0, a - 2), (0, y - 2));
                        t.pass((1, b - 1), (0, y - 1));
                    }
                }
                return true;
            }
        };
        t.contract((data.0, data.1), (weight.0, weight.1), 1);
        pass_stack(t, 0, a);
        pass_stack(t, 1, b);
        if let Some(axis) = data.2 {
            t.pass((data.0, axis), (0, data.3));
        }
        match weight.2 {
            Some(axis) => t.produce((weight.0, axis), (0, weight.3), 1),
            None => t.make_none("makes a single channel"),
        }
        true
    }
}

/// Shape of the product of two stacks of matrices, as numpy.matmul.
pub fn matmul(a: &Shape, b: &Shape) -> Result<Shape, String> {
    if a.rank() == 0 || b.rank() == 0 {
        return Err(format!("a scalar among the factors {a} and {b}"));
    }
    let (rows, k) = a.0.split_at(a.rank() - 1);
    let (batch_a, m) = rows.split_at(rows.len().saturating_sub(1));
    let (batch_b, l, n) = match b.0.as_slice() {
        [l] => (&[][..], l, &[][..]),
        [batch @ .., l, n] => (batch, l, std::slice::from_ref(n)),
        [] => unreachable!("rank 0 was refused"),
    };
    if !k[0].agrees(l) {
        return Err(format!("the factors {a} and {b} do not fit: {} against {l}", k[0]));
    }
    let mut y = broadcast(&Shape(batch_a.to_vec()), &Shape(batch_b.to_vec()))?;
    y.0.extend(m.iter().chain(n).cloned());
    Ok(y)
}
