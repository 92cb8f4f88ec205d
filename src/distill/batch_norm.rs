//! Normalization for networks that had theirs folded: they train far better with it. (Ioffe, Szegedy 2015.)

use super::train::{Batch, Samples, TrainingNetwork};
use crate::autodiff::Mode;
use crate::error::Result;
use crate::ir::op::norm::BatchNorm;
use crate::ir::{Graph, NodeId, Op, Patch, Tensor, Use, ValueId};
use std::collections::BTreeSet;

/// Samples that statistics are taken from.
const SAMPLES: usize = 1024;
const EPSILON: f32 = 1e-5;

/// Puts a BatchNormalization behind every convolution that has none, as far as it can be folded again: its weight is a
/// constant of its own, and somebody else than convolutions reads what it gives, for those would mix it further without
/// anything in between. The statistics are those of samples, and scale and bias undo them, so that the network computes
/// what it did. Gives how many there are.
///
/// # Errors
/// If the samples cannot be run through the network.
pub fn insert_batch_norm(graph: &mut Graph, samples: &dyn Samples, batch: usize) -> Result<usize> {
    let order = graph.topological()?;
    let sites: Vec<(NodeId, ValueId)> = order.into_iter().filter_map(|n| Some((n, bare(graph, n)?))).collect();
    if sites.is_empty() {
        return Ok(0);
    }
    let names: Vec<String> = sites.iter().map(|s| graph.value(s.1).name.clone()).collect();
    let mut network = TrainingNetwork::new(graph, samples, batch, &names, &BTreeSet::new())?;
    let first = usize::from(network.logits.is_some());
    let channels = network.tape.outputs().skip(first).map(|(_, shape)| shape.get(1).copied().unwrap_or(1));
    let mut moments: Vec<Vec<BatchMoments>> = channels.map(|c| vec![BatchMoments::default(); c]).collect();
    let (count, mut x) = (samples.count(), Batch::new(samples, batch));
    let all: Vec<usize> = (0..count).step_by((count / SAMPLES.max(batch)).max(1)).collect();
    for picked in all.chunks_exact(batch) {
        x.fill(samples, picked, &[], &mut std::iter::empty())?;
        network.forward(&x, Mode::Infer);
        for (y, moments) in network.outputs()[first..].iter().zip(&mut moments) {
            let (channels, plane) = (moments.len(), y.len() / (batch * moments.len()));
            y.chunks_exact(plane).enumerate().for_each(|(at, plane)| moments[at % channels].add(plane));
        }
    }
    for ((n, y), moments) in sites.iter().zip(&moments) {
        insert(graph, *n, *y, moments)?;
    }
    Ok(sites.len())
}

/// Gives every BatchNormalization running statistics of its own: exporters merge equal ones, as they are in networks yet
/// to be trained, and have others be copies of them. One that can be folded into the layer before it gets a scale and a
/// bias of its own, too. No constant is behind an Identity afterwards.
///
/// # Errors
/// Internal ones.
pub fn unshare_statistics(graph: &mut Graph) -> Result<()> {
    for n in graph.topological()? {
        let (Op::Unary(op), Some(from), Some(to)) = (&graph.node(n).op, graph.input(n, 0), graph.output(n)) else {
            continue;
        };
        let copied = op.0 == "Identity" && graph.value(from).constant().is_some() && !graph.is_held(to);
        if copied && graph.refuses_replace(to, from).is_none() {
            let mut patch = Patch::at_node(graph, n);
            patch.replace(to, from);
            graph.apply(patch)?;
        }
    }
    for n in graph.nodes().collect::<Vec<_>>() {
        let Op::BatchNorm(op) = &graph.node(n).op else { continue };
        let layer = graph.input(n, 0).and_then(|x| graph.producer(x)).and_then(|(layer, _)| graph.input(layer, 1));
        let folds = layer.is_some_and(|w| graph.value(w).constant().is_some() && graph.sole_use(w).is_some());
        let own = if folds { 1..=4 } else { 3..=4 };
        if op.training {
            continue;
        }
        let mut patch = Patch::at_node(graph, n);
        let mut changed = false;
        let inputs = graph.node_inputs(n).into_iter().enumerate().map(|(slot, v)| {
            let shared = v.filter(|&v| own.contains(&slot) && graph.sole_use(v).is_none());
            let tensor = shared.and_then(|v| graph.value(v).constant());
            changed |= tensor.is_some();
            match tensor {
                Some(tensor) => Some(patch.constant(SLOTS[slot], tensor.clone())),
                None => v.map(Into::into),
            }
        });
        let inputs: Vec<_> = inputs.collect();
        if changed {
            patch.set_inputs(n, &inputs);
            graph.apply(patch)?;
        }
    }
    Ok(())
}

/// What a BatchNormalization reads.
const SLOTS: [&str; 5] = ["x", "scale", "bias", "mean", "var"];

/// What a convolution gives, if normalization belongs behind it.
fn bare(graph: &Graph, n: NodeId) -> Option<ValueId> {
    let (y, weight) = (graph.output(n)?, graph.input(n, 1)?);
    let fits = matches!(graph.node(n).op, Op::Conv(_))
        && !graph.node(n).inconsistent
        && graph.value(weight).constant().is_some()
        && graph.sole_use(weight).is_some()
        && graph.input(n, 2).is_none_or(|b| graph.value(b).constant().is_some())
        && !graph.is_held(y);
    let next = graph.uses(y).into_iter().map(|u| match u {
        Use::Input(n, _) => Some(&graph.node(n).op),
        Use::Capture { .. } => None,
    });
    let next: Vec<Option<&Op>> = next.collect();
    let normalised = next.iter().any(|op| op.is_none() || matches!(op, Some(Op::BatchNorm(_))));
    let mixed = next.iter().all(|op| matches!(op, Some(Op::Conv(_))));
    (fits && !normalised && !mixed).then_some(y)
}

/// Sums over a channel.
#[derive(Debug, Clone, Copy, Default)]
struct BatchMoments {
    count: f64,
    sum: f64,
    square: f64,
}

impl BatchMoments {
    fn add(&mut self, x: &[f32]) {
        self.count += x.len() as f64;
        for &x in x {
            self.sum += f64::from(x);
            self.square += f64::from(x) * f64::from(x);
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.count.max(1.0)
    }

    fn variance(&self) -> f64 {
        (self.square / self.count.max(1.0) - self.mean() * self.mean()).max(0.0)
    }
}

fn insert(graph: &mut Graph, n: NodeId, y: ValueId, moments: &[BatchMoments]) -> Result<()> {
    let dtype = graph.input_constant(n, 1).map(Tensor::dtype).unwrap_or(crate::ir::DType::F32);
    let mut patch = Patch::at_node(graph, n);
    let mut constant = |name: &str, f: &dyn Fn(&BatchMoments) -> f64| {
        let values = Tensor::from_floats(dtype, [moments.len()], moments.iter().map(f));
        Some(patch.constant(name, values))
    };
    let scale = constant("bn.scale", &|m| (m.variance() + f64::from(EPSILON)).sqrt());
    let bias = constant("bn.bias", &BatchMoments::mean);
    let (mean, variance) = (constant("bn.mean", &BatchMoments::mean), constant("bn.var", &BatchMoments::variance));
    let op = BatchNorm { epsilon: EPSILON, momentum: 0.9, training: false, spatial: true };
    let normalised = patch.node("bn", op, &[Some(y.into()), scale, bias, mean, variance]);
    let readers: BTreeSet<NodeId> = graph.readers(y).collect();
    for reader in readers {
        let inputs = graph.node_inputs(reader).into_iter().map(|v| match v {
            Some(v) if v == y => Some(normalised),
            other => other.map(Into::into),
        });
        patch.set_inputs(reader, &inputs.collect::<Vec<_>>());
    }
    graph.apply(patch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::Tape;
    use crate::distill::train::Memory;
    use crate::ir::random::noise;
    use crate::ir::text::parse::model;

    #[test]
    fn the_network_computes_what_it_did() {
        let text = "model m opset 17 {
            input %x : f32[N,2,6,6]
            const %a : f32[4,2,3,3] = seed(1) const %b : f32[4] = seed(2)
            const %d : f32[4,1,3,3] = seed(3) const %p : f32[5,4,1,1] = seed(4)
            %c : ? = Conv<pads=[1,1,1,1]>(%x, %a, %b)
            %r : ? = Relu(%c)
            %dw : ? = Conv<group=4, pads=[1,1,1,1]>(%r, %d)
            %pw : ? = Conv(%dw, %p)
            %s : ? = Sigmoid(%pw)
            %m : ? = Mul(%s, %pw)
            %g : ? = GlobalAveragePool(%m)
            %y : ? = Flatten(%g)
            output %y
        }";
        let mut graph = model(text).unwrap().graph;
        let x: Vec<f32> = noise(5).take(40 * 72).map(|v| v as f32 + 0.3).collect();
        let samples = Memory::new(&x, &[2, 6, 6], None);
        let run = |graph: &Graph, mode| {
            let shapes = [("x".to_string(), vec![8, 2, 6, 6])];
            let mut tape = Tape::<f32>::new(graph, &shapes, graph.outputs(), &crate::autodiff::weights(graph)).unwrap();
            tape.input_mut(0).copy_from_slice(&x[..8 * 72]);
            tape.forward(mode);
            tape.output(0).to_vec()
        };
        let before = run(&graph, Mode::Infer);
        // Between the depthwise and the pointwise convolution there is nothing to normalise for.
        assert_eq!(insert_batch_norm(&mut graph, &samples, 8).unwrap(), 2);
        graph.verify().unwrap();
        let far = |y: Vec<f32>| before.iter().zip(&y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far(run(&graph, Mode::Infer)) < 1e-5);
        assert!(far(run(&graph, Mode::Train)) < 0.3, "a batch has about the statistics of all samples");
        assert_eq!(insert_batch_norm(&mut graph, &samples, 8).unwrap(), 0, "once is enough");
    }
}
