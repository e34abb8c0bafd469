//! Deletions of one stripe: drives `Deleting` as the daemon does.

use std::collections::{BTreeMap, BTreeSet};

use mutualstore_dht::custody::TOMBSTONE;
use mutualstore_dht::writer::{Delete, Deleting, SPARE, Seen, Target};
use mutualstore_dht::{Id, Others, Peer};

use super::super::check::Violation;
use super::super::disk::{indices, is_shard};
use super::super::world::{Who, World};
use super::put::{WRITE_TIMEOUT, at};
use super::{Ask, Session, Task};

/// A stripe whose owner deletes it.
#[derive(Debug)]
pub(super) struct Deletion {
    deleting: Deleting,
    /// Shards and holders at the last look.
    seen: BTreeSet<(u8, Peer)>,
    /// Who took one that was spread, while one is.
    spread: Option<BTreeSet<Peer>>,
}

impl World {
    /// The owner of an acknowledged stripe deletes it through some host.
    pub(crate) fn delete(&mut self, through: Who) {
        let Some((stripe, shape)) = self.random_stripe() else {
            return;
        };
        let target = Target {
            stripe,
            k: shape.k,
            n: shape.n,
        };
        let mut deleting = Deleting::new(vec![target], BTreeMap::new(), WRITE_TIMEOUT);
        deleting.plant(self.setup.flaw);
        let deletion = Deletion {
            deleting,
            seen: BTreeSet::new(),
            spread: None,
        };
        self.open(through, stripe, shape, Task::Delete(Box::new(deletion)));
    }

    /// Takes all steps that a deletion can take. When it goes on at the latest; none when it has ended.
    pub(super) fn advance_delete(&mut self, session: &mut Session, deletion: &mut Deletion) -> Option<u64> {
        let (through, stripe) = (session.through, session.stripe);
        loop {
            let host = self.host(through)?;
            let others = Others::new(host.ring()?, host.custody()?, host.moment(self.now));
            match deletion.deleting.poll(self.time(), &others) {
                Some(Delete::Look) => {
                    let seen = self.look(session, deletion.deleting.away());
                    deletion.seen.clone_from(&seen.held);
                    deletion.deleting.handle_look(vec![seen]);
                }
                Some(Delete::Replicate { to, stripes }) => match self.who(to) {
                    Some(to) => self.ask(session, Ask::Store(TOMBSTONE), to, Vec::new()),
                    None => deletion
                        .deleting
                        .handle_replicated(to, &stripes, &BTreeSet::new()),
                },
                Some(Delete::Spread { count, keepers, .. }) => {
                    let near = host
                        .ring()?
                        .successors(stripe)
                        .take(keepers.len() + count + SPARE);
                    let free = near
                        .map(|contact| contact.peer)
                        .filter(|peer| !keepers.contains(peer));
                    let free: Vec<Who> = free.take(count).filter_map(|peer| self.who(peer)).collect();
                    deletion.spread = Some(BTreeSet::new());
                    for to in &free {
                        self.ask(session, Ask::Store(TOMBSTONE), *to, Vec::new());
                    }
                    deletion.end_spread(session);
                }
                None if deletion.deleting.is_over() => {
                    if deletion.deleting.outcome().is_ok() {
                        self.check_gone(session, deletion);
                    }
                    return None;
                }
                None => return Some(at(deletion.deleting.poll_timeout())),
            }
        }
    }

    /// A client was told that a stripe is deleted: of the shards that its host saw last, fewer than k can be
    /// read where no tombstone is; and where nobody has a tombstone, hosts that it knows of do not have k
    /// shards either. Repairs on their way, and hosts that were away for long, find the tombstones later.
    fn check_gone(&mut self, session: &Session, deletion: &Deletion) {
        let (through, id) = (session.through, session.stripe);
        let unaware = |(index, peer): &&(u8, Peer)| {
            let host = self.reached(through, *peer).and_then(|who| self.host(who));
            host.is_some_and(|host| !host.is_deleted(id) && host.disk.contains_key(&(id, *index)))
        };
        let seen = deletion.seen.iter().filter(unaware);
        let mut left: BTreeSet<u8> = seen.map(|(index, _)| *index).collect();
        if self.liars() == 0 && !self.hosts.iter().any(|host| host.is_deleted(id)) {
            let stripe = self.truth.stripes.get(&id).into_iter();
            let copies = stripe.flat_map(|stripe| &stripe.copies);
            let stays = |(_, who): &&(u8, Who)| {
                let ring = self.ring(through);
                let host = self.host(*who).filter(|host| !host.retired);
                host.zip(ring)
                    .is_some_and(|(host, ring)| ring.liveness(host.peer).is_some())
            };
            left.extend(indices(copies.filter(stays)));
        }
        if left.len() >= usize::from(session.shape.k) {
            let detail =
                format!("host {through} ended the deletion of {id:?}, of which {left:?} can be read");
            self.violate(Violation::custody("the deleted are gone", detail));
        }
    }

    /// What the living peers in the view of a host say of a stripe.
    fn look(&self, session: &Session, away: &BTreeMap<Id, BTreeMap<u8, Peer>>) -> Seen {
        let (through, stripe) = (session.through, session.stripe);
        let mut seen = Seen::default();
        let mut known: BTreeMap<u8, Peer> = away.get(&stripe).cloned().unwrap_or_default();
        let ring = self.ring(through);
        let alive = ring.into_iter().flat_map(|ring| ring.alive().chain([ring.me()]));
        for peer in alive.map(|contact| contact.peer) {
            let who = self.reached(through, peer);
            let Some(host) = who.and_then(|who| self.host(who)) else {
                seen.silent.insert(peer);
                continue;
            };
            seen.answered.insert(peer);
            for (index, _) in host.records(stripe) {
                if index == TOMBSTONE {
                    seen.keepers.insert(peer);
                } else if is_shard(index) {
                    seen.held.insert((index, peer));
                }
            }
            let record = host.custody().and_then(|custody| custody.stripe(stripe));
            let shards = record.into_iter().flat_map(|record| record.shards);
            known.extend(shards.map(|shard| (shard.index, shard.peer)));
        }
        let held: BTreeSet<u8> = seen.held.iter().map(|(index, _)| *index).collect();
        known.retain(|index, peer| {
            *index < session.shape.n && !held.contains(index) && !seen.answered.contains(peer)
        });
        seen.unreachable = known;
        seen
    }
}

impl Deletion {
    /// A peer took a tombstone, or did not.
    pub(super) fn settle(&mut self, session: &Session, peer: Peer, taken: bool) {
        let stripe = session.stripe;
        if let Some(took) = &mut self.spread {
            took.extend(taken.then_some(peer));
            self.end_spread(session);
        } else {
            let taken: BTreeSet<Id> = taken.then_some(stripe).into_iter().collect();
            self.deleting.handle_replicated(peer, &[stripe], &taken);
        }
    }

    /// Once nobody is waited for, hands in who took the tombstone.
    fn end_spread(&mut self, session: &Session) {
        if session.sent.is_empty()
            && let Some(took) = self.spread.take()
        {
            self.deleting.handle_spread(session.stripe, took);
        }
    }
}
