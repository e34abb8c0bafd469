//! Reaching a peer at one of its addresses (happy eyeballs, RFC 8305).
//!
//! Addresses are tried in the [order](super::addresses) most likely to succeed: the next one when the ones
//! before failed, or after [`STAGGER`] without an answer. The first stream wins and the other attempts are
//! given up. At most as many run at once as a contact has addresses. The caller bounds the time.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::Multiaddr;
use mutualstore_dht::Peer;
use mutualstore_dht::contact::MAX_ADDRESSES;
use mutualstore_proto::hello::{Reason, Refusal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::connection::Way;
use super::shared::{OpenFailure, Shared};
use super::swarm::{Dial, OpenError, Wire};

/// Between the beginnings of two attempts (RFC 8305 §5, "Connection Attempt Delay").
pub const STAGGER: Duration = Duration::from_millis(250);

impl Shared {
    /// An open stream to `peer`, or to whoever is at the only address. Those of `addresses` that are of no
    /// use from here, or where somebody else answered lately, are left out.
    pub(super) async fn connect(
        &self,
        peer: Option<Peer>,
        addresses: Vec<Multiaddr>,
    ) -> Result<Wire, OpenFailure> {
        let (addresses, mut failure) = match peer {
            Some(peer) => self.usable(peer, addresses),
            None => (addresses, OpenFailure::Unreachable),
        };
        let mut waiting = VecDeque::from(addresses);
        let mut trying = FuturesUnordered::new();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some((address, opened)) = trying.next(), if !trying.is_empty() => match opened {
                    Ok(wire) => {
                        if let Some(peer) = peer {
                            self.routes().answered(peer, address);
                        }
                        return Ok(wire);
                    }
                    Err(error) => {
                        let learned = self.learn_from(peer, address, &error);
                        if !matches!(failure, OpenFailure::Refused(_)) {
                            failure = learned;
                        }
                        next = Instant::now();
                    }
                },
                () = sleep_until(next), if !waiting.is_empty() => {
                    trying.extend(waiting.pop_front().map(|address| self.attempt(peer, address)));
                    next = Instant::now() + STAGGER;
                }
                else => return Err(failure),
            }
        }
    }

    /// The addresses to try, best first, and what to say when there are none.
    fn usable(&self, peer: Peer, mut addresses: Vec<Multiaddr>) -> (Vec<Multiaddr>, OpenFailure) {
        let place = self.place();
        let on_loopback = self.is_on_loopback();
        let now = Instant::now();
        addresses.truncate(MAX_ADDRESSES);
        let all = addresses.len();
        addresses.retain(|address| !place.is_own(address));
        let failure = if addresses.is_empty() && all > 0 {
            OpenFailure::Own
        } else {
            OpenFailure::Unreachable
        };
        let routes = self.routes();
        addresses
            .retain(|address| place.may_dial(address, on_loopback) && !routes.is_dropped(peer, address, now));
        (place.order(addresses, routes.best(peer)), failure)
    }

    async fn attempt(&self, peer: Option<Peer>, address: Multiaddr) -> (Multiaddr, Result<Wire, OpenError>) {
        let (reply, opening) = oneshot::channel();
        let dial = Dial {
            peer,
            address: address.clone(),
            reply,
        };
        let opened = match self.dials.send(dial) {
            Ok(()) => match opening.await.unwrap_or(Err(OpenError::Unreachable)) {
                Ok(opening) => opening.open().await.map(|wire| Wire {
                    way: Way {
                        dialled: Some(address.clone()),
                        ..wire.way
                    },
                    ..wire
                }),
                Err(error) => Err(error),
            },
            Err(_) => Err(OpenError::Unreachable),
        };
        (address, opened)
    }

    /// Remembers what a failed attempt tells about the address.
    fn learn_from(&self, peer: Option<Peer>, address: Multiaddr, error: &OpenError) -> OpenFailure {
        let (failure, wrong) = match error {
            OpenError::Unreachable => (OpenFailure::Unreachable, false),
            OpenError::Own => (OpenFailure::Own, true),
            OpenError::WrongPeer => (OpenFailure::Unreachable, true),
            OpenError::Foreign => (OpenFailure::Refused(foreign()), false),
        };
        if let Some(peer) = peer.filter(|_| wrong) {
            tracing::debug!(?peer, %address, %error, "not dialled there for a while");
            self.routes().drop_for(peer, address, Instant::now());
        }
        failure
    }
}

fn foreign() -> Refusal {
    Refusal {
        reason: Reason::NotMutualStore,
        text: "whoever answers there does not speak this protocol".to_owned(),
    }
}
