//! `tutee sensitivity MODEL --calib DATA`

use super::data::DataArgs;
use super::gates::GateArgs;
use super::samples::CalibArgs;
use super::signals;
use super::sizes::SizeArgs;
use super::terminal::Stream;
use crate::error::{Error, Result};
use crate::files::Atomic;
use crate::job::{Bench, CalibrationSplit, places, start_threads};
use crate::plain;
use crate::recipe::{self, Step};
use crate::report::SensitivityReport;
use crate::search::sensitivity::measure;
use crate::session::{Data, Session, Silent};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure what each layer can do without: pruned, split and encoded alone
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tutee sensitivity model.onnx --calib inputs.npz\n  tutee sensitivity model.onnx --calib inputs.npz --report layers.html --json"
)]
pub struct Args {
    /// The model to look at
    model: PathBuf,
    #[command(flatten)]
    calib: CalibArgs,
    #[command(flatten)]
    reading: DataArgs,
    /// Say what an output is where that is not seen, as for `tutee check`: NAME=KIND. May be repeated
    #[arg(long, value_name = "NAME=KIND")]
    output: Vec<String>,
    /// Layers to leave alone, by globs over node names, as `skip` in a recipe. May be repeated
    #[arg(long, value_name = "GLOB")]
    skip: Vec<String>,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Write a page with a heat-map (.html) or all numbers (.json) to a file, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Threads to use, at most one a core; all cores if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print nothing but the table and errors
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let form = self.report.as_deref().map(form).transpose()?;
        start_threads(self.threads)?;
        let mut said = recipe::DataSection::default();
        self.calib.tell(&mut said)?;
        self.reading.tell(&mut said)?;
        let written: Vec<places::NamedFile<'_>> = self.report.iter().map(|p| ("the report", p.as_path())).collect();
        let without = Error::input("what layers can do without is measured, and there is no data to do it on")
            .help("give --calib DATA: some hundred inputs, without labels or with them");
        let bench = Bench::open(("the model", &self.model), &said, &self.sizes.input_shape, &written, without)?;
        let CalibrationSplit { calibration, choose, .. } = bench.split(None)?;
        let judge = bench.judge(&choose, &GateArgs::default().gates(&self.output))?;
        let loaded = &bench.teacher;
        if !self.quiet {
            loaded.warnings.iter().chain(&calibration.warnings).for_each(|w| super::warn(w));
        }
        let data_of = Data { sizes: bench.sizes.clone(), calibration: Some(&calibration), ..Data::default() };
        let session = Session::new(&loaded.model, loaded.bytes, data_of, &Silent);
        let mut state = session.start()?;
        session.advance(&mut state, &Step::parse("clean")?)?;
        let common: Vec<String> = self.skip.iter().map(|glob| format!("skip={glob}")).collect();
        let bar = bar(self.quiet);
        let mut told = |done: usize, of: usize, layer: &str| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(plain::line(layer).into_owned());
            !signals::asked()
        };
        signals::training(true);
        let choices = measure(&session, &state, &judge, &common.join(","), &mut told);
        signals::training(false);
        bar.finish_and_clear();
        let choices = choices?;
        if choices.is_empty() {
            return Err(Error::input("there is no layer that anything can be done with")
                .at(self.model.display().to_string())
                .help("`tutee compress MODEL -o OUT -v -p cluster-weights` says why of each weight"));
        }
        let name = self.model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let report = SensitivityReport::new(name, [calibration.samples(), judge.samples()], choices);
        let json = plain::json(&report)?;
        if let Some((path, form)) = self.report.as_deref().zip(form) {
            let text = if form == TableFormat::Html { report.html() } else { json.clone() };
            let mut file = Atomic::create(path)?;
            file.write(|w| w.write_all(text.as_bytes()))?;
            file.commit()?;
        }
        super::print(&if self.json { json } else { report.text(Stream::Out.columns()) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum TableFormat {
    Html,
    Json,
}

/// The form of a report, which the ending of its name says.
fn form(path: &Path) -> Result<TableFormat> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html") => Ok(TableFormat::Html),
        Some("json") => Ok(TableFormat::Json),
        _ => Err(Error::input(format!("{} says no form", path.display())).help("end its name in .html or .json")),
    }
}

fn bar(quiet: bool) -> ProgressBar {
    let shown = !quiet && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len}, about {eta} left: {wide_msg}") {
        bar.set_style(style);
    }
    bar
}
