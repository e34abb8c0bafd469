//! What this peer asks of another, or of itself: here it is decided which.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mutualstore_dht::records::{Publish, RecordSet};
use mutualstore_dht::writer::Answer;
use mutualstore_dht::{Contact, Id, Peer};
use mutualstore_erasure::{Header, Shard, StripeId, VerifiedShard};
use mutualstore_net::CallError;
use mutualstore_tree::record::Record;

use super::events::{Operation, Transfer};
use crate::format::locator::parse_holders;
use crate::format::tombstone::Tombstone;
use crate::keeper::records::RecordKeeper;
use crate::keeper::{Keep, KeepError, Local, ShardKeeper, header_bytes};
use crate::metrics::Metrics;
use crate::peer::Membership;
use crate::peer::remote::{AskError, refused_or};
use crate::wire::peer::{PeerRequest, PeerResponse, Token};
use crate::wire::record::Given;
use crate::wire::shard::{ShardRequest, ShardStatus};

/// How long a peer may take to keep a record, or to tell of some.
const RECORD_DEADLINE: Duration = Duration::from_secs(5);

/// What came of asking one peer for a shard.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// A verified shard of the stripe.
    Shard(Box<VerifiedShard>),
    /// The peer proved that the stripe was deleted by its owner.
    Deleted(Box<Tombstone>),
    /// The peer answered that it has none, and who may have one.
    None(Vec<Peer>),
    /// The peer's shard does not verify.
    Corrupt,
    /// No answer, or not now.
    Silent,
}

/// Asks peers, this one among them.
pub(crate) struct PeerClient {
    pub(crate) member: Arc<Membership>,
    pub(crate) keeper: Arc<ShardKeeper>,
    pub(crate) records: Arc<RecordKeeper>,
    pub(crate) metrics: Arc<Metrics>,
}

impl PeerClient {
    /// Asks `peer` something about its shards. A peer of which no address is known counts as unreachable.
    pub(crate) async fn ask(
        &self,
        peer: Peer,
        request: PeerRequest,
        deadline: Duration,
    ) -> Result<PeerResponse, AskError> {
        let Membership { me, core, remote, .. } = &*self.member;
        if peer == *me {
            return refused_or(self.keeper.answer(peer, request).await);
        }
        let contact = core
            .contact(peer)
            .ok_or(AskError::Silent(CallError::Unreachable))?;
        self.metrics.asked(&request);
        remote.ask(&contact, &request, deadline).await
    }

    /// Has a peer keep a record.
    pub(crate) async fn take_record(&self, peer: Peer, record: &Record) -> Publish {
        if peer == self.member.me {
            return self.records.take_verified(peer, record.clone()).await;
        }
        let request = PeerRequest::TakeRecord(record.bytes.clone());
        match self.ask(peer, request, RECORD_DEADLINE).await {
            Ok(PeerResponse::Taken(answer)) => answer,
            Ok(_) => Publish::Silent,
            Err(error) => {
                tracing::debug!(%peer, %error, "did not take a record");
                Publish::Silent
            }
        }
    }

    /// What a peer has of a key beyond `have`; none when it does not answer.
    pub(crate) async fn read_records(&self, peer: Peer, id: Id, have: &RecordSet) -> Option<Given> {
        if peer == self.member.me {
            return Some(self.records.give(id, have.clone()).await);
        }
        let request = PeerRequest::ReadRecords(id, have.clone());
        match self.ask(peer, request, RECORD_DEADLINE).await {
            Ok(PeerResponse::Given(given)) => Some(given),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%peer, %error, "did not tell of records");
                None
            }
        }
    }

    /// Asks `contact` for shard `want` of `stripe` (or another one unless `exact`), and tells the transfer of
    /// what is amiss.
    pub(crate) async fn fetch(
        &self,
        transfer: &Transfer,
        contact: &Contact,
        stripe: Id,
        want: u8,
        exact: bool,
    ) -> Fetched {
        if contact.peer == self.member.me {
            return match self.keeper.find(stripe, want, exact).await {
                Local::Found(shard) => {
                    self.metrics.shard_read_here(shard.payload().len());
                    Fetched::Shard(shard)
                }
                Local::Deleted(tombstone) => Fetched::Deleted(tombstone),
                Local::None => elsewhere(self.keeper.known(stripe).await),
                Local::Corrupt(index) => {
                    transfer.corrupted(stripe, index);
                    Fetched::Corrupt
                }
                Local::Failed(reason) => {
                    tracing::error!(%stripe, reason, "could not read a local shard");
                    Fetched::None(Vec::new())
                }
            };
        }
        let request = ShardRequest::Fetch { stripe, want, exact };
        match self
            .member
            .remote
            .ask_shard(contact, &request, Bytes::new())
            .await
        {
            Ok((head, payload)) => match head.status {
                ShardStatus::Ok => {
                    let shard = verify(stripe, head.header, head.index, payload).await;
                    shard.unwrap_or_else(|| {
                        transfer.corrupted(stripe, head.index);
                        Fetched::Corrupt
                    })
                }
                ShardStatus::Corrupt => {
                    transfer.corrupted(stripe, head.index);
                    Fetched::Corrupt
                }
                ShardStatus::Deleted => self.deleted(stripe, &head.header, &payload).await,
                ShardStatus::None => elsewhere(parse_holders(&payload).unwrap_or_default()),
                ShardStatus::Full | ShardStatus::Invalid | ShardStatus::Failed => Fetched::None(Vec::new()),
            },
            Err(error) => {
                if error.is_disconnect() {
                    self.fell_silent(transfer, contact.peer);
                    Fetched::Silent
                } else {
                    // Too many requests, or both dialled at once: that says nothing of what the peer holds.
                    tracing::info!(peer = %contact.peer, %error, "refused a fetch");
                    Fetched::Silent
                }
            }
        }
    }

    /// A peer says that the stripe was deleted: if it can prove that, shards held here go too.
    async fn deleted(&self, stripe: Id, header: &[u8], signature: &[u8]) -> Fetched {
        let header = Header::decode(header).ok();
        let tombstone = header.and_then(|header| Tombstone::verify(header, signature));
        let Some(tombstone) = tombstone.filter(|tombstone| tombstone.stripe() == stripe) else {
            return Fetched::None(Vec::new());
        };
        if !self.keeper.held(stripe).is_empty()
            && let Err(error) = self.keeper.keep_tombstone(tombstone.clone()).await
        {
            tracing::warn!(%stripe, %error, "could not keep a tombstone");
        }
        Fetched::Deleted(Box::new(tombstone))
    }

    /// Tells the transfer, and the ring, of a peer that stopped answering, unless it is this one that stops.
    fn fell_silent(&self, transfer: &Transfer, peer: Peer) {
        if !self.member.remote.is_stopping() {
            transfer.disconnected(peer);
            self.member
                .core
                .with(|state, now| state.engine.ring.handle_disconnect(now, peer));
        }
    }

    /// Like [`fetch`] for custody's jobs, which name peers and follow no transfer.
    pub(crate) async fn fetch_from(
        &self,
        operation: Operation,
        peer: Peer,
        stripe: Id,
        want: u8,
        exact: bool,
    ) -> Fetched {
        let transfer = Transfer::new(operation);
        match self.member.core.contact(peer) {
            Some(contact) => self.fetch(&transfer, &contact, stripe, want, exact).await,
            None => Fetched::Silent,
        }
    }

    /// Stores a shard with `contact`.
    pub(crate) async fn store(
        &self,
        transfer: &Transfer,
        contact: &Contact,
        shard: VerifiedShard,
        keep: Keep,
        token: Token,
    ) -> Answer {
        if contact.peer == self.member.me {
            let bytes = shard.payload().len();
            let kept = self.keeper.keep(shard, keep, token).await;
            self.keeper.publish_usage();
            if kept.is_ok() {
                self.metrics.shard_stored(bytes);
            }
            return match kept {
                Ok(()) => Answer::Stored,
                Err(KeepError::Full) => Answer::Full,
                Err(KeepError::Deleted | KeepError::Invalid | KeepError::Taken) => Answer::Refused,
                Err(error @ KeepError::Disk(_)) => {
                    tracing::error!(%error, "could not keep a shard here");
                    Answer::Broken
                }
            };
        }
        let request = ShardRequest::Store {
            header: header_bytes(&shard),
            index: shard.index(),
            token,
            lease_ms: keep.lease_ms(),
        };
        match self
            .member
            .remote
            .ask_shard(contact, &request, shard.payload().clone())
            .await
        {
            Ok((head, _)) => match head.status {
                ShardStatus::Ok => Answer::Stored,
                ShardStatus::Full => Answer::Full,
                ShardStatus::None
                | ShardStatus::Corrupt
                | ShardStatus::Deleted
                | ShardStatus::Invalid
                | ShardStatus::Failed => {
                    tracing::warn!(peer = %contact.peer, reason = head.reason, "did not keep a shard");
                    if head.status == ShardStatus::Failed {
                        Answer::Broken
                    } else {
                        Answer::Refused
                    }
                }
            },
            Err(error) => {
                if error.is_disconnect() {
                    self.fell_silent(transfer, contact.peer);
                    Answer::Silent
                } else {
                    tracing::debug!(peer = %contact.peer, %error, "refused a shard");
                    match error {
                        AskError::Silent(CallError::Busy | CallError::Refused(_)) => Answer::Busy,
                        AskError::Silent(_) | AskError::Refused(_) => Answer::Refused,
                    }
                }
            }
        }
    }

    /// Like [`store`] for custody's jobs.
    pub(crate) async fn store_at(
        &self,
        operation: Operation,
        peer: Peer,
        shard: VerifiedShard,
        keep: Keep,
        token: Token,
    ) -> Answer {
        let transfer = Transfer::new(operation);
        match self.member.core.contact(peer) {
            Some(contact) => self.store(&transfer, &contact, shard, keep, token).await,
            None => Answer::Silent,
        }
    }
}

/// Hints, which nobody vouches for.
fn elsewhere(holders: Vec<(u8, Peer)>) -> Fetched {
    Fetched::None(holders.into_iter().map(|(_, peer)| peer).collect())
}

/// Hashing a shard takes long enough to be moved off the event loop.
async fn verify(stripe: Id, header: Bytes, index: u8, payload: Bytes) -> Option<Fetched> {
    let work = move || {
        let header = Header::decode(&header).ok()?;
        let shard = Shard {
            header,
            index,
            payload,
        };
        let expected = StripeId::from(*stripe.as_bytes());
        Some(Fetched::Shard(Box::new(shard.verify_for(&expected).ok()?)))
    };
    tokio::task::spawn_blocking(work).await.ok().flatten()
}
