//! The few things the store asks of a file system, so that tests can put a faulty one beneath it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags};

use super::tree::{SledTree, Tree};

/// Unit in which space is given back, and the alignment of direct reads, in bytes.
pub(super) const PAGE: u64 = 4096;

/// A directory's operations.
pub(super) trait Disk: Send + Sync {
    /// A new file, open for reading and writing; its name is durable after `sync_dir`.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, open for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file whose reads come from the device, not from the page cache, where the file system can
    /// do that.
    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// A file of `bytes` allocated bytes.
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// The ordered map in `dir`, an empty one if there is none.
    fn tree(&self, dir: &Path) -> io::Result<Box<dyn Tree>>;
    /// Removes the map in `dir`, whatever state it is in.
    fn remove_tree(&self, dir: &Path) -> io::Result<()>;
}

/// An open segment.
pub(super) trait DiskFile: Send + Sync {
    /// Fills `buf` from `offset` on, or as much of it as the file has; returns how much.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all `parts` one after the other from `offset` on; after an error any prefix may have been
    /// written.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Makes what was written durable, as `fdatasync` does.
    fn sync(&self) -> io::Result<()>;
    /// Gives the space of a range back; it reads as zeros afterwards.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Bytes the file takes on the device.
    fn allocated(&self) -> io::Result<u64>;
}

/// The operating system's file systems.
#[derive(Debug, Clone, Copy)]
pub(super) struct OsDisk;

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?,
        ))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        if let Ok(file) = OpenOptions::new().read(true).custom_flags(direct).open(path) {
            return Ok(Arc::new(DirectFile(file)));
        }
        let file = File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(Arc::new(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
    }

    fn tree(&self, dir: &Path) -> io::Result<Box<dyn Tree>> {
        Ok(Box::new(SledTree::open(dir)?))
    }

    fn remove_tree(&self, dir: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl DiskFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(self, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    IoSlice::advance_slices(&mut rest, n);
                    offset += n as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self, flags, offset, len)?)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }
}

/// A file open with `O_DIRECT`, for reading only: every read goes through an aligned buffer.
struct DirectFile(File);

impl DiskFile for DirectFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = offset / PAGE * PAGE;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        let page = usize::try_from(PAGE).map_err(io::Error::other)?;
        let wanted = (skip + buf.len()).next_multiple_of(page);
        let mut space = vec![0; wanted + page];
        let pad = space.as_ptr().align_offset(page);
        let Some(aligned) = space.get_mut(pad..pad + wanted) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut filled = 0;
        while let Some(rest) = aligned.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = FileExt::read_at(&self.0, rest, start + filled as u64)?;
            filled += read;
            // Only the end of the file breaks the alignment.
            if read == 0 || !read.is_multiple_of(page) {
                break;
            }
        }
        let available = filled.saturating_sub(skip).min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..available), aligned.get(skip..skip + available)) {
            to.copy_from_slice(from);
        }
        Ok(available)
    }

    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn len(&self) -> io::Result<u64> {
        DiskFile::len(&self.0)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }
}
