//! What a run says at its end: the summary, or with `--verbose` every row, and what comes next.

use super::output::OutputArgs;
use super::terminal::Stream;
use crate::figures::{grouped, percent};
use crate::job::Finished;
use crate::plain;
use crate::report::Report;
use std::path::Path;

/// Lines of a summary.
const LINES: usize = 15;

/// Whether networks can be run.
const CHECKS: bool = cfg!(feature = "exec");

/// A run that came to its end.
pub struct FinishedRun<'a> {
    pub teacher: &'a Path,
    pub output: &'a OutputArgs,
    /// Whether the student is on standard output.
    pub to_stdout: bool,
    pub done: &'a Finished,
}

impl FinishedRun<'_> {
    pub fn text(&self) -> String {
        let report = &self.done.report;
        let stream = if self.to_stdout { Stream::Err } else { Stream::Out };
        if self.output.json {
            return plain::json(report).unwrap_or_default();
        }
        let last: Vec<String> =
            self.targets(report).into_iter().chain(self.written(report)).chain([self.next(report)]).collect();
        let mut out = match self.output.verbose {
            true => self.rows(report, stream),
            false => report.summary_in(LINES - last.len() - 1),
        };
        out.push('\n');
        last.iter().for_each(|line| out.extend([line, "\n"]));
        out
    }

    fn rows(&self, report: &Report, stream: Stream) -> String {
        let rows = report.rows(Some(stream.columns()));
        #[cfg(feature = "exec")]
        if let Some(check) = &report.check {
            return format!("{rows}\n{check}\n");
        }
        rows
    }

    /// Targets met or missed.
    fn targets(&self, report: &Report) -> Vec<String> {
        let missed = report.missed.iter().take(1);
        let mut lines: Vec<String> = missed.map(|m| format!("missed {}", plain::line(m))).collect();
        if report.missed.len() > 1 {
            lines.push(format!("missed more: {}", report.missed.len() - 1));
        }
        if report.missed.is_empty() && report.is_checked() && !self.done.asked.is_empty() {
            let asked = self.done.asked.iter().map(|(name, share)| format!("{name} {}", percent(*share)));
            lines.push(format!("met {}", asked.collect::<Vec<_>>().join(", ")));
        }
        lines
    }

    fn written(&self, report: &Report) -> Option<String> {
        let path = self.output.output.display().to_string();
        let reports: Vec<String> =
            self.output.report.iter().map(|p| plain::line(&p.display().to_string()).into_owned()).collect();
        let reports = if reports.is_empty() { String::new() } else { format!(", report in {}", reports.join(", ")) };
        (!self.to_stdout)
            .then(|| format!("wrote {}, {} bytes{reports}", plain::line(&path), grouped(report.student.bytes)))
    }

    /// The command that it makes most sense to try now.
    fn next(&self, report: &Report) -> String {
        let name = |path: &Path| super::quoted(&path.display().to_string());
        let student = name(&self.output.output);
        if CHECKS && self.to_stdout {
            return "next: --report FILE.html keeps every row of this".into();
        } else if CHECKS && !report.is_checked() {
            return format!("next: tutee check {} {student} --data DATA", name(self.teacher));
        } else if CHECKS && !self.done.fitted && !report.missed.is_empty() {
            return "next: the same with --calib DATA, which fits weights to the teacher's answers".into();
        }
        match (self.output.verbose, self.output.report.is_empty()) {
            (_, true) if !report.steps.is_empty() => "next: the same with --report FILE.html keeps all of this".into(),
            _ => format!("next: tutee show {student}"),
        }
    }
}
