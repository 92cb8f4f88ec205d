//! `tutee new ARCHITECTURE`

use crate::analysis::weights;
use crate::architectures::StudentNet;
use crate::error::Result;
use crate::figures::grouped;
use crate::onnx::{self, SaveOptions, Target};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a new network with random weights, for training
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tutee new student-net --classes 10 --input 3x32x32 -o student.onnx")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    StudentNet(StudentNetArgs),
}

/// Eight blocks of depthwise and pointwise convolutions, for images
#[derive(clap::Args)]
struct StudentNetArgs {
    /// Channels of the first block; the last have 16 times as many
    #[arg(long, value_name = "B", default_value_t = 16)]
    base: u32,
    /// Factor of the channels of blocks 3 to 6
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    width_mult: f64,
    /// Classes
    #[arg(long, value_name = "K")]
    classes: u32,
    /// Channels, height and width of an image
    #[arg(long, value_name = "CxHxW", value_parser = sizes)]
    input: [u32; 3],
    /// Which random weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Where to write the network; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn sizes(text: &str) -> Result<[u32; 3], String> {
    let sizes: Option<Vec<u32>> = text.split('x').map(|n| n.parse().ok()).collect();
    sizes.and_then(|s| s.try_into().ok()).ok_or_else(|| "not of the form 3x32x32".into())
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let What::StudentNet(StudentNetArgs { base, width_mult, classes, input, seed, output }) = self.what;
        let model = StudentNet { base, width_mult, classes, input, seed }.build()?;
        let written = onnx::save(&model, &Target::of(output), SaveOptions::default())?;
        let weights = grouped(weights::count(&model.graph));
        let line = |(path, bytes): &(PathBuf, u64)| {
            format!("{}: {weights} weights, {} bytes\n", path.display(), grouped(*bytes))
        };
        super::print(&written.iter().map(line).collect::<String>())
    }
}
