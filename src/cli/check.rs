//! `tutee check TEACHER STUDENT --data DATA`

use super::data::DataArgs;
use super::diff;
use super::gates::GateArgs;
use super::progress::Progress;
use crate::check::check_as;
use crate::error::{Error, Result};
use crate::job::{Listener, classes, judging, load, missed, start_threads, targets};
use crate::plain;
use crate::recipe;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run teacher and student side by side on data, and say what the compression cost
#[derive(clap::Args)]
#[command(after_help = "\
Data: a .npz with x [N,…] in the model's layout and optionally labels y [N] (for several inputs one array per input
name), a .npy, a folder of pictures with one sub-folder a class, or a folder of .npy or .npz files. Where the model leaves
sizes open, samples may differ in them.

Outputs that weights reach are judged by what they are: class scores by the class they name, sequences by what is left
without repeats and class 0, embeddings by their cosine, maps and other numbers by the error of the worst channel as a
share of its spread. What an output is is found out and said, or given with --output.

Examples:
  tutee check teacher.onnx student.onnx                    # without data: structure and sizes
  tutee check teacher.onnx student.onnx --data test.npz --scale 1/255 --mean 0.2860 --std 0.3530
  tutee check teacher.onnx student.onnx --data test.npz --max-drop 1%   # exit code 2 if it lost more
  tutee check teacher.onnx student.onnx --data test.npz --output boxes=value --max-error 5%
  tutee check teacher.onnx early.stages.json --data test.npz --curve   # the stages of a network with exits")]
pub struct Args {
    teacher: PathBuf,
    /// A model, or the .stages.json of one that was written as stages
    student: PathBuf,
    /// Samples to run both models on; without, they are compared by structure and size alone, as `tutee diff` does
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    reading: DataArgs,
    #[command(flatten)]
    gates: GateArgs,
    /// Say what an output is where that is not seen: NAME=classes, sequence (of classes, as for CTC), embedding, map or
    /// value. May be repeated
    #[arg(long, value_name = "NAME=KIND")]
    output: Vec<String>,
    /// Of a student with exits, show accuracy against mean MACs over one threshold for all of them
    #[arg(long)]
    curve: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Threads to use, at most one a core; all cores if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        start_threads(self.threads)?;
        let gates = self.gates.gates(&self.output);
        let targets = targets(&gates, &recipe::TargetSection::default());
        let Some(data) = &self.data else {
            if targets.any() {
                return Err(
                    Error::input("a target is set, but there is no data to check it on").help("give --data DATA")
                );
            }
            return diff::print(&self.teacher, &self.student, &Default::default(), self.json);
        };
        let mut how = recipe::DataSection::default();
        self.reading.tell(&mut how)?;
        let (data, normalise) = load(data, &how)?;
        let progress = Progress::new(self.quiet);
        classes(std::iter::once(&data)).iter().for_each(|line| progress.news(line));
        let judging = judging(&gates, &recipe::TargetSection::default())?;
        let told = |done, of| progress.checking(done, of);
        let result = check_as(&self.teacher, &self.student, &data, &normalise, &judging, &told);
        progress.ends();
        let mut result = result?;
        if let Some(exits) = result.exits.as_mut().filter(|_| !self.curve) {
            exits.curve.clear();
        }
        result.remarks.iter().for_each(|w| progress.warning(w));
        result.warnings.iter().for_each(|w| progress.doubt(w));
        let text = match self.json {
            true => plain::json(&result)?,
            false => format!("{result}\n"),
        };
        super::print(&text)?;
        missed(&result.misses(&targets)).map(|()| ExitCode::SUCCESS)
    }
}
