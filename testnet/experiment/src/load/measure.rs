//! One cell of `load`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mutualstore_client::Client;
use mutualstore_contract::reply::{FileStat, ShardState, StripeKind};

use super::{Case, Cell, Load, Reading};
use crate::findings::real;
use crate::stage::{Stored, counters, put_options};
use crate::{ExperimentError, Result, Stage};
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net;
use mutualstore_fleet::scratch::Scratch;

const LEAST_CAPACITY: u64 = 1 << 30;
/// Peers of the weighted network have so many times the least capacity.
const WEIGHTS: [u64; 4] = [1, 2, 3, 4];

pub(super) fn cell(load: &Load, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
    let seed = stage.seed(cell, "files");
    let largest = load.sizes_bytes.iter().max().copied().unwrap_or(0);
    // Files are deleted after each cell, and a peer holds at most one shard of a stripe.
    let capacity = (2 * largest).max(LEAST_CAPACITY);
    let peers = if cell.case == Case::Single { 1 } else { load.peers };
    let capacities = match cell.case {
        Case::Weighted => Capacities::repeating(WEIGHTS.map(|weight| weight * capacity)),
        Case::Equal | Case::Small | Case::Degraded | Case::Single => Capacities::same(capacity),
    };
    let scratch = stage.network(peers, capacities, "--repair off")?;
    let count = scratch.peers().len();
    let draw = |range: usize, purpose: &str| {
        let seed = usize::try_from(seed % 1_000_003).unwrap_or(0);
        (seed + purpose.len()) % range.max(1)
    };
    let (writer, reader) = (draw(count, "writer"), draw(count, "the reader"));
    let is_small = cell.case == Case::Small;
    let files = if is_small { load.small_files } else { 1 };
    let options = put_options(&cell.code, Some(cell.shard_size_bytes));
    let mut stored = Vec::new();
    let written = counted(scratch, files, |scratch, number| {
        let seed = seed.wrapping_add(number as u64);
        stored.push(Stored::put(scratch, writer, seed, cell.file_bytes, &options)?);
        Ok(())
    })?;
    let stats = stats(&scratch.client(writer)?, &stored)?;
    let mut readings = readings(cell, scratch, Op::Write, writer, &written, &stats);
    let victims = usize::from(cell.case == Case::Degraded);
    let victims = net::pick(&scratch.alive_but(&[reader, writer]), victims, seed);
    for victim in &victims {
        scratch.kill(*victim);
    }
    scratch.settle()?;
    let read = counted(scratch, files, |scratch, number| {
        let file = stored.get(number);
        file.map_or(Ok(()), |file| file.get(scratch, reader))
    })?;
    // The writer has the manifests in its cache since it was asked for the stat.
    let is_known = reader == writer;
    let op = if is_known { Op::ReadOfWriter } else { Op::Read };
    readings.extend(self::readings(cell, scratch, op, reader, &read, &stats));
    scratch.restart(&victims)?;
    scratch.wait_whole()?;
    stored.iter().try_for_each(|file| file.delete(scratch))?;
    Ok(readings)
}

fn stats(client: &Client, stored: &[Stored]) -> Result<Vec<FileStat>> {
    let ask = |file: &Stored| {
        let stat = client.stat(&file.report.link);
        Ok(stat.map_err(ExperimentError::client("stat"))?.body)
    };
    stored.iter().map(ask).collect()
}

/// What was done to the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Write,
    Read,
    ReadOfWriter,
}

/// What a peer did, in requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Served {
    stored: (u64, u64),
    sent: (u64, u64),
}

impl Served {
    fn of(client: &Client) -> Result<Self> {
        let names = [
            "shards_served_total",
            "shards_served_bytes_total",
            "shards_read_here_total",
            "shards_read_here_bytes_total",
            "shards_stored_total",
            "shards_stored_bytes_total",
        ];
        let [served, served_bytes, own, own_bytes, stored, stored_bytes] = counters(client, names)?;
        Ok(Self {
            stored: (stored, stored_bytes),
            sent: (served + own, served_bytes + own_bytes),
        })
    }

    fn since(self, before: Self) -> Self {
        let less =
            |now: (u64, u64), then: (u64, u64)| (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
        Self {
            stored: less(self.stored, before.stored),
            sent: less(self.sent, before.sent),
        }
    }
}

/// What the peers did during an operation on all files.
struct Counted {
    peers: BTreeMap<usize, Served>,
    /// Over the files: how many peers took part in storing, and in sending one.
    took_part: (u64, u64),
    files: usize,
    took: Duration,
}

fn look(scratch: &Scratch) -> Result<BTreeMap<usize, Served>> {
    let ask = |peer| Ok((peer, Served::of(&scratch.client(peer)?)?));
    scratch.alive().into_iter().map(ask).collect()
}

/// Has every peer counted around the work on each file.
fn counted(
    scratch: &mut Scratch,
    files: usize,
    mut work: impl FnMut(&mut Scratch, usize) -> Result<()>,
) -> Result<Counted> {
    let first = look(scratch)?;
    let (mut before, mut took, mut took_part) = (first.clone(), Duration::ZERO, (0, 0));
    for file in 0..files {
        let begun = Instant::now();
        work(scratch, file)?;
        took += begun.elapsed();
        let after = look(scratch)?;
        for (peer, served) in &after {
            let one = served.since(before.get(peer).copied().unwrap_or_default());
            took_part.0 += u64::from(one.stored.0 > 0);
            took_part.1 += u64::from(one.sent.0 > 0);
        }
        before = after;
    }
    let since =
        |(peer, served): (usize, Served)| (peer, served.since(first.get(&peer).copied().unwrap_or_default()));
    Ok(Counted {
        peers: before.into_iter().map(since).collect(),
        took_part,
        files,
        took,
    })
}

fn readings(
    cell: &Cell,
    scratch: &Scratch,
    op: Op,
    asked: usize,
    counted: &Counted,
    stats: &[FileStat],
) -> Vec<Reading> {
    let is_write = op == Op::Write;
    let alive: Vec<_> = scratch.peers().iter().filter(|peer| peer.alive).collect();
    let capacity: u64 = alive.iter().map(|peer| peer.capacity_bytes).sum();
    let ids: Vec<&str> = alive.iter().map(|peer| peer.peer.as_str()).collect();
    let expected = Expected::of(stats, &ids, op);
    let (stored, sent) = counted.took_part;
    let took_part = if is_write { stored } else { sent };
    let reading = |peer: &&mutualstore_fleet::state::Peer| {
        let served = counted.peers.get(&peer.index).copied().unwrap_or_default();
        let (requests, served_bytes) = if is_write { served.stored } else { served.sent };
        let share = real(peer.capacity_bytes) / real(capacity.max(1));
        Reading {
            case: cell.case,
            op: if is_write { "write" } else { "read" }.to_owned(),
            code: cell.code.clone(),
            code_used: stats.first().map(|stat| stat.code.clone()).unwrap_or_default(),
            shard_size_bytes: cell.shard_size_bytes,
            file_bytes: cell.file_bytes,
            files: counted.files,
            repetition: cell.repetition,
            peer: peer.index,
            capacity_bytes: peer.capacity_bytes,
            is_asked: peer.index == asked,
            requests,
            served_bytes,
            expected_requests: expected.requests * share,
            expected_bytes: expected.bytes * share,
            placed_requests: expected.placed.get(peer.peer.as_str()).copied().unwrap_or(0.0),
            peers_per_file: real(took_part) / real(counted.files.max(1)),
            seconds: counted.took.as_secs_f64(),
        }
    };
    alive.iter().map(reading).collect()
}

/// What an operation on files that lie like this should ask of all live peers together, and of each holder.
#[derive(Debug, Default, PartialEq)]
struct Expected<'a> {
    requests: f64,
    bytes: f64,
    placed: BTreeMap<&'a str, f64>,
}

impl<'a> Expected<'a> {
    /// A write stores every shard of a stripe, a read needs k of them. The shard that `stat` names as whole
    /// at a live peer can be read there.
    fn of(stats: &'a [FileStat], alive: &[&str], op: Op) -> Self {
        let mut expected = Self::default();
        let stripes = stats.iter().flat_map(|stat| &stat.stripes);
        for stripe in stripes.filter(|stripe| op != Op::ReadOfWriter || stripe.kind != StripeKind::Manifest) {
            let holders = stripe.shards.iter().filter(|shard| shard.state == ShardState::Ok);
            let holders: Vec<&str> = holders
                .filter_map(|shard| shard.peer.as_deref())
                .filter(|holder| alive.contains(holder))
                .collect();
            let needed = if op == Op::Write {
                real(holders.len())
            } else {
                f64::from(stripe.needed)
            };
            let shard_bytes = stripe.length_bytes.div_ceil(u64::from(stripe.needed.max(1)));
            expected.requests += needed;
            expected.bytes += needed * real(shard_bytes);
            for holder in &holders {
                *expected.placed.entry(holder).or_default() += needed / real(holders.len());
            }
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mutualstore_contract::reply::{Health, ShardStat, StripeStat};

    fn stat(kind: StripeKind, needed: u32, length_bytes: u64, holders: &[&str]) -> FileStat {
        let shards = holders.iter().zip(0..).map(|(holder, index)| ShardStat {
            index,
            peer: Some((*holder).to_owned()),
            state: ShardState::Ok,
        });
        let stripe = StripeStat {
            id: String::new(),
            kind,
            length_bytes,
            anchor: None,
            group: None,
            live: 3,
            needed,
            health: Health::Safe,
            shards: shards.collect(),
        };
        FileStat {
            size_bytes: length_bytes,
            name: String::new(),
            created: String::new(),
            code: String::new(),
            placement: String::new(),
            scope: None,
            health: Health::Safe,
            stripes: vec![stripe],
        }
    }

    #[test]
    fn expected_reads_need_k_shards_and_writes_all() {
        let stats = [
            stat(StripeKind::Data, 2, 101, &["a", "b", "c"]),
            stat(StripeKind::Manifest, 1, 10, &["a"]),
        ];
        let read = Expected::of(&stats, &["a", "b", "c"], Op::Read);
        assert_eq!((read.requests, read.bytes), (3.0, 2.0 * 51.0 + 10.0));
        let third = 2.0 / 3.0;
        assert_eq!(
            read.placed,
            BTreeMap::from([("a", third + 1.0), ("b", third), ("c", third)])
        );
        let write = Expected::of(&stats, &["a", "b", "c"], Op::Write);
        assert_eq!((write.requests, write.bytes), (4.0, 3.0 * 51.0 + 10.0));
        assert_eq!(write.placed.get("a"), Some(&2.0));
        let known = Expected::of(&stats, &["a", "b", "c"], Op::ReadOfWriter);
        assert_eq!((known.requests, known.bytes), (2.0, 2.0 * 51.0));
        // Of a dead holder nothing is expected: the others have its part.
        let degraded = Expected::of(&stats[..1], &["a", "c"], Op::Read);
        assert_eq!((degraded.requests, degraded.placed["c"]), (2.0, 1.0));
    }

    #[test]
    fn served_since_a_look_counts_only_what_came_after() {
        let before = Served {
            stored: (1, 10),
            sent: (5, 50),
        };
        let after = Served {
            stored: (1, 10),
            sent: (7, 90),
        };
        assert_eq!(after.since(before).sent, (2, 40));
        assert_eq!(after.since(before).stored, (0, 0));
    }
}
