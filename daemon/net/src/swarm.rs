//! libp2p: TCP, noise, yamux and the swarm that drives them.
//!
//! One connection carries one stream, which the dialer opens; whoever asked for the connection gets the
//! stream as a [`Wire`] and everything after that (hello, frames, limits) happens in its task. Dropping the
//! wire drops the connection at once, without waiting for the other side. No libp2p protocol but our own
//! runs: no identify, ping or discovery.
//!
//! A listener stays for as long as the swarm runs: one that breaks (the socket that watches the interfaces
//! may) is bound again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::core::upgrade::{ReadyUpgrade, Version};
use libp2p::core::{Endpoint, Transport as _};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    Config, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, DialError, FromSwarm,
    NetworkBehaviour, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol, Swarm, SwarmEvent,
    THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, dns, identity, noise, tcp, yamux};
use mutualstore_dht::Peer;
use socket2::{Domain, Socket, Type};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::addresses::{ip_of, multiaddr, socket_address};
use super::connection::Way;
use super::gate::{Gate, Paced, Pass};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/mutualstore/1");

/// Between two attempts to bind a listener again.
const REBIND: Duration = Duration::from_secs(1);

/// The one stream of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// The other side, as the noise handshake proved.
    pub(super) peer: Peer,
    pub(super) way: Way,
    /// Bytes, both ways.
    pub(super) stream: Stream,
    /// Keeps the connection. Declared, and so dropped, after the stream.
    pub(super) hold: Hold,
}

/// Keeps a connection alive until dropped.
pub(super) type Hold = oneshot::Sender<Infallible>;

/// A connection whose stream is about to come.
#[derive(Debug)]
pub(super) struct Opening {
    peer: Peer,
    remote: Option<IpAddr>,
    stream: oneshot::Receiver<Result<Stream, OpenError>>,
    hold: Hold,
}

impl Opening {
    /// Waits for the stream. The caller bounds the time.
    pub(super) async fn open(self) -> Result<Wire, OpenError> {
        let stream = self.stream.await.map_err(|_| OpenError::Unreachable)??;
        Ok(Wire {
            peer: self.peer,
            way: Way {
                dialled: None,
                remote: self.remote,
            },
            stream,
            hold: self.hold,
        })
    }
}

/// An inbound connection, and what lets it in once its hello is done.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) opening: Opening,
    pub(super) pass: Pass,
}

/// Why a dial gave no stream. Nothing of it remains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OpenError {
    #[error("unreachable")]
    Unreachable,
    #[error("the address is our own")]
    Own,
    #[error("another peer answers")]
    WrongPeer,
    #[error("does not speak our protocol")]
    Foreign,
}

/// Asks the swarm for a connection. Dropping `reply`'s receiver gives it up.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) peer: Option<Peer>,
    pub(super) address: Multiaddr,
    pub(super) reply: oneshot::Sender<Result<Opening, OpenError>>,
}

/// What the swarm needs to run.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    dials: mpsc::UnboundedReceiver<Dial>,
    /// Listeners that are bound,
    bound: HashMap<ListenerId, SocketAddr>,
    /// and those that broke.
    broken: Vec<SocketAddr>,
    moved: Arc<Notify>,
}

/// The other ends of a [`Driver`].
pub(super) struct Handles {
    pub(super) dials: mpsc::UnboundedSender<Dial>,
    pub(super) inbound: mpsc::UnboundedReceiver<Inbound>,
    pub(super) gate: Gate,
    /// What is listened on, as configured but with real ports.
    pub(super) listeners: Vec<SocketAddr>,
    /// Remembered when an address of an interface that is listened on came or went.
    pub(super) moved: Arc<Notify>,
}

/// The keypair of an ed25519 secret key, and the peer it stands for.
pub(super) fn keypair(mut seed: [u8; 32]) -> Result<(identity::Keypair, Peer), StartError> {
    let unusable = |error: &dyn fmt::Display| StartError::Identity(error.to_string());
    let keypair = identity::Keypair::ed25519_from_bytes(&mut seed).map_err(|error| unusable(&error))?;
    let peer = to_peer(&keypair.public().to_peer_id()).ok_or_else(|| unusable(&"not an ed25519 key"))?;
    Ok((keypair, peer))
}

fn to_peer(id: &PeerId) -> Option<Peer> {
    id.to_base58().parse().ok()
}

/// Timeouts and limits of the driver; see [`NetConfig`](super::NetConfig).
#[derive(Clone, Copy, Debug)]
pub(super) struct DriverConfig {
    pub(super) dial_timeout: Duration,
    pub(super) hello_timeout: Duration,
}

impl Driver {
    /// Binds every address of `listen`; accepts nothing before [`run`](Self::run).
    pub(super) fn bind(
        keypair: &identity::Keypair,
        listen: &[String],
        config: DriverConfig,
    ) -> Result<(Self, Handles), StartError> {
        let (inbound_out, inbound) = mpsc::unbounded_channel();
        let (dials_out, dials) = mpsc::unbounded_channel();
        let gate = Gate::new();
        let behaviour = Behaviour {
            gate: gate.clone(),
            dialling: HashMap::new(),
            inbound: inbound_out,
            hello_timeout: config.hello_timeout,
        };
        let transport = transport(keypair, config.dial_timeout, &gate)?;
        let swarm_config = Config::with_tokio_executor()
            .with_idle_connection_timeout(Duration::ZERO)
            .with_max_negotiating_inbound_streams(1);
        let peer_id = keypair.public().to_peer_id();
        let make = || Swarm::new(transport, behaviour, peer_id, swarm_config);
        // It logs the peer id, which the ready line tells; a start that is refused says one line.
        let swarm = tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), make);
        let moved = Arc::new(Notify::new());
        let mut driver = Self {
            swarm,
            dials,
            bound: HashMap::new(),
            broken: Vec::new(),
            moved: Arc::clone(&moved),
        };
        let listeners = driver.listen(listen)?;
        Ok((
            driver,
            Handles {
                dials: dials_out,
                inbound,
                gate,
                listeners,
                moved,
            },
        ))
    }

    fn listen(&mut self, addresses: &[String]) -> Result<Vec<SocketAddr>, StartError> {
        let mut listeners = Vec::new();
        for text in addresses {
            let address = socket_address(text).ok_or_else(|| StartError::BadAddress {
                address: text.clone(),
            })?;
            let free = free_port(address).map_err(|source| StartError::listen(text, source))?;
            listeners.push((free, text));
        }
        for (address, text) in &listeners {
            self.bind_one(*address)
                .map_err(|source| StartError::listen(text, source))?;
        }
        Ok(listeners.into_iter().map(|(address, _)| address).collect())
    }

    fn bind_one(&mut self, address: SocketAddr) -> io::Result<()> {
        let id = self
            .swarm
            .listen_on(multiaddr(address))
            .map_err(|error| match error {
                libp2p::TransportError::MultiaddrNotSupported(_) => io::ErrorKind::Unsupported.into(),
                libp2p::TransportError::Other(source) => source,
            })?;
        self.bound.insert(id, address);
        Ok(())
    }

    /// Binds again what broke.
    fn rebind(&mut self) {
        for address in std::mem::take(&mut self.broken) {
            match self.bind_one(address) {
                Ok(()) => tracing::info!(%address, "listens again"),
                Err(error) => {
                    tracing::debug!(%address, %error, "cannot listen again yet");
                    self.broken.push(address);
                }
            }
        }
    }

    /// Runs until `stop`; then every connection and listener is gone.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut rebind = tokio::time::interval(REBIND);
        rebind.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = self.swarm.select_next_some() => self.handle_event(event),
                _ = rebind.tick(), if !self.broken.is_empty() => self.rebind(),
                dial = self.dials.recv() => match dial {
                    Some(dial) => self.dial(dial),
                    None => return,
                },
            }
        }
    }

    fn dial(&mut self, dial: Dial) {
        let Some(options) = dial_options(dial.peer, dial.address) else {
            reply(dial.reply, Err(OpenError::Unreachable));
            return;
        };
        let id = options.connection_id();
        self.swarm.behaviour_mut().dialling.insert(id, dial.reply);
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(id, &error);
        }
    }

    fn dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        let Some(waiting) = self.swarm.behaviour_mut().dialling.remove(&id) else {
            return;
        };
        tracing::debug!(%error, "dial failed");
        let error = match error {
            // The swarm leaves out the addresses it listens on.
            DialError::LocalPeerId { .. } | DialError::NoAddresses => OpenError::Own,
            DialError::WrongPeerId { obtained, .. } if obtained == self.swarm.local_peer_id() => {
                OpenError::Own
            }
            DialError::WrongPeerId { .. } => OpenError::WrongPeer,
            DialError::DialPeerConditionFalse(_)
            | DialError::Aborted
            | DialError::Denied { .. }
            | DialError::Transport(_) => OpenError::Unreachable,
        };
        reply(waiting, Err(error));
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
    fn handle_event(&mut self, event: SwarmEvent<Infallible>) {
        match event {
            SwarmEvent::OutgoingConnectionError {
                connection_id, error, ..
            } => {
                self.dial_failed(connection_id, &error);
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                self.moved.notify_one();
            }
            SwarmEvent::ListenerClosed {
                listener_id, reason, ..
            } => self.lost(listener_id, &reason),
            // The watcher of the interfaces is gone for good, and nothing is accepted any more.
            SwarmEvent::ListenerError { listener_id, error } if error.kind() == io::ErrorKind::BrokenPipe => {
                self.swarm.remove_listener(listener_id);
                self.lost(listener_id, &Err(error));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listener"),
            _ => {}
        }
    }

    /// A listener ended.
    fn lost(&mut self, id: ListenerId, reason: &io::Result<()>) {
        if let Some(address) = self.bound.remove(&id) {
            tracing::warn!(%address, ?reason, "a listener ended; it is bound again");
            self.broken.push(address);
        }
    }
}

/// How to dial `peer`, or whoever is at the address. Always on a new port: a reused one allows a single
/// connection to each remote address.
fn dial_options(peer: Option<Peer>, address: Multiaddr) -> Option<DialOpts> {
    let Some(peer) = peer else {
        return Some(
            DialOpts::unknown_peer_id()
                .address(address)
                .allocate_new_port()
                .build(),
        );
    };
    let options = DialOpts::peer_id(PeerId::from_bytes(&peer.to_peer_id_bytes()).ok()?)
        .condition(PeerCondition::Always)
        .addresses(vec![address])
        .allocate_new_port()
        .build();
    Some(options)
}

/// Whoever asked may be gone; then nobody wants to know.
fn reply<T>(to: oneshot::Sender<T>, value: T) {
    drop(to.send(value));
}

/// The peer an address ends with, if it names one.
pub(super) fn named_peer(address: &Multiaddr) -> Option<Peer> {
    let Some(Protocol::P2p(id)) = address.iter().last() else {
        return None;
    };
    to_peer(&id)
}

/// The same address with a free port in place of 0. libp2p-tcp listens with `SO_REUSEPORT`, so a second
/// daemon of the same user would get half of the first one's connections instead of an error. A plain bind
/// tells. IPv6 alone, as libp2p-tcp binds it: the same port of IPv4 is another one.
fn free_port(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    let bound = socket.local_addr()?.as_socket();
    Ok(SocketAddr::new(
        address.ip(),
        bound.map_or(address.port(), |bound| bound.port()),
    ))
}

type Boxed = libp2p::core::transport::Boxed<(PeerId, libp2p::core::muxing::StreamMuxerBox)>;

fn transport(keypair: &identity::Keypair, timeout: Duration, gate: &Gate) -> Result<Boxed, StartError> {
    let tcp = || {
        let gate = gate.clone();
        let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
        Paced::new(tcp).map(move |stream, point| gate.wrap(stream, point))
    };
    let resolved = dns::tokio::Transport::system(tcp()).unwrap_or_else(|error| {
        tracing::warn!(%error, "no name resolution: only numeric addresses can be dialled");
        dns::tokio::Transport::custom(
            tcp(),
            dns::ResolverConfig::default(),
            dns::ResolverOpts::default(),
        )
    });
    let noise = noise::Config::new(keypair).map_err(|error| StartError::Identity(error.to_string()))?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(4);
    Ok(resolved
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(timeout)
        .boxed())
}

/// Hands out one [`Handler`] per connection.
struct Behaviour {
    gate: Gate,
    /// Who waits for an outbound connection.
    dialling: HashMap<ConnectionId, oneshot::Sender<Result<Opening, OpenError>>>,
    /// Where inbound connections go.
    inbound: mpsc::UnboundedSender<Inbound>,
    hello_timeout: Duration,
}

/// Reasons a connection is turned away before its hello.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("not an ed25519 peer")]
    Key,
    #[error("nobody waits for this connection")]
    Unwanted,
}

impl Behaviour {
    /// A handler and what its counterpart in our code waits with.
    fn connect(
        &self,
        peer: &PeerId,
        remote: Option<IpAddr>,
        role: Role,
    ) -> Result<(Handler, Opening), ConnectionDenied> {
        let peer = to_peer(peer).ok_or_else(|| ConnectionDenied::new(Denied::Key))?;
        let (stream_out, stream) = oneshot::channel();
        let (hold, released) = oneshot::channel();
        let handler = Handler {
            role,
            stream: Some(stream_out),
            released,
            alive: true,
            timeout: self.hello_timeout,
        };
        let opening = Opening {
            peer,
            remote,
            stream,
            hold,
        };
        Ok((handler, opening))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        let pass = self.gate.pass_for(local, remote);
        // It lost its slot to another one just now.
        let pass = pass.ok_or_else(|| ConnectionDenied::new(Denied::Unwanted))?;
        let (handler, opening) = self.connect(&peer, ip_of(remote), Role::Listener)?;
        self.inbound
            .send(Inbound { opening, pass })
            .map_err(|_| ConnectionDenied::new(Denied::Unwanted))?;
        Ok(handler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        let waiting = self.dialling.remove(&id);
        let waiting = waiting.ok_or_else(|| ConnectionDenied::new(Denied::Unwanted))?;
        let (handler, opening) = self.connect(&peer, ip_of(address), Role::Dialer { asked: false })?;
        waiting
            .send(Ok(opening))
            .map_err(|_| ConnectionDenied::new(Denied::Unwanted))?;
        Ok(handler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    /// Dials go through [`Swarm::dial`], everything else through the handlers.
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Dialer { asked: bool },
    Listener,
}

/// Negotiates the one stream of a connection and hands it over.
struct Handler {
    role: Role,
    /// Taken when the stream was handed over, or cannot come any more.
    stream: Option<oneshot::Sender<Result<Stream, OpenError>>>,
    /// Ends when the [`Hold`] is dropped.
    released: oneshot::Receiver<Infallible>,
    /// False after that; the swarm drops connections without stream or interest.
    alive: bool,
    timeout: Duration,
}

impl Handler {
    fn hand_over(&mut self, stream: Result<Stream, OpenError>) {
        if let Some(waiting) = self.stream.take() {
            reply(waiting, stream);
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    /// A second stream gets no time: it must not keep a connection that was given up.
    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        let timeout = if self.stream.is_some() {
            self.timeout
        } else {
            Duration::ZERO
        };
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()).with_timeout(timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        self.alive
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Infallible>> {
        if self.role == (Role::Dialer { asked: false }) {
            self.role = Role::Dialer { asked: true };
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()).with_timeout(self.timeout);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        if self.alive && std::pin::Pin::new(&mut self.released).poll(cx).is_ready() {
            self.alive = false;
            self.stream = None;
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. })
                if self.role == Role::Listener =>
            {
                self.hand_over(Ok(protocol));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.hand_over(Ok(protocol));
            }
            ConnectionEvent::DialUpgradeError(failure) => {
                self.hand_over(Err(match failure.error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Foreign,
                    StreamUpgradeError::Timeout | StreamUpgradeError::Io(_) => OpenError::Unreachable,
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }
}
