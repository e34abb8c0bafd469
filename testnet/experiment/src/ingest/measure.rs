//! One cell of `ingest`.

use mutualstore_client::PutOptions;

use super::{Cell, Ingest, Reading};
use crate::stage::{around, counters};
use crate::{ExperimentError, Result, Stage};
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net;
use mutualstore_fleet::scratch::Scratch;
use mutualstore_fleet::stream::{get, put};

const LEAST_CAPACITY: u64 = 1 << 30;

pub(super) fn cell(ingest: &Ingest, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
    let seed = stage.seed(cell, "files");
    let largest = ingest.sizes_bytes.iter().max().copied().unwrap_or(0);
    let limit = cell.rate_bits.map(|bits| format!(" --link-rate {bits}bit"));
    let flags = format!("--repair off{}", limit.unwrap_or_default());
    // A peer holds at most one copy of the one file that is there, and of some that are being deleted.
    let capacities = Capacities::same((4 * largest).max(LEAST_CAPACITY));
    let scratch = stage.network(cell.peers, capacities, &flags)?;
    let repetition = |number: usize| file(ingest, cell, scratch, number, seed.wrapping_add(number as u64));
    (0..cell.repetitions).map(repetition).collect()
}

/// Two different peers.
fn writer_and_reader(peers: &[usize], seed: u64) -> Option<(usize, usize)> {
    match net::pick(peers, 2, seed).as_slice() {
        // Drawn ones come ascending.
        [low, high] if seed.is_multiple_of(2) => Some((*low, *high)),
        [low, high] => Some((*high, *low)),
        _ => None,
    }
}

/// Stores a file, reads it back, deletes it.
fn file(ingest: &Ingest, cell: &Cell, scratch: &Scratch, repetition: usize, seed: u64) -> Result<Reading> {
    let Some((writer, reader)) = writer_and_reader(&scratch.alive(), seed) else {
        return Err(ExperimentError::Usage("two peers are needed".to_owned()));
    };
    let options = PutOptions {
        code: Some(ingest.code()),
        placement: Some(cell.placement.clone()),
        ..PutOptions::default()
    };
    let (to, from) = (scratch.client(writer)?, scratch.client(reader)?);
    let stored = || counters(&to, ["shards_stored_bytes_total"]);
    let (report, (ingested, [kept_bytes])) = around(stored, || {
        let stored = put(&to, seed, cell.file_bytes, &options);
        stored.map_err(ExperimentError::client("put"))
    })?;
    let read = || counters(&from, ["shards_read_here_bytes_total"]);
    let ((), (downloaded, [own_bytes])) = around(read, || {
        let got = get(&from, &report.link, seed, cell.file_bytes);
        got.map_err(ExperimentError::client("get"))
    })?;
    let deleted = to.delete(&report.link);
    deleted.map_err(ExperimentError::client("delete"))?;
    Ok(Reading {
        peers: cell.peers,
        copies: ingest.copies,
        placement: cell.placement.clone(),
        file_bytes: cell.file_bytes,
        rate_bits: cell.rate_bits,
        repetition,
        writer,
        reader,
        ingest_seconds: ingested.as_secs_f64(),
        daemon_seconds: report.seconds,
        download_seconds: downloaded.as_secs_f64(),
        shards_stored: report.shards_stored,
        shards_total: report.shards_total,
        kept_bytes,
        own_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_write_or_read_and_none_both() {
        let peers = [0, 1, 2];
        let pairs: std::collections::BTreeSet<_> = (0..200)
            .filter_map(|seed| writer_and_reader(&peers, seed))
            .collect();
        assert_eq!(pairs.len(), 6, "{pairs:?}");
        assert!(pairs.iter().all(|(writer, reader)| writer != reader));
        assert_eq!(writer_and_reader(&[4], 0), None);
    }
}
