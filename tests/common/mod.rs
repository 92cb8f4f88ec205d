//! What the test programs share.
#![allow(dead_code)]

pub mod mutate;
#[cfg(feature = "exec")]
pub mod pictures;
pub mod proto;
#[cfg(feature = "exec")]
pub mod running;
pub mod trial;

use std::path::{Path, PathBuf};
use tutee::compress::{Outcome, Silent, compress};
use tutee::ir::{Model, text};
use tutee::recipe::Recipe;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder with an ending, sorted.
pub fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false if path.extension().is_some_and(|e| e == ending) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The teachers among the fixtures.
pub fn teachers() -> Vec<PathBuf> {
    let top = root().join("fixtures");
    files("fixtures", "onnx").into_iter().filter(|p| p.parent() == Some(&top)).collect()
}

/// Small networks of many families, each written as its exporter does.
pub fn zoo() -> Vec<(String, Model)> {
    let read = |path: PathBuf| {
        let model = text::parse::model(&std::fs::read_to_string(&path).unwrap());
        (name(&path), model.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    };
    files("tests/zoo", "ir").into_iter().map(read).collect()
}

pub fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// A recipe of steps as a file test writes them: `[{ pass = "clean" }]`.
pub fn recipe(steps: &str) -> Recipe {
    Recipe::parse(&format!("version = 1\nstep = {steps}"), "test").unwrap_or_else(|e| panic!("{steps}: {e}"))
}

pub fn run(model: &Model, steps: &str) -> tutee::Result<Outcome> {
    let bytes = tutee::onnx::encoded_len(model)?;
    compress(model, bytes, &recipe(steps), None, &Silent)
}

/// The text form with its counts, as file tests have it.
pub fn printed(model: &Model) -> String {
    text::print::model(model)
}

/// A unified view of two texts that differ, for failure messages.
pub fn difference(want: &str, got: &str) -> String {
    let (want, got): (Vec<_>, Vec<_>) = (want.lines().collect(), got.lines().collect());
    let mut out = String::new();
    let same = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
    let tail = want[same..].iter().rev().zip(got[same..].iter().rev()).take_while(|(a, b)| a == b).count();
    want[same..want.len() - tail].iter().for_each(|l| out.push_str(&format!("- {l}\n")));
    got[same..got.len() - tail].iter().for_each(|l| out.push_str(&format!("+ {l}\n")));
    out
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}
