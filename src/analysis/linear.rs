//! Layers as Y = W X + b: what Conv, ConvTranspose, Gemm and MatMul with a constant weight have in common for whoever fits
//! weights.
//!
//! X has a row for each input that an output is summed over (for a convolution im2col: input channel, then tap) and a
//! column for each sample and position; W has a row for each output. A convolution in groups is one such layer a group.
//! Of a transposed convolution's taps, those that meet no input at a position are zeros in its column.

mod windows;

use crate::analysis::readers;
use crate::ir::op::Role;
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::op::gemm::Gemm;
use crate::ir::{DType, Graph, NodeId, Op, Tensor, ValueId};
use ndarray::Array2;
use windows::Windows;

/// Samples that are gathered at a time, channel by channel: neighbours read what lies side by side.
const GATHERED: usize = 64;

/// A layer of a graph.
#[derive(Debug, Clone)]
pub struct Linear {
    pub node: NodeId,
    /// The value that it reads, and the one that it makes, its bias added.
    pub x: ValueId,
    pub y: ValueId,
    /// The input slot of its weight.
    pub slot: usize,
    pub weight: ValueId,
    pub bias: Bias,
    pub groups: usize,
    /// Rows of W, of one group.
    pub outputs: usize,
    /// Columns of W, of one group.
    pub inputs: usize,
    /// Weights between one input channel and one output channel.
    pub taps: usize,
    /// Layers further on that share its weight and multiply by it in the same way: what is fitted is fitted to all.
    pub others: Vec<Linear>,
    form: LinearForm,
}

/// Where a layer's bias is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bias {
    /// At an input slot of a node: the layer's, or the Add behind a MatMul. The layer adds `scale` times it.
    At { node: NodeId, slot: usize, value: Option<ValueId>, scale: f64 },
    /// The layer can have none.
    None,
}

#[derive(Debug, Clone)]
enum LinearForm {
    Windows(Windows),
    Gemm(Gemm),
    MatMul,
    /// The weight on the left of a product, [outputs, inputs] or, if `turned`, the other way round; X is `upright` where it
    /// has the inputs on its last axis but one.
    Left {
        turned: bool,
        upright: bool,
        alpha: f64,
    },
}

impl Linear {
    /// Reads a node as a layer.
    ///
    /// # Errors
    /// Why it is none that weights can be fitted for.
    pub fn of(graph: &Graph, node: NodeId) -> Result<Linear, String> {
        let constant = |v: ValueId| graph.value(v).constant();
        let (slot, weight) = readers::weight(graph, node).ok_or_else(|| {
            match readers::roles(graph, node).iter().any(|w| w.role == Role::Layer) {
                true => "its weight is not constant".to_string(),
                false => format!("{} is no layer that weights can be fitted for", graph.node(node).kind()),
            }
        })?;
        let tensor = constant(weight).ok_or("its weight is not constant")?;
        if !tensor.dtype().is_float() {
            return Err(format!("its weight is {}, not float", tensor.dtype()));
        }
        if graph.node(node).inconsistent {
            return Err("the file contradicts the operator's definition here".into());
        }
        let x = graph.input(node, 1 - slot).ok_or("it has no input")?;
        let y = graph.output(node).ok_or("it has no output")?;
        let own = |scale: f64| Bias::At { node, slot: 2, value: graph.input(node, 2), scale };
        let (groups, outputs, inputs, taps, form, bias, y) = match &graph.node(node).op {
            op @ (Op::Conv(_) | Op::ConvTranspose(_)) => {
                let windows = Windows::of(op, tensor.shape()).ok_or("its weight does not divide into its groups")?;
                let kernel = windows.kernel();
                let (groups, taps) = (kernel.groups, kernel.taps());
                let (outputs, inputs) = (kernel.outputs / groups, kernel.inputs * taps);
                (groups, outputs, inputs, taps, LinearForm::Windows(windows), own(1.0), y)
            }
            Op::Gemm(gemm) if slot == 0 => {
                if graph.input(node, 2).is_some() || gemm.alpha == 0.0 {
                    return Err("its weight is on the left, and it adds something or multiplies by 0".into());
                }
                let form = LinearForm::Left { turned: gemm.trans_a, upright: !gemm.trans_b, alpha: gemm.alpha.into() };
                let (outputs, inputs) = on_the_left(tensor, gemm.trans_a)?;
                (1, outputs, inputs, 1, form, Bias::None, y)
            }
            Op::MatMul(_) if slot == 0 => {
                let form = LinearForm::Left { turned: false, upright: true, alpha: 1.0 };
                let (outputs, inputs) = on_the_left(tensor, false)?;
                (1, outputs, inputs, 1, form, Bias::None, y)
            }
            Op::Gemm(gemm) => {
                let &[a, b] = tensor.shape() else { return Err("its weight is no matrix".into()) };
                let (inputs, outputs) = if gemm.trans_b { (b, a) } else { (a, b) };
                if gemm.alpha == 0.0 || gemm.beta == 0.0 {
                    return Err("it multiplies by 0".into());
                }
                (1, outputs, inputs, 1, LinearForm::Gemm(gemm.clone()), own(gemm.beta.into()), y)
            }
            Op::MatMul(_) => {
                let &[inputs, outputs] = tensor.shape() else { return Err("its weight is no matrix".into()) };
                let (bias, y) = added(graph, y, outputs).unwrap_or((Bias::None, y));
                (1, outputs, inputs, 1, LinearForm::MatMul, bias, y)
            }
            _ => return Err(format!("{} is no layer that weights can be fitted for", graph.node(node).kind())),
        };
        if let Bias::At { value: Some(v), .. } = bias
            && constant(v).is_none_or(|t| !t.dtype().is_float())
        {
            return Err("its bias is not constant".into());
        }
        if outputs == 0 || inputs == 0 {
            return Err("its weight has no elements".into());
        }
        Ok(Linear { node, x, y, slot, weight, bias, groups, outputs, inputs, taps, others: Vec::new(), form })
    }

    /// Reads nodes that share a weight, in the order they run, as one layer.
    ///
    /// # Errors
    /// Why they are none that weights can be fitted for.
    pub fn of_all(graph: &Graph, nodes: &[NodeId]) -> Result<Linear, String> {
        let (&first, rest) = nodes.split_first().ok_or("it has no layers")?;
        let mut layer = Linear::of(graph, first)?;
        for &n in rest {
            let place = |why: String| format!("\"{}\", which shares its weight: {why}", graph.label(n));
            let other = Linear::of(graph, n).map_err(place)?;
            let shape = |l: &Linear| (l.groups, l.outputs, l.inputs, l.taps);
            let same = shape(&layer) == shape(&other) && layer.scale() == other.scale();
            if !same || layer.places() != other.places() {
                return Err(place("it multiplies by it in another way".into()));
            }
            layer.others.push(other);
        }
        Ok(layer)
    }

    /// The layer and those that share its weight.
    pub fn all(&self) -> impl Iterator<Item = &Linear> {
        std::iter::once(self).chain(&self.others)
    }

    /// All of these, those together that have the same bias: they keep one bias.
    pub fn sets<'a>(&'a self, graph: &Graph) -> Vec<Vec<&'a Linear>> {
        let number = |layer: &Linear| match layer.bias {
            Bias::At { value, scale, .. } => Some((value.map(|v| graph.value(v).constant()), scale)),
            Bias::None => None,
        };
        let mut sets: Vec<Vec<&Linear>> = Vec::new();
        for layer in self.all() {
            match sets.iter_mut().find(|set| number(set[0]) == number(layer)) {
                Some(set) => set.push(layer),
                None => sets.push(vec![layer]),
            }
        }
        sets
    }

    /// The same layer of so many inputs.
    #[must_use]
    pub fn with_inputs(&self, inputs: usize) -> Linear {
        Linear { inputs, ..self.clone() }
    }

    /// The axis of Y that counts the outputs of all groups.
    pub fn channel_axis(&self, rank: usize) -> usize {
        match self.form {
            LinearForm::Windows(_) => 1,
            LinearForm::Gemm(_) | LinearForm::MatMul => rank.saturating_sub(1),
            LinearForm::Left { .. } => rank.saturating_sub(2),
        }
    }

    /// W, by group. `None` if the tensor has not the layer's shape.
    pub fn matrices(&self, weight: &Tensor) -> Option<Vec<Array2<f64>>> {
        let values = weight.floats()?;
        let whole = values.len() == self.groups * self.outputs * self.inputs;
        let group = |places: Array2<u32>| places.mapv(|at| values[at as usize] * self.scale());
        whole.then(|| self.places().into_iter().map(group).collect())
    }

    /// The weight of that type and shape with these matrices.
    pub fn tensor(&self, dtype: DType, shape: &[usize], matrices: &[Array2<f64>]) -> Tensor {
        let mut values = vec![0.0; self.groups * self.outputs * self.inputs];
        for (places, w) in self.places().iter().zip(matrices) {
            places.iter().zip(w).for_each(|(&at, w)| values[at as usize] = w / self.scale());
        }
        Tensor::from_floats(dtype, shape, values)
    }

    /// What the layer multiplies its weight by.
    pub fn scale(&self) -> f64 {
        match &self.form {
            LinearForm::Gemm(g) => g.alpha.into(),
            LinearForm::Left { alpha, .. } => *alpha,
            LinearForm::Windows(_) | LinearForm::MatMul => 1.0,
        }
    }

    /// Where in the weight, row-major, each number of the matrices is.
    pub fn places(&self) -> Vec<Array2<u32>> {
        let (m, n, taps) = (self.outputs, self.inputs, self.taps);
        let by_input = match &self.form {
            LinearForm::Windows(windows) => matches!(windows, Windows::Transposed(..)),
            LinearForm::Gemm(g) => !g.trans_b,
            LinearForm::MatMul => true,
            LinearForm::Left { turned, .. } => *turned,
        };
        let place = |group: usize, o: usize, i: usize| match by_input {
            true => ((group * n + i) / taps * m + o) * taps + i % taps,
            false => (group * m + o) * n + i,
        };
        (0..self.groups).map(|g| Array2::from_shape_fn((m, n), |(o, i)| place(g, o, i) as u32)).collect()
    }

    /// b, of all groups, set after set; zeros where there is none. `None` if it is not one number, or one an output.
    pub fn biases(&self, graph: &Graph) -> Option<Vec<f64>> {
        let sets: Vec<Vec<f64>> = self.sets(graph).iter().map(|set| set[0].own_bias(graph)).collect::<Option<_>>()?;
        Some(sets.concat())
    }

    fn own_bias(&self, graph: &Graph) -> Option<Vec<f64>> {
        let outputs = self.groups * self.outputs;
        let Bias::At { value: Some(v), scale, .. } = self.bias else { return Some(vec![0.0; outputs]) };
        let values = graph.value(v).constant()?.floats()?;
        match values.len() {
            1 => Some(vec![values[0] * scale; outputs]),
            n if n == outputs => Some(values.iter().map(|b| b * scale).collect()),
            _ => None,
        }
    }

    /// The bias tensor for these numbers, in the weight's type; `None` where the layer can have none.
    pub fn bias_tensor(&self, graph: &Graph, b: &[f64]) -> Option<Tensor> {
        let Bias::At { value, scale, .. } = self.bias else { return None };
        let dtype = graph.value(self.weight).constant()?.dtype();
        let old = value.and_then(|v| graph.value(v).constant()).filter(|t| t.len() == b.len());
        let shape = old.map_or(vec![b.len()], |t| t.shape().to_vec());
        Some(Tensor::from_floats(dtype, shape, b.iter().map(|b| b / scale)))
    }

    /// Rows of Xᵀ, one a sample and position of those that `taken` takes, of every group, put behind those in its `out`. `x`
    /// is a value of shape `shape`. `None` if it does not fit.
    pub fn columns(
        &self,
        x: &[f32],
        shape: &[usize],
        taken: &dyn Fn(usize) -> bool,
        out: &mut [Vec<f32>],
    ) -> Option<()> {
        if let LinearForm::Windows(windows) = &self.form {
            return windows.columns(x, shape, taken, out);
        }
        let [out] = out else { return None };
        match &self.form {
            LinearForm::Gemm(g) if g.trans_a => {
                let &[n, samples] = shape else { return None };
                let rows = (0..samples).filter(|&s| n == self.inputs && taken(s));
                rows.for_each(|s| out.extend((0..n).map(|i| x[i * samples + s])));
            }
            LinearForm::Left { upright: true, .. } => {
                let &[.., n, samples] = shape else { return None };
                let rows = (0..x.len() / n.max(1)).filter(|&row| n == self.inputs && taken(row));
                rows.for_each(|row| {
                    let (matrix, s) = (row / samples * n, row % samples);
                    out.extend((0..n).map(|i| x[(matrix + i) * samples + s]));
                });
            }
            _ if shape.last() != Some(&self.inputs) => return None,
            _ => x.chunks(self.inputs).enumerate().filter(|r| taken(r.0)).for_each(|r| out.extend_from_slice(r.1)),
        }
        Some(())
    }

    /// Rows of Yᵀ of every group, put behind those in its `out`: `y` is a value of shape `shape`, of whose channels those in
    /// `kept` count (all, if `None`).
    pub fn targets(
        &self,
        y: &[f32],
        shape: &[usize],
        kept: Option<&[usize]>,
        taken: &dyn Fn(usize) -> bool,
        out: &mut [Vec<f32>],
    ) -> Option<()> {
        let axis = self.channel_axis(shape.len());
        let (&all, inner) = (shape.get(axis)?, shape[axis + 1..].iter().product::<usize>());
        let outer: usize = shape[..axis].iter().product();
        let channels = match kept {
            Some(kept) => kept.to_vec(),
            None => (0..all).collect(),
        };
        let whole = channels.len() >= self.groups * self.outputs && out.len() == self.groups;
        if !whole || channels.iter().any(|&c| c >= all) || y.len() != outer * all * inner {
            return None;
        }
        let rows: Vec<usize> = (0..outer * inner).filter(|&row| taken(row)).collect();
        for rows in rows.chunks(GATHERED) {
            for (channels, out) in channels.chunks(self.outputs).zip(&mut *out) {
                let start = out.len();
                out.resize(start + rows.len() * channels.len(), 0.0);
                for (at, &c) in channels.iter().enumerate() {
                    let to = out[start..].iter_mut().skip(at).step_by(channels.len());
                    to.zip(rows).for_each(|(to, row)| *to = y[(row / inner * all + c) * inner + row % inner]);
                }
            }
        }
        Some(())
    }
}

/// Outputs and inputs of a weight on the left.
fn on_the_left(weight: &Tensor, turned: bool) -> Result<(usize, usize), String> {
    match *weight.shape() {
        [inputs, outputs] if turned => Ok((outputs, inputs)),
        [outputs, inputs] => Ok((outputs, inputs)),
        _ => Err("its weight is no matrix".into()),
    }
}

/// The Add of a constant vector that alone reads a MatMul's result.
fn added(graph: &Graph, y: ValueId, outputs: usize) -> Option<(Bias, ValueId)> {
    let node = graph.sole_use(y)?.node();
    if !matches!(graph.node(node).op, Op::Binary(Binary(BinaryKind::Add))) || graph.is_held(y) {
        return None;
    }
    let slot = (0..2).find(|&s| graph.input(node, s) != Some(y))?;
    let value = graph.input(node, slot)?;
    let vector = graph.value(value).constant().is_some_and(|t| t.shape() == [outputs]);
    vector.then_some((Bias::At { node, slot, value: Some(value), scale: 1.0 }, graph.output(node)?))
}
