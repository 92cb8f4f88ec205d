//! A data set bound to the inputs of one model.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::Dataset;
use super::array::{Array, Dtype, describe, dims, from_f64, from_int, to_f64, to_int};
use super::normalise::{ChannelLayout, Normalise};
use super::portion;
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
/// Samples may differ in shape. A chunk is of one *kind*: all its inputs have one shape each. Kinds are numbered in the order
/// they first come.
///
/// Any chunk can be asked for. Of data that is large and packed, or pictures, it is [`Feed::hold`] that keeps memory and
/// time small: it says which chunks will be.
pub struct Feed<'a> {
    data: &'a Dataset,
    len: usize,
    batch: usize,
    inputs: Vec<Input<'a>>,
    kinds: Kinds,
    labels: Option<Vec<usize>>,
    warnings: Vec<String>,
}

/// The shapes of chunks.
#[derive(Default)]
struct Kinds {
    /// By kind, by input, the place of the shape among those of the input.
    places: Vec<Vec<usize>>,
    /// By sample; empty if all are of one kind.
    of: Vec<u32>,
    /// The samples of each chunk, where it takes several and not all are of one kind.
    rows: Option<Vec<Vec<usize>>>,
}

struct Input<'a> {
    array: &'a Stored,
    /// What the data calls it,
    source: String,
    /// and the model.
    name: String,
    dtype: Dtype,
    layout: FeedLayout,
    /// Of one chunk, for every shape that its samples have.
    shapes: Vec<Vec<usize>>,
    channels: Vec<Option<ChannelLayout>>,
}

#[derive(Clone, Copy, PartialEq)]
enum FeedLayout {
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
        let mut feed = Feed {
            data: self,
            len: 0,
            batch: 1,
            inputs: Vec::new(),
            kinds: Kinds::default(),
            labels: None,
            warnings: self.warnings.clone(),
        };
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
            // A file without an axis of samples is a sample.
            let axes = spec.dims.as_ref().map(Vec::len);
            let array = array.by_file().filter(|_| axes == Some(array.shape().len() + 1)).unwrap_or(array);
            let refuse = |why: String| self.misfit(source, spec, why);
            let is_state = self.is_state(source);
            let (layout, fixed) = match is_state {
                true => (FeedLayout::Whole, 1),
                false => layout(array, spec)
                    .map_err(|why| self.mixed_misfit(array, spec).unwrap_or_else(|| refuse(why).help(wanted(spec))))?,
            };
            if layout != FeedLayout::Shared {
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
            let batch = if layout == FeedLayout::Batched { &[fixed][..] } else { &[] };
            let shapes: Vec<Vec<usize>> = array.sizes().shapes.iter().map(|shape| [batch, shape].concat()).collect();
            let is_raw = spec.dtype.is_float() && !is_state;
            let channels = match is_raw {
                true => normalise.channels(&shapes).map_err(normalised)?,
                false => shapes.iter().map(|_| None).collect(),
            };
            feed.inputs.push(Input {
                array,
                source: source.into(),
                name: spec.name.clone(),
                dtype: spec.dtype,
                layout,
                shapes,
                channels,
            });
        }
        let (Some((_, len)), Some((_, batch))) = (counted, batched) else {
            return Err(Error::input("the data has no samples")
                .at(&self.name)
                .because("its arrays are single numbers"));
        };
        (feed.len, feed.batch) = (len, batch);
        feed.kinds = Kinds::of(&feed.inputs, len, batch);
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
        let y = y.by_file().filter(|files| y.shape()[0] != len && files.shape()[0] == len).unwrap_or(y);
        if y.shape()[0] != len {
            return Err(refuse(format!("it is {y} for {len} samples")));
        }
        let all = y.whole().map_err(|why| self.unreadable("y", why))?;
        let labels = to_int(y.dtype(), all.bytes()).map_err(refuse)?;
        let label = |(i, v): (usize, i128)| usize::try_from(v).map_err(|_| refuse(format!("y[{i}] is {v}")));
        labels.into_iter().enumerate().map(label).collect()
    }

    /// That of samples of several shapes one does not fit; `None` if no shape does, and the model leaves some dim open.
    fn mixed_misfit(&self, array: &Stored, spec: &InputSpec) -> Option<Error> {
        let (sizes, dims) = (array.sizes(), spec.dims.as_ref()?);
        let skip = (dims.len() + 1).checked_sub(array.shape().len())?;
        let model = dims.get(skip..)?;
        let fits = |place: usize| is_of(&sizes.shapes[place], model);
        let usual = sizes.usual();
        let fixed =
            (0..model.len()).all(|d| model[d].is_some() || sizes.shapes.iter().all(|s| s[d] == sizes.shapes[0][d]));
        let fitting: usize = (0..sizes.shapes.len()).filter(|&place| fits(place)).map(|place| sizes.count(place)).sum();
        if !array.is_mixed() || skip > 1 || !fixed && fitting == 0 {
            return None;
        }
        let odd = |row: &usize| if fixed { sizes.of(*row) != usual } else { !fits(sizes.of(*row)) };
        let row = (0..array.rows()).find(odd)?;
        let shown = |place: usize| match (&sizes.shapes[place][..], self.pictures) {
            ([_, height, width], true) => format!("{height}x{width}"),
            (shape, _) => self::dims(shape.iter().copied()),
        };
        let name = array.file(row).map_or(format!("sample {row}"), |file| file.display().to_string());
        let unit = if self.pictures { " (height x width)" } else { "" };
        let (most, of) = (sizes.count(usual), array.rows());
        let others = if fixed {
            format!("{most} of {of} are {}", shown(usual))
        } else {
            format!("{fitting} of {of} fit {spec}")
        };
        let what = match self.pictures {
            true => format!("the pictures in {} differ in size", self.name),
            false => format!("the samples in {} differ in shape", self.name),
        };
        let help = match self.pictures {
            true => "give --resize HEIGHTxWIDTH, or resize them to the model's input size",
            false => "give samples of the model's shape",
        };
        Some(Error::input(what).because(format!("{name} is {}{unit}, {others}", shown(sizes.of(row)))).help(help))
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
fn layout(array: &Stored, spec: &InputSpec) -> Result<(FeedLayout, usize), String> {
    let shape = array.shape();
    let Some(want) = &spec.dims else {
        return if shape.is_empty() {
            Err("a single number is no samples".into())
        } else {
            Ok((FeedLayout::Batched, 1))
        };
    };
    let (layout, sample, model) = match shape.len() {
        0 if want.is_empty() => return Ok((FeedLayout::Shared, 1)),
        rank if rank > 0 && rank == want.len() => (FeedLayout::Batched, &shape[1..], &want[1..]),
        rank if rank == want.len() + 1 => (FeedLayout::Whole, &shape[1..], &want[..]),
        rank => return Err(format!("it is {array}, which has {rank} axes")),
    };
    if !array.sizes().shapes.iter().all(|sample| is_of(sample, model)) {
        let sample = array.sizes().shapes.iter().find(|sample| !is_of(sample, model)).map_or(sample, Vec::as_slice);
        return Err(format!("it is {array}, whose samples are {}", dims(sample)));
    }
    match (layout, want.first()) {
        (FeedLayout::Batched, Some(Some(0))) => Err("the model takes 0 samples at once".into()),
        (FeedLayout::Batched, Some(Some(fixed))) => Ok((layout, *fixed)),
        _ => Ok((layout, 1)),
    }
}

/// Whether a sample has the dims that the model asks for.
fn is_of(sample: &[usize], model: &[Option<usize>]) -> bool {
    sample.iter().zip(model).all(|(&has, want)| want.is_none_or(|want| want == has))
}

impl Kinds {
    fn of(inputs: &[Input<'_>], len: usize, batch: usize) -> Kinds {
        let place = |input: &Input<'_>, row: usize| match input.layout {
            FeedLayout::Shared => 0,
            _ => input.array.sizes().of(row),
        };
        if inputs.iter().all(|input| input.shapes.len() < 2) {
            return Kinds { places: vec![vec![0; inputs.len()]], ..Kinds::default() };
        }
        let (mut known, mut places, mut of) = (HashMap::new(), Vec::new(), Vec::with_capacity(len));
        for row in 0..len {
            let own: Vec<usize> = inputs.iter().map(|input| place(input, row)).collect();
            of.push(*known.entry(own).or_insert_with_key(|own| {
                places.push(own.clone());
                places.len() as u32 - 1
            }));
        }
        let mut rows: Vec<Vec<usize>> = Vec::new();
        // The chunk of each kind that is still to be filled.
        let mut open: HashMap<u32, usize> = HashMap::new();
        for (row, &kind) in of.iter().enumerate().filter(|_| batch > 1) {
            match open.get(&kind).filter(|&&chunk| rows[chunk].len() < batch) {
                Some(&chunk) => rows[chunk].push(row),
                None => {
                    open.insert(kind, rows.len());
                    rows.push(vec![row]);
                }
            }
        }
        Kinds { places, of, rows: (batch > 1).then_some(rows) }
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
        self.kinds.rows.as_ref().map_or(self.len.div_ceil(self.batch), Vec::len)
    }

    /// The samples of chunk `i`, at most [`Feed::batch`].
    pub fn rows(&self, i: usize) -> Vec<usize> {
        match &self.kinds.rows {
            Some(rows) => rows[i].clone(),
            None => ((i * self.batch).min(self.len)..((i + 1) * self.batch).min(self.len)).collect(),
        }
    }

    /// The chunk that a sample is in.
    pub fn chunk_of(&self, sample: usize) -> usize {
        let found = self.kinds.rows.as_ref().and_then(|rows| rows.iter().position(|chunk| chunk.contains(&sample)));
        found.unwrap_or(sample / self.batch)
    }

    /// How many kinds of chunks there are.
    pub fn kinds(&self) -> usize {
        self.kinds.places.len()
    }

    /// The kind of chunk `i`.
    pub fn kind(&self, i: usize) -> usize {
        let first = if self.kinds.rows.is_some() { self.rows(i)[0] } else { i * self.batch };
        self.kinds.of.get(first).map_or(0, |&kind| kind as usize)
    }

    /// The kind that most samples are of; of several, the one that comes first.
    pub fn usual(&self) -> usize {
        let mut counts = vec![0usize; self.kinds()];
        self.kinds.of.iter().for_each(|&kind| counts[kind as usize] += 1);
        (0..counts.len()).rev().max_by_key(|&kind| counts[kind]).unwrap_or(0)
    }

    /// The first chunk of a kind.
    pub fn example(&self, kind: usize) -> usize {
        (0..self.chunks()).find(|&i| self.kind(i) == kind).unwrap_or(0)
    }

    /// These chunks kind by kind, those of a kind in the order they have.
    pub fn by_shape(&self, chunks: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut chunks: Vec<usize> = chunks.into_iter().collect();
        chunks.sort_by_key(|&i| self.kind(i));
        chunks
    }

    /// Whether all samples have the same shapes; an error that says that `what` needs that if not.
    ///
    /// # Errors
    /// If samples differ.
    pub fn of_one_shape(&self, what: &str) -> Result<()> {
        let usual = self.usual();
        let Some(odd) = (0..self.chunks()).find(|&i| self.kind(i) != usual) else { return Ok(()) };
        let row = self.rows(odd)[0];
        let shown = |kind: usize| {
            let differ = self.inputs.iter().zip(self.shapes_of(kind)).filter(|(input, _)| input.shapes.len() > 1);
            differ.map(|(input, shape)| format!("`{}` {}", input.name, dims(shape))).collect::<Vec<_>>().join(", ")
        };
        let file = self.inputs.iter().find(|i| i.shapes.len() > 1).and_then(|input| input.array.file(row));
        let name = file.map_or(format!("sample {row}"), |file| file.display().to_string());
        let many = self.kinds.of.iter().filter(|&&kind| kind as usize == usual).count();
        let help = if self.data.pictures { "give --resize HEIGHTxWIDTH" } else { "give samples of one shape" };
        Err(Error::input(format!("{what} needs samples of one shape"))
            .at(&self.data.name)
            .because(format!("{name} is {}, {many} of {} are {}", shown(self.kind(odd)), self.len, shown(usual)))
            .help(help))
    }

    /// What to say where a figure is for samples of the usual kind; `None` if there is no other.
    pub fn mixed(&self) -> Option<String> {
        let usual = self.usual();
        let shapes: Vec<String> = self.shapes_of(usual).into_iter().map(dims).collect();
        let many = self.kinds.of.iter().filter(|&&kind| kind as usize == usual).count();
        (self.kinds() > 1).then(|| {
            format!(
                "{}: samples have {} different shapes: MACs and times are those of {}, the most common ({many} of {})",
                self.data.name,
                self.kinds(),
                shapes.join(" "),
                self.len
            )
        })
    }

    /// Classes by sample, if the data has labels.
    pub fn labels(&self) -> Option<&[usize]> {
        self.labels.as_deref()
    }

    /// Those of the data set, and the arrays that no input took.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The shapes of chunk `i`, in the order of the model's inputs.
    pub fn shapes(&self, i: usize) -> Vec<Vec<usize>> {
        self.shapes_of(self.kind(i))
    }

    /// The shapes of chunks of a kind, in the order of the model's inputs.
    pub fn shapes_of(&self, kind: usize) -> Vec<Vec<usize>> {
        let places = &self.kinds.places[kind];
        self.inputs.iter().zip(places).map(|(input, &place)| input.shapes[place].clone()).collect()
    }

    /// Reads these chunks ahead, in one go through the data, and keeps them until [`Feed::forget`], as far as they are not
    /// as quick to read where they lie. In the data's own types, they are what memory takes.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn hold(&self, chunks: impl IntoIterator<Item = usize>) -> Result<()> {
        let rows: BTreeSet<usize> = chunks.into_iter().flat_map(|i| self.rows(i)).collect();
        for input in self.inputs.iter().filter(|input| input.layout != FeedLayout::Shared) {
            match rows.len() == self.len && input.array.held_len(0) > 0 && !input.array.is_mixed() {
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

    /// These chunks, in runs that are to be held one after the other to keep memory small: one, if nothing has to be held.
    pub fn blocks<'c>(&self, chunks: &'c [usize]) -> Vec<&'c [usize]> {
        let held =
            |row: usize| self.inputs.iter().map(|input| input.array.held_len(row)).fold(0, usize::saturating_add);
        let (mut blocks, mut start, mut bytes) = (Vec::new(), 0, 0usize);
        for (at, &i) in chunks.iter().enumerate() {
            let next = self.rows(i).into_iter().map(held).fold(0, usize::saturating_add);
            if bytes > 0 && bytes.saturating_add(next) > portion::bytes() {
                blocks.push(&chunks[start..at]);
                (start, bytes) = (at, 0);
            }
            bytes = bytes.saturating_add(next);
        }
        blocks.extend((start < chunks.len()).then(|| &chunks[start..]));
        blocks
    }

    /// The shapes that most samples have, each with the name of its input.
    pub fn usual_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.inputs.iter().map(|input| input.name.clone()).zip(self.shapes_of(self.usual())).collect()
    }

    /// The inputs of chunk `i`, cast and normalised. Fails on a value that an integer input cannot hold.
    pub fn chunk(&self, i: usize) -> Result<Vec<Array>> {
        let rows = self.rows(i);
        let places = &self.kinds.places[self.kind(i)];
        let chunk = |(input, &place)| Input::chunk(input, &rows, self.batch, place).map_err(|why| (input, place, why));
        self.inputs.iter().zip(places).map(chunk).collect::<Result<_, _>>().map_err(
            |(input, place, why): (&Input, usize, String)| {
                Error::input(format!(
                    "cannot feed input `{}` {}",
                    input.name,
                    describe(input.dtype, input.shapes[place].clone())
                ))
                .at(format!("sample {}", rows[0]))
                .at(&self.data.name)
                .because(why)
                .help("inputs of whole numbers take whole numbers of their range, without scale, mean and std")
            },
        )
    }
}

impl Input<'_> {
    /// These samples, of which the last is repeated as often as a batch asks for; their shape is at this place.
    fn chunk(&self, rows: &[usize], batch: usize, place: usize) -> Result<Array, String> {
        let (from, mut bytes) = (self.array.dtype(), Vec::new());
        let rows = match self.layout {
            FeedLayout::Shared => vec![0],
            _ => rows.iter().chain(rows.last().into_iter().cycle()).copied().take(batch).collect(),
        };
        rows.into_iter().try_for_each(|row| self.array.append(row, &mut bytes))?;
        let cast = if self.dtype.is_float() {
            let mut values = to_f64(from, &bytes);
            if let Some(channels) = &self.channels[place] {
                channels.normalise(&mut values);
            }
            from_f64(values.into_iter(), self.dtype)
        } else {
            to_int(from, &bytes).and_then(|values| from_int(&values, self.dtype))?
        };
        Array::new(self.dtype, self.shapes[place].clone(), cast).map_err(|e| e.to_string())
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
        assert_eq!((feed.samples(), feed.chunks(), feed.shapes(0)), (2, 2, vec![vec![1, 2, 1, 2]]));
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
        assert_eq!((feed.batch(), feed.chunks(), feed.rows(1)), (2, 2, vec![2]));
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
        assert_eq!(feed.shapes(0), [vec![1, 4], vec![2, 1, 2], vec![]]);
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
