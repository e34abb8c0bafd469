//! What can go wrong, one enum per operation; each variant says what state remains.

use std::io;
use std::sync::Arc;

/// Why a record was not written. Nothing of it remains.
pub(super) enum AppendError {
    NoSpace { free: u64 },
    Io(io::Error),
}

/// The store was closed.
pub(super) struct Closed;

/// Why a store could not be opened. Nothing on disk is lost.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another store, perhaps in another process, has the directory open.
    #[error("the directory is in use")]
    DirInUse,
    /// What is in it was written by another version.
    #[error("the shard store has the format {0:?}, which this version does not know")]
    Format(String),
    /// The directory or its files could not be read or created.
    #[error("the shard store could not be opened")]
    Io(#[from] io::Error),
}

/// Why a put failed.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The capacity or the file system is used up. Nothing changed, but should power be lost now, the next
    /// start may find the shard.
    #[error("no space: {free} bytes free")]
    NoSpace {
        /// What puts may still take, in bytes.
        free: u64,
    },
    /// Writing failed. Nothing changed, but should power be lost now, the next start may find the shard.
    #[error("the shard could not be written")]
    Io(#[source] io::Error),
    /// Flushing failed. The shard is not held, but may be found at the next start.
    #[error("the shard could not be flushed")]
    Sync(#[source] Arc<io::Error>),
    /// The index failed. If the shard was written, it is held from the next start on.
    #[error("the index failed")]
    Index(#[source] io::Error),
    /// Another put holds this shard, unfinished. Nothing changed.
    #[error("another put holds this shard")]
    Taken,
    /// The stripe was deleted by its owner. The shard is not held.
    #[error("the stripe is deleted")]
    Deleted,
    /// The store is closed. Nothing changed.
    #[error("the store is closed")]
    Closed,
}

/// Why a commit, a renewal or a removal failed. Of more than 1024 keys, those before the failing batch are
/// done.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The file system is full and the reserve used up (for a renewal: the capacity is reached). Nothing
    /// changed, but should power be lost now, the next start may find the change.
    #[error("no space")]
    NoSpace,
    /// Writing failed. Nothing changed, but should power be lost now, the next start may find the change.
    #[error("the change could not be written")]
    Io(#[source] io::Error),
    /// Flushing failed. The change does not hold, but may at the next start.
    #[error("the change could not be flushed")]
    Sync(#[source] Arc<io::Error>),
    /// The index failed. If the change was written, it holds from the next start on.
    #[error("the index failed")]
    Index(#[source] io::Error),
    /// The store is closed. Nothing changed.
    #[error("the store is closed")]
    Closed,
}

/// Why a shard could not be read. It stays listed.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The bytes on disk are not those that were put.
    #[error("the shard is damaged on disk")]
    Corrupt,
    /// The disk or the index failed.
    #[error("the shard could not be read")]
    Io(#[from] io::Error),
}

/// Why a store could not be closed cleanly. Nothing is lost: the next start scans.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The last segment's footer could not be written.
    #[error("the last segment was left without a footer")]
    Footer,
    /// The index could not be flushed, or had failed before.
    #[error("the index could not be flushed")]
    Index(#[source] io::Error),
}

impl From<Closed> for PutError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Closed> for UpdateError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<AppendError> for PutError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace { free } => Self::NoSpace { free },
            AppendError::Io(error) => Self::Io(error),
        }
    }
}

impl From<AppendError> for UpdateError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace { .. } => Self::NoSpace,
            AppendError::Io(error) => Self::Io(error),
        }
    }
}
