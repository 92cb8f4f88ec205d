//! What the folding passes share: putting `scale · y + shift`, one number each a channel, into the layer beside it.

use crate::analysis::bytes;
use crate::ir::names::derived;
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::op::conv::{AutoPad, Window};
use crate::ir::tensor::byte_len;
use crate::ir::{DType, Graph, NodeId, Op, Patch, Ref, Tensor, ValueId};

/// y ↦ scale · y + shift by channel: of each no number, one for all channels, or as many as there are channels.
#[derive(Debug, Default)]
pub struct Affine {
    pub scale: Vec<f64>,
    pub shift: Vec<f64>,
}

impl Affine {
    fn scale(&self, channel: usize) -> f64 {
        of_channel(&self.scale, channel).unwrap_or(1.0)
    }

    fn shift(&self, channel: usize) -> f64 {
        of_channel(&self.shift, channel).unwrap_or(0.0)
    }

    fn scales(&self) -> bool {
        self.scale.iter().any(|&s| s != 1.0)
    }

    fn shifts(&self) -> bool {
        self.shift.iter().any(|&t| t != 0.0)
    }

    fn check(&self, channels: usize) -> Result<(), String> {
        for list in [&self.scale, &self.shift] {
            if list.len() > 1 && list.len() != channels {
                return Err(format!("it has numbers for {} channels, the layer {channels}", list.len()));
            }
            if !list.iter().all(|v| v.is_finite()) {
                return Err("its numbers are not all finite".into());
            }
        }
        Ok(())
    }
}

fn of_channel(list: &[f64], channel: usize) -> Option<f64> {
    match list {
        [one] => Some(*one),
        _ => list.get(channel).copied(),
    }
}

/// Input slots of a layer's weight and bias, if it is of a kind that can take in an affine map of its output.
pub fn slots(op: &Op) -> Option<(usize, usize)> {
    match op {
        Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm(_) => Some((1, 2)),
        Op::BatchNorm(b) if !b.training && b.spatial => Some((1, 2)),
        _ => None,
    }
}

/// Axis of a layer's output that its channels are.
pub const CHANNELS: usize = 1;

/// Lets a layer compute `affine` of what it computes now; its output's type stays. `room` is how many bytes a new bias
/// may take.
///
/// # Errors
/// Why the layer cannot.
pub fn into_producer(g: &Graph, patch: &mut Patch, layer: NodeId, affine: &Affine, room: usize) -> Result<(), String> {
    let op = &g.node(layer).op;
    let (w_slot, b_slot) = slots(op).ok_or("what computes its input is no layer")?;
    if g.node(layer).inconsistent {
        return Err("the layer contradicts its own definition".into());
    }
    let w = g.input(layer, w_slot).ok_or("the layer has no weight")?;
    let w_shape = g.value(w).dims().ok_or("the shape of the layer's weight is not known")?;
    let w_shape: Vec<usize> = w_shape.into_iter().map(|d| d as usize).collect();
    let channel = channel_of(op, &w_shape).ok_or("the layer's weight has no such shape")?;
    let channels = channel.channels;
    affine.check(channels)?;
    if affine.scales() {
        let weight = private(g, layer, w, "weight")?;
        patch.set_constant(w, scaled(weight, &channel, affine)?);
    }
    let beta = if let Op::Gemm(gemm) = op { gemm.beta as f64 } else { 1.0 };
    match g.input(layer, b_slot) {
        Some(b) => {
            let bias = g.value(b).constant().ok_or("the layer's bias is not constant")?;
            if beta == 0.0 {
                return Err("the layer's bias is multiplied by 0".into());
            }
            let moved = |(i, v): (usize, f64)| v * affine.scale(i % channels) + affine.shift(i % channels) / beta;
            let own = g.sole_use(b).is_some();
            let room = room + bytes::freed_constant(g, b, layer);
            let new = match bias.shape() {
                [.., last] if *last == channels => {
                    if !own {
                        fits(g, layer, bias.shape(), bias.dtype(), room)?;
                    }
                    let values = bias.iter_floats().ok_or("the layer's bias is not of a float type")?;
                    rounded(bias.dtype(), bias.shape(), values.enumerate().map(moved))?
                }
                // One number for all channels becomes one each.
                [] | [_] | [_, _] if bias.len() == 1 => {
                    fits(g, layer, &[channels], bias.dtype(), room)?;
                    let value = bias.float_scalar().ok_or("the layer's bias is not of a float type")?;
                    rounded(bias.dtype(), &[channels], (0..channels).map(|i| moved((i, value))))?
                }
                _ => return Err("the layer's bias has not one number a channel".into()),
            };
            if own && new.rank() == bias.rank() {
                patch.set_constant(b, new);
            } else {
                set_bias(g, patch, layer, b_slot, new);
            }
        }
        None if affine.shifts() => {
            let dtype = g.value(w).ty.as_ref().and_then(|t| t.dtype()).ok_or("the weight's type is not known")?;
            fits(g, layer, &[channels], dtype, room)?;
            let new = rounded(dtype, &[channels], (0..channels).map(|c| affine.shift(c) / beta))?;
            set_bias(g, patch, layer, b_slot, new);
        }
        None => {}
    }
    Ok(())
}

/// Lets a layer do `affine` to its input 0 itself.
///
/// # Errors
/// Why the layer cannot.
pub fn into_consumer(g: &Graph, patch: &mut Patch, layer: NodeId, affine: &Affine, room: usize) -> Result<(), String> {
    let op = &g.node(layer).op;
    if g.node(layer).inconsistent {
        return Err("the layer contradicts its own definition".into());
    }
    let w = g.input(layer, 1).ok_or("the layer has no weight")?;
    let weight = private(g, layer, w, "weight")?;
    let (input, output) = input_channels(op, weight.shape()).ok_or("the layer's weight has no such shape")?;
    affine.check(input.channels)?;
    if affine.shifts() {
        let pads = match op {
            Op::Conv(c) => has_padding(&c.window),
            Op::Gemm(_) => false,
            _ => return Err(format!("{} has no bias to take the addition", g.node(layer).kind())),
        };
        if pads {
            return Err("the layer pads with zeros after the addition".into());
        }
        let alpha = if let Op::Gemm(gemm) = op { gemm.alpha as f64 } else { 1.0 };
        let mut shift = vec![0.0; output.channels];
        let values = weight.iter_floats().ok_or("the layer's weight is not of a float type")?;
        for ((v, to), from) in values.zip(output.each()).zip(input.each()) {
            shift[to] += alpha * v * affine.shift(from);
        }
        into_producer(g, patch, layer, &Affine { scale: Vec::new(), shift }, room)?;
    }
    if affine.scales() {
        patch.set_constant(w, scaled(weight, &input, affine)?);
    }
    Ok(())
}

fn has_padding(w: &Window) -> bool {
    match w.auto_pad {
        AutoPad::NotSet => w.pads.iter().any(|&p| p != 0),
        AutoPad::Valid => false,
        AutoPad::SameUpper | AutoPad::SameLower => true,
    }
}

/// Which channel each element of a row-major weight belongs to.
struct ChannelIndex {
    channels: usize,
    /// Channels of one group.
    per_group: usize,
    /// Elements from one channel to the next.
    stride: usize,
    /// Elements of one group.
    group: usize,
}

impl ChannelIndex {
    /// The channel of every element, in order, without end.
    fn each(&self) -> impl Iterator<Item = usize> {
        let of = |run: usize| run * self.stride / self.group * self.per_group + run % self.per_group;
        (0..).flat_map(move |run| std::iter::repeat_n(of(run), self.stride))
    }

    /// `channels` along an axis after which there are `stride` elements, in one group.
    fn along(channels: usize, stride: usize) -> Option<ChannelIndex> {
        let one = ChannelIndex { channels, per_group: channels, stride, group: usize::MAX };
        (channels > 0 && stride > 0).then_some(one)
    }
}

fn channel_of(op: &Op, w: &[usize]) -> Option<ChannelIndex> {
    let after = |axis: usize| w.get(axis + 1..).map(|d| d.iter().product::<usize>());
    match op {
        Op::ConvTranspose(c) => {
            let (groups, per_group, stride) = (usize::try_from(c.group).ok()?, *w.get(1)?, after(1)?);
            let group = w[0].checked_div(groups)?.checked_mul(per_group * stride)?;
            let positive = per_group > 0 && stride > 0 && group > 0;
            positive.then_some(ChannelIndex { channels: groups * per_group, per_group, stride, group })
        }
        Op::Gemm(gemm) if w.len() == 2 => {
            let axis = if gemm.trans_b { 0 } else { 1 };
            ChannelIndex::along(w[axis], after(axis)?)
        }
        Op::Conv(_) | Op::BatchNorm(_) => ChannelIndex::along(*w.first()?, after(0)?),
        _ => None,
    }
}

/// Input and output channel of each element of the weight.
fn input_channels(op: &Op, w: &[usize]) -> Option<(ChannelIndex, ChannelIndex)> {
    let after = |axis: usize| w.get(axis + 1..).map(|d| d.iter().product::<usize>());
    match op {
        Op::Conv(c) => {
            let (groups, per_group, stride) = (usize::try_from(c.group).ok()?, *w.get(1)?, after(1)?);
            let group = w[0].checked_div(groups)?.checked_mul(per_group * stride)?;
            let positive = per_group > 0 && stride > 0 && group > 0;
            let input = ChannelIndex { channels: groups * per_group, per_group, stride, group };
            positive.then_some((input, channel_of(op, w)?))
        }
        Op::ConvTranspose(_) => Some((ChannelIndex::along(*w.first()?, after(0)?)?, channel_of(op, w)?)),
        Op::Gemm(gemm) if w.len() == 2 && !gemm.trans_a => {
            let axis = if gemm.trans_b { 1 } else { 0 };
            Some((ChannelIndex::along(w[axis], after(axis)?)?, channel_of(op, w)?))
        }
        Op::MatMul(_) if w.len() == 2 => Some((ChannelIndex::along(w[0], w[1])?, ChannelIndex::along(w[1], 1)?)),
        _ => None,
    }
}

/// The constant that this layer alone reads.
fn private<'g>(g: &'g Graph, layer: NodeId, v: ValueId, what: &str) -> Result<&'g Tensor, String> {
    let tensor = g.value(v).constant().ok_or_else(|| format!("the layer's {what} is not constant"))?;
    match g.sole_use(v) {
        Some(u) if u.node() == layer => Ok(tensor),
        _ => Err(format!("the layer's {what} is used elsewhere too")),
    }
}

fn bias_name(g: &Graph, layer: NodeId) -> String {
    derived(g.label(layer), "bias")
}

/// Whether a new bias takes no more than `room`.
fn fits(g: &Graph, layer: NodeId, shape: &[usize], dtype: DType, room: usize) -> Result<(), String> {
    let name = bias_name(g, layer);
    let data = byte_len(dtype, shape).ok_or("the layer's bias would be too large")?;
    let needs = bytes::initializer_of(&name, shape.len(), data).saturating_add(2 + name.len());
    if needs > room {
        return Err(format!("the layer would need a bias of {needs} bytes, more than the node takes"));
    }
    Ok(())
}

fn set_bias(g: &Graph, patch: &mut Patch, layer: NodeId, slot: usize, bias: Tensor) {
    let mut inputs: Vec<Option<Ref>> = g.node_inputs(layer).into_iter().map(|v| v.map(Ref::from)).collect();
    inputs.resize(inputs.len().max(slot + 1), None);
    inputs[slot] = Some(patch.constant_named(bias_name(g, layer), bias));
    patch.set_inputs(layer, &inputs);
}

/// The weight with each element multiplied by the scale of its channel.
fn scaled(weight: &Tensor, channel: &ChannelIndex, affine: &Affine) -> Result<Tensor, String> {
    let values = weight.iter_floats().ok_or("the layer's weight is not of a float type")?;
    rounded(weight.dtype(), weight.shape(), values.zip(channel.each()).map(|(v, c)| v * affine.scale(c)))
}

/// A tensor of these values, which must be in the range of its type. They go straight into its bytes: there are as many
/// as the layer has weights.
fn rounded(dtype: DType, shape: &[usize], values: impl Iterator<Item = f64>) -> Result<Tensor, String> {
    if !dtype.is_float() {
        return Err(format!("{dtype} is no float type"));
    }
    let (mut finite, mut largest) = (true, 0.0f64);
    let seen = values.inspect(|v| {
        finite &= v.is_finite();
        largest = largest.max(v.abs());
    });
    let tensor = Tensor::from_floats(dtype, shape, seen);
    let (low, high) = match dtype {
        DType::F16 => (2f64.powi(-14), 65504.0),
        DType::F64 => (f64::MIN_POSITIVE, f64::MAX),
        _ => (f32::MIN_POSITIVE as f64, f32::MAX as f64),
    };
    if !finite || largest > high || (largest > 0.0 && largest < low) {
        return Err(format!("the folded numbers leave the range of {dtype}"));
    }
    Ok(tensor)
}

/// The addition or multiplication by channel that a node does to one of its inputs.
pub struct ChannelStep {
    /// The slot that is not constant.
    pub slot: usize,
    pub affine: Affine,
}

/// The one input of an Add, Sub, Mul or Div that is not constant.
pub fn operand(g: &Graph, n: NodeId) -> Option<usize> {
    let node = g.node(n);
    if !matches!(node.op, Op::Binary(_)) || node.inconsistent || node.arity.0 != 2 {
        return None;
    }
    let constant = |slot| Some(g.value(g.input(n, slot)?).constant().is_some());
    match (constant(0)?, constant(1)?) {
        (false, true) => Some(0),
        (true, false) => Some(1),
        _ => None,
    }
}

/// Reads a node as a map by channel of its one input that is not constant; `axis` gives the axis of the channels for
/// the input's rank. `None` if it is something else.
pub fn step(g: &Graph, n: NodeId, axis: impl Fn(usize) -> Option<usize>) -> Option<ChannelStep> {
    let Op::Binary(Binary(kind)) = &g.node(n).op else { return None };
    let slot = operand(g, n)?;
    let (x, c) = (g.value(g.input(n, slot)?).ty.as_ref()?, g.input_constant(n, 1 - slot)?);
    let y = g.value(g.output(n)?).ty.as_ref()?;
    if !c.dtype().is_float() || [x, y].iter().any(|t| t.dtype() != Some(c.dtype())) {
        return None;
    }
    let shape = x.shape()?;
    let rank = shape.rank();
    let at = axis(rank)?;
    let channels = usize::try_from(shape.0.get(at)?.known()?).ok()?;
    let offset = rank.checked_sub(c.rank())?;
    let along = |(i, &d): (usize, &usize)| d == 1 || (i + offset == at && d == channels);
    if !c.shape().iter().enumerate().all(along) {
        return None;
    }
    let numbers = c.floats()?;
    let affine = match (kind, slot) {
        (BinaryKind::Add | BinaryKind::Sum, _) => Affine { scale: Vec::new(), shift: numbers },
        (BinaryKind::Sub, 0) => Affine { scale: Vec::new(), shift: numbers.iter().map(|v| -v).collect() },
        (BinaryKind::Sub, _) => Affine { scale: vec![-1.0], shift: numbers },
        (BinaryKind::Mul, _) => Affine { scale: numbers, shift: Vec::new() },
        (BinaryKind::Div, 0) => Affine { scale: numbers.iter().map(|v| 1.0 / v).collect(), shift: Vec::new() },
        _ => return None,
    };
    Some(ChannelStep { slot, affine })
}
