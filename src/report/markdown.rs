//! The report as Markdown.

use super::Report;
use crate::figures::{grouped, percent, ratio};
use crate::plain;
use std::fmt::Write;

impl Report {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::from("# Compression report\n\n| | teacher | student | ratio |\n|---|---:|---:|---:|\n");
        let mut line = |what: &str, a: Option<u64>, b: Option<u64>| {
            let show = |n: Option<u64>| n.map_or("run-time dims".into(), grouped);
            let by = a.zip(b).and_then(|(a, b)| ratio(a as f64, b as f64)).unwrap_or_default();
            let _ = writeln!(out, "| {what} | {} | {} | {by} |", show(a), show(b));
        };
        let (t, s) = (&self.teacher, &self.student);
        line("nodes", Some(t.nodes), Some(s.nodes));
        line("weights", Some(t.weights), Some(s.weights));
        if let Some(n) = self.nonzero_weights {
            line("weights that are not zero", Some(n.teacher), Some(n.student));
        }
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
                let share = |v: Option<f64>| v.map_or(String::new(), percent);
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
        #[cfg(feature = "exec")]
        if let Some(check) = &self.check {
            let _ = writeln!(out, "\n## Check\n\n```json\n{}```", plain::json(check).unwrap_or_default());
        }
        out
    }
}
