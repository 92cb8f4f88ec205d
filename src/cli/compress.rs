//! `tutee compress TEACHER -o STUDENT`

use super::job;
use super::output::OutputArgs;
use super::samples::{Answer, SampleArgs};
use super::sizes::SizeArgs;
use crate::error::Result;
use crate::job::Job;
use crate::recipe::{Recipe, Step};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a smaller model, with a report of what was done
#[derive(clap::Args)]
#[command(after_help = "\
Without -r and -p the recipe is `clean`, then `cluster-weights:bits=8`: safe, and about four times smaller. With --calib and a
target (--target-size, --target-weights, --target-macs, --max-drop) it is looked for, and with --train the best students
are trained: `tutee explain search`.

Examples:
  tutee compress teacher.onnx -o student.onnx
  tutee compress teacher.onnx -o student.onnx --target-size 20x --calib inputs.npz
  tutee compress teacher.onnx -o student.onnx --target-size 100x --train train.npz --minutes 30
  tutee compress teacher.onnx -o student.onnx --max-drop 1% --calib labelled.npz --save-recipe found.toml
  tutee compress teacher.onnx -o student.onnx -p clean -p separate-convs:rank=3
  tutee compress teacher.onnx -o student.onnx -p clean -p prune-channels:width-mult=0.5 -p distill:epochs=5 --train train.npz
  tutee compress teacher.onnx -o student.onnx -r mobile.toml --report report.html")]
pub struct Args {
    /// The trained model (ONNX)
    teacher: PathBuf,
    /// A recipe file (TOML)
    #[arg(short, long, value_name = "FILE", group = "steps")]
    recipe: Option<PathBuf>,
    /// A step: PASS[:key=value,…]; repeat for more. `clean` is all Clean passes, `none` does nothing
    #[arg(short, long, value_name = "STEP", group = "steps")]
    pass: Vec<String>,
    /// Where a budget cannot be reached, go as far as it can be gone without a layer losing most of its output
    #[arg(long)]
    best_effort: bool,
    #[command(flatten)]
    sizes: SizeArgs,
    #[command(flatten)]
    samples: SampleArgs,
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
    pub fn run(mut self) -> Result<ExitCode> {
        let found = self.search()?;
        if self.dry_run {
            let recipe = self.recipe(found.as_ref())?;
            let loaded = crate::onnx::load(&self.teacher)?;
            let sizes = self.sizes.sizes(&loaded.model.graph)?.unwrap_or_default();
            return super::dry_run::run(&loaded, &recipe, &sizes, self.output.json);
        }
        let mut found = found;
        let job = self.asked(found.as_mut())?;
        job::run(job, &self.output, found.as_ref())
    }

    /// The job, after the search for its recipe if there is to be one.
    ///
    /// # Errors
    /// If the arguments make no sense, or the search fails.
    pub fn job(mut self) -> Result<Job> {
        let mut found = self.search()?;
        self.output.tell(self.asked(found.as_mut())?)
    }

    /// What a search finds, if the recipe is to be looked for.
    fn search(&mut self) -> Result<Option<Answer>> {
        match self.recipe.is_none() && self.pass.is_empty() {
            true => self.samples.answer(&self.teacher, &self.sizes, &self.output),
            false => Ok(None),
        }
    }

    /// The recipe that is asked for, or found.
    fn recipe(&self, found: Option<&Answer>) -> Result<Recipe> {
        let mut recipe = match (&self.recipe, found) {
            (Some(path), _) => Recipe::load(path)?,
            (None, Some(found)) => found.recipe().clone(),
            (None, None) if self.pass.is_empty() => Recipe { steps: Recipe::default_steps(), ..Recipe::default() },
            (None, None) => {
                let steps = self.pass.iter().map(|p| Step::parse(p)).collect::<Result<_>>()?;
                Recipe { steps, ..Recipe::default() }
            }
        };
        if self.best_effort {
            recipe.go_as_far_as_possible();
        }
        Ok(recipe)
    }

    /// The job, but for where things are written.
    fn asked(&self, found: Option<&mut Answer>) -> Result<Job> {
        let mut job = Job {
            sizes: self.sizes.input_shape.clone(),
            dump: self.dump_ir.clone(),
            stop_after: self.stop_after,
            ..Job::new(&self.teacher, self.recipe(found.as_deref())?)
        };
        self.samples.tell(&mut job)?;
        job.searched = found.map(Answer::searched);
        Ok(job)
    }
}
