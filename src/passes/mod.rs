//! Passes: named rewrites. A pass reads the graph and answers, site by site, with a patch or with the reason why not;
//! it edits nothing, runs nothing and knows no other pass.

mod absorb;
pub mod budget;
pub mod by_layer;
pub mod choice;
mod cluster_weights;
mod convolution;
mod factorize_convs;
mod factorize_linear;
mod fold_affine;
mod fold_batch_norm;
mod fold_constants;
mod fold_pad;
mod fuse_gemm;
mod importance;
mod inline_ifs;
mod lift_constants;
mod match_statistics;
mod merge_duplicates;
pub mod options;
mod prune_channels;
mod prune_inputs;
mod prune_rows;
mod prune_weights;
pub mod refit;
mod remove_metadata;
mod remove_no_ops;
mod remove_unused;
mod separate_convs;
pub mod sharing;
mod shrink;
mod split;
pub mod storage;
mod store_weights;
mod strip_names;

use crate::analysis::cost::{Cost, cost};
use crate::analysis::linear::Linear;
use crate::analysis::sizes::InputSizes;
use crate::error::Result;
use crate::ir::{Graph, NodeId, Patch, ValueId};
use crate::math::LayerMoments;
use crate::math::fit::Fit;
use budget::{Budget, Reach};
pub use choice::{Choice, Measure, Offer, Offers, Order, Scheme, Sensitivity, SensitivityQuery};
use options::{OptionsError, Selected, Selection};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

/// When a pass may run: Clean before and between Shrink steps, Encode after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Exact: what the network computes stays.
    Clean,
    /// Layers become smaller, with what is lost by that.
    Shrink,
    /// Weights are stored in fewer bytes.
    Encode,
}

/// What a pass promises about the function that the network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// The same up to rounding.
    Exact,
    /// Another one, near it: to be checked.
    Approximate,
}

/// Producers of a group that a report names.
const MAX_NAMES: usize = 8;

/// Layers that share a weight that a report names.
const MAX_SHARING: usize = 2;

/// A place that a pass looks at. What it does there is a [`Choice`], or follows from its options.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Site {
    /// A node.
    Node(NodeId),
    /// A value, such as a constant.
    Value(ValueId),
    /// A constant weight, wherever it is read.
    Weight(ValueId),
    /// A constant weight that a layer is fitted for.
    Codes(ValueId),
    /// A layer, the first of those that share its weight.
    Layer(NodeId),
    /// Coupled channels: the nodes that make them.
    Channels {
        /// In graph order.
        producers: Vec<NodeId>,
        /// Which of the groups that these make.
        nth: usize,
    },
}

impl Site {
    /// Whether the site is still there after other patches.
    pub fn lives(&self, graph: &Graph) -> bool {
        match self {
            Site::Node(n) | Site::Layer(n) => graph.has_node(*n),
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => graph.has_value(*v),
            Site::Channels { producers, .. } => producers.iter().all(|&n| graph.has_node(n)),
        }
    }

    /// The nodes that `skip`, `only`, `skip-first` and `skip-last` are about.
    pub fn nodes(&self, graph: &Graph) -> Vec<NodeId> {
        match self {
            Site::Node(n) => vec![*n],
            Site::Layer(node) => match options::weight(graph, *node) {
                Some((_, value)) => sharing::readers(graph, value),
                None => vec![*node],
            },
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => graph.readers(*v).collect(),
            Site::Channels { producers, .. } => producers.clone(),
        }
    }

    /// The names that options by layer may call it by, the most telling first.
    pub fn names(&self, graph: &Graph) -> Vec<String> {
        let own = match self {
            Site::Node(n) | Site::Layer(n) => Some(graph.label(*n)),
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => Some(graph.value(*v).name.as_str()),
            Site::Channels { .. } => None,
        };
        let nodes = self.nodes(graph);
        own.into_iter().chain(nodes.iter().map(|&n| graph.label(n))).map(str::to_string).collect()
    }

    /// The constants that the site is about.
    pub fn constants(&self, graph: &Graph) -> Vec<ValueId> {
        match self {
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => vec![*v],
            Site::Node(n) | Site::Layer(n) => options::weight(graph, *n).map(|w| w.1).into_iter().collect(),
            Site::Channels { producers, .. } => {
                producers.iter().flat_map(|&n| graph.node_inputs(n)).flatten().collect()
            }
        }
    }

    /// Whether the file contradicts the operator's definition at a node of the site, if the site is one of nodes.
    pub fn contradicts(&self, graph: &Graph) -> bool {
        self.node().is_some() && self.nodes(graph).into_iter().any(|n| graph.node(n).inconsistent)
    }

    /// The node that the site is, if it is one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Site::Node(n) | Site::Layer(n) => Some(*n),
            Site::Value(_) | Site::Weight(_) | Site::Codes(_) | Site::Channels { .. } => None,
        }
    }

    /// Elements of the weights at the site, as they are stored.
    pub fn weights(&self, graph: &Graph) -> u64 {
        let mut values: Vec<ValueId> = match self {
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => vec![*v],
            Site::Node(_) | Site::Layer { .. } | Site::Channels { .. } => {
                self.nodes(graph).into_iter().filter_map(|n| Some(options::weight(graph, n)?.1)).collect()
            }
        };
        values.sort();
        values.dedup();
        values.into_iter().filter_map(|v| graph.value(v).constant()).map(|t| t.len() as u64).sum()
    }

    /// The name of the site in reports.
    pub fn label(&self, graph: &Graph) -> String {
        match self {
            Site::Node(n) => graph.label(*n).to_string(),
            Site::Value(v) | Site::Weight(v) | Site::Codes(v) => graph.value(*v).name.clone(),
            Site::Layer(_) => labels(graph, &self.nodes(graph), MAX_SHARING),
            Site::Channels { producers, .. } => labels(graph, producers, MAX_NAMES),
        }
    }
}

/// The names of several nodes.
fn labels(graph: &Graph, nodes: &[NodeId], most: usize) -> String {
    let names: Vec<_> = nodes.iter().take(most).map(|&n| graph.label(n)).collect();
    let more = nodes.len() - names.len();
    names.join(" + ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// What kind of reason it is that a site is left alone, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The recipe leaves it out: `skip`, `only`, `skip-first`, `skip-last`, `min-weights`.
    Recipe,
    /// The budget is met without it.
    Budget,
    /// It would get no smaller.
    NoGain,
    /// Something else holds it: another reader, an output of the model, channels that are coupled to frozen ones.
    Held,
    /// It is inside a body of control flow, or computes with integers.
    OutOfReach,
    /// Nothing is to be made good there.
    Settled,
    /// Its operator, type, shape or place is none that the pass takes, or the pass would not make it smaller.
    Form,
}

impl Why {
    /// In words, as a sentence goes on after "left alone".
    pub fn words(self) -> &'static str {
        match self {
            Why::Recipe => "by options",
            Why::Budget => "budget met without",
            Why::NoGain => "no gain",
            Why::Held => "held by something else",
            Why::OutOfReach => "in bodies, or integers",
            Why::Settled => "nothing to make good",
            Why::Form => "not of its kind",
        }
    }
}

/// Why a site is left alone, as it stands in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Its category.
    pub why: Why,
    /// In words, for the owner of the model.
    pub text: String,
}

impl Reason {
    /// A reason in words.
    pub fn new(why: Why, text: impl Into<String>) -> Reason {
        Reason { why, text: text.into() }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Reason {
        let why = if text == budget::WHOLE { Why::Budget } else { Why::Form };
        Reason { why, text }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Reason {
        text.to_string().into()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> String {
        reason.text
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The answer for one site.
#[derive(Debug)]
pub enum Verdict {
    /// What to do, and how it reads in the report.
    Patch(Patch, String),
    /// Why nothing is done.
    Skip(Reason),
}

impl Verdict {
    /// Leaves the site alone.
    pub fn skip(why: impl Into<Reason>) -> Result<Verdict> {
        Ok(Verdict::Skip(why.into()))
    }

    /// A patch with how it reads in the report, or why there is none.
    pub fn of<E: Into<Reason>>(outcome: std::result::Result<(Patch, String), E>) -> Verdict {
        match outcome {
            Ok((patch, what)) => Verdict::Patch(patch, what),
            Err(why) => Verdict::Skip(why.into()),
        }
    }
}

/// What becomes of all sites of a pass at once.
#[derive(Debug)]
pub struct Together {
    /// What to do, of all sites.
    pub patch: Patch,
    /// For each site, in order.
    pub parts: Vec<Part>,
}

/// What becomes of one of several sites.
#[derive(Debug)]
pub struct Part {
    /// How it reads in the report, or why nothing is done.
    pub what: std::result::Result<String, Reason>,
    /// The model's cost before and after, as if the sites changed one after the other.
    pub cost: Option<(Cost, Cost)>,
}

/// What a pass may look at.
pub struct Context<'a> {
    /// The student as it is.
    pub graph: &'a Graph,
    /// What the recipe selects, for passes that weigh sites against each other; the driver sees to single sites.
    pub selected: &'a Selected<'a>,
    /// Whether weights are fitted to calibration data in this step.
    pub repairs: bool,
    /// What the model's inputs are where costs are counted.
    pub sizes: &'a InputSizes,
    /// The share of a layer's output that a budget may cost it at most.
    pub max_loss: f64,
    /// What calibration data said to the pass's queries, if there is any and the pass has some.
    pub sensitivity: Option<&'a Sensitivity>,
    /// What calibration data says of the layer at the site, if there is any.
    pub fitted: Option<Fitted<'a>>,
}

impl<'a> Context<'a> {
    /// The graph for counting costs: it has the ids of `graph`, and the sizes of its inputs.
    pub fn sized(&self) -> Cow<'a, Graph> {
        self.sizes.at(self.graph)
    }

    /// What the model costs as it is.
    pub fn cost(&self) -> Cost {
        cost(&self.sized())
    }

    /// What calibration data said of a layer.
    pub fn measured(&self, node: NodeId, measure: Measure) -> Option<&'a [f64]> {
        self.sensitivity?.get(&(node, measure))?.as_deref().ok()
    }
}

/// Gives a layer other outputs to aim at, after those that a fit gives.
pub type Retarget<'a> = &'a dyn Fn(&LayerMoments, &Fit) -> Option<LayerMoments>;

/// A layer with the moments of what it reads and what its teacher gives there.
#[derive(Clone, Copy)]
pub struct Fitted<'a> {
    /// The layer in the student.
    pub linear: &'a Linear,
    /// Its moments on calibration data.
    pub layer: &'a LayerMoments,
    /// The layer with the outputs nearest to a fit's that are as good as the teacher's to what reads them; absent where only
    /// the teacher's own will do.
    pub retarget: Option<Retarget<'a>>,
    /// Where it is noted what a repair did to the layer's error, for the report.
    pub judged: &'a Cell<Option<Judged>>,
}

/// What a repair did to a layer: relative output errors on held-back samples, and whether it was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The error without it.
    pub before: f64,
    /// The error with it.
    pub after: f64,
    /// Whether the fitted weights stay.
    pub kept: bool,
}

/// A named rewrite. A pass's struct is its options.
pub trait Pass: fmt::Debug + Send + Sync {
    /// Kebab-case: the same word in recipes, reports, dumps and golden files.
    fn name(&self) -> &'static str;

    /// When in a recipe it may run.
    fn phase(&self) -> Phase;

    /// What it promises of the network's outputs.
    fn fidelity(&self) -> Fidelity;

    /// What is selected where the recipe says nothing.
    fn selection(&self) -> Selection {
        Selection::default()
    }

    /// Whether what it gains shows only once the file is compressed: the report then has the bytes after zstd.
    fn pays_compressed(&self) -> bool {
        false
    }

    /// Whether it changes weights in bodies of control flow too: one by one, and without data.
    fn enters_bodies(&self) -> bool {
        false
    }

    /// Whether its options take so much away that few networks survive it unless their layers are fitted to data.
    fn is_strong(&self) -> bool {
        false
    }

    /// What its options could gain for nothing, if that is so.
    fn advice(&self) -> Option<String> {
        None
    }

    /// Whether the options go together.
    ///
    /// # Errors
    /// If they do not: says how.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Whether calibration data may change the layers, too, that are no sites of it or are not selected.
    fn fits_others(&self) -> bool {
        true
    }

    /// About which share of the inputs and of the outputs of every layer is left where it is done: what is fitted afterwards
    /// is so much smaller.
    fn remains(&self) -> f64 {
        1.0
    }

    /// Whether it does nothing but make up for what other steps lost.
    fn only_repairs(&self) -> bool {
        false
    }

    /// The option, as written, that cannot be had without calibration data, if there is one.
    fn needs_data(&self) -> Option<String> {
        None
    }

    /// The option that asks for what only a training after it makes good, if there is one.
    fn needs_training(&self) -> Option<&'static str> {
        None
    }

    /// Whether the options fit a model.
    ///
    /// # Errors
    /// If they name what is not there.
    fn fits(&self, _graph: &Graph) -> Result<(), OptionsError> {
        Ok(())
    }

    /// The budget among its options, if there is one: a target for what it leaves of the model.
    fn budget(&self) -> Option<Budget> {
        None
    }

    /// The budget, as long as the options leave it to that what becomes of which layer.
    fn undecided(&self) -> Option<Budget> {
        None
    }

    /// The choices there are at sites of the pass, each with what it costs and loses; or why a site stays as it is.
    fn offers(&self, _cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        sites.iter().map(|_| Err("there is nothing to choose".into())).collect()
    }

    /// The pass with these choices, by name of the site, in place of what is undecided. `None` if there is no such pass.
    fn decided(&self, _chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        None
    }

    /// The pass with everything decided that is weighed over all layers of a graph. `None` if nothing is.
    fn resolve(&self, cx: &Context<'_>) -> Option<Resolved> {
        let budget = self.undecided()?;
        let sites = self.sites(cx);
        let chosen = budget::choose(cx, budget, &sites, &self.offers(cx, &sites)).unwrap_or_default();
        Some(Resolved { pass: self.decided(&chosen)?, options: by_layer::options(&chosen) })
    }

    /// How little the budget, as long as it is undecided, can leave of the model where no layer loses more than `max_loss` of
    /// the context. `None` without such a budget, or if costs are not known.
    fn reach(&self, cx: &Context<'_>) -> Option<Reach> {
        let budget = self.undecided()?;
        let sites = self.sites(cx);
        budget::reach(cx, budget, &sites, &self.offers(cx, &sites))
    }

    /// Whether its queries are asked before it runs.
    fn asks(&self) -> bool {
        self.undecided().is_some()
    }

    /// What the offers of the pass depend on in calibration data, if there is any: the answers are in the context then.
    fn queries<'a>(&'a self, _cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        Vec::new()
    }

    /// Why a site stays as it is whatever data says, as far as that takes little to find out: then no data is looked at for it.
    fn stays(&self, _cx: &Context<'_>, _site: &Site) -> Option<String> {
        None
    }

    /// Places worth a look, in the order of the graph.
    fn sites(&self, cx: &Context<'_>) -> Vec<Site>;

    /// One patch for this site, or the reason why there is none.
    ///
    /// # Errors
    /// Only for what no graph can be an excuse for: a numerical library that fails, a bug.
    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict>;

    /// One patch for all sites, of a pass that looks at the whole graph to change any of them; such a pass says itself
    /// what the selection refuses. `None` for a pass that goes from site to site.
    ///
    /// # Errors
    /// As `rewrite`.
    fn rewrite_together(&self, _cx: &Context<'_>, _sites: &[Site]) -> Result<Option<Together>> {
        Ok(None)
    }
}

/// A pass that has a choice for each layer.
#[derive(Debug)]
pub struct Resolved {
    /// The pass.
    pub pass: Box<dyn Pass>,
    /// The options that a recipe needs beside those of the step to say so; none where these say it all.
    pub options: toml::Table,
}

/// A pass as the registry lists it.
pub struct Entry {
    /// What recipes call it.
    pub name: &'static str,
    source: &'static str,
    make: fn(toml::Table) -> Result<Box<dyn Pass>, OptionsError>,
}

impl Entry {
    /// The pass with these options.
    ///
    /// # Errors
    /// If an option is unknown or has a value it cannot have.
    pub fn make(&self, options: toml::Table) -> Result<Box<dyn Pass>, OptionsError> {
        (self.make)(options)
    }

    /// The manual page: the doc comment that heads the pass's file.
    pub fn manual(&self) -> String {
        manual(self.source)
    }

    /// The first sentence of the manual page.
    pub fn summary(&self) -> String {
        summary(&self.manual())
    }
}

/// The doc comment that heads a file.
pub fn manual(source: &str) -> String {
    let lines = source.lines().map_while(|l| l.strip_prefix("//!"));
    lines.map(|l| format!("{}\n", l.strip_prefix(' ').unwrap_or(l))).collect()
}

/// The first sentence of a manual page.
pub fn summary(manual: &str) -> String {
    let first = manual.split("\n\n").next().unwrap_or("").replace('\n', " ");
    first.split_once(". ").map_or(first.trim().to_string(), |(s, _)| format!("{s}."))
}

macro_rules! registry {
    ($($file:ident::$pass:ident = $name:literal,)*) => {
        &[$(Entry {
            name: $name,
            source: include_str!(concat!(stringify!($file), ".rs")),
            make: |table| {
                let pass = options::read::<$file::$pass>(table)?;
                pass.check().map_err(|what| OptionsError { key: None, what, help: None })?;
                Ok(Box::new(pass))
            },
        }),*]
    };
}

/// Every pass, in the order in which `tutee passes` lists them.
pub const REGISTRY: &[Entry] = registry![
    lift_constants::LiftConstants = "lift-constants",
    inline_ifs::InlineIfs = "inline-ifs",
    fold_constants::FoldConstants = "fold-constants",
    remove_no_ops::RemoveNoOps = "remove-no-ops",
    fuse_gemm::FuseGemm = "fuse-gemm",
    fold_batch_norm::FoldBatchNorm = "fold-batch-norm",
    fold_affine::FoldAffine = "fold-affine",
    fold_pad::FoldPad = "fold-pad",
    merge_duplicates::MergeDuplicates = "merge-duplicates",
    remove_unused::RemoveUnused = "remove-unused",
    remove_metadata::RemoveMetadata = "remove-metadata",
    separate_convs::SeparateConvs = "separate-convs",
    factorize_linear::FactorizeLinear = "factorize-linear",
    factorize_convs::FactorizeConvs = "factorize-convs",
    shrink::Shrink = "shrink",
    prune_channels::PruneChannels = "prune-channels",
    prune_inputs::PruneInputs = "prune-inputs",
    prune_rows::PruneRows = "prune-rows",
    prune_weights::PruneWeights = "prune-weights",
    match_statistics::MatchStatistics = "match-statistics",
    cluster_weights::ClusterWeights = "cluster-weights",
    store_weights::StoreWeights = "store-weights",
    strip_names::StripNames = "strip-names",
];

/// The pass of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    REGISTRY.iter().find(|e| e.name == name)
}

/// The Clean pass that a `clean` which keeps metadata leaves out.
pub const REMOVE_METADATA: &str = remove_metadata::RemoveMetadata::NAME;

/// All Clean passes, in the order in which one round of cleaning runs them.
pub fn clean() -> Vec<Box<dyn Pass>> {
    let all = REGISTRY.iter().filter_map(|e| e.make(toml::Table::new()).ok());
    all.filter(|p| p.phase() == Phase::Clean).collect()
}
