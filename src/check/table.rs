//! The result for people.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};

use super::{Check, CheckedModel, Exits};
use crate::figures::{self, percent, points, ratio};
use crate::plain;

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["", "teacher", "student", ""]);
        let mut row = |name: &str,
                       of: &dyn Fn(&CheckedModel) -> Option<f64>,
                       show: fn(f64) -> String,
                       change: StructureChange| {
            if let (Some(t), Some(s)) = (of(&self.teacher), of(&self.student)) {
                let change = match change {
                    StructureChange::Points => points(t, s),
                    StructureChange::Ratio => ratio(t, s).unwrap_or_default(),
                };
                table.add_row([name.to_owned(), show(t), show(s), change]);
            }
        };
        row("top-1", &|s| s.top1, percent, StructureChange::Points);
        row("top-5", &|s| s.top5, percent, StructureChange::Points);
        row("weights", &|s| s.counts.weights.map(|n| n as f64), grouped, StructureChange::Ratio);
        row("MACs", &|s| s.counts.macs.map(|n| n as f64), grouped, StructureChange::Ratio);
        row("bytes", &|s| Some(s.bytes as f64), grouped, StructureChange::Ratio);
        row("bytes, zstd", &|s| Some(s.zstd_bytes as f64), grouped, StructureChange::Ratio);
        row("ms a sample", &|s| Some(s.latency_ms), |ms| format!("{ms:.3}"), StructureChange::Ratio);
        if let Some(exits) = &self.exits {
            let mean = exits.mean_macs.zip(self.teacher.counts.macs);
            mean.into_iter().for_each(|(s, t)| pair(&mut table, "MACs, mean", t as f64, s, grouped));
            let (t, s) = (exits.teacher_latency, exits.student_latency);
            pair(&mut table, "ms, mean", t.mean_ms, s.mean_ms, |ms| format!("{ms:.3}"));
            pair(&mut table, "ms, 95th percentile", t.p95_ms, s.p95_ms, |ms| format!("{ms:.3}"));
        }
        align(&mut table);
        writeln!(f, "{}", table.trim_fmt())?;

        writeln!(f, "\nover {} samples", grouped(self.samples as f64))?;
        if let Some(agreement) = self.agreement {
            writeln!(f, "agreement  {}", percent(agreement))?;
        }
        if let Some(kl) = self.kl {
            writeln!(f, "mean KL    {kl:.3e}")?;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["output", "max |Δ|", "mean |Δ|", "cosine"]);
        for (name, diff) in &self.outputs {
            let figures =
                [format!("{:.3e}", diff.max_abs), format!("{:.3e}", diff.mean_abs), format!("{:.6}", diff.cosine)];
            table.add_row(std::iter::once(plain::line(name).into_owned()).chain(figures));
        }
        align(&mut table);
        write!(f, "\n{}", table.trim_fmt())?;
        f.write_str("\n")?;
        for (name, diff) in &self.outputs {
            let name = plain::line(name);
            match &diff.verdict {
                Some(v) => write!(f, "\n`{name}`: {}, by {} {}\n  {}", v.kind, v.metric, v.figure(), v.why)?,
                None => write!(f, "\n`{name}`: not judged\n  no weight reaches it")?,
            }
        }
        if let Some(worst) = self.worst().filter(|_| self.judged().nth(1).is_some()) {
            write!(f, "\nworst is {}", plain::line(&worst))?;
        }
        if let Some(exits) = &self.exits {
            write!(f, "\n\n{exits}")?;
        }
        for (name, diff) in &self.outputs {
            for (who, n) in [("teacher", diff.teacher_non_finite), ("student", diff.student_non_finite)] {
                if n > 0 {
                    write!(
                        f,
                        "\nthe {who}'s output `{}` is NaN or infinite on {n} of {} samples",
                        plain::line(name),
                        self.samples
                    )?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |share: Option<f64>| share.map_or(String::new(), percent);
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "exit",
            "threshold",
            "leave",
            "MACs",
            "top-1",
            "agreement",
            "top-1 of all",
            "agreement of all",
        ]);
        for end in &self.ends {
            table.add_row([
                plain::line(&end.answer).into_owned(),
                end.threshold.map_or(String::new(), |t| format!("{t:.4}")),
                percent(end.share),
                end.macs.map_or("run-time dims".into(), |m| grouped(m as f64)),
                told(end.top1),
                told(end.agreement),
                told(end.top1_of_all),
                told(end.agreement_of_all),
            ]);
        }
        align(&mut table);
        write!(f, "{}", table.trim_fmt())?;
        if !self.curve.is_empty() {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header(["all thresholds", "right", "mean MACs", "leave early"]);
            for p in &self.curve {
                table.add_row([
                    format!("{:.3}", p.threshold),
                    percent(p.right),
                    grouped(p.mean_macs),
                    percent(p.early),
                ]);
            }
            align(&mut table);
            write!(f, "\n\n{}", table.trim_fmt())?;
        }
        Ok(())
    }
}

/// A row of two numbers with their ratio.
fn pair(table: &mut Table, name: &str, t: f64, s: f64, show: fn(f64) -> String) {
    table.add_row([name.to_owned(), show(t), show(s), ratio(t, s).unwrap_or_default()]);
}

enum StructureChange {
    /// The difference of two shares, in points of a percent.
    Points,
    /// How many times smaller.
    Ratio,
}

/// Names to the left, numbers to the right, no space before the first column.
fn align(table: &mut Table) {
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding(if i == 0 { (0, 1) } else { (1, 1) });
        if i > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A count as `1,234,567`.
fn grouped(n: f64) -> String {
    figures::grouped(n.round() as u64)
}
