//! Dynamic computation: networks that answer easy inputs early.
//!
//! An exit is a question to a classifier part of the way: how sure is it? [`asks`] puts the question into a graph,
//! [`Trial`](crate::math::thresholds::Trial) says from held-back samples how sure is sure enough. What becomes of it in a
//! file is for [`Graph::nested`]; [`staged`] writes it as several files instead.

pub mod cascade;
pub mod heads;
pub mod observe;
pub mod places;
pub mod staged;

use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::op::reduce::{Reduce, Reduction};
use crate::ir::op::softmax::{self, Softmax};
use crate::ir::{Graph, Patch, Ref, Tensor};
use crate::math::logistic::softmax as probabilities;
use ndarray::ArrayView2;

/// Appends to a patch the question how sure a classifier is: its largest probability, of the least sure sample of a batch,
/// against a threshold. `answer` are its logits, or with `softmaxed` its probabilities. Logits are divided by
/// `temperature` first. New names begin with the patch's site and `name`. Gives what says yes or no.
pub fn asks(
    graph: &Graph,
    patch: &mut Patch,
    name: &str,
    answer: Ref,
    softmaxed: bool,
    temperature: f32,
    threshold: f32,
) -> Ref {
    let named = |part: &str| format!("{name}.{part}");
    let mut scores = answer;
    if temperature != 1.0 {
        let factor = patch.constant(&named("temperature"), Tensor::f32([], &[1.0 / temperature]));
        scores = patch.node(&named("scaled"), Binary(BinaryKind::Mul), &[Some(scores), Some(factor)]);
    }
    if !softmaxed {
        let op = Softmax { function: softmax::SoftmaxKind::Softmax, axis: 1, flatten: graph.opset < 13 };
        scores = patch.node(&named("softmax"), op, &[Some(scores)]);
    }
    let (largest, axes) = reduce(graph, Reduction::Max, Some(1));
    let axes = axes.map(|axes| patch.constant(&named("axes"), axes));
    let largest = patch.node(
        &named("largest"),
        largest,
        &[&[Some(scores)], &axes.map(Some).into_iter().collect::<Vec<_>>()[..]].concat(),
    );
    let confidence = patch.node(&named("confidence"), reduce(graph, Reduction::Min, None).0, &[Some(largest)]);
    let threshold = patch.constant(&named("threshold"), Tensor::f32([], &[threshold]));
    patch.node(&named("sure"), Binary(BinaryKind::Greater), &[Some(confidence), Some(threshold)])
}

/// A reduction over one axis or all, without keeping what is reduced, and the axes where they are an input.
pub fn reduce(graph: &Graph, function: Reduction, axis: Option<i64>) -> (Reduce, Option<Tensor>) {
    let input = graph.opset >= function.axes_input_since();
    let axes = axis.map(|a| vec![a]);
    let given = axes.as_ref().filter(|_| input).map(|a| Tensor::i64([a.len()], a));
    (Reduce { function, axes: axes.filter(|_| !input), keepdims: false, noop_with_empty_axes: false }, given)
}

/// Largest probability and its class, by sample, of logits (samples × classes) at a temperature.
pub fn judge(logits: ArrayView2<'_, f64>, temperature: f64) -> (Vec<f32>, Vec<usize>) {
    let p = probabilities(logits, temperature);
    let best = p.rows().into_iter().map(|row| {
        row.iter().enumerate().fold((f64::NEG_INFINITY, 0), |best, (i, &v)| if v > best.0 { (v, i) } else { best })
    });
    best.map(|(p, class)| (p as f32, class)).unzip()
}
