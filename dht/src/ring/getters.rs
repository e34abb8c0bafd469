//! What a ring wants done, and what it knows.

use super::{BookEntry, Event, Liveness, Phase, Ring, Transmit};
use crate::view::{Member, RingView};
use crate::{Contact, Id, Peer, Time};

/// Outputs and getters.
impl Ring {
    /// The next request to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.calls.next()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Ring::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// This peer's own contact as others see it.
    pub fn me(&self) -> &Contact {
        self.table.me()
    }

    /// Where this peer stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The distinct live peers at or after `target` in the local view, this one included in its place; all of
    /// them.
    pub fn successors(&self, target: Id) -> impl Iterator<Item = &Contact> {
        self.table
            .distinct(target)
            .filter_map(|(_, peer)| self.table.contact(peer))
    }

    /// The successor list of the virtual node `own`: distinct peers, without this one.
    pub fn successor_list(&self, own: Id) -> impl Iterator<Item = &Contact> {
        self.table
            .list(own, self.table.me().peer, self.config.r)
            .filter_map(|peer| self.table.contact(peer))
    }

    /// Fingers as own virtual node, exponent of the distance, peer found there.
    pub fn fingers(&self) -> impl Iterator<Item = (Id, u8, &Contact)> {
        self.pointers
            .fingers
            .iter()
            .filter_map(|((own, exponent), peer)| {
                let contact = self.table.contact(*peer)?;
                Some((*own, *exponent, contact))
            })
    }

    /// The last known contact of a peer, dead ones and this one included.
    pub fn contact(&self, peer: Peer) -> Option<&Contact> {
        self.table.contact(peer)
    }

    /// Whether `peer` is counted among the living; this one always is.
    pub fn is_alive(&self, peer: Peer) -> bool {
        self.table.is_member(peer)
    }

    /// Contacts of the living, without this peer.
    pub fn alive(&self) -> impl Iterator<Item = &Contact> {
        self.table
            .entries()
            .filter(|(_, entry)| entry.standing.is_member())
            .map(|(_, entry)| &entry.contact)
    }

    /// Everybody known, the dead included, without this peer.
    pub fn peers(&self) -> impl Iterator<Item = (&Contact, Liveness)> {
        let entries = self.table.entries();
        entries.map(|(_, entry)| (&entry.contact, entry.liveness()))
    }

    /// What this ring thinks of another peer; none if it does not know it.
    pub fn liveness(&self, peer: Peer) -> Option<Liveness> {
        self.table.get(peer).map(super::table::KnownPeer::liveness)
    }

    /// Whether another peer has spoken to this one since it started.
    pub fn has_heard(&self, peer: Peer) -> bool {
        self.table.get(peer).is_some_and(|entry| entry.heard.is_some())
    }

    /// All virtual nodes of members in the local view, own ones included, from zero clockwise.
    pub fn circle(&self) -> impl Iterator<Item = (Id, Peer)> {
        self.table.clockwise(Id::default())
    }

    /// Rises with every change of [`Ring::circle`] or of who counts as dead.
    pub fn revision(&self) -> u64 {
        self.table.revision()
    }

    /// Whether this peer knows nobody but such as do not let it into their network. It founds no ring of its
    /// own then.
    pub fn is_barred(&self) -> bool {
        self.joining.barred.is_some() && self.table.members() == 0
    }

    /// Whether this peer answers questions of state and counts as part of a ring.
    pub fn is_member(&self) -> bool {
        self.member
    }

    /// The address book to write down for the next start.
    pub fn book(&self, now: Time) -> Vec<BookEntry> {
        let entries = self.table.entries().map(|(_, entry)| BookEntry {
            contact: entry.contact.clone(),
            age: entry.age(now),
        });
        entries.collect()
    }
}

impl RingView for Ring {
    fn me(&self) -> Peer {
        self.table.me().peer
    }

    fn successors(&self, id: Id, limit: usize) -> Vec<Member> {
        let peers = self.table.distinct(id).take(limit);
        let members = peers.filter_map(|(_, peer)| {
            let state = self.table.contact(peer)?.state;
            Some(Member { peer, state })
        });
        members.collect()
    }

    fn is_alive(&self, peer: Peer) -> bool {
        self.table.is_member(peer)
    }

    fn moves(&self) -> u64 {
        self.table.moves()
    }

    fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Alone | Phase::Joined | Phase::Leaving => true,
            Phase::Joining | Phase::Left => false,
        }
    }
}
