//! What README and the book say to run, run.
#![cfg(feature = "exec")]

mod common;
mod example {
    include!("readme/example.rs");
    pub fn run() -> tutee::Result<()> {
        main()
    }
}

use common::{files, name, root};
use std::process::{Command, Output};

/// The contents of a text's blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(text)).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|b| b.split("```").next().unwrap().to_string()).collect()
}

/// Runs a command line in a folder that has the fixtures.
fn run(line: &str, folder: &std::path::Path) -> Option<Output> {
    let arguments = line.strip_prefix("cargo run --release -- ").or_else(|| line.strip_prefix("tutee "))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    // No argument has spaces in it, so that quotes are only for the shell.
    let arguments = arguments.split_whitespace().map(|word| word.trim_matches('\''));
    Some(command.args(arguments).current_dir(folder).output().unwrap())
}

/// A folder that has the fixtures, and how many commands of a text ran there.
fn run_all(text: &str) -> (tempfile::TempDir, usize) {
    let folder = tempfile::tempdir().unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(root().join("fixtures"), folder.path().join("fixtures")).unwrap();
    let mut ran = 0;
    let joined: Vec<String> = blocks(text, "sh").iter().map(|b| b.replace("\\\n", " ")).collect();
    for line in joined.iter().flat_map(|b| b.lines()) {
        let Some(output) = run(line, folder.path()) else {
            assert!(["cargo test --locked", "cargo install --path ."].contains(&line), "not run: {line}");
            continue;
        };
        assert!(output.status.success(), "{text}: {line}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty() || line.contains("--quiet"), "{text}: {line} printed nothing");
        ran += 1;
    }
    (folder, ran)
}

#[test]
fn commands_do_what_they_say() {
    assert_eq!(run_all("README.md").1, 1);
    let (folder, ran) = run_all("docs/src/builds.md");
    assert!(ran >= 2, "only {ran} commands found");
    let rule = std::fs::read_to_string(folder.path().join("student.d")).unwrap();
    assert_eq!(rule, "student.onnx: fixtures/resnet_small_bn.onnx\n");
}

#[test]
fn commands_of_the_book_do_what_they_say() {
    let pages = files("docs/src", "md").into_iter().filter(|p| !p.ends_with("builds.md"));
    let ran: usize = pages.map(|page| run_all(&name(&page)).1).sum();
    assert!(ran >= 25, "only {ran} commands found");
}

/// Every page is in the summary, and every link, of README too, leads to a page.
#[test]
fn links_lead_somewhere() {
    let summary = std::fs::read_to_string(root().join("docs/src/SUMMARY.md")).unwrap();
    for page in files("docs/src", "md").into_iter().chain([root().join("README.md")]) {
        let file = page.file_name().unwrap().to_str().unwrap();
        assert!(
            ["SUMMARY.md", "README.md"].contains(&file) || summary.contains(&format!("]({file})")),
            "{file} is not in the summary"
        );
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let there = page.with_file_name(link.split('#').next().unwrap());
            assert!(link.contains("://") || there.exists(), "{file} links to {link}");
        }
    }
}

/// The claims in words: the default recipe makes the file about four times smaller, and 4 bits are 4 bits.
#[test]
fn sizes_are_as_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = root().join("fixtures/resnet_small_bn.onnx");
    let size = |steps: &[&str]| {
        let student = folder.path().join("student.onnx");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        command.arg("compress").arg(&teacher).arg("-o").arg(&student).arg("-q").args(steps);
        assert!(command.status().unwrap().success());
        student.metadata().unwrap().len() as f64
    };
    let before = teacher.metadata().unwrap().len() as f64;
    assert!((3.5..4.0).contains(&(before / size(&[]))));
    assert!(before / size(&["-p", "clean", "-p", "cluster-weights:bits=4,groups=16"]) > 6.0);
}

#[test]
fn the_recipe_is_the_one_that_is_run() {
    let file = std::fs::read_to_string(root().join("fixtures/fashion.toml")).unwrap();
    assert_eq!(blocks("docs/src/passes.md", "toml"), [file]);
}

#[test]
fn the_rust_example_runs() {
    let text = std::fs::read_to_string(root().join("tests/readme/example.rs")).unwrap();
    assert!(blocks("docs/src/builds.md", "rust").contains(&text));
    example::run().unwrap();
}
