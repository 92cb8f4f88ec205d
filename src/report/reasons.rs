//! Why nothing was done, in groups.

use super::StepReport;
use crate::passes::Why;
use serde::Serialize;
use std::collections::BTreeMap;

/// Sites that a pass left alone for reasons of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftAlone {
    /// The pass.
    pub pass: String,
    /// The category.
    pub why: Why,
    /// How many sites.
    pub sites: usize,
    /// Elements of the weights there.
    pub weights: u64,
    /// The site with most of them,
    pub example: String,
    /// and what was said of it.
    pub note: String,
}

/// The sites where nothing was done: the groups with most weights first, then those with most sites.
pub fn left_alone(steps: &[StepReport]) -> Vec<LeftAlone> {
    let mut groups: BTreeMap<(&str, Why), (LeftAlone, u64)> = BTreeMap::new();
    for row in steps.iter().flat_map(|s| &s.rows).filter(|r| !r.done) {
        let Some(why) = row.why else { continue };
        let (group, most) = groups.entry((&row.pass, why)).or_insert_with(|| {
            let (pass, example, note) = (row.pass.clone(), row.site.clone(), row.note.clone());
            (LeftAlone { pass, why, sites: 0, weights: 0, example, note }, row.weights)
        });
        group.sites += 1;
        group.weights += row.weights;
        if row.weights > *most {
            (*most, group.example, group.note) = (row.weights, row.site.clone(), row.note.clone());
        }
    }
    let mut groups: Vec<LeftAlone> = groups.into_values().map(|g| g.0).collect();
    groups.sort_by_key(|g| std::cmp::Reverse((g.weights, g.sites)));
    groups
}
