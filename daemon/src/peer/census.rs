//! Who is in the ring, for the policies that place by all peers.
//!
//! In a ring no larger than a successor list a peer knows everybody anyway. In a larger one it walks the
//! ring, at most every half minute, and tells its ring of those it did not know, so that custody, which
//! decides about repairs from the ring's view, sees the same peers. A ring remembers a thousand beyond its
//! lists: in larger networks custody's runs are those of the peers it remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mutualstore_dht::placement::{self, Placement, Roster};
use mutualstore_dht::ring::Liveness;
use mutualstore_dht::{Contact, Id, Member, Peer, RingView as _};

use super::Membership;

/// How long a walk is good for.
const FRESH: Duration = Duration::from_secs(30);
/// How often is looked whether custody needs to know everybody.
const LOOK: Duration = Duration::from_secs(5);

/// The last census, and whose turn it is to take the next.
#[derive(Default)]
pub(super) struct Counting {
    last: Mutex<Option<Arc<Census>>>,
    /// Taken by who walks the ring for it.
    turn: tokio::sync::Mutex<()>,
}

/// All peers that are there, with what places are decided by.
#[derive(Debug)]
pub(crate) struct Census {
    me: Peer,
    contacts: BTreeMap<Peer, Contact>,
    circle: BTreeMap<Id, Peer>,
    roster: Roster,
    /// When the peers were counted, and what revision of the ring is taken into account.
    taken: Instant,
    revision: u64,
}

impl Census {
    fn new(me: Peer, contacts: impl IntoIterator<Item = Contact>, taken: Instant, revision: u64) -> Self {
        let contacts: BTreeMap<Peer, Contact> = contacts.into_iter().map(|c| (c.peer, c)).collect();
        let nodes = contacts
            .values()
            .flat_map(|contact| contact.ids().map(|id| (id, contact.peer)));
        let member = |contact: &Contact| Member {
            peer: contact.peer,
            state: contact.state,
        };
        Self {
            me,
            circle: nodes.collect(),
            roster: Roster::new(contacts.values().map(member)),
            contacts,
            taken,
            revision,
        }
    }

    /// Whom the policy names for the n shards of a stripe, best first, at least `count` as far as there are
    /// so many.
    pub(crate) fn candidates(&self, placement: Placement, stripe: Id, n: u8, count: usize) -> Vec<Contact> {
        let peers = placement::candidates(placement, stripe, n, self, &self.roster, count);
        peers
            .iter()
            .filter_map(|peer| self.contacts.get(peer).cloned())
            .collect()
    }

    /// The peers of the group that new shards of a stripe are chosen from; none where the policy has no
    /// groups.
    pub(crate) fn group(&self, placement: Placement, stripe: Id, n: u8) -> Option<Vec<Peer>> {
        let group = placement.group(n)?;
        let first = self.candidates(placement, stripe, n, 1).first()?.peer;
        Some(self.roster.run_of(first, group))
    }

    /// How many peers groups are made of.
    pub(crate) fn peers(&self) -> usize {
        self.roster.len()
    }

    /// Somebody in the ring.
    pub(crate) fn contact(&self, peer: Peer) -> Option<&Contact> {
        self.contacts.get(&peer)
    }
}

impl mutualstore_dht::RingView for Census {
    fn me(&self) -> Peer {
        self.me
    }

    fn successors(&self, id: Id, limit: usize) -> Vec<Member> {
        let mut met = BTreeSet::new();
        let circle = self.circle.range(id..).chain(self.circle.range(..id));
        let distinct = circle.filter(|(_, peer)| met.insert(**peer));
        let members = distinct.filter_map(|(_, peer)| {
            let state = self.contacts.get(peer)?.state;
            Some(Member { peer: *peer, state })
        });
        members.take(limit).collect()
    }

    fn is_alive(&self, peer: Peer) -> bool {
        self.contacts.contains_key(&peer)
    }

    fn moves(&self) -> u64 {
        self.revision
    }

    fn is_settled(&self) -> bool {
        true
    }
}

impl Membership {
    /// Whether the ring part of this peer is settled, so that its answers about others count.
    pub(crate) fn is_settled(&self) -> bool {
        self.core.read(|state| state.engine.ring.is_settled())
    }

    /// Whether the ring is so small that its lists name everybody.
    pub(crate) fn knows_everybody(&self) -> bool {
        let others = self.core.read(|state| state.engine.ring.alive().count());
        u32::try_from(others).is_ok_and(|others| others < self.network().r)
    }

    /// Everybody in the ring; walks it if the last walk was long ago. Those that were found dead since are
    /// not in it.
    pub(crate) async fn census(&self) -> Arc<Census> {
        if let Some(census) = self.current_census() {
            return census;
        }
        let _turn = self.counting.turn.lock().await;
        if let Some(census) = self.current_census() {
            return census;
        }
        let revision = self.core.read(|state| state.engine.ring.revision());
        let last = self.last_census().filter(|last| last.taken.elapsed() < FRESH);
        let (counted, taken) = match last {
            _ if self.knows_everybody() => (Vec::new(), Instant::now()),
            Some(last) => (last.contacts.values().cloned().collect(), last.taken),
            None => (self.walk_around().await, Instant::now()),
        };
        let mut contacts = self.core.alive();
        let known: BTreeSet<Peer> = contacts.iter().map(|contact| contact.peer).collect();
        let is_dead = |peer| {
            let liveness = self.core.read(|state| state.engine.ring.liveness(peer));
            matches!(liveness, Some(Liveness::Dead { .. }))
        };
        let others = counted
            .into_iter()
            .filter(|contact| !known.contains(&contact.peer));
        contacts.extend(others.filter(|contact| !is_dead(contact.peer)));
        let census = Arc::new(Census::new(self.me, contacts, taken, revision));
        *self.counting.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&census));
        census
    }

    /// The last one, if nothing has changed since and it is not old.
    fn current_census(&self) -> Option<Arc<Census>> {
        let revision = self.core.read(|state| state.engine.ring.revision());
        let last = self.last_census()?;
        (last.revision == revision && last.taken.elapsed() < FRESH).then_some(last)
    }

    /// The last one, however old.
    pub(crate) fn last_census(&self) -> Option<Arc<Census>> {
        self.counting
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks all members, and tells the ring of those it did not know.
    async fn walk_around(&self) -> Vec<Contact> {
        let Some(walk) = self.core.walk().await else {
            return Vec::new();
        };
        self.core.with(|state, now| {
            for contact in &walk.answered {
                if contact.peer != self.me && !state.engine.ring.is_alive(contact.peer) {
                    state.engine.ring.introduce(now, contact.clone());
                }
            }
        });
        walk.answered
    }
}

/// Sees to it that the ring knows everybody while custody needs that.
pub(crate) async fn keep(member: Arc<Membership>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let needed = member.core.read(|state| state.engine.custody.needs_roster());
        if needed && member.is_settled() && !member.knows_everybody() {
            member.census().await;
        }
    }
}
