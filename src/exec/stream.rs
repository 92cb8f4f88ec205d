//! Networks that carry a state from sample to sample, run on all samples in order: what they carry and give is kept on disk.

use crate::data::{ActivationFile, Array, Dataset, InputSpec, Normalise};
use crate::error::{Error, Result};

/// A network that is ready to run.
pub type RunFn<'a> = Box<dyn Fn(&[Array]) -> Result<Vec<Array>> + 'a>;

/// Networks that are ready at a time, where samples differ in shape.
const PLANS: usize = 4;

/// What came of a stream.
pub struct StreamRun {
    /// The data with what the inputs that are fed back get for each sample.
    pub data: Dataset,
    /// By output, what the network gave for each sample, if that was asked for.
    pub answers: Vec<ActivationFile>,
}

impl StreamRun {
    /// What the network gave for a sample.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn answers(&self, sample: usize) -> Result<Vec<Array>> {
        self.answers.iter().map(|file| file.read(sample)).collect()
    }
}

/// Runs a network on all samples in order, and feeds back what it gives. `plan` makes one with these inputs and outputs ready to
/// run on inputs of the shapes of those that it is given. What it gives is kept if `answers`; that, and states, on disk.
///
/// # Errors
/// If an input cannot be fed with what the output gives, or the network cannot be run.
pub fn run_stream<'a>(
    data: &Dataset,
    normalise: &Normalise,
    (specs, outputs): (&[InputSpec], &[String]),
    answers: bool,
    plan: impl Fn(&[Array]) -> Result<RunFn<'a>>,
) -> Result<StreamRun> {
    let places = data.fed_back(specs, outputs)?;
    let fed: Vec<(&InputSpec, usize)> =
        specs.iter().zip(&places).filter_map(|(spec, place)| Some((spec, (*place)?))).collect();
    let others: Vec<InputSpec> =
        specs.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(spec, _)| spec.clone()).collect();
    let feed = data.feed(&others, normalise)?;
    if feed.batch() != 1 {
        return Err(Error::input("nothing can be fed back from sample to sample")
            .at(data.name())
            .because(format!("the model takes {} samples at once", feed.batch()))
            .help("export it with a batch of 1, or a symbolic one"));
    }
    let inputs = |sample: usize, states: &[Array]| {
        let (mut others, mut states) = (feed.chunk(sample)?.into_iter(), states.iter().cloned());
        let next = |place: &Option<usize>| if place.is_some() { states.next() } else { others.next() };
        Ok::<_, Error>(places.iter().filter_map(next).collect::<Vec<Array>>())
    };

    feed.hold([0])?;
    let mut zeros = fed.iter().map(|(spec, _)| zeros(spec)).collect::<Result<Vec<_>>>()?;
    let mut run = plan(&inputs(0, &zeros)?)?;
    let mut given = run(&inputs(0, &zeros)?)?;
    if fed.iter().zip(&zeros).any(|((spec, output), zero)| is_wider(spec, zero, &given[*output])) {
        // Dims that the model leaves open are those that it gives.
        let wanted = |((spec, output), zero): (&(&InputSpec, usize), Array)| {
            let given = &given[*output];
            if is_wider(spec, &zero, given) { Array::zeros(spec.dtype, given.shape().to_vec()) } else { Ok(zero) }
        };
        zeros = fed.iter().zip(zeros).map(wanted).collect::<Result<_>>()?;
        run = plan(&inputs(0, &zeros)?)?;
        given = run(&inputs(0, &zeros)?)?;
    }
    for ((spec, output), zero) in fed.iter().zip(&zeros) {
        let given = &given[*output];
        if (given.dtype(), given.shape()) != (zero.dtype(), zero.shape()) {
            let name = &outputs[*output];
            return Err(Error::input(format!("output `{name}` cannot be fed back to {spec}"))
                .because(format!("for {zero} it gives {given}"))
                .help("only a state of the same type and shape for every sample can be fed back"));
        }
    }

    let files = |count: usize| (0..count).map(|_| ActivationFile::new()).collect::<Result<Vec<_>>>();
    let mut kept = files(fed.len())?;
    let mut answered = files(if answers { outputs.len() } else { 0 })?;
    let mut plans = vec![(feed.kind(0), run)];
    let mut states = zeros.clone();
    let all: Vec<usize> = (0..feed.samples()).collect();
    for block in feed.blocks(&all) {
        feed.hold(block.iter().copied())?;
        for &sample in block {
            if data.stream().begins(sample) {
                states.clone_from(&zeros);
            }
            kept.iter_mut().zip(&states).try_for_each(|(file, state)| file.push(state))?;
            let given = inputs(sample, &states)?;
            let kind = feed.kind(sample);
            // What was used last is at the end.
            let run = match plans.iter().position(|(known, _)| *known == kind) {
                Some(at) => plans.remove(at).1,
                None => plan(&given)?,
            };
            let given = run(&given)?;
            plans.push((kind, run));
            plans.drain(..plans.len().saturating_sub(PLANS));
            answered.iter_mut().zip(&given).try_for_each(|(file, array)| file.push(array))?;
            for ((_, output), state) in fed.iter().zip(&mut states) {
                let next = Some(&given[*output]).filter(|next| next.shape() == state.shape());
                *state = next.cloned().ok_or_else(|| {
                    Error::input(format!("output `{}` changes its shape from sample to sample", outputs[*output]))
                })?;
            }
        }
        feed.forget();
    }
    let states = fed.iter().map(|(spec, _)| spec.name.clone()).zip(kept).collect();
    Ok(StreamRun { data: data.with_states(states), answers: answered })
}

/// What an input has where a stream begins; dims that the model leaves open are 1.
fn zeros(spec: &InputSpec) -> Result<Array> {
    let dims = spec.dims.as_ref().ok_or_else(|| {
        Error::input(format!("{spec} cannot begin with zeros")).because("the model does not say how many axes it has")
    })?;
    Array::zeros(spec.dtype, dims.iter().map(|d| d.unwrap_or(1)).collect())
}

/// Whether an output gives other dims than a state has, and only where the model leaves them open.
fn is_wider(spec: &InputSpec, state: &Array, given: &Array) -> bool {
    let open = |(want, has): (&Option<usize>, &usize)| want.is_none_or(|want| want == *has);
    let dims = spec.dims.iter().flatten();
    given.shape() != state.shape() && given.shape().len() == state.shape().len() && dims.zip(given.shape()).all(open)
}
