//! Removes the rows of tables that are never looked up: words of languages, say, that the model is not for.
//!
//! The rows to keep are listed by their ids. A small table of integers says where each went, so that the model takes the ids it
//! took before. An id whose row is gone gives another row, that of `missing`.
//!
//! A table stays if something else than lookups reads it, too, such as the classifier of a tied embedding: its outputs would be
//! others.
//!
//! | option | | default |
//! |---|---|---|
//! | `keep-rows` | ids of the rows to keep: a list, or a file with one a line, relative to the recipe | |
//! | `missing` | the id of the row that ids get whose own is gone: that of an unknown word; it must be kept | the first that is kept |
//!
//! The list is for all tables that have so many rows, but for those that `skip` and `only` leave out: name the nodes that look
//! up words, where positions are looked up, too.
//!
//! ```text
//! # run = [{ pass = "prune-rows", keep-rows = [0, 2, 3, 7, 8, 9], missing = 3 }]
//! model "m" opset 17 {
//!   input %ids : i64[N,T]
//!   const %words : f32[12,64] = seed(1)
//!
//!   %y : f32[N,T,64] = Gather(%words, %ids) @word
//!
//!   output %y
//! }
//! ---- expect ----
//! model "m" opset 17 {
//!   input %ids : i64[N,T]
//!   const %words.kept : f32[6,64]
//!   const %words.places : i32[12] = {0,2,1,2,2,2,2,3,4,5,2,2}
//!
//!   %word.place : i32[N,T] = Gather(%words.places, %ids)
//!   %y : f32[N,T,64] = Gather(%words.kept, %word.place) @word
//!
//!   output %y
//! }
//! ```

use crate::analysis::bytes;
use crate::analysis::readers;
use crate::error::Result;
use crate::ir::names::derived;
use crate::ir::op::Role;
use crate::ir::op::gather::Gather;
use crate::ir::op::pick::{axes, pick};
use crate::ir::{DType, Graph, NodeId, Op, Patch, Ref, Tensor, Use, ValueId};
use crate::passes::{Context, Fidelity, Pass, Phase, Reason, Site, Verdict, Why};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneRows {
    keep_rows: BTreeSet<usize>,
    missing: Option<usize>,
}

impl Pass for PruneRows {
    fn name(&self) -> &'static str {
        "prune-rows"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn check(&self) -> std::result::Result<(), String> {
        match self.missing {
            Some(row) if !self.keep_rows.contains(&row) => Err(format!("`missing` = {row} is none of `keep-rows`")),
            _ => Ok(()),
        }
    }

    /// What else there is stays as it is.
    fn fits_others(&self) -> bool {
        false
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let looks_up = |v: &ValueId| readers::readers(g, *v).is_ok_and(|all| all.iter().any(|r| r.role == Role::Table));
        readers::constants(g).into_iter().filter(looks_up).map(Site::Weight).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Weight(v) = site else { return Verdict::skip("it is no table") };
        Ok(Verdict::of(self.prune(cx.graph, v)))
    }
}

impl PruneRows {
    fn prune(&self, g: &Graph, v: ValueId) -> std::result::Result<(Patch, String), Reason> {
        let (Some(&first), Some(&last)) = (self.keep_rows.first(), self.keep_rows.last()) else {
            return Err(Reason::new(Why::Budget, "no `keep-rows` are given: all rows stay"));
        };
        let table = g.value(v).constant().ok_or("it is not constant")?;
        let rows = *table.shape().first().ok_or("it has no rows")?;
        if last >= rows {
            return Err(format!("`keep-rows` has {last}, and it has {rows} rows").into());
        }
        let lookups = lookups(g, v)?;
        let kept: Vec<usize> = self.keep_rows.iter().copied().collect();
        let place = |row: usize| kept.binary_search(&row);
        let missing = place(self.missing.unwrap_or(first)).unwrap_or(0);
        let places = (0..rows).map(|row| place(row).unwrap_or(missing) as i64);
        let places = Tensor::from_ints(DType::I32, [rows], places);
        let mut all = axes(table).ok_or("its elements are carried as they are")?;
        all[0] = kept.iter().map(|&row| all[0].get(row).copied()).collect::<Option<_>>().ok_or("a row is missing")?;
        let left = pick(table, &all, &[]).ok_or("its elements are carried as they are")?;
        let name = &g.value(v).name;
        let mut patch = Patch::at_value(g, v);
        let left = patch.constant_named(derived(name, "kept"), left);
        let places = patch.constant_named(derived(name, "places"), places);
        let mut found: HashMap<ValueId, Ref> = HashMap::new();
        for n in lookups {
            let (Some(ids), Some(y)) = (g.input(n, 1), g.output(n)) else {
                return Err("a node that looks up its rows is incomplete".into());
            };
            let label = g.label(n);
            let place = *found.entry(ids).or_insert_with(|| {
                let inputs = [Some(places), Some(Ref::Old(ids))];
                patch.node_named(&derived(label, "place"), Gather::default(), &inputs)
            });
            let new = patch.node_named(label, Gather::default(), &[Some(left), Some(place)]);
            patch.replace(y, new);
        }
        if bytes::added(g, &patch) >= bytes::stored(g, v) {
            return Err(Reason::new(Why::NoGain, "what is left would take no fewer bytes"));
        }
        let what = format!("kept {} of {rows} rows; other ids give row {}", kept.len(), kept[missing]);
        Ok((patch, what))
    }
}

/// The nodes that look up rows of a table, if nothing else reads it.
fn lookups(g: &Graph, v: ValueId) -> std::result::Result<Vec<NodeId>, Reason> {
    let held = |why: String| Reason::new(Why::Held, why);
    if g.is_held(v) {
        return Err(held("it is an output of the model, or named outside the graph".into()));
    }
    let lookup = |u: Use| {
        let n = u.node();
        match (u, &g.node(n).op) {
            (Use::Input(_, 0), Op::Gather(op)) if op.axis == 0 && !g.node(n).inconsistent => Ok(n),
            _ => Err(held(format!("{} \"{}\" reads it, and not by its rows", g.node(n).kind(), g.label(n)))),
        }
    };
    g.uses(v).into_iter().map(lookup).collect()
}
