//! Leaving a connection that leads nowhere any more.
//!
//! A connection does not break by itself when an address at one of its ends is gone: what was sent waits for
//! an acknowledgement, for many minutes. A peer with several addresses is reached sooner at another one. Where
//! nothing moved for [`SILENT`] although an answer is due, and a ping is not answered for as long, the peer's
//! other addresses are tried; when it answers at one, the silent connection is dropped, and what was asked on
//! it is asked again. A peer without another address is left to the timeouts.
//!
//! A slow line may look silent too. It is left once in a while at most (see [`Routes`](super::routes)), so
//! that what takes long comes to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p::Multiaddr;
use tokio::time::{Instant, timeout};

use super::addresses::ip_of;
use super::link::{AskError, Link, Way};
use super::node::Node;

/// A connection on which nothing moves for this long is asked whether it still leads anywhere.
pub(super) const SILENT: Duration = Duration::from_secs(1);

impl Way {
    /// Whether `address` may be another way to the same peer.
    fn is_another(&self, address: &Multiaddr) -> bool {
        match &self.dialled {
            Some(dialled) => address != dialled,
            None => self.remote.is_none() || ip_of(address) != self.remote,
        }
    }
}

impl Node {
    /// Looks for other ways to the peers behind links on which nothing moves although an answer is due.
    pub(super) fn find_detours(self: &Arc<Self>) {
        let stuck = |link: &Arc<Link>| link.is_stuck(SILENT) && !link.detour.swap(true, Ordering::Relaxed);
        let stuck: Vec<Arc<Link>> = self.table().all().into_iter().filter(stuck).collect();
        for link in stuck {
            let node = Arc::clone(self);
            self.tasks.spawn(async move {
                let looking = link.stop.run_until_cancelled(node.detour(&link)).await;
                if looking == Some(true) {
                    // Those on which an answer is due look for themselves.
                    let same = |other: &&Arc<Link>| {
                        other.way.remote == link.way.remote && !other.detour.load(Ordering::Relaxed)
                    };
                    let beside: Vec<_> = node.table().of(link.peer).iter().filter(same).cloned().collect();
                    link.fail_calls(AskError::Moved);
                    link.stop.cancel();
                    node.check(beside, SILENT);
                }
                link.detour.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Whether the peer behind `link` does not answer there and does elsewhere.
    async fn detour(self: &Arc<Self>, link: &Link) -> bool {
        let addresses = self.context.service.addresses(link.peer);
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        let others: Vec<Multiaddr> = addresses.filter(|address| link.way.is_another(address)).collect();
        if others.is_empty() {
            return false;
        }
        let asked = timeout(SILENT, link.ping()).await;
        if asked.is_ok() || link.activity.unheard() < SILENT {
            return false;
        }
        if !self.routes().may_detour(link.peer, link.class, Instant::now()) {
            return false;
        }
        let opened = self
            .open(Some(link.peer), others, link.class, self.network())
            .await;
        if opened.is_ok() {
            tracing::info!(peer = %link.peer, class = ?link.class, "a silent connection is left for another address");
        }
        opened.is_ok()
    }

    /// Gives up those of these links that do not answer within `limit` and were not heard of for as long.
    pub(super) fn check(self: &Arc<Self>, links: Vec<Arc<Link>>, limit: Duration) {
        for link in links {
            self.tasks.spawn(async move {
                let asked = timeout(limit, link.ping());
                let answered = link.stop.run_until_cancelled(asked).await;
                if let Some(Err(_)) = answered
                    && link.activity.unheard() >= limit
                {
                    tracing::debug!(peer = ?link.peer, class = ?link.class, "leads nowhere any more");
                    link.stop.cancel();
                }
            });
        }
    }
}
