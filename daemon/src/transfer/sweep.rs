//! How the files put here are doing: asked in the background, remembered, told at no cost.
//!
//! A listing that asked the holders of every file would cost a question a stripe and holder. Instead each file's health is
//! remembered with the time of the answer, and asked again
//!
//! * in turn, every [`PERIOD`], or every 8 ms a stripe where that is longer (beyond some 100,000 stripes): [`STEADY`]
//!   stripes a second are asked about, each of its holders counted, about 1 % of one core among all peers;
//! * at once, [`URGENT`] stripes a second, when a peer went or came that may hold shards of the file;
//! * more and more rarely, from [`FIRST`] to [`LAST`] after the answer, while the file is not safe, and from the beginning
//!   when this peer repaired something or the time came for others to repair what a peer held.
//!
//! After a put the health is known without a question. After a start nothing is known, and everything is due.
//!
//! Cost. A stripe is asked of the n peers that should hold it, in questions of up to 256 stripes to one peer; only where
//! they do not hold all of it, of others. A thousand files of one stripe with three copies are some 12 questions on a ring of
//! few peers and 250 KB of traffic, both ways. In memory a file takes some 150 bytes, and 34 for each of its stripes where it
//! has more than one; a file of which the stripes are not in memory (after a start, or beyond [`MAX_PARTS`]) has its manifest
//! read first.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use mutualstore_dht::placement::Placement;
use mutualstore_dht::{Id, Peer};
use mutualstore_erasure::{Code, Policy};
use serde::Serialize;
use tokio::sync::Notify;

use super::events::{Operation, Transfer};
use super::get;
use super::health::{Asked, Health, ShardState, StripeHealth, survey_seats};
use super::stripes::Placed;
use crate::error::Failure;
use crate::link::Link;
use crate::list::index::{Entry, Index};
use crate::list::{Listed, Page};
use crate::node::Node;

/// A file that is safe is asked about again after this, or later where there are many.
const PERIOD: Duration = Duration::from_mins(15);
/// Stripes asked about in a second, each holder counted, when nothing happened.
const STEADY: u32 = 500;
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
/// Where others repair what a peer held, they begin when it counts as gone and are done with much of it after this.
const REPAIRED: Duration = Duration::from_secs(2);
/// Stripes of the files of one batch, about: when something happened, and when nothing did.
const BATCH: (usize, usize) = (2048, 256);
/// Stripes asked about together.
const STRIPES: usize = 2048;
/// A file whose stripes are not in memory counts as so many.
const UNKNOWN: usize = 16;
/// Manifests read at the same time.
const OPENING: usize = 8;
/// Stripes kept in memory of all files that have more than one: some 70 MB.
const MAX_PARTS: usize = 2 << 20;
/// While the ring is not settled, or the list cannot be read, it is looked again after this.
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
    /// These.
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
    /// When it was told, in seconds since the daemon began.
    told: u32,
    /// When it is to be asked again.
    due: u32,
    /// Because something happened.
    urgent: bool,
    /// How often in a row it was found not to be safe.
    tries: u8,
    /// A bit for each peer that holds a shard, by [`bit`]; peers share bits.
    holders: u64,
}

/// Files by health, and how old the oldest answer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) safe: usize,
    pub(crate) degraded: usize,
    pub(crate) endangered: usize,
    pub(crate) lost: usize,
    /// Not asked about yet.
    pub(crate) unknown: usize,
}

/// A file of the list with what is remembered of it.
pub(crate) struct Told {
    pub(crate) listed: Listed,
    /// None before the first answer.
    pub(crate) health: Option<Health>,
    /// Age of that answer in seconds.
    pub(crate) age: Option<u32>,
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

/// How a stripe is doing whose shards lie with so many distinct peers.
fn health_of(placed: &Placed) -> Health {
    let (held, k, n) = (placed.holders.len(), usize::from(placed.k), usize::from(placed.n));
    match held {
        held if held < k => Health::Lost,
        held if held >= n => Health::Safe,
        held if held <= k => Health::Endangered,
        _ => Health::Degraded,
    }
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
    pub(crate) fn of_put(&self, node: &Node, stripes: &[Placed]) -> Watched {
        let parts = stripes.iter().map(|placed| Part {
            stripe: placed.stripe,
            k: placed.k,
            n: placed.n,
        });
        let holders = stripes.iter().flat_map(|placed| &placed.holders);
        let health = stripes.iter().map(health_of).min();
        let now = node.seconds();
        let safe = health == Some(Health::Safe);
        Watched {
            layout: self.keep(parts.collect()),
            health,
            told: now,
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

/// The one stripe of a file that is in its manifest.
fn single(index: &Index<Watched>, entry: &Entry<Watched>) -> Option<Arc<[Part]>> {
    let (code, _) = index.kind(entry);
    let code = code.parse::<Code>().ok().filter(|_| entry.is_single)?.small();
    let part = Part {
        stripe: Id::new(entry.manifest),
        k: code.k(),
        n: code.n(),
    };
    Some(Arc::new([part]))
}

/// A file to ask about.
struct Question {
    number: u32,
    /// None: its manifest is to be read.
    parts: Option<Arc<[Part]>>,
    /// Whether its holders are found from the ids of its stripes.
    by_id: bool,
    read: bool,
}

impl Question {
    fn of(index: &Index<Watched>, number: u32) -> Option<Self> {
        let entry = index.get(number)?;
        let parts = match &entry.watched.layout {
            Layout::Known(kept) => Some(Arc::clone(&kept.parts)),
            Layout::Unknown => single(index, entry),
        };
        let (_, placement) = index.kind(entry);
        Some(Self {
            number,
            parts,
            by_id: placement == Policy::Successors.to_string(),
            read: false,
        })
    }

    fn asked(&self) -> impl Iterator<Item = Asked> {
        let parts = self.parts.iter().flat_map(|parts| parts.iter());
        // Where they are not found from its id, whoever is asked about a stripe is asked whatever the policy.
        let placement = if self.by_id {
            Placement::Successors
        } else {
            Placement::Random
        };
        parts.map(move |part| Asked {
            stripe: part.stripe,
            k: part.k,
            n: part.n,
            placement,
        })
    }
}

/// What was found out of one file.
#[derive(Clone, Copy)]
struct Answer {
    health: Health,
    holders: u64,
    /// Questions it took, about.
    cost: usize,
}

impl Answer {
    fn add(&mut self, stripe: &StripeHealth) {
        self.health = self.health.min(stripe.health);
        let holding = |state| match state {
            ShardState::Ok | ShardState::Pending | ShardState::Unreachable => true,
            ShardState::Missing => false,
        };
        let held = stripe.shards.iter().filter(|shard| holding(shard.state));
        for peer in held.filter_map(|shard| shard.peer) {
            self.holders |= bit(peer);
        }
        self.cost += stripe.shards.len();
    }
}

impl Node {
    /// Since the daemon began.
    fn seconds(&self) -> u32 {
        seconds(self.started.elapsed())
    }

    /// Looks at the list of files, or changes what is remembered of them, where that may wait for the disk.
    async fn on_files<R: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&mut Index<Watched>) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let node = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || node.files.index(look)).await;
        Ok(looked.map_err(Failure::unexpected)??)
    }

    /// The file behind a link, if it was put through this peer and is not deleted.
    pub(crate) async fn listed(self: &Arc<Self>, link: &Link) -> Result<Option<Listed>, Failure> {
        let (node, manifest) = (Arc::clone(self), link.manifest);
        let found = tokio::task::spawn_blocking(move || node.files.find(&manifest)).await;
        Ok(found.map_err(Failure::unexpected)??)
    }

    /// A page of the files put through this peer, with their health as it is remembered, or asked now if `fresh`.
    pub(crate) async fn told_page(
        self: &Arc<Self>,
        (after, limit): (Option<u32>, usize),
        pattern: Option<String>,
        fresh: bool,
    ) -> Result<(Vec<Told>, Option<u32>), Failure> {
        let node = Arc::clone(self);
        let read =
            tokio::task::spawn_blocking(move || node.files.page(after, limit, pattern.as_deref())).await;
        let Page { files, next } = read.map_err(Failure::unexpected)??;
        let numbers: Vec<u32> = files.iter().map(|(number, _)| *number).collect();
        if fresh {
            let _turn = self.sweep.fresh.lock().await;
            self.survey_files(&numbers).await?;
        }
        let now = self.seconds();
        let told = move |index: &mut Index<Watched>| {
            let remembered = |number| {
                let watched = &index.get(number)?.watched;
                Some((watched.health?, now.saturating_sub(watched.told)))
            };
            numbers.into_iter().map(remembered).collect::<Vec<_>>()
        };
        let files = files.into_iter().zip(self.on_files(told).await?);
        let files = files.map(|((_, listed), told)| Told {
            listed,
            health: told.map(|(health, _)| health),
            age: told.map(|(_, age)| age),
        });
        Ok((files.collect(), next))
    }

    /// All files by health as it is remembered, or asked now if `fresh`; the age of the oldest answer in seconds; and how
    /// many files have which code.
    pub(crate) async fn tally(
        self: &Arc<Self>,
        fresh: bool,
    ) -> Result<(Tally, Option<u32>, Vec<(String, usize)>), Failure> {
        if fresh {
            let _turn = self.sweep.fresh.lock().await;
            let all = |index: &mut Index<Watched>| index.after(None).map(|(number, _)| number).collect();
            let numbers: Vec<u32> = self.on_files(all).await?;
            for batch in numbers.chunks(STRIPES) {
                self.survey_files(batch).await?;
            }
        }
        let now = self.seconds();
        let count = move |index: &mut Index<Watched>| {
            let (mut tally, mut oldest) = (Tally::default(), None);
            let mut codes: Vec<(String, usize)> = Vec::new();
            for (_, entry) in index.after(None) {
                let counter = match entry.watched.health {
                    Some(Health::Safe) => &mut tally.safe,
                    Some(Health::Degraded) => &mut tally.degraded,
                    Some(Health::Endangered) => &mut tally.endangered,
                    Some(Health::Lost) => &mut tally.lost,
                    None => &mut tally.unknown,
                };
                *counter += 1;
                if entry.watched.health.is_some() {
                    oldest = oldest.max(Some(now.saturating_sub(entry.watched.told)));
                }
                let (code, _) = index.kind(entry);
                match codes.iter_mut().find(|(known, _)| known == code) {
                    Some((_, count)) => *count += 1,
                    None => codes.push((code.to_owned(), 1)),
                }
            }
            (tally, oldest, codes)
        };
        self.on_files(count).await
    }

    /// Asks how these files are doing and remembers the answers. How many questions that took, each stripe and peer
    /// counted.
    async fn survey_files(self: &Arc<Self>, numbers: &[u32]) -> Result<usize, Failure> {
        let numbers = numbers.to_vec();
        let questions = move |index: &mut Index<Watched>| {
            let questions = numbers.iter().filter_map(|number| Question::of(index, *number));
            questions.collect::<Vec<_>>()
        };
        let mut questions = self.on_files(questions).await?;
        self.read_manifests(&mut questions).await?;
        let unread = Answer {
            health: Health::Lost,
            holders: 0,
            cost: UNKNOWN,
        };
        let begun = Answer {
            health: Health::Safe,
            holders: 0,
            cost: 0,
        };
        let of = |question: &Question| if question.parts.is_some() { begun } else { unread };
        let mut answers: Vec<Answer> = questions.iter().map(of).collect();
        let positions = questions
            .iter()
            .zip(0..)
            .flat_map(|(question, at)| question.asked().map(move |asked| (at, asked)));
        let all: Vec<(usize, Asked)> = positions.collect();
        for chunk in all.chunks(STRIPES) {
            let asked: Vec<Asked> = chunk.iter().map(|(_, asked)| *asked).collect();
            for ((at, _), health) in chunk.iter().zip(survey_seats(self, &asked).await) {
                if let Some(answer) = answers.get_mut(*at) {
                    answer.add(&health);
                }
            }
        }
        let cost = answers.iter().map(|answer| answer.cost).sum();
        let node = Arc::clone(self);
        self.on_files(move |index| {
            for (question, answer) in questions.into_iter().zip(answers) {
                node.remember(index, question, answer);
            }
        })
        .await?;
        Ok(cost)
    }

    /// Reads the manifests of files whose stripes are not known.
    async fn read_manifests(self: &Arc<Self>, questions: &mut [Question]) -> Result<(), Failure> {
        let unknown = questions.iter().filter(|question| question.parts.is_none());
        let unknown: Vec<u32> = unknown.map(|question| question.number).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let node = Arc::clone(self);
        let listed = tokio::task::spawn_blocking(move || node.files.listed(&unknown)).await;
        let listed = listed.map_err(Failure::unexpected)??;
        let transfer = &Transfer::new(Operation::Get);
        let links = listed.into_iter().map(|(number, listed)| (number, listed.link));
        let opening = links.map(|(number, link): (u32, Link)| async move {
            let file = get::open(self, transfer, &link).await.ok()?;
            let parts = file.layout.iter().map(|stripe| Part {
                stripe: stripe.asked.stripe,
                k: stripe.asked.k,
                n: stripe.asked.n,
            });
            Some((number, parts.collect::<Arc<[Part]>>()))
        });
        let mut opened = stream::iter(opening).buffer_unordered(OPENING);
        while let Some(read) = opened.next().await {
            let Some((number, parts)) = read else { continue };
            let question = questions.iter_mut().find(|question| question.number == number);
            if let Some(question) = question {
                (question.parts, question.read) = (Some(parts), true);
            }
        }
        Ok(())
    }

    fn remember(&self, index: &mut Index<Watched>, question: Question, answer: Answer) {
        let now = self.seconds();
        let Some(entry) = index.get_mut(question.number) else {
            return;
        };
        let watched = &mut entry.watched;
        if let Some(parts) = question.parts.filter(|_| question.read) {
            if parts.len() == 1 {
                entry.is_single = true;
            } else {
                watched.layout = self.sweep.keep(parts.to_vec());
            }
        }
        watched.health = Some(answer.health);
        watched.told = now;
        watched.holders |= answer.holders;
        if answer.health == Health::Safe {
            (watched.tries, watched.urgent) = (0, false);
            watched.holders = answer.holders;
            watched.due = now.saturating_add(self.sweep.period());
        } else {
            let wait = FIRST.saturating_mul(1 << watched.tries.min(16)).min(LAST);
            watched.tries = watched.tries.saturating_add(1);
            watched.urgent = wait < LAST;
            watched.due = now.saturating_add(seconds(wait));
        }
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
    /// Files that are due: those for which something happened first.
    fn pick(index: &Index<Watched>, now: u32) -> (Self, usize) {
        let mut urgent = (Vec::new(), 0);
        let mut in_turn = (Vec::new(), 0);
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
                continue;
            }
            let first = watched.urgent || watched.health.is_none();
            let (list, most) = if first {
                (&mut urgent, BATCH.0)
            } else {
                (&mut in_turn, BATCH.1)
            };
            if list.1 < most {
                list.0.push(number);
                list.1 += size;
            }
        }
        let is_urgent = !urgent.0.is_empty();
        let numbers = if is_urgent { urgent.0 } else { in_turn.0 };
        let batch = Self {
            numbers,
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

impl Node {
    /// Takes what happened since the last time into account.
    async fn heed(self: &Arc<Self>) -> Result<(), Failure> {
        let (moved, again) = {
            let mut noticed = self.sweep.noticed.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut noticed.moved), noticed.take_due())
        };
        if moved.is_empty() && !again {
            return Ok(());
        }
        if moved.iter().any(|peer| !self.core.is_alive(*peer)) {
            self.sweep.peer_gone(self.config.repair_delay);
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
            let idle = batch.next.map_or(PERIOD, |next| {
                Duration::from_secs(u64::from(next.saturating_sub(now).max(1)))
            });
            return Ok(idle);
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
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        if !node.is_settled() {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        let wait = match node.sweep_once().await {
            Ok(wait) => wait,
            Err(failure) => {
                tracing::warn!(%failure, "how files are doing cannot be found out now");
                LAST
            }
        };
        let again = {
            let noticed = node.sweep.noticed.lock().unwrap_or_else(PoisonError::into_inner);
            noticed.next()
        };
        let until = Instant::now() + wait;
        let until = again.map_or(until, |again| until.min(again));
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = node.sweep.wake.notified() => tokio::time::sleep(TOGETHER).await,
        }
    }
}
