//! A network as training sees it: fed with batches of samples, it gives logits and what else is asked for.

use super::samples::Samples;
use crate::analysis::classifier::{logits, softmax_input};
use crate::autodiff::{Mode, Tape};
use crate::error::{Error, Result};
use crate::ir::{Graph, Type, ValueId};
use std::collections::BTreeSet;

/// Gives, for a batch of each input of the samples, the logits, if there are any, and then each feature.
pub type Teacher<'a> = Box<dyn FnMut(&[Vec<f32>]) -> Result<Vec<Vec<f32>>> + 'a>;

/// How many logits a sample has: one a class, at each of its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogitLayout {
    pub classes: usize,
    /// 1 unless the network classifies the positions of a sequence.
    pub positions: usize,
}

impl LogitLayout {
    /// Logits of a sample.
    pub fn per_sample(self) -> usize {
        self.classes * self.positions
    }
}

/// The logits of a classifier, if a network of known sizes is one. One that classifies the positions of a sequence ends in a
/// softmax along the last axis.
fn classifier(sized: &Graph, batch: usize) -> Option<(ValueId, LogitLayout)> {
    let &[output] = sized.outputs() else { return None };
    let end = logits(sized, output);
    sized.value(end).ty.as_ref()?.dtype().filter(|d| d.is_float())?;
    let size = |d: u64| usize::try_from(d).ok();
    match sized.value(end).dims()?[..] {
        [rows, classes, ref one @ ..] if size(rows) == Some(batch) && classes > 1 && one.iter().all(|&d| d == 1) => {
            Some((end, LogitLayout { classes: size(classes)?, positions: 1 }))
        }
        [rows, ref positions @ .., classes] if size(rows) == Some(batch) && classes > 1 && !positions.contains(&0) => {
            let positions = size(positions.iter().product())?;
            Some((softmax_input(sized, output)?, LogitLayout { classes: size(classes)?, positions }))
        }
        _ => None,
    }
}

/// What a network is trained towards: the logits, if it is a classifier, and these values.
///
/// # Errors
/// If there is no data for an input, or such that it does not take, or no such value.
pub fn ends(graph: &Graph, samples: &dyn Samples, batch: usize, features: &[String]) -> Result<Ends> {
    let inputs: Vec<ValueId> = graph.required_inputs().collect();
    let (mut shapes, mut ports) = (Vec::new(), Vec::new());
    for &v in &inputs {
        let name = &graph.value(v).name;
        // An input takes the data of its name; the only one of a network the only one of the samples.
        let named = samples.inputs().iter().position(|i| i.0 == *name);
        let at = named.or((samples.own() == 1 && inputs.len() == 1).then_some(0));
        let at = at.ok_or_else(|| Error::input(format!("no data for the input \"{name}\"")))?;
        let sample = &samples.inputs()[at].1;
        let ty = graph.value(v).ty.as_ref();
        if let Some(dims) = ty.and_then(Type::shape).map(|s| &s.0)
            && (dims.len() != sample.len() + 1
                || dims[1..].iter().zip(sample).any(|(d, &s)| d.known().is_some_and(|d| d != s as u64)))
        {
            return Err(Error::input(format!("the input \"{name}\" does not take the training data"))
                .because(format!("it is {}, and a sample {sample:?}", ty.map_or("?".into(), ToString::to_string))));
        }
        shapes.push((name.clone(), [&[batch], &sample[..]].concat()));
        ports.push(at);
    }
    let logits = classifier(&graph.settled_at(&shapes)?, batch);
    // A first axis of positions that happens to be as long as the batch does not grow with it.
    let logits = logits.filter(|(_, layout)| {
        let twice: Vec<_> = shapes.iter().map(|(name, s)| (name.clone(), [&[2 * s[0]], &s[1..]].concat())).collect();
        let grown = || classifier(&graph.settled_at(&twice).ok()?, 2 * batch);
        layout.positions == 1 || grown().is_some_and(|(_, grown)| grown == *layout)
    });
    let find = |name: &String| {
        graph.find_value(name).ok_or_else(|| Error::internal(format!("there is no value \"{name}\" to match")))
    };
    let mut values = features.iter().map(find).collect::<Result<Vec<_>>>()?;
    values.splice(..0, logits.map(|l| l.0));
    Ok(Ends { shapes, ports, values, logits: logits.map(|l| l.1) })
}

/// See [`ends`].
pub struct Ends {
    /// Name and shape of each input for a batch.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Which input of the samples each input takes.
    pub ports: Vec<usize>,
    /// The logits first.
    pub values: Vec<ValueId>,
    /// `None` if there are no logits.
    pub logits: Option<LogitLayout>,
}

/// A tape for batches of samples.
pub struct TrainingNetwork {
    pub tape: Tape<f32>,
    /// Which input of the samples each input of the tape takes.
    ports: Vec<usize>,
    /// Of output 0; `None` if all outputs are features.
    pub logits: Option<LogitLayout>,
}

impl TrainingNetwork {
    /// From the inputs to the logits of a classifier and to these values.
    ///
    /// # Errors
    /// If the network cannot be fed with the samples, is no classifier without being asked for values, or has an operator
    /// that the tape does not know.
    pub fn new(
        graph: &Graph,
        samples: &dyn Samples,
        batch: usize,
        features: &[String],
        trainable: &BTreeSet<ValueId>,
    ) -> Result<TrainingNetwork> {
        let Ends { shapes, ports, values, logits } = ends(graph, samples, batch, features)?;
        if values.is_empty() {
            let described = |&v: &ValueId| {
                let value = graph.value(v);
                format!("\"{}\" {}", value.name, value.ty.as_ref().map_or("?".into(), ToString::to_string))
            };
            let outputs: Vec<String> = graph.outputs().iter().map(described).collect();
            return Err(Error::input("the network is no classifier").because(format!(
                "it gives {}, not one list of classes a sample, and no values to match are named",
                outputs.join(", ")
            )));
        }
        let tape = Tape::new(graph, &shapes, &values, trainable)?;
        let port = |(name, _): (&str, &[usize])| Some(ports[shapes.iter().position(|s| s.0 == name)?]);
        let ports = tape.inputs().filter_map(port).collect();
        Ok(TrainingNetwork { tape, ports, logits })
    }

    /// Runs on a batch of each input of the samples.
    pub fn forward(&mut self, x: &[Vec<f32>], mode: Mode) {
        for (i, &port) in self.ports.iter().enumerate() {
            self.tape.input_mut(i).copy_from_slice(&x[port]);
        }
        self.tape.forward(mode);
    }

    pub fn outputs(&self) -> Vec<&[f32]> {
        (0..self.tape.outputs().len()).map(|i| self.tape.output(i)).collect()
    }
}

/// A network as a teacher of batches of samples, with what it has at these values beside the logits.
///
/// # Errors
/// As [`TrainingNetwork::new`].
pub fn teacher(graph: &Graph, samples: &dyn Samples, batch: usize, features: &[String]) -> Result<Teacher<'static>> {
    let mut network = TrainingNetwork::new(graph, samples, batch, features, &BTreeSet::new())?;
    Ok(Box::new(move |x| {
        network.forward(x, Mode::Infer);
        Ok(network.outputs().into_iter().map(<[f32]>::to_vec).collect())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::train::Memory;
    use crate::ir::text::parse::model;

    #[test]
    fn positions_come_after_the_batch() {
        let layout = |tail: &str| {
            let text = format!(
                "model m opset 17 {{
                    input %x : f32[N,2] const %w : f32[2,15] = seed(1) const %s : i64[3] = {{-1,3,5}}
                    %h : ? = MatMul(%x, %w) %r : ? = Reshape(%h, %s) {tail} output %y
                }}"
            );
            let graph = model(&text).unwrap().graph;
            ends(&graph, &Memory::new(&[0.0; 20], &[2], None), 3, &[]).unwrap().logits
        };
        let positions = Some(LogitLayout { classes: 5, positions: 3 });
        assert_eq!(layout("%y : ? = Softmax<axis=2>(%r)"), positions);
        assert_eq!(layout("%l : ? = LogSoftmax<axis=-1>(%r) %y : ? = Identity(%l)"), positions);
        assert_eq!(layout("%y : ? = Softmax<axis=1>(%r)"), None);
        assert_eq!(layout("%y : ? = Neg(%r)"), None);
        // As many positions as samples, and they come first.
        assert_eq!(layout("%t : ? = Transpose<perm=[1,0,2]>(%r) %y : ? = Softmax<axis=2>(%t)"), None);
    }
}
