//! Files of the data directory, which a crash, a bad disk or an editor may have changed.

use std::fs;
use std::path::Path;

use mutualstore_daemon::config::{Config, Flags};
use mutualstore_daemon::datadir::files::{DataDir, MAX_HINTS};
use mutualstore_daemon::datadir::journal::{Journal, Unfinished};
use mutualstore_daemon::wire::signed::Verifier;
use mutualstore_store::{Key, State, Store, StoreConfig};
use tempfile::TempDir;

use crate::wire::NETWORK;

/// The salt in the name of the segment.
pub(crate) const SALT: u64 = 0x0123_4567_89ab_cdef;

/// In memory where there is such a place: each input costs flushes.
fn directory() -> TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for temporary files")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| fs::write(path, bytes))
        .expect("the directory is new");
}

/// The journal of one put, as it is and as a list of (length u8 ‖ body) of which records are made: what was
/// read is read again after it was written again.
pub fn journal(bytes: &[u8]) {
    journal_file(bytes);
    let mut records = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (body, after) = after.split_at(after.len().min((*length).into()));
        records.extend(u32::from(*length).to_be_bytes());
        records.extend(crc32fast::hash(body).to_be_bytes());
        records.extend(body);
        rest = after;
    }
    journal_file(&records);
}

fn journal_file(bytes: &[u8]) {
    let read = |bytes| {
        let dir = directory();
        write(&dir.path().join("journal").join("ab".repeat(16)), bytes);
        let (_, mut found) = Journal::open(dir.path()).expect("a damaged tail is no failure");
        assert_eq!(found.len(), 1);
        found.remove(0)
    };
    let found = read(bytes);
    let holders: usize = found.stripes.iter().map(|(_, holders)| holders.len()).sum();
    assert!(42 * found.stripes.len() + 33 * holders <= bytes.len());
    let again = read(&rewritten(&found));
    let parts = |put: &Unfinished| {
        let stripes = put.stripes.clone();
        (
            put.started,
            put.committing.clone(),
            put.deleting.clone(),
            put.exposed.clone(),
            stripes,
        )
    };
    assert_eq!(parts(&again), parts(&found));
}

/// The file that the journal writes for such a put.
fn rewritten(found: &Unfinished) -> Vec<u8> {
    let dir = directory();
    let (journal, _) = Journal::open(dir.path()).expect("a new journal");
    let mut put = journal.begin(&found.token, found.started).expect("a new file");
    for (stripe, holders) in &found.stripes {
        put.stripe(stripe, holders).expect("a stripe");
    }
    if let Some(exposed) = &found.exposed {
        put.mark_exposed(&exposed.header, &exposed.deletion)
            .expect("a mark");
    }
    if let Some(sealed) = &found.committing {
        put.mark_committing(sealed).expect("a mark");
    }
    if let Some(sealed) = &found.deleting {
        put.mark_deleting(sealed).expect("a mark");
    }
    fs::read(dir.path().join("journal").join(hex::encode(found.token))).expect("the file begun")
}

/// `config.toml`: what was read is read again after it was written again.
pub fn configuration(bytes: &[u8]) {
    // A file may name other files, which are no part of the input.
    if bytes.contains(&b'@') {
        return;
    }
    let dir = directory();
    let path = dir.path().join("config.toml");
    write(&path, bytes);
    let Ok((config, given)) = Config::load(dir.path(), Flags::default()) else {
        return;
    };
    write(
        &path,
        toml::to_string(&given)
            .expect("keys have a form in TOML")
            .as_bytes(),
    );
    let again = Config::load(dir.path(), Flags::default()).expect("what was written is read");
    assert_eq!(again, (config, given));
}

/// The address book: peers that signed their entries, the others as addresses alone.
pub fn address_book(bytes: &[u8]) {
    let dir = directory();
    write(&dir.path().join("book.json"), bytes);
    let data = DataDir::open(dir.path()).expect("a directory of our own");
    let verifier = Verifier::new(NETWORK);
    let book = data.book(&verifier).expect("a damaged book is empty");
    assert!(book.hints.len() <= MAX_HINTS);
    assert!(book.entries.iter().all(|entry| entry.contact.is_valid()));
    if !book.entries.is_empty() {
        data.save_book(&book.entries).expect("the directory takes a file");
        assert_eq!(data.book(&verifier).expect("our own").entries, book.entries);
    }
}

/// `network.json`: what was read is read again after it was written again.
pub fn network_file(bytes: &[u8]) {
    let dir = directory();
    write(&dir.path().join("network.json"), bytes);
    let data = DataDir::open(dir.path()).expect("a directory of our own");
    if let Ok(Some(network)) = data.network() {
        data.save_network(&network).expect("the directory takes a file");
        assert_eq!(data.network().expect("our own"), Some(network));
    }
}

/// A segment of the shard store, as it is and with the checksums of its records put right.
pub fn segment(bytes: &[u8]) {
    segment_file(bytes);
    let mut right = bytes.to_vec();
    reseal(&mut right);
    segment_file(&right);
}

/// A store that opens serves what it lists or says that it is damaged, takes another shard, and lists the
/// same after a clean stop.
fn segment_file(bytes: &[u8]) {
    let dir = directory();
    let name = format!("{:08}-{SALT:016x}.seg", 1);
    write(&dir.path().join("segments").join(name), bytes);
    let config = StoreConfig {
        capacity: 64 << 20,
        ..StoreConfig::default()
    };
    let Ok((store, report)) = Store::open(dir.path(), config) else {
        return;
    };
    assert!(report.skipped_bytes <= bytes.len() as u64);
    assert_eq!(report.read_errors, 0);
    let key = Key {
        stripe: [0x5a; 32],
        index: 0,
    };
    let deleted = store.meta(Key {
        index: u8::MAX,
        ..key
    });
    if store.meta(key).is_none() && deleted.is_none() {
        store
            .put(key, State::Committed, [1; 16], b"header", b"payload")
            .expect("there is room");
        let stored = store.get(key).expect("just written").expect("just written");
        assert_eq!(
            (&stored.header[..], &stored.payload[..]),
            (&b"header"[..], &b"payload"[..])
        );
    }
    let held = list(&store, bytes.len());
    store.close().expect("a clean stop");
    drop(store);
    let (store, report) = Store::open(dir.path(), config).expect("our own");
    assert!(report.clean);
    assert_eq!(list(&store, bytes.len()), held);
}

/// What the store lists, of which it serves all that is not damaged.
fn list(store: &Store, input: usize) -> Vec<Key> {
    let mut listed = Vec::new();
    store
        .for_each(|key, meta| listed.push((key, meta)))
        .expect("the index is whole");
    for (key, meta) in &listed {
        if let Ok(Some(stored)) = store.get(*key) {
            assert_eq!(stored.header.len() + stored.payload.len(), meta.len as usize);
            assert!(stored.payload.len() <= input + 64);
        }
    }
    listed.into_iter().map(|(key, _)| key).collect()
}

/// Puts the salt and the checksums of all records right, and of the trailer.
fn reseal(bytes: &mut [u8]) {
    let length = bytes.len();
    for at in (0..length).step_by(64) {
        let Some(record) = bytes.get_mut(at..) else {
            return;
        };
        if record.starts_with(b"MSR1") {
            reseal_record(record);
        } else if record.starts_with(b"MSF1") && record.len() == 64 {
            record
                .iter_mut()
                .skip(4)
                .zip(SALT.to_be_bytes())
                .for_each(|(to, from)| *to = from);
            seal(record, 60);
        }
    }
}

fn reseal_record(record: &mut [u8]) {
    let Some((header, body)) = record.split_at_mut_checked(128) else {
        return;
    };
    header
        .iter_mut()
        .skip(8)
        .zip(SALT.to_be_bytes())
        .for_each(|(to, from)| *to = from);
    let length = |at: usize| {
        let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
        u32::from_be_bytes(*bytes.expect("a header has 128 bytes")) as usize
    };
    if let Some(body) = body.get(..length(56).saturating_add(length(60))) {
        let crc = crc32fast::hash(body).to_be_bytes();
        header
            .iter_mut()
            .skip(120)
            .zip(crc)
            .for_each(|(to, from)| *to = from);
    }
    seal(header, 124);
}

/// Writes the CRC-32 of the bytes before `at` there.
fn seal(bytes: &mut [u8], at: usize) {
    let (sealed, rest) = bytes.split_at_mut(at);
    let crc = crc32fast::hash(sealed).to_be_bytes();
    rest.iter_mut().zip(crc).for_each(|(to, from)| *to = from);
}
