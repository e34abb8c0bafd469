//! Policies other than `successors`, and the locators they need: what a writer places by, what a client reads
//! by, and what must hold.
//!
//! * *repairs keep the policy*, always: whoever repairs or hands in puts a shard on a peer that the stripe's
//!   policy names in its own view, or on one that it counts as a holder;
//! * *readers find k shards*, where a scenario reads;
//! * in the end, see [`World::policy_problem`] and [`World::locator_problem`].
//!
//! Views differ, and runs with them, so nothing here demands that stripes lie in the runs there are in the
//! end: holders that live stay where they were placed.

use std::collections::{BTreeMap, BTreeSet};

use mutualstore_dht::custody::{Effect, Item, LOCATOR, Shape};
use mutualstore_dht::placement::{self, Placement, Roster};
use mutualstore_dht::{Contact, Id, Member, Peer, PeerState, RingView};

use super::check::{Violation, distinct};
use super::disk::{Stored, Stripe, Tenure, holders, indices};
use super::host::{Host, everybody};
use super::pick;
use super::world::{Who, World};

/// All running hosts, as one that knew all of them would see them.
pub(super) struct Whole<'a> {
    world: &'a World,
    circle: &'a BTreeMap<Id, Who>,
}

impl Whole<'_> {
    fn member(&self, who: Who) -> Option<Member> {
        Some(Member {
            peer: self.world.host(who)?.peer,
            state: self.world.state(who)?,
        })
    }
}

impl RingView for Whole<'_> {
    fn me(&self) -> Peer {
        let first = self.circle.values().next().and_then(|who| self.world.host(*who));
        first.map_or(Peer::new([0; 32]), |host| host.peer)
    }

    fn successors(&self, id: Id, limit: usize) -> Vec<Member> {
        let hosts = distinct(self.circle, id).take(limit);
        hosts.filter_map(|who| self.member(who)).collect()
    }

    fn is_alive(&self, peer: Peer) -> bool {
        let who = self.world.who(peer);
        who.is_some_and(|who| self.circle.values().any(|other| *other == who))
    }

    fn moves(&self) -> u64 {
        0
    }

    fn is_settled(&self) -> bool {
        true
    }
}

/// Writers, readers and locators.
impl World {
    /// What a host that is up says of itself.
    pub(super) fn state(&self, who: Who) -> Option<PeerState> {
        Some(self.host(who)?.ring()?.me().state)
    }

    /// Whether a host that is up takes more shards.
    pub(super) fn takes(&self, who: Who) -> bool {
        self.state(who) == Some(PeerState::Accepting)
    }

    /// Peers that a stripe's policy names in the view of one host, best first.
    pub(super) fn candidates(&self, who: Who, stripe: Id, shape: Shape, count: usize) -> Vec<Contact> {
        let Some(ring) = self.ring(who) else {
            return Vec::new();
        };
        let roster = everybody(ring);
        let peers = placement::candidates(shape.placement, stripe, shape.n, ring, &roster, count);
        let contact = |peer| ring.contact(peer).cloned();
        peers.into_iter().filter_map(contact).collect()
    }

    /// Makes the locator of a writer durable on a running host, unless that has a committed one. False: it is
    /// full.
    pub(super) fn keep_locator(
        &mut self,
        who: Who,
        stripe: Id,
        stored: Stored,
        holders: Vec<(u8, Who)>,
    ) -> bool {
        let old = self.host(who).and_then(|host| host.disk.get(&(stripe, LOCATOR)));
        let newer = old.is_some_and(|old| old.tenure == Tenure::Committed);
        newer || self.replace_locator(who, stripe, stored, holders)
    }

    pub(super) fn replace_locator(
        &mut self,
        who: Who,
        stripe: Id,
        stored: Stored,
        holders: Vec<(u8, Who)>,
    ) -> bool {
        let stored = self.store(who, (stripe, LOCATOR), stored);
        if let Some(host) = self.host_mut(who).filter(|_| stored) {
            host.locators.insert(stripe, holders);
        }
        stored
    }

    /// Holders by the numbers of their hosts.
    pub(super) fn by_number(&self, holders: &[(u8, Peer)]) -> Vec<(u8, Who)> {
        let known = holders.iter();
        known
            .filter_map(|(index, peer)| Some((*index, self.who(*peer)?)))
            .collect()
    }

    /// Some acknowledged stripe that nobody deleted.
    pub(super) fn random_stripe(&mut self) -> Option<(Id, Shape)> {
        let there = |stripe: &Stripe| stripe.acked && !stripe.deleted;
        let stripes = self.truth.stripes.iter().filter(|(_, stripe)| there(stripe));
        let stripes: Vec<(Id, Shape)> = stripes.map(|(id, stripe)| (*id, stripe.shape)).collect();
        pick(&mut self.rng, &stripes).copied()
    }

    /// A client reads an acknowledged stripe through a host.
    pub(super) fn read(&mut self, through: Who) {
        let Some((id, shape)) = self.random_stripe() else {
            return;
        };
        let Some(ring) = self.ring(through) else {
            return;
        };
        let near = ring.successors(id).take(self.setup.ring.r);
        let near = near.filter_map(|contact| self.reached(through, contact.peer));
        let near: Vec<Who> = near.collect();
        let found = self.found(id, &near);
        let found = indices(found.iter().filter(|(_, who)| self.reaches(through, *who)));
        if found.len() < usize::from(shape.k) {
            let detail = format!(
                "host {through} finds the indices {found:?} of {id:?}, {} needed, by what hosts {near:?} say",
                shape.k
            );
            self.violate(Violation::custody("readers find k shards", detail));
        }
    }

    /// Shards that are where some of these hosts say, by their own disks, their locators, or what they were
    /// told as primaries.
    fn found(&self, id: Id, near: &[Who]) -> BTreeSet<(u8, Who)> {
        let mut named: BTreeSet<(u8, Who)> = BTreeSet::new();
        for (who, host) in near.iter().filter_map(|who| Some((*who, self.host(*who)?))) {
            named.extend(host.shards(id).map(|(index, _)| (index, who)));
            named.extend(host.locators.get(&id).into_iter().flatten().copied());
            let record = host.custody().and_then(|custody| custody.stripe(id));
            let shards = record.into_iter().flat_map(|record| record.shards);
            named.extend(shards.filter_map(|shard| Some((shard.index, self.who(shard.peer)?))));
        }
        let holds = |(index, who): &(u8, Who)| {
            let host = self.running(*who);
            host.is_some_and(|host| host.disk.contains_key(&(id, *index)))
        };
        named.retain(holds);
        named
    }
}

/// What must hold.
impl World {
    /// A primary, or who takes over from one, is about to place shards.
    pub(super) fn check_choice(&mut self, who: Who, effect: &Effect) {
        let (id, targets, sources) = match effect {
            Effect::Regenerate {
                stripe,
                targets,
                sources,
                ..
            } => (*stripe, targets.clone(), sources.clone()),
            Effect::Copy {
                stripe,
                item: Item::Shard(index),
                to,
                ..
            } => (*stripe, vec![(*index, *to)], Vec::new()),
            Effect::Copy { .. }
            | Effect::Locate { .. }
            | Effect::Drop { .. }
            | Effect::Commit { .. }
            | Effect::Merge { .. }
            | Effect::Yield { .. }
            | Effect::Discover { .. } => return,
        };
        let shape = self.truth.stripes.get(&id).map(|stripe| stripe.shape);
        let Some(shape) = shape.filter(|shape| shape.placement != Placement::Successors) else {
            return;
        };
        let Some(custody) = self.custody(who) else {
            return;
        };
        let record = custody.stripe(id).into_iter().flat_map(|record| record.shards);
        let sources = sources.into_iter().map(|(_, peer)| peer);
        let holders: BTreeSet<Peer> = record.map(|shard| shard.peer).chain(sources).collect();
        let named = self.all_named(who, id, shape, &holders);
        let fits = |peer: &Peer| named.contains(peer) || holders.contains(peer);
        if let Some((index, peer)) = targets.iter().find(|(_, peer)| !fits(peer)) {
            let detail = format!(
                "host {who} places {id:?}:{index} on host {:?}; {:?} names {:?}",
                self.who(*peer),
                shape.placement,
                named.iter().map(|peer| self.who(*peer)).collect::<Vec<_>>(),
            );
            self.violate(Violation::custody("repairs keep the policy", detail));
        }
    }

    /// Whom a policy may name in the view of a host: custody may not have taken over the ring's latest view,
    /// and may go by any of those that hold shards.
    fn all_named(&self, who: Who, id: Id, shape: Shape, holders: &BTreeSet<Peer>) -> BTreeSet<Peer> {
        let Some((host, ring)) = self.host(who).and_then(|host| Some((host, host.ring()?))) else {
            return BTreeSet::new();
        };
        let latest = everybody(ring);
        let truth = self.truth.stripes.get(&id).into_iter();
        let truth = truth.flat_map(|stripe| &stripe.copies);
        let truth = truth.filter_map(|(_, who)| self.peer(*who));
        let firsts: BTreeSet<Peer> = holders.iter().copied().chain(truth).collect();
        let mut firsts: Vec<Vec<Peer>> = firsts.into_iter().map(|peer| vec![peer]).collect();
        firsts.push(Vec::new());
        let mut named = BTreeSet::new();
        for roster in host.rosters.iter().chain([&latest]) {
            for first in &firsts {
                let (policy, view) = (shape.placement, (ring, roster));
                let r = self.setup.ring.r;
                named.extend(placement::replacements(policy, id, shape.n, view, r, first));
            }
        }
        named
    }

    /// What keeps a stripe of which k indices can be reached from lying as its policy wants it in the end: n
    /// indices on n peers that stay, committed, and nowhere else, if there are so many that the policy names.
    pub(super) fn policy_problem(
        &self,
        circle: &BTreeMap<Id, Who>,
        id: Id,
        shape: Shape,
        copies: &[(u8, Who)],
    ) -> Option<String> {
        let n = usize::from(shape.n);
        let (indices, holders) = (indices(copies), holders(copies));
        let stays = |who: &&Who| self.state(**who) != Some(PeerState::Draining);
        let staying: Vec<Who> = holders.iter().filter(stays).copied().collect();
        let takers = self.takers(circle, id, shape, &staying);
        let able = takers.iter().chain(&staying).collect::<BTreeSet<_>>().len();
        let stuck = able < n || indices.len() < n && takers.is_empty();
        let well = copies.len() == n
            && indices.len() == n
            && holders.len() == n
            && staying.len() == n
            && self.committed(id, copies).count() == n;
        if !well && !stuck {
            return Some(format!(
                "stripe {id:?} lies as {copies:?}, by {:?}; hosts {takers:?} take shards",
                shape.placement
            ));
        }
        self.locator_problem(circle, id, shape)
    }

    /// Hosts that the policy names in the view of one that knows all, and that take shards.
    fn takers(&self, circle: &BTreeMap<Id, Who>, id: Id, shape: Shape, staying: &[Who]) -> Vec<Who> {
        let whole = Whole { world: self, circle };
        let roster = Roster::new(whole.successors(Id::default(), usize::MAX));
        let peers: Vec<Peer> = staying.iter().filter_map(|who| self.peer(*who)).collect();
        let r = self.setup.ring.r;
        let named = placement::replacements(shape.placement, id, shape.n, (&whole, &roster), r, &peers);
        let named = named.into_iter().filter_map(|peer| self.who(peer));
        named.filter(|who| self.takes(*who)).collect()
    }

    /// What is wrong with the locators of a stripe in the end: each of the first r peers that take shards has
    /// one, peers beyond those, or leaving, have none, and they and the primary lead to k shards.
    fn locator_problem(&self, circle: &BTreeMap<Id, Who>, id: Id, shape: Shape) -> Option<String> {
        let near: Vec<Who> = self.near(circle, id).collect();
        let has = |host: &Host| {
            let stored = host.disk.get(&(id, LOCATOR));
            host.is_running().then_some(())?;
            stored.map(|stored| stored.tenure == Tenure::Committed)
        };
        let located = self.those(|host| has(host).is_some());
        let pending = self.those(|host| has(host) == Some(false));
        let lacking = |who: &&Who| self.takes(**who) && !located.contains(who);
        let lacking: Vec<&Who> = near.iter().filter(lacking).collect();
        let fits = |who: &&Who| near.contains(who) && self.state(**who) != Some(PeerState::Draining);
        let (fit, misplaced): (Vec<Who>, Vec<Who>) = located.iter().partition(fits);
        if !lacking.is_empty() || !pending.is_empty() || !fit.is_empty() && !misplaced.is_empty() {
            return Some(format!(
                "the locator of {id:?} lies on hosts {located:?}, pending on {pending:?}, the first being \
                 {near:?}"
            ));
        }
        let found = indices(&self.found(id, &near));
        (found.len() < usize::from(shape.k))
            .then(|| format!("of {id:?} hosts {near:?} lead to the indices {found:?} alone"))
    }
}
