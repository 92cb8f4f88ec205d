//! Gives every output channel the mean and the standard deviation that it has in the teacher, by a factor on its weights
//! and a new bias. It needs calibration data, and is what re-estimating BatchNorm does, for networks whose BatchNorm is
//! folded as well: cheap, stable on a few dozen samples, and of use after steps that ran with `repair = "none"`. Fitting,
//! which every step does unless told not to, gives more; matching after it changes nothing to speak of.
//!
//! Accuracy in percent after `prune-channels` with `width-mult = 0.5, skip-first = 0`, 512 images to fit or match to, on
//! 5,000 others:
//!
//! | network | as it is | matched | fitted | fitted, then matched |
//! |---|---|---|---|---|
//! | teacher_cnn, 86.36 | 10.40 | 46.98 | 72.30 | 72.36 |
//! | resnet_small_bn, 90.62 | 9.86 | 67.28 | 89.30 | 89.14 |
//! | lenet5, 99.80 | 98.54 | 99.26 | 99.60 | 99.60 |
//! | lenet300, 99.30 | 98.02 | 98.52 | 99.06 | 99.08 |
//!
//! With the standard deviations s of student and t of teacher, and means likewise, of what a Conv, ConvTranspose, Gemm or
//! MatMul gives: weights become (t / s) of what they were, and the bias makes the means agree. Layers are matched in the order they run,
//! each on what the student gives by then. A factor beyond 1,000 or below 1/1,000 is not believed, and a layer for which
//! the held-back samples say that it came no nearer stays as it was.
//!
//! ```text
//! # run = [{ pass = "match-statistics" }]
//! model "tiny" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w : f32[4,3,3,3] = seed(1)
//!
//!   %y : f32[N,4,6,6] = Conv(%x, %w)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "tiny" opset 17 {
//!   input %x : f32[N,3,8,8]
//!   const %w : f32[4,3,3,3]
//!
//!   %y : f32[N,4,6,6] = Conv(%x, %w)
//!
//!   output %y
//! }
//! ```

use crate::error::Result;
use crate::ir::Patch;
use crate::math::Fit;
use crate::passes::options::weight;
use crate::passes::{Context, Fidelity, Judged, Pass, Phase, Site, Verdict, refit, sharing};
use serde::Deserialize;

/// Share of a layer's spread below which its statistics agree: rounding.
const AGREE: f64 = 1e-3;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MatchStatistics {}

impl Pass for MatchStatistics {
    fn name(&self) -> &'static str {
        "match-statistics"
    }

    fn phase(&self) -> Phase {
        Phase::Shrink
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn fits_others(&self) -> bool {
        false
    }

    fn only_repairs(&self) -> bool {
        true
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        sharing::first(cx.graph, |n| weight(cx.graph, n).is_some()).into_iter().map(Site::Layer).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Layer(_) = site else { return Verdict::skip("it is not a layer") };
        Ok(Verdict::of(matched(cx)))
    }
}

fn matched(cx: &Context<'_>) -> Result<(Patch, String), String> {
    let fitted = cx.fitted.as_ref().ok_or("it needs calibration data")?;
    let before = refit::current(cx.graph, fitted.linear)?;
    let was = fitted.layer.mismatch(&before);
    if was < AGREE {
        return Err("its statistics are those of the teacher".into());
    }
    let after = fitted.layer.matched(&before);
    let rest = fitted.layer.mismatch(&after);
    let lost = |fit: &Fit| fitted.layer.error(fit);
    let kept = after.is_finite() && rest < was;
    fitted.judged.set(Some(Judged { before: lost(&before), after: lost(&after), kept }));
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let off = format!("means and deviations are {} off", percent(was));
    if !kept {
        return Err(format!("{off}; matching gave {} and was rolled back", percent(rest)));
    }
    let patch = refit::write(cx.graph, fitted.linear, &after)?;
    Ok((patch, format!("{off} → {}", percent(rest))))
}
