//! `--input-shape NAME=1x3x48x192`

use crate::analysis::sizes::InputSizes;
use crate::error::Result;
use crate::ir::Graph;
use crate::job::input_sizes;

/// What a model's inputs are where it does not say
#[derive(Default, clap::Args)]
pub struct SizeArgs {
    /// What an input is where the model leaves its dims open, so that MACs can be counted; repeat for more inputs. The
    /// model itself stays open
    #[arg(long, value_name = "NAME=1x3x48x192", value_parser = parse)]
    pub(super) input_shape: Vec<(String, Vec<usize>)>,
}

impl SizeArgs {
    /// The sizes for a model, if there are any.
    pub fn sizes(&self, graph: &Graph) -> Result<Option<InputSizes>> {
        input_sizes(graph, &self.input_shape)
    }
}

fn parse(text: &str) -> std::result::Result<(String, Vec<usize>), String> {
    let dims = text.rsplit_once('=').and_then(|(name, dims)| {
        let dims: Option<Vec<usize>> =
            dims.split(['x', ',']).map(|d| d.trim().parse().ok().filter(|&d| d > 0)).collect();
        Some((name.to_string(), dims?))
    });
    dims.ok_or_else(|| format!("\"{text}\" is no shape: write NAME=1x3x48x192"))
}
