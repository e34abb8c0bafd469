//! What keeps the network healthy from here: repair, scrub, compaction, departure.
//!
//! * [`jobs`]: custody's effects on real shards: regenerate, copy, drop, commit; [`records`]: on signed
//!   records.
//! * [`scrub`]: reads all shards again from time to time.
//! * [`compaction`]: gives dead space of the shard store back.
//! * [`departure`]: repair now, forget a peer, leave.
//! * [`stuck`]: what repair cannot mend.

pub(crate) mod compaction;
pub(crate) mod departure;
mod jobs;
mod records;
pub(crate) mod scrub;
mod stuck;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use mutualstore_dht::custody::Effect;
use tokio::sync::Notify;

use self::departure::Departure;
use self::scrub::Scrub;
use crate::keeper::ShardKeeper;
use crate::metrics::Metrics;
use crate::peer::Membership;
use crate::transfer::Transfers;

/// The work on shards that nobody waits for.
pub(crate) struct Maintenance {
    member: Arc<Membership>,
    keeper: Arc<ShardKeeper>,
    transfers: Arc<Transfers>,
    metrics: Arc<Metrics>,
    pub(crate) scrub: Scrub,
    departure: Mutex<Departure>,
    leave_by_force: AtomicBool,
    /// This peer left the ring: the process ends.
    pub(crate) quit: Notify,
}

impl Maintenance {
    /// Nothing is being done yet.
    pub(crate) fn new(transfers: Arc<Transfers>) -> Self {
        Self {
            member: Arc::clone(&transfers.member),
            keeper: Arc::clone(&transfers.keeper),
            metrics: Arc::clone(&transfers.metrics),
            transfers,
            scrub: Scrub::default(),
            departure: Mutex::default(),
            leave_by_force: AtomicBool::new(false),
            quit: Notify::new(),
        }
    }

    /// Does what custody asked for, on a task of its own.
    pub(crate) fn begin(self: &Arc<Self>, effect: Effect) {
        tokio::spawn(jobs::perform(Arc::clone(self), effect));
    }
}
