//! Who listens to a job.

use crate::session::{Observer, Silent};

/// What a job says besides what happens in its steps, for whoever wants to show it. Texts may quote from files.
pub trait Listener: Observer + Sync {
    /// Something that whoever wants the student should know; it is in the report, too.
    fn warning(&self, _what: &str) {}

    /// As [`Listener::warning`], of the student on test data.
    fn doubt(&self, what: &str) {
        self.warning(what);
    }

    /// What data was taken for.
    fn news(&self, _what: &str) {}

    /// Lines in which the student's structure differs from what it was to be.
    fn difference(&self, _lines: &str) {}

    /// Of the samples that the student is checked on, `done` of `all` were run. Comes from any thread.
    fn checking(&self, _done: usize, _all: usize) {}

    /// The steps, or the check, came to an end.
    fn ends(&self) {}

    /// Before (`true`) and after there is a student to come that is lost if the process ends.
    fn unwritten(&self, _is: bool) {}
}

impl Listener for Silent {}
