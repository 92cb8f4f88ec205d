//! A data set bound to the inputs of one model.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use super::Dataset;
use super::array::{Array, Dtype, describe, dims, from_f64, from_int, to_f64, to_int};
use super::normalise::{Channels, Normalise};
use super::stored::Stored;
use crate::error::{Error, Result};

/// What a model says of one of its inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// The input's name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// `None` if the model does not say the rank; a dim is `None` where any size will do.
    pub dims: Option<Vec<Option<usize>>>,
}

/// input `image` f32[?,3,32,32]
impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input `{}` {}", self.name, self.dtype)?;
        match &self.dims {
            Some(d) => f.write_str(&dims(d.iter().map(|d| d.map_or("?".into(), |d| d.to_string())))),
            None => Ok(()),
        }
    }
}

/// Samples in the order of the data, ready for one model: chunk `i` is what one run of the model takes.
///
/// A chunk holds one sample, or as many as a model with a fixed batch takes at once; the last chunk is then filled up
/// by repeating the last sample.
///
/// Any chunk can be asked for. Of data that is large and packed, or pictures, it is [`Feed::hold`] that keeps memory and
/// time small: it says which chunks will be.
pub struct Feed<'a> {
    data: &'a Dataset,
    len: usize,
    batch: usize,
    inputs: Vec<Input<'a>>,
    labels: Option<Vec<usize>>,
    warnings: Vec<String>,
}

/// Bytes of samples that are held where all are gone through.
const BLOCK: usize = 1 << 26;

struct Input<'a> {
    array: &'a Stored,
    /// What the data calls it,
    source: String,
    /// and the model.
    name: String,
    dtype: Dtype,
    layout: Layout,
    /// Of one chunk.
    shape: Vec<usize>,
    channels: Option<Channels>,
}

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// The array's first axis is the model's batch axis.
    Batched,
    /// The array has one whole input a sample.
    Whole,
    /// One number for all samples.
    Shared,
}

impl Dataset {
    /// Binds the arrays to a model's inputs: each input takes the array of its name; a single input takes `x` if there is
    /// no array of its name.
    ///
    /// An array of the input's rank holds samples along its first axis, which is the input's batch axis. An array with
    /// one axis more holds whole inputs (so an input whose first axis is no batch can be fed). An input without axes may
    /// also take one number for all samples. `y`, unless an input has that name, is the labels: integers [N].
    ///
    /// Fails if an array is missing, empty, of a wrong shape, or if the numbers of samples differ.
    pub fn feed(&self, specs: &[InputSpec], normalise: &Normalise) -> Result<Feed<'_>> {
        if specs.is_empty() {
            return Err(Error::input("the model has no inputs, so it cannot be fed with data").at(&self.name));
        }
        let mut feed =
            Feed { data: self, len: 0, batch: 1, inputs: Vec::new(), labels: None, warnings: self.warnings.clone() };
        let mut used: Vec<&str> = Vec::new();
        let given = specs.iter().filter(|spec| !self.is_state(&spec.name)).count();
        // The array that first told the number of samples, and the input that first told the batch.
        let mut counted: Option<(&str, usize)> = None;
        let mut batched: Option<(&str, usize)> = None;
        for spec in specs {
            let has = |name: &str| self.arrays.iter().any(|(n, _)| n == name);
            let source = if given == 1 && !has(&spec.name) { "x" } else { spec.name.as_str() };
            let array = self.stored(source).map_err(|e| match given {
                _ if has(source) => e,
                1 => e.help(format!("name the samples `x` or `{}`, after the model's input", spec.name)),
                _ => e.help("give one array for each input of the model, under the input's name"),
            })?;
            used.push(source);
            let refuse = |why: String| self.misfit(source, spec, why);
            let is_state = self.is_state(source);
            let (layout, fixed) = match is_state {
                true => (Layout::Whole, 1),
                false => layout(array, spec).map_err(|why| refuse(why).help(wanted(spec)))?,
            };
            if layout != Layout::Shared {
                let n = array.shape()[0];
                if array.is_empty() {
                    return Err(refuse(format!("`{source}` {array} is empty")));
                }
                match counted {
                    Some((first, len)) if len != n => {
                        return Err(refuse(format!("`{source}` has {n} samples and `{first}` has {len}"))
                            .help("give every input the same number of samples"));
                    }
                    _ => counted = Some((source, n)),
                }
                match batched {
                    Some((first, batch)) if batch != fixed => {
                        return Err(refuse(format!(
                            "it takes {fixed} samples at once and input `{first}` takes {batch}"
                        )));
                    }
                    _ => batched = Some((spec.name.as_str(), fixed)),
                }
            }
            let normalised = |why: String| {
                refuse(why).help("give mean and std that the model was trained with: one value, or one a channel")
            };
            let mut shape = array.shape().to_vec();
            match layout {
                Layout::Batched => shape[0] = fixed,
                Layout::Whole => drop(shape.remove(0)),
                Layout::Shared => {}
            }
            let is_raw = spec.dtype.is_float() && !is_state;
            let channels = if is_raw { normalise.channels(&shape).map_err(normalised)? } else { None };
            feed.inputs.push(Input {
                array,
                source: source.into(),
                name: spec.name.clone(),
                dtype: spec.dtype,
                layout,
                shape,
                channels,
            });
        }
        let (Some((_, len)), Some((_, batch))) = (counted, batched) else {
            return Err(Error::input("the data has no samples")
                .at(&self.name)
                .because("its arrays are single numbers"));
        };
        (feed.len, feed.batch) = (len, batch);
        for input in &feed.inputs {
            input.array.settle().map_err(|why| self.unreadable(&input.source, why))?;
        }

        if !used.contains(&"y") && self.arrays.iter().any(|(name, _)| name == "y") {
            feed.labels = Some(self.labels(len)?);
            used.push("y");
        }
        let others = self.arrays.iter().map(|(name, _)| name.as_str()).filter(|name| !used.contains(name));
        let others: Vec<String> = others.map(|name| format!("`{name}`")).collect();
        if !others.is_empty() {
            feed.warnings.push(format!("{}: the model has no use for {}", self.name, others.join(", ")));
        }
        Ok(feed)
    }

    fn labels(&self, len: usize) -> Result<Vec<usize>> {
        let y = self.stored("y")?;
        let refuse = |why: String| {
            Error::input("`y` does not hold labels")
                .at(&self.name)
                .because(why)
                .help("store one class index a sample, counted from 0, in an integer array [N]")
        };
        if y.dtype().is_float() || y.dtype() == Dtype::Bool || y.shape().len() != 1 {
            return Err(refuse(format!("it is {y}, not integers [N]")));
        }
        if y.shape()[0] != len {
            return Err(refuse(format!("it is {y} for {len} samples")));
        }
        let labels = to_int(y.dtype(), self.array("y")?.bytes()).map_err(refuse)?;
        let label = |(i, v): (usize, i128)| usize::try_from(v).map_err(|_| refuse(format!("y[{i}] is {v}")));
        labels.into_iter().enumerate().map(label).collect()
    }

    fn misfit(&self, source: &str, spec: &InputSpec, why: String) -> Error {
        let mixed = self.mixed.iter().map(|mixed| format!("; {mixed}"));
        let why = mixed.fold(why, |why, mixed| why + &mixed);
        Error::input(format!("cannot feed {spec} with `{source}`")).at(&self.name).because(why)
    }
}

/// What an input's array should look like.
fn wanted(spec: &InputSpec) -> String {
    let dims = spec.dims.as_deref().unwrap_or_default();
    let sample = dims.iter().skip(1).map(|d| d.map_or("?".into(), |d| d.to_string()));
    format!("give samples in the model's layout, {}", self::dims(std::iter::once("N".into()).chain(sample)))
}

/// How `array` feeds the input, and how many samples it takes at once.
fn layout(array: &Stored, spec: &InputSpec) -> Result<(Layout, usize), String> {
    let shape = array.shape();
    let Some(want) = &spec.dims else {
        return if shape.is_empty() { Err("a single number is no samples".into()) } else { Ok((Layout::Batched, 1)) };
    };
    let (layout, sample, model) = match shape.len() {
        0 if want.is_empty() => return Ok((Layout::Shared, 1)),
        rank if rank > 0 && rank == want.len() => (Layout::Batched, &shape[1..], &want[1..]),
        rank if rank == want.len() + 1 => (Layout::Whole, &shape[1..], &want[..]),
        rank => return Err(format!("it is {array}, which has {rank} axes")),
    };
    if sample.iter().zip(model).any(|(&has, want)| want.is_some_and(|want| want != has)) {
        return Err(format!("it is {array}, whose samples are {}", dims(sample)));
    }
    match (layout, want.first()) {
        (Layout::Batched, Some(Some(0))) => Err("the model takes 0 samples at once".into()),
        (Layout::Batched, Some(Some(fixed))) => Ok((layout, *fixed)),
        _ => Ok((layout, 1)),
    }
}

impl Feed<'_> {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.len
    }

    /// Samples that the model takes at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// How often the model runs for all samples.
    pub fn chunks(&self) -> usize {
        self.len.div_ceil(self.batch)
    }

    /// The samples of chunk `i`, fewer than [`Feed::batch`] in the last.
    pub fn rows(&self, i: usize) -> Range<usize> {
        (i * self.batch).min(self.len)..((i + 1) * self.batch).min(self.len)
    }

    /// Classes by sample, if the data has labels.
    pub fn labels(&self) -> Option<&[usize]> {
        self.labels.as_deref()
    }

    /// Those of the data set, and the arrays that no input took.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The shapes of a chunk, in the order of the model's inputs.
    pub fn shapes(&self) -> Vec<Vec<usize>> {
        self.inputs.iter().map(|input| input.shape.clone()).collect()
    }

    /// Reads these chunks ahead, in one go through the data, and keeps them until [`Feed::forget`], as far as they are not
    /// as quick to read where they lie. In the data's own types, they are what memory takes.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn hold(&self, chunks: impl IntoIterator<Item = usize>) -> Result<()> {
        let rows: BTreeSet<usize> = chunks.into_iter().flat_map(|i| self.rows(i)).collect();
        for input in self.inputs.iter().filter(|input| input.layout != Layout::Shared) {
            match rows.len() == self.len && input.array.held_len() > 0 {
                true => input.array.whole().map(drop),
                false => input.array.hold(&rows),
            }
            .map_err(|why| self.data.unreadable(&input.source, why))?;
        }
        Ok(())
    }

    /// Gives back what was held.
    pub fn forget(&self) {
        self.inputs.iter().for_each(|input| input.array.forget());
    }

    /// All chunks, in runs that are to be held one after the other to keep memory small: one, if nothing has to be held.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let chunk = self.inputs.iter().map(|input| input.array.held_len()).sum::<usize>() * self.batch;
        let (chunks, run) = (self.chunks(), BLOCK.checked_div(chunk).unwrap_or(self.len).max(1));
        (0..chunks).step_by(run).map(move |first| first..chunks.min(first + run))
    }

    /// As [`Feed::shapes`], each with the name of its input.
    pub fn named_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.inputs.iter().map(|input| (input.name.clone(), input.shape.clone())).collect()
    }

    /// The inputs of chunk `i`, cast and normalised. Fails on a value that an integer input cannot hold.
    pub fn chunk(&self, i: usize) -> Result<Vec<Array>> {
        let rows = self.rows(i);
        self.inputs.iter().map(|input| input.chunk(rows.start, self.batch, self.len)).collect::<Result<_, _>>().map_err(
            |(input, why): (&Input, String)| {
                Error::input(format!(
                    "cannot feed input `{}` {}",
                    input.name,
                    describe(input.dtype, input.shape.clone())
                ))
                .at(format!("sample {}", rows.start))
                .at(&self.data.name)
                .because(why)
                .help("inputs of whole numbers take whole numbers of their range, without scale, mean and std")
            },
        )
    }
}

impl Input<'_> {
    fn chunk(&self, first: usize, batch: usize, len: usize) -> Result<Array, (&Self, String)> {
        let (from, mut bytes) = (self.array.dtype(), Vec::new());
        let rows = if self.layout == Layout::Shared { 0..1 } else { first..first + batch };
        for row in rows {
            self.array.append(row.min(len - 1), &mut bytes).map_err(|why| (self, why))?;
        }
        let cast = if self.dtype.is_float() {
            let mut values = to_f64(from, &bytes);
            if let Some(channels) = &self.channels {
                channels.normalise(&mut values);
            }
            from_f64(values.into_iter(), self.dtype)
        } else {
            to_int(from, &bytes).and_then(|values| from_int(&values, self.dtype)).map_err(|why| (self, why))?
        };
        Array::new(self.dtype, self.shape.clone(), cast).map_err(|e| (self, e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    fn ints(shape: &[usize], dtype: Dtype) -> Array {
        let n = shape.iter().product::<usize>() as i128;
        Array::new(dtype, shape.to_vec(), from_int(&(0..n).collect::<Vec<_>>(), dtype).unwrap()).unwrap()
    }

    fn data(arrays: &[(&str, Array)]) -> Dataset {
        Dataset::from_arrays("d.npz", arrays.iter().map(|(n, a)| (n.to_string(), a.clone())))
    }

    fn spec(name: &str, dtype: Dtype, dims: &[i64]) -> InputSpec {
        let dims = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        InputSpec { name: name.into(), dtype, dims: Some(dims) }
    }

    fn refused(data: &Dataset, specs: &[InputSpec]) -> String {
        data.feed(specs, &Normalise::default()).err().expect("refused").to_string()
    }

    #[test]
    fn samples_are_cast_and_normalised_by_channel() {
        let d =
            data(&[("x", ints(&[2, 2, 1, 2], Dtype::U8)), ("y", ints(&[2], Dtype::I32)), ("z", ints(&[1], Dtype::U8))]);
        let normalise = Normalise { scale: 0.5, mean: vec![1.0, 0.0], std: vec![0.5, 2.0] };
        let feed = d.feed(&[spec("input", Dtype::F32, &[-1, 2, -1, 2])], &normalise).unwrap();
        assert_eq!((feed.samples(), feed.chunks(), feed.shapes()), (2, 2, vec![vec![1, 2, 1, 2]]));
        assert_eq!(feed.chunk(1).unwrap()[0].to_f64(), [2.0, 3.0, 1.5, 1.75]);
        assert_eq!(feed.labels(), Some(&[0, 1][..]));
        assert_eq!(feed.warnings(), ["d.npz: the model has no use for `z`"]);
        // Integer inputs are left as they are.
        let feed = d.feed(&[spec("input", Dtype::I64, &[-1, 2, 1, 2])], &normalise).unwrap();
        assert_eq!(
            feed.chunk(1).unwrap()[0],
            Array::new(Dtype::I64, vec![1, 2, 1, 2], from_int(&[4, 5, 6, 7], Dtype::I64).unwrap()).unwrap()
        );
    }

    #[test]
    fn channels_may_come_last() {
        let d = data(&[("x", ints(&[1, 1, 2, 2], Dtype::U8))]);
        let normalise = Normalise { scale: 0.5, mean: vec![1.0, 0.0], std: vec![0.5, 2.0] };
        let feed = d.feed(&[spec("input", Dtype::F32, &[-1, -1, -1, 2])], &normalise).unwrap();
        assert_eq!(feed.chunk(0).unwrap()[0].to_f64(), [-2.0, 0.25, 0.0, 0.75]);
    }

    #[test]
    fn a_fixed_batch_is_filled_up_with_the_last_sample() {
        let d = data(&[("x", ints(&[3, 2], Dtype::F32))]);
        let feed = d.feed(&[spec("input", Dtype::F32, &[2, 2])], &Normalise::default()).unwrap();
        assert_eq!((feed.batch(), feed.chunks(), feed.rows(1)), (2, 2, 2..3));
        assert_eq!(feed.chunk(0).unwrap()[0].to_f64(), [0., 1., 2., 3.]);
        assert_eq!(feed.chunk(1).unwrap()[0].to_f64(), [4., 5., 4., 5.]);
    }

    #[test]
    fn inputs_without_a_batch_axis_take_whole_tensors_and_numbers() {
        let d = data(&[
            ("input", ints(&[3, 4], Dtype::F32)),
            ("state", ints(&[3, 2, 1, 2], Dtype::F32)),
            ("sr", ints(&[], Dtype::I32)),
        ]);
        let specs =
            [spec("input", Dtype::F32, &[-1, 4]), spec("state", Dtype::F32, &[2, -1, 2]), spec("sr", Dtype::I64, &[])];
        let feed = d.feed(&specs, &Normalise::default()).unwrap();
        assert_eq!(feed.shapes(), [vec![1, 4], vec![2, 1, 2], vec![]]);
        let chunk = feed.chunk(2).unwrap();
        assert_eq!((chunk[1].to_f64(), chunk[2].to_f64()), (vec![8., 9., 10., 11.], vec![0.]));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let x = || ints(&[3, 4], Dtype::F32);
        let f32_4 = [spec("input", Dtype::F32, &[-1, 4])];
        let two = [spec("a", Dtype::F32, &[-1, 4]), spec("b", Dtype::F32, &[-1, 4])];
        for (arrays, specs, reason) in [
            (vec![("z", x())], &f32_4[..], "it holds `z` f32[3,4]"),
            (vec![("x", ints(&[0, 4], Dtype::F32))], &f32_4, "is empty"),
            (vec![("x", ints(&[3, 5], Dtype::F32))], &f32_4, "whose samples are [5]"),
            (vec![("x", ints(&[3, 2, 2], Dtype::F32))], &f32_4, "whose samples are [2,2]"),
            (vec![("x", ints(&[3], Dtype::F32))], &f32_4, "has 1 axes"),
            (vec![("x", ints(&[], Dtype::F32))], &f32_4, "has 0 axes"),
            (vec![("x", x()), ("y", ints(&[2], Dtype::I64))], &f32_4, "it is i64[2] for 3 samples"),
            (vec![("x", x()), ("y", ints(&[3], Dtype::F32))], &f32_4, "it is f32[3], not integers"),
            (vec![("x", x()), ("y", ints(&[3, 1], Dtype::U8))], &f32_4, "it is u8[3,1], not integers"),
            (vec![("a", x()), ("b", ints(&[2, 4], Dtype::F32))], &two, "`b` has 2 samples and `a` has 3"),
            (vec![("a", x())], &two, "no array `b`"),
            (vec![("x", x())], &[spec("input", Dtype::F32, &[0, 4])], "takes 0 samples"),
            (vec![("input", ints(&[], Dtype::F32))], &[spec("input", Dtype::F32, &[])], "no samples"),
            (vec![], &[], "no inputs"),
        ] {
            let e = refused(&data(&arrays), specs);
            assert!(e.contains(reason), "{e}\n  wanted: {reason}");
        }
        let negative = Array::new(Dtype::I64, vec![1], (-1i64).to_le_bytes().to_vec()).unwrap();
        let e = refused(&data(&[("x", ints(&[1, 4], Dtype::F32)), ("y", negative)]), &f32_4);
        assert!(e.contains("y[0] is -1"), "{e}");
    }

    #[test]
    fn values_that_an_integer_input_cannot_hold_are_refused() {
        let half = Array::from_f32(vec![2, 1], &[1.0, 0.5]).unwrap();
        let d = data(&[("x", half)]);
        let feed = d.feed(&[spec("ids", Dtype::I32, &[-1, 1])], &Normalise::default()).unwrap();
        assert_eq!(feed.chunk(0).unwrap()[0].to_f64(), [1.0]);
        let e = feed.chunk(1).unwrap_err().to_string();
        assert!(e.contains("sample 1") && e.contains("0.5 is not an integer"), "{e}");
    }
}
