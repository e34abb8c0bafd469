//! Which addresses of this machine others are told, and which of theirs are dialled, in which order.
//!
//! **Scopes.** A loopback address reaches this machine only, one of `169.254.0.0/16` this link only, every
//! other one is *wide*: private networks too, since nobody can tell from here who shares them. `fe80::/10`
//! and the unspecified address have no scope: the first means nothing without an interface, which a contact
//! cannot name. They are neither told nor dialled.
//!
//! **Remembered.** A contact is one for all who hear of it, so it holds the addresses of the widest scope
//! that this peer listens on and no others: a peer with a wide address tells neither loopback nor link-local
//! ones, one that listens on 127.0.0.1 only (a testnet) tells that. An address counts while it is configured
//! on an interface that runs, whether it was listened on by name or by a wildcard. A peer that loses its last
//! wide address goes on telling the old ones, unless members are on this machine: nobody else can hear it,
//! and the first words it says when it is back must not name loopback.
//!
//! **Dialled.** A wide address always. A loopback address only by a peer that is *on loopback*: all it
//! listens on is loopback, or a member met it from this very machine (the other end of a connection had one
//! of this machine's addresses). So a peer on 0.0.0.0 beside a testnet reaches the testnet's peers once it
//! met one of them, and they reach it at its wide address; a peer elsewhere never dials its own loopback in
//! search of others. A link-local address only by a peer that has one itself. What somebody configured by
//! hand (`--join`) is dialled as it is.
//!
//! **Order.** The address that answered last first, then those on a network this machine is part of, then the
//! rest as told; the two families alternate (RFC 8305 §4).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use mutualstore_dht::contact::MAX_ADDRESSES;

/// How far an address reaches. Ordered: a wider one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// This machine.
    Loopback,
    /// This link.
    Link,
    /// Perhaps everybody.
    Wide,
}

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) ip: IpAddr,
    /// Bits of the network part.
    pub(super) prefix: u8,
    /// The system's number of the interface.
    pub(super) index: u32,
    /// Whether the interface is up and has a carrier.
    pub(super) runs: bool,
}

/// What this peer listens on now, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Every address that can be dialled from somewhere, widest scope first.
    pub(super) listening: Vec<Multiaddr>,
    /// Those for the contact: of one scope, at most [`MAX_ADDRESSES`].
    pub(super) published: Vec<Multiaddr>,
    /// Addresses of this machine.
    interfaces: Vec<Interface>,
}

impl Interface {
    fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differ = u32::from(own) ^ u32::from(ip);
                differ.leading_zeros() >= u32::from(self.prefix.min(32))
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differ = u128::from(own) ^ u128::from(ip);
                differ.leading_zeros() >= u32::from(self.prefix.min(128))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The addresses of this machine's interfaces now.
pub(super) fn interfaces() -> io::Result<Vec<Interface>> {
    let found = if_addrs::get_if_addrs()?.into_iter();
    let described = found.map(|interface| Interface {
        ip: interface.ip(),
        prefix: match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        },
        index: interface.index.unwrap_or(u32::MAX),
        runs: interface.is_oper_up(),
    });
    Ok(described.collect())
}

/// What is assumed where the system does not list its interfaces: loopback, and the addresses listened on by
/// name.
pub(super) fn assumed(listeners: &[SocketAddr]) -> Vec<Interface> {
    let ips = listeners.iter().map(|listener| match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => listener.ip(),
    });
    let interface = |ip: IpAddr| Interface {
        ip,
        prefix: if ip.is_ipv4() { 32 } else { 128 },
        index: 0,
        runs: true,
    };
    ips.map(interface).collect()
}

/// How far `ip` reaches; none if it is of no use to anybody.
fn scope_of(ip: IpAddr) -> Option<Scope> {
    match ip.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() => None,
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() => None,
        IpAddr::V4(v4) if v4.is_loopback() => Some(Scope::Loopback),
        IpAddr::V6(v6) if v6.is_loopback() => Some(Scope::Loopback),
        IpAddr::V4(v4) if v4.is_link_local() => Some(Scope::Link),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        IpAddr::V4(_) | IpAddr::V6(_) => Some(Scope::Wide),
    }
}

/// How far an address reaches. Names count as wide.
#[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
pub(super) fn scope(address: &Multiaddr) -> Option<Scope> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => scope_of(ip.into()),
        Protocol::Ip6(ip) => scope_of(ip.into()),
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => Some(Scope::Wide),
        _ => None,
    }
}

/// The IP an address begins with; none for a name.
#[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// `/ip4|ip6/…/tcp/…`
pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The address without its last `/p2p/…`.
pub(super) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// Host and port of an address; none if it is not one for TCP.
pub fn tcp_target(address: &str) -> Option<(String, u16)> {
    let address: Multiaddr = address.parse().ok()?;
    let mut parts = address.iter();
    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
    let host = match parts.next()? {
        Protocol::Ip4(ip) => ip.to_string(),
        Protocol::Ip6(ip) => ip.to_string(),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => name.into_owned(),
        _ => return None,
    };
    let Some(Protocol::Tcp(port)) = parts.next() else {
        return None;
    };
    Some((host, port))
}

/// `/ip4|ip6/…/tcp/…` alone.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    let address: Multiaddr = text.parse().ok()?;
    let mut parts = address.iter();
    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum is not exhaustive")]
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Whether an address is one of a private network: good for those who share it, of no use to others.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        // 100.64.0.0/10 is what providers put between themselves and their customers.
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

impl Place {
    /// Where a peer with these listeners can be dialled on a machine with these addresses. `announced` are
    /// published instead when there are any; `before` is what was published last.
    pub(super) fn new(
        listeners: &[SocketAddr],
        announced: &[Multiaddr],
        before: &[Multiaddr],
        interfaces: Vec<Interface>,
    ) -> Self {
        let mut found: Vec<(Scope, &Interface, SocketAddr)> = Vec::new();
        let running = interfaces.iter().filter(|interface| interface.runs);
        for interface in running {
            for listener in listeners {
                let any = listener.ip().is_unspecified() && listener.is_ipv4() == interface.ip.is_ipv4();
                let address = SocketAddr::new(interface.ip, listener.port());
                if (any || listener.ip() == interface.ip)
                    && let Some(scope) = scope_of(interface.ip)
                    && found.iter().all(|(.., known)| *known != address)
                {
                    found.push((scope, interface, address));
                }
            }
        }
        // What everybody can use before what only neighbours can, then as the system numbers its interfaces.
        found.sort_by_key(|(scope, interface, address)| {
            let order = (is_private(address.ip()), interface.index, address.is_ipv6());
            (std::cmp::Reverse(*scope), order)
        });
        let widest = found.first().map(|(scope, ..)| *scope);
        let out_of_reach = widest != Some(Scope::Wide) && before.first().and_then(scope) == Some(Scope::Wide);
        let published = if out_of_reach {
            before.to_vec()
        } else if announced.is_empty() {
            let widest = found.iter().filter(|(scope, ..)| Some(*scope) == widest);
            alternating(widest.map(|(.., address)| multiaddr(*address)).collect())
        } else {
            announced.to_vec()
        };
        Self {
            listening: found.iter().map(|(.., address)| multiaddr(*address)).collect(),
            published: published.into_iter().take(MAX_ADDRESSES).collect(),
            interfaces,
        }
    }

    /// Whether nobody but this machine can reach this peer.
    pub(super) fn is_on_loopback(&self) -> bool {
        let scopes = || self.listening.iter().filter_map(scope);
        scopes().next().is_some() && scopes().all(|scope| scope == Scope::Loopback)
    }

    /// Whether `ip` is this machine.
    pub(super) fn is_here(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.interfaces.iter().any(|interface| interface.ip == ip)
    }

    /// Whether this very peer listens at `address`.
    pub(super) fn is_own(&self, address: &Multiaddr) -> bool {
        self.listening.contains(&without_peer(address.clone()))
    }

    /// Whether an address that a contact tells is of use from here; `on_loopback` as the module says.
    pub(super) fn may_dial(&self, address: &Multiaddr, on_loopback: bool) -> bool {
        match scope(address) {
            Some(Scope::Wide) => true,
            Some(Scope::Loopback) => on_loopback,
            Some(Scope::Link) => ip_of(address).is_some_and(|ip| self.is_neighbour(ip)),
            None => false,
        }
    }

    /// Whether `ip` is on a network that this machine is part of.
    fn is_neighbour(&self, ip: IpAddr) -> bool {
        let mut running = self.interfaces.iter().filter(|interface| interface.runs);
        running.any(|interface| interface.contains(ip))
    }

    /// The order in which addresses are tried.
    pub(super) fn order(&self, mut addresses: Vec<Multiaddr>, best: Option<&Multiaddr>) -> Vec<Multiaddr> {
        let near = |address: &Multiaddr| ip_of(address).is_some_and(|ip| self.is_neighbour(ip));
        addresses.sort_by_key(|address| !near(address));
        let mut ordered = alternating(addresses);
        if let Some(at) = ordered.iter().position(|address| Some(address) == best) {
            let best = ordered.remove(at);
            ordered.insert(0, best);
        }
        ordered
    }
}

/// The same with IPv6 and others taking turns, beginning with what the first one is.
fn alternating(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let is_v6 = |address: &Multiaddr| matches!(address.iter().next(), Some(Protocol::Ip6(_)));
    let Some(first) = addresses.first().map(is_v6) else {
        return addresses;
    };
    let count = addresses.len();
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| is_v6(address) == first);
    let (mut one, mut other) = (VecDeque::from(one), VecDeque::from(other));
    let mut mixed = Vec::with_capacity(count);
    while mixed.len() < count {
        mixed.extend(one.pop_front());
        mixed.extend(other.pop_front());
    }
    mixed
}

#[cfg(test)]
mod tests;
