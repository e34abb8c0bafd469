//! A file that is put, watched while it is read.
//!
//! What is stored must be a state the file was in. Size, times of change and the file behind the name are
//! compared when the last byte was read, before that byte is handed on: a put that is not sent whole is not
//! committed. A writer that sets the time of modification back leaves its trace in the time of the last
//! status change (ctime). Times of change have the grain of the kernel's clock, so a file changed a moment
//! ago is opened a moment later.
//!
//! Not seen: what a program changes through memory it has mapped, until the kernel writes it back. Not
//! watched: what is no file with a content of its own, such as pipes, devices and the files of /proc and
//! /sys.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::fstatfs;

/// Grain of the times of change: a tick of the slowest kernels, and one to spare.
const GRAIN: Duration = Duration::from_millis(20);
/// File systems whose files are made as they are read: proc, sysfs, debugfs, tracefs, cgroup, cgroup2,
/// securityfs.
const MADE_UP: [u64; 7] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x0027_e0eb,
    0x6367_7270,
    0x7363_6673,
];

/// The file was changed while it was read, so what was read may be no state it was ever in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} changed while it was read ({what}); nothing was stored; try again when it is at rest, or store what \
     was read with --allow-changing",
    path.display()
)]
pub struct Changed {
    /// The file.
    pub path: PathBuf,
    /// What is different.
    pub what: &'static str,
}

/// What a change of the file shows in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    status_changed: (i64, i64),
    /// Device and number.
    inode: (u64, u64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            status_changed: (meta.ctime(), meta.ctime_nsec()),
            inode: (meta.dev(), meta.ino()),
        }
    }

    /// What of `later` differs.
    fn difference(&self, later: &Self) -> Option<&'static str> {
        if self.inode != later.inode {
            Some("another file has its name now")
        } else if self.size != later.size {
            Some("its size")
        } else if self.modified != later.modified {
            Some("its content")
        } else if self.status_changed != later.status_changed {
            Some("its content or its attributes")
        } else {
            None
        }
    }

    /// How long ago its status changed; zero for the future.
    fn age(&self) -> Duration {
        let (seconds, nanos) = self.status_changed;
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let nanos = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
        let changed = UNIX_EPOCH + seconds + nanos;
        SystemTime::now().duration_since(changed).unwrap_or_default()
    }
}

/// The bytes of a file or of what stands in its place.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    /// None: it is not watched.
    before: Option<Stamp>,
    /// Bytes there were when it was opened, where that is known.
    length: Option<u64>,
    read: u64,
    allow_changing: bool,
    changed: Option<&'static str>,
}

impl Source {
    /// Opens `path`. With `allow_changing` a change is noted instead of refused, and what is read ends where
    /// the file ended when it was opened, or sooner.
    pub fn open(path: &Path, allow_changing: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut meta = file.metadata()?;
        let made_up = fstatfs(&file).is_ok_and(|system| MADE_UP.iter().any(|magic| is(&system, *magic)));
        let watched = meta.is_file() && !made_up;
        if watched && Stamp::of(&meta).age() < GRAIN {
            thread::sleep(GRAIN);
            meta = file.metadata()?;
        }
        Ok(Self {
            before: watched.then(|| Stamp::of(&meta)),
            length: watched.then_some(meta.len()),
            file,
            path: path.to_owned(),
            read: 0,
            allow_changing,
            changed: None,
        })
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.is_dir())
    }

    /// How many bytes it will yield, where that is certain: a file that may change can end sooner.
    pub fn length(&self) -> Option<u64> {
        self.length.filter(|_| !self.allow_changing)
    }

    /// What changed while it was read, as far as it was read.
    pub fn changed(&self) -> Option<&'static str> {
        self.changed
    }

    /// Compares the file as it is with what it was.
    fn look(&mut self) -> io::Result<()> {
        let Some(before) = self.before else {
            return Ok(());
        };
        let now = Stamp::of(&self.file.metadata()?);
        let named = fs::metadata(&self.path).map(|meta| Stamp::of(&meta));
        let what = match named {
            Ok(named) => before.difference(&now).or_else(|| before.difference(&named)),
            Err(_) => Some("its name is gone"),
        };
        match what {
            Some(what) if !self.allow_changing => Err(io::Error::other(Changed {
                path: self.path.clone(),
                what,
            })),
            what => {
                self.changed = self.changed.or(what);
                Ok(())
            }
        }
    }
}

/// The type of the number differs between architectures.
#[expect(clippy::allow_attributes, reason = "needed on some architectures")]
fn is(system: &rustix::fs::StatFs, magic: u64) -> bool {
    #[allow(clippy::unnecessary_fallible_conversions, clippy::useless_conversion)]
    u64::try_from(system.f_type).is_ok_and(|kind| kind == magic)
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self
            .length
            .map_or(u64::MAX, |length| length.saturating_sub(self.read));
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.read += count as u64;
        // The last bytes are not handed on before it is sure that they belong to the others.
        let is_last = self.length.is_some_and(|length| self.read >= length);
        if is_last || (count == 0 && !buffer.is_empty()) {
            self.look()?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    const LENGTH: usize = 100_000;

    fn file(directory: &tempfile::TempDir) -> PathBuf {
        let path = directory.path().join("file");
        fs::write(&path, vec![1; LENGTH]).unwrap();
        path
    }

    /// Reads half of a file, has it changed, and reads the rest.
    fn read_while(allow: bool, change: impl FnOnce(&Path)) -> io::Result<(Vec<u8>, Option<&'static str>)> {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let mut source = Source::open(&path, allow).unwrap();
        let mut bytes = vec![0; LENGTH / 2];
        source.read_exact(&mut bytes).unwrap();
        change(&path);
        source.read_to_end(&mut bytes)?;
        Ok((bytes, source.changed()))
    }

    fn rewrite(path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"other", 3).unwrap();
    }

    fn append(path: &Path) {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"more").unwrap();
    }

    fn shorten(path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(7).unwrap();
    }

    /// As a program does that wants to hide it.
    fn restore_time(path: &Path) {
        let before = fs::metadata(path).unwrap().modified().unwrap();
        rewrite(path);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(before).unwrap();
    }

    fn replace(path: &Path) {
        let other = path.with_extension("new");
        fs::write(&other, vec![1; LENGTH]).unwrap();
        fs::rename(other, path).unwrap();
    }

    fn remove(path: &Path) {
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_at_rest_is_read_whole() {
        let read = read_while(false, |_| ()).unwrap();
        assert_eq!(read, (vec![1; LENGTH], None));
    }

    #[test]
    fn every_change_is_refused_or_reported() {
        for change in [rewrite, append, shorten, restore_time, replace, remove] {
            let refused = read_while(false, change).unwrap_err();
            assert!(refused.get_ref().unwrap().is::<Changed>(), "{refused}");
            let (bytes, what) = read_while(true, change).unwrap();
            assert!(what.is_some() && bytes.len() <= LENGTH);
        }
    }

    #[test]
    fn an_empty_file_that_grows_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("empty");
        fs::write(&path, b"").unwrap();
        let mut source = Source::open(&path, false).unwrap();
        append(&path);
        assert!(source.read_to_end(&mut Vec::new()).is_err());
        let mut source = Source::open(&path, false).unwrap();
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"more");
    }

    #[test]
    fn what_has_no_content_of_its_own_is_not_watched() {
        for path in ["/proc/self/status", "/dev/null"] {
            let mut source = Source::open(Path::new(path), false).unwrap();
            assert_eq!(source.length(), None);
            let mut bytes = Vec::new();
            source.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.is_empty(), path == "/dev/null");
        }
    }
}
