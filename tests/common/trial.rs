//! Whatever can be done with a model, to be done with damaged ones: by `tests/fuzz.rs` and by the fuzzers in `fuzz/`.

use super::Random;
use tutee::analysis::channels::Channels;
use tutee::error::Kind;
use tutee::ir::text;
use tutee::onnx;
use tutee::passes::REGISTRY;

/// Options worth trying, of any pass; a pass gets some of those it takes.
const OPTIONS: &[(&str, &[&str])] = &[
    (
        "prune-channels",
        &[
            "width-mult = 0.5",
            "width-mult = 0.01",
            "params = 0.3",
            "macs = 0.5",
            "importance = \"l2\"",
            "round-to = 3",
            "width = { \"*1\" = 0.2 }",
        ],
    ),
    (
        "prune-weights",
        &["sparsity = 0.9", "sparsity = 1.0", "sparsity = 0.1", "scope = \"tensor\"", "importance = \"l1\""],
    ),
    (
        "separate-convs",
        &["rank = 1", "rank = 3", "energy = 0.9", "order = \"pointwise-first\"", "order = \"depthwise-first\""],
    ),
    ("prune-inputs", &["inputs = 3", "ratio = 0.7"]),
    ("factorize-linear", &["rank = 1", "rank = 4", "ratio = 0.9", "energy = 0.5", "min-side = 1"]),
    ("factorize-convs", &["rank = 1", "ratio = 0.9", "energy = 0.5", "scheme = \"channel\""]),
    (
        "cluster-weights",
        &["levels = 2", "levels = 3", "bits = 2", "bits = 4", "groups = 2", "groups = 7", "encode = false"],
    ),
];

impl Random {
    fn step(&mut self) -> String {
        let pass = match self.below(4) {
            0 => "clean",
            1 => REGISTRY[self.below(REGISTRY.len())].name,
            _ => OPTIONS[self.below(OPTIONS.len())].0,
        };
        let mut step = format!("{{ pass = \"{pass}\"");
        if pass != "clean" {
            step += [", skip-first = 0", ", skip-first = 0, min-weights = 0"][usize::from(self.below(8) > 0)];
        }
        if let Some((_, options)) = OPTIONS.iter().find(|o| o.0 == pass) {
            let mut given = Vec::new();
            for _ in 0..self.below(3) {
                let option = options[self.below(options.len())];
                let key = option.split(' ').next();
                if !given.contains(&key) {
                    given.push(key);
                    step += &format!(", {option}");
                }
            }
        }
        step + " }"
    }

    /// One to three steps. Options that exclude each other are an error of the recipe, which is fine too.
    pub fn recipe(&mut self) -> String {
        let steps: Vec<String> = (0..=self.below(3)).map(|_| self.step()).collect();
        format!("[{}]", steps.join(", "))
    }
}

/// Whatever can be done with a file. A model that is read must also be one that can be written and read again, before
/// the recipe and after it. Gives the passes that changed it, and `None` if it was not read.
pub fn use_all(bytes: &[u8], recipe: &str) -> Option<Vec<String>> {
    let loaded = match onnx::decode(bytes.to_vec().into(), None) {
        Ok(loaded) => loaded,
        Err(e) => {
            assert_eq!(e.kind(), Kind::Input, "{e}");
            return None;
        }
    };
    Some(use_model(&loaded.model, recipe))
}

fn use_model(model: &tutee::ir::Model, recipe: &str) -> Vec<String> {
    write_and_read(model);
    let reach = |c: Channels| c.reach(&model.graph, c.groups().iter().map(|g| g.units.as_slice())).len();
    let groups = Channels::of(&model.graph).map(reach);
    groups.map_or_else(|e| assert_eq!(e.kind(), Kind::Input, "{e}"), drop);
    let Ok(recipe) = tutee::recipe::Recipe::parse(&format!("version = 1\nstep = {recipe}"), "fuzz") else {
        return Vec::new();
    };
    let bytes = onnx::encoded_len(model).unwrap();
    match tutee::compress::compress(model, bytes, &recipe, None, &tutee::compress::Silent) {
        Ok(outcome) => {
            drop((outcome.report.text(), outcome.report.markdown()));
            write_and_read(&outcome.student);
            let rows = outcome.report.steps.into_iter().flat_map(|s| s.rows);
            rows.filter(|r| r.done).map(|r| r.pass).collect()
        }
        Err(e) => {
            assert_eq!(e.kind(), Kind::Input, "{e}");
            Vec::new()
        }
    }
}

/// Names that a damaged file has twice are told apart first, as they are before the first step of a recipe.
fn verify(model: &tutee::ir::Model) {
    let mut graph = model.graph.clone();
    graph.separate_names();
    graph.verify().unwrap();
}

fn write_and_read(model: &tutee::ir::Model) {
    verify(model);
    let printed = text::print::model(model);
    let written = onnx::to_bytes(model).unwrap();
    onnx::decode(written.into(), None).unwrap();
    if let Ok(parsed) = text::parse::model(&printed) {
        verify(&parsed);
    }
}

pub fn use_text(printed: &str, recipe: &str) -> Option<Vec<String>> {
    let model = text::parse::model(printed).ok()?;
    verify(&model);
    // What is only carried is not all in the text form, and not looked into: a file written from it need not be readable.
    let whole = !printed.contains("carried");
    Some(if whole { use_model(&model, recipe) } else { Vec::new() })
}
