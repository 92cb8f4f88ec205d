//! What is asked of a student, and which of several is the best answer.

use crate::check::Score;
use crate::error::{Error, Result};
use crate::figures;
use crate::report::ModelSize;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// How much of something may be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// A number of times less than the teacher: `10x`.
    Times(f64),
    /// A share of the teacher's: `40%`.
    Share(f64),
    /// So many: `250kB`, `5M`, `120000`.
    Number(f64),
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        let lower = text.trim().to_lowercase();
        let wrong = || format!("\"{text}\" is no amount: write 10x, 40% or 250kB");
        let number = |digits: &str| digits.trim().parse::<f64>().ok().filter(|n| n.is_finite());
        if let Some(times) = lower.strip_suffix('x') {
            let times = number(times).ok_or_else(wrong)?;
            return match times > 1.0 {
                true => Ok(Amount::Times(times)),
                false => Err(format!("\"{text}\" is no smaller than the teacher: write more than 1x")),
            };
        }
        if let Some(percent) = lower.strip_suffix('%') {
            let percent = number(percent).ok_or_else(wrong)?;
            return match percent > 0.0 && percent < 100.0 {
                true => Ok(Amount::Share(percent / 100.0)),
                false => Err(format!("\"{text}\" is no share to keep: write more than 0% and less than 100%")),
            };
        }
        match figures::number(&lower).ok_or_else(wrong)? {
            n if n >= 1.0 => Ok(Amount::Number(n)),
            _ => Err(format!("\"{text}\" would leave nothing")),
        }
    }
}

impl Amount {
    /// Of a teacher that has `whole`.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Amount::Times(times) => (whole as f64 / times) as u64,
            Amount::Share(share) => (whole as f64 * share) as u64,
            Amount::Number(n) => n as u64,
        }
    }
}

/// What a student must reach. What is `None` is not asked.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Goal {
    /// Bytes of the file, at most.
    pub size: Option<Amount>,
    /// Numbers that the network computes with, at most.
    pub weights: Option<Amount>,
    /// Multiply-accumulates of a sample, at most.
    pub macs: Option<Amount>,
    /// Nanoseconds of one run, at most.
    pub latency: Option<Amount>,
    /// What may be lost: [`Score::drop`], at most.
    pub max_drop: Option<f64>,
}

/// A goal for one teacher.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// What the teacher costs.
    pub teacher: ModelSize,
    /// Bytes of the student's files.
    pub size: Option<u64>,
    /// Weights, as a report counts them.
    pub weights: Option<u64>,
    /// Multiply-accumulates.
    pub macs: Option<u64>,
    /// Nanoseconds of one run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<u64>,
    /// The share that may be lost.
    pub max_drop: Option<f64>,
}

impl Goal {
    /// # Errors
    /// If the teacher meets it already, or has no such cost.
    pub fn limits(&self, teacher: &ModelSize) -> Result<Limits> {
        let limit = |amount: Option<Amount>, whole: Option<u64>, option: &str, unit: &str| {
            let Some(amount) = amount else { return Ok(None) };
            let whole = whole.ok_or_else(|| {
                Error::input(format!("--{option} cannot be aimed at"))
                    .because(format!("how many {unit} the model takes depends on the sizes of its inputs"))
                    .help("say them with --input-shape NAME=1x3x224x224")
            })?;
            match amount.of(whole) {
                limit if limit >= whole => Err(Error::input(format!("--{option} is met already"))
                    .because(format!("the model has {whole} {unit}, and at most {limit} are asked for"))
                    .help(format!("ask for less, such as --{option} 4x"))),
                limit => Ok(Some(limit)),
            }
        };
        Ok(Limits {
            teacher: *teacher,
            size: limit(self.size, Some(teacher.bytes), "target-size", "bytes")?,
            weights: limit(self.weights, Some(teacher.weights), "target-weights", "weights")?,
            macs: limit(self.macs, teacher.cost.macs, "target-macs", "MACs")?,
            latency: limit(self.latency, teacher.latency, "target-latency", "nanoseconds a run")?,
            max_drop: self.max_drop,
        })
    }
}

/// Shares of counts: a difference this small is rounding.
const EPSILON: f64 = 1e-9;

impl Limits {
    /// Whether a cost is asked for.
    pub fn has_cost(&self) -> bool {
        self.size.is_some() || self.weights.is_some() || self.macs.is_some() || self.latency.is_some()
    }

    /// How far a student is above its limits of cost: the largest factor, 1 or less if it is within all.
    pub fn excess(&self, size: &ModelSize) -> f64 {
        let over = |cost: Option<u64>, limit: Option<u64>| match (cost, limit) {
            (_, None) => 0.0,
            (Some(cost), Some(limit)) => cost as f64 / limit.max(1) as f64,
            (None, Some(_)) => f64::INFINITY,
        };
        over(Some(size.bytes), self.size)
            .max(over(Some(size.weights), self.weights))
            .max(over(size.cost.macs, self.macs))
            .max(over(size.latency, self.latency))
    }

    /// Whether a student is within the limits of cost,
    pub fn fits(&self, size: &ModelSize) -> bool {
        self.excess(size) <= 1.0
    }

    /// and whether it loses no more than it may.
    pub fn keeps(&self, score: &Score) -> bool {
        score.loss.is_finite() && self.max_drop.is_none_or(|most| score.drop <= most + EPSILON)
    }

    /// What is asked for and not reached, in words.
    pub fn missed(&self, size: &ModelSize, score: &Score, samples: &str) -> Vec<String> {
        let mut missed = Vec::new();
        let mut over = |cost: Option<u64>, limit: Option<u64>, unit: &str| {
            if let (Some(cost), Some(limit)) = (cost, limit)
                && cost > limit
            {
                missed.push(format!("{cost} {unit} are left, more than {limit}"));
            }
        };
        over(Some(size.bytes), self.size, "bytes");
        over(Some(size.weights), self.weights, "weights");
        over(size.cost.macs, self.macs, "MACs");
        if let Some((is, most)) = size.latency.zip(self.latency).filter(|(is, most)| is > most) {
            missed.push(format!("a run takes {:.3} ms, more than {:.3} ms", is as f64 / 1e6, most as f64 / 1e6));
        }
        if let Some(most) = self.max_drop.filter(|_| !self.keeps(score)) {
            let (lost, most) = (100.0 * score.drop, 100.0 * most);
            missed.push(format!("{lost:.2} points are lost {samples}, more than {most:.2}"));
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::cost::Cost;

    #[test]
    fn amounts() {
        let of = |text: &str| text.parse::<Amount>().map(|a| a.of(1_000_000));
        for (text, left) in [
            ("10x", 100_000),
            ("2.5X", 400_000),
            ("40%", 400_000),
            ("250kB", 250_000),
            ("1.5 MB", 1_500_000),
            ("4KiB", 4096),
            ("12000", 12_000),
            ("5M", 5_000_000),
            ("7b", 7),
        ] {
            assert_eq!(of(text), Ok(left), "{text}");
        }
        for text in ["", "x", "0x", "1x", "0.5x", "0%", "100%", "-3%", "nan", "10y", "0", "infMB", "1e999"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    fn size(bytes: u64, parameters: u64, macs: Option<u64>) -> ModelSize {
        ModelSize {
            nodes: 1,
            weights: parameters,
            cost: Cost { parameters, macs, stored: bytes },
            bytes,
            latency: None,
        }
    }

    #[test]
    fn a_goal_that_is_met_or_has_no_measure_is_refused() {
        let goal = |size, macs| Goal { size, macs, ..Goal::default() };
        let teacher = size(1000, 250, None);
        let met = goal(Some(Amount::Number(1000.0)), None).limits(&teacher).unwrap_err().to_string();
        assert!(met.contains("--target-size is met already"), "{met}");
        let open = goal(None, Some(Amount::Times(2.0))).limits(&teacher).unwrap_err().to_string();
        assert!(open.contains("--input-shape"), "{open}");
        let limits = goal(Some(Amount::Times(4.0)), None).limits(&teacher).unwrap();
        assert!(limits.fits(&size(250, 250, None)) && !limits.fits(&size(251, 10, None)));
    }
}
