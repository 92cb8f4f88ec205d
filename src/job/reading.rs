//! Data and targets as a recipe says them, ready to be used.

use super::Gates;
use crate::check::{Judging, Targets};
use crate::data::{Dataset, Normalise, Pictures, SampleStream, parse_scale};
use crate::error::{Error, Result};
use crate::recipe;
use std::path::Path;

/// Class folders that are spelled out.
const SHOWN: usize = 20;

/// How raw numbers become inputs: (x * scale - mean) / std.
///
/// # Errors
/// If a number is none, or of no use.
pub fn normalise(data: &recipe::DataSection) -> Result<Normalise> {
    let place = |e: Error| e.at("`scale` under [data] in the recipe");
    let scale = data.scale.as_ref().map_or(Ok(1.0), |scale| parse_scale(scale).map_err(place))?;
    Normalise::new(scale, data.mean.clone(), data.std.clone())
}

/// What folders of pictures become before that.
///
/// # Errors
/// If a size or a colour is none.
pub fn pictures(data: &recipe::DataSection) -> Result<Pictures> {
    Ok(Pictures {
        classes: data.classes.clone(),
        resize: parsed(&data.resize, "resize")?,
        color: parsed(&data.color, "color")?,
    })
}

/// How samples follow each other.
///
/// # Errors
/// If streams have a length that is none, or nothing is fed back in them.
pub fn stream(data: &recipe::DataSection) -> Result<SampleStream> {
    SampleStream::new(data.feedback.clone(), data.stream_length)
}

/// What a recipe says under a key.
fn parsed<T: std::str::FromStr<Err = String>>(text: &Option<String>, key: &str) -> Result<Option<T>> {
    let parse = |text: &String| text.parse().map_err(|why: String| Error::input(why));
    text.as_ref().map(parse).transpose().map_err(|e| e.at(format!("`{key}` under [data] in the recipe")))
}

/// Reads data, and how its numbers become inputs.
///
/// # Errors
/// If the file cannot be read, or what is said of it makes no sense.
pub fn load(path: &Path, how: &recipe::DataSection) -> Result<(Dataset, Normalise)> {
    let normalise = normalise(how)?;
    Ok((Dataset::load_as(path, &pictures(how)?)?.in_streams(stream(how)?), normalise))
}

/// The targets on data; gates come before the recipe.
pub fn targets(gates: &Gates, recipe: &recipe::TargetSection) -> Targets {
    Targets {
        max_drop: gates.max_drop.or(recipe.max_drop.map(|s| s.0)),
        min_agreement: gates.min_agreement.or(recipe.min_agreement.map(|s| s.0)),
        max_error: gates.max_error.or(recipe.max_error.map(|s| s.0)),
    }
}

/// How outputs are judged, and what they are.
///
/// # Errors
/// If a kind or a metric is none.
pub fn judging(gates: &Gates, recipe: &recipe::TargetSection) -> Result<Judging> {
    let mut judging = Judging::default();
    let place = |e: Error| e.at("[target] of the recipe");
    for (name, kind) in &recipe.output {
        judging.output(&format!("{name}={kind}")).map_err(place)?;
    }
    recipe.metric.iter().try_for_each(|m| judging.metric(m)).map_err(place)?;
    gates.outputs.iter().try_for_each(|o| judging.output(o))?;
    gates.metrics.iter().try_for_each(|m| judging.metric(m))?;
    Ok(judging)
}

/// Which label is which class folder, a line for each order that data sets have.
pub fn classes<'a>(data: impl Iterator<Item = &'a Dataset>) -> Vec<String> {
    let mut told: Vec<&[String]> = Vec::new();
    let mut lines = Vec::new();
    for data in data.filter(|data| !data.classes().is_empty()) {
        if !told.contains(&data.classes()) {
            told.push(data.classes());
            let named: Vec<String> =
                data.classes().iter().enumerate().map(|(i, name)| format!("{i} = {name}")).take(SHOWN).collect();
            let more = data.classes().len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            lines.push(format!("{}: labels are {}{more}", data.name(), named.join(", ")));
        }
    }
    lines
}
