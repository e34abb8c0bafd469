//! What to join, read from where other users of the machine cannot see it.

use std::fs::File;
use std::io::{self, Read};

use zeroize::Zeroizing;

use super::ConfigError;

/// Bytes read from one file, or from standard input, at most: far more than a few invites take.
const MOST: u64 = 64 << 10;
/// Peers and invites in all.
const MOST_JOINS: usize = 64;

/// Replaces each `@FILE` by the lines of that file, and `-` by those of standard input. Empty lines do not
/// count. Standard input is there once, and only if `standard_input`.
pub(super) fn read(given: Vec<String>, standard_input: bool) -> Result<Vec<String>, ConfigError> {
    let mut joins = Vec::new();
    let mut left = standard_input;
    for entry in given {
        if let Some(path) = entry.strip_prefix('@') {
            let lines = File::open(path).and_then(lines);
            let unreadable = |error| ConfigError::JoinSource(format!("cannot read {path}: {error}"));
            joins.extend(some(lines.map_err(unreadable)?, path)?);
        } else if entry == "-" {
            if !left {
                let text = "standard input (-) can be read once, from the command line, and not together \
                            with --exit-on-stdin-close; give @FILE";
                return Err(ConfigError::JoinSource(text.to_owned()));
            }
            left = false;
            let lines = lines(io::stdin().lock());
            let unreadable = |error| ConfigError::JoinSource(format!("cannot read standard input: {error}"));
            joins.extend(some(lines.map_err(unreadable)?, "standard input")?);
        } else {
            joins.push(entry);
        }
    }
    if joins.len() > MOST_JOINS {
        let text = format!("{} peers and invites; {MOST_JOINS} at most", joins.len());
        return Err(ConfigError::JoinSource(text));
    }
    Ok(joins)
}

fn some(lines: Vec<String>, place: &str) -> Result<Vec<String>, ConfigError> {
    if lines.is_empty() {
        return Err(ConfigError::JoinSource(format!("{place} holds nothing to join")));
    }
    Ok(lines)
}

/// The lines of a short text, trimmed, without empty ones.
fn lines(source: impl Read) -> io::Result<Vec<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    source.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other(format!("it is longer than {MOST} bytes")));
    }
    let text = str::from_utf8(&bytes).map_err(|_| io::Error::other("it is not text"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_of_files_are_joined_and_bad_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("joins");
        let at = format!("@{}", path.display());
        let message = |given: &str| read(vec![given.to_owned()], false).unwrap_err().to_string();
        assert!(message(&at).contains("No such file"));
        fs::write(&path, "  a \r\n\n\tb\n").unwrap();
        assert_eq!(
            read(vec!["c".to_owned(), at.clone()], false).unwrap(),
            ["c", "a", "b"]
        );
        fs::write(&path, "\n \n").unwrap();
        assert!(message(&at).ends_with("holds nothing to join"));
        fs::write(&path, [0xff]).unwrap();
        assert!(message(&at).ends_with("it is not text"));
        fs::write(&path, "a\n".repeat(65)).unwrap();
        assert!(message(&at).ends_with("64 at most"));
        assert!(message("@/dev/zero").ends_with("it is longer than 65536 bytes"));
        assert!(message("@/").starts_with("join: cannot read /"));
        assert!(message("-").contains("@FILE"));
    }
}
