//! What a student must reach on data, and how its outputs are judged.

use crate::job::Gates;
use crate::passes::options::Share;

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
    /// The share that may be lost, as arguments say.
    pub fn max_drop(&self) -> Option<f64> {
        self.max_drop.map(|s| s.0)
    }

    /// The gates, with what `outputs` are, as `NAME=KIND`.
    pub fn gates(&self, outputs: &[String]) -> Gates {
        Gates {
            max_drop: self.max_drop(),
            min_agreement: self.min_agreement.map(|s| s.0),
            max_error: self.max_error.map(|s| s.0),
            metrics: self.metric.clone(),
            outputs: outputs.to_vec(),
        }
    }
}
