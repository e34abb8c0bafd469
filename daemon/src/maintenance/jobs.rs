//! Custody's effects on real shards: regenerate, copy, drop, commit.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::custody::{Effect, Item, JobId, JobOutcome, Shape};
use mutualstore_dht::writer::Answer;
use mutualstore_dht::{Id, Peer};
use mutualstore_erasure::{DecodeError, VerifiedShard, reconstruct};

use super::{Maintenance, records};
use crate::format::locator::Locator;
use crate::keeper::Keep;
use crate::transfer::delete::replicate_tombstone;
use crate::transfer::events::Operation;
use crate::transfer::locate::locate_at;
use crate::transfer::peer_client::Fetched;
use crate::wire::peer::NO_TOKEN;

/// Distinct peers looked up around a stripe.
const DISCOVERED: usize = 16;

/// Does what custody asked for and tells it how that went.
pub(super) async fn perform(upkeep: Arc<Maintenance>, effect: Effect) {
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
            let outcome = regenerate(&upkeep, stripe, shape, sources, targets).await;
            finish(&upkeep, job, outcome);
        }
        Effect::Copy {
            job,
            stripe,
            item,
            from,
            to,
        } => {
            let outcome = copy(&upkeep, stripe, item, from, to).await;
            finish(&upkeep, job, outcome);
        }
        Effect::Locate {
            job,
            stripe,
            holders,
            to,
        } => {
            let outcome = locate(&upkeep, stripe, holders, to).await;
            finish(&upkeep, job, outcome);
        }
        Effect::Drop {
            stripe,
            item,
            expired,
        } => {
            if expired {
                // A put of this peer that lives, after this process stood still.
                upkeep.transfers.renew_asked(upkeep.member.me, &[stripe]).await;
                upkeep.keeper.expire(stripe, item.into()).await;
            } else {
                upkeep.keeper.drop_shards(vec![(stripe, item.into())]).await;
            }
            upkeep.keeper.publish_usage();
        }
        Effect::Merge { job, id, from, to } => {
            let outcome = records::merge(&upkeep, id, from, to).await;
            finish(&upkeep, job, outcome);
        }
        Effect::Yield { id, to } => records::give_way(&upkeep, id, to).await,
        Effect::Discover { point } => {
            // What it finds is the ring's to know; when it fails, custody asks again.
            if let Err(error) = upkeep.member.core.lookup(point, DISCOVERED).await {
                tracing::debug!(%point, %error, "could not look around");
            }
        }
        Effect::Commit { stripe } => {
            if let Err(error) = upkeep.keeper.commit(vec![stripe], None).await {
                tracing::warn!(%stripe, %error, "could not commit; the shard stays pending");
            }
        }
    }
}

fn finish(upkeep: &Maintenance, job: JobId, outcome: JobOutcome) {
    upkeep.metrics.repaired(outcome.stored.len(), outcome.bytes);
    if !outcome.stored.is_empty() {
        upkeep.transfers.sweep.repaired();
    }
    upkeep
        .member
        .core
        .with(|state, now| state.engine.handle_job(now, job, outcome));
}

fn failed(targets: Vec<(Item, Peer)>) -> JobOutcome {
    JobOutcome {
        stored: Vec::new(),
        failed: targets,
        inconsistent: false,
        bytes: 0,
    }
}

/// Fetches k shards, rebuilds the missing ones, and stores each with its new holder.
async fn regenerate(
    upkeep: &Arc<Maintenance>,
    stripe: Id,
    shape: Shape,
    sources: Vec<(u8, Peer)>,
    targets: Vec<(u8, Peer)>,
) -> JobOutcome {
    let wanted: Vec<u8> = targets.iter().map(|(index, _)| *index).collect();
    let targets: Vec<(Item, Peer)> = targets
        .into_iter()
        .map(|(index, peer)| (Item::Shard(index), peer))
        .collect();
    let Ok(_block) = upkeep.transfers.blocks.acquire().await else {
        return failed(targets);
    };
    let shards = gather(upkeep, stripe, usize::from(shape.k), sources).await;
    if shards.len() < usize::from(shape.k) {
        return failed(targets);
    }
    let rebuilt = tokio::task::spawn_blocking(move || reconstruct(&shards, &wanted)).await;
    match rebuilt {
        Ok(Ok(rebuilt)) => deliver(upkeep, rebuilt, targets).await,
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
async fn gather(
    upkeep: &Arc<Maintenance>,
    stripe: Id,
    k: usize,
    sources: Vec<(u8, Peer)>,
) -> Vec<VerifiedShard> {
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
                let fetched = upkeep
                    .transfers
                    .peers
                    .fetch_from(Operation::Repair, peer, stripe, index, true)
                    .await;
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

async fn deliver(
    upkeep: &Arc<Maintenance>,
    rebuilt: Vec<VerifiedShard>,
    targets: Vec<(Item, Peer)>,
) -> JobOutcome {
    let mut outcome = failed(Vec::new());
    let mut waiting = FuturesUnordered::new();
    for shard in rebuilt {
        let item = Item::Shard(shard.index());
        let target = targets.iter().find(|(wanted, _)| *wanted == item);
        if let Some((_, peer)) = target.copied() {
            let bytes = u64::try_from(shard.payload().len()).unwrap_or(u64::MAX);
            waiting.push(async move {
                let stored = upkeep
                    .transfers
                    .peers
                    .store_at(Operation::Repair, peer, shard, Keep::Committed, NO_TOKEN)
                    .await;
                (item, peer, bytes, stored == Answer::Stored)
            });
        }
    }
    while let Some((item, peer, bytes, stored)) = waiting.next().await {
        if stored {
            outcome.stored.push((item, peer));
            outcome.bytes = outcome.bytes.saturating_add(bytes);
        } else {
            outcome.failed.push((item, peer));
        }
    }
    outcome
}

/// Writes the locator of a stripe at some of its first peers.
async fn locate(
    upkeep: &Arc<Maintenance>,
    stripe: Id,
    holders: Vec<(u8, Peer)>,
    to: Vec<Peer>,
) -> JobOutcome {
    let targets: Vec<(Item, Peer)> = to.iter().map(|peer| (Item::Locator, *peer)).collect();
    let mut header = upkeep.keeper.header(stripe).await;
    let mut sources = holders.iter();
    while header.is_none()
        && let Some((index, peer)) = sources.next()
    {
        if let Fetched::Shard(shard) = upkeep
            .transfers
            .peers
            .fetch_from(Operation::Repair, *peer, stripe, *index, true)
            .await
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
                locate_at(&upkeep.transfers, peer, locators, Keep::Committed, NO_TOKEN).await,
            )
        });
    }
    while let Some((peer, kept)) = waiting.next().await {
        let list = if kept == [true] {
            &mut outcome.stored
        } else {
            &mut outcome.failed
        };
        list.push((Item::Locator, peer));
    }
    outcome
}

/// Copies one shard, or the tombstone, as it is from one holder to another.
async fn copy(upkeep: &Arc<Maintenance>, stripe: Id, item: Item, from: Peer, to: Peer) -> JobOutcome {
    let targets = vec![(item, to)];
    let Ok(_block) = upkeep.transfers.blocks.acquire().await else {
        return failed(targets);
    };
    match upkeep
        .transfers
        .peers
        .fetch_from(Operation::Repair, from, stripe, item.into(), true)
        .await
    {
        Fetched::Shard(shard) => deliver(upkeep, vec![*shard], targets).await,
        Fetched::Deleted(tombstone) if item == Item::Tombstone => {
            if replicate_tombstone(&upkeep.transfers, &tombstone, to).await {
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
