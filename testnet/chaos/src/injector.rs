//! Faults are injected in rounds. In most rounds as many peers as the codes tolerate are hurt at once,
//! each in a way of its own that leaves its disk as it is. Before a disk is wiped or corrupted or a peer
//! leaves for good, everybody is well and every file has all its shards, and afterwards the round ends only
//! when it has them again: so what is lost is lost by the network, not by a killer without measure.
//!
//! The simulator injects its faults by code of its own. Its faults are moments of a scenario that a seed drew
//! before the run, and nobody waits for what follows from one. These are episodes that are drawn as the run
//! goes, from what is alive and whole at that moment, and each ends before the next round begins. Killing,
//! restarting, pausing, cutting off and wiping are common to both, by name alone.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_contract::exit;
use mutualstore_contract::reply::Departure;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::audit::Audit;
use super::cluster::{Cluster, LIMIT, has_disks};
use super::inside::Inside;
use super::proxy::NetworkFault;
use super::tolerance::Tolerance;
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::parallel::each;
use mutualstore_fleet::spawn::POLL;

/// How something that is done to a cluster ends.
type Done = Result<(), FleetError>;

/// Kills of each victim in a storm.
const STORM: usize = 5;
/// Shards corrupted at one peer.
const CORRUPTED: usize = 40;

/// A kind of fault.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, strum::Display, strum::EnumIter,
)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL, started again later.
    #[strum(to_string = "SIGKILL")]
    Kill,
    /// All daemons at once: SIGKILL, then all started again.
    #[strum(to_string = "SIGKILL of all at once")]
    KillAll,
    /// SIGTERM, started again.
    #[strum(to_string = "SIGTERM and start")]
    Restart,
    /// SIGSTOP, SIGCONT later.
    #[strum(to_string = "SIGSTOP")]
    Pause,
    /// Connections to it end.
    #[strum(to_string = "connections cut")]
    Cut,
    /// They are slow.
    #[strum(to_string = "connections slow")]
    Slow,
    /// They carry nothing.
    #[strum(to_string = "connections stalled")]
    Stall,
    /// Bits flip in them.
    #[strum(to_string = "bits flipped in transit")]
    Garble,
    /// Its disk is full.
    #[strum(to_string = "disk full")]
    FillDisk,
    /// SIGKILL, and its disk is wiped.
    #[strum(to_string = "disk wiped")]
    WipeDisk,
    /// Bytes of its shards flip on the disk.
    #[strum(to_string = "shards corrupted on disk")]
    Corrupt,
    /// A newcomer joins.
    #[strum(to_string = "peer added")]
    Add,
    /// It hands over all it holds and leaves.
    #[strum(to_string = "peer drained")]
    Drain,
}

/// How often a kind of fault happened, and how often the network was well again after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Times it was injected.
    pub injected: u64,
    /// Times the peer was back (or gone as it should be) and, where a disk suffered, every file whole again.
    pub survived: u64,
    /// Daemons killed by it.
    pub kills: u64,
}

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
enum Round {
    /// Several peers, each in a way of its own.
    Blips,
    /// Several peers, killed again and again.
    Storm,
    KillAll,
    Wipe,
    Corrupt,
    Add,
    Drain,
}

/// The order of a cycle is drawn; then the next one begins.
const CYCLE: [Round; 13] = {
    use Round::{Add, Blips, Corrupt, Drain, KillAll, Storm, Wipe};
    [
        Blips, Blips, Blips, Blips, Blips, Storm, Storm, KillAll, Wipe, Corrupt, Add, Drain, Storm,
    ]
};

const BLIPS: [Fault; 9] = {
    use Fault::{Cut, FillDisk, Garble, Kill, Pause, Restart, Slow, Stall};
    [Kill, Kill, Restart, Pause, Cut, Slow, Stall, Garble, FillDisk]
};

/// Hands out what it was given in a random order, again and again.
#[derive(Debug)]
struct Deck<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    fn new(all: &[T]) -> Self {
        Self {
            all: all.to_vec(),
            left: Vec::new(),
        }
    }

    fn draw(&mut self, rng: &mut ChaCha8Rng) -> Option<T> {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.left.shuffle(rng);
        }
        self.left.pop()
    }
}

/// Injects the faults of one run.
pub(super) struct FaultInjector<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) audit: &'a Audit<'a>,
    pub(super) tolerance: &'a Tolerance,
    inside: &'a dyn Inside,
    /// Members there are when nobody came or went.
    pub(super) peers: usize,
    tallies: Mutex<BTreeMap<Fault, Tally>>,
}

impl<'a> FaultInjector<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        audit: &'a Audit<'a>,
        tolerance: &'a Tolerance,
        inside: &'a dyn Inside,
        peers: usize,
    ) -> Self {
        Self {
            cluster,
            audit,
            tolerance,
            inside,
            peers,
            tallies: Mutex::default(),
        }
    }

    /// Hurts until `deadline` and until so many were killed, and returns when everybody is well again.
    pub(super) fn run(&self, seed: u64, deadline: Instant, kills: u64, narrate: &dyn Fn(&str)) -> Done {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rounds = Deck::new(&CYCLE);
        let mut blips = Deck::new(&BLIPS);
        if !has_disks() {
            blips.all.retain(|fault| *fault != Fault::FillDisk);
        }
        while Instant::now() < deadline || self.kills() < kills {
            let Some(round) = rounds.draw(&mut rng) else { break };
            narrate(&format!(
                "{} s left, {round:?}",
                deadline.saturating_duration_since(Instant::now()).as_secs()
            ));
            match round {
                Round::Blips => self.blips(&mut blips, &mut rng),
                Round::Storm => self.storm(&mut rng),
                Round::KillAll => self.kill_all(&mut rng),
                Round::Wipe => self.wipe(&mut rng),
                Round::Corrupt => self.corrupt(&mut rng),
                Round::Add => self.add(),
                Round::Drain => self.drain(&mut rng),
            }?;
            self.cluster.check()?;
        }
        Ok(())
    }

    fn kills(&self) -> u64 {
        self.tallies().values().map(|tally| tally.kills).sum()
    }

    fn victims(&self, count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        self.cluster.members().sample(rng, count).copied().collect()
    }

    fn blips(&self, deck: &mut Deck<Fault>, rng: &mut ChaCha8Rng) -> Done {
        let mut chosen: Vec<(usize, Fault, Duration)> = Vec::new();
        for victim in self.victims(self.tolerance.hurt, rng) {
            let Some(fault) = deck.draw(rng) else { break };
            let length = Duration::from_millis(rng.random_range(300..9_000));
            let free = |number: &usize| chosen.iter().all(|(taken, ..)| taken != number);
            let able = |number: &usize| fault == Fault::FillDisk && self.cluster.has_disk(*number);
            let members = self.cluster.members().into_iter();
            let with_disk = members.filter(|number| able(number) && free(number)).max();
            let victim = with_disk.unwrap_or(victim);
            if free(&victim) {
                chosen.push((victim, fault, length));
            }
        }
        together(&chosen, |(victim, fault, length)| {
            self.blip(*victim, *fault, *length)
        })
    }

    /// One fault from its beginning to the peer's recovery.
    fn blip(&self, victim: usize, fault: Fault, length: Duration) -> Done {
        self.inject(fault, 1, || {
            self.hurt(victim, fault, length)?;
            let well = || self.cluster.client(victim)?.healthy().ok()?.then_some(());
            self.cluster
                .until(&format!("peer {victim} to be well after: {fault}"), well)
        })
    }

    fn hurt(&self, victim: usize, fault: Fault, length: Duration) -> Done {
        let cluster = self.cluster;
        match fault {
            Fault::Kill => {
                cluster.kill(victim);
                thread::sleep(length);
                cluster.start(&[victim])?;
            }
            Fault::Restart => {
                cluster.stop(victim)?;
                cluster.start(&[victim])?;
            }
            Fault::Pause => {
                let client = cluster.pause(victim)?;
                thread::sleep(length);
                cluster.resume(victim, client)?;
            }
            Fault::FillDisk => {
                cluster.fill_disk(victim, true)?;
                thread::sleep(length);
                cluster.fill_disk(victim, false)?;
            }
            Fault::Cut => self.disturb(victim, NetworkFault::Cut, length),
            Fault::Slow => self.disturb(victim, NetworkFault::Slow, length),
            Fault::Stall => self.disturb(victim, NetworkFault::Stalled, length),
            Fault::Garble => self.disturb(victim, NetworkFault::Garbled, length),
            Fault::KillAll | Fault::WipeDisk | Fault::Corrupt | Fault::Add | Fault::Drain => {}
        }
        Ok(())
    }

    fn disturb(&self, victim: usize, network_fault: NetworkFault, length: Duration) {
        self.cluster.network_fault(victim, network_fault);
        thread::sleep(length);
        self.cluster.network_fault(victim, NetworkFault::Clear);
    }

    fn storm(&self, rng: &mut ChaCha8Rng) -> Done {
        for _ in 0..STORM {
            let victims = self.victims(self.tolerance.hurt, rng).into_iter();
            let chosen: Vec<(usize, Duration)> = victims
                .map(|victim| (victim, Duration::from_millis(rng.random_range(0..1_500))))
                .collect();
            together(&chosen, |(victim, length)| {
                self.blip(*victim, Fault::Kill, *length)
            })?;
        }
        Ok(())
    }

    fn kill_all(&self, rng: &mut ChaCha8Rng) -> Done {
        let mut all = self.cluster.members();
        all.shuffle(rng);
        self.note(Fault::KillAll, |tally| tally.kills += all.len() as u64);
        self.inject(Fault::KillAll, 1, || {
            together(&all, |victim| {
                self.cluster.kill(*victim);
                Ok(())
            })?;
            self.cluster.start(&all)?;
            self.cluster.whole()
        })
    }

    fn wipe(&self, rng: &mut ChaCha8Rng) -> Done {
        let count = rng.random_range(1..=self.tolerance.hurt);
        let victims = self.victims(count, rng);
        self.damage(Fault::WipeDisk, victims.len(), || {
            together(&victims, |victim| {
                self.cluster.kill(*victim);
                self.audit.inherit(*victim)?;
                self.cluster.wipe(*victim)
            })?;
            self.cluster.start(&victims)
        })
    }

    /// The daemons run on meanwhile; then each is asked to read its shards again.
    fn corrupt(&self, rng: &mut ChaCha8Rng) -> Done {
        let count = rng.random_range(1..=self.tolerance.hurt);
        let victims = self.victims(count, rng).into_iter();
        let chosen: Vec<(usize, u64)> = victims.map(|victim| (victim, rng.random())).collect();
        let corrupt = |(victim, seed): &(usize, u64)| {
            let dir = self.cluster.data_dir(*victim).unwrap_or_default();
            let damaged = self.inside.damage(&dir, CORRUPTED, *seed);
            let what = format!("cannot damage the shards of peer {victim}");
            damaged.map_err(FleetError::io(what))?;
            let read = || self.cluster.client(*victim)?.scrub(true).ok();
            let what = format!("peer {victim} to re-read its shards");
            self.cluster.until(&what, read).map(drop)
        };
        self.damage(Fault::Corrupt, chosen.len(), || together(&chosen, corrupt))
    }

    /// Newcomers come while there are not more than one too many.
    fn add(&self) -> Done {
        if self.cluster.members().len() > self.peers {
            return Ok(());
        }
        self.inject(Fault::Add, 1, || self.cluster.enter(1).map(drop))
    }

    /// One leaves while another is killed.
    fn drain(&self, rng: &mut ChaCha8Rng) -> Done {
        if self.cluster.members().len() <= self.tolerance.needed().min(self.peers) {
            return Ok(());
        }
        let victims = self.victims(2, rng);
        let [leaver, killed] = victims.as_slice() else {
            return Ok(());
        };
        let begin = |leaves: &bool| {
            if *leaves {
                return self.leave(*leaver);
            }
            self.blip(*killed, Fault::Kill, Duration::from_millis(500))
        };
        self.damage(Fault::Drain, 1, || together(&[true, false], begin))
    }

    fn leave(&self, leaver: usize) -> Done {
        let what = format!("peer {leaver} to hand over");
        let begin = || {
            let begun = self
                .cluster
                .until(&what, || match self.cluster.client(leaver)?.leave(false) {
                    Err(error) if error.retry() || error.exit_code() == exit::REFUSED => None,
                    outcome => Some(outcome),
                })?;
            begun.map_err(FleetError::request(format!("waiting for {what}")))
        };
        begin()?;
        let deadline = Instant::now() + LIMIT;
        while let Some(client) = self.cluster.client(leaver) {
            match client.leaving().map(|reply| reply.body.state) {
                Ok(Departure::Left) | Err(_) => break,
                // Somebody was missing for too long: once more.
                Ok(Departure::Stuck | Departure::Stays) => drop(begin()?),
                Ok(Departure::Draining) => {}
            }
            if Instant::now() > deadline {
                return Err(FleetError::Late { what, waited: LIMIT });
            }
            thread::sleep(POLL);
        }
        self.cluster.departed(leaver)?;
        self.audit.inherit(leaver)
    }

    /// Takes shards away: before that every file has all of them, and afterwards again.
    fn damage(&self, fault: Fault, times: usize, work: impl FnOnce() -> Done) -> Done {
        self.audit.wait_safe()?;
        self.inject(fault, times, || {
            work()?;
            self.audit.wait_safe()
        })
    }

    /// Counts a fault that happens so many times, and once more when all has gone well.
    fn inject(&self, fault: Fault, times: usize, work: impl FnOnce() -> Done) -> Done {
        let times = times as u64;
        let kills = matches!(fault, Fault::Kill | Fault::WipeDisk);
        self.note(fault, |tally| {
            tally.injected += times;
            tally.kills += if kills { times } else { 0 };
        });
        work()?;
        self.note(fault, |tally| tally.survived += times);
        Ok(())
    }

    fn note(&self, fault: Fault, change: impl FnOnce(&mut Tally)) {
        let mut tallies = self.tallies.lock();
        change(tallies.entry(fault).or_default());
    }

    /// What happened so far.
    pub(super) fn tallies(&self) -> BTreeMap<Fault, Tally> {
        self.tallies.lock().clone()
    }
}

/// Does `work` with all items at the same time; the first failure, when all are through.
fn together<T: Sync>(items: &[T], work: impl Fn(&T) -> Done + Sync) -> Done {
    each(items, items.len(), |_, item| work(item)).map(drop)
}
