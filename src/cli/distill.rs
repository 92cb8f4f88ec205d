//! `tutee distill STUDENT --teacher TEACHER --train DATA -o OUT`

use super::job;
use super::output::OutputArgs;
use super::samples::{CheckArgs, TrainArgs};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::recipe::{Distill, Recipe, Step};
use std::path::PathBuf;
use std::process::ExitCode;

/// Train a network of any origin on what teachers say, on labels, or on both
#[derive(clap::Args)]
#[command(after_help = "\
`tutee explain distill` lists the options for --set. Without a teacher the student learns from labels alone; of several
teachers it learns the mean. --test compares it with the first teacher.

Examples:
  tutee new student-net --classes 10 --input 3x32x32 -o new.onnx
  tutee distill new.onnx --teacher teacher.onnx --train train.npz -o student.onnx
  tutee distill new.onnx --teacher a.onnx --teacher b.onnx --train train.npz -o student.onnx --set epochs=20,augment=flip,augment=crop:4")]
pub struct Args {
    /// The network to train (ONNX)
    student: PathBuf,
    /// A trained model to learn from; repeat for more
    #[arg(long, value_name = "MODEL")]
    teacher: Vec<PathBuf>,
    /// Options of the stage: KEY=VALUE,…
    #[arg(short, long, value_name = "OPTIONS")]
    set: Vec<String>,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let set = self.set.join(",");
        let mut step = Step::new(Distill::NAME, &set, &format!("--set {set}"))?;
        let teachers = self.teacher.iter().map(|p| toml::Value::String(p.display().to_string())).collect();
        if step.options.insert("teachers".into(), toml::Value::Array(teachers)).is_some() {
            return Err(Error::input("`teachers` cannot be set here").help("give --teacher MODEL, once or more"));
        }
        let recipe = Recipe { steps: vec![step], ..Recipe::default() };
        let mut job = Job { reference: self.teacher.first().cloned(), ..Job::new(self.student, recipe) };
        self.train.tell(&mut job);
        self.check.tell(&mut job)?;
        job::run(job, &self.output, None)
    }
}
