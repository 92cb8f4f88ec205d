//! How a teacher's answers change with what its layers give: second moments of gradients, by layer.
//!
//! To second order, an error δ of a layer's output moves the answers p of a classifier away by KL = ½ δᵀ G δ, with the Fisher
//! information G = E Jᵀ (diag p − p pᵀ) J of the outputs, J the logits' derivatives by them. It is the outputs' half of what
//! K-FAC approximates (Martens and Grosse 2015), at a convolution the sum over positions (Grosse and Martens 2016). Here E g gᵀ
//! stands for it, where g is the gradient of one random sum of logits a sample, Σ_k ±√p_k (e_k − p): it has the same
//! expectation.

use crate::analysis::classifier::logits;
use crate::analysis::cost::cost;
use crate::analysis::linear::Linear;
use crate::autodiff::{Mode, Tape};
use crate::calibrate::{Calibration, GradientMoments, TeacherMap};
use crate::data::Array;
use crate::error::Result;
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::{Graph, Patch, Ref, Tensor, ValueId, random};
use crate::math::logistic::softmax;
use crate::passes::options;
use ndarray::{Array2, ArrayView2};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Samples that are looked at, about.
const SAMPLES: usize = 1024;
/// Numbers that all layers may give for a batch.
const A_BATCH: usize = 1 << 22;
/// The same for a single sample, where a batch gives too many; it may be as many as the model has parameters.
const A_SAMPLE: usize = 1 << 23;
/// Weights of the largest layer of models that are looked at: its moments in the metric take memory and time.
const LARGEST: usize = 1 << 22;
/// Of the random signs.
const SEED: u64 = 1;

/// E g gᵀ of what each layer of a teacher gives: nothing, if it is no classifier, cannot be differentiated, or is too large.
///
/// # Errors
/// If the data cannot be read.
pub fn moments(graph: &Graph, data: &Calibration<'_>) -> Result<GradientMoments> {
    let chunks = data.chunks();
    let first = data.chunk(0)?;
    let rows = first.first().and_then(|a| a.shape().first()).copied().unwrap_or(0);
    let shapes = |rows: usize| -> Vec<(String, Vec<usize>)> {
        let shape = |(v, a): (ValueId, &Array)| (graph.value(v).name.clone(), [&[rows], &a.shape()[1..]].concat());
        graph.required_inputs().zip(&first).map(shape).collect()
    };
    if rows == 0 || first.iter().any(|a| a.shape().first() != Some(&rows)) {
        return Ok(GradientMoments::new());
    }
    let whole = |rows: &usize| LayerProbes::new(graph, &shapes(*rows));
    let rows = std::iter::successors(Some(rows), |rows| (rows % 2 == 0).then_some(rows / 2));
    let Some((rows, mut probe)) = rows.map(|rows| (rows, whole(&rows))).find_map(|(rows, p)| Some((rows, p?))) else {
        return Ok(GradientMoments::new());
    };
    let step = chunks.div_ceil(SAMPLES.div_ceil(first[0].shape()[0])).max(1);
    for at in (0..chunks).step_by(step) {
        let arrays = data.chunk(at)?;
        if arrays.iter().zip(&first).all(|(a, b)| a.shape() == b.shape()) {
            let arrays: Vec<Vec<f32>> = arrays.iter().map(Array::to_f32).collect();
            for part in 0..first[0].shape()[0] / rows {
                probe.add(&arrays, part);
            }
        }
    }
    Ok(probe.moments())
}

/// The moments for a layer of the student, and those that share its weight: of the outputs that it has left.
pub fn of_layer(moments: &GradientMoments, teacher: &Graph, linear: &Linear, map: &TeacherMap) -> Option<Array2<f64>> {
    let own = |linear: &Linear| {
        let all = moments.get(&linear.y).filter(|_| !map.lost.contains(&linear.y))?;
        let axis = linear.channel_axis(teacher.value(linear.y).rank()?);
        let kept = map.kept.get(&(linear.y, axis)).cloned().unwrap_or_else(|| (0..all.nrows()).collect());
        (kept.len() == linear.outputs && kept.iter().all(|&i| i < all.nrows()))
            .then(|| Array2::from_shape_fn((kept.len(), kept.len()), |(i, j)| all[(kept[i], kept[j])]))
    };
    let mut all = linear.all().map(own);
    let first = all.next().flatten().filter(|_| linear.groups == 1)?;
    all.try_fold(first, |sum, more| Some(sum + more?))
}

/// A teacher to whose layers' outputs constants are added: zeros, by which it is differentiated.
struct LayerProbes {
    tape: Tape<f32>,
    /// Which of the model's inputs each of the tape's is.
    ports: Vec<usize>,
    /// Samples of a batch.
    rows: usize,
    classes: usize,
    /// Of each constant, in the order of the tape, and last of the logits: the layer's output, how many channels that has, and
    /// the numbers of each.
    layers: Vec<(ValueId, usize, usize)>,
    /// Σ g gᵀ, for each of these.
    sums: Vec<Array2<f64>>,
    /// Samples that were looked at.
    samples: usize,
    noise: Box<dyn Iterator<Item = f64>>,
}

impl LayerProbes {
    fn new(graph: &Graph, shapes: &[(String, Vec<usize>)]) -> Option<LayerProbes> {
        let &[output] = graph.outputs() else { return None };
        let rows = shapes.first()?.1[0];
        let mut sized = graph.settled_at(shapes).ok()?;
        let end = logits(&sized, output);
        let dims = |graph: &Graph, v: ValueId| -> Option<Vec<usize>> {
            graph.value(v).dims()?.iter().map(|&d| usize::try_from(d).ok()).collect()
        };
        let classes = match dims(&sized, end)?[..] {
            [first, classes, ref one @ ..] if first == rows && classes > 1 && one.iter().all(|&d| d == 1) => classes,
            _ => return None,
        };
        let mut constants: BTreeMap<ValueId, (ValueId, usize, usize)> = BTreeMap::new();
        let (mut seen, mut numbers) = (HashSet::new(), 0);
        for n in options::layers(graph) {
            let Ok(linear) = Linear::of(graph, n) else { continue };
            if linear.inputs * linear.outputs > LARGEST {
                return None;
            }
            let y = linear.y;
            if y == end || !sized.has_value(y) || !seen.insert(y) {
                continue;
            }
            let Some(shape) = dims(&sized, y) else { continue };
            let axis = linear.channel_axis(shape.len());
            let inner = shape[axis + 1..].iter().product::<usize>();
            numbers += shape.iter().product::<usize>();
            let mut patch = Patch::at_value(&sized, y);
            let zeros = patch.constant("probe", Tensor::f32(shape.clone(), &vec![0.0; shape.iter().product()]));
            let sum = patch.node("probed", Binary(BinaryKind::Add), &[Some(Ref::Old(y)), Some(zeros)]);
            for reader in sized.uses(y).into_iter().map(|u| u.node()).collect::<BTreeSet<_>>() {
                let swap = |v: ValueId| if v == y { sum } else { Ref::Old(v) };
                let inputs: Vec<_> = sized.node_inputs(reader).into_iter().map(|v| v.map(swap)).collect();
                patch.set_inputs(reader, &inputs);
            }
            let applied = sized.apply(patch).ok()?;
            constants.insert(applied.value(zeros), (y, shape[axis], inner));
        }
        let most = if rows > 1 { A_BATCH } else { A_SAMPLE.max(cost(graph).parameters as usize) };
        if numbers > most {
            return None;
        }
        let tape = Tape::<f32>::new(&sized, shapes, &[end], &constants.keys().copied().collect()).ok()?;
        // By the logits themselves the gradient is what is asked for.
        let layers = tape.parameters().iter().map(|p| constants[&p.value]).chain([(end, classes, 1)]);
        let layers: Vec<_> = layers.collect();
        let sums = layers.iter().map(|&(_, outputs, _)| Array2::zeros((outputs, outputs))).collect();
        let port = |(name, _): (&str, &[usize])| shapes.iter().position(|s| s.0 == name);
        let ports = tape.inputs().map(port).collect::<Option<_>>()?;
        let noise = Box::new(random::noise(SEED));
        Some(LayerProbes { tape, ports, rows, classes, layers, sums, samples: 0, noise })
    }

    /// Looks at some of the samples of a chunk.
    fn add(&mut self, arrays: &[Vec<f32>], part: usize) {
        for (i, &port) in self.ports.iter().enumerate() {
            let input = self.tape.input_mut(i);
            let len = input.len();
            input.copy_from_slice(&arrays[port][part * len..(part + 1) * len]);
        }
        self.tape.forward(Mode::Infer);
        let logits = self.tape.output(0);
        let logits = Array2::from_shape_fn((self.rows, self.classes), |(i, k)| f64::from(logits[i * self.classes + k]));
        let mut by = Vec::with_capacity(logits.len());
        for p in softmax(logits.view(), 1.0).rows() {
            let roots: Vec<f64> = p.iter().zip(&mut self.noise).map(|(p, sign)| sign.signum() * p.sqrt()).collect();
            let sum: f64 = roots.iter().sum();
            by.extend(roots.iter().zip(p).map(|(root, p)| (root - p * sum) as f32));
        }
        let by = [by];
        self.tape.backward(&by);
        let probes = self.layers.len() - 1;
        for (k, (&(_, outputs, inner), sum)) in self.layers.iter().zip(&mut self.sums).enumerate() {
            let gradients = if k < probes { self.tape.gradient(k) } else { &by[0] };
            for gradient in gradients.chunks(outputs * inner) {
                if let Ok(g) = ArrayView2::from_shape((outputs, inner), gradient) {
                    *sum += &g.dot(&g.t()).mapv(f64::from);
                }
            }
        }
        self.samples += self.rows;
    }

    fn moments(self) -> GradientMoments {
        let samples = self.samples.max(1) as f64;
        let values = self.layers.iter().map(|l| l.0);
        let sound = |m: &Array2<f64>| m.iter().all(|v| v.is_finite()) && m.diag().sum() > 0.0;
        values.zip(self.sums.into_iter().map(|s| s / samples)).filter(|(_, m)| sound(m)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Normalise};
    use crate::exec::Network;
    use crate::ir::text::parse;

    const LAYER: usize = 8;
    const CLASSES: usize = 4;

    /// Probabilities, a class after the other, of a network whose first layer gives `shift` more.
    fn answers(x: &Array, shift: &[f64]) -> Vec<f64> {
        let shift: Vec<String> = shift.iter().map(f64::to_string).collect();
        let text = format!(
            "model \"shifted\" opset 17 {{
                input %x : f32[N,6]
                const %w : f32[6,{LAYER}] = seed(1) const %v : f32[{LAYER},{CLASSES}] = seed(2)
                const %s : f32[{LAYER}] = {{{}}}
                %a : f32[N,{LAYER}] = MatMul(%x, %w)
                %m : f32[N,{LAYER}] = Add(%a, %s)
                %h : f32[N,{LAYER}] = Relu(%m)
                %y : f32[N,{CLASSES}] = MatMul(%h, %v)
                output %y
            }}",
            shift.join(",")
        );
        let network = Network::of_model("shifted", &parse::model(&text).unwrap()).unwrap();
        let logits = network.run(std::slice::from_ref(x)).unwrap()[0].to_f32();
        let probabilities = logits.chunks(CLASSES).flat_map(|logits| {
            let powers: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp()).collect();
            let all: f64 = powers.iter().sum();
            powers.into_iter().map(move |p| p / all)
        });
        probabilities.collect()
    }

    /// Inputs of other sizes, read in another order than they are given in, and one that nothing reads.
    #[test]
    fn every_input_goes_where_it_is_read() {
        let text = "model \"several\" opset 17 {
            input %a : f32[N,2] input %unread : f32[N,5] input %b : f32[N,7]
            const %w : f32[7,6] = seed(1) const %v : f32[2,6] = seed(2) const %u : f32[6,3] = seed(3)
            %c : f32[N,6] = MatMul(%b, %w) %r : f32[N,6] = Relu(%c)
            %d : f32[N,6] = MatMul(%a, %v) %s : f32[N,6] = Add(%r, %d) %t : f32[N,6] = Relu(%s)
            %y : f32[N,3] = MatMul(%t, %u)
            output %y
        }";
        let teacher = parse::model(text).unwrap();
        let moments_with = |seeds: [u64; 3]| {
            let input = |(name, columns, seed): (&str, usize, u64)| {
                let numbers: Vec<f32> = random::noise(seed).map(|v| v as f32).take(40 * columns).collect();
                (name.to_string(), Array::from_f32(vec![40, columns], &numbers).unwrap())
            };
            let [a, unread, b] = seeds;
            let inputs = [("a", 2, a), ("unread", 5, unread), ("b", 7, b)].map(input);
            let data = Dataset::from_arrays("noise", inputs);
            let calibration = Calibration::new(&data, &Normalise::default(), &teacher, 40).unwrap();
            moments(&teacher.graph, &calibration).unwrap()
        };
        let all = moments_with([1, 2, 3]);
        assert_eq!(all.len(), 3);
        assert_eq!(all, moments_with([1, 9, 3]));
        assert_ne!(all, moments_with([9, 2, 3]));
        assert_ne!(all, moments_with([1, 2, 9]));
    }

    #[test]
    fn answers_move_by_half_of_what_the_moment_says() {
        let samples = 1000;
        let numbers: Vec<f32> = random::noise(3).map(|v| v as f32).take(samples * 6).collect();
        let x = Array::from_f32(vec![samples, 6], &numbers).unwrap();
        let before = answers(&x, &[0.0; LAYER]);
        let text = format!(
            "model \"plain\" opset 17 {{
                input %x : f32[N,6]
                const %w : f32[6,{LAYER}] = seed(1) const %v : f32[{LAYER},{CLASSES}] = seed(2)
                %a : f32[N,{LAYER}] = MatMul(%x, %w)
                %h : f32[N,{LAYER}] = Relu(%a)
                %y : f32[N,{CLASSES}] = MatMul(%h, %v)
                output %y
            }}"
        );
        let teacher = parse::model(&text).unwrap();
        let data = Dataset::from_arrays("noise", vec![("x".to_string(), x.clone())]);
        let calibration = Calibration::new(&data, &Normalise::default(), &teacher, samples).unwrap();
        let all = moments(&teacher.graph, &calibration).unwrap();
        let first = teacher.graph.values().find(|&v| teacher.graph.value(v).name == "a").unwrap();
        let g = &all[&first];
        assert_eq!((all.len(), g.dim()), (2, (LAYER, LAYER)));
        for seed in 4..8 {
            let shift: Vec<f64> = random::noise(seed).map(|v| 0.05 * v).take(LAYER).collect();
            let after = answers(&x, &shift);
            let moved = before.iter().zip(&after).map(|(p, q)| p * (p / q).ln()).sum::<f64>() / samples as f64;
            let shift = ndarray::Array1::from(shift);
            let said = 0.5 * shift.dot(&g.dot(&shift));
            assert!((moved / said - 1.0).abs() < 0.2, "{seed}: {moved} against {said}");
        }
    }
}
