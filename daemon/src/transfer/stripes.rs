//! One stripe to or from its holders.
//!
//! Writing: the n shards go out in parallel to the first n accepting peers that the stripe's policy names; a
//! holder that refuses or falls silent is replaced by the next one. Reading: k of the expected holders are
//! asked, data shards first, of copies any holder; who has none may name who does; one that has nothing, lies
//! or is slow is made good by the next, along the ring, at every live peer, and by a [second
//! look](super::second_look), before "k needed, x reachable" is said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::placement::Placement;
use mutualstore_dht::{Contact, Id, Peer, PeerState};
use mutualstore_erasure::{DecodeError, Header, Policy, VerifiedShard, decode, reconstruct};
use tokio::time::sleep_until;

use super::cache::Block;
use super::events::Transfer;
use super::lease::Lease;
use super::peer_client::{Fetched, StoreError};
use super::second_look::{FirstLook, look_again};
use crate::error::Failure;
use crate::format::placement;
use crate::format::tombstone::Tombstone;
use crate::keeper::Keep;
use crate::peer::membership::LIKELY_HOLDERS;
use crate::transfer::Transfers;
use crate::wire::peer::PutSecret;

/// Peers looked up beyond the n that are needed, to replace some that fail.
const SPARE: usize = 4;
/// Between two looks for new holders when there are too few.
const AGAIN: Duration = Duration::from_millis(250);
/// A read never asks more peers than this for one stripe.
const MAX_ASKED: usize = 256;

/// What all stripes of one put share.
pub(crate) struct Writing {
    pub(crate) secret: PutSecret,
    pub(crate) keep: Keep,
    /// Fewer distinct indices than this fail the put, however long it waited.
    pub(crate) degraded: bool,
    pub(crate) write_timeout: Duration,
    pub(crate) transfer: Arc<Transfer>,
    /// Hears of every shard as soon as it is acknowledged.
    pub(crate) lease: Arc<Lease>,
    /// When the put first lacked holders: all its stripes together wait once for `write_timeout`.
    short_since: Mutex<Option<Instant>>,
}

impl Writing {
    pub(crate) fn new(
        secret: PutSecret,
        keep: Keep,
        degraded: bool,
        write_timeout: Duration,
        transfer: Arc<Transfer>,
        lease: Arc<Lease>,
    ) -> Self {
        Self {
            secret,
            keep,
            degraded,
            write_timeout,
            transfer,
            lease,
            short_since: Mutex::new(None),
        }
    }

    /// Until when to wait for more holders.
    fn patience(&self) -> Instant {
        let mut since = self.short_since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *since.get_or_insert_with(Instant::now);
        if self.degraded {
            since
        } else {
            since + self.write_timeout
        }
    }
}

/// A stripe and where its shards are, each durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placed {
    pub(crate) stripe: Id,
    pub(crate) k: u8,
    pub(crate) n: u8,
    pub(crate) holders: Vec<(u8, Peer)>,
    /// Where a locator is to be left.
    pub(crate) header: Option<Header>,
}

impl Placed {
    /// The least number of shards that a put may end with.
    pub(crate) fn least(k: u8, n: u8, degraded: bool) -> usize {
        usize::from(if degraded { k } else { n.min(k.saturating_add(1)) })
    }
}

/// Why a stripe did not find enough holders. The shards that were stored stay pending until discarded.
#[derive(Debug, Default)]
pub(crate) struct TooFewHolders {
    pub(crate) placed: Placed,
    pub(crate) why: Lacking,
}

/// Why shards were not placed, as far as it is not that peers are away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lacking {
    /// A peer refused for want of space, and none for another reason.
    pub(crate) no_space: bool,
    /// So many peers' disks failed.
    pub(crate) broken_disks: usize,
}

/// The stripe's id as the ring knows it.
pub(crate) fn ring_id(shard: &VerifiedShard) -> Id {
    Id::new(*shard.stripe().as_bytes())
}

/// Peers for a stripe, best first; those that said they are full come last, for they may have room again.
async fn candidates(transfers: &Transfers, header: &Header, count: usize) -> VecDeque<Contact> {
    let stripe = Id::new(*header.id().as_bytes());
    let placement = placement::Placement::of(header).rule(stripe, header.code());
    let mut found = if placement.needs_locators() {
        let census = transfers.member.census().await;
        census.candidates(placement, stripe, header.code().n(), count)
    } else {
        match transfers.member.core.lookup(stripe, count).await {
            Ok(found) => found.contacts,
            Err(_) => transfers.member.core.successors(stripe, count),
        }
    };
    found.retain(|contact| contact.state != PeerState::Draining);
    found.sort_by_key(|contact| contact.state);
    found.into()
}

/// Stores the n shards of one stripe with distinct holders.
pub(crate) async fn store_stripe(
    transfers: &Arc<Transfers>,
    writing: &Writing,
    shards: Vec<VerifiedShard>,
) -> Result<Placed, TooFewHolders> {
    let Some(first) = shards.first() else {
        return Err(TooFewHolders::default());
    };
    let code = first.header().code();
    let mut placed = Placed {
        stripe: ring_id(first),
        k: code.k(),
        n: code.n(),
        holders: Vec::with_capacity(shards.len()),
        header: Some(first.header().clone()).filter(|header| header.policy() != Policy::Successors),
    };
    let why = place(transfers, writing, &mut placed, shards).await;
    if placed.holders.len() >= Placed::least(code.k(), code.n(), writing.degraded) {
        return Ok(placed);
    }
    Err(TooFewHolders { placed, why })
}

/// Rebuilds the shards of a stripe whose holders were lost since they were stored, from the others, and
/// stores them with new ones.
pub(crate) async fn complete_stripe(transfers: &Arc<Transfers>, writing: &Writing, placed: &mut Placed) {
    let wanted = Wanted::of(placed.stripe, placed.k);
    let Ok(shards) = fetch_stripe(transfers, &writing.transfer, wanted).await else {
        return;
    };
    let held: BTreeSet<u8> = placed.holders.iter().map(|(index, _)| *index).collect();
    let missing: Vec<u8> = (0..placed.n).filter(|index| !held.contains(index)).collect();
    let rebuilt = tokio::task::spawn_blocking(move || reconstruct(&shards, &missing)).await;
    if let Ok(Ok(rebuilt)) = rebuilt {
        place(transfers, writing, placed, rebuilt).await;
    }
}

/// Stores shards with the nearest accepting peers that do not hold one of the stripe yet, until all are
/// placed or patience ends. Says why some are not placed.
async fn place(
    transfers: &Arc<Transfers>,
    writing: &Writing,
    placed: &mut Placed,
    shards: Vec<VerifiedShard>,
) -> Lacking {
    let Some(header) = shards.first().map(|shard| shard.header().clone()) else {
        return Lacking::default();
    };
    let count = usize::from(placed.n) + SPARE;
    let mut left: VecDeque<VerifiedShard> = shards.into();
    let mut tried: BTreeSet<Peer> = placed.holders.iter().map(|(_, peer)| *peer).collect();
    let mut silent = Vec::new();
    let mut sends = FuturesUnordered::new();
    let mut queue = candidates(transfers, &header, count).await;
    let mut broken = BTreeSet::new();
    let mut no_space = false;
    let mut may_return = transfers.member.peers_counted() > transfers.member.core.alive().len();
    loop {
        while !left.is_empty()
            && let Some(contact) = queue.pop_front()
        {
            if tried.insert(contact.peer)
                && let Some(shard) = left.pop_front()
            {
                sends.push(send(transfers, writing, contact, shard));
            }
        }
        match sends.next().await {
            Some((peer, shard, Ok(()))) => {
                writing.lease.note(placed.stripe, peer);
                placed.holders.push((shard.index(), peer));
            }
            Some((peer, shard, Err(error))) => {
                no_space |= error == StoreError::Full;
                if error == StoreError::Broken {
                    broken.insert(peer);
                }
                may_return |= error != StoreError::Full;
                if error == StoreError::Silent {
                    silent.push(peer);
                }
                left.push_front(shard);
            }
            None if left.is_empty() => return Lacking::default(),
            // Full disks do not empty while a put waits.
            None if no_space && !may_return || Instant::now() >= writing.patience() => {
                return Lacking {
                    no_space: no_space && !may_return,
                    broken_disks: broken.len(),
                };
            }
            None => {
                sleep_until((Instant::now() + AGAIN).into()).await;
                for peer in silent.drain(..) {
                    tried.remove(&peer);
                }
            }
        }
        if queue.is_empty() && !left.is_empty() && sends.is_empty() {
            queue = candidates(transfers, &header, count + tried.len()).await;
            queue.retain(|contact| !tried.contains(&contact.peer));
        }
    }
}

/// One shard to one peer, and who it was.
async fn send(
    transfers: &Arc<Transfers>,
    writing: &Writing,
    contact: Contact,
    shard: VerifiedShard,
) -> (Peer, VerifiedShard, Result<(), StoreError>) {
    let stored = transfers.peers.store(
        &writing.transfer,
        &contact,
        shard.clone(),
        writing.keep,
        writing.secret.token(contact.peer),
    );
    let stored = stored.await;
    (contact.peer, shard, stored)
}

/// What is known of a stripe before it is read.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) stripe: Id,
    /// Shards needed, 1 while unknown: the first shard's header tells.
    pub(crate) k: u8,
    /// How its holders were chosen, and how many they are; none while the manifest of its file is not read.
    pub(crate) placement: Option<(Placement, u8)>,
    /// Indices not to be used, as if they were lost.
    pub(crate) without: Vec<u8>,
}

impl Wanted {
    pub(crate) fn of(stripe: Id, k: u8) -> Self {
        Self {
            stripe,
            k,
            placement: None,
            without: Vec::new(),
        }
    }

    /// Whom to ask first: those who hold it if nothing moved, or who know where it is.
    fn likely(&self, transfers: &Transfers) -> Vec<Contact> {
        let count = usize::from(self.k) + SPARE;
        let mut likely = match self.placement.zip(transfers.member.last_census()) {
            Some(((placement, n), census)) if placement.needs_locators() => {
                census.candidates(placement, self.stripe, n, count)
            }
            Some(_) | None => transfers.member.core.successors(self.stripe, count),
        };
        // Of copies all are as good as the first, and each holder is to bear its part of a large read.
        if let (1, Some((_, n))) = (self.k, self.placement)
            && let Some(holders) = likely.get_mut(..usize::from(n))
        {
            let first = transfers.reads.round_robin.next(holders);
            holders.rotate_left(first);
        }
        likely
    }
}

impl super::health::Asked {
    /// To read it.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            placement: Some((self.placement, self.n)),
            ..Wanted::of(self.stripe, self.k)
        }
    }
}

/// Where a read stands.
struct Reading {
    k: u8,
    have: BTreeMap<u8, VerifiedShard>,
    asked: BTreeSet<Peer>,
    silent: BTreeSet<Peer>,
    gave: BTreeSet<Peer>,
    corrupt: bool,
    queue: VecDeque<Contact>,
    widened: u8,
}

impl Reading {
    fn new(transfers: &Transfers, wanted: &Wanted) -> Self {
        Self {
            k: wanted.k,
            have: BTreeMap::new(),
            asked: BTreeSet::new(),
            silent: BTreeSet::new(),
            gave: BTreeSet::new(),
            corrupt: false,
            queue: wanted.likely(transfers).into(),
            widened: 0,
        }
    }

    /// The index to wish for from the next peer: the data shard that lies with it if nothing moved, else the
    /// first index that is neither here nor on its way.
    fn wish(&self, in_flight: &[u8]) -> u8 {
        let free = |index: &u8| !self.have.contains_key(index) && !in_flight.contains(index);
        (0..u8::MAX).find(free).unwrap_or(0)
    }

    fn is_complete(&self) -> bool {
        self.have.len() >= usize::from(self.k)
    }

    /// Somebody has none and knows who may: those are asked next.
    async fn hinted(&mut self, transfers: &Transfers, holders: Vec<Peer>) {
        for peer in holders {
            if self.asked.contains(&peer) || self.queue.iter().any(|contact| contact.peer == peer) {
                continue;
            }
            let contact = match transfers.member.core.contact(peer) {
                Some(contact) => Some(contact),
                None if transfers.member.knows_everybody() => None,
                None => transfers.member.census().await.contact(peer).cloned(),
            };
            match contact.filter(|contact| transfers.member.core.is_alive(contact.peer)) {
                Some(contact) => self.queue.push_front(contact),
                None => drop(self.silent.insert(peer)),
            }
        }
    }

    /// The next peer to ask, from wider and wider circles.
    async fn next(&mut self, transfers: &Transfers, stripe: Id) -> Option<Contact> {
        loop {
            while let Some(contact) = self.queue.pop_front() {
                if self.asked.len() < MAX_ASKED && self.asked.insert(contact.peer) {
                    return Some(contact);
                }
            }
            let r = usize::try_from(transfers.member.network().r).unwrap_or(usize::MAX);
            self.queue = match self.widened {
                0 => transfers
                    .member
                    .core
                    .lookup(stripe, r)
                    .await
                    .map(|found| found.contacts)
                    .unwrap_or_default()
                    .into(),
                1 => transfers.member.core.alive().into(),
                _ => return None,
            };
            self.widened += 1;
        }
    }
}

/// Why what has a tombstone is not found.
pub(crate) const BY_OWNER: &str = "it was deleted by its owner";

/// Why a stripe was not read.
pub(crate) enum Unread {
    /// Its owner deleted it: somebody has this tombstone.
    Deleted(Box<Tombstone>),
    /// Too few shards were found.
    Short(Failure),
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Deleted(_) => Self::not_found(BY_OWNER),
            Unread::Short(failure) => failure,
        }
    }
}

/// Fetches k verified shards of a stripe.
pub(crate) async fn fetch_stripe(
    transfers: &Arc<Transfers>,
    transfer: &Transfer,
    wanted: Wanted,
) -> Result<Vec<VerifiedShard>, Unread> {
    let mut reading = Reading::new(transfers, &wanted);
    let Wanted { stripe, without, .. } = wanted;
    let mut waiting = FuturesUnordered::new();
    let mut in_flight: Vec<u8> = Vec::new();
    let mut hedges = 0;
    let mut exhausted = false;
    while !reading.is_complete() {
        while !exhausted && reading.have.len() + waiting.len() < usize::from(reading.k) + hedges {
            let Some(contact) = reading.next(transfers, stripe).await else {
                exhausted = true;
                break;
            };
            let wish = reading.wish(&in_flight);
            in_flight.push(wish);
            let asked = transfers.reads.fetch_times.begin();
            waiting.push(async move {
                let _asked = asked;
                let begun = Instant::now();
                let fetched = transfers
                    .peers
                    .fetch(transfer, &contact, stripe, wish, false)
                    .await;
                (contact.peer, wish, begun.elapsed(), fetched)
            });
        }
        let late = Instant::now() + transfers.reads.fetch_times.late_after(&transfers.member.config);
        tokio::select! {
            answer = waiting.next() => {
                let Some((peer, wish, took, fetched)) = answer else { break };
                if let Some(at) = in_flight.iter().position(|index| *index == wish) {
                    in_flight.swap_remove(at);
                }
                transfers.reads.fetch_times.record(took);
                match fetched {
                    Fetched::Shard(shard) => {
                        reading.k = shard.header().code().k();
                        reading.gave.insert(peer);
                        if !without.contains(&shard.index()) {
                            reading.have.insert(shard.index(), *shard);
                        }
                    }
                    Fetched::Deleted(tombstone) => return Err(Unread::Deleted(tombstone)),
                    Fetched::Silent => { reading.silent.insert(peer); }
                    Fetched::Corrupt => reading.corrupt = true,
                    Fetched::None(holders) => {
                        exhausted &= holders.is_empty();
                        reading.hinted(transfers, holders).await;
                    }
                }
            }
            () = sleep_until(late.into()), if !exhausted => hedges += 1,
        }
    }
    drop(waiting);
    if !reading.is_complete() {
        let look = FirstLook {
            stripe,
            needed: usize::from(reading.k),
            without: &without,
            gave: &reading.gave,
            silent: &reading.silent,
        };
        look_again(transfers, transfer, look, &mut reading.have).await;
    }
    if reading.is_complete() {
        return Ok(reading.have.into_values().collect());
    }
    Err(Unread::Short(unreachable(transfers, stripe, &reading, transfer)))
}

/// Tells "nobody has it" from "those who have it do not answer".
fn unreachable(transfers: &Transfers, stripe: Id, reading: &Reading, transfer: &Transfer) -> Failure {
    let needed = usize::from(reading.k);
    let (have, gave) = (reading.have.keys(), reading.gave.iter().map(Peer::to_string));
    let silent = reading.silent.iter().map(Peer::to_string);
    tracing::warn!(
        %stripe,
        needed,
        have = ?have.collect::<Vec<_>>(),
        gave = ?gave.collect::<Vec<_>>(),
        silent = ?silent.collect::<Vec<_>>(),
        asked = reading.asked.len(),
        "a stripe cannot be read"
    );
    if !reading.have.is_empty() {
        return Failure::unrecoverable(stripe, needed, reading.have.len());
    }
    let absent = transfers.member.absent_successors(stripe, LIKELY_HOLDERS);
    for peer in &absent {
        transfer.disconnected(*peer);
    }
    // Who came up meanwhile was not asked.
    let likely = transfers.member.core.successors(stripe, LIKELY_HOLDERS);
    let all_asked = likely.iter().all(|contact| reading.asked.contains(&contact.peer));
    if reading.silent.is_empty() && absent.is_empty() && all_asked && !reading.corrupt {
        return Failure::not_found(format!("no peer has a shard of stripe {stripe}"));
    }
    Failure::unrecoverable(stripe, needed, 0)
}

/// Fetches one data shard of a stripe for a range read: from the holder where it lies if nothing moved, else
/// from the next few. `None` means that the block has to be decoded instead.
pub(crate) async fn fetch_shard(
    transfers: &Arc<Transfers>,
    transfer: &Transfer,
    wanted: &Wanted,
    index: u8,
) -> Option<VerifiedShard> {
    if wanted.without.contains(&index) {
        return None;
    }
    let mut holders = wanted.likely(transfers);
    if usize::from(index) < holders.len() {
        holders.rotate_left(usize::from(index));
    }
    for contact in holders.iter().take(2) {
        match transfers
            .peers
            .fetch(transfer, contact, wanted.stripe, index, true)
            .await
        {
            Fetched::Shard(shard) => return Some(*shard),
            Fetched::Deleted(_) | Fetched::None(_) | Fetched::Corrupt | Fetched::Silent => {}
        }
    }
    None
}

/// Fetches and decodes a block; `remember` keeps it for the next reader (manifests, range reads).
pub(crate) async fn fetch_block(
    transfers: &Arc<Transfers>,
    transfer: &Transfer,
    wanted: Wanted,
    remember: bool,
) -> Result<Block, Failure> {
    if wanted.without.is_empty()
        && let Some(block) = transfers.reads.cache.get(wanted.stripe)
    {
        return Ok(block);
    }
    let stripe = wanted.stripe;
    let shards = fetch_stripe(transfers, transfer, wanted).await?;
    let decoded = tokio::task::spawn_blocking(move || decode(&shards)).await;
    match decoded {
        Ok(Ok(block)) => {
            if remember {
                transfers.reads.cache.insert(stripe, &block);
            }
            Ok(block)
        }
        Ok(Err(error @ DecodeError::Inconsistent { .. })) => {
            tracing::error!(%stripe, %error, "its writer coded it wrongly");
            Err(Failure::unexpected(error))
        }
        Ok(Err(error)) => Err(Failure::unexpected(error)),
        Err(_) => Err(Failure::refused("stopping")),
    }
}
