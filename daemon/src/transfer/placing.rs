//! The shards of one stripe to their holders: drives [`Placing`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::writer::{Answer, Lacking, Patience, Place, Placed, Placing};
use mutualstore_dht::{Contact, Id, Peer};
use mutualstore_erasure::{Header, Policy, VerifiedShard, reconstruct};

use super::events::Transfer;
use super::lease::Lease;
use super::stripes::{Wanted, fetch_stripe};
use crate::format::placement::Placement;
use crate::keeper::Keep;
use crate::transfer::Transfers;
use crate::wire::peer::PutSecret;

/// What all stripes of one put share.
pub(crate) struct Writing {
    pub(crate) secret: PutSecret,
    pub(crate) keep: Keep,
    /// Whether k shards of each stripe are enough, at once.
    pub(crate) degraded: bool,
    pub(crate) write_timeout: Duration,
    pub(crate) transfer: Arc<Transfer>,
    /// Hears of every shard as soon as it is acknowledged.
    pub(crate) lease: Arc<Lease>,
    patience: Mutex<Patience>,
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
        let patience = if degraded { Duration::ZERO } else { write_timeout };
        Self {
            secret,
            keep,
            degraded,
            write_timeout,
            transfer,
            lease,
            patience: Mutex::new(Patience::new(patience)),
        }
    }
}

/// A stripe whose put may go on.
pub(crate) struct Stored {
    pub(crate) placed: Placed,
    /// For a locator, where its policy wants one.
    pub(crate) header: Option<Header>,
}

/// Why a stripe was not stored. Shards of it that were stay pending until discarded.
#[derive(Debug)]
pub(crate) enum NotStored {
    /// It could not be coded.
    Coding,
    /// These holders took their shard, and why there are not more.
    TooFewHolders(Placed, Lacking),
}

/// Peers that the policy of a stripe names, best first.
async fn candidates(transfers: &Transfers, header: &Header, count: usize) -> Vec<Contact> {
    let stripe = Id::new(*header.id().as_bytes());
    let placement = Placement::of(header).rule(stripe, header.code());
    if placement.needs_locators() {
        let census = transfers.member.census().await;
        return census.candidates(placement, stripe, header.code().n(), count);
    }
    match transfers.member.core.lookup(stripe, count).await {
        Ok(found) => found.contacts,
        Err(_) => transfers.member.core.successors(stripe, count),
    }
}

/// Stores the n shards of one stripe with distinct holders.
pub(crate) async fn store_stripe(
    transfers: &Arc<Transfers>,
    writing: &Writing,
    shards: Vec<VerifiedShard>,
) -> Result<Stored, NotStored> {
    let Some(first) = shards.first() else {
        return Err(NotStored::Coding);
    };
    let header = Some(first.header().clone()).filter(|header| header.policy() != Policy::Successors);
    let code = first.header().code();
    let placed = Placed {
        stripe: Id::new(*first.stripe().as_bytes()),
        k: code.k(),
        n: code.n(),
        holders: Vec::with_capacity(shards.len()),
    };
    let (placed, why) = place(transfers, writing, placed, shards).await;
    if placed.is_enough(writing.degraded) {
        return Ok(Stored { placed, header });
    }
    Err(NotStored::TooFewHolders(placed, why))
}

/// Rebuilds the shards of a stripe whose holders were lost since they were stored, from the others, and
/// stores them with new ones.
pub(crate) async fn complete_stripe(transfers: &Arc<Transfers>, writing: &Writing, placed: Placed) -> Placed {
    let wanted = Wanted::of(placed.stripe, placed.k);
    let Ok(shards) = fetch_stripe(transfers, &writing.transfer, wanted).await else {
        return placed;
    };
    let missing = placed.missing();
    match tokio::task::spawn_blocking(move || reconstruct(&shards, &missing)).await {
        Ok(Ok(rebuilt)) => place(transfers, writing, placed, rebuilt).await.0,
        Ok(Err(_)) | Err(_) => placed,
    }
}

/// Stores the shards that a stripe lacks, until all are placed or patience ends. Says why some are not.
async fn place(
    transfers: &Arc<Transfers>,
    writing: &Writing,
    placed: Placed,
    shards: Vec<VerifiedShard>,
) -> (Placed, Lacking) {
    let Some(header) = shards.first().map(|shard| shard.header().clone()) else {
        return (placed, Lacking::default());
    };
    let shards: BTreeMap<u8, VerifiedShard> =
        shards.into_iter().map(|shard| (shard.index(), shard)).collect();
    let stripe = placed.stripe;
    let core = &transfers.member.core;
    let mut placing = Placing::new(placed, transfers.member.others(|others| others.may_return()));
    let mut sends = FuturesUnordered::new();
    while !placing.is_over() {
        let next = {
            let mut patience = writing.patience.lock().unwrap_or_else(PoisonError::into_inner);
            placing.poll(core.now(), &mut patience)
        };
        match next {
            Some(Place::Find(count)) => {
                placing.handle_candidates(candidates(transfers, &header, count).await);
            }
            Some(Place::Store { index, to }) => match shards.get(&index) {
                Some(shard) => sends.push(send(transfers, writing, to, shard.clone())),
                // It places what it was given: all shards, or all that are missing.
                None => break,
            },
            None => {
                if let Some((index, peer, answer)) = sends.next().await {
                    if answer == Answer::Stored {
                        writing.lease.note(stripe, peer);
                    }
                    placing.handle_answer(index, peer, answer);
                } else if let Some(until) = placing.poll_timeout() {
                    core.sleep_until(until).await;
                } else {
                    break;
                }
            }
        }
    }
    placing.into_outcome()
}

/// One shard to one peer, and who it was.
async fn send(
    transfers: &Arc<Transfers>,
    writing: &Writing,
    to: Contact,
    shard: VerifiedShard,
) -> (u8, Peer, Answer) {
    let (index, token) = (shard.index(), writing.secret.token(to.peer));
    let stored = transfers
        .peers
        .store(&writing.transfer, &to, shard, writing.keep, token);
    (index, to.peer, stored.await)
}
