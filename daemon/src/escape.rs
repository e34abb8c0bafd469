//! Foreign text made harmless where it leaves the program: names, paths, words of peers and clients.
//!
//! A terminal takes control characters for commands, and directional marks let a name look like another one.
//! What is printed or logged therefore goes through one of these functions, which replace such characters by
//! escapes like `\u{1b}`. Bytes of files that are asked for are not text and pass as they are.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character commands a terminal, breaks a line, or changes what others look like: the controls C0,
/// DEL and C1, line and paragraph separators, directional marks, overrides and isolates, and characters
/// without width.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// One line: line ends are escaped too.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_deceptive, |out, c| out.extend(c.escape_default()))
}

/// Lines: their ends stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| c != '\n' && is_deceptive(c),
        |out, c| out.extend(c.escape_default()),
    )
}

/// A JSON document: what may stand in its strings unescaped and is no harmless character gets the form of
/// JSON. White space between its parts stays.
pub fn json(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| !matches!(c, '\n' | '\r' | '\t') && is_deceptive(c),
        |out, c| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a string does not fail.
                write!(out, "\\u{unit:04x}").unwrap_or_default();
            }
        },
    )
}

fn escaped(text: &str, bad: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) {
            escape(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_to_terminals_become_visible() {
        assert_eq!(line("/x/\u{1b}]0;T\u{7}"), "/x/\\u{1b}]0;T\\u{7}");
        assert_eq!(
            line("a\nb\tc\u{7f}\u{9b}\u{202e}"),
            "a\\nb\\tc\\u{7f}\\u{9b}\\u{202e}"
        );
        assert_eq!(lines("a\nb\r\n"), "a\nb\\r\n");
        assert!(matches!(line("plain, é, 漢字, 🦀"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn json_keeps_its_meaning_and_nothing_deceptive(text: String) {
            let plain = serde_json::to_string_pretty(&[&text]).unwrap();
            let safe = json(&plain);
            prop_assert!(safe.chars().all(|c| c == '\n' || !is_deceptive(c)));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), vec![text]);
        }

        #[test]
        fn no_deceptive_character_passes(text: String) {
            prop_assert!(!line(&text).contains(is_deceptive));
            prop_assert!(lines(&text).chars().all(|c| c == '\n' || !is_deceptive(c)));
        }
    }
}
