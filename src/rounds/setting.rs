//! A model and its data, as files and opened, for a search.

use crate::check::Judge;
use crate::data::Normalise;
use crate::error::{Error, Result, io};
use crate::files::digest;
use crate::job::places::NamedFile;
use crate::job::{Bench, CalibrationSplit, Gates};
use crate::recipe::{self, Recipe, Step};
use crate::search::{Inputs, TrainingData};
use crate::session::{Data, Training};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Images are moved by up to this share of their sides, and are mirrored, where that helps; smaller ones stay as they are.
const MOVED: f64 = 1.0 / 16.0;
const SMALL: usize = 16;

/// A model, the data that candidates are made with and chosen by, and how both are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The teacher.
    pub model: PathBuf,
    /// Calibration and training data.
    pub data: recipe::DataSection,
    /// Dims of inputs by name, where the model leaves them open.
    pub sizes: Vec<(String, Vec<usize>)>,
    /// How outputs are judged.
    pub gates: Gates,
}

/// A setting that is read and divided, with what searches take of it.
pub struct BoundSetting<'p> {
    /// For a session.
    pub data: Data<'p>,
    /// For candidates.
    pub judge: Judge<'p>,
    /// Samples that students are fitted to: as many as were asked for.
    pub fit: usize,
    /// What measurements depend on.
    pub inputs: Inputs,
    /// What students may be trained with.
    pub training: Option<TrainingData>,
    /// Things the user should know.
    pub warnings: Vec<String>,
}

impl Setting {
    /// Reads the model and the data. `written` is what will be written later.
    ///
    /// # Errors
    /// As [`Bench::open`].
    pub fn open(&self, written: &[NamedFile<'_>]) -> Result<Bench> {
        let without = Error::input("a search measures its candidates, and there is no data to do it on")
            .help("give --calib DATA: some hundred inputs, without labels or with them");
        Bench::open(("the teacher", &self.model), &self.data, &self.sizes, written, without)
    }

    /// Divides the data of a bench and runs the teacher on it, for `search`.
    ///
    /// # Errors
    /// If the data does not fit the model, there is too little of it, or the search fails.
    pub fn with<R>(&self, bench: &Bench, search: impl FnOnce(BoundSetting<'_>) -> Result<R>) -> Result<R> {
        let training = bench.training()?;
        let CalibrationSplit { calibration, fit, choose } = bench.split(training.as_ref())?;
        let judge = bench.judge(&choose, &self.gates)?;
        let loaded = &bench.teacher;
        let inputs = Inputs {
            model: digests(&loaded.files)?,
            data: format!("{:016x}", judge.digest()?),
            fit_samples: calibration.samples(),
            choose_samples: judge.samples(),
            tutee: env!("CARGO_PKG_VERSION").into(),
        };
        let warnings = loaded.warnings.iter().chain(&calibration.warnings);
        let warnings = warnings.chain(training.iter().flat_map(|t| &t.warnings)).cloned().collect();
        let data = Data {
            sizes: bench.sizes.clone(),
            calibration: Some(&calibration),
            training: training.as_ref(),
            ..Data::default()
        };
        let training = training.as_ref().map(training_data).transpose()?;
        search(BoundSetting { data, judge, fit, inputs, training, warnings })
    }

    /// The recipe of a candidate: its steps, and how data is read for it, fitted to so many samples.
    ///
    /// # Errors
    /// If a step is none.
    pub fn recipe(&self, steps: &[String], fit: usize, normalise: &Normalise) -> Result<Recipe> {
        let Normalise { scale, mean, std, .. } = normalise.clone();
        let data = recipe::DataSection {
            calib_samples: Some(fit),
            scale: (scale != 1.0).then(|| scale.to_string()),
            mean,
            std,
            feedback: self.data.feedback.clone(),
            stream_length: self.data.stream_length,
            ..recipe::DataSection::default()
        };
        let steps = steps.iter().map(|s| Step::parse(s)).collect::<Result<_>>()?;
        Ok(Recipe { data, steps, ..Recipe::default() })
    }

    /// The same with its files in another place.
    pub(super) fn moved(&self, to: &dyn Fn(&Path) -> PathBuf) -> Setting {
        let mut moved = self.clone();
        moved.model = to(&self.model);
        let data = &mut moved.data;
        for path in [&mut data.calib, &mut data.train, &mut data.test, &mut data.classes].into_iter().flatten() {
            *path = to(path);
        }
        moved
    }
}

fn training_data(training: &Training<'_>) -> Result<TrainingData> {
    let augment = match training.shape() {
        Some(&[_, height, width]) if height.min(width) >= SMALL => {
            vec![format!("crop:{}", (MOVED * height.min(width) as f64) as usize), "flip".into()]
        }
        _ => Vec::new(),
    };
    Ok(TrainingData { samples: training.count(), digest: format!("{:016x}", training.digest()?), augment })
}

fn digests(files: &[PathBuf]) -> Result<String> {
    let of = |path: &PathBuf| {
        let digest = File::open(path).and_then(digest).map_err(|e| io("read", path, &e))?;
        Ok(format!("{digest:016x}"))
    };
    Ok(files.iter().map(of).collect::<Result<Vec<_>>>()?.join(" "))
}
