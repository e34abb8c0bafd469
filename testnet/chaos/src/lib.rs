//! `testnet chaos`: clients that use a network of real daemons all the time while faults are injected, and an
//! audit of what was acknowledged to the clients.
//!
//! What is asserted: no read ever brings wrong bytes, nor a file that was deleted; in the end every file that
//! was acknowledged and not deleted is identical, every deleted one is gone, all devices of the account that
//! some daemons share list the same names with every acknowledged version, the ring is one, every stripe has
//! all its shards, and daemons hold no shard that belongs to no file. Operations may fail meanwhile; they are
//! counted. Who is hurt when and how follows from the seed, what happens between does not: daemons are
//! real.

mod account;
mod audit;
mod cluster;
mod disk;
mod injector;
mod inside;
mod journal;
mod names;
mod proxy;
mod report;
mod tolerance;
mod workload;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use audit::Audit;
use cluster::Cluster;
use injector::FaultInjector;
use journal::{Fate, PutJournal};
use tolerance::{FEWEST, Tolerance};
use workload::Workload;

use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::{self, FleetError, require};
use mutualstore_fleet::scratch::RunOptions;

pub use injector::{Fault, Tally};
pub use inside::{Estate, Inside, NamedFiles, ShardName};
pub use proxy::Passed;
pub use report::ChaosReport;
pub use workload::{Count, Operations};

const CLIENTS: u64 = 4;
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
    let few = format!("take at least {FEWEST} peers: fewer cannot lose one and be whole again");
    require(options.peers >= FEWEST, few)?;
    let in_range = options.minutes > 0.0 && options.minutes <= LONGEST;
    require(
        in_range,
        format!("minutes must be more than 0 and at most {LONGEST}"),
    )?;
    let seed = options.seed.unwrap_or_else(net::random_seed);
    let capacities = Capacities::repeating((1..=3).map(|ratio| ratio * CAPACITY));
    let mut run = options.run.clone();
    run.flags
        .splice(0..0, FLAGS.iter().flatten().map(|&word| word.to_owned()));
    narrate(&format!("starting {} daemons", options.peers));
    let cluster = Cluster::start_all(&run, capacities, seed, options.peers)?;
    match carry_out(&cluster, options, seed, inside, narrate) {
        Ok(mut report) => {
            if !report.is_good() {
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
    names::begin(cluster)?;
    let journal = PutJournal::create(&cluster.dir().join("journal"));
    let journal = journal.map_err(FleetError::io("cannot write the journal"))?;
    let tolerance = Tolerance::of(options.peers);
    let workload = Workload::new(cluster, &journal, &tolerance);
    let audit = Audit::new(&workload, inside);
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
    workload.finish_deletions()?;
    for wrong in workload.names.audit(cluster)? {
        workload.violation(wrong);
    }
    audit.wait_safe()?;
    audit.read_all();
    let stock = audit.settle()?;
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
        versions_named: workload.names.count(),
        files_half_deleted: count(|fate| *fate == Fate::Deleting),
        shards_expected: stock.expected(),
        shards_held: stock.held(),
        orphans: stock.orphans,
        used_bytes: stock.used_bytes,
        disk_bytes: stock.disk_bytes,
        passed: cluster.passed(),
        operations: workload.operations(),
        kept: None,
    })
}
