//! What was measured, in memory and in a file that the next run takes up again.

use crate::check::Score;
use crate::error::{Error, Result, read_text};
use crate::files::Atomic;
use crate::plain;
use crate::report::ModelSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Of the form of the file, and of what passes do: raised when measurements of before say nothing any more.
const VERSION: u32 = 1;

/// A student that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What it costs.
    pub size: ModelSize,
    /// Bytes of all constants.
    pub stored: u64,
    /// The time of a run as a share of the teacher's, where that was asked for: it serves where the machine is slower or faster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pace: Option<f64>,
    /// `None` as long as nothing asked how good it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub score: Option<Score>,
    /// What a step's budget asked for and did not reach.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub short: Vec<String>,
}

/// What measurements depend on besides the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Digests of the model's files.
    pub model: String,
    /// A digest of the samples that candidates are chosen by, as the model reads them.
    pub data: String,
    /// How many samples students are fitted to.
    pub fit_samples: usize,
    /// How many samples they are chosen by.
    pub choose_samples: usize,
    /// The version that measured.
    pub tutee: String,
}

/// By their steps.
pub type Trials = BTreeMap<String, Trial>;

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    inputs: Inputs,
    trials: Trials,
}

/// Trials by their steps.
pub struct Store {
    path: Option<PathBuf>,
    file: StateFile,
    /// Trials that were there at the beginning.
    pub found: usize,
}

impl Store {
    /// Without a path nothing is kept; a file that is not there yet will be.
    ///
    /// # Errors
    /// If the file cannot be read, is none of this kind, or is of another model, other data or another version.
    pub fn open(path: Option<&Path>, inputs: Inputs) -> Result<Store> {
        let mut file = StateFile { version: VERSION, inputs, trials: BTreeMap::new() };
        if let Some(path) = path.filter(|p| p.exists()) {
            let text = read_text("read the state", path)?;
            let not = |why: String| {
                Error::input(format!("{} is no state of this search", path.display()))
                    .because(why)
                    .help("give another --state FILE, or remove that one: it will be made anew")
            };
            let version: serde_json::Value = serde_json::from_str(&text).map_err(|e| not(e.to_string()))?;
            match version.get("version").and_then(serde_json::Value::as_u64) {
                Some(v) if v == u64::from(VERSION) => {}
                Some(v) => return Err(not(format!("it is of version {v}, and this tutee writes {VERSION}"))),
                None => return Err(not("it has no version".into())),
            }
            let read: StateFile = serde_json::from_value(version).map_err(|e| not(e.to_string()))?;
            if let Some(what) = differs(&read.inputs, &file.inputs) {
                return Err(not(format!("it was measured with {what}")));
            }
            file.trials = read.trials;
        }
        Ok(Store { path: path.map(Path::to_path_buf), found: file.trials.len(), file })
    }

    /// What was measured elsewhere.
    pub fn of(inputs: Inputs, trials: Trials) -> Store {
        Store { path: None, found: trials.len(), file: StateFile { version: VERSION, inputs, trials } }
    }

    /// All that was measured.
    pub fn into_trials(self) -> Trials {
        self.file.trials
    }

    /// What was measured under a key.
    pub fn get(&self, key: &str) -> Option<&Trial> {
        self.file.trials.get(key)
    }

    /// Keeps a trial, at once on disk: the file is whole whenever the run ends.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&mut self, key: String, trial: Trial) -> Result<()> {
        self.file.trials.insert(key, trial);
        let Some(path) = &self.path else { return Ok(()) };
        let text = plain::json(&self.file)?;
        let mut file = Atomic::create(path)?;
        file.write(|w| w.write_all(text.as_bytes()))?;
        file.commit()
    }
}

/// What two sets of inputs differ in.
pub fn differs(was: &Inputs, is: &Inputs) -> Option<String> {
    let samples = |i: &Inputs| format!("{} samples to fit to and {} to choose by", i.fit_samples, i.choose_samples);
    if was.model != is.model {
        return Some("another model".into());
    }
    if samples(was) != samples(is) {
        return Some(format!("{}, now there are {}", samples(was), samples(is)));
    }
    if was.data != is.data {
        return Some("other data, or data that was normalised otherwise".into());
    }
    (was.tutee != is.tutee).then(|| format!("tutee {}, and this is {}", was.tutee, is.tutee))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::cost::Cost;

    fn inputs(model: &str) -> Inputs {
        Inputs { model: model.into(), data: "d".into(), fit_samples: 8, choose_samples: 9, tutee: "1".into() }
    }

    fn trial() -> Trial {
        let size = ModelSize {
            nodes: 3,
            weights: 4,
            cost: Cost { parameters: 4, macs: None, stored: 0 },
            bytes: 99,
            latency: None,
        };
        let score = Score { samples: 9, loss: 0.1, drop: 0.0, accuracy: None, agreement: None, confusion: vec![] };
        Trial { size, stored: 16, pace: None, score: Some(score), short: vec![] }
    }

    #[test]
    fn what_is_kept_is_found_again_and_nothing_of_another_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let mut store = Store::open(Some(&path), inputs("m")).unwrap();
        store.put("clean".into(), trial()).unwrap();
        let again = Store::open(Some(&path), inputs("m")).unwrap();
        assert_eq!((again.get("clean"), again.found), (Some(&trial()), 1));
        let other = Store::open(Some(&path), inputs("n")).err().unwrap().to_string();
        assert!(other.contains("another model"), "{other}");
        for (text, why) in
            [("", "EOF"), ("{\"version\":9}", "version 9"), ("[]", "no version"), ("{\"version\":1}", "missing")]
        {
            std::fs::write(&path, text).unwrap();
            let refused = Store::open(Some(&path), inputs("m")).err().unwrap().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
