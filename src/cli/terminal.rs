//! What the terminal is like: how wide, and whether it shows colours.

use super::wrap::wrap;
use std::borrow::Cow;
use std::io::{IsTerminal, stderr, stdout};

/// Columns where there is no terminal.
const COLUMNS: u16 = 80;
/// Less than that is taken for a mistake.
const NARROW: u16 = 20;

/// Where text goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// What a piece of text says of the work.
#[derive(Clone, Copy)]
enum Tone {
    Good,
    Warning,
    Bad,
}

/// How lines begin that have a colour.
const TONES: [(&str, Tone); 4] =
    [("error:", Tone::Bad), ("warning:", Tone::Warning), ("missed ", Tone::Bad), ("met ", Tone::Good)];

impl Stream {
    /// The text with the first words of errors, warnings and targets in their colours.
    pub fn toned(self, text: &str) -> String {
        let tone = |line: &str| {
            let found = TONES.iter().find_map(|&(word, tone)| Some((word, tone, line.strip_prefix(word)?)));
            found.map_or(line.to_string(), |(word, tone, rest)| format!("{}{rest}", self.paint(tone, word)))
        };
        text.split('\n').map(tone).collect::<Vec<_>>().join("\n")
    }

    /// The text in lines that the terminal has room for; as it is where there is no terminal.
    pub fn fitted<'t>(self, text: &'t str) -> Cow<'t, str> {
        match self.is_terminal() {
            true => Cow::Owned(wrap(text, self.columns())),
            false => Cow::Borrowed(text),
        }
    }

    fn is_terminal(self) -> bool {
        match self {
            Stream::Out => stdout().is_terminal(),
            Stream::Err => stderr().is_terminal(),
        }
    }

    /// Columns of the terminal behind the stream, or 80.
    pub fn columns(self) -> u16 {
        let columns = if self.is_terminal() { system::columns(self) } else { None };
        columns.filter(|&c| c >= NARROW).unwrap_or(COLUMNS)
    }

    /// The text in the colour of what it says, where the stream shows colours and nobody asked for none (`NO_COLOR`).
    fn paint(self, tone: Tone, text: &str) -> Cow<'_, str> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        match self.is_terminal() && set("NO_COLOR").is_none() && !dumb {
            true => Cow::Owned(painted(tone, text)),
            false => Cow::Borrowed(text),
        }
    }
}

fn painted(tone: Tone, text: &str) -> String {
    let color = match tone {
        Tone::Good => 32,
        Tone::Warning => 33,
        Tone::Bad => 31,
    };
    format!("\u{1b}[1;{color}m{text}\u{1b}[0m")
}

#[cfg(unix)]
mod system {
    use super::Stream;

    pub fn columns(stream: Stream) -> Option<u16> {
        let descriptor = match stream {
            Stream::Out => libc::STDOUT_FILENO,
            Stream::Err => libc::STDERR_FILENO,
        };
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one `winsize`, which is where the pointer leads; the descriptor may be any.
        let got = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
        (got == 0).then_some(size.ws_col)
    }
}

#[cfg(not(unix))]
mod system {
    pub fn columns(_stream: super::Stream) -> Option<u16> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_end_where_the_text_ends() {
        assert_eq!(painted(Tone::Bad, "error:"), "\u{1b}[1;31merror:\u{1b}[0m");
    }
}
