//! What other peers ask of this one, and which part of it answers.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use mutualstore_dht::Peer;
use mutualstore_dht::custody;
use mutualstore_net::Service;

use crate::keeper::ShardKeeper;
use crate::keeper::records::RecordKeeper;
use crate::maintenance::Maintenance;
use crate::peer::Membership;
use crate::transfer::Transfers;
use crate::wire::contact::{decode_contact, encode_contact};
use crate::wire::peer::{PeerRequest, PeerResponse};
use crate::wire::shard::{ShardRequest, ShardResponse, ShardStatus};

/// This peer as the transport sees it.
pub(crate) struct Inbound {
    pub(crate) member: Arc<Membership>,
    pub(crate) keeper: Arc<ShardKeeper>,
    pub(crate) records: Arc<RecordKeeper>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) maintenance: Arc<Maintenance>,
}

impl Service for Inbound {
    fn contact(&self) -> Bytes {
        self.member
            .core
            .read(|state| encode_contact(state.engine.ring.me()))
    }

    fn hello(&self, peer: Peer, contact: Bytes) {
        match decode_contact(contact, &self.member.verifier) {
            Ok(contact) if contact.peer == peer => {
                self.member
                    .core
                    .with(|state, now| state.engine.ring.introduce(now, contact));
            }
            Ok(_) => tracing::warn!(%peer, "a peer introduced itself as another one; its contact is ignored"),
            Err(error) => tracing::warn!(%peer, %error, "a peer introduced itself in a way not understood"),
        }
    }

    fn elsewhere(&self, peer: Peer, contact: &Bytes) -> Vec<String> {
        let Ok(contact) = decode_contact(contact.clone(), &self.member.verifier) else {
            return Vec::new();
        };
        self.member.core.read(|state| {
            let known = state
                .engine
                .ring
                .contact(peer)
                .filter(|_| state.engine.ring.is_alive(peer));
            let addresses = known.iter().flat_map(|known| known.addresses.iter());
            let elsewhere = addresses.filter(|address| !contact.addresses.contains(address));
            elsewhere.cloned().collect()
        })
    }

    fn addresses(&self, peer: Peer) -> Vec<String> {
        let contact = self.member.core.contact(peer);
        contact.map_or_else(Vec::new, |contact| contact.addresses.to_vec())
    }

    fn disconnected(&self, peer: Peer) {
        self.member
            .core
            .with(|state, now| state.engine.ring.handle_disconnect(now, peer));
    }

    fn rpc(self: Arc<Self>, from: Peer, body: Bytes) -> BoxFuture<'static, Bytes> {
        async move {
            let response = match PeerRequest::decode(body, &self.member.verifier) {
                Ok(request) => self.answer(from, request).await,
                Err(malformed) => PeerResponse::Refused(malformed.to_string()),
            };
            response.encode()
        }
        .boxed()
    }

    fn shard(self: Arc<Self>, from: Peer, head: Bytes, payload: Bytes) -> BoxFuture<'static, (Bytes, Bytes)> {
        async move {
            let (head, payload) = match ShardRequest::decode(head) {
                Ok(request) => self.answer_shard(from, request, payload).await,
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

impl Inbound {
    async fn answer_shard(
        &self,
        from: Peer,
        request: ShardRequest,
        payload: Bytes,
    ) -> (ShardResponse, Bytes) {
        #[cfg(feature = "adversary")]
        if let Some(lie) = crate::adversary::liar::answer_shard(&request) {
            return lie;
        }
        self.keeper.answer_shard(from, request, payload).await
    }

    async fn answer(&self, from: Peer, request: PeerRequest) -> PeerResponse {
        #[cfg(feature = "adversary")]
        if let Some(lie) = crate::adversary::liar::answer(&self.member, from, &request) {
            return lie;
        }
        let core = &self.member.core;
        match request {
            PeerRequest::Ring(request) => PeerResponse::Ring(
                core.with(|state, now| state.engine.ring.handle_request(now, from, request)),
            ),
            PeerRequest::Custody(request) => {
                if let custody::Request::Status { stripes } = &request {
                    self.transfers.renew_asked(from, stripes).await;
                }
                let answer = core.with(|state, now| state.engine.handle_custody_request(now, from, request));
                answer.map_or_else(
                    || PeerResponse::Refused("keeps no shards".into()),
                    PeerResponse::Custody,
                )
            }
            PeerRequest::Survey => self.member.answer_survey().await,
            PeerRequest::Probe => self.member.answer_probe(from).await,
            PeerRequest::Mending => PeerResponse::Mending(self.maintenance.mending()),
            PeerRequest::Mend(gone) => PeerResponse::Mending(self.maintenance.mend(gone)),
            PeerRequest::TakeRecord(record) => PeerResponse::Taken(self.records.take(from, record).await),
            PeerRequest::ReadRecords(id, have) => PeerResponse::Given(self.records.give(id, have).await),
            request @ (PeerRequest::Commit(..)
            | PeerRequest::Discard(..)
            | PeerRequest::Renew(..)
            | PeerRequest::Tombstones(_)
            | PeerRequest::Locate(..)
            | PeerRequest::Holdings(_)) => self.keeper.answer(from, request).await,
        }
    }
}
