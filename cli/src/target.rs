//! Where `get` writes: a file that appears under its name only when it is complete, a device, or standard
//! output.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mutualstore_client::ClientError;
use mutualstore_daemon::datadir::files::directory_of;
use mutualstore_fleet::interrupt::OnInterrupt;
use tempfile::NamedTempFile;

use crate::output::CliError;

/// How the names of temporary files begin and end.
const BEGIN: &str = ".mutualstore-";
const END: &str = ".part";

/// An output that was opened; dropping it unfinished leaves nothing behind.
pub(crate) enum Target {
    /// Standard output.
    Stdout(io::Stdout),
    /// Something that exists and is no file (`/dev/null`, a pipe): written to as it is.
    Device(File),
    /// A temporary file beside the one it becomes.
    File {
        temp: NamedTempFile,
        path: PathBuf,
        replace: bool,
        _on_interrupt: OnInterrupt,
    },
}

impl Target {
    /// Opens the target for `path`. An existing file is refused unless `replace`.
    pub(crate) fn at(path: &Path, replace: bool) -> Result<Self, CliError> {
        let refused = |error: io::Error| CliError::Usage(format!("cannot write {}: {error}", path.display()));
        let mut path = path.to_owned();
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                return Err(CliError::Usage(format!("{} is a directory", path.display())));
            }
            Ok(meta) if !meta.is_file() => {
                return OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map(Self::Device)
                    .map_err(refused);
            }
            Ok(_) if !replace => {
                let message = format!("{} exists; --force overwrites it", path.display());
                return Err(CliError::Usage(message));
            }
            // A link keeps pointing where it points.
            Ok(_) => path = fs::canonicalize(&path).map_err(refused)?,
            // As `cp` does.
            Err(_) if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) => {
                let message = format!(
                    "{} is a link that leads nowhere; remove it, or name its target",
                    path.display()
                );
                return Err(CliError::Usage(message));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => named_as_file(&path)?,
            Err(error) => return Err(refused(error)),
        }
        let temp = tempfile::Builder::new()
            .prefix(&format!("{BEGIN}{}-", std::process::id()))
            .suffix(END)
            // Less what the umask takes, as for any new file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory_of(&path))
            // The error names the temporary file too.
            .map_err(|error| refused(error.kind().into()))?;
        let doomed = temp.path().to_owned();
        let on_interrupt =
            OnInterrupt::run(move || drop(fs::remove_file(doomed))).map_err(CliError::Signals)?;
        Ok(Self::File {
            temp,
            path,
            replace,
            _on_interrupt: on_interrupt,
        })
    }

    /// Sets time and executable bit of what was written, where it is a file.
    pub(crate) fn set(&mut self, modified: SystemTime, executable: bool) -> Result<(), CliError> {
        if let Self::File { temp, .. } = self {
            crate::local::set(temp.as_file(), modified, executable).map_err(ClientError::Output)?;
        }
        Ok(())
    }

    /// Gives the complete file its name; answers where it is, if it is a file.
    pub(crate) fn finish(self) -> Result<Option<PathBuf>, CliError> {
        let Self::File {
            temp, path, replace, ..
        } = self
        else {
            return Ok(None);
        };
        let named = if replace {
            temp.persist(&path)
        } else {
            temp.persist_noclobber(&path)
        };
        match named {
            Ok(_) => Ok(Some(path)),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(CliError::Usage(
                format!("{} exists by now; --force overwrites it", path.display()),
            )),
            Err(error) => Err(ClientError::Output(error.error).into()),
        }
    }
}

/// Removes what gets left in a directory that were killed: the name of each has its process.
pub(crate) fn remove_stale(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| {
            let rest = name.strip_prefix(BEGIN)?.strip_suffix(END)?;
            rest.split_once('-')?.0.parse::<u32>().ok()
        });
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // It is in nobody's way.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Whether a file can have this name at all, known before it is fetched.
fn named_as_file(path: &Path) -> Result<(), CliError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if path.file_name().is_none() || bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
        let message = format!(
            "{} is no name of a file, and no directory is there",
            path.display()
        );
        return Err(CliError::Usage(message));
    }
    Ok(())
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Device(file) => file.write(bytes),
            Self::File { temp, .. } => temp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::Device(file) => file.flush(),
            Self::File { temp, .. } => temp.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_before_the_end_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut target = Target::at(&path, false).unwrap();
        target.write_all(b"new").unwrap();
        assert!(!path.exists());
        assert_eq!(target.finish().unwrap(), Some(path.clone()));
        assert_eq!(fs::read(&path).unwrap(), b"new");

        assert!(matches!(Target::at(&path, false), Err(CliError::Usage(_))));
        drop(Target::at(&path, true).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        Target::at(&path, true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let target = Target::at(&path, false).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(matches!(target.finish(), Err(CliError::Usage(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_devices_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Target::at(dir.path(), true), Err(CliError::Usage(_))));
        assert!(matches!(
            Target::at(&dir.path().join("no/file"), false),
            Err(CliError::Usage(_))
        ));
        let mut null = Target::at(Path::new("/dev/null"), false).unwrap();
        null.write_all(b"x").unwrap();
        assert_eq!(null.finish().unwrap(), None);

        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        Target::at(&link, true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::remove_file(&file).unwrap();
        for (path, replace) in [
            (&link, false),
            (&link, true),
            (&dir.path().join("no/"), false),
            (&dir.path().join("no/."), true),
        ] {
            assert!(
                matches!(Target::at(path, replace), Err(CliError::Usage(_))),
                "{}",
                path.display()
            );
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
