//! Text from files on its way to a terminal, a Markdown report or JSON that a terminal may show: nothing in a name can move
//! the cursor, change what is on the screen, or end the line it stands in.

use crate::error::{Error, Result};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character does something else than be seen: controls, line ends, marks of direction, what has no width, tags.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text as one line: what does something is spelled as Rust spells it, such as `\n` and `\u{202e}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, acts, |c, out| out.extend(c.escape_default()))
}

/// As [`line`], for text that has lines and tabs of its own.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| acts(c) && !matches!(c, '\n' | '\t'), |c, out| out.extend(c.escape_default()))
}

/// A value as JSON over several lines, the last one ended, in which nothing acts either.
///
/// # Errors
/// If JSON has no form for it: a bug.
pub fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::internal(e.to_string()))?;
    Ok(escape(&text, |c| acts(c) && c != '\n', spell_json).into_owned() + "\n")
}

/// As [`json`], on one line without an end.
///
/// # Errors
/// As [`json`].
pub fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?;
    Ok(escape(&text, acts, spell_json).into_owned())
}

fn spell_json(c: char, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// The text as one line of a Markdown list, heading or table cell, which none of its characters ends or leaves open.
pub fn markdown(text: &str) -> String {
    let text = line(text);
    let open = text.matches('`').count() % 2 == 1;
    let special = |c| matches!(c, '|' | '<') || open && c == '`';
    let spell = |c, out: &mut String| out.push_str(&if c == '<' { "&lt;".into() } else { format!("\\{c}") });
    escape(&text, special, spell).into_owned()
}

/// The text as one line within an HTML element or a quoted attribute, which none of its characters ends.
pub fn html(text: &str) -> String {
    let text = line(text);
    let spell = |c, out: &mut String| {
        out.push_str(match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&quot;",
            _ => "&#39;",
        });
    };
    escape(&text, |c| matches!(c, '&' | '<' | '>' | '"' | '\''), spell).into_owned()
}

fn escape(text: &str, which: impl Fn(char) -> bool, spell: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&which) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if which(c) { spell(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clears a screen, turns text around, ends a line, hides, in 7 and in 8 bits.
    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{202e}b\r\nc\u{200b}\u{2028}\u{7f}\u{0}é";

    #[test]
    fn nothing_acts_any_more() {
        let want = "a\\u{1b}[2J\\u{9b}31m\\u{202e}b\\r\\nc\\u{200b}\\u{2028}\\u{7f}\\u{0}é";
        assert_eq!(line(HOSTILE), want);
        assert_eq!(lines("a\n\tb\r\n"), "a\n\tb\\r\n");
        assert!(matches!(line("plain é"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_reads_back() {
        let texts = [HOSTILE, "\u{e0001}"];
        let (shown, short) = (json(&texts).unwrap(), json_line(&texts).unwrap());
        assert_eq!((lines(&shown), line(&short)), (shown.as_str().into(), short.as_str().into()));
        assert_eq!(serde_json::from_str::<[String; 2]>(&shown).unwrap(), texts);
        assert_eq!(serde_json::from_str::<[String; 2]>(&short).unwrap(), texts);
    }

    #[test]
    fn html_stays_in_its_element() {
        assert_eq!(html("a<script>&'\"\n"), "a&lt;script&gt;&amp;&#39;&quot;\\n");
    }

    #[test]
    fn markdown_stays_in_its_cell() {
        assert_eq!(markdown("a|b`c<script>\n"), "a\\|b\\`c&lt;script>\\n");
        assert_eq!(markdown("`groups` lowered"), "`groups` lowered");
    }
}
