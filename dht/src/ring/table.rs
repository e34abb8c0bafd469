//! Everybody this peer knows, and the circle of those it judges alive.
//!
//! One sorted map of virtual nodes holds this peer's own and those of every member judged alive. Successor
//! lists, predecessors and fingers are views of it: nothing is stored per virtual node of this peer. A peer
//! is on the circle with all its virtual nodes or with none. Inside the table peers go by small numbers: in
//! large rings it is walked all the time, and its cost is that of the memory it touches.

mod memo;
mod views;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use self::memo::Memo;
use super::liveness::RoundTrip;
use super::message::Liveness;
use crate::{Contact, Flaw, Id, Peer, SignContact, Time, Unsigned};

/// What this peer thinks of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberState {
    /// Heard of, from the address book or from others; not on the circle.
    Known,
    /// To be taken onto the circle once it answers a ping as a member.
    Candidate,
    /// On the circle.
    Alive,
    /// On the circle, but does not answer at the moment.
    Suspect,
    /// Dead since then: only its own word brings it back.
    Dead(Time),
}

impl MemberState {
    /// Whether the virtual nodes of such a peer are on the circle.
    pub(super) fn is_member(self) -> bool {
        match self {
            Self::Alive | Self::Suspect => true,
            Self::Known | Self::Candidate | Self::Dead(_) => false,
        }
    }
}

/// What is known of one other peer: its contact, how it answers, and what is in flight to it. Its fields lie
/// side by side, because a walk over the table reads a few of each entry.
#[derive(Clone, Debug)]
pub(super) struct KnownPeer {
    pub(super) contact: Contact,
    pub(super) standing: MemberState,
    /// When the peer itself last spoke to this one.
    pub(super) heard: Option<Time>,
    /// When the peer itself last announced its contact: it may have other virtual nodes since its last life.
    pub(super) announced: Option<Time>,
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
    /// Its own word was older than what is known of it: the next ping shows it what it once said.
    pub(super) behind: bool,
    /// A head that should list the peer does not, and the peer has not been heard since.
    pub(super) unlisted: bool,
}

impl KnownPeer {
    fn new(contact: Contact, now: Time, age: Duration) -> Self {
        Self {
            contact,
            standing: MemberState::Known,
            heard: None,
            announced: None,
            noted: now,
            age,
            round_trip: RoundTrip::default(),
            failures: 0,
            unreachable: 0,
            failed: Time::ZERO,
            pinged: None,
            pinging: false,
            behind: false,
            unlisted: false,
        }
    }

    pub(super) fn liveness(&self) -> Liveness {
        match self.standing {
            MemberState::Alive => Liveness::Alive,
            MemberState::Suspect => Liveness::Suspect,
            MemberState::Known | MemberState::Candidate => Liveness::Unmet {
                since: self.heard.unwrap_or(self.noted),
            },
            MemberState::Dead(since) => Liveness::Dead { since },
        }
    }

    /// Time since the peer was last heard, or heard of when it never spoke.
    pub(super) fn age(&self, now: Time) -> Duration {
        match self.heard {
            Some(heard) => now.since(heard),
            None => self.age.saturating_add(now.since(self.noted)),
        }
    }

    /// Whether the peer itself announced its contact within `window` of now.
    pub(super) fn announced_within(&self, now: Time, window: Duration) -> bool {
        self.announced
            .is_some_and(|announced| now.since(announced) <= window)
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

/// A peer's place among the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EntryId(u32);

/// This peer, which has no entry.
const ME: EntryId = EntryId(u32::MAX);

impl EntryId {
    fn key(self) -> usize {
        self.0 as usize
    }
}

/// See the module head. Its many methods are the views of one list that must not drift apart.
#[derive(Debug)]
pub(super) struct Table {
    me: Contact,
    signer: Arc<dyn SignContact>,
    /// Own virtual nodes, ascending.
    own: Vec<Id>,
    nodes: BTreeMap<Id, EntryId>,
    slots: BTreeMap<Peer, EntryId>,
    entries: Slab<KnownPeer>,
    /// Peers on the circle besides this one.
    members: usize,
    /// Rises with every change of the circle or of who counts as dead.
    revision: u64,
    /// How often a peer on the circle changed its virtual nodes.
    moves: u64,
    memo: Memo,
    /// The flaw planted here, if any.
    flaw: Option<Flaw>,
}

impl Table {
    pub(super) fn new(me: Contact, flaw: Option<Flaw>) -> Self {
        let mut table = Self {
            me: me.clone(),
            signer: Arc::new(Unsigned),
            own: Vec::new(),
            nodes: BTreeMap::new(),
            slots: BTreeMap::new(),
            entries: Slab::new(),
            members: 0,
            revision: 0,
            moves: 0,
            memo: Memo::default(),
            flaw,
        };
        table.set_me(me);
        table
    }

    pub(super) fn me(&self) -> &Contact {
        &self.me
    }

    /// The own contact is signed so from now on.
    pub(super) fn sign_with(&mut self, signer: Arc<dyn SignContact>) {
        self.signer = signer;
        self.set_me(self.me.clone());
    }

    /// Replaces this peer's own contact and signs it.
    pub(super) fn set_me(&mut self, mut me: Contact) {
        me.signature = self.signer.sign(&me);
        self.revision += 1;
        self.memo = Memo::default();
        for id in &self.own {
            self.nodes.remove(id);
        }
        let before = std::mem::replace(&mut self.own, me.ids().collect());
        self.own.sort_unstable();
        self.moves += u64::from(self.own != before);
        self.nodes.extend(self.own.iter().map(|id| (*id, ME)));
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

    /// How often a peer on the circle changed its virtual nodes.
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// Rises with every change of the circle or of who counts as dead.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Peers known besides this one.
    pub(super) fn known(&self) -> usize {
        self.entries.len()
    }

    /// What is known of all others, in the order of their ids.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = (Peer, &KnownPeer)> {
        let slots = self.slots.iter();
        slots.filter_map(|(peer, slot)| Some((*peer, self.entries.get(slot.key())?)))
    }

    /// All peers known besides this one, each once, in the order of their ids from the one after `last`.
    pub(super) fn after(&self, last: Peer) -> impl Iterator<Item = Peer> + '_ {
        let after = self.slots.range((Bound::Excluded(last), Bound::Unbounded));
        after.chain(self.slots.range(..=last)).map(|(peer, _)| *peer)
    }

    pub(super) fn get(&self, peer: Peer) -> Option<&KnownPeer> {
        self.entries.get(self.slots.get(&peer)?.key())
    }

    pub(super) fn get_mut(&mut self, peer: Peer) -> Option<&mut KnownPeer> {
        self.entries.get_mut(self.slots.get(&peer)?.key())
    }

    /// The contact of any known peer, this one included.
    pub(super) fn contact(&self, peer: Peer) -> Option<&Contact> {
        if peer == self.me.peer {
            return Some(&self.me);
        }
        self.get(peer).map(|entry| &entry.contact)
    }

    /// The contact of who has a virtual node on the circle.
    fn owner(&self, slot: EntryId) -> &Contact {
        self.entries
            .get(slot.key())
            .map_or(&self.me, |entry| &entry.contact)
    }

    pub(super) fn is_member(&self, peer: Peer) -> bool {
        peer == self.me.peer || self.get(peer).is_some_and(|entry| entry.standing.is_member())
    }

    /// Writes an entry for a peer not known yet.
    pub(super) fn note(&mut self, contact: Contact, now: Time, age: Duration) {
        let peer = contact.peer;
        if peer == self.me.peer || self.slots.contains_key(&peer) {
            return;
        }
        let vacant = self.entries.vacant_entry();
        if let Ok(slot) = u32::try_from(vacant.key()).map(EntryId) {
            vacant.insert(KnownPeer::new(contact, now, age));
            self.slots.insert(peer, slot);
        }
    }

    /// Replaces the contact of a known peer if `contact` is newer, or the peer's own word on the same
    /// version.
    pub(super) fn update(&mut self, contact: Contact, own_word: bool) -> Update {
        let any = Flaw::OldContactWins.is_planted(self.flaw);
        let Some((slot, entry)) = self.locate(contact.peer) else {
            return Update::Stale;
        };
        let newer = contact.version > entry.contact.version;
        let same = contact.version == entry.contact.version;
        if !(newer || same && own_word || any) || contact == entry.contact {
            return Update::Stale;
        }
        let moved = contact.virtual_nodes != entry.contact.virtual_nodes;
        let major = moved || contact.addresses != entry.contact.addresses;
        let member = entry.standing.is_member();
        let old = std::mem::replace(&mut entry.contact, contact);
        self.memo = Memo::default();
        if moved && member {
            self.revision += 1;
            self.moves += 1;
            self.lift(slot, &old);
            self.set(slot);
        }
        if major { Update::Major } else { Update::Minor }
    }

    /// Puts a known peer onto the circle, alive. Says whether it was not there before.
    pub(super) fn enter(&mut self, peer: Peer) -> bool {
        let Some((slot, entry)) = self.locate(peer) else {
            return false;
        };
        let entered = !entry.standing.is_member();
        entry.standing = MemberState::Alive;
        if entered {
            self.revision += 1;
            self.memo = Memo::default();
            self.set(slot);
            self.members += 1;
        }
        entered
    }

    /// Gives a known peer a standing off the circle. Says whether it was on it before.
    pub(super) fn exit(&mut self, peer: Peer, standing: MemberState) -> bool {
        let Some((slot, entry)) = self.locate(peer) else {
            return false;
        };
        let left = entry.standing.is_member();
        let changed = entry.standing != standing;
        entry.standing = standing;
        self.revision += u64::from(changed);
        if left {
            self.memo = Memo::default();
            let contact = self.owner(slot).clone();
            self.lift(slot, &contact);
            self.members -= 1;
        }
        left
    }

    /// Forgets a peer that is not on the circle.
    pub(super) fn forget(&mut self, peer: Peer) {
        if self.get(peer).is_some_and(|entry| !entry.standing.is_member())
            && let Some(slot) = self.slots.remove(&peer)
        {
            self.entries.remove(slot.key());
        }
    }

    fn locate(&mut self, peer: Peer) -> Option<(EntryId, &mut KnownPeer)> {
        let slot = *self.slots.get(&peer)?;
        Some((slot, self.entries.get_mut(slot.key())?))
    }

    /// Puts a peer's virtual nodes onto the circle.
    fn set(&mut self, slot: EntryId) {
        if let Some(entry) = self.entries.get(slot.key()) {
            self.nodes.extend(entry.contact.ids().map(|id| (id, slot)));
        }
    }

    /// Takes the virtual nodes of a peer's contact off the circle.
    fn lift(&mut self, slot: EntryId, contact: &Contact) {
        for id in contact.ids() {
            if self.nodes.get(&id) == Some(&slot) {
                self.nodes.remove(&id);
            }
        }
    }
}
