//! What must hold of records.
//!
//! **Always**: what was acknowledged lies on some disk, unless all that acknowledged it were wiped; a reading
//! that heard a holder of it has it.
//!
//! **In the end**: the first five that stay have the same under each id, nobody else has any, and it is all
//! that any disk had. The tree that it makes has every entry that was acknowledged.
//!
//! One thing may be displaced for a time: what two devices with one number had acknowledged by majorities
//! without a common holder, or one of three that went on from one disk, see
//! [`mutualstore_dht::records::Author`]. In the end it is there too.

use std::collections::{BTreeMap, BTreeSet};

use itertools::Itertools;
use mutualstore_dht::Id;
use mutualstore_dht::records::{HOLDERS, RecordSet, Stamp};

use super::super::check::Violation;
use super::super::host::Host;
use super::super::world::{Who, World};
use super::{Reading, Records};

/// What devices were told is stored under one id.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// By device.
    of: BTreeMap<usize, Latest>,
    /// Each record and the majority that acknowledged it.
    majorities: Vec<(usize, Stamp, BTreeSet<Who>)>,
    /// How many records there were.
    pub(super) count: u64,
}

/// How much a device was told of, and the hosts that said that they have it or confirmed it since.
#[derive(Debug, Default)]
struct Latest {
    count: u64,
    /// The number that said it.
    writer: u64,
    holders: BTreeSet<Who>,
}

/// So much of a device was acknowledged under a number, and these hosts have it.
pub(super) type Owed = (usize, u64, u64, BTreeSet<Who>);

impl Records {
    /// Whether what a device was told of is in a set.
    fn has(&self, set: &RecordSet, device: usize, count: u64) -> bool {
        let says = |stamp: Stamp| self.said.get(&stamp.hash)?.get(&device).copied();
        set.stamps().any(|stamp| says(stamp) >= Some(count))
    }

    /// Notes which majority acknowledged a record, and whether the number split.
    fn note_majority(&mut self, id: Id, device: usize, stamp: Stamp, stored: &BTreeSet<Who>) {
        let said = &self.said;
        let says_less = |one: &Stamp, other: &Stamp| {
            let (one, other) = (said.get(&one.hash), said.get(&other.hash));
            let other = other.into_iter().flatten();
            other
                .into_iter()
                .any(|(device, count)| one.and_then(|one| one.get(device)) < Some(count))
        };
        let majorities = &mut self.acknowledged.entry(id).or_default().majorities;
        let parted = majorities.iter().any(|(of, other, by)| {
            *of != device
                && other.writer == stamp.writer
                && by.is_disjoint(stored)
                && says_less(other, &stamp)
                && says_less(&stamp, other)
        });
        majorities.push((device, stamp, stored.clone()));
        if parted {
            self.split.insert(stamp.writer);
        }
    }
}

impl World {
    /// A device was told that its record is stored, or that more hosts have it.
    pub(super) fn acknowledge_record(
        &mut self,
        id: Id,
        (device, stamp): (usize, Stamp),
        (stored, needed): (&BTreeSet<Who>, usize),
        first: bool,
    ) {
        let said = self
            .records
            .said
            .get(&stamp.hash)
            .and_then(|says| says.get(&device));
        let count = said.copied().unwrap_or_default();
        if first {
            self.records.note_majority(id, device, stamp, stored);
        }
        // Later calls name again who had it at first, and may have been wiped since.
        let has = |who: &&Who| {
            let set = self.host(**who).and_then(|host| host.sets.get(&id));
            set.is_some_and(|set| self.records.has(set, device, count))
        };
        let holders: BTreeSet<Who> = stored.iter().filter(|who| first || has(who)).copied().collect();
        let acknowledged = self.records.acknowledged.entry(id).or_default();
        acknowledged.count += u64::from(first);
        let latest = acknowledged.of.entry(device).or_default();
        if count > latest.count {
            latest.holders.clear();
        }
        if count >= latest.count && count > 0 {
            latest.count = count;
            latest.writer = stamp.writer;
            latest.holders.extend(holders);
        }
        if first && stored.len() < needed {
            let detail = format!(
                "{stamp:?} was acknowledged with {} of {needed} hosts",
                stored.len()
            );
            self.violate(Violation::custody(
                "acknowledged records lie with a majority",
                detail,
            ));
        }
        self.check_kept(id);
    }

    /// Whether what was said lies on a disk, up or down.
    fn is_kept(&self, id: Id, device: usize, count: u64) -> bool {
        let mut sets = self.hosts.iter().filter_map(|host| host.sets.get(&id));
        sets.any(|set| self.records.has(set, device, count))
    }

    /// Whatever was acknowledged lies on a disk.
    fn check_kept(&mut self, id: Id) {
        let owed = self.owed(id);
        let mut owed = owed.iter().filter(|(.., holders)| !holders.is_empty());
        let lost = owed.find(|(device, count, ..)| !self.is_kept(id, *device, *count));
        if let Some((device, count, _, holders)) = lost {
            let detail = format!(
                "what device {device} said of {id:?} as its {count}th, and hosts {holders:?} had, is on no \
                 disk"
            );
            self.violate(Violation::custody("acknowledged records are kept", detail));
        }
    }

    /// What those that run have under an id, put together.
    fn latest(&self, id: Id) -> RecordSet {
        let mut all = RecordSet::default();
        let running = self.hosts.iter().filter(|host| host.is_running());
        for set in running.filter_map(|host| host.sets.get(&id)) {
            set.stamps().for_each(|stamp| drop(all.take(stamp)));
        }
        all
    }

    /// What devices were told of and no reader sees any more.
    pub(crate) fn displaced_detail(&self) -> String {
        let devices = self.displaced().into_iter().map(|device| {
            let of = self.records.devices.get(device);
            format!("device {device} through {:?}", of.map(|of| of.through))
        });
        format!(
            "displaced and not back: what was said by {}",
            devices.format(", ")
        )
    }

    /// Devices that were told of something that no reader sees any more.
    pub(super) fn displaced(&self) -> Vec<usize> {
        let acknowledged = self.records.acknowledged.iter();
        let displaced = acknowledged.flat_map(|(id, of)| {
            let latest = self.latest(*id);
            let of = of.of.iter();
            of.filter(|(_, said)| self.records.split.contains(&said.writer))
                .filter(|(device, said)| !self.records.has(&latest, **device, said.count))
                .map(|(device, _)| *device)
                .collect::<Vec<usize>>()
        });
        displaced.collect()
    }

    /// A host dropped the records of a key in favour of others.
    pub(super) fn check_yield(&mut self, who: Who, id: Id, nearer: &[Who]) {
        if let Some(acknowledged) = self.records.acknowledged.get_mut(&id) {
            for latest in acknowledged.of.values_mut() {
                if latest.holders.contains(&who) {
                    // Where nobody confirmed, it is still owed.
                    if !nearer.is_empty() {
                        latest.holders.remove(&who);
                    }
                    latest.holders.extend(nearer);
                }
            }
        }
        self.check_kept(id);
    }

    /// The disk of a host is gone: what it had, it owes no more.
    pub(crate) fn lose_records(&mut self, who: Who) {
        let sets = self.host_mut(who).map(|host| std::mem::take(&mut host.sets));
        for id in sets.into_iter().flatten().map(|(id, _)| id) {
            if let Some(of) = self.records.acknowledged.get_mut(&id) {
                for latest in of.of.values_mut() {
                    latest.holders.remove(&who);
                }
            }
            self.keep(who, |custody, now, _| custody.records_changed(now, id, None));
        }
    }

    /// Whether all acknowledged records outlive the loss of this host's disk.
    pub(crate) fn records_outlive(&self, lost: Who) -> bool {
        self.records.acknowledged.keys().all(|id| {
            self.owed(*id).iter().all(|(device, count, ..)| {
                let hosts = (0..).zip(&self.hosts).filter(|(who, _)| *who != lost);
                let mut sets = hosts.filter_map(|(_, host)| host.sets.get(id));
                sets.any(|set| self.records.has(set, *device, *count))
            })
        })
    }

    /// What was acknowledged so far under an id, and no clone may have displaced.
    pub(super) fn owed(&self, id: Id) -> Vec<Owed> {
        let acknowledged = self.records.acknowledged.get(&id).into_iter();
        let of = acknowledged.flat_map(|acknowledged| &acknowledged.of);
        of.filter(|(_, latest)| !self.records.split.contains(&latest.writer))
            .map(|(device, latest)| (*device, latest.count, latest.writer, latest.holders.clone()))
            .collect()
    }

    /// A reading ends: nothing is missed that one of the first peers has, unless it did not answer.
    pub(super) fn check_reading(&mut self, through: Who, id: Id, reading: &Reading) {
        let Reading {
            set,
            near,
            answered,
            asked,
            dead,
            full,
            owed,
            ..
        } = reading;
        let unheard = near
            .iter()
            .filter(|who| !answered.contains(who) && !dead.contains(who));
        let unheard: Vec<&Who> = unheard.collect();
        if *full && !unheard.is_empty() {
            let detail = format!("host {through} read all of {id:?} but from hosts {unheard:?}");
            self.violate(Violation::custody("full readings hear all", detail));
        }
        let has = |who: Who, device, count| {
            let set = self.host(who).and_then(|host| host.sets.get(&id));
            set.is_some_and(|set| self.records.has(set, device, count))
        };
        let heard = |who: Who| {
            near.contains(&who) && !asked.contains(&who) && self.reaches(through, who)
                || answered.contains(&who)
        };
        let acknowledged = self.records.acknowledged.get(&id);
        let gave_way = |who: Who, device: usize, count| {
            let latest = acknowledged.and_then(|of| of.of.get(&device));
            latest.is_some_and(|latest| latest.count == count && !latest.holders.contains(&who))
        };
        let missed = owed.iter().find(|(device, count, writer, holders)| {
            !self.records.split.contains(writer)
                && !self.records.has(set, *device, *count)
                && holders
                    .iter()
                    .filter(|who| !gave_way(**who, *device, *count))
                    .any(|who| heard(*who) && has(*who, *device, *count))
        });
        if let Some((device, count, _, holders)) = missed {
            let detail = format!(
                "host {through} read {id:?} from {answered:?} of {near:?} and missed what device {device} \
                 said as its {count}th, which hosts {holders:?} have"
            );
            self.violate(Violation::custody("readers see what was acknowledged", detail));
        }
    }

    /// What keeps the records of some key from being as they should.
    pub(crate) fn record_problem(&self) -> Option<String> {
        let circle = self.true_circle();
        let ids: BTreeSet<Id> = self
            .hosts
            .iter()
            .flat_map(|host| host.sets.keys().copied())
            .collect();
        ids.into_iter().find_map(|id| {
            let stays = |who: &Who| self.host(*who).is_some_and(Host::stays) && !self.is_draining(*who);
            let near: Vec<Who> = super::super::check::distinct(&circle, id)
                .filter(stays)
                .take(HOLDERS)
                .collect();
            let there: Vec<Who> = self.those(|host| host.is_running() && host.sets.contains_key(&id));
            if there.is_empty() {
                return None;
            }
            let set = |who: &Who| self.host(*who).and_then(|host| host.sets.get(&id));
            let honest = |who: &&Who| self.host(**who).is_some_and(|host| !host.is_liar());
            let first = near.iter().find(honest).and_then(set);
            let same = near.iter().filter(honest).all(|who| set(who) == first);
            let above = there
                .iter()
                .filter_map(set)
                .all(|set| first.is_some_and(|first| first.covers(set)));
            // While one of the first says that it has nothing, nobody gives way.
            let beyond = self.liars() == 0 && there.iter().any(|who| !near.contains(who));
            (!same || !above || beyond).then(|| {
                let digests = there.iter().map(|who| (who, set(who).map(RecordSet::digest)));
                let digests: Vec<_> = digests.collect();
                format!("records of {id:?} lie on hosts {digests:?}, and their places are {near:?}")
            })
        })
    }

    /// An entry that was acknowledged and that the tree does not have in the end, if there is one.
    pub(crate) fn tree_problem(&self) -> Option<String> {
        self.records.acknowledged.iter().find_map(|(id, acknowledged)| {
            let all = self.latest(*id);
            // One that left may have the only copy, and stays away.
            let runs = |who: &Who| self.host(*who).is_some_and(Host::is_running);
            let kept = acknowledged
                .of
                .iter()
                .filter(|(_, latest)| latest.holders.iter().any(runs));
            let mut missing = kept.filter_map(|(device, latest)| {
                let (name, version) = self.records.tree.missing(&all, *device, latest.count)?;
                let key = name.key().trim_end();
                Some(format!(
                    "version {version:?} of {key:?} by device {device} under {id:?}"
                ))
            });
            missing.next()
        })
    }

    fn is_draining(&self, who: Who) -> bool {
        let ring = self.ring(who);
        ring.is_some_and(|ring| ring.me().state == mutualstore_dht::PeerState::Draining)
    }
}
