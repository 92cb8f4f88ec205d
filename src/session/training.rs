//! Training data and teachers, as the stage `distill` takes them.

use super::checkpoint::Fingerprint;
use super::repairs::Reference;
use super::visit::{StepRun, Task};
use crate::calibrate::{self, Calibration};
use crate::data::{Array, Dataset, Feed, InputSpec, Normalise, evenly};
use crate::distill::train::{self, Ends, Samples, Teacher};
use crate::error::{Error, Kind, Result};
use crate::exec::Runner;
use crate::exits::observe::SampleFeed;
use crate::ir::{Graph, Model};
use std::path::{Path, PathBuf};

/// Samples that are looked at before training, to warn of what is strange.
const LOOKED_AT: usize = 4096;

/// What students are trained with.
pub struct Training<'a> {
    data: &'a Dataset,
    normalise: Normalise,
    feed: Feed<'a>,
    inputs: Vec<(String, Vec<usize>)>,
    teachers: Vec<(PathBuf, Model)>,
    pub(super) checkpoints: Option<PathBuf>,
    /// What is strange about the data, for people.
    pub warnings: Vec<String>,
}

impl<'a> Training<'a> {
    /// Data for the inputs of `model`.
    ///
    /// # Errors
    /// If the data does not fit the model, or is not finite.
    pub fn new(data: &'a Dataset, normalise: &Normalise, model: &Model) -> Result<Training<'a>> {
        let graph = &model.graph;
        let specs = graph.required_inputs().map(|v| calibrate::spec(graph, v)).collect::<Result<Vec<_>>>()?;
        // Batches are as large as training asks for.
        let free = |spec: &InputSpec| {
            let mut spec = spec.clone();
            spec.dims.iter_mut().for_each(|dims| dims.iter_mut().take(1).for_each(|d| *d = None));
            spec
        };
        let specs: Vec<InputSpec> = specs.iter().map(free).collect();
        let feed = data.feed(&specs, normalise)?;
        feed.of_one_shape("training")?;
        feed.hold(0..feed.chunks())?;
        let looked_at: Vec<usize> = evenly(LOOKED_AT, feed.chunks()).collect();
        let warnings = calibrate::ranges(data, &feed, &looked_at, &specs, "training")?;
        let mut inputs = Vec::new();
        for (spec, shape) in specs.iter().zip(feed.shapes(0)) {
            match shape.split_first() {
                Some((1, sample)) => inputs.push((spec.name.clone(), sample.to_vec())),
                _ => {
                    return Err(Error::input(format!("{spec} has no axis for samples")).at(data.name()));
                }
            }
        }
        let (normalise, teachers) = (normalise.clone(), Vec::new());
        Ok(Training { data, normalise, feed, inputs, teachers, checkpoints: None, warnings })
    }

    /// With a model that steps may name as a teacher.
    pub fn with_teacher(mut self, path: PathBuf, model: Model) -> Self {
        self.teachers.push((path, model));
        self
    }

    /// Keeps in this folder what it takes to go on after an interruption, and goes on if that is there.
    pub fn with_checkpoints(self, folder: PathBuf) -> Self {
        Training { checkpoints: Some(folder), ..self }
    }

    /// At most so many of the samples, evenly chosen, as calibration data for `model`; of those that none of these trainings
    /// holds back to judge by.
    ///
    /// # Errors
    /// As [`Calibration::new`].
    pub(super) fn calibration(
        &self,
        model: &Model,
        samples: usize,
        trainings: &[&train::Options],
    ) -> Result<Calibration<'a>> {
        let divide = |options: &&train::Options| train::divide(self.feed.samples(), options.hold_back, options.seed);
        let held_back = trainings.iter().filter_map(divide).flat_map(|[_, held_back]| held_back).collect();
        Calibration::without(self.data, &self.normalise, model, samples, &held_back)
    }

    /// At most so many of the samples, evenly chosen, for exits.
    pub(super) fn source(&self, samples: usize) -> Result<SampleFeed<'_>> {
        SampleFeed::new(&self.feed, evenly(samples, self.feed.chunks()).collect())
    }

    /// The samples that a training with these options judges by and learns nothing from.
    pub(super) fn held_back(&self, options: &train::Options) -> Result<SampleFeed<'_>> {
        let apart = train::divide(self.feed.samples(), options.hold_back, options.seed);
        SampleFeed::new(&self.feed, apart.map_or_else(Vec::new, |[_, held_back]| held_back))
    }

    /// The samples that a training judges by where nothing else is said.
    pub fn judges(&self) -> Vec<usize> {
        let train::Options { hold_back, seed, .. } = train::Options::default();
        train::divide(self.feed.samples(), hold_back, seed).map_or_else(Vec::new, |[_, held_back]| held_back)
    }

    /// How many samples there are.
    pub fn count(&self) -> usize {
        self.feed.samples()
    }

    /// The shape of a sample, where it is one array.
    pub fn shape(&self) -> Option<&[usize]> {
        match &self.inputs[..] {
            [(_, shape)] => Some(shape),
            _ => None,
        }
    }

    /// A number that says what the samples and their labels are, as the model reads them.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn digest(&self) -> Result<u64> {
        let mut print = Fingerprint::default();
        print.samples(&self.samples(true))?;
        Ok(print.sum())
    }

    pub(super) fn labels(&self) -> Option<&[usize]> {
        self.feed.labels()
    }

    pub(super) fn teacher(&self, path: &Path) -> Result<&Model> {
        let found = self.teachers.iter().find(|t| t.0 == path);
        found.map(|t| &t.1).ok_or_else(|| Error::internal(format!("the teacher {} was not loaded", path.display())))
    }

    /// The samples, with or without their labels.
    pub(super) fn samples(&self, labelled: bool) -> impl Samples + '_ {
        TrainingView { training: self, labels: self.labels().filter(|_| labelled) }
    }
}

impl StepRun<'_, '_> {
    /// Runs a pass with a part of the training data as calibration data, or, where the networks cannot be run on that,
    /// without: then it says `false`.
    pub fn on_training_data(
        &mut self,
        reference: &mut Reference,
        data: &Calibration<'_>,
        graph: &mut Graph,
        task: Task<'_>,
    ) -> Result<bool> {
        let pass = task.pass;
        let (before, rows) = (graph.clone(), self.rows.len());
        let failed = match self.on_calibration_data(reference, data, graph, task) {
            Ok(()) => {
                let samples = data.samples();
                let what =
                    format!("calibrated on {samples} samples of the training data: there is no calibration data");
                self.note(pass.name(), &what, true);
                return Ok(true);
            }
            Err(e) if e.kind() != Kind::Input || self.refused || pass.needs_data().is_some() => return Err(e),
            Err(e) => e,
        };
        *graph = before;
        self.rows.truncate(rows);
        self.visit_without_data(graph, task)?;
        self.note(pass.name(), &format!("not calibrated on the training data: {}", failed.reason()), false);
        Ok(false)
    }
}

struct TrainingView<'a> {
    training: &'a Training<'a>,
    labels: Option<&'a [usize]>,
}

impl Samples for TrainingView<'_> {
    fn inputs(&self) -> &[(String, Vec<usize>)] {
        &self.training.inputs
    }

    fn count(&self) -> usize {
        self.training.feed.samples()
    }

    fn labels(&self) -> Option<&[usize]> {
        self.labels
    }

    fn read(&self, sample: usize) -> Result<Vec<Vec<f32>>> {
        let x: Vec<Vec<f32>> = self.training.feed.chunk(sample)?.iter().map(Array::to_f32).collect();
        if x.iter().flatten().any(|v| !v.is_finite()) {
            return Err(Error::input("the training data is not finite").at(format!("sample {sample}")));
        }
        Ok(x)
    }
}

/// A model as a teacher: on a tape, or where that does not know an operator, in tract.
pub fn teacher(
    name: &str,
    model: &Model,
    samples: &dyn Samples,
    batch: usize,
    features: &[String],
) -> Result<Teacher<'static>> {
    let on_tape = train::teacher(&model.graph, samples, batch, features);
    let teacher = on_tape.or_else(|why| match train::ends(&model.graph, samples, batch, features)? {
        ends if ends.values.is_empty() => Err(why),
        ends => in_tract(model, ends).map_err(|e| {
            Error::input("the teacher cannot be run").because(format!("{}; and {}", why.reason(), e.reason()))
        }),
    });
    teacher.map_err(|e| e.at(name))
}

fn in_tract(model: &Model, ends: Ends) -> Result<Teacher<'static>> {
    let graph = &model.graph;
    let shapes: Vec<Vec<usize>> = ends.shapes.into_iter().map(|s| s.1).collect();
    let part = graph.part(&ends.values, &shapes)?;
    let runner = Runner::of_graph("teacher", part, model, &shapes)?;
    Ok(Box::new(move |x| {
        let arrays = ends
            .ports
            .iter()
            .zip(&shapes)
            .zip(runner.inputs())
            .map(|((&port, shape), spec)| Array::from_f32(shape.clone(), &x[port])?.cast(spec.dtype));
        let outputs = runner.run(&arrays.collect::<Result<Vec<_>>>()?)?;
        Ok(outputs.iter().map(Array::to_f32).collect())
    }))
}
