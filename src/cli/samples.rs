//! Arguments that say which data a job takes. `no_samples.rs` stands in for this where networks cannot be run.

use super::data::DataArgs;
use super::gates::GateArgs;
use super::output::OutputArgs;
pub use super::search::Answer;
use super::search::SearchArgs;
use super::sizes::SizeArgs;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::recipe;
use std::path::{Path, PathBuf};

/// All that takes data
#[derive(clap::Args)]
pub struct SampleArgs {
    #[command(flatten)]
    calib: CalibArgs,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    search: SearchArgs,
}

impl SampleArgs {
    /// What a search finds, if the recipe is to be looked for.
    ///
    /// # Errors
    /// As [`SearchArgs::answer`].
    pub fn answer(&mut self, model: &Path, sizes: &SizeArgs, output: &OutputArgs) -> Result<Option<Answer>> {
        self.search.answer(model, sizes, &mut self.calib, &self.train, &mut self.check, output)
    }

    /// Puts what the arguments say into a job.
    ///
    /// # Errors
    /// If they make no sense together.
    pub fn tell(&self, job: &mut Job) -> Result<()> {
        self.calib.tell(&mut job.recipe.data)?;
        self.train.tell(job);
        self.check.tell(job)
    }
}

/// Fit the student to the teacher on data
#[derive(Default, clap::Args)]
pub struct CalibArgs {
    /// Unlabelled data, in the form `tutee check` takes: weights are then fitted to what the teacher gives on it
    #[arg(long, value_name = "DATA")]
    pub(super) calib: Option<PathBuf>,
    /// Samples of the calibration data to use, evenly chosen; 512 if neither this nor the recipe says otherwise
    #[arg(long, value_name = "N")]
    pub(super) calib_samples: Option<usize>,
}

impl CalibArgs {
    /// Puts what the arguments say into a recipe.
    ///
    /// # Errors
    /// If samples of no data are to be used.
    pub fn tell(&self, recipe: &mut recipe::DataSection) -> Result<()> {
        recipe.calib = self.calib.clone().or(recipe.calib.take());
        if recipe.calib.is_none() && self.calib_samples.is_some() {
            return Err(Error::input("--calib-samples without calibration data").help("give --calib DATA too"));
        }
        recipe.calib_samples = self.calib_samples.or(recipe.calib_samples);
        Ok(())
    }
}

/// Train the student
#[derive(clap::Args)]
pub struct TrainArgs {
    /// Data that the stage `distill`, or a search, trains with, in the form `tutee check` takes, with labels or without
    #[arg(long, value_name = "DATA")]
    pub(super) train: Option<PathBuf>,
    /// Keep in this folder, epoch by epoch, what it takes to go on after an interruption, and go on if that is there
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
}

impl TrainArgs {
    /// Puts what the arguments say into a job.
    pub fn tell(&self, job: &mut Job) {
        let train = &mut job.recipe.data.train;
        *train = self.train.clone().or(train.take());
        job.checkpoint.clone_from(&self.checkpoint);
    }
}

/// Check the student at the end
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

impl CheckArgs {
    /// Puts what the arguments say into a job.
    ///
    /// # Errors
    /// As [`TestArgs::tell`].
    pub fn tell(&self, job: &mut Job) -> Result<()> {
        job.gates = self.gates.gates(&self.test_output);
        self.test.tell(&mut job.recipe.data)
    }
}

/// Data to check the student on
#[derive(clap::Args)]
pub struct TestArgs {
    /// Data to check the student on at the end, as for `tutee check`
    #[arg(long, value_name = "DATA")]
    pub(super) test: Option<PathBuf>,
    #[command(flatten)]
    pub(super) reading: DataArgs,
}

impl TestArgs {
    /// Puts what the arguments say into a recipe.
    ///
    /// # Errors
    /// As [`DataArgs::tell`].
    pub fn tell(&self, recipe: &mut recipe::DataSection) -> Result<()> {
        recipe.test = self.test.clone().or(recipe.test.take());
        self.reading.tell(recipe)
    }
}
