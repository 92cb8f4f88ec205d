//! What a check says of exits: who leaves where, what that saves, and what it costs.

use super::compare::{SampleOutput, SampleScores};
use super::measure::Times;
use super::share;
use super::subject::Probe;
use crate::math::thresholds::ExitTrial;
use serde::Serialize;

/// Thresholds of the curve, the same for all exits.
const CURVE: [f32; 15] = [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0];
/// How far the file's answer may be from that of the exit it should have taken, relative to the largest score.
const ROUNDING: f64 = 1e-3;

/// The ends of a network with exits, and what is true of all of them together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exits {
    /// In the order they are asked; the last is the end of the network.
    pub ends: Vec<ExitUse>,
    /// Multiply-accumulates of a sample, by where the samples left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_macs: Option<f64>,
    /// Of single samples, one after the other.
    pub teacher_latency: Times,
    /// As `teacher_latency`, of the student.
    pub student_latency: Times,
    /// Accuracy, or agreement without labels, against mean MACs, over one threshold for all exits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Point>,
}

/// One way out, and who takes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExitUse {
    /// Name of the value that answers.
    pub answer: String,
    /// How sure the answer must be to be given here; none at the end of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Share of the samples that leave here.
    pub share: f64,
    /// Multiply-accumulates of one that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<u64>,
    /// Shares of right answers, and of the teacher's, among those that leave here; absent if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// As `top1`, of the teacher's answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// The same of this answer to all samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_of_all: Option<f64>,
    /// As `top1_of_all`, of the teacher's answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement_of_all: Option<f64>,
}

/// A point of the curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// How sure an answer must be, at every exit.
    pub threshold: f32,
    /// Share of right answers, or without labels, of the teacher's.
    pub right: f64,
    /// Multiply-accumulates of a sample.
    pub mean_macs: f64,
    /// Share of the samples that leave before the end.
    pub early: f64,
}

/// What every end says of one sample.
pub(super) struct ExitAnswers {
    confidence: Vec<f32>,
    scores: Vec<SampleScores>,
    end: usize,
    /// Whether the file gave what the end it should have taken says.
    pub same: bool,
}

impl ExitAnswers {
    /// `None` if the answers are no class scores. `given` is what the file gave.
    pub fn new(
        teacher: &SampleOutput,
        given: &SampleOutput,
        answers: &[(SampleOutput, f32)],
        thresholds: &[f32],
        label: Option<usize>,
    ) -> Option<ExitAnswers> {
        let end = answers.iter().zip(thresholds).position(|(a, t)| a.1 > *t).unwrap_or(answers.len() - 1);
        let scale = given.values.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= ROUNDING * scale || a.to_bits() == b.to_bits();
        let same = answers[end].0.values.len() == given.values.len()
            && answers[end].0.values.iter().zip(&given.values).all(near);
        let scores = answers.iter().map(|(row, _)| SampleScores::new(teacher, row, label)).collect::<Option<_>>()?;
        Some(ExitAnswers { confidence: answers.iter().map(|a| a.1).collect(), scores, end, same })
    }
}

/// Sums up what was told of all samples.
pub(super) fn sum(told: &[&ExitAnswers], probe: &Probe, labelled: bool, times: [Times; 2]) -> Exits {
    let ends = probe.thresholds.len() + 1;
    let right = |s: &SampleScores| s.places.is_some_and(|places| places[1] == 0);
    let all = |e: usize| told.iter().map(|t| &t.scores[e]).collect::<Vec<_>>();
    let of = |e: usize| {
        let leaving: Vec<&SampleScores> = told.iter().filter(|t| t.end == e).map(|t| &t.scores[e]).collect();
        let top1 = |rows: &[&SampleScores]| if labelled { share(rows, right) } else { None };
        ExitUse {
            answer: probe.names.get(e).cloned().unwrap_or_else(|| "the rest".into()),
            threshold: probe.thresholds.get(e).copied(),
            share: leaving.len() as f64 / told.len().max(1) as f64,
            macs: probe.macs.as_ref().map(|m| m[e]),
            top1: top1(&leaving),
            agreement: share(&leaving, |s| s.agree),
            top1_of_all: top1(&all(e)),
            agreement_of_all: share(&all(e), |s| s.agree),
        }
    };
    let cost = |macs: &Vec<u64>| macs.iter().map(|&m| m as f64).collect::<Vec<_>>();
    let trial = ExitTrial {
        confidence: (0..ends - 1).map(|e| told.iter().map(|t| t.confidence[e]).collect()).collect(),
        right: (0..ends)
            .map(|e| told.iter().map(|t| if labelled { right(&t.scores[e]) } else { t.scores[e].agree }).collect())
            .collect(),
        cost: probe.macs.as_ref().map_or(vec![f64::NAN; ends], cost),
        asking: vec![0.0; ends - 1],
    };
    let known = probe.macs.is_some();
    let point = |threshold: f32| {
        let course = trial.course(&vec![threshold; ends - 1]);
        let early = 1.0 - course.shares.last().unwrap_or(&1.0);
        Point { threshold, right: course.right, mean_macs: course.cost, early }
    };
    let [teacher_latency, student_latency] = times;
    Exits {
        ends: (0..ends).map(of).collect(),
        mean_macs: known.then(|| trial.course(&probe.thresholds).cost),
        teacher_latency,
        student_latency,
        curve: CURVE.into_iter().filter(|_| known && !told.is_empty()).map(point).collect(),
    }
}
