//! Recipes as text: the TOML that they are read from.

#[cfg(feature = "exec")]
use super::{CascadeStage, Distill};
use super::{DataSection, Recipe, Step};
use crate::error::{Error, Result};
use crate::passes;
use serde::{Serialize, Serializer};
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

impl Recipe {
    /// The recipe as a file, from which [`Recipe::parse`] reads the same recipe. Paths are written as they are here.
    ///
    /// # Errors
    /// If a path is not UTF-8, which is all that TOML can hold.
    pub fn to_toml(&self) -> Result<String> {
        let mut out = String::from("version = 1\n");
        for (name, given, default) in [
            ("data", table(&self.data)?, table(&DataSection::default())?),
            ("target", table(&self.target)?, table(&super::TargetSection::default())?),
        ] {
            let said: Vec<_> = given.iter().filter(|(key, value)| default.get(key.as_str()) != Some(value)).collect();
            if !said.is_empty() {
                let _ = writeln!(out, "\n[{name}]");
                said.into_iter().for_each(|(key, value)| out += &entry(key, value));
            }
        }
        for step in &self.steps {
            let kind = if step.is_stage() { "stage" } else { "pass" };
            let _ = writeln!(out, "\n[[step]]");
            out += &entry(kind, &step.name.clone().into());
            step.options.iter().for_each(|(key, value)| out += &entry(key, value));
        }
        Ok(out)
    }

    /// The recipe as a file in `folder` has to say it: relative paths lead from there to where they lead from here.
    #[must_use]
    pub fn moved_to(&self, folder: &Path) -> Recipe {
        let mut moved = Recipe { path: None, ..self.clone() };
        let DataSection { calib, train, test, classes, .. } = &mut moved.data;
        [calib, train, test, classes].into_iter().flatten().for_each(|path| *path = seen_from(folder, path));
        for step in &mut moved.steps {
            let from = std::mem::take(&mut step.folder);
            let moved = |text: &str| seen_from(folder, &from.join(text)).to_string_lossy().into_owned();
            for key in step.path_keys() {
                let Some(value) = step.options.get_mut(*key) else { continue };
                let texts = match value {
                    toml::Value::Array(items) => items.as_mut_slice(),
                    one => std::slice::from_mut(one),
                };
                for text in texts {
                    if let toml::Value::String(path) = text {
                        *path = moved(path);
                    }
                }
            }
            step.folder = folder.to_path_buf();
        }
        moved
    }
}

impl Step {
    /// Whether a recipe file calls it a `stage`.
    fn is_stage(&self) -> bool {
        passes::find(&self.name).is_none() && ![super::CLEAN, super::NONE].contains(&self.name.as_str())
    }

    /// Options whose values are paths.
    fn path_keys(&self) -> &'static [&'static str] {
        match self.name.as_str() {
            #[cfg(feature = "exec")]
            Distill::NAME => &["teachers"],
            #[cfg(feature = "exec")]
            CascadeStage::NAME => &["small"],
            _ => &[],
        }
    }
}

fn table(section: &impl Serialize) -> Result<toml::Table> {
    toml::Table::try_from(section).map_err(|e| {
        Error::input("the recipe cannot be written as TOML").because(e.to_string()).help("use paths that are UTF-8")
    })
}

/// `key = value` on one line, but for texts that have several.
fn entry(key: &str, value: &toml::Value) -> String {
    let inline = toml::Value::Table([(key.to_string(), value.clone())].into_iter().collect()).to_string();
    let inside = inline.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(&inline);
    format!("{}\n", inside.trim())
}

/// A path from the current folder as one from `folder`. Absolute ones stay.
fn seen_from(folder: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() || folder == Path::new("") {
        return path.to_path_buf();
    }
    let real = |folder: &Path| {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        folder.canonicalize().or_else(|_| std::path::absolute(folder))
    };
    let (Ok(from), Some(Ok(to)), Some(name)) = (real(folder), path.parent().map(real), path.file_name()) else {
        return path.to_path_buf();
    };
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) = (from.components().collect(), to.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| Component::ParentDir);
    up.chain(to[shared..].iter().copied()).collect::<PathBuf>().join(name)
}

/// Singles as the shortest decimals that read back as they are.
pub(super) fn decimals<S: Serializer>(values: &[f32], to: S) -> std::result::Result<S::Ok, S::Error> {
    let decimal = |v: &f32| v.to_string().parse().ok().filter(|d: &f64| *d as f32 == *v).unwrap_or(f64::from(*v));
    to.collect_seq(values.iter().map(decimal))
}

#[cfg(test)]
mod tests {
    use super::super::TargetSection;
    use super::*;
    use crate::passes::options::Share;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % n
        }

        fn often<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
            (self.below(3) > 0).then(|| make(self))
        }

        fn word(&mut self) -> String {
            let pieces =
                ["a", "conv", ".", "*", "/", " ", "\"", "\\", "'", "ü", "#", "\n", "\u{7f}", "\t", "=", "[", "{"];
            (0..self.below(5)).map(|_| pieces[self.below(pieces.len())]).collect()
        }

        fn share(&mut self) -> Share {
            Share(self.below(10001) as f64 / 10000.0)
        }

        fn value(&mut self, depth: usize) -> toml::Value {
            match self.below(if depth > 0 { 8 } else { 6 }) {
                0 => (self.below(2) > 0).into(),
                1 => (self.below(1 << 30) as i64 - (1 << 29)).into(),
                2 => (self.below(1 << 20) as f64 / 1e5 - 3.0).into(),
                3 => f64::from_bits((self.below(1 << 20) as u64) << 40).into(),
                4 | 5 => self.word().into(),
                6 => toml::Value::Array((0..self.below(4)).map(|_| self.value(depth - 1)).collect()),
                _ => toml::Value::Table(self.options(depth - 1)),
            }
        }

        fn options(&mut self, depth: usize) -> toml::Table {
            let mut options: toml::Table = (0..self.below(4)).map(|_| (self.word(), self.value(depth))).collect();
            options.retain(|key, _| key != "pass" && key != "stage");
            options
        }

        fn step(&mut self) -> Step {
            let written = [
                "clean",
                "none",
                "factorize-linear:rank={\"fc.*\"=12,\"a\"=3},only=x,only=y",
                "prune-channels:width={\"a*\"=0.5},skip-first=1,params=25%",
                "cascade:small=../a.onnx",
                "distill:epochs=3,augment=flip,augment=crop:2",
            ];
            if self.below(2) == 0 {
                return Step::parse(written[self.below(written.len())]).unwrap();
            }
            let names = ["prune-weights", "distill", "early-exit", "clean", "no such pass", ""];
            Step { options: self.options(2), ..Step::new(names[self.below(names.len())], "", "").unwrap() }
        }

        fn recipe(&mut self) -> Recipe {
            let path = |r: &mut Random| PathBuf::from(r.word());
            let singles = |r: &mut Random| (0..r.below(4)).map(|_| r.below(1 << 20) as f32 / 977.0).collect();
            Recipe {
                data: DataSection {
                    calib: self.often(path),
                    calib_samples: self.often(|r| r.below(5000)),
                    train: self.often(path),
                    test: self.often(path),
                    scale: self.often(Self::word),
                    mean: singles(self),
                    std: singles(self),
                    resize: self.often(Self::word),
                    color: self.often(Self::word),
                    classes: self.often(path),
                    feedback: (0..self.below(3)).map(|_| (self.word(), self.word())).collect(),
                    stream_length: self.often(|r| r.below(5000)),
                },
                target: TargetSection {
                    max_drop: self.often(Self::share),
                    min_agreement: self.often(Self::share),
                    max_error: self.often(Self::share),
                    metric: (0..self.below(3)).map(|_| self.word()).collect(),
                    output: (0..self.below(3)).map(|_| (self.word(), self.word())).collect(),
                },
                steps: (0..self.below(4)).map(|_| self.step()).collect(),
                path: None,
            }
        }
    }

    #[test]
    fn a_recipe_reads_back_as_it_was_written() {
        let mut random = Random(1);
        for _ in 0..2000 {
            let recipe = random.recipe();
            let text = recipe.to_toml().unwrap();
            let read = Recipe::parse(&text, "r.toml").unwrap_or_else(|e| panic!("{text}\n{e}"));
            assert_eq!(read, recipe, "{text}");
            assert_eq!(read.to_toml().unwrap(), text);
        }
    }

    #[test]
    fn it_reads_as_people_write_it() {
        let text = "version = 1\n\n[data]\ncalib = \"c.npz\"\nmean = [0.1307]\n\n[target]\nmax-drop = 0.01\n\n[[step]]\n\
            pass = \"clean\"\n\n[[step]]\npass = \"factorize-linear\"\nrank = { fc = 40, \"layer1.*\" = 12 }\n\n[[step]]\n\
            stage = \"distill\"\nepochs = 3\n";
        assert_eq!(Recipe::parse(text, "r.toml").unwrap().to_toml().unwrap(), text);
    }

    #[test]
    fn paths_lead_to_where_they_led() {
        let text = "version = 1\n[data]\ncalib = \"data/c.npz\"\ntest = \"/t.npz\"\n[[step]]\nstage = \"cascade\"\nsmall = \"s.onnx\"\n";
        let mut recipe = Recipe::parse(text, "r.toml").unwrap();
        recipe.steps[0].folder = "src".into();
        let moved = recipe.moved_to(Path::new("src/recipe"));
        assert_eq!(moved.data.calib, Some("../../data/c.npz".into()));
        assert_eq!(moved.data.test, Some("/t.npz".into()));
        assert_eq!(moved.steps[0].options["small"].as_str(), Some("../s.onnx"));
        assert_eq!(recipe.moved_to(Path::new("")).steps[0].options["small"].as_str(), Some("src/s.onnx"));
    }
}
