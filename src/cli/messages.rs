//! What is said on standard error: text for people or, with `--message-format json`, one JSON object a line for programs.
//!
//! Every object has a `type`: `step` (`step` from 1, `of`, `name`), `progress` (`done`, `all`, `site` and, once known,
//! `seconds_left`), `news` (`what`), `warning` (`what`) and `error` (`kind`, `what`, `place`, `because`, `help`, `exit_code`).

use super::terminal::Stream;
use crate::error::Error;
use crate::plain;
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::Write;
use std::sync::OnceLock;

/// The form of what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// Chooses the form, once, before anything is said.
pub fn choose(format: Format) {
    let _ = FORMAT.set(format);
}

/// What the arguments choose, for what is said before they are understood.
pub fn chosen(arguments: impl Iterator<Item = std::ffi::OsString>) -> Format {
    let words: Vec<String> = arguments.map(|a| a.to_string_lossy().into_owned()).collect();
    let joined = words.iter().any(|w| w == "--message-format=json");
    let apart = words.windows(2).any(|w| w[0] == "--message-format" && w[1] == "json");
    if joined || apart { Format::Json } else { Format::Text }
}

pub fn is_json() -> bool {
    format() == Format::Json
}

fn format() -> Format {
    FORMAT.get().copied().unwrap_or(Format::Text)
}

/// Writes news for people. Whether anybody can read it does not matter to the work.
pub fn say(text: &dyn Display) {
    match is_json() {
        true => object(&json!({ "type": "news", "what": text.to_string().trim() })),
        false => talk(&plain::lines(&text.to_string())),
    }
}

/// Writes a line of talk that quotes from files.
pub fn warn(what: &str) {
    match format() {
        Format::Json => object(&json!({ "type": "warning", "what": what })),
        Format::Text => talk(&format!("warning: {}", plain::line(what))),
    }
}

pub fn error(e: &Error) {
    match format() {
        Format::Json => object(&failed(e)),
        Format::Text => talk(&plain::lines(&e.to_string())),
    }
}

/// Before step `index` (from 0) of `of`.
pub fn step(index: usize, of: usize, name: &str) {
    match is_json() {
        true => object(&json!({ "type": "step", "step": index + 1, "of": of, "name": name })),
        false => line(&format!("step {}/{of} {}", index + 1, plain::line(name))),
    }
}

/// How much of a step's work is done.
pub fn progress(done: u64, all: u64, site: &str, seconds_left: Option<f64>) {
    let mut message = json!({ "type": "progress", "done": done, "all": all, "site": site });
    if let Some(left) = seconds_left {
        message["seconds_left"] = json!(left.round());
    }
    object(&message);
}

fn failed(e: &Error) -> Value {
    let mut message = serde_json::to_value(e).unwrap_or_default();
    message["type"] = json!("error");
    message["exit_code"] = json!(e.exit_code());
    message
}

fn object(message: &Value) {
    line(&plain::json_line(message).unwrap_or_default());
}

fn talk(text: &str) {
    line(&Stream::Err.toned(&Stream::Err.fitted(text)));
}

fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_parts() {
        let e = Error::input("no").at("node").at("file").because("so").help("do");
        let want = json!({
            "type": "error", "kind": "input", "what": "no", "place": ["node", "file"], "because": "so", "help": "do",
            "exit_code": 1
        });
        assert_eq!(failed(&e), want);
        let target = failed(&Error::target("missed"));
        assert!(target["kind"] == "target" && target["exit_code"] == 2 && target.get("because").is_none());
    }

    #[test]
    fn the_form_is_seen_in_arguments_that_make_no_sense() {
        let of = |words: &[&str]| chosen(words.iter().map(std::ffi::OsString::from));
        assert_eq!(of(&["compres", "--message-format", "json"]), Format::Json);
        assert_eq!(of(&["--message-format=json", "x"]), Format::Json);
        assert_eq!(of(&["json", "--message-format"]), Format::Text);
    }
}
