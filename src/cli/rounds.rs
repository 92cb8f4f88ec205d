//! `tutee search plan`, `run` and `merge`: a search that many machines share.

use super::data::DataArgs;
use super::gates::GateArgs;
use super::job;
use super::output::OutputArgs;
use super::samples::CalibArgs;
use super::search::{Answer, GoalArgs};
use super::sizes::SizeArgs;
use crate::error::{Error, Result};
use crate::job::{Gates, Job, start_threads};
use crate::recipe::{self, Recipe, Step};
use crate::rounds::{Done, Merged, Setting, merge, open, plan, run};
use crate::search::{Clock, Watch};
use crate::session::{Observer, Silent};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Jobs of a round, if nobody says how many.
const JOBS: usize = 4;

/// Share a search between machines: `plan` writes jobs, `run` does one, `merge` takes what was measured
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tutee search plan teacher.onnx -o JOBS --target-size 20x --calib inputs.npz --jobs 8
  tutee search run JOBS/jobs/0123456789abcdef.json
  tutee search merge JOBS -o student.onnx

JOBS/round lists the jobs to be done now, a line each. `merge` writes those of the next round, until there are none: then
it writes the student, the same bytes as `tutee compress` with as many --candidates. `tutee explain jobs`")]
pub struct Args {
    #[command(subcommand)]
    what: RoundsCommand,
}

#[derive(clap::Subcommand)]
enum RoundsCommand {
    Plan(Box<PlanArgs>),
    Run(RunArgs),
    Merge(Box<MergeArgs>),
}

/// Write a search into a folder, with the jobs of its first round
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("steps"),
    after_help = "\
The folder gets copies of the model and the data: it is all that jobs need. Options are those of the search of `tutee
compress`.

Example:
  tutee search plan teacher.onnx -o JOBS --max-drop 1% --calib labelled.npz --candidates 40 --jobs 8"
)]
struct PlanArgs {
    /// The trained model (ONNX)
    teacher: PathBuf,
    /// The folder of the search; it is made if it is not there
    #[arg(short, long, value_name = "JOBS")]
    output: PathBuf,
    #[command(flatten)]
    goal: GoalArgs,
    #[command(flatten)]
    calib: CalibArgs,
    /// Data that the search trains the best students with, in the form `tutee check` takes
    #[arg(long, value_name = "DATA")]
    train: Option<PathBuf>,
    #[command(flatten)]
    reading: DataArgs,
    #[command(flatten)]
    gates: GateArgs,
    /// Say what an output is, as `tutee check --output` does: NAME=KIND
    #[arg(long, value_name = "NAME=KIND")]
    test_output: Vec<String>,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Jobs of a round, at most: as many as can be done at the same time. The answer does not depend on it
    #[arg(long, value_name = "N", default_value_t = JOBS)]
    jobs: usize,
    #[command(flatten)]
    how: HowArgs,
}

/// What planning and doing jobs have in common.
#[derive(clap::Args)]
struct HowArgs {
    /// Threads to use, at most one a core; all cores if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Do jobs: anywhere where their folder is, or a copy of it. One that is done already is left alone
#[derive(clap::Args)]
#[command(after_help = "\
The result goes into the folder `results` of the search, whole or not at all.

Examples:
  tutee search run JOBS/jobs/0123456789abcdef.json --threads 2
  tutee search run JOBS")]
struct RunArgs {
    /// Files in the folder `jobs` of a search, or the folder of a search for all jobs of its round
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<PathBuf>,
    #[command(flatten)]
    how: HowArgs,
}

/// Take results, and write the jobs of the next round, or the student
#[derive(clap::Args)]
#[command(after_help = "\
Jobs of the round that are not done are planned again where they are still needed. While there are jobs to be done, nothing
but they is written.

Example:
  tutee search merge JOBS -o student.onnx --report report.html --save-recipe found.toml")]
struct MergeArgs {
    /// The folder of the search
    #[arg(value_name = "JOBS")]
    folder: PathBuf,
    /// Data to check the student on at the end, as for `tutee check`
    #[arg(long, value_name = "DATA")]
    test: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        match self.what {
            RoundsCommand::Plan(args) => args.run(),
            RoundsCommand::Run(args) => args.run(),
            RoundsCommand::Merge(args) => args.run(),
        }
    }
}

impl PlanArgs {
    fn run(self) -> Result<ExitCode> {
        if self.jobs == 0 {
            return Err(Error::input("--jobs 0 leaves nothing to do").help("give 1 or more"));
        }
        start_threads(self.how.threads)?;
        let options = self.goal.options(false)?;
        if options.clock == Some(Clock::Here) {
            return Err(Error::input("--target-latency needs --latency-table here")
                .because("jobs run on machines that are not alike, and the answer is to be the same")
                .help("give a table of costs (`tutee explain search`), or aim at --target-macs"));
        }
        let mut data = recipe::DataSection { train: self.train.clone(), ..recipe::DataSection::default() };
        let calib = self.calib.calib.clone().or(self.train);
        CalibArgs { calib, ..self.calib }.tell(&mut data)?;
        self.reading.tell(&mut data)?;
        let gates = self.gates.gates(&self.test_output);
        let setting = Setting { model: self.teacher, data, sizes: self.sizes.input_shape, gates };
        let goal = self.goal.goal(self.gates.max_drop());
        let (jobs, warnings) = plan(&setting, &goal, &options, self.jobs, &self.output, &Silent)?;
        if self.how.quiet {
            return Ok(ExitCode::SUCCESS);
        }
        warnings.iter().for_each(|what| super::warn(what));
        to_be_done(&self.output, &jobs, 0, options.candidates)
    }
}

impl RunArgs {
    fn run(self) -> Result<ExitCode> {
        start_threads(self.how.threads)?;
        let mut jobs = Vec::new();
        for path in self.jobs {
            match path.is_dir() {
                true => jobs.extend(open(&path)?.round()?),
                false => jobs.push(path),
            }
        }
        for path in &jobs {
            let warn = |what: &str| {
                if !self.how.quiet {
                    super::warn(what);
                }
            };
            let began = Instant::now();
            let done = run(path, &UnwatchedJob, &warn)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let told = match done {
                Done::Now(what, count) => {
                    format!("{name}: {what}; {count} measurements, {:.1} s\n", began.elapsed().as_secs_f64())
                }
                Done::Before(what) => format!("{name}: {what}; done already\n"),
            };
            if !self.how.quiet {
                super::print(&told)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl MergeArgs {
    fn run(self) -> Result<ExitCode> {
        let began = Instant::now();
        start_threads(self.output.threads)?;
        let outputs = self.output.outputs()?;
        outputs.check()?;
        let plan = open(&self.folder)?;
        if let Some((what, path)) = outputs.written().into_iter().find(|w| lies_in(w.1, &self.folder)) {
            return Err(Error::input(format!("{what} would be written among the files of the search"))
                .at(path.display().to_string())
                .help("give it a place outside of that folder"));
        }
        let quiet = self.output.quiet;
        let warn = |what: &str| {
            if !quiet {
                super::warn(what);
            }
        };
        let found = match merge(&plan, &warn)? {
            Merged::Round(..) if quiet => return Ok(ExitCode::SUCCESS),
            Merged::Round(jobs, done) => {
                return to_be_done(&self.folder, &jobs, done, plan.question().options.candidates);
            }
            Merged::Found(found) => *found,
        };
        let ([fit, choose], Setting { model, data, sizes, gates }) = (plan.samples(), plan.setting());
        let max_drop = gates.max_drop.filter(|_| self.test.is_some());
        let gates = Gates { max_drop, ..gates };
        let data = recipe::DataSection { calib_samples: Some(fit), test: self.test, ..data };
        let steps = found.best.steps.iter().map(|step| Step::parse(step)).collect::<Result<_>>()?;
        let recipe = Recipe { data, steps, ..Recipe::default() };
        let mut answer = Answer { recipe, found, choose, seconds: began.elapsed().as_secs_f64(), table: None };
        let searched = Some(answer.searched());
        let asked = Job { sizes, gates, searched, ..Job::new(model, answer.recipe().clone()) };
        let code = job::run(asked, &self.output, Some(&answer));
        plan.finish()?;
        code
    }
}

/// Whether a file would lie somewhere in a folder.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let beside = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = |p: &Path| p.canonicalize().ok();
    real(beside).zip(real(folder)).is_some_and(|(beside, folder)| beside.starts_with(folder))
}

/// Says which jobs are to be done, of a search that has so many results and candidates.
fn to_be_done(folder: &Path, jobs: &[PathBuf], done: usize, candidates: usize) -> Result<ExitCode> {
    let plural = if jobs.len() == 1 { "" } else { "s" };
    let list = folder.join("round");
    super::print(&format!(
        "{} job{plural} to do, listed in {}; {done} done, of at least {candidates}\n",
        jobs.len(),
        list.display()
    ))
}

/// A job by itself: a signal ends it with nothing written.
struct UnwatchedJob;

impl Watch for UnwatchedJob {}

impl Observer for UnwatchedJob {}
