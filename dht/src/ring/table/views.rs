//! What the circle looks like from a point: who follows, who precedes, who is near.

use std::collections::BTreeSet;

use super::{EntryId, ME, MemberState, Table};
use crate::circle::{Met, clockwise, counter_clockwise};
use crate::{Contact, Flaw, Id, Peer};

/// Distinct peers a walk makes room for at first.
const ROOM: usize = 32;

impl Table {
    fn ahead(&self, from: Id) -> impl Iterator<Item = (Id, EntryId)> + '_ {
        let stop = Flaw::NoWrapAround.is_planted(self.flaw);
        clockwise(&self.nodes, from).take_while(move |(id, _)| !stop || *id >= from)
    }

    fn behind(&self, from: Id) -> impl Iterator<Item = (Id, EntryId)> + '_ {
        counter_clockwise(&self.nodes, from)
    }

    fn name(&self, slot: EntryId) -> Peer {
        self.owner(slot).peer
    }

    fn is_alive(&self, slot: EntryId) -> bool {
        let entry = self.entries.get(slot.key());
        entry.is_some_and(|entry| entry.standing == MemberState::Alive)
    }

    /// Virtual nodes from `from` (included) once around the circle.
    pub(in super::super) fn clockwise(&self, from: Id) -> impl Iterator<Item = (Id, Peer)> + '_ {
        self.ahead(from).map(|(id, slot)| (id, self.name(slot)))
    }

    /// Virtual nodes from before `from` (excluded) once around the circle, backwards.
    pub(in super::super) fn counter_clockwise(&self, from: Id) -> impl Iterator<Item = (Id, Peer)> + '_ {
        self.behind(from).map(|(id, slot)| (id, self.name(slot)))
    }

    /// The distinct peers at or after `from`, this one included in its place, each with the first of its
    /// virtual nodes there.
    pub(in super::super) fn distinct(&self, from: Id) -> impl Iterator<Item = (Id, Peer)> + '_ {
        let mut met = Met::nobody(ROOM.min(self.members + 1));
        self.ahead(from)
            .filter(move |(_, slot)| met.insert(*slot))
            .take(self.members + 1)
            .map(|(id, slot)| (id, self.name(slot)))
    }

    /// The successor list of the point `id`: the first `r` distinct peers after it, without `but`.
    pub(in super::super) fn list(&self, id: Id, but: Peer, r: usize) -> impl Iterator<Item = Peer> + '_ {
        self.slots_after(id, but, r).map(|slot| self.name(slot))
    }

    fn slots_after(&self, id: Id, but: Peer, r: usize) -> impl Iterator<Item = EntryId> + '_ {
        let nodes = if Flaw::CountVirtualNodes.is_planted(self.flaw) {
            r
        } else {
            usize::MAX
        };
        let mut met = Met::nobody(ROOM.min(r.min(self.members) + 1));
        let but = if but == self.me.peer {
            Some(ME)
        } else {
            self.slots.get(&but).copied()
        };
        if let Some(but) = but {
            met.insert(but);
        }
        self.ahead(id.successor())
            .take(nodes)
            .map(|(_, slot)| slot)
            .filter(move |slot| met.insert(*slot))
            .take(r.min(self.members))
    }

    /// The union of the successor lists of `ids`, in the order of the peers' ids.
    pub(in super::super) fn union(&self, ids: &[Id], but: Peer, r: usize) -> Vec<&Contact> {
        let lists = ids.iter().flat_map(|id| self.slots_after(*id, but, r));
        let mut slots: Vec<EntryId> = lists.collect();
        slots.sort_unstable();
        slots.dedup();
        let mut union: Vec<&Contact> = slots.into_iter().map(|slot| self.owner(slot)).collect();
        union.sort_unstable_by_key(|contact| contact.peer);
        union
    }

    /// The first live peer after the point `id`.
    pub(in super::super) fn head(&self, id: Id) -> Option<Peer> {
        let mut after = self.ahead(id.successor()).map(|(_, slot)| slot);
        let head = after.find(|slot| self.is_alive(*slot))?;
        Some(self.name(head))
    }

    /// The live peers nearest to the target, at most so many before and after it, each with its nearest
    /// virtual node there; nobody in `without`.
    pub(in super::super) fn nearest(
        &self,
        target: Id,
        (before, after): (usize, usize),
        without: &[Peer],
    ) -> Vec<(Id, Peer)> {
        let fresh = || {
            let mut met = Met::nobody(ROOM);
            move |(_, slot): &(Id, EntryId)| {
                met.insert(*slot) && self.is_alive(*slot) && !without.contains(&self.name(*slot))
            }
        };
        let low = self.behind(target).filter(fresh()).take(before);
        let high = self.ahead(target).filter(fresh()).take(after);
        low.chain(high).map(|(id, slot)| (id, self.name(slot))).collect()
    }

    /// Whether one of these points would become the first successor of an own virtual node.
    pub(in super::super) fn would_be_head(&self, contact: &Contact) -> bool {
        let mut ids = contact.ids();
        ids.any(|id| self.behind(id).next().is_none_or(|(_, slot)| slot == ME))
    }

    /// Whether a peer on the circle is in a successor list of this one, or right before an own virtual node.
    /// What happens to others is no news for the neighbourhood.
    pub(in super::super) fn is_near(&self, peer: Peer, r: usize) -> bool {
        self.contact(peer).is_some_and(|contact| {
            contact.ids().any(|id| {
                let after = self.ahead(id.successor()).next();
                let mut between = Met::nobody(ROOM.min(r));
                let mut before = self.behind(id).map(|(_, slot)| slot);
                after.is_some_and(|(_, next)| next == ME)
                    || before.find(|slot| *slot == ME || between.insert(*slot) && between.len() == r)
                        == Some(ME)
            })
        })
    }

    /// Owners of the first virtual node before each own one, without this peer.
    pub(in super::super) fn predecessors(&self) -> BTreeSet<Peer> {
        let slots = self.own.iter().filter_map(|id| {
            let mut before = self.behind(*id).map(|(_, slot)| slot);
            before.find(|slot| *slot != ME)
        });
        slots.map(|slot| self.name(slot)).collect()
    }
}
