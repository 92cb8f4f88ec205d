//! The data and the other networks of a job: what it fits to, trains with and is checked on. `no_samples.rs` stands in for this
//! where networks cannot be run.

pub(super) use crate::exits::staged;

use super::places::NamedFile;
use super::reading::{classes, judging, normalise, pictures, stream, targets};
use super::watched::Watched;
use super::{Job, Listener};
use crate::analysis::sizes::InputSizes;
use crate::calibrate::{self, Calibration};
use crate::check::{Judging, Targets, check_as, check_data};
use crate::data::{Dataset, Normalise};
use crate::error::{Error, Result};
use crate::ir::Model;
use crate::onnx::{self, Loaded};
use crate::recipe::Action;
use crate::report::{DataUse, ModelSize, Report};
use crate::session::{Data, Training, measure_at};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// A part of the times of a run.
const CHECKING: &str = "checking";

/// A network by the path that names it.
struct NamedModel {
    path: PathBuf,
    bytes: u64,
    model: Model,
    files: Vec<PathBuf>,
}

impl NamedModel {
    fn load(path: &Path) -> Result<NamedModel> {
        let Loaded { model, bytes, files, .. } = onnx::load(path)?;
        Ok(NamedModel { path: path.to_path_buf(), bytes, model, files })
    }
}

/// Test data and what the student must reach on it.
struct Test {
    data: Dataset,
    targets: Targets,
    judging: Judging,
}

/// What is read beside the model.
pub(super) struct Samples {
    normalise: Normalise,
    calibration: Option<Dataset>,
    test: Option<Test>,
    training: Option<Dataset>,
    teachers: Vec<NamedModel>,
    /// Those that steps `cascade` put in front.
    smalls: Vec<(PathBuf, Model)>,
    small_files: Vec<PathBuf>,
}

/// What became of the data.
pub(super) struct Used {
    /// Samples that weights were fitted to.
    pub fitted_to: Option<usize>,
    /// Whether there was data for that, or to train with.
    pub fitted: bool,
}

impl Samples {
    pub fn open(job: &Job, plan: &[(String, Action)], model: &Model, listener: &dyn Listener) -> Result<Samples> {
        let said = &job.recipe.data;
        let (normalise, pictures, stream) = (normalise(said)?, pictures(said)?, stream(said)?);
        let load = |path: &Option<PathBuf>| {
            let read = |p: &PathBuf| Ok(Dataset::load_as(p, &pictures)?.in_streams(stream.clone()));
            path.as_ref().map(read).transpose()
        };
        let test = test(job, &load)?;
        let (calibration, training) = (load(&said.calib)?, load(&said.train)?);
        let with_states = |data| calibrate::with_states(data, &normalise, model);
        let (calibration, training) =
            (calibration.map(with_states).transpose()?, training.map(with_states).transpose()?);
        let teachers = teachers(plan)?;
        let data = calibration.iter().chain(&training).chain(test.iter().map(|t| &t.data));
        classes(data).iter().for_each(|line| listener.news(line));
        let (mut smalls, mut small_files) = (Vec::new(), Vec::new());
        for (_, action) in plan {
            if let Action::Cascade(stage) = action {
                let NamedModel { path, model, files, .. } = NamedModel::load(&stage.small)?;
                smalls.push((path, model));
                small_files.extend(files);
            }
        }
        Ok(Samples { normalise, calibration, test, training, teachers, smalls, small_files })
    }

    /// What the inputs of a model are by the data.
    pub fn sizes(&self, model: &Model) -> Option<InputSizes> {
        let test = self.test.iter().map(|t| &t.data);
        let mut all = self.calibration.iter().chain(test).chain(&self.training);
        all.find_map(|data| calibrate::sizes(data, &self.normalise, model).ok())
    }

    /// Files that are read, by what they are.
    pub fn files(&self) -> Vec<NamedFile<'_>> {
        let mut files: Vec<NamedFile<'_>> = Vec::new();
        let test = self.test.as_ref().map(|t| &t.data);
        let data = [("the calibration data", self.calibration.as_ref()), ("the test data", test)];
        for (what, data) in data.into_iter().chain([("the training data", self.training.as_ref())]) {
            files.extend(data.iter().flat_map(|d| d.files()).map(|f| (what, f.as_path())));
        }
        files.extend(self.teachers.iter().flat_map(|t| &t.files).map(|f| ("a teacher", f.as_path())));
        files.extend(self.small_files.iter().map(|f| ("the small network", f.as_path())));
        files
    }

    /// Finds out before the work what would prevent the test.
    pub fn check(&self, job: &Job, model: &Model) -> Result<()> {
        let Some(test) = &self.test else { return Ok(()) };
        check_data(reference_file(job), &test.data, &self.normalise, &test.judging)?;
        let names = |m: &Model| m.graph.required_inputs().map(|v| m.graph.value(v).name.clone()).collect::<Vec<_>>();
        match self.reference(job) {
            Some(of) if names(&of.model) != names(model) => {
                Err(Error::input("teacher and student cannot be compared: they differ in their inputs")
                    .help("rename those of one of them, or leave --test away"))
            }
            _ => Ok(()),
        }
    }

    /// The teacher that the student is compared with, if that is one.
    fn reference(&self, job: &Job) -> Option<&NamedModel> {
        self.teachers.iter().find(|t| job.reference.as_ref() == Some(&t.path))
    }

    /// The data, bound to the model.
    pub fn fitting<'a>(&'a self, job: &Job, model: &Model) -> Result<Fitting<'a>> {
        let samples = job.recipe.data.calib_samples.unwrap_or(calibrate::SAMPLES);
        let calibrate = |data| Calibration::new(data, &self.normalise, model, samples);
        let calibration = self.calibration.as_ref().map(calibrate).transpose()?;
        let train = |data| {
            let training = Training::new(data, &self.normalise, model)?;
            let with = self.teachers.iter().fold(training, |t, of| t.with_teacher(of.path.clone(), of.model.clone()));
            Ok::<_, Error>(match &job.checkpoint {
                Some(folder) => with.with_checkpoints(folder.clone()),
                None => with,
            })
        };
        let training = self.training.as_ref().map(train).transpose()?;
        Ok(Fitting { calibration, training, smalls: &self.smalls })
    }

    /// A student of no use missed every target.
    pub fn ruined(&self, report: &mut Report) {
        if self.test.as_ref().is_some_and(|t| t.targets.any()) {
            report.missed.extend(report.ruined.clone());
        }
    }

    /// The teacher of the report is the one that the student is compared with.
    pub fn compared_with(&self, job: &Job, sizes: &InputSizes, report: &mut Report) -> Result<()> {
        if let Some(of) = self.reference(job) {
            report.teacher = ModelSize { bytes: of.bytes, ..measure_at(&of.model, sizes)? };
        }
        Ok(())
    }

    /// Runs the student on the test data, if there is some.
    pub fn test(&self, job: &Job, student: &Path, watched: &Watched<'_>, report: &mut Report) -> Result<()> {
        let Some(test) = &self.test else { return Ok(()) };
        let first = Once::new();
        let told = |done, all| {
            first.call_once(|| watched.begins(CHECKING.into()));
            watched.listener().checking(done, all);
        };
        let result = check_as(reference_file(job), student, &test.data, &self.normalise, &test.judging, &told);
        watched.ends();
        let mut result = result?;
        if let Some(exits) = &mut result.exits {
            exits.curve.clear();
        }
        result.remarks.iter().for_each(|what| watched.listener().warning(what));
        result.warnings.iter().for_each(|what| watched.listener().doubt(what));
        report.missed.extend(result.misses(&test.targets));
        report.check = Some(result);
        Ok(())
    }

    /// What data was used for.
    pub fn uses(&self, fitted_to: Option<usize>, report: &Report) -> Vec<DataUse> {
        let used = |purpose: &str, data: &Dataset, samples| DataUse {
            purpose: purpose.into(),
            name: data.name().to_string(),
            samples,
        };
        let fitted = self.calibration.iter().map(|data| used("calibration", data, fitted_to));
        let trained = self.training.iter().map(|data| used("training", data, None));
        let checked = self.test.iter().zip(&report.check);
        let checked = checked.map(|(test, check)| used("test", &test.data, Some(check.samples)));
        fitted.chain(trained).chain(checked).collect()
    }

    /// The shares that are asked for on test data, by name.
    pub fn asked(&self) -> Vec<(&'static str, f64)> {
        let Some(Test { targets, .. }) = &self.test else { return Vec::new() };
        let asked = [
            ("max-drop", targets.max_drop),
            ("min-agreement", targets.min_agreement),
            ("max-error", targets.max_error),
        ];
        asked.into_iter().filter_map(|(name, share)| Some((name, share?))).collect()
    }
}

/// What the student is compared with.
fn reference_file(job: &Job) -> &Path {
    job.reference.as_ref().unwrap_or(&job.model)
}

/// The test that a job asks for, with its data read: what is wrong with it shows before the work.
fn test(job: &Job, load: &dyn Fn(&Option<PathBuf>) -> Result<Option<Dataset>>) -> Result<Option<Test>> {
    let targets = targets(&job.gates, &job.recipe.target);
    let judging = judging(&job.gates, &job.recipe.target)?;
    let path = &job.recipe.data.test;
    if path.is_none() && targets.any() {
        return Err(Error::input("a target is set, but there is no data to check it on")
            .help("give --test DATA, or `test` under [data] in the recipe"));
    }
    if path.is_some() && job.output.to_stdout() {
        return Err(Error::input("a student on standard output cannot be checked")
            .because("the check runs the written file")
            .help("give a file name with -o"));
    }
    Ok(load(path)?.map(|data| Test { data, targets, judging }))
}

/// The models that steps name as teachers.
fn teachers(plan: &[(String, Action)]) -> Result<Vec<NamedModel>> {
    let mut found: Vec<NamedModel> = Vec::new();
    for (_, action) in plan {
        let Action::Distill(stage) = action else { continue };
        for path in stage.teachers.iter().flatten() {
            if found.iter().all(|t| t.path != *path) {
                found.push(NamedModel::load(path)?);
            }
        }
    }
    Ok(found)
}

/// Data bound to the model.
pub(super) struct Fitting<'a> {
    calibration: Option<Calibration<'a>>,
    training: Option<Training<'a>>,
    smalls: &'a [(PathBuf, Model)],
}

impl Fitting<'_> {
    pub fn data(&self, sizes: InputSizes) -> Data<'_> {
        let (calibration, training) = (self.calibration.as_ref(), self.training.as_ref());
        Data { sizes, calibration, training, smalls: self.smalls }
    }

    /// What is strange about the data, or about its lack.
    pub fn warnings(&self, plan: &[(String, Action)], job: &Job) -> Vec<String> {
        let calibration = self.calibration.iter().flat_map(|c| c.warnings.clone());
        let mut warnings: Vec<String> = calibration.collect();
        warnings.extend(self.training.iter().flat_map(|t| t.warnings.clone()));
        warnings.extend(strong(plan).filter(|_| !self.used().fitted).map(|steps| {
            let how = job.command.as_ref().map_or("give calibration data".into(), |command| format!("{command} --calib DATA"));
            format!(
                "few networks survive {steps} without data; a few dozen inputs, without labels, make good most of it: {how}"
            )
        }));
        warnings
    }

    pub fn used(&self) -> Used {
        let fitted_to = self.calibration.as_ref().map(Calibration::samples);
        Used { fitted_to, fitted: fitted_to.is_some() || self.training.is_some() }
    }
}

/// The steps that few networks survive unless they are fitted to data.
fn strong(plan: &[(String, Action)]) -> Option<String> {
    let strong = plan.iter().filter(|(_, action)| matches!(action, Action::Pass(pass, _) if pass.is_strong()));
    let mut names: Vec<&str> = strong.map(|(name, _)| name.as_str()).collect();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}
