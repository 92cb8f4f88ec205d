//! What is said of an output, and which targets it misses.

use super::reading::OutputKind;
use super::{Check, percent};
use serde::Serialize;
use std::fmt;

/// What an output is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Metric {
    /// The share of samples, positions or decisions on which both name the same class.
    #[serde(rename = "top-1")]
    Top1,
    /// The share of samples on which both give the same sequence once repeats, and then class 0, the blank, are taken out; or
    /// of positions on which both name the same class, if that is less.
    #[serde(rename = "sequence")]
    Sequence,
    /// The mean cosine, or that about the teacher's mean answer where it is lower.
    #[serde(rename = "cosine")]
    Cosine,
    /// The root of the mean square error of the worst channel, as a share of its standard deviation.
    #[serde(rename = "rmse")]
    Rmse,
    /// ‖student − teacher‖ / ‖teacher‖ of the worst channel; of an embedding, of all of it.
    #[serde(rename = "l2")]
    L2,
    /// The share of equal numbers.
    #[serde(rename = "equal")]
    Equal,
}

impl Metric {
    const ALL: [(&str, Metric); 6] = [
        ("top-1", Metric::Top1),
        ("sequence", Metric::Sequence),
        ("cosine", Metric::Cosine),
        ("rmse", Metric::Rmse),
        ("l2", Metric::L2),
        ("equal", Metric::Equal),
    ];

    /// The words that [`Metric::parse`] takes, with `|` between them.
    pub const WORDS: &str = "top-1|sequence|cosine|rmse|l2|equal";

    /// The metric that a word names.
    pub fn parse(word: &str) -> Option<Metric> {
        Metric::ALL.iter().find(|m| m.0 == word).map(|m| m.1)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Metric::ALL.iter().find(|m| m.1 == *self).map_or("", |m| m.0))
    }
}

/// What is said of an output that is judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputVerdict {
    /// What it is taken for.
    pub kind: OutputKind,
    /// Why it is taken for that.
    pub why: String,
    /// What it is judged by.
    pub metric: Metric,
    /// In the metric's own terms, 0 for none: a share that differs, 1 − the cosine, or the error as a share of the spread or
    /// of the length. What `--max-error` bounds.
    pub error: f64,
    /// The share of what the teacher says that is lost: the error, or for `rmse` and `l2` its square, which is the share of
    /// the variance. From 0 to 1. What `--max-drop` bounds; the rest is the agreement.
    pub lost: f64,
    /// The worst channel, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<usize>,
    /// Whether the teacher's answer depends on the sample; if not, a student that agrees shows nothing by it.
    pub moves: bool,
    /// Positions of a sample have a class each.
    #[serde(skip)]
    pub(super) by_position: bool,
    /// The share of the teacher's commonest answer, where that is nearly all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual: Option<f64>,
    /// Then also judged, from 0 to 1: the share of the scores' variance that is lost; of whole numbers, the share of the
    /// others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rare_lost: Option<f64>,
    /// Also judged where nothing but its shape says that it holds scores of classes: the share of the numbers' variance that
    /// is lost, from 0 to 1, if that is more than a half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guess_lost: Option<f64>,
    /// The one class that the student names always, and the teacher does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub always: Option<i64>,
}

impl OutputVerdict {
    /// The result in the metric's words.
    pub fn figure(&self) -> String {
        match (self.metric, self.channel) {
            (Metric::Cosine, _) => format!("{:.6}", 1.0 - self.error),
            (Metric::Rmse | Metric::L2, Some(channel)) => format!("{} off, channel {channel}", percent(self.error)),
            (Metric::Rmse | Metric::L2, _) => format!("{} off", percent(self.error)),
            _ => percent(1.0 - self.error),
        }
    }

    /// What both have in common, for shares.
    fn unit(&self) -> &'static str {
        match self.metric {
            Metric::Sequence => "sequences",
            Metric::Equal => "numbers",
            _ if self.by_position => "positions",
            _ => "samples",
        }
    }
}

/// What the student must reach.
#[derive(Debug, Clone, Copy, Default)]
pub struct Targets {
    /// The largest share that may be lost of any judged output: points of top-1 accuracy where there are labels, else
    /// [`OutputVerdict::lost`].
    pub max_drop: Option<f64>,
    /// The least agreement, 1 − [`OutputVerdict::lost`], of any judged output.
    pub min_agreement: Option<f64>,
    /// The largest [`OutputVerdict::error`] of any judged output.
    pub max_error: Option<f64>,
}

impl Targets {
    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.max_drop.is_some() || self.min_agreement.is_some() || self.max_error.is_some()
    }
}

/// One loss of one output.
struct Loss {
    lost: f64,
    /// What was lost, and the same said of what both have in common.
    words: [String; 2],
    /// How a loss in these words is compared: `more` or `by more`.
    more: &'static str,
}

impl Check {
    /// Losses of all outputs that are judged; `accuracy` has that of the labelled output in its place.
    fn losses(&self, accuracy: bool) -> Vec<Loss> {
        let mut losses = Vec::new();
        for (name, v) in self.judged() {
            let tops =
                self.teacher.top1.zip(self.student.top1).filter(|_| accuracy && self.scored.as_ref() == Some(name));
            let said = |what: &str| format!("output `{name}`: {what}");
            losses.push(match (tops, v.metric) {
                (Some((teacher, student)), _) => {
                    let words = format!("top-1 accuracy fell from {} to {}", percent(teacher), percent(student));
                    Loss { lost: teacher - student, words: [words.clone(), words], more: "by more" }
                }
                (None, Metric::Top1 | Metric::Sequence | Metric::Equal) => {
                    let (of, part) = (v.unit(), |verb, share| {
                        said(&format!("teacher and student {verb} on {} of the", percent(share)))
                    });
                    Loss {
                        lost: v.lost,
                        words: [("disagree", v.lost), ("agree", 1.0 - v.lost)]
                            .map(|(w, s)| format!("{} {of}", part(w, s))),
                        more: "more",
                    }
                }
                (None, metric) => {
                    let what = match metric {
                        Metric::Cosine => format!("the cosine is {}", v.figure()),
                        Metric::L2 => format!(
                            "the error{} is {} of the answer's length",
                            v.channel.map_or(String::new(), |c| format!(" of channel {c}")),
                            percent(v.error)
                        ),
                        _ => format!(
                            "the error{} is {} of the spread",
                            v.channel.map_or(String::new(), |c| format!(" of channel {c}")),
                            percent(v.error)
                        ),
                    };
                    let (lost, kept) = (percent(v.lost), percent(1.0 - v.lost));
                    Loss {
                        lost: v.lost,
                        words: [format!("{what}, a loss of {lost}"), format!("{what}, an agreement of {kept}")]
                            .map(|w| said(&w)),
                        more: "more",
                    }
                }
            });
            if let Some((usual, lost)) = v.usual.zip(v.rare_lost) {
                let rest = if v.metric == Metric::Equal { "of the others" } else { "of the scores' variance" };
                let what = format!("{} of the teacher's answers are one and the same, and", percent(usual));
                let words = [
                    format!("{what} {} {rest} is lost", percent(lost)),
                    format!("{what} {} {rest} is kept", percent(1.0 - lost)),
                ];
                losses.push(Loss { lost, words: words.map(|w| said(&w)), more: "more" });
            }
            if let Some(lost) = v.guess_lost.filter(|_| tops.is_none()) {
                let words = [
                    format!("{} of the variance of its numbers is lost", percent(lost)),
                    format!("{} of the variance of its numbers is kept", percent(1.0 - lost)),
                ];
                losses.push(Loss { lost, words: words.map(|w| said(&w)), more: "more" });
            }
        }
        losses
    }

    /// Outputs that weights reach, with what is said of each.
    pub(super) fn judged(&self) -> impl Iterator<Item = (&String, &OutputVerdict)> {
        self.outputs.iter().filter_map(|(name, diff)| Some((name, diff.verdict.as_ref()?)))
    }

    /// What makes the figures worth less than they look.
    pub(super) fn doubts(&self) -> Vec<String> {
        let (of, mut doubts) = (self.samples, Vec::new());
        for (name, diff) in &self.outputs {
            let mut doubt = |what: String| doubts.push(format!("output `{name}`: {what}"));
            if diff.other_shapes > 0 {
                doubt(format!(
                    "teacher and student differ in its shape on {} of {of} samples, which count as lost",
                    diff.other_shapes
                ));
            }
            if diff.left_out > 0 {
                doubt(format!("{} numbers are infinite in both, and left out", diff.left_out));
            }
            let Some(v) = &diff.verdict else { continue };
            match v.usual {
                _ if !v.moves && of == 1 => doubt("one sample does not show whether the answer depends on it".into()),
                _ if !v.moves => doubt(format!(
                    "the teacher gives the same answer, or nearly, to all {of} samples: to agree with it shows nothing"
                )),
                Some(usual) => doubt(format!(
                    "{} of the teacher's answers are one and the same, so {} judged too",
                    percent(usual),
                    if v.metric == Metric::Equal { "the others are" } else { "the scores behind them are" }
                )),
                None => {}
            }
            if let Some(lost) = v.guess_lost {
                doubt(format!(
                    "{} of the variance of its numbers is lost, which counts, as they may be no scores of classes; \
                     --output {name}=classes or --output {name}=value says what they are",
                    percent(lost)
                ));
            }
            if let Some(class) = v.always {
                doubt(format!("the student's answer is always {class}, whatever it is given"));
            }
        }
        doubts
    }

    /// What lost most, in words; `None` if nothing is judged.
    pub fn worst(&self) -> Option<String> {
        worst(self.losses(true)).map(|loss| loss.words[0].clone())
    }

    /// The targets that the student missed, each in words; none if it met them all.
    ///
    /// Of all outputs the worst counts, and is named. A student that is not finite where its teacher is, or the other way
    /// round, has missed in any case, and so it has where there is a target and no output that could show it.
    pub fn misses(&self, targets: &Targets) -> Vec<String> {
        // Shares are quotients of counts: a difference this small is rounding.
        const EPSILON: f64 = 1e-9;
        let of = self.samples;
        let mut misses = Vec::new();
        for (name, diff) in &self.outputs {
            if diff.student_non_finite > 0 {
                let n = diff.student_non_finite;
                misses.push(format!("the student's output `{name}` is NaN or infinite on {n} of {of} samples"));
            }
            if diff.other_infinities > 0 {
                let n = diff.other_infinities;
                misses.push(format!("the teacher's output `{name}` is infinite on {n} of {of} samples and the student's is not the same there"));
            }
        }
        if !targets.any() {
            return misses;
        }
        misses.extend(self.ruined.clone());
        let Targets { max_drop, min_agreement, max_error } = *targets;
        if !self.judged().any(|(_, v)| v.moves) {
            misses
                .push("the target cannot be told: the teacher gives the same answer, or nearly, to all samples".into());
        }
        if let Some(most) = max_drop
            && let Some(loss) = worst(self.losses(true)).filter(|l| l.lost > most + EPSILON)
        {
            misses.push(format!("{}, {} than {}", loss.words[0], loss.more, percent(most)));
        }
        if let Some(least) = min_agreement
            && let Some(loss) = worst(self.losses(false)).filter(|l| 1.0 - l.lost + EPSILON < least)
        {
            misses.push(format!("{}, less than {}", loss.words[1], percent(least)));
        }
        if let Some(most) = max_error {
            let worst = self.judged().max_by(|a, b| a.1.error.total_cmp(&b.1.error));
            if let Some((name, v)) = worst.filter(|(_, v)| v.error > most + EPSILON) {
                let (metric, error) = (v.metric, percent(v.error));
                misses.push(format!("output `{name}`: the error by {metric} is {error}, more than {}", percent(most)));
            }
        }
        misses
    }
}

/// The first of the largest.
fn worst(losses: Vec<Loss>) -> Option<Loss> {
    losses.into_iter().reduce(|a, b| if b.lost > a.lost { b } else { a })
}
