//! A report as files.
//!
//! Invariant: each file is replaced in one step, `report.html` last; whoever opens one sees the old or the
//! new, never a half. Figures of an earlier report that this one does not have are left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Report, markdown, page};
use mutualstore_fleet::stream;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// `report.html`.
    pub html: PathBuf,
    /// `report.md`.
    pub markdown: PathBuf,
    /// The figures `report.md` links to.
    pub figures: Vec<PathBuf>,
}

/// The report is not or not wholly written. The measurements it is made of are not touched.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The directory is not there and cannot be made. Nothing was written.
    #[error(
        "cannot make the directory {}: {source}; nothing was written; name another with --out",
        dir.display()
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file cannot be written. Files before it are new, it and those after it are as they were.
    #[error(
        "cannot write {}: {source}; an earlier one is unchanged; free space or rights there, or name another \
         directory with --out, and make the report again",
        path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Report {
    /// Writes `report.html`, `report.md` and its figures into `dir`, which is made when missing.
    pub fn write(&self, dir: &Path) -> Result<Written, WriteError> {
        fs::create_dir_all(dir).map_err(|source| WriteError::Directory {
            dir: dir.to_owned(),
            source,
        })?;
        let markdown = markdown::render(self);
        let figure = |(name, figure): &(String, String)| replace(dir, name, figure);
        let figures = markdown.figures.iter().map(figure).collect::<Result<_, _>>()?;
        Ok(Written {
            markdown: replace(dir, "report.md", &markdown.text)?,
            html: replace(dir, "report.html", &page::render(self))?,
            figures,
        })
    }
}

fn replace(dir: &Path, name: &str, content: &str) -> Result<PathBuf, WriteError> {
    let path = dir.join(name);
    match stream::replace(&path, content.as_bytes()) {
        Ok(()) => Ok(path),
        Err(source) => Err(WriteError::File { path, source }),
    }
}
