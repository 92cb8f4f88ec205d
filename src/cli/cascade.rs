//! `tutee cascade SMALL BIG -o BOTH`

use super::job;
use super::output::OutputArgs;
use super::samples::{CalibArgs, TestArgs, TrainArgs};
use crate::error::Result;
use crate::job::Job;
use crate::passes::options::Share;
use crate::recipe::{CascadeStage, Recipe, Step};
use std::path::PathBuf;
use std::process::ExitCode;

/// Put a small network in front of a big one: it answers what it is sure of
#[derive(clap::Args)]
#[command(after_help = "\
The threshold is the one that saves most while at most --max-drop of the samples are lost: right answers with labels,
answers of the big network without; 0.5 % if not given. Exit code 2, and the big network as it is, if that saves nothing.

Examples:
  tutee cascade student.onnx teacher.onnx -o both.onnx --max-drop 1% --calib calib.npz
  tutee cascade student.onnx teacher.onnx -o both.onnx --calib calib.npz --stages --test test.npz")]
pub struct Args {
    /// The network that is asked first (ONNX)
    small: PathBuf,
    /// The network that is asked where the first is not sure (ONNX)
    big: PathBuf,
    #[command(flatten)]
    calib: CalibArgs,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    test: TestArgs,
    /// Share of the samples that may be lost: 0.01 or 1%; 0.5 % if not given
    #[arg(long, value_name = "SHARE", value_parser = Share::parse)]
    max_drop: Option<Share>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let mut step = Step::new(CascadeStage::NAME, "", "the command line")?;
        step.options.insert("small".into(), toml::Value::String(self.small.display().to_string()));
        if let Some(Share(drop)) = self.max_drop {
            step.options.insert("max-drop".into(), toml::Value::Float(drop));
        }
        let mut job = Job::new(self.big, Recipe { steps: vec![step], ..Recipe::default() });
        self.calib.tell(&mut job.recipe.data)?;
        self.train.tell(&mut job);
        self.test.tell(&mut job.recipe.data)?;
        job::run(job, &self.output, None)
    }
}
