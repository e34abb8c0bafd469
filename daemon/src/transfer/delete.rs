//! Deleting a file: its owner signs a tombstone for every stripe, and holders keep those instead of the
//! shards.
//!
//! Data goes first and the root of the manifest last, each part only when of every stripe before it fewer
//! than k shards lie where no tombstone is: what is left of an interrupted deletion can still be found and is
//! deleted by the next attempt. Custody takes the tombstones on to the stripes' preferred, and to holders
//! that were away.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use mutualstore_contract::exit;
use mutualstore_contract::reply::Deleted;
use mutualstore_contract::units::counted;
use mutualstore_dht::placement::Placement;
use mutualstore_dht::writer::{Delete, Deleting, Outlook, SPARE};
use mutualstore_dht::{Id, Peer};
use mutualstore_erasure::Header;

use super::events::{Operation, Transfer};
use super::get;
use super::health::{Asked, Away, StripeHealth, survey_with};
use super::stripes::{BY_OWNER, Unread, Wanted, fetch_stripe};
use crate::clock::unix_ms;
use crate::datadir::journal::Exposed;
use crate::datadir::spare;
use crate::error::Failure;
use crate::format::crypt::{owner_key, sign_deletion};
use crate::format::link::Link;
use crate::format::tombstone::Tombstone;
use crate::transfer::Transfers;
use crate::wire::peer::{MAX_TOMBSTONES, PeerRequest, PeerResponse, WireTombstone};

/// A holder that does not answer within this is asked again.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to finish what a crash interrupted.
pub(super) const RESUME: Duration = Duration::from_secs(10);
/// Stripes of deletions that were refused of which is remembered who holds shards.
const REMEMBERED: usize = 1 << 16;

/// Deletes the file behind a link, whose owner key follows from `root`. On return fewer than k shards of each
/// stripe lie on peers that do not know; when it fails, what is deleted stays so and the rest can be deleted
/// by another attempt. None if an earlier attempt had deleted all but the rest of the root.
pub(crate) async fn delete(
    transfers: &Arc<Transfers>,
    link: &Link,
    root: &[u8; 32],
    transfer: &Transfer,
) -> Result<Option<Deleted>, Failure> {
    transfers.member.check_admitted()?;
    transfers.member.check_link(link)?;
    let owner = owner_key(root, &link.key);
    let manifest = Wanted::of(Id::new(link.manifest), 1);
    let shards = match fetch_stripe(transfers, transfer, manifest).await {
        Ok(shards) => shards,
        Err(Unread::Deleted(tombstone)) if *tombstone.header().owner() == owner => {
            finish_root(transfers, (link, root), tombstone.header()).await?;
            return Ok(None);
        }
        Err(Unread::Short(failure)) if failure.exit == exit::UNRECOVERABLE => {
            let message = format!(
                "{}, of the manifest, without which nobody knows what else to delete; nothing was deleted; \
                 try again when peers that are missing are back",
                failure.message
            );
            return Err(Failure { message, ..failure });
        }
        Err(unread) => return Err(unread.into()),
    };
    if shards.iter().any(|shard| *shard.header().owner() != owner) {
        return Err(Failure::not_allowed(
            "the file was put by another account; only that one can delete it",
        ));
    }
    let file = get::open(transfers, transfer, link).await?;
    let of = |is_data: bool| {
        let stripes = file.layout.iter().filter(move |stripe| stripe.is_data == is_data);
        stripes.map(|stripe| stripe.asked).collect::<Vec<Asked>>()
    };
    let (data, mut manifest) = (of(true), of(false));
    let index = manifest.split_off(1.min(manifest.len()));
    let mut shards_left = 0;
    for part in [data, index, manifest] {
        shards_left += delete_stripes(transfers, (link, root), &part).await?;
    }
    transfers.keeper.publish_usage();
    forget_named(transfers, link).await;
    Ok(Some(Deleted {
        name: file.manifest.name,
        size_bytes: file.manifest.size,
        stripes: file.layout.len() as u64,
        shards_left: shards_left as u64,
        named: None,
    }))
}

/// A file in a bucket is not watched any more.
async fn forget_named(transfers: &Arc<Transfers>, link: &Link) {
    let (transfers, link) = (Arc::clone(transfers), link.clone());
    let forgotten = tokio::task::spawn_blocking(move || transfers.files.forget_named(&link)).await;
    if let Ok(Err(error)) = forgotten {
        tracing::warn!(%error, "a file that is gone stays among those that are watched");
    }
}

/// The root of the manifest has a tombstone already: an earlier attempt came so far, or all the way.
async fn finish_root(
    transfers: &Arc<Transfers>,
    (link, root): (&Link, &[u8; 32]),
    header: &Header,
) -> Result<(), Failure> {
    let manifest = Asked {
        stripe: Id::new(link.manifest),
        k: header.code().k(),
        n: header.code().n(),
        placement: Placement::Successors,
    };
    delete_stripes(transfers, (link, root), &[manifest])
        .await
        .map(drop)
}

/// What was deleted by an earlier attempt, if the list of files does not say so yet.
async fn deleted_before(transfers: &Arc<Transfers>, link: &Link) -> Result<Deleted, Failure> {
    let entry = transfers
        .listed(link)
        .await?
        .ok_or_else(|| Failure::not_found(BY_OWNER))?;
    Ok(Deleted {
        name: entry.name,
        size_bytes: entry.size_bytes,
        stripes: 0,
        shards_left: 0,
        named: None,
    })
}

/// Deletes a file and takes it off the list of files. After a crash the deletion is finished.
pub(crate) async fn delete_listed(transfers: &Arc<Transfers>, link: &Link) -> Result<Deleted, Failure> {
    transfers.member.check_link(link)?;
    let sealed = transfers.files.seal_deletion(link, None);
    let journal = spare::with(transfers.member.data.path(), || {
        let mut journal = transfers.writes.journal.begin(&rand::random(), unix_ms())?;
        match journal.mark_deleting(&sealed) {
            Ok(()) => Ok(journal),
            Err(error) => {
                // Should it stay, the next start goes on with the deletion that was asked for.
                drop(journal.finish());
                Err(error.into())
            }
        }
    })?;
    let deleted = match delete(
        transfers,
        link,
        &transfers.account,
        &Transfer::new(Operation::Delete),
    )
    .await
    {
        Ok(Some(deleted)) => Ok(deleted),
        Ok(None) => deleted_before(transfers, link).await,
        Err(failure) => Err(failure),
    };
    if deleted.is_ok() {
        let transfers = Arc::clone(transfers);
        let take_off = move || {
            spare::with(transfers.member.data.path(), || {
                Ok(transfers.files.append_sealed(&sealed)?)
            })
        };
        let noted = tokio::task::spawn_blocking(take_off).await;
        noted.map_err(Failure::unexpected)??;
    }
    if let Err(error) = journal.finish() {
        tracing::warn!(%error, "an ended deletion stays in the journal; the next start sees to it");
    }
    deleted
}

/// Tries to finish a deletion that a crash interrupted. It is to be continued while too few holders answer.
pub(crate) async fn resume(transfers: &Arc<Transfers>, sealed: &str) -> ControlFlow<()> {
    let Some((link, _)) = transfers.files.open_deletion(sealed) else {
        tracing::warn!("a deletion in the journal is damaged or of another account; given up");
        return ControlFlow::Break(());
    };
    match delete(
        transfers,
        &link,
        &transfers.account,
        &Transfer::new(Operation::Delete),
    )
    .await
    {
        // A peer that does not see the others finds nothing too.
        Err(failure) if failure.retry || failure.exit == exit::NOT_FOUND && !transfers.member.sees_half() => {
            tracing::debug!(%failure, "a deletion in the journal cannot be finished yet");
            return ControlFlow::Continue(());
        }
        Err(failure) if failure.exit != exit::NOT_FOUND => {
            tracing::warn!(%failure, "a deletion that was interrupted is given up");
            return ControlFlow::Break(());
        }
        Ok(_) | Err(_) => tracing::info!("finished a deletion that was in progress when the daemon stopped"),
    }
    if let Err(error) = transfers.files.append_sealed(sealed) {
        tracing::error!(%error, "a deleted file stays in the list");
    }
    ControlFlow::Break(())
}

/// Takes back a file of one stripe whose put ended before it was told of: holders that are away may have a
/// committed shard, so tombstones go to all who would be asked for it. Returns when they have them; until
/// then it tries again.
pub(crate) async fn take_back(transfers: &Arc<Transfers>, exposed: &Exposed) {
    let link = transfers.files.open_deletion(&exposed.deletion);
    let header = Header::decode(&exposed.header).ok();
    let (Some((link, bucket)), Some(header)) = (link, header) else {
        tracing::warn!("a small put in the journal is damaged or of another account; what it stored stays");
        return;
    };
    let stripe = Id::new(*header.id().as_bytes());
    let root = bucket.as_ref().map_or(&transfers.account, |bucket| &bucket.owner);
    let tombstone = WireTombstone {
        stripe,
        header: header.encode(),
        signature: Bytes::copy_from_slice(&sign_deletion(root, &link.key, stripe.as_bytes())),
    };
    let preferred = usize::from(header.code().n());
    loop {
        transfers.reads.cache.remove(stripe);
        let found = transfers
            .member
            .core
            .lookup(stripe, preferred)
            .await
            .map(|found| found.contacts);
        let writing = found.unwrap_or_default().into_iter().map(|holder| {
            let tombstone = tombstone.clone();
            async move { send(transfers, vec![tombstone], holder.peer).await == [true] }
        });
        let kept = join_all(writing).await;
        if !kept.is_empty() && kept.iter().all(|kept| *kept) {
            return forget_named(transfers, &link).await;
        }
        tokio::time::sleep(RESUME).await;
    }
}

/// Deletes stripes. Returns how many shards are left at peers that did not answer.
async fn delete_stripes(
    transfers: &Arc<Transfers>,
    (link, root): (&Link, &[u8; 32]),
    stripes: &[Asked],
) -> Result<usize, Failure> {
    let core = &transfers.member.core;
    let timeout = transfers.member.config.settings.write_timeout.0;
    let targets = stripes.iter().map(Asked::target).collect();
    let mut deleting = Deleting::new(targets, transfers.away_from(stripes), timeout);
    let (mut replicating, mut spreading) = (FuturesUnordered::new(), FuturesUnordered::new());
    while !deleting.is_over() {
        match deleting.poll(core.now(), &*transfers.member) {
            Some(Delete::Look) => {
                let found = survey_with(transfers, stripes, deleting.away()).await;
                for asked in stripes {
                    transfers.reads.cache.remove(asked.stripe);
                }
                deleting.handle_look(found.iter().map(StripeHealth::seen).collect());
            }
            Some(Delete::Replicate { to, stripes }) => replicating.push(async move {
                let taken = replicate_tombstones(transfers, (link, root), &stripes, to).await;
                (to, stripes, taken)
            }),
            Some(Delete::Spread {
                stripe,
                count,
                keepers,
            }) => spreading.push(async move { (stripe, spread(transfers, stripe, count, &keepers).await) }),
            None => {
                let due = deleting.poll_timeout();
                tokio::select! {
                    Some((from, stripes, taken)) = replicating.next() => {
                        deleting.handle_replicated(from, &stripes, &taken);
                    }
                    Some((stripe, taken)) = spreading.next() => deleting.handle_spread(stripe, taken),
                    () = core.sleep_until(due.unwrap_or_default()), if due.is_some() => {}
                    else => break,
                }
            }
        }
    }
    match deleting.outcome() {
        Ok(left) => {
            transfers.forget_away(stripes);
            Ok(left)
        }
        Err(undone) => {
            transfers.remember_away(deleting.away());
            Err(Failure::refused(format!(
                "{} of the file may still be read from peers that do not answer; what is deleted stays so, \
                 try again when they are back, or `mutualstore forget` those that will not be",
                counted(undone, "stripe")
            )))
        }
    }
}

/// Gives the tombstone of a stripe to `count` more of its preferred peers. Who took it: nobody where a read
/// finds a shard before it finds the tombstone; then the next round tries again.
async fn spread(transfers: &Arc<Transfers>, stripe: Id, count: usize, keepers: &BTreeSet<Peer>) -> Vec<Peer> {
    let transfer = &Transfer::new(Operation::Delete);
    let Err(Unread::Deleted(tombstone)) = fetch_stripe(transfers, transfer, Wanted::of(stripe, 1)).await
    else {
        return Vec::new();
    };
    let preferred = transfers
        .member
        .core
        .lookup(stripe, keepers.len() + count + SPARE)
        .await;
    let preferred = preferred.map(|found| found.contacts).unwrap_or_default();
    let free = preferred.into_iter().map(|holder| holder.peer);
    let free = free.filter(|peer| !keepers.contains(peer));
    let tombstone = &tombstone;
    let writing = free.take(count).map(|peer| async move {
        replicate_tombstone(transfers, tombstone, peer)
            .await
            .then_some(peer)
    });
    join_all(writing).await.into_iter().flatten().collect()
}

impl Transfers {
    /// What earlier attempts to delete these stripes knew: who held a shard and did not answer.
    fn away_from(&self, stripes: &[Asked]) -> Away {
        let all = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let known = stripes
            .iter()
            .filter_map(|asked| Some((asked.stripe, all.get(&asked.stripe)?.clone())));
        known.collect()
    }

    /// Remembers that for the next attempt: by then nobody may have it on record.
    fn remember_away(&self, away: &Away) {
        let mut all = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        for (stripe, holders) in away.iter().filter(|(_, holders)| !holders.is_empty()) {
            if all.len() < REMEMBERED || all.contains_key(stripe) {
                all.insert(*stripe, holders.clone());
            }
        }
    }

    /// There will be no other attempt.
    fn forget_away(&self, stripes: &[Asked]) {
        let mut all = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        for asked in stripes {
            all.remove(&asked.stripe);
        }
    }
}

/// Signs the deletion of stripes for a holder of their shards. Returns those it confirmed.
async fn replicate_tombstones(
    transfers: &Arc<Transfers>,
    (link, root): (&Link, &[u8; 32]),
    stripes: &[Id],
    peer: Peer,
) -> BTreeSet<Id> {
    let mut taken = BTreeSet::new();
    for chunk in stripes.chunks(MAX_TOMBSTONES) {
        let sign = |stripe: &Id| WireTombstone {
            stripe: *stripe,
            header: Bytes::new(),
            signature: Bytes::copy_from_slice(&sign_deletion(root, &link.key, stripe.as_bytes())),
        };
        let done = send(transfers, chunk.iter().map(sign).collect(), peer).await;
        let confirmed = chunk.iter().zip(done).filter(|(_, done)| *done);
        taken.extend(confirmed.map(|(stripe, _)| *stripe));
    }
    taken
}

/// Which of the tombstones `peer` has done; none when it does not answer.
async fn send(transfers: &Arc<Transfers>, tombstones: Vec<WireTombstone>, peer: Peer) -> Vec<bool> {
    match transfers
        .peers
        .ask(peer, PeerRequest::Tombstones(tombstones), DEADLINE)
        .await
    {
        Ok(PeerResponse::Done(done)) => done,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::debug!(%peer, %error, "did not take tombstones");
            Vec::new()
        }
    }
}

/// Hands a tombstone on, for custody.
pub(crate) async fn replicate_tombstone(
    transfers: &Arc<Transfers>,
    tombstone: &Tombstone,
    peer: Peer,
) -> bool {
    let tombstone = WireTombstone {
        stripe: tombstone.stripe(),
        header: tombstone.header().encode(),
        signature: Bytes::copy_from_slice(tombstone.signature()),
    };
    send(transfers, vec![tombstone], peer).await == [true]
}
