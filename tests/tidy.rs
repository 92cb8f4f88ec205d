//! The rooms and their arrows, file sizes, and what code here does not do.

mod common;

use common::{files, name};
use std::path::Path;

/// `room, what it may use besides std, the error type, what makes text plain, how figures are written, and itself`.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("plain", &[]),
    ("figures", &[]),
    ("ir", &[]),
    ("files", &[]),
    ("onnx", &["ir", "files"]),
    ("math", &[]),
    ("analysis", &["ir"]),
    ("architectures", &["ir"]),
    ("passes", &["ir", "analysis", "math"]),
    ("data", &[]),
    ("exec", &["ir", "onnx", "data"]),
    ("exits", &["ir", "files", "onnx", "analysis", "math", "exec", "data"]),
    ("check", &["ir", "onnx", "analysis", "math", "exec", "data", "exits"]),
    ("calibrate", &["ir", "onnx", "analysis", "math", "exec", "data", "exits"]),
    ("autodiff", &["ir", "analysis"]),
    ("distill", &["ir", "analysis", "math", "autodiff"]),
    ("recipe", &["passes", "distill", "exits"]),
    ("report", &["ir", "analysis", "passes", "check"]),
    (
        "session",
        &[
            "ir",
            "files",
            "onnx",
            "analysis",
            "math",
            "passes",
            "data",
            "exec",
            "exits",
            "calibrate",
            "autodiff",
            "distill",
            "recipe",
            "report",
        ],
    ),
    ("compress", &["ir", "recipe", "session"]),
    ("search", &["ir", "files", "analysis", "exec", "passes", "check", "recipe", "report", "session"]),
    (
        "job",
        &[
            "ir",
            "files",
            "onnx",
            "analysis",
            "data",
            "exits",
            "check",
            "calibrate",
            "recipe",
            "report",
            "session",
            "compress",
        ],
    ),
    ("rounds", &["files", "check", "data", "job", "recipe", "search", "session"]),
    (
        "cli",
        &[
            "ir",
            "files",
            "onnx",
            "analysis",
            "architectures",
            "passes",
            "recipe",
            "report",
            "session",
            "search",
            "rounds",
            "compress",
            "job",
            "data",
            "check",
        ],
    ),
    ("build", &["session", "job", "cli"]),
];

/// `crate, the only files that may name it`.
const OWNED: &[(&str, &str)] = &[
    ("prost", "src/onnx/"),
    ("tract_onnx", "src/exec"),
    ("petgraph", "src/ir/visit.rs"),
    ("faer", "src/math/"),
    ("clap", "src/cli/"),
];

/// Longer files, and why.
const LONG: &[(&str, &str)] = &[];

fn room(path: &Path) -> String {
    let inside = name(path);
    let inside = inside.strip_prefix("src/").unwrap_or(&inside);
    inside.split('/').next().unwrap_or("").trim_end_matches(".rs").to_string()
}

/// The code of a file, its unit tests and comments left out: an item behind `#[cfg(test)]` ends where its braces close, or
/// at its semicolon if it has none.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let mut code = String::new();
    let mut lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            let indent = line.len() - line.trim_start().len();
            let ends = |l: &str| l.len() - l.trim_start().len() == indent && (l.ends_with('}') || l.ends_with(';'));
            lines.by_ref().find(|l| ends(l));
            continue;
        }
        code.push_str(line);
        code.push('\n');
    }
    code
}

#[test]
fn code_goes_on_behind_a_test_module() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.rs");
    let text = "#[cfg(test)]\nmod naive;\nuse a;\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nfn g() {}\n";
    std::fs::write(&path, text).unwrap();
    assert_eq!(code(&path), "use a;\nfn g() {}\n");
}

/// The files of `autodiff` from the ground up: each may use those before it, and itself.
const AUTODIFF: &[&str] = &[
    "window",
    "vectors",
    "real",
    "simd",
    "broadcast",
    "memory",
    "trainable",
    "kernel",
    "program",
    "kernels",
    "lower",
    "tape",
];

#[test]
fn autodiff_has_no_circles() {
    for path in files("src/autodiff", "rs") {
        let inside = name(&path);
        let here =
            inside.trim_start_matches("src/autodiff/").split('/').next().unwrap().trim_end_matches(".rs").to_string();
        let Some(level) = AUTODIFF.iter().position(|f| *f == here) else {
            assert!(["gradients", "testing"].contains(&here.as_str()), "{inside} has no place in AUTODIFF");
            continue;
        };
        let text = code(&path);
        let top = inside.matches('/').count() == 2;
        for (at, file) in AUTODIFF.iter().enumerate() {
            let named =
                text.contains(&format!("autodiff::{file}::")) || top && text.contains(&format!("super::{file}::"));
            assert!(!named || at <= level, "{inside} uses {file}, which is above it");
        }
    }
}

#[test]
fn rooms_use_only_what_they_may() {
    for path in files("src", "rs") {
        let here = room(&path);
        if here == "lib" || here == "main" {
            continue;
        }
        let (_, may) = ROOMS.iter().find(|r| r.0 == here).unwrap_or_else(|| panic!("{} is in no room", name(&path)));
        let text = code(&path);
        for (i, _) in text.match_indices("crate::") {
            let word: String = text[i + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let known = ROOMS.iter().any(|r| r.0 == word);
            let allowed = word == here
                || matches!(&*word, "error" | "plain" | "figures")
                || may.contains(&word.as_str())
                || !known;
            assert!(allowed, "{} uses {word}, which `{here}` may not", name(&path));
        }
    }
}

#[test]
fn passes_do_not_know_each_other() {
    let shared = [
        "mod",
        "options",
        "absorb",
        "budget",
        "by_layer",
        "choice",
        "split",
        "refit",
        "importance",
        "sharing",
        "convolution",
    ];
    let passes: Vec<String> =
        files("src/passes", "rs").iter().map(|p| p.file_stem().unwrap().to_string_lossy().into()).collect();
    for path in files("src/passes", "rs") {
        let me = path.file_stem().unwrap().to_string_lossy().to_string();
        let text = code(&path);
        for other in passes.iter().filter(|o| **o != me && me != "mod" && !shared.contains(&o.as_str())) {
            assert!(!text.contains(&format!("passes::{other}")), "{} uses the pass {other}", name(&path));
        }
        for forbidden in ["std::fs", "std::io", "std::net", "std::process"] {
            assert!(!text.contains(forbidden), "{} does I/O: {forbidden}", name(&path));
        }
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    for path in files("src", "rs") {
        for (library, home) in OWNED {
            let uses = code(&path).contains(&format!("{library}::"));
            assert!(!uses || name(&path).starts_with(home), "{} names {library}", name(&path));
        }
    }
}

#[test]
fn files_are_short() {
    for path in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        let excused = LONG.iter().any(|l| l.0 == name(&path));
        assert!(
            lines <= 800 || excused,
            "{} has {lines} lines: make a room for each idea, or list it with a reason",
            name(&path)
        );
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("dbg", "!("),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("<<<<", "<<< "),
        concat!(">>>>", ">>> "),
    ];
    let top = std::fs::read_dir(common::root()).unwrap().map(|entry| entry.unwrap().path());
    let top = top.filter(|p| p.extension().is_some_and(|e| e == "md" || e == "toml"));
    let code = ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, "rs"));
    for path in code.chain(files("fixtures", "md")).chain(files("examples", "toml")).chain(top) {
        let text = std::fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} has {mark}", name(&path));
        }
    }
}
