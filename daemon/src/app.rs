//! The parts of a daemon put together: nothing else sees all of them.
//!
//! [`Membership`] has the ring and the other peers, [`ShardKeeper`] the local shards, [`Transfers`] the files
//! that go in and out, [`Maintenance`] the work that nobody waits for, [`Names`] what files are called. Each
//! uses those named before it, and none those behind: what goes the other way goes through [`Outlet`] and
//! [`Inbound`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mutualstore_dht::contact::virtual_nodes_for;
use mutualstore_dht::custody::{Custody, CustodyConfig, Effect};
use mutualstore_dht::ring::{self, Ring, RingConfig};
use mutualstore_dht::{Contact, Peer, PeerState, Signature, Time};
use mutualstore_net::{Net, NetConfig};
use mutualstore_store::{OpenError, OpenReport, Store, StoreConfig};
use mutualstore_tree::account::Account;
use tokio::task::JoinSet;

use crate::clock::unix_ms;
use crate::config::{Config, Settings};
use crate::datadir::files::{Book, BookEntry, DataDir, FileError};
use crate::datadir::journal::{Journal, Unfinished};
use crate::datadir::list::FileList;
use crate::datadir::network::Network;
use crate::error::Failure;
use crate::format::crypt::public_key;
use crate::keeper::records::RecordKeeper;
use crate::keeper::{ShardKeeper, usage};
use crate::maintenance::{Maintenance, compaction, scrub};
use crate::metrics::Metrics;
use crate::names::{self, Names};
use crate::peer::core::Core;
use crate::peer::driver::Outlet;
use crate::peer::{Membership, Parts, census, driver, join, membership};
use crate::serve::Inbound;
use crate::transfer::peer_client::PeerClient;
use crate::transfer::recover::Nameless;
use crate::transfer::{self, Transfers};
use crate::wire::signed::{Signer, Verifier};

/// Bounds of how long the ring waits for an answer: a peer on a busy machine is not dead, and one that was
/// killed is noticed by its broken connection anyway.
const DEADLINES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A daemon.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) member: Arc<Membership>,
    pub(crate) keeper: Arc<ShardKeeper>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) maintenance: Arc<Maintenance>,
    pub(crate) names: Arc<Names>,
    pub(crate) started: Instant,
    /// The same in Unix milliseconds.
    pub(crate) started_ms: u64,
}

/// A daemon at rest, and what its last life left.
pub(crate) struct Opened {
    pub(crate) app: App,
    pub(crate) unfinished: Vec<Unfinished>,
    pub(crate) report: OpenReport,
}

impl Outlet for App {
    fn perform(&self, effect: Effect) {
        self.maintenance.begin(effect);
    }

    fn peer_moved(&self, peer: Peer) {
        self.transfers.sweep.peer_moved(peer);
    }
}

impl App {
    /// The parts put together, at rest.
    fn new(
        parts: Parts,
        started: Instant,
        store: Store,
        account: &Account,
        transfers: impl FnOnce(PeerClient) -> Transfers,
    ) -> Result<Self, Failure> {
        let metrics = Arc::new(Metrics::default());
        let (core, retention) = (
            Arc::clone(&parts.core),
            parts.config.settings.tombstone_retention.0,
        );
        let keeper = Arc::new(ShardKeeper::new(store, retention, core, Arc::clone(&metrics)));
        let member = Arc::new(Membership::new(parts));
        let records = Arc::new(RecordKeeper::new(Arc::clone(&keeper), Arc::clone(&member)));
        let transfers = Arc::new(transfers(PeerClient {
            member: Arc::clone(&member),
            keeper: Arc::clone(&keeper),
            records,
            metrics,
        }));
        Ok(Self {
            member,
            keeper,
            maintenance: Arc::new(Maintenance::new(Arc::clone(&transfers))),
            names: Arc::new(Names::open(Arc::clone(&transfers), account)?),
            transfers,
            started,
            started_ms: unix_ms(),
        })
    }

    fn inbound(&self) -> Inbound {
        Inbound {
            member: Arc::clone(&self.member),
            keeper: Arc::clone(&self.keeper),
            records: Arc::clone(&self.transfers.peers.records),
            transfers: Arc::clone(&self.transfers),
            maintenance: Arc::clone(&self.maintenance),
        }
    }

    /// Listens for other peers; fails where an address cannot be listened at.
    pub(crate) async fn listen(&self) -> Result<(), Failure> {
        let seed = self.member.data.identity()?;
        let net = Net::start(*seed, net_config(&self.member), Arc::new(self.inbound())).await;
        self.member.remote.set_net(net.map_err(Failure::usage)?);
        self.member.publish_addresses();
        Ok(())
    }

    /// Begins all work that goes on as long as the daemon runs.
    pub(crate) fn spawn(&self, tasks: &mut JoinSet<()>, unfinished: Vec<Unfinished>) {
        let member = || Arc::clone(&self.member);
        let (keeper, directory) = (Arc::clone(&self.keeper), self.member.data.path().to_owned());
        tasks.spawn(driver::drive(member(), Arc::new(self.clone())));
        tasks.spawn(membership::keep_book(member()));
        tasks.spawn(census::keep(member()));
        tasks.spawn(join::follow_hints(member()));
        tasks.spawn(usage::keep_usage_published(keeper, directory));
        tasks.spawn(scrub::run(Arc::clone(&self.maintenance)));
        tasks.spawn(compaction::run(Arc::clone(&self.keeper)));
        #[cfg(feature = "adversary")]
        tasks.spawn(crate::adversary::liar::act(member()));
        tasks.spawn(transfer::sweep::run(Arc::clone(&self.transfers)));
        let (nameless, unfinished) = Nameless::split(&self.transfers, unfinished);
        tasks.spawn(transfer::recover::recover(
            Arc::clone(&self.transfers),
            unfinished,
        ));
        tasks.spawn(names::recover(Arc::clone(&self.names), nameless));
        tasks.spawn(transfer::cache::keep(Arc::clone(&self.transfers)));
        tasks.spawn(names::keep(Arc::clone(&self.names)));
    }

    /// Stops without leaving the ring: the peer comes back.
    pub(crate) async fn stop(&self, tasks: &mut JoinSet<()>) {
        self.hush(tasks).await;
        self.member.save_book();
        self.keeper.close().await;
        if let Err(error) = self.member.data.remove_daemon_info() {
            tracing::warn!(%error, "daemon.json stays behind");
        }
    }

    /// Ends everything that runs; nothing is written.
    pub(crate) async fn hush(&self, tasks: &mut JoinSet<()>) {
        self.member.remote.stop();
        tasks.shutdown().await;
        if let Some(net) = self.member.remote.net() {
            net.shutdown().await;
        }
    }
}

/// Everything that is opened before the first task runs.
pub(crate) async fn open(data: DataDir, config: Config, network: Network) -> Result<Opened, Failure> {
    let seed = data.identity()?;
    let account = data.account()?;
    let started = Instant::now();
    let (store, report) = open_store(&data, &config).await?;
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
    let custody = Custody::new(
        custody_config(&config.settings, &network),
        me,
        rand::random(),
        Time::ZERO,
    );
    let list = FileList::open(data.path(), &account)?;
    let (journal, unfinished) = Journal::open(data.path())?;
    let core = Arc::new(Core::new(ring, custody, started));
    let parts = Parts {
        me,
        core,
        config: Arc::new(config),
        data: Arc::new(data),
        network,
        verifier,
        hints,
    };
    let names = Account::new(*account);
    let app = App::new(parts, started, store, &names, |peers| {
        Transfers::new(peers, account, list, journal)
    })?;
    let mut announced = app.keeper.announce_all().await;
    if announced.is_ok() {
        announced = app.transfers.peers.records.announce_all().await;
    }
    announced
        .map_err(|error| Failure::disk(error.kind(), format!("cannot read the shard index: {error}")))?;
    // A peer that is full says so from the start.
    app.keeper.publish_usage();
    Ok(Opened {
        app,
        unfinished,
        report,
    })
}

async fn open_store(data: &DataDir, config: &Config) -> Result<(Store, OpenReport), Failure> {
    let directory = data.path().join("shards");
    let config = StoreConfig {
        capacity: config.settings.capacity.0,
        ..StoreConfig::default()
    };
    let opening = move || Store::open(&directory, config).map_err(|error| store_failed(error, &directory));
    tokio::task::spawn_blocking(opening)
        .await
        .map_err(Failure::unexpected)?
}

fn contact(
    files: &DataDir,
    config: &Config,
    network: &Network,
    peer: Peer,
    used: u64,
) -> Result<Contact, FileError> {
    let mut virtual_nodes = files.virtual_nodes()?;
    virtual_nodes.truncate(usize::from(virtual_nodes_for(
        config.settings.capacity.0,
        network.unit,
    )));
    virtual_nodes.sort_unstable();
    Ok(Contact {
        peer,
        version: unix_ms(),
        virtual_nodes: virtual_nodes.into(),
        addresses: [].into(),
        capacity: config.settings.capacity.0,
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

fn ring_config(config: &Config, network: &Network) -> RingConfig {
    RingConfig {
        r: successors(network),
        virtual_nodes: virtual_nodes_for(config.settings.capacity.0, network.unit),
        stabilize: config.settings.stabilize.0,
        deadlines: DEADLINES,
        ..RingConfig::default()
    }
}

fn custody_config(settings: &Settings, network: &Network) -> CustodyConfig {
    CustodyConfig {
        repair: settings.repair.is_on(),
        repair_delay: settings.repair_delay.0,
        pending_lease: settings.pending_lease.0,
        repair_rate: settings.repair_rate.map(|rate| rate.0),
        settle: settings.repair_delay.0.min(Duration::from_secs(5)),
        r: successors(network),
        ..CustodyConfig::default()
    }
}

fn net_config(member: &Membership) -> NetConfig {
    NetConfig {
        listen: member.config.settings.listen.clone(),
        announce: member.config.settings.announce.clone(),
        network: member.network_info(),
        link_rate: member.config.settings.link_rate.map(|rate| rate.0),
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
