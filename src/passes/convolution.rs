//! What the passes that split kernels need of a convolution, be it transposed or not.

use crate::ir::op::conv::{Conv, KernelShape, Window};
use crate::ir::op::conv_transpose::ConvTranspose;
use crate::ir::{Graph, NodeId, Op, Tensor};
use crate::passes::budget::spread;
use crate::passes::sharing;
use crate::passes::split::WeightMatrix;
use std::borrow::Cow;

/// A convolution.
#[derive(Clone, Copy)]
pub enum Convolution<'g> {
    Forward(&'g Conv),
    Transposed(&'g ConvTranspose),
}

/// A convolution where it is.
pub struct ConvLayer<'g> {
    pub node: NodeId,
    pub conv: Convolution<'g>,
    /// Laid out as Conv has it: outputs, inputs of a group, taps.
    pub weight: WeightMatrix<'g>,
    pub kernel: KernelShape,
}

/// The convolution of a node and those that share its weight, if all are such as `fits` takes.
///
/// # Errors
/// Why they cannot be split.
pub fn family<'g>(
    graph: &'g Graph,
    n: NodeId,
    fits: impl Fn(&ConvLayer<'_>) -> Result<(), String>,
) -> Result<Vec<ConvLayer<'g>>, String> {
    let layers = sharing::all(graph, n, |n| {
        let layer = at(graph, n)?;
        fits(&layer).map(|()| layer)
    })?;
    if layers.iter().any(|l| l.kernel.groups != layers[0].kernel.groups) {
        return Err("those that share its weight are convolutions in other groups".into());
    }
    if layers.iter().any(|l| l.conv.is_transposed() != layers[0].conv.is_transposed()) {
        return Err("of those that share its weight some are transposed".into());
    }
    Ok(layers)
}

fn at(graph: &Graph, node: NodeId) -> Result<ConvLayer<'_>, String> {
    let conv = match &graph.node(node).op {
        Op::Conv(conv) => Convolution::Forward(conv),
        Op::ConvTranspose(conv) => Convolution::Transposed(conv),
        _ => return Err("it is no convolution".into()),
    };
    let mut weight = WeightMatrix::at(graph, node, 1)?;
    let kernel = match conv {
        Convolution::Forward(conv) => conv.kernel(weight.tensor.shape()),
        Convolution::Transposed(conv) => conv.kernel(weight.tensor.shape()),
    };
    let kernel = kernel.ok_or("its weight does not divide into its groups")?;
    if conv.is_transposed() {
        weight.data = Cow::Owned(turned(&weight.data, kernel.groups, kernel.inputs, kernel.outputs / kernel.groups));
    }
    Ok(ConvLayer { node, conv, weight, kernel })
}

/// Of every group `rows` × `columns` blocks, its columns first.
fn turned(data: &[f32], groups: usize, rows: usize, columns: usize) -> Vec<f32> {
    let block = data.len() / (groups * rows * columns).max(1);
    let cells =
        (0..groups).flat_map(|g| (0..columns).flat_map(move |c| (0..rows).map(move |r| (g * rows + r) * columns + c)));
    cells.flat_map(|cell| &data[cell * block..(cell + 1) * block]).copied().collect()
}

impl Convolution<'_> {
    pub fn is_transposed(&self) -> bool {
        matches!(self, Convolution::Transposed(_))
    }

    pub fn window(&self) -> &Window {
        match self {
            Convolution::Forward(conv) => &conv.window,
            Convolution::Transposed(conv) => &conv.window,
        }
    }

    /// Why its axes cannot be taken one after the other, if so.
    pub fn joins_axes(&self) -> Option<&'static str> {
        let Convolution::Transposed(conv) = self else { return None };
        let said = !conv.output_shape.is_empty();
        said.then_some("its output_shape is that of both axes: `scheme = \"channel\"` keeps it")
    }

    /// The same window in another number of groups.
    pub fn grouped(&self, kernel: &KernelShape, group: usize) -> Op {
        match self {
            Convolution::Forward(conv) => conv.grouped(kernel, group).into(),
            Convolution::Transposed(conv) => {
                let window = Conv { window: conv.window.clone(), group: 1 }.grouped(kernel, 1).window;
                ConvTranspose { window, group: group as i64, ..(*conv).clone() }.into()
            }
        }
    }

    /// The part of the window that lies along one of two axes, in one group.
    pub fn along(&self, kernel: &KernelShape, axis: usize) -> Op {
        let window = Conv { window: self.window().clone(), group: 1 }.grouped(kernel, 1).window.along(axis, 2);
        match self {
            Convolution::Forward(_) => Conv { window, group: 1 }.into(),
            Convolution::Transposed(conv) => {
                let extra = conv.output_padding.get(axis).copied().unwrap_or(0);
                let output_padding = (0..2).map(|a| if a == axis { extra } else { 0 }).collect();
                ConvTranspose { window, group: 1, output_padding, output_shape: Vec::new() }.into()
            }
        }
    }

    /// A weight laid out as Conv has it, as this operator has it in so many groups.
    pub fn laid(&self, weight: Tensor, groups: usize) -> Tensor {
        let (Convolution::Transposed(_), &[outputs, inputs, ref size @ ..]) = (self, weight.shape()) else {
            return weight;
        };
        let (per_group, shape) = (outputs / groups, [&[inputs * groups, outputs / groups], size].concat());
        let Some(data) = weight.as_f32() else { return weight };
        let data = turned(&data, groups, per_group, inputs);
        Tensor::from_floats(weight.dtype(), shape, data.into_iter().map(f64::from))
    }

    /// How often the parameters of two that take the place of one are applied, as often as its own being 1: those of the
    /// first and of the second, where the first takes this window along the axes before `axes` and the second the rest.
    /// `None` if that is not known.
    pub fn applied(&self, graph: &Graph, n: NodeId, axes: usize) -> Option<(f64, f64)> {
        // Positions read for each made along the axes of the second.
        let rest = spread(graph, n, 2 + axes)?;
        Some(if self.is_transposed() { (1.0, rest / spread(graph, n, 2)?) } else { (rest, 1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_each_other_turned() {
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let there = turned(&data, 2, 2, 3);
        assert_eq!(there[..8], [0.0, 1.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0]);
        assert_eq!(turned(&there, 2, 3, 2), data);
    }
}
