//! All that is linked or builds with tutee may be used by whoever may use tutee. It asks cargo, and no network.

use std::process::Command;

/// Licences that ask for no more than a notice.
const FREE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BlueOak-1.0.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether a licence expression (SPDX; a slash is an `OR` of before) can be met by such licences.
fn is_free(expression: &str) -> bool {
    // No expression of cargo's has more than one pair of parentheses inside of `AND`s.
    let flat = expression.replace('/', " OR ");
    let all = |text: &str, by: &str| -> Vec<String> {
        let (mut parts, mut depth) = (vec![String::new()], 0);
        for word in text.split_whitespace() {
            if depth == 0 && word == by {
                parts.push(String::new());
                continue;
            }
            depth += word.matches('(').count() as i32 - word.matches(')').count() as i32;
            let part = parts.last_mut().unwrap();
            *part = format!("{part} {word}").trim().to_string();
        }
        parts
    };
    let (ors, ands) = (all(&flat, "OR"), all(&flat, "AND"));
    match (ors.len(), ands.len()) {
        (1, 1) => match flat.trim().strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
            Some(inner) => is_free(inner),
            None => FREE.contains(&flat.trim()),
        },
        // `AND` binds more closely.
        (1, _) => ands.iter().all(|part| is_free(part)),
        _ => ors.iter().any(|part| is_free(part)),
    }
}

#[test]
fn every_dependency_is_free_to_use() {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(rustc.stdout).unwrap();
    let host = host.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    // What is built here is there, without a network.
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let told: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    let packages = told["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    let others = packages.iter().filter(|p| !p["source"].is_null());
    let wrong = others.filter(|p| !p["license"].as_str().is_some_and(is_free));
    let wrong: Vec<String> = wrong.map(|p| format!("{}: {}", p["name"], p["license"])).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn expressions_are_read() {
    for free in
        ["MIT", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Unicode-3.0", "MIT/Apache-2.0", "BSD-3-Clause AND BSD-2-Clause"]
    {
        assert!(is_free(free), "{free}");
    }
    for bound in
        ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR LGPL-2.1-or-later) AND MIT", "GPL-3.0 AND MIT OR AGPL-3.0", ""]
    {
        assert!(!is_free(bound), "{bound}");
    }
}
