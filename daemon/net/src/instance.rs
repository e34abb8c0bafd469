//! Two live daemons with one identity: the one that was there first stays, the newcomer is refused.
//!
//! Every start of a daemon is an *instance* with a number of its own, which the hello carries. A peer that is
//! connected is asked whether it still lives; one that is not, but counted among the living, is looked for
//! where it said it is. An instance that restarted finds its predecessor dead in both ways.

use std::sync::Arc;

use libp2p::Multiaddr;
use mutualstore_dht::Peer;
use mutualstore_proto::hello::{Class, Reason, Refusal};
use tokio::time::timeout;

use super::NetworkInfo;
use super::hello::Remote;
use super::shared::Shared;

fn twin() -> Refusal {
    Refusal {
        reason: Reason::DuplicateInstance,
        text: "two daemons run with the same identity".to_owned(),
    }
}

impl Shared {
    /// Drops the connections of other instances of `peer` if they are dead.
    pub(super) async fn retire_instance(&self, peer: Peer, instance: [u8; 16]) -> Result<(), Refusal> {
        let Some(old) = self.table().other_instance(peer, instance) else {
            return Ok(());
        };
        if let Ok(Ok(())) = timeout(self.config().instance_timeout, old.ping()).await {
            return Err(twin());
        }
        self.unregister(&old);
        Ok(())
    }

    /// Refuses an instance of `peer` that comes from elsewhere while another one answers where the peer is
    /// known to be. That one is only asked for its network, which leads to no connection, so two peers that
    /// do this to each other do not go on for ever.
    pub(super) async fn check_elsewhere(
        self: &Arc<Self>,
        peer: Peer,
        remote: &Remote,
    ) -> Result<(), Refusal> {
        if !self.table().of(peer).is_empty() {
            return Ok(());
        }
        let known = self.context.service.elsewhere(peer, &remote.contact);
        let known: Vec<Multiaddr> = known.iter().filter_map(|text| text.parse().ok()).collect();
        if known.is_empty() {
            return Ok(());
        }
        let asking = NetworkInfo {
            unit: 0,
            r: 0,
            ..self.network()
        };
        let asked = self.open(Some(peer), known, Class::Rpc, asking);
        match timeout(self.config().instance_timeout, asked).await {
            Ok(Ok((dialed, _))) if dialed.instance != remote.instance => Err(twin()),
            Ok(Ok(_) | Err(_)) | Err(_) => Ok(()),
        }
    }
}
