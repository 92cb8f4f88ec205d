//! How much each layer can do without: what choices lose of the layer's own output, as its moments predict it, and of the
//! model's output, as it is measured on other samples.
//!
//! `tutee sensitivity model.onnx --calib DATA` makes, for each layer and pass, the choices that come nearest to losing a fiftieth
//! and a fifth of the layer's output. Each is made alone, and the layers behind it are fitted again, as in any step.

use crate::check::Judge;
use crate::error::Result;
use crate::passes::{Choice, Offers, by_layer};
use crate::recipe::Step;
use crate::report::Sensitivity;
use crate::session::{Session, State};

/// Passes that are tried, with a budget so that they weigh choices.
const PASSES: [&str; 3] = ["prune-channels:params=50%,skip-first=0", "shrink:params=50%", "cluster-weights:size=50%"];
/// Shares of a layer's output that choices are to lose, about.
const LOSSES: [f64; 2] = [0.02, 0.2];
/// What loses less than this loses nothing.
const LEAST: f64 = 1e-6;

/// Tries choices of layers of a student, one at a time. `told` hears how many of how many are done, and which is next; it says
/// whether to go on.
///
/// # Errors
/// If a student cannot be made or run.
pub fn measure(
    session: &Session<'_>,
    state: &State<'_>,
    judge: &Judge<'_>,
    common: &str,
    told: &mut dyn FnMut(usize, usize, &str) -> bool,
) -> Result<Vec<Sensitivity>> {
    let comma = if common.is_empty() { "" } else { "," };
    let mut open: Vec<(String, Choice, f64)> = Vec::new();
    for pass in PASSES {
        for (own, offers) in session.offers(state, &Step::parse(&format!("{pass}{comma}{common}"))?)? {
            let Some(name) = own.first() else { continue };
            open.extend(choices(&offers).into_iter().map(|(choice, loss)| (name.clone(), choice, loss)));
        }
    }
    let before = judge.score(state.student())?;
    let mut found = Vec::new();
    for (at, (layer, choice, predicted)) in open.iter().enumerate() {
        if !told(at, open.len(), layer) {
            break;
        }
        let mut student = state.clone();
        session.advance(&mut student, &alone(layer, *choice)?)?;
        let score = judge.score(student.student())?;
        let (loss, drop) = (score.loss - before.loss, score.drop - before.drop);
        found.push(Sensitivity {
            layer: layer.clone(),
            pass: choice.pass(),
            choice: *choice,
            predicted: *predicted,
            loss,
            drop,
        });
    }
    Ok(found)
}

/// One choice at one site.
fn alone(name: &str, choice: Choice) -> Result<Step> {
    let mut step = Step::parse(&format!("{}:min-weights=1", choice.pass()))?;
    if choice.pass() != "cluster-weights" {
        step.options.insert("skip-first".into(), 0.into());
    }
    step.options.extend(by_layer::options(&[(name.to_string(), choice)]));
    Ok(step)
}

/// The choices that lose most nearly what is wanted, with what they lose.
fn choices(offers: &Result<Offers, String>) -> Vec<(Choice, f64)> {
    let Ok(offers) = offers else { return Vec::new() };
    let far = |loss: f64, wanted: f64| (loss / wanted).ln().abs();
    let nearest = |wanted: f64| {
        let some = offers.list.iter().filter(|o| o.loss > LEAST && o.loss.is_finite());
        some.min_by(|a, b| far(a.loss, wanted).total_cmp(&far(b.loss, wanted))).map(|o| (o.choice, o.loss))
    };
    let mut found: Vec<(Choice, f64)> = LOSSES.into_iter().filter_map(nearest).collect();
    found.dedup();
    found
}
