//! Locators of the stripes of a put, and of repaired ones, to the peers that are asked for the stripes first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use mutualstore_dht::{Contact, Id, Peer, PeerState};

use super::lease::Lease;
use crate::format::locator::Locator;
use crate::keeper::Keep;
use crate::transfer::Transfers;
use crate::wire::peer::{MAX_LOCATORS, PeerRequest, PeerResponse, Token, WireLocator};

/// A peer that does not answer within this has no locator from us; the stripe's primary sees to it.
const DEADLINE: Duration = Duration::from_secs(5);
/// Stripes whose first peers are looked up at the same time, per put.
const LOOKUPS: usize = 16;

/// Has `peer` keep locators. Which of them it keeps; none when it does not answer.
pub(crate) async fn locate_at(
    transfers: &Arc<Transfers>,
    peer: Peer,
    locators: Vec<Locator>,
    keep: Keep,
    token: Token,
) -> Vec<bool> {
    let wired = locators.iter().map(|locator| WireLocator {
        header: locator.header().encode(),
        holders: locator.payload(),
    });
    let wired: Vec<WireLocator> = wired.collect();
    let mut kept = Vec::with_capacity(wired.len());
    for chunk in wired.chunks(MAX_LOCATORS) {
        let request = PeerRequest::Locate(token, keep.lease_ms(), chunk.to_vec());
        match transfers.peers.ask(peer, request, DEADLINE).await {
            Ok(PeerResponse::Done(done)) if done.len() == chunk.len() => kept.extend(done),
            Ok(_) => kept.resize(kept.len() + chunk.len(), false),
            Err(error) => {
                tracing::debug!(%peer, %error, "did not take locators");
                return kept;
            }
        }
    }
    kept
}

/// Has the first peers of each stripe keep its locator, and notes with the lease who does: hints, so that the
/// put need not wait for those that do not answer.
pub(crate) async fn locate_stripes(
    transfers: &Arc<Transfers>,
    locators: Vec<Locator>,
    keep: Keep,
    token: impl Fn(Peer) -> Token,
    lease: &Lease,
) {
    let mut first: BTreeMap<Peer, Vec<Locator>> = BTreeMap::new();
    let asking = stream::iter(locators)
        .map(|locator| async move { (first_peers(transfers, locator.stripe()).await, locator) });
    let mut found = asking.buffer_unordered(LOOKUPS);
    while let Some((contacts, locator)) = found.next().await {
        for contact in contacts {
            if contact.state == PeerState::Accepting {
                first.entry(contact.peer).or_default().push(locator.clone());
            }
        }
    }
    let mut waiting = FuturesUnordered::new();
    for (peer, locators) in first {
        let token = token(peer);
        waiting.push(async move {
            let ids: Vec<Id> = locators.iter().map(Locator::stripe).collect();
            (peer, ids, locate_at(transfers, peer, locators, keep, token).await)
        });
    }
    while let Some((peer, ids, done)) = waiting.next().await {
        for (id, _) in ids.into_iter().zip(done).filter(|(_, kept)| *kept) {
            lease.note(id, peer);
        }
    }
}

/// The first r peers from a stripe's id.
async fn first_peers(transfers: &Arc<Transfers>, stripe: Id) -> Vec<Contact> {
    let r = usize::try_from(transfers.member.network().r).unwrap_or(usize::MAX);
    if transfers.member.knows_everybody() {
        return transfers.member.core.successors(stripe, r);
    }
    match transfers.member.core.lookup(stripe, r).await {
        Ok(found) => found.contacts,
        Err(_) => transfers.member.core.successors(stripe, r),
    }
}
