//! The safe rule for dropping an excess shard, on the holder's side.
//!
//! An order is a hint: those in whose favour a shard may go are [searched](super::search) for, n distinct
//! peers that hold one index each. A holder x drops (S, i) only after, within half the pin time,
//! 1. the holder y of (S, i) that was found answered that it holds it durable, verified and committed,
//!    is not itself dropping it, and will not begin to for the pin time, and
//! 2. the holder found for each other index of S answered that it holds its shard and is not dropping it.
//!
//! Hence, where none of them lies, a trim never takes the last copy of an index. When y answered it held (S,
//! i), was not trimming it, and pinned it until after x drops: x counts half the pin time from before it
//! asked, y the whole from the answer, so message delays only widen the margin. While x waits it answers no
//! to others, so of two that trim in each other's favour both give up, and around a cycle of them nobody gets
//! past the first that has begun. A restart of y loses the pin, yet y can then drop only in favour of a third
//! holder z that held and answered yes later than y did; x and all that dropped before answer no, so the
//! chain of favours ends at a holder that still has the shard. Once x has dropped the shard it tells y, whose
//! pin is of no more use: that of this trim ends, by its number, so that a word that comes late ends no
//! other. Clocks must run at rates within a factor of two of each other.
//!
//! Liars take one index of a stripe each, at most. Suppose that the last honest copies of i and j both went
//! in favour of one liar. Say the later of the two is that of i, dropped by z. When z asked, an honest holder
//! w of j said yes, and was not trimming; it began later and dropped before z did. So w had a yes for i from
//! an honest holder other than z, which was trimming then and said no; that one began later still and dropped
//! before, and so on without end, while holders are few.
//!
//! Nothing here survives a restart and nothing needs to: a trim forgotten is an excess shard found again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::custody::key::{ItemKey, Slot};
use crate::custody::message::{Pin, Question, TrimOrder};
use crate::custody::peers::{Handle, ME};
use crate::custody::{Custody, Item, Tenure};
use crate::{Flaw, PeerState, RingView, Time};

/// The most trims under way at one time. Orders beyond are ignored and come again.
const MAX_ACTIVE: usize = 4096;
/// The most pins at one time. One peer has an eighth of them at most; a peer that asks for more is refused
/// and asks again later.
const MAX_PINS: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Trimming {
    number: u64,
    begun: Time,
    /// The peer that keeps the index.
    keep: Handle,
    /// Confirmations that are still missing: the shard and the peer that holds it.
    waiting: BTreeSet<(ItemKey, Handle)>,
}

/// Trims begun here, and shards pinned here in favour of others' trims.
#[derive(Debug)]
pub(super) struct Trims {
    pin: Duration,
    active: BTreeMap<ItemKey, Trimming>,
    begun: BTreeSet<(Time, ItemKey)>,
    /// The end of each pin, by shard, peer that trims, and number of its trim.
    pins: BTreeMap<(ItemKey, Handle, u64), Time>,
    /// How many pins each peer has.
    pinned: BTreeMap<Handle, usize>,
    pruned: Time,
    /// The number of the last trim. Numbers begin at random, so that those of two runs differ.
    last: u64,
}

impl Trims {
    pub(super) fn new(pin: Duration, instance: u64) -> Self {
        Self {
            pin,
            last: instance >> 1,
            active: BTreeMap::new(),
            begun: BTreeSet::new(),
            pins: BTreeMap::new(),
            pinned: BTreeMap::new(),
            pruned: Time::ZERO,
        }
    }

    /// Begins to trim a committed shard held here, which `keep` keeps, once all of `waiting` have confirmed.
    /// The number of the trim; none when one of the stripe has begun already, for it may rest on this shard,
    /// or the shard is pinned, or there are too many.
    pub(super) fn begin(
        &mut self,
        now: Time,
        key: ItemKey,
        keep: Handle,
        waiting: BTreeSet<(ItemKey, Handle)>,
    ) -> Option<u64> {
        let is_trimming = self.active.range(of(key.slot)).next().is_some();
        if is_trimming || self.is_pinned(now, key) || self.active.len() >= MAX_ACTIVE {
            return None;
        }
        self.last += 1;
        let trimming = Trimming {
            number: self.last,
            begun: now,
            keep,
            waiting,
        };
        self.active.insert(key, trimming);
        self.begun.insert((now, key));
        Some(self.last)
    }

    fn is_active(&self, key: ItemKey) -> bool {
        self.active.contains_key(&key)
    }

    fn is_pinned(&self, now: Time, key: ItemKey) -> bool {
        let all = (key, ME, 0)..=(key, Handle::MAX, u64::MAX);
        self.pins.range(all).any(|(_, until)| now < *until)
    }

    /// Answers for a committed shard held here. A yes pins it for the trim of another peer, if there is one.
    pub(super) fn confirm(&mut self, now: Time, key: ItemKey, pin: Option<(Handle, u64)>) -> bool {
        if self.is_active(key) {
            return false;
        }
        if let Some((peer, trim)) = pin {
            let theirs = self.pinned.entry(peer).or_default();
            if self.pins.len() >= MAX_PINS || *theirs >= MAX_PINS / 8 {
                return false;
            }
            if self.pins.insert((key, peer, trim), now + self.pin).is_none() {
                *theirs += 1;
            }
        }
        true
    }

    /// The trim of `peer` is done.
    pub(super) fn release(&mut self, key: ItemKey, peer: Handle, trim: u64) {
        if self.pins.remove(&(key, peer, trim)).is_some()
            && let Some(theirs) = self.pinned.get_mut(&peer)
        {
            *theirs -= 1;
        }
    }

    /// `peer` confirmed `key`. Returns the shards that may be dropped now, with who keeps them and the number
    /// of the trim.
    fn confirmed(&mut self, now: Time, key: ItemKey, peer: Handle) -> Vec<(ItemKey, Handle, u64)> {
        let mut ready = Vec::new();
        for (trimmed, trimming) in self.active.range_mut(of(key.slot)) {
            if trimming.waiting.remove(&(key, peer)) && trimming.waiting.is_empty() {
                ready.push(*trimmed);
            }
        }
        let done = ready.into_iter().filter_map(|trimmed| {
            let trimming = self.forget(trimmed)?;
            let in_time = now < trimming.begun + self.pin / 2;
            in_time.then_some((trimmed, trimming.keep, trimming.number))
        });
        done.collect()
    }

    /// Whether a trim waits for `peer` to confirm `key`.
    pub(super) fn waits(&self, key: ItemKey, peer: Handle) -> bool {
        let mut active = self.active.range(of(key.slot));
        active.any(|(_, trimming)| trimming.waiting.contains(&(key, peer)))
    }

    /// `peer` did not confirm `key`. Returns the trims that are given up for it.
    pub(super) fn denied(&mut self, key: ItemKey, peer: Handle) -> Vec<ItemKey> {
        let waiting = self.active.range(of(key.slot));
        let off: Vec<ItemKey> = waiting
            .filter(|(_, trimming)| trimming.waiting.contains(&(key, peer)))
            .map(|(trimmed, _)| *trimmed)
            .collect();
        for trimmed in &off {
            self.forget(*trimmed);
        }
        off
    }

    /// Gives up all trims: they rest on the membership, which has changed.
    pub(super) fn give_up(&mut self) {
        self.active.clear();
        self.begun.clear();
    }

    /// Gives up a trim.
    pub(super) fn forget(&mut self, key: ItemKey) -> Option<Trimming> {
        let trimming = self.active.remove(&key)?;
        self.begun.remove(&(trimming.begun, key));
        Some(trimming)
    }

    /// Gives up trims that took too long, and forgets pins that ended.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        while let Some((begun, key)) = self.begun.first().copied()
            && now >= begun + self.pin / 2
        {
            self.forget(key);
        }
        if now >= self.pruned + self.pin {
            self.pruned = now;
            self.pins.retain(|_, until| now < *until);
            self.pinned.clear();
            for (_, peer, _) in self.pins.keys() {
                *self.pinned.entry(*peer).or_default() += 1;
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.begun.first().map(|(begun, _)| *begun + self.pin / 2)
    }
}

fn of(slot: Slot) -> std::ops::RangeInclusive<ItemKey> {
    ItemKey {
        slot,
        item: Item::FIRST,
    }..=ItemKey {
        slot,
        item: Item::LAST,
    }
}

impl Custody {
    /// An order to drop an excess shard came. The holder searches for those in whose favour it may go.
    pub(in crate::custody) fn handle_order(
        &mut self,
        now: Time,
        ring: &impl RingView,
        from: Handle,
        order: &TrimOrder,
    ) {
        let key = ItemKey::new(order.stripe, order.item);
        if key.item.records().is_some() {
            return self.handle_order_to_yield(now, ring, key.slot);
        }
        let Some(held) = self
            .holder
            .inventory
            .shards
            .get(&key)
            .filter(|held| held.tenure == Tenure::Committed)
        else {
            return;
        };
        if key.item == Item::Locator {
            // Nothing rests on a locator: whoever belongs to the responsible set has it written again.
            let responsible = ring.successors(order.stripe, self.config.r);
            let mut first = responsible.iter().filter(|member| member.peer == ring.me());
            if !first.any(|member| member.state != PeerState::Draining) {
                self.drop_shard(now, key, false);
            }
        } else if self.config.has(Flaw::TrimWithoutConfirmation) {
            self.drop_shard(now, key, false);
        } else if !self.holder.trims.is_active(key) && !self.holder.trims.is_pinned(now, key) {
            self.search(now, ring, (key, held.shape), from, order);
        }
    }

    /// The holders that keep all indices of the stripe of an excess shard were found. They are asked to
    /// confirm. Returns whether that began.
    pub(super) fn begin_trim(&mut self, now: Time, key: ItemKey, keepers: &BTreeMap<u8, Handle>) -> bool {
        let keep = key.item.shard().and_then(|index| keepers.get(&index)).copied();
        let Some(keep) = keep.filter(|keep| *keep != ME) else {
            return false;
        };
        let mut waiting = BTreeSet::new();
        for (index, peer) in keepers {
            let shard = ItemKey {
                item: Item::Shard(*index),
                ..key
            };
            if shard != key && self.config.has(Flaw::ConfirmKeeperAlone) {
                continue;
            }
            if *peer != ME {
                waiting.insert((shard, *peer));
            } else if !self.confirm(now, shard, None) {
                return false;
            }
        }
        let Some(trim) = self.holder.trims.begin(now, key, keep, waiting.clone()) else {
            return false;
        };
        for (shard, peer) in waiting {
            let pin = (shard == key).then_some(trim);
            self.peers.get_mut(peer).outbox.confirm(shard, pin);
            self.peers.arm(peer);
        }
        true
    }

    /// Answers for a shard held here. What was confirmed its writer cannot take back.
    pub(in crate::custody) fn vouch(&mut self, now: Time, peer: Handle, question: Question) -> bool {
        let key = ItemKey::new(question.stripe, question.item);
        let yes = self.confirm(now, key, question.trim.map(|trim| (peer, trim)));
        if let Some(held) = self.holder.inventory.shards.get_mut(&key).filter(|_| yes) {
            held.vouched = true;
        }
        yes
    }

    /// Whether a shard is held and about to stay.
    pub(super) fn may_confirm(&self, key: ItemKey) -> bool {
        self.holder.inventory.has_committed(key)
            && !self.holder.dropping.contains(&key)
            && !self.holder.trims.is_active(key)
    }

    pub(in crate::custody) fn confirm(
        &mut self,
        now: Time,
        key: ItemKey,
        pin: Option<(Handle, u64)>,
    ) -> bool {
        if self.config.has(Flaw::ConfirmWithoutPin) {
            return self.holder.inventory.has_committed(key);
        }
        self.may_confirm(key) && self.holder.trims.confirm(now, key, pin)
    }

    pub(in crate::custody) fn handle_confirmed(&mut self, now: Time, peer: Handle, key: ItemKey, yes: bool) {
        if !yes {
            for trimmed in self.holder.trims.denied(key, peer) {
                self.holder.searches.denied(now, trimmed, peer);
            }
            return;
        }
        for (excess, keep, trim) in self.holder.trims.confirmed(now, key, peer) {
            if self.holder.inventory.has_committed(excess) {
                self.drop_shard(now, excess, false);
                self.holder.searches.dropped(now, excess);
            }
            self.peers.get_mut(keep).outbox.release(Pin {
                stripe: excess.slot.stripe,
                item: excess.item,
                trim,
            });
            self.peers.arm(keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custody::tests::harness::{secs, stripe};

    const PIN: Duration = Duration::from_mins(1);

    fn key(index: u8) -> ItemKey {
        ItemKey::new(stripe(1), Item::Shard(index))
    }

    /// A trim of index 0 begins, which one other peer keeps and confirms.
    fn begin(trims: &mut Trims, at: Time) -> Option<u64> {
        trims.begin(at, key(0), ME, BTreeSet::from([(key(0), ME)]))
    }

    #[expect(clippy::unnecessary_wraps, reason = "what `confirm` takes")]
    fn asker(trim: u64) -> Option<(Handle, u64)> {
        Some((ME, trim))
    }

    #[test]
    fn trims_in_each_others_favour_both_give_up() {
        let (mut x, mut y) = (Trims::new(PIN, 0), Trims::new(PIN, 0));
        begin(&mut x, Time::ZERO).unwrap();
        begin(&mut y, Time::ZERO).unwrap();
        assert!(!y.confirm(Time::ZERO, key(0), asker(1)) && !x.confirm(Time::ZERO, key(0), asker(1)));
        x.denied(key(0), ME);
        assert!(x.confirmed(Time::ZERO, key(0), ME).is_empty());
    }

    #[test]
    fn second_shard_of_a_stripe_waits_for_the_trim_of_the_first() {
        let mut x = Trims::new(PIN, 0);
        begin(&mut x, Time::ZERO).unwrap();
        let second = |x: &mut Trims| x.begin(Time::ZERO, key(1), ME, BTreeSet::from([(key(1), ME)]));
        assert_eq!(second(&mut x), None);
        x.forget(key(0));
        second(&mut x).unwrap();
    }

    #[test]
    fn trim_of_a_pinned_shard_waits_for_the_pin_to_end() {
        let mut y = Trims::new(PIN, 0);
        assert!(y.confirm(Time::ZERO, key(0), asker(1)));
        assert_eq!(begin(&mut y, Time::ZERO + secs(59)), None);
        begin(&mut y, Time::ZERO + secs(60)).unwrap();
    }

    #[test]
    fn pin_ends_when_its_own_trim_is_done() {
        let mut y = Trims::new(PIN, 0);
        assert!(y.confirm(Time::ZERO, key(0), asker(1)) && y.confirm(Time::ZERO, key(0), asker(2)));
        // Two trims rest on it; the word of a third, or of another peer, ends neither.
        y.release(key(0), ME, 3);
        y.release(key(0), Handle::MAX, 1);
        y.release(key(0), ME, 1);
        assert_eq!(begin(&mut y, Time::ZERO), None);
        y.release(key(0), ME, 2);
        begin(&mut y, Time::ZERO).unwrap();
    }

    #[test]
    fn question_without_a_pin_leaves_the_shard_free() {
        let mut y = Trims::new(PIN, 0);
        assert!(y.confirm(Time::ZERO, key(0), None));
        begin(&mut y, Time::ZERO).unwrap();
    }

    #[test]
    fn trim_needs_every_confirmation_within_half_the_pin() {
        let mut trims = Trims::new(PIN, 0);
        let both = BTreeSet::from([(key(0), ME), (key(1), ME)]);
        let number = trims.begin(Time::ZERO, key(0), ME, both).unwrap();
        assert!(trims.confirmed(Time::ZERO, key(0), ME).is_empty());
        assert_eq!(trims.confirmed(Time::ZERO, key(1), ME), [(key(0), ME, number)]);
        assert!(!trims.is_active(key(0)));
        let mut confirmed = |after: u64| {
            begin(&mut trims, Time::ZERO).unwrap();
            trims.confirmed(Time::ZERO + secs(after), key(0), ME).len()
        };
        assert_eq!((confirmed(29), confirmed(30)), (1, 0));
    }

    #[test]
    fn trim_ends_by_timeout_and_by_membership_change() {
        let mut trims = Trims::new(PIN, 0);
        begin(&mut trims, Time::ZERO).unwrap();
        assert_eq!(trims.poll_timeout(), Some(Time::ZERO + secs(30)));
        trims.handle_timeout(Time::ZERO + secs(30));
        assert!(!trims.is_active(key(0)));
        begin(&mut trims, Time::ZERO).unwrap();
        trims.give_up();
        assert!(!trims.is_active(key(0)) && trims.poll_timeout().is_none());
    }
}
