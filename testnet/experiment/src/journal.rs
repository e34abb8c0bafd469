//! `OUT/NAME/cells.jsonl`: one line with the parameters, then one line per measured cell.
//!
//! Invariants: a line is flushed to disk before the next cell begins, so an interruption costs at most the
//! cell at work; a last line that was cut is removed and its cell measured again, any other that cannot be
//! read stops the run; lines are never rewritten. An exclusive lock on the file keeps a second run out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use itertools::Itertools;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Experiment, ExperimentError, Result};

const FILE: &str = "cells.jsonl";

/// The first line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    experiment: String,
    parameters: Value,
}

/// A cell that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Done<C, R> {
    /// What was measured.
    pub(super) cell: C,
    /// How long that took.
    pub(super) took_seconds: f64,
    /// What it gave.
    pub(super) readings: Vec<R>,
}

impl<C, R> Done<C, R> {
    /// How long it took.
    pub(super) fn took(&self) -> Duration {
        Duration::try_from_secs_f64(self.took_seconds).unwrap_or_default()
    }
}

/// The file, open for one process.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

/// The journal of an experiment and what it holds.
pub(super) type Opened<E> = (
    Journal,
    Vec<Done<<E as Experiment>::Cell, <E as Experiment>::Reading>>,
);

impl Journal {
    /// Opens the journal of experiment `E` in `out`, or begins it.
    pub(super) fn open<E: Experiment>(out: &Path, parameters: &Value) -> Result<Opened<E>> {
        let dir = out.join(E::NAME);
        fs::create_dir_all(&dir).map_err(ExperimentError::out(&dir))?;
        let path = dir.join(FILE);
        let failed = |source| ExperimentError::Out {
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let mut file = options.open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(ExperimentError::Busy { path }),
            outcome => outcome.map_err(|error| failed(error.into()))?,
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let lines = whole_lines(&text);
        let kept: usize = lines.iter().map(|line| line.len()).sum();
        if kept < text.len() {
            file.set_len(kept as u64).map_err(failed)?;
        }
        let mut journal = Self { path, file };
        let Some((head, cells)) = lines.split_first() else {
            journal.append(&Head {
                experiment: E::NAME.to_owned(),
                parameters: parameters.clone(),
            })?;
            [dir.as_path(), out].into_iter().try_for_each(|dir| {
                let flushed = File::open(dir).and_then(|dir| dir.sync_all());
                flushed.map_err(ExperimentError::out(dir))
            })?;
            return Ok((journal, Vec::new()));
        };
        let head: Head = journal.parse(1, head)?;
        if let Some(difference) = difference(&head.parameters, parameters) {
            return Err(ExperimentError::OtherParameters {
                path: journal.path,
                difference,
            });
        }
        let done = (2..).zip(cells).map(|(number, line)| journal.parse(number, line));
        let done = done.collect::<Result<_, _>>()?;
        Ok((journal, done))
    }

    fn parse<T: DeserializeOwned>(&self, line: usize, text: &[u8]) -> Result<T> {
        serde_json::from_slice(text).map_err(|_| ExperimentError::Damaged {
            path: self.path.clone(),
            line,
        })
    }

    /// Keeps a line, as of a cell; durable when this returns.
    pub(super) fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let write = || -> io::Result<()> {
            let mut bytes = serde_json::to_vec(line)?;
            bytes.push(b'\n');
            (&self.file).write_all(&bytes)?;
            self.file.sync_data()
        };
        write().map_err(ExperimentError::out(&self.path))
    }
}

/// The lines with their ends. A last one without its end, or cut in its middle by a power failure, is left
/// out.
fn whole_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let cut = |line: &[u8]| !line.ends_with(b"\n") || serde_json::from_slice::<Value>(line).is_err();
    if lines.last().is_some_and(|line| cut(line)) {
        lines.pop();
    }
    lines
}

/// Says in which parameters `there` is not `here`, if it is not.
fn difference(there: &Value, here: &Value) -> Option<String> {
    let (Value::Object(there), Value::Object(here)) = (there, here) else {
        return (there != here).then(|| "other parameters".to_owned());
    };
    let names = there.keys().chain(here.keys()).sorted().dedup();
    let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    let differing = names.filter(|name| there.get(*name) != here.get(*name));
    let mut differing = differing.map(|name| {
        let (there, here) = (shown(there.get(name)), shown(here.get(name)));
        format!("{name} {there}, not {here}")
    });
    Some(differing.join("; ")).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Square, Squares};

    fn open(out: &Path, parameters: &Value) -> Result<Opened<Squares>> {
        Journal::open::<Squares>(out, parameters)
    }

    fn done(number: u64) -> Done<u64, Square> {
        Done {
            cell: number,
            took_seconds: 0.5,
            readings: vec![Square {
                number,
                square: number * number,
            }],
        }
    }

    #[test]
    fn journal_opened_again_has_what_was_appended() {
        let out = tempfile::tempdir().unwrap();
        let parameters = json!({"cells": 3});
        let (mut journal, before) = open(out.path(), &parameters).unwrap();
        assert_eq!(before, []);
        journal.append(&done(1)).unwrap();
        journal.append(&done(2)).unwrap();
        assert!(matches!(
            open(out.path(), &parameters),
            Err(ExperimentError::Busy { .. })
        ));
        drop(journal);
        assert_eq!(open(out.path(), &parameters).unwrap().1, [done(1), done(2)]);
    }

    #[test]
    fn journal_with_a_cut_last_line_loses_that_line() {
        let out = tempfile::tempdir().unwrap();
        let parameters = json!({"cells": 3});
        let (mut journal, _) = open(out.path(), &parameters).unwrap();
        journal.append(&done(1)).unwrap();
        let whole = fs::metadata(&journal.path).unwrap().len();
        journal.append(&done(2)).unwrap();
        let path = journal.path.clone();
        drop(journal);
        let text = fs::read(&path).unwrap();
        for length in usize::try_from(whole).unwrap()..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            let (mut journal, before) = open(out.path(), &parameters).unwrap();
            assert_eq!(before, [done(1)], "cut at {length}");
            journal.append(&done(2)).unwrap();
            drop(journal);
            assert_eq!(fs::read(&path).unwrap(), text, "cut at {length}");
        }
        // A file system may leave zeros where the line was.
        let mut torn = text.clone();
        torn[usize::try_from(whole).unwrap()..].fill(0);
        fs::write(&path, torn).unwrap();
        assert_eq!(open(out.path(), &parameters).unwrap().1, [done(1)]);
        // A cut head is no head.
        fs::write(&path, &text[..10]).unwrap();
        assert_eq!(open(out.path(), &parameters).unwrap().1, []);
    }

    #[test]
    fn journal_damaged_in_the_middle_is_refused() {
        let out = tempfile::tempdir().unwrap();
        let parameters = json!({});
        let (mut journal, _) = open(out.path(), &parameters).unwrap();
        let path = journal.path.clone();
        journal.append(&done(1)).unwrap();
        drop(journal);
        let mut text = fs::read_to_string(&path).unwrap();
        text = text.replace("\"cell\":1", "\"cell\":x");
        text.push_str("{\"cell\":2,\"took_seconds\":1.0,\"readings\":[]}\n");
        fs::write(&path, &text).unwrap();
        let error = open(out.path(), &parameters).unwrap_err();
        assert!(
            matches!(error, ExperimentError::Damaged { line: 2, .. }),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn journal_of_other_parameters_is_refused_by_name() {
        let out = tempfile::tempdir().unwrap();
        drop(open(out.path(), &json!({"peers": 12, "seed": 1})).unwrap());
        let error = open(out.path(), &json!({"peers": 12, "seed": 2})).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("seed 1, not 2;"), "{error}");
        assert!(!error.to_string().contains("peers"), "{error}");
        assert!(open(out.path(), &json!({"peers": 12, "seed": 1})).is_ok());
    }

    #[test]
    fn journal_in_no_directory_is_an_error() {
        let out = tempfile::NamedTempFile::new().unwrap();
        let error = open(out.path(), &json!({})).unwrap_err();
        assert!(matches!(error, ExperimentError::Out { .. }), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
