//! The data directory and its small files.
//!
//! ```text
//! DIR/lock             held by the running daemon
//! DIR/identity         ed25519 seed, 64 hex digits               0600
//! DIR/account          account secret, 64 hex digits             0600
//! DIR/token            bearer token of the HTTP API, hex         0600
//! DIR/network.json     network id, secret, parameters            0600
//! DIR/config.toml      see `config`                              0600
//! DIR/vnodes.json      indices of the virtual nodes, in the order they were chosen
//! DIR/book.json        address book
//! DIR/daemon.json      where the running daemon answers
//! DIR/spare            64 KiB kept back, see `spare`
//! ```
//!
//! Files are replaced whole: a temporary file beside the target is written, synced and renamed, then the
//! directory is synced; a crash leaves the old or the new content. What cannot be made again (identity,
//! account secret, network, virtual nodes) is never regenerated when it is damaged: that is an error which
//! names the file and the cure. The address book is a cache and is dropped with a warning.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mutualstore_contract::reply::DaemonFile;
use mutualstore_dht::contact::{MAX_INDEX, MAX_VIRTUAL_NODES};
use mutualstore_dht::{Contact, PeerState, Signature};
use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::Zeroizing;

use crate::datadir::network::{Network, check_peer_address, id_from_hex};
use crate::error::Failure;
use crate::wire::signed::Verifier;

/// Addresses of unsigned entries of the address book that are tried.
pub const MAX_HINTS: usize = 64;
/// What the names of temporary files begin and end with.
const TEMPORARY: (&str, &str) = (".", ".tmp");

/// Why a file of the data directory could not be used. Whatever it held is as it was.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The content is not what was written there.
    #[error("{} is damaged ({problem}); {cure}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What the user can do.
        cure: &'static str,
    },
    /// Another daemon works in this directory.
    #[error(
        "the data directory {} is in use by another daemon; stop it or give another --data-dir",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Something else has the name of the data directory.
    #[error("the data directory {} is not a directory", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
}

impl From<FileError> for Failure {
    /// What is wrong with a data directory is a matter of configuration, a full disk excepted.
    fn from(error: FileError) -> Self {
        match &error {
            FileError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::no_space(format!("{error}; free space on that file system"))
            }
            FileError::Io { .. }
            | FileError::Damaged { .. }
            | FileError::InUse { .. }
            | FileError::NotADirectory { .. } => Self::usage(error),
        }
    }
}

/// Replaces the content of `path` so that a crash leaves the old or the new one. `mode` are the permission
/// bits.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let directory = directory_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (begin, end) = TEMPORARY;
    let temporary = directory.join(format!("{begin}{name}.{:016x}{end}", rand::random::<u64>()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_directory(directory));
    written.map_err(|source| {
        // It is gone already if only the last step failed; a stale one is removed at the next start.
        drop(fs::remove_file(&temporary));
        FileError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        }
    })
}

/// Removes what a crash in [`write_atomic`] left in a directory, if there is one.
pub(crate) fn remove_temporaries(directory: &Path) -> Result<(), FileError> {
    let io = |source| FileError::Io {
        action: "read",
        path: directory.to_owned(),
        source,
    };
    let (begin, end) = TEMPORARY;
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.starts_with(begin) && name.ends_with(end))
        {
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| FileError::Io {
                action: "remove",
                path,
                source,
            })?;
        }
    }
    Ok(())
}

/// The directory that `path` is an entry of; of a bare name the working directory, whose name is not empty.
pub fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Makes creations, renames and removals in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The content of `path`, nothing if there is no such file.
pub fn read_optional(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// A peer heard of, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookEntry {
    /// What it last said of itself.
    pub contact: Contact,
    /// When it last answered, Unix time in seconds; 0 if never.
    pub last_seen: u64,
}

/// The address book as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Peers whose entries they signed.
    pub entries: Vec<BookEntry>,
    /// Of the others, as an older version wrote them, only where they may be found: multiaddresses with
    /// `/p2p/`, those of the peers that answered last first, at most [`MAX_HINTS`].
    pub hints: Vec<String>,
}

/// A data directory that this process has to itself.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked while it is open.
    lock: File,
}

impl DataDir {
    /// Creates the directory (0700) where it is missing and locks it.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let io = |source| FileError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        };
        if path.exists() && !path.is_dir() {
            return Err(FileError::NotADirectory {
                path: path.to_owned(),
            });
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        let lock = path.join("lock");
        let io = |source| FileError::Io {
            action: "write",
            path: lock.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FileError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let directory = Self {
            path: path.to_owned(),
            lock: file,
        };
        remove_temporaries(&directory.path)?;
        Ok(directory)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the lock, as in [`DaemonFile::lock`].
    pub fn lock_id(&self) -> String {
        let meta = self.lock.metadata();
        meta.map_or_else(|_| String::new(), |meta| format!("{}:{}", meta.dev(), meta.ino()))
    }

    /// The ed25519 seed that makes this peer who it is; made at the first start.
    pub fn identity(&self) -> Result<Zeroizing<[u8; 32]>, FileError> {
        self.secret(
            "identity",
            "restore it from a copy, or remove it to start as a new peer",
        )
    }

    /// The account secret that owner keys are derived from; made at the first start.
    pub fn account(&self) -> Result<Zeroizing<[u8; 32]>, FileError> {
        self.secret(
            "account",
            "restore it from a copy; without it nothing stored from here can be removed",
        )
    }

    /// The bearer token of the HTTP API, 64 hex digits; made at the first start.
    pub fn token(&self) -> Result<Zeroizing<String>, FileError> {
        let token = self.secret("token", "remove it; the daemon makes a new one")?;
        Ok(Zeroizing::new(hex::encode(token.as_slice())))
    }

    /// The network this peer is in, none at the first start.
    pub fn network(&self) -> Result<Option<Network>, FileError> {
        let cure = "restore it from a copy, or remove it and start with --join or an invite";
        self.parse("network.json", cure, Network::from_json)
    }

    /// Keeps the network.
    pub fn save_network(&self, network: &Network) -> Result<(), FileError> {
        write_atomic(
            &self.path.join("network.json"),
            network.to_json().as_bytes(),
            0o600,
        )
    }

    /// Tells clients where this daemon answers.
    pub fn save_daemon_file(&self, file: &DaemonFile) -> Result<(), FileError> {
        self.save_json("daemon.json", file)
    }

    /// Takes `daemon.json` away at a clean stop.
    pub fn remove_daemon_info(&self) -> Result<(), FileError> {
        let path = self.path.join("daemon.json");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError::Io {
                action: "remove",
                path,
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The indices of the virtual nodes, in the order they were chosen; none at the first start. A peer whose
    /// capacity was lowered leaves the youngest out, which come back when it grows again.
    pub fn virtual_nodes(&self) -> Result<Vec<u16>, FileError> {
        let cure = "restore it from a copy, or remove it: what this peer holds then belongs elsewhere and is \
                    moved there";
        let chosen = self.parse("vnodes.json", cure, indices_from_json)?;
        Ok(chosen.unwrap_or_default())
    }

    /// Keeps indices chosen in addition, in this order.
    pub fn add_virtual_nodes(&self, new: &[u16]) -> Result<(), FileError> {
        let mut chosen = self.virtual_nodes()?;
        chosen.extend(new);
        self.save_json("vnodes.json", &chosen)
    }

    /// The address book. Damaged, it is dropped with a warning: the peers of `--join` and those that call are
    /// enough to fill it again. What it says of a peer counts only if that peer signed it.
    pub fn book(&self, verifier: &Verifier) -> Result<Book, FileError> {
        match self.parse("book.json", "", |json| book_from_json(json, verifier)) {
            Ok(book) => Ok(book.unwrap_or_default()),
            Err(FileError::Damaged { path, problem, .. }) => {
                warn!(
                    "{} is damaged ({problem}); starting with an empty address book",
                    path.display()
                );
                Ok(Book::default())
            }
            Err(
                error @ (FileError::Io { .. } | FileError::InUse { .. } | FileError::NotADirectory { .. }),
            ) => Err(error),
        }
    }

    /// Keeps the address book.
    pub fn save_book(&self, book: &[BookEntry]) -> Result<(), FileError> {
        let stored: Vec<StoredEntry> = book.iter().map(StoredEntry::from).collect();
        self.save_json("book.json", &stored)
    }

    fn secret(&self, name: &str, cure: &'static str) -> Result<Zeroizing<[u8; 32]>, FileError> {
        let path = self.path.join(name);
        let Some(content) = read_optional(&path)? else {
            let secret = Zeroizing::new(rand::random::<[u8; 32]>());
            let text = Zeroizing::new(hex::encode(secret.as_slice()) + "\n");
            write_atomic(&path, text.as_bytes(), 0o600)?;
            return Ok(secret);
        };
        let secret = str::from_utf8(&content)
            .ok()
            .and_then(|text| id_from_hex(text.trim_end()));
        let problem = || "expected 64 hex digits".to_owned();
        secret.map(Zeroizing::new).ok_or_else(|| FileError::Damaged {
            path,
            problem: problem(),
            cure,
        })
    }

    fn parse<T>(
        &self,
        name: &str,
        cure: &'static str,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, FileError> {
        let path = self.path.join(name);
        let Some(content) = read_optional(&path)? else {
            return Ok(None);
        };
        parse(&content)
            .map(Some)
            .map_err(|problem| FileError::Damaged { path, problem, cure })
    }

    fn save_json(&self, name: &str, value: &impl Serialize) -> Result<(), FileError> {
        let path = self.path.join(name);
        let json = serde_json::to_vec_pretty(value).map_err(io::Error::from);
        let json = json.map_err(|source| FileError::Io {
            action: "write",
            path: path.clone(),
            source,
        })?;
        write_atomic(&path, &json, 0o644)
    }
}

fn indices_from_json(content: &[u8]) -> Result<Vec<u16>, String> {
    let indices: Vec<u16> = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    let distinct: BTreeSet<_> = indices.iter().collect();
    let valid = distinct.len() == indices.len()
        && indices.len() <= usize::from(MAX_VIRTUAL_NODES)
        && indices.iter().all(|index| *index < MAX_INDEX);
    if valid {
        Ok(indices)
    } else {
        Err("not a list of distinct indices below the limit".to_owned())
    }
}

/// The form of an entry in `book.json`.
#[derive(Serialize, Deserialize)]
struct StoredEntry {
    peer: String,
    version: u64,
    virtual_nodes: Vec<u16>,
    addresses: Vec<String>,
    capacity: u64,
    last_seen: u64,
    // Older versions wrote no more.
    #[serde(default)]
    used: u64,
    #[serde(default)]
    state: StoredState,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    signature: String,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredState {
    #[default]
    Accepting,
    Full,
    Draining,
}

impl From<PeerState> for StoredState {
    fn from(state: PeerState) -> Self {
        match state {
            PeerState::Accepting => Self::Accepting,
            PeerState::Full => Self::Full,
            PeerState::Draining => Self::Draining,
        }
    }
}

impl From<StoredState> for PeerState {
    fn from(state: StoredState) -> Self {
        match state {
            StoredState::Accepting => Self::Accepting,
            StoredState::Full => Self::Full,
            StoredState::Draining => Self::Draining,
        }
    }
}

impl From<&BookEntry> for StoredEntry {
    fn from(entry: &BookEntry) -> Self {
        let BookEntry { contact, last_seen } = entry;
        Self {
            peer: contact.peer.to_string(),
            version: contact.version,
            virtual_nodes: contact.virtual_nodes.to_vec(),
            addresses: contact.addresses.to_vec(),
            capacity: contact.capacity,
            last_seen: *last_seen,
            used: contact.used,
            state: contact.state.into(),
            zone: contact.zone.to_string(),
            signature: hex::encode(contact.signature.0),
        }
    }
}

fn book_from_json(content: &[u8], verifier: &Verifier) -> Result<Book, String> {
    let mut stored: Vec<StoredEntry> = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    stored.sort_by_key(|entry| std::cmp::Reverse(entry.last_seen));
    let mut book = Book::default();
    for entry in stored {
        let entry = entry.parse()?;
        if verifier.holds(&entry.contact) {
            book.entries.push(entry);
        } else {
            book.hints.extend(hints(&entry.contact));
        }
    }
    book.hints.truncate(MAX_HINTS);
    Ok(book)
}

/// Where a peer may be found that is to prove who it is.
fn hints(contact: &Contact) -> impl Iterator<Item = String> + '_ {
    let bare = contact
        .addresses
        .iter()
        .filter(|address| !address.contains("/p2p/"));
    let named = bare.map(|address| format!("{address}/p2p/{}", contact.peer));
    named.filter(|address| check_peer_address(address).is_ok())
}

impl StoredEntry {
    fn parse(self) -> Result<BookEntry, String> {
        let peer = self
            .peer
            .parse()
            .map_err(|error| format!("'{}' is {error}", self.peer.escape_debug()))?;
        let mut signature = [0; 64];
        if !self.signature.is_empty() {
            hex::decode_to_slice(&self.signature, &mut signature)
                .map_err(|error| format!("the signature of {peer}: {error}"))?;
        }
        let contact = Contact {
            peer,
            version: self.version,
            virtual_nodes: self.virtual_nodes.into(),
            addresses: self.addresses.into(),
            capacity: self.capacity,
            used: self.used,
            state: self.state.into(),
            zone: self.zone.into(),
            signature: Signature(signature),
        };
        let valid = contact.is_valid();
        let entry = BookEntry {
            contact,
            last_seen: self.last_seen,
        };
        valid
            .then_some(entry)
            .ok_or_else(|| format!("the entry of {peer} breaks a limit"))
    }
}

#[cfg(test)]
mod tests;
