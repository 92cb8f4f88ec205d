//! Data on the command line: how raw numbers become what the model was trained on.

use crate::data::{Normalise, parse_scale};
use crate::error::Result;
use crate::recipe;

/// Normalisation of float inputs: (x * scale - mean) / std
#[derive(clap::Args)]
pub struct NormaliseArgs {
    /// Factor for raw values, as a number or a fraction: 1/255
    #[arg(long, value_name = "S")]
    scale: Option<String>,
    /// Mean of every channel after scaling, comma separated
    #[arg(long, value_name = "M,…", value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f32>,
    /// Standard deviation of every channel after scaling, comma separated
    #[arg(long, value_name = "D,…", value_delimiter = ',')]
    std: Vec<f32>,
}

impl NormaliseArgs {
    /// What the arguments say, and for what they leave open, the recipe.
    pub fn over(&self, recipe: &recipe::Data) -> Result<Normalise> {
        let list = |own: &Vec<f32>, other: &Vec<f32>| if own.is_empty() { other.clone() } else { own.clone() };
        let scale = match (&self.scale, &recipe.scale) {
            (Some(own), _) => parse_scale(own).map_err(|e| e.at("--scale"))?,
            (None, Some(other)) => parse_scale(other).map_err(|e| e.at("`scale` under [data] in the recipe"))?,
            (None, None) => 1.0,
        };
        Normalise::new(scale, list(&self.mean, &recipe.mean), list(&self.std, &recipe.std))
    }
}
