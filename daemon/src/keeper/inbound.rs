//! What other peers ask of the local shards.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use mutualstore_dht::custody::TOMBSTONE;
use mutualstore_dht::{Engine, Id, Peer, PeerState};
use mutualstore_erasure::{Header, Shard};
use mutualstore_store::State as StoreState;

use super::{Keep, KeepError, Local, ShardKeeper, header_bytes};
use crate::format::locator::{Locator, write_holders};
use crate::format::tombstone::Tombstone;
use crate::wire::peer::{PeerRequest, PeerResponse, StripeHoldings, Token, WireLocator, WireTombstone};
use crate::wire::shard::{ShardRequest, ShardResponse, ShardStatus};

/// A writer cannot make a holder keep an unfinished put longer than this without asking again.
const MAX_LEASE: Duration = Duration::from_hours(1);

/// Tombstones or locators of one request written at the same time.
const WRITES: usize = 16;

impl ShardKeeper {
    /// Answers `from`, which may be this peer itself, a request about shards.
    pub(crate) async fn answer(&self, from: Peer, request: PeerRequest) -> PeerResponse {
        let answer = match request {
            PeerRequest::Commit(token, stripes) => return done(self.commit(stripes, Some(token)).await),
            PeerRequest::Renew(token, stripes, lease_ms) => {
                let lease = Duration::from_millis(lease_ms).min(MAX_LEASE);
                return done(self.renew(stripes, token, lease).await);
            }
            PeerRequest::Holdings(stripes) => return PeerResponse::Holdings(self.holdings(&stripes).await),
            PeerRequest::Discard(token, stripes) => self.discard(stripes, token).await,
            PeerRequest::Tombstones(tombstones) => self.keep_tombstones(tombstones).await,
            PeerRequest::Locate(token, lease_ms, locators) => {
                self.locate_all(locators, Keep::asked(lease_ms, from), token)
                    .await
            }
            PeerRequest::Ring(_)
            | PeerRequest::Custody(_)
            | PeerRequest::Survey
            | PeerRequest::Mending
            | PeerRequest::Mend(_)
            | PeerRequest::Probe
            | PeerRequest::TakeRecord(_)
            | PeerRequest::ReadRecords(..) => return PeerResponse::Refused("not about shards".into()),
        };
        self.publish_usage();
        PeerResponse::Done(answer)
    }

    /// Keeps those of these tombstones that prove themselves. Whether each stripe is deleted here afterwards.
    async fn keep_tombstones(&self, tombstones: Vec<WireTombstone>) -> Vec<bool> {
        // Those written at the same time share a flush.
        let tombstones = stream::iter(tombstones).map(|tombstone| self.keep_proven(tombstone));
        tombstones.buffered(WRITES).collect().await
    }

    /// Keeps a tombstone if it proves itself, by the header that comes with it or that of a shard held here.
    /// Whether the stripe is deleted here afterwards.
    async fn keep_proven(&self, tombstone: WireTombstone) -> bool {
        let WireTombstone {
            stripe,
            header,
            signature,
        } = tombstone;
        if self.is_deleted(stripe) {
            return true;
        }
        let header = if header.is_empty() {
            self.header(stripe).await
        } else {
            Header::decode(&header).ok()
        };
        let tombstone = header.and_then(|header| Tombstone::verify(header, &signature));
        let Some(tombstone) = tombstone.filter(|tombstone| tombstone.stripe() == stripe) else {
            return false;
        };
        match self.keep_tombstone(tombstone).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%stripe, %error, "could not keep a tombstone");
                false
            }
        }
    }

    /// Keeps those of these locators that are some. Whether each is held here afterwards.
    async fn locate_all(&self, locators: Vec<WireLocator>, keep: Keep, token: Token) -> Vec<bool> {
        let takes = self.core.read(|state| state.engine.ring.me().state) == PeerState::Accepting;
        // Those written at the same time share a flush.
        let locators = stream::iter(locators).map(|locator| async move {
            let header = Header::decode(&locator.header).ok();
            let locator = header.and_then(|header| Locator::parse(header, &locator.holders));
            let Some(locator) = locator.filter(|_| takes) else {
                return false;
            };
            let kept = self.keep_locator(locator, keep, token).await;
            kept.inspect_err(|error| tracing::debug!(%error, "did not keep a locator"))
                .is_ok()
        });
        locators.buffered(WRITES).collect().await
    }

    /// Who holds which shard of a stripe, as far as this peer has it on record as the primary, or in a
    /// locator.
    pub(crate) async fn known(&self, stripe: Id) -> Vec<(u8, Peer)> {
        let record = self.core.read(|state| state.engine.custody.stripe(stripe));
        let shards = record.into_iter().flat_map(|record| record.shards);
        let mut known: Vec<(u8, Peer)> = shards.map(|shard| (shard.index, shard.peer)).collect();
        if let Some(locator) = self.locator(stripe).await {
            for holder in locator.holders() {
                if !known.contains(holder) {
                    known.push(*holder);
                }
            }
        }
        known
    }

    /// What this peer holds of each stripe, and what it knows of others.
    async fn holdings(&self, stripes: &[Id]) -> Vec<StripeHoldings> {
        let mut described = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            let known = self.known(*stripe).await;
            let pending = |state| match state {
                StoreState::Committed | StoreState::Deleted { .. } => false,
                StoreState::Pending { .. } => true,
            };
            let shards = self.held(*stripe).into_iter();
            let mut held: Vec<(u8, bool)> =
                shards.map(|(index, meta)| (index, pending(meta.state))).collect();
            if self.is_deleted(*stripe) {
                held.push((TOMBSTONE, false));
            }
            described.push(StripeHoldings { held, known });
        }
        described
    }

    pub(crate) async fn answer_shard(
        &self,
        from: Peer,
        request: ShardRequest,
        payload: Bytes,
    ) -> (ShardResponse, Bytes) {
        match request {
            ShardRequest::Store {
                header,
                index,
                token,
                lease_ms,
            } => {
                let keep = Keep::asked(lease_ms, from);
                (
                    self.store_shard(header, index, token, keep, payload).await,
                    Bytes::new(),
                )
            }
            ShardRequest::Fetch { stripe, .. } if !self.may_read(from, stripe) => {
                let known = self.known(stripe).await;
                (
                    ShardResponse::status(ShardStatus::None, ""),
                    write_holders(&known),
                )
            }
            ShardRequest::Fetch { stripe, want, exact } => match self.find(stripe, want, exact).await {
                Local::Found(shard) => {
                    self.metrics.shard_served(shard.payload().len());
                    let head = ShardResponse {
                        status: ShardStatus::Ok,
                        header: header_bytes(&shard),
                        index: shard.index(),
                        reason: String::new(),
                    };
                    (head, shard.payload().clone())
                }
                Local::Deleted(tombstone) => {
                    let head = ShardResponse {
                        header: tombstone.header().encode(),
                        index: TOMBSTONE,
                        ..ShardResponse::status(ShardStatus::Deleted, "")
                    };
                    (head, Bytes::copy_from_slice(tombstone.signature()))
                }
                Local::None => {
                    let known = self.known(stripe).await;
                    (
                        ShardResponse::status(ShardStatus::None, ""),
                        write_holders(&known),
                    )
                }
                Local::Corrupt(index) => {
                    let head = ShardResponse {
                        index,
                        ..ShardResponse::status(ShardStatus::Corrupt, "")
                    };
                    (head, Bytes::new())
                }
                Local::Failed(reason) => (ShardResponse::status(ShardStatus::Failed, reason), Bytes::new()),
            },
        }
    }

    /// Whether a peer may have what is held of a stripe: while its put is unfinished, only who puts it and
    /// those that may hold shards of it themselves.
    fn may_read(&self, from: Peer, stripe: Id) -> bool {
        let writes = |state| match state {
            StoreState::Pending { writer, .. } => writer == *from.as_bytes(),
            StoreState::Committed | StoreState::Deleted { .. } => true,
        };
        let held = self.held(stripe);
        held.iter().all(|(_, meta)| writes(meta.state))
            || self.core.with(|state, now| {
                let Engine { ring, custody, .. } = &mut state.engine;
                custody.may_hold(now, ring, stripe, from)
            })
    }

    async fn store_shard(
        &self,
        header: Bytes,
        index: u8,
        token: [u8; 16],
        keep: Keep,
        payload: Bytes,
    ) -> ShardResponse {
        let state = self.core.read(|state| state.engine.ring.me().state);
        if state != PeerState::Accepting {
            return ShardResponse::status(ShardStatus::Full, "takes no new shards");
        }
        let header = match Header::decode(&header) {
            Ok(header) => header,
            Err(error) => return ShardResponse::status(ShardStatus::Invalid, error.to_string()),
        };
        let shard = Shard {
            header,
            index,
            payload,
        };
        let bytes = shard.payload.len();
        let (status, reason) = match self.keep_foreign(shard, keep, token).await {
            Ok(()) => {
                self.metrics.shard_stored(bytes);
                (ShardStatus::Ok, String::new())
            }
            Err(error @ (KeepError::Invalid | KeepError::Taken)) => (ShardStatus::Invalid, error.to_string()),
            Err(error @ KeepError::Full) => (ShardStatus::Full, error.to_string()),
            Err(error @ KeepError::Deleted) => (ShardStatus::Deleted, error.to_string()),
            Err(error @ KeepError::Disk(_)) => (ShardStatus::Failed, error.to_string()),
        };
        self.publish_usage();
        ShardResponse::status(status, reason)
    }
}

fn done(outcome: Result<Vec<bool>, KeepError>) -> PeerResponse {
    match outcome {
        Ok(held) => PeerResponse::Done(held),
        Err(error) => PeerResponse::Refused(error.to_string()),
    }
}

impl Keep {
    /// As another peer wants it: pending for so many milliseconds, or committed at 0.
    pub(super) fn asked(lease_ms: u64, writer: Peer) -> Self {
        match lease_ms {
            0 => Self::Committed,
            ms => Self::Pending {
                lease: Duration::from_millis(ms).min(MAX_LEASE),
                writer,
            },
        }
    }
}
