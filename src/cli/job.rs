//! What `compress` and `distill` have in common: a recipe is run on a model, and its student written, checked and reported.

#[cfg(feature = "exec")]
use super::data::{DataArgs, tell_classes};
#[cfg(feature = "exec")]
use super::gates::GateArgs;
use super::output::OutputArgs;
use super::places;
use super::progress::Progress;
#[cfg(feature = "exec")]
use super::search::Answer;
use super::sizes::SizeArgs;
use super::summary::Told;
use crate::analysis::sizes::InputSizes;
#[cfg(feature = "exec")]
use crate::calibrate::{self, Calibration};
#[cfg(feature = "exec")]
use crate::check::{Check, Judging, Targets, check_as, check_data};
use crate::compress::Outcome;
#[cfg(feature = "exec")]
use crate::compress::Training;
use crate::compress::{Data, compress_on, measure_at};
#[cfg(feature = "exec")]
use crate::data::{Dataset, Normalise, Pictures};
use crate::error::{Error, Result};
use crate::ir::Model;
use crate::ir::op::OPSETS;
use crate::onnx;
use crate::recipe::{Action, Recipe};
#[cfg(feature = "exec")]
use crate::report::DataUse;
#[cfg(feature = "exec")]
use crate::report::Size;
use crate::report::{Report, Run};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Whether a model has exits, which are taken out of the bodies of `If` nodes if they are there.
fn has_exits(model: &mut Model) -> Result<bool> {
    Ok(!model.graph.exits().is_empty() || model.graph.flatten()? > 0)
}

/// A model as it is without those `If` nodes, if it has exits.
fn with_exits(model: &Model) -> Result<Option<Model>> {
    let mut flat = model.clone();
    Ok(has_exits(&mut flat)?.then_some(flat))
}

pub struct Job {
    pub model: PathBuf,
    pub recipe: Recipe,
    pub sizes: SizeArgs,
    /// What the student is compared with, if that is not the model.
    #[cfg(feature = "exec")]
    pub reference: Option<PathBuf>,
    #[cfg(feature = "exec")]
    pub calib: CalibArgs,
    #[cfg(feature = "exec")]
    pub train: TrainArgs,
    #[cfg(feature = "exec")]
    pub check: CheckArgs,
    pub output: OutputArgs,
    /// The search that the recipe is from.
    #[cfg(feature = "exec")]
    pub found: Option<Answer>,
    pub dump_ir: Option<PathBuf>,
    pub stop_after: Option<usize>,
}

impl Job {
    #[cfg_attr(not(feature = "exec"), allow(unused_mut))]
    pub fn run(mut self) -> Result<ExitCode> {
        #[cfg(feature = "exec")]
        let made = self.found.as_mut().and_then(|found| found.found.outcome.take());
        #[cfg(not(feature = "exec"))]
        let made = None;
        let (quiet, recipe, to_stdout) = (self.output.quiet, &self.recipe, self.output.to_stdout());
        super::threads::start(self.output.threads)?;
        let plan = recipe.plan()?;
        self.output.check()?;
        let loaded = onnx::load(&self.model)?;
        let mut sources = loaded.files.clone();
        sources.extend(recipe.path.clone());
        let mut read: Vec<places::Named<'_>> = loaded.files.iter().map(|f| ("the teacher", f.as_path())).collect();
        read.extend(recipe.path.iter().map(|p| ("the recipe", p.as_path())));
        #[cfg(feature = "exec")]
        let (normalise, pictures) =
            (self.check.test.reading.normalise(&recipe.data)?, self.check.test.reading.pictures(&recipe.data)?);
        #[cfg(feature = "exec")]
        let test = self.check.plan(recipe, &normalise, &pictures, to_stdout)?;
        #[cfg(feature = "exec")]
        let calib = self.calib.load(recipe, &pictures)?;
        #[cfg(feature = "exec")]
        {
            read.extend(test.iter().flat_map(|t| t.data.files()).map(|f| ("the test data", f.as_path())));
            read.extend(calib.iter().flat_map(|c| c.1.files()).map(|f| ("the calibration data", f.as_path())));
            let data = calib.iter().map(|c| &c.1).chain(test.iter().map(|t| &t.data));
            sources.extend(data.flat_map(|d| d.files().to_vec()));
        }
        #[cfg(feature = "exec")]
        let (train, teachers) = (self.train.load(recipe, &pictures)?, teachers(&plan)?);
        #[cfg(feature = "exec")]
        {
            read.extend(train.iter().flat_map(|t| t.1.files()).map(|f| ("the training data", f.as_path())));
            read.extend(teachers.iter().flat_map(|t| &t.1.files).map(|f| ("a teacher", f.as_path())));
            sources.extend(train.iter().flat_map(|t| t.1.files().to_vec()));
            sources.extend(teachers.iter().flat_map(|t| t.1.files.clone()));
        }
        #[cfg(feature = "exec")]
        {
            let data = calib.iter().map(|c| &c.1).chain(train.iter().map(|t| &t.1));
            tell_classes(data.chain(test.iter().map(|t| &t.data)).filter(|_| !quiet));
        }
        #[cfg(feature = "exec")]
        let smalls = smalls(&plan)?;
        #[cfg(feature = "exec")]
        {
            read.extend(smalls.iter().flat_map(|s| &s.1.files).map(|f| ("the small network", f.as_path())));
            sources.extend(smalls.iter().flat_map(|s| s.1.files.clone()));
        }
        let given = self.sizes.sizes(&loaded.model.graph)?;
        #[cfg(feature = "exec")]
        let given = given.or_else(|| {
            let all = calib.iter().map(|c| &c.1).chain(test.iter().map(|t| &t.data)).chain(train.iter().map(|t| &t.1));
            let mut all = all;
            all.find_map(|data| calibrate::sizes(data, &normalise, &loaded.model).ok())
        });
        let data = Data { sizes: given.unwrap_or_default(), ..Data::default() };
        let sizes = data.sizes_for(&loaded.model);
        self.check_exits(&plan, &loaded.model)?;
        #[cfg(feature = "exec")]
        let strong = strong(&plan);
        drop(plan);
        self.output.check_places(&self.model, &read)?;
        super::signals::unwritten(true);
        #[cfg(feature = "exec")]
        let reference = self.reference.as_ref().unwrap_or(&self.model);
        #[cfg(feature = "exec")]
        test.as_ref().map_or(Ok(()), |t| check_data(reference, &t.data, &t.normalise, &t.judging))?;
        #[cfg(feature = "exec")]
        if let (Some(_), Some((_, of))) = (&test, teachers.iter().find(|t| self.reference.as_ref() == Some(&t.0))) {
            let names = |m: &Model| m.graph.runtime_inputs().map(|v| m.graph.value(v).name.clone()).collect::<Vec<_>>();
            if names(&of.model) != names(&loaded.model) {
                return Err(Error::input("teacher and student cannot be compared: they differ in their inputs")
                    .help("rename those of one of them, or leave --test away"));
            }
        }
        let mut warnings = loaded.warnings;
        let opset = loaded.model.graph.opset;
        if !OPSETS.contains(&opset) {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            warnings.push(format!(
                "tutee reasons about operators of opsets {first} to {last}: of opset {opset} it carries them untouched"
            ));
        }
        warnings.extend(recipe.advice()?);
        let progress = Progress::new(quiet, self.dump_ir.clone()).releasing(loaded.pages.clone());
        #[cfg(feature = "exec")]
        let calibration = match &calib {
            Some((_, data)) => Some(Calibration::new(data, &normalise, &loaded.model, self.calib.samples(recipe))?),
            None => None,
        };
        #[cfg(feature = "exec")]
        warnings.extend(calibration.iter().flat_map(|c| c.warnings.clone()));
        #[cfg(feature = "exec")]
        let training = match &train {
            Some((_, data)) => {
                let training = Training::new(data, &normalise, &loaded.model)?;
                let with =
                    teachers.iter().fold(training, |t, (path, of)| t.with_teacher(path.clone(), of.model.clone()));
                Some(match &self.train.checkpoint {
                    Some(folder) => with.with_checkpoints(folder.clone()),
                    None => with,
                })
            }
            None => None,
        };
        #[cfg(feature = "exec")]
        warnings.extend(training.iter().flat_map(|t| t.warnings.clone()));
        #[cfg(feature = "exec")]
        let blind = calibration.is_none() && training.is_none();
        #[cfg(feature = "exec")]
        warnings.extend(strong.filter(|_| blind).map(|steps| {
            format!(
                "few networks survive {steps} without data; a few dozen inputs, without labels, make good most of it: {}",
                super::again("--calib DATA")
            )
        }));
        if !quiet {
            warnings.iter().for_each(|w| super::warn(w));
        }
        #[cfg(feature = "exec")]
        let smalls: Vec<(PathBuf, Model)> = smalls.into_iter().map(|(path, loaded)| (path, loaded.model)).collect();
        let data = Data {
            #[cfg(feature = "exec")]
            smalls: &smalls,
            #[cfg(feature = "exec")]
            calibration: calibration.as_ref(),
            #[cfg(feature = "exec")]
            training: training.as_ref(),
            ..data
        };
        let run = || compress_on(data, &loaded.model, loaded.bytes, &self.as_run(), self.stop_after, &progress);
        let outcome = match made {
            Some(made) => self.told(made),
            None => run(),
        };
        progress.finish();
        let Outcome { mut student, mut report } = outcome?;
        report.warnings.splice(..0, warnings);
        if !quiet {
            report.ruined.iter().for_each(|w| super::warn(w));
        }
        #[cfg(feature = "exec")]
        if test.as_ref().is_some_and(|t| t.targets.any()) {
            report.missed.extend(report.ruined.clone());
        }
        self.name_exit(&mut student, &sizes, &mut report)?;
        #[cfg(feature = "exec")]
        if let Some((_, of)) = teachers.iter().find(|t| self.reference.as_ref() == Some(&t.0)) {
            report.teacher = Size { bytes: of.bytes, ..measure_at(&of.model, &sizes)? };
        }

        let flat = if self.output.stages() { with_exits(&student)? } else { None };
        if self.output.stages() && flat.is_none() {
            self.warn(&mut report, "no stages were written: the student has no exits".into());
        }
        let replaced = if self.output.is_in_place(&self.model) { loaded.files.len() } else { 0 };
        let mut prepared = self.output.prepare(&student, flat.as_ref(), &sources[replaced..])?;
        report.student.bytes = prepared.bytes()?.unwrap_or(report.student.bytes);
        report.missed.extend(prepared.missed());
        #[cfg_attr(not(feature = "exec"), allow(unused_mut))]
        let mut failed = None;
        #[cfg(feature = "exec")]
        if let Some(found) = &self.found {
            report.missed.clone_from(&found.found.missed);
            report.search = Some(found.report());
        }
        #[cfg(feature = "exec")]
        if let (Some(test), Some(written)) = (&test, prepared.student()) {
            match test.run(reference, written, &progress) {
                Ok(result) => {
                    report.missed.extend(result.misses(&test.targets));
                    report.check = Some(result);
                }
                // It is a student all the same.
                Err(e) => {
                    let e = e.calling(written, &self.output.output);
                    report.warnings.push(format!("the student was not checked: {}", e.reason()));
                    failed = Some(e);
                }
            }
        }
        report.run = Run {
            command: Some(super::again("")),
            teacher: Some(self.model.display().to_string()),
            student: (!to_stdout).then(|| self.output.output.display().to_string()),
            data: Vec::new(),
            times: progress.times(),
        };
        #[cfg(feature = "exec")]
        {
            let used = |purpose: &str, data: &Dataset, samples| DataUse {
                purpose: purpose.into(),
                name: data.name().to_string(),
                samples,
            };
            let fitted = calib.as_ref().zip(calibration.as_ref());
            report
                .run
                .data
                .extend(fitted.map(|(c, calibration)| used("calibration", &c.1, Some(calibration.samples()))));
            #[cfg(feature = "exec")]
            report.run.data.extend(train.iter().map(|t| used("training", &t.1, None)));
            let checked =
                test.as_ref().zip(report.check.as_ref()).map(|(t, check)| used("test", &t.data, Some(check.samples)));
            report.run.data.extend(checked);
        }
        prepared.tell(&self.output, &report, &sources)?;
        if let Some(what) = prepared.commit(&student, self.output.options())? {
            self.warn(&mut report, what);
        }
        let told = Told {
            #[cfg(feature = "exec")]
            teacher: &self.model,
            output: &self.output,
            #[cfg(feature = "exec")]
            targets: test.as_ref().map(|t| t.targets),
            #[cfg(feature = "exec")]
            fitted: !blind,
        };
        #[cfg(feature = "exec")]
        self.found.iter().filter(|_| !quiet).for_each(Answer::tell);
        match (quiet, to_stdout) {
            (true, _) => {}
            (false, true) => super::say(&told.text(&report).trim_end()),
            (false, false) => super::tell(&told.text(&report)).map(drop)?,
        }
        failed.map_or_else(|| super::targets(&report.missed), Err)
    }

    /// The recipe with the data that arguments name.
    fn as_run(&self) -> Recipe {
        #[cfg_attr(not(feature = "exec"), allow(unused_mut))]
        let mut recipe = self.recipe.clone();
        #[cfg(feature = "exec")]
        {
            let data = &mut recipe.data;
            let given = [
                (&mut data.calib, &self.calib.calib),
                (&mut data.train, &self.train.train),
                (&mut data.test, &self.check.test.test),
            ];
            for (path, given) in given {
                *path = given.clone().or(path.take());
            }
            data.calib_samples = self.calib.calib_samples.or(data.calib_samples);
            self.check.test.reading.tell(data);
        }
        recipe
    }

    /// A student that was made before, with the whole recipe in its report.
    fn told(&self, mut made: Outcome) -> Result<Outcome> {
        let steps = Recipe::parse(&made.report.recipe, "the recipe as run")?.steps;
        made.report.recipe = Recipe { steps, ..self.as_run() }.moved_to(Path::new("")).to_toml()?;
        Ok(made)
    }

    /// Refuses what is asked of exits where there will be none.
    fn check_exits(&self, plan: &[(String, Action)], model: &Model) -> Result<()> {
        let option = match self.output.exit_output {
            Some(_) => "--exit-output",
            #[cfg(feature = "exec")]
            None if self.output.stages => "--stages",
            None => return Ok(()),
        };
        #[cfg(feature = "exec")]
        let made = plan.iter().any(|(_, a)| matches!(a, Action::EarlyExit(_) | Action::Cascade(_)));
        #[cfg(not(feature = "exec"))]
        let made = plan.is_empty();
        if !made && model.graph.clone().flatten()? == 0 {
            return Err(Error::input(format!("{option} is for networks with exits"))
                .because("neither has the model any, nor does a step make them")
                .help("add a step `early-exit`, or leave the option away"));
        }
        #[cfg(feature = "exec")]
        if self.output.stages && self.output.to_stdout() {
            return Err(Error::input("stages cannot be written to standard output").help("give a file name with -o"));
        }
        match &self.output.exit_output {
            Some(name) if name.is_empty() || model.graph.all_names().contains(name) => {
                Err(Error::input(format!("the exit output cannot be called \"{name}\""))
                    .because("a value of the model has that name, or it is empty")
                    .help("give another --exit-output"))
            }
            _ => Ok(()),
        }
    }

    /// Adds the output that says which exit was taken, where a student has exits and is to have it.
    fn name_exit(&self, student: &mut Model, sizes: &InputSizes, report: &mut Report) -> Result<()> {
        let Some(name) = &self.output.exit_output else { return Ok(()) };
        if !has_exits(student)? {
            return Ok(());
        }
        if student.graph.all_names().contains(name) {
            return Err(Error::input(format!("the exit output cannot be called \"{name}\""))
                .because("a value of the student has that name")
                .help("give another --exit-output"));
        }
        student.graph.exit_output = Some(name.clone());
        report.student = measure_at(student, sizes)?;
        Ok(())
    }

    fn warn(&self, report: &mut Report, what: String) {
        if !self.output.quiet {
            super::warn(&what);
        }
        report.warnings.push(what);
    }
}

/// Fit the student to the teacher on data
#[cfg(feature = "exec")]
#[derive(Default, clap::Args)]
pub struct CalibArgs {
    /// Unlabelled data, in the form `tutee check` takes: weights are then fitted to what the teacher gives on it
    #[arg(long, value_name = "DATA")]
    pub(super) calib: Option<PathBuf>,
    /// Samples of the calibration data to use, evenly chosen; 512 if neither this nor the recipe says otherwise
    #[arg(long, value_name = "N")]
    pub(super) calib_samples: Option<usize>,
}

#[cfg(feature = "exec")]
impl CalibArgs {
    pub(super) fn samples(&self, recipe: &Recipe) -> usize {
        self.calib_samples.or(recipe.data.calib_samples).unwrap_or(calibrate::SAMPLES)
    }

    pub(super) fn load(&self, recipe: &Recipe, pictures: &Pictures) -> Result<Option<(PathBuf, Dataset)>> {
        let path = self.calib.clone().or(recipe.data.calib.clone());
        if path.is_none() && self.calib_samples.is_some() {
            return Err(Error::input("--calib-samples without calibration data").help("give --calib DATA too"));
        }
        path.map(|path| Ok((path.clone(), Dataset::load_as(&path, pictures)?))).transpose()
    }
}

/// Train the student
#[cfg(feature = "exec")]
#[derive(clap::Args)]
pub struct TrainArgs {
    /// Data that the stage `distill` trains with, in the form `tutee check` takes, with labels or without
    #[arg(long, value_name = "DATA")]
    train: Option<PathBuf>,
    /// Keep in this folder, epoch by epoch, what it takes to go on after an interruption, and go on if that is there
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
}

#[cfg(feature = "exec")]
impl TrainArgs {
    fn load(&self, recipe: &Recipe, pictures: &Pictures) -> Result<Option<(PathBuf, Dataset)>> {
        let path = self.train.clone().or(recipe.data.train.clone());
        path.map(|path| Ok((path.clone(), Dataset::load_as(&path, pictures)?))).transpose()
    }
}

/// The steps that few networks survive unless they are fitted to data.
#[cfg(feature = "exec")]
fn strong(plan: &[(String, Action)]) -> Option<String> {
    let strong = plan.iter().filter(|(_, action)| matches!(action, Action::Pass(pass, _) if pass.is_strong()));
    let mut names: Vec<&str> = strong.map(|(name, _)| name.as_str()).collect();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The models that steps name as teachers.
#[cfg(feature = "exec")]
fn teachers(plan: &[(String, Action)]) -> Result<Vec<(PathBuf, onnx::Loaded)>> {
    let mut found: Vec<(PathBuf, onnx::Loaded)> = Vec::new();
    for (_, action) in plan {
        let Action::Distill(stage) = action else { continue };
        for path in stage.teachers.iter().flatten() {
            if found.iter().all(|t| t.0 != *path) {
                found.push((path.clone(), onnx::load(path)?));
            }
        }
    }
    Ok(found)
}

/// The small networks that steps name.
#[cfg(feature = "exec")]
fn smalls(plan: &[(String, Action)]) -> Result<Vec<(PathBuf, onnx::Loaded)>> {
    let named = plan.iter().filter_map(|(_, action)| match action {
        Action::Cascade(stage) => Some(&stage.small),
        _ => None,
    });
    named.map(|path| Ok((path.clone(), onnx::load(path)?))).collect()
}

/// Check the student at the end
#[cfg(feature = "exec")]
#[derive(clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub test: TestArgs,
    #[command(flatten)]
    pub gates: GateArgs,
    /// Say what an output is, as `tutee check --output` does: NAME=KIND
    #[arg(long, value_name = "NAME=KIND")]
    pub test_output: Vec<String>,
}

/// Data to check the student on
#[cfg(feature = "exec")]
#[derive(clap::Args)]
pub struct TestArgs {
    /// Data to check the student on at the end, as for `tutee check`
    #[arg(long, value_name = "DATA")]
    pub(super) test: Option<PathBuf>,
    #[command(flatten)]
    pub(super) reading: DataArgs,
}

/// Test data and what the student must reach on it.
#[cfg(feature = "exec")]
struct Test {
    data: Dataset,
    normalise: Normalise,
    targets: Targets,
    judging: Judging,
}

#[cfg(feature = "exec")]
impl CheckArgs {
    /// The test that arguments and recipe ask for, with its data read: what is wrong with it shows before the work.
    fn plan(
        &self,
        recipe: &Recipe,
        normalise: &Normalise,
        pictures: &Pictures,
        to_stdout: bool,
    ) -> Result<Option<Test>> {
        let targets = self.gates.targets(&recipe.target);
        let judging = self.gates.judging(&self.test_output, &recipe.target)?;
        let Some(path) = self.test.test.clone().or(recipe.data.test.clone()) else {
            return match targets.any() {
                false => Ok(None),
                true => Err(Error::input("a target is set, but there is no data to check it on")
                    .help("give --test DATA, or `test` under [data] in the recipe")),
            };
        };
        if to_stdout {
            return Err(Error::input("a student on standard output cannot be checked")
                .because("the check runs the written file")
                .help("give a file name with -o"));
        }
        let normalise = normalise.clone();
        Ok(Some(Test { data: Dataset::load_as(&path, pictures)?, normalise, targets, judging }))
    }
}

#[cfg(feature = "exec")]
impl Test {
    fn run(&self, teacher: &Path, student: &Path, progress: &Progress) -> Result<Check> {
        let told = |done, of| progress.samples(done, of);
        let result = check_as(teacher, student, &self.data, &self.normalise, &self.judging, &told);
        progress.finish();
        let mut result = result?;
        if let Some(exits) = &mut result.exits {
            exits.curve.clear();
        }
        result.warnings.iter().for_each(|w| super::warn(w));
        Ok(result)
    }
}
