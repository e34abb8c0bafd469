//! `config.toml`: the keys that a data directory keeps, and other files in its form.

use std::path::Path;

use super::{ConfigError, SettingsLayer};
use crate::datadir::files::{read_optional, write_atomic};

/// Name of the file in the data directory.
pub(super) const FILE: &str = "config.toml";

/// First line of the file.
const HEADING: &str = "# Kept by the MutualStore daemon: what it was last started with. May be edited while \
                       it is stopped.\n";

/// Keeps what was given for the next start; the file is left alone when it says so already.
pub(crate) fn keep(given: &SettingsLayer, directory: &Path) -> Result<(), ConfigError> {
    let path = directory.join(FILE);
    if read(&path)?.as_ref() == Some(given) {
        return Ok(());
    }
    write(given, &path)
}

/// Whether something else is to be joined than what is kept.
pub(crate) fn joins_anew(given: &SettingsLayer, directory: &Path) -> Result<bool, ConfigError> {
    let kept = read(&directory.join(FILE))?.and_then(|kept| kept.join);
    Ok(given.join.is_some() && given.join != kept)
}

/// What a file gives; none if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<SettingsLayer>, ConfigError> {
    let Some(content) = read_optional(path)? else {
        return Ok(None);
    };
    let syntax = |problem: String| ConfigError::Syntax {
        path: path.to_owned(),
        problem,
    };
    let text = str::from_utf8(&content).map_err(|error| syntax(error.to_string()))?;
    let layer = toml::from_str(text).map_err(|error| syntax(in_one_line(&error, text)))?;
    Ok(Some(layer))
}

/// Replaces the file by one that gives these keys.
pub(super) fn write(layer: &SettingsLayer, path: &Path) -> Result<(), ConfigError> {
    let syntax = |error: toml::ser::Error| ConfigError::Syntax {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let text = format!("{HEADING}{}", toml::to_string(layer).map_err(syntax)?);
    Ok(write_atomic(path, text.as_bytes(), 0o600)?)
}

/// Where in `text` it is not as it must be, and why: what TOML itself says takes several lines, with a
/// drawing.
fn in_one_line(error: &toml::de::Error, text: &str) -> String {
    let why = error
        .message()
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("; ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else {
        return why;
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("line {line}, column {column}: {why}")
}
