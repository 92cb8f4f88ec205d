//! Progress on standard error: a bar on a terminal, otherwise a line a step and now and then one about a long step, nothing
//! with `-q`.

mod left;

use super::messages;
use super::signals;
use super::terminal::Stream;
use crate::job::Listener;
use crate::plain;
use crate::session::Observer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use left::Left;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines about one step, for people and for programs.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_JSON: Duration = Duration::from_millis(200);

/// What is shown while the student is compared with its teacher.
const CHECKING: &str = "checking";

/// Shows steps and sites.
pub struct Progress {
    quiet: bool,
    bar: ProgressBar,
    now: Mutex<Now>,
}

/// The running step.
struct Now {
    began: Instant,
    /// When it last had a line.
    told: Instant,
    left: Left,
}

impl Now {
    fn begins() -> Now {
        Now { began: Instant::now(), told: Instant::now(), left: Left::default() }
    }
}

/// A line that fits: what does not is cut from the end of the message.
fn template(columns: u16) -> &'static str {
    match columns {
        60.. => "{prefix} [{bar:24}] {percent} % {wide_msg}",
        40.. => "{prefix} {percent} % {wide_msg}",
        _ => "{percent} % {wide_msg}",
    }
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        let shown = !quiet && !messages::is_json() && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(template(Stream::Err.columns())) {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress { quiet, bar, now: Mutex::new(Now::begins()) }
    }
}

impl Observer for Progress {
    fn step(&self, index: usize, count: usize, name: &str) {
        if !self.quiet && self.bar.is_hidden() {
            messages::step(index, count, name);
        }
        let title = format!("step {}/{count} {}", index + 1, plain::line(name));
        self.bar.set_prefix(title);
        self.bar.reset();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Now::begins();
    }

    fn site(&self, done: u64, all: u64, site: &str) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.began.elapsed();
        let seconds = now.left.after(done, all, since).map(|left| left.as_secs_f64());
        let left = seconds.map_or(String::new(), |s| format!("about {s:.0} s left: "));
        // The time is first: a long name is cut.
        let line = format!("{left}{}", plain::line(site));
        self.bar.set_message(line.clone());
        let silent = self.quiet || !self.bar.is_hidden();
        if messages::is_json() && !silent && now.told.elapsed() >= PAUSE_JSON {
            messages::progress(done, all, site, seconds);
            now.told = Instant::now();
        } else if !messages::is_json() && !silent && seconds.is_some() && now.told.elapsed() >= PAUSE {
            messages::say(&format!("  {:.0} %, {line}", 100.0 * done as f64 / all as f64));
            now.told = Instant::now();
        }
    }

    fn line(&self, news: &str) {
        match (self.quiet, self.bar.is_hidden()) {
            (true, _) => {}
            (false, true) => messages::say(&format!("  {}", plain::line(news))),
            (false, false) => self.bar.println(format!("  {}", plain::line(news))),
        }
    }

    #[cfg(feature = "exec")]
    fn training(&self, begins: bool) {
        signals::training(begins);
    }

    #[cfg(feature = "exec")]
    fn goes_on(&self) -> bool {
        !signals::asked()
    }
}

impl Listener for Progress {
    fn warning(&self, what: &str) {
        if !self.quiet {
            messages::warn(what);
        }
    }

    fn doubt(&self, what: &str) {
        messages::warn(what);
    }

    fn news(&self, what: &str) {
        if !self.quiet {
            messages::say(&what);
        }
    }

    fn difference(&self, lines: &str) {
        messages::say(&lines);
    }

    fn checking(&self, done: usize, all: usize) {
        self.bar.set_prefix(CHECKING);
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
    }

    fn ends(&self) {
        self.bar.finish_and_clear();
    }

    fn unwritten(&self, is: bool) {
        signals::unwritten(is);
    }
}
