//! Anti-entropy between a holder and the primaries of its shards.
//!
//! The holder drives. It sends the total fingerprint of what it reports to a primary, with the full content
//! of the buckets that changed since the two agreed. The primary replaces what it knew of those buckets and
//! compares totals. When they differ it answers with its own fingerprint per bucket, and the holder lists the
//! buckets that differ, page by page. A full listing of a bucket is idempotent and needs no history, so lost
//! and repeated messages do no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::custody::holder::Held;
use crate::custody::key::{Item, ItemKey, Slot};
use crate::custody::message::{Entry, Listing};
use crate::custody::peers::Handle;
use crate::custody::sync::fingerprint::Fingerprints;
use crate::custody::types::CustodyConfig;
use crate::{Id, Time};

/// The holder's side: what this peer reports to one primary.
#[derive(Debug, Default)]
pub(in crate::custody) struct Outgoing {
    fingerprints: Fingerprints,
    /// Buckets that changed, or differed, since they were listed.
    dirty: BTreeSet<u8>,
    /// Buckets listed to their end in the report in flight.
    listed: BTreeSet<u8>,
    /// Where the listing of a large bucket goes on.
    cursor: Option<(u8, Id)>,
    in_flight: bool,
    /// How many buckets differed in the primary's last answer, if the two have not agreed since.
    behind: Option<usize>,
    /// How many reports in a row failed or brought nothing forward.
    failures: u32,
    due: Option<Time>,
}

impl Outgoing {
    pub(in crate::custody) fn add(
        &mut self,
        now: Time,
        key: ItemKey,
        committed: bool,
        config: &CustodyConfig,
    ) {
        self.fingerprints.add(key, committed);
        self.touch(now, key, config);
    }

    pub(in crate::custody) fn remove(
        &mut self,
        now: Time,
        key: ItemKey,
        committed: bool,
        config: &CustodyConfig,
    ) {
        self.fingerprints.remove(key, committed);
        self.touch(now, key, config);
    }

    fn touch(&mut self, now: Time, key: ItemKey, config: &CustodyConfig) {
        if self.dirty.is_empty() {
            self.soon(now + backoff(config, self.failures));
        }
        self.dirty.insert(key.slot.bucket);
    }

    /// The primary asked for a report, or must be asked whether it still agrees.
    pub(in crate::custody) fn soon(&mut self, at: Time) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// The primary is unreachable. When it is back, the totals show what it missed.
    pub(in crate::custody) fn abandon(&mut self) {
        self.dirty.clear();
        self.cursor = None;
        self.failures = 0;
        self.due = None;
    }

    pub(in crate::custody) fn due(&self) -> Option<Time> {
        self.due.filter(|_| !self.in_flight)
    }

    /// The total, and listings of the dirty buckets up to a page, taken from `shards`.
    pub(in crate::custody) fn report(
        &mut self,
        primary: Handle,
        shards: &BTreeMap<ItemKey, Held>,
        page: usize,
    ) -> (u64, Vec<Listing>) {
        self.due = None;
        self.in_flight = true;
        self.listed.clear();
        let mut listings = Vec::new();
        let mut room = page;
        while room > 0
            && let Some(bucket) = self.dirty.first().copied()
        {
            let from = self.cursor.take().filter(|(at, _)| *at == bucket);
            let from = from.map_or(Id::default(), |(_, from)| from);
            let listing = list(primary, shards, Slot { bucket, stripe: from }, room);
            room = room.saturating_sub(listing.entries.len());
            if listing.to == LAST {
                self.dirty.remove(&bucket);
                self.listed.insert(bucket);
            } else {
                self.cursor = Some((bucket, listing.to.successor()));
                room = 0;
            }
            listings.push(listing);
        }
        (self.fingerprints.total(), listings)
    }

    /// The primary agrees with the total reported. `jitter` scales the time to the next idle report.
    pub(in crate::custody) fn agreed(&mut self, now: Time, config: &CustodyConfig, jitter: f64) {
        self.in_flight = false;
        self.behind = None;
        self.failures = 0;
        if !self.dirty.is_empty() {
            self.soon(now + config.exchange_dirty);
        } else if !self.fingerprints.is_empty() {
            self.soon(now + config.exchange_idle.mul_f64(jitter));
        }
    }

    /// The primary's record differs: these are its fingerprints per bucket.
    pub(in crate::custody) fn differs(&mut self, now: Time, theirs: &[(u8, u64)], config: &CustodyConfig) {
        self.in_flight = false;
        let differing = self.fingerprints.differing(theirs);
        let before = self.behind.replace(differing.len());
        let forward = before.is_none_or(|before| differing.len() < before) || self.cursor.is_some();
        self.dirty.extend(differing);
        if forward {
            self.failures = 0;
            self.soon(now);
        } else {
            self.failures += 1;
            self.soon(now + backoff(config, self.failures));
        }
    }

    /// The report was not answered.
    pub(in crate::custody) fn failed(&mut self, now: Time, config: &CustodyConfig) {
        self.in_flight = false;
        self.cursor = None;
        self.failures += 1;
        self.dirty.append(&mut self.listed);
        self.soon(now + backoff(config, self.failures));
    }
}

fn backoff(config: &CustodyConfig, failures: u32) -> Duration {
    (config.exchange_dirty * 2u32.pow(failures.min(10))).min(config.exchange_idle)
}

const LAST: Id = Id::new([0xff; crate::id::ID_LEN]);

/// What is reported to `primary` from `from` on, to the end of its bucket or about `room` shards of it. A
/// stripe is listed whole or not at all.
fn list(primary: Handle, shards: &BTreeMap<ItemKey, Held>, from: Slot, room: usize) -> Listing {
    let mut entries: Vec<Entry> = Vec::new();
    let mut to = LAST;
    let first = ItemKey {
        slot: from,
        item: Item::FIRST,
    };
    let rest = shards.range(first..);
    for (key, held) in rest.take_while(|(key, _)| key.slot.bucket == from.bucket) {
        if !held.is_reported_to(primary) {
            continue;
        }
        if let Some(last) = entries.last()
            && entries.len() >= room
            && last.stripe != key.slot.stripe
        {
            to = last.stripe;
            break;
        }
        entries.push(held.entry(*key));
    }
    Listing {
        bucket: from.bucket,
        from: from.stripe,
        to,
        entries,
    }
}

/// The primary's side: the record of one holder.
#[derive(Debug, Default)]
pub(in crate::custody) struct Incoming {
    pub(in crate::custody) fingerprints: Fingerprints,
    /// The run and the number of the last report applied.
    last: Option<(u64, u64)>,
}

impl Incoming {
    /// Whether a report is newer than the last one.
    pub(in crate::custody) fn admit(&mut self, instance: u64, sequence: u64) -> bool {
        let overtaken = self
            .last
            .is_some_and(|(run, number)| run == instance && number >= sequence);
        if !overtaken {
            self.last = Some((instance, sequence));
        }
        !overtaken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custody::Shape;
    use crate::custody::Tenure;
    use crate::custody::peers::ME;
    use crate::custody::tests::harness::stripe;

    fn held() -> Held {
        let shape = Shape {
            k: 1,
            n: 3,
            shard_len: 1,
            placement: crate::placement::Placement::Successors,
        };
        Held::new(shape, Tenure::Committed, Some(ME))
    }

    #[test]
    fn report_overtaken_is_not_admitted() {
        let mut incoming = Incoming::default();
        assert!(incoming.admit(7, 2) && incoming.admit(7, 5));
        assert!(!incoming.admit(7, 5) && !incoming.admit(7, 4));
        assert!(incoming.admit(8, 1), "a new run counts anew");
    }

    #[test]
    fn pages_of_a_bucket_cover_it_and_split_no_stripe() {
        let bucket = 9;
        let ids = (0..4000u64).map(stripe);
        let ids = ids.filter(|id| id.as_bytes().last() == Some(&bucket));
        let keys = ids.flat_map(|id| (0..3).map(move |index| ItemKey::new(id, Item::Shard(index))));
        let shards: BTreeMap<ItemKey, Held> = keys.map(|key| (key, held())).collect();
        assert!(shards.len() > 12);
        let (mut from, mut listed) = (Id::default(), Vec::new());
        loop {
            let listing = list(ME, &shards, Slot { bucket, stripe: from }, 4);
            assert!(
                listing.is_valid() && listing.entries.len().is_multiple_of(3) && listing.entries.len() <= 6
            );
            listed.extend(listing.entries.iter().map(ItemKey::from));
            if listing.to == LAST {
                break;
            }
            from = listing.to.successor();
        }
        assert!(listed.iter().eq(shards.keys()));
    }

    #[test]
    fn reports_to_a_primary_that_never_agrees_back_off() {
        let config = CustodyConfig::default();
        let (mut outgoing, mut now, mut gaps) = (Outgoing::default(), Time::ZERO, Vec::new());
        outgoing.add(now, ItemKey::new(stripe(1), Item::Shard(0)), true, &config);
        let shards = BTreeMap::from([(ItemKey::new(stripe(1), Item::Shard(0)), held())]);
        for _ in 0..12 {
            let due = outgoing.due().unwrap();
            gaps.push(due.since(now));
            now = due.max(now);
            outgoing.report(ME, &shards, 100);
            assert_eq!(outgoing.due(), None, "one in flight");
            outgoing.differs(now, &[], &config);
        }
        assert_eq!(
            gaps.remove(1),
            Duration::ZERO,
            "the first time it is told more at once"
        );
        assert!(gaps.is_sorted());
        assert_eq!(gaps.last(), Some(&config.exchange_idle));
    }
}
