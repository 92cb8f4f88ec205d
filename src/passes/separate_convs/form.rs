//! The two ways to split a convolution, and the layers that they make.

use crate::ir::Op;
use crate::ir::op::conv::{Conv, KernelShape};
use crate::math::Separable;
use crate::passes::Order;
use crate::passes::convolution::Convolution;
use crate::passes::split::{Factor, WeightMatrix};
use ndarray::{Array2, ArrayView3, ArrayView4};

/// One way to split a convolution.
pub struct Separation<'a> {
    pub first: Order,
    pub kernel: &'a KernelShape,
    pub separable: Separable,
    pub terms: usize,
}

/// The weight by input channel (outputs of its group × taps) or by output channel (inputs of its group × taps).
pub fn decompose(first: Order, kernel: &KernelShape, weight: &[f32]) -> Option<Separable> {
    let KernelShape { outputs, inputs, groups, .. } = *kernel;
    let (a_group, taps) = (outputs / groups, kernel.taps());
    match first {
        Order::DepthwiseFirst => {
            let w = ArrayView4::from_shape((groups, a_group, inputs, taps), weight).ok()?.permuted_axes([0, 2, 1, 3]);
            Separable::new(w.to_shape((groups * inputs, a_group, taps)).ok()?.view())
        }
        Order::PointwiseFirst => Separable::new(ArrayView3::from_shape((outputs, inputs, taps), weight).ok()?),
    }
}

impl Separation<'_> {
    pub fn order(&self) -> &'static str {
        match self.first {
            Order::DepthwiseFirst => "depthwise first",
            Order::PointwiseFirst => "pointwise first",
        }
    }

    /// Channels that the depthwise convolution reads, or pointwise first, writes.
    fn channels(&self) -> usize {
        match self.first {
            Order::DepthwiseFirst => self.kernel.groups * self.kernel.inputs,
            Order::PointwiseFirst => self.kernel.outputs,
        }
    }

    pub fn parameters_a_term(&self) -> usize {
        self.filter_parameters() + self.kernel.outputs * self.kernel.inputs
    }

    /// Those of the depthwise convolution, for a term.
    pub fn filter_parameters(&self) -> usize {
        self.channels() * self.kernel.taps()
    }

    pub fn parameters(&self) -> usize {
        self.terms * self.parameters_a_term()
    }

    /// The weight that the two stand for: a matrix (outputs × inputs · taps) for each group.
    pub fn products(&self) -> Vec<Array2<f64>> {
        let (filters, mixes) = (self.separable.filters(self.terms), self.separable.mixes(self.terms));
        let slices: Vec<Array2<f32>> =
            mixes.outer_iter().zip(filters.outer_iter()).map(|(mixes, filters)| mixes.dot(&filters)).collect();
        let KernelShape { outputs, inputs, groups, .. } = *self.kernel;
        let (a_group, taps) = (outputs / groups, self.kernel.taps());
        let of = |group: usize| {
            Array2::from_shape_fn((a_group, inputs * taps), |(o, i)| {
                let (i, tap) = (i / taps, i % taps);
                f64::from(match self.first {
                    Order::DepthwiseFirst => slices[group * inputs + i][(o, tap)],
                    Order::PointwiseFirst => slices[group * a_group + o][(i, tap)],
                })
            })
        };
        (0..groups).map(of).collect()
    }

    /// The two that take the place of a convolution.
    pub fn ops(&self, conv: Convolution<'_>) -> [Op; 2] {
        let spatial = conv.grouped(self.kernel, self.channels());
        let mixing = Conv::pointwise(self.kernel.size.len(), self.kernel.groups).into();
        if self.first == Order::DepthwiseFirst { [spatial, mixing] } else { [mixing, spatial] }
    }

    /// Factors with the depthwise weight as the operator has it.
    pub fn laid(&self, conv: Convolution<'_>, factors: [Factor; 2]) -> [Factor; 2] {
        factors.map(|factor| match factor.suffix {
            "dw" => Factor { weight: conv.laid(factor.weight, self.channels()), ..factor },
            _ => factor,
        })
    }

    /// `filters` are channels × terms × taps, `mixes` channels × what they mix to or from × terms.
    pub fn factors(
        &self,
        weight: &WeightMatrix<'_>,
        filters: ArrayView3<'_, f32>,
        mixes: ArrayView3<'_, f32>,
    ) -> Option<[Factor; 2]> {
        let (kernel, terms, channels) = (self.kernel, self.terms, self.channels());
        let KernelShape { outputs, inputs, groups, .. } = *kernel;
        let shape = |to: usize, from: usize, size: &[usize]| [&[to, from], size].concat();
        let ones = vec![1; kernel.size.len()];
        let (spatial_weight, mixing_weight) = match self.first {
            Order::DepthwiseFirst => {
                // By input channel and term to, for each output, the input channels of its group and their terms.
                let by_group = mixes.to_shape((groups, inputs, outputs / groups, terms)).ok()?;
                let by_output = by_group.view().permuted_axes([0, 2, 1, 3]);
                let mixing = weight.like(shape(outputs, inputs * terms, &ones), by_output.iter().copied());
                (weight.like(shape(channels * terms, 1, &kernel.size), filters.iter().copied()), mixing)
            }
            Order::PointwiseFirst => {
                let by_term = mixes.permuted_axes([0, 2, 1]);
                let mixing = weight.like(shape(outputs * terms, inputs, &ones), by_term.iter().copied());
                (weight.like(shape(outputs, terms, &kernel.size), filters.iter().copied()), mixing)
            }
        };
        let spatial = Factor { suffix: "dw", weight: spatial_weight };
        let mixing = Factor { suffix: "pw", weight: mixing_weight };
        Some(if self.first == Order::DepthwiseFirst { [spatial, mixing] } else { [mixing, spatial] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    /// A rank that is exact never pays, so no graph shows it: the two weights are multiplied out here.
    #[test]
    fn all_terms_are_exact() {
        let text = "model \"m\" opset 17 {
            input %x : f32[1,6,8,8]
            const %w : f32[8,3,3,2] = seed(1)

            %y : f32[1,8,6,7] = Conv<group=2>(%x, %w) @conv

            output %y
        }";
        let graph = parse::model(text).unwrap().graph;
        let n = graph.nodes().next().unwrap();
        let Op::Conv(conv) = &graph.node(n).op else { panic!("a Conv") };
        let weight = WeightMatrix::at(&graph, n, 1).unwrap();
        let kernel = conv.kernel(weight.tensor.shape()).unwrap();
        for first in [Order::DepthwiseFirst, Order::PointwiseFirst] {
            let separable = decompose(first, &kernel, &weight.data).unwrap();
            let terms = separable.full();
            let (filters, mixes) = (separable.filters(terms), separable.mixes(terms));
            let form = Separation { first, kernel: &kernel, separable, terms };
            let factors = form.factors(&weight, filters.view(), mixes.view()).unwrap();
            let [a, b] = factors.map(|f| f.weight.as_f32().unwrap().into_owned());
            for (at, w) in weight.data.iter().enumerate() {
                let (output, input, tap) = (at / 18, at / 6 % 3, at % 6);
                let channel = output / 4 * 3 + input;
                let product = |t: usize| match first {
                    Order::DepthwiseFirst => a[(channel * terms + t) * 6 + tap] * b[(output * 3 + input) * terms + t],
                    Order::PointwiseFirst => a[(output * terms + t) * 3 + input] * b[(output * terms + t) * 6 + tap],
                };
                assert!(((0..terms).map(product).sum::<f32>() - w).abs() < 1e-5, "{first:?} at {at}");
            }
        }
    }
}
