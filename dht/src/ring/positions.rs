//! What a newcomer does between meeting a ring and joining it: finding places for its virtual nodes.
//!
//! It asks the first member it meets what lies around its candidates, [chooses](crate::choice) among them,
//! reports them to the driver ([`Event::Positioned`], to be kept) and joins. In rings of up to r peers one
//! answer names everybody; in larger ones the choice is as good as that member's view. A peer that founds a
//! ring chooses among its own. Places are chosen once in the life of each virtual node.

use std::collections::BTreeMap;

use super::calls::Purpose;
use super::message::{Event, Request};
use super::{Phase, Ring};
use crate::choice::{CANDIDATES, choose};
use crate::contact::{MAX_INDEX, MAX_VIRTUAL_NODES};
use crate::{Contact, Id, Peer, Time};

/// Virtual nodes whose candidates are asked about in one question: bounds the answer.
const CHUNK: usize = 2;
/// After so many questions without an answer the choice is made with what is known.
const FAILURES: u32 = 3;

/// Virtual nodes still to be chosen.
#[derive(Debug)]
pub(super) struct Positions {
    /// Indices chosen earlier, which stay.
    kept: Vec<u16>,
    /// What each new virtual node is chosen from.
    candidates: Vec<Vec<u16>>,
    /// How many of the candidates were asked about.
    asked: usize,
    /// Members heard of.
    known: BTreeMap<Peer, Contact>,
    failures: u32,
    in_flight: bool,
}

impl Positions {
    /// Points to ask about next.
    fn question(&self, me: Peer) -> Vec<Id> {
        let next = self.candidates.iter().skip(self.asked).take(CHUNK);
        next.flatten().map(|index| me.virtual_node(*index)).collect()
    }
}

impl Ring {
    /// This lone peer found the network it is to belong to, whose lists have length `r` and where it has
    /// `count` virtual nodes. What it was alone ends: it looks for places there and joins through whomever it
    /// is introduced to.
    pub fn adopt(&mut self, now: Time, r: usize, count: u16) {
        self.config.r = r.clamp(4, 256);
        self.config.virtual_nodes = count;
        if self.table.members() > 0 || self.is_over() {
            return;
        }
        self.member = false;
        self.joining.newcomer = true;
        self.joining.since = now;
        self.set_phase(Phase::Joining);
        self.events.retain(|event| !matches!(event, Event::Positioned(_)));
        self.want_positions(&[]);
    }

    /// Gives this peer the virtual nodes `kept` and as many new ones as it lacks. The new ones are chosen
    /// among what the address book names, and once more when a member is met.
    pub(super) fn want_positions(&mut self, kept: &[u16]) {
        let wanted = usize::from(self.config.virtual_nodes.min(MAX_VIRTUAL_NODES));
        let Some(missing) = wanted.checked_sub(kept.len()).filter(|missing| *missing > 0) else {
            return;
        };
        let mut unused: Vec<u16> = (0..MAX_INDEX).filter(|index| !kept.contains(index)).collect();
        self.shuffle(&mut unused);
        let known = self.table.entries();
        let positions = Positions {
            kept: kept.to_vec(),
            candidates: unused
                .chunks(CANDIDATES)
                .take(missing)
                .map(<[u16]>::to_vec)
                .collect(),
            asked: 0,
            known: known.map(|(peer, entry)| (peer, entry.contact.clone())).collect(),
            failures: 0,
            in_flight: false,
        };
        self.take_positions(&positions);
        self.joining.positions = Some(positions);
    }

    fn take_positions(&mut self, positions: &Positions) -> Vec<u16> {
        let mut me = self.table.me().clone();
        let known = positions.known.values();
        let chosen = choose(me.peer, &positions.kept, &positions.candidates, known);
        let mut all: Vec<u16> = positions.kept.iter().chain(&chosen).copied().collect();
        all.sort_unstable();
        me.virtual_nodes = all.into();
        me.rise();
        self.table.set_me(me);
        chosen
    }

    /// The choice is made, with whatever is known.
    pub(super) fn settle_positions(&mut self) {
        if let Some(positions) = self.joining.positions.take() {
            let chosen = self.take_positions(&positions);
            self.events.push_back(Event::Positioned(chosen));
        }
    }

    /// Before this peer joins through the member `via`: asks it what lies around the candidates. False when
    /// there is nothing to choose.
    pub(super) fn ask_positions(&mut self, now: Time, via: &Contact) -> bool {
        let deadline = self.deadline(via.peer);
        let me = self.table.me().clone();
        let Some(positions) = &mut self.joining.positions else {
            return false;
        };
        if positions.in_flight {
            return true;
        }
        let of = positions.question(me.peer);
        if of.is_empty() || positions.failures >= FAILURES {
            self.settle_positions();
            return false;
        }
        positions.in_flight = true;
        let request = Request::Neighbours {
            contact: me,
            member: false,
            of,
            digest: 0,
        };
        self.send(now, (via.clone(), request, Purpose::Positions), deadline);
        true
    }

    /// A member answered what lies around the candidates asked about; none: it did not answer.
    pub(super) fn on_positions(&mut self, now: Time, via: Peer, answer: Option<Vec<Contact>>) {
        let r = self.config.r;
        let me = self.table.me().peer;
        let answer = answer.filter(|contacts| {
            let own = contacts.iter().find(|contact| contact.peer == me);
            own.inspect(|own| self.outdo(now, own)).is_none()
        });
        let Some(positions) = &mut self.joining.positions else {
            return;
        };
        positions.in_flight = false;
        if let Some(contacts) = answer {
            // Fewer than r peers are the whole ring.
            positions.asked = if contacts.len() < r {
                usize::MAX
            } else {
                positions.asked + CHUNK
            };
            let heard = contacts.into_iter().map(|contact| (contact.peer, contact));
            positions.known.extend(heard);
            self.start_join(now, via);
        } else {
            positions.failures += 1;
            let soon = now + self.config.retry + self.jitter(self.config.retry);
            self.set_book_timer(soon);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ring::RingConfig;
    use crate::testing::{RingNet, contact, peer};

    const SECOND: Duration = Duration::from_secs(1);

    /// The first peer founds a ring, the others join it one after the other, `size` virtual nodes each.
    fn positioned(seed: u64, count: usize, size: impl Fn(usize) -> u16) -> RingNet {
        let mut net = RingNet::new(seed);
        for number in 0..count {
            net.config.virtual_nodes = size(number);
            let newcomer = net.add(number, 0);
            if number > 0 {
                let r = net.config.r;
                net.with(newcomer, |ring, now| ring.adopt(now, r, size(number)));
                net.introduce(newcomer, peer(0));
            }
            net.run(SECOND);
        }
        assert!(net.run_until(60 * SECOND, |net| net.check().is_ok()).is_some());
        net
    }

    #[test]
    fn founder_keeps_its_positions_and_chooses_the_rest_at_once() {
        let config = RingConfig {
            virtual_nodes: 8,
            ..RingConfig::default()
        };
        let mut me = contact(1, 1, 0);
        me.virtual_nodes = [5, 9, 2000].into();
        let mut ring = Ring::new(config, me, Vec::new(), 7, Time::ZERO);
        let Some(Event::Positioned(new)) = ring.poll_event() else {
            panic!("no places");
        };
        assert_eq!((new.len(), ring.me().virtual_nodes.len()), (5, 8));
        assert!(ring.me().is_valid());
        assert!(
            [5, 9, 2000]
                .iter()
                .chain(&new)
                .all(|index| ring.me().virtual_nodes.contains(index))
        );
    }

    #[test]
    fn newcomer_chooses_its_positions_once_before_membership() {
        let mut net = positioned(3, 5, |_| 4);
        net.config.virtual_nodes = 40;
        let newcomer = net.add(5, 0);
        net.events.clear();
        net.with(newcomer, |ring, now| ring.adopt(now, 16, 40));
        assert_eq!(net.ring(newcomer).phase(), Phase::Joining);
        net.introduce(newcomer, peer(2));
        assert!(net.run_until(10 * SECOND, |net| net.check().is_ok()).is_some());
        let positioned: Vec<usize> = net
            .events
            .iter()
            .filter_map(|(_, event)| {
                if let Event::Positioned(new) = event {
                    Some(new.len())
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(positioned, [40]);
        assert_eq!(net.ring(newcomer).me().virtual_nodes.len(), 40);
    }

    #[test]
    fn newcomer_whose_only_contact_is_silent_is_alone_with_all_positions() {
        let mut net = positioned(4, 1, |_| 4);
        let newcomer = net.add(1, 0);
        net.with(newcomer, |ring, now| ring.adopt(now, 16, 12));
        net.introduce(newcomer, peer(0));
        net.freeze(peer(0));
        let alone = |net: &RingNet| net.ring(newcomer).phase() == Phase::Alone;
        assert!(net.run_until(60 * SECOND, alone).is_some());
        assert_eq!(net.ring(newcomer).me().virtual_nodes.len(), 12);
    }

    #[test]
    fn candidates_in_a_large_ring_are_asked_about_in_turn() {
        let mut net = RingNet::new(9);
        net.config.r = 4;
        net.config.virtual_nodes = 1;
        for number in 0..30 {
            let newcomer = net.add(number, 0);
            if number > 0 {
                net.with(newcomer, |ring, now| ring.adopt(now, 4, 1));
                net.introduce(newcomer, peer(number / 2));
            }
            net.run(SECOND / 2);
        }
        let done = net.run_until(200 * SECOND, |net| net.check().is_ok());
        assert!(done.is_some(), "{:?}", net.check());
        let newcomer = net.add(30, 0);
        net.with(newcomer, |ring, now| ring.adopt(now, 4, 10));
        let before = net.requests;
        net.introduce(newcomer, peer(7));
        assert!(net.run_until(60 * SECOND, |net| net.check().is_ok()).is_some());
        assert!(
            net.requests - before > 5,
            "at least one for every two virtual nodes"
        );
        assert_eq!(net.ring(newcomer).me().virtual_nodes.len(), 10);
    }
}
