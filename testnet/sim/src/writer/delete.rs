//! Deletions of one stripe: drives `Deleting` as the daemon does.

use std::collections::{BTreeMap, BTreeSet};

use mutualstore_dht::custody::{Shape, TOMBSTONE};
use mutualstore_dht::writer::{Delete, Deleting, SPARE, Seen, Target};
use mutualstore_dht::{Id, Others, Peer, Time};

use super::super::check::Violation;
use super::super::disk::{indices, is_shard};
use super::super::world::{Who, World};
use super::put::WRITE_TIMEOUT;
use super::{Client, DEADLINE, Message};

/// A stripe whose owner deletes it.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) through: Who,
    pub(super) life: u32,
    stripe: Id,
    shape: Shape,
    deleting: Deleting,
    /// Shards and holders at the last look.
    seen: BTreeSet<(u8, Peer)>,
    /// Tombstones on their way, and until when an answer is waited for.
    sent: BTreeMap<Who, u64>,
    /// Who took one that was spread, while one is.
    spread: Option<BTreeSet<Peer>>,
}

impl World {
    /// The owner of an acknowledged stripe deletes it through some host.
    pub(crate) fn delete(&mut self, through: Who) {
        let Some((stripe, shape)) = self.random_stripe() else {
            return;
        };
        let Some(host) = self.host(through) else { return };
        let target = Target {
            stripe,
            k: shape.k,
            n: shape.n,
        };
        let mut deleting = Deleting::new(vec![target], BTreeMap::new(), WRITE_TIMEOUT);
        deleting.plant(self.setup.flaw);
        let deletion = Deletion {
            through,
            life: host.life,
            stripe,
            shape,
            deleting,
            seen: BTreeSet::new(),
            sent: BTreeMap::new(),
            spread: None,
        };
        self.writers.next += 1;
        let number = self.writers.next;
        self.writers
            .clients
            .insert(number, Client::Delete(Box::new(deletion)));
        self.advance(number);
    }

    /// Takes all steps that a deletion can take. One that goes on, and when at the latest.
    pub(super) fn advance_delete(
        &mut self,
        number: u64,
        mut deletion: Box<Deletion>,
    ) -> Option<(Box<Deletion>, Option<u64>)> {
        let late = deletion.sent.iter().filter(|(_, due)| **due <= self.now);
        for who in late.map(|(who, _)| *who).collect::<Vec<Who>>() {
            self.settle_tombstone(&mut deletion, who, false);
        }
        let (through, stripe) = (deletion.through, deletion.stripe);
        loop {
            let host = self.host(through)?;
            let others = Others::new(host.ring()?, host.custody()?, host.moment(self.now));
            match deletion.deleting.poll(self.time(), &others) {
                Some(Delete::Look) => {
                    let seen = self.look(through, stripe, deletion.shape, deletion.deleting.away());
                    deletion.seen.clone_from(&seen.held);
                    deletion.deleting.handle_look(vec![seen]);
                }
                Some(Delete::Replicate { to, stripes }) => match self.who(to) {
                    Some(to) => self.send_tombstone(number, &mut deletion, to),
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
                        self.send_tombstone(number, &mut deletion, *to);
                    }
                    deletion.end_spread();
                }
                None if deletion.deleting.is_over() => {
                    if deletion.deleting.outcome().is_ok() {
                        self.check_gone(&deletion);
                    }
                    return None;
                }
                None => {
                    let due = deletion.deleting.poll_timeout().map(Time::as_micros);
                    let due = deletion.sent.values().copied().chain(due).min();
                    return Some((deletion, due));
                }
            }
        }
    }

    /// Sends a tombstone.
    fn send_tombstone(&mut self, number: u64, deletion: &mut Deletion, to: Who) {
        deletion.sent.insert(to, self.now + DEADLINE);
        let message = Message::StoreTombstone {
            client: number,
            stripe: deletion.stripe,
            shape: deletion.shape,
        };
        self.write(deletion.through, to, message);
    }

    /// A client was told that a stripe is deleted: of the shards that its host saw last, fewer than k can be
    /// read where no tombstone is; and where nobody has a tombstone, hosts that it knows of do not have k
    /// shards either. Repairs on their way, and hosts that were away for long, find the tombstones later.
    fn check_gone(&mut self, deletion: &Deletion) {
        let (through, id) = (deletion.through, deletion.stripe);
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
        if left.len() >= usize::from(deletion.shape.k) {
            let detail =
                format!("host {through} ended the deletion of {id:?}, of which {left:?} can be read");
            self.violate(Violation::custody("the deleted are gone", detail));
        }
    }

    /// What the living peers in the view of a host say of a stripe.
    fn look(&self, through: Who, stripe: Id, shape: Shape, away: &BTreeMap<Id, BTreeMap<u8, Peer>>) -> Seen {
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
        known
            .retain(|index, peer| *index < shape.n && !held.contains(index) && !seen.answered.contains(peer));
        seen.unreachable = known;
        seen
    }

    /// A peer took a tombstone, or did not.
    pub(super) fn settle_tombstone(&self, deletion: &mut Deletion, from: Who, taken: bool) {
        let Some(peer) = self.peer(from) else { return };
        if deletion.sent.remove(&from).is_none() {
            return;
        }
        if let Some(took) = &mut deletion.spread {
            took.extend(taken.then_some(peer));
            deletion.end_spread();
        } else {
            let stripe = deletion.stripe;
            let taken: BTreeSet<Id> = taken.then_some(stripe).into_iter().collect();
            deletion.deleting.handle_replicated(peer, &[stripe], &taken);
        }
    }
}

impl Deletion {
    /// Once nobody is waited for, hands in who took the tombstone.
    fn end_spread(&mut self) {
        if self.sent.is_empty()
            && let Some(took) = self.spread.take()
        {
            self.deleting.handle_spread(self.stripe, took);
        }
    }
}
