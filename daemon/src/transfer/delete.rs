//! Deleting a file: its owner signs a tombstone for every stripe, and holders keep those instead of the shards.
//!
//! Data goes first and the root of the manifest last, each part only when of every stripe before it fewer than k
//! shards lie where no tombstone is: what is left of an interrupted deletion can still be found and is deleted by the
//! next attempt. Custody takes the tombstones on to the stripes' seats, and to holders that were away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::{Id, Peer};
use serde::Serialize;

use super::events::{Operation, Transfer};
use super::get;
use super::health::{Asked, ShardState, StripeHealth, survey};
use super::stripes::{Wanted, fetch_stripe};
use crate::crypt::{owner_key, sign_deletion};
use crate::error::{EXIT_NOT_FOUND, Failure};
use crate::link::Link;
use crate::node::Node;
use crate::node::service;
use crate::node::shards::unix_ms;
use crate::tombstone::Tombstone;
use crate::wire::node::{Burial, MAX_BURIALS, NodeRequest, NodeResponse};

/// A holder that does not answer within this is asked again.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to finish what a crash interrupted.
const RESUME: Duration = Duration::from_secs(10);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(500);

/// What was deleted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Deleted {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    /// Stripes, those of the manifest included.
    pub(crate) stripes: usize,
    /// Shards known at peers that did not answer: they go when these come back.
    pub(crate) shards_left: usize,
}

/// Deletes the file behind a link. Only the account that put it can. On return fewer than k shards of each stripe lie
/// on peers that do not know; when it fails, what is deleted stays so and the rest can be deleted by another attempt.
pub(crate) async fn delete(node: &Arc<Node>, link: &Link, transfer: &Transfer) -> Result<Deleted, Failure> {
    node.check_link(link)?;
    let root = Wanted::of(Id::new(link.manifest), 1);
    let shards = fetch_stripe(node, transfer, root).await?;
    let owner = owner_key(&node.account, &link.key);
    if shards.iter().any(|shard| *shard.header().owner() != owner) {
        return Err(Failure::not_allowed(
            "the file was put by another account; only that one can delete it",
        ));
    }
    let file = get::open(node, transfer, link).await?;
    let of = |is_data: bool| {
        let stripes = file.layout.iter().filter(move |stripe| stripe.is_data == is_data);
        stripes.map(|stripe| stripe.asked).collect::<Vec<Asked>>()
    };
    let (data, mut manifest) = (of(true), of(false));
    let index = manifest.split_off(1.min(manifest.len()));
    let mut shards_left = 0;
    for part in [data, index, manifest] {
        shards_left += delete_stripes(node, link, &part).await?;
    }
    node.publish_usage();
    Ok(Deleted {
        name: file.manifest.name,
        size_bytes: file.manifest.size,
        stripes: file.layout.len(),
        shards_left,
    })
}

/// Deletes a file and takes it off the list of files. After a crash the deletion is finished.
pub(crate) async fn delete_listed(node: &Arc<Node>, link: &Link) -> Result<Deleted, Failure> {
    node.check_link(link)?;
    let sealed = node.files.seal_deletion(link);
    let mut journal = node.journal.begin(&rand::random(), unix_ms())?;
    let marked = journal.mark_deleting(&sealed).map_err(Failure::from);
    let deleted = match marked {
        Ok(()) => delete(node, link, &Transfer::new(Operation::Delete)).await,
        Err(failure) => Err(failure),
    };
    if deleted.is_ok() {
        let node = Arc::clone(node);
        let noted = tokio::task::spawn_blocking(move || node.files.append_sealed(&sealed)).await;
        noted.map_err(Failure::unexpected)??;
    }
    if let Err(error) = journal.finish() {
        tracing::warn!(%error, "an ended deletion stays in the journal; the next start sees to it");
    }
    deleted
}

/// Finishes a deletion that a crash interrupted, as soon as enough holders answer.
pub(crate) async fn resume(node: &Arc<Node>, sealed: &str) {
    let Some(link) = node.files.open_deletion(sealed) else {
        tracing::warn!("a deletion in the journal is damaged or of another account; given up");
        return;
    };
    loop {
        match delete(node, &link, &Transfer::new(Operation::Delete)).await {
            Err(failure) if failure.retry => tokio::time::sleep(RESUME).await,
            Err(failure) if failure.exit != EXIT_NOT_FOUND => {
                tracing::warn!(%failure, "a deletion that was interrupted is given up");
                return;
            }
            Ok(_) | Err(_) => break,
        }
    }
    tracing::info!("finished a deletion that was in progress when the daemon stopped");
    if let Err(error) = node.files.append_sealed(sealed) {
        tracing::error!(%error, "a deleted file stays in the list");
    }
}

/// Deletes stripes. Returns how many shards are left at peers that did not answer.
async fn delete_stripes(node: &Arc<Node>, link: &Link, stripes: &[Asked]) -> Result<usize, Failure> {
    let until = Instant::now() + node.config.write_timeout;
    loop {
        let found = survey(node, stripes).await;
        let unaware = tell_holders(node, link, stripes, &found).await;
        let left = |asked: &Asked| unaware.get(&asked.stripe).map_or(0, BTreeSet::len);
        let undone = stripes.iter().filter(|asked| left(asked) >= usize::from(asked.k));
        let undone = undone.count();
        if undone == 0 {
            return Ok(unaware.values().map(BTreeSet::len).sum());
        }
        if Instant::now() >= until {
            return Err(Failure::refused(format!(
                "{undone} of {} stripes can still be read from peers that do not answer; what is deleted stays so, \
                 try again when they are back",
                stripes.len()
            )));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Gives every live holder the tombstones of what it holds. Returns, for each stripe, the indices of shards at peers that
/// did not take them.
async fn tell_holders(
    node: &Arc<Node>,
    link: &Link,
    stripes: &[Asked],
    found: &[StripeHealth],
) -> BTreeMap<Id, BTreeSet<u8>> {
    let mut unaware: BTreeMap<Id, BTreeSet<u8>> = BTreeMap::new();
    let mut holders: BTreeMap<Peer, BTreeMap<Id, BTreeSet<u8>>> = BTreeMap::new();
    for (asked, health) in stripes.iter().zip(found) {
        node.cache.remove(asked.stripe);
        for shard in &health.shards {
            match (shard.state, shard.peer) {
                (ShardState::Ok | ShardState::Pending, Some(peer)) => {
                    let held = holders.entry(peer).or_default().entry(asked.stripe).or_default();
                    held.insert(shard.index);
                }
                // Who is gone finds the tombstones at the seats of the stripe when it comes back, as readers do.
                (ShardState::Unreachable, Some(peer)) if !node.is_gone(peer) => {
                    unaware.entry(asked.stripe).or_default().insert(shard.index);
                }
                (ShardState::Unreachable | ShardState::Missing, _) | (_, None) => {}
            }
        }
    }
    let mut waiting = FuturesUnordered::new();
    for (peer, held) in holders {
        waiting.push(async move {
            let ids: Vec<Id> = held.keys().copied().collect();
            let taken = bury_all(node, link, &ids, peer).await;
            let missed = held
                .into_iter()
                .filter(move |(stripe, _)| !taken.contains(stripe));
            missed.collect::<Vec<_>>()
        });
    }
    while let Some(missed) = waiting.next().await {
        for (stripe, indices) in missed {
            unaware.entry(stripe).or_default().extend(indices);
        }
    }
    unaware
}

/// Signs the deletion of stripes for a holder of their shards. Returns those it confirmed.
async fn bury_all(node: &Arc<Node>, link: &Link, stripes: &[Id], peer: Peer) -> BTreeSet<Id> {
    let mut taken = BTreeSet::new();
    for chunk in stripes.chunks(MAX_BURIALS) {
        let sign = |stripe: &Id| Burial {
            stripe: *stripe,
            header: Bytes::new(),
            signature: Bytes::copy_from_slice(&sign_deletion(&node.account, &link.key, stripe.as_bytes())),
        };
        let done = send(node, chunk.iter().map(sign).collect(), peer).await;
        let confirmed = chunk.iter().zip(done).filter(|(_, done)| *done);
        taken.extend(confirmed.map(|(stripe, _)| *stripe));
    }
    taken
}

/// Which of the burials `peer` has done; none when it does not answer.
async fn send(node: &Arc<Node>, burials: Vec<Burial>, peer: Peer) -> Vec<bool> {
    if peer == node.me {
        return service::bury_all(node, burials).await;
    }
    let Some(contact) = node.core.contact(peer) else {
        return Vec::new();
    };
    match node.ask(&contact, &NodeRequest::Bury(burials), DEADLINE).await {
        Ok(NodeResponse::Done(done)) => done,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::debug!(%peer, %error, "did not take tombstones");
            Vec::new()
        }
    }
}

/// Hands a tombstone on, for custody.
pub(crate) async fn bury_at(node: &Arc<Node>, tombstone: &Tombstone, peer: Peer) -> bool {
    let burial = Burial {
        stripe: tombstone.stripe(),
        header: tombstone.header().encode(),
        signature: Bytes::copy_from_slice(tombstone.signature()),
    };
    send(node, vec![burial], peer).await == [true]
}
