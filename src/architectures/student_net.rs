//! StudentNet: eight blocks of depthwise and pointwise convolutions, for images.
//!
//! Block 0 is Conv 3×3 → BatchNormalization → ReLU6 → MaxPool 2. Blocks 1 to 7 are depthwise 3×3 → BatchNormalization →
//! ReLU6 → Conv 1×1, without an activation after it, with MaxPool 2 after blocks 1, 2 and 3. Then global average pooling
//! and a linear layer. All convolutions have a bias.

use crate::error::{Error, Result};
use crate::ir::op::activation::Clip;
use crate::ir::op::conv::{Conv, Window};
use crate::ir::op::gemm::Gemm;
use crate::ir::op::norm::BatchNorm;
use crate::ir::op::pool::{GlobalPool, Pool, Pooling};
use crate::ir::op::reshape::Flatten;
use crate::ir::random::noise;
use crate::ir::value::Form;
use crate::ir::{DType, Dim, Graph, Model, Node, Op, Shape, Source, Tensor, Type, Value, ValueId};

const OPSET: i64 = 17;
const IR: i64 = 8;

/// Parameters of the largest one that is made.
const MAX_PARAMETERS: u128 = 1 << 28;

/// What the network is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StudentNet {
    /// Channels of block 0; the others have 2, 4, 8 and then 16 times as many.
    pub base: u32,
    /// Factor of the channels of blocks 3 to 6, rounded down.
    pub width_mult: f64,
    /// How many classes it tells apart.
    pub classes: u32,
    /// Channels, height and width of an image.
    pub input: [u32; 3],
    /// Of the initial weights.
    pub seed: u64,
}

impl StudentNet {
    /// Output channels of every block.
    fn channels(&self) -> [u64; 8] {
        let mut channels = [1, 2, 4, 8, 16, 16, 16, 16].map(|times| u64::from(self.base) * times);
        channels[3..7].iter_mut().for_each(|c| *c = (*c as f64 * self.width_mult) as u64);
        channels
    }

    fn check(&self) -> Result<()> {
        let refuse = |why: String, help: &str| Err(Error::input("cannot make a StudentNet").because(why).help(help));
        let [colours, height, width] = self.input;
        if height < 16 || width < 16 {
            return refuse(
                format!("nothing is left of {height}×{width} after four poolings"),
                "give sides of at least 16",
            );
        }
        let channels = self.channels();
        if channels.contains(&0) || colours == 0 || self.classes == 0 {
            return refuse("a layer would have no channels".into(), "give larger numbers");
        }
        let pairs = channels.windows(2).map(|c| u128::from(c[0]) * u128::from(c[1]));
        let ends =
            u128::from(colours) * u128::from(channels[0]) * 9 + u128::from(channels[7]) * u128::from(self.classes);
        if !self.width_mult.is_finite() || pairs.sum::<u128>() + ends > MAX_PARAMETERS {
            return refuse(format!("it would have more than {MAX_PARAMETERS} parameters"), "give smaller numbers");
        }
        Ok(())
    }

    /// The network, with initial weights and biases uniform in ±1/√(inputs of a neuron), as PyTorch's layers have them
    /// by default (He et al. 2015, with a = √5).
    ///
    /// # Errors
    /// If a layer would have no channels or no elements, or there would be too many parameters.
    pub fn build(&self) -> Result<Model> {
        self.check()?;
        let mut net =
            NetBuilder { graph: Graph::new("student-net", OPSET), noise: Box::new(noise(self.seed)), nodes: 0 };
        let [colours, height, width] = self.input.map(u64::from);
        let mut input = Value::new("input", Source::Input { default: None });
        let dims = vec![Dim::sym("N"), Dim::Known(colours), Dim::Known(height), Dim::Known(width)];
        input.ty = Some(Type::tensor(DType::F32, Shape(dims)));
        let input = net.graph.add_value(input)?;
        net.graph.add_input(input);
        let limits = [net.constant("relu6.min", &[], |_| 0.0)?, net.constant("relu6.max", &[], |_| 6.0)?];

        let channels = self.channels();
        let mut x = net.conv("block0.conv", input, [colours, channels[0]], 3, 1)?;
        x = net.normalised("block0", x, channels[0], limits)?;
        x = net.pool("block0.pool", x)?;
        for (i, pair) in channels.windows(2).enumerate() {
            let block = format!("block{}", i + 1);
            x = net.conv(&format!("{block}.depthwise"), x, [pair[0]; 2], 3, pair[0])?;
            x = net.normalised(&block, x, pair[0], limits)?;
            x = net.conv(&format!("{block}.pointwise"), x, [pair[0], pair[1]], 1, 1)?;
            if i < 3 {
                x = net.pool(&format!("{block}.pool"), x)?;
            }
        }
        x = net.node("average", GlobalPool(Pooling::Average { count_include_pad: false }), &[x])?;
        x = net.node("flatten", Flatten { axis: 1 }, &[x])?;
        let wide = channels[7];
        let [weight, bias] = net.layer("classifier", &[self.classes.into(), wide], wide)?;
        let logits = net.node("logits", Gemm { trans_b: true, ..Gemm::default() }, &[x, weight, bias])?;
        net.graph.add_output(logits);
        net.graph.infer_all()?;
        net.graph.verify()?;
        Ok(Model { graph: net.graph, ir_version: IR, opsets: vec![(String::new(), OPSET)], carried: Vec::new() })
    }
}

/// A network in the making.
struct NetBuilder {
    graph: Graph,
    noise: Box<dyn Iterator<Item = f64>>,
    nodes: u32,
}

impl NetBuilder {
    fn constant(&mut self, name: &str, shape: &[u64], mut value: impl FnMut(&mut Self) -> f64) -> Result<ValueId> {
        let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| value(self)).collect();
        let tensor = Tensor::from_floats(DType::F32, shape, values);
        self.graph.add_value(Value::new(name, Source::Constant(tensor, Form::INITIALIZER)))
    }

    /// Weight and bias of a layer each of whose neurons has so many inputs.
    fn layer(&mut self, name: &str, shape: &[u64], inputs: u64) -> Result<[ValueId; 2]> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let mut random = |net: &mut Self| net.noise.next().unwrap_or(0.0) * bound;
        let weight = self.constant(&format!("{name}.weight"), shape, &mut random)?;
        Ok([weight, self.constant(&format!("{name}.bias"), &shape[..1], random)?])
    }

    /// A node, whose result has its name.
    fn node(&mut self, name: &str, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        let output = self.graph.add_value(Value::new(name, Source::Node))?;
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.graph.add_node(Node::new(name, op.into(), OPSET), self.nodes, &inputs, &[Some(output)]);
        self.nodes += 1;
        Ok(output)
    }

    /// A convolution that keeps height and width.
    fn conv(&mut self, name: &str, x: ValueId, [from, to]: [u64; 2], size: u64, group: u64) -> Result<ValueId> {
        let window = Window { kernel: vec![size as i64; 2], pads: vec![size as i64 / 2; 4], ..Window::default() };
        let [weight, bias] = self.layer(name, &[to, from / group, size, size], from / group * size * size)?;
        self.node(name, Conv { window, group: group as i64 }, &[x, weight, bias])
    }

    /// BatchNormalization, then ReLU6.
    fn normalised(&mut self, block: &str, x: ValueId, channels: u64, limits: [ValueId; 2]) -> Result<ValueId> {
        let name = format!("{block}.norm");
        let mut inputs = vec![x];
        for (part, value) in [("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)] {
            inputs.push(self.constant(&format!("{name}.{part}"), &[channels], |_| value)?);
        }
        let norm = BatchNorm { epsilon: 1e-5, momentum: 0.9, training: false, spatial: true };
        let normal = self.node(&name, norm, &inputs)?;
        self.node(&format!("{block}.relu6"), Clip::default(), &[normal, limits[0], limits[1]])
    }

    fn pool(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let window = Window { kernel: vec![2; 2], strides: vec![2; 2], ..Window::default() };
        self.node(name, Pool { window, function: Pooling::Max { column_major: false } }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: StudentNet = StudentNet { base: 16, width_mult: 1.0, classes: 11, input: [3, 32, 32], seed: 0 };

    fn constants(net: StudentNet) -> Vec<(String, Tensor)> {
        let graph = net.build().unwrap().graph;
        let named =
            graph.values().filter_map(|v| Some((graph.value(v).name.clone(), graph.value(v).constant()?.clone())));
        named.collect()
    }

    /// Without running statistics and the limits of ReLU6.
    fn trainable(net: StudentNet) -> usize {
        let fixed = |name: &str| [".mean", ".var", ".min", ".max"].iter().any(|end| name.ends_with(end));
        constants(net).iter().filter(|(name, _)| !fixed(name)).map(|(_, t)| t.len()).sum()
    }

    #[test]
    fn as_many_parameters_as_the_reference() {
        assert_eq!(trainable(NET), 256_779);
        assert_eq!(NET.channels(), [16, 32, 64, 128, 256, 256, 256, 256]);
        let half = StudentNet { width_mult: 0.3, ..NET };
        assert_eq!(half.channels(), [16, 32, 64, 38, 76, 76, 76, 256]);
        let large = StudentNet { input: [3, 128, 128], ..NET };
        assert_eq!(trainable(large), 256_779);
    }

    #[test]
    fn shapes_and_names() {
        let graph = StudentNet { input: [1, 28, 17], ..NET }.build().unwrap().graph;
        let ty = |name: &str| graph.value(graph.find_value(name).unwrap()).ty.as_ref().unwrap().to_string();
        assert_eq!(ty("block3.pool"), "f32[N,128,1,1]");
        assert_eq!(ty("block7.pointwise"), "f32[N,256,1,1]");
        assert_eq!((ty("input"), ty("logits")), ("f32[N,1,28,17]".into(), "f32[N,11]".into()));
    }

    #[test]
    fn weights_by_seed() {
        assert_eq!(constants(NET), constants(NET));
        let (a, b) = (constants(NET), constants(StudentNet { seed: 1, ..NET }));
        assert!(a.iter().zip(&b).any(|(a, b)| a != b));
        for (name, bound) in
            [("block0.conv.weight", 27.0f64), ("block5.depthwise.weight", 9.0), ("classifier.bias", 256.0)]
        {
            let values = a.iter().find(|c| c.0 == name).unwrap().1.floats().unwrap();
            let most = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let bound = 1.0 / bound.sqrt();
            assert!(most <= bound * 1.000001 && most > 0.6 * bound, "{name}: {most} of {bound}");
        }
    }

    #[test]
    fn what_cannot_be_made() {
        let refused = |net: StudentNet| net.build().unwrap_err().to_string();
        assert!(refused(StudentNet { input: [3, 32, 15], ..NET }).contains("four poolings"));
        assert!(refused(StudentNet { width_mult: 0.001, ..NET }).contains("no channels"));
        assert!(refused(StudentNet { width_mult: f64::NAN, ..NET }).contains("no channels"));
        assert!(refused(StudentNet { base: u32::MAX, ..NET }).contains("more than"));
        assert!(refused(StudentNet { classes: u32::MAX, ..NET }).contains("more than"));
        assert!(refused(StudentNet { width_mult: f64::INFINITY, ..NET }).contains("more than"));
    }
}
