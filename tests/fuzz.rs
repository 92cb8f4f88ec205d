//! No bytes make reading, checking, printing, cleaning or writing panic: damaged fixtures, the
//! same ones in every run.
//!
//! `FUZZ=20000 cargo test --test fuzz` tries so many of each.

mod common;

use common::proto::{Content, Field, encode, parse};
use common::{Random, files, name};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tutee::error::Kind;
use tutee::ir::text;
use tutee::onnx;

/// Damaged copies of each fixture.
fn rounds() -> u64 {
    std::env::var("FUZZ").map_or(50, |n| n.parse().unwrap())
}

/// Larger fixtures take too long to damage everywhere.
const LARGEST: usize = 6000;

fn fixtures() -> impl Iterator<Item = (String, Vec<u8>)> {
    let all = files("fixtures/onnx", "onnx").into_iter().chain(files("fixtures/conformance", "onnx"));
    all.map(|p| (name(&p), std::fs::read(&p).unwrap())).filter(|f| f.1.len() <= LARGEST)
}

/// Whatever can be done with a model. A model that is read must also be one that can be written and read again.
fn use_all(bytes: &[u8]) -> bool {
    let loaded = match onnx::decode(bytes.to_vec().into(), None) {
        Ok(loaded) => loaded,
        Err(e) => {
            assert_eq!(e.kind(), Kind::Input, "{e}");
            return false;
        }
    };
    let model = loaded.model;
    model.graph.verify().unwrap();
    let printed = text::print::model(&model);
    let written = onnx::to_bytes(&model).unwrap();
    onnx::decode(written.into(), None).unwrap();
    if let Ok(parsed) = text::parse::model(&printed) {
        parsed.graph.verify().unwrap();
    }
    if let Err(e) = common::run(&model, r#"[{ pass = "clean" }]"#) {
        assert_eq!(e.kind(), Kind::Input, "{e}");
    }
    true
}

/// Says whether the bytes were read as a model.
fn survives(what: &str, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| use_all(bytes))).unwrap_or_else(|_| {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        panic!("{what} panics: {hex}")
    })
}

impl Random {
    /// One to four edits that leave most of a file intact: that is what gets past the decoder.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff][self.below(6)],
                2 => bytes[at] = bytes[at].wrapping_add(1),
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, self.below(256) as u8),
                _ => {
                    // A copy of a piece over another one keeps lengths and looks like something.
                    let n = 1 + self.below(12.min(bytes.len() - at));
                    let from = self.below(bytes.len() - n + 1);
                    let piece = bytes[from..from + n].to_vec();
                    bytes[at..at + n].copy_from_slice(&piece);
                }
            }
        }
    }

    /// Edits that keep the file well-formed: numbers, pieces of tensors and names become others, fields go or come twice.
    fn rewrite(&mut self, model: &mut Vec<Field>) {
        let mut names = Vec::new();
        strings(model, &mut names);
        for _ in 0..=self.below(3) {
            // Into the fields, deeper and deeper.
            let mut fields = &mut *model;
            let at = loop {
                if fields.is_empty() {
                    return;
                }
                let at = self.below(fields.len());
                match &fields[at].content {
                    Content::Message(inner) if !inner.is_empty() && self.below(12) > 0 => {}
                    _ => break at,
                }
                let Content::Message(inner) = &mut fields[at].content else { return };
                fields = inner;
            };
            let number = fields[at].number;
            match (self.below(8), &mut fields[at].content) {
                (0, _) => drop(fields.remove(at)),
                (1, _) => fields.insert(at, fields[at].clone()),
                (_, Content::Varint(v)) => {
                    let numbers = [
                        0,
                        1,
                        2,
                        3,
                        7,
                        16,
                        v.wrapping_add(1),
                        v.wrapping_sub(1),
                        !0,
                        !1,
                        1 << 31,
                        1 << 32,
                        1 << 62,
                        i64::MIN as u64,
                    ];
                    *v = numbers[self.below(numbers.len())];
                }
                (_, Content::Fixed(b)) => {
                    let at = self.below(b.len());
                    b[at] = self.below(256) as u8;
                }
                (2, Content::Bytes(b)) => b.resize(self.below(2 * b.len() + 9), 0),
                (3, Content::Bytes(b)) if !b.is_empty() => {
                    let at = self.below(b.len());
                    b[at] = self.below(256) as u8;
                }
                (_, Content::Bytes(b)) => {
                    let like: Vec<_> = names.iter().filter(|n| n.0 == number).collect();
                    if let Some(other) = like.get(self.below(like.len().max(1))) {
                        *b = other.1.clone();
                    }
                }
                (_, Content::Message(_)) => {}
            }
        }
    }
}

/// The bytes below a message, by the number of their field.
fn strings(fields: &[Field], into: &mut Vec<(u64, Vec<u8>)>) {
    for f in fields {
        match &f.content {
            Content::Bytes(b) => into.push((f.number, b.clone())),
            Content::Message(inner) => strings(inner, into),
            _ => {}
        }
    }
}

#[test]
fn rewritten_files() {
    let (mut tried, mut read) = (0, 0);
    for (i, (name, bytes)) in fixtures().enumerate() {
        let model = parse(&bytes).unwrap();
        assert!(encode(&model) == bytes);
        for round in 0..rounds() {
            let mut rewritten = model.clone();
            Random((i as u64) << 32 | round).rewrite(&mut rewritten);
            tried += 1;
            read += usize::from(survives(&format!("{name} round {round}"), &encode(&rewritten)));
        }
    }
    println!("{read} of {tried} were read");
    assert!(read > tried / 4, "these rewrites do not get past the decoder: {read} of {tried}");
}

#[test]
fn every_beginning_of_a_file() {
    for (name, bytes) in fixtures().filter(|f| f.0.starts_with("fixtures/onnx") || f.1.len() < 300) {
        for end in 0..bytes.len() {
            survives(&format!("{name} up to {end}"), &bytes[..end]);
        }
    }
}

#[test]
fn damaged_files() {
    for (i, (name, bytes)) in fixtures().enumerate() {
        for round in 0..rounds() {
            let mut damaged = bytes.clone();
            Random((i as u64) << 32 | round).damage(&mut damaged);
            survives(&format!("{name} round {round}"), &damaged);
        }
    }
}

#[test]
fn damaged_text() {
    for (i, (name, bytes)) in fixtures().enumerate() {
        let Ok(loaded) = onnx::decode(bytes.into(), None) else { continue };
        let printed = text::print::model(&loaded.model);
        for round in 0..rounds() / 5 {
            let mut damaged = printed.clone().into_bytes();
            Random((i as u64) << 32 | round).damage(&mut damaged);
            let damaged = String::from_utf8_lossy(&damaged).into_owned();
            let parsed =
                catch_unwind(AssertUnwindSafe(|| text::parse::model(&damaged).map(|m| m.graph.verify().unwrap())));
            assert!(parsed.is_ok(), "{name} round {round} panics:\n{damaged}");
        }
    }
}
