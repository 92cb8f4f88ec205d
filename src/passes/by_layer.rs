//! Some options take one value for all layers or a table with values for some of them:
//!
//! ```toml
//! [[step]]
//! pass = "factorize-linear"
//! rank = { "encoder.*" = 12, "head.fc" = 40 }
//! ```
//!
//! On the command line: `-p 'factorize-linear:rank={"encoder.*"=12,"head.fc"=40}'`.
//!
//! A key is the name of a node (`tutee show MODEL` lists them), or a glob over names, in which `*` stands for any text and `?`
//! for any one character. `cluster-weights` and `prune-weights` take names of weights, too. Where several keys match a layer, a
//! name counts before a glob, and a longer glob before a shorter one. A layer that no key matches stays as it is, but for
//! `vector`, where its codes are for single weights then; a key that matches nothing is an error.
//!
//! | pass | options |
//! |---|---|
//! | `separate-convs` | `rank`, `energy`, `order` |
//! | `factorize-linear` | `rank`, `ratio`, `energy` |
//! | `factorize-convs` | `rank`, `ratio`, `energy`, `scheme` |
//! | `prune-channels` | `width`, `units` |
//! | `prune-inputs` | `inputs`, `ratio` |
//! | `prune-weights` | `sparsity` |
//! | `cluster-weights` | `levels`, `bits`, `vector` |
//!
//! `prune-channels` works on groups of channels: a group goes by the name of any layer that makes it. Where one layer makes
//! several groups, `NAME#1` is the first of them, `NAME#2` the second.

use crate::ir::Graph;
use crate::passes::Choice;
use crate::passes::options::{OptionsError, near_node};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use std::collections::BTreeMap;
use wildmatch::WildMatch;

/// The manual page: the doc comment that heads this file.
pub fn manual() -> String {
    crate::passes::manual(include_str!("by_layer.rs"))
}

/// One value for all layers, or values for those that a table names.
#[derive(Debug, Clone, PartialEq)]
pub enum ByLayer<T> {
    /// The same for all layers.
    All(T),
    /// For layers by name or glob.
    Table {
        /// By name or glob.
        entries: BTreeMap<String, T>,
        /// Why a layer that no entry names stays as it is, if a budget has filled the table.
        rest: Option<&'static str>,
    },
}

impl<T> ByLayer<T> {
    /// A table that a budget has filled, with the reason for which other layers stay as they are.
    pub fn filled(entries: impl IntoIterator<Item = (String, T)>, rest: &'static str) -> ByLayer<T> {
        ByLayer::Table { entries: entries.into_iter().collect(), rest: Some(rest) }
    }

    /// The same of other values.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> ByLayer<U> {
        match self {
            ByLayer::All(value) => ByLayer::All(f(value)),
            ByLayer::Table { entries, rest } => {
                ByLayer::Table { entries: entries.into_iter().map(|(name, value)| (name, f(value))).collect(), rest }
            }
        }
    }

    /// Whether it differs by layer.
    pub fn is_table(&self) -> bool {
        matches!(self, ByLayer::Table { .. })
    }

    /// All values there are.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        let (one, entries) = match self {
            ByLayer::All(value) => (Some(value), None),
            ByLayer::Table { entries, .. } => (None, Some(entries.values())),
        };
        one.into_iter().chain(entries.into_iter().flatten())
    }

    /// The value that option `key` has for a layer that goes by these names, the most telling first.
    ///
    /// # Errors
    /// If there is none: why the layer stays as it is.
    pub fn at(&self, graph: &Graph, key: &str, names: &[String]) -> Result<&T, String> {
        let (entries, rest) = match self {
            ByLayer::All(value) => return Ok(value),
            ByLayer::Table { entries, rest } => (entries, rest),
        };
        if let Some(value) = names.iter().find_map(|name| entries.get(name)) {
            return Ok(value);
        }
        let matches = |key: &str| is_glob(graph, key) && names.iter().any(|name| WildMatch::new(key).matches(name));
        // Of several of one length the first of the alphabet.
        let best = entries.iter().rev().filter(|(key, _)| matches(key)).max_by_key(|(key, _)| key.len());
        best.map(|(_, value)| value)
            .ok_or_else(|| rest.map_or_else(|| format!("no entry of `{key}` names it"), str::to_string))
    }

    /// Whether every entry of option `option`, if it is a table, names a node, or one of `more`.
    ///
    /// # Errors
    /// If one does not.
    pub fn fits(&self, graph: &Graph, option: &str, more: &[String]) -> Result<(), OptionsError> {
        let ByLayer::Table { entries, .. } = self else { return Ok(()) };
        let names = || graph.nodes().map(|n| graph.label(n)).chain(more.iter().map(String::as_str));
        let missing = entries.keys().find(|key| {
            let pattern = WildMatch::new(key);
            !names().any(|name| name == key.as_str() || pattern.matches(name))
        });
        missing.map_or(Ok(()), |key| {
            Err(OptionsError {
                key: Some(option.to_string()),
                what: format!("`{option}` names \"{key}\", which matches no node"),
                help: Some(near_node(key, names())),
            })
        })
    }
}

/// Whether a key is a glob: not if it is the name of something.
fn is_glob(graph: &Graph, key: &str) -> bool {
    let named = || graph.find_value(key).is_some() || graph.nodes().any(|n| graph.label(n) == key);
    key.contains(['*', '?']) && !named()
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for ByLayer<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let read = |value: toml::Value| T::deserialize(value).map_err(|e| D::Error::custom(e.message()));
        match toml::Value::deserialize(d)? {
            toml::Value::Table(table) => {
                let entries = table.into_iter().map(|(name, value)| Ok((name, read(value)?)));
                Ok(ByLayer::Table { entries: entries.collect::<Result<_, _>>()?, rest: None })
            }
            value => read(value).map(ByLayer::All),
        }
    }
}

/// The options by which a pass does what was chosen at sites of these names.
pub fn options(chosen: &[(String, Choice)]) -> toml::Table {
    let mut options = toml::Table::new();
    let mut say = |key: &str, name: &str, value: toml::Value| {
        let table = options.entry(key).or_insert_with(|| toml::Table::new().into());
        table.as_table_mut().map(|table| table.insert(name.into(), value));
    };
    let number = |n: usize| toml::Value::Integer(n as i64);
    for (name, choice) in chosen {
        match *choice {
            Choice::LowRank(rank) => say("rank", name, number(rank)),
            Choice::Inputs(inputs) => say("inputs", name, number(inputs)),
            Choice::Factored { scheme, rank } => {
                say("rank", name, number(rank));
                say("scheme", name, scheme.name().into());
            }
            Choice::Separable { order, terms } => {
                say("rank", name, number(terms));
                say("order", name, order.name().into());
            }
            Choice::Units(units) => say("units", name, number(units)),
            Choice::Levels(levels) => say("levels", name, number(levels)),
            Choice::Vectors { levels, length } => {
                say("levels", name, number(levels));
                say("vector", name, number(length));
            }
            Choice::Sparsity(share) => say("sparsity", name, share.into()),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    fn ranks(table: &str) -> ByLayer<usize> {
        let table: toml::Table = format!("rank = {{ {table} }}").parse().unwrap();
        ByLayer::deserialize(table["rank"].clone()).unwrap()
    }

    fn graph() -> Graph {
        let text = "model m opset 17 {
            input %x : f32[N,4]
            %a : f32[N,4] = Relu(%x) @layer1.a
            %b : f32[N,4] = Relu(%a) @\"layer*.b\"
            output %b
        }";
        parse::model(text).unwrap().graph
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let (graph, at) = (graph(), |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
        let table = ranks("\"layer1.*\" = 1, \"*\" = 2, \"layer1.a\" = 3, \"*er1.a\" = 4, \"b*\" = 5, \"*b\" = 6");
        assert_eq!(table.at(&graph, "rank", &at(&["layer1.a"])), Ok(&3));
        assert_eq!(table.at(&graph, "rank", &at(&["layer1.c"])), Ok(&1));
        assert_eq!(table.at(&graph, "rank", &at(&["c", "layer1.c"])), Ok(&1));
        assert_eq!(table.at(&graph, "rank", &at(&["c", "layer1.a"])), Ok(&3));
        assert_eq!(table.at(&graph, "rank", &at(&["bb"])), Ok(&6));
        assert_eq!(table.at(&graph, "rank", &at(&["c"])), Ok(&2));
        // What is the name of something is that name.
        let table = ranks("\"layer*.b\" = 1");
        assert_eq!(table.at(&graph, "rank", &at(&["layer*.b"])), Ok(&1));
        assert_eq!(table.at(&graph, "rank", &at(&["layer2.b"])), Err("no entry of `rank` names it".into()));
    }

    #[test]
    fn names_that_match_nothing_are_errors() {
        let graph = graph();
        assert_eq!(ranks("\"layer1.*\" = 1, w = 2").fits(&graph, "rank", &["w".into()]), Ok(()));
        let error = ranks("\"layer1.aa\" = 1").fits(&graph, "rank", &[]).unwrap_err();
        assert_eq!(error.what, "`rank` names \"layer1.aa\", which matches no node");
        assert!(error.help.unwrap().starts_with("did you mean \"layer1.a\"?"));
    }
}
