//! Operators that order the same elements differently: Transpose, DepthToSpace, SpaceToDepth.
//! (ONNX Operators: Transpose, since 1, 13, 21, 23, 24, 25; DepthToSpace, since 1, 11, 13, 28; SpaceToDepth, since 1,
//! 13, 28.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::op::pick::{self, input};
use crate::ir::op::reshape::axes;
use crate::ir::shape::{Dim, Shape};
use crate::ir::tensor::Tensor;
use crate::ir::ties::Ties;

/// Axis i of the result is axis `perm[i]` of the input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transpose {
    /// Empty for the reverse order.
    pub perm: Vec<i64>,
}

impl Transpose {
    /// The permutation for an input of this rank.
    ///
    /// # Errors
    /// If `perm` is no permutation of that many axes.
    pub fn order(&self, rank: usize) -> Result<Vec<usize>, String> {
        if self.perm.is_empty() {
            return Ok((0..rank).rev().collect());
        }
        if self.perm.len() != rank || self.perm.iter().any(|&p| p < 0) {
            return Err(format!("perm {:?} does not order {rank} axes", self.perm));
        }
        axes(&self.perm, rank)
    }
}

impl Operator for Transpose {
    fn parse(_: &str, _: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(Transpose { perm: attrs.ints("perm").unwrap_or_default() })
    }

    fn op_type(&self) -> &'static str {
        "Transpose"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        if self.perm.is_empty() { Vec::new() } else { vec![Attr::ints("perm", &self.perm)] }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let shape = match cx.shape(0) {
            Some(x) => Some(Shape(self.order(x.rank())?.into_iter().map(|a| x.0[a].clone()).collect())),
            None if self.perm.is_empty() => None,
            None => Some(Shape(vec![Dim::Unknown; self.perm.len()])),
        };
        Ok(vec![Fact::tensor(cx.dtype(0), shape).with_ints(cx.moved(self))])
    }

    /// Moving axes of size 1 moves no element.
    fn passes_on(&self, cx: &Infer<'_>) -> Option<usize> {
        let x = cx.shape(0)?;
        let order = self.order(x.rank()).ok()?;
        let long: Vec<usize> = order.iter().copied().filter(|&a| x.0[a] != Dim::Known(1)).collect();
        let in_place = order.iter().enumerate().all(|(to, &from)| to == from || x.0[to] == x.0[from]);
        (long.is_sorted() && in_place).then_some(0)
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        Some(vec![permute(x, &self.order(x.rank()).ok()?)?])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, Shape::rank);
        for (to, from) in self.order(rank).unwrap_or_default().into_iter().enumerate() {
            t.pass((0, from), (0, to));
        }
        true
    }
}

/// The tensor whose axis i is axis `order[i]` of `x`, a permutation. It is filled in the order of `x`: its elements are
/// read once, and `x` may be most of the model.
pub fn permute(x: &Tensor, order: &[usize]) -> Option<Tensor> {
    let shape: Vec<usize> = order.iter().map(|&a| x.shape().get(a).copied()).collect::<Option<_>>()?;
    let width = x.dtype().bytes()?;
    let mut out = vec![0; pick::room(x.dtype(), &shape)?];
    let to = pick::strides(&shape);
    let mut steps = vec![0; x.rank()];
    order.iter().zip(to).for_each(|(&from, stride)| steps[from] = stride * width);
    let (mut index, mut at) = (vec![0; x.rank()], 0);
    for element in x.blocks()?.flat_map(|block| block.chunks_exact(width)) {
        out.get_mut(at..at + width)?.copy_from_slice(element);
        for (axis, i) in index.iter_mut().enumerate().rev() {
            (*i, at) = (*i + 1, at + steps[axis]);
            if *i < x.shape()[axis] {
                break;
            }
            at -= *i * steps[axis];
            *i = 0;
        }
    }
    Tensor::new(x.dtype(), shape, out.into())
}

/// Moves blocks of channels into space or back, for tensors [N, C, H, W].
#[derive(Debug, Clone, PartialEq)]
pub struct DepthSpace {
    pub to_space: bool,
    pub block: i64,
    pub mode: BlockOrder,
}

/// How a channel index divides into a place in the block and the channel of the spatial side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockOrder {
    /// The place is the slow part.
    #[default]
    Dcr,
    /// The channel is the slow part.
    Crd,
}

impl DepthSpace {
    fn shape(&self, x: &Shape) -> Result<Shape, String> {
        let [n, c, h, w] = &x.0[..] else { return Err(format!("input {x} is not of rank 4")) };
        let block = self.block as u64;
        let area = block.checked_mul(block).ok_or("the block is too large")?;
        let by = |d: &Dim, k: u64| d.known().and_then(|n| n.checked_mul(k)).map_or(Dim::Unknown, Dim::Known);
        let part = |d: &Dim, k: u64| match d {
            Dim::Known(n) if n % k > 0 => Err(format!("{n} of {x} does not divide by {k}")),
            Dim::Known(n) => Ok(Dim::Known(n / k)),
            _ => Ok(Dim::Unknown),
        };
        Ok(Shape(if self.to_space {
            vec![n.clone(), part(c, area)?, by(h, block), by(w, block)]
        } else {
            vec![n.clone(), by(c, area), part(h, block)?, part(w, block)?]
        }))
    }
}

impl Operator for DepthSpace {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let to_space = op_type == "DepthToSpace";
        let block = attrs.int("blocksize").filter(|&b| b > 0)?;
        let mode = if opset >= if to_space { 11 } else { 28 } { attrs.str("mode") } else { None };
        let mode = match mode.as_deref() {
            None | Some("DCR") => BlockOrder::Dcr,
            Some("CRD") => BlockOrder::Crd,
            Some(_) => return None,
        };
        Some(DepthSpace { to_space, block, mode })
    }

    fn op_type(&self) -> &'static str {
        if self.to_space { "DepthToSpace" } else { "SpaceToDepth" }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = vec![Attr::int("blocksize", self.block)];
        if self.mode == BlockOrder::Crd {
            out.push(Attr::str("mode", "CRD"));
        }
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let shape = cx.shape(0).map(|x| self.shape(x)).transpose()?;
        Ok(vec![Fact::tensor(cx.dtype(0), Some(shape.unwrap_or(Shape(vec![Dim::Unknown; 4]))))])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
        let x = input(inputs, 0)?;
        let y: Vec<usize> = self.shape(x.ty().shape()?).ok()?.dims()?.into_iter().map(|d| d as usize).collect();
        let ([n, c, h, w], [_, d, oh, ow]) = (x.shape(), &y[..]) else { return None };
        let b = usize::try_from(self.block).ok()?;
        let (split, order) = match (self.to_space, self.mode) {
            (true, BlockOrder::Dcr) => (vec![*n, b, b, *d, *h, *w], [0, 3, 4, 1, 5, 2]),
            (true, BlockOrder::Crd) => (vec![*n, *d, b, b, *h, *w], [0, 1, 4, 2, 5, 3]),
            (false, BlockOrder::Dcr) => (vec![*n, *c, *oh, b, *ow, b], [0, 3, 5, 1, 2, 4]),
            (false, BlockOrder::Crd) => (vec![*n, *c, *oh, b, *ow, b], [0, 1, 3, 5, 2, 4]),
        };
        Some(vec![permute(&x.reshaped(split)?, &order)?.reshaped(y)?])
    }

    /// The channels that become one channel of more places stand or fall together, as do those made from one.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        let size = |shape: Option<&Shape>| usize::try_from(shape?.0.get(1)?.known()?).ok();
        let (Some(c), Some(d)) = (size(t.cx().shape(0)), size(t.out_shape(0))) else { return true };
        let (few, many) = (c.min(d), c.max(d));
        if few == 0 {
            return true;
        }
        let area = many / few;
        let of = |i: usize| if self.mode == BlockOrder::Dcr { i % few } else { i / area };
        let first = |i: usize| if self.mode == BlockOrder::Dcr { i } else { i.saturating_mul(area) };
        t.pass((0, 0), (0, 0));
        if self.to_space {
            t.tie((0, 1), (0, 1), &|i| first(of(i)));
            t.select((0, 1), (0, 1), &first);
        } else {
            t.select((0, 1), (0, 1), &of);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::{fold, ty};

    #[test]
    fn transpose_orders_dims() {
        assert_eq!(ty(13, "input %x : f32[N,3,8,?] %y : ? = Transpose<perm=[0,2,3,1]>(%x)"), "f32[N,8,?,3]");
        assert_eq!(ty(13, "input %x : f32[N,3] %y : ? = Transpose(%x)"), "f32[3,N]");
        assert_eq!(ty(13, "input %x : f32[*] %y : ? = Transpose<perm=[1,0]>(%x)"), "f32[?,?]");
        let y = fold(13, "const %x : u8[2,3] = {1,2,3,4,5,6} %y : ? = Transpose(%x)").unwrap();
        assert_eq!(y.ints().unwrap(), [1, 4, 2, 5, 3, 6]);
        for perm in [vec![0, 0], vec![0], vec![-1, 0], vec![2, i64::MIN]] {
            assert!(Transpose { perm }.order(2).is_err());
        }
    }

    #[test]
    fn blocks_move() {
        assert_eq!(ty(13, "input %x : f32[N,8,3,W] %y : ? = DepthToSpace<blocksize=2>(%x)"), "f32[N,2,6,?]");
        assert_eq!(ty(13, "input %x : f32[N,8,4,6] %y : ? = SpaceToDepth<blocksize=2>(%x)"), "f32[N,32,2,3]");
        assert_eq!(ty(13, "input %x : f32[N,8,4,6] %y : ? = SpaceToDepth<blocksize=0>(%x)"), "opaque");
        for mode in ["", ", mode=\"CRD\""] {
            let body =
                format!("const %x : i64[1,8,1,1] = {{0,1,2,3,4,5,6,7}} %y : ? = DepthToSpace<blocksize=2{mode}>(%x)");
            let y = fold(28, &body).unwrap();
            let back = DepthSpace {
                to_space: false,
                block: 2,
                mode: if mode.is_empty() { BlockOrder::Dcr } else { BlockOrder::Crd },
            };
            let x = &back.eval(&[Some(&y)]).unwrap()[0];
            assert_eq!(x.ints().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
            let first = if mode.is_empty() { [0, 2, 4, 6] } else { [0, 1, 2, 3] };
            assert_eq!(y.ints().unwrap()[..4], first);
        }
    }
}
