//! What it takes to go on with a training after an interruption, as a file.

use crate::distill::train::{Samples, TrainingState};
use crate::error::{Error, Result, io};
use crate::files::Atomic;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file: u64 FNV-1a of what follows | u64 FNV-1a of student, data, teachers and options | the state of the training.
pub struct Checkpoint {
    path: PathBuf,
    print: u64,
}

impl Checkpoint {
    /// Of step `index`, in a folder.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn new(folder: &Path, index: usize, print: Fingerprint) -> Result<Checkpoint> {
        std::fs::create_dir_all(folder).map_err(|e| io("make the folder", folder, &e))?;
        let path = folder.join(format!("step-{}.checkpoint", index + 1));
        // Before hours of work, not after; what is not committed leaves nothing behind.
        drop(Atomic::create(&path)?);
        Ok(Checkpoint { path, print: print.0 })
    }

    /// Gives the state of the training, if there is one, to `take`.
    ///
    /// # Errors
    /// If it cannot be read, is that of something else, or is not taken.
    pub fn read(&self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = match std::fs::read(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(|e| io("read the checkpoint", &self.path, &e))?,
        };
        let taken = match bytes.split_first_chunk::<8>() {
            Some((sum, rest)) if u64::from_le_bytes(*sum) == Fingerprint::of(rest) => {
                match rest.split_first_chunk::<8>() {
                    Some((print, course)) if u64::from_le_bytes(*print) == self.print => take(course),
                    _ => Err(Error::input("the checkpoint is of another training")
                        .because("the student, the data, a teacher or an option was another")
                        .help("give another folder, or remove the file to begin anew")),
                }
            }
            _ => Err(TrainingState::damaged()),
        };
        taken.map_err(|e| e.at(self.path.display().to_string()))
    }

    pub fn write(&self, course: &TrainingState) -> Result<()> {
        let rest = [&self.print.to_le_bytes()[..], &course.to_bytes()].concat();
        let mut file = Atomic::create(&self.path)?;
        file.write(|w| w.write_all(&Fingerprint::of(&rest).to_le_bytes()).and_then(|_| w.write_all(&rest)))?;
        file.commit()
    }
}

/// Samples of training data that are looked at.
const PRINTED: usize = 256;

/// A hash of bytes. (Fowler, Noll, Vo: FNV-1a.)
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// That of these bytes: no change to one byte alone leaves it as it was.
    fn of(bytes: &[u8]) -> u64 {
        let mut print = Fingerprint::default();
        print.add(bytes);
        print.sum()
    }

    pub fn sum(&self) -> u64 {
        self.0
    }

    pub fn add(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    }

    pub fn samples(&mut self, samples: &dyn Samples) -> Result<()> {
        self.add(format!("{:?} {:?}", samples.inputs(), samples.labels()).as_bytes());
        let count = samples.count();
        self.add(&count.to_le_bytes());
        for i in crate::data::evenly(PRINTED, count) {
            samples.read(i)?.iter().flatten().for_each(|v| self.add(&v.to_le_bytes()));
        }
        Ok(())
    }
}
