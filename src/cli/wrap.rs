//! Lines that are no longer than a terminal is wide.

use crate::report::wrap as fill;

/// Breaks lines at spaces. What goes on is below what it continues: below the text of a line with a label, else a little to the
/// right. A command is left whole, so that it can be copied.
pub fn wrap(text: &str, columns: u16) -> String {
    text.split('\n').map(|line| wrap_line(line, columns)).collect::<Vec<_>>().join("\n")
}

fn wrap_line(line: &str, columns: u16) -> String {
    if line.chars().count() <= columns.into() {
        return line.to_string();
    }
    let (prefix, indent) = hang(line);
    let (prefix, indent) = if indent > usize::from(columns) / 2 { ("", 2) } else { (prefix, indent) };
    let rest = &line[prefix.len()..];
    let (prose, command) = match rest.find(": tutee ") {
        Some(at) => (&rest[..=at], Some(&rest[at + 2..])),
        None => (rest, None),
    };
    let indent = " ".repeat(indent);
    let mut out = prefix.to_string();
    fill(&mut out, prose, Some(columns), &indent);
    match command {
        Some(command) => out + &indent + command,
        None => out.trim_end_matches('\n').to_string(),
    }
}

/// What stays in front of the first word, and where the line goes on: where the text begins behind a label that is set apart
/// (`  help     do this`), else two places in.
fn hang(line: &str) -> (&str, usize) {
    let start = line.len() - line.trim_start().len();
    let label = line[start..].find("  ").filter(|_| start > 0).map(|at| &line[..start + at]);
    match label {
        Some(label) => {
            let text = line.len() - line[label.len()..].trim_start().len();
            (&line[..text], line[..text].chars().count())
        }
        None => (&line[..start], start + 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_on_below_what_they_continue() {
        let text = "error: one two three four five\n  because  six seven eight nine ten\n  short";
        let want =
            "error: one two three\n  four five\n  because  six seven\n           eight nine\n           ten\n  short";
        assert_eq!(wrap(text, 22), want);
    }

    #[test]
    fn a_word_that_is_too_long_and_a_command_stay_whole() {
        assert_eq!(
            wrap("warning: /a/very/long/path/indeed is bad", 20),
            "warning:\n  /a/very/long/path/indeed\n  is bad"
        );
        let told = wrap("warning: give data: tutee compress a.onnx -o b.onnx", 20);
        assert_eq!(told, "warning: give data:\n  tutee compress a.onnx -o b.onnx");
    }
}
