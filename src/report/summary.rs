//! What most people want to know of a compression, in a few short lines.

use super::{Report, left_alone};
use crate::figures::{about, bytes, count, grouped, percent, ratio};
use crate::passes::Why;
use crate::plain;
use comfy_table::{CellAlignment, Table, presets};

/// Columns of a line.
const WIDTH: usize = 80;
/// Things that are told besides the figures.
const NOTES: usize = 3;
/// Columns of a name within a line.
const NAME: usize = 28;
/// The share of the file from which on a single layer is worth a word.
const LARGE: f64 = 0.4;

impl Report {
    /// A table of before and after and at most three notes, in lines of at most 80 columns.
    pub fn summary(&self) -> String {
        self.summary_in(usize::MAX)
    }

    /// As [`Report::summary`], in that many lines if that is enough for the table and one note.
    pub fn summary_in(&self, lines: usize) -> String {
        let mut out = self.figures();
        let mut notes = self.notes();
        notes.truncate(lines.saturating_sub(out.lines().count() + 1).max(1));
        if !notes.is_empty() {
            out.push('\n');
        }
        notes.iter().for_each(|note| out.extend([&cut(note, WIDTH), "\n"]));
        out
    }

    fn figures(&self) -> String {
        let (t, s) = (&self.teacher, &self.student);
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["", "before", "after", ""]);
        let mut row = |what: &str, a: u64, b: u64, show: fn(u64) -> String| {
            let by = ratio(a as f64, b as f64).unwrap_or_default();
            table.add_row([what.into(), show(a), show(b), by]);
        };
        row("file", t.bytes, s.bytes, bytes);
        // Zeros show only once the file is packed.
        let zeros = self.nonzero_weights;
        if let Some(z) = self.zstd_bytes.filter(|_| zeros.is_some()) {
            row("file after zstd", z.teacher, z.student, bytes);
        }
        row("weights", t.weights, s.weights, grouped);
        if let Some(n) = zeros {
            row("  not zero", n.teacher, n.student, grouped);
        }
        if let Some((a, b)) = t.cost.macs.zip(s.cost.macs) {
            row("MACs", a, b, grouped);
        }
        table.add_row(["operators", &grouped(t.nodes), &grouped(s.nodes), ""]);
        self.accuracy(&mut table);
        for (i, column) in table.column_iter_mut().enumerate() {
            column.set_padding(if i == 0 { (0, 1) } else { (1, 1) });
            if i > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string().lines().map(|l| format!("{}\n", l.trim_end())).collect()
    }

    #[cfg(feature = "exec")]
    fn accuracy(&self, table: &mut Table) {
        let Some(check) = &self.check else { return };
        if let Some((a, b)) = check.teacher.top1.zip(check.student.top1) {
            table.add_row(["accuracy".into(), percent(a), percent(b), crate::figures::points(a, b)]);
        } else if let Some(agreement) = check.agreement {
            table.add_row(["agreement", "", &percent(agreement), ""]);
        }
    }

    #[cfg(not(feature = "exec"))]
    fn accuracy(&self, _table: &mut Table) {}

    /// What is most worth knowing besides the figures, the most important first.
    fn notes(&self) -> Vec<String> {
        let mut steps = self.changes().into_iter();
        let mut notes: Vec<String> = Vec::new();
        if !self.steps.iter().any(|s| !s.curve.is_empty() || s.rows.iter().any(|r| r.done)) {
            let told = self.steps.iter().any(|s| !s.rows.is_empty());
            notes.push(if told { "nothing was done: -v says why" } else { "nothing was done" }.into());
        }
        notes.extend(self.training());
        notes.extend(steps.next());
        notes.extend(self.fits());
        notes.extend(self.outputs());
        notes.extend(steps);
        notes.extend(self.largest());
        notes.truncate(NOTES);
        notes
    }

    /// What passes that make models smaller did and left alone, those that left most weights alone first.
    fn changes(&self) -> Vec<String> {
        let all = self.teacher.cost.parameters.max(1) as f64;
        let mut told: Vec<(u64, String)> = Vec::new();
        for step in &self.steps {
            let done = step.rows.iter().filter(|r| r.done && r.cost.is_some()).count();
            let left = left_alone(std::slice::from_ref(step));
            let left: Vec<_> = left.into_iter().filter(|g| g.weights > 0 && g.why != Why::Settled).collect();
            let sites: usize = left.iter().map(|g| g.sites).sum();
            let weights: u64 = left.iter().map(|g| g.weights).sum();
            if done + sites == 0 {
                continue;
            }
            let mut said = format!("{}: {done} of {} changed", plain::line(&step.name), count(done + sites, "site"));
            if let Some(most) = left.first() {
                let share = about((weights as f64 / all).min(1.0));
                said.push_str(&format!("; {share} of the weights left alone ({})", most.why.words()));
            }
            told.push((weights, said));
        }
        told.sort_by_key(|t| std::cmp::Reverse(t.0));
        told.into_iter().map(|t| t.1).collect()
    }

    fn training(&self) -> Option<String> {
        let curve = self.steps.iter().rev().map(|s| &s.curve).find(|c| !c.is_empty())?;
        let (first, last) = (curve.first()?, curve.last()?);
        let loss = |v: Option<f64>| v.map_or("none".into(), |v| format!("{v:.3}"));
        let mut said = format!(
            "trained {}: held-back loss {} → {}",
            count(last.epoch, "epoch"),
            loss(first.held_back),
            loss(last.held_back)
        );
        if let Some(accuracy) = last.accuracy {
            said.push_str(&format!(", accuracy {} there", percent(accuracy)));
        } else if let Some(agreement) = last.agreement {
            said.push_str(&format!(", agreement {} there", percent(agreement)));
        }
        Some(said)
    }

    /// What fitting to calibration data did.
    fn fits(&self) -> Option<String> {
        let fits: Vec<_> = self.steps.iter().flat_map(|s| &s.rows).filter_map(|r| r.error).collect();
        let kept: Vec<_> = fits.iter().filter(|f| f.kept).collect();
        let mean = |of: fn(&super::FitResult) -> f64| kept.iter().map(|f| of(f)).sum::<f64>() / kept.len() as f64;
        (!kept.is_empty()).then(|| {
            let rest = match fits.len() - kept.len() {
                0 => String::new(),
                n => format!("; {n} were no help"),
            };
            let (before, after) = (percent(mean(|f| f.before)), percent(mean(|f| f.after)));
            format!("{} of layers to data: mean error {before} → {after}{rest}", count(kept.len(), "fit"))
        })
    }

    /// What lost most, where that is not a class.
    #[cfg(feature = "exec")]
    fn outputs(&self) -> Option<String> {
        let check = self.check.as_ref().filter(|c| c.teacher.top1.is_none())?;
        check.worst().map(|worst| format!("worst is {}", plain::line(&worst)))
    }

    #[cfg(not(feature = "exec"))]
    fn outputs(&self) -> Option<String> {
        None
    }

    /// The layer that most of the file is, if one stands out.
    fn largest(&self) -> Option<String> {
        let layer = self.layers.iter().max_by_key(|l| l.bytes().1)?;
        let share = layer.bytes().1 as f64 / self.student.bytes.max(1) as f64;
        (share >= LARGE && self.layers.len() > 1)
            .then(|| format!("\"{}\" is {} of the student's file", name(&layer.name), about(share)))
    }
}

/// A name that is quoted within a line.
fn name(name: &str) -> String {
    cut(&plain::line(name), NAME)
}

/// The first characters of a text, with `…` for the last if there are more.
fn cut(text: &str, most: usize) -> String {
    match text.chars().count() {
        n if n <= most => text.into(),
        _ => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::cost::Cost;
    use crate::analysis::weights::LayerCost;
    use crate::passes::Reason;
    use crate::report::{EpochPoint, FitResult, ModelSize, Row, StepReport, layers};

    fn report(name: &str) -> Report {
        let size = |nodes, weights, bytes| ModelSize {
            nodes,
            weights,
            cost: Cost { parameters: weights, macs: Some(10 * weights), stored: bytes },
            bytes,
            latency: None,
        };
        let (before, after) = (size(47, 100_000, 400_000), size(23, 100_000, 100_000));
        let mut left = Row { pass: "cluster-weights".into(), site: name.into(), weights: 2_000, ..Row::default() };
        left.leave(Reason::new(Why::NoGain, "codes would take no fewer bytes"));
        let fit = Row { done: true, error: Some(FitResult { before: 0.2, after: 0.1, kept: true }), ..left.clone() };
        let point = |epoch, loss| EpochPoint {
            epoch,
            loss: Some(loss),
            held_back: Some(loss),
            accuracy: None,
            agreement: Some(0.98),
        };
        let curve = vec![point(0, 1.5), point(3, 0.25)];
        let step = StepReport { name: "x".into(), before, after, zstd_bytes: None, rows: vec![left, fit], curve };
        let layer = LayerCost {
            name: name.into(),
            op: "Gemm".into(),
            shape: vec![10, 10],
            weights: 100_000,
            parameters: 100_000,
            bytes: 90_000,
            macs: Some(5),
        };
        let steps = vec![step];
        Report {
            teacher: before,
            student: after,
            layers: layers(vec![layer.clone()], vec![layer], &steps),
            left_alone: left_alone(&steps),
            steps,
            ..Report::default()
        }
    }

    #[test]
    fn a_summary_is_short_and_narrow() {
        let text = report("fc").summary();
        let want = "              before      after
file        400.0 kB   100.0 kB  4.0x
weights      100,000    100,000
MACs       1,000,000  1,000,000
operators         47         23

trained 3 epochs: held-back loss 1.500 → 0.250, agreement 98.00 % there
x: 0 of 1 site changed; 2 % of the weights left alone (no gain)
1 fit of layers to data: mean error 20.00 % → 10.00 %
";
        assert_eq!(text, want);
        let long = report(&"層\u{1b}[2J".repeat(60)).summary();
        assert!(long.lines().all(|l| l.chars().count() <= WIDTH) && !long.contains('\u{1b}'), "{long}");
        assert!(long.lines().count() <= 15);
    }

    #[test]
    fn rows_wrap_to_the_width_they_are_given() {
        let report = report(&"a-long-name/".repeat(10));
        assert!(report.rows(Some(80)).lines().all(|l| l.chars().count() <= 80), "{}", report.rows(Some(80)));
        assert!(report.text().lines().any(|l| l.chars().count() > 80));
    }

    #[test]
    fn json_keeps_its_fields_and_names_kinds_of_reasons() {
        let json = serde_json::to_value(report("fc")).unwrap();
        for field in ["version", "teacher", "student", "steps", "warnings", "missed"] {
            assert!(!json[field].is_null(), "{field}");
        }
        assert_eq!(json["teacher"]["parameters"], 100_000);
        assert_eq!(json["left_alone"][0]["why"], "no-gain");
        assert_eq!(json["layers"][0]["done"][0][0], "cluster-weights");
    }
}
