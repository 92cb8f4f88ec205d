//! What can be done at a site, apart from where: choices, and what each costs and loses.

use crate::analysis::cost::Cost;
use crate::ir::NodeId;
use crate::passes::Fitted;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// What to do at a site.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// So many units of a group stay, the most important ones. (`prune-channels`)
    Units(usize),
    /// Two matrices through so many numbers. (`factorize-linear`)
    LowRank(usize),
    /// So many inputs of a layer stay. (`prune-inputs`)
    Inputs(usize),
    /// Two convolutions through so many channels. (`factorize-convs`)
    Factored {
        /// How the kernel is divided.
        scheme: Scheme,
        /// How many channels.
        rank: usize,
    },
    /// A depthwise and a 1×1 convolution with so many base filters a channel. (`separate-convs`)
    Separable {
        /// Which of them is first.
        order: Order,
        /// Base filters a channel.
        terms: usize,
    },
    /// So many values in a codebook. (`cluster-weights`)
    Levels(usize),
    /// So many rows in a codebook, each for several weights. (`cluster-weights`)
    Vectors {
        /// Rows of the codebook.
        levels: usize,
        /// Numbers of a row.
        length: usize,
    },
    /// This share of a weight is zero. (`prune-weights`)
    Sparsity(f64),
}

impl Choice {
    /// The pass that does it.
    pub fn pass(&self) -> &'static str {
        match self {
            Choice::Units(_) => "prune-channels",
            Choice::LowRank(_) => "factorize-linear",
            Choice::Inputs(_) => "prune-inputs",
            Choice::Factored { .. } => "factorize-convs",
            Choice::Separable { .. } => "separate-convs",
            Choice::Levels(_) | Choice::Vectors { .. } => "cluster-weights",
            Choice::Sparsity(_) => "prune-weights",
        }
    }
}

/// How a convolution becomes two smaller ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// k_h×1, then 1×k_w.
    #[default]
    Spatial,
    /// The whole kernel to fewer channels, then 1×1.
    Channel,
}

impl Scheme {
    /// All there are.
    pub const ALL: [Scheme; 2] = [Scheme::Spatial, Scheme::Channel];

    /// As recipes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Spatial => "spatial",
            Scheme::Channel => "channel",
        }
    }
}

/// Which of the two convolutions of a separated one runs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The depthwise convolution reads the input.
    DepthwiseFirst,
    /// The 1×1 convolution reads the input.
    PointwiseFirst,
}

impl Order {
    /// As recipes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Order::DepthwiseFirst => "depthwise-first",
            Order::PointwiseFirst => "pointwise-first",
        }
    }
}

/// One of the choices at a site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    /// What to do.
    pub choice: Choice,
    /// Of what the site is about, with this choice: parameters, MACs and bytes of its weights.
    pub cost: Cost,
    /// The share of the variance of the layer's output that is lost, ‖Y − Y'‖² / ‖Y − ȳ‖²: from calibration data where it was
    /// asked, else the share of the squared weights.
    pub loss: f64,
}

/// The choices at a site, beside leaving it as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Offers {
    /// The cost of what the site is about, as it is.
    pub whole: Cost,
    /// The cheapest need not be first.
    pub list: Vec<Offer>,
}

impl Offers {
    /// Those that lose no more than `max_loss`.
    pub fn within(&self, max_loss: f64) -> impl Iterator<Item = &Offer> {
        self.list.iter().filter(move |offer| offer.loss <= max_loss)
    }
}

/// What is measured of a layer before anything is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// Loss by rank, from 0, of the weight as outputs × inputs.
    LowRank,
    /// Loss by number of inputs that stay, from 0.
    Inputs,
    /// Loss by rank, from 0, of the weight as C·k_h × k_w·M.
    Spatial,
    /// Loss by terms a channel, from 0.
    Separable,
    /// Loss by coding: number of codebook values, vectors.
    Codings,
    /// Loss by share of zeros.
    Sparsity,
    /// What each position of the input is worth to the layer.
    Saliency,
    /// How far the model's answers would move if the layer gave its means alone, in nats.
    Divergence,
}

/// What calibration data said of layers, by layer and measure, or why it says nothing.
pub type LayerAnswers = HashMap<(NodeId, Measure), Result<Vec<f64>, String>>;

/// What a pass asks calibration data of the layers as they are, before it decides anything.
pub struct SensitivityQuery<'a> {
    /// What is asked.
    pub measure: Measure,
    /// Of which layers.
    pub layers: HashSet<NodeId>,
    /// The numbers for one of them, or why there are none. Its moments are gone after that.
    pub note: Note<'a>,
}

/// Makes numbers of what data says of a layer.
pub type Note<'a> = Box<dyn Fn(&Fitted<'_>) -> Result<Vec<f64>, String> + 'a>;
