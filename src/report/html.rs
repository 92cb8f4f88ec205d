//! The report as one page that needs nothing else: no script, no network, light and dark, phone and paper.

#[cfg(feature = "exec")]
mod classes;
mod plot;

use super::{LayerReport, Report};
use crate::figures::{about, bytes, count, grouped, percent, ratio};
use crate::plain;
use plot::{Plot, Series};
use std::fmt::Write;
use std::path::Path;

/// More layers than these are shown on demand.
const FOLDED: usize = 100;
const STYLE: &str = include_str!("html/style.css");

impl Report {
    /// The report as an HTML page. Every plot has its numbers in a table, too.
    pub fn html(&self) -> String {
        let title = match (&self.run.student, &self.run.teacher) {
            (Some(student), Some(teacher)) => format!("{}, made from {}", file_name(student), file_name(teacher)),
            _ => "Compression report".into(),
        };
        let mut page = Page::new(&title);
        self.verdict(&mut page);
        self.size_table(&mut page);
        self.steps(&mut page);
        self.curves(&mut page);
        self.front(&mut page);
        self.output_table(&mut page);
        self.classes(&mut page);
        self.reasons(&mut page);
        self.layers(&mut page);
        self.every_row(&mut page);
        self.origin(&mut page);
        page.end()
    }

    /// Targets and warnings: what a reader must not miss.
    fn verdict(&self, page: &mut Page) {
        for missed in &self.missed {
            page.put(&format!("<p class=\"bad\"><b>Target missed:</b> {}</p>\n", plain::html(missed)));
        }
        for warning in &self.warnings {
            page.put(&format!("<p class=\"warning\"><b>Warning:</b> {}</p>\n", plain::html(warning)));
        }
    }

    fn size_table(&self, page: &mut Page) {
        let (t, s) = (&self.teacher, &self.student);
        let pair = |what: &str, a: u64, b: u64, show: fn(u64) -> String| {
            [what.into(), show(a), show(b), ratio(a as f64, b as f64).unwrap_or_default()]
        };
        let mut rows = vec![pair("file", t.bytes, s.bytes, bytes)];
        rows.extend(self.zstd_bytes.map(|z| pair("file after zstd", z.teacher, z.student, bytes)));
        rows.push(pair("weights", t.weights, s.weights, grouped));
        rows.extend(self.nonzero_weights.map(|n| pair("weights that are not zero", n.teacher, n.student, grouped)));
        rows.extend(t.cost.macs.zip(s.cost.macs).map(|(a, b)| pair("MACs", a, b, grouped)));
        rows.push(["operators".into(), grouped(t.nodes), grouped(s.nodes), String::new()]);
        #[cfg(feature = "exec")]
        if let Some(check) = &self.check {
            let share = |what: &str, both: Option<(f64, f64)>| {
                both.map(|(a, b)| [what.into(), percent(a), percent(b), crate::figures::points(a, b)])
            };
            rows.extend(share("accuracy (top-1)", check.teacher.top1.zip(check.student.top1)));
            rows.extend(share("accuracy (top-5)", check.teacher.top5.zip(check.student.top5)));
            rows.extend(check.agreement.map(|a| ["agreement".into(), String::new(), percent(a), String::new()]));
            let (a, b) = (check.teacher.latency_ms, check.student.latency_ms);
            let by = ratio(a, b).unwrap_or_default();
            rows.push(["time a sample, one thread".into(), format!("{a:.3} ms"), format!("{b:.3} ms"), by]);
        }
        page.table("Teacher and student", &["", "teacher", "student", ""], &rows);
    }

    fn steps(&self, page: &mut Page) {
        let show = |n: Option<u64>| n.map_or("run-time dims".into(), grouped);
        let row = |(i, step): (usize, &super::StepReport)| {
            let done = step.rows.iter().filter(|r| r.done).count();
            let (s, by) = (&step.after, ratio(step.before.bytes as f64, step.after.bytes as f64));
            [
                format!("{}. {}", i + 1, step.name),
                format!("{} of {}", done, count(step.rows.len(), "site")),
                grouped(s.weights),
                show(s.cost.macs),
                bytes(s.bytes),
                by.unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = self.steps.iter().enumerate().map(row).collect();
        page.table("Steps", &["step", "done at", "weights after", "MACs after", "file after", ""], &rows);
    }

    fn curves(&self, page: &mut Page) {
        for step in self.steps.iter().filter(|s| !s.curve.is_empty()) {
            page.put(&format!("<section>\n<h2>Training: {}</h2>\n", plain::html(&step.name)));
            let series = |name, of: &dyn Fn(&super::EpochPoint) -> Option<f64>| Series {
                name,
                points: step.curve.iter().filter_map(|p| Some((p.epoch as f64, of(p)?))).collect(),
            };
            let losses = [series("loss", &|p| p.loss), series("loss on what is held back", &|p| p.held_back)];
            page.put(&Plot { label: "Loss by epoch", x: "epoch", y: "loss", joined: true }.svg(&losses));
            let share = |share: Option<f64>| share.map(|s| 100.0 * s);
            let shares = [
                series("accuracy", &|p| share(p.accuracy)),
                series("agreement with the teacher", &|p| share(p.agreement)),
            ];
            page.put(&Plot { label: "Accuracy by epoch", x: "epoch", y: "%", joined: true }.svg(&shares));
            let loss = |v: Option<f64>| v.map_or("none".into(), |v| format!("{v:.4}"));
            let share = |v: Option<f64>| v.map_or(String::new(), percent);
            let rows: Vec<_> = step
                .curve
                .iter()
                .map(|p| [p.epoch.to_string(), loss(p.loss), loss(p.held_back), share(p.accuracy), share(p.agreement)])
                .collect();
            let head = ["epoch", "loss", "held back", "accuracy", "agreement"];
            page.folded("The numbers", &head, &rows, false);
            page.put("</section>\n");
        }
    }

    /// Candidates of a search.
    fn front(&self, page: &mut Page) {
        let Some(search) = &self.search else { return };
        page.put("<section>\n<h2>Search</h2>\n");
        let of = |chosen: bool| {
            let tried = search.tried.iter().filter(|t| t.chosen == chosen);
            tried.map(|t| (t.bytes as f64 / 1e3, 100.0 * t.loss)).collect()
        };
        let series = [Series { name: "tried", points: of(false) }, Series { name: "chosen", points: of(true) }];
        page.put(&Plot { label: "Loss by size", x: "kB", y: "% lost", joined: false }.svg(&series));
        let row = |t: &super::Tried| {
            let chosen = if t.chosen { "chosen" } else { "" };
            [t.recipe.clone(), bytes(t.bytes), percent(t.loss), chosen.into()]
        };
        let rows: Vec<_> = search.tried.iter().map(row).collect();
        page.folded("The numbers", &["recipe", "file", "lost", ""], &rows, false);
        page.put("</section>\n");
    }

    fn layers(&self, page: &mut Page) {
        if self.layers.is_empty() {
            return;
        }
        let most = |of: fn(&LayerReport) -> (u64, u64)| {
            self.layers.iter().map(of).map(|(a, b)| a.max(b)).max().unwrap_or(1).max(1) as f64
        };
        let macs = |l: &LayerReport| l.macs().0.zip(l.macs().1).unwrap_or((0, 0));
        let (most_bytes, most_macs) = (most(LayerReport::bytes), most(macs));
        let open = if self.layers.len() > FOLDED { "" } else { " open" };
        let title = count(self.layers.len(), "layer");
        page.put(&format!(
            "<section>\n<h2>Layers</h2>\n<details{open}><summary>{title}</summary>\n<p class=\"key\"><i class=\"before\"></i> before <i class=\"after\"></i> after</p>\n\
             <div class=\"scroll\">\n<table class=\"layers\">\n<thead><tr><th>layer<th>weights<th>bytes stored<th>MACs\
             <th>what was done</tr></thead>\n<tbody>\n"
        ));
        for layer in &self.layers {
            let shape = layer.before.as_ref().map_or(String::new(), |l| shape(&l.shape));
            let both = |(a, b): (u64, u64), most: f64| {
                let bars = plot::bars(a as f64 / most, b as f64 / most);
                let (a, b) = (grouped(a), grouped(b));
                if a == b { format!("{a} {bars}") } else { format!("{a} → {b} {bars}") }
            };
            let (before, after) = layer.weights();
            let weights =
                if before == after { grouped(before) } else { format!("{} → {}", grouped(before), grouped(after)) };
            let macs = match layer.macs() {
                (Some(a), Some(b)) => both((a, b), most_macs),
                _ => "run-time dims".into(),
            };
            let mut done: Vec<String> = layer.done.iter().map(|(pass, what)| format!("{pass}: {what}")).collect();
            if layer.before.is_none() {
                done.insert(0, "new".into());
            } else if layer.after.is_empty() {
                done.insert(0, "gone, or part of another layer".into());
            }
            if let Some(e) = layer.error.filter(|_| layer.done.is_empty()) {
                let kept = if e.kept { "" } else { ", not kept" };
                done.push(format!("error on held-back data {} → {}{kept}", percent(e.before), percent(e.after)));
            }
            let done: Vec<String> = done.iter().map(|d| plain::html(d)).collect();
            page.put(&format!(
                "<tr><td>{} <small>{} {shape}</small><td>{weights}<td>{}<td>{macs}<td>{}</tr>\n",
                breaking(&plain::html(&layer.name)),
                plain::html(&layer.op),
                both(layer.bytes(), most_bytes),
                done.join("<br>")
            ));
        }
        page.put("</tbody>\n</table>\n</div>\n</details>\n</section>\n");
    }

    fn reasons(&self, page: &mut Page) {
        let all = self.teacher.cost.parameters.max(1) as f64;
        let row = |g: &super::LeftAlone| {
            let share = if g.weights > 0 { about((g.weights as f64 / all).min(1.0)) } else { String::new() };
            [g.pass.clone(), g.why.words().into(), grouped(g.sites as u64), share, format!("{}: {}", g.example, g.note)]
        };
        let rows: Vec<_> = self.left_alone.iter().map(row).collect();
        page.table("What was left alone", &["pass", "why", "sites", "of the weights", "such as"], &rows);
    }

    /// What the check says of each output.
    #[cfg(feature = "exec")]
    fn output_table(&self, page: &mut Page) {
        let Some(check) = &self.check else { return };
        let row = |(name, diff): (&String, &crate::check::OutputDiff)| {
            let verdict = diff.verdict.as_ref();
            [
                name.clone(),
                verdict.map_or("not judged".into(), |v| v.kind.to_string()),
                verdict.map_or(String::new(), |v| format!("{} by {}", v.figure(), v.metric)),
                format!("{:.3e}", diff.max_abs),
                format!("{:.3e}", diff.mean_abs),
                format!("{:.6}", diff.cosine),
            ]
        };
        let rows: Vec<_> = check.outputs.iter().map(row).collect();
        let title = format!("Outputs, over {}", count(check.samples, "sample"));
        page.table(&title, &["output", "kind", "judged", "max |Δ|", "mean |Δ|", "cosine"], &rows);
    }

    #[cfg(feature = "exec")]
    fn classes(&self, page: &mut Page) {
        classes::section(page, self.check.as_ref().map_or(&[], |check| &check.worse_classes));
    }

    #[cfg(not(feature = "exec"))]
    fn output_table(&self, _page: &mut Page) {}

    #[cfg(not(feature = "exec"))]
    fn classes(&self, _page: &mut Page) {}

    fn every_row(&self, page: &mut Page) {
        let rows = self.steps.iter().flat_map(|step| step.table());
        let rows: Vec<[String; 5]> = rows
            .map(|[pass, site, op, what, weights, macs]| {
                let saved: Vec<String> = [weights, macs].into_iter().filter(|s| !s.is_empty()).collect();
                [pass, site, op, what, saved.join(", ")]
            })
            .collect();
        if !rows.is_empty() {
            page.put("<section>\n<h2>Every site</h2>\n");
            page.folded("All rows", &["pass", "site", "", "what", "change"], &rows, false);
            page.put("</section>\n");
        }
    }

    fn origin(&self, page: &mut Page) {
        let run = &self.run;
        let samples = |n: Option<usize>| n.map_or(String::new(), |n| grouped(n as u64));
        let data = run.data.iter().map(|d| [d.purpose.clone(), d.name.clone(), samples(d.samples)]);
        page.table("Data", &["used for", "data", "samples"], &data.collect::<Vec<_>>());
        let times = run.times.iter().map(|t| [t.part.clone(), format!("{:.2} s", t.seconds)]);
        page.table("Time", &["part", "wall time"], &times.collect::<Vec<_>>());
        let recipe = Some(self.recipe.as_str()).filter(|r| !r.is_empty());
        for (title, text) in [("Recipe", recipe), ("Command", run.command.as_deref())] {
            if let Some(text) = text {
                let lines: Vec<String> = text.lines().map(plain::html).collect();
                page.put(&format!("<section>\n<h2>{title}</h2>\n<pre>{}</pre>\n</section>\n", lines.join("\n")));
            }
        }
        page.put(&format!("<footer>tutee {}</footer>\n", env!("CARGO_PKG_VERSION")));
    }
}

fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy().into_owned())
}

/// A name that may go on in the next line behind its parts.
fn breaking(html: &str) -> String {
    html.replace('/', "/<wbr>").replace('.', ".<wbr>")
}

/// `64×3×3×3`
fn shape(dims: &[u64]) -> String {
    dims.iter().map(u64::to_string).collect::<Vec<_>>().join("×")
}

/// HTML as it grows. Cells and headings are text, and escaped; what is `put` is HTML.
pub(super) struct Page(String);

impl Page {
    pub(super) fn new(title: &str) -> Page {
        let title = plain::html(title);
        Page(format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        ))
    }

    pub(super) fn end(mut self) -> String {
        self.put("</main>\n</body>\n</html>\n");
        self.0
    }

    pub(super) fn put(&mut self, html: &str) {
        self.0.push_str(html);
    }

    /// A section with a table, if that has rows.
    fn table<const N: usize>(&mut self, title: &str, head: &[&str; N], rows: &[[String; N]]) {
        if !rows.is_empty() {
            let _ = write!(self.0, "<section>\n<h2>{}</h2>\n", plain::html(title));
            self.rows(head, rows);
            self.put("</section>\n");
        }
    }

    /// A table that is opened by its title.
    pub(super) fn folded<const N: usize>(&mut self, title: &str, head: &[&str; N], rows: &[[String; N]], open: bool) {
        let open = if open { " open" } else { "" };
        let _ = writeln!(self.0, "<details{open}><summary>{}</summary>", plain::html(title));
        self.rows(head, rows);
        self.put("</details>\n");
    }

    fn rows<const N: usize>(&mut self, head: &[&str; N], rows: &[[String; N]]) {
        self.put("<div class=\"scroll\">\n<table>\n<thead><tr>");
        head.iter().for_each(|h| self.put(&format!("<th>{}", plain::html(h))));
        self.put("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.put("<tr>");
            for cell in row {
                let number = cell.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '−' | '+'));
                let class =
                    if number && !cell.contains(". ") && !cell.contains(", ") { " class=\"number\"" } else { "" };
                self.put(&format!("<td{class}>{}", plain::html(cell)));
            }
            self.put("</tr>\n");
        }
        self.put("</tbody>\n</table>\n</div>\n");
    }
}
