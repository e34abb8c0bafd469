//! Fingers: the successors of points at growing distances from each own virtual node (Stoica 2003, §IV.D).
//!
//! Only points beyond the successor list need one, so small rings have none. They are refreshed one after the
//! other by lookups, a bounded number per round.

use std::collections::BTreeMap;

use super::Ring;
use super::lookup::Aim;
use crate::{Contact, Id, Peer, Time};

/// Lookups for fingers per round.
const PER_ROUND: usize = 2;

/// What lies before and far behind the own virtual nodes.
#[derive(Debug, Default)]
pub(super) struct Pointers {
    /// By own virtual node, the virtual node whose peer last asked what follows it there, and when: Chord's
    /// predecessor.
    pub(super) predecessors: BTreeMap<Id, (Id, Time)>,
    /// By own virtual node and exponent of the distance.
    pub(super) fingers: BTreeMap<(Id, u8), Peer>,
    cursor: Cursor,
}

/// The finger refreshed next: position of the own virtual node, exponent of the distance.
#[derive(Debug, Default)]
struct Cursor {
    own: usize,
    /// 256 when the farthest point was the last.
    exponent: u16,
}

impl Ring {
    /// Refreshes the next fingers.
    pub(super) fn refresh_fingers(&mut self, now: Time) {
        if self.joining.join.is_some() {
            return;
        }
        for _ in 0..PER_ROUND {
            let Some((own, exponent)) = self.next_finger() else {
                return;
            };
            let target = own.add_power_of_two(exponent);
            let id = self.next_lookup_id();
            let nodes = self.nearest(target, &[]);
            self.begin_lookup(
                now,
                id,
                (Aim::Finger(own, exponent), target, 1),
                nodes,
                Vec::new(),
            );
        }
    }

    /// The first point after the cursor that is not within its virtual node's successor list.
    fn next_finger(&mut self) -> Option<(Id, u8)> {
        for _ in 0..=self.table.own().len() {
            let Some(own) = self.table.own().get(self.pointers.cursor.own).copied() else {
                self.pointers.cursor = Cursor::default();
                continue;
            };
            let least = self.table.first_exponent(own, self.config.r);
            let next = least.map(|least| u16::from(least).max(self.pointers.cursor.exponent));
            if let Some(exponent) = next.and_then(|next| u8::try_from(next).ok()) {
                self.pointers.cursor.exponent = u16::from(exponent) + 1;
                return Some((own, exponent));
            }
            self.pointers.cursor = Cursor {
                own: self.pointers.cursor.own + 1,
                exponent: 0,
            };
        }
        None
    }

    pub(super) fn set_finger(&mut self, finger: (Id, u8), contacts: &[Contact]) {
        let first = contacts.iter().map(|contact| contact.peer);
        match first.into_iter().find(|peer| self.table.is_member(*peer)) {
            Some(peer) => self.pointers.fingers.insert(finger, peer),
            None => self.pointers.fingers.remove(&finger),
        };
    }
}
