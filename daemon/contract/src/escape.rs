//! Foreign text made harmless where it leaves the program: names, paths, words of peers and clients.
//!
//! A terminal takes control characters for commands, and directional marks let a name look like another one.
//! What is printed or logged therefore goes through one of these functions, which replace such characters by
//! escapes like `\u{1b}`. Bytes of files that are asked for are not text and pass as they are.

use std::borrow::Cow;
use std::fmt::Write;

/// Characters of a word that [`shortened`] leaves.
const WORD: usize = 300;
/// Characters of a message that it leaves.
const MESSAGE: usize = 1500;

/// Whether a character commands a terminal, breaks a line, or changes what others look like: the controls C0,
/// DEL and C1, line and paragraph separators, directional marks, overrides and isolates, and characters
/// without width.
pub fn is_deceptive(c: char) -> bool {
    let is_mark = matches!(c, '\u{61c}' | '\u{180e}' | '\u{feff}');
    let is_format = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    c.is_control() || is_mark || is_format
}

/// One line: line ends are escaped too.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_deceptive, |out, c| out.extend(c.escape_default()))
}

/// A message that may repeat what it was given, such as a name: of a word longer than [`WORD`] characters,
/// and of a message longer than [`MESSAGE`], the middle is left out.
pub fn shortened(text: &str) -> Cow<'_, str> {
    let is_short = |word: &str| word.len() <= WORD || word.chars().count() <= WORD;
    if text.len() <= MESSAGE && text.split(' ').all(is_short) {
        return Cow::Borrowed(text);
    }
    let words: Vec<Cow<'_, str>> = text.split(' ').map(|word| without_middle(word, WORD)).collect();
    Cow::Owned(without_middle(&words.join(" "), MESSAGE).into_owned())
}

/// The beginning and the end of a text of more characters than `most`, with `…` between them.
fn without_middle(text: &str, most: usize) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= most {
        return Cow::Borrowed(text);
    }
    let end = most / 3;
    let begin = most - end - 1;
    let begin = text.chars().take(begin);
    let end = text.chars().skip(count - end);
    Cow::Owned(begin.chain(['…']).chain(end).collect())
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
    // Most text is plain ASCII, which is told from its bytes.
    let ends_stay = !bad('\n');
    let is_plain = |byte| matches!(byte, b' '..=b'~') || (byte == b'\n' && ends_stay);
    if text.bytes().all(is_plain) || !text.contains(&bad) {
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

    #[test]
    fn message_that_repeats_a_long_name_loses_its_middle() {
        let named = |name: &str| format!("cannot read {name}: File name too long");
        let short = named(&"é".repeat(WORD - 1));
        assert!(matches!(shortened(&short), Cow::Borrowed(text) if text == short));
        for (word, most) in [("n", WORD + 40), ("é", WORD + 40), ("two words ", MESSAGE)] {
            let long = named(&word.repeat(100_000));
            let short = shortened(&long);
            assert!(
                short.starts_with("cannot read ") && short.ends_with(": File name too long"),
                "{short}"
            );
            assert!(short.contains('…') && short.chars().count() <= most, "{short}");
        }
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
