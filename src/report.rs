//! The account of a compression: data first, of which text, Markdown, JSON and HTML are views.

mod diff;
mod html;
mod layers;
mod markdown;
mod reasons;
mod sensitivity;
mod summary;
mod text;

use crate::analysis::cost::Cost;
#[cfg(feature = "exec")]
use crate::check::Check;
use crate::passes::{Reason, Why};
pub use diff::{Diff, Operators};
pub use layers::{LayerReport, layers};
pub use reasons::{LeftAlone, left_alone};
pub use sensitivity::{Sensitivity, SensitivityReport};
use serde::{Deserialize, Serialize};
pub(crate) use text::wrap;

/// Version of the JSON form: raised when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// The account of one compression.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Of the JSON form.
    pub version: u32,
    /// What the teacher costs.
    pub teacher: ModelSize,
    /// What the student costs.
    pub student: ModelSize,
    /// Where a step's pass is one whose gain shows only after compression, and the models are at most 256 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zstd_bytes: Option<BeforeAfter>,
    /// Where a step's pass is one that makes weights zero: how many are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonzero_weights: Option<BeforeAfter>,
    /// What each step did, in order.
    pub steps: Vec<StepReport>,
    /// The layers of teacher and student, side by side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerReport>,
    /// Sites where nothing was done, by pass and kind of reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_alone: Vec<LeftAlone>,
    /// What people should know.
    pub warnings: Vec<String>,
    /// Those of the warnings that say that training left a student of no use: every target that was asked for is then missed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ruined: Vec<String>,
    /// Targets that were asked for and not reached.
    pub missed: Vec<String>,
    /// The recipe as a TOML file, with what budgets chose as tables by layer: it makes the same student again.
    pub recipe: String,
    /// The check of the student against the teacher, if test data was given.
    #[cfg(feature = "exec")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// What a search tried, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// How the report came to be, as far as whoever ran the compression says.
    #[serde(skip_serializing_if = "Run::is_empty")]
    pub run: Run,
}

impl Report {
    /// Whether the student was run on test data.
    pub fn is_checked(&self) -> bool {
        #[cfg(feature = "exec")]
        return self.check.is_some();
        #[cfg(not(feature = "exec"))]
        false
    }
}

/// What a search tried.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Search {
    /// In the order it was tried.
    pub tried: Vec<Tried>,
}

/// A candidate of a search, as it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// What was done, in short.
    pub recipe: String,
    /// Of the student's files.
    pub bytes: u64,
    /// The share that is lost, as a target's `max-drop` counts it.
    pub loss: f64,
    /// Whether it is the one that was made.
    pub chosen: bool,
}

/// A run as the command line knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Run {
    /// The command that does the same again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The model that the student was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// Where the student was written, if that is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub student: Option<String>,
    /// What data was used for, which, and how many samples of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataUse>,
    /// Wall time by part, in the order they ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<Time>,
}

impl Run {
    fn is_empty(&self) -> bool {
        *self == Run::default()
    }
}

/// A use of data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataUse {
    /// `calibration`, `training` or `test`.
    pub purpose: String,
    /// The file or folder.
    pub name: String,
    /// Of it that were used, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
}

/// How long a part of a run took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Time {
    /// What took the time.
    pub part: String,
    /// Wall time.
    pub seconds: f64,
}

/// How large a model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSize {
    /// Nodes, `Constant` nodes and those of control-flow bodies included.
    pub nodes: u64,
    /// Numbers that the model computes with: of codes those that they stand for, zeros included.
    pub weights: u64,
    /// Parameters and bytes as stored, and multiply-accumulates.
    #[serde(flatten)]
    pub cost: Cost,
    /// Of the model's files as written.
    pub bytes: u64,
    /// Nanoseconds of one run, where a search was asked for that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<u64>,
}

/// A figure of teacher and student.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BeforeAfter {
    /// In bytes, or a count.
    pub teacher: u64,
    /// In bytes, or a count.
    pub student: u64,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// The pass, or the stage.
    pub name: String,
    /// The model before it.
    pub before: ModelSize,
    /// The model after it.
    pub after: ModelSize,
    /// Of the model after the step, as in the report as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zstd_bytes: Option<u64>,
    /// What was done at each site, or why not.
    pub rows: Vec<Row>,
    /// Of a step that trains, epoch by epoch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<EpochPoint>,
}

/// How a student did after an epoch; a loss is absent where it was no number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EpochPoint {
    /// 0 is before training.
    pub epoch: usize,
    /// Mean over the steps of the epoch.
    pub loss: Option<f64>,
    /// The loss on what is held back; the shares are of that, too.
    pub held_back: Option<f64>,
    /// Where the data has labels.
    pub accuracy: Option<f64>,
    /// Where there is a teacher.
    pub agreement: Option<f64>,
}

/// What was done at one site, or why nothing was.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Row {
    /// The pass that looked at the site.
    pub pass: String,
    /// The node, or the value.
    pub site: String,
    /// The operator at the site, or empty for a value.
    pub op: String,
    /// Whether something was done.
    pub done: bool,
    /// What was done, or the reason why not.
    pub note: String,
    /// The kind of that reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// Elements of the weights at the site before.
    #[serde(skip_serializing_if = "is_zero")]
    pub weights: u64,
    /// The layers that the site is about, where `site` is not the name of the only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// The whole model's cost before and after, where the pass is one that changes it on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<(Cost, Cost)>,
    /// Where weights were fitted to calibration data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FitResult>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Row {
    /// Says that nothing was done, and why.
    pub fn leave(&mut self, reason: Reason) {
        (self.done, self.why, self.note) = (false, Some(reason.why), reason.text);
    }
}

/// What fitting did to the output error of a layer, as a share of the outputs' spread, behind the activation, on samples
/// that were held back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FitResult {
    /// The error of what the step made.
    pub before: f64,
    /// The error after fitting.
    pub after: f64,
    /// Whether the fitted weights were kept: those before, if not.
    pub kept: bool,
}
