//! Leaving a connection that leads nowhere any more.
//!
//! A connection does not break by itself when an address at one of its ends is gone: what was sent waits
//! for an acknowledgement, for many minutes. A peer with several addresses is reached sooner at another one.
//! Where nothing moved for [`STILL`] although an answer is due, and a ping is not answered within [`SILENT`],
//! the peer's other addresses are tried. When it answers at one, the silent connection is dropped, and with
//! it those of the same way that answer no ping either; what was asked on them is asked again. A peer without
//! another address is left to the timeouts.
//!
//! A slow line may look silent too. It is left once in a while at most (see [`Routes`](super::routes)), so
//! that what takes long comes to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use libp2p::Multiaddr;
use tokio::time::{Instant, sleep, timeout};

use super::addresses::ip_of;
use super::link::{AskError, Link, Way};
use super::node::Node;

/// Connections are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// One on which nothing moves for this long is asked whether it still leads anywhere,
const STILL: Duration = Duration::from_millis(500);
/// and leads nowhere if it does not answer for this long.
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
    /// Keeps looking for links on which nothing moves although an answer is due.
    pub(super) async fn watch_links(self: Arc<Self>) {
        let watching = async {
            loop {
                sleep(TICK).await;
                self.find_detours();
            }
        };
        self.stop.run_until_cancelled(watching).await;
    }

    /// Looks for other ways to the peers behind those links.
    fn find_detours(self: &Arc<Self>) {
        let stuck = |link: &Arc<Link>| link.is_stuck(STILL) && !link.detour.swap(true, Ordering::Relaxed);
        let stuck: Vec<Arc<Link>> = self.table().all().into_iter().filter(stuck).collect();
        for link in stuck {
            let node = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Some(dead) = link.stop.run_until_cancelled(node.detour(&link)).await {
                    for link in dead {
                        link.fail_calls(AskError::Moved);
                        link.stop.cancel();
                    }
                }
                link.detour.store(false, Ordering::Relaxed);
            });
        }
    }

    /// The links to the peer behind `link`, itself among them, that go the same way and lead nowhere; none
    /// unless the peer answers elsewhere.
    async fn detour(self: &Arc<Self>, link: &Arc<Link>) -> Vec<Arc<Link>> {
        let addresses = self.context.service.addresses(link.peer);
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        let others: Vec<Multiaddr> = addresses.filter(|address| link.way.is_another(address)).collect();
        if others.is_empty() {
            return Vec::new();
        }
        let same_way = |other: &&Arc<Link>| other.way.remote == link.way.remote;
        let beside: Vec<Arc<Link>> = self
            .table()
            .of(link.peer)
            .iter()
            .filter(same_way)
            .cloned()
            .collect();
        let asked = beside.into_iter().map(|link| async {
            let asked = timeout(SILENT, link.ping()).await;
            (asked.is_err() && link.activity.unheard() >= SILENT).then_some(link)
        });
        let dead: Vec<Arc<Link>> = join_all(asked).await.into_iter().flatten().collect();
        if !dead.iter().any(|other| Arc::ptr_eq(other, link))
            || !self.routes().may_detour(link.peer, link.class, Instant::now())
        {
            return Vec::new();
        }
        let opened = self
            .open(Some(link.peer), others, link.class, self.network())
            .await;
        if opened.is_err() {
            return Vec::new();
        }
        tracing::info!(peer = %link.peer, class = ?link.class, "silent: another address takes over");
        dead
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
