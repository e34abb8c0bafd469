//! What was acknowledged to the clients: every file whose link was printed, and what became of it. The
//! network is held to it.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File as LogFile;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use rand::RngExt;
use rand::seq::IteratorRandom;
use serde_json::json;

/// What a file has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Fate {
    /// There, byte for byte.
    Stored,
    /// There or not: a deletion was begun and never answered.
    Deleting,
    /// Gone since then.
    Deleted(Instant),
}

/// A file that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct AckedFile {
    /// Seed of its bytes; also its number.
    pub(super) noise: u64,
    /// Size in bytes.
    pub(super) size: u64,
    pub(super) link: String,
    pub(super) fate: Fate,
    /// The daemon it was put through, whose account owns it.
    pub(super) owner: usize,
}

#[derive(Debug)]
pub(super) struct PutJournal(Mutex<PutLog>);

#[derive(Debug)]
struct PutLog {
    /// By number.
    files: BTreeMap<u64, AckedFile>,
    log: LogFile,
    broken: Option<io::Error>,
}

impl PutJournal {
    /// An empty journal that is written to `path` too, one JSON document per line.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(PutLog {
            files: BTreeMap::new(),
            log: LogFile::create(path)?,
            broken: None,
        })))
    }

    pub(super) fn acknowledged(&self, file: AckedFile) {
        let mut state = self.0.lock();
        state.note(&json!({ "put": file.noise, "size": file.size, "link": file.link, "peer": file.owner }));
        state.files.insert(file.noise, file);
    }

    /// From now on the file is to be this.
    pub(super) fn set(&self, file: &AckedFile, fate: Fate) {
        let mut state = self.0.lock();
        state.note(&json!({ (fate.to_string()): file.noise }));
        if let Some(found) = state.files.get_mut(&file.noise) {
            found.fate = fate;
        }
    }

    /// What the file is now.
    pub(super) fn fate(&self, file: &AckedFile) -> Option<Fate> {
        self.0.lock().files.get(&file.noise).map(|file| file.fate)
    }

    /// All files of which `wanted` is true.
    pub(super) fn all(&self, wanted: impl Fn(&AckedFile) -> bool) -> Vec<AckedFile> {
        let state = self.0.lock();
        let files = state.files.values().filter(|file| wanted(file));
        files.cloned().collect()
    }

    /// One of them.
    pub(super) fn any(
        &self,
        rng: &mut impl RngExt,
        wanted: impl Fn(&AckedFile) -> bool,
    ) -> Option<AckedFile> {
        let state = self.0.lock();
        let files = state.files.values().filter(|file| wanted(file));
        files.choose(rng).cloned()
    }

    pub(super) fn count(&self, wanted: impl Fn(&AckedFile) -> bool) -> usize {
        let state = self.0.lock();
        state.files.values().filter(|file| wanted(file)).count()
    }

    /// Fails when a line could not be written.
    pub(super) fn check(&self) -> io::Result<()> {
        self.0.lock().broken.take().map_or(Ok(()), Err)
    }
}

impl PutLog {
    fn note(&mut self, event: &serde_json::Value) {
        if let Err(error) = writeln!(self.log, "{event}") {
            self.broken.get_or_insert(error);
        }
    }
}
