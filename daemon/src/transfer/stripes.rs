//! One stripe from its holders.
//!
//! k of the expected holders are asked, data shards first, of copies any holder; who has none may name who
//! does; one that has nothing, lies or is slow is made good by the next, along the ring, at every live peer,
//! and by a [second look](super::second_look), before "k needed, x reachable" is said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::placement::Placement;
use mutualstore_dht::writer::SPARE;
use mutualstore_dht::{Contact, Id, Peer};
use mutualstore_erasure::{DecodeError, VerifiedShard, decode};
use tokio::time::sleep_until;

use super::cache::Block;
use super::events::Transfer;
use super::peer_client::Fetched;
use super::second_look::{FirstLook, look_again};
use crate::error::Failure;
use crate::format::tombstone::Tombstone;
use crate::peer::membership::LIKELY_HOLDERS;
use crate::transfer::Transfers;

/// A read never asks more peers than this for one stripe.
const MAX_ASKED: usize = 256;

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
