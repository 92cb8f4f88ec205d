//! The text form of a graph: what `show` and `--dump-ir` print and what file tests are written in.

pub mod parse;
pub mod print;

/// A name as the text form has it: bare if it is a plain word, else quoted.
pub fn name(s: &str) -> String {
    if !s.is_empty() && s.chars().all(plain) { s.to_string() } else { quote(s.as_bytes()) }
}

/// A name where a bare word of digits would be a number.
pub fn symbol(s: &str) -> String {
    if s.starts_with(|c: char| c.is_ascii_digit() || c == '-') { quote(s.as_bytes()) } else { name(s) }
}

/// The characters of a bare name.
fn plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | ':' | '-')
}

/// A quoted string; bytes that are not printable ASCII as `\xNN`.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for &b in bytes {
        match b {
            b'"' | b'\\' => out.extend(['\\', b as char]),
            0x20..=0x7e => out.push(b as char),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}
