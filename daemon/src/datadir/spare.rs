//! A little space kept back: what frees a full disk, and the start of a daemon on one, write small files
//! first.
//!
//! The file `spare` of the data directory takes 64 KiB. Where a write fails for want of space it is removed
//! and the write tried once more; it is taken again as soon as there is room. The shard store has a reserve
//! of its own for tombstones.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mutualstore_contract::exit;
use rustix::fs::FallocateFlags;

use crate::error::Failure;

const FILE: &str = "spare";
const BYTES: u64 = 64 << 10;

/// Takes the space, unless it is taken or there is none.
pub(crate) fn keep(data_directory: &Path) {
    let path = data_directory.join(FILE);
    if fs::metadata(&path).is_ok_and(|held| held.len() >= BYTES) {
        return;
    }
    if let Err(error) = take(&path) {
        tracing::debug!(%error, "no space is kept back");
        // Half of it is no use.
        drop(fs::remove_file(&path));
    }
}

fn take(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES)?)
}

/// Does `write`; if there is no space for it, gives up what is kept back and does it again.
pub(crate) fn with<T>(
    data_directory: &Path,
    mut write: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    match write() {
        Err(failure) if failure.exit == exit::NO_SPACE => match fs::remove_file(data_directory.join(FILE)) {
            Ok(()) => write(),
            Err(_) => Err(failure),
        },
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_given_once_and_taken_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let full = || Failure::no_space("full");
        with(dir.path(), || Err::<(), _>(full())).unwrap_err();
        keep(dir.path());
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), BYTES);
        let spare = dir.path().join(FILE);
        let written = with(dir.path(), || if spare.exists() { Err(full()) } else { Ok(1) });
        assert_eq!(written.ok(), Some(1));
        keep(dir.path());
        assert!(spare.exists());
        // Other failures do not touch it.
        with(dir.path(), || Err::<(), _>(Failure::unexpected("other"))).unwrap_err();
        assert!(spare.exists());
    }
}
