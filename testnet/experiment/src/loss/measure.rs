//! One cell of `loss`.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use itertools::Itertools;
use mutualstore_client::{Client, ClientError, PutOptions, RingQuery};
use mutualstore_contract::exit;
use mutualstore_contract::reply::{FileStat, Health, ShardState, StripeStat};
use mutualstore_erasure::Policy;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{Cell, Loss, Reading, rings};
use crate::analysis::Model;
use crate::findings::{distinct, mean, real};
use crate::patterns::{self, Counted, Patterns};
use crate::shard_map::{FileMap, Kind, ShardMap, StripeMap, peer_set};
use crate::stage::{Cost, Stored, around, counters};
use crate::{ExperimentError, Result, Stage};
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::{self, FleetError};
use mutualstore_fleet::parallel::each;
use mutualstore_fleet::scratch::Scratch;
use mutualstore_fleet::spawn::until;

/// Far more than the files of a cell take.
const CAPACITY: u64 = 1 << 30;
/// Files worked on at the same time.
const CLIENTS: usize = 32;
/// A survivor that says "try again" has found its feet by then.
const PATIENCE: Duration = Duration::from_mins(2);
const AGAIN: Duration = Duration::from_millis(250);
/// Nothing is rebuilt while dead peers are counted, and nobody reads from memory what no disk holds any more:
/// whoever read a file before keeps its manifest in a cache.
const FLAGS: &str = "--repair off --cache 0";

/// Whether a file loses a fragment, and whether its manifest.
type Verdict = (bool, bool);

fn is_unreadable((fragment, manifest): Verdict) -> bool {
    fragment || manifest
}

pub(super) fn cell(loss: &Loss, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
    let seed = stage.seed(cell, "files and victims");
    let scratch = stage.network(cell.peers, Capacities::same(CAPACITY), FLAGS)?;
    let begun = Instant::now();
    let stored = store(loss, cell, scratch, seed)?;
    let put_seconds = begun.elapsed();
    let (map, stripes) = look(scratch, &stored)?;
    let begun = Instant::now();
    let missing = read(scratch, &stored)?;
    let get_seconds = begun.elapsed();
    if missing.contains(&true) {
        return Err(unexpected("a file that was just stored cannot be read"));
    }
    let rows = Rows {
        base: Reading {
            peers: cell.peers,
            code: loss.code_of(&cell.scheme)?.to_string(),
            placement: cell.scheme.placement.clone(),
            scope: cell.scheme.scope.clone(),
            files: loss.files,
            fragments: loss.fragments,
            patterns: 1,
            copysets: map.copysets(),
            file_sets: map.file_sets(),
            ..Reading::default()
        },
        model: loss.model(cell.peers, &cell.scheme)?,
        seed,
    };
    let put_row = Reading {
        ring_copysets: ring_copysets(loss, cell, scratch)?,
        ..rows.row("put", 0, put_seconds)
    };
    let get_row = Reading {
        resident_bytes: Some(scratch.resident_bytes()),
        ..rows.row("get", 0, get_seconds)
    };
    let mut readings = vec![put_row, get_row];
    let kills = distinct(loss.kills.iter().copied());
    for dead in &kills {
        for pattern in 0..loss.patterns {
            let seed = seed.wrapping_add((*dead * 1000 + pattern) as u64);
            let victims = net::pick(&scratch.alive(), *dead, seed);
            let files = (stored.as_slice(), stripes.as_slice(), &map);
            readings.extend(pattern_of(&rows, scratch, files, (pattern, &victims))?);
        }
        readings.push(rows.summary(*dead, &readings));
    }
    let all_patterns = kills.iter().map(|dead| {
        let begun = Instant::now();
        let patterns = Patterns::choose(cell.peers, *dead, loss.sampled, seed);
        let counted = patterns::count(&map, &patterns);
        rows.counted(*dead, &patterns, &counted, begun.elapsed())
    });
    readings.extend(all_patterns);
    each(&stored, CLIENTS, |_, file| file.delete(scratch))?;
    let name = format!("{}-{}", cell.peers, cell.scheme);
    stage.keep("loss", &format!("map-{name}"), &map)?;
    Ok(readings)
}

/// How many sets of holders the ring makes for the code of this cell; none where something else chooses them.
fn ring_copysets(loss: &Loss, cell: &Cell, scratch: &Scratch) -> Result<Option<usize>> {
    if cell.scheme.placement != Policy::Successors.to_string() {
        return Ok(None);
    }
    let shards = usize::from(loss.code_of(&cell.scheme)?.n());
    let query = RingQuery {
        walk: true,
        ..RingQuery::default()
    };
    let ring = scratch.client(0)?.ring(query);
    let counted = ring.and_then(|ring| rings::of_living(&ring.body, shards));
    counted.map(Some).map_err(ExperimentError::client("ring"))
}

fn unexpected(what: &str) -> ExperimentError {
    ExperimentError::client("loss")(ClientError::Unexpected {
        what: what.to_owned(),
    })
}

/// Stores all files, each through the next peer.
fn store(loss: &Loss, cell: &Cell, scratch: &Scratch, seed: u64) -> Result<Vec<Stored>> {
    let options = PutOptions {
        code: Some(cell.scheme.code.clone().unwrap_or_else(|| loss.code.clone())),
        placement: Some(cell.scheme.placement.clone()),
        scope: cell.scheme.scope.clone(),
        fragments: Some(loss.fragments),
        ..PutOptions::default()
    };
    let alive = scratch.alive();
    each(&vec![(); loss.files], CLIENTS, |file, ()| {
        let seed = seed.wrapping_add(file as u64);
        Stored::put(scratch, through(&alive, file), seed, loss.file_bytes, &options)
    })
}

/// Asks where every shard is, when all are there; the map, and of each file the stripe ids in its order.
fn look(scratch: &Scratch, stored: &[Stored]) -> Result<(ShardMap, Vec<Vec<String>>)> {
    let peers = scratch.peers().iter();
    let numbers: BTreeMap<&str, usize> = peers.map(|peer| (peer.peer.as_str(), peer.index)).collect();
    let look = |file: &Stored| {
        let stat = whole(&scratch.client(file.peer)?, &file.report.link)?;
        let ids = stat.stripes.iter().map(|stripe| stripe.id.clone()).collect();
        Ok::<_, ExperimentError>((file_map(&stat, &numbers), ids))
    };
    let (files, stripes) = stored.iter().map(look).process_results(|files| files.unzip())?;
    let peers = scratch.peers().len();
    Ok((ShardMap { peers, files }, stripes))
}

/// The stat of a file whose shards are all there: commits spread for a moment after the put.
fn whole(client: &Client, link: &str) -> Result<FileStat> {
    let whole = until(PATIENCE, AGAIN, || match client.stat(link) {
        Ok(stat) => (stat.body.health == Health::Safe).then_some(Ok(stat.body)),
        Err(error) => Some(Err(ExperimentError::client("stat")(error))),
    });
    let (what, waited) = ("a file to be whole".to_owned(), PATIENCE);
    whole.unwrap_or_else(|| Err(FleetError::Late { what, waited }.into()))
}

fn file_map(stat: &FileStat, numbers: &BTreeMap<&str, usize>) -> FileMap {
    let stripe = |stripe: &StripeStat| {
        let mut holders: Vec<Vec<usize>> = Vec::new();
        for shard in stripe.shards.iter().filter(|shard| shard.state == ShardState::Ok) {
            let index = shard.index as usize;
            holders.resize(holders.len().max(index + 1), Vec::new());
            let holder = shard.peer.as_deref().and_then(|peer| numbers.get(peer));
            if let (Some(holder), Some(of_index)) = (holder, holders.get_mut(index)) {
                of_index.push(*holder);
            }
        }
        StripeMap {
            kind: stripe.kind,
            needed: u8::try_from(stripe.needed).unwrap_or(u8::MAX),
            holders,
        }
    };
    FileMap {
        stripes: stat.stripes.iter().map(stripe).collect(),
    }
}

/// Which pattern it is of those with so many dead, and who they are.
type Pattern<'a> = (usize, &'a [usize]);

/// Kills, counts in three ways, and starts the dead again.
fn pattern_of(
    rows: &Rows,
    scratch: &mut Scratch,
    (stored, stripes, map): (&[Stored], &[Vec<String>], &ShardMap),
    pattern: Pattern<'_>,
) -> Result<Vec<Reading>> {
    let (_, victims) = pattern;
    for victim in victims {
        scratch.kill(*victim);
    }
    scratch.wait_whole()?;
    let look = || sent(scratch);
    let (unread, read_cost) = around(look, || read(scratch, stored))?;
    let (asked, asked_cost) = around(look, || ask(scratch, stripes, map))?;
    let dead = peer_set(victims.iter().copied());
    let verdict = |file: &FileMap| (file.loses_fragment(&dead), file.loses_manifest(&dead));
    let begun = Instant::now();
    let mapped: Vec<Verdict> = map.files.iter().map(verdict).collect();
    let map_took = begun.elapsed();
    scratch.restart(victims)?;
    scratch.wait_whole()?;
    let unreadable: Vec<bool> = mapped.iter().copied().map(is_unreadable).collect();
    if unread != unreadable || asked != mapped {
        let [read, map] = [&unread, &unreadable].map(|files| files.iter().filter(|lost| **lost).count());
        let asked = asked.iter().filter(|verdict| is_unreadable(**verdict)).count();
        return Err(unexpected(&format!(
            "with the peers {victims:?} dead {read} files cannot be read, {asked} are lost by inventories \
             and {map} by the map: these must be the same files"
        )));
    }
    let with_cost = |verdicts: &[Verdict], method, (took, [frames, bytes]): Cost<2>| Reading {
        messages: Some(frames),
        message_bytes: Some(bytes),
        ..rows.killed(method, pattern, verdicts, took)
    };
    let read = Reading {
        // What cannot be read is not known to lack one or the other.
        files_lost: None,
        manifests_lost: None,
        any_lost: None,
        ..with_cost(&mapped, "read", read_cost)
    };
    let map = rows.killed("map", pattern, &mapped, map_took);
    Ok(vec![read, with_cost(&asked, "asked", asked_cost), map])
}

/// Frames that the live daemons have sent to each other, and bytes, whatever else went on included.
fn sent(scratch: &Scratch) -> Result<[u64; 2]> {
    let (mut all_frames, mut all_bytes) = (0, 0);
    for peer in scratch.alive() {
        let names = [
            "rpc_frames_sent_total",
            "rpc_sent_bytes_total",
            "shard_frames_sent_total",
            "shard_sent_bytes_total",
        ];
        let [frames, bytes, shard_frames, shard_bytes] = counters(&scratch.client(peer)?, names)?;
        all_frames += frames + shard_frames;
        all_bytes += bytes + shard_bytes;
    }
    Ok([all_frames, all_bytes])
}

/// Reads every file through survivors in turn. Which cannot be read; anything but loss is a failure.
fn read(scratch: &Scratch, stored: &[Stored]) -> Result<Vec<bool>> {
    let alive = scratch.alive();
    each(stored, CLIENTS, |number, file| {
        let client = scratch.client(through(&alive, number))?;
        let until = Instant::now() + PATIENCE;
        loop {
            return match file.read(&client) {
                Ok(()) => Ok(false),
                Err(error) if [exit::NOT_FOUND, exit::UNRECOVERABLE].contains(&error.exit_code()) => Ok(true),
                Err(error) if error.exit_code() == exit::REFUSED && Instant::now() < until => {
                    thread::sleep(AGAIN);
                    continue;
                }
                Err(error) => Err(ExperimentError::client("get")(error)),
            };
        }
    })
}

/// Asks inventories and locators for every stripe by its id.
fn ask(scratch: &Scratch, ids: &[Vec<String>], map: &ShardMap) -> Result<Vec<Verdict>> {
    let alive = scratch.alive();
    each(ids, CLIENTS, |number, ids| {
        let client = scratch.client(through(&alive, number))?;
        let of_file = map.files.get(number);
        let stripes = of_file.into_iter().flat_map(|file| &file.stripes);
        let (mut fragment, mut manifest) = (false, false);
        for (id, stripe) in ids.iter().zip(stripes) {
            let found = client.lookup(id).map_err(ExperimentError::client("lookup"))?.body;
            let held = found.shards.iter().filter(|shard| shard.state == ShardState::Ok);
            let lost = held.map(|shard| shard.index).unique().count() < usize::from(stripe.needed);
            match stripe.kind {
                Kind::Data => fragment |= lost,
                Kind::Manifest => manifest |= lost,
            }
        }
        Ok((fragment, manifest))
    })
}

/// The live peer whose turn it is for a file.
fn through(alive: &[usize], file: usize) -> usize {
    alive.get(file % alive.len().max(1)).copied().unwrap_or(0)
}

/// The 95 % confidence interval of a mean by Student's t; none of fewer than two values.
fn confidence(values: &[f64]) -> Option<(f64, f64)> {
    let mean = mean(values)?;
    let count = real(values.len());
    let freedom = count - 1.0;
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom;
    let half = student.inverse_cdf(0.975) * (variance / count).sqrt();
    Some((mean - half, mean + half))
}

/// What all rows of a cell are made of.
struct Rows {
    /// What they have in common.
    base: Reading,
    model: Model,
    seed: u64,
}

impl Rows {
    fn row(&self, method: &str, dead: usize, took: Duration) -> Reading {
        Reading {
            method: method.to_owned(),
            dead,
            seconds: took.as_secs_f64(),
            ..self.base.clone()
        }
    }

    fn killed(&self, method: &str, pattern: Pattern<'_>, verdicts: &[Verdict], took: Duration) -> Reading {
        let (pattern, victims) = pattern;
        let count = |of: fn(Verdict) -> bool| real(verdicts.iter().filter(|verdict| of(**verdict)).count());
        let lost = count(|(fragment, _)| fragment);
        Reading {
            pattern: Some(pattern),
            victims: victims.iter().join(" "),
            files_lost: Some(lost),
            manifests_lost: Some(count(|(_, manifest)| manifest)),
            unreadable: Some(count(is_unreadable)),
            any_lost: Some(f64::from(u8::from(lost > 0.0))),
            ..self.row(method, victims.len(), took)
        }
    }

    fn counted(&self, dead: usize, patterns: &Patterns, counted: &Counted, took: Duration) -> Reading {
        let method = if patterns.is_exhaustive() { "all" } else { "sample" };
        Reading {
            patterns: patterns.len(),
            fragments_lost: Some(counted.fragments_lost),
            files_lost: Some(counted.files_lost),
            manifests_lost: Some(counted.manifests_lost),
            unreadable: Some(counted.unreadable),
            any_lost: Some(counted.any_lost),
            ..self.expected(self.row(method, dead, took), None)
        }
    }

    /// The mean over the patterns that were killed.
    fn summary(&self, dead: usize, readings: &[Reading]) -> Reading {
        let of = |reading: &&Reading| reading.method == "asked" && reading.dead == dead;
        let asked: Vec<&Reading> = readings.iter().filter(of).collect();
        let average = |value: fn(&Reading) -> Option<f64>| {
            let values: Vec<f64> = asked.iter().filter_map(|reading| value(reading)).collect();
            mean(&values)
        };
        let patterns = asked.len() as u64;
        let lost: Vec<f64> = asked.iter().filter_map(|reading| reading.files_lost).collect();
        let interval = confidence(&lost).map(|(low, high)| (low.max(0.0), high.min(real(self.base.files))));
        let took = Duration::from_secs_f64(asked.iter().map(|reading| reading.seconds).sum());
        Reading {
            patterns,
            files_lost: average(|reading| reading.files_lost),
            manifests_lost: average(|reading| reading.manifests_lost),
            unreadable: average(|reading| reading.unreadable),
            any_lost: average(|reading| reading.any_lost),
            mean_low: interval.map(|(low, _)| low),
            mean_high: interval.map(|(_, high)| high),
            ..self.expected(self.row("killed", dead, took), Some(patterns))
        }
    }

    /// Adds what theory says of the mean over so many patterns, or over all.
    fn expected(&self, row: Reading, patterns: Option<u64>) -> Reading {
        let files = self.base.files;
        let of_files = |part: f64| Some(part * real(files));
        let seed = self.seed.wrapping_add(row.dead as u64);
        let (low, high) = self.model.interval(files, row.dead, patterns, seed);
        Reading {
            predicted: of_files(self.model.file_lost(row.dead)),
            predicted_low: of_files(low),
            predicted_high: of_files(high),
            predicted_any: Some(self.model.any_lost(files, row.dead)),
            ..row
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_interval_equals_published_tables() {
        let (low, high) = confidence(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        // t(3) = 3.1824, s = 1.2910.
        assert!(
            (low - 0.4457).abs() < 1e-3 && (high - 4.5543).abs() < 1e-3,
            "{low} {high}"
        );
        assert_eq!(confidence(&[1.0]), None);
        assert_eq!(confidence(&[2.0, 2.0]), Some((2.0, 2.0)));
    }
}
