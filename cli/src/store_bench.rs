//! `testnet bench --store`: the shard store alone, beside what the same disk does without it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_contract::units::Size;
use mutualstore_fleet::net::FleetError;
use mutualstore_store::{Key, State, Store, StoreConfig};
use mutualstore_testnet::bench::Row;

use crate::output::CliError;

const WRITERS: usize = 16;
/// Shards per writer and size.
const PUTS: [(usize, u64); 3] = [(4 << 10, 400), (64 << 10, 200), (1 << 20, 24)];
/// Each way is measured so often, in turns; the best counts.
const TURNS: usize = 3;
/// Shards of the store that is opened again.
const TINY: usize = 64;
const CAPACITY: u64 = 64 << 30;
const HEADER: &[u8] = &[7; 250];

/// Measures puts and restarts of a store with `shards` shards in a temporary directory below `place`.
pub(crate) fn run(
    place: Option<&Path>,
    shards: u64,
    show: &mut dyn FnMut(&Row) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let dir = match place {
        Some(place) => tempfile::tempdir_in(place),
        None => tempfile::tempdir(),
    };
    let dir = dir.map_err(|error| failed(&error))?;
    for (size, count) in PUTS {
        let (mut raw, mut stored) = (f64::MAX, f64::MAX);
        for turn in 0..TURNS {
            let file = dir.path().join(format!("raw-{size}-{turn}"));
            raw = raw.min(append(&file, size, count)?.as_secs_f64());
            let store = dir.path().join(format!("store-{size}-{turn}"));
            stored = stored.min(put(&open(&store)?.0, 0, count * WRITERS as u64, size)?.as_secs_f64());
        }
        let puts = count * WRITERS as u64;
        show(&row("store", size, "append", puts, raw))?;
        show(&row("store", size, "put", puts, stored))?;
    }
    reopen(&dir.path().join("restart"), shards, show)
}

fn row(case: &str, size: usize, op: &'static str, count: u64, seconds: f64) -> Row {
    #[expect(clippy::cast_precision_loss, reason = "a speed for people")]
    let (count, bytes) = (count as f64, count as f64 * size as f64);
    Row {
        case: format!("{case}-{}", Size(size as u64).to_string().replace(' ', "")),
        size: Some(size as u64),
        concurrency: WRITERS,
        op,
        mb_per_s: Some(bytes / 1e6 / seconds),
        ops_per_s: Some(count / seconds),
        p50_ms: None,
        p99_ms: None,
        cpu_s_per_gib: None,
    }
}

fn failed(why: &dyn std::fmt::Display) -> CliError {
    let source = io::Error::other(why.to_string());
    FleetError::Io {
        what: "the measurement failed".to_owned(),
        source,
    }
    .into()
}

fn open(dir: &Path) -> Result<(Store, Duration), CliError> {
    let begun = Instant::now();
    let config = StoreConfig {
        capacity: CAPACITY,
        ..StoreConfig::default()
    };
    let (store, _) = Store::open(dir, config).map_err(|error| failed(&error))?;
    Ok((store, begun.elapsed()))
}

/// What a program does that keeps records and knows nothing of groups: append, flush, next.
fn append(path: &PathBuf, size: usize, count: u64) -> Result<Duration, CliError> {
    let made = OpenOptions::new().create_new(true).write(true).open(path);
    let file: File = made.map_err(|error| failed(&error))?;
    let end = Mutex::new(0);
    let bytes = vec![7; HEADER.len() + size];
    let write = || -> io::Result<()> {
        for _ in 0..count {
            let mut end = end.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all_at(&bytes, *end)?;
            *end += bytes.len() as u64;
            drop(end);
            file.sync_data()?;
        }
        Ok(())
    };
    let begun = Instant::now();
    together(&write)?;
    Ok(begun.elapsed())
}

fn together(work: &(dyn Fn() -> io::Result<()> + Sync)) -> Result<(), CliError> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(work)).collect();
        let outcomes = threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(())));
        outcomes
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<io::Result<()>>()
    })
    .map_err(|error| failed(&error))
}

/// Puts the shards `first..end` by 16 writers.
fn put(store: &Store, first: u64, end: u64, size: usize) -> Result<Duration, CliError> {
    let next = AtomicU64::new(first);
    let payload = vec![7; size];
    let write = || -> io::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return Ok(());
            }
            let mut stripe = [0; 32];
            let (head, _) = stripe.split_at_mut(8);
            // Ids are spread like hashes.
            head.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            let key = Key { stripe, index: 0 };
            let stored = store.put(key, State::Committed, [0; 16], HEADER, &payload);
            stored.map_err(io::Error::other)?;
        }
    };
    let begun = Instant::now();
    together(&write)?;
    Ok(begun.elapsed())
}

/// How long a start takes after a clean stop, and when the index has to be rebuilt.
fn reopen(
    dir: &Path,
    shards: u64,
    show: &mut dyn FnMut(&Row) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let store = open(dir)?.0;
    let took = put(&store, 0, shards, TINY)?;
    show(&row("fill", TINY, "put", shards, took.as_secs_f64()))?;
    store.close().map_err(|error| failed(&error))?;
    drop(store);
    let (store, clean) = open(dir)?;
    // Not closed: what a kill leaves behind.
    drop(store);
    let (store, rescan) = open(dir)?;
    drop(store);
    for (op, took) in [("open", clean), ("rescan", rescan)] {
        show(&Row {
            concurrency: 1,
            p50_ms: Some(took.as_secs_f64() * 1000.0),
            mb_per_s: None,
            ..row("restart", TINY, op, shards, took.as_secs_f64())
        })?;
    }
    Ok(())
}
