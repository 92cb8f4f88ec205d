//! What an output is: found out from the graph, its shape, its name and the teacher's answers, or told by the user.

use super::compare::SampleOutput;
use crate::analysis::ending::{ChannelAxis, End, Ending};
use serde::Serialize;
use std::fmt;

/// What the numbers of an output mean together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// Scores of classes along one axis, for the sample or for each of its positions; or one number that decides.
    Classes,
    /// Scores of classes at each step of a sequence.
    Sequence,
    /// A vector whose direction counts, one or one a position.
    Embedding,
    /// Channels of numbers over positions.
    Map,
    /// Any other numbers.
    Value,
}

impl OutputKind {
    const ALL: [(&str, OutputKind); 5] = [
        ("classes", OutputKind::Classes),
        ("sequence", OutputKind::Sequence),
        ("embedding", OutputKind::Embedding),
        ("map", OutputKind::Map),
        ("value", OutputKind::Value),
    ];

    /// The words that [`OutputKind::parse`] takes, with `|` between them.
    pub const WORDS: &str = "classes|sequence|embedding|map|value";

    /// The kind that a word names.
    pub fn parse(word: &str) -> Option<OutputKind> {
        OutputKind::ALL.iter().find(|k| k.0 == word).map(|k| k.1)
    }
}

impl fmt::Display for OutputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(OutputKind::ALL.iter().find(|k| k.1 == *self).map_or("", |k| k.0))
    }
}

/// How an output is read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    pub kind: OutputKind,
    /// The axis of a sample's answer along which classes or channels lie; `None` where it is one channel.
    pub axis: Option<usize>,
    /// Of a single number that decides: where one decision ends and the other begins.
    pub threshold: Option<f64>,
    /// Why it is taken so.
    pub why: String,
    /// Nothing but the shape speaks for classes.
    pub guessed: bool,
}

/// What is known of an output before it is judged.
pub(super) struct Facts<'a> {
    pub name: &'a str,
    pub ending: &'a Ending,
    /// The teacher's answers to some samples.
    pub rows: &'a [SampleOutput],
    /// Axes of the graph's value that a sample's answer does not have.
    pub batch_axes: usize,
    /// The largest label of the data.
    pub labels: Option<usize>,
    /// Another output has four numbers for each of as many positions, as detectors have.
    pub beside_boxes: bool,
}

/// A word that outputs of features and of scores have in their names: pooling may come last in both.
const POOL: &str = "pool";
const EMBEDDINGS: &[&str] = &["embed", "feature", POOL, "hidden", "repr", "latent", "sentence", "vector", "encod"];
const NUMBERS: &[&str] =
    &["box", "coord", "loc", "offset", "regress", "landmark", "keypoint", "depth", "pose", "delta"];
const SCORES: &[&str] = &["logit", "class", "cls", "score", "prob", "label", "pred"];
/// Widths below which a vector of length 1 may have that length by chance.
const UNIT: usize = 8;

impl Reading {
    /// What an output is, as far as one can see.
    pub fn infer(f: &Facts<'_>) -> Reading {
        let wide = f.wide();
        if wide.is_empty() {
            return f.single();
        }
        let named = |words: &[&'static str]| words.iter().find(|w| f.name.to_lowercase().contains(**w)).copied();
        let called = |word: &str| format!("\"{word}\" is in its name");
        let end = f.ending.op;
        let axis = f.channel_axis();
        if let Some((axis, what)) = f.shares() {
            return f.scores(axis, what);
        }
        let linear = matches!(end, Some(End::Linear));
        let by = |what: &str| format!("{} comes last: {what}", f.ending.op_type);
        let scores = end == Some(End::PooledScores) || wide.len() == 1 && f.labels.is_some_and(|l| l < f.size(wide[0]));
        if let Some(word) = named(EMBEDDINGS).filter(|&word| wide.len() <= 2 && !(word == POOL && scores)) {
            return reading(OutputKind::Embedding, axis, called(word));
        }
        if let Some(word) = named(NUMBERS) {
            let kind = if wide.len() == 1 { OutputKind::Value } else { OutputKind::Map };
            return reading(kind, axis, called(word));
        }
        if axis.is_none_or(|a| f.size(a) == 1 || f.varies(a)) {
            return reading(OutputKind::Map, axis, "one channel over positions".into());
        }
        if wide.len() == 1 {
            let classes = f.size(wide[0]);
            return match end {
                _ if f.unit(axis) => reading(OutputKind::Embedding, axis, "its answers have length 1".into()),
                Some(End::Sigmoid) => reading(OutputKind::Value, axis, by("numbers from 0 to 1, each by itself")),
                Some(End::State) => reading(OutputKind::Value, axis, by("a state")),
                _ if f.labels.is_some_and(|l| l < classes) => {
                    reading(OutputKind::Classes, axis, format!("the data has labels, and it has {classes} numbers"))
                }
                Some(End::PooledScores) => reading(
                    OutputKind::Classes,
                    axis,
                    by(&format!("over a convolution with {classes} channels, a score a class")),
                ),
                Some(End::Features) if named(SCORES).is_none() => {
                    reading(OutputKind::Embedding, axis, by("features, not scores"))
                }
                _ => match named(SCORES) {
                    Some(word) => reading(OutputKind::Classes, axis, called(word)),
                    None if linear || f.ending.op_type.is_empty() => Reading {
                        guessed: true,
                        ..reading(OutputKind::Classes, axis, "one number a class, as it seems".into())
                    },
                    None => reading(OutputKind::Value, axis, "nothing says that it is more".into()),
                },
            };
        }
        match (end, named(SCORES)) {
            (Some(End::Sigmoid), _) => reading(OutputKind::Map, axis, by("numbers from 0 to 1, each by itself")),
            (Some(End::State), _) => reading(OutputKind::Value, axis, by("a state")),
            _ if f.unit(axis) => reading(OutputKind::Embedding, axis, "its answers have length 1".into()),
            (Some(End::Features), None) if wide.len() == 2 && f.ending.op_type.contains("Norm") => {
                reading(OutputKind::Embedding, axis, by("features, not scores"))
            }
            (_, Some(word)) if linear && axis.is_some() => f.scores(axis.unwrap_or(0), called(word)),
            _ => reading(OutputKind::Map, axis, "numbers over positions".into()),
        }
    }

    /// Of numbers that are not fractions.
    pub fn whole_numbers() -> Reading {
        reading(OutputKind::Value, None, "whole numbers".into())
    }

    /// An output that the user said to be of a kind.
    pub fn given(kind: OutputKind, f: &Facts<'_>) -> Reading {
        let why = "as you said".to_string();
        if !matches!(kind, OutputKind::Classes | OutputKind::Sequence) {
            return reading(kind, f.channel_axis(), why);
        }
        let axis = f.shares().map(|s| s.0).or_else(|| f.channel_axis());
        let alone = axis.is_none_or(|a| f.size(a) < 2);
        // Numbers from 0 to 1 that do not sum to 1 decide each by itself.
        let apart = f.ending.op == Some(End::Sigmoid) && f.shares().is_none();
        let threshold = (alone || apart).then(|| f.single().threshold.unwrap_or(0.5));
        Reading { threshold, ..reading(kind, axis, why) }
    }
}

fn reading(kind: OutputKind, axis: Option<usize>, why: String) -> Reading {
    Reading { kind, axis, threshold: None, why, guessed: false }
}

impl Facts<'_> {
    fn shape(&self) -> &[usize] {
        self.rows.first().map_or(&[], |r| &r.shape)
    }

    fn size(&self, axis: usize) -> usize {
        self.shape().get(axis).copied().unwrap_or(1)
    }

    /// Axes of a sample's answer with more than one place.
    fn wide(&self) -> Vec<usize> {
        (0..self.shape().len()).filter(|&a| self.size(a) > 1).collect()
    }

    /// Whether answers differ in their size along an axis: positions lie there, not channels.
    fn varies(&self, axis: usize) -> bool {
        self.rows.iter().any(|row| row.shape.get(axis).copied().unwrap_or(1) != self.size(axis))
    }

    fn all(&self, is: impl Fn(f64) -> bool) -> bool {
        self.rows.iter().flat_map(|r| &r.values).all(|&v| is(v))
    }

    /// One number a sample.
    fn single(&self) -> Reading {
        let decides = |threshold, why: &str| Reading {
            threshold: Some(threshold),
            ..reading(OutputKind::Classes, None, format!("{why}: one decision, at {threshold}"))
        };
        if self.ending.op == Some(End::Sigmoid) {
            return decides(0.5, "Sigmoid comes last");
        }
        if !self.rows.is_empty() && self.all(|v| (0.0..=1.0).contains(&v)) {
            return Reading { guessed: true, ..decides(0.5, "its answers are from 0 to 1") };
        }
        if self.name.to_lowercase().contains("logit") {
            return decides(0.0, "\"logit\" is in its name");
        }
        reading(OutputKind::Value, None, "one number".into())
    }

    /// Scores of classes along an axis.
    fn scores(&self, axis: usize, why: String) -> Reading {
        let positions = self.wide().into_iter().filter(|&a| a != axis).count();
        match positions {
            1 if !self.beside_boxes => reading(OutputKind::Sequence, Some(axis), why),
            _ => reading(OutputKind::Classes, Some(axis), why),
        }
    }

    /// The axis along which answers are probabilities or their logarithms, and what shows it.
    fn shares(&self) -> Option<(usize, String)> {
        let softmax = self.ending.op == Some(End::Softmax);
        let mut axes = self.wide();
        axes.reverse();
        // The axis that the graph names is looked at first.
        let named = softmax.then(|| self.channel_axis()).flatten();
        axes.sort_by_key(|&a| Some(a) != named);
        let found = axes.into_iter().find(|&axis| {
            !self.rows.is_empty()
                && self.rows.iter().all(|row| {
                    row.lines(axis).all(|line| {
                        let (plain, log) = (line.iter().sum::<f64>(), line.iter().map(|v| v.exp()).sum::<f64>());
                        let shares =
                            (plain - 1.0).abs() < 1e-2 && line.iter().all(|v| (-1e-4..=1.0 + 1e-4).contains(v));
                        shares || ((log - 1.0).abs() < 1e-2 && line.iter().all(|&v| v <= 1e-4))
                    })
                })
        });
        let why = |axis| match softmax {
            true => format!("{} comes last, over {} classes", self.ending.op_type, self.size(axis)),
            false => format!("its answers are probabilities of {} classes", self.size(axis)),
        };
        found.or(named).map(|axis| (axis, why(axis)))
    }

    /// Whether every vector along the axis has length 1.
    fn unit(&self, axis: Option<usize>) -> bool {
        let Some(axis) = axis.filter(|&a| self.size(a) >= UNIT) else { return false };
        let one = |line: Vec<f64>| (line.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-2;
        self.rows.iter().all(|row| row.lines(axis).all(one))
    }

    /// Where the channels lie: as the last layer has them, else along the second axis of a picture, else along the shorter
    /// of two axes.
    fn channel_axis(&self) -> Option<usize> {
        let wide = self.wide();
        match self.ending.channels {
            ChannelAxis::One => return None,
            ChannelAxis::Axis(a) => {
                if let Some(axis) = a.checked_sub(self.batch_axes).filter(|&a| a < self.shape().len()) {
                    return Some(axis);
                }
            }
            ChannelAxis::Unknown => {}
        }
        match wide[..] {
            [] => None,
            [one] => Some(one).filter(|&a| !self.varies(a)),
            [a, b] if self.varies(a) != self.varies(b) => Some(if self.varies(a) { b } else { a }),
            [a, b] => Some(if self.size(a) < self.size(b) { a } else { b }),
            [first, ..] => Some(first),
        }
    }
}
