//! What a student must reach on data, and how its outputs are judged.

use crate::check::{Judging, Targets};
use crate::error::Result;
use crate::passes::options::Share;
use crate::recipe;

/// What the student must reach
#[derive(Default, clap::Args)]
pub struct GateArgs {
    /// Exit code 2 if the student loses more of any output: points of top-1 accuracy with labels, else of agreement,
    /// cosine or variance: 0.01 or 1%
    #[arg(long, value_name = "SHARE", value_parser = Share::parse)]
    pub(super) max_drop: Option<Share>,
    /// Exit code 2 if it agrees less on any output: the share of equal answers, the cosine, or the share of the variance
    /// that is kept: 0.99 or 99%
    #[arg(long, value_name = "SHARE", value_parser = Share::parse)]
    min_agreement: Option<Share>,
    /// Exit code 2 if the error of any output by its metric is larger; for numbers, as a share of their spread: 5%
    #[arg(long, value_name = "SHARE", value_parser = Share::parse)]
    max_error: Option<Share>,
    /// Judge outputs by top-1, sequence, cosine, rmse, l2 or equal; one output: OUTPUT=METRIC. May be repeated
    #[arg(long, value_name = "METRIC")]
    metric: Vec<String>,
}

impl GateArgs {
    /// The targets of arguments and recipe; arguments come first.
    pub fn targets(&self, recipe: &recipe::Target) -> Targets {
        Targets {
            max_drop: self.max_drop.or(recipe.max_drop).map(|s| s.0),
            min_agreement: self.min_agreement.or(recipe.min_agreement).map(|s| s.0),
            max_error: self.max_error.or(recipe.max_error).map(|s| s.0),
        }
    }

    /// The share that may be lost, as arguments say.
    pub fn max_drop(&self) -> Option<f64> {
        self.max_drop.map(|s| s.0)
    }

    /// How outputs are judged; `outputs` says what they are, as `NAME=KIND`.
    ///
    /// # Errors
    /// If a kind or a metric is none.
    pub fn judging(&self, outputs: &[String], recipe: &recipe::Target) -> Result<Judging> {
        let mut judging = Judging::default();
        let place = |e: crate::error::Error| e.at("[target] of the recipe");
        for (name, kind) in &recipe.output {
            judging.output(&format!("{name}={kind}")).map_err(place)?;
        }
        recipe.metric.iter().try_for_each(|m| judging.metric(m)).map_err(place)?;
        outputs.iter().try_for_each(|o| judging.output(o))?;
        self.metric.iter().try_for_each(|m| judging.metric(m))?;
        Ok(judging)
    }
}
