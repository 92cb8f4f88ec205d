//! `tutee compress TEACHER -o STUDENT`

use super::progress::Progress;
use crate::compress::{Outcome, compress};
use crate::error::{Error, Result};
use crate::onnx::{self, Atomic, SaveOptions, Target};
use crate::recipe::{Recipe, Step};
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
    /// Threads to use; all cores if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        set_threads(self.threads)?;
        let recipe = self.recipe()?;
        recipe.plan()?;
        let formats: Vec<_> = self.report.iter().map(|p| Format::of(p)).collect::<Result<_>>()?;
        let to_stdout = self.output == Path::new("-");
        let target = if to_stdout { Target::Stdout } else { Target::File(self.output.clone()) };
        target.check()?;
        for path in self.report.iter().chain(&self.depfile) {
            Target::File(path.clone()).check()?;
        }
        let loaded = onnx::load(&self.teacher)?;
        if !self.quiet {
            loaded.warnings.iter().for_each(|w| eprintln!("warning: {w}"));
        }
        let progress = Progress::new(self.quiet, self.dump_ir.clone());
        let outcome = compress(&loaded.model, loaded.bytes, &recipe, self.stop_after, &progress);
        progress.finish();
        let Outcome { student, mut report } = outcome?;
        report.warnings = loaded.warnings;

        let written = onnx::save(&student, &target, SaveOptions { external_data: self.external_data })?;
        if !written.is_empty() {
            report.student.bytes = written.iter().map(|w| w.1).sum();
        }
        for (path, format) in self.report.iter().zip(formats) {
            let text = match format {
                Format::Json => {
                    serde_json::to_string_pretty(&report).map_err(|e| Error::internal(e.to_string()))? + "\n"
                }
                Format::Markdown => report.markdown(),
            };
            write_text(path, &text)?;
        }
        if let Some(path) = &self.depfile {
            let mut sources = loaded.files;
            sources.extend(recipe.path.clone());
            write_text(path, &depfile(&self.output, &sources))?;
        }
        if !self.quiet {
            let text = report.text();
            if to_stdout { eprint!("{text}") } else { super::print(&text).map(drop)? }
        }
        Ok(ExitCode::SUCCESS)
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
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    let mut file = Atomic::create(path)?;
    file.write(|w| w.write_all(text.as_bytes()))?;
    file.commit().map(drop)
}

/// A make rule: the student depends on every file that was read.
fn depfile(output: &Path, sources: &[PathBuf]) -> String {
    let escaped = |p: &Path| p.display().to_string().replace('$', "$$").replace(' ', "\\ ").replace('#', "\\#");
    let sources: Vec<_> = sources.iter().map(|p| escaped(p)).collect();
    format!("{}: {}\n", escaped(output), sources.join(" "))
}

/// Sizes the pool that everything parallel runs on.
fn set_threads(threads: Option<usize>) -> Result<()> {
    match threads {
        None => Ok(()),
        Some(0) => Err(Error::input("--threads 0 leaves nothing to run on").help("give 1 or more")),
        Some(n) => rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build_global()
            .map_err(|e| Error::input(format!("cannot start {n} threads")).because(e.to_string())),
    }
}
