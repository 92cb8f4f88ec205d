//! Who watches a run.

use crate::error::Result;
use crate::ir::Model;

/// What happens while a recipe runs, for whoever wants to show it.
pub trait Observer {
    /// Before step `index` (from 0) of `count`.
    fn step(&self, _index: usize, _count: usize, _name: &str) {}

    /// At a site of the running step, of whose work `done` of `all` is behind.
    fn site(&self, _done: u64, _all: u64, _site: &str) {}

    /// News of a step that takes long, such as the end of an epoch.
    fn line(&self, _news: &str) {}

    /// Before (`true`) and after something that may end early and has something to show for it then.
    fn training(&self, _begins: bool) {}

    /// Whether that should go on.
    fn goes_on(&self) -> bool {
        true
    }

    /// After a step; `index` counts from 1, and 0 is the model as loaded.
    ///
    /// # Errors
    /// Whatever the observer could not do; it ends the run.
    fn model(&self, _index: usize, _name: &str, _model: &Model) -> Result<()> {
        Ok(())
    }
}

/// Observes nothing.
pub struct Silent;

impl Observer for Silent {}
