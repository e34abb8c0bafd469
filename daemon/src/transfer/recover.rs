//! What a crash left of puts and deletions in progress: finishes deletions and puts that were committing,
//! takes back the other puts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::ready;
use futures::{StreamExt, stream};
use mutualstore_dht::Id;
use mutualstore_dht::ring::Phase;
use mutualstore_dht::writer::Committing;

use super::commit::{Held, commit, discard_all};
use super::delete;
use super::events::{Operation, Transfer};
use crate::datadir::journal::{Kept, Unfinished};
use crate::datadir::list::InBucket;
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::Transfers;
use crate::wire::peer::PutSecret;

/// The ring is asked this often whether it is settled, so that holders can be found.
const POLL: Duration = Duration::from_millis(500);
/// How long a peer that finds nobody waits for those it knows.
const LONE: Duration = Duration::from_mins(1);
/// Puts finished or taken back, or deletions finished, at the same time.
const WIDTH: usize = 8;

/// Sees to what the journal held at the start, until nothing of it is left.
pub(crate) async fn recover(transfers: Arc<Transfers>, unfinished: Vec<Unfinished>) {
    if unfinished.is_empty() {
        return;
    }
    settled(&transfers).await;
    let (deletions, puts): (Vec<Unfinished>, Vec<Unfinished>) =
        unfinished.into_iter().partition(|one| one.deleting.is_some());
    // What has to wait for a peer keeps nothing else waiting.
    tokio::join!(finish_all(&transfers, puts), resume_all(&transfers, deletions));
}

/// Returns when holders can be found.
pub(crate) async fn settled(transfers: &Transfers) {
    let patience = Instant::now() + LONE;
    let lone = || {
        transfers.member.phase() == Phase::Alone
            && transfers.member.peers_known() > 1
            && Instant::now() < patience
    };
    while !transfers.member.is_settled() || lone() {
        tokio::time::sleep(POLL).await;
    }
}

async fn finish_all(transfers: &Arc<Transfers>, puts: Vec<Unfinished>) {
    let finishing = stream::iter(puts).for_each_concurrent(WIDTH, |put| finish(transfers, put));
    finishing.await;
}

async fn resume_all(transfers: &Arc<Transfers>, mut deletions: Vec<Unfinished>) {
    while !deletions.is_empty() {
        let attempts = stream::iter(deletions).map(|deletion| resume(transfers, deletion));
        deletions = attempts.buffer_unordered(WIDTH).filter_map(ready).collect().await;
        if !deletions.is_empty() {
            tokio::time::sleep(delete::RESUME).await;
        }
    }
}

/// Tries to finish a deletion. Returns it if another attempt may succeed.
async fn resume(transfers: &Arc<Transfers>, deletion: Unfinished) -> Option<Unfinished> {
    let sealed = deletion.deleting.as_deref().unwrap_or_default();
    if delete::resume(transfers, sealed).await.is_continue() {
        return Some(deletion);
    }
    if let Err(error) = deletion.finish() {
        tracing::warn!(%error, "the journal of an old deletion stays");
    }
    None
}

/// Has holders make permanent what they have of a put that was committing.
async fn complete(transfers: &Arc<Transfers>, put: &Unfinished) {
    let (now, timeout) = (
        transfers.member.core.now(),
        transfers.member.config.settings.write_timeout.0,
    );
    // What its holders do not confirm custody makes good.
    let committing = Committing::new(now, Vec::new(), holders(put), true, timeout);
    commit(&transfers.peers, PutSecret(put.token), committing, ready).await;
}

fn holders(put: &Unfinished) -> Held {
    let mut holders = Held::new();
    for (stripe, shards) in &put.stripes {
        for (_, peer) in shards {
            holders
                .entry(*peer)
                .or_default()
                .insert(Id::new(*stripe.as_bytes()));
        }
    }
    holders
}

async fn finish(transfers: &Arc<Transfers>, put: Unfinished) {
    if let Some(sealed) = &put.committing {
        complete(transfers, &put).await;
        if let Err(error) = transfers.files.append_sealed(sealed) {
            tracing::error!(%error, "a finished put could not be listed; its journal stays");
            return;
        }
        tracing::info!("finished a put that was being committed when the daemon stopped");
    } else if let Some(exposed) = &put.exposed {
        let listed = match transfers.files.open_deletion(&exposed.deletion) {
            Some((link, _)) => transfers.listed(&link).await,
            None => Ok(None),
        };
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                tracing::error!(%error, "what a crash left in the journal stays there");
                return;
            }
        };
        if listed.is_none() {
            delete::take_back(transfers, exposed).await;
            tracing::info!("took back a small put that was not finished when the daemon stopped");
        }
    } else {
        discard_all(&transfers.peers, PutSecret(put.token), holders(&put)).await;
        tracing::info!("took back a put that was not finished when the daemon stopped");
    }
    if let Err(error) = put.finish() {
        tracing::warn!(%error, "the journal of an old put stays");
    }
}

/// A put of a file in a bucket that was stored, or nearly, when the daemon stopped.
pub(crate) struct Nameless {
    pub(crate) link: Link,
    pub(crate) bucket: InBucket,
    put: Unfinished,
}

impl Nameless {
    /// Takes those of files in buckets out of what the journal held.
    pub(crate) fn split(transfers: &Transfers, unfinished: Vec<Unfinished>) -> (Vec<Self>, Vec<Unfinished>) {
        let (mut nameless, mut others) = (Vec::new(), Vec::new());
        for put in unfinished {
            let small = put.exposed.as_ref().map(|exposed| &exposed.deletion);
            let sealed = put.committing.as_ref().or(small);
            match sealed.and_then(|sealed| transfers.files.open_deletion(sealed)) {
                Some((link, Some(bucket))) => nameless.push(Self { link, bucket, put }),
                Some((_, None)) | None => others.push(put),
            }
        }
        (nameless, others)
    }

    /// When it began, Unix milliseconds.
    pub(crate) fn started_ms(&self) -> u64 {
        self.put.started
    }

    /// Its shards are made permanent, as far as they are not.
    pub(crate) async fn complete(&self, transfers: &Arc<Transfers>) {
        if self.put.committing.is_some() {
            complete(transfers, &self.put).await;
        }
    }

    /// Deletes it, as nothing names it. Fails where another attempt may succeed.
    pub(crate) async fn take_back(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        if let Some(exposed) = &self.put.exposed {
            delete::take_back(transfers, exposed).await;
            return Ok(());
        }
        let transfer = Transfer::new(Operation::Delete);
        let outcome = delete::delete(transfers, &self.link, &self.bucket.owner, &transfer).await;
        outcome.map(drop)
    }

    /// It stays in the journal.
    pub(crate) fn keep(self) -> Kept {
        self.put.keep()
    }
}
