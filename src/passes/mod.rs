//! Passes: named rewrites. A pass reads the graph and answers, site by site, with a patch or with the reason why not;
//! it edits nothing, runs nothing and knows no other pass.

mod absorb;
mod bind_defaults;
pub mod budget;
pub mod by_layer;
pub mod choice;
mod cluster_weights;
mod context;
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
mod site;
mod split;
pub mod storage;
mod store_weights;
mod strip_names;
mod verdict;

use crate::error::Result;
use crate::ir::Graph;
use budget::{Budget, Reach};
pub use choice::{Choice, LayerAnswers, Measure, Offer, Offers, Order, Scheme, SensitivityQuery};
pub use context::{Context, Fitted, Judged, LayerMetric, Retarget};
use options::{OptionsError, Selection};
pub use site::Site;
use std::fmt;
pub use verdict::{JointVerdict, Reason, SiteOutcome, Verdict, Why};

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

    /// Whether it weighs errors of a layer's outputs by what they do to the model's answers.
    fn weighs_outputs(&self) -> bool {
        false
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
    fn rewrite_jointly(&self, _cx: &Context<'_>, _sites: &[Site]) -> Result<Option<JointVerdict>> {
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
    bind_defaults::BindDefaults = "bind-defaults",
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

/// All passes of `clean`, in the order in which one round of cleaning runs them.
pub fn clean() -> Vec<Box<dyn Pass>> {
    let all = REGISTRY.iter().filter(|e| e.name != bind_defaults::BindDefaults::NAME);
    let all = all.filter_map(|e| e.make(toml::Table::new()).ok());
    all.filter(|p| p.phase() == Phase::Clean).collect()
}
