//! The transport: authenticated connections between peers of one network, requests and answers on them.
//!
//! Two classes of connection keep bulk from delaying the ring: [`Net::call`] goes over `rpc` connections,
//! one per pair of peers, in both directions whoever dialled; [`Net::shard_call`] over `shards`
//! connections, one per direction, dialled by the side that calls. Both are dialled when first needed and
//! closed by their dialer after [`NetConfig::idle`]. Every connection begins with the `hello`, then
//! carries `frame`s.
//!
//! Layers: `swarm` is libp2p and gives one stream per connection; `gate` bounds those in front of the hello;
//! `hello` decides whether it is wanted; `traffic` runs it as a `connection`, at the `rate` of
//! [`NetConfig::link_rate`]; `table` knows them all; `shared` ties them together. `addresses` has the rules
//! which addresses are told and dialled, `dial` tries them, `routes` remembers how that went, `detour` leaves
//! a connection that leads nowhere for another address. Nothing outside this folder names libp2p.
//!
//! A request is sent again when its connection was left for another one to the same peer, so that it may be
//! served twice: every request of this daemon may.
//!
//! Absent: NAT traversal, peer discovery, other retries after a lost answer.

mod addresses;
mod config;
mod connection;
mod detour;
mod dial;
#[doc(hidden)]
pub mod frame;
mod gate;
mod hello;
mod instance;
mod rate;
mod routes;
mod shared;
mod swarm;
mod table;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use mutualstore_dht::Peer;
pub use mutualstore_proto::hello::{Class, MAX_CONTACT, Reason, Refusal};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use self::addresses::tcp_target;
pub use self::config::{ClassCounters, NetConfig, NetCounters, NetworkInfo};
pub use self::dial::STAGGER;

use self::connection::{AskError, Wait};
pub use self::frame::{MAX_RPC_BODY, MAX_SHARD_HEAD, MAX_SHARD_PAYLOAD};
use self::shared::{OpenFailure, Shared};

/// What the daemon does with what arrives. The methods without a future must not block.
pub trait Service: Send + Sync + 'static {
    /// Own contact, encoded, at most [`MAX_CONTACT`] bytes.
    fn contact(&self) -> Bytes;

    /// A peer proved that it belongs to the network. Once per accepted connection, whoever dialled, before
    /// any request of it; `contact` is what the peer sent and not checked.
    fn hello(&self, peer: Peer, contact: Bytes);

    /// Where a peer that counts among the living is known to be, other than at the addresses of this contact
    /// of it, which is what the peer sent and not checked.
    fn elsewhere(&self, peer: Peer, contact: &Bytes) -> Vec<String>;

    /// Where a peer is known to be.
    fn addresses(&self, peer: Peer) -> Vec<String>;

    /// The last connection with a peer ended, and not because it was idle.
    fn disconnected(&self, peer: Peer);

    /// Answers a request of class rpc, at most [`MAX_RPC_BODY`] bytes both ways.
    fn rpc(self: Arc<Self>, from: Peer, body: Bytes) -> BoxFuture<'static, Bytes>;

    /// Answers a request of class shards with head and payload, at most [`MAX_SHARD_HEAD`] and
    /// [`MAX_SHARD_PAYLOAD`] bytes both ways.
    fn shard(self: Arc<Self>, from: Peer, head: Bytes, payload: Bytes) -> BoxFuture<'static, (Bytes, Bytes)>;
}

/// Whom to call, and where it may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who; the noise handshake checks it.
    pub peer: Peer,
    /// Multiaddresses as the peer's contact tells them; those of use from here are tried, see `addresses` and
    /// `dial`. Only looked at when there is no connection yet.
    pub addresses: Vec<String>,
}

/// Why [`Net::start`] failed. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something else listens there.
    #[error("{address} is already in use")]
    AddressInUse {
        /// As configured.
        address: String,
    },
    /// Not a multiaddress this transport can listen on.
    #[error("`{address}` is not an address to listen on (expected /ip4/…/tcp/… or /ip6/…/tcp/…)")]
    BadAddress {
        /// As configured.
        address: String,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The keypair cannot be used.
    #[error("unusable identity: {0}")]
    Identity(String),
}

impl StartError {
    fn listen(address: &str, source: io::Error) -> Self {
        let address = address.to_owned();
        if source.kind() == io::ErrorKind::AddrInUse {
            Self::AddressInUse { address }
        } else {
            Self::Listen { address, source }
        }
    }
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection could be made; nothing was sent.
    #[error("unreachable")]
    Unreachable,
    /// No answer in time; whether the request was, or will be, served is unknown.
    #[error("no answer in time")]
    TimedOut,
    /// The peer, or this side, does not want the connection, or the peer could not answer.
    #[error("refused: {0}")]
    Refused(String),
    /// The peer does not let this one into its network; nothing was sent.
    #[error("refused: {0}")]
    Barred(Refusal),
    /// The connection was lost; whether the request was served is unknown.
    #[error("the connection was lost")]
    Closed,
    /// The request exceeds the limits; nothing was sent.
    #[error("the request is too large")]
    TooLarge,
    /// A limit of this side was reached; nothing was sent.
    #[error("too many requests or connections")]
    Busy,
}

/// Why [`Net::dial`] or [`Net::learn`] reached nobody. Nothing of it remains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nothing answers there, or not in time.
    #[error("unreachable")]
    Unreachable,
    /// Somebody answers there but does not want us, or we do not want them.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Not a multiaddress.
    #[error("not an address (expected a multiaddress like /ip4/192.0.2.1/tcp/4001)")]
    BadAddress,
    /// It is this peer itself.
    #[error("the address is our own")]
    Own,
}

/// Who answered a [`Net::dial`] or [`Net::learn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialed {
    /// The peer at that address.
    pub peer: Peer,
    /// Its contact as it sent it, not checked.
    pub contact: Bytes,
    /// Drawn at the start of its daemon.
    pub instance: [u8; 16],
    /// Its network; the secret is empty here whatever it is there.
    pub network: NetworkInfo,
}

/// The transport of one peer. Clones share it; it runs until [`shutdown`](Self::shutdown).
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("peer", &self.shared.peer())
            .finish_non_exhaustive()
    }
}

impl Net {
    /// Starts listening as the peer of the ed25519 secret key `seed`. Returns once every address is bound.
    pub async fn start(
        seed: [u8; 32],
        config: NetConfig,
        service: Arc<dyn Service>,
    ) -> Result<Self, StartError> {
        Shared::start(seed, config, service)
            .await
            .map(|shared| Self { shared })
    }

    /// Who this is.
    pub fn peer(&self) -> Peer {
        self.shared.peer()
    }

    /// Where this peer listens now, with real ports, wildcards replaced by the addresses of the interfaces,
    /// those that reach farthest first; without `/p2p/…`.
    pub fn listen_addresses(&self) -> Vec<String> {
        texts(&self.shared.place().listening)
    }

    /// Where others are to dial this peer: `announce` if configured, else those of the listened addresses
    /// that reach farthest; none while no interface runs.
    pub fn contact_addresses(&self) -> Vec<String> {
        texts(&self.shared.place().published)
    }

    /// Changes whenever [`listen_addresses`](Self::listen_addresses) or
    /// [`contact_addresses`](Self::contact_addresses) may have.
    pub fn address_changes(&self) -> watch::Receiver<()> {
        self.shared.address_changes()
    }

    /// Those of a contact's addresses that are of use from here.
    pub fn usable_addresses(&self, addresses: &[String]) -> Vec<String> {
        self.shared.usable_addresses(addresses)
    }

    /// `address` with this peer's `/p2p/…`.
    pub fn with_peer(&self, address: &str) -> String {
        format!("{address}/p2p/{}", self.peer())
    }

    /// Sends `body` to a peer and returns its answer, dialling first when there is no connection.
    pub async fn call(&self, to: &Target, body: Bytes, deadline: Duration) -> Result<Bytes, CallError> {
        if body.len() > MAX_RPC_BODY {
            return Err(CallError::TooLarge);
        }
        let deadline = Instant::now() + deadline;
        // A connection may retire between being picked and being used; a fresh one does not.
        for _ in 0..3 {
            let connection = timeout_at(deadline, self.shared.connection(to, Class::Rpc)).await;
            let connection = connection.map_err(|_| CallError::TimedOut)??;
            match connection
                .ask(Bytes::new(), body.clone(), Wait::Until(deadline))
                .await
            {
                Ok((_, body)) => return Ok(body),
                Err(AskError::Retired | AskError::Moved) => {}
                Err(error) => {
                    if error == AskError::TimedOut {
                        self.shared.suspect(&connection);
                    }
                    return Err(error.into());
                }
            }
        }
        Err(CallError::Closed)
    }

    /// Sends a shard request to a peer and returns its answer. Ends when nothing moves on the connection
    /// for [`NetConfig::progress_timeout`], not after a fixed time. Waits while the connection's window of
    /// 16 requests is full.
    pub async fn shard_call(
        &self,
        to: &Target,
        head: Bytes,
        payload: Bytes,
    ) -> Result<(Bytes, Bytes), CallError> {
        if head.len() > MAX_SHARD_HEAD || payload.len() > MAX_SHARD_PAYLOAD {
            return Err(CallError::TooLarge);
        }
        let wait = Wait::Progress(self.shared.config().progress_timeout);
        for _ in 0..3 {
            let connection = self.shared.connection(to, Class::Shards).await?;
            match connection.ask(head.clone(), payload.clone(), wait).await {
                Err(AskError::Retired | AskError::Moved) => {}
                answer => return answer.map_err(CallError::from),
            }
        }
        Err(CallError::Closed)
    }

    /// Dials an address, with or without `/p2p/…`, and says who is there. The connection is kept for calls,
    /// unless this peer has no network yet: then it only learns the one there, to [`adopt`](Self::adopt) it.
    pub async fn dial(&self, address: &str) -> Result<Dialed, DialError> {
        self.dial_as(address, self.shared.network()).await
    }

    /// Asks whoever is at `address` for its network, whatever network this peer belongs to now. `invited`
    /// carries the secret to prove and, unless all zero, the id the network must have; unit and r are not
    /// looked at. The connection is not kept.
    pub async fn learn(&self, address: &str, invited: &NetworkInfo) -> Result<Dialed, DialError> {
        let NetworkInfo { id, secret, .. } = invited.clone();
        self.dial_as(
            address,
            NetworkInfo {
                id,
                secret,
                unit: 0,
                r: 0,
            },
        )
        .await
    }

    async fn dial_as(&self, address: &str, network: NetworkInfo) -> Result<Dialed, DialError> {
        let address: Multiaddr = address.parse().map_err(|_| DialError::BadAddress)?;
        let dialed = self.shared.dial(address, network).await;
        dialed.map_err(|failure| match failure {
            OpenFailure::Unreachable | OpenFailure::Busy => DialError::Unreachable,
            OpenFailure::Own => DialError::Own,
            OpenFailure::Refused(refusal) | OpenFailure::Declined(refusal) => DialError::Refused(refusal),
        })
    }

    /// Addresses of peers that belong to the network: connections from there have slots of their own before
    /// the hello.
    pub fn know<'a>(&self, addresses: impl Iterator<Item = &'a str>) {
        self.shared.gate().know(addresses);
    }

    /// Inbound connections that have not proved themselves yet.
    pub fn waiting(&self) -> usize {
        self.shared.gate().waiting()
    }

    /// From now on this peer belongs to `network`. Existing connections stay.
    pub fn adopt(&self, network: NetworkInfo) {
        self.shared.adopt(network);
    }

    /// Whether there is a connection of any class.
    #[cfg(test)]
    fn is_connected(&self, peer: Peer) -> bool {
        self.shared.is_connected(peer)
    }

    /// Accepted connections.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// Totals since the start.
    pub fn counters(&self) -> &NetCounters {
        self.shared.counters()
    }

    /// Closes every connection and listener; calls under way fail. Returns when all tasks ended.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }
}

fn texts(addresses: &[Multiaddr]) -> Vec<String> {
    addresses.iter().map(Multiaddr::to_string).collect()
}

impl From<AskError> for CallError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Retired | AskError::Moved | AskError::Lost => Self::Closed,
            AskError::TimedOut => Self::TimedOut,
            AskError::Busy => Self::Busy,
            AskError::Failed => Self::Refused("the peer failed to answer".to_owned()),
        }
    }
}

impl From<OpenFailure> for CallError {
    fn from(failure: OpenFailure) -> Self {
        match failure {
            OpenFailure::Unreachable | OpenFailure::Own => Self::Unreachable,
            OpenFailure::Busy => Self::Busy,
            OpenFailure::Refused(refusal) if refusal.reason.is_lasting() => Self::Barred(refusal),
            OpenFailure::Refused(refusal) | OpenFailure::Declined(refusal) => {
                Self::Refused(refusal.to_string())
            }
        }
    }
}
