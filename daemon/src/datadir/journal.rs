//! The journal of puts and deletions in progress: what a crash leaves behind is finished or taken back at the
//! next start.
//!
//! One file for each, `DIR/journal/<token in hex>`, of records appended in order:
//!
//! ```text
//! record = length u32 ‖ CRC-32 of the body u32 ‖ body          length: of the body; big-endian
//! body   = 1 ‖ started u64                                     Unix time in milliseconds; the first record
//!        | 2 ‖ stripe id 32 ‖ count u8 ‖ count × (index u8 ‖ peer 32)
//!        | 3 ‖ sealed entry of the file list                   committing: every stripe stands before it;
//!                                                              of a file in a bucket a sealed deletion
//!        | 4 ‖ sealed deletion as in the file list             a file is being deleted; the last record
//!        | 5 ‖ length u16 ‖ stripe header ‖ sealed deletion    a file of one stripe, committed when stored
//! ```
//!
//! Only the marks 3 and 4 are made durable: 5 would cost every small put a flush before it begins, so a power
//! failure of the writer in the middle of one can leave a small file that nobody knows. Stripes noted before
//! a power failure may be missing, which is harmless: without the mark a put is discarded, and shards nobody
//! discards go when their lease ends. After the mark, all stripes are there. A damaged tail is cut off where
//! it begins.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mutualstore_dht::Peer;
use mutualstore_erasure::StripeId;
use tracing::warn;

use crate::datadir::files::{directory_of, sync_directory};
use crate::error::Failure;

/// Names a put to those who hold its shards: 16 random bytes.
pub type PutToken = [u8; 16];

const BEGIN: u8 = 1;
const STRIPE: u8 = 2;
const COMMITTING: u8 = 3;
const DELETING: u8 = 4;
const EXPOSED: u8 = 5;

/// The directory of the journal.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
}

/// The journal could not be read or written. A put that was being noted has to be given up: whether its last
/// record is there is not known, and the next start decides by what it finds.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the journal {}: {source}", path.display())]
pub struct JournalError {
    /// What was tried: `read`, `write`.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why the operating system refused.
    pub source: io::Error,
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::disk(error.source.kind(), error)
    }
}

/// A put in progress. Dropped without [`Put::finish`], it stays in the journal.
#[derive(Debug)]
pub struct Put {
    path: PathBuf,
    file: File,
}

/// An entry of the journal that stays until the name of its file is written down. Dropped without
/// [`Kept::finish`], it stays for the next start.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
}

/// A put that a crash interrupted.
#[derive(Debug)]
pub struct Unfinished {
    /// The token of the put.
    pub token: PutToken,
    /// When it began, Unix time in milliseconds; 0 if that is damaged.
    pub started: u64,
    /// The sealed entry of the file list, if its commit had begun: then `stripes` is complete and the put is
    /// to be finished, else discarded.
    pub committing: Option<String>,
    /// The sealed deletion, if it was one.
    pub deleting: Option<String>,
    /// If its one stripe was committed as it was stored: unless the file is listed, it is to be taken back.
    pub exposed: Option<Exposed>,
    /// Stripes in the order they were written, with holders and the index each one has. A stripe may stand
    /// here more than once.
    pub stripes: Vec<(StripeId, Vec<(u8, Peer)>)>,
    path: PathBuf,
}

/// What it takes to take back a file that was visible before it was complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The encoded header of its one stripe.
    pub header: Vec<u8>,
    /// The sealed deletion.
    pub deletion: String,
}

impl Journal {
    /// Opens the journal below the data directory and reads what was left unfinished.
    pub fn open(data_directory: &Path) -> Result<(Self, Vec<Unfinished>), JournalError> {
        let directory = data_directory.join("journal");
        let error = |source| JournalError {
            action: "read",
            path: directory.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(error)?;
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(&directory).map_err(error)? {
            let path = entry.map_err(error)?.path();
            let mut token = PutToken::default();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if hex::decode_to_slice(name, &mut token).is_err() {
                warn!("{} does not belong into the journal; ignored", path.display());
                continue;
            }
            let content = fs::read(&path);
            let content = content.map_err(|source| JournalError {
                action: "read",
                path: path.clone(),
                source,
            })?;
            unfinished.push(Unfinished::parse(token, path, &content));
        }
        unfinished.sort_by_key(|put| (put.started, put.token));
        Ok((Self { directory }, unfinished))
    }

    /// Notes that a put began at `started`, Unix time in milliseconds.
    pub fn begin(&self, token: &PutToken, started: u64) -> Result<Put, JournalError> {
        let path = self.directory.join(hex::encode(token));
        match OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Err(source) => Err(JournalError {
                action: "write",
                path,
                source,
            }),
            Ok(file) => {
                let mut put = Put { path, file };
                match put.append(&[&[BEGIN], started.to_be_bytes().as_slice()].concat()) {
                    Ok(()) => Ok(put),
                    Err(error) => {
                        // Should it stay, the next start finds nothing in it to do.
                        drop(put.finish());
                        Err(error)
                    }
                }
            }
        }
    }
}

impl Put {
    /// Notes a stripe, the holders of its shards and the index each one has.
    pub fn stripe(&mut self, stripe: &StripeId, holders: &[(u8, Peer)]) -> Result<(), JournalError> {
        let mut body = Vec::with_capacity(34 + 33 * holders.len());
        body.push(STRIPE);
        body.extend_from_slice(stripe.as_bytes());
        body.push(u8::try_from(holders.len()).map_err(|_| self.error(io::ErrorKind::InvalidInput.into()))?);
        for (index, peer) in holders {
            body.push(*index);
            body.extend_from_slice(peer.as_bytes());
        }
        self.append(&body)
    }

    /// Notes that the commit begins, and the sealed entry of the file list that will be made. Durable on
    /// return: from here the put is finished after a crash.
    pub fn mark_committing(&mut self, sealed: &str) -> Result<(), JournalError> {
        self.mark(COMMITTING, sealed)
    }

    /// Notes that a file is being deleted. Durable on return: from here the deletion is finished after a
    /// crash.
    pub fn mark_deleting(&mut self, sealed: &str) -> Result<(), JournalError> {
        self.mark(DELETING, sealed)
    }

    /// Notes that the one stripe of the file will be stored committed, with the sealed deletion that takes it
    /// back. Outlives this process on return, but not a power failure.
    pub fn mark_exposed(&mut self, header: &[u8], deletion: &str) -> Result<(), JournalError> {
        let length =
            u16::try_from(header.len()).map_err(|_| self.error(io::ErrorKind::InvalidInput.into()))?;
        self.append(
            &[
                &[EXPOSED],
                length.to_be_bytes().as_slice(),
                header,
                deletion.as_bytes(),
            ]
            .concat(),
        )
    }

    fn mark(&mut self, kind: u8, sealed: &str) -> Result<(), JournalError> {
        self.append(&[&[kind], sealed.as_bytes()].concat())?;
        self.file
            .sync_all()
            .and_then(|()| sync_directory(directory_of(&self.path)))
            .map_err(|source| self.error(source))
    }

    /// Takes it out of the journal: a put is committed, or discarded everywhere; a deletion is done, or given
    /// up.
    pub fn finish(self) -> Result<(), JournalError> {
        self.keep().finish()
    }

    /// Nothing more is noted of it.
    pub fn keep(self) -> Kept {
        Kept { path: self.path }
    }

    fn append(&mut self, body: &[u8]) -> Result<(), JournalError> {
        let length = u32::try_from(body.len()).map_err(|_| self.error(io::ErrorKind::InvalidInput.into()))?;
        let record = [&length.to_be_bytes(), &crc32fast::hash(body).to_be_bytes(), body].concat();
        self.file.write_all(&record).map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> JournalError {
        JournalError {
            action: "write",
            path: self.path.clone(),
            source,
        }
    }
}

impl Kept {
    /// Takes it out of the journal.
    pub fn finish(self) -> Result<(), JournalError> {
        let Self { path } = self;
        fs::remove_file(&path).map_err(|source| JournalError {
            action: "write",
            path,
            source,
        })
    }
}

impl Unfinished {
    /// Takes the put out of the journal: it was committed, or discarded everywhere.
    pub fn finish(self) -> Result<(), JournalError> {
        self.keep().finish()
    }

    /// It goes on to wait for its name.
    pub fn keep(self) -> Kept {
        Kept { path: self.path }
    }

    fn parse(token: PutToken, path: PathBuf, mut content: &[u8]) -> Self {
        let mut out = Self {
            token,
            started: 0,
            committing: None,
            deleting: None,
            exposed: None,
            stripes: Vec::new(),
            path,
        };
        while !content.is_empty() {
            let Some(rest) = record(content).and_then(|(body, rest)| out.apply(body).map(|()| rest)) else {
                warn!(
                    "{} has a damaged tail of {} bytes; ignored",
                    out.path.display(),
                    content.len()
                );
                break;
            };
            content = rest;
        }
        out
    }

    fn apply(&mut self, body: &[u8]) -> Option<()> {
        let (kind, body) = body.split_first()?;
        match *kind {
            BEGIN => self.started = u64::from_be_bytes(body.try_into().ok()?),
            STRIPE => self.stripes.push(stripe(body)?),
            DELETING => self.deleting = Some(str::from_utf8(body).ok()?.to_owned()),
            EXPOSED => self.exposed = Some(exposed(body)?),
            COMMITTING => self.committing = Some(str::from_utf8(body).ok()?.to_owned()),
            _ => return None,
        }
        Some(())
    }
}

/// The body of the first record and what follows it.
fn record(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = content.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    (crc32fast::hash(body) == u32::from_be_bytes(*crc)).then_some((body, rest))
}

fn exposed(body: &[u8]) -> Option<Exposed> {
    let (length, rest) = body.split_first_chunk()?;
    let (header, deletion) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some(Exposed {
        header: header.to_vec(),
        deletion: str::from_utf8(deletion).ok()?.to_owned(),
    })
}

fn stripe(body: &[u8]) -> Option<(StripeId, Vec<(u8, Peer)>)> {
    let (id, rest) = body.split_first_chunk::<32>()?;
    let (count, mut rest) = rest.split_first()?;
    let mut holders = Vec::with_capacity(usize::from(*count));
    for _ in 0..*count {
        let (index, after) = rest.split_first()?;
        let (peer, after) = after.split_first_chunk()?;
        holders.push((*index, Peer::new(*peer)));
        rest = after;
    }
    rest.is_empty().then(|| (StripeId::from(*id), holders))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders() -> Vec<(u8, Peer)> {
        vec![(0, Peer::new([7; 32])), (3, Peer::new([8; 32]))]
    }

    fn stripes() -> Vec<(StripeId, Vec<(u8, Peer)>)> {
        vec![
            (StripeId::from([1; 32]), holders()),
            (StripeId::from([2; 32]), Vec::new()),
        ]
    }

    fn write(directory: &Path, commit: bool) -> PathBuf {
        let (journal, _) = Journal::open(directory).unwrap();
        let mut put = journal.begin(&[9; 16], 1234).unwrap();
        for (id, holders) in stripes() {
            put.stripe(&id, &holders).unwrap();
        }
        if commit {
            put.mark_committing("sealed").unwrap();
        }
        put.path
    }

    #[test]
    fn what_was_noted_is_found_again() {
        for commit in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), commit);
            let (_, mut unfinished) = Journal::open(directory.path()).unwrap();
            let put = unfinished.pop().unwrap();
            assert!(unfinished.is_empty());
            assert_eq!(
                (put.token, put.started, put.committing.clone()),
                ([9; 16], 1234, commit.then(|| "sealed".to_owned()))
            );
            assert_eq!(put.stripes, stripes());
            assert_eq!(put.exposed, None);
            put.finish().unwrap();
            assert!(Journal::open(directory.path()).unwrap().1.is_empty());
        }
    }

    #[test]
    fn records_are_these_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let record = |body: &[u8]| {
            let crc = crc32fast::hash(body).to_be_bytes();
            [&[0, 0, 0, u8::try_from(body.len()).unwrap()], &crc[..], body].concat()
        };
        let holders = [&[0][..], &[7; 32], &[3], &[8; 32]].concat();
        let expected = [
            record(&[1, 0, 0, 0, 0, 0, 0, 0x04, 0xd2]),
            record(&[&[2][..], &[1; 32], &[2], &holders].concat()),
            record(&[&[2][..], &[2; 32], &[0]].concat()),
            record(b"\x03sealed"),
        ];
        let written = fs::read(write(directory.path(), true)).unwrap();
        assert_eq!(written, expected.concat());
    }

    #[test]
    fn a_finished_put_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, unfinished) = Journal::open(directory.path()).unwrap();
        assert!(unfinished.is_empty());
        let put = journal.begin(&[1; 16], 0).unwrap();
        assert!(journal.begin(&[1; 16], 0).is_err(), "a token is used once");
        put.finish().unwrap();
        assert!(Journal::open(directory.path()).unwrap().1.is_empty());
    }

    #[test]
    fn what_takes_a_small_file_back_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        let mut put = journal.begin(&[1; 16], 0).unwrap();
        put.mark_exposed(b"header", "sealed").unwrap();
        let path = put.path.clone();
        let (_, unfinished) = Journal::open(directory.path()).unwrap();
        let exposed = unfinished.first().and_then(|put| put.exposed.clone()).unwrap();
        assert_eq!(
            (exposed.header.as_slice(), exposed.deletion.as_str()),
            (&b"header"[..], "sealed")
        );
        let whole = fs::read(&path).unwrap();
        for end in 0..whole.len() {
            assert_eq!(
                Unfinished::parse([1; 16], path.clone(), &whole[..end]).exposed,
                None
            );
        }
    }

    #[test]
    fn older_puts_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        for (token, started) in [(1, 30), (2, 10), (3, 20)] {
            journal.begin(&[token; 16], started).unwrap();
        }
        fs::write(directory.path().join("journal/README"), "not a put").unwrap();
        let (_, unfinished) = Journal::open(directory.path()).unwrap();
        let order: Vec<u64> = unfinished.iter().map(|put| put.started).collect();
        assert_eq!(order, [10, 20, 30]);
    }

    #[test]
    fn a_tail_cut_anywhere_costs_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), true);
        let whole = fs::read(&path).unwrap();
        let mut seen = 0;
        for end in 0..whole.len() {
            let put = Unfinished::parse([9; 16], path.clone(), &whole[..end]);
            assert!(put.committing.is_none(), "cut at {end}");
            assert!(put.stripes.len() >= seen);
            assert_eq!(put.stripes, stripes()[..put.stripes.len()], "cut at {end}");
            seen = put.stripes.len();
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_flipped_byte_never_makes_a_commit_or_a_wrong_stripe() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), true);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            let put = Unfinished::parse([9; 16], path.clone(), &bad);
            assert!(put.committing.is_none(), "byte {at}");
            assert_eq!(put.stripes, stripes()[..put.stripes.len()], "byte {at}");
        }
    }

    #[test]
    fn a_record_of_an_unknown_kind_or_shape_ends_the_reading() {
        for body in [
            &[6][..],
            &[EXPOSED, 0, 9, 1],
            &[COMMITTING, 0xFF],
            &[BEGIN, 1],
            &[STRIPE; 40],
            &[],
        ] {
            let crc = crc32fast::hash(body).to_be_bytes();
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            let content = [&length, &crc, body].concat();
            let put = Unfinished::parse([9; 16], PathBuf::new(), &content);
            assert!(put.committing.is_none() && put.stripes.is_empty() && put.started == 0);
        }
    }
}
