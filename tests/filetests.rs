//! Structure goldens: recipe, input, expected output and expected report rows, or the expected error, in one file under
//! `tests/passes`.
//! `BLESS=1 cargo test --test filetests` rewrites the expectations. The example on every pass's manual page is a test too.

mod common;

use common::{difference, files, name, printed, run};
use tutee::ir::text;
use tutee::passes::REGISTRY;

const EXPECT: &str = "---- expect ----\n";
const REPORT: &str = "---- report ----\n";
const ERROR: &str = "---- error ----\n";

/// What a test file expects, made from what it says to do: text and rows, or the error of the run.
fn outcome(given: &str) -> Result<Result<(String, String), String>, String> {
    let first = given.lines().next().unwrap_or("");
    let steps = first.strip_prefix("# run = ").ok_or("the first line must be `# run = [{ pass = … }]`")?;
    let model = text::parse::model(given).map_err(|e| e.to_string())?;
    let done = match run(&model, steps) {
        Ok(done) => done,
        Err(e) => return Ok(Err(format!("{e}\n"))),
    };
    let rows = done.report.steps.iter().flat_map(|s| &s.rows).map(|r| {
        let verdict = if r.done { String::new() } else { "left alone: ".into() };
        format!("{}  {}  {verdict}{}\n", r.pass, r.site, without_floats(&r.note))
    });
    Ok(Ok((printed(&done.student), rows.collect())))
}

/// Numbers with a fraction differ in their last digits from one processor to the next: `~` stands for them.
fn without_floats(note: &str) -> String {
    note.split(' ')
        .map(|word| if is_float(number(word)) { word.replace(number(word), "~") } else { word.into() })
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word without the punctuation and the unit around it.
fn number(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_ascii_digit())
}

fn is_float(word: &str) -> bool {
    (word.contains('.') || word.contains("e-")) && word.parse::<f64>().is_ok()
}

#[test]
fn files_hold() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut failures = Vec::new();
    let all = files("tests/passes", "ir");
    assert!(!all.is_empty(), "no file tests found");
    for path in all {
        let file = std::fs::read_to_string(&path).unwrap();
        let given = file.split(EXPECT).next().and_then(|given| given.split(ERROR).next()).unwrap();
        let now = match outcome(given) {
            Ok(Ok((ir, rows))) => format!("{given}{EXPECT}{ir}{REPORT}{rows}"),
            Ok(Err(e)) => format!("{given}{ERROR}{e}"),
            Err(e) => {
                failures.push(format!("{}\n{e}", name(&path)));
                continue;
            }
        };
        if bless {
            std::fs::write(&path, now).unwrap();
        } else if now != file {
            failures.push(format!("{}\n{}", name(&path), difference(&file, &now)));
        }
    }
    let help = "if this is what you want: BLESS=1 cargo test --test filetests";
    assert!(failures.is_empty(), "{}\n\n{help}", failures.join("\n\n"));
}

#[test]
fn every_pass_has_file_tests() {
    for entry in REGISTRY {
        let folder = common::root().join("tests/passes").join(entry.name);
        assert!(folder.is_dir(), "no file tests for {}: write tests/passes/{}/CASE.ir", entry.name, entry.name);
    }
}

#[test]
fn manual_examples_hold() {
    for entry in REGISTRY {
        let manual = entry.manual();
        let block = manual.split("```").nth(1).and_then(|b| b.strip_prefix("text\n"));
        let block = block.unwrap_or_else(|| panic!("{} has no example in its doc comment", entry.name));
        let (given, expected) = block.split_once(EXPECT).unwrap_or_else(|| panic!("{}: no `{EXPECT}`", entry.name));
        let (ir, _) = outcome(given).and_then(|o| o).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        assert!(ir == expected, "example of {}:\n{}", entry.name, difference(expected, &ir));
    }
}
