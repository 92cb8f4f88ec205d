//! Samples that follow each other: what an output gives for one of them is an input for the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ActivationFile, Dataset, InputSpec};
use crate::error::{Error, Result};

/// Inputs that get what an output gave for the sample before, and zeros where a stream begins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleStream {
    /// Outputs by input.
    feedback: BTreeMap<String, String>,
    length: Option<usize>,
}

impl SampleStream {
    /// Outputs by the input that they are fed back to. A stream is so many samples long, or all of the data.
    ///
    /// # Errors
    /// If streams are 0 samples long, or have a length but nothing is fed back.
    pub fn new(feedback: BTreeMap<String, String>, length: Option<usize>) -> Result<SampleStream> {
        if length == Some(0) {
            return Err(Error::input("a stream of 0 samples is none").help("give --stream-length 1 or more"));
        }
        if length.is_some() && feedback.is_empty() {
            return Err(Error::input("the length of streams is given, but nothing is fed back")
                .help("give --feedback INPUT=OUTPUT too"));
        }
        Ok(SampleStream { feedback, length })
    }

    /// Reads `INPUT=OUTPUT`.
    ///
    /// # Errors
    /// If that is not what it is.
    pub fn parse(text: &str) -> Result<(String, String)> {
        let names = text.split_once('=').filter(|(input, output)| !input.is_empty() && !output.is_empty());
        let (input, output) = names.ok_or_else(|| {
            Error::input(format!("\"{text}\" does not say what is fed back"))
                .help("write INPUT=OUTPUT, as state=stateN")
        })?;
        Ok((input.into(), output.into()))
    }

    /// Whether samples have nothing to do with each other.
    pub fn is_none(&self) -> bool {
        self.feedback.is_empty()
    }

    /// Whether a stream begins with this sample.
    pub fn begins(&self, sample: usize) -> bool {
        sample.is_multiple_of(self.length.unwrap_or(usize::MAX))
    }
}

impl Dataset {
    /// The same samples, as streams.
    pub fn in_streams(self, stream: SampleStream) -> Dataset {
        Dataset { stream, ..self }
    }

    /// How its samples follow each other.
    pub fn stream(&self) -> &SampleStream {
        &self.stream
    }

    /// For each input of a model with these inputs and outputs, the place of the output that is fed back to it.
    ///
    /// # Errors
    /// If an input or an output does not exist, or the data has what is fed back.
    pub fn fed_back(&self, specs: &[InputSpec], outputs: &[String]) -> Result<Vec<Option<usize>>> {
        let named = |names: Vec<&String>| {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        };
        for (input, output) in &self.stream.feedback {
            let refuse = |why: String| {
                Error::input(format!("output `{output}` cannot be fed back to input `{input}`"))
                    .at(&self.name)
                    .because(why)
            };
            if specs.iter().all(|spec| spec.name != *input) {
                let inputs = named(specs.iter().map(|spec| &spec.name).collect());
                return Err(refuse(format!("the model has no such input, it has {inputs}")));
            }
            if !outputs.contains(output) {
                let outputs = named(outputs.iter().collect());
                return Err(refuse(format!("the model has no such output, it has {outputs}")));
            }
            if !self.is_state(input) && self.arrays.iter().any(|(name, _)| name == input) {
                return Err(refuse(format!("the data holds `{input}`, too"))
                    .help("take it out of the data, or leave --feedback away"));
            }
        }
        let place = |spec: &InputSpec| {
            let output = self.stream.feedback.get(&spec.name)?;
            outputs.iter().position(|name| name == output)
        };
        Ok(specs.iter().map(place).collect())
    }

    /// The same data with what inputs that are fed back get, sample by sample.
    pub fn with_states(&self, states: Vec<(String, ActivationFile)>) -> Dataset {
        let mut data = self.clone();
        data.arrays.retain(|(name, _)| !self.is_state(name));
        data.states = states.iter().map(|state| state.0.clone()).collect();
        data.arrays.extend(states.into_iter().map(|(name, file)| (name, Ok(Arc::new(file.into())))));
        data
    }

    /// Whether an array is what [`Dataset::with_states`] added.
    pub fn is_state(&self, name: &str) -> bool {
        self.states.iter().any(|state| state == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_begins_where_the_one_before_ends() {
        let stream = |length| SampleStream::new([("h".to_string(), "hn".to_string())].into(), length);
        let begins = |length| (0..7).filter(|&i| stream(length).unwrap().begins(i)).collect::<Vec<_>>();
        assert_eq!((begins(Some(3)), begins(None)), (vec![0, 3, 6], vec![0]));
        assert!(stream(Some(0)).is_err() && SampleStream::new(BTreeMap::new(), Some(3)).is_err());
        assert_eq!(SampleStream::parse("h=h=n").unwrap(), ("h".into(), "h=n".into()));
        assert!(["h", "=h", "h="].iter().all(|text| SampleStream::parse(text).is_err()));
    }
}
