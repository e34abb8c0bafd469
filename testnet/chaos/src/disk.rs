//! A small disk of its own for a daemon, so that it can be full: a file system in memory that is mounted,
//! kept by a descriptor and unmounted again at once. It is reached through `/proc` while this process lives,
//! and nothing of it is left afterwards, whatever ends it. Making one takes root.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const BALLAST: &str = "ballast";
const BLOCK: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Disk {
    root: File,
}

impl Disk {
    /// A disk of `bytes`, mounted at the empty directory `at` for a moment.
    pub(super) fn make(at: &Path, bytes: u64) -> io::Result<Self> {
        let options = CString::new(format!("size={bytes},mode=0700"))?;
        mount(
            "tmpfs",
            at,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            &*options,
        )?;
        let root = File::open(at);
        unmount(at, UnmountFlags::DETACH)?;
        Ok(Self { root: root? })
    }

    /// Where it is, for every process of this user.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.root.as_raw_fd()
        ))
    }

    /// Takes all the space that is left.
    pub(super) fn fill(&self) -> io::Result<()> {
        let mut ballast = File::create(self.path().join(BALLAST))?;
        for block in [BLOCK, 4096, 1] {
            let zeros = vec![0; block];
            loop {
                match ballast.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Gives it back, at once: a process that is being started may still have the ballast open.
    pub(super) fn free(&self) -> io::Result<()> {
        let ballast = self.path().join(BALLAST);
        // Creating truncates.
        drop(File::create(&ballast)?);
        fs::remove_file(ballast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_refuses_writes_until_it_is_freed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = match Disk::make(directory.path(), 4 << 20) {
            Ok(disk) => disk,
            Err(error) => {
                assert!(!rustix::process::geteuid().is_root(), "{error}");
                return;
            }
        };
        let file = disk.path().join("file");
        fs::write(&file, [7; 5000]).unwrap();
        disk.fill().unwrap();
        let refused = fs::write(disk.path().join("more"), [7; 5000]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        disk.free().unwrap();
        fs::write(disk.path().join("more"), [7; 5000]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), [7; 5000]);
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    }
}
