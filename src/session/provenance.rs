//! What a student's file says of how it was made.

use crate::ir::names::digest;
use crate::recipe::Step;

/// Bytes of the steps in words, at most.
const LONGEST: usize = 80;

/// The steps in a few words, and the recipe's digest: the same for steps that say the same.
pub fn words(steps: &[Step]) -> String {
    let written: Vec<String> = steps.iter().map(|step| format!("{} {}", step.name, step.options)).collect();
    let digest = digest(written.join("\n").as_bytes()) >> 16;
    let names = steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", ");
    let told = [steps.iter().map(told).collect::<Vec<_>>().join(", "), names];
    let told = told.into_iter().find(|told| told.len() <= LONGEST);
    format!("{}; recipe {digest:012x}", told.unwrap_or_else(|| format!("{} steps", steps.len())))
}

/// A step with those of its options that are numbers: names and paths are nobody else's business.
fn told(step: &Step) -> String {
    let number = |value: &toml::Value| match value {
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Float(x) => Some(x.to_string()),
        toml::Value::String(s) => {
            s.strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok()).map(|n| format!("{n}%"))
        }
        _ => None,
    };
    let options: Vec<_> = step.options.iter().filter_map(|(key, v)| Some(format!("{key}={}", number(v)?))).collect();
    if options.is_empty() { step.name.clone() } else { format!("{}:{}", step.name, options.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(steps: &[&str]) -> String {
        words(&steps.iter().map(|s| Step::parse(s).unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn steps_are_told_in_few_words() {
        let told = of(&["clean", "prune-channels:macs=50%,only=*secret*", "cluster-weights:groups=16,bits=4"]);
        let (steps, digest) = told.split_once("; recipe ").unwrap();
        assert_eq!(steps, "clean, prune-channels:macs=50%, cluster-weights:bits=4,groups=16");
        assert!(digest.len() == 12 && digest.chars().all(|c| c.is_ascii_hexdigit()), "{digest}");
        assert!(of(&["cluster-weights:bits=4"; 4]).starts_with("cluster-weights, cluster-weights, "));
        assert!(of(&["cluster-weights:bits=4"; 50]).starts_with("50 steps; "));
    }

    #[test]
    fn the_digest_is_of_what_steps_say() {
        let one = of(&["cluster-weights:bits=4,groups=16"]);
        assert_eq!(one, of(&["cluster-weights:groups=16,bits=4"]));
        assert_ne!(one, of(&["cluster-weights:groups=16,bits=4,only=a"]));
        assert_eq!(of(&["clean"]), "clean; recipe 4cd11fa3ab24");
    }
}
