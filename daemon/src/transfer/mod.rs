//! Files in and out: encryption, stripes, manifests, and the shards' way to their holders and back.
//!
//! * [`events`]: what a person is told while a transfer runs.
//! * [`peer_client`]: one question, or one shard, to or from one peer.
//! * [`fetch_times`]: when a shard is late.
//! * [`placing`]: one block to its n holders; [`stripes`]: one from them; [`second_look`]: what is asked
//!   before a read gives up.
//! * [`round_robin`]: whose copy is read.
//! * [`options`]: what a put is asked to do.
//! * [`put`], [`get`]: a file; [`lease`]: what keeps the shards of a put at their holders; [`commit`]: its
//!   end there; [`report`]: what the person hears of it.
//! * [`records`]: records of one key, as several peers have them.
//! * [`locate`]: what is left with the first peers of a stripe whose holders lie elsewhere.
//! * [`delete`]: the end of a file, by its owner.
//! * [`health`]: how stripes are doing, asked of their holders; [`sweep`]: how all files are doing,
//!   remembered.
//! * [`recover`]: what a crash left of puts and deletions in progress.
//! * [`cache`]: decoded blocks, bounded in bytes; [`read_ahead`]: the memory of all reads together.

pub(crate) mod cache;
pub(crate) mod commit;
pub(crate) mod delete;
pub(crate) mod events;
pub(crate) mod fetch_times;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod lease;
pub(crate) mod locate;
pub(crate) mod options;
pub(crate) mod peer_client;
pub(crate) mod placing;
pub(crate) mod put;
pub(crate) mod read_ahead;
pub(crate) mod records;
pub(crate) mod recover;
pub(crate) mod report;
pub(crate) mod round_robin;
mod second_look;
pub(crate) mod stripes;
pub(crate) mod sweep;

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use self::cache::BlockCache;
use self::events::Running;
use self::fetch_times::FetchTimes;
use self::health::Away;
use self::lease::Leases;
use self::peer_client::PeerClient;
use self::read_ahead::ReadAhead;
use self::round_robin::RoundRobin;
use self::sweep::{Sweep, Watched};
use crate::datadir::journal::Journal;
use crate::datadir::list::FileList;
use crate::keeper::ShardKeeper;
use crate::metrics::Metrics;
use crate::peer::Membership;

/// A block with its shards takes up to some 3 MiB for each MiB of a shard; this many are in memory at once.
const BLOCKS: usize = 8;
/// Beyond it, small files whose puts failed are taken back at the next start.
const TAKING_BACK: usize = 64;

/// The files that are put and read through this peer. It has twelve fields because a transfer crosses the
/// whole peer: the ring, the local shards, the other peers, and the account's list.
pub(crate) struct Transfers {
    pub(crate) member: Arc<Membership>,
    pub(crate) keeper: Arc<ShardKeeper>,
    pub(crate) peers: PeerClient,
    pub(crate) metrics: Arc<Metrics>,
    account: Zeroizing<[u8; 32]>,
    files: FileList<Watched>,
    pub(crate) running: Running,
    pub(crate) sweep: Sweep,
    reads: Reads,
    writes: Writes,
    /// Blocks being coded, decoded or repaired at once: what bounds the memory of transfers.
    pub(crate) blocks: Arc<Semaphore>,
    /// What deletions that were refused knew.
    away: Mutex<Away>,
}

/// What reads share.
struct Reads {
    cache: BlockCache,
    /// Blocks fetched and not taken yet.
    read_ahead: ReadAhead,
    fetch_times: FetchTimes,
    /// Whom this peer reads copies from.
    round_robin: RoundRobin,
}

/// What puts and deletions share.
struct Writes {
    journal: Journal,
    leases: Leases,
    /// Small files whose puts failed, being taken back at once.
    taking_back: Arc<Semaphore>,
}

impl Transfers {
    /// Nothing is on its way yet.
    pub(crate) fn new(
        peers: PeerClient,
        account: Zeroizing<[u8; 32]>,
        files: FileList<Watched>,
        journal: Journal,
    ) -> Self {
        let (member, keeper) = (Arc::clone(&peers.member), Arc::clone(&peers.keeper));
        let cache = usize::try_from(member.config.settings.cache.0).unwrap_or(usize::MAX);
        Self {
            reads: Reads {
                cache: BlockCache::new(cache),
                read_ahead: ReadAhead::new(member.config.settings.read_ahead.0),
                fetch_times: FetchTimes::default(),
                round_robin: RoundRobin::default(),
            },
            writes: Writes {
                journal,
                leases: Leases::default(),
                taking_back: Arc::new(Semaphore::new(TAKING_BACK)),
            },
            member,
            keeper,
            metrics: Arc::clone(&peers.metrics),
            peers,
            account,
            files,
            running: Running::default(),
            sweep: Sweep::default(),
            blocks: Arc::new(Semaphore::new(BLOCKS)),
            away: Mutex::default(),
        }
    }
}
