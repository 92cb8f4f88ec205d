//! Moments of layers of the teacher as it is, on disk: whoever looks at the same place again need not sum them again.

use crate::math::LayerMoments;
use crate::math::fit::GroupMoments;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Result, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

/// Bytes that are kept.
const LIMIT: u64 = 1 << 29;

/// Moments by what they are of, one after the other in a file that has no name.
#[derive(Default)]
pub struct KeptMoments(Mutex<MomentsFile>);

#[derive(Default)]
struct MomentsFile {
    file: Option<File>,
    end: u64,
    places: HashMap<String, u64>,
}

impl KeptMoments {
    /// Those of this description, if they were kept and can be read.
    pub fn get(&self, of: &str) -> Option<LayerMoments> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = *kept.places.get(of)?;
        let file = kept.file.as_mut()?;
        file.seek(SeekFrom::Start(at)).ok()?;
        LayerMoments::read(&mut BufReader::with_capacity(1 << 16, file)).ok()
    }

    /// Keeps them, as long as there is room: nothing is lost but time where there is none.
    pub fn keep(&self, of: &str, layer: &LayerMoments) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.end;
        if at + bytes(layer) <= LIMIT
            && let Ok(end) = kept.write(layer)
        {
            kept.end = end;
            kept.places.insert(of.to_string(), at);
        }
    }
}

impl MomentsFile {
    /// Writes them at the end; gives the new end.
    fn write(&mut self, layer: &LayerMoments) -> Result<u64> {
        let end = self.end;
        let file = match &mut self.file {
            Some(file) => file,
            file => file.insert(tempfile::tempfile()?),
        };
        file.seek(SeekFrom::Start(end))?;
        let mut to = BufWriter::with_capacity(1 << 16, &mut *file);
        layer.write(&mut to)?;
        to.flush()?;
        drop(to);
        file.stream_position()
    }
}

/// What they take, but for vectors.
fn bytes(layer: &LayerMoments) -> u64 {
    let of = |part: &GroupMoments| {
        let (n, m) = (part.fit.x.len() as u64, part.fit.y.len() as u64);
        (8 + 4) * n * n / 2 + 2 * 8 * n * m
    };
    layer.parts.iter().map(of).sum()
}
