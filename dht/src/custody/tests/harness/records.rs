//! Records on the harness's disks.

use super::{CustodyNet, successors};
use crate::custody::{Item, JobOutcome};
use crate::records::{RecordSet, Stamp, Taken};
use crate::{Id, Peer, PeerState};

impl CustodyNet {
    /// A peer takes a record in, durably. Whether it has it now.
    pub(crate) fn record(&mut self, at: Peer, id: Id, stamp: Stamp) -> bool {
        if !self.is_up(at) {
            return false;
        }
        let set = self.nodes.get_mut(&at).unwrap().sets.entry(id).or_default();
        let taken = set.take(stamp);
        let digest = set.digest();
        match taken {
            Taken::New(_) => {
                self.with(at, |custody, now, _| {
                    custody.records_changed(now, id, Some(digest));
                });
                true
            }
            Taken::Known => true,
            Taken::Older | Taken::Ended | Taken::Full => false,
        }
    }

    /// What a peer has, up or not; empty if nothing.
    pub(crate) fn records(&self, at: Peer, id: Id) -> RecordSet {
        self.nodes[&at].sets.get(&id).cloned().unwrap_or_default()
    }

    /// Peers that are up and have records under an id.
    pub(crate) fn recorders(&self, id: Id) -> Vec<Peer> {
        let up = self.up().into_iter();
        up.filter(|peer| self.nodes[peer].sets.contains_key(&id))
            .collect()
    }

    /// The first peers from an id that are up and stay.
    pub(crate) fn nearest(&self, id: Id, count: usize) -> Vec<Peer> {
        let stays = |peer: Peer| self.is_up(peer) && self.nodes[&peer].state != PeerState::Draining;
        successors(&self.ids, id, count, stays)
    }

    pub(super) fn merge(&mut self, id: Id, from: &[Peer], to: Vec<Peer>) -> JobOutcome {
        let there = from.iter().filter(|peer| self.is_up(**peer));
        let sets: Vec<RecordSet> = there.map(|peer| self.records(*peer, id)).collect();
        let stamps: Vec<Stamp> = sets.iter().flat_map(RecordSet::stamps).collect();
        let mut outcome = JobOutcome::default();
        for peer in to {
            let stored = self.is_up(peer);
            for stamp in stamps.iter().filter(|_| stored) {
                self.record(peer, id, *stamp);
            }
            let list = if stored {
                &mut outcome.stored
            } else {
                &mut outcome.failed
            };
            list.push((Item::of_records(0), peer));
        }
        self.counters.merged += 1;
        outcome
    }

    pub(super) fn give_way(&mut self, peer: Peer, id: Id, to: &[Peer]) {
        let mine = self.records(peer, id);
        let covers = |other: &Peer| self.is_up(*other) && self.records(*other, id).covers(&mine);
        if to.iter().all(covers) {
            self.nodes.get_mut(&peer).unwrap().sets.remove(&id);
            self.with(peer, |custody, now, _| custody.records_changed(now, id, None));
        }
    }
}
