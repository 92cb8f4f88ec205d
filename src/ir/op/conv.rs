//! Conv. (ONNX Operators: Conv, since 1, 11, 22.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::{Operator, Role, Sizes, WeightInput};
use crate::ir::shape::{Dim, Shape};
use crate::ir::ties::{Change, Kept, Ties, open_weight};

/// How windows slide over the spatial axes, for convolutions and pooling. Empty lists stand for the defaults.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Window {
    pub kernel: Vec<i64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    /// Begin of every axis, then end of every axis.
    pub pads: Vec<i64>,
    pub auto_pad: AutoPad,
    /// Round the number of windows up (pooling only).
    pub ceil: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoPad {
    #[default]
    NotSet,
    SameUpper,
    SameLower,
    Valid,
}

impl Window {
    /// Reads the attributes that Conv and the pooling operators share.
    pub fn parse(attrs: &mut AttrReader<'_>) -> Option<Window> {
        let auto_pad = match attrs.str("auto_pad").as_deref() {
            None | Some("NOTSET" | "") => AutoPad::NotSet,
            Some("SAME_UPPER") => AutoPad::SameUpper,
            Some("SAME_LOWER") => AutoPad::SameLower,
            Some("VALID") => AutoPad::Valid,
            Some(_) => return None,
        };
        let window = Window {
            kernel: attrs.ints("kernel_shape").unwrap_or_default(),
            strides: attrs.ints("strides").unwrap_or_default(),
            dilations: attrs.ints("dilations").unwrap_or_default(),
            pads: attrs.ints("pads").unwrap_or_default(),
            auto_pad,
            ceil: false,
        };
        let positive = [&window.kernel, &window.strides, &window.dilations].into_iter().flatten().all(|&v| v > 0);
        positive.then_some(window)
    }

    /// The attributes that differ from the defaults.
    pub fn attrs(&self) -> Vec<Attr> {
        let mut out = Vec::new();
        match self.auto_pad {
            AutoPad::NotSet => {}
            AutoPad::SameUpper => out.push(Attr::str("auto_pad", "SAME_UPPER")),
            AutoPad::SameLower => out.push(Attr::str("auto_pad", "SAME_LOWER")),
            AutoPad::Valid => out.push(Attr::str("auto_pad", "VALID")),
        }
        let mut list = |name, values: &[i64], default| {
            if values.iter().any(|&v| v != default) {
                out.push(Attr::ints(name, values));
            }
        };
        list("dilations", &self.dilations, 1);
        list("pads", &self.pads, 0);
        list("strides", &self.strides, 1);
        out
    }

    pub fn stride(&self, axis: usize) -> i64 {
        self.strides.get(axis).copied().unwrap_or(1)
    }

    pub fn dilation(&self, axis: usize) -> i64 {
        self.dilations.get(axis).copied().unwrap_or(1)
    }

    /// Explicit padding before and after an axis of `axes`.
    pub fn pad(&self, axis: usize, axes: usize) -> (i64, i64) {
        let at = |i: usize| self.pads.get(i).copied().unwrap_or(0);
        (at(axis), at(axes + axis))
    }

    /// Padding before and after an axis of `n` elements over which go `windows` windows of `k` taps: declared, or with
    /// `auto_pad` what they need. (ONNX Operators, Conv.)
    pub fn padding(&self, axis: usize, axes: usize, n: i64, k: i64, windows: i64) -> (i64, i64) {
        let reach = |steps: i64, by: i64| (steps - 1).saturating_mul(by);
        let needed = reach(windows, self.stride(axis)).saturating_add(reach(k, self.dilation(axis))).saturating_add(1);
        let all = needed.saturating_sub(n).max(0);
        match self.auto_pad {
            AutoPad::NotSet => self.pad(axis, axes),
            AutoPad::Valid => (0, 0),
            AutoPad::SameUpper => (all / 2, all - all / 2),
            AutoPad::SameLower => (all - all / 2, all / 2),
        }
    }

    /// The part of the window that lies along one of `axes` axes: 1 wide along the others.
    pub fn along(&self, axis: usize, axes: usize) -> Window {
        let only = |value: i64, other: i64| (0..axes).map(|i| if i == axis { value } else { other }).collect();
        let (begin, end) = self.pad(axis, axes);
        Window {
            kernel: only(self.kernel.get(axis).copied().unwrap_or(1), 1),
            strides: only(self.stride(axis), 1),
            dilations: only(self.dilation(axis), 1),
            pads: [only(begin, 0), only(end, 0)].concat(),
            ..self.clone()
        }
    }

    /// Checks that the lists fit the number of spatial axes.
    pub fn check(&self, axes: usize) -> Result<(), String> {
        let fits = |name, list: &[i64], n| match list.len() {
            0 => Ok(()),
            l if l == n => Ok(()),
            l => Err(format!("{name} has {l} numbers for {axes} spatial axes")),
        };
        fits("kernel_shape", &self.kernel, axes)?;
        fits("strides", &self.strides, axes)?;
        fits("dilations", &self.dilations, axes)?;
        fits("pads", &self.pads, 2 * axes)
    }

    /// Number of windows of size `kernel` along an axis of size `input`.
    pub fn output(&self, axis: usize, axes: usize, input: &Dim, kernel: u64) -> Result<Dim, String> {
        let stride = self.stride(axis);
        let Some(n) = input.known() else {
            let same = matches!(self.auto_pad, AutoPad::SameUpper | AutoPad::SameLower) && stride == 1;
            let (b, e) = self.pad(axis, axes);
            let reach = i64::try_from(kernel).ok().and_then(|k| (k - 1).checked_mul(self.dilation(axis)));
            let kept = self.auto_pad == AutoPad::NotSet && stride == 1 && b.checked_add(e) == reach;
            return Ok(if same || kept { input.clone() } else { Dim::Unknown });
        };
        let n = i64::try_from(n).map_err(|_| format!("axis size {n} is too large"))?;
        if matches!(self.auto_pad, AutoPad::SameUpper | AutoPad::SameLower) {
            return Ok(Dim::Known((n as u64).div_ceil(stride as u64)));
        }
        let (b, e) = if self.auto_pad == AutoPad::Valid { (0, 0) } else { self.pad(axis, axes) };
        let fit = || {
            let extent = (i64::try_from(kernel).ok()? - 1).checked_mul(self.dilation(axis))?.checked_add(1)?;
            n.checked_add(b)?.checked_add(e)?.checked_sub(extent)
        };
        let room = fit().ok_or("the window does not fit into 64 bits")?;
        if room < 0 {
            return Err(format!("a window of {kernel} does not fit into {n} with padding {b} and {e}"));
        }
        let mut windows = room / stride + 1;
        if self.ceil && room % stride != 0 {
            if self.auto_pad == AutoPad::Valid {
                return Ok(Dim::Unknown); // the definition and the runtimes differ
            }
            windows += (windows.saturating_mul(stride) < n + b) as i64;
        }
        Ok(Dim::Known(windows as u64))
    }

    /// Shape of the output: batch and channels, then the number of windows along every spatial axis.
    pub fn infer(&self, x: &Shape, channels: Dim, kernel: &[Dim]) -> Result<Shape, String> {
        let axes = x.rank().checked_sub(2).ok_or_else(|| format!("input {x} has no batch and channel axes"))?;
        self.check(axes)?;
        if kernel.len() != axes {
            return Err(format!("a kernel of {} axes on an input {x}", kernel.len()));
        }
        let mut dims = vec![x.0[0].clone(), channels];
        for (i, (n, k)) in x.0[2..].iter().zip(kernel).enumerate() {
            dims.push(match k {
                Dim::Known(k) if *k > 0 => self.output(i, axes, n, *k)?,
                Dim::Known(_) => return Err("a kernel of size 0".into()),
                _ => Dim::Unknown,
            });
        }
        Ok(Shape(dims))
    }
}

/// Y[N, M, …] = X[N, C, …] ∗ W[M, C/group, k…] + B[M].
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    pub window: Window,
    pub group: i64,
}

/// The sizes in the shape [M, C/group, k…] of a convolution's weight; none is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelShape {
    /// M, of all groups together.
    pub outputs: usize,
    /// C/group: of one group.
    pub inputs: usize,
    pub groups: usize,
    /// k…, at least one.
    pub size: Vec<usize>,
}

impl KernelShape {
    /// Weights between one input channel and one output channel.
    pub fn taps(&self) -> usize {
        self.size.iter().product()
    }
}

impl Conv {
    /// Shape of Y from those of X and W.
    pub fn output(&self, x: &Shape, w: &Shape) -> Result<Shape, String> {
        if w.rank() < 2 {
            return Err(format!("a weight of shape {w}"));
        }
        if let (Some(Dim::Known(c)), Dim::Known(per_group)) = (x.0.get(1), &w.0[1])
            && Some(*c) != per_group.checked_mul(self.group as u64)
        {
            return Err(format!("{c} input channels against a weight {w} in {} groups", self.group));
        }
        if let Dim::Known(m) = w.0[0]
            && m % self.group as u64 != 0
        {
            return Err(format!("{m} output channels do not divide into {} groups", self.group));
        }
        let kernel = w.0[2..].to_vec();
        let same = |(k, &own): (&Dim, &i64)| k.known().is_none_or(|k| k == own as u64);
        if !self.window.kernel.is_empty() && !kernel.iter().zip(&self.window.kernel).all(same) {
            return Err(format!("kernel_shape {:?} against a weight {w}", self.window.kernel));
        }
        self.window.infer(x, w.0[0].clone(), &kernel)
    }

    /// A convolution without bias whose window is a single element: it mixes the channels of each group.
    pub fn pointwise(axes: usize, group: usize) -> Conv {
        Conv { window: Window { kernel: vec![1; axes], ..Window::default() }, group: group as i64 }
    }

    /// This convolution's window, with its kernel size spelled out, in another number of groups.
    pub fn grouped(&self, kernel: &KernelShape, group: usize) -> Conv {
        let size = kernel.size.iter().map(|&k| k as i64).collect();
        Conv { window: Window { kernel: size, ..self.window.clone() }, group: group as i64 }
    }

    /// Reads the shape of a weight; `None` if it is empty, has no spatial axes or does not divide into the groups.
    pub fn kernel(&self, weight: &[usize]) -> Option<KernelShape> {
        let [outputs, inputs, size @ ..] = weight else { return None };
        let groups = usize::try_from(self.group).ok()?;
        let fits = !size.is_empty() && weight.iter().all(|&d| d > 0) && outputs.is_multiple_of(groups);
        fits.then(|| KernelShape { outputs: *outputs, inputs: *inputs, groups, size: size.to_vec() })
    }
}

impl Operator for Conv {
    fn parse(_: &str, _: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let conv = Conv { window: Window::parse(attrs)?, group: attrs.int_or("group", 1) };
        (conv.group > 0).then_some(conv)
    }

    fn op_type(&self) -> &'static str {
        "Conv"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let mut out = self.window.attrs();
        if self.group != 1 {
            out.push(Attr::int("group", self.group));
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    /// Some runtimes fail without explicit strides and dilations. Without a kernel size their lengths are unknown.
    fn file_attrs(&self, opset: i64) -> Vec<Attr> {
        let mut out = self.attrs(opset);
        let axes = self.window.kernel.len();
        if axes == 0 {
            return out;
        }
        let mut spell = |name: &str, attr: Attr| {
            if !out.iter().any(|a| a.name == name) {
                out.push(attr);
            }
        };
        spell("dilations", Attr::ints("dilations", &vec![1; axes]));
        spell("group", Attr::int("group", self.group));
        spell("kernel_shape", Attr::ints("kernel_shape", &self.window.kernel));
        if self.window.auto_pad == AutoPad::NotSet {
            spell("pads", Attr::ints("pads", &vec![0; 2 * axes]));
        }
        spell("strides", Attr::ints("strides", &vec![1; axes]));
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(x), Some(w)) = (cx.shape(0), cx.shape(1)) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        Ok(vec![Fact::tensor(cx.dtype(0), Some(self.output(x, w)?))])
    }

    fn weights(&self, _: &Infer<'_>) -> Vec<WeightInput> {
        vec![WeightInput { slot: 1, role: Role::Layer, outputs: 0, inputs: Some(1), bias: Some(2) }]
    }

    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        let positions = product(sizes.output(0)?)?;
        positions.checked_mul(product(sizes.input(1)?.get(1..)?)?)
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        let weight = t.cx().shape(1).and_then(|w| Some((w.0.first()?.known()? as usize, w.0.get(1)?.known()?)));
        let Some((m, per_group)) = weight.filter(|_| t.is_weight(1)) else {
            let why = open_weight(t.cx(), 1);
            t.freeze((0, 1), &why);
            t.make_none(&why);
            return true;
        };
        let groups = usize::try_from(self.group).unwrap_or(0);
        if groups == 0 || m < groups {
            return false;
        }
        t.pass((0, 0), (0, 0));
        if per_group == 1 && groups > 1 {
            let multiplier = m / groups;
            // A filter for every channel makes none, unless it is the first to tell them apart.
            if t.is_tracked((0, 1)) {
                t.pass((1, 0), (0, 1))
            } else {
                t.produce((1, 0), (0, 1), 1)
            }
            t.tie((1, 0), (0, 1), &|i| i / multiplier);
        } else {
            t.contract((0, 1), (1, 1), groups);
            t.produce((1, 0), (0, 1), 1);
            if groups > 1 {
                // Every group keeps as many channels as every other.
                t.tie((1, 0), (1, 0), &|i| i % (m / groups));
            }
        }
        if t.cx().has(2) {
            t.tie((2, 0), (1, 0), &|i| i);
        }
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let depthwise = self.group > 1 && kept.cx().shape(1)?.0.get(1)?.known()? == 1;
        Some(match kept.input((0, 1)).filter(|_| depthwise) {
            Some(channels) => vec![Change::Op(Conv { group: channels.len() as i64, ..self.clone() }.into())],
            None => Vec::new(),
        })
    }
}

/// Product of dims; `None` on overflow.
pub fn product(dims: &[u64]) -> Option<u64> {
    dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
}
