//! Shape inference against an independent one, value by value: tract's.
#![cfg(feature = "exec")]

mod common;

use common::{files, name};
use std::path::Path;
use tutee::exec::Network;
use tutee::ir::{Dim, Type};
use tutee::onnx;

/// Fixtures that tract does not read.
const UNREAD: &[&str] = &[];

/// Values of which tract says something else or more, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// What tract knows and we do not know alike, one line a value; and the number of values compared.
fn differences(path: &Path, network: &Network) -> (Vec<String>, usize) {
    let graph = onnx::load(path).unwrap_or_else(|e| panic!("{e}")).model.graph;
    let (theirs, _) = network.analyse(None).unwrap_or_else(|e| panic!("{e}"));
    let mut found = Vec::new();
    let mut compared = 0;
    for (value, (dtype, dims)) in &theirs {
        let Some(id) = graph.find_value(value) else { continue };
        compared += 1;
        let ours = graph.value(id).ty.as_ref();
        let alike = match ours {
            Some(Type::Tensor(d, shape)) => {
                let number = |(d, n): (&Dim, &String)| n == "?" || n.parse().ok() == d.known();
                let same = |s: &tutee::ir::Shape, t: &Vec<String>| s.rank() == t.len() && s.0.iter().zip(t).all(number);
                d.to_string() == *dtype && dims.as_ref().is_none_or(|t| shape.as_ref().is_some_and(|s| same(s, t)))
            }
            _ => false,
        };
        if !alike {
            let ours = ours.map_or("?".into(), Type::to_string);
            let theirs = dims.as_ref().map_or("*".into(), |d| d.join(","));
            found.push(format!("{} %{value}: {ours}, and {dtype}[{theirs}] in tract", name(path)));
        }
    }
    (found, compared)
}

#[test]
fn everything_that_tract_knows_we_know() {
    let (mut found, mut compared) = (Vec::new(), 0);
    for path in files("fixtures", "onnx") {
        let network = Network::load(&path);
        if UNREAD.iter().any(|u| path.ends_with(u)) {
            assert!(network.is_err(), "tract reads {}", name(&path));
            continue;
        }
        let network = match network {
            Ok(n) => n,
            Err(e) => {
                eprintln!("UNREAD {} {e}", name(&path));
                continue;
            }
        };
        let (lines, n) = differences(&path, &network);
        found.extend(lines);
        compared += n;
    }
    let listed = |line: &&String| EXCEPTIONS.iter().any(|(value, _)| line.starts_with(value));
    let (excused, wrong): (Vec<_>, Vec<_>) = found.iter().partition(listed);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(excused.len(), EXCEPTIONS.len(), "an exception that is none any more: {excused:#?}");
    assert!(compared > 100, "{compared} values compared");
}
