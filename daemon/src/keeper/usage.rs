//! How full this peer is, as the ring is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mutualstore_contract::units::counted;
use mutualstore_dht::PeerState;
use mutualstore_dht::ring::SelfChange;

use super::ShardKeeper;
use crate::datadir::spare;

/// How full this peer is, and whether others could relieve it, is looked at this often even when nothing
/// comes or goes.
const USAGE_EVERY: Duration = Duration::from_secs(5);
/// Above this share of its capacity a peer is full, in percent,
pub(crate) const FULL_ABOVE: u64 = 95;
/// until it is below this one again.
const ACCEPTING_BELOW: u64 = 90;
/// Above this one, where only less capacity than before leads, it is relieved of shards until it is merely
/// full.
const OVERFULL_ABOVE: u64 = 100;

impl ShardKeeper {
    /// Whether this peer hands everything over, and is not only too full.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Release);
    }

    /// Why nobody could take over what this peer holds; none if they could.
    pub(crate) fn irreplaceable(&self) -> Option<String> {
        let (widest, takers) = self.core.read(|state| {
            let takers = state
                .engine
                .ring
                .alive()
                .filter(|contact| contact.state == PeerState::Accepting);
            (usize::from(state.engine.custody.widest()), takers.count())
        });
        (takers < widest).then(|| {
            format!(
                "stripes of {} need as many peers, and of the others {} can take shards now",
                counted(widest, "shard"),
                takers
            )
        })
    }

    /// Tells the ring how full this peer is, when that changed. One whose capacity was lowered below what it
    /// holds is relieved of shards like one that leaves, until the rest fits.
    pub(crate) fn publish_usage(&self) {
        let usage = self.usage();
        let used = usage.used();
        let percent = used.saturating_mul(100) / usage.capacity.max(1);
        let relieved = percent > FULL_ABOVE && self.irreplaceable().is_none();
        let leaving = self.leaving.load(Ordering::Acquire);
        self.core.with(|state, now| {
            let me = state.engine.ring.me();
            let next = match me.state {
                PeerState::Accepting | PeerState::Full if relieved && percent > OVERFULL_ABOVE => {
                    PeerState::Draining
                }
                PeerState::Accepting if percent >= FULL_ABOVE => PeerState::Full,
                PeerState::Full if percent < ACCEPTING_BELOW => PeerState::Accepting,
                PeerState::Draining if !leaving && !relieved => PeerState::Full,
                same @ (PeerState::Accepting | PeerState::Full | PeerState::Draining) => same,
            };
            if me.state != next || me.used != used {
                let change = SelfChange {
                    state: Some(next),
                    used: Some(used),
                    ..SelfChange::default()
                };
                state.engine.ring.update_self(now, change);
            }
        });
    }
}

/// Keeps the ring informed of how full this peer is, and some space back.
pub(crate) async fn keep_usage_published(keeper: Arc<ShardKeeper>, directory: PathBuf) {
    loop {
        keeper.publish_usage();
        spare::keep(&directory);
        tokio::time::sleep(USAGE_EVERY).await;
    }
}
