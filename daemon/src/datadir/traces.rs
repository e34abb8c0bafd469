//! What a start leaves in a data directory before it serves, taken away again where nobody lets it in: the
//! next start finds what this one found.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Everything that is made before a daemon serves. The lock goes last, so that no other daemon begins
/// meanwhile.
const MADE: [&str; 12] = [
    "account",
    "book.json",
    "config.toml",
    "daemon.json",
    "files",
    "identity",
    "journal",
    "network.json",
    "shards",
    "token",
    "vnodes.json",
    "lock",
];

/// What was not there before a start.
#[derive(Debug)]
pub(crate) struct Traces {
    files: Vec<PathBuf>,
    /// The data directory and those above it, innermost first.
    directories: Vec<PathBuf>,
}

impl Traces {
    /// Looks before anything is made.
    pub(crate) fn before(directory: &Path) -> Self {
        let is_missing = |path: &Path| fs::symlink_metadata(path).is_err();
        let made = MADE.iter().map(|name| directory.join(name));
        let above = directory.ancestors().filter(|path| !path.as_os_str().is_empty());
        Self {
            files: made.filter(|path| is_missing(path)).collect(),
            directories: above
                .take_while(|path| is_missing(path))
                .map(Path::to_owned)
                .collect(),
        }
    }

    /// Removes what has been made since. What somebody else put beside it stays.
    pub(crate) fn remove(self) {
        for path in self.files {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "{} stays behind", path.display());
            }
        }
        for path in self.directories {
            if fs::remove_dir(path).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_start_made_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let new = place.path().join("deep/er");
        let traces = Traces::before(&new);
        fs::create_dir_all(new.join("shards/segments")).unwrap();
        fs::write(new.join("lock"), "").unwrap();
        fs::write(new.join("identity"), "made").unwrap();
        traces.remove();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);

        fs::create_dir(new.parent().unwrap()).unwrap();
        fs::create_dir(&new).unwrap();
        fs::write(new.join("identity"), "imported").unwrap();
        let traces = Traces::before(&new);
        for name in ["identity", "account", "note"] {
            fs::write(new.join(name), "x").unwrap();
        }
        traces.remove();
        assert!(new.join("identity").exists() && new.join("note").exists());
        assert!(!new.join("account").exists());
    }
}
