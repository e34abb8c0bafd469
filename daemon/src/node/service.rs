//! What other peers ask of this one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use mutualstore_dht::custody::{self, TOMBSTONE};
use mutualstore_dht::{Id, Membership, Peer, PeerState};
use mutualstore_erasure::{Header, Shard};

use super::Node;
use super::core::State;
use super::outside;
use super::shards::{Keep, KeepError, Local, header_bytes};
use crate::locator::{Locator, write_holders};
use crate::tombstone::Tombstone;
use crate::transfer::lease::renew_asked;
use crate::wire::contact::{decode_contact, encode_contact};
use crate::wire::node::{Burial, NodeRequest, NodeResponse, StripeHoldings, Token, WireLocator};
use crate::wire::shard::{ShardRequest, ShardResponse, ShardStatus};
use mutualstore_net::Service;
use mutualstore_store::State as StoreState;

/// A writer cannot make a holder keep an unfinished put longer than this without asking again.
const MAX_LEASE: Duration = Duration::from_hours(1);

/// Tombstones of one request written at the same time.
const BURIALS: usize = 16;

/// The node as the transport sees it.
pub(crate) struct PeerService(pub(crate) Arc<Node>);

impl Service for PeerService {
    fn contact(&self) -> Bytes {
        self.0.core.read(|state| encode_contact(state.ring.me()))
    }

    fn hello(&self, peer: Peer, contact: Bytes) {
        match decode_contact(contact, &self.0.verifier) {
            Ok(contact) if contact.peer == peer => {
                self.0.core.with(|state, now| state.ring.introduce(now, contact));
            }
            Ok(_) => tracing::warn!(%peer, "a peer introduced itself as another one; its contact is ignored"),
            Err(error) => tracing::warn!(%peer, %error, "a peer introduced itself in a way not understood"),
        }
    }

    fn elsewhere(&self, peer: Peer, contact: &Bytes) -> Vec<String> {
        let Ok(contact) = decode_contact(contact.clone(), &self.0.verifier) else {
            return Vec::new();
        };
        self.0.core.read(|state| {
            let known = state.ring.contact(peer).filter(|_| state.ring.is_alive(peer));
            let addresses = known.iter().flat_map(|known| known.addresses.iter());
            let elsewhere = addresses.filter(|address| !contact.addresses.contains(address));
            elsewhere.cloned().collect()
        })
    }

    fn addresses(&self, peer: Peer) -> Vec<String> {
        let contact = self.0.core.contact(peer);
        contact.map_or_else(Vec::new, |contact| contact.addresses.to_vec())
    }

    fn disconnected(&self, peer: Peer) {
        self.0
            .core
            .with(|state, now| state.ring.handle_disconnect(now, peer));
    }

    fn rpc(self: Arc<Self>, from: Peer, body: Bytes) -> BoxFuture<'static, Bytes> {
        let node = Arc::clone(&self.0);
        async move {
            let response = match NodeRequest::decode(body, &node.verifier) {
                Ok(request) => answer(&node, from, request).await,
                Err(malformed) => NodeResponse::Refused(malformed.to_string()),
            };
            response.encode()
        }
        .boxed()
    }

    fn shard(self: Arc<Self>, from: Peer, head: Bytes, payload: Bytes) -> BoxFuture<'static, (Bytes, Bytes)> {
        let node = Arc::clone(&self.0);
        async move {
            let (head, payload) = match ShardRequest::decode(head) {
                Ok(request) => answer_shard(&node, from, request, payload).await,
                Err(malformed) => (
                    ShardResponse::status(ShardStatus::Invalid, malformed.to_string()),
                    Bytes::new(),
                ),
            };
            (head.encode(), payload)
        }
        .boxed()
    }
}

async fn answer(node: &Node, from: Peer, request: NodeRequest) -> NodeResponse {
    #[cfg(feature = "adversary")]
    if let Some(lie) = crate::adversary::liar::answer(node, from, &request) {
        return lie;
    }
    if let NodeRequest::Custody(custody::Request::Status { stripes }) = &request {
        renew_asked(node, from, stripes).await;
    }
    match request {
        NodeRequest::Ring(request) => NodeResponse::Ring(
            node.core
                .with(|state, now| state.ring.handle_request(now, from, request)),
        ),
        NodeRequest::Custody(request) => NodeResponse::Custody(node.core.with(|state, now| {
            let State { ring, custody, .. } = state;
            ring.hear(now, from);
            custody.handle_request(now, ring, from, request)
        })),
        NodeRequest::Commit(token, stripes) => {
            done(node.shards.commit(&node.core, stripes, Some(token)).await)
        }
        NodeRequest::Discard(token, stripes) => {
            let held = node.shards.discard(&node.core, stripes, token).await;
            node.publish_usage();
            NodeResponse::Done(held)
        }
        NodeRequest::Renew(token, stripes, lease_ms) => {
            let lease = Duration::from_millis(lease_ms).min(MAX_LEASE);
            done(node.shards.renew(&node.core, stripes, token, lease).await)
        }
        NodeRequest::Bury(burials) => {
            let done = bury_all(node, burials).await;
            node.publish_usage();
            NodeResponse::Done(done)
        }
        NodeRequest::Locate(token, lease_ms, locators) => {
            let keep = Keep::asked(lease_ms, from);
            let kept = locate_all(node, locators, keep, token).await;
            node.publish_usage();
            NodeResponse::Done(kept)
        }
        NodeRequest::Holdings(stripes) => NodeResponse::Holdings(holdings(node, &stripes).await),
        NodeRequest::Survey => match node.core.walk().await {
            Some(walk) => {
                let virtual_nodes: usize = walk.answered.iter().map(|c| c.virtual_nodes.len()).sum();
                let peers = walk.answered.iter().map(|contact| contact.peer).collect();
                NodeResponse::Survey(peers, u32::try_from(virtual_nodes).unwrap_or(u32::MAX))
            }
            None => NodeResponse::Refused("joining".into()),
        },
        NodeRequest::Mending => NodeResponse::Mending(node.mending()),
        NodeRequest::Mend(gone) => NodeResponse::Mending(node.mend(gone)),
        NodeRequest::Probe => outside::probe(node, from).await,
    }
}

/// Keeps those of these tombstones that prove themselves. Whether each stripe is deleted here afterwards.
pub(crate) async fn bury_all(node: &Node, burials: Vec<Burial>) -> Vec<bool> {
    // Those written at the same time share a flush.
    let burials = stream::iter(burials).map(|burial| bury(node, burial));
    burials.buffered(BURIALS).collect().await
}

/// Keeps a tombstone if it proves itself, by the header that comes with it or that of a shard held here.
/// Whether the stripe is deleted here afterwards.
async fn bury(node: &Node, burial: Burial) -> bool {
    let Burial {
        stripe,
        header,
        signature,
    } = burial;
    if node.shards.is_deleted(stripe) {
        return true;
    }
    let header = if header.is_empty() {
        node.shards.header(stripe).await
    } else {
        Header::decode(&header).ok()
    };
    let tombstone = header.and_then(|header| Tombstone::verify(header, &signature));
    let Some(tombstone) = tombstone.filter(|tombstone| tombstone.stripe() == stripe) else {
        return false;
    };
    match node.shards.bury(&node.core, tombstone).await {
        Ok(()) => {
            node.cache.remove(stripe);
            true
        }
        Err(error) => {
            tracing::warn!(%stripe, %error, "could not keep a tombstone");
            false
        }
    }
}

/// Keeps those of these locators that are some. Whether each is held here afterwards.
pub(crate) async fn locate_all(
    node: &Node,
    locators: Vec<WireLocator>,
    keep: Keep,
    token: Token,
) -> Vec<bool> {
    let takes = node.core.read(|state| state.ring.me().state) == PeerState::Accepting;
    // Those written at the same time share a flush.
    let locators = stream::iter(locators).map(|locator| async move {
        let header = Header::decode(&locator.header).ok();
        let locator = header.and_then(|header| Locator::parse(header, &locator.holders));
        let Some(locator) = locator.filter(|_| takes) else {
            return false;
        };
        let kept = node.shards.keep_locator(&node.core, locator, keep, token).await;
        kept.inspect_err(|error| tracing::debug!(%error, "did not keep a locator"))
            .is_ok()
    });
    locators.buffered(BURIALS).collect().await
}

fn done(outcome: Result<Vec<bool>, KeepError>) -> NodeResponse {
    match outcome {
        Ok(held) => NodeResponse::Done(held),
        Err(error) => NodeResponse::Refused(error.to_string()),
    }
}

/// Who holds which shard of a stripe, as far as this peer has it on record as the home, or in a locator.
pub(crate) async fn known(node: &Node, stripe: Id) -> Vec<(u8, Peer)> {
    let record = node.core.read(|state| state.custody.stripe(stripe));
    let shards = record.into_iter().flat_map(|record| record.shards);
    let mut known: Vec<(u8, Peer)> = shards.map(|shard| (shard.index, shard.peer)).collect();
    if let Some(locator) = node.shards.locator(&node.core, stripe).await {
        for holder in locator.holders() {
            if !known.contains(holder) {
                known.push(*holder);
            }
        }
    }
    known
}

/// What this peer holds of each stripe, and what it knows of others.
pub(crate) async fn holdings(node: &Node, stripes: &[Id]) -> Vec<StripeHoldings> {
    let mut described = Vec::with_capacity(stripes.len());
    for stripe in stripes {
        let known = known(node, *stripe).await;
        let pending = |state| match state {
            StoreState::Committed | StoreState::Deleted { .. } => false,
            StoreState::Pending { .. } => true,
        };
        let shards = node.shards.held(*stripe).into_iter();
        let mut held: Vec<(u8, bool)> = shards.map(|(index, meta)| (index, pending(meta.state))).collect();
        if node.shards.is_deleted(*stripe) {
            held.push((TOMBSTONE, false));
        }
        described.push(StripeHoldings { held, known });
    }
    described
}

async fn answer_shard(
    node: &Node,
    from: Peer,
    request: ShardRequest,
    payload: Bytes,
) -> (ShardResponse, Bytes) {
    #[cfg(feature = "adversary")]
    if let Some(lie) = crate::adversary::liar::answer_shard(&request) {
        return lie;
    }
    match request {
        ShardRequest::Store {
            header,
            index,
            token,
            lease_ms,
        } => {
            let keep = Keep::asked(lease_ms, from);
            (
                store_shard(node, header, index, token, keep, payload).await,
                Bytes::new(),
            )
        }
        ShardRequest::Fetch { stripe, .. } if !may_read(node, from, stripe) => {
            let known = known(node, stripe).await;
            (
                ShardResponse::status(ShardStatus::None, ""),
                write_holders(&known),
            )
        }
        ShardRequest::Fetch { stripe, want, exact } => {
            match node.shards.find(&node.core, stripe, want, exact).await {
                Local::Found(shard) => {
                    node.metrics.shard_served(shard.payload().len());
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
                    let known = known(node, stripe).await;
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
            }
        }
    }
}

/// Whether a peer may have what is held of a stripe: while its put is unfinished, only who puts it and those
/// that may hold shards of it themselves.
fn may_read(node: &Node, from: Peer, stripe: Id) -> bool {
    let writes = |state| match state {
        StoreState::Pending { writer, .. } => writer == *from.as_bytes(),
        StoreState::Committed | StoreState::Deleted { .. } => true,
    };
    let held = node.shards.held(stripe);
    held.iter().all(|(_, meta)| writes(meta.state))
        || node
            .core
            .with(|State { ring, custody, .. }, now| custody.may_hold(now, ring, stripe, from))
}

async fn store_shard(
    node: &Node,
    header: Bytes,
    index: u8,
    token: [u8; 16],
    keep: Keep,
    payload: Bytes,
) -> ShardResponse {
    let state = node.core.read(|state| state.ring.me().state);
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
    let (status, reason) = match node.shards.keep_foreign(&node.core, shard, keep, token).await {
        Ok(()) => {
            node.metrics.shard_stored(bytes);
            (ShardStatus::Ok, String::new())
        }
        Err(error @ (KeepError::Invalid | KeepError::Taken)) => (ShardStatus::Invalid, error.to_string()),
        Err(error @ KeepError::Full) => (ShardStatus::Full, error.to_string()),
        Err(error @ KeepError::Deleted) => (ShardStatus::Deleted, error.to_string()),
        Err(error @ KeepError::Disk(_)) => (ShardStatus::Failed, error.to_string()),
    };
    node.publish_usage();
    ShardResponse::status(status, reason)
}

impl Keep {
    /// As another peer wants it: pending for so many milliseconds, or committed at 0.
    fn asked(lease_ms: u64, writer: Peer) -> Self {
        match lease_ms {
            0 => Self::Committed,
            ms => Self::Pending {
                lease: Duration::from_millis(ms).min(MAX_LEASE),
                writer,
            },
        }
    }
}

impl Node {
    /// Whether the ring part of this peer is settled, so that its answers about others count.
    pub(crate) fn is_settled(&self) -> bool {
        self.core.read(|state| state.ring.is_settled())
    }
}
