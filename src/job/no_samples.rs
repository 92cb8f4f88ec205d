//! What stands in for `samples.rs` where networks cannot be run: there is no data.

use super::places::NamedFile;
use super::watched::Watched;
use super::{Job, Listener};
use crate::analysis::sizes::InputSizes;
use crate::error::{Error, Result};
use crate::ir::Model;
use crate::recipe::{Action, DataSection, TargetSection};
use crate::report::{DataUse, Report};
use crate::session;
use std::path::Path;

pub(super) struct Samples;

#[derive(Default)]
pub(super) struct Used {
    pub fitted_to: Option<usize>,
    pub fitted: bool,
}

impl Samples {
    /// # Errors
    /// If the recipe counts on data, or sets targets that data has to show to be met.
    pub fn open(job: &Job, _: &[(String, Action)], _: &Model, _: &dyn Listener) -> Result<Samples> {
        let DataSection { calib, train, test, .. } = &job.recipe.data;
        let data = [("calib", calib), ("train", train), ("test", test)].into_iter().find(|d| d.1.is_some());
        let what = match data {
            Some((key, _)) => format!("`{key}` under [data]"),
            None if job.recipe.target != TargetSection::default() => "what is under [target]".into(),
            None => return Ok(Samples),
        };
        let place = job.recipe.path.iter().map(|p| p.display().to_string());
        let refused = Error::input(format!("this build of tutee cannot use {what}"))
            .because("it has no runtime for networks: it was built without its feature `exec`")
            .help("build tutee with its feature `exec`, or take that out of the recipe");
        Err(place.fold(refused, Error::at))
    }

    pub fn sizes(&self, _: &Model) -> Option<InputSizes> {
        None
    }

    pub fn files(&self) -> Vec<NamedFile<'_>> {
        Vec::new()
    }

    pub fn check(&self, _: &Job, _: &Model) -> Result<()> {
        Ok(())
    }

    pub fn fitting(&self, _: &Job, _: &Model) -> Result<Fitting> {
        Ok(Fitting)
    }

    pub fn ruined(&self, _: &mut Report) {}

    pub fn compared_with(&self, _: &Job, _: &InputSizes, _: &mut Report) -> Result<()> {
        Ok(())
    }

    pub fn test(&self, _: &Job, _: &Path, _: &Watched<'_>, _: &mut Report) -> Result<()> {
        Ok(())
    }

    pub fn uses(&self, _: Option<usize>, _: &Report) -> Vec<DataUse> {
        Vec::new()
    }

    pub fn asked(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}

pub(super) struct Fitting;

impl Fitting {
    pub fn data(&self, sizes: InputSizes) -> session::Data<'_> {
        session::Data { sizes, ..session::Data::default() }
    }

    pub fn warnings(&self, _: &[(String, Action)], _: &Job) -> Vec<String> {
        Vec::new()
    }

    pub fn used(&self) -> Used {
        Used::default()
    }
}

/// Stages are networks that are run one after another.
pub(super) mod staged {
    use crate::error::{Error, Result};
    use crate::files::Atomic;
    use crate::ir::Model;
    use std::path::{Path, PathBuf};

    pub fn prepare(_: &Model, _: &Path) -> Result<Vec<Atomic>> {
        Err(Error::input("this build writes no stages").help("build tutee with its feature `exec`"))
    }

    pub fn earlier(_: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    pub fn remove(_: Vec<PathBuf>, _: &[(PathBuf, u64)]) -> Result<()> {
        Ok(())
    }

    pub fn files(_: &Path) -> Vec<PathBuf> {
        Vec::new()
    }
}
