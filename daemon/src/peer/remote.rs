//! Questions to other peers over the transport.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use mutualstore_dht::Contact;
use mutualstore_net::{CallError, Net, Target};

use crate::wire::peer::{PeerRequest, PeerResponse};
use crate::wire::shard::{ShardRequest, ShardResponse};
use crate::wire::signed::Verifier;

/// Why a peer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It did not answer: unreachable, too slow, or the connection broke. Whether it acted is unknown.
    #[error("{0}")]
    Silent(CallError),
    /// It answered that it will not. Nothing changed there.
    #[error("{0}")]
    Refused(String),
}

impl AskError {
    /// Whether the peer stopped answering, as opposed to refusing or being busy.
    pub(crate) fn is_disconnect(&self) -> bool {
        match self {
            Self::Silent(CallError::Unreachable | CallError::TimedOut | CallError::Closed) => true,
            Self::Silent(
                CallError::Refused(_) | CallError::Barred(_) | CallError::TooLarge | CallError::Busy,
            )
            | Self::Refused(_) => false,
        }
    }
}

/// The way to the other peers.
pub(crate) struct Remote {
    verifier: Arc<Verifier>,
    net: OnceLock<Net>,
    /// Whether connections break because this peer stops.
    stopping: AtomicBool,
}

impl Remote {
    /// A way that leads nowhere until the [transport](Self::set_net) is there.
    pub(crate) fn new(verifier: Arc<Verifier>) -> Self {
        Self {
            verifier,
            net: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The transport. Set once, before the first task that could ask runs.
    pub(crate) fn net(&self) -> Option<&Net> {
        self.net.get()
    }

    /// Hands over the transport at start.
    pub(crate) fn set_net(&self, net: Net) {
        if self.net.set(net).is_err() {
            tracing::error!("the transport was started twice");
        }
    }

    /// From now on broken connections say nothing about other peers.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether this peer stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Asks another peer on its RPC stream.
    pub(crate) async fn ask(
        &self,
        contact: &Contact,
        request: &PeerRequest,
        deadline: Duration,
    ) -> Result<PeerResponse, AskError> {
        let net = self.net().ok_or(AskError::Silent(CallError::Closed))?;
        let body = net
            .call(&target(contact), request.encode(), deadline)
            .await
            .map_err(AskError::Silent)?;
        let response = PeerResponse::decode(body, &self.verifier);
        refused_or(response.map_err(|malformed| AskError::Refused(malformed.to_string()))?)
    }

    /// Asks another peer on its shard stream.
    pub(crate) async fn ask_shard(
        &self,
        contact: &Contact,
        request: &ShardRequest,
        payload: Bytes,
    ) -> Result<(ShardResponse, Bytes), AskError> {
        let net = self.net().ok_or(AskError::Silent(CallError::Closed))?;
        let answer = net.shard_call(&target(contact), request.encode(), payload).await;
        let (head, payload) = answer.map_err(AskError::Silent)?;
        let head =
            ShardResponse::decode(head).map_err(|malformed| AskError::Refused(malformed.to_string()))?;
        Ok((head, payload))
    }
}

/// What was answered, where that is not a refusal.
pub(crate) fn refused_or(response: PeerResponse) -> Result<PeerResponse, AskError> {
    if let PeerResponse::Refused(reason) = response {
        Err(AskError::Refused(reason))
    } else {
        Ok(response)
    }
}

fn target(contact: &Contact) -> Target {
    Target {
        peer: contact.peer,
        addresses: contact.addresses.to_vec(),
    }
}
