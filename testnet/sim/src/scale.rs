//! One large ring: a storm of joins, a tenth dies at once, many lookups; what that costs in time and memory.

use std::time::{Duration, Instant};

use mutualstore_dht::ring::RingConfig;
use procfs::process::Process;

use super::lab::{Found, Lab, Plan};

/// How large, and how hard.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Number of peers.
    pub peers: usize,
    /// Virtual nodes of each.
    pub virtual_nodes: u16,
    /// Lookups in the end.
    pub lookups: u64,
    /// Of all chances.
    pub seed: u64,
}

/// What one stage came to.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What happened.
    pub what: String,
    /// Virtual time that passed, in seconds.
    pub virtual_s: f64,
    /// Real time.
    pub took: Duration,
    /// Events handled.
    pub events: u64,
    /// Memory of the whole process, in bytes.
    pub memory: u64,
    /// That memory per virtual node that runs.
    pub per_node: u64,
    /// Whether all was as it should be in the end.
    pub well: bool,
}

/// Between two looks at all lists, and how many looks a stage may take.
const LOOK: (Duration, u32) = (Duration::from_secs(4), 150);
/// All newcomers come within this time.
const STORM: Duration = Duration::from_secs(10);

/// Bounds of what a peer knows beyond its lists and fingers: a daemon has a machine of its own, these share
/// one.
const MAX_LEARNED: usize = 64;
/// The same, the dead and those off the circle included.
const MAX_BOOK: usize = 256;

/// Memory of this process.
fn resident_bytes() -> Option<u64> {
    Some(Process::myself().ok()?.status().ok()?.vmrss? * 1024)
}

/// Goes through all stages and hands on each one as it ends.
pub fn run(size: Size, mut ended: impl FnMut(Stage)) {
    let mut lab = Lab::new(Plan {
        ring: RingConfig {
            max_learned: MAX_LEARNED,
            max_book: MAX_BOOK,
            ..RingConfig::default()
        },
        virtual_nodes: size.virtual_nodes,
        weigh: None,
        seed: size.seed,
    });
    let (look, most) = LOOK;
    let mut stage = |act: &dyn Fn(&mut Lab) -> (String, bool)| {
        let (begun, virtual_s, events) = (Instant::now(), lab.now(), lab.counters().events);
        let (what, well) = act(&mut lab);
        let memory = resident_bytes().unwrap_or(0);
        ended(Stage {
            what,
            virtual_s: lab.now() - virtual_s,
            took: begun.elapsed(),
            events: lab.counters().events - events,
            memory,
            per_node: memory / (lab.nodes() as u64).max(1),
            well,
        });
    };
    let Size {
        peers,
        virtual_nodes,
        lookups,
        ..
    } = size;
    stage(&|lab| {
        lab.grow(peers, STORM / u32::try_from(peers).unwrap_or(u32::MAX));
        let within = STORM.as_secs();
        (
            format!("{peers} peers x {virtual_nodes} join within {within} s"),
            true,
        )
    });
    stage(&|lab| {
        let well = lab.settle(look, most).is_some();
        ("one ring, every list right".to_owned(), well)
    });
    stage(&|lab| {
        lab.kill(peers / 10);
        let well = lab.settle(look, most).is_some();
        (
            format!("{} die at once, every list right again", peers / 10),
            well,
        )
    });
    stage(&|lab| {
        let found = lab.search(lookups);
        let (hops, timeouts) = (found.mean_hops(), found.mean_timeouts());
        let Found {
            lookups, failures, ..
        } = found;
        (
            format!("{lookups} lookups: {hops:.2} hops, {timeouts:.3} time-outs, {failures} failed"),
            failures == 0,
        )
    });
}
