//! How fast, and at what price: puts and gets of several sizes against real daemons, and the repair of a
//! killed one; one CSV row per case.
//!
//! CPU is user plus system time of *all* daemons from `/proc`, so it counts hops, hashing and parity
//! wherever they happen; the client's own work is not in it. Every byte got is compared with the byte put.

mod repair;

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use itertools::Itertools;
use mutualstore_client::PutOptions;
use mutualstore_contract::units::Size;

use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::parallel::side_by_side;
use mutualstore_fleet::proc;
use mutualstore_fleet::scratch::{RunOptions, Scratch};
use mutualstore_fleet::stream::{get, put};

/// Over which idle daemons are watched.
const IDLE_WINDOW: Duration = Duration::from_secs(10);

/// The first line of the output.
pub const HEADER: &str = "case,size,concurrency,op,MBps,opsps,p50ms,p99ms,cpu_s_per_GiB";

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// What every command on temporary daemons takes.
    pub run: RunOptions,
    /// Number of daemons.
    pub peers: usize,
    /// Code of every put.
    pub code: String,
    /// File sizes for one client, bytes.
    pub sizes: Vec<u64>,
    /// Fewer repetitions.
    pub quick: bool,
}

/// One line of the output. Fields that a case does not have are empty.
///
/// Transfers: `size` is that of a file, `concurrency` the number of clients. Cases `fresh-*` (before any
/// transfer) and `idle-*` (after all) have one row per daemon with its number as `concurrency`: of
/// `*-rss`, `size` is its resident memory in bytes; of `*-cpu`, `p50ms` is the milliseconds of CPU it used
/// per second of doing nothing (10 ms are 1 % of a core). The last row is the repair of a killed peer, by
/// `concurrency` others: bytes and shards rebuilt per second; none where too few peers are left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Name of the case.
    pub case: String,
    /// Size of the file in bytes.
    pub size: Option<u64>,
    /// Clients, or number of the daemon.
    pub concurrency: usize,
    /// `put`, `get`, `idle` or `repair`.
    pub op: &'static str,
    /// 10^6 bytes per second over all clients.
    pub mb_per_s: Option<f64>,
    /// Operations per second over all clients.
    pub ops_per_s: Option<f64>,
    /// Median latency, milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile of latency, milliseconds.
    pub p99_ms: Option<f64>,
    /// CPU seconds of all daemons per GiB of files.
    pub cpu_s_per_gib: Option<f64>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size.iter().join("");
        write!(f, "{},{size},{},{}", self.case, self.concurrency, self.op)?;
        let rates = [(self.mb_per_s, 1), (self.ops_per_s, 1)];
        let costs = [(self.p50_ms, 2), (self.p99_ms, 2), (self.cpu_s_per_gib, 2)];
        for (value, digits) in rates.into_iter().chain(costs) {
            f.write_str(",")?;
            if let Some(value) = value {
                write!(f, "{value:.digits$}")?;
            }
        }
        Ok(())
    }
}

struct Case {
    name: String,
    size: u64,
    clients: usize,
    repeat: usize,
}

const SMALL: u64 = 4096;

fn cases(options: &BenchOptions) -> Vec<Case> {
    let (budget, most, small) = if options.quick {
        (128 << 20, 16, [(1, 50), (16, 20)])
    } else {
        (512 << 20, 64, [(1, 300), (16, 100)])
    };
    let single = options.sizes.iter().map(|size| Case {
        name: Size(*size).to_string().replace(' ', ""),
        size: *size,
        clients: 1,
        repeat: usize::try_from(budget / (*size).max(1))
            .unwrap_or(most)
            .clamp(1, most),
    });
    let small = small.map(|(clients, repeat)| Case {
        name: "4KiB".to_owned(),
        size: SMALL,
        clients,
        repeat,
    });
    single.chain(small).collect()
}

/// Measures every case; `emit` is given each row as it is known.
pub fn run(options: &BenchOptions, emit: &mut dyn FnMut(&Row)) -> Result<(), FleetError> {
    let (cases, peers) = (cases(options), options.peers);
    let bytes: u64 = cases
        .iter()
        .map(|case| case.size * (case.clients * case.repeat) as u64)
        .sum();
    // A peer holds at most one shard of a stripe, so this fits whatever the code.
    let capacities = Capacities::same((bytes + bytes / 4).max(1 << 30));
    let run = options.run.with_repair_delay();
    let mut scratch = Scratch::up(&run, "mutualstore-bench-", peers, capacities, 0)?;
    scratch.settle()?;
    idle(&scratch, "fresh", emit)?;
    let mut seed = 0;
    for case in &cases {
        let size = Size(case.size);
        let options = PutOptions {
            code: Some(options.code.clone()),
            ..PutOptions::default()
        };
        let put = |client: usize, seed: u64| {
            let client = scratch.client(client % peers)?;
            let stored = put(&client, seed, case.size, &options)
                .map_err(FleetError::request(format!("put of {size} failed")))?;
            Ok((seed, stored.link))
        };
        let (row, links) = measure(&scratch, case, "put", seed, &put)?;
        emit(&row);
        scratch.settle()?;
        let links = BTreeMap::from_iter(links);
        let get = |client: usize, seed: u64| {
            // Far from the writer, which may have the blocks in memory.
            let client = scratch.client((client + peers / 2) % peers)?;
            let link = links.get(&seed).map_or("", String::as_str);
            get(&client, link, seed, case.size).map_err(FleetError::request(format!("get of {size} failed")))
        };
        emit(&measure(&scratch, case, "get", seed, &get)?.0);
        scratch.settle()?;
        seed += (case.clients * case.repeat) as u64;
    }
    idle(&scratch, "idle", emit)?;
    if let Some(row) = repair::measure(&mut scratch)? {
        emit(&row);
    }
    Ok(())
}

/// Runs a case's clients side by side and times every operation, given its client and seed; what came of
/// them.
fn measure<T: Send>(
    scratch: &Scratch,
    case: &Case,
    op: &'static str,
    first_seed: u64,
    operate: &(dyn Fn(usize, u64) -> Result<T, FleetError> + Sync),
) -> Result<(Row, Vec<T>), FleetError> {
    let cpu = cpu_time(scratch)?;
    let begun = Instant::now();
    let run = |client: usize| -> Result<Vec<(Duration, T)>, FleetError> {
        let one = |number: usize| {
            let seed = first_seed + (client * case.repeat + number) as u64;
            let begun = Instant::now();
            let outcome = operate(client, seed)?;
            Ok((begun.elapsed(), outcome))
        };
        (0..case.repeat).map(one).collect()
    };
    let all = side_by_side(case.clients, run)?;
    let seconds = begun.elapsed().as_secs_f64().max(1e-9);
    let cpu_seconds = cpu_time(scratch)?.saturating_sub(cpu).as_secs_f64();
    let (mut latencies, outcomes): (Vec<_>, Vec<_>) = all.into_iter().flatten().unzip();
    latencies.sort_unstable();
    Ok((row(case, op, &latencies, seconds, cpu_seconds), outcomes))
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn row(case: &Case, op: &'static str, latencies: &[Duration], seconds: f64, cpu_seconds: f64) -> Row {
    let operations = latencies.len() as f64;
    let bytes = operations * case.size as f64;
    Row {
        case: case.name.clone(),
        size: Some(case.size),
        concurrency: case.clients,
        op,
        mb_per_s: Some(bytes / 1e6 / seconds),
        ops_per_s: Some(operations / seconds),
        p50_ms: percentile(latencies, 50),
        p99_ms: percentile(latencies, 99),
        cpu_s_per_gib: Some(cpu_seconds / (bytes / f64::from(1 << 30))),
    }
}

/// Nearest-rank percentile of sorted latencies, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|latency| latency.as_secs_f64() * 1e3)
}

fn gone(index: usize) -> FleetError {
    FleetError::Failed(format!("daemon {index} is gone"))
}

fn cpu_times(scratch: &Scratch) -> Result<Vec<Duration>, FleetError> {
    let time = |(index, pid): (usize, u32)| proc::cpu_time(pid).ok_or_else(|| gone(index));
    scratch.pids().into_iter().map(time).collect()
}

/// Of all daemons together.
fn cpu_time(scratch: &Scratch) -> Result<Duration, FleetError> {
    Ok(cpu_times(scratch)?.into_iter().sum())
}

/// Memory and CPU of daemons that have nothing to do.
fn idle(scratch: &Scratch, name: &str, emit: &mut dyn FnMut(&Row)) -> Result<(), FleetError> {
    let before = cpu_times(scratch)?;
    let begun = Instant::now();
    thread::sleep(IDLE_WINDOW);
    let after = cpu_times(scratch)?;
    let seconds = begun.elapsed().as_secs_f64();
    for (((index, pid), before), after) in scratch.pids().into_iter().zip(before).zip(after) {
        let rss = proc::rss_bytes(pid).ok_or_else(|| gone(index))?;
        let row = |kind: &str, size, cpu_ms| Row {
            case: format!("{name}-{kind}"),
            size,
            concurrency: index,
            op: "idle",
            p50_ms: cpu_ms,
            ..Row::default()
        };
        emit(&row("rss", Some(rss), None));
        let used = after.saturating_sub(before).as_secs_f64();
        emit(&row("cpu", None, Some(used * 1e3 / seconds)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(sizes: Vec<u64>, quick: bool) -> BenchOptions {
        BenchOptions {
            run: RunOptions {
                binary: "/bin/false".into(),
                ..RunOptions::default()
            },
            peers: 2,
            code: "rs:4+2".to_owned(),
            sizes,
            quick,
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let latencies: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&latencies, 50), Some(100.0));
        assert_eq!(percentile(&latencies, 99), Some(198.0));
        assert_eq!(percentile(&latencies[..1], 99), Some(1.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn bench_cases_cover_sizes_and_both_small_loads() {
        let cases = cases(&options(vec![1 << 20, 100 << 20, 1 << 30], false));
        let shape: Vec<_> = cases
            .iter()
            .map(|case| (case.name.as_str(), case.clients, case.repeat))
            .collect();
        let expected = [
            ("1MiB", 1, 64),
            ("100MiB", 1, 5),
            ("1GiB", 1, 1),
            ("4KiB", 1, 300),
            ("4KiB", 16, 100),
        ];
        assert_eq!(shape, expected);
    }

    #[test]
    fn csv_rows_have_as_many_fields_as_the_header() {
        let case = Case {
            name: "1MiB".to_owned(),
            size: 1 << 20,
            clients: 1,
            repeat: 1,
        };
        let text = row(&case, "put", &[Duration::from_millis(500)], 0.5, 0.01).to_string();
        assert_eq!(text, "1MiB,1048576,1,put,2.1,2.0,500.00,500.00,10.24");
        assert_eq!(text.split(',').count(), HEADER.split(',').count());
    }

    #[test]
    fn daemons_without_a_binary_are_an_error() {
        let failure = run(&options(vec![1], true), &mut |row| panic!("measured {row}")).unwrap_err();
        assert!(matches!(failure, FleetError::Spawn(_)), "{failure}");
    }
}
