//! A point of the space that is searched: how far the channels are pruned, how far the layers that are left are split, and
//! with how many bytes the weights that are left are encoded.

use std::collections::BTreeMap;
use std::fmt;

/// What the first two steps are to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Params,
    Macs,
}

/// A composition of passes. Shares are kept in thousandths, so that what is written is what was run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub unit: Unit,
    /// The share of the teacher's parameters or MACs that pruning leaves; 1000 is no pruning.
    pub prune: u32,
    /// The share of these that splitting leaves; 1000 is no splitting.
    pub split: u32,
    /// The pass that splits.
    pub splitter: String,
    /// The share of the bytes of all constants that encoding leaves, in hundredths of a percent.
    pub encode: Option<u32>,
    /// Passes that make the file smaller once everything else is decided: `store-weights` where there are codes, and
    /// `strip-names`.
    pub packs: Vec<&'static str>,
    /// How often what a layer loses is doubled where the budget of a step is dealt out; not at all where it is not named.
    pub loss_weights: LossWeights,
    /// How it is trained, if it is.
    pub training: Option<DistillSteps>,
}

/// Trainings of a plan: of the weights before they become codes, and of the codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistillSteps {
    pub weights: TrainingLength,
    /// `None` as long as the size of the codes is being found.
    pub codes: Option<TrainingLength>,
    /// Whether pruning is done in two steps of the same share, with half of the training of weights between them.
    pub gradual: bool,
    /// Values of `augment`.
    pub augment: Vec<String>,
}

/// How long a training takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingLength {
    Epochs(usize),
    /// Less than an epoch.
    Steps(usize),
}

impl TrainingLength {
    /// For so many samples, of `count`, as nearly as whole epochs come to it.
    pub fn of(visits: usize, count: usize) -> TrainingLength {
        match (visits + count / 2) / count.max(1) {
            0 => TrainingLength::Steps((visits / BATCH).max(1)),
            epochs => TrainingLength::Epochs(epochs),
        }
    }

    fn half(self) -> TrainingLength {
        match self {
            TrainingLength::Epochs(n) => TrainingLength::Epochs(n.div_ceil(2)),
            TrainingLength::Steps(n) => TrainingLength::Steps(n.div_ceil(2)),
        }
    }

    fn options(self) -> String {
        match self {
            TrainingLength::Epochs(n) => format!("epochs={n}"),
            TrainingLength::Steps(n) => format!("steps={n}"),
        }
    }
}

/// `8 epochs`
impl fmt::Display for TrainingLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, what) = match *self {
            TrainingLength::Epochs(n) => (n, "epoch"),
            TrainingLength::Steps(n) => (n, "step"),
        };
        write!(f, "{n} {what}{}", if n == 1 { "" } else { "s" })
    }
}

impl DistillSteps {
    fn step(&self, length: TrainingLength) -> String {
        let changes: String = self.augment.iter().map(|change| format!(",augment={change}")).collect();
        format!("{DISTILL}:{}{changes}", length.options())
    }
}

/// The stage that trains, and the samples of one of its steps.
pub const DISTILL: &str = "distill";
const BATCH: usize = 128;

/// By the names of layers.
pub type LossWeights = BTreeMap<String, i32>;

/// The pass that takes half of the bytes of codebooks and biases, and from how many numbers on that pays.
pub const STORE: &str = "store-weights";
const STORED: usize = 32;

/// All of something, in thousandths.
pub const WHOLE: u32 = 1000;

impl Plan {
    /// A plan that changes nothing.
    pub fn whole() -> Plan {
        let (splitter, packs, loss_weights) = Default::default();
        let unit = Unit::Params;
        Plan { unit, prune: WHOLE, split: WHOLE, splitter, encode: None, packs, loss_weights, training: None }
    }

    /// The steps, in the form `PASS:key=value,…`; `common` is added to each that is a pass.
    pub fn steps(&self, common: &str) -> Vec<String> {
        let mut steps = vec!["clean".to_string()];
        let key = match self.unit {
            Unit::Params => "params",
            Unit::Macs => "macs",
        };
        let entry =
            |(layer, loss_weights): (&String, &i32)| format!("{}={:?}", quoted(layer), f64::from(*loss_weights).exp2());
        let table: Vec<String> = self.loss_weights.iter().filter(|d| *d.1 != 0).map(entry).collect();
        let add = |steps: &mut Vec<String>, pass: &str, mut options: String| {
            let colon = if pass.contains(':') { "," } else { ":" };
            options.push_str(",best-effort=true");
            if !common.is_empty() {
                options.push_str(&format!(",{common}"));
            }
            if !table.is_empty() {
                options.push_str(&format!(",sensitivity={{{}}}", table.join(",")));
            }
            steps.push(format!("{pass}{colon}{options}"));
        };
        let percent = |share: u32| format!("{key}={}%", f64::from(share) / 10.0);
        let prune = |steps: &mut Vec<String>, share: u32| {
            add(steps, "prune-channels", format!("{},skip-first=0", percent(share)));
        };
        let mut rest = self.training.as_ref().map(|training| (training, training.weights));
        if let Some((training, length)) = rest.as_mut().filter(|(training, _)| training.gradual && self.prune < WHOLE) {
            let [first, second] = self.halves();
            prune(&mut steps, first);
            *length = length.half();
            steps.push(training.step(*length));
            prune(&mut steps, second);
        } else if self.prune < WHOLE {
            prune(&mut steps, self.prune);
        }
        if self.split < WHOLE {
            add(&mut steps, &self.splitter, percent(self.split));
        }
        steps.extend(rest.map(|(training, length)| training.step(length)));
        if let Some(share) = self.encode {
            add(&mut steps, "cluster-weights", format!("size={}%", f64::from(share) / 100.0));
            let codes = self.training.as_ref().and_then(|training| Some(training.step(training.codes?)));
            steps.extend(codes);
        }
        let skip = if common.is_empty() { String::new() } else { format!(",{common}") };
        for &pack in &self.packs {
            match pack {
                STORE if self.encode.is_some() => steps.push(format!("{STORE}:min-weights={STORED}{skip}")),
                STORE => {}
                _ => steps.push(pack.into()),
            }
        }
        steps
    }

    /// Two shares, about the same, that together leave what pruning is to leave.
    fn halves(&self) -> [u32; 2] {
        let whole = f64::from(WHOLE);
        let first = (f64::from(self.prune) * whole).sqrt().round().max(1.0);
        [first as u32, (f64::from(self.prune) * whole / first).round() as u32]
    }
}

/// As a basic string of TOML.
fn quoted(name: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", name.chars().map(escape).collect::<String>())
}

/// For tables of what was tried.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.prune < WHOLE {
            parts.push(format!("prune {}%", f64::from(self.prune) / 10.0));
        }
        if self.split < WHOLE {
            parts.push(format!("split {}%", f64::from(self.split) / 10.0));
        }
        if let Some(share) = self.encode {
            parts.push(format!("encode {}%", f64::from(share) / 100.0));
        }
        if self.loss_weights.values().any(|&loss_weights| loss_weights != 0) {
            parts.push("weighed".into());
        }
        if let Some(DistillSteps { weights, codes, gradual, augment }) = &self.training {
            let how = if *gradual { "train in two parts" } else { "train" };
            parts.push(format!("{how} {weights}"));
            parts.extend(codes.map(|codes| format!("codes {codes}")));
            parts.extend(augment.iter().cloned());
        }
        let all = if parts.is_empty() { "clean".into() } else { parts.join(", ") };
        f.pad(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Step;

    #[test]
    fn steps_are_read_back() {
        let loss_weights = LossWeights::from([("a.b,c={\"d\"".to_string(), 1), ("conv1".into(), -2), ("fc".into(), 0)]);
        let packs = vec![STORE, "strip-names"];
        let plan = Plan { prune: 250, encode: Some(1234), loss_weights, packs, ..Plan::whole() };
        let steps = plan.steps("skip=head");
        assert_eq!(steps[3..], ["store-weights:min-weights=32,skip=head", "strip-names"]);
        let step = Step::parse(&steps[2]).unwrap();
        assert_eq!(step.options["size"].as_str(), Some("12.34%"));
        assert_eq!(step.options["skip"].as_str(), Some("head"));
        let table = step.options["sensitivity"].as_table().unwrap();
        let read: Vec<_> = table.iter().map(|(k, v)| (k.as_str(), v.as_float().unwrap())).collect();
        assert_eq!(read, [("a.b,c={\"d\"", 2.0), ("conv1", 0.25)]);
    }

    #[test]
    fn a_trained_plan_trains_weights_and_then_codes() {
        let training = DistillSteps {
            weights: TrainingLength::of(40_000, 9_000),
            codes: Some(TrainingLength::of(100, 9_000)),
            gradual: true,
            augment: vec!["crop:2".into()],
        };
        let plan = Plan { prune: 250, encode: Some(1000), training: Some(training), ..Plan::whole() };
        let steps = plan.steps("");
        let names: Vec<&str> = steps.iter().map(|s| s.split(':').next().unwrap()).collect();
        let prune = "prune-channels";
        assert_eq!(names, ["clean", prune, DISTILL, prune, DISTILL, "cluster-weights", DISTILL]);
        for (step, options) in [(1, "params=50%"), (2, "epochs=2,augment=crop:2"), (6, "steps=1,augment=crop:2")] {
            assert!(steps[step].contains(options), "{steps:?}");
        }
        assert!(steps.iter().all(|step| Step::parse(step).unwrap().action().is_ok()), "{steps:?}");
        assert!(plan.to_string().ends_with("train in two parts 4 epochs, codes 1 step, crop:2"), "{plan}");
    }
}
