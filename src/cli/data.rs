//! Data on the command line: how raw numbers and pictures become what the model was trained on.

use crate::data::{Color, Dataset, Normalise, Pictures, Size, parse_scale};
use crate::error::{Error, Result};
use crate::recipe;
use std::path::PathBuf;

/// Classes that are spelled out.
const SHOWN: usize = 20;

/// Normalisation of float inputs, (x * scale - mean) / std, and what folders of pictures become before it
#[derive(clap::Args)]
pub struct DataArgs {
    /// Factor for raw values, as a number or a fraction: 1/255
    #[arg(long, value_name = "S")]
    scale: Option<String>,
    /// Mean of every channel after scaling, comma separated
    #[arg(long, value_name = "M,…", value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f32>,
    /// Standard deviation of every channel after scaling, comma separated
    #[arg(long, value_name = "D,…", value_delimiter = ',')]
    std: Vec<f32>,
    /// Pictures: scale each in proportion until it just covers this size, and cut it to that around its middle
    #[arg(long, value_name = "HxW")]
    resize: Option<Size>,
    /// Pictures: make each `grey` (one channel) or `rgb` (three)
    #[arg(long, value_name = "COLOR")]
    color: Option<Color>,
    /// Pictures: a file with the names of the class folders, one a line, in the order of the labels
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
}

impl DataArgs {
    /// What the arguments say, and for what they leave open, the recipe.
    pub fn normalise(&self, recipe: &recipe::Data) -> Result<Normalise> {
        let list = |own: &Vec<f32>, other: &Vec<f32>| if own.is_empty() { other.clone() } else { own.clone() };
        let scale = match (&self.scale, &recipe.scale) {
            (Some(own), _) => parse_scale(own).map_err(|e| e.at("--scale"))?,
            (None, Some(other)) => parse_scale(other).map_err(|e| e.at("`scale` under [data] in the recipe"))?,
            (None, None) => 1.0,
        };
        Normalise::new(scale, list(&self.mean, &recipe.mean), list(&self.std, &recipe.std))
    }

    /// As [`DataArgs::normalise`].
    pub fn pictures(&self, recipe: &recipe::Data) -> Result<Pictures> {
        Ok(Pictures {
            classes: self.classes.clone().or(recipe.classes.clone()),
            resize: self.resize.map_or_else(|| parsed(&recipe.resize, "resize"), |own| Ok(Some(own)))?,
            color: self.color.map_or_else(|| parsed(&recipe.color, "color"), |own| Ok(Some(own)))?,
        })
    }
}

impl DataArgs {
    /// Puts what the arguments say into a recipe.
    pub fn tell(&self, recipe: &mut recipe::Data) {
        let color = |color: &Color| match color {
            Color::Grey => "grey".to_string(),
            Color::Rgb => "rgb".to_string(),
        };
        for (values, given) in [(&mut recipe.mean, &self.mean), (&mut recipe.std, &self.std)] {
            if !given.is_empty() {
                values.clone_from(given);
            }
        }
        let texts = [
            (&mut recipe.scale, self.scale.clone()),
            (&mut recipe.resize, self.resize.map(|size| size.to_string())),
            (&mut recipe.color, self.color.as_ref().map(color)),
        ];
        for (text, given) in texts {
            *text = given.or(text.take());
        }
        recipe.classes = self.classes.clone().or(recipe.classes.take());
    }
}

/// What a recipe says under a key.
fn parsed<T: std::str::FromStr<Err = String>>(text: &Option<String>, key: &str) -> Result<Option<T>> {
    let parse = |text: &String| text.parse().map_err(|why: String| Error::input(why));
    text.as_ref().map(parse).transpose().map_err(|e| e.at(format!("`{key}` under [data] in the recipe")))
}

/// Says which label is which class folder, once for all data sets that agree.
pub fn tell_classes<'a>(data: impl Iterator<Item = &'a Dataset>) {
    let mut told: Vec<&[String]> = Vec::new();
    for data in data.filter(|data| !data.classes().is_empty()) {
        if !told.contains(&data.classes()) {
            told.push(data.classes());
            let named: Vec<String> =
                data.classes().iter().enumerate().map(|(i, name)| format!("{i} = {name}")).take(SHOWN).collect();
            let more = data.classes().len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            super::say(&format!("{}: labels are {}{more}", data.name(), named.join(", ")));
        }
    }
}
