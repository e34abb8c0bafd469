//! Time and executable bit of local files, as names keep them.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// When a file was modified, Unix nanoseconds.
pub(crate) fn modified_ns_of(meta: &Metadata) -> Option<i64> {
    let modified = meta.modified().ok()?;
    // What is beyond the year 2262 becomes its spring.
    let ns = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    match modified.duration_since(UNIX_EPOCH) {
        Ok(since) => Some(ns(since)),
        Err(before) => Some(-ns(before.duration())),
    }
}

/// Whether anybody may execute it.
pub(crate) fn is_executable_of(meta: &Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// The same of a path, where it can be looked at.
pub(crate) fn modified_ns(path: &Path) -> Option<i64> {
    modified_ns_of(&fs::metadata(path).ok()?)
}

/// The same of a path.
pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| is_executable_of(&meta))
}

/// The moment that Unix nanoseconds are.
pub(crate) fn time_of(ns: i64) -> SystemTime {
    let span = Duration::from_nanos(ns.unsigned_abs());
    let time = if ns < 0 {
        UNIX_EPOCH.checked_sub(span)
    } else {
        UNIX_EPOCH.checked_add(span)
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// Adds who may execute a file to who may read it.
fn executable(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// Sets time and executable bit of a file.
pub(crate) fn set(file: &File, modified: SystemTime, is_executable: bool) -> io::Result<()> {
    if is_executable {
        let mode = file.metadata()?.permissions().mode();
        file.set_permissions(fs::Permissions::from_mode(executable(mode)))?;
    }
    file.set_modified(modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_read_may_execute() {
        assert_eq!(executable(0o644), 0o755);
        assert_eq!(executable(0o600), 0o700);
    }

    #[test]
    fn times_before_1970_come_back() {
        let file = tempfile::tempfile().unwrap();
        for ns in [-86_400_123_456_789, 0, 1_234_567_890_123_456_789] {
            set(&file, time_of(ns), false).unwrap();
            assert_eq!(modified_ns_of(&file.metadata().unwrap()), Some(ns));
        }
    }
}
