//! ConvTranspose. (ONNX Operators: ConvTranspose, since 1, 11, 22.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::conv::{AutoPad, Conv, KernelShape, Window, product};
use crate::ir::op::{Operator, Role, Sizes, WeightInput};
use crate::ir::shape::{Dim, Shape};
use crate::ir::ties::{Change, Kept, Ties, open_weight};

/// The transpose of a convolution as a linear map: X[N, C, …], W[C, M/group, k…], B[M] to Y[N, M, …].
#[derive(Debug, Clone, PartialEq)]
pub struct ConvTranspose {
    pub window: Window,
    pub group: i64,
    /// Elements added at the end of every spatial axis; empty stands for zeros.
    pub output_padding: Vec<i64>,
    /// Spatial sizes of Y, from which the pads follow; empty if the pads are given.
    pub output_shape: Vec<i64>,
}

impl ConvTranspose {
    /// Size of Y along an axis of size `input`.
    fn output(&self, axis: usize, axes: usize, input: &Dim, kernel: &Dim) -> Result<Dim, String> {
        if let Some(&n) = self.output_shape.get(axis) {
            return u64::try_from(n).map(Dim::Known).map_err(|_| format!("output_shape {:?}", self.output_shape));
        }
        let stride = self.window.stride(axis);
        let extra = self.output_padding.get(axis).copied().unwrap_or(0);
        let same = matches!(self.window.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
        let (begin, end) = if self.window.auto_pad == AutoPad::NotSet { self.window.pad(axis, axes) } else { (0, 0) };
        // Y has stride · n + grown elements.
        let grown = || {
            if same {
                return Some(0);
            }
            let extent =
                i64::try_from(kernel.known()?).ok()?.checked_sub(1)?.checked_mul(self.window.dilation(axis))?;
            extent.checked_add(1)?.checked_add(extra)?.checked_sub(begin)?.checked_sub(end)?.checked_sub(stride)
        };
        let Some(grown) = grown() else { return Ok(Dim::Unknown) };
        if stride == 1 && grown == 0 {
            return Ok(input.clone());
        }
        let Some(n) = input.known() else { return Ok(Dim::Unknown) };
        let size = i64::try_from(n).ok().and_then(|n| n.checked_mul(stride)?.checked_add(grown));
        match size.map(u64::try_from) {
            Some(Ok(size)) => Ok(Dim::Known(size)),
            _ => Err(format!("an axis of {n} leaves nothing after padding {begin} and {end}")),
        }
    }

    /// What is cut off before Y, and the size of Y, along an axis of `n` elements with `k` taps.
    pub fn placed(&self, axis: usize, axes: usize, n: u64, k: u64) -> Option<(i64, u64)> {
        let size = self.output(axis, axes, &Dim::Known(n), &Dim::Known(k)).ok()?.known()?;
        if self.output_shape.is_empty() && self.window.auto_pad == AutoPad::NotSet {
            return Some((self.window.pad(axis, axes).0, size));
        }
        let (n, k) = (i64::try_from(n).ok()?, i64::try_from(k).ok()?);
        let extra = self.output_padding.get(axis).copied().unwrap_or(0);
        let reach = (n - 1)
            .checked_mul(self.window.stride(axis))?
            .checked_add((k - 1).checked_mul(self.window.dilation(axis))?)?;
        let all = (reach.checked_add(1 + extra)? - i64::try_from(size).ok()?).max(0);
        Some((if self.window.auto_pad == AutoPad::SameUpper { all / 2 } else { all - all / 2 }, size))
    }

    /// Reads the shape of a weight; `None` if it is empty, has no spatial axes or does not divide into the groups.
    pub fn kernel(&self, weight: &[usize]) -> Option<KernelShape> {
        let [channels, per_group, size @ ..] = weight else { return None };
        let groups = usize::try_from(self.group).ok().filter(|&g| g > 0 && channels.is_multiple_of(g))?;
        let fits = !size.is_empty() && weight.iter().all(|&d| d > 0);
        fits.then(|| KernelShape {
            outputs: per_group * groups,
            inputs: channels / groups,
            groups,
            size: size.to_vec(),
        })
    }
}

impl Operator for ConvTranspose {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let Conv { window, group } = Conv::parse(op_type, opset, attrs)?;
        let output_padding = attrs.ints("output_padding").unwrap_or_default();
        let output_shape = attrs.ints("output_shape").unwrap_or_default();
        Some(ConvTranspose { window, group, output_padding, output_shape })
    }

    fn op_type(&self) -> &'static str {
        "ConvTranspose"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = self.window.attrs();
        if self.group != 1 {
            out.push(Attr::int("group", self.group));
        }
        if self.output_padding.iter().any(|&p| p != 0) {
            out.push(Attr::ints("output_padding", &self.output_padding));
        }
        if !self.output_shape.is_empty() {
            out.push(Attr::ints("output_shape", &self.output_shape));
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    /// Some runtimes fail without explicit kernel shape, strides and dilations.
    fn file_attrs(&self, opset: i64) -> Vec<Attr> {
        let mut out = self.attrs(opset);
        out.extend(Conv { window: self.window.clone(), group: self.group }.file_attrs(opset));
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out.dedup_by(|a, b| a.name == b.name);
        if !self.output_shape.is_empty() && self.window.pads.is_empty() {
            out.retain(|a| a.name != "pads");
        }
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(x), Some(w)) = (cx.shape(0), cx.shape(1)) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        let axes = x.rank().checked_sub(2).filter(|_| w.rank() == x.rank());
        let axes = axes.ok_or_else(|| format!("an input {x} against a weight {w}"))?;
        self.window.check(axes)?;
        for list in [&self.output_padding, &self.output_shape] {
            if !list.is_empty() && list.len() != axes {
                return Err(format!("{} numbers for {axes} spatial axes", list.len()));
            }
        }
        if !x.0[1].agrees(&w.0[0]) {
            return Err(format!("{} input channels against a weight {w}", x.0[1]));
        }
        let channels = match &w.0[1] {
            Dim::Known(m) => m.checked_mul(self.group as u64).map(Dim::Known).ok_or("too many output channels")?,
            m if self.group == 1 => m.clone(),
            _ => Dim::Unknown,
        };
        let mut y = vec![x.0[0].clone(), channels];
        for (i, (n, k)) in x.0[2..].iter().zip(&w.0[2..]).enumerate() {
            y.push(self.output(i, axes, n, k)?);
        }
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(y)))])
    }

    fn weights(&self, _: &Infer<'_>) -> Vec<WeightInput> {
        vec![WeightInput { slot: 1, role: Role::Layer, outputs: 1, inputs: Some(0), bias: Some(2) }]
    }

    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        product(sizes.input(0)?)?.checked_mul(product(sizes.input(1)?.get(1..)?)?)
    }

    /// The weight is [C, M/group, …]. A group for every input channel stands or falls with it; of other groups each keeps
    /// as many channels as every other.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        if !t.is_weight(1) {
            let why = open_weight(t.cx(), 1);
            t.freeze((0, 1), &why);
            t.make_none(&why);
            return true;
        }
        let size = |axis: usize| usize::try_from(t.cx().shape(1)?.0.get(axis)?.known()?).ok().filter(|&n| n > 0);
        let (Some(c), Some(per_group), Ok(groups)) = (size(0), size(1), usize::try_from(self.group)) else {
            return false;
        };
        if groups == 0 || c % groups > 0 {
            return false;
        }
        t.pass((0, 0), (0, 0));
        if groups > 1 && groups == c {
            if !t.is_tracked((0, 1)) {
                t.make_none("has a filter for every channel of its input, which stays whole");
            }
            t.tie((1, 0), (0, 1), &|i| i);
            t.select((1, 0), (0, 1), &|i| i / per_group);
            if t.cx().has(2) {
                t.tie((2, 0), (1, 0), &|i| i / per_group);
            }
            return true;
        }
        t.contract((0, 1), (1, 0), 1);
        t.produce((1, 1), (0, 1), groups);
        if groups > 1 {
            t.tie((1, 0), (1, 0), &|i| i % (c / groups));
        }
        if t.cx().has(2) {
            t.tie((2, 0), (1, 1), &|i| i % per_group);
        }
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let depthwise = kept.cx().shape(1)?.0.first()?.known() == u64::try_from(self.group).ok();
        Some(match kept.input((0, 1)).filter(|_| depthwise && self.group > 1) {
            Some(channels) => vec![Change::Op(ConvTranspose { group: channels.len() as i64, ..self.clone() }.into())],
            None => Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::ty;

    #[test]
    fn sizes() {
        let y = |attrs: &str| {
            ty(11, &format!("input %x : f32[N,4,5,W] const %w : f32[4,2,3,3] %y : ? = ConvTranspose{attrs}(%x, %w)"))
        };
        assert_eq!(y(""), "f32[N,2,7,?]");
        assert_eq!(y("<pads=[1,1,1,1]>"), "f32[N,2,5,W]");
        assert_eq!(y("<group=2, strides=[2,2]>"), "f32[N,4,11,?]");
        assert_eq!(y("<output_padding=[1,1], pads=[1,1,1,1], strides=[2,2]>"), "f32[N,2,10,?]");
        assert_eq!(y("<dilations=[2,2]>"), "f32[N,2,9,?]");
        assert_eq!(y("<auto_pad=\"SAME_UPPER\", strides=[2,1]>"), "f32[N,2,10,W]");
        assert_eq!(y("<output_shape=[10,8], strides=[2,2]>"), "f32[N,2,10,8]");
        assert_eq!(y("<pads=[9,9,9,9]>"), "?");
        assert_eq!(y("<output_shape=[10]>"), "?");
    }

    #[test]
    fn macs_are_counted_at_the_input() {
        let op = ConvTranspose::parse("", 11, &mut AttrReader::new(&[])).unwrap();
        let sizes = Sizes { inputs: vec![Some(vec![1, 4, 5, 5]), Some(vec![4, 2, 3, 3])], outputs: Vec::new() };
        assert_eq!(op.macs(&sizes), Some(4 * 25 * 2 * 9));
    }
}
