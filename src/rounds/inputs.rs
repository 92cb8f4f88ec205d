//! Files that jobs read, kept once, in folders that are called by what is in them.

use crate::error::{Error, Result, io};
use crate::files::digest;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The folder of a search that has them.
const INPUTS: &str = "inputs";

/// A file with those that belong to it, or a folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptInput {
    /// What it is to the search.
    what: String,
    /// Where it is, from the folder of the search.
    pub path: PathBuf,
    /// Of all files, with their names.
    digest: String,
}

/// Files by their names in a folder.
type NamedFiles = Vec<(PathBuf, PathBuf)>;

impl KeptInput {
    /// Copies a file with `others` that it names, or a folder, into the folder of a search, if it is not there already.
    ///
    /// # Errors
    /// If something cannot be read or written, or one of the others is not in the folder of the file or below.
    pub fn keep(folder: &Path, what: &str, path: &Path, others: &[PathBuf]) -> Result<KeptInput> {
        let name = path.canonicalize().map_err(|e| io("read", path, &e))?;
        let name = path.file_name().or(name.file_name()).map(PathBuf::from).unwrap_or_default();
        let base = path.parent().unwrap_or(Path::new(""));
        let mut files = NamedFiles::new();
        walk(path, &name, &mut files)?;
        for other in others.iter().filter(|other| *other != path) {
            let below = other.strip_prefix(base).map_err(|_| {
                Error::input(format!("{what} cannot be sent anywhere: one of its files is in another folder"))
                    .at(other.display().to_string())
                    .help("put its files into one folder")
            })?;
            files.push((below.to_path_buf(), other.clone()));
        }
        let digest = digest_of(&mut files)?;
        let own = PathBuf::from(INPUTS).join(&digest);
        let input = KeptInput { what: what.into(), path: own.join(name), digest };
        let place = folder.join(&own);
        if !place.exists() {
            copy(&files, &folder.join(INPUTS), &place)?;
        }
        input.check(folder)?;
        Ok(input)
    }

    /// # Errors
    /// If it is not there, or is not what it was.
    pub fn check(&self, folder: &Path) -> Result<()> {
        let place = folder.join(INPUTS).join(&self.digest);
        let wrong = |why: &str| {
            Error::input(format!("{} of the job {why}", self.what))
                .at(place.display().to_string())
                .help("copy the folder `inputs` again, or plan the search again")
        };
        if !place.is_dir() {
            return Err(wrong("is not there"));
        }
        let mut files = NamedFiles::new();
        for entry in place.read_dir().map_err(|e| io("read", &place, &e))? {
            let entry = entry.map_err(|e| io("read", &place, &e))?;
            walk(&entry.path(), Path::new(&entry.file_name()), &mut files)?;
        }
        match digest_of(&mut files)? == self.digest {
            true => Ok(()),
            false => Err(wrong("was changed")),
        }
    }
}

/// Adds a file, or all that is in a folder; of a folder also that it is there.
fn walk(path: &Path, name: &Path, files: &mut NamedFiles) -> Result<()> {
    files.push((name.to_path_buf(), path.to_path_buf()));
    if path.is_dir() {
        for entry in path.read_dir().map_err(|e| io("read", path, &e))? {
            let entry = entry.map_err(|e| io("read", path, &e))?;
            walk(&entry.path(), &name.join(entry.file_name()), files)?;
        }
    }
    Ok(())
}

/// Of names and contents, in the order of names. Folders that a file is in need no mention.
fn digest_of(files: &mut NamedFiles) -> Result<String> {
    files.sort();
    let mut text = Vec::new();
    for (i, (name, path)) in files.iter().enumerate() {
        let parts: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
        let content = match path.is_dir() {
            true if files.get(i + 1).is_some_and(|next| next.0.starts_with(name)) => continue,
            true => "folder".into(),
            false => format!("{:016x}", File::open(path).and_then(digest).map_err(|e| io("read", path, &e))?),
        };
        text.extend(format!("{}\0{content}\0", parts.join("/")).into_bytes());
    }
    digest(&text[..]).map(|d| format!("{d:016x}")).map_err(|e| Error::internal(e.to_string()))
}

/// Copies files into a folder that is there once all of them are.
fn copy(files: &NamedFiles, beside: &Path, place: &Path) -> Result<()> {
    let cannot = |path: &Path, e: &std::io::Error| io("copy", path, e);
    let new = tempfile::Builder::new().prefix(".tutee-").tempdir_in(beside).map_err(|e| cannot(beside, &e))?;
    for (name, path) in files {
        let to = new.path().join(name);
        let done = match path.is_dir() {
            true => std::fs::create_dir_all(&to),
            false => std::fs::create_dir_all(to.parent().unwrap_or(beside))
                .and_then(|()| std::fs::copy(path, &to))
                .and_then(|_| File::open(&to)?.sync_all()),
        };
        done.map_err(|e| cannot(path, &e))?;
    }
    match std::fs::rename(new.path(), place) {
        // Another process was quicker.
        Err(_) if place.exists() => Ok(()),
        done => done.map_err(|e| io("write", place, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_out_to_be_missing_or_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, jobs) = (dir.path().join("from"), dir.path().join("jobs"));
        std::fs::create_dir_all(from.join("empty")).unwrap();
        std::fs::create_dir_all(from.join("cat")).unwrap();
        std::fs::create_dir_all(jobs.join(INPUTS)).unwrap();
        std::fs::write(from.join("cat/1.png"), "a picture").unwrap();
        let kept = KeptInput::keep(&jobs, "the data", &from, &[]).unwrap();
        assert_eq!(kept, KeptInput::keep(&jobs, "the data", &from, &[]).unwrap());
        let copy = jobs.join(&kept.path);
        assert!(copy.join("empty").is_dir() && copy.join("cat/1.png").is_file());
        std::fs::write(copy.join("cat/1.png"), "another picture").unwrap();
        let told = kept.check(&jobs).unwrap_err().to_string();
        assert!(told.contains("the data of the job was changed"), "{told}");
        std::fs::remove_dir_all(copy.parent().unwrap()).unwrap();
        let told = kept.check(&jobs).unwrap_err().to_string();
        assert!(told.contains("the data of the job is not there"), "{told}");
    }

    #[test]
    fn files_that_belong_to_a_file_come_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (from, jobs) = (dir.path().join("from"), dir.path().join("jobs"));
        std::fs::create_dir_all(jobs.join(INPUTS)).unwrap();
        std::fs::create_dir_all(&from).unwrap();
        let [model, data, other] = ["from/m.onnx", "from/m.data", "other.data"].map(|name| dir.path().join(name));
        [&model, &data, &other].iter().for_each(|path| std::fs::write(path, path.display().to_string()).unwrap());
        let kept = KeptInput::keep(&jobs, "the teacher", &model, &[model.clone(), data]).unwrap();
        assert!(jobs.join(kept.path).with_file_name("m.data").exists());
        let told = KeptInput::keep(&jobs, "the teacher", &model, &[other]).unwrap_err().to_string();
        assert!(told.contains("in another folder"), "{told}");
    }
}
