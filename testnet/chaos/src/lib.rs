//! `testnet chaos`: clients that use a network of real daemons all the time while faults are injected, and an
//! audit of what was acknowledged to the clients.
//!
//! What is asserted: no read ever brings wrong bytes, nor a file that was deleted; in the end every file that
//! was acknowledged and not deleted is identical, every deleted one is gone, the ring is one, every stripe
//! has all its shards, and daemons hold no shard that belongs to no file. Operations may fail meanwhile; they
//! are counted. Who is hurt when and how follows from the seed, what happens between does not: daemons are
//! real.

mod audit;
mod cluster;
mod disk;
mod injector;
mod inside;
mod journal;
mod proxy;
mod report;
mod tolerance;
mod workload;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use audit::{Audit, Stock};
use cluster::Cluster;
use injector::FaultInjector;
use journal::{Fate, PutJournal};
use tolerance::{FEWEST, Tolerance};
use workload::Workload;

use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::{self, FleetError};
use mutualstore_fleet::scratch::RunOptions;

pub use injector::{Fault, Tally};
pub use inside::{Estate, Inside, ShardName};
pub use proxy::Passed;
pub use report::ChaosReport;
pub use workload::{Count, Operations};

const CLIENTS: u64 = 4;
/// What a store may take on disk beside its shards: a twentieth of them,
const OVERHEAD: u64 = 20;
/// its reserve, its index and what is not worth compacting,
const FIXED_OVERHEAD: u64 = 6 << 20;
/// and for each tombstone and locator its record and its place in the index.
const OF_SMALL_RECORD: u64 = 1 << 10;
/// Peers have 1, 2 or 3 times that.
const CAPACITY: u64 = 256 << 20;
/// The longest run; what it puts must fit.
const LONGEST: f64 = 24.0 * 60.0;
/// For daemons that come and go by the second. A lease must outlast ten repair delays.
const FLAGS: [[&str; 2]; 3] = [
    ["--repair-delay", "2s"],
    ["--pending-lease", "20s"],
    ["--write-timeout", "5s"],
];

/// What to do to whom.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// What every command on temporary daemons takes.
    pub run: RunOptions,
    /// How long the network is hurt, in minutes.
    pub minutes: f64,
    /// It goes on after that until so many daemons were killed.
    pub kills: u64,
    /// Number of daemons at the start.
    pub peers: usize,
    /// Seed of who is hurt, when and how; random when absent.
    pub seed: Option<u64>,
}

/// Runs chaos; `narrate` receives a line about each step.
pub fn run(
    options: &ChaosOptions,
    inside: &dyn Inside,
    narrate: &dyn Fn(&str),
) -> Result<ChaosReport, FleetError> {
    if options.peers < FEWEST {
        let why = format!("take at least {FEWEST} peers: fewer cannot lose one and be whole again");
        return Err(FleetError::Usage(why));
    }
    if !(options.minutes > 0.0 && options.minutes <= LONGEST) {
        let why = format!("minutes must be more than 0 and at most {LONGEST}");
        return Err(FleetError::Usage(why));
    }
    let seed = options.seed.unwrap_or_else(net::random_seed);
    let capacities = Capacities::repeating((1..=3).map(|ratio| ratio * CAPACITY));
    let mut run = options.run.clone();
    run.flags
        .splice(0..0, FLAGS.iter().flatten().map(|&word| word.to_owned()));
    narrate(&format!("starting {} daemons", options.peers));
    let cluster = Cluster::start_all(&run, capacities, seed, options.peers)?;
    match carry_out(&cluster, options, seed, inside, narrate) {
        Ok(mut report) => {
            if !report.operations.violations.is_empty() {
                report.kept = Some(cluster.keep());
            }
            Ok(report)
        }
        Err(error) => Err(FleetError::Broken {
            error: Box::new(error),
            seed,
            place: cluster.keep(),
        }),
    }
}

fn carry_out(
    cluster: &Cluster,
    options: &ChaosOptions,
    seed: u64,
    inside: &dyn Inside,
    narrate: &dyn Fn(&str),
) -> Result<ChaosReport, FleetError> {
    let begun = Instant::now();
    cluster.whole()?;
    let journal = PutJournal::create(&cluster.dir().join("journal"));
    let journal = journal.map_err(FleetError::io("cannot write the journal"))?;
    let tolerance = Tolerance::of(options.peers);
    let audit = Audit::new(cluster, &journal, inside);
    let workload = Workload::new(cluster, &journal, &tolerance);
    let injector = FaultInjector::new(cluster, &audit, &tolerance, inside, options.peers);
    let deadline = begun + Duration::from_secs_f64(options.minutes * 60.0);
    thread::scope(|scope| {
        let workload = &workload;
        for client in 0..CLIENTS {
            scope.spawn(move || workload.run(seed.wrapping_mul(CLIENTS).wrapping_add(client)));
        }
        let hurt = injector.run(seed, deadline, options.kills, narrate);
        workload.over.store(true, Ordering::Release);
        hurt
    })?;
    narrate("the audit");
    cluster.whole()?;
    finish_deletions(&journal, &workload)?;
    audit.wait_safe()?;
    audit.read_all(&workload);
    let stock = settle(&audit, &workload)?;
    journal
        .check()
        .map_err(FleetError::io("cannot write the journal"))?;
    let count = |wanted: fn(&Fate) -> bool| journal.count(|file| wanted(&file.fate)) as u64;
    Ok(ChaosReport {
        seed,
        seconds: begun.elapsed().as_secs_f64(),
        peers: cluster.members().len(),
        faults: injector.tallies(),
        disks: cluster::has_disks(),
        files_stored: count(|fate| *fate == Fate::Stored),
        files_deleted: count(|fate| matches!(fate, Fate::Deleted(_))),
        files_half_deleted: count(|fate| *fate == Fate::Deleting),
        shards_expected: stock.expected(),
        shards_held: stock.held.values().sum(),
        orphans: stock.orphans,
        used_bytes: stock.used_bytes,
        disk_bytes: stock.disk_bytes,
        passed: cluster.passed(),
        operations: workload.operations(),
        kept: None,
    })
}

/// Deletions whose outcome is not known are asked for again, where the owner is still there. What never goes
/// is a violation.
fn finish_deletions(journal: &PutJournal, workload: &Workload<'_>) -> Result<(), FleetError> {
    let mut last = String::new();
    let finished = workload.cluster.until("deletions to be finished", || {
        let begun = journal.all(|file| file.fate == Fate::Deleting);
        let mut left = begun
            .iter()
            .filter(|file| workload.cluster.client(file.owner).is_some());
        left.all(|file| {
            let removed = workload.remove(file);
            if let Err(error) = &removed {
                last = format!(
                    "file {} ({} bytes) through peer {}: {error}",
                    file.noise, file.size, file.owner
                );
            }
            removed.is_ok()
        })
        .then_some(())
    });
    if let Err(FleetError::Late { .. }) = finished {
        workload.violation(format!("a deletion cannot be finished: {last}"));
        return Ok(());
    }
    finished
}

/// Waits until daemons hold exactly the shards that files have. What never goes is a violation.
fn settle(audit: &Audit<'_>, workload: &Workload<'_>) -> Result<Stock, FleetError> {
    let mut last = Stock::default();
    let fits = |stock: &Stock| {
        let (held, expected) = (stock.held.values().sum::<u64>(), stock.expected());
        let there = |(number, expected): (&usize, &BTreeSet<ShardName>)| {
            stock.held.get(number).unwrap_or(&0) >= &(expected.len() as u64)
        };
        let fixed = FIXED_OVERHEAD * audit.cluster.members().len() as u64;
        let disk = stock.used_bytes / OVERHEAD + fixed + OF_SMALL_RECORD * stock.small_records;
        held <= expected + stock.orphans
            && stock.disk_bytes <= stock.used_bytes + disk
            && stock.expected.iter().all(there)
    };
    let settled = audit.cluster.until("shards to be where they belong", || {
        last = audit.stock()?;
        fits(&last).then_some(())
    });
    match settled {
        Ok(()) => {}
        Err(FleetError::Late { .. }) => workload.violation(format!(
            "shards that belong to no file, or belong elsewhere, or take too much: {last}"
        )),
        Err(error) => return Err(error),
    }
    Ok(last)
}
