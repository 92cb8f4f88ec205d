//! Arguments that say where the student and what is said of it go.

use crate::error::{Error, Result};
use crate::job::{Golden, Job, Outputs};
use std::path::PathBuf;

/// Where the student and what is said of it goes
#[derive(clap::Args)]
pub struct OutputArgs {
    /// Where to write the student; `-` is standard output
    #[arg(short, long, value_name = "STUDENT")]
    pub output: PathBuf,
    /// Let the student take the place of the model that it is made from
    #[arg(long)]
    in_place: bool,
    /// Write the report to a file: .html (a page for people), .json or .md
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Write the recipe as it was run to a file, with what budgets chose written out by layer: it makes the same student
    #[arg(long, value_name = "FILE")]
    save_recipe: Option<PathBuf>,
    /// Write weights to STUDENT.DIGEST.data beside the student, whatever its size
    #[arg(long)]
    external_data: bool,
    /// Write a make rule that lists the files the student was made from
    #[arg(long, value_name = "FILE")]
    depfile: Option<PathBuf>,
    #[command(flatten)]
    golden: GoldenArgs,
    /// Of a student with exits, write every stage as a file too: STUDENT.stage0.onnx, …, and STUDENT.stages.json
    #[cfg(feature = "exec")]
    #[arg(long)]
    stages: bool,
    /// Of a student with exits: add an int64 output of this name, which exit was taken, from 0
    #[arg(long, value_name = "NAME")]
    exit_output: Option<String>,
    /// Threads to use, at most one a core; all cores if not given
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print every row: what was done at each site, or why not
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print the report as JSON instead of a summary
    #[arg(long, conflicts_with_all = ["quiet", "verbose"])]
    pub json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// Compare the student's structure with what it was
#[derive(Default, clap::Args)]
struct GoldenArgs {
    /// Exit code 2, with the difference, if the student's structure is not the one in this file: what `tutee show
    /// --structure` prints
    #[arg(long, value_name = "FILE")]
    check_golden: Option<PathBuf>,
    /// Write the structure to the file of --check-golden instead
    #[arg(long, requires = "check_golden")]
    bless: bool,
}

impl OutputArgs {
    /// A job that does what the arguments say.
    ///
    /// # Errors
    /// As [`OutputArgs::outputs`].
    pub fn tell(&self, job: Job) -> Result<Job> {
        Ok(Job { output: self.outputs()?, threads: self.threads, ..job })
    }

    /// What the arguments say of files.
    ///
    /// # Errors
    /// If the student and the report would both go to standard output.
    pub fn outputs(&self) -> Result<Outputs> {
        let outputs = Outputs {
            student: self.output.clone(),
            in_place: self.in_place,
            reports: self.report.clone(),
            save_recipe: self.save_recipe.clone(),
            external_data: self.external_data,
            depfile: self.depfile.clone(),
            golden: Golden { file: self.golden.check_golden.clone(), bless: self.golden.bless },
            #[cfg(feature = "exec")]
            stages: self.stages,
            #[cfg(not(feature = "exec"))]
            stages: false,
            exit_output: self.exit_output.clone(),
        };
        match self.json && outputs.to_stdout() {
            true => Err(Error::input("the student and the report cannot both go to standard output")
                .help("give a file name with -o, or --report FILE.json in place of --json")),
            false => Ok(outputs),
        }
    }
}
