//! The links that commands are given. A link is a secret, and everybody on a machine sees the arguments of
//! its processes: `-` reads it from standard input.

use std::io::{self, BufRead, BufReader, IsTerminal, Read};

use clap::builder::NonEmptyStringValueParser;

use crate::output::CliError;

/// Bytes read from standard input at most: far more than a link has.
const MOST: u64 = 4 << 10;

/// The argument of a command that takes a link.
#[derive(clap::Args, Debug)]
pub(crate) struct LinkArg {
    /// The link that put printed, or /BUCKET/KEY; - reads it from standard input, where other users of this
    /// machine cannot see it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    link: String,
}

impl LinkArg {
    /// The link.
    pub(crate) fn read(&self) -> Result<String, CliError> {
        read(&self.link)
    }
}

/// The word given, or the one on standard input for `-`.
pub(crate) fn read(given: &str) -> Result<String, CliError> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let terminal = io::stdin().is_terminal();
    from(io::stdin().lock(), terminal).map_err(CliError::Usage)
}

/// One word from `source`; of a terminal one line, of anything else all there is.
fn from(source: impl Read, terminal: bool) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("cannot read the link from standard input: {error}");
    let mut text = String::new();
    let mut source = BufReader::new(source.take(MOST + 1));
    if terminal {
        source.read_line(&mut text).map_err(unreadable)?;
    } else {
        source.read_to_string(&mut text).map_err(unreadable)?;
    }
    if text.len() as u64 > MOST {
        return Err(format!(
            "standard input is longer than {MOST} bytes; it is to hold one link"
        ));
    }
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(link), None) => Ok(link.to_owned()),
        (None, _) => Err("standard input holds no link".to_owned()),
        (Some(_), Some(_)) => {
            Err("standard input holds more than one word; it is to hold one link".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_link_and_nothing_else() {
        assert_eq!(from(&b" mutual1x\r\n\n"[..], false).unwrap(), "mutual1x");
        assert_eq!(from(&b"mutual1x\nmutual1y\n"[..], true).unwrap(), "mutual1x");
        for wrong in [&b""[..], b" \n", b"a b", b"a\nb", b"\xff", &[b'a'; 5000]] {
            assert!(from(wrong, false).is_err(), "{wrong:?}");
        }
    }
}
