//! The report as text, row by row.

use super::{ModelSize, Report, StepReport};
use crate::figures::{grouped, ratio};
use crate::plain;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;

impl Report {
    /// The report as text, a table a step, in lines as long as they come.
    pub fn text(&self) -> String {
        self.rows(None)
    }

    /// As [`Report::text`], in lines of at most `width` columns if that is given: long cells are wrapped.
    pub fn rows(&self, width: Option<u16>) -> String {
        let mut out = String::new();
        for (i, step) in self.steps.iter().enumerate() {
            let title = format!("step {} {}: {}", i + 1, plain::line(&step.name), step.change());
            wrap(&mut out, &title, width, "    ");
            let table = step.table();
            if !table.is_empty() {
                let mut t = comfy_table::Table::new();
                t.load_style(comfy_table::presets::NOTHING);
                if let Some(width) = width {
                    t.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
                    t.set_width(width.saturating_sub(2).max(20));
                }
                for row in table {
                    let row = row.map(|cell| plain::line(&cell).into_owned());
                    match width {
                        None => t.add_row(row),
                        // What a row is about, and the rest in one cell: six would leave none of them room.
                        Some(_) => {
                            let [pass, site, _, rest @ ..] = row;
                            let rest: Vec<String> = rest.into_iter().filter(|s| !s.is_empty()).collect();
                            t.add_row([pass, site, rest.join(", ")])
                        }
                    };
                }
                let lines = t.to_string();
                lines.lines().for_each(|l| out.extend(["  ", l.trim_end(), "\n"]));
            }
        }
        let packed = self.zstd_bytes.map(|z| part(Some(z.teacher), Some(z.student), "bytes after zstd"));
        let all = packed.into_iter().fold(change(&self.teacher, &self.student), |all, p| format!("{all}, {p}"));
        wrap(&mut out, &format!("in all: {all}"), width, "    ");
        self.missed.iter().for_each(|m| wrap(&mut out, &format!("MISSED {}", plain::line(m)), width, "    "));
        out
    }
}

/// Writes a paragraph behind what is in the last line, in lines of at most `width` characters, those after the first behind
/// `indent`.
pub fn wrap(out: &mut String, text: &str, width: Option<u16>, indent: &str) {
    let width = width.map_or(usize::MAX, usize::from);
    let mut column = out.rsplit('\n').next().map_or(0, |line| line.chars().count());
    for (i, word) in text.split(' ').enumerate() {
        let len = word.chars().count();
        if i > 0 && column + 1 + len > width {
            let _ = write!(out, "\n{indent}{word}");
            column = indent.len() + len;
        } else {
            let space = if i > 0 { " " } else { "" };
            let _ = write!(out, "{space}{word}");
            column += space.len() + len;
        }
    }
    out.push('\n');
}

impl StepReport {
    /// What became of the model in words.
    pub(super) fn change(&self) -> String {
        let change = change(&self.before, &self.after);
        match self.zstd_bytes {
            Some(bytes) => format!("{change}, {} after zstd", grouped(bytes)),
            None => change,
        }
    }

    /// One row a site; sites at which a Clean pass did the same share one.
    pub(super) fn table(&self) -> Vec<[String; 6]> {
        let mut out: Vec<[String; 6]> = Vec::new();
        let mut groups: HashMap<(String, String), (usize, usize)> = HashMap::new();
        for row in &self.rows {
            let what = if row.done { row.note.clone() } else { format!("left alone: {}", row.note) };
            let mut cells = [row.pass.clone(), row.site.clone(), row.op.clone(), what, String::new(), String::new()];
            if let Some((a, b)) = row.cost {
                cells[4] = delta(Some(a.parameters), Some(b.parameters), "parameters");
                cells[5] = delta(a.macs, b.macs, "MACs");
            }
            if row.cost.is_none() {
                match groups.entry((row.pass.clone(), cells[3].clone())) {
                    Entry::Occupied(mut group) => {
                        group.get_mut().1 += 1;
                        continue;
                    }
                    Entry::Vacant(group) => {
                        group.insert((out.len(), 1));
                    }
                }
            }
            out.push(cells);
        }
        for (i, n) in groups.into_values().filter(|c| c.1 > 1) {
            out[i][1] = format!("{} and {} more", out[i][1], n - 1);
            out[i][2].clear();
        }
        out
    }
}

fn delta(a: Option<u64>, b: Option<u64>, unit: &str) -> String {
    match (a, b) {
        (Some(a), Some(b)) if a > b => format!("−{} {unit}", grouped(a - b)),
        (Some(a), Some(b)) if a < b => format!("+{} {unit}", grouped(b - a)),
        _ => String::new(),
    }
}

/// `47 → 23 nodes, 2,170,474 → 545,000 weights (4.0x), …`
fn change(a: &ModelSize, b: &ModelSize) -> String {
    [
        part(Some(a.nodes), Some(b.nodes), "nodes"),
        part(Some(a.weights), Some(b.weights), "weights"),
        part(a.cost.macs, b.cost.macs, "MACs"),
        part(Some(a.bytes), Some(b.bytes), "bytes"),
    ]
    .join(", ")
}

fn part(a: Option<u64>, b: Option<u64>, unit: &str) -> String {
    match (a, b) {
        (Some(a), Some(b)) if a == b => format!("{} {unit}", grouped(a)),
        (Some(a), Some(b)) => {
            let by = ratio(a as f64, b as f64).map_or(String::new(), |r| format!(" ({r})"));
            format!("{} → {} {unit}{by}", grouped(a), grouped(b))
        }
        _ => format!("{unit} depend on run-time dims"),
    }
}
