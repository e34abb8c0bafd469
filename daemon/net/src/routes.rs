//! What earlier dials taught about the addresses of peers: where each answered last, and where somebody else
//! did.
//!
//! Bounded: of more peers or addresses than the limits, those not used for the longest time are forgotten.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::Multiaddr;
use lru::LruCache;
use mutualstore_dht::Peer;
use tokio::time::Instant;

use super::Class;
use super::addresses::ip_of;

/// An address at which somebody else answers is not dialled in search of the same peer for this long.
pub(super) const DROPPED: Duration = Duration::from_mins(1);
/// Peers whose best address is remembered.
const PEERS: NonZeroUsize = NonZeroUsize::new(4096).expect("not 0");
/// Addresses dropped.
const ADDRESSES: NonZeroUsize = NonZeroUsize::new(4096).expect("not 0");

/// A peer is given another way than the one that works slowly at most this often.
const DETOURS: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct Routes {
    best: LruCache<Peer, Multiaddr>,
    dropped: LruCache<(Peer, Multiaddr), Instant>,
    detoured: LruCache<(Peer, Class), Instant>,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            best: LruCache::new(PEERS),
            dropped: LruCache::new(ADDRESSES),
            detoured: LruCache::new(PEERS),
        }
    }
}

impl Routes {
    /// `peer` answered at `address`.
    pub(super) fn answered(&mut self, peer: Peer, address: Multiaddr) {
        self.dropped.pop(&(peer, address.clone()));
        self.best.put(peer, address);
    }

    /// Somebody else than `peer`, perhaps this peer itself, answered at `address`.
    pub(super) fn drop_for(&mut self, peer: Peer, address: Multiaddr, now: Instant) {
        if self.best.peek(&peer) == Some(&address) {
            self.best.pop(&peer);
        }
        self.dropped.put((peer, address), now + DROPPED);
    }

    /// `peer` itself called from `ip`: nobody else has that address now.
    pub(super) fn called_from(&mut self, peer: Peer, ip: IpAddr) {
        let there = |(key, _): (&(Peer, Multiaddr), _)| {
            (key.0 == peer && ip_of(&key.1) == Some(ip)).then(|| key.clone())
        };
        let keys: Vec<_> = self.dropped.iter().filter_map(there).collect();
        for key in keys {
            self.dropped.pop(&key);
        }
    }

    /// Whether `address` is not to be dialled in search of `peer` for a while.
    pub(super) fn is_dropped(&self, peer: Peer, address: &Multiaddr, now: Instant) -> bool {
        let until = self.dropped.peek(&(peer, address.clone()));
        until.is_some_and(|until| now < *until)
    }

    /// Where `peer` answered last.
    pub(super) fn best(&self, peer: Peer) -> Option<&Multiaddr> {
        self.best.peek(&peer)
    }

    /// Whether a connection of `class` with `peer` may be left for another one now; if so, none may for a
    /// while.
    pub(super) fn may_detour(&mut self, peer: Peer, class: Class, now: Instant) -> bool {
        let rested = self
            .detoured
            .get(&(peer, class))
            .is_none_or(|last| now >= *last + DETOURS);
        if rested {
            self.detoured.put((peer, class), now);
        }
        rested
    }

    /// This machine is somewhere else now: who answers where may differ.
    pub(super) fn moved(&mut self) {
        self.dropped.clear();
        self.detoured.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn address_of_somebody_else_is_dropped_for_that_peer_for_a_while() {
        let (peer, other) = (Peer::new([1; 32]), Peer::new([2; 32]));
        let address: Multiaddr = "/ip4/192.0.2.7/tcp/1".parse().unwrap();
        let mut routes = Routes::default();
        routes.answered(peer, address.clone());
        assert_eq!(routes.best(peer), Some(&address));
        routes.drop_for(peer, address.clone(), Instant::now());
        assert!(routes.best(peer).is_none());
        assert!(routes.is_dropped(peer, &address, Instant::now()));
        assert!(!routes.is_dropped(other, &address, Instant::now()));
        tokio::time::advance(DROPPED).await;
        assert!(!routes.is_dropped(peer, &address, Instant::now()));
        routes.drop_for(peer, address.clone(), Instant::now());
        routes.moved();
        assert!(!routes.is_dropped(peer, &address, Instant::now()));
        routes.drop_for(peer, address.clone(), Instant::now());
        routes.called_from(other, "192.0.2.7".parse().unwrap());
        assert!(routes.is_dropped(peer, &address, Instant::now()));
        routes.called_from(peer, "192.0.2.7".parse().unwrap());
        assert!(!routes.is_dropped(peer, &address, Instant::now()));
    }
}
