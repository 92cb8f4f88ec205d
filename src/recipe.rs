//! Recipes: what to do with a teacher, as a file or as a list of `-p` arguments.

#[cfg(feature = "exec")]
mod cascade;
#[cfg(feature = "exec")]
mod distill;
#[cfg(feature = "exec")]
mod early_exit;
mod print;

#[cfg(feature = "exec")]
pub use cascade::CascadeStage;
#[cfg(feature = "exec")]
pub use distill::Distill;
#[cfg(feature = "exec")]
pub use early_exit::EarlyExit;

use crate::error::{Error, Result, read_text, reading};
use crate::passes::options::{OptionsError, Selection, Share, suggest};
use crate::passes::{self, Pass, Phase};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The option of `clean` that keeps what exporters note of nodes and values.
const KEEP_METADATA: &str = "keep-metadata";
/// The option of `prune-rows` that may be a file.
const KEEP_ROWS: &str = "keep-rows";

/// The step that runs all Clean passes but `bind-defaults` until none finds anything.
pub const CLEAN: &str = "clean";
/// The step that does nothing: load and save.
pub const NONE: &str = "none";

/// Steps, in order, with the data and the targets that go with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recipe {
    /// Data, and how it is read.
    pub data: DataSection,
    /// What the student must reach.
    pub target: TargetSection,
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// The file it was read from.
    pub path: Option<PathBuf>,
}

/// `[data]`: files and how their numbers become the model's input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataSection {
    /// Calibration data, without labels.
    pub calib: Option<PathBuf>,
    /// Samples of the calibration data to use.
    pub calib_samples: Option<usize>,
    /// Training data.
    pub train: Option<PathBuf>,
    /// Test data, for the check at the end.
    pub test: Option<PathBuf>,
    /// A number or a fraction: `"1/255"`.
    pub scale: Option<String>,
    /// After scaling, by channel.
    #[serde(serialize_with = "print::decimals")]
    pub mean: Vec<f32>,
    /// After scaling, by channel.
    #[serde(serialize_with = "print::decimals")]
    pub std: Vec<f32>,
    /// Of folders of pictures: HEIGHTxWIDTH,
    pub resize: Option<String>,
    /// `grey` or `rgb`,
    pub color: Option<String>,
    /// and a file with the names of the classes.
    pub classes: Option<PathBuf>,
    /// Outputs by the input that gets what they gave for the sample before,
    pub feedback: BTreeMap<String, String>,
    /// and zeros after so many samples.
    pub stream_length: Option<usize>,
}

/// `[target]`: what the student must reach.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TargetSection {
    /// The share that may be lost of any output.
    pub max_drop: Option<Share>,
    /// The least agreement of any output.
    pub min_agreement: Option<Share>,
    /// The largest error of any output by its metric.
    pub max_error: Option<Share>,
    /// What outputs are judged by, as `tutee check --metric` takes it.
    pub metric: Vec<String>,
    /// What outputs are, by name, as `tutee check --output` takes it.
    pub output: BTreeMap<String, String>,
}

/// One step as written.
#[derive(Debug, Clone)]
pub struct Step {
    /// The pass, or the stage.
    pub name: String,
    /// As they are written.
    pub options: toml::Table,
    /// Where it is written: `mobile.toml:14`, or the argument.
    place: String,
    /// Lines of the keys in the recipe file.
    lines: BTreeMap<String, usize>,
    file: Option<String>,
    /// What paths among the options are relative to.
    folder: PathBuf,
}

/// Where a step is written is no part of it.
impl PartialEq for Step {
    fn eq(&self, other: &Step) -> bool {
        (&self.name, &self.options) == (&other.name, &other.options)
    }
}

/// One step ready to run.
#[derive(Debug)]
pub enum Action {
    /// The step `none`.
    Nothing,
    /// All Clean passes but `bind-defaults`, until none finds anything; the one that removes metadata stays out if that is to
    /// be kept.
    Clean {
        /// Whether what exporters note of nodes and values stays.
        keep_metadata: bool,
    },
    /// A pass, and where it works.
    Pass(Box<dyn Pass>, Selection),
    /// Training.
    #[cfg(feature = "exec")]
    Distill(Box<Distill>),
    /// Exits for easy inputs.
    #[cfg(feature = "exec")]
    EarlyExit(EarlyExit),
    /// A small network in front.
    #[cfg(feature = "exec")]
    Cascade(CascadeStage),
}

impl Action {
    /// Whether it runs nothing but clean passes, or nothing.
    pub(crate) fn is_clean(&self) -> bool {
        matches!(self, Action::Nothing | Action::Clean { .. })
    }

    /// Whether it leaves what the network computes as it is.
    pub(crate) fn is_exact(&self) -> bool {
        self.is_clean() || matches!(self, Action::Pass(pass, _) if pass.phase() == Phase::Clean)
    }

    /// Whether it gives the student exits.
    pub(crate) fn makes_exits(&self) -> bool {
        match self {
            #[cfg(feature = "exec")]
            Action::EarlyExit(_) | Action::Cascade(_) => true,
            _ => false,
        }
    }

    /// Whether it trains the student.
    pub(crate) fn trains(&self) -> bool {
        match self {
            Action::Nothing | Action::Clean { .. } | Action::Pass(..) => false,
            #[cfg(feature = "exec")]
            Action::Distill(_) => true,
            #[cfg(feature = "exec")]
            Action::EarlyExit(_) | Action::Cascade(_) => false,
        }
    }
}

impl Recipe {
    /// What runs if nobody says what to run: clean, then 8-bit codebooks.
    pub fn default_steps() -> Vec<Step> {
        ["clean", "cluster-weights:bits=8"].iter().filter_map(|a| Step::parse(a).ok()).collect()
    }

    /// Sets `best-effort` of every step that is a pass.
    pub fn go_as_far_as_possible(&mut self) {
        for step in self.steps.iter_mut().filter(|step| passes::find(&step.name).is_some()) {
            step.options.insert("best-effort".into(), true.into());
        }
    }

    /// What options of steps could gain for nothing.
    pub fn advice(plan: &[(String, Action)]) -> Vec<String> {
        let advice = |(name, action): &(String, Action)| match action {
            Action::Pass(pass, _) => pass.advice().map(|what| format!("{name}: {what}")),
            _ => None,
        };
        plan.iter().filter_map(advice).collect()
    }

    /// Reads a recipe file. Its paths are relative to it.
    ///
    /// # Errors
    /// If the file cannot be read, is no TOML, or has keys or values that recipes do not have.
    pub fn load(path: &Path) -> Result<Recipe> {
        let text = read_text("read the recipe", path).map_err(|e| e.help("give a TOML file"))?;
        let mut recipe = Recipe::parse(&text, &path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let DataSection { calib, train, test, classes, .. } = &mut recipe.data;
        for p in [calib, train, test, classes].into_iter().flatten() {
            *p = folder.join(&*p);
        }
        recipe.steps.iter_mut().for_each(|step| step.folder = folder.to_path_buf());
        recipe.path = Some(path.to_path_buf());
        Ok(recipe)
    }

    /// Reads a recipe from its text; `file` is what errors call it.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, file: &str) -> Result<Recipe> {
        reading(file, || Recipe::read(text, file))
    }

    fn read(text: &str, file: &str) -> Result<Recipe> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let bad = |what: String, line: usize| Error::input(what).at(format!("{file}:{line}"));
        let spanned = toml::de::DeTable::parse(text).map_err(|e| {
            bad(format!("the recipe is not TOML: {}", e.message()), line_of(e.span().map_or(0, |s| s.start)))
        })?;
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            bad(format!("a value is none that TOML has: {}", e.message()), e.span().map_or(1, |s| line_of(s.start)))
        })?;
        let line_in = |table: &toml::de::DeTable<'_>, key: &str| {
            table.iter().find(|(k, _)| k.get_ref() == key).map(|(k, _)| line_of(k.span().start))
        };
        let line = |key: &str| line_in(spanned.get_ref(), key).unwrap_or(1);
        match table.remove("version") {
            Some(toml::Value::Integer(1)) => {}
            Some(v) => {
                return Err(bad(format!("recipe version {v} is not known"), line("version")).help("write version = 1"));
            }
            None => return Err(bad("the recipe has no version".into(), 1).help("begin it with version = 1")),
        }
        let section = |table: &mut toml::Table, key: &str| match table.remove(key) {
            None => Ok(toml::Table::new()),
            Some(toml::Value::Table(t)) => Ok(t),
            Some(_) => Err(bad(format!("`{key}` must be a section"), line(key)).help(format!("write [{key}]"))),
        };
        let located = |e: OptionsError, section: &str| {
            let inner = spanned.get_ref().get(section).and_then(|v| v.get_ref().as_table());
            let at = inner.zip(e.key.as_deref()).and_then(|(table, key)| line_in(table, key));
            option_error(e, &format!("{file}:{}, [{section}]", at.unwrap_or_else(|| line(section))))
        };
        let mut data_table = section(&mut table, "data")?;
        for key in ["mean", "std"] {
            if let Some(v) = data_table.get_mut(key).filter(|v| v.as_float().is_some() || v.as_integer().is_some()) {
                *v = toml::Value::Array(vec![v.clone()]);
            }
        }
        if let Some(v) = data_table.get_mut("scale").filter(|v| !v.is_str()) {
            *v = toml::Value::String(v.to_string());
        }
        let data = passes::options::read(data_table).map_err(|e| located(e, "data"))?;
        let mut target_table = section(&mut table, "target")?;
        if let Some(v) = target_table.get_mut("metric").filter(|v| v.is_str()) {
            *v = toml::Value::Array(vec![v.clone()]);
        }
        let target = passes::options::read(target_table).map_err(|e| located(e, "target"))?;
        let steps = match table.remove("step") {
            None => Vec::new(),
            Some(toml::Value::Array(items)) => items,
            Some(_) => return Err(bad("`step` must be a list".into(), line("step")).help("write [[step]]")),
        };
        if let Some(key) = table.keys().next() {
            let known = ["version", "data", "target", "step"].into_iter();
            return Err(bad(format!("unknown key `{key}`"), line(key)).help(suggest(key, known)));
        }
        let spans = spanned.get_ref().iter().find(|(k, _)| k.get_ref() == "step").map(|(_, v)| v.get_ref());
        let spans = spans.and_then(|v| v.as_array());
        let mut out = Vec::new();
        for (i, item) in steps.into_iter().enumerate() {
            let span = spans.and_then(|s| s.get(i));
            let at = span.map_or(1, |s| line_of(s.span().start));
            let place = format!("{file}:{at}, step {}", i + 1);
            let toml::Value::Table(mut options) = item else {
                return Err(Error::input("a step must be a section").at(place).help("write [[step]]"));
            };
            let lines = span.and_then(|s| s.get_ref().as_table()).map_or(BTreeMap::new(), |t| {
                t.iter().map(|(k, _)| (k.get_ref().to_string(), line_of(k.span().start))).collect()
            });
            let (pass, stage) = (options.remove("pass"), options.remove("stage"));
            if pass.is_some() && stage.is_some() {
                return Err(Error::input("a step has `pass` and `stage`").at(place).help("write one of them"));
            }
            let named = pass.or(stage);
            let Some(name) = named.as_ref().and_then(|v| v.as_str()) else {
                let given = options.keys().map(String::as_str).collect::<Vec<_>>().join("`, `");
                let given = if given.is_empty() { "is empty".into() } else { format!("has only `{given}`") };
                let why = named.map_or(format!("it {given}"), |v| format!("the name is {v}, not a text"));
                return Err(Error::input("a step names no pass")
                    .at(place)
                    .because(why)
                    .help("write pass = \"NAME\"; `tutee passes` lists them"));
            };
            let place = format!("{place} `{name}`");
            out.push(Step {
                name: name.into(),
                options,
                place,
                lines,
                file: Some(file.into()),
                folder: PathBuf::new(),
            });
        }
        Ok(Recipe { data, target, steps: out, path: None })
    }

    /// Makes every step ready to run.
    ///
    /// # Errors
    /// If a step names no pass, has options its pass does not have, or follows a step it cannot follow.
    pub fn plan(&self) -> Result<Vec<(String, Action)>> {
        let mut out = Vec::new();
        let mut encoder: Option<&str> = None;
        for step in &self.steps {
            let action = step.action()?;
            step.follows(&action, encoder)?;
            if matches!(&action, Action::Pass(p, _) if p.phase() == Phase::Encode) {
                encoder = Some(&step.name);
            }
            out.push((step.name.clone(), action));
        }
        for (i, (step, (_, action))) in self.steps.iter().zip(&out).enumerate() {
            let Action::Pass(pass, _) = action else { continue };
            if let Some(option) = pass.needs_training().filter(|_| !out[i..].iter().any(|o| o.1.trains())) {
                return Err(Error::input(format!("`{}` with this `{option}` must be trained", step.name))
                    .at(step.place_of(option))
                    .because("what it puts into the model is there to learn, and computes nothing of use before")
                    .help("add a step `distill` after it"));
            }
        }
        Ok(out)
    }
}

impl Step {
    /// Reads `PASS[:key=value,…]`; a key that takes several values is repeated.
    ///
    /// # Errors
    /// If it is not of that form.
    pub fn parse(argument: &str) -> Result<Step> {
        let (name, rest) = argument.split_once(':').unwrap_or((argument, ""));
        Step::new(name, rest, &format!("-p {argument}"))
    }

    /// A step with options in the form `key=value,…`, written at `place`.
    ///
    /// # Errors
    /// If they are not of that form.
    pub fn new(name: &str, options: &str, place: &str) -> Result<Step> {
        let (rest, place) = (options, place.to_string());
        let mut options = toml::Table::new();
        let (mut depth, mut quoted, mut escaped) = (0, false, false);
        let outside = |c: char| {
            quoted ^= c == '"' && !escaped;
            escaped = quoted && c == '\\' && !escaped;
            depth += i32::from(c == '{' && !quoted) - i32::from(c == '}' && !quoted);
            c == ',' && depth == 0 && !quoted
        };
        for item in rest.split(outside).filter(|i| !i.is_empty()) {
            let Some((key, text)) = item.split_once('=') else {
                return Err(Error::input(format!("\"{item}\" is no option"))
                    .at(place)
                    .help(format!("write {name}:key=value,key=value")));
            };
            if ["pass", "stage"].contains(&key) {
                return Err(Error::input(format!("`{key}` is no option"))
                    .at(place)
                    .help("give every step a -p of its own"));
            }
            let value = scalar(text);
            match options.remove(key) {
                None => options.insert(key.into(), value),
                Some(toml::Value::Array(mut items)) => {
                    items.push(value);
                    options.insert(key.into(), toml::Value::Array(items))
                }
                Some(first) => options.insert(key.into(), toml::Value::Array(vec![first, value])),
            };
        }
        Ok(Step { name: name.into(), options, place, lines: BTreeMap::new(), file: None, folder: PathBuf::new() })
    }

    /// Where it is written, for errors: a file with its line, or an argument.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Refuses a step that does `action` where the step `encoder` has encoded the weights by then.
    pub(crate) fn follows(&self, action: &Action, encoder: Option<&str>) -> Result<()> {
        let encodes = matches!(action, Action::Pass(p, _) if p.phase() == Phase::Encode);
        match encoder.filter(|_| !action.trains() && !encodes && !matches!(action, Action::Nothing)) {
            None => Ok(()),
            Some(before) => Err(Error::input(format!("`{}` cannot follow `{before}`", self.name))
                .at(self.place.clone())
                .because(format!("`{before}` encodes the weights, and what comes after would decode them again"))
                .help(format!("put `{before}` last; only `distill` and what encodes other weights may follow it"))),
        }
    }

    /// The step, ready to run.
    ///
    /// # Errors
    /// If it names no pass, or has options that its pass does not have.
    pub(crate) fn action(&self) -> Result<Action> {
        let mut options = self.options.clone();
        match self.name.as_str() {
            CLEAN | NONE => {
                let keep = if self.name == CLEAN { options.remove(KEEP_METADATA) } else { None };
                let keep_metadata = match keep.as_ref().map(toml::Value::as_bool) {
                    None => false,
                    Some(Some(keep)) => keep,
                    Some(None) => {
                        return Err(Error::input(format!("option `{KEEP_METADATA}` must be true or false"))
                            .at(self.place_of(KEEP_METADATA)));
                    }
                };
                if let Some(key) = options.keys().next() {
                    let only = if self.name == CLEAN {
                        format!("no options but `{KEEP_METADATA}`")
                    } else {
                        "no options".into()
                    };
                    return Err(Error::input(format!("unknown option `{key}` for `{}`", self.name))
                        .at(self.place_of(key))
                        .help(format!("`{}` takes {only}", self.name)));
                }
                return Ok(if self.name == CLEAN { Action::Clean { keep_metadata } } else { Action::Nothing });
            }
            _ => {}
        }
        let located = |e: OptionsError| {
            let place = e.key.as_deref().map_or(self.place.clone(), |k| self.place_of(k));
            let mut e = e;
            if e.what.starts_with("unknown option") {
                e.what = format!("{} for pass `{}`", e.what, self.name);
            }
            e.help = e.help.or(Some(format!("`tutee explain {}` lists the options", self.name)));
            option_error(e, &place)
        };
        #[cfg(feature = "exec")]
        if self.name == Distill::NAME {
            return Ok(Action::Distill(Box::new(Distill::read(self, &self.folder).map_err(located)?)));
        }
        #[cfg(feature = "exec")]
        if self.name == EarlyExit::NAME {
            return Ok(Action::EarlyExit(EarlyExit::read(self).map_err(located)?));
        }
        #[cfg(feature = "exec")]
        if self.name == CascadeStage::NAME {
            return Ok(Action::Cascade(CascadeStage::read(self, &self.folder).map_err(located)?));
        }
        let Some(entry) = passes::find(&self.name) else {
            return Err(Error::input(format!("unknown pass `{}`", self.name))
                .at(self.place.clone())
                .help(suggest(&self.name, names())));
        };
        let mut chosen = toml::Table::new();
        for key in Selection::KEYS {
            chosen.extend(options.remove(key).map(|v| (key.to_string(), v)));
        }
        if let Some(list) = options.get_mut(KEEP_ROWS).filter(|list| list.is_str()) {
            *list = self.ids(list.as_str().unwrap_or_default())?;
        }
        let pass = entry.make(options).map_err(located)?;
        let selection = pass.selection().take(&mut chosen).map_err(located)?;
        Ok(Action::Pass(pass, selection))
    }

    /// The ids that a file lists, one a line.
    fn ids(&self, path: &str) -> Result<toml::Value> {
        let path = self.folder.join(path);
        let text = read_text("read the ids", &path).map_err(|e| e.at(self.place_of(KEEP_ROWS)))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let id = |(i, line): (usize, &str)| match line.trim().parse::<u32>() {
            Ok(id) => Ok(toml::Value::Integer(id.into())),
            Err(_) => Err(Error::input(format!("\"{}\" is no id of a row", line.trim()))
                .at(format!("{}:{}", path.display(), i + 1))
                .because(format!("`{KEEP_ROWS}` lists rows, counted from 0"))
                .help("write one whole number a line")),
        };
        Ok(toml::Value::Array(lines.map(id).collect::<Result<_>>()?))
    }

    fn place_of(&self, key: &str) -> String {
        match (&self.file, self.lines.get(key)) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            _ => self.place.clone(),
        }
    }

    /// An error about this step's options that showed only on the model.
    pub(crate) fn error(&self, e: OptionsError) -> Error {
        let place = e.key.as_deref().map_or(self.place.clone(), |k| self.place_of(k));
        option_error(e, &place)
    }
}

/// A list, of which one item may stand by itself.
#[cfg(feature = "exec")]
#[derive(Debug)]
struct OneOrMore<T>(Vec<T>);

#[cfg(feature = "exec")]
impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: serde::de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let items = match toml::Value::deserialize(d)? {
            toml::Value::Array(items) => items,
            one => vec![one],
        };
        let items =
            items.into_iter().map(|item| T::deserialize(item).map_err(|e| serde::de::Error::custom(e.message())));
        Ok(OneOrMore(items.collect::<Result<_, _>>()?))
    }
}

fn option_error(e: OptionsError, place: &str) -> Error {
    let error = Error::input(e.what).at(place);
    match e.help {
        Some(help) => error.help(help),
        None => error,
    }
}

/// What a step can be called.
pub fn names() -> impl Iterator<Item = &'static str> {
    let stages: &[&str] = &[
        #[cfg(feature = "exec")]
        Distill::NAME,
        #[cfg(feature = "exec")]
        EarlyExit::NAME,
        #[cfg(feature = "exec")]
        CascadeStage::NAME,
    ];
    passes::REGISTRY.iter().map(|e| e.name).chain(stages.iter().copied()).chain([CLEAN, NONE])
}

/// A value on the command line: a TOML number or boolean if it reads as one, else text.
fn scalar(text: &str) -> toml::Value {
    let parsed: Option<toml::Table> = format!("v = {text}").parse().ok();
    let value = parsed.filter(|t| t.len() == 1).and_then(|mut t| t.remove("v"));
    value.unwrap_or_else(|| toml::Value::String(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_braces_are_no_separators() {
        let step = Step::parse("prune-channels:width={\"a*\"=0.5,\"b*\"=0.25},skip-first=1,only=x,only=y").unwrap();
        let want = "width = { \"a*\" = 0.5, \"b*\" = 0.25 }\nskip-first = 1\nonly = [\"x\", \"y\"]";
        assert_eq!(step.options, want.parse().unwrap());
        let error = Step::parse("clean:fast").unwrap_err().to_string();
        assert!(error.contains("\"fast\" is no option"), "{error}");
    }
}
