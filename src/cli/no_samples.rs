//! What stands in for `samples.rs` where networks cannot be run: there are no such arguments.

use super::output::OutputArgs;
use super::sizes::SizeArgs;
use crate::error::Result;
use crate::job::{Job, Searched};
use crate::recipe::Recipe;
use std::path::Path;

#[derive(clap::Args)]
pub struct SampleArgs {}

impl SampleArgs {
    pub fn answer(&mut self, _: &Path, _: &SizeArgs, _: &OutputArgs) -> Result<Option<Answer>> {
        Ok(None)
    }

    pub fn tell(&self, _: &mut Job) -> Result<()> {
        Ok(())
    }
}

/// There is none.
pub enum Answer {}

impl Answer {
    pub fn recipe(&self) -> &Recipe {
        match *self {}
    }

    pub fn searched(&mut self) -> Searched {
        match *self {}
    }

    pub fn tell(&self) {
        match *self {}
    }
}
