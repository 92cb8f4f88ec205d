//! Data on the command line: how raw numbers and pictures become what the model was trained on.

use crate::data::{Color, PictureSize, SampleStream, parse_scale};
use crate::error::Result;
use crate::recipe;
use std::path::PathBuf;

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
    resize: Option<PictureSize>,
    /// Pictures: make each `grey` (one channel) or `rgb` (three)
    #[arg(long, value_name = "COLOR")]
    color: Option<Color>,
    /// Pictures: a file with the names of the class folders, one a line, in the order of the labels
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Samples are a stream: this input is not in the data, it begins with zeros and then gets what this output gave for the
    /// sample before, as state=stateN. May be repeated
    #[arg(long, value_name = "INPUT=OUTPUT")]
    feedback: Vec<String>,
    /// Inputs that are fed back begin with zeros again after every N samples
    #[arg(long, value_name = "N")]
    stream_length: Option<usize>,
}

impl DataArgs {
    /// Puts what the arguments say into a recipe.
    ///
    /// # Errors
    /// If a number is none.
    pub fn tell(&self, recipe: &mut recipe::DataSection) -> Result<()> {
        self.scale.as_deref().map_or(Ok(1.0), parse_scale).map_err(|e| e.at("--scale"))?;
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
        for text in &self.feedback {
            let (input, output) = SampleStream::parse(text).map_err(|e| e.at("--feedback"))?;
            recipe.feedback.insert(input, output);
        }
        recipe.stream_length = self.stream_length.or(recipe.stream_length);
        recipe.classes = self.classes.clone().or(recipe.classes.take());
        Ok(())
    }
}
