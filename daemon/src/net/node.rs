//! What the clones of a [`Net`](super::Net) share: opens, accepts and remembers connections.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use futures::FutureExt as _;
use libp2p::Multiaddr;
use lru::LruCache;
use mutualstore_dht::Peer;
use mutualstore_proto::hello::{Class, Reason, Refusal};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::count;
use super::frame::Frame;
use super::hello::{self, HelloFailure, Local, Remote};
use super::link::Link;
use super::rate::LinkRate;
use super::swarm::{self, Dial, Driver, DriverConfig, Inbound, Listening, OpenError, Wire};
use super::table::{AddError, SharedDial, Table};
use super::traffic::{self, End, LinkContext};
use super::{CallError, Dialed, NetConfig, NetCounters, NetworkInfo, Service, StartError, Target};

/// Refusals remembered so that each is logged once.
const MENTIONED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// See the module.
pub(super) struct Node {
    peer: Peer,
    /// Of this process.
    instance: [u8; 16],
    config: NetConfig,
    network: RwLock<NetworkInfo>,
    table: Mutex<Table>,
    dials: mpsc::UnboundedSender<Dial>,
    listening: Listening,
    counters: Arc<NetCounters>,
    context: Arc<LinkContext>,
    /// Refusals that were logged.
    mentioned: Mutex<LruCache<(Peer, Reason), ()>>,
    stop: CancellationToken,
    tasks: TaskTracker,
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

impl Node {
    pub(super) async fn start(
        seed: [u8; 32],
        config: NetConfig,
        service: Arc<dyn Service>,
    ) -> Result<Arc<Self>, StartError> {
        let (keypair, peer) = swarm::keypair(seed)?;
        let driver_config = DriverConfig {
            dial_timeout: config.dial_timeout,
            hello_timeout: config.hello_timeout,
            max_pending_hellos: config.max_pending_hellos,
        };
        let (driver, handles) = Driver::bind(&keypair, &config.listen, driver_config).await?;
        let counters = Arc::new(NetCounters::default());
        let context = Arc::new(LinkContext {
            service,
            counters: Arc::clone(&counters),
            rpc_budget: Arc::new(Semaphore::new(config.max_rpc_bytes as usize)),
            shard_budget: Arc::new(Semaphore::new(config.max_shard_requests)),
            max_rpc_bytes: config.max_rpc_bytes,
            idle: config.idle,
            progress_timeout: config.progress_timeout,
            rate: config.link_rate.map(LinkRate::new),
        });
        let node = Arc::new(Self {
            peer,
            instance: rand::random(),
            network: RwLock::new(config.network.clone()),
            config,
            table: Mutex::default(),
            dials: handles.dials,
            listening: handles.listening,
            counters,
            context,
            mentioned: Mutex::new(LruCache::new(MENTIONED)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        node.tasks.spawn(driver.run(node.stop.clone()));
        node.tasks.spawn(Arc::clone(&node).accept_all(handles.inbound));
        Ok(node)
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

    pub(super) fn listen_addresses(&self) -> Vec<String> {
        self.listening
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn contact_addresses(&self) -> Vec<String> {
        if !self.config.announce.is_empty() {
            return self.config.announce.clone();
        }
        let mut addresses = self.listen_addresses();
        addresses.sort_by_key(|text| swarm::is_loopback(text));
        addresses
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

    /// A call on `link` timed out; gives the link up if its peer has been silent for long.
    pub(super) fn suspect(&self, link: &Link) {
        if link.suspect(self.config.progress_timeout) {
            count(&self.counters.stalled, 1);
        }
    }

    /// The link for calls of `class`, dialled if there is none. Callers share the dial; it goes on without
    /// them.
    pub(super) async fn link(self: &Arc<Self>, to: &Target, class: Class) -> Result<Arc<Link>, CallError> {
        let dial = {
            let mut table = self.table();
            if let Some(link) = table.pick(self.peer, to.peer, class) {
                return Ok(link);
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
        let node = Arc::clone(self);
        let peer = to.peer;
        let dialling = async move {
            let opened = node.open(Some(peer), addresses, class, node.network()).await;
            // Forgotten only now that the link, if any, is in the table.
            node.table().dials.remove(&(peer, class));
            match opened {
                Ok((_, Some(link))) => Ok(link),
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

    /// Dials, says hello and starts the link; no link if the hello only was to learn the network.
    async fn open(
        self: &Arc<Self>,
        peer: Option<Peer>,
        addresses: Vec<Multiaddr>,
        class: Class,
        network: NetworkInfo,
    ) -> Result<(Dialed, Option<Arc<Link>>), OpenFailure> {
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
    ) -> Result<(Dialed, Option<Arc<Link>>), OpenFailure> {
        let connecting = timeout(self.config.dial_timeout, self.connect(peer, addresses));
        let mut wire = connecting.await.unwrap_or(Err(OpenFailure::Unreachable))?;
        let local = self.local(network);
        let hello = hello::dial(&mut wire.stream, wire.peer, &local, class);
        let remote = timeout(self.config.hello_timeout, hello).await;
        let remote = remote.map_err(|_| OpenFailure::Unreachable)?.map_err(|failure| {
            self.mention(wire.peer, &failure);
            failure
        })?;
        let dialed = Dialed {
            peer: wire.peer,
            contact: remote.contact.clone(),
            network: remote.network.clone(),
        };
        if remote.adopting {
            return Ok((dialed, None));
        }
        let admitted = self.admit(wire.peer, true, &remote).await;
        let (link, queue) = admitted.map_err(|refusal| match refusal.reason {
            Reason::TooManyConnections => OpenFailure::Busy,
            Reason::NotMutualStore
            | Reason::Version
            | Reason::WrongNetwork
            | Reason::WrongSecret
            | Reason::ParametersDiffer
            | Reason::DuplicateInstance
            | Reason::NoNetwork => OpenFailure::Declined(refusal),
        })?;
        self.spawn_link(Arc::clone(&link), wire, queue, remote.contact);
        Ok((dialed, Some(link)))
    }

    /// An open stream to `peer`, or to whoever is at the address. Addresses where somebody else answers are
    /// left out in favour of the others.
    pub(super) async fn connect(
        &self,
        peer: Option<Peer>,
        mut addresses: Vec<Multiaddr>,
    ) -> Result<Wire, OpenFailure> {
        loop {
            let (reply, opening) = oneshot::channel();
            let dial = Dial {
                peer,
                addresses: addresses.clone(),
                reply,
            };
            self.dials.send(dial).map_err(|_| OpenFailure::Unreachable)?;
            let opened = match opening.await.unwrap_or(Err(OpenError::Unreachable)) {
                Ok(opening) => opening.open().await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(wire) => return Ok(wire),
                Err(OpenError::Unreachable) => return Err(OpenFailure::Unreachable),
                Err(OpenError::Own) => return Err(OpenFailure::Own),
                Err(OpenError::Foreign) => return Err(OpenFailure::Refused(foreign())),
                Err(OpenError::WrongPeer(wrong)) => {
                    let before = addresses.len();
                    addresses.retain(|address| swarm::without_peer(address.clone()) != wrong);
                    if addresses.is_empty() || addresses.len() == before {
                        return Err(OpenFailure::Unreachable);
                    }
                }
            }
        }
    }

    async fn accept_all(self: Arc<Self>, mut inbound: mpsc::UnboundedReceiver<Inbound>) {
        while let Some(Some(inbound)) = self.stop.run_until_cancelled(inbound.recv()).await {
            let node = Arc::clone(&self);
            self.tasks.spawn(async move {
                let Inbound { opening, permit } = inbound;
                let stop = node.stop.clone();
                let accepting = timeout(node.config.hello_timeout, async {
                    if let Ok(wire) = opening.open().await {
                        node.accept(wire).await;
                    }
                });
                if let None | Some(Err(_)) = stop.run_until_cancelled(accepting).await {
                    tracing::debug!("inbound connection dropped in its hello");
                }
                drop(permit);
            });
        }
    }

    async fn accept(self: &Arc<Self>, mut wire: Wire) {
        let peer = wire.peer;
        match self.try_accept(&mut wire).await {
            Ok(Some((link, queue, contact))) => {
                count(&self.counters.accepted, 1);
                self.spawn_link(link, wire, queue, contact);
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
    ) -> Result<Option<(Arc<Link>, mpsc::Receiver<Frame>, Bytes)>, HelloFailure> {
        let proven = hello::listen(&mut wire.stream, wire.peer, &self.local(self.network())).await?;
        if proven.remote.adopting {
            hello::accept(&mut wire.stream, &proven).await?;
            hello::drain(&mut wire.stream).await;
            return Ok(None);
        }
        let (link, queue) = match self.admit(wire.peer, false, &proven.remote).await {
            Ok(admitted) => admitted,
            Err(refusal) => return Err(hello::refuse(&mut wire.stream, refusal).await),
        };
        let link = Registered {
            node: self,
            link: Some(link),
        };
        hello::accept(&mut wire.stream, &proven).await?;
        Ok(link.keep().map(|link| (link, queue, proven.remote.contact)))
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
            tracing::warn!(%peer, "no connection with a peer: {side}: {}", refusal.to_string().escape_debug());
        }
    }

    /// Makes room for a connection with a peer that proved itself and registers it.
    async fn admit(
        &self,
        peer: Peer,
        dialled: bool,
        remote: &Remote,
    ) -> Result<(Arc<Link>, mpsc::Receiver<Frame>), Refusal> {
        let (link, queue) = Link::new(
            peer,
            remote.class,
            dialled,
            remote.instance,
            self.stop.child_token(),
        );
        loop {
            let added = {
                let config = &self.config;
                self.table()
                    .add(&link, config.max_connections_per_peer, config.max_connections)
            };
            match added {
                Ok(()) => return Ok((link, queue)),
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

    /// Drops the links of other instances of `peer` if they are dead.
    async fn retire_instance(&self, peer: Peer, instance: [u8; 16]) -> Result<(), Refusal> {
        let Some(old) = self.table().other_instance(peer, instance) else {
            return Ok(());
        };
        if let Ok(Ok(())) = timeout(self.config.instance_timeout, old.ping()).await {
            let text = "two daemons run with the same identity".to_owned();
            return Err(Refusal {
                reason: Reason::DuplicateInstance,
                text,
            });
        }
        self.unregister(&old);
        Ok(())
    }

    fn spawn_link(
        self: &Arc<Self>,
        link: Arc<Link>,
        wire: Wire,
        queue: mpsc::Receiver<Frame>,
        contact: Bytes,
    ) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let peer = link.peer;
            node.context.service.hello(peer, contact);
            let end = traffic::run(Arc::clone(&link), wire, queue, Arc::clone(&node.context)).await;
            tracing::debug!(?peer, class = ?link.class, %end, "connection ended");
            let unexpected = match end {
                End::Bye => false,
                End::Stalled => {
                    count(&node.counters.stalled, 1);
                    true
                }
                End::Stopped | End::Lost(_) | End::Breach(_) => true,
            };
            let last = node.unregister(&link);
            if last && unexpected && !node.stop.is_cancelled() {
                node.context.service.disconnected(peer);
            }
        });
    }

    /// Forgets a link and drops its connection; whether it was its peer's last one.
    fn unregister(&self, link: &Arc<Link>) -> bool {
        link.stop.cancel();
        self.table().remove(link)
    }

    fn local(&self, network: NetworkInfo) -> Local {
        Local {
            peer: self.peer,
            network,
            instance: self.instance,
            contact: hello::bounded(self.context.service.contact()),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a link out of the table again unless the hello came to its end.
struct Registered<'a> {
    node: &'a Node,
    link: Option<Arc<Link>>,
}

impl Registered<'_> {
    fn keep(mut self) -> Option<Arc<Link>> {
        self.link.take()
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            self.node.unregister(link);
        }
    }
}

fn foreign() -> Refusal {
    Refusal {
        reason: Reason::NotMutualStore,
        text: "whoever answers there does not speak this protocol".to_owned(),
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
