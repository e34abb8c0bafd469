//! From a data directory to a serving peer, and back to a clean stop.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mutualstore_contract::reply::DaemonFile;
use mutualstore_dht::contact::virtual_nodes_for;
use mutualstore_dht::custody::{Custody, CustodyConfig};
use mutualstore_dht::ring::{self, Ring, RingConfig};
use mutualstore_dht::{Contact, Peer, PeerState, Signature, Time};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::config::{Config, Overrides};
use crate::crypt::public_key;
use crate::error::Failure;
use crate::files::{Book, BookEntry, DataDir, FileError};
use crate::journal::{Journal, Unfinished};
use crate::list::FileList;
use crate::log::Log;
use crate::network::Network;
use crate::node::join::{self, Refused};
use crate::node::shards::unix_ms;
use crate::node::{Node, Parts, compaction, driver, membership, scrub, service::PeerService};
use crate::traces::Traces;
use crate::wire::signed::{Signer, Verifier};
use crate::{admission, api, spare, transfer};
use mutualstore_net::{Net, NetConfig, NetworkInfo};
use mutualstore_store::{OpenError, OpenReport, Store, StoreConfig};

/// A clean stop that takes longer than this is cut short: nothing acknowledged depends on it.
const STOP: Duration = Duration::from_secs(4);
/// Bounds of how long the ring waits for an answer: a peer on a busy machine is not dead, and one that was
/// killed is noticed by its broken connection anyway.
const DEADLINES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Threads that may wait for the disk or compute.
const BLOCKING_THREADS: usize = 48;

/// What is said of a network without a secret.
const OPEN: &str = "the network is open: whoever reaches one of its peers joins it, and can store, delay and \
                    destroy as a member can";

/// Runs a daemon on `directory` until it is told to stop. Logs go to standard error, the `ready` line to
/// standard output.
pub fn run(directory: &Path, overrides: Overrides) -> Result<(), Failure> {
    if !mutualstore_erasure::cpu_supported() {
        return Err(Failure::usage(
            "this processor has no AVX2, which the Reed-Solomon coder of this build needs",
        ));
    }
    raise_file_limit();
    let traces = Traces::before(directory);
    start(directory, overrides).map_err(|ended| match ended {
        Ended::Failed(failure) => failure,
        Ended::Refused(failure) => {
            traces.remove();
            failure
        }
    })
}

fn start(directory: &Path, overrides: Overrides) -> Result<(), Ended> {
    let data = DataDir::open(directory)?;
    let (config, given) = Config::load(directory, overrides).map_err(Ended::refused)?;
    let log = Log::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(1, 8)))
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(system)?;
    runtime.spawn(log.count_repeats());
    let outcome = runtime.block_on(serve(data, config, given));
    runtime.shutdown_timeout(Duration::from_millis(500));
    log.flush();
    outcome
}

/// Connections of peers and clients together are more than the files many systems allow a process at first.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// Everything that is opened before the first task runs.
async fn open(
    data: DataDir,
    config: Config,
    network: Network,
) -> Result<(Arc<Node>, Vec<Unfinished>, OpenReport), Failure> {
    let seed = data.identity()?;
    let account = data.account()?;
    let started = Instant::now();
    let directory = data.path().join("shards");
    let store_config = StoreConfig {
        capacity: config.capacity,
        ..StoreConfig::default()
    };
    let opening =
        move || Store::open(&directory, store_config).map_err(|error| store_failed(error, &directory));
    let opened = tokio::task::spawn_blocking(opening).await;
    let (store, report) = opened.map_err(Failure::unexpected)??;
    let me = Peer::new(public_key(&seed));
    let contact = contact(&data, &config, &network, me, store.used().committed_bytes)?;
    let verifier = Arc::new(Verifier::new(network.id));
    let signer = Arc::new(Signer::new(&seed, Arc::clone(&verifier)));
    let Book { entries, hints } = data.book(&verifier)?;
    let book = entries.into_iter().map(remembered).collect();
    let ring = Ring::new(
        ring_config(&config, &network),
        contact,
        book,
        rand::random(),
        Time::ZERO,
    )
    .signed_by(signer);
    let custody = Custody::new(custody_config(&config, &network), me, rand::random(), Time::ZERO);
    let list = FileList::open(data.path(), &account)?;
    let (journal, unfinished) = Journal::open(data.path())?;
    let parts = Parts {
        me,
        data,
        config,
        account,
        network,
        verifier,
        hints,
        ring,
        custody,
        started,
        store,
        files: list,
        journal,
    };
    let node = Arc::new(Node::new(parts));
    let announced = node.shards.announce_all(&node.core).await;
    announced
        .map_err(|error| Failure::disk(error.kind(), format!("cannot read the shard index: {error}")))?;
    // A peer that is full says so from the start.
    node.publish_usage();
    let net_config = net_config(&node);
    let net = Net::start(*seed, net_config, Arc::new(PeerService(Arc::clone(&node)))).await;
    let net = net.map_err(Failure::usage)?;
    node.set_net(net);
    node.publish_addresses();
    Ok((node, unfinished, report))
}

/// Says in what state the shard store was found; how much damage was found.
fn tell(report: &OpenReport) -> u64 {
    tracing::info!(
        clean = report.clean,
        shards = report.shards,
        segments = report.segments,
        scanned = report.scanned,
        read_errors = report.read_errors,
        "shard store"
    );
    for key in &report.damaged {
        tracing::warn!("CORRUPTED_BLOCK {}:{}", hex::encode(key.stripe), key.index);
    }
    let mut damaged = report.damaged.len() as u64;
    if report.skipped_bytes > 0 {
        damaged += 1;
        tracing::warn!(
            bytes = report.skipped_bytes,
            "between its records the shard store has bytes that are none"
        );
    }
    damaged
}

fn contact(
    files: &DataDir,
    config: &Config,
    network: &Network,
    peer: Peer,
    used: u64,
) -> Result<Contact, FileError> {
    let mut virtual_nodes = files.virtual_nodes()?;
    virtual_nodes.truncate(usize::from(virtual_nodes_for(config.capacity, network.unit)));
    virtual_nodes.sort_unstable();
    Ok(Contact {
        peer,
        version: unix_ms(),
        virtual_nodes: virtual_nodes.into(),
        addresses: [].into(),
        capacity: config.capacity,
        used,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    })
}

fn remembered(entry: BookEntry) -> ring::BookEntry {
    let age = (unix_ms() / 1000).saturating_sub(entry.last_seen);
    ring::BookEntry {
        contact: entry.contact,
        age: Duration::from_secs(age),
    }
}

fn successors(network: &Network) -> usize {
    usize::try_from(network.r).unwrap_or(usize::MAX)
}

pub(crate) fn ring_config(config: &Config, network: &Network) -> RingConfig {
    RingConfig {
        r: successors(network),
        virtual_nodes: virtual_nodes_for(config.capacity, network.unit),
        stabilize: config.stabilize,
        deadlines: DEADLINES,
        ..RingConfig::default()
    }
}

fn custody_config(config: &Config, network: &Network) -> CustodyConfig {
    CustodyConfig {
        repair: config.repair,
        repair_delay: config.repair_delay,
        pending_lease: config.pending_lease,
        repair_rate: config.repair_rate,
        settle: config.repair_delay.min(Duration::from_secs(5)),
        r: successors(network),
        ..CustodyConfig::default()
    }
}

fn net_config(node: &Node) -> NetConfig {
    NetConfig {
        listen: node.config.listen.clone(),
        announce: node.config.announce.clone(),
        network: node.network_info(),
        link_rate: node.config.link_rate,
        ..NetConfig::default()
    }
}

fn store_failed(error: OpenError, dir: &Path) -> Failure {
    match error {
        OpenError::DirInUse => Failure::usage("the shard store is in use by another daemon"),
        error @ OpenError::Format(_) => Failure::usage(format!(
            "{error}; what it holds is untouched; start the version that wrote it"
        )),
        OpenError::Io(source) => {
            let text = format!(
                "cannot open the shard store in {}: {source}; what it holds is untouched; is everything in \
                 it readable, and `segments` and `index` directories? The index may be removed: it is made \
                 again",
                dir.display()
            );
            Failure::disk(source.kind(), text)
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn system(error: std::io::Error) -> Failure {
    Failure::unexpected(format!("cannot start: {error}"))
}

/// What ends a daemon from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    stdin_closed: Arc<Notify>,
    /// Caught and left unread, it does not end the process: a terminal that closes, or who thinks that logs
    /// are rotated so, does no harm.
    _hang_up: Signal,
}

impl Signals {
    fn watch(config: &Config) -> std::io::Result<Self> {
        let stdin_closed = Arc::new(Notify::new());
        if config.exit_on_stdin_close {
            watch_stdin(Arc::clone(&stdin_closed))?;
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stdin_closed,
            _hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one; which it was.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = self.stdin_closed.notified() => "standard input closed",
        }
    }
}

/// How a daemon ends that failed.
enum Ended {
    Failed(Failure),
    /// What it was told does not fit, or those it was to join do not let it in: it never served, and what it
    /// made is taken away again.
    Refused(Failure),
}

impl Ended {
    fn refused(error: impl Into<Failure>) -> Self {
        Self::Refused(error.into())
    }
}

impl<E: Into<Failure>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

async fn serve(data: DataDir, config: Config, given: Overrides) -> Result<(), Ended> {
    let mut signals = Signals::watch(&config).map_err(system)?;
    let address = config.api;
    let refused = |error| {
        Failure::usage(format!(
            "cannot serve the HTTP API on {address}: {error}; choose another with --api"
        ))
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let api = listener.local_addr().map_err(refused)?;
    let joins_anew = given.joins_anew(data.path())?;
    let network = admission::network(&data, &config).map_err(Ended::Refused)?;
    let (node, unfinished, found) = open(data, config, network).await?;
    let token = node.data.token()?;
    let mut tasks = JoinSet::new();
    let (judge, verdict) = join::verdict();
    tasks.spawn(join::join(Arc::clone(&node), judge));
    // A member that starts again finds the others by itself, and serves at once.
    if joins_anew || !node.network().adopted {
        tokio::select! {
            refused = verdict.wait() => if let Some(refused) = refused {
                hush(&node, &mut tasks).await;
                node.shards.close().await;
                return Err(Ended::Refused(turned_away(&refused, &node, joins_anew)));
            },
            why = signals.next() => {
                tracing::info!("{why}");
                stop(&node, &mut tasks).await;
                return Ok(());
            }
        }
    } else {
        drop(verdict);
    }
    node.shards.bad.add(tell(&found));
    spawn_parts(&mut tasks, &node, unfinished);
    let serving = api::serve(Arc::clone(&node), listener, token);
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the HTTP API stopped");
        }
    });
    given.keep(node.data.path())?;
    let info = announce_ready(&node, api)?;
    tasks.spawn(membership::follow_addresses(Arc::clone(&node), info));
    let mut ended = Ok(());
    tokio::select! {
        part = panicked(&mut tasks) => {
            // Half a peer is worse than none: others would wait for it.
            ended = Err(Ended::Failed(Failure::unexpected(format!(
                "a part of the daemon failed ({part}); what is stored is safe, start it again"
            ))));
        }
        why = signals.next() => tracing::info!("{why}"),
        () = node.quit.notified() => tracing::info!("left the ring"),
    }
    if tokio::time::timeout(STOP, stop(&node, &mut tasks)).await.is_err() {
        tracing::warn!("stopped before everything was flushed; the next start rescans the shard store");
    }
    ended
}

fn spawn_parts(tasks: &mut JoinSet<()>, node: &Arc<Node>, unfinished: Vec<Unfinished>) {
    tasks.spawn(driver::drive(Arc::clone(node)));
    tasks.spawn(membership::keep_book(Arc::clone(node)));
    tasks.spawn(crate::node::census::keep(Arc::clone(node)));
    tasks.spawn(join::follow_hints(Arc::clone(node)));
    tasks.spawn(membership::tell_usage(Arc::clone(node)));
    tasks.spawn(scrub::run(Arc::clone(node)));
    tasks.spawn(compaction::run(Arc::clone(node)));
    #[cfg(feature = "adversary")]
    tasks.spawn(crate::adversary::liar::act(Arc::clone(node)));
    tasks.spawn(transfer::sweep::run(Arc::clone(node)));
    tasks.spawn(transfer::recover::recover(Arc::clone(node), unfinished));
    tasks.spawn(transfer::cache::keep(Arc::clone(node)));
}

/// What a person is told whose daemon was not let in.
fn turned_away(refused: &Refused, node: &Node, joins_anew: bool) -> Failure {
    let Refused { address, why } = refused;
    let (what, cure) = (why.what(), why.cure());
    let state = match (joins_anew, node.network().adopted) {
        (true, true) => "nothing was changed",
        (true, false) => "nothing was joined, and nothing of this start is kept",
        (false, _) => "nothing was joined; `join` in config.toml is as it was",
    };
    Failure::not_allowed(format!("{address} {what}; {state}; {cure}"))
}

/// Waits for a task that panics; others may end.
async fn panicked(tasks: &mut JoinSet<()>) -> tokio::task::JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => return error,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Stops without leaving the ring: the peer comes back.
async fn stop(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    hush(node, tasks).await;
    node.save_book();
    node.shards.close().await;
    if let Err(error) = node.data.remove_daemon_info() {
        tracing::warn!(%error, "daemon.json stays behind");
    }
}

/// Ends everything that runs; nothing is written.
async fn hush(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    node.stop();
    tasks.shutdown().await;
    if let Some(net) = node.net() {
        net.shutdown().await;
    }
}

fn announce_ready(node: &Node, api: std::net::SocketAddr) -> Result<DaemonFile, Failure> {
    let listen = node.listen_addresses();
    let mut config = node.config.clone();
    config.keep_ports(node.data.path(), &listen)?;
    let info = DaemonFile {
        pid: std::process::id(),
        peer: node.me.to_string(),
        api: format!("http://{api}"),
        listen,
        started: node.started_ms,
        lock: node.data.lock_id(),
    };
    spare::with(node.data.path(), || Ok(node.data.save_daemon_file(&info)?))?;
    let listen = info.listen.join(",");
    let open = if node.network().is_open() == Some(true) {
        tracing::warn!("{OPEN}");
        " network=open"
    } else {
        ""
    };
    say_ready(format!(
        "ready peer={} api={} listen={listen}{open}",
        info.peer, info.api
    ))
    .map_err(system)?;
    Ok(info)
}

/// On a thread of its own: standard output may be a pipe that nobody empties.
fn say_ready(line: String) -> std::io::Result<()> {
    let say = move || {
        let mut out = std::io::stdout().lock();
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            tracing::debug!(%error, "nobody reads standard output");
        }
    };
    std::thread::Builder::new()
        .name("ready".to_owned())
        .spawn(say)
        .map(drop)
}

/// A thread, because a read of standard input cannot be cancelled.
fn watch_stdin(closed: Arc<Notify>) -> std::io::Result<()> {
    let watch = move || {
        let mut sink = [0; 256];
        while matches!(std::io::stdin().read(&mut sink), Ok(read) if read > 0) {}
        closed.notify_one();
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(watch)
        .map(drop)
}

impl Node {
    /// The network as the transport wants it: none yet when it is only provisional.
    pub(crate) fn network_info(&self) -> NetworkInfo {
        let network = self.network();
        if network.adopted {
            NetworkInfo {
                id: network.id,
                secret: network.secret,
                unit: network.unit,
                r: network.r,
            }
        } else {
            NetworkInfo::default()
        }
    }
}
