//! Makes one Gemm of a MatMul of two matrices and the Add after it.
//!
//! ```text
//! # run = [{ pass = "fuse-gemm" }]
//! model "dense" opset 17 {
//!   input %x : f32[N,8]
//!   const %w : f32[8,16] = seed(1)
//!   const %b : f32[16] = seed(2)
//!
//!   %m : f32[N,16] = MatMul(%x, %w)
//!   %y : f32[N,16] = Add(%b, %m)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "dense" opset 17 {
//!   input %x : f32[N,8]
//!   const %w : f32[8,16]
//!   const %b : f32[16]
//!
//!   %y : f32[N,16] = Gemm(%x, %w, %b) @m
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::op::gemm::Gemm;
use crate::ir::{DType, Dim, Graph, NodeId, Op, Patch, Shape, ValueId};
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FuseGemm {}

impl Pass for FuseGemm {
    fn name(&self) -> &'static str {
        "fuse-gemm"
    }

    fn phase(&self) -> Phase {
        Phase::Clean
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Exact
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let order = cx.graph.topological().unwrap_or_default();
        order.into_iter().filter(|&n| find(cx.graph, n).is_some()).map(Site::Node).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let (Site::Node(n), g) = (site, cx.graph) else { return Verdict::skip("it is not a node") };
        let Some((matmul, product, bias)) = find(g, n) else { return Verdict::skip("no MatMul is before it by now") };
        let Some(y) = g.output(n) else { return Verdict::skip("it has no output") };
        if g.sole_use(product).is_none() {
            return Verdict::skip(format!("what \"{}\" computes is used elsewhere too", g.label(matmul)));
        }
        if !fits(g, product, bias) {
            return Verdict::skip("what it adds has not one number a column, or one an element");
        }
        let mut patch = Patch::at_node(g, n);
        patch.set_op(matmul, Gemm::default());
        patch.set_inputs(
            matmul,
            &[g.input(matmul, 0).map(Into::into), g.input(matmul, 1).map(Into::into), Some(bias.into())],
        );
        patch.replace(y, product);
        Ok(Verdict::Patch(patch, format!("fused with \"{}\"", g.label(matmul))))
    }
}

/// The MatMul of matrices that an Add adds to, its result, and what is added.
fn find(g: &Graph, n: NodeId) -> Option<(NodeId, ValueId, ValueId)> {
    let node = g.node(n);
    if node.op != Op::Binary(Binary(BinaryKind::Add)) || node.inconsistent || node.arity.0 != 2 {
        return None;
    }
    let (a, b) = (g.input(n, 0)?, g.input(n, 1)?);
    [(a, b), (b, a)].into_iter().find_map(|(product, bias)| {
        let (matmul, _) = g.producer(product)?;
        let dtype = |v: ValueId| g.value(v).ty.as_ref()?.dtype();
        let matrix = |slot| {
            let v = g.input(matmul, slot)?;
            let float = matches!(dtype(v)?, DType::F32 | DType::F16 | DType::F64) && dtype(v) == dtype(bias);
            (float && g.value(v).ty.as_ref()?.shape()?.rank() == 2).then_some(())
        };
        let m = g.node(matmul);
        let found = matches!(m.op, Op::MatMul(_)) && !m.inconsistent && m.arity.0 == 2 && bias != product;
        matrix(0).and(matrix(1)).filter(|_| found).map(|()| (matmul, product, bias))
    })
}

/// Whether `bias` broadcasts to the shape of `product` and no further.
fn fits(g: &Graph, product: ValueId, bias: ValueId) -> bool {
    let shape = |v: ValueId| -> Option<&Shape> { g.value(v).ty.as_ref()?.shape() };
    let (Some(y), Some(c)) = (shape(product), shape(bias)) else { return false };
    let pairs = c.0.iter().rev().zip(y.0.iter().rev());
    c.rank() <= 2 && pairs.into_iter().all(|(c, y)| *c == Dim::Known(1) || c == y && *c != Dim::Unknown)
}
