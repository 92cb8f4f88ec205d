//! Makes layers smaller, each by what costs it least: `separate-convs`, `factorize-convs` by either scheme, `factorize-linear`,
//! `prune-inputs`, or nothing. One budget for the whole model decides, at the least sum of what the layers lose.
//!
//! It reaches budgets that none of these reaches alone, where convolutions are one part of the weights and matrices the other.
//! What becomes of a layer, and what calibration data does for it, is what the pass of that name does; see there.
//!
//! | option | | default |
//! |---|---|---|
//! | `params`, `macs` | the share of the model's parameters or MACs to keep at most (`tutee explain budgets`) | as near to half the parameters as it gets |
//! | `techniques` | which passes to choose from | all four |
//! | `separate-convs`, `factorize-convs`, `factorize-linear`, `prune-inputs` | options of these, as a table: `factorize-linear = { min-side = 8 }`; tables of ranks, and of `inputs`, by layer instead of a budget say what becomes of which layer | |
//! | `min-weights` | smaller weights are left alone | 1024 |
//!
//! The classifier of ten classes and the first convolution are layers like any other here: how much their weights are worth
//! decides. `skip`, `only`, `skip-first` and `skip-last` leave layers alone as everywhere.
//!
//! ```text
//! # run = [{ pass = "shrink", params = "40%", max-loss = 1 }]
//! model "m" opset 17 {
//!   input %x : f32[N,16,6,6]
//!   const %w : f32[32,16,3,3] = seed(1)
//!   const %v : f32[32,80] = seed(2)
//!
//!   %a : f32[N,32,6,6] = Conv<pads=[1,1,1,1]>(%x, %w) @conv
//!   %b : f32[N,32,1,1] = GlobalAveragePool(%a)
//!   %c : f32[N,32] = Flatten(%b)
//!   %y : f32[N,80] = MatMul(%c, %v) @fc
//!
//!   output %y
//! }
//! ---- expect ----
//! model "m" opset 17 {
//!   input %x : f32[N,16,6,6]
//!   const %conv.v.weight : f32[9,16,3,1]
//!   const %conv.h.weight : f32[32,9,1,3]
//!   const %fc.down.weight : f32[32,14]
//!   const %fc.up.weight : f32[14,80]
//!
//!   %conv.v : f32[N,9,6,6] = Conv<pads=[1,0,1,0]>(%x, %conv.v.weight)
//!   %a : f32[N,32,6,6] = Conv<pads=[0,1,0,1]>(%conv.v, %conv.h.weight) @conv.h
//!   %b : f32[N,32,1,1] = GlobalAveragePool(%a)
//!   %c : f32[N,32] = Flatten(%b)
//!   %fc.down : f32[N,14] = MatMul(%c, %fc.down.weight)
//!   %y : f32[N,80] = MatMul(%fc.down, %fc.up.weight) @fc.up
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::Graph;
use crate::passes::budget::{self, Budget};
use crate::passes::options::{OptionsError, Selection, Share, not_zero, one_of, weight};
use crate::passes::split::STRONG_SHARE;
use crate::passes::{
    self, Choice, Context, Fidelity, Offers, Pass, Phase, Resolved, SensitivityQuery, Site, Verdict, by_layer, sharing,
};
use serde::Deserialize;

/// The passes that it chooses from; of a layer that none can do anything about, the last that is about such layers says why.
const TECHNIQUES: [Technique; 4] = [
    Technique { pass: "separate-convs", key: "rank" },
    Technique { pass: "factorize-convs", key: "rank" },
    Technique { pass: "factorize-linear", key: "rank" },
    Technique { pass: "prune-inputs", key: "inputs" },
];

/// A pass, and its option that says how far it goes.
struct Technique {
    pass: &'static str,
    key: &'static str,
}

/// The share of the parameters to come near to if nothing is given.
const SHARE: Share = Share(0.5);

#[derive(Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct Shrink {
    /// Passes to choose from, with the options that are given for them.
    techniques: Vec<(Box<dyn Pass>, toml::Table)>,
    /// What is asked for.
    budget: Option<Budget>,
    /// Whether it is yet to be found out what becomes of which layer.
    open: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    params: Option<Share>,
    macs: Option<Share>,
    techniques: Option<Vec<String>>,
    separate_convs: Option<toml::Table>,
    factorize_convs: Option<toml::Table>,
    factorize_linear: Option<toml::Table>,
    prune_inputs: Option<toml::Table>,
}

impl TryFrom<Options> for Shrink {
    type Error = String;

    fn try_from(o: Options) -> Result<Self, String> {
        not_zero([("params", o.params), ("macs", o.macs)])?;
        let budget = one_of(Budget::options(o.params, o.macs))?;
        let own = [o.separate_convs, o.factorize_convs, o.factorize_linear, o.prune_inputs];
        let says = |(technique, table): (&Technique, &Option<toml::Table>)| {
            table.as_ref().is_some_and(|table| table.contains_key(technique.key))
        };
        let open = !TECHNIQUES.iter().zip(&own).any(says);
        let names = TECHNIQUES.each_ref().map(|t| t.pass);
        if let Some(name) = o.techniques.iter().flatten().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("`techniques` has \"{name}\": there are {}", names.join(", ")));
        }
        let wanted = |name: &str| o.techniques.as_ref().is_none_or(|all| all.iter().any(|t| t == name));
        let mut techniques = Vec::new();
        for (technique, table) in TECHNIQUES.iter().zip(own) {
            let name = technique.pass;
            if !wanted(name) || !open && !says((technique, &table)) {
                continue;
            }
            let own = table.unwrap_or_default();
            let mut table = own.clone();
            if open {
                table.insert("params".into(), SHARE.0.into());
                if name == "factorize-convs" {
                    table.entry("scheme").or_insert("auto".into());
                }
            }
            let entry = passes::find(name).ok_or("a technique is missing")?;
            techniques.push((entry.make(table).map_err(|e| format!("`{name}`: {}", e.what))?, own));
        }
        if techniques.is_empty() {
            return Err("there are no `techniques` to choose from".into());
        }
        Ok(Shrink { techniques, budget, open })
    }
}

impl Pass for Shrink {
    fn name(&self) -> &'static str {
        "shrink"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { min_weights: 1024, ..Selection::default() }
    }

    fn is_strong(&self) -> bool {
        match self.open {
            true => self.budget.map_or(SHARE.0, Budget::share) < STRONG_SHARE,
            false => self.techniques.iter().any(|t| t.0.is_strong()),
        }
    }

    fn fits(&self, graph: &Graph) -> Result<(), OptionsError> {
        self.techniques.iter().try_for_each(|t| t.0.fits(graph))
    }

    fn weighs_outputs(&self) -> bool {
        self.techniques.iter().any(|t| t.0.weighs_outputs())
    }

    fn budget(&self) -> Option<Budget> {
        self.budget
    }

    fn undecided(&self) -> Option<Budget> {
        self.open.then(|| self.budget.unwrap_or(Budget::Params(SHARE)))
    }

    fn decided(&self, chosen: &[(String, Choice)]) -> Option<Box<dyn Pass>> {
        let techniques =
            self.techniques.iter().map(|(t, own)| Some((t.decided(chosen)?, own.clone()))).collect::<Option<_>>()?;
        Some(Box::new(Shrink { techniques, budget: self.budget, open: false }))
    }

    fn resolve(&self, cx: &Context<'_>) -> Option<Resolved> {
        let budget = self.undecided()?;
        let sites = self.sites(cx);
        let chosen = budget::choose(cx, budget, &sites, &self.offers(cx, &sites)).unwrap_or_default();
        let options = self.techniques.iter().map(|(technique, own)| {
            let chosen: Vec<_> = chosen.iter().filter(|c| c.1.pass() == technique.name()).cloned().collect();
            let mut options = own.clone();
            let key = TECHNIQUES.iter().find(|t| t.pass == technique.name()).map_or("rank", |t| t.key);
            options.insert(key.into(), toml::Table::new().into());
            options.extend(by_layer::options(&chosen));
            (technique.name().to_string(), options.into())
        });
        Some(Resolved { pass: self.decided(&chosen)?, options: options.collect() })
    }

    fn queries<'a>(&'a self, cx: &Context<'a>) -> Vec<SensitivityQuery<'a>> {
        self.techniques.iter().flat_map(|t| t.0.queries(cx)).collect()
    }

    fn offers(&self, cx: &Context<'_>, sites: &[Site]) -> Vec<Result<Offers, String>> {
        let mut all: Vec<Result<Offers, String>> =
            sites.iter().map(|_| Err("none of the `techniques` is about it".into())).collect();
        for (technique, _) in &self.techniques {
            let own = technique.sites(cx);
            let (places, own): (Vec<usize>, Vec<Site>) =
                sites.iter().cloned().enumerate().filter(|(_, site)| own.contains(site)).unzip();
            for (at, more) in places.into_iter().zip(technique.offers(cx, &own)) {
                match (&mut all[at], more) {
                    (Ok(offers), Ok(more)) => offers.list.extend(more.list),
                    (Ok(_), Err(_)) => {}
                    (none, more) => *none = more,
                }
            }
        }
        all
    }

    fn stays(&self, cx: &Context<'_>, site: &Site) -> Option<String> {
        self.technique(cx, site).err()
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let layers = sharing::first(cx.graph, |n| weight(cx.graph, n).is_some()).into_iter().map(Site::Layer);
        let others = self.techniques.iter().flat_map(|t| t.0.sites(cx)).filter(|s| matches!(s, Site::Weight(_)));
        layers.chain(others).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        match self.technique(cx, &site) {
            Ok(technique) => Ok(match technique.rewrite(cx, site)? {
                Verdict::Patch(patch, what) => Verdict::Patch(patch, format!("{}: {what}", technique.name())),
                skip => skip,
            }),
            Err(why) => Verdict::skip(why),
        }
    }
}

impl Shrink {
    /// What a layer is split by.
    ///
    /// # Errors
    /// Why it stays whole.
    fn technique(&self, cx: &Context<'_>, site: &Site) -> Result<&dyn Pass, String> {
        let mut why = String::from("none of the `techniques` is about it");
        for (technique, _) in &self.techniques {
            match technique.stays(cx, site) {
                None => return Ok(&**technique),
                Some(reason) if technique.sites(cx).contains(site) => why = reason,
                Some(_) => {}
            }
        }
        Err(why)
    }
}
