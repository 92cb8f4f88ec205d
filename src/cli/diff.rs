//! `tutee diff A B`

use super::sizes::SizeArgs;
use super::terminal::Stream;
use crate::compress::measure;
use crate::error::{Error, Result};
use crate::onnx;
use crate::plain;
use crate::report::{Diff, ModelSize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compare two models by structure and size, layer by layer; nothing is run
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tutee diff teacher.onnx student.onnx\n  tutee diff teacher.onnx student.onnx --json"
)]
pub struct Args {
    /// A model
    before: PathBuf,
    /// Another, such as its student
    after: PathBuf,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sizes: SizeArgs,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        print(&self.before, &self.after, &self.sizes, self.json)
    }
}

/// Prints what differs between two models.
pub fn print(before: &Path, after: &Path, sizes: &SizeArgs, json: bool) -> Result<ExitCode> {
    let read = |path: &Path| {
        let mut loaded = onnx::load(path)?;
        loaded.warnings.iter().for_each(|w| super::warn(w));
        if let Some(sizes) = sizes.sizes(&loaded.model.graph)? {
            loaded.model.graph = sizes.at(&loaded.model.graph).into_owned();
        }
        let size = ModelSize { bytes: loaded.bytes, ..measure(&loaded.model)? };
        loaded.model.graph.flatten()?;
        Ok::<_, Error>((size, loaded.model.graph))
    };
    let ((size, a), (other, b)) = (read(before)?, read(after)?);
    let diff = Diff::new((size, &a), (other, &b));
    if json {
        return super::print(&plain::json(&diff)?);
    }
    super::print(&diff.text(Stream::Out.columns()))
}
