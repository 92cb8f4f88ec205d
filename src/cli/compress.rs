//! `tutee compress TEACHER -o STUDENT`

use super::job::Job;
#[cfg(feature = "exec")]
use super::job::TrainArgs;
#[cfg(feature = "exec")]
use super::job::{CalibArgs, CheckArgs};
use super::output::OutputArgs;
#[cfg(feature = "exec")]
use super::search::SearchArgs;
use super::sizes::SizeArgs;
use crate::error::Result;
use crate::recipe::{Recipe, Step};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a smaller model, with a report of what was done
#[derive(clap::Args)]
#[command(after_help = "\
Without -r and -p the recipe is `clean`, then `cluster-weights:bits=8`: safe, and about four times smaller. With --calib and a
target (--target-size, --target-weights, --target-macs, --max-drop) it is looked for: `tutee explain search`.

Examples:
  tutee compress teacher.onnx -o student.onnx
  tutee compress teacher.onnx -o student.onnx --target-size 20x --calib inputs.npz
  tutee compress teacher.onnx -o student.onnx --max-drop 1% --calib labelled.npz --save-recipe found.toml
  tutee compress teacher.onnx -o student.onnx -p clean -p separate-convs:rank=3
  tutee compress teacher.onnx -o student.onnx -p clean -p prune-channels:width-mult=0.5 -p distill:epochs=5 --train train.npz
  tutee compress teacher.onnx -o student.onnx -r mobile.toml --report report.html")]
pub struct Args {
    /// The trained model (ONNX)
    teacher: PathBuf,
    /// A recipe file (TOML)
    #[arg(short, long, value_name = "FILE", conflicts_with = "pass")]
    recipe: Option<PathBuf>,
    /// A step: PASS[:key=value,…]; repeat for more. `clean` is all Clean passes, `none` does nothing
    #[arg(short, long, value_name = "STEP")]
    pass: Vec<String>,
    /// Where a budget cannot be reached, go as far as it can be gone without a layer losing most of its output
    #[arg(long)]
    best_effort: bool,
    #[command(flatten)]
    sizes: SizeArgs,
    #[cfg(feature = "exec")]
    #[command(flatten)]
    calib: CalibArgs,
    #[cfg(feature = "exec")]
    #[command(flatten)]
    train: TrainArgs,
    #[cfg(feature = "exec")]
    #[command(flatten)]
    check: CheckArgs,
    #[cfg(feature = "exec")]
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Say what the recipe would do, as far as that takes no data, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the text form of the model after every step into this folder
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Run only the first N steps
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
}

impl Args {
    #[cfg_attr(not(feature = "exec"), allow(unused_mut))]
    pub fn run(mut self) -> Result<ExitCode> {
        #[cfg(feature = "exec")]
        let found = match self.recipe.is_none() && self.pass.is_empty() {
            true => self.search.answer(&self.teacher, &self.sizes, &mut self.calib, &mut self.check, &self.output)?,
            false => None,
        };
        let mut recipe = match &self.recipe {
            Some(path) => Recipe::load(path)?,
            None if self.pass.is_empty() => Recipe { steps: Recipe::default_steps(), ..Recipe::default() },
            None => {
                let steps = self.pass.iter().map(|p| Step::parse(p)).collect::<Result<_>>()?;
                Recipe { steps, ..Recipe::default() }
            }
        };
        #[cfg(feature = "exec")]
        if let Some(found) = &found {
            recipe = found.recipe.clone();
        }
        if self.best_effort {
            recipe.go_as_far_as_possible();
        }
        if self.dry_run {
            let loaded = crate::onnx::load(&self.teacher)?;
            let sizes = self.sizes.sizes(&loaded.model.graph)?.unwrap_or_default();
            return super::dry_run::run(&loaded, &recipe, &sizes, self.output.json);
        }
        let job = Job {
            model: self.teacher,
            recipe,
            sizes: self.sizes,
            #[cfg(feature = "exec")]
            reference: None,
            #[cfg(feature = "exec")]
            calib: self.calib,
            #[cfg(feature = "exec")]
            train: self.train,
            #[cfg(feature = "exec")]
            check: self.check,
            output: self.output,
            #[cfg(feature = "exec")]
            found,
            dump_ir: self.dump_ir,
            stop_after: self.stop_after,
        };
        job.run()
    }
}
