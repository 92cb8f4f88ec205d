//! Words that people try, and where each leads: a page of `tutee explain`, and a line for an option that there is not.

/// A subject that has a page of its own.
pub struct Topic {
    /// The name of the page.
    pub name: &'static str,
    pub page: &'static str,
    /// Other words for it, as options or as subjects.
    words: &'static [&'static str],
    /// What to write instead of an option of that name.
    pub advice: &'static str,
}

pub const TOPICS: &[Topic] = &[
    Topic {
        name: "quantize",
        page: include_str!("pages/quantize.txt"),
        words: &[
            "quantise",
            "quantization",
            "quantisation",
            "quant",
            "bits",
            "bit",
            "levels",
            "int8",
            "int4",
            "fp16",
            "precision",
            "codebook",
            "palettize",
            "cluster",
        ],
        advice: "weights in 4 bits are -p clean -p cluster-weights:bits=4; `tutee explain quantize`",
    },
    Topic {
        name: "prune",
        page: include_str!("pages/prune.txt"),
        words: &["pruning", "sparsity", "sparse", "channels", "width", "width-mult"],
        advice: "half of all channels are -p clean -p prune-channels:width-mult=0.5; `tutee explain prune`",
    },
    Topic {
        name: "low-rank",
        page: include_str!("pages/shrink.txt"),
        words: &["rank", "svd", "factorize", "factorise", "decompose", "separate", "shrink"],
        advice: "thin layers are -p clean -p factorize-linear:params=50%; `tutee explain low-rank`",
    },
    Topic {
        name: "data",
        page: include_str!("pages/data.txt"),
        words: &[
            "dataset",
            "calibration",
            "calib-data",
            "calibrate",
            "samples",
            "inputs",
            "images",
            "labels",
            "normalize",
        ],
        advice: "data to fit to is --calib DATA, to train on --train DATA, to check on --test DATA; `tutee explain data`",
    },
    Topic {
        name: "targets",
        page: include_str!("pages/targets.txt"),
        words: &[
            "target",
            "size",
            "ratio",
            "macs",
            "params",
            "parameters",
            "speed",
            "accuracy",
            "drop",
            "goal",
            "tolerance",
        ],
        advice: "a step takes size=12%, params=25% or macs=50%, the student --max-drop 1%; `tutee explain targets`",
    },
    Topic {
        name: "recipe",
        page: include_str!("pages/recipe.txt"),
        words: &["recipes", "config", "steps", "step", "passes", "method", "technique"],
        advice: "steps are -p PASS:key=value, once or more, or -r recipe.toml; `tutee explain recipe`",
    },
    Topic {
        name: "jobs",
        page: include_str!("pages/jobs.txt"),
        words: &["job", "round", "rounds", "machines", "workers", "distributed", "parallel", "slurm", "dask"],
        advice: "a search is shared between machines by `tutee search plan`, `run` and `merge`; `tutee explain jobs`",
    },
];

/// The topic that a word is about, however it is written.
pub fn topic(word: &str) -> Option<&'static Topic> {
    let word = word.trim_start_matches('-').to_lowercase().replace('_', "-");
    let word = word.split('=').next().unwrap_or_default();
    let is = |topic: &&Topic| topic.name == word || topic.words.contains(&word);
    TOPICS.iter().find(is).or_else(|| word.strip_prefix("target-").and_then(|_| topic("targets")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_leads_to_one_page() {
        let words: Vec<&str> = TOPICS.iter().flat_map(|t| t.words.iter().chain([&t.name])).copied().collect();
        for (i, word) in words.iter().enumerate() {
            assert!(!words[..i].contains(word), "{word} is there twice");
            assert!(topic(word).is_some(), "{word}");
        }
        for (tried, name) in [("--bits", "quantize"), ("--target_size=10x", "targets"), ("--Sparsity", "prune")] {
            assert_eq!(topic(tried).map(|t| t.name), Some(name), "{tried}");
        }
        assert!(topic("--nonsense").is_none());
        let columns = |line: &str| line.chars().count();
        let pages = TOPICS.iter().flat_map(|t| t.page.lines());
        assert_eq!(pages.filter(|l| columns(l) > 80).collect::<Vec<_>>(), Vec::<&str>::new());
    }

    /// What the pages tell people to write can be read.
    #[test]
    fn pages_name_steps_that_there_are() {
        for topic in TOPICS {
            let text = topic.page.to_string() + topic.advice;
            for step in text.split("-p ").skip(1).filter_map(|rest| rest.split([' ', ';', '\n']).next()) {
                let step = step.trim_end_matches(',');
                if step != "PASS:key=value" && (cfg!(feature = "exec") || step != "distill") {
                    let recipe = crate::recipe::Recipe {
                        steps: vec![crate::recipe::Step::parse(step).unwrap()],
                        ..Default::default()
                    };
                    recipe.plan().unwrap_or_else(|e| panic!("{step} in {}: {e}", topic.name));
                }
            }
        }
    }
}
