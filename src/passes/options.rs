//! Options of passes: how tables become them, and the selection of sites that every pass shares.

pub use crate::analysis::readers::{layers, weight};
use crate::ir::{Graph, NodeId};
use crate::passes::Site;
use crate::passes::by_layer::ByLayer;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use wildmatch::WildMatch;

/// Smaller constants are worth no row of a step without `min-weights`.
const WORTH_A_WORD: usize = 512;

/// Why options could not be read: the key, if one is to blame, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionsError {
    /// The key that is to blame.
    pub key: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: Option<String>,
}

/// Reads a table into an options struct, which refuses keys it does not know.
///
/// # Errors
/// If a key is unknown or its value is of the wrong kind.
pub fn read<T: DeserializeOwned>(table: toml::Table) -> Result<T, OptionsError> {
    let given: Vec<String> = table.keys().cloned().collect();
    let value = toml::Value::Table(table.clone());
    value.try_into().map_err(|e: toml::de::Error| explain(&given, &table, e.message()))
}

/// Turns serde's words into ours: it names the unknown field and then the known ones, each in backticks.
fn explain<'a>(given: &[String], table: &toml::Table, message: &'a str) -> OptionsError {
    let quoted: Vec<&'a str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") {
        let (key, known) = (quoted[0], &quoted[1..]);
        let known = known.iter().copied().chain(Selection::KEYS.iter().copied());
        return OptionsError {
            key: Some(key.to_string()),
            what: format!("unknown option `{key}`"),
            help: Some(suggest(key, known)),
        };
    }
    let message = plain(message);
    let to_blame = given.iter().find(|k| message.contains(&format!("`{k}`")));
    let only = if table.len() == 1 { given.first() } else { None };
    let key = to_blame.or(only).cloned();
    let what = match &key {
        Some(k) => format!("option `{k}` cannot have this value: {message}"),
        None => format!("an option has a value it cannot have: {message}"),
    };
    OptionsError { key, what, help: None }
}

/// serde names the type it wants as Rust does.
fn plain(message: &str) -> String {
    let words = [
        ("a nonzero usize", "a whole number above 0"),
        ("usize", "a whole number"),
        ("u64", "a whole number"),
        ("u32", "a whole number"),
        ("u8", "a whole number"),
    ];
    let words = words.into_iter().chain([("f64", "a number"), ("f32", "a number"), ("a sequence", "a list")]);
    words.fold(message.to_string(), |m, (rust, plain)| {
        m.replace(&format!("expected {rust}"), &format!("expected {plain}"))
    })
}

/// "did you mean …" if something is near, else what there is.
pub fn suggest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = known.iter().map(|k| (strsim::jaro_winkler(word, k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((score, k)) if score > 0.8 => format!("did you mean `{k}`?"),
        _ => format!("there are: {}", known.join(", ")),
    }
}

/// A share between 0 and 1, written `0.01` or `"1%"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share(pub f64);

impl Share {
    /// # Errors
    /// If the text is no number between 0 and 1, or percentage between 0 and 100.
    pub fn parse(text: &str) -> Result<Share, String> {
        let number = match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map(|p| p / 100.0),
            None => text.trim().parse(),
        };
        match number {
            Ok(n) if (0.0..=1.0).contains(&n) => Ok(Share(n)),
            _ => Err(format!("\"{text}\" is no share: write 0.01 or 1%")),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Share, D::Error> {
        let text = match toml::Value::deserialize(d)? {
            toml::Value::String(s) => s,
            toml::Value::Float(f) => f.to_string(),
            toml::Value::Integer(i) => i.to_string(),
            other => return Err(D::Error::custom(format!("{other} is no share: write 0.01 or \"1%\""))),
        };
        Share::parse(&text).map_err(D::Error::custom)
    }
}

/// The value of the only option given of several that exclude each other; `None` if none is.
///
/// # Errors
/// If more than one is given.
pub fn one_of<T>(options: impl IntoIterator<Item = (&'static str, Option<T>)>) -> Result<Option<T>, String> {
    let mut given = options.into_iter().filter_map(|(key, value)| Some((key, value?)));
    match (given.next(), given.next()) {
        (Some((a, _)), Some((b, _))) => Err(format!("`{a}` and `{b}` exclude each other")),
        (one, _) => Ok(one.map(|o| o.1)),
    }
}

/// # Errors
/// If a share that is given is 0.
pub fn not_zero(shares: impl IntoIterator<Item = (&'static str, Option<Share>)>) -> Result<(), String> {
    match shares.into_iter().find(|s| s.1 == Some(Share(0.0))) {
        Some((key, _)) => Err(format!("`{key}` = 0 would leave nothing")),
        None => Ok(()),
    }
}

/// Which sites a step works on, and how far it may go there.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Globs over node names: these are left alone.
    pub skip: Vec<String>,
    /// Globs over node names: if there are any, all others are left alone.
    pub only: Vec<String>,
    /// The first layers, in graph order, are left alone: so many, or a tenth of them if that is less and nothing is given.
    pub skip_first: SkipFirst,
    /// The last layers, in graph order, are left alone.
    pub skip_last: usize,
    /// Layers with fewer weights are left alone.
    pub min_weights: usize,
    /// Whether calibration data, if there is any, may change weights.
    pub repair: Repair,
    /// The share of a layer's output that may be lost, as it is predicted, where a budget decides how far to go.
    pub max_loss: Share,
    /// Whether a budget that cannot be reached is gone towards as far as that goes.
    pub best_effort: bool,
    /// How much more the model's output suffers from what one layer loses than from what another does: where a budget decides,
    /// losses count that many times. Globs over node names; 1 where none matches.
    pub sensitivity: Option<ByLayer<f64>>,
}

impl Default for Selection {
    fn default() -> Self {
        Selection {
            skip: Vec::new(),
            only: Vec::new(),
            skip_first: SkipFirst::Exactly(0),
            skip_last: 0,
            min_weights: 0,
            repair: Repair::Full,
            max_loss: Share(0.5),
            best_effort: false,
            sensitivity: None,
        }
    }
}

/// How many of the first layers are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipFirst {
    /// So many.
    Exactly(usize),
    /// A tenth of all, rounded up, and at most so many.
    Tenth(usize),
}

impl SkipFirst {
    fn of(self, layers: usize) -> usize {
        match self {
            SkipFirst::Exactly(n) => n,
            SkipFirst::Tenth(most) => layers.div_ceil(10).min(most),
        }
    }
}

/// What calibration data is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repair {
    /// Fitting the weights of what a step changed, and of the layers behind it.
    #[default]
    Full,
    /// Nothing: weights stay as the step leaves them.
    None,
}

impl Selection {
    /// What recipes call the options that say where.
    pub const KEYS: [&str; 9] =
        ["skip", "only", "skip-first", "skip-last", "min-weights", "repair", "max-loss", "best-effort", "sensitivity"];

    /// Takes the selection's keys out of a step's table; what the table does not say stays as it is.
    ///
    /// # Errors
    /// If a value is of the wrong kind.
    pub fn take(mut self, table: &mut toml::Table) -> Result<Selection, OptionsError> {
        let wrong = |key: &str, want: &str| OptionsError {
            key: Some(key.into()),
            what: format!("option `{key}` must be {want}"),
            help: None,
        };
        for (key, list) in [("skip", &mut self.skip), ("only", &mut self.only)] {
            match table.remove(key) {
                None => {}
                Some(toml::Value::String(s)) => *list = vec![s],
                Some(toml::Value::Array(items)) => {
                    let texts = items.into_iter().map(|i| i.as_str().map(str::to_string));
                    *list = texts.collect::<Option<_>>().ok_or_else(|| wrong(key, "a list of node names"))?;
                }
                Some(_) => return Err(wrong(key, "a list of node names")),
            }
        }
        let mut skip_first = usize::MAX;
        let counts = [
            ("skip-first", &mut skip_first),
            ("skip-last", &mut self.skip_last),
            ("min-weights", &mut self.min_weights),
        ];
        for (key, count) in counts {
            match table.remove(key) {
                None => {}
                Some(toml::Value::Integer(i)) if i >= 0 => *count = i as usize,
                Some(_) => return Err(wrong(key, "a number, 0 or more")),
            }
        }
        if skip_first != usize::MAX {
            self.skip_first = SkipFirst::Exactly(skip_first);
        }
        match table.remove("repair").as_ref().map(|v| v.as_str()) {
            None => {}
            Some(Some("full")) => self.repair = Repair::Full,
            Some(Some("none")) => self.repair = Repair::None,
            Some(_) => return Err(wrong("repair", "\"full\" or \"none\"")),
        }
        if let Some(value) = table.remove("max-loss") {
            self.max_loss = value.try_into().map_err(|_| wrong("max-loss", "a share such as 0.5 or \"50%\""))?;
        }
        match table.remove("best-effort") {
            None => {}
            Some(toml::Value::Boolean(yes)) => self.best_effort = yes,
            Some(_) => return Err(wrong("best-effort", "true or false")),
        }
        if let Some(value) = table.remove("sensitivity") {
            let table: Option<ByLayer<f64>> = value.try_into().ok();
            let positive = |s: &ByLayer<f64>| s.is_table() && s.values().all(|v| v.is_finite() && *v > 0.0);
            let wanted = "a table of layers with numbers above 0, such as { \"conv*\" = 2.5 }";
            self.sensitivity = Some(table.filter(positive).ok_or_else(|| wrong("sensitivity", wanted))?);
        }
        Ok(self)
    }

    /// Resolves the globs and counts against a graph.
    ///
    /// # Errors
    /// If a glob matches no node.
    pub fn resolve(&self, graph: &Graph) -> Result<Selected<'_>, OptionsError> {
        let layers = layers(graph);
        if let Some(sensitivity) = &self.sensitivity {
            let wholes = graph.nodes().flat_map(|n| with_wholes(graph.label(n))).map(str::to_string);
            sensitivity.fits(graph, "sensitivity", &wholes.collect::<Vec<_>>())?;
        }
        Ok(Selected {
            rule: self,
            skip: matching(graph, "skip", &self.skip)?,
            only: matching(graph, "only", &self.only)?,
            first: layers.iter().take(self.skip_first.of(layers.len())).copied().collect(),
            last: layers.iter().rev().take(self.skip_last).copied().collect(),
        })
    }

    /// What of it holds in a body of control flow: names of nodes there. First and last layers are those of the graph around
    /// it. `None` if only others were asked for.
    pub fn within(&self, body: &Graph) -> Option<Selection> {
        let matches = |glob: &&String| {
            let pattern = WildMatch::new(glob);
            body.nodes().any(|n| pattern.matches(body.label(n)))
        };
        let [skip, only] =
            [&self.skip, &self.only].map(|globs| globs.iter().filter(matches).cloned().collect::<Vec<_>>());
        let asked = self.only.is_empty() || !only.is_empty();
        let (skip_first, skip_last) = (SkipFirst::Exactly(0), 0);
        asked.then(|| Selection { skip, only, skip_first, skip_last, sensitivity: None, ..self.clone() })
    }
}

/// The nodes whose names match any of the globs that an option lists.
///
/// # Errors
/// If a glob matches no node.
pub fn matching<'a>(
    graph: &Graph,
    key: &str,
    globs: impl IntoIterator<Item = &'a String>,
) -> Result<HashSet<NodeId>, OptionsError> {
    let labels = || graph.nodes().map(|n| graph.label(n));
    let mut found = HashSet::new();
    for glob in globs {
        let pattern = WildMatch::new(glob);
        let before = found.len();
        let hits = graph.nodes().filter(|&n| pattern.matches(graph.label(n)));
        found.extend(hits);
        if found.len() == before && !labels().any(|l| pattern.matches(l)) {
            return Err(OptionsError {
                key: Some(key.into()),
                what: format!("`{key}` names \"{glob}\", which matches no node"),
                help: Some(near_node(glob, labels())),
            });
        }
    }
    Ok(found)
}

/// Where to look for a name that is there.
pub fn near_node<'a>(glob: &str, labels: impl Iterator<Item = &'a str>) -> String {
    let near = labels.map(|l| (strsim::jaro_winkler(glob, l), l)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((score, l)) if score > 0.8 => format!("did you mean \"{l}\"? `tutee show MODEL` lists the names"),
        _ => "`tutee show MODEL` lists the names".into(),
    }
}

/// A name, and those of what it may be a part of: `conv1.v` is of `conv1`.
fn with_wholes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once(name).chain(name.rmatch_indices('.').map(|(at, _)| &name[..at]))
}

/// A selection resolved against a graph.
pub struct Selected<'a> {
    rule: &'a Selection,
    skip: HashSet<NodeId>,
    only: HashSet<NodeId>,
    first: HashSet<NodeId>,
    last: HashSet<NodeId>,
}

impl Selected<'_> {
    /// Whether the step may fit weights to calibration data.
    pub fn repairs(&self) -> bool {
        self.rule.repair == Repair::Full
    }

    /// The share of a layer's output that a budget may cost it.
    pub fn max_loss(&self) -> f64 {
        self.rule.max_loss.0
    }

    /// From how many elements on a constant is worth a word.
    pub fn least(&self) -> usize {
        if self.rule.min_weights > 0 { self.rule.min_weights } else { WORTH_A_WORD }
    }

    /// Whether a budget that cannot be reached is no error.
    pub fn best_effort(&self) -> bool {
        self.rule.best_effort
    }

    /// Whether the recipe says how many times the losses of layers count.
    pub fn weighs(&self) -> bool {
        self.rule.sensitivity.is_some()
    }

    /// How many times the losses of a layer that goes by these names count. What a layer was split into goes by its name, too.
    pub fn sensitivity<S: AsRef<str>>(&self, graph: &Graph, names: &[S]) -> f64 {
        let Some(table) = &self.rule.sensitivity else { return 1.0 };
        let names: Vec<String> = names.iter().flat_map(|name| with_wholes(name.as_ref())).map(str::to_string).collect();
        table.at(graph, "sensitivity", &names).copied().unwrap_or(1.0)
    }

    /// Whether `skip` names a node: then its weights stay, too.
    pub fn skips(&self, node: NodeId) -> bool {
        self.skip.contains(&node)
    }

    /// Why the selection leaves a site alone, if it does.
    pub fn refuses(&self, graph: &Graph, site: &Site) -> Option<String> {
        let nodes = site.nodes(graph);
        let any = |set: &HashSet<NodeId>| nodes.iter().any(|n| set.contains(n));
        if any(&self.skip) {
            let one = nodes.iter().find(|n| self.skip.contains(n)).filter(|_| nodes.len() > 1);
            return Some(
                one.map_or("named by `skip`".into(), |&n| format!("\"{}\" is named by `skip`", graph.label(n))),
            );
        }
        if !self.only.is_empty() {
            if !any(&self.only) {
                return Some("not named by `only`".into());
            }
            // Coupled channels go together whichever of their layers is named; a weight is not changed behind the back of
            // another that reads it.
            let other = nodes.iter().find(|n| !self.only.contains(n));
            if let Some(&n) = other.filter(|_| !matches!(site, Site::Channels { .. })) {
                return Some(format!("`only` does not name \"{}\", which shares it", graph.label(n)));
            }
        }
        if any(&self.first) {
            let count = self.first.len();
            let layers =
                if count == 1 { "it is the first layer".into() } else { format!("among the first {count} layers") };
            return Some(format!("{layers} (`skip-first`)"));
        }
        if any(&self.last) {
            return Some(format!("among the last {} layers (`skip-last`)", self.rule.skip_last));
        }
        let weights = nodes
            .iter()
            .filter_map(|&n| weight(graph, n))
            .map(|(_, v)| graph.value(v).constant().map_or(0, |t| t.len()));
        let weights = match site {
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => graph.value(*v).constant().map(|t| t.len()),
            Site::Node(_) | Site::Layer(_) | Site::Channels { .. } => weights.max(),
        };
        match weights {
            Some(n) if n < self.rule.min_weights => {
                Some(format!("{n} weights, fewer than `min-weights` = {}", self.rule.min_weights))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let good = ["0.01", "1%", " 1 % ", "0", "100%"].map(|s| Share::parse(s).unwrap().0);
        assert_eq!(good, [0.01, 0.01, 0.01, 0.0, 1.0]);
        for bad in ["", "%", "1.5", "-0.1", "101%", "nan", "one"] {
            assert!(Share::parse(bad).is_err(), "{bad}");
        }
    }
}
