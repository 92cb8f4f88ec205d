//! The one error shape a user sees: what, where, why, what to do.

mod quiet;

#[cfg(feature = "exec")]
pub(crate) use quiet::quietly;
pub(crate) use quiet::{process, reading};

use crate::plain;
use serde::Serialize;
use std::fmt;

/// A result whose error is ours.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose turn it is to act; decides the exit code. Programs match on this, not on words.
///
/// ```
/// use tutee::error::{Error, Kind};
///
/// fn answer(e: &Error) -> &'static str {
///     match e.kind() {
///         Kind::Input => "change what was given",
///         Kind::Target => "ask for less",
///         Kind::Internal => "report it",
///     }
/// }
/// # assert_eq!(answer(&Error::target("missed")), "ask for less");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The model, recipe, data or arguments are wrong. Exit code 1.
    Input,
    /// The student missed a target that was asked for. Exit code 2.
    Target,
    /// A bug in tutee. Exit code 3.
    Internal,
}

/// An error as it is printed: what happened, where (outermost place last), why, and what to do.
#[derive(Debug, Clone, Serialize)]
pub struct Error {
    kind: Kind,
    what: String,
    #[serde(rename = "place")]
    at: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Error {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), at: Vec::new(), because: None, help: None }
    }

    /// Something that was given is wrong.
    pub fn input(what: impl Into<String>) -> Self {
        Self::new(Kind::Input, what)
    }

    /// A target was missed.
    pub fn target(what: impl Into<String>) -> Self {
        Self::new(Kind::Target, what)
    }

    /// A bug.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, format!("internal: {}", what.into()))
            .help("this is a bug in tutee; please report it with the model and the recipe")
    }

    /// Adds a place, the outermost last: a node, then its file.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.at.push(place.into());
        self
    }

    /// Says why.
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.because = Some(why.into());
        self
    }

    /// Says what to do.
    pub fn help(mut self, how: impl Into<String>) -> Self {
        self.help = Some(how.into());
        self
    }

    /// Calls a file by another name wherever the error names it.
    pub(crate) fn calling(mut self, path: &std::path::Path, name: &std::path::Path) -> Self {
        let (path, name) = (path.display().to_string(), name.display().to_string());
        let texts = [&mut self.what].into_iter().chain(&mut self.at).chain(&mut self.because).chain(&mut self.help);
        texts.for_each(|text| *text = text.replace(&path, &name));
        self
    }

    /// What happened, in words for people.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Where: of a node in a file first the node, then the file. Empty where there is no place.
    pub fn place(&self) -> &[String] {
        &self.at
    }

    /// What to do, if that is known.
    pub fn how(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Why, if it is known.
    pub fn cause(&self) -> Option<&str> {
        self.because.as_deref()
    }

    /// What and why in one line.
    pub fn reason(&self) -> String {
        match &self.because {
            Some(why) => {
                let lines: Vec<&str> = why.lines().map(str::trim).collect();
                format!("{}: {}", self.what, lines.join("; "))
            }
            None => self.what.clone(),
        }
    }

    /// What, why and what to do in one line.
    pub fn advice(&self) -> String {
        match &self.help {
            Some(how) => format!("{} ({how})", self.reason()),
            None => self.reason(),
        }
    }

    /// Whose turn it is to act.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the command exits with.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Input => 1,
            Kind::Target => 2,
            Kind::Internal => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A cause may have lines of its own, such as the place in a recipe: no other line can look like ours.
        let cause = |why: &str| plain::lines(why).replace('\n', "\n  ");
        write!(f, "error: {}", plain::line(&self.what))?;
        if !self.at.is_empty() {
            write!(f, "\n  at       {}", plain::line(&self.at.join(", ")))?;
        }
        if let Some(why) = &self.because {
            write!(f, "\n  because  {}", cause(why))?;
        }
        if let Some(how) = &self.help {
            write!(f, "\n  help     {}", plain::line(how))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Texts that people write are far shorter.
const MAX_TEXT: u64 = 1 << 24;

/// How long a pipe may be without a writer.
#[cfg(unix)]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

/// A text file, or what a pipe gives, of sensible size.
pub(crate) fn read_text(doing: &str, path: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let failed = |e: std::io::Error| io(doing, path, &e);
    let file = open_text(path).map_err(failed)?;
    let read = std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_TEXT), &mut text);
    match read.map_err(failed)? as u64 {
        MAX_TEXT => {
            Err(Error::input(format!("cannot {doing} {}", path.display())).because("it goes on for over 16 MiB"))
        }
        _ => Ok(text),
    }
}

/// Opens what is to be read; of a pipe that stays without a writer, an error.
#[cfg(unix)]
fn open_text(path: &std::path::Path) -> std::io::Result<Box<dyn std::io::Read>> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    if !std::fs::metadata(path)?.file_type().is_fifo() {
        return Ok(Box::new(std::fs::File::open(path)?));
    }
    // Opened like this, a pipe does not wait for its writer.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(Box::new(Pipe { file, begun: false, since: std::time::Instant::now() }))
}

#[cfg(not(unix))]
fn open_text(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    std::fs::File::open(path)
}

/// A pipe: it ends where its writer leaves, and it is an error if none comes.
#[cfg(unix)]
struct Pipe {
    file: std::fs::File,
    /// Whether there was a writer.
    begun: bool,
    since: std::time::Instant,
}

#[cfg(unix)]
impl std::io::Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.file.read(to) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => self.begun = true,
                Ok(0) if !self.begun && !to.is_empty() => {
                    if self.since.elapsed() > PATIENCE {
                        return Err(std::io::Error::other("it is a pipe, and nothing writes to it"));
                    }
                }
                read => {
                    self.begun = true;
                    return read;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Input errors from I/O, with the path named.
pub(crate) fn io(doing: &str, path: &std::path::Path, e: &std::io::Error) -> Error {
    Error::input(format!("cannot {doing} {}", path.display())).because(e.to_string())
}
