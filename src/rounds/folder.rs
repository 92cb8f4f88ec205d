//! The folder of a search: what is written there, by whom, and what is made of it.

use super::inputs::KeptInput;
use super::setting::{BoundSetting, Setting};
use crate::error::{Error, Result, io, read_text};
use crate::files::{Atomic, digest};
use crate::job::places::{NamedFile, same};
use crate::plain;
use crate::search::{
    CandidateTask, Found, Goal, Inputs, Options, Question, Store, Trials, Walked, Watch, differs, timed,
};
use crate::session::{Observer, Session};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Of the forms of the files here.
const VERSION: u32 = 1;
const PLAN: &str = "plan.json";
const ROUND: &str = "round";
const JOBS: &str = "jobs";
const RESULTS: &str = "results";

/// What a search is about; its paths are from its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedSearch {
    setting: Setting,
    inputs: Vec<KeptInput>,
    measured: Inputs,
    /// Samples that students are fitted to: as many as were asked for.
    fit: usize,
    question: Question,
}

/// What `plan.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    search: SharedSearch,
    /// Jobs of a round, at most.
    jobs: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    search: SharedSearch,
    task: CandidateTask,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultFile {
    /// The digest of the search.
    search: String,
    trials: Trials,
}

/// A file of a search: what it says, and who wrote it.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    tutee: String,
    content: T,
}

/// A search as it is planned.
pub struct JobFolder {
    folder: PathBuf,
    file: PlanFile,
}

/// What became of a job.
pub enum Done {
    /// Its candidate, in a few words, and what was measured.
    Now(String, usize),
    /// It was done already.
    Before(String),
}

/// What results came to.
pub enum Merged {
    /// Jobs of the next round, and how many results there are.
    Round(Vec<PathBuf>, usize),
    /// The search came to its end.
    Found(Box<Found>),
}

/// Writes a search into a folder, with the jobs of its first round. Gives their paths, and what the user should know.
///
/// # Errors
/// If the folder has another plan, something cannot be read or written, or the search makes no sense.
pub fn plan(
    setting: &Setting,
    goal: &Goal,
    options: &Options,
    jobs: usize,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let (plan, round) = (folder.join(PLAN), folder.join(ROUND));
    let written: [NamedFile<'_>; 2] = [("the plan", &plan), ("the list of jobs", &round)];
    let bench = setting.open(&written)?;
    let size = timed(bench.size, options.clock.as_ref(), &bench.teacher.model, &bench.sizes)?;
    let limits = goal.limits(&size)?;
    let ((question, measured, fit), warnings) = setting.with(&bench, |prepared| {
        let BoundSetting { data, fit, inputs, training, warnings, .. } = prepared;
        let session = Session::new(&bench.teacher.model, bench.teacher.bytes, data, observer);
        let question = Question::new(&session, limits, Options { training, ..options.clone() })?;
        Ok(((question, inputs, fit), warnings))
    })?;
    let old = plan.exists().then(|| open(folder).map_err(|e| e.help("give a new folder"))).transpose()?;
    let another = || {
        Error::input(format!("{} has the plan of another search", folder.display()))
            .because("jobs and results of one search lie in one folder")
            .help("give a new folder, or remove this one")
    };
    let is_same = |search: &SharedSearch| search.question == question && search.measured == measured;
    if old.as_ref().is_some_and(|old| !is_same(&old.file.search)) {
        return Err(another());
    }
    for part in [JOBS, RESULTS, "inputs"].map(|part| folder.join(part)) {
        std::fs::create_dir_all(&part).map_err(|e| io("make the folder", &part, &e))?;
    }
    let (inputs, setting) = kept(folder, setting, &bench.teacher.files)?;
    let search = SharedSearch { setting, inputs, measured, fit, question };
    if old.is_some_and(|old| old.file.search != search) {
        return Err(another());
    }
    let new = JobFolder { folder: folder.to_path_buf(), file: PlanFile { search, jobs } };
    write(&plan, &new.file)?;
    let Merged::Round(jobs, _) = new.walked(Trials::new(), &BTreeSet::new())? else {
        return Err(Error::internal("a search ended before it began"));
    };
    Ok((jobs, warnings))
}

/// Copies what a setting reads into a folder, and gives the setting there.
fn kept(folder: &Path, setting: &Setting, model: &[PathBuf]) -> Result<(Vec<KeptInput>, Setting)> {
    let data = &setting.data;
    let others =
        [("calibration data", &data.calib), ("training data", &data.train), ("list of classes", &data.classes)];
    let mut inputs = vec![(setting.model.clone(), KeptInput::keep(folder, "the teacher", &setting.model, model)?)];
    for (what, path) in others.into_iter().filter_map(|(what, path)| Some((what, path.as_deref()?))) {
        // What is trained with may be what is fitted to.
        if inputs.iter().all(|(from, _)| !same(from, path)) {
            inputs.push((path.to_path_buf(), KeptInput::keep(folder, &format!("the {what}"), path, &[])?));
        }
    }
    let place = |path: &Path| inputs.iter().find(|(from, _)| same(from, path)).map(|(_, input)| input.path.clone());
    let moved = setting.moved(&|path| place(path).unwrap_or(path.to_path_buf()));
    Ok((inputs.into_iter().map(|(_, input)| input).collect(), moved))
}

/// Reads the plan of a folder.
///
/// # Errors
/// If there is none, or it is of another version.
pub fn open(folder: &Path) -> Result<JobFolder> {
    let path = folder.join(PLAN);
    if !path.is_file() {
        return Err(Error::input(format!("{} has no plan of a search", folder.display()))
            .help("`tutee search plan MODEL -o JOBS …` writes one"));
    }
    Ok(JobFolder { folder: folder.to_path_buf(), file: read(&path, "plan of a search", "plan the search again")? })
}

/// Does a job of a folder, unless it is done. `watch` may end it; `warn` is told what the user should know.
///
/// # Errors
/// If the job or its inputs are missing or changed, or its candidate cannot be made.
pub fn run(path: &Path, watch: &(impl Watch + Observer), warn: &dyn Fn(&str)) -> Result<Done> {
    let again = "copy it again, or plan the search again with `tutee search plan`";
    let job: JobFile = read(path, "job of a search", again)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if text(&job)?.1 != name {
        return Err(Error::input(format!("{} was changed", path.display()))
            .because("a job is called by what is in it")
            .help(again));
    }
    let folder = path.canonicalize().map_err(|e| io("read", path, &e))?;
    let folder = folder.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let JobFile { search, task } = &job;
    let id = text(search)?.1;
    let place = folder.join(RESULTS).join(format!("{name}.json"));
    if read::<ResultFile>(&place, "result", "").is_ok_and(|done| done.search == id) {
        return Ok(Done::Before(task.what.clone()));
    }
    search.inputs.iter().try_for_each(|input| input.check(folder))?;
    let setting = search.setting.moved(&|path| folder.join(path));
    let bench = setting.open(&[("the result", &place)])?;
    let trials = setting.with(&bench, |BoundSetting { data, judge, inputs, warnings, .. }| {
        if let Some(what) = differs(&search.measured, &inputs) {
            return Err(Error::input(format!("{} cannot be done here", path.display()))
                .because(format!("it was planned with {what}"))
                .help("plan and do all jobs with the same tutee and the same data"));
        }
        warnings.iter().for_each(|what| warn(what));
        let session = Session::new(&bench.teacher.model, bench.teacher.bytes, data, watch);
        search.question.make(&session, &judge, inputs, task, watch)
    })?;
    let count = trials.len();
    let results = folder.join(RESULTS);
    std::fs::create_dir_all(&results).map_err(|e| io("make the folder", &results, &e))?;
    write(&place, &ResultFile { search: id, trials })?;
    Ok(Done::Now(task.what.clone(), count))
}

/// Takes the results of a folder, and writes the jobs of the next round, or gives what was found. `warn` is told what the user
/// should know.
///
/// # Errors
/// If no job of the last round is done, or a result is of another version or another search.
pub fn merge(plan: &JobFolder, warn: &dyn Fn(&str)) -> Result<Merged> {
    let results = plan.results()?;
    let round = plan.round()?;
    let done = |job: &PathBuf| job.file_stem().is_some_and(|id| results.contains_key(&*id.to_string_lossy()));
    if !round.is_empty() && !round.iter().any(done) {
        let folder = plan.folder.display();
        return Err(Error::input(format!("no job of this round is done in {folder}"))
            .because(format!("of {} jobs there is no result", round.len()))
            .help(format!("do them first: tutee search run {folder}")));
    }
    let mut trials: BTreeMap<String, (&str, crate::search::Trial)> = BTreeMap::new();
    for (id, result) in &results {
        for (key, trial) in &result.trials {
            let Some((other, known)) = trials.get_mut(key) else {
                trials.insert(key.clone(), (id, trial.clone()));
                continue;
            };
            let differs = known.score.is_some() && trial.score.is_some() && known != trial;
            if differs || known.size != trial.size {
                warn(&format!(
                    "{other}.json and {id}.json measured the same student differently: machines that compute differently \
                     may find another answer than one of them alone"
                ));
            }
            if known.score.is_none() {
                *known = trial.clone();
            }
        }
    }
    let trials = trials.into_iter().map(|(key, (_, trial))| (key, trial)).collect();
    plan.walked(trials, &results.into_keys().collect())
}

impl JobFolder {
    /// The model and the data, where they are.
    pub fn setting(&self) -> Setting {
        self.file.search.setting.moved(&|path| self.folder.join(path))
    }

    /// What is searched for.
    pub fn question(&self) -> &Question {
        &self.file.search.question
    }

    /// Samples that students are fitted to (as many as were asked for), and that they are chosen by.
    pub fn samples(&self) -> [usize; 2] {
        [self.file.search.fit, self.file.search.measured.choose_samples]
    }

    /// Jobs that are to be done, those that are needed most before the others.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub fn round(&self) -> Result<Vec<PathBuf>> {
        let path = self.folder.join(ROUND);
        let listed = if path.exists() { read_text("read the list of jobs", &path)? } else { String::new() };
        Ok(listed.lines().map(|line| self.folder.join(line)).collect())
    }

    /// Says that there is nothing left to be done.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn finish(&self) -> Result<()> {
        put(&self.folder.join(ROUND), "")
    }

    /// Walks through the search with what was measured, and writes the jobs of the next round.
    fn walked(&self, trials: Trials, done: &BTreeSet<String>) -> Result<Merged> {
        let PlanFile { search, jobs } = &self.file;
        let tasks = match search.question.replay(Store::of(search.measured.clone(), trials), *jobs)? {
            Walked::Round(tasks) => tasks,
            Walked::Found(found) => return Ok(Merged::Found(found)),
        };
        let (mut paths, mut lines) = (Vec::new(), String::new());
        for task in tasks {
            let job = JobFile { search: search.clone(), task };
            let id = text(&job)?.1;
            if done.contains(&id) {
                return Err(Error::internal(format!("the result of the job {id} has not what its search asks for")));
            }
            let name = format!("{JOBS}/{id}.json");
            let path = self.folder.join(&name);
            write(&path, &job)?;
            lines.push_str(&format!("{name}\n"));
            paths.push(path);
        }
        put(&self.folder.join(ROUND), &lines)?;
        Ok(Merged::Round(paths, done.len()))
    }

    /// By the digests of their jobs.
    fn results(&self) -> Result<BTreeMap<String, ResultFile>> {
        let own = text(&self.file.search)?.1;
        let folder = self.folder.join(RESULTS);
        let mut results = BTreeMap::new();
        if !folder.exists() {
            return Err(Error::input(format!("{} has no folder `{RESULTS}`", self.folder.display()))
                .because("jobs write there what they measured, and a plan makes it")
                .help("bring it there, or make an empty one: jobs without results are planned again"));
        }
        for entry in folder.read_dir().map_err(|e| io("read", &folder, &e))? {
            let path = entry.map_err(|e| io("read", &folder, &e))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let again = "remove it, and do its job again with the tutee that merges";
            let result: ResultFile = read(&path, "result of a job", again)?;
            if result.search != own {
                return Err(Error::input(format!("{} is a result of another search", path.display()))
                    .help("remove it: results lie in the folder of their plan"));
            }
            results.insert(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), result);
        }
        Ok(results)
    }
}

/// What is written of something, and its digest.
fn text<T: Serialize>(content: &T) -> Result<(String, String)> {
    let file = Versioned { version: VERSION, tutee: env!("CARGO_PKG_VERSION").into(), content };
    let text = plain::json(&file)?;
    let digest = digest(text.as_bytes()).map_err(|e| Error::internal(e.to_string()))?;
    Ok((text, format!("{digest:016x}")))
}

fn write<T: Serialize>(path: &Path, content: &T) -> Result<()> {
    put(path, &text(content)?.0)
}

/// Writes a file that is there whole or not at all, unless it is there with that text.
fn put(path: &Path, text: &str) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let mut file = Atomic::create(path)?;
    file.write(|w| w.write_all(text.as_bytes()))?;
    file.commit()
}

/// Reads a file; `what` it should be, and what helps where it is not.
fn read<T: DeserializeOwned>(path: &Path, what: &str, help: &str) -> Result<T> {
    let text = read_text(&format!("read the {what}"), path)?;
    let not = |why: String| Error::input(format!("{} is no {what}", path.display())).because(why).help(help);
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| not(e.to_string()))?;
    let own = env!("CARGO_PKG_VERSION");
    match (value.get("version").and_then(serde_json::Value::as_u64), value.get("tutee").and_then(|t| t.as_str())) {
        (Some(version), Some(tutee)) if version == u64::from(VERSION) && tutee == own => {}
        (Some(version), Some(tutee)) => {
            let why = format!("tutee {tutee} wrote it in form {version}, and this is tutee {own} with form {VERSION}");
            return Err(Error::input(format!("{} is of another version", path.display())).because(why).help(help));
        }
        _ => return Err(not("it does not say which version wrote it".into())),
    }
    serde_json::from_value::<Versioned<T>>(value).map(|file| file.content).map_err(|e| not(e.to_string()))
}
