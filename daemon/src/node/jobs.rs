//! Custody's effects on real shards: regenerate, copy, drop, commit.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::custody::{Effect, JobId, JobOutcome, LOCATOR, Shape, TOMBSTONE};
use mutualstore_dht::{Id, Peer};
use mutualstore_erasure::{DecodeError, VerifiedShard, reconstruct};

use super::Node;
use super::core::State;
use super::shards::Keep;
use crate::locator::Locator;
use crate::transfer::delete::bury_at;
use crate::transfer::events::Operation;
use crate::transfer::exchange::{Fetched, fetch_from, store_at};
use crate::transfer::lease::renew_asked;
use crate::transfer::locate::locate_at;
use crate::wire::node::NO_TOKEN;

/// Distinct peers looked up around a stripe.
const DISCOVERED: usize = 16;

/// Does what custody asked for and tells it how that went.
pub(super) async fn perform(node: Arc<Node>, effect: Effect) {
    #[cfg(feature = "adversary")]
    if crate::adversary::liar::is_on() {
        return;
    }
    match effect {
        Effect::Regenerate {
            job,
            stripe,
            shape,
            sources,
            targets,
        } => {
            let outcome = regenerate(&node, stripe, shape, sources, targets).await;
            finish(&node, job, outcome);
        }
        Effect::Copy {
            job,
            stripe,
            index,
            from,
            to,
        } => {
            let outcome = copy(&node, stripe, index, from, to).await;
            finish(&node, job, outcome);
        }
        Effect::Locate {
            job,
            stripe,
            holders,
            to,
        } => {
            let outcome = locate(&node, stripe, holders, to).await;
            finish(&node, job, outcome);
        }
        Effect::Drop {
            stripe,
            index,
            expired,
        } => {
            if expired {
                // A put of this peer that lives, after this process stood still.
                renew_asked(&node, node.me, &[stripe]).await;
                node.shards.expire(&node.core, stripe, index).await;
            } else {
                node.shards.drop_shards(&node.core, vec![(stripe, index)]).await;
            }
            node.publish_usage();
        }
        Effect::Discover { point } => {
            // What it finds is the ring's to know; when it fails, custody asks again.
            if let Err(error) = node.core.lookup(point, DISCOVERED).await {
                tracing::debug!(%point, %error, "could not look around");
            }
        }
        Effect::Commit { stripe } => {
            if let Err(error) = node.shards.commit(&node.core, vec![stripe], None).await {
                tracing::warn!(%stripe, %error, "could not commit; the shard stays pending");
            }
        }
    }
}

fn finish(node: &Node, job: JobId, outcome: JobOutcome) {
    node.metrics.repaired(outcome.stored.len(), outcome.bytes);
    if !outcome.stored.is_empty() {
        node.sweep.repaired();
    }
    node.core.with(|state, now| {
        let State { ring, custody, .. } = state;
        custody.handle_job(now, ring, job, outcome);
    });
}

fn failed(targets: Vec<(u8, Peer)>) -> JobOutcome {
    JobOutcome {
        stored: Vec::new(),
        failed: targets,
        inconsistent: false,
        bytes: 0,
    }
}

/// Fetches k shards, rebuilds the missing ones, and stores each with its new holder.
async fn regenerate(
    node: &Arc<Node>,
    stripe: Id,
    shape: Shape,
    sources: Vec<(u8, Peer)>,
    targets: Vec<(u8, Peer)>,
) -> JobOutcome {
    let Ok(_block) = node.blocks.acquire().await else {
        return failed(targets);
    };
    let shards = gather(node, stripe, usize::from(shape.k), sources).await;
    if shards.len() < usize::from(shape.k) {
        return failed(targets);
    }
    let wanted: Vec<u8> = targets.iter().map(|(index, _)| *index).collect();
    let rebuilt = tokio::task::spawn_blocking(move || reconstruct(&shards, &wanted)).await;
    match rebuilt {
        Ok(Ok(rebuilt)) => deliver(node, rebuilt, targets).await,
        Ok(Err(DecodeError::Inconsistent { index, .. })) => {
            tracing::error!(%stripe, index, "the stripe is inconsistent: its writer coded it wrongly");
            JobOutcome {
                inconsistent: true,
                ..failed(targets)
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(%stripe, %error, "could not regenerate");
            failed(targets)
        }
        Err(_stopping) => failed(targets),
    }
}

/// Asks for shards of distinct indices until there are `k`, one source after the other's failure. An index
/// that is on its way is asked for at another source only when it does not come.
async fn gather(node: &Arc<Node>, stripe: Id, k: usize, sources: Vec<(u8, Peer)>) -> Vec<VerifiedShard> {
    let mut shards: Vec<VerifiedShard> = Vec::with_capacity(k);
    let mut asked: BTreeSet<u8> = BTreeSet::new();
    let mut waiting = FuturesUnordered::new();
    let mut sources = VecDeque::from(sources);
    loop {
        while shards.len() + waiting.len() < k
            && let Some(at) = sources.iter().position(|(index, _)| !asked.contains(index))
            && let Some((index, peer)) = sources.remove(at)
        {
            asked.insert(index);
            waiting.push(async move {
                let fetched = fetch_from(node, Operation::Repair, peer, stripe, index, true).await;
                (index, fetched)
            });
        }
        match waiting.next().await {
            Some((_, Fetched::Shard(shard))) => shards.push(*shard),
            Some((index, Fetched::Deleted(_) | Fetched::None(_) | Fetched::Corrupt | Fetched::Silent)) => {
                asked.remove(&index);
            }
            None => return shards,
        }
    }
}

async fn deliver(node: &Arc<Node>, rebuilt: Vec<VerifiedShard>, targets: Vec<(u8, Peer)>) -> JobOutcome {
    let mut outcome = failed(Vec::new());
    let mut waiting = FuturesUnordered::new();
    for shard in rebuilt {
        let target = targets.iter().find(|(index, _)| *index == shard.index()).copied();
        if let Some((index, peer)) = target {
            let bytes = u64::try_from(shard.payload().len()).unwrap_or(u64::MAX);
            waiting.push(async move {
                let stored = store_at(node, Operation::Repair, peer, shard, Keep::Committed, NO_TOKEN).await;
                (index, peer, bytes, stored.is_ok())
            });
        }
    }
    while let Some((index, peer, bytes, stored)) = waiting.next().await {
        if stored {
            outcome.stored.push((index, peer));
            outcome.bytes = outcome.bytes.saturating_add(bytes);
        } else {
            outcome.failed.push((index, peer));
        }
    }
    outcome
}

/// Writes the locator of a stripe at some of its first peers.
async fn locate(node: &Arc<Node>, stripe: Id, holders: Vec<(u8, Peer)>, to: Vec<Peer>) -> JobOutcome {
    let targets: Vec<(u8, Peer)> = to.iter().map(|peer| (LOCATOR, *peer)).collect();
    let mut header = node.shards.header(stripe).await;
    let mut sources = holders.iter();
    while header.is_none()
        && let Some((index, peer)) = sources.next()
    {
        if let Fetched::Shard(shard) = fetch_from(node, Operation::Repair, *peer, stripe, *index, true).await
        {
            header = Some(shard.header().clone());
        }
    }
    let Some(locator) = header.and_then(|header| Locator::new(header, holders)) else {
        return failed(targets);
    };
    let mut outcome = failed(Vec::new());
    let mut waiting = FuturesUnordered::new();
    for peer in to {
        let locators = vec![locator.clone()];
        waiting.push(async move {
            (
                peer,
                locate_at(node, peer, locators, Keep::Committed, NO_TOKEN).await,
            )
        });
    }
    while let Some((peer, kept)) = waiting.next().await {
        let list = if kept == [true] {
            &mut outcome.stored
        } else {
            &mut outcome.failed
        };
        list.push((LOCATOR, peer));
    }
    outcome
}

/// Copies one shard, or the tombstone, as it is from one holder to another.
async fn copy(node: &Arc<Node>, stripe: Id, index: u8, from: Peer, to: Peer) -> JobOutcome {
    let targets = vec![(index, to)];
    let Ok(_block) = node.blocks.acquire().await else {
        return failed(targets);
    };
    match fetch_from(node, Operation::Repair, from, stripe, index, true).await {
        Fetched::Shard(shard) => deliver(node, vec![*shard], targets).await,
        Fetched::Deleted(tombstone) if index == TOMBSTONE => {
            if bury_at(node, &tombstone, to).await {
                JobOutcome {
                    stored: targets,
                    ..failed(Vec::new())
                }
            } else {
                failed(targets)
            }
        }
        Fetched::Deleted(_) | Fetched::None(_) | Fetched::Corrupt | Fetched::Silent => failed(targets),
    }
}
