//! Which class folder has which label.

use std::path::{Path, PathBuf};

use super::Pictures;
use crate::error::{Error, Result, read_text};

/// A list of classes in the folder itself.
pub(super) const LIST: &str = "classes.txt";

/// The file that lists the classes of a folder: the one that was given, or the folder's own.
pub(super) fn list_of(folder: &Path, pictures: &Pictures) -> Option<PathBuf> {
    let own = || Some(folder.join(LIST)).filter(|p| p.symlink_metadata().is_ok_and(|m| !m.is_dir()));
    pictures.classes.clone().or_else(own)
}

/// The names of the classes in the order of their labels, for the class folders of these names. What is strange goes to
/// `warnings`.
pub(super) fn ordered(
    folder: &Path,
    mut names: Vec<String>,
    pictures: &Pictures,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>> {
    let Some(list) = list_of(folder, pictures) else {
        sort(&mut names);
        let numbers: Option<Vec<u64>> = names.iter().map(|name| number(name)).collect();
        let ends = numbers.as_deref().and_then(|n| n.first().zip(n.last()));
        if ends.is_some_and(|(first, last)| *first > 1 || last - first + 1 != names.len() as u64) {
            warnings.push(format!(
                "{}: the class folders are numbers, but not one after the other from 0 or 1: their labels are their places, not \
                 their names; give --classes or {LIST} to say otherwise",
                folder.display()
            ));
        }
        return Ok(names);
    };
    // To open a pipe that lies in the folder is to wait for whoever writes into it.
    if pictures.classes.is_none() && !list.is_file() {
        return Err(Error::input("the list of classes is no file")
            .at(list.display().to_string())
            .because("it is a pipe, a device, or a link to what is not there")
            .help("write the name of one class folder on every line of it, or take it away"));
    }
    let listed = read_list(&list)?;
    if let Some(other) = names.iter().find(|name| !listed.contains(name)) {
        return Err(Error::input(format!("the class folder \"{other}\" is not among the classes"))
            .at(folder.display().to_string())
            .because(format!("{} lists {} other names", list.display(), listed.len()))
            .help("list the names of all class folders, one a line"));
    }
    let missing: Vec<&String> = listed.iter().filter(|name| !names.contains(name)).collect();
    if let Some(first) = missing.first() {
        warnings.push(format!(
            "{}: {} of {} classes of {} have no folder, \"{first}\" first",
            folder.display(),
            missing.len(),
            listed.len(),
            list.display()
        ));
    }
    Ok(listed)
}

fn read_list(list: &Path) -> Result<Vec<String>> {
    let text = read_text("read the classes", list)?;
    let text = text.trim_start_matches('\u{feff}');
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_string()).collect();
    let refuse = |line: usize, why: &str| {
        Err(Error::input(format!("{why} in the list of classes"))
            .at(format!("{}:{}", list.display(), line + 1))
            .help("write the name of one class folder on every line, in the order of the labels"))
    };
    for (line, name) in names.iter().enumerate() {
        if name.is_empty() {
            return refuse(line, "there is an empty line");
        }
        if names[..line].contains(name) {
            return refuse(line, &format!("\"{name}\" is twice"));
        }
    }
    Ok(names)
}

fn number(name: &str) -> Option<u64> {
    name.parse().ok().filter(|_| name.bytes().all(|b| b.is_ascii_digit()))
}

/// By number, if all names are numbers, and else by name.
fn sort(names: &mut [String]) {
    match names.iter().all(|name| number(name).is_some()) {
        true => names.sort_by_key(|name| (number(name), name.clone())),
        false => names.sort(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(folder: &Path, names: &[&str], classes: Option<&Path>) -> Result<(Vec<String>, Vec<String>)> {
        let mut warnings = Vec::new();
        let names = names.iter().map(|n| n.to_string()).collect();
        let pictures = Pictures { classes: classes.map(Path::to_path_buf), ..Pictures::default() };
        ordered(folder, names, &pictures, &mut warnings).map(|order| (order, warnings))
    }

    #[test]
    fn numbers_sort_as_numbers_and_names_as_names() {
        let folder = tempfile::tempdir().unwrap();
        let of = |names: &[&str]| order(folder.path(), names, None).unwrap();
        assert_eq!(of(&["10", "9", "1", "0"]).0, ["0", "1", "9", "10"]);
        assert_eq!(of(&["10", "9", "a"]).0, ["10", "9", "a"]);
        assert!(of(&["1", "2", "0"]).1.is_empty() && of(&["1", "2"]).1.is_empty());
        assert!(of(&["0", "1", "3"]).1[0].contains("not one after the other"));
        assert!(of(&["7", "8"]).1[0].contains("not one after the other"));
    }

    #[test]
    fn a_list_says_the_order() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("other.txt");
        std::fs::write(folder.path().join(LIST), "dog\ncat\n").unwrap();
        std::fs::write(&list, "cat\r\nbird\r\ndog\r\n\r\n").unwrap();
        assert_eq!(order(folder.path(), &["cat", "dog"], None).unwrap().0, ["dog", "cat"]);
        std::fs::write(folder.path().join(LIST), "\u{feff}dog\ncat\n").unwrap();
        assert_eq!(order(folder.path(), &["cat", "dog"], None).unwrap().0, ["dog", "cat"]);
        let (names, warnings) = order(folder.path(), &["cat", "dog"], Some(&list)).unwrap();
        assert_eq!(names, ["cat", "bird", "dog"]);
        assert!(warnings[0].contains("\"bird\" first"), "{warnings:?}");
        let refused = |text: &str, names: &[&str]| {
            std::fs::write(&list, text).unwrap();
            order(folder.path(), names, Some(&list)).unwrap_err().to_string()
        };
        assert!(refused("cat\n", &["cat", "fish"]).contains("\"fish\" is not among"));
        assert!(refused("cat\n\ndog\n", &["cat"]).contains("other.txt:2"));
        assert!(refused("cat\ncat\n", &["cat"]).contains("\"cat\" is twice"));
    }

    #[cfg(unix)]
    #[test]
    fn a_list_that_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for at in ["/dev/null", "/nowhere"] {
            std::os::unix::fs::symlink(at, folder.path().join(LIST)).unwrap();
            let e = order(folder.path(), &["cat"], None).unwrap_err().to_string();
            assert!(e.contains("classes.txt") && e.contains("no file"), "{e}");
            std::fs::remove_file(folder.path().join(LIST)).unwrap();
        }
    }
}
