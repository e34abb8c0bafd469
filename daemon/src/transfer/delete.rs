//! Deleting a file: its owner signs a tombstone for every stripe, and holders keep those instead of the
//! shards.
//!
//! Data goes first and the root of the manifest last, each part only when of every stripe before it fewer
//! than k shards lie where no tombstone is: what is left of an interrupted deletion can still be found and is
//! deleted by the next attempt. Custody takes the tombstones on to the stripes' preferred, and to holders
//! that were away.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::{self, FuturesUnordered};
use mutualstore_contract::exit;
use mutualstore_contract::reply::{Deleted, ShardState};
use mutualstore_contract::units::counted;
use mutualstore_dht::placement::Placement;
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
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(500);
/// Stripes of deletions that were refused of which is remembered who holds shards.
const REMEMBERED: usize = 1 << 16;
/// Stripes whose tombstones are spread at the same time.
const SPREADING: usize = 8;
/// Places behind those of a stripe's shards where a shard may lie too.
const SPARE: usize = 4;

/// Deletes the file behind a link. Only the account that put it can. On return fewer than k shards of each
/// stripe lie on peers that do not know; when it fails, what is deleted stays so and the rest can be deleted
/// by another attempt. None if an earlier attempt had deleted all but the rest of the root.
pub(crate) async fn delete(
    transfers: &Arc<Transfers>,
    link: &Link,
    transfer: &Transfer,
) -> Result<Option<Deleted>, Failure> {
    transfers.member.check_admitted()?;
    transfers.member.check_link(link)?;
    let root = Wanted::of(Id::new(link.manifest), 1);
    let owner = owner_key(&transfers.account, &link.key);
    let shards = match fetch_stripe(transfers, transfer, root).await {
        Ok(shards) => shards,
        Err(Unread::Deleted(tombstone)) if *tombstone.header().owner() == owner => {
            finish_root(transfers, link, tombstone.header()).await?;
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
        shards_left += delete_stripes(transfers, link, &part).await?;
    }
    transfers.keeper.publish_usage();
    Ok(Some(Deleted {
        name: file.manifest.name,
        size_bytes: file.manifest.size,
        stripes: file.layout.len() as u64,
        shards_left: shards_left as u64,
    }))
}

/// The root of the manifest has a tombstone already: an earlier attempt came so far, or all the way.
async fn finish_root(transfers: &Arc<Transfers>, link: &Link, header: &Header) -> Result<(), Failure> {
    let root = Asked {
        stripe: Id::new(link.manifest),
        k: header.code().k(),
        n: header.code().n(),
        placement: Placement::Successors,
    };
    delete_stripes(transfers, link, &[root]).await.map(drop)
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
    })
}

/// Deletes a file and takes it off the list of files. After a crash the deletion is finished.
pub(crate) async fn delete_listed(transfers: &Arc<Transfers>, link: &Link) -> Result<Deleted, Failure> {
    transfers.member.check_link(link)?;
    let sealed = transfers.files.seal_deletion(link);
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
    let deleted = match delete(transfers, link, &Transfer::new(Operation::Delete)).await {
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
    let Some(link) = transfers.files.open_deletion(sealed) else {
        tracing::warn!("a deletion in the journal is damaged or of another account; given up");
        return ControlFlow::Break(());
    };
    match delete(transfers, &link, &Transfer::new(Operation::Delete)).await {
        // A peer that does not see the others finds nothing too.
        Err(failure) if failure.retry || failure.exit == exit::NOT_FOUND && !transfers.member.sees_most() => {
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
    let (Some(link), Some(header)) = (link, header) else {
        tracing::warn!("a small put in the journal is damaged or of another account; what it stored stays");
        return;
    };
    let stripe = Id::new(*header.id().as_bytes());
    let tombstone = WireTombstone {
        stripe,
        header: header.encode(),
        signature: Bytes::copy_from_slice(&sign_deletion(&transfers.account, &link.key, stripe.as_bytes())),
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
        let told = join_all(writing).await;
        if !told.is_empty() && told.iter().all(|told| *told) {
            return;
        }
        tokio::time::sleep(RESUME).await;
    }
}

/// Deletes stripes, until of each fewer than k shards lie where no tombstone is, and enough peers have its
/// tombstone. Where no holder is there to take one, those who are there must be most of all: a peer that is
/// cut off from the others would take them for gone and everything for deleted. Tries again until
/// `write_timeout` passes without progress. Returns how many shards are left at peers that did not answer.
async fn delete_stripes(
    transfers: &Arc<Transfers>,
    link: &Link,
    stripes: &[Asked],
) -> Result<usize, Failure> {
    let (mut least, mut until) = (usize::MAX, Instant::now());
    let mut deleted: BTreeMap<Id, Deletion> = BTreeMap::new();
    let mut away = transfers.away_from(stripes);
    loop {
        let found = survey_with(transfers, stripes, &away).await;
        replicate_to_holders(transfers, link, stripes, &found, &mut deleted).await;
        for (asked, health) in stripes.iter().zip(&found) {
            note_away(transfers, health, away.entry(asked.stripe).or_default());
        }
        spread(transfers, stripes, &mut deleted).await;
        let sees_most = transfers.member.sees_most();
        let (mut undone, mut left) = (0, 0);
        for (asked, health) in stripes.iter().zip(&found) {
            let gone = deleted.entry(asked.stripe).or_default();
            let away = away.entry(asked.stripe).or_default();
            let unaware = unaware(transfers, *asked, health, &gone.indices, away);
            let is_kept = match gone.keepers.len() {
                0 => sees_most,
                keepers => keepers >= enough(transfers, *asked),
            };
            undone += usize::from(unaware >= usize::from(asked.k) || !is_kept);
            left += unaware;
        }
        if undone == 0 {
            transfers.forget_away(stripes);
            return Ok(left);
        }
        if undone < least {
            (least, until) = (
                undone,
                Instant::now() + transfers.member.config.settings.write_timeout.0,
            );
        } else if Instant::now() >= until {
            transfers.remember_away(away);
            return Err(Failure::refused(format!(
                "{undone} of {} may still be read from peers that do not answer; what is deleted stays so, \
                 try again when they are back, or `mutualstore forget` those that will not be",
                counted(stripes.len(), "stripe")
            )));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Where a stripe is deleted by now.
#[derive(Default)]
struct Deletion {
    /// Shards that are gone by it.
    indices: BTreeSet<u8>,
    /// Who has its tombstone.
    keepers: BTreeSet<Peer>,
}

/// So many peers must have a stripe's tombstone: one more than may be lost without loss of the stripe, so
/// that the deletion outlives what the file would have; all of them where there are fewer.
fn enough(transfers: &Transfers, asked: Asked) -> usize {
    let tolerated = asked.n.saturating_sub(asked.k);
    (usize::from(tolerated) + 1).min(transfers.member.core.alive().len())
}

/// Gives tombstones that too few holders have to preferred of their stripes.
async fn spread(transfers: &Arc<Transfers>, stripes: &[Asked], deleted: &mut BTreeMap<Id, Deletion>) {
    let transfer = &Transfer::new(Operation::Delete);
    let short = stripes.iter().filter_map(|asked| {
        let keepers = &deleted.get(&asked.stripe)?.keepers;
        let missing = enough(transfers, *asked).saturating_sub(keepers.len());
        (missing > 0 && !keepers.is_empty()).then(|| (asked.stripe, missing, keepers.clone()))
    });
    let short: Vec<(Id, usize, BTreeSet<Peer>)> = short.collect();
    let spreading = stream::iter(short).map(|(stripe, missing, keepers)| async move {
        let Err(Unread::Deleted(tombstone)) = fetch_stripe(transfers, transfer, Wanted::of(stripe, 1)).await
        else {
            return (stripe, Vec::new());
        };
        let preferred = transfers
            .member
            .core
            .lookup(stripe, keepers.len() + missing + SPARE)
            .await;
        let preferred = preferred
            .map(|found| found.contacts)
            .unwrap_or_default()
            .into_iter();
        let preferred = preferred
            .map(|holder| holder.peer)
            .filter(|peer| !keepers.contains(peer));
        let tombstone = &tombstone;
        let writing = preferred.take(missing).map(|peer| async move {
            replicate_tombstone(transfers, tombstone, peer)
                .await
                .then_some(peer)
        });
        (stripe, join_all(writing).await.into_iter().flatten().collect())
    });
    let told: Vec<(Id, Vec<Peer>)> = spreading.buffer_unordered(SPREADING).collect().await;
    for (stripe, keepers) in told {
        deleted.entry(stripe).or_default().keepers.extend(keepers);
    }
}

/// Takes over who holds a shard and does not answer, and forgets who did or is gone for long.
fn note_away(transfers: &Transfers, health: &StripeHealth, away: &mut BTreeMap<u8, Peer>) {
    let answers = |peer: &Peer| transfers.member.core.is_alive(*peer) && !health.silent.contains(peer);
    away.retain(|_, peer| !answers(peer));
    for shard in &health.shards {
        if let (ShardState::Unreachable, Some(peer)) = (shard.state, shard.peer) {
            away.insert(shard.index, peer);
        }
    }
    away.retain(|_, peer| !transfers.member.is_gone(*peer));
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
    fn remember_away(&self, away: Away) {
        let mut all = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        for (stripe, holders) in away.into_iter().filter(|(_, holders)| !holders.is_empty()) {
            if all.len() < REMEMBERED || all.contains_key(&stripe) {
                all.insert(stripe, holders);
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

/// Shards of a stripe that may lie where no tombstone is: those known to, also by who is under a tombstone
/// now, and as many that nobody spoke of as there are peers near it that did not answer. Who is gone for long
/// finds the tombstones at the preferred of the stripe when it comes back, as readers do.
fn unaware(
    transfers: &Transfers,
    asked: Asked,
    health: &StripeHealth,
    deleted: &BTreeSet<u8>,
    away: &BTreeMap<u8, Peer>,
) -> usize {
    let (mut known, mut missing) = (BTreeSet::new(), BTreeSet::new());
    let mut silent = health.silent.clone();
    let absent = transfers
        .member
        .absent_successors(asked.stripe, usize::from(asked.n) + SPARE);
    silent.extend(absent.into_iter().filter(|peer| !transfers.member.is_gone(*peer)));
    for shard in health
        .shards
        .iter()
        .filter(|shard| !deleted.contains(&shard.index))
    {
        match (shard.state, away.get(&shard.index)) {
            (ShardState::Ok | ShardState::Pending, _) => drop(known.insert(shard.index)),
            (ShardState::Unreachable | ShardState::Missing, Some(peer)) => {
                known.insert(shard.index);
                silent.remove(peer);
            }
            (ShardState::Unreachable | ShardState::Missing, None) => drop(missing.insert(shard.index)),
        }
    }
    known.len() + missing.len().min(silent.len())
}

/// Gives every live holder the tombstones of what it holds, and notes in `deleted` what is deleted by it and
/// who has them now.
async fn replicate_to_holders(
    transfers: &Arc<Transfers>,
    link: &Link,
    stripes: &[Asked],
    found: &[StripeHealth],
    deleted: &mut BTreeMap<Id, Deletion>,
) {
    let mut holders: BTreeMap<Peer, BTreeMap<Id, BTreeSet<u8>>> = BTreeMap::new();
    for (asked, health) in stripes.iter().zip(found) {
        transfers.reads.cache.remove(asked.stripe);
        let kept = deleted.entry(asked.stripe).or_default();
        kept.keepers.clone_from(&health.keepers);
        for shard in &health.shards {
            if let (ShardState::Ok | ShardState::Pending, Some(peer)) = (shard.state, shard.peer) {
                let held = holders.entry(peer).or_default().entry(asked.stripe).or_default();
                held.insert(shard.index);
            }
        }
    }
    let mut waiting = FuturesUnordered::new();
    for (peer, held) in holders {
        waiting.push(async move {
            let ids: Vec<Id> = held.keys().copied().collect();
            let taken = replicate_tombstones(transfers, link, &ids, peer).await;
            held.into_iter()
                .map(move |(stripe, indices)| (taken.contains(&stripe), peer, stripe, indices))
                .collect::<Vec<_>>()
        });
    }
    let mut missed: BTreeMap<Id, BTreeSet<u8>> = BTreeMap::new();
    while let Some(told) = waiting.next().await {
        for (taken, peer, stripe, indices) in told {
            if taken {
                let deleted = deleted.entry(stripe).or_default();
                deleted.indices.extend(indices);
                deleted.keepers.insert(peer);
            } else {
                missed.entry(stripe).or_default().extend(indices);
            }
        }
    }
    // Two peers may hold the same one.
    for (stripe, indices) in missed {
        if let Some(deleted) = deleted.get_mut(&stripe) {
            deleted.indices.retain(|index| !indices.contains(index));
        }
    }
}

/// Signs the deletion of stripes for a holder of their shards. Returns those it confirmed.
async fn replicate_tombstones(
    transfers: &Arc<Transfers>,
    link: &Link,
    stripes: &[Id],
    peer: Peer,
) -> BTreeSet<Id> {
    let mut taken = BTreeSet::new();
    for chunk in stripes.chunks(MAX_TOMBSTONES) {
        let sign = |stripe: &Id| WireTombstone {
            stripe: *stripe,
            header: Bytes::new(),
            signature: Bytes::copy_from_slice(&sign_deletion(
                &transfers.account,
                &link.key,
                stripe.as_bytes(),
            )),
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
