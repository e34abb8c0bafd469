//! How the files put here are doing: asked in the background, remembered, told at no cost.
//!
//! A listing that asked the holders of every file would cost a question a stripe and holder. Instead each
//! file's health is remembered with the time of the answer, and asked again
//!
//! * in turn: a file that is safe is due again after [`PERIOD`], or after 13 ms for each stripe of all files
//!   where that is longer (beyond some 67,000 stripes). Then [`STEADY`] stripes a second are asked about,
//!   each of its holders counted, for some 1 % of one core among all peers. So an answer is never older than
//!   the period and the time of one round: 20 minutes for 30,000 files of three copies, 40 for 100,000;
//! * at once, [`URGENT`] stripes a second, when a peer went or came that may hold shards of the file;
//! * more and more rarely, from [`FIRST`] to [`LAST`] after the answer, while the file is not safe, and from
//!   the beginning when this peer repaired something or the time came for others to repair what a peer held.
//!
//! After a put the health is known without a question. After a start nothing is known, and everything is due.
//!
//! Cost. A stripe is asked of the n peers that should hold it, in questions of up to 256 stripes to one peer;
//! only where they do not hold all of it, of others. A thousand files of one stripe with three copies are
//! some 18 questions and 290 KB of traffic, both ways together, on a ring of eight peers. In memory a file
//! takes some 150 bytes, and 34 for each of its stripes where it has more than one; a file of which the
//! stripes are not in memory (after a start, or beyond [`MAX_PARTS`]) has its manifest read first.

mod ask;
mod remembered;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mutualstore_dht::writer::Placed;
use mutualstore_dht::{Id, Peer, Time};
use tokio::sync::Notify;

pub(crate) use self::remembered::Remembered;
use super::health::health_of;
use crate::datadir::list::index::Index;
use crate::error::Failure;
use crate::transfer::Transfers;
use mutualstore_contract::reply::Health;

/// A file that is safe is asked about again after this, or later where there are many.
const PERIOD: Duration = Duration::from_mins(15);
/// Stripes asked about in a second, each holder counted, when nothing happened.
const STEADY: u32 = 300;
/// The same after something happened.
const URGENT: u32 = 10_000;
/// How many peers a stripe is asked of, on the average, to say how long a round takes.
const ASKED_EACH: u32 = 4;
/// A file that is not safe is asked about again after this,
const FIRST: Duration = Duration::from_secs(2);
/// and each time later, until it is this.
const LAST: Duration = Duration::from_mins(5);
/// What happens within this is answered together.
const TOGETHER: Duration = Duration::from_millis(500);
/// Repairs here are noticed this often at most.
const REPAIRS: Duration = Duration::from_secs(5);
/// Where others repair what a peer held, they begin when it counts as gone and are done with much of it after
/// this.
const REPAIRED: Duration = Duration::from_secs(2);
/// Stripes of the files of one batch, about: when something happened, and when nothing did.
const BATCH: (usize, usize) = (2048, 256);
/// Stripes asked about together.
const STRIPES: usize = 2048;
/// A file whose stripes are not in memory counts as so many.
const UNKNOWN: usize = 16;
/// Stripes kept in memory of all files that have more than one: some 70 MB.
const MAX_PARTS: usize = 2 << 20;
/// When nothing is due, it is looked again after this: a put that a crash interrupted may have come into the
/// list.
const IDLE: Duration = Duration::from_mins(1);
/// While the ring is not settled, it is looked again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// One stripe of a file.
#[derive(Clone, Copy, Debug)]
struct Part {
    stripe: Id,
    k: u8,
    n: u8,
}

/// Which stripes a file has.
#[derive(Debug, Default)]
enum Layout {
    /// Its manifest says.
    #[default]
    Unknown,
    /// It has these.
    Known(Kept),
}

/// Stripes in memory, counted as long as they are.
#[derive(Debug)]
struct Kept {
    parts: Arc<[Part]>,
    count: Arc<AtomicUsize>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.count.fetch_sub(self.parts.len(), Ordering::Relaxed);
    }
}

/// What is remembered of a file.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    layout: Layout,
    health: Option<Health>,
    /// When it was answered, in seconds since the daemon began.
    answered: u32,
    /// When it is to be asked again.
    due: u32,
    /// Because something happened.
    urgent: bool,
    /// How often in a row it was found not to be safe.
    tries: u8,
    /// A bit for each peer that holds a shard, by [`bit`]; peers share bits.
    holders: u64,
}

/// What happened since the last batch.
#[derive(Default)]
struct Noticed {
    /// Peers that went or came.
    moved: BTreeSet<Peer>,
    /// When files that are not safe are to be looked at from the beginning, for what was rebuilt here,
    rebuilt: Option<Instant>,
    /// and for what others may have rebuilt.
    gone: Option<Instant>,
}

impl Noticed {
    fn next(&self) -> Option<Instant> {
        [self.rebuilt, self.gone].into_iter().flatten().min()
    }

    /// Whether it is time to look again.
    fn take_due(&mut self) -> bool {
        let now = Instant::now();
        let mut due = false;
        for at in [&mut self.rebuilt, &mut self.gone] {
            due |= at.take_if(|at| *at <= now).is_some();
        }
        due
    }
}

/// The background survey.
#[derive(Default)]
pub(crate) struct Sweep {
    noticed: Mutex<Noticed>,
    wake: Notify,
    /// Seconds between two looks at a file that is safe.
    period: AtomicU32,
    /// Stripes in memory.
    parts: Arc<AtomicUsize>,
    /// Who asks about everything now, one after the other.
    fresh: tokio::sync::Mutex<()>,
}

/// The bit of a peer among holders.
fn bit(peer: Peer) -> u64 {
    let last = peer.as_bytes().last().copied().unwrap_or_default();
    1 << (last % 64)
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Sweep {
    /// A peer went or came.
    pub(crate) fn peer_moved(&self, peer: Peer) {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        noticed.moved.insert(peer);
        self.wake.notify_one();
    }

    /// Others rebuild what a peer held that went, so that files that are not safe may be after `delay`.
    fn peer_gone(&self, delay: Duration) {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        noticed.gone = noticed.gone.max(Some(Instant::now() + delay + REPAIRED));
    }

    /// Something was rebuilt here.
    pub(crate) fn repaired(&self) {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        if noticed.rebuilt.is_none() {
            noticed.rebuilt = Some(Instant::now() + REPAIRS);
            self.wake.notify_one();
        }
    }

    /// What is remembered of a file whose stripes were just stored.
    pub(crate) fn of_put(&self, transfers: &Transfers, stripes: &[Placed]) -> Watched {
        let parts = stripes.iter().map(|placed| Part {
            stripe: placed.stripe,
            k: placed.k,
            n: placed.n,
        });
        let holders = stripes.iter().flat_map(|placed| &placed.holders);
        let health = stripes.iter().map(|placed| {
            let held = placed.holders.iter().copied().collect();
            health_of(&held, placed.k, placed.n)
        });
        let health = health.min();
        let now = transfers.seconds();
        let safe = health == Some(Health::Safe);
        if !safe {
            self.wake.notify_one();
        }
        Watched {
            layout: self.keep(parts.collect()),
            health,
            answered: now,
            due: now.saturating_add(if safe { self.period() } else { seconds(FIRST) }),
            urgent: !safe,
            tries: 0,
            holders: holders.fold(0, |all, (_, peer)| all | bit(*peer)),
        }
    }

    /// Keeps stripes in memory, if there is room. One stripe is the manifest itself, which the list knows.
    fn keep(&self, parts: Vec<Part>) -> Layout {
        if parts.len() == 1 || self.parts.load(Ordering::Relaxed) + parts.len() > MAX_PARTS {
            return Layout::Unknown;
        }
        self.parts.fetch_add(parts.len(), Ordering::Relaxed);
        Layout::Known(Kept {
            parts: parts.into(),
            count: Arc::clone(&self.parts),
        })
    }

    fn period(&self) -> u32 {
        self.period.load(Ordering::Relaxed).max(seconds(PERIOD))
    }
}

impl Transfers {
    /// Since the daemon began.
    fn seconds(&self) -> u32 {
        seconds(self.member.core.now().since(Time::ZERO))
    }

    /// Looks at the list of files, or changes what is remembered of them, where that may wait for the disk.
    async fn on_files<R: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&mut Index<Watched>) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let transfers = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || transfers.files.index(look)).await;
        Ok(looked.map_err(Failure::unexpected)??)
    }
}

/// What to ask about next.
#[derive(Default)]
struct Batch {
    numbers: Vec<u32>,
    urgent: bool,
    /// When the first file is due, if none is now.
    next: Option<u32>,
}

impl Batch {
    /// Files that are due: those for which something happened first, and of these, as of the others, those
    /// that have waited longest, so that files asked about again and again do not keep the others waiting.
    /// How many stripes all files have.
    fn pick(index: &Index<Watched>, now: u32) -> (Self, usize) {
        let (mut urgent, mut in_turn) = (Vec::new(), Vec::new());
        let (mut next, mut stripes) = (None::<u32>, 0);
        for (number, entry) in index.after(None) {
            let watched = &entry.watched;
            let size = match &watched.layout {
                Layout::Known(kept) => kept.parts.len(),
                Layout::Unknown if entry.is_single => 1,
                Layout::Unknown => UNKNOWN,
            };
            stripes += size;
            if watched.due > now {
                next = Some(next.map_or(watched.due, |next| next.min(watched.due)));
            } else if watched.urgent || watched.health.is_none() {
                urgent.push((watched.due, number, size));
            } else {
                in_turn.push((watched.due, number, size));
            }
        }
        let is_urgent = !urgent.is_empty();
        let (mut due, most) = if is_urgent {
            (urgent, BATCH.0)
        } else {
            (in_turn, BATCH.1)
        };
        due.sort_unstable();
        let mut taken = 0;
        let fits = |(.., size): &(u32, u32, usize)| {
            let begun = taken;
            taken += size;
            begun < most
        };
        let batch = Self {
            numbers: due
                .into_iter()
                .take_while(fits)
                .map(|(_, number, _)| number)
                .collect(),
            urgent: is_urgent,
            next,
        };
        (batch, stripes)
    }
}

/// Marks the files that what happened concerns.
fn mark(index: &mut Index<Watched>, now: u32, moved: &BTreeSet<Peer>, again: bool) {
    let bits = moved.iter().fold(0, |bits, peer| bits | bit(*peer));
    for (_, entry) in index.all_mut() {
        let watched = &mut entry.watched;
        let unsafe_yet = watched.health != Some(Health::Safe);
        if watched.holders & bits != 0 || (unsafe_yet && (again || bits != 0)) {
            (watched.due, watched.urgent, watched.tries) = (now, true, 0);
        }
    }
}

impl Transfers {
    /// Takes what happened since the last time into account.
    async fn heed(self: &Arc<Self>) -> Result<(), Failure> {
        let (moved, again) = {
            let mut noticed = self.sweep.noticed.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut noticed.moved), noticed.take_due())
        };
        if moved.is_empty() && !again {
            return Ok(());
        }
        if moved.iter().any(|peer| !self.member.core.is_alive(*peer)) {
            self.sweep.peer_gone(self.member.config.settings.repair_delay.0);
        }
        let now = self.seconds();
        self.on_files(move |index| mark(index, now, &moved, again)).await
    }

    /// Asks about what is due. Until when to wait then.
    async fn sweep_once(self: &Arc<Self>) -> Result<Duration, Failure> {
        self.heed().await?;
        let now = self.seconds();
        let (batch, stripes) = self.on_files(move |index| Batch::pick(index, now)).await?;
        let round = u32::try_from(stripes)
            .unwrap_or(u32::MAX)
            .saturating_mul(ASKED_EACH)
            / STEADY;
        self.sweep.period.store(round, Ordering::Relaxed);
        if batch.numbers.is_empty() {
            let next = batch
                .next
                .map_or(u32::MAX, |next| next.saturating_sub(now).max(1));
            return Ok(Duration::from_secs(u64::from(next)).min(IDLE));
        }
        let begun = Instant::now();
        let cost = self.survey_files(&batch.numbers).await?;
        let rate = if batch.urgent { URGENT } else { STEADY };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let paced = Duration::from_millis(u64::from(cost) * 1000 / u64::from(rate));
        Ok(paced.saturating_sub(begun.elapsed()))
    }
}

/// Runs until the task is aborted.
pub(crate) async fn run(transfers: Arc<Transfers>) {
    // The list is read while the ring is joined, so that whoever asks first need not wait for all of it.
    // Who asks while it cannot be read is told so.
    if let Err(failure) = transfers.on_files(|_| ()).await {
        tracing::warn!(%failure, "the list of files cannot be read now");
    }
    loop {
        if !transfers.member.is_settled() {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        let wait = match transfers.sweep_once().await {
            Ok(wait) => wait,
            Err(failure) => {
                tracing::warn!(%failure, "how files are doing cannot be found out now");
                LAST
            }
        };
        let again = {
            let noticed = transfers
                .sweep
                .noticed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            noticed.next()
        };
        let until = Instant::now() + wait;
        let until = again.map_or(until, |again| until.min(again));
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = transfers.sweep.wake.notified() => tokio::time::sleep(TOGETHER).await,
        }
    }
}

#[cfg(test)]
mod tests;
