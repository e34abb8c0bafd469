//! Who may sit in front of the door: inbound connections whose hello is not done.
//!
//! Until somebody has proved to belong to the network, a connection costs this peer a file and some memory
//! and the other side next to nothing. So each holds a *slot*, and slots are few:
//!
//! * Nothing comes for [`IDLE`]: the connection ends. Every step of the handshakes takes one round trip.
//! * A source has [`PER_ADDRESS`] slots (an IPv6 host counts as its /64), its surroundings (/24, /48) have
//!   [`PER_PREFIX`]. Beyond that the source's own connection that was silent longest ends for the new one.
//! * Strangers have five sixths of the [`SLOTS`]; the rest is for addresses of peers in the address book.
//!   When they are taken, the stranger that was silent longest goes. So who comes now gets in and has time as
//!   long as fewer than all slots are asked for within its next silence.
//! * All peers of a machine share the loopback address, so each connection from there is a source of its own.
//! * Connections are taken from the system's queue at [`PACE`] a second, in their order: who connects again
//!   and again waits in it like everybody else.
//!
//! What the slots do not bound is the work of handshakes that are gone through with: some half a
//! millisecond of CPU each, [`PACE`] of them a second at most.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite};
use libp2p::Multiaddr;
use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::{ConnectedPoint, Transport};
use rustix::process::{Resource, getrlimit};
use tokio::time::{Instant, Sleep, sleep_until};

/// A connection on which nothing comes for this long before its hello is done ends.
const IDLE: Duration = Duration::from_secs(2);
/// Slots in all, each a file and 5 to 25 KiB; fewer where the system allows this process few files,
const SLOTS: usize = 1536;
/// of which connections in front of the door may take this part.
const OF_FILES: u64 = 4;
/// Part of the slots that is for addresses of peers in the address book alone.
const RESERVED: usize = 6;
/// Slots of one address.
const PER_ADDRESS: usize = 32;
/// Slots of a prefix.
const PER_PREFIX: usize = 128;
/// Connections taken from the system in a second.
const PACE: u32 = 500;
/// Of them at once.
const BURST: u32 = 512;
/// Addresses known from the address book.
const MAX_KNOWN: usize = 16 * 1024;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// This machine; no two of them are the same.
    Local,
    /// An address and its prefix.
    Remote { address: IpAddr, prefix: IpAddr },
}

impl Source {
    fn of(address: &Multiaddr) -> Self {
        let ip = match address.iter().next() {
            Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
            Some(Protocol::Ip6(ip)) => ip.to_canonical(),
            // Only TCP is listened on.
            _ => return Self::Local,
        };
        match ip {
            ip if ip.is_loopback() => Self::Local,
            IpAddr::V4(ip) => Self::Remote {
                address: ip.into(),
                prefix: Ipv4Addr::from_bits(ip.to_bits() & (!0 << 8)).into(),
            },
            IpAddr::V6(ip) => Self::Remote {
                address: Ipv6Addr::from_bits(ip.to_bits() & (!0 << 64)).into(),
                prefix: Ipv6Addr::from_bits(ip.to_bits() & (!0 << 80)).into(),
            },
        }
    }
}

/// One connection in front of the door.
#[derive(Debug)]
struct Slot {
    /// Local and remote address.
    ends: (Multiaddr, Multiaddr),
    source: Source,
    /// From an address in the address book.
    known: bool,
    /// When something came last.
    heard: Instant,
    bell: Arc<Bell>,
}

/// What a connection and its slot share.
#[derive(Debug, Default)]
struct Bell {
    ended: AtomicBool,
    passed: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.waker.wake();
    }
}

#[derive(Debug)]
struct Slots {
    /// Slots in all.
    total: usize,
    taken: BTreeMap<u64, Slot>,
    next: u64,
    /// Addresses of known peers, as [`Source`] has them.
    known: HashSet<IpAddr>,
}

impl Slots {
    fn new(total: usize) -> Self {
        Self {
            total,
            taken: BTreeMap::new(),
            next: 0,
            known: HashSet::new(),
        }
    }

    /// Gives a connection a slot and ends another one for it if there are too few.
    fn take(&mut self, ends: (Multiaddr, Multiaddr), now: Instant) -> (u64, Arc<Bell>) {
        let source = Source::of(&ends.1);
        let known = match source {
            Source::Local => false,
            Source::Remote { address, .. } => self.known.contains(&address),
        };
        self.make_room(source, known);
        let bell = Arc::new(Bell::default());
        let slot = Slot {
            ends,
            source,
            known,
            heard: now,
            bell: Arc::clone(&bell),
        };
        self.next += 1;
        self.taken.insert(self.next, slot);
        (self.next, bell)
    }

    fn make_room(&mut self, source: Source, known: bool) {
        if let Source::Remote { address, prefix } = source {
            self.keep_below(
                PER_ADDRESS,
                |slot| matches!(slot.source, Source::Remote { address: other, .. } if other == address),
            );
            self.keep_below(PER_PREFIX, |slot| {
                let Source::Remote { prefix: other, .. } = slot.source else {
                    return false;
                };
                // Known neighbours are not pushed out by strangers.
                other == prefix && (known || !slot.known)
            });
        }
        if !known {
            self.keep_below(self.total - self.total / RESERVED, |slot| !slot.known);
        } else if self.taken.len() >= self.total && !self.end_most_silent(|slot| !slot.known) {
            self.end_most_silent(|_| true);
        }
    }

    /// Ends connections of a kind until there are fewer than `limit`.
    fn keep_below(&mut self, limit: usize, kind: impl Fn(&Slot) -> bool + Copy) {
        while self.taken.values().filter(|slot| kind(slot)).count() >= limit {
            self.end_most_silent(kind);
        }
    }

    fn end_most_silent(&mut self, kind: impl Fn(&Slot) -> bool) -> bool {
        let of_kind = self.taken.iter().filter(|(_, slot)| kind(slot));
        let most = of_kind.min_by_key(|(number, slot)| (slot.heard, **number));
        let Some(number) = most.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(slot) = self.taken.remove(&number) {
            slot.bell.end();
        }
        true
    }
}

/// The slots, shared by the transport and those who say hello.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Mutex<Slots>>);

impl Gate {
    /// With as many slots as the limit of open files allows.
    pub(super) fn new() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let total = usize::try_from(files / OF_FILES)
            .unwrap_or(SLOTS)
            .clamp(64, SLOTS);
        Self(Arc::new(Mutex::new(Slots::new(total))))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wraps what the transport opened: inbound connections get a slot.
    pub(super) fn wrap<S>(&self, stream: S, point: ConnectedPoint) -> Guarded<S> {
        let place = match point {
            ConnectedPoint::Dialer { .. } => None,
            ConnectedPoint::Listener {
                local_addr,
                send_back_addr,
            } => {
                let (number, bell) = self.slots().take((local_addr, send_back_addr), Instant::now());
                Some(Place {
                    gate: self.clone(),
                    number,
                    bell,
                    timer: Box::pin(sleep_until(Instant::now() + IDLE)),
                })
            }
        };
        Guarded { stream, place }
    }

    /// The connection with these ends, so that it can pass.
    pub(super) fn pass_for(&self, local: &Multiaddr, remote: &Multiaddr) -> Option<Pass> {
        let slots = self.slots();
        let mut taken = slots.taken.iter().rev();
        let (number, _) = taken.find(|(_, slot)| slot.ends.1 == *remote && slot.ends.0 == *local)?;
        Some(Pass {
            gate: self.clone(),
            number: *number,
        })
    }

    /// From now on these are the addresses of known peers.
    pub(super) fn know<'a>(&self, addresses: impl Iterator<Item = &'a str>) {
        let sources = addresses.filter_map(|text| Some(Source::of(&text.parse().ok()?)));
        let known = sources.filter_map(|source| match source {
            Source::Local => None,
            Source::Remote { address, .. } => Some(address),
        });
        let known = known.take(MAX_KNOWN).collect();
        self.slots().known = known;
    }

    /// Connections in front of the door.
    pub(super) fn waiting(&self) -> usize {
        self.slots().taken.len()
    }

    fn heard(&self, number: u64) {
        if let Some(slot) = self.slots().taken.get_mut(&number) {
            slot.heard = Instant::now();
        }
    }

    fn leave(&self, number: u64) {
        self.slots().taken.remove(&number);
    }
}

/// The right to let one connection in.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Gate,
    number: u64,
}

impl Pass {
    /// The other side has proved itself: its slot is free, and its time not bounded here any more.
    pub(super) fn admit(self) {
        if let Some(slot) = self.gate.slots().taken.remove(&self.number) {
            slot.bell.passed.store(true, Ordering::Release);
        }
    }
}

/// The slot of a connection, as the connection sees it.
#[derive(Debug)]
struct Place {
    gate: Gate,
    number: u64,
    bell: Arc<Bell>,
    timer: Pin<Box<Sleep>>,
}

impl Place {
    /// Ready when the connection is to end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.bell.waker.register(cx.waker());
        if self.bell.ended.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.timer.as_mut().poll(cx)
    }

    fn heard(&mut self) {
        self.gate.heard(self.number);
        self.timer.as_mut().reset(Instant::now() + IDLE);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.leave(self.number);
    }
}

/// A connection of the transport; an inbound one fails when it loses its slot.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    place: Option<Place>,
}

impl<S> Guarded<S> {
    /// Ends the connection if it lost its slot, and the guard if it has passed.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        if place.bell.passed.load(Ordering::Acquire) {
            self.place = None;
            return Ok(());
        }
        match place.poll_end(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        if let Some(place) = this.place.as_mut().filter(|_| read > 0) {
            place.heard();
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// A transport that takes inbound connections at [`PACE`].
#[derive(Debug)]
pub(super) struct Paced<T> {
    inner: T,
    /// When the next connection is due, if there was none before for long.
    due: Instant,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<T> Paced<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            due: Instant::now(),
            pause: None,
        }
    }

    /// A connection came: the next one is due a little later, and no burst is saved up beyond [`BURST`].
    fn count(&mut self) {
        let step = Duration::from_secs(1) / PACE;
        let now = Instant::now();
        let earliest = now.checked_sub(step * BURST).unwrap_or(now);
        self.due = self.due.max(earliest) + step;
        if self.due > now {
            self.pause = Some(Box::pin(sleep_until(self.due)));
        }
    }
}

impl<T: Transport + Unpin> Transport for Paced<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let event = ready!(Pin::new(&mut self.inner).poll(cx));
        if matches!(event, TransportEvent::Incoming { .. }) {
            self.count();
        }
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests;
