//! What the harness does with effects: it changes the disks that are sets of shards.

use std::collections::BTreeSet;

use super::{CustodyNet, committed};
use crate::custody::{Effect, Item, JobOutcome, Shape, Tenure};
use crate::{Id, Peer};

impl CustodyNet {
    /// Stores shards at their targets, unless there is nothing to store.
    fn deliver(&mut self, stripe: Id, shape: Option<Shape>, targets: &[(Item, Peer)]) -> JobOutcome {
        let mut outcome = JobOutcome::default();
        for (item, to) in targets {
            let stored = shape.is_some_and(|shape| self.store(*to, committed(stripe, *item, shape)));
            let list = if stored {
                &mut outcome.stored
            } else {
                &mut outcome.failed
            };
            list.push((*item, *to));
        }
        outcome
    }

    /// Writes locators, if anybody has something of the stripe.
    fn locate(&mut self, stripe: Id, to: Vec<Peer>) -> JobOutcome {
        let held = self.nodes.values().flat_map(|node| node.disk.iter());
        let mut of_stripe = held.filter(|((other, _), _)| *other == stripe);
        let shape = of_stripe.next().map(|(_, (shape, _))| *shape);
        let targets: Vec<(Item, Peer)> = to.into_iter().map(|peer| (Item::Locator, peer)).collect();
        let outcome = self.deliver(stripe, shape, &targets);
        self.counters.located += outcome.stored.len() as u64;
        outcome
    }

    pub(super) fn work(&mut self, peer: Peer, effect: Effect) {
        let wedged = self.nodes[&peer].wedged;
        match effect {
            Effect::Regenerate { job, .. }
            | Effect::Copy { job, .. }
            | Effect::Locate { job, .. }
            | Effect::Merge { job, .. }
                if wedged =>
            {
                self.finish(peer, job, JobOutcome::default());
            }
            Effect::Regenerate {
                job,
                stripe,
                shape,
                sources,
                targets,
            } => {
                let there = sources
                    .iter()
                    .filter(|(index, peer)| self.holds(*peer, stripe, Item::Shard(*index)));
                let there: BTreeSet<u8> = there.map(|(index, _)| *index).collect();
                let able = there.len() >= usize::from(shape.k) && !self.inconsistent;
                let targets: Vec<(Item, Peer)> = targets
                    .into_iter()
                    .map(|(index, to)| (Item::Shard(index), to))
                    .collect();
                let mut outcome = self.deliver(stripe, Some(shape).filter(|_| able), &targets);
                outcome.inconsistent = self.inconsistent;
                self.counters.regenerated += outcome.stored.len() as u64;
                self.finish(peer, job, outcome);
            }
            Effect::Copy {
                job,
                stripe,
                item,
                from,
                to,
            } => {
                let shard = self.nodes[&from].disk.get(&(stripe, item));
                let shape = shard.map(|(shape, _)| *shape).filter(|_| self.is_up(from));
                let outcome = self.deliver(stripe, shape, &[(item, to)]);
                self.counters.copied += outcome.stored.len() as u64;
                self.finish(peer, job, outcome);
            }
            Effect::Locate { job, stripe, to, .. } => {
                let outcome = self.locate(stripe, to);
                self.finish(peer, job, outcome);
            }
            Effect::Discover { point } => {
                if let Some(rings) = &mut self.rings {
                    rings.with(peer, |ring, now| ring.lookup(now, point, 16));
                }
            }
            Effect::Drop { stripe, item, .. } => self.drop_item(peer, stripe, item),
            Effect::Merge { job, id, from, to } => {
                let outcome = self.merge(id, &from, to);
                self.finish(peer, job, outcome);
            }
            Effect::Yield { id, to } => self.give_way(peer, id, &to),
            Effect::Commit { stripe } => {
                let node = self.nodes.get_mut(&peer).unwrap();
                let range = node.disk.range_mut((stripe, Item::FIRST)..=(stripe, Item::LAST));
                range.for_each(|(_, (_, tenure))| *tenure = Tenure::Committed);
                self.with(peer, |custody, now, _| custody.committed(now, stripe));
            }
        }
    }

    fn drop_item(&mut self, peer: Peer, stripe: Id, item: Item) {
        self.counters.dropped += 1;
        let node = self.nodes.get_mut(&peer).unwrap();
        let dropped = node.disk.remove(&(stripe, item));
        if let Some((_, Tenure::Committed)) = dropped.filter(|_| item != Item::Locator) {
            let mut disks = self.nodes.values().map(|node| &node.disk);
            assert!(
                disks.any(|disk| disk.contains_key(&(stripe, item))),
                "{peer:?} dropped the last copy of {stripe:?}:{item:?}"
            );
        }
        self.with(peer, |custody, now, _| custody.removed(now, stripe, item));
    }
}
