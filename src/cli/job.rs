//! What `compress`, `distill` and `cascade` have in common: what is said at the end of a job.

use super::output::OutputArgs;
use super::progress::Progress;
use super::samples::Answer;
use super::summary::FinishedRun;
use crate::error::Result;
use crate::job::Job;
use std::process::ExitCode;

/// Runs a job, whose recipe may be `found` by a search, and says what came of it.
pub fn run(job: Job, output: &OutputArgs, found: Option<&Answer>) -> Result<ExitCode> {
    let job = Job { command: Some(super::again()), ..output.tell(job)? };
    let (teacher, to_stdout) = (job.model.clone(), job.output.to_stdout());
    let done = job.run(&Progress::new(output.quiet))?;
    found.filter(|_| !output.quiet).into_iter().for_each(Answer::tell);
    let text = FinishedRun { teacher: &teacher, output, to_stdout, done: &done }.text();
    match (output.quiet, to_stdout) {
        (true, _) => {}
        (false, true) => super::say(&text.trim_end()),
        (false, false) => super::tell(&text).map(drop)?,
    }
    done.result().map(|_| ExitCode::SUCCESS)
}
