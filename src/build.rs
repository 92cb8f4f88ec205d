//! For build scripts: makes a student into `OUT_DIR` and tells cargo what it was made from.
//!
//! ```no_run
//! // build.rs
//! fn main() -> tutee::Result<()> {
//!     tutee::build::Compiler::new("teacher.onnx").recipe("small.toml").compile()?;
//!     Ok(())
//! }
//! ```
//!
//! ```ignore
//! // src/main.rs
//! static STUDENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/teacher.onnx"));
//! ```
//!
//! `tutee` under `[build-dependencies]` with `default-features = false` builds without the runtime that `calib`, `test` and
//! `max_drop` need. A build script is compiled without optimization unless the profile says otherwise:
//! `[profile.dev.build-override]` with `opt-level = 2` pays for networks of more than a few megabytes.

use crate::cli;
use crate::error::{Error, Result};
use crate::job::Listener;
use crate::plain;
use crate::session::Observer;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A student that a build script makes. Paths are relative to the package.
#[derive(Debug, Clone)]
pub struct Compiler {
    teacher: PathBuf,
    name: Option<String>,
    arguments: Vec<OsString>,
}

impl Compiler {
    /// With the default recipe: `clean`, then codebooks of 8 bits.
    pub fn new(teacher: impl Into<PathBuf>) -> Compiler {
        Compiler { teacher: teacher.into(), name: None, arguments: Vec::new() }
    }

    /// A recipe file.
    #[must_use]
    pub fn recipe(self, file: impl AsRef<Path>) -> Compiler {
        self.option("--recipe", file.as_ref())
    }

    /// One more step, as on the command line: `cluster-weights:bits=4`. Goes without a recipe file.
    #[must_use]
    pub fn pass(self, step: &str) -> Compiler {
        self.option("--pass", step)
    }

    /// Data without labels that weights are fitted to.
    #[cfg(feature = "exec")]
    #[must_use]
    pub fn calib(self, data: impl AsRef<Path>) -> Compiler {
        self.option("--calib", data.as_ref())
    }

    /// Data that the student is checked on at the end.
    #[cfg(feature = "exec")]
    #[must_use]
    pub fn test(self, data: impl AsRef<Path>) -> Compiler {
        self.option("--test", data.as_ref())
    }

    /// Fails the build if the student loses more than this share on the test data: 0.01 is one point.
    #[cfg(feature = "exec")]
    #[must_use]
    pub fn max_drop(self, share: f64) -> Compiler {
        self.option("--max-drop", share.to_string())
    }

    /// Fails the build if the student's structure is not the one in this file, which `tutee show --structure` prints.
    #[must_use]
    pub fn golden(self, file: impl AsRef<Path>) -> Compiler {
        self.option("--check-golden", file.as_ref())
    }

    /// Any other option of `tutee compress`: `["--scale", "1/255"]`.
    #[must_use]
    pub fn options<O: Into<OsString>>(mut self, options: impl IntoIterator<Item = O>) -> Compiler {
        self.arguments.extend(options.into_iter().map(Into::into));
        self
    }

    /// The student's file name in `OUT_DIR`; the teacher's own if it is not given.
    #[must_use]
    pub fn output(self, name: &str) -> Compiler {
        Compiler { name: Some(name.into()), ..self }
    }

    fn option(self, name: &str, value: impl Into<OsString>) -> Compiler {
        self.options([OsString::from(name), value.into()])
    }

    /// Makes the student, prints `cargo::rerun-if-changed` for every file that was read, and gives its path.
    ///
    /// # Errors
    /// If a file cannot be read, if the recipe does not fit, or if a target was missed. Each is printed as `cargo::error`, so that
    /// cargo shows it.
    pub fn compile(&self) -> Result<PathBuf> {
        println!("cargo::rerun-if-changed={}", self.teacher.display());
        let folder = std::env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| {
            Error::input("OUT_DIR is not set").because("a student is compiled by a build script, which cargo runs")
        })?;
        let name = self.name.clone().map(OsString::from).or_else(|| self.teacher.file_name().map(Into::into));
        let student = folder.join(name.unwrap_or_else(|| "student.onnx".into()));
        let mut arguments: Vec<OsString> = ["tutee", "compress", "--quiet", "-o"].map(Into::into).into();
        arguments.push(student.clone().into());
        arguments.extend(self.arguments.iter().cloned());
        arguments.extend(["--".into(), self.teacher.clone().into()]);
        let sources = make(&arguments).inspect_err(tell)?;
        for file in sources {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        Ok(student)
    }
}

/// Makes the student that arguments of `tutee compress` describe, and gives the files that it was made from.
fn make(arguments: &[OsString]) -> Result<Vec<PathBuf>> {
    let done = cli::compress_job(arguments)?.run(&Cargo)?;
    let sources = done.sources.clone();
    done.result().map(|_| sources)
}

/// Writes an error for cargo.
fn tell(e: &Error) {
    let text = e.to_string();
    text.trim_start_matches("error: ").lines().for_each(|l| println!("cargo::error={}", plain::line(l)));
}

/// Says what cargo shows of a build: what is strange about the student on test data.
struct Cargo;

impl Observer for Cargo {}

impl Listener for Cargo {
    fn doubt(&self, what: &str) {
        println!("cargo::warning={}", plain::line(what));
    }

    fn difference(&self, lines: &str) {
        eprintln!("{}", plain::lines(lines));
    }
}
