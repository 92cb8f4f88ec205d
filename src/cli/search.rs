//! `tutee compress TEACHER -o STUDENT --target-size 10x --calib DATA`: the recipe is looked for.

use super::messages;
use super::output::OutputArgs;
use super::samples::{CalibArgs, CheckArgs, TrainArgs};
use super::signals;
use super::sizes::SizeArgs;
use crate::error::{Error, Result, io};
use crate::figures::count;
use crate::job::{Searched, places, start_threads};
use crate::onnx::{self, SaveOptions, Target};
use crate::passes::options::suggest;
use crate::plain;
use crate::recipe::{self, Recipe};
use crate::report::{self, ModelSize};
use crate::rounds::{BoundSetting, Setting};
use crate::search::{
    Amount, CANDIDATES, Candidate, Clock, CostTable, Found, Goal, Limits, Options, Question, Store, TECHNIQUES, Watch,
    timed,
};
use crate::session::{Observer, Session};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MINUTES: f64 = 10.0;

/// What is looked for, and among what
#[derive(clap::Args)]
pub struct GoalArgs {
    /// The largest file: 10x, 40% or 250kB
    #[arg(long, value_name = "SIZE", conflicts_with = "steps")]
    target_size: Option<Amount>,
    /// The most weights: 10x, 40% or 200k
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    target_weights: Option<Amount>,
    /// The most multiply-accumulates: 4x, 25% or 5M
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    target_macs: Option<Amount>,
    /// The longest run, measured on this machine or by --latency-table: 2x, 40% or 5ms
    #[arg(long, value_name = "TIME", value_parser = latency, conflicts_with = "steps")]
    target_latency: Option<Amount>,
    /// What operators cost, instead of a measurement: a TOML file (`tutee explain search`)
    #[arg(long, value_name = "FILE", requires = "target_latency")]
    latency_table: Option<PathBuf>,
    /// How many students are tried, at most [default: 40]
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    candidates: Option<usize>,
    /// Passes to compose, or with a minus in front, to leave out: prune-channels,cluster-weights
    #[arg(long, value_name = "PASS,…", value_delimiter = ',', allow_hyphen_values = true, conflicts_with = "steps")]
    techniques: Vec<String>,
    /// Layers to leave alone, by globs over node names, as `skip` in a recipe. May be repeated
    #[arg(long, value_name = "GLOB", conflicts_with = "steps")]
    skip: Vec<String>,
}

/// Look for the recipe (`tutee explain search`)
#[derive(clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    goal: GoalArgs,
    /// When the search ends, if nothing else ends it [default: 10]
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    minutes: Option<f64>,
    /// Write all students of which none that is smaller loses less into this new folder, with their recipes and a table
    #[arg(long, value_name = "DIR", conflicts_with = "steps")]
    front: Option<PathBuf>,
    /// Keep what was measured in this file, and take up what is there
    #[arg(long, value_name = "FILE", conflicts_with = "steps")]
    state: Option<PathBuf>,
}

/// What a search found, for the job that makes the student.
pub struct Answer {
    pub(super) recipe: Recipe,
    pub(super) found: Found,
    /// Samples that candidates were chosen by.
    pub(super) choose: usize,
    pub(super) seconds: f64,
    /// The table of costs, if there is one.
    pub(super) table: Option<PathBuf>,
}

impl GoalArgs {
    /// Whether one of them is given.
    fn asked(&self) -> bool {
        let costs = self.target_macs.or(self.target_latency);
        let targets = self.target_size.or(self.target_weights).or(costs).is_some();
        targets || self.candidates.is_some() || !self.techniques.is_empty() || !self.skip.is_empty()
    }

    /// What a student must reach.
    pub fn goal(&self, max_drop: Option<f64>) -> Goal {
        let (size, weights, macs, latency) =
            (self.target_size, self.target_weights, self.target_macs, self.target_latency);
        Goal { size, weights, macs, latency, max_drop }
    }

    /// Where latencies come from, if they count.
    fn clock(&self) -> Result<Option<Clock>> {
        match &self.latency_table {
            Some(path) => Ok(Some(Clock::Table(CostTable::read(path)?))),
            None => Ok(self.target_latency.map(|_| Clock::Here)),
        }
    }

    /// What the search may do.
    ///
    /// # Errors
    /// If it may do nothing, or names passes that it does not compose.
    pub fn options(&self, front: bool) -> Result<Options> {
        let candidates = self.candidates.unwrap_or(CANDIDATES);
        if candidates == 0 {
            return Err(Error::input("--candidates 0 leaves nothing to try").help("give 1 or more"));
        }
        let common: Vec<String> = self.skip.iter().map(|glob| format!("skip={glob}")).collect();
        let techniques = techniques(&self.techniques)?;
        Ok(Options { candidates, techniques, common: common.join(","), front, training: None, clock: self.clock()? })
    }
}

impl SearchArgs {
    /// Whether the recipe is to be looked for; `data` says whether there is some.
    fn asked(&self, max_drop: Option<f64>, data: bool) -> bool {
        let words = self.minutes.is_some() || self.front.is_some() || self.state.is_some();
        self.goal.asked() || words || (max_drop.is_some() && data)
    }

    /// What a search finds, if the recipe is to be looked for. Arguments that it has used up are changed: what it fitted to is
    /// fitted to again, and what it chose by is no test.
    ///
    /// # Errors
    /// As [`SearchArgs::run`].
    pub fn answer(
        &self,
        model: &Path,
        sizes: &SizeArgs,
        calib: &mut CalibArgs,
        train: &TrainArgs,
        check: &mut CheckArgs,
        output: &OutputArgs,
    ) -> Result<Option<Answer>> {
        if !self.asked(check.gates.max_drop(), calib.calib.is_some() || train.train.is_some()) {
            return Ok(None);
        }
        calib.calib = calib.calib.take().or(train.train.clone());
        let answer = self.run(model, sizes, calib, train, check, output)?;
        calib.calib_samples = answer.recipe.data.calib_samples;
        if check.test.test.is_none() {
            check.gates.max_drop = None;
        }
        Ok(Some(answer))
    }

    /// Looks for the recipe.
    ///
    /// # Errors
    /// If the arguments, the model or the data are not good for it.
    fn run(
        &self,
        model: &Path,
        sizes: &SizeArgs,
        calib: &CalibArgs,
        train: &TrainArgs,
        check: &CheckArgs,
        output: &OutputArgs,
    ) -> Result<Answer> {
        let began = Instant::now();
        let minutes = self.minutes.unwrap_or(MINUTES);
        let options = self.goal.options(self.front.is_some())?;
        if !(minutes > 0.0 && minutes.is_finite()) {
            return Err(Error::input("--minutes must be more than 0").help("give a number, such as 10 or 0.5"));
        }
        if let Some(folder) = self.front.as_deref().filter(|f| f.exists()) {
            return Err(Error::input(format!("{} exists already", folder.display()))
                .because("--front writes into a new folder, so that nothing in it is of another search")
                .help("give another name, or remove it"));
        }
        start_threads(output.threads)?;
        let outputs = output.outputs()?;
        outputs.check()?;
        if let Some(table) = &self.goal.latency_table {
            places::check(&outputs.written(), &[("the table of costs", table)])?;
        }
        let mut data = recipe::DataSection { train: train.train.clone(), ..recipe::DataSection::default() };
        calib.tell(&mut data)?;
        check.test.reading.tell(&mut data)?;
        let gates = check.gates.gates(&check.test_output);
        let setting = Setting { model: model.to_path_buf(), data, sizes: sizes.input_shape.clone(), gates };
        let written: Vec<places::NamedFile<'_>> = self.state.iter().map(|p| ("the state", p.as_path())).collect();
        let bench = setting.open(&written)?;
        let loaded = &bench.teacher;
        let teacher = timed(bench.size, options.clock.as_ref(), &loaded.model, &bench.sizes)?;
        let limits = self.goal.goal(check.gates.max_drop()).limits(&teacher)?;
        let (found, fit, choose) =
            setting.with(&bench, |BoundSetting { data, judge, fit, inputs, training, warnings }| {
                let samples = [inputs.fit_samples, inputs.choose_samples];
                let store = Store::open(self.state.as_deref(), inputs)?;
                if !output.quiet {
                    warnings.iter().for_each(|w| super::warn(w));
                    let trained = training.as_ref().map(|t| format!("{} train, ", t.samples)).unwrap_or_default();
                    super::say(&format!("searching: {trained}{} samples fit, {} choose", samples[0], samples[1]));
                    let candidates = count(options.candidates, "candidate");
                    super::say(&format!("{candidates} or {minutes} minutes at most"));
                    if store.found > 0 {
                        super::say(&format!("{} measurements are taken up from the state", store.found));
                    }
                }
                let show = Show::new(output.quiet, Duration::from_secs_f64(60.0 * minutes), minutes, &limits);
                let session = Session::new(&loaded.model, loaded.bytes, data, &show);
                signals::training(true);
                let question = Question::new(&session, limits, Options { training, ..options });
                let found = question.and_then(|question| question.search(&session, &judge, store, &show));
                signals::training(false);
                show.bar.finish_and_clear();
                Ok((found?, fit, samples[1]))
            })?;
        let recipe = |steps: &[String]| setting.recipe(steps, fit, &bench.normalise);
        if let Some(folder) = &self.front {
            write_front(folder, &found, &teacher, &recipe)?;
        }
        let recipe = recipe(&found.best.steps)?;
        let table = self.goal.latency_table.clone();
        Ok(Answer { recipe, found, choose, seconds: began.elapsed().as_secs_f64(), table })
    }
}

/// Writes the students of the front, their recipes and a table, into a folder that is there once all of it is.
fn write_front(
    folder: &Path,
    found: &Found,
    teacher: &ModelSize,
    recipe: &dyn Fn(&[String]) -> Result<Recipe>,
) -> Result<()> {
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new =
        tempfile::Builder::new().prefix(".tutee-front-").tempdir_in(parent).map_err(|e| io("write", folder, &e))?;
    let put = |name: &str, text: &str| {
        let path = new.path().join(name);
        std::fs::write(&path, text).map_err(|e| io("write", &path, &e))
    };
    let mut table =
        String::from("| student | file | weights | drop | loss | what was done |\n|---|---|---|---|---|---|\n");
    for (i, (candidate, student)) in found.front.iter().enumerate() {
        let name = format!("{:02}", i + 1);
        onnx::save(student, &Target::File(new.path().join(format!("{name}.onnx"))), SaveOptions::default())?;
        put(&format!("{name}.toml"), &recipe(&candidate.steps)?.to_toml()?)?;
        let times = teacher.bytes as f64 / candidate.size.bytes.max(1) as f64;
        let Candidate { what, size, score, .. } = candidate;
        table.push_str(&format!(
            "| {name}.onnx | {} bytes, {times:.1}x | {} | {:+.2} points | {:.4} | {} |\n",
            size.bytes,
            size.weights,
            -100.0 * score.drop,
            score.loss,
            plain::markdown(what)
        ));
    }
    put("front.md", &table)?;
    std::fs::rename(new.path(), folder).map_err(|e| io("write", folder, &e))
}

/// A time, or how it compares with the teacher's, in nanoseconds.
fn latency(text: &str) -> std::result::Result<Amount, String> {
    let wrong = || format!("\"{text}\" is no time: write 2x, 40% or 5ms");
    if text.ends_with(['x', 'X', '%']) {
        return text.parse();
    }
    let units = [("ms", 1e6), ("us", 1e3), ("µs", 1e3), ("ns", 1.0), ("s", 1e9)];
    let number =
        |(unit, factor): &(&str, f64)| Some(text.trim().strip_suffix(unit)?.trim().parse::<f64>().ok()? * factor);
    let found = units.iter().find_map(number).filter(|n| n.is_finite() && *n >= 1.0);
    found.map(Amount::Number).ok_or_else(wrong)
}

/// The passes that may be used: those named, or all but those with a minus.
fn techniques(words: &[String]) -> Result<Vec<String>> {
    let (less, more): (Vec<&String>, Vec<&String>) = words.iter().partition(|w| w.starts_with('-'));
    let named = |word: &String| word.trim_start_matches('-').to_string();
    if let Some(word) = words.iter().map(named).find(|w| !TECHNIQUES.contains(&w.as_str())) {
        return Err(Error::input(format!("\"{word}\" is nothing that a search composes"))
            .at("--techniques")
            .help(suggest(&word, TECHNIQUES.iter().copied())));
    }
    if !less.is_empty() && !more.is_empty() {
        return Err(Error::input("--techniques names passes to use and passes to leave out")
            .help("name only those to use, or put a minus before each"));
    }
    let kept = TECHNIQUES.iter().filter(|t| match more.is_empty() {
        true => !less.iter().any(|w| named(w) == **t),
        false => more.iter().any(|w| w == *t),
    });
    let kept: Vec<String> = kept.map(ToString::to_string).collect();
    match kept.is_empty() {
        true => Err(Error::input("--techniques leaves out everything that could be done").help("leave it away")),
        false => Ok(kept),
    }
}

/// A candidate in a few words, against its teacher.
fn in_short(c: &Candidate, teacher: &ModelSize) -> String {
    let times = teacher.bytes as f64 / c.size.bytes.max(1) as f64;
    format!("{times:.1}x, {:+.2} points", -100.0 * c.score.drop)
}

/// Progress: on a terminal a bar, else a line a candidate.
struct Show {
    quiet: bool,
    bar: ProgressBar,
    began: Instant,
    time: Duration,
    minutes: f64,
    teacher: ModelSize,
    /// What is said of the running candidate.
    line: RefCell<String>,
}

impl Show {
    fn new(quiet: bool, time: Duration, minutes: f64, limits: &Limits) -> Show {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Show { quiet, bar, began: Instant::now(), time, minutes, teacher: limits.teacher, line: RefCell::default() }
    }
}

impl Observer for Show {
    fn site(&self, _done: u64, _all: u64, site: &str) {
        // What trains says in which epoch it is; passes are quick.
        if site.starts_with("epoch") && !self.bar.is_hidden() {
            let line = format!("{}; {site}", self.line.borrow());
            self.bar.set_message(plain::line(&line).into_owned());
        }
    }

    fn goes_on(&self) -> bool {
        self.ends().is_none()
    }
}

impl Watch for Show {
    fn candidate(&self, number: usize, of: usize, what: &str, best: Option<&Candidate>) {
        let best = best.map(|c| format!("; best {}", in_short(c, &self.teacher))).unwrap_or_default();
        let left = self.time.saturating_sub(self.began.elapsed()).as_secs();
        let line = format!("{number}/{of} {what}{best}; {}:{:02} left", left / 60, left % 60);
        self.line.replace(line.clone());
        match (self.quiet, self.bar.is_hidden()) {
            (true, _) => {}
            (false, true) if messages::is_json() => messages::progress(number as u64 - 1, of as u64, &line, None),
            (false, true) => super::say(&line),
            (false, false) => self.bar.set_message(plain::line(&line).into_owned()),
        }
    }

    fn tried(&self, candidate: &Candidate) {
        let line =
            format!("  {}: {}, loss {:.4}", candidate.what, in_short(candidate, &self.teacher), candidate.score.loss);
        match (self.quiet, self.bar.is_hidden()) {
            (true, _) => {}
            (false, true) => super::say(&line),
            (false, false) => self.bar.println(plain::line(&line)),
        }
    }

    fn ends(&self) -> Option<String> {
        if signals::asked() {
            return Some("it was interrupted".into());
        }
        (self.began.elapsed() >= self.time).then(|| format!("{} minutes are over", self.minutes))
    }

    fn left(&self) -> Option<Duration> {
        Some(self.time.saturating_sub(self.began.elapsed()))
    }
}

impl Answer {
    /// The recipe that was found.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What the job takes of it.
    pub fn searched(&mut self) -> Searched {
        let outcome = self.found.outcome.take();
        let read = self.table.iter().cloned().collect();
        Searched { outcome, missed: self.found.missed.clone(), report: self.report(), read }
    }

    /// All that was tried, for the report.
    fn report(&self) -> report::Search {
        let tried = |c: &Candidate| report::Tried {
            recipe: c.what.clone(),
            bytes: c.size.bytes,
            loss: c.score.drop,
            chosen: c.steps == self.found.best.steps,
        };
        report::Search { tried: self.found.tried.iter().map(tried).collect() }
    }

    /// Says what was found, how good it is on what it was chosen by, and why the search ended.
    pub fn tell(&self) {
        let (found, best) = (&self.found, &self.found.best);
        let lost = match best.score.accuracy {
            Some([t, s]) => format!("accuracy {:.2} % of {:.2} %", 100.0 * s, 100.0 * t),
            None => format!("{:.2} points lost", 100.0 * best.score.drop),
        };
        super::say(&format!("Found: {}", best.what));
        if let Some(latency) = best.size.latency {
            super::say(&format!("{:.3} ms a run", latency as f64 / 1e6));
        }
        super::say(&format!("{lost}, loss {:.4}, on {} samples that it was chosen by", best.score.loss, self.choose));
        let tried = count(found.tried.len(), "candidate");
        super::say(&format!("Ended: {}; {tried}, {:.0} s", found.why, self.seconds));
        found.missed.iter().for_each(|missed| super::say(&format!("MISSED {}", plain::line(missed))));
    }
}
