//! Networks that carry a state from sample to sample, run on all samples in order.

use crate::data::{Array, Dataset, InputSpec, Normalise};
use crate::error::{Error, Result};

/// A network that is ready to run.
pub type RunFn<'a> = Box<dyn Fn(&[Array]) -> Result<Vec<Array>> + 'a>;

/// The data with what the inputs that are fed back get for each sample; without such inputs, as it is. `plan` makes a network
/// with these inputs and outputs ready to run on inputs of the shapes of those that it is given.
///
/// # Errors
/// If an input cannot be fed with what the output gives, or the network cannot be run.
pub fn with_states<'a>(
    data: &Dataset,
    normalise: &Normalise,
    specs: &[InputSpec],
    outputs: &[String],
    plan: impl Fn(&[Array]) -> Result<RunFn<'a>>,
) -> Result<Dataset> {
    if data.stream().is_none() {
        return Ok(data.clone());
    }
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

    let mut bytes: Vec<Vec<u8>> = vec![Vec::new(); fed.len()];
    let mut states = zeros.clone();
    for block in feed.blocks() {
        feed.hold(block.clone())?;
        for sample in block {
            if data.stream().begins(sample) {
                states.clone_from(&zeros);
            }
            bytes.iter_mut().zip(&states).for_each(|(all, state)| all.extend(state.bytes()));
            let given = run(&inputs(sample, &states)?)?;
            for ((_, output), state) in fed.iter().zip(&mut states) {
                let next = Some(&given[*output]).filter(|next| next.shape() == state.shape());
                *state = next.cloned().ok_or_else(|| {
                    Error::input(format!("output `{}` changes its shape from sample to sample", outputs[*output]))
                })?;
            }
        }
        feed.forget();
    }
    let of = |((spec, _), (zero, bytes)): (&(&InputSpec, usize), (&Array, Vec<u8>))| {
        let shape = [&[feed.samples()], zero.shape()].concat();
        Ok((spec.name.clone(), Array::new(zero.dtype(), shape, bytes)?))
    };
    let states = fed.iter().zip(zeros.iter().zip(bytes)).map(of).collect::<Result<_>>()?;
    Ok(data.with_states(states))
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
