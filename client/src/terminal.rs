// SPDX-License-Identifier: MIT OR Apache-2.0

//! Text for people: a message that cannot be written does not end the program, and names that others chose reach a
//! terminal only escaped.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

/// Writes one line to standard error, with everything escaped that a terminal would obey. A standard error that is full
/// or closed does not end the work.
pub fn note(text: impl fmt::Display) {
    // One write for a line, so that lines of several processes do not mix.
    let line = printable(&text.to_string(), false) + "\n";
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Writes text to standard output as it is. A reader that has closed its end wants no more of it: that is not an error.
///
/// # Errors
/// What the operating system says, such as that the file system is full.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let result = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Text that somebody else chose, without anything that moves a terminal's cursor, ends a line or hides a character:
/// those are written as `\u{1b}`, and a backslash as two, so that different texts stay different.
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.contains(|c: char| c == '\\' || is_hostile(c)) {
        Cow::Owned(printable(text, true))
    } else {
        Cow::Borrowed(text)
    }
}

/// Text with everything escaped that a terminal would obey; if `distinct`, different texts stay different.
fn printable(text: &str, distinct: bool) -> String {
    let mut printable = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' if distinct => printable.push_str("\\\\"),
            c if is_hostile(c) => {
                // Writing to a string cannot fail.
                let _ = write!(printable, "\\u{{{:x}}}", u32::from(c));
            }
            c => printable.push(c),
        }
    }
    printable
}

/// As [`escape`], for text that need not be UTF-8: other bytes are written as `\xff`.
pub fn escape_bytes(text: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        escaped.push_str(&escape(chunk.valid()));
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

/// Whether a terminal does anything with a character other than show it.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Line ends that are not control characters.
            '\u{2028}' | '\u{2029}'
            // What changes the direction of the text around it.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Characters that nobody sees.
            | '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as people give them to processes, with escape sequences, line ends and text that runs backwards.
    const HOSTILE: [&str; 6] = [
        "\x1b[2J\x1b[31mROOT\x07",
        "a\nSTUCK 9 s: x",
        "\u{9b}2J",
        "\u{202e}txt.exe",
        "zero\u{200b}width",
        "\\u{1b}",
    ];

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for text in HOSTILE {
            let escaped = escape(text);
            assert!(!escaped.contains(is_hostile), "{escaped:?}");
            assert_eq!(escape_bytes(text.as_bytes()), escaped);
        }
        assert_eq!(escape("\x1b[2J"), "\\u{1b}[2J");
        assert_eq!(escape_bytes(b"a\xff\n"), "a\\xff\\u{a}");
        assert!(matches!(
            escape("rxe0 Gr\u{f6}\u{df}e"),
            Cow::Borrowed("rxe0 Gr\u{f6}\u{df}e")
        ));
    }

    #[test]
    fn different_names_stay_different() {
        assert_ne!(escape("\x1b"), escape("\\u{1b}"));
        assert_ne!(escape_bytes(b"\xff"), escape_bytes(b"\\xff"));
    }
}
