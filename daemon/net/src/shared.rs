//! What the clones of a [`Net`](super::Net) share: opens, accepts and remembers connections.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use libp2p::Multiaddr;
use lru::LruCache;
use mutualstore_dht::Peer;
use mutualstore_proto::hello::{Class, Reason, Refusal};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::{self, Place};
use super::config::count;
use super::connection::{Connection, SILENT, Way};
use super::frame::Frame;
use super::gate::{Gate, Pass};
use super::hello::{self, HelloFailure, Local, Remote};
use super::rate::LinkRate;
use super::routes::Routes;
use super::swarm::{self, Dial, Driver, DriverConfig, Inbound, Wire};
use super::table::{AddError, SharedDial, Table};
use super::traffic::{self, ConnectionContext, End};
use super::{CallError, Dialed, NetConfig, NetCounters, NetworkInfo, Service, StartError, Target};

/// Refusals remembered so that each is logged once.
const MENTIONED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Addresses come and go together; they are looked at this long after the first one did,
const SETTLE: Duration = Duration::from_millis(250);
/// and this often even when the system reported nothing: it does not when an interface loses its carrier.
const LOOK: Duration = Duration::from_millis(500);

/// See the module. Its parts lock for themselves, so that a slow dial holds up no call.
pub(super) struct Shared {
    peer: Peer,
    /// Of this process.
    instance: [u8; 16],
    config: NetConfig,
    network: RwLock<NetworkInfo>,
    table: Mutex<Table>,
    pub(super) dials: mpsc::UnboundedSender<Dial>,
    gate: Gate,
    listeners: Vec<SocketAddr>,
    announced: Vec<Multiaddr>,
    place: RwLock<Arc<Place>>,
    changed: watch::Sender<()>,
    /// Whether a member was met on this machine.
    met_here: AtomicBool,
    routes: Mutex<Routes>,
    counters: Arc<NetCounters>,
    pub(super) context: Arc<ConnectionContext>,
    /// Refusals that were logged.
    mentioned: Mutex<LruCache<(Peer, Reason), ()>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Why no connection came about.
#[derive(Clone, Debug)]
pub(super) enum OpenFailure {
    Unreachable,
    Own,
    /// In the hello: the two sides do not fit.
    Refused(Refusal),
    /// By this side, after a hello that went well.
    Declined(Refusal),
    /// Our own limit.
    Busy,
}

impl Shared {
    pub(super) async fn start(
        seed: [u8; 32],
        config: NetConfig,
        service: Arc<dyn Service>,
    ) -> Result<Arc<Self>, StartError> {
        let (keypair, peer) = swarm::keypair(seed)?;
        let driver_config = DriverConfig {
            dial_timeout: config.dial_timeout,
            hello_timeout: config.hello_timeout,
        };
        let (driver, handles) = Driver::bind(&keypair, &config.listen, driver_config)?;
        let counters = Arc::new(NetCounters::default());
        let context = Arc::new(ConnectionContext {
            service,
            counters: Arc::clone(&counters),
            rpc_budget: Arc::new(Semaphore::new(config.max_rpc_bytes as usize)),
            shard_budget: Arc::new(Semaphore::new(config.max_shard_requests)),
            max_rpc_bytes: config.max_rpc_bytes,
            idle: config.idle,
            progress_timeout: config.progress_timeout,
            rate: config.link_rate.map(LinkRate::new),
        });
        let announced = config
            .announce
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let shared = Arc::new(Self {
            peer,
            instance: rand::random(),
            network: RwLock::new(config.network.clone()),
            config,
            table: Mutex::default(),
            dials: handles.dials,
            gate: handles.gate,
            listeners: handles.listeners,
            announced,
            place: RwLock::default(),
            changed: watch::Sender::new(()),
            met_here: AtomicBool::new(false),
            routes: Mutex::default(),
            counters,
            context,
            mentioned: Mutex::new(LruCache::new(MENTIONED)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.look().await;
        shared.tasks.spawn(driver.run(shared.stop.clone()));
        shared.tasks.spawn(Arc::clone(&shared).follow(handles.moved));
        shared.tasks.spawn(Arc::clone(&shared).watch_links());
        shared
            .tasks
            .spawn(Arc::clone(&shared).accept_all(handles.inbound));
        Ok(shared)
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn config(&self) -> &NetConfig {
        &self.config
    }

    pub(super) fn counters(&self) -> &NetCounters {
        &self.counters
    }

    /// Where this peer is.
    pub(super) fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn address_changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether loopback addresses of others are of use.
    pub(super) fn is_on_loopback(&self) -> bool {
        self.met_here.load(Ordering::Relaxed) || self.place().is_on_loopback()
    }

    pub(super) fn usable_addresses(&self, addresses: &[String]) -> Vec<String> {
        let (place, on_loopback) = (self.place(), self.is_on_loopback());
        let of_use = |text: &&String| {
            let address = text.parse::<Multiaddr>();
            address.is_ok_and(|address| place.may_dial(&address, on_loopback))
        };
        addresses.iter().filter(of_use).cloned().collect()
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the picture of this peer's addresses true.
    async fn follow(self: Arc<Self>, moved: Arc<Notify>) {
        let following = async {
            loop {
                if timeout(LOOK, moved.notified()).await.is_ok() {
                    tokio::time::sleep(SETTLE).await;
                }
                let before = self.place();
                if self.look().await {
                    self.moved(&before);
                }
            }
        };
        self.stop.run_until_cancelled(following).await;
    }

    /// The addresses are others than `before`.
    fn moved(self: &Arc<Self>, before: &Place) {
        let place = self.place();
        self.routes().moved();
        if before.listening.iter().any(|address| !place.is_own(address)) {
            let connections = self.table().all();
            self.check(connections, SILENT);
        }
        self.changed.send_replace(());
    }

    /// Looks at the interfaces; whether anything changed.
    async fn look(&self) -> bool {
        // A machine with thousands of interfaces takes its time.
        let listing = tokio::task::spawn_blocking(addresses::interfaces).await;
        let listed = listing.unwrap_or_else(|error| Err(error.into()));
        let mut known = self.place.write().unwrap_or_else(PoisonError::into_inner);
        let interfaces = match listed {
            Ok(interfaces) => interfaces,
            Err(error) if known.listening.is_empty() => {
                tracing::warn!(%error, "cannot list the interfaces; give --listen or --announce the address \
                                        of one");
                addresses::assumed(&self.listeners)
            }
            Err(_) => return false,
        };
        let before = if self.met_here.load(Ordering::Relaxed) {
            &[]
        } else {
            known.published.as_slice()
        };
        let place = Place::new(&self.listeners, &self.announced, before, interfaces);
        let changed = **known != place;
        if changed {
            *known = Arc::new(place);
        }
        changed
    }

    pub(super) fn network(&self) -> NetworkInfo {
        self.network
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn adopt(&self, network: NetworkInfo) {
        *self.network.write().unwrap_or_else(PoisonError::into_inner) = network;
    }

    #[cfg(test)]
    pub(super) fn is_connected(&self, peer: Peer) -> bool {
        !self.table().of(peer).is_empty()
    }

    pub(super) fn connections(&self) -> usize {
        self.table().total()
    }

    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A call on `connection` timed out; gives the connection up if its peer has been silent for long.
    pub(super) fn suspect(&self, connection: &Connection) {
        if connection.suspect(self.config.progress_timeout) {
            count(&self.counters.stalled, 1);
        }
    }

    /// The connection for calls of `class`, dialled if there is none. Callers share the dial; it goes on
    /// without them.
    pub(super) async fn connection(
        self: &Arc<Self>,
        to: &Target,
        class: Class,
    ) -> Result<Arc<Connection>, CallError> {
        let dial = {
            let mut table = self.table();
            if let Some(connection) = table.pick(self.peer, to.peer, class) {
                return Ok(connection);
            }
            let key = (to.peer, class);
            if let Some(dial) = table.dials.get(&key) {
                dial.clone()
            } else {
                let dial = self.spawn_dial(to, class);
                table.dials.insert(key, dial.clone());
                dial
            }
        };
        dial.await
    }

    fn spawn_dial(self: &Arc<Self>, to: &Target, class: Class) -> SharedDial {
        let addresses = to.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let shared = Arc::clone(self);
        let peer = to.peer;
        let dialling = async move {
            let opened = shared.open(Some(peer), addresses, class, shared.network()).await;
            // Forgotten only now that the connection, if any, is in the table.
            shared.table().dials.remove(&(peer, class));
            match opened {
                Ok((_, Some(connection))) => Ok(connection),
                // A peer without a network calls nobody.
                Ok((_, None)) => Err(CallError::Refused(
                    "this peer has not joined a network".to_owned(),
                )),
                Err(failure) => Err(failure.into()),
            }
        };
        let dialling = self.tasks.spawn(dialling);
        dialling
            .map(|done| done.unwrap_or(Err(CallError::Closed)))
            .boxed()
            .shared()
    }

    /// Dials one address as a peer of `network`.
    pub(super) async fn dial(
        self: &Arc<Self>,
        address: Multiaddr,
        network: NetworkInfo,
    ) -> Result<Dialed, OpenFailure> {
        if swarm::named_peer(&address) == Some(self.peer) {
            return Err(OpenFailure::Own);
        }
        let (dialed, _) = self.open(None, vec![address], Class::Rpc, network).await?;
        Ok(dialed)
    }

    /// Dials, says hello and starts the connection; no connection if the hello only was to learn the network.
    pub(super) async fn open(
        self: &Arc<Self>,
        peer: Option<Peer>,
        addresses: Vec<Multiaddr>,
        class: Class,
        network: NetworkInfo,
    ) -> Result<(Dialed, Option<Arc<Connection>>), OpenFailure> {
        count(&self.counters.dials, 1);
        let opening = self
            .stop
            .run_until_cancelled(self.try_open(peer, addresses, class, network));
        let opened = opening.await.unwrap_or(Err(OpenFailure::Unreachable));
        if let Err(failure) = &opened {
            tracing::debug!(?peer, ?failure, "no connection");
            count(&self.counters.dials_failed, 1);
        }
        opened
    }

    async fn try_open(
        self: &Arc<Self>,
        peer: Option<Peer>,
        addresses: Vec<Multiaddr>,
        class: Class,
        network: NetworkInfo,
    ) -> Result<(Dialed, Option<Arc<Connection>>), OpenFailure> {
        let connecting = timeout(self.config.dial_timeout, self.connect(peer, addresses));
        let mut wire = connecting.await.unwrap_or(Err(OpenFailure::Unreachable))?;
        let local = self.local(network);
        let hello = hello::dial(&mut wire.stream, wire.peer, &local, class);
        let remote = timeout(self.config.hello_timeout, hello).await;
        let remote = remote
            .map_err(|_| OpenFailure::Unreachable)?
            .inspect_err(|failure| {
                // Who dials an address says itself what came of it.
                if peer.is_some() {
                    self.mention(wire.peer, failure);
                }
            })?;
        let dialed = Dialed {
            peer: wire.peer,
            contact: remote.contact.clone(),
            instance: remote.instance,
            network: remote.network.clone(),
        };
        if remote.adopting {
            return Ok((dialed, None));
        }
        let admitted = self.admit(wire.peer, wire.way.clone(), &remote).await;
        let (connection, queue) = admitted.map_err(|refusal| match refusal.reason {
            Reason::TooManyConnections => OpenFailure::Busy,
            Reason::NotMutualStore
            | Reason::Version
            | Reason::WrongNetwork
            | Reason::WrongSecret
            | Reason::ParametersDiffer
            | Reason::DuplicateInstance
            | Reason::NoNetwork => OpenFailure::Declined(refusal),
        })?;
        self.spawn_link(Arc::clone(&connection), wire, queue, remote.contact);
        Ok((dialed, Some(connection)))
    }

    async fn accept_all(self: Arc<Self>, mut inbound: mpsc::UnboundedReceiver<Inbound>) {
        while let Some(Some(inbound)) = self.stop.run_until_cancelled(inbound.recv()).await {
            let shared = Arc::clone(&self);
            self.tasks.spawn(async move {
                let Inbound { opening, pass } = inbound;
                let stop = shared.stop.clone();
                let accepting = timeout(shared.config.hello_timeout, async {
                    if let Ok(wire) = opening.open().await {
                        shared.accept(wire, pass).await;
                    }
                });
                if let None | Some(Err(_)) = stop.run_until_cancelled(accepting).await {
                    tracing::debug!("inbound connection dropped in its hello");
                }
            });
        }
    }

    async fn accept(self: &Arc<Self>, mut wire: Wire, pass: Pass) {
        let peer = wire.peer;
        match self.try_accept(&mut wire, pass).await {
            Ok(Some((connection, queue, contact))) => {
                count(&self.counters.accepted, 1);
                self.spawn_link(connection, wire, queue, contact);
            }
            Ok(None) => {}
            Err(failure) => {
                tracing::debug!(?peer, %failure, "inbound connection not accepted");
                self.mention(peer, &failure);
                if let HelloFailure::Refusing(_) = failure {
                    count(&self.counters.refused, 1);
                }
            }
        }
    }

    async fn try_accept(
        self: &Arc<Self>,
        wire: &mut Wire,
        pass: Pass,
    ) -> Result<Option<(Arc<Connection>, mpsc::Receiver<Frame>, Bytes)>, HelloFailure> {
        let proven = hello::listen(&mut wire.stream, wire.peer, &self.local(self.network())).await?;
        pass.admit();
        if proven.remote.adopting {
            hello::accept(&mut wire.stream, &proven).await?;
            hello::drain(&mut wire.stream).await;
            return Ok(None);
        }
        let admitted = match self.check_elsewhere(wire.peer, &proven.remote).await {
            Ok(()) => self.admit(wire.peer, wire.way.clone(), &proven.remote).await,
            Err(refusal) => Err(refusal),
        };
        let (connection, queue) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return Err(hello::refuse(&mut wire.stream, refusal).await),
        };
        let connection = Registered {
            shared: self,
            connection: Some(connection),
        };
        hello::accept(&mut wire.stream, &proven).await?;
        Ok(connection
            .keep()
            .map(|connection| (connection, queue, proven.remote.contact)))
    }

    /// Tells people once of each peer that does not fit for good, and why.
    fn mention(&self, peer: Peer, failure: &HelloFailure) {
        let (side, refusal) = match failure {
            HelloFailure::Refused(refusal) => ("it refuses", refusal),
            HelloFailure::Refusing(refusal) => ("this one refuses", refusal),
            HelloFailure::Io(_) => return,
        };
        let mut mentioned = self.mentioned.lock().unwrap_or_else(PoisonError::into_inner);
        if refusal.reason.is_lasting() && mentioned.put((peer, refusal.reason), ()).is_none() {
            let why = refusal.to_string();
            tracing::warn!(%peer, "no connection with a peer: {side}: {}", why.escape_debug());
        }
    }

    /// Makes room for a connection with a peer that proved itself and registers it.
    async fn admit(
        &self,
        peer: Peer,
        way: Way,
        remote: &Remote,
    ) -> Result<(Arc<Connection>, mpsc::Receiver<Frame>), Refusal> {
        let (connection, queue) =
            Connection::new(peer, remote.class, way, remote.instance, self.stop.child_token());
        loop {
            let added = {
                let config = &self.config;
                self.table().add(
                    &connection,
                    config.max_connections_per_peer,
                    config.max_connections,
                )
            };
            match added {
                Ok(()) => return Ok((connection, queue)),
                Err(error @ AddError::Limit) => {
                    let text = error.to_string();
                    return Err(Refusal {
                        reason: Reason::TooManyConnections,
                        text,
                    });
                }
                Err(AddError::Instance) => self.retire_instance(peer, remote.instance).await?,
            }
        }
    }

    fn spawn_link(
        self: &Arc<Self>,
        connection: Arc<Connection>,
        wire: Wire,
        queue: mpsc::Receiver<Frame>,
        contact: Bytes,
    ) {
        let shared = Arc::clone(self);
        if let Some(ip) = wire.way.remote {
            self.routes().called_from(connection.peer, ip);
            if self.place().is_here(ip) {
                self.met_here.store(true, Ordering::Relaxed);
            }
        }
        let quiet =
            |other: &&Arc<Connection>| !Arc::ptr_eq(other, &connection) && other.activity.unheard() >= SILENT;
        let older = self
            .table()
            .of(connection.peer)
            .iter()
            .filter(quiet)
            .cloned()
            .collect();
        // A side that is held up lets hear of itself more often than that.
        self.check(older, self.config.progress_timeout / 2);
        self.tasks.spawn(async move {
            let peer = connection.peer;
            shared.context.service.hello(peer, contact);
            let end = traffic::run(Arc::clone(&connection), wire, queue, Arc::clone(&shared.context)).await;
            tracing::debug!(?peer, class = ?connection.class, %end, "connection ended");
            let unexpected = match end {
                End::Bye => false,
                End::Stalled => {
                    count(&shared.counters.stalled, 1);
                    true
                }
                End::Stopped | End::Lost(_) | End::Breach(_) => true,
            };
            let last = shared.unregister(&connection);
            if last && unexpected && !shared.stop.is_cancelled() {
                shared.context.service.disconnected(peer);
            }
        });
    }

    /// Forgets a connection and drops it; whether it was its peer's last one.
    pub(super) fn unregister(&self, connection: &Arc<Connection>) -> bool {
        connection.stop.cancel();
        self.table().remove(connection)
    }

    fn local(&self, network: NetworkInfo) -> Local {
        Local {
            peer: self.peer,
            network,
            instance: self.instance,
            contact: hello::bounded(self.context.service.contact()),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection out of the table again unless the hello came to its end.
struct Registered<'a> {
    shared: &'a Shared,
    connection: Option<Arc<Connection>>,
}

impl Registered<'_> {
    fn keep(mut self) -> Option<Arc<Connection>> {
        self.connection.take()
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.shared.unregister(connection);
        }
    }
}

impl From<HelloFailure> for OpenFailure {
    fn from(failure: HelloFailure) -> Self {
        match failure {
            HelloFailure::Refused(refusal) | HelloFailure::Refusing(refusal) => Self::Refused(refusal),
            HelloFailure::Io(_) => Self::Unreachable,
        }
    }
}
