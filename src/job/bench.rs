//! A model with data that its students are fitted to and judged by, as searches and measurements of layers take it.

use super::places::{self, NamedFile};
use super::{Gates, input_sizes, judging, load};
use crate::analysis::sizes::InputSizes;
use crate::calibrate::{self, Calibration, available};
use crate::check::Judge;
use crate::data::{Dataset, Normalise, evenly};
use crate::error::{Error, Result};
use crate::onnx::{self, Loaded};
use crate::recipe;
use crate::report::ModelSize;
use crate::session::{Training, measure_at};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Samples that candidates are chosen by, at most.
const CHOOSE: usize = 2000;
/// The share of little data that students are fitted to; the rest is to choose by.
const FIT: f64 = 0.7;
/// The same of data that is trained with, too: there it is chosen by those that training holds back.
const FIT_OF_TRAINING: f64 = 0.4;
/// Samples that students are fitted to, if nobody says how many: as many as take so many multiply-accumulates to run.
const MOST: usize = 8192;
const LEAST: usize = 256;
const WORK: u64 = 50_000_000_000;
/// Samples below which a choice is no more than luck.
const FEW: usize = 8;

/// A model and its data, read.
pub struct Bench {
    /// The model.
    pub teacher: Loaded,
    /// The calibration data, with labels or without.
    pub data: Dataset,
    /// The training data, if there is some, and whether that is the same.
    training: Option<Dataset>,
    same: bool,
    /// How its numbers become inputs.
    pub normalise: Normalise,
    /// What the model's inputs are where MACs are counted.
    pub sizes: InputSizes,
    /// What the model costs.
    pub size: ModelSize,
    path: PathBuf,
    wanted: Option<usize>,
}

/// Calibration data, divided.
pub struct CalibrationSplit<'a> {
    /// What students are fitted to.
    pub calibration: Calibration<'a>,
    /// As many were asked for: the same number picks the same samples.
    pub fit: usize,
    /// The samples to judge them by, evenly spread over the others.
    pub choose: Vec<usize>,
}

impl Bench {
    /// Reads a model and the data to calibrate and to train with that `said` names. `written` is what will be written later.
    ///
    /// # Errors
    /// If something cannot be read or would be written over, if sizes or data do not fit the model, and `without` if no
    /// calibration data is named.
    pub fn open(
        (what, model): NamedFile<'_>,
        said: &recipe::DataSection,
        sizes: &[(String, Vec<usize>)],
        written: &[NamedFile<'_>],
        without: Error,
    ) -> Result<Bench> {
        let teacher = onnx::load(model)?;
        let path = said.calib.clone().ok_or(without)?;
        let (data, normalise) = load(&path, said)?;
        let mut read: Vec<NamedFile<'_>> = teacher.files.iter().map(|f| (what, f.as_path())).collect();
        read.extend(data.files().iter().map(|f| ("the calibration data", f.as_path())));
        let training = said.train.as_ref().map(|path| Ok::<_, Error>(load(path, said)?.0)).transpose()?;
        let same = said.train.as_ref().is_some_and(|train| is_same(train, &path));
        read.extend(training.iter().flat_map(|l| l.files()).map(|f| ("the training data", f.as_path())));
        places::check(written, &read)?;
        let with_states = |data| calibrate::with_states(data, &normalise, &teacher.model);
        let (data, training) = (with_states(data)?, training.map(with_states).transpose()?);
        let sizes = match input_sizes(&teacher.model.graph, sizes)? {
            Some(given) => given,
            None => calibrate::sizes(&data, &normalise, &teacher.model)?,
        };
        let size = ModelSize { bytes: teacher.bytes, ..measure_at(&teacher.model, &sizes)? };
        Ok(Bench { teacher, data, training, same, normalise, sizes, size, path, wanted: said.calib_samples })
    }

    /// The training data, bound to the model.
    ///
    /// # Errors
    /// As [`Training::new`].
    pub fn training(&self) -> Result<Option<Training<'_>>> {
        let bound = |data| Training::new(data, &self.normalise, &self.teacher.model);
        self.training.as_ref().map(bound).transpose()
    }

    /// Divides the calibration data; what is trained with, too, is judged by what `training` holds back. If nobody says how
    /// many samples students are fitted to, it goes by the MACs of the model.
    ///
    /// # Errors
    /// If the data does not fit the model, or there is too little of it.
    pub fn split(&self, training: Option<&Training<'_>>) -> Result<CalibrationSplit<'_>> {
        let affordable = self.size.cost.macs.map_or(calibrate::SAMPLES, |macs| (WORK / macs.max(1)) as usize);
        let wanted = self.wanted.unwrap_or(affordable.clamp(LEAST, MOST));
        let available = available(&self.data, &self.normalise, &self.teacher.model)?;
        let judges: Option<HashSet<usize>> =
            training.filter(|_| self.same).map(|training| training.judges().into_iter().collect());
        let share = if judges.is_some() { FIT_OF_TRAINING } else { FIT };
        let fit = wanted.min((share * available as f64) as usize).max(1);
        let calibration = Calibration::new(&self.data, &self.normalise, &self.teacher.model, fit)?;
        let fitted: HashSet<usize> = calibration.rows().collect();
        let judges = |row: &usize| judges.as_ref().is_none_or(|judges| judges.contains(row));
        let others: Vec<usize> = (0..available).filter(|row| !fitted.contains(row) && judges(row)).collect();
        let choose: Vec<usize> = evenly(CHOOSE, others.len()).map(|i| others[i]).collect();
        if choose.len() < FEW {
            let why = format!("of {available} samples {} are fitted to, and {} are left", fitted.len(), choose.len());
            return Err(Error::input("there is too little calibration data to choose by")
                .at(self.path.display().to_string())
                .because(why)
                .help("give a hundred or more"));
        }
        Ok(CalibrationSplit { calibration, fit, choose })
    }

    /// A judge of students, on some samples of the data.
    ///
    /// # Errors
    /// If `gates` say of an output what it cannot be, or as [`Judge::new`].
    pub fn judge(&self, samples: &[usize], gates: &Gates) -> Result<Judge<'_>> {
        let judging = judging(gates, &recipe::TargetSection::default())?;
        Judge::new(&self.teacher.model, &self.data, &self.normalise, samples, &judging)
    }
}

/// Whether two paths are of the same data.
fn is_same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().is_some_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}
