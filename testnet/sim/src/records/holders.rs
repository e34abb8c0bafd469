//! Holders of records: they take them in, tell them, put them together and give way.

use mutualstore_dht::custody::{Item, JobId, JobOutcome, Request, TrimOrder};
use mutualstore_dht::records::{Publish, RecordSet, Stamp, Taken};
use mutualstore_dht::{Id, Peer};

use super::super::message::Body;
use super::super::world::{Who, World};
use super::{Answer, Message};

impl World {
    pub(crate) fn record_message(&mut self, to: Who, from: Who, from_life: u32, message: Message) {
        let (number, answer) = match message {
            Message::Take { operation, id, stamp } => {
                let answer = self.take_record(to, id, stamp, true);
                let answer = Message::Taken { operation, answer };
                return self.send(to, from, Some(from_life), Body::Records(answer));
            }
            Message::Read { operation, id } => {
                let set = self
                    .host(to)
                    .map(|host| host.sets.get(&id).cloned().unwrap_or_default());
                let answer = Message::Given { operation, set };
                return self.send(to, from, Some(from_life), Body::Records(answer));
            }
            Message::Taken { operation, answer } => (operation, Some(Answer::Taken(answer))),
            Message::Given { operation, set } => (operation, set.map(Answer::Given)),
        };
        if let Some(mut operation) = self.records.operations.remove(&number) {
            self.settle_operation(&mut operation, from, answer);
            self.records.operations.insert(number, operation);
            self.advance_operation(number);
        }
    }

    /// A running host takes a record in, durably: from a device, or from another holder.
    pub(crate) fn take_record(&mut self, who: Who, id: Id, stamp: Stamp, from_device: bool) -> Publish {
        let flaw = self.setup.flaw;
        let Some(host) = self.host_mut(who).filter(|host| host.is_running()) else {
            return Publish::Silent;
        };
        if host.is_liar() {
            return Publish::Silent;
        }
        let set = host.sets.entry(id).or_default();
        let (taken, answer) = if from_device {
            set.offer(stamp, flaw)
        } else {
            (set.take(stamp), Publish::Stored)
        };
        let digest = set.digest();
        if let Taken::New(_) = taken {
            self.keep(who, |custody, now, _| {
                custody.records_changed(now, id, Some(digest));
            });
        }
        answer
    }

    /// Puts together what some hosts have, and gives each of the others what it lacks.
    pub(crate) fn merge_records(&mut self, who: Who, job: JobId, id: Id, (from, to): (&[Peer], Vec<Peer>)) {
        let there = from.iter().filter_map(|peer| self.reached(who, *peer));
        let there: Vec<Who> = there.collect();
        let sets = there.iter().filter_map(|from| self.host(*from)?.sets.get(&id));
        let stamps: Vec<Stamp> = sets.flat_map(RecordSet::stamps).collect();
        let mut outcome = JobOutcome::default();
        let all = there.len() == from.len();
        let digest = |world: &Self, who: Option<Who>| world.host(who?)?.sets.get(&id).map(RecordSet::digest);
        let mut changed = false;
        for peer in to {
            let target = self.reached(who, peer);
            let before = digest(self, target);
            for stamp in &stamps {
                if let Some(target) = target {
                    self.take_record(target, id, *stamp, false);
                }
            }
            changed |= digest(self, target) != before;
            let list = if target.is_some() && all {
                &mut outcome.stored
            } else {
                &mut outcome.failed
            };
            list.push((Item::of_records(0), peer));
        }
        self.counters.work.merged += u64::from(changed);
        self.drive(who, |engine, now| engine.handle_job(now, job, outcome));
    }

    /// Somebody orders all holders of a key's records to give way.
    pub(crate) fn forge_yields(&mut self) {
        let ids: Vec<Id> = self.records.acknowledged.keys().copied().collect();
        let Some(id) = crate::pick(&mut self.rng, &ids).copied() else {
            return;
        };
        let holders = self.those(|host| host.is_running() && host.sets.contains_key(&id));
        let Some(sender) = holders.first().and_then(|who| self.peer(*who)) else {
            return;
        };
        for victim in holders {
            let order = TrimOrder {
                stripe: id,
                item: Item::of_records(0),
                keep: sender,
                others: Vec::new(),
            };
            self.forge(victim, sender, Request::Trim { orders: vec![order] });
        }
    }

    /// Drops the records of a key if these peers have confirmed all of them.
    pub(crate) fn yield_records(&mut self, who: Who, id: Id, to: &[Peer]) {
        let Some(mine) = self.host(who).and_then(|host| host.sets.get(&id)) else {
            return;
        };
        let nearer: Vec<Who> = to.iter().filter_map(|peer| self.reached(who, *peer)).collect();
        let covers = |other: &Who| {
            let host = self.host(*other);
            host.and_then(|host| host.sets.get(&id))
                .is_some_and(|set| set.covers(mine))
        };
        if nearer.len() == to.len() && nearer.iter().all(covers) {
            if let Some(host) = self.host_mut(who) {
                host.sets.remove(&id);
            }
            self.check_yield(who, id, &nearer);
            self.keep(who, |custody, now, _| custody.records_changed(now, id, None));
        }
    }
}
