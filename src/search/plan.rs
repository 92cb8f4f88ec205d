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
    pub doubled: Doubled,
}

/// By the names of layers.
pub type Doubled = BTreeMap<String, i32>;

/// The pass that takes half of the bytes of codebooks and biases, and from how many numbers on that pays.
pub const STORE: &str = "store-weights";
const STORED: usize = 32;

/// All of something, in thousandths.
pub const WHOLE: u32 = 1000;

impl Plan {
    /// A plan that changes nothing.
    pub fn whole() -> Plan {
        let (splitter, packs, doubled) = Default::default();
        Plan { unit: Unit::Params, prune: WHOLE, split: WHOLE, splitter, encode: None, packs, doubled }
    }

    /// The steps, in the form `PASS:key=value,…`; `common` is added to each that is a pass.
    pub fn steps(&self, common: &str) -> Vec<String> {
        let mut steps = vec!["clean".to_string()];
        let key = match self.unit {
            Unit::Params => "params",
            Unit::Macs => "macs",
        };
        let entry = |(layer, doubled): (&String, &i32)| format!("{}={:?}", quoted(layer), f64::from(*doubled).exp2());
        let table: Vec<String> = self.doubled.iter().filter(|d| *d.1 != 0).map(entry).collect();
        let mut add = |pass: &str, mut options: String| {
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
        if self.prune < WHOLE {
            add("prune-channels", format!("{key}={}%,skip-first=0", f64::from(self.prune) / 10.0));
        }
        if self.split < WHOLE {
            add(&self.splitter, format!("{key}={}%", f64::from(self.split) / 10.0));
        }
        if let Some(share) = self.encode {
            add("cluster-weights", format!("size={}%", f64::from(share) / 100.0));
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
        if self.doubled.values().any(|&doubled| doubled != 0) {
            parts.push("weighed".into());
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
        let doubled = Doubled::from([("a.b,c={\"d\"".to_string(), 1), ("conv1".into(), -2), ("fc".into(), 0)]);
        let packs = vec![STORE, "strip-names"];
        let plan = Plan { prune: 250, encode: Some(1234), doubled, packs, ..Plan::whole() };
        let steps = plan.steps("skip=head");
        assert_eq!(steps[3..], ["store-weights:min-weights=32,skip=head", "strip-names"]);
        let step = Step::parse(&steps[2]).unwrap();
        assert_eq!(step.options["size"].as_str(), Some("12.34%"));
        assert_eq!(step.options["skip"].as_str(), Some("head"));
        let table = step.options["sensitivity"].as_table().unwrap();
        let read: Vec<_> = table.iter().map(|(k, v)| (k.as_str(), v.as_float().unwrap())).collect();
        assert_eq!(read, [("a.b,c={\"d\"", 2.0), ("conv1", 0.25)]);
    }
}
