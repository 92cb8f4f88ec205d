//! What was done, site by site, for people (text, Markdown) and machines (JSON).

use crate::analysis::cost::Cost;
use crate::plain;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;

/// Version of the JSON form: raised when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// The account of one compression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub teacher: Size,
    pub student: Size,
    /// Where a step's pass is one whose gain shows only after compression, and the models are at most 256 MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zstd_bytes: Option<Packed>,
    pub steps: Vec<StepReport>,
    pub warnings: Vec<String>,
    /// Those of the warnings that say that training left a student of no use: every target that was asked for is then missed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ruined: Vec<String>,
    /// Targets that were asked for and not reached.
    pub missed: Vec<String>,
    /// The recipe as a TOML file, with what budgets chose as tables by layer: it makes the same student again.
    #[serde(default)]
    pub recipe: String,
    /// The check of the student against the teacher, if test data was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub check: Option<serde_json::Value>,
}

/// How large a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Nodes, `Constant` nodes and those of control-flow bodies included.
    pub nodes: u64,
    #[serde(flatten)]
    pub cost: Cost,
    /// Of the model's files as written.
    pub bytes: u64,
}

/// Bytes of the models, each as one file, after zstd at level 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    pub teacher: u64,
    pub student: u64,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    pub name: String,
    pub before: Size,
    pub after: Size,
    /// Of the model after the step, as in the report as a whole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zstd_bytes: Option<u64>,
    pub rows: Vec<Row>,
    /// Of a step that trains, epoch by epoch.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub curve: Vec<Point>,
}

/// How a student did after an epoch; a loss is absent where it was no number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// 0 is before training.
    pub epoch: usize,
    /// Mean over the steps of the epoch.
    pub loss: Option<f64>,
    /// The loss on what is held back; the shares are of that, too.
    pub held_back: Option<f64>,
    /// Where the data has labels.
    pub accuracy: Option<f64>,
    /// Where there is a teacher.
    pub agreement: Option<f64>,
}

/// What was done at one site, or why nothing was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub pass: String,
    pub site: String,
    /// The operator at the site, or empty for a value.
    pub op: String,
    pub done: bool,
    /// What was done, or the reason why not.
    pub note: String,
    /// The whole model's cost before and after, where the pass is one that changes it on purpose.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost: Option<(Cost, Cost)>,
    /// Where weights were fitted to calibration data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Repair>,
}

/// What fitting did to the output error of a layer, as a share of the outputs' spread, behind the activation, on samples
/// that were held back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Repair {
    pub before: f64,
    pub after: f64,
    /// Whether the fitted weights were kept: those before, if not.
    pub kept: bool,
}

impl Report {
    /// The report as text, a table a step.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (i, step) in self.steps.iter().enumerate() {
            let _ = writeln!(out, "step {} {}: {}", i + 1, plain::line(&step.name), step.change());
            let table = step.table();
            if !table.is_empty() {
                let mut t = comfy_table::Table::new();
                t.load_style(comfy_table::presets::NOTHING);
                for row in table {
                    t.add_row(row.map(|cell| plain::line(&cell).into_owned()));
                }
                let lines = t.to_string();
                lines.lines().for_each(|l| out.extend(["  ", l.trim_end(), "\n"]));
            }
        }
        let packed = self.zstd_bytes.map(|z| part(Some(z.teacher), Some(z.student), "bytes after zstd"));
        let all = packed.into_iter().fold(change(&self.teacher, &self.student), |all, p| format!("{all}, {p}"));
        let _ = writeln!(out, "in all: {all}");
        self.missed.iter().for_each(|m| out.extend(["MISSED ", &plain::line(m), "\n"]));
        out
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::from("# Compression report\n\n| | teacher | student | ratio |\n|---|---:|---:|---:|\n");
        let mut line = |what: &str, a: Option<u64>, b: Option<u64>| {
            let show = |n: Option<u64>| n.map_or("run-time dims".into(), group_digits);
            let _ = writeln!(out, "| {what} | {} | {} | {} |", show(a), show(b), ratio(a, b).unwrap_or_default());
        };
        let (t, s) = (&self.teacher, &self.student);
        line("nodes", Some(t.nodes), Some(s.nodes));
        line("parameters", Some(t.cost.parameters), Some(s.cost.parameters));
        line("MACs", t.cost.macs, s.cost.macs);
        line("bytes", Some(t.bytes), Some(s.bytes));
        if let Some(z) = self.zstd_bytes {
            line("bytes after zstd", Some(z.teacher), Some(z.student));
        }
        for (i, step) in self.steps.iter().enumerate() {
            let _ = writeln!(out, "\n## Step {}: {}\n\n{}", i + 1, plain::markdown(&step.name), step.change());
            let table = step.table();
            if !table.is_empty() {
                out.push_str("\n| pass | site | | what | parameters | MACs |\n|---|---|---|---|---|---|\n");
                for row in table {
                    let cells: Vec<_> = row.iter().map(|cell| plain::markdown(cell)).collect();
                    let _ = writeln!(out, "| {} |", cells.join(" | "));
                }
            }
            if !step.curve.is_empty() {
                out.push_str("\n| epoch | loss | held back | agreement | accuracy |\n|---:|---:|---:|---:|---:|\n");
            }
            for p in &step.curve {
                let loss = |v: Option<f64>| v.map_or("none".into(), |v| format!("{v:.4}"));
                let share = |v: Option<f64>| v.map_or(String::new(), |v| format!("{:.2} %", 100.0 * v));
                let (loss, held_back) = (loss(p.loss), loss(p.held_back));
                let (agreement, accuracy) = (share(p.agreement), share(p.accuracy));
                let _ = writeln!(out, "| {} | {loss} | {held_back} | {agreement} | {accuracy} |", p.epoch);
            }
        }
        for (title, items) in [("Warnings", &self.warnings), ("Missed targets", &self.missed)] {
            if !items.is_empty() {
                let _ = writeln!(out, "\n## {title}\n");
                items.iter().for_each(|i| out.extend(["- ", &plain::markdown(i), "\n"]));
            }
        }
        if let Some(check) = &self.check {
            let check = format!("{check:#}");
            let _ = writeln!(out, "\n## Check\n\n```json\n{}\n```", plain::json(&check));
        }
        out
    }
}

impl StepReport {
    fn change(&self) -> String {
        let change = change(&self.before, &self.after);
        match self.zstd_bytes {
            Some(bytes) => format!("{change}, {} after zstd", group_digits(bytes)),
            None => change,
        }
    }

    /// One row a site; sites at which a Clean pass did the same share one.
    fn table(&self) -> Vec<[String; 6]> {
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
        (Some(a), Some(b)) if a == b => String::new(),
        (Some(a), Some(b)) if a > b => format!("-{} {unit}", group_digits(a - b)),
        (Some(a), Some(b)) => format!("+{} {unit}", group_digits(b - a)),
        _ => String::new(),
    }
}

/// `47 → 23 nodes, 2,170,474 → 545,000 parameters (4.0x), …`
fn change(a: &Size, b: &Size) -> String {
    [
        part(Some(a.nodes), Some(b.nodes), "nodes"),
        part(Some(a.cost.parameters), Some(b.cost.parameters), "parameters"),
        part(a.cost.macs, b.cost.macs, "MACs"),
        part(Some(a.bytes), Some(b.bytes), "bytes"),
    ]
    .join(", ")
}

fn part(a: Option<u64>, b: Option<u64>, unit: &str) -> String {
    match (a, b) {
        (Some(a), Some(b)) if a == b => format!("{} {unit}", group_digits(a)),
        (Some(a), Some(b)) => {
            let by = ratio(Some(a), Some(b)).map_or(String::new(), |r| format!(" ({r})"));
            format!("{} → {} {unit}{by}", group_digits(a), group_digits(b))
        }
        _ => format!("{unit} depend on run-time dims"),
    }
}

/// How many times smaller `b` is.
fn ratio(a: Option<u64>, b: Option<u64>) -> Option<String> {
    let (a, b) = (a?, b?);
    (a != b && b > 0).then(|| format!("{:.2}x", a as f64 / b as f64))
}

/// `2170474` as `2,170,474`.
pub fn group_digits(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
