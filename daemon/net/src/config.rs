//! Settings of the transport, and what it counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zeroize::Zeroizing;

use super::Class;

/// The network a peer belongs to. All zero but for the secret: none yet; the next [`dial`](super::Net::dial)
/// learns one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Drawn when the network was founded; all zero: none yet.
    pub id: [u8; 32],
    /// What its members share; empty: the network is open.
    pub secret: Zeroizing<Vec<u8>>,
    /// Bytes of capacity per virtual shared; 0: not known yet.
    pub unit: u64,
    /// Distinct peers in a successor list; 0: not known yet.
    pub r: u32,
}

impl NetworkInfo {
    /// Whether id and parameters are known, so that others can be talked to as a member.
    pub fn is_complete(&self) -> bool {
        self.id != [0; 32] && self.unit != 0 && self.r != 0
    }
}

impl fmt::Debug for NetworkInfo {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkInfo")
            .field("id", &hex::encode(self.id))
            .field("unit", &self.unit)
            .field("r", &self.r)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`Net`](super::Net), flat: most callers set two and take the rest from the default.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Multiaddresses to listen on; port 0 takes a free one, 0.0.0.0 and :: take every interface.
    pub listen: Vec<String>,
    /// Multiaddresses to be known by instead of the listened ones, for instance behind a router.
    pub announce: Vec<String>,
    /// The network this peer belongs to.
    pub network: NetworkInfo,
    /// A connection without a frame for this long is closed by the side that dialled it.
    pub idle: Duration,
    /// From the start of a dial to an open stream, all addresses at once.
    pub dial_timeout: Duration,
    /// From the connection to the end of the hello.
    pub hello_timeout: Duration,
    /// A connection is given up when no byte moved for this long although a frame was half way or a
    /// shard request outstanding.
    pub progress_timeout: Duration,
    /// How long the older of two instances of one peer may take to answer a ping before it counts as dead.
    pub instance_timeout: Duration,
    /// Accepted connections in total.
    pub max_connections: usize,
    /// Accepted connections with one peer. Two classes dialled by both sides at once are 4; as many again
    /// that the other side has given up already may not have ended here yet.
    pub max_connections_per_peer: usize,
    /// Bytes of inbound requests being read and served, class rpc, all peers.
    pub max_rpc_bytes: u32,
    /// Inbound shard requests being read, served and answered, all peers; each is at most 1 MiB + 128 KiB
    /// both ways.
    pub max_shard_requests: usize,
    /// Bytes per second that all connections together send at most, and as many that they receive; none: no
    /// limit. Counts what [`ClassCounters`] count: frames with their headers, not the hello, nor what
    /// encryption, multiplexing (some 0.2 %) and TCP (some 4 %) add. A burst of 64 KiB, or of what flows in
    /// 10 ms if that is more, may go beyond it.
    pub link_rate: Option<u64>,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            listen: vec!["/ip4/0.0.0.0/tcp/0".to_owned()],
            announce: Vec::new(),
            network: NetworkInfo::default(),
            idle: Duration::from_mins(1),
            dial_timeout: Duration::from_secs(5),
            hello_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(10),
            instance_timeout: Duration::from_secs(2),
            max_connections: 1024,
            max_connections_per_peer: 8,
            max_rpc_bytes: 16 * 1024 * 1024,
            max_shard_requests: 64,
            link_rate: None,
        }
    }
}

/// What went over the connections of one class, frame headers included, encryption excluded.
#[derive(Debug, Default)]
pub struct ClassCounters {
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Bytes handed to the connection.
    pub bytes_out: AtomicU64,
    /// Frames read.
    pub frames_in: AtomicU64,
    /// Frames handed to the connection.
    pub frames_out: AtomicU64,
    /// Microseconds that frames read waited for [`NetConfig::link_rate`], the sum over the connections.
    pub waited_in_us: AtomicU64,
    /// Microseconds that frames to send waited for [`NetConfig::link_rate`], the sum over the connections.
    pub waited_out_us: AtomicU64,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Class rpc.
    pub rpc: ClassCounters,
    /// Class shards.
    pub shards: ClassCounters,
    /// Dials begun.
    pub dials: AtomicU64,
    /// Dials that ended without an accepted connection.
    pub dials_failed: AtomicU64,
    /// Inbound connections accepted.
    pub accepted: AtomicU64,
    /// Inbound connections refused by this peer in the hello.
    pub refused: AtomicU64,
    /// Connections given up because nothing moved.
    pub stalled: AtomicU64,
}

impl NetCounters {
    pub(super) fn class(&self, class: Class) -> &ClassCounters {
        match class {
            Class::Rpc => &self.rpc,
            Class::Shards => &self.shards,
        }
    }
}

/// Adds to a counter. Counters are read by people, so no order is asked for.
pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}
