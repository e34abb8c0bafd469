//! From a data directory to a serving peer, and back to a clean stop.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mutualstore_dht::contact::virtual_nodes_for;
use mutualstore_dht::custody::{Custody, CustodyConfig};
use mutualstore_dht::ring::{self, Ring, RingConfig};
use mutualstore_dht::{Contact, Peer, PeerState, Signature, Time};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::config::{Config, Overrides};
use crate::crypt::public_key;
use crate::error::Failure;
use crate::files::{Book, BookEntry, DaemonInfo, DataDir, FileError};
use crate::journal::{Journal, Unfinished};
use crate::list::FileList;
use crate::log::Log;
use crate::net::{Net, NetConfig, NetworkInfo};
use crate::network::{Join, Network};
use crate::node::shards::unix_ms;
use crate::node::{Node, Parts, compaction, driver, membership, scrub, service::PeerService};
use crate::store::{OpenError, OpenReport, Store, StoreConfig};
use crate::wire::signed::{Signer, Verifier};
use crate::{api, spare, transfer};

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
    let data = DataDir::open(directory)?;
    let (config, given) = Config::load(directory, overrides)?;
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
async fn open(data: DataDir, config: Config) -> Result<(Arc<Node>, Vec<Unfinished>), Failure> {
    let seed = data.identity()?;
    let account = data.account()?;
    let network = network(&data, &config)?;
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
    let damaged = tell(&report);
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
    node.shards.bad.add(damaged);
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
    Ok((node, unfinished))
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

/// The network the data directory belongs to; else one founded here, or a provisional one with something to
/// join.
fn network(files: &DataDir, config: &Config) -> Result<Network, Failure> {
    if let Some(network) = files.network()?.filter(|network| network.adopted) {
        if config.network.is_some_and(|wanted| wanted != network.id) {
            let text = "this data directory belongs to another network than the configured one; use another \
                        directory, or drop `network` from the configuration";
            return Err(Failure::usage(text));
        }
        if config.open && network.is_open() == Some(false) {
            let text = "--open: this data directory belongs to a closed network, which stays closed; leave \
                        --open out, or found an open network in another directory";
            return Err(Failure::usage(text));
        }
        return Ok(network);
    }
    if config.open && config.join.iter().any(Join::has_secret) {
        let text = "--open founds an open network, and the invite leads into a closed one; give one of them";
        return Err(Failure::usage(text));
    }
    let (unit, r) = (config.founding_unit(), config.successors);
    let network = match (config.join.is_empty(), config.open) {
        (true, true) => founded(Network::found_open(unit, r), config),
        (true, false) => founded(Network::found(unit, r), config),
        (false, _) => Network::provisional(unit, r),
    };
    files.save_network(&network)?;
    Ok(network)
}

/// The network with the id that the configuration wants.
fn founded(network: Network, config: &Config) -> Network {
    Network {
        id: config.network.unwrap_or(network.id),
        ..network
    }
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

async fn serve(data: DataDir, config: Config, given: Overrides) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    // Caught and left unread, it does not end the process: a terminal that closes, or who thinks that logs
    // are rotated so, does no harm.
    let _hang_up = signal(SignalKind::hangup()).map_err(system)?;
    let stdin_closed = Arc::new(Notify::new());
    if config.exit_on_stdin_close {
        watch_stdin(Arc::clone(&stdin_closed)).map_err(system)?;
    }
    let address = config.api;
    let refused = |error| {
        Failure::usage(format!(
            "cannot serve the HTTP API on {address}: {error}; choose another with --api"
        ))
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let api = listener.local_addr().map_err(refused)?;
    let (node, unfinished) = open(data, config).await?;
    let token = node.data.token()?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(driver::drive(Arc::clone(&node)));
    tasks.spawn(membership::keep_book(Arc::clone(&node)));
    tasks.spawn(crate::node::census::keep(Arc::clone(&node)));
    tasks.spawn(membership::join(Arc::clone(&node)));
    tasks.spawn(membership::follow_hints(Arc::clone(&node)));
    tasks.spawn(membership::tell_usage(Arc::clone(&node)));
    tasks.spawn(scrub::run(Arc::clone(&node)));
    tasks.spawn(compaction::run(Arc::clone(&node)));
    #[cfg(feature = "adversary")]
    tasks.spawn(crate::adversary::liar::act(Arc::clone(&node)));
    tasks.spawn(transfer::sweep::run(Arc::clone(&node)));
    tasks.spawn(transfer::recover::recover(Arc::clone(&node), unfinished));
    tasks.spawn(transfer::cache::keep(Arc::clone(&node)));
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
            ended = Err(Failure::unexpected(format!(
                "a part of the daemon failed ({part}); what is stored is safe, start it again"
            )));
        }
        _ = terminate.recv() => tracing::info!("SIGTERM"),
        _ = interrupt.recv() => tracing::info!("SIGINT"),
        () = stdin_closed.notified() => tracing::info!("standard input closed"),
        () = node.quit.notified() => {
            if let Some(failure) = node.refused_by_network() {
                ended = Err(failure);
            } else {
                tracing::info!("left the ring");
            }
        },
    }
    if tokio::time::timeout(STOP, stop(&node, &mut tasks)).await.is_err() {
        tracing::warn!("stopped before everything was flushed; the next start rescans the shard store");
    }
    ended
}

/// Waits for a task that panics; others may end.
async fn panicked(tasks: &mut tokio::task::JoinSet<()>) -> tokio::task::JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => return error,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Stops without leaving the ring: the peer comes back.
async fn stop(node: &Arc<Node>, tasks: &mut tokio::task::JoinSet<()>) {
    node.stop();
    tasks.shutdown().await;
    if let Some(net) = node.net() {
        net.shutdown().await;
    }
    node.save_book();
    node.shards.close().await;
    if let Err(error) = node.data.remove_daemon_info() {
        tracing::warn!(%error, "daemon.json stays behind");
    }
}

fn announce_ready(node: &Node, api: std::net::SocketAddr) -> Result<DaemonInfo, Failure> {
    let listen = node.listen_addresses();
    let mut config = node.config.clone();
    config.keep_ports(node.data.path(), &listen)?;
    let info = DaemonInfo {
        pid: std::process::id(),
        peer: node.me.to_string(),
        api: format!("http://{api}"),
        listen,
        started: node.started_ms,
        lock: node.data.lock_id(),
    };
    spare::with(node.data.path(), || Ok(node.data.save_daemon_info(&info)?))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::SECRET;
    #[test]
    fn a_peer_that_waited_to_join_founds_a_network_when_there_is_nothing_to_join_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let joining = Config {
            capacity: 64 << 20,
            join: vec![Join::Address("/ip4/127.0.0.1/tcp/1".to_owned())],
            ..Config::default()
        };
        assert!(!network(&data, &joining).unwrap().adopted);
        let founding = Config {
            join: Vec::new(),
            ..joining.clone()
        };
        let founded = network(&data, &founding).unwrap();
        assert!(founded.adopted);
        assert_eq!(network(&data, &joining).unwrap(), founded);
        let elsewhere = Config {
            network: Some([7; 32]),
            ..founding
        };
        assert!(network(&data, &elsewhere).is_err());
        assert_eq!((founded.secret.len(), founded.is_open()), (SECRET, Some(false)));
        let open = Config {
            open: true,
            join: Vec::new(),
            ..joining
        };
        assert!(network(&data, &open).is_err());
        assert_eq!(data.network().unwrap(), Some(founded));
    }

    #[test]
    fn an_open_network_is_founded_only_when_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let open = Config {
            capacity: 64 << 20,
            open: true,
            ..Config::default()
        };
        let founded = network(&data, &open).unwrap();
        assert_eq!(founded.is_open(), Some(true));
        let again = Config {
            open: false,
            ..open.clone()
        };
        assert_eq!(network(&data, &again).unwrap(), founded);
        assert_eq!(network(&data, &open).unwrap(), founded);
    }
}
