//! Everybody this peer knows, and the circle of those it judges alive.
//!
//! One sorted map of virtual nodes holds this peer's own and those of every member judged alive. Successor
//! lists, predecessors and fingers are views of it: nothing is stored per virtual node of this peer. A peer is
//! on the circle with all its virtual nodes or with none.

mod memo;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use self::memo::Memo;
use super::liveness::RoundTrip;
use super::message::Liveness;
use crate::circle::{Met, clockwise, counter_clockwise};
use crate::{Contact, Flaw, Id, Peer, Time};

/// What this peer thinks of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Heard of, from the address book or from others; not on the circle.
    Known,
    /// To be taken onto the circle once it answers a ping as a member.
    Candidate,
    /// On the circle.
    Alive,
    /// On the circle, but does not answer at the moment.
    Suspect,
    /// In the graveyard since then: only its own word brings it back.
    Dead(Time),
}

impl Standing {
    /// Whether the virtual nodes of such a peer are on the circle.
    pub(super) fn is_member(self) -> bool {
        match self {
            Self::Alive | Self::Suspect => true,
            Self::Known | Self::Candidate | Self::Dead(_) => false,
        }
    }
}

impl From<Standing> for Liveness {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Alive => Self::Alive,
            Standing::Known | Standing::Candidate | Standing::Suspect => Self::Suspect,
            Standing::Dead(since) => Self::Dead { since },
        }
    }
}

/// What is known of one other peer.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) contact: Contact,
    pub(super) standing: Standing,
    /// When the peer itself last spoke to this one.
    pub(super) heard: Option<Time>,
    /// When the peer itself last told its contact: it may have other virtual nodes since its last life.
    pub(super) told: Option<Time>,
    /// When the entry was made.
    pub(super) noted: Time,
    /// Age of the entry when it was made: it may come from the address book.
    pub(super) age: Duration,
    pub(super) round_trip: RoundTrip,
    /// Failures since it was last heard, none of them within the retry interval of another.
    pub(super) failures: u8,
    /// How many of them said that nothing listens there.
    pub(super) unreachable: u8,
    /// When the last failure was counted.
    pub(super) failed: Time,
    /// When the last ping went out.
    pub(super) pinged: Option<Time>,
    /// A ping is in flight or has its time set.
    pub(super) pinging: bool,
    /// A head that should list the peer does not, and the peer has not been heard since.
    pub(super) unlisted: bool,
}

impl Entry {
    fn new(contact: Contact, now: Time, age: Duration) -> Self {
        Self {
            contact,
            standing: Standing::Known,
            heard: None,
            told: None,
            noted: now,
            age,
            round_trip: RoundTrip::default(),
            failures: 0,
            unreachable: 0,
            failed: Time::ZERO,
            pinged: None,
            pinging: false,
            unlisted: false,
        }
    }

    /// Time since the peer was last heard, or heard of when it never spoke.
    pub(super) fn age(&self, now: Time) -> Duration {
        match self.heard {
            Some(heard) => now.since(heard),
            None => self.age.saturating_add(now.since(self.noted)),
        }
    }

    /// Whether the peer itself told its contact within `window` of now.
    pub(super) fn told_within(&self, now: Time, window: Duration) -> bool {
        self.told.is_some_and(|told| now.since(told) <= window)
    }

    /// Whether the peer itself spoke within `window` of now.
    pub(super) fn heard_within(&self, now: Time, window: Duration) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) <= window)
    }
}

/// How a newer contact differs from the one it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// Not newer: nothing changed.
    Stale,
    /// Newer, in the same places at the same addresses.
    Minor,
    /// Addresses or virtual nodes changed.
    Major,
}

/// See the module head.
#[derive(Debug)]
pub(super) struct Table {
    me: Contact,
    /// Own virtual nodes, ascending.
    own: Vec<Id>,
    nodes: BTreeMap<Id, Peer>,
    peers: BTreeMap<Peer, Entry>,
    /// Peers on the circle besides this one.
    members: usize,
    /// Rises with every change of the circle or of who counts as dead.
    revision: u64,
    memo: Memo,
    /// The flaw planted here, if any.
    flaw: Option<Flaw>,
}

impl Table {
    pub(super) fn new(me: Contact, flaw: Option<Flaw>) -> Self {
        let mut table = Self {
            me: me.clone(),
            own: Vec::new(),
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            members: 0,
            revision: 0,
            memo: Memo::default(),
            flaw,
        };
        table.set_me(me);
        table
    }

    pub(super) fn me(&self) -> &Contact {
        &self.me
    }

    /// Replaces this peer's own contact.
    pub(super) fn set_me(&mut self, me: Contact) {
        self.revision += 1;
        self.memo = Memo::default();
        for id in &self.own {
            self.nodes.remove(id);
        }
        self.own = me.ids().collect();
        self.own.sort_unstable();
        self.nodes.extend(self.own.iter().map(|id| (*id, me.peer)));
        self.me = me;
    }

    /// Own virtual nodes, ascending.
    pub(super) fn own(&self) -> &[Id] {
        &self.own
    }

    /// Peers on the circle besides this one.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// Rises with every change of the circle or of who counts as dead.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Peers known besides this one.
    pub(super) fn known(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = (Peer, &Entry)> {
        self.peers.iter().map(|(peer, entry)| (*peer, entry))
    }

    /// All peers known besides this one, each once, in the order of their ids from the one after `last`.
    pub(super) fn after(&self, last: Peer) -> impl Iterator<Item = Peer> + '_ {
        let after = self.peers.range((Bound::Excluded(last), Bound::Unbounded));
        after.chain(self.peers.range(..=last)).map(|(peer, _)| *peer)
    }

    pub(super) fn get(&self, peer: Peer) -> Option<&Entry> {
        self.peers.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: Peer) -> Option<&mut Entry> {
        self.peers.get_mut(&peer)
    }

    /// The contact of any known peer, this one included.
    pub(super) fn contact(&self, peer: Peer) -> Option<&Contact> {
        if peer == self.me.peer {
            return Some(&self.me);
        }
        self.peers.get(&peer).map(|entry| &entry.contact)
    }

    pub(super) fn is_member(&self, peer: Peer) -> bool {
        peer == self.me.peer
            || self
                .peers
                .get(&peer)
                .is_some_and(|entry| entry.standing.is_member())
    }

    /// Writes an entry for a peer not known yet.
    pub(super) fn note(&mut self, contact: Contact, now: Time, age: Duration) {
        if contact.peer != self.me.peer {
            self.peers
                .entry(contact.peer)
                .or_insert_with(|| Entry::new(contact, now, age));
        }
    }

    /// Replaces the contact of a known peer if `contact` is newer, or the peer's own word on the same version.
    pub(super) fn update(&mut self, contact: Contact, own_word: bool) -> Update {
        let Some(entry) = self.peers.get_mut(&contact.peer) else {
            return Update::Stale;
        };
        let newer = contact.version > entry.contact.version;
        let same = contact.version == entry.contact.version;
        let takes = newer || same && own_word || Flaw::OldContactWins.is_planted(self.flaw);
        if !takes || contact == entry.contact {
            return Update::Stale;
        }
        let moved = contact.virtual_nodes != entry.contact.virtual_nodes;
        let major = moved || contact.addresses != entry.contact.addresses;
        let old = std::mem::replace(&mut entry.contact, contact);
        self.memo = Memo::default();
        if moved && entry.standing.is_member() {
            self.revision += 1;
            for id in old.ids() {
                self.nodes.remove(&id);
            }
            self.nodes.extend(entry.contact.ids().map(|id| (id, old.peer)));
        }
        if major { Update::Major } else { Update::Minor }
    }

    /// Puts a known peer onto the circle, alive. Says whether it was not there before.
    pub(super) fn enter(&mut self, peer: Peer) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return false;
        };
        let entered = !entry.standing.is_member();
        self.revision += u64::from(entered);
        entry.standing = Standing::Alive;
        if entered {
            self.memo = Memo::default();
            self.nodes.extend(entry.contact.ids().map(|id| (id, peer)));
            self.members += 1;
        }
        entered
    }

    /// Gives a known peer a standing off the circle. Says whether it was on it before.
    pub(super) fn exit(&mut self, peer: Peer, standing: Standing) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return false;
        };
        let left = entry.standing.is_member();
        self.revision += u64::from(entry.standing != standing);
        entry.standing = standing;
        if left {
            self.memo = Memo::default();
            for id in entry.contact.ids() {
                self.nodes.remove(&id);
            }
            self.members -= 1;
        }
        left
    }

    /// Forgets a peer that is not on the circle.
    pub(super) fn forget(&mut self, peer: Peer) {
        if self.get(peer).is_some_and(|entry| !entry.standing.is_member()) {
            self.peers.remove(&peer);
        }
    }

    /// Virtual nodes from `from` (included) once around the circle.
    pub(super) fn clockwise(&self, from: Id) -> impl Iterator<Item = (Id, Peer)> + '_ {
        let stop = Flaw::NoWrapAround.is_planted(self.flaw);
        clockwise(&self.nodes, from).take_while(move |(id, _)| !stop || *id >= from)
    }

    /// Virtual nodes from before `from` (excluded) once around the circle, backwards.
    pub(super) fn counter_clockwise(&self, from: Id) -> impl Iterator<Item = (Id, Peer)> + '_ {
        counter_clockwise(&self.nodes, from)
    }

    /// The distinct peers at or after `from`, this one included in its place, each with the first of its
    /// virtual nodes there.
    pub(super) fn distinct(&self, from: Id) -> impl Iterator<Item = (Id, Peer)> + '_ {
        let mut met = Met::default();
        self.clockwise(from)
            .filter(move |(_, peer)| met.insert(*peer))
            .take(self.members + 1)
    }

    /// The successor list of the point `id`: the first `r` distinct peers after it, without `but`.
    pub(super) fn list(&self, id: Id, but: Peer, r: usize) -> impl Iterator<Item = Peer> + '_ {
        let nodes = if Flaw::CountVirtualNodes.is_planted(self.flaw) {
            r
        } else {
            usize::MAX
        };
        let mut met = Met::with(but);
        self.clockwise(id.successor())
            .take(nodes)
            .map(|(_, peer)| peer)
            .filter(move |peer| met.insert(*peer))
            .take(r.min(self.members))
    }

    /// The union of the successor lists of `ids`, in the order of the peers' ids.
    pub(super) fn union(&self, ids: &[Id], but: Peer, r: usize) -> Vec<Peer> {
        let lists = ids.iter().flat_map(|id| self.list(*id, but, r));
        let mut union: Vec<Peer> = lists.collect();
        union.sort_unstable();
        union.dedup();
        union
    }

    /// Whether one of these points would become the first successor of an own virtual node.
    pub(super) fn would_be_head(&self, contact: &Contact) -> bool {
        contact.ids().any(|id| {
            self.counter_clockwise(id)
                .next()
                .is_none_or(|(_, peer)| peer == self.me.peer)
        })
    }

    /// Owners of the first virtual node before each own one, without this peer.
    pub(super) fn predecessors(&self) -> BTreeSet<Peer> {
        self.own
            .iter()
            .filter_map(|id| {
                self.counter_clockwise(*id)
                    .find(|(_, peer)| *peer != self.me.peer)
                    .map(|(_, peer)| peer)
            })
            .collect()
    }
}
