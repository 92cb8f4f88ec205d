//! A job's own view of its steps: what took how long, the text form after each, and the teacher's memory.

use super::Listener;
use crate::error::{Result, io};
use crate::files::Atomic;
use crate::ir::{Model, text};
use crate::onnx::Pages;
use crate::report::Time;
use crate::session::Observer;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Passes everything on to who listens.
pub(super) struct Watched<'a> {
    listener: &'a dyn Listener,
    dump: Option<&'a Path>,
    pages: Pages,
    /// What began when; one thing ends where the next begins.
    began: Mutex<Vec<(String, Instant)>>,
}

impl<'a> Watched<'a> {
    /// Keeps no more of the teacher in memory than one site has read: what is rewritten takes its place.
    pub fn new(listener: &'a dyn Listener, dump: Option<&'a Path>, pages: Pages) -> Watched<'a> {
        Watched { listener, dump, pages, began: Mutex::default() }
    }

    #[cfg(feature = "exec")]
    pub fn listener(&self) -> &dyn Listener {
        self.listener
    }

    /// Something begins, or with no name, what began before ends.
    pub fn begins(&self, what: String) {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).push((what, Instant::now()));
    }

    pub fn ends(&self) {
        self.begins(String::new());
        self.listener.ends();
    }

    /// How long each thing took that has ended.
    pub fn times(&self) -> Vec<Time> {
        let began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let took = |pair: &[(String, Instant)]| Time {
            part: pair[0].0.clone(),
            seconds: (pair[1].1 - pair[0].1).as_secs_f64(),
        };
        began.windows(2).filter(|pair| !pair[0].0.is_empty()).map(took).collect()
    }
}

impl Observer for Watched<'_> {
    fn step(&self, index: usize, count: usize, name: &str) {
        self.listener.step(index, count, name);
        self.begins(format!("step {} {name}", index + 1));
    }

    fn site(&self, done: u64, all: u64, site: &str) {
        self.listener.site(done, all, site);
        self.pages.release();
    }

    fn line(&self, news: &str) {
        self.listener.line(news);
    }

    fn training(&self, begins: bool) {
        self.listener.training(begins);
    }

    fn goes_on(&self) -> bool {
        self.listener.goes_on()
    }

    fn model(&self, index: usize, name: &str, model: &Model) -> Result<()> {
        self.pages.release();
        self.listener.model(index, name, model)?;
        let Some(folder) = self.dump else { return Ok(()) };
        std::fs::create_dir_all(folder).map_err(|e| io("make the folder", folder, &e))?;
        let mut file = Atomic::create(&folder.join(format!("{index:02}-{name}.ir")))?;
        file.write(|w| w.write_all(text::print::model(model).as_bytes()))?;
        file.commit()
    }
}
