//! One running peer: what its parts share, and the tasks that move them.
//!
//! * [`core`]: ring and custody behind one lock.
//! * [`census`]: who is in the ring, for policies that place by all peers.
//! * [`compaction`]: gives dead space of the shard store back.
//! * [`driver`]: carries out what the two machines want: messages, timers, events.
//! * [`jobs`]: custody's effects on real shards: regenerate, copy, drop, commit.
//! * [`outside`]: how this peer looks to others.
//! * [`service`]: what other peers ask of this one.
//! * [`scrub`]: reads all shards again from time to time.
//! * [`shards`]: the one way to local shards; keeps store and custody in step.
//! * [`join`]: joining a network.
//! * [`membership`]: telling the ring about ourselves, and what is known of the others.
//! * [`upkeep`]: repair now, forget a peer, leave.
//! * [`stuck`]: what repair cannot mend.
//! * [`survey`]: whether the ring is one, as its peers see it.

pub(crate) mod census;
pub(crate) mod compaction;
pub(crate) mod core;
pub(crate) mod driver;
mod jobs;
pub(crate) mod join;
pub(crate) mod membership;
pub(crate) mod outside;
pub(crate) mod scrub;
pub(crate) mod service;
pub(crate) mod shards;
pub(crate) mod stuck;
pub(crate) mod survey;
pub(crate) mod upkeep;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mutualstore_dht::custody::Custody;
use mutualstore_dht::ring::Ring;
use mutualstore_dht::{Contact, Peer};
use tokio::sync::{Notify, Semaphore};
use zeroize::Zeroizing;

use self::census::Census;
use self::core::Core;
use self::scrub::Scrub;
use self::shards::{Shards, unix_ms};
use self::upkeep::Departure;
use crate::config::Config;
use crate::files::DataDir;
use crate::journal::Journal;
use crate::list::FileList;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::transfer::Transfers;
use crate::transfer::cache::BlockCache;
use crate::transfer::fetch_times::FetchTimes;
use crate::transfer::health::Away;
use crate::transfer::lease::Leases;
use crate::transfer::read_ahead::ReadAhead;
use crate::transfer::sweep::{Sweep, Watched};
use crate::transfer::turns::Turns;
use crate::wire::node::{NodeRequest, NodeResponse};
use crate::wire::shard::{ShardRequest, ShardResponse};
use crate::wire::signed::Verifier;
use mutualstore_net::{CallError, Net, Reason, Target};
use mutualstore_store::Store;

/// A block with its shards takes up to some 3 MiB for each MiB of a shard; this many are in memory at once.
const BLOCKS: usize = 8;
/// Beyond it, small files whose puts failed are taken back at the next start.
const TAKING_BACK: usize = 64;

/// What every part of a running peer shares.
pub(crate) struct Node {
    pub(crate) me: Peer,
    pub(crate) data: DataDir,
    pub(crate) config: Config,
    pub(crate) account: Zeroizing<[u8; 32]>,
    pub(crate) core: Core,
    pub(crate) shards: Shards,
    pub(crate) files: FileList<Watched>,
    pub(crate) journal: Journal,
    pub(crate) transfers: Transfers,
    pub(crate) leases: Leases,
    pub(crate) sweep: Sweep,
    pub(crate) cache: BlockCache,
    /// Blocks fetched for reads and not taken yet.
    pub(crate) read_ahead: ReadAhead,
    pub(crate) fetch_times: FetchTimes,
    /// Whom this peer reads copies from.
    pub(crate) turns: Turns,
    pub(crate) metrics: Metrics,
    pub(crate) scrub: Scrub,
    pub(crate) started: Instant,
    /// The same in Unix milliseconds.
    pub(crate) started_ms: u64,
    /// Blocks being coded, decoded or repaired at once: what bounds the memory of transfers.
    pub(crate) blocks: Arc<Semaphore>,
    /// Small files whose puts failed, being taken back at once.
    pub(crate) taking_back: Arc<Semaphore>,
    /// What deletions that were refused knew.
    pub(crate) away: Mutex<Away>,
    census: Mutex<Option<Arc<Census>>>,
    /// Taken by who walks the ring for it.
    counting: tokio::sync::Mutex<()>,
    network: RwLock<Network>,
    /// Lets in what other peers say of themselves, if they signed it.
    pub(crate) verifier: Arc<Verifier>,
    /// Where peers may be found whose entries in the address book they did not sign.
    hints: Vec<String>,
    /// Join addresses through which nobody was met yet, and why.
    unanswered: Mutex<BTreeMap<String, String>>,
    /// Who refused this peer last, and why.
    barred: Mutex<Option<(Reason, String)>>,
    book_changed: Notify,
    departure: Mutex<Departure>,
    leave_by_force: AtomicBool,
    /// This peer left the ring: the process ends.
    pub(crate) quit: Notify,
    /// Whether connections break because this peer stops.
    stopping: AtomicBool,
    net: OnceLock<Net>,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) me: Peer,
    pub(crate) data: DataDir,
    pub(crate) config: Config,
    pub(crate) account: Zeroizing<[u8; 32]>,
    pub(crate) network: Network,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) hints: Vec<String>,
    pub(crate) ring: Ring,
    pub(crate) custody: Custody,
    pub(crate) started: Instant,
    pub(crate) store: Store,
    pub(crate) files: FileList<Watched>,
    pub(crate) journal: Journal,
}

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

impl Node {
    /// A node at rest: nothing runs yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let cache = usize::try_from(parts.config.cache).unwrap_or(usize::MAX);
        let read_ahead = parts.config.read_ahead;
        Self {
            me: parts.me,
            data: parts.data,
            shards: Shards::new(parts.store, parts.config.tombstone_retention),
            config: parts.config,
            account: parts.account,
            core: Core::new(parts.ring, parts.custody, parts.started),
            files: parts.files,
            journal: parts.journal,
            transfers: Transfers::default(),
            leases: Leases::default(),
            sweep: Sweep::default(),
            cache: BlockCache::new(cache),
            read_ahead: ReadAhead::new(read_ahead),
            fetch_times: FetchTimes::default(),
            turns: Turns::default(),
            metrics: Metrics::default(),
            scrub: Scrub::default(),
            started: parts.started,
            started_ms: unix_ms(),
            blocks: Arc::new(Semaphore::new(BLOCKS)),
            taking_back: Arc::new(Semaphore::new(TAKING_BACK)),
            away: Mutex::default(),
            census: Mutex::default(),
            counting: tokio::sync::Mutex::default(),
            network: RwLock::new(parts.network),
            verifier: parts.verifier,
            hints: parts.hints,
            unanswered: Mutex::default(),
            barred: Mutex::default(),
            book_changed: Notify::new(),
            departure: Mutex::default(),
            leave_by_force: AtomicBool::new(false),
            quit: Notify::new(),
            stopping: AtomicBool::new(false),
            net: OnceLock::new(),
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

    /// The network as it is now.
    pub(crate) fn network(&self) -> Network {
        self.network
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn target(contact: &Contact) -> Target {
        Target {
            peer: contact.peer,
            addresses: contact.addresses.to_vec(),
        }
    }

    /// Asks another peer on its RPC stream.
    pub(crate) async fn ask(
        &self,
        contact: &Contact,
        request: &NodeRequest,
        deadline: Duration,
    ) -> Result<NodeResponse, AskError> {
        let net = self.net().ok_or(AskError::Silent(CallError::Closed))?;
        let body = net
            .call(&Self::target(contact), request.encode(), deadline)
            .await
            .map_err(AskError::Silent)?;
        match NodeResponse::decode(body, &self.verifier) {
            Ok(NodeResponse::Refused(reason)) => Err(AskError::Refused(reason)),
            Ok(response) => Ok(response),
            Err(malformed) => Err(AskError::Refused(malformed.to_string())),
        }
    }

    /// Asks another peer on its shard stream.
    pub(crate) async fn ask_shard(
        &self,
        contact: &Contact,
        request: &ShardRequest,
        payload: Bytes,
    ) -> Result<(ShardResponse, Bytes), AskError> {
        let net = self.net().ok_or(AskError::Silent(CallError::Closed))?;
        let answer = net
            .shard_call(&Self::target(contact), request.encode(), payload)
            .await;
        let (head, payload) = answer.map_err(AskError::Silent)?;
        let head =
            ShardResponse::decode(head).map_err(|malformed| AskError::Refused(malformed.to_string()))?;
        Ok((head, payload))
    }
}
