//! A point of the space that is searched: how far the channels are pruned, how far the layers that are left are split, and
//! with how many bytes the weights that are left are encoded.

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
}

/// All of something, in thousandths.
pub const WHOLE: u32 = 1000;

impl Plan {
    /// A plan that changes nothing.
    pub fn whole() -> Plan {
        Plan { unit: Unit::Params, prune: WHOLE, split: WHOLE, splitter: String::new(), encode: None }
    }

    /// The steps, in the form `PASS:key=value,…`; `common` is added to each that is a pass.
    pub fn steps(&self, common: &str) -> Vec<String> {
        let mut steps = vec!["clean".to_string()];
        let key = match self.unit {
            Unit::Params => "params",
            Unit::Macs => "macs",
        };
        let mut add = |pass: &str, options: String| {
            let comma = if common.is_empty() { "" } else { "," };
            let colon = if pass.contains(':') { "," } else { ":" };
            steps.push(format!("{pass}{colon}{options},best-effort=true{comma}{common}"));
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
        steps
    }
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
        let all = if parts.is_empty() { "clean".into() } else { parts.join(", ") };
        f.pad(&all)
    }
}
