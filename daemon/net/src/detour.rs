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
use super::connection::{AskError, Connection, SILENT, Way};
use super::shared::Shared;

/// Connections are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// One on which nothing moves for this long is asked whether it still leads anywhere.
const STILL: Duration = Duration::from_millis(500);

impl Way {
    /// Whether `address` may be another way to the same peer.
    fn is_another(&self, address: &Multiaddr) -> bool {
        match &self.dialled {
            Some(dialled) => address != dialled,
            None => self.remote.is_none() || ip_of(address) != self.remote,
        }
    }
}

impl Shared {
    /// Keeps looking for connections on which nothing moves although an answer is due.
    pub(super) async fn watch_links(self: Arc<Self>) {
        let watching = async {
            loop {
                sleep(TICK).await;
                self.find_detours();
            }
        };
        self.stop.run_until_cancelled(watching).await;
    }

    /// Looks for other ways to the peers behind those connections.
    fn find_detours(self: &Arc<Self>) {
        let stuck = |connection: &Arc<Connection>| {
            connection.is_stuck(STILL) && !connection.detour.swap(true, Ordering::Relaxed)
        };
        let stuck: Vec<Arc<Connection>> = self.table().all().into_iter().filter(stuck).collect();
        for connection in stuck {
            let shared = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Some(dead) = connection
                    .stop
                    .run_until_cancelled(shared.detour(&connection))
                    .await
                {
                    for connection in dead {
                        connection.fail_calls(AskError::Moved);
                        connection.stop.cancel();
                    }
                }
                connection.detour.store(false, Ordering::Relaxed);
            });
        }
    }

    /// The connections to the peer behind `connection`, itself among them, that go the same way and lead
    /// nowhere; none unless the peer answers elsewhere.
    async fn detour(self: &Arc<Self>, connection: &Arc<Connection>) -> Vec<Arc<Connection>> {
        let addresses = self.context.service.addresses(connection.peer);
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        let others: Vec<Multiaddr> = addresses
            .filter(|address| connection.way.is_another(address))
            .collect();
        if others.is_empty() {
            return Vec::new();
        }
        let same_way = |other: &&Arc<Connection>| other.way.remote == connection.way.remote;
        let beside: Vec<Arc<Connection>> = self
            .table()
            .of(connection.peer)
            .iter()
            .filter(same_way)
            .cloned()
            .collect();
        let asked = beside.into_iter().map(|connection| async {
            let asked = timeout(SILENT, connection.ping()).await;
            (asked.is_err() && connection.activity.unheard() >= SILENT).then_some(connection)
        });
        let dead: Vec<Arc<Connection>> = join_all(asked).await.into_iter().flatten().collect();
        if !dead.iter().any(|other| Arc::ptr_eq(other, connection))
            || !self
                .routes()
                .may_detour(connection.peer, connection.class, Instant::now())
        {
            return Vec::new();
        }
        let opened = self
            .open(Some(connection.peer), others, connection.class, self.network())
            .await;
        if opened.is_err() {
            return Vec::new();
        }
        let (peer, class) = (connection.peer, connection.class);
        tracing::info!(%peer, ?class, "silent: another address takes over");
        dead
    }

    /// Gives up those of these connections that do not answer within `limit` and were not heard of for as
    /// long.
    pub(super) fn check(self: &Arc<Self>, connections: Vec<Arc<Connection>>, limit: Duration) {
        for connection in connections {
            self.tasks.spawn(async move {
                let asked = timeout(limit, connection.ping());
                let answered = connection.stop.run_until_cancelled(asked).await;
                if let Some(Err(_)) = answered
                    && connection.activity.unheard() >= limit
                {
                    let (peer, class) = (connection.peer, connection.class);
                    tracing::debug!(%peer, ?class, "leads nowhere any more");
                    connection.stop.cancel();
                }
            });
        }
    }
}
