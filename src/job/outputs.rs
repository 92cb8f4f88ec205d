//! Where the student and what is said of it go: all of that, or nothing.

use super::golden::{Compared, Golden};
use super::samples::staged;
use super::{Listener, places};
use crate::error::{Error, Result};
use crate::files::{self, Atomic};
use crate::ir::Model;
use crate::onnx::{self, SaveOptions, Target};
use crate::plain;
use crate::recipe::Recipe;
use crate::report::Report;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the student goes, and what is said of it.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// The student's file; `-` is standard output.
    pub student: PathBuf,
    /// Let the student take the place of the model that it is made from.
    pub in_place: bool,
    /// Reports, whose endings say their forms: `.html`, `.json` or `.md`.
    pub reports: Vec<PathBuf>,
    /// A file for the recipe as it was run, with what budgets chose written out by layer.
    pub save_recipe: Option<PathBuf>,
    /// Write weights to `STUDENT.DIGEST.data` beside the student, whatever its size.
    pub external_data: bool,
    /// A file for a make rule that lists the files the student was made from.
    pub depfile: Option<PathBuf>,
    /// What the student's structure is compared with.
    pub golden: Golden,
    /// Of a student with exits, write every stage as a file too: `STUDENT.stage0.onnx`, …, and `STUDENT.stages.json`.
    pub stages: bool,
    /// Of a student with exits, the name of an int64 output that says which exit was taken, from 0.
    pub exit_output: Option<String>,
}

impl Outputs {
    /// The student alone.
    pub fn to(student: impl Into<PathBuf>) -> Outputs {
        Outputs { student: student.into(), ..Outputs::default() }
    }

    /// Whether the student goes to standard output.
    pub fn to_stdout(&self) -> bool {
        matches!(Target::of(self.student.clone()), Target::Stdout)
    }

    /// Finds out before the work what would prevent writing after it.
    ///
    /// # Errors
    /// If a place cannot be written to, or a report's name says no form.
    pub fn check(&self) -> Result<()> {
        self.reports.iter().try_for_each(|p| ReportFormat::of(p).map(drop))?;
        Target::of(self.student.clone()).check()?;
        self.golden.check()?;
        let golden = self.golden.written().map(Path::to_path_buf);
        let beside = self
            .reports
            .iter()
            .chain(&self.save_recipe)
            .chain(&self.depfile)
            .cloned()
            .chain(golden)
            .chain(self.stage_files());
        beside.into_iter().try_for_each(|path| Target::File(path).check())
    }

    /// What is written, by name.
    pub(crate) fn written(&self) -> Vec<places::NamedFile<'_>> {
        let student = if self.to_stdout() { None } else { Some(("the student", self.student.as_path())) };
        let reports = self.reports.iter().map(|p| ("the report", p.as_path()));
        let recipe = self.save_recipe.iter().map(|p| ("the recipe as run", p.as_path()));
        let rule = self.depfile.iter().map(|p| ("the make rule", p.as_path()));
        student.into_iter().chain(reports).chain(recipe).chain(rule).collect()
    }

    /// Checks that nothing is written over what is read, but, if it may, the student over the model, and no two things in one
    /// place.
    pub(super) fn check_places(&self, model: &Path, read: &[places::NamedFile<'_>]) -> Result<()> {
        if self.to_stdout() && self.depfile.is_some() {
            return Err(Error::input("a make rule needs a student with a name")
                .because("it says which file depends on which")
                .help("give a file name with -o"));
        }
        let student = [("the student", self.student.as_path())];
        let student = if self.to_stdout() { &[][..] } else { &student[..] };
        let over = self.is_in_place(model);
        if over && !self.in_place {
            return Err(Error::input("the student would be written over the model that it is made from")
                .at(self.student.display().to_string())
                .help("give it a name of its own, or --in-place if that model is not needed any more"));
        }
        if over {
            let others: Vec<_> = read.iter().copied().filter(|r| !places::same(r.1, model)).collect();
            places::check(student, &others)?;
        }
        let stages = self.stage_files();
        let mut written: Vec<places::NamedFile<'_>> = if over { Vec::new() } else { student.to_vec() };
        written.extend(self.written().into_iter().filter(|w| w.0 != "the student"));
        written.extend(self.golden.written().map(|p| ("the structure", p)));
        if let Some((what, path)) = written.iter().find(|w| files::is_called_data_of(w.1, &self.student)) {
            return Err(Error::input(format!("{what} is called as the student's data may be"))
                .at(path.display().to_string())
                .help("give it another name"));
        }
        written.extend(stages.iter().map(|p| ("a stage", p.as_path())));
        let read: Vec<_> = read.iter().copied().chain(self.golden.read().map(|p| ("the structure", p))).collect();
        places::check(&written, &read)
    }

    fn options(&self) -> SaveOptions {
        SaveOptions { external_data: self.external_data }
    }

    /// Whether the student takes the place of a model.
    pub(super) fn is_in_place(&self, model: &Path) -> bool {
        !self.to_stdout() && places::same(&self.student, model)
    }

    /// Every stage that there may be, and the manifest.
    fn stage_files(&self) -> Vec<PathBuf> {
        if self.stages { staged::files(&self.student) } else { Vec::new() }
    }

    /// Writes the student, and `flat` as stages, beside their places. `read` is what stays, whoever wrote it.
    pub(super) fn prepare(
        &self,
        student: &Model,
        flat: Option<&Model>,
        read: &[PathBuf],
        listener: &dyn Listener,
    ) -> Result<Prepared> {
        let mut prepared = Prepared { student: None, beside: Vec::new(), earlier: Vec::new(), missed: None };
        match self.golden.compare(student, listener)? {
            Compared::Same => {}
            Compared::Differs(what) => prepared.missed = Some(what),
            Compared::Blessed(file) => prepared.beside.push(file),
        }
        if self.to_stdout() {
            return Ok(prepared);
        }
        let mut file = onnx::prepare(student, &self.student, self.options())?;
        file.spare(read);
        prepared.student = Some(file);
        if self.stages {
            prepared.earlier = staged::earlier(&self.student);
            prepared.beside.extend(flat.map_or(Ok(Vec::new()), |flat| staged::prepare(flat, &self.student))?);
        }
        Ok(prepared)
    }
}

/// What is written, but not in its place yet.
pub(super) struct Prepared {
    /// `None` if it goes to standard output.
    student: Option<Atomic>,
    beside: Vec<Atomic>,
    /// Stages of an earlier run.
    earlier: Vec<PathBuf>,
    /// What the student's structure missed.
    missed: Option<String>,
}

impl Prepared {
    /// The student's file, as long as it is not in its place.
    pub fn student(&self) -> Option<&Path> {
        self.student.as_ref().map(Atomic::written)
    }

    /// The target that the student's structure missed, if it did.
    pub fn missed(&mut self) -> Option<String> {
        self.missed.take()
    }

    /// The student's bytes, if it is a file.
    pub fn bytes(&self) -> Result<Option<u64>> {
        self.student.as_ref().map(Atomic::bytes).transpose()
    }

    /// Writes what is said of the student: the reports, the recipe as run, and which files it was made from.
    pub fn tell(&mut self, args: &Outputs, report: &Report, sources: &[PathBuf]) -> Result<()> {
        let mut texts = Vec::new();
        for path in &args.reports {
            texts.push((path, ReportFormat::of(path)?.write(report)?));
        }
        if let Some(path) = &args.save_recipe {
            let recipe = Recipe::parse(&report.recipe, "the recipe as run")?;
            texts.push((path, recipe.moved_to(path.parent().unwrap_or(Path::new(""))).to_toml()?));
        }
        texts.extend(args.depfile.iter().map(|path| (path, depfile(&args.student, sources))));
        for (path, text) in texts {
            let mut file = Atomic::create(path)?;
            file.write(|w| w.write_all(text.as_bytes()))?;
            self.beside.push(file);
        }
        Ok(())
    }

    /// Puts everything in its place, the student last: when it is there, all is. Gives what went wrong after that.
    pub fn commit(self, student: &Model, output: &Outputs, listener: &dyn Listener) -> Result<Option<String>> {
        let Prepared { student: file, mut beside, earlier, missed: _ } = self;
        if file.is_none() {
            onnx::save(student, &Target::Stdout, output.options())?;
        }
        beside.extend(file);
        let written = files::commit(beside, || listener.unwritten(false))?;
        Ok(staged::remove(earlier, &written).err().map(|e| e.reason()))
    }
}

enum ReportFormat {
    Html,
    Json,
    Markdown,
}

impl ReportFormat {
    fn of(path: &Path) -> Result<ReportFormat> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("html") => Ok(ReportFormat::Html),
            Some("json") => Ok(ReportFormat::Json),
            Some("md") => Ok(ReportFormat::Markdown),
            _ => Err(Error::input(format!("cannot tell the report format of {}", path.display()))
                .because("it is chosen by the file's ending")
                .help("name it .html, .json or .md")),
        }
    }

    fn write(&self, report: &Report) -> Result<String> {
        match self {
            ReportFormat::Json => plain::json(report),
            ReportFormat::Markdown => Ok(report.markdown()),
            ReportFormat::Html => Ok(report.html()),
        }
    }
}

/// A make rule: the student depends on every file that was read.
fn depfile(output: &Path, sources: &[PathBuf]) -> String {
    let escaped = |p: &Path| p.display().to_string().replace('$', "$$").replace(' ', "\\ ").replace('#', "\\#");
    let sources: Vec<_> = sources.iter().map(|p| escaped(p)).collect();
    format!("{}: {}\n", escaped(output), sources.join(" "))
}
