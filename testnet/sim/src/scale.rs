//! One large ring: a storm of joins, a tenth dies at once, many lookups; what that costs in time and memory.

use std::time::{Duration, Instant};

use mutualstore_dht::ring::RingConfig;
use procfs::process::Process;

use super::lab::{Lab, Plan};

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

struct Clock {
    begun: Instant,
    virtual_s: f64,
    events: u64,
}

impl Clock {
    fn start(lab: &Lab) -> Self {
        Self {
            begun: Instant::now(),
            virtual_s: lab.now(),
            events: lab.counters().events,
        }
    }

    fn stage(&self, lab: &Lab, what: String, well: bool) -> Stage {
        let memory = resident_bytes().unwrap_or(0);
        Stage {
            what,
            virtual_s: lab.now() - self.virtual_s,
            took: self.begun.elapsed(),
            events: lab.counters().events - self.events,
            memory,
            per_node: memory / (lab.nodes() as u64).max(1),
            well,
        }
    }
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
    let clock = Clock::start(&lab);
    lab.grow(size.peers, STORM / u32::try_from(size.peers).unwrap_or(u32::MAX));
    let what = format!(
        "{} peers x {} join within {} s",
        size.peers,
        size.virtual_nodes,
        STORM.as_secs()
    );
    ended(clock.stage(&lab, what, true));

    let clock = Clock::start(&lab);
    let well = lab.settle(look, most).is_some();
    ended(clock.stage(&lab, "one ring, every list right".to_owned(), well));

    let clock = Clock::start(&lab);
    lab.kill(size.peers / 10);
    let well = lab.settle(look, most).is_some();
    ended(clock.stage(
        &lab,
        format!("{} die at once, every list right again", size.peers / 10),
        well,
    ));

    let clock = Clock::start(&lab);
    for _ in 0..size.lookups {
        lab.look_up();
    }
    let found = lab.found();
    let what = format!(
        "{} lookups: {:.2} hops, {:.3} time-outs, {} failed",
        found.lookups,
        found.mean_hops(),
        found.mean_timeouts(),
        found.failures
    );
    ended(clock.stage(&lab, what, found.failures == 0));
}
