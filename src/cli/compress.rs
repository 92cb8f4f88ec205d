//! `tutee compress TEACHER -o STUDENT`

#[cfg(feature = "exec")]
use super::data::NormaliseArgs;
use super::places;
use super::progress::Progress;
#[cfg(feature = "exec")]
use crate::calibrate::Calibration;
#[cfg(feature = "exec")]
use crate::check::{Check, check, check_data};
#[cfg(feature = "exec")]
use crate::compress::compress_on;
use crate::compress::{Outcome, compress};
#[cfg(feature = "exec")]
use crate::data::{Dataset, Normalise};
use crate::error::{Error, Result};
use crate::ir::op::OPSETS;
use crate::onnx::{self, Atomic, SaveOptions, Target};
#[cfg(feature = "exec")]
use crate::passes::options::Share;
use crate::recipe::{Recipe, Step};
use crate::report::Report;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write a smaller model, with a report of what was done
#[derive(clap::Args)]
#[command(after_help = "\
Without -r and -p the recipe is `clean`, then `cluster-weights:bits=8`: safe, and about four times smaller.

Examples:
  tutee compress teacher.onnx -o student.onnx
  tutee compress teacher.onnx -o student.onnx -p clean -p separate-convs:rank=3
  tutee compress teacher.onnx -o student.onnx -r mobile.toml --report report.json")]
pub struct Args {
    /// The trained model (ONNX)
    teacher: PathBuf,
    /// Where to write the student; `-` is standard output
    #[arg(short, long, value_name = "STUDENT")]
    output: PathBuf,
    /// A recipe file (TOML)
    #[arg(short, long, value_name = "FILE", conflicts_with = "pass")]
    recipe: Option<PathBuf>,
    /// A step: PASS[:key=value,…]; repeat for more. `clean` is all Clean passes, `none` does nothing
    #[arg(short, long, value_name = "STEP")]
    pass: Vec<String>,
    #[cfg(feature = "exec")]
    #[command(flatten)]
    calib: CalibArgs,
    #[cfg(feature = "exec")]
    #[command(flatten)]
    check: CheckArgs,
    /// Write the report to a file: .json or .md
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// Write the text form of the model after every step into this folder
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Run only the first N steps
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    /// Write weights to STUDENT.data beside the student, whatever its size
    #[arg(long)]
    external_data: bool,
    /// Write a make rule that lists the files the student was made from
    #[arg(long, value_name = "FILE")]
    depfile: Option<PathBuf>,
    /// Threads to use, at most one a core; all cores if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// A teacher of fewer bytes has no student that needs external data.
const MAY_BE_EXTERNAL: u64 = 1 << 30;

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        super::set_threads(self.threads)?;
        let recipe = self.recipe()?;
        recipe.plan()?;
        let formats: Vec<_> = self.report.iter().map(|p| Format::of(p)).collect::<Result<_>>()?;
        let to_stdout = self.output == Path::new("-");
        let target = super::target(self.output.clone());
        target.check()?;
        for path in self.report.iter().chain(&self.depfile) {
            Target::File(path.clone()).check()?;
        }
        #[cfg(feature = "exec")]
        let normalise = self.check.normalise.over(&recipe.data)?;
        #[cfg(feature = "exec")]
        let test = self.check.plan(&recipe, &normalise, to_stdout)?;
        #[cfg(feature = "exec")]
        let calib = self.calib.load(&recipe)?;
        let loaded = onnx::load(&self.teacher)?;
        let mut read: Vec<places::Named<'_>> = loaded.files.iter().map(|f| ("the teacher", f.as_path())).collect();
        read.extend(recipe.path.iter().map(|p| ("the recipe", p.as_path())));
        #[cfg(feature = "exec")]
        read.extend(test.iter().map(|t| ("the test data", t.path.as_path())));
        #[cfg(feature = "exec")]
        read.extend(calib.iter().map(|c| ("the calibration data", c.0.as_path())));
        self.check_places(&read, loaded.bytes)?;
        #[cfg(feature = "exec")]
        test.as_ref().map_or(Ok(()), |t| check_data(&self.teacher, &t.data, &t.normalise))?;
        let mut warnings = loaded.warnings;
        let opset = loaded.model.graph.opset;
        if !OPSETS.contains(&opset) {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            warnings.push(format!(
                "tutee reasons about operators of opsets {first} to {last}: of opset {opset} it carries them untouched"
            ));
        }
        if !self.quiet {
            warnings.iter().for_each(|w| super::say(&format!("warning: {w}")));
        }
        let progress = Progress::new(self.quiet, self.dump_ir.clone()).releasing(loaded.pages.clone());
        #[cfg(not(feature = "exec"))]
        let outcome = compress(&loaded.model, loaded.bytes, &recipe, self.stop_after, &progress);
        #[cfg(feature = "exec")]
        let outcome = match &calib {
            None => compress(&loaded.model, loaded.bytes, &recipe, self.stop_after, &progress),
            Some((_, data)) => {
                let data = Calibration::new(data, &normalise, &loaded.model, self.calib.samples(&recipe))?;
                if !self.quiet {
                    data.warnings.iter().for_each(|w| super::say(&format!("warning: {w}")));
                }
                warnings.extend(data.warnings.iter().cloned());
                compress_on(&data, &loaded.model, loaded.bytes, &recipe, self.stop_after, &progress)
            }
        };
        progress.finish();
        let Outcome { student, mut report } = outcome?;
        report.warnings = warnings;

        let written = onnx::save(&student, &target, SaveOptions { external_data: self.external_data })?;
        if !written.is_empty() {
            report.student.bytes = written.iter().map(|w| w.1).sum();
        }
        if let Some(path) = &self.depfile {
            let mut sources = loaded.files;
            sources.extend(recipe.path.clone());
            #[cfg(feature = "exec")]
            sources.extend(
                calib.iter().map(|c| &c.1).chain(test.iter().map(|t| &t.data)).flat_map(|d| d.files().to_vec()),
            );
            write_text(path, &depfile(&self.output, &sources))?;
        }
        #[cfg_attr(not(feature = "exec"), allow(unused_mut))]
        let mut table = report.text();
        #[cfg(feature = "exec")]
        if let Some(test) = &test {
            let result = test.run(&self.teacher, &self.output, &progress)?;
            table.push_str(&format!("\n{result}\n"));
            report.missed.extend(result.misses(test.max_drop, test.min_agreement));
            report.check = Some(serde_json::to_value(&result).map_err(|e| Error::internal(e.to_string()))?);
        }
        for (path, format) in self.report.iter().zip(formats) {
            write_text(path, &format.write(&report)?)?;
        }
        match (self.quiet, to_stdout) {
            (true, _) => {}
            (false, true) => super::say(&table.trim_end()),
            (false, false) => super::print(&table).map(drop)?,
        }
        super::targets(&report.missed)
    }

    /// The student may take the teacher's place; nothing else may take that of what the run reads or writes.
    fn check_places(&self, read: &[places::Named<'_>], bytes: u64) -> Result<()> {
        let mut written: Vec<places::Named<'_>> = Vec::new();
        let mut data = self.output.clone().into_os_string();
        data.push(".data");
        if self.output != Path::new("-") {
            written.push(("the student", &self.output));
        } else if self.depfile.is_some() {
            return Err(Error::input("a make rule needs a student with a name")
                .because("it says which file depends on which")
                .help("give a file name with -o"));
        }
        let others: Vec<_> = read.iter().copied().filter(|(_, path)| *path != self.teacher).collect();
        places::check(&written, &others)?;
        // What takes the teacher's place may take that of its data too.
        let apart = places::check(&written, read).is_ok();
        written.push(("the student's data", Path::new(&data)));
        if apart && (self.external_data || bytes > MAY_BE_EXTERNAL) {
            places::check(&written, read)?;
        }
        written.extend(self.report.iter().map(|p| ("the report", p.as_path())));
        written.extend(self.depfile.iter().map(|p| ("the make rule", p.as_path())));
        // The first two are the student itself, which was looked at.
        let (own, more) = written.split_at(written.len() - self.report.len() - usize::from(self.depfile.is_some()));
        let taken: Vec<_> = read.iter().chain(own).copied().collect();
        places::check(more, &taken)
    }

    fn recipe(&self) -> Result<Recipe> {
        match &self.recipe {
            Some(path) => Recipe::load(path),
            None if self.pass.is_empty() => Ok(Recipe { steps: Recipe::default_steps(), ..Recipe::default() }),
            None => {
                let steps = self.pass.iter().map(|p| Step::parse(p)).collect::<Result<_>>()?;
                Ok(Recipe { steps, ..Recipe::default() })
            }
        }
    }
}

enum Format {
    Json,
    Markdown,
}

impl Format {
    fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Ok(Format::Json),
            Some("md") => Ok(Format::Markdown),
            _ => Err(Error::input(format!("cannot tell the report format of {}", path.display()))
                .because("it is chosen by the file's ending")
                .help("name it .json or .md")),
        }
    }

    fn write(&self, report: &Report) -> Result<String> {
        match self {
            Format::Json => {
                Ok(serde_json::to_string_pretty(report).map_err(|e| Error::internal(e.to_string()))? + "\n")
            }
            Format::Markdown => Ok(report.markdown()),
        }
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    let mut file = Atomic::create(path)?;
    file.write(|w| w.write_all(text.as_bytes()))?;
    file.commit().map(drop)
}

/// Fit the student to the teacher on data
#[cfg(feature = "exec")]
#[derive(clap::Args)]
struct CalibArgs {
    /// Unlabelled data, in the form `tutee check` takes: weights are then fitted to what the teacher gives on it
    #[arg(long, value_name = "DATA")]
    calib: Option<PathBuf>,
    /// Samples of the calibration data to use, evenly chosen; 512 if neither this nor the recipe says otherwise
    #[arg(long, value_name = "N")]
    calib_samples: Option<usize>,
}

/// Samples of calibration data, if nobody says how many.
#[cfg(feature = "exec")]
const CALIB_SAMPLES: usize = 512;

#[cfg(feature = "exec")]
impl CalibArgs {
    fn samples(&self, recipe: &Recipe) -> usize {
        self.calib_samples.or(recipe.data.calib_samples).unwrap_or(CALIB_SAMPLES)
    }

    fn load(&self, recipe: &Recipe) -> Result<Option<(PathBuf, Dataset)>> {
        let path = self.calib.clone().or(recipe.data.calib.clone());
        path.map(|path| Ok((path.clone(), Dataset::load(&path)?))).transpose()
    }
}

/// Check the student at the end
#[cfg(feature = "exec")]
#[derive(clap::Args)]
struct CheckArgs {
    /// Data to check the student on at the end, as for `tutee check`
    #[arg(long, value_name = "DATA")]
    test: Option<PathBuf>,
    /// With --test: exit code 2 if accuracy (or agreement, without labels) falls by more: 0.01 or 1%
    #[arg(long, value_name = "SHARE", value_parser = Share::parse)]
    max_drop: Option<Share>,
    #[command(flatten)]
    normalise: NormaliseArgs,
}

/// Test data and what the student must reach on it.
#[cfg(feature = "exec")]
struct Test {
    path: PathBuf,
    data: Dataset,
    normalise: Normalise,
    max_drop: Option<f64>,
    min_agreement: Option<f64>,
}

#[cfg(feature = "exec")]
impl CheckArgs {
    /// The test that arguments and recipe ask for, with its data read: what is wrong with it shows before the work.
    fn plan(&self, recipe: &Recipe, normalise: &Normalise, to_stdout: bool) -> Result<Option<Test>> {
        let max_drop = self.max_drop.or(recipe.target.max_drop).map(|s| s.0);
        let min_agreement = recipe.target.min_agreement.map(|s| s.0);
        let Some(path) = self.test.clone().or(recipe.data.test.clone()) else {
            return match max_drop.or(min_agreement) {
                None => Ok(None),
                Some(_) => Err(Error::input("a target is set, but there is no data to check it on")
                    .help("give --test DATA, or `test` under [data] in the recipe")),
            };
        };
        if to_stdout {
            return Err(Error::input("a student on standard output cannot be checked")
                .because("the check runs the written file")
                .help("give a file name with -o"));
        }
        let normalise = normalise.clone();
        Ok(Some(Test { data: Dataset::load(&path)?, path, normalise, max_drop, min_agreement }))
    }
}

#[cfg(feature = "exec")]
impl Test {
    fn run(&self, teacher: &Path, student: &Path, progress: &Progress) -> Result<Check> {
        let result = check(teacher, student, &self.data, &self.normalise, &|done, of| progress.samples(done, of));
        progress.finish();
        let result = result?;
        result.warnings.iter().for_each(|w| super::say(&format!("warning: {w}")));
        Ok(result)
    }
}

/// A make rule: the student depends on every file that was read.
fn depfile(output: &Path, sources: &[PathBuf]) -> String {
    let escaped = |p: &Path| p.display().to_string().replace('$', "$$").replace(' ', "\\ ").replace('#', "\\#");
    let sources: Vec<_> = sources.iter().map(|p| escaped(p)).collect();
    format!("{}: {}\n", escaped(output), sources.join(" "))
}
