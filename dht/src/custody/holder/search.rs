//! The search for the holders in whose favour an excess shard may go.
//!
//! An order to trim is a hint, whoever sends it: a single member that is believed could destroy what all
//! others hold. So the holder looks for itself. It asks its own responsible set of the stripe, and the peers
//! that the order or the policy names, what they hold. Only *legal* holders count: the responsible set, and
//! under other policies than `successors` those that the policy or the primary names too. Holders that leave
//! do not count, and each counts for one index ([`Matching`]). The search succeeds when legal holders have
//! all n indices, and when the one that keeps this index precedes this peer on the ring. It need not precede
//! if this peer leaves, or holds another index of the stripe too: drains and doubled holders would wait for
//! ever.
//!
//! Only then are the holders found asked for confirmation by the safe rule ([`trim`](super::trim)). Hence a
//! liar takes one index of a stripe at most, from holders behind it: for a second one it would have to count
//! twice, for nobody else holds the first. While this peer searches it answers others as before; it refuses
//! them only while it waits for confirmations. So forged orders cannot keep it silent. After a search in
//! vain, or where confirmations fail, the next search for that shard is put off, each time for longer. All
//! that were put off begin together, so that one message asks for all. Nor can a liar have a shard dropped
//! and repaired in turns for ever: what was dropped and came back stays longer each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::custody::key::{ItemKey, Slot};
use crate::custody::matching::{Matching, by_index};
use crate::custody::message::{Holds, TrimOrder};
use crate::custody::peers::{Handle, ME};
use crate::custody::primary::reports::KnownStripe;
use crate::custody::{Custody, Item, Shape};
use crate::{Flaw, PeerState, RingView, Time};

/// The most searches at one time. The orders of one peer begin an eighth of them at most, this peer's own
/// half.
const MAX_SEARCHES: usize = 8192;
/// A peer that has not answered by then holds nothing. Until then it is asked again.
const LIMIT: Duration = Duration::from_mins(1);
/// The pause between two searches for one shard. It is doubled after each in vain, up to so many times.
const PAUSE: Duration = Duration::from_secs(5);
const DOUBLINGS: u32 = 3;
/// The most peers remembered for having denied one shard's trim. Beyond, all are asked anew.
const MAX_DENIERS: usize = 16;
/// After a shard was dropped and came back the pause doubles up to so many times: an hour and a half.
const MOST_DOUBLINGS: u32 = 10;

/// One search under way.
#[derive(Debug)]
struct Search {
    begun: Time,
    ordered: Handle,
    waiting: BTreeSet<Handle>,
    answered: BTreeSet<Handle>,
    held: BTreeSet<(u8, Handle)>,
    /// The holders that the stripe's primary names, where its id does not tell them.
    reported: BTreeSet<Handle>,
}

/// Why no new search for a shard begins.
#[derive(Debug, Default)]
struct Pause {
    /// No search begins before this.
    until: Time,
    /// How often searches were in vain, at most the number of doublings.
    vain: u32,
    /// How often the shard was dropped, at most the number of doublings.
    dropped: u32,
    /// Peers that did not confirm for this shard: perhaps they trim too. Others are preferred next time, or
    /// two that trim in each other's favour would deny each other for ever.
    deniers: BTreeSet<Handle>,
}

impl Pause {
    fn longest(&self) -> Duration {
        PAUSE * 2u32.pow(self.dropped.max(DOUBLINGS))
    }
}

/// Searches under way, and shards for which one was in vain lately.
#[derive(Debug, Default)]
pub(super) struct Searches {
    open: BTreeMap<ItemKey, Search>,
    begun: BTreeSet<(Time, ItemKey)>,
    /// How many searches each peer's orders began.
    ordered: BTreeMap<Handle, usize>,
    pauses: BTreeMap<ItemKey, Pause>,
    pruned: Time,
}

impl Searches {
    fn end(&mut self, key: ItemKey) -> Option<Search> {
        let search = self.open.remove(&key)?;
        self.begun.remove(&(search.begun, key));
        if let Some(count) = self.ordered.get_mut(&search.ordered) {
            *count -= 1;
            if *count == 0 {
                self.ordered.remove(&search.ordered);
            }
        }
        Some(search)
    }

    fn resume(&mut self, key: ItemKey, search: Search) {
        self.begun.insert((search.begun, key));
        *self.ordered.entry(search.ordered).or_default() += 1;
        self.open.insert(key, search);
    }

    fn may_begin(&self, now: Time, key: ItemKey, ordered: Handle) -> bool {
        let most = if ordered == ME {
            MAX_SEARCHES / 2
        } else {
            MAX_SEARCHES / 8
        };
        let paused = self.pauses.get(&key).is_some_and(|pause| now < pause.until);
        !paused
            && !self.open.contains_key(&key)
            && self.open.len() < MAX_SEARCHES
            && self.ordered.get(&ordered).is_none_or(|count| *count < most)
    }

    /// A search was in vain: the next one for this shard waits, longer each time, until a moment that it
    /// shares with others.
    fn pause(&mut self, now: Time, key: ItemKey) {
        let pause = self.pauses.entry(key).or_default();
        let span = PAUSE * 2u32.pow(pause.vain);
        pause.vain = (pause.vain + 1).min(DOUBLINGS);
        let late = now.as_micros() % u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        pause.until = pause
            .until
            .max(now + span.saturating_sub(Duration::from_micros(late)));
    }

    /// `peer` did not confirm for the trim of a shard.
    pub(super) fn denied(&mut self, now: Time, key: ItemKey, peer: Handle) {
        self.pause(now, key);
        let deniers = &mut self.pauses.entry(key).or_default().deniers;
        if deniers.len() >= MAX_DENIERS {
            deniers.clear();
        }
        deniers.insert(peer);
    }

    fn has_denied(&self, key: ItemKey, peer: Handle) -> bool {
        let pause = self.pauses.get(&key);
        pause.is_some_and(|pause| pause.deniers.contains(&peer))
    }

    /// A shard was dropped as excess. Should it come back, the peer that ordered it may have lied: it stays
    /// longer each time.
    pub(super) fn dropped(&mut self, now: Time, key: ItemKey) {
        let pause = self.pauses.entry(key).or_default();
        pause.dropped = (pause.dropped + 1).min(MOST_DOUBLINGS);
        pause.until = now + pause.longest();
    }

    /// The shard is gone.
    pub(super) fn forget(&mut self, key: ItemKey) {
        self.end(key);
    }

    /// The next search whose time is over: it waits for nobody from then on.
    fn pop_due(&mut self, now: Time) -> Option<ItemKey> {
        let (begun, key) = self.begun.first().copied()?;
        if begun + LIMIT > now {
            return None;
        }
        let search = self.open.get_mut(&key)?;
        search.waiting.clear();
        Some(key)
    }

    fn prune(&mut self, now: Time) {
        if now >= self.pruned + PAUSE {
            self.pruned = now;
            self.pauses.retain(|_, pause| now < pause.until + pause.longest());
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.begun.first().map(|(begun, _)| *begun + LIMIT)
    }
}

impl Custody {
    /// Ends the searches that took long enough.
    pub(super) fn handle_searches(&mut self, now: Time, ring: &impl RingView) {
        while let Some(key) = self.holder.searches.pop_due(now) {
            self.conclude_search(now, ring, key);
        }
        self.holder.searches.prune(now);
    }

    /// An order says that a shard held here is in excess. Asks those that may hold the stripe what they hold.
    pub(super) fn search(
        &mut self,
        now: Time,
        ring: &impl RingView,
        (key, shape): (ItemKey, Shape),
        ordered: Handle,
        order: &TrimOrder,
    ) {
        if !self.holder.searches.may_begin(now, key, ordered) {
            return;
        }
        let responsible = self.responsible(now, ring, key.slot);
        let policy_peers = self.policy_peers(now, ring, key.slot, shape, &[ME]);
        let mut asked: BTreeSet<Handle> = responsible
            .iter()
            .chain(&policy_peers)
            .map(|(peer, _)| *peer)
            .collect();
        let by_order = order.others.iter().map(|(_, peer)| *peer).chain([order.keep]);
        for peer in by_order.collect::<Vec<_>>() {
            if let Some(peer) = self.intern_alive(now, ring, peer) {
                asked.insert(peer);
            } else {
                self.discover(now, order.stripe);
                // The peer may be anywhere: the ring finds it only by getting to know all.
                self.rosters.need(shape.placement.needs_locators());
            }
        }
        let primary = responsible.first().is_some_and(|(primary, _)| *primary == ME);
        let reported: BTreeSet<Handle> = if primary && shape.placement.needs_locators() {
            let known = self.primary.known(key.slot).into_iter();
            known.flat_map(KnownStripe::shard_holders).collect()
        } else {
            BTreeSet::new()
        };
        asked.extend(&reported);
        asked.remove(&ME);
        asked.retain(|peer| self.peers.is_alive(*peer));
        let search = Search {
            begun: now,
            ordered,
            waiting: asked.clone(),
            answered: BTreeSet::new(),
            held: BTreeSet::new(),
            reported,
        };
        self.holder.searches.resume(key, search);
        for peer in asked {
            self.peers.get_mut(peer).outbox.held(key.slot.stripe);
            self.peers.arm(peer);
        }
        self.conclude_search(now, ring, key);
    }

    /// A peer said what it holds of a stripe, or did not answer.
    pub(in crate::custody) fn handle_search_answer(
        &mut self,
        now: Time,
        ring: &impl RingView,
        from: Handle,
        slot: Slot,
        holds: Option<&Holds>,
    ) {
        let first = ItemKey {
            slot,
            item: Item::FIRST,
        };
        let last = ItemKey {
            slot,
            item: Item::LAST,
        };
        let open = self.holder.searches.open.range(first..=last);
        let waiting = open.filter(|(_, search)| search.waiting.contains(&from));
        let keys: Vec<ItemKey> = waiting.map(|(key, _)| *key).collect();
        if keys.is_empty() {
            return;
        }
        let primary = self
            .responsible(now, ring, slot)
            .first()
            .map(|(primary, _)| *primary);
        let reported = holds.filter(|_| primary == Some(from)).into_iter();
        let reported = reported
            .flat_map(|holds| &holds.reported)
            .filter(|peer| **peer != ring.me());
        let reported: BTreeSet<Handle> = reported
            .filter_map(|peer| self.intern_alive(now, ring, *peer))
            .collect();
        for key in keys {
            let Some(search) = self.holder.searches.open.get_mut(&key) else {
                continue;
            };
            if holds.is_none() && self.peers.is_alive(from) && now < search.begun + LIMIT {
                self.peers.get_mut(from).outbox.held(slot.stripe);
                self.peers.arm(from);
                continue;
            }
            search.waiting.remove(&from);
            search.answered.insert(from);
            let items = holds.into_iter().flat_map(|holds| &holds.items);
            let shards = items.filter_map(|item| item.shard());
            search.held.extend(shards.map(|index| (index, from)));
            search.reported.extend(&reported);
            let more: Vec<Handle> = reported.difference(&search.answered).copied().collect();
            for peer in more {
                if search.waiting.insert(peer) {
                    self.peers.get_mut(peer).outbox.held(slot.stripe);
                    self.peers.arm(peer);
                }
            }
            self.conclude_search(now, ring, key);
        }
    }

    /// Ends a search once the holders found suffice and none of them has denied it before, or when it waits
    /// for nobody. Then they are asked to confirm, or it was in vain.
    fn conclude_search(&mut self, now: Time, ring: &impl RingView, key: ItemKey) {
        let held = self
            .holder
            .inventory
            .shards
            .get(&key)
            .filter(|held| held.is_committed());
        let shape = held.map(|held| held.shape);
        let (Some(search), Some(shape)) = (self.holder.searches.end(key), shape) else {
            return;
        };
        let n = usize::from(shape.n);
        let keepers = if search.held.len() + 1 >= n {
            self.legal_keepers(now, ring, (key, shape), &search)
        } else {
            BTreeMap::new()
        };
        let unblamed = |peer: &Handle| !self.holder.searches.has_denied(key, *peer);
        let suffice = keepers.len() >= n && keepers.values().all(unblamed);
        if !suffice && !search.waiting.is_empty() {
            self.holder.searches.resume(key, search);
        } else if keepers.len() < n || !self.begin_trim(now, key, &keepers) {
            self.holder.searches.pause(now, key);
        }
    }

    /// The legal holders among those found, matched with the indices of the stripe.
    fn legal_keepers(
        &mut self,
        now: Time,
        ring: &impl RingView,
        (key, shape): (ItemKey, Shape),
        search: &Search,
    ) -> BTreeMap<u8, Handle> {
        let responsible = self.responsible(now, ring, key.slot);
        let policy_peers = self.policy_peers(now, ring, key.slot, shape, &[ME]);
        let scattered = shape.placement.needs_locators();
        let listed =
            |peer: Handle, list: &[(Handle, PeerState)]| list.iter().any(|(other, _)| *other == peer);
        let legal = |peer: Handle| {
            peer == ME
                || listed(peer, &responsible)
                || scattered && (listed(peer, &policy_peers) || search.reported.contains(&peer))
                || self.config.has(Flaw::TrimForStrangers)
        };
        let leaves = |peer: Handle| self.peers.get(peer).state == PeerState::Draining;
        let position = |peer: Handle| {
            let mut first = responsible.iter().map(|(member, _)| *member);
            first.position(|member| member == peer).unwrap_or(usize::MAX)
        };
        let own = self.keys_of(key.slot.stripe).into_iter();
        let own = own.filter(|other| *other != key && self.may_confirm(*other));
        let own: Vec<(u8, Handle)> = own.filter_map(|other| Some((other.item.shard()?, ME))).collect();
        let anyone = scattered || leaves(ME) || !own.is_empty() || self.config.has(Flaw::TrimForThoseBehind);
        // Whether they live is no matter of safety, for the dead confirm nothing. The search goes on instead.
        let counts = |(index, peer): &(u8, Handle)| {
            legal(*peer)
                && (!leaves(*peer) || self.config.has(Flaw::TrimForLeavers))
                && self.peers.is_alive(*peer)
                && (Item::Shard(*index) != key.item || anyone || position(*peer) < position(ME))
        };
        let held: Vec<(u8, Handle)> = search.held.iter().chain(&own).copied().filter(counts).collect();
        let holders = by_index(shape.n, &held.iter().copied(), |peer| {
            (self.holder.searches.has_denied(key, peer), position(peer), peer)
        });
        if self.config.has(Flaw::TrimForOne) {
            let first = holders
                .iter()
                .filter_map(|(index, peers)| Some((*index, *peers.first()?)));
            return first.collect();
        }
        Matching::of(&holders).pairs()
    }
}
